//! Signatures of payment informations and verifications are checked on the threads that read them, so that the one thread
//! that decides only compares. Those of whoever is not known here yet, and those of codes, it checks by itself.
//!
//! Which key counts is for the core to say. These threads have copies of keys that were good a while ago: whatever they
//! check is bound to the key it was checked with, and the core checks again where its own key is another one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError, RwLock};

use cloud_core_flows::registry::Registry;
use schemas::ids::Principal;
use schemas::message::Up;
use schemas::signed::{PaymentInformation, Proven, PublicKey, ReadyKey, Verification};
use schemas::topic::Kind;

/// Keys of one generation; about 300 bytes each.
const MAX_KEYS: usize = 8_192;
/// Looked up at one visit of the core, which must not be long: some milliseconds.
const MAX_WANTED: usize = 512;

/// Who is looked up at the core's next visit.
type Names = Mutex<BTreeSet<Principal>>;

/// Keys of chips and payers who have signed something lately.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    keys: RwLock<Keys>,
    /// Who has signed something, and the key for it is missing, of the former generation, or another one.
    wanted: Names,
    /// Who wants to pay.
    paying: Names,
    /// Of those, who had too many open payments at the last visit: the core refuses them before it checks a signature,
    /// so in an overload nobody's time is spent on those.
    full: RwLock<HashSet<Principal>>,
}

/// Two generations: whoever signs moves into the current one, and when that is full the former one is forgotten.
#[derive(Debug, Default)]
struct Keys {
    current: HashMap<Principal, ReadyKey>,
    former: HashMap<Principal, ReadyKey>,
}

impl Keys {
    fn insert(&mut self, principal: Principal, key: ReadyKey) {
        if self.current.len() >= MAX_KEYS && !self.current.contains_key(&principal) {
            self.former = std::mem::take(&mut self.current);
        }
        self.current.insert(principal, key);
    }
}

impl Signatures {
    /// Looks up what was asked for. Called by the core now and then: a key that comes late costs a check on its thread.
    pub(crate) fn learn(&self, registry: &Registry, is_full: impl Fn(&Principal) -> bool) {
        let full: HashSet<_> = taken(&self.paying).into_iter().filter(is_full).collect();
        *self.full.write().unwrap_or_else(PoisonError::into_inner) = full;
        let wanted = taken(&self.wanted);
        // Readers wait for the lock: everything that takes time comes before.
        let ready = |who: Principal| Some((ReadyKey::new(&key_of(registry, &who)?)?, who));
        let learned: Vec<_> = wanted.into_iter().filter_map(ready).collect();
        if learned.is_empty() {
            return;
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        learned.into_iter().for_each(|(key, who)| keys.insert(who, key));
    }

    /// Checks with the signer's key, if it is known.
    fn prove(&self, signer: &Principal, check: impl FnOnce(&ReadyKey) -> Option<Proven>) -> Option<Proven> {
        let (key, is_current) = {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            let current = keys.current.get(signer);
            (current.or_else(|| keys.former.get(signer)).copied(), current.is_some())
        };
        let proven = key.as_ref().and_then(check);
        if proven.is_none() || !is_current {
            note(&self.wanted, signer);
        }
        proven
    }

    fn is_full(&self, payer: &Principal) -> bool {
        note(&self.paying, payer);
        self.full.read().unwrap_or_else(PoisonError::into_inner).contains(payer)
    }
}

fn note(names: &Names, name: &Principal) {
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    if names.len() < MAX_WANTED && !names.contains(name) {
        names.insert(name.clone());
    }
}

fn taken(names: &Names) -> BTreeSet<Principal> {
    std::mem::take(&mut *names.lock().unwrap_or_else(PoisonError::into_inner))
}

impl broker::Checker for Signatures {
    fn check(&self, principal: &Principal, kind: Kind, payload: &[u8]) -> Option<Proven> {
        match kind {
            Kind::PaymentRequest if self.is_full(principal) => return None,
            Kind::PaymentRequest | Kind::PaymentVerification => {}
            _ => return None,
        }
        match Up::decode(kind, payload).ok()?.body {
            Up::PaymentRequest(request) => {
                let read = PaymentInformation::read(&request.information).ok()?;
                let chip = &read.claimed().chip;
                // Others' chips are refused in any case: nobody may crowd out their keys.
                (chip.tenant == principal.tenant).then(|| self.prove(chip, |key| read.prove(key)))?
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
    use schemas::ids::{IdempotencyKey, MessageId, Nonce, PaymentId};
    use schemas::message::{PaymentRequest, VerificationAnswer};
    use schemas::time::Timestamp;
    use schemas::wire::Text;

    use super::*;

    fn nobody(_: &Principal) -> bool {
        false
    }

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
        signatures.learn(cloud.registry(), nobody);
        let proven = check(1);
        let read = Verification::read(&verification().sign(&key(1))).unwrap();
        assert!(proven.is_some());
        assert_eq!(read.verify(&PublicKey::of(&key(1)), proven.as_ref()), Ok(verification()));

        with_key_of_alice(&mut cloud, 2);
        assert_eq!(check(2), None, "still the former key");
        signatures.learn(cloud.registry(), nobody);
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

    /// In an overload the core refuses before it checks a signature, so nobody checks one for it.
    #[test]
    fn who_has_too_many_open_payments_is_left_to_the_core_until_the_next_visit() {
        let (signatures, mut cloud) = (Signatures::default(), Cloud::default());
        with_key_of_alice(&mut cloud, 1);
        // Whose key a chip's is makes no difference here: it is alice's own.
        let information = PaymentInformation {
            chip: alice(),
            nonce: Nonce([1; 8]),
            issued_at: Timestamp(1_000_000_000_000),
            expires_at: Timestamp(1_000_000_120_000),
            payee: "snacks".parse().unwrap(),
            amount: "2.50 EUR".parse().unwrap(),
            item: "water".parse().unwrap(),
            quantity: 1,
        };
        let body = Up::PaymentRequest(PaymentRequest { information: information.sign(&key(1)) });
        let not_after = Timestamp(1_000_000_120_000);
        let said = Envelope::request(MessageId([3; 16]), IdempotencyKey([4; 16]), not_after, body).encode();
        let check = || signatures.check(&alice(), Kind::PaymentRequest, &said);
        assert_eq!(check(), None, "nothing is known before the first visit");
        signatures.learn(cloud.registry(), |payer| *payer == alice());
        assert_eq!(check(), None, "full");
        signatures.learn(cloud.registry(), nobody);
        assert!(check().is_some());
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
        signatures.learn(Cloud::default().registry(), nobody);
        assert!(signatures.keys.read().unwrap().current.is_empty(), "nobody of them is registered");
    }

    #[test]
    fn whoever_signs_keeps_a_place_and_keys_are_bounded() {
        let (signatures, mut cloud) = (Signatures::default(), Cloud::default());
        with_key_of_alice(&mut cloud, 1);
        let proven = || signatures.check(&alice(), Kind::PaymentVerification, &said(1));
        let others = ReadyKey::new(&PublicKey::of(&key(3))).unwrap();
        for number in 0..3 * MAX_KEYS {
            let mut keys = signatures.keys.write().unwrap();
            keys.insert(format!("acme/p{number}").parse().unwrap(), others);
            drop(keys);
            if number % MAX_KEYS == 0 {
                proven();
                signatures.learn(cloud.registry(), nobody);
                assert!(proven().is_some(), "{number}");
            }
        }
        let keys = signatures.keys.read().unwrap();
        assert!(keys.current.len() <= MAX_KEYS && keys.former.len() <= MAX_KEYS);
        assert!(!keys.current.contains_key(&"acme/p0".parse().unwrap()));
        assert!(!keys.former.contains_key(&"acme/p0".parse().unwrap()), "it has not signed for long");
    }
}
