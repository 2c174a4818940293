//! One payment that a guardian ordered from a child's account: what is known of it. What is decided stands in
//! `child.rs`.

use schemas::ids::{Code, PaymentId, PlaceId, Principal, WishId};
use schemas::message::{
    Categories, CodeClaims, Payee, PaymentMode, PaymentState, Position, ResultTo, ShowCode,
};
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas::wire::Text;
use serde::{Deserialize, Serialize};

/// A payment from a child's account (PC-1 to PC-10, PC-16).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChildPayment {
    /// Derived from who ordered and with which key.
    pub id: PaymentId,
    /// Who ordered it.
    pub guardian: Principal,
    /// Whose account pays.
    pub child: Principal,
    /// Where the child is asked: the one that it used when the payment was ordered.
    pub piggy_bank: Principal,
    /// Who gets the money; never [`Payee::Guardian`], but that guardian by name.
    pub payee: Payee,
    /// What is taken: reserved when it was ordered.
    pub amount: Money,
    /// What was ordered; more than `amount` where the account had less.
    pub ordered: Money,
    /// What it is for.
    pub categories: Categories,
    /// For the child to read.
    pub note: Option<Text>,
    /// Which of the child's wishes it fulfils (PC-12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<WishId>,
    /// Who is told the result.
    pub tell: ResultTo,
    /// With what code the child pays; none: a deduction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeTerms>,
    /// Whether a yes counts only if the piggy bank has made sure that it is the child's (PC-16).
    #[serde(default, skip_serializing_if = "is_false")]
    pub identify: bool,
    /// The day whose limits it counts for: days since 1970 in the child's time zone.
    pub day: i32,
    /// When it was ordered.
    pub opened_at: Timestamp,
    /// The child is asked until then.
    pub answer_by: Timestamp,
    /// Where it is.
    pub phase: ChildPhase,
    /// Since when.
    pub moved_at: Timestamp,
    /// Why, where there is something to explain.
    pub reason: Option<Code>,
    /// Where the piggy bank was when the child answered.
    pub position: Option<Position>,
}

/// What the guardian asked of a code (PC-6, PC-7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeTerms {
    /// Never [`PaymentMode::Deduction`].
    pub mode: PaymentMode,
    /// The only place where it counts, if there is only one.
    pub place: Option<PlaceId>,
    /// When the piggy bank shows it.
    pub show: ShowCode,
    /// What it says of who pays.
    pub contains: CodeClaims,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_false(yes: &bool) -> bool {
    !*yes
}

/// Where a payment from a child's account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildPhase {
    /// The child is asked.
    Prompting {
        /// An answer that arrives later no longer counts (correctness.md 16): later than `answer_by`, and never
        /// before a piggy bank could have come back after an outage of ours.
        settle_at: Timestamp,
    },
    /// The child has agreed, and its piggy bank has a code. What was reserved stays so until `settle_at`.
    Presenting {
        /// A scan counts that was made by then.
        expires_at: Timestamp,
        /// And that has arrived by then: a terminal's link may be slow, and ours may have been down.
        settle_at: Timestamp,
    },
    /// For nothing.
    Closed(PaymentState),
}

impl ChildPayment {
    /// What people are told.
    pub fn state(&self) -> PaymentState {
        match self.phase {
            ChildPhase::Prompting { .. } => PaymentState::Prompting,
            ChildPhase::Presenting { .. } => PaymentState::Presenting,
            ChildPhase::Closed(state) => state,
        }
    }

    /// What the child has paid now, in minor units.
    pub fn paid_minor(&self) -> u64 {
        if self.phase == ChildPhase::Closed(PaymentState::Settled) { self.amount.minor } else { 0 }
    }

    /// Whether it is final.
    pub fn at_rest(&self) -> bool {
        matches!(self.phase, ChildPhase::Closed(_))
    }

    /// When its code expires, while it is presented.
    pub fn code_expires_at(&self) -> Option<Timestamp> {
        match self.phase {
            ChildPhase::Presenting { expires_at, .. } => Some(expires_at),
            ChildPhase::Prompting { .. } | ChildPhase::Closed(_) => None,
        }
    }

    pub(crate) fn parties(&self) -> [&Principal; 3] {
        [&self.guardian, &self.child, &self.piggy_bank]
    }

    /// When waiting ends.
    pub(crate) fn due_at(&self, retention_ms: u64) -> Timestamp {
        match self.phase {
            ChildPhase::Prompting { settle_at } | ChildPhase::Presenting { settle_at, .. } => settle_at,
            ChildPhase::Closed(_) => self.moved_at.plus_ms(retention_ms),
        }
    }
}
