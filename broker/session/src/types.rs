//! What goes in and what comes out of a [`Session`](crate::Session).

use std::fmt;

use schemas::ids::{MessageId, PrincipalId};
use schemas::topic::{Filter, Kind};

/// Names one connection for ever: boot epoch in the upper half, counter in the lower. Later connections are greater,
/// so that a stale `state` never overwrites a live one (correctness.md 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The connection number `counter` of the run `boot_epoch`.
    pub fn new(boot_epoch: u32, counter: u32) -> Self {
        Self((u64::from(boot_epoch) << 32) | u64::from(counter))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

/// Names one inbound PUBLISH within its connection. Ascending in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishToken(pub u64);

/// Bounds of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet from a client, fixed header included. Advertised to MQTT 5 clients.
    pub max_packet_bytes: usize,
    /// Largest CONNECT, from whoever has not proved who they are.
    pub max_connect_bytes: usize,
    /// Publishes that may wait for their promise. MQTT 5: advertised as Receive Maximum, and exceeding it closes the
    /// connection. MQTT 3.1.1 has no such number: no more is read until promises come.
    pub receive_maximum: u16,
    /// Deliveries without PUBACK, at most. A client's own Receive Maximum may lower it.
    pub max_in_flight: u16,
    /// Subscriptions.
    pub max_filters: usize,
    /// Longest client identifier.
    pub max_client_id_bytes: usize,
    /// Unwritten bytes from which on nothing more is read or delivered.
    pub max_transmit_bytes: usize,
    /// Owed messages remembered as not subscribed, so that a later subscription finds them.
    pub max_skipped: usize,
    /// Refusals reported in any minute; what exceeds it is counted and reported with the next one.
    pub max_refusals_per_minute: u32,
    /// From accepting to CONNECT.
    pub connect_timeout_ms: u64,
    /// From CONNECT to the core's answer; then the client is told that the server is busy. Longer than a slow disk
    /// takes for two syncs, which an answer may have to wait for.
    pub standing_timeout_ms: u64,
    /// From a delivery to its PUBACK; then the connection is closed, as MQTT allows no second send (correctness.md 8).
    pub ack_timeout_ms: u64,
    /// From a PUBACK with 0x97, which puts a delivery off, to the next try (correctness.md 9).
    pub quota_retry_ms: u64,
    /// Without any progress while bytes wait to be written.
    pub write_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet_bytes: schemas::limits::PAYLOAD_BYTES + 1024,
            max_connect_bytes: 8 * 1024,
            receive_maximum: 256,
            max_in_flight: 32,
            max_filters: 16,
            max_client_id_bytes: 128,
            max_transmit_bytes: 64 * 1024,
            max_skipped: 256,
            max_refusals_per_minute: 30,
            connect_timeout_ms: 10_000,
            standing_timeout_ms: 2_000,
            ack_timeout_ms: 30_000,
            quota_retry_ms: 5_000,
            write_timeout_ms: 30_000,
        }
    }
}

/// The two protocol versions served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1
    V3_1_1,
    /// MQTT 5
    V5,
}

/// Quality of service of a publish. QoS 2 is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// 0: no promise.
    AtMostOnce,
    /// 1: answered by PUBACK once the promise is kept.
    AtLeastOnce,
}

/// A password or token: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a client said of itself, before anyone has checked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// As sent, or assigned by us if it was empty.
    pub client_id: String,
    /// As sent.
    pub username: Option<String>,
    /// As sent.
    pub password: Option<Secret>,
    /// Clean Start, Clean Session. Without meaning here, as no session is kept.
    pub clean_start: bool,
    /// 0: none.
    pub keep_alive_s: u16,
    /// Which protocol it speaks.
    pub version: Version,
}

/// What a session tells its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Who is this? Answer with [`handle_standing`](crate::Session::handle_standing).
    Connect(Connect),
    /// An authorised publish to the principal's own `up/{kind}`. With QoS 1, answer with
    /// [`handle_promise`](crate::Session::handle_promise).
    Publish {
        /// Names it.
        token: PublishToken,
        /// The last level of the topic.
        kind: Kind,
        /// As received.
        payload: Vec<u8>,
        /// QoS 0 is accepted without a promise.
        qos: Qos,
    },
    /// The connection now receives these kinds.
    Subscribed {
        /// Granted by this one SUBSCRIBE.
        kinds: Vec<Kind>,
    },
    /// There is room: answer with [`handle_owed`](crate::Session::handle_owed), also if nothing is owed.
    Pull {
        /// Only what has a greater sequence.
        after_sequence: u64,
        /// Only the `max` with the lowest sequences.
        max: usize,
    },
    /// An observer is to hear what matches these filters, and nothing else. Answer with
    /// [`handle_watching`](crate::Session::handle_watching) once it does.
    Watch {
        /// All that it has subscribed.
        filters: Vec<Filter>,
    },
    /// It hears the feed from now on.
    Watching,
    /// Who is there now? Answer with [`handle_states`](crate::Session::handle_states).
    PullStates {
        /// Only this one.
        of: Option<PrincipalId>,
        /// Only greater names.
        after: Option<PrincipalId>,
        /// At most so many.
        max: usize,
    },
    /// The client acknowledged a delivery.
    Acknowledged {
        /// Which.
        message: MessageId,
        /// 0x80 and above: not a promise. 0x97: put off, the session sends it again after
        /// [`Limits::quota_retry_ms`]. 0x95: larger than this client accepts.
        code: u8,
    },
    /// For the audit, and for the answer on `down/refused` to MQTT 3.1.1 clients.
    Refused(Refusal),
    /// The principal's own `state`.
    StateChanged {
        /// As received.
        payload: Vec<u8>,
        /// Said by the client now, or by its will at the end.
        cause: StateCause,
    },
    /// The last event. Remaining bytes may still be written.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// Numbers since the beginning of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// PUBACKs sent.
    pub pubacks: u64,
    /// Owed messages sent, whatever their QoS.
    pub deliveries: u64,
    /// Packets received after CONNECT, well-formed or not.
    pub packets_in: u64,
    /// Of these packets, whole.
    pub bytes_in: u64,
    /// Events of the feed sent.
    pub feed_sent: u64,
    /// Events of the feed that the client was too slow for.
    pub feed_lost: u64,
}

/// Where a state comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateCause {
    /// A PUBLISH.
    Published,
    /// The will of a connection that ended without a proper DISCONNECT.
    Will,
}

/// Something was not permitted. The connection lives on, unless it was a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was tried.
    pub action: RefusedAction,
    /// On which topic or filter: an excerpt without control characters.
    pub topic: String,
    /// Why, for people.
    pub reason: &'static str,
    /// The MQTT 5 reason code that stands for it.
    pub code: u8,
    /// Whether the protocol carried the refusal. If not (a publish of MQTT 3.1.1 or with QoS 0), the core answers on
    /// `down/refused` (correctness.md 9).
    pub client_was_told: bool,
    /// Refusals since the last report that were not reported, as there were too many.
    pub suppressed: u32,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedAction {
    /// CONNECT with a will that is not the principal's own `state`.
    Will,
    /// PUBLISH
    Publish,
    /// One filter of a SUBSCRIBE.
    Subscribe,
}

/// The core's word on one publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// It is synced and will be acted on.
    Kept,
    /// It will never be acted on. A PUBACK reason code of 0x80 or above; others are sent as 0x80. MQTT 3.1.1 gets a
    /// plain PUBACK, so that it does not repeat for ever, and the core answers on `down/refused`.
    Refused(u8),
}

/// One entry of the core's outbox for this principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The message's own id, stable over connections.
    pub message: MessageId,
    /// Position in this principal's outbox: ascending, never reused. A new sequence is a new send.
    pub sequence: u64,
    /// Goes to `down/{kind}`.
    pub kind: Kind,
    /// As encoded by the core.
    pub payload: Vec<u8>,
    /// On the clock of `now_ms`. MQTT 5 clients are told the remaining seconds.
    pub expires_at_ms: u64,
}

/// Why a CONNECT is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectRefusal {
    /// 0x86 / 4
    #[error("the credentials are wrong")]
    BadCredentials,
    /// 0x87 / 5
    #[error("this principal may not connect")]
    NotAuthorized,
    /// 0x88 / 3
    #[error("the server takes nobody now")]
    ServerUnavailable,
    /// 0x89 / 3: the core does not answer in time, or a limit of the whole server is reached.
    #[error("the server is busy")]
    ServerBusy,
    /// 0x8A / 5
    #[error("this principal is revoked")]
    Banned,
    /// 0x85 / 2
    #[error("the client identifier is not valid")]
    ClientIdentifierNotValid,
    /// 0x97 / 3
    #[error("a quota is used up")]
    QuotaExceeded,
    /// 0x8C, only MQTT 5
    #[error("enhanced authentication is not offered")]
    BadAuthenticationMethod,
    /// 0x84 / 1
    #[error("only MQTT 3.1.1 and 5 are spoken here")]
    UnsupportedVersion,
    /// 0x9B; for wills
    #[error("wills have QoS 0 or 1 here")]
    QosNotSupported,
    /// 0x9A; for wills of MQTT 5
    #[error("retained wills are not offered")]
    RetainNotSupported,
    /// 0x9C / 3: its tenant lives elsewhere.
    #[error("use the server {reference}")]
    UseAnotherServer {
        /// Host and port.
        reference: String,
    },
}

/// Why the core or the shell ends a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// 0x8E
    #[error("another connection with the same client identifier took over")]
    TakenOver,
    /// 0x8B
    #[error("the server is shutting down")]
    ServerShuttingDown,
    /// 0x87: revoked, for instance.
    #[error("the principal is no longer authorised")]
    NotAuthorized,
    /// 0x98
    #[error("ended by an operator")]
    Administrative,
    /// 0x89: it does not take what is put in front of it.
    #[error("the connection is too slow for what it receives")]
    ServerBusy,
    /// 0x9C
    #[error("the tenant moved to {reference}")]
    UseAnotherServer {
        /// Host and port.
        reference: String,
    },
}

/// A violation of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (0x{code:02X})")]
pub struct Fault {
    /// MQTT 5 reason code.
    pub code: u8,
    /// For people and logs.
    pub what: &'static str,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// DISCONNECT, the proper end. The will is forgotten.
    #[error("the client disconnected")]
    PeerDisconnected,
    /// DISCONNECT 0x04 or a reason of 0x80 and above: the will counts.
    #[error("the client disconnected with reason 0x{code:02X}")]
    PeerDisconnectedWith {
        /// As sent.
        code: u8,
    },
    /// The stream ended or broke.
    #[error("the connection was lost")]
    ConnectionLost,
    /// Nothing received for one and a half times the keep alive.
    #[error("nothing was received within one and a half times the keep alive")]
    KeepAliveTimeout,
    /// No CONNECT in time.
    #[error("no CONNECT came in time")]
    ConnectTimeout,
    /// A delivery was not acknowledged in time.
    #[error("a delivery was not acknowledged in time")]
    AcknowledgementTimeout,
    /// The peer does not read.
    #[error("the client does not read what it is sent")]
    WriteTimeout,
    /// The peer does not keep to the protocol.
    #[error("protocol violation: {0}")]
    Protocol(Fault),
    /// CONNECT was refused.
    #[error("connection refused: {0}")]
    Refused(ConnectRefusal),
    /// By order.
    #[error("{0}")]
    Disconnected(DisconnectReason),
}
