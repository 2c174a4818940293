//! The rules of correctness.md as far as the core keeps them: durability, time, idempotency, roles, limits.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use std::collections::BTreeSet;

use cloud_core_flows::Cloud;
use cloud_core_flows::admin::{AdminCommand, BankKind, Deadlines, OnUnknown};
use cloud_core_flows::port::BankAnswer::{Done, NotFound};
use cloud_core_flows::port::BankCallKind::{Refund, Status, Transfer};
use cloud_core_flows::port::{ConnectionId, Input, Output};
use common::{PRICE, START, World, chain, http, limits, signing_key, who};
use schemas::envelope::Envelope;
use schemas::ids::{CommandId, IdempotencyKey, MessageId, PaymentId};
use schemas::message::{
    CloudTimeRequest, CommandProgress, CommandStatusAnswer, Down, ExecutorOutcome, HealthCheckAnswer,
    HealthVerdict, Outcome, PaymentState, Refused, Up, VerificationAnswer,
};
use schemas::signed::{PaymentInformation, PublicKey, ReadyKey, Verification};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas_journal::Journal;

fn world() -> World {
    World::new(http(), OnUnknown::Refund)
}

fn publish(connection: ConnectionId, body: Up, key: Option<(u8, u64)>) -> Input {
    let kind = body.kind();
    let id = MessageId([3; 16]);
    let payload = match key {
        Some((key, until)) => {
            Envelope::request(id, IdempotencyKey([key; 16]), Timestamp(until), body).encode()
        }
        None => Envelope::message(id, body).encode(),
    };
    Input::Publish { connection, token: 9, kind, payload, proven: None }
}

// ---- signatures ----

/// CP-2, CP-5: what a reading thread has proven spares a check, and stands for none with another key than is registered.
#[test]
fn a_proof_counts_for_the_registered_key_and_for_no_other() {
    let mut w = world();
    let ready = |name: &str| ReadyKey::new(&PublicKey::of(&signing_key(name))).unwrap();
    let stolen = w.information(1).sign(&signing_key("thief"));
    w.proven = PaymentInformation::read(&stolen).unwrap().prove(&ready("thief"));
    assert!(w.proven.is_some(), "it is a good signature of another key");
    let refused = w.request("ann", 1, World::pay_request(stolen)).refused;
    assert_eq!(refused.unwrap().as_str(), "signature_invalid");

    let good = w.signed(&w.information(2));
    w.proven = PaymentInformation::read(&good).unwrap().prove(&ready("chip"));
    let payment = w.request("ann", 2, World::pay_request(good)).payment.unwrap();
    w.ready(payment);
    let forged = w.verification("ann", payment).sign(&signing_key("thief"));
    w.proven = Verification::read(&forged).unwrap().prove(&ready("thief"));
    assert!(w.proven.is_some());
    w.say("ann", Up::PaymentVerification(VerificationAnswer { verification: forged })).unwrap();
    assert_eq!(
        (w.state(payment), w.reason(payment).as_str()),
        (PaymentState::Declined, "verification_wrong")
    );
}

// ---- durability ----

/// MO-5: nothing leaves before the position that it was computed from is synced; a duplicate's answer neither.
#[test]
fn outputs_wait_for_the_sync_of_their_position() {
    let mut w = world();
    let connection = w.connections[&who("ann")];
    let information = w.signed(&w.information(1));
    let request = publish(connection, World::pay_request(information), Some((1, w.now + 60_000)));
    w.decide_only(request.clone());
    assert!(w.driver.poll_output().is_none(), "not even appended");
    w.driver.append().unwrap();
    w.decide_only(request);
    w.decide_only(Input::Pull { connection, after: 0, max: 10 });
    assert!(w.driver.poll_output().is_none(), "the answer to the repeat comes from an unsynced state");
    let point = w.driver.sync_point().unwrap();
    w.decide_only(publish(connection, Up::CloudTime(CloudTimeRequest { nonce: 1 }), None));
    w.driver.handle_synced(point.run(&w.disk)).unwrap();
    let mut released = Vec::new();
    while let Some(output) = w.driver.poll_output() {
        released.push(output);
    }
    let promises = released.iter().filter(|output| matches!(output, Output::Promise { result: Ok(()), .. }));
    assert_eq!(promises.count(), 3);
    assert!(released.iter().any(|output| matches!(output, Output::Owed { .. })));
}

/// MO-5: an answer decided while a sync runs is not covered by that sync.
#[test]
fn outputs_decided_during_a_sync_wait_for_the_next() {
    let mut w = world();
    let connection = w.connections[&who("ann")];
    let request = |w: &World, nonce| {
        let information = w.signed(&w.information(nonce));
        publish(connection, World::pay_request(information), Some((nonce, w.now + 60_000)))
    };
    w.decide_only(request(&w, 1));
    w.driver.append().unwrap();
    let first = w.driver.sync_point().unwrap();
    w.decide_only(request(&w, 2));
    w.driver.append().unwrap();
    w.driver.handle_synced(first.run(&w.disk)).unwrap();
    let mut promises = 0;
    while let Some(output) = w.driver.poll_output() {
        promises += usize::from(matches!(output, Output::Promise { .. }));
    }
    assert_eq!(promises, 1);
    assert_eq!(w.flush().iter().filter(|output| matches!(output, Output::Promise { .. })).count(), 1);
}

/// MO-5: a failed sync ends the process and releases nothing.
#[test]
fn failed_sync_is_a_fault_and_releases_nothing() {
    let mut w = world();
    let information = w.signed(&w.information(1));
    let until = w.now + 1_000;
    w.decide_only(publish(w.connections[&who("ann")], World::pay_request(information), Some((1, until))));
    w.driver.append().unwrap();
    w.disk.fail_sync(1);
    let point = w.driver.sync_point().unwrap();
    assert!(w.driver.handle_synced(point.run(&w.disk)).is_err());
    assert!(w.driver.poll_output().is_none());
    w.decide_only(Input::Admin {
        ticket: 1,
        by: None,
        command: AdminCommand::RevokeDevice { device: who("spare") },
    });
    assert!(w.driver.append().is_err(), "and goes on failing");
}

/// One whole payment, step by step; before step `cut` the power fails, so that everything decided but not synced is
/// lost, and everybody comes back and says again what was not promised.
fn run_with_a_crash(bank: &BankKind, cut: usize, seed: u64, lose_unsynced: bool) {
    let mut w = World::new(bank.clone(), OnUnknown::Refund);
    let mut step = 0;
    let mut crash = |w: &mut World, input: Option<Input>| {
        if step == cut {
            if let Some(input) = input.filter(|_| lose_unsynced) {
                w.decide_only(input);
                w.driver.append().unwrap();
            }
            w.crash(seed);
            w.connect_all();
        }
        step += 1;
    };
    let information = w.information(1);
    let until = w.now + 60_000;
    let signed = w.signed(&information);
    let request = publish(w.connections[&who("ann")], World::pay_request(signed.clone()), Some((1, until)));
    crash(&mut w, Some(request));
    let first = w.request_until("ann", 1, Timestamp(until), World::pay_request(signed.clone())).unwrap();
    let payment = first.payment.unwrap();
    crash(&mut w, None);
    let again = w.request_until("ann", 1, Timestamp(until), World::pay_request(signed)).unwrap();
    assert_eq!(again, first, "same key and content, same answer, also after a crash (MO-3)");
    let check = w.fetch("chip").into_iter().any(|down| matches!(down, Down::HealthCheck(_)));
    assert!(check, "the question is still owed");
    let body = HealthCheckAnswer { payment, verdict: HealthVerdict::Ready, code: None };
    let input = publish(w.connections[&who("chip")], Up::HealthCheck(body), None);
    crash(&mut w, Some(input));
    w.ready(payment);
    crash(&mut w, None);
    assert!(w.fetch("ann").iter().any(|down| matches!(down, Down::PaymentVerification(_))));
    let said = w.verification("ann", payment).sign(&common::signing_key("ann"));
    let body = Up::PaymentVerification(VerificationAnswer { verification: said });
    let input = publish(w.connections[&who("ann")], body, None);
    crash(&mut w, Some(input));
    w.verify("ann", payment);
    crash(&mut w, None);
    if *bank != BankKind::Internal {
        w.input(Input::Tick);
        // After a crash the bank is asked what became of it; the key is the same.
        let keys: BTreeSet<_> = w.keys(Transfer).into_iter().chain(w.keys(Status)).collect();
        assert_eq!(keys.len(), 1);
        let key = keys.first().copied().unwrap();
        let bank = |answer| Input::Bank { payment, call: Transfer, key, answer };
        crash(&mut w, Some(bank(Done)));
        w.input(Input::Tick);
        w.input(bank(Done));
        w.input(bank(Done));
    }
    crash(&mut w, None);
    let command = w.take_command();
    crash(&mut w, None);
    let report =
        ExecutorOutcome { command: command.command, outcome: Outcome::Done, delivered: 1, code: None };
    let input = publish(w.connections[&who("vend")], Up::ExecutorCommand(report), None);
    crash(&mut w, Some(input));
    w.report(payment, Outcome::Done, 1);
    crash(&mut w, None);
    w.report(payment, Outcome::Done, 1);
    assert_eq!(w.told_state("ann", payment), Some(PaymentState::Delivered));
    assert_eq!(w.told_state("till", payment), Some(PaymentState::Delivered));
    assert_eq!(w.commands.len(), 1, "one command id whatever is repeated (CP-9)");
    assert!(w.calls(Refund).is_empty());
    assert!(w.exceptions().is_empty());
    assert_eq!(w.merchant_minor(), i128::from(PRICE));
    w.finish();
}

/// CP-9, MO-3, MO-5, MO-9: a power cut between any two inputs, with and without a decided and unsynced one.
#[test]
fn crash_between_any_two_inputs_changes_nothing() {
    for bank in [http(), BankKind::Internal] {
        for cut in 0..14 {
            for seed in 0..6 {
                run_with_a_crash(&bank, cut, seed, seed % 2 == 1);
            }
        }
    }
}

/// CP-12: a crash while refunding asks the bank again with the same key and content.
#[test]
fn refunding_survives_crashes_under_one_key() {
    for seed in 0..20 {
        let mut w = world();
        let payment = w.commanded("ann", 1);
        w.report(payment, Outcome::Failed, 0);
        for round in 0..3 {
            w.crash(seed * 10 + round);
            w.input(Input::Tick);
        }
        w.bank(payment, Refund, Done);
        assert_eq!(w.calls(Refund).len(), 4, "asked at once after each start");
        assert!(w.calls(Refund).windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(w.state(payment), PaymentState::Refunded);
        w.finish();
    }
}

/// MO-3: after restarts the transfer has the same key, amount and end of life, or the bank would take it as another.
#[test]
fn transfer_keeps_its_content_over_restarts() {
    let mut w = world();
    let payment = w.verified("ann", 1);
    for _ in 0..3 {
        w.now += 45_000;
        w.restart();
        w.input(Input::Tick);
        w.bank(payment, Status, NotFound);
    }
    assert!(w.calls(Transfer).len() > 1);
    assert!(w.calls(Transfer).windows(2).all(|pair| pair[0] == pair[1]));
}

/// The outbox is state: what was not acknowledged is delivered again after a restart, under the same id.
#[test]
fn unacknowledged_messages_are_delivered_again() {
    let mut w = world();
    w.commanded("ann", 1);
    let before = w.owed("vend");
    w.crash(1);
    w.connect("vend");
    assert_eq!(w.owed("vend"), before);
    let message = before[0].message;
    w.acknowledge("vend", message, 0x97);
    assert_eq!(w.owed("vend").len(), 1, "0x97 means later");
    w.acknowledge("vend", message, 0);
    w.crash(2);
    w.connect("vend");
    let after = w.owed("vend");
    assert!(after.iter().all(|owed| owed.kind == Kind::CommandStatus), "asked about, not commanded again");
}

/// A snapshot taken from closed segments restores to what replay gives.
#[test]
fn snapshot_and_tail_equal_replay() {
    let mut w = world();
    w.restores_after_each_input = false;
    let mut made = 0;
    for round in 0..200_u64 {
        let nonce = u8::try_from(round).unwrap();
        let payment = w.commanded("ann", nonce);
        w.report(payment, if round % 3 == 0 { Outcome::Failed } else { Outcome::Done }, 1);
        w.bank(payment, Refund, Done);
        for party in ["ann", "till", "vend", "chip"] {
            w.fetch(party);
        }
        if let Some(job) = w.driver.snapshot_job() {
            let taken = cloud_core_flows::driver::run_snapshot(&job, &w.disk);
            w.driver.handle_snapshot(&taken).unwrap();
            made += 1;
        }
    }
    assert!(made > 0, "several segments were used");
    let mut again = Cloud::default();
    let journal = Journal::open(w.disk.fork(), limits(), chain(), &mut again).unwrap();
    assert!(journal.recovery().snapshot.is_some(), "the snapshot was used");
    assert_eq!(again, *w.driver.cloud());
}

// ---- time ----

/// correctness.md 15: after an outage longer than every deadline, an executor's "done" still means delivered.
#[test]
fn commanded_to_delivered_after_a_long_outage() {
    for bank in [http(), BankKind::Internal] {
        let mut w = World::new(bank, OnUnknown::Refund);
        let payment = w.commanded("ann", 1);
        w.take_command();
        w.now += 24 * 3_600_000;
        w.restart();
        w.input(Input::Tick);
        w.pass(w.deadlines.reconnect_ms - 1);
        assert_eq!(w.state(payment), PaymentState::Delivering, "no verdict before the reconnect grace");
        w.connect("vend");
        assert!(w.fetch("vend").iter().any(|down| matches!(down, Down::CommandStatus(_))));
        w.report(payment, Outcome::Done, 1);
        assert_eq!(w.state(payment), PaymentState::Delivered);
        assert!(w.calls(Refund).is_empty());
        w.finish();
    }
}

/// correctness.md 15: also a payment that was already being asked about gets the grace.
#[test]
fn asked_keeps_waiting_after_a_restart() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    w.take_command();
    let settle_at = w.driver.cloud().payment(payment).unwrap().command.clone().unwrap().settle_at;
    w.pass(settle_at.0 - w.now);
    w.now += 3_600_000;
    w.restart();
    w.pass(w.deadlines.reconnect_ms - 1);
    assert_eq!(w.state(payment), PaymentState::Delivering);
    w.pass(1);
    assert_eq!(w.state(payment), PaymentState::Refunding);
}

/// correctness.md 15: settle_at is never earlier than the start plus the reconnect grace, whenever the command is made.
#[test]
fn settle_at_is_never_before_the_reconnect_grace() {
    let deadlines = Deadlines { reconnect_ms: 500_000, verification_ms: 600_000, ..Deadlines::default() };
    let mut w = World::with(http(), OnUnknown::Refund, deadlines);
    let payment = w.verified("ann", 1);
    w.restart();
    let open = w.now;
    w.connect_all();
    w.bank(payment, Transfer, Done);
    let command = w.driver.cloud().payment(payment).unwrap().command.clone().unwrap();
    assert!(command.settle_at.0 >= open + deadlines.reconnect_ms);
}

/// The core's time never goes back, whatever it is told.
#[test]
fn time_never_goes_back() {
    let mut w = world();
    let payment = w.begin("ann", 1);
    let now = w.now;
    w.now = START;
    w.ready(payment);
    assert!(w.driver.cloud().payment(payment).unwrap().moved_at >= Timestamp(now));
    w.check_replay();
}

// ---- idempotency ----

/// MO-3: same key and content, same answer; same key and other content, refused; the first is untouched.
#[test]
fn key_reuse_with_other_content_is_refused() {
    let mut w = world();
    let until = Timestamp(w.now + 60_000);
    let first = w.signed(&w.information(1));
    let second = w.signed(&w.information(2));
    let answer = w.request_until("ann", 1, until, World::pay_request(first.clone())).unwrap();
    let other = w.request_until("ann", 1, until, World::pay_request(second)).unwrap();
    assert_eq!(other.refused.unwrap().to_string(), "key_reused");
    let later = w.request_until("ann", 1, Timestamp(until.0 + 1), World::pay_request(first.clone())).unwrap();
    assert_eq!(later.refused.unwrap().to_string(), "key_reused", "not_after is part of the content");
    assert_eq!(w.request_until("ann", 1, until, World::pay_request(first.clone())).unwrap(), answer);
    let bob = w.request_until("bob", 1, until, World::pay_request(first)).unwrap();
    assert_ne!(bob.payment, answer.payment, "keys are each principal's own");
    assert_eq!(w.driver.cloud().payments().count(), 2);
}

/// MO-3: a refusal is an answer too, and stays the same.
#[test]
fn refusals_are_remembered() {
    let mut w = world();
    let mut information = w.information(1);
    information.amount.minor = 0;
    let signed = w.signed(&information);
    let first = w.request("ann", 1, World::pay_request(signed.clone()));
    assert_eq!(first.refused.clone().unwrap().to_string(), "amount_zero");
    assert_eq!(w.request("ann", 1, World::pay_request(signed)), first);
}

/// With a bank of the tenant's own, nobody pays from an account that nobody named.
#[test]
fn payer_without_an_account_at_the_bank_is_refused() {
    let mut w = world();
    let public_key = Some(schemas::signed::PublicKey::of(&common::signing_key("eve")));
    let create = AdminCommand::CreatePerson { person: who("eve"), public_key, bank_account: None };
    w.admin(create).unwrap();
    w.connect("eve");
    let signed = w.signed(&w.information(1));
    let answer = w.request("eve", 1, World::pay_request(signed));
    assert_eq!(answer.refused.unwrap().to_string(), "payer_without_account");
}

/// correctness.md 17: later than not_after, or more than 24 h ahead: refused without a look-up.
#[test]
fn not_after_bounds_every_request() {
    let mut w = world();
    let signed = w.signed(&w.information(1));
    for (not_after, code) in [(w.now - 1, "request_expired"), (w.now + 86_400_001, "not_after_too_far")] {
        let answer =
            w.request_until("ann", 1, Timestamp(not_after), World::pay_request(signed.clone())).unwrap();
        assert_eq!(answer.refused.unwrap().to_string(), code);
    }
    assert_eq!(w.driver.cloud().payments().count(), 0);
    let ends = Timestamp(w.now);
    assert!(w.request_until("ann", 1, ends, World::pay_request(signed)).unwrap().payment.is_some());
}

/// MO-1, MO-3: a key that comes again after its not_after makes a new payment and never touches the old one.
#[test]
fn key_used_again_after_not_after_is_a_new_payment() {
    for bank in [http(), BankKind::Internal] {
        let mut w = World::new(bank, OnUnknown::Refund);
        let first = w.commanded("ann", 1);
        w.report(first, Outcome::Done, 1);
        w.pass(60_001);
        // Keys are forgotten with the next event.
        w.begin("bob", 2);
        let information = w.information(9);
        let second = w.begin_with("ann", 1, &information);
        assert_ne!(first, second);
        assert_eq!(w.state(first), PaymentState::Delivered);
        assert_eq!(w.state(second), PaymentState::Checking);
    }
}

/// correctness.md 17: an outcome without a payment in memory is named once per command id, whenever it comes.
#[test]
fn outcome_of_a_retired_payment_is_named_once() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    let command = w.take_command().command;
    w.report(payment, Outcome::Done, 1);
    w.pass(w.deadlines.retention_ms + 1);
    assert!(w.driver.cloud().payment(payment).is_none(), "closed payments leave memory");
    let late = ExecutorOutcome { command, outcome: Outcome::Done, delivered: 1, code: None };
    for _ in 0..3 {
        w.say("vend", Up::ExecutorCommand(late.clone())).unwrap();
    }
    assert_eq!(w.exceptions(), ["outcome_without_payment"]);
    w.resolve(PaymentId(command.0), cloud_core_flows::admin::Resolution::Accept).unwrap();
    assert!(w.exceptions().is_empty());
    w.finish();
}

/// MO-9: a closed payment with an open entry stays until an operator has looked.
#[test]
fn payment_with_an_exception_is_not_retired() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    w.report(payment, Outcome::Unknown, 0);
    w.bank(payment, Refund, Done);
    w.pass(3 * w.deadlines.retention_ms);
    assert!(w.driver.cloud().payment(payment).is_some());
    w.resolve(payment, cloud_core_flows::admin::Resolution::Accept).unwrap();
    w.pass(w.deadlines.retention_ms + 1);
    assert!(w.driver.cloud().payment(payment).is_none());
    assert_eq!(w.merchant_minor(), 0);
}

// ---- the executor ----

/// CP-9: never seen means not done and never will be.
#[test]
fn never_seen_is_a_refusal() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    let command = w.driver.cloud().payment(payment).unwrap().command.clone().unwrap().id;
    status(&mut w, command, CommandProgress::NeverSeen, None);
    assert_eq!((w.state(payment), w.reason(payment).as_str()), (PaymentState::Refunding, "never_seen"));
    assert!(w.fetch("vend").is_empty(), "the command is withdrawn");
    w.bank(payment, Refund, Done);
    w.finish();
}

/// CP-13, MO-4: an open intent keeps the payment waiting; then silence is the verdict.
#[test]
fn intent_open_then_silence_is_unknown() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    let command = w.take_command().command;
    w.pass(40_000);
    status(&mut w, command, CommandProgress::IntentOpen, None);
    assert_eq!(w.state(payment), PaymentState::Delivering);
    w.pass(10_000);
    assert_eq!(w.state(payment), PaymentState::Refunding);
    assert_eq!(w.exceptions(), ["unknown_outcome"]);
}

/// correctness.md 15: the answer to the question may carry the outcome.
#[test]
fn status_with_an_outcome_settles() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    let command = w.take_command().command;
    status(&mut w, command, CommandProgress::Ended, Some(Outcome::Done));
    assert_eq!(w.state(payment), PaymentState::Delivered);
    w.finish();
}

/// correctness.md 10: a command refused by PUBACK code or on `up/refused` was not acted on; other messages mean nothing.
#[test]
fn command_not_accepted_is_a_refusal() {
    for by_code in [true, false] {
        let mut w = world();
        let payment = w.commanded("ann", 1);
        let message = w.owed("vend")[0].message;
        if by_code {
            w.acknowledge("vend", message, 0x83);
        } else {
            let refused = |message| {
                let code = "disk_full".parse().unwrap();
                let text = schemas::wire::Text::new("full");
                Up::Refused(Refused { message, about: None, code, text })
            };
            w.say("vend", refused(None)).unwrap();
            w.say("vend", refused(Some(MessageId([1; 16])))).unwrap();
            w.say("chip", refused(Some(message))).unwrap();
            w.say("spare", refused(Some(message))).unwrap();
            assert_eq!(w.state(payment), PaymentState::Delivering);
            w.say("vend", refused(Some(message))).unwrap();
        }
        assert_eq!((w.state(payment), w.reason(payment).as_str()), (PaymentState::Refunding, "not_accepted"));
    }
}

fn status(w: &mut World, command: CommandId, progress: CommandProgress, outcome: Option<Outcome>) {
    let body = CommandStatusAnswer { command, progress, outcome, delivered: 1, code: None };
    w.say("vend", Up::CommandStatus(body)).unwrap();
}

/// A question is owed once, however often the executor subscribes.
#[test]
fn subscribing_often_does_not_fill_the_outbox() {
    let mut w = world();
    w.commanded("ann", 1);
    w.take_command();
    let connection = w.connections[&who("vend")];
    for _ in 0..1_000 {
        w.now += 1;
        w.driver.handle(Input::Subscribed { connection }, Timestamp(w.now));
    }
    w.flush();
    assert_eq!(w.owed("vend").len(), 1);
}
