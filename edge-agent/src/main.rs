//! The Linux edge agent: MQTT, hardware drivers, command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_agent::cli::main(std::env::args_os())
}
