//! Making appended frames durable, on whichever thread.

use crate::disk::{Disk, DiskError};
use crate::position::Position;
use crate::segment::segment_name;

/// What to sync so that everything appended so far is durable. A value: run it anywhere, then give the result to
/// [`Journal::handle_synced`](crate::Journal::handle_synced).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncPoint {
    pub(crate) position: Position,
    pub(crate) segments: Vec<u64>,
}

impl SyncPoint {
    /// The position that will be durable.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Syncs. Frames appended meanwhile are not covered.
    pub fn run<D: Disk>(&self, disk: &D) -> Result<Synced, DiskError> {
        for segment in &self.segments {
            disk.sync(&segment_name(*segment))?;
        }
        Ok(Synced { position: self.position })
    }
}

/// Proof that everything up to a position is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    pub(crate) position: Position,
}

impl Synced {
    /// The durable position.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }
}
