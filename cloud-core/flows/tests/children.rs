//! The parent-child payment (PC-1 to PC-5, PC-8, PC-13, PC-15), row by row of the table in `src/child.rs`, and each
//! refusal by its code.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use std::collections::BTreeSet;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, Filter, Listing, OnUnknown};
use cloud_core_flows::children::Bonds;
use cloud_core_flows::port::PromiseRefusal;
use common::family::{HAS, bind, bonds, eur, family};
use common::{START, World, http, who};
use schemas::ids::{MessageId, PaymentId};
use schemas::message::{
    Categories, CategoryAmounts, ChildAnswer, ChildLimits, Down, PaymentCancel, PaymentOrder, PaymentPrompt,
    PaymentRefund, PaymentState, Position, PromptAnswer, RequestAnswer, ResultTo, Up,
};
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas::wire::Text;

const MINUTE_MS: u64 = 60_000;

fn order(minor: u64) -> PaymentOrder {
    let plain = PaymentOrder::deduction("mia".parse().unwrap(), eur(minor), categories(&["toys"]));
    PaymentOrder { note: Some(Text::new("For the ball")), ..plain }
}

fn said_yes(payment: PaymentId) -> PromptAnswer {
    PromptAnswer { payment, answer: ChildAnswer::Confirm, position: None, identified: None }
}

fn categories(names: &[&str]) -> Categories {
    Categories::new(names.iter().map(|name| name.parse().unwrap()).collect()).unwrap()
}

fn place(w: &mut World, guardian: &str, key: u8, order: PaymentOrder) -> RequestAnswer {
    w.request(guardian, key, Up::PaymentOrder(order))
}

fn placed(w: &mut World, key: u8, order: PaymentOrder) -> PaymentId {
    let answer = place(w, "mum", key, order);
    answer.payment.unwrap_or_else(|| panic!("{answer:?}"))
}

fn refused(w: &mut World, guardian: &str, key: u8, order: PaymentOrder) -> String {
    let answer = place(w, guardian, key, order);
    assert_eq!(answer.payment, None);
    answer.refused.map(|code| code.to_string()).unwrap_or_default()
}

fn answer(
    w: &mut World,
    device: &str,
    payment: PaymentId,
    answer: ChildAnswer,
) -> Result<(), PromiseRefusal> {
    let position =
        Some(Position { latitude_e7: 525_200_080, longitude_e7: 0, accuracy_m: 9, at: Timestamp(w.now) });
    w.say(device, Up::PaymentPrompt(PromptAnswer { payment, answer, position, identified: None }))
}

fn prompts(w: &mut World, device: &str) -> Vec<PaymentPrompt> {
    let fetched = w.fetch(device).into_iter();
    fetched
        .filter_map(|down| match down {
            Down::PaymentPrompt(prompt) => Some(prompt),
            _ => None,
        })
        .collect()
}

fn state(w: &World, payment: PaymentId) -> PaymentState {
    w.driver.cloud().child_payment(payment).unwrap().state()
}

fn reason(w: &World, payment: PaymentId) -> String {
    let payment = w.driver.cloud().child_payment(payment).unwrap();
    payment.reason.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// What Mia has, posted; and that nothing of it is reserved.
fn mia_has(w: &mut World, minor: u64) {
    assert_eq!(w.balance("person/mia"), i128::from(minor));
    assert_eq!(w.account("person/mia").debits_pending.minor, 0, "nothing stays reserved");
}

/// PC-1 to PC-5, PC-8: reserved at the prompt, taken with the child's yes, told to both.
#[test]
fn prompting_to_settled_when_the_child_confirms() {
    let mut w = family();
    let payment = placed(&mut w, 1, order(500));
    assert_eq!(w.account("person/mia").debits_pending, eur(500), "reserved before the child is asked");
    assert_eq!(w.told_state("mum", payment), Some(PaymentState::Prompting));
    assert!(prompts(&mut w, "piggy2").is_empty() && prompts(&mut w, "piggy3").is_empty());
    let shown = prompts(&mut w, "piggy");
    let [prompt] = shown.as_slice() else { panic!("{shown:?}") };
    assert_eq!((prompt.amount, prompt.ordered, prompt.payee.as_str()), (eur(500), eur(500), "mum"));
    assert_eq!(prompt.answer_by.0, w.now + 120_000);
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    assert_eq!(state(&w, payment), PaymentState::Settled);
    assert_eq!(w.balance("person/mum"), 500);
    mia_has(&mut w, HAS - 500);
    assert_eq!(w.told("mum", payment).unwrap().text.as_str(), "mia paid 5.00 EUR.");
    assert_eq!(w.told_state("piggy", payment), Some(PaymentState::Settled));
    let known = w.driver.cloud().child_payment(payment).unwrap();
    assert_eq!(known.position.map(|position| position.accuracy_m), Some(9), "PC-3");
    w.finish();
}

/// PC-4, PC-15: a no, silence and a withdrawal are three different ends, and nothing moves in any.
#[test]
fn prompting_to_rejected_expired_or_cancelled_moves_nothing() {
    for (end, told) in [
        (PaymentState::Rejected, "mia said no. Nothing was paid."),
        (PaymentState::Expired, "mia did not answer in time. Nothing was paid."),
        (PaymentState::Cancelled, "Cancelled. Nothing was paid."),
    ] {
        let mut w = family();
        let payment = placed(&mut w, 1, order(500));
        assert_eq!(prompts(&mut w, "piggy").len(), 1);
        match end {
            PaymentState::Rejected => answer(&mut w, "piggy", payment, ChildAnswer::Reject).unwrap(),
            PaymentState::Expired => w.pass(135_000),
            _ => {
                let cancelled = w.request("mum", 2, Up::PaymentCancel(PaymentCancel { payment }));
                assert_eq!((cancelled.payment, cancelled.refused), (Some(payment), None));
            }
        }
        assert_eq!(state(&w, payment), end);
        assert_eq!(w.told("mum", payment).unwrap().text.as_str(), told);
        assert_eq!(w.told_state("piggy", payment), Some(end), "the prompt leaves the screen");
        mia_has(&mut w, HAS);
        // What comes later changes nothing, and the piggy bank hears how it ended.
        answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
        assert_eq!((state(&w, payment), w.told_state("piggy", payment)), (end, Some(end)));
        mia_has(&mut w, HAS);
        let late = w.request("mum", 3, Up::PaymentCancel(PaymentCancel { payment }));
        let again = (end != PaymentState::Cancelled).then(|| "already_ended".parse().unwrap());
        assert_eq!(late.refused, again);
        w.finish();
    }
}

/// PC-4, correctness.md 16: the answer counts if it arrives by settle_at, which lies behind what the child is shown.
#[test]
fn an_answer_counts_until_its_report_may_have_arrived() {
    for (after_ms, counts) in [(119_000, true), (134_999, true), (135_000, false)] {
        let mut w = family();
        let payment = placed(&mut w, 1, order(500));
        w.pass(after_ms);
        answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
        assert_eq!(state(&w, payment) == PaymentState::Settled, counts, "after {after_ms} ms");
        mia_has(&mut w, if counts { HAS - 500 } else { HAS });
        w.finish();
    }
}

/// PC-4: only the first word of a child counts.
#[test]
fn a_second_answer_that_contradicts_the_first_changes_nothing() {
    for first in [ChildAnswer::Confirm, ChildAnswer::Reject] {
        let mut w = family();
        let payment = placed(&mut w, 1, order(500));
        answer(&mut w, "piggy", payment, first).unwrap();
        let end = state(&w, payment);
        for again in [ChildAnswer::Confirm, ChildAnswer::Reject] {
            answer(&mut w, "piggy", payment, again).unwrap();
        }
        assert_eq!(state(&w, payment), end);
        mia_has(&mut w, if first == ChildAnswer::Confirm { HAS - 500 } else { HAS });
        w.finish();
    }
}

/// PC-8: "or less" is fixed and told when the child is asked.
#[test]
fn or_less_takes_what_there_is_and_no_less_than_the_minimum() {
    let mut w = family();
    let or_less = |minor, minimum| PaymentOrder { minimum: Some(eur(minimum)), ..order(minor) };
    assert_eq!(refused(&mut w, "mum", 1, or_less(5_000, 2_001)), "balance_insufficient");
    let payment = placed(&mut w, 2, or_less(5_000, 1_500));
    let shown = prompts(&mut w, "piggy");
    assert_eq!((shown[0].amount, shown[0].ordered), (eur(HAS), eur(5_000)));
    // More money changes nothing for a prompt that stands.
    w.admin(AdminCommand::Deposit { person: who("mia"), amount: eur(900), reference: "more".into() })
        .unwrap();
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    let told = w.told("mum", payment).unwrap();
    assert_eq!((told.paid, told.amount), (eur(HAS), eur(5_000)));
    assert_eq!(told.text.as_str(), "mia paid 20.00 EUR of 50.00 EUR: the account had no more.");
    mia_has(&mut w, 900);
    // With nothing left there is nothing to ask for, whatever the minimum.
    assert_eq!(refused(&mut w, "mum", 3, order(901)), "balance_insufficient");
    let payment = placed(&mut w, 4, order(900));
    assert_eq!(refused(&mut w, "mum", 5, or_less(1, 0)), "balance_insufficient");
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    w.finish();
}

/// PC-1: each refusal of an order by its code, and none of them moves or asks anything.
#[test]
fn every_refusal_of_an_order_is_reached() {
    let mut w = family();
    let usd: Money = "5.00 USD".parse().unwrap();
    let to = |payee: &str| PaymentOrder { payee: Some(payee.parse().unwrap()), ..order(500) };
    let child = |name: &str| PaymentOrder { child: name.parse().unwrap(), ..order(500) };
    let cases: &[(&str, &str, PaymentOrder)] = &[
        ("not_guardian", "ann", order(500)),
        ("not_guardian", "dad", child("leo")),
        ("not_guardian", "mum", child("nobody")),
        ("not_guardian", "mum", child("mum")),
        ("amount_zero", "mum", order(0)),
        ("currency_mismatch", "mum", PaymentOrder { amount: usd, ..order(500) }),
        ("currency_mismatch", "mum", PaymentOrder { minimum: Some(usd), ..order(500) }),
        ("minimum_over_amount", "mum", PaymentOrder { minimum: Some(eur(501)), ..order(500) }),
        ("payee_unknown", "mum", to("person/nobody")),
        ("payee_unknown", "mum", to("merchant/nobody")),
        ("payee_is_child", "mum", to("person/mia")),
        ("balance_insufficient", "mum", order(HAS + 1)),
    ];
    for (key, (code, guardian, order)) in (1..).zip(cases) {
        assert_eq!(refused(&mut w, guardian, key, order.clone()), *code);
    }
    bind(&mut w, "mia", bonds(&["mum"], None)).unwrap();
    assert_eq!(refused(&mut w, "mum", 90, order(500)), "no_piggy_bank");
    bind(&mut w, "mia", bonds(&["mum"], Some("piggy"))).unwrap();
    w.admin(AdminCommand::RevokeDevice { device: who("piggy") }).unwrap();
    assert_eq!(refused(&mut w, "mum", 91, order(500)), "piggy_bank_revoked");
    assert!(prompts(&mut w, "piggy2").is_empty());
    mia_has(&mut w, HAS);
    // A device may not order at all, and a person may not answer.
    let said = w.request_raw("piggy2", 92, Timestamp(w.now + 1_000), Up::PaymentOrder(order(1)));
    assert_eq!(said.0, Err(PromiseRefusal::NotAuthorized));
    w.finish();
}

/// PC-1: nobody can make a child ask without end, or fill what a piggy bank that is away has to fetch.
#[test]
fn open_payments_and_what_is_owed_are_bounded() {
    let mut w = family();
    let first: Vec<PaymentId> = (0..16).map(|key| placed(&mut w, key, order(10))).collect();
    assert_eq!(refused(&mut w, "mum", 99, order(10)), "too_many_open");
    for payment in first {
        answer(&mut w, "piggy", payment, ChildAnswer::Reject).unwrap();
    }
    mia_has(&mut w, HAS);
    // Nobody fetches: ends of payments fill its queue. So many that restoring after each input would take long.
    w.restores_after_each_input = false;
    let mut key = 100;
    while w.driver.cloud().outbox().depth(&who("piggy")) < 255 {
        let payment = placed(&mut w, key, order(10));
        answer(&mut w, "piggy", payment, ChildAnswer::Reject).unwrap();
        key = if key == 255 {
            w.pass(2 * MINUTE_MS);
            100
        } else {
            key + 1
        };
        w.fetch("mum");
    }
    assert_eq!(refused(&mut w, "mum", 98, order(10)), "device_busy");
    w.fetch("piggy");
    let payment = placed(&mut w, 97, order(10));
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    w.finish();
}

/// MO-3: the same order again is the same payment; another one under the same key is refused.
#[test]
fn an_order_is_carried_out_once() {
    let mut w = family();
    let payment = placed(&mut w, 1, order(500));
    assert_eq!(place(&mut w, "mum", 1, order(500)).payment, Some(payment));
    assert_eq!(refused(&mut w, "mum", 1, order(501)), "key_reused");
    assert_eq!(w.driver.cloud().child_payments().count(), 1);
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    w.restart();
    w.connect_all();
    w.connect("mum");
    assert_eq!(place(&mut w, "mum", 1, order(500)).payment, Some(payment));
    mia_has(&mut w, HAS - 500);
    w.finish();
}

fn limits(w: &mut World, guardian: &str, key: u8, limits: ChildLimits) -> Option<String> {
    let answer = w.request(guardian, key, Up::ChildLimits(limits));
    assert_eq!(answer.payment, None);
    answer.refused.map(|code| code.to_string())
}

fn no_limits() -> ChildLimits {
    ChildLimits {
        child: "mia".parse().unwrap(),
        per_payment: None,
        per_day: None,
        per_category_and_day: CategoryAmounts::default(),
        quiet_hours: None,
    }
}

/// PC-13: each limit by its code; what was not taken in the end does not count; a new day begins at zero.
#[test]
fn limits_hold_for_each_payment_day_and_category() {
    let mut w = family();
    let per_category = CategoryAmounts::new([("sweets".parse().unwrap(), eur(300))].into()).unwrap();
    let all = ChildLimits {
        per_payment: Some(eur(600)),
        per_day: Some(eur(1_000)),
        per_category_and_day: per_category,
        ..no_limits()
    };
    assert_eq!(limits(&mut w, "dad", 1, all.clone()), None);
    assert_eq!(refused(&mut w, "mum", 2, order(601)), "over_payment_limit");
    let sweets = |minor| PaymentOrder { categories: categories(&["toys", "sweets"]), ..order(minor) };
    assert_eq!(refused(&mut w, "mum", 3, sweets(301)), "over_category_limit");
    let first = placed(&mut w, 4, sweets(300));
    assert_eq!(refused(&mut w, "mum", 5, sweets(1)), "over_category_limit", "reserved counts too");
    answer(&mut w, "piggy", first, ChildAnswer::Reject).unwrap();
    let second = placed(&mut w, 6, sweets(300));
    answer(&mut w, "piggy", second, ChildAnswer::Confirm).unwrap();
    let third = placed(&mut w, 7, order(600));
    answer(&mut w, "piggy", third, ChildAnswer::Confirm).unwrap();
    let answered = place(&mut w, "mum", 8, order(101));
    assert_eq!(answered.refused.unwrap().as_str(), "over_day_limit");
    assert_eq!(
        answered.text.as_str(),
        "1.01 EUR is more than is left for today (1.00 EUR of 10.00 EUR)",
        "a sentence that a child understands"
    );
    // Limits survive a restart, and end with their day.
    w.restart();
    w.pass(MINUTE_MS);
    for name in ["mum", "dad", "piggy"] {
        w.connect(name);
    }
    assert_eq!(refused(&mut w, "mum", 9, order(101)), "over_day_limit");
    w.pass(24 * 60 * MINUTE_MS);
    let fourth = placed(&mut w, 10, sweets(300));
    answer(&mut w, "piggy", fourth, ChildAnswer::Confirm).unwrap();
    assert_eq!(limits(&mut w, "dad", 11, no_limits()), None);
    mia_has(&mut w, HAS - 1_200);
    w.finish();
}

/// PC-13: quiet hours are those of the child's clock on the wall. START is 2027-01-15 08:00 UTC, 09:00 in Berlin.
#[test]
fn quiet_hours_are_the_childs_own() {
    let mut w = family();
    let quiet = |hours: &str| ChildLimits { quiet_hours: Some(hours.parse().unwrap()), ..no_limits() };
    assert_eq!(START, 1_800_000_000_000);
    assert_eq!(limits(&mut w, "mum", 1, quiet("08:00-09:00")), None);
    let payment = placed(&mut w, 2, order(10));
    assert_eq!(limits(&mut w, "mum", 3, quiet("21:00-09:02")), None);
    assert_eq!(refused(&mut w, "mum", 4, order(10)), "quiet_hours");
    let berlin = bonds(&["mum"], Some("piggy"));
    bind(&mut w, "mia", Bonds { time_zone: "UTC".to_owned(), ..berlin }).unwrap();
    assert_eq!(limits(&mut w, "mum", 5, quiet("09:00-10:00")), None);
    let other = placed(&mut w, 6, order(10));
    for payment in [payment, other] {
        answer(&mut w, "piggy", payment, ChildAnswer::Reject).unwrap();
    }
    w.finish();
}

/// PC-13
#[test]
fn only_a_guardian_sets_limits_and_only_in_the_tenants_currency() {
    let mut w = family();
    assert_eq!(limits(&mut w, "ann", 1, no_limits()).as_deref(), Some("not_guardian"));
    let usd = ChildLimits { per_day: Some("1.00 USD".parse().unwrap()), ..no_limits() };
    assert_eq!(limits(&mut w, "mum", 2, usd).as_deref(), Some("currency_mismatch"));
    let set = |w: &mut World| w.driver.cloud().registry().child(&who("mia")).unwrap().limits.clone();
    assert_eq!(set(&mut w), None);
    assert_eq!(limits(&mut w, "mum", 3, no_limits()), None);
    assert_eq!(set(&mut w), Some(no_limits()));
    w.finish();
}

/// PC-2: a prompt goes to the child's own piggy bank, and no other device can answer it.
#[test]
fn only_the_piggy_bank_that_was_asked_may_answer() {
    let mut w = family();
    let payment = placed(&mut w, 1, order(500));
    for device in ["piggy2", "piggy3", "chip"] {
        let said = answer(&mut w, device, payment, ChildAnswer::Confirm);
        assert_eq!(said, Err(PromiseRefusal::Implementation), "{device}");
    }
    assert_eq!(state(&w, payment), PaymentState::Prompting);
    let said = w.say("mum", Up::PaymentPrompt(said_yes(payment)));
    assert_eq!(said, Err(PromiseRefusal::NotAuthorized));
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    w.finish();
}

/// PC-5: the order says who is told; whoever gets the money hears of it in any case.
#[test]
fn the_result_goes_to_whom_the_order_names() {
    for (tell, guardian, piggy_bank) in [
        (Some(ResultTo::Guardian), true, false),
        (Some(ResultTo::PiggyBank), false, true),
        (Some(ResultTo::Both), true, true),
        (None, true, true),
    ] {
        let mut w = family();
        let payee = Some("merchant/shop".parse().unwrap());
        let payment = placed(&mut w, 1, PaymentOrder { tell, payee, ..order(500) });
        prompts(&mut w, "piggy");
        answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
        assert_eq!(w.told_state("mum", payment) == Some(PaymentState::Settled), guardian);
        assert_eq!(w.told_state("piggy", payment) == Some(PaymentState::Settled), piggy_bank);
        assert_eq!(w.told_state("till", payment), Some(PaymentState::Settled), "the merchant's terminal");
        assert_eq!(w.merchant_minor(), 500);
        w.finish();
    }
}

/// PC-5: a prompt that is still owed may be on the screen: only its PUBACK is missing.
#[test]
fn a_piggy_bank_hears_of_an_end_also_before_its_puback_has_come() {
    let mut w = family();
    let payment = placed(&mut w, 1, PaymentOrder { tell: Some(ResultTo::Guardian), ..order(500) });
    w.request("mum", 2, Up::PaymentCancel(PaymentCancel { payment }));
    assert_eq!(w.told_state("piggy", payment), Some(PaymentState::Cancelled));
}

/// PC-15: given back by whoever got it, whole and once.
#[test]
fn settled_to_refunded_once_by_its_payee() {
    let mut w = family();
    let payee = Some("merchant/shop".parse().unwrap());
    let payment = placed(&mut w, 1, PaymentOrder { payee, ..order(500) });
    let back = |w: &mut World, who: &str, key: u8| {
        let answer = w.request(who, key, Up::PaymentRefund(PaymentRefund { payment }));
        answer.refused.map(|code| code.to_string())
    };
    assert_eq!(back(&mut w, "till", 1).as_deref(), Some("not_settled"));
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    assert_eq!(back(&mut w, "mum", 2).as_deref(), Some("payment_unknown"));
    let (tenant, account) = ("acme".parse().unwrap(), "merchant/shop".to_owned());
    let reference = "out".to_owned();
    w.admin(AdminCommand::Withdraw { tenant, account, amount: eur(100), reference }).unwrap();
    assert_eq!(back(&mut w, "till", 3).as_deref(), Some("payee_account"));
    let more = PaymentOrder { payee: Some("merchant/shop".parse().unwrap()), ..order(100) };
    let second = placed(&mut w, 4, more);
    answer(&mut w, "piggy", second, ChildAnswer::Confirm).unwrap();
    assert_eq!(back(&mut w, "till", 5), None);
    assert_eq!(back(&mut w, "till", 6).as_deref(), Some("already_refunded"));
    assert_eq!(w.told_state("mum", payment), Some(PaymentState::Refunded));
    assert_eq!(w.told_state("piggy", payment), Some(PaymentState::Refunded));
    mia_has(&mut w, HAS - 100);
    w.finish();
}

/// A lost piggy bank is revoked, enrolled anew or replaced while it asks; a guardian is one no longer.
#[test]
fn what_a_payment_stands_on_may_go_while_it_waits() {
    for (why, told) in [
        ("piggy_bank_revoked", false),
        ("piggy_bank_enrolled", false),
        ("piggy_bank_changed", true),
        ("guardianship_ended", true),
        ("unbound", true),
    ] {
        let mut w = family();
        // Whom the order names hears of a result; that it was taken back, whoever ordered it.
        let payment = placed(&mut w, 1, PaymentOrder { tell: Some(ResultTo::PiggyBank), ..order(500) });
        let other = place(&mut w, "dad", 2, order(100)).payment.unwrap();
        prompts(&mut w, "piggy");
        match why {
            "piggy_bank_revoked" => drop(w.admin(AdminCommand::RevokeDevice { device: who("piggy") })),
            "piggy_bank_enrolled" => drop(w.enrol("piggy", 2)),
            "piggy_bank_changed" => bind(&mut w, "mia", bonds(&["mum", "dad"], Some("piggy3"))).unwrap(),
            "guardianship_ended" => bind(&mut w, "mia", bonds(&["dad"], Some("piggy"))).unwrap(),
            _ => drop(w.admin(AdminCommand::UnbindChild { child: who("mia") }).unwrap()),
        }
        assert_eq!(state(&w, payment), PaymentState::Refused, "{why}");
        assert_eq!(w.told_state("mum", payment), Some(PaymentState::Refused), "{why}");
        if told {
            assert_eq!(
                w.told_state("piggy", payment),
                Some(PaymentState::Refused),
                "leaves the screen: {why}"
            );
        }
        if !told {
            // One that was enrolled anew is told what the child has, and nothing of what its predecessor did.
            let views = usize::from(why == "piggy_bank_enrolled");
            assert_eq!(w.driver.cloud().outbox().depth(&who("piggy")), views, "nobody will fetch it: {why}");
        }
        let stays = why == "guardianship_ended";
        assert_eq!(state(&w, other) == PaymentState::Prompting, stays, "of the other guardian: {why}");
        if stays {
            answer(&mut w, "piggy", other, ChildAnswer::Confirm).unwrap();
        }
        mia_has(&mut w, if stays { HAS - 100 } else { HAS });
        // The new one is asked for what is ordered from now on.
        if why == "piggy_bank_changed" {
            let next = placed(&mut w, 3, order(200));
            assert_eq!(prompts(&mut w, "piggy3").len(), 1);
            answer(&mut w, "piggy3", next, ChildAnswer::Confirm).unwrap();
        }
        w.finish();
    }
}

/// A piggy bank that can't take a prompt says so: nobody waits for an answer that will not come.
#[test]
fn a_prompt_that_was_not_accepted_ends_its_payment() {
    let mut w = family();
    let payment = placed(&mut w, 1, order(500));
    let owed = w.owed("piggy");
    w.acknowledge("piggy", owed[0].message, 0x83);
    assert_eq!(
        (state(&w, payment), reason(&w, payment).as_str()),
        (PaymentState::Refused, "prompt_not_accepted")
    );
    assert_eq!(w.told_state("mum", payment), Some(PaymentState::Refused));
    mia_has(&mut w, HAS);
    w.acknowledge("piggy", MessageId([9; 16]), 0x83);
    w.finish();
}

/// correctness.md 1, 15: over power cuts nothing that was promised is lost, and no answer is late because of us.
#[test]
fn a_power_cut_loses_nothing_and_gives_the_child_its_time_back() {
    for seed in 0..50 {
        let mut w = family();
        let payment = placed(&mut w, 1, order(500));
        w.pass(110_000);
        w.decide_only(common_answer(&w, payment));
        w.crash(seed);
        // The answer was not durable: it was not promised, and comes again.
        w.now += 60_000;
        w.restart();
        assert_eq!(
            state(&w, payment),
            PaymentState::Prompting,
            "late by the clock, and not by the child's fault"
        );
        w.connect("piggy");
        w.connect("mum");
        answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
        w.crash(seed + 1_000);
        assert_eq!(state(&w, payment), PaymentState::Settled);
        mia_has(&mut w, HAS - 500);
        w.connect("mum");
        assert_eq!(w.told_state("mum", payment), Some(PaymentState::Settled));
        w.finish();
    }
}

fn common_answer(w: &World, payment: PaymentId) -> cloud_core_flows::port::Input {
    let body = Up::PaymentPrompt(said_yes(payment));
    let payload = schemas::envelope::Envelope::message(MessageId([7; 16]), body).encode();
    let connection = w.connections[&who("piggy")];
    let kind = schemas::topic::Kind::PaymentPrompt;
    cloud_core_flows::port::Input::Publish { connection, token: 1, kind, payload, proven: None }
}

/// A closed payment leaves memory with its transfers.
#[test]
fn closed_payments_leave_memory() {
    let mut w = family();
    let payment = placed(&mut w, 1, order(500));
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    w.pass(8 * 24 * 60 * MINUTE_MS);
    assert!(w.driver.cloud().child_payment(payment).is_none());
    assert_eq!(answer(&mut w, "piggy", payment, ChildAnswer::Confirm), Err(PromiseRefusal::Implementation));
    mia_has(&mut w, HAS - 500);
    w.finish();
}

/// CP-15: bonds are checked, changed, listed and dissolved; what they need is not deleted.
#[test]
fn operators_bind_and_unbind_children() {
    let mut w = family();
    let good = bonds(&["mum"], Some("piggy"));
    let with = |change: fn(&mut Bonds)| {
        let mut bonds = bonds(&["mum"], Some("piggy"));
        change(&mut bonds);
        bonds
    };
    for (child, bonds, code) in [
        ("nobody", good.clone(), "person_unknown"),
        ("mia", with(|b| b.guardians.clear()), "guardians_invalid"),
        ("mia", with(|b| b.guardians = names(&["mia"])), "own_guardian"),
        ("mia", with(|b| b.guardians = names(&["nobody"])), "person_unknown"),
        ("mia", with(|b| b.piggy_bank = Some("nothing".parse().unwrap())), "device_unknown"),
        ("mia", with(|b| b.piggy_bank = Some("piggy2".parse().unwrap())), "piggy_bank_taken"),
        ("mia", with(|b| b.receiving = Some("person/mia".parse().unwrap())), "payee_is_child"),
        ("mia", with(|b| b.receiving = Some("merchant/no".parse().unwrap())), "merchant_unknown"),
        ("mia", with(|b| b.time_zone = "Mars/Olympus".to_owned()), "time_zone_unknown"),
    ] {
        assert_eq!(bind(&mut w, child, bonds), Err(code.to_owned()));
    }
    bind(&mut w, "mia", with(|b| b.receiving = Some("merchant/shop".parse().unwrap()))).unwrap();
    let Ok(AdminAnswer::Children(rows)) = find(&mut w, Listing::Children) else { panic!() };
    assert_eq!((rows.len(), rows[1].available), (2, eur(HAS)));
    let payment = placed(&mut w, 1, order(700));
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    assert_eq!(w.merchant_minor(), 700, "the registered receiving account, PC-8");
    let Ok(AdminAnswer::ChildPayments(rows)) = find(&mut w, Listing::ChildPayments) else { panic!() };
    assert_eq!((rows.len(), rows[0].paid, rows[0].state), (1, eur(700), PaymentState::Settled));
    let deletions = [
        AdminCommand::DeletePerson { person: who("mia") },
        AdminCommand::DeletePerson { person: who("mum") },
        AdminCommand::DeleteDevice { device: who("piggy") },
    ];
    for command in &deletions {
        assert_eq!(w.admin(command.clone()).unwrap_err().code.as_str(), "still_bound", "{command:?}");
    }
    w.admin(AdminCommand::UnbindChip { chip: who("chip") }).unwrap();
    let merchant =
        AdminCommand::DeleteMerchant { tenant: "acme".parse().unwrap(), merchant: "shop".parse().unwrap() };
    assert_eq!(w.admin(merchant).unwrap_err().code.as_str(), "still_bound");
    for child in ["mia", "leo"] {
        w.admin(AdminCommand::UnbindChild { child: who(child) }).unwrap();
        w.admin(AdminCommand::UnbindChild { child: who(child) }).unwrap();
    }
    w.admin(deletions[1].clone()).unwrap();
    w.admin(deletions[2].clone()).unwrap();
    w.finish();
}

fn names(names: &[&str]) -> BTreeSet<schemas::ids::PrincipalId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn find(w: &mut World, listing: Listing) -> cloud_core_flows::admin::AdminReply {
    w.admin(AdminCommand::Find { listing, filter: Filter::default() })
}

/// PC-13: nobody gets around the limits by paying at a machine.
#[test]
fn a_child_does_not_pay_at_machines() {
    let mut w = family();
    bind(&mut w, "ann", bonds(&["mum"], None)).unwrap();
    let information = w.information(1);
    let body = World::pay_request(w.signed(&information));
    assert_eq!(w.request("ann", 1, body).refused.unwrap().as_str(), "payer_is_child");
    w.finish();
}

/// Children's accounts are in our own ledger.
#[test]
fn a_tenant_with_a_bank_of_its_own_has_no_children() {
    let mut w = World::new(http(), OnUnknown::Refund);
    assert_eq!(bind(&mut w, "bob", bonds(&["ann"], None)), Err("no_internal_account".to_owned()));
    w.finish();
}

/// PC-8: that the account had less is for the family to know, not for a payee outside.
#[test]
fn a_payee_outside_the_family_does_not_learn_what_the_account_had() {
    let mut w = family();
    let payee = Some("merchant/shop".parse().unwrap());
    let payment = placed(&mut w, 1, PaymentOrder { payee, minimum: Some(eur(1)), ..order(9_000) });
    answer(&mut w, "piggy", payment, ChildAnswer::Confirm).unwrap();
    let told = w.told("till", payment).unwrap();
    assert_eq!((told.amount, told.paid, told.text.as_str()), (eur(HAS), eur(HAS), "mia paid 20.00 EUR."));
    assert_eq!(w.told("mum", payment).unwrap().amount, eur(9_000));
    // What comes back later is told where the child is then.
    bind(&mut w, "mia", bonds(&["mum"], Some("piggy3"))).unwrap();
    w.fetch("piggy");
    w.request("till", 2, Up::PaymentRefund(PaymentRefund { payment }));
    assert_eq!(w.told_state("piggy", payment), Some(PaymentState::Settled), "the former one hears no more");
    assert_eq!(w.told_state("piggy3", payment), Some(PaymentState::Refunded));
    w.finish();
}

/// A guardian who orders and withdraws without end is stopped before it fills the books.
#[test]
fn remembered_payments_of_a_child_are_bounded() {
    let mut w = family();
    w.restores_after_each_input = false;
    let mut refused = None;
    for round in 0..cloud_core_flows::limits::KEPT_PAYMENTS_OF_CHILD + 1 {
        let key = u8::try_from(round % 125).unwrap();
        let answer = place(&mut w, "mum", key, order(10));
        refused = answer.refused;
        let Some(payment) = answer.payment else { break };
        w.request("mum", key + 125, Up::PaymentCancel(PaymentCancel { payment }));
        w.fetch("piggy");
        w.now += 1_000;
    }
    assert_eq!(refused.unwrap().as_str(), "too_many_payments");
    w.pass(8 * 24 * 60 * MINUTE_MS);
    let payment = placed(&mut w, 252, order(10));
    answer(&mut w, "piggy", payment, ChildAnswer::Reject).unwrap();
    w.finish();
}
