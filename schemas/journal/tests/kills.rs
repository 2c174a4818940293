//! A process that acknowledges steps, killed again and again in the mode that holds writes until `sync`: there SIGKILL
//! is a power cut (correctness.md 5). Nothing acknowledged is lost, nothing appears that was not on its way to the
//! disk, order and content are exact; segment changes, snapshots and recovery itself are killed as well.
#![allow(clippy::unwrap_used, clippy::disallowed_types, clippy::disallowed_methods, clippy::print_stderr)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use schemas_journal::{
    Disk, DiskError, FileDisk, Fold, Journal, JournalLimits, Position, for_each_record, verify,
};
use support::{CHAIN, Random, seed_or};

const SEED: u64 = 0xFA27;
/// A directory lives through this many kills; then a fresh one follows, so that reading all of it stays quick.
const KILLS_PER_DIRECTORY: u64 = 50;
const LIMITS: JournalLimits = JournalLimits {
    record_max_bytes: 400,
    frame_max_bytes: 1300,
    segment_bytes: 4096,
    snapshot_every_segments: 2,
};
const WORKER: &str = "the_worker_acknowledges_what_it_has_synced";
const DIRECTORY: &str = "FARTHING_WORKER_DIRECTORY";
const LIFE: &str = "FARTHING_WORKER_LIFE";
const FAULT: &str = "FARTHING_WORKER_FAULT";

#[test]
fn acknowledged_steps_survive_50_power_cuts() {
    check_kills(50);
}

#[test]
#[ignore = "long: 500 kills"]
fn acknowledged_steps_survive_500_power_cuts() {
    check_kills(500);
}

fn check_kills(kills: u64) {
    let seed = seed_or(SEED);
    let report = play(seed, kills, "").unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    eprintln!("seed {seed}: {report:?}");
    assert_eq!(report.kills, kills);
    let enough = [
        ("acknowledged steps", report.acknowledged > 4 * kills),
        ("kills before the journal was open", report.before_open > kills / 50),
        ("kills while steps waited for their sync", report.unacknowledged > kills / 50),
        ("kills in the making of a segment", report.in_spare > kills / 50),
        ("kills in the making of a snapshot", report.in_snapshot > kills / 50),
        ("starts from a snapshot", report.from_snapshot > kills / 5),
        ("segments", report.segments > kills / 5),
    ];
    for (what, is_enough) in enough {
        assert!(is_enough, "too few {what}: the run proves too little: {report:?}");
    }
}

/// A suite that passes without syncs proves nothing.
#[test]
fn the_suite_fails_when_sync_is_removed() {
    let violation = play(SEED, 50, "no-sync").unwrap_err();
    assert!(violation.contains("lost"), "{violation}");
}

/// What the parent starts and kills. By itself it does a number of steps, and the disk must say what it said.
#[test]
fn the_worker_acknowledges_what_it_has_synced() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        let directory = tempfile::tempdir().unwrap();
        let mut told = Told::default();
        let disk = FileDisk::hold_until_sync(directory.path()).unwrap();
        work(disk, 1, 300, &mut |line| told.hear(line).unwrap());
        let records = read(directory.path()).unwrap();
        assert!(told.acknowledged > 300 && records.len() as u64 == told.acknowledged);
        return;
    };
    let life = std::env::var(LIFE).unwrap().parse().unwrap();
    let mut stdout = std::io::stdout();
    stdout.write_all(b"\n").unwrap();
    // One write for each line; the parent's end of the pipe closes with the parent, and with it this.
    let mut say = |line: &str| stdout.write_all(format!("{line}\n").as_bytes()).unwrap();
    let disk = FileDisk::hold_until_sync(directory).unwrap();
    match std::env::var(FAULT).as_deref() {
        Ok("no-sync") => work(NoSync(disk), life, u64::MAX, &mut say),
        _ => work(disk, life, u64::MAX, &mut say),
    }
}

/// Appends and syncs, and says each thing before it does it and each promise after.
fn work<D: Disk>(disk: D, life: u64, syncs: u64, say: &mut dyn FnMut(&str)) {
    let mut random = Random(life);
    let mut digest = Digest::default();
    let mut journal = Journal::open(disk.clone(), LIMITS, CHAIN, &mut digest).unwrap();
    let from = journal.recovery().snapshot.map_or(0, Position::value);
    say(&format!("open {} {} {from}", journal.synced(), digest.checksum));
    for _ in 0..syncs {
        for _ in 0..=random.below(3) {
            let from = journal.position().value();
            let batch: Vec<_> = (1..=1 + random.below(3)).map(|n| record(life, from + n)).collect();
            journal.append(&batch).unwrap();
        }
        say(&format!("sync {}", journal.position()));
        journal.sync().unwrap();
        say(&format!("acknowledged {}", journal.synced()));
        if let Some(job) = journal.spare_job() {
            say("spare");
            journal.handle_spare(job.run(&disk)).unwrap();
            say("spare-made");
        }
        if let Some(job) = journal.snapshot_job() {
            say("snapshot");
            let result = job.run(&disk, &mut Digest::default(), Digest::encode);
            journal.handle_snapshot(&result).unwrap();
            result.unwrap();
            say("snapshot-made");
        }
    }
}

/// The record at a position, as this life of the process writes it: no other life, no other position has the same.
fn record(life: u64, position: u64) -> Vec<u8> {
    let mut random = Random(life.wrapping_mul(0x1_0000_0001).wrapping_add(position));
    let mut bytes = [life.to_le_bytes(), position.to_le_bytes()].concat();
    bytes.resize(16 + random.index(180), 0x80 | (random.next() & 0x7F) as u8);
    bytes
}

/// A state that says in a few bytes whether all records, in this order, made it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Digest {
    records: u64,
    checksum: u32,
}

impl Digest {
    fn add(&mut self, record: &[u8]) {
        self.records += 1;
        self.checksum = crc32c::crc32c_append(self.checksum, record);
    }

    fn encode(&self) -> Vec<u8> {
        [&self.records.to_le_bytes()[..], &self.checksum.to_le_bytes()].concat()
    }
}

impl Fold for Digest {
    type Error = String;

    fn restore(&mut self, position: Position, snapshot: &[u8]) -> Result<(), String> {
        let (records, checksum) = snapshot.split_at(8);
        self.records = u64::from_le_bytes(records.try_into().unwrap());
        self.checksum = u32::from_le_bytes(checksum.try_into().unwrap());
        assert_eq!(self.records, position.value());
        Ok(())
    }

    fn apply(&mut self, position: Position, record: &[u8]) -> Result<(), String> {
        self.add(record);
        assert_eq!(self.records, position.value());
        Ok(())
    }
}

/// What a build without sync would do.
#[derive(Debug, Clone)]
struct NoSync(FileDisk);

impl Disk for NoSync {
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
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.write(name, offset, bytes)
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

#[derive(Debug, Default)]
struct Report {
    kills: u64,
    acknowledged: u64,
    before_open: u64,
    unacknowledged: u64,
    in_spare: u64,
    in_snapshot: u64,
    from_snapshot: u64,
    segments: u64,
    took: Duration,
}

/// Kills `kills` processes; the first thing that must not be, as an error.
fn play(seed: u64, kills: u64, fault: &str) -> Result<Report, String> {
    let began = Instant::now();
    let mut random = Random(seed);
    let mut report = Report::default();
    while report.kills < kills {
        let directory = tempfile::tempdir().unwrap();
        let mut written: Vec<Vec<u8>> = Vec::new();
        for _ in 0..KILLS_PER_DIRECTORY.min(kills - report.kills) {
            report.kills += 1;
            let life = random.next();
            let place = format!("kill {} (life {life})", report.kills);
            let told = run_and_kill(directory.path(), life, fault, &mut random);
            let told = told.map_err(|why| format!("{place}: {why}"))?;
            check(directory.path(), &told, life, &mut written).map_err(|why| format!("{place}: {why}"))?;
            report.count(&told);
        }
        report.segments += verify(&FileDisk::open_read_only(directory.path()).unwrap()).unwrap().segments;
    }
    report.took = began.elapsed();
    Ok(report)
}

impl Report {
    fn count(&mut self, told: &Told) {
        self.acknowledged += told.acknowledged_now;
        self.before_open += u64::from(told.opened.is_none());
        self.unacknowledged += u64::from(told.sync_begun > told.acknowledged);
        self.in_spare += u64::from(told.last == "spare");
        self.in_snapshot += u64::from(told.last == "snapshot");
        self.from_snapshot += u64::from(told.opened.is_some_and(|(_, _, from)| from > 0));
    }
}

/// Compares what is on the disk with what the process has said, and takes it over for the next life.
fn check(directory: &Path, told: &Told, life: u64, written: &mut Vec<Vec<u8>>) -> Result<(), String> {
    let before = written.len() as u64;
    if let Some((position, checksum, _)) = told.opened {
        let mut digest = Digest::default();
        written.iter().for_each(|record| digest.add(record));
        if (position, checksum) != (digest.records, digest.checksum) {
            return Err(format!("{before} records were on disk, it began with {position}, or with others"));
        }
    }
    let found = read(directory)?;
    let count = found.len() as u64;
    if count < told.acknowledged.max(before) {
        return Err(format!(
            "lost: {} were acknowledged, {before} were there, {count} are",
            told.acknowledged
        ));
    }
    if count > told.sync_begun.max(before) {
        return Err(format!("{count} records are there, and only {} were to be synced", told.sync_begun));
    }
    for (position, found) in (1..).zip(&found) {
        let expected = match written.get(usize::try_from(position - 1).unwrap()) {
            Some(record) => record.clone(),
            None => record(life, position),
        };
        if *found != expected {
            return Err(format!("record {position} is another one than was appended"));
        }
    }
    *written = found;
    Ok(())
}

/// All records on the disk, as a reader sees them who changes nothing: recovery is left to the next process.
fn read(directory: &Path) -> Result<Vec<Vec<u8>>, String> {
    let disk = FileDisk::open_read_only(directory).unwrap();
    let mut records = Vec::new();
    for_each_record(&disk, |_, _, record| records.push(record.to_vec()))
        .map_err(|error| error.to_string())?;
    Ok(records)
}

/// What a process has said before it was killed.
#[derive(Debug, Default)]
struct Told {
    /// Position, checksum, and the position of the snapshot that it started from.
    opened: Option<(u64, u32, u64)>,
    sync_begun: u64,
    acknowledged: u64,
    acknowledged_now: u64,
    lines: u64,
    last: String,
}

impl Told {
    fn hear(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().map_err(|error| format!("{line}: {error}"));
        match words[..] {
            ["open", _, checksum, _] => {
                let checksum = checksum.parse().map_err(|error| format!("{line}: {error}"))?;
                self.opened = Some((number(1)?, checksum, number(3)?));
            }
            ["sync", _] => self.sync_begun = number(1)?,
            ["acknowledged", _] => {
                self.acknowledged = number(1)?;
                self.acknowledged_now += 1;
            }
            ["spare" | "spare-made" | "snapshot" | "snapshot-made"] => {}
            // The test harness around the worker.
            ["" | "running" | "test", ..] => return Ok(()),
            _ => return Err(format!("it said `{line}`")),
        }
        self.lines += 1;
        line.clone_into(&mut self.last);
        Ok(())
    }
}

/// Ends with the value.
struct Running(Child);
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The moment is chosen by what it says: a number of lines, or the first time that it begins something rare; and a
/// little later. The rest is up to the machine.
fn run_and_kill(directory: &Path, life: u64, fault: &str, random: &mut Random) -> Result<Told, String> {
    let wanted = ["spare", "snapshot", "sync", ""][random.index(4)];
    let lines_max = [0, 2, 60, 400][random.index(4)];
    let lines_max = random.below(lines_max + 1);
    let spin = Duration::from_micros(random.below(400));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([WORKER, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(DIRECTORY, directory).env(LIFE, life.to_string()).env(FAULT, fault);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut told = Told::default();
    while told.lines < lines_max {
        let Some(line) = lines.next() else { return Err("it ended by itself".to_owned()) };
        told.hear(&line.unwrap())?;
        if !wanted.is_empty() && told.last.split(' ').next() == Some(wanted) && told.lines > lines_max / 2 {
            break;
        }
    }
    let began = Instant::now();
    while began.elapsed() < spin {
        std::hint::spin_loop();
    }
    child.0.kill().unwrap();
    for line in lines {
        told.hear(&line.unwrap())?;
    }
    let status = child.0.wait().unwrap();
    if status.code().is_some() {
        return Err(format!("it ended by itself: {status}"));
    }
    Ok(told)
}
