//! One macro declares a wire structure once: the Rust type, its CBOR, its CDDL (RFC 8610) and its JSON Schema.

use serde_json::{Value, json};

use crate::ids::{
    Code, CommandId, Hash, IdempotencyKey, Instance, ItemId, MerchantId, MessageId, Nonce, PaymentId, WishId,
};
use crate::ids::{PlaceId, Principal, PrincipalId, TenantId};
use crate::money::Money;
use crate::signed::{CodeText, PublicKey, SignedCatalogue};
use crate::time::Timestamp;

/// A type that may stand in a wire structure.
pub trait WireType {
    /// Its type in CDDL.
    const CDDL: &'static str;
    /// Its JSON Schema, as it is shown to people and in AsyncAPI.
    fn json_schema() -> Value;
}

/// One field of a wire structure, for the generated documents.
pub struct Field {
    /// Key in the CBOR map.
    pub name: &'static str,
    /// Type in CDDL; `T / null` where it may be left out.
    pub cddl: &'static str,
    /// JSON Schema of the value.
    pub json_schema: Value,
    /// What it means.
    pub doc: &'static str,
}

/// A wire structure that describes itself.
pub trait Described {
    /// Name in the documents.
    const NAME: &'static str;
    /// What it is for.
    const DOC: &'static str;
    /// Its fields, in order.
    fn fields() -> Vec<Field>;
}

macro_rules! wire {
    ($(#[doc = $doc:literal])* pub struct $name:ident { $($(#[doc = $field_doc:literal])* $(#[serde $serde:tt])? pub $field:ident: $type:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[doc = $field_doc])* $(#[serde $serde])? pub $field: $type,)* }

        impl $crate::wire::Described for $name {
            const NAME: &'static str = stringify!($name);
            const DOC: &'static str = concat!($($doc),*);
            fn fields() -> Vec<$crate::wire::Field> {
                vec![$($crate::wire::Field {
                    name: stringify!($field),
                    cddl: <$type as $crate::wire::WireType>::CDDL,
                    json_schema: <$type as $crate::wire::WireType>::json_schema(),
                    doc: concat!($($field_doc),*),
                },)*]
            }
        }
    };
}

macro_rules! wire_enum {
    ($(#[doc = $doc:literal])* pub enum $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident = $text:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[doc = $variant_doc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Every variant.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// As on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl $crate::wire::WireType for $name {
            const CDDL: &'static str = $crate::wire::choice!($($text),*);
            fn json_schema() -> serde_json::Value {
                serde_json::json!({ "type": "string", "enum": [$($text),*] })
            }
        }
        impl $crate::wire::WireType for Option<$name> {
            const CDDL: &'static str = concat!($crate::wire::choice!($($text),*), " / null");
            fn json_schema() -> serde_json::Value {
                serde_json::json!({ "oneOf": [<$name as $crate::wire::WireType>::json_schema(), { "type": "null" }] })
            }
        }
    };
}

macro_rules! choice {
    ($first:literal $(, $rest:literal)*) => { concat!("\"", $first, "\"", $(" / \"", $rest, "\""),*) };
}

pub(crate) use {choice, wire, wire_enum};

macro_rules! wire_type {
    ($($type:ty => $cddl:literal, $schema:tt;)*) => { $(
        impl WireType for $type {
            const CDDL: &'static str = $cddl;
            fn json_schema() -> Value {
                json!($schema)
            }
        }
        impl WireType for Option<$type> {
            const CDDL: &'static str = concat!($cddl, " / null");
            fn json_schema() -> Value {
                json!({ "oneOf": [json!($schema), { "type": "null" }] })
            }
        }
    )* };
}

/// A signed COSE structure: bytes in CBOR, base64url text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBytes(pub Vec<u8>);

impl serde::Serialize for SignedBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&data_encoding::BASE64URL_NOPAD.encode(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}
impl<'de> serde::Deserialize<'de> for SignedBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let bytes = if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).map_err(D::Error::custom)?
        } else {
            serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec()
        };
        if bytes.len() > crate::limits::SIGNED_BYTES {
            return Err(D::Error::custom("a signed structure has at most 512 bytes"));
        }
        Ok(Self(bytes))
    }
}

/// A sentence for a person, at most [`crate::limits::TEXT_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Text(String);

impl Text {
    /// Cuts at the limit, on a character boundary.
    pub fn new(text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = text.len().min(crate::limits::TEXT_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self(text)
    }

    /// The sentence.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl<'de> serde::Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > crate::limits::TEXT_BYTES {
            return Err(serde::de::Error::custom("a text has at most 512 bytes"));
        }
        Ok(Self(text))
    }
}

wire_type! {
    bool => "bool", { "type": "boolean" };
    u32 => "uint .size 4", { "type": "integer", "minimum": 0, "maximum": 4_294_967_295_u64 };
    u64 => "uint", { "type": "integer", "minimum": 0 };
    Timestamp => "uint ; milliseconds since 1970", { "type": "integer", "minimum": 0, "description": "milliseconds since 1970" };
    Instance => "uint .size 4", { "type": "integer", "minimum": 0 };
    Money => "money", { "type": "string", "examples": ["12.50 EUR"] };
    TenantId => "name", { "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$" };
    PrincipalId => "name", { "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$" };
    MerchantId => "name", { "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$" };
    ItemId => "name", { "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$" };
    PlaceId => "name", { "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$" };
    Principal => "principal", { "type": "string", "examples": ["acme/chip-7"] };
    Code => "code", { "type": "string", "pattern": "^[a-z0-9_]{1,64}$" };
    Text => "text-512", { "type": "string", "maxLength": 512 };
    MessageId => "id16", { "type": "string", "pattern": "^[0-9a-f]{32}$" };
    IdempotencyKey => "id16", { "type": "string", "pattern": "^[0-9a-f]{32}$" };
    PaymentId => "id16", { "type": "string", "pattern": "^[0-9a-f]{32}$" };
    WishId => "id16", { "type": "string", "pattern": "^[0-9a-f]{32}$" };
    CommandId => "id16", { "type": "string", "pattern": "^[0-9a-f]{32}$" };
    Nonce => "bstr .size 8", { "type": "string", "pattern": "^[0-9a-f]{16}$" };
    PublicKey => "bstr .size 32", { "type": "string", "pattern": "^[0-9a-f]{64}$", "description": "Ed25519" };
    Hash => "bstr .size 32", { "type": "string", "pattern": "^[0-9a-f]{64}$" };
    CodeText => "text .size (1..1024)", { "type": "string", "minLength": 1, "maxLength": 1024 };
    SignedCatalogue => "bstr .size (1..7168)", { "type": "string", "contentEncoding": "base64url" };
    SignedBytes => "bstr .size (1..512)", { "type": "string", "contentEncoding": "base64url" };
}
