//! The next segment, made ahead, so that out of space is met here and never in the middle of a batch.

use crate::disk::{Disk, DiskError};
use crate::position::ChainId;
use crate::segment::{SegmentHeader, segment_name};

/// The creation of the next segment. Zero filling takes a while: run it off the owner's thread, then give the result
/// to [`Journal::handle_spare`](crate::Journal::handle_spare).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpareJob {
    pub(crate) number: u64,
    pub(crate) file_bytes: u64,
    pub(crate) chain_id: ChainId,
}

impl SpareJob {
    /// Makes the file and its header, durable on return.
    pub fn run<D: Disk>(&self, disk: &D) -> Result<SpareReady, DiskError> {
        let name = segment_name(self.number);
        disk.create(&name, self.file_bytes)?;
        let header =
            SegmentHeader { number: self.number, file_bytes: self.file_bytes, chain_id: self.chain_id };
        disk.write(&name, 0, &header.encode())?;
        disk.sync(&name)?;
        Ok(SpareReady { number: self.number, file_bytes: self.file_bytes })
    }
}

/// Proof that the next segment exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpareReady {
    pub(crate) number: u64,
    pub(crate) file_bytes: u64,
}
