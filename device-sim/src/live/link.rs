//! One MQTT client of the fleet: it connects, subscribes to what its principal is owed, sends with QoS 1 until it is
//! promised, and comes back when its connection ends. Thousands of them share one thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use broker_session::{Qos, Version};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use schemas::topic::Kind;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::measured::ErrorKind;
use super::websocket::WebSocket;
use crate::mqtt::{self, FromServer};

/// A CONNACK that takes longer is an error, and the connection is made anew.
const PATIENCE: Duration = Duration::from_secs(30);
const CHUNK_BYTES: usize = 4 << 10;
/// Promised deliveries that may be open at a time.
const RECEIVE_MAXIMUM: u16 = 64;
const QUOTA_EXCEEDED: u8 = 0x97;
/// From a publish that was put off to the next try.
const PUT_OFF: Duration = Duration::from_secs(1);

/// How a client reaches the lane.
#[derive(Clone)]
pub(super) enum Transport {
    Tcp,
    /// With the client's certificate, where it has one.
    Tls(Arc<ClientConfig>),
    WebSocket,
    SecureWebSocket(Arc<ClientConfig>),
}

/// Everything a client needs to connect.
pub(super) struct Address {
    pub(super) server: SocketAddr,
    pub(super) source: Option<Ipv4Addr>,
    pub(super) transport: Transport,
    pub(super) version: Version,
    pub(super) principal: String,
    /// What its topics begin with: `ft/TENANT/PRINCIPAL/up`.
    pub(super) says_to: String,
    /// None: its certificate says who it is.
    pub(super) token: Option<String>,
}

/// A message on its way to the core.
struct Message {
    kind: Kind,
    payload: Rc<[u8]>,
    sent_at: Option<Instant>,
}

/// What a client wants said, kept over all its connections until the core has promised it.
#[derive(Default)]
struct Spool {
    waiting: VecDeque<Message>,
    in_flight: BTreeMap<u16, Message>,
    last_packet_id: u16,
}

/// What the fleet makes of what a client hears.
pub(super) trait Handler {
    /// Its connection has ended, or could not be made.
    fn ended(&self, member: usize, why: &anyhow::Error, on_purpose: bool);
    /// A message came.
    fn received(&self, member: usize, kind: Kind, payload: &[u8]);
    /// A message was promised after so long.
    fn promised(&self, member: usize, after: Duration);
    /// The core refuses a message for good.
    fn refused(&self, member: usize, kind: Kind, code: u8);
}

/// One client.
pub(super) struct Link {
    member: usize,
    address: Address,
    spool: RefCell<Spool>,
    wake: Notify,
    is_connected: Cell<bool>,
    /// Reads nothing until then.
    deaf_until: Cell<Option<Instant>>,
    cut: Cell<bool>,
}

impl Link {
    pub(super) fn new(member: usize, address: Address) -> Self {
        Self {
            member,
            address,
            spool: RefCell::default(),
            wake: Notify::new(),
            is_connected: Cell::new(false),
            deaf_until: Cell::new(None),
            cut: Cell::new(false),
        }
    }

    /// With QoS 1, again on each connection until the core has promised it.
    pub(super) fn send(&self, kind: Kind, payload: Rc<[u8]>) {
        self.spool.borrow_mut().waiting.push_back(Message { kind, payload, sent_at: None });
        self.wake.notify_one();
    }

    /// Ends the connection at once; the client comes back by itself.
    pub(super) fn cut(&self) {
        self.cut.set(true);
        self.wake.notify_one();
    }

    /// Reads nothing for so long.
    pub(super) fn be_deaf(&self, for_how_long: Duration) {
        self.deaf_until.set(Some(Instant::now() + for_how_long));
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_connected.get()
    }

    /// Messages that are not promised yet.
    pub(super) fn unpromised(&self) -> usize {
        let spool = self.spool.borrow();
        spool.waiting.len() + spool.in_flight.len()
    }

    /// Lives as long as the fleet.
    pub(super) async fn run(&self, handler: &dyn Handler) {
        let mut pause = Duration::from_millis(100);
        loop {
            let ended = self.live(handler, &mut pause).await;
            self.is_connected.set(false);
            let on_purpose = self.cut.replace(false);
            if let Err(why) = &ended {
                handler.ended(self.member, why, on_purpose);
            }
            self.spool.borrow_mut().rewind();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn live(&self, handler: &dyn Handler, pause: &mut Duration) -> anyhow::Result<()> {
        let stream = tokio::time::timeout(PATIENCE, self.address.open()).await.context("connect")??;
        let mut wire = Wire { stream, received: Vec::new(), read: 0, version: self.address.version };
        let window = tokio::time::timeout(PATIENCE, self.greet(&mut wire)).await.context("CONNACK")??;
        self.is_connected.set(true);
        *pause = Duration::from_millis(100);
        self.talk(&mut wire, window, handler).await
    }

    /// CONNECT and SUBSCRIBE; how many publishes may be open.
    async fn greet(&self, wire: &mut Wire) -> anyhow::Result<u16> {
        let address = &self.address;
        let client_id = address.principal.replace('/', ".");
        let hello = mqtt::Hello {
            version: address.version,
            client_id: &client_id,
            login: address.token.as_ref().map(|token| (address.principal.as_str(), token.as_bytes())),
            keep_alive_s: 0,
            receive_maximum: RECEIVE_MAXIMUM,
            will: None,
        };
        let filter = format!("ft/{}/down/#", address.principal);
        wire.write(&mqtt::connect(&hello)?).await?;
        let window = match wire.next().await? {
            FromServer::Connack { code: 0, receive_maximum, .. } => receive_maximum,
            other => bail!("CONNECT was refused: {other:?}"),
        };
        wire.write(&mqtt::subscribe(address.version, 1, &filter, Qos::AtLeastOnce)?).await?;
        match wire.next().await? {
            FromServer::Suback { codes, .. } if codes == [1] => Ok(window.min(256)),
            other => bail!("SUBSCRIBE was refused: {other:?}"),
        }
    }

    async fn talk(&self, wire: &mut Wire, window: u16, handler: &dyn Handler) -> anyhow::Result<()> {
        let mut out = Vec::new();
        loop {
            while let Some(packet) = wire.take()? {
                self.hear(packet, &mut out, handler)?;
            }
            self.fill(window, &mut out)?;
            if !out.is_empty() {
                wire.write(&out).await?;
                out.clear();
            }
            if self.cut.get() {
                bail!("ended by the fleet");
            }
            if let Some(until) = self.deaf_until.take() {
                tokio::time::sleep_until(until.into()).await;
            }
            tokio::select! {
                read = wire.read() => read?,
                () = self.wake.notified() => {}
            }
        }
    }

    fn hear(&self, packet: FromServer, out: &mut Vec<u8>, handler: &dyn Handler) -> anyhow::Result<()> {
        match packet {
            FromServer::Publish { topic, payload, packet_id, .. } => {
                let kind = topic.rsplit('/').next().and_then(|kind| kind.parse().ok());
                let kind = kind.with_context(|| format!("a message to `{topic}`"))?;
                handler.received(self.member, kind, &payload);
                if let Some(packet_id) = packet_id {
                    out.extend(mqtt::puback(self.address.version, packet_id, 0)?);
                }
            }
            FromServer::Puback { packet_id, code } => {
                let mut spool = self.spool.borrow_mut();
                let message = spool.in_flight.remove(&packet_id).context("a PUBACK that nobody waits for")?;
                if code == QUOTA_EXCEEDED {
                    spool.waiting.push_back(message);
                    self.deaf_until.set(Some(Instant::now() + PUT_OFF));
                    return Ok(());
                }
                drop(spool);
                if code < 0x80 {
                    let after = message.sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed());
                    handler.promised(self.member, after);
                } else {
                    handler.refused(self.member, message.kind, code);
                }
            }
            FromServer::Disconnect { code } => bail!("the broker ends the connection with 0x{code:02X}"),
            FromServer::Pingresp | FromServer::Suback { .. } | FromServer::Connack { .. } => {}
        }
        Ok(())
    }

    /// Publishes what waits, as far as the window goes.
    fn fill(&self, window: u16, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let spool = &mut *self.spool.borrow_mut();
        while spool.in_flight.len() < usize::from(window) {
            let Some(mut message) = spool.waiting.pop_front() else { break };
            let packet_id = spool.free_packet_id();
            let topic = format!("{}/{}", self.address.says_to, message.kind);
            let version = self.address.version;
            out.extend(mqtt::publish(version, &topic, &message.payload, Some(packet_id), false)?);
            message.sent_at = Some(Instant::now());
            spool.in_flight.insert(packet_id, message);
        }
        Ok(())
    }
}

impl Spool {
    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains_key(&self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }

    /// Nothing is promised of what is in flight when a connection ends.
    fn rewind(&mut self) {
        let in_flight = std::mem::take(&mut self.in_flight);
        for message in in_flight.into_values().rev() {
            self.waiting.push_front(message);
        }
    }
}

/// Any transport.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl Address {
    async fn open(&self) -> anyhow::Result<Box<dyn Stream>> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = self.source {
            socket.bind((source, 0).into()).context("bind a source address")?;
        }
        let stream = socket.connect(self.server).await.context("connect")?;
        stream.set_nodelay(true)?;
        let name = || ServerName::try_from("localhost");
        Ok(match &self.transport {
            Transport::Tcp => Box::new(stream),
            Transport::WebSocket => Box::new(WebSocket::open(stream, self.server).await?),
            Transport::Tls(config) => {
                Box::new(TlsConnector::from(Arc::clone(config)).connect(name()?, stream).await?)
            }
            Transport::SecureWebSocket(config) => {
                let stream = TlsConnector::from(Arc::clone(config)).connect(name()?, stream).await?;
                Box::new(WebSocket::open(stream, self.server).await?)
            }
        })
    }
}

struct Wire {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    /// Of these so many are taken.
    read: usize,
    version: Version,
}

impl Wire {
    async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.received.reserve(CHUNK_BYTES);
        let bytes = self.stream.read_buf(&mut self.received).await?;
        ensure!(bytes > 0, "the broker closed the connection");
        Ok(())
    }

    fn take(&mut self) -> anyhow::Result<Option<FromServer>> {
        let packet = mqtt::first(self.version, &self.received[self.read..])?;
        let Some((length, packet)) = packet else {
            self.received.drain(..self.read);
            self.read = 0;
            // Idle clients are many, and keep nothing.
            if self.received.is_empty() && self.received.capacity() > CHUNK_BYTES {
                self.received = Vec::new();
            }
            return Ok(None);
        };
        self.read += length;
        Ok(Some(packet))
    }

    async fn next(&mut self) -> anyhow::Result<FromServer> {
        loop {
            if let Some(packet) = self.take()? {
                return Ok(packet);
            }
            self.read().await?;
        }
    }
}

/// What an ended connection counts as.
pub(super) fn error_kind(why: &anyhow::Error) -> ErrorKind {
    let text = format!("{why:#}");
    match text.as_str() {
        text if text.starts_with("CONNECT was refused") => ErrorKind::ConnectRefused,
        text if text.starts_with("connect") || text.starts_with("CONNACK") => ErrorKind::ConnectFailed,
        _ => ErrorKind::ConnectionLost,
    }
}
