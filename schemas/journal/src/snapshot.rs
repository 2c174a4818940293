//! Snapshots: the folded state after a number of records, made from closed segments off the owner's thread.
//!
//! ```text
//! offset  bytes  field (integers little-endian)
//!      0      8  magic "FARTHSNP"
//!      8      4  format version
//!     12      4  CRC-32C of the whole file with this field zero
//!     16      8  position
//!     24      8  sequence of the last frame
//!     32      8  segment of the last frame
//!     40      8  offset just behind the last frame
//!     48      8  offset of the last frame
//!     56      8  length of the state
//!     64     32  hash of the last frame: the anchor of the chain
//!     96     32  chain id
//!    128      -  the state, opaque
//! ```

use thiserror::Error;

use crate::disk::{Disk, DiskError};
use crate::fold::Fold;
use crate::frame::{self, Place, u32_at, u64_at};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::position::{Anchor, ChainId, FrameHash, Position, Tip};
use crate::scan::{OpenError, to_index};
use crate::segment::{FORMAT_VERSION, HEADER_BYTES, check_header, load, segment_name};

/// Folds closed segments into a snapshot. A value: run it on a background thread, then give the result to
/// [`Journal::handle_snapshot`](crate::Journal::handle_snapshot).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotJob {
    pub(crate) chain_id: ChainId,
    /// The end of the last closed segment, all of it durable.
    pub(crate) through: Anchor,
}

impl SnapshotJob {
    /// The position the snapshot will have.
    #[must_use]
    pub fn position(&self) -> Position {
        self.through.tip.position
    }

    /// Restores the previous snapshot into `state` (which must be empty), applies the closed segments after it,
    /// publishes what `encode` makes of it, and removes all snapshots but these two. Segments are kept.
    pub fn run<D: Disk, F: Fold>(
        &self,
        disk: &D,
        state: &mut F,
        encode: impl FnOnce(&F) -> Vec<u8>,
    ) -> Result<SnapshotTaken, SnapshotError> {
        let base = restore_newest(disk, self.chain_id, self.position(), state)?;
        let start = base.anchor.unwrap_or_else(|| genesis(self.chain_id));
        self.fold_segments(disk, start, state)?;
        let name = snapshot_name(self.position());
        disk.publish(&name, &encode_file(self.chain_id, &self.through, &encode(state)))?;
        let keep = [self.position(), start.tip.position];
        for (position, old) in snapshot_names(disk)? {
            if position < self.position() && !keep.contains(&position) {
                disk.remove(&old)?;
            }
        }
        Ok(SnapshotTaken { position: self.position(), segment: self.through.segment })
    }

    fn fold_segments<D: Disk, F: Fold>(
        &self,
        disk: &D,
        start: Anchor,
        state: &mut F,
    ) -> Result<(), SnapshotError> {
        let mut buffer = Vec::new();
        let mut tip = start.tip;
        for number in start.segment..=self.through.segment {
            let name = segment_name(number);
            load(disk, &name, &mut buffer)?;
            check_header(&buffer, number, self.chain_id)?;
            let mut offset = if number == start.segment { to_index(start.offset) } else { HEADER_BYTES };
            while tip != self.through.tip {
                let Ok(frame) = frame::parse(&buffer, self.chain_id, number, offset) else {
                    break;
                };
                tip = frame.continues(&tip).map_err(|reason| OpenError::Corrupt {
                    file: name.clone(),
                    offset: offset as u64,
                    reason,
                })?;
                apply(&frame, state)?;
                offset += frame.length();
            }
        }
        if tip == self.through.tip {
            return Ok(());
        }
        Err(SnapshotError::Read(OpenError::Corrupt {
            file: segment_name(self.through.segment),
            offset: self.through.offset,
            reason: format!(
                "the closed segments end at record {} instead of {}",
                tip.position, self.through.tip.position
            ),
        }))
    }
}

/// Proof that a snapshot is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotTaken {
    pub(crate) position: Position,
    pub(crate) segment: u64,
}

impl SnapshotTaken {
    /// The number of records it holds.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }
}

/// Why no snapshot was made. The journal itself is unharmed; recovery just takes longer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Closed segments could not be read or applied: raise an alarm, the next start may be refused.
    #[error("no snapshot was made: {0}")]
    Read(#[from] OpenError),
    /// The snapshot could not be written, for example for lack of space.
    #[error("no snapshot was made: {0}")]
    Disk(#[from] DiskError),
}

pub(crate) fn apply<F: Fold>(frame: &frame::Frame<'_>, state: &mut F) -> Result<(), OpenError> {
    for (position, record) in frame.records() {
        state
            .apply(position, record)
            .map_err(|error| OpenError::Fold { position, reason: error.to_string() })?;
    }
    Ok(())
}

/// The place of the first frame of all.
pub(crate) fn genesis(chain_id: ChainId) -> Anchor {
    Anchor { tip: Tip::genesis(chain_id), segment: 1, offset: HEADER_BYTES as u64, last_frame: 0 }
}

/// The snapshot that was restored, if any, and those that were not.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) anchor: Option<Anchor>,
    pub(crate) refused: Vec<String>,
    /// The highest position among all snapshots: records up to it were durable, whatever became of the snapshot.
    pub(crate) newest: Position,
}

/// Restores the newest usable snapshot that is not after `limit`. An unusable one is passed over: all it holds can
/// be folded again.
pub(crate) fn restore_newest<D: Disk, F: Fold>(
    disk: &D,
    chain_id: ChainId,
    limit: Position,
    state: &mut F,
) -> Result<Restored, OpenError> {
    let mut restored = Restored { anchor: None, refused: Vec::new(), newest: Position::ZERO };
    let names = snapshot_names(disk)?;
    for (position, name) in names.into_iter().rev().filter(|(position, _)| *position <= limit) {
        restored.newest = restored.newest.max(position);
        let bytes = read_file(disk, &name)?;
        let result = match decode_file(&name, position, &bytes) {
            Ok(snapshot) if snapshot.chain_id != chain_id => {
                return Err(OpenError::OtherChain {
                    file: name,
                    found: snapshot.chain_id,
                    expected: chain_id,
                });
            }
            Ok(snapshot) => {
                check_anchor(disk, chain_id, &name, &snapshot.anchor)?;
                match state.restore(position, snapshot.state) {
                    Ok(()) => Ok(snapshot.anchor),
                    Err(error) => Err(error.to_string()),
                }
            }
            Err(reason) => Err(reason),
        };
        match result {
            Ok(anchor) => {
                restored.anchor = Some(anchor);
                break;
            }
            Err(reason) => restored.refused.push(format!("{name}: {reason}")),
        }
    }
    Ok(restored)
}

/// The last frame that a snapshot holds must be where it says: the snapshot proves that it was durable.
fn check_anchor<D: Disk>(disk: &D, chain_id: ChainId, name: &str, anchor: &Anchor) -> Result<(), OpenError> {
    if anchor.last_frame == 0 {
        return Ok(());
    }
    let file = segment_name(anchor.segment);
    if !disk.list()?.contains(&file) {
        return Err(OpenError::Missing {
            file,
            reason: format!(
                "{name} continues in it; archive only segments before it, and bring this one back"
            ),
        });
    }
    if anchor.last_frame >= anchor.offset || anchor.offset > disk.len(&file)? {
        return Err(OpenError::Corrupt {
            reason: format!(
                "{name} says that a frame from byte {} to {} is here",
                anchor.last_frame, anchor.offset
            ),
            file,
            offset: anchor.last_frame,
        });
    }
    let mut bytes = vec![0; to_index(anchor.offset - anchor.last_frame)];
    disk.read(&file, anchor.last_frame, &mut bytes)?;
    let place = Place { chain_id, segment: anchor.segment, offset: anchor.last_frame };
    let problem = match frame::parse_at(&bytes, &place) {
        Ok(frame) if frame.tip() == anchor.tip && frame.length() == bytes.len() => return Ok(()),
        Ok(_) => "another frame is here".to_owned(),
        Err(defect) => defect.to_string(),
    };
    Err(OpenError::Corrupt {
        file,
        offset: anchor.last_frame,
        reason: format!(
            "{problem}, but {name} was made from the frame that ended at record {}",
            anchor.tip.position
        ),
    })
}

/// All snapshots by position, ascending.
pub(crate) fn snapshot_names<D: Disk>(disk: &D) -> Result<Vec<(Position, String)>, DiskError> {
    let mut names: Vec<_> =
        disk.list()?.into_iter().filter_map(|name| Some((snapshot_position(&name)?, name))).collect();
    names.sort_unstable();
    Ok(names)
}

pub(crate) fn snapshot_name(position: Position) -> String {
    format!("snapshot-{:020}.snap", position.value())
}

fn snapshot_position(name: &str) -> Option<Position> {
    let value: u64 = name.strip_prefix("snapshot-")?.strip_suffix(".snap")?.parse().ok()?;
    let position = Position::new(value);
    (snapshot_name(position) == name).then_some(position)
}

pub(crate) fn read_file<D: Disk>(disk: &D, name: &str) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; to_index(disk.len(name)?)];
    disk.read(name, 0, &mut bytes)?;
    Ok(bytes)
}

const MAGIC: [u8; 8] = *b"FARTHSNP";
const FILE_HEADER_BYTES: usize = 128;
const CHECKSUM_AT: usize = 12;

fn encode_file(chain_id: ChainId, anchor: &Anchor, state: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_HEADER_BYTES + state.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let numbers = [
        anchor.tip.position.value(),
        anchor.tip.sequence,
        anchor.segment,
        anchor.offset,
        anchor.last_frame,
        state.len() as u64,
    ];
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&anchor.tip.hash.0);
    bytes.extend_from_slice(&chain_id.0);
    bytes.extend_from_slice(state);
    let checksum = crc32c::crc32c(&bytes);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Of the numbers that no checksum makes right: every frame has a record, and counting goes on from here.
fn is_possible(anchor: &Anchor) -> bool {
    const LARGEST: u64 = u64::MAX / 2;
    let behind_header = anchor.offset == HEADER_BYTES as u64;
    anchor.tip.sequence <= anchor.tip.position.value()
        && anchor.tip.position.value() <= LARGEST
        && (1..=LARGEST).contains(&anchor.segment)
        && if anchor.last_frame == 0 { behind_header } else { anchor.offset <= SEGMENT_BYTES_MAX }
}

pub(crate) struct SnapshotFile<'a> {
    pub(crate) anchor: Anchor,
    pub(crate) chain_id: ChainId,
    state: &'a [u8],
}

pub(crate) fn decode_file<'a>(
    name: &str,
    position: Position,
    bytes: &'a [u8],
) -> Result<SnapshotFile<'a>, String> {
    if bytes.len() < FILE_HEADER_BYTES || bytes[..8] != MAGIC {
        return Err("this is not a snapshot".to_owned());
    }
    let before = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
    let field = crc32c::crc32c_append(before, &[0; 4]);
    if crc32c::crc32c_append(field, &bytes[CHECKSUM_AT + 4..]) != u32_at(bytes, CHECKSUM_AT) {
        return Err("the checksum does not match".to_owned());
    }
    let version = u32_at(bytes, 8);
    if version != FORMAT_VERSION {
        return Err(format!(
            "it has format version {version}, but this build reads version {FORMAT_VERSION}"
        ));
    }
    let state = &bytes[FILE_HEADER_BYTES..];
    if u64_at(bytes, 16) != position.value() || u64_at(bytes, 56) != state.len() as u64 {
        return Err(format!("{name} has another position or length inside"));
    }
    let (mut hash, mut chain_id) = ([0; 32], [0; 32]);
    hash.copy_from_slice(&bytes[64..96]);
    chain_id.copy_from_slice(&bytes[96..128]);
    let anchor = Anchor {
        tip: Tip { position, sequence: u64_at(bytes, 24), hash: FrameHash(hash) },
        segment: u64_at(bytes, 32),
        offset: u64_at(bytes, 40),
        last_frame: u64_at(bytes, 48),
    };
    if !is_possible(&anchor) {
        return Err("its numbers are none that a journal can have".to_owned());
    }
    Ok(SnapshotFile { anchor, chain_id: ChainId(chain_id), state })
}
