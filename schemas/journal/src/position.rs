//! Where a state is in the journal, and the hash chain that proves it.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A number of records: the state after this many. Zero is the empty journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    /// Before the first record.
    pub const ZERO: Self = Self(0);
    /// After every record that there can be.
    pub const END: Self = Self(u64::MAX);

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

/// The state of the chain after a number of records: as long as it is found again, nothing up to there was changed, cut
/// or rewritten. Somebody else keeps it, out of reach of whoever could rewrite the journal. As text `POSITION:HASH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The position after a batch.
    pub position: Position,
    /// The hash of that batch; the chain id at position 0.
    pub hash: FrameHash,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.position, self.hash)
    }
}

/// Not `POSITION:HASH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("write POSITION:HASH with 64 hexadecimal digits, as `audit head` prints it")]
pub struct HeadError;

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (position, hash) = text.trim().split_once(':').ok_or(HeadError)?;
        let position = Position::new(position.parse().map_err(|_| HeadError)?);
        if hash.len() != 64 || !hash.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(HeadError);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(hash.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| HeadError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| HeadError)?;
        }
        Ok(Self { position, hash: FrameHash(bytes) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_is_written_and_nothing_else_is() {
        let head = Head { position: Position::new(77), hash: FrameHash([0xA5; 32]) };
        assert_eq!(head.to_string().parse(), Ok(head));
        let bad = ["", "77", "77:", "x:00", &"77:+5".repeat(12), &format!("{head}0"), &format!("7é:{head}")];
        bad.iter().for_each(|text| assert_eq!(text.parse::<Head>(), Err(HeadError), "{text}"));
    }
}
