//! Simulated worlds, fleets and the test bank.

pub mod bank;
mod bench;
pub mod cli;
mod generator;
pub mod live;
mod mqtt;
mod processes;
pub mod world;
