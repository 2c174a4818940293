//! What happened, line by line.

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLine {
    /// Virtual milliseconds.
    pub at_ms: u64,
    /// Who did it or to whom it happened.
    pub who: String,
    /// What.
    pub what: String,
}

impl std::fmt::Display for TraceLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, ms) = (self.at_ms / 1000, self.at_ms % 1000);
        write!(f, "{seconds:>6}.{ms:03}  {:<16} {}", self.who, self.what)
    }
}

/// All lines, or none where nobody wants them.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    wanted: bool,
    lines: Vec<TraceLine>,
}

impl Trace {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, lines: Vec::new() }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn add(&mut self, at_ms: u64, who: String, what: String) {
        self.lines.push(TraceLine { at_ms, who, what });
    }

    /// In order.
    pub fn lines(&self) -> &[TraceLine] {
        &self.lines
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
