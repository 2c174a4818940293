//! Publishes of the client that wait for their promise, in the order of arrival.

use std::collections::VecDeque;

use schemas_mutants::Mutant;

use crate::types::{Promise, PublishToken};

/// The queue. Its owner enforces its bound.
#[derive(Debug, Default)]
pub(crate) struct Publishes {
    queue: VecDeque<Unanswered>,
    next_token: u64,
}

#[derive(Debug)]
struct Unanswered {
    packet_id: u16,
    token: PublishToken,
    promise: Option<Promise>,
}

impl Publishes {
    /// How many wait, settled ones behind an unsettled one included.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether a publish with this packet id still waits for its PUBACK.
    pub(crate) fn contains(&self, packet_id: u16) -> bool {
        self.queue.iter().any(|unanswered| unanswered.packet_id == packet_id)
    }

    /// A token for a publish that gets no PUBACK.
    pub(crate) fn token(&mut self) -> PublishToken {
        self.next_token += 1;
        PublishToken(self.next_token)
    }

    /// Waits for its promise, or only for its turn if the promise is known.
    pub(crate) fn push(&mut self, packet_id: u16, promise: Option<Promise>) -> PublishToken {
        let token = self.token();
        self.queue.push_back(Unanswered { packet_id, token, promise });
        token
    }

    /// The first word counts; tokens that do not wait are ignored.
    pub(crate) fn settle(&mut self, token: PublishToken, promise: Promise) {
        if let Ok(index) = self.queue.binary_search_by_key(&token, |unanswered| unanswered.token)
            && let Some(unanswered) = self.queue.get_mut(index)
        {
            unanswered.promise.get_or_insert(promise);
        }
    }

    /// The next PUBACK that may leave.
    pub(crate) fn pop_settled(&mut self) -> Option<(u16, Promise)> {
        if Mutant::PubacksOutOfOrder.is_active() {
            let index = self.queue.iter().position(|unanswered| unanswered.promise.is_some())?;
            return self.queue.remove(index).and_then(|found| Some((found.packet_id, found.promise?)));
        }
        let front = self.queue.front()?;
        let answer = (front.packet_id, front.promise?);
        self.queue.pop_front();
        Some(answer)
    }
}
