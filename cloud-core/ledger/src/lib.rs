//! Double-entry ledger with two-phase transfers.
