//! From CONNECT to CONNACK.

use schemas::ids::Principal;
use schemas_mutants::Mutant;

use super::{INTERNAL, Open, Phase, Session};
use crate::decode::{self, ConnectFault};
use crate::delivery::Delivery;
use crate::encode::{self, Welcome};
use crate::frame;
use crate::publishes::Publishes;
use crate::types::{CloseReason, Connect, ConnectRefusal, Event, Secret, Version};

impl Session {
    pub(super) fn handle_connect(&mut self, frame: &frame::Frame<'_>) {
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

    pub(super) fn open(&mut self, principal: Principal, own_state: &str, will: Option<Vec<u8>>) {
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
        let ignored = Mutant::ReceiveMaximumIgnored.is_active();
        let receive_maximum = if ignored { u16::MAX } else { connect.receive_maximum };
        let window = usize::from(self.limits.max_in_flight.min(receive_maximum).max(1));
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
            heard_since_ms: self.now_ms,
        }));
        if welcomed.is_err() {
            self.close(CloseReason::Protocol(INTERNAL));
        }
    }

    pub(super) fn refuse(&mut self, refusal: ConnectRefusal) {
        if let Phase::AwaitStanding { connect, .. } = &self.phase {
            self.refuse_as(connect.version, refusal);
        }
    }

    fn refuse_as(&mut self, version: Version, refusal: ConnectRefusal) {
        // A CONNACK that cannot be printed is left out: the connection is closed in any case.
        let _ = encode::refuse(&mut self.outgoing, version, &refusal);
        self.close(CloseReason::Refused(refusal));
    }
}
