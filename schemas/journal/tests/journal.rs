//! The journal on a disk in memory, transition by transition.
#![allow(clippy::unwrap_used)]

mod support;

use schemas_journal::{
    AppendError, ChainId, Disk, DiskError, Journal, JournalError, JournalLimits, MemoryDisk, OpenError,
    Position, Records, Room, existing_chain_id, for_each_record, verify,
};
use support::{CHAIN, LIMITS, Log, fill, open, open_with, record, run_jobs};

fn numbers(log: &Log) -> Vec<u64> {
    log.records.iter().map(|record| u64::from_le_bytes(*record.first_chunk::<8>().unwrap())).collect()
}

#[test]
fn empty_disk_to_open_journal_with_a_spare() {
    let disk = MemoryDisk::new();
    assert_eq!(existing_chain_id(&disk).unwrap(), None);
    let (journal, log) = open(&disk).unwrap();
    assert_eq!((journal.position(), journal.synced()), (Position::ZERO, Position::ZERO));
    assert_eq!(journal.room(), Room::Ample);
    assert_eq!(log, Log::default());
    assert_eq!(disk.list().unwrap(), ["journal-00000001.seg", "journal-00000002.seg"]);
    assert_eq!(existing_chain_id(&disk).unwrap(), Some(CHAIN));
}

#[test]
fn batch_appended_to_synced_to_reopened() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    assert_eq!(journal.append(&["one", "two", ""]).unwrap(), Position::new(3));
    assert_eq!(journal.synced(), Position::ZERO);
    assert_eq!(journal.sync().unwrap(), Position::new(3));
    assert_eq!(journal.sync_point(), None);
    let hash = journal.last_hash();
    disk.crash(1);
    let (journal, log) = open(&disk).unwrap();
    assert_eq!(log.records, [b"one".to_vec(), b"two".to_vec(), Vec::new()]);
    assert_eq!((journal.position(), journal.last_hash()), (Position::new(3), hash));
    assert_eq!(journal.recovery().replayed_records, 3);
    assert_eq!(journal.recovery().cut, None);
}

/// correctness.md 1: what was appended while a sync ran is not covered by it.
#[test]
fn pipelined_sync_covers_only_what_was_appended_before_it() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&["first"]).unwrap();
    let point = journal.sync_point().unwrap();
    journal.append(&["second"]).unwrap();
    let synced = point.run(&disk);
    assert_eq!(journal.handle_synced(synced).unwrap(), Position::new(1));
    assert_eq!(journal.position(), Position::new(2));
    let later = journal.sync_point().unwrap();
    assert_eq!(later.position(), Position::new(2));
    let synced = later.run(&disk);
    assert_eq!(journal.handle_synced(synced).unwrap(), Position::new(2));
    // A result that comes late moves nothing back.
    let synced = point.run(&disk);
    assert_eq!(journal.handle_synced(synced).unwrap(), Position::new(2));
}

#[test]
fn sync_point_over_two_segments_syncs_both() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    for number in 0..9 {
        journal.append(&[record(number, 300)]).unwrap();
    }
    assert!(disk.unsynced_sectors() > 0);
    journal.sync().unwrap();
    assert_eq!(disk.unsynced_sectors(), 0);
    disk.crash(1);
    assert_eq!(numbers(&open(&disk).unwrap().1), (0..9).collect::<Vec<_>>());
}

#[test]
fn bad_batches_are_refused_and_change_nothing() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    assert_eq!(journal.append::<&[u8]>(&[]), Err(AppendError::Empty));
    let long = journal.append(&[vec![1; 401]]).unwrap_err();
    assert_eq!(long, AppendError::RecordTooLong { bytes: 401, record_max_bytes: 400 });
    let many = journal.append(&[[1; 400], [1; 400], [1; 400]]).unwrap_err();
    assert_eq!(many, AppendError::FrameTooLong { frame_max_bytes: 1000 });
    assert_eq!(journal.sync_point(), None);
    assert_eq!(journal.append(&["good"]).unwrap(), Position::new(1));
}

/// correctness.md 4: a full disk refuses new work, and what is open finishes in the segment made ahead.
#[test]
fn full_disk_to_last_segment_to_out_of_space_to_freed() {
    let disk = MemoryDisk::new();
    let limits = JournalLimits { snapshot_every_segments: 100, ..LIMITS };
    let mut journal = Journal::open(disk.clone(), limits, CHAIN, &mut Log::default()).unwrap();
    disk.set_capacity_bytes(Some(2 * LIMITS.segment_bytes));
    let mut written = 0;
    while journal.room() == Room::Ample {
        fill(&mut journal, written..written + 1, 300);
        written += 1;
    }
    let refused_at = written;
    let error = loop {
        match journal.append(&[record(written, 300)]) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        journal.sync().unwrap();
        assert_eq!(journal.spare_job(), None);
    };
    assert_eq!(error, AppendError::OutOfSpace);
    assert!(written >= refused_at + 3, "the reserved segment held {}", written - refused_at);
    assert_eq!(numbers(&open(&disk.fork()).unwrap().1), (0..written).collect::<Vec<_>>());

    disk.set_capacity_bytes(None);
    journal.retry_spare();
    run_jobs(&mut journal);
    assert_eq!(journal.room(), Room::Ample);
    fill(&mut journal, written..written + 10, 300);
    assert_eq!(numbers(&open(&disk).unwrap().1), (0..written + 10).collect::<Vec<_>>());
}

#[test]
fn full_disk_at_open_still_opens_what_is_there() {
    let disk = MemoryDisk::new();
    disk.set_capacity_bytes(Some(LIMITS.segment_bytes));
    let (journal, _) = open(&disk).unwrap();
    assert_eq!(journal.room(), Room::LastSegment);
    let tiny = MemoryDisk::new();
    tiny.set_capacity_bytes(Some(10));
    let error = open(&tiny).unwrap_err();
    assert!(matches!(&error, OpenError::Disk(disk) if disk.is_out_of_space()), "{error}");
}

#[test]
fn spare_late_is_ample_until_half_the_segment_is_used() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    let mut number = 0;
    let job = loop {
        journal.append(&[record(number, 300)]).unwrap();
        number += 1;
        if let Some(job) = journal.spare_job() {
            break job;
        }
    };
    assert_eq!(journal.room(), Room::Ample);
    assert_eq!(journal.spare_job(), None, "one job at a time");
    while journal.room() == Room::Ample {
        journal.append(&[record(number, 300)]).unwrap();
        number += 1;
    }
    assert_eq!(journal.handle_spare(job.run(&disk)).unwrap(), Room::Ample);
    fill(&mut journal, number..number + 20, 300);
    assert_eq!(numbers(&open(&disk).unwrap().1), (0..number + 20).collect::<Vec<_>>());
}

/// storage.md "what follows" 1: the process stops on any fsync error.
#[test]
fn failed_sync_poisons_every_later_call() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&["kept"]).unwrap();
    journal.sync().unwrap();
    journal.append(&["lost"]).unwrap();
    disk.fail_sync(1);
    assert!(matches!(journal.sync(), Err(JournalError::Disk(_))));
    assert!(journal.poisoned().is_some());
    assert!(matches!(journal.append(&["later"]), Err(AppendError::Poisoned { .. })));
    assert!(matches!(journal.sync(), Err(JournalError::Poisoned { .. })));
    assert_eq!((journal.sync_point(), journal.spare_job(), journal.snapshot_job()), (None, None, None));
    assert_eq!(journal.synced(), Position::new(1));
}

#[test]
fn failed_write_and_failed_spare_poison() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    disk.stop_after(0);
    assert!(matches!(journal.append(&["a"]), Err(AppendError::Disk(_))));
    disk.crash(0);
    assert!(matches!(journal.append(&["a"]), Err(AppendError::Poisoned { .. })));

    let (mut journal, _) = open(&disk).unwrap();
    let failure =
        DiskError::Failed { operation: "create", name: "x".to_owned(), reason: "broken".to_owned() };
    assert!(matches!(journal.handle_spare(Err(failure)), Err(JournalError::Disk(_))));
    assert!(matches!(journal.append(&["a"]), Err(AppendError::Poisoned { .. })));
}

/// correctness.md 3: recovery from a snapshot and later segments equals recovery from all segments.
#[test]
fn snapshot_and_later_segments_equal_all_segments() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..40, 300);
    let (from_snapshot, log) = open(&disk.fork()).unwrap();
    let (from_all, all) = open_with(&disk.fork(), Log { decline_snapshots: true, ..Log::default() }).unwrap();
    assert!(log.restored_from.unwrap() > Position::new(30));
    assert_eq!(log.restored_from, from_snapshot.recovery().snapshot);
    assert_eq!(from_all.recovery().snapshot, None);
    assert_eq!(from_all.recovery().refused_snapshots.len(), 2);
    assert_eq!(log.records, all.records);
    assert_eq!(numbers(&log), (0..40).collect::<Vec<_>>());
    assert_eq!(from_snapshot.last_hash(), from_all.last_hash());
    let snapshots = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".snap")).count();
    assert_eq!(snapshots, 2, "the newest and the one it was made from");
    assert!(disk.list().unwrap().contains(&"journal-00000001.seg".to_owned()), "segments are kept");
}

#[test]
fn corrupt_snapshots_fall_back_to_older_and_then_to_all_segments() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..40, 300);
    let names: Vec<_> = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".snap")).collect();
    let mut positions = vec![open(&disk.fork()).unwrap().1.restored_from];
    for name in names.iter().rev() {
        assert!(disk.flip_bit(name, 8 * 200 + 3));
        let (journal, log) = open(&disk.fork()).unwrap();
        assert_eq!(numbers(&log), (0..40).collect::<Vec<_>>());
        assert_eq!(journal.recovery().refused_snapshots.len(), positions.len());
        positions.push(log.restored_from);
    }
    assert!(positions[0] > positions[1] && positions[1] > positions[2]);
    assert_eq!(positions[2], None);
}

/// correctness.md 3: an operator may archive segments before a snapshot's; the hash anchor stays.
#[test]
fn archived_segments_are_not_needed_after_a_snapshot() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..40, 300);
    for number in 1..=3 {
        disk.remove(&format!("journal-{number:08}.seg")).unwrap();
    }
    assert_eq!(numbers(&open(&disk.fork()).unwrap().1), (0..40).collect::<Vec<_>>());
    let report = verify(&disk).unwrap();
    assert_eq!(report.problem, None);
    assert!(report.starts_after > Position::ZERO);
    assert_eq!(report.records, Position::new(40));
    let refused = open_with(&disk, Log { decline_snapshots: true, ..Log::default() }).unwrap_err();
    assert!(
        matches!(&refused, OpenError::Missing { file, .. } if file == "journal-00000001.seg"),
        "{refused}"
    );
}

#[test]
fn hole_between_segments_is_refused() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..20, 300);
    disk.remove("journal-00000002.seg").unwrap();
    let refused = open(&disk).unwrap_err();
    assert!(
        matches!(&refused, OpenError::Missing { file, .. } if file == "journal-00000002.seg"),
        "{refused}"
    );
}

/// A snapshot is made of synced records, so even one that cannot be read proves that they were on disk.
#[test]
fn records_missing_that_a_snapshot_proves_are_refused() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..12, 300);
    let snapshots: Vec<_> = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".snap")).collect();
    for number in 1..=9 {
        let _ = disk.remove(&format!("journal-{number:08}.seg"));
    }
    assert!(matches!(open(&disk.fork()), Err(OpenError::Missing { .. })));
    for name in snapshots {
        disk.flip_bit(&name, 0);
    }
    assert!(matches!(open(&disk), Err(OpenError::Missing { .. })));
}

#[test]
fn other_journals_files_are_refused() {
    let disk = MemoryDisk::new();
    open(&disk).unwrap();
    let other = ChainId([1; 32]);
    let refused = Journal::open(disk, LIMITS, other, &mut Log::default()).unwrap_err();
    assert!(matches!(refused, OpenError::OtherChain { found: CHAIN, .. }), "{refused}");
}

#[test]
fn newer_format_is_refused_and_untouched() {
    let disk = MemoryDisk::new();
    open(&disk).unwrap();
    let name = "journal-00000001.seg";
    let mut header = [0; 64];
    disk.read(name, 0, &mut header).unwrap();
    header[8] = 9;
    header[12..16].fill(0);
    let checksum = crc32c::crc32c(&header);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    disk.write(name, 0, &header).unwrap();
    disk.sync(name).unwrap();
    let refused = open(&disk).unwrap_err();
    assert_eq!(refused, OpenError::Version { file: name.to_owned(), version: 9, supported: 1 });
    assert_eq!(verify(&disk).unwrap().problem.unwrap().file, name);
}

#[test]
fn larger_limits_after_a_restart_replace_the_small_spare() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..3, 300);
    let larger = JournalLimits { frame_max_bytes: 8000, segment_bytes: 32_000, ..LIMITS };
    let mut journal = Journal::open(disk.clone(), larger, CHAIN, &mut Log::default()).unwrap();
    let batch: Vec<_> = (3..20).map(|number| record(number, 400)).collect();
    journal.append(&batch).unwrap();
    journal.sync().unwrap();
    assert_eq!(numbers(&open(&disk).unwrap().1), (0..20).collect::<Vec<_>>());
}

#[test]
fn fold_error_stops_recovery_and_names_the_record() {
    struct Refusing;
    impl schemas_journal::Fold for Refusing {
        type Error = &'static str;
        fn restore(&mut self, _: Position, _: &[u8]) -> Result<(), &'static str> {
            Err("no snapshots")
        }
        fn apply(&mut self, position: Position, _: &[u8]) -> Result<(), &'static str> {
            if position == Position::new(2) { Err("unknown record kind 9") } else { Ok(()) }
        }
    }
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..3, 20);
    let refused = Journal::open(disk, LIMITS, CHAIN, &mut Refusing).unwrap_err();
    let expected = OpenError::Fold { position: Position::new(2), reason: "unknown record kind 9".to_owned() };
    assert_eq!(refused, expected);
}

#[test]
fn dump_and_verify_read_everything_and_change_nothing() {
    let disk = MemoryDisk::new();
    assert_eq!(verify(&disk).unwrap().chain_id, None);
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..15, 300);
    journal.append(&["x", "y"]).unwrap();
    let unsynced = disk.unsynced_sectors();
    let report = verify(&disk).unwrap();
    assert_eq!((report.frames, report.records), (16, Position::new(17)));
    assert_eq!(report.last_hash, Some(journal.last_hash()));
    assert_eq!(report.problem, None);
    assert!(!report.snapshots.is_empty());
    assert!(report.snapshots.iter().all(|snapshot| snapshot.problem.is_none()));
    let mut seen = Vec::new();
    for_each_record(&disk, |position, frame, record| seen.push((position, frame.sequence, record.to_vec())))
        .unwrap();
    assert_eq!(seen.len(), 17);
    assert_eq!(seen[16], (Position::new(17), 16, b"y".to_vec()));
    assert_eq!(disk.unsynced_sectors(), unsynced);
    let mut count = 0;
    let mut records = Records(|_: Position, _: &[u8]| count += 1);
    Journal::open(disk, LIMITS, CHAIN, &mut records).unwrap();
    assert_eq!(count, 17);
}

#[test]
fn verify_names_the_snapshot_that_disagrees() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..15, 300);
    let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".snap")).unwrap();
    disk.flip_bit(&name, 8 * 64);
    let report = verify(&disk).unwrap();
    let problems: Vec<_> = report.snapshots.iter().filter(|snapshot| snapshot.problem.is_some()).collect();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].file, name);
}

/// The bytes on disk are a promise: a change here needs a new format version and a way to read the old one.
#[test]
fn golden_bytes_of_one_frame() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&["first"]).unwrap();
    journal.sync().unwrap();
    journal.append(&["alpha", "be"]).unwrap();
    let mut header = [0; 64];
    disk.read("journal-00000001.seg", 0, &mut header).unwrap();
    let mut frame = [0; 88];
    disk.read("journal-00000001.seg", 64 + 88, &mut frame).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&header), GOLDEN_HEADER);
    assert_eq!(hex(&frame), GOLDEN_FRAME);
    assert_eq!(journal.last_hash().to_string(), GOLDEN_HASH);
}

// Computed by an independent program from the layout in the documentation, not copied from a run.
const GOLDEN_HEADER: &str = "46415254484a4e4c010000009bc57a5101000000000000004008000000000000c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5";
const GOLDEN_FRAME: &str = "464a463158000000020000000000000001000000000000000100000000000000020000009a569132a8ed792b3cf8e1c46fe536cada8002fd8f546b3fdb9e2b9e146bf1d07777d83005000000616c70686102000000626500";
const GOLDEN_HASH: &str = "463a6a803227d3bac397b2e836e8898fb99fe468b3cd6fa3e58aa4bdc15019f5";
