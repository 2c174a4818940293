//! Signatures are checked on the threads that read them, so that the one thread that decides only compares.
//!
//! Which key counts is for the core to say. These threads have copies of keys that were good a while ago: whatever they
//! check is bound to the key it was checked with, and the core checks again where its own key is another one.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError, RwLock};

use cloud_core_flows::registry::Registry;
use schemas::ids::Principal;
use schemas::message::Up;
use schemas::signed::{PaymentInformation, Proven, PublicKey, ReadyKey, Verification};
use schemas::topic::Kind;

/// Keys in memory, of those who sign most; about 250 bytes each. Beyond it all are learned anew.
const MAX_KEYS: usize = 16_384;
/// Keys that are asked for between two visits of the core.
const MAX_WANTED: usize = 4_096;

/// Keys of chips and payers, as far as they were needed.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    keys: RwLock<HashMap<Principal, ReadyKey>>,
    /// Who has signed something, and the key for it is missing or another one.
    wanted: Mutex<BTreeSet<Principal>>,
}

impl Signatures {
    /// Looks up what was asked for. Called by the core now and then: a key that comes late costs a check on its thread.
    pub(crate) fn learn(&self, registry: &Registry) {
        let wanted = std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        if wanted.is_empty() {
            return;
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() + wanted.len() > MAX_KEYS {
            keys.clear();
        }
        for principal in wanted {
            match key_of(registry, &principal).as_ref().and_then(ReadyKey::new) {
                Some(key) => keys.insert(principal, key),
                None => keys.remove(&principal),
            };
        }
    }

    /// Checks with the signer's key, if it is known.
    fn prove(&self, signer: &Principal, check: impl FnOnce(&ReadyKey) -> Option<Proven>) -> Option<Proven> {
        let key = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(signer).copied();
        let proven = key.as_ref().and_then(check);
        if proven.is_none() {
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            if wanted.len() < MAX_WANTED && !wanted.contains(signer) {
                wanted.insert(signer.clone());
            }
        }
        proven
    }
}

impl broker::Checker for Signatures {
    fn check(&self, principal: &Principal, kind: Kind, payload: &[u8]) -> Option<Proven> {
        if !matches!(kind, Kind::PaymentRequest | Kind::PaymentVerification) {
            return None;
        }
        match Up::decode(kind, payload).ok()?.body {
            Up::PaymentRequest(request) => {
                let read = PaymentInformation::read(&request.information).ok()?;
                self.prove(&read.claimed().chip, |key| read.prove(key))
            }
            Up::PaymentVerification(answer) => {
                let read = Verification::read(&answer.verification).ok()?;
                self.prove(principal, |key| read.prove(key))
            }
            _ => None,
        }
    }
}

/// A chip signs as a device, a payer as a person.
fn key_of(registry: &Registry, principal: &Principal) -> Option<PublicKey> {
    let of_device = registry.device(principal).and_then(|device| device.public_key);
    of_device.or_else(|| registry.person(principal).and_then(|person| person.public_key))
}

#[cfg(test)]
mod tests {
    use broker::Checker;
    use cloud_core_flows::Cloud;
    use cloud_core_flows::admin::{AdminCommand, Setting};
    use cloud_core_flows::event::{Event, Record};
    use ed25519_dalek::SigningKey;
    use schemas::envelope::Envelope;
    use schemas::ids::{MessageId, PaymentId};
    use schemas::message::VerificationAnswer;
    use schemas::time::Timestamp;
    use schemas::wire::Text;

    use super::*;

    fn alice() -> Principal {
        "acme/alice".parse().unwrap()
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn verification() -> Verification {
        Verification {
            payer: alice(),
            payment: PaymentId([2; 16]),
            payee: Text::new("Snacks & Co"),
            amount: "2.50 EUR".parse().unwrap(),
            expires_at: Timestamp(1_000_000_120_000),
        }
    }

    fn said(seed: u8) -> Vec<u8> {
        let verification = verification().sign(&key(seed));
        let body = Up::PaymentVerification(VerificationAnswer { verification });
        Envelope::message(MessageId([3; 16]), body).encode()
    }

    fn with_key_of_alice(cloud: &mut Cloud, seed: u8) {
        let (person, key) = (alice(), PublicKey::of(&key(seed)));
        let command = match cloud.registry().person(&person) {
            None => AdminCommand::CreatePerson { person, public_key: Some(key), bank_account: None },
            Some(_) => {
                let (public_key, bank_account) = (Setting::To(key), Setting::Keep);
                AdminCommand::ChangePerson { person, public_key, bank_account }
            }
        };
        cloud.evolve(&Record { at: Timestamp(1), event: Event::Registered(command), by: None });
    }

    /// CP-5: a key is learned at the core's next visit, and anew when it was replaced; what is proven is bound to it.
    #[test]
    fn keys_are_learned_when_they_are_wanted_and_again_when_they_no_longer_fit() {
        let (signatures, mut cloud) = (Signatures::default(), Cloud::default());
        let check = |seed| signatures.check(&alice(), Kind::PaymentVerification, &said(seed));
        with_key_of_alice(&mut cloud, 1);
        assert_eq!(check(1), None, "nothing is known before the first visit");
        signatures.learn(cloud.registry());
        let proven = check(1);
        let read = Verification::read(&verification().sign(&key(1))).unwrap();
        assert!(proven.is_some());
        assert_eq!(read.verify(&PublicKey::of(&key(1)), proven.as_ref()), Ok(verification()));

        with_key_of_alice(&mut cloud, 2);
        assert_eq!(check(2), None, "still the former key");
        signatures.learn(cloud.registry());
        assert!(check(2).is_some());
        assert_eq!(check(1), None);
    }

    #[test]
    fn what_is_no_message_or_has_no_signature_is_left_to_the_core() {
        let signatures = Signatures::default();
        assert_eq!(signatures.check(&alice(), Kind::PaymentVerification, b"junk"), None);
        assert_eq!(signatures.check(&alice(), Kind::PaymentRequest, &said(1)), None);
        assert_eq!(signatures.check(&alice(), Kind::DeviceReport, &said(1)), None);
        assert!(signatures.wanted.lock().unwrap().is_empty());
    }

    /// A stranger can make nobody remember names without end.
    #[test]
    fn what_is_wanted_is_bounded() {
        let signatures = Signatures::default();
        for number in 0..2 * MAX_WANTED {
            let principal = format!("acme/p{number}").parse().unwrap();
            signatures.prove(&principal, |_| None);
        }
        assert_eq!(signatures.wanted.lock().unwrap().len(), MAX_WANTED);
        signatures.learn(Cloud::default().registry());
        assert!(signatures.keys.read().unwrap().is_empty(), "nobody of them is registered");
    }
}
