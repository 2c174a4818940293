//! Frames of 32 records of 180 bytes, as the core writes them: appended and synced in memory (what the journal itself
//! costs, without a disk), and read back. `cargo bench -p schemas-journal --bench journal`

#![allow(clippy::disallowed_types, reason = "the list of benchmarks that divan keeps")]
#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use schemas_journal::{ChainId, Disk, DiskError, Journal, JournalLimits, MemoryDisk, Records};

const CHAIN: ChainId = ChainId([7; 32]);
const RECORDS: usize = 32;
const RECORD_BYTES: usize = 180;
const FRAMES: usize = 1_000;

fn main() {
    divan::main();
}

/// Takes every write and keeps none.
#[derive(Clone)]
struct Nowhere(MemoryDisk);

impl Disk for Nowhere {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.0.list()
    }
    fn create(&self, name: &str, len: u64) -> Result<(), DiskError> {
        self.0.create(name, len)
    }
    fn len(&self, name: &str) -> Result<u64, DiskError> {
        self.0.len(name)
    }
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.0.read(name, offset, buffer)
    }
    fn write(&self, _: &str, _: u64, _: &[u8]) -> Result<(), DiskError> {
        Ok(())
    }
    fn sync(&self, _: &str) -> Result<(), DiskError> {
        Ok(())
    }
    fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.publish(name, bytes)
    }
    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.0.remove(name)
    }
}

fn open<D: Disk>(disk: D) -> Journal<D> {
    Journal::open(disk, JournalLimits::cloud(), CHAIN, &mut Records(|_, _: &[u8]| {})).unwrap()
}

fn batch() -> Vec<Vec<u8>> {
    (0..RECORDS).map(|number| vec![number as u8 | 0x80; RECORD_BYTES]).collect()
}

/// Appends a frame and makes it durable; makes the next segment where one is wanted.
fn seal<D: Disk>(journal: &mut Journal<D>, batch: &[Vec<u8>]) {
    journal.append(batch).unwrap();
    journal.sync().unwrap();
    if let Some(spare) = journal.spare_job() {
        let result = spare.run(journal.disk());
        journal.handle_spare(result).unwrap();
    }
}

#[divan::bench]
fn frame_appended(bencher: Bencher) {
    let batch = batch();
    let mut journal = open(Nowhere(MemoryDisk::new()));
    bencher
        .counter(ItemsCount::new(RECORDS))
        .counter(BytesCount::new(RECORDS * RECORD_BYTES))
        .bench_local(|| seal(&mut journal, &batch));
}

/// Read, CRC-32C and hash chain checked, split into records.
#[divan::bench(sample_count = 20)]
fn frames_replayed(bencher: Bencher) {
    let (disk, batch) = (MemoryDisk::new(), batch());
    let mut journal = open(disk.clone());
    (0..FRAMES).for_each(|_| seal(&mut journal, &batch));
    drop(journal);
    bencher
        .counter(ItemsCount::new(FRAMES * RECORDS))
        .counter(BytesCount::new(FRAMES * RECORDS * RECORD_BYTES))
        .bench_local(|| open(disk.clone()).recovery().replayed_records);
}
