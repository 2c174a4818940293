//! What each principal may say, over all its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker_session::{Allowance, Rates};
use schemas::ids::Principal;

/// Swept when there are so many, and then at each doubling.
const FIRST_SWEEP: usize = 1_024;

/// The allowances of everybody who is connected, and of those who were and have not yet paid back: a new connection is
/// no new allowance.
#[derive(Debug)]
pub(crate) struct Quotas {
    rates: Rates,
    shared: Mutex<Allowances>,
}

#[derive(Debug)]
struct Allowances {
    of: HashMap<Principal, Arc<Mutex<Allowance>>>,
    next_sweep: usize,
}

/// One connection's part in its principal's allowance.
#[derive(Debug, Clone)]
pub(crate) struct Quota(Arc<Mutex<Allowance>>);

impl Quotas {
    pub(crate) fn new(rates: Rates) -> Self {
        Self { rates, shared: Mutex::new(Allowances { of: HashMap::new(), next_sweep: FIRST_SWEEP }) }
    }

    /// The allowance of this principal, which it shares with its other connections.
    pub(crate) fn of(&self, principal: &Principal, now_ms: u64) -> Quota {
        let mut allowances = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Allowances { of, next_sweep } = &mut *allowances;
        if let Some(known) = of.get(principal) {
            return Quota(known.clone());
        }
        if of.len() >= *next_sweep {
            of.retain(|_, known| Arc::strong_count(known) > 1 || !locked(known).is_full(now_ms));
            *next_sweep = (of.len() * 2).max(FIRST_SWEEP);
        }
        let allowance = Arc::new(Mutex::new(Allowance::new(self.rates, now_ms)));
        of.insert(principal.clone(), allowance.clone());
        Quota(allowance)
    }
}

impl Quota {
    /// Counts what has come. Whether there was room before, and until when nothing more should be read.
    pub(crate) fn charge(&self, now_ms: u64, packets: u64, bytes: u64) -> (bool, Option<u64>) {
        let mut allowance = locked(&self.0);
        let is_used_up = allowance.is_used_up(now_ms);
        allowance.take(now_ms, packets, bytes);
        (is_used_up, allowance.rests_until_ms(now_ms))
    }
}

/// A panic elsewhere leaves numbers behind, whatever they are.
fn locked(allowance: &Mutex<Allowance>) -> MutexGuard<'_, Allowance> {
    allowance.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_session::Rate;

    #[test]
    fn connections_of_one_principal_share_and_debts_outlive_them() {
        let rate = Rate { per_second: 1, burst: 2 };
        let quotas = Quotas::new(Rates { packets: rate, bytes: Rate { per_second: 1, burst: 1_000 } });
        let who = |name: &str| format!("acme/{name}").parse::<Principal>().unwrap();
        let first = quotas.of(&who("a"), 0);
        assert_eq!(first.charge(0, 2, 0), (false, None));
        assert_eq!(quotas.of(&who("a"), 0).charge(0, 3, 0), (true, Some(1_000)));
        drop(first);
        for number in 0..3 * FIRST_SWEEP {
            quotas.of(&who(&format!("n{number}")), 0);
        }
        assert!(quotas.shared.lock().unwrap().of.len() <= FIRST_SWEEP + 1, "what is full is forgotten");
        assert_eq!(quotas.of(&who("a"), 0).charge(0, 0, 0), (true, Some(1_000)));
        assert_eq!(quotas.of(&who("b"), 0).charge(0, 1, 0), (false, None), "others have their own");
    }
}
