//! MQTT over WebSocket (MQTT 5, section 6), with tungstenite as the client.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::net::SocketAddr;

use broker::session::{CloseReason, Limits};
use broker::{Broker, Config, Listener, StartError, ToCore};
use futures_util::{SinkExt, StreamExt};
use support::authority::Authority;
use support::{PATIENCE, World, connect, packet, publish, subscribe};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

const WHO: &str = "acme/phone";
const UP: &str = "ft/acme/phone/up/status-request";
const DOWN: &str = "ft/acme/phone/down/#";

/// A client; its packets are received as the bytes of one stream, however they come in frames.
struct Client<S> {
    socket: WebSocketStream<S>,
    received: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn upgrade(stream: S, path: &str, subprotocols: &str) -> Result<Self, Error> {
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        if !subprotocols.is_empty() {
            request.headers_mut().insert("Sec-WebSocket-Protocol", subprotocols.parse().unwrap());
        }
        let upgrading = timeout(PATIENCE, tokio_tungstenite::client_async(request, stream));
        let (socket, answer) = upgrading.await.expect("the upgrade is not answered")?;
        assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "mqtt");
        Ok(Self { socket, received: Vec::new() })
    }

    async fn send(&mut self, bytes: &[u8]) {
        let sending = timeout(PATIENCE, self.socket.send(Message::binary(bytes.to_vec())));
        sending.await.expect("the server does not read").unwrap();
    }

    async fn next(&mut self) -> Option<Result<Message, Error>> {
        timeout(PATIENCE, self.socket.next()).await.expect("the server says nothing")
    }

    /// So many bytes.
    async fn receive(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            match self.next().await.expect("the server has closed").unwrap() {
                Message::Binary(bytes) => self.received.extend_from_slice(&bytes),
                other => panic!("not binary: {other:?}"),
            }
        }
        self.received.drain(..count).collect()
    }
}

fn closed(message: ToCore) -> Option<CloseReason> {
    match message {
        ToCore::Closed { reason, .. } => Some(reason),
        _ => None,
    }
}

async fn world() -> World {
    let listener = Listener::WebSocket { address: "127.0.0.1:0".parse().unwrap() };
    World::start_with(|config| config.listeners = vec![listener]).await
}

async fn dial(world: &World) -> Client<TcpStream> {
    let stream = TcpStream::connect(world.address()).await.unwrap();
    Client::upgrade(stream, "/mqtt", "mqtt").await.unwrap()
}

/// MQTT-6.0.0-2: nobody may assume that packets are aligned with frames.
#[tokio::test]
async fn packets_may_span_frames_and_frames_may_hold_many_packets() {
    let mut world = world().await;
    for version in [4, 5] {
        let mut client = dial(&world).await;
        for byte in connect(version, "c", WHO, 60) {
            client.send(&[byte]).await;
        }
        let connack = client.receive(2).await;
        client.receive(usize::from(connack[1])).await;
        client.send(&subscribe(version, 1, DOWN, 1)).await;
        assert_eq!(client.receive(2).await[0], 0x90);
        client.receive(if version == 5 { 4 } else { 3 }).await;

        // One frame, far longer than any packet may be.
        let all: Vec<u8> = (1..=100).flat_map(|id| publish(version, id, UP, &[7; 4000])).collect();
        assert!(all.len() > 40 * Limits::default().max_packet_bytes);
        client.send(&all).await;
        let promises: Vec<u8> = (1..=100u16).flat_map(|id| packet(0x40, &id.to_be_bytes())).collect();
        assert_eq!(client.receive(promises.len()).await, promises);

        client.send(&packet(0xE0, &[])).await;
        assert_eq!(world.until(closed).await, CloseReason::PeerDisconnected);
        match client.next().await {
            Some(Ok(Message::Close(Some(goodbye)))) => assert_eq!(goodbye.code, CloseCode::Normal),
            other => panic!("no goodbye: {other:?}"),
        }
    }
    assert_eq!(world.broker.stats().pubacks_out, 200);
}

/// MQTT-6.0.0-1: packets travel in binary frames; any other data frame ends the connection.
#[tokio::test]
async fn a_text_frame_ends_the_connection() {
    let mut world = world().await;
    let mut client = dial(&world).await;
    client.send(&connect(5, "c", WHO, 60)).await;
    client.receive(2).await;
    client.socket.send(Message::text("hello")).await.unwrap();
    loop {
        match client.next().await {
            Some(Ok(Message::Close(Some(goodbye)))) => {
                assert_eq!(goodbye.code, CloseCode::Unsupported);
                break;
            }
            Some(Ok(Message::Binary(_))) => {}
            other => panic!("no goodbye: {other:?}"),
        }
    }
    assert_eq!(world.until(closed).await, CloseReason::ConnectionLost);
}

#[tokio::test]
async fn pings_and_goodbyes_are_answered() {
    let mut world = world().await;
    let mut client = dial(&world).await;
    client.socket.send(Message::Ping("there?".into())).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("there?".into()));
    client.socket.close(None).await.unwrap();
    assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
    assert_eq!(world.until(closed).await, CloseReason::ConnectionLost);
}

/// MQTT-6.0.0-3 and -4: the client offers `mqtt`, the server chooses it.
#[tokio::test]
async fn an_upgrade_needs_the_subprotocol_and_the_path() {
    let world = world().await;
    let upgrade = async |path: &str, subprotocols: &str| {
        let stream = TcpStream::connect(world.address()).await.unwrap();
        match Client::upgrade(stream, path, subprotocols).await {
            Ok(_) => 101,
            Err(Error::Http(answer)) => answer.status().as_u16(),
            Err(other) => panic!("{other}"),
        }
    };
    for (path, subprotocols, status) in [
        ("/mqtt", "mqtt", 101),
        ("", "mqtt", 101),
        ("/mqtt?x=1", "chat, mqtt", 101),
        ("/mqtt", "mqttv3.1,mqtt", 101),
        ("/mqtt", "", 400),
        ("/mqtt", "mqttv3.1", 400),
        ("/mqtt", "MQTT", 400),
        ("/console", "mqtt", 404),
    ] {
        assert_eq!(upgrade(path, subprotocols).await, status, "{path} {subprotocols}");
    }
    while world.broker.stats().handshakes_failed < 4 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn over_tls_a_token_or_a_certificate_says_who_it_is() {
    let authority = Authority::new();
    let listener = Listener::WebSocketTls { address: "0.0.0.0:0".parse().unwrap(), config: authority.tls() };
    let mut world = World::start_with(|config| config.listeners = vec![listener]).await;
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), world.address().port());
    let credentials = |message| match message {
        ToCore::Connect { credentials, .. } => Some(credentials),
        _ => None,
    };
    let stream = authority.handshake(address, false).await.unwrap();
    let mut by_token = Client::upgrade(stream, "/mqtt", "mqtt").await.unwrap();
    by_token.send(&connect(4, "c", WHO, 60)).await;
    assert_eq!(by_token.receive(4).await, packet(0x20, &[0, 0]));
    assert_eq!(world.until(credentials).await.client_certificate, None);

    let stream = authority.handshake(address, true).await.unwrap();
    let mut by_certificate = Client::upgrade(stream, "/mqtt", "mqtt").await.unwrap();
    by_certificate.send(&packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01c")).await;
    assert_eq!(by_certificate.receive(4).await, packet(0x20, &[0, 0]));
    assert!(world.until(credentials).await.client_certificate.is_some());
    for id in 1..=100 {
        by_certificate.send(&publish(4, id, "ft/acme/by-certificate/up/cloud-time", &[0; 4000])).await;
        assert_eq!(by_certificate.receive(4).await, packet(0x40, &id.to_be_bytes()));
    }
}

/// Peers that stop in TLS, in the head of HTTP, or never begin.
async fn half_open(
    authority: &Authority,
    address: SocketAddr,
    each: usize,
) -> Vec<Box<dyn AsyncRead + Unpin>> {
    let mut peers: Vec<Box<dyn AsyncRead + Unpin>> = Vec::new();
    for _ in 0..each {
        peers.push(Box::new(TcpStream::connect(address).await.unwrap()));
        let mut hello = TcpStream::connect(address).await.unwrap();
        hello.write_all(&[0x16, 3, 1]).await.unwrap();
        peers.push(Box::new(hello));
        let mut head = authority.handshake(address, false).await.unwrap();
        head.write_all(b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: webso").await.unwrap();
        peers.push(Box::new(head));
    }
    peers
}

/// The time limit is longer than this test's patience: whoever waited for another would never get through.
#[tokio::test]
async fn half_open_upgrades_delay_nobody() {
    let authority = Authority::new();
    let listener =
        Listener::WebSocketTls { address: "127.0.0.1:0".parse().unwrap(), config: authority.tls() };
    let world = World::start_with(|config| {
        config.listeners = vec![listener];
        config.handshake_timeout_ms = 600_000;
    })
    .await;
    let _peers = half_open(&authority, world.address(), 20).await;
    let stream = authority.handshake(world.address(), false).await.unwrap();
    let mut client = Client::upgrade(stream, "/mqtt", "mqtt").await.unwrap();
    client.send(&connect(4, "c", WHO, 60)).await;
    assert_eq!(client.receive(4).await, packet(0x20, &[0, 0]));
    assert_eq!(world.broker.stats().handshakes_failed, 0, "they are all still there");
}

#[tokio::test]
async fn half_open_upgrades_end_in_time() {
    let authority = Authority::new();
    let listener =
        Listener::WebSocketTls { address: "127.0.0.1:0".parse().unwrap(), config: authority.tls() };
    let world = World::start_with(|config| {
        config.listeners = vec![listener];
        config.handshake_timeout_ms = 300;
    })
    .await;
    for mut peer in half_open(&authority, world.address(), 3).await {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, peer.read_to_end(&mut rest)).await.expect("it is kept for ever");
        assert!(rest.is_empty());
    }
    while world.broker.stats().connections_open > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.broker.stats().handshakes_failed, 9);
}

#[tokio::test]
async fn without_tls_it_stays_on_loopback() {
    let listeners = vec![Listener::WebSocket { address: "0.0.0.0:0".parse().unwrap() }];
    let refused = Broker::start(Config { listeners, ..Config::default() }, mpsc::channel(1).0).await;
    assert!(matches!(refused, Err(StartError::NotLoopback { .. })));
}
