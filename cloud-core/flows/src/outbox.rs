//! What the cloud owes its principals. It is state: rebuilt by replay, cleared by the receiver's own acknowledgement,
//! so that delivery survives every restart by construction.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{MessageId, Principal};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::port::OwedMessage;

/// All queues.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// Given to the next message; grows for ever, so that a reader can say what it has seen.
    next_sequence: u64,
    queues: BTreeMap<Principal, BTreeMap<u64, OwedMessage>>,
    sequences: BTreeMap<(Principal, MessageId), u64>,
    expiries: BTreeSet<(Timestamp, Principal, MessageId)>,
}

impl Outbox {
    /// Messages owed to `principal` with a sequence greater than `after`, at most `max`.
    pub fn owed(&self, principal: &Principal, after: u64, max: usize) -> Vec<OwedMessage> {
        let queue = self.queues.get(principal);
        queue
            .into_iter()
            .flat_map(|q| q.range(after.saturating_add(1)..))
            .take(max)
            .map(|(_, m)| m.clone())
            .collect()
    }

    /// How many messages `principal` is owed.
    pub fn depth(&self, principal: &Principal) -> usize {
        self.queues.get(principal).map_or(0, BTreeMap::len)
    }

    /// Everybody who is owed something.
    pub(crate) fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.queues.keys()
    }

    /// How many messages are owed in all.
    pub fn total(&self) -> usize {
        self.queues.values().map(BTreeMap::len).sum()
    }

    /// The sequence of the last message that was queued, and of the oldest one that is still owed.
    pub fn sequences(&self) -> (u64, Option<u64>) {
        let oldest = self.queues.values().filter_map(|queue| queue.keys().next()).min();
        (self.next_sequence, oldest.copied())
    }

    /// The sequence of the last message that was queued.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Whether `principal` can be given `more` messages.
    pub(crate) fn has_room(&self, principal: &Principal, more: usize) -> bool {
        self.depth(principal) + more <= limits::OUTBOX_MESSAGES
    }

    pub(crate) fn contains(&self, principal: &Principal, message: MessageId) -> bool {
        self.sequences.contains_key(&(principal.clone(), message))
    }

    pub(crate) fn messages(&self, principal: &Principal) -> impl Iterator<Item = &OwedMessage> {
        self.queues.get(principal).into_iter().flat_map(BTreeMap::values)
    }

    /// The oldest message of a kind that may be dropped when the queue of a person is full.
    pub(crate) fn oldest_status(&self, principal: &Principal) -> Option<MessageId> {
        let droppable = [
            Kind::PaymentStatus,
            Kind::RequestAnswer,
            Kind::PaymentVerification,
            Kind::ChildView,
            Kind::Wish,
        ];
        self.messages(principal).find(|owed| droppable.contains(&owed.kind)).map(|owed| owed.message)
    }

    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.first().map(|(at, _, _)| *at)
    }

    pub(crate) fn expired(&self, now: Timestamp) -> Option<(Principal, MessageId)> {
        self.expiries.first().filter(|(at, _, _)| *at <= now).map(|(_, who, what)| (who.clone(), *what))
    }

    /// Of two messages with one id the newer is owed.
    pub(crate) fn queue(&mut self, principal: &Principal, message: &OwedMessage) {
        self.remove(principal, message.message);
        self.next_sequence += 1;
        let sequence = self.next_sequence;
        self.sequences.insert((principal.clone(), message.message), sequence);
        self.expiries.insert((message.expires_at, principal.clone(), message.message));
        let queue = self.queues.entry(principal.clone()).or_default();
        queue.insert(sequence, OwedMessage { sequence, ..message.clone() });
    }

    pub(crate) fn remove(&mut self, principal: &Principal, message: MessageId) {
        let Some(sequence) = self.sequences.remove(&(principal.clone(), message)) else { return };
        let Some(queue) = self.queues.get_mut(principal) else { return };
        if let Some(owed) = queue.remove(&sequence) {
            self.expiries.remove(&(owed.expires_at, principal.clone(), message));
        }
        if queue.is_empty() {
            self.queues.remove(principal);
        }
    }
}
