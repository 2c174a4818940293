//! A copy of a journal up to a position: how a backup is made beside a running process, and how one is taken back to a
//! point.

use std::collections::BTreeSet;

use crate::disk::{Disk, DiskError};
use crate::open::present_segments;
use crate::position::{ChainId, Head, Position};
use crate::scan::{OpenError, scan, to_index};
use crate::segment::{existing_chain_id, load, segment_name};
use crate::snapshot::{read_file, snapshot_names};
use crate::verify::first_anchor;

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Which journal.
    pub chain_id: ChainId,
    /// The position before the first record of the copy: more than zero when older segments were archived.
    pub starts_after: Position,
    /// The end of the copy.
    pub head: Head,
    /// Segment files in the copy.
    pub segments: u64,
    /// Their length in bytes, snapshots included.
    pub bytes: u64,
}

/// Copies whole batches up to `through` to an empty disk, with the snapshots that are not after it. The chain is checked
/// on the way; nothing behind it is read, so another process may go on writing there, and put newer snapshots in the
/// place of older ones. Durable on return.
///
/// # Errors
/// Damage before `through`, or a disk that fails: then the copy is of no use. `None`: there is no journal.
pub fn copy<A: Disk, B: Disk>(from: &A, to: &B, through: Position) -> Result<Option<Copied>, OpenError> {
    let segments = present_segments(from)?;
    let Some(chain_id) = existing_chain_id(from)? else { return Ok(None) };
    let start = first_anchor(from, chain_id, &segments)?;
    // First, while what was listed is there.
    let snapshots = copy_snapshots(from, to, through)?;
    let mut ends: Vec<(u64, u64)> = Vec::new();
    let found = scan(from, chain_id, start, &segments, through, &mut |segment, offset, frame| {
        let end = offset + frame.length() as u64;
        match ends.last_mut() {
            Some(last) if last.0 == segment => last.1 = end,
            _ => ends.push((segment, end)),
        }
        Ok(())
    })?;
    if ends.is_empty() {
        return Ok(None);
    }
    let head = Head { position: found.end.tip.position, hash: found.end.tip.hash };
    if start.tip.position > Position::ZERO && snapshots.is_none() {
        return Err(OpenError::Missing {
            file: "snapshot".to_owned(),
            reason: format!("the segments begin after record {}; copy again", start.tip.position),
        });
    }
    let (mut bytes, mut buffer) = (snapshots.unwrap_or(0), Vec::new());
    for (segment, end) in &ends {
        let name = segment_name(*segment);
        load(from, &name, &mut buffer)?;
        buffer[to_index(*end)..].fill(0);
        to.publish(&name, &buffer)?;
        bytes += buffer.len() as u64;
    }
    let starts_after = start.tip.position;
    Ok(Some(Copied { chain_id, starts_after, head, segments: ends.len() as u64, bytes }))
}

/// Copies the snapshots up to `through`; their length in bytes, if there are any. One that is gone when it is read was
/// removed by its owner, who has made a newer one: so they are listed again.
fn copy_snapshots<A: Disk, B: Disk>(from: &A, to: &B, through: Position) -> Result<Option<u64>, DiskError> {
    let (mut copied, mut bytes) = (BTreeSet::new(), 0);
    loop {
        let mut is_whole = true;
        for (_, name) in snapshot_names(from)?.into_iter().filter(|(position, _)| *position <= through) {
            if copied.contains(&name) {
                continue;
            }
            match read_file(from, &name) {
                Ok(snapshot) => {
                    to.publish(&name, &snapshot)?;
                    bytes += snapshot.len() as u64;
                    copied.insert(name);
                }
                Err(error) if from.list()?.contains(&name) => return Err(error),
                Err(_) => is_whole = false,
            }
        }
        if is_whole {
            return Ok((!copied.is_empty()).then_some(bytes));
        }
    }
}
