//! Kill points: named steps of THE order at which a test can end this process by SIGKILL (correctness.md 5).
//!
//! Debug builds only. `FARTHING_KILL_AT=STEP:N` kills at the N-th passage of the step. With
//! `FARTHING_HOLD_WRITES=1` journal writes stay in this process until they are synced, so that the kill is a power cut.

/// The steps of THE order, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something arrived and nothing was done about it.
    Received,
    /// It was decided; the state has changed in memory.
    Decided,
    /// It was written to the journal and not synced.
    Appended,
    /// It is on disk and nothing has left.
    Synced,
    /// A PUBACK was handed to its connection.
    ReleasedPromise,
    /// An executor command was handed to its connection.
    ReleasedCommand,
    /// A call to the bank was handed to the adapter.
    ReleasedBank,
    /// The bank has answered, and the core has not heard it.
    BankAnswered,
    /// A reply to an operator, or a certificate, was handed over.
    ReleasedReply,
    /// The next journal segment was made.
    SpareMade,
    /// A snapshot was taken.
    SnapshotTaken,
}

impl Step {
    /// All steps, with their names in `FARTHING_KILL_AT`.
    pub const ALL: &'static [(&'static str, Step)] = &[
        ("received", Step::Received),
        ("decided", Step::Decided),
        ("appended", Step::Appended),
        ("synced", Step::Synced),
        ("released-promise", Step::ReleasedPromise),
        ("released-command", Step::ReleasedCommand),
        ("released-bank", Step::ReleasedBank),
        ("bank-answered", Step::BankAnswered),
        ("released-reply", Step::ReleasedReply),
        ("spare-made", Step::SpareMade),
        ("snapshot-taken", Step::SnapshotTaken),
    ];
}

/// Where to end, if anywhere.
#[derive(Debug, Default)]
pub(crate) struct KillPoints {
    #[cfg(debug_assertions)]
    at: Option<(Step, std::sync::atomic::AtomicU64)>,
}

/// `FARTHING_KILL_AT` that names no step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("FARTHING_KILL_AT=`{0}`: write STEP:N with N from 1 and STEP one of {1}")]
pub struct KillPointError(String, String);

#[cfg(debug_assertions)]
impl KillPoints {
    pub(crate) fn from_environment() -> Result<Self, KillPointError> {
        std::env::var("FARTHING_KILL_AT").map_or_else(|_| Ok(Self::default()), |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Result<Self, KillPointError> {
        let parsed = text.split_once(':').and_then(|(name, passage)| {
            let (_, step) = Step::ALL.iter().find(|(known, _)| *known == name)?;
            let passage: u64 = passage.parse().ok().filter(|passage| *passage > 0)?;
            Some((*step, passage.into()))
        });
        match parsed {
            Some(at) => Ok(Self { at: Some(at) }),
            None => {
                let names: Vec<_> = Step::ALL.iter().map(|(name, _)| *name).collect();
                Err(KillPointError(text.chars().take(80).collect(), names.join(", ")))
            }
        }
    }

    /// Passes a step; does not return if it is the one.
    pub(crate) fn pass(&self, step: Step) {
        if self.is_the_one(step) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // The signal is on its way; nothing may happen meanwhile.
            loop {
                std::thread::park();
            }
        }
    }

    fn is_the_one(&self, step: Step) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        match &self.at {
            Some((at, left)) if *at == step => {
                left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) == Ok(1)
            }
            _ => false,
        }
    }
}

#[cfg(not(debug_assertions))]
impl KillPoints {
    pub(crate) fn from_environment() -> Result<Self, KillPointError> {
        Ok(Self::default())
    }

    pub(crate) fn pass(&self, _step: Step) {}
}

/// Whether journal writes are held in memory until they are synced: a test mode of debug builds.
pub(crate) fn hold_writes() -> bool {
    cfg!(debug_assertions) && std::env::var("FARTHING_HOLD_WRITES").is_ok_and(|value| value == "1")
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn the_nth_passage_of_the_named_step_is_the_one() {
        let points = KillPoints::parse("synced:2").unwrap();
        let passed = [Step::Synced, Step::Appended, Step::Synced, Step::Synced].map(|s| points.is_the_one(s));
        assert_eq!(passed, [false, false, true, false]);
    }

    #[test]
    fn anything_else_is_refused_with_the_names_of_all_steps() {
        for bad in ["", "synced", "synced:0", "synced:x", "nowhere:1"] {
            assert!(KillPoints::parse(bad).unwrap_err().to_string().contains("released-bank"), "{bad}");
        }
    }
}
