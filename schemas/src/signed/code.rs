//! With what a child pays at a terminal: a QR code that the cloud has signed (PC-6), or a token that its piggy bank has
//! signed (PC-7); and the places where it may (PC-9).

use std::fmt;
use std::str::FromStr;

use coset::cbor::value::Value;
use coset::cwt::ClaimsSetBuilder;
use coset::{CborSerializable, CoseSign1, CoseSign1Builder, HeaderBuilder, iana};
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Claims, PublicKey, SignedError, emv, parse, parse_within, seconds, sign, verify, with_amount};
use crate::ids::{MerchantId, PaymentId, Principal, PrincipalId, TenantId};
use crate::limits;
use crate::message::{Categories, CodeClaim, CodeClaims, Place, Places};
use crate::money::Money;
use crate::time::Timestamp;
use crate::wire::SignedBytes;

const DEVICE: i64 = -70_005;
const CHILD: i64 = -70_006;
const CATEGORIES: i64 = -70_007;

const QR_PREFIX: &str = "FQ1:";
const TOKEN_PREFIX: &str = "FT1:";

/// What a code says of who pays: those of them that the order asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payer {
    /// The piggy bank.
    pub device: Option<PrincipalId>,
    /// The child.
    pub child: Option<PrincipalId>,
    /// What it is for.
    pub categories: Option<Categories>,
}

impl Payer {
    /// Leaves out what is not claimed.
    pub fn claimed(
        claims: &CodeClaims,
        device: &PrincipalId,
        child: &PrincipalId,
        categories: &Categories,
    ) -> Self {
        Self {
            device: claims.contains(CodeClaim::Device).then(|| device.clone()),
            child: claims.contains(CodeClaim::Child).then(|| child.clone()),
            categories: claims.contains(CodeClaim::Category).then(|| categories.clone()),
        }
    }

    fn claim(&self, claims: ClaimsSetBuilder) -> ClaimsSetBuilder {
        let names = |names: &Categories| names.iter().map(|name| Value::Text(name.to_string())).collect();
        let all = [
            (DEVICE, self.device.as_ref().map(|device| Value::Text(device.to_string()))),
            (CHILD, self.child.as_ref().map(|child| Value::Text(child.to_string()))),
            (CATEGORIES, self.categories.as_ref().map(|categories| Value::Array(names(categories)))),
        ];
        let there = all.into_iter().filter_map(|(label, value)| Some((label, value?)));
        there.fold(claims, |claims, (label, value)| claims.private_claim(label, value))
    }

    fn of(claims: &Claims) -> Result<Self, SignedError> {
        let name = |label| match claims.has(label) {
            true => claims.text(label)?.parse().map(Some).map_err(|_| SignedError::Form),
            false => Ok(None),
        };
        let categories = || {
            let all = claims.private(CATEGORIES)?.as_array().ok_or(SignedError::Form)?;
            let names = all.iter().map(|one| one.as_text().and_then(|text| text.parse().ok()));
            let names = names.collect::<Option<Vec<_>>>().ok_or(SignedError::Form)?;
            Categories::new(names).map_err(|_| SignedError::Form)
        };
        let categories = if claims.has(CATEGORIES) { Some(categories()?) } else { None };
        Ok(Self { device: name(DEVICE)?, child: name(CHILD)?, categories })
    }
}

/// What the cloud signs so that a piggy bank can show it (PC-6). Single use: its payment is settled once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentQr {
    /// Whose cloud has signed it.
    pub tenant: TenantId,
    /// Of which payment.
    pub payment: PaymentId,
    /// Who is paid.
    pub payee: MerchantId,
    /// How much.
    pub amount: Money,
    /// Who pays.
    pub payer: Payer,
    /// When it was made, to the second.
    pub issued_at: Timestamp,
    /// When it ends, to the second.
    pub expires_at: Timestamp,
}

impl PaymentQr {
    const AAD: &'static [u8] = b"farthing payment-qr 1";

    /// Signs with the cloud's key.
    pub fn sign(&self, key: &SigningKey) -> CodeText {
        let claims = ClaimsSetBuilder::new()
            .issuer(self.tenant.to_string())
            .audience(self.payee.to_string())
            .expiration_time(seconds(self.expires_at))
            .issued_at(seconds(self.issued_at))
            .cwt_id(self.payment.0.to_vec());
        let claims = self.payer.claim(with_amount(claims, self.amount)).build();
        CodeText::of(QR_PREFIX, &sign(claims, Self::AAD, key))
    }

    /// Reads and checks the signature.
    ///
    /// # Errors
    /// Too large, not of this form, or not signed by `key`.
    pub fn verify(signed: &SignedBytes, key: &PublicKey) -> Result<Self, SignedError> {
        let parsed = parse(signed)?;
        verify(&parsed, Self::AAD, key)?;
        let claims = Claims::of(&parsed)?;
        let issuer = claims.0.issuer.as_deref().and_then(|text| text.parse().ok());
        Ok(Self {
            tenant: issuer.ok_or(SignedError::Form)?,
            payment: PaymentId(claims.id()?),
            payee: claims.audience()?.parse().map_err(|_| SignedError::Form)?,
            amount: claims.amount()?,
            payer: Payer::of(&claims)?,
            issued_at: claims.issued_at()?,
            expires_at: claims.expires_at()?,
        })
    }
}

/// What a piggy bank signs in the mode of control information (PC-7). Single use: its payment is settled once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentToken {
    /// The piggy bank.
    pub device: Principal,
    /// For which payment.
    pub payment: PaymentId,
    /// How much.
    pub amount: Money,
    /// Who pays.
    pub payer: Payer,
    /// When it was made, to the second.
    pub issued_at: Timestamp,
    /// When it ends, to the second.
    pub expires_at: Timestamp,
}

impl PaymentToken {
    const AAD: &'static [u8] = b"farthing payment-token 1";

    /// Signs with the piggy bank's key.
    pub fn sign(&self, key: &SigningKey) -> CodeText {
        let claims = ClaimsSetBuilder::new()
            .issuer(self.device.to_string())
            .expiration_time(seconds(self.expires_at))
            .issued_at(seconds(self.issued_at))
            .cwt_id(self.payment.0.to_vec());
        let claims = self.payer.claim(with_amount(claims, self.amount)).build();
        CodeText::of(TOKEN_PREFIX, &sign(claims, Self::AAD, key))
    }

    /// Reads without checking the signature: to find out whose key to check with. Never act on it.
    ///
    /// # Errors
    /// Too large, or not of this form.
    pub fn read_unverified(signed: &SignedBytes) -> Result<Self, SignedError> {
        let claims = Claims::of(&parse(signed)?)?;
        Ok(Self {
            device: claims.issuer()?,
            payment: PaymentId(claims.id()?),
            amount: claims.amount()?,
            payer: Payer::of(&claims)?,
            issued_at: claims.issued_at()?,
            expires_at: claims.expires_at()?,
        })
    }

    /// Reads and checks the signature.
    ///
    /// # Errors
    /// Too large, not of this form, or not signed by `key`.
    pub fn verify(signed: &SignedBytes, key: &PublicKey) -> Result<Self, SignedError> {
        verify(&parse(signed)?, Self::AAD, key)?;
        Self::read_unverified(signed)
    }
}

/// The text of a code, as a scanner reads it: 1 to [`limits::CODE_TEXT_BYTES`] printable ASCII characters. What of it is
/// ours begins with `FQ1:` (a QR code) or `FT1:` (a token); the COSE_Sign1 follows in Base45 (RFC 9285), which QR codes
/// hold densely. A QR code may also be an EMVCo merchant-presented payload, which begins with `000201`.
///
/// ```
/// use schemas::signed::CodeText;
/// assert!("FQ1:6BF+70790".parse::<CodeText>().is_ok());
/// assert!("".parse::<CodeText>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeText(String);

/// What a scanned text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented {
    /// See [`PaymentQr`].
    Qr(SignedBytes),
    /// The same as an EMVCo merchant-presented payload (`signed/emv.rs`), or one of somebody else.
    Emv(CodeText),
    /// See [`PaymentToken`].
    Token(SignedBytes),
}

impl CodeText {
    fn of(prefix: &str, signed: &SignedBytes) -> Self {
        Self(format!("{prefix}{}", base45::encode(&signed.0)))
    }

    /// As it stands in the code.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is, if it is one of ours.
    pub fn presented(&self) -> Option<Presented> {
        if self.0.starts_with(emv::HEAD) {
            return Some(Presented::Emv(self.clone()));
        }
        let bytes = |text| base45::decode(text).ok().map(SignedBytes);
        match (self.0.strip_prefix(QR_PREFIX), self.0.strip_prefix(TOKEN_PREFIX)) {
            (Some(qr), _) => bytes(qr).map(Presented::Qr),
            (_, Some(token)) => bytes(token).map(Presented::Token),
            _ => None,
        }
    }
}
impl fmt::Display for CodeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for CodeText {
    type Err = SignedError;
    fn from_str(text: &str) -> Result<Self, SignedError> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        match text.len() {
            1..=limits::CODE_TEXT_BYTES if printable => Ok(Self(text.to_owned())),
            1..=limits::CODE_TEXT_BYTES => Err(SignedError::Form),
            0 => Err(SignedError::Form),
            _ => Err(SignedError::TooLarge),
        }
    }
}
impl Serialize for CodeText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for CodeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The places of a tenant (PC-9): what a piggy bank keeps, so that it knows them where nothing can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Whose.
    pub tenant: TenantId,
    /// Higher with each change.
    pub version: u64,
    /// All of them.
    pub places: Places,
}

/// A [`Catalogue`] as COSE_Sign1 with EdDSA, at most [`limits::CATALOGUE_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCatalogue(Vec<u8>);

impl Catalogue {
    const AAD: &'static [u8] = b"farthing places 1";

    /// Signs with the cloud's key.
    ///
    /// # Errors
    /// [`SignedError::TooLarge`]: more than fits one message.
    pub fn sign(&self, key: &SigningKey) -> Result<SignedCatalogue, SignedError> {
        let protected = HeaderBuilder::new().algorithm(iana::Algorithm::EdDSA).build();
        let signed = CoseSign1Builder::new()
            .protected(protected)
            .payload(crate::cbor::encode(self))
            .create_signature(Self::AAD, |bytes| key.sign(bytes).to_bytes().to_vec())
            .build();
        let bytes = signed.to_vec().map_err(|_| SignedError::Form)?;
        if bytes.len() > limits::CATALOGUE_BYTES {
            Err(SignedError::TooLarge)
        } else {
            Ok(SignedCatalogue(bytes))
        }
    }

    /// Reads and checks the signature.
    ///
    /// # Errors
    /// Too large, not of this form, or not signed by `key`.
    pub fn verify(signed: &SignedCatalogue, key: &PublicKey) -> Result<Self, SignedError> {
        let parsed: CoseSign1 = parse_within(&signed.0, limits::CATALOGUE_BYTES)?;
        verify(&parsed, Self::AAD, key)?;
        let payload = parsed.payload.as_deref().ok_or(SignedError::Form)?;
        crate::cbor::decode(payload).map_err(|_| SignedError::Form)
    }

    /// The place of that name.
    pub fn place(&self, name: &crate::ids::PlaceId) -> Option<&Place> {
        self.places.iter().find(|place| place.place == *name)
    }
}
impl Serialize for SignedCatalogue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&data_encoding::BASE64URL_NOPAD.encode(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}
impl<'de> Deserialize<'de> for SignedCatalogue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).map_err(de::Error::custom)?
        } else {
            serde_bytes::ByteBuf::deserialize(deserializer)?.into_vec()
        };
        if bytes.len() > limits::CATALOGUE_BYTES {
            return Err(de::Error::custom("a catalogue of places has at most 7 KiB"));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Position;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn categories(names: &[&str]) -> Categories {
        Categories::new(names.iter().map(|name| name.parse().unwrap()).collect()).unwrap()
    }

    fn payer(claims: Vec<CodeClaim>) -> Payer {
        let (device, child) = ("pig".parse().unwrap(), "mia".parse().unwrap());
        Payer::claimed(&CodeClaims::new(claims).unwrap(), &device, &child, &categories(&["lunch", "fruit"]))
    }

    fn qr(claims: Vec<CodeClaim>) -> PaymentQr {
        PaymentQr {
            tenant: "acme".parse().unwrap(),
            payment: PaymentId([3; 16]),
            payee: "canteen".parse().unwrap(),
            amount: "4.20 EUR".parse().unwrap(),
            payer: payer(claims),
            issued_at: Timestamp(1_000_000_000_000),
            expires_at: Timestamp(1_000_000_600_000),
        }
    }

    fn token() -> PaymentToken {
        PaymentToken {
            device: "acme/pig".parse().unwrap(),
            payment: PaymentId([3; 16]),
            amount: "4.20 EUR".parse().unwrap(),
            payer: payer(vec![CodeClaim::Device]),
            issued_at: Timestamp(1_000_000_000_000),
            expires_at: Timestamp(1_000_000_600_000),
        }
    }

    fn presented_qr(text: &CodeText) -> SignedBytes {
        match text.presented() {
            Some(Presented::Qr(signed)) => signed,
            other => panic!("{other:?}"),
        }
    }

    fn catalogue() -> Catalogue {
        let place = Place {
            place: "school".parse().unwrap(),
            title: crate::wire::Text::new("School canteen"),
            latitude_e7: 525_200_000,
            longitude_e7: 134_000_000,
            radius_m: 100,
            categories: categories(&["lunch"]),
        };
        Catalogue { tenant: "acme".parse().unwrap(), version: 2, places: Places::new(vec![place]).unwrap() }
    }

    /// PC-6: any subset of device, child and category, and never none.
    #[test]
    fn a_qr_code_reads_back_with_any_subset_of_its_claims() {
        use CodeClaim::{Category, Child, Device};
        for claims in [
            vec![Device],
            vec![Child],
            vec![Category],
            vec![Device, Child],
            vec![Category, Device],
            vec![Child, Category],
            vec![Device, Child, Category],
        ] {
            let text = qr(claims.clone()).sign(&key(1));
            assert!(text.as_str().len() < 300, "{} characters", text.as_str().len());
            let read: CodeText = text.as_str().parse().unwrap();
            assert_eq!(PaymentQr::verify(&presented_qr(&read), &PublicKey::of(&key(1))), Ok(qr(claims)));
        }
        assert!(CodeClaims::new(Vec::new()).is_err());
        assert!(CodeClaims::new(vec![Child, Child]).is_err());
    }

    /// PC-7, PC-10: one is never taken for the other, and another key counts for nothing.
    #[test]
    fn codes_of_other_keys_and_kinds_are_refused() {
        let signed = presented_qr(&qr(vec![CodeClaim::Device]).sign(&key(1)));
        assert_eq!(PaymentQr::verify(&signed, &PublicKey::of(&key(2))), Err(SignedError::Signature));
        assert_eq!(PaymentToken::verify(&signed, &PublicKey::of(&key(1))), Err(SignedError::Signature));
        let text = token().sign(&key(1));
        let Some(Presented::Token(signed)) = text.presented() else { panic!("{text}") };
        assert_eq!(PaymentToken::verify(&signed, &PublicKey::of(&key(1))), Ok(token()));
        assert_eq!(PaymentQr::verify(&signed, &PublicKey::of(&key(1))), Err(SignedError::Signature));
        for nothing in ["hello", "FQ1:", "FQ1:::", "FQ2:6BF", "fq1:6BF"] {
            let text: CodeText = nothing.parse().unwrap();
            let read = text.presented().map(|found| match found {
                Presented::Qr(signed) | Presented::Token(signed) => {
                    PaymentQr::verify(&signed, &PublicKey::of(&key(1))).is_ok()
                }
                Presented::Emv(text) => PaymentQr::verify_emv(text.as_str(), &PublicKey::of(&key(1))).is_ok(),
            });
            assert_ne!(read, Some(true), "{nothing}");
        }
    }

    /// PC-9
    #[test]
    fn a_catalogue_of_another_key_or_with_a_changed_bit_is_refused() {
        let signed = catalogue().sign(&key(1)).unwrap();
        assert_eq!(Catalogue::verify(&signed, &PublicKey::of(&key(1))), Ok(catalogue()));
        assert_eq!(Catalogue::verify(&signed, &PublicKey::of(&key(2))), Err(SignedError::Signature));
        for bit in 0..signed.0.len() * 8 {
            let mut changed = signed.clone();
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert!(Catalogue::verify(&changed, &PublicKey::of(&key(1))).is_err(), "bit {bit}");
        }
    }

    /// PC-9: inside is farther from the border than the position may be wrong.
    #[test]
    fn a_place_contains_a_position_only_beyond_doubt() {
        let catalogue = catalogue();
        let place = catalogue.place(&"school".parse().unwrap()).unwrap();
        let at = |latitude_e7, accuracy_m| Position {
            latitude_e7,
            longitude_e7: 134_000_000,
            accuracy_m,
            at: Timestamp(0),
        };
        assert!(place.contains(&at(525_200_000, 99)));
        assert!(!place.contains(&at(525_200_000, 100)));
        // 0.0005 degrees north are 56 metres.
        assert!(place.contains(&at(525_205_000, 40)));
        assert!(!place.contains(&at(525_205_000, 50)));
        assert!(!place.contains(&at(525_205_000, u32::MAX)));
        assert_eq!(place.distance_m(&at(525_205_000, 5)), 0);
        assert_eq!(place.distance_m(&at(525_300_000, 5)), 1_013);
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_panic(text in "(FQ1:|FT1:)?[ -~]{0,300}") {
            if let Ok(text) = text.parse::<CodeText>() {
                match text.presented() {
                    Some(Presented::Qr(signed)) => {
                        prop_assert!(PaymentQr::verify(&signed, &PublicKey::of(&key(1))).is_err());
                    }
                    Some(Presented::Token(signed)) => {
                        prop_assert!(PaymentToken::verify(&signed, &PublicKey::of(&key(1))).is_err());
                    }
                    Some(Presented::Emv(text)) => {
                        prop_assert!(PaymentQr::verify_emv(text.as_str(), &PublicKey::of(&key(1))).is_err());
                    }
                    None => {}
                }
            }
        }
    }
}
