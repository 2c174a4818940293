//! MQTT 5, statement by statement: how packets are written down, CONNECT and CONNACK. The list of all statements is
//! `tests/mqtt5-statements.md`; "3.1.1:" marks numbers of the older version.

use super::*;

const USER: u8 = 0b1000_0000;
const PASSWORD: u8 = 0b0100_0000;
const WILL: u8 = 0b0000_0100;

fn new() -> Session {
    Session::new(ConnectionId(1), Limits::default(), 0)
}

/// A CONNECT of which every part is free.
fn connect(version: Version, flags: u8, properties: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    let level = if version == V5 { 5 } else { 4 };
    let length = [u8::try_from(properties.len()).unwrap()];
    let properties = if version == V5 { [&length[..], properties].concat() } else { vec![] };
    packet(0x10, &[&text("MQTT"), &[level, flags, 0, 0], &properties, &payload.concat()])
}

/// Refused: what went out, and that nobody was asked.
fn refused(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut session = new();
    session.handle_bytes(0, bytes);
    assert!(session.is_closed(), "{bytes:02X?}");
    assert!(!events(&mut session).iter().any(|event| matches!(event, Event::Connect(_))), "{bytes:02X?}");
    sent(&mut session)
}

fn malformed(bytes: &[u8]) {
    assert_eq!(refused(bytes), [vec![0x20, 3, 0, 0x81, 0]], "{bytes:02X?}");
}

/// The session after `bytes`, and what it was told of the client.
fn asked(bytes: &[u8]) -> (Session, Connect) {
    let mut session = new();
    session.handle_bytes(0, bytes);
    match events(&mut session).pop() {
        Some(Event::Connect(connect)) => (session, connect),
        other => panic!("{other:?}: {bytes:02X?}"),
    }
}

/// What an MQTT 5 CONNACK says, by identifier.
fn connack_properties(connack: &[u8]) -> Vec<u8> {
    let (packet, _) = mqtt_protocol_core::mqtt::packet::v5_0::Connack::parse(&connack[2..]).unwrap();
    packet.props().iter().map(|property| property.id().as_u8()).collect()
}

/// MQTT-1.5.4-1, MQTT-1.5.4-2, MQTT-1.5.7-1, MQTT-3.1.3-4, MQTT-3.1.3-11, MQTT-3.1.3-12; 3.1.1: MQTT-1.5.3-1, -2.
#[test]
fn strings_of_connect_that_are_no_utf_8_or_have_a_null_character_are_malformed() {
    let state = text(&format!("ft/{WHO}/state"));
    for bad in [&b"\0"[..], b"a\0", b"\xED\xA0\x80", b"\xC0\x80", b"\xFF"] {
        let bad = binary(bad);
        let user_property = |name: &[u8], value: &[u8]| [&[0x26], name, value].concat();
        malformed(&connect(V5, USER, &[], &[&bad, &text(WHO)]));
        malformed(&connect(V5, USER, &[], &[&text("c"), &bad]));
        malformed(&connect(V5, 0, &user_property(&bad, &text("v")), &[&text("c")]));
        malformed(&connect(V5, 0, &user_property(&text("n"), &bad), &[&text("c")]));
        malformed(&connect(V5, WILL, &[], &[&text("c"), &[0], &bad, &binary(b"gone")]));
        let content_type = [&[bad.len() as u8 + 1, 0x03], &bad[..]].concat();
        malformed(&connect(V5, WILL, &[], &[&text("c"), &content_type, &state, &binary(b"gone")]));
        assert!(refused(&connect(V3, USER | PASSWORD, &[], &[&bad, &text(WHO), &text("t")])).is_empty());
        assert!(refused(&connect(V3, USER | PASSWORD, &[], &[&text("c"), &bad, &text("t")])).is_empty());
        assert!(refused(&connect(V3, WILL, &[], &[&text("c"), &bad, &binary(b"gone")])).is_empty());
    }
}

/// MQTT-1.5.4-3; 3.1.1: MQTT-1.5.3-3.
#[test]
fn a_byte_order_mark_is_a_character_like_any_other() {
    for version in [V3, V5] {
        let (_, connect) = asked(&connect(version, 2 | USER, &[], &[&text("\u{FEFF}c"), &text("\u{FEFF}u")]));
        assert_eq!(
            (connect.client_id.as_str(), connect.username.as_deref()),
            ("\u{FEFF}c", Some("\u{FEFF}u"))
        );
    }
}

/// MQTT-1.5.5-1, as a receiver. MQTT 3.1.1 has no such rule.
#[test]
fn lengths_of_connect_with_more_bytes_than_they_need_are_malformed() {
    let minimal = connect(V5, 2, &[], &[&text("c")]);
    asked(&minimal);
    let remaining_length = [&[0x10, 0x80 | minimal[1], 0], &minimal[2..]].concat();
    malformed(&remaining_length);
    let body = [&minimal[2..12], &[0x80, 0], &minimal[13..]].concat();
    malformed(&packet(0x10, &[&body]));
    let state = text(&format!("ft/{WHO}/state"));
    malformed(&connect(V5, 2 | WILL, &[], &[&text("c"), &[0x80, 0], &state, &binary(b"gone")]));
    let older = connect(V3, 2, &[], &[&text("c")]);
    asked(&[&[0x10, 0x80 | older[1], 0], &older[2..]].concat());
}

/// MQTT-3.1.0-1, MQTT-3.14.0-1.
#[test]
fn what_comes_before_connect_closes_the_connection_without_a_word() {
    for first in [0x00, 0x11, 0x20, 0x30, 0x32, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2, 0xC0, 0xD0, 0xE0, 0xF0] {
        assert!(refused(&packet(first, &[&[0, 1, 0]])).is_empty(), "{first:02X}");
    }
}

/// MQTT-3.1.2-1, MQTT-3.1.2-2; 3.1.1: MQTT-3.1.2-1, -2.
#[test]
fn other_protocols_and_other_versions_are_refused() {
    let with = |name: &[u8], level: u8| packet(0x10, &[&binary(name), &[level, 2, 0, 0, 0], &text("c")]);
    for name in [&b"mqtt"[..], b"MQTTX", b"MQT", b"", b"HTTP"] {
        assert!(refused(&with(name, 5)).is_empty(), "{name:?}");
    }
    assert_eq!(refused(&with(b"MQTT", 6)), [vec![0x20, 3, 0, 0x84, 0]]);
    assert_eq!(refused(&with(b"MQTT", 3)), [vec![0x20, 2, 0, 1]]);
    assert_eq!(refused(&with(b"MQIsdp", 3)), [vec![0x20, 2, 0, 1]]);
}

/// MQTT-3.1.2-3, MQTT-3.1.2-9, MQTT-3.1.2-11, MQTT-3.1.2-12, MQTT-3.1.2-13, MQTT-3.1.2-16 to MQTT-3.1.2-19,
/// MQTT-3.1.3-1, MQTT-3.1.3-3, MQTT-3.1.4-1; 3.1.1: MQTT-3.1.4-1 (no CONNACK), MQTT-3.1.2-22.
#[test]
fn flags_of_connect_and_its_fields_must_agree() {
    let id = text("c");
    let state = text(&format!("ft/{WHO}/state"));
    let (gone, secret) = (binary(b"gone"), binary(b"secret"));
    let whole_will = [&[0], &state[..], &gone[..]].concat();
    let old_will = [&state[..], &gone[..]].concat();
    let wrong: &[(u8, &[&[u8]])] = &[
        (1, &[&id]),
        (0b0000_1000, &[&id]),
        (0b0001_0000, &[&id]),
        (0b0010_0000, &[&id]),
        (USER, &[&id]),
        (USER | PASSWORD, &[&id, &text(WHO)]),
        (0, &[&id, &text(WHO)]),
        (USER, &[&id, &text(WHO), &secret]),
        (WILL, &[&id]),
        (WILL, &[&id, &[0], &state]),
        (0, &[]),
        (0, &[&[0]]),
        (0, &[&[0, 2, b'c']]),
    ];
    for (flags, payload) in wrong {
        malformed(&connect(V5, *flags, &[], payload));
        assert!(refused(&connect(V3, 2 | *flags, &[], payload)).is_empty());
    }
    malformed(&connect(V5, WILL | 0b0001_1000, &[], &[&id, &whole_will]));
    assert!(refused(&connect(V3, WILL | 0b0001_1000, &[], &[&id, &old_will])).is_empty());
    assert!(refused(&connect(V3, PASSWORD, &[], &[&id, &secret])).is_empty());
    let without_properties = packet(0x10, &[&text("MQTT"), &[5, 2, 0, 0]]);
    malformed(&without_properties);
    asked(&connect(V5, WILL | USER | PASSWORD, &[], &[&id, &whole_will, &text(WHO), &secret]));
    asked(&connect(V3, 2 | WILL | USER | PASSWORD, &[], &[&id, &old_will, &text(WHO), &secret]));
}

/// MQTT-3.1.2-19: new in MQTT 5 (3.1.2.9).
#[test]
fn a_password_may_come_without_a_user_name_in_version_5() {
    let state = text(&format!("ft/{WHO}/state"));
    let (id, password) = (text("c"), binary(b"secret"));
    let will = [&[0], &state[..], &binary(b"gone")[..]].concat();
    for bytes in [
        connect(V5, PASSWORD, &[0x21, 0, 9], &[&id, &password]),
        connect(V5, PASSWORD | WILL, &[], &[&id, &will, &password]),
    ] {
        let (mut session, connect) = asked(&bytes);
        assert_eq!((connect.username, connect.password), (None, Some(Secret(b"secret".to_vec()))));
        session.handle_standing(0, Ok(who()));
        assert_eq!(sent(&mut session)[0][3], 0);
    }
    malformed(&connect(V5, PASSWORD, &[], &[&id]));
    malformed(&connect(V5, PASSWORD, &[], &[&id, &[0, 9, 1]]));
    malformed(&connect(V5, PASSWORD, &[], &[&id, &password, &[0]]));
}

/// MQTT-3.2.2-12, MQTT-3.2.2-13. MQTT 3.1.1 cannot be told, and there `state` is what is kept anyway.
#[test]
fn wills_that_ask_for_what_is_not_offered_are_refused() {
    let state = text(&format!("ft/{WHO}/state"));
    let will = [&text("c"), &[0][..], &state, &binary(b"gone")].concat();
    for (flags, code) in [(0b0001_0100, 0x9B), (0b0010_0100, 0x9A), (0b0010_1100, 0x9A)] {
        assert_eq!(refused(&connect(V5, flags, &[], &[&will])), [vec![0x20, 3, 0, code, 0]]);
    }
    asked(&connect(V3, 0b0010_0110, &[], &[&text("c"), &state, &binary(b"gone")]));
}

/// MQTT-3.1.4-1, MQTT-4.13.1-1: properties that come twice, that have a value that is not allowed, that belong to
/// another packet, or that do not exist.
#[test]
fn properties_of_connect_and_of_the_will_are_checked() {
    let state = text(&format!("ft/{WHO}/state"));
    let named = |id: u8, text: &[u8]| [&[id], &binary(text)[..]].concat();
    let (method, data) = (named(0x15, b"SCRAM"), named(0x16, b"x"));
    let once: &[&[u8]] = &[
        &[0x11, 0, 0, 0, 1],
        &[0x21, 0, 1],
        &[0x27, 0, 0, 1, 0],
        &[0x22, 0, 1],
        &[0x19, 1],
        &[0x17, 1],
        &method,
    ];
    for property in once {
        let twice = connect(V5, 2, &property.repeat(2), &[&text("c")]);
        assert_eq!(refused(&twice), [vec![0x20, 3, 0, 0x82, 0]], "{property:02X?}");
    }
    let values: &[&[u8]] =
        &[&[0x21, 0, 0], &[0x27, 0, 0, 0, 0], &[0x19, 2], &[0x17, 2], &data, &[0x23, 0, 1]];
    for property in values {
        let bytes = connect(V5, 2, property, &[&text("c")]);
        assert_eq!(refused(&bytes), [vec![0x20, 3, 0, 0x82, 0]], "{property:02X?}");
    }
    malformed(&connect(V5, 2, &[0x7F, 1], &[&text("c")]));
    malformed(&connect(V5, 2, &[0x21, 0], &[&text("c")]));
    assert_eq!(refused(&connect(V5, 2, &method, &[&text("c")])), [vec![0x20, 3, 0, 0x8C, 0]]);

    let of_will = |properties: &[u8]| {
        let properties = [&[properties.len() as u8], properties].concat();
        refused(&connect(V5, 2 | WILL, &[], &[&text("c"), &properties, &state, &binary(b"gone")]))
    };
    for property in [
        vec![0x18, 0, 0, 0, 1],
        vec![0x01, 1],
        vec![0x02, 0, 0, 0, 1],
        named(0x03, b"text/plain"),
        named(0x08, b"a"),
        named(0x09, b"x"),
    ] {
        assert_eq!(of_will(&property.repeat(2)), [vec![0x20, 3, 0, 0x82, 0]], "{property:02X?}");
    }
    for property in [named(0x08, b"a/+"), named(0x08, b""), vec![0x01, 2], vec![0x21, 0, 1]] {
        assert_eq!(of_will(&property), [vec![0x20, 3, 0, 0x82, 0]], "{property:02X?}");
    }
}

/// MQTT-3.1.3-5, MQTT-3.1.3-6, MQTT-3.1.3-7, MQTT-3.2.2-16.
#[test]
fn client_identifiers_of_23_letters_are_accepted_and_empty_ones_are_replaced() {
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in [V3, V5] {
        for start in 0..letters.len() - 23 {
            for length in [1, 23] {
                let id = &letters[start..start + length];
                assert_eq!(asked(&connect(version, 2, &[], &[&text(id)])).1.client_id, id);
            }
        }
    }
    let assigned = |id: u64| {
        let mut session = Session::new(ConnectionId(id), Limits::default(), 0);
        session.handle_bytes(0, &connect(V5, 0, &[], &[&text("")]));
        let Some(Event::Connect(told)) = session.poll_event() else { panic!("not asked") };
        session.handle_standing(0, Ok(who()));
        let connack = sent(&mut session).remove(0);
        assert!(connack_properties(&connack).contains(&0x12));
        assert!(connack.windows(told.client_id.len()).any(|window| window == told.client_id.as_bytes()));
        told.client_id
    };
    assert_ne!(assigned(1), assigned(2));
    assert!(!connack_properties(&accepted(&connect(V5, 2, &[], &[&text("c")]))).contains(&0x12));
}

fn accepted(bytes: &[u8]) -> Vec<u8> {
    let (mut session, _) = asked(bytes);
    session.handle_standing(0, Ok(who()));
    sent(&mut session).remove(0)
}

/// MQTT-3.1.2-4, MQTT-3.1.2-5, MQTT-3.1.2-6, MQTT-3.1.2-23, MQTT-3.1.4-4, MQTT-3.1.4-5, MQTT-3.2.2-1, MQTT-3.2.2-2,
/// MQTT-3.2.2-3, MQTT-4.1.0-2: no session outlives its connection, and clients that ask for one are told so.
#[test]
fn session_present_is_0_and_the_session_expiry_is_0() {
    for flags in [0, 2] {
        for (properties, told) in [
            (&[][..], false),
            (&[0x11, 0, 0, 0, 0], false),
            (&[0x11, 0, 0, 0, 1], true),
            (&[0x11, 0xFF, 0xFF, 0xFF, 0xFF], true),
        ] {
            let connack = accepted(&connect(V5, flags, properties, &[&text("c")]));
            assert_eq!(connack[2..4], [0, 0]);
            assert_eq!(connack.windows(5).any(|window| window == [0x11, 0, 0, 0, 0]), told, "{properties:?}");
            assert_eq!(connack_properties(&connack).contains(&0x11), told);
        }
        assert_eq!(accepted(&connect(V3, flags, &[], &[&text("c")])), [0x20, 2, 0, 0]);
    }
}

/// MQTT-3.2.2-9 (Maximum QoS 1), MQTT-3.2.2-22 (no Server Keep Alive), MQTT-3.1.2-28 (no Response Information),
/// MQTT-4.12.0-6 (no Authentication Method), and no Topic Alias Maximum: what CONNACK says, and nothing else.
#[test]
fn connack_says_what_is_offered_and_nothing_that_was_not_asked_for() {
    for properties in [&[][..], &[0x19, 0], &[0x19, 1], &[0x17, 0], &[0x22, 0, 10]] {
        let connack = accepted(&connect(V5, 2, properties, &[&text("c")]));
        assert_eq!(connack_properties(&connack), [0x21, 0x24, 0x25, 0x27, 0x2A, 0x26]);
        for said in [[0x24, 1], [0x25, 0], [0x2A, 0]] {
            assert!(connack.windows(2).any(|window| window == said), "{said:02X?}: {connack:02X?}");
        }
    }
}

/// MQTT-3.1.4-2, MQTT-3.1.4-6, MQTT-3.2.0-2, MQTT-3.2.2-6, MQTT-3.2.2-7, MQTT-3.14.0-1, MQTT-4.13.2-1.
#[test]
fn a_refused_connect_leaves_nothing_but_one_connack() {
    for version in [V3, V5] {
        let hello = Hello { version, ..Hello::default() }.bytes();
        let behind =
            [publish(version, 1, &up("cloud-time"), b"x"), subscribe(version, 2, &[(&down("#"), 1)])];
        let mut session = new();
        session.handle_bytes(0, &[hello, behind.concat()].concat());
        session.handle_standing(0, Err(ConnectRefusal::Banned));
        session.handle_bytes(0, &packet(0xC0, &[]));
        session.handle_disconnect(DisconnectReason::ServerShuttingDown);
        let packets = sent(&mut session);
        assert_eq!(packets.len(), 1, "{packets:02X?}");
        assert_eq!(packets[0][2], 0, "session present");
        assert!(packets[0][3] != 0);
        assert!(matches!(events(&mut session)[..], [Event::Connect(_), Event::Closed { .. }]));
    }
}

/// MQTT-3.2.0-1, MQTT-3.2.0-2.
#[test]
fn nothing_goes_out_before_connack_and_no_second_one() {
    let mut session = new();
    let everything = |session: &mut Session| {
        session.handle_wake();
        session.handle_reply(Kind::CloudTime, b"t".to_vec());
        session.handle_owed(0, vec![owed(1, Kind::CloudTime, b"x")]);
        session.handle_promise(PublishToken(1), Promise::Kept);
    };
    everything(&mut session);
    let subscribe = subscribe(V5, 1, &[(&down("#"), 1)]);
    session.handle_bytes(0, &[Hello::default().bytes(), subscribe, packet(0xC0, &[])].concat());
    everything(&mut session);
    assert!(sent(&mut session).is_empty());
    session.handle_standing(0, Ok(who()));
    session.handle_standing(0, Ok(who()));
    everything(&mut session);
    let firsts: Vec<u8> = sent(&mut session).iter().map(|packet| packet[0]).collect();
    assert_eq!(firsts, [0x20, 0x90, 0xD0, 0x30, 0x32], "CONNACK, SUBACK, PINGRESP, the reply, what was owed");
}

/// MQTT-3.1.2-24, MQTT-3.2.2-19, MQTT-3.2.2-20: down to a Maximum Packet Size of one byte.
#[test]
fn a_connack_that_the_client_would_not_accept_is_not_sent() {
    let whole = accepted(&connect(V5, 2, &[], &[&text("c")])).len();
    let mut opened = 0;
    for max in 1..=whole {
        let properties = [&[0x27][..], &u32::try_from(max).unwrap().to_be_bytes()].concat();
        for refusal in [None, Some(ConnectRefusal::UseAnotherServer { reference: "elsewhere:8883".into() })] {
            let (mut session, _) = asked(&connect(V5, 2, &properties, &[&text("c")]));
            session.handle_standing(0, refusal.clone().map_or(Ok(who()), Err));
            let packets = sent(&mut session);
            assert!(packets.iter().all(|packet| packet.len() <= max), "{max}: {packets:02X?}");
            assert_eq!(packets.is_empty(), max < 5, "{max}");
            if refusal.is_none() && !session.is_closed() {
                opened += 1;
                assert_eq!(connack_properties(&packets[0]).contains(&0x26), max == whole);
            } else if let Some(packet) = packets.first() {
                assert_eq!(packet[3], if refusal.is_some() { 0x9C } else { 0x95 });
                assert!(session.is_closed());
            }
        }
    }
    assert_eq!(opened, 1 + "ft-ack".len() + "durable".len() + 5, "without the user property, and with");
}
