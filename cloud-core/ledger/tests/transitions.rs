//! What each kind of transfer does to balances, time and memory, by example.

mod common;

use cloud_core_ledger::{
    Answer, Balancing, Event, Ledger, Movement, Reason, RetireRejection, Transfer, TransferId, TransferStatus,
};
use common::{ASSET, BANK, Bench, EUR, SHOP, WALLET, post, post_pending, reserve, void_pending};

/// MO-1
#[test]
fn post_moves_money_at_once() {
    let mut bench = Bench::new();
    bench.record(&[post(2, WALLET, SHOP, 300)], 5);
    assert_eq!(bench.totals(WALLET), (0, 300, 0, 1000));
    assert_eq!(bench.totals(SHOP), (0, 0, 0, 300));
    assert_eq!(bench.ledger.available(WALLET), Some(700));
    assert_eq!(bench.ledger.trial_balance()[&EUR].debits_posted, 1300);
}

/// MO-2
#[test]
fn reserved_to_posted_in_whole() {
    let mut bench = Bench::new();
    bench.record(&[reserve(2, WALLET, SHOP, 300, None)], 5);
    assert_eq!(bench.totals(WALLET), (300, 0, 0, 1000));
    assert_eq!(bench.totals(SHOP), (0, 0, 300, 0));
    assert_eq!(bench.ledger.available(WALLET), Some(700));
    assert_eq!(bench.ledger.available(SHOP), Some(0), "pending money cannot be spent");
    bench.record(&[post_pending(3, 2, None)], 6);
    assert_eq!(bench.totals(WALLET), (0, 300, 0, 1000));
    assert_eq!(bench.totals(SHOP), (0, 0, 0, 300));
    let status = bench.ledger.transfer(TransferId(2)).expect("is known").status;
    assert_eq!(status, TransferStatus::Posted { by: TransferId(3), amount: 300 });
}

/// MO-2
#[test]
fn reserved_to_posted_in_part_releases_the_rest() {
    let mut bench = Bench::new();
    bench.record(&[reserve(2, WALLET, SHOP, 300, None)], 5);
    bench.record(&[post_pending(3, 2, Some(120))], 6);
    assert_eq!(bench.totals(WALLET), (0, 120, 0, 1000));
    assert_eq!(bench.totals(SHOP), (0, 0, 0, 120));
    assert_eq!(bench.submit(&[post_pending(4, 2, Some(1))], 7), Err((0, Reason::PendingAlreadyPosted)));
}

/// MO-2
#[test]
fn reserved_to_voided() {
    let mut bench = Bench::new();
    bench.record(&[reserve(2, WALLET, SHOP, 300, Some(10))], 5);
    bench.record(&[void_pending(3, 2)], 6);
    assert_eq!(bench.totals(WALLET), (0, 0, 0, 1000));
    assert_eq!(bench.ledger.transfer(TransferId(3)).expect("is known").amount, 300);
    assert_eq!(bench.ledger.next_expiry(), None);
}

/// MO-2: expiry is by (time, id), at most as many as asked for, and never early.
#[test]
fn reserved_to_expired_in_order() {
    let mut bench = Bench::new();
    for (id, now_ms, timeout_ms) in [(9, 10, 90), (7, 11, 89), (8, 12, 5), (6, 12, 1000)] {
        bench.record(&[reserve(id, WALLET, SHOP, 10, Some(timeout_ms))], now_ms);
    }
    assert_eq!(bench.ledger.next_expiry(), Some(17));
    assert_eq!(bench.ledger.decide_expiries(16, 9), []);
    let ids = |events: &[Event]| -> Vec<u128> {
        let id = |event: &Event| match event {
            Event::ReservationExpired { id, expired_at_ms: 100 } => id.0,
            other => panic!("{other:?}"),
        };
        events.iter().map(id).collect()
    };
    assert_eq!(ids(&bench.ledger.decide_expiries(100, 2)), [8, 7]);
    assert_eq!(ids(&bench.expire(100)), [8, 7, 9]);
    assert_eq!(bench.totals(WALLET), (10, 0, 0, 1000));
    assert_eq!(bench.ledger.next_expiry(), Some(1012));
}

/// MO-2: time decides, not how soon the expiry was written.
#[test]
fn a_due_reservation_can_no_longer_be_posted() {
    let mut bench = Bench::new();
    bench.record(&[reserve(2, WALLET, SHOP, 10, Some(10))], 5);
    bench.record(&[reserve(3, WALLET, SHOP, 10, Some(10))], 5);
    bench.record(&[post_pending(4, 2, None)], 14);
    assert_eq!(bench.submit(&[post_pending(5, 3, None)], 15), Err((0, Reason::PendingExpired)));
    assert_eq!(bench.submit(&[void_pending(6, 3)], 15), Err((0, Reason::PendingExpired)));
    assert_eq!(bench.totals(WALLET).0, 10, "reserved until the event");
    bench.expire(15);
    assert_eq!(bench.totals(WALLET).0, 0);
    assert_eq!(bench.submit(&[post_pending(5, 3, None)], 16), Err((0, Reason::PendingExpired)));
}

#[test]
fn a_chain_sees_itself_and_happens_whole() {
    let mut bench = Bench::new();
    let chain = [
        post(2, BANK, SHOP, 50),
        reserve(3, SHOP, WALLET, 50, None),
        post_pending(4, 3, Some(20)),
        post(5, SHOP, BANK, 30),
    ];
    bench.record(&chain, 5);
    assert_eq!(bench.totals(SHOP), (0, 50, 0, 50));
    assert_eq!(bench.submit(&chain, 6), Ok(Answer::Exists));
    assert_eq!(bench.submit(&chain[1..3], 6), Ok(Answer::Exists));
}

/// MO-3: the members that were sound are used up too.
#[test]
fn a_broken_chain_uses_up_all_its_ids() {
    let mut bench = Bench::new();
    let chain = [post(2, BANK, SHOP, 50), post(3, SHOP, WALLET, 51), post(4, BANK, SHOP, 1)];
    assert_eq!(bench.submit(&chain, 5), Err((1, Reason::ExceedsCredits)));
    bench.record(&[post(9, BANK, SHOP, 500)], 6);
    assert_eq!(bench.submit(&chain, 7), Err((1, Reason::ExceedsCredits)));
    for index in [0, 2] {
        let alone = &chain[index..=index];
        assert_eq!(bench.submit(alone, 7), Err((0, Reason::LinkedTransferFailed)));
    }
    assert_eq!(bench.submit(&chain[1..2], 7), Err((0, Reason::ExceedsCredits)));
    assert_eq!(bench.ledger.failure(TransferId(3)).expect("is kept").failed_at_ms, 5);
}

#[test]
fn balancing_moves_what_is_available() {
    let mut bench = Bench::new();
    let all = |id, balancing| {
        Transfer::post(TransferId(id), Movement::new(WALLET, SHOP, u64::MAX, EUR).balancing(balancing))
    };
    bench.record(&[reserve(2, WALLET, SHOP, 300, None)], 5);
    bench.record(&[all(3, Balancing::Debit)], 6);
    assert_eq!(bench.ledger.transfer(TransferId(3)).expect("is known").amount, 700);
    assert_eq!(bench.submit(&[all(4, Balancing::Debit)], 7), Err((0, Reason::NothingAvailable)));
    assert_eq!(bench.submit(&[all(3, Balancing::Debit)], 7), Ok(Answer::Exists));

    bench.record(&[post(5, ASSET, BANK, 40)], 8);
    let refill = Movement::new(BANK, ASSET, 100, EUR).balancing(Balancing::Credit);
    bench.record(&[Transfer::reserve(TransferId(6), refill, None)], 9);
    assert_eq!(bench.totals(ASSET), (0, 40, 40, 0));
    assert_eq!(bench.ledger.account(ASSET).expect("is open").available_to_credit(), 0);
}

#[test]
fn retired_is_forgotten_but_balances_stay() {
    let mut bench = Bench::new();
    bench.record(&[reserve(2, WALLET, SHOP, 300, None)], 5);
    assert!(bench.submit(&[post(4, SHOP, WALLET, 300)], 5).is_err());
    let retire = |ledger: &Ledger, ids: &[u128]| {
        ledger.decide_retire(&ids.iter().copied().map(TransferId).collect::<Vec<_>>())
    };
    assert_eq!(retire(&bench.ledger, &[1, 2]), Err(RetireRejection::Pending { id: TransferId(2) }));
    assert_eq!(retire(&bench.ledger, &[77]), Ok(vec![]));
    assert_eq!(
        retire(&bench.ledger, &vec![77; 4097]),
        Err(RetireRejection::TooMany { count: 4097, limit: 4096 })
    );
    bench.record(&[post_pending(3, 2, None)], 6);
    let events = retire(&bench.ledger, &[4, 2, 77, 3, 2, 1]).expect("all are closed");
    assert_eq!(events, [Event::TransfersRetired { ids: [1, 2, 3, 4].map(TransferId).to_vec() }]);
    let balances = bench.ledger.trial_balance();
    bench.keep(&events);
    assert_eq!(bench.ledger.trial_balance(), balances);
    assert_eq!(bench.ledger.transfers().count() + bench.ledger.failures().count(), 0);
    assert_eq!(retire(&bench.ledger, &[1, 2, 3, 4]), Ok(vec![]));
}
