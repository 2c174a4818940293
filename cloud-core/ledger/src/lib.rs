//! Double-entry ledger with two-phase transfers.
//!
//! Pure: no clock, disk, randomness or threads (`no_std`). A caller asks the ledger to *decide*, writes the decided
//! events to its journal, and lets the ledger *evolve* by them. Replay only evolves, so new code does not judge old
//! money again. The semantics are TigerBeetle's; the requirements are MO-1, MO-2 and MO-3.
//!
//! # What is absent
//!
//! - No way to change a balance except by a transfer between two accounts of one currency: debits equal credits after
//!   every event. Nothing is edited; a correction is a new transfer (MO-1).
//! - No reservation that is resolved twice: it is posted (in whole, or in part with the rest released), voided, or it
//!   expires, once (MO-2).
//! - No retry that changes an outcome: an id that happened [`Exists`](Answer::Exists), an id that was refused because
//!   of the state it met stays refused, and the same id with other content is refused with the name of the first
//!   field that differs (MO-3).
//! - No chain that happens in part: [`Ledger::decide_transfers`] takes linked transfers, and all happen or none.
//! - No float, no sum that wraps, no hash order, no error in [`Ledger::evolve`].
//!
//! # Example
//!
//! ```
//! use cloud_core_ledger::{
//!     AccountId, Answer, BalanceLimit, Decision, Event, Ledger, LedgerCode, Limits, Movement, OpenAccount, Reason,
//!     Transfer, TransferId,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! const EUR: LedgerCode = LedgerCode(978);
//! const BANK: AccountId = AccountId(1);
//! const WALLET: AccountId = AccountId(2);
//! const MERCHANT: AccountId = AccountId(3);
//!
//! // The journal would write the events to disk; here a list stands in for it.
//! let mut journal: Vec<Event> = Vec::new();
//! let mut ledger = Ledger::new(Limits::default());
//! let mut keep = |ledger: &mut Ledger, events: Vec<Event>| {
//!     for event in events {
//!         ledger.evolve(&event);
//!         journal.push(event);
//!     }
//! };
//!
//! // The bank account is the border with the world and has no limit; a wallet cannot be overdrawn.
//! for (id, limit) in [
//!     (BANK, BalanceLimit::Unlimited),
//!     (WALLET, BalanceLimit::DebitsMustNotExceedCredits),
//!     (MERCHANT, BalanceLimit::DebitsMustNotExceedCredits),
//! ] {
//!     let events = ledger.decide_open_account(&OpenAccount { id, currency: EUR, code: 0, limit }, 1_000)?;
//!     keep(&mut ledger, events);
//! }
//!
//! // 10.00 EUR arrive, 2.50 EUR are reserved for thirty seconds, 2.00 EUR are posted and 0.50 EUR released.
//! let fund = Transfer::post(TransferId(10), Movement::new(BANK, WALLET, 1000, EUR));
//! let reserve = Transfer::reserve(TransferId(11), Movement::new(WALLET, MERCHANT, 250, EUR), Some(30_000));
//! let settle = Transfer::post_pending(TransferId(12), TransferId(11), Some(200));
//! for (transfer, now_ms) in [(&fund, 2_000), (&reserve, 3_000), (&settle, 4_000)] {
//!     let Decision { events, result } = ledger.decide_transfers(std::slice::from_ref(transfer), now_ms);
//!     keep(&mut ledger, events);
//!     assert_eq!(result, Ok(Answer::Recorded));
//! }
//! assert_eq!(ledger.available(WALLET), Some(800));
//! assert_eq!(ledger.available(MERCHANT), Some(200));
//!
//! // A retry is answered and changes nothing.
//! let Decision { events, result } = ledger.decide_transfers(&[settle], 5_000);
//! assert_eq!((events, result), (vec![], Ok(Answer::Exists)));
//!
//! // A refusal has events too: the id is used up, so that the retry is refused even after more money has come.
//! let too_much = Transfer::post(TransferId(13), Movement::new(WALLET, MERCHANT, 801, EUR));
//! let Decision { events, result } = ledger.decide_transfers(&[too_much], 6_000);
//! keep(&mut ledger, events);
//! assert_eq!(result.map_err(|rejection| rejection.reason), Err(Reason::ExceedsCredits));
//!
//! // Replay gives the same books, and the books are sound.
//! let mut replayed = Ledger::new(Limits::default());
//! journal.iter().for_each(|event| replayed.evolve(event));
//! assert_eq!(replayed, ledger);
//! ledger.check()?;
//! # Ok(()) }
//! ```
//!
//! # Duties of the caller
//!
//! - Journal and evolve [`Decision::events`] even when the result is a refusal, and in one batch.
//! - Give a `now_ms` that never goes back, and call [`Ledger::decide_expiries`] when [`Ledger::next_expiry`] is due.
//!   A reservation that is due counts as expired for posts and voids at once, but its money is free only after
//!   the event.
//! - [Retire](Ledger::decide_retire) closed transfers once their requests can no longer arrive; a forgotten id is new.
//!
//! # Where to read on
//!
//! [`Reason`] is the ladder of checks, `decide.rs` climbs it, `ledger.rs` evolves, `check.rs` audits.

#![no_std]

extern crate alloc;

mod account;
mod bytes16;
mod check;
mod decide;
mod event;
mod ledger;
mod limits;
mod rejection;
mod table;
mod transfer;

pub use account::{Account, AccountId, BalanceLimit, LedgerCode, OpenAccount};
pub use check::{InvariantViolation, TrialBalance};
pub use decide::{Answer, Decision};
pub use event::Event;
pub use ledger::Ledger;
pub use limits::Limits;
pub use rejection::{AccountRejection, Reason, Rejection, RetireRejection};
pub use transfer::{
    Balancing, FailedTransfer, Movement, Transfer, TransferId, TransferKind, TransferRecord, TransferStatus,
};
