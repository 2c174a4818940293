//! Points in time and lengths of time, as operators write them.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use schemas::time::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A length of time in milliseconds, written as a number with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) u64);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write a number with s, m, h or d, for instance 90m or 24h".to_owned();
        let unit = text.chars().last().ok_or_else(form)?;
        let unit_ms = match unit {
            's' => 1000,
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return Err(form()),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| form())?;
        number.checked_mul(unit_ms).filter(|ms| *ms > 0).map(Self).ok_or_else(form)
    }
}

/// A point in time: RFC 3339, or without a zone (then UTC), or only a date, or a length of time before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(pub(super) Timestamp);

impl FromStr for Moment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self::read(text, u64::try_from(now).unwrap_or(u64::MAX))
    }
}

impl Moment {
    fn read(text: &str, now_ms: u64) -> Result<Self, String> {
        let form = || {
            format!(
                "`{text}` is no time: write 2026-11-21T22:30:00Z, or 2026-11-21, or how long ago (90m, 24h, 7d)"
            )
        };
        if let Ok(Span(ago_ms)) = text.parse() {
            return Ok(Self(Timestamp(now_ms.saturating_sub(ago_ms))));
        }
        let whole = match text.len() {
            10 => format!("{text}T00:00:00"),
            _ => text.to_owned(),
        };
        let at = OffsetDateTime::parse(&whole, &Rfc3339)
            .or_else(|_| OffsetDateTime::parse(&format!("{whole}Z"), &Rfc3339))
            .map_err(|_| form())?;
        let ms = at.unix_timestamp_nanos() / 1_000_000;
        u64::try_from(ms).map(|ms| Self(Timestamp(ms))).map_err(|_| form())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_every_form_and_nonsense_is_named() {
        let half_past = 1_795_300_200_000;
        for (text, ms) in [
            ("2026-11-21T22:30:00Z", half_past),
            ("2026-11-21T22:30:00.250Z", half_past + 250),
            ("2026-11-21T23:30:00+01:00", half_past),
            ("2026-11-21T22:30:00", half_past),
            ("2026-11-21", half_past - 81_000_000),
            ("90m", half_past - 5_400_000),
        ] {
            assert_eq!(Moment::read(text, half_past), Ok(Moment(Timestamp(ms))), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "1969-01-01", "12", "\u{e9}"] {
            assert!(Moment::read(text, half_past).unwrap_err().contains("is no time"), "{text}");
        }
    }
}
