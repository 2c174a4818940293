//! What happened. Events are what a journal keeps; replay needs nothing else.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::{AccountId, OpenAccount, Reason, Transfer, TransferId};

/// A decided fact. Names of variants and fields are the journal's format: they are frozen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// An account was opened.
    AccountOpened {
        /// The request.
        account: OpenAccount,
        /// Milliseconds on the journal's clock.
        opened_at_ms: u64,
    },
    /// An account was closed for good.
    AccountClosed {
        /// The account.
        id: AccountId,
        /// Milliseconds on the journal's clock.
        closed_at_ms: u64,
    },
    /// A transfer happened: `transfer.kind` says whether money was posted, reserved, posted from or released from a
    /// reservation.
    TransferRecorded {
        /// The request.
        transfer: Transfer,
        /// Minor units posted, reserved or released: what was asked for, or with balancing what was available.
        amount: u64,
        /// Milliseconds on the journal's clock.
        recorded_at_ms: u64,
    },
    /// A transfer was refused because of the state it met; its id is used up.
    TransferFailed {
        /// The request.
        transfer: Transfer,
        /// Why.
        reason: Reason,
        /// Milliseconds on the journal's clock.
        failed_at_ms: u64,
    },
    /// A reservation ran out and its money was released.
    ReservationExpired {
        /// The reservation.
        id: TransferId,
        /// Milliseconds on the journal's clock; not before the reservation's own expiry.
        expired_at_ms: u64,
    },
    /// Closed transfers left memory. Balances stay as they are.
    TransfersRetired {
        /// The transfers, recorded or failed.
        ids: Vec<TransferId>,
    },
}
