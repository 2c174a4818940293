//! Measurements of the real parts, each beside a plain yardstick in the same run.
//!
//! ```text
//! cargo build --release -p cloud-core -p edge-agent
//! cargo run --release -p device-sim -- bench            all but the long ones; also: bench ledger | lane | payments | latency |
//!                                                       connections | agent | restart | history | everything, --json
//! ```
//!
//! A figure alone says more about the machine than about the program. So where there is something plain to compare
//! with (a bare loop that writes and syncs, mosquitto with the same generator), it stands beside, the two are measured
//! in alternation, and what is compared is the median of the rounds. What takes long (overload, history) is played
//! once. Nothing here ever fails because it was slow.

mod agent;
mod connections;
mod history;
mod lane;
mod latency;
mod ledger;
mod machine;
mod payments;
mod pipeline;
mod postgres;
mod report;
mod restart;
mod shop;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use machine::Machine;
use report::Report;

use crate::processes::own_directory;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Rounds of each; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99), global = true)]
    rounds: u32,
    /// Figures as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Where to write; a new directory in it is removed at the end. It should be on the disk that matters: on a
    /// memory file system a sync costs nothing. Default: beside this program.
    #[arg(long, value_name = "DIR", global = true)]
    directory: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum What {
    /// Transfers per second of ledger and journal, beside a bare loop that appends and syncs as many bytes, and PostgreSQL.
    Ledger,
    /// Promises per second of `cloud-core serve`, beside the relay rates of mosquitto and rumqttd.
    Lane,
    /// Whole chip payments per second, how soon the device hears, and overload; beside mosquitto with the same clients.
    Payments,
    /// From PUBLISH to PUBACK at 2,000 a second, beside mosquitto's relay and a sync of the disk.
    Latency,
    /// Memory of an idle connection and connects per second, plain and with mutual TLS, beside mosquitto.
    Connections,
    /// How soon `edge-agent` is connected, and how much memory it takes.
    Agent,
    /// How soon a core is ready again, on a long journal, and events replayed per second. Only by name, or in `everything`:
    /// minutes, and gigabytes of disk.
    Restart {
        /// How long the journal is at least: it ends where the next snapshot is due.
        #[arg(long, default_value_t = EVENTS)]
        events: u64,
    },
    /// Resident memory after a third of many payments and after all of them, and how soon an old one is found. Only
    /// by name, or in `everything`: 3,000,000 payments take some 20 GB of disk, and half an hour.
    History {
        /// Finished payments at the end.
        #[arg(long, default_value_t = PAYMENTS, value_parser = clap::value_parser!(u64).range(300..))]
        payments: u64,
    },
    /// All of these in one run, the long ones too: about an hour, and 20 GB of disk.
    Everything,
}

/// A journal that is long enough for the default snapshot policy to matter.
const EVENTS: u64 = 10_000_000;
const PAYMENTS: u64 = 3_000_000;

/// What all measurements need.
struct Setting {
    rounds: u32,
    directory: PathBuf,
}

/// Measures and prints.
///
/// # Errors
/// A program is missing or ends, or the disk fails.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    let parent = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => own_directory()?,
    };
    let directory = parent.join(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("make {}: choose another place with --directory", directory.display()))?;
    let setting = Setting { rounds: arguments.rounds, directory };
    let measured = measure(arguments.what, &setting);
    let removed = std::fs::remove_dir_all(&setting.directory);
    measured?.print(arguments.json)?;
    removed.with_context(|| format!("remove {}", setting.directory.display()))
}

fn measure(what: Option<What>, setting: &Setting) -> anyhow::Result<Report> {
    let wanted = |one| what.is_none_or(|what| what == one || what == What::Everything);
    let mut report = Report::of(Machine::of(&setting.directory)?);
    // First: it measures the memory of this process, in which nothing has been yet. And only if it is asked for, as are
    // restarts: they take minutes and gigabytes.
    match what {
        Some(What::History { payments }) => history::measure(setting, payments, &mut report)?,
        Some(What::Everything) => history::measure(setting, PAYMENTS, &mut report)?,
        _ => {}
    }
    if wanted(What::Ledger) {
        ledger::measure(setting, &mut report)?;
        postgres::measure(setting, &mut report)?;
    }
    if wanted(What::Lane) {
        lane::measure(setting, &mut report)?;
    }
    if wanted(What::Payments) {
        payments::measure(setting, &mut report)?;
    }
    if wanted(What::Latency) {
        latency::measure(setting, &mut report)?;
    }
    if wanted(What::Connections) {
        connections::measure(setting, &mut report)?;
    }
    if wanted(What::Agent) {
        agent::measure(setting, &mut report)?;
    }
    match what {
        Some(What::Restart { events }) => restart::measure(setting, events, &mut report)?,
        Some(What::Everything) => restart::measure(setting, EVENTS, &mut report)?,
        _ => {}
    }
    Ok(report)
}
