//! CBOR (RFC 8949) with the checks that every decode needs: a size cap first, then no trailing bytes, no duplicate
//! or unknown keys, bounded depth, never a panic.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits;

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// Longer than the limit; nothing of it was decoded.
    #[error("{length} bytes are more than the limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not the CBOR that was expected.
    #[error("not the expected CBOR: {0}")]
    Content(String),
}

/// Encodes a value of ours. Struct fields become text keys in the order of declaration.
///
/// # Panics
/// Never for our types: every one has a golden sample. An unencodable one must stop the process before anything is
/// promised, since an empty record in the journal would be a lost one.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Most messages and records fit: no buffer grows byte by byte.
    let mut serializer = serde_cbor::Serializer::new(Vec::with_capacity(256));
    match value.serialize(&mut serializer) {
        Ok(()) => serializer.into_inner(),
        Err(error) => panic!("a value of ours cannot be encoded: {error}"),
    }
}

/// Decodes at most [`limits::PAYLOAD_BYTES`].
///
/// # Errors
/// Too large, or anything but exactly one value of the expected shape.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CborError> {
    decode_within(bytes, limits::PAYLOAD_BYTES)
}

/// Decodes at most `limit` bytes.
///
/// # Errors
/// As [`decode`].
pub fn decode_within<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CborError> {
    if bytes.len() > limit {
        return Err(CborError::TooLarge { length: bytes.len(), limit });
    }
    serde_cbor::from_slice(bytes).map_err(|error| {
        let mut text = error.to_string();
        text.truncate(text.char_indices().map(|(at, _)| at).take_while(|&at| at <= 200).last().unwrap_or(0));
        CborError::Content(text)
    })
}
