//! A person pays from its own account, or through a child that it guards (PC-11).

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::limits;
use common::family::{HAS, bind, bonds, eur, family};
use common::{World, who};
use schemas::ids::PaymentId;
use schemas::message::{
    Categories, CategoryAmounts, ChildAnswer, ChildLimits, Down, OwnPayment, PaySuggestion, PaymentState,
    PromptAnswer, StatusRequest, SuggestionAnswer, Up,
};

fn own(minor: u64, payee: &str) -> OwnPayment {
    let categories = Categories::new(vec!["toys".parse().unwrap()]).unwrap();
    OwnPayment { amount: eur(minor), payee: payee.parse().unwrap(), categories, note: None }
}

fn ask(w: &mut World, payer: &str, key: u8, body: Up) -> Result<PaymentId, String> {
    let answer = w.request(payer, key, body);
    answer.payment.ok_or_else(|| answer.refused.unwrap().to_string())
}

fn pay(w: &mut World, payer: &str, key: u8, minor: u64) -> Result<PaymentId, String> {
    ask(w, payer, key, Up::OwnPayment(own(minor, "merchant/shop")))
}

fn choose(
    w: &mut World,
    payer: &str,
    key: u8,
    payment: PaymentId,
    child: Option<&str>,
) -> Result<PaymentId, String> {
    let child = child.map(|child| child.parse().unwrap());
    ask(w, payer, key, Up::SuggestionAnswer(SuggestionAnswer { payment, child }))
}

fn pay_in(w: &mut World, person: &str, minor: u64) {
    let reference = format!("{person} {minor} {}", w.now);
    w.admin(AdminCommand::Deposit { person: who(person), amount: eur(minor), reference }).unwrap();
}

fn answered(w: &mut World, device: &str, payment: PaymentId, answer: ChildAnswer) {
    let body = PromptAnswer { payment, answer, position: None, identified: None };
    w.say(device, Up::PaymentPrompt(body)).unwrap();
}

/// What a person was suggested, ever.
fn suggested(w: &mut World, person: &str) -> Vec<PaySuggestion> {
    w.fetch(person);
    let heard = w.inbox.get(&who(person)).into_iter().flatten();
    heard
        .filter_map(|down| match down {
            Down::PaySuggestion(suggestion) => Some(suggestion.clone()),
            _ => None,
        })
        .collect()
}

fn names(suggestion: &PaySuggestion) -> Vec<&str> {
    suggestion.children.iter().map(|name| name.as_str()).collect()
}

/// A suggestion for mum of 5.00, which Mia and Leo could pay.
fn suggestion() -> (World, PaymentId) {
    let mut w = family();
    pay_in(&mut w, "mum", 499);
    let payment = pay(&mut w, "mum", 1, 500).unwrap();
    (w, payment)
}

fn nothing_moved(w: &mut World) {
    for (person, has) in [("mum", 499), ("mia", HAS), ("leo", HAS)] {
        assert_eq!(w.balance(&format!("person/{person}")), i128::from(has), "{person}");
    }
    assert_eq!(w.merchant_minor(), 0);
}

/// PC-11: what the account covers is paid at once, once, also when it is asked again over a power cut; both are told.
#[test]
fn a_payment_that_the_account_covers_is_settled_at_once() {
    let mut w = family();
    pay_in(&mut w, "mum", 500);
    let not_after = schemas::time::Timestamp(w.now + 60_000);
    let mut payments = Vec::new();
    for seed in 0..4 {
        let body = Up::OwnPayment(own(500, "merchant/shop"));
        payments.extend(w.request_until("mum", 1, not_after, body).unwrap().payment);
        w.crash(seed);
        w.connect("mum");
        w.connect("till");
    }
    payments.dedup();
    let [payment] = payments[..] else { panic!("{payments:?}") };
    assert_eq!((w.balance("person/mum"), w.merchant_minor()), (0, 500));
    for party in ["mum", "till"] {
        assert_eq!(w.told_state(party, payment), Some(PaymentState::Settled), "{party}");
    }
    assert!(suggested(&mut w, "mum").is_empty());
    // Between persons too; a child that gets something sees it.
    w.connect("piggy");
    pay_in(&mut w, "mum", 200);
    ask(&mut w, "mum", 2, Up::OwnPayment(own(200, "person/mia"))).unwrap();
    assert_eq!(w.balance("person/mia"), i128::from(HAS + 200));
    let mut seen = w.fetch("piggy").into_iter().filter_map(|down| match down {
        Down::ChildView(view) => Some(view.available),
        _ => None,
    });
    assert_eq!(seen.next_back(), Some(eur(HAS + 200)));
    assert_eq!(w.driver.cloud().outbox().depth(&who("mia")), 0, "nobody would fetch a status");
    // Without one, it is told as anybody is.
    bind(&mut w, "mia", bonds(&["mum"], None)).unwrap();
    pay_in(&mut w, "mum", 100);
    ask(&mut w, "mum", 3, Up::OwnPayment(own(100, "person/mia"))).unwrap();
    assert_eq!(w.driver.cloud().outbox().depth(&who("mia")), 1);
    // When memory of it ends, the ledger forgets its transfers too.
    let before = w.driver.cloud().ledger().transfers().count();
    w.pass(w.deadlines.retention_ms + 1);
    assert_eq!(w.driver.cloud().ledger().transfers().count(), before - 3);
    w.finish();
}

/// PC-11, PC-1: who chooses a child orders from it, exactly: reserved, prompted, paid when the child says yes.
#[test]
fn an_accepted_suggestion_is_a_payment_order() {
    for (answer, state, paid) in
        [(ChildAnswer::Confirm, PaymentState::Settled, 500), (ChildAnswer::Reject, PaymentState::Rejected, 0)]
    {
        let (mut w, payment) = suggestion();
        let offers = suggested(&mut w, "mum");
        assert_eq!((offers.len(), offers[0].payment, names(&offers[0])), (1, payment, vec!["leo", "mia"]));
        nothing_moved(&mut w);
        w.restart();
        for name in ["mum", "piggy", "till"] {
            w.connect(name);
        }
        let through = choose(&mut w, "mum", 2, payment, Some("mia")).unwrap();
        assert_eq!(choose(&mut w, "mum", 2, payment, Some("mia")), Ok(through), "asked again");
        let order = w.driver.cloud().child_payment(through).unwrap();
        assert_eq!(
            (order.state(), order.amount, &order.guardian),
            (PaymentState::Prompting, eur(500), &who("mum"))
        );
        assert!(w.fetch("piggy").iter().any(|down| matches!(down, Down::PaymentPrompt(_))));
        nothing_moved(&mut w);
        answered(&mut w, "piggy", through, answer);
        assert_eq!(w.told_state("mum", through), Some(state));
        assert_eq!((w.balance("person/mia"), w.merchant_minor()), (i128::from(HAS - paid), i128::from(paid)));
        assert_eq!(w.balance("person/mum"), 499);
        assert_eq!(choose(&mut w, "mum", 3, payment, Some("leo")), Err("already_ended".to_owned()));
        w.finish();
    }
}

/// PC-11: a no, and silence, end it, and nothing moves; also over an outage of ours, which takes nobody's time.
#[test]
fn a_suggestion_that_is_declined_or_unanswered_ends_and_nothing_moves() {
    let (mut w, payment) = suggestion();
    assert_eq!(choose(&mut w, "mum", 2, payment, None), Ok(payment));
    assert_eq!(w.told_state("mum", payment), Some(PaymentState::Cancelled));
    assert_eq!(choose(&mut w, "mum", 3, payment, None), Err("already_ended".to_owned()));
    nothing_moved(&mut w);
    w.finish();

    let (mut w, payment) = suggestion();
    let waits = w.deadlines.prompt_ms + w.deadlines.report_ms;
    w.pass(waits - 1);
    assert_eq!(w.told_state("mum", payment), None);
    w.pass(1);
    assert_eq!(w.told_state("mum", payment), Some(PaymentState::Expired));
    assert_eq!(choose(&mut w, "mum", 2, payment, Some("mia")), Err("already_ended".to_owned()));
    nothing_moved(&mut w);
    w.finish();

    let (mut w, payment) = suggestion();
    w.now += 10 * waits;
    w.restart();
    for name in ["mum", "piggy"] {
        w.connect(name);
    }
    w.pass(w.deadlines.reconnect_ms - 1);
    assert!(
        choose(&mut w, "mum", 2, payment, Some("mia")).is_ok(),
        "nobody's answer is late because we were away"
    );
    w.pass(waits + w.deadlines.reconnect_ms);
    nothing_moved(&mut w);
    w.finish();
}

/// PC-11: only a child that could pay just that now is suggested: its balance, what must stay, its limits, its bonds.
#[test]
fn only_children_that_could_pay_are_suggested() {
    type Change = fn(&mut World);
    let changes: [(&str, Change, &[&str]); 6] = [
        ("both", |_| {}, &["leo", "mia"]),
        (
            "too little on the account",
            |w| {
                let (account, reference) = ("person/leo".to_owned(), "out".to_owned());
                let tenant = "acme".parse().unwrap();
                w.admin(AdminCommand::Withdraw { tenant, account, amount: eur(HAS - 499), reference })
                    .unwrap();
            },
            &["mia"],
        ),
        (
            "beyond the limits",
            |w| {
                let limits = ChildLimits {
                    child: "mia".parse().unwrap(),
                    per_payment: Some(eur(499)),
                    per_day: None,
                    per_category_and_day: CategoryAmounts::default(),
                    quiet_hours: None,
                };
                assert_eq!(w.request("dad", 90, Up::ChildLimits(limits)).refused, None);
            },
            &["leo"],
        ),
        ("guarded by others", |w| bind(w, "leo", bonds(&["dad"], Some("piggy2"))).unwrap(), &["mia"]),
        ("without a piggy bank", |w| bind(w, "leo", bonds(&["mum"], None)).unwrap(), &["mia"]),
        ("no child any more", |w| drop(w.admin(AdminCommand::UnbindChild { child: who("leo") })), &["mia"]),
    ];
    for (what, change, expected) in changes {
        let mut w = family();
        change(&mut w);
        pay(&mut w, "mum", 1, 500).unwrap();
        assert_eq!(names(&suggested(&mut w, "mum")[0]), expected, "{what}");
        w.pass(3_600_000);
        w.finish();
    }
    for (keep, expected) in [(HAS - 500, Ok(())), (HAS - 499, Err("balance_insufficient".to_owned()))] {
        let mut w = family();
        keep_on_account(&mut w, keep);
        assert_eq!(pay(&mut w, "mum", 1, 500).map(|_| ()), expected, "{keep} must stay");
        w.pass(3_600_000);
        w.finish();
    }
}

fn keep_on_account(w: &mut World, minor: u64) {
    let change = AdminCommand::ChangeTenant {
        tenant: "acme".parse().unwrap(),
        bank_url: None,
        on_unknown: None,
        deadlines: [].into(),
        code_rules: Default::default(),
        child_keep_minor: Some(minor),
    };
    w.admin(change).unwrap();
}

/// PC-11: what changes between suggestion and answer counts: the order is checked anew, and another child may be chosen.
#[test]
fn a_child_that_can_not_pay_any_more_is_refused_as_its_order_is() {
    type Change = fn(&mut World);
    let changes: [(&str, Change); 3] = [
        ("not_guardian", |w| bind(w, "mia", bonds(&["dad"], Some("piggy"))).unwrap()),
        ("no_piggy_bank", |w| bind(w, "mia", bonds(&["mum"], None)).unwrap()),
        ("balance_insufficient", |w| keep_on_account(w, HAS - 499)),
    ];
    for (code, change) in changes {
        let (mut w, payment) = suggestion();
        change(&mut w);
        assert_eq!(choose(&mut w, "mum", 2, payment, Some("mia")), Err(code.to_owned()));
        keep_on_account(&mut w, 0);
        let through = choose(&mut w, "mum", 3, payment, Some("leo")).unwrap();
        answered(&mut w, "piggy2", through, ChildAnswer::Confirm);
        assert_eq!(w.balance("person/leo"), i128::from(HAS - 500), "{code}");
        w.finish();
    }
}

/// Each refusal by its code; none of them leaves anything behind.
#[test]
fn refusals_of_own_payments_are_reached() {
    let (mut w, payment) = suggestion();
    w.connect("mia");
    let usd = OwnPayment { amount: "1.00 USD".parse().unwrap(), ..own(1, "merchant/shop") };
    let books = w.driver.cloud().ledger().clone();
    for (key, (payer, order, code)) in (10..).zip([
        ("mia", own(100, "merchant/shop"), "payer_is_child"),
        ("mum", own(0, "merchant/shop"), "amount_zero"),
        ("mum", usd, "currency_mismatch"),
        ("mum", own(100, "guardian"), "payee_is_payer"),
        ("mum", own(100, "person/mum"), "payee_is_payer"),
        ("mum", own(100, "merchant/nobody"), "payee_unknown"),
        // She signs for each payment elsewhere.
        ("ann", own(100, "merchant/shop"), "verification_needed"),
        ("mum", own(HAS + 1, "merchant/shop"), "balance_insufficient"),
    ]) {
        assert_eq!(ask(&mut w, payer, key, Up::OwnPayment(order)), Err(code.to_owned()), "{payer}");
    }
    assert_eq!(choose(&mut w, "mum", 30, PaymentId([9; 16]), None), Err("payment_unknown".to_owned()));
    assert_eq!(choose(&mut w, "dad", 31, payment, Some("mia")), Err("payment_unknown".to_owned()), "not his");
    assert_eq!(choose(&mut w, "mum", 32, payment, Some("ann")), Err("not_suggested".to_owned()));
    for key in 40..43 {
        pay(&mut w, "mum", key, 500).unwrap();
    }
    assert_eq!(limits::SUGGESTIONS, 4);
    assert_eq!(pay(&mut w, "mum", 43, 500), Err("too_many_open".to_owned()));
    assert_eq!(*w.driver.cloud().ledger(), books, "the books know nothing of it");
    // Who is asked is not deleted.
    let why = w.admin(AdminCommand::DeletePerson { person: who("mum") }).unwrap_err();
    assert_eq!(why.code.as_str(), "open_work");
    w.pass(3_600_000);
    w.finish();
}

/// A terminal that has lost the suggestion asks for what waits for it.
#[test]
fn an_open_suggestion_is_told_again_on_request() {
    let (mut w, payment) = suggestion();
    assert_eq!(suggested(&mut w, "mum").len(), 1);
    for _ in 0..2 {
        w.say("mum", Up::StatusRequest(StatusRequest { payment: None })).unwrap();
    }
    assert_eq!(suggested(&mut w, "mum").len(), 2, "once, while it is owed");
    w.connect("mum");
    assert_eq!(suggested(&mut w, "mum").len(), 3, "and when it comes back");
    choose(&mut w, "mum", 2, payment, None).unwrap();
    w.say("mum", Up::StatusRequest(StatusRequest { payment: None })).unwrap();
    w.connect("mum");
    assert_eq!(suggested(&mut w, "mum").len(), 3);
    w.finish();
}

/// correctness.md 11: who has lost how an own payment ended asks for it, and hears it; nobody else does.
#[test]
fn how_an_own_payment_ended_is_told_again_on_request() {
    let (mut w, payment) = suggestion();
    choose(&mut w, "mum", 2, payment, None).unwrap();
    let heard = |w: &mut World, person: &str| {
        w.fetch(person)
            .into_iter()
            .filter(|down| match down {
                Down::PaymentStatus(status) => {
                    status.payment == payment && status.state == PaymentState::Cancelled
                }
                _ => false,
            })
            .count()
    };
    heard(&mut w, "mum");
    for (person, count) in [("mum", 1), ("dad", 0)] {
        w.say(person, Up::StatusRequest(StatusRequest { payment: Some(payment) })).unwrap();
        assert_eq!(heard(&mut w, person), count, "{person}");
    }
    w.finish();
}

/// Payments of one person in memory have a limit, which the end of their retention makes room under.
#[test]
fn payments_in_memory_are_limited() {
    let mut w = family();
    w.restores_after_each_input = false;
    pay_in(&mut w, "mum", 2_000);
    let mut paid = 0;
    while paid < limits::OWN_PAYMENTS {
        for key in 0..250 {
            pay(&mut w, "mum", key, 1).unwrap();
            w.fetch("till");
            paid += 1;
        }
        // Then the keys are free again.
        w.pass(60_001);
        pay_in(&mut w, "dad", 1);
    }
    assert_eq!(pay(&mut w, "mum", 1, 1), Err("too_many_payments".to_owned()));
    w.pass(w.deadlines.retention_ms);
    assert!(pay(&mut w, "mum", 2, 1).is_ok());
    assert_eq!(w.balance("person/mum"), 999);
    w.finish();
}
