//! Typed ids. Names are what people choose; 16-byte ids are what programs make.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::limits;

/// Why a name or id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, too long, or with a character that is not allowed.
    #[error("`{0}` is not a name: use 1 to 32 of a-z, 0-9 and -, beginning with a letter or digit")]
    Name(String),
    /// A principal without exactly one slash.
    #[error("`{0}` is not a principal: write tenant/name, for instance acme/chip-7")]
    Principal(String),
    /// Not 32 hexadecimal digits.
    #[error("`{0}` is not an id: write its 32 hexadecimal digits")]
    Hex(String),
    /// A code with another alphabet.
    #[error("`{0}` is not a code: use 1 to 64 of a-z, 0-9 and _")]
    Code(String),
}

/// Shown in errors instead of input of any length or shape.
fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(48).collect()
}

/// A name in place: every event and most keys hold some, and none of them is worth an allocation. Behind it are zeros,
/// so names compare as their texts do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name {
    bytes: [u8; limits::NAME_BYTES],
    length: u8,
}

impl Name {
    /// None if the text is longer than any name.
    fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; limits::NAME_BYTES];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { bytes, length: u8::try_from(text.len()).ok()? })
    }

    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Reads a text without a copy of it.
struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err = IdError>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Reads so many bytes without a copy on the way.
struct Bytes<const N: usize>;

impl<const N: usize> Visitor<'_> for Bytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Name);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let name = Some(text).filter(|text| is_name(text)).and_then(Name::new);
                name.map(Self).ok_or_else(|| IdError::Name(excerpt(text)))
            }
        }
        text_forms!($name);
    };
}

macro_rules! text_forms {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parsed(PhantomData))
            }
        }
    };
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= limits::NAME_BYTES
        && bytes[0] != b'-'
        && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= limits::CODE_BYTES
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

name_id!(
    /// A tenant: one company with its own books, currency and policies.
    TenantId
);
name_id!(
    /// A device or a person's terminal, within its tenant.
    PrincipalId
);
name_id!(
    /// A merchant, within its tenant.
    MerchantId
);
name_id!(
    /// What is bought: a slot, a product, a service.
    ItemId
);
name_id!(
    /// What money is spent on (`sweets`, `books`): the tenant's word, mapped to a merchant category code (ISO 18245)
    /// where there is one.
    CategoryId
);
name_id!(
    /// Somewhere to pay (`school-canteen`), within its tenant.
    PlaceId
);
/// A stable snake_case code that programs may rely on (`nonce_used`, `already_commanded`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(String);

impl FromStr for Code {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if is_code(text) { Ok(Self(text.to_owned())) } else { Err(IdError::Code(excerpt(text))) }
    }
}
text_forms!(Code);

impl Code {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A code known when the program is written. Anything else than `[a-z0-9_]{1,64}` becomes `other`.
    pub fn known(text: &'static str) -> Self {
        debug_assert!(is_code(text), "{text} is not a code");
        if is_code(text) { Self(text.to_owned()) } else { Self("other".to_owned()) }
    }
}

/// Who speaks: the authenticated identity, `tenant/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name within the tenant.
    pub id: PrincipalId,
}

impl FromStr for Principal {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (tenant, id) = text.split_once('/').ok_or_else(|| IdError::Principal(excerpt(text)))?;
        Ok(Self { tenant: tenant.parse()?, id: id.parse()? })
    }
}
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}
impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed(PhantomData))
    }
}

macro_rules! binary_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The same parts always give the same id: SHA-256 over the length-prefixed parts, cut.
            /// Ids that the platform makes are derived, so that replay and retry arrive at the same ones.
            pub fn derived(label: &str, parts: &[&[u8]]) -> Self {
                let mut id = [0; $bytes];
                id.copy_from_slice(&digest(label, parts)[..$bytes]);
                Self(id)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .map_err(|_| IdError::Hex(excerpt(text)))?;
                Ok(Self(bytes.try_into().map_err(|_| IdError::Hex(excerpt(text)))?))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Parsed(PhantomData))
                } else {
                    deserializer.deserialize_bytes(Bytes::<$bytes>).map(Self)
                }
            }
        }
    };
}

binary_id!(
    /// One message. Its sender repeats it under the same id until it is promised; its receiver answers a repeat
    /// with the same answer.
    MessageId, 16
);
binary_id!(
    /// Made by a client before it sends a request (MO-3). Same key and same content = same answer.
    IdempotencyKey, 16
);
binary_id!(
    /// One payment, derived from who asked and with which key.
    PaymentId, 16
);
binary_id!(
    /// One wish of a child, derived from its piggy bank and what it says.
    WishId, 16
);
binary_id!(
    /// One command to one executor instance, derived from its payment.
    CommandId, 16
);
binary_id!(
    /// Names one payment information of one chip (CWT `cti`).
    Nonce, 8
);
binary_id!(
    /// SHA-256 of something.
    Hash, 32
);

impl Hash {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

fn digest(label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [label.as_bytes()].iter().chain(parts) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// A device is enrolled anew with every claim; a command binds to one instance (correctness.md 20).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance(pub u32);

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_other_shape_are_refused() {
        for bad in ["", "-a", "A", "a b", "a/b", "a+", "a#", "é", &"x".repeat(33), "a\0"] {
            assert!(bad.parse::<PrincipalId>().is_err(), "{bad:?}");
        }
        for good in ["a", "chip-7", "0", &"x".repeat(32)] {
            assert_eq!(good.parse::<PrincipalId>().unwrap().to_string(), good);
        }
        assert!("a/b/c".parse::<Principal>().is_err());
        assert_eq!("acme/chip-7".parse::<Principal>().unwrap().to_string(), "acme/chip-7");
    }

    /// Names of every length, compared in place, are in the order of their texts.
    #[test]
    fn names_are_in_the_order_of_their_texts() {
        let mut texts: Vec<String> =
            ["a", "a-", "a0", "aa", "b", "0", "9", "z-z"].map(str::to_owned).into_iter().collect();
        texts.extend((1..=32).map(|length| "x".repeat(length)));
        let mut names: Vec<PrincipalId> = texts.iter().map(|text| text.parse().unwrap()).collect();
        texts.sort();
        names.sort();
        assert!(names.iter().map(PrincipalId::as_str).eq(&texts));
        assert_eq!(format!("{:?}", names[0]), "PrincipalId(\"0\")");
    }

    #[test]
    fn binary_ids_are_bytes_in_cbor_and_hexadecimal_for_people() {
        let id = PaymentId::derived("test", &[b"a", b"b"]);
        assert_ne!(id, PaymentId::derived("test", &[b"ab", b""]), "parts do not run together");
        assert_eq!(id.to_string().parse::<PaymentId>().unwrap(), id);
        let cbor = serde_cbor::to_vec(&id).unwrap();
        assert_eq!(cbor.len(), 17);
        assert_eq!(serde_cbor::from_slice::<PaymentId>(&cbor).unwrap(), id);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<PaymentId>(&json).unwrap(), id);
        assert!(serde_cbor::from_slice::<PaymentId>(&[0x42, 1, 2]).is_err());
    }
}
