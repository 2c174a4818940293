//! MQTT 5, statement by statement: what a client is sent, how a connection ends, and wills. The list of all statements
//! is `tests/mqtt5-statements.md`.

use super::*;
use crate::delivery::Delivery;

fn unsubscribe(packet_id: u8, filter: &str) -> Vec<u8> {
    packet(0xA2, &[&[0, packet_id, 0], &text(filter)])
}

fn subscribe_as(packet_id: u8, identifier: Option<u8>, filter: &str, options: u8) -> Vec<u8> {
    let properties = identifier.map_or(vec![0], |identifier| vec![2, 0x0B, identifier]);
    packet(0x82, &[&[0, packet_id], &properties, &text(filter), &[options]])
}

/// MQTT-3.3.4-2, MQTT-3.3.4-3, MQTT-3.3.4-4, MQTT-3.8.4-3, MQTT-3.8.4-4, MQTT-3.8.4-8, MQTT-3.10.4-1, MQTT-3.10.4-2:
/// `down/+` and `down/#` mean the same here, and are two subscriptions nevertheless.
#[test]
fn filters_are_told_apart_character_by_character() {
    let (plus, hash, time) = (down("+"), down("#"), down("cloud-time"));
    let mut session = opened(V5);
    let mut next = 0;
    let mut delivered = |session: &mut Session| {
        next += 1;
        session.handle_wake();
        events(session);
        session.handle_owed(0, vec![owed(next, Kind::CloudTime, b"x")]);
        let packets = sent(session);
        let publish = packets.last().unwrap();
        assert_eq!(
            packets.iter().filter(|packet| packet[0] >> 4 == 3).count(),
            1,
            "one copy: {packets:02X?}"
        );
        let id = if publish[0] == 0x32 { 2 } else { 0 };
        let properties = &publish[2 + 2 + time.len() + id..];
        let identifiers = properties[6..=usize::from(properties[0])].chunks(2).map(|pair| pair[1]).collect();
        if id > 0 {
            session.handle_bytes(0, &packet(0x40, &[&publish[2 + 2 + time.len()..][..2]]));
        }
        (publish[0], identifiers)
    };
    session.handle_bytes(0, &subscribe_as(1, Some(1), &plus, 0));
    assert_eq!(delivered(&mut session), (0x30, vec![1]));
    session.handle_bytes(0, &subscribe_as(2, Some(2), &hash, 1));
    assert_eq!(delivered(&mut session), (0x32, vec![1, 2]), "the best QoS, and every identifier");
    session.handle_bytes(0, &subscribe_as(3, Some(2), &time, 0));
    assert_eq!(delivered(&mut session), (0x32, vec![1, 2, 2]));
    session.handle_bytes(0, &subscribe_as(4, None, &hash, 0));
    assert_eq!(delivered(&mut session), (0x30, vec![1, 2]), "replaced: with QoS 0, without an identifier");
    session.handle_bytes(0, &unsubscribe(5, &plus));
    assert_eq!(sent(&mut session).pop(), Some(vec![0xB0, 4, 0, 5, 0, 0]));
    assert_eq!(delivered(&mut session), (0x30, vec![2]));
    session.handle_bytes(0, &unsubscribe(6, &time));
    session.handle_bytes(0, &unsubscribe(7, &plus));
    assert_eq!(sent(&mut session).pop(), Some(vec![0xB0, 4, 0, 7, 0, 0x11]), "it was deleted");
    assert_eq!(delivered(&mut session), (0x30, vec![]));
    session.handle_bytes(0, &unsubscribe(8, &hash));
    sent(&mut session);
    session.handle_reply(Kind::CloudTime, b"t".to_vec());
    assert!(sent(&mut session).is_empty());
}

/// MQTT-3.10.4-3.
#[test]
fn unsubscribe_completes_what_is_on_its_way() {
    let mut session = opened(V5);
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    let message = owed(1, Kind::CloudTime, b"x");
    session.handle_owed(0, vec![message.clone()]);
    session.handle_bytes(0, &unsubscribe(2, &down("#")));
    events(&mut session);
    session.handle_bytes(0, &puback(1));
    assert_eq!(events(&mut session), [Event::Acknowledged { message: message.message, code: 0 }]);
}

/// MQTT-2.2.1-4, MQTT-4.3.2-1: over every identifier there is, with one that is never acknowledged.
#[test]
fn packet_identifiers_of_deliveries_are_never_0_and_never_in_use() {
    let mut delivery = Delivery::new(3, 0);
    let message = MessageId::derived("t", &[b"m"]);
    let kept = delivery.free_packet_id();
    delivery.sent(kept, 1, message, 0);
    for _ in 0..140_000 {
        let packet_id = delivery.free_packet_id();
        assert!(packet_id != 0 && packet_id != kept);
        delivery.sent(packet_id, 1, message, 0);
        assert!(delivery.acknowledged(packet_id).is_some());
    }
}

/// MQTT-3.3.4-10, MQTT-4.9.0-3: with a full window, everything else goes on.
#[test]
fn a_full_window_holds_back_nothing_but_deliveries() {
    let properties = [0x21, 0, 1];
    let mut session = opened_as(&Hello { properties: &properties, ..Hello::default() }, Limits::default());
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    session.handle_owed(0, vec![owed(1, Kind::CloudTime, b"x"), owed(2, Kind::CloudTime, b"y")]);
    sent(&mut session);
    events(&mut session);
    let state = publish(V5, 9, &format!("ft/{WHO}/state"), b"up");
    session.handle_bytes(0, &[packet(0xC0, &[]), state, subscribe(V5, 2, &[("elsewhere", 0)])].concat());
    session.handle_bytes(0, &unsubscribe(3, "elsewhere"));
    session.handle_reply(Kind::CloudTime, b"t".to_vec());
    let firsts: Vec<u8> = sent(&mut session).iter().map(|packet| packet[0]).collect();
    assert_eq!(firsts, [0xD0, 0x40, 0x90, 0xB0, 0x30]);
}

/// MQTT-4.6.0-5, MQTT-4.6.0-6: over several pulls.
#[test]
fn messages_of_a_topic_leave_in_the_order_of_their_sequence() {
    let all: Vec<Owed> =
        (1..=40).map(|sequence| owed(sequence, Kind::CloudTime, &[sequence as u8])).collect();
    let limits = Limits { max_in_flight: 3, ..Limits::default() };
    let mut session = opened_as(&Hello::default(), limits);
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    let mut received = Vec::new();
    while received.len() < all.len() {
        for event in events(&mut session) {
            if let Event::Pull { after_sequence, max } = event {
                let entries = all.iter().filter(|owed| owed.sequence > after_sequence).take(max);
                session.handle_owed(0, entries.cloned().collect());
            }
        }
        for packet in sent(&mut session).into_iter().filter(|packet| packet[0] == 0x32) {
            received.push(u64::from(*packet.last().unwrap()));
            session.handle_bytes(0, &puback(u16::from(packet[2 + 2 + down("cloud-time").len() + 1])));
        }
    }
    assert!(received.iter().copied().eq(1..=40), "{received:?}");
}

/// MQTT-3.3.2-5, MQTT-3.3.2-6.
#[test]
fn the_message_expiry_interval_is_what_remains() {
    for (now_ms, left) in
        [(0, Some(60)), (10_000, Some(50)), (59_000, Some(1)), (60_000, None), (99_000, None)]
    {
        let mut session = opened(V5);
        session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
        sent(&mut session);
        session.handle_owed(now_ms, vec![owed(1, Kind::CloudTime, b"x")]);
        let wanted =
            left.map(|left| publish_with(0x32, V5, 1, &down("cloud-time"), &[2, 0, 0, 0, left], b"x"));
        assert_eq!(sent(&mut session), Vec::from_iter(wanted));
    }
}

/// MQTT-3.1.2-26, MQTT-3.1.2-27, MQTT-3.3.1-2, MQTT-3.3.1-3, MQTT-3.3.2-3, MQTT-3.3.2-11, MQTT-4.3.1-1, MQTT-4.3.2-2:
/// whole topics that match, DUP 0, RETAIN 0, whatever the client offered, and however its own publishes were marked.
#[test]
fn deliveries_have_no_topic_alias_no_dup_and_no_retain() {
    for properties in [&[][..], &[0x22, 0, 0], &[0x22, 0, 10]] {
        let mut session = opened_as(&Hello { properties, ..Hello::default() }, Limits::default());
        session.handle_bytes(0, &publish_with(0x3A, V5, 1, &up("cloud-time"), &[], b"x"));
        for options in [0, 1, 0b0000_1101, 0b0010_1101] {
            session.handle_bytes(0, &subscribe(V5, 2, &[(&down("cloud-time"), options)]));
            sent(&mut session);
            session.handle_reply(Kind::CloudTime, b"t".to_vec());
            session.handle_reply(Kind::HealthCheck, b"not subscribed".to_vec());
            assert_eq!(sent(&mut session), [publish(V5, 0, &down("cloud-time"), b"t")]);
        }
        session.handle_owed(0, vec![owed(1, Kind::CloudTime, b"x"), owed(2, Kind::HealthCheck, b"y")]);
        let wanted = publish_with(0x32, V5, 1, &down("cloud-time"), &[2, 0, 0, 0, 60], b"x");
        assert_eq!(sent(&mut session), [wanted]);
    }
}

/// MQTT-3.1.2-25: a message that is too large is as good as delivered, and those behind it are not held up.
#[test]
fn a_message_that_the_client_would_not_accept_holds_up_nobody() {
    let properties = [0x27, 0, 0, 0, 60, 0x21, 0, 1];
    let mut session = opened_as(&Hello { properties: &properties, ..Hello::default() }, Limits::default());
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    sent(&mut session);
    events(&mut session);
    let (large, small) = (owed(1, Kind::CloudTime, &[0; 60]), owed(2, Kind::CloudTime, b"y"));
    session.handle_owed(0, vec![large.clone()]);
    assert!(sent(&mut session).is_empty());
    assert_eq!(
        events(&mut session),
        [
            Event::Acknowledged { message: large.message, code: 0x95 },
            Event::Pull { after_sequence: 1, max: 1 }
        ]
    );
    session.handle_owed(0, vec![small]);
    assert_eq!(sent(&mut session).len(), 1);
    session.handle_reply(Kind::CloudTime, vec![0; 60]);
    assert!(sent(&mut session).is_empty());
    session.handle_disconnect(DisconnectReason::UseAnotherServer { reference: "x".repeat(60) });
    assert_eq!(sent(&mut session), [[0xE0, 1, 0x9C]], "without the reference, which would not fit");
}

fn with_will(properties: &[u8], will_properties: &[u8], keep_alive_s: u16) -> Session {
    let state = text(&format!("ft/{WHO}/state"));
    let will = [&[will_properties.len() as u8], will_properties, &state, &binary(b"gone")].concat();
    let [high, low] = keep_alive_s.to_be_bytes();
    let hello = packet(
        0x10,
        &[&text("MQTT"), &[5, 0b0000_1110, high, low, properties.len() as u8], properties, &text("c"), &will],
    );
    let mut session = Session::new(ConnectionId(1), Limits::default(), 0);
    session.handle_bytes(0, &hello);
    session
}

/// MQTT-3.1.2-7, MQTT-3.1.2-8, MQTT-3.1.2-10, MQTT-3.1.2-14, MQTT-3.1.2-22, MQTT-3.1.3-9, MQTT-3.14.4-3: said once after
/// every end but DISCONNECT 0x00. As the session ends with the connection, a Will Delay Interval delays nothing.
#[test]
fn the_will_is_said_once_unless_the_client_took_its_leave() {
    type End = (fn(&mut Session), bool);
    let ends: &[End] = &[
        (|session| session.handle_bytes(0, &packet(0xE0, &[])), false),
        (|session| session.handle_bytes(0, &packet(0xE0, &[&[0]])), false),
        (|session| session.handle_bytes(0, &packet(0xE0, &[&[0, 0]])), false),
        (|session| session.handle_bytes(0, &packet(0xE0, &[&[0, 5, 0x11, 0, 0, 0, 0]])), false),
        (|session| session.handle_bytes(0, &packet(0xE0, &[&[4]])), true),
        (|session| session.handle_bytes(0, &packet(0xE0, &[&[0x80]])), true),
        (|session| session.handle_bytes(0, &packet(0xE0, &[&[0, 5, 0x11, 0, 0, 0, 1]])), true),
        (|session| session.handle_bytes(0, &packet(0xE1, &[])), true),
        (|session| session.handle_bytes(0, &packet(0x00, &[])), true),
        (|session| session.handle_connection_lost(), true),
        (|session| session.handle_timeout(15_000), true),
        (|session| session.handle_disconnect(DisconnectReason::TakenOver), true),
        (|session| session.handle_disconnect(DisconnectReason::ServerShuttingDown), true),
    ];
    for will_properties in [&[][..], &[0x18, 0, 0, 14, 16], &[0x01, 1, 0x02, 0, 0, 0, 9]] {
        for (index, (end, said)) in ends.iter().enumerate() {
            let mut session = with_will(&[], will_properties, 10);
            session.handle_standing(0, Ok(who()));
            events(&mut session);
            end(&mut session);
            session.handle_connection_lost();
            let wills = events(&mut session)
                .into_iter()
                .filter(|event| matches!(event, Event::StateChanged { cause: StateCause::Will, .. }))
                .count();
            assert!(session.is_closed());
            assert_eq!(wills, usize::from(*said), "end {index}");
        }
    }
    for refuse in [
        |session: &mut Session| session.handle_connection_lost(),
        |session: &mut Session| {
            session.handle_standing(0, Err(ConnectRefusal::Banned));
        },
    ] {
        let mut session = with_will(&[], &[], 10);
        refuse(&mut session);
        assert!(
            matches!(events(&mut session)[..], [Event::Connect(_), Event::Closed { .. }]),
            "never accepted"
        );
    }
}

/// 3.14.2.2.2: a session that was to end with its connection cannot be prolonged by DISCONNECT.
#[test]
fn a_session_expiry_in_disconnect_needs_one_in_connect() {
    for (connect, disconnect, valid) in [
        (&[][..], &[0, 5, 0x11, 0, 0, 0, 1][..], false),
        (&[0x11, 0, 0, 0, 0], &[0, 5, 0x11, 0, 0, 0, 1], false),
        (&[0x11, 0, 0, 0, 9], &[0, 5, 0x11, 0, 0, 0, 1], true),
        (&[0x11, 0, 0, 0, 9], &[0, 5, 0x11, 0, 0, 0, 0], true),
        (&[], &[0, 5, 0x11, 0, 0, 0, 0], true),
    ] {
        let mut session = opened_as(&Hello { properties: connect, ..Hello::default() }, Limits::default());
        session.handle_bytes(0, &packet(0xE0, &[disconnect]));
        let wanted: &[Vec<u8>] = if valid { &[] } else { &[vec![0xE0, 1, 0x82]] };
        assert_eq!(sent(&mut session), wanted);
        assert_eq!(closed_with(&mut session) == Some(CloseReason::PeerDisconnected), valid);
    }
}

/// MQTT-3.14.2-1, MQTT-3.14.2-2, MQTT-3.14.2-3, MQTT-3.14.2-4, MQTT-3.14.4-1, MQTT-4.13.2-1.
#[test]
fn nothing_follows_disconnect_and_it_says_nothing_but_its_code() {
    use DisconnectReason as D;
    for (reason, code) in [
        (D::TakenOver, 0x8E),
        (D::ServerShuttingDown, 0x8B),
        (D::NotAuthorized, 0x87),
        (D::Administrative, 0x98),
        (D::ServerBusy, 0x89),
    ] {
        let mut session = opened(V5);
        session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
        session.handle_bytes(0, &publish(V5, 7, &up("cloud-time"), b"x"));
        let token = events(&mut session).iter().find_map(|event| match event {
            Event::Publish { token, .. } => Some(*token),
            _ => None,
        });
        sent(&mut session);
        session.handle_disconnect(reason);
        session.handle_promise(token.unwrap(), Promise::Kept);
        session.handle_owed(0, vec![owed(1, Kind::CloudTime, b"x")]);
        session.handle_reply(Kind::CloudTime, b"t".to_vec());
        session.handle_bytes(0, &packet(0xC0, &[]));
        session.handle_timeout(1_000_000);
        session.handle_disconnect(D::Administrative);
        assert_eq!(sent(&mut session), [[0xE0, 1, code]]);
    }
}
