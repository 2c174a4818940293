//! What the tests share: a ledger with its journal, and short names.
#![allow(dead_code, reason = "each test binary uses its own part")]

use cloud_core_ledger::{
    AccountId, Answer, BalanceLimit, Decision, Event, Ledger, LedgerCode, Limits, Movement, OpenAccount,
    Reason, Transfer, TransferId,
};

pub(crate) const EUR: LedgerCode = LedgerCode(978);
pub(crate) const JPY: LedgerCode = LedgerCode(392);
/// Unlimited, EUR.
pub(crate) const BANK: AccountId = AccountId(1);
/// Debits must not exceed credits, EUR.
pub(crate) const WALLET: AccountId = AccountId(2);
/// Debits must not exceed credits, EUR.
pub(crate) const SHOP: AccountId = AccountId(3);
/// Credits must not exceed debits, EUR.
pub(crate) const ASSET: AccountId = AccountId(4);
/// Unlimited, JPY.
pub(crate) const YEN: AccountId = AccountId(5);
/// Closed, EUR.
pub(crate) const CLOSED: AccountId = AccountId(6);
/// Never opened.
pub(crate) const NOBODY: AccountId = AccountId(99);

/// A ledger that keeps its journal and audits itself after every event.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) ledger: Ledger,
    pub(crate) journal: Vec<Event>,
}

impl Bench {
    /// The accounts above; the wallet holds 1000.
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        use BalanceLimit::{CreditsMustNotExceedDebits, DebitsMustNotExceedCredits, Unlimited};
        let mut bench = Self { ledger: Ledger::new(limits), journal: Vec::new() };
        for (id, currency, limit) in [
            (BANK, EUR, Unlimited),
            (WALLET, EUR, DebitsMustNotExceedCredits),
            (SHOP, EUR, DebitsMustNotExceedCredits),
            (ASSET, EUR, CreditsMustNotExceedDebits),
            (YEN, JPY, Unlimited),
            (CLOSED, EUR, Unlimited),
        ] {
            let request = OpenAccount { id, currency, code: 7, limit };
            let events = bench.ledger.decide_open_account(&request, 1).expect("opens");
            bench.keep(&events);
        }
        let events = bench.ledger.decide_close_account(CLOSED, 2).expect("closes");
        bench.keep(&events);
        bench.record(&[Transfer::post(TransferId(1), Movement::new(BANK, WALLET, 1000, EUR))], 3);
        bench
    }

    pub(crate) fn keep(&mut self, events: &[Event]) {
        for event in events {
            self.ledger.evolve(event);
            self.journal.push(event.clone());
            assert_eq!(self.ledger.check(), Ok(()), "after {event:?}");
        }
    }

    pub(crate) fn submit(&mut self, chain: &[Transfer], now_ms: u64) -> Result<Answer, (u32, Reason)> {
        let Decision { events, result } = self.ledger.decide_transfers(chain, now_ms);
        self.keep(&events);
        result.map_err(|rejection| (rejection.index, rejection.reason))
    }

    pub(crate) fn record(&mut self, chain: &[Transfer], now_ms: u64) {
        assert_eq!(self.submit(chain, now_ms), Ok(Answer::Recorded));
    }

    pub(crate) fn expire(&mut self, now_ms: u64) -> Vec<Event> {
        let events = self.ledger.decide_expiries(now_ms, usize::MAX);
        self.keep(&events);
        events
    }

    /// (debits_pending, debits_posted, credits_pending, credits_posted)
    pub(crate) fn totals(&self, id: AccountId) -> (u64, u64, u64, u64) {
        let account = self.ledger.account(id).expect("is open");
        (account.debits_pending, account.debits_posted, account.credits_pending, account.credits_posted)
    }
}

pub(crate) fn post(id: u128, debit: AccountId, credit: AccountId, amount: u64) -> Transfer {
    Transfer::post(TransferId(id), Movement::new(debit, credit, amount, EUR))
}

pub(crate) fn reserve(
    id: u128,
    debit: AccountId,
    credit: AccountId,
    amount: u64,
    timeout_ms: Option<u64>,
) -> Transfer {
    Transfer::reserve(TransferId(id), Movement::new(debit, credit, amount, EUR), timeout_ms)
}

pub(crate) fn post_pending(id: u128, pending: u128, amount: Option<u64>) -> Transfer {
    Transfer::post_pending(TransferId(id), TransferId(pending), amount)
}

pub(crate) fn void_pending(id: u128, pending: u128) -> Transfer {
    Transfer::void_pending(TransferId(id), TransferId(pending))
}
