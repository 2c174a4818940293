//! The audit: what must be true of the books at every moment.

use alloc::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::{
    AccountId, Ledger, LedgerCode, Movement, TransferId, TransferKind, TransferRecord, TransferStatus,
};

/// Sums over all accounts of one currency, minor units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrialBalance {
    /// Sum of `debits_pending`.
    pub debits_pending: u128,
    /// Sum of `debits_posted`.
    pub debits_posted: u128,
    /// Sum of `credits_pending`.
    pub credits_pending: u128,
    /// Sum of `credits_posted`.
    pub credits_posted: u128,
}

impl TrialBalance {
    /// Whether debits equal credits (MO-1).
    pub fn is_balanced(&self) -> bool {
        self.debits_pending == self.credits_pending && self.debits_posted == self.credits_posted
    }
}

/// What is wrong with the books. Any of these is a fault of the program or of the disk, never of a caller: stop taking
/// payments, and restore from a snapshot and the journal.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs, reason = "the fields are named by the texts")]
pub enum InvariantViolation {
    /// MO-1.
    #[error("currency {}: debits and credits differ: {totals:?}", currency.0)]
    Unbalanced { currency: LedgerCode, totals: TrialBalance },
    /// An account's pending totals are exactly its open reservations.
    #[error(
        "account {id}: pending {totals:?}, but its open reservations sum to {reserved:?} (debits, credits)"
    )]
    PendingNotReserved { id: AccountId, totals: (u64, u64), reserved: (u128, u128) },
    /// No account is beyond its limit.
    #[error("account {id} is beyond its limit")]
    BeyondLimit { id: AccountId },
    /// Totals fit 64 bits.
    #[error("account {id}: pending and posted together do not fit 64 bits")]
    TotalTooLarge { id: AccountId },
    /// A closed account holds nothing.
    #[error("account {id} is closed but has a balance or open reservations")]
    ClosedNotEmpty { id: AccountId },
    /// Transfers move money between known accounts of their own currency.
    #[error("transfer {id} names account {account}, which does not exist in its currency")]
    AccountUnknown { id: TransferId, account: AccountId },
    /// Status, amount and kind of a transfer belong together.
    #[error("transfer {id}: its status or amount does not fit its request")]
    StatusImpossible { id: TransferId },
    /// The order of expiry lists the open reservations with a timeout, and nothing else.
    #[error("the order of expiry does not list exactly the open reservations with a timeout")]
    ExpiriesWrong,
    /// An id either happened or failed.
    #[error("transfer {id} both happened and failed")]
    HappenedAndFailed { id: TransferId },
    /// Only refusals that met state are kept.
    #[error("transfer {id} was remembered as refused for a reason that is not remembered")]
    FailureNotRemembered { id: TransferId },
    /// Found only when reading a stored ledger.
    #[error("the stored ledger lists account {id} twice")]
    AccountStoredTwice { id: AccountId },
    /// Found only when reading a stored ledger.
    #[error("the stored ledger lists transfer {id} twice")]
    TransferStoredTwice { id: TransferId },
}

impl Ledger {
    /// Sums per currency, in order of currency.
    pub fn trial_balance(&self) -> BTreeMap<LedgerCode, TrialBalance> {
        let mut balances: BTreeMap<LedgerCode, TrialBalance> = BTreeMap::new();
        for account in self.accounts.rows() {
            let totals = balances.entry(account.currency).or_default();
            totals.debits_pending += u128::from(account.debits_pending);
            totals.debits_posted += u128::from(account.debits_posted);
            totals.credits_pending += u128::from(account.credits_pending);
            totals.credits_posted += u128::from(account.credits_posted);
        }
        balances
    }

    /// Audits everything in memory: one pass over accounts, transfers and refusals. It reads the totals themselves
    /// and recomputes what is derived.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(&self) -> Result<(), InvariantViolation> {
        self.check_balanced()?;
        let reserved = self.check_records()?;
        self.check_each_account(&reserved)?;
        self.check_failures()
    }

    fn check_balanced(&self) -> Result<(), InvariantViolation> {
        match self.trial_balance().into_iter().find(|(_, totals)| !totals.is_balanced()) {
            Some((currency, totals)) => Err(InvariantViolation::Unbalanced { currency, totals }),
            None => Ok(()),
        }
    }

    /// The sums of open reservations by account.
    fn check_records(&self) -> Result<Reserved, InvariantViolation> {
        let mut reserved = Reserved::new();
        let mut expiries = BTreeSet::new();
        for record in self.records.rows() {
            let id = record.transfer.id;
            if !is_possible(record) {
                return Err(InvariantViolation::StatusImpossible { id });
            }
            if let Some(movement) = movement(record) {
                self.check_accounts_of(id, movement)?;
            }
            if let TransferStatus::Reserved { expires_at_ms } = record.status {
                expiries.extend(expires_at_ms.map(|expires_at_ms| (expires_at_ms, id)));
                if let Some(movement) = movement(record) {
                    reserved.entry(movement.debit).or_default().0 += u128::from(record.amount);
                    reserved.entry(movement.credit).or_default().1 += u128::from(record.amount);
                }
            }
        }
        if expiries == self.expiries { Ok(reserved) } else { Err(InvariantViolation::ExpiriesWrong) }
    }

    fn check_accounts_of(&self, id: TransferId, movement: &Movement) -> Result<(), InvariantViolation> {
        for account in [movement.debit, movement.credit] {
            if self.accounts.get(account).is_none_or(|account| account.currency != movement.currency) {
                return Err(InvariantViolation::AccountUnknown { id, account });
            }
        }
        Ok(())
    }

    fn check_each_account(&self, reserved: &Reserved) -> Result<(), InvariantViolation> {
        for account in self.accounts.rows() {
            let id = account.id;
            let reserved = reserved.get(&id).copied().unwrap_or_default();
            let totals = (account.debits_pending, account.credits_pending);
            if (u128::from(totals.0), u128::from(totals.1)) != reserved {
                return Err(InvariantViolation::PendingNotReserved { id, totals, reserved });
            }
            if account.debits_pending.checked_add(account.debits_posted).is_none()
                || account.credits_pending.checked_add(account.credits_posted).is_none()
            {
                return Err(InvariantViolation::TotalTooLarge { id });
            }
            if !account.is_within_limit() {
                return Err(InvariantViolation::BeyondLimit { id });
            }
            if account.is_closed() && (account.balance() != 0 || totals != (0, 0)) {
                return Err(InvariantViolation::ClosedNotEmpty { id });
            }
        }
        Ok(())
    }

    fn check_failures(&self) -> Result<(), InvariantViolation> {
        for failure in self.failures.rows() {
            let id = failure.transfer.id;
            if self.records.contains(id) {
                return Err(InvariantViolation::HappenedAndFailed { id });
            }
            if !failure.reason.is_remembered() {
                return Err(InvariantViolation::FailureNotRemembered { id });
            }
        }
        Ok(())
    }
}

type Reserved = BTreeMap<AccountId, (u128, u128)>;

fn movement(record: &TransferRecord) -> Option<&Movement> {
    match &record.transfer.kind {
        TransferKind::Post(movement) | TransferKind::Reserve { movement, .. } => Some(movement),
        TransferKind::PostPending { .. } | TransferKind::VoidPending { .. } => None,
    }
}

fn is_possible(record: &TransferRecord) -> bool {
    let amount_is_possible = match &record.transfer.kind {
        TransferKind::Post(movement) | TransferKind::Reserve { movement, .. } => {
            record.amount == movement.amount
                || (movement.balancing.is_some() && record.amount < movement.amount)
        }
        TransferKind::PostPending { amount, .. } => amount.is_none_or(|amount| amount == record.amount),
        TransferKind::VoidPending { .. } => true,
    };
    let status_is_possible = match (&record.transfer.kind, record.status) {
        (TransferKind::Reserve { timeout_ms, .. }, TransferStatus::Reserved { expires_at_ms }) => {
            expires_at_ms == timeout_ms.map(|timeout_ms| record.recorded_at_ms.saturating_add(timeout_ms))
        }
        (TransferKind::Reserve { .. }, TransferStatus::Posted { amount, .. }) => {
            amount > 0 && amount <= record.amount
        }
        (TransferKind::Reserve { .. }, TransferStatus::Voided { .. }) => true,
        (TransferKind::Reserve { timeout_ms, .. }, TransferStatus::Expired) => timeout_ms.is_some(),
        (TransferKind::Reserve { .. }, TransferStatus::Final) => false,
        (_, status) => status == TransferStatus::Final,
    };
    record.amount > 0 && amount_is_possible && status_is_possible
}
