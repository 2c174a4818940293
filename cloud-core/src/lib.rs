//! The cloud core: owns the money, embeds the broker.
//!
//! This is the shell: sockets, threads, clocks, files. What is decided stands in `cloud-core-flows`; the thread that
//! asks it is in [`runtime`], everything that a start makes in [`serve`], the command line in [`cli`].

pub mod admin;
mod audit;
pub mod authority;
pub mod bank;
pub mod cli;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod enrolment;
mod health;
pub mod history;
mod http;
mod random;
pub mod runtime;
pub mod serve;
mod signatures;
mod signing;
pub mod telemetry;
