//! The state machine of one connection.

use std::collections::VecDeque;
use std::fmt;

use mqtt_protocol_core::mqtt::result_code::{MqttError, SubackReasonCode};
use schemas::ids::Principal;
use schemas::topic::{Filter, Kind, Topic};

use crate::decode::{self, ConnectFault, ConnectPacket, FilterRequest, Packet, PublishPacket, Will};
use crate::delivery::{Delivery, Verdict};
use crate::encode::{self, Outgoing, Welcome};
use crate::frame;
use crate::publishes::Publishes;
use crate::types::{
    CloseReason, Connect, ConnectRefusal, ConnectionId, Counters, DisconnectReason, Event, Fault, Limits,
    Owed, Promise, PublishToken, Qos, Refusal, RefusedAction, Secret, StateCause, Version,
};

/// Events that wait to be polled, from which on nothing more is read.
const MAX_EVENTS: usize = 512;
/// Of topics in refusals, in characters.
const EXCERPT_CHARS: usize = 120;

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
    /// `ft/{tenant}/{principal}/`: what every topic of this connection begins with.
    base: String,
    publishes: Publishes,
    delivery: Delivery,
    max_packet_bytes: usize,
    will: Option<Vec<u8>>,
    /// One and a half times what was asked; none for 0.
    keep_alive_ms: Option<u64>,
    packet_at_ms: u64,
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
        let Some((due_ms, reason)) = self.next_timeout() else { return };
        if self.now_ms < due_ms {
            return;
        }
        if let CloseReason::Refused(refusal) = reason {
            return self.refuse(refusal);
        }
        self.close(reason);
    }

    /// Whether bytes are read at all. Not while the core is busy, for instance: then the client's keep alive rests, as
    /// its silence is not its own.
    pub fn handle_reading(&mut self, now_ms: u64, reading: bool) {
        self.now_ms = self.now_ms.max(now_ms);
        if reading && !self.reading {
            self.restart_keep_alive();
        }
        self.reading = reading;
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next needed.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.next_timeout().map(|(due_ms, _)| due_ms)
    }

    /// The core's answer to [`Event::Connect`].
    pub fn handle_standing(&mut self, now_ms: u64, standing: Result<Principal, ConnectRefusal>) {
        self.now_ms = self.now_ms.max(now_ms);
        // Late: the connection has ended meanwhile, or the answer came twice.
        let Phase::AwaitStanding { connect, .. } = &mut self.phase else { return };
        match standing {
            Ok(principal) => {
                let own_state = Topic::State { principal: principal.clone() }.to_string();
                match connect.will.take() {
                    Some(Will { topic, .. }) if topic != own_state => {
                        let reason = "a will may only be the principal's own state";
                        self.report_refusal(RefusedAction::Will, &topic, reason, 0x87, true);
                        self.refuse(ConnectRefusal::NotAuthorized);
                    }
                    will => self.open(principal, &own_state, will.map(|will| will.payload)),
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
            self.restart_keep_alive();
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
        let outgoing = Outgoing { topic: &topic, payload, packet_id: None, expiry_s: None, identifiers };
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
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            self.resume();
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

    /// MQTT 5 clients know our Receive Maximum, so exceeding it is a fault; 3.1.1 clients are only slowed down.
    fn holds_back(&self, open: &Open) -> bool {
        open.version == Version::V3_1_1
            && open.publishes.len() >= usize::from(self.limits.receive_maximum.max(1))
    }

    fn restart_keep_alive(&mut self) {
        if let Phase::Open(open) = &mut self.phase {
            open.packet_at_ms = self.now_ms;
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
                    && let Some(message) = open.delivery.acknowledged(packet_id)
                {
                    self.events.push_back(Event::Acknowledged { message, code });
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
            Packet::Disconnect { code: 0 } => {
                self.close(CloseReason::PeerDisconnected);
                Ok(())
            }
            Packet::Disconnect { code } => {
                self.close(CloseReason::PeerDisconnectedWith { code });
                Ok(())
            }
        }
    }

    fn handle_connect(&mut self, frame: &frame::Frame<'_>) {
        let mut connect = match decode::connect(frame) {
            Ok(connect) => connect,
            Err(ConnectFault::Version { newer }) => {
                let version = if newer { Version::V5 } else { Version::V3_1_1 };
                return self.refuse_as(version, ConnectRefusal::UnsupportedVersion);
            }
            Err(ConnectFault::Fault(version, fault)) => {
                if version == Some(Version::V5) {
                    encode::refuse_fault(&mut self.outgoing, fault.code);
                }
                return self.close(CloseReason::Protocol(fault));
            }
        };
        let assigned = connect.client_id.is_empty();
        if connect.enhanced_authentication {
            return self.refuse_as(connect.version, ConnectRefusal::BadAuthenticationMethod);
        }
        if connect.will.as_ref().is_some_and(|will| will.qos > 1) {
            return self.refuse_as(connect.version, ConnectRefusal::QosNotSupported);
        }
        // MQTT-3.1.3-8: without an identifier and without Clean Session there is nothing to come back to.
        let homeless = assigned && connect.version == Version::V3_1_1 && !connect.clean_start;
        if homeless
            || connect.client_id.len() > self.limits.max_client_id_bytes
            || connect.client_id.contains('\0')
        {
            return self.refuse_as(connect.version, ConnectRefusal::ClientIdentifierNotValid);
        }
        let password = connect.password.take().map(Secret);
        self.events.push_back(Event::Connect(Connect {
            client_id: if assigned { self.assigned_client_id() } else { connect.client_id.clone() },
            username: connect.username.take(),
            password,
            clean_start: connect.clean_start,
            keep_alive_s: connect.keep_alive_s,
            version: connect.version,
        }));
        self.phase = Phase::AwaitStanding { since_ms: self.now_ms, connect: Box::new(connect) };
    }

    fn assigned_client_id(&self) -> String {
        format!("assigned-{:016x}", self.id.0)
    }

    fn open(&mut self, principal: Principal, own_state: &str, will: Option<Vec<u8>>) {
        let Phase::AwaitStanding { connect, .. } = &self.phase else { return };
        let version = connect.version;
        let assigned = connect.client_id.is_empty().then(|| self.assigned_client_id());
        let welcome = Welcome {
            receive_maximum: self.limits.receive_maximum.max(1),
            max_packet_bytes: self.limits.max_packet_bytes,
            assigned_client_id: assigned.as_deref(),
            session_expiry_asked: connect.session_expiry_s != 0,
            client_max_packet_bytes: connect.max_packet_bytes,
        };
        let welcomed = encode::accept(&mut self.outgoing, version, &welcome);
        let window = usize::from(self.limits.max_in_flight.min(connect.receive_maximum).max(1));
        self.principal = Some(principal.clone());
        self.phase = Phase::Open(Box::new(Open {
            version,
            base: own_state.strip_suffix("state").unwrap_or_default().to_owned(),
            principal,
            publishes: Publishes::default(),
            delivery: Delivery::new(window, self.limits.max_skipped),
            max_packet_bytes: connect.max_packet_bytes,
            will,
            keep_alive_ms: (connect.keep_alive_s > 0).then(|| u64::from(connect.keep_alive_s) * 1500),
            packet_at_ms: self.now_ms,
        }));
        if welcomed.is_err() {
            self.close(CloseReason::Protocol(INTERNAL));
        }
    }

    fn refuse(&mut self, refusal: ConnectRefusal) {
        if let Phase::AwaitStanding { connect, .. } = &self.phase {
            self.refuse_as(connect.version, refusal);
        }
    }

    fn refuse_as(&mut self, version: Version, refusal: ConnectRefusal) {
        // A CONNACK that cannot be printed is left out: the connection is closed in any case.
        let _ = encode::refuse(&mut self.outgoing, version, &refusal);
        self.close(CloseReason::Refused(refusal));
    }

    fn handle_publish(&mut self, publish: PublishPacket) -> Result<(), Fault> {
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        if publish.qos > 1 {
            return Err(Fault { code: 0x9B, what: "QoS 2, which is not offered" });
        }
        let own = publish.topic.strip_prefix(&open.base);
        let is_state = own == Some("state");
        if publish.retain && !is_state && open.version == Version::V5 {
            return Err(Fault { code: 0x9A, what: "retained, which is not offered" });
        }
        if let Some(packet_id) = publish.packet_id {
            if open.publishes.contains(packet_id) {
                // MQTT 3.1.1 clients may repeat within a connection; the first one is on its way and will be answered.
                return match open.version {
                    Version::V3_1_1 if publish.dup => Ok(()),
                    _ => Err(Fault { code: 0x82, what: "a packet identifier that is in use" }),
                };
            }
            if open.publishes.len() >= usize::from(self.limits.receive_maximum.max(1)) {
                return Err(Fault { code: 0x93, what: "more publishes than the receive maximum" });
            }
        }
        match judge_publish(open, &publish) {
            Ok(None) => {
                self.events.push_back(Event::StateChanged {
                    payload: publish.payload,
                    cause: StateCause::Published,
                });
                // Presence is volatile (correctness.md 13): there is nothing to sync that the promise could mean.
                if let Some(packet_id) = publish.packet_id {
                    open.publishes.push(packet_id, Some(Promise::Kept));
                }
            }
            Ok(Some(kind)) => {
                let (token, qos) = match publish.packet_id {
                    Some(packet_id) => (open.publishes.push(packet_id, None), Qos::AtLeastOnce),
                    None => (open.publishes.token(), Qos::AtMostOnce),
                };
                self.events.push_back(Event::Publish { token, kind, payload: publish.payload, qos });
            }
            Err((code, reason)) => {
                if let Some(packet_id) = publish.packet_id {
                    open.publishes.push(packet_id, Some(Promise::Refused(code)));
                }
                let told = open.version == Version::V5 && publish.packet_id.is_some();
                self.report_refusal(RefusedAction::Publish, &publish.topic, reason, code, told);
            }
        }
        self.acknowledge_settled();
        Ok(())
    }

    fn acknowledge_settled(&mut self) {
        let Phase::Open(open) = &mut self.phase else { return };
        while let Some((packet_id, promise)) = open.publishes.pop_settled() {
            let code = match promise {
                Promise::Kept => 0,
                Promise::Refused(code) => code.max(0x80),
            };
            encode::puback(&mut self.outgoing, open.version, packet_id, code);
            self.counters.pubacks += 1;
        }
    }

    fn handle_subscribe(
        &mut self,
        packet_id: u16,
        filters: &[FilterRequest],
        identifier: Option<u32>,
    ) -> Result<(), Fault> {
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        let mut codes = Vec::with_capacity(filters.len());
        let mut kinds: Vec<Kind> = Vec::new();
        let mut refused = Vec::new();
        for request in filters {
            let qos = if request.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
            let granted = judge_filter(&request.filter, &open.principal).and_then(|filter| {
                let matching = Kind::ALL.iter().filter(|kind| kind.may_go_down() && filter.matches(**kind));
                let matching: Vec<Kind> = matching.copied().collect();
                let added = open.delivery.subscribe(filter, qos, identifier, self.limits.max_filters);
                if added { Ok(matching) } else { Err((SubackReasonCode::QuotaExceeded, "too many filters")) }
            });
            match granted {
                Ok(matching) => {
                    codes.push(encode::granted(qos));
                    kinds.extend(matching);
                }
                Err((code, reason)) => {
                    codes.push(code);
                    refused.push((request.filter.as_str(), reason, code as u8));
                }
            }
        }
        encode::suback(&mut self.outgoing, open.version, packet_id, &codes).map_err(internal)?;
        for (filter, reason, code) in refused {
            self.report_refusal(RefusedAction::Subscribe, filter, reason, code, true);
        }
        if !kinds.is_empty() {
            kinds.sort_unstable();
            kinds.dedup();
            self.events.push_back(Event::Subscribed { kinds });
        }
        Ok(())
    }

    fn handle_unsubscribe(&mut self, packet_id: u16, filters: &[String]) -> Result<(), Fault> {
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        let mut existed = Vec::with_capacity(filters.len());
        for filter in filters {
            existed.push(filter.parse().is_ok_and(|filter| open.delivery.unsubscribe(&filter)));
        }
        encode::unsuback(&mut self.outgoing, open.version, packet_id, &existed).map_err(internal)
    }

    fn report_refusal(
        &mut self,
        action: RefusedAction,
        topic: &str,
        reason: &'static str,
        code: u8,
        client_was_told: bool,
    ) {
        let rate = &mut self.refusals;
        if self.now_ms.saturating_sub(rate.minute_began_ms) >= 60_000 {
            (rate.minute_began_ms, rate.reported) = (self.now_ms, 0);
        }
        if rate.reported >= self.limits.max_refusals_per_minute {
            rate.suppressed = rate.suppressed.saturating_add(1);
            return;
        }
        rate.reported += 1;
        let suppressed = std::mem::take(&mut rate.suppressed);
        let topic = topic.chars().filter(|c| !c.is_control()).take(EXCERPT_CHARS).collect();
        self.events.push_back(Event::Refused(Refusal {
            action,
            topic,
            reason,
            code,
            client_was_told,
            suppressed,
        }));
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
                let reason = CloseReason::Refused(ConnectRefusal::ServerUnavailable);
                Some((since_ms + limits.connect_timeout_ms, reason))
            }
            Phase::Open(open) => {
                let heard = self.reading && !self.holds_back(open);
                let keep_alive = open.keep_alive_ms.filter(|_| heard);
                keep_alive
                    .map(|keep_alive_ms| (open.packet_at_ms + keep_alive_ms, CloseReason::KeepAliveTimeout))
            }
            Phase::Closed => return None,
        };
        let acknowledgement = match &self.phase {
            Phase::Open(open) => open.delivery.oldest_sent_at_ms(),
            _ => None,
        };
        let acknowledgement = acknowledgement
            .map(|sent_at_ms| (sent_at_ms + limits.ack_timeout_ms, CloseReason::AcknowledgementTimeout));
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
                encode::disconnect(&mut self.outgoing, open.version, code, reference);
            }
            if let Some(payload) = open.will.filter(|_| reason != CloseReason::PeerDisconnected) {
                self.events.push_back(Event::StateChanged { payload, cause: StateCause::Will });
            }
        }
        self.inbound = Vec::new();
        self.events.push_back(Event::Closed { reason });
    }
}

/// The kind of an authorised publish, or none for the own state; else a PUBACK code and why.
fn judge_publish(open: &Open, publish: &PublishPacket) -> Result<Option<Kind>, (u8, &'static str)> {
    let kind = match publish.topic.strip_prefix(&open.base) {
        Some("state") => None,
        Some(own) => match own.strip_prefix("up/").and_then(|kind| kind.parse::<Kind>().ok()) {
            Some(kind) if kind.may_go_up() => Some(kind),
            Some(_) => return Err((0x90, "messages of this kind do not go up")),
            None if own.starts_with("down/") => return Err((0x87, "only the cloud publishes below down/")),
            None => return Err((0x90, "there is no such topic")),
        },
        None => match publish.topic.parse::<Topic>() {
            Ok(_) => return Err((0x87, "the topic belongs to another principal")),
            Err(_) if publish.topic.starts_with("ft/") => {
                return Err((0x87, "not below the principal's own topics"));
            }
            Err(_) => return Err((0x90, "there is no such topic")),
        },
    };
    if publish.retain && kind.is_some() {
        return Err((0x83, "retained, which is not offered"));
    }
    if publish.payload.len() > schemas::limits::PAYLOAD_BYTES {
        return Err((0x97, "the payload is larger than any message"));
    }
    if publish.text && std::str::from_utf8(&publish.payload).is_err() {
        return Err((0x99, "the payload is not the UTF-8 that it says it is"));
    }
    Ok(kind)
}

fn judge_filter(filter: &str, principal: &Principal) -> Result<Filter, (SubackReasonCode, &'static str)> {
    if filter.starts_with("$share/") {
        return Err((
            SubackReasonCode::SharedSubscriptionsNotSupported,
            "shared subscriptions are not offered",
        ));
    }
    let levels = || filter.split('/');
    let last = levels().count().saturating_sub(1);
    let well_formed = levels().enumerate().all(|(index, level)| match level {
        "+" => true,
        "#" => index == last,
        level => !level.contains(['+', '#']),
    });
    if !well_formed {
        return Err((SubackReasonCode::TopicFilterInvalid, "a wildcard where none may be"));
    }
    match filter.parse::<Filter>() {
        Ok(filter) if filter.permitted_for(principal) => Ok(filter),
        _ => Err((SubackReasonCode::NotAuthorized, "only the principal's own down/ may be subscribed")),
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
    };
    let fits = encode::publish(out, open.version, outgoing, open.max_packet_bytes)?;
    if let Some(packet_id) = packet_id.filter(|_| fits) {
        open.delivery.sent(packet_id, owed.message, now_ms);
    }
    Ok(fits)
}

fn internal(_: MqttError) -> Fault {
    INTERNAL
}
