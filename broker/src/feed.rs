//! The feed: rumqttd's router, embedded without its listeners, carries read-only events to observers (mqtt.md).
//!
//! One thread owns the router's links. The core hands it copies and never waits: what finds no room is counted, and
//! every observer is told. The router may die at any instruction; then a new one is built and every observer linked
//! anew, and nobody else notices. Rules that keep the router alive and its memory bounded: topics are printed from
//! types and so ASCII; no `$share`, no QoS 2, no alias, no properties, nothing retained; a link has a name that no
//! living link has, and names are used again, as it remembers each for ever.

#![allow(
    clippy::result_large_err,
    reason = "the error is rumqttd's own, and comes once for each router that dies"
)]

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use broker_session::{ConnectionId, DisconnectReason};
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet};
use rumqttd::{Notification, Router, RouterConfig};
use schemas::feed::FeedEvent;
use schemas::ids::TenantId;
use schemas::topic::{FeedFormat, FeedKind, Filter, Topic};
use tokio::runtime::Handle;

use crate::inbox::Inbox;

/// Commands and events that wait for the feed's thread.
const MAX_WAITING: usize = 4_096;
/// Connections that watch, at most.
const MAX_OBSERVERS: usize = 256;
/// The router keeps at most so much for links that lag, for each filter.
const LOG_BYTES: usize = 1 << 20;
/// How often links of connections that have ended are taken away.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The known killer: the router panics when a topic begins with a character that is not ASCII. For tests.
const DEADLY_TOPIC: &str = "\u{e9}";
/// A router that dies again and again must not keep a processor busy.
const REBUILD_PAUSE: Duration = Duration::from_millis(50);

/// The way to the feed's thread.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    commands: SyncSender<Command>,
    counters: Arc<FeedCounters>,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub(crate) struct FeedCounters {
    /// Events that found no room on the way to the router.
    pub(crate) dropped: AtomicU64,
    /// Of these, not yet told to observers.
    untold: AtomicU64,
    /// Routers that were built after another had died.
    pub(crate) restarts: AtomicU64,
}

#[derive(Debug)]
enum Command {
    Event {
        tenant: TenantId,
        event: FeedEvent,
    },
    Watch {
        connection: ConnectionId,
        inbox: Weak<Inbox>,
        filters: Vec<Filter>,
    },
    LinkEnded {
        generation: u64,
    },
    #[cfg(test)]
    Poison,
}

impl Feed {
    /// Starts the thread. The router begins with the first observer. Must be called within a tokio runtime.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (commands, waiting) = sync_channel(MAX_WAITING);
        let counters = Arc::new(FeedCounters::default());
        let feed = Self { commands, counters };
        let (own, tokio) = (feed.clone(), Handle::current());
        std::thread::Builder::new().name("feed".into()).spawn(move || {
            let (generation, router, watchers) = (0, None, HashMap::new());
            Hub { feed: own, tokio, generation, router, watchers, deaths: Deaths::from_environment() }
                .run(&waiting);
        })?;
        Ok(feed)
    }

    /// Never waits.
    pub(crate) fn publish(&self, tenant: TenantId, event: FeedEvent) {
        if self.commands.try_send(Command::Event { tenant, event }).is_err() {
            self.counters.dropped.fetch_add(1, Relaxed);
            self.counters.untold.fetch_add(1, Relaxed);
        }
    }

    /// The connection is to hear what matches these filters and nothing else; its inbox is told when it does.
    pub(crate) fn watch(&self, connection: ConnectionId, inbox: &Arc<Inbox>, filters: Vec<Filter>) {
        let command = Command::Watch { connection, inbox: Arc::downgrade(inbox), filters };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.commands.try_send(command) {
            inbox.disconnect(DisconnectReason::ServerBusy);
        }
    }

    pub(crate) fn counters(&self) -> &FeedCounters {
        &self.counters
    }
}

/// What the thread owns.
struct Hub {
    feed: Feed,
    tokio: Handle,
    /// Grows with every router.
    generation: u64,
    router: Option<Running>,
    watchers: HashMap<ConnectionId, Watcher>,
    deaths: Deaths,
}

/// How often a test wants the router to die. Debug builds only.
struct Deaths {
    /// At each so-manieth event; never if 0.
    every: u64,
    events: u64,
}

impl Deaths {
    /// `FARTHING_FEED_DIES_EVERY=N`
    fn from_environment() -> Self {
        let wanted = std::env::var("FARTHING_FEED_DIES_EVERY").ok().filter(|_| cfg!(debug_assertions));
        Self { every: wanted.and_then(|text| text.parse().ok()).unwrap_or(0), events: 0 }
    }

    fn is_due(&mut self) -> bool {
        self.events += 1;
        self.events.checked_rem(self.every) == Some(0)
    }
}

/// Makes a link of this name.
type Linking = Box<dyn Fn(&str) -> Result<(LinkTx, LinkRx), LinkError> + Send>;

/// A router, its way in, and the link that the events go in by.
struct Running {
    link: Linking,
    publisher: LinkTx,
    /// Never read, and ended with the router.
    _answers: LinkRx,
}

struct Watcher {
    inbox: Weak<Inbox>,
    /// Part of the link's name.
    slot: usize,
    link: LinkTx,
    /// As the router knows them: no two match one topic, so that nothing comes twice.
    filters: BTreeSet<String>,
}

impl Hub {
    fn run(mut self, waiting: &Receiver<Command>) {
        let mut swept_at = Instant::now();
        loop {
            let command = waiting.recv_timeout(SWEEP_INTERVAL);
            let handled = match command {
                Ok(Command::Event { tenant, event }) => self.publish(tenant, &event),
                Ok(Command::Watch { connection, inbox, filters }) => {
                    self.watch_surely(connection, &inbox, &filters)
                }
                Ok(Command::LinkEnded { generation }) if generation == self.generation => {
                    Err(LinkError::NotConnectionAck)
                }
                #[cfg(test)]
                Ok(Command::Poison) => self.publish_raw(DEADLY_TOPIC, Vec::new()),
                Ok(Command::LinkEnded { .. }) | Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = handled {
                self.rebuild(&error);
            }
            let untold = self.feed.counters.untold.swap(0, Relaxed);
            if untold > 0 {
                self.tell_lost(untold);
            }
            if swept_at.elapsed() >= SWEEP_INTERVAL {
                swept_at = Instant::now();
                self.sweep();
            }
        }
    }

    fn publish(&mut self, tenant: TenantId, event: &FeedEvent) -> Result<(), LinkError> {
        if self.router.is_none() {
            return Ok(());
        }
        if self.deaths.is_due() {
            self.publish_raw(DEADLY_TOPIC, Vec::new())?;
        }
        if let FeedEvent::Presence(presence) = event {
            let topic = Topic::State { principal: presence.principal.clone() };
            self.publish_raw(&topic.to_string(), event.encode(FeedFormat::Cbor))?;
        }
        for &format in FeedFormat::ALL {
            let topic = Topic::Feed { tenant: tenant.clone(), kind: event.kind(), format };
            self.publish_raw(&topic.to_string(), event.encode(format))?;
        }
        Ok(())
    }

    fn publish_raw(&mut self, topic: &str, payload: Vec<u8>) -> Result<(), LinkError> {
        match &mut self.router {
            Some(router) => router.publisher.publish(topic.to_owned(), payload).map(|_| ()),
            None => Ok(()),
        }
    }

    /// A router that has died meanwhile is built anew first: nobody must be left deaf without knowing.
    fn watch_surely(
        &mut self,
        connection: ConnectionId,
        inbox: &Weak<Inbox>,
        filters: &[Filter],
    ) -> Result<(), LinkError> {
        let Err(error) = self.watch(connection, inbox, filters) else { return Ok(()) };
        self.rebuild(&error);
        self.watch(connection, inbox, filters).inspect_err(|_| {
            if let Some(inbox) = inbox.upgrade() {
                inbox.disconnect(DisconnectReason::ServerBusy);
            }
        })
    }

    fn watch(
        &mut self,
        connection: ConnectionId,
        inbox: &Weak<Inbox>,
        filters: &[Filter],
    ) -> Result<(), LinkError> {
        let Some(strong) = inbox.upgrade() else { return Ok(()) };
        let filters: BTreeSet<String> = filters.iter().flat_map(routed).collect();
        if let Some(watcher) = self.watchers.get_mut(&connection) {
            for gone in watcher.filters.difference(&filters) {
                watcher.link.unsubscribe(gone)?;
            }
            for new in filters.difference(&watcher.filters) {
                watcher.link.subscribe(new)?;
            }
            watcher.filters = filters;
        } else {
            if self.watchers.len() >= MAX_OBSERVERS {
                self.sweep();
            }
            let taken: BTreeSet<usize> = self.watchers.values().map(|watcher| watcher.slot).collect();
            let Some(slot) = (0..MAX_OBSERVERS).find(|slot| !taken.contains(slot)) else {
                strong.disconnect(DisconnectReason::ServerBusy);
                return Ok(());
            };
            let link = self.link(slot, inbox, &filters)?;
            self.watchers.insert(connection, Watcher { inbox: inbox.clone(), slot, link, filters });
        }
        strong.watching();
        Ok(())
    }

    /// A link of the present router, with a task that carries what comes to the inbox.
    fn link(
        &mut self,
        slot: usize,
        inbox: &Weak<Inbox>,
        filters: &BTreeSet<String>,
    ) -> Result<LinkTx, LinkError> {
        let router = match &mut self.router {
            Some(router) => router,
            None => {
                self.generation += 1;
                self.router.insert(start_router(self.generation)?)
            }
        };
        let (mut link, answers) = (router.link)(&format!("observer-{slot}"))?;
        for filter in filters {
            link.subscribe(filter)?;
        }
        let (ended, generation) = (self.feed.commands.clone(), self.generation);
        let inbox = inbox.clone();
        self.tokio.spawn(async move {
            // The link of an observer that has gone is taken away by `sweep`: that is no end of the router.
            if carry(answers, &inbox).await.is_err() && inbox.strong_count() > 0 {
                // If there is no room, the next event finds out.
                let _ = ended.try_send(Command::LinkEnded { generation });
            }
        });
        Ok(link)
    }

    /// The router has died.
    fn rebuild(&mut self, error: &LinkError) {
        tracing::warn!(%error, "the feed's router has ended and is built anew; observers may have missed events");
        self.feed.counters.restarts.fetch_add(1, Relaxed);
        // One that is alive after all would stay for ever: it holds a sender of its own.
        let _ = self.publish_raw(DEADLY_TOPIC, Vec::new());
        self.router = None;
        self.generation += 1;
        std::thread::sleep(REBUILD_PAUSE);
        for (connection, watcher) in std::mem::take(&mut self.watchers) {
            let Some(inbox) = watcher.inbox.upgrade() else { continue };
            match self.link(watcher.slot, &watcher.inbox, &watcher.filters) {
                Ok(link) => {
                    self.watchers.insert(connection, Watcher { link, ..watcher });
                    inbox.feed_lost(1);
                }
                // It died again. This observer comes back by itself, and finds another.
                Err(_) => inbox.disconnect(DisconnectReason::ServerBusy),
            }
        }
    }

    fn tell_lost(&self, count: u64) {
        self.watchers.values().filter_map(|watcher| watcher.inbox.upgrade()).for_each(|inbox| {
            inbox.feed_lost(count);
        });
    }

    /// Takes away the links of connections that have ended: the router does not learn of it by itself.
    fn sweep(&mut self) {
        let ended = self.watchers.iter().filter(|(_, watcher)| watcher.inbox.strong_count() == 0);
        let ended: Vec<ConnectionId> = ended.map(|(connection, _)| *connection).collect();
        for connection in ended {
            if let Some(mut watcher) = self.watchers.remove(&connection) {
                let reason_code = DisconnectReasonCode::NormalDisconnection;
                let goodbye = Packet::Disconnect(Disconnect { reason_code }, None);
                // A router that is dead needs no goodbye.
                let _ = self.tokio.block_on(watcher.link.send(goodbye));
            }
        }
    }
}

fn start_router(generation: u64) -> Result<Running, LinkError> {
    let config = RouterConfig {
        max_connections: MAX_OBSERVERS + 2,
        max_outgoing_packet_count: 100,
        max_segment_size: LOG_BYTES / 2,
        max_segment_count: 2,
        ..RouterConfig::default()
    };
    // The router's thread is called `router-...`: the one thread that may panic without ending the process.
    let sender = Router::new(usize::try_from(generation).unwrap_or_default(), config).spawn();
    let link = move |name: &str| {
        LinkBuilder::new(name, sender.clone()).build().map(|(link, answers, _)| (link, answers))
    };
    let (publisher, _answers) = link("core")?;
    Ok(Running { link: Box::new(link), publisher, _answers })
}

/// Until the connection ends; an error if the router, or the link, does.
async fn carry(mut answers: LinkRx, inbox: &Weak<Inbox>) -> Result<(), LinkError> {
    loop {
        match answers.next().await? {
            Some(Notification::Forward(forward)) => {
                let Some(inbox) = inbox.upgrade() else { return Ok(()) };
                let topic =
                    std::str::from_utf8(&forward.publish.topic).ok().and_then(|text| text.parse().ok());
                if let Some(topic) = topic {
                    inbox.feed(topic, forward.publish.payload.to_vec());
                }
            }
            // It waits until told that there is room again.
            Some(Notification::Unschedule) => answers.wake().await?,
            _ if inbox.strong_count() == 0 => return Ok(()),
            _ => {}
        }
    }
}

/// What the router is to send for a filter: single topics, and one filter for all states.
fn routed(filter: &Filter) -> Vec<String> {
    let feed = |tenant: &TenantId, kinds: &[FeedKind], formats: &[FeedFormat]| {
        let topic = |kind, format| Topic::Feed { tenant: tenant.clone(), kind, format }.to_string();
        formats.iter().flat_map(|format| kinds.iter().map(move |kind| topic(*kind, *format))).collect()
    };
    match filter {
        Filter::DownKind { .. } | Filter::DownAll { .. } => Vec::new(),
        Filter::FeedKind { tenant, kind, format } => feed(tenant, &[*kind], &[*format]),
        Filter::FeedFormat { tenant, format } => feed(tenant, FeedKind::ALL, &[*format]),
        Filter::FeedAll { tenant } => feed(tenant, FeedKind::ALL, FeedFormat::ALL),
        Filter::StateOf { principal } => {
            vec![Filter::StateAll { tenant: principal.tenant.clone() }.to_string()]
        }
        Filter::StateAll { .. } => vec![filter.to_string()],
    }
}

#[cfg(test)]
mod tests;
