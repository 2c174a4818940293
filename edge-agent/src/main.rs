//! The Linux edge agent: MQTT, hardware drivers, command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    end_on_panic();
    edge_agent::cli::main(std::env::args_os())
}

/// A panic ends the process, which recovers from disk at its next start.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
