//! The journal on the file system.

use std::path::Path;

use edge_agent_device::{Event, Recovered};
use schemas_journal::{
    AppendError, ChainId, FileDisk, FileDiskError, Journal, JournalError, JournalLimits, OpenError, Position,
    Room, SnapshotError, SnapshotTaken, existing_chain_id,
};
use tokio::sync::mpsc;

use super::Input;
use crate::clock::{boot_ms, random};
use crate::steps;

/// Events of one frame: far below the frame's limit even if each is as large as an event gets.
const FRAME_EVENTS: usize = 16;
/// A full disk is looked at again after this.
const RETRY_SPARE_MS: u64 = 60_000;

/// Why the journal can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    #[error(transparent)]
    Disk(#[from] FileDiskError),
    #[error("the journal can't be opened: {0}")]
    Open(#[from] OpenError),
    #[error("the journal can't be written: {0}")]
    Append(#[from] AppendError),
    #[error("the journal can't be synced: {0}")]
    Journal(#[from] JournalError),
    #[error("the system has no random generator: {0}")]
    Random(#[from] getrandom::Error),
}

pub(crate) struct Storage {
    journal: Journal<FileDisk>,
    retry_spare_at_ms: u64,
}

impl Storage {
    pub(crate) fn open(directory: &Path) -> Result<(Self, Recovered), StorageError> {
        let disk = if steps::holds_writes() {
            FileDisk::hold_until_sync(directory)?
        } else {
            FileDisk::open(directory)?
        };
        let chain_id = match existing_chain_id(&disk)? {
            Some(chain_id) => chain_id,
            None => ChainId(random()?),
        };
        let mut recovered = Recovered::default();
        let journal = Journal::open(disk, JournalLimits::agent(), chain_id, &mut recovered)?;
        if let Some(cut) = &journal.recovery().cut {
            tracing::info!(file = cut.file, offset = cut.offset, "cut writes that were never synced");
        }
        // Cutting and opening may leave the last frames unsynced in the journal's eyes.
        recovered.position = journal.position();
        Ok((Self { journal, retry_spare_at_ms: 0 }, recovered))
    }

    /// One record per event.
    pub(crate) fn append(&mut self, events: &[Event]) -> Result<(), StorageError> {
        for events in events.chunks(FRAME_EVENTS) {
            let records: Vec<Vec<u8>> = events.iter().map(Event::encode).collect();
            self.journal.append(&records)?;
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<Position, StorageError> {
        Ok(self.journal.sync()?)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.journal.room() == Room::Ample
    }

    /// Makes the next segment, and snapshots off this thread.
    pub(crate) fn maintain(&mut self, inputs: &mpsc::Sender<Input>) -> Result<(), StorageError> {
        if self.journal.room() == Room::LastSegment && boot_ms() >= self.retry_spare_at_ms {
            self.retry_spare_at_ms = boot_ms().saturating_add(RETRY_SPARE_MS);
            self.journal.retry_spare();
        }
        if let Some(job) = self.journal.spare_job() {
            let made = job.run(self.journal.disk());
            if self.journal.handle_spare(made)? == Room::LastSegment {
                tracing::error!("the disk is full: no new work is taken; free space in the data directory");
            }
        }
        if let Some(job) = self.journal.snapshot_job() {
            let (disk, inputs) = (self.journal.disk().clone(), inputs.clone());
            tokio::task::spawn_blocking(move || {
                let mut folded = Recovered::default();
                let result = job.run(&disk, &mut folded, |folded| folded.state.snapshot());
                let _ = inputs.blocking_send(Input::Snapshot(result));
            });
        }
        Ok(())
    }

    pub(crate) fn handle_snapshot(
        &mut self,
        result: &Result<SnapshotTaken, SnapshotError>,
    ) -> Result<(), StorageError> {
        if let Err(error) = result {
            tracing::error!(%error, "no snapshot was made; it is tried again");
        }
        Ok(self.journal.handle_snapshot(result)?)
    }
}
