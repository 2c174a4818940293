//! The journal on real files: the lock, the test mode of the kill suite, and the same behaviour as in memory.
#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods)]

mod support;

use std::fs;

use schemas_journal::{Disk, DiskError, FileDisk, FileDiskError, Position, verify};
use support::{LIMITS, fill, open};

#[test]
fn second_open_of_a_directory_is_refused_until_the_first_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("shard-0");
    let first = FileDisk::open(&data).unwrap();
    let refused = FileDisk::open(&data).unwrap_err();
    assert!(matches!(refused, FileDiskError::InUse { .. }));
    let text = refused.to_string();
    assert!(text.contains(&data.display().to_string()) && text.contains("stop that process"), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    let clone = first.clone();
    drop(first);
    assert!(FileDisk::open(&data).is_err(), "a clone still owns it");
    drop(clone);
    FileDisk::open(&data).unwrap();
}

#[test]
fn journal_survives_reopening_with_snapshots() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let disk = FileDisk::open(directory.path()).unwrap();
        let (mut journal, log) = open(&disk).unwrap();
        assert_eq!(log.records.len() as u64, round * 20);
        assert_eq!(log.restored_from.is_some(), round > 0);
        fill(&mut journal, round * 20..(round + 1) * 20, 300);
    }
    let reader = FileDisk::open_read_only(directory.path()).unwrap();
    let report = verify(&reader).unwrap();
    assert_eq!((report.records, report.problem), (Position::new(60), None));
    assert!(reader.write("journal-00000001.seg", 0, b"x").is_err());
    assert_eq!(
        fs::metadata(directory.path().join("journal-00000001.seg")).unwrap().len(),
        LIMITS.segment_bytes
    );
}

/// correctness.md 5: in this mode losing the process loses what was not synced, and a build without sync loses all.
#[test]
fn held_writes_reach_the_file_only_by_sync() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::hold_until_sync(directory.path()).unwrap();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..3, 300);
    journal.append(&["held"]).unwrap();
    assert_eq!(verify(&disk).unwrap().records, Position::new(4), "its own process sees it");
    let outside = FileDisk::open_read_only(directory.path()).unwrap();
    assert_eq!(verify(&outside).unwrap().records, Position::new(3), "the disk does not");
    journal.sync().unwrap();
    assert_eq!(verify(&outside).unwrap().records, Position::new(4));
    journal.append(&["lost"]).unwrap();
    drop((journal, disk));
    let disk = FileDisk::open(directory.path()).unwrap();
    assert_eq!(open(&disk).unwrap().1.records.len(), 4);
}

#[test]
fn leftovers_of_a_power_cut_are_removed_and_the_lock_is_no_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("journal-00000002.seg.tmp"), b"half").unwrap();
    let disk = FileDisk::open(directory.path()).unwrap();
    open(&disk).unwrap();
    let mut names = disk.list().unwrap();
    names.sort();
    assert_eq!(names, ["journal-00000001.seg", "journal-00000002.seg"]);
}

#[test]
fn sync_and_snapshot_run_on_other_threads() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(directory.path()).unwrap();
    let (mut journal, _) = open(&disk).unwrap();
    journal.append(&["a"]).unwrap();
    let point = journal.sync_point().unwrap();
    let synced = std::thread::scope(|scope| scope.spawn(|| point.run(&disk)).join().unwrap());
    assert_eq!(journal.handle_synced(synced).unwrap(), Position::new(1));
}

/// More segments than files may be open at once: old ones are closed, unsynced ones never.
#[test]
fn many_files_are_used_in_turn() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::hold_until_sync(directory.path()).unwrap();
    for number in 0..60_u8 {
        let name = format!("file-{number}");
        disk.create(&name, 10).unwrap();
        disk.write(&name, 0, &[number; 10]).unwrap();
        if number % 2 == 0 {
            disk.sync(&name).unwrap();
        }
    }
    for number in 0..60_u8 {
        let mut bytes = [0; 10];
        disk.read(&format!("file-{number}"), 0, &mut bytes).unwrap();
        assert_eq!(bytes, [number; 10]);
    }
}

#[test]
fn errors_name_the_file_and_reading_past_the_end_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(directory.path()).unwrap();
    disk.create("a", 10).unwrap();
    let error = disk.read("a", 8, &mut [0; 4]).unwrap_err();
    assert!(matches!(&error, DiskError::Failed { name, operation: "read", .. } if name == "a"), "{error}");
    assert!(disk.sync("missing").is_err());
}
