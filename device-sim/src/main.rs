//! The binary `device-sim`: see `device-sim --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    device_sim::cli::run(std::env::args_os())
}
