//! One connection: what is in flight on it, what waits, what is due.

use std::collections::BTreeMap;

use schemas::ids::{Code, MessageId};
use schemas::message::Refused;
use schemas::topic::Kind;
use schemas_mutants::Mutant;

use super::Device;
use crate::decide::{code_of_kind, dead_letter_up};
use crate::event::{Event, SpoolEntry};
use crate::limits;
use crate::output::Output;

/// Never resent within a connection (MQTT-4.4.0-1): what is in flight stays so until its PUBACK or the end.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: u64,
    pub(super) connected_boot_ms: u64,
    window: usize,
    in_flight: BTreeMap<MessageId, InFlight>,
    postponed: BTreeMap<MessageId, u64>,
    /// For how long each of those that are sent again next was postponed.
    waits: BTreeMap<MessageId, u64>,
    closing: bool,
}

/// A message that waits for its PUBACK.
#[derive(Debug)]
pub(super) struct InFlight {
    sent_boot_ms: u64,
    /// For how long it was postponed before.
    waited_ms: Option<u64>,
    /// Why the cloud does not take it. Whether that is for good, its PUBACK says (correctness.md 9).
    pub(super) refused: Option<Code>,
}

impl Link {
    pub(super) fn new(connection: u64, window: u16, connected_boot_ms: u64) -> Self {
        let window = usize::from(window).clamp(1, limits::IN_FLIGHT);
        let (in_flight, postponed, waits) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { connection, connected_boot_ms, window, in_flight, postponed, waits, closing: false }
    }

    /// What is known of the message if it was in flight.
    pub(super) fn settle(&mut self, message: &MessageId) -> Option<InFlight> {
        self.in_flight.remove(message)
    }

    /// Each time for twice as long.
    pub(super) fn postpone(&mut self, message: MessageId, sent: &InFlight, retry_ms: u64, now_boot_ms: u64) {
        let longest = retry_ms.saturating_mul(limits::QUOTA_RETRY_TIMES);
        let wait_ms = sent.waited_ms.map_or(retry_ms, |waited| waited.saturating_mul(2).min(longest));
        self.waits.insert(message, wait_ms);
        self.postponed.insert(message, now_boot_ms.saturating_add(wait_ms));
    }

    /// The cloud says that it does not take a message. True if its PUBACK decides what follows, or has done so.
    pub(super) fn refused(&mut self, refused: &Refused) -> bool {
        let Some(message) = &refused.message else { return false };
        if let Some(sent) = self.in_flight.get_mut(message) {
            sent.refused = Some(refused.code.clone());
            return true;
        }
        self.postponed.contains_key(message)
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() < self.window
    }

    pub(super) fn sent(&mut self, message: MessageId, now_boot_ms: u64) {
        let waited_ms = self.waits.remove(&message);
        self.in_flight.insert(message, InFlight { sent_boot_ms: now_boot_ms, waited_ms, refused: None });
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn next_deadline_boot_ms(&self, acknowledge_ms: u64) -> Option<u64> {
        if self.closing {
            return None;
        }
        let overdue = self.in_flight.values().map(|sent| sent.sent_boot_ms.saturating_add(acknowledge_ms));
        overdue.chain(self.postponed.values().copied()).min()
    }
}

impl Device {
    /// Sends what is due on this connection: the question for cloud time, the spool in order, how the device is.
    pub(super) fn send(&mut self, now_boot_ms: u64) {
        let Some(mut link) = self.link.take() else { return };
        let connection = link.connection;
        if self.clock.next_question_boot_ms() <= now_boot_ms {
            let payload = self.clock.ask(now_boot_ms);
            self.output(Output::Ask { connection, kind: Kind::CloudTime, payload });
        }
        self.ask_for_places(connection, now_boot_ms);
        let acknowledge_ms = self.settings.acknowledge_ms;
        let overdue = |sent: &InFlight| now_boot_ms >= sent.sent_boot_ms.saturating_add(acknowledge_ms);
        if !link.closing && link.in_flight.values().any(overdue) {
            link.closing = true;
            self.output(Output::Reconnect { connection });
        }
        link.postponed.retain(|_, until| *until > now_boot_ms);
        if !link.closing {
            self.send_spool(&mut link, now_boot_ms);
            self.send_report(&mut link, now_boot_ms);
        }
        self.link = Some(link);
    }

    fn send_spool(&mut self, link: &mut Link, now_boot_ms: u64) {
        let room = link.window.saturating_sub(link.in_flight.len());
        let unsent = |message: &MessageId| {
            !link.in_flight.contains_key(message) && !link.postponed.contains_key(message)
        };
        // A wish that waits is not overtaken by its withdrawal.
        let mut has_wish = false;
        let in_order = |entry: &&SpoolEntry| {
            let overtakes = has_wish && entry.kind == Kind::WishWithdraw;
            has_wish |= entry.kind == Kind::Wish;
            !overtakes && unsent(&entry.message)
        };
        let due: Vec<_> = self.state.spooled().filter(in_order).take(room).cloned().collect();
        for entry in due {
            link.sent(entry.message, now_boot_ms);
            if Mutant::SpoolClearedOnSend.is_active() {
                self.record([Event::SpoolCleared { message: entry.message }]);
            }
            self.output(Output::Publish {
                connection: link.connection,
                message: entry.message,
                kind: entry.kind,
                payload: entry.payload,
            });
            if entry.kind == Kind::PaymentPrompt && Mutant::AnswerToldUnsynced.is_active() {
                self.hurry();
            }
        }
    }

    /// The cloud refused a message for good.
    pub(super) fn bury(&mut self, message: MessageId, reason: u8, why: Option<Code>) {
        let about = self
            .state
            .spooled()
            .find(|entry| entry.message == message)
            .and_then(|entry| code_of_kind(entry.kind.as_str()));
        let code = why.or_else(|| format!("puback_{reason:02x}").parse().ok());
        let code = code.unwrap_or_else(|| Code::known("puback_refused"));
        self.record([dead_letter_up(Some(message), about, code)]);
    }

    /// Effects on connections that are gone. Acts and answers to people stay.
    pub(super) fn clear_link_outputs(&mut self, live: Option<u64>) {
        self.outputs
            .retain(|(_, output)| output.connection().is_none_or(|connection| Some(connection) == live));
    }
}
