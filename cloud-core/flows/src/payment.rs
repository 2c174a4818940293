//! One payment: what is known of it and how events change that. What is decided stands in `chip.rs` and `child.rs`.

mod child;
mod own;

use schemas::ids::{
    Code, CommandId, Hash, Instance, ItemId, MerchantId, MessageId, Nonce, PaymentId, PlaceId, Principal,
};
use schemas::message::{Outcome, PaymentState};
use schemas::money::Money;
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

pub use child::{ChildPayment, ChildPhase, CodeTerms};
pub use own::{OwnPayment, OwnPhase};

/// A payment of any flow.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AnyPayment<'a> {
    Chip(&'a ChipPayment),
    Child(&'a ChildPayment),
}

impl<'a> AnyPayment<'a> {
    pub(crate) fn at_rest(self) -> bool {
        match self {
            Self::Chip(payment) => payment.at_rest(),
            Self::Child(payment) => payment.at_rest(),
        }
    }

    /// Who has to be asked or told before it can end.
    pub(crate) fn parties(self) -> Vec<&'a Principal> {
        match self {
            Self::Chip(payment) => payment.parties().collect(),
            Self::Child(payment) => payment.parties().to_vec(),
        }
    }

    /// Whose books it is in.
    pub(crate) fn tenant(self) -> &'a schemas::ids::TenantId {
        match self {
            Self::Chip(payment) => &payment.payer.tenant,
            Self::Child(payment) => &payment.child.tenant,
        }
    }

    /// Whether its code counts at this place only.
    pub(crate) fn is_for_place(self, tenant: &schemas::ids::TenantId, place: &PlaceId) -> bool {
        let code = match self {
            Self::Chip(_) => None,
            Self::Child(payment) => payment.code.as_ref(),
        };
        self.tenant() == tenant && code.is_some_and(|code| code.place.as_ref() == Some(place))
    }

    pub(crate) fn id(self) -> PaymentId {
        match self {
            Self::Chip(payment) => payment.id,
            Self::Child(payment) => payment.id,
        }
    }

    /// When waiting ends; `None` where only an operator ends it.
    pub(crate) fn due_at(self, retention_ms: u64) -> Option<Timestamp> {
        match self {
            Self::Chip(payment) => payment.due_at(retention_ms),
            Self::Child(payment) => Some(payment.due_at(retention_ms)),
        }
    }
}

/// A payment through a chip (CP-1 to CP-18).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipPayment {
    /// Derived from who asked and with which key.
    pub id: PaymentId,
    /// Who pays.
    pub payer: Principal,
    /// Through which chip.
    pub chip: Principal,
    /// Who is paid.
    pub merchant: MerchantId,
    /// Who delivers; none completes with the bank's success (CP-16).
    pub executor: Option<Principal>,
    /// The whole price.
    pub amount: Money,
    /// What is bought.
    pub item: ItemId,
    /// How many units.
    pub quantity: u32,
    /// Of the payment information.
    pub nonce: Nonce,
    /// SHA-256 of the payment information as it came.
    pub information_hash: Hash,
    /// When the payment information ends.
    pub information_expires_at: Timestamp,
    /// When the payment began.
    pub opened_at: Timestamp,
    /// Until when the bank may succeed and the payment still goes on; set by the verification.
    pub alive_until: Option<Timestamp>,
    /// When the payer verified it.
    pub verified_at: Option<Timestamp>,
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub moved_at: Timestamp,
    /// What the payer has paid now, in minor units.
    pub paid_minor: u64,
    /// Why, where there is something to explain.
    pub reason: Option<Code>,
    /// The command, once there is one.
    pub command: Option<Command>,
    /// The executor's word, once there is one.
    pub outcome: Option<Reported>,
    /// How many refunds the bank has confirmed or refused for good: part of the next one's key.
    pub refunds_ended: u32,
}

/// A command to an executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Derived from the payment.
    pub id: CommandId,
    /// The enrolment of the executor that may act.
    pub instance: Instance,
    /// It must have begun by then.
    pub start_by: Timestamp,
    /// Silence until then is a verdict, after one last question (correctness.md 15).
    pub settle_at: Timestamp,
}

impl Command {
    /// The id of the message that carries a command.
    pub fn message(id: CommandId) -> MessageId {
        MessageId::derived("command", &[&id.0])
    }
}

/// An outcome as it was reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// What.
    pub outcome: Outcome,
    /// Units delivered.
    pub delivered: u32,
}

/// A repeated call to the bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Counted from 0.
    pub number: u32,
    /// When the next one is due if no answer comes.
    pub again_at: Timestamp,
}

/// Where a payment is. Each phase waits for exactly one thing, and has a time at which waiting ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// For the chip's answer (CP-3).
    Checking {
        /// Later it does not count.
        answer_by: Timestamp,
    },
    /// For the payer's verification (CP-5).
    Verifying {
        /// Later it does not count.
        answer_by: Timestamp,
    },
    /// For the bank's answer to the transfer (CP-7).
    Transferring(Attempt),
    /// For the bank's word on what became of the transfer (MO-4).
    Inquiring(Attempt),
    /// For the bank's word that the transfer can never happen.
    Fencing(Attempt, FenceFor),
    /// For the executor (CP-9).
    Commanded,
    /// For the executor's answer to the last question.
    Asked {
        /// Then silence is the verdict.
        answer_by: Timestamp,
    },
    /// For the bank's word that the money went back (CP-12).
    Refunding {
        /// Minor units.
        amount_minor: u64,
        /// Of the call.
        attempt: Attempt,
        /// Final state afterwards.
        then: RefundEnd,
    },
    /// For the operator: nobody knows whether it was delivered, and the tenant's policy is to hold.
    Held,
    /// For the operator: the bank refuses the refund.
    RefundBlocked {
        /// Minor units owed to the payer.
        amount_minor: u64,
        /// Final state once it has been given back.
        then: RefundEnd,
    },
    /// For nothing.
    Closed(PaymentState),
}

/// What a refund ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundEnd {
    /// The whole amount went back.
    Refunded,
    /// The rest went back.
    DeliveredInPart,
    /// The merchant gave back what it had earned.
    Returned,
}

/// Why a transfer is fenced off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceFor {
    /// The bank has not answered in time.
    BankSilent,
    /// The payer has cancelled.
    Cancelled,
}

impl ChipPayment {
    /// What a person is told.
    pub fn state(&self) -> PaymentState {
        match &self.phase {
            Phase::Checking { .. } => PaymentState::Checking,
            Phase::Verifying { .. } => PaymentState::PendingVerification,
            Phase::Transferring(_) => PaymentState::Paying,
            Phase::Inquiring(_) | Phase::Fencing(..) => PaymentState::BankUnknown,
            Phase::Commanded | Phase::Asked { .. } => PaymentState::Delivering,
            Phase::Refunding { .. } => PaymentState::Refunding,
            Phase::Held => PaymentState::Held,
            Phase::RefundBlocked { .. } => PaymentState::RefundBlocked,
            Phase::Closed(state) => *state,
        }
    }

    /// Units delivered, as far as is known.
    pub fn delivered(&self) -> u32 {
        match (&self.phase, &self.outcome) {
            (Phase::Closed(PaymentState::Delivered), _) => self.quantity,
            (_, Some(reported)) => reported.delivered.min(self.quantity),
            _ => 0,
        }
    }

    /// Who has to be asked or told before it can end.
    pub(crate) fn parties(&self) -> impl Iterator<Item = &Principal> {
        [&self.payer, &self.chip].into_iter().chain(&self.executor)
    }

    /// What the bank is to give back, in minor units.
    pub fn owed_back_minor(&self) -> u64 {
        match self.phase {
            Phase::Refunding { amount_minor, .. } | Phase::RefundBlocked { amount_minor, .. } => amount_minor,
            _ => 0,
        }
    }

    /// Whether it waits for nothing that happens by itself: final, or in the exceptions queue (MO-9).
    pub fn at_rest(&self) -> bool {
        matches!(self.phase, Phase::Closed(_) | Phase::Held | Phase::RefundBlocked { .. })
    }

    /// When waiting ends; `None` where only an operator ends it.
    pub fn due_at(&self, retention_ms: u64) -> Option<Timestamp> {
        match &self.phase {
            Phase::Checking { answer_by } | Phase::Verifying { answer_by } | Phase::Asked { answer_by } => {
                Some(*answer_by)
            }
            Phase::Transferring(attempt) | Phase::Inquiring(attempt) | Phase::Fencing(attempt, _) => {
                Some(attempt.again_at)
            }
            Phase::Refunding { attempt, .. } => Some(attempt.again_at),
            Phase::Commanded => self.command.as_ref().map(|command| command.settle_at),
            Phase::Held | Phase::RefundBlocked { .. } => None,
            Phase::Closed(_) => Some(self.moved_at.plus_ms(retention_ms)),
        }
    }

    /// The price of `delivered` units: the amount's share, rounded down to the minor unit in the payer's favour.
    pub fn share_minor(&self, delivered: u32) -> u64 {
        let share = u128::from(self.amount.minor) * u128::from(delivered.min(self.quantity));
        u64::try_from(share / u128::from(self.quantity.max(1))).unwrap_or(self.amount.minor)
    }
}
