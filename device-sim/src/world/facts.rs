//! What an onlooker can see: the wire, the hardware, the bank's counter. The auditor judges by nothing else.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{CommandId, Hash, IdempotencyKey, Instance, PaymentId, Principal};
use schemas::message::{Outcome, PaymentState, PaymentStatus, RequestAnswer};
use schemas::signed::{PaymentInformation, PublicKey};
use schemas::wire::SignedBytes;

use super::family_facts::FamilyFacts;

/// A payment information that is in people's hands.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) signed: SignedBytes,
    pub(super) information: PaymentInformation,
    pub(super) chip: usize,
    /// False: made by somebody who has the chip's key.
    pub(super) issued: bool,
    /// The payment whose payer was asked to verify.
    pub(super) asked_for: Option<PaymentId>,
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Pay {
        offer: usize,
    },
    Cancel {
        payment: PaymentId,
    },
    Refund {
        payment: PaymentId,
    },
    /// A guardian's order, by its number.
    Order {
        order: usize,
    },
    /// A guardian's limits, by their number.
    Limit {
        limits: usize,
    },
    /// A terminal's scan, by its number.
    Scan {
        scan: usize,
    },
    /// A guardian's allowance, by its number.
    Allow {
        allowance: usize,
    },
    /// A payment from an own account, by its number.
    Own {
        own: usize,
    },
    /// Through which child, by its number.
    Choose {
        choice: usize,
    },
    /// A guardian's no to a wish, by its number.
    Decline {
        decline: usize,
    },
}

/// A request on its way and afterwards.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) wish: Wish,
    pub(super) promised: bool,
    /// The run of the core that heard it first, and its position right afterwards.
    pub(super) heard: Option<(u64, u64)>,
    /// Answers that accept or refuse for good (not: key reused, expired).
    pub(super) answer: Option<RequestAnswer>,
}

/// Something reached the core: gone again if the core dies before this position is on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) at_ms: u64,
    pub(super) position: u64,
}

/// One payment as seen from outside.
#[derive(Debug, Clone, Default)]
pub(super) struct PaymentFacts {
    pub(super) request: Option<(Principal, IdempotencyKey)>,
    pub(super) command: Option<CommandId>,
    /// What arrived at the payer's terminal, newest by its own time.
    pub(super) told: Option<PaymentStatus>,
    /// What arrived at the merchant's terminal.
    pub(super) merchant_told: Vec<PaymentState>,
    pub(super) verified_well: bool,
    pub(super) verified_wrong: bool,
    pub(super) transfer_key: Option<[u8; 16]>,
    pub(super) refund_keys: BTreeSet<[u8; 16]>,
    /// The bank was asked to fence the transfer off.
    pub(super) fenced: bool,
    /// When the core first heard the payer's consent, from which the bank's time runs.
    /// The payer was asked to answer by then, in the core's time.
    pub(super) answer_by: Option<u64>,
    pub(super) consent: Option<Heard>,
    /// The bank's success.
    pub(super) done: Option<Heard>,
    pub(super) merchant_refunded: bool,
    /// The operator has looked at it and had its refund tried again, which settles what was in the queue till then.
    pub(super) retried: bool,
}

/// A word of an executor on a command, in the order in which the core promised it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) outcome: Outcome,
    pub(super) delivered: u32,
    pub(super) arrived_at: u64,
    /// What the operator saw just before it arrived: state and units delivered.
    pub(super) view: Option<(PaymentState, u32)>,
    /// It was open when the core started, and everybody still had time to reconnect (correctness.md 15).
    pub(super) graced: bool,
}

/// One command as seen from outside.
#[derive(Debug, Clone)]
pub(super) struct CommandFacts {
    pub(super) machine: usize,
    /// The enrolment that was commanded.
    pub(super) instance: Instance,
    pub(super) quantity: u32,
    /// It must have begun by then, on the core's clock.
    pub(super) start_by: u64,
    /// Silence before this is no verdict, on the core's clock.
    pub(super) settle_at: u64,
    pub(super) acts: u32,
    pub(super) items_out: u32,
    /// The hardware said what was not so.
    pub(super) lied: bool,
    /// What the device has put on the wire as definite.
    pub(super) on_wire: BTreeSet<(Outcome, u32)>,
    /// Its device was revoked or replaced while the command was open.
    pub(super) orphaned: bool,
}

/// Everything seen.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) offers: Vec<Offer>,
    pub(super) offer_by_hash: BTreeMap<Hash, usize>,
    pub(super) requests: BTreeMap<(Principal, IdempotencyKey), Request>,
    pub(super) payments: BTreeMap<PaymentId, PaymentFacts>,
    pub(super) commands: BTreeMap<CommandId, CommandFacts>,
    /// Words that were promised.
    pub(super) words: BTreeMap<CommandId, Vec<Word>>,
    /// Words that reached the core, promised or not.
    pub(super) heard: BTreeMap<CommandId, Vec<Word>>,
    /// Payments of devices that are gone, whose unpromised words had counted.
    pub(super) heard_counted: BTreeSet<PaymentId>,
    /// Payments that the operator finds in the queue as of unknown outcome, and of which no word came later.
    pub(super) unknown_named: BTreeSet<PaymentId>,
    pub(super) honest: BTreeMap<usize, bool>,
    pub(super) family: FamilyFacts,
    /// Keys that nobody has registered, and with which something was signed.
    pub(super) strange_keys: Vec<PublicKey>,
}

impl Facts {
    pub(super) fn payment(&mut self, id: PaymentId) -> &mut PaymentFacts {
        self.payments.entry(id).or_default()
    }

    pub(super) fn add_offer(&mut self, offer: Offer) -> usize {
        self.offer_by_hash.insert(Hash::of(&offer.signed.0), self.offers.len());
        self.offers.push(offer);
        self.offers.len() - 1
    }
}
