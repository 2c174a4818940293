//! How much a principal may say: token buckets for packets and for bytes. One allowance is shared by all connections
//! of its principal; who shares it, and what follows, is the shell's.

/// A steady rate, and how much may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Per second; at least 1.
    pub per_second: u32,
    /// At once, after a time of silence; at least 1.
    pub burst: u32,
}

/// The rates of each principal. The defaults are far beyond what any device here says: an agent that comes back with a
/// full spool sends some 1,000 packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Of every type.
    pub packets: Rate,
    /// Of whole packets.
    pub bytes: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            packets: Rate { per_second: 200, burst: 5_000 },
            bytes: Rate { per_second: 256 << 10, burst: 8 << 20 },
        }
    }
}

/// What is left to one principal.
#[derive(Debug)]
pub struct Allowance {
    packets: Bucket,
    bytes: Bucket,
}

impl Allowance {
    /// Full. Times are milliseconds of one monotonic clock.
    pub fn new(rates: Rates, now_ms: u64) -> Self {
        Self { packets: Bucket::new(rates.packets, now_ms), bytes: Bucket::new(rates.bytes, now_ms) }
    }

    /// Counts what has come, whether or not there was room for it: who goes on regardless waits the longer.
    pub fn take(&mut self, now_ms: u64, packets: u64, bytes: u64) {
        self.packets.take(now_ms, packets);
        self.bytes.take(now_ms, bytes);
    }

    /// Whether it is used up: what comes now should come later.
    pub fn is_used_up(&mut self, now_ms: u64) -> bool {
        self.packets.level(now_ms) <= 0 || self.bytes.level(now_ms) <= 0
    }

    /// Until when nothing more should be read; none if that is over. It begins when the allowance is overdrawn by
    /// another burst.
    pub fn rests_until_ms(&mut self, now_ms: u64) -> Option<u64> {
        self.packets.rests_until_ms(now_ms).max(self.bytes.rests_until_ms(now_ms))
    }

    /// Whether nothing of it is used: then it need not be remembered.
    pub fn is_full(&mut self, now_ms: u64) -> bool {
        self.packets.is_full(now_ms) && self.bytes.is_full(now_ms)
    }
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// In thousandths, so that a millisecond's refill is whole. At most the burst; below zero it is overdrawn.
    level_milli: i64,
    at_ms: u64,
}

impl Bucket {
    fn new(rate: Rate, now_ms: u64) -> Self {
        let rate = Rate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
        Self { rate, level_milli: i64::from(rate.burst) * 1000, at_ms: now_ms }
    }

    fn burst_milli(&self) -> i64 {
        i64::from(self.rate.burst) * 1000
    }

    fn level(&mut self, now_ms: u64) -> i64 {
        let elapsed_ms = i64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(i64::MAX);
        self.at_ms = self.at_ms.max(now_ms);
        let refill = elapsed_ms.saturating_mul(i64::from(self.rate.per_second));
        self.level_milli = self.level_milli.saturating_add(refill).min(self.burst_milli());
        self.level_milli
    }

    fn take(&mut self, now_ms: u64, count: u64) {
        let taken = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(1000);
        self.level_milli = self.level(now_ms).saturating_sub(taken);
    }

    fn is_full(&mut self, now_ms: u64) -> bool {
        self.level(now_ms) >= self.burst_milli()
    }

    fn rests_until_ms(&mut self, now_ms: u64) -> Option<u64> {
        let missing = -self.burst_milli() - self.level(now_ms);
        let wait_ms = u64::try_from(missing).ok()?.div_ceil(u64::from(self.rate.per_second));
        (wait_ms > 0).then(|| now_ms.saturating_add(wait_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_second: u32, burst: u32) -> Rates {
        Rates { packets: Rate { per_second, burst }, bytes: Rate { per_second: 1_000_000, burst: 1_000_000 } }
    }

    #[test]
    fn a_burst_passes_then_the_rate_counts_and_silence_fills_up_again() {
        let mut allowance = Allowance::new(rates(10, 5), 1_000);
        assert!(!allowance.is_used_up(1_000) && allowance.is_full(1_000));
        allowance.take(1_000, 5, 0);
        assert!(allowance.is_used_up(1_000));
        assert!(!allowance.is_used_up(1_001), "a part of a packet is room for one");
        allowance.take(1_100, 1, 0);
        assert!(allowance.is_used_up(1_100));
        assert!(!allowance.is_full(1_599) && allowance.is_full(1_600));
        assert!(allowance.is_full(u64::MAX), "and no time overflows");
    }

    #[test]
    fn who_goes_on_regardless_is_not_read_until_the_second_burst_is_paid_back() {
        let mut allowance = Allowance::new(rates(10, 5), 0);
        allowance.take(0, 10, 0);
        assert_eq!(allowance.rests_until_ms(0), None, "overdrawn by a burst, not by more");
        allowance.take(0, 3, 0);
        assert_eq!(allowance.rests_until_ms(0), Some(300));
        assert_eq!(allowance.rests_until_ms(299), Some(300));
        assert_eq!(allowance.rests_until_ms(300), None);
        assert!(allowance.is_used_up(799) && !allowance.is_used_up(801));
        allowance.take(900, u64::MAX, u64::MAX);
        assert!(allowance.rests_until_ms(900).is_some_and(|until_ms| until_ms > 900));
    }

    #[test]
    fn bytes_count_as_packets_do_and_a_rate_of_zero_is_one() {
        let zero = Rate { per_second: 0, burst: 0 };
        let mut allowance = Allowance::new(Rates { packets: rates(10, 5).packets, bytes: zero }, 0);
        allowance.take(0, 1, 4);
        assert!(allowance.is_used_up(0));
        assert_eq!(allowance.rests_until_ms(0), Some(2_000));
    }
}
