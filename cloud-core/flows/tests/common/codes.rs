//! A family with places to pay at, and each step of a payment with a code.

use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::places::RegisteredPlace;
use schemas::ids::PaymentId;
use schemas::message::{
    ChildAnswer, Down, PaymentCode, PaymentMode, PaymentOrder, PaymentScan, PaymentState, Position,
    PromptAnswer, RequestAnswer, Up,
};
use schemas::signed::{CodeText, Payer, PaymentToken};
use schemas::time::Timestamp;

use super::family::{HAS, categories, entry, eur, family};
use super::{START, World, signing_key, who};

/// What one payment takes here.
pub(crate) const PRICE: u64 = 420;
/// 100 m north of the border of the places, which are 100 m around 52.52 N, 13.40 E.
pub(crate) const NEAR: Position =
    Position { latitude_e7: 525_218_000, longitude_e7: 134_000_000, accuracy_m: 5, at: Timestamp(START) };

/// Four places: school and gym (shop, lunch), zoo (shop, toys), kiosk (kiosk, lunch), each with a terminal of its own.
pub(crate) fn world() -> World {
    let mut w = family();
    let (tenant, merchant) = ("acme".parse().unwrap(), "kiosk".parse().unwrap());
    w.admin(AdminCommand::CreateMerchant { tenant, merchant, title: "The Kiosk".into(), terminal: None })
        .unwrap();
    for person in ["gym-till", "zoo-till", "kiosk-till"] {
        let person = who(person);
        w.admin(AdminCommand::CreatePerson { person, public_key: None, bank_account: None }).unwrap();
    }
    let mut zoo = entry("zoo", "shop", &["zoo-till"]);
    zoo.place.categories = categories(&["toys"]);
    set(&mut w, entry("school", "shop", &["till", "spare"])).unwrap();
    set(&mut w, entry("gym", "shop", &["gym-till"])).unwrap();
    set(&mut w, entry("kiosk", "kiosk", &["kiosk-till"])).unwrap();
    set(&mut w, zoo).unwrap();
    for name in ["gym-till", "zoo-till", "kiosk-till"] {
        w.connect(name);
    }
    w
}

pub(crate) fn set(w: &mut World, entry: RegisteredPlace) -> Result<(), String> {
    let command = AdminCommand::SetPlace { tenant: "acme".parse().unwrap(), entry };
    w.admin(command).map(|_| ()).map_err(|why| why.code.to_string())
}

pub(crate) fn order(mode: PaymentMode) -> PaymentOrder {
    PaymentOrder {
        mode: Some(mode),
        payee: Some("merchant/shop".parse().unwrap()),
        ..PaymentOrder::deduction("mia".parse().unwrap(), eur(PRICE), categories(&["lunch"]))
    }
}

pub(crate) fn qr() -> PaymentOrder {
    order(PaymentMode::Qr)
}

pub(crate) fn ordered(w: &mut World, key: u8, order: PaymentOrder) -> PaymentId {
    let answer = w.request("mum", key, Up::PaymentOrder(order));
    answer.payment.unwrap_or_else(|| panic!("{answer:?}"))
}

pub(crate) fn confirm(
    w: &mut World,
    payment: PaymentId,
    position: Option<Position>,
    identified: Option<bool>,
) {
    let answer = PromptAnswer { payment, answer: ChildAnswer::Confirm, position, identified };
    w.say("piggy", Up::PaymentPrompt(answer)).unwrap();
}

pub(crate) fn code_of(w: &mut World, payment: PaymentId) -> PaymentCode {
    w.fetch("piggy");
    let heard = w.inbox[&who("piggy")].iter();
    let mut codes = heard.filter_map(|down| match down {
        Down::PaymentCode(code) if code.payment == payment => Some(code.clone()),
        _ => None,
    });
    codes.next_back().expect("a code")
}

/// Ordered and confirmed: the code that the piggy bank has.
pub(crate) fn presenting(w: &mut World, key: u8, order: PaymentOrder) -> PaymentCode {
    let payment = ordered(w, key, order);
    confirm(w, payment, None, None);
    assert_eq!(state(w, payment), PaymentState::Presenting);
    code_of(w, payment)
}

/// What the piggy bank shows: the cloud's QR code, or a token that it signs now, for two minutes.
pub(crate) fn shown(w: &World, code: &PaymentCode) -> CodeText {
    code.code.clone().unwrap_or_else(|| token(w, code).sign(&signing_key("piggy")))
}

pub(crate) fn token(w: &World, code: &PaymentCode) -> PaymentToken {
    PaymentToken {
        device: who("piggy"),
        payment: code.payment,
        amount: code.amount,
        payer: Payer::claimed(&code.contains, &"piggy".parse().unwrap(), &code.child, &code.categories),
        issued_at: Timestamp(w.now / 1_000 * 1_000),
        expires_at: code.expires_at.min(Timestamp((w.now / 1_000 + 120) * 1_000)),
    }
}

pub(crate) fn scan_of(w: &World, code: CodeText) -> PaymentScan {
    PaymentScan { code, amount: None, scanned_at: Timestamp(w.now) }
}

pub(crate) fn hand_in(w: &mut World, terminal: &str, key: u8, scan: PaymentScan) -> RequestAnswer {
    w.request(terminal, key, Up::PaymentScan(scan))
}

pub(crate) fn scan(w: &mut World, terminal: &str, key: u8, code: &CodeText) -> Result<PaymentId, String> {
    let scan = scan_of(w, code.clone());
    result(hand_in(w, terminal, key, scan))
}

pub(crate) fn result(answer: RequestAnswer) -> Result<PaymentId, String> {
    answer.payment.ok_or_else(|| answer.refused.unwrap().to_string())
}

pub(crate) fn refused<T>(code: &str) -> Result<T, String> {
    Err(code.to_owned())
}

pub(crate) fn state(w: &World, payment: PaymentId) -> PaymentState {
    w.driver.cloud().child_payment(payment).unwrap().state()
}

pub(crate) fn reason(w: &World, payment: PaymentId) -> String {
    let payment = w.driver.cloud().child_payment(payment).unwrap();
    payment.reason.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// What Mia and the shop have, and that nothing is reserved.
pub(crate) fn moved(w: &mut World, minor: u64) {
    assert_eq!(w.balance("person/mia"), i128::from(HAS - minor));
    assert_eq!(w.balance("merchant/shop"), i128::from(minor));
    assert_eq!(w.account("person/mia").debits_pending.minor, 0, "nothing stays reserved");
    w.finish();
}
