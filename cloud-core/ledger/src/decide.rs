//! Decisions: ladders of checks, then events that cannot fail.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use schemas_mutants::Mutant;

use crate::ledger::{Books, record_transfer};
use crate::{
    Account, AccountId, AccountRejection, BalanceLimit, Balancing, Event, Ledger, Movement, OpenAccount,
    Reason, Rejection, RetireRejection, Transfer, TransferId, TransferKind, TransferRecord, TransferStatus,
};

/// The answer to a chain of transfers, with the events that make it lasting.
///
/// **A refusal may carry events too**: that the ids are used up is a fact to be kept. So: write and evolve `events`
/// whatever `result` says, then answer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "the events must be journaled and evolved even when the result is a refusal"]
pub struct Decision {
    /// To be journaled and evolved in this order, all or none.
    pub events: Vec<Event>,
    /// What to tell the caller once the events are durable.
    pub result: Result<Answer, Rejection>,
}

/// Success. The two differ only in whether something changed; a caller that retries treats both alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The transfers happen now.
    Recorded,
    /// The same transfers with the same content happened before; there are no events.
    Exists,
}

impl Ledger {
    /// Opens an account. No events means that it exists with the same content (even if it was closed since).
    ///
    /// # Errors
    /// See [`AccountRejection`]; the same id with other content gives `exists_with_different_<field>`.
    pub fn decide_open_account(
        &self,
        request: &OpenAccount,
        now_ms: u64,
    ) -> Result<Vec<Event>, AccountRejection> {
        if request.id == AccountId(0) {
            return Err(AccountRejection::IdMustNotBeZero);
        }
        if !(1..=999).contains(&request.currency.0) {
            return Err(AccountRejection::CurrencyOutOfRange);
        }
        if let Some(account) = self.account(request.id) {
            return same_account(request, account).map(|()| Vec::new());
        }
        if self.accounts.len() >= self.limits.accounts {
            return Err(AccountRejection::LedgerFull);
        }
        Ok(vec![Event::AccountOpened { account: request.clone(), opened_at_ms: now_ms }])
    }

    /// Closes an account for good. No events means that it is closed already.
    ///
    /// # Errors
    /// The account is not known, has open reservations, or has a balance: see [`AccountRejection`].
    pub fn decide_close_account(&self, id: AccountId, now_ms: u64) -> Result<Vec<Event>, AccountRejection> {
        let account = self.account(id).ok_or(AccountRejection::NotFound)?;
        if account.is_closed() {
            return Ok(Vec::new());
        }
        if account.debits_pending > 0 || account.credits_pending > 0 {
            return Err(AccountRejection::HasPending);
        }
        if account.balance() != 0 {
            return Err(AccountRejection::HasBalance);
        }
        Ok(vec![Event::AccountClosed { id, closed_at_ms: now_ms }])
    }

    /// Decides a chain of linked transfers: all of them happen or none does. Each sees what those before it did, so
    /// a chain may reserve and post at once. One transfer is a chain of one.
    ///
    /// A retry is answered as the first attempt was (MO-3) as long as the ids are in memory: retire an id only
    /// when its request can no longer arrive. [`Reason`] has the order of the checks.
    pub fn decide_transfers(&self, chain: &[Transfer], now_ms: u64) -> Decision {
        match self.climb_ladder(chain, now_ms) {
            Ok(Climbed::Top(events)) => Decision { events, result: Ok(Answer::Recorded) },
            Ok(Climbed::Exists) => Decision { events: Vec::new(), result: Ok(Answer::Exists) },
            Err(Refusal::Stateless(rejection)) => Decision { events: Vec::new(), result: Err(rejection) },
            Err(Refusal::MetState(rejection)) => self.remember_refusal(chain, rejection, now_ms),
        }
    }

    /// Expiries that are due, in the order (time of expiry, id), at most `limit`. Call again after evolving while
    /// [`Ledger::next_expiry`] is not later than `now_ms`.
    pub fn decide_expiries(&self, now_ms: u64, limit: usize) -> Vec<Event> {
        self.expiries
            .iter()
            .take_while(|(expires_at_ms, _)| *expires_at_ms <= now_ms)
            .take(limit)
            .map(|(_, id)| Event::ReservationExpired { id: *id, expired_at_ms: now_ms })
            .collect()
    }

    /// Forgets closed transfers and refusals, so that memory follows open work. Ids that are not in memory are
    /// passed over; no events means that none was. **A forgotten id is a new id:** retire only what can no longer
    /// be retried.
    ///
    /// # Errors
    /// [`RetireRejection`] when one of them is an open reservation, or when there are too many.
    pub fn decide_retire(&self, ids: &[TransferId]) -> Result<Vec<Event>, RetireRejection> {
        let limit = self.limits.retired_at_once;
        if ids.len() > limit {
            return Err(RetireRejection::TooMany { count: ids.len(), limit });
        }
        let mut known = BTreeSet::new();
        for id in ids {
            match self.records.get(*id).map(|record| record.status) {
                Some(TransferStatus::Reserved { .. }) => return Err(RetireRejection::Pending { id: *id }),
                Some(_) => known.insert(*id),
                None => self.failures.contains(*id) && known.insert(*id),
            };
        }
        if known.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Event::TransfersRetired { ids: known.into_iter().collect() }])
    }

    fn climb_ladder(&self, chain: &[Transfer], now_ms: u64) -> Result<Climbed, Refusal> {
        check_requests(chain, self.limits.chain).map_err(Refusal::Stateless)?;
        if self.check_identities(chain).map_err(Refusal::Stateless)? {
            return Ok(Climbed::Exists);
        }
        self.check_room(chain).map_err(Refusal::Stateless)?;
        self.check_state(chain, now_ms).map(Climbed::Top).map_err(Refusal::MetState)
    }

    /// True if every transfer of the chain exists with the same content.
    fn check_identities(&self, chain: &[Transfer]) -> Result<bool, Rejection> {
        let mut first_existing = None;
        let mut first_linked = None;
        let mut existing = 0;
        for (index, transfer) in (0..).zip(chain) {
            if let Some(record) = self.records.get(transfer.id) {
                if let Some(reason) = transfer.difference(&record.transfer) {
                    return Err(Rejection { index, reason });
                }
                first_existing = first_existing.or(Some(index));
                existing += 1;
            } else if let Some(failure) = self.failures.get(transfer.id) {
                if *transfer != failure.transfer {
                    return Err(Rejection { index, reason: Reason::IdAlreadyFailed });
                }
                // The answer to a retried chain is the refusal of the member that broke it, not of its neighbours.
                if failure.reason != Reason::LinkedTransferFailed {
                    return Err(Rejection { index, reason: failure.reason });
                }
                first_linked = first_linked.or(Some(index));
            }
        }
        if let Some(index) = first_linked {
            return Err(Rejection { index, reason: Reason::LinkedTransferFailed });
        }
        match first_existing {
            Some(index) if existing < chain.len() => {
                Err(Rejection { index, reason: Reason::ExistsOutsideChain })
            }
            found => Ok(found.is_some()),
        }
    }

    fn check_room(&self, chain: &[Transfer]) -> Result<(), Rejection> {
        let is_new_money =
            |kind: &TransferKind| matches!(kind, TransferKind::Post(_) | TransferKind::Reserve { .. });
        let first_new = (0..).zip(chain).find(|(_, transfer)| is_new_money(&transfer.kind));
        match first_new {
            Some((index, _)) if self.records.len() + chain.len() > self.limits.transfers => {
                Err(Rejection { index, reason: Reason::LedgerFull })
            }
            _ => Ok(()),
        }
    }

    fn check_state(&self, chain: &[Transfer], now_ms: u64) -> Result<Vec<Event>, Rejection> {
        let mut overlay = Overlay::new(self);
        let mut events = Vec::with_capacity(chain.len());
        for (index, transfer) in (0u32..).zip(chain) {
            let amount =
                overlay.check_transfer(transfer, now_ms).map_err(|reason| Rejection { index, reason })?;
            // Nobody looks at the overlay after the last one: a single transfer copies nothing.
            if events.len() + 1 < chain.len() {
                record_transfer(&mut overlay, transfer, amount, now_ms);
            }
            events.push(Event::TransferRecorded {
                transfer: transfer.clone(),
                amount,
                recorded_at_ms: now_ms,
            });
        }
        if Mutant::LinkedTransferDropped.is_active() && events.len() > 1 {
            events.pop();
        }
        Ok(events)
    }

    fn remember_refusal(&self, chain: &[Transfer], rejection: Rejection, now_ms: u64) -> Decision {
        if self.failures.len() + chain.len() > self.limits.failures {
            // An answer that could not be kept must not be given.
            let rejection = Rejection { reason: Reason::LedgerFull, ..rejection };
            return Decision { events: Vec::new(), result: Err(rejection) };
        }
        let events = (0..)
            .zip(chain)
            .map(|(index, transfer)| Event::TransferFailed {
                transfer: transfer.clone(),
                reason: if index == rejection.index {
                    rejection.reason
                } else {
                    Reason::LinkedTransferFailed
                },
                failed_at_ms: now_ms,
            })
            .collect();
        Decision { events, result: Err(rejection) }
    }
}

enum Climbed {
    Top(Vec<Event>),
    Exists,
}

enum Refusal {
    Stateless(Rejection),
    MetState(Rejection),
}

fn same_account(request: &OpenAccount, account: &Account) -> Result<(), AccountRejection> {
    if request.currency != account.currency {
        Err(AccountRejection::ExistsWithDifferentCurrency)
    } else if request.code != account.code {
        Err(AccountRejection::ExistsWithDifferentCode)
    } else if request.limit != account.limit {
        Err(AccountRejection::ExistsWithDifferentLimit)
    } else {
        Ok(())
    }
}

fn check_requests(chain: &[Transfer], limit: usize) -> Result<(), Rejection> {
    if chain.is_empty() {
        return Err(Rejection { index: 0, reason: Reason::ChainEmpty });
    }
    if chain.len() > limit {
        return Err(Rejection { index: 0, reason: Reason::ChainTooLong });
    }
    let mut ids = BTreeSet::new();
    for (index, transfer) in (0..).zip(chain) {
        let refuse = |reason| Err(Rejection { index, reason });
        if transfer.id == TransferId(0) {
            return refuse(Reason::IdMustNotBeZero);
        }
        if chain.len() > 1 && !ids.insert(transfer.id) {
            return refuse(Reason::IdRepeatedInChain);
        }
        check_kind(transfer).or_else(refuse)?;
    }
    Ok(())
}

fn check_kind(transfer: &Transfer) -> Result<(), Reason> {
    match &transfer.kind {
        TransferKind::Post(movement) => check_movement(movement),
        TransferKind::Reserve { movement, timeout_ms } => {
            check_movement(movement)?;
            if *timeout_ms == Some(0) { Err(Reason::TimeoutMustNotBeZero) } else { Ok(()) }
        }
        TransferKind::PostPending { amount: Some(0), .. } => Err(Reason::AmountMustNotBeZero),
        TransferKind::PostPending { pending, .. } | TransferKind::VoidPending { pending } => {
            if *pending == transfer.id { Err(Reason::PendingMustDiffer) } else { Ok(()) }
        }
    }
}

fn check_movement(movement: &Movement) -> Result<(), Reason> {
    if movement.debit == movement.credit {
        Err(Reason::AccountsMustDiffer)
    } else if movement.amount == 0 {
        Err(Reason::AmountMustNotBeZero)
    } else {
        Ok(())
    }
}

/// The ledger as the next transfer of a chain will find it: copies of what the chain touched, the rest by reference.
struct Overlay<'a> {
    ledger: &'a Ledger,
    accounts: BTreeMap<AccountId, Account>,
    records: BTreeMap<TransferId, TransferRecord>,
}

impl<'a> Overlay<'a> {
    fn new(ledger: &'a Ledger) -> Self {
        Self { ledger, accounts: BTreeMap::new(), records: BTreeMap::new() }
    }

    fn account(&self, id: AccountId) -> Option<&Account> {
        self.accounts.get(&id).or_else(|| self.ledger.accounts.get(id))
    }

    /// The amount that the transfer will post, reserve or release.
    fn check_transfer(&self, transfer: &Transfer, now_ms: u64) -> Result<u64, Reason> {
        match &transfer.kind {
            TransferKind::Post(movement) => self.check_accounts(movement, None, now_ms),
            TransferKind::Reserve { movement, timeout_ms } => {
                self.check_accounts(movement, *timeout_ms, now_ms)
            }
            TransferKind::PostPending { pending, amount } => {
                let reserved = self.check_pending(*pending, now_ms)?;
                let amount = amount.unwrap_or(reserved);
                if amount > reserved { Err(Reason::ExceedsPendingAmount) } else { Ok(amount) }
            }
            TransferKind::VoidPending { pending } => self.check_pending(*pending, now_ms),
        }
    }

    /// The reserved amount. Resolving can neither overflow nor break a limit: those counted the reservation already,
    /// and an account with reservations cannot be closed.
    fn check_pending(&self, pending: TransferId, now_ms: u64) -> Result<u64, Reason> {
        let record = self.record(pending).ok_or(Reason::PendingNotFound)?;
        match record.status {
            TransferStatus::Final => Err(Reason::PendingNotReservation),
            TransferStatus::Posted { .. } => Err(Reason::PendingAlreadyPosted),
            TransferStatus::Voided { .. } => Err(Reason::PendingAlreadyVoided),
            TransferStatus::Expired => Err(Reason::PendingExpired),
            // Time decides, not how soon somebody called `decide_expiries`.
            TransferStatus::Reserved { expires_at_ms: Some(expires_at_ms) } if expires_at_ms <= now_ms => {
                Err(Reason::PendingExpired)
            }
            TransferStatus::Reserved { .. } => Ok(record.amount),
        }
    }

    fn check_accounts(
        &self,
        movement: &Movement,
        timeout_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<u64, Reason> {
        let debit = self.account(movement.debit).ok_or(Reason::DebitAccountNotFound)?;
        let credit = self.account(movement.credit).ok_or(Reason::CreditAccountNotFound)?;
        if debit.is_closed() {
            return Err(Reason::DebitAccountClosed);
        }
        if credit.is_closed() {
            return Err(Reason::CreditAccountClosed);
        }
        if debit.currency != movement.currency {
            return Err(Reason::DebitCurrencyMismatch);
        }
        if credit.currency != movement.currency {
            return Err(Reason::CreditCurrencyMismatch);
        }
        let amount = match movement.balancing {
            None => movement.amount,
            Some(Balancing::Debit) => movement.amount.min(debit.available_to_debit()),
            Some(Balancing::Credit) => movement.amount.min(credit.available_to_credit()),
        };
        if amount == 0 {
            return Err(Reason::NothingAvailable);
        }
        let debits = checked_total(debit.debits_pending, debit.debits_posted, amount);
        let debits = debits.ok_or(Reason::OverflowsDebits)?;
        let credits = checked_total(credit.credits_pending, credit.credits_posted, amount);
        let credits = credits.ok_or(Reason::OverflowsCredits)?;
        if timeout_ms.is_some_and(|timeout_ms| now_ms.checked_add(timeout_ms).is_none()) {
            return Err(Reason::OverflowsTimeout);
        }
        if debit.limit == BalanceLimit::DebitsMustNotExceedCredits && debits > debit.credits_posted {
            return Err(Reason::ExceedsCredits);
        }
        if credit.limit == BalanceLimit::CreditsMustNotExceedDebits && credits > credit.debits_posted {
            return Err(Reason::ExceedsDebits);
        }
        Ok(amount)
    }
}

fn checked_total(pending: u64, posted: u64, amount: u64) -> Option<u64> {
    pending.checked_add(posted)?.checked_add(amount)
}

impl Books for Overlay<'_> {
    fn account_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        if !self.accounts.contains_key(&id) {
            self.accounts.insert(id, self.ledger.accounts.get(id)?.clone());
        }
        self.accounts.get_mut(&id)
    }

    fn record(&self, id: TransferId) -> Option<&TransferRecord> {
        self.records.get(&id).or_else(|| self.ledger.records.get(id))
    }

    fn insert_record(&mut self, record: TransferRecord) {
        self.records.insert(record.transfer.id, record);
    }

    fn update_status(&mut self, id: TransferId, status: TransferStatus) {
        if let Some(mut record) = self.record(id).cloned() {
            record.status = status;
            self.records.insert(id, record);
        }
    }
}
