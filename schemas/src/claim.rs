//! The claim code: what an operator gives a technician so that one device can enrol once (correctness.md 20).
//!
//! ```text
//! FT1-AAAA-AAAA-...  = 42 characters of base32 (RFC 4648) + 1 check character, in groups of four
//!                      10 bytes: secret     16 bytes: beginning of the SHA-256 of the platform's CA certificate
//! ```
//! The secret proves to the cloud that the operator sent this device: 80 random bits for one enrolment,
//! of which the server stores only the SHA-256. The fingerprint proves the cloud to the device, so that the
//! first contact can't be intercepted: 16 bytes are enough because an attacker would have to find *another*
//! certificate with the given beginning (a second preimage, 2^128 hashes); a mere collision, which 16
//! bytes make cheaper, needs the attacker to choose the platform's own certificate too.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// Bytes of the secret.
pub const SECRET_BYTES: usize = 10;
/// Bytes of the CA certificate's fingerprint in a claim code.
pub const FINGERPRINT_BYTES: usize = 16;

const PREFIX: &str = "FT1";
const PAYLOAD_BYTES: usize = SECRET_BYTES + FINGERPRINT_BYTES;
const PAYLOAD_CHARACTERS: usize = 42;
const GROUP_CHARACTERS: usize = 4;
/// Longest text that is looked at: the code with a separator after each character.
const TEXT_BYTES: usize = 128;

/// Why a text is no claim code. Never contains the text: most of it may be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimCodeError {
    /// It does not begin with `FT1`.
    #[error("a claim code begins with FT1-: copy the whole code as the operator sent it")]
    Prefix,
    /// Too short or too long.
    #[error(
        "a claim code has {PAYLOAD_CHARACTERS} characters and a check character, this one has {0}: copy the whole code"
    )]
    Length(usize),
    /// A character outside the alphabet.
    #[error("`{0}` does not occur in claim codes (A-Z and 2-7): look at the code again")]
    Character(char),
    /// The check character does not fit.
    #[error("the claim code has a typing error: look at the code again")]
    Checksum,
}

/// A parsed claim code. Print it with `Display`; `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimCode {
    secret: [u8; SECRET_BYTES],
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl ClaimCode {
    /// Makes a code. `random` must come from the system's generator; `ca_fingerprint` is the SHA-256 of the
    /// platform's CA certificate in DER.
    pub fn generate(random: [u8; SECRET_BYTES], ca_fingerprint: &[u8; 32]) -> Self {
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(&ca_fingerprint[..FINGERPRINT_BYTES]);
        Self { secret: random, fingerprint }
    }

    /// Reads a code as people type it: any case, groups or none, `0`, `1` and `8` for `O`, `I` and `B`.
    pub fn parse(text: &str) -> Result<Self, ClaimCodeError> {
        if text.len() > TEXT_BYTES {
            return Err(ClaimCodeError::Length(text.chars().count()));
        }
        let separator = |c: &char| c.is_whitespace() || *c == '-';
        let typed: String = text.chars().filter(|c| !separator(c)).map(|c| c.to_ascii_uppercase()).collect();
        let code = typed.strip_prefix(PREFIX).ok_or(ClaimCodeError::Prefix)?;
        let mut digits = Vec::with_capacity(PAYLOAD_CHARACTERS + 1);
        for character in code.chars() {
            digits.push(digit(character).ok_or(ClaimCodeError::Character(character))?);
        }
        let (&check, payload) = digits.split_last().ok_or(ClaimCodeError::Length(0))?;
        if payload.len() != PAYLOAD_CHARACTERS {
            return Err(ClaimCodeError::Length(digits.len()));
        }
        if checksum(payload) != check {
            return Err(ClaimCodeError::Checksum);
        }
        let characters: Vec<u8> = payload.iter().map(|&digit| letter(digit)).collect();
        // Unused bits at the end that are not zero: a code nobody made.
        let bytes = BASE32_NOPAD.decode(&characters).map_err(|_| ClaimCodeError::Checksum)?;
        let (secret, fingerprint) = bytes.split_at(SECRET_BYTES);
        match (secret.try_into(), fingerprint.try_into()) {
            (Ok(secret), Ok(fingerprint)) => Ok(Self { secret, fingerprint }),
            _ => Err(ClaimCodeError::Length(digits.len())),
        }
    }

    /// The beginning of the SHA-256 of the CA certificate that the device must find.
    pub fn ca_fingerprint(&self) -> &[u8; FINGERPRINT_BYTES] {
        &self.fingerprint
    }

    /// The secret as text: the password of the enrolment request, and nothing that may be logged.
    pub fn secret_text(&self) -> String {
        BASE32_NOPAD.encode(&self.secret)
    }

    /// What the server stores in place of the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        hash(&self.secret)
    }
}

/// The stored hash for the secret as text; `None` when it is no secret at all.
pub fn secret_hash_of_text(text: &str) -> Option<[u8; 32]> {
    let bytes = BASE32_NOPAD.decode(text.as_bytes()).ok()?;
    (bytes.len() == SECRET_BYTES).then(|| hash(&bytes))
}

impl FromStr for ClaimCode {
    type Err = ClaimCodeError;

    fn from_str(text: &str) -> Result<Self, ClaimCodeError> {
        Self::parse(text)
    }
}

impl fmt::Display for ClaimCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..SECRET_BYTES].copy_from_slice(&self.secret);
        payload[SECRET_BYTES..].copy_from_slice(&self.fingerprint);
        let mut text = BASE32_NOPAD.encode(&payload);
        let digits: Vec<u8> = text.chars().filter_map(digit).collect();
        text.push(char::from(letter(checksum(&digits))));
        f.write_str(PREFIX)?;
        for (index, character) in text.chars().enumerate() {
            if index % GROUP_CHARACTERS == 0 {
                f.write_str("-")?;
            }
            write!(f, "{character}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ClaimCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimCode").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

fn hash(secret: &[u8]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

fn digit(character: char) -> Option<u8> {
    match character {
        'A'..='Z' => Some(character as u8 - b'A'),
        '2'..='7' => Some(character as u8 - b'2' + 26),
        '0' => digit('O'),
        '1' => digit('I'),
        '8' => digit('B'),
        _ => None,
    }
}

fn letter(digit: u8) -> u8 {
    if digit < 26 { b'A' + digit } else { b'2' + (digit - 26) }
}

/// A polynomial over the field of 32 elements, evaluated at a generator: finds every single wrong character
/// and every swap of two characters fewer than 31 places apart.
fn checksum(digits: &[u8]) -> u8 {
    times_generator(digits.iter().fold(0, |sum, digit| times_generator(sum) ^ digit))
}

/// Multiplies by x modulo x^5 + x^2 + 1.
fn times_generator(element: u8) -> u8 {
    let shifted = element << 1;
    if shifted & 0b10_0000 == 0 { shifted } else { shifted ^ 0b10_0101 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code() -> ClaimCode {
        ClaimCode::generate([0xA5; SECRET_BYTES], &[0x3C; 32])
    }

    /// Pinned: codes are printed on labels and sent in letters.
    #[test]
    fn format_is_pinned() {
        assert_eq!(code().to_string(), PINNED);
        assert_eq!(code().secret_text(), "UWS2LJNFUWS2LJNF");
        assert_eq!(secret_hash_of_text("UWS2LJNFUWS2LJNF"), Some(code().secret_hash()));
        assert_eq!(code().secret_hash(), <[u8; 32]>::from(Sha256::digest([0xA5; 10])));
    }

    const PINNED: &str = "FT1-UWS2-LJNF-UWS2-LJNF-HQ6D-YPB4-HQ6D-YPB4-HQ6D-YPB4-HQT";

    #[test]
    fn reads_what_people_type() {
        for typed in [
            PINNED.to_lowercase(),
            PINNED.replace('-', " "),
            format!(" {} \n", PINNED.replace('-', "")),
            PINNED.replace('B', "8").replace('O', "0"),
        ] {
            assert_eq!(typed.parse::<ClaimCode>(), Ok(code()), "{typed}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let parse = ClaimCode::parse;
        assert_eq!(parse(""), Err(ClaimCodeError::Prefix));
        assert_eq!(parse(&PINNED[3..]), Err(ClaimCodeError::Prefix));
        assert_eq!(parse("FT1-"), Err(ClaimCodeError::Length(0)));
        assert_eq!(parse(&PINNED[..PINNED.len() - 1]), Err(ClaimCodeError::Length(42)));
        assert_eq!(parse(&format!("{PINNED}A")), Err(ClaimCodeError::Length(44)));
        assert_eq!(parse(&PINNED.replace('Q', "9")), Err(ClaimCodeError::Character('9')));
        assert_eq!(parse(&"FT1".repeat(1000)), Err(ClaimCodeError::Length(3000)));
    }

    #[test]
    fn debug_hides_the_secret() {
        let text = format!("{:?}", code());
        assert!(!text.contains("165") && !text.contains("UWS2"), "{text}");
    }

    proptest! {
        #[test]
        fn round_trip(secret: [u8; SECRET_BYTES], fingerprint: [u8; 32]) {
            let code = ClaimCode::generate(secret, &fingerprint);
            prop_assert_eq!(ClaimCode::parse(&code.to_string()), Ok(code));
        }

        #[test]
        fn any_single_typing_error_is_found(
            secret: [u8; SECRET_BYTES], fingerprint: [u8; 32], place in 0..43usize, other in 1..32u8,
        ) {
            let code = ClaimCode::generate(secret, &fingerprint);
            let mut text = code.to_string().replace('-', "").into_bytes();
            let right = digit(char::from(text[3 + place])).unwrap();
            text[3 + place] = letter(right ^ other);
            prop_assert_eq!(ClaimCode::parse(&String::from_utf8(text).unwrap()), Err(ClaimCodeError::Checksum));
        }

        #[test]
        fn any_swap_of_neighbours_is_found(
            secret: [u8; SECRET_BYTES], fingerprint: [u8; 32], place in 0..42usize,
        ) {
            let code = ClaimCode::generate(secret, &fingerprint);
            let mut text = code.to_string().replace('-', "").into_bytes();
            prop_assume!(text[3 + place] != text[4 + place]);
            text.swap(3 + place, 4 + place);
            prop_assert_eq!(ClaimCode::parse(&String::from_utf8(text).unwrap()), Err(ClaimCodeError::Checksum));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,200}") {
            let _ = ClaimCode::parse(&text);
        }
    }
}
