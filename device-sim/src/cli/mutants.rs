//! `device-sim world mutants`: the table of deliberate faults and the worlds that caught them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use schemas_mutants::Mutant;
use serde_json::json;

use crate::world::mutants::{Hunt, hunt, run_with};

/// Switch on one deliberate fault at a time and show that the worlds catch each; exit code 1 if one is not caught.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only this fault. May be repeated.
    #[arg(long, value_name = "NAME", value_parser = parse_mutant)]
    only: Vec<Mutant>,
    /// The first seed and the one after the last: a fault that none of these worlds catches is not caught.
    #[arg(long, value_name = "FROM..TO", default_value = "0..20000", value_parser = super::world::parse_seeds)]
    seeds: (u64, u64),
    /// How many faults at a time; one per processor by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// Write the table there too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print what happened in the world that caught the fault. Wants exactly one `--only`.
    #[arg(long)]
    trace: bool,
}

pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    let (from, to) = arguments.seeds;
    if arguments.trace && arguments.only.len() != 1 {
        bail!("--trace shows one world: name one fault with --only");
    }
    let mutants = if arguments.only.is_empty() { Mutant::ALL } else { &arguments.only };
    let hunts = hunt_all(mutants, from..to, arguments.jobs);
    let mut out = std::io::stdout().lock();
    if let (true, Some(caught)) = (arguments.trace, hunts.first().and_then(|hunt| hunt.caught.as_ref())) {
        match run_with(hunts[0].mutant, caught.seed, true) {
            Ok(report) => write!(out, "{}", report.trace)?,
            Err(panic) => writeln!(out, "panicked: {panic}")?,
        }
    }
    out.write_all(table(&hunts).as_bytes())?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&as_json(&hunts))?;
        std::fs::write(path, text).with_context(|| format!("write the table to {}", path.display()))?;
    }
    let unsound: BTreeSet<u64> = hunts.iter().flat_map(|hunt| hunt.unsound.iter().copied()).collect();
    if let Some(seed) = unsound.first() {
        bail!(
            "seed {seed} breaks a rule without any fault: look at `device-sim world run --seed {seed}` first"
        );
    }
    let missed: Vec<_> =
        hunts.iter().filter(|hunt| hunt.caught.is_none()).map(|hunt| hunt.mutant.as_str()).collect();
    if missed.is_empty() {
        return Ok(());
    }
    bail!("{} of {} faults were not caught: {}", missed.len(), hunts.len(), missed.join(", "))
}

/// Each fault has its worlds on one thread, so that the first seed that catches it is always the same.
fn hunt_all(mutants: &[Mutant], seeds: std::ops::Range<u64>, jobs: Option<usize>) -> Vec<Hunt> {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(mutants.len() as u64), target);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos}/{len} faults caught or missed  {elapsed}  {msg}")
    {
        bar.set_style(style);
    }
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let (next, worlds) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let hunts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let hunt = hunt(*mutant, seeds.clone(), || {
                        let worlds = worlds.fetch_add(1, Ordering::Relaxed) + 1;
                        bar.set_message(format!("{worlds} worlds"));
                    });
                    bar.inc(1);
                    hunts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(hunt);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut hunts = hunts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    hunts.sort_by_key(|hunt| mutants.iter().position(|mutant| *mutant == hunt.mutant));
    hunts
}

fn repeat(hunt: &Hunt) -> Option<String> {
    let seed = hunt.caught.as_ref()?.seed;
    Some(format!("device-sim world mutants --trace --only {} --seeds {seed}..{}", hunt.mutant, seed + 1))
}

fn table(hunts: &[Hunt]) -> String {
    let mut text = format!("{:<26} {:>6}  {:<30} what is wrong\n", "fault", "seeds", "caught by");
    for hunt in hunts {
        let rule = hunt.caught.as_ref().map_or("NOT CAUGHT", |caught| caught.rule.as_str());
        let _ = writeln!(
            text,
            "{:<26} {:>6}  {rule:<30} {}",
            hunt.mutant,
            hunt.worlds,
            hunt.mutant.what().trim()
        );
    }
    text.push_str("\nrepeat each (built with `--features mutants`):\n");
    hunts.iter().filter_map(repeat).for_each(|line| {
        let _ = writeln!(text, "  {line}");
    });
    text
}

fn as_json(hunts: &[Hunt]) -> serde_json::Value {
    let row = |hunt: &Hunt| {
        json!({
            "fault": hunt.mutant.as_str(),
            "what": hunt.mutant.what().trim(),
            "worlds": hunt.worlds,
            "caught": hunt.caught.as_ref().map(|caught| json!({
                "seed": caught.seed,
                "rule": caught.rule,
                "text": caught.text,
                "repeat": repeat(hunt),
            })),
        })
    };
    json!(hunts.iter().map(row).collect::<Vec<_>>())
}

fn parse_mutant(text: &str) -> Result<Mutant, String> {
    let found = Mutant::ALL.iter().find(|mutant| mutant.as_str() == text).copied();
    found.ok_or_else(|| {
        let names: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.as_str()).collect();
        format!("no such fault; there are {}", names.join(", "))
    })
}
