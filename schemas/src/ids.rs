//! Typed ids. Names are what people choose; 16-byte ids are what programs make.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
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

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if $check(text) { Ok(Self(text.to_owned())) } else { Err(IdError::$error(excerpt(text))) }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
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

text_id!(
    /// A tenant: one company with its own books, currency and policies.
    TenantId, is_name, Name
);
text_id!(
    /// A device or a person's terminal, within its tenant.
    PrincipalId, is_name, Name
);
text_id!(
    /// A merchant, within its tenant.
    MerchantId, is_name, Name
);
text_id!(
    /// What is bought: a slot, a product, a service.
    ItemId, is_name, Name
);
text_id!(
    /// What money is spent on (`sweets`, `books`): the tenant's word, mapped to a merchant category code (ISO 18245)
    /// where there is one.
    CategoryId, is_name, Name
);
text_id!(
    /// Somewhere to pay (`school-canteen`), within its tenant.
    PlaceId, is_name, Name
);
text_id!(
    /// A stable snake_case code that programs may rely on (`nonce_used`, `already_commanded`).
    Code, is_code, Code
);

impl Code {
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
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
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
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
                    let length = bytes.len();
                    let bytes = bytes.into_vec().try_into();
                    Ok(Self(bytes.map_err(|_| de::Error::invalid_length(length, &stringify!($bytes)))?))
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
