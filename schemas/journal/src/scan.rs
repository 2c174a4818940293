//! Follows the hash chain through the segments and decides what its end means: torn tail, or damage. Changes nothing.

use thiserror::Error;

use crate::disk::{Disk, DiskError};
use crate::frame::{self, ALIGNMENT, Defect, Frame};
use crate::limits::LimitsError;
use crate::position::{Anchor, ChainId, Position};
use crate::segment::{HEADER_BYTES, check_header, load, segment_name};

/// Skipped at once in the search for frames; a multiple of [`ALIGNMENT`].
const ZERO_BLOCK_BYTES: usize = 1 << 10;

/// Why a journal cannot be opened. Nothing on the disk was changed, unless it is a `Disk` error of the repair itself.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The disk did not answer.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Records that were on disk are damaged. Going on would lose them silently.
    #[error(
        "{file} is damaged at byte {offset}: {reason}; restore this file from a backup, do not delete it"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// Offset in bytes of the first bad place.
        offset: u64,
        /// What is wrong there and how that is known.
        reason: String,
    },
    /// Written by another release.
    #[error(
        "{file} has format version {version}, but this build reads version {supported}: run the release that wrote it, or a newer one"
    )]
    Version {
        /// The file.
        file: String,
        /// Found.
        version: u32,
        /// Read by this build.
        supported: u32,
    },
    /// A file of another journal.
    #[error("{file} belongs to journal {found}, not to {expected}: check the data directory")]
    OtherChain {
        /// The file.
        file: String,
        /// The chain id in the file.
        found: ChainId,
        /// The chain id the caller asked for.
        expected: ChainId,
    },
    /// A segment that must be there is not.
    #[error("{file} is missing: {reason}")]
    Missing {
        /// The file.
        file: String,
        /// Why it is needed, and what to do.
        reason: String,
    },
    /// The caller could not apply a record.
    #[error("record {position} cannot be applied: {reason}; run the release that wrote it, or a newer one")]
    Fold {
        /// The record.
        position: Position,
        /// What the caller said.
        reason: String,
    },
}

/// What following the chain found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The end of the chain. Everything behind it may be cut.
    pub(crate) end: Anchor,
    /// The end of the newest segment before the one where the chain ends.
    pub(crate) closed: Option<Anchor>,
    /// Each segment with frames, and the position at its end.
    pub(crate) segment_ends: Vec<(u64, Position)>,
    /// What the last frame knew to be durable.
    pub(crate) synced_through: Position,
    /// The last segment when its creation was interrupted: it holds no frame and has no header.
    pub(crate) unfinished: Option<u64>,
    /// The place where the next frame should have been.
    pub(crate) bad_segment: u64,
    pub(crate) bad_offset: u64,
    pub(crate) defect: Defect,
    /// It stopped where the caller wanted, so nothing is known of what follows.
    pub(crate) is_stopped: bool,
}

impl Scan {
    fn bad(&mut self, segment: u64, offset: u64, defect: Defect) {
        self.bad_segment = segment;
        self.bad_offset = offset;
        self.defect = defect;
    }

    /// The offset in a segment of the first frame that no later frame says to be durable; the header too where that is
    /// the first one.
    pub(crate) fn unvouched_from<D: Disk>(
        &self,
        disk: &D,
        chain_id: ChainId,
        segment: u64,
    ) -> Result<u64, OpenError> {
        let mut buffer = Vec::new();
        load(disk, &segment_name(segment), &mut buffer)?;
        let mut frames = frames_anywhere(&buffer, chain_id, segment, HEADER_BYTES);
        let first = frames.find(|(_, frame)| frame.end() > self.synced_through);
        Ok(first.map_or(0, |(offset, _)| if offset == HEADER_BYTES { 0 } else { offset as u64 }))
    }

    /// Nothing was written behind the end of the chain, so what is missing belongs into the next segment.
    pub(crate) fn tail_is_blank(&self) -> bool {
        matches!(self.defect, Defect::Blank | Defect::SegmentEnd)
    }
}

/// What the caller does with each frame, which starts at this offset of this segment.
pub(crate) type OnFrame<'a> = dyn FnMut(u64, u64, &Frame<'_>) -> Result<(), OpenError> + 'a;

/// Follows the chain from `start`, at most `through` this position. `segments` are all segment numbers on disk,
/// ascending and without holes.
///
/// With `through` frames behind it are not looked at: another process may be writing them.
pub(crate) fn scan<D: Disk>(
    disk: &D,
    chain_id: ChainId,
    start: Anchor,
    segments: &[u64],
    through: Position,
    on_frame: &mut OnFrame<'_>,
) -> Result<Scan, OpenError> {
    let mut buffer = Vec::new();
    let mut scan = Scan {
        end: start,
        closed: None,
        segment_ends: Vec::new(),
        synced_through: Position::ZERO,
        unfinished: None,
        bad_segment: start.segment,
        bad_offset: start.offset,
        defect: Defect::Blank,
        is_stopped: start.tip.position >= through,
    };
    for number in segments.iter().copied().filter(|number| *number >= start.segment) {
        if scan.is_stopped {
            return Ok(scan);
        }
        load(disk, &segment_name(number), &mut buffer)?;
        if let Err(error) = check_header(&buffer, number, chain_id) {
            let is_last = segments.last() == Some(&number);
            // The header was durable before the first frame was written. So without a frame the creation of the
            // last segment was interrupted; with one, the header was damaged later.
            if is_last && matches!(error, OpenError::Corrupt { .. }) && !has_frame(&buffer, chain_id, number)
            {
                scan.unfinished = Some(number);
                break;
            }
            return Err(error);
        }
        if number != start.segment {
            match frame::parse(&buffer, chain_id, number, HEADER_BYTES) {
                Ok(first) if first.continues(&scan.end.tip).is_ok() => {
                    scan.closed = Some(scan.end);
                    scan.end =
                        Anchor { segment: number, offset: HEADER_BYTES as u64, last_frame: 0, ..scan.end };
                }
                Err(defect) if defect != Defect::Blank && scan.tail_is_blank() => {
                    scan.bad(number, HEADER_BYTES as u64, defect);
                    break;
                }
                Ok(_) if scan.defect == Defect::Blank => {
                    scan.defect = Defect::Hole;
                    break;
                }
                _ => break,
            }
        }
        follow(&buffer, chain_id, through, &mut scan, on_frame)?;
        scan.segment_ends.push((number, scan.end.tip.position));
    }
    if !scan.is_stopped {
        refuse_if_vouched_for(disk, chain_id, &scan, segments, &mut buffer)?;
    }
    Ok(scan)
}

/// Follows the chain through one loaded segment, from `scan.end` to the first place without a frame.
fn follow(
    bytes: &[u8],
    chain_id: ChainId,
    through: Position,
    scan: &mut Scan,
    on_frame: &mut OnFrame<'_>,
) -> Result<(), OpenError> {
    let segment = scan.end.segment;
    loop {
        let offset = scan.end.offset;
        if scan.end.tip.position >= through {
            scan.is_stopped = true;
            return Ok(());
        }
        match frame::parse(bytes, chain_id, segment, to_index(offset)) {
            Err(defect) => {
                scan.bad(segment, offset, defect);
                return Ok(());
            }
            Ok(frame) if frame.end() > through && frame.before < through => {
                // A batch is one thing: it is taken whole or not at all.
                scan.is_stopped = true;
                return Ok(());
            }
            Ok(frame) => {
                // Everything was zeroed and synced before use, so a whole frame here that is not the next one
                // cannot come from a power cut.
                let tip = frame.continues(&scan.end.tip).map_err(|reason| OpenError::Corrupt {
                    file: segment_name(segment),
                    offset,
                    reason,
                })?;
                on_frame(segment, offset, &frame)?;
                scan.synced_through = frame.synced_through;
                scan.end =
                    Anchor { tip, segment, offset: offset + frame.length() as u64, last_frame: offset };
            }
        }
    }
}

/// A later frame that says "what is missing here was synced" turns a torn tail into damage (correctness.md 2).
fn refuse_if_vouched_for<D: Disk>(
    disk: &D,
    chain_id: ChainId,
    scan: &Scan,
    segments: &[u64],
    buffer: &mut Vec<u8>,
) -> Result<(), OpenError> {
    let end = &scan.end;
    for number in segments.iter().copied().filter(|number| *number >= end.segment) {
        load(disk, &segment_name(number), buffer)?;
        let from = if number == end.segment { to_index(end.offset) } else { HEADER_BYTES };
        for (offset, frame) in frames_anywhere(buffer, chain_id, number, from) {
            if frame.synced_through > end.tip.position {
                return Err(OpenError::Corrupt {
                    file: segment_name(scan.bad_segment),
                    offset: scan.bad_offset,
                    reason: format!(
                        "{} where the frame after record {} should be, and the later frame {} ({} at byte {}) says that records up to {} were on disk",
                        scan.defect,
                        end.tip.position,
                        frame.sequence,
                        segment_name(number),
                        offset,
                        frame.synced_through
                    ),
                });
            }
        }
    }
    Ok(())
}

fn has_frame(bytes: &[u8], chain_id: ChainId, segment: u64) -> bool {
    frames_anywhere(bytes, chain_id, segment, HEADER_BYTES).next().is_some()
}

/// Every whole frame from `from` on, also behind bytes that are not one.
fn frames_anywhere(
    bytes: &[u8],
    chain_id: ChainId,
    segment: u64,
    from: usize,
) -> impl Iterator<Item = (usize, Frame<'_>)> {
    let mut offset = from;
    std::iter::from_fn(move || {
        while offset < bytes.len() {
            let here = offset;
            if frame::has_magic(bytes, here)
                && let Ok(frame) = frame::parse(bytes, chain_id, segment, here)
            {
                offset += frame.length();
                return Some((here, frame));
            }
            // No frame begins in a block of zeros, and most of a segment is that.
            let block = bytes.get(here..here + ZERO_BLOCK_BYTES).filter(|block| block[0] == 0);
            let is_zero = block.is_some_and(frame::is_zero);
            offset += if is_zero { ZERO_BLOCK_BYTES } else { ALIGNMENT };
        }
        None
    })
}

pub(crate) fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
