//! Recovery: restore, replay, judge the tail, and only then repair.

use crate::disk::{Disk, DiskError};
use crate::fold::Fold;
use crate::frame;
use crate::journal::{Journal, Spare};
use crate::limits::JournalLimits;
use crate::position::{Anchor, ChainId, Position};
use crate::scan::{OpenError, Scan, scan};
use crate::segment::{HEADER_BYTES, segment_name, segment_numbers};
use crate::snapshot::{Restored, apply, genesis, restore_newest};
use crate::spare::SpareJob;

/// What recovery found and did, for the log and the `status` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The snapshot it started from; `None` when all records were replayed.
    pub snapshot: Option<Position>,
    /// Snapshots that could not be used, each with the reason.
    pub refused_snapshots: Vec<String>,
    /// Records replayed after the snapshot.
    pub replayed_records: u64,
    /// The torn tail, if there was one.
    pub cut: Option<Cut>,
}

/// A torn tail that was zeroed: writes that never were synced, so nobody was promised anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: String,
    /// Offset in bytes of the first bad place.
    pub offset: u64,
    /// Number of bytes that were not zero, later segments included.
    pub bytes: u64,
    /// What was found instead of a frame.
    pub reason: String,
}

impl<D: Disk> Journal<D> {
    /// Recovers the journal on this disk, or makes it when the directory is empty, and rebuilds `state` from it.
    ///
    /// `chain_id` names the journal: take it from [`existing_chain_id`](crate::existing_chain_id), or choose 32
    /// random bytes for a new one.
    ///
    /// # Errors
    /// Refuses damage to synced frames with file, offset and reason, and then has changed nothing. A torn tail is
    /// zeroed and synced. Everything that is left is synced before this returns: after a mere process crash a frame
    /// may be in the page cache only, and outputs are about to be computed from it.
    pub fn open<F: Fold>(
        disk: D,
        limits: JournalLimits,
        chain_id: ChainId,
        state: &mut F,
    ) -> Result<Self, OpenError> {
        limits.validate()?;
        let segments = present_segments(&disk)?;
        let restored = restore_newest(&disk, chain_id, Position::new(u64::MAX), state)?;
        let start = restored.anchor.unwrap_or_else(|| genesis(chain_id));
        refuse_missing_start(&segments, &start, &restored)?;
        let found =
            scan(&disk, chain_id, start, &segments, Position::END, &mut |_, _, frame| apply(frame, state))?;
        refuse_lost_snapshot_records(&found, &restored)?;

        remove_leftovers(&disk)?;
        let cut = repair(&disk, &limits, chain_id, &segments, &found)?;
        let end = found.end;
        let spare = prepare_spare(&disk, &limits, chain_id, end.segment + 1)?;
        let active_bytes = disk.len(&segment_name(end.segment))?;
        let recovery = Recovery {
            snapshot: restored.anchor.map(|anchor| anchor.tip.position),
            refused_snapshots: restored.refused,
            replayed_records: end.tip.position.value() - start.tip.position.value(),
            cut,
        };
        Ok(Self::recovered(disk, limits, chain_id, found, active_bytes, spare, restored.anchor, recovery))
    }
}

/// All segment numbers; a hole means that somebody took a file away.
pub(crate) fn present_segments<D: Disk>(disk: &D) -> Result<Vec<u64>, OpenError> {
    let segments = segment_numbers(disk)?;
    for pair in segments.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(OpenError::Missing {
                file: segment_name(pair[0] + 1),
                reason: format!("{} is there, so it must be too; bring it back", segment_name(pair[1])),
            });
        }
    }
    Ok(segments)
}

fn refuse_missing_start(segments: &[u64], start: &Anchor, restored: &Restored) -> Result<(), OpenError> {
    let is_new = segments.is_empty() && restored.newest == Position::ZERO;
    if is_new || segments.contains(&start.segment) {
        return Ok(());
    }
    let refused = restored.refused.join("; ");
    Err(OpenError::Missing {
        file: segment_name(start.segment),
        reason: format!(
            "recovery starts there, after record {}; bring it back from the archive ({})",
            start.tip.position,
            if refused.is_empty() { "no snapshot was refused" } else { &refused }
        ),
    })
}

/// A snapshot is only ever made of synced records. So its name alone proves that they were on disk.
fn refuse_lost_snapshot_records(found: &Scan, restored: &Restored) -> Result<(), OpenError> {
    if found.end.tip.position >= restored.newest {
        return Ok(());
    }
    Err(OpenError::Corrupt {
        file: segment_name(found.bad_segment),
        offset: found.bad_offset,
        reason: format!(
            "{} after record {}, but a snapshot of {} records exists",
            found.defect, found.end.tip.position, restored.newest
        ),
    })
}

/// Files that a power cut left half written.
fn remove_leftovers<D: Disk>(disk: &D) -> Result<(), DiskError> {
    for name in disk.list()?.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(name)?;
    }
    Ok(())
}

/// Zeroes everything behind the end of the chain and makes all before it durable. A power cut in the middle leaves
/// what the next recovery judges in the same way.
fn repair<D: Disk>(
    disk: &D,
    limits: &JournalLimits,
    chain_id: ChainId,
    segments: &[u64],
    found: &Scan,
) -> Result<Option<Cut>, OpenError> {
    let tail = found.end.segment;
    let mut bytes = 0;
    for number in segments.iter().rev().copied().filter(|number| *number > tail) {
        let name = segment_name(number);
        if number > tail + 1 || found.unfinished == Some(number) {
            disk.remove(&name)?;
        } else {
            bytes += zero_from(disk, &name, HEADER_BYTES as u64)?;
        }
    }
    let tail_name = segment_name(tail);
    if segments.is_empty() || found.unfinished == Some(tail) {
        SpareJob { number: tail, file_bytes: limits.segment_bytes, chain_id }.run(disk)?;
    } else {
        bytes += zero_from(disk, &tail_name, found.end.offset)?;
    }
    for (number, position) in &found.segment_ends {
        if *position > found.synced_through {
            let from = found.unvouched_from(disk, chain_id, *number)?;
            let to = if *number == tail { found.end.offset } else { disk.len(&segment_name(*number))? };
            write_again(disk, &segment_name(*number), from, to)?;
        }
    }
    Ok((bytes > 0).then(|| Cut {
        file: segment_name(found.bad_segment),
        offset: found.bad_offset,
        bytes,
        reason: found.defect.to_string(),
    }))
}

/// Writes what is there once more and syncs it. After a failed sync the pages may be readable and count as clean: a
/// sync alone would then promise what is not on the disk.
fn write_again<D: Disk>(disk: &D, name: &str, from: u64, to: u64) -> Result<(), DiskError> {
    let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)];
    disk.read(name, from, &mut bytes)?;
    disk.write(name, from, &bytes)?;
    disk.sync(name)
}

/// Zeroes a file from `offset` on, writing only where it is not zero yet, and returns how many bytes were not.
fn zero_from<D: Disk>(disk: &D, name: &str, offset: u64) -> Result<u64, DiskError> {
    const CHUNK_BYTES: usize = 64 << 10;
    let zeros = vec![0; CHUNK_BYTES];
    let mut chunk = vec![0; CHUNK_BYTES];
    let file_bytes = disk.len(name)?;
    let mut at = offset;
    let mut dirty = 0;
    while at < file_bytes {
        let length = usize::try_from(file_bytes - at).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
        disk.read(name, at, &mut chunk[..length])?;
        if !frame::is_zero(&chunk[..length]) {
            disk.write(name, at, &zeros[..length])?;
            dirty += chunk[..length].iter().filter(|byte| **byte != 0).count() as u64;
        }
        at += length as u64;
    }
    if dirty > 0 {
        disk.sync(name)?;
    }
    Ok(dirty)
}

/// Makes the spare at once: a start is not on anybody's path. A spare of a former, smaller size is replaced, so that
/// the largest frame always fits.
fn prepare_spare<D: Disk>(
    disk: &D,
    limits: &JournalLimits,
    chain_id: ChainId,
    number: u64,
) -> Result<Spare, DiskError> {
    let name = segment_name(number);
    if disk.list()?.contains(&name) {
        let file_bytes = disk.len(&name)?;
        if file_bytes >= limits.segment_bytes {
            // Its header may be in the page cache only, left by a sync that failed.
            write_again(disk, &name, 0, HEADER_BYTES as u64)?;
            return Ok(Spare::Ready { file_bytes });
        }
        disk.remove(&name)?;
    }
    match (SpareJob { number, file_bytes: limits.segment_bytes, chain_id }).run(disk) {
        Ok(ready) => Ok(Spare::Ready { file_bytes: ready.file_bytes }),
        Err(error) if error.is_out_of_space() => Ok(Spare::NoSpace),
        Err(error) => Err(error),
    }
}
