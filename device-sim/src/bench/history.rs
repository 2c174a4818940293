//! Memory follows open work, not history: the real driver with its journal on disk, in virtual time, plays whole chip
//! payments; the index of payments reads behind it. At a third of them and at the end the same work is open and the same
//! window is kept: what is resident then, and how soon a payment of long ago is found.
//!
//! Accounts of our own ledger, every signature made and checked. The journal takes about 4.5 kB for each payment.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use cloud_core_flows::driver::Driver;
use cloud_core_history::{History, Party, Sizes};
use indicatif::ProgressBar;
use schemas::cbor;
use schemas::ids::PaymentId;
use schemas::time::Timestamp;
use schemas_journal::{ChainId, FileDisk, JournalLimits};

use super::Setting;
use super::report::{Report, Unit, percentile, ratio_permille};
use super::shop::{self, Shop};
use crate::processes::own_resident_kb;

const BENCH: &str = "history";
/// Of virtual time.
const START_MS: u64 = 1_795_000_000_000;
/// From one batch to the next, virtual: with some 50 payments that end in each, about 100 a second.
const BATCH_MS: u64 = 512;
/// Closed payments stay in memory for this long, virtual: about 100,000 of them.
const RETENTION_MS: u64 = 1_000_000;
/// So many batches from one payment that is looked up later to the next.
const BATCHES_OF_SAMPLE: u64 = 8;
const ID_LOOKUPS: usize = 1_000;
const PERSON_LOOKUPS: u64 = 200;
/// Rows of one look-up by person.
const ROWS: usize = 20;

pub(super) fn measure(setting: &Setting, payments: u64, report: &mut Report) -> anyhow::Result<()> {
    let directory = setting.directory.join("history");
    let mut run = Run::begin(&directory)?;
    let bar = shop::progress("payments", payments);
    let started = Instant::now();
    let third = run.play(payments / 3, &bar)?;
    let whole = run.play(payments, &bar)?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs().max(1);
    let cloud = run.shop.driver.cloud();
    cloud.check().map_err(|problem| anyhow::anyhow!("the books do not agree: {problem}"))?;
    for (moment, finished) in [(&third, payments / 3), (&whole, payments)] {
        let note = format!("{} open, {} closed in memory", moment.open, moment.in_memory - moment.open);
        report.add(BENCH, format!("resident after {finished}"), moment.resident_kb, Unit::Kilobytes, note);
        let name = format!("state as a snapshot after {finished}");
        report.add(BENCH, name, moment.state_kb, Unit::Kilobytes, "");
    }
    let ratio = ratio_permille(whole.resident_kb, third.resident_kb);
    report.add(BENCH, "resident: all : a third", ratio, Unit::RatioPermille, "goal: at most 1.1");
    let state = ratio_permille(whole.state_kb, third.state_kb);
    report.add(BENCH, "state: all : a third", state, Unit::RatioPermille, "");
    report.add(BENCH, "journal of one payment", run.journal_bytes()? / payments, Unit::Bytes, "");
    report.add(BENCH, "index of one payment", run.history.disk_bytes()? / payments, Unit::Bytes, "in sled");
    let rate = payments / seconds;
    report.add(BENCH, "payments played, with the index", rate, Unit::PerSecond, "one thread, all signatures");
    run.look_up(report)?;
    drop(run);
    std::fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))
}

/// What is there at one moment.
struct Moment {
    open: usize,
    in_memory: usize,
    resident_kb: u64,
    state_kb: u64,
}

struct Run {
    disk: FileDisk,
    shop: Shop<FileDisk>,
    history: History<FileDisk>,
    /// Some payments of all times.
    ids: Vec<PaymentId>,
}

impl Run {
    fn begin(directory: &Path) -> anyhow::Result<Self> {
        let journal = directory.join("journal");
        std::fs::create_dir_all(&journal)?;
        let disk = FileDisk::open(journal)?;
        let (limits, chain) = (JournalLimits::cloud(), ChainId([7; 32]));
        let driver = Driver::open(disk.clone(), limits, chain, || Timestamp(START_MS))?;
        let history = History::open(&directory.join("index"), disk.clone(), Sizes::default())?;
        let shop = Shop::open(driver, disk.clone(), START_MS, RETENTION_MS)?;
        Ok(Self { disk, shop, history, ids: Vec::new() })
    }

    /// Until so many have finished: the shop has the same work open at any time.
    fn play(&mut self, until: u64, bar: &ProgressBar) -> anyhow::Result<Moment> {
        let mut batches = 0;
        loop {
            let cloud = self.shop.driver.cloud();
            let finished = self.shop.begun().saturating_sub(cloud.open_payments() as u64);
            bar.set_position(finished);
            if finished >= until {
                break;
            }
            if batches % BATCHES_OF_SAMPLE == 0 {
                self.ids.extend(cloud.payments().next().map(|payment| payment.id));
            }
            batches += 1;
            self.shop.batch(BATCH_MS)?;
            self.shop.take_snapshot()?;
            self.history.advance(self.shop.driver.journal().synced(), u64::MAX)?;
        }
        // All end in the same batch; two later the next ones are in the middle.
        self.shop.batch(BATCH_MS)?;
        self.shop.batch(BATCH_MS)?;
        let resident_kb = own_resident_kb()?;
        let cloud = self.shop.driver.cloud();
        let (open, in_memory) = (cloud.open_payments(), cloud.payments().count());
        Ok(Moment { open, in_memory, resident_kb, state_kb: cbor::encode(cloud).len() as u64 / 1000 })
    }

    /// Payments and people from all times; the system's cache is as the run left it.
    fn look_up(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut by_id_us = Vec::new();
        for number in 0..ID_LOOKUPS {
            let id = self.ids.get(number * self.ids.len() / ID_LOOKUPS).context("a payment was played")?;
            let started = Instant::now();
            let found = self.history.payment(*id)?;
            by_id_us.push(micros(started));
            ensure!(found.is_some_and(|found| found.payment == *id), "payment {id} is not found");
        }
        let mut by_person_us = Vec::new();
        for number in 0..PERSON_LOOKUPS {
            let party = Party::Person(shop::payer(number * shop::PAYERS / PERSON_LOOKUPS)?);
            let started = Instant::now();
            let found = self.history.payments_of(&party, None, ROWS)?;
            by_person_us.push(micros(started));
            ensure!(!found.is_empty(), "nothing is found of {party:?}");
        }
        for (name, values) in [("by id", by_id_us), ("by person, the last 20", by_person_us)] {
            for hundredths in [50, 99] {
                let value = percentile(values.clone(), hundredths);
                report.add(BENCH, format!("look-up {name}: p{hundredths}"), value, Unit::Microseconds, "");
            }
        }
        Ok(())
    }

    fn journal_bytes(&self) -> anyhow::Result<u64> {
        let files = std::fs::read_dir(self.disk.directory())?;
        files.map(|file| Ok(file?.metadata()?.len())).sum()
    }
}

fn micros(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}
