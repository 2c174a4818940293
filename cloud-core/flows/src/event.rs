//! Everything that can happen. Events are what the journal keeps; replay needs nothing else. Names are never reused.

use schemas::cbor;
use schemas::ids::{Code, CommandId, Hash, Instance, MessageId, PaymentId, Principal, PrincipalId, WishId};
use schemas::message::{ChildLimits, DeviceReport, Goals, Outcome, Position, RequestAnswer, WishState};
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;
use serde::{Deserialize, Serialize};

use crate::admin::{AdminCommand, Resolution};
use crate::children::{Allowance, Wish};
use crate::exceptions::Case;
use crate::payment::{ChildPayment, ChildPhase, ChipPayment, Command, OwnPayment, OwnPhase, Phase};
use crate::port::OwedMessage;

/// One record of the journal: an event and when it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Cloud time of the decision; never goes back.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
    /// Which operator did it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Record {
    /// As the journal keeps it.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// Only if it was not written by this release or an earlier one.
    pub fn decode(bytes: &[u8]) -> Result<Self, cbor::CborError> {
        cbor::decode_within(bytes, usize::MAX)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An operator's command was carried out that registers, changes or deletes something, or that ends connections.
    /// The command is its content.
    Registered(#[serde(with = "crate::admin::JournaledCommand")] AdminCommand),
    /// A device was enrolled.
    DeviceEnrolled {
        /// Which.
        principal: Principal,
        /// The number of this enrolment.
        instance: Instance,
        /// Its key.
        public_key: PublicKey,
        /// The claim that was used up.
        claim_hash: Hash,
        /// The certificate (DER), given again to the same key with the same claim.
        #[serde(with = "serde_bytes")]
        certificate: Vec<u8>,
    },
    /// A device's certificate was renewed. Its instance and its key stay, so nothing that it does is disturbed.
    CertificateRenewed {
        /// Which.
        principal: Principal,
        /// Serial number of the certificate with which it asked.
        #[serde(with = "serde_bytes")]
        of_serial: Vec<u8>,
        /// When the new one ends.
        not_after: Timestamp,
        /// The new certificate (DER), given again to whoever shows the former one.
        #[serde(with = "serde_bytes")]
        certificate: Vec<u8>,
    },
    /// The books changed.
    Ledger(cloud_core_ledger::Event),
    /// A request was answered for good.
    RequestAnswered {
        /// Who asked.
        principal: Principal,
        /// SHA-256 of what was asked.
        content: Hash,
        /// Until when the answer is remembered.
        not_after: Timestamp,
        /// The answer; it names the key.
        answer: RequestAnswer,
    },
    /// The cloud owes a message. Its sequence number is given when the event is applied.
    Queued {
        /// To whom.
        principal: Principal,
        /// What.
        message: OwedMessage,
    },
    /// The receiver has acknowledged it.
    Cleared {
        /// Who.
        principal: Principal,
        /// What.
        message: MessageId,
    },
    /// It is owed no longer.
    Withdrawn {
        /// To whom.
        principal: Principal,
        /// What.
        message: MessageId,
        /// `expired`, `superseded`, `queue_full`, `revoked`, `deleted`,
        /// `refused_by_receiver`.
        why: Code,
    },
    /// A payment began.
    PaymentOpened(ChipPayment),
    /// The chip confirmed it, and it claims the nonce.
    NonceClaimed {
        /// Which payment.
        payment: PaymentId,
    },
    /// The payer's verification was good.
    PaymentVerified {
        /// Which payment.
        payment: PaymentId,
        /// Until when the bank may succeed and the payment still goes on.
        alive_until: Timestamp,
    },
    /// A payment came into a phase.
    PaymentMoved {
        /// Which payment.
        payment: PaymentId,
        /// The phase.
        phase: Phase,
        /// What the payer has paid now, in minor units.
        paid_minor: u64,
        /// Why, where there is something to explain.
        reason: Option<Code>,
    },
    /// A guardian ordered a payment from a child's account, and its amount is reserved.
    ChildPaymentOpened(ChildPayment),
    /// Such a payment came into a phase.
    ChildPaymentMoved {
        /// Which payment.
        payment: PaymentId,
        /// The phase.
        phase: ChildPhase,
        /// Why, where there is something to explain.
        reason: Option<Code>,
        /// Where the piggy bank was, if the child has answered and it knew.
        position: Option<Position>,
    },
    /// A guardian set a child's limits.
    LimitsSet {
        /// Whose.
        child: Principal,
        /// Who set them.
        guardian: Principal,
        /// All of them.
        limits: ChildLimits,
    },
    /// A guardian set or ended an allowance, or one payment of it was due.
    AllowanceSet {
        /// Whose.
        child: Principal,
        /// Who pays it.
        guardian: PrincipalId,
        /// From now on; none: it has ended.
        allowance: Option<Allowance>,
        /// Why the payment that was due was not made.
        missed: Option<Code>,
    },
    /// A guardian set what a child saves for.
    GoalsSet {
        /// Whose.
        child: Principal,
        /// Who set it.
        guardian: PrincipalId,
        /// All of them.
        goals: Goals,
    },
    /// A child has told a guardian a wish. What its words mean was decided then.
    WishMade {
        /// Whose.
        child: Principal,
        /// Which.
        id: WishId,
        /// The wish.
        wish: Wish,
        /// The day that it counts for: days since 1970 in the child's time zone.
        day: i32,
    },
    /// A guardian declined a wish, or the child took it back.
    WishEnded {
        /// Whose.
        child: Principal,
        /// Which.
        id: WishId,
        /// How.
        state: WishState,
        /// What the guardian said.
        reason: Option<Text>,
    },
    /// A person ordered a payment from its own account: it was made, or is suggested to go through a child.
    OwnPaymentOpened(OwnPayment),
    /// Such a payment came into a phase.
    OwnPaymentMoved {
        /// Whose.
        payer: Principal,
        /// Which.
        payment: PaymentId,
        /// The phase.
        phase: OwnPhase,
    },
    /// Such a payment left memory.
    OwnPaymentForgotten {
        /// Whose.
        payer: Principal,
        /// Which.
        payment: PaymentId,
    },
    /// The executor is to act.
    CommandIssued {
        /// For which payment.
        payment: PaymentId,
        /// The command.
        command: Command,
    },
    /// The executor (or its absence) reported an outcome.
    OutcomeReported {
        /// For which payment.
        payment: PaymentId,
        /// For which command.
        command: CommandId,
        /// The outcome.
        outcome: Outcome,
        /// Units delivered.
        delivered: u32,
        /// Why, where it is not done.
        code: Option<Code>,
    },
    /// Something that needs an operator.
    ExceptionRaised {
        /// Which payment, where there is one.
        payment: Option<PaymentId>,
        /// What it hangs on: the command or the payment.
        about: Hash,
        /// Which case.
        case: Case,
        /// What happened.
        text: String,
    },
    /// What was open of a payment was resolved.
    ExceptionsResolved {
        /// Which payment (or, for an outcome without one, the command's id).
        payment: PaymentId,
        /// Only this case; all if left out.
        case: Option<Case>,
        /// How; none where a late outcome resolved it.
        resolution: Option<Resolution>,
    },
    /// A closed payment left memory.
    PaymentRetired {
        /// Which.
        payment: PaymentId,
    },
    /// Something was refused to a principal (rate limited).
    RefusalAudited {
        /// Whom, where known.
        principal: Option<Principal>,
        /// What was tried.
        what: String,
        /// Why not.
        why: String,
    },
    /// An operator took the journal back to an earlier point: what came after `position` is in other journals, or lost.
    Restored {
        /// Records that were kept.
        position: u64,
        /// When the backup was made that it came from.
        backup_made_at: Timestamp,
    },
    /// The core has started and taken up its work.
    Opened,
    /// A device said how it is (CP-17).
    DeviceReported {
        /// Which.
        device: Principal,
        /// What it said.
        report: DeviceReport,
    },
    /// A device was revoked.
    DeviceRevoked {
        /// Which.
        device: Principal,
    },
}

/// What an auditor asks for (MO-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// Books, payments, and what became of them.
    Money,
    /// Orders to executors, and what they reported.
    Command,
    /// What operators did: registrations, enrolments, revocations, decisions.
    Administration,
    /// What was refused to somebody.
    Refusal,
    /// Other messages that were owed, and what became of them.
    Message,
    /// Starts of the core, and how devices say they are.
    Operation,
}

impl RecordKind {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Money, Self::Command, Self::Administration, Self::Refusal, Self::Message, Self::Operation];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Money => "money",
            Self::Command => "command",
            Self::Administration => "administration",
            Self::Refusal => "refusal",
            Self::Message => "message",
            Self::Operation => "operation",
        }
    }
}

impl Event {
    /// Every event is of one kind; a new one has to say which.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Registered(AdminCommand::Deposit { .. }) => RecordKind::Money,
            Self::Ledger(_)
            | Self::PaymentOpened(_)
            | Self::NonceClaimed { .. }
            | Self::PaymentVerified { .. }
            | Self::PaymentMoved { .. }
            | Self::ChildPaymentOpened(_)
            | Self::ChildPaymentMoved { .. }
            | Self::AllowanceSet { .. }
            | Self::OwnPaymentOpened(_)
            | Self::OwnPaymentMoved { .. }
            | Self::OwnPaymentForgotten { .. }
            | Self::PaymentRetired { .. }
            | Self::ExceptionRaised { .. }
            | Self::ExceptionsResolved { resolution: None, .. } => RecordKind::Money,
            Self::CommandIssued { .. } | Self::OutcomeReported { .. } => RecordKind::Command,
            Self::Registered(_)
            | Self::LimitsSet { .. }
            | Self::GoalsSet { .. }
            | Self::DeviceEnrolled { .. }
            | Self::CertificateRenewed { .. }
            | Self::DeviceRevoked { .. }
            | Self::Restored { .. }
            | Self::ExceptionsResolved { .. } => RecordKind::Administration,
            Self::RefusalAudited { .. } => RecordKind::Refusal,
            Self::RequestAnswered { answer, .. } if answer.refused.is_some() => RecordKind::Refusal,
            Self::RequestAnswered { .. } => RecordKind::Money,
            Self::Queued { message, .. } if message.kind == Kind::ExecutorCommand => RecordKind::Command,
            // What families tell each other.
            Self::WishMade { .. } | Self::WishEnded { .. } => RecordKind::Message,
            Self::Queued { .. } | Self::Cleared { .. } | Self::Withdrawn { .. } => RecordKind::Message,
            Self::Opened | Self::DeviceReported { .. } => RecordKind::Operation,
        }
    }
}
