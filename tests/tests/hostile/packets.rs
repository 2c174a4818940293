//! Packets that no proper client sends.

use farthing_tests::wire::{Packet, VERSIONS, Version};

use super::{ATTACKER, BYSTANDER, Room, has_ended, hello, text};

#[test]
fn topics_that_are_none_are_refused_or_end_their_connection() {
    let mut room = Room::new(&[]);
    for version in VERSIONS {
        for topic in [
            "é/not/ascii".as_bytes(),
            "\u{1F4A3}".as_bytes(),
            b"$SYS/broker",
            b"$share/x/ft",
            b"/",
            b"//////",
            b"ft/acme/payer-0/up/",
            b"ft/acme/payer-0/up/no-such-kind",
            b"ft/acme/payer-0/up/cloud-time/more",
            "ft/acme/payer-0/up/cloud-time\u{FFFF}".as_bytes(),
            &[b'a'; 8_000],
        ] {
            let mut client = room.enter("topics", version);
            client.publish(std::str::from_utf8(topic).unwrap(), b"x", 1);
            match (version, client.receive()) {
                (Version::V5, Packet::PubAck { code: 0x80.., .. } | Packet::Disconnect(_)) => {}
                (Version::V3, Packet::PubAck { .. } | Packet::End) => {}
                (_, other) => panic!("{version:?} {}: {other:?}", String::from_utf8_lossy(topic)),
            }
        }
        // Empty, invalid UTF-8, NUL, wildcards: MQTT itself forbids them.
        for topic in [&b""[..], b"\xFF\xFE", b"\xED\xA0\x80", b"a\0b", b"ft/+/x", b"#"] {
            let mut client = room.enter("topics", version);
            let mut body = [text(topic), vec![0, 1]].concat();
            body.extend(if version == Version::V5 { &[0, 1][..] } else { &[1] });
            client.send(0x32, &body);
            let answer = client.receive();
            assert!(
                matches!(answer, Packet::End | Packet::Disconnect(_) | Packet::PubAck { code: 0x80.., .. })
                    || (version == Version::V3 && matches!(answer, Packet::PubAck { .. })),
                "{version:?} {topic:?}: {answer:?}"
            );
        }
        room.others_are_served();
    }
}

#[test]
fn packets_out_of_place_end_their_connection_in_every_state() {
    let mut room = Room::new(&[]);
    for version in VERSIONS {
        for first in (0x00..=0xF0).step_by(0x10).filter(|first| *first != 0x10) {
            let mut client = room.dial(version);
            client.send(first, &[0, 1]);
            assert!(has_ended(&mut client), "{version:?}: 0x{first:02X} before CONNECT");
        }
        room.others_are_served();
        let publish = |qos: u8| [text(b"ft/acme/payer-0/up/cloud-time"), vec![0, qos, 0]].concat();
        let table: [(&str, u8, Vec<u8>); 19] = [
            ("type 0", 0x00, vec![]),
            ("a second CONNECT", 0x10, hello(version, b"again", 0)),
            ("CONNACK", 0x20, vec![0, 0]),
            ("PUBLISH QoS 2", 0x34, publish(2)),
            ("PUBLISH QoS 3", 0x36, publish(3)),
            ("PUBLISH cut off", 0x32, vec![0, 200, b'f']),
            ("PUBLISH with nothing in it", 0x30, vec![]),
            ("PUBACK with flags", 0x42, vec![0, 1]),
            ("PUBACK cut off", 0x40, vec![0]),
            ("PUBREC", 0x50, vec![0, 1]),
            ("PUBREL", 0x62, vec![0, 1]),
            ("PUBCOMP", 0x70, vec![0, 1]),
            ("SUBSCRIBE with wrong flags", 0x80, vec![0, 1, 0, 0, 1, b'a', 1]),
            ("SUBSCRIBE without filters", 0x82, vec![0, 1]),
            ("SUBACK", 0x90, vec![0, 1, 0]),
            ("UNSUBACK", 0xB0, vec![0, 1]),
            ("PINGREQ with a body", 0xC0, vec![0]),
            ("PINGRESP", 0xD0, vec![]),
            ("AUTH", 0xF0, vec![0x18, 0]),
        ];
        for (what, first, body) in table {
            let mut client = room.enter("states", version);
            client.send(first, &body);
            assert!(has_ended(&mut client), "{version:?}: {what}");
        }
        room.others_are_served();
    }
}

/// The property length of MQTT 5 where MQTT 3.1.1 has none.
#[test]
fn properties_in_packets_of_mqtt_3_are_payload_or_an_error() {
    let mut room = Room::new(&[]);
    let mut client = room.enter("v3", Version::V3);
    client.send(0x32, &[text(b"ft/acme/payer-0/up/cloud-time"), vec![0, 1, 3, 0x23, 0, 1]].concat());
    assert_eq!(client.receive(), Packet::PubAck { packet_id: 1, code: 0 }, "they are its payload");
    client.send(0x82, &[vec![0, 2, 2, 0x0B, 1], text(b"ft/acme/payer-0/down/#"), vec![1]].concat());
    assert!(has_ended(&mut client));
    let mut client = room.enter("v3", Version::V3);
    client.send(0x40, &[0, 1, 0x97, 0]);
    assert!(has_ended(&mut client));
    room.others_are_served();
}

#[test]
fn client_ids_of_every_kind_harm_nobody() {
    let mut room = Room::new(&[]);
    for version in VERSIONS {
        for id in ["a+b", "#", "$SYS", "a/b/+/#", "é\u{1F4A3}", "..", "bystander"] {
            let mut first = room.enter(id, version);
            let mut second = room.enter(id, version);
            assert!(has_ended(&mut first), "{id}: taken over");
            second.send(0xC0, &[]);
            assert_eq!(second.receive(), Packet::Pong, "{id}");
        }
        room.enter("", version);
        let mut client = room.dial(version);
        let refused = client.connect(&"x".repeat(200), Some((ATTACKER, &room.token)));
        assert_eq!(refused, Packet::ConnAck(if version == Version::V5 { 0x85 } else { 2 }));
        let mut client = room.dial(version);
        client.send(0x10, &hello(version, &[b'x'; 65_535], 0));
        assert!(has_ended(&mut client), "refused by its length alone");
        room.others_are_served();
    }
}

#[test]
fn ten_thousand_subscriptions_are_answered_one_by_one_and_sixteen_are_kept() {
    let mut room = Room::new(&[]);
    let mut client = room.enter("greedy", Version::V5);
    let mut granted = 0;
    for packet in 0..100 {
        let filters: Vec<String> = (0..100)
            .map(|number| match number % 2 {
                0 => format!("ft/{ATTACKER}/down/+"),
                _ => format!("ft/{BYSTANDER}/down/{packet}-{number}"),
            })
            .collect();
        let codes = client.subscribe(&filters.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(codes.len(), 100);
        for (number, code) in codes.iter().enumerate() {
            assert_eq!(*code < 0x80, number % 2 == 0, "{} 0x{code:02X}", filters[number]);
        }
        granted += codes.iter().filter(|code| **code < 0x80).count();
    }
    assert_eq!(granted, 5_000, "the same filter again replaces itself");
    room.others_are_served();
    let audited = room.fleet.journal().iter().filter(|r| r["event"]["refusal_audited"].is_object()).count();
    assert!(audited <= 40, "{audited} audit records: so many a minute, whatever is refused");
}

#[test]
fn packet_identifiers_are_checked_and_unknown_acknowledgements_are_ignored() {
    let mut room = Room::new(&[]);
    let topic = format!("ft/{ATTACKER}/up/cloud-time");
    let publish = |id: u8| {
        let body = [text(topic.as_bytes()), vec![0, id, 0, 1]].concat();
        [vec![0x32, u8::try_from(body.len()).unwrap()], body].concat()
    };
    let mut client = room.enter("ids", Version::V5);
    client.send_raw(&publish(0));
    assert!(has_ended(&mut client), "identifier 0");
    let mut client = room.enter("ids", Version::V5);
    client.send_raw(&[publish(7), publish(7)].concat());
    assert!(has_ended(&mut client), "in use");
    let mut client = room.enter("ids", Version::V5);
    for id in 1..=1_000u16 {
        client.send(0x40, &id.to_be_bytes());
    }
    client.send(0xC0, &[]);
    assert!(matches!(client.receive(), Packet::Pong), "PUBACK for what was never sent");
    room.others_are_served();
}
