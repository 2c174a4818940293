//! The same world again: from a trace that was written down, or twice in a row.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::Many;
use crate::world::{self, Options, Trace};

/// The first line of a trace in a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    seed: u64,
    options: Options,
}

/// Seed and options, then the trace, one JSON object per line.
pub(super) fn as_json(seed: u64, options: &Options, trace: &Trace) -> anyhow::Result<String> {
    let mut text = serde_json::to_string(&Header { seed, options: options.clone() })?;
    text.push('\n');
    for line in trace.lines() {
        writeln!(text, "{}", serde_json::to_string(line)?)?;
    }
    Ok(text)
}

/// `replay FILE`.
pub(super) fn replay(file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let first = text.lines().next().unwrap_or_default();
    let header: Header = serde_json::from_str(first).with_context(|| {
        format!("{}: the first line must hold seed and options, as `run --json` writes it", file.display())
    })?;
    let report = world::run_with(header.seed, &header.options, true);
    let now = as_json(header.seed, &header.options, &report.trace)?;
    let mut out = std::io::stdout().lock();
    let Some(difference) = difference(&text, &now) else {
        let lines = report.trace.lines().len();
        writeln!(out, "seed {}{}: the same {lines} lines", header.seed, header.options)?;
        return Ok(());
    };
    writeln!(out, "{difference}")?;
    bail!("the world of {} is not the one that was written down", file.display())
}

/// `meta --seeds FROM..TO`.
pub(super) fn meta(many: &Many) -> anyhow::Result<()> {
    let bar = many.progress();
    let (from, to) = many.seeds;
    let next = AtomicU64::new(from);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let lines = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..many.jobs() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let stop = found.lock().map_or(true, |found| found.is_some());
                    if seed >= to || stop {
                        break;
                    }
                    let traces = [(); 2].map(|()| world::run(seed, true).trace);
                    lines.fetch_add(traces[0].lines().len() as u64, Ordering::Relaxed);
                    let [first, second] = traces.map(|trace| trace.to_string());
                    if let Some(difference) = difference(&first, &second)
                        && let Ok(mut found) = found.lock()
                    {
                        *found = Some((seed, difference));
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut out = std::io::stdout().lock();
    if let Some((seed, difference)) = found {
        writeln!(out, "seed {seed}: {difference}")?;
        bail!("the world of seed {seed} is not the same twice");
    }
    writeln!(
        out,
        "{} worlds twice, {} lines each time: the same to the byte",
        to - from,
        lines.load(Ordering::Relaxed)
    )?;
    Ok(())
}

/// The first line that differs, with both versions.
fn difference(before: &str, now: &str) -> Option<String> {
    if before == now {
        return None;
    }
    let (mut left, mut right) = (before.lines(), now.lines());
    let mut number = 0_u64;
    loop {
        number += 1;
        match (left.next(), right.next()) {
            (None, None) => return Some("the lines are the same, and the bytes are not".to_owned()),
            (left, right) if left == right => {}
            (left, right) => {
                let (left, right) = (left.unwrap_or("(the end)"), right.unwrap_or("(the end)"));
                return Some(format!("line {number} differs\n  first: {left}\n   then: {right}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_with_both_lines() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        let text = difference("a\nb\n", "a\nc\n").unwrap_or_default();
        assert!(text.contains("line 2") && text.contains("first: b") && text.contains("then: c"), "{text}");
        let text = difference("a\n", "a\nc\n").unwrap_or_default();
        assert!(text.contains("line 2") && text.contains("(the end)"), "{text}");
    }
}
