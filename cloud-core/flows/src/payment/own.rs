//! One payment that a person ordered from its own account: what is known of it. What is decided stands in
//! `child/suggestion.rs`.

use schemas::ids::{PaymentId, Principal};
use schemas::message::{Categories, Names, Payee, PaymentState};
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas::wire::Text;
use serde::{Deserialize, Serialize};

/// A payment from a person's own account (PC-11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnPayment {
    /// Derived from who ordered and with which key.
    pub id: PaymentId,
    /// Who ordered it, and pays.
    pub payer: Principal,
    /// How much.
    pub amount: Money,
    /// Who gets it.
    pub payee: Payee,
    /// What it is for.
    pub categories: Categories,
    /// For a child to read, if it is asked.
    pub note: Option<Text>,
    /// Who was suggested; nobody where the account had enough.
    pub children: Names,
    /// When it was ordered.
    pub opened_at: Timestamp,
    /// Where it is.
    pub phase: OwnPhase,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnPhase {
    /// The person is asked whether to pay through a child; nothing is reserved.
    Suggested {
        /// As the person was told.
        answer_by: Timestamp,
        /// An answer that arrives later no longer counts.
        settle_at: Timestamp,
    },
    /// For nothing.
    Closed {
        /// Settled, cancelled or expired.
        state: PaymentState,
        /// The payment from the child's account that took its place.
        through: Option<PaymentId>,
        /// When it leaves memory.
        forget_at: Timestamp,
    },
}

impl OwnPayment {
    /// When waiting ends, or memory of it.
    pub(crate) fn due_at(&self) -> Timestamp {
        match self.phase {
            OwnPhase::Suggested { settle_at, .. } => settle_at,
            OwnPhase::Closed { forget_at, .. } => forget_at,
        }
    }

    /// Whether the person is being asked.
    pub fn is_suggested(&self) -> bool {
        matches!(self.phase, OwnPhase::Suggested { .. })
    }
}
