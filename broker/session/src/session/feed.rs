//! The feed towards an observer: QoS 0, best effort. A slow one loses events, is told how many, and holds nobody up.

use schemas::feed::{FeedEvent, LostEvent, PresenceEvent};
use schemas::topic::{FeedFormat, FeedKind, Topic};

use super::{INTERNAL, Phase, Session};
use crate::encode::{self, Outgoing};
use crate::types::{CloseReason, Event};

/// States asked for at once.
const STATES_AT_ONCE: usize = 64;

impl Session {
    /// The filters of one more [`Event::Watch`] are heard.
    pub fn handle_watching(&mut self) {
        let Phase::Open(open) = &mut self.phase else { return };
        let Some(watch) = &mut open.watch else { return };
        if watch.heard() {
            self.events.push_back(Event::Watching);
            self.ask_for_states();
        }
    }

    /// An event of the feed: sent with QoS 0 if a filter matches and there is room, else counted.
    pub fn handle_feed(&mut self, topic: &Topic, payload: Vec<u8>) {
        self.tell_lost();
        let room = self.unwritten_bytes() < self.limits.max_transmit_bytes;
        let Phase::Open(open) = &mut self.phase else { return };
        let Some(watch) = &mut open.watch else { return };
        let Some(found) = watch.matching(topic) else { return };
        if !room {
            watch.lost += 1;
            self.counters.feed_lost += 1;
            return;
        }
        let retain = found.retain_as_published && matches!(topic, Topic::State { .. });
        self.send_feed(topic, payload, found.identifiers, retain);
    }

    /// So many events were lost on the way to this connection.
    pub fn handle_feed_lost(&mut self, count: u64) {
        if let Phase::Open(open) = &mut self.phase
            && let Some(watch) = &mut open.watch
        {
            watch.lost = watch.lost.saturating_add(count);
            self.counters.feed_lost = self.counters.feed_lost.saturating_add(count);
            self.tell_lost();
        }
    }

    /// The answer to [`Event::PullStates`]: sent as retained messages.
    pub fn handle_states(&mut self, states: Vec<PresenceEvent>, more: bool) {
        let Phase::Open(open) = &mut self.phase else { return };
        let Some(watch) = &mut open.watch else { return };
        let last = states.last().map(|state| state.principal.id.clone()).filter(|_| more);
        let Some(identifiers) = watch.answered(last) else { return self.ask_for_states() };
        for state in states {
            let topic = Topic::State { principal: state.principal.clone() };
            let payload = FeedEvent::Presence(state).encode(FeedFormat::Cbor);
            self.send_feed(&topic, payload, identifiers.clone(), true);
        }
        self.ask_for_states();
    }

    /// The subscriptions of an observer are others now.
    pub(super) fn watch_changed(&mut self) {
        if let Phase::Open(open) = &mut self.phase
            && let Some(watch) = &mut open.watch
        {
            let filters = watch.filters();
            // The last word counts: one order is enough for many changes.
            if let Some(Event::Watch { filters: former }) = self.events.back_mut() {
                *former = filters;
            } else {
                watch.expect_heard();
                self.events.push_back(Event::Watch { filters });
            }
        }
    }

    /// Only while what was shown leaves: a slow socket holds no more than its bound.
    pub(super) fn ask_for_states(&mut self) {
        if self.unwritten_bytes() >= self.limits.max_transmit_bytes {
            return;
        }
        if let Phase::Open(open) = &mut self.phase
            && let Some((of, after)) = open.watch.as_mut().and_then(|watch| watch.next_pull())
        {
            self.events.push_back(Event::PullStates { of, after, max: STATES_AT_ONCE });
        }
    }

    /// What was missed, once there is room to say so.
    pub(super) fn tell_lost(&mut self) {
        if self.unwritten_bytes() >= self.limits.max_transmit_bytes {
            return;
        }
        let Phase::Open(open) = &mut self.phase else { return };
        let Some(watch) = open.watch.as_mut().filter(|watch| watch.lost > 0) else { return };
        let event = FeedEvent::Lost(LostEvent { count: std::mem::take(&mut watch.lost) });
        let tenant = open.principal.tenant.clone();
        for &format in FeedFormat::ALL {
            let topic = Topic::Feed { tenant: tenant.clone(), kind: FeedKind::Lost, format };
            let Phase::Open(open) = &self.phase else { return };
            if let Some(found) = open.watch.as_ref().and_then(|watch| watch.matching(&topic)) {
                self.send_feed(&topic, event.encode(format), found.identifiers, false);
            }
        }
    }

    fn send_feed(&mut self, topic: &Topic, payload: Vec<u8>, identifiers: Vec<u32>, retain: bool) {
        let Phase::Open(open) = &mut self.phase else { return };
        let topic = topic.to_string();
        let outgoing =
            Outgoing { topic: &topic, payload, packet_id: None, expiry_s: None, identifiers, retain };
        match encode::publish(&mut self.outgoing, open.version, outgoing, open.max_packet_bytes) {
            Ok(true) => self.counters.feed_sent += 1,
            // Larger than the client accepts: as if it had not been published (MQTT-3.1.2-25).
            Ok(false) => {}
            Err(_) => self.close(CloseReason::Protocol(INTERNAL)),
        }
    }
}
