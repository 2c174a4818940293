//! Between the words of the lane and those of the core.

use broker::session::{self, ConnectRefusal, DisconnectReason, Promise, Qos, Secret};
use broker::{FromCore, ToCore};
use cloud_core_flows::port::{self, Credentials, Input, Output, OwedMessage, StandingRefusal};
use schemas::ids::{Hash, Instance};
use schemas::topic::Role;

use super::clock::CoreClock;
use crate::authority::principal_of_peer_certificate;

/// The token of a QoS 0 publish: nobody waits for its promise. No session counts so far.
const NOBODY_WAITS: u64 = u64::MAX;

/// What to do with a message of the lane.
#[derive(Debug)]
pub(super) enum FromLane {
    /// The core decides.
    Input(Input),
    /// The shell answers: no state is asked.
    Answer(FromCore),
}

/// Translates what the lane says.
pub(super) fn from_lane(message: ToCore) -> FromLane {
    let connection = |id: session::ConnectionId| port::ConnectionId(id.0);
    FromLane::Input(match message {
        ToCore::Connect { connection: id, client_id, credentials, .. } => match proof(credentials) {
            Some(credentials) => {
                Input::Connect { connection: connection(id), client: client_id, credentials }
            }
            None => {
                let result = Err(ConnectRefusal::BadCredentials);
                return FromLane::Answer(FromCore::Standing { connection: id, result, role: Role::Party });
            }
        },
        ToCore::Publish { connection: id, token, kind, payload, qos, proven, .. } => {
            let token = if qos == Qos::AtMostOnce { NOBODY_WAITS } else { token.0 };
            Input::Publish { connection: connection(id), token, kind, payload, proven }
        }
        ToCore::Subscribed { connection: id, .. } => Input::Subscribed { connection: connection(id) },
        ToCore::Pull { connection: id, after_sequence, max, .. } => {
            Input::Pull { connection: connection(id), after: after_sequence, max }
        }
        ToCore::Watching { connection: id, .. } => Input::Watch { connection: connection(id) },
        ToCore::PullStates { connection: id, of, after, max, .. } => {
            Input::States { connection: connection(id), of, after, max }
        }
        ToCore::Acknowledged { connection: id, message, code, .. } => {
            Input::Acknowledged { connection: connection(id), message, code }
        }
        ToCore::StateChanged { connection: id, principal, payload, .. } => {
            Input::State { connection: connection(id), principal: (*principal).clone(), payload }
        }
        ToCore::Refused { connection: id, principal, refusal, .. } => Input::LaneRefused {
            connection: connection(id),
            principal: principal.map(|principal| (*principal).clone()),
            told: refusal.client_was_told,
            what: format!("{:?} {}", refusal.action, refusal.topic),
            why: match refusal.suppressed {
                0 => refusal.reason.to_owned(),
                more => format!("{} (and {more} more that were not reported)", refusal.reason),
            },
        },
        ToCore::Closed { connection: id, .. } => Input::Closed { connection: connection(id) },
    })
}

/// What the credentials claim; nothing if they have no form that anybody could have.
fn proof(credentials: broker::Credentials) -> Option<Credentials> {
    if let Some(certificate) = credentials.client_certificate {
        let peer = principal_of_peer_certificate(&certificate).ok()?;
        let (principal, instance) = (peer.principal, Instance(peer.instance));
        return Some(Credentials::Certificate { principal, instance, serial: peer.serial.to_vec() });
    }
    let principal = credentials.username?.parse().ok()?;
    let Secret(token) = credentials.password?;
    Some(Credentials::Token { principal, token_hash: Hash::of(&token) })
}

/// Where an output goes.
#[derive(Debug)]
pub(super) enum ToLane {
    /// To a connection.
    Message(FromCore),
    /// Elsewhere.
    Other(Output),
    /// Nobody: its connection would be woken for nothing.
    Nobody,
}

/// Translates what the core says to connections; gives everything else back.
pub(super) fn to_lane(output: Output, clock: &CoreClock) -> ToLane {
    let connection = |id: port::ConnectionId| session::ConnectionId(id.0);
    ToLane::Message(match output {
        Output::Standing { connection: id, result, role } => FromCore::Standing {
            connection: connection(id),
            role,
            result: result.map_err(|refusal| match refusal {
                StandingRefusal::BadCredentials => ConnectRefusal::BadCredentials,
                StandingRefusal::Revoked => ConnectRefusal::Banned,
            }),
        },
        Output::Promise { token: NOBODY_WAITS, .. } => return ToLane::Nobody,
        Output::Promise { connection: id, token, result } => FromCore::Promise {
            connection: connection(id),
            token: session::PublishToken(token),
            promise: match result {
                Ok(()) => Promise::Kept,
                Err(refusal) => Promise::Refused(refusal.code()),
            },
        },
        Output::Reply { connection: id, kind, payload } => {
            FromCore::Reply { connection: connection(id), kind, payload }
        }
        Output::Wake { connection: id } => FromCore::Wake { connection: connection(id) },
        Output::Owed { connection: id, messages } => FromCore::Owed {
            connection: connection(id),
            entries: messages.into_iter().map(|message| owed(message, clock)).collect(),
        },
        Output::States { connection: id, states, more } => {
            FromCore::States { connection: connection(id), states, more }
        }
        Output::Disconnect { connection: id, reason } => FromCore::Disconnect {
            connection: connection(id),
            reason: match reason {
                port::DisconnectReason::TakenOver => DisconnectReason::TakenOver,
                port::DisconnectReason::Revoked => DisconnectReason::NotAuthorized,
                port::DisconnectReason::Administrative => DisconnectReason::Administrative,
            },
        },
        other @ (Output::Feed { .. }
        | Output::Bank(_)
        | Output::Admin { .. }
        | Output::Sign { .. }
        | Output::Enrolled { .. }) => {
            return ToLane::Other(other);
        }
    })
}

fn owed(message: OwedMessage, clock: &CoreClock) -> session::Owed {
    session::Owed {
        message: message.message,
        sequence: message.sequence,
        kind: message.kind,
        payload: message.payload,
        expires_at_ms: clock.lane_ms(message.expires_at),
    }
}

#[cfg(test)]
mod tests {
    use schemas::time::Timestamp;

    use super::*;

    #[test]
    fn a_promise_wakes_its_connection_for_qos_1_and_nobody_for_qos_0() {
        let clock = CoreClock::new(broker::Clock::start(), Timestamp(0));
        let wakes = |qos| {
            let publish = ToCore::Publish {
                connection: session::ConnectionId(1),
                token: session::PublishToken(7),
                principal: std::sync::Arc::new("a/b".parse().unwrap()),
                kind: schemas::topic::Kind::CloudTime,
                payload: Vec::new(),
                qos,
                proven: None,
            };
            let FromLane::Input(Input::Publish { connection, token, .. }) = from_lane(publish) else {
                panic!("decided elsewhere")
            };
            match to_lane(Output::Promise { connection, token, result: Ok(()) }, &clock) {
                ToLane::Message(FromCore::Promise { token, .. }) => Some(token.0),
                ToLane::Nobody => None,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((wakes(Qos::AtLeastOnce), wakes(Qos::AtMostOnce)), (Some(7), None));
    }

    #[test]
    fn credentials_without_a_form_are_refused_without_asking_the_core() {
        let with = |username: Option<&str>, password: Option<&[u8]>, certificate: Option<&[u8]>| {
            proof(broker::Credentials {
                username: username.map(str::to_owned),
                password: password.map(|bytes| Secret(bytes.to_vec())),
                client_certificate: certificate.map(<[u8]>::to_vec),
            })
        };
        assert_eq!(with(None, None, None), None);
        assert_eq!(with(Some("a/b"), None, None), None);
        assert_eq!(with(Some("admin"), Some(b"x"), None), None);
        assert_eq!(with(Some("a/b"), Some(b"x"), Some(b"junk")), None, "a certificate is never passed over");
        let token = Credentials::Token { principal: "a/b".parse().unwrap(), token_hash: Hash::of(b"x") };
        assert_eq!(with(Some("a/b"), Some(b"x"), None), Some(token));
    }
}
