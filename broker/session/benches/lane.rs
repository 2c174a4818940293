//! One connection without its socket: a PUBLISH, its promise, the PUBACK; and a delivery with its PUBACK.
//! `cargo bench -p broker-session --bench lane`

#![allow(clippy::disallowed_types, reason = "the list of benchmarks that divan keeps")]
#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use broker_session::{ConnectionId, Event, Limits, Owed, Promise, Session};
use divan::Bencher;
use schemas::ids::MessageId;
use schemas::topic::Kind;

const WHO: &str = "acme/chip-7";
const PAYLOAD: [u8; 128] = [0x42; 128];

fn main() {
    divan::main();
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// A packet with up to 16,383 bytes behind its fixed header.
fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u8::try_from(body.len() % 128).unwrap();
    let fixed = match body.len() / 128 {
        0 => vec![first, length],
        more => vec![first, length | 0x80, u8::try_from(more).unwrap()],
    };
    [fixed, body].concat()
}

fn publish(packet_id: u16) -> Vec<u8> {
    let topic = text(&format!("ft/{WHO}/up/health-check"));
    packet(0x32, &[&topic, &packet_id.to_be_bytes(), &[0], &PAYLOAD])
}

/// An MQTT 5 connection that is subscribed to all that it is owed.
fn opened() -> Session {
    let mut session = Session::new(ConnectionId::new(1, 1), Limits::default(), 0);
    let connect =
        [&text("MQTT")[..], &[5, 0b1100_0010, 0, 0, 0], &text("c"), &text(WHO), &text("token")].concat();
    session.handle_bytes(0, &packet(0x10, &[&connect]));
    assert!(matches!(session.poll_event(), Some(Event::Connect(_))));
    session.handle_standing(0, Ok(WHO.parse().unwrap()));
    let filter = text(&format!("ft/{WHO}/down/#"));
    session.handle_bytes(0, &packet(0x82, &[&[0, 1, 0], &filter, &[1]]));
    sent(&mut session);
    assert!(matches!(session.poll_event(), Some(Event::Subscribed { .. })));
    assert!(matches!(session.poll_event(), Some(Event::Pull { .. })));
    session.handle_owed(0, Vec::new());
    session
}

/// Everything that leaves.
fn sent(session: &mut Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(more) = session.poll_transmit() {
        session.handle_transmitted(0, more.len());
        bytes.extend(more);
    }
    bytes
}

#[divan::bench]
fn publish_promised_and_acknowledged(bencher: Bencher) {
    let (mut session, publish) = (opened(), publish(7));
    bencher.bench_local(|| {
        session.handle_bytes(0, &publish);
        let Some(Event::Publish { token, .. }) = session.poll_event() else { panic!("no publish") };
        session.handle_promise(token, Promise::Kept);
        assert_eq!(sent(&mut session), [0x40, 2, 0, 7]);
    });
}

#[divan::bench]
fn delivered_and_acknowledged(bencher: Bencher) {
    let (mut session, mut sequence) = (opened(), 0);
    bencher.bench_local(|| {
        sequence += 1;
        session.handle_wake();
        assert!(matches!(session.poll_event(), Some(Event::Pull { .. })));
        let message = MessageId([3; 16]);
        let owed = Owed {
            message,
            sequence,
            kind: Kind::HealthCheck,
            payload: PAYLOAD.to_vec(),
            expires_at_ms: 60_000,
        };
        session.handle_owed(0, vec![owed]);
        let delivery = sent(&mut session);
        // Behind the fixed header of three bytes and the topic.
        let at = 5 + usize::from(u16::from_be_bytes([delivery[3], delivery[4]]));
        session.handle_bytes(0, &packet(0x40, &[&delivery[at..at + 2]]));
        assert_eq!(session.poll_event(), Some(Event::Acknowledged { message, code: 0 }));
        while session.poll_event().is_some() {}
        session.handle_owed(0, Vec::new());
    });
}
