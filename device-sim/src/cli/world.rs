//! `device-sim world`: one world to look at, a swarm of them, and the same world again.

mod again;
mod step;
mod swarm;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::world::{self, Fault, Options};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Run the world of one seed and print what happened.
    Run {
        /// Which world.
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        less: Less,
        /// Write the trace there too, for `replay`: a line with seed and options, then one JSON object per line.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Print the end only.
        #[arg(long)]
        quiet: bool,
    },
    /// Run the worlds of many seeds; ends with exit code 1 at the first rule that does not hold, made small.
    Swarm {
        #[command(flatten)]
        many: Many,
        #[command(flatten)]
        less: Less,
        /// Go on after a failure and list them all.
        #[arg(long)]
        keep_going: bool,
    },
    /// Run a world again that `run --json FILE` wrote; the first line that differs is named, with exit code 1.
    Replay {
        /// The trace.
        file: PathBuf,
    },
    /// Walk through the world of one seed, happening by happening. Commands are read from stdin; `h` lists them.
    Step {
        /// Which world.
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        less: Less,
    },
    /// Run each world twice: the traces must be the same to the byte.
    Meta {
        #[command(flatten)]
        many: Many,
    },
    /// Deliberate faults, and the worlds that catch them.
    #[cfg(feature = "mutants")]
    Mutants(super::mutants::Arguments),
}

/// Which worlds, and how many at a time.
#[derive(Debug, clap::Args)]
pub(super) struct Many {
    /// First seed and the one after the last: 0..10000.
    #[arg(long, value_name = "FROM..TO", value_parser = parse_seeds)]
    seeds: (u64, u64),
    /// How many worlds at a time; one per processor by default.
    #[arg(long)]
    jobs: Option<usize>,
}

impl Many {
    fn jobs(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or_else(processors).max(1)
    }

    /// Shown where somebody looks.
    fn progress(&self) -> ProgressBar {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(self.seeds.1 - self.seeds.0), target);
        let style = "{bar:40} {pos}/{len} worlds  {per_sec}  {eta} left  {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar
    }
}

/// What is taken away from a world.
#[derive(Debug, clap::Args)]
pub(super) struct Less {
    /// Faults that do not strike, by their names in the coverage table.
    #[arg(long, value_name = "FAULT,FAULT", value_delimiter = ',')]
    without: Vec<Fault>,
    /// Only these faults strike.
    #[arg(long, value_name = "FAULT,FAULT", value_delimiter = ',', conflicts_with = "without")]
    only: Vec<Fault>,
    /// Only the first so many purchases.
    #[arg(long)]
    purchases: Option<u64>,
    /// The faults end at this virtual millisecond, if not before.
    #[arg(long = "faults-end", value_name = "MS")]
    faults_end_ms: Option<u64>,
    /// Pretend that this fault breaks a rule when it strikes: to see how a failing world is made small.
    #[arg(long, value_name = "FAULT")]
    fail_on: Option<Fault>,
}

impl Less {
    fn options(self) -> Options {
        let others = || Fault::ALL.iter().copied().filter(|fault| !self.only.contains(fault));
        let without = if self.only.is_empty() { self.without.clone() } else { others().collect() };
        Options {
            without: without.into_iter().collect(),
            purchases: self.purchases,
            faults_end_ms: self.faults_end_ms,
            fail_on: self.fail_on,
        }
    }
}

pub(super) fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { seed, less, json, quiet } => run(seed, &less.options(), json, quiet),
        Command::Swarm { many, less, keep_going } => swarm::swarm(&many, &less.options(), keep_going),
        Command::Replay { file } => again::replay(&file),
        Command::Step { seed, less } => step::step(seed, &less.options()),
        Command::Meta { many } => again::meta(&many),
        #[cfg(feature = "mutants")]
        Command::Mutants(arguments) => super::mutants::execute(&arguments),
    }
}

fn run(seed: u64, options: &Options, json: Option<PathBuf>, quiet: bool) -> anyhow::Result<()> {
    let report = world::run_with(seed, options, true);
    let mut out = std::io::stdout().lock();
    if !quiet {
        write!(out, "{}", report.trace)?;
    }
    if let Some(path) = json {
        let lines = again::as_json(seed, options, &report.trace)?;
        std::fs::write(&path, lines).with_context(|| format!("write the trace to {}", path.display()))?;
    }
    writeln!(
        out,
        "seed {seed}: {} payments, {} happenings, {} s of virtual time",
        report.payments,
        report.steps,
        report.virtual_ms / 1000
    )?;
    for (row, count) in &report.rows {
        writeln!(out, "  {row:<24} {count}")?;
    }
    match report.violation {
        None => Ok(()),
        Some(violation) => bail!("{violation}"),
    }
}

pub(super) fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    parsed.filter(|(from, to)| from < to).ok_or_else(|| "write FROM..TO, for instance 0..10000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_parsed_or_explained() {
        assert_eq!(parse_seeds("3..10"), Ok((3, 10)));
        for wrong in ["3", "10..3", "a..b", ""] {
            assert!(parse_seeds(wrong).unwrap_err().contains("0..10000"), "{wrong}");
        }
    }
}
