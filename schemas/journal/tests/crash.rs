//! Power cuts at any moment: what was synced survives, what survives is a prefix, and it goes on (correctness.md 2).
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use schemas_journal::{Disk, Journal, MemoryDisk, Position, SyncPoint, verify};
use support::{LIMITS, Log, open, open_with, record};

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    Sync,
    StartSync,
    FinishSync,
    Spare,
    Snapshot,
    Full,
    Freed,
    Crash(u64),
    /// A sync fails, the process starts anew, and what it finds readable is not on the disk.
    FailedSync,
    CrashDuringRecovery {
        after: u64,
        seed: u64,
    },
    PowerCutInWork {
        after: u64,
        seed: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(8_usize..300, 1..4).prop_map(Step::Append),
        3 => Just(Step::Sync),
        2 => Just(Step::StartSync),
        2 => Just(Step::FinishSync),
        3 => Just(Step::Spare),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Full),
        2 => Just(Step::Freed),
        1 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::FailedSync),
        1 => (0_u64..12, any::<u64>()).prop_map(|(after, seed)| Step::CrashDuringRecovery { after, seed }),
        1 => (0_u64..6, any::<u64>()).prop_map(|(after, seed)| Step::PowerCutInWork { after, seed }),
    ]
}

/// What the outside world believes, beside the journal that must live up to it.
struct World {
    disk: MemoryDisk,
    journal: Journal<MemoryDisk>,
    written: Vec<Vec<u8>>,
    promised: Position,
    pending: Option<SyncPoint>,
    next: u64,
}

impl World {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk).unwrap();
        Self { disk, journal, written: Vec::new(), promised: Position::ZERO, pending: None, next: 0 }
    }

    /// Errors are those of a stopped machine; a crash follows.
    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(lengths) => {
                let batch: Vec<_> =
                    lengths.iter().enumerate().map(|(i, n)| record(self.next + i as u64, *n)).collect();
                self.next += batch.len() as u64;
                if let Ok(position) = self.journal.append(&batch) {
                    self.written.extend(batch);
                    assert_eq!(position.value(), self.written.len() as u64);
                } else if self.journal.poisoned().is_some() {
                    // The frame may be on disk in part or whole, though nobody was told so.
                    self.written.extend(batch);
                }
            }
            Step::Sync => {
                let _ = self.journal.sync();
            }
            Step::StartSync => self.pending = self.journal.sync_point(),
            Step::FinishSync => {
                if let Some(point) = self.pending.take() {
                    let _ = self.journal.handle_synced(point.run(&self.disk));
                }
            }
            Step::Spare => {
                if let Some(job) = self.journal.spare_job() {
                    let _ = self.journal.handle_spare(job.run(&self.disk));
                }
            }
            Step::Snapshot => {
                if let Some(job) = self.journal.snapshot_job() {
                    let _ =
                        self.journal.handle_snapshot(&job.run(&self.disk, &mut Log::default(), Log::encode));
                }
            }
            Step::Full => self.disk.set_capacity_bytes(Some(0)),
            Step::Freed => {
                self.disk.set_capacity_bytes(None);
                self.journal.retry_spare();
            }
            Step::Crash(seed) => {
                self.disk.crash(*seed);
                self.recover();
            }
            Step::FailedSync => {
                self.disk.fail_sync(1);
                let _ = self.journal.sync();
                self.disk.restart();
                self.recover();
            }
            Step::CrashDuringRecovery { after, seed } => {
                self.disk.crash(*seed);
                self.disk.stop_after(*after);
                let _ = open(&self.disk);
                self.disk.crash(seed.wrapping_mul(31));
                self.recover();
            }
            Step::PowerCutInWork { after, seed } => {
                self.disk.stop_after(*after);
                for step in [
                    Step::Append(vec![200, 200]),
                    Step::Sync,
                    Step::Spare,
                    Step::Snapshot,
                    Step::Append(vec![9]),
                ] {
                    self.step(&step);
                }
                self.promised = self.promised.max(self.journal.synced());
                self.disk.crash(*seed);
                self.recover();
            }
        }
        self.promised = self.promised.max(self.journal.synced());
    }

    fn recover(&mut self) {
        let all = open_with(&self.disk.fork(), Log { decline_snapshots: true, ..Log::default() }).unwrap();
        let (journal, log) = open(&self.disk).unwrap();
        assert_eq!(log.records, all.1.records, "a snapshot changes nothing");
        assert_eq!(journal.last_hash(), all.0.last_hash());
        assert!(log.records.len() as u64 >= self.promised.value(), "a promise was lost");
        assert!(self.written.starts_with(&log.records), "what survives is a prefix");
        assert_eq!(verify(&self.disk).unwrap().problem, None);
        assert_eq!(self.disk.unsynced_sectors(), 0, "recovered means durable");
        self.written = log.records;
        self.promised = journal.synced();
        self.journal = journal;
        self.pending = None;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// correctness.md 2: everything synced survives any power cut, also one in the middle of recovery.
    #[test]
    fn synced_survives_and_survivors_are_a_prefix(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.step(&Step::Crash(steps.len() as u64));
        // It still works.
        world.step(&Step::Freed);
        world.step(&Step::Spare);
        world.journal.append(&["alive"]).unwrap();
        world.journal.sync().unwrap();
        world.written.push(b"alive".to_vec());
        world.promised = world.journal.synced();
        world.step(&Step::Crash(0));
        prop_assert_eq!(world.written.last().unwrap(), b"alive");
    }
}

/// The window that pre-zeroed segments open: a later unsynced frame survives, an earlier one does not.
#[test]
fn unsynced_gap_is_cut_with_everything_behind_it() {
    let (mut cuts, mut torn_tails) = (0, 0);
    for seed in 0..300 {
        let disk = MemoryDisk::new();
        let (mut journal, _) = open(&disk).unwrap();
        journal.append(&[record(0, 300)]).unwrap();
        journal.sync().unwrap();
        for number in 1..9 {
            journal.append(&[record(number, 300)]).unwrap();
        }
        disk.crash(seed);
        let torn = verify(&disk).unwrap().torn_tail;
        let (journal, log) = open(&disk).unwrap();
        assert!(torn.is_none() || journal.recovery().cut.is_some());
        torn_tails += u64::from(torn.is_some());
        assert!((1..=9).contains(&log.records.len()));
        cuts += u64::from(journal.recovery().cut.is_some());
        let mut tail = [0xFF];
        if let Some(cut) = &journal.recovery().cut {
            disk.read(&cut.file, cut.offset, &mut tail).unwrap();
            assert_eq!(tail[0], 0);
        }
        assert_eq!(journal.recovery().replayed_records, log.records.len() as u64);
    }
    assert!(torn_tails > 200, "{torn_tails} of 300 were seen by verify");
    assert!(cuts > 200, "{cuts} of 300 crashes tore the tail");
}

/// After a process crash frames may be in the page cache only: recovery makes them durable before it uses them.
#[test]
fn recovered_frames_are_durable_before_they_are_used() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    for number in 0..9 {
        journal.append(&[record(number, 300)]).unwrap();
    }
    drop(journal);
    let (journal, log) = open(&disk).unwrap();
    assert_eq!((log.records.len(), journal.synced()), (9, Position::new(9)));
    disk.crash(7);
    assert_eq!(open(&disk).unwrap().1.records.len(), 9);
}

/// After a failed sync the kernel may hold the pages as clean, and the next sync says Ok for nothing. What recovery
/// reads it writes again (storage.md 1).
#[test]
fn frames_of_a_failed_sync_are_written_again_before_they_are_used() {
    for seed in 0..20 {
        let disk = MemoryDisk::new();
        let (mut journal, _) = open(&disk).unwrap();
        journal.append(&[record(0, 300)]).unwrap();
        journal.sync().unwrap();
        for number in 1..9 {
            journal.append(&[record(number, 300)]).unwrap();
        }
        disk.fail_sync(1);
        assert!(journal.sync().is_err());
        disk.restart();
        let (journal, log) = open(&disk).unwrap();
        assert_eq!(journal.synced().value(), log.records.len() as u64);
        assert_eq!(disk.unsynced_sectors(), 0, "recovered means durable");
        disk.crash(seed);
        assert_eq!(open(&disk).unwrap().1.records, log.records);
    }
}

#[test]
fn spare_whose_header_was_never_synced_is_written_again() {
    for seed in 0..20 {
        let disk = MemoryDisk::new();
        let (mut journal, _) = open(&disk).unwrap();
        while journal.spare_job().is_none() {
            journal.append(&[record(0, 300)]).unwrap();
        }
        journal.sync().unwrap();
        drop(journal);
        disk.fail_sync(1);
        assert!(open(&disk).is_err(), "the spare cannot be made");
        disk.restart();
        let (mut journal, _) = open(&disk).unwrap();
        support::fill(&mut journal, 0..20, 300);
        journal.sync().unwrap();
        disk.crash(seed);
        open(&disk).unwrap();
    }
}

#[test]
fn spare_cut_off_in_the_making_is_made_again() {
    for after in 0..3 {
        for seed in 0..8 {
            let disk = MemoryDisk::new();
            disk.stop_after(after);
            assert!(open(&disk).is_err());
            disk.crash(seed);
            let (mut journal, _) = open(&disk).unwrap();
            support::fill(&mut journal, 0..20, 300);
            assert_eq!(disk.len("journal-00000001.seg").unwrap(), LIMITS.segment_bytes);
        }
    }
}
