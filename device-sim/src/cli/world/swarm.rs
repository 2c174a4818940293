//! Many worlds, several at a time, and what they showed together.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::bail;

use super::Many;
use crate::world::{self, Coverage, Failure, Options, Report};

/// Failures that a swarm lists before it stops all the same.
const FAILURES_MAX: usize = 50;
/// Worlds that making the first failure small may take.
const SHRINK_RUNS_MAX: u64 = 200;
/// Empty cells of the coverage table that are named.
const EMPTY_NAMED_MAX: usize = 12;

/// Of outcomes may be left undecided, in hundredths of a percent, once so many were judged (correctness.md 22).
const EITHER_SHARE_MAX: u64 = 200;
const EITHER_JUDGED_FROM: u64 = 500;

/// What all worlds showed together.
#[derive(Default)]
struct Sum {
    worlds: u64,
    payments: u64,
    steps: u64,
    either: BTreeMap<&'static str, u64>,
    rows: BTreeMap<&'static str, u64>,
    coverage: Coverage,
    failures: BTreeMap<u64, Failure>,
}

impl Sum {
    fn add(&mut self, seed: u64, report: Option<Report>, failure: Option<Failure>) {
        self.worlds += 1;
        if let Some(failure) = failure {
            self.failures.insert(seed, failure);
        }
        let Some(report) = report else { return };
        self.payments += report.payments;
        self.steps += report.steps;
        self.coverage.add(&report.coverage);
        for (row, count) in report.rows {
            *self.rows.entry(row).or_default() += count;
        }
        for (why, count) in report.either {
            *self.either.entry(why).or_default() += count;
        }
    }

    fn judged(&self) -> u64 {
        self.rows.values().sum()
    }

    /// In hundredths of a percent.
    fn either_share(&self) -> u64 {
        self.either.values().sum::<u64>() * 10_000 / self.judged().max(1)
    }
}

pub(super) fn swarm(many: &Many, options: &Options, keep_going: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let bar = many.progress();
    let (from, to) = many.seeds;
    let (next, stop, sum) = (AtomicU64::new(from), AtomicBool::new(false), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..many.jobs() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        break;
                    }
                    let (report, failure) = world::attempt(seed, options, false);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.add(seed, report, failure);
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
    print_sum(&sum, options, begun.elapsed().as_millis())?;
    print_failures(&sum, options)?;
    let (judged, share) = (sum.judged(), sum.either_share());
    if judged >= EITHER_JUDGED_FROM && share > EITHER_SHARE_MAX {
        bail!("the auditor left too much undecided: at most 2% of outcomes may be `either`");
    }
    Ok(())
}

fn print_sum(sum: &Sum, options: &Options, took_ms: u128) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", sum.coverage)?;
    print_empty(&mut out, &sum.coverage)?;
    writeln!(out, "{:<24} payments", "row")?;
    for (row, count) in &sum.rows {
        writeln!(out, "{row:<24} {count}")?;
    }
    writeln!(
        out,
        "\neither: {} of {} outcomes ({}.{:02}%)",
        sum.either.values().sum::<u64>(),
        sum.judged(),
        sum.either_share() / 100,
        sum.either_share() % 100
    )?;
    for (why, count) in &sum.either {
        writeln!(out, "  {why}: {count}")?;
    }
    let rate = u128::from(sum.worlds) * 1000 / took_ms.max(1);
    writeln!(
        out,
        "{} worlds{options}, {} payments, {} happenings in {}.{:03} s: {rate} worlds/s",
        sum.worlds,
        sum.payments,
        sum.steps,
        took_ms / 1000,
        took_ms % 1000
    )?;
    Ok(())
}

fn print_empty(out: &mut impl Write, coverage: &Coverage) -> anyhow::Result<()> {
    let empty = coverage.empty();
    let named: Vec<String> = empty
        .iter()
        .take(EMPTY_NAMED_MAX)
        .map(|(fault, state)| format!("{} x {}", fault.as_str(), state.as_str()))
        .collect();
    let more = match empty.len().saturating_sub(named.len()) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let named = if named.is_empty() { String::new() } else { format!(": {}{more}", named.join(", ")) };
    writeln!(out, "{} of {} cells are empty{named}\n", empty.len(), Coverage::cells())?;
    Ok(())
}

/// All failures with the commands that repeat them; the first one made small.
fn print_failures(sum: &Sum, options: &Options) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (seed, failure) in &sum.failures {
        writeln!(out, "seed {seed}: {failure}\n  repeat: device-sim world run --seed {seed}{options}")?;
    }
    let Some((seed, _)) = sum.failures.first_key_value() else { return Ok(()) };
    writeln!(out, "making seed {seed} small, in at most {SHRINK_RUNS_MAX} worlds ...")?;
    match world::shrink(*seed, options, SHRINK_RUNS_MAX) {
        None => writeln!(out, "seed {seed} fails no more: something is not deterministic")?,
        Some(small) => {
            writeln!(out, "  from {}", small.before)?;
            writeln!(out, "    to {}, in {} worlds", small.after, small.runs)?;
            let left: Vec<&str> = small.after.faults.iter().map(|fault| fault.as_str()).collect();
            writeln!(out, "  left: {}", left.join(", "))?;
            writeln!(out, "  {}", small.failure)?;
            writeln!(out, "  repeat: device-sim world run --seed {seed}{}", small.options)?;
        }
    }
    bail!("{} of {} worlds broke a rule", sum.failures.len(), sum.worlds)
}
