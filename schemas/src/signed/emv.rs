//! A payment QR as an EMVCo merchant-presented payload (EMV QRCPS-MPM 1.1): for terminals and scanners that expect that
//! form. It says and proves the same as the CWT; a wallet of a card scheme finds nothing in it that it could pay.
//!
//! | tag | what |
//! |---|---|
//! | 00, 01 | `01`; `12`: dynamic, used once |
//! | 26 | merchant account information: 00 `FQ1`, 01 tenant, 02 merchant |
//! | 52, 58, 60 | not known here: `0000`, `ZZ`, `-` |
//! | 53, 54 | currency (ISO 4217 number), amount |
//! | 59 | the payee's title in printable ASCII, or its name; at most 25 characters |
//! | 80 | 00 `FQ1`, 01 payment id (hexadecimal), 02 expiry and 03 issue (seconds since 1970), 04 currency (letters) |
//! | 82 | 00 `FQ1`, 01 device, 02 child: those that are claimed |
//! | 83 | 00 `FQ1`, 01 categories, with commas: if they are claimed |
//! | 81 | 00 `FQ1`, 01 Ed25519 signature (base64url) over [`AAD`] and all that stands before this tag |
//! | 63 | CRC-16 of all before and of `6304` (polynomial 1021, initial FFFF) |

use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::code::{CodeText, Payer, PaymentQr};
use super::{PublicKey, SignedError};
use crate::ids::PaymentId;
use crate::limits;
use crate::message::Categories;
use crate::money::{Currency, Money};
use crate::time::Timestamp;

const AAD: &[u8] = b"farthing payment-emv 1";
const OURS: &str = "FQ1";
/// What every payload of this form begins with.
pub(super) const HEAD: &str = "000201";
/// Two digits say how long a field is.
const FIELD_BYTES: usize = 99;
const AMOUNT_BYTES: usize = 13;
const NAME_BYTES: usize = 25;
const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_IBM_3740);

impl PaymentQr {
    /// Signs in this form; `None` if the amount or the categories have no room in it.
    pub fn sign_emv(&self, title: &str, key: &SigningKey) -> Option<CodeText> {
        let printable: String = title.chars().filter(|c| (' '..='~').contains(c)).collect();
        let name = if printable.trim().is_empty() { self.payee.as_str() } else { printable.trim() };
        let body = self.emv_body(name.get(..NAME_BYTES).unwrap_or(name).trim_end())?;
        let signature = key.sign(&signed_bytes(&body)).to_bytes();
        let signature = data_encoding::BASE64URL_NOPAD.encode(&signature);
        let unchecked = format!("{body}{}6304", template("81", &[("01", Some(signature))])?);
        format!("{unchecked}{:04X}", CRC.checksum(unchecked.as_bytes())).parse().ok()
    }

    /// Reads and checks the signature.
    ///
    /// # Errors
    /// Not of this form (a wrong CRC too), or not signed by `key`.
    pub fn verify_emv(text: &str, key: &PublicKey) -> Result<Self, SignedError> {
        let read = || {
            let (unchecked, crc) = text.split_at_checked(text.len().checked_sub(4)?)?;
            let is_whole = format!("{:04X}", CRC.checksum(unchecked.as_bytes())) == crc;
            let fields = Fields::of(unchecked.strip_suffix("6304").filter(|_| is_whole)?)?;
            let qr = Self::of_emv(&fields)?;
            // Every field has one way to stand there: what else the text may say is not ours.
            let body = qr.emv_body(fields.get("59")?)?;
            let signature = fields.template("81")?.get("01")?;
            let whole = format!("{body}{}6304", template("81", &[("01", Some(signature.to_owned()))])?);
            (whole == unchecked).then_some((qr, body, signature))
        };
        let (qr, body, signature) = read().ok_or(SignedError::Form)?;
        let signature = data_encoding::BASE64URL_NOPAD.decode(signature.as_bytes());
        let signature = Signature::from_slice(&signature.map_err(|_| SignedError::Form)?);
        let key = VerifyingKey::from_bytes(&key.0).map_err(|_| SignedError::Signature)?;
        key.verify_strict(&signed_bytes(&body), &signature.map_err(|_| SignedError::Form)?)
            .map_err(|_| SignedError::Signature)?;
        Ok(qr)
    }

    fn emv_body(&self, name: &str) -> Option<String> {
        let amount = self.amount.decimal().to_string();
        if amount.len() > AMOUNT_BYTES || name.len() > NAME_BYTES {
            return None;
        }
        let text = |value: &dyn std::fmt::Display| Some(value.to_string());
        let seconds = |at: Timestamp| Some((at.0 / 1_000).to_string());
        let account = [("01", text(&self.tenant)), ("02", text(&self.payee))];
        let reference = [
            ("01", text(&self.payment)),
            ("02", seconds(self.expires_at)),
            ("03", seconds(self.issued_at)),
            ("04", text(&self.amount.currency)),
        ];
        let Payer { device, child, categories } = &self.payer;
        let who = [
            ("01", device.as_ref().map(ToString::to_string)),
            ("02", child.as_ref().map(ToString::to_string)),
        ];
        let names = |all: &Categories| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let body = [
            HEAD.to_owned(),
            field("01", "12")?,
            template("26", &account)?,
            field("52", "0000")?,
            field("53", &format!("{:03}", self.amount.currency.numeric()))?,
            field("54", &amount)?,
            field("58", "ZZ")?,
            field("59", name)?,
            field("60", "-")?,
            template("80", &reference)?,
            template("82", &who)?,
            template("83", &[("01", categories.as_ref().map(names))])?,
        ];
        Some(body.concat())
    }

    fn of_emv(fields: &Fields<'_>) -> Option<Self> {
        let (account, reference) = (fields.template("26")?, fields.template("80")?);
        let (who, what) = (fields.template("82"), fields.template("83"));
        let seconds = |tag| Some(Timestamp(parsed::<u64>(reference.get(tag)?)?.checked_mul(1_000)?));
        let currency: Currency = parsed(reference.get("04")?)?;
        let amount = Money::from_decimal(parsed(fields.get("54")?)?, currency).ok()?;
        let claimed = |tag| match who.as_ref().and_then(|who| who.get(tag)) {
            Some(name) => parsed(name).map(Some),
            None => Some(None),
        };
        let categories = match what {
            Some(what) => {
                let names = what.get("01")?.split(',').map(parsed).collect::<Option<Vec<_>>>()?;
                Some(Categories::new(names).ok()?)
            }
            None => None,
        };
        Some(Self {
            tenant: parsed(account.get("01")?)?,
            payment: parsed::<PaymentId>(reference.get("01")?)?,
            payee: parsed(account.get("02")?)?,
            amount,
            payer: Payer { device: claimed("01")?, child: claimed("02")?, categories },
            issued_at: seconds("03")?,
            expires_at: seconds("02")?,
        })
    }
}

fn signed_bytes(body: &str) -> Vec<u8> {
    [AAD, body.as_bytes()].concat()
}

fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn field(tag: &str, value: &str) -> Option<String> {
    (1..=FIELD_BYTES).contains(&value.len()).then(|| format!("{tag}{:02}{value}", value.len()))
}

/// Ours, with those that are there; nothing if none is.
fn template(tag: &str, values: &[(&str, Option<String>)]) -> Option<String> {
    if values.iter().all(|(_, value)| value.is_none()) {
        return Some(String::new());
    }
    let mut inside = field("00", OURS)?;
    for (tag, value) in values {
        if let Some(value) = value {
            inside.push_str(&field(tag, value)?);
        }
    }
    field(tag, &inside)
}

/// The fields of one level.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn of(mut text: &'a str) -> Option<Self> {
        let mut fields = Vec::new();
        while !text.is_empty() {
            if text.len() > limits::CODE_TEXT_BYTES {
                return None;
            }
            let (tag, rest) = text.split_at_checked(2)?;
            let (length, rest) = rest.split_at_checked(2)?;
            let (value, rest) = rest.split_at_checked(length.parse().ok()?)?;
            fields.push((tag, value));
            text = rest;
        }
        Some(Self(fields))
    }

    fn get(&self, tag: &str) -> Option<&'a str> {
        self.0.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value)
    }

    fn template(&self, tag: &str) -> Option<Self> {
        Self::of(self.get(tag)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn qr(payer: Payer) -> PaymentQr {
        PaymentQr {
            tenant: "acme".parse().unwrap(),
            payment: PaymentId([3; 16]),
            payee: "canteen".parse().unwrap(),
            amount: "4.20 EUR".parse().unwrap(),
            payer,
            issued_at: Timestamp(1_000_000_000_000),
            expires_at: Timestamp(1_000_000_600_000),
        }
    }

    fn payer(device: bool, child: bool, categories: Option<&str>) -> Payer {
        let names = |text: &str| text.split(',').map(|name| name.parse().unwrap()).collect();
        Payer {
            device: device.then(|| "pig".parse().unwrap()),
            child: child.then(|| "mia".parse().unwrap()),
            categories: categories.map(|text| Categories::new(names(text)).unwrap()),
        }
    }

    /// EMV QRCPS-MPM 1.1, Annex: the CRC of the published example.
    #[test]
    fn the_crc_is_that_of_the_specification() {
        // The check value of CRC-16/IBM-3740 (also called CCITT-FALSE).
        assert_eq!(CRC.checksum(b"123456789"), 0x29B1);
    }

    /// PC-6: the same claims as the CWT, in any subset.
    #[test]
    fn a_payload_reads_back_and_is_built_as_the_specification_says() {
        let text = qr(payer(true, false, None)).sign_emv("School canteen \u{996d}", &key(1)).unwrap();
        let text = text.as_str();
        assert!(text.starts_with("00020101021226"), "{text}");
        assert!(
            text.contains("520400005303978") && text.contains("54044.205802ZZ5914School canteen6001-"),
            "{text}"
        );
        for payer in [
            payer(true, false, None),
            payer(false, true, Some("lunch")),
            payer(true, true, Some("lunch,fruit")),
            payer(false, false, Some("lunch,fruit")),
        ] {
            let text = qr(payer.clone()).sign_emv("School canteen", &key(1)).unwrap();
            assert!(text.as_str().len() < 400, "{} characters", text.as_str().len());
            assert_eq!(PaymentQr::verify_emv(text.as_str(), &PublicKey::of(&key(1))), Ok(qr(payer)));
            let other = PaymentQr::verify_emv(text.as_str(), &PublicKey::of(&key(2)));
            assert_eq!(other, Err(SignedError::Signature));
        }
    }

    #[test]
    fn what_has_no_room_is_not_cut() {
        let long = "a-category-of-thirty-characters,another-category-of-thirty-chars,third-category";
        assert!(qr(payer(true, true, Some(long))).sign_emv("C", &key(1)).is_some());
        let longer = format!("{long},fourth-category");
        assert_eq!(qr(payer(true, true, Some(&longer))).sign_emv("C", &key(1)), None);
        let rich = PaymentQr {
            amount: "EUR".parse::<Currency>().unwrap().minor(1_000_000_000_000),
            ..qr(payer(true, false, None))
        };
        assert_eq!(rich.sign_emv("C", &key(1)), None);
    }

    /// PC-10: whoever changes a character, with or without the CRC, has no code.
    #[test]
    fn a_changed_character_is_refused() {
        let text = qr(payer(true, true, Some("lunch"))).sign_emv("School canteen", &key(1)).unwrap();
        let text = text.as_str();
        for index in 0..text.len() - 4 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[index] = if bytes[index] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(bytes).unwrap();
            let verified = PaymentQr::verify_emv(&changed, &PublicKey::of(&key(1)));
            assert_eq!(verified, Err(SignedError::Form), "at {index}");
            let unchecked = &changed[..changed.len() - 4];
            let again = format!("{unchecked}{:04X}", CRC.checksum(unchecked.as_bytes()));
            assert!(PaymentQr::verify_emv(&again, &PublicKey::of(&key(1))).is_err(), "at {index}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_without_panic(text in "(000201)?[ -~\u{e4}]{0,300}") {
            prop_assert!(PaymentQr::verify_emv(&text, &PublicKey::of(&key(1))).is_err());
        }
    }
}
