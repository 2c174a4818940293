//! Figures as people read them.

/// Three digits and a unit: `812 us`, `1.24 ms`, `12.4 s`, `2 min 03 s`.
pub(crate) fn latency(micros: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let (whole, rest) = (micros / unit, micros % unit);
        match whole {
            0..10 => format!("{whole}.{:02} {name}", rest * 100 / unit),
            10..100 => format!("{whole}.{} {name}", rest * 10 / unit),
            _ => format!("{whole} {name}"),
        }
    };
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => scaled(1_000, "ms"),
        1_000_000..60_000_000 => scaled(1_000_000, "s"),
        _ => format!("{} min {:02} s", micros / 60_000_000, micros / 1_000_000 % 60),
    }
}

/// `18,000`
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1,024.5`
pub(crate) fn tenths(value_tenths: u64) -> String {
    format!("{}.{}", grouped(value_tenths / 10), value_tenths % 10)
}

/// `950 kB`, `12.3 MB`, `1.2 GB`; 1,000 to the next unit.
pub(crate) fn kilobytes(value_kb: u64) -> String {
    match value_kb {
        0..1_000 => format!("{value_kb} kB"),
        1_000..1_000_000 => format!("{} MB", tenths(value_kb / 100)),
        _ => format!("{} GB", tenths(value_kb / 100_000)),
    }
}

/// `m:ss`, or `h:mm:ss`.
pub(crate) fn clock(seconds: u64) -> String {
    match seconds / 3_600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// `1 payment`, `2 payments`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let cases = [
            (0, "0 us"),
            (999, "999 us"),
            (1_000, "1.00 ms"),
            (12_345, "12.3 ms"),
            (999_999, "999 ms"),
            (1_050_000, "1.05 s"),
            (59_999_999, "59.9 s"),
            (123_000_000, "2 min 03 s"),
        ];
        cases.iter().for_each(|(micros, text)| assert_eq!(latency(*micros), *text));
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([7, 10_245].map(tenths), ["0.7", "1,024.5"]);
        assert_eq!([950, 12_345, 24_731_700].map(kilobytes), ["950 kB", "12.3 MB", "24.7 GB"]);
        assert_eq!([5, 600, 3_661].map(clock), ["0:05", "10:00", "1:01:01"]);
        assert_eq!([0, 1, 2_000].map(|n| counted(n, "end")), ["0 ends", "1 end", "2,000 ends"]);
    }
}
