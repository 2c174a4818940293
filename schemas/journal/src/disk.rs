//! What the journal asks of a disk: one directory of named files of fixed length.

use thiserror::Error;

/// One directory of named files. A value is a handle: clones see the same files, from any thread.
///
/// Only [`Disk::write`] is lazy. Between it and the end of the next [`Disk::sync`] of that file a power cut may keep
/// any subset of the written sectors; every other change is durable when the call returns.
pub trait Disk: Clone {
    /// The names of all files, in any order.
    fn list(&self) -> Result<Vec<String>, DiskError>;

    /// Makes a file of `len` zero bytes, allocated in full. It exists completely or not at all. A file of that name
    /// is replaced.
    fn create(&self, name: &str, len: u64) -> Result<(), DiskError>;

    /// The length of a file in bytes.
    fn len(&self, name: &str) -> Result<u64, DiskError>;

    /// Fills `buffer` from `offset` on. Reading past the end is an error.
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError>;

    /// Overwrites bytes inside a file. Writing past the end is an error: files never grow.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes every finished `write` to this file durable. An error is final: what the disk holds is then unknown.
    fn sync(&self, name: &str) -> Result<(), DiskError>;

    /// Writes a whole file atomically: after a power cut it is there with exactly these bytes, or as it was before.
    fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError>;

    /// Removes a file.
    fn remove(&self, name: &str) -> Result<(), DiskError>;
}

/// Why a disk did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DiskError {
    /// No room. Nothing was changed when it comes from `create` or `publish`.
    #[error("no space left for {name}: free disk space or add a disk")]
    OutOfSpace {
        /// The file that had no room.
        name: String,
    },
    /// Anything else. What the disk holds is unknown: the process must stop and recover.
    #[error("cannot {operation} {name}: {reason}")]
    Failed {
        /// What was tried: "read", "write", "sync" and so on.
        operation: &'static str,
        /// The file, or the directory.
        name: String,
        /// What the system said.
        reason: String,
    },
}

impl DiskError {
    /// True when freeing space can help.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::OutOfSpace { .. })
    }
}
