//! The cloud's own key, with which it signs codes and places (PC-6, PC-9). It is given to the driver at its start and is
//! no part of the state: neither the journal nor a snapshot has it.

use std::fmt;

use ed25519_dalek::SigningKey;
use schemas::signed::PublicKey;

/// Signs without randomness (Ed25519, RFC 8032), so that a decision stays a function of its inputs.
pub(crate) struct Signer(SigningKey);

impl Signer {
    pub(crate) fn new(key: SigningKey) -> Self {
        Self(key)
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.0
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey::of(&self.0)
    }
}

/// Shows the public half only.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.public()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_not_shown() {
        let shown = format!("{:?}", Signer::new(SigningKey::from_bytes(&[7; 32])));
        assert!(shown.starts_with("Signer(PublicKey("), "{shown}");
        assert!(!shown.contains("07070707") && !shown.contains("7, 7, 7"), "{shown}");
    }
}
