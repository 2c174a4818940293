//! Bytes and texts that name or say something: messages, signed structures, claim codes, topics, names, amounts.

use ed25519_dalek::SigningKey;
use schemas::claim::{self, ClaimCode};
use schemas::envelope::{Envelope, EnvelopeError};
use schemas::ids::{ItemId, MerchantId, Nonce, PaymentId, Principal, TenantId};
use schemas::message::{Down, Up};
use schemas::money::Money;
use schemas::signed::{PaymentInformation, PublicKey, Verification};
use schemas::time::Timestamp;
use schemas::topic::{Filter, Kind, Role, Topic};
use schemas::wire::{SignedBytes, Text};

use super::input::Input;

/// First byte: direction and kind; then the payload as it came on the topic. What decodes prints and decodes to itself.
pub fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let selector = input.byte();
    let kind = Kind::ALL[usize::from(selector & 0x1F) % Kind::ALL.len()];
    let payload = input.rest();
    match selector >> 5 {
        0..3 => decoded(Up::decode(kind, payload), kind.may_go_up(), |bytes| Up::decode(kind, bytes)),
        3..6 => decoded(Down::decode(kind, payload), kind.may_go_down(), |bytes| Down::decode(kind, bytes)),
        _ => decoded(Up::decode_json(kind, payload), kind.may_go_up(), |bytes| Up::decode(kind, bytes)),
    }
}

fn decoded<B: PartialEq + std::fmt::Debug + serde::Serialize>(
    first: Result<Envelope<B>, EnvelopeError>,
    may_go: bool,
    again: impl Fn(&[u8]) -> Result<Envelope<B>, EnvelopeError>,
) {
    match first {
        Ok(envelope) => {
            assert!(may_go, "a message that does not go in this direction was decoded");
            assert_eq!(
                again(&envelope.encode()),
                Ok(envelope),
                "what decodes must print and decode to itself"
            );
        }
        Err(error) => {
            assert_eq!(may_go, !matches!(error, EnvelopeError::Direction(_)), "{error}");
            assert!(!error.code().is_empty() && error.to_string().len() < 1024, "{error}");
        }
    }
}

/// First byte: what it is taken for. What verifies is what its signer signed, whatever was changed on the way.
pub fn signed(data: &[u8]) {
    let mut input = Input::new(data);
    let selector = input.byte();
    let bytes = input.rest();
    match selector % 3 {
        0 => {
            let signed = SignedBytes(bytes.to_vec());
            let read = PaymentInformation::read_unverified(&signed);
            if let Ok(verified) = PaymentInformation::verify(&signed, &PublicKey::of(&key())) {
                assert_eq!(verified, information());
                assert_eq!(read, Ok(verified));
            }
        }
        1 => {
            let signed = SignedBytes(bytes.to_vec());
            let read = Verification::read_unverified(&signed);
            if let Ok(verified) = Verification::verify(&signed, &PublicKey::of(&key())) {
                assert_eq!(verified, verification());
                assert_eq!(read, Ok(verified));
            }
        }
        _ => {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(code) = ClaimCode::parse(&text) {
                assert_eq!(ClaimCode::parse(&code.to_string()), Ok(code));
            }
            let _none = claim::secret_hash_of_text(&text);
            let _none = text.parse::<PublicKey>();
        }
    }
}

pub(super) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(super) fn information() -> PaymentInformation {
    PaymentInformation {
        chip: "acme/chip-7".parse().unwrap(),
        nonce: Nonce([1; 8]),
        issued_at: Timestamp(1_800_000_000_000),
        expires_at: Timestamp(1_800_000_120_000),
        payee: "snacks".parse().unwrap(),
        amount: "2.50 EUR".parse().unwrap(),
        item: "water".parse().unwrap(),
        quantity: 1,
    }
}

pub(super) fn verification() -> Verification {
    Verification {
        payer: "acme/alice".parse().unwrap(),
        payment: PaymentId([2; 16]),
        payee: Text::new("Snacks & Co"),
        amount: "2.50 EUR".parse().unwrap(),
        expires_at: Timestamp(1_800_000_120_000),
    }
}

/// Any text as topic, filter, name and amount: what parses prints as itself, and nobody gets a right to what is not
/// below its own name (PL-1).
pub fn topics(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let people: [Principal; 3] =
        ["acme/chip-7", "acme/chip-8", "other/chip-7"].map(|who| who.parse().unwrap());
    if let Ok(topic) = text.parse::<Topic>() {
        assert_eq!(topic.to_string(), *text);
        for who in &people {
            let own = text.starts_with(&format!("ft/{who}/up/")) || *text == format!("ft/{who}/state");
            assert_eq!(topic.may_be_published_by(who, Role::Party), own, "{text} by {who}");
            assert!(!topic.may_be_published_by(who, Role::Observer), "{text} by the observer {who}");
        }
    }
    if let Ok(filter) = text.parse::<Filter>() {
        assert_eq!(filter.to_string().parse(), Ok(filter.clone()));
        for who in &people {
            let own = text.starts_with(&format!("ft/{who}/down/"));
            assert_eq!(filter.permitted_for(who, Role::Party), own, "{text} for {who}");
            let tenant = format!("ft/{}/", who.tenant);
            let observed = text.strip_prefix(&tenant).is_some_and(|rest| {
                !rest.contains("/down/") && (rest.starts_with("feed/") || rest.ends_with("/state"))
            });
            assert_eq!(filter.permitted_for(who, Role::Observer), observed, "{text} for observer {who}");
        }
    }
    if let Ok(principal) = text.parse::<Principal>() {
        assert_eq!(principal.to_string(), *text);
    }
    if let Ok(name) = text.parse::<TenantId>() {
        assert_eq!(name.to_string(), *text);
        assert!(text.parse::<MerchantId>().is_ok() && text.parse::<ItemId>().is_ok(), "{text}");
    }
    if let Ok(amount) = text.parse::<Money>() {
        assert_eq!(amount.to_string().parse(), Ok(amount));
    }
}
