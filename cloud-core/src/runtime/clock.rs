//! The core's time: monotonic within a run, never before what the journal has seen (correctness.md 14).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use schemas::time::Timestamp;

/// A wall clock that moved by more than this against the monotonic one has been set.
const STEP: Duration = Duration::from_secs(5);
/// How often the wall clock is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// The clock of one run. The lane has the same one, so that expiries mean the same to both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoreClock {
    lane: broker::Clock,
    /// How far the journal's time was ahead of the wall clock at the start.
    ahead_ms: u64,
}

impl CoreClock {
    /// Begins with the wall clock, or with the last journaled time if that is later.
    pub(crate) fn new(lane: broker::Clock, journaled: Timestamp) -> Self {
        Self { lane, ahead_ms: journaled.0.saturating_sub(lane.now_ms()) }
    }

    /// Now, to the core.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.lane.now_ms().saturating_add(self.ahead_ms))
    }

    /// A time of the core on the clock of the lane.
    pub(crate) fn lane_ms(&self, at: Timestamp) -> u64 {
        at.0.saturating_sub(self.ahead_ms)
    }

    /// How far the journal's time was ahead of the wall clock at the start.
    pub(crate) fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms)
    }

    /// From now until `due`; nothing if it has passed.
    pub(crate) fn until(&self, due: Timestamp) -> Duration {
        Duration::from_millis(due.ms_since(self.now()))
    }
}

/// Watches for steps of the wall clock, which are alarms and nothing else.
#[derive(Debug)]
pub(crate) struct WallWatch {
    wall: SystemTime,
    monotonic: Instant,
}

impl WallWatch {
    pub(crate) fn start() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }

    /// Looks at the wall clock once in a while; a step is reported once, in milliseconds, forwards positive.
    pub(crate) fn look(&mut self) -> Option<i64> {
        let elapsed = self.monotonic.elapsed();
        if elapsed < WATCH_INTERVAL {
            return None;
        }
        self.compare(SystemTime::now(), elapsed)
    }

    fn compare(&mut self, wall: SystemTime, elapsed: Duration) -> Option<i64> {
        let step_ms = unix_ms(wall) - unix_ms(self.wall + elapsed);
        self.monotonic += elapsed;
        self.wall = wall;
        (step_ms.unsigned_abs() > u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX)).then_some(step_ms)
    }
}

fn unix_ms(time: SystemTime) -> i64 {
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX / 4);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -millis(before.duration()), millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_begins_before_what_the_journal_has_seen() {
        let lane = broker::Clock::start();
        let future = Timestamp(lane.now_ms() + 1_000_000);
        let clock = CoreClock::new(lane, future);
        assert!(clock.now() >= future);
        assert!(clock.lane_ms(clock.now()) <= lane.now_ms());
        assert!(clock.now().ms_since(CoreClock::new(lane, Timestamp(1)).now()) > 900_000);
    }

    #[test]
    fn a_step_of_the_wall_clock_is_reported_once_in_either_direction() {
        let mut watch = WallWatch::start();
        let (start, minute) = (watch.wall, Duration::from_secs(60));
        assert_eq!(watch.compare(start + minute, minute), None);
        assert_eq!(watch.compare(start + minute * 60, minute), Some(58 * 60_000));
        assert_eq!(watch.compare(start + minute * 61, minute), None, "the new time is the time");
        assert_eq!(watch.compare(start, minute), Some(-62 * 60_000));
    }
}
