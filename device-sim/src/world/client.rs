//! The client's end of a connection: bytes to packets and back, for MQTT 5 and 3.1.1, acknowledging only when it is
//! told to. It keeps what a client must: packet identifiers, the server's Receive Maximum, its keep alive.

use std::collections::{BTreeMap, VecDeque};

use broker_session::{Qos, Version};
use schemas::ids::Principal;
use schemas::topic::Kind;

use super::tap::Mark;
use crate::mqtt::{self, FromServer, Hello, PacketError};

/// A client that has heard nothing of its PINGREQ for so long gives up.
const PONG_WITHIN_MS: u64 = 10_000;

/// What a client does by itself.
#[derive(Debug, Clone)]
pub(super) struct Habits {
    pub(super) version: Version,
    pub(super) client_id: String,
    /// User name and password; a device shows its certificate instead.
    pub(super) login: Option<(String, Vec<u8>)>,
    pub(super) keep_alive_s: u16,
    /// How many deliveries it takes at a time.
    pub(super) receive_maximum: u16,
    /// What is told when it is gone.
    pub(super) will: Option<Vec<u8>>,
}

/// What a terminal or a device says.
#[derive(Debug, Clone)]
pub(super) enum Up {
    Subscribe,
    /// With QoS 1; `tag` comes back with the promise.
    Publish {
        tag: u64,
        kind: Kind,
        payload: Vec<u8>,
    },
    /// With QoS 0.
    Ask {
        kind: Kind,
        payload: Vec<u8>,
    },
    /// The own state, with QoS 1.
    State {
        payload: Vec<u8>,
    },
    Acknowledge {
        packet: u16,
        code: u8,
    },
    Ping,
}

/// What it hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Down {
    Accepted(bool),
    Subscribed,
    /// To be acknowledged if it has a packet identifier.
    Publish {
        packet: Option<u16>,
        kind: Kind,
        payload: Vec<u8>,
    },
    Promise {
        tag: u64,
        code: u8,
    },
    Closed,
}

/// One packet to send.
#[derive(Debug)]
pub(super) struct Saying {
    pub(super) bytes: Vec<u8>,
    pub(super) mark: Option<Mark>,
}

#[derive(Debug)]
struct Publish {
    tag: u64,
    topic: String,
    payload: Vec<u8>,
    trespass: bool,
}

/// The client's side of one connection.
#[derive(Debug)]
pub(super) struct Client {
    habits: Habits,
    /// `ft/{tenant}/{principal}/`
    base: String,
    inbound: Vec<u8>,
    last_packet: u16,
    server_maximum: usize,
    in_flight: BTreeMap<u16, Publish>,
    waiting: VecDeque<Publish>,
    said_at: u64,
    pinged_at: Option<u64>,
}

impl Client {
    pub(super) fn new(who: &Principal, habits: Habits, now: u64) -> Self {
        Self {
            habits,
            base: format!("ft/{}/{}/", who.tenant, who.id),
            inbound: Vec::new(),
            last_packet: 0,
            server_maximum: usize::from(u16::MAX),
            in_flight: BTreeMap::new(),
            waiting: VecDeque::new(),
            said_at: now,
            pinged_at: None,
        }
    }

    pub(super) fn version(&self) -> Version {
        self.habits.version
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// In MQTT 3.1.1 nobody can say it.
    pub(super) fn receive_maximum(&self) -> usize {
        match self.habits.version {
            Version::V3_1_1 => usize::from(u16::MAX),
            Version::V5 => usize::from(self.habits.receive_maximum),
        }
    }

    pub(super) fn connect(&self) -> Result<Saying, PacketError> {
        let state = format!("{}state", self.base);
        let habits = &self.habits;
        let bytes = mqtt::connect(&Hello {
            version: habits.version,
            client_id: &habits.client_id,
            login: habits.login.as_ref().map(|(user, password)| (user.as_str(), password.as_slice())),
            keep_alive_s: habits.keep_alive_s,
            receive_maximum: habits.receive_maximum,
            will: habits.will.as_ref().map(|payload| (state.as_str(), payload.as_slice())),
        })?;
        Ok(Saying { bytes, mark: None })
    }

    /// The packets that say it; a publish beyond the server's Receive Maximum waits for a PUBACK.
    pub(super) fn say(&mut self, now: u64, up: Up) -> Result<Vec<Saying>, PacketError> {
        self.said_at = now;
        let version = self.habits.version;
        let bytes = match up {
            Up::Publish { tag, kind, payload } => {
                let topic = format!("{}up/{kind}", self.base);
                self.waiting.push_back(Publish { tag, topic, payload, trespass: false });
                return self.send_waiting();
            }
            Up::State { payload } => {
                let topic = format!("{}state", self.base);
                self.waiting.push_back(Publish { tag: 0, topic, payload, trespass: false });
                return self.send_waiting();
            }
            Up::Ask { kind, payload } => {
                mqtt::publish(version, &format!("{}up/{kind}", self.base), &payload, None, false)?
            }
            Up::Subscribe => {
                let packet = self.free_packet();
                mqtt::subscribe(version, packet, &format!("{}down/#", self.base), Qos::AtLeastOnce)?
            }
            Up::Acknowledge { packet, code } => {
                let bytes = mqtt::puback(version, packet, code)?;
                let mark = Some(Mark::Acknowledge { packet });
                return Ok(vec![Saying { bytes, mark }]);
            }
            Up::Ping => {
                self.pinged_at.get_or_insert(now);
                mqtt::PINGREQ.to_vec()
            }
        };
        Ok(vec![Saying { bytes, mark: None }])
    }

    /// The oldest unacknowledged publish again, marked as a duplicate, as MQTT 3.1.1 allows at any time.
    pub(super) fn say_again(&self) -> Result<Option<Saying>, PacketError> {
        let Some((packet, publish)) = self.in_flight.first_key_value() else { return Ok(None) };
        self.saying(*packet, publish, true).map(Some)
    }

    /// A whole message of somebody else's: it must be refused.
    pub(super) fn trespass(&mut self, topic: &str, payload: Vec<u8>) -> Result<Vec<Saying>, PacketError> {
        let topic = topic.to_owned();
        self.waiting.push_back(Publish { tag: 0, topic, payload, trespass: true });
        self.send_waiting()
    }

    /// A subscription to what is somebody else's: it must be refused.
    pub(super) fn listen(&mut self, filter: &str) -> Result<Vec<Saying>, PacketError> {
        let packet = self.free_packet();
        let bytes = mqtt::subscribe(self.habits.version, packet, filter, Qos::AtLeastOnce)?;
        Ok(vec![Saying { bytes, mark: Some(Mark::Listen { packet }) }])
    }

    fn send_waiting(&mut self) -> Result<Vec<Saying>, PacketError> {
        let mut sayings = Vec::new();
        while self.in_flight.len() < self.server_maximum {
            let Some(publish) = self.waiting.pop_front() else { break };
            let packet = self.free_packet();
            sayings.push(self.saying(packet, &publish, false)?);
            self.in_flight.insert(packet, publish);
        }
        Ok(sayings)
    }

    fn saying(&self, packet: u16, publish: &Publish, again: bool) -> Result<Saying, PacketError> {
        let Publish { topic, payload, trespass, .. } = publish;
        let bytes = mqtt::publish(self.habits.version, topic, payload, Some(packet), again)?;
        let mark = Mark::Publish { packet, again, trespass: *trespass, payload: payload.clone() };
        Ok(Saying { bytes, mark: Some(mark) })
    }

    fn free_packet(&mut self) -> u16 {
        loop {
            self.last_packet = self.last_packet.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains_key(&self.last_packet) {
                return self.last_packet;
            }
        }
    }

    /// Bytes of the server: what they mean, and what is to be sent now that there is room.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<(Vec<Down>, Vec<Saying>), PacketError> {
        self.inbound.extend_from_slice(bytes);
        let (mut heard, mut sayings) = (Vec::new(), Vec::new());
        while let Some(packet) = mqtt::take(self.habits.version, &mut self.inbound)? {
            match packet {
                FromServer::Connack { code, receive_maximum, .. } => {
                    self.server_maximum = usize::from(receive_maximum);
                    heard.push(Down::Accepted(code == 0));
                }
                FromServer::Suback { codes, .. } => {
                    heard.extend(codes.iter().any(|code| *code < 0x80).then_some(Down::Subscribed));
                }
                FromServer::Publish { topic, payload, packet_id, .. } => {
                    let kind = topic.rsplit('/').next().and_then(|kind| kind.parse().ok());
                    heard.extend(kind.map(|kind| Down::Publish { packet: packet_id, kind, payload }));
                }
                FromServer::Puback { packet_id, code } => {
                    if let Some(publish) = self.in_flight.remove(&packet_id) {
                        heard.push(Down::Promise { tag: publish.tag, code });
                    }
                    sayings.extend(self.send_waiting()?);
                }
                FromServer::Pingresp => self.pinged_at = None,
                FromServer::Disconnect { .. } => {}
            }
        }
        Ok((heard, sayings))
    }

    /// When to look at the time next; never with a keep alive of 0.
    pub(super) fn due(&self) -> Option<u64> {
        if self.habits.keep_alive_s == 0 {
            return None;
        }
        let ping_at = self.said_at + u64::from(self.habits.keep_alive_s) * 1_000;
        Some(self.pinged_at.map_or(ping_at, |pinged| ping_at.min(pinged + PONG_WITHIN_MS)))
    }

    /// The server has not answered the PINGREQ.
    pub(super) fn gives_up(&self, now: u64) -> bool {
        self.pinged_at.is_some_and(|pinged| now >= pinged + PONG_WITHIN_MS)
    }
}
