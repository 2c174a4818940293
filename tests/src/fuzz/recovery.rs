//! The journal's recovery over directories with anything in them: arbitrary files, real ones that were damaged, and
//! forged ones with right checksums.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use schemas_journal::{
    ChainId, Disk, Fold, Journal, JournalLimits, MemoryDisk, OpenError, Position, existing_chain_id,
    for_each_record, verify,
};

use super::input::Input;

const CHAIN: ChainId = ChainId([0xC5; 32]);
const LIMITS: JournalLimits = JournalLimits {
    record_max_bytes: 400,
    frame_max_bytes: 1000,
    segment_bytes: 2048 + 64,
    snapshot_every_segments: 1,
};
/// More bytes than any input should make.
const FILES_MAX: usize = 12;

type Files = BTreeMap<String, Vec<u8>>;

/// First byte: the beginning (0: nothing; else a real journal), and whether checksums are made right at the end.
/// Then changes to the files.
pub fn recovery(data: &[u8]) {
    let mut input = Input::new(data);
    let selector = input.byte();
    let (mut files, original) = match selector & 3 {
        0 => (Files::new(), None),
        which => {
            let (files, records) = &real_journals()[usize::from(which) - 1];
            (files.clone(), Some(records))
        }
    };
    while !input.is_empty() {
        change(&mut files, &mut input);
    }
    let is_forged = selector & 4 != 0;
    if is_forged {
        make_checksums_right(&mut files);
    }
    check(&files, original.filter(|_| !is_forged).map(Vec::as_slice));
}

/// Opens without panic; refuses and changes nothing, or goes on; never says what was not appended.
fn check(files: &Files, original: Option<&[Vec<u8>]>) {
    let disk = disk_with(files);
    let before = verify(&disk);
    let chain_id = existing_chain_id(&disk).ok().flatten().unwrap_or(CHAIN);
    let mut log = Log::default();
    let mut journal = match Journal::open(disk.clone(), LIMITS, chain_id, &mut log) {
        Ok(journal) => journal,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let may_have_changed = matches!(error, OpenError::Disk(_) | OpenError::Limits(_));
            assert!(may_have_changed || content(&disk) == *files, "refused, and changed something: {error}");
            return;
        }
    };
    if let Some(original) = original {
        let known = if log.is_incomplete { &[][..] } else { &log.records[..] };
        assert!(original.starts_with(known), "what is there is no prefix of what was appended");
    }
    let position = journal.position();
    journal.append(&["more"]).unwrap_or_else(|why| panic!("does not go on: {why}"));
    journal.sync().unwrap();
    if before.is_ok_and(|report| report.problem.is_none()) {
        assert_eq!(verify(&disk).unwrap().problem, None, "sound before, and damaged by recovery");
        for_each_record(&disk, |_, _, _| {}).unwrap();
    }
    let reopened = Journal::open(disk, LIMITS, chain_id, &mut Log::default()).unwrap();
    assert_eq!(reopened.position().value(), position.value().saturating_add(1));
}

/// All records, as far as snapshots tell them.
#[derive(Debug, Default)]
struct Log {
    records: Vec<Vec<u8>>,
    /// A forged snapshot has restored something else.
    is_incomplete: bool,
}

impl Log {
    fn encode(&self) -> Vec<u8> {
        self.records.iter().flat_map(|record| [&[record.len() as u8], &record[..]].concat()).collect()
    }
}

impl Fold for Log {
    type Error = &'static str;

    fn restore(&mut self, position: Position, snapshot: &[u8]) -> Result<(), Self::Error> {
        let mut records = Vec::new();
        let mut rest = snapshot;
        while let Some((length, after)) = rest.split_first() {
            let (record, after) =
                after.split_at_checked(usize::from(*length)).ok_or("a record is cut off")?;
            records.push(record.to_vec());
            rest = after;
        }
        self.is_incomplete = records.len() as u64 != position.value();
        self.records = records;
        Ok(())
    }

    fn apply(&mut self, _: Position, record: &[u8]) -> Result<(), Self::Error> {
        self.records.push(record.to_vec());
        Ok(())
    }
}

fn disk_with(files: &Files) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for (name, bytes) in files {
        disk.publish(name, bytes).unwrap();
    }
    disk
}

fn content(disk: &MemoryDisk) -> Files {
    let read = |name: String| {
        let mut bytes = vec![0; usize::try_from(disk.len(&name).unwrap()).unwrap()];
        disk.read(&name, 0, &mut bytes).unwrap();
        (name, bytes)
    };
    disk.list().unwrap().into_iter().map(read).collect()
}

/// Three journals as they are found: one segment; several with snapshots; a tail that a power cut tore.
pub(super) fn real_journals() -> &'static [(Files, Vec<Vec<u8>>); 3] {
    static JOURNALS: OnceLock<[(Files, Vec<Vec<u8>>); 3]> = OnceLock::new();
    JOURNALS.get_or_init(|| {
        let make = |synced: u8, unsynced: u8| {
            let disk = MemoryDisk::new();
            let mut journal = Journal::open(disk.clone(), LIMITS, CHAIN, &mut Log::default()).unwrap();
            let mut records = Vec::new();
            for number in 0..synced + unsynced {
                let record = vec![number + 1; 100 + 30 * usize::from(number % 4)];
                journal.append(&[&record]).unwrap();
                records.push(record);
                if number < synced {
                    journal.sync().unwrap();
                }
                if let Some(job) = journal.spare_job() {
                    journal.handle_spare(job.run(&disk)).unwrap();
                }
                if let Some(job) = journal.snapshot_job() {
                    let result = job.run(&disk, &mut Log::default(), Log::encode);
                    journal.handle_snapshot(&result).unwrap();
                }
            }
            disk.crash(11);
            (content(&disk), records)
        };
        [make(3, 0), make(24, 0), make(12, 8)]
    })
}

/// One change: the file, then what is done to it.
fn change(files: &mut Files, input: &mut Input<'_>) {
    let (operation, which) = (input.byte(), usize::from(input.byte()));
    let name = files.keys().nth(which % files.len().max(1)).cloned();
    if operation % 10 == 0 || name.is_none() {
        let name = file_name(input);
        let length = usize::from(input.word());
        if files.len() < FILES_MAX {
            files.insert(name, input.take(length).to_vec());
        }
        return;
    }
    let name = name.unwrap_or_default();
    let bytes = files.entry(name.clone()).or_default();
    let at = usize::from(input.word()) % bytes.len().max(1);
    match operation % 10 {
        1 if !bytes.is_empty() => bytes[at] ^= 1 << (input.byte() % 8),
        2 => {
            let length = usize::from(input.byte());
            for (place, value) in bytes.iter_mut().skip(at).zip(input.take(length)) {
                *place = *value;
            }
        }
        3 => {
            let length = usize::from(input.word());
            bytes.iter_mut().skip(at).take(length).for_each(|byte| *byte = 0);
        }
        4 => bytes.truncate(at),
        5 => bytes.resize(at + usize::from(input.word()) % 4096, input.byte()),
        6 => {
            let (to, length) = (usize::from(input.word()) % bytes.len().max(1), usize::from(input.word()));
            let copied: Vec<u8> = bytes.iter().skip(at).take(length).copied().collect();
            for (place, value) in bytes.iter_mut().skip(to).zip(copied) {
                *place = value;
            }
        }
        7 => {
            files.remove(&name);
        }
        8 => {
            let bytes = files.remove(&name).unwrap_or_default();
            files.insert(file_name(input), bytes);
        }
        9 if files.len() < FILES_MAX => {
            let bytes = files.get(&name).cloned().unwrap_or_default();
            files.insert(file_name(input), bytes);
        }
        _ => {}
    }
}

fn file_name(input: &mut Input<'_>) -> String {
    let (kind, number) = (input.byte(), u64::from(input.byte()));
    let number = if kind & 0x80 != 0 { u64::MAX - number } else { number };
    match kind % 4 {
        0 | 1 => format!("journal-{number:08}.seg"),
        2 => format!("snapshot-{number:020}.snap"),
        _ => format!("journal-{number:08}.seg.tmp"),
    }
}

/// Somebody who knows the format: lengths, numbers and checksums of headers, frames and snapshots fit again.
fn make_checksums_right(files: &mut Files) {
    for (name, bytes) in files {
        if bytes.starts_with(b"FARTHJNL") && bytes.len() >= 64 {
            bytes[12..16].fill(0);
            let checksum = crc32c::crc32c(&bytes[..64]);
            bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
            let number =
                name.trim_start_matches("journal-").trim_end_matches(".seg").parse().unwrap_or(0_u64);
            let chain_id = bytes[32..64].to_vec();
            let mut at = 64;
            while let Some(header) = bytes.get(at..at + 72) {
                let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
                if header.starts_with(b"FJF1") && length >= 76 && at + length <= bytes.len() {
                    let frame = &mut bytes[at..at + length];
                    frame[36..40].fill(0);
                    let seed = crc32c::crc32c(&chain_id);
                    let seed = crc32c::crc32c_append(seed, &number.to_le_bytes());
                    let seed = crc32c::crc32c_append(seed, &(at as u64).to_le_bytes());
                    let checksum = crc32c::crc32c_append(seed, frame);
                    frame[36..40].copy_from_slice(&checksum.to_le_bytes());
                }
                at += 8;
            }
        } else if bytes.starts_with(b"FARTHSNP") && bytes.len() >= 128 {
            bytes[12..16].fill(0);
            let checksum = crc32c::crc32c(bytes);
            bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}
