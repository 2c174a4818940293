//! The state machine of one connection.

mod feed;
mod handshake;
mod inspect;
mod requests;

use std::collections::VecDeque;
use std::fmt;

use mqtt_protocol_core::mqtt::result_code::MqttError;
use schemas::ids::Principal;
use schemas::topic::{Kind, Role, Topic};

use crate::decode::{self, ConnectPacket, Packet, Will};
use crate::delivery::{Delivery, Verdict};
use crate::encode::{self, Outgoing};
use crate::frame;
use crate::publishes::Publishes;
use crate::types::{
    CloseReason, ConnectRefusal, ConnectionId, Counters, DisconnectReason, Event, Fault, Limits, Owed,
    Promise, PublishToken, Qos, RefusedAction, StateCause, Version,
};
use crate::watch::Watch;

/// Events that wait to be polled, from which on nothing more is read.
const MAX_EVENTS: usize = 512;

/// One connection, from its first byte to its last. See the [crate] for what it guarantees.
pub struct Session {
    id: ConnectionId,
    limits: Limits,
    phase: Phase,
    /// Known from `handle_standing` on, also after the end.
    principal: Option<Principal>,
    /// Whether its surroundings read the peer's bytes when it wants them.
    reading: bool,
    /// The time of the last call that told it.
    now_ms: u64,
    /// The beginning of a packet, or packets that may not be read yet.
    inbound: Vec<u8>,
    /// Not yet polled.
    outgoing: Vec<u8>,
    /// Polled, not yet reported as written.
    in_transit_bytes: usize,
    /// When the last of them made progress.
    progress_at_ms: u64,
    events: VecDeque<Event>,
    refusals: RefusalRate,
    counters: Counters,
}

enum Phase {
    /// Since.
    AwaitConnect(u64),
    AwaitStanding {
        since_ms: u64,
        connect: Box<ConnectPacket>,
    },
    Open(Box<Open>),
    Closed,
}

struct Open {
    version: Version,
    principal: Principal,
    /// What it may do follows from it.
    role: Role,
    /// `ft/{tenant}/{principal}/`: what every topic of this connection begins with.
    base: String,
    publishes: Publishes,
    delivery: Delivery,
    /// Of an observer.
    watch: Option<Box<Watch>>,
    max_packet_bytes: usize,
    /// In CONNECT. There is no session to expire, but only then may DISCONNECT ask for it, too.
    session_expiry_asked: bool,
    will: Option<Vec<u8>>,
    /// One and a half times what was asked; none for 0.
    keep_alive_ms: Option<u64>,
    packet_at_ms: u64,
    /// Since when it is heard without a pause of ours: nobody's acknowledgement is late that we did not read.
    heard_since_ms: u64,
}

#[derive(Default)]
struct RefusalRate {
    minute_began_ms: u64,
    reported: u32,
    suppressed: u32,
}

impl Session {
    /// A connection that was accepted at `now_ms`. All times are milliseconds of one monotonic clock, the one that
    /// [`Owed::expires_at_ms`] is on.
    pub fn new(id: ConnectionId, limits: Limits, now_ms: u64) -> Self {
        Self {
            id,
            limits,
            phase: Phase::AwaitConnect(now_ms),
            principal: None,
            reading: true,
            now_ms,
            inbound: Vec::new(),
            outgoing: Vec::new(),
            in_transit_bytes: 0,
            progress_at_ms: now_ms,
            events: VecDeque::new(),
            refusals: RefusalRate::default(),
            counters: Counters::default(),
        }
    }

    /// Which connection this is.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whose, once the core has said so.
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// Whether [`Event::Closed`] was or is about to be polled. Bytes may remain to be written.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Whether the peer's bytes should be read now. While this is false they stay in the socket and push back.
    pub fn wants_bytes(&self) -> bool {
        self.may_process()
    }

    /// What it keeps for the peer, in bytes. Bounded by [`Limits`].
    pub fn buffered_bytes(&self) -> usize {
        self.inbound.len() + self.outgoing.len() + self.in_transit_bytes
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Any bytes of the peer. Never fails: what breaks the protocol closes the connection.
    pub fn handle_bytes(&mut self, now_ms: u64, bytes: &[u8]) {
        self.now_ms = self.now_ms.max(now_ms);
        if self.is_closed() {
            return;
        }
        if self.inbound.is_empty() {
            let consumed = self.process(bytes);
            if !self.is_closed() {
                self.inbound.extend_from_slice(bytes.get(consumed..).unwrap_or_default());
            }
        } else {
            self.inbound.extend_from_slice(bytes);
            self.resume();
        }
        // One read beyond a packet is what a caller that asks `wants_bytes` may leave here.
        if self.inbound.len() > self.limits.max_packet_bytes + self.limits.max_transmit_bytes {
            self.close(CloseReason::Protocol(Fault { code: 0x96, what: "more bytes than can be handled" }));
        }
        self.ask_for_owed();
    }

    /// Time has come to `now_ms`.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
        if let Phase::Open(open) = &mut self.phase {
            open.delivery.retry(self.now_ms);
            self.ask_for_owed();
        }
        let Some((due_ms, reason)) = self.next_timeout() else { return };
        if self.now_ms < due_ms {
            return;
        }
        if let CloseReason::Refused(refusal) = reason {
            return self.refuse(refusal);
        }
        self.close(reason);
    }

    /// Whether bytes are read at all. Not while the core is busy, for instance: then the client's keep alive and the
    /// time for its acknowledgements rest, as its silence is not its own.
    pub fn handle_reading(&mut self, now_ms: u64, reading: bool) {
        self.now_ms = self.now_ms.max(now_ms);
        if reading && !self.reading {
            self.hear_again();
        }
        self.reading = reading;
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next needed.
    pub fn poll_timeout(&self) -> Option<u64> {
        let retry_at_ms = match &self.phase {
            Phase::Open(open) => open.delivery.retry_at_ms(),
            _ => None,
        };
        self.next_timeout().map(|(due_ms, _)| due_ms).into_iter().chain(retry_at_ms).min()
    }

    /// The core's answer to [`Event::Connect`] for a party to payments.
    pub fn handle_standing(&mut self, now_ms: u64, standing: Result<Principal, ConnectRefusal>) {
        self.handle_standing_as(now_ms, standing, Role::Party);
    }

    /// The same, of whatever role: what it may do follows from it.
    pub fn handle_standing_as(
        &mut self,
        now_ms: u64,
        standing: Result<Principal, ConnectRefusal>,
        role: Role,
    ) {
        self.now_ms = self.now_ms.max(now_ms);
        // Late: the connection has ended meanwhile, or the answer came twice.
        let Phase::AwaitStanding { connect, .. } = &mut self.phase else { return };
        match standing {
            Ok(principal) => {
                let own_state = Topic::State { principal: principal.clone() }.to_string();
                match connect.will.take() {
                    Some(Will { topic, .. }) if topic != own_state || role != Role::Party => {
                        let reason = "a will may only be the principal's own state";
                        self.report_refusal(RefusedAction::Will, &topic, reason, 0x87, true);
                        self.refuse(ConnectRefusal::NotAuthorized);
                    }
                    will => self.open(principal, role, &own_state, will.map(|will| will.payload)),
                }
            }
            Err(refusal) => self.refuse(refusal),
        }
        self.resume();
        self.ask_for_owed();
    }

    /// The core's word on one publish. The PUBACK leaves when those before it have left; unknown tokens are ignored.
    pub fn handle_promise(&mut self, token: PublishToken, promise: Promise) {
        let held_back = matches!(&self.phase, Phase::Open(open) if self.holds_back(open));
        let Phase::Open(open) = &mut self.phase else { return };
        open.publishes.settle(token, promise);
        self.acknowledge_settled();
        if held_back {
            self.hear_again();
        }
        self.resume();
    }

    /// The core's answer to [`Event::Pull`], by ascending sequence. Without a pull it is ignored.
    pub fn handle_owed(&mut self, now_ms: u64, entries: Vec<Owed>) {
        self.now_ms = self.now_ms.max(now_ms);
        let Phase::Open(open) = &mut self.phase else { return };
        let Some(pull) = open.delivery.begin_answer(entries.len()) else { return };
        let mut failed = false;
        for owed in entries.into_iter().take(pull.max) {
            match open.delivery.judge(pull, owed.sequence, owed.kind) {
                Verdict::Pass => {}
                Verdict::Full => break,
                Verdict::Send { .. } if owed.expires_at_ms <= self.now_ms => {}
                Verdict::Send { qos, identifiers } => {
                    let message = owed.message;
                    match send_owed(open, &mut self.outgoing, self.now_ms, owed, qos, identifiers) {
                        Ok(true) => self.counters.deliveries += 1,
                        Ok(false) => self.events.push_back(Event::Acknowledged { message, code: 0x95 }),
                        Err(_) => failed = true,
                    }
                }
            }
        }
        if failed {
            self.close(CloseReason::Protocol(INTERNAL));
        }
        self.ask_for_owed();
    }

    /// A message of the moment to `down/{kind}`: sent with QoS 0 if a filter matches and there is room, else dropped.
    pub fn handle_reply(&mut self, kind: Kind, payload: Vec<u8>) {
        let room = self.unwritten_bytes() < self.limits.max_transmit_bytes;
        let Phase::Open(open) = &mut self.phase else { return };
        let Some((_, identifiers)) = open.delivery.matching(kind).filter(|_| room) else { return };
        let topic = format!("{}down/{kind}", open.base);
        let outgoing =
            Outgoing { topic: &topic, payload, packet_id: None, expiry_s: None, identifiers, retain: false };
        if encode::publish(&mut self.outgoing, open.version, outgoing, open.max_packet_bytes).is_err() {
            self.close(CloseReason::Protocol(INTERNAL));
        }
    }

    /// The core owes this principal something new.
    pub fn handle_wake(&mut self) {
        if let Phase::Open(open) = &mut self.phase {
            open.delivery.wake();
        }
        self.ask_for_owed();
    }

    /// Ends the connection by order, telling MQTT 5 clients why.
    pub fn handle_disconnect(&mut self, reason: DisconnectReason) {
        match &self.phase {
            Phase::AwaitStanding { .. } => self.refuse(match reason {
                DisconnectReason::UseAnotherServer { reference } => {
                    ConnectRefusal::UseAnotherServer { reference }
                }
                DisconnectReason::NotAuthorized => ConnectRefusal::NotAuthorized,
                _ => ConnectRefusal::ServerUnavailable,
            }),
            _ => self.close(CloseReason::Disconnected(reason)),
        }
    }

    /// The stream ended or broke.
    pub fn handle_connection_lost(&mut self) {
        self.close(CloseReason::ConnectionLost);
    }

    /// Bytes to write, in order. Report them with [`handle_transmitted`](Self::handle_transmitted).
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if self.outgoing.is_empty() {
            return None;
        }
        if self.in_transit_bytes == 0 {
            self.progress_at_ms = self.now_ms;
        }
        self.in_transit_bytes += self.outgoing.len();
        Some(std::mem::take(&mut self.outgoing))
    }

    /// `bytes` of what was polled were written.
    pub fn handle_transmitted(&mut self, now_ms: u64, bytes: usize) {
        self.now_ms = self.now_ms.max(now_ms);
        self.in_transit_bytes = self.in_transit_bytes.saturating_sub(bytes);
        self.progress_at_ms = self.now_ms;
        self.resume();
        self.ask_for_owed();
        self.tell_lost();
        self.ask_for_states();
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.events.is_empty() && !self.inbound.is_empty() {
            self.resume();
            // There may have been acknowledgements among them, which make room.
            self.ask_for_owed();
        }
        self.events.pop_front()
    }
}

/// Without buffers: they may hold a token.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = &mut f.debug_struct("Session");
        session.field("id", &self.id).field("principal", &self.principal).field("closed", &self.is_closed());
        session.finish_non_exhaustive()
    }
}

/// The receiver has no room now.
const QUOTA_EXCEEDED: u8 = 0x97;

/// The library refused to print a packet that we made: our own fault, so the connection must not go on.
const INTERNAL: Fault = Fault { code: 0x83, what: "a packet could not be encoded" };

impl Session {
    fn unwritten_bytes(&self) -> usize {
        self.outgoing.len() + self.in_transit_bytes
    }

    fn may_process(&self) -> bool {
        self.events.len() < MAX_EVENTS
            && self.unwritten_bytes() < self.limits.max_transmit_bytes
            && match &self.phase {
                Phase::AwaitConnect(_) => true,
                Phase::AwaitStanding { .. } | Phase::Closed => false,
                Phase::Open(open) => !self.holds_back(open),
            }
    }

    fn hears(&self, open: &Open) -> bool {
        self.reading && !self.holds_back(open)
    }

    /// MQTT 5 clients know our Receive Maximum, so exceeding it is a fault; 3.1.1 clients are only slowed down.
    fn holds_back(&self, open: &Open) -> bool {
        open.version == Version::V3_1_1
            && open.publishes.len() >= usize::from(self.limits.receive_maximum.max(1))
    }

    /// We were the reason for its silence.
    fn hear_again(&mut self) {
        if let Phase::Open(open) = &mut self.phase {
            (open.packet_at_ms, open.heard_since_ms) = (self.now_ms, self.now_ms);
        }
    }

    /// Goes on with bytes that had to wait.
    fn resume(&mut self) {
        if self.inbound.is_empty() || self.is_closed() {
            return;
        }
        let bytes = std::mem::take(&mut self.inbound);
        let consumed = self.process(&bytes);
        if self.is_closed() {
            return;
        }
        self.inbound = bytes;
        self.inbound.drain(..consumed);
        if self.inbound.is_empty() {
            // Idle connections are many, and keep nothing.
            self.inbound = Vec::new();
        }
    }

    /// Handles whole packets while it may; how many bytes they had.
    fn process(&mut self, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        while self.may_process() {
            let rest = bytes.get(consumed..).unwrap_or_default();
            let awaits_connect = matches!(self.phase, Phase::AwaitConnect(_));
            if awaits_connect && rest.first().is_some_and(|&first| first != 0x10) {
                self.close(CloseReason::Protocol(Fault {
                    code: 0x82,
                    what: "the first packet is not CONNECT",
                }));
                break;
            }
            let max_bytes =
                if awaits_connect { self.limits.max_connect_bytes } else { self.limits.max_packet_bytes };
            match frame::split(rest, max_bytes) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    consumed += frame.length_bytes;
                    self.handle_frame(&frame);
                }
                Err(fault) => self.close(CloseReason::Protocol(fault)),
            }
        }
        consumed
    }

    fn handle_frame(&mut self, frame: &frame::Frame<'_>) {
        let open = match &mut self.phase {
            Phase::AwaitConnect(_) => return self.handle_connect(frame),
            Phase::Open(open) => open,
            Phase::AwaitStanding { .. } | Phase::Closed => return,
        };
        open.packet_at_ms = self.now_ms;
        self.counters.packets_in += 1;
        self.counters.bytes_in += frame.length_bytes as u64;
        let handled = decode::packet(open.version, frame).and_then(|packet| self.handle_packet(packet));
        if let Err(fault) = handled {
            self.close(CloseReason::Protocol(fault));
        }
    }

    fn handle_packet(&mut self, packet: Packet) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::Puback { packet_id, code } => {
                if let Phase::Open(open) = &mut self.phase
                    && let Some(settled) = open.delivery.acknowledged(packet_id)
                {
                    if code == QUOTA_EXCEEDED {
                        open.delivery.put_off(&settled, self.now_ms + self.limits.quota_retry_ms);
                    }
                    self.events.push_back(Event::Acknowledged { message: settled.message, code });
                }
                Ok(())
            }
            Packet::Subscribe { packet_id, filters, identifier } => {
                self.handle_subscribe(packet_id, &filters, identifier)
            }
            Packet::Unsubscribe { packet_id, filters } => self.handle_unsubscribe(packet_id, &filters),
            Packet::Pingreq => {
                encode::pingresp(&mut self.outgoing);
                Ok(())
            }
            Packet::Disconnect { code, session_expiry_s } => {
                self.handle_peer_disconnect(code, session_expiry_s)
            }
        }
    }

    /// A session that was to end with the connection cannot be prolonged at its end (3.14.2.2.2): then this is no
    /// DISCONNECT, and the will counts.
    fn handle_peer_disconnect(&mut self, code: u8, session_expiry_s: u32) -> Result<(), Fault> {
        if let Phase::Open(open) = &self.phase
            && session_expiry_s > 0
            && !open.session_expiry_asked
        {
            return Err(Fault {
                code: 0x82,
                what: "a session expiry in DISCONNECT that CONNECT did not have",
            });
        }
        self.close(match code {
            0 => CloseReason::PeerDisconnected,
            code => CloseReason::PeerDisconnectedWith { code },
        });
        Ok(())
    }

    /// Only while what was delivered leaves: a slow socket holds no more than its bound.
    fn ask_for_owed(&mut self) {
        if self.unwritten_bytes() >= self.limits.max_transmit_bytes {
            return;
        }
        if let Phase::Open(open) = &mut self.phase
            && let Some(pull) = open.delivery.next_pull()
        {
            self.events.push_back(Event::Pull { after_sequence: pull.after_sequence, max: pull.max });
        }
    }

    fn next_timeout(&self) -> Option<(u64, CloseReason)> {
        let limits = &self.limits;
        let phase = match &self.phase {
            Phase::AwaitConnect(since_ms) => {
                Some((since_ms + limits.connect_timeout_ms, CloseReason::ConnectTimeout))
            }
            Phase::AwaitStanding { since_ms, .. } => {
                let reason = CloseReason::Refused(ConnectRefusal::ServerBusy);
                Some((since_ms + limits.standing_timeout_ms, reason))
            }
            Phase::Open(open) => open
                .keep_alive_ms
                .filter(|_| self.hears(open))
                .map(|keep_alive_ms| (open.packet_at_ms + keep_alive_ms, CloseReason::KeepAliveTimeout)),
            Phase::Closed => return None,
        };
        let acknowledgement = match &self.phase {
            Phase::Open(open) if self.hears(open) => {
                open.delivery.oldest_sent_at_ms().map(|sent_at_ms| sent_at_ms.max(open.heard_since_ms))
            }
            _ => None,
        };
        let acknowledgement = acknowledgement
            .map(|since_ms| (since_ms + limits.ack_timeout_ms, CloseReason::AcknowledgementTimeout));
        let write = (self.in_transit_bytes > 0)
            .then(|| (self.progress_at_ms + limits.write_timeout_ms, CloseReason::WriteTimeout));
        [phase, acknowledgement, write].into_iter().flatten().min_by_key(|(due_ms, _)| *due_ms)
    }

    fn close(&mut self, reason: CloseReason) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        if let Phase::Closed = phase {
            return;
        }
        if let Phase::Open(open) = phase {
            let code = match &reason {
                CloseReason::KeepAliveTimeout => Some(0x8D),
                CloseReason::AcknowledgementTimeout | CloseReason::WriteTimeout => Some(0x83),
                CloseReason::Protocol(fault) => Some(fault.code),
                CloseReason::Disconnected(by) => Some(encode::disconnect_code(by)),
                _ => None,
            };
            let reference = match &reason {
                CloseReason::Disconnected(DisconnectReason::UseAnotherServer { reference }) => {
                    Some(reference.as_str())
                }
                _ => None,
            };
            if let Some(code) = code {
                encode::disconnect(&mut self.outgoing, open.version, code, reference, open.max_packet_bytes);
            }
            if let Some(payload) = open.will.filter(|_| reason != CloseReason::PeerDisconnected) {
                self.events.push_back(Event::StateChanged { payload, cause: StateCause::Will });
            }
        }
        self.inbound = Vec::new();
        self.events.push_back(Event::Closed { reason });
    }
}

/// False if it is larger than the client accepts.
fn send_owed(
    open: &mut Open,
    out: &mut Vec<u8>,
    now_ms: u64,
    owed: Owed,
    qos: Qos,
    identifiers: Vec<u32>,
) -> Result<bool, MqttError> {
    let topic = format!("{}down/{}", open.base, owed.kind);
    let packet_id = (qos == Qos::AtLeastOnce).then(|| open.delivery.free_packet_id());
    let remaining_s = owed.expires_at_ms.saturating_sub(now_ms).div_ceil(1000);
    let outgoing = Outgoing {
        topic: &topic,
        payload: owed.payload,
        packet_id,
        expiry_s: Some(u32::try_from(remaining_s).unwrap_or(u32::MAX)),
        identifiers,
        retain: false,
    };
    let fits = encode::publish(out, open.version, outgoing, open.max_packet_bytes)?;
    if let Some(packet_id) = packet_id.filter(|_| fits) {
        open.delivery.sent(packet_id, owed.sequence, owed.message, now_ms);
    }
    Ok(fits)
}

fn internal(_: MqttError) -> Fault {
    INTERNAL
}
