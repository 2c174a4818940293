//! How long a start takes: a journal of millions of events, made by the real driver from whole chip payments, replayed
//! in full, and `cloud-core serve` started on it from kills at the worst moments of the default snapshot policy.
//!
//! All payments of the journal are younger than their retention, so every one of them is in memory and in the snapshot:
//! a start has most to do then.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use cloud_core_flows::Cloud;
use cloud_core_flows::admin::Deadlines;
use cloud_core_flows::driver::Driver;
use schemas::time::Timestamp;
use schemas_journal::{ChainId, Disk, FileDisk, Journal, JournalLimits, for_each_record};

use super::Setting;
use super::report::{Report, Unit, median};
use super::shop::{self, Shop};
use crate::processes::Core;

const BENCH: &str = "restart";
const CHAIN: ChainId = ChainId([7; 32]);
/// Of virtual time: with 256 payments under way and five batches each, about 1,000 payments a second.
const BATCH_MS: u64 = 50;
const ONE_DAY_MS: u64 = 24 * 3_600_000;

/// A shop on files.
type FileShop = Shop<FileDisk>;

pub(super) fn measure(setting: &Setting, events: u64, report: &mut Report) -> anyhow::Result<()> {
    let data = setting.directory.join("restart");
    let journal = data.join("journal");
    std::fs::create_dir_all(&journal)?;
    let mut shop = write(&journal, events)?;

    let mut starts = Starts { data: &data, journal: &journal, rounds: setting.rounds, report };
    shop = starts.add(shop, "just before a snapshot is due")?;
    // The next segments close while the snapshot is made, and its file is half written.
    let end = shop.driver.decided().value() + events_of_a_segment(&shop) / 2;
    while shop.driver.decided().value() < end {
        shop.batch(BATCH_MS)?;
    }
    std::fs::write(journal.join("snapshot-00000000000000000001.snap.tmp"), vec![1; 1 << 20])?;
    shop = starts.add(shop, "in the middle of a snapshot")?;
    shop.take_snapshot()?;
    shop = starts.add(shop, "just after a snapshot")?;
    drop(shop);
    replay_all(&data, setting.rounds.min(3), report)
}

/// Plays payments until the journal has so many events and the next snapshot is due, which is not made.
fn write(journal: &Path, events: u64) -> anyhow::Result<FileShop> {
    let disk = FileDisk::open(journal)?;
    // What was played must not be ahead of the clock on the wall, by which the core goes.
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())? - ONE_DAY_MS;
    let driver = Driver::open(disk.clone(), JournalLimits::cloud(), CHAIN, || Timestamp(now_ms))?;
    let progress = shop::progress("events", events);
    let mut shop = Shop::open(driver, disk, now_ms, Deadlines::default().retention_ms)?;
    loop {
        shop.batch(BATCH_MS)?;
        let decided = shop.driver.decided().value();
        progress.set_position(decided);
        if shop.due.is_some() {
            if decided >= events {
                break;
            }
            shop.take_snapshot()?;
        }
    }
    progress.finish_and_clear();
    Ok(shop)
}

/// About how many events one segment holds.
fn events_of_a_segment(shop: &FileShop) -> u64 {
    let since_snapshot = shop.driver.decided().value() - shop.driver.journal().snapshot().value();
    since_snapshot / u64::from(JournalLimits::cloud().snapshot_every_segments)
}

/// Starts of `cloud-core serve`.
struct Starts<'a> {
    data: &'a Path,
    journal: &'a Path,
    rounds: u32,
    report: &'a mut Report,
}

impl Starts<'_> {
    /// Ends the shop as a kill does, starts the core some times, and takes the shop up again.
    fn add(&mut self, shop: FileShop, moment: &str) -> anyhow::Result<FileShop> {
        let to_replay = shop.driver.decided().value() - shop.driver.journal().snapshot().value();
        let (begun, now_ms) = (shop.begun(), shop.driver.cloud().at().0);
        drop(shop);
        let mut ready_ms = Vec::new();
        for _ in 0..self.rounds {
            ready_ms.push(Core::time_to_ready(self.data)?.0);
        }
        let longest = ready_ms.iter().max().copied().unwrap_or(0);
        let note =
            format!("{} events after the snapshot; longest {longest} ms; goal 5000", thousands(to_replay));
        self.report.add(BENCH, format!("ready, killed {moment}"), median(ready_ms), Unit::Milliseconds, note);
        let disk = FileDisk::open(self.journal)?;
        let driver = Driver::open(disk.clone(), JournalLimits::cloud(), CHAIN, || Timestamp(now_ms))?;
        Shop::reopen(begun, driver, disk, now_ms)
    }
}

/// The whole journal without its snapshots: as far as the bytes go, and with the state that they make.
fn replay_all(data: &Path, rounds: u32, report: &mut Report) -> anyhow::Result<()> {
    let disk = FileDisk::open(data.join("journal"))?;
    for name in disk.list()?.iter().filter(|name| name.ends_with(".snap")) {
        disk.remove(name)?;
    }
    let (mut read, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let started = Instant::now();
        let (mut records, mut bytes) = (0, 0);
        for_each_record(&disk, |_, _, record| {
            records += 1;
            bytes += record.len() as u64;
        })?;
        read.push((per_second(records, started.elapsed()), records, bytes / records.max(1)));

        let mut cloud = Cloud::default();
        let started = Instant::now();
        let journal = Journal::open(disk.clone(), JournalLimits::cloud(), CHAIN, &mut cloud)?;
        let elapsed = started.elapsed();
        ensure!(journal.recovery().snapshot.is_none(), "a snapshot was used");
        alone.push(per_second(journal.recovery().replayed_records, elapsed));
        cloud.check().map_err(|why| anyhow::anyhow!("after the replay: {why}"))?;
    }
    drop(disk);
    let records = read.first().map_or(0, |(_, records, _)| *records);
    let (mut started, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        // Killed as soon as it is ready: its own first snapshot is not made.
        let (ready_ms, resident_kb) = Core::time_to_ready(data)?;
        started.push(per_second(records, Duration::from_millis(ready_ms)));
        resident.push(resident_kb);
    }
    let record_bytes = median(read.iter().map(|(.., bytes)| *bytes));
    let read = median(read.into_iter().map(|(per_second, ..)| per_second));
    report.add(BENCH, "an event of the journal", record_bytes, Unit::Bytes, "mean, of whole chip payments");
    report.add(BENCH, "events read and checked", read, Unit::PerSecond, "CRC-32C and hash chain, no state");
    let note = "one thread: read, checked, decoded, applied";
    report.add(BENCH, "events replayed in this process", median(alone), Unit::PerSecond, note);
    let note = format!("{} events, no snapshot, until it is ready; goal 500000", thousands(records));
    report.add(BENCH, "events replayed by cloud-core serve", median(started), Unit::PerSecond, note);
    let note = "all payments are younger than their retention";
    report.add(BENCH, "resident memory of cloud-core serve then", median(resident), Unit::Kilobytes, note);
    Ok(())
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let per_second = u128::from(count) * 1_000_000 / elapsed.as_micros().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
