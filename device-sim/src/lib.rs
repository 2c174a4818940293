//! Simulated worlds, fleets and the test bank.

pub mod bank;
mod bench;
pub mod cli;
pub mod live;
mod mqtt;
pub mod world;
