//! Simulated worlds, fleets and the test bank.

pub mod bank;
pub mod cli;
pub mod live;
pub mod world;
