//! Overload is answered early: one connection too many, and a core that is busy.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use broker::{Broker, Clock, Config, Listener, ToCore};
use support::authority::Authority;
use support::{Client, PATIENCE, World, connect};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

const WHO: &str = "acme/chip-7";
/// `broker/src/surplus.rs`
const PLACES: usize = 64;

fn no_room(config: &mut Config) {
    config.max_connections = 0;
}

#[tokio::test]
async fn one_connection_too_many_is_told_in_both_versions_and_leaves_room_when_it_is_gone() {
    let mut world = World::start_with(|config| config.max_connections = 1).await;
    let first = world.connect(5, WHO, "first").await;
    for (version, code) in [(5, 0x89), (4, 3)] {
        let mut second = world.dial().await;
        second.send(&connect(version, "second", WHO, 60)).await;
        assert_eq!(second.receive().await[..4], [0x20, if version == 5 { 3 } else { 2 }, 0, code]);
        assert!(second.receive().await.is_empty(), "closed");
    }
    let mut nobody = world.dial().await;
    nobody.send(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(nobody.receive().await.is_empty(), "only a CONNECT has an answer");
    drop(first);
    let mut connects = 0;
    let count = |message| match message {
        ToCore::Connect { .. } => {
            connects += 1;
            None
        }
        ToCore::Closed { .. } => Some(()),
        _ => None,
    };
    world.until(count).await;
    assert_eq!(connects, 1, "the core does not hear of those who are turned away");
    while world.broker.stats().connections_open > 0 {
        tokio::task::yield_now().await;
    }
    world.connect(5, WHO, "second").await;
    let stats = world.broker.stats();
    assert_eq!((stats.connections_accepted, stats.connections_refused, stats.connections_told), (2, 3, 2));
}

#[tokio::test]
async fn it_is_told_over_tls_too() {
    let authority = Authority::new();
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::Tls { address, config: authority.tls() };
    let world = World::start_with(|config| {
        config.listeners = vec![listener];
        no_room(config);
    })
    .await;
    let mut client = authority.dial(world.address(), true).await;
    client.send(&connect(5, "c", WHO, 60)).await;
    assert_eq!(client.receive().await[3], 0x89);
}

#[tokio::test]
async fn who_drains_says_so() {
    let world = World::start_with(|_| {}).await;
    world.broker.drain(1, None);
    let mut client = world.dial().await;
    client.send(&connect(5, "c", WHO, 60)).await;
    assert_eq!(client.receive().await[3], 0x88);
    world.broker.undrain();
    world.connect(5, WHO, "c").await;
}

/// Those who say nothing keep their places for a while, but not for ever.
#[tokio::test]
async fn a_crowd_is_closed_without_a_word_beyond_the_places_that_there_are() {
    let world = World::start_with(no_room).await;
    let mut silent = Vec::new();
    for _ in 0..PLACES {
        silent.push(world.dial().await);
    }
    let mut surplus = world.dial().await;
    // It may be closed before all of this is written.
    let hello = connect(5, "c", WHO, 60);
    let _ = tokio::io::AsyncWriteExt::write_all(&mut surplus.stream, &hello).await;
    assert!(surplus.receive().await.is_empty());
    for client in &mut silent {
        assert!(client.receive().await.is_empty(), "closed in the end");
    }
    let told = async {
        loop {
            let mut client = world.dial().await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &hello).await;
            if client.receive().await.get(3) == Some(&0x89) {
                return;
            }
        }
    };
    timeout(PATIENCE, told).await.expect("places come back");
    assert_eq!(world.broker.stats().connections_told, 1);
}

/// However quickly they go: telling costs a known amount in each second.
#[tokio::test]
async fn no_more_are_told_in_a_second_than_there_are_places() {
    let world = World::start_with(no_room).await;
    let began = std::time::Instant::now();
    let mut told = 0;
    while told <= PLACES {
        let mut client = world.dial().await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &connect(5, "c", WHO, 60)).await;
        told += usize::from(client.receive().await.get(3) == Some(&0x89));
    }
    assert!(began.elapsed() >= std::time::Duration::from_secs(1), "{:?}", began.elapsed());
}

/// The core here is asleep, and its queue has one place: the first CONNECT waits in it, the second before it.
#[tokio::test]
async fn a_busy_core_is_said_early_and_need_not_judge_whom_nobody_waits_for() {
    let (sender, mut receiver) = mpsc::channel(1);
    let listeners = vec![Listener::Tcp { address: "127.0.0.1:0".parse().unwrap() }];
    let config = Config { listeners, clock: Clock::start(), ..Config::default() };
    let broker = Broker::start(config, sender).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let stream = TcpStream::connect(broker.addresses()[0]).await.unwrap();
        let mut client = Client { stream, buffer: Vec::new() };
        client.send(&connect(5, "c", WHO, 60)).await;
        clients.push(client);
        while broker.stats().bytes_in < clients.len() as u64 * connect(5, "c", WHO, 60).len() as u64 {
            tokio::task::yield_now().await;
        }
    }
    for client in &mut clients {
        assert_eq!(client.receive().await[3], 0x89);
        assert!(client.receive().await.is_empty());
    }
    let mut heard = Vec::new();
    while heard.iter().filter(|is_closed| **is_closed).count() < 2 {
        match timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap() {
            ToCore::Connect { .. } => heard.push(false),
            ToCore::Closed { .. } => heard.push(true),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, [false, true, true], "of the second only its end");
}
