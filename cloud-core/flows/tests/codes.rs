//! Paying with a code at a place (PC-6, PC-7, PC-9, PC-10, PC-15, PC-16), row by row of the table in `src/child.rs`, and
//! each refusal of an order and of a scan by its code.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use std::collections::BTreeSet;

use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::driver::Driver;
use cloud_core_flows::places::CodeRulesChange;
use cloud_core_flows::port::PromiseRefusal;
use common::codes::{
    NEAR, PRICE, code_of, confirm, hand_in, moved, order, ordered, presenting, qr, reason, refused, result,
    scan, scan_of, shown, state, token, world,
};
use common::family::{HAS, bind, bonds, categories, eur};
use common::{World, chain, limits, signing_key, who};
use proptest::prelude::*;
use schemas::ids::PaymentId;
use schemas::message::{
    ChildAnswer, CodeClaim, CodeClaims, Down, Goal, Goals, Payee, PaymentCancel, PaymentCode, PaymentMode,
    PaymentOrder, PaymentRefund, PaymentScan, PaymentState, PromptAnswer, ResultTo, SavingsGoals, ShowCode,
    Up,
};
use schemas::money::Money;
use schemas::signed::{CodeText, Payer, PaymentQr, PaymentToken, Presented, PublicKey};
use schemas::time::Timestamp;
use schemas::wire::Text;

/// PC-6, PC-7, PC-10: reserved until a terminal at a place of the payee hands the code in; then taken, and told.
#[test]
fn prompting_to_presenting_to_settled() {
    for mode in [PaymentMode::Qr, PaymentMode::Token] {
        let mut w = world();
        let payment = ordered(&mut w, 1, order(mode));
        let prompted = w.fetch("piggy");
        assert!(prompted.iter().any(|down| matches!(down, Down::PaymentPrompt(p) if p.mode == Some(mode))));
        confirm(&mut w, payment, Some(NEAR), None);
        assert_eq!(w.account("person/mia").debits_pending, eur(PRICE), "still reserved, and not taken");
        let told = w.told("mum", payment).unwrap();
        assert_eq!(told.text.as_str(), "mia said yes, and can pay 4.20 EUR with a code now.");
        let code = code_of(&mut w, payment);
        assert_eq!((code.mode, code.amount, code.payee.as_str()), (mode, eur(PRICE), "The Shop"));
        let version = w.driver.cloud().registry().places_version(&"acme".parse().unwrap());
        assert_eq!((code.places_version, code.check_place, code.show), (version, true, ShowCode::AtOnce));
        assert_eq!(code.code.is_some(), mode == PaymentMode::Qr);
        // The way of 100 m and the 5 m that the position may be wrong, at 1 m/s, and five minutes.
        assert_eq!(code.expires_at.0, w.now + 405_000);
        w.pass(30_000);
        let text = shown(&w, &code);
        assert_eq!(scan(&mut w, "till", 2, &text), Ok(payment));
        assert_eq!(w.told("mum", payment).unwrap().text.as_str(), "mia paid 4.20 EUR.");
        assert_eq!(w.told_state("piggy", payment), Some(PaymentState::Settled), "it leaves the screen");
        assert_eq!(w.told_state("till", payment), Some(PaymentState::Settled));
        let known = w.driver.cloud().child_payment(payment).unwrap();
        assert_eq!(known.position, Some(NEAR), "PC-3");
        moved(&mut w, PRICE);
    }
}

/// PC-6: the QR code says what the order asked for, and the expiry is inside.
#[test]
fn the_code_is_signed_by_the_cloud_and_says_what_was_asked() {
    use CodeClaim::{Category, Child, Device};
    for contains in [None, Some(vec![Child]), Some(vec![Category, Device, Child])] {
        let mut w = world();
        let claims = contains.clone().map(|claims| CodeClaims::new(claims).unwrap());
        let code = presenting(&mut w, 1, PaymentOrder { contains: claims, ..qr() });
        let Some(Presented::Qr(signed)) = code.code.as_ref().unwrap().presented() else { panic!() };
        let read = PaymentQr::verify(&signed, &PublicKey::of(&signing_key("cloud"))).unwrap();
        let asked = contains.unwrap_or(vec![Device]);
        assert_eq!(read.payer.device.is_some(), asked.contains(&Device), "the device, if nothing is said");
        assert_eq!(read.payer.child.is_some(), asked.contains(&Child));
        assert_eq!(read.payer.categories, asked.contains(&Category).then(|| categories(&["lunch"])));
        assert_eq!((read.expires_at, read.amount), (code.expires_at, eur(PRICE)));
        let cancel = Up::PaymentCancel(PaymentCancel { payment: code.payment });
        assert_eq!(w.request("mum", 2, cancel).refused, None);
        moved(&mut w, 0);
    }
}

/// PC-6: a tenant's QR codes may be EMVCo payloads, which count as the others do; and so does what was made before.
#[test]
fn an_emvco_payload_counts_as_a_qr_code() {
    let mut w = world();
    let before = presenting(&mut w, 1, qr());
    let code_rules = CodeRulesChange { emvco: Some(true), ..Default::default() };
    let (tenant, deadlines) = ("acme".parse().unwrap(), Default::default());
    let change = AdminCommand::ChangeTenant {
        tenant,
        bank_url: None,
        on_unknown: None,
        deadlines,
        code_rules,
        child_keep_minor: None,
    };
    w.admin(change).unwrap();
    let code = presenting(&mut w, 2, qr());
    let text = shown(&w, &code);
    assert!(text.as_str().starts_with("000201") && text.as_str().contains("5908The Shop"), "{text}");
    let former = shown(&w, &before);
    assert_eq!(scan(&mut w, "till", 3, &former), Ok(before.payment));
    let other = qr_like(&code).sign_emv("The Shop", &signing_key("thief")).unwrap();
    assert_eq!(scan(&mut w, "till", 4, &other), refused("code_forged"));
    let not_ours = "00020101021229300012D156000000000510A93FO3230Q31280012D15600000001030812345678";
    assert_eq!(scan(&mut w, "till", 5, &not_ours.parse().unwrap()), refused("code_unreadable"));
    assert_eq!(scan(&mut w, "zoo-till", 6, &text), refused("wrong_category"));
    assert_eq!(scan(&mut w, "till", 7, &text), Ok(code.payment));
    assert_eq!(scan(&mut w, "till", 8, &text), refused("code_used"));
    moved(&mut w, 2 * PRICE);
}

/// The longest names that a code can be asked to say still fit it, in either mode.
#[test]
fn the_longest_code_can_be_read() {
    let mut w = world();
    let long: Vec<String> = (0..4).map(long_name).collect();
    let names: Vec<&str> = long.iter().map(String::as_str).chain(["lunch", "fifteen-letters"]).collect();
    let names_bytes: usize = names.iter().map(|name| name.len() + 2).sum();
    assert_eq!(names_bytes, cloud_core_flows::limits::CATEGORIES_OF_CODE_BYTES);
    let all = vec![CodeClaim::Device, CodeClaim::Child, CodeClaim::Category];
    let contains = Some(CodeClaims::new(all).unwrap());
    let code = presenting(&mut w, 1, PaymentOrder { categories: categories(&names), contains, ..qr() });
    let name = |n| long_name(n).parse().unwrap();
    let payer = Payer::claimed(&code.contains, &name(3), &name(4), &code.categories);
    let amount = eur(schemas::limits::AMOUNT_MINOR);
    let (tenant, payee) = (long_name(1).parse().unwrap(), long_name(2).parse().unwrap());
    let longest = PaymentQr { tenant, payee, payer: payer.clone(), amount, ..qr_like(&code) };
    let key = signing_key("cloud");
    let Some(Presented::Qr(signed)) = longest.sign(&key).presented() else { panic!() };
    assert!(PaymentQr::verify(&signed, &PublicKey::of(&key)).is_ok(), "{}", signed.0.len());
    let device = format!("{}/{}", long_name(1), long_name(3)).parse().unwrap();
    let longest = PaymentToken { device, payer, amount, ..token(&w, &code) };
    let Some(Presented::Token(signed)) = longest.sign(&key).presented() else { panic!() };
    assert!(PaymentToken::verify(&signed, &PublicKey::of(&key)).is_ok(), "{}", signed.0.len());
    let text = shown(&w, &code);
    assert_eq!(scan(&mut w, "till", 2, &text), Ok(code.payment));
    moved(&mut w, PRICE);
}

fn long_name(n: u8) -> String {
    format!("{}{n}", "x".repeat(31))
}

/// PC-1, PC-6: each refusal of an order that asks for a code, and none of them moves or asks anything.
#[test]
fn every_refusal_of_an_order_with_a_code_is_reached() {
    let mut w = world();
    let to = |payee: Option<&str>| payee.map(|payee| payee.parse().unwrap());
    let at = |place: &str| Some(place.parse().unwrap());
    let many: Vec<String> = (0..8).map(|n| format!("category-with-a-long-name-{n}")).collect();
    let many = categories(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let category = Some(CodeClaims::new(vec![CodeClaim::Category]).unwrap());
    let cases: &[(&str, PaymentOrder)] = &[
        ("payee_not_merchant", PaymentOrder { payee: None, ..qr() }),
        ("payee_not_merchant", PaymentOrder { payee: Some(Payee::Guardian), ..qr() }),
        ("payee_not_merchant", PaymentOrder { payee: to(Some("person/dad")), ..order(PaymentMode::Token) }),
        ("place_unknown", PaymentOrder { payee: to(Some("merchant/nobody")), ..qr() }),
        ("place_unknown", PaymentOrder { place: at("nowhere"), ..qr() }),
        ("place_unknown", PaymentOrder { place: at("nowhere"), mode: None, ..qr() }),
        ("wrong_category", PaymentOrder { place: at("zoo"), ..qr() }),
        ("wrong_payee", PaymentOrder { place: at("kiosk"), ..qr() }),
        ("code_too_long", PaymentOrder { categories: many, contains: category, ..qr() }),
        ("balance_insufficient", PaymentOrder { amount: eur(HAS + 1), ..qr() }),
    ];
    for (key, (code, order)) in (1..).zip(cases) {
        let answer = w.request("mum", key, Up::PaymentOrder(order.clone()));
        assert_eq!(result(answer), refused(code), "{order:?}");
    }
    // A core without its key signs nothing; tokens are the piggy bank's own.
    w.driver = Driver::open(w.disk.clone(), limits(), chain(), || Timestamp(w.now)).unwrap();
    w.flush();
    w.connect("mum");
    let answer = w.request("mum", 90, Up::PaymentOrder(qr()));
    assert_eq!(result(answer), refused("codes_unavailable"));
    moved(&mut w, 0);
}

/// PC-8: without a payee it is the place's, or the child's receiving account if that is a merchant's.
#[test]
fn the_payee_of_a_code_is_the_places_or_the_receiving_merchant() {
    let mut w = world();
    let mut receiving = bonds(&["mum"], Some("piggy"));
    receiving.receiving = Some("merchant/shop".parse().unwrap());
    bind(&mut w, "mia", receiving).unwrap();
    for (key, place, payee) in [(1, None, "merchant/shop"), (2, Some("kiosk"), "merchant/kiosk")] {
        let place = place.map(|place| place.parse().unwrap());
        let payment = ordered(&mut w, key, PaymentOrder { payee: None, place, ..qr() });
        assert_eq!(w.driver.cloud().child_payment(payment).unwrap().payee, payee.parse().unwrap());
        w.request("mum", key + 100, Up::PaymentCancel(PaymentCancel { payment }));
    }
    moved(&mut w, 0);
}

/// PC-10: each row of the ladder by its code, and none of them moves money or ends the payment.
#[test]
fn every_refusal_of_a_scan_is_reached() {
    for mode in [PaymentMode::Qr, PaymentMode::Token] {
        let mut w = world();
        let code =
            presenting(&mut w, 1, PaymentOrder { place: Some("school".parse().unwrap()), ..order(mode) });
        let text = shown(&w, &code);
        let amount = |minor| Some(eur(minor));
        let now = Timestamp(w.now);
        let plain = PaymentScan { code: text.clone(), amount: None, scanned_at: now };
        let with = |code: CodeText| PaymentScan { code, ..plain.clone() };
        let long_ago = PaymentToken { payment: PaymentId([9; 16]), ..token(&w, &code) };
        let unknown = long_ago.sign(&signing_key("piggy"));
        let usd: Money = "4.20 USD".parse().unwrap();
        let rows: Vec<(&str, &str, PaymentScan)> = vec![
            ("code_unreadable", "till", with("https://example.org/menu".parse().unwrap())),
            ("code_unreadable", "till", with("FQ1:6BF+70790".parse().unwrap())),
            ("code_unreadable", "till", with("FT1:6BF+70790".parse().unwrap())),
            ("not_a_scanner", "bob", plain.clone()),
            ("not_a_scanner", "vend", plain.clone()),
            ("code_forged", "till", with(forged_by_another(&w, &code))),
            ("code_forged", "till", with(forged_claims(&w, &code))),
            ("code_forged", "till", with(of_the_other_mode(&w, &code))),
            ("code_forged", "till", with(of_another_device(&w, &code))),
            ("payment_unknown", "till", with(unknown)),
            ("terminal_clock", "till", PaymentScan { scanned_at: now.plus_ms(60_001), ..plain.clone() }),
            (
                "terminal_clock",
                "till",
                PaymentScan { scanned_at: Timestamp(w.now - 62_000), ..plain.clone() },
            ),
            ("wrong_payee", "kiosk-till", plain.clone()),
            ("wrong_place", "gym-till", plain.clone()),
            ("wrong_place", "zoo-till", plain.clone()),
            ("wrong_amount", "till", PaymentScan { amount: amount(PRICE - 1), ..plain.clone() }),
            ("wrong_amount", "till", PaymentScan { amount: Some(usd), ..plain.clone() }),
        ];
        for (key, (expected, terminal, scan)) in (10..).zip(rows) {
            let answer = hand_in(&mut w, terminal, key, scan);
            assert_eq!(result(answer), refused(expected), "{mode} at {terminal}, row {key}");
            assert_eq!(state(&w, code.payment), PaymentState::Presenting);
        }
        // A terminal's clock may be a minute ahead, and it may ask for exactly this.
        let good = PaymentScan { amount: amount(PRICE), scanned_at: now.plus_ms(60_000), ..plain };
        assert_eq!(result(hand_in(&mut w, "spare", 90, good)), Ok(code.payment), "a device scans too");
        assert_eq!(scan(&mut w, "till", 91, &text), refused("code_used"));
        w.request("till", 92, Up::PaymentRefund(PaymentRefund { payment: code.payment }));
        assert_eq!(scan(&mut w, "till", 93, &text), refused("code_used"), "given back, and still used");
        moved(&mut w, 0);
    }
}

/// Signed with a key that is nobody's here.
fn forged_by_another(w: &World, code: &PaymentCode) -> CodeText {
    match code.mode {
        PaymentMode::Qr => qr_like(code).sign(&signing_key("thief")),
        _ => token(w, code).sign(&signing_key("thief")),
    }
}

/// Signed by the right key, and saying something else.
fn forged_claims(w: &World, code: &PaymentCode) -> CodeText {
    match code.mode {
        PaymentMode::Qr => PaymentQr { amount: eur(1), ..qr_like(code) }.sign(&signing_key("cloud")),
        _ => {
            let later = Timestamp(code.expires_at.0 + 1_000);
            PaymentToken { expires_at: later, ..token(w, code) }.sign(&signing_key("piggy"))
        }
    }
}

/// PC-6, PC-7: for a QR payment only a QR code counts, for a token payment only a token.
fn of_the_other_mode(w: &World, code: &PaymentCode) -> CodeText {
    match code.mode {
        PaymentMode::Qr => token(w, code).sign(&signing_key("piggy")),
        _ => qr_like(code).sign(&signing_key("cloud")),
    }
}

/// Another piggy bank signs for a payment that is not its own.
fn of_another_device(w: &World, code: &PaymentCode) -> CodeText {
    PaymentToken { device: who("piggy2"), ..token(w, code) }.sign(&signing_key("piggy2"))
}

fn qr_like(code: &PaymentCode) -> PaymentQr {
    PaymentQr {
        tenant: "acme".parse().unwrap(),
        payment: code.payment,
        payee: "shop".parse().unwrap(),
        amount: code.amount,
        payer: Payer::claimed(&code.contains, &"piggy".parse().unwrap(), &code.child, &code.categories),
        issued_at: Timestamp(0),
        expires_at: code.expires_at,
    }
}

/// PC-9, PC-10: without a place in the order it counts wherever the payee is paid for one of the categories.
#[test]
fn wrong_category_where_nothing_of_it_can_be_paid_for() {
    let mut w = world();
    let code = presenting(&mut w, 1, qr());
    let text = shown(&w, &code);
    assert_eq!(scan(&mut w, "zoo-till", 2, &text), refused("wrong_category"));
    assert_eq!(scan(&mut w, "gym-till", 3, &text), Ok(code.payment));
    moved(&mut w, PRICE);
}

/// A token that was signed before the child said yes is none.
#[test]
fn a_token_counts_only_after_the_childs_yes() {
    let mut w = world();
    let code = presenting(&mut w, 1, order(PaymentMode::Token));
    let second = ordered(&mut w, 2, order(PaymentMode::Token));
    let early = PaymentToken { payment: second, ..token(&w, &code) }.sign(&signing_key("piggy"));
    assert_eq!(scan(&mut w, "till", 3, &early), refused("code_forged"));
    assert_eq!(state(&w, second), PaymentState::Prompting);
    for payment in [code.payment, second] {
        w.request("mum", payment.0[0], Up::PaymentCancel(PaymentCancel { payment }));
    }
    moved(&mut w, 0);
}

/// MO-3, PC-10: the same scan again has the same answer; another scan of the same code is told that it was used. Both
/// also after a power cut.
#[test]
fn a_scan_that_is_sent_again_has_its_answer_and_pays_once() {
    let mut w = world();
    let code = presenting(&mut w, 1, qr());
    let text = shown(&w, &code);
    let first = scan_of(&w, text.clone());
    assert_eq!(result(hand_in(&mut w, "till", 2, first.clone())), Ok(code.payment));
    assert_eq!(result(hand_in(&mut w, "till", 2, first.clone())), Ok(code.payment));
    assert_eq!(scan(&mut w, "till", 3, &text), refused("code_used"));
    w.crash(7);
    for name in ["till", "gym-till"] {
        w.connect(name);
    }
    assert_eq!(result(hand_in(&mut w, "till", 2, first.clone())), Ok(code.payment));
    assert_eq!(result(hand_in(&mut w, "gym-till", 2, first)), refused("code_used"));
    moved(&mut w, PRICE);
}

/// PC-10: of two terminals the first one is paid, and only it hands anything out.
#[test]
fn two_terminals_scan_the_same_code() {
    let mut w = world();
    let code = presenting(&mut w, 1, qr());
    let text = shown(&w, &code);
    let answers = [scan(&mut w, "gym-till", 2, &text), scan(&mut w, "till", 2, &text)];
    assert_eq!(answers, [Ok(code.payment), refused("code_used")]);
    moved(&mut w, PRICE);
}

/// correctness.md 16, PC-15: a scan counts that was made by the expiry, if it arrives within the grace.
#[test]
fn a_scan_counts_until_its_code_expires_and_may_arrive_a_little_later() {
    // Since the expiry, in milliseconds: made, arrived.
    let rows: [(i64, i64, Result<(), &str>); 6] = [
        (-1_000, -1_000, Ok(())),
        (0, 0, Ok(())),
        (0, 14_999, Ok(())),
        (1, 1, Err("code_expired")),
        (14_000, 14_000, Err("code_expired")),
        (-1_000, 15_000, Err("code_expired")),
    ];
    for (made, arrived, expected) in rows {
        let mut w = world();
        let code = presenting(&mut w, 1, qr());
        let since = |ms: i64| code.expires_at.0.checked_add_signed(ms).unwrap();
        w.pass(since(arrived) - w.now);
        let late = PaymentScan { code: shown(&w, &code), amount: None, scanned_at: Timestamp(since(made)) };
        let answer = result(hand_in(&mut w, "till", 2, late));
        assert_eq!(answer, expected.map(|()| code.payment).map_err(str::to_owned), "{made} {arrived}");
        w.pass(20_000);
        moved(&mut w, if expected.is_ok() { PRICE } else { 0 });
    }
}

/// PC-15: nobody hands it in: released once, and both sides are told, whatever the order says.
#[test]
fn presenting_to_expired_releases_and_tells_both() {
    for tell in [ResultTo::Guardian, ResultTo::PiggyBank, ResultTo::Both] {
        let mut w = world();
        let code = presenting(&mut w, 1, PaymentOrder { tell: Some(tell), ..qr() });
        w.pass(code.expires_at.0 - w.now + 14_999);
        assert_eq!(state(&w, code.payment), PaymentState::Presenting, "a scan may still be on its way");
        assert_eq!(w.account("person/mia").debits_pending, eur(PRICE));
        w.pass(1);
        assert_eq!(
            (state(&w, code.payment), reason(&w, code.payment).as_str()),
            (PaymentState::Expired, "code_expired")
        );
        for name in ["mum", "piggy"] {
            let told = w.told(name, code.payment).unwrap();
            assert_eq!(told.text.as_str(), "The code for 4.20 EUR was not used in time. Nothing was paid.");
        }
        moved(&mut w, 0);
    }
}

/// A token has a life of its own, which is shorter than the payment's.
#[test]
fn a_token_that_has_expired_is_made_anew() {
    let mut w = world();
    let code = presenting(&mut w, 1, order(PaymentMode::Token));
    let old = shown(&w, &code);
    w.pass(121_000);
    assert_eq!(scan(&mut w, "till", 2, &old), refused("code_expired"));
    let new = shown(&w, &code);
    assert_eq!(scan(&mut w, "till", 3, &new), Ok(code.payment));
    moved(&mut w, PRICE);
}

/// correctness.md 1, 15: a core that was away takes no scan as late because of that; the code itself lasts no longer.
#[test]
fn a_restart_while_presenting_gives_terminals_their_time_back() {
    for (made_in_time, seed) in [(true, 1), (false, 2)] {
        let mut w = world();
        let payment = ordered(&mut w, 1, qr());
        confirm(&mut w, payment, None, None);
        let owed = w.driver.cloud().outbox().depth(&who("piggy"));
        w.crash(seed);
        assert_eq!(w.driver.cloud().outbox().depth(&who("piggy")), owed, "the code is still owed");
        for name in ["piggy", "till", "mum"] {
            w.connect(name);
        }
        let code = code_of(&mut w, payment);
        let in_time = Timestamp(code.expires_at.0 - 1);
        w.now = code.expires_at.0 + 60_000;
        w.crash(seed + 10);
        assert_eq!(
            state(&w, payment),
            PaymentState::Presenting,
            "late by the clock, and not by the terminal's fault"
        );
        w.connect("till");
        w.pass(29_000);
        let scanned_at = if made_in_time { in_time } else { Timestamp(w.now) };
        let scan = PaymentScan { code: shown(&w, &code), amount: None, scanned_at };
        let expected = if made_in_time { Ok(payment) } else { refused("code_expired") };
        assert_eq!(result(hand_in(&mut w, "till", 2, scan)), expected);
        w.pass(2_000);
        moved(&mut w, if made_in_time { PRICE } else { 0 });
    }
}

/// PC-15: a withdrawal and a scan at the same time: the first wins, whole.
#[test]
fn cancelled_before_or_after_the_scan() {
    for cancelled_first in [true, false] {
        let mut w = world();
        let code = presenting(&mut w, 1, PaymentOrder { tell: Some(ResultTo::Guardian), ..qr() });
        let (payment, text) = (code.payment, shown(&w, &code));
        let cancel = Up::PaymentCancel(PaymentCancel { payment });
        if cancelled_first {
            assert_eq!(result(w.request("mum", 2, cancel.clone())), Ok(payment));
            assert_eq!(w.told_state("piggy", payment), Some(PaymentState::Cancelled), "it leaves the screen");
            assert_eq!(scan(&mut w, "till", 3, &text), refused("already_ended"));
            assert_eq!(result(w.request("mum", 4, cancel)), Ok(payment));
        } else {
            assert_eq!(scan(&mut w, "till", 3, &text), Ok(payment));
            assert_eq!(w.told_state("piggy", payment), Some(PaymentState::Settled), "and here too");
            assert_eq!(result(w.request("mum", 2, cancel)), refused("already_ended"));
        }
        moved(&mut w, if cancelled_first { 0 } else { PRICE });
    }
}

/// correctness.md 4: while the disk is nearly full nothing new begins, and what was begun is paid.
#[test]
fn a_scan_is_taken_while_the_disk_is_nearly_full() {
    let mut w = world();
    w.restores_after_each_input = false;
    let code = presenting(&mut w, 1, qr());
    w.disk.set_capacity_bytes(Some(0));
    let is_full = (2..=255).any(|key| {
        let goal = Goal { title: Text::new("x".repeat(80)), amount: eur(u64::from(key)) };
        let goals = Goals::new(vec![goal; 8]).unwrap();
        let body = Up::SavingsGoals(SavingsGoals { child: "mia".parse().unwrap(), goals });
        let refused = w.request_raw("dad", key, Timestamp(w.now + 60_000), body).0.is_err();
        w.fetch("dad");
        w.fetch("piggy");
        refused
    });
    assert!(is_full);
    let (not_after, another) = (Timestamp(w.now + 60_000), Up::PaymentOrder(qr()));
    assert_eq!(w.request_raw("mum", 2, not_after, another).0, Err(PromiseRefusal::Quota));
    let text = shown(&w, &code);
    assert_eq!(scan(&mut w, "till", 3, &text), Ok(code.payment));
    w.disk.set_capacity_bytes(None);
    moved(&mut w, PRICE);
}

/// A code that nobody has fetched is withdrawn with its payment.
#[test]
fn a_code_that_was_not_fetched_goes_with_its_payment() {
    let mut w = world();
    let payment = ordered(&mut w, 1, qr());
    confirm(&mut w, payment, None, None);
    w.request("mum", 2, Up::PaymentCancel(PaymentCancel { payment }));
    let got = w.fetch("piggy");
    assert!(!got.iter().any(|down| matches!(down, Down::PaymentCode(_) | Down::PaymentPrompt(_))), "{got:?}");
    moved(&mut w, 0);
}

/// What a presented code stands on may go: its reservation goes with it, once, and a scan is told.
#[test]
fn what_a_code_stands_on_may_go_while_it_is_presented() {
    for why in [
        "piggy_bank_revoked",
        "piggy_bank_enrolled",
        "piggy_bank_changed",
        "guardianship_ended",
        "code_not_accepted",
    ] {
        for mode in [PaymentMode::Qr, PaymentMode::Token] {
            let mut w = world();
            let payment = ordered(&mut w, 1, order(mode));
            confirm(&mut w, payment, None, None);
            let owed =
                w.owed("piggy").into_iter().find(|owed| owed.kind == schemas::topic::Kind::PaymentCode);
            let Down::PaymentCode(code) =
                Down::decode(owed.as_ref().unwrap().kind, &owed.as_ref().unwrap().payload).unwrap().body
            else {
                panic!()
            };
            let text = shown(&w, &code);
            let expected = match why {
                "piggy_bank_revoked" => {
                    w.admin(AdminCommand::RevokeDevice { device: who("piggy") }).unwrap();
                    if mode == PaymentMode::Qr { "already_ended" } else { "code_forged" }
                }
                "piggy_bank_enrolled" => {
                    w.enrol("piggy", 2);
                    "already_ended"
                }
                "piggy_bank_changed" => {
                    bind(&mut w, "mia", bonds(&["mum"], Some("piggy3"))).unwrap();
                    "already_ended"
                }
                "guardianship_ended" => {
                    bind(&mut w, "mia", bonds(&["dad"], Some("piggy"))).unwrap();
                    "already_ended"
                }
                _ => {
                    w.acknowledge("piggy", owed.unwrap().message, 0x83);
                    "already_ended"
                }
            };
            assert_eq!(state(&w, payment), PaymentState::Refused, "{why}");
            assert_eq!(w.told_state("mum", payment), Some(PaymentState::Refused), "{why}");
            let expected_reason = if why == "piggy_bank_enrolled" { "piggy_bank_revoked" } else { why };
            assert_eq!(reason(&w, payment), expected_reason);
            assert_eq!(scan(&mut w, "till", 2, &text), refused(expected), "{why} {mode}");
            moved(&mut w, 0);
        }
    }
}

/// PC-4: the child's first word counts: neither a repeat nor a no changes a payment whose code it has.
#[test]
fn a_second_answer_changes_nothing_while_presenting() {
    let mut w = world();
    let code = presenting(&mut w, 1, qr());
    for answer in [ChildAnswer::Confirm, ChildAnswer::Reject] {
        let again = PromptAnswer { payment: code.payment, answer, position: None, identified: None };
        w.say("piggy", Up::PaymentPrompt(again)).unwrap();
    }
    assert_eq!(w.fetch("piggy"), [], "and nothing is told: it has the code");
    let text = shown(&w, &code);
    assert_eq!(scan(&mut w, "till", 2, &text), Ok(code.payment));
    moved(&mut w, PRICE);
}

/// PC-16: where the guardian asks for it, a yes counts only if the piggy bank has made sure who said it.
#[test]
fn a_yes_of_nobody_in_particular_is_none_where_identity_is_asked_for() {
    for mode in [PaymentMode::Deduction, PaymentMode::Qr] {
        for (identify, identified, counts) in [
            (Some(true), Some(true), true),
            (Some(true), Some(false), false),
            (Some(true), None, false),
            (Some(false), None, true),
            (None, Some(false), true),
        ] {
            let mut w = world();
            let payment = ordered(&mut w, 1, PaymentOrder { identify, ..order(mode) });
            let prompted = w.fetch("piggy");
            let asked = identify.filter(|yes| *yes);
            assert!(
                prompted.iter().any(|down| matches!(down, Down::PaymentPrompt(p) if p.identify == asked))
            );
            confirm(&mut w, payment, None, identified);
            match (counts, mode) {
                (true, PaymentMode::Deduction) => assert_eq!(state(&w, payment), PaymentState::Settled),
                (true, _) => {
                    let code = code_of(&mut w, payment);
                    let text = shown(&w, &code);
                    assert_eq!(scan(&mut w, "till", 2, &text), Ok(payment));
                }
                (false, _) => {
                    assert_eq!(state(&w, payment), PaymentState::Refused);
                    assert_eq!(reason(&w, payment), "child_not_identified");
                    let told = w.told("mum", payment).unwrap();
                    assert!(told.text.as_str().contains("could not make sure who said yes"), "{told:?}");
                    assert_eq!(w.told_state("piggy", payment), Some(PaymentState::Refused));
                }
            }
            moved(&mut w, if counts { PRICE } else { 0 });
        }
    }
}

/// Something that may happen to a payment whose code is presented.
#[derive(Debug, Clone)]
enum Step {
    Scan(&'static str, u8),
    Answer(ChildAnswer),
    Cancel,
    Unbind,
    Revoke,
    Pass(u64),
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let terminal = prop::sample::select(vec!["till", "gym-till", "zoo-till", "kiosk-till", "bob"]);
    let answer = prop::sample::select(vec![ChildAnswer::Confirm, ChildAnswer::Reject]);
    prop_oneof![
        4 => (terminal, 10..14_u8).prop_map(|(terminal, key)| Step::Scan(terminal, key)),
        1 => answer.prop_map(Step::Answer),
        1 => Just(Step::Cancel),
        1 => Just(Step::Unbind),
        1 => Just(Step::Revoke),
        2 => (1..700_000_u64).prop_map(Step::Pass),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// PC-10, PC-15: whatever happens in whatever order, the money moves once or not at all, one scan is told so, and
    /// nothing stays reserved.
    #[test]
    fn a_code_is_paid_with_once_or_never(
        steps in prop::collection::vec(step(), 0..12), is_token in any::<bool>()
    ) {
        let mut w = world();
        let code = presenting(&mut w, 1, order(if is_token { PaymentMode::Token } else { PaymentMode::Qr }));
        let (mut accepted, mut is_revoked) = (BTreeSet::new(), false);
        for step in steps {
            match step {
                Step::Scan(terminal, key) => {
                    let text = shown(&w, &code);
                    if scan(&mut w, terminal, key, &text).is_ok() {
                        accepted.insert((terminal, key));
                    }
                }
                Step::Answer(answer) if !is_revoked => {
                    let again = PromptAnswer { payment: code.payment, answer, position: None, identified: None };
                    w.say("piggy", Up::PaymentPrompt(again)).unwrap();
                }
                Step::Answer(_) => {}
                Step::Cancel => {
                    let cancel = Up::PaymentCancel(PaymentCancel { payment: code.payment });
                    w.request("mum", 200, cancel);
                }
                Step::Unbind => drop(w.admin(AdminCommand::UnbindChild { child: who("mia") }).unwrap()),
                Step::Revoke => {
                    w.admin(AdminCommand::RevokeDevice { device: who("piggy") }).unwrap();
                    is_revoked = true;
                }
                Step::Pass(ms) => w.pass(ms),
                Step::Crash(seed) => {
                    w.crash(seed);
                    for name in ["mum", "till", "gym-till", "zoo-till", "kiosk-till", "bob"] {
                        w.connect(name);
                    }
                    if !is_revoked {
                        w.connect("piggy");
                    }
                }
            }
        }
        w.pass(4_000_000);
        let is_settled = state(&w, code.payment) == PaymentState::Settled;
        prop_assert_eq!(accepted.len(), usize::from(is_settled), "{:?}", accepted);
        moved(&mut w, if is_settled { PRICE } else { 0 });
    }
}
