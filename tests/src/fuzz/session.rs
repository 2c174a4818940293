//! One MQTT connection: any bytes of the peer in any state, and between them everything that the core and the socket
//! may do. A model beside it says what must never come out.

use std::collections::{BTreeMap, BTreeSet};

use broker_session::{
    ConnectRefusal, ConnectionId, DisconnectReason, Event, Limits, Owed, Promise, PublishToken, Qos, Session,
    StateCause, Version,
};
use schemas::ids::{MessageId, Principal};
use schemas::topic::Kind;

use super::input::Input;

const WHO: &str = "acme/chip-7";
/// Where the input's packets go and what they ask for.
const TOPICS: &[&str] = &[
    "ft/acme/chip-7/up/health-check",
    "ft/acme/chip-7/up/cloud-time",
    "ft/acme/chip-7/state",
    "ft/acme/chip-7/down/#",
    "ft/acme/chip-7/down/+",
    "ft/acme/chip-7/down/cloud-time",
    "ft/acme/chip-8/up/health-check",
    "ft/acme/chip-8/down/#",
    "#",
    "é/\u{0}",
    "",
];

/// One step: its code, then what it needs. See [`Play::step`].
pub(super) mod step {
    pub(crate) const BYTES: u8 = 0;
    pub(crate) const FILL: u8 = 1;
    pub(crate) const CONNECT: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const SUBSCRIBE: u8 = 4;
    pub(crate) const PUBACK: u8 = 5;
    pub(crate) const OTHER_PACKET: u8 = 6;
    pub(crate) const STANDING: u8 = 7;
    pub(crate) const PROMISE: u8 = 8;
    pub(crate) const OWE: u8 = 9;
    pub(crate) const ANSWER: u8 = 10;
    pub(crate) const REPLY: u8 = 11;
    pub(crate) const TRANSMITTED: u8 = 12;
    pub(crate) const TIME: u8 = 13;
    pub(crate) const READING: u8 = 14;
    pub(crate) const END: u8 = 15;
    pub(crate) const COUNT: u8 = 16;
}

/// First byte: limits, and whether a connection is open already. Then steps.
pub fn session(data: &[u8]) {
    play(data);
}

fn play(data: &[u8]) -> Model {
    let mut input = Input::new(data);
    let mut play = Play::new(input.byte());
    while !input.is_empty() {
        play.step(&mut input);
        play.settle();
    }
    play.polls_events = true;
    play.settle();
    play.check_end();
    play.model
}

struct Play {
    session: Session,
    limits: Limits,
    now_ms: u64,
    /// Of the packets that it makes.
    is_version_5: bool,
    polls_events: bool,
    model: Model,
}

/// What the surroundings know.
#[derive(Default)]
struct Model {
    is_version_5: bool,
    /// QoS 1, in the order of arrival, without promise.
    pending: Vec<PublishToken>,
    last_token: u64,
    /// PUBACKs that may have left: of kept promises, and of everything that the session answers by itself.
    kept: u64,
    refused: u64,
    own_answers: u64,
    pubacks_kept: u64,
    pubacks: u64,
    outbox: Vec<Owed>,
    /// The core's answers contained these.
    given: BTreeMap<MessageId, u64>,
    sent: BTreeSet<u64>,
    /// Packet id to sequence.
    outstanding: BTreeMap<u16, u64>,
    acknowledged: BTreeSet<MessageId>,
    pull: Option<(u64, usize)>,
    asked: bool,
    accepted: bool,
    connacks: u64,
    closed: bool,
    in_transit: usize,
    /// Bytes of the largest thing that the core ever gave.
    given_bytes: usize,
}

impl Play {
    fn new(selector: u8) -> Self {
        let limits = match selector & 3 {
            0 => Limits { max_refusals_per_minute: u32::MAX, ..Limits::default() },
            _ => Limits {
                receive_maximum: 4,
                max_in_flight: 3,
                max_transmit_bytes: 256,
                max_skipped: 4,
                max_filters: 3,
                max_refusals_per_minute: u32::MAX,
                ..Limits::default()
            },
        };
        let session = Session::new(ConnectionId::new(1, 1), limits.clone(), 0);
        let model = Model::default();
        let mut play = Self { session, limits, now_ms: 0, is_version_5: false, polls_events: true, model };
        if selector & 4 != 0 {
            play.is_version_5 = selector & 8 != 0;
            let connect = play.connect(&mut Input::new(&[2, 0]));
            play.session.handle_bytes(0, &connect);
            play.settle();
            play.model.accepted = true;
            play.session.handle_standing(0, Ok(who()));
            play.settle();
        }
        play
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % step::COUNT {
            step::BYTES => {
                let length = usize::from(input.byte());
                self.session.handle_bytes(self.now_ms, input.take(length));
            }
            step::FILL => {
                let (value, length) = (input.byte(), usize::from(input.word()));
                self.session.handle_bytes(self.now_ms, &vec![value; length]);
            }
            step::CONNECT => {
                self.is_version_5 = input.byte() % 2 == 1;
                let bytes = self.connect(input);
                self.session.handle_bytes(self.now_ms, &bytes);
            }
            step::PUBLISH => {
                let bytes = self.publish(input);
                self.session.handle_bytes(self.now_ms, &bytes);
            }
            step::SUBSCRIBE => {
                let bytes = self.subscribe(input);
                self.session.handle_bytes(self.now_ms, &bytes);
            }
            step::PUBACK => {
                let (choice, code) = (input.byte(), input.byte());
                let known = self.model.outstanding.keys().nth(usize::from(choice) % 8).copied();
                let packet_id = known.unwrap_or(u16::from(choice)).to_be_bytes();
                let with_code = self.is_version_5 && code != 0;
                let body = if with_code { [&packet_id[..], &[code]].concat() } else { packet_id.to_vec() };
                self.session.handle_bytes(self.now_ms, &packet(0x40, &[&body]));
            }
            step::OTHER_PACKET => {
                let (first, length) = (input.byte(), usize::from(input.byte()));
                let bytes = packet(first, &[input.take(length)]);
                self.session.handle_bytes(self.now_ms, &bytes);
            }
            step::STANDING => self.stand(input.byte()),
            step::PROMISE => self.promise(input.byte(), input.byte()),
            step::OWE => self.owe(input),
            step::ANSWER => self.answer(input.byte()),
            step::REPLY => {
                let (kind, length) = (input.pick(Kind::ALL), usize::from(input.byte()));
                self.model.given_bytes = self.model.given_bytes.max(length);
                self.session.handle_reply(kind, vec![0xFF; length]);
            }
            step::TRANSMITTED => {
                let all = self.model.in_transit;
                let bytes = match input.byte() {
                    0xFF => all,
                    some => all.min(usize::from(some)),
                };
                self.model.in_transit -= bytes;
                self.session.handle_transmitted(self.now_ms, bytes);
            }
            step::TIME => {
                self.now_ms += u64::from(input.word());
                self.session.handle_timeout(self.now_ms);
            }
            step::READING => match input.byte() % 3 {
                2 => self.polls_events = !self.polls_events,
                reading => self.session.handle_reading(self.now_ms, reading == 1),
            },
            _ => match input.byte() % 4 {
                0 => self.session.handle_connection_lost(),
                1 => self.session.handle_disconnect(DisconnectReason::TakenOver),
                2 => self.session.handle_disconnect(DisconnectReason::UseAnotherServer {
                    reference: "elsewhere:8883".to_owned(),
                }),
                _ => self.session.handle_disconnect(DisconnectReason::NotAuthorized),
            },
        }
    }

    fn stand(&mut self, choice: u8) {
        let standing = match choice % 4 {
            0 => Err(ConnectRefusal::ServerBusy),
            1 => Err(ConnectRefusal::UseAnotherServer { reference: "elsewhere:8883".to_owned() }),
            _ => Ok(who()),
        };
        // Nobody asked: ignored.
        self.model.accepted |= standing.is_ok() && (self.model.asked || !self.polls_events);
        self.session.handle_standing(self.now_ms, standing);
    }

    /// For a publish that waits, or for one that does not: then nothing may follow.
    fn promise(&mut self, choice: u8, code: u8) {
        let promise = if code == 0 { Promise::Kept } else { Promise::Refused(code) };
        if choice < 128 && !self.model.pending.is_empty() {
            let token = self.model.pending.remove(usize::from(choice) % self.model.pending.len());
            match promise {
                Promise::Kept => self.model.kept += 1,
                Promise::Refused(_) => self.model.refused += 1,
            }
            self.session.handle_promise(token, promise);
        } else {
            let token = PublishToken(if choice.is_multiple_of(2) { 0 } else { u64::MAX - u64::from(choice) });
            self.session.handle_promise(token, promise);
        }
    }

    fn owe(&mut self, input: &mut Input<'_>) {
        let (kind, length, life) = (input.pick(Kind::ALL), usize::from(input.byte()) * 16, input.byte());
        let sequence = self.model.outbox.last().map_or(0, |owed| owed.sequence) + 1 + u64::from(life % 2);
        let mut payload = sequence.to_be_bytes().to_vec();
        payload.resize(8 + length, 0xAB);
        self.model.given_bytes = self.model.given_bytes.max(payload.len());
        self.model.outbox.push(Owed {
            message: MessageId::derived("fuzz", &[&sequence.to_be_bytes()]),
            sequence,
            kind,
            payload,
            expires_at_ms: self.now_ms + u64::from(life) * 100,
        });
        self.session.handle_wake();
    }

    /// As asked; or more than asked, not asked at all, in a wrong order.
    fn answer(&mut self, choice: u8) {
        let asked = self.model.pull.take();
        let (after, max) = asked.unwrap_or((0, 1));
        let wanted = self.model.outbox.iter().filter(|owed| choice % 4 == 3 || owed.sequence > after);
        let mut entries: Vec<Owed> = wanted.take(if choice % 4 == 2 { 40 } else { max }).cloned().collect();
        if choice % 8 == 7 {
            entries.reverse();
        }
        for owed in &entries {
            self.model.given.insert(owed.message, owed.sequence);
        }
        self.session.handle_owed(self.now_ms, entries);
    }

    /// Takes everything out and compares it with the model.
    fn settle(&mut self) {
        if self.polls_events {
            let mut polled = 0;
            while let Some(event) = self.session.poll_event() {
                self.model.hear(event);
                polled += 1;
                assert!(polled < 100_000, "events without end");
            }
            assert!(self.model.closed == self.session.is_closed(), "`Closed` is the last event");
            while let Some(bytes) = self.session.poll_transmit() {
                self.model.see(&bytes);
                self.model.in_transit += bytes.len();
            }
        }
        self.check();
    }

    fn check(&self) {
        let limits = &self.limits;
        // What is read beyond a packet, and what goes out: answers to one read, deliveries of one pull, a reply.
        let inbound = limits.max_packet_bytes + limits.max_transmit_bytes + usize::from(u16::MAX);
        let delivered = (usize::from(limits.max_in_flight) + 40) * (self.model.given_bytes + 128);
        let bound = inbound + limits.max_transmit_bytes + delivered + 64 * 1024;
        assert!(self.session.buffered_bytes() <= bound, "{} > {bound}", self.session.buffered_bytes());
        let model = &self.model;
        assert!(model.outstanding.len() <= usize::from(limits.max_in_flight), "more in flight than allowed");
        assert!(model.pubacks_kept <= model.kept + model.own_answers, "a PUBACK without a promise");
        assert!(model.pubacks <= model.kept + model.refused + model.own_answers, "a PUBACK too many");
        assert!(model.connacks <= 1);
        assert!(!self.session.is_closed() || self.session.poll_timeout().is_none() || model.in_transit > 0);
    }

    fn check_end(&mut self) {
        self.session.handle_connection_lost();
        self.settle();
        assert!(self.model.closed);
        self.session.handle_bytes(self.now_ms, b"\xC0\x00");
        self.session.handle_wake();
        assert!(self.session.poll_event().is_none(), "nothing follows `Closed`");
    }
}

impl Model {
    fn hear(&mut self, event: Event) {
        assert!(!self.closed, "{event:?} after `Closed`");
        match event {
            Event::Connect(connect) => {
                assert!(!self.asked, "one CONNECT");
                self.asked = true;
                self.is_version_5 = connect.version == Version::V5;
            }
            Event::Publish { token, kind, payload, qos } => {
                assert!(self.accepted && kind.may_go_up());
                assert!(payload.len() <= schemas::limits::PAYLOAD_BYTES);
                assert!(token.0 > self.last_token, "tokens ascend");
                self.last_token = token.0;
                if qos == Qos::AtLeastOnce {
                    self.pending.push(token);
                }
            }
            Event::Subscribed { kinds } => {
                assert!(self.accepted && kinds.iter().all(|kind| kind.may_go_down()));
            }
            Event::Pull { after_sequence, max } => {
                assert!(self.accepted && max > 0);
                self.pull = Some((after_sequence, max));
            }
            Event::Acknowledged { message, .. } => {
                let sequence = self.given.get(&message).expect("only what was given is acknowledged");
                self.outstanding.retain(|_, outstanding| outstanding != sequence);
                assert!(self.acknowledged.insert(message), "a message is acknowledged once");
            }
            // The session answers these by itself.
            Event::Refused(_) | Event::StateChanged { cause: StateCause::Published, .. } => {
                self.own_answers += 1
            }
            Event::StateChanged { .. } => {}
            Event::Watch { .. } | Event::Watching | Event::PullStates { .. } => {
                panic!("only observers watch")
            }
            Event::Closed { .. } => self.closed = true,
        }
    }

    /// Whole packets, in an order that the protocol allows.
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (first, body, length) = split(bytes);
            bytes = &bytes[length..];
            assert!(first == 0x20 || self.connacks == 1 || first == 0xE0, "CONNACK comes first");
            match first >> 4 {
                2 => {
                    self.connacks += 1;
                    assert!(self.accepted || body[1] != 0, "accepted without the core's word");
                }
                3 => self.see_publish(first, body),
                4 => {
                    self.pubacks += 1;
                    self.pubacks_kept +=
                        u64::from(self.is_version_5 && body.get(2).copied().unwrap_or(0) < 0x80);
                }
                9 | 11 | 13 | 14 => {}
                other => panic!("a server does not send packets of type {other}"),
            }
        }
    }

    fn see_publish(&mut self, first: u8, body: &[u8]) {
        let (topic, mut rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
        assert!(topic.starts_with(format!("ft/{WHO}/down/").as_bytes()), "told something of another");
        let mut packet_id = None;
        if first & 0b110 != 0 {
            packet_id = Some(u16::from_be_bytes([rest[0], rest[1]]));
            rest = &rest[2..];
        }
        if self.is_version_5 {
            let (length, width) = variable_length(rest);
            rest = &rest[width + length..];
        }
        // A reply is all 0xFF; what is owed begins with its sequence.
        let sequence = rest.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
        let Some(sequence) = sequence.filter(|sequence| *sequence != u64::MAX && rest[0] != 0xFF) else {
            return;
        };
        assert!(self.given.values().any(|given| *given == sequence), "nobody owed this");
        assert!(self.sent.insert(sequence), "one send of a message on a connection (MQTT-4.4.0-1)");
        if let Some(packet_id) = packet_id {
            let message =
                self.given.iter().find(|(_, given)| **given == sequence).map(|(message, _)| message);
            // Invented acknowledgements may come before we look at what was sent.
            if message.is_none_or(|message| !self.acknowledged.contains(message)) {
                assert!(
                    packet_id != 0 && self.outstanding.insert(packet_id, sequence).is_none(),
                    "id in use"
                );
            }
        }
    }
}

impl Play {
    fn connect(&self, input: &mut Input<'_>) -> Vec<u8> {
        let (flags, keep_alive_s) = (input.byte(), input.byte());
        let will = flags & 4 != 0;
        let mut body = vec![0, 4];
        body.extend(b"MQTT");
        body.extend([if self.is_version_5 { 5 } else { 4 }, 0xC0 | (flags & 0x3F), 0, keep_alive_s]);
        if self.is_version_5 {
            let properties: &[u8] = match flags >> 6 {
                0 => &[],
                1 => &[0x21, 0, 2],
                2 => &[0x27, 0, 0, 0, 64],
                _ => &[0x11, 0, 0, 0, 9],
            };
            body.push(properties.len() as u8);
            body.extend(properties);
        }
        body.extend(text("c"));
        if will {
            body.extend(if self.is_version_5 { &[0][..] } else { &[] });
            let topic = input.byte();
            let topic = TOPICS[if topic == 0 { 2 } else { usize::from(topic) % TOPICS.len() }];
            body.extend(text(topic));
            body.extend(text("gone"));
        }
        body.extend(text(WHO));
        body.extend(text("token"));
        packet(0x10, &[&body])
    }

    fn publish(&self, input: &mut Input<'_>) -> Vec<u8> {
        let (flags, topic, id, length) = (input.byte(), input.pick(TOPICS), input.byte(), input.byte());
        let payload = vec![0x5A; usize::from(length) * usize::from(1 + (flags >> 4) * 3)];
        let id: &[u8] = if flags & 0b110 != 0 { &[0, id] } else { &[] };
        let properties: &[u8] = if self.is_version_5 { &[0] } else { &[] };
        packet(0x30 | (flags & 0xF), &[&text(topic), id, properties, &payload])
    }

    fn subscribe(&self, input: &mut Input<'_>) -> Vec<u8> {
        let (choice, id) = (input.byte(), input.byte());
        let properties: &[u8] = if self.is_version_5 { &[0] } else { &[] };
        let unsubscribes = choice & 0x80 != 0;
        let mut filters = Vec::new();
        for _ in 0..=choice % 3 {
            filters.extend(text(input.pick(TOPICS)));
            if !unsubscribes {
                filters.push(input.byte());
            }
        }
        packet(if unsubscribes { 0xA2 } else { 0x82 }, &[&[0, id], properties, &filters])
    }
}

fn who() -> Principal {
    WHO.parse().unwrap()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = vec![first];
    let mut length = body.len();
    while length >= 128 {
        bytes.push(0x80 | (length % 128) as u8);
        length /= 128;
    }
    bytes.push(length as u8);
    bytes.extend(body);
    bytes
}

/// First byte, body, length of the whole packet.
fn split(bytes: &[u8]) -> (u8, &[u8], usize) {
    let (length, width) = variable_length(&bytes[1..]);
    let end = 1 + width + length;
    assert!(end <= bytes.len(), "half a packet");
    (bytes[0], &bytes[1 + width..end], end)
}

fn variable_length(bytes: &[u8]) -> (usize, usize) {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return (length, index + 1);
        }
    }
    panic!("a length without end");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::seeds;

    /// A session that never comes far finds nothing.
    #[test]
    fn the_seeds_reach_promises_deliveries_and_acknowledgements() {
        let played = |name: &str| {
            let seeds = seeds("session");
            let (_, bytes) = seeds.iter().find(|(known, _)| known == name).unwrap();
            play(bytes)
        };
        for version in ["v3", "v5"] {
            let model = played(&format!("{version}-publish-promise"));
            assert_eq!((model.kept, model.refused, model.pubacks), (3, 1, 6), "{version}");
            let model = played(&format!("{version}-deliver-acknowledge"));
            assert_eq!((model.sent.len(), model.acknowledged.len()), (7, 6), "{version}");
        }
        for name in ["mosquitto-v5", "mosquitto-v3"] {
            let model = played(name);
            assert_eq!((model.accepted, model.last_token, model.pubacks), (true, 1, 1), "{name}");
        }
    }
}
