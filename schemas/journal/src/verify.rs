//! Reading without changing: for `journal verify` and `journal dump`.

use crate::disk::Disk;
use crate::frame;
use crate::open::present_segments;
use crate::position::{Anchor, ChainId, FrameHash, Position, Tip};
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
    let mut hashes = Vec::new();
    let snapshots = snapshot_names(disk)?;
    let wanted = |tip: &Tip| snapshots.iter().any(|(position, _)| *position == tip.position);
    let result = read(disk, &mut report, &mut |report, tip| {
        report.frames += 1;
        report.records = tip.position;
        report.last_hash = Some(tip.hash);
        if wanted(tip) {
            hashes.push(*tip);
        }
    });
    match result {
        Ok(()) => {}
        Err(OpenError::Disk(error)) => return Err(OpenError::Disk(error)),
        Err(error) => report.problem = Some(Problem::from(&error)),
    }
    for (position, file) in snapshots {
        let problem = check_snapshot(disk, &file, position, &report, &hashes).err();
        report.snapshots.push(SnapshotReport { file, position, problem });
    }
    Ok(report)
}

/// Gives every record, in order, with its position and frame. Stops with an error at the first damage.
pub fn for_each_record<D: Disk>(
    disk: &D,
    mut on_record: impl FnMut(Position, &FrameInfo, &[u8]),
) -> Result<(), OpenError> {
    let segments = present_segments(disk)?;
    let Some(chain_id) = existing_chain_id(disk)? else {
        return Ok(());
    };
    let start = first_anchor(disk, chain_id, &segments)?;
    scan(disk, chain_id, start, &segments, &mut |segment, offset, frame| {
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

fn read<D: Disk>(
    disk: &D,
    report: &mut Report,
    on_frame: &mut dyn FnMut(&mut Report, &Tip),
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
    let found = scan(disk, chain_id, start, &segments, &mut |_, _, frame| {
        on_frame(report, &frame.tip());
        Ok(())
    })?;
    report.torn_tail = (!found.tail_is_blank()).then(|| Problem {
        file: segment_name(found.bad_segment),
        offset: found.bad_offset,
        reason: found.defect.to_string(),
    });
    Ok(())
}

/// Where the first segment on disk starts: the genesis, or what its first frame says when older ones were archived.
fn first_anchor<D: Disk>(disk: &D, chain_id: ChainId, segments: &[u64]) -> Result<Anchor, OpenError> {
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
    let archived = position <= report.starts_after;
    if !archived && !tips.contains(&snapshot.anchor.tip) {
        return Err(format!("its hash is not that of the journal after record {position}"));
    }
    Ok(())
}

impl From<&OpenError> for Problem {
    fn from(error: &OpenError) -> Self {
        let (file, offset) = match error {
            OpenError::Corrupt { file, offset, .. } => (file.clone(), *offset),
            OpenError::Version { file, .. }
            | OpenError::OtherChain { file, .. }
            | OpenError::Missing { file, .. } => (file.clone(), 0),
            OpenError::Disk(_) | OpenError::Limits(_) | OpenError::Fold { .. } => (String::new(), 0),
        };
        Self { file, offset, reason: error.to_string() }
    }
}
