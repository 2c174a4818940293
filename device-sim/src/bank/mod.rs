//! The test bank: an HTTP server with a real book and faults on demand, for tests and demos.
//!
//! It honours the contract that Farthing asks of any bank (correctness.md 18): every call is idempotent by
//! a key that the caller chooses, `cancel` is a fence, and refunds never exceed the transfer.
//!
//! | Call | Answer |
//! |---|---|
//! | `PUT /transfers/{key}` with [`TransferRequest`] | `done`, `refused` + `code`, `cancelled` |
//! | `GET /transfers/{key}` | `done`, `refused`, `cancelled`, `not_found` |
//! | `PUT /transfers/{key}/cancel` | `cancelled`, `done` (too late to cancel), `refused` |
//! | `PUT /refunds/{key}` with [`RefundRequest`] | `done`, `refused` + `code` |
//! | `PUT /accounts/{name}` with `{"balance": "10.00", "currency": "EUR"}` | the account |
//! | `GET /book` | [`Book`]: accounts, transfers, refunds |
//! | `PUT /faults` with `{"rules": [..]}` | replaces the queue of [`FaultRule`]s |
//! | `POST /release` | lets go of everything held by `hold_request` and `hold_answer` |
//!
//! Answers to the first four are `200` with `{"key": .., "state": .., "code"?: ..}`, `not_found` included:
//! a 404 would be indistinguishable from a wrong address. `409` = same key, other content; `400` = not a
//! request. All of them are JSON.

mod book;
mod fault;
mod server;
mod store;

pub use book::{
    Account, Book, Decision, Key, Refund, RefundRequest, Transfer, TransferRequest, Unacceptable, limits,
};
pub use fault::{Call, Fault, FaultRule};
pub use server::serve;
pub use store::{Store, StoreError};

/// Amounts travel as decimal text: a JSON number would pass through a float somewhere (MO-7).
mod decimal_text {
    use rust_decimal::Decimal;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(amount: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(amount)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = text.len() <= 40 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
        let amount = if plain { Decimal::from_str_exact(&text).ok() } else { None };
        amount.ok_or_else(|| de::Error::custom("an amount is decimal text, for instance \"12.50\""))
    }
}
