//! Cuts a stream of bytes into packets (MQTT 5, 2.1; the same in 3.1.1).

use crate::types::Fault;

/// One packet, not yet decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Type and flags.
    pub(crate) first: u8,
    /// After the remaining length.
    pub(crate) body: &'a [u8],
    /// Of the whole packet.
    pub(crate) length_bytes: usize,
}

/// The first packet in `bytes`, or `None` while it is incomplete. A length beyond `max_bytes` is refused before any
/// of the packet is kept.
pub(crate) fn split(bytes: &[u8], max_bytes: usize) -> Result<Option<Frame<'_>>, Fault> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let mut remaining = 0usize;
    for (index, &byte) in rest.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let header = index + 2;
            let length_bytes = header + remaining;
            if length_bytes > max_bytes {
                return Err(Fault { code: 0x95, what: "the packet is larger than the server accepts" });
            }
            return Ok(bytes.get(header..length_bytes).map(|body| Frame { first, body, length_bytes }));
        }
    }
    if rest.len() >= 4 {
        return Err(Fault { code: 0x81, what: "the remaining length has more than four bytes" });
    }
    Ok(None)
}

/// How many bytes a whole packet has whose part after the remaining length has `body_bytes`, if the remaining length
/// has no more than it needs (MQTT-1.5.5-1).
pub(crate) fn length_bytes(body_bytes: usize) -> usize {
    let remaining_length = match body_bytes {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    };
    1 + remaining_length + body_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_cut_where_their_length_says() {
        assert_eq!(split(&[], 99), Ok(None));
        assert_eq!(split(&[0xC0], 99), Ok(None));
        assert_eq!(split(&[0xC0, 0], 99), Ok(Some(Frame { first: 0xC0, body: &[], length_bytes: 2 })));
        assert_eq!(split(&[0x30, 2, 7], 99), Ok(None));
        assert_eq!(
            split(&[0x30, 2, 7, 8, 9], 99),
            Ok(Some(Frame { first: 0x30, body: &[7, 8], length_bytes: 4 }))
        );
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        assert_eq!(split(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 1 << 20).unwrap_err().code, 0x95);
        assert_eq!(split(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], 1 << 20).unwrap_err().code, 0x81);
    }
}
