//! Reading beside a writer, copies up to a position, and heads that were noted.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use schemas_journal::{
    Disk, DiskError, FrameHash, Head, MemoryDisk, Position, copy, for_each_record, for_each_record_through,
    verify, verify_against,
};
use support::{Log, fill, open, record};

fn numbers(log: &Log) -> Vec<u64> {
    log.records.iter().map(|record| u64::from_le_bytes(record[..8].try_into().unwrap())).collect()
}

/// Three records a batch, over several segments with snapshots; the head after each batch.
fn written() -> (MemoryDisk, Vec<Head>) {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    let mut heads = Vec::new();
    for batch in 0..12_u64 {
        let records: Vec<_> = (0..3).map(|number| record(3 * batch + number, 200)).collect();
        journal.append(&records).unwrap();
        journal.sync().unwrap();
        support::run_jobs(&mut journal);
        heads.push(Head { position: journal.position(), hash: journal.last_hash() });
    }
    (disk, heads)
}

#[test]
fn a_copy_through_any_position_opens_with_the_whole_batches_before_it() {
    let (disk, heads) = written();
    assert!(disk.list().unwrap().iter().any(|name| name.ends_with(".snap")));
    for through in 1..=36 {
        let to = MemoryDisk::new();
        let copied = copy(&disk, &to, Position::new(through)).unwrap();
        let whole = through / 3 * 3;
        let Some(copied) = copied else {
            assert_eq!(whole, 0);
            continue;
        };
        assert_eq!(copied.head, heads[usize::try_from(whole / 3 - 1).unwrap()]);
        assert_eq!(verify_against(&to, Position::END, &[copied.head]).unwrap().problem, None, "{through}");
        let (mut journal, log) = open(&to).unwrap();
        assert_eq!(numbers(&log), (0..whole).collect::<Vec<_>>(), "{through}");
        journal.append(&[record(whole, 20)]).unwrap();
        journal.sync().unwrap();
        assert_eq!(verify_against(&to, Position::END, &[copied.head]).unwrap().problem, None);
    }
    assert_eq!(copy(&MemoryDisk::new(), &MemoryDisk::new(), Position::END).unwrap(), None);
}

#[test]
fn a_copy_of_a_journal_whose_first_segments_are_archived_goes_on_from_its_snapshot() {
    let (disk, heads) = written();
    disk.remove("journal-00000001.seg").unwrap();
    disk.remove("journal-00000002.seg").unwrap();
    let to = MemoryDisk::new();
    let copied = copy(&disk, &to, Position::END).unwrap().unwrap();
    assert!(copied.starts_after > Position::ZERO);
    assert_eq!(numbers(&open(&to).unwrap().1), (0..36).collect::<Vec<_>>());
    let early = verify_against(&to, Position::END, &heads[..1]).unwrap().problem.unwrap();
    assert!(early.reason.contains("add the archive"), "{early:?}");
}

/// The owner makes a newer snapshot and removes the oldest, just when that one is about to be read.
#[derive(Clone)]
struct Tidied {
    disk: MemoryDisk,
    removed: Arc<AtomicBool>,
}

impl Disk for Tidied {
    fn len(&self, name: &str) -> Result<u64, DiskError> {
        if name.ends_with(".snap") && !self.removed.swap(true, Ordering::SeqCst) {
            self.disk.remove(name)?;
        }
        self.disk.len(name)
    }
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }
    fn create(&self, name: &str, len: u64) -> Result<(), DiskError> {
        self.disk.create(name, len)
    }
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.disk.read(name, offset, buffer)
    }
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk.write(name, offset, bytes)
    }
    fn sync(&self, name: &str) -> Result<(), DiskError> {
        self.disk.sync(name)
    }
    fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk.publish(name, bytes)
    }
    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.disk.remove(name)
    }
}

#[test]
fn a_snapshot_that_its_owner_removes_meanwhile_is_no_failure_of_a_copy_or_of_a_verification() {
    let (disk, heads) = written();
    let snapshots =
        |disk: &MemoryDisk| disk.list().unwrap().into_iter().filter(|name| name.ends_with(".snap")).count();
    assert!(snapshots(&disk) > 1);
    // Then the copy can't be opened without a snapshot.
    disk.remove("journal-00000001.seg").unwrap();
    let tidied = |disk: &MemoryDisk| Tidied { disk: disk.fork(), removed: Arc::default() };
    let (from, to) = (tidied(&disk), MemoryDisk::new());
    let copied = copy(&from, &to, Position::END).unwrap().unwrap();
    assert!(from.removed.load(Ordering::SeqCst), "it happened");
    assert_eq!(snapshots(&to), snapshots(&disk) - 1);
    assert_eq!(Some(&copied.head), heads.last());
    assert_eq!(numbers(&open(&to).unwrap().1), (0..36).collect::<Vec<_>>());

    let report = verify(&tidied(&disk)).unwrap();
    assert_eq!(report.snapshots.len(), snapshots(&disk) - 1);
    assert!(report.snapshots.iter().all(|snapshot| snapshot.problem.is_none()));

    // None is left, and the beginning is archived: no copy is better than one that can't be opened.
    let (from, to) = (disk.fork(), MemoryDisk::new());
    for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".snap")) {
        from.remove(name).unwrap();
    }
    let refused = copy(&from, &to, Position::END).unwrap_err().to_string();
    assert!(refused.contains("copy again"), "{refused}");
}

#[test]
fn what_is_written_behind_the_position_is_neither_read_nor_judged() {
    let (disk, heads) = written();
    let name = "journal-00000003.seg";
    let through = {
        let mut seen = None;
        for_each_record(&disk, |position, frame, _| {
            if frame.segment == 3 && seen.is_none() {
                seen = Some((position.value() - 1, frame.offset));
            }
        })
        .unwrap();
        seen.unwrap()
    };
    // Half a write of the process that owns the journal.
    disk.write(name, through.1 + 80, &[0xFF; 8]).unwrap();
    assert!(verify(&disk).unwrap().problem.is_some());
    let position = Position::new(through.0);
    let report = verify_against(&disk, position, &heads[..1]).unwrap();
    assert_eq!((report.problem, report.records), (None, position));
    let mut count = 0;
    for_each_record_through(&disk, position, |_, _, _| count += 1).unwrap();
    assert_eq!(count, through.0);
}

/// MO-8: a chain that is sound in itself and shorter, or another, is found by a head that somebody noted.
#[test]
fn a_tail_that_was_cut_or_written_anew_is_found_by_a_noted_head() {
    let (disk, heads) = written();
    let all = verify_against(&disk, Position::END, &heads).unwrap();
    assert_eq!(all.problem, None);
    let genesis = Head { position: Position::ZERO, hash: FrameHash(all.chain_id.unwrap().0) };
    assert_eq!(verify_against(&disk, Position::END, &[genesis]).unwrap().problem, None);

    let cut = MemoryDisk::new();
    copy(&disk, &cut, Position::new(30)).unwrap();
    assert_eq!(verify(&cut).unwrap().problem, None, "in itself it is sound");
    let problem = verify_against(&cut, Position::END, &heads).unwrap().problem.unwrap();
    assert!(problem.reason.contains("ends at record 30, but record 33 was noted"), "{problem:?}");
    assert_eq!(problem.after, Position::new(30));
    let promised = verify_against(&cut, Position::new(36), &[]).unwrap().problem.unwrap();
    assert!(promised.reason.contains("36 records were on disk"), "{promised:?}");

    let (mut journal, _) = open(&cut).unwrap();
    fill(&mut journal, 0..2, 200);
    let problem = verify_against(&cut, Position::END, &heads).unwrap().problem.unwrap();
    assert!(
        problem.reason.contains("ends at record 32") && problem.after == Position::new(30),
        "{problem:?}"
    );
    fill(&mut journal, 0..10, 200);
    let problem = verify_against(&cut, Position::END, &heads).unwrap().problem.unwrap();
    assert!(problem.reason.contains("was noted") && problem.file.ends_with(".seg"), "{problem:?}");

    let between = Head { position: Position::new(31), ..heads[10] };
    let problem = verify_against(&disk, Position::END, &[between]).unwrap().problem.unwrap();
    assert!(problem.reason.contains("no batch ends at record 31"), "{problem:?}");
}
