//! Accounts: four running totals, a currency, a limit.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Names an account. Zero is refused, so that a forgotten id is not somebody's account.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(#[serde(with = "crate::bytes16")] pub u128);

impl fmt::Display for AccountId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// The currency an account is kept in: ISO 4217 numeric, 1 to 999. Money never crosses from one code to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LedgerCode(pub u16);

/// Which side of an account may not outgrow the other. One or none: both at once would freeze the account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceLimit {
    /// Either side may be the larger: the ledger's border with the world, for example the bank.
    #[default]
    Unlimited,
    /// `debits_pending + debits_posted <= credits_posted`: a wallet that cannot be overdrawn.
    DebitsMustNotExceedCredits,
    /// `credits_pending + credits_posted <= debits_posted`: the mirror image, for assets.
    CreditsMustNotExceedDebits,
}

/// What a caller asks for when it opens an account. See [`Ledger::decide_open_account`](crate::Ledger::decide_open_account).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAccount {
    /// Chosen by the caller before sending: it is the idempotency key (MO-3).
    pub id: AccountId,
    /// Never changes.
    pub currency: LedgerCode,
    /// The caller's own category (wallet, merchant, holding ...); the ledger does not read it.
    pub code: u16,
    /// Never changes.
    pub limit: BalanceLimit,
}

/// An account. Totals are in minor units and only grow, except the pending ones, which follow open reservations.
///
/// In every account `debits_pending + debits_posted` and `credits_pending + credits_posted` each fit a `u64`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The account's name.
    pub id: AccountId,
    /// Its currency.
    pub currency: LedgerCode,
    /// The caller's category.
    pub code: u16,
    /// Its limit rule.
    pub limit: BalanceLimit,
    /// Sum of the open reservations that debit this account, minor units.
    pub debits_pending: u64,
    /// Sum of everything ever debited, minor units.
    pub debits_posted: u64,
    /// Sum of the open reservations that credit this account, minor units.
    pub credits_pending: u64,
    /// Sum of everything ever credited, minor units.
    pub credits_posted: u64,
    /// Milliseconds on the journal's clock.
    pub opened_at_ms: u64,
    /// Set once; a closed account takes no transfer and does not open again.
    pub closed_at_ms: Option<u64>,
}

impl Account {
    pub(crate) fn open(request: &OpenAccount, opened_at_ms: u64) -> Self {
        Self {
            id: request.id,
            currency: request.currency,
            code: request.code,
            limit: request.limit,
            debits_pending: 0,
            debits_posted: 0,
            credits_pending: 0,
            credits_posted: 0,
            opened_at_ms,
            closed_at_ms: None,
        }
    }

    /// Whether the account was closed.
    pub fn is_closed(&self) -> bool {
        self.closed_at_ms.is_some()
    }

    /// `credits_posted - debits_posted`, minor units; positive means that the account's owner is owed money.
    pub fn balance(&self) -> i128 {
        i128::from(self.credits_posted) - i128::from(self.debits_posted)
    }

    /// What may still be debited before the debits exceed the posted credits, minor units; zero when they already do.
    pub fn available_to_debit(&self) -> u64 {
        self.credits_posted.saturating_sub(self.debits_pending.saturating_add(self.debits_posted))
    }

    /// What may still be credited before the credits exceed the posted debits, minor units; zero when they already do.
    pub fn available_to_credit(&self) -> u64 {
        self.debits_posted.saturating_sub(self.credits_pending.saturating_add(self.credits_posted))
    }

    /// Whether the totals obey the account's own limit rule.
    pub(crate) fn is_within_limit(&self) -> bool {
        let debits = u128::from(self.debits_pending) + u128::from(self.debits_posted);
        let credits = u128::from(self.credits_pending) + u128::from(self.credits_posted);
        match self.limit {
            BalanceLimit::Unlimited => true,
            BalanceLimit::DebitsMustNotExceedCredits => debits <= u128::from(self.credits_posted),
            BalanceLimit::CreditsMustNotExceedDebits => credits <= u128::from(self.debits_posted),
        }
    }
}
