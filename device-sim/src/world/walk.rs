//! A world that is walked through happening by happening.

use super::options::Options;
use super::trace::TraceLine;
use super::{Violation, World};

/// A world and where it stands.
pub struct Walk {
    world: World,
    seen: usize,
}

/// What one step showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Something happened: what it was, and the lines of the trace that came of it.
    Happened(String, Vec<TraceLine>),
    /// The world is at rest, and every rule holds.
    Rest(Vec<TraceLine>),
    /// A rule does not hold.
    Broken(Violation, Vec<TraceLine>),
}

impl Walk {
    /// The world of this seed, just founded.
    ///
    /// # Errors
    /// A world that cannot even begin.
    pub fn new(seed: u64, options: &Options) -> Result<Self, Violation> {
        Ok(Self { world: World::new(seed, options, true)?, seen: 0 })
    }

    /// The next happening. After the end there is nothing but the end again.
    pub fn step(&mut self) -> Step {
        let next = self.world.queue.first_key_value().map(|(_, happening)| format!("{happening:?}"));
        let what = next.unwrap_or_else(|| "nothing".to_owned());
        let turned = self.world.turn();
        let lines = self.world.trace.lines()[self.seen..].to_vec();
        self.seen = self.world.trace.lines().len();
        match turned {
            Ok(false) => Step::Happened(what, lines),
            Ok(true) => Step::Rest(lines),
            Err(violation) => Step::Broken(violation, lines),
        }
    }

    /// Virtual milliseconds since the world began.
    pub fn now_ms(&self) -> u64 {
        self.world.now
    }

    /// The core's payments, one a line; nothing while the core is dead.
    pub fn payments(&self) -> Vec<String> {
        let payments = self.world.core.cloud().into_iter().flat_map(|cloud| cloud.payments());
        payments.map(|payment| format!("{} {}", payment.id, payment.state())).collect()
    }

    /// The next happenings in the queue, at most `at_most`.
    pub fn queue(&self, at_most: usize) -> Vec<String> {
        let queue = self.world.queue.iter().take(at_most);
        queue.map(|((at, _), happening)| format!("{at:>9} ms  {happening:?}")).collect()
    }
}
