//! The durable lane over real sockets, with a core that promises at once.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::net::SocketAddr;

use broker::session::{CloseReason, DisconnectReason, Limits, Rate};
use broker::{Broker, Config, FromCore, Listener, StartError, ToCore};
use schemas::topic::Kind;
use support::{PATIENCE, World, connect, packet, publish};
use tokio::sync::mpsc;
use tokio::time::timeout;

const WHO: &str = "acme/chip-7";
const UP: &str = "ft/acme/chip-7/up/health-check";
const DOWN: &str = "ft/acme/chip-7/down/#";

fn closed(message: ToCore) -> Option<CloseReason> {
    match message {
        ToCore::Closed { reason, .. } => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn a_publish_is_promised_and_what_is_owed_comes_back_in_both_versions() {
    let mut world = World::start(Limits::default()).await;
    for version in [4, 5] {
        let mut client = world.connect(version, WHO, "c").await;
        assert_eq!(client.subscribe(version, DOWN, 1).await, 1);
        client.send(&publish(version, 9, UP, b"ping")).await;
        assert_eq!(client.receive().await, packet(0x40, &[0, 9]));
        let delivered = client.receive().await;
        assert!(delivered[0] == 0x32 && delivered.ends_with(b"ping"), "{delivered:?}");
        client.send(&packet(0x40, &[0, 1])).await;
        world.until(|message| matches!(message, ToCore::Acknowledged { code: 0, .. }).then_some(())).await;
        client.send(&publish(version, 0, "ft/acme/chip-7/up/cloud-time", b"when")).await;
        assert!(client.receive().await.ends_with(b"when"));
        client.send(&packet(0xE0, &[])).await;
        assert_eq!(world.until(closed).await, CloseReason::PeerDisconnected);
    }
    assert_eq!(world.core.lock().unwrap().outbox_len(WHO), 0);
    let stats = world.broker.stats();
    assert_eq!((stats.publishes_in, stats.pubacks_out, stats.deliveries_out), (4, 2, 2));
    assert_eq!((stats.connections_accepted, stats.connections_refused), (2, 0));
}

#[tokio::test]
async fn what_was_not_acknowledged_is_delivered_again_on_the_next_connection_only() {
    let mut world = World::start(Limits::default()).await;
    let mut client = world.connect(5, WHO, "c").await;
    client.subscribe(5, DOWN, 1).await;
    for payload in [&b"one"[..], b"two"] {
        world.owe(WHO, Kind::ExecutorCommand, payload);
        assert!(client.receive().await.ends_with(payload));
    }
    client.send(&packet(0x40, &[0, 2])).await;
    world.until(|message| matches!(message, ToCore::Acknowledged { .. }).then_some(())).await;
    client.subscribe(5, "ft/acme/chip-7/down/+", 1).await;
    client.send(&packet(0xC0, &[])).await;
    assert_eq!(client.receive().await, packet(0xD0, &[]), "not again on this connection");
    drop(client);
    assert_eq!(world.until(closed).await, CloseReason::ConnectionLost);
    let mut client = world.connect(4, WHO, "c").await;
    client.subscribe(4, DOWN, 1).await;
    assert!(client.receive().await.ends_with(b"one"));
}

/// MQTT-3.1.4-3, MQTT-3.14.4-2.
#[tokio::test]
async fn a_second_connection_with_the_same_client_identifier_takes_over() {
    let mut world = World::start(Limits::default()).await;
    let mut first = world.connect(5, WHO, "c").await;
    let mut other = world.connect(5, WHO, "another").await;
    let _second = world.connect(4, WHO, "c").await;
    assert_eq!(first.receive().await, packet(0xE0, &[0x8E]));
    assert!(first.receive().await.is_empty(), "closed");
    assert_eq!(world.until(closed).await, CloseReason::Disconnected(DisconnectReason::TakenOver));
    other.send(&packet(0xC0, &[])).await;
    assert_eq!(other.receive().await, packet(0xD0, &[]), "another client identifier is another connection");
}

/// The write timeout is longer than this test's patience: it is not what ends the connection.
#[tokio::test]
async fn a_takeover_does_not_wait_for_a_blocked_write() {
    let mut world = World::start(Limits::default()).await;
    let mut first = world.connect(5, WHO, "c").await;
    first.subscribe(5, DOWN, 0).await;
    let question = publish(5, 0, "ft/acme/chip-7/up/cloud-time", &[7; 8000]);
    // Each question is answered with as many bytes, and nobody reads: at last the server stops reading, too. Should a
    // slow machine stop here too early, then the test proves less, but does not fail.
    let blocked = async {
        loop {
            tokio::io::AsyncWriteExt::write_all(&mut first.stream, &question).await.unwrap();
        }
    };
    let mut before = 0;
    let stalled = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let now = world.broker.stats().publishes_in;
            if now == before && now > 0 {
                return;
            }
            before = now;
        }
    };
    tokio::select! {
        () = stalled => {}
        () = blocked => {}
    }
    let _second = world.connect(5, WHO, "c").await;
    assert_eq!(world.until(closed).await, CloseReason::Disconnected(DisconnectReason::TakenOver));
}

#[tokio::test]
async fn wrong_credentials_are_refused_with_a_connack() {
    let mut world = World::start(Limits::default()).await;
    for (version, code) in [(4, 4), (5, 0x86)] {
        let mut client = world.dial().await;
        let mut hello = connect(version, "c", WHO, 0);
        *hello.last_mut().unwrap() ^= 1;
        client.send(&hello).await;
        assert_eq!(client.receive().await[3], code);
        assert!(client.receive().await.is_empty());
        assert!(matches!(world.until(closed).await, CloseReason::Refused(_)));
    }
}

/// MQTT-4.13.1-1: on a real socket.
#[tokio::test]
async fn a_client_that_breaks_the_protocol_ends_alone() {
    let mut world = World::start(Limits::default()).await;
    let mut good = world.connect(5, WHO, "good").await;
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 2, 0, 1], &[0x10, 0], &[0x10, 0xFF, 0xFF, 0xFF, 0x7F]]
    {
        let mut bad = world.dial().await;
        bad.send(bytes).await;
        assert!(bad.receive().await.is_empty());
        assert!(matches!(world.until(closed).await, CloseReason::Protocol(_)));
    }
    let mut bad = world.connect(5, WHO, "bad").await;
    bad.send(&packet(0x34, b"\0\x01a\0\x01\0")).await;
    assert_eq!(bad.receive().await, packet(0xE0, &[0x9B]));
    assert!(bad.receive().await.is_empty(), "closed");
    good.send(&publish(5, 1, "é/not/ours", b"x")).await;
    assert_eq!(good.receive().await, packet(0x40, &[0, 1, 0x90]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::await_holding_lock, reason = "the lock is what makes the core busy, and no task takes it")]
async fn a_busy_core_pushes_back_on_sockets_and_loses_nothing() {
    let world = World::start(Limits { receive_maximum: 8, ..Limits::default() }).await;
    let mut client = world.connect(4, WHO, "c").await;
    let busy = world.core.lock().unwrap();
    let stream: Vec<u8> = (1..=2000).flat_map(|id| publish(4, id, UP, b"x")).collect();
    client.send(&stream).await;
    while world.broker.stats().publishes_in < 8 {
        std::thread::yield_now();
    }
    assert_eq!(world.broker.stats().publishes_in, 8, "the rest stays in the socket");
    drop(busy);
    for id in 1..=2000u16 {
        assert_eq!(client.receive().await, packet(0x40, &id.to_be_bytes()));
    }
}

/// One thread: nothing drains the inbox while this test fills it.
#[tokio::test]
async fn a_connection_whose_inbox_overflows_is_closed_and_the_core_never_waits() {
    let mut world = World::start_with(|config| config.max_inbox_messages = 10).await;
    let mut client = world.connect(5, WHO, "c").await;
    client.subscribe(5, DOWN, 0).await;
    let connection = world.until(|message| match message {
        ToCore::Subscribed { connection, .. } => Some(connection),
        _ => None,
    });
    let connection = connection.await;
    world.until(|message| matches!(message, ToCore::Pull { .. }).then_some(())).await;
    // The answer to the pull is in the inbox by now; when the ping is answered it is out again.
    client.send(&packet(0xC0, &[])).await;
    assert_eq!(client.receive().await, packet(0xD0, &[]));
    let reply = FromCore::Reply { connection, kind: Kind::CloudTime, payload: b"now".to_vec() };
    let wake = FromCore::Wake { connection };
    world.broker.deliver_all(std::iter::repeat_n(wake, 100).chain(std::iter::repeat_n(reply, 11)));
    let reason = DisconnectReason::ServerBusy;
    assert_eq!(world.until(closed).await, CloseReason::Disconnected(reason));
    for _ in 0..10 {
        assert!(client.receive().await.ends_with(b"now"));
    }
    assert_eq!(client.receive().await, packet(0xE0, &[0x89]));
}

/// What is beyond is put off, and nobody else notices. Connections of one principal share, and a new connection is no
/// new allowance. In bytes, so that no time that this test takes pays anything back.
#[tokio::test]
async fn a_principal_beyond_its_rate_is_told_to_send_later_on_all_its_connections() {
    let slow = Rate { per_second: 1, burst: 2_000 };
    let world = World::start_with(|config| config.rates.bytes = slow).await;
    let (mut first, mut second) = (world.connect(5, WHO, "1").await, world.connect(5, WHO, "2").await);
    first.send(&publish(5, 1, UP, &[7; 1_000])).await;
    assert_eq!(first.receive().await, packet(0x40, &[0, 1]));
    for (id, answer) in [(2, &[0, 2][..]), (3, &[0, 3, 0x97])] {
        second.send(&publish(5, id, UP, &[7; 1_000])).await;
        assert_eq!(second.receive().await, packet(0x40, answer));
    }
    drop((first, second));
    let mut third = world.connect(5, WHO, "3").await;
    third.send(&publish(5, 1, UP, b"x")).await;
    assert_eq!(third.receive().await, packet(0x40, &[0, 1, 0x97]), "a debt outlives its connections");
    assert_eq!(world.broker.stats().publishes_put_off, 2);
    let mut other = world.connect(5, "acme/chip-8", "c").await;
    other.send(&publish(5, 1, "ft/acme/chip-8/up/health-check", b"x")).await;
    assert_eq!(other.receive().await, packet(0x40, &[0, 1]));
}

/// MQTT 3.1.1 has no code for "later": nothing is refused, nothing is lost, and it takes the time that it takes.
#[tokio::test]
async fn a_client_of_mqtt_3_beyond_its_rate_is_slowed_down_and_loses_nothing() {
    let slow = Rate { per_second: 200, burst: 50 };
    let world = World::start_with(|config| config.rates.packets = slow).await;
    let mut client = world.connect(4, WHO, "c").await;
    let began = std::time::Instant::now();
    for id in 1..=300u16 {
        client.send(&publish(4, id, UP, b"x")).await;
        assert_eq!(client.receive().await, packet(0x40, &id.to_be_bytes()));
    }
    // Two bursts pass at once; the other 200 packets take a second at least, however fast the machine.
    assert!(began.elapsed() >= std::time::Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(world.broker.stats().publishes_put_off, 0);
}

#[tokio::test]
async fn shutdown_tells_everyone_and_closes_every_socket() {
    let world = World::start(Limits::default()).await;
    let (mut new, mut old) = (world.connect(5, WHO, "5").await, world.connect(4, WHO, "4").await);
    timeout(PATIENCE, world.broker.shutdown()).await.unwrap();
    assert_eq!(new.receive().await, packet(0xE0, &[0x8B]));
    assert!(new.receive().await.is_empty() && old.receive().await.is_empty());
    assert_eq!(world.broker.stats().connections_open, 0);
    let refused = tokio::net::TcpStream::connect(world.address()).await;
    assert!(refused.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn errors_at_the_start_say_where_and_what_to_do() {
    let world = World::start(Limits::default()).await;
    let start = async |address: SocketAddr| {
        let config = Config { listeners: vec![Listener::Tcp { address }], ..Config::default() };
        Broker::start(config, mpsc::channel(1).0).await.unwrap_err()
    };
    let taken = start(world.address()).await;
    assert!(matches!(taken, StartError::AddressInUse { .. }));
    let text = taken.to_string();
    assert!(
        text.contains(&world.address().to_string()) && text.contains("configure another address"),
        "{text}"
    );
    let open = start("0.0.0.0:0".parse().unwrap()).await;
    assert!(matches!(open, StartError::NotLoopback { .. }) && open.to_string().contains("TLS"), "{open}");
}
