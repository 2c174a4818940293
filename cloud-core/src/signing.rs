//! The key with which the cloud signs codes and places (PC-6, PC-9), as a file holds it: PKCS#8 in PEM (RFC 8410).
//!
//! It is another key than the authority's: piggy banks pin this one, and a terminal that has it can check nothing but codes.

use ed25519_dalek::SigningKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use schemas::signed::PublicKey;

/// RFC 8410: what stands before the 32 bytes of an Ed25519 private key.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// RFC 8410: what stands before the 32 bytes of an Ed25519 public key.
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Contains the private key: keep it where only the core can read it.
pub(crate) fn to_pem(key: &SigningKey) -> String {
    pem("PRIVATE KEY", &[PKCS8_HEAD.as_slice(), key.as_bytes()].concat())
}

/// Its public half.
pub(crate) fn public_to_pem(key: &SigningKey) -> String {
    pem("PUBLIC KEY", &[SPKI_HEAD.as_slice(), &PublicKey::of(key).0].concat())
}

/// Reads what [`to_pem`] gave.
pub(crate) fn from_pem(text: &str) -> Result<SigningKey, String> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())?;
    let secret = der.secret_pkcs8_der().strip_prefix(&PKCS8_HEAD).and_then(|rest| rest.try_into().ok());
    secret.map(SigningKey::from_bytes).ok_or_else(|| "it holds no Ed25519 key in PKCS#8".to_owned())
}

/// Reads what [`public_to_pem`] gave.
pub(crate) fn public_from_pem(text: &str) -> Result<PublicKey, String> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())?;
    let public = der.as_ref().strip_prefix(&SPKI_HEAD).and_then(|rest| rest.try_into().ok());
    public.map(PublicKey).ok_or_else(|| "it holds no public Ed25519 key".to_owned())
}

fn pem(label: &str, der: &[u8]) -> String {
    // So few bytes fit one line of 64 characters.
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", data_encoding::BASE64.encode(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_nothing_else_is_taken_for_one() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let (secret, public) = (to_pem(&key), public_to_pem(&key));
        assert!(secret.lines().all(|line| line.len() <= 64) && public.lines().all(|line| line.len() <= 64));
        assert_eq!(from_pem(&secret).unwrap().as_bytes(), key.as_bytes());
        assert_eq!(public_from_pem(&public).unwrap(), PublicKey::of(&key));
        assert!(from_pem(&public).is_err() && public_from_pem(&secret).is_err());
        assert!(from_pem("junk").is_err() && from_pem(&pem("PRIVATE KEY", &[1; 48])).is_err());
    }
}
