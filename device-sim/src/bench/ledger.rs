//! Transfers per second: the real ledger and journal, as the core records them, beside two loops that write as many
//! bytes and sync them, with nothing decided: the plain one (append to a growing file, fdatasync, answer), and one with
//! the journal's own tricks (pre-zeroed file, the sync on another thread while the next batch gathers).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use cloud_core_flows::Cloud;
use cloud_core_flows::event::{Event, Record};
use cloud_core_ledger::{
    AccountId, BalanceLimit, Ledger, LedgerCode, Limits, Movement, OpenAccount, Transfer, TransferId,
};
use schemas::time::Timestamp;
use schemas_journal::{ChainId, FileDisk, Journal, JournalLimits, Synced};

use super::Setting;
use super::pipeline::{Engine, Round, SyncJob, run};
use super::report::{Report, Unit, median, ratio_permille};

const BENCH: &str = "ledger";
const ACCOUNTS: u64 = 100_000;
const CLIENTS: usize = 64;
/// Per round.
const TRANSFERS: usize = 200_000;
/// As a day in the life of a core has; what counts is that it has as many digits.
const NOW_MS: u64 = 1_795_000_000_000;
/// As the core's runtime has it (`FIRST_BATCH_MESSAGES`).
const FIRST_BATCH: usize = 32;
const EUR: LedgerCode = LedgerCode(978);

pub(super) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let record_bytes = {
        let mut clients = Clients::new();
        let mut books = Books::open();
        let lengths: Vec<_> =
            (0..2 * CLIENTS).map(|n| books.book(&clients.next(n % CLIENTS)).len()).collect();
        lengths.iter().sum::<usize>() / lengths.len()
    };
    let (mut plain, mut bare, mut real) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..setting.rounds {
        for (kind, rounds) in [(Kind::Plain, &mut plain), (Kind::Pipelined, &mut bare)] {
            let path = setting.directory.join(format!("bare-{round}"));
            rounds.push(run(&mut BareLoop::open(&path, record_bytes, kind)?, CLIENTS, TRANSFERS)?);
            std::fs::remove_file(&path)?;
        }
        let path = setting.directory.join(format!("ledger-{round}"));
        let mut engine = RealLedger::open(&path)?;
        real.push(run(&mut engine, CLIENTS, TRANSFERS)?);
        engine
            .books
            .ledger
            .check()
            .map_err(|violation| anyhow::anyhow!("the books do not agree: {violation}"))?;
        drop(engine);
        std::fs::remove_dir_all(&path)?;
    }
    let bytes = u64::try_from(record_bytes).unwrap_or(u64::MAX);
    report.add(BENCH, "journal record of one transfer", bytes, Unit::Bytes, "reserve and post in turn, mean");
    let plain_rate = add(report, "plain loop: append that many bytes, fdatasync", &plain);
    let bare_rate = add(report, "the same pre-zeroed and pipelined", &bare);
    let real_rate = add(report, "ledger and journal, 100k accounts", &real);
    for (name, rate, note) in [
        ("ledger : plain loop", plain_rate, "64 clients in a closed loop; goal 0.6"),
        ("ledger : pre-zeroed and pipelined loop", bare_rate, "what deciding costs"),
    ] {
        report.add(BENCH, name, ratio_permille(real_rate, rate), Unit::RatioPermille, note);
    }
    Ok(())
}

fn add(report: &mut Report, name: &str, rounds: &[Round]) -> u64 {
    let rate = median(rounds.iter().map(|round| round.per_second));
    let p99 = median(rounds.iter().map(|round| round.p99_us));
    report.add(BENCH, name, rate, Unit::PerSecond, "");
    report.add(
        BENCH,
        format!("{name}: p50"),
        median(rounds.iter().map(|r| r.p50_us)),
        Unit::Microseconds,
        "",
    );
    report.add(BENCH, format!("{name}: p99"), p99, Unit::Microseconds, "");
    rate
}

/// Each client reserves, then posts what it has reserved.
struct Clients {
    reserved: Vec<Option<TransferId>>,
    random: u64,
}

impl Clients {
    fn new() -> Self {
        Self { reserved: vec![None; CLIENTS], random: 1 }
    }

    fn next(&mut self, client: usize) -> Transfer {
        // Ids are hashes in the product, so they come in no order.
        let id = TransferId(u128::from(self.random()) << 64 | u128::from(self.random()));
        if let Some(reserved) = self.reserved[client].take() {
            return Transfer::post_pending(id, reserved, None);
        }
        let debit = self.random() % ACCOUNTS;
        let credit = (debit + 1 + self.random() % (ACCOUNTS - 1)) % ACCOUNTS;
        let amount = 1 + self.random() % 10_000;
        self.reserved[client] = Some(id);
        let (debit, credit) = (AccountId(u128::from(debit) + 1), AccountId(u128::from(credit) + 1));
        let movement = Movement::new(debit, credit, amount, EUR);
        Transfer::reserve(id, movement, None).with_user_data(u128::from(self.random()))
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The books, and the journal's record of each change.
struct Books {
    ledger: Ledger,
}

impl Books {
    fn open() -> Self {
        let mut ledger = Ledger::new(Limits::default());
        for id in 1..=ACCOUNTS {
            let id = AccountId(u128::from(id));
            let request = OpenAccount { id, currency: EUR, code: 0, limit: BalanceLimit::Unlimited };
            let opened = ledger.decide_open_account(&request, NOW_MS);
            opened.into_iter().flatten().for_each(|event| ledger.evolve(&event));
        }
        Self { ledger }
    }

    /// decide, evolve, encode: as the driver does.
    fn book(&mut self, transfer: &Transfer) -> Vec<u8> {
        let decided = self.ledger.decide_transfers(std::slice::from_ref(transfer), NOW_MS);
        let mut bytes = Vec::new();
        for event in decided.events {
            self.ledger.evolve(&event);
            bytes = Record { at: Timestamp(NOW_MS), event: Event::Ledger(event), by: None }.encode();
        }
        bytes
    }
}

struct RealLedger {
    clients: Clients,
    books: Books,
    journal: Journal<FileDisk>,
    disk: FileDisk,
    pending: Vec<Vec<u8>>,
    decided: u64,
}

impl RealLedger {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let disk = FileDisk::open(path)?;
        let chain = ChainId([7; 32]);
        let mut journal = Journal::open(disk.clone(), JournalLimits::cloud(), chain, &mut Cloud::default())?;
        // The next segment is made ahead on another thread in the product; a round fits into one.
        if let Some(job) = journal.spare_job() {
            journal.handle_spare(job.run(&disk))?;
        }
        let decided = journal.position().value();
        Ok(Self {
            clients: Clients::new(),
            books: Books::open(),
            journal,
            disk,
            pending: Vec::new(),
            decided,
        })
    }
}

impl Engine for RealLedger {
    type Synced = Synced;

    fn first_batch(&self) -> usize {
        FIRST_BATCH
    }

    fn decide(&mut self, client: usize) -> u64 {
        let record = self.books.book(&self.clients.next(client));
        self.pending.push(record);
        self.decided += 1;
        self.decided
    }

    fn append(&mut self) -> anyhow::Result<()> {
        if !self.pending.is_empty() {
            self.journal.append(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn sync_job(&mut self) -> Option<SyncJob<Synced>> {
        let (point, disk) = (self.journal.sync_point()?, self.disk.clone());
        Some(Box::new(move || Ok(point.run(&disk)?)))
    }

    fn handle_synced(&mut self, synced: Synced) -> anyhow::Result<u64> {
        Ok(self.journal.handle_synced(Ok(synced))?.value())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Append to a file that grows, sync, answer; then the next batch.
    Plain,
    /// A pre-zeroed file, synced on another thread while the next batch gathers: as the journal does.
    Pipelined,
}

/// The yardstick: the same batches, the same bytes, the same syncs, and nothing else.
struct BareLoop {
    kind: Kind,
    file: Arc<File>,
    record: Vec<u8>,
    batch: Vec<u8>,
    end: u64,
    decided: u64,
    synced: u64,
}

impl BareLoop {
    fn open(path: &Path, record_bytes: usize, kind: Kind) -> anyhow::Result<Self> {
        let mut file =
            OpenOptions::new().create_new(true).write(true).open(path).context("the bare loop's file")?;
        if kind == Kind::Pipelined {
            for _ in 0..TRANSFERS / 1000 {
                file.write_all(&vec![0; record_bytes * 1000])?;
            }
        }
        file.sync_all()?;
        let record = vec![7; record_bytes];
        Ok(Self { kind, file: Arc::new(file), record, batch: Vec::new(), end: 0, decided: 0, synced: 0 })
    }
}

impl Engine for BareLoop {
    type Synced = u64;

    fn decide(&mut self, _: usize) -> u64 {
        self.batch.extend_from_slice(&self.record);
        self.decided += 1;
        self.decided
    }

    fn append(&mut self) -> anyhow::Result<()> {
        self.file.write_all_at(&self.batch, self.end)?;
        if self.kind == Kind::Plain && !self.batch.is_empty() {
            self.file.sync_data()?;
        }
        self.end += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }

    fn sync_job(&mut self) -> Option<SyncJob<u64>> {
        let (file, decided, kind) = (Arc::clone(&self.file), self.decided, self.kind);
        (self.synced < decided).then(|| {
            Box::new(move || {
                if kind == Kind::Pipelined {
                    file.sync_data()?;
                }
                Ok(decided)
            }) as SyncJob<u64>
        })
    }

    fn handle_synced(&mut self, synced: u64) -> anyhow::Result<u64> {
        self.synced = synced;
        Ok(synced)
    }
}
