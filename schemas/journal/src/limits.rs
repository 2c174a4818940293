//! How big records, frames and segments may be.

use thiserror::Error;

use crate::frame::{FRAME_HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::segment::HEADER_BYTES;

/// A segment is read in one piece, so it has a ceiling.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Sizes of one journal. They may change between runs: what is on disk is read by its own sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalLimits {
    /// Longest record in bytes.
    pub record_max_bytes: u32,
    /// Longest frame (one batch) in bytes, headers included.
    pub frame_max_bytes: u32,
    /// Length of each new segment file in bytes.
    pub segment_bytes: u64,
    /// A snapshot is offered when this many segments were closed since the last one.
    pub snapshot_every_segments: u32,
}

impl JournalLimits {
    /// For a shard of the cloud core: segments of 64 MiB.
    #[must_use]
    pub const fn cloud() -> Self {
        Self {
            record_max_bytes: 1 << 20,
            frame_max_bytes: 8 << 20,
            segment_bytes: 64 << 20,
            snapshot_every_segments: 4,
        }
    }

    /// For an edge agent: segments of 1 MiB.
    #[must_use]
    pub const fn agent() -> Self {
        Self {
            record_max_bytes: 64 << 10,
            frame_max_bytes: 256 << 10,
            segment_bytes: 1 << 20,
            snapshot_every_segments: 4,
        }
    }

    /// Checks that the largest record fits a frame and the largest frame fits half a segment, so that the reserved
    /// segment always holds more than one batch.
    pub fn validate(&self) -> Result<(), LimitsError> {
        let smallest_frame =
            u64::from(self.record_max_bytes) + (FRAME_HEADER_BYTES + RECORD_HEADER_BYTES + 8) as u64;
        if self.record_max_bytes == 0 || u64::from(self.frame_max_bytes) < smallest_frame {
            return Err(LimitsError::Frame {
                record_max_bytes: self.record_max_bytes,
                frame_max_bytes: self.frame_max_bytes,
            });
        }
        let smallest_segment = HEADER_BYTES as u64 + 2 * u64::from(self.frame_max_bytes);
        if self.segment_bytes < smallest_segment
            || self.segment_bytes > SEGMENT_BYTES_MAX
            || !self.segment_bytes.is_multiple_of(8)
        {
            return Err(LimitsError::Segment {
                segment_bytes: self.segment_bytes,
                smallest: smallest_segment,
                largest: SEGMENT_BYTES_MAX,
            });
        }
        Ok(())
    }
}

/// Limits that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitsError {
    /// The largest record does not fit the largest frame.
    #[error(
        "a record of {record_max_bytes} bytes does not fit a frame of {frame_max_bytes}: raise frame_max_bytes"
    )]
    Frame {
        /// As configured.
        record_max_bytes: u32,
        /// As configured.
        frame_max_bytes: u32,
    },
    /// The segment is too small, too large, or not a multiple of eight.
    #[error("segment_bytes is {segment_bytes}: choose a multiple of 8 from {smallest} to {largest}")]
    Segment {
        /// As configured.
        segment_bytes: u64,
        /// Smallest allowed, in bytes.
        smallest: u64,
        /// Largest allowed, in bytes.
        largest: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_defaults_are_valid() {
        assert_eq!(JournalLimits::cloud().validate(), Ok(()));
        assert_eq!(JournalLimits::agent().validate(), Ok(()));
    }

    #[test]
    fn contradictions_are_refused() {
        let agent = JournalLimits::agent();
        let frame = JournalLimits { frame_max_bytes: agent.record_max_bytes, ..agent };
        assert!(matches!(frame.validate(), Err(LimitsError::Frame { .. })));
        for segment_bytes in [4096, (1 << 20) + 1, 2 << 30] {
            let segment = JournalLimits { segment_bytes, ..agent };
            assert!(matches!(segment.validate(), Err(LimitsError::Segment { .. })));
        }
    }
}
