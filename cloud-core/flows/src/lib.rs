//! Cloud = registry + ledger + outbox + timers + flows, as one pure state machine; [`driver`] holds THE order.
//!
//! Read [`driver`] first, then [`port`] (what goes in and out), then the chip payment in `chip.rs`
//! and the parent-child payment in `child.rs`.
//!
//! # What is absent
//! No clock, no randomness, no thread, no socket. No output before the position it was computed from is synced. No
//! money moved by a guess. No payment that ends neither final nor named in the exceptions queue.

pub mod admin;
mod books;
mod child;
pub mod children;
mod chip;
mod cloud;
mod decision;
mod desk;
pub mod driver;
pub mod event;
pub mod exceptions;
mod feed;
mod incoming;
pub mod limits;
mod listing;
mod lobby;
mod opening;
pub mod outbox;
pub mod payment;
pub mod places;
pub mod port;
pub mod registry;
pub mod rejection;
pub mod right;
mod signer;
mod tell;
mod undo;
mod upkeep;
mod window;

pub use cloud::{Cloud, CloudBesidePayments, PaymentsOfSnapshot};
