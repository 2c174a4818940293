//! Observers over real sockets: they hear the feed and every `state` of their own tenant, and say nothing (PL-1).
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, Filter, Listing};
use farthing_tests::fleet::{Fleet, Machine, Options, pay_info};
use farthing_tests::wire::{Client, Packet, VERSIONS, Version};
use farthing_tests::{PATIENCE, until};
use schemas::feed::{DeviceChange, FeedEvent, PresenceEvent, PresenceState};
use schemas::message::PaymentState;
use schemas::topic::{FeedFormat, FeedKind};

/// Tenants `acme` and `other`, an observer `screen` in each, and a device `acme/lamp`.
struct Room {
    fleet: Fleet,
}

impl Room {
    fn new() -> Self {
        let fleet = Fleet::start(Options::default());
        fleet.core(AdminCommand::CreateTenant {
            tenant: "other".parse().unwrap(),
            currency: "EUR".parse().unwrap(),
            bank: cloud_core_flows::admin::BankKind::Internal,
            on_unknown: cloud_core_flows::admin::OnUnknown::Refund,
            deadlines: Default::default(),
            code_rules: Default::default(),
        });
        for screen in ["acme/screen", "other/screen"] {
            let observer = screen.parse().unwrap();
            fleet.core(AdminCommand::CreateObserver { observer });
        }
        let room = Self { fleet };
        room.device("acme/lamp");
        room
    }

    fn device(&self, name: &str) {
        let device = name.parse().unwrap();
        let profile = "vending-executor".to_owned();
        self.fleet.core(AdminCommand::CreateDevice { device, profile, longest_act_ms: 500 });
    }

    fn enter(&self, name: &str, version: Version) -> Client {
        let mut client = Client::tcp(self.fleet.lane(), version);
        let token = self.fleet.token(name);
        assert_eq!(client.connect(&format!("{name}-{version:?}"), Some((name, &token))), Packet::ConnAck(0));
        client
    }

    /// An observer of feed and states that has been shown every state, and so hears everything from now on.
    fn observe(&self, name: &str, version: Version, states: usize) -> (Client, Vec<PresenceEvent>) {
        let mut client = self.enter(name, version);
        let (tenant, _) = name.split_once('/').unwrap();
        let filters = [format!("ft/{tenant}/feed/#"), format!("ft/{tenant}/+/state")];
        assert_eq!(client.subscribe(&[&filters[0], &filters[1]]), [0, 0], "QoS 0 is what there is");
        let shown = (0..states).map(|_| {
            let (topic, payload, retain) = next(&mut client);
            let FeedEvent::Presence(state) = FeedEvent::decode(FeedKind::Presence, &payload).unwrap() else {
                panic!("{topic}")
            };
            assert_eq!(topic, format!("ft/{}/state", state.principal));
            assert!(retain, "{topic} is as it stands, not a change");
            state
        });
        let shown = shown.collect();
        (client, shown)
    }
}

fn next(client: &mut Client) -> (String, Vec<u8>, bool) {
    loop {
        match client.receive() {
            Packet::Publish { topic, payload, retain, packet_id: None } => return (topic, payload, retain),
            Packet::Pong => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The next messages, by topic.
fn messages(client: &mut Client, count: usize) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = (0..count)
        .map(|_| {
            let (topic, payload, retain) = next(client);
            assert!(!retain, "{topic} is a change");
            (topic, payload)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn an_observer_is_shown_what_stands_then_what_changes_in_both_formats() {
    let room = Room::new();
    for (round, version) in VERSIONS.into_iter().enumerate() {
        let (mut screen, states) = room.observe("acme/screen", version, 3 + round);
        let names: Vec<String> = states.iter().map(|state| state.principal.to_string()).collect();
        let mut expected = vec!["acme/lamp", "acme/new-0", "acme/payer-0", "acme/till"];
        expected.retain(|name| round > 0 || *name != "acme/new-0");
        assert_eq!(names, expected, "observers themselves are not shown");
        let lamp = if round == 0 { PresenceState::Unknown } else { PresenceState::Disconnected };
        assert_eq!(states[0].presence, lamp, "not seen since the start is told apart from gone");
        assert_eq!(states[1].presence, PresenceState::Unknown);
        let mut device = room.enter("acme/lamp", version);
        for said in [None, Some("lit")] {
            if let Some(said) = said {
                device.publish("ft/acme/lamp/state", said.as_bytes(), 1);
            }
            let heard = messages(&mut screen, 3);
            let topics: Vec<&str> = heard.iter().map(|(topic, _)| topic.as_str()).collect();
            assert_eq!(topics, ["ft/acme/feed/json/presence", "ft/acme/feed/presence", "ft/acme/lamp/state"]);
            assert_eq!(heard[1].1, heard[2].1);
            let event = FeedEvent::decode(FeedKind::Presence, &heard[1].1).unwrap();
            assert_eq!(event.encode(FeedFormat::Json), heard[0].1);
            let FeedEvent::Presence(state) = event else { panic!() };
            assert_eq!(state.presence, PresenceState::Connected);
            assert_eq!(state.said.as_ref().map(|text| text.as_str()), said);
        }
        let name = format!("acme/new-{round}");
        room.device(&name);
        let heard = messages(&mut screen, 2);
        assert_eq!(heard[0].0, "ft/acme/feed/device");
        let FeedEvent::Device(event) = FeedEvent::decode(FeedKind::Device, &heard[0].1).unwrap() else {
            panic!()
        };
        assert_eq!((event.device.to_string(), event.change), (name, DeviceChange::Registered));
        let json: serde_json::Value = serde_json::from_slice(&heard[1].1).unwrap();
        assert_eq!(
            (heard[1].0.as_str(), &json["body"]["change"]),
            ("ft/acme/feed/json/device", &"registered".into())
        );
        drop(device);
        let heard = messages(&mut screen, 3);
        assert!(String::from_utf8_lossy(&heard[0].1).contains("disconnected"));
        room.fleet.core(AdminCommand::RevokeDevice { device: format!("acme/new-{round}").parse().unwrap() });
        assert!(String::from_utf8_lossy(&messages(&mut screen, 2)[1].1).contains("revoked"));
    }
}

#[test]
fn an_observer_of_one_tenant_hears_nothing_of_another() {
    let room = Room::new();
    // Somebody whose state is shown: when it has come, all that comes later is a change.
    room.device("other/steady");
    for (round, version) in VERSIONS.into_iter().enumerate() {
        let (mut other, _) = room.observe("other/screen", version, round + 1);
        room.device(&format!("acme/quiet-{round}"));
        let mut lamp = room.enter("acme/lamp", version);
        lamp.publish("ft/acme/lamp/state", b"lit", 1);
        assert!(matches!(lamp.receive(), Packet::PubAck { .. }));
        room.device(&format!("other/loud-{round}"));
        for (topic, _) in messages(&mut other, 2) {
            assert!(topic.starts_with("ft/other/feed/"), "{topic}");
        }
    }
}

/// What it may not: publish anything at all, leave a will, subscribe anything else; each is in the journal.
#[test]
fn an_observer_only_listens() {
    let room = Room::new();
    let own_up = "ft/acme/screen/up/cloud-time";
    let topics = [
        own_up,
        "ft/acme/screen/state",
        "ft/acme/lamp/state",
        "ft/acme/feed/payment",
        "ft/acme/feed/json/device",
    ];
    let filters = [
        "#",
        "ft/acme/#",
        "ft/+/feed/#",
        "ft/other/feed/#",
        "ft/other/+/state",
        "ft/acme/screen/down/#",
        "ft/acme/till/down/+",
        "ft/acme/+/+",
    ];
    for version in VERSIONS {
        let mut screen = room.enter("acme/screen", version);
        for topic in topics {
            screen.publish(topic, b"x", 1);
            let code = screen.puback().0;
            // MQTT 3.1.1 has no codes.
            assert_eq!(code, if version == Version::V5 { 0x87 } else { 0 }, "{topic}");
        }
        for filter in filters {
            let [code] = screen.subscribe(&[filter])[..] else { panic!() };
            assert!(code >= 0x80, "{filter}");
        }
        let (mut again, _) = room.observe("acme/screen", version, 3);
        again.send(0xC0, &[]);
        assert_eq!(again.receive(), Packet::Pong, "nothing that it tried has had an effect");
    }
    let refused = room.fleet.journal().into_iter().filter_map(|record| {
        let refused = record["event"].get("refusal_audited")?.clone();
        (refused["principal"] == "acme/screen").then(|| refused["what"].as_str().unwrap().to_owned())
    });
    let refused: Vec<String> = refused.collect();
    for topic in topics {
        assert!(refused.contains(&format!("Publish {topic}")), "{topic}: {refused:?}");
    }
    let all = AdminCommand::Find { listing: Listing::Observers, filter: Filter::default() };
    let AdminAnswer::Observers(observers) = room.fleet.core(all) else { panic!() };
    assert_eq!(observers.len(), 2);
}

/// The names of observers, people and devices are apart, and registering twice changes nothing.
#[test]
fn a_name_has_one_meaning() {
    let room = Room::new();
    let observer = |name: &str| AdminCommand::CreateObserver { observer: name.parse().unwrap() };
    let code = |command| room.fleet.ask(command).map_err(|error| error.to_string()).err();
    assert_eq!(code(observer("acme/screen")), None, "the same again");
    for taken in ["acme/lamp", "acme/till", "nobody/screen"] {
        assert!(code(observer(taken)).is_some(), "{taken}");
    }
    let person = "acme/screen".parse().unwrap();
    assert!(code(AdminCommand::CreatePerson { person, public_key: None, bank_account: None }).is_some());
}

/// PL-1: whoever is no observer any more is out at once and stays out, and the name is not given again.
#[test]
fn a_deleted_observer_is_out_at_once() {
    let room = Room::new();
    for version in VERSIONS {
        let name = format!("acme/guest-{version:?}").to_lowercase();
        let observer: schemas::ids::Principal = name.parse().unwrap();
        room.fleet.core(AdminCommand::CreateObserver { observer: observer.clone() });
        let token = room.fleet.token(&name);
        let mut guest = Client::tcp(room.fleet.lane(), version);
        assert_eq!(guest.connect("guest", Some((&name, &token))), Packet::ConnAck(0));
        assert_eq!(guest.subscribe(&["ft/acme/feed/#"]), [0]);
        room.fleet.core(AdminCommand::DeleteObserver { observer: observer.clone() });
        if version == Version::V5 {
            assert!(matches!(guest.receive(), Packet::Disconnect(_)));
        }
        assert_eq!(guest.receive(), Packet::End);
        let mut again = Client::tcp(room.fleet.lane(), version);
        assert_ne!(again.connect("guest", Some((&name, &token))), Packet::ConnAck(0));
        assert!(room.fleet.ask(AdminCommand::CreateObserver { observer }).is_err());
    }
}

const MACHINES: &[Machine] = &[("chip", Some("vend"))];

/// A chip, its executor and a payer; one more observer, `acme/screen`.
fn shop(options: Options) -> Fleet {
    let mut fleet = Fleet::start(Options { machines: MACHINES, ..options });
    fleet.start_device("chip", Path::new("payment-chip"), "", None);
    fleet.start_device("vend", Path::new("vending-executor"), "done", None);
    fleet.wait_for_device("chip");
    fleet.wait_for_device("vend");
    fleet.core(AdminCommand::CreateObserver { observer: "acme/screen".parse().unwrap() });
    fleet
}

/// A payment, from the code that the chip shows to the delivery.
async fn buy(fleet: &Fleet) {
    let mut payer = fleet.terminal("payer-0");
    let chip = fleet.directory_of("chip");
    let shown = until("a code of the chip", || pay_info(&chip, "water", 1));
    let payment = payer.pay(shown, PATIENCE).await.unwrap();
    let asked = payer.asked(payment, PATIENCE).await.unwrap();
    payer.verify(&asked).await.unwrap();
    payer.status(payment, PATIENCE, |status| status.state == PaymentState::Delivered).await.unwrap();
}

fn watching(fleet: &Fleet, filter: &str) -> Client {
    let mut screen = Client::tcp(fleet.lane(), Version::V3);
    let token = fleet.token("acme/screen");
    assert_eq!(screen.connect(filter, Some(("acme/screen", &token))), Packet::ConnAck(0));
    assert_eq!(screen.subscribe(&[filter]), [0]);
    screen
}

fn metric(fleet: &Fleet, name: &str) -> u64 {
    let mut stream = TcpStream::connect(fleet.addresses.http.unwrap()).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let value = answer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{answer}"));
    value.trim().parse().unwrap()
}

/// The router's thread dies at each fourth event, in the middle of payments: each payment is delivered all the same, the
/// process goes on, observers are told that they missed something and hear what comes after.
#[test]
fn payments_go_on_while_the_feeds_router_dies() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let core_environment = &[("FARTHING_FEED_DIES_EVERY", "4")];
    let fleet = shop(Options { core_environment, ..Options::default() });
    let mut screen = watching(&fleet, "ft/acme/feed/json/#");
    for _ in 0..3 {
        runtime.block_on(buy(&fleet));
    }
    assert!(metric(&fleet, "farthing_feed_restarts_total") >= 3);
    let (mut was_told, mut heard_after) = (false, false);
    while !heard_after {
        let (topic, _, _) = next(&mut screen);
        heard_after |= was_told && topic != "ft/acme/feed/json/lost";
        was_told |= topic == "ft/acme/feed/json/lost";
    }
    runtime.block_on(buy(&fleet));
}

/// An observer that reads nothing while thousands of events pass: it loses them, a payment is delivered, and another
/// observer hears what happens.
#[test]
fn an_observer_that_reads_nothing_holds_up_no_payment() {
    const EVENTS: u32 = 20_000;
    let core_settings =
        &["--principal-packets-per-second", "1000000", "--principal-bytes-per-second", "1000000000"];
    let fleet = shop(Options { core_settings, ..Options::default() });
    let _deaf = watching(&fleet, "ft/acme/feed/#");
    let token = fleet.token("acme/till");
    let mut till = Client::tcp(fleet.lane(), Version::V3);
    assert_eq!(till.connect("till", Some(("acme/till", &token))), Packet::ConnAck(0));
    for number in 0..EVENTS {
        till.publish("ft/acme/till/state", format!("{number:060}").as_bytes(), 0);
    }
    till.publish("ft/acme/till/state", b"done", 1);
    assert!(matches!(till.receive(), Packet::PubAck { .. }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(buy(&fleet));
    until("lost events, counted", || (metric(&fleet, "farthing_feed_lost_total") > 0).then_some(()));
    let mut quick = watching(&fleet, "ft/acme/till/state");
    let (_, payload, retain) = next(&mut quick);
    let state = FeedEvent::decode(FeedKind::Presence, &payload).unwrap();
    assert!(matches!(&state, FeedEvent::Presence(state) if state.said.as_ref().unwrap().as_str() == "done"));
    assert!(retain);
    till.publish("ft/acme/till/state", b"again", 0);
    loop {
        let (_, payload, _) = next(&mut quick);
        let FeedEvent::Presence(state) = FeedEvent::decode(FeedKind::Presence, &payload).unwrap() else {
            panic!()
        };
        if state.said.unwrap().as_str() == "again" {
            break;
        }
    }
}

#[test]
#[ignore = "needs mosquitto-clients"]
fn mosquitto_sub_shows_the_feed() {
    let room = Room::new();
    let address = room.fleet.lane();
    for version in ["mqttv311", "mqttv5"] {
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-V", version, "-i", version])
            .args(["-u", "acme/screen", "-P", &room.fleet.token("acme/screen"), "-F", "%r %t %p"])
            .args(["-t", "ft/acme/feed/json/#", "-t", "ft/acme/lamp/state"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let shown = lines.next().unwrap();
        // CBOR is no text; that it came is enough.
        assert!(shown.is_err() || shown.unwrap().starts_with("1 ft/acme/lamp/state"));
        room.device(&format!("acme/{version}"));
        let line = lines.next().unwrap().unwrap();
        let json = line.strip_prefix("0 ft/acme/feed/json/device ").unwrap_or_else(|| panic!("{line}"));
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["body"]["device"], format!("acme/{version}"));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
