//! Flipped bits: found and refused with the place, or, at the stated limit, taken for a torn tail.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use schemas_journal::{Disk, MemoryDisk, OpenError, for_each_record, verify};
use support::{Log, fill, open, open_with};

fn filled(frames: u64) -> (MemoryDisk, u64) {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..frames - 1, 260);
    let mut last_frame = 0;
    for_each_record(&disk, |_, frame, _| last_frame = frame.segment * 1_000_000 + frame.offset).unwrap();
    let before = last_frame;
    fill(&mut journal, frames - 1..frames, 260);
    for_each_record(&disk, |_, frame, _| last_frame = frame.segment * 1_000_000 + frame.offset).unwrap();
    assert!(before < last_frame);
    (disk, last_frame)
}

/// One flip at a time; `true` when it was noticed.
fn flip_and_open(disk: &MemoryDisk, name: &str, bit: u64, frames: usize, in_last_frame: bool, log: Log) {
    let fork = disk.fork();
    assert!(fork.flip_bit(name, bit));
    let place = format!("{name} byte {} bit {}", bit / 8, bit % 8);
    match open_with(&fork, log) {
        Err(OpenError::Corrupt { file, .. }) => {
            assert!(file == name || in_last_frame, "{place}: blames {file}")
        }
        Err(error) => panic!("{place}: {error}"),
        Ok((_, log)) if in_last_frame => assert!(log.records.len() + 1 >= frames, "{place}"),
        Ok((_, log)) => assert_eq!(log.records.len(), frames, "{place}"),
    }
}

/// correctness.md 2: every flip in a synced frame is refused; only in the very last one it looks like a torn tail.
#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    let (disk, last_frame) = filled(14);
    let all = Log { decline_snapshots: true, ..Log::default() };
    for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".seg")) {
        let number: u64 = name[8..16].parse().unwrap();
        for byte in 0..disk.len(name).unwrap() {
            let in_last_frame = number * 1_000_000 + byte >= last_frame;
            flip_and_open(&disk, name, byte * 8 + byte % 8, 14, in_last_frame, all.clone());
        }
    }
}

/// A flip inside a frame that something vouches for is never passed over, and the report names the frame's start.
#[test]
fn flip_in_a_vouched_frame_is_refused_with_file_and_offset() {
    let (disk, _) = filled(14);
    let mut frames = Vec::new();
    for_each_record(&disk, |_, frame, _| frames.push((frame.segment, frame.offset))).unwrap();
    for (segment, offset) in &frames[..13] {
        let name = format!("journal-{segment:08}.seg");
        for byte in [0, 4, 8, 16, 24, 32, 36, 40, 71, 72, 80, 335] {
            let fork = disk.fork();
            fork.flip_bit(&name, (offset + byte) * 8 + 2);
            let problem = verify(&fork).unwrap().problem.unwrap();
            assert_eq!((&problem.file, problem.offset), (&name, *offset), "{}", problem.reason);
            let decline = Log { decline_snapshots: true, ..Log::default() };
            let refused = open_with(&fork, decline).unwrap_err();
            assert!(matches!(refused, OpenError::Corrupt { offset: at, .. } if at == *offset), "{refused}");
        }
    }
}

/// The stated limit, shown: the flipped last frame is cut like a torn tail.
#[test]
fn flip_in_the_very_last_synced_frame_looks_like_a_torn_tail() {
    let (disk, last_frame) = filled(6);
    let name = format!("journal-{:08}.seg", last_frame / 1_000_000);
    let offset = last_frame % 1_000_000;
    assert!(disk.flip_bit(&name, (offset + 100) * 8));
    let (journal, log) = open(&disk).unwrap();
    assert_eq!(log.records.len(), 5);
    let cut = journal.recovery().cut.clone().unwrap();
    assert_eq!((cut.file, cut.offset), (name, offset));
}

/// A frame moved, or a record that contains a copy of a frame, is not a frame: the checksum knows its place.
#[test]
fn copy_of_a_frame_elsewhere_is_not_a_frame() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..3, 260);
    let mut copy = vec![0; 336];
    disk.read("journal-00000001.seg", 64 + 336, &mut copy).unwrap();
    disk.write("journal-00000001.seg", 64 + 4 * 336, &copy).unwrap();
    let (journal, log) = open(&disk).unwrap();
    assert_eq!(log.records.len(), 3);
    assert!(journal.recovery().cut.is_some());
}

/// What a snapshot was made from was durable, also when no later frame vouches for it.
#[test]
fn flip_in_the_frame_a_snapshot_ends_with_is_refused() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    let mut number = 0;
    while !disk.list().unwrap().iter().any(|name| name.ends_with(".snap")) {
        fill(&mut journal, number..number + 1, 260);
        number += 1;
    }
    let mut last_closed = 0;
    for_each_record(&disk, |_, frame, _| {
        if frame.segment == 1 {
            last_closed = frame.offset;
        }
    })
    .unwrap();
    assert!(disk.flip_bit("journal-00000001.seg", (last_closed + 90) * 8));
    let refused = open(&disk).unwrap_err();
    assert!(matches!(refused, OpenError::Corrupt { offset, .. } if offset == last_closed), "{refused}");
}

/// History rewritten by somebody who mends the checksum as well: the hash chain tells.
#[test]
fn changed_record_with_a_mended_checksum_breaks_the_hash_chain() {
    let (disk, _) = filled(6);
    let name = "journal-00000001.seg";
    let offset = 64 + 336;
    let mut frame = [0; 336];
    disk.read(name, offset, &mut frame).unwrap();
    frame[100] ^= 1;
    frame[36..40].fill(0);
    let seed = crc32c::crc32c(&support::CHAIN.0);
    let seed = crc32c::crc32c_append(seed, &1_u64.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &offset.to_le_bytes());
    let checksum = crc32c::crc32c_append(seed, &frame);
    frame[36..40].copy_from_slice(&checksum.to_le_bytes());
    disk.write(name, offset, &frame).unwrap();
    let problem = verify(&disk).unwrap().problem.unwrap();
    assert_eq!((problem.file.as_str(), problem.offset), (name, offset + 336));
    assert!(problem.reason.contains("hash chain breaks"), "{}", problem.reason);
    assert!(matches!(open(&disk), Err(OpenError::Corrupt { .. })));
}

/// Even an unreadable snapshot proves by its name that its records were on disk.
#[test]
fn end_before_a_damaged_snapshots_position_is_refused() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, 0..7, 260);
    let snapshot = "snapshot-00000000000000000006.snap";
    assert!(disk.flip_bit(snapshot, 8 * 150));
    disk.remove("journal-00000003.seg").unwrap();
    disk.remove("journal-00000002.seg").unwrap();
    assert_eq!(open(&disk.fork()).unwrap().1.records.len(), 6);
    let sixth = 64 + 5 * 336;
    assert!(disk.flip_bit("journal-00000001.seg", (sixth + 90) * 8));
    let refused = open(&disk).unwrap_err();
    assert!(matches!(refused, OpenError::Corrupt { offset, .. } if offset == sixth), "{refused}");
}

proptest! {
    /// Whatever bytes are damaged, opening never panics and never invents a record.
    #[test]
    fn random_damage_never_panics_or_invents(
        damage in prop::collection::vec((1_u64..7, 0_u64..2112 * 8), 1..20),
        snapshots in any::<bool>(),
    ) {
        let (disk, _) = filled(14);
        let (_, sound) = open(&disk.fork()).unwrap();
        for (segment, bit) in damage {
            disk.flip_bit(&format!("journal-{segment:08}.seg"), bit);
        }
        let _ = verify(&disk).unwrap();
        if let Ok((_, log)) = open_with(&disk, Log { decline_snapshots: !snapshots, ..Log::default() }) {
            prop_assert!(sound.records.starts_with(&log.records));
        }
    }
}

/// Numbers of a snapshot that a right checksum vouches for, but no frame: it is passed over or refused, never followed.
#[test]
fn forged_numbers_of_a_snapshot_lead_nowhere() {
    let (disk, _) = filled(14);
    let names = disk.list().unwrap();
    let name = names.iter().rfind(|name| name.ends_with(".snap")).unwrap();
    let mut original = vec![0; usize::try_from(disk.len(name).unwrap()).unwrap()];
    disk.read(name, 0, &mut original).unwrap();
    // Sequence, segment, offset behind the last frame, offset of the last frame (see `snapshot.rs`).
    for field in [24, 32, 40, 48] {
        for value in [0, 1, 64, u64::MAX / 2, u64::MAX] {
            let mut bytes = original.clone();
            bytes[field..field + 8].copy_from_slice(&value.to_le_bytes());
            bytes[12..16].fill(0);
            let checksum = crc32c::crc32c(&bytes);
            bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
            let forged = disk.fork();
            forged.publish(name, &bytes).unwrap();
            let place = format!("{value} at byte {field}");
            match open(&forged) {
                Ok((mut journal, log)) => {
                    assert_eq!(log.records.len(), 14, "{place}");
                    fill(&mut journal, 14..24, 260);
                    assert_eq!(open(&forged).unwrap().1.records.len(), 24, "{place}");
                }
                Err(OpenError::Corrupt { .. } | OpenError::Missing { .. }) => {}
                Err(error) => panic!("{place}: {error}"),
            }
        }
    }
}
