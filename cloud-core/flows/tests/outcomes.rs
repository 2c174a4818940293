//! The table "Who ends up with what", row by row: money in the ledger, calls to the bank, final state, who is told,
//! what is in the exceptions queue.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::{BankKind, OnUnknown, Resolution};
use cloud_core_flows::port::BankAnswer::{Cancelled, Done, NotFound, Refused, Unknown};
use cloud_core_flows::port::BankCallKind::{Cancel, Refund, Status, Transfer};
use common::money::*;
use common::{FUNDS, PRICE, World, http, signing_key, who};
use schemas::message::{Down, HealthVerdict, Outcome, PaymentState, Up, VerificationAnswer};

/// CP-3: a refusal of the chip ends the payment and the user is told why.
#[test]
fn checking_to_refused_by_the_chip() {
    for mut w in both() {
        for (nonce, verdict, code, reason) in [
            (1, HealthVerdict::NotIssued, None, "not_issued"),
            (2, HealthVerdict::NotReady, Some("sold_out"), "sold_out"),
            (3, HealthVerdict::NotReady, None, "not_ready"),
        ] {
            let payment = w.begin("ann", nonce);
            w.health(payment, verdict, code);
            let told = w.told("ann", payment).unwrap();
            assert_eq!(
                (told.state, told.reason.unwrap().to_string()),
                (PaymentState::Refused, reason.into())
            );
            assert_eq!(w.told_state("till", payment), None);
            w.ready(payment);
            assert_eq!(w.state(payment), PaymentState::Refused, "the first answer counts");
        }
        assert!(w.calls(Transfer).is_empty());
        nothing_moved(&mut w);
    }
}

/// CP-3: silence of the chip past its deadline ends the payment.
#[test]
fn checking_to_refused_by_silence() {
    for mut w in both() {
        let payment = w.begin("ann", 1);
        w.pass(9_999);
        assert_eq!(w.state(payment), PaymentState::Checking);
        w.pass(1);
        assert_eq!(w.state(payment), PaymentState::Refused);
        assert_eq!(w.told("ann", payment).unwrap().reason.unwrap().to_string(), "chip_silent");
        w.ready(payment);
        assert_eq!(w.state(payment), PaymentState::Refused);
        nothing_moved(&mut w);
    }
}

/// CP-4: once the chip has confirmed it, the payer is asked, and sees payee, amount and what is bought.
#[test]
fn checking_to_pending_verification_shows_payee_and_amount() {
    for mut w in both() {
        let payment = w.begin("ann", 1);
        let asked = |told: Vec<Down>| {
            told.into_iter().find_map(|body| match body {
                Down::PaymentVerification(asked) if asked.payment == payment => Some(asked),
                _ => None,
            })
        };
        assert_eq!(asked(w.fetch("ann")), None, "not before the chip has confirmed it");
        w.ready(payment);
        let asked = asked(w.fetch("ann")).unwrap();
        assert_eq!((asked.payee.as_str(), asked.amount.minor), ("The Shop", PRICE));
        assert_eq!((asked.item, asked.quantity), (w.information(1).item, w.information(1).quantity));
        assert_eq!(w.state(payment), PaymentState::PendingVerification);
    }
}

/// CP-5: a verification of another amount, payee, payer, key or past its own end ends the payment.
#[test]
fn verifying_to_declined_by_a_wrong_verification() {
    for wrong in 0..5 {
        for mut w in both() {
            let payment = w.begin("ann", 1);
            w.ready(payment);
            let mut said = w.verification("ann", payment);
            let mut key = signing_key("ann");
            match wrong {
                0 => said.amount.minor += 1,
                1 => said.payee = schemas::wire::Text::new("The Shop "),
                2 => said.payer = who("bob"),
                3 => said.expires_at = schemas::time::Timestamp(w.now / 1000 * 1000 - 1000),
                _ => key = signing_key("bob"),
            }
            let said = Up::PaymentVerification(VerificationAnswer { verification: said.sign(&key) });
            w.say("ann", said).unwrap();
            assert_eq!(w.state(payment), PaymentState::Declined, "{wrong}");
            assert_eq!(w.told_state("ann", payment), Some(PaymentState::Declined));
            assert_eq!(w.told_state("chip", payment), Some(PaymentState::Declined));
            assert_eq!(w.told_state("till", payment), None);
            assert!(w.calls(Transfer).is_empty());
            nothing_moved(&mut w);
        }
    }
}

/// CP-5: absent by the deadline; one that comes later changes nothing.
#[test]
fn verifying_to_expired_by_silence() {
    for mut w in both() {
        let payment = w.begin("ann", 1);
        w.ready(payment);
        let late = w.verification("ann", payment).sign(&signing_key("ann"));
        w.pass(120_000);
        assert_eq!(w.state(payment), PaymentState::Expired);
        w.say("ann", Up::PaymentVerification(VerificationAnswer { verification: late })).unwrap();
        assert_eq!(w.state(payment), PaymentState::Expired);
        assert_eq!(w.told_state("ann", payment), Some(PaymentState::Expired));
        assert_eq!(w.told_state("chip", payment), Some(PaymentState::Expired));
        nothing_moved(&mut w);
    }
}

/// CP-7: the bank refuses.
#[test]
fn transferring_to_bank_refused() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    w.bank(payment, Transfer, Refused("insufficient_funds".into()));
    let told = w.told("ann", payment).unwrap();
    assert_eq!(told.state, PaymentState::BankRefused);
    assert_eq!(told.reason.unwrap().to_string(), "insufficient_funds");
    assert!(w.fetch("vend").is_empty(), "no command");
    nothing_moved(&mut w);
}

/// CP-7, MO-2: with an internal bank too little money is a refusal, and nothing is reserved.
#[test]
fn verifying_to_bank_refused_by_the_own_books() {
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    let mut dear = w.information(1);
    dear.amount.minor = FUNDS + 1;
    let payment = w.begin_with("ann", 1, &dear);
    w.ready(payment);
    w.verify("ann", payment);
    assert_eq!(w.state(payment), PaymentState::BankRefused);
    assert_eq!(w.reason(payment), "insufficient_funds");
    nothing_moved(&mut w);
}

/// MO-4: a silent bank is asked by status, then fenced; a fence ends the payment without a command.
#[test]
fn transferring_to_bank_refused_by_the_fence() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    w.bank(payment, Transfer, Unknown);
    w.pass(1_000);
    assert_eq!(w.state(payment), PaymentState::BankUnknown);
    assert_eq!(w.told_state("ann", payment), Some(PaymentState::BankUnknown));
    w.pass(300_000);
    assert!(w.calls(Status).len() > 1 && w.calls(Cancel).len() > 1);
    assert!(!w.driver.cloud().payment(payment).unwrap().at_rest(), "nobody guesses");
    w.bank(payment, Cancel, Unknown);
    w.bank(payment, Cancel, Cancelled);
    assert_eq!(w.state(payment), PaymentState::BankRefused);
    assert_eq!(w.told_state("ann", payment), Some(PaymentState::BankRefused));
    let keys: Vec<_> = [Transfer, Status, Cancel].iter().flat_map(|call| w.keys(*call)).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "one key in every call");
    assert!(w.fetch("vend").is_empty());
    assert!(w.exceptions().is_empty(), "an unreachable bank that answers is resolved");
    nothing_moved(&mut w);
}

/// MO-4, MO-9: a bank silent for long is named in the queue while it is asked on.
#[test]
fn fencing_silence_is_named_and_pursued() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    w.pass(2_000_000);
    assert_eq!(w.exceptions(), ["bank_unreachable"]);
    let asked = w.calls(Cancel).len();
    w.pass(64_000);
    assert!(w.calls(Cancel).len() > asked);
    assert_eq!(w.state(payment), PaymentState::BankUnknown);
    assert_eq!(w.merchant_minor(), 0);
}

/// MO-4: "not found" while the payment lives is answered by the same transfer under the same key.
#[test]
fn inquiring_not_found_transfers_again_with_the_same_content() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    w.pass(1_000);
    w.bank(payment, Status, NotFound);
    assert_eq!(w.calls(Transfer).len(), 2);
    assert_eq!(w.calls(Transfer)[0], w.calls(Transfer)[1]);
    w.bank(payment, Transfer, Done);
    assert_eq!(w.state(payment), PaymentState::Delivering);
}

/// MO-4: found done while the payment lives: on to the command (CP-8).
#[test]
fn inquiring_to_commanded_when_found_done() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    w.pass(1_000);
    assert!(w.fetch("vend").is_empty(), "CP-8: no command before the bank's success");
    w.bank(payment, Status, Done);
    assert_eq!(w.state(payment), PaymentState::Delivering);
    assert_eq!(w.merchant_minor(), 0, "pending");
    assert_eq!(w.account("merchant/shop").credits_pending.minor, PRICE);
    assert_eq!(w.holding_minor(), i128::from(PRICE));
    w.report(payment, Outcome::Done, 1);
    paid(&mut w, PRICE);
    at_rest(&mut w);
}

/// MO-4, CP-12: found done by the fence: refunded, told to the payer and to nobody else.
#[test]
fn fencing_to_refunded_when_found_done() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    w.pass(90_000);
    w.bank(payment, Cancel, Done);
    given_back(&mut w, payment);
    assert_eq!(w.told_state("ann", payment), Some(PaymentState::Refunded));
    assert_eq!(w.told_state("till", payment), None, "a merchant that never heard of it is not told");
    assert!(w.fetch("vend").is_empty());
}

/// CP-10: done by settle_at: posted; payer and merchant are told.
#[test]
fn commanded_to_delivered() {
    for mut w in both() {
        let payment = w.commanded("ann", 1);
        assert_eq!(w.told_state("ann", payment), Some(PaymentState::Delivering));
        assert_eq!(w.merchant_minor(), 0);
        w.take_command();
        w.report(payment, Outcome::Done, 1);
        assert_eq!(w.state(payment), PaymentState::Delivered);
        assert_eq!(w.told_state("ann", payment), Some(PaymentState::Delivered));
        let till = w.told("till", payment).unwrap();
        assert_eq!((till.state, till.paid.minor, till.delivered), (PaymentState::Delivered, PRICE, 1));
        w.report(payment, Outcome::Done, 1);
        assert!(w.exceptions().is_empty(), "the same again is no contradiction");
        paid(&mut w, PRICE);
        at_rest(&mut w);
    }
}

/// CP-18: a part is posted, rounded in the payer's favour; the rest goes back, once.
#[test]
fn commanded_to_delivered_in_part() {
    for mut w in both() {
        let mut information = w.information(1);
        information.quantity = 3;
        let payment = w.commanded_with("ann", 1, &information);
        w.report(payment, Outcome::DoneInPart, 2);
        if !internal(&w) {
            assert_eq!(w.state(payment), PaymentState::Refunding);
            assert_eq!(w.holding_minor(), 334);
            assert_eq!(w.calls(Refund)[0].amount.minor, 334);
            w.bank(payment, Refund, Done);
            w.bank(payment, Refund, Done);
            assert_eq!(w.keys(Refund).len(), 1);
        }
        let told = w.told("ann", payment).unwrap();
        assert_eq!((told.state, told.paid.minor, told.delivered), (PaymentState::DeliveredInPart, 666, 2));
        assert_eq!(w.told_state("till", payment), Some(PaymentState::DeliveredInPart));
        paid(&mut w, 666);
        at_rest(&mut w);
    }
}

/// CP-18: nothing of something is a failure, all of it is done, a share below the smallest unit costs nothing.
#[test]
fn parts_at_the_edges() {
    for (delivered, amount, posted) in [(0, 900, 0), (3, 900, 900), (7, 900, 900), (1, 2, 0), (2, 2, 1)] {
        for mut w in both() {
            let mut information = w.information(1);
            (information.quantity, information.amount.minor) = (3, amount);
            let payment = w.commanded_with("ann", 1, &information);
            w.report(payment, Outcome::DoneInPart, delivered);
            if w.state(payment) == PaymentState::Refunding {
                w.bank(payment, Refund, Done);
            }
            paid(&mut w, posted);
            at_rest(&mut w);
        }
    }
}

/// CP-11, CP-12: failed, refused, never seen: given back; payer and merchant are told.
#[test]
fn commanded_to_given_back() {
    for outcome in [Outcome::Failed, Outcome::Refused] {
        for mut w in both() {
            let payment = w.commanded("ann", 1);
            w.take_command();
            w.report(payment, outcome, 0);
            given_back(&mut w, payment);
            let state = w.state(payment);
            assert_eq!(w.told_state("ann", payment), Some(state));
            assert_eq!(w.told_state("till", payment), Some(state));
            assert!(w.exceptions().is_empty());
        }
    }
}

/// CP-13: the executor says that it does not know; default policy.
#[test]
fn commanded_to_given_back_when_unknown() {
    for mut w in both() {
        let payment = w.commanded("ann", 1);
        w.report(payment, Outcome::Unknown, 0);
        given_back(&mut w, payment);
        assert_eq!(w.exceptions(), ["unknown_outcome"]);
        w.resolve(payment, Resolution::Accept).unwrap();
        w.resolve(payment, Resolution::Accept).unwrap();
        assert!(w.exceptions().is_empty());
    }
}

/// CP-13: silence past settle_at is a verdict only after one last question.
#[test]
fn commanded_to_asked_to_given_back_when_silent() {
    for mut w in both() {
        let payment = w.commanded("ann", 1);
        w.take_command();
        let settle_ms = w.deadlines.start_ms + common::LONGEST_ACT_MS + w.deadlines.report_ms;
        w.pass(settle_ms);
        let asked = w.fetch("vend");
        assert!(matches!(asked[..], [schemas::message::Down::CommandStatus(_)]), "{asked:?}");
        assert_eq!(w.state(payment), PaymentState::Delivering);
        w.pass(w.deadlines.command_status_ms);
        assert_eq!(w.reason(payment), "executor_silent");
        given_back(&mut w, payment);
        assert_eq!(w.exceptions(), ["unknown_outcome"]);
    }
}

/// CP-13: the other policy holds the money for the operator; the payer is told.
#[test]
fn commanded_to_held_when_unknown() {
    for bank in [http(), BankKind::Internal] {
        let mut w = World::new(bank, OnUnknown::Hold);
        let payment = w.commanded("ann", 1);
        w.report(payment, Outcome::Unknown, 0);
        assert_eq!(w.state(payment), PaymentState::Held);
        assert_eq!(w.told_state("ann", payment), Some(PaymentState::Held));
        assert_eq!(w.exceptions(), ["unknown_outcome"]);
        assert_eq!(w.merchant_minor(), 0);
        assert_eq!(w.account("merchant/shop").credits_pending.minor, PRICE);
        assert_eq!(w.driver.cloud().open_payments(), 0, "at rest: named in the queue (MO-9)");
        w.pass(30 * 24 * 3_600_000);
        assert_eq!(w.state(payment), PaymentState::Held);
        assert_eq!(w.resolve(payment, Resolution::WriteOff), Err("nothing_to_write_off".into()));
    }
}

/// CP-13: held, then refunded by the operator; a late success is named and changes nothing.
#[test]
fn held_to_given_back_by_the_operator() {
    for bank in [http(), BankKind::Internal] {
        let mut w = World::new(bank, OnUnknown::Hold);
        let payment = w.commanded("ann", 1);
        w.report(payment, Outcome::Unknown, 0);
        w.resolve(payment, Resolution::Refund).unwrap();
        w.resolve(payment, Resolution::Refund).unwrap();
        given_back(&mut w, payment);
        assert!(w.exceptions().is_empty());
        w.report(payment, Outcome::Done, 1);
        assert_eq!(w.exceptions(), ["delivered_after_refund"]);
        assert_eq!(w.merchant_minor(), 0);
    }
}

/// CP-13: held, then accepted: the merchant is paid. A late success agrees, a late failure contradicts.
#[test]
fn held_to_delivered_by_the_operator() {
    for (late, delivered, named) in
        [(Outcome::Done, 1, vec![]), (Outcome::Failed, 0, vec!["contradiction".to_owned()])]
    {
        for bank in [http(), BankKind::Internal] {
            let mut w = World::new(bank, OnUnknown::Hold);
            let payment = w.commanded("ann", 1);
            w.report(payment, Outcome::Unknown, 0);
            w.resolve(payment, Resolution::Accept).unwrap();
            w.resolve(payment, Resolution::Accept).unwrap();
            assert_eq!(w.told_state("ann", payment), Some(PaymentState::Delivered));
            paid(&mut w, PRICE);
            w.report(payment, late, delivered);
            assert_eq!(w.exceptions(), named);
            paid(&mut w, PRICE);
            at_rest(&mut w);
        }
    }
}

/// CP-13: held, then the executor knows after all.
#[test]
fn held_to_the_late_outcome() {
    for bank in [http(), BankKind::Internal] {
        for outcome in [Outcome::Done, Outcome::Failed] {
            let mut w = World::new(bank.clone(), OnUnknown::Hold);
            let payment = w.commanded("ann", 1);
            w.report(payment, Outcome::Unknown, 0);
            w.report(payment, outcome, 1);
            assert!(w.exceptions().is_empty(), "the late outcome resolves it");
            if outcome == Outcome::Done {
                assert_eq!(w.state(payment), PaymentState::Delivered);
                paid(&mut w, PRICE);
                at_rest(&mut w);
            } else {
                given_back(&mut w, payment);
            }
        }
    }
}

/// CP-13: success after the refund was decided: the payer keeps the refund, the operator is told, nobody pays twice.
#[test]
fn refunding_keeps_the_refund_on_late_success() {
    for mut w in both() {
        let payment = w.commanded("ann", 1);
        w.report(payment, Outcome::Unknown, 0);
        w.report(payment, Outcome::Done, 1);
        assert_eq!(w.exceptions(), ["unknown_outcome", "delivered_after_refund"]);
        given_back(&mut w, payment);
        w.report(payment, Outcome::Done, 1);
        assert_eq!(w.exceptions().len(), 2);
        w.resolve(payment, Resolution::Accept).unwrap();
        assert!(w.exceptions().is_empty());
        assert_eq!(w.merchant_minor(), 0);
    }
}

/// A second outcome that contradicts the first is named; the first stands.
#[test]
fn contradictions_are_named_and_change_nothing() {
    for mut w in both() {
        let payment = w.commanded("ann", 1);
        w.report(payment, Outcome::Done, 1);
        w.report(payment, Outcome::Failed, 0);
        w.report(payment, Outcome::Failed, 0);
        assert_eq!(w.exceptions(), ["contradiction"]);
        paid(&mut w, PRICE);
        at_rest(&mut w);
    }
    for mut w in both() {
        let payment = w.commanded("ann", 1);
        w.report(payment, Outcome::Failed, 0);
        w.report(payment, Outcome::Refused, 0);
        assert!(w.exceptions().is_empty(), "failed and refused are the same to the money");
        w.report(payment, Outcome::Done, 1);
        assert_eq!(w.exceptions(), ["contradiction"]);
        given_back(&mut w, payment);
    }
}

/// A contradiction about a delivered payment may be resolved in the payer's favour.
#[test]
fn contradiction_to_refunded_by_the_operator() {
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    let payment = w.commanded("ann", 1);
    w.report(payment, Outcome::Done, 1);
    w.report(payment, Outcome::Failed, 0);
    w.resolve(payment, Resolution::Refund).unwrap();
    assert_eq!(w.state(payment), PaymentState::Refunded);
    assert!(w.exceptions().is_empty());
    assert_eq!(w.balance("person/ann"), i128::from(FUNDS));
    at_rest(&mut w);
}

/// CP-12, MO-9: the bank refuses the refund for good: owed, blocked, named; tried again under a new key.
#[test]
fn refund_blocked_to_refunded_by_the_operator() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.commanded("ann", 1);
    w.report(payment, Outcome::Failed, 0);
    w.bank(payment, Refund, Refused("account_closed".into()));
    assert_eq!(w.state(payment), PaymentState::RefundBlocked);
    assert_eq!(w.exceptions(), ["refund_blocked"]);
    assert_eq!(w.holding_minor(), i128::from(PRICE), "equal to what is owed");
    let told = w.told("ann", payment).unwrap();
    assert!(told.text.as_str().contains("10.00 EUR"), "{}", told.text);
    assert_eq!(told.paid.minor, PRICE, "nothing went back yet");
    w.say("ann", Up::StatusRequest(schemas::message::StatusRequest { payment: Some(payment) })).unwrap();
    assert!(w.told("ann", payment).unwrap().text.as_str().contains("10.00 EUR"));
    assert_eq!(w.resolve(payment, Resolution::Accept), Err("money_owed".into()));
    w.pass(1_000_000);
    assert_eq!(w.calls(Refund).len(), 1, "only the operator tries again");
    w.resolve(payment, Resolution::Refund).unwrap();
    w.resolve(payment, Resolution::Refund).unwrap();
    assert_eq!(w.calls(Refund).len(), 2);
    assert_eq!(w.keys(Refund).len(), 2, "a refused key stays refused");
    w.bank(payment, Refund, Done);
    assert_eq!(w.state(payment), PaymentState::Refunded);
    assert!(w.exceptions().is_empty());
    at_rest(&mut w);
}

/// MO-9: or it is written off.
#[test]
fn refund_blocked_to_written_off() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.commanded("ann", 1);
    w.report(payment, Outcome::Failed, 0);
    w.bank(payment, Refund, Refused("account_closed".into()));
    w.resolve(payment, Resolution::WriteOff).unwrap();
    w.resolve(payment, Resolution::WriteOff).unwrap();
    assert_eq!(w.told_state("ann", payment), Some(PaymentState::WrittenOff));
    assert_eq!(w.balance("suspense"), i128::from(PRICE));
    assert!(w.exceptions().is_empty());
    at_rest(&mut w);
}

/// CP-12: the refund is pursued under one key until the bank confirms; "refunding" and "refunded" are told apart.
#[test]
fn refunding_is_pursued_under_one_key() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.commanded("ann", 1);
    w.report(payment, Outcome::Failed, 0);
    for answer in [Unknown, NotFound, Cancelled] {
        w.bank(payment, Refund, answer);
    }
    w.pass(600_000);
    assert!(w.calls(Refund).len() > 8);
    assert_eq!(w.exceptions(), ["bank_unreachable"]);
    assert_eq!(w.resolve(payment, Resolution::WriteOff), Err("still_under_way".into()));
    given_back(&mut w, payment);
    assert!(w.exceptions().is_empty());
}

/// Cancelled by the payer before the transfer: nothing moved.
#[test]
fn cancelled_before_the_transfer() {
    for mut w in both() {
        let payment = w.begin("ann", 1);
        assert_eq!(w.cancel("ann", 11, payment).refused, None);
        assert_eq!(w.told_state("ann", payment), Some(PaymentState::Cancelled));
        let payment = w.begin("ann", 2);
        w.ready(payment);
        assert_eq!(w.cancel("ann", 12, payment).refused, None);
        assert_eq!(w.cancel("ann", 13, payment).refused, None, "again is the same");
        w.verify("ann", payment);
        assert_eq!(w.state(payment), PaymentState::Cancelled);
        nothing_moved(&mut w);
    }
}

/// Cancelled while the bank works: fenced, then nothing; or it was done, then refunded.
#[test]
fn cancelled_during_the_transfer() {
    for (answer, moved) in [(Cancelled, false), (Refused("no".into()), false), (Done, true)] {
        let mut w = World::new(http(), OnUnknown::Refund);
        let payment = w.verified("ann", 1);
        assert_eq!(w.cancel("ann", 11, payment).refused, None);
        assert_eq!(w.calls(Cancel).len(), 1);
        w.bank(payment, Cancel, answer);
        if moved {
            given_back(&mut w, payment);
            assert_eq!(w.told_state("till", payment), None);
        } else {
            assert_eq!(w.told_state("ann", payment), Some(PaymentState::Cancelled));
            nothing_moved(&mut w);
        }
        assert!(w.fetch("vend").is_empty());
    }
}

/// Cancelled while a silent bank is being fenced off: the fence serves both, and the payer is told what was asked for.
#[test]
fn cancelled_during_the_fence() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    w.pass(w.deadlines.bank_ms + 60_000);
    assert!(!w.calls(Cancel).is_empty(), "the bank was silent for too long");
    assert_eq!(w.cancel("ann", 11, payment).refused, None);
    w.bank(payment, Cancel, Cancelled);
    assert_eq!(w.told_state("ann", payment), Some(PaymentState::Cancelled));
    nothing_moved(&mut w);
}

/// Cancelled when the money is on its way back without a command: nobody says that a machine was told.
#[test]
fn cancel_of_what_is_being_given_back_is_refused() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    assert_eq!(w.cancel("ann", 11, payment).refused, None);
    w.bank(payment, Cancel, Done);
    assert_eq!(w.cancel("ann", 12, payment).refused.unwrap().to_string(), "already_ended");
    given_back(&mut w, payment);
}

/// Cancelled too late: `already_commanded`; somebody else's: unknown.
#[test]
fn cancel_after_the_command_is_refused() {
    for mut w in both() {
        let payment = w.commanded("ann", 1);
        assert_eq!(w.cancel("ann", 11, payment).refused.unwrap().to_string(), "already_commanded");
        assert_eq!(w.cancel("bob", 12, payment).refused.unwrap().to_string(), "payment_unknown");
        w.report(payment, Outcome::Done, 1);
        assert_eq!(w.cancel("ann", 13, payment).refused.unwrap().to_string(), "already_ended");
        paid(&mut w, PRICE);
        at_rest(&mut w);
    }
}

/// Two payers, one payment information: the first that passes the health check has it.
#[test]
fn two_payers_one_information() {
    for mut w in both() {
        let information = w.information(1);
        let ann = w.begin_with("ann", 1, &information);
        let bob = w.begin_with("bob", 1, &information);
        w.ready(bob);
        w.ready(ann);
        assert_eq!(w.reason(ann), "nonce_used");
        assert_eq!(w.state(bob), PaymentState::PendingVerification);
        let signed = w.signed(&information);
        let third = w.request("ann", 2, World::pay_request(signed));
        assert_eq!(third.refused.unwrap().to_string(), "nonce_used");
    }
}

/// The same when the information ends while both wait: a claim is not forgotten before the other's answer.
#[test]
fn two_payers_one_information_that_ends_meanwhile() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let mut information = w.information(1);
    information.expires_at.0 = w.now + 2_000;
    let ann = w.begin_with("ann", 1, &information);
    let bob = w.begin_with("bob", 1, &information);
    let other = w.begin("ann", 2);
    w.pass(1_000);
    w.ready(ann);
    w.pass(4_000);
    w.ready(other);
    w.ready(bob);
    assert_eq!(w.state(bob), PaymentState::Refused, "one information is never sold twice");
}
