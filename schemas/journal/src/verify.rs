//! Reading without changing: for `audit verify` and `audit show`.

use crate::disk::Disk;
use crate::frame;
use crate::open::present_segments;
use crate::position::{Anchor, ChainId, FrameHash, Head, Position, Tip};
use crate::scan::{OpenError, scan};
use crate::segment::{HEADER_BYTES, existing_chain_id, load, segment_name};
use crate::snapshot::{decode_file, genesis, read_file, snapshot_names};

/// What is in the journal, and whether all of it is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `None` for an empty directory.
    pub chain_id: Option<ChainId>,
    /// Segment files, the spare included.
    pub segments: u64,
    /// The position before the first segment that is here: more than zero when older ones were archived.
    pub starts_after: Position,
    /// Frames read.
    pub frames: u64,
    /// The position at the end.
    pub records: Position,
    /// The hash of the last frame: compare it with one noted before, and no record can have been changed since.
    pub last_hash: Option<FrameHash>,
    /// Snapshots, ascending.
    pub snapshots: Vec<SnapshotReport>,
    /// Unsynced writes at the end that a power cut tore, which the next start will cut. No problem: nobody was
    /// promised anything.
    pub torn_tail: Option<Problem>,
    /// The first thing that is wrong, `None` when the journal is sound.
    pub problem: Option<Problem>,
}

/// The first bad place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, when one can be named.
    pub file: String,
    /// Offset in bytes.
    pub offset: u64,
    /// What is wrong and what to do.
    pub reason: String,
    /// All records up to this position are sound: the next one is the first bad record.
    pub after: Position,
}

/// One snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotReport {
    /// The file.
    pub file: String,
    /// From its name.
    pub position: Position,
    /// Why it cannot be used, `None` when it is sound and agrees with the chain.
    pub problem: Option<String>,
}

/// One frame, as a reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// The segment number.
    pub segment: u64,
    /// Offset in bytes of the frame in its segment.
    pub offset: u64,
    /// Number of the frame, from 1.
    pub sequence: u64,
    /// Records in it.
    pub count: u32,
    /// What was durable when it was written.
    pub synced_through: Position,
    /// The hash of the frame before it.
    pub previous: FrameHash,
}

/// Checks every segment and every snapshot on the disk, from the first file that is there. Changes nothing, so a torn
/// tail (which is no problem) stays. Damage is in the report; only an unreadable disk is an error.
pub fn verify<D: Disk>(disk: &D) -> Result<Report, OpenError> {
    verify_against(disk, Position::END, &[])
}

/// As [`verify`], and each of `noted` must be found again: a chain that was cut or written anew is sound in itself, but
/// it does not lead to a head that was noted before.
///
/// `through` is what the process that writes the journal says to be durable, so that half a write of it is no damage;
/// [`Position::END`] when nobody writes. Records up to there must be on the disk.
pub fn verify_against<D: Disk>(disk: &D, through: Position, noted: &[Head]) -> Result<Report, OpenError> {
    let mut report = Report {
        chain_id: None,
        segments: 0,
        starts_after: Position::ZERO,
        frames: 0,
        records: Position::ZERO,
        last_hash: None,
        snapshots: Vec::new(),
        torn_tail: None,
        problem: None,
    };
    let mut found = Vec::new();
    let snapshots = snapshot_names(disk)?;
    let wanted = |tip: &Tip| {
        snapshots.iter().any(|(position, _)| *position == tip.position)
            || noted.iter().any(|head| head.position == tip.position)
    };
    let result = read(disk, through, &mut report, &mut |report, segment, offset, tip| {
        if offset > 0 {
            report.frames += 1;
            report.records = tip.position;
            report.last_hash = Some(tip.hash);
        }
        if wanted(tip) {
            found.push((*tip, segment, offset));
        }
    });
    let after = report.records;
    match result {
        Ok(()) => report.problem = missed(noted, &found, &report),
        Err(OpenError::Disk(error)) => return Err(OpenError::Disk(error)),
        Err(error) => report.problem = Some(Problem::of(&error, after)),
    }
    let tips: Vec<Tip> = found.into_iter().map(|(tip, ..)| tip).collect();
    for (position, file) in snapshots {
        let problem = check_snapshot(disk, &file, position, &report, &tips).err();
        if problem.is_some() && !disk.list()?.contains(&file) {
            // Its owner has made a newer one meanwhile, and removed this one.
            continue;
        }
        report.snapshots.push(SnapshotReport { file, position, problem });
    }
    Ok(report)
}

/// The first of the noted heads that the chain does not lead to.
fn missed(noted: &[Head], found: &[(Tip, u64, u64)], report: &Report) -> Option<Problem> {
    let mut noted = noted.to_vec();
    noted.sort_by_key(|head| head.position);
    let mut after = report.starts_after;
    for head in noted {
        let here = found.iter().find(|(tip, ..)| tip.position == head.position);
        let (segment, offset, reason) = match here {
            Some((tip, ..)) if tip.hash == head.hash => {
                after = head.position;
                continue;
            }
            Some((tip, segment, offset)) => (
                *segment,
                *offset,
                format!(
                    "the hash after record {} is {}, but {} was noted",
                    head.position, tip.hash, head.hash
                ),
            ),
            None if head.position > report.records => (
                0,
                0,
                format!(
                    "the journal ends at record {}, but record {} was noted",
                    report.records, head.position
                ),
            ),
            None if head.position < report.starts_after => (
                0,
                0,
                format!(
                    "the journal here starts after record {}: add the archive to check what was noted at record {}",
                    report.starts_after, head.position
                ),
            ),
            None => (0, 0, format!("no batch ends at record {}, where a hash was noted", head.position)),
        };
        let file = if segment == 0 { String::new() } else { segment_name(segment) };
        let reason =
            format!("{reason}: records were cut off or written anew; restore the journal from a backup");
        return Some(Problem { file, offset, reason, after });
    }
    None
}

/// Gives every record, in order, with its position and frame. Stops with an error at the first damage.
pub fn for_each_record<D: Disk>(
    disk: &D,
    on_record: impl FnMut(Position, &FrameInfo, &[u8]),
) -> Result<(), OpenError> {
    for_each_record_through(disk, Position::END, on_record)
}

/// As [`for_each_record`], up to this position and no further: what another process is writing behind it is not read.
pub fn for_each_record_through<D: Disk>(
    disk: &D,
    through: Position,
    mut on_record: impl FnMut(Position, &FrameInfo, &[u8]),
) -> Result<(), OpenError> {
    let segments = present_segments(disk)?;
    let Some(chain_id) = existing_chain_id(disk)? else {
        return Ok(());
    };
    let start = first_anchor(disk, chain_id, &segments)?;
    scan(disk, chain_id, start, &segments, through, &mut |segment, offset, frame| {
        let info = FrameInfo {
            segment,
            offset,
            sequence: frame.sequence,
            count: frame.count,
            synced_through: frame.synced_through,
            previous: frame.previous(),
        };
        for (position, record) in frame.records() {
            on_record(position, &info, record);
        }
        Ok(())
    })
    .map(|_| ())
}

/// Is called with offset 0 for the start, then for each frame.
type OnTip<'a> = dyn FnMut(&mut Report, u64, u64, &Tip) + 'a;

fn read<D: Disk>(
    disk: &D,
    through: Position,
    report: &mut Report,
    on_tip: &mut OnTip<'_>,
) -> Result<(), OpenError> {
    let segments = present_segments(disk)?;
    report.segments = segments.len() as u64;
    let Some(chain_id) = existing_chain_id(disk)? else {
        return Ok(());
    };
    report.chain_id = Some(chain_id);
    let start = first_anchor(disk, chain_id, &segments)?;
    report.starts_after = start.tip.position;
    report.records = start.tip.position;
    on_tip(report, start.segment, 0, &start.tip);
    let found = scan(disk, chain_id, start, &segments, through, &mut |segment, offset, frame| {
        on_tip(report, segment, offset, &frame.tip());
        Ok(())
    })?;
    if found.is_stopped {
        return Ok(());
    }
    if through != Position::END {
        return Err(OpenError::Corrupt {
            file: segment_name(found.bad_segment),
            offset: found.bad_offset,
            reason: format!(
                "the journal ends here after record {}, but {through} records were on disk",
                found.end.tip.position
            ),
        });
    }
    report.torn_tail = (!found.tail_is_blank()).then(|| Problem {
        file: segment_name(found.bad_segment),
        offset: found.bad_offset,
        reason: found.defect.to_string(),
        after: found.end.tip.position,
    });
    Ok(())
}

/// Where the first segment on disk starts: the genesis, or what its first frame says when older ones were archived.
pub(crate) fn first_anchor<D: Disk>(
    disk: &D,
    chain_id: ChainId,
    segments: &[u64],
) -> Result<Anchor, OpenError> {
    let start = genesis(chain_id);
    let segment = segments.first().copied().unwrap_or(start.segment);
    if segment == start.segment {
        return Ok(start);
    }
    let mut buffer = Vec::new();
    load(disk, &segment_name(segment), &mut buffer)?;
    let tip = frame::parse(&buffer, chain_id, segment, HEADER_BYTES).map_or(start.tip, |first| Tip {
        position: first.before,
        sequence: first.sequence.saturating_sub(1),
        hash: first.previous(),
    });
    Ok(Anchor { tip, segment, ..start })
}

fn check_snapshot<D: Disk>(
    disk: &D,
    file: &str,
    position: Position,
    report: &Report,
    tips: &[Tip],
) -> Result<(), String> {
    let bytes = read_file(disk, file).map_err(|error| error.to_string())?;
    let snapshot = decode_file(file, position, &bytes)?;
    if Some(snapshot.chain_id) != report.chain_id {
        return Err(format!("it belongs to journal {}", snapshot.chain_id));
    }
    let archived = position < report.starts_after;
    if !archived && !tips.contains(&snapshot.anchor.tip) {
        return Err(format!("its hash is not that of the journal after record {position}"));
    }
    Ok(())
}

impl Problem {
    fn of(error: &OpenError, after: Position) -> Self {
        let (file, offset) = match error {
            OpenError::Corrupt { file, offset, .. } => (file.clone(), *offset),
            OpenError::Version { file, .. }
            | OpenError::OtherChain { file, .. }
            | OpenError::Missing { file, .. } => (file.clone(), 0),
            OpenError::Disk(_) | OpenError::Limits(_) | OpenError::Fold { .. } => (String::new(), 0),
        };
        Self { file, offset, reason: error.to_string(), after }
    }
}
