//! The onlooker at the wire: every packet that leaves the core's process and every packet that reaches it, and the
//! rules of MQTT that they must keep (mqtt.md; correctness.md 8 to 11). It knows nothing of the session's state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use broker_session::Version;
use schemas::ids::{CommandId, IdempotencyKey, MessageId, PaymentId, Principal};
use schemas::message::Down;
use schemas::topic::Kind;

use super::facts::Word;
use crate::mqtt::{self, FromServer};

/// Who asks, with which key.
pub(super) type RequestKey = (Principal, IdempotencyKey);

/// What hangs on the promise of one PUBLISH.
#[derive(Debug)]
pub(super) struct Note {
    /// The journal position of the state right after it was handled.
    pub(super) position: u64,
    pub(super) request: Option<RequestKey>,
    pub(super) word: Option<(CommandId, Word)>,
    /// The payment that its payer consents to.
    pub(super) consent: Option<PaymentId>,
    /// The entry of what it means for a child's payment.
    pub(super) family: Option<u64>,
}

/// What a client has put on the wire, as far as the rules need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// With QoS 1.
    Publish {
        packet: u16,
        again: bool,
        /// On a topic that is not the client's to publish on.
        trespass: bool,
        payload: Vec<u8>,
    },
    Acknowledge {
        packet: u16,
    },
    /// A subscription to what is somebody else's.
    Listen {
        packet: u16,
    },
}

/// A PUBLISH with QoS 1 that has arrived and has no PUBACK yet.
#[derive(Debug)]
struct Arrived {
    packet: u16,
    /// A repeat: the same as the first one if that has no PUBACK yet, else a publish of its own.
    again: bool,
    trespass: bool,
    payload: Vec<u8>,
    /// The session's name for it, once the core has it.
    token: Option<u64>,
    note: Option<Note>,
    /// The core has refused it.
    refused: bool,
    /// The client's own state: the lane keeps it.
    is_state: bool,
}

/// What the onlooker sees leave.
#[derive(Debug)]
pub(super) enum Sight {
    /// A message; its topic was this principal's own.
    Message { kind: Kind, payload: Vec<u8> },
    /// A PUBACK that promises.
    Promise(Note),
}

/// A rule that does not hold, and what was seen.
pub(super) type Broken = (&'static str, String);

/// One connection, seen from outside.
#[derive(Debug)]
pub(super) struct Tap {
    version: Version,
    /// `ft/{tenant}/{principal}/down/`
    own: String,
    receive_maximum: usize,
    marks: VecDeque<(u64, Mark)>,
    publishes: VecDeque<Arrived>,
    leaving: Vec<u8>,
    greeted: bool,
    subscribed: bool,
    /// The client has asked how things stand.
    asked: bool,
    /// Subscriptions that must be refused.
    trespasses: BTreeSet<u16>,
    /// Deliveries without a PUBACK: packet identifier, content.
    open: BTreeMap<u16, (MessageId, Vec<u8>)>,
    /// PUBACKs that have arrived and of which the core was not yet told, by message: what is told again has the same
    /// id.
    acknowledged: BTreeMap<MessageId, u32>,
}

impl Tap {
    pub(super) fn new(version: Version, base: &str, receive_maximum: usize) -> Self {
        Self {
            version,
            own: format!("{base}down/"),
            receive_maximum,
            marks: VecDeque::new(),
            publishes: VecDeque::new(),
            leaving: Vec::new(),
            greeted: false,
            subscribed: false,
            asked: false,
            trespasses: BTreeSet::new(),
            open: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        }
    }

    /// A packet whose last byte is the stream's byte number `ends_at`.
    pub(super) fn sent(&mut self, ends_at: u64, mark: Mark) {
        self.marks.push_back((ends_at, mark));
    }

    /// So many bytes of the client have arrived.
    pub(super) fn arrived(&mut self, bytes: u64) {
        while self.marks.front().is_some_and(|(ends_at, _)| *ends_at <= bytes) {
            match self.marks.pop_front() {
                Some((_, Mark::Publish { packet, again, trespass, payload })) => {
                    let (token, note) = (None, None);
                    let arrived = Arrived {
                        packet,
                        again,
                        trespass,
                        payload,
                        token,
                        note,
                        refused: false,
                        is_state: false,
                    };
                    self.publishes.push_back(arrived);
                }
                Some((_, Mark::Acknowledge { packet })) => {
                    let message = self.open.remove(&packet).map(|(message, _)| message);
                    if let Some(message) = message {
                        *self.acknowledged.entry(message).or_default() += 1;
                    }
                }
                Some((_, Mark::Listen { packet })) => {
                    self.trespasses.insert(packet);
                }
                None => return,
            }
        }
    }

    /// The core has this PUBLISH, under the session's `token`.
    pub(super) fn handed_over(
        &mut self,
        token: u64,
        kind: Kind,
        payload: &[u8],
        note: Note,
    ) -> Result<(), Broken> {
        self.asked |= kind == Kind::StatusRequest;
        let found = self.publishes.iter_mut().find(|known| known.token.is_none() && known.payload == payload);
        let Some(found) = found else {
            return Err(("wire", "the core gets a publish that nobody has sent".to_owned()));
        };
        (found.token, found.note) = (Some(token), Some(note));
        Ok(())
    }

    /// The lane keeps the client's own state itself.
    pub(super) fn kept_by_lane(&mut self, payload: &[u8]) {
        if let Some(found) =
            self.publishes.iter_mut().find(|known| known.token.is_none() && known.payload == payload)
        {
            found.is_state = true;
        }
    }

    /// The core refuses it. MQTT 3.1.1 has no word for that in its PUBACK.
    /// The consent in it was not heard then, nor what it meant for a child's payment.
    pub(super) fn refused(&mut self, token: u64) -> (Option<PaymentId>, Option<u64>) {
        let Some(found) = self.publishes.iter_mut().find(|known| known.token == Some(token)) else {
            return (None, None);
        };
        found.refused = true;
        found.note.as_ref().map_or((None, None), |note| (note.consent, note.family))
    }

    /// The core is told that the client has acknowledged `message`.
    pub(super) fn acknowledged(&mut self, message: MessageId, code: u8) -> Result<(), Broken> {
        // 0x95: the session says so itself of a message that is larger than the client takes.
        if let Some(left) = self.acknowledged.get_mut(&message).filter(|left| **left > 0) {
            *left -= 1;
            return Ok(());
        }
        if code == 0x95 {
            return Ok(());
        }
        Err(("correctness.md 8", format!("{message} counts as acknowledged, and the client never did so")))
    }

    /// Bytes leave the core's process.
    pub(super) fn left(&mut self, bytes: &[u8]) -> Result<Vec<Sight>, Broken> {
        self.leaving.extend_from_slice(bytes);
        let mut sights = Vec::new();
        loop {
            let packet = mqtt::take(self.version, &mut self.leaving);
            let Some(packet) = packet.map_err(|error| ("wire", error.to_string()))? else {
                return Ok(sights);
            };
            sights.extend(self.see(packet)?);
        }
    }

    fn see(&mut self, packet: FromServer) -> Result<Option<Sight>, Broken> {
        let is_first = !std::mem::replace(&mut self.greeted, true);
        match packet {
            FromServer::Connack { session_present, .. } => {
                if !is_first || session_present {
                    return Err(("mqtt.md", "a CONNACK that comes late, or remembers a session".to_owned()));
                }
            }
            _ if is_first => return Err(("mqtt.md", "CONNACK is not the first packet".to_owned())),
            FromServer::Suback { packet_id, codes } => {
                let granted = codes.iter().any(|code| *code < 0x80);
                if granted && self.trespasses.remove(&packet_id) {
                    return Err(("PL-1", "a subscription to what is somebody else's is granted".to_owned()));
                }
                self.subscribed |= granted;
            }
            FromServer::Publish { topic, payload, packet_id, dup, retain } => {
                if dup || retain {
                    return Err(("MQTT-4.4.0-1", format!("sent again, or retained, on {topic}")));
                }
                return self.see_publish(&topic, payload, packet_id).map(Some);
            }
            FromServer::Puback { packet_id, code } => return self.see_puback(packet_id, code),
            FromServer::Pingresp | FromServer::Disconnect { .. } => {}
        }
        Ok(None)
    }

    fn see_publish(
        &mut self,
        topic: &str,
        payload: Vec<u8>,
        packet_id: Option<u16>,
    ) -> Result<Sight, Broken> {
        if !self.subscribed {
            return Err(("correctness.md 11", format!("{topic} goes to a client that has not subscribed")));
        }
        let kind = topic.strip_prefix(&self.own).and_then(|kind| kind.parse::<Kind>().ok());
        let Some(kind) = kind else {
            return Err(("delivery", format!("{topic} goes to a client whose own topics are {}", self.own)));
        };
        if let Some(packet) = packet_id {
            let message = Down::decode(kind, &payload).map(|envelope| envelope.id);
            let message = message.map_err(|error| ("wire", error.to_string()))?;
            // What stands is told again as often as the client asks.
            let is_repeatable = matches!(kind, Kind::PaymentStatus | Kind::PaymentVerification);
            let is_open = self.open.values().any(|(_, known)| *known == payload);
            if is_open && !(is_repeatable && self.asked) {
                return Err(("MQTT-4.4.0-1", format!("{message} is sent again on the same connection")));
            }
            if self.open.insert(packet, (message, payload.clone())).is_some() {
                return Err(("correctness.md 8", format!("packet {packet} is used before its PUBACK")));
            }
            if self.open.len() > self.receive_maximum {
                return Err(("mqtt.md", "more deliveries than the client's Receive Maximum".to_owned()));
            }
        }
        Ok(Sight::Message { kind, payload })
    }

    /// The oldest one, past repeats that were one with their first: what hung on them is that of the next one alike.
    fn next_unacknowledged(&mut self, packet: u16) -> Option<Arrived> {
        loop {
            let next = self.publishes.pop_front()?;
            if !next.again || next.packet == packet {
                return Some(next);
            }
            let alike = |known: &&mut Arrived| known.token.is_none() && known.payload == next.payload;
            if next.token.is_some()
                && let Some(heir) = self.publishes.iter_mut().find(alike)
            {
                (heir.token, heir.note, heir.refused) = (next.token, next.note, next.refused);
            }
        }
    }

    fn see_puback(&mut self, packet: u16, code: u8) -> Result<Option<Sight>, Broken> {
        let Some(arrived) = self.next_unacknowledged(packet) else {
            return Err(("correctness.md 8", format!("a PUBACK for packet {packet}, which nobody sent")));
        };
        if arrived.packet != packet {
            let text = format!("PUBACK for packet {packet} before the one for {}", arrived.packet);
            return Err(("correctness.md 8", text));
        }
        if code >= 0x80 || arrived.is_state && !arrived.trespass {
            return Ok(None);
        }
        match (arrived.note, arrived.refused, self.version) {
            (Some(note), false, _) => Ok(Some(Sight::Promise(note))),
            (Some(_), true, Version::V3_1_1) => Ok(None),
            (None, _, Version::V3_1_1) if arrived.trespass => Ok(None),
            _ => Err((
                "MO-5 durable before visible",
                format!("packet {packet} is promised, and nobody has it"),
            )),
        }
    }
}
