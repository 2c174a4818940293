//! Reads "certs-only" PKCS#7 (RFC 7030 4.1.3, RFC 5652 5.1): certificates in a signed-data structure that
//! nobody signed. Only the way to the certificates is followed; they are verified by the caller.

use data_encoding::BASE64;

/// Certificates that are read.
const CERTIFICATES: usize = 8;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
/// `[0]`: the content of a ContentInfo, and the certificates of a SignedData.
const TAGGED_0: u8 = 0xa0;
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// Certificates in DER out of base64 PKCS#7 with any line breaks; `None` when it is something else.
pub(super) fn decode(base64: &[u8]) -> Option<Vec<Vec<u8>>> {
    let characters: Vec<u8> = base64.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = BASE64.decode(&characters).ok()?;
    let (content_info, rest) = take(&der, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let (content_type, content) = take(content_info, OBJECT_ID)?;
    if content_type != SIGNED_DATA {
        return None;
    }
    let (content, _) = take(content, TAGGED_0)?;
    let (signed_data, _) = take(content, SEQUENCE)?;
    let (_version, signed_data) = take(signed_data, INTEGER)?;
    let (_digests, signed_data) = take(signed_data, SET)?;
    let (_encapsulated, signed_data) = take(signed_data, SEQUENCE)?;
    let (mut remaining, _) = take(signed_data, TAGGED_0)?;
    let mut certificates = Vec::new();
    while !remaining.is_empty() {
        let (_, after) = take(remaining, SEQUENCE)?;
        let certificate = remaining.get(..remaining.len() - after.len())?;
        if certificates.len() == CERTIFICATES {
            return None;
        }
        certificates.push(certificate.to_vec());
        remaining = after;
    }
    Some(certificates)
}

/// One element with the expected tag: its value, and what follows it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Longer than four bytes of length is longer than any answer.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    (found == tag).then_some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two "certificates" (empty sequences) as RFC 5652 frames them.
    const SAMPLE: &[u8] = &[
        0x30, 0x27, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02, 0xa0, 0x1a, 0x30, 0x18,
        0x02, 0x01, 0x01, 0x31, 0x00, 0x30, 0x0b, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07,
        0x01, 0xa0, 0x04, 0x30, 0x00, 0x30, 0x00,
    ];

    #[test]
    fn certificates_are_found() {
        let base64 = BASE64.encode(SAMPLE);
        let expected = Some(vec![vec![0x30, 0], vec![0x30, 0]]);
        assert_eq!(decode(base64.as_bytes()), expected);
        let lines: Vec<&str> =
            base64.as_bytes().chunks(7).filter_map(|l| std::str::from_utf8(l).ok()).collect();
        assert_eq!(decode(lines.join("\r\n").as_bytes()), expected);
    }

    #[test]
    fn any_cut_or_changed_byte_is_refused_or_read_but_never_a_panic() {
        for end in 0..SAMPLE.len() {
            assert_eq!(decode(BASE64.encode(&SAMPLE[..end]).as_bytes()), None, "cut at {end}");
        }
        for place in 0..SAMPLE.len() {
            for value in 0..=255 {
                let mut changed = SAMPLE.to_vec();
                changed[place] = value;
                let _ = decode(BASE64.encode(&changed).as_bytes());
            }
        }
        assert_eq!(decode(b"not base64!"), None);
        assert_eq!(decode(b""), None);
    }
}
