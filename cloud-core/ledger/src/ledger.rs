//! The state: what it holds, how it evolves, how it is read and stored.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use schemas_mutants::Mutant;
use serde::{Deserialize, Serialize};

use crate::table::Table;
use crate::{
    Account, AccountId, Event, FailedTransfer, InvariantViolation, Limits, Movement, Transfer, TransferId,
    TransferKind, TransferRecord, TransferStatus,
};

/// The books: accounts, the transfers still in memory, and the ids that were refused.
///
/// Serialises as three lists. Reading one back rebuilds what is derived and runs [`Ledger::check`]; limits are
/// configuration and not part of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "StoredLedger")]
pub struct Ledger {
    pub(crate) accounts: Table<Account>,
    pub(crate) records: Table<TransferRecord>,
    pub(crate) failures: Table<FailedTransfer>,
    /// Open reservations that will expire, in the order in which they will. Derived from `records`.
    #[serde(skip)]
    pub(crate) expiries: BTreeSet<(u64, TransferId)>,
    #[serde(skip)]
    pub(crate) limits: Limits,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The same books under other limits; needed after reading a snapshot. Limits bind decisions, never replay.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Applies one decided event. Never fails and never asks whether the event is right: that was decided before it
    /// was written. Events that no ledger in this state decided may break the books, and [`Ledger::check`] says so.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::AccountOpened { account, opened_at_ms } => {
                self.accounts.insert(Account::open(account, *opened_at_ms));
            }
            Event::AccountClosed { id, closed_at_ms } => {
                if let Some(account) = self.accounts.get_mut(*id) {
                    account.closed_at_ms = Some(*closed_at_ms);
                }
            }
            Event::TransferRecorded { transfer, amount, recorded_at_ms } => {
                record_transfer(self, transfer, *amount, *recorded_at_ms);
            }
            Event::TransferFailed { transfer, reason, failed_at_ms } => {
                let failure = FailedTransfer {
                    transfer: transfer.clone(),
                    reason: *reason,
                    failed_at_ms: *failed_at_ms,
                };
                self.failures.insert(failure);
            }
            Event::ReservationExpired { id, .. } => {
                resolve_reservation(self, *id, 0, TransferStatus::Expired);
            }
            Event::TransfersRetired { ids } => {
                for id in ids {
                    self.records.remove(*id);
                    self.failures.remove(*id);
                }
            }
        }
    }

    /// An account by id.
    pub fn account(&self, id: AccountId) -> Option<&Account> {
        self.accounts.get(id)
    }

    /// A transfer that happened and was not retired.
    pub fn transfer(&self, id: TransferId) -> Option<&TransferRecord> {
        self.records.get(id)
    }

    /// A transfer that was refused because of the state it met and was not retired.
    pub fn failure(&self, id: TransferId) -> Option<&FailedTransfer> {
        self.failures.get(id)
    }

    /// Minor units that may be debited before the account's debits exceed its posted credits, whatever its limit.
    pub fn available(&self, id: AccountId) -> Option<u64> {
        self.account(id).map(Account::available_to_debit)
    }

    /// All accounts by id.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.rows()
    }

    /// All transfers in memory by id.
    pub fn transfers(&self) -> impl Iterator<Item = &TransferRecord> {
        self.records.rows()
    }

    /// All remembered refusals by id.
    pub fn failures(&self) -> impl Iterator<Item = &FailedTransfer> {
        self.failures.rows()
    }

    /// When the next reservation expires, milliseconds on the journal's clock: the time to call
    /// [`Ledger::decide_expiries`].
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|(expires_at_ms, _)| *expires_at_ms)
    }
}

/// What a recorded transfer changes. The ledger is one, and so is the overlay in which a chain is decided: both
/// change by the same code, so that a chain is judged by what will happen.
pub(crate) trait Books {
    fn account_mut(&mut self, id: AccountId) -> Option<&mut Account>;
    fn record(&self, id: TransferId) -> Option<&TransferRecord>;
    fn insert_record(&mut self, record: TransferRecord);
    fn update_status(&mut self, id: TransferId, status: TransferStatus);
}

impl Books for Ledger {
    fn account_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        self.accounts.get_mut(id)
    }

    fn record(&self, id: TransferId) -> Option<&TransferRecord> {
        self.records.get(id)
    }

    fn insert_record(&mut self, record: TransferRecord) {
        let id = record.transfer.id;
        if let TransferStatus::Reserved { expires_at_ms: Some(expires_at_ms) } = record.status {
            self.expiries.insert((expires_at_ms, id));
        }
        self.records.insert(record);
    }

    fn update_status(&mut self, id: TransferId, status: TransferStatus) {
        if let Some(record) = self.records.get_mut(id) {
            if let TransferStatus::Reserved { expires_at_ms: Some(expires_at_ms) } = record.status {
                self.expiries.remove(&(expires_at_ms, id));
            }
            record.status = status;
        }
    }
}

/// Saturates where it might overflow: decided events never do, and replay must not stop.
pub(crate) fn record_transfer(books: &mut impl Books, transfer: &Transfer, amount: u64, recorded_at_ms: u64) {
    let status = match &transfer.kind {
        TransferKind::Post(movement) => {
            if let Some(debit) = books.account_mut(movement.debit) {
                debit.debits_posted = debit.debits_posted.saturating_add(amount);
            }
            if let Some(credit) = books.account_mut(movement.credit) {
                credit.credits_posted = credit.credits_posted.saturating_add(amount);
            }
            TransferStatus::Final
        }
        TransferKind::Reserve { movement, timeout_ms } => {
            if let Some(debit) = books.account_mut(movement.debit) {
                debit.debits_pending = debit.debits_pending.saturating_add(amount);
            }
            if let Some(credit) = books.account_mut(movement.credit) {
                credit.credits_pending = credit.credits_pending.saturating_add(amount);
            }
            TransferStatus::Reserved {
                expires_at_ms: timeout_ms.map(|timeout_ms| recorded_at_ms.saturating_add(timeout_ms)),
            }
        }
        TransferKind::PostPending { pending, .. } => {
            resolve_reservation(books, *pending, amount, TransferStatus::Posted { by: transfer.id, amount });
            TransferStatus::Final
        }
        TransferKind::VoidPending { pending } => {
            resolve_reservation(books, *pending, 0, TransferStatus::Voided { by: transfer.id });
            TransferStatus::Final
        }
    };
    books.insert_record(TransferRecord { transfer: transfer.clone(), amount, recorded_at_ms, status });
}

/// Releases the whole reservation and posts `posted` minor units of it.
fn resolve_reservation(books: &mut impl Books, pending: TransferId, posted: u64, status: TransferStatus) {
    let Some((movement, mut reserved)) = open_reservation(books, pending) else { return };
    if Mutant::RestStaysReserved.is_active() && posted > 0 {
        reserved = posted;
    }
    if let Some(debit) = books.account_mut(movement.debit) {
        debit.debits_pending = debit.debits_pending.saturating_sub(reserved);
        debit.debits_posted = debit.debits_posted.saturating_add(posted);
    }
    if let Some(credit) = books.account_mut(movement.credit) {
        credit.credits_pending = credit.credits_pending.saturating_sub(reserved);
        credit.credits_posted = credit.credits_posted.saturating_add(posted);
    }
    books.update_status(pending, status);
}

fn open_reservation(books: &impl Books, pending: TransferId) -> Option<(Movement, u64)> {
    let record = books.record(pending)?;
    match (&record.transfer.kind, record.status) {
        (TransferKind::Reserve { movement, .. }, TransferStatus::Reserved { .. }) => {
            Some((*movement, record.amount))
        }
        _ => None,
    }
}

/// The form in which a ledger is stored: lists, so that an id cannot hide a second entry under the same key.
#[derive(Deserialize)]
#[serde(rename = "Ledger", deny_unknown_fields)]
struct StoredLedger {
    accounts: Vec<Account>,
    records: Vec<TransferRecord>,
    failures: Vec<FailedTransfer>,
}

impl TryFrom<StoredLedger> for Ledger {
    type Error = InvariantViolation;

    fn try_from(stored: StoredLedger) -> Result<Self, InvariantViolation> {
        let mut ledger = Self::default();
        for account in stored.accounts {
            let id = account.id;
            if !ledger.accounts.insert(account) {
                return Err(InvariantViolation::AccountStoredTwice { id });
            }
        }
        for record in stored.records {
            let id = record.transfer.id;
            if ledger.records.contains(id) {
                return Err(InvariantViolation::TransferStoredTwice { id });
            }
            ledger.insert_record(record);
        }
        for failure in stored.failures {
            let id = failure.transfer.id;
            if !ledger.failures.insert(failure) {
                return Err(InvariantViolation::TransferStoredTwice { id });
            }
        }
        ledger.check()?;
        Ok(ledger)
    }
}
