//! Every limit of this package.

/// How much one ledger holds and takes at once. Limits bind decisions only: replay applies whatever was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Accounts.
    pub accounts: usize,
    /// Transfers in memory above which no new money starts to move. Posts and voids of reservations pass
    /// nevertheless, so that open payments can finish: at most twice as many are ever held.
    pub transfers: usize,
    /// Remembered refusals.
    pub failures: usize,
    /// Transfers in one chain.
    pub chain: usize,
    /// Transfers in one retirement.
    pub retired_at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            accounts: 10_000_000,
            transfers: 10_000_000,
            failures: 1_000_000,
            chain: 256,
            retired_at_once: 4096,
        }
    }
}
