//! The named steps of the agent's order, for kill tests (correctness.md 5). In release builds they do nothing.

/// A step. `FARTHING_KILL_AT=inbox-synced:2` kills a debug build with SIGKILL at its second passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A message is in memory, nothing is decided.
    MessageReceived,
    /// Its record is written, not synced.
    InboxAppended,
    /// Its record is on disk, no PUBACK has left.
    InboxSynced,
    /// The PUBACK is on its way.
    Acknowledged,
    /// The intent is written, not synced.
    IntentAppended,
    /// The intent is on disk, nothing has moved.
    IntentSynced,
    /// The hardware has moved, nothing is recorded of it.
    Acted,
    /// The outcome is written, not synced.
    OutcomeAppended,
    /// The outcome is on disk, not reported.
    OutcomeSynced,
    /// The cloud has promised the report, which is not recorded yet.
    Reported,
}

impl Step {
    /// Every step with its name.
    pub const ALL: &'static [(&'static str, Step)] = &[
        ("message-received", Step::MessageReceived),
        ("inbox-appended", Step::InboxAppended),
        ("inbox-synced", Step::InboxSynced),
        ("acknowledged", Step::Acknowledged),
        ("intent-appended", Step::IntentAppended),
        ("intent-synced", Step::IntentSynced),
        ("acted", Step::Acted),
        ("outcome-appended", Step::OutcomeAppended),
        ("outcome-synced", Step::OutcomeSynced),
        ("reported", Step::Reported),
    ];
}

/// Passes a step.
#[cfg(not(debug_assertions))]
pub(crate) fn pass(_step: Step) {}

/// Writes stay in memory until they are synced, so that SIGKILL is a power cut.
#[cfg(not(debug_assertions))]
pub(crate) fn holds_writes() -> bool {
    false
}

#[cfg(debug_assertions)]
pub(crate) use debug::{holds_writes, pass};

#[cfg(debug_assertions)]
mod debug {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Step;

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static PLAN: OnceLock<Option<(Step, u64)>> = OnceLock::new();

    pub(crate) fn pass(step: Step) {
        let plan = PLAN.get_or_init(|| std::env::var("FARTHING_KILL_AT").ok().and_then(|text| parse(&text)));
        if let Some((wanted, nth)) = plan
            && *wanted == step
            && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *nth
        {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    pub(crate) fn holds_writes() -> bool {
        std::env::var("FARTHING_HOLD_WRITES").is_ok_and(|text| text == "1")
    }

    fn parse(text: &str) -> Option<(Step, u64)> {
        let parsed = text.split_once(':').and_then(|(name, nth)| {
            let (_, step) = Step::ALL.iter().find(|(known, _)| *known == name)?;
            Some((*step, nth.parse().ok()?))
        });
        if parsed.is_none() {
            tracing::error!(text, "FARTHING_KILL_AT is not STEP:N; nothing will be killed");
        }
        parsed
    }
}
