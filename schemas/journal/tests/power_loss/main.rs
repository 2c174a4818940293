//! The power goes while the journal works on real files. Every call that changes the directory is recorded where
//! `FileDisk` makes it; at a thousand points of these recordings directories are built that a power cut there may
//! leave, and each is opened with the real `FileDisk`: everything acknowledged before is there, what is there is a
//! prefix of what was appended, nothing is refused, and it goes on (correctness.md 2).
#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods, clippy::print_stderr)]

mod model;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::{FileSystem, Image, OwnedCall};
use schemas_journal::{AppendError, Disk, FileDisk, Journal, SyncPoint, for_each_record, verify};
use support::{Log, Random, open, open_with, record, seed_or};
use tempfile::TempDir;

const SEED: u64 = 0xFA28;
/// Of one recording. Then the power goes at one more point, and what it left is the beginning of the next.
const POINTS: u64 = 25;
/// Before a fresh directory is taken.
const RECORDINGS: u64 = 5;

#[test]
fn nothing_acknowledged_is_lost_at_1000_points() {
    let seed = seed_or(SEED);
    let report = play(seed, 1000, Fault::None).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    eprintln!("seed {seed}: {report:?}");
    assert_eq!(report.points, 1000);
    let enough = [
        ("points with sectors at risk", report.sectors_at_risk > 300),
        ("points with names at risk", report.names_at_risk > 50),
        ("points in the middle of recovery", report.in_recovery > 30),
        ("torn tails", report.torn > 100),
        ("starts from a snapshot", report.from_snapshot > 200),
        ("snapshots that were not used", report.leftovers > 10),
    ];
    for (what, is_enough) in enough {
        assert!(is_enough, "too few {what}: the run proves too little: {report:?}");
    }
}

/// A replayer that never finds anything proves nothing: each of these is `FileDisk` without one of its calls.
#[test]
fn a_disk_that_leaves_out_a_sync_is_caught() {
    for fault in [Fault::NoFileSync, Fault::NoSegmentSync, Fault::NoDirectorySync, Fault::RenameBeforeSync] {
        let violation = play(SEED, 1000, fault).expect_err("nobody noticed");
        eprintln!("{fault:?}: {violation}");
    }
}

#[test]
fn the_same_seed_plays_the_same() {
    let play = || {
        let mut report = play(SEED + 1, 60, Fault::None).unwrap();
        report.took = Duration::ZERO;
        format!("{report:?}")
    };
    assert_eq!(play(), play());
}

/// What the disk leaves out, by leaving it out of the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    NoFileSync,
    NoSegmentSync,
    NoDirectorySync,
    RenameBeforeSync,
}

#[derive(Debug, Default)]
struct Report {
    points: u64,
    calls: u64,
    acknowledged: u64,
    sectors_at_risk: u64,
    names_at_risk: u64,
    in_recovery: u64,
    torn: u64,
    from_snapshot: u64,
    leftovers: u64,
    took: Duration,
}

/// One thing that happened, in order.
#[derive(Debug, Clone)]
enum Step {
    Call(OwnedCall),
    /// Is about to be appended: from here on it may survive.
    Appending(Vec<Vec<u8>>),
    /// There was no room, so nothing of the last batch was written.
    NoRoom(usize),
    /// So many records are promised.
    Acknowledged(u64),
    /// The journal is open with so many records: what it has cut must never appear again.
    Opened(usize),
}

type Tape = Arc<Mutex<Vec<Step>>>;

/// What the world outside believes.
#[derive(Debug, Clone, Default)]
struct Believed {
    written: Vec<Vec<u8>>,
    acknowledged: u64,
}

/// Looks at `points` points; the first thing that must not be, as an error.
fn play(seed: u64, points: u64, fault: Fault) -> Result<Report, String> {
    let began = Instant::now();
    let mut random = Random(seed);
    let mut report = Report::default();
    while report.points < points {
        let (mut image, mut believed) = (Image::new(), Believed::default());
        for recording in 0..RECORDINGS {
            let directory = temporary_directory();
            write_image(directory.path(), &image);
            let place = format!("point {}, recording {recording}", report.points);
            let steps = record_life(directory.path(), &believed, report.points * 100, &mut random);
            is_complete(&image, &steps, directory.path()).map_err(|why| format!("{place}: {why}"))?;
            report.calls += steps.iter().filter(|step| matches!(step, Step::Call(_))).count() as u64;
            let steps = with_fault(steps, fault);
            for _ in 0..POINTS.min(points - report.points) {
                let at = point(&steps, &mut random);
                let (left, then) = cut(&image, &believed, &steps[..at], &mut random, &mut report);
                let place = format!("point {}, step {at} of {}", report.points, steps.len());
                check(&left, &then, &mut report).map_err(|why| format!("{place}: {why}"))?;
                report.points += 1;
            }
            // The work goes on from what one more power cut left, as it is: the next recording begins with recovery.
            let at = point(&steps, &mut random);
            let mut unused = Report::default();
            (image, believed) = cut(&image, &believed, &steps[..at], &mut random, &mut unused);
            if report.points == points {
                break;
            }
        }
    }
    report.took = began.elapsed();
    Ok(report)
}

/// A life of the journal on real files: open, and work of all kinds in any order.
fn record_life(directory: &Path, believed: &Believed, number: u64, random: &mut Random) -> Vec<Step> {
    let tape = Tape::default();
    let push = |step| tape.lock().unwrap().push(step);
    let observer = Arc::clone(&tape);
    let disk = FileDisk::open_observed(directory, move |call| {
        observer.lock().unwrap().push(Step::Call(call.into()))
    });
    let disk = disk.unwrap();
    let (mut journal, log) = open(&disk).unwrap();
    assert!(believed.written.starts_with(&log.records));
    push(Step::Opened(log.records.len()));
    push(Step::Acknowledged(journal.synced().value()));
    let mut pending: Option<SyncPoint> = None;
    let mut number = number + 1_000_000 * random.below(1000);
    for _ in 0..20 + random.below(60) {
        match random.below(12) {
            0..6 => {
                let batch: Vec<_> =
                    (0..=random.below(3)).map(|n| record(number + n, 8 + random.index(290))).collect();
                number += 3;
                push(Step::Appending(batch.clone()));
                match journal.append(&batch) {
                    Ok(_) => {}
                    Err(AppendError::OutOfSpace) => push(Step::NoRoom(batch.len())),
                    Err(error) => panic!("{error}"),
                }
            }
            6 => {
                journal.sync().unwrap();
            }
            7 => pending = journal.sync_point(),
            8 => {
                if let Some(point) = pending.take() {
                    journal.handle_synced(point.run(&disk)).unwrap();
                }
            }
            9..11 => {
                if let Some(job) = journal.spare_job() {
                    journal.handle_spare(job.run(&disk)).unwrap();
                }
            }
            _ => snapshot(&mut journal, &disk),
        }
        push(Step::Acknowledged(journal.synced().value()));
    }
    drop((journal, disk));
    let steps = tape.lock().unwrap();
    steps.clone()
}

fn snapshot(journal: &mut Journal<FileDisk>, disk: &FileDisk) {
    if let Some(job) = journal.snapshot_job() {
        let result = job.run(disk, &mut Log::default(), Log::encode);
        journal.handle_snapshot(&result).unwrap();
        result.unwrap();
    }
}

/// The recording makes the same directory as the calls did: nothing that changes a file is missing in it.
fn is_complete(start: &Image, steps: &[Step], directory: &Path) -> Result<(), String> {
    let mut system = FileSystem::holding(start);
    for step in steps {
        if let Step::Call(call) = step {
            system.apply(call);
        }
    }
    let names = FileDisk::open_read_only(directory).unwrap().list().unwrap();
    let there: Image =
        names.into_iter().map(|name| (name.clone(), fs::read(directory.join(name)).unwrap())).collect();
    if there == system.image() { Ok(()) } else { Err("the recording is not what was done".to_owned()) }
}

fn with_fault(mut steps: Vec<Step>, fault: Fault) -> Vec<Step> {
    if fault == Fault::RenameBeforeSync {
        for at in 1..steps.len() {
            let is_rename = matches!(&steps[at], Step::Call(OwnedCall::Rename { .. }));
            if let (true, Step::Call(OwnedCall::Rename { to, .. })) = (is_rename, steps[at].clone()) {
                // Renamed and in the directory for good, then synced.
                steps[at - 1] = Step::Call(OwnedCall::SyncFile(to));
                steps.swap(at - 1, at);
                steps.swap(at, at + 1);
            }
        }
    }
    steps.retain(|step| match (fault, step) {
        (Fault::NoFileSync, Step::Call(OwnedCall::SyncFile(_)))
        | (Fault::NoDirectorySync, Step::Call(OwnedCall::SyncDirectory)) => false,
        (Fault::NoSegmentSync, Step::Call(OwnedCall::SyncFile(name))) => !name.ends_with(".seg"),
        _ => true,
    });
    steps
}

/// The power goes after these steps: what is left, and what the world believes then.
fn cut(
    start: &Image,
    believed: &Believed,
    steps: &[Step],
    random: &mut Random,
    report: &mut Report,
) -> (Image, Believed) {
    let mut system = FileSystem::holding(start);
    let mut believed = believed.clone();
    let mut opened = false;
    for step in steps {
        match step {
            Step::Call(call) => system.apply(call),
            Step::Appending(batch) => believed.written.extend(batch.iter().cloned()),
            Step::Acknowledged(position) => {
                believed.acknowledged = believed.acknowledged.max(*position);
                report.acknowledged = report.acknowledged.max(*position);
            }
            Step::NoRoom(records) => believed.written.truncate(believed.written.len() - records),
            Step::Opened(records) => {
                believed.written.truncate(*records);
                opened = true;
            }
        }
    }
    let (sectors, names) = system.at_risk();
    report.sectors_at_risk += u64::from(sectors > 0);
    report.names_at_risk += u64::from(names > 0);
    report.in_recovery += u64::from(!opened && !start.is_empty());
    (system.power_cut(random), believed)
}

fn check(left: &Image, believed: &Believed, report: &mut Report) -> Result<(), String> {
    let directory = temporary_directory();
    write_image(directory.path(), left);
    let seen = verify(&FileDisk::open_read_only(directory.path()).unwrap()).map_err(|why| why.to_string())?;
    if let Some(problem) = &seen.problem {
        return Err(format!("`verify` finds a problem: {problem:?}"));
    }
    report.torn += u64::from(seen.torn_tail.is_some());
    let disk = FileDisk::open(directory.path()).unwrap();
    let (mut journal, log) = open(&disk).map_err(|why| format!("refused: {why}"))?;
    report.from_snapshot += u64::from(log.restored_from.is_some());
    report.leftovers += u64::from(left.keys().any(|name| name.ends_with(".tmp")));
    let count = log.records.len() as u64;
    if count < believed.acknowledged {
        return Err(format!("lost: {} were acknowledged, {count} are there", believed.acknowledged));
    }
    if !believed.written.starts_with(&log.records) {
        return Err("what is there is no prefix of what was appended".to_owned());
    }
    // It goes on, through a change of segment.
    let more: Vec<_> = (0..9).map(|number| record(number, 300)).collect();
    for record in &more {
        support::run_jobs(&mut journal);
        journal.append(&[record]).map_err(|why| format!("does not go on: {why}"))?;
        journal.sync().map_err(|why| format!("does not go on: {why}"))?;
    }
    drop((journal, disk));
    let disk = FileDisk::open_read_only(directory.path()).unwrap();
    let mut all = Vec::new();
    for_each_record(&disk, |_, _, record| all.push(record.to_vec())).map_err(|why| why.to_string())?;
    if all != [log.records, more].concat() {
        return Err("what was appended afterwards is not what is there".to_owned());
    }
    let disk = FileDisk::open(directory.path()).unwrap();
    let replayed = open_with(&disk, Log { decline_snapshots: true, ..Log::default() });
    let restored = open(&disk);
    match (replayed, restored) {
        (Ok((_, replayed)), Ok((_, restored))) if replayed.records == all && restored.records == all => {
            Ok(())
        }
        (replayed, restored) => {
            Err(format!("afterwards: {:?}, {:?}", replayed.map(|_| ()), restored.map(|_| ())))
        }
    }
}

/// In memory where there is such a place: thousands of real syncs take minutes, and what they leave out is ours to say.
fn temporary_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Any point, and one in five in the recovery that the recording begins with.
fn point(steps: &[Step], random: &mut Random) -> usize {
    let opened = steps.iter().position(|step| matches!(step, Step::Opened(_))).unwrap();
    if random.below(5) == 0 { random.index(opened + 1) } else { random.index(steps.len() + 1) }
}

fn write_image(directory: &Path, image: &Image) {
    for (name, bytes) in image {
        fs::write(directory.join(name), bytes).unwrap();
    }
}
