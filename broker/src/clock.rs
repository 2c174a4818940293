//! The one clock of a run.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 when the clock was made, monotonic from then on: a step of the wall clock fires no timers
/// (correctness.md 14). Give the core a copy, so that expiries and timeouts mean the same to both.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_unix_ms: u64,
}

impl Clock {
    /// Begins with the time of the wall clock.
    pub fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self {
            started: Instant::now(),
            started_unix_ms: since_1970.as_millis().try_into().unwrap_or(u64::MAX / 2),
        }
    }

    /// Now.
    pub fn now_ms(&self) -> u64 {
        self.started_unix_ms + u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// The moment at which [`now_ms`](Self::now_ms) becomes `at_ms`.
    pub(crate) fn instant(&self, at_ms: u64) -> Instant {
        // Ten years: far enough for a timer, and the sum does not overflow.
        let after_ms = at_ms.saturating_sub(self.started_unix_ms).min(315_360_000_000);
        self.started + Duration::from_millis(after_ms)
    }
}
