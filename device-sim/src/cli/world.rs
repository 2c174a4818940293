//! `device-sim world`: one world to look at, or a swarm of them.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::world::{self, Coverage, Report};

/// Failures that a swarm lists before it stops all the same.
const FAILURES_MAX: usize = 50;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Run the world of one seed and print what happened.
    Run {
        /// Which world.
        #[arg(long)]
        seed: u64,
        /// Write the trace there too, one JSON object per line.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Print the end only.
        #[arg(long)]
        quiet: bool,
    },
    /// Run the worlds of many seeds; ends with exit code 1 at the first rule that does not hold.
    Swarm {
        /// First seed and the one after the last: 0..10000.
        #[arg(long, value_name = "FROM..TO", value_parser = parse_seeds)]
        seeds: (u64, u64),
        /// Go on after a failure and list them all.
        #[arg(long)]
        keep_going: bool,
        /// How many worlds at a time; one per processor by default.
        #[arg(long)]
        jobs: Option<usize>,
    },
}

pub(super) fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { seed, json, quiet } => run(seed, json, quiet),
        Command::Swarm { seeds: (from, to), keep_going, jobs } => swarm(from, to, keep_going, jobs),
    }
}

fn run(seed: u64, json: Option<PathBuf>, quiet: bool) -> anyhow::Result<()> {
    let report = world::run(seed, true);
    let mut out = std::io::stdout().lock();
    if !quiet {
        write!(out, "{}", report.trace)?;
    }
    if let Some(path) = json {
        let mut lines = String::new();
        for line in report.trace.lines() {
            lines.push_str(&serde_json::to_string(line)?);
            lines.push('\n');
        }
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

/// What all worlds showed together.
#[derive(Default)]
struct Sum {
    worlds: u64,
    payments: u64,
    steps: u64,
    either: u64,
    rows: BTreeMap<&'static str, u64>,
    coverage: Coverage,
    failures: BTreeMap<u64, String>,
}

impl Sum {
    fn add(&mut self, seed: u64, result: Result<Report, String>) {
        self.worlds += 1;
        let report = match result {
            Ok(report) => report,
            Err(panic) => {
                self.failures.insert(seed, format!("panicked: {panic}"));
                return;
            }
        };
        self.payments += report.payments;
        self.steps += report.steps;
        self.either += report.either;
        self.coverage.add(&report.coverage);
        for (row, count) in report.rows {
            *self.rows.entry(row).or_default() += count;
        }
        if let Some(violation) = report.violation {
            self.failures.insert(seed, violation.to_string());
        }
    }
}

fn swarm(from: u64, to: u64, keep_going: bool, jobs: Option<usize>) -> anyhow::Result<()> {
    let begun = Instant::now();
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(to - from), target);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos}/{len} worlds  {per_sec}  {eta} left  {msg}")
    {
        bar.set_style(style);
    }
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let (next, stop, sum) = (AtomicU64::new(from), AtomicBool::new(false), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        break;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| world::run(seed, false)));
                    let result = result.map_err(|panic| panic_text(panic.as_ref()));
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.add(seed, result);
                    bar.inc(1);
                    let failures = sum.failures.len();
                    if failures > 0 {
                        bar.set_message(format!("{failures} failed"));
                    }
                    if failures >= FAILURES_MAX || (failures > 0 && !keep_going) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    print_sum(&sum, begun.elapsed().as_millis())
}

fn print_sum(sum: &Sum, took_ms: u128) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", sum.coverage)?;
    writeln!(out, "{:<24} payments", "row")?;
    for (row, count) in &sum.rows {
        writeln!(out, "{row:<24} {count}")?;
    }
    let judged: u64 = sum.rows.values().sum();
    let hundredths = sum.either * 10_000 / judged.max(1);
    writeln!(
        out,
        "either: {} of {judged} outcomes ({}.{:02}%)",
        sum.either,
        hundredths / 100,
        hundredths % 100
    )?;
    let rate = u128::from(sum.worlds) * 1000 / took_ms.max(1);
    writeln!(
        out,
        "{} worlds, {} payments, {} happenings in {}.{:03} s: {rate} worlds/s",
        sum.worlds,
        sum.payments,
        sum.steps,
        took_ms / 1000,
        took_ms % 1000
    )?;
    for (seed, failure) in &sum.failures {
        writeln!(out, "seed {seed}: {failure}\n  repeat: device-sim world run --seed {seed}")?;
    }
    if sum.failures.is_empty() {
        Ok(())
    } else {
        bail!("{} of {} worlds broke a rule", sum.failures.len(), sum.worlds)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text").to_owned()
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
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
