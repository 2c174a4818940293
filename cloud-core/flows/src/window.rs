//! The idempotency window (MO-3, correctness.md 17): answers are remembered until their request's `not_after`. Later
//! the request is refused without a look-up, so forgetting can never let one through twice.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{Hash, IdempotencyKey, Principal};
use schemas::message::RequestAnswer;
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Remembered answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    answers: BTreeMap<(Principal, IdempotencyKey), Remembered>,
    ends: BTreeSet<(Timestamp, Principal, IdempotencyKey)>,
    /// Of `answers`, by whom: asked for at each request.
    #[serde(skip)]
    counts: BTreeMap<Principal, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) content: Hash,
    pub(crate) answer: RequestAnswer,
}

impl Window {
    pub(crate) fn find(&self, principal: &Principal, key: IdempotencyKey) -> Option<&Remembered> {
        self.answers.get(&(principal.clone(), key))
    }

    /// How many answers of `principal` are remembered.
    pub(crate) fn count(&self, principal: &Principal) -> usize {
        self.counts.get(principal).copied().unwrap_or_default()
    }

    pub(crate) fn remember(
        &mut self,
        principal: &Principal,
        content: Hash,
        answer: &RequestAnswer,
        until: Timestamp,
    ) {
        self.ends.insert((until, principal.clone(), answer.key));
        let remembered = Remembered { content, answer: answer.clone() };
        if self.answers.insert((principal.clone(), answer.key), remembered).is_none() {
            *self.counts.entry(principal.clone()).or_default() += 1;
        }
    }

    /// Forgets what ended before `now`. Called with the time of each event, so replay forgets the same.
    pub(crate) fn forget(&mut self, now: Timestamp) {
        while self.ends.first().is_some_and(|(until, _, _)| *until < now) {
            if let Some((_, principal, key)) = self.ends.pop_first() {
                self.remove(principal, key);
            }
        }
    }

    fn remove(&mut self, principal: Principal, key: IdempotencyKey) {
        let name = (principal, key);
        if self.answers.remove(&name).is_none() {
            return;
        }
        if let Some(count) = self.counts.get_mut(&name.0) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&name.0);
            }
        }
    }

    /// A snapshot has the answers only.
    pub(crate) fn restore_counts(&mut self) {
        self.counts = self.counted();
    }

    /// Whether the counts are those of the answers.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.counts == self.counted() {
            Ok(())
        } else {
            Err("remembered answers are miscounted".to_owned())
        }
    }

    fn counted(&self) -> BTreeMap<Principal, usize> {
        let mut counts = BTreeMap::new();
        for (principal, _) in self.answers.keys() {
            *counts.entry(principal.clone()).or_default() += 1;
        }
        counts
    }
}
