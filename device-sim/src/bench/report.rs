//! Figures: a table for people, JSON for programs.

use std::io::Write;

use serde::Serialize;

use super::machine::Machine;

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    PerSecond,
    Microseconds,
    Milliseconds,
    Bytes,
    Kilobytes,
    /// Thousandths.
    RatioPermille,
    Count,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Figure {
    bench: &'static str,
    name: String,
    value: u64,
    unit: Unit,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: String,
}

/// Everything measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    figures: Vec<Figure>,
}

impl Report {
    pub(super) fn of(machine: Machine) -> Self {
        Self { machine, figures: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        bench: &'static str,
        name: impl Into<String>,
        value: u64,
        unit: Unit,
        note: impl Into<String>,
    ) {
        self.figures.push(Figure { bench, name: name.into(), value, unit, note: note.into() });
    }

    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
            return Ok(());
        }
        writeln!(out, "{}\nmedians; programs and generator share the cores", self.machine)?;
        for figure in &self.figures {
            let Figure { bench, name, note, .. } = figure;
            writeln!(out, "{bench:<10}{name:<52}{:>12}  {note}", shown(figure.value, figure.unit))?;
        }
        Ok(())
    }
}

fn shown(value: u64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond => format!("{value} /s"),
        Unit::Microseconds => format!("{value} us"),
        Unit::Milliseconds => format!("{value} ms"),
        Unit::Bytes => format!("{value} B"),
        Unit::Kilobytes => format!("{value} kB"),
        Unit::RatioPermille => format!("{}.{:03}", value / 1000, value % 1000),
        Unit::Count => value.to_string(),
    }
}

/// The middle of the rounds; 0 of none.
pub(super) fn median(values: impl IntoIterator<Item = u64>) -> u64 {
    percentile(values.into_iter().collect(), 50)
}

/// The value that so many hundredths do not exceed; 0 of none.
pub(super) fn percentile(mut values: Vec<u64>, hundredths: usize) -> u64 {
    values.sort_unstable();
    let index = (values.len() * hundredths / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(0)
}

/// In thousandths.
pub(super) fn ratio_permille(value: u64, yardstick: u64) -> u64 {
    value.saturating_mul(1000) / yardstick.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_percentiles_and_ratios() {
        assert_eq!((median([3, 1, 2]), median([]), median([9])), (2, 0, 9));
        assert_eq!(percentile((1..=100).collect(), 99), 100);
        assert_eq!(ratio_permille(3, 4), 750);
        assert_eq!(shown(1_083, Unit::RatioPermille), "1.083");
    }
}
