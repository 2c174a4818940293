//! What an observer sees: states as they stand (retained), states as they change, the feed (PL-1). With the statements of
//! MQTT 5 on retained messages, which nobody else is sent.

use schemas::feed::{DeviceChange, DeviceEvent, FeedEvent, LostEvent, PresenceEvent, PresenceState};
use schemas::time::Timestamp;
use schemas::topic::{FeedFormat, Role, Topic};

use super::*;

const STATES: &str = "ft/acme/+/state";
const FEED: &str = "ft/acme/feed/#";
/// In order of name.
const PRESENT: [&str; 3] = ["acme/ann", "acme/chip-7", "acme/vend-7"];
const RETAIN_AS_PUBLISHED: u8 = 0b1000;

fn observing_with(hello: &Hello<'_>, limits: Limits) -> (Session, Vec<u8>) {
    let mut session = Session::new(ConnectionId::new(1, 1), limits, 0);
    session.handle_bytes(0, &hello.bytes());
    assert!(matches!(events(&mut session)[..], [Event::Connect(_)]));
    session.handle_standing_as(0, Ok(who()), Role::Observer);
    let connack = sent(&mut session).remove(0);
    (session, connack)
}

fn observing(version: Version) -> Session {
    observing_with(&Hello { version, ..Hello::default() }, Limits::default()).0
}

fn subscribe_as(packet_id: u8, identifier: Option<u8>, filter: &str, options: u8) -> Vec<u8> {
    let properties = identifier.map_or(vec![0], |identifier| vec![2, 0x0B, identifier]);
    packet(0x82, &[&[0, packet_id], &properties, &text(filter), &[options]])
}

fn unsubscribe(version: Version, filter: &str) -> Vec<u8> {
    packet(0xA2, &[&[0, 9], if version == V5 { &[0] } else { &[] }, &text(filter)])
}

fn state(name: &str) -> PresenceEvent {
    let (presence, since) = (PresenceState::Connected, Some(Timestamp(7)));
    PresenceEvent { principal: name.parse().unwrap(), presence, since, said: None }
}

/// Plays the feed, which hears at once, and the core, which shows two states a page.
fn served(session: &mut Session) {
    while let Some(event) = session.poll_event() {
        match event {
            Event::Watch { .. } => session.handle_watching(),
            Event::Watching => {}
            Event::PullStates { of, after, .. } => {
                let is_wanted = |name: &&&str| {
                    let id = name.strip_prefix("acme/").unwrap();
                    of.as_ref().is_none_or(|of| of.as_str() == id)
                        && after.as_ref().is_none_or(|after| id > after.as_str())
                };
                let found: Vec<_> = PRESENT.iter().filter(is_wanted).collect();
                session
                    .handle_states(found.iter().take(2).map(|name| state(name)).collect(), found.len() > 2);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Messages in the order of sending: topic, RETAIN, subscription identifiers.
fn heard(session: &mut Session, version: Version) -> Vec<(String, bool, Vec<u8>)> {
    let publishes = sent(session).into_iter().filter(|packet| packet[0] >> 4 == 3);
    let publishes = publishes.map(|packet| {
        assert_eq!(packet[0] & 0b1110, 0, "QoS 0, no DUP");
        let body = &packet[if packet[1] < 128 { 2 } else { 3 }..];
        let (topic, rest) = body[2..].split_at(usize::from(body[1]));
        let identifiers = match version {
            V5 => rest[1..=usize::from(rest[0])].chunks(2).map(|pair| pair[1]).collect(),
            V3 => vec![],
        };
        (String::from_utf8(topic.to_vec()).unwrap(), packet[0] & 1 == 1, identifiers)
    });
    publishes.collect()
}

fn shown(name: &str, identifiers: &[u8]) -> (String, bool, Vec<u8>) {
    (format!("ft/{name}/state"), true, identifiers.to_vec())
}

fn change(session: &mut Session, name: &str) {
    let topic = Topic::State { principal: name.parse().unwrap() };
    session.handle_feed(&topic, FeedEvent::Presence(state(name)).encode(FeedFormat::Cbor));
}

fn device_event() -> FeedEvent {
    let (device, change) = (who(), DeviceChange::Revoked);
    FeedEvent::Device(DeviceEvent { device, change, instance: None, at: Timestamp(7) })
}

fn feed(session: &mut Session, event: &FeedEvent, format: FeedFormat) {
    let topic = Topic::Feed { tenant: "acme".parse().unwrap(), kind: event.kind(), format };
    session.handle_feed(&topic, event.encode(format));
}

/// MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11, MQTT-3.8.4-4: what a first, a repeated, and again a first subscription
/// is shown. A change that comes around the replacement is not lost.
#[test]
fn retained_states_are_sent_as_retain_handling_says() {
    let all: Vec<_> = PRESENT.iter().map(|name| shown(name, &[])).collect();
    for (retain_handling, [first, repeated, anew]) in
        [(0u8, [true, true, true]), (1, [true, false, true]), (2, [false, false, false])]
    {
        let mut session = observing(V5);
        for (round, is_shown) in [first, repeated, anew].into_iter().enumerate() {
            if round == 2 {
                session.handle_bytes(0, &unsubscribe(V5, STATES));
                served(&mut session);
                sent(&mut session);
            }
            session.handle_bytes(0, &subscribe_as(1, None, STATES, retain_handling << 4));
            change(&mut session, "acme/chip-7");
            served(&mut session);
            let mut wanted = vec![("ft/acme/chip-7/state".to_owned(), false, vec![])];
            if is_shown {
                wanted.extend(all.clone());
            }
            assert_eq!(heard(&mut session, V5), wanted, "handling {retain_handling}, round {round}");
        }
    }
    let mut session = observing(V3);
    for _ in 0..2 {
        session.handle_bytes(0, &subscribe(V3, 1, &[(STATES, 1)]));
        served(&mut session);
        assert_eq!(heard(&mut session, V3), all);
    }
}

/// MQTT-3.3.1-12, MQTT-3.3.1-13: RETAIN of a change is 1 only where the subscription asked for it as published. Of the
/// feed nothing is retained.
#[test]
fn a_change_of_state_is_retained_only_where_that_was_asked_for() {
    for (options, retain) in [(0, false), (RETAIN_AS_PUBLISHED, true)] {
        let mut session = observing(V5);
        session.handle_bytes(0, &subscribe_as(1, None, STATES, options | 0b10_0000));
        session.handle_bytes(0, &subscribe_as(2, None, FEED, options));
        served(&mut session);
        assert_eq!(heard(&mut session, V5), []);
        change(&mut session, "acme/chip-7");
        feed(&mut session, &device_event(), FeedFormat::Json);
        let wanted = [
            ("ft/acme/chip-7/state".to_owned(), retain, vec![]),
            ("ft/acme/feed/json/device".to_owned(), false, vec![]),
        ];
        assert_eq!(heard(&mut session, V5), wanted);
    }
}

/// MQTT-3.3.4-2, MQTT-3.3.4-3, MQTT-3.8.4-3, MQTT-3.10.4-1: a retained state comes for the subscription that asked for
/// it, a change for all that match.
#[test]
fn subscriptions_of_an_observer_are_told_apart() {
    let mut session = observing(V5);
    session.handle_bytes(0, &subscribe_as(1, Some(1), STATES, 0));
    session.handle_bytes(0, &subscribe_as(2, Some(2), "ft/acme/vend-7/state", 0));
    served(&mut session);
    let mut wanted: Vec<_> = PRESENT.iter().map(|name| shown(name, &[1])).collect();
    wanted.push(shown("acme/vend-7", &[2]));
    assert_eq!(heard(&mut session, V5), wanted);
    let changed = |session: &mut Session| {
        change(session, "acme/vend-7");
        heard(session, V5).into_iter().map(|(_, _, identifiers)| identifiers).collect::<Vec<_>>()
    };
    assert_eq!(changed(&mut session), [vec![1, 2]], "one copy");
    session.handle_bytes(0, &subscribe_as(3, Some(3), STATES, 0b10_0000));
    assert_eq!(changed(&mut session), [vec![2, 3]], "replaced");
    assert_eq!(
        session.subscriptions(),
        [("ft/acme/vend-7/state".to_owned(), Qos::AtMostOnce), (STATES.to_owned(), Qos::AtMostOnce)]
    );
    for (code, rest) in [(0, vec![vec![2]]), (0x11, vec![vec![2]])] {
        session.handle_bytes(0, &unsubscribe(V5, STATES));
        assert_eq!(sent(&mut session).pop(), Some(vec![0xB0, 4, 0, 9, 0, code]));
        assert_eq!(changed(&mut session), rest);
    }
}

/// MQTT-3.3.1-5, MQTT-3.3.1-6, MQTT-3.3.1-7: what is retained is the core's own. CONNACK says so, and a client that
/// would store or remove something is refused.
#[test]
fn only_an_observer_is_offered_what_is_retained_and_stores_nothing() {
    let (mut session, connack) = observing_with(&Hello::default(), Limits::default());
    let (parsed, _) = mqtt_protocol_core::mqtt::packet::v5_0::Connack::parse(&connack[2..]).unwrap();
    let properties: Vec<String> = parsed.props().iter().map(ToString::to_string).collect();
    assert!(properties.iter().any(|text| text.contains("retain_available") && text.contains('1')));
    let own = format!("ft/{WHO}/state");
    for (packet_id, payload) in [(1, &b"lit"[..]), (2, b"")] {
        session.handle_bytes(0, &publish_with(0x33, V5, packet_id, &own, &[], payload));
        assert_eq!(sent(&mut session), [packet(0x40, &[&packet_id.to_be_bytes(), &[0x87]])]);
        assert!(matches!(&events(&mut session)[..], [Event::Refused(refusal)] if refusal.code == 0x87));
    }
    session.handle_bytes(0, &subscribe_as(3, None, &own, 0));
    served(&mut session);
    assert_eq!(heard(&mut session, V5), [shown(WHO, &[])], "as the core says");
}

/// Codes per filter, in both versions; only what was granted is asked of the feed.
#[test]
fn an_observer_is_granted_feed_and_states_of_its_tenant_and_nothing_else() {
    let table = [
        (FEED, true),
        ("ft/acme/feed/json/payment", true),
        (STATES, true),
        ("ft/other/feed/#", false),
        ("ft/other/+/state", false),
        ("ft/acme/#", false),
        ("ft/acme/chip-7/down/#", false),
        ("ft/acme/chip-8/up/+", false),
        ("#", false),
    ];
    for version in [V3, V5] {
        let mut session = observing(version);
        let filters: Vec<_> = table.iter().map(|(filter, _)| (*filter, 1)).collect();
        session.handle_bytes(0, &subscribe(version, 1, &filters));
        let suback = sent(&mut session).remove(0);
        let refused = if version == V5 { 0x87 } else { 0x80 };
        let codes: Vec<u8> = table.iter().map(|(_, granted)| if *granted { 0 } else { refused }).collect();
        assert!(suback.ends_with(&codes), "QoS 0 is what there is: {suback:02X?}");
        let events = events(&mut session);
        let [refusals @ .., Event::Watch { filters }] = &events[..] else { panic!("{events:?}") };
        assert_eq!((refusals.len(), filters.len()), (6, 3));
        let mut party = opened(version);
        party.handle_bytes(0, &subscribe(version, 1, &[(FEED, 0), (STATES, 0)]));
        assert!(sent(&mut party).remove(0).ends_with(&[refused, refused]), "only observers");
    }
    let limits = Limits { max_filters: 2, ..Limits::default() };
    let (mut session, _) = observing_with(&Hello::default(), limits);
    for (filter, code) in [(STATES, 0), (FEED, 0), (STATES, 0), ("ft/acme/feed/+", 0x97)] {
        session.handle_bytes(0, &subscribe(V5, 1, &[(filter, 0)]));
        assert_eq!(sent(&mut session).remove(0), [0x90, 4, 0, 1, 0, code], "{filter}");
        served_or_refused(&mut session);
    }
}

fn served_or_refused(session: &mut Session) {
    let refused = |event: &Event| matches!(event, Event::Refused(_));
    for event in events(session).into_iter().filter(|event| !refused(event)) {
        if matches!(event, Event::Watch { .. }) {
            session.handle_watching();
        }
    }
    served(session);
    sent(session);
}

/// No change falls between the states and the feed: they are asked for when every filter is heard.
#[test]
fn states_are_asked_for_once_the_feed_hears_all_filters() {
    let mut session = observing(V5);
    for filters in 1..=2 {
        session.handle_bytes(0, &subscribe_as(1, None, FEED, 0));
        session.handle_bytes(0, &subscribe_as(2, None, if filters == 1 { FEED } else { STATES }, 0));
        let told = events(&mut session);
        assert!(matches!(&told[..], [Event::Watch { filters: told }] if told.len() == filters), "{told:?}");
    }
    session.handle_watching();
    assert_eq!(events(&mut session), []);
    session.handle_watching();
    let asked = events(&mut session);
    assert!(matches!(&asked[..], [Event::Watching, Event::PullStates { of: None, after: None, .. }]));
}

/// A subscription that ends while its states are on the way is shown nothing, and the next one everything.
#[test]
fn states_of_a_subscription_that_has_ended_are_not_sent() {
    let mut session = observing(V5);
    session.handle_bytes(0, &subscribe_as(1, Some(1), STATES, 0));
    session.handle_watching();
    assert!(matches!(events(&mut session).last(), Some(Event::PullStates { .. })));
    session.handle_bytes(0, &unsubscribe(V5, STATES));
    session.handle_states(vec![state("acme/ann")], true);
    assert_eq!(heard(&mut session, V5), []);
    session.handle_bytes(0, &subscribe_as(2, Some(2), STATES, 0));
    served(&mut session);
    assert_eq!(heard(&mut session, V5), PRESENT.map(|name| shown(name, &[2])));
    session.handle_states(vec![state("acme/ann")], false);
    assert_eq!(heard(&mut session, V5), [], "nobody has asked");
}

/// What does not fit is lost, counted, and told once there is room; states are asked for only while there is room.
#[test]
fn an_observer_that_does_not_read_loses_events_and_is_told_how_many() {
    let limits = Limits { max_transmit_bytes: 200, ..Limits::default() };
    let (mut session, _) = observing_with(&Hello::default(), limits);
    session.handle_bytes(0, &subscribe(V5, 1, &[("ft/acme/feed/json/+", 0), (STATES, 0)]));
    assert!(matches!(&events(&mut session)[..], [Event::Watch { .. }]));
    let mut unread = session.poll_transmit().unwrap();
    for _ in 0..50 {
        feed(&mut session, &device_event(), FeedFormat::Json);
        unread.extend(session.poll_transmit().unwrap_or_default());
    }
    assert!(unread.len() < 400, "{} bytes", unread.len());
    let Counters { feed_sent, feed_lost, .. } = session.counters();
    assert!(feed_sent > 0 && feed_sent + feed_lost == 50, "{feed_sent} {feed_lost}");
    session.handle_watching();
    assert_eq!(events(&mut session), [Event::Watching], "no states without room");
    session.handle_transmitted(1, unread.len());
    let told = sent(&mut session).pop().unwrap();
    assert!(told.ends_with(&FeedEvent::Lost(LostEvent { count: feed_lost }).encode(FeedFormat::Json)));
    assert!(matches!(&events(&mut session)[..], [Event::PullStates { .. }]));
    session.handle_feed_lost(3);
    let told = sent(&mut session).pop().unwrap();
    assert!(told.ends_with(&FeedEvent::Lost(LostEvent { count: 3 }).encode(FeedFormat::Json)));
    assert_eq!(session.counters().feed_lost, feed_lost + 3);
}

/// An observer has no state of its own, so no will.
#[test]
fn an_observer_leaves_no_will() {
    for version in [V3, V5] {
        let own = format!("ft/{WHO}/state");
        let hello = Hello { version, will: Some((&own, b"gone", 0)), ..Hello::default() };
        let (mut session, connack) = observing_with(&hello, Limits::default());
        assert_eq!(connack[3], if version == V5 { 0x87 } else { 5 });
        assert!(session.is_closed());
        let refused =
            |event: &Event| matches!(event, Event::Refused(refusal) if refusal.action == RefusedAction::Will);
        assert!(events(&mut session).iter().any(refused));
    }
}
