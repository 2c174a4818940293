//! Transfers: what a caller asks for, and what the ledger keeps of it.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{AccountId, LedgerCode, Reason};

/// Names a transfer and is its idempotency key: chosen by the caller before the first sending (MO-3). Zero is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransferId(#[serde(with = "crate::bytes16")] pub u128);

impl fmt::Display for TransferId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// A request to move money, or to resolve an earlier reservation. Once recorded it is never edited (MO-1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Chosen by the caller.
    pub id: TransferId,
    /// What is to happen.
    pub kind: TransferKind,
    /// The caller's own category; the ledger does not read it.
    pub code: u16,
    /// The caller's own reference, for example the payment id; the ledger does not read it.
    #[serde(with = "crate::bytes16")]
    pub user_data: u128,
}

/// The four things a transfer can do. Post and void name no accounts: they are those of the reservation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TransferKind {
    /// Moves money at once.
    Post(Movement),
    /// Sets money aside until it is posted, voided or expires (MO-2).
    Reserve {
        /// Which money.
        movement: Movement,
        /// Milliseconds after which the reservation expires by itself; `None` waits for ever.
        timeout_ms: Option<u64>,
    },
    /// Moves reserved money.
    PostPending {
        /// The reservation.
        pending: TransferId,
        /// Minor units; `None` posts all of it, less than the reservation releases the rest.
        amount: Option<u64>,
    },
    /// Releases reserved money.
    VoidPending {
        /// The reservation.
        pending: TransferId,
    },
}

/// Money on its way from one account to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Movement {
    /// The account that gives.
    pub debit: AccountId,
    /// The account that takes.
    pub credit: AccountId,
    /// Minor units; with `balancing` the most that may move.
    pub amount: u64,
    /// Must be the currency of both accounts.
    pub currency: LedgerCode,
    /// Moves no more than is available instead of refusing.
    pub balancing: Option<Balancing>,
}

impl Movement {
    /// A plain movement of exactly `amount` minor units.
    pub fn new(debit: AccountId, credit: AccountId, amount: u64, currency: LedgerCode) -> Self {
        Self { debit, credit, amount, currency, balancing: None }
    }

    /// The same with the amount lowered to what is available.
    pub fn balancing(self, balancing: Balancing) -> Self {
        Self { balancing: Some(balancing), ..self }
    }
}

/// Which account's available money bounds a balancing movement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balancing {
    /// At most what the debited account has ([`Account::available_to_debit`](crate::Account::available_to_debit)).
    Debit,
    /// At most what the credited account lacks ([`Account::available_to_credit`](crate::Account::available_to_credit)).
    Credit,
}

impl Transfer {
    /// Moves money at once.
    pub fn post(id: TransferId, movement: Movement) -> Self {
        Self::with_kind(id, TransferKind::Post(movement))
    }

    /// Sets money aside, for ever or for `timeout_ms` milliseconds.
    pub fn reserve(id: TransferId, movement: Movement, timeout_ms: Option<u64>) -> Self {
        Self::with_kind(id, TransferKind::Reserve { movement, timeout_ms })
    }

    /// Moves reserved money: all of it, or `amount` minor units and the rest is released.
    pub fn post_pending(id: TransferId, pending: TransferId, amount: Option<u64>) -> Self {
        Self::with_kind(id, TransferKind::PostPending { pending, amount })
    }

    /// Releases reserved money.
    pub fn void_pending(id: TransferId, pending: TransferId) -> Self {
        Self::with_kind(id, TransferKind::VoidPending { pending })
    }

    /// The same transfer with the caller's category.
    pub fn with_code(self, code: u16) -> Self {
        Self { code, ..self }
    }

    /// The same transfer with the caller's reference.
    pub fn with_user_data(self, user_data: u128) -> Self {
        Self { user_data, ..self }
    }

    fn with_kind(id: TransferId, kind: TransferKind) -> Self {
        Self { id, kind, code: 0, user_data: 0 }
    }

    /// The first field, in ladder order, in which `self` is not the transfer recorded under the same id.
    pub(crate) fn difference(&self, recorded: &Transfer) -> Option<Reason> {
        use TransferKind::{Post, PostPending, Reserve, VoidPending};
        let of_kind = match (&self.kind, &recorded.kind) {
            (Post(asked), Post(had)) => asked.difference(had),
            (
                Reserve { movement: asked, timeout_ms: asked_timeout },
                Reserve { movement: had, timeout_ms: had_timeout },
            ) => asked
                .difference(had)
                .or_else(|| (asked_timeout != had_timeout).then_some(Reason::ExistsWithDifferentTimeout)),
            (
                PostPending { pending: asked, amount: asked_amount },
                PostPending { pending: had, amount: had_amount },
            ) => (asked != had)
                .then_some(Reason::ExistsWithDifferentPending)
                .or_else(|| (asked_amount != had_amount).then_some(Reason::ExistsWithDifferentAmount)),
            (VoidPending { pending: asked }, VoidPending { pending: had }) => {
                (asked != had).then_some(Reason::ExistsWithDifferentPending)
            }
            _ => Some(Reason::ExistsWithDifferentKind),
        };
        of_kind
            .or_else(|| (self.code != recorded.code).then_some(Reason::ExistsWithDifferentCode))
            .or_else(|| (self.user_data != recorded.user_data).then_some(Reason::ExistsWithDifferentUserData))
    }
}

impl Movement {
    fn difference(&self, recorded: &Movement) -> Option<Reason> {
        if self.debit != recorded.debit {
            Some(Reason::ExistsWithDifferentDebit)
        } else if self.credit != recorded.credit {
            Some(Reason::ExistsWithDifferentCredit)
        } else if self.amount != recorded.amount {
            Some(Reason::ExistsWithDifferentAmount)
        } else if self.currency != recorded.currency {
            Some(Reason::ExistsWithDifferentCurrency)
        } else if self.balancing != recorded.balancing {
            Some(Reason::ExistsWithDifferentBalancing)
        } else {
            None
        }
    }
}

/// A transfer that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRecord {
    /// The request, word for word, so that a retry can be compared with it.
    pub transfer: Transfer,
    /// Minor units posted, reserved or (for a void) released; with balancing it may be less than was asked for.
    pub amount: u64,
    /// Milliseconds on the journal's clock.
    pub recorded_at_ms: u64,
    /// What has become of it.
    pub status: TransferStatus,
}

/// What has become of a recorded transfer. Only reservations ever leave their first status, and they do so once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TransferStatus {
    /// A post, or the post or void of a reservation: final the moment it is recorded.
    Final,
    /// A reservation that is open.
    Reserved {
        /// Milliseconds on the journal's clock; from this moment on it can no longer be posted or voided.
        expires_at_ms: Option<u64>,
    },
    /// A reservation that was posted.
    Posted {
        /// The transfer that posted it.
        by: TransferId,
        /// Minor units that moved; the rest was released.
        amount: u64,
    },
    /// A reservation that was voided.
    Voided {
        /// The transfer that voided it.
        by: TransferId,
    },
    /// A reservation that ran out.
    Expired,
}

/// A transfer that was refused because of the state it met. The id stays refused, so that a retry changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedTransfer {
    /// The request, word for word.
    pub transfer: Transfer,
    /// Why it was refused.
    pub reason: Reason,
    /// Milliseconds on the journal's clock.
    pub failed_at_ms: u64,
}
