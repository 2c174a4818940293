//! A rejection is a value with a stable code: the caller's fault or the state's, never a fault of the program.

use schemas::ids::Code;
use serde::{Deserialize, Serialize};

/// Why something was not done: a stable code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text} ({code})")]
pub struct Rejection {
    /// Stable.
    pub code: Code,
    /// What failed, why, what to do next.
    pub text: String,
}

impl Rejection {
    /// With a code that is known when the program is written.
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code: Code::known(code), text: text.into() }
    }
}
