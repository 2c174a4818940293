//! A core that promises at once, and a client that shows every byte.
#![allow(dead_code)]

pub(crate) mod authority;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use broker::session::{ConnectRefusal, ConnectionId, DisconnectReason, Limits, Owed, Promise, Qos, Secret};
use broker::{Broker, BrokerHandle, Clock, Config, FromCore, Listener, ToCore};
use schemas::ids::{MessageId, Principal};
use schemas::topic::{Kind, Role};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Nothing on loopback takes this long; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the fake core knows. A principal's token is its name, reversed.
#[derive(Default)]
pub(crate) struct Core {
    connections: BTreeMap<ConnectionId, (Principal, String)>,
    outbox: BTreeMap<Principal, BTreeMap<u64, Owed>>,
    subscribed: BTreeSet<ConnectionId>,
    next_sequence: u64,
}

impl Core {
    /// Answers everything at once. `up/health-check` comes back as a durable `down/health-check`, `up/cloud-time` as
    /// a volatile reply; `up/payment-cancel` is refused for its quota.
    pub(crate) fn handle(&mut self, clock: &Clock, message: &ToCore) -> Vec<FromCore> {
        match message {
            ToCore::Connect { connection, client_id, credentials, .. } => {
                let result = authenticate(credentials.username.as_deref(), credentials.password.as_ref())
                    .or_else(|refusal| match &credentials.client_certificate {
                        Some(_) => Ok("acme/by-certificate".parse().unwrap()),
                        None => Err(refusal),
                    });
                let mut answers = Vec::new();
                if let Ok(principal) = &result {
                    let who = (principal.clone(), client_id.clone());
                    for old in self.connections.iter().filter(|(_, other)| **other == who).map(|(id, _)| *id)
                    {
                        let reason = DisconnectReason::TakenOver;
                        answers.push(FromCore::Disconnect { connection: old, reason });
                    }
                    self.connections.insert(*connection, who);
                }
                answers.push(FromCore::Standing { connection: *connection, result, role: Role::Party });
                answers
            }
            ToCore::Publish { connection, token, principal, kind, payload, qos, .. } => {
                let connection = *connection;
                let mut answers = Vec::new();
                let promise = match kind {
                    Kind::PaymentCancel => Promise::Refused(0x97),
                    _ => Promise::Kept,
                };
                if *qos == Qos::AtLeastOnce {
                    answers.push(FromCore::Promise { connection, token: *token, promise });
                }
                match kind {
                    Kind::HealthCheck => {
                        answers.extend(self.owe(clock, principal, Kind::HealthCheck, payload))
                    }
                    Kind::CloudTime => {
                        answers.push(FromCore::Reply {
                            connection,
                            kind: Kind::CloudTime,
                            payload: payload.clone(),
                        });
                    }
                    _ => {}
                }
                answers
            }
            ToCore::Subscribed { connection, .. } => {
                self.subscribed.insert(*connection);
                Vec::new()
            }
            ToCore::Pull { connection, principal, after_sequence, max } => {
                let entries = self.outbox.get(&**principal).into_iter().flat_map(|outbox| outbox.values());
                let entries =
                    entries.filter(|owed| owed.sequence > *after_sequence).take(*max).cloned().collect();
                vec![FromCore::Owed { connection: *connection, entries }]
            }
            ToCore::Acknowledged { principal, message, .. } => {
                if let Some(outbox) = self.outbox.get_mut(&**principal) {
                    outbox.retain(|_, owed| owed.message != *message);
                }
                Vec::new()
            }
            ToCore::Closed { connection, .. } => {
                self.connections.remove(connection);
                self.subscribed.remove(connection);
                Vec::new()
            }
            ToCore::StateChanged { .. }
            | ToCore::Refused { .. }
            | ToCore::Watching { .. }
            | ToCore::PullStates { .. } => Vec::new(),
        }
    }

    /// Puts a message into the outbox and wakes its principal's connections.
    pub(crate) fn owe(
        &mut self,
        clock: &Clock,
        principal: &Principal,
        kind: Kind,
        payload: &[u8],
    ) -> Vec<FromCore> {
        self.next_sequence += 1;
        let sequence = self.next_sequence;
        let message = MessageId::derived("test", &[&sequence.to_be_bytes()]);
        let expires_at_ms = clock.now_ms() + 600_000;
        let owed = Owed { message, sequence, kind, payload: payload.to_vec(), expires_at_ms };
        self.outbox.entry(principal.clone()).or_default().insert(sequence, owed);
        let theirs = self.connections.iter().filter(|(_, (who, _))| who == principal);
        theirs.map(|(connection, _)| FromCore::Wake { connection: *connection }).collect()
    }

    pub(crate) fn outbox_len(&self, principal: &str) -> usize {
        self.outbox.get(&principal.parse().unwrap()).map_or(0, BTreeMap::len)
    }
}

fn authenticate(username: Option<&str>, password: Option<&Secret>) -> Result<Principal, ConnectRefusal> {
    let (Some(username), Some(Secret(password))) = (username, password) else {
        return Err(ConnectRefusal::BadCredentials);
    };
    if *password != token(username).into_bytes() {
        return Err(ConnectRefusal::BadCredentials);
    }
    username.parse().map_err(|_| ConnectRefusal::BadCredentials)
}

pub(crate) fn token(principal: &str) -> String {
    principal.chars().rev().collect()
}

/// A broker with a core of its own thread.
pub(crate) struct World {
    pub(crate) broker: BrokerHandle,
    pub(crate) core: Arc<std::sync::Mutex<Core>>,
    pub(crate) clock: Clock,
    /// Everything that the core was told, after it has answered.
    pub(crate) told: mpsc::UnboundedReceiver<ToCore>,
}

impl World {
    pub(crate) async fn start(limits: Limits) -> World {
        Self::start_with(|config| config.limits = limits).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> World {
        let clock = Clock::start();
        let tcp = Listener::Tcp { address: "127.0.0.1:0".parse().unwrap() };
        let mut config = Config { listeners: vec![tcp], boot_epoch: 1, clock, ..Config::default() };
        change(&mut config);
        let (sender, mut receiver) = mpsc::channel(4096);
        let (tell, told) = mpsc::unbounded_channel();
        let broker = Broker::start(config, sender).await.unwrap();
        let core = Arc::new(std::sync::Mutex::new(Core::default()));
        std::thread::spawn({
            let (broker, core) = (broker.clone(), core.clone());
            move || {
                let mut batch = Vec::new();
                while receiver.blocking_recv_many(&mut batch, 1024) > 0 {
                    let mut core = core.lock().unwrap();
                    broker.deliver_all(batch.iter().flat_map(|message| core.handle(&clock, message)));
                    drop(core);
                    batch.drain(..).for_each(|message| drop(tell.send(message)));
                }
            }
        });
        World { broker, core, clock, told }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.broker.addresses()[0]
    }

    /// The core owes `principal` something new.
    pub(crate) fn owe(&self, principal: &str, kind: Kind, payload: &[u8]) {
        let wakes = self.core.lock().unwrap().owe(&self.clock, &principal.parse().unwrap(), kind, payload);
        self.broker.deliver_all(wakes);
    }

    /// Waits for the first message to the core that `wanted` accepts.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(ToCore) -> Option<T>) -> T {
        let found = timeout(PATIENCE, async {
            loop {
                if let Some(found) = wanted(self.told.recv().await.expect("the core is gone")) {
                    return found;
                }
            }
        });
        found.await.expect("the core was never told")
    }

    pub(crate) async fn connect(&self, version: u8, principal: &str, client_id: &str) -> Client<TcpStream> {
        let mut client = self.dial().await;
        client.send(&connect(version, client_id, principal, 60)).await;
        let connack = client.receive().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
        client
    }

    pub(crate) async fn dial(&self) -> Client<TcpStream> {
        Client { stream: TcpStream::connect(self.address()).await.unwrap(), buffer: Vec::new() }
    }
}

/// Sends and receives whole packets.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    pub(crate) buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, packet: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(packet)).await.expect("the server does not read").unwrap();
    }

    /// The next packet; empty once the server has closed.
    pub(crate) async fn receive(&mut self) -> Vec<u8> {
        timeout(PATIENCE, async {
            loop {
                if let Some(length) = packet_length(&self.buffer) {
                    return self.buffer.drain(..length).collect();
                }
                let mut chunk = [0; 4096];
                match self.stream.read(&mut chunk).await {
                    Ok(0) | Err(_) => return Vec::new(),
                    Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                }
            }
        })
        .await
        .expect("the server says nothing")
    }

    pub(crate) async fn subscribe(&mut self, version: u8, filter: &str, qos: u8) -> u8 {
        self.send(&subscribe(version, 1, filter, qos)).await;
        let suback = self.receive().await;
        assert_eq!(suback[0], 0x90, "{suback:?}");
        *suback.last().unwrap()
    }
}

fn packet_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (index, byte) in bytes.get(1..)?.iter().enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let total = index + 2 + length;
            return (bytes.len() >= total).then_some(total);
        }
    }
    None
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let more = length >= 128;
        bytes.push((length % 128) as u8 | if more { 0x80 } else { 0 });
        length /= 128;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn connect(version: u8, client_id: &str, principal: &str, keep_alive_s: u16) -> Vec<u8> {
    let mut body = text("MQTT");
    body.extend([version, 0b1100_0010]);
    body.extend(keep_alive_s.to_be_bytes());
    if version == 5 {
        body.push(0);
    }
    body.extend(text(client_id));
    body.extend(text(principal));
    body.extend(text(&token(principal)));
    packet(0x10, &body)
}

pub(crate) fn publish(version: u8, packet_id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if packet_id > 0 {
        body.extend(packet_id.to_be_bytes());
    }
    if version == 5 {
        body.push(0);
    }
    body.extend(payload);
    packet(if packet_id > 0 { 0x32 } else { 0x30 }, &body)
}

pub(crate) fn subscribe(version: u8, packet_id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == 5 {
        body.push(0);
    }
    body.extend(text(filter));
    body.push(qos);
    packet(0x82, &body)
}
