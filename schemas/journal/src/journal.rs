//! The open journal: append, and what the driver must do beside it.

use std::collections::VecDeque;

use schemas_mutants::Mutant;
use thiserror::Error;

use crate::disk::{Disk, DiskError};
use crate::frame::{Place, encode, frame_bytes};
use crate::limits::JournalLimits;
use crate::open::Recovery;
use crate::position::{Anchor, ChainId, FrameHash, Position};
use crate::scan::Scan;
use crate::segment::{HEADER_BYTES, segment_name};
use crate::snapshot::{SnapshotError, SnapshotJob, SnapshotTaken};
use crate::spare::{SpareJob, SpareReady};
use crate::sync::{SyncPoint, Synced};

/// An open journal. One owner appends; syncs, spares and snapshots are values that other threads may run.
#[derive(Debug)]
pub struct Journal<D> {
    disk: D,
    limits: JournalLimits,
    chain_id: ChainId,
    recovery: Recovery,
    /// The end of the last frame.
    end: Anchor,
    active_name: String,
    active_bytes: u64,
    synced: Position,
    /// Segments with frames that are not known to be durable, and the position at the end of each.
    unsynced: VecDeque<(u64, Position)>,
    /// Ends of closed segments; all but the newest durable one are dropped.
    closed: VecDeque<Anchor>,
    spare: Spare,
    snapshot: SnapshotTaken,
    snapshot_running: bool,
    /// Reused for every frame.
    buffer: Vec<u8>,
    poisoned: Option<String>,
}

/// The next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    Ready { file_bytes: u64 },
    Wanted,
    BeingMade,
    NoSpace,
}

/// Whether new work may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Ample,
    /// No: the disk is full (or the next segment is late). What is open may finish in the segment that is left.
    LastSegment,
}

/// Why a batch was not appended. Except for `Disk` and `Poisoned` the journal goes on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// A batch needs at least one record.
    #[error("a batch without records was appended")]
    Empty,
    /// One record is too long.
    #[error("a record of {bytes} bytes is longer than the limit of {record_max_bytes}")]
    RecordTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        record_max_bytes: u32,
    },
    /// The batch is too long: append it in parts.
    #[error("a batch does not fit a frame of {frame_max_bytes} bytes: append it in parts")]
    FrameTooLong {
        /// The limit.
        frame_max_bytes: u32,
    },
    /// The segment is full and there is no next one. Nothing was written and nothing is lost.
    #[error("no space left for the next journal segment: free disk space; nothing was lost")]
    OutOfSpace,
    /// The write failed; the journal is poisoned.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The disk failed before: stop the process and recover.
    #[error(
        "the journal stopped after a failure ({reason}): restart the process, so that it recovers from disk"
    )]
    Poisoned {
        /// The first failure.
        reason: String,
    },
}

/// Why the journal can't go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JournalError {
    /// The disk failed now; the journal is poisoned.
    #[error("{0}: restart the process, so that it recovers from disk")]
    Disk(#[from] DiskError),
    /// The disk failed before: stop the process and recover.
    #[error(
        "the journal stopped after a failure ({reason}): restart the process, so that it recovers from disk"
    )]
    Poisoned {
        /// The first failure.
        reason: String,
    },
}

impl<D: Disk> Journal<D> {
    /// Writes the records as one frame and returns the position after them. They are not durable yet.
    pub fn append<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Position, AppendError> {
        if let Some(reason) = &self.poisoned {
            return Err(AppendError::Poisoned { reason: reason.clone() });
        }
        let length = self.checked_length(records)?;
        if self.end.offset + u64::from(length) > self.active_bytes {
            self.enter_spare()?;
        }
        let place = Place { chain_id: self.chain_id, segment: self.end.segment, offset: self.end.offset };
        let tip = encode(&mut self.buffer, &place, &self.end.tip, self.synced, records, length);
        if let Err(error) = self.disk.write(&self.active_name, self.end.offset, &self.buffer) {
            return Err(AppendError::Disk(self.poison(error)));
        }
        self.end = Anchor {
            tip,
            segment: self.end.segment,
            offset: self.end.offset + u64::from(length),
            last_frame: self.end.offset,
        };
        match self.unsynced.back_mut() {
            Some((segment, position)) if *segment == self.end.segment => *position = tip.position,
            _ => self.unsynced.push_back((self.end.segment, tip.position)),
        }
        Ok(tip.position)
    }

    /// What to sync so that everything appended so far is durable; `None` when it is.
    #[must_use]
    pub fn sync_point(&self) -> Option<SyncPoint> {
        if self.unsynced.is_empty() || self.poisoned.is_some() {
            return None;
        }
        let one = Mutant::OneSegmentSynced.is_active();
        let already_synced = if one { self.unsynced.len() - 1 } else { 0 };
        Some(SyncPoint {
            position: self.end.tip.position,
            segments: self.unsynced.iter().skip(already_synced).map(|(segment, _)| *segment).collect(),
        })
    }

    /// Takes the result of [`SyncPoint::run`] and returns [`Journal::synced`]. An error poisons the journal: after a
    /// failed fsync the kernel may have dropped the data, and a second one would answer Ok.
    pub fn handle_synced(&mut self, result: Result<Synced, DiskError>) -> Result<Position, JournalError> {
        self.refuse_if_poisoned()?;
        let synced = result.map_err(|error| self.poison(error))?;
        self.synced = self.synced.max(synced.position);
        while self.unsynced.front().is_some_and(|(_, position)| *position <= self.synced) {
            self.unsynced.pop_front();
        }
        while self.closed.get(1).is_some_and(|next| next.tip.position <= self.synced) {
            self.closed.pop_front();
        }
        Ok(self.synced)
    }

    /// Syncs here and now.
    pub fn sync(&mut self) -> Result<Position, JournalError> {
        self.refuse_if_poisoned()?;
        match self.sync_point() {
            Some(point) => {
                let result = point.run(&self.disk);
                self.handle_synced(result)
            }
            None => Ok(self.synced),
        }
    }

    /// The creation of the next segment, when one is wanted. Ask after each append.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        if self.spare != Spare::Wanted || self.poisoned.is_some() {
            return None;
        }
        self.spare = Spare::BeingMade;
        Some(SpareJob {
            number: self.end.segment + 1,
            file_bytes: self.limits.segment_bytes,
            chain_id: self.chain_id,
        })
    }

    /// Takes the result of [`SpareJob::run`]. Out of space is an answer, seen in [`Journal::room`]; any other error
    /// poisons the journal.
    pub fn handle_spare(&mut self, result: Result<SpareReady, DiskError>) -> Result<Room, JournalError> {
        self.refuse_if_poisoned()?;
        self.spare = match result {
            Ok(ready) if ready.number == self.end.segment + 1 => {
                Spare::Ready { file_bytes: ready.file_bytes }
            }
            // The result of a job that this journal did not give out.
            Ok(_) => self.spare,
            Err(error) if error.is_out_of_space() => Spare::NoSpace,
            Err(error) => return Err(self.poison(error).into()),
        };
        Ok(self.room())
    }

    /// Wants the spare again after it met a full disk. Call it from a timer, or when space was freed: not in a loop.
    pub fn retry_spare(&mut self) {
        if self.spare == Spare::NoSpace {
            self.spare = Spare::Wanted;
        }
    }

    /// Whether new work may begin. A spare that is still being made counts until half of the segment is used.
    #[must_use]
    pub fn room(&self) -> Room {
        match self.spare {
            Spare::Ready { .. } => Room::Ample,
            Spare::Wanted | Spare::BeingMade if self.end.offset < self.active_bytes / 2 => Room::Ample,
            Spare::Wanted | Spare::BeingMade | Spare::NoSpace => Room::LastSegment,
        }
    }

    /// A snapshot of the closed segments, when enough were closed since the last one and none is running.
    pub fn snapshot_job(&mut self) -> Option<SnapshotJob> {
        let through = *self.closed.front()?;
        let new_segments = through.segment.saturating_sub(self.snapshot.segment);
        if self.snapshot_running
            || self.poisoned.is_some()
            || through.tip.position > self.synced
            || through.tip.position <= self.snapshot.position
            || new_segments < u64::from(self.limits.snapshot_every_segments)
        {
            return None;
        }
        self.snapshot_running = true;
        Some(SnapshotJob { chain_id: self.chain_id, through })
    }

    /// Takes the result of [`SnapshotJob::run`]. A failed disk poisons the journal; any other error is returned by
    /// the job for an alarm, and the snapshot is offered again.
    pub fn handle_snapshot(
        &mut self,
        result: &Result<SnapshotTaken, SnapshotError>,
    ) -> Result<(), JournalError> {
        self.refuse_if_poisoned()?;
        self.snapshot_running = false;
        match result {
            Ok(taken) => self.snapshot = *taken,
            Err(SnapshotError::Disk(error)) if !error.is_out_of_space() => {
                return Err(self.poison(error.clone()).into());
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// The position after everything appended.
    #[must_use]
    pub fn position(&self) -> Position {
        self.end.tip.position
    }

    /// The durable position: outputs computed from it or before may leave (correctness.md 1).
    #[must_use]
    pub fn synced(&self) -> Position {
        self.synced
    }

    /// The position of the newest snapshot: a start replays what follows it.
    #[must_use]
    pub fn snapshot(&self) -> Position {
        self.snapshot.position
    }

    /// The hash of the last frame; the chain id of an empty journal.
    #[must_use]
    pub fn last_hash(&self) -> FrameHash {
        self.end.tip.hash
    }

    /// What [`Journal::open`] found and did.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Why the journal refuses everything, if it does.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    /// The limits it was opened with. A batch fits a frame when `FRAME_HEADER_BYTES`, `RECORD_HEADER_BYTES` for each
    /// record, the records and 7 bytes of padding are not more than `frame_max_bytes`.
    #[must_use]
    pub fn limits(&self) -> &JournalLimits {
        &self.limits
    }

    /// The disk, to clone for jobs.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.disk
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one struct, called once")]
    pub(crate) fn recovered(
        disk: D,
        limits: JournalLimits,
        chain_id: ChainId,
        found: Scan,
        active_bytes: u64,
        spare: Spare,
        snapshot: Option<Anchor>,
        recovery: Recovery,
    ) -> Self {
        Self {
            disk,
            limits,
            chain_id,
            recovery,
            active_name: segment_name(found.end.segment),
            active_bytes,
            synced: found.end.tip.position,
            end: found.end,
            unsynced: VecDeque::new(),
            closed: found.closed.into_iter().collect(),
            spare,
            snapshot: snapshot.map_or(SnapshotTaken { position: Position::ZERO, segment: 0 }, |anchor| {
                SnapshotTaken { position: anchor.tip.position, segment: anchor.segment }
            }),
            snapshot_running: false,
            buffer: Vec::new(),
            poisoned: None,
        }
    }

    fn checked_length<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<u32, AppendError> {
        if records.is_empty() {
            return Err(AppendError::Empty);
        }
        let record_max_bytes = self.limits.record_max_bytes;
        for record in records {
            let bytes = record.as_ref().len();
            if bytes > record_max_bytes as usize {
                return Err(AppendError::RecordTooLong { bytes, record_max_bytes });
            }
        }
        let frame_max_bytes = self.limits.frame_max_bytes;
        frame_bytes(records)
            .filter(|length| *length <= frame_max_bytes)
            .ok_or(AppendError::FrameTooLong { frame_max_bytes })
    }

    /// Closes the active segment and goes on in the spare.
    fn enter_spare(&mut self) -> Result<(), AppendError> {
        let Spare::Ready { file_bytes } = self.spare else {
            return Err(AppendError::OutOfSpace);
        };
        self.closed.push_back(self.end);
        if self.closed.len() > 1 && self.closed[1].tip.position <= self.synced {
            self.closed.pop_front();
        }
        self.end = Anchor {
            tip: self.end.tip,
            segment: self.end.segment + 1,
            offset: HEADER_BYTES as u64,
            last_frame: 0,
        };
        self.active_name = segment_name(self.end.segment);
        self.active_bytes = file_bytes;
        self.spare = Spare::Wanted;
        Ok(())
    }

    fn poison(&mut self, error: DiskError) -> DiskError {
        self.poisoned = Some(error.to_string());
        error
    }

    fn refuse_if_poisoned(&self) -> Result<(), JournalError> {
        match &self.poisoned {
            Some(reason) => Err(JournalError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }
}
