//! One transfer among 100,000 accounts: decided and applied. `cargo bench -p cloud-core-ledger --bench ledger`

#![allow(clippy::disallowed_types, reason = "the list of benchmarks that divan keeps")]
#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use cloud_core_ledger::{
    AccountId, BalanceLimit, Ledger, LedgerCode, Limits, Movement, OpenAccount, Transfer, TransferId,
};
use divan::Bencher;

const ACCOUNTS: u64 = 100_000;
const EUR: LedgerCode = LedgerCode(978);
const NOW_MS: u64 = 1_800_000_000_000;

fn main() {
    divan::main();
}

/// The books, and random numbers (SplitMix64): ids are hashes in the product, so they come in no order.
struct Books {
    ledger: Ledger,
    random: u64,
}

impl Books {
    fn open() -> Self {
        let mut ledger = Ledger::new(Limits::default());
        for number in 1..=ACCOUNTS {
            let id = AccountId(u128::from(number));
            let account = OpenAccount { id, currency: EUR, code: 1, limit: BalanceLimit::Unlimited };
            let events = ledger.decide_open_account(&account, NOW_MS).unwrap();
            events.iter().for_each(|event| ledger.evolve(event));
        }
        Self { ledger, random: 1 }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn id(&mut self) -> TransferId {
        TransferId(u128::from(self.random()) << 64 | u128::from(self.random()))
    }

    fn movement(&mut self) -> Movement {
        let debit = self.random() % ACCOUNTS;
        let credit = (debit + 1 + self.random() % (ACCOUNTS - 1)) % ACCOUNTS;
        Movement::new(AccountId(u128::from(debit) + 1), AccountId(u128::from(credit) + 1), 150, EUR)
    }

    fn book(&mut self, transfer: &Transfer) {
        let decision = self.ledger.decide_transfers(std::slice::from_ref(transfer), NOW_MS);
        decision.result.unwrap();
        decision.events.iter().for_each(|event| self.ledger.evolve(event));
    }
}

#[divan::bench]
fn transfer(bencher: Bencher) {
    let mut books = Books::open();
    bencher.bench_local(|| {
        let transfer = Transfer::post(books.id(), books.movement());
        books.book(&transfer);
    });
}

#[divan::bench]
fn reserved_and_posted(bencher: Bencher) {
    let mut books = Books::open();
    bencher.bench_local(|| {
        let reserved = books.id();
        let reserve = Transfer::reserve(reserved, books.movement(), None);
        books.book(&reserve);
        let post = Transfer::post_pending(books.id(), reserved, None);
        books.book(&post);
    });
}

/// As a restart does with the snapshot of 100,000 transfers.
#[divan::bench(sample_count = 10)]
fn checked_with_100_000_transfers(bencher: Bencher) {
    let mut books = Books::open();
    for _ in 0..100_000 {
        let transfer = Transfer::post(books.id(), books.movement());
        books.book(&transfer);
    }
    bencher.bench_local(|| books.ledger.check().unwrap());
}
