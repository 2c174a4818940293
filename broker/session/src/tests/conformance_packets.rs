//! MQTT 5, statement by statement: what a client says after CONNECT. The list of all statements is
//! `tests/mqtt5-statements.md`; "3.1.1:" marks numbers of the older version.

use super::*;

/// Closed, with this DISCONNECT and nothing else.
fn closes_v5(bytes: &[u8], code: u8) {
    let mut session = opened(V5);
    session.handle_bytes(0, bytes);
    assert_eq!(sent(&mut session), [vec![0xE0, 1, code]], "{bytes:02X?}");
    let reason = closed_with(&mut session);
    assert!(matches!(reason, Some(CloseReason::Protocol(fault)) if fault.code == code), "{reason:?}");
}

/// Closed without a word: MQTT 3.1.1 servers have none.
fn closes_v3(bytes: &[u8]) {
    let mut session = opened(V3);
    session.handle_bytes(0, bytes);
    assert!(sent(&mut session).is_empty() && session.is_closed(), "{bytes:02X?}");
}

fn answers(version: Version, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut session = opened(version);
    session.handle_bytes(0, bytes);
    assert!(!session.is_closed(), "{bytes:02X?}: {:?}", events(&mut session));
    sent(&mut session)
}

fn subscribe_with(properties: &[u8], entries: &[(&[u8], u8)]) -> Vec<u8> {
    let entries: Vec<u8> =
        entries.iter().flat_map(|(name, options)| [binary(name), vec![*options]].concat()).collect();
    packet(0x82, &[&[0, 1, properties.len() as u8], properties, &entries])
}

fn unsubscribe(version: Version, filters: &[&[u8]]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(|filter| binary(filter)).collect();
    packet(0xA2, &[&[0, 1], if version == V5 { &[0] } else { &[] }, &filters])
}

/// MQTT-2.1.3-1, MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1, MQTT-3.14.1-1, MQTT-3.15.1-1; 3.1.1: MQTT-2.2.2-2.
#[test]
fn reserved_flags_are_malformed() {
    for (kind, right) in [(4, 0), (5, 0), (6, 2), (7, 0), (8, 2), (10, 2), (12, 0), (14, 0), (15, 0)] {
        for flags in (0..16).filter(|flags| *flags != right) {
            let bytes = packet((kind << 4) | flags, &[]);
            closes_v5(&bytes, 0x81);
            closes_v3(&bytes);
        }
    }
}

/// MQTT-1.5.4-1, MQTT-1.5.4-2, MQTT-1.5.7-1, MQTT-3.3.2-1, MQTT-3.3.2-13, MQTT-3.3.2-19, MQTT-3.8.3-1, MQTT-3.10.3-1,
/// MQTT-4.7.3-2; 3.1.1: MQTT-1.5.3-1, -2.
#[test]
fn strings_that_are_no_utf_8_or_have_a_null_character_are_malformed() {
    for bad in [&b"\0"[..], b"a\0", b"\xED\xA0\x80", b"\xED\xBF\xBF", b"\xC0\x80", b"\xFF"] {
        let long = binary(bad);
        let user_property = |name: &[u8], value: &[u8]| [&[0x26], name, value].concat();
        let of_publish = |properties: &[u8]| publish_with(0x32, V5, 1, &up("cloud-time"), properties, b"");
        let of_puback = |properties: &[u8]| packet(0x40, &[&[0, 1, 0, properties.len() as u8], properties]);
        let of_disconnect = |properties: &[u8]| packet(0xE0, &[&[0, properties.len() as u8], properties]);
        let reason_string = [&[0x1F], &long[..]].concat();
        for bytes in [
            packet(0x32, &[&long, &[0, 1, 0]]),
            of_publish(&[&[0x03], &long[..]].concat()),
            of_publish(&[&[0x08], &long[..]].concat()),
            of_publish(&user_property(&long, &text("v"))),
            of_publish(&user_property(&text("n"), &long)),
            subscribe_with(&[], &[(bad, 0)]),
            subscribe_with(&user_property(&long, &text("v")), &[(b"a", 0)]),
            unsubscribe(V5, &[bad]),
            of_puback(&reason_string),
            of_puback(&user_property(&text("n"), &long)),
            of_disconnect(&reason_string),
        ] {
            closes_v5(&bytes, 0x81);
        }
        closes_v3(&packet(0x32, &[&long, &[0, 1]]));
        closes_v3(&packet(0x82, &[&[0, 1], &long, &[0]]));
        closes_v3(&unsubscribe(V3, &[bad]));
    }
}

/// MQTT-1.5.5-1, as a receiver, and MQTT-2.2.2-1. MQTT 3.1.1 has no such rule.
#[test]
fn lengths_with_more_bytes_than_they_need_are_malformed() {
    let topic = text(&up("cloud-time"));
    for bytes in [
        vec![0xC0, 0x80, 0],
        packet(0x30, &[&topic, &[0x80, 0], b"x"]),
        packet(0x32, &[&topic, &[0, 1]]),
        packet(0x82, &[&[0, 1, 0x80, 0], &text("a"), &[0]]),
        packet(0x82, &[&[0, 1, 3, 0x0B, 0x87, 0], &text("a"), &[0]]),
        packet(0xA2, &[&[0, 1, 0x80, 0], &text("a")]),
        packet(0x40, &[&[0, 1, 0, 0x80, 0]]),
        packet(0xE0, &[&[0, 0x80, 0]]),
    ] {
        closes_v5(&bytes, 0x81);
    }
    assert_eq!(answers(V3, &[0xC0, 0x80, 0]), [[0xD0, 0]]);
}

/// MQTT-3.3.2-2, MQTT-3.3.2-14, MQTT-4.7.0-1, MQTT-4.7.3-1; 3.1.1: MQTT-3.3.2-2, MQTT-4.8.0-1.
#[test]
fn topic_names_that_are_empty_or_have_wildcards_close_the_connection() {
    for name in ["", "#", "+", "a/+", "a/#/b", "a+b", &up("+"), &up("#")] {
        closes_v5(&publish(V5, 1, name, b"x"), 0x82);
        closes_v5(&publish(V5, 0, name, b"x"), 0x82);
        let response_topic = [&[0x08], &text(name)[..]].concat();
        closes_v5(&publish_with(0x32, V5, 1, &up("cloud-time"), &response_topic, b"x"), 0x82);
        closes_v3(&publish(V3, 1, name, b"x"));
        closes_v3(&publish(V3, 0, name, b"x"));
    }
}

/// MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-1; 3.1.1: MQTT-4.7.1-2, -3, MQTT-4.8.0-1.
#[test]
fn topic_filters_that_are_empty_or_have_wildcards_in_the_wrong_place_close_the_connection() {
    for filter in ["", "a#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "##", "++"] {
        closes_v5(&subscribe(V5, 1, &[(&down("#"), 0), (filter, 0)]), 0x82);
        closes_v5(&unsubscribe(V5, &[filter.as_bytes()]), 0x82);
        closes_v3(&subscribe(V3, 1, &[(filter, 0)]));
        closes_v3(&unsubscribe(V3, &[filter.as_bytes()]));
    }
    for filter in ["/", "+", "#", "+/#", "/+/", "a/+/#", "$SYS/#"] {
        assert_eq!(answers(V5, &subscribe(V5, 1, &[(filter, 0)])), [packet(0x90, &[&[0, 1, 0, 0x87]])]);
    }
}

/// MQTT-4.7.2-1, MQTT-4.7.3-4: a topic is compared as it is written.
#[test]
fn topics_and_filters_are_not_made_to_fit() {
    let own = down("cloud-time");
    for other in
        [own.to_uppercase(), format!("{own}/"), format!("/{own}"), own.replace('/', "//"), format!("{own} ")]
    {
        assert_eq!(
            answers(V5, &subscribe(V5, 1, &[(&other, 1)])),
            [packet(0x90, &[&[0, 1, 0, 0x87]])],
            "{other}"
        );
        let up = other.replace("down", "up").replace("DOWN", "UP");
        let answer = answers(V5, &publish(V5, 7, &up, b"x"));
        assert!(
            answer == [[0x40, 3, 0, 7, 0x90]] || answer == [[0x40, 3, 0, 7, 0x87]],
            "{up}: {answer:02X?}"
        );
    }
    for filter in ["#", "+/#", "+/acme/chip-7/down/#"] {
        assert_eq!(answers(V5, &subscribe(V5, 1, &[(filter, 1)])), [packet(0x90, &[&[0, 1, 0, 0x87]])]);
    }
}

/// MQTT-3.8.3-5 and the values that 3.8.3.1 does not allow; 3.1.1: MQTT-3.8.3-4, which has no options but the QoS.
#[test]
fn subscription_options_that_are_not_allowed_close_the_connection() {
    let filter = down("#");
    for options in 0..=255u8 {
        let (qos, retain_handling) = (options & 3, (options >> 4) & 3);
        if options & 0b1100_0000 != 0 || qos == 3 || retain_handling == 3 {
            closes_v5(&subscribe(V5, 1, &[(&filter, options)]), 0x81);
        } else {
            let answer = answers(V5, &subscribe(V5, 1, &[(&filter, options)]));
            assert_eq!(answer, [packet(0x90, &[&[0, 1, 0, qos.min(1)]])], "{options:02X}");
        }
        if options > 2 {
            closes_v3(&subscribe(V3, 1, &[(&filter, options)]));
        } else {
            assert_eq!(
                answers(V3, &subscribe(V3, 1, &[(&filter, options)])),
                [[0x90, 3, 0, 1, options.min(1)]]
            );
        }
    }
}

/// MQTT-3.8.3-4, MQTT-4.8.2-1, MQTT-4.8.2-2 and 3.2.2.3.13: CONNACK says that there are none. In 3.1.1 `$share` is a
/// level like any other.
#[test]
fn shared_subscriptions_close_the_connection_in_version_5() {
    for (filter, options, code) in [
        ("$share/g/a", 0, 0x9E),
        ("$share/g/a", 0b100, 0x82),
        ("$share/g/#", 1, 0x9E),
        ("$share/g", 0, 0x81),
        ("$share//a", 0, 0x81),
        ("$share/+/a", 0, 0x81),
        ("$share/g#/a", 0, 0x81),
    ] {
        closes_v5(&subscribe(V5, 1, &[(filter, options)]), code);
    }
    assert_eq!(answers(V3, &subscribe(V3, 1, &[("$share/g/a", 0)])), [[0x90, 3, 0, 1, 0x80]]);
}

/// MQTT-3.3.4-6, MQTT-3.8.3-2, MQTT-3.10.3-2, MQTT-4.13.1-1: properties that come twice, that have a value that is not
/// allowed or that belong to another packet, and packets that say nothing.
#[test]
fn properties_and_payloads_of_packets_are_checked() {
    let of_publish = |properties: &[u8]| publish_with(0x32, V5, 1, &up("cloud-time"), properties, b"");
    let named = |id: u8, text: &[u8]| [&[id], &binary(text)[..]].concat();
    for property in [
        vec![0x01, 1],
        vec![0x02, 0, 0, 0, 1],
        named(0x03, b"text/plain"),
        named(0x08, b"a"),
        named(0x09, b"x"),
    ] {
        closes_v5(&of_publish(&property.repeat(2)), 0x82);
    }
    for property in [&[0x01, 2][..], &[0x0B, 1], &[0x0B, 0], &[0x11, 0, 0, 0, 1], &named(0x1F, b"why")] {
        closes_v5(&of_publish(property), 0x82);
    }
    for alias in [[0x23, 0, 1], [0x23, 0xFF, 0xFF]] {
        closes_v5(&of_publish(&alias), 0x94);
        closes_v5(&publish_with(0x32, V5, 1, "", &alias, b""), 0x94);
    }
    for property in [&[0x0B, 1, 0x0B, 2][..], &[0x0B, 0], &[0x01, 1]] {
        closes_v5(&subscribe_with(property, &[(b"a", 0)]), 0x82);
    }
    closes_v5(&packet(0xA2, &[&[0, 1, 2, 0x0B, 1], &text("a")]), 0x82);
    let reason = named(0x1F, b"why");
    closes_v5(&packet(0x40, &[&[0, 1, 0, 2 * reason.len() as u8], &reason.repeat(2)]), 0x82);
    closes_v5(&packet(0xE0, &[&[0, 2 * reason.len() as u8], &reason.repeat(2)]), 0x82);
    closes_v5(&packet(0xE0, &[&[0, 10, 0x11, 0, 0, 0, 0, 0x11, 0, 0, 0, 0]]), 0x82);
    for (first, code) in [(0x82, 0x82), (0xA2, 0x82)] {
        closes_v5(&packet(first, &[&[0, 1, 0]]), code);
        closes_v3(&packet(first, &[&[0, 1]]));
    }
    for first in [0x82, 0xA2] {
        closes_v5(&packet(first, &[&[0, 0, 0], &text("a"), &[0][..usize::from(first == 0x82)]]), 0x81);
        closes_v3(&packet(first, &[&[0, 0], &text("a"), &[0][..usize::from(first == 0x82)]]));
    }
}

/// MQTT-3.2.2-14 and 3.2.2.3.5: CONNACK says that retained messages are not offered, `state` included.
#[test]
fn retained_publishes_close_the_connection_in_version_5() {
    let state = format!("ft/{WHO}/state");
    for topic in [&state, &up("cloud-time"), "elsewhere"] {
        closes_v5(&publish_with(0x33, V5, 1, topic, &[], b"x"), 0x9A);
        closes_v5(&publish_with(0x31, V5, 0, topic, &[], b"x"), 0x9A);
    }
}

/// MQTT-2.2.1-2, MQTT-3.3.4-1, MQTT-4.3.2-5: QoS 0 is not answered, and after its PUBACK an identifier names a new
/// message, whatever DUP says.
#[test]
fn after_its_puback_a_packet_identifier_names_a_new_message() {
    for version in [V3, V5] {
        let mut session = opened(version);
        for first in [0x32, 0x3A, 0x3A] {
            session.handle_bytes(0, &publish_with(first, version, 7, &up("cloud-time"), &[], b"x"));
            let got = events(&mut session);
            assert_eq!(got.len(), 1);
            session.handle_promise(token_of(&got[0]), Promise::Kept);
            assert_eq!(sent(&mut session), [puback(7)]);
        }
        session.handle_bytes(0, &publish(version, 0, &up("cloud-time"), b"x"));
        let got = events(&mut session);
        session.handle_promise(token_of(&got[0]), Promise::Kept);
        assert!(sent(&mut session).is_empty());
    }
}

/// MQTT-3.1.2-29, MQTT-3.4.2-1, MQTT-3.4.2-2, MQTT-3.4.2-3, MQTT-3.9.2-1, MQTT-3.9.2-2, MQTT-3.11.2-1, MQTT-3.11.2-2:
/// codes of the tables only, and no word beyond them, whatever the core says and the client asked for.
#[test]
fn acknowledgements_have_codes_of_their_tables_and_no_properties() {
    for properties in [[0x17, 0], [0x17, 1]] {
        let mut session =
            opened_as(&Hello { properties: &properties, ..Hello::default() }, Limits::default());
        for code in 0..=255u8 {
            session.handle_bytes(0, &publish(V5, 1, &up("cloud-time"), b"x"));
            let got = events(&mut session);
            session.handle_promise(token_of(&got[0]), Promise::Refused(code));
            let packets = sent(&mut session);
            let [0x40, 3, 0, 1, said] = packets[0][..] else { panic!("{packets:02X?}") };
            assert!([0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99].contains(&said), "{code:02X}: {said:02X}");
        }
        session.handle_bytes(0, &subscribe(V5, 2, &[(&down("#"), 1), ("elsewhere", 1)]));
        session.handle_bytes(0, &unsubscribe(V5, &[b"elsewhere", down("#").as_bytes()]));
        session.handle_disconnect(DisconnectReason::Administrative);
        assert_eq!(
            sent(&mut session),
            [vec![0x90, 5, 0, 2, 0, 1, 0x87], vec![0xB0, 5, 0, 1, 0, 0x11, 0], vec![0xE0, 1, 0x98],]
        );
    }
}

/// MQTT-1.5.5-1, MQTT-2.1.3-1 and MQTT-2.2.2-1 as a sender, MQTT-2.2.1-6, MQTT-3.9.3-1, MQTT-3.11.3-1: with lengths of
/// one and of two bytes.
#[test]
fn what_goes_out_is_written_down_as_the_standard_says() {
    for count in [1, 100, 123, 124, 125, 126, 200] {
        let filters: Vec<String> = (0..count).map(|index| format!("elsewhere/{index}")).collect();
        let wanted: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
        let names: Vec<&[u8]> = filters.iter().map(|filter| filter.as_bytes()).collect();
        let mut session = opened(V5);
        session.handle_bytes(0, &subscribe(V5, 0x0102, &wanted));
        session.handle_bytes(0, &unsubscribe(V5, &names));
        session.handle_bytes(0, &subscribe(V5, 3, &[(&down("#"), 0)]));
        session.handle_reply(Kind::CloudTime, vec![7; count]);
        let topic = text(&down("cloud-time"));
        assert_eq!(
            sent(&mut session),
            [
                packet(0x90, &[&[1, 2, 0], &vec![0x87; count]]),
                packet(0xB0, &[&[0, 1, 0], &vec![0x11; count]]),
                packet(0x90, &[&[0, 3, 0, 0]]),
                packet(0x30, &[&topic, &[0], &vec![7; count]]),
            ]
        );
    }
}

/// MQTT-3.1.2-24: an acknowledgement for very many filters.
#[test]
fn an_acknowledgement_that_the_client_would_not_accept_closes_the_connection() {
    let properties = [0x27, 0, 0, 0, 60];
    let filters: Vec<String> = (0..60).map(|index| format!("elsewhere/{index}")).collect();
    let wanted: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
    let names: Vec<&[u8]> = filters.iter().map(|filter| filter.as_bytes()).collect();
    for bytes in [subscribe(V5, 1, &wanted), unsubscribe(V5, &names)] {
        let mut session =
            opened_as(&Hello { properties: &properties, ..Hello::default() }, Limits::default());
        session.handle_bytes(0, &bytes);
        assert_eq!(sent(&mut session), [[0xE0, 1, 0x95]]);
        assert!(session.is_closed());
    }
}
