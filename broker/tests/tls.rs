//! TLS: who is there without a password, and who does not get on with it.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::net::SocketAddr;

use broker::session::Limits;
use broker::{Listener, ToCore};
use support::authority::Authority;
use support::{PATIENCE, World, connect, packet, publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

async fn world(authority: &Authority) -> World {
    let listener = Listener::Tls { address: "0.0.0.0:0".parse().unwrap(), config: authority.tls() };
    World::start_with(|config| {
        config.limits = Limits::default();
        config.listeners = vec![listener];
        config.handshake_timeout_ms = 300;
    })
    .await
}

fn local(world: &World) -> SocketAddr {
    SocketAddr::new("127.0.0.1".parse().unwrap(), world.address().port())
}

#[tokio::test]
async fn a_client_certificate_or_a_token_says_who_it_is() {
    let authority = Authority::new();
    let mut world = world(&authority).await;
    let mut by_token = authority.dial(local(&world), false).await;
    by_token.send(&connect(5, "c", "acme/till", 0)).await;
    assert_eq!(by_token.receive().await[3], 0);
    let credentials = |message| match message {
        ToCore::Connect { credentials, .. } => Some(credentials),
        _ => None,
    };
    assert_eq!(world.until(credentials).await.client_certificate, None);

    let mut by_certificate = authority.dial(local(&world), true).await;
    by_certificate.send(&packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01c")).await;
    assert_eq!(by_certificate.receive().await, packet(0x20, &[0, 0]));
    let credentials = world.until(credentials).await;
    assert!(
        credentials.username.is_none() && credentials.client_certificate.is_some_and(|der| der[0] == 0x30)
    );
    for id in 1..=100 {
        by_certificate.send(&publish(4, id, "ft/acme/by-certificate/up/cloud-time", &[0; 4000])).await;
        assert_eq!(by_certificate.receive().await, packet(0x40, &id.to_be_bytes()));
    }
}

/// rumqttd serves TLS handshakes one by one: there, one idle socket blocks every new client.
#[tokio::test]
async fn idle_and_false_handshakes_hold_up_nobody_and_end() {
    let authority = Authority::new();
    let world = world(&authority).await;
    let mut idle = TcpStream::connect(local(&world)).await.unwrap();
    let mut plain = TcpStream::connect(local(&world)).await.unwrap();
    plain.write_all(&connect(5, "c", "acme/till", 0)).await.unwrap();
    let mut client = authority.dial(local(&world), false).await;
    client.send(&connect(5, "c", "acme/till", 0)).await;
    assert_eq!(client.receive().await[3], 0);
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, idle.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.is_empty());
    let _ = timeout(PATIENCE, plain.read_to_end(&mut rest)).await.unwrap();
    while world.broker.stats().handshakes_failed < 2 {
        tokio::task::yield_now().await;
    }
}

/// The time limit of a handshake is longer than this test's patience: were handshakes served one after the other, the
/// good client would never get through.
#[tokio::test]
async fn a_hundred_half_open_handshakes_delay_nobody() {
    let authority = Authority::new();
    let listener = Listener::Tls { address: "127.0.0.1:0".parse().unwrap(), config: authority.tls() };
    let world = World::start_with(|config| {
        config.listeners = vec![listener];
        config.handshake_timeout_ms = 600_000;
    })
    .await;
    let mut half_open = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        // The beginning of a ClientHello: record, version, a length that never comes.
        stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..number % 12]).await.unwrap();
        half_open.push(stream);
    }
    let mut client = timeout(PATIENCE, authority.dial(world.address(), true)).await.unwrap();
    client.send(&packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01c")).await;
    assert_eq!(client.receive().await, packet(0x20, &[0, 0]));
    assert_eq!(world.broker.stats().connections_open, 101);
    assert_eq!(world.broker.stats().handshakes_failed, 0, "they are all still there");
}

#[tokio::test]
async fn new_certificates_are_for_new_connections_and_established_ones_stay() {
    let (before, after) = (Authority::new(), Authority::new());
    let (replace, config) = watch::channel(before.server());
    let listener = Listener::Tls { address: "127.0.0.1:0".parse().unwrap(), config };
    let world = World::start_with(|config| config.listeners = vec![listener]).await;
    let mut established = before.dial(world.address(), true).await;
    established.send(&packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01c")).await;
    assert_eq!(established.receive().await, packet(0x20, &[0, 0]));
    assert!(after.handshake(world.address(), true).await.is_err());

    replace.send_replace(after.server());
    assert!(before.handshake(world.address(), true).await.is_err());
    let mut new = after.dial(world.address(), true).await;
    new.send(&packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01d")).await;
    assert_eq!(new.receive().await, packet(0x20, &[0, 0]));
    established.send(&packet(0xC0, &[])).await;
    assert_eq!(established.receive().await, packet(0xD0, &[]));
}
