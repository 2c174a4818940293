//! PL-1: over real sockets, for every topic and both versions of MQTT, nobody can publish, subscribe or be told anything
//! as somebody else; each attempt is refused by the protocol's own means and is in the journal.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use cloud_core_flows::admin::AdminCommand;
use edge_agent::enrolment::{CertificateClock, IdentityDirectory, client_config};
use farthing_tests::fleet::{Fleet, Machine, Options, TENANT, key_of, principal};
use farthing_tests::wire::{Client, Packet, VERSIONS, Version};
use schemas::envelope::Envelope;
use schemas::ids::{CommandId, IdempotencyKey, MessageId, PaymentId};
use schemas::message::*;
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use schemas::topic::{FeedFormat, FeedKind, Kind, Topic};
use schemas::wire::{SignedBytes, Text};

const NOT_AUTHORIZED: u8 = 0x87;
const V3_FAILURE: u8 = 0x80;
/// The core writes down so many refusals of one principal in a minute, and counts the others.
const AUDITED: usize = 10;

/// Persons `acme/ann`, `acme/bob`, `other/ann`; device `acme/chip` by certificate and `acme/vend` by token.
struct Room {
    fleet: Fleet,
    tokens: BTreeMap<String, String>,
}

impl Room {
    fn new() -> Self {
        const MACHINES: &[Machine] = &[("chip", Some("vend"))];
        let fleet = Fleet::start(Options { machines: MACHINES, ..Options::default() });
        fleet.core(AdminCommand::CreateTenant {
            tenant: "other".parse().unwrap(),
            currency: "EUR".parse().unwrap(),
            bank: cloud_core_flows::admin::BankKind::Internal,
            on_unknown: cloud_core_flows::admin::OnUnknown::Refund,
            deadlines: Default::default(),
            code_rules: Default::default(),
        });
        let mut room = Self { fleet, tokens: BTreeMap::new() };
        for name in ["acme/ann", "acme/bob", "other/ann"] {
            room.person(name);
        }
        room.tokens.insert("acme/vend".to_owned(), room.fleet.token("acme/vend"));
        room
    }

    fn person(&mut self, name: &str) {
        let public_key = Some(PublicKey::of(&key_of(name)));
        self.fleet.core(AdminCommand::CreatePerson {
            person: name.parse().unwrap(),
            public_key,
            bank_account: None,
        });
        self.tokens.insert(name.to_owned(), self.fleet.token(name));
    }

    /// Connected with its token.
    fn enter(&self, name: &str, version: Version) -> Client {
        let mut client = Client::tcp(self.fleet.lane(), version);
        let answer = client.connect(&format!("{name}-{version:?}"), Some((name, &self.tokens[name])));
        assert_eq!(answer, Packet::ConnAck(0), "{name}");
        client
    }

    /// Connected, and listening to everything that is its own.
    fn listen(&self, name: &str, version: Version) -> Client {
        let mut client = self.enter(name, version);
        assert_eq!(client.subscribe(&[&format!("ft/{name}/down/#")]), [1]);
        client
    }

    /// Somebody new, with a whole minute's audit records to use up.
    fn stranger(&mut self, number: usize, version: Version) -> (String, Client) {
        let name = format!("acme/stranger-{number}");
        self.person(&name);
        let client = self.listen(&name, version);
        (name, client)
    }

    /// What the journal says was refused: to whom, what, why.
    fn refusals(&self) -> Vec<(String, String, String)> {
        let of = |record: &serde_json::Value| {
            let refused = record["event"].get("refusal_audited")?;
            let text = |name: &str| refused[name].as_str().unwrap_or_default().to_owned();
            Some((text("principal"), text("what"), text("why")))
        };
        self.fleet.journal().iter().filter_map(of).collect()
    }
}

/// Asks for the time and waits for the answer: the core takes what arrives in its order, so everything before it has had
/// its effect. Whatever else comes until then is given back.
fn everything_until_now(client: &mut Client, name: &str) -> Vec<(String, Vec<u8>)> {
    let question = Up::CloudTime(CloudTimeRequest { nonce: 77 });
    client.publish(
        &format!("ft/{name}/up/cloud-time"),
        &Envelope::message(MessageId([7; 16]), question).encode(),
        1,
    );
    let mut heard = Vec::new();
    loop {
        let (topic, payload) = client.message();
        if topic.ends_with("/down/cloud-time") {
            return heard;
        }
        heard.push((topic, payload));
    }
}

/// Every topic there is of this principal and its tenant.
fn topics_of(name: &str) -> Vec<Topic> {
    let principal: schemas::ids::Principal = name.parse().unwrap();
    let up = Kind::ALL
        .iter()
        .filter(|kind| kind.may_go_up())
        .map(|kind| Topic::Up { principal: principal.clone(), kind: *kind });
    let down = Kind::ALL.iter().filter(|kind| kind.may_go_down());
    let down = down.map(|kind| Topic::Down { principal: principal.clone(), kind: *kind });
    let feed = FeedKind::ALL.iter().flat_map(|kind| {
        let topic = |format| Topic::Feed { tenant: principal.tenant.clone(), kind: *kind, format };
        [FeedFormat::Cbor, FeedFormat::Json].map(topic)
    });
    up.chain(down).chain([Topic::State { principal: principal.clone() }]).chain(feed).collect()
}

/// A good payload for the kind: what is refused is refused for its topic alone.
fn payload_of(kind: Kind) -> Vec<u8> {
    let (payment, command) = (PaymentId([1; 16]), CommandId([1; 16]));
    let (outcome, delivered, code) = (Outcome::Done, 1, None);
    let body = match kind {
        Kind::PaymentRequest => Up::PaymentRequest(PaymentRequest { information: SignedBytes(vec![1]) }),
        Kind::PaymentCancel => Up::PaymentCancel(PaymentCancel { payment }),
        Kind::PaymentRefund => Up::PaymentRefund(PaymentRefund { payment }),
        Kind::HealthCheck => {
            Up::HealthCheck(HealthCheckAnswer { payment, verdict: HealthVerdict::Ready, code })
        }
        Kind::PaymentVerification => {
            Up::PaymentVerification(VerificationAnswer { verification: SignedBytes(vec![1]) })
        }
        Kind::ExecutorCommand => Up::ExecutorCommand(ExecutorOutcome { command, outcome, delivered, code }),
        Kind::CommandStatus => {
            let progress = CommandProgress::NeverSeen;
            Up::CommandStatus(CommandStatusAnswer { command, progress, outcome: None, delivered: 0, code })
        }
        Kind::Refused => {
            let code = "nothing".parse().unwrap();
            Up::Refused(Refused { message: None, about: None, code, text: Text::new("nothing") })
        }
        Kind::StatusRequest => Up::StatusRequest(StatusRequest { payment: None }),
        _ => Up::CloudTime(CloudTimeRequest { nonce: 1 }),
    };
    let id = MessageId([9; 16]);
    match body.is_request() {
        true => Envelope::request(id, IdempotencyKey([9; 16]), Timestamp(u64::MAX / 2), body).encode(),
        false => Envelope::message(id, body).encode(),
    }
}

fn payload_for(topic: &Topic) -> Vec<u8> {
    match topic {
        Topic::Up { kind, .. } | Topic::Down { kind, .. } => payload_of(*kind),
        Topic::State { .. } | Topic::Feed { .. } => b"online".to_vec(),
    }
}

/// Tells of a refusal: by code in MQTT 5, on `down/refused` in 3.1.1, which has no codes.
fn assert_refused(client: &mut Client, name: &str, topic: &str) {
    match client.version {
        Version::V5 => {
            let (code, heard) = client.puback();
            assert_eq!((code, heard), (NOT_AUTHORIZED, vec![]), "{topic}");
        }
        Version::V3 => {
            let (mut heard, mut is_acknowledged) = (None, false);
            while heard.is_none() || !is_acknowledged {
                match client.receive() {
                    Packet::PubAck { .. } => is_acknowledged = true,
                    Packet::Publish { topic, payload, .. } => heard = Some((topic, payload)),
                    other => panic!("{other:?} after {topic}"),
                }
            }
            let (on, payload) = heard.unwrap();
            assert_eq!(on, format!("ft/{name}/down/refused"));
            let Down::Refused(refused) = Down::decode(Kind::Refused, &payload).unwrap().body else {
                panic!()
            };
            assert_eq!(refused.code.as_str(), "topic_refused", "{topic}");
        }
    }
}

#[test]
fn nobody_publishes_as_somebody_else_on_any_topic_in_any_version() {
    let mut room = Room::new();
    let victims = ["acme/ann", "acme/vend", "other/ann"];
    let mut expected = Vec::new();
    let mut number = 0;
    for version in VERSIONS {
        let mut listeners: Vec<_> =
            victims.iter().map(|victim| (*victim, room.listen(victim, version))).collect();
        for victim in victims {
            let topics = topics_of(victim);
            for some in topics.chunks(AUDITED) {
                number += 1;
                let (name, mut attacker) = room.stranger(number, version);
                for topic in some {
                    let text = topic.to_string();
                    attacker.publish(&text, &payload_for(topic), 1);
                    assert_refused(&mut attacker, &name, &text);
                    expected.push((name.clone(), text));
                }
                assert_eq!(everything_until_now(&mut attacker, &name), [], "{name} is told nothing more");
            }
        }
        for (victim, listener) in &mut listeners {
            assert_eq!(everything_until_now(listener, victim), [], "nothing arrives at {victim}");
        }
    }
    let refusals = room.refusals();
    for (name, topic) in expected {
        let is_there =
            refusals.iter().any(|(who, what, _)| *who == name && *what == format!("Publish {topic}"));
        assert!(is_there, "the journal does not tell that {name} tried {topic}");
    }
}

/// The same with QoS 0, which no version acknowledges: refused on `down/refused`.
#[test]
fn a_refused_publish_without_acknowledgement_is_answered_on_down_refused() {
    let room = Room::new();
    for version in VERSIONS {
        let mut attacker = room.listen("acme/bob", version);
        attacker.publish("ft/acme/ann/up/payment-cancel", &payload_of(Kind::PaymentCancel), 0);
        let (topic, _) = attacker.message();
        assert_eq!(topic, "ft/acme/bob/down/refused", "{version:?}");
    }
}

#[test]
fn nobody_publishes_what_only_the_cloud_says_not_even_to_himself() {
    let mut room = Room::new();
    let mut number = 0;
    for version in VERSIONS {
        let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| kind.may_go_down()).collect();
        for some in kinds.chunks(AUDITED) {
            number += 1;
            let (name, mut client) = room.stranger(number, version);
            for kind in some {
                let topic = format!("ft/{name}/down/{kind}");
                client.publish(&topic, &payload_of(*kind), 1);
                assert_refused(&mut client, &name, &topic);
            }
            assert_eq!(everything_until_now(&mut client, &name), []);
        }
    }
}

#[test]
fn nobody_subscribes_beyond_his_own_down_in_any_version() {
    let mut room = Room::new();
    let victims = ["acme/ann", "acme/vend", "other/ann"];
    let mut expected = Vec::new();
    for (number, version) in (500..).zip(VERSIONS) {
        let mut filters: Vec<String> =
            victims.iter().flat_map(|victim| topics_of(victim)).map(|topic| topic.to_string()).collect();
        filters.extend(
            victims.iter().flat_map(|victim| [format!("ft/{victim}/down/#"), format!("ft/{victim}/down/+")]),
        );
        let wide =
            ["#", "+/+/+/down/+", "ft/#", "ft/acme/#", "ft/acme/+/down/+", "ft/+/ann/down/+", "$SYS/#"];
        filters.extend(wide.map(str::to_owned));
        for (more, some) in filters.chunks(AUDITED).enumerate() {
            let (name, mut client) = room.stranger(number * 100 + more, version);
            let mut asked: Vec<&str> = some.iter().map(String::as_str).collect();
            // One filter of its own in the same packet: each has its own answer.
            let own = format!("ft/{name}/down/refused");
            asked.push(&own);
            let refused = if version == Version::V5 { NOT_AUTHORIZED } else { V3_FAILURE };
            let codes = client.subscribe(&asked);
            let mut wanted = vec![refused; some.len()];
            wanted.push(1);
            assert_eq!(codes, wanted, "{version:?} {asked:?}");
            expected.extend(some.iter().map(|filter| (name.clone(), filter.clone())));
            assert_eq!(everything_until_now(&mut client, &name), []);
        }
    }
    let refusals = room.refusals();
    for (name, filter) in expected {
        let is_there =
            refusals.iter().any(|(who, what, _)| *who == name && *what == format!("Subscribe {filter}"));
        assert!(is_there, "the journal does not tell that {name} tried {filter}");
    }
}

/// What is for one person reaches all that person's terminals and nobody else.
#[test]
fn what_one_is_told_nobody_else_hears() {
    let room = Room::new();
    for version in VERSIONS {
        let mut bystanders: Vec<_> = ["acme/bob", "other/ann", "acme/vend"]
            .iter()
            .map(|name| (*name, room.listen(name, version)))
            .collect();
        let mut ann = room.listen("acme/ann", version);
        let request = Envelope::request(
            MessageId([1; 16]),
            IdempotencyKey([if version == Version::V5 { 5 } else { 3 }; 16]),
            device_sim::live::terminal::now().plus_ms(60_000),
            Up::PaymentCancel(PaymentCancel { payment: PaymentId([1; 16]) }),
        );
        ann.publish("ft/acme/ann/up/payment-cancel", &request.encode(), 1);
        let (topic, _) = ann.message();
        assert_eq!(topic, "ft/acme/ann/down/request-answer");
        for (name, client) in &mut bystanders {
            assert_eq!(everything_until_now(client, name), [], "{name}");
        }
    }
}

/// A device can't use a person's kinds, a person can't use a device's; refused by the core, which knows who is what.
#[test]
fn a_device_does_not_speak_as_a_person_and_a_person_not_as_a_device() {
    let mut room = Room::new();
    let persons = [
        Kind::PaymentRequest,
        Kind::PaymentCancel,
        Kind::PaymentRefund,
        Kind::PaymentVerification,
        Kind::StatusRequest,
    ];
    let devices = [Kind::HealthCheck, Kind::ExecutorCommand, Kind::CommandStatus, Kind::Refused];
    for (number, version) in (900..).zip(VERSIONS) {
        let (person, client) = room.stranger(number, version);
        let vend = room.listen("acme/vend", version);
        for (name, mut client, kinds) in
            [(person, client, &devices[..]), ("acme/vend".to_owned(), vend, &persons[..])]
        {
            for kind in kinds {
                client.publish(&format!("ft/{name}/up/{kind}"), &payload_of(*kind), 1);
                // The core says it on down/refused in every version, and by code where there are codes.
                let (mut told, mut code) = (None, None);
                while told.is_none() || code.is_none() {
                    match client.receive() {
                        Packet::PubAck { code: puback, .. } => code = Some(puback),
                        Packet::Publish { payload, .. } => told = Some(payload),
                        other => panic!("{other:?}"),
                    }
                }
                let Down::Refused(refused) = Down::decode(Kind::Refused, &told.unwrap()).unwrap().body else {
                    panic!()
                };
                assert_eq!(refused.code.as_str(), "not_your_message", "{name} {kind}");
                assert_eq!(
                    code,
                    Some(if version == Version::V5 { NOT_AUTHORIZED } else { 0 }),
                    "{name} {kind}"
                );
                let is_audited = room.refusals().iter().any(|(who, what, why)| {
                    *who == name && what == kind.as_str() && why.contains("not_your_message")
                });
                assert!(is_audited, "{name} {kind}: {:?}", room.refusals());
            }
        }
    }
}

/// A certificate alone says who it is, and only while the core says that it counts.
#[test]
fn a_certificate_counts_for_its_own_name_until_it_is_replaced_or_revoked() {
    let room = Room::new();
    let tls = |version| {
        let identity = IdentityDirectory::open(&room.fleet.directory_of("chip").join("identity")).unwrap();
        let (enrolled, key) = (identity.load().unwrap().unwrap(), identity.key().unwrap().unwrap());
        let clock = Arc::new(CertificateClock::new(0));
        let config =
            client_config(&enrolled.ca_der, Some((&key, &enrolled.certificate_chain)), clock).unwrap();
        Client::tls(room.fleet.addresses.mqtt_tls.unwrap(), config, version)
    };
    for version in VERSIONS {
        let mut chip = tls(version);
        // A token of somebody else beside the certificate changes nothing: the certificate is who it is.
        let credentials = Some(("acme/ann", room.tokens["acme/ann"].as_str()));
        assert_eq!(chip.connect("chip", credentials), Packet::ConnAck(0));
        assert_eq!(chip.subscribe(&["ft/acme/chip/down/#"]), [1]);
        chip.publish("ft/acme/ann/up/status-request", &payload_of(Kind::StatusRequest), 1);
        assert_refused(&mut chip, "acme/chip", "ft/acme/ann/up/status-request");
        assert_eq!(everything_until_now(&mut chip, "acme/chip"), []);
    }
    let replaced: Vec<Client> = VERSIONS.map(tls).into();
    // Enrolled anew, by another key in another place: the older certificate is still in its time and counts no more.
    let aside = room.fleet.directory().join("aside");
    std::fs::rename(room.fleet.directory_of("chip"), &aside).unwrap();
    room.fleet.enrol("chip");
    for mut old in replaced {
        let answer = old.connect("chip", None);
        assert!(matches!(answer, Packet::ConnAck(code) if code != 0), "{answer:?}");
    }
    for version in VERSIONS {
        assert_eq!(tls(version).connect("chip", None), Packet::ConnAck(0), "the new one counts");
    }
    let mut live = tls(Version::V5);
    assert_eq!(live.connect("chip", None), Packet::ConnAck(0));
    room.fleet.core(AdminCommand::RevokeDevice { device: principal("chip") });
    assert!(
        matches!(live.receive(), Packet::Disconnect(NOT_AUTHORIZED) | Packet::End),
        "the session ends at once"
    );
    for version in VERSIONS {
        let answer = tls(version).connect("chip", None);
        assert!(matches!(answer, Packet::ConnAck(code) if code != 0), "{answer:?}");
    }
    assert!(room.refusals().iter().any(|(_, what, why)| what.contains("connect") && why == "Revoked"));
}

#[test]
fn a_token_is_good_for_its_owner_only() {
    let room = Room::new();
    let token = &room.tokens["acme/bob"];
    for version in VERSIONS {
        for name in ["acme/ann", "other/ann", "acme/chip", "acme/nobody", "acme/ann/down", ""] {
            let answer = Client::tcp(room.fleet.lane(), version).connect("c", Some((name, token)));
            assert!(matches!(answer, Packet::ConnAck(code) if code != 0), "{name}: {answer:?}");
        }
        let anonymous = Client::tcp(room.fleet.lane(), version).connect("c", None);
        assert!(matches!(anonymous, Packet::ConnAck(code) if code != 0), "{anonymous:?}");
    }
    assert_eq!(TENANT, "acme", "the names above are of the first tenant");
}
