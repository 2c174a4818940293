//! Every message. Each goes in an [`Envelope`](crate::envelope::Envelope) as `body`. Those of the chip payment are
//! here, those of the parent-child payment in `message/child.rs` and
//! `message/code.rs`, wishes in `message/wish.rs`, a person's own
//! payments in `message/suggestion.rs`.

mod child;
mod code;
mod suggestion;
mod wish;

pub use child::*;
pub use code::*;
pub use suggestion::*;
pub use wish::*;

use crate::ids::{Code, CommandId, Hash, IdempotencyKey, Instance, ItemId, Nonce, PaymentId};
use crate::money::Money;
use crate::time::Timestamp;
use crate::topic::Kind;
use crate::wire::{SignedBytes, Text, wire, wire_enum};

wire! {
    /// A payer's terminal hands in a payment information that it has read from a chip (CP-2).
    pub struct PaymentRequest {
        /// COSE_Sign1 of the chip, as read: see `signed::PaymentInformation`.
        pub information: SignedBytes,
    }
}
wire! {
    /// The payer withdraws: nothing moves if no command exists yet, else refused `already_commanded`.
    pub struct PaymentCancel {
        /// Which payment.
        pub payment: PaymentId,
    }
}
wire! {
    /// A merchant gives a completed payment back, whole, once (CP-16).
    pub struct PaymentRefund {
        /// Which payment.
        pub payment: PaymentId,
    }
}
wire! {
    /// The answer to one request. The same request (same key, same content) always has the same answer (MO-3).
    pub struct RequestAnswer {
        /// The request's idempotency key.
        pub key: IdempotencyKey,
        /// The payment that the accepted request is about, where it is about one.
        pub payment: Option<PaymentId>,
        /// Why it was not accepted.
        pub refused: Option<Code>,
        /// The same for a person.
        pub text: Text,
    }
}
wire! {
    /// Cloud to chip: did you issue exactly this, and can it be carried out? (CP-3)
    pub struct HealthCheckRequest {
        /// The payment that waits for the answer.
        pub payment: PaymentId,
        /// `cti` of the payment information.
        pub nonce: Nonce,
        /// SHA-256 of the COSE_Sign1 bytes, which the chip compares with what it issued.
        pub information_hash: Hash,
        /// An answer later than this no longer counts.
        pub answer_by: Timestamp,
    }
}
wire_enum! {
    /// What a chip says of one payment information.
    pub enum HealthVerdict {
        /// I issued it, and I am ready.
        Ready = "ready",
        /// I never issued this.
        NotIssued = "not_issued",
        /// I issued it and cannot carry it out; the code says why.
        NotReady = "not_ready",
    }
}
wire! {
    /// Chip to cloud: the answer to a health check.
    pub struct HealthCheckAnswer {
        /// The payment that was asked about.
        pub payment: PaymentId,
        /// The verdict.
        pub verdict: HealthVerdict,
        /// Which condition failed (`clock_unknown`, `tampered`, `sold_out`, `executor_fault`, ...).
        pub code: Option<Code>,
    }
}
wire! {
    /// Cloud to payer: this payment waits for your verification (CP-4). Shows payee and amount.
    pub struct VerificationRequest {
        /// Which payment.
        pub payment: PaymentId,
        /// Who gets the money, for a person to read.
        pub payee: Text,
        /// How much.
        pub amount: Money,
        /// What is bought.
        pub item: ItemId,
        /// How many units of it.
        pub quantity: u32,
        /// A verification later than this no longer counts.
        pub answer_by: Timestamp,
    }
}
wire! {
    /// Payer to cloud: verification bound to this payment, payee and amount (CP-5).
    pub struct VerificationAnswer {
        /// COSE_Sign1 of the payer: see `signed::Verification`.
        pub verification: SignedBytes,
    }
}
wire_enum! {
    /// What people and devices are told of a payment. States marked *final* do not change again by themselves.
    pub enum PaymentState {
        /// The chip is being asked.
        Checking = "checking",
        /// Waiting for the payer's verification.
        PendingVerification = "pending_verification",
        /// The bank is moving the money.
        Paying = "paying",
        /// The bank has not said whether it moved the money; nobody guesses (MO-4).
        BankUnknown = "bank_unknown",
        /// Paid; the executor acts. For a person: waiting, not yet delivered.
        Delivering = "delivering",
        /// Final: delivered and posted.
        Delivered = "delivered",
        /// Final: delivered in part, the rest given back.
        DeliveredInPart = "delivered_in_part",
        /// The purchase failed; the money is on its way back.
        Refunding = "refunding",
        /// Final: settled money went back.
        Refunded = "refunded",
        /// Final: the reservation was released; no money had moved.
        Voided = "voided",
        /// Final: refused before any money moved.
        Refused = "refused",
        /// Final: the verification was wrong.
        Declined = "declined",
        /// Final: the verification, or the child's answer, did not come in time.
        Expired = "expired",
        /// Final: the bank refused, or the transfer was fenced off.
        BankRefused = "bank_refused",
        /// Final: withdrawn by the payer.
        Cancelled = "cancelled",
        /// The outcome is unknown and the tenant's policy holds it for the operator.
        Held = "held",
        /// The bank refuses the refund; the operator pursues it.
        RefundBlocked = "refund_blocked",
        /// Final: written off by the operator.
        WrittenOff = "written_off",
        /// The piggy bank asks the child (PC-2).
        Prompting = "prompting",
        /// The child has agreed and pays with a code; nobody has accepted it yet (PC-6, PC-7).
        Presenting = "presenting",
        /// Final: taken from the child's account, and booked (PC-4, PC-8).
        Settled = "settled",
        /// Final: the child said no; nothing moved (PC-4).
        Rejected = "rejected",
    }
}
wire! {
    /// Cloud to payer, merchant or chip: what has become of a payment.
    pub struct PaymentStatus {
        /// Which payment.
        pub payment: PaymentId,
        /// Its state.
        pub state: PaymentState,
        /// The amount of the order.
        pub amount: Money,
        /// What the payer has paid in the end, after everything that went back.
        pub paid: Money,
        /// Units delivered.
        pub delivered: u32,
        /// Units ordered.
        pub quantity: u32,
        /// Why, where there is something to explain.
        pub reason: Option<Code>,
        /// The same for a person.
        pub text: Text,
        /// When it came to this state.
        pub at: Timestamp,
    }
}
wire! {
    /// Cloud to executor: act (CP-8). Derived from the bank's success, bound to one instance of one executor.
    pub struct ExecutorCommand {
        /// Which command; acted on at most once (CP-9).
        pub command: CommandId,
        /// For which payment.
        pub payment: PaymentId,
        /// The executor instance that may act.
        pub instance: Instance,
        /// What to deliver.
        pub item: ItemId,
        /// How many units.
        pub quantity: u32,
        /// Do not begin later than this.
        pub start_by: Timestamp,
    }
}
wire_enum! {
    /// What came of a command.
    pub enum Outcome {
        /// Everything was delivered.
        Done = "done",
        /// A part was delivered; `delivered` says how many units (CP-18).
        DoneInPart = "done_in_part",
        /// It acted, and nothing was delivered (CP-11).
        Failed = "failed",
        /// It did not act (too late, unknown item, not for this instance, ...).
        Refused = "refused",
        /// It may have acted: an intent without an outcome, or hardware that does not know.
        Unknown = "unknown",
    }
}
wire! {
    /// Executor to cloud: the outcome of a command (CP-10, CP-11).
    pub struct ExecutorOutcome {
        /// Which command.
        pub command: CommandId,
        /// What came of it.
        pub outcome: Outcome,
        /// Units delivered.
        pub delivered: u32,
        /// Why, where it is not done.
        pub code: Option<Code>,
    }
}
wire! {
    /// Cloud to executor: what became of that command? (correctness.md 15)
    pub struct CommandStatusRequest {
        /// Which command.
        pub command: CommandId,
    }
}
wire_enum! {
    /// Where a command stands on its executor.
    pub enum CommandProgress {
        /// Never seen; from now on it is refused.
        NeverSeen = "never_seen",
        /// Accepted or begun, no outcome yet.
        IntentOpen = "intent_open",
        /// There is an outcome, which comes along.
        Ended = "ended",
    }
}
wire! {
    /// Executor to cloud: where a command stands.
    pub struct CommandStatusAnswer {
        /// Which command.
        pub command: CommandId,
        /// Where it stands.
        pub progress: CommandProgress,
        /// The outcome, where it has ended.
        pub outcome: Option<Outcome>,
        /// Units delivered.
        pub delivered: u32,
        /// Why, where it is not done.
        pub code: Option<Code>,
    }
}
wire! {
    /// Device to cloud: what time is it? (correctness.md 14)
    pub struct CloudTimeRequest {
        /// Ties the answer to this question.
        pub nonce: u64,
    }
}
wire! {
    /// Cloud to device: the time when it answered. The device adds the whole round trip: an upper bound.
    pub struct CloudTimeAnswer {
        /// Of the question.
        pub nonce: u64,
        /// The cloud's time.
        pub now: Timestamp,
    }
}
wire! {
    /// A person's terminal asks for everything that waits for its answer (correctness.md 11).
    pub struct StatusRequest {
        /// Only this payment; all open ones if left out.
        pub payment: Option<PaymentId>,
    }
}
wire! {
    /// Device to cloud: how it is now. A later report takes the place of an earlier one (CP-17).
    pub struct DeviceReport {
        /// Of the program that runs on it.
        pub version: Text,
        /// Milliseconds since that program started.
        pub uptime_ms: u64,
        /// Messages that wait for the cloud's promise.
        pub spool: u32,
        /// Messages that were given up since the device was enrolled.
        pub dead_letters: u32,
        /// The first condition that is not met; none if the device is ready.
        pub not_ready: Option<Code>,
    }
}
wire! {
    /// A message was not accepted.
    pub struct Refused {
        /// Its id, where it could be read.
        pub message: Option<crate::ids::MessageId>,
        /// Its kind, as it stood in the topic.
        pub about: Option<Code>,
        /// Why. `no_room` and `queue_full` are for now: keep the message, and send it again later.
        pub code: Code,
        /// The same for a person: what failed, why, what to do next.
        pub text: Text,
    }
}

macro_rules! bodies {
    ($(#[$doc:meta])* $name:ident { $($variant:ident($type:ty),)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $(#[doc = concat!("Body of `", stringify!($variant), "`.")] $variant($type),)* }

        impl $name {
            /// The kind, which is the last level of the topic.
            pub fn kind(&self) -> Kind {
                match self { $($name::$variant(_) => Kind::$variant,)* }
            }

            pub(crate) fn decode_body<F: crate::envelope::Format>(kind: Kind, payload: &[u8]) -> Result<crate::envelope::Envelope<$name>, crate::envelope::EnvelopeError> {
                match kind {
                    $(Kind::$variant => Ok(F::parse::<$type>(payload)?.map($name::$variant)),)*
                    #[allow(unreachable_patterns)]
                    _ => Err(crate::envelope::EnvelopeError::Direction(kind)),
                }
            }

            /// The documents list every message from here.
            pub(crate) fn describe() -> Vec<(Kind, &'static str, &'static str, Vec<crate::wire::Field>)> {
                use crate::wire::Described;
                vec![$((Kind::$variant, <$type>::NAME, <$type>::DOC, <$type>::fields()),)*]
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $($name::$variant(body) => body.serialize(serializer),)* }
            }
        }
    };
}

bodies! {
    /// What a principal says to the cloud.
    Up {
        PaymentRequest(PaymentRequest),
        PaymentCancel(PaymentCancel),
        PaymentRefund(PaymentRefund),
        HealthCheck(HealthCheckAnswer),
        PaymentVerification(VerificationAnswer),
        ExecutorCommand(ExecutorOutcome),
        CommandStatus(CommandStatusAnswer),
        CloudTime(CloudTimeRequest),
        StatusRequest(StatusRequest),
        PaymentOrder(PaymentOrder),
        PaymentPrompt(PromptAnswer),
        PaymentScan(PaymentScan),
        Places(PlacesRequest),
        ChildLimits(ChildLimits),
        ChildAllowance(ChildAllowance),
        SavingsGoals(SavingsGoals),
        Wish(Wish),
        WishWithdraw(WishWithdraw),
        WishDecline(WishDecline),
        OwnPayment(OwnPayment),
        SuggestionAnswer(SuggestionAnswer),
        DeviceReport(DeviceReport),
        Refused(Refused),
    }
}

bodies! {
    /// What the cloud says to a principal.
    Down {
        RequestAnswer(RequestAnswer),
        HealthCheck(HealthCheckRequest),
        PaymentVerification(VerificationRequest),
        PaymentStatus(PaymentStatus),
        ExecutorCommand(ExecutorCommand),
        CommandStatus(CommandStatusRequest),
        PaymentPrompt(PaymentPrompt),
        PaymentCode(PaymentCode),
        Places(PlacesAnswer),
        ChildView(ChildView),
        Wish(WishNotice),
        PaySuggestion(PaySuggestion),
        CloudTime(CloudTimeAnswer),
        Refused(Refused),
    }
}
