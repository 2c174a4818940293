//! Money: a whole number of the currency's minor unit inside, a decimal text at every edge, never a float (MO-7).
//!
//! ```
//! use schemas::money::Money;
//! let price: Money = "1.5 EUR".parse().unwrap();
//! assert_eq!(price.minor, 150);
//! assert_eq!(price.to_string(), "1.50 EUR");
//! assert!("1.505 EUR".parse::<Money>().is_err());
//! ```

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits;

/// Why an amount was refused. Every sentence says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not `DECIMAL CODE`.
    #[error("not an amount: write a decimal and an ISO 4217 code, for instance `12.50 EUR`")]
    Form,
    /// A code that ISO 4217 does not know, or that has no minor unit (XAU, XTS, ...).
    #[error("unknown currency: use an ISO 4217 code such as EUR, CNY or JPY")]
    Currency,
    /// Below zero.
    #[error("an amount is never negative")]
    Negative,
    /// More decimals than the currency has.
    #[error("too precise: {0} has {1} decimals")]
    Precision(Currency, u32),
    /// Above [`limits::AMOUNT_MINOR`].
    #[error("above the limit of {} minor units", limits::AMOUNT_MINOR)]
    Limit,
}

/// An ISO 4217 currency that has a minor unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// Decimals of the minor unit: 2 for EUR, 0 for JPY, 3 for KWD.
    pub fn exponent(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }

    /// The three-digit code: 978 for EUR.
    pub fn numeric(self) -> u16 {
        self.0.numeric()
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// `minor` units of this currency.
    pub fn minor(self, minor: u64) -> Money {
        Money { minor, currency: self }
    }
}

impl FromStr for Currency {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        iso_currency::Currency::from_code(text)
            .filter(|currency| currency.exponent().is_some())
            .map(Self)
            .ok_or(MoneyError::Currency)
    }
}
impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Currency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.numeric().cmp(&other.numeric())
    }
}
impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}
impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// An amount of money, zero or more. On every wire it is text, `12.50 EUR`; `12.5 EUR` is the same amount and has
/// the same content hash, since only the parsed value is ever hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money {
    /// Minor units, at most [`limits::AMOUNT_MINOR`].
    pub minor: u64,
    /// Of which currency.
    pub currency: Currency,
}

impl Money {
    /// As a decimal with exactly the currency's decimals.
    pub fn decimal(self) -> Decimal {
        Decimal::from_i128_with_scale(i128::from(self.minor), self.currency.exponent())
    }

    /// From a decimal at an edge.
    ///
    /// # Errors
    /// Negative, too precise for the currency, or above the limit.
    pub fn from_decimal(decimal: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        if decimal.is_sign_negative() && !decimal.is_zero() {
            return Err(MoneyError::Negative);
        }
        let decimal = decimal.normalize();
        let exponent = currency.exponent();
        if decimal.scale() > exponent {
            return Err(MoneyError::Precision(currency, exponent));
        }
        let factor = 10_i128.pow(exponent - decimal.scale());
        let minor = decimal.mantissa().checked_mul(factor).ok_or(MoneyError::Limit)?;
        match u64::try_from(minor) {
            Ok(minor) if minor <= limits::AMOUNT_MINOR => Ok(Self { minor, currency }),
            _ => Err(MoneyError::Limit),
        }
    }
}

impl FromStr for Money {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (number, code) = text.split_once(' ').ok_or(MoneyError::Form)?;
        if !has_decimal_form(number) {
            return Err(MoneyError::Form);
        }
        let currency: Currency = code.parse()?;
        // What has the form and is no `Decimal` has more digits than any amount.
        let decimal = Decimal::from_str_exact(number).map_err(|_| match number.split_once('.') {
            Some((_, fraction)) if fraction.trim_end_matches('0').len() > currency.exponent() as usize => {
                MoneyError::Precision(currency, currency.exponent())
            }
            _ => MoneyError::Limit,
        })?;
        Self::from_decimal(decimal, currency)
    }
}
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.decimal(), self.currency)
    }
}
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `-`? digits (`.` digits)?, at most 40 characters.
fn has_decimal_form(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 40 && digits(whole) && digits(fraction)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// MO-7: decimal at the edge, minor units inside, ISO 4217 exponents.
    #[test]
    fn amounts_parse_to_minor_units_or_are_refused_by_name() {
        let ok = [
            ("12.50 EUR", 1250),
            ("12.5 EUR", 1250),
            ("12.5000 EUR", 1250),
            ("7 JPY", 7),
            ("0.001 KWD", 1),
            ("0 EUR", 0),
            ("-0 EUR", 0),
            ("10000000000.00 EUR", limits::AMOUNT_MINOR),
        ];
        for (text, minor) in ok {
            assert_eq!(text.parse::<Money>().map(|m| m.minor), Ok(minor), "{text}");
        }
        let eur = "EUR".parse().unwrap();
        let refused = [
            ("1.505 EUR", MoneyError::Precision(eur, 2)),
            ("-1 EUR", MoneyError::Negative),
            ("1 EURO", MoneyError::Currency),
            ("1 eur", MoneyError::Currency),
            ("1 XTS", MoneyError::Currency),
            ("1EUR", MoneyError::Form),
            ("1e3 EUR", MoneyError::Form),
            ("NaN EUR", MoneyError::Form),
            ("10000000000.01 EUR", MoneyError::Limit),
            ("1 ", MoneyError::Currency),
            (" EUR", MoneyError::Form),
            ("79228162514264337593543950336 EUR", MoneyError::Limit),
            ("0.00000000000000000000000000000001 EUR", MoneyError::Precision(eur, 2)),
        ];
        for (text, why) in refused {
            assert_eq!(text.parse::<Money>(), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_amount_prints_and_parses_to_itself(minor in 0..=limits::AMOUNT_MINOR, code in "EUR|JPY|KWD|CNY|CLF") {
            let money = code.parse::<Currency>().unwrap().minor(minor);
            prop_assert_eq!(money.to_string().parse::<Money>(), Ok(money));
        }

        #[test]
        fn any_text_parses_or_is_refused_without_panic(text in "\\PC{0,60}|[-0-9.]{0,50} [A-Z]{3}") {
            let _ = text.parse::<Money>();
        }
    }
}
