//! Wishes: from a child's words to a guardian's payment, or its no (PC-12); and what the child sees of it (PC-5, PC-14).

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, Filter, Listing};
use cloud_core_flows::limits;
use common::family::{HAS, bind, bonds, eur, family};
use common::{World, who};
use schemas::envelope::Envelope;
use schemas::ids::{MessageId, PaymentId, WishId};
use schemas::message::{
    Categories, ChildAnswer, ChildView, Down, Goal, Goals, PaymentCancel, PaymentOrder, PaymentRefund,
    PaymentState, PromptAnswer, SavingsGoals, ShownWish, StatusRequest, Up, Wish, WishDecline, WishKind,
    WishNotice, WishState, WishWithdraw,
};
use schemas::topic::Kind;
use schemas::wire::Text;

const SCOOTER: &str = "Can I have a red scooter for 5 euros?";
const DAY_MS: u64 = 24 * 3_600_000;

fn id(number: u8) -> WishId {
    WishId([number; 16])
}

/// What Mia's piggy bank says; the refusal's code.
fn say(w: &mut World, device: &str, number: u8, body: Up) -> Result<(), String> {
    let kind = body.kind();
    let message = MessageId::derived("said", &[device.as_bytes(), &[number], kind.as_str().as_bytes()]);
    let (promise, replies) = w.publish(device, kind, Envelope::message(message, body).encode());
    let refused = replies.into_iter().find_map(|down| match down {
        Down::Refused(refused) => Some(refused),
        _ => None,
    });
    match (promise, refused) {
        (Ok(()), None) => Ok(()),
        (Err(_), Some(refused)) => {
            assert_eq!(refused.message, Some(message), "the piggy bank knows which one");
            Err(refused.code.to_string())
        }
        other => panic!("{other:?}"),
    }
}

fn wish(w: &mut World, number: u8, to: &str, text: &str) -> Result<(), String> {
    wish_at(w, ("mia", "piggy"), number, to, text)
}

fn wish_at(
    w: &mut World,
    (child, device): (&str, &str),
    number: u8,
    to: &str,
    text: &str,
) -> Result<(), String> {
    let (wish, child, to) = (id(number), child.parse().unwrap(), to.parse().unwrap());
    say(w, device, number, Up::Wish(Wish { wish, child, to, text: Text::new(text) }))
}

fn withdraw(w: &mut World, number: u8) -> Result<(), String> {
    say(w, "piggy", number, Up::WishWithdraw(WishWithdraw { wish: id(number) }))
}

fn decline(w: &mut World, guardian: &str, key: u8, number: u8, reason: &str) -> Option<String> {
    let body = WishDecline { child: "mia".parse().unwrap(), wish: id(number), reason: Text::new(reason) };
    w.request(guardian, key, Up::WishDecline(body)).refused.map(|code| code.to_string())
}

fn order(number: u8) -> PaymentOrder {
    let categories = Categories::new(vec!["toys".parse().unwrap()]).unwrap();
    let plain = PaymentOrder::deduction("mia".parse().unwrap(), eur(500), categories);
    PaymentOrder { wish: Some(id(number)), payee: Some("merchant/shop".parse().unwrap()), ..plain }
}

fn ordered(w: &mut World, guardian: &str, key: u8, order: PaymentOrder) -> Result<PaymentId, String> {
    let answer = w.request(guardian, key, Up::PaymentOrder(order));
    answer.payment.ok_or_else(|| answer.refused.unwrap().to_string())
}

fn answered(w: &mut World, payment: PaymentId, answer: ChildAnswer) {
    let body = PromptAnswer { payment, answer, position: None, identified: None };
    w.say("piggy", Up::PaymentPrompt(body)).unwrap();
}

/// What a guardian is told of wishes.
fn notices(w: &mut World, guardian: &str) -> Vec<WishNotice> {
    let fetched = w.fetch(guardian).into_iter();
    fetched
        .filter_map(|down| match down {
            Down::Wish(notice) => Some(notice),
            _ => None,
        })
        .collect()
}

/// What is on the piggy bank's screen; asked for by coming back, as after an outage.
fn view(w: &mut World, device: &str) -> ChildView {
    w.connect(device);
    let mut views = w.fetch(device).into_iter().filter_map(|down| match down {
        Down::ChildView(view) => Some(view),
        _ => None,
    });
    views.next_back().expect("a view is owed")
}

fn shown(w: &mut World, number: u8) -> ShownWish {
    let wishes = view(w, "piggy").wishes.expect("wishes are shown");
    wishes.iter().find(|wish| wish.wish == id(number)).cloned().expect("this one is shown")
}

fn state(w: &World, number: u8) -> Option<WishState> {
    let child = w.driver.cloud().registry().child(&who("mia")).unwrap();
    child.wishes.find(id(number)).map(|wish| wish.state)
}

/// PC-12: a purchase word makes an entry of the wish list, and the guardian of the child's choice is told; others are not.
#[test]
fn a_wish_with_a_purchase_word_is_listed_and_told() {
    let mut w = family();
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    let [notice] = &notices(&mut w, "dad")[..] else { panic!("one notice") };
    let keywords: Vec<_> = notice.keywords.iter().map(Text::as_str).collect();
    assert_eq!((notice.wish, notice.child.as_str(), keywords), (id(1), "mia", vec!["red", "scooter"]));
    assert_eq!(
        (notice.kind, notice.amount, notice.state),
        (WishKind::Purchase, Some(eur(500)), WishState::Open)
    );
    assert_eq!(notices(&mut w, "mum"), []);
    assert_eq!((shown(&mut w, 1).state, shown(&mut w, 1).text.as_str()), (WishState::Open, SCOOTER));
    // In Chinese too.
    wish(&mut w, 2, "mum", "妈妈给我买一辆自行车好不好，大概50欧元").unwrap();
    let [notice] = &notices(&mut w, "mum")[..] else { panic!("one notice") };
    assert_eq!(notice.keywords.iter().map(Text::as_str).collect::<Vec<_>>(), ["自行车"]);
    assert_eq!((notice.kind, notice.amount), (WishKind::Purchase, Some(eur(5_000))));
    w.finish();
}

/// PC-12: without a purchase word it is a message: told, shown as delivered, on no list, and nothing to order.
#[test]
fn a_wish_without_a_purchase_word_is_a_message() {
    let mut w = family();
    for (number, text) in [(1, "I want you to come home early"), (2, "谢谢爸爸今天带我去动物园")]
    {
        wish(&mut w, number, "dad", text).unwrap();
        let [notice] = &notices(&mut w, "dad")[..] else { panic!("one notice") };
        assert_eq!((notice.kind, notice.state), (WishKind::Message, WishState::Delivered));
        assert_eq!(notice.text.as_str(), text);
        assert_eq!(shown(&mut w, number).state, WishState::Delivered);
        assert_eq!(ordered(&mut w, "dad", number, order(number)), Err("wish_ended".to_owned()));
    }
    w.finish();
}

/// PC-12, PC-1: one action of the guardian; the wish is as the payment is. The books agree at each end.
#[test]
fn a_wish_follows_the_payment_that_was_ordered_for_it() {
    type End = fn(&mut World, PaymentId);
    let ends: [(&str, End, WishState, u64); 5] = [
        ("confirmed", |w, payment| answered(w, payment, ChildAnswer::Confirm), WishState::Granted, 500),
        ("rejected", |w, payment| answered(w, payment, ChildAnswer::Reject), WishState::Open, 0),
        ("silence", |w, _| w.pass(w.deadlines.prompt_ms + w.deadlines.report_ms + 1), WishState::Open, 0),
        (
            "cancelled",
            |w, payment| {
                let cancelled = w.request("dad", 90, Up::PaymentCancel(PaymentCancel { payment }));
                assert_eq!(cancelled.refused, None);
            },
            WishState::Open,
            0,
        ),
        (
            "given back",
            |w, payment| {
                answered(w, payment, ChildAnswer::Confirm);
                let back = w.request("till", 90, Up::PaymentRefund(PaymentRefund { payment }));
                assert_eq!(back.refused, None);
            },
            WishState::Granted,
            0,
        ),
    ];
    for (what, end, expected, paid) in ends {
        let mut w = family();
        wish(&mut w, 1, "dad", SCOOTER).unwrap();
        let payment = ordered(&mut w, "dad", 1, order(1)).unwrap();
        assert_eq!(state(&w, 1), Some(WishState::Ordered), "{what}");
        assert_eq!(shown(&mut w, 1).state, WishState::Ordered, "{what}");
        // What was ordered is neither ordered again, nor declined, nor taken back.
        assert_eq!(ordered(&mut w, "dad", 2, order(1)), Err("wish_ordered".to_owned()), "{what}");
        assert_eq!(decline(&mut w, "dad", 3, 1, "no").as_deref(), Some("wish_ordered"), "{what}");
        assert_eq!(withdraw(&mut w, 1), Err("wish_ordered".to_owned()), "{what}");
        w.restart();
        for name in ["dad", "piggy", "till", "mum"] {
            w.connect(name);
        }
        end(&mut w, payment);
        assert_eq!(state(&w, 1), Some(expected), "{what}");
        assert_eq!(shown(&mut w, 1).state, expected, "{what}");
        assert_eq!(w.balance("person/mia"), i128::from(HAS - paid), "{what}");
        assert_eq!(w.merchant_minor(), i128::from(paid), "{what}");
        let again = ordered(&mut w, "dad", 4, order(1));
        match expected {
            WishState::Open => {
                answered(&mut w, again.unwrap(), ChildAnswer::Confirm);
                assert_eq!(state(&w, 1), Some(WishState::Granted), "{what}, and then granted");
            }
            _ => assert_eq!(again, Err("wish_ended".to_owned()), "{what}"),
        }
        w.finish();
    }
}

/// PC-12: the child reads the guardian's reason; and a wish that is taken back is told. The same again changes nothing.
#[test]
fn a_wish_is_declined_with_a_reason_or_taken_back() {
    let mut w = family();
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    assert_eq!(decline(&mut w, "dad", 1, 1, " ").as_deref(), Some("text_empty"));
    assert_eq!(decline(&mut w, "dad", 2, 1, "You have one"), None);
    assert_eq!(decline(&mut w, "dad", 3, 1, "You have one"), None, "said again");
    assert_eq!(decline(&mut w, "dad", 4, 1, "Another reason").as_deref(), Some("wish_ended"));
    let declined = shown(&mut w, 1);
    assert_eq!(
        (declined.state, declined.reason.unwrap().to_string()),
        (WishState::Declined, "You have one".to_owned())
    );
    assert_eq!(notices(&mut w, "dad"), [], "what nobody has fetched and is over is not told any more");
    assert_eq!(withdraw(&mut w, 1), Err("wish_ended".to_owned()));

    wish(&mut w, 2, "mum", SCOOTER).unwrap();
    assert_eq!(notices(&mut w, "mum").len(), 1);
    assert_eq!((withdraw(&mut w, 2), withdraw(&mut w, 2)), (Ok(()), Ok(())));
    let [notice] = &notices(&mut w, "mum")[..] else { panic!("told once") };
    assert_eq!((notice.wish, notice.state), (id(2), WishState::Withdrawn));
    assert_eq!(shown(&mut w, 2).state, WishState::Withdrawn);
    assert_eq!(ordered(&mut w, "mum", 5, order(2)), Err("wish_ended".to_owned()));
    w.finish();
}

/// PC-12: each refusal by its code; none of them leaves anything behind.
#[test]
fn refusals_of_wishes_are_reached() {
    let mut w = family();
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    let before = w.driver.cloud().registry().clone();
    assert_eq!(wish_at(&mut w, ("mia", "piggy3"), 2, "dad", SCOOTER), Err("not_a_piggy_bank".to_owned()));
    assert_eq!(wish(&mut w, 3, "dad", " \n"), Err("text_empty".to_owned()));
    for nobody in ["ann", "mia", "leo", "nobody"] {
        assert_eq!(wish(&mut w, 4, nobody, SCOOTER), Err("guardian_unknown".to_owned()));
    }
    assert_eq!(withdraw(&mut w, 9), Err("wish_unknown".to_owned()));
    let of_mum = |key| (key, "mum");
    let other = |name: &str| PaymentOrder { child: name.parse().unwrap(), ..order(1) };
    assert_eq!(ordered(&mut w, "mum", 5, order(1)), Err("wish_unknown".to_owned()), "told to dad");
    assert_eq!(ordered(&mut w, "mum", 6, other("leo")), Err("wish_unknown".to_owned()), "not Leo's");
    assert_eq!(ordered(&mut w, "dad", 7, other("leo")), Err("not_guardian".to_owned()));
    assert_eq!(ordered(&mut w, "ann", 8, order(1)), Err("not_guardian".to_owned()));
    assert_eq!(decline(&mut w, "mum", of_mum(10).0, 1, "no").as_deref(), Some("wish_unknown"));
    assert_eq!(decline(&mut w, "ann", 11, 1, "no").as_deref(), Some("not_guardian"));
    assert_eq!(decline(&mut w, "dad", 12, 9, "no").as_deref(), Some("wish_unknown"));
    assert_eq!(*w.driver.cloud().registry(), before);
    // Whoever is a person has no piggy bank; whoever is a device declines nothing.
    let child = "mia".parse().unwrap();
    let mine =
        move || Up::Wish(Wish { wish: id(1), child, to: "dad".parse().unwrap(), text: Text::new("x") });
    assert_eq!(say(&mut w, "dad", 13, mine()), Err("not_your_message".to_owned()));
    w.finish();
}

/// PC-12: the list has a limit, and so has a day; a new day is a new one, and what has ended makes room.
#[test]
fn wishes_are_limited_by_list_and_by_day() {
    let mut w = family();
    w.restores_after_each_input = false;
    let most = u8::try_from(limits::OPEN_WISHES).unwrap();
    for number in 1..=most {
        wish(&mut w, number, "dad", SCOOTER).unwrap();
    }
    assert_eq!(wish(&mut w, 100, "mum", SCOOTER), Err("too_many_wishes".to_owned()));
    wish(&mut w, 101, "mum", "Good night").unwrap();
    withdraw(&mut w, 1).unwrap();
    wish(&mut w, 102, "mum", SCOOTER).unwrap();
    for number in 103..=104 {
        wish(&mut w, number, "mum", "Good night").unwrap();
    }
    assert_eq!(limits::WISHES_OF_DAY, u32::from(most) + 4);
    assert_eq!(wish(&mut w, 105, "mum", "Good night"), Err("too_many_wishes_today".to_owned()));
    wish(&mut w, 104, "mum", "Good night").unwrap();
    w.pass(DAY_MS);
    wish(&mut w, 105, "mum", "Good night").unwrap();
    // Leo's are his own.
    wish_at(&mut w, ("leo", "piggy2"), 1, "mum", SCOOTER).unwrap();
    w.finish();
}

/// The same wish again, by a piggy bank that has not heard the promise, is the same wish, over any power cut.
#[test]
fn a_wish_that_is_sent_again_is_taken_in_once() {
    let mut w = family();
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    for seed in 0..5 {
        w.crash(seed);
        w.connect("piggy");
        wish(&mut w, 1, "dad", SCOOTER).unwrap();
    }
    w.connect("dad");
    assert_eq!(notices(&mut w, "dad").len(), 1);
    decline(&mut w, "dad", 1, 1, "no");
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    assert_eq!(state(&w, 1), Some(WishState::Declined));
    assert_eq!(notices(&mut w, "dad"), []);
    w.finish();
}

/// A guardian's terminal that has lost its notices asks for what waits for it.
#[test]
fn open_wishes_are_told_again_on_request() {
    let mut w = family();
    for (number, to) in [(1, "dad"), (2, "mum"), (3, "dad")] {
        wish(&mut w, number, to, SCOOTER).unwrap();
    }
    decline(&mut w, "dad", 1, 3, "no");
    assert_eq!(notices(&mut w, "dad").len(), 0, "fetched with the answer to the request");
    w.say("dad", Up::StatusRequest(StatusRequest { payment: None })).unwrap();
    w.say("dad", Up::StatusRequest(StatusRequest { payment: None })).unwrap();
    let told: Vec<_> = notices(&mut w, "dad").iter().map(|notice| notice.wish).collect();
    assert_eq!(told, [id(1)]);
    w.finish();
}

/// Who is no guardian any more reads nothing of the child any more, and its wishes end; those to others stay.
#[test]
fn wishes_end_with_the_guardianship() {
    let mut w = family();
    for (number, to) in [(1, "dad"), (2, "dad"), (3, "mum")] {
        wish(&mut w, number, to, SCOOTER).unwrap();
    }
    let payment = ordered(&mut w, "dad", 1, order(2)).unwrap();
    // Nobody has fetched this one.
    wish(&mut w, 4, "dad", SCOOTER).unwrap();
    bind(&mut w, "mia", bonds(&["mum"], Some("piggy"))).unwrap();
    assert_eq!(w.driver.cloud().child_payment(payment).unwrap().state(), PaymentState::Refused);
    let states: Vec<_> = (1..=4).map(|number| state(&w, number).unwrap()).collect();
    assert_eq!(states, [WishState::Ended, WishState::Ended, WishState::Open, WishState::Ended]);
    assert_eq!(shown(&mut w, 1).state, WishState::Ended);
    assert!(notices(&mut w, "dad").is_empty());
    assert_eq!(w.balance("person/mia"), i128::from(HAS));
    // A guardian again: what has ended stays so.
    bind(&mut w, "mia", bonds(&["mum", "dad"], Some("piggy"))).unwrap();
    assert_eq!(ordered(&mut w, "dad", 2, order(1)), Err("wish_ended".to_owned()));
    // No child any more.
    w.admin(AdminCommand::UnbindChild { child: who("mia") }).unwrap();
    assert_eq!(wish(&mut w, 5, "mum", SCOOTER), Err("not_a_piggy_bank".to_owned()));
    w.finish();
}

/// PC-12: who has ordered a wish is not told of it any more, unless it asks and the wish waits again.
#[test]
fn who_has_decided_is_not_told_again() {
    let mut w = family();
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    let payment = ordered(&mut w, "dad", 1, order(1)).unwrap();
    assert!(notices(&mut w, "dad").is_empty());
    answered(&mut w, payment, ChildAnswer::Reject);
    w.say("dad", Up::StatusRequest(StatusRequest { payment: None })).unwrap();
    assert_eq!(notices(&mut w, "dad").len(), 1);
    w.finish();
}

/// CP-15: what a batch has tried is taken back with the wishes.
#[test]
fn a_batch_that_fails_ends_no_wish() {
    let mut w = family();
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    let commands = vec![
        AdminCommand::BindChild { child: who("mia"), bonds: bonds(&["mum"], Some("piggy")) },
        AdminCommand::UnbindChild { child: who("nobody") },
    ];
    let before = w.driver.cloud().registry().clone();
    w.admin(AdminCommand::Batch { commands, check_only: false }).unwrap_err();
    assert_eq!(*w.driver.cloud().registry(), before);
    assert_eq!(state(&w, 1), Some(WishState::Open));
    w.say("dad", Up::StatusRequest(StatusRequest { payment: None })).unwrap();
    assert_eq!(notices(&mut w, "dad").len(), 1);
    w.finish();
}

/// PC-12: another piggy bank in the middle: the child finds its wishes on the new one, and the former one has no say.
#[test]
fn wishes_move_to_another_piggy_bank() {
    let mut w = family();
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    bind(&mut w, "mia", bonds(&["mum", "dad"], Some("piggy3"))).unwrap();
    assert_eq!(withdraw(&mut w, 1), Err("not_a_piggy_bank".to_owned()));
    let wishes = view(&mut w, "piggy3").wishes.unwrap();
    assert_eq!(wishes.iter().next().unwrap().wish, id(1));
    let body = Up::WishWithdraw(WishWithdraw { wish: id(1) });
    assert_eq!(say(&mut w, "piggy3", 1, body), Ok(()));
    assert_eq!(state(&w, 1), Some(WishState::Withdrawn));
    // What she said at the former one is hers, also where it arrives when her brother uses that.
    bind(&mut w, "leo", bonds(&["mum", "dad"], Some("piggy"))).unwrap();
    assert_eq!(wish(&mut w, 2, "dad", SCOOTER), Err("other_child".to_owned()));
    assert_eq!(wish(&mut w, 1, "dad", SCOOTER), Err("other_child".to_owned()), "not taken in twice either");
    w.finish();
}

/// PC-5: what has become of the last payments is seen on the piggy bank, the newest first; a refund corrects the first word.
#[test]
fn the_last_results_are_shown_newest_first() {
    let mut w = family();
    let note = |text: &str| PaymentOrder { wish: None, note: Some(Text::new(text)), ..order(1) };
    for (number, answer) in (1..=6).zip([ChildAnswer::Confirm, ChildAnswer::Reject].iter().cycle()) {
        let small = PaymentOrder { amount: eur(100), ..note(&format!("number {number}")) };
        let payment = ordered(&mut w, "dad", number, small).unwrap();
        answered(&mut w, payment, *answer);
        w.pass(1_000);
        if number == 3 {
            w.request("till", 90, Up::PaymentRefund(PaymentRefund { payment }));
        }
    }
    w.restart();
    let results = view(&mut w, "piggy").results.unwrap();
    let told: Vec<_> = results.iter().map(|result| (result.what.as_str(), result.state)).collect();
    let (settled, rejected) = (PaymentState::Settled, PaymentState::Rejected);
    assert_eq!(
        told,
        [
            ("number 6", rejected),
            ("number 5", settled),
            ("number 4", rejected),
            ("number 3", PaymentState::Refunded),
            ("number 2", rejected)
        ]
    );
    w.finish();
}

/// Everything has a limit: the largest view that there can be fits one message.
#[test]
fn the_largest_view_fits_one_message() {
    let mut w = family();
    w.restores_after_each_input = false;
    let long = |c: &str| c.repeat(schemas::limits::TEXT_BYTES / c.len());
    let goal = Goal { title: Text::new("\u{8f66}".repeat(26)), amount: eur(schemas::limits::AMOUNT_MINOR) };
    let goals = Goals::new(vec![goal; schemas::limits::GOALS]).unwrap();
    let body = Up::SavingsGoals(SavingsGoals { child: "mia".parse().unwrap(), goals });
    assert_eq!(w.request("dad", 1, body).refused, None);
    for day in 0..3 {
        for number in 0..12 {
            let number = day * 12 + number + 1;
            wish(&mut w, number, "dad", &format!("买{}", long("车"))).unwrap();
            if number <= 20 {
                assert_eq!(decline(&mut w, "dad", 1 + number, number, &long("不")), None);
            }
        }
        w.pass(DAY_MS);
    }
    for number in 0..5 {
        let note =
            PaymentOrder { wish: None, note: Some(Text::new(long("书"))), amount: eur(1), ..order(1) };
        let payment = ordered(&mut w, "dad", 100 + number, note).unwrap();
        answered(&mut w, payment, ChildAnswer::Confirm);
    }
    w.fetch("piggy");
    w.connect("piggy");
    let owed = w.owed("piggy");
    let view = owed.iter().find(|owed| owed.kind == Kind::ChildView).unwrap();
    let Down::ChildView(seen) = Down::decode(view.kind, &view.payload).unwrap().body else { panic!() };
    let wishes: Vec<_> = seen.wishes.as_ref().unwrap().iter().collect();
    assert_eq!(wishes.len(), schemas::limits::SHOWN_WISHES);
    assert_eq!(wishes.iter().filter(|wish| wish.state == WishState::Open).count(), limits::OPEN_WISHES);
    assert_eq!(seen.results.unwrap().iter().count(), schemas::limits::SHOWN_RESULTS);
    // What names and allowances may still add to it: 8 allowances, and names of 32 bytes.
    let more = 8 * 120 + (schemas::limits::SHOWN_WISHES + 1) * 29;
    let bytes = view.payload.len();
    assert!(bytes + more <= schemas::limits::PAYLOAD_BYTES, "{bytes} bytes, and {more} more");
    w.finish();
}

/// The operator sees them with the child.
#[test]
fn operators_see_the_wishes_of_a_child() {
    let mut w = family();
    wish(&mut w, 1, "dad", SCOOTER).unwrap();
    let filter = Filter { name: Some("acme/mia".to_owned()), ..Filter::default() };
    let found = w.admin(AdminCommand::Find { listing: Listing::Children, filter }).unwrap();
    let AdminAnswer::Children(rows) = found else { panic!("{found:?}") };
    let [row] = &rows[0].wishes[..] else { panic!("{rows:?}") };
    assert_eq!((row.id, row.wish.to.as_str(), row.wish.state), (id(1), "dad", WishState::Open));
    w.finish();
}
