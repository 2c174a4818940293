//! What operators are told of connections: who, since when, how much.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use broker_session::{ConnectionId, Version};
use schemas::ids::Principal;
use schemas::time::Timestamp;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::websocket::WebSocket;

/// A stream on which MQTT is spoken.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// As operators call it.
    const NAME: &'static str;
    /// The same with WebSocket over it.
    const WEBSOCKET_NAME: &'static str;
}

impl Transport for TcpStream {
    const NAME: &'static str = "tcp";
    const WEBSOCKET_NAME: &'static str = "ws";
}

impl Transport for tokio_rustls::server::TlsStream<TcpStream> {
    const NAME: &'static str = "tls";
    const WEBSOCKET_NAME: &'static str = "wss";
}

impl<S: Transport> Transport for WebSocket<S> {
    const NAME: &'static str = S::WEBSOCKET_NAME;
    const WEBSOCKET_NAME: &'static str = S::WEBSOCKET_NAME;
}

/// One connection, as it is added to while it lives.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) peer: SocketAddr,
    pub(crate) transport: &'static str,
    pub(crate) since: Timestamp,
    pub(crate) principal: OnceLock<Arc<Principal>>,
    pub(crate) about: OnceLock<About>,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) in_flight: AtomicU64,
}

/// What its CONNECT said.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) client_id: String,
    pub(crate) version: Version,
    pub(crate) keep_alive_s: u16,
}

impl Facts {
    pub(crate) fn new(peer: SocketAddr, transport: &'static str, since: Timestamp) -> Self {
        Self {
            peer,
            transport,
            since,
            principal: OnceLock::new(),
            about: OnceLock::new(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            messages_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        }
    }

    pub(crate) fn row(&self, connection: ConnectionId) -> SessionRow {
        let about = self.about.get();
        SessionRow {
            connection: connection.to_string(),
            principal: self.principal.get().map(|principal| (**principal).clone()),
            client_id: about.map(|about| about.client_id.clone()),
            mqtt: about.map(|about| match about.version {
                Version::V3_1_1 => "3.1.1",
                Version::V5 => "5",
            }),
            transport: self.transport,
            peer: self.peer,
            since: self.since,
            keep_alive_s: about.map_or(0, |about| about.keep_alive_s),
            in_flight: self.in_flight.load(Relaxed),
            messages_in: self.messages_in.load(Relaxed),
            messages_out: self.messages_out.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}

/// A connection, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionRow {
    /// Run and number, `7.12`.
    pub connection: String,
    /// Once the core has said who it is.
    pub principal: Option<Principal>,
    /// As the client said; none before CONNECT.
    pub client_id: Option<String>,
    /// `3.1.1` or `5`.
    pub mqtt: Option<&'static str>,
    /// `tcp`, `tls`, `ws`, `wss`.
    pub transport: &'static str,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// When its transport stood.
    pub since: Timestamp,
    /// In seconds; 0: none.
    pub keep_alive_s: u16,
    /// Deliveries that the client has not acknowledged.
    pub in_flight: u64,
    /// Authorised publishes.
    pub messages_in: u64,
    /// Owed messages sent.
    pub messages_out: u64,
    /// MQTT bytes, without those of TLS.
    pub bytes_in: u64,
    /// MQTT bytes, without those of TLS.
    pub bytes_out: u64,
}

/// More about one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SessionDetails {
    /// Topic filters with their QoS, `ft/acme/chip-7/down/+ (1)`.
    pub subscriptions: Vec<String>,
    /// What is kept for the peer.
    pub buffered_bytes: usize,
}
