//! Segment files: their names and their header.
//!
//! ```text
//! offset  bytes  field (integers little-endian); this layout holds for every format version
//!      0      8  magic "FARTHJNL"
//!      8      4  format version of the frames that follow
//!     12      4  CRC-32C of the header with this field zero
//!     16      8  segment number, from 1
//!     24      8  length of the file
//!     32     32  chain id
//! ```

use crate::disk::{Disk, DiskError};
use crate::frame::{u32_at, u64_at};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::position::ChainId;
use crate::scan::OpenError;

/// The data format this build writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"FARTHJNL";
const CHECKSUM_AT: usize = 12;

/// The chain id of the journal on this disk, or `None` when there is none yet and the caller should choose one.
pub fn existing_chain_id<D: Disk>(disk: &D) -> Result<Option<ChainId>, OpenError> {
    for number in segment_numbers(disk)? {
        let name = segment_name(number);
        let mut bytes = [0; HEADER_BYTES];
        disk.read(&name, 0, &mut bytes)?;
        // An unfinished first segment has no header yet; nothing was ever promised from it.
        if bytes != [0; HEADER_BYTES] {
            return Ok(Some(decode_header(&name, &bytes)?.chain_id));
        }
    }
    Ok(None)
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("journal-{number:08}.seg")
}

pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_prefix("journal-")?.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(number) == name && number > 0).then_some(number)
}

/// The numbers of all segments, ascending.
pub(crate) fn segment_numbers<D: Disk>(disk: &D) -> Result<Vec<u64>, DiskError> {
    let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u64,
    pub(crate) file_bytes: u64,
    pub(crate) chain_id: ChainId,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.file_bytes.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.chain_id.0);
        let checksum = crc32c::crc32c(&bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// Checks magic, checksum and version, in this order: a flipped version bit is damage, not a newer format.
pub(crate) fn decode_header(name: &str, bytes: &[u8]) -> Result<SegmentHeader, OpenError> {
    let damaged =
        |reason: &str| OpenError::Corrupt { file: name.to_owned(), offset: 0, reason: reason.to_owned() };
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Err(damaged("the file is shorter than a segment header"));
    };
    if header[..8] != MAGIC {
        return Err(damaged("this is not a journal segment"));
    }
    let mut unsigned = [0; HEADER_BYTES];
    unsigned.copy_from_slice(header);
    unsigned[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
    if crc32c::crc32c(&unsigned) != u32_at(header, CHECKSUM_AT) {
        return Err(damaged("the segment header's checksum does not match"));
    }
    let version = u32_at(header, 8);
    if version != FORMAT_VERSION {
        return Err(OpenError::Version { file: name.to_owned(), version, supported: FORMAT_VERSION });
    }
    let mut chain_id = [0; 32];
    chain_id.copy_from_slice(&header[32..64]);
    Ok(SegmentHeader {
        number: u64_at(header, 16),
        file_bytes: u64_at(header, 24),
        chain_id: ChainId(chain_id),
    })
}

/// Reads a whole segment into `buffer`.
pub(crate) fn load<D: Disk>(disk: &D, name: &str, buffer: &mut Vec<u8>) -> Result<(), OpenError> {
    let file_bytes = disk.len(name)?;
    if file_bytes > SEGMENT_BYTES_MAX {
        return Err(OpenError::Corrupt {
            file: name.to_owned(),
            offset: 0,
            reason: format!("the file has {file_bytes} bytes, more than any segment may have"),
        });
    }
    buffer.resize(usize::try_from(file_bytes).unwrap_or(usize::MAX), 0);
    Ok(disk.read(name, 0, buffer)?)
}

/// The header of a loaded segment, checked against what the reader expects.
pub(crate) fn check_header(bytes: &[u8], number: u64, chain_id: ChainId) -> Result<(), OpenError> {
    let name = segment_name(number);
    let header = decode_header(&name, bytes)?;
    if header.chain_id != chain_id {
        return Err(OpenError::OtherChain { file: name, found: header.chain_id, expected: chain_id });
    }
    if header.number != number || header.file_bytes != bytes.len() as u64 {
        return Err(OpenError::Corrupt {
            reason: format!(
                "its header says segment {} of {} bytes, but the file has {}",
                header.number,
                header.file_bytes,
                bytes.len()
            ),
            file: name,
            offset: 0,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nothing_else_is_a_segment() {
        for number in [1, 99_999_999, 100_000_000] {
            assert_eq!(segment_number(&segment_name(number)), Some(number));
        }
        for name in
            ["journal-1.seg", "journal-00000000.seg", "journal-00000001.seg.tmp", "journal-+0000001.seg"]
        {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }

    #[test]
    fn header_round_trips_and_every_flip_is_found() {
        let header = SegmentHeader { number: 7, file_bytes: 4096, chain_id: ChainId([3; 32]) };
        let bytes = header.encode();
        assert_eq!(decode_header("a", &bytes).unwrap(), header);
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode_header("a", &flipped), Err(OpenError::Corrupt { .. })), "bit {bit}");
        }
    }

    #[test]
    fn newer_version_is_refused_by_name() {
        let mut bytes = SegmentHeader { number: 1, file_bytes: 64, chain_id: ChainId([3; 32]) }.encode();
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        bytes[12..16].fill(0);
        let checksum = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        let error = decode_header("journal-00000001.seg", &bytes).unwrap_err();
        assert!(error.to_string().contains("format version 2"), "{error}");
    }
}
