//! Wishes at a piggy bank: made offline, sent once, taken back, shown (PC-12).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Bench, EXECUTOR, PIGGY_BANK, published};
use edge_agent_device::{Event, ListedWish, Output, State, WishRefusal, WishRequest, WishStanding, limits};
use schemas::envelope::Envelope;
use schemas::ids::{Code, MessageId, WishId};
use schemas::message::{ChildView, ComingAllowances, Goals, Refused, ShownWish, ShownWishes, Up, WishState};
use schemas::time::Timestamp;
use schemas::wire::Text;

const SCOOTER: &str = "I want a scooter";

fn said(outputs: &[Output]) -> Vec<Result<WishId, WishRefusal>> {
    let of = |output: &Output| match output {
        Output::WishMade { result, .. } => Some(result.clone()),
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

/// Wishes and withdrawals that were sent.
fn sent(outputs: &[Output]) -> Vec<(&'static str, WishId)> {
    let of = |up| match up {
        Up::Wish(wish) => Some(("wish", wish.wish)),
        Up::WishWithdraw(withdraw) => Some(("withdraw", withdraw.wish)),
        _ => None,
    };
    published(outputs).into_iter().filter_map(of).collect()
}

fn wish(bench: &mut Bench, text: &str) -> Vec<Output> {
    let request = WishRequest { ticket: 7, to: "dad".parse().unwrap(), text: text.to_owned() };
    bench.device.handle_wish(&request, bench.now);
    bench.settle()
}

fn made(bench: &mut Bench, text: &str) -> WishId {
    said(&wish(bench, text))[0].clone().unwrap()
}

fn withdraw(bench: &mut Bench, wish: WishId) -> Vec<Output> {
    bench.device.handle_wish_withdraw(8, wish, bench.now);
    bench.settle()
}

/// The messages that carry wishes, as published.
fn messages(outputs: &[Output]) -> Vec<MessageId> {
    let of = |output: &Output| match output {
        Output::Publish { message, kind, .. } if kind.as_str().starts_with("wish") => Some(*message),
        _ => None,
    };
    outputs.iter().filter_map(of).collect()
}

fn promised(bench: &mut Bench, message: MessageId, reason: u8) -> Vec<Output> {
    bench.device.handle_published(bench.connection, message, reason, bench.now);
    bench.settle()
}

fn standings(bench: &Bench) -> Vec<WishStanding> {
    bench.device.wishes().into_iter().map(|wish| wish.standing).collect()
}

fn view(as_of: u64, wishes: &[(WishId, WishState)]) -> ChildView {
    let shown = |(wish, state): &(WishId, WishState)| ShownWish {
        wish: *wish,
        to: "dad".parse().unwrap(),
        text: Text::new(SCOOTER),
        state: *state,
        reason: None,
    };
    ChildView {
        child: "mia".parse().unwrap(),
        available: "5.00 EUR".parse().unwrap(),
        as_of: Timestamp(as_of),
        goals: Goals::default(),
        allowances: ComingAllowances::default(),
        wishes: Some(ShownWishes::new(wishes.iter().map(shown).collect()).unwrap()),
        results: None,
    }
}

fn show(bench: &mut Bench, view: ChildView) {
    let id = MessageId::derived("view", &[&view.as_of.0.to_be_bytes()]);
    bench.deliver("child-view", &Envelope::message(id, view).encode());
    bench.settle();
}

/// Mia's, and connected.
fn piggy_bank() -> Bench {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    show(&mut bench, view(0, &[]));
    bench
}

fn refuse(bench: &mut Bench, message: MessageId, code: &'static str) {
    let (message, about) = (Some(message), Some(Code::known("wish")));
    let refused = Refused { message, about, code: Code::known(code), text: Text::new("no") };
    let payload = Envelope::message(MessageId([7; 16]), refused).encode();
    bench.device.handle_message(None, "refused", &payload, bench.now);
    bench.settle();
}

/// PC-12: what is said is on disk before anybody is told so; it survives a restart and is sent when there is a connection.
#[test]
fn a_wish_that_is_made_offline_is_sent_later_as_the_same_one() {
    let mut bench = piggy_bank();
    bench.device.handle_disconnected(bench.connection);
    let request = WishRequest { ticket: 7, to: "dad".parse().unwrap(), text: SCOOTER.to_owned() };
    bench.device.handle_wish(&request, bench.now);
    assert!(matches!(bench.append()[..], [Event::WishMade { .. }]));
    assert_eq!(bench.released(), [], "appended is not synced");
    bench.sync();
    let wish = said(&bench.released())[0].clone().unwrap();
    assert_eq!(standings(&bench), [WishStanding::Waiting]);
    bench.crash(0);
    assert_eq!(bench.device.status(bench.now).wishes[0].wish, wish);
    for _ in 0..2 {
        // The PUBACK of the first connection is lost.
        let outputs = bench.connect_with_time();
        assert_eq!(sent(&outputs), [("wish", wish)]);
        bench.device.handle_disconnected(bench.connection);
    }
    let outputs = bench.connect_with_time();
    promised(&mut bench, messages(&outputs)[0], 0);
    assert_eq!(standings(&bench), [WishStanding::Sent]);
    bench.crash(0);
    assert_eq!(standings(&bench), [WishStanding::Sent]);
    assert_eq!(sent(&bench.connect_with_time()), [], "promised is promised");
    // The same words again are another wish.
    assert_ne!(made(&mut bench, SCOOTER), wish);
}

/// PC-12: what the cloud shows is told as the cloud tells it, also offline and after a restart.
#[test]
fn a_wish_is_shown_as_the_cloud_tells_it() {
    let mut bench = piggy_bank();
    let outputs = wish(&mut bench, SCOOTER);
    let wish = said(&outputs)[0].clone().unwrap();
    show(&mut bench, view(1, &[(wish, WishState::Open)]));
    let told = |state| [WishStanding::Told { state, reason: None }];
    assert_eq!(standings(&bench), told(WishState::Open), "told before the PUBACK");
    promised(&mut bench, messages(&outputs)[0], 0);
    show(&mut bench, view(2, &[(wish, WishState::Declined)]));
    assert_eq!(standings(&bench), told(WishState::Declined));
    bench.crash(0);
    assert_eq!(standings(&bench), told(WishState::Declined));
    // An older journal's view, without wishes, says nothing about them.
    show(&mut bench, ChildView { wishes: None, ..view(3, &[]) });
    assert_eq!(standings(&bench), []);
}

/// PC-12: the child reads why the cloud has not taken it in, whichever of its two words comes first; then it may go.
#[test]
fn a_refused_wish_stays_to_be_read_until_it_is_taken_back() {
    for reply_first in [true, false] {
        let mut bench = piggy_bank();
        let outputs = wish(&mut bench, SCOOTER);
        let (wish, message) = (said(&outputs)[0].clone().unwrap(), messages(&outputs)[0]);
        if reply_first {
            refuse(&mut bench, message, "guardian_unknown");
            promised(&mut bench, message, 0x83);
        } else {
            promised(&mut bench, message, 0x83);
            assert_eq!(standings(&bench), [WishStanding::Refused { code: Code::known("puback_83") }]);
            refuse(&mut bench, message, "guardian_unknown");
        }
        bench.crash(0);
        assert_eq!(standings(&bench), [WishStanding::Refused { code: Code::known("guardian_unknown") }]);
        assert_eq!(sent(&bench.connect_with_time()), []);
        let outputs = withdraw(&mut bench, wish);
        assert_eq!((said(&outputs), sent(&outputs), standings(&bench)), (vec![Ok(wish)], vec![], vec![]));
    }
    // Taken back before that is known: then nobody wants to read it.
    let mut bench = piggy_bank();
    let outputs = wish(&mut bench, SCOOTER);
    let (wish, message) = (said(&outputs)[0].clone().unwrap(), messages(&outputs)[0]);
    assert_eq!(said(&withdraw(&mut bench, wish)), [Ok(wish)]);
    promised(&mut bench, message, 0x83);
    assert_eq!(standings(&bench), []);
}

/// correctness.md 9: what the cloud has no room for now is kept and sent again, whichever of its two words comes first.
#[test]
fn what_the_cloud_has_no_room_for_now_is_sent_again() {
    for (code, reply_first) in [("no_room", true), ("no_room", false), ("a_newer_code", true)] {
        let mut bench = piggy_bank();
        let outputs = wish(&mut bench, SCOOTER);
        let (wish, message) = (said(&outputs)[0].clone().unwrap(), messages(&outputs)[0]);
        if reply_first {
            refuse(&mut bench, message, code);
            promised(&mut bench, message, 0x97);
        } else {
            promised(&mut bench, message, 0x97);
            refuse(&mut bench, message, code);
        }
        assert_eq!(standings(&bench), [WishStanding::Waiting]);
        let status = bench.device.status(bench.now);
        assert_eq!((status.spool_depth, status.dead_letters.len()), (1, 0));
        // Each time after twice as long.
        for wait in [1, 2, 4, 4].map(|times| times * bench.settings.quota_retry_ms) {
            bench.now += wait - 1;
            bench.device.handle_tick(bench.now);
            assert_eq!(sent(&bench.settle()), []);
            bench.now += 1;
            bench.device.handle_tick(bench.now);
            let outputs = bench.settle();
            assert_eq!((sent(&outputs), messages(&outputs)), (vec![("wish", wish)], vec![message]));
            promised(&mut bench, message, 0x97);
        }
        bench.now += 4 * bench.settings.quota_retry_ms;
        bench.device.handle_tick(bench.now);
        assert_eq!(messages(&bench.settle()), [message]);
        promised(&mut bench, message, 0);
        assert_eq!(standings(&bench), [WishStanding::Sent]);
    }
}

/// PC-12: a wish says whose it is; another child that uses the piggy bank later does not read it.
#[test]
fn a_wish_is_the_childs_that_the_piggy_bank_shows() {
    let mut bench = Bench::new(PIGGY_BANK);
    bench.connect_with_time();
    assert_eq!(said(&wish(&mut bench, SCOOTER)), [Err(WishRefusal::NoChild)]);
    show(&mut bench, view(0, &[]));
    let outputs = wish(&mut bench, SCOOTER);
    let whose = |up| match up {
        Up::Wish(wish) => Some(wish.child.to_string()),
        _ => None,
    };
    assert_eq!(published(&outputs).into_iter().filter_map(whose).collect::<Vec<_>>(), ["mia"]);
    show(&mut bench, view(1, &[]));
    assert_eq!(standings(&bench), [WishStanding::Waiting], "still hers");
    show(&mut bench, ChildView { child: "leo".parse().unwrap(), ..view(2, &[]) });
    assert_eq!(standings(&bench), []);
    // It is told of all the same, as hers: the cloud knows whether that is so.
    promised(&mut bench, messages(&outputs)[0], 0x83);
    refuse(&mut bench, messages(&outputs)[0], "other_child");
    assert_eq!(standings(&bench), []);
}

/// A withdrawal never overtakes its wish, also where the cloud has put that off.
#[test]
fn a_wish_is_not_overtaken_by_its_withdrawal() {
    let mut bench = piggy_bank();
    let outputs = wish(&mut bench, SCOOTER);
    let (wish, message) = (said(&outputs)[0].clone().unwrap(), messages(&outputs)[0]);
    promised(&mut bench, message, 0x97);
    let outputs = withdraw(&mut bench, wish);
    assert_eq!((said(&outputs), sent(&outputs)), (vec![Ok(wish)], vec![]));
    bench.crash(0);
    let outputs = bench.connect_with_time();
    assert_eq!(sent(&outputs), [("wish", wish)]);
    let outputs = promised(&mut bench, messages(&outputs)[0], 0);
    assert_eq!(sent(&outputs), [("withdraw", wish)]);
    promised(&mut bench, messages(&outputs)[0], 0);
    assert_eq!(bench.device.status(bench.now).spool_depth, 0);
}

/// PC-12: each refusal by its code; none of them records or sends anything.
#[test]
fn refusals_of_wishes_are_reached() {
    let mut bench = piggy_bank();
    let one = WishId([1; 16]);
    show(&mut bench, view(1, &[(one, WishState::Granted)]));
    let code = |outputs: Vec<Output>| said(&outputs)[0].clone().unwrap_err().code();
    assert_eq!(code(wish(&mut bench, " ")), "text_empty");
    assert_eq!(code(wish(&mut bench, &"x".repeat(513))), "text_too_long");
    assert_eq!(code(withdraw(&mut bench, WishId([2; 16]))), "no_such_wish");
    assert_eq!(code(withdraw(&mut bench, one)), "wish_ended");
    bench.device.handle_disconnected(bench.connection);
    for _ in 0..limits::WISHES_WAITING {
        made(&mut bench, SCOOTER);
    }
    assert_eq!(code(wish(&mut bench, SCOOTER)), "too_many_wishes");
    assert_eq!(bench.device.status(bench.now).spool_depth, limits::WISHES_WAITING);
    bench.device.handle_journal_room(false);
    let (waiting, now) = (bench.device.wishes()[0].wish, bench.now);
    bench.device.handle_wish_withdraw(8, waiting, now);
    assert_eq!(code(bench.released()), "no_room");
    let mut executor = Bench::new(EXECUTOR);
    assert_eq!(code(wish(&mut executor, SCOOTER)), "not_a_piggy_bank");
}

/// Everything has a limit, and the journal reads back what it was given.
#[test]
fn wishes_are_remembered_up_to_a_limit_and_read_back() {
    let mut bench = piggy_bank();
    for _ in 0..limits::WISHES_SHOWN + 5 {
        let outputs = wish(&mut bench, SCOOTER);
        promised(&mut bench, messages(&outputs)[0], 0);
    }
    let wishes: Vec<ListedWish> = bench.device.wishes();
    assert_eq!(wishes.len(), limits::WISHES_SHOWN);
    withdraw(&mut bench, wishes[0].wish);
    for event in &bench.log {
        assert_eq!(Event::decode(&event.encode()).unwrap(), *event);
    }
    let state = bench.device.state();
    assert_eq!(&State::restore(&state.snapshot()).unwrap(), state);
}
