//! Messages by hand: for people's terminals made of `mosquitto_pub`, and for looking at the wire.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::SigningKey;
use schemas::envelope::{Envelope, EnvelopeError, SCHEMA_VERSION};
use schemas::ids::{IdempotencyKey, MessageId, Principal};
use schemas::message::{Down, Up, VerificationAnswer};
use schemas::signed::{PublicKey, Verification};
use schemas::topic::Kind;
use schemas::{limits, message};
use serde_json::{Value, json};

use crate::clock;
use crate::program::turns;

/// A request made by hand lives this long, in milliseconds.
const REQUEST_LIFE_MS: u64 = 10 * 60 * 1000;

/// Why a message was not made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("{path}: {source}: check the path and its permissions; keygen never overwrites a file")]
    Io { path: PathBuf, source: io::Error },
    #[error("stdin can't be read: {0}")]
    Stdin(io::Error),
    #[error("stdin has more than {} bytes, the largest message", limits::PAYLOAD_BYTES)]
    TooLarge,
    #[error("not JSON ({0}): write the body as an object")]
    Json(serde_json::Error),
    #[error("not a `{kind}` message: {source}")]
    Content { kind: Kind, source: EnvelopeError },
    #[error("{0} is no key file: make one with `edge-agent message keygen --out FILE`")]
    Key(PathBuf),
    #[error("the system has no random generator: {0}")]
    Random(#[from] getrandom::Error),
}

impl MessageError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            MessageError::Io { .. } | MessageError::Stdin(_) => "io_failed",
            MessageError::TooLarge => "payload_too_large",
            MessageError::Json(_) => "payload_invalid",
            MessageError::Content { source, .. } => source.code(),
            MessageError::Key(_) => "key_invalid",
            MessageError::Random(_) => "no_random",
        }
    }
}

/// A new key: 64 hexadecimal digits in a file of mode 0600.
pub(crate) fn keygen(path: &Path) -> Result<PublicKey, MessageError> {
    let failed = |source| MessageError::Io { path: path.to_owned(), source };
    let secret: [u8; 32] = clock::random()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(format!("{}\n", HEXLOWER.encode(&secret)).as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(PublicKey::of(&SigningKey::from_bytes(&secret)))
}

fn read_key(path: &Path) -> Result<SigningKey, MessageError> {
    let text =
        fs::read_to_string(path).map_err(|source| MessageError::Io { path: path.to_owned(), source })?;
    let secret =
        HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    secret.map(|secret| SigningKey::from_bytes(&secret)).ok_or_else(|| MessageError::Key(path.to_owned()))
}

/// All of stdin, up to a little more than a message may have.
pub(crate) fn read_stdin() -> Result<Vec<u8>, MessageError> {
    let mut bytes = Vec::new();
    let limit = 4 * limits::PAYLOAD_BYTES;
    io::stdin().take(limit as u64 + 1).read_to_end(&mut bytes).map_err(MessageError::Stdin)?;
    if bytes.len() > limit { Err(MessageError::TooLarge) } else { Ok(bytes) }
}

/// JSON of a body, or of a whole message, to CBOR. Fills in what is missing.
pub(crate) fn encode(
    kind: Kind,
    text: &[u8],
    id: Option<MessageId>,
    key: Option<IdempotencyKey>,
) -> Result<Vec<u8>, MessageError> {
    let given: Value = serde_json::from_slice(text).map_err(MessageError::Json)?;
    let mut whole = if given.get("body").is_some() { given } else { json!({ "body": given }) };
    let mut fill = |name: &str, value: Value| {
        if whole.get(name).is_none_or(Value::is_null) {
            whole[name] = value;
        }
    };
    fill("v", json!(SCHEMA_VERSION));
    fill("id", json!(id.unwrap_or(MessageId(clock::random()?))));
    if kind.is_request() {
        fill("key", json!(key.unwrap_or(IdempotencyKey(clock::random()?))));
        fill("not_after", json!(clock::wall().plus_ms(REQUEST_LIFE_MS)));
    }
    let text = whole.to_string();
    let envelope = Up::decode_json(kind, text.as_bytes());
    Ok(envelope.map_err(|source| MessageError::Content { kind, source })?.encode())
}

/// CBOR to indented JSON, in which a terminal finds nothing to obey: what somebody else has written is escaped.
pub(crate) fn decode(kind: Kind, up: bool, payload: &[u8]) -> Result<String, MessageError> {
    let content = |source| MessageError::Content { kind, source };
    let text = if up {
        serde_json::to_string_pretty(&Up::decode(kind, payload).map_err(content)?)
    } else {
        serde_json::to_string_pretty(&Down::decode(kind, payload).map_err(content)?)
    };
    Ok(escaped(&text.map_err(MessageError::Json)?))
}

/// JSON escapes the control characters below U+0020 only; what else moves a cursor or turns a line around can stand in
/// its strings alone, where an escape means the same.
fn escaped(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if (c.is_control() && c != '\n') || turns(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// The consent to exactly what `down/payment-verification` shows (CP-5).
pub(crate) fn sign(key: &Path, payer: Principal, payload: &[u8]) -> Result<Vec<u8>, MessageError> {
    let key = read_key(key)?;
    let kind = Kind::PaymentVerification;
    let request: Envelope<Down> =
        Down::decode(kind, payload).map_err(|source| MessageError::Content { kind, source })?;
    let Down::PaymentVerification(asked) = request.body else {
        return Err(MessageError::Content { kind, source: EnvelopeError::Direction(kind) });
    };
    Ok(consent(&key, payer, request.id, asked))
}

fn consent(
    key: &SigningKey,
    payer: Principal,
    question: MessageId,
    asked: message::VerificationRequest,
) -> Vec<u8> {
    let verification = Verification {
        payer,
        payment: asked.payment,
        payee: asked.payee,
        amount: asked.amount,
        expires_at: asked.answer_by,
    };
    // Derived, so that the same consent is the same message.
    let id = MessageId::derived("consent", &[&question.0]);
    Envelope::message(id, VerificationAnswer { verification: verification.sign(key) }).encode()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use schemas::ids::PaymentId;
    use schemas::message::VerificationRequest;
    use schemas::time::Timestamp;
    use schemas::wire::Text;

    use super::*;

    /// PL-1: what is missing is filled in, what is given stays.
    #[test]
    fn a_request_by_hand_gets_id_key_and_end_of_life() {
        let body = json!({ "payment": "01".repeat(16) }).to_string();
        let payload =
            encode(Kind::PaymentCancel, body.as_bytes(), None, Some(IdempotencyKey([2; 16]))).unwrap();
        let envelope = Up::decode(Kind::PaymentCancel, &payload).unwrap();
        assert_eq!(envelope.key, Some(IdempotencyKey([2; 16])));
        assert!(envelope.not_after.unwrap() > clock::wall());
        let text = decode(Kind::PaymentCancel, true, &payload).unwrap();
        let again = encode(Kind::PaymentCancel, text.as_bytes(), None, None).unwrap();
        assert_eq!(again, payload, "decoded JSON encodes to the same bytes");
        assert_eq!(encode(Kind::PaymentCancel, b"{}", None, None).unwrap_err().code(), "payload_invalid");
        assert_eq!(encode(Kind::RequestAnswer, b"{}", None, None).unwrap_err().code(), "direction_invalid");
    }

    /// What a child or a guardian has written reaches a technician's terminal as text.
    #[test]
    fn decoded_text_moves_no_cursor_and_turns_no_line() {
        let note = "\u{9b}2J\u{7f} \u{202e}yad \u{2066}ok\u{61c} \u{1b}[1m 储蓄";
        let order = json!({
            "child": "mia", "amount": "1.00 EUR", "categories": ["toys"], "note": note,
        });
        let payload = encode(Kind::PaymentOrder, order.to_string().as_bytes(), None, None).unwrap();
        let text = decode(Kind::PaymentOrder, true, &payload).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && !turns(c)), "{text}");
        assert!(text.contains("\\u202eyad") && text.contains("储蓄"), "{text}");
        let again: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(again["body"]["note"], note, "the same text to a program");
    }

    /// CP-5
    #[test]
    fn a_consent_verifies_and_binds_payee_and_amount() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alice.key");
        let public = keygen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(keygen(&path).is_err(), "never overwrites");
        let asked = VerificationRequest {
            payment: PaymentId([3; 16]),
            payee: Text::new("Snacks & Co"),
            amount: "2.50 EUR".parse().unwrap(),
            item: "water".parse().unwrap(),
            quantity: 1,
            answer_by: Timestamp(1_000_000_120_000),
        };
        let payload = Envelope::message(MessageId([4; 16]), asked.clone()).encode();
        let signed = sign(&path, "acme/alice".parse().unwrap(), &payload).unwrap();
        let Up::PaymentVerification(answer) = Up::decode(Kind::PaymentVerification, &signed).unwrap().body
        else {
            panic!()
        };
        let verification = Verification::verify(&answer.verification, &public).unwrap();
        assert_eq!((verification.payee, verification.amount), (asked.payee, asked.amount));
        fs::write(&path, "not a key").unwrap();
        assert_eq!(sign(&path, "acme/alice".parse().unwrap(), &payload).unwrap_err().code(), "key_invalid");
    }
}
