//! What every message has around its body: schema version, message id, and for requests an idempotency key and an
//! end of life. `{ v, id, key, not_after, body }` as one CBOR map.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cbor::{self, CborError};
use crate::ids::{IdempotencyKey, MessageId};
use crate::message::{Down, Up};
use crate::time::Timestamp;
use crate::topic::Kind;
use crate::wire::{Field, WireType};

/// The version of every message in this release.
pub const SCHEMA_VERSION: u32 = 1;

/// Why a payload was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Too large, or not the CBOR that this kind has.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Not JSON of this kind's form (only where a person writes JSON).
    #[error("not the expected JSON: {0}")]
    Json(String),
    /// A version that this release does not speak.
    #[error("schema version {0} is not spoken here; this release speaks {SCHEMA_VERSION}")]
    Version(u32),
    /// A kind that does not go in this direction.
    #[error("`{0}` does not go in this direction")]
    Direction(Kind),
    /// A request without its key or end of life.
    #[error("a request needs both `key` (made once, before sending) and `not_after` (at most 24 h ahead)")]
    NotARequest,
}

impl EnvelopeError {
    /// Stable code, as sent in `down/refused`.
    pub fn code(&self) -> &'static str {
        match self {
            EnvelopeError::Cbor(CborError::TooLarge { .. }) => "payload_too_large",
            EnvelopeError::Cbor(CborError::Content(_)) | EnvelopeError::Json(_) => "payload_invalid",
            EnvelopeError::Version(_) => "version_unknown",
            EnvelopeError::Direction(_) => "direction_invalid",
            EnvelopeError::NotARequest => "not_a_request",
        }
    }
}

/// A message with its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope<B> {
    /// Schema version.
    pub v: u32,
    /// Made by the sender, kept for every repeat.
    pub id: MessageId,
    /// Of a request: the same key and content always get the same answer.
    pub key: Option<IdempotencyKey>,
    /// Of a request: later it is refused without a look-up.
    pub not_after: Option<Timestamp>,
    /// What it says.
    pub body: B,
}

impl<B> Envelope<B> {
    /// A message that is not a request.
    pub fn message(id: MessageId, body: B) -> Self {
        Self { v: SCHEMA_VERSION, id, key: None, not_after: None, body }
    }

    /// A request.
    pub fn request(id: MessageId, key: IdempotencyKey, not_after: Timestamp, body: B) -> Self {
        Self { v: SCHEMA_VERSION, id, key: Some(key), not_after: Some(not_after), body }
    }

    pub(crate) fn map<C>(self, f: impl FnOnce(B) -> C) -> Envelope<C> {
        Envelope { v: self.v, id: self.id, key: self.key, not_after: self.not_after, body: f(self.body) }
    }

    /// The envelope's own fields, for the generated documents.
    pub(crate) fn fields() -> Vec<Field> {
        fn field<T: WireType>(name: &'static str, doc: &'static str) -> Field {
            Field { name, cddl: T::CDDL, json_schema: T::json_schema(), doc }
        }
        vec![
            field::<u32>("v", " Schema version."),
            field::<MessageId>("id", " Made by the sender, kept for every repeat."),
            field::<Option<IdempotencyKey>>("key", " Of a request: made once, before sending."),
            field::<Option<Timestamp>>("not_after", " Of a request: later it is refused."),
        ]
    }
}

impl<B: Serialize> Envelope<B> {
    /// As CBOR.
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }
}

/// How an envelope is written down: CBOR between machines, JSON for a person at `edge-agent message encode`.
pub(crate) trait Format {
    fn parse<B: DeserializeOwned>(payload: &[u8]) -> Result<Envelope<B>, EnvelopeError>;
}

pub(crate) struct Cbor;
impl Format for Cbor {
    fn parse<B: DeserializeOwned>(payload: &[u8]) -> Result<Envelope<B>, EnvelopeError> {
        check_version(cbor::decode::<Envelope<B>>(payload), || {
            cbor::decode::<VersionOnly>(payload).ok().map(|only| only.v)
        })
    }
}

pub(crate) struct Json;
impl Format for Json {
    fn parse<B: DeserializeOwned>(payload: &[u8]) -> Result<Envelope<B>, EnvelopeError> {
        let parsed = serde_json::from_slice(payload).map_err(|error| EnvelopeError::Json(error.to_string()));
        check_version(parsed, || serde_json::from_slice::<VersionOnly>(payload).ok().map(|only| only.v))
    }
}

/// Reads past everything but the version, so that a newer message is refused as newer and not as garbage.
#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

fn check_version<B, E: Into<EnvelopeError>>(
    parsed: Result<Envelope<B>, E>,
    version: impl Fn() -> Option<u32>,
) -> Result<Envelope<B>, EnvelopeError> {
    match parsed {
        Ok(envelope) if envelope.v == SCHEMA_VERSION => Ok(envelope),
        Ok(envelope) => Err(EnvelopeError::Version(envelope.v)),
        Err(error) => match version() {
            Some(v) if v != SCHEMA_VERSION => Err(EnvelopeError::Version(v)),
            _ => Err(error.into()),
        },
    }
}

impl Up {
    /// Decodes what came on `up/{kind}`.
    ///
    /// # Errors
    /// See [`EnvelopeError`]; a request also needs `key` and `not_after`.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Envelope<Up>, EnvelopeError> {
        require_request(Up::decode_body::<Cbor>(kind, payload)?)
    }

    /// The same from JSON, as a person writes it.
    ///
    /// # Errors
    /// As [`Up::decode`].
    pub fn decode_json(kind: Kind, text: &[u8]) -> Result<Envelope<Up>, EnvelopeError> {
        require_request(Up::decode_body::<Json>(kind, text)?)
    }

    /// Whether this kind is a request, which carries a key and gets a `request-answer`.
    pub fn is_request(&self) -> bool {
        self.kind().is_request()
    }
}

fn require_request(envelope: Envelope<Up>) -> Result<Envelope<Up>, EnvelopeError> {
    if envelope.body.is_request() && (envelope.key.is_none() || envelope.not_after.is_none()) {
        return Err(EnvelopeError::NotARequest);
    }
    Ok(envelope)
}

impl Down {
    /// Decodes what came on `down/{kind}`.
    ///
    /// # Errors
    /// See [`EnvelopeError`].
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Envelope<Down>, EnvelopeError> {
        Down::decode_body::<Cbor>(kind, payload)
    }
}
