//! Random operations against a naive model: the same answers, the same balances, sound books after every event.

mod common;
mod model;

use cloud_core_ledger::{
    AccountId, Answer, BalanceLimit, Balancing, Event, Ledger, LedgerCode, Limits, Movement, OpenAccount,
    Transfer, TransferId, TransferKind,
};
use common::{EUR, JPY};
use model::Model;
use proptest::prelude::*;

/// Ids, accounts and amounts are few and small, so that operations meet each other.
#[derive(Clone, Debug)]
enum Operation {
    Open { id: u128, yen: bool, limit: BalanceLimit },
    Close { id: u128 },
    Submit { chain: Vec<Transfer> },
    Wait { duration_ms: u64 },
    Expire { limit: usize },
    Retire { ids: Vec<TransferId> },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let limit = prop_oneof![
        Just(BalanceLimit::Unlimited),
        Just(BalanceLimit::DebitsMustNotExceedCredits),
        Just(BalanceLimit::CreditsMustNotExceedDebits),
    ];
    let operation = prop_oneof![
        2 => (1..8u128, proptest::bool::weighted(0.1), limit)
            .prop_map(|(id, yen, limit)| Operation::Open { id, yen, limit }),
        1 => (1..8u128).prop_map(|id| Operation::Close { id }),
        16 => prop_oneof![
            3 => proptest::collection::vec(transfer(), 1..2),
            1 => proptest::collection::vec(transfer(), 2..5),
            1 => likely_chain(),
        ]
        .prop_map(|chain| Operation::Submit { chain }),
        2 => (1..20u64).prop_map(|duration_ms| Operation::Wait { duration_ms }),
        2 => (1..4usize).prop_map(|limit| Operation::Expire { limit }),
        1 => proptest::collection::vec((1..120u128).prop_map(TransferId), 0..8)
            .prop_map(|ids| Operation::Retire { ids }),
    ];
    proptest::collection::vec(operation, 1..120)
}

fn transfer() -> impl Strategy<Value = Transfer> {
    let balancing = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Balancing::Debit)),
        1 => Just(Some(Balancing::Credit)),
    ];
    let amount = prop_oneof![40 => 0..60u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 2)];
    let currency = prop_oneof![12 => Just(EUR), 1 => Just(JPY)];
    let account = || prop_oneof![8 => 1..5u128, 1 => 5..9u128];
    let movement = (account(), account(), amount, currency, balancing).prop_map(
        |(debit, credit, amount, currency, balancing)| Movement {
            debit: AccountId(debit),
            credit: AccountId(credit),
            amount,
            currency,
            balancing,
        },
    );
    // Mostly ids that reservations use, so that most posts and voids find one.
    let pending = || prop_oneof![9 => 1..12u128, 1 => 1..120u128].prop_map(TransferId);
    let post = movement.clone().prop_map(TransferKind::Post);
    let reserve = (movement, proptest::option::of(0..30u64))
        .prop_map(|(movement, timeout_ms)| TransferKind::Reserve { movement, timeout_ms });
    let post_pending = (pending(), prop_oneof![1 => Just(None), 1 => (0..30u64).prop_map(Some)])
        .prop_map(|(pending, amount)| TransferKind::PostPending { pending, amount });
    let void_pending = pending().prop_map(|pending| TransferKind::VoidPending { pending });
    prop_oneof![
        3 => (0..120u128, post, 0..2u16),
        4 => (1..12u128, reserve, 0..2u16),
        4 => (12..120u128, post_pending, 0..2u16),
        2 => (12..120u128, void_pending, 0..2u16),
    ]
    .prop_map(|(id, kind, code)| Transfer { id: TransferId(id), kind, code, user_data: 0 })
}

/// Fund, reserve, post in part: a chain that happens unless its ids are taken or a later random transfer joins it.
fn likely_chain() -> impl Strategy<Value = Vec<Transfer>> {
    let last = proptest::option::weighted(0.3, transfer());
    (1..12u128, 12..110u128, 1..60u64, 1..60u64, last).prop_map(|(reservation, id, amount, part, last)| {
        let fund = Movement::new(AccountId(1), AccountId(2), amount, EUR);
        let spend = Movement { debit: AccountId(2), credit: AccountId(4), ..fund };
        let mut chain = vec![
            Transfer::post(TransferId(id), fund),
            Transfer::reserve(TransferId(reservation), spend, Some(part)),
            Transfer::post_pending(TransferId(id + 1), TransferId(reservation), Some(part)),
        ];
        chain.extend(last);
        chain
    })
}

/// The ledger under test with everything the properties compare it with.
struct Run {
    ledger: Ledger,
    journal: Vec<Event>,
    model: Model,
    now_ms: u64,
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            ledger: Ledger::new(Limits::default()),
            journal: Vec::new(),
            model: Model::default(),
            now_ms: 1,
        };
        for (id, limit) in [
            (1, BalanceLimit::Unlimited),
            (2, BalanceLimit::DebitsMustNotExceedCredits),
            (3, BalanceLimit::CreditsMustNotExceedDebits),
            (4, BalanceLimit::Unlimited),
        ] {
            run.step(&Operation::Open { id, yen: false, limit });
        }
        run
    }

    fn keep(&mut self, events: &[Event]) {
        for event in events {
            self.ledger.evolve(event);
            self.journal.push(event.clone());
            assert_eq!(self.ledger.check(), Ok(()), "after {event:?}");
            for account in self.ledger.accounts() {
                assert!(model::is_within_limit(account), "{account:?}");
            }
        }
    }

    fn step(&mut self, operation: &Operation) {
        match operation {
            Operation::Open { id, yen, limit } => {
                let currency: LedgerCode = if *yen { JPY } else { EUR };
                let request = OpenAccount { id: AccountId(*id), currency, code: 0, limit: *limit };
                let decided = self.ledger.decide_open_account(&request, self.now_ms);
                assert_eq!(decided.is_ok(), self.model.open(&request));
                self.keep(&decided.unwrap_or_default());
            }
            Operation::Close { id } => {
                let decided = self.ledger.decide_close_account(AccountId(*id), self.now_ms);
                assert_eq!(decided.is_ok(), self.model.close(AccountId(*id)));
                self.keep(&decided.unwrap_or_default());
            }
            Operation::Submit { chain } => self.submit(chain),
            Operation::Wait { duration_ms } => self.now_ms += duration_ms,
            Operation::Expire { limit } => {
                let events = self.ledger.decide_expiries(self.now_ms, *limit);
                let expected = self.model.expire(self.now_ms, *limit);
                let expired = expected
                    .into_iter()
                    .map(|id| Event::ReservationExpired { id, expired_at_ms: self.now_ms });
                assert_eq!(events, expired.collect::<Vec<_>>());
                self.keep(&events);
            }
            Operation::Retire { ids } => {
                let decided = self.ledger.decide_retire(ids);
                assert_eq!(decided.is_ok(), self.model.retire(ids));
                self.keep(&decided.unwrap_or_default());
            }
        }
        self.compare();
    }

    fn submit(&mut self, chain: &[Transfer]) {
        let decision = self.ledger.decide_transfers(chain, self.now_ms);
        let answer = decision.result.map_err(|rejection| rejection.index);
        assert_eq!(answer, self.model.submit(chain, self.now_ms), "{chain:?}: {:?}", decision.result);
        self.keep(&decision.events);

        // A retry gets the same answer and changes nothing, whether it comes at once or later.
        for later_ms in [0, 1_000] {
            let retry = self.ledger.decide_transfers(chain, self.now_ms + later_ms);
            assert_eq!(retry.events, []);
            match decision.result {
                Ok(_) => assert_eq!(retry.result, Ok(Answer::Exists)),
                Err(_) => assert_eq!(retry.result, decision.result),
            }
        }
    }

    fn compare(&self) {
        for account in self.ledger.accounts() {
            let totals = [
                account.debits_pending,
                account.debits_posted,
                account.credits_pending,
                account.credits_posted,
            ];
            assert_eq!(totals.map(u128::from), self.model.totals(account.id), "{account:?}");
        }
        assert_eq!(self.ledger.next_expiry(), self.model.next_expiry());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// MO-1, MO-2, MO-3: balanced after every event, limits kept, the naive model agrees, retries change nothing,
    /// and replay (also from a stored state) gives the live state.
    #[test]
    fn random_operations_agree_with_the_naive_model(operations in operations()) {
        let mut run = Run::new();
        let mut stored = None;
        for (index, operation) in operations.iter().enumerate() {
            if index == operations.len() / 2 {
                stored = Some((serde_cbor::to_vec(&run.ledger).expect("encodes"), run.journal.len()));
            }
            run.step(operation);
        }
        let mut replayed = Ledger::new(Limits::default());
        run.journal.iter().for_each(|event| replayed.evolve(event));
        prop_assert_eq!(&replayed, &run.ledger);

        let (bytes, position) = stored.expect("there is a middle");
        let mut resumed: Ledger = serde_cbor::from_slice(&bytes).expect("decodes");
        run.journal[position..].iter().for_each(|event| resumed.evolve(event));
        prop_assert_eq!(&resumed, &run.ledger);
    }

    /// Replay must not stop, whatever it is given: `evolve` takes events in any order without panic.
    #[test]
    fn evolve_is_total(operations in operations(), seed in any::<u64>()) {
        let mut run = Run::new();
        operations.iter().for_each(|operation| run.step(operation));
        let mut scrambled = Ledger::default();
        let mut position = seed;
        for _ in 0..2 * run.journal.len() {
            position = position.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = usize::try_from(position >> 33).expect("fits") % run.journal.len();
            scrambled.evolve(&run.journal[index]);
        }
        let _ = scrambled.check();
        let _ = scrambled.trial_balance();
    }
}

/// The generator is worth something only if the operations do meet: every kind of outcome occurs.
#[test]
fn the_generator_reaches_successes_and_refusals() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut posted, mut voided, mut expired, mut chains, mut failed) = (0, 0, 0, 0, 0);
    for _ in 0..200 {
        let operations = operations().new_tree(&mut runner).expect("generates").current();
        let mut run = Run::new();
        for operation in &operations {
            let before = run.journal.len();
            run.step(operation);
            let events = &run.journal[before..];
            let recorded = |event: &&Event| matches!(event, Event::TransferRecorded { .. });
            chains += usize::from(events.iter().filter(recorded).count() > 1);
        }
        for event in &run.journal {
            match event {
                Event::TransferRecorded { transfer, .. } => match transfer.kind {
                    TransferKind::PostPending { .. } => posted += 1,
                    TransferKind::VoidPending { .. } => voided += 1,
                    _ => {}
                },
                Event::ReservationExpired { .. } => expired += 1,
                Event::TransferFailed { .. } => failed += 1,
                _ => {}
            }
        }
    }
    for (what, count) in
        [("posted", posted), ("voided", voided), ("expired", expired), ("chains", chains), ("failed", failed)]
    {
        assert!(count >= 20, "{what}: {count}");
    }
}
