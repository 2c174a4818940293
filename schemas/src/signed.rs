//! What is signed: payment information by a chip, verification by a payer, and with what a child pays at a terminal
//! (`signed/code.rs`). Each is a CWT (RFC 8392) in a COSE_Sign1 (RFC 9052) with EdDSA over Ed25519 (RFC 8032), about 150
//! bytes, small enough for a QR code.
//!
//! A payment QR has a second form, for scanners of EMVCo payloads (`signed/emv.rs`).
//!
//! Each kind has its own external AAD, so that one can never be taken for the other.
//!
//! | claim | label | payment information | verification | payment QR | payment token |
//! |---|---|---|---|---|---|
//! | iss | 1 | chip, `tenant/name` | payer, `tenant/name` | tenant | piggy bank, `tenant/name` |
//! | aud | 3 | merchant | payee as it was shown | merchant | - |
//! | exp | 4 | seconds since 1970 | seconds since 1970 | seconds since 1970 | seconds since 1970 |
//! | iat | 6 | seconds since 1970 | - | seconds since 1970 | seconds since 1970 |
//! | cti | 7 | 8-byte nonce | 16-byte payment id | 16-byte payment id | 16-byte payment id |
//! | amount | -70001 | minor units | minor units | minor units | minor units |
//! | currency | -70002 | ISO 4217 letters | ISO 4217 letters | ISO 4217 letters | ISO 4217 letters |
//! | item | -70003 | name | - | - | - |
//! | quantity | -70004 | units | - | - | - |
//! | device | -70005 | - | - | name, if asked for | name, if asked for |
//! | child | -70006 | - | - | name, if asked for | name, if asked for |
//! | categories | -70007 | - | - | names, if asked for | names, if asked for |

mod code;
mod emv;
mod proven;

pub use code::{Catalogue, CodeText, Payer, PaymentQr, PaymentToken, Presented, SignedCatalogue};
pub use proven::{Proven, ReadyKey, Unverified};

use coset::cbor::value::Value;
use coset::cwt::{ClaimsSet, ClaimsSetBuilder, Timestamp as NumericDate};
use coset::{CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, RegisteredLabelWithPrivate, iana};
use ed25519_dalek::{Signer, SigningKey};

use crate::ids::{Hash, ItemId, MerchantId, Nonce, PaymentId, Principal};
use crate::limits;
use crate::money::Money;
use crate::time::Timestamp;
use crate::wire::{SignedBytes, Text};

const AMOUNT: i64 = -70_001;
const CURRENCY: i64 = -70_002;
const ITEM: i64 = -70_003;
const QUANTITY: i64 = -70_004;

/// Why a signed structure was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Longer than [`limits::SIGNED_BYTES`], or [`limits::CATALOGUE_BYTES`] for a catalogue.
    #[error("too large: a signed structure has at most 512 bytes, a catalogue 7 KiB")]
    TooLarge,
    /// Not a COSE_Sign1 with EdDSA and these claims.
    #[error("not a signed structure of this kind")]
    Form,
    /// Not signed by that key.
    #[error("the signature is not of the expected key")]
    Signature,
}

/// A 32-byte Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Of a signing key.
    pub fn of(key: &SigningKey) -> Self {
        Self(key.verifying_key().to_bytes())
    }
}
impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}
impl std::str::FromStr for PublicKey {
    type Err = SignedError;
    fn from_str(text: &str) -> Result<Self, SignedError> {
        text.parse::<Hash>().map(|hash| Self(hash.0)).map_err(|_| SignedError::Form)
    }
}
impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Hash(self.0).serialize(serializer)
    }
}
impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Hash::deserialize(deserializer).map(|hash| Self(hash.0))
    }
}

/// What a chip offers for sale, once (CP-1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentInformation {
    /// The chip that issued it.
    pub chip: Principal,
    /// Single use.
    pub nonce: Nonce,
    /// When it was issued, to the second.
    pub issued_at: Timestamp,
    /// When it ends, to the second.
    pub expires_at: Timestamp,
    /// Who is paid.
    pub payee: MerchantId,
    /// The whole price.
    pub amount: Money,
    /// What is bought.
    pub item: ItemId,
    /// How many units of it; the price is divided over them when only a part is delivered.
    pub quantity: u32,
}

impl PaymentInformation {
    const AAD: &'static [u8] = b"farthing payment-information 1";

    /// Signs with the chip's key.
    pub fn sign(&self, key: &SigningKey) -> SignedBytes {
        let claims = ClaimsSetBuilder::new()
            .issuer(self.chip.to_string())
            .audience(self.payee.to_string())
            .expiration_time(seconds(self.expires_at))
            .issued_at(seconds(self.issued_at))
            .cwt_id(self.nonce.0.to_vec());
        let claims = with_amount(claims, self.amount)
            .private_claim(ITEM, Value::Text(self.item.to_string()))
            .private_claim(QUANTITY, Value::from(self.quantity))
            .build();
        sign(claims, Self::AAD, key)
    }

    /// Reads without checking the signature: to find out whose key to check with.
    ///
    /// # Errors
    /// Too large, or not of this form.
    pub fn read(signed: &SignedBytes) -> Result<Unverified<Self>, SignedError> {
        let cose = parse(signed)?;
        Ok(Unverified { said: Self::of(&cose)?, cose, aad: Self::AAD })
    }

    /// Reads without checking the signature. Never act on it.
    ///
    /// # Errors
    /// Too large, or not of this form.
    pub fn read_unverified(signed: &SignedBytes) -> Result<Self, SignedError> {
        Self::of(&parse(signed)?)
    }

    /// Reads and checks the signature.
    ///
    /// # Errors
    /// Also when it was not signed by `key`.
    pub fn verify(signed: &SignedBytes, key: &PublicKey) -> Result<Self, SignedError> {
        let cose = parse(signed)?;
        verify(&cose, Self::AAD, key)?;
        Self::of(&cose)
    }

    fn of(cose: &CoseSign1) -> Result<Self, SignedError> {
        let claims = Claims::of(cose)?;
        let quantity = claims.number(QUANTITY)?;
        Ok(Self {
            chip: claims.issuer()?,
            nonce: Nonce(claims.id()?),
            issued_at: claims.issued_at()?,
            expires_at: claims.expires_at()?,
            payee: claims.audience()?.parse().map_err(|_| SignedError::Form)?,
            amount: claims.amount()?,
            item: claims.text(ITEM)?.parse().map_err(|_| SignedError::Form)?,
            quantity: u32::try_from(quantity)
                .ok()
                .filter(|q| (1..=limits::QUANTITY).contains(q))
                .ok_or(SignedError::Form)?,
        })
    }
}

/// A payer's consent to one payment, bound to payee and amount (CP-5; dynamic linking).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Who consents.
    pub payer: Principal,
    /// To which payment.
    pub payment: PaymentId,
    /// The payee exactly as it was shown.
    pub payee: Text,
    /// The amount exactly as it was shown.
    pub amount: Money,
    /// When the consent ends, to the second.
    pub expires_at: Timestamp,
}

impl Verification {
    const AAD: &'static [u8] = b"farthing verification 1";

    /// Signs with the payer's key.
    pub fn sign(&self, key: &SigningKey) -> SignedBytes {
        let claims = ClaimsSetBuilder::new()
            .issuer(self.payer.to_string())
            .audience(self.payee.to_string())
            .expiration_time(seconds(self.expires_at))
            .cwt_id(self.payment.0.to_vec());
        sign(with_amount(claims, self.amount).build(), Self::AAD, key)
    }

    /// Reads without checking the signature: to check it with a key at hand, or to find out which payment it names.
    ///
    /// # Errors
    /// Too large, or not of this form.
    pub fn read(signed: &SignedBytes) -> Result<Unverified<Self>, SignedError> {
        let cose = parse(signed)?;
        Ok(Unverified { said: Self::of(&cose)?, cose, aad: Self::AAD })
    }

    /// Reads without checking the signature. Never act on it.
    ///
    /// # Errors
    /// Too large, or not of this form.
    pub fn read_unverified(signed: &SignedBytes) -> Result<Self, SignedError> {
        Self::of(&parse(signed)?)
    }

    /// Reads and checks the signature.
    ///
    /// # Errors
    /// Too large, not of this form, or not signed by `key`.
    pub fn verify(signed: &SignedBytes, key: &PublicKey) -> Result<Self, SignedError> {
        let cose = parse(signed)?;
        verify(&cose, Self::AAD, key)?;
        Self::of(&cose)
    }

    fn of(cose: &CoseSign1) -> Result<Self, SignedError> {
        let claims = Claims::of(cose)?;
        Ok(Self {
            payer: claims.issuer()?,
            payment: PaymentId(claims.id()?),
            payee: Text::new(claims.audience()?),
            amount: claims.amount()?,
            expires_at: claims.expires_at()?,
        })
    }
}

fn seconds(at: Timestamp) -> NumericDate {
    NumericDate::WholeSeconds(i64::try_from(at.0 / 1000).unwrap_or(i64::MAX))
}

fn with_amount(claims: ClaimsSetBuilder, amount: Money) -> ClaimsSetBuilder {
    claims
        .private_claim(AMOUNT, Value::from(amount.minor))
        .private_claim(CURRENCY, Value::Text(amount.currency.code().to_owned()))
}

fn sign(claims: ClaimsSet, aad: &[u8], key: &SigningKey) -> SignedBytes {
    let protected = HeaderBuilder::new().algorithm(iana::Algorithm::EdDSA).build();
    let signed = CoseSign1Builder::new()
        .protected(protected)
        .payload(claims.to_vec().unwrap_or_default())
        .create_signature(aad, |bytes| key.sign(bytes).to_bytes().to_vec())
        .build();
    SignedBytes(signed.to_vec().unwrap_or_default())
}

fn parse(signed: &SignedBytes) -> Result<CoseSign1, SignedError> {
    parse_within(&signed.0, limits::SIGNED_BYTES)
}

fn parse_within(bytes: &[u8], most: usize) -> Result<CoseSign1, SignedError> {
    if bytes.len() > most {
        return Err(SignedError::TooLarge);
    }
    let parsed = CoseSign1::from_slice(bytes).map_err(|_| SignedError::Form)?;
    let algorithm = RegisteredLabelWithPrivate::Assigned(iana::Algorithm::EdDSA);
    if parsed.protected.header.alg != Some(algorithm) || !parsed.unprotected.is_empty() {
        return Err(SignedError::Form);
    }
    Ok(parsed)
}

fn verify(signed: &CoseSign1, aad: &[u8], key: &PublicKey) -> Result<(), SignedError> {
    ReadyKey::new(key).ok_or(SignedError::Signature)?.check(signed, aad)
}

struct Claims(ClaimsSet);

impl Claims {
    fn of(signed: &CoseSign1) -> Result<Self, SignedError> {
        let payload = signed.payload.as_deref().ok_or(SignedError::Form)?;
        ClaimsSet::from_slice(payload).map(Self).map_err(|_| SignedError::Form)
    }

    fn issuer(&self) -> Result<Principal, SignedError> {
        self.0.issuer.as_deref().and_then(|text| text.parse().ok()).ok_or(SignedError::Form)
    }

    fn audience(&self) -> Result<&str, SignedError> {
        self.0.audience.as_deref().ok_or(SignedError::Form)
    }

    fn id<const N: usize>(&self) -> Result<[u8; N], SignedError> {
        self.0.cwt_id.as_deref().and_then(|id| id.try_into().ok()).ok_or(SignedError::Form)
    }

    fn issued_at(&self) -> Result<Timestamp, SignedError> {
        whole_seconds(self.0.issued_at.as_ref())
    }

    fn expires_at(&self) -> Result<Timestamp, SignedError> {
        whole_seconds(self.0.expiration_time.as_ref())
    }

    fn private(&self, label: i64) -> Result<&Value, SignedError> {
        let wanted = coset::cwt::ClaimName::PrivateUse(label);
        let mut found = self.0.rest.iter().filter(|(name, _)| *name == wanted);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(value),
            _ => Err(SignedError::Form),
        }
    }

    fn has(&self, label: i64) -> bool {
        let wanted = coset::cwt::ClaimName::PrivateUse(label);
        self.0.rest.iter().any(|(name, _)| *name == wanted)
    }

    fn number(&self, label: i64) -> Result<u64, SignedError> {
        let number = self.private(label)?.as_integer().ok_or(SignedError::Form)?;
        u64::try_from(number).map_err(|_| SignedError::Form)
    }

    fn text(&self, label: i64) -> Result<&str, SignedError> {
        self.private(label)?.as_text().ok_or(SignedError::Form)
    }

    fn amount(&self) -> Result<Money, SignedError> {
        let currency: crate::money::Currency = self.text(CURRENCY)?.parse().map_err(|_| SignedError::Form)?;
        let minor = self.number(AMOUNT)?;
        if minor > limits::AMOUNT_MINOR { Err(SignedError::Form) } else { Ok(currency.minor(minor)) }
    }
}

fn whole_seconds(date: Option<&NumericDate>) -> Result<Timestamp, SignedError> {
    match date {
        Some(NumericDate::WholeSeconds(seconds)) => u64::try_from(*seconds)
            .ok()
            .and_then(|seconds| seconds.checked_mul(1000))
            .map(Timestamp)
            .ok_or(SignedError::Form),
        _ => Err(SignedError::Form),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn information() -> PaymentInformation {
        PaymentInformation {
            chip: "acme/chip-7".parse().unwrap(),
            nonce: Nonce([1; 8]),
            issued_at: Timestamp(1_000_000_000_000),
            expires_at: Timestamp(1_000_000_120_000),
            payee: "snacks".parse().unwrap(),
            amount: "2.50 EUR".parse().unwrap(),
            item: "water".parse().unwrap(),
            quantity: 1,
        }
    }

    fn verification() -> Verification {
        Verification {
            payer: "acme/alice".parse().unwrap(),
            payment: PaymentId([2; 16]),
            payee: Text::new("Snacks & Co"),
            amount: "2.50 EUR".parse().unwrap(),
            expires_at: Timestamp(1_000_000_120_000),
        }
    }

    /// CP-1
    #[test]
    fn payment_information_signed_by_its_chip_reads_back() {
        let signed = information().sign(&key(1));
        assert!(signed.0.len() < 200, "{} bytes", signed.0.len());
        assert_eq!(PaymentInformation::verify(&signed, &PublicKey::of(&key(1))), Ok(information()));
        let other = PaymentInformation::verify(&signed, &PublicKey::of(&key(2)));
        assert_eq!(other, Err(SignedError::Signature));
    }

    /// CP-5
    #[test]
    fn a_verification_is_not_a_payment_information_and_the_other_way_round() {
        let signed = verification().sign(&key(1));
        assert_eq!(Verification::verify(&signed, &PublicKey::of(&key(1))), Ok(verification()));
        assert!(PaymentInformation::verify(&signed, &PublicKey::of(&key(1))).is_err());
        let signed = information().sign(&key(1));
        assert_eq!(Verification::verify(&signed, &PublicKey::of(&key(1))), Err(SignedError::Signature));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let signed = information().sign(&key(1)).0;
        for bit in 0..signed.len() * 8 {
            let mut changed = signed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                PaymentInformation::verify(&SignedBytes(changed), &PublicKey::of(&key(1))).is_err(),
                "bit {bit}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(PaymentInformation::verify(&SignedBytes(bytes), &PublicKey::of(&key(1))).is_err());
        }
    }
}
