//! Cloud time by its upper bound (correctness.md 14).

use schemas::envelope::Envelope;
use schemas::ids::MessageId;
use schemas::message::{CloudTimeAnswer, CloudTimeRequest};
use schemas::time::Timestamp;
use schemas_mutants::Mutant;

/// An unanswered question is asked again after this long, in milliseconds.
const RETRY_MS: u64 = 5_000;

#[derive(Debug, Clone, Copy)]
struct Asked {
    nonce: u64,
    at_boot_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    stamp: Timestamp,
    asked_boot_ms: u64,
    received_boot_ms: u64,
}

/// What this process knows of the cloud's time; nothing after a restart.
#[derive(Debug)]
pub(crate) struct Clock {
    drift_ppm: u32,
    refresh_ms: u64,
    seed: [u8; 16],
    questions: u64,
    asked: Option<Asked>,
    known: Option<Known>,
    due_at_once: bool,
}

impl Clock {
    pub(crate) fn new(drift_ppm: u32, refresh_ms: u64, seed: [u8; 16]) -> Self {
        Self { drift_ppm, refresh_ms, seed, questions: 0, asked: None, known: None, due_at_once: true }
    }

    /// The cloud's time is not later than this. Unknown until an answer came.
    pub(crate) fn upper(&self, now_boot_ms: u64) -> Option<Timestamp> {
        let known = self.known?;
        // Counting from the question on covers receive - send and the time since: the answer's way is included whole.
        let elapsed_ms = now_boot_ms.saturating_sub(known.asked_boot_ms);
        Some(known.stamp.plus_ms(elapsed_ms).plus_ms(self.drift_ms(elapsed_ms)))
    }

    /// The last moment at which the upper bound is not later than `time`. In the past if it never was; none as long as
    /// the time is unknown.
    pub(crate) fn last_boot_ms(&self, time: Timestamp) -> Option<u64> {
        let known = self.known?;
        if time < known.stamp {
            return Some(known.asked_boot_ms.saturating_sub(1));
        }
        // The largest e with e + ceil(e * ppm / 10^6) <= time - stamp.
        let (whole, ppm) = (1_000_000_u128, u128::from(self.drift_ppm));
        let elapsed_ms = u128::from(time.ms_since(known.stamp)) * whole / (whole + ppm);
        let from =
            if Mutant::PromptShownLate.is_active() { known.received_boot_ms } else { known.asked_boot_ms };
        Some(from.saturating_add(u64::try_from(elapsed_ms).unwrap_or(u64::MAX)))
    }

    /// The cloud's time is not earlier than this.
    pub(crate) fn lower(&self, now_boot_ms: u64) -> Option<Timestamp> {
        let known = self.known?;
        let elapsed_ms = now_boot_ms.saturating_sub(known.received_boot_ms);
        Some(known.stamp.plus_ms(elapsed_ms.saturating_sub(self.drift_ms(elapsed_ms))))
    }

    /// Rounded up: a bound.
    fn drift_ms(&self, elapsed_ms: u64) -> u64 {
        elapsed_ms.saturating_mul(u64::from(self.drift_ppm)).div_ceil(1_000_000)
    }

    /// On a new connection: what was asked on the old one will not be answered. What is known stays known.
    pub(crate) fn ask_anew(&mut self) {
        self.asked = None;
        self.due_at_once = true;
    }

    /// When the next question is due on a live connection.
    pub(crate) fn next_question_boot_ms(&self) -> u64 {
        match (self.asked, self.known) {
            _ if self.due_at_once => 0,
            (Some(asked), _) => asked.at_boot_ms.saturating_add(RETRY_MS),
            (None, Some(known)) => known.received_boot_ms.saturating_add(self.refresh_ms),
            (None, None) => 0,
        }
    }

    /// The encoded question. Its sending may be delayed after this: that only raises the upper bound.
    pub(crate) fn ask(&mut self, now_boot_ms: u64) -> Vec<u8> {
        self.questions += 1;
        self.due_at_once = false;
        let id = MessageId::derived("cloud-time", &[&self.seed, &self.questions.to_be_bytes()]);
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&id.0[8..]);
        let nonce = u64::from_be_bytes(nonce);
        self.asked = Some(Asked { nonce, at_boot_ms: now_boot_ms });
        Envelope::message(id, CloudTimeRequest { nonce }).encode()
    }

    /// Only the answer to the last question counts.
    pub(crate) fn handle_answer(&mut self, answer: &CloudTimeAnswer, now_boot_ms: u64) {
        if let Some(asked) = self.asked.take_if(|asked| asked.nonce == answer.nonce) {
            self.known = Some(Known {
                stamp: answer.now,
                asked_boot_ms: asked.at_boot_ms,
                received_boot_ms: now_boot_ms,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(clock: &mut Clock, asked_boot_ms: u64, received_boot_ms: u64, stamp: u64) {
        clock.ask(asked_boot_ms);
        let nonce = clock.asked.map_or(0, |asked| asked.nonce);
        clock.handle_answer(&CloudTimeAnswer { nonce, now: Timestamp(stamp) }, received_boot_ms);
    }

    #[test]
    fn the_upper_bound_is_stamp_plus_round_trip_plus_elapsed_plus_drift() {
        let mut clock = Clock::new(200, 600_000, [0; 16]);
        assert_eq!(clock.upper(0), None);
        answered(&mut clock, 1_000, 1_300, 50_000);
        assert_eq!(clock.upper(1_300), Some(Timestamp(50_000 + 300 + 1)));
        assert_eq!(clock.lower(1_300), Some(Timestamp(50_000)));
        assert_eq!(clock.upper(11_000), Some(Timestamp(50_000 + 10_000 + 2)));
        assert_eq!(clock.lower(11_300), Some(Timestamp(50_000 + 10_000 - 2)));
    }

    /// Exact to the millisecond: a prompt disappears at the first moment that may be too late.
    #[test]
    fn the_last_moment_is_the_last_with_an_upper_bound_in_time() {
        for drift_ppm in [0, 1, 200, 999_999, 5_000_000] {
            let mut clock = Clock::new(drift_ppm, 600_000, [0; 16]);
            assert_eq!(clock.last_boot_ms(Timestamp(50_000)), None);
            answered(&mut clock, 1_000, 1_000, 50_000);
            for ahead in [0, 1, 2, 999, 4_999, 5_000, 5_001, 600_000, 86_400_000] {
                let time = Timestamp(50_000 + ahead);
                let last = clock.last_boot_ms(time).unwrap();
                assert!(clock.upper(last).unwrap() <= time, "{drift_ppm} {ahead}");
                assert!(clock.upper(last + 1).unwrap() > time, "{drift_ppm} {ahead}");
            }
            assert!(clock.last_boot_ms(Timestamp(49_999)).unwrap() < 1_000);
        }
    }

    #[test]
    fn another_questions_answer_teaches_nothing() {
        let mut clock = Clock::new(200, 600_000, [0; 16]);
        clock.ask(0);
        clock.handle_answer(&CloudTimeAnswer { nonce: 1, now: Timestamp(9) }, 5);
        assert_eq!(clock.upper(5), None);
    }
}
