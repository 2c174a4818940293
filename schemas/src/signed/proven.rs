//! Checking a signature beforehand. It takes longer than everything else about a message, and needs nothing but a key; so
//! threads that have time for it may do it before the one that decides, which then compares instead of computing.

use coset::CoseSign1;
use ed25519_dalek::{Signature, VerifyingKey};
use schemas_mutants::Mutant;

use super::{PublicKey, SignedError};
use crate::ids::Hash;

/// What a signed structure says, its signature not checked yet.
#[derive(Debug, Clone)]
pub struct Unverified<T> {
    pub(super) said: T,
    pub(super) cose: CoseSign1,
    pub(super) aad: &'static [u8],
}

impl<T> Unverified<T> {
    /// To find out whose key to check with. Never act on it.
    pub fn claimed(&self) -> &T {
        &self.said
    }

    /// Checks the signature beforehand. Nothing if it is not of this key.
    pub fn prove(&self, key: &ReadyKey) -> Option<Proven> {
        key.check(&self.cose, self.aad).ok()?;
        Some(Proven { key: key.public, of: self.hash() })
    }

    /// Checks the signature, unless exactly this was done already.
    ///
    /// # Errors
    /// Not signed by `key`.
    pub fn verify(self, key: &PublicKey, proven: Option<&Proven>) -> Result<T, SignedError> {
        let counts = |made_with: &PublicKey| made_with == key || Mutant::AnyProofCounts.is_active();
        let is_proven = proven.is_some_and(|proven| counts(&proven.key) && proven.of == self.hash());
        if !is_proven {
            super::verify(&self.cose, self.aad, key)?;
        }
        Ok(self.said)
    }

    /// Of what was signed, of which kind it is, and of the signature.
    fn hash(&self) -> Hash {
        let mut bytes = self.cose.tbs_data(self.aad);
        bytes.extend_from_slice(&self.cose.signature);
        Hash::of(&bytes)
    }
}

/// That a signature was found good with a key. Worth nothing for another key, another content, another signature or
/// another kind of structure; made only by [`Unverified::prove`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    key: PublicKey,
    of: Hash,
}

/// A public key that is made ready for checking, which costs a tenth of a check: for keys that are used often.
#[derive(Debug, Clone, Copy)]
pub struct ReadyKey {
    public: PublicKey,
    point: VerifyingKey,
}

impl ReadyKey {
    /// Nothing if these bytes are no key.
    pub fn new(public: &PublicKey) -> Option<Self> {
        let point = VerifyingKey::from_bytes(&public.0).ok()?;
        Some(Self { public: *public, point })
    }

    /// `verify_strict` also refuses keys of small order, with which a signature would bind to nothing.
    pub(super) fn check(&self, signed: &CoseSign1, aad: &[u8]) -> Result<(), SignedError> {
        signed.verify_signature(aad, |signature, bytes| {
            let signature = Signature::from_slice(signature).map_err(|_| SignedError::Signature)?;
            self.point.verify_strict(bytes, &signature).map_err(|_| SignedError::Signature)
        })
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::{PaymentInformation, Verification};
    use super::*;
    use crate::ids::{Nonce, PaymentId};
    use crate::time::Timestamp;
    use crate::wire::{SignedBytes, Text};

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn ready(seed: u8) -> ReadyKey {
        ReadyKey::new(&PublicKey::of(&key(seed))).unwrap()
    }

    fn information(amount: &str, seed: u8) -> SignedBytes {
        let information = PaymentInformation {
            chip: "acme/chip-7".parse().unwrap(),
            nonce: Nonce([1; 8]),
            issued_at: Timestamp(1_000_000_000_000),
            expires_at: Timestamp(1_000_000_120_000),
            payee: "snacks".parse().unwrap(),
            amount: amount.parse().unwrap(),
            item: "water".parse().unwrap(),
            quantity: 1,
        };
        information.sign(&key(seed))
    }

    /// CP-2: what was proven is worth something for this structure and this key, and for nothing else.
    #[test]
    fn a_proof_fits_one_structure_and_one_key() {
        let read = |signed: &SignedBytes| PaymentInformation::read(signed).unwrap();
        let signed = information("2.50 EUR", 1);
        let proven = read(&signed).prove(&ready(1)).unwrap();
        assert_eq!(read(&signed).prove(&ready(2)), None, "not signed by that key");

        let right = PublicKey::of(&key(1));
        assert!(read(&signed).verify(&right, Some(&proven)).is_ok());
        assert!(read(&signed).verify(&right, None).is_ok());
        let wrong = read(&signed).verify(&PublicKey::of(&key(2)), Some(&proven));
        assert_eq!(wrong, Err(SignedError::Signature), "proven with another key");

        let forged = information("0.01 EUR", 2);
        assert_eq!(read(&forged).verify(&right, Some(&proven)), Err(SignedError::Signature));
        // The signature of one structure on another one.
        let mut transplanted = forged.0.clone();
        let at = transplanted.len() - Signature::BYTE_SIZE;
        transplanted[at..].copy_from_slice(&signed.0[signed.0.len() - Signature::BYTE_SIZE..]);
        let transplanted = SignedBytes(transplanted);
        assert_eq!(read(&transplanted).prove(&ready(1)), None);
        assert_eq!(read(&transplanted).verify(&right, Some(&proven)), Err(SignedError::Signature));
        let mut damaged = signed.0.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(read(&SignedBytes(damaged)).verify(&right, Some(&proven)).is_err(), "another signature");
    }

    #[test]
    fn a_proof_of_one_kind_says_nothing_of_another() {
        let verification = Verification {
            payer: "acme/alice".parse().unwrap(),
            payment: PaymentId([2; 16]),
            payee: Text::new("Snacks & Co"),
            amount: "2.50 EUR".parse().unwrap(),
            expires_at: Timestamp(1_000_000_120_000),
        };
        let read = Verification::read(&verification.sign(&key(1))).unwrap();
        let proven = read.prove(&ready(1)).unwrap();
        let other = Unverified { said: (), cose: read.cose, aad: PaymentInformation::AAD };
        assert_eq!(other.verify(&PublicKey::of(&key(1)), Some(&proven)), Err(SignedError::Signature));
    }

    /// RFC 8032 alone would let this signature of nobody pass: it fits every content.
    #[test]
    fn a_key_of_small_order_proves_nothing() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signed = information("2.50 EUR", 1).0;
        let at = signed.len() - Signature::BYTE_SIZE;
        signed[at..].fill(0);
        signed[at] = 1;
        let read = PaymentInformation::read(&SignedBytes(signed.clone())).unwrap();
        assert_eq!(ReadyKey::new(&PublicKey(neutral)).and_then(|key| read.prove(&key)), None);
        let checked = PaymentInformation::verify(&SignedBytes(signed), &PublicKey(neutral));
        assert_eq!(checked, Err(SignedError::Signature));
    }

    /// A signature that nobody would believe stands for the one that was checked: it is compared, and not checked again.
    #[test]
    fn what_is_proven_is_not_checked_again() {
        let mut damaged = information("2.50 EUR", 1).0;
        *damaged.last_mut().unwrap() ^= 1;
        let read = PaymentInformation::read(&SignedBytes(damaged)).unwrap();
        let key = PublicKey::of(&key(1));
        let proven = Proven { key, of: read.hash() };
        assert!(read.clone().verify(&key, None).is_err());
        assert!(read.verify(&key, Some(&proven)).is_ok());
    }
}
