//! What crosses between the broker and the core, and how a broker is set up.

use std::net::SocketAddr;
use std::sync::Arc;

use broker_session::{
    CloseReason, ConnectRefusal, ConnectionId, DisconnectReason, Limits, Owed, Promise, PublishToken, Qos,
    Rates, Refusal, Secret, StateCause, Version,
};
use schemas::feed::PresenceEvent;
use schemas::ids::{MessageId, Principal, PrincipalId};
use schemas::signed::Proven;
use schemas::topic::{Kind, Role};
use tokio::sync::watch;

use crate::clock::Clock;

/// Certificate, client verification, resumption off. A handshake takes what is there when it begins, so certificates
/// are replaced by sending a new configuration; established connections stay.
pub type TlsConfig = watch::Receiver<Arc<rustls::ServerConfig>>;

/// One address to listen on.
#[derive(Debug, Clone)]
pub enum Listener {
    /// Without encryption: loopback addresses only.
    Tcp {
        /// Port 0 takes any free port.
        address: SocketAddr,
    },
    /// TLS with what the configuration says about client certificates.
    Tls {
        /// Port 0 takes any free port.
        address: SocketAddr,
        /// Made by the caller.
        config: TlsConfig,
    },
    /// WebSocket without encryption: loopback addresses only.
    WebSocket {
        /// Port 0 takes any free port.
        address: SocketAddr,
    },
    /// WebSocket over TLS.
    ///
    /// Pages of any origin may connect: who is there is said by a token in CONNECT, which browsers, unlike cookies, send
    /// for no page by themselves. So a foreign page gains nothing that its author could not have without a browser.
    /// A client certificate that a person has put into a browser would be such a standing authority: give people tokens.
    WebSocketTls {
        /// Port 0 takes any free port.
        address: SocketAddr,
        /// Made by the caller.
        config: TlsConfig,
    },
}

impl Listener {
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Listener::Tcp { address }
            | Listener::Tls { address, .. }
            | Listener::WebSocket { address }
            | Listener::WebSocketTls { address, .. } => *address,
        }
    }

    pub(crate) fn tls(&self) -> Option<&TlsConfig> {
        match self {
            Listener::Tls { config, .. } | Listener::WebSocketTls { config, .. } => Some(config),
            Listener::Tcp { .. } | Listener::WebSocket { .. } => None,
        }
    }

    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self, Listener::WebSocket { .. } | Listener::WebSocketTls { .. })
    }
}

/// Checks signatures in what clients say, on the threads that read it: there may be many of those, and there is one core.
pub trait Checker: std::fmt::Debug + Send + Sync {
    /// None if it was not checked or is not good: then the core checks. Runs among the connections: it must not wait
    /// for anything that takes long.
    fn check(&self, principal: &Principal, kind: Kind, payload: &[u8]) -> Option<Proven>;
}

/// How a broker is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listeners: Vec<Listener>,
    /// Of every connection.
    pub limits: Limits,
    /// Of every principal, over all its connections. Beyond them a QoS 1 PUBLISH of MQTT 5 is answered 0x97 (keep it,
    /// send it later as a new one). MQTT 3.1.1 has no code, and a plain PUBACK would be a promise: its clients, and
    /// whoever goes on regardless, are not read for a while.
    pub rates: Rates,
    /// All listeners together. Beyond it some are told so (CONNACK 0x89; 3 in MQTT 3.1.1), the others are closed at once:
    /// see `surplus.rs`.
    pub max_connections: usize,
    /// From one remote address; loopback is exempt, IPv6 counts by /64. Beyond it the same with CONNACK 0x97.
    pub max_connections_per_address: usize,
    /// Messages from the core that wait for one connection. Beyond it the connection is closed.
    pub max_inbox_messages: usize,
    /// For everything before MQTT: TLS and the upgrade to WebSocket together.
    pub handshake_timeout_ms: u64,
    /// For last words (PUBACKs, DISCONNECT) to a connection that ends.
    pub linger_ms: u64,
    /// Greater than in every earlier run: the upper half of connection ids.
    pub boot_epoch: u32,
    /// The clock of this run.
    pub clock: Clock,
    /// Has a look at what clients publish before the core has it; last words of a connection are left to the core.
    pub checker: Option<Arc<dyn Checker>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            limits: Limits::default(),
            rates: Rates::default(),
            max_connections: 100_000,
            max_connections_per_address: 1_000,
            max_inbox_messages: 1_024,
            handshake_timeout_ms: 10_000,
            linger_ms: 1_000,
            boot_epoch: 0,
            clock: Clock::start(),
            checker: None,
        }
    }
}

/// What a peer offers as proof of who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `tenant/name`, for those who have a token.
    pub username: Option<String>,
    /// The token.
    pub password: Option<Secret>,
    /// DER of the certificate that TLS has verified.
    pub client_certificate: Option<Vec<u8>>,
}

/// What the broker tells the core. One connection's messages come in order, `Closed` last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToCore {
    /// Who is this? Answer with [`FromCore::Standing`].
    Connect {
        /// Which connection.
        connection: ConnectionId,
        /// Where it comes from.
        peer: SocketAddr,
        /// Tells several connections of one principal apart.
        client_id: String,
        /// MQTT 3.1.1 clients learn of refusals on `down/refused` only.
        version: Version,
        /// To be judged.
        credentials: Credentials,
        /// 0: none.
        keep_alive_s: u16,
    },
    /// With QoS 1, answer with [`FromCore::Promise`] once what it caused is synced.
    Publish {
        /// Which connection.
        connection: ConnectionId,
        /// Names the publish.
        token: PublishToken,
        /// Authenticated.
        principal: Arc<Principal>,
        /// Authorised: may go up.
        kind: Kind,
        /// At most [`schemas::limits::PAYLOAD_BYTES`].
        payload: Vec<u8>,
        /// QoS 0 gets no promise.
        qos: Qos,
        /// What [`Config::checker`] says of it.
        proven: Option<Proven>,
    },
    /// These kinds are now wanted.
    Subscribed {
        /// Which connection.
        connection: ConnectionId,
        /// Authenticated.
        principal: Arc<Principal>,
        /// Of one SUBSCRIBE.
        kinds: Vec<Kind>,
    },
    /// Answer with [`FromCore::Owed`], also if nothing is owed.
    Pull {
        /// Which connection.
        connection: ConnectionId,
        /// Whose outbox.
        principal: Arc<Principal>,
        /// Only greater sequences.
        after_sequence: u64,
        /// Only so many, the lowest.
        max: usize,
    },
    /// An observer hears the feed from now on.
    Watching {
        /// Which connection.
        connection: ConnectionId,
        /// Whose.
        principal: Arc<Principal>,
    },
    /// An observer asks who is there. Answer with [`FromCore::States`].
    PullStates {
        /// Which connection.
        connection: ConnectionId,
        /// Whose.
        principal: Arc<Principal>,
        /// Only this one of its tenant.
        of: Option<PrincipalId>,
        /// Only greater names.
        after: Option<PrincipalId>,
        /// At most so many.
        max: usize,
    },
    /// A delivery was acknowledged.
    Acknowledged {
        /// Which connection.
        connection: ConnectionId,
        /// Whose outbox.
        principal: Arc<Principal>,
        /// Which message.
        message: MessageId,
        /// 0x80 and above is no promise (correctness.md 9).
        code: u8,
    },
    /// The principal's presence. Ignore it if a later connection has spoken.
    StateChanged {
        /// The stamp.
        connection: ConnectionId,
        /// Whose.
        principal: Arc<Principal>,
        /// As received.
        payload: Vec<u8>,
        /// Said now, or the will.
        cause: StateCause,
    },
    /// For the audit, and for the answer on `down/refused`.
    Refused {
        /// Which connection.
        connection: ConnectionId,
        /// None before it is known.
        principal: Option<Arc<Principal>>,
        /// Where it comes from.
        peer: SocketAddr,
        /// What, and why.
        refusal: Refusal,
    },
    /// The last message of a connection; also of one that was refused, or never said who it is.
    Closed {
        /// Which connection.
        connection: ConnectionId,
        /// None if it was never known.
        principal: Option<Arc<Principal>>,
        /// Where it came from.
        peer: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
}

/// What the core tells the broker. Messages to connections that have ended are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromCore {
    /// Answers `Connect`.
    Standing {
        /// Which connection.
        connection: ConnectionId,
        /// Who it is, or why not.
        result: Result<Principal, ConnectRefusal>,
        /// What it is for.
        role: Role,
    },
    /// Answers `Publish`.
    Promise {
        /// Which connection.
        connection: ConnectionId,
        /// Which publish.
        token: PublishToken,
        /// Kept or refused.
        promise: Promise,
    },
    /// Answers `Pull`.
    Owed {
        /// Which connection.
        connection: ConnectionId,
        /// By ascending sequence.
        entries: Vec<Owed>,
    },
    /// A message of the moment; dropped if it is not subscribed.
    Reply {
        /// Which connection.
        connection: ConnectionId,
        /// Goes to `down/{kind}`.
        kind: Kind,
        /// As encoded by the core.
        payload: Vec<u8>,
    },
    /// Answers `PullStates`.
    States {
        /// Which connection.
        connection: ConnectionId,
        /// By name.
        states: Vec<PresenceEvent>,
        /// Whether there are more names after these.
        more: bool,
    },
    /// The outbox of this connection's principal has something new.
    Wake {
        /// Which connection.
        connection: ConnectionId,
    },
    /// End it.
    Disconnect {
        /// Which connection.
        connection: ConnectionId,
        /// Why.
        reason: DisconnectReason,
    },
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Someone else listens there.
    #[error(
        "cannot listen on {address}: the port is taken; stop what listens there or configure another address (port 0 takes any free port)"
    )]
    AddressInUse {
        /// Where.
        address: SocketAddr,
    },
    /// Tokens would be shown to the network.
    #[error(
        "cannot listen on {address} without TLS: only loopback addresses may do without; configure a TLS listener there, or 127.0.0.1"
    )]
    NotLoopback {
        /// Where.
        address: SocketAddr,
    },
    /// No thread for the feed.
    #[error("the system gives no thread for the feed: {0}")]
    Thread(std::io::Error),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Now, handshakes included.
    pub connections_open: u64,
    /// Since the start.
    pub connections_accepted: u64,
    /// Beyond a limit, or while draining.
    pub connections_refused: u64,
    /// Of those, told so by a CONNACK.
    pub connections_told: u64,
    /// TLS handshakes and upgrades to WebSocket that failed or took too long.
    pub handshakes_failed: u64,
    /// Authorised publishes handed to the core.
    pub publishes_in: u64,
    /// Publishes answered 0x97, as their principal had used up its rate.
    pub publishes_put_off: u64,
    /// Promises and refusals sent.
    pub pubacks_out: u64,
    /// Owed messages sent.
    pub deliveries_out: u64,
    /// Of MQTT, from clients.
    pub bytes_in: u64,
    /// Of MQTT, to clients.
    pub bytes_out: u64,
    /// Whether no new connections are taken, by an operator's order.
    pub draining: bool,
    /// Events of the feed sent to observers.
    pub feed_out: u64,
    /// Events that an observer did not get, being too slow, or that found no room on the way.
    pub feed_lost: u64,
    /// Times that the feed's router died and was built anew.
    pub feed_restarts: u64,
}
