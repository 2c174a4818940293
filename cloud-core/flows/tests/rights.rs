//! Who may do what, and how much of it: roles (PL-1), standing, limits.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use std::collections::BTreeMap;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, OnUnknown};
use cloud_core_flows::event::Event;
use cloud_core_flows::port::BankAnswer::Done;
use cloud_core_flows::port::BankCallKind::{Cancel, Refund, Transfer};
use cloud_core_flows::port::{
    ConnectionId, Credentials, DisconnectReason, Input, Output, PromiseRefusal, Proof, StandingRefusal,
};
use common::{World, chain, http, limits, who};
use schemas::envelope::Envelope;
use schemas::ids::{CommandId, Hash, Instance, MessageId, PaymentId};
use schemas::message::{
    CloudTimeRequest, CommandProgress, CommandStatusAnswer, Down, ExecutorOutcome, HealthCheckAnswer,
    HealthVerdict, Outcome, PaymentCancel, PaymentRefund, PaymentState, StatusRequest, Up,
    VerificationAnswer,
};
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas_journal::{Fold, Journal, Position};

fn world() -> World {
    World::new(http(), OnUnknown::Refund)
}

// ---- roles (PL-1) ----

fn every_up(payment: PaymentId, command: CommandId, w: &World) -> Vec<Up> {
    let verification = w.verification("ann", payment).sign(&common::signing_key("ann"));
    vec![
        World::pay_request(w.signed(&w.information(9))),
        Up::PaymentCancel(PaymentCancel { payment }),
        Up::PaymentRefund(PaymentRefund { payment }),
        Up::HealthCheck(HealthCheckAnswer { payment, verdict: HealthVerdict::NotIssued, code: None }),
        Up::PaymentVerification(VerificationAnswer { verification }),
        Up::ExecutorCommand(ExecutorOutcome { command, outcome: Outcome::Failed, delivered: 0, code: None }),
        Up::CommandStatus(CommandStatusAnswer {
            command,
            progress: CommandProgress::NeverSeen,
            outcome: None,
            delivered: 0,
            code: None,
        }),
    ]
}

/// PL-1: each kind from every sender whose business it is not changes nothing about the payment.
#[test]
fn wrong_senders_change_nothing() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    let before = w.driver.cloud().payment(payment).cloned();
    let command = before.as_ref().unwrap().command.clone().unwrap().id;
    for (index, body) in every_up(payment, command, &w).into_iter().enumerate() {
        for (n, name) in ["chip", "vend", "spare", "ann", "bob", "till"].into_iter().enumerate() {
            let rightful = matches!(
                (&body, name),
                (Up::ExecutorCommand(_) | Up::CommandStatus(_), "vend")
                    | (Up::PaymentCancel(_) | Up::PaymentRequest(_) | Up::PaymentVerification(_), "ann")
                    | (Up::PaymentRequest(_), "bob")
                    | (Up::HealthCheck(_), "chip")
                    | (Up::PaymentRefund(_), "till")
            );
            if rightful {
                continue;
            }
            let key = u8::try_from(100 + index * 6 + n).unwrap();
            let refused = if body.is_request() {
                let (promise, replies) = w.request_raw(name, key, Timestamp(w.now + 1_000), body.clone());
                let owed = w.fetch(name);
                let answered = |down: &Down| matches!(down, Down::RequestAnswer(a) if a.refused.is_some());
                promise.is_err() || replies.iter().chain(&owed).any(answered)
            } else {
                w.say(name, body.clone()).is_err()
            };
            assert!(refused, "{name} may not say {body:?}");
            assert_eq!(w.driver.cloud().payment(payment).cloned(), before);
        }
    }
    assert!(w.exceptions().is_empty());
}

/// PL-1: not a message of its kind: refused by name, told on `down/refused`, audited; never a panic.
#[test]
fn garbage_is_refused_and_audited() {
    let mut w = world();
    let valid = Envelope::message(MessageId([1; 16]), CloudTimeRequest { nonce: 1 }).encode();
    let mut trailing = valid.clone();
    trailing.push(0);
    let newer = Envelope { v: 2, id: MessageId([1; 16]), key: None, not_after: None, body: 7_u8 }.encode();
    let payloads: Vec<Vec<u8>> =
        vec![vec![], vec![0xff; 9], vec![0; 9_000], valid[..valid.len() - 1].to_vec(), trailing, newer];
    for payload in payloads {
        for kind in Kind::ALL.iter().copied().filter(|kind| *kind != Kind::CloudTime || payload.len() != 1) {
            let (promise, replies) = w.publish("ann", kind, payload.clone());
            assert_eq!(promise, Err(PromiseRefusal::PayloadInvalid), "{kind} {}", payload.len());
            assert!(matches!(replies[..], [Down::Refused(_)]));
        }
    }
    let (promise, _) = w.publish("ann", Kind::PaymentCancel, {
        Envelope::message(MessageId([1; 16]), PaymentCancel { payment: PaymentId([0; 16]) }).encode()
    });
    assert_eq!(promise, Err(PromiseRefusal::PayloadInvalid), "a request needs a key");
}

/// PL-1: refusals are audited ten times a minute for each principal, then only counted; the number is audited too.
#[test]
fn audit_of_refusals_is_rate_limited() {
    let mut w = world();
    for minute in 0..2 {
        w.now = (w.now / 60_000 + 1) * 60_000;
        for _ in 0..50 {
            w.publish("ann", Kind::PaymentRequest, vec![minute]).0.unwrap_err();
            w.publish("bob", Kind::PaymentRequest, vec![minute]).0.unwrap_err();
        }
    }
    assert_eq!(audits(&w), 40);
    w.now = w.driver.next_due().unwrap().0;
    assert_eq!(w.now % 60_000, 0, "a summary is due when the minute ends");
    w.input(Input::Tick);
    assert_eq!(unrecorded(&w), [80, 80]);
    let AdminAnswer::Refusals(report) = w.admin(AdminCommand::ListRefusals).unwrap() else {
        panic!("refusals")
    };
    assert_eq!(report.unrecorded, 160);
}

/// MO-8: many principals can't fill the journal either.
#[test]
fn audit_of_refusals_has_a_limit_for_all_and_says_what_it_left_out() {
    let mut w = world();
    w.now = (w.now / 60_000 + 1) * 60_000;
    for n in 0..1_000_u32 {
        let principal = who(&format!("p-{n}"));
        let create =
            AdminCommand::CreatePerson { person: principal.clone(), public_key: None, bank_account: None };
        w.admin(create).unwrap();
        let lane = Input::LaneRefused {
            connection: ConnectionId(1),
            principal: Some(principal),
            what: "Publish ft/x".to_owned(),
            why: "not yours".to_owned(),
            told: true,
        };
        w.input(lane);
    }
    assert_eq!(audits(&w), 600);
    assert_eq!(unrecorded(&w), [0; 0], "the minute has not ended");
    w.now += 60_000;
    w.input(Input::Tick);
    assert_eq!(unrecorded(&w), [400]);
    w.now += 600_000;
    w.input(Input::Tick);
    assert_eq!(unrecorded(&w), [400], "once");
    w.publish("ann", Kind::PaymentRequest, vec![1]).0.unwrap_err();
    assert_eq!(audits(&w), 601, "another minute has its own");
}

/// Refusals that were written down, without the summaries.
fn audits(w: &World) -> usize {
    audited(w).iter().filter(|(what, _)| what != SUMMARY).count()
}

/// The numbers that the summaries name.
fn unrecorded(w: &World) -> Vec<u64> {
    let summaries = audited(w).into_iter().filter(|(what, _)| what == SUMMARY);
    summaries.map(|(_, why)| why.split(' ').next().unwrap().parse().unwrap()).collect()
}

const SUMMARY: &str = "audit of refusals";

fn audited(w: &World) -> Vec<(String, String)> {
    #[derive(Default)]
    struct Count(Vec<(String, String)>);
    impl Fold for Count {
        type Error = schemas::cbor::CborError;
        fn restore(&mut self, _: Position, _: &[u8]) -> Result<(), Self::Error> {
            Ok(())
        }
        fn apply(&mut self, _: Position, record: &[u8]) -> Result<(), Self::Error> {
            let record = cloud_core_flows::event::Record::decode(record)?;
            if let Event::RefusalAudited { what, why, .. } = record.event {
                self.0.push((what, why));
            }
            Ok(())
        }
    }
    let mut count = Count::default();
    Journal::open(w.disk.fork(), limits(), chain(), &mut count).unwrap();
    count.0
}

/// PL-1: names that nobody has proved to own are not counted one by one: they can't fill the journal.
#[test]
fn unknown_names_share_one_audit_budget() {
    let mut w = world();
    w.now = (w.now / 60_000 + 1) * 60_000;
    for n in 0..500_u32 {
        let principal = who(&format!("nobody-{n}"));
        let public_key = schemas::signed::PublicKey([1; 32]);
        let claim_hash = Hash::of(&n.to_be_bytes());
        w.input(Input::Enrol { ticket: 1, principal, proof: Proof::Claim(claim_hash), public_key });
    }
    assert_eq!(audits(&w), 10);
}

// ---- standing ----

/// correctness.md 20: revoking ends the session and withdraws what is owed; neither certificate nor token connects.
#[test]
fn revoked_device_is_out_at_once() {
    let mut w = world();
    w.commanded("ann", 1);
    let connection = w.connections[&who("vend")];
    let outputs = w.input(Input::Admin {
        ticket: 1,
        by: None,
        command: AdminCommand::RevokeDevice { device: who("vend") },
    });
    assert!(outputs.iter().any(|output| matches!(
        output,
        Output::Disconnect { connection: c, reason: DisconnectReason::Revoked } if *c == connection
    )));
    assert_eq!(w.driver.cloud().outbox().depth(&who("vend")), 0);
    let token_hash = Hash::of(b"t");
    let expires_at = Timestamp(w.now + 1_000);
    w.admin(AdminCommand::CreateToken { principal: who("vend"), token_hash, expires_at }).ok();
    for credentials in [
        Credentials::Certificate { principal: who("vend"), instance: Instance(1), serial: vec![] },
        Credentials::Token { principal: who("vend"), token_hash },
    ] {
        let input = Input::Connect { connection: ConnectionId(99), client: "vend".into(), credentials };
        let outputs = w.input(input);
        let refused = |output: &Output| {
            matches!(output, Output::Standing { result: Err(StandingRefusal::Revoked), .. })
        };
        assert!(outputs.iter().any(refused));
    }
    let refused = w.request("ann", 2, World::pay_request(w.signed(&w.information(2))));
    assert_eq!(refused.refused.unwrap().to_string(), "executor_revoked");
}

/// correctness.md 20: same claim and key, the same certificate again; another key is refused.
#[test]
fn enrolment_answers_a_lost_answer_again() {
    let mut w = world();
    let order = w.enrol("vend", 2);
    let again = |w: &mut World, key| {
        let (principal, proof) = (who("vend"), order.proof.clone());
        let outputs = w.input(Input::Enrol { ticket: 1, principal, proof, public_key: key });
        outputs.into_iter().find_map(|output| match output {
            Output::Enrolled { result, .. } => Some(result.map_err(|why| why.code.to_string())),
            _ => None,
        })
    };
    assert_eq!(again(&mut w, order.public_key), Some(Ok(vec![1, 2, 3])));
    assert_eq!(again(&mut w, schemas::signed::PublicKey([1; 32])), Some(Err("claim_used".into())));
    let old = Credentials::Certificate { principal: who("vend"), instance: Instance(1), serial: vec![] };
    let outputs =
        w.input(Input::Connect { connection: ConnectionId(99), client: "v".into(), credentials: old });
    assert!(outputs.iter().any(|output| matches!(output, Output::Standing { result: Err(_), .. })));
}

/// What a request for a certificate comes to: signed (with `certificate`) or known, or the code of its refusal.
fn ask(
    w: &mut World,
    device: &str,
    proof: &Proof,
    key: PublicKey,
    certificate: &[u8],
) -> Result<Vec<u8>, String> {
    let (principal, proof) = (who(device), proof.clone());
    let mut outputs = w.input(Input::Enrol { ticket: 7, principal, proof, public_key: key });
    if let Some(Output::Sign { order, .. }) = outputs.iter().find(|o| matches!(o, Output::Sign { .. })) {
        let (order, certificate) = (order.clone(), certificate.to_vec());
        outputs = w.input(Input::Signed { ticket: 7, order, certificate });
        assert!(!outputs.iter().any(|o| matches!(o, Output::Disconnect { .. })), "a renewal disturbs nobody");
    }
    let answer = outputs.into_iter().find_map(|output| match output {
        Output::Enrolled { result, .. } => Some(result.map_err(|why| why.code.to_string())),
        _ => None,
    });
    answer.expect("an answer")
}

/// correctness.md 20: a renewal keeps principal, instance, key, session and work; the same certificate is renewed to
/// the same one again (a lost answer), and the new one to a newer one.
#[test]
fn renewed_certificate_keeps_everything_else() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    let key = PublicKey::of(&common::signing_key("vend"));
    let shown = |serial: u8| Proof::Certificate { instance: Instance(1), serial: vec![serial] };
    assert_eq!(ask(&mut w, "vend", &shown(1), key, b"second"), Ok(b"second".to_vec()));
    assert_eq!(ask(&mut w, "vend", &shown(1), key, b"never made"), Ok(b"second".to_vec()));
    assert_eq!(ask(&mut w, "vend", &shown(2), key, b"third"), Ok(b"third".to_vec()));
    w.restart();
    assert_eq!(ask(&mut w, "vend", &shown(2), key, b"never made"), Ok(b"third".to_vec()));
    w.connect_all();
    w.report(payment, Outcome::Done, 1);
    assert_eq!(w.state(payment), PaymentState::Delivered);
}

/// correctness.md 20: who was revoked or replaced, or comes with another key, gets nothing, and it is audited.
#[test]
fn renewal_is_refused_to_whoever_has_no_standing() {
    let mut w = world();
    let key = PublicKey::of(&common::signing_key("vend"));
    let shown = |instance| Proof::Certificate { instance: Instance(instance), serial: vec![1] };
    let before = audits(&w);
    let refused = |code: &str| Err(code.to_owned());
    assert_eq!(ask(&mut w, "vend", &shown(1), PublicKey([1; 32]), b""), refused("renewal_other_key"));
    assert_eq!(ask(&mut w, "nobody", &shown(1), key, b""), refused("certificate_not_current"));
    w.enrol("vend", 2);
    assert_eq!(ask(&mut w, "vend", &shown(1), key, b""), refused("certificate_not_current"));
    assert_eq!(ask(&mut w, "vend", &shown(2), key, b"new"), Ok(b"new".to_vec()));
    w.admin(AdminCommand::RevokeDevice { device: who("vend") }).unwrap();
    assert_eq!(
        ask(&mut w, "vend", &shown(2), key, b""),
        refused("certificate_not_current"),
        "nor the known one"
    );
    assert_eq!(audits(&w) - before, 4);
}

/// A rotation leaves the former token good until the overlap ends, or until its own end; the one before it is out.
/// Who is connected stays: a token is looked at when somebody connects, and `devices revoke` ends a session.
#[test]
fn rotated_token_is_good_beside_the_new_one_for_a_while() {
    let mut w = world();
    let start = w.now;
    let at = |ms: u64| Timestamp(start + ms);
    let token = |n: u8| Hash::of(&[n]);
    let rotate = |n: u8, former_until| AdminCommand::RotateToken {
        principal: who("eve"),
        token_hash: token(n),
        expires_at: at(1_000_000),
        former_until,
    };
    let (person, public_key, bank_account) = (who("eve"), None, None);
    w.admin(AdminCommand::CreatePerson { person, public_key, bank_account }).unwrap();
    assert_eq!(w.admin(rotate(1, at(9))).unwrap_err().code.as_str(), "token_unknown");
    let create =
        AdminCommand::CreateToken { principal: who("eve"), token_hash: token(0), expires_at: at(100_000) };
    w.admin(create).unwrap();
    w.admin(rotate(1, at(500_000))).unwrap();
    w.admin(rotate(1, at(500_000))).unwrap();
    assert_eq!((connects(&mut w, token(0)), connects(&mut w, token(1))), (true, true));
    w.now = start + 100_000;
    assert_eq!((connects(&mut w, token(0)), connects(&mut w, token(1))), (false, true), "its own end");
    w.admin(rotate(2, at(200_000))).unwrap();
    w.admin(rotate(3, at(300_000))).unwrap();
    assert_eq!([1, 2, 3].map(|n| connects(&mut w, token(n))), [false, true, true]);
    w.now = start + 300_000;
    assert_eq!([2, 3].map(|n| connects(&mut w, token(n))), [false, true], "the overlap has ended");
    assert!(audits(&w) > 0, "a refused token is on record");
}

fn connects(w: &mut World, token_hash: Hash) -> bool {
    let credentials = Credentials::Token { principal: who("eve"), token_hash };
    let connection = ConnectionId(1_000 + w.now);
    let outputs = w.input(Input::Connect { connection, client: "other".into(), credentials });
    outputs.iter().any(|output| matches!(output, Output::Standing { result: Ok(_), .. }))
}

// ---- limits ----

/// A payer has sixteen open payments; a device takes part in 64; then new ones are refused by name.
#[test]
fn open_payments_are_bounded() {
    let mut w = world();
    for nonce in 0..16 {
        w.begin("ann", nonce);
    }
    let refused = w.request("ann", 16, World::pay_request(w.signed(&w.information(16))));
    assert_eq!(refused.refused.unwrap().to_string(), "too_many_open");
    assert!(w.driver.cloud().outbox().depth(&who("chip")) <= cloud_core_flows::limits::OUTBOX_MESSAGES);
}

/// The outbox of a person who never comes is bounded: the oldest status gives way, and all of it expires.
#[test]
fn outbox_of_a_person_is_bounded() {
    let mut w = world();
    w.restores_after_each_input = false;
    for round in 0..200_u64 {
        let payment = w.commanded("ann", u8::try_from(round).unwrap());
        w.report(payment, Outcome::Failed, 0);
        w.bank(payment, Refund, Done);
        w.fetch("vend");
        w.fetch("chip");
        w.now += 1;
    }
    w.pass(130_000);
    w.bind(None);
    // Nonces are forgotten with the next claim after their end.
    w.verified("bob", 250);
    for round in 0..200_u64 {
        let payment = w.verified("bob", u8::try_from(round).unwrap());
        w.bank(payment, Transfer, Done);
        w.fetch("chip");
    }
    assert!(w.driver.cloud().outbox().depth(&who("till")) <= cloud_core_flows::limits::OUTBOX_MESSAGES);
    assert!(w.driver.cloud().outbox().depth(&who("till")) > 200);
    w.pass(cloud_core_flows::limits::STATUS_LIFE_MS);
    assert_eq!(w.driver.cloud().outbox().depth(&who("till")), 0);
}

/// correctness.md 4: with a full disk new payments are put off with 0x97; open ones finish, cancel passes.
#[test]
fn full_disk_refuses_new_payments_and_finishes_open_ones() {
    let mut w = world();
    w.restores_after_each_input = false;
    let open = w.commanded("ann", 1);
    let other = w.begin("ann", 2);
    w.disk.set_capacity_bytes(Some(0));
    let mut refused = None;
    for nonce in 3..250 {
        let body = World::pay_request(w.signed(&w.information(nonce)));
        let (promise, _) = w.request_raw("bob", nonce, Timestamp(w.now + 60_000), body);
        if promise.is_err() {
            refused = Some(promise);
            break;
        }
        let id = w.driver.cloud().payments().find(|p| p.payer == who("bob") && !p.at_rest()).map(|p| p.id);
        let Some(id) = id else { continue };
        w.health(id, HealthVerdict::NotIssued, None);
        for party in ["bob", "chip"] {
            w.fetch(party);
        }
    }
    assert_eq!(refused, Some(Err(PromiseRefusal::Quota)));
    let before = audits(&w);
    for key in 0..20 {
        let body = World::pay_request(w.signed(&w.information(251)));
        let (promise, told) = w.request_raw("ann", 200 + key, Timestamp(w.now + 60_000), body);
        assert_eq!(promise, Err(PromiseRefusal::Quota));
        let is_why =
            |down: &Down| matches!(down, Down::Refused(refused) if refused.code.as_str() == "no_room");
        assert!(told.iter().any(is_why), "MQTT 3.1.1 has no other word for it: {told:?}");
    }
    assert_eq!(audits(&w), before, "audit records must not use up the last room");
    assert_eq!(w.cancel("ann", 199, other).refused, None);
    w.report(open, Outcome::Failed, 0);
    w.bank(open, Refund, Done);
    assert_eq!(w.state(open), PaymentState::Refunded);
    w.disk.set_capacity_bytes(None);
    w.driver.retry_spare();
    w.flush();
    w.begin("bob", 252);
    w.check_replay();
}

/// correctness.md 9: what comes while nothing at all finds room is put off, and its sender is told why, once anything may
/// leave.
#[test]
fn on_a_full_disk_everybody_is_told_why_they_have_to_wait() {
    let mut w = world();
    w.restores_after_each_input = false;
    w.disk.set_capacity_bytes(Some(0));
    let connection = w.connections[&who("ann")];
    let is_starved = |w: &World| w.driver.decided() > w.driver.journal().position();
    for round in 0..5_000 {
        let (kind, payload, proven) = (Kind::PaymentRequest, vec![0; 40], None);
        w.decide_only(Input::Publish { connection, token: round + 10, kind, payload, proven });
        w.flush();
        w.now += 60_000;
        if is_starved(&w) {
            break;
        }
    }
    assert!(is_starved(&w), "audit records fill the disk in the end");
    let id = MessageId([77; 16]);
    let body = Up::StatusRequest(StatusRequest { payment: None });
    let (kind, payload, proven) = (body.kind(), Envelope::message(id, body).encode(), None);
    w.decide_only(Input::Publish { connection, token: 9, kind, payload, proven });
    assert!(w.flush().is_empty());
    w.disk.set_capacity_bytes(None);
    w.driver.retry_spare();
    let outputs = (0..3).flat_map(|_| w.flush()).collect();
    let (promise, told) = w.answers(outputs);
    assert_eq!(promise, Err(PromiseRefusal::Quota));
    let is_why = |down: &Down| matches!(down, Down::Refused(refused) if refused.message == Some(id) && refused.code.as_str() == "no_room");
    assert!(told.iter().any(is_why), "{told:?}");
}

/// CP-15: an operator's text that does not fit a record is refused, not journaled.
#[test]
fn operators_texts_are_bounded() {
    let mut w = world();
    let command =
        AdminCommand::CreateDevice { device: who("big"), profile: "x".repeat(100_000), longest_act_ms: 1 };
    assert_eq!(w.admin(command).unwrap_err().code.to_string(), "text_too_long");
    let items: BTreeMap<_, _> =
        (0..300).map(|n| (format!("item-{n}").parse().unwrap(), "vend".parse().unwrap())).collect();
    let (chip, merchant) = (who("chip"), "shop".parse().unwrap());
    let command = AdminCommand::BindChip { chip, merchant, executor: None, items };
    assert_eq!(w.admin(command).unwrap_err().code.to_string(), "too_many_items");
}

/// CP-15: every registering command may be repeated; with other content it is refused.
#[test]
fn registering_twice_is_the_same() {
    let mut w = world();
    let person = |key: Option<&str>| AdminCommand::CreatePerson {
        person: who("carl"),
        public_key: key.map(|name| schemas::signed::PublicKey::of(&common::signing_key(name))),
        bank_account: None,
    };
    w.admin(person(None)).unwrap();
    let before = w.driver.cloud().clone();
    w.admin(person(None)).unwrap();
    assert_eq!(*w.driver.cloud(), before);
    assert_eq!(w.admin(person(Some("ann"))).unwrap_err().code.to_string(), "exists_with_other_content");
}

/// CP-15: a payer who is also at the merchant's terminal is told once.
#[test]
fn payer_at_the_merchants_terminal_is_told_once() {
    let mut w = world();
    let terminal = Some("ann".parse().unwrap());
    let (tenant, merchant) = ("acme".parse().unwrap(), "own".parse().unwrap());
    w.admin(AdminCommand::CreateMerchant { tenant, merchant, title: "Own".into(), terminal }).unwrap();
    let (chip, merchant) = (who("chip"), "own".parse().unwrap());
    w.admin(AdminCommand::BindChip {
        chip,
        merchant,
        executor: Some("vend".parse().unwrap()),
        items: BTreeMap::new(),
    })
    .unwrap();
    let mut information = w.information(1);
    information.payee = "own".parse().unwrap();
    let payment = w.begin_with("ann", 1, &information);
    w.ready(payment);
    let mut said = w.verification("ann", payment);
    said.payee = schemas::wire::Text::new("Own");
    let said = said.sign(&common::signing_key("ann"));
    w.say("ann", Up::PaymentVerification(VerificationAnswer { verification: said })).unwrap();
    w.bank(payment, Transfer, Done);
    w.fetch("ann");
    w.report(payment, Outcome::Done, 1);
    assert_eq!(w.owed("ann").len(), 1);
}

/// CP-11: a question that a person must answer is offered again at each subscribe, until it is answered.
#[test]
fn verification_is_offered_again() {
    let mut w = world();
    let payment = w.begin("ann", 1);
    w.ready(payment);
    let asked = |downs: Vec<Down>| downs.iter().filter(|d| matches!(d, Down::PaymentVerification(_))).count();
    assert_eq!(asked(w.fetch("ann")), 1);
    assert_eq!(asked(w.fetch("ann")), 0);
    w.now += 1;
    w.connect("ann");
    assert_eq!(
        asked(w.fetch("ann")),
        1,
        "an ordinary client acknowledges before its person has seen anything"
    );
    w.say("ann", Up::StatusRequest(StatusRequest { payment: None })).unwrap();
    assert_eq!(asked(w.fetch("ann")), 1);
    w.say("bob", Up::StatusRequest(StatusRequest { payment: Some(payment) })).unwrap();
    assert!(w.fetch("bob").is_empty(), "not somebody else's");
    w.verify("ann", payment);
    w.connect("ann");
    assert_eq!(asked(w.fetch("ann")), 0);
    assert!(w.calls(Cancel).is_empty());
}
