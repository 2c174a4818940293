//! One connection: moves bytes, time and messages between a socket and its session.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use broker_session::{CloseReason, ConnectionId, Counters, Event, Promise, Qos, Session, Version};
use schemas::ids::Principal;
use schemas::time::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::{Credentials, ToCore};
use crate::inbox::{Inbox, Registry};
use crate::listener::Shared;
use crate::quotas::Quota;
use crate::sessions::{About, Facts, Transport};

/// Of one read.
const READ_BYTES: usize = 16 * 1024;
/// For a connection that waits for no time at all.
const FAR: Duration = Duration::from_secs(3600);
/// PUBACK "quota exceeded": keep it, and send it later as a new PUBLISH.
const QUOTA_EXCEEDED: u8 = 0x97;

thread_local! {
    /// Idle connections are many: none has a read buffer of its own.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Counters of the broker, added to by every connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) publishes_in: AtomicU64,
    pub(crate) publishes_put_off: AtomicU64,
    pub(crate) pubacks_out: AtomicU64,
    pub(crate) deliveries_out: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) feed_out: AtomicU64,
    pub(crate) feed_lost: AtomicU64,
}

/// A connection whose transport stands.
pub(crate) struct Connection<S> {
    pub(crate) id: ConnectionId,
    pub(crate) peer: SocketAddr,
    pub(crate) stream: S,
    pub(crate) client_certificate: Option<Vec<u8>>,
    pub(crate) shared: Arc<Shared>,
}

/// Serves it to its end.
pub(crate) async fn serve<S: Transport>(connection: Connection<S>) {
    let Connection { id, peer, stream, client_certificate, shared } = connection;
    let facts = Facts::new(peer, S::NAME, Timestamp(shared.config.clock.now_ms()));
    let inbox = Arc::new(Inbox::new(shared.config.max_inbox_messages, facts));
    shared.registry.insert(id, inbox.clone());
    let registered = Registered { registry: &shared.registry, id };
    if shared.is_shutting_down() {
        inbox.disconnect(broker_session::DisconnectReason::ServerShuttingDown);
    }
    let session = Session::new(id, shared.config.limits.clone(), shared.config.clock.now_ms());
    let mut driver = Driver {
        session,
        stream,
        out: Outgoing::default(),
        upward: Upward {
            id,
            peer,
            inbox: inbox.clone(),
            client_certificate,
            principal: None,
            version: None,
            unsent: None,
            core: &shared.core,
            has_said_closed: false,
        },
        shared: &shared,
        counted: Counters::default(),
        quota: None,
        is_used_up: false,
        rests_until_ms: None,
    };
    driver.run(&inbox).await;
    drop(registered);
    driver.end().await;
}

struct Registered<'a> {
    registry: &'a Registry,
    id: ConnectionId,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.registry.remove(self.id);
    }
}

struct Driver<'a, S> {
    session: Session,
    stream: S,
    out: Outgoing,
    upward: Upward<'a>,
    shared: &'a Shared,
    counted: Counters,
    /// Known with the principal.
    quota: Option<Quota>,
    is_used_up: bool,
    /// Nothing is read until then.
    rests_until_ms: Option<u64>,
}

/// Bytes that the session gave and the socket has not taken.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    unflushed: bool,
}

/// The way to the core.
struct Upward<'a> {
    id: ConnectionId,
    peer: SocketAddr,
    /// Where operators look.
    inbox: Arc<Inbox>,
    client_certificate: Option<Vec<u8>>,
    principal: Option<Arc<Principal>>,
    version: Option<Version>,
    /// The core is busy: this waits for room, and further events wait in the session.
    unsent: Option<ToCore>,
    core: &'a mpsc::Sender<ToCore>,
    has_said_closed: bool,
}

enum Io {
    Read(usize),
    Written(usize),
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<'_, S> {
    /// Until the session is closed. Nothing in here waits for the socket or the core alone, so that a takeover, the
    /// keep alive and every other timer work while a write blocks or the core is busy.
    async fn run(&mut self, inbox: &Inbox) {
        let clock = self.shared.config.clock;
        let core = self.shared.core.clone();
        let mut alarm = pin!(sleep_until(Instant::now() + FAR));
        loop {
            let now_ms = clock.now_ms();
            inbox.drain_into(&mut self.session, now_ms, &self.shared.tap);
            self.charge(now_ms);
            self.session.handle_reading(now_ms, self.reads());
            self.session.handle_timeout(now_ms);
            if !self.send_events(&core) || self.session.is_closed() {
                return;
            }
            self.refill();
            let due_ms = self.session.poll_timeout().into_iter().chain(self.rests_until_ms).min();
            let due = due_ms.map(|due_ms| Instant::from_std(clock.instant(due_ms)));
            // Moving a timer costs more than letting it fire early once in a while. One that has fired must be moved
            // in any case, or it fires for ever.
            if alarm.is_elapsed() || due.is_some_and(|due| due < alarm.deadline()) {
                alarm.as_mut().reset(due.unwrap_or_else(|| Instant::now() + FAR));
            }
            let wants_bytes = self.reads() && self.session.wants_bytes();
            let unsent = self.upward.unsent.is_some();
            tokio::select! {
                // No branch can starve another: each turn of the loop empties the inbox and minds the time, and
                // nothing is read while a message waits for the core.
                biased;
                io = poll_fn(|cx| {
                    poll_io(cx, &mut self.stream, &mut self.out, wants_bytes, &mut |bytes| {
                        self.session.handle_bytes(clock.now_ms(), bytes);
                    })
                }) => match io {
                    Io::Read(0) | Io::Broken => self.session.handle_connection_lost(),
                    Io::Read(bytes) => {
                        add(&inbox.facts.bytes_in, bytes);
                        add(&self.shared.traffic.bytes_in, bytes);
                    }
                    Io::Written(bytes) => {
                        add(&inbox.facts.bytes_out, bytes);
                        add(&self.shared.traffic.bytes_out, bytes);
                        self.session.handle_transmitted(clock.now_ms(), bytes);
                    }
                },
                permit = core.reserve(), if unsent => match (permit, self.upward.unsent.take()) {
                    (Ok(permit), Some(message)) => permit.send(message),
                    _ => return,
                },
                () = inbox.notified() => {}
                () = alarm.as_mut() => {}
            }
        }
    }

    /// The last words in both directions: neither may hold up the other.
    async fn end(&mut self) {
        let core = self.shared.core.clone();
        let linger = Duration::from_millis(self.shared.config.linger_ms);
        if let Some(bytes) = self.session.poll_transmit() {
            self.out.append(bytes);
        }
        // Nobody waits for the answer any more, and who is not heard takes over nobody.
        self.upward.unsent.take_if(|unsent| matches!(unsent, ToCore::Connect { .. }));
        let Self { session, stream, out, upward, shared, counted, .. } = self;
        count(session, counted, &shared.traffic);
        let last_bytes = timeout(linger, async {
            let _ = stream.write_all(out.bytes.get(out.written..).unwrap_or_default()).await;
            let _ = stream.shutdown().await;
        });
        let last_events = async {
            loop {
                let next = upward.unsent.take().or_else(|| upward.next(session, shared));
                let Some(message) = next else { return };
                if core.send(message).await.is_err() {
                    return;
                }
            }
        };
        let (_, ()) = tokio::join!(last_bytes, last_events);
    }

    /// Not while the core is busy, nor while the principal has said more than it may.
    fn reads(&self) -> bool {
        self.upward.unsent.is_none() && self.rests_until_ms.is_none()
    }

    /// Counts what came since the last turn against the principal's rates. A turn's publishes are judged by what was
    /// left before them: exact to one read.
    fn charge(&mut self, now_ms: u64) {
        if self.quota.is_none() {
            self.quota = self.session.principal().map(|who| self.shared.quotas.of(who, now_ms));
        }
        let Some(quota) = &self.quota else { return };
        let counters = self.session.counters();
        let packets = counters.packets_in - self.counted.packets_in;
        if packets > 0 || self.rests_until_ms.is_some() {
            let bytes = counters.bytes_in - self.counted.bytes_in;
            (self.is_used_up, self.rests_until_ms) = quota.charge(now_ms, packets, bytes);
            (self.counted.packets_in, self.counted.bytes_in) = (counters.packets_in, counters.bytes_in);
        }
    }

    /// Whether this publish is to come later: then its PUBACK says so. Only MQTT 5 has a code for it.
    fn puts_off(&mut self, message: &ToCore) -> bool {
        let ToCore::Publish { token, qos: Qos::AtLeastOnce, .. } = message else { return false };
        if !self.is_used_up || self.upward.version != Some(Version::V5) {
            return false;
        }
        self.session.handle_promise(*token, Promise::Refused(QUOTA_EXCEEDED));
        self.shared.traffic.publishes_put_off.fetch_add(1, Relaxed);
        true
    }

    /// As many as the core takes now. False if the core is gone.
    fn send_events(&mut self, core: &mpsc::Sender<ToCore>) -> bool {
        while self.upward.unsent.is_none() {
            let Some(mut message) = self.upward.next(&mut self.session, self.shared) else { break };
            if self.puts_off(&message) {
                continue;
            }
            if let ToCore::Publish { principal, kind, payload, proven, .. } = &mut message {
                let checker = self.shared.config.checker.as_ref();
                *proven = checker.and_then(|checker| checker.check(principal, *kind, payload));
                self.shared.traffic.publishes_in.fetch_add(1, Relaxed);
                self.upward.inbox.facts.messages_in.fetch_add(1, Relaxed);
            }
            self.copy_to_tap(&message);
            match core.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => self.upward.unsent = Some(message),
                Err(TrySendError::Closed(_)) => {
                    self.session.handle_disconnect(broker_session::DisconnectReason::ServerShuttingDown);
                    return false;
                }
            }
        }
        true
    }

    fn copy_to_tap(&self, message: &ToCore) {
        let Shared { tap, config, .. } = self.shared;
        if !tap.is_open() {
            return;
        }
        let at_ms = config.clock.now_ms();
        match message {
            ToCore::Publish { connection, principal, kind, payload, .. } => {
                tap.up(at_ms, *connection, principal, *kind, payload);
            }
            ToCore::StateChanged { connection, principal, payload, .. } => {
                tap.state(at_ms, *connection, principal, payload);
            }
            _ => {}
        }
    }

    /// Everything that the session has to say goes into one write.
    fn refill(&mut self) {
        if self.out.is_empty()
            && let Some(bytes) = self.session.poll_transmit()
        {
            self.out.append(bytes);
        }
        count(&self.session, &mut self.counted, &self.shared.traffic);
        self.upward.learn(&self.session);
        let facts = &self.upward.inbox.facts;
        facts.messages_out.store(self.counted.deliveries + self.counted.feed_sent, Relaxed);
        facts.in_flight.store(self.session.in_flight() as u64, Relaxed);
    }
}

fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Relaxed);
}

fn count(session: &Session, counted: &mut Counters, traffic: &Traffic) {
    let counters = session.counters();
    if (counters.pubacks, counters.deliveries) != (counted.pubacks, counted.deliveries) {
        traffic.pubacks_out.fetch_add(counters.pubacks - counted.pubacks, Relaxed);
        traffic.deliveries_out.fetch_add(counters.deliveries - counted.deliveries, Relaxed);
        (counted.pubacks, counted.deliveries) = (counters.pubacks, counters.deliveries);
    }
    if (counters.feed_sent, counters.feed_lost) != (counted.feed_sent, counted.feed_lost) {
        traffic.feed_out.fetch_add(counters.feed_sent - counted.feed_sent, Relaxed);
        traffic.feed_lost.fetch_add(counters.feed_lost - counted.feed_lost, Relaxed);
        (counted.feed_sent, counted.feed_lost) = (counters.feed_sent, counters.feed_lost);
    }
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.bytes.len() <= self.written
    }

    fn append(&mut self, mut bytes: Vec<u8>) {
        if self.is_empty() {
            (self.bytes, self.written) = (bytes, 0);
        } else {
            self.bytes.append(&mut bytes);
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        self.unflushed = true;
        if self.is_empty() {
            (self.bytes, self.written) = (Vec::new(), 0);
        }
    }
}

/// Writes first, so that promises do not wait behind new work; then reads if it may.
fn poll_io<S: AsyncRead + AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
    out: &mut Outgoing,
    wants_bytes: bool,
    received: &mut dyn FnMut(&[u8]),
) -> Poll<Io> {
    if !out.is_empty() {
        let rest = out.bytes.get(out.written..).unwrap_or_default();
        match Pin::new(&mut *stream).poll_write(cx, rest) {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Io::Broken),
            Poll::Ready(Ok(bytes)) => {
                out.advance(bytes);
                return Poll::Ready(Io::Written(bytes));
            }
            Poll::Pending => {}
        }
    } else if out.unflushed {
        match Pin::new(&mut *stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => out.unflushed = false,
            Poll::Ready(Err(_)) => return Poll::Ready(Io::Broken),
            Poll::Pending => {}
        }
    }
    if !wants_bytes {
        return Poll::Pending;
    }
    READ_BUFFER.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {
                if !buffer.filled().is_empty() {
                    received(buffer.filled());
                }
                Poll::Ready(Io::Read(buffer.filled().len()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Io::Broken),
            Poll::Pending => Poll::Pending,
        }
    })
}

impl Upward<'_> {
    /// Whose connection it is, as soon as the session knows.
    fn learn(&mut self, session: &Session) {
        if self.principal.is_none()
            && let Some(principal) = session.principal().cloned().map(Arc::new)
        {
            let _ = self.inbox.facts.principal.set(principal.clone());
            self.principal = Some(principal);
        }
    }

    /// The next event, as a message.
    fn next(&mut self, session: &mut Session, shared: &Shared) -> Option<ToCore> {
        let mut event = session.poll_event()?;
        while let Event::Watch { filters } = event {
            shared.feed.watch(self.id, &self.inbox, filters);
            event = session.poll_event()?;
        }
        self.learn(session);
        let (connection, peer) = (self.id, self.peer);
        let (event, principal) = match (event, self.principal.clone()) {
            (Event::Connect(connect), _) => {
                self.version = Some(connect.version);
                let (client_id, version) = (connect.client_id.clone(), connect.version);
                let about = About { client_id, version, keep_alive_s: connect.keep_alive_s };
                // A session says CONNECT once.
                let _ = self.inbox.facts.about.set(about);
                return Some(ToCore::Connect {
                    connection,
                    peer,
                    client_id: connect.client_id,
                    version: connect.version,
                    credentials: Credentials {
                        username: connect.username,
                        password: connect.password,
                        client_certificate: self.client_certificate.take(),
                    },
                    keep_alive_s: connect.keep_alive_s,
                });
            }
            (Event::Refused(refusal), principal) => {
                return Some(ToCore::Refused { connection, principal, peer, refusal });
            }
            (Event::Closed { reason }, principal) => {
                self.has_said_closed = true;
                return Some(ToCore::Closed { connection, principal, peer, reason });
            }
            (event, Some(principal)) => (event, principal),
            // A session speaks for a principal only after it was told which.
            (_, None) => return None,
        };
        Some(match event {
            Event::Publish { token, kind, payload, qos } => {
                ToCore::Publish { connection, token, principal, kind, payload, qos, proven: None }
            }
            Event::Subscribed { kinds } => ToCore::Subscribed { connection, principal, kinds },
            Event::Pull { after_sequence, max } => {
                ToCore::Pull { connection, principal, after_sequence, max }
            }
            Event::Watching => ToCore::Watching { connection, principal },
            Event::PullStates { of, after, max } => {
                ToCore::PullStates { connection, principal, of, after, max }
            }
            Event::Acknowledged { message, code } => {
                ToCore::Acknowledged { connection, principal, message, code }
            }
            Event::StateChanged { payload, cause } => {
                ToCore::StateChanged { connection, principal, payload, cause }
            }
            Event::Connect(_) | Event::Refused(_) | Event::Watch { .. } | Event::Closed { .. } => {
                return None;
            }
        })
    }
}

/// A task that panics, or is dropped half way, leaves no connection standing in the core.
impl Drop for Upward<'_> {
    fn drop(&mut self) {
        if self.has_said_closed {
            return;
        }
        let reason = CloseReason::ConnectionLost;
        let (connection, principal, peer) = (self.id, self.principal.take(), self.peer);
        let closed = ToCore::Closed { connection, principal, peer, reason };
        if let Err(TrySendError::Full(closed)) = self.core.try_send(closed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let core = self.core.clone();
            runtime.spawn(async move { core.send(closed).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::topic::Role;
    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;
    use crate::api::{Config, FromCore};
    use crate::feed::Feed;

    /// Counts how often it was asked for bytes, and may panic after the first that came.
    struct Watched {
        stream: DuplexStream,
        asked: Arc<AtomicU64>,
        breaks: bool,
    }

    impl Transport for Watched {
        const NAME: &'static str = "watched";
        const WEBSOCKET_NAME: &'static str = "watched";
    }

    impl AsyncRead for Watched {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let asked = self.asked.fetch_add(1, Relaxed);
            assert!(!self.breaks || asked < 1_000_000, "on purpose");
            let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
            if read.is_ready() && self.breaks {
                self.asked.store(1_000_000, Relaxed);
            }
            read
        }
    }

    impl AsyncWrite for Watched {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    /// A connection that has said CONNECT without keep alive; the client, its task, and what the core was told.
    async fn connected(
        shared: &Arc<Shared>,
        told: &mut mpsc::Receiver<ToCore>,
        breaks: bool,
    ) -> (DuplexStream, tokio::task::JoinHandle<()>, Arc<AtomicU64>, ToCore) {
        let (mut client, stream) = tokio::io::duplex(1_024);
        let asked = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(Connection {
            id: ConnectionId(1),
            peer: "127.0.0.1:1".parse().unwrap(),
            stream: Watched { stream, asked: asked.clone(), breaks },
            client_certificate: None,
            shared: shared.clone(),
        }));
        client.write_all(b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01c").await.unwrap();
        let hello = told.recv().await.unwrap();
        (client, task, asked, hello)
    }

    fn admit(shared: &Shared) {
        let result = Ok("acme/chip".parse().unwrap());
        shared.registry.deliver([FromCore::Standing {
            connection: ConnectionId(1),
            result,
            role: Role::Party,
        }]);
    }

    /// Also while the core is busy: its queue has one place here.
    #[tokio::test]
    async fn a_connection_whose_task_panics_is_closed_for_the_core_and_for_operators() {
        let (core, mut told) = mpsc::channel(1);
        let shared = Arc::new(Shared::new(Config::default(), core, Feed::start().unwrap()));
        let (_client, task, _, hello) = connected(&shared, &mut told, true).await;
        assert!(matches!(hello, ToCore::Connect { .. }));
        shared.core.try_send(hello).unwrap();
        admit(&shared);
        assert!(task.await.unwrap_err().is_panic());
        assert!(matches!(told.recv().await, Some(ToCore::Connect { .. })));
        assert!(matches!(told.recv().await, Some(ToCore::Closed { connection: ConnectionId(1), .. })));
        assert!(shared.registry.rows(None, 9).is_empty());
    }

    /// The time for CONNECT and its answer passes long after both came.
    #[tokio::test]
    async fn a_connection_without_keep_alive_costs_nothing_while_it_is_idle() {
        let (core, mut told) = mpsc::channel(9);
        let mut config = Config::default();
        (config.limits.connect_timeout_ms, config.limits.standing_timeout_ms) = (1_000, 1_000);
        let shared = Arc::new(Shared::new(config, core, Feed::start().unwrap()));
        let (mut client, _task, asked, _) = connected(&shared, &mut told, false).await;
        admit(&shared);
        client.read_u8().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let before = asked.load(Relaxed);
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let turns = asked.load(Relaxed) - before;
        assert!(turns < 10, "{turns} turns for nothing");
    }
}
