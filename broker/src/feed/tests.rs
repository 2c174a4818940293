//! The feed by itself, and beside a lane whose promises must not notice what becomes of it.

use broker_session::{Promise, Session};
use schemas::feed::{DeviceChange, DeviceEvent, LostEvent};
use schemas::ids::Instance;
use schemas::time::Timestamp;
use schemas::topic::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::sessions::Facts;
use crate::tap::Tap;
use crate::{Broker, Config, FromCore, Listener, ToCore};

const PATIENCE: Duration = Duration::from_secs(60);

fn event(number: u32) -> FeedEvent {
    let device = "acme/chip-7".parse().unwrap();
    let change = DeviceChange::Enrolled;
    FeedEvent::Device(DeviceEvent { device, change, instance: Some(Instance(number)), at: Timestamp(7) })
}

fn inbox() -> Arc<Inbox> {
    let peer = "127.0.0.1:1".parse().unwrap();
    Arc::new(Inbox::new(16, Facts::new(peer, "tcp", Timestamp(0))))
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

/// An observer's session without a socket, and its inbox.
struct Observer {
    inbox: Arc<Inbox>,
    session: Session,
    heard: Vec<u8>,
}

impl Observer {
    /// Connected, subscribed, and heard by the router.
    async fn watch(feed: &Feed, number: u64, filter: &str) -> Self {
        let mut session = Session::new(ConnectionId(number), broker_session::Limits::default(), 0);
        session.handle_bytes(0, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01o");
        let who = Ok("acme/screen".parse().unwrap());
        session.handle_standing_as(0, who, Role::Observer);
        let length = u8::try_from(filter.len()).unwrap();
        let mut subscribe = vec![0x82, length + 5, 0, 1, 0, length];
        subscribe.extend(filter.as_bytes());
        subscribe.push(0);
        session.handle_bytes(0, &subscribe);
        let inbox = inbox();
        let mut observer = Self { inbox, session, heard: Vec::new() };
        while let Some(event) = observer.session.poll_event() {
            if let broker_session::Event::Watch { filters } = event {
                feed.watch(ConnectionId(number), &observer.inbox, filters);
            }
        }
        while !observer.said(|event| *event == broker_session::Event::Watching).await {}
        observer.bytes();
        observer
    }

    /// After the next thing in the inbox.
    async fn said(&mut self, wanted: impl Fn(&broker_session::Event) -> bool) -> bool {
        timeout(PATIENCE, self.inbox.notified()).await.unwrap();
        self.inbox.drain_into(&mut self.session, 0, &Tap::default());
        std::iter::from_fn(|| self.session.poll_event()).any(|event| wanted(&event))
    }

    fn bytes(&mut self) -> Vec<u8> {
        while let Some(bytes) = self.session.poll_transmit() {
            self.session.handle_transmitted(0, bytes.len());
            self.heard.extend(bytes);
        }
        std::mem::take(&mut self.heard)
    }

    /// Until a payload has come.
    async fn hear(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut heard = Vec::new();
        loop {
            heard.extend(self.bytes());
            if heard.windows(payload.len()).any(|window| window == payload) {
                return heard;
            }
            self.said(|_| false).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_comes_once_to_each_filter_that_matches_and_to_no_other() {
    let feed = Feed::start().unwrap();
    feed.publish(tenant(), event(0));
    let mut all = Observer::watch(&feed, 1, "ft/acme/feed/#").await;
    let mut json = Observer::watch(&feed, 2, "ft/acme/feed/json/device").await;
    let mut presence = Observer::watch(&feed, 3, "ft/acme/feed/+").await;
    feed.publish("other".parse().unwrap(), event(1));
    feed.publish(tenant(), event(2));
    let (cbor, text) = (event(2).encode(FeedFormat::Cbor), event(2).encode(FeedFormat::Json));
    let mut heard = all.hear(&cbor).await;
    if !heard.windows(text.len()).any(|window| window == text) {
        heard.extend(all.hear(&text).await);
    }
    assert_eq!(heard.iter().filter(|byte| **byte == 0x30).count() % 2, 0, "each format once");
    assert!(json.hear(&text).await.ends_with(&text));
    assert!(presence.hear(&cbor).await.ends_with(&cbor));
    assert_eq!(all.session.counters().feed_sent, 2, "nothing of before, nothing of another tenant");
    assert_eq!((json.session.counters().feed_sent, presence.session.counters().feed_sent), (1, 1));
}

/// mqtt.md: the router dies of a topic that begins with a non-ASCII character; the feed goes on with another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_dies_is_built_anew_and_observers_are_told_and_go_on() {
    let feed = Feed::start().unwrap();
    let mut observer = Observer::watch(&feed, 1, "ft/acme/feed/+").await;
    for number in 1..=3 {
        feed.commands.send(Command::Poison).unwrap();
        observer.hear(&FeedEvent::Lost(LostEvent { count: 1 }).encode(FeedFormat::Cbor)).await;
        feed.publish(tenant(), event(number));
        observer.hear(&event(number).encode(FeedFormat::Cbor)).await;
        assert_eq!(feed.counters.restarts.load(Relaxed), u64::from(number));
    }
}

/// A slow observer holds a bounded number of events; what it does not take is counted and told.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_observer_loses_events_and_holds_up_nobody() {
    const EVENTS: u32 = 2_000;
    let feed = Feed::start().unwrap();
    let mut slow = Observer::watch(&feed, 1, "ft/acme/feed/+").await;
    let mut quick = Observer::watch(&feed, 2, "ft/acme/feed/+").await;
    for number in 1..=EVENTS {
        feed.publish(tenant(), event(number));
        quick.hear(&event(number).encode(FeedFormat::Cbor)).await;
    }
    slow.hear(&FeedEvent::Lost(LostEvent { count: 0 }).encode(FeedFormat::Cbor)[..12]).await;
    let counters = slow.session.counters();
    assert!(counters.feed_lost > 0 && counters.feed_sent < 300, "{counters:?}");
    assert_eq!(quick.session.counters().feed_lost, 0);
}

/// Links of connections that have ended are taken away, and their names used again.
#[tokio::test(flavor = "multi_thread")]
async fn more_observers_than_there_is_room_for_are_sent_away_and_room_comes_back() {
    let feed = Feed::start().unwrap();
    let mut observers = Vec::new();
    for number in 0..MAX_OBSERVERS as u64 {
        observers.push(Observer::watch(&feed, number, "ft/acme/feed/device").await);
    }
    let full = inbox();
    let filters = vec!["ft/acme/feed/device".parse().unwrap()];
    feed.watch(ConnectionId(1_000), &full, filters);
    timeout(PATIENCE, full.notified()).await.unwrap();
    let mut session = Session::new(ConnectionId(1_000), broker_session::Limits::default(), 0);
    full.drain_into(&mut session, 0, &Tap::default());
    assert!(session.is_closed());
    observers.truncate(1);
    for number in 2_000..2_020 {
        observers.push(Observer::watch(&feed, number, "ft/acme/feed/device").await);
    }
    feed.publish(tenant(), event(1));
    for observer in &mut observers {
        observer.hear(&event(1).encode(FeedFormat::Cbor)).await;
    }
    assert_eq!(feed.counters.restarts.load(Relaxed), 0, "who goes takes nobody's feed along");
}

/// The lane does not notice that the router dies: a publish is promised meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_is_promised_while_the_router_dies() {
    let (to_core, mut core) = mpsc::channel(64);
    let listeners = vec![Listener::Tcp { address: "127.0.0.1:0".parse().unwrap() }];
    let broker = Broker::start(Config { listeners, ..Config::default() }, to_core).await.unwrap();
    let handle = broker.clone();
    tokio::spawn(async move {
        while let Some(message) = core.recv().await {
            match message {
                ToCore::Connect { connection, .. } => {
                    let result = Ok("acme/chip-7".parse().unwrap());
                    handle.deliver(FromCore::Standing { connection, result, role: Role::Party });
                }
                ToCore::Publish { connection, token, .. } => {
                    handle.deliver(FromCore::Promise { connection, token, promise: Promise::Kept });
                }
                _ => {}
            }
        }
    });
    let feed = broker.feed_for_tests();
    let mut observer = Observer::watch(feed, u64::MAX, "ft/acme/feed/+").await;
    let mut client = TcpStream::connect(broker.addresses()[0]).await.unwrap();
    client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c").await.unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x20, 2, 0, 0]);
    for _ in 0..5 {
        feed.commands.send(Command::Poison).unwrap();
        let topic = b"ft/acme/chip-7/up/health-check";
        let mut publish =
            vec![0x32, u8::try_from(topic.len()).unwrap() + 5, 0, u8::try_from(topic.len()).unwrap()];
        publish.extend(topic);
        publish.extend([0, 1, b'x']);
        client.write_all(&publish).await.unwrap();
        timeout(PATIENCE, client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, [0x40, 2, 0, 1]);
    }
    // An event behind the poison may go down with a router: then the observer is told, and another one is shown.
    let wanted = event(1).encode(FeedFormat::Cbor);
    loop {
        broker.feed(tenant(), event(1));
        observer.said(|_| false).await;
        if observer.bytes().windows(wanted.len()).any(|window| window == wanted) {
            break;
        }
    }
    assert!(broker.stats().feed_restarts >= 1);
}
