//! The append-only journal: the one durability mechanism of the cloud core and of the edge agents.
//!
//! It keeps opaque records, in order, in batches (frames) of a hash chain, over a [`Disk`]. Nobody here asks what a
//! record means. The pieces, in the order in which a batch meets them:
//!
//! 1. [`Journal::open`] recovers: newest valid snapshot, then the records after it, then the torn tail is cut.
//! 2. [`Journal::append`] writes one frame. Nothing that follows from it may leave the process yet.
//! 3. [`Journal::sync_point`] / [`SyncPoint::run`] / [`Journal::handle_synced`] make it durable, on another thread if
//!    the driver likes; [`Journal::synced`] says which outputs may leave (correctness.md 1).
//! 4. [`Journal::spare_job`] makes the next segment ahead, [`Journal::snapshot_job`] folds closed ones; both are
//!    values that any thread may run.
//!
//! # Files of one directory
//! - `journal-00000001.seg`, ...: pre-zeroed segments of fixed size (a 64-byte header, then frames).
//! - `snapshot-00000000000000001234.snap`: the folded state after that many records.
//!
//! # What is absent
//! No clock, no randomness, no threads; no record is ever changed or removed; no output is released here.
//! The one exception to purity is `FileDisk`, behind the feature `file`.
//!
//! # The stated limit
//! A frame is vouched for by the `synced_through` of a later frame. Damage to the frames of the very last sync,
//! after which nothing was written, looks like a torn tail and is cut (correctness.md 2).

mod copy;
mod disk;
#[cfg(feature = "file")]
mod file;
mod fold;
mod follow;
mod frame;
mod journal;
mod limits;
mod memory;
mod open;
mod position;
mod scan;
mod segment;
mod snapshot;
mod spare;
mod sync;
mod verify;

pub use copy::{Copied, copy};
pub use disk::{Disk, DiskError};
#[cfg(feature = "file")]
pub use file::{Call, FileDisk, FileDiskError};
pub use fold::{Fold, Records};
pub use follow::{Bookmark, Follower, FramePlace, WholeFrame};
pub use frame::{FRAME_HEADER_BYTES, RECORD_HEADER_BYTES};
pub use journal::{AppendError, Journal, JournalError, Room};
pub use limits::{JournalLimits, LimitsError};
pub use memory::MemoryDisk;
pub use open::{Cut, Recovery};
pub use position::{ChainId, FrameHash, Head, HeadError, Position};
pub use scan::OpenError;
pub use segment::{FORMAT_VERSION, existing_chain_id};
pub use snapshot::{SnapshotError, SnapshotJob, SnapshotTaken};
pub use spare::{SpareJob, SpareReady};
pub use sync::{SyncPoint, Synced};
pub use verify::{
    FrameInfo, Problem, Report, SnapshotReport, for_each_record, for_each_record_through, verify,
    verify_against,
};
