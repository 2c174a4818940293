//! What nobody should send, sent: each is refused by name, and nobody else notices.
#![allow(clippy::unwrap_used, reason = "tests")]

use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use device_sim::live::terminal::now;
use ed25519_dalek::SigningKey;
use edge_agent::enrolment::IdentityDirectory;
use farthing_tests::fleet::{Fleet, Machine, Options, key_of, pay_info, principal};
use farthing_tests::process::{Process, binary, command, run, text};
use farthing_tests::random::Random;
use farthing_tests::until;
use farthing_tests::wire::{Client, Packet, Version};
use schemas::envelope::Envelope;
use schemas::ids::{IdempotencyKey, MessageId, Nonce};
use schemas::limits;
use schemas::message::*;
use schemas::signed::{PaymentInformation, Verification};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::{SignedBytes, Text};

const PAYER: &str = "acme/payer-0";

fn fleet() -> Fleet {
    const MACHINES: &[Machine] = &[("chip", None)];
    Fleet::start(Options { machines: MACHINES, payers: 2, ..Options::default() })
}

fn enter(fleet: &Fleet, name: &str) -> Client {
    let mut client = Client::tcp(fleet.lane(), Version::V5);
    assert_eq!(client.connect(name, Some((name, &fleet.token(name)))), Packet::ConnAck(0));
    assert_eq!(client.subscribe(&[&format!("ft/{name}/down/#")]), [1]);
    client
}

/// The chip's own key, as somebody has it who opened the chip on a bench.
fn stolen_key(fleet: &Fleet) -> SigningKey {
    let identity = IdentityDirectory::open(&fleet.directory_of("chip").join("identity")).unwrap();
    identity.key().unwrap().unwrap().signing_key().clone()
}

fn information() -> PaymentInformation {
    PaymentInformation {
        chip: principal("chip"),
        nonce: Nonce([1; 8]),
        issued_at: now(),
        expires_at: now().plus_ms(60_000),
        payee: "snacks".parse().unwrap(),
        amount: "1.50 EUR".parse().unwrap(),
        item: "water".parse().unwrap(),
        quantity: 1,
    }
}

/// Sends a request under this key; the code of the refusal, or none.
fn ask(client: &mut Client, key: u8, not_after: Timestamp, information: SignedBytes) -> Option<String> {
    let (id, key) = (MessageId([key; 16]), IdempotencyKey([key; 16]));
    let body = Up::PaymentRequest(PaymentRequest { information });
    client.publish(
        &format!("ft/{PAYER}/up/payment-request"),
        &Envelope::request(id, key, not_after, body).encode(),
        1,
    );
    loop {
        let (topic, payload) = client.message();
        if !topic.ends_with("/request-answer") {
            continue;
        }
        let Down::RequestAnswer(answer) = Down::decode(Kind::RequestAnswer, &payload).unwrap().body else {
            panic!()
        };
        if answer.key == key {
            assert_ne!(answer.payment.is_some(), answer.refused.is_some());
            assert!(!answer.text.to_string().is_empty());
            return answer.refused.map(|code| code.to_string());
        }
    }
}

/// Whoever speaks no MQTT, or too much of it, loses the connection; everybody else goes on.
#[test]
fn garbage_on_the_lane_ends_its_own_connection_only() {
    let fleet = fleet();
    let mut bystander = enter(&fleet, PAYER);
    let mut random = Random::new(3);
    let mut garbage: Vec<Vec<u8>> = (0..40)
        .map(|_| (0..1 + random.below(200)).map(|_| random.next_u64().to_be_bytes()[0]).collect())
        // A first byte that begins a CONNECT with a sane length would be waited on for the rest, rightly.
        .filter(|bytes: &Vec<u8>| bytes[0] >> 4 != 1)
        .collect();
    garbage.push(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    garbage.push(vec![0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0, 0]);
    garbage.push(vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F]);
    garbage.push(vec![0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]);
    garbage.push(vec![0x30, 0x02, 0, 0]);
    for bytes in garbage {
        let mut client = Client::tcp(fleet.lane(), Version::V5);
        client.send_raw(&bytes);
        // Longer than what is announced, so that nobody waits for the rest.
        client.send_raw(&vec![0xFF; 20_000]);
        let answer = client.receive();
        assert!(
            matches!(answer, Packet::End | Packet::Disconnect(_) | Packet::ConnAck(0x80..)),
            "{bytes:?}: {answer:?}"
        );
    }
    let mut greedy = Client::tcp(fleet.lane(), Version::V5);
    assert_eq!(greedy.connect("greedy", Some((PAYER, &fleet.token(PAYER)))), Packet::ConnAck(0));
    greedy.send_raw(&[0x32, 0xFF, 0xFF, 0xFF, 0x7F]);
    assert_eq!(greedy.receive(), Packet::Disconnect(0x95), "packet too large, said before it is read");

    assert_eq!(
        ask(&mut bystander, 1, now().plus_ms(60_000), SignedBytes(vec![1])).as_deref(),
        Some("information_invalid")
    );
    let log = std::fs::read_to_string(fleet.directory().join("core.log")).unwrap();
    assert!(!log.contains("ERROR") && !log.contains("panic"), "{log}");
}

#[test]
fn payloads_that_are_no_message_are_refused_by_code_and_by_name() {
    let fleet = fleet();
    let mut client = enter(&fleet, PAYER);
    let good = |v: u32| {
        Envelope { v, ..Envelope::message(MessageId([1; 16]), StatusRequest { payment: None }) }.encode()
    };
    let with = |end: &[u8]| [good(1).as_slice(), end].concat();
    let mut twice = good(1);
    // The map gets one more pair than it says, which is a second `v`.
    twice[0] += 1;
    twice.extend(b"\x61v\x01");
    let no_key =
        Envelope::message(MessageId([1; 16]), PaymentCancel { payment: schemas::ids::PaymentId([1; 16]) });
    let table: [(&str, Kind, Vec<u8>, &str); 9] = [
        ("nothing", Kind::StatusRequest, vec![], "payload_invalid"),
        ("text", Kind::StatusRequest, b"hello".to_vec(), "payload_invalid"),
        ("deep arrays", Kind::StatusRequest, vec![0x81; 8_000], "payload_invalid"),
        ("deep maps", Kind::StatusRequest, b"\xA1\x61v".repeat(2_500), "payload_invalid"),
        (
            "a length of 2^63",
            Kind::StatusRequest,
            b"\x9B\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF".to_vec(),
            "payload_invalid",
        ),
        ("a trailing byte", Kind::StatusRequest, with(b"\x00"), "payload_invalid"),
        ("a field twice", Kind::StatusRequest, twice, "payload_invalid"),
        ("a later version", Kind::StatusRequest, good(2), "version_unknown"),
        ("a request without its key", Kind::PaymentCancel, no_key.encode(), "not_a_request"),
    ];
    for (what, kind, payload, expected) in table {
        client.publish(&format!("ft/{PAYER}/up/{kind}"), &payload, 1);
        let (mut code, mut refused) = (None, None);
        while code.is_none() || refused.is_none() {
            match client.receive() {
                Packet::PubAck { code: puback, .. } => code = Some(puback),
                Packet::Publish { payload, .. } => {
                    refused = Some(Down::decode(Kind::Refused, &payload).unwrap().body)
                }
                other => panic!("{what}: {other:?}"),
            }
        }
        let Some(Down::Refused(refused)) = refused else { panic!() };
        assert_eq!((code, refused.code.as_str()), (Some(0x99), expected), "{what}");
    }
    client.publish(&format!("ft/{PAYER}/up/status-request"), &vec![0; limits::PAYLOAD_BYTES + 1], 1);
    assert_eq!(client.puback().0, 0x97, "larger than any message");
    client.publish(&format!("ft/{PAYER}/up/status-request"), &good(1), 1);
    assert_eq!(client.puback().0, 0, "the connection lives on");
}

/// CP-1, CP-2, CP-5, MO-3: what is signed wrongly, too old, for another, or for nothing.
#[test]
fn payment_requests_that_must_not_be_paid_are_answered_with_the_reason() {
    let fleet = fleet();
    let mut client = enter(&fleet, PAYER);
    let chip_key = stolen_key(&fleet);
    let soon = now().plus_ms(60_000);
    let changed = |change: fn(&mut PaymentInformation)| {
        let mut changed = information();
        change(&mut changed);
        changed.sign(&chip_key)
    };
    let table: [(SignedBytes, Timestamp, &str); 11] = [
        (SignedBytes(vec![0xD2; 200]), soon, "information_invalid"),
        (SignedBytes(vec![0x81; 512]), soon, "information_invalid"),
        (information().sign(&key_of("somebody")), soon, "signature_invalid"),
        (changed(|i| i.chip = principal("nobody")), soon, "chip_unknown"),
        (changed(|i| i.chip = "other/chip".parse().unwrap()), soon, "chip_unknown"),
        (changed(|i| i.expires_at = Timestamp(now().0 - 2_000)), soon, "information_expired"),
        (changed(|i| i.payee = "another".parse().unwrap()), soon, "payee_mismatch"),
        (changed(|i| i.amount = "0 EUR".parse().unwrap()), soon, "amount_zero"),
        (changed(|i| i.amount = "1.50 USD".parse().unwrap()), soon, "currency_mismatch"),
        (information().sign(&chip_key), Timestamp(now().0 - 1_000), "request_expired"),
        (information().sign(&chip_key), now().plus_ms(limits::REQUEST_LIFE_MS + 60_000), "not_after_too_far"),
    ];
    for (key, (information, not_after, expected)) in (10..).zip(table) {
        assert_eq!(ask(&mut client, key, not_after, information).as_deref(), Some(expected));
    }
    let mut tampered = information().sign(&chip_key);
    let last = tampered.0.len() - 1;
    tampered.0[last] ^= 1;
    assert_eq!(ask(&mut client, 40, soon, tampered).as_deref(), Some("signature_invalid"));
    let AdminAnswer::Payments(rows) = fleet.core(AdminCommand::ListPayments { open_only: false }) else {
        panic!()
    };
    assert!(rows.is_empty(), "{rows:?}");
}

/// CP-2, CP-3, CP-4, CP-5: one information is sold once, and consent binds to one key, payee and amount.
#[test]
fn an_information_shown_twice_is_sold_once_and_a_consent_by_another_is_none() {
    let mut fleet = fleet();
    fleet.start_device("chip", std::path::Path::new("payment-chip"), "", None);
    fleet.wait_for_device("chip");
    let mut client = enter(&fleet, PAYER);
    let information = until("what the chip shows", || pay_info(&fleet.directory_of("chip"), "water", 1));
    let until_when = now().plus_ms(60_000);
    assert_eq!(ask(&mut client, 1, until_when, information.clone()), None);
    let asked = question(&mut client);
    assert_eq!(
        (asked.payee.to_string(), asked.amount.to_string()),
        ("Snacks & Co".into(), "1.50 EUR".into())
    );
    assert_eq!(ask(&mut client, 2, until_when, information.clone()).as_deref(), Some("nonce_used"));
    assert_eq!(
        ask(&mut client, 1, until_when, information.clone()),
        None,
        "the same request, the same answer"
    );
    assert_eq!(ask(&mut client, 1, until_when.plus_ms(1), information).as_deref(), Some("key_reused"));
    answer(&mut client, &asked, |consent| consent.payee = Text::new("Somebody Else"), "payer-0");
    assert_eq!(end_of(&fleet, &asked), PaymentState::Declined, "consent to another payee");

    for (key, change, signer) in [
        (3, (|_| {}) as fn(&mut Verification), "payer-1"),
        (4, |consent| consent.amount = "0.01 EUR".parse().unwrap(), "payer-0"),
        (5, |consent| consent.expires_at = Timestamp(now().0 - 2_000), "payer-0"),
    ] {
        let information = until("what the chip shows", || pay_info(&fleet.directory_of("chip"), "water", 1));
        assert_eq!(ask(&mut client, key, until_when, information), None);
        let asked = question(&mut client);
        answer(&mut client, &asked, change, signer);
        assert_eq!(end_of(&fleet, &asked), PaymentState::Declined, "{key}");
    }
    assert!(fleet.bank.book().movements().is_empty(), "no money has moved");
}

fn question(client: &mut Client) -> VerificationRequest {
    loop {
        let (topic, payload) = client.message();
        if topic.ends_with("/payment-verification") {
            let body = Down::decode(Kind::PaymentVerification, &payload).unwrap().body;
            let Down::PaymentVerification(asked) = body else { panic!() };
            return asked;
        }
    }
}

fn answer(client: &mut Client, asked: &VerificationRequest, change: fn(&mut Verification), signer: &str) {
    let mut verification = Verification {
        payer: PAYER.parse().unwrap(),
        payment: asked.payment,
        payee: asked.payee.clone(),
        amount: asked.amount,
        expires_at: asked.answer_by,
    };
    change(&mut verification);
    let verification = verification.sign(&key_of(signer));
    let body = Up::PaymentVerification(VerificationAnswer { verification });
    let envelope = Envelope::message(MessageId(asked.payment.0), body);
    client.publish(&format!("ft/{PAYER}/up/payment-verification"), &envelope.encode(), 1);
}

fn end_of(fleet: &Fleet, asked: &VerificationRequest) -> PaymentState {
    until("the end of the payment", || {
        let AdminAnswer::Payments(rows) = fleet.core(AdminCommand::ListPayments { open_only: false }) else {
            panic!()
        };
        rows.iter().find(|row| row.payment == asked.payment && row.at_rest).map(|row| row.state)
    })
}

/// MO-7: amounts at the command line and in JSON.
#[test]
fn amounts_that_are_none_are_refused_at_every_edge() {
    let fleet = fleet();
    let outputs = ["tenants create shop --currency EUR", "people create shop/ann"];
    for line in outputs {
        let words: Vec<&str> = ["admin"].into_iter().chain(line.split(' ')).collect();
        assert!(fleet.cli(&words).status.success(), "{line}");
    }
    let table = [
        ("-1 EUR", "never negative"),
        ("1.005 EUR", "too precise: EUR has 2 decimals"),
        ("1.5 JPY", "too precise: JPY has 0 decimals"),
        ("10000000000.01 EUR", "above the limit"),
        ("99999999999999999999999999999999 EUR", "above the limit"),
        ("1 EURO", "unknown currency"),
        ("1 XTS", "unknown currency"),
        ("1e3 EUR", "not an amount"),
        ("NaN EUR", "not an amount"),
        ("1,50 EUR", "not an amount"),
        ("", "not an amount"),
    ];
    for (amount, why) in table {
        let output =
            fleet.cli(&["admin", "accounts", "deposit", "shop/ann", "--reference", "r", "--", amount]);
        let output = if output.status.code() == Some(2) && text(&output.stderr).contains(why) {
            output
        } else {
            panic!("{amount}: {:?} {}", output.status, text(&output.stderr))
        };
        assert!(output.stdout.is_empty());
        // The same as JSON on the socket.
        let line = format!(
            "{{\"command\":\"deposit\",\"person\":\"shop/ann\",\"amount\":{},\"reference\":\"r\"}}\n",
            serde_json::Value::from(amount)
        );
        let reply = on_admin_socket(&fleet, &line);
        assert!(reply.contains("command_invalid") && reply.contains(why), "{amount}: {reply}");
    }
    for (amount, reference) in [("0 EUR", "a"), ("1 USD", "b")] {
        let output =
            fleet.cli(&["admin", "accounts", "deposit", "shop/ann", amount, "--reference", reference]);
        assert_eq!(output.status.code(), Some(1), "{amount}: {}", text(&output.stdout));
    }
    let number = "{\"command\":\"deposit\",\"person\":\"shop/ann\",\"amount\":1.5,\"reference\":\"r\"}\n";
    assert!(on_admin_socket(&fleet, number).contains("command_invalid"), "a JSON number is no amount");
    let accounts = text(&fleet.cli(&["admin", "accounts", "list", "--json"]).stdout);
    assert!(!accounts.contains("1.50"), "{accounts}");
}

fn on_admin_socket(fleet: &Fleet, line: &str) -> String {
    use std::io::{BufRead, BufReader, Write};
    let mut socket = std::os::unix::net::UnixStream::connect(&fleet.addresses.admin).unwrap();
    socket.write_all(line.as_bytes()).unwrap();
    let mut reply = String::new();
    BufReader::new(socket).read_line(&mut reply).unwrap();
    reply
}

/// MO-8: a flipped bit is found before anything is served, and named with its place. The same for an agent.
#[test]
fn a_flipped_bit_in_a_journal_is_named_with_file_and_offset_and_nothing_starts() {
    let mut fleet = fleet();
    fleet.start_device("chip", std::path::Path::new("payment-chip"), "", None);
    fleet.wait_for_device("chip");
    for _ in 0..3 {
        let shown = pay_info(&fleet.directory_of("chip"), "water", 1);
        assert!(shown.is_some(), "there must be something to flip");
    }
    assert_eq!(fleet.device("chip").terminate().code(), Some(0));
    assert_eq!(fleet.core_process().terminate().code(), Some(0));
    for (data, verdict) in [(fleet.directory().join("core"), 1), (fleet.directory_of("chip"), 7)] {
        let segment = first_segment(&data.join("journal"));
        let name = segment.file_name().unwrap().to_string_lossy().into_owned();
        let mut bytes = std::fs::read(&segment).unwrap();
        // In the first frame: whatever is behind it says that it was synced.
        bytes[200] ^= 4;
        std::fs::write(&segment, bytes).unwrap();
        let mut start = if verdict == 1 {
            let mut core = command(binary("cloud-core"));
            core.args(["serve", "--listen-tcp", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0"]);
            core.args(["--listen-enrolment", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"]);
            core.args(["--journal-segment-bytes", "1048576", "--data-dir"]);
            core
        } else {
            let mut agent = command(binary("edge-agent"));
            agent.args(["run", "--profile", "payment-chip", "--broker", "127.0.0.1:1", "--data"]);
            agent
        };
        start.arg(&data);
        let mut process =
            Process::spawn("a start that must fail", start, &fleet.directory().join("start.log"));
        let status = process.line(|line| line == "ready").expect_err("it serves from a damaged journal");
        let said = process.tail();
        assert_eq!(status.code(), Some(verdict), "{said}");
        assert!(said.contains(&format!("{name} is damaged at byte ")), "{said}");
    }
    let verified = fleet.cli(&["audit", "verify"]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(text(&verified.stdout).contains("PROBLEM in"), "{}", text(&verified.stdout));
}

fn first_segment(journal: &std::path::Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = files.filter(|path| std::fs::metadata(path).unwrap().len() > 10_000).collect();
    segments.sort();
    segments.remove(0)
}

#[test]
fn messages_by_hand_that_are_none_are_refused_before_they_are_sent() {
    for (kind, body, why) in [
        ("payment-request", "{", "payload_invalid"),
        ("payment-request", "{\"information\":\"not base64!\"}", "payload_invalid"),
        ("payment-cancel", "{\"payment\":\"12\"}", "payload_invalid"),
        (
            "payment-cancel",
            "{\"payment\":\"01010101010101010101010101010101\",\"surprise\":1}",
            "payload_invalid",
        ),
        ("request-answer", "{}", "direction_invalid"),
    ] {
        let mut encode = command(binary("edge-agent"));
        encode.args(["--json", "message", "encode", kind, "--body", body]);
        let output = run(encode);
        let said = text(&output.stderr) + &text(&output.stdout);
        assert!(!output.status.success() && said.contains(why), "{body}: {said}");
    }
}
