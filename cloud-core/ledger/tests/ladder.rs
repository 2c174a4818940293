//! Every rung of the ladder of checks, and the order of the rungs.

mod common;

use std::collections::BTreeSet;

use cloud_core_ledger::{
    AccountRejection, Balancing, Limits, Movement, OpenAccount, Reason, Transfer, TransferId, TransferKind,
};
use common::{
    ASSET, BANK, Bench, CLOSED, EUR, JPY, NOBODY, SHOP, WALLET, YEN, post, post_pending, reserve,
    void_pending,
};

/// The bench with one transfer of each sort that the rungs need to meet.
fn prepared() -> Bench {
    let mut bench = Bench::new();
    bench.record(&[post(10, BANK, WALLET, 5)], 10);
    bench.record(&[reserve(11, WALLET, SHOP, 5, Some(1000))], 10);
    bench.record(&[reserve(12, WALLET, SHOP, 10, None)], 10);
    bench.record(&[post_pending(13, 12, Some(4))], 10);
    bench.record(&[reserve(14, WALLET, SHOP, 10, None)], 10);
    bench.record(&[void_pending(15, 14)], 10);
    bench.record(&[reserve(16, WALLET, SHOP, 10, Some(5))], 10);
    assert_eq!(bench.expire(15).len(), 1);
    assert!(bench.submit(&[post(17, SHOP, WALLET, 9999), post(18, BANK, WALLET, 1)], 16).is_err());
    bench
}

const NOW_MS: u64 = 20;

fn rungs() -> Vec<(Reason, u32, Vec<Transfer>)> {
    let movement = Movement::new(BANK, WALLET, 5, EUR);
    let ok = post(900, BANK, WALLET, 1);
    let huge = reserve(901, BANK, SHOP, u64::MAX - 2000, None);
    let yen = Transfer::post(TransferId(20), Movement { currency: JPY, ..movement });
    let to_yen = Transfer::post(TransferId(20), Movement::new(BANK, YEN, 5, EUR));
    let balancing =
        Transfer::post(TransferId(20), Movement::new(BANK, ASSET, 5, EUR).balancing(Balancing::Credit));
    let other_balancing = Transfer::post(TransferId(10), movement.balancing(Balancing::Debit));
    vec![
        (Reason::ChainEmpty, 0, vec![]),
        (Reason::ChainTooLong, 0, (0..257).map(|id| post(1000 + id, BANK, WALLET, 1)).collect()),
        (Reason::IdMustNotBeZero, 1, vec![ok.clone(), post(0, BANK, WALLET, 1)]),
        (Reason::IdRepeatedInChain, 1, vec![ok.clone(), ok.clone()]),
        (Reason::AccountsMustDiffer, 1, vec![ok.clone(), post(20, BANK, BANK, 1)]),
        (Reason::AmountMustNotBeZero, 0, vec![post(20, BANK, WALLET, 0)]),
        (Reason::AmountMustNotBeZero, 0, vec![post_pending(20, 11, Some(0))]),
        (Reason::TimeoutMustNotBeZero, 0, vec![reserve(20, WALLET, SHOP, 1, Some(0))]),
        (Reason::PendingMustDiffer, 0, vec![void_pending(20, 20)]),
        (Reason::ExistsWithDifferentKind, 1, vec![ok.clone(), reserve(10, BANK, WALLET, 5, None)]),
        (Reason::ExistsWithDifferentPending, 0, vec![post_pending(13, 11, Some(4))]),
        (Reason::ExistsWithDifferentPending, 0, vec![void_pending(15, 11)]),
        (Reason::ExistsWithDifferentDebit, 0, vec![post(10, SHOP, WALLET, 5)]),
        (Reason::ExistsWithDifferentCredit, 0, vec![post(10, BANK, SHOP, 5)]),
        (Reason::ExistsWithDifferentAmount, 0, vec![post(10, BANK, WALLET, 6)]),
        (Reason::ExistsWithDifferentAmount, 0, vec![post_pending(13, 12, None)]),
        (
            Reason::ExistsWithDifferentCurrency,
            0,
            vec![Transfer { kind: yen.kind.clone(), ..post(10, BANK, WALLET, 5) }],
        ),
        (Reason::ExistsWithDifferentBalancing, 0, vec![other_balancing]),
        (Reason::ExistsWithDifferentTimeout, 0, vec![reserve(11, WALLET, SHOP, 5, Some(1001))]),
        (Reason::ExistsWithDifferentCode, 0, vec![post(10, BANK, WALLET, 5).with_code(1)]),
        (Reason::ExistsWithDifferentUserData, 0, vec![post(10, BANK, WALLET, 5).with_user_data(1)]),
        (Reason::IdAlreadyFailed, 0, vec![post(17, SHOP, WALLET, 1)]),
        (Reason::LinkedTransferFailed, 0, vec![post(18, BANK, WALLET, 1)]),
        (Reason::ExistsOutsideChain, 1, vec![ok.clone(), post(10, BANK, WALLET, 5)]),
        (Reason::PendingNotFound, 0, vec![void_pending(20, 77)]),
        (Reason::PendingNotReservation, 0, vec![post_pending(20, 10, None)]),
        (Reason::PendingAlreadyPosted, 0, vec![post_pending(20, 12, Some(6))]),
        (Reason::PendingAlreadyPosted, 0, vec![void_pending(20, 12)]),
        (Reason::PendingAlreadyVoided, 0, vec![post_pending(20, 14, None)]),
        (Reason::PendingExpired, 0, vec![post_pending(20, 16, None)]),
        (
            Reason::PendingAlreadyPosted,
            2,
            vec![reserve(21, WALLET, SHOP, 5, None), post_pending(22, 21, None), void_pending(23, 21)],
        ),
        (Reason::ExceedsPendingAmount, 0, vec![post_pending(20, 11, Some(6))]),
        (Reason::DebitAccountNotFound, 1, vec![ok.clone(), post(20, NOBODY, WALLET, 1)]),
        (Reason::CreditAccountNotFound, 0, vec![post(20, WALLET, NOBODY, 1)]),
        (Reason::DebitAccountClosed, 0, vec![post(20, CLOSED, WALLET, 1)]),
        (Reason::CreditAccountClosed, 0, vec![post(20, WALLET, CLOSED, 1)]),
        (Reason::DebitCurrencyMismatch, 0, vec![yen]),
        (Reason::CreditCurrencyMismatch, 0, vec![to_yen]),
        (Reason::NothingAvailable, 0, vec![balancing]),
        (Reason::OverflowsDebits, 1, vec![huge.clone(), post(20, BANK, WALLET, 2000)]),
        (Reason::OverflowsCredits, 1, vec![huge, post(20, ASSET, SHOP, 2000)]),
        (Reason::OverflowsTimeout, 0, vec![reserve(20, WALLET, SHOP, 1, Some(u64::MAX))]),
        (Reason::ExceedsCredits, 0, vec![post(20, WALLET, SHOP, 1000)]),
        (Reason::ExceedsCredits, 1, vec![reserve(20, WALLET, SHOP, 500, None), post(21, WALLET, SHOP, 500)]),
        (Reason::ExceedsDebits, 0, vec![post(20, BANK, ASSET, 1)]),
    ]
}

/// MO-1, MO-2, MO-3: each rung refuses, changes no balance, is remembered if it met state, and refuses again.
#[test]
fn each_rung_refuses_and_keeps_refusing() {
    let bench = prepared();
    for (reason, index, chain) in rungs() {
        let mut bench = bench.clone();
        let before = bench.ledger.clone();
        let events = bench.journal.len();
        assert_eq!(bench.submit(&chain, NOW_MS), Err((index, reason)), "{chain:?}");
        assert!(before.accounts().eq(bench.ledger.accounts()), "{reason:?}");
        assert!(before.transfers().eq(bench.ledger.transfers()), "{reason:?}");
        let is_new = reason.is_remembered() && reason != Reason::LinkedTransferFailed;
        assert_eq!(bench.journal.len() - events, if is_new { chain.len() } else { 0 }, "{reason:?}");

        let before = bench.ledger.clone();
        assert_eq!(bench.submit(&chain, NOW_MS + 1), Err((index, reason)), "retry of {chain:?}");
        assert_eq!(before, bench.ledger, "{reason:?}");
    }
}

#[test]
fn the_table_has_every_reason_except_full() {
    let tested: BTreeSet<Reason> = rungs().into_iter().map(|(reason, ..)| reason).collect();
    let all: BTreeSet<Reason> = Reason::ALL.iter().copied().collect();
    let missing: Vec<_> = all.difference(&tested).collect();
    assert_eq!(missing, [&Reason::LedgerFull], "tested on its own below");
}

/// The order of the enum is the order of the checks: requests that break two rungs get the earlier one.
#[test]
fn the_earlier_rung_answers() {
    let bench = prepared();
    let swapped = |mut transfer: Transfer, change: fn(&mut Movement)| {
        if let TransferKind::Post(movement) | TransferKind::Reserve { movement, .. } = &mut transfer.kind {
            change(movement);
        }
        transfer
    };
    let cases = [
        (Reason::IdMustNotBeZero, post(0, BANK, BANK, 0)),
        (Reason::AccountsMustDiffer, post(20, BANK, BANK, 0)),
        (Reason::AmountMustNotBeZero, reserve(20, BANK, WALLET, 0, Some(0))),
        (Reason::TimeoutMustNotBeZero, reserve(10, BANK, WALLET, 1, Some(0))),
        (Reason::ExistsWithDifferentKind, void_pending(10, 77)),
        (Reason::ExistsWithDifferentDebit, post(10, SHOP, ASSET, 6).with_code(3)),
        (Reason::ExistsWithDifferentCredit, post(10, BANK, ASSET, 6)),
        (Reason::ExistsWithDifferentAmount, swapped(post(10, BANK, WALLET, 6), |m| m.currency = JPY)),
        (Reason::ExistsWithDifferentTimeout, reserve(11, WALLET, SHOP, 5, None).with_code(3)),
        (Reason::ExistsWithDifferentCode, post(10, BANK, WALLET, 5).with_code(3).with_user_data(3)),
        (Reason::IdAlreadyFailed, post(17, NOBODY, WALLET, 1)),
        (Reason::DebitAccountNotFound, post(20, NOBODY, cloud_core_ledger::AccountId(98), 1)),
        (Reason::CreditAccountNotFound, post(20, CLOSED, NOBODY, 1)),
        (Reason::DebitAccountClosed, swapped(post(20, CLOSED, WALLET, 1), |m| m.currency = JPY)),
        (Reason::CreditAccountClosed, post(20, YEN, CLOSED, 1)),
        (Reason::DebitCurrencyMismatch, swapped(post(20, BANK, WALLET, 1), |m| m.currency = JPY)),
        (Reason::OverflowsDebits, reserve(20, BANK, WALLET, u64::MAX, Some(u64::MAX))),
        (Reason::OverflowsCredits, reserve(20, SHOP, WALLET, u64::MAX - 1, Some(u64::MAX))),
        (Reason::OverflowsTimeout, reserve(20, WALLET, SHOP, 5000, Some(u64::MAX))),
        (Reason::ExceedsCredits, post(20, WALLET, ASSET, 5000)),
    ];
    for (reason, transfer) in cases {
        let decision = bench.ledger.decide_transfers(std::slice::from_ref(&transfer), NOW_MS);
        assert_eq!(decision.result.map_err(|rejection| rejection.reason), Err(reason), "{transfer:?}");
    }
}

/// Later flights do not run while an earlier one refuses, wherever in the chain that is.
#[test]
fn each_flight_runs_over_the_whole_chain() {
    let mut bench = prepared();
    let unknown = post(20, NOBODY, WALLET, 1);
    let conflict = post(10, BANK, WALLET, 6);
    let zero = post(0, BANK, WALLET, 1);
    assert_eq!(
        bench.submit(&[unknown.clone(), conflict.clone(), zero], NOW_MS),
        Err((2, Reason::IdMustNotBeZero))
    );
    assert_eq!(
        bench.submit(&[unknown.clone(), conflict], NOW_MS),
        Err((1, Reason::ExistsWithDifferentAmount))
    );
    assert_eq!(bench.submit(&[unknown], NOW_MS), Err((0, Reason::DebitAccountNotFound)));
}

/// New money is refused when there is no room; open reservations still finish.
#[test]
fn a_full_ledger_finishes_open_work_only() {
    let limits = Limits { transfers: 2, ..Limits::default() };
    let mut bench = Bench::with_limits(limits);
    bench.record(&[reserve(2, WALLET, SHOP, 5, None)], 5);
    assert_eq!(bench.submit(&[post(3, BANK, WALLET, 5)], 6), Err((0, Reason::LedgerFull)));
    assert_eq!(
        bench.submit(&[post_pending(4, 2, None), post(3, BANK, WALLET, 5)], 6),
        Err((1, Reason::LedgerFull))
    );
    bench.record(&[post_pending(4, 2, None)], 7);
    let retired = bench.ledger.decide_retire(&[TransferId(1), TransferId(2), TransferId(4)]).expect("closed");
    bench.keep(&retired);
    bench.record(&[post(3, BANK, WALLET, 5)], 8);
}

/// MO-3: an answer that cannot be remembered is not given.
#[test]
fn a_refusal_without_room_to_remember_it_is_not_given() {
    let mut bench = Bench::with_limits(Limits { failures: 1, ..Limits::default() });
    assert_eq!(bench.submit(&[post(20, SHOP, WALLET, 5)], 6), Err((0, Reason::ExceedsCredits)));
    assert_eq!(bench.submit(&[post(21, SHOP, WALLET, 5)], 6), Err((0, Reason::LedgerFull)));
    bench.record(&[post(22, WALLET, SHOP, 5)], 7);
    bench.record(&[post(21, SHOP, WALLET, 5)], 8);
}

#[test]
fn opening_an_account_climbs_its_ladder() {
    let bench = Bench::with_limits(Limits { accounts: 6, ..Limits::default() });
    let wallet = bench.ledger.account(WALLET).expect("is open");
    let same = OpenAccount { id: WALLET, currency: wallet.currency, code: wallet.code, limit: wallet.limit };
    let limit = cloud_core_ledger::BalanceLimit::Unlimited;
    let cases = [
        (
            Err(AccountRejection::IdMustNotBeZero),
            OpenAccount { id: cloud_core_ledger::AccountId(0), ..same.clone() },
        ),
        (
            Err(AccountRejection::CurrencyOutOfRange),
            OpenAccount { currency: cloud_core_ledger::LedgerCode(0), ..same.clone() },
        ),
        (
            Err(AccountRejection::CurrencyOutOfRange),
            OpenAccount { currency: cloud_core_ledger::LedgerCode(1000), ..same.clone() },
        ),
        (
            Err(AccountRejection::ExistsWithDifferentCurrency),
            OpenAccount { currency: JPY, code: 8, ..same.clone() },
        ),
        (Err(AccountRejection::ExistsWithDifferentCode), OpenAccount { code: 8, limit, ..same.clone() }),
        (Err(AccountRejection::ExistsWithDifferentLimit), OpenAccount { limit, ..same.clone() }),
        (Err(AccountRejection::LedgerFull), OpenAccount { id: NOBODY, ..same.clone() }),
        (Ok(vec![]), same),
    ];
    for (expected, request) in cases {
        assert_eq!(bench.ledger.decide_open_account(&request, 9), expected, "{request:?}");
    }
}

#[test]
fn closing_an_account_climbs_its_ladder() {
    let mut bench = Bench::new();
    let close = |bench: &Bench, id| bench.ledger.decide_close_account(id, 9).map(|events| events.len());
    assert_eq!(close(&bench, NOBODY), Err(AccountRejection::NotFound));
    assert_eq!(close(&bench, CLOSED), Ok(0), "closed stays closed");
    assert_eq!(close(&bench, WALLET), Err(AccountRejection::HasBalance));
    bench.record(&[reserve(2, WALLET, SHOP, 5, None)], 5);
    assert_eq!(close(&bench, WALLET), Err(AccountRejection::HasPending));
    assert_eq!(close(&bench, SHOP), Err(AccountRejection::HasPending));
    bench.record(&[void_pending(3, 2)], 6);
    assert_eq!(close(&bench, SHOP), Ok(1));
}
