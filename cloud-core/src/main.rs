//! The binary `cloud-core`: see `cloud-core --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloud_core::cli::run()
}
