//! Listeners, limits, and the handle that the core holds.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker_session::{ConnectRefusal, ConnectionId, DisconnectReason};
use schemas::feed::FeedEvent;
use schemas::ids::{Principal, TenantId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::api::{Config, FromCore, Listener, StartError, Stats, ToCore};
use crate::connection::{self, Connection, Traffic};
use crate::feed::Feed;
use crate::inbox::Registry;
use crate::quotas::Quotas;
use crate::sessions::{SessionDetails, SessionRow, Transport};
use crate::surplus::{Place, Surplus};
use crate::tap::{Tap, Tapped};
use crate::websocket;

const TOO_SLOW: &str = "too slow";

/// The embedded broker.
#[derive(Debug)]
pub struct Broker;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) core: mpsc::Sender<ToCore>,
    pub(crate) registry: Registry,
    pub(crate) traffic: Traffic,
    pub(crate) quotas: Quotas,
    pub(crate) tap: Tap,
    pub(crate) surplus: Surplus,
    /// Odd while an operator lets nobody in: each order and its end count one up.
    drains: AtomicU64,
    pub(crate) feed: Feed,
    gate: Gate,
    next_connection: AtomicU32,
    shutdown: watch::Sender<bool>,
}

/// A running broker. Dropping it does not stop it: call [`shutdown`](Self::shutdown).
#[derive(Debug, Clone)]
pub struct BrokerHandle {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
}

impl Broker {
    /// Listens on every configured address, or on none. Must be called within a tokio runtime; what connections say
    /// goes to `core`, whose capacity is how far they may run ahead of the core.
    ///
    /// # Errors
    /// A port is taken, or an address without TLS is not loopback.
    pub async fn start(config: Config, core: mpsc::Sender<ToCore>) -> Result<BrokerHandle, StartError> {
        let mut bound = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            bound.push((bind(listener).await?, listener.clone()));
        }
        let feed = Feed::start().map_err(StartError::Thread)?;
        let shared = Arc::new(Shared::new(config, core, feed));
        let mut addresses = Vec::with_capacity(bound.len());
        for (socket, listener) in bound {
            addresses.push(socket.local_addr().unwrap_or_else(|_| listener.address()));
            tokio::spawn(accept(shared.clone(), socket, listener));
        }
        Ok(BrokerHandle { shared, addresses })
    }
}

async fn bind(listener: &Listener) -> Result<TcpListener, StartError> {
    let address = listener.address();
    if listener.tls().is_none() && !address.ip().is_loopback() {
        return Err(StartError::NotLoopback { address });
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => StartError::AddressInUse { address },
        _ => StartError::Listen { address, source },
    })
}

impl BrokerHandle {
    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Routes one message. Never blocks: a connection that does not take what is put before it is closed.
    pub fn deliver(&self, message: FromCore) {
        self.shared.registry.deliver([message]);
    }

    /// Routes many messages, in order. What goes to one connection leaves in as few writes as possible.
    pub fn deliver_all(&self, messages: impl IntoIterator<Item = FromCore>) {
        self.shared.registry.deliver(messages);
    }

    /// Shows an event to the observers of a tenant, best effort. Never blocks.
    pub fn feed(&self, tenant: TenantId, event: FeedEvent) {
        self.shared.feed.publish(tenant, event);
    }

    #[cfg(test)]
    pub(crate) fn feed_for_tests(&self) -> &Feed {
        &self.shared.feed
    }

    /// Counters now.
    pub fn stats(&self) -> Stats {
        let Shared { gate, traffic, feed, .. } = &*self.shared;
        Stats {
            connections_open: gate.open.load(Relaxed) as u64,
            connections_accepted: gate.accepted.load(Relaxed),
            connections_refused: gate.refused.load(Relaxed),
            connections_told: self.shared.surplus.told(),
            handshakes_failed: gate.handshakes_failed.load(Relaxed),
            publishes_in: traffic.publishes_in.load(Relaxed),
            publishes_put_off: traffic.publishes_put_off.load(Relaxed),
            pubacks_out: traffic.pubacks_out.load(Relaxed),
            deliveries_out: traffic.deliveries_out.load(Relaxed),
            bytes_in: traffic.bytes_in.load(Relaxed),
            bytes_out: traffic.bytes_out.load(Relaxed),
            draining: self.shared.is_draining(),
            feed_out: traffic.feed_out.load(Relaxed),
            feed_lost: traffic.feed_lost.load(Relaxed) + feed.counters().dropped.load(Relaxed),
            feed_restarts: feed.counters().restarts.load(Relaxed),
        }
    }

    /// Connections, the oldest first, at most `max`; all, or those of one principal.
    pub fn sessions(&self, principal: Option<&Principal>, max: usize) -> Vec<(ConnectionId, SessionRow)> {
        self.shared.registry.rows(principal, max)
    }

    /// One connection with what only its session knows; none if it has ended.
    pub async fn session(&self, connection: ConnectionId) -> Option<(SessionRow, SessionDetails)> {
        let inbox = self.shared.registry.inbox(connection)?;
        let details = inbox.describe().await.ok()?;
        Some((inbox.facts.row(connection), details))
    }

    /// Where a connection comes from, or came from if it ended lately.
    pub fn peer(&self, connection: ConnectionId) -> Option<SocketAddr> {
        self.shared.registry.peer(connection)
    }

    /// A copy of what passes from now on.
    pub fn tap(&self) -> broadcast::Receiver<Arc<Tapped>> {
        self.shared.tap.listen()
    }

    /// Takes no new connections, and ends `per_second` of those there are in each second, until [`Self::undrain`]. Must
    /// be called within a tokio runtime.
    pub fn drain(&self, per_second: u32, reference: Option<String>) {
        self.undrain();
        let order = self.shared.drains.fetch_add(1, Relaxed) + 1;
        let reason = reference.map_or(DisconnectReason::ServerShuttingDown, |reference| {
            DisconnectReason::UseAnotherServer { reference }
        });
        tokio::spawn(drain(self.shared.clone(), order, per_second, reason));
    }

    /// Takes connections again.
    pub fn undrain(&self) {
        if self.shared.is_draining() {
            self.shared.drains.fetch_add(1, Relaxed);
        }
    }

    /// Stops listening, tells every client, and returns when all have gone or their time is up. The core should keep
    /// receiving meanwhile; what it delivers to connections that have ended is dropped.
    pub async fn shutdown(&self) {
        self.shared.shutdown.send_replace(true);
        self.shared.registry.disconnect_all(&DisconnectReason::ServerShuttingDown);
        let linger = Duration::from_millis(self.shared.config.linger_ms.saturating_mul(2));
        let _ = timeout(linger, self.shared.gate.emptied()).await;
    }
}

impl Shared {
    pub(crate) fn new(config: Config, core: mpsc::Sender<ToCore>, feed: Feed) -> Self {
        Self {
            quotas: Quotas::new(config.rates),
            config,
            core,
            registry: Registry::default(),
            traffic: Traffic::default(),
            tap: Tap::default(),
            surplus: Surplus::default(),
            drains: AtomicU64::new(0),
            feed,
            gate: Gate::default(),
            next_connection: AtomicU32::new(0),
            shutdown: watch::Sender::new(false),
        }
    }

    fn is_draining(&self) -> bool {
        self.drains.load(Relaxed) % 2 == 1
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        *self.shutdown.borrow()
    }
}

/// A tenth of the second's share at once, and never fewer than one.
async fn drain(shared: Arc<Shared>, order: u64, per_second: u32, reason: DisconnectReason) {
    let at_once = (per_second / 10).max(1);
    let pause = Duration::from_secs(1) * at_once / per_second.max(1);
    while shared.drains.load(Relaxed) == order && !shared.is_shutting_down() {
        shared.registry.disconnect_some(&reason, at_once as usize);
        sleep(pause).await;
    }
}

async fn accept(shared: Arc<Shared>, socket: TcpListener, listener: Listener) {
    let mut shutdown = shared.shutdown.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let admission = match Gate::enter(&shared, peer.ip()) {
                    Ok(pass) => Admission::Served(pass),
                    Err(refusal) => match shared.surplus.place(refusal) {
                        Some(place) => Admission::TurnedAway(Box::new(place)),
                        None => continue,
                    },
                };
                tokio::spawn(handshake(shared.clone(), stream, peer, listener.clone(), admission));
            }
            Err(error) => {
                // Out of file descriptors, most likely. Accepting at once again would only burn time.
                tracing::warn!(address = %listener.address(), %error, "cannot accept a connection; trying again");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

enum Admission {
    Served(Pass),
    /// One too many: it is told so, and that is all.
    TurnedAway(Box<Place>),
}

/// Everything before MQTT, within one time limit, and then MQTT. Each connection is a task of its own, so that a peer who
/// stops half way holds up nobody.
async fn handshake(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    listener: Listener,
    admission: Admission,
) {
    // Promises are small and waited for.
    let _ = stream.set_nodelay(true);
    let id = ConnectionId::new(shared.config.boot_epoch, shared.next_connection.fetch_add(1, Relaxed) + 1);
    let in_time = Instant::now() + Duration::from_millis(shared.config.handshake_timeout_ms);
    let (deadline, place) = match &admission {
        Admission::Served(_) => (in_time, None),
        Admission::TurnedAway(place) => (in_time.min(place.deadline()), Some(&**place)),
    };
    let tls = listener.tls().map(|config| config.borrow().clone());
    let is_websocket = listener.is_websocket();
    drop(listener);
    // All but the first are boxed, so that a plain connection's task is not as large as one of TLS.
    let about = About { shared: &shared, id, peer, place, deadline };
    let served = match tls {
        None if !is_websocket => {
            about.serve(stream, None).await;
            Ok(())
        }
        None => Box::pin(serve_websocket(about, stream, None)).await,
        Some(config) => Box::pin(serve_tls(about, stream, config, is_websocket)).await,
    };
    if let Err(error) = served {
        shared.gate.handshakes_failed.fetch_add(1, Relaxed);
        tracing::debug!(%peer, %error, "the handshake failed");
    }
    match admission {
        Admission::Served(pass) => drop(pass),
        Admission::TurnedAway(place) => Box::pin(place.rest()).await,
    }
}

/// A connection whose transport is being made.
#[derive(Clone, Copy)]
struct About<'a> {
    shared: &'a Arc<Shared>,
    id: ConnectionId,
    peer: SocketAddr,
    /// Of one that is turned away.
    place: Option<&'a Place>,
    deadline: Instant,
}

impl About<'_> {
    /// MQTT, to its end.
    async fn serve<S: Transport>(self, stream: S, client_certificate: Option<Vec<u8>>) {
        let Self { shared, id, peer, place, .. } = self;
        match place {
            None => {
                let shared = shared.clone();
                connection::serve(Connection { id, peer, stream, client_certificate, shared }).await;
            }
            Some(place) => Box::pin(shared.surplus.turn_away(place, stream, id, &shared.config)).await,
        }
    }
}

async fn serve_tls(
    about: About<'_>,
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    is_websocket: bool,
) -> Result<(), String> {
    let accepted = Box::pin(timeout_at(about.deadline, TlsAcceptor::from(config).accept(stream))).await;
    let stream = accepted.map_err(|_| TOO_SLOW)?.map_err(|error| format!("TLS: {error}"))?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let client_certificate = certificates.first().map(|certificate| certificate.to_vec());
    if is_websocket {
        return Box::pin(serve_websocket(about, stream, client_certificate)).await;
    }
    about.serve(stream, client_certificate).await;
    Ok(())
}

async fn serve_websocket<S: Transport>(
    about: About<'_>,
    stream: S,
    client_certificate: Option<Vec<u8>>,
) -> Result<(), String> {
    let upgraded = Box::pin(timeout_at(about.deadline, websocket::upgrade(stream))).await;
    let stream = upgraded
        .map_err(|_| TOO_SLOW)?
        .map_err(|error| format!("WebSocket: {}", websocket::failure(&error)))?;
    about.serve(stream, client_certificate).await;
    Ok(())
}

/// Counts connections and keeps their limits.
#[derive(Debug, Default)]
struct Gate {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    handshakes_failed: AtomicU64,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    emptied: tokio::sync::Notify,
}

/// The right of one connection to exist.
#[derive(Debug)]
struct Pass {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Gate {
    fn enter(shared: &Arc<Shared>, address: IpAddr) -> Result<Pass, ConnectRefusal> {
        let address = counted_as(address);
        let (gate, config) = (&shared.gate, &shared.config);
        let mut by_address = gate.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let from_here = by_address.get(&address).copied().unwrap_or(0);
        let too_many_from_here = from_here >= config.max_connections_per_address && !address.is_loopback();
        let refusal = if shared.is_draining() {
            Some(ConnectRefusal::ServerUnavailable)
        } else if too_many_from_here {
            Some(ConnectRefusal::QuotaExceeded)
        } else {
            let is_full = gate.open.load(Relaxed) >= config.max_connections;
            is_full.then_some(ConnectRefusal::ServerBusy)
        };
        if let Some(refusal) = refusal {
            gate.refused.fetch_add(1, Relaxed);
            return Err(refusal);
        }
        by_address.insert(address, from_here + 1);
        gate.open.fetch_add(1, Relaxed);
        gate.accepted.fetch_add(1, Relaxed);
        Ok(Pass { shared: shared.clone(), address })
    }

    async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.open.load(Relaxed) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// As what a peer's address counts against limits per address: who has one IPv6 address has its whole /64, and IPv4
/// may come in the form of IPv6.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let gate = &self.shared.gate;
        let mut by_address = gate.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(from_here) = by_address.get_mut(&self.address) {
            *from_here -= 1;
            if *from_here == 0 {
                by_address.remove(&self.address);
            }
        }
        drop(by_address);
        if gate.open.fetch_sub(1, Relaxed) == 1 {
            gate.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_one_too_many_is_refused_for_the_reason_that_holds() {
        let config = Config { max_connections: 3, max_connections_per_address: 1, ..Config::default() };
        let shared = Arc::new(Shared::new(config, mpsc::channel(1).0, Feed::start().unwrap()));
        let enter = |address: &str| Gate::enter(&shared, address.parse().unwrap()).map_err(|r| r.to_string());
        let first = enter("192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").unwrap_err(), ConnectRefusal::QuotaExceeded.to_string());
        let _loopback_is_exempt = [enter("127.0.0.1").unwrap(), enter("127.0.0.1").unwrap()];
        assert_eq!(enter("192.0.2.2").unwrap_err(), ConnectRefusal::ServerBusy.to_string());
        drop(first);
        enter("192.0.2.1").unwrap();
        shared.drains.fetch_add(1, Relaxed);
        assert_eq!(enter("192.0.2.1").unwrap_err(), ConnectRefusal::ServerUnavailable.to_string());
        assert_eq!(shared.gate.refused.load(Relaxed), 3);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        for (address, counted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::1"),
        ] {
            assert_eq!(counted_as(address.parse().unwrap()).to_string(), counted);
        }
    }
}
