//! The life of an identity on the real binaries: renewed by the agent itself, revoked in the middle of a payment,
//! enrolled anew (correctness.md 20).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::time::Duration;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, Deadlines, DeviceRow};
use device_sim::live::terminal::Terminal;
use farthing_tests::fleet::{DEADLINES, Fleet, Machine, Options, pay_info, principal};
use farthing_tests::process::{binary, command, run_ok};
use farthing_tests::until;
use schemas::ids::PaymentId;
use schemas::message::PaymentState;
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(30);
const MACHINES: &[Machine] = &[("chip-1", Some("machine-1"))];
/// Nothing ends by time in these tests: what ends a payment is the revocation.
const PATIENT: Deadlines = Deadlines {
    health_check_ms: 60_000,
    verification_ms: 60_000,
    bank_ms: 60_000,
    start_ms: 120_000,
    report_ms: 120_000,
    reconnect_ms: 10_000,
    ..DEADLINES
};

fn fleet() -> Fleet {
    let mut fleet = Fleet::start(Options { machines: MACHINES, deadlines: PATIENT, ..Options::default() });
    fleet.start_device("chip-1", Path::new("payment-chip"), "", None);
    fleet.wait_for_device("chip-1");
    fleet
}

/// Until the money has moved and the executor is to act.
async fn bought(fleet: &Fleet, payer: &mut Terminal) -> PaymentId {
    let chip = fleet.directory_of("chip-1");
    let information = until("what the chip shows", || pay_info(&chip, "water", 1));
    let payment = payer.pay(information, WAIT).await.unwrap();
    let asked = payer.asked(payment, WAIT).await.unwrap();
    payer.verify(&asked).await.unwrap();
    payer.status(payment, WAIT, |status| status.state == PaymentState::Delivering).await.unwrap();
    payment
}

fn machine(fleet: &Fleet) -> DeviceRow {
    let AdminAnswer::Devices(rows) = fleet.core(AdminCommand::ListDevices) else { panic!("devices") };
    rows.into_iter().find(|row| row.device == principal("machine-1")).unwrap()
}

fn status(fleet: &Fleet, device: &str) -> Option<Value> {
    let mut status = command(binary("edge-agent"));
    status.args(["status", "--json", "--data"]).arg(fleet.directory_of(device));
    serde_json::from_slice(&status.output().unwrap().stdout).ok()
}

/// The payer has the money back, is told so, and the operator finds the case in the queue.
async fn given_back(fleet: &Fleet, payer: &mut Terminal, payment: PaymentId) {
    let told = payer.status(payment, WAIT, |status| status.state == PaymentState::Refunded).await.unwrap();
    assert_eq!(told.payment, payment);
    let movements = fleet.bank.book().movements();
    let moved = &movements[&payment.to_string()];
    assert_eq!(moved.transfers, moved.refunds, "taken once, given back once");
    assert_eq!(moved.refunds.len(), 1);
    let AdminAnswer::Exceptions(rows) = fleet.core(AdminCommand::ListExceptions) else {
        panic!("exceptions")
    };
    let cases: Vec<_> = rows.iter().filter(|row| row.payment == Some(payment)).map(|row| &row.case).collect();
    assert_eq!(cases, ["unknown_outcome"]);
}

/// A machine that was enrolled anew sells again, and has never acted on what the former instance was told.
async fn sells_again(fleet: &mut Fleet, payer: &mut Terminal) {
    assert_eq!((machine(fleet).instance.0, machine(fleet).standing.as_str()), (2, "enrolled"));
    fleet.start_device("machine-1", Path::new("vending-executor"), "done", None);
    fleet.wait_for_device("machine-1");
    let payment = bought(fleet, payer).await;
    payer.status(payment, WAIT, |status| status.state == PaymentState::Delivered).await.unwrap();
    assert_eq!(fleet.acts().len(), 1, "one act: that of the new command");
}

/// correctness.md 20, CP-13: revoked while it acts. The session ends at once and is not taken back.
#[tokio::test(flavor = "multi_thread")]
async fn executor_is_revoked_between_command_and_outcome() {
    let mut fleet = fleet();
    fleet.start_device("machine-1", Path::new("vending-executor"), "hang", None);
    fleet.wait_for_device("machine-1");
    let mut payer = fleet.terminal("payer-0");
    let payment = bought(&fleet, &mut payer).await;
    until("the machine, acting", || {
        let said = status(&fleet, "machine-1")?;
        said["open_commands"].as_array()?.iter().any(|open| open["begun"] == true).then_some(())
    });

    fleet.core(AdminCommand::RevokeDevice { device: principal("machine-1") });
    let row = machine(&fleet);
    assert_eq!((row.standing.as_str(), row.owed), ("revoked", 0));
    assert!(!row.presence.connected, "its session ended with the command");
    given_back(&fleet, &mut payer, payment).await;
    until("the machine, out", || (status(&fleet, "machine-1")?["connected"] == false).then_some(()));
    assert!(!machine(&fleet).presence.connected, "and it is not let in again");

    fleet.device("machine-1").kill();
    fleet.enrol("machine-1");
    sells_again(&mut fleet, &mut payer).await;
    fleet.bank.book().is_conserved().then_some(()).unwrap();
}

/// The same with a machine that never came for its command: it is withdrawn, and the new instance is never told it.
#[tokio::test(flavor = "multi_thread")]
async fn executor_is_revoked_before_it_has_the_command() {
    let mut fleet = fleet();
    let mut payer = fleet.terminal("payer-0");
    let payment = bought(&fleet, &mut payer).await;
    until("the command, owed", || (machine(&fleet).owed == 1).then_some(()));

    fleet.core(AdminCommand::RevokeDevice { device: principal("machine-1") });
    assert_eq!(machine(&fleet).owed, 0, "the outbox is withdrawn");
    given_back(&fleet, &mut payer, payment).await;
    fleet.enrol("machine-1");
    sells_again(&mut fleet, &mut payer).await;
}

/// Enrolled anew without having been revoked: the open payment ends as unknown, the old command stays the old one's.
#[tokio::test(flavor = "multi_thread")]
async fn executor_is_enrolled_anew_with_an_open_payment() {
    let mut fleet = fleet();
    let mut payer = fleet.terminal("payer-0");
    let payment = bought(&fleet, &mut payer).await;
    until("the command, owed", || (machine(&fleet).owed == 1).then_some(()));
    fleet.enrol("machine-1");
    given_back(&fleet, &mut payer, payment).await;
    sells_again(&mut fleet, &mut payer).await;
}

fn certificate(fleet: &Fleet, device: &str) -> Value {
    let mut show = command(binary("edge-agent"));
    show.args(["certificate", "show", "--json", "--data"]).arg(fleet.directory_of(device));
    serde_json::from_slice(run_ok(show).as_bytes()).unwrap()
}

/// A running agent renews by itself, keeps its session, and comes back with the new certificate.
#[test]
fn agent_renews_by_itself() {
    // Ten seconds of life; the grace is for a test machine that stands still for longer.
    const SHORT: &[&str] = &["--certificate-life-ms", "10000", "--renewal-grace-ms", "3600000"];
    let mut fleet = Fleet::start(Options { machines: MACHINES, core_settings: SHORT, ..Options::default() });
    let first = certificate(&fleet, "chip-1");
    assert_eq!(first["server"], fleet.addresses.enrolment.unwrap().to_string());
    fleet.start_device("chip-1", Path::new("payment-chip"), "", None);
    until("a second certificate", || {
        (certificate(&fleet, "chip-1")["not_after"] != first["not_after"]).then_some(())
    });
    assert_eq!(certificate(&fleet, "chip-1")["instance"], first["instance"]);
    let ends_ms = first["not_after"].as_u64().unwrap();
    until("the end of the first certificate", || (now_ms() > ends_ms).then_some(()));
    fleet.kill_core();
    fleet.start_core(None).unwrap();
    fleet.wait_for_device("chip-1");
}

fn now_ms() -> u64 {
    device_sim::live::terminal::now().0
}
