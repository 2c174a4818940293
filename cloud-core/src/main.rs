//! The binary `cloud-core`: see `cloud-core --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    end_on_panic();
    cloud_core::cli::run()
}

/// A panic ends the process, which recovers from disk at its next start. One thread alone may die by itself: the
/// router of the feed, which carries nothing that anybody was promised.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if !std::thread::current().name().is_some_and(|name| name.starts_with("router-")) {
            std::process::abort();
        }
    }));
}
