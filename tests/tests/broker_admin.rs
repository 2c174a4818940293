//! PL-4: an operator sees sessions, refusals and traffic of the running broker, disconnects and drains, with the real
//! binaries over the admin socket.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Output;

use farthing_tests::fleet::{Fleet, Options, TENANT};
use farthing_tests::process::{Process, binary, command, run, run_ok, text};
use farthing_tests::until;
use farthing_tests::wire::{Client, Packet, Version};
use schemas::envelope::Envelope;
use schemas::ids::{IdempotencyKey, MessageId, PaymentId};
use schemas::message::{PaymentCancel, Up};
use schemas::time::Timestamp;
use serde_json::Value;

const ADMINISTRATIVE: u8 = 0x98;
const SHUTTING_DOWN: u8 = 0x8B;
const PAYER: &str = "acme/payer-0";

struct Room {
    fleet: Fleet,
    token: String,
}

impl Room {
    fn new() -> Self {
        let fleet = Fleet::start(Options::default());
        let token = fleet.token(PAYER);
        Self { fleet, token }
    }

    fn client(&self, id: &str) -> Client {
        let mut client = Client::tcp(self.fleet.lane(), Version::V5);
        assert_eq!(client.connect(id, Some((PAYER, &self.token))), Packet::ConnAck(0));
        client
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut broker = command(binary("broker"));
        let data = self.fleet.addresses.admin.parent().unwrap();
        broker.args(["admin", "--json", "--data-dir"]).arg(data).args(arguments);
        broker
    }

    fn admin(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&run_ok(self.command(arguments))).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> Output {
        let output = run(self.command(arguments));
        assert!(!output.status.success(), "{arguments:?}");
        output
    }
}

#[test]
fn sessions_are_seen_with_what_they_said_and_did() {
    let room = Room::new();
    let mut client = room.client("phone");
    client.subscribe(&["ft/acme/payer-0/down/+"]);
    let rows = room.admin(&["sessions"]);
    let row = &rows[0];
    assert_eq!(
        (row["principal"].as_str(), row["client_id"].as_str()),
        (Some(PAYER), Some("phone")),
        "{rows}"
    );
    assert_eq!((row["mqtt"].as_str(), row["transport"].as_str()), (Some("5"), Some("tcp")));
    assert!(row["bytes_in"].as_u64() > Some(0) && row["owed"] == 0, "{row}");
    let connection = row["connection"].as_str().unwrap();
    for whom in [PAYER, connection] {
        let shown = room.admin(&["session", "show", whom]);
        assert_eq!(shown[0]["subscriptions"][0], "ft/acme/payer-0/down/+ (1)", "{shown}");
    }
    assert_eq!(room.admin(&["sessions", "acme/till"]), Value::Array(vec![]));
    let mut table = command(binary("broker"));
    table.args(["admin", "sessions", "--data-dir"]).arg(room.fleet.addresses.admin.parent().unwrap());
    let table = run_ok(table);
    assert!(table.starts_with("CONNECTION") || table.contains("PRINCIPAL"), "{table}");
    assert!(table.contains(PAYER), "{table}");
    assert!(room.admin(&["limits"]).to_string().contains("max_connections_per_address"));
    let unknown = room.refused(&["session", "show", "acme/nobody"]);
    assert!(text(&unknown.stderr).contains("not_connected"), "{}", text(&unknown.stderr));
}

#[test]
fn a_disconnected_client_is_told_and_the_journal_names_the_operator() {
    let room = Room::new();
    let mut first = room.client("first");
    let mut second = room.client("second");
    let rows = room.admin(&["sessions", PAYER]);
    let connection = rows[0]["connection"].as_str().unwrap().to_owned();
    room.admin(&["disconnect", &connection]);
    assert_eq!(first.receive(), Packet::Disconnect(ADMINISTRATIVE));
    room.admin(&["disconnect", PAYER]);
    assert_eq!(second.receive(), Packet::Disconnect(ADMINISTRATIVE));
    room.refused(&["disconnect", PAYER]);
    room.client("first");
    let journal = room.fleet.journal();
    let told = |line: &&Value| !line["event"]["registered"]["disconnect"].is_null();
    let ended: Vec<_> = journal.iter().filter(told).collect();
    assert_eq!(ended.len(), 2, "{ended:?}");
    assert!(
        ended.iter().all(|line| line["by"].as_str().is_some_and(|by| by.starts_with("uid "))),
        "{ended:?}"
    );
}

#[test]
fn a_revoked_token_ends_its_connections() {
    let room = Room::new();
    let mut client = room.client("phone");
    room.admin(&["revoke", PAYER, "--token"]);
    assert!(matches!(client.receive(), Packet::Disconnect(0x87) | Packet::End));
    let answer = Client::tcp(room.fleet.lane(), Version::V5).connect("phone", Some((PAYER, &room.token)));
    assert!(matches!(answer, Packet::ConnAck(code) if code != 0), "{answer:?}");
}

#[test]
fn a_drained_broker_ends_everybody_and_takes_nobody_until_told() {
    let room = Room::new();
    let mut clients: Vec<_> = (0..5).map(|n| room.client(&format!("c-{n}"))).collect();
    room.admin(&["drain", "--rate", "50"]);
    for client in &mut clients {
        assert_eq!(client.receive(), Packet::Disconnect(SHUTTING_DOWN));
    }
    let taken = || {
        let address = room.fleet.lane();
        std::panic::catch_unwind(|| {
            Client::tcp(address, Version::V5).connect("late", Some((PAYER, &room.token)))
        })
    };
    assert!(!matches!(taken(), Ok(Packet::ConnAck(0))), "nobody is let in");
    let stats = room.admin(&["stats"]);
    assert!(stats.as_array().unwrap().iter().any(|row| row["name"] == "draining" && row["value"] == true));
    room.admin(&["drain", "--undo"]);
    room.client("again");
}

#[test]
fn refusals_are_shown_with_address_and_counted_by_reason() {
    let room = Room::new();
    let mut client = room.client("phone");
    client.publish("ft/acme/till/up/payment-refund", b"x", 1);
    client.receive();
    until("the refusal is shown", || {
        let shown = room.admin(&["refusals"]);
        let row = &shown["refusals"][0];
        let is_whole = row["principal"] == PAYER
            && row["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:"))
            && shown["counts"].as_array().is_some_and(|counts| counts.iter().any(|row| row["count"] == 1));
        is_whole.then_some(())
    });
}

/// PL-4: the rates are rows as the other limits are, and how often they were met is beside them.
#[test]
fn rates_of_principals_are_among_the_limits_with_how_often_they_were_met() {
    let core_settings = &["--principal-packets-per-second", "1", "--principal-packets-burst", "20"];
    let fleet = Fleet::start(Options { core_settings, ..Options::default() });
    let token = fleet.token(PAYER);
    let room = Room { fleet, token };
    let row = |name: &str| {
        let rows = room.admin(&["limits"]);
        rows.as_array().unwrap().iter().find(|row| row["name"] == name).cloned().unwrap()
    };
    for name in ["principal_packets_per_second", "principal_bytes_per_second", "principal_bytes_burst"] {
        assert_eq!(row(name)["met"], 0, "{name}");
    }
    let mut client = room.client("phone");
    let mut say = || client.publish("ft/acme/payer-0/up/status-request", b"x", 1);
    for _ in 0..40 {
        say();
    }
    // What one read brings is charged together: only what comes after it finds nothing left.
    until("the rate is met", || {
        say();
        (row("principal_packets_burst")["met"].as_u64() > Some(0)).then_some(())
    });
    assert_eq!(row("principal_packets_burst")["value"], "20");
}

/// A payment's messages are seen as they pass, decoded, in both directions.
#[test]
fn a_tap_shows_what_is_said_about_a_payment() {
    let room = Room::new();
    let log = room.fleet.directory().join("tap.log");
    let mut tap = Process::spawn("tap", room.command(&["tap", "ft/acme/payer-0/#"]), &log);
    tap.line(|line| line.contains("tapping")).unwrap();
    let mut client = room.client("phone");
    client.subscribe(&["ft/acme/payer-0/down/+"]);
    let body = Up::PaymentCancel(PaymentCancel { payment: PaymentId([7; 16]) });
    let key = IdempotencyKey([2; 16]);
    let envelope = Envelope::request(MessageId([1; 16]), key, Timestamp(u64::MAX >> 12), body);
    client.publish("ft/acme/payer-0/up/payment-cancel", &envelope.encode(), 1);
    let said = tap.line(|line| line.contains("up/payment-cancel")).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["message"].to_string().contains(&"07".repeat(16)), "{said}");
    tap.line(|line| line.contains("ft/acme/payer-0/down/")).unwrap();
    assert!(!tap.tail().contains(&room.token), "no token is shown");
    assert_eq!(TENANT, "acme", "the names above are of the first tenant");
}

/// On an operator's own machine: nothing of the core's data directory is there.
struct Elsewhere<'a> {
    fleet: &'a Fleet,
    identity: std::path::PathBuf,
}

impl<'a> Elsewhere<'a> {
    fn enrolled(fleet: &'a Fleet, name: &str, role: &[&str]) -> Self {
        let made = fleet.cli(&[&["admin", "operators", "create", name, "--role"], role].concat());
        assert!(made.status.success(), "{}", text(&made.stderr));
        let claim = text(&fleet.cli(&["admin", "operators", "claim", name]).stdout);
        let identity = fleet.directory().join("elsewhere").join(name);
        let mut enroll = command(binary("cloud-core"));
        enroll.args(["admin", "enroll", "--operator", name, "--claim", claim.lines().next().unwrap()]);
        enroll.args(["--server", &fleet.addresses.enrolment.unwrap().to_string()]);
        enroll.arg("--identity").arg(&identity);
        run_ok(enroll);
        Self { fleet, identity }
    }

    fn command(&self, program: &str, before: &[&str], arguments: &[&str]) -> std::process::Command {
        let mut admin = command(binary(program));
        admin
            .args(before)
            .args(["--json", "--server"])
            .arg(self.fleet.addresses.admin_tls.unwrap().to_string());
        admin.arg("--identity").arg(&self.identity).args(arguments);
        admin
    }

    fn broker(&self, arguments: &[&str]) -> std::process::Command {
        self.command("broker", &["admin"], arguments)
    }

    fn refused(&self, arguments: &[&str]) {
        let output = run(self.broker(arguments));
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("not_allowed"), "{arguments:?}: {said}");
    }
}

fn room_with_a_door() -> Room {
    let core_settings = &["--listen-admin", "127.0.0.1:0"];
    let fleet = Fleet::start(Options { core_settings, ..Options::default() });
    let token = fleet.token(PAYER);
    Room { fleet, token }
}

/// PL-4: the same over TLS with a certificate, within its role, also where one looks again and again.
#[test]
fn an_operator_elsewhere_looks_and_acts_within_the_role() {
    let room = room_with_a_door();
    let mut client = room.client("phone");
    let ada = Elsewhere::enrolled(&room.fleet, "ada", &["auditor"]);
    let otto = Elsewhere::enrolled(&room.fleet, "otto", &["operator"]);
    let tina = Elsewhere::enrolled(&room.fleet, "tina", &["tenant-admin", "--tenant", "acme"]);
    let same = ada.command("cloud-core", &["admin"], &["broker", "sessions"]);
    for look in [ada.broker(&["sessions"]), same] {
        let rows: Value = serde_json::from_str(&run_ok(look)).unwrap();
        assert_eq!(rows[0]["principal"].as_str(), Some(PAYER), "{rows}");
    }
    for what in ["stats", "limits", "refusals", "outbox"] {
        run_ok(ada.broker(&[what]));
    }
    let log = room.fleet.directory().join("watch.log");
    let mut watch = Process::spawn("watch", otto.broker(&["sessions", "--watch", "1"]), &log);
    for _look in 0..2 {
        watch.line(|line| line.contains(PAYER)).unwrap();
    }
    ada.refused(&["disconnect", PAYER]);
    otto.refused(&["drain"]);
    tina.refused(&["sessions"]);
    tina.refused(&["tap"]);
    run_ok(otto.broker(&["disconnect", PAYER]));
    assert_eq!(client.receive(), Packet::Disconnect(ADMINISTRATIVE));
    let mut client = room.client("phone");
    run_ok(tina.broker(&["disconnect", PAYER]));
    assert_eq!(client.receive(), Packet::Disconnect(ADMINISTRATIVE));
    let journal = room.fleet.journal();
    let by =
        |name: &str| journal.iter().any(|line| line["by"] == name && line.to_string().contains("disconnect"));
    assert!(by("farthing/otto") && by("farthing/tina"));
}

/// Standing counts for each command, and a tap is a long one.
#[test]
fn a_tap_elsewhere_ends_when_its_operator_is_revoked() {
    let room = room_with_a_door();
    let ada = Elsewhere::enrolled(&room.fleet, "ada", &["auditor"]);
    let log = room.fleet.directory().join("tap.log");
    let mut tap = Process::spawn("tap", ada.broker(&["tap", "ft/acme/#"]), &log);
    tap.line(|line| line.contains("tapping")).unwrap();
    let mut client = room.client("phone");
    client.publish("ft/acme/payer-0/up/cloud-time", b"x", 0);
    tap.line(|line| line.contains("up/cloud-time")).unwrap();
    assert!(room.fleet.cli(&["admin", "operators", "revoke", "ada"]).status.success());
    assert!(!tap.ended().success());
    assert!(tap.tail().contains("not_an_operator"), "{}", tap.tail());
}
