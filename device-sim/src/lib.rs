//! Simulated worlds, fleets and the test bank.

pub mod bank;
