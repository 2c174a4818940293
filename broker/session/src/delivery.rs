//! What the core owes this principal, on its way to this connection.

use std::collections::{BTreeSet, VecDeque};

use schemas::ids::MessageId;
use schemas::topic::{Filter, Kind};
use schemas_mutants::Mutant;

use crate::types::Qos;

/// Subscriptions, window and position in the outbox.
#[derive(Debug)]
pub(crate) struct Delivery {
    subscriptions: Vec<Subscription>,
    in_flight: VecDeque<InFlight>,
    window: usize,
    max_skipped: usize,
    last_packet_id: u16,
    /// Everything up to here was sent, was skipped, or had expired when it was seen.
    high_water: u64,
    /// Up to the high water, and not sent as nobody had subscribed.
    skipped: BTreeSet<u64>,
    /// Up to the high water, and put off by the client. No more than the core owes.
    put_off: BTreeSet<u64>,
    /// Where the next pull begins. Goes back when a new subscription makes skipped messages wanted, and when it is time
    /// to try again.
    cursor: u64,
    pull: Option<Pull>,
    /// There may be more than was pulled.
    more: bool,
    /// When what the client has put off is asked for again.
    retry_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) after_sequence: u64,
    pub(crate) max: usize,
}

#[derive(Debug)]
struct Subscription {
    /// As sent: what tells subscriptions apart (MQTT-3.10.4-1).
    text: Box<str>,
    filter: Filter,
    qos: Qos,
    identifier: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct InFlight {
    packet_id: u16,
    sequence: u64,
    pub(crate) message: MessageId,
    sent_at_ms: u64,
}

/// Whether and how a message goes out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// To be sent; with QoS 1, call [`Delivery::sent`].
    Send { qos: Qos, identifiers: Vec<u32> },
    /// Sent before on this connection, or not subscribed.
    Pass,
    /// No room: it stays with the core.
    Full,
}

impl Delivery {
    pub(crate) fn new(window: usize, max_skipped: usize) -> Self {
        Self {
            subscriptions: Vec::new(),
            in_flight: VecDeque::new(),
            window,
            max_skipped,
            last_packet_id: 0,
            high_water: 0,
            skipped: BTreeSet::new(),
            put_off: BTreeSet::new(),
            cursor: 0,
            pull: None,
            more: false,
            retry_at_ms: None,
        }
    }

    /// Adds or replaces; false if there are `max` others.
    pub(crate) fn subscribe(
        &mut self,
        text: &str,
        filter: Filter,
        qos: Qos,
        identifier: Option<u32>,
        max: usize,
    ) -> bool {
        self.subscriptions.retain(|subscription| *subscription.text != *text);
        if self.subscriptions.len() >= max {
            return false;
        }
        self.subscriptions.push(Subscription { text: text.into(), filter, qos, identifier });
        self.more = true;
        self.go_back_to(self.skipped.first().copied());
        true
    }

    /// Whether there was such a subscription.
    pub(crate) fn unsubscribe(&mut self, text: &str) -> bool {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|subscription| *subscription.text != *text);
        self.subscriptions.len() < before
    }

    /// The best QoS of all subscriptions that match, with their identifiers.
    pub(crate) fn matching(&self, kind: Kind) -> Option<(Qos, Vec<u32>)> {
        let matching = || self.subscriptions.iter().filter(|subscription| subscription.filter.matches(kind));
        let qos = matching().map(|subscription| subscription.qos).max()?;
        Some((qos, matching().filter_map(|subscription| subscription.identifier).collect()))
    }

    /// Sent and not acknowledged.
    pub(crate) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// All filters, for people.
    pub(crate) fn filters(&self) -> Vec<(String, Qos)> {
        let shown = |subscription: &Subscription| (subscription.filter.to_string(), subscription.qos);
        self.subscriptions.iter().map(shown).collect()
    }

    /// The core has something new.
    pub(crate) fn wake(&mut self) {
        self.more = true;
    }

    /// A question to the core, if there is room for an answer. Only one at a time, and not for every single slot.
    pub(crate) fn next_pull(&mut self) -> Option<Pull> {
        let free = self.window.saturating_sub(self.in_flight.len());
        if !self.more || self.subscriptions.is_empty() || self.pull.is_some() || free * 2 < self.window.max(1)
        {
            return None;
        }
        self.more = false;
        self.pull = Some(Pull { after_sequence: self.cursor, max: free });
        self.pull
    }

    /// An answer begins; none if nothing was asked.
    pub(crate) fn begin_answer(&mut self, entries: usize) -> Option<Pull> {
        let pull = self.pull.take()?;
        self.more |= entries >= pull.max;
        Some(pull)
    }

    /// Judges the next entry of the answer to `pull`.
    pub(crate) fn judge(&mut self, pull: Pull, sequence: u64, kind: Kind) -> Verdict {
        let seen = sequence <= self.high_water;
        if seen && !self.skipped.contains(&sequence) && !self.put_off.contains(&sequence) {
            self.advance(pull, sequence);
            return Verdict::Pass;
        }
        let Some((qos, identifiers)) = self.matching(kind) else {
            self.skipped.insert(sequence);
            if self.skipped.len() > self.max_skipped {
                self.skipped.pop_first();
            }
            self.advance(pull, sequence);
            return Verdict::Pass;
        };
        if qos == Qos::AtLeastOnce && self.in_flight.len() >= self.window {
            self.more = true;
            return Verdict::Full;
        }
        self.skipped.remove(&sequence);
        self.put_off.remove(&sequence);
        self.advance(pull, sequence);
        Verdict::Send { qos, identifiers }
    }

    /// The next pull begins there, if that is earlier.
    fn go_back_to(&mut self, sequence: Option<u64>) {
        self.cursor = sequence.map_or(self.cursor, |sequence| self.cursor.min(sequence.saturating_sub(1)));
    }

    /// A subscription that came while the answer was on its way has moved the cursor back: then it stays there.
    fn advance(&mut self, pull: Pull, sequence: u64) {
        if self.cursor >= pull.after_sequence {
            // What the core has left out it owes no more.
            self.put_off.retain(|put_off| *put_off <= self.cursor || *put_off >= sequence);
            self.cursor = self.cursor.max(sequence);
        } else {
            self.more = true;
        }
        self.high_water = self.high_water.max(sequence);
    }

    /// A packet id that is not in use: free only after its PUBACK (MQTT-2.2.1-4).
    pub(crate) fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.iter().any(|in_flight| in_flight.packet_id == self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }

    /// It is on its way with QoS 1.
    pub(crate) fn sent(&mut self, packet_id: u16, sequence: u64, message: MessageId, sent_at_ms: u64) {
        self.in_flight.push_back(InFlight { packet_id, sequence, message, sent_at_ms });
    }

    /// The delivery that this PUBACK is about; none if it is late or invented.
    pub(crate) fn acknowledged(&mut self, packet_id: u16) -> Option<InFlight> {
        let index = self.in_flight.iter().position(|in_flight| in_flight.packet_id == packet_id);
        let index = index.or(Mutant::LatePubackClearsOther.is_active().then_some(0))?;
        self.in_flight.remove(index)
    }

    /// The client has no room for it: it is sent again then, with a packet id of its own (correctness.md 9).
    pub(crate) fn put_off(&mut self, settled: &InFlight, retry_at_ms: u64) {
        self.put_off.insert(settled.sequence);
        self.retry_at_ms.get_or_insert(retry_at_ms);
    }

    /// When [`retry`](Self::retry) is needed.
    pub(crate) fn retry_at_ms(&self) -> Option<u64> {
        self.retry_at_ms
    }

    /// What was put off is asked for again, when it is time.
    pub(crate) fn retry(&mut self, now_ms: u64) {
        if self.retry_at_ms.take_if(|due_ms| *due_ms <= now_ms).is_some() {
            self.more = true;
            self.go_back_to(self.put_off.first().copied());
        }
    }

    /// When the delivery that has waited longest was sent.
    pub(crate) fn oldest_sent_at_ms(&self) -> Option<u64> {
        self.in_flight.front().map(|in_flight| in_flight.sent_at_ms)
    }
}
