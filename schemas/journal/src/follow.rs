//! Reading frame by frame while the owner goes on writing: in order from a bookmark on, or one frame by its place.
//! Changes nothing, and never holds more than one frame.

use crate::disk::Disk;
use crate::frame::{self, FRAME_HEADER_BYTES, Frame, Place, u32_at};
use crate::open::present_segments;
use crate::position::{Anchor, ChainId, FrameHash, Position, Tip};
use crate::scan::{OpenError, to_index};
use crate::segment::{HEADER_BYTES, existing_chain_id, segment_name};
use crate::verify::first_anchor;

/// Read at once: most frames are shorter.
const FIRST_READ_BYTES: u64 = 4 << 10;

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FramePlace {
    /// The segment number.
    pub segment: u64,
    /// Offset in bytes of the frame in its segment.
    pub offset: u64,
}

/// A frame whose checksum is good.
#[derive(Debug, Clone, Copy)]
pub struct WholeFrame<'a> {
    place: FramePlace,
    frame: Frame<'a>,
}

impl<'a> WholeFrame<'a> {
    /// Where it is.
    #[must_use]
    pub fn place(&self) -> FramePlace {
        self.place
    }

    /// The position before its first record.
    #[must_use]
    pub fn before(&self) -> Position {
        self.frame.before
    }

    /// Its records with their positions, in order.
    pub fn records(&self) -> impl Iterator<Item = (Position, &'a [u8])> {
        self.frame.records()
    }
}

/// Where a reader has stopped: just behind a frame. The hash of that frame, and so of all before it, comes along: a
/// journal that was cut, restored or exchanged since does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bookmark(Anchor);

impl Bookmark {
    /// Length in bytes of [`Bookmark::to_bytes`].
    pub const BYTES: usize = 72;

    /// The position behind which reading goes on.
    #[must_use]
    pub fn position(&self) -> Position {
        self.0.tip.position
    }

    /// To be kept: position, sequence, segment, offset, last frame (little-endian), hash.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let Anchor { tip, segment, offset, last_frame } = self.0;
        let mut bytes = [0; Self::BYTES];
        let numbers = [tip.position.value(), tip.sequence, segment, offset, last_frame];
        for (field, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        bytes[40..].copy_from_slice(&tip.hash.0);
        bytes
    }

    /// As it was kept; `None` where the length is another one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let number = |index: usize| frame::u64_at(bytes, index * 8);
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[40..]);
        let tip = Tip { position: Position::new(number(0)), sequence: number(1), hash: FrameHash(hash) };
        Some(Self(Anchor { tip, segment: number(2), offset: number(3), last_frame: number(4) }))
    }
}

/// Reads a journal in order, behind its owner.
#[derive(Debug)]
pub struct Follower<D> {
    disk: D,
    chain_id: ChainId,
    at: Anchor,
    buffer: Vec<u8>,
}

impl<D: Disk> Follower<D> {
    /// From the first frame on disk; `None` where there is no journal yet.
    ///
    /// # Errors
    /// The disk does not answer, or a segment is missing.
    pub fn from_start(disk: D) -> Result<Option<Self>, OpenError> {
        let segments = present_segments(&disk)?;
        let Some(chain_id) = existing_chain_id(&disk)? else { return Ok(None) };
        let at = first_anchor(&disk, chain_id, &segments)?;
        Ok(Some(Self { disk, chain_id, at, buffer: Vec::new() }))
    }

    /// From a bookmark on; `None` where the journal on this disk does not have that frame.
    ///
    /// # Errors
    /// As [`Follower::from_start`].
    pub fn resume(disk: D, bookmark: &Bookmark) -> Result<Option<Self>, OpenError> {
        let at = bookmark.0;
        let segments = present_segments(&disk)?;
        let Some(chain_id) = existing_chain_id(&disk)? else { return Ok(None) };
        let mut follower = Self { disk, chain_id, at, buffer: Vec::new() };
        if at.last_frame == 0 {
            let is_start = first_anchor(&follower.disk, chain_id, &segments)? == at;
            return Ok(is_start.then_some(follower));
        }
        if !segments.contains(&at.segment) {
            return Ok(None);
        }
        let Follower { disk, buffer, .. } = &mut follower;
        let place = FramePlace { segment: at.segment, offset: at.last_frame };
        let is_loaded = load_at(disk, place, buffer)?;
        let is_there = is_loaded && parse(buffer, chain_id, place).is_ok_and(|frame| frame.tip() == at.tip);
        Ok(is_there.then_some(follower))
    }

    /// All records up to here were read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at.tip.position
    }

    /// For [`Follower::resume`].
    #[must_use]
    pub fn bookmark(&self) -> Bookmark {
        Bookmark(self.at)
    }

    /// The next frame, if all of it is up to `through`, which its owner has said to be durable.
    ///
    /// # Errors
    /// The journal is damaged there, or the disk does not answer.
    pub fn read_next(&mut self, through: Position) -> Result<Option<WholeFrame<'_>>, OpenError> {
        if self.at.tip.position >= through {
            return Ok(None);
        }
        let Self { disk, chain_id, at, buffer } = self;
        let here = FramePlace { segment: at.segment, offset: at.offset };
        // A frame never spans segments: where none is here, the next one begins the next segment.
        let place = if load_at(disk, here, buffer)? {
            here
        } else {
            let next = FramePlace { segment: at.segment + 1, offset: HEADER_BYTES as u64 };
            let is_there = disk.list()?.contains(&segment_name(next.segment)) && load_at(disk, next, buffer)?;
            if !is_there {
                let reason = format!("no frame follows, although records up to {through} are durable");
                return Err(corrupt(here, reason));
            }
            next
        };
        let frame = parse(buffer, *chain_id, place)?;
        if frame.end() > through {
            return Ok(None);
        }
        let tip = frame.continues(&at.tip).map_err(|reason| corrupt(place, reason))?;
        let offset = place.offset + frame.length() as u64;
        *at = Anchor { tip, segment: place.segment, offset, last_frame: place.offset };
        Ok(Some(WholeFrame { place, frame }))
    }

    /// The frame at this place, whichever was read last; `None` where its segment is not on disk: it was archived.
    ///
    /// # Errors
    /// There is none, or it is damaged, or the disk does not answer.
    pub fn read_at<'a>(
        &self,
        place: FramePlace,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<WholeFrame<'a>>, OpenError> {
        match load_at(&self.disk, place, buffer) {
            Ok(true) => Ok(Some(WholeFrame { place, frame: parse(buffer, self.chain_id, place)? })),
            Ok(false) => Err(corrupt(place, "no frame starts here".to_owned())),
            Err(_) if !self.disk.list()?.contains(&segment_name(place.segment)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Reads what may be the frame at this place into `buffer`, and whether a frame starts there at all.
fn load_at<D: Disk>(disk: &D, place: FramePlace, buffer: &mut Vec<u8>) -> Result<bool, OpenError> {
    let name = segment_name(place.segment);
    let left = disk.len(&name)?.saturating_sub(place.offset);
    if left < FRAME_HEADER_BYTES as u64 {
        return Ok(false);
    }
    buffer.resize(to_index(left.min(FIRST_READ_BYTES)), 0);
    disk.read(&name, place.offset, buffer)?;
    let length = u64::from(u32_at(buffer, 4));
    if !frame::has_magic(buffer, 0) || length > left {
        return Ok(false);
    }
    if length > buffer.len() as u64 {
        buffer.resize(to_index(length), 0);
        disk.read(&name, place.offset, buffer)?;
    }
    Ok(true)
}

fn parse(buffer: &[u8], chain_id: ChainId, place: FramePlace) -> Result<Frame<'_>, OpenError> {
    let FramePlace { segment, offset } = place;
    let parsed = frame::parse_at(buffer, &Place { chain_id, segment, offset });
    parsed.map_err(|defect| corrupt(place, defect.to_string()))
}

fn corrupt(place: FramePlace, reason: String) -> OpenError {
    OpenError::Corrupt { file: segment_name(place.segment), offset: place.offset, reason }
}
