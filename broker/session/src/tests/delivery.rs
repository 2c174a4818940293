//! What is owed: windows, subscriptions that come later, messages that a client cannot take.

use super::*;

/// MQTT-3.3.4-9, MQTT-4.3.2-3, MQTT-4.4.0-2, MQTT-4.9.0-1, MQTT-4.9.0-2.
#[test]
fn delivery_keeps_to_the_window_and_asks_for_more_when_there_is_room() {
    let properties = [0x21, 0, 2];
    let mut session = opened_as(&Hello { properties: &properties, ..Hello::default() }, Limits::default());
    session.handle_wake();
    assert!(events(&mut session).is_empty(), "nothing is asked for before a subscription");
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    sent(&mut session);
    assert_eq!(events(&mut session)[1], Event::Pull { after_sequence: 0, max: 2 });
    session.handle_wake();
    assert!(events(&mut session).is_empty(), "one question at a time");
    let three =
        [owed(4, Kind::HealthCheck, b"a"), owed(5, Kind::CloudTime, b"b"), owed(6, Kind::CloudTime, b"c")];
    session.handle_owed(0, three.to_vec());
    let packets = sent(&mut session);
    assert_eq!(packets.len(), 2, "never more than asked for");
    assert_eq!(packets[0], publish_with(0x32, V5, 1, &down("health-check"), &[2, 0, 0, 0, 60], b"a"));
    assert!(events(&mut session).is_empty(), "the window is full");
    session.handle_bytes(10, &puback(9));
    assert!(events(&mut session).is_empty(), "an invented PUBACK clears nothing");
    session.handle_bytes(10, &puback(2));
    assert_eq!(
        events(&mut session),
        [
            Event::Acknowledged { message: three[1].message, code: 0 },
            Event::Pull { after_sequence: 5, max: 1 },
        ]
    );
    session.handle_bytes(10, &puback(2));
    assert!(events(&mut session).is_empty(), "a late PUBACK clears nothing");
    session.handle_owed(10, vec![three[2].clone()]);
    assert_eq!(sent(&mut session), [publish_with(0x32, V5, 3, &down("cloud-time"), &[2, 0, 0, 0, 60], b"c")]);
    session.handle_owed(10, vec![three[0].clone()]);
    assert!(sent(&mut session).is_empty(), "nothing was asked");
    session.handle_bytes(10, &packet(0x40, &[&[0, 1, 0x97]]));
    assert_eq!(events(&mut session)[0], Event::Acknowledged { message: three[0].message, code: 0x97 });
}

/// MQTT-4.4.0-1: one send per connection; correctness.md 11: only what this connection subscribed.
#[test]
fn a_later_subscription_finds_what_was_skipped_and_repeats_nothing() {
    let mut session = opened(V5);
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("health-check"), 1)]));
    let all = vec![
        owed(1, Kind::CloudTime, b"1"),
        owed(2, Kind::HealthCheck, b"2"),
        owed(3, Kind::CloudTime, b"3"),
    ];
    session.handle_owed(0, all.clone());
    assert_eq!(sent(&mut session).len(), 2, "SUBACK and one message");
    events(&mut session);
    session.handle_bytes(0, &subscribe(V5, 2, &[(&down("cloud-time"), 0)]));
    assert_eq!(events(&mut session).pop(), Some(Event::Pull { after_sequence: 0, max: 31 }));
    session.handle_owed(0, all.clone());
    let packets = sent(&mut session);
    assert_eq!(packets.len(), 3, "SUBACK and the two that were skipped: {packets:?}");
    session.handle_wake();
    assert_eq!(events(&mut session), [Event::Pull { after_sequence: 3, max: 31 }]);
    session.handle_owed(0, all);
    assert!(sent(&mut session).is_empty());
}

#[test]
fn messages_that_a_client_cannot_take_are_reported_and_those_that_have_expired_are_not_sent() {
    let properties = [0x27, 0, 0, 0, 100];
    let mut session = opened_as(&Hello { properties: &properties, ..Hello::default() }, Limits::default());
    session.handle_bytes(0, &subscribe(V5, 1, &[(&down("#"), 1)]));
    sent(&mut session);
    events(&mut session);
    let mut expired = owed(2, Kind::CloudTime, b"x");
    expired.expires_at_ms = 1_000;
    session.handle_owed(
        1_000,
        vec![owed(1, Kind::CloudTime, &[0; 200]), expired, owed(3, Kind::CloudTime, b"y")],
    );
    assert_eq!(sent(&mut session).len(), 1);
    assert!(matches!(events(&mut session)[..], [Event::Acknowledged { code: 0x95, .. }]));
}

#[test]
fn subscription_identifiers_come_back_with_messages() {
    let mut session = opened(V5);
    session.handle_bytes(0, &packet(0x82, &[&[0, 1, 2, 0x0B, 7], &text(&down("#")), &[0]]));
    sent(&mut session);
    session.handle_reply(Kind::CloudTime, b"t".to_vec());
    assert_eq!(sent(&mut session), [publish_with(0x30, V5, 0, &down("cloud-time"), &[0x0B, 7], b"t")]);
}
