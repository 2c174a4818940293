//! From CONNECT to CONNACK.

use schemas::ids::Principal;
use schemas::topic::Role;
use schemas_mutants::Mutant;

use super::{INTERNAL, Open, Phase, Session};
use crate::decode::{self, ConnectFault, ConnectPacket};
use crate::delivery::Delivery;
use crate::encode::{self, Welcome};
use crate::frame;
use crate::publishes::Publishes;
use crate::types::{CloseReason, Connect, ConnectRefusal, Event, Fault, Secret, Version};

impl Session {
    pub(super) fn handle_connect(&mut self, frame: &frame::Frame<'_>) {
        let mut connect = match decode::connect(frame) {
            Ok(connect) => connect,
            Err(ConnectFault::Version { newer }) => {
                let version = if newer { Version::V5 } else { Version::V3_1_1 };
                return self.refuse_as(version, usize::MAX, ConnectRefusal::UnsupportedVersion);
            }
            Err(ConnectFault::Fault(version, fault)) => {
                if version == Some(Version::V5) {
                    encode::refuse_fault(&mut self.outgoing, fault.code);
                }
                return self.close(CloseReason::Protocol(fault));
            }
        };
        if let Some(refusal) = self.judge_connect(&connect) {
            return self.refuse_as(connect.version, connect.max_packet_bytes, refusal);
        }
        let assigned = connect.client_id.is_empty();
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

    /// What needs no core to be refused.
    fn judge_connect(&self, connect: &ConnectPacket) -> Option<ConnectRefusal> {
        let is_v5 = connect.version == Version::V5;
        // MQTT 3.1.1, MQTT-3.1.3-8: without an identifier and without Clean Session there is nothing to come back to.
        let homeless = connect.client_id.is_empty() && !is_v5 && !connect.clean_start;
        if connect.enhanced_authentication {
            Some(ConnectRefusal::BadAuthenticationMethod)
        } else if connect.will.as_ref().is_some_and(|will| will.qos > 1) {
            Some(ConnectRefusal::QosNotSupported)
        } else if connect.will.as_ref().is_some_and(|will| will.retain && is_v5) {
            Some(ConnectRefusal::RetainNotSupported)
        } else if homeless || connect.client_id.len() > self.limits.max_client_id_bytes {
            Some(ConnectRefusal::ClientIdentifierNotValid)
        } else {
            None
        }
    }

    fn assigned_client_id(&self) -> String {
        format!("assigned-{:016x}", self.id.0)
    }

    pub(super) fn open(&mut self, principal: Principal, role: Role, own_state: &str, will: Option<Vec<u8>>) {
        let Phase::AwaitStanding { connect, .. } = &self.phase else { return };
        let version = connect.version;
        let assigned = connect.client_id.is_empty().then(|| self.assigned_client_id());
        let welcome = Welcome {
            receive_maximum: self.limits.receive_maximum.max(1),
            max_packet_bytes: self.limits.max_packet_bytes,
            assigned_client_id: assigned.as_deref(),
            session_expiry_asked: connect.session_expiry_s != 0,
            retain_available: role == Role::Observer,
            client_max_packet_bytes: connect.max_packet_bytes,
        };
        let session_expiry_asked = welcome.session_expiry_asked;
        match encode::accept(&mut self.outgoing, version, &welcome) {
            Ok(true) => {}
            Ok(false) => {
                let what = "the client does not accept packets as large as CONNACK";
                if connect.max_packet_bytes >= encode::FAULT_BYTES {
                    encode::refuse_fault(&mut self.outgoing, 0x95);
                }
                return self.close(CloseReason::Protocol(Fault { code: 0x95, what }));
            }
            Err(_) => return self.close(CloseReason::Protocol(INTERNAL)),
        }
        let ignored = Mutant::ReceiveMaximumIgnored.is_active();
        let receive_maximum = if ignored { u16::MAX } else { connect.receive_maximum };
        let window = usize::from(self.limits.max_in_flight.min(receive_maximum).max(1));
        self.principal = Some(principal.clone());
        self.phase = Phase::Open(Box::new(Open {
            version,
            base: own_state.strip_suffix("state").unwrap_or_default().to_owned(),
            principal,
            role,
            watch: (role == Role::Observer).then(Box::default),
            publishes: Publishes::default(),
            delivery: Delivery::new(window, self.limits.max_skipped),
            max_packet_bytes: connect.max_packet_bytes,
            session_expiry_asked,
            will,
            keep_alive_ms: (connect.keep_alive_s > 0).then(|| u64::from(connect.keep_alive_s) * 1500),
            packet_at_ms: self.now_ms,
            heard_since_ms: self.now_ms,
        }));
    }

    pub(super) fn refuse(&mut self, refusal: ConnectRefusal) {
        if let Phase::AwaitStanding { connect, .. } = &self.phase {
            self.refuse_as(connect.version, connect.max_packet_bytes, refusal);
        }
    }

    fn refuse_as(&mut self, version: Version, max_bytes: usize, refusal: ConnectRefusal) {
        // A CONNACK that cannot be printed is left out: the connection is closed in any case.
        let _ = encode::refuse(&mut self.outgoing, version, &refusal, max_bytes);
        self.close(CloseReason::Refused(refusal));
    }
}
