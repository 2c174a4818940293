//! What a chip does: payment information (CP-1) and health checks (CP-3), case by case.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Bench, CHIP, EPOCH_MS, EXECUTOR, acknowledged, key, nonce, published};
use edge_agent_device::{Conditions, IssueRefusal, IssueRequest, Output, limits};
use schemas::envelope::Envelope;
use schemas::ids::{Hash, MessageId, PaymentId};
use schemas::message::{HealthCheckRequest, HealthVerdict, Up};
use schemas::signed::{PaymentInformation, PublicKey};
use schemas::time::Timestamp;

fn issue(bench: &mut Bench, number: u8) -> Vec<Output> {
    let request = IssueRequest {
        ticket: u64::from(number),
        item: "water".parse().unwrap(),
        quantity: 2,
        valid_ms: None,
    };
    bench.device.handle_issue_request(&request, nonce(number), &key(), bench.now);
    bench.settle()
}

fn issued(outputs: &[Output]) -> edge_agent_device::Issued {
    let Some(Output::Issued { result: Ok(issued), .. }) = outputs.last() else { panic!("{outputs:?}") };
    issued.clone()
}

/// CP-1, MO-5
#[test]
fn payment_information_is_signed_and_journaled_before_it_is_shown() {
    let mut bench = Bench::new(CHIP);
    bench.connect_with_time();
    let request = IssueRequest { ticket: 4, item: "water".parse().unwrap(), quantity: 2, valid_ms: None };
    bench.device.handle_issue_request(&request, nonce(1), &key(), bench.now);
    assert_eq!(bench.released(), []);
    let issued = issued(&bench.settle());
    let read = PaymentInformation::verify(&issued.signed, &PublicKey::of(&key())).unwrap();
    assert_eq!(read, issued.information);
    assert_eq!(read.amount.to_string(), "3.00 EUR");
    assert!(read.issued_at.0 <= EPOCH_MS && read.expires_at.0 >= EPOCH_MS + 120_000, "{read:?}");
}

/// CP-1
#[test]
fn issuing_is_refused_by_the_ladder() {
    type Change = fn(&mut Bench, &mut IssueRequest);
    let cases: [(&str, Change); 9] = [
        ("set_up_mode", |bench, _| bench.device.handle_set_up_mode(true, 0)),
        ("clock_unknown", |bench, _| {
            bench.crash(0);
        }),
        ("unknown_item", |_, request| request.item = "tea".parse().unwrap()),
        ("quantity_over_limit", |_, request| request.quantity = 11),
        ("validity_over_limit", |_, request| request.valid_ms = Some(900_001)),
        ("tampered", |bench, _| {
            bench.device.handle_conditions(Conditions { tampered: true, ..Conditions::default() }, 0);
        }),
        ("journal_full", |bench, _| bench.device.handle_journal_room(false)),
        ("nonce_repeated", |bench, _| {
            issue(bench, 1);
        }),
        ("too_many_open", |bench, _| {
            for number in 2..66 {
                issued(&issue(bench, number));
            }
        }),
    ];
    for (code, change) in cases {
        let mut bench = Bench::new(CHIP);
        bench.connect_with_time();
        let mut request =
            IssueRequest { ticket: 1, item: "water".parse().unwrap(), quantity: 1, valid_ms: None };
        change(&mut bench, &mut request);
        bench.device.handle_issue_request(&request, nonce(1), &key(), bench.now);
        let outputs = bench.settle();
        let Some(Output::Issued { result: Err(refusal), .. }) = outputs.last() else {
            panic!("{code}: {outputs:?}")
        };
        assert_eq!(refusal.code(), code);
    }
    let mut executor = Bench::new(EXECUTOR);
    let outputs = issue(&mut executor, 1);
    assert!(matches!(outputs[..], [Output::Issued { result: Err(IssueRefusal::NotAChip), .. }]));
}

type Verdict = Option<(HealthVerdict, Option<String>)>;

fn check(bench: &mut Bench, body: &HealthCheckRequest) -> Verdict {
    bench.deliver("health-check", &Envelope::message(MessageId([6; 16]), body.clone()).encode());
    let outputs = bench.settle();
    assert_eq!(acknowledged(&outputs), 1);
    verdict(&outputs)
}

fn verdict(outputs: &[Output]) -> Verdict {
    match published(outputs).pop() {
        Some(Up::HealthCheck(answer)) => Some((answer.verdict, answer.code.map(|code| code.to_string()))),
        _ => None,
    }
}

fn question(issued: &edge_agent_device::Issued) -> HealthCheckRequest {
    HealthCheckRequest {
        payment: PaymentId([1; 16]),
        nonce: issued.information.nonce,
        information_hash: Hash::of(&issued.signed.0),
        answer_by: Timestamp(EPOCH_MS),
    }
}

/// CP-3
#[test]
fn health_checks_say_ready_not_issued_or_not_ready() {
    let ready = Some((HealthVerdict::Ready, None));
    let not_issued = Some((HealthVerdict::NotIssued, None));
    let not_ready = |code: &str| Some((HealthVerdict::NotReady, Some(code.to_owned())));
    type Change = fn(&mut Bench, &mut HealthCheckRequest);
    let cases: [(Verdict, Change); 8] = [
        (ready, |_, _| {}),
        (not_issued.clone(), |_, check| check.nonce = nonce(99)),
        (not_issued, |_, check| check.information_hash = Hash([0; 32])),
        (not_ready("set_up_mode"), |bench, _| bench.device.handle_set_up_mode(true, 0)),
        (not_ready("expired"), |bench, _| bench.now = 130_000),
        (not_ready("tampered"), |bench, _| {
            bench.device.handle_conditions(Conditions { tampered: true, ..Conditions::default() }, 0);
        }),
        (not_ready("executor_fault"), |bench, _| {
            bench.device.handle_conditions(Conditions { executor_fault: true, ..Conditions::default() }, 0);
        }),
        (not_ready("sold_out"), |bench, _| {
            let stock = [("water".parse().unwrap(), 1)].into();
            bench.device.handle_conditions(Conditions { stock, ..Conditions::default() }, 0);
        }),
    ];
    for (expected, change) in cases {
        let mut bench = Bench::new(CHIP);
        bench.connect_with_time();
        let issued = issued(&issue(&mut bench, 1));
        let mut body = question(&issued);
        change(&mut bench, &mut body);
        assert_eq!(check(&mut bench, &body), expected);
    }
}

/// CP-3: the same check has the same answer, whatever has changed, after a restart as well.
#[test]
fn a_repeated_health_check_gets_the_same_answer() {
    let mut bench = Bench::new(CHIP);
    bench.connect_with_time();
    let issued = issued(&issue(&mut bench, 1));
    assert_eq!(check(&mut bench, &question(&issued)), Some((HealthVerdict::Ready, None)));
    bench.crash(1);
    bench.device.handle_conditions(Conditions { tampered: true, ..Conditions::default() }, 0);
    let outputs = bench.connect_with_time();
    assert_eq!(verdict(&outputs), Some((HealthVerdict::Ready, None)), "from the spool");
    let message = outputs.iter().find_map(|output| match output {
        Output::Publish { message, .. } => Some(*message),
        _ => None,
    });
    bench.device.handle_published(bench.connection, message.unwrap(), 0, bench.now);
    assert_eq!(check(&mut bench, &question(&issued)), Some((HealthVerdict::Ready, None)));
}

#[test]
fn a_health_check_waits_for_cloud_time_after_a_restart() {
    let mut bench = Bench::new(CHIP);
    bench.connect_with_time();
    let issued = issued(&issue(&mut bench, 1));
    bench.crash(1);
    let outputs = bench.connect();
    assert_eq!(check(&mut bench, &question(&issued)), None);
    bench.answer_time(&outputs);
    assert_eq!(verdict(&bench.settle()), Some((HealthVerdict::Ready, None)));

    bench.crash(2);
    bench.connect();
    let mut other = question(&issued);
    other.payment = PaymentId([2; 16]);
    assert_eq!(check(&mut bench, &other), None);
    bench.now += 10_000;
    bench.device.handle_tick(bench.now);
    let clock_unknown = Some((HealthVerdict::NotReady, Some("clock_unknown".to_owned())));
    assert_eq!(verdict(&bench.settle()), clock_unknown);
}

/// A busy machine goes on selling: only what can still be paid counts as open.
#[test]
fn expired_informations_make_room_for_new_ones() {
    let mut bench = Bench::new(CHIP);
    bench.connect_with_time();
    for number in 1..65 {
        issued(&issue(&mut bench, number));
    }
    let refused = issue(&mut bench, 65);
    assert!(matches!(
        refused.last(),
        Some(Output::Issued { result: Err(IssueRefusal::TooManyOpen(64)), .. })
    ));
    bench.now += 130_000;
    bench.device.handle_tick(bench.now);
    bench.settle();
    issued(&issue(&mut bench, 66));
    assert_eq!(bench.device.status(bench.now).issued_informations, 65, "expired ones are still remembered");
}

#[test]
fn informations_are_forgotten_some_time_after_their_expiry() {
    let mut bench = Bench::new(CHIP);
    bench.connect_with_time();
    issue(&mut bench, 1);
    bench.now = 120_000 + limits::INFORMATION_MARGIN_MS;
    bench.device.handle_tick(bench.now);
    assert_eq!(bench.device.status(bench.now).issued_informations, 1);
    bench.now += 2_000;
    bench.device.handle_tick(bench.now);
    assert_eq!(bench.device.status(bench.now).issued_informations, 0);
}
