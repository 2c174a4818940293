//! Deliberate faults, one line each where the product code would make the mistake: the proof that the simulated
//! worlds find bugs (`device-sim world mutants`).
//!
//! Without the feature `switchable` nothing can be switched on: [`Mutant::is_active`] is a constant `false`, and the
//! compiler leaves nothing of a hook in a product. With it a fault is active on one thread, between `switch_on` and
//! the end of its guard: the one place of pure code that keeps state of a thread, because a fault that travelled as an
//! argument would be in every signature.
//!
//! A hook reads `if Mutant::ReleaseBeforeSync.is_active() { .. }` and has one or two lines. A fault is a mistake that
//! somebody might make, never one that is shaped after a check.

#![cfg_attr(not(feature = "switchable"), no_std)]

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $name:ident = $text:literal;)*) => {
        /// One deliberate fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant { $($(#[doc = $what])+ $name,)* }

        impl Mutant {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$name,)*];

            /// For command lines and tables.
            pub const fn as_str(self) -> &'static str {
                match self { $(Mutant::$name => $text,)* }
            }

            /// What is wrong, in one line.
            pub const fn what(self) -> &'static str {
                match self { $(Mutant::$name => concat!($($what),+),)* }
            }
        }
    };
}

mutants! {
    // The core: THE order, restarts
    /// outputs leave before their journal position is synced
    ReleaseBeforeSync = "release-before-sync";
    /// an answer without events of its own leaves at once, though the first one is not synced
    RepeatAnsweredUnsynced = "repeat-answered-unsynced";
    /// what is owed to principals is forgotten at a start
    OutboxForgotten = "outbox-forgotten";
    /// every timer fires at a start
    TimersFireAtStart = "timers-fire-at-start";
    /// a start gives executors no time to come back before `settle_at`
    NoReconnectGrace = "no-reconnect-grace";
    /// answers to requests are forgotten at a start
    WindowForgotten = "window-forgotten";
    /// a snapshot does not hold which payment informations are claimed
    SnapshotWithoutNonces = "snapshot-without-nonces";
    /// a sync that covers two segments syncs the newer one only
    OneSegmentSynced = "one-segment-synced";
    // The core: who may what
    /// a request under a used key with other content is carried out
    OtherContentAccepted = "other-content-accepted";
    /// a claim of a payment information is not looked for again when the chip is ready
    ClaimNotCheckedAgain = "claim-not-checked-again";
    /// a verification counts for any amount
    AmountNotVerified = "amount-not-verified";
    /// a check beforehand counts, whichever key it was made with
    AnyProofCounts = "any-proof-counts";
    /// a payer may cancel what the machine has been told to deliver
    CancelAfterCommand = "cancel-after-command";
    /// a device that was revoked may connect
    RevokedMayConnect = "revoked-may-connect";
    // The core: children
    /// anybody may order from a child's account
    GuardianNotAsked = "guardian-not-asked";
    /// a child's limits are kept and not asked
    LimitsNotAsked = "limits-not-asked";
    /// any device may answer a prompt
    AnyPiggyBankAnswers = "any-piggy-bank-answers";
    /// a child's no is taken as a yes
    RejectPays = "reject-pays";
    /// a child's yes that comes after the payment has ended is booked
    LateConfirmPays = "late-confirm-pays";
    /// what a child did not confirm stays reserved
    ChildReservationKept = "child-reservation-kept";
    /// a yes counts also where the piggy bank was to make sure whose it is, and has not
    IdentityNotAsked = "identity-not-asked";
    /// a code counts again after it was paid with
    ScanTwicePays = "scan-twice-pays";
    /// the signature of a token is not checked
    ForgedCodePays = "forged-code-pays";
    /// a code counts as long as its reservation stands, whenever it was scanned
    ExpiredCodePays = "expired-code-pays";
    /// a code counts at every place, whoever is paid there and for what
    CodeCountsAnywhere = "code-counts-anywhere";
    /// a code's reservation ends with the code, though scans of it may still be on their way
    CodeReservationReleasedAtExpiry = "code-reservation-released-at-expiry";
    /// a suggestion may be answered again after it has ended
    SuggestionAnsweredTwice = "suggestion-answered-twice";
    /// what must stay on a child's account is not asked when it is to pay for a guardian
    KeepNotAsked = "keep-not-asked";
    /// a start gives nobody time to come back and answer a suggestion
    SuggestionNotReopened = "suggestion-not-reopened";
    /// a wish may be ordered again while a payment for it is under way
    WishOrderedTwice = "wish-ordered-twice";
    /// a wish stays ordered though its payment has ended unpaid
    WishNotReopened = "wish-not-reopened";
    /// a child may wish for something from anybody
    WishToAnybody = "wish-to-anybody";
    /// a wish is told to somebody who is no guardian of the child any more
    WishToldToFormerGuardian = "wish-told-to-former-guardian";
    // The core: the bank
    /// the bank's "not found" is taken as a refusal
    NotFoundIsRefused = "not-found-is-refused";
    /// the bank's "unknown" is taken as done
    UnknownIsDone = "unknown-is-done";
    /// a transfer that took too long is given up without a fence
    GivesUpWithoutFence = "gives-up-without-fence";
    /// every attempt of a transfer has a key of its own
    KeyPerAttempt = "key-per-attempt";
    /// an answer to an earlier refund ends the one under way
    AnyRefundAnswerCounts = "any-refund-answer-counts";
    // The core: outcomes and books
    /// a failure that is reported after an unknown outcome was refunded is refunded again
    RefundsAgain = "refunds-again";
    /// an executor that is silent past every deadline is taken to have failed
    SilenceIsFailure = "silence-is-failure";
    /// a device that was enrolled anew speaks for its predecessor
    OtherInstanceCounts = "other-instance-counts";
    /// a delivery in part is charged whole
    PartChargedWhole = "part-charged-whole";
    /// a merchant may give a payment back twice
    GivenBackTwice = "given-back-twice";
    /// a reservation ends before the device's deadline
    ReservationEndsEarly = "reservation-ends-early";
    /// of linked transfers the last is not recorded
    LinkedTransferDropped = "linked-transfer-dropped";
    /// what a partial posting leaves stays reserved
    RestStaysReserved = "rest-stays-reserved";
    // The lane
    /// the will of a connection that is gone counts after its device is back
    StaleWill = "stale-will";
    /// a PUBACK that comes late clears the oldest message under way
    LatePubackClearsOther = "late-puback-clears-other";
    /// a PUBACK does not wait for those before it
    PubacksOutOfOrder = "pubacks-out-of-order";
    /// the client's Receive Maximum is not kept
    ReceiveMaximumIgnored = "receive-maximum-ignored";
    // Devices
    /// a device acts before its intent is synced
    ActBeforeIntentSynced = "act-before-intent-synced";
    /// a device acknowledges a command before its record is synced
    AcknowledgedUnsynced = "acknowledged-unsynced";
    /// an act that a restart interrupted is reported as failed
    InterruptedIsFailed = "interrupted-is-failed";
    /// `start_by` is checked when a command comes in, and not again before the act
    StartByCheckedOnce = "start-by-checked-once";
    /// `start_by` is held against the earliest that cloud time can be
    LowerBoundOfTime = "lower-bound-of-time";
    /// a device forgets a report when it has sent it
    SpoolClearedOnSend = "spool-cleared-on-send";
    /// a prompt's time is counted from when the cloud's answer came, not from when it was asked
    PromptShownLate = "prompt-shown-late";
    /// a child's answer leaves before its record is synced
    AnswerToldUnsynced = "answer-told-unsynced";
    /// a child is asked again when a prompt comes again
    PromptAskedAgain = "prompt-asked-again";
    /// a code is shown wherever the piggy bank is
    CodeShownAnywhere = "code-shown-anywhere";
    /// a code is put up for as long as any, however soon it ends
    CodeShownLate = "code-shown-late";
}

impl core::fmt::Display for Mutant {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.as_str())
    }
}

impl Mutant {
    /// Whether this fault is switched on. Never in a product.
    #[cfg(not(feature = "switchable"))]
    #[inline]
    pub const fn is_active(self) -> bool {
        false
    }

    /// Whether this fault is switched on, on this thread.
    #[cfg(feature = "switchable")]
    pub fn is_active(self) -> bool {
        ACTIVE.get() == Some(self)
    }
}

#[cfg(feature = "switchable")]
use switch::ACTIVE;
#[cfg(feature = "switchable")]
pub use switch::{Active, switch_on};

#[cfg(feature = "switchable")]
mod switch {
    use std::cell::Cell;
    use std::marker::PhantomData;

    use super::Mutant;

    std::thread_local! {
        pub(super) static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// While it lives the fault is active on this thread.
    #[derive(Debug)]
    #[must_use = "the fault ends with this"]
    pub struct Active {
        before: Option<Mutant>,
        /// Its end must come on the thread of its beginning.
        not_send: PhantomData<*const ()>,
    }

    /// Switches one fault on, on this thread, in place of any other.
    pub fn switch_on(mutant: Mutant) -> Active {
        Active { before: ACTIVE.replace(Some(mutant)), not_send: PhantomData }
    }

    impl Drop for Active {
        fn drop(&mut self) {
            ACTIVE.set(self.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (index, mutant) in Mutant::ALL.iter().enumerate() {
            assert!(Mutant::ALL[..index].iter().all(|other| other.as_str() != mutant.as_str()));
            assert!(!mutant.what().is_empty());
        }
    }

    /// A product pays nothing and can switch nothing on.
    #[cfg(not(feature = "switchable"))]
    #[test]
    fn without_the_feature_every_fault_is_a_constant_false() {
        const OFF: bool = Mutant::ReleaseBeforeSync.is_active();
        assert!(!OFF && Mutant::ALL.iter().all(|mutant| !mutant.is_active()));
    }

    #[cfg(feature = "switchable")]
    #[test]
    fn a_fault_is_active_on_its_thread_until_its_guard_ends() {
        let guard = switch_on(Mutant::ReleaseBeforeSync);
        assert!(Mutant::ReleaseBeforeSync.is_active() && !Mutant::OutboxForgotten.is_active());
        let elsewhere = std::thread::scope(|scope| {
            scope.spawn(|| Mutant::ReleaseBeforeSync.is_active()).join().unwrap_or(true)
        });
        assert!(!elsewhere);
        drop(guard);
        assert!(!Mutant::ReleaseBeforeSync.is_active());
    }
}
