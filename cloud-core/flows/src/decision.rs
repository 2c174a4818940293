//! What a decision is: events to be journaled and outputs to be released once they are durable.

use cloud_core_ledger::{Reason, Transfer, TransferId};
use schemas::envelope::Envelope;
use schemas::ids::{Code, Hash, MessageId, PaymentId, Principal};
use schemas::message::Down;
use schemas::time::Timestamp;
use schemas::topic::Kind;

use crate::cloud::Cloud;
use crate::event::Event;
use crate::exceptions::Case;
use crate::port::{ConnectionId, DisconnectReason, Output, OwedMessage};

/// Events and outputs, in order.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) events: Vec<Event>,
    /// The records of the events, where their length had to be known before.
    pub(crate) encoded: Vec<Vec<u8>>,
    pub(crate) outputs: Vec<Output>,
    /// Whom the events have given something to pull.
    pub(crate) woken: Vec<Principal>,
    /// Whose accounts or prospects have changed: a child's piggy bank is told afterwards.
    pub(crate) shown: Vec<Principal>,
    /// Which operator decided it, where one did.
    pub(crate) by: Option<String>,
}

impl Decision {
    /// What another one decided, after this.
    pub(crate) fn append(&mut self, other: Self) {
        self.events.extend(other.events);
        self.outputs.extend(other.outputs);
        self.woken.extend(other.woken);
        self.shown.extend(other.shown);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Owes `to` a message until `expires_at`. A person whose queue is full loses the oldest status.
    pub(crate) fn owe(
        &mut self,
        cloud: &Cloud,
        to: &Principal,
        id: MessageId,
        body: Down,
        expires_at: Timestamp,
    ) {
        if !cloud.outbox.has_room(to, 1)
            && let Some(oldest) = cloud.outbox.oldest_status(to)
        {
            self.withdraw(to, oldest, "queue_full");
        }
        let kind: Kind = body.kind();
        let payload = Envelope::message(id, body).encode();
        let message = OwedMessage { sequence: 0, message: id, kind, payload, expires_at };
        self.event(Event::Queued { principal: to.clone(), message });
        self.woken.push(to.clone());
    }

    pub(crate) fn withdraw(&mut self, from: &Principal, message: MessageId, why: &'static str) {
        self.event(Event::Withdrawn { principal: from.clone(), message, why: Code::known(why) });
    }

    /// Books a chain of transfers: all or none.
    pub(crate) fn book(&mut self, cloud: &Cloud, chain: &[Transfer], now: Timestamp) -> Result<(), Reason> {
        let decided = cloud.ledger.decide_transfers(chain, now.0);
        self.events.extend(decided.events.into_iter().map(Event::Ledger));
        decided.result.map(|_| ()).map_err(|rejection| rejection.reason)
    }

    /// Puts a payment into the exceptions queue, once per case.
    pub(crate) fn raise(&mut self, cloud: &Cloud, payment: PaymentId, case: Case, text: String) {
        let about = Hash::of(&payment.0);
        if !cloud.exceptions.contains(about, case) {
            self.event(Event::ExceptionRaised { payment: Some(payment), about, case, text });
        }
    }

    /// A closed payment leaves memory, with its transfers.
    pub(crate) fn retire(&mut self, cloud: &Cloud, payment: PaymentId, transfers: &[TransferId]) {
        if let Ok(events) = cloud.ledger.decide_retire(transfers) {
            self.events.extend(events.into_iter().map(Event::Ledger));
        }
        self.event(Event::PaymentRetired { payment });
    }

    pub(crate) fn disconnect(&mut self, connections: Vec<ConnectionId>, reason: DisconnectReason) {
        let ends = connections.into_iter().map(|connection| Output::Disconnect { connection, reason });
        self.outputs.extend(ends);
    }
}
