//! A live copy of what passes, for operators. Best effort: whoever is too slow is told how much they missed, and nobody
//! who is served waits for them. No token ever passes here: they come with CONNECT.

use std::sync::Arc;

use broker_session::ConnectionId;
use schemas::ids::Principal;
use schemas::message::{Down, Up};
use schemas::time::Timestamp;
use schemas::topic::{Kind, Topic};
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// Messages that wait for one slow reader.
const WAITING: usize = 1_024;
/// Of a payload that is no known message, in bytes.
const HEX_BYTES: usize = 64;

/// Something that passed.
#[derive(Debug, Clone)]
pub struct Tapped {
    at: Timestamp,
    connection: ConnectionId,
    topic: Topic,
    payload: Vec<u8>,
}

/// Where it is copied to.
#[derive(Debug)]
pub(crate) struct Tap(broadcast::Sender<Arc<Tapped>>);

impl Default for Tap {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING))
    }
}

impl Tap {
    /// Costs one look while nobody listens.
    pub(crate) fn is_open(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Tapped>> {
        self.0.subscribe()
    }

    pub(crate) fn up(&self, at_ms: u64, connection: ConnectionId, who: &Principal, kind: Kind, said: &[u8]) {
        self.copy(at_ms, connection, Topic::Up { principal: who.clone(), kind }, said);
    }

    pub(crate) fn down(
        &self,
        at_ms: u64,
        connection: ConnectionId,
        who: &Principal,
        kind: Kind,
        said: &[u8],
    ) {
        self.copy(at_ms, connection, Topic::Down { principal: who.clone(), kind }, said);
    }

    pub(crate) fn state(&self, at_ms: u64, connection: ConnectionId, who: &Principal, said: &[u8]) {
        self.copy(at_ms, connection, Topic::State { principal: who.clone() }, said);
    }

    fn copy(&self, at_ms: u64, connection: ConnectionId, topic: Topic, said: &[u8]) {
        // The last listener may have gone meanwhile.
        let _ =
            self.0.send(Arc::new(Tapped { at: Timestamp(at_ms), connection, topic, payload: said.to_vec() }));
    }
}

impl Tapped {
    /// Whether its topic matches an MQTT filter.
    pub fn matches(&self, filter: &str) -> bool {
        topic_matches(filter, &self.topic.to_string())
    }

    /// As operators see it: known messages decoded, others as the beginning of their bytes.
    pub fn shown(&self) -> Value {
        let message = match &self.topic {
            Topic::Up { kind, .. } => {
                Up::decode(*kind, &self.payload).ok().map(|said| serde_json::to_value(said.body))
            }
            Topic::Down { kind, .. } => {
                Down::decode(*kind, &self.payload).ok().map(|said| serde_json::to_value(said.body))
            }
            Topic::State { .. } => std::str::from_utf8(&self.payload).ok().map(|text| Ok(text.into())),
            Topic::Feed { .. } => None,
        };
        let message = message.and_then(Result::ok);
        let hex = message.is_none().then(|| {
            let bytes = self.payload.iter().take(HEX_BYTES);
            bytes.map(|byte| format!("{byte:02x}")).collect::<String>()
        });
        json!({
            "at": self.at.to_string(),
            "connection": self.connection.to_string(),
            "topic": self.topic.to_string(),
            "bytes": self.payload.len(),
            "message": message,
            "hex": hex,
        })
    }
}

/// `+` stands for one level, `#` at the end for all that follow.
fn topic_matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_mqtt_says() {
        let topic = "ft/acme/chip-1/up/health-check";
        for good in ["#", "ft/#", "ft/+/chip-1/up/+", topic, "ft/acme/chip-1/up/health-check/#"] {
            assert!(topic_matches(good, topic), "{good}");
        }
        for bad in ["ft", "+", "ft/+/chip-1/up", "ft/acme/chip-2/#", ""] {
            assert!(!topic_matches(bad, topic), "{bad}");
        }
    }
}
