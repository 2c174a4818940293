//! What a peer sees, packet by packet, in both versions.

mod conformance_connect;
mod conformance_delivery;
mod conformance_packets;
mod delivery;
mod observers;
mod properties;

use schemas::ids::{MessageId, Principal};
use schemas::topic::Kind;

use crate::*;

const V3: Version = Version::V3_1_1;
const V5: Version = Version::V5;
const WHO: &str = "acme/chip-7";

fn who() -> Principal {
    WHO.parse().unwrap()
}

fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![first];
    let mut length = body.len();
    while length >= 128 {
        out.push(0x80 | (length % 128) as u8);
        length /= 128;
    }
    out.push(length as u8);
    out.extend(body);
    out
}

/// Everything that a CONNECT may vary.
struct Hello<'a> {
    version: Version,
    client_id: &'a str,
    clean: bool,
    keep_alive_s: u16,
    /// MQTT 5
    properties: &'a [u8],
    will: Option<(&'a str, &'a [u8], u8)>,
}

impl Default for Hello<'_> {
    fn default() -> Self {
        Hello { version: V5, client_id: "c", clean: true, keep_alive_s: 0, properties: &[], will: None }
    }
}

impl Hello<'_> {
    fn bytes(&self) -> Vec<u8> {
        let v5 = self.version == V5;
        let mut flags = 0b1100_0000 | if self.clean { 2 } else { 0 };
        let mut will = Vec::new();
        if let Some((topic, payload, qos)) = self.will {
            flags |= 0b100 | (qos << 3);
            will = [if v5 { vec![0] } else { vec![] }, text(topic), binary(payload)].concat();
        }
        let properties = match v5 {
            true => [&[self.properties.len() as u8], self.properties].concat(),
            false => vec![],
        };
        packet(
            0x10,
            &[
                &text("MQTT"),
                &[if v5 { 5 } else { 4 }, flags],
                &self.keep_alive_s.to_be_bytes(),
                &properties,
                &text(self.client_id),
                &will,
                &text(WHO),
                &text("token"),
            ],
        )
    }
}

fn publish(version: Version, packet_id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    publish_with(if packet_id == 0 { 0x30 } else { 0x32 }, version, packet_id, topic, &[], payload)
}

fn publish_with(
    first: u8,
    version: Version,
    id: u16,
    topic: &str,
    properties: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let id = if id == 0 { vec![] } else { id.to_be_bytes().to_vec() };
    let properties = if version == V5 { [&[properties.len() as u8], properties].concat() } else { vec![] };
    packet(first, &[&text(topic), &id, &properties, payload])
}

fn subscribe(version: Version, packet_id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let filters: Vec<u8> =
        filters.iter().flat_map(|(filter, qos)| [text(filter), vec![*qos]].concat()).collect();
    packet(0x82, &[&packet_id.to_be_bytes(), if version == V5 { &[0] } else { &[] }, &filters])
}

fn puback(packet_id: u16) -> Vec<u8> {
    packet(0x40, &[&packet_id.to_be_bytes()])
}

fn up(kind: &str) -> String {
    format!("ft/{WHO}/up/{kind}")
}

fn down(kind: &str) -> String {
    format!("ft/{WHO}/down/{kind}")
}

fn sent(session: &mut Session) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(more) = session.poll_transmit() {
        session.handle_transmitted(0, more.len());
        bytes.extend(more);
    }
    let mut packets = Vec::new();
    while let Some(frame) = crate::frame::split(&bytes, usize::MAX).unwrap() {
        let length = frame.length_bytes;
        packets.push(bytes.drain(..length).collect());
    }
    assert!(bytes.is_empty(), "half a packet: {bytes:?}");
    packets
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

fn opened_as(hello: &Hello<'_>, limits: Limits) -> Session {
    let mut session = Session::new(ConnectionId::new(1, 1), limits, 0);
    session.handle_bytes(0, &hello.bytes());
    assert!(matches!(events(&mut session)[..], [Event::Connect(_)]));
    assert!(sent(&mut session).is_empty(), "no CONNACK before the core has spoken");
    session.handle_standing(0, Ok(who()));
    let connack = sent(&mut session).remove(0);
    assert_eq!((connack[0], connack[2], connack[3]), (0x20, 0, 0));
    session
}

fn opened(version: Version) -> Session {
    opened_as(&Hello { version, ..Hello::default() }, Limits::default())
}

fn owed(sequence: u64, kind: Kind, payload: &[u8]) -> Owed {
    let message = MessageId::derived("t", &[&sequence.to_be_bytes()]);
    Owed { message, sequence, kind, payload: payload.to_vec(), expires_at_ms: 60_000 }
}

fn closed_with(session: &mut Session) -> Option<CloseReason> {
    events(session).into_iter().find_map(|event| match event {
        Event::Closed { reason } => Some(reason),
        _ => None,
    })
}

fn token_of(event: &Event) -> PublishToken {
    match event {
        Event::Publish { token, .. } => *token,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connack_of_version_5_says_what_is_offered() {
    let mut session = Session::new(ConnectionId::new(7, 9), Limits::default(), 0);
    let properties = [0x11, 0, 0, 1, 0];
    session.handle_bytes(0, &Hello { client_id: "", properties: &properties, ..Hello::default() }.bytes());
    let client_id = match events(&mut session).remove(0) {
        Event::Connect(connect) => connect.client_id,
        other => panic!("{other:?}"),
    };
    session.handle_standing(0, Ok(who()));
    let connack = sent(&mut session).remove(0);
    let (packet, _) = mqtt_protocol_core::mqtt::packet::v5_0::Connack::parse(&connack[2..]).unwrap();
    let properties: Vec<String> = packet.props().iter().map(ToString::to_string).collect();
    let properties = properties.join(" ");
    assert!(!packet.session_present());
    assert_eq!(client_id, "assigned-0000000700000009");
    for wanted in
        ["receive_maximum", "maximum_qos", "retain_available", "maximum_packet_size", "ft-ack", "durable"]
    {
        assert!(properties.contains(wanted), "{wanted}: {properties}");
    }
    assert!(
        properties.contains(&client_id) && properties.contains("session_expiry_interval"),
        "{properties}"
    );
}

#[test]
fn passwords_are_not_printed() {
    let mut session = Session::new(ConnectionId(1), Limits::default(), 0);
    session.handle_bytes(0, &Hello::default().bytes());
    let event = session.poll_event().unwrap();
    assert!(matches!(&event, Event::Connect(c) if c.password == Some(Secret(b"token".to_vec()))));
    assert!(!format!("{event:?} {session:?}").contains("token\""), "{event:?}");
    assert!(!format!("{event:?}").contains(&format!("{:?}", b"token")));
}

/// MQTT-3.2.2-8.
#[test]
fn refused_connects_get_the_code_of_their_version() {
    use ConnectRefusal as R;
    let elsewhere = R::UseAnotherServer { reference: "b:1".into() };
    for (refusal, v5, v3) in [
        (R::BadCredentials, 0x86, 4),
        (R::NotAuthorized, 0x87, 5),
        (R::ServerUnavailable, 0x88, 3),
        (R::ServerBusy, 0x89, 3),
        (R::Banned, 0x8A, 5),
        (R::QuotaExceeded, 0x97, 3),
        (R::ClientIdentifierNotValid, 0x85, 2),
        (elsewhere, 0x9C, 3),
    ] {
        for (version, code) in [(V5, v5), (V3, v3)] {
            let mut session = Session::new(ConnectionId(1), Limits::default(), 0);
            session.handle_bytes(0, &Hello { version, ..Hello::default() }.bytes());
            session.handle_standing(0, Err(refusal.clone()));
            let connack = sent(&mut session).remove(0);
            assert_eq!((connack[0], connack[2], connack[3]), (0x20, 0, code), "{refusal:?}");
            assert_eq!(closed_with(&mut session), Some(CloseReason::Refused(refusal.clone())));
        }
    }
}

/// MQTT-3.1.3-8, MQTT-3.2.2-12, MQTT-4.12.0-1; 3.1.1: MQTT-3.1.3-8, -9.
#[test]
fn connects_that_need_no_core_to_be_refused() {
    let long = "x".repeat(200);
    let authentication = [&[0x15][..], &text("SCRAM")].concat();
    let state = format!("ft/{WHO}/state");
    let hello = Hello::default;
    for (hello, code) in [
        (Hello { client_id: "", clean: false, version: V3, ..hello() }, 2),
        (Hello { client_id: &long, version: V3, ..hello() }, 2),
        (Hello { client_id: &long, ..hello() }, 0x85),
        (Hello { properties: &authentication, ..hello() }, 0x8C),
        (Hello { will: Some((&state, b"gone", 2)), ..hello() }, 0x9B),
        (Hello { properties: &[0x21, 0, 0], ..hello() }, 0x82),
    ] {
        let mut session = Session::new(ConnectionId(1), Limits::default(), 0);
        session.handle_bytes(0, &hello.bytes());
        assert_eq!(sent(&mut session).remove(0)[3], code);
        assert!(closed_with(&mut session).is_some());
    }
    for (level, code) in [(3, 1), (6, 0x84)] {
        let mut bytes = Hello::default().bytes();
        bytes[8] = level;
        let mut session = Session::new(ConnectionId(1), Limits::default(), 0);
        session.handle_bytes(0, &bytes);
        assert_eq!(sent(&mut session).remove(0)[3], code);
    }
}

/// PUBACK is a promise, and promises leave in the order of arrival (correctness.md 8; MQTT-2.2.1-5, MQTT-4.3.2-4).
#[test]
fn pubacks_leave_only_after_their_promise_and_in_the_order_of_arrival() {
    for version in [V3, V5] {
        let mut session = opened(version);
        let bytes: Vec<u8> =
            [7, 3, 9].iter().flat_map(|id| publish(version, *id, &up("health-check"), b"x")).collect();
        for byte in bytes {
            session.handle_bytes(0, &[byte]);
        }
        let tokens: Vec<PublishToken> = events(&mut session).iter().map(token_of).collect();
        assert!(sent(&mut session).is_empty());
        session.handle_promise(tokens[1], Promise::Kept);
        session.handle_promise(tokens[1], Promise::Refused(0x97));
        session.handle_promise(PublishToken(99), Promise::Kept);
        assert!(sent(&mut session).is_empty(), "the first is still waiting");
        session.handle_promise(tokens[0], Promise::Kept);
        assert_eq!(sent(&mut session), [puback(7), puback(3)]);
        session.handle_promise(tokens[2], Promise::Refused(0x97));
        let last = if version == V5 { packet(0x40, &[&[0, 9, 0x97]]) } else { puback(9) };
        assert_eq!(sent(&mut session), [last]);
        assert_eq!(session.counters().pubacks, 3);
    }
}

#[test]
fn publishes_that_are_not_permitted_are_acknowledged_in_their_turn_and_reported() {
    let cases: &[(String, &[u8], u8)] = &[
        ("ft/acme/chip-8/up/health-check".into(), &[], 0x87),
        ("ft/other/chip-7/state".into(), &[], 0x87),
        (down("health-check"), &[], 0x87),
        (up("request-answer"), &[], 0x90),
        (up("no-such-kind"), &[], 0x90),
        ("elsewhere".into(), &[], 0x90),
        ("é".into(), &[], 0x90),
        (up("health-check"), &[1, 1], 0x99),
    ];
    for (topic, properties, code) in cases {
        let mut session = opened(V5);
        session.handle_bytes(0, &publish(V5, 1, &up("health-check"), b"first"));
        session.handle_bytes(0, &publish_with(0x32, V5, 2, topic, properties, &[0xFF]));
        let got = events(&mut session);
        let refused = |refusal: &Refusal| refusal.code == *code && refusal.client_was_told;
        assert!(matches!(&got[1], Event::Refused(refusal) if refused(refusal)), "{topic}: {got:?}");
        assert!(sent(&mut session).is_empty(), "it waits for its turn");
        session.handle_promise(token_of(&got[0]), Promise::Kept);
        assert_eq!(sent(&mut session), [puback(1), packet(0x40, &[&[0, 2, *code]])], "{topic}");

        if properties.is_empty() {
            let mut session = opened(V3);
            session.handle_bytes(0, &publish(V3, 2, topic, b"x"));
            assert_eq!(sent(&mut session), [puback(2)], "3.1.1 has no codes");
            assert!(
                matches!(&events(&mut session)[..], [Event::Refused(refusal)] if !refusal.client_was_told)
            );
            assert!(!session.is_closed());
        }
    }
}

#[test]
fn refusals_are_reported_at_a_bounded_rate() {
    let limits = Limits { max_refusals_per_minute: 3, ..Limits::default() };
    let mut session = opened_as(&Hello { version: V3, ..Hello::default() }, limits);
    for id in 1..=10 {
        session.handle_bytes(0, &publish(V3, id, "elsewhere", b""));
    }
    assert_eq!(events(&mut session).len(), 3);
    session.handle_bytes(60_000, &publish(V3, 11, "elsewhere", b""));
    assert!(matches!(&events(&mut session)[..], [Event::Refused(refusal)] if refusal.suppressed == 7));
    assert_eq!(sent(&mut session).len(), 11, "every one is acknowledged");
}

/// MQTT-3.1.0-2, MQTT-3.3.1-2, MQTT-3.3.1-4, MQTT-4.13.1-1; 3.1.1: MQTT-4.8.0-1.
#[test]
fn protocol_errors_close_with_their_code() {
    let oversized = publish(V5, 1, &up("health-check"), &[0; 16_000]);
    let alias = publish_with(0x32, V5, 1, &up("health-check"), &[0x23, 0, 1], b"");
    let retained = publish_with(0x33, V5, 1, &up("health-check"), &[], b"");
    for (bytes, code) in [
        (publish_with(0x34, V5, 1, &up("health-check"), &[], b""), 0x9B),
        (retained, 0x9A),
        (alias, 0x94),
        (oversized, 0x95),
        (publish(V5, 1, "", b""), 0x82),
        (publish(V5, 1, "a\0b", b""), 0x81),
        (packet(0x36, &[&text("a"), &[0, 1, 0]]), 0x81),
        (packet(0x32, &[&text("a"), &[0, 0, 0]]), 0x81),
        (packet(0x38, &[&text("a"), &[0]]), 0x81),
        (packet(0x80, &[&[0, 1, 0], &text("a"), &[0]]), 0x81),
        (packet(0x82, &[&[0, 1, 0]]), 0x82),
        (packet(0x82, &[&[0, 0, 0], &text("a"), &[0]]), 0x81),
        (packet(0xC0, &[&[0]]), 0x81),
        (packet(0x00, &[]), 0x82),
        (packet(0xF0, &[]), 0x82),
        (packet(0x62, &[&[0, 1]]), 0x82),
        (packet(0x20, &[&[0, 0]]), 0x82),
        (Hello::default().bytes(), 0x82),
        (vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], 0x81),
    ] {
        let mut session = opened(V5);
        session.handle_bytes(0, &bytes);
        assert_eq!(sent(&mut session), [packet(0xE0, &[&[code]])], "{bytes:02X?}");
        let reason = closed_with(&mut session);
        assert!(matches!(reason, Some(CloseReason::Protocol(fault)) if fault.code == code), "{reason:?}");

        let mut session = opened(V3);
        session.handle_bytes(0, &publish_with(0x34, V3, 1, &up("health-check"), &[], b""));
        assert!(sent(&mut session).is_empty() && session.is_closed(), "3.1.1 servers only close");
    }
}

/// MQTT-3.3.4-7.
#[test]
fn more_than_the_receive_maximum_closes_version_5_and_holds_back_version_3() {
    let limits = Limits { receive_maximum: 2, ..Limits::default() };
    let three: fn(Version) -> Vec<u8> =
        |version| (1..=3).flat_map(|id| publish(version, id, &up("health-check"), b"x")).collect();

    let mut session = opened_as(&Hello::default(), limits.clone());
    session.handle_bytes(0, &three(V5));
    assert_eq!(sent(&mut session), [packet(0xE0, &[&[0x93]])]);

    let mut session = opened_as(&Hello { version: V3, keep_alive_s: 1, ..Hello::default() }, limits);
    session.handle_bytes(0, &three(V3));
    let got = events(&mut session);
    assert_eq!(got.len(), 2);
    assert!(!session.wants_bytes());
    session.handle_timeout(100_000);
    assert!(!session.is_closed(), "its silence is ours");
    session.handle_promise(token_of(&got[0]), Promise::Kept);
    assert_eq!(events(&mut session).len(), 1, "the third was waiting");
    assert_eq!(sent(&mut session), [puback(1)]);
}

#[test]
fn a_packet_identifier_in_use_is_a_repetition_in_version_3_and_an_error_in_version_5() {
    let mut session = opened(V3);
    session.handle_bytes(0, &publish(V3, 1, &up("health-check"), b"x"));
    session.handle_bytes(0, &publish_with(0x3A, V3, 1, &up("health-check"), &[], b"x"));
    let got = events(&mut session);
    assert_eq!(got.len(), 1);
    session.handle_promise(token_of(&got[0]), Promise::Kept);
    assert_eq!(sent(&mut session), [puback(1)]);
    session.handle_bytes(0, &publish(V3, 1, &up("health-check"), b"y"));
    assert_eq!(events(&mut session).len(), 1, "free again after its PUBACK");

    let mut session = opened(V5);
    session.handle_bytes(0, &publish(V5, 1, &up("health-check"), b"x"));
    session.handle_bytes(0, &publish(V5, 1, &up("health-check"), b"x"));
    assert_eq!(sent(&mut session), [packet(0xE0, &[&[0x82]])]);
}

/// PL-1: the right to subscribe follows from the authenticated identity. MQTT-3.8.4-1, -2, -5 to -7, MQTT-3.9.3-1, -2.
#[test]
fn filters_are_granted_one_by_one() {
    let cases = [
        (down("health-check"), 1, 1),
        (down("+"), 0, 0),
        (down("#"), 2, 1),
        ("ft/acme/chip-8/down/#".to_owned(), 1, 0x87),
        (format!("ft/{WHO}/#"), 1, 0x87),
        (up("#"), 1, 0x87),
        ("#".to_owned(), 1, 0x87),
        ("+/+/+/down/+".to_owned(), 1, 0x87),
        ("ft/acme/+/down/#".to_owned(), 1, 0x87),
    ];
    let filters: Vec<(&str, u8)> = cases.iter().map(|(filter, qos, _)| (filter.as_str(), *qos)).collect();
    let mut session = opened(V5);
    session.handle_bytes(0, &subscribe(V5, 5, &filters));
    let codes: Vec<u8> = cases.iter().map(|(_, _, code)| *code).collect();
    assert_eq!(sent(&mut session), [packet(0x90, &[&[0, 5, 0], &codes])]);
    let mut session = opened(V3);
    session.handle_bytes(0, &subscribe(V3, 5, &filters));
    let codes: Vec<u8> = codes.iter().map(|code| (*code).min(0x80)).collect();
    assert_eq!(sent(&mut session), [packet(0x90, &[&[0, 5], &codes])]);
    let got = events(&mut session);
    assert_eq!(got.iter().filter(|event| matches!(event, Event::Refused(_))).count(), 6);
    assert!(
        got.iter()
            .any(|event| matches!(event, Event::Subscribed { kinds } if kinds.contains(&Kind::Refused)))
    );
    assert_eq!(got.last(), Some(&Event::Pull { after_sequence: 0, max: 32 }), "delivery starts after SUBACK");
}

/// MQTT-3.10.4-4 to MQTT-3.10.4-6, MQTT-3.11.3-2.
#[test]
fn subscriptions_are_bounded_and_end_with_unsubscribe() {
    let mut session = opened_as(&Hello::default(), Limits { max_filters: 1, ..Limits::default() });
    let (one, two) = (down("health-check"), down("cloud-time"));
    session.handle_bytes(0, &subscribe(V5, 1, &[(&one, 1), (&two, 1), (&one, 0)]));
    assert_eq!(sent(&mut session), [packet(0x90, &[&[0, 1, 0], &[1, 0x97, 0]])]);
    session.handle_reply(Kind::CloudTime, b"t".to_vec());
    assert!(sent(&mut session).is_empty(), "not subscribed");
    session.handle_reply(Kind::HealthCheck, b"t".to_vec());
    assert_eq!(sent(&mut session), [publish(V5, 0, &one, b"t")]);
    session.handle_bytes(0, &packet(0xA2, &[&[0, 2, 0], &text(&one), &text(&two)]));
    assert_eq!(sent(&mut session), [packet(0xB0, &[&[0, 2, 0], &[0, 0x11]])]);
    session.handle_reply(Kind::HealthCheck, b"t".to_vec());
    assert!(sent(&mut session).is_empty());
}

/// MQTT-3.1.2-22, MQTT-3.2.2-22, MQTT-3.12.4-1; 3.1.1: MQTT-3.1.2-24.
#[test]
fn keep_alive_is_one_and_a_half_times_what_was_asked_and_zero_is_none() {
    let mut session = opened_as(&Hello { keep_alive_s: 10, ..Hello::default() }, Limits::default());
    session.handle_bytes(1_000, &packet(0xC0, &[]));
    assert_eq!(sent(&mut session), [packet(0xD0, &[])]);
    session.handle_bytes(9_000, &[0xC0]);
    assert_eq!(session.poll_timeout(), Some(16_000), "half a packet is no sign of life");
    session.handle_timeout(15_999);
    assert!(!session.is_closed());
    session.handle_reading(15_999, false);
    session.handle_timeout(20_000);
    session.handle_reading(20_000, true);
    assert_eq!(session.poll_timeout(), Some(35_000), "it rests while we do not read");
    session.handle_timeout(35_000);
    assert_eq!(sent(&mut session), [packet(0xE0, &[&[0x8D]])]);
    assert_eq!(closed_with(&mut session), Some(CloseReason::KeepAliveTimeout));
    assert_eq!(opened(V5).poll_timeout(), None);
}

#[test]
fn silence_before_connect_from_the_core_in_acknowledging_and_in_reading_all_end_the_connection() {
    let new = || Session::new(ConnectionId(1), Limits::default(), 0);
    let mut session = new();
    session.handle_timeout(session.poll_timeout().unwrap());
    assert_eq!(closed_with(&mut session), Some(CloseReason::ConnectTimeout));

    let mut session = new();
    session.handle_bytes(5_000, &Hello::default().bytes());
    assert_eq!(session.poll_timeout(), Some(7_000), "busy is said early");
    session.handle_timeout(7_000);
    assert_eq!(sent(&mut session)[0][3], 0x89);

    let mut session = opened(V5);
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    session.handle_owed(5_000, vec![owed(1, Kind::CloudTime, b"x")]);
    sent(&mut session);
    session.handle_timeout(34_999);
    assert!(!session.is_closed());
    session.handle_timeout(35_000);
    assert_eq!(closed_with(&mut session), Some(CloseReason::AcknowledgementTimeout));

    let mut session = opened(V5);
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    session.handle_owed(5_000, vec![owed(1, Kind::CloudTime, b"x")]);
    sent(&mut session);
    session.handle_reading(6_000, false);
    session.handle_timeout(90_000);
    session.handle_reading(90_000, true);
    assert_eq!(session.poll_timeout(), Some(120_000), "an acknowledgement that we do not read is not late");

    let mut session = opened(V3);
    session.handle_bytes(1_000, &packet(0xC0, &[]));
    let bytes = session.poll_transmit().unwrap();
    session.handle_transmitted(20_000, bytes.len() - 1);
    session.handle_timeout(49_999);
    assert!(!session.is_closed());
    session.handle_timeout(50_000);
    assert_eq!(closed_with(&mut session), Some(CloseReason::WriteTimeout));
}

#[test]
fn orders_of_the_core_reach_version_5_with_their_code() {
    use DisconnectReason as D;
    for (reason, code) in [
        (D::TakenOver, 0x8E),
        (D::ServerShuttingDown, 0x8B),
        (D::NotAuthorized, 0x87),
        (D::Administrative, 0x98),
    ] {
        let mut session = opened(V5);
        session.handle_disconnect(reason.clone());
        assert_eq!(sent(&mut session), [packet(0xE0, &[&[code]])]);
        assert_eq!(closed_with(&mut session), Some(CloseReason::Disconnected(reason.clone())));
        let mut session = opened(V3);
        session.handle_disconnect(reason);
        assert!(sent(&mut session).is_empty() && session.is_closed());
    }
}

#[test]
fn wills_are_for_the_own_state_and_are_forgotten_by_a_proper_disconnect() {
    let state = format!("ft/{WHO}/state");
    let will = || Hello { will: Some((&state, b"gone", 1)), ..Hello::default() };
    let gone = Event::StateChanged { payload: b"gone".to_vec(), cause: StateCause::Will };
    for (end, said) in [(packet(0xE0, &[]), false), (packet(0xE0, &[&[4]]), true), (vec![0xFF, 0], true)] {
        let mut session = opened_as(&will(), Limits::default());
        session.handle_bytes(0, &end);
        assert_eq!(events(&mut session).contains(&gone), said, "{end:?}");
    }
    let mut session = opened_as(&will(), Limits::default());
    session.handle_connection_lost();
    session.handle_connection_lost();
    assert_eq!(events(&mut session), [gone, Event::Closed { reason: CloseReason::ConnectionLost }]);

    let mut session = Session::new(ConnectionId(1), Limits::default(), 0);
    session.handle_bytes(
        0,
        &Hello { will: Some(("ft/acme/chip-8/state", b"x", 0)), ..Hello::default() }.bytes(),
    );
    session.handle_standing(0, Ok(who()));
    assert_eq!(sent(&mut session)[0][3], 0x87);
    assert!(matches!(events(&mut session)[..], [Event::Connect(_), Event::Refused(_), Event::Closed { .. }]));
}

#[test]
fn own_state_is_acknowledged_at_once_and_may_be_retained_in_version_3() {
    for (version, first) in [(V3, 0x32), (V3, 0x33), (V5, 0x32)] {
        let mut session = opened(version);
        session.handle_bytes(0, &publish_with(first, version, 1, &format!("ft/{WHO}/state"), &[], b"up"));
        assert_eq!(sent(&mut session), [puback(1)]);
        assert_eq!(
            events(&mut session),
            [Event::StateChanged { payload: b"up".to_vec(), cause: StateCause::Published }]
        );
    }
}

#[test]
fn packets_behind_connect_wait_for_the_core() {
    let mut session = Session::new(ConnectionId(1), Limits::default(), 0);
    let hello = Hello { version: V3, ..Hello::default() }.bytes();
    session.handle_bytes(0, &[hello, publish(V3, 1, &up("cloud-time"), b"x")].concat());
    assert_eq!(events(&mut session).len(), 1);
    assert!(!session.wants_bytes());
    session.handle_standing(0, Ok(who()));
    assert!(matches!(events(&mut session)[..], [Event::Publish { .. }]));
    session.handle_standing(0, Err(ConnectRefusal::Banned));
    assert!(!session.is_closed(), "the second answer comes too late");
}

#[test]
fn acknowledgements_behind_many_publishes_make_room_for_more_deliveries() {
    let mut session = opened_as(&Hello::default(), Limits { max_in_flight: 1, ..Limits::default() });
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    events(&mut session);
    session.handle_owed(0, vec![owed(1, Kind::CloudTime, b"x")]);
    sent(&mut session);
    let publishes = publish(V5, 0, &up("cloud-time"), b"x").repeat(1_000);
    session.handle_bytes(0, &[publishes, puback(1)].concat());
    let got = events(&mut session);
    assert!(matches!(&got[1_000], Event::Acknowledged { .. }));
    assert_eq!(got.last(), Some(&Event::Pull { after_sequence: 1, max: 1 }));
}

#[test]
fn a_peer_that_does_not_read_is_not_read() {
    let limits = Limits { max_transmit_bytes: 64, ..Limits::default() };
    let mut session = opened_as(&Hello::default(), limits.clone());
    session.handle_bytes(0, &packet(0xC0, &[]).repeat(1000));
    assert!(!session.wants_bytes());
    assert!(session.buffered_bytes() < 3000);
    let mut pongs = 0;
    while let Some(bytes) = session.poll_transmit() {
        assert!(bytes.len() <= limits.max_transmit_bytes);
        pongs += bytes.len() / 2;
        session.handle_transmitted(0, bytes.len());
    }
    assert_eq!(pongs, 1000, "nothing is lost");
}

/// correctness.md 9: what a client has no room for is sent again on the same connection, as a new PUBLISH, and nothing else
/// waits for it.
#[test]
fn what_is_put_off_is_sent_again_later() {
    let mut session = opened_as(&Hello::default(), Limits { max_skipped: 0, ..Limits::default() });
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    events(&mut session);
    let all = |range: std::ops::RangeInclusive<u64>| range.map(|n| owed(n, Kind::CloudTime, b"x")).collect();
    session.handle_owed(0, all(1..=3));
    assert_eq!(sent(&mut session).len(), 4, "SUBACK and three deliveries");
    let put_off = |id: u8| packet(0x40, &[&[0, id, 0x97]]);
    session.handle_bytes(1_000, &[put_off(1), puback(2), put_off(3)].concat());
    assert_eq!(events(&mut session).len(), 3);
    session.handle_wake();
    session.handle_owed(1_000, all(4..=4));
    assert_eq!(sent(&mut session).len(), 1, "only the new one");
    session.handle_bytes(1_000, &puback(4));
    events(&mut session);
    assert_eq!(session.poll_timeout(), Some(6_000));
    session.handle_timeout(5_999);
    assert!(events(&mut session).is_empty());
    session.handle_timeout(6_000);
    assert_eq!(events(&mut session), [Event::Pull { after_sequence: 0, max: 32 }]);
    // The second was cleared; the third is not owed any more.
    session.handle_owed(6_000, vec![owed(1, Kind::CloudTime, b"x"), owed(4, Kind::CloudTime, b"x")]);
    let again = sent(&mut session);
    assert_eq!(again.len(), 1);
    assert!(again[0].ends_with(b"x") && again[0][0] == 0x32, "a new PUBLISH, without DUP");
    session.handle_bytes(6_500, &puback(5));
    events(&mut session);
    assert_eq!(session.poll_timeout(), opened(V5).poll_timeout(), "nothing is put off any more");
}
