//! Which fault met a payment in which state.

use std::collections::BTreeMap;

use schemas::message::PaymentState;

use super::fault::Fault;

/// Counts of (fault, state of an open payment when it struck).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    cells: BTreeMap<(Fault, PaymentState), u64>,
    alone: BTreeMap<Fault, u64>,
}

impl Coverage {
    pub(super) fn count(&mut self, fault: Fault, states: &[PaymentState]) {
        *self.alone.entry(fault).or_default() += 1;
        for state in states {
            *self.cells.entry((fault, *state)).or_default() += 1;
        }
    }

    /// Adds another world's counts.
    pub fn add(&mut self, other: &Coverage) {
        for (cell, count) in &other.cells {
            *self.cells.entry(*cell).or_default() += count;
        }
        for (fault, count) in &other.alone {
            *self.alone.entry(*fault).or_default() += count;
        }
    }

    /// How often `fault` struck, whatever was under way.
    pub fn of(&self, fault: Fault) -> u64 {
        self.alone.get(&fault).copied().unwrap_or(0)
    }

    /// How often `fault` met a payment in `state`.
    pub fn cell(&self, fault: Fault, state: PaymentState) -> u64 {
        self.cells.get(&(fault, state)).copied().unwrap_or(0)
    }

    /// Faults that strike before there is anything to meet, or that are drawn with the world.
    const WITHOUT_STATES: &'static [Fault] = &[Fault::Poor, Fault::ClockDrift, Fault::TerminalClock];

    /// How many cells the table has, without those that cannot be met.
    pub fn cells() -> usize {
        (Fault::ALL.len() - Self::WITHOUT_STATES.len()) * Self::COLUMNS.len()
    }

    /// The cells that nothing fell into.
    pub fn empty(&self) -> Vec<(Fault, PaymentState)> {
        let faults = Fault::ALL.iter().copied().filter(|fault| !Self::WITHOUT_STATES.contains(fault));
        let cells = faults.flat_map(|fault| Self::COLUMNS.iter().map(move |state| (fault, *state)));
        cells.filter(|(fault, state)| self.cell(*fault, *state) == 0).collect()
    }

    /// The states that a payment is open in: the columns of the table.
    pub const COLUMNS: &'static [PaymentState] = &[
        PaymentState::Checking,
        PaymentState::PendingVerification,
        PaymentState::Paying,
        PaymentState::BankUnknown,
        PaymentState::Delivering,
        PaymentState::Refunding,
        PaymentState::Held,
        PaymentState::RefundBlocked,
        PaymentState::Prompting,
        PaymentState::Presenting,
    ];
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<20} {:>9}", "fault \\ state", "struck")?;
        for state in Self::COLUMNS {
            let name: String = state.as_str().chars().take(11).collect();
            write!(f, " {name:>11}")?;
        }
        writeln!(f)?;
        for fault in Fault::ALL {
            write!(f, "{:<20} {:>9}", fault.as_str(), self.of(*fault))?;
            for state in Self::COLUMNS {
                write!(f, " {:>11}", self.cell(*fault, *state))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
