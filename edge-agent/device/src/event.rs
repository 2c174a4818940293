//! What is journaled. Tags and fields are never reused: a journal outlives every release.

use schemas::cbor::{self, CborError};
use schemas::ids::{
    Code, CommandId, Hash, Instance, ItemId, MessageId, Nonce, PaymentId, PrincipalId, WishId,
};
use schemas::message::{
    ChildAnswer, ChildView, ExecutorCommand, HealthCheckRequest, HealthVerdict, Outcome, PaymentCode,
    PaymentPrompt, PaymentState, PaymentStatus, Position,
};
use schemas::signed::{Catalogue, PublicKey};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;
use serde::{Deserialize, Serialize};

use crate::limits;

/// One message to the cloud, kept until the cloud promises it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolEntry {
    /// The same for every repeat.
    pub message: MessageId,
    /// Last level of the topic.
    pub kind: Kind,
    /// The encoded envelope.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// Which way a dead letter was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the cloud, which refused it for good.
    Up,
    /// From the cloud, and nothing that this device understands.
    Down,
}

/// Why a prompt is over without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptEnd {
    /// Nobody answered in time, or it came too late to be shown.
    TooLate,
    /// The cloud asks no longer: its `payment-status` says why.
    Withdrawn,
}

/// A message that will not be handled, kept for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// Which way it was going.
    pub direction: Direction,
    /// Its id, where it could be read.
    pub message: Option<MessageId>,
    /// Its kind as it stood in the topic, `-` as `_`.
    pub about: Option<Code>,
    /// Why.
    pub code: Code,
}

/// A decision that was made. `State::evolve` applies it; replay uses nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A command was taken in; its PUBACK waits for this record.
    CommandAccepted {
        /// The command.
        command: ExecutorCommand,
    },
    /// The next thing that happens is the act, or a crash.
    IntentRecorded {
        /// Which command.
        command: CommandId,
    },
    /// A command ended. One that was never accepted may end at once, as refused.
    OutcomeRecorded {
        /// Which command.
        command: CommandId,
        /// What came of it.
        outcome: Outcome,
        /// Units delivered.
        delivered: u32,
        /// Why, where it is not done.
        code: Option<Code>,
        /// Upper bound of cloud time; none if it was not known.
        at: Option<Timestamp>,
        /// Goes to the cloud.
        report: SpoolEntry,
    },
    /// The hardware spoke after its command had ended as unknown. The first outcome stays the answer to repeats.
    LateOutcomeReported {
        /// Which command.
        command: CommandId,
        /// What the hardware says now.
        outcome: Outcome,
        /// Goes to the cloud.
        report: SpoolEntry,
    },
    /// A command id that was asked about and never seen: it is refused from now on (correctness.md 15).
    Tombstoned {
        /// Which command.
        command: CommandId,
        /// Upper bound of cloud time; none if it was not known.
        at: Option<Timestamp>,
        /// Goes to the cloud.
        report: SpoolEntry,
    },
    /// A message to the cloud that no other event carries: the repeat of an answer, a command's progress.
    SpoolQueued {
        /// The message.
        entry: SpoolEntry,
    },
    /// The cloud promised a message.
    SpoolCleared {
        /// Which message.
        message: MessageId,
    },
    /// A message that will not be handled; out of the spool if it was there.
    DeadLettered {
        /// What is kept of it.
        letter: DeadLetter,
        /// `up/refused` about a poisonous message.
        report: Option<SpoolEntry>,
    },
    /// A payment information; it may be shown once this record is synced (CP-1).
    InformationIssued {
        /// Its nonce.
        nonce: Nonce,
        /// SHA-256 of the signed bytes.
        information_hash: Hash,
        /// What is sold.
        item: ItemId,
        /// How many units.
        quantity: u32,
        /// When it ends, in cloud time.
        expires_at: Timestamp,
    },
    /// A health check waits until cloud time is known.
    CheckAccepted {
        /// Id of the answer, which also names the check.
        answer: MessageId,
        /// The question.
        check: HealthCheckRequest,
    },
    /// A health check was answered; a repeat gets the same answer (CP-3).
    CheckAnswered {
        /// Id of the answer, which also names the check.
        answer: MessageId,
        /// The payment that was asked about.
        payment: PaymentId,
        /// The verdict.
        verdict: HealthVerdict,
        /// Which condition failed.
        code: Option<Code>,
        /// Goes to the cloud.
        report: SpoolEntry,
    },
    /// The cloud told a payment's state (CP-16).
    PaymentStateReceived {
        /// Which payment.
        payment: PaymentId,
        /// Its state.
        state: PaymentState,
        /// When it came to this state.
        at: Timestamp,
    },
    /// What memory let go of. Decided, not derived, so that replay never depends on today's limits.
    Forgotten {
        /// Ended commands and tombstones.
        commands: Vec<CommandId>,
        /// Answered checks.
        checks: Vec<MessageId>,
        /// Payment informations that ended.
        informations: Vec<Nonce>,
        /// Answered and ended prompts.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        prompts: Vec<PaymentId>,
        /// Ended codes.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        codes: Vec<PaymentId>,
    },
    /// A prompt was taken in; its PUBACK waits for this record, and so does the screen (PC-2).
    PromptAccepted {
        /// What is asked.
        prompt: PaymentPrompt,
    },
    /// The child answered; a repeat of the prompt gets the same answer (PC-3).
    PromptAnswered {
        /// Which payment.
        payment: PaymentId,
        /// What the child said.
        answer: ChildAnswer,
        /// Where that was.
        position: Option<Position>,
        /// Whether the piggy bank had made sure who it was, if it was asked to (PC-16).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identified: Option<bool>,
        /// Goes to the cloud.
        report: SpoolEntry,
    },
    /// A prompt is over without an answer: it is never shown again.
    PromptEnded {
        /// Which payment.
        payment: PaymentId,
        /// Why.
        why: PromptEnd,
    },
    /// The cloud told what became of a payment, for the child to read; an open prompt about it is over (PC-5).
    PaymentResultReceived {
        /// As the cloud told it.
        status: PaymentStatus,
    },
    /// The child has a wish (PC-12).
    WishMade {
        /// Which.
        wish: WishId,
        /// To whom.
        to: PrincipalId,
        /// In the child's words.
        text: Text,
        /// Goes to the cloud.
        report: SpoolEntry,
    },
    /// The child has taken a wish back.
    WishWithdrawn {
        /// Which.
        wish: WishId,
        /// Goes to the cloud; none where the cloud had not taken it in.
        report: Option<SpoolEntry>,
    },
    /// The cloud told what the child has and can look forward to (PC-14).
    ChildViewReceived {
        /// As the cloud told it.
        view: ChildView,
    },
    /// A code was taken in; its PUBACK waits for this record, and so does the screen (PC-6, PC-7).
    CodeAccepted {
        /// With what is paid.
        code: PaymentCode,
        /// Which enrolment took it in: another one's are over. None in journals from before this field.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<Instance>,
    },
    /// A code's time is over: it is never shown again.
    CodeExpired {
        /// Of which payment.
        payment: PaymentId,
    },
    /// Whose word on places counts, for one enrolment: the first one that it heard of.
    SignerPinned {
        /// Which enrolment.
        instance: Instance,
        /// The cloud's key.
        signer: PublicKey,
    },
    /// Places, signed by the pinned key and newer than what was known (PC-9).
    PlacesReceived {
        /// Which enrolment heard it.
        instance: Instance,
        /// As the cloud signed it.
        catalogue: Catalogue,
    },
}

impl Event {
    /// As a journal record.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// From a journal record.
    ///
    /// # Errors
    /// Too large, or no event of this release.
    pub fn decode(record: &[u8]) -> Result<Self, CborError> {
        cbor::decode_within(record, limits::RECORD_BYTES)
    }
}
