//! What the tests share: tiny limits, a state that remembers every record, and how to open.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

use schemas_journal::{ChainId, Disk, Fold, Journal, JournalLimits, OpenError, Position};

pub(crate) const CHAIN: ChainId = ChainId([0xC5; 32]);

/// Small enough that a few batches fill a segment.
pub(crate) const LIMITS: JournalLimits = JournalLimits {
    record_max_bytes: 400,
    frame_max_bytes: 1000,
    segment_bytes: 2048 + 64,
    snapshot_every_segments: 1,
};

/// A state that is simply all records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) records: Vec<Vec<u8>>,
    pub(crate) restored_from: Option<Position>,
    pub(crate) decline_snapshots: bool,
}

impl Log {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in &self.records {
            bytes.extend_from_slice(&u32::try_from(record.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(record);
        }
        bytes
    }
}

impl Fold for Log {
    type Error = String;

    fn restore(&mut self, position: Position, snapshot: &[u8]) -> Result<(), String> {
        if self.decline_snapshots {
            return Err("declined".to_owned());
        }
        let mut rest = snapshot;
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (record, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            self.records.push(record.to_vec());
            rest = after;
        }
        assert_eq!(self.records.len() as u64, position.value());
        self.restored_from = Some(position);
        Ok(())
    }

    fn apply(&mut self, position: Position, record: &[u8]) -> Result<(), String> {
        self.records.push(record.to_vec());
        assert_eq!(self.records.len() as u64, position.value());
        Ok(())
    }
}

pub(crate) fn open<D: Disk>(disk: &D) -> Result<(Journal<D>, Log), OpenError> {
    open_with(disk, Log::default())
}

pub(crate) fn open_with<D: Disk>(disk: &D, mut log: Log) -> Result<(Journal<D>, Log), OpenError> {
    let journal = Journal::open(disk.clone(), LIMITS, CHAIN, &mut log)?;
    Ok((journal, log))
}

/// A record that is recognisable: its number, then filling that is never zero.
pub(crate) fn record(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(length.max(8), 0xA0 | (number % 16) as u8);
    bytes
}

/// Does the wanted background work at once, as a driver would.
pub(crate) fn run_jobs<D: Disk>(journal: &mut Journal<D>) {
    let disk = journal.disk().clone();
    if let Some(job) = journal.spare_job() {
        journal.handle_spare(job.run(&disk)).unwrap();
    }
    if let Some(job) = journal.snapshot_job() {
        let result = job.run(&disk, &mut Log::default(), Log::encode);
        journal.handle_snapshot(&result).unwrap();
        result.unwrap();
    }
}

/// One record per batch, each synced, with background work done.
pub(crate) fn fill<D: Disk>(journal: &mut Journal<D>, numbers: std::ops::Range<u64>, length: usize) {
    for number in numbers {
        journal.append(&[record(number, length)]).unwrap();
        journal.sync().unwrap();
        run_jobs(journal);
    }
}

/// Numbers that follow from a seed (splitmix64), so that what failed can be played again.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// An index of a collection with `length` elements.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}

/// The seed from the environment, to repeat a run, or the given one.
pub(crate) fn seed_or(default: u64) -> u64 {
    match std::env::var("FARTHING_SEED") {
        Ok(text) => text.parse().expect("FARTHING_SEED is a decimal number"),
        Err(_) => default,
    }
}
