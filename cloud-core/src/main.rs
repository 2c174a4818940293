//! The binary `cloud-core`: see `cloud-core --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    end_on_panic();
    cloud_core::cli::run()
}

/// A panic ends the process, which recovers from disk at its next start. Two may die by themselves: the router of the
/// feed, which carries nothing that anybody was promised, and the index of payments with the threads of its database,
/// which is built again from the journal.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let thread = std::thread::current();
        let may_die = |name: &str| {
            name.starts_with("router-") || name == cloud_core::history::THREAD || name.starts_with("sled-")
        };
        if !thread.name().is_some_and(may_die) {
            std::process::abort();
        }
    }));
}
