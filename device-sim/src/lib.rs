//! Simulated worlds, fleets and the test bank.
