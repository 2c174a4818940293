//! Where a state is in the journal, and the hash chain that proves it.

use std::fmt;

/// A number of records: the state after this many. Zero is the empty journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The position after `records` records.
    #[must_use]
    pub const fn new(records: u64) -> Self {
        Self(records)
    }

    /// The number of records.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }

    /// The position `records` further on.
    #[must_use]
    pub(crate) const fn advanced(self, records: u64) -> Self {
        Self(self.0.saturating_add(records))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which journal this is: random bytes chosen once, before the first record. The hash chain starts from it and every
/// checksum is seeded with it, so that bytes of one journal can never pass for a frame of another.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainId(pub [u8; 32]);

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainId({self})")
    }
}

/// SHA-256 of a frame. It covers the hash before it, and so all history.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameHash(pub [u8; 32]);

impl fmt::Display for FrameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for FrameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameHash({self})")
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The end of the chain so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) position: Position,
    /// Number of frames: the sequence of the last one.
    pub(crate) sequence: u64,
    pub(crate) hash: FrameHash,
}

impl Tip {
    pub(crate) const fn genesis(chain_id: ChainId) -> Self {
        Self { position: Position::ZERO, sequence: 0, hash: FrameHash(chain_id.0) }
    }
}

/// A tip, and the place in the files where the next frame is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) tip: Tip,
    pub(crate) segment: u64,
    /// Offset in bytes just behind the last frame.
    pub(crate) offset: u64,
    /// Offset in bytes of the last frame in this segment; zero when it has none yet.
    pub(crate) last_frame: u64,
}
