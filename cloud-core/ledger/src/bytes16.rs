//! `u128` as 16 big-endian bytes: CBOR's integers end at 64 bits, and big-endian keeps the sort order in the bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::ByteArray;

pub(crate) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    ByteArray::new(value.to_be_bytes()).serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
    ByteArray::<16>::deserialize(deserializer).map(|bytes| u128::from_be_bytes(bytes.into_array()))
}
