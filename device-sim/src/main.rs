//! Simulated worlds, fleets and the test bank.

fn main() {}
