//! `broker`: administration of the broker that a cloud core embeds.

use std::io::Write;
use std::process::ExitCode;

use broker::cli::{Cli, is_closed_output};
use clap::Parser;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "broker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
