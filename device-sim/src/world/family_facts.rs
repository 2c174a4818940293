//! What an onlooker sees of a family: what reached the core in which order, what was shown on which piggy bank, which
//! buttons were pressed, who was told what. The auditor judges by nothing else.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::children::Bonds;
use schemas::ids::{IdempotencyKey, Instance, MessageId, PaymentId, Principal, PrincipalId, WishId};
use schemas::message::{
    self, ChildAllowance, ChildAnswer, ChildLimits, Down, Payee, PaymentCode, PaymentOrder, PaymentPrompt,
    PaymentState, PaymentStatus, Position, SuggestionAnswer, WishDecline,
};
use schemas::time::Timestamp;
use schemas::topic::Kind;

use super::codes::{ScanWish, is_paid_with_code};
use super::facts::Wish;
use super::family::FamilyErrand;
use super::lane::Party;
use super::own::{OwnPayments, own_id};
use super::tap::RequestKey;
use super::wishes::ChildWishes;
use super::{Violation, World};

/// Something that reached the core and may have changed how a payment of the family stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// The core has started.
    Start,
    /// Its timer has run, with room on its disk for new work or without.
    Tick {
        has_room: bool,
    },
    /// The operator binds; none: a child no more.
    Bonds {
        child: Principal,
        bonds: Option<Bonds>,
    },
    /// A device is revoked.
    Revoked(Principal),
    /// A device is enrolled anew.
    Enrolled(Principal),
    Order(PaymentId),
    Limits {
        request: RequestKey,
        not_after: Timestamp,
        limits: ChildLimits,
    },
    Allowance {
        request: RequestKey,
        not_after: Timestamp,
        set: ChildAllowance,
    },
    Cancel {
        request: RequestKey,
        not_after: Timestamp,
        payment: PaymentId,
    },
    GiveBack {
        request: RequestKey,
        not_after: Timestamp,
        payment: PaymentId,
    },
    Answer {
        device: Principal,
        payment: PaymentId,
        answer: ChildAnswer,
        position: Option<Position>,
        identified: bool,
    },
    /// A person pays from its own account.
    Own(PaymentId),
    /// Through which child, or not at all.
    Choose {
        request: RequestKey,
        not_after: Timestamp,
        choice: SuggestionAnswer,
    },
    ChildWish {
        device: Principal,
        said: message::Wish,
    },
    TakeBackWish {
        device: Principal,
        wish: WishId,
    },
    DeclineWish {
        request: RequestKey,
        not_after: Timestamp,
        decline: WishDecline,
    },
    /// A terminal hands in a code, by the number of what it wanted.
    Scan {
        request: RequestKey,
        not_after: Timestamp,
        scan: usize,
        scanned_at: Timestamp,
    },
}

/// When it was handled. Gone again if the core dies before its position is on the disk.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) id: u64,
    /// In the core's time.
    pub(super) at: u64,
    pub(super) position: u64,
    pub(super) what: What,
    /// It was a wish, and the core has said that it does not take it.
    pub(super) refused: bool,
}

/// A button was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pressed {
    pub(super) machine: usize,
    pub(super) instance: Instance,
    pub(super) answer: ChildAnswer,
    pub(super) at_ms: u64,
    /// In which run of the piggy bank, and up to where its journal has to be on the disk before anybody hears of it.
    pub(super) run: u64,
    pub(super) position: u64,
    /// The piggy bank has said that this is what counts.
    pub(super) taken: bool,
}

/// One order, as its guardian sent it, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct OrderFacts {
    pub(super) request: RequestKey,
    pub(super) not_after: Timestamp,
    pub(super) order: PaymentOrder,
    /// As it left the core first, and the piggy bank that it left for.
    pub(super) prompt: Option<(usize, PaymentPrompt)>,
    /// That piggy bank has taken it in.
    pub(super) taken_in: bool,
    /// As it left the core first; and whether the piggy bank has taken it in.
    pub(super) code: Option<PaymentCode>,
    pub(super) code_taken_in: bool,
    pub(super) pressed: Vec<Pressed>,
    /// What each piggy bank has put on the wire.
    pub(super) said: BTreeMap<(usize, Instance), ChildAnswer>,
    /// What reached each terminal and piggy bank last, by the core's time.
    pub(super) told: BTreeMap<Principal, PaymentStatus>,
    /// Every final state that anybody was told.
    pub(super) ends_told: BTreeSet<PaymentState>,
}

impl OrderFacts {
    /// Nothing has come of it yet.
    pub(super) fn new(request: RequestKey, not_after: Timestamp, order: PaymentOrder) -> Self {
        Self {
            request,
            not_after,
            order,
            prompt: None,
            taken_in: false,
            code: None,
            code_taken_in: false,
            pressed: Vec::new(),
            said: BTreeMap::new(),
            told: BTreeMap::new(),
            ends_told: BTreeSet::new(),
        }
    }
}

/// Everything seen of a family.
#[derive(Debug, Default)]
pub(super) struct FamilyFacts {
    pub(super) wishes: Vec<PaymentOrder>,
    pub(super) limit_wishes: Vec<ChildLimits>,
    pub(super) allowance_wishes: Vec<ChildAllowance>,
    pub(super) scan_wishes: Vec<ScanWish>,
    pub(super) own: OwnPayments,
    pub(super) wish_list: ChildWishes,
    /// Payments of allowances that may come: who pays, and what they were told of it.
    pub(super) allowances: BTreeMap<PaymentId, (Principal, BTreeSet<PaymentState>)>,
    pub(super) orders: BTreeMap<PaymentId, OrderFacts>,
    pub(super) log: Vec<Entry>,
    pub(super) errand: Option<FamilyErrand>,
    next: u64,
}

impl FamilyFacts {
    /// Bonds as the operator has last said them.
    pub(super) fn bonds_now(&self) -> BTreeMap<Principal, Bonds> {
        let mut now = BTreeMap::new();
        for entry in &self.log {
            match &entry.what {
                What::Bonds { child, bonds: Some(bonds) } => {
                    now.insert(child.clone(), bonds.clone());
                }
                What::Bonds { child, bonds: None } => {
                    now.remove(child);
                }
                _ => {}
            }
        }
        now
    }

    /// Whether a child may have had no piggy bank that shows what it gets.
    pub(super) fn lost_a_screen(&self) -> bool {
        let lost = |what: &What| matches!(what, What::Revoked(_) | What::Bonds { bonds: None, .. });
        self.log.iter().any(|entry| lost(&entry.what))
    }

    /// Whether the operator has revoked this device, and nobody has enrolled it since.
    pub(super) fn is_revoked(&self, device: &Principal) -> bool {
        let last = self.log.iter().rev().find_map(|entry| match &entry.what {
            What::Revoked(found) if found == device => Some(true),
            What::Enrolled(found) if found == device => Some(false),
            _ => None,
        });
        last.unwrap_or(false)
    }

    /// What the core had heard and not yet written when it died is as if it had never been said.
    pub(super) fn forget_unheard(&mut self, found: u64) {
        self.log.retain(|entry| entry.position <= found);
    }

    /// The core has not taken it.
    pub(super) fn forget(&mut self, id: u64) {
        let is_wish = |what: &What| matches!(what, What::ChildWish { .. } | What::TakeBackWish { .. });
        self.log.retain(|entry| entry.id != id || is_wish(&entry.what));
        self.log.iter_mut().filter(|entry| entry.id == id).for_each(|entry| entry.refused = true);
    }
}

impl World {
    pub(super) fn has_family(&self) -> bool {
        self.plan.family.is_some()
    }

    /// What the core has just handled; its number.
    pub(super) fn note_family(&mut self, what: What) -> Option<u64> {
        if !self.has_family() {
            return None;
        }
        let position = self.heard_now().position;
        let at = self.stamp().0;
        self.facts.family.next += 1;
        let id = self.facts.family.next;
        self.facts.family.log.push(Entry { id, at, position, what, refused: false });
        Some(id)
    }

    /// What a message of a guardian or a piggy bank is, if the core takes it now: new work needs room on its disk.
    pub(super) fn read_family(&self, party: Party, kind: Kind, payload: &[u8]) -> Option<What> {
        if !self.has_family() {
            return None;
        }
        let envelope = message::Up::decode(kind, payload).ok()?;
        let who = self.principal(party);
        let request =
            envelope.key.zip(envelope.not_after).map(|(key, not_after)| ((who.clone(), key), not_after));
        let is_new_work = match &envelope.body {
            message::Up::PaymentCancel(_) | message::Up::PaymentScan(_) => false,
            message::Up::SuggestionAnswer(choice) => choice.child.is_some(),
            _ => true,
        };
        if request.is_some() && is_new_work && !self.core_has_room() {
            return None;
        }
        let is_of_family = |payment: &PaymentId| self.facts.family.orders.contains_key(payment);
        match (envelope.body, request) {
            (message::Up::PaymentOrder(_), Some(((by, key), not_after))) => {
                Some(What::Order(order_id(&by, key, not_after)))
            }
            (message::Up::OwnPayment(_), Some(((by, key), not_after))) => {
                Some(What::Own(own_id(&by, key, not_after)))
            }
            (message::Up::SuggestionAnswer(choice), Some((request, not_after))) => {
                Some(What::Choose { request, not_after, choice })
            }
            (message::Up::ChildLimits(limits), Some((request, not_after))) => {
                Some(What::Limits { request, not_after, limits })
            }
            (message::Up::ChildAllowance(set), Some((request, not_after))) => {
                Some(What::Allowance { request, not_after, set })
            }
            (message::Up::PaymentCancel(cancel), Some((request, not_after)))
                if is_of_family(&cancel.payment) =>
            {
                Some(What::Cancel { request, not_after, payment: cancel.payment })
            }
            (message::Up::PaymentRefund(refund), Some((request, not_after)))
                if is_of_family(&refund.payment) =>
            {
                Some(What::GiveBack { request, not_after, payment: refund.payment })
            }
            (message::Up::WishDecline(decline), Some((request, not_after))) => {
                Some(What::DeclineWish { request, not_after, decline })
            }
            // On a full disk they are put off.
            (message::Up::Wish(_) | message::Up::WishWithdraw(_), None) if !self.core_has_room() => None,
            (message::Up::Wish(said), None) => Some(What::ChildWish { device: who, said }),
            (message::Up::WishWithdraw(said), None) => {
                Some(What::TakeBackWish { device: who, wish: said.wish })
            }
            (message::Up::PaymentPrompt(said), None) => {
                let identified = said.identified == Some(true);
                let (payment, answer, position) = (said.payment, said.answer, said.position);
                Some(What::Answer { device: who, payment, answer, position, identified })
            }
            (message::Up::PaymentScan(said), Some((request, not_after))) => {
                match self.facts.requests.get(&request)?.wish {
                    Wish::Scan { scan } => {
                        Some(What::Scan { request, not_after, scan, scanned_at: said.scanned_at })
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// A guardian is about to send this order, under this key.
    pub(super) fn expect_order(
        &mut self,
        by: &Principal,
        key: IdempotencyKey,
        not_after: Timestamp,
        order: &PaymentOrder,
    ) {
        let facts = OrderFacts::new((by.clone(), key), not_after, order.clone());
        self.facts.family.orders.insert(order_id(by, key, not_after), facts);
    }

    /// A guardian is about to set an allowance. Each of its payments has a name of its own.
    pub(super) fn expect_allowance(&mut self, by: &Principal, set: &ChildAllowance) {
        let child = Principal { tenant: by.tenant.clone(), id: set.child.clone() };
        if let Some(schedule) = &set.schedule {
            let id = allowance_id(&child, &by.id, schedule.first_at);
            self.facts.family.allowances.entry(id).or_insert((by.clone(), BTreeSet::new()));
        }
    }

    /// PC-2: a prompt leaves the core.
    pub(super) fn witness_prompt(&mut self, to: Party, prompt: &PaymentPrompt) -> Result<(), Violation> {
        let who = self.principal(to);
        let Some(facts) = self.facts.family.orders.get_mut(&prompt.payment) else {
            return Err(self.broken("PC-1", format!("{who} is asked for what nobody ordered")));
        };
        let Party::Machine(machine) = to else {
            return Err(self.broken("PC-2", format!("{who} is no piggy bank and gets a prompt")));
        };
        let (known, first) = facts.prompt.get_or_insert_with(|| (machine, prompt.clone()));
        let same = *known == machine && first == prompt;
        let (order, by) = (&facts.order, &facts.request.0);
        let as_ordered = prompt.child == order.child
            && prompt.guardian == by.id
            && prompt.ordered == order.amount
            && prompt.amount.minor <= order.amount.minor
            && prompt.categories == order.categories
            && prompt.note == order.note;
        if !same || !as_ordered {
            return Err(self.broken("PC-2", format!("{who} is asked otherwise than ordered: {prompt:?}")));
        }
        Ok(())
    }

    /// Who may hear of a payment of the family; of a child's: who ordered it, the piggy bank that was asked, and who gets the money.
    pub(super) fn may_hear_of_order(&self, who: &Principal, status: &PaymentStatus) -> bool {
        let payment = status.payment;
        if let Some(takes_part) = self.takes_part_in_own(who, payment) {
            return takes_part;
        }
        if let Some((guardian, _)) = self.facts.family.allowances.get(&payment) {
            return guardian == who;
        }
        let Some(facts) = self.facts.family.orders.get(&payment) else { return false };
        let asked = facts.prompt.as_ref().map(|(machine, _)| &self.plan.machines[*machine].principal);
        // A prompt that was taken back before it left: its piggy bank may hear of the end all the same.
        let child = Principal { tenant: facts.request.0.tenant.clone(), id: facts.order.child.clone() };
        // And of what comes back the one hears that the child uses by then.
        let is_late = facts.prompt.is_none() || status.state == PaymentState::Refunded;
        let bound = is_late && self.has_used(&child, who);
        facts.request.0 == *who || asked == Some(who) || bound || self.payee_of(payment).as_ref() == Some(who)
    }

    /// Whether this was, at some time, the piggy bank of that child.
    pub(super) fn has_used(&self, child: &Principal, device: &Principal) -> bool {
        self.facts.family.log.iter().any(|entry| match &entry.what {
            What::Bonds { child: of, bonds: Some(bonds) } => {
                of == child && bonds.piggy_bank.as_ref() == Some(&device.id)
            }
            _ => false,
        })
    }

    /// Who speaks for the account that an order pays to. No family changes where its money goes.
    pub(super) fn payee_of(&self, payment: PaymentId) -> Option<Principal> {
        let facts = self.facts.family.orders.get(&payment)?;
        let by = &facts.request.0;
        let speaks = |id: schemas::ids::PrincipalId| Principal { tenant: by.tenant.clone(), id };
        match self.payee(facts) {
            Payee::Guardian => Some(by.clone()),
            Payee::Person(id) => Some(speaks(id)),
            Payee::Merchant(_) => "till".parse().ok().map(speaks),
        }
    }

    /// PC-8: whom the order names, or the child's receiving account, or the guardian.
    pub(super) fn payee(&self, facts: &OrderFacts) -> Payee {
        let children = self.plan.family.iter().flat_map(|family| &family.children);
        let child = children.into_iter().find(|child| child.principal.id == facts.order.child);
        let receiving = child.and_then(|child| child.bonds.receiving.clone());
        let is_code = is_paid_with_code(&facts.order);
        let at_place =
            (is_code && facts.order.place.is_some()).then(|| Payee::Merchant(self.plan.merchant.clone()));
        match facts.order.payee.clone().or(at_place).or(receiving) {
            None | Some(Payee::Guardian) => Payee::Person(facts.request.0.id.clone()),
            Some(payee) => payee,
        }
    }

    /// A status has reached a terminal or a piggy bank. True if it is of a child's payment, an allowance, or a payment from
    /// an own account.
    pub(super) fn note_family_status(&mut self, who: &Principal, status: &PaymentStatus) -> bool {
        if let Some((_, told)) = self.facts.family.allowances.get_mut(&status.payment) {
            told.insert(status.state);
            return true;
        }
        if self.note_own_status(who, status) {
            return true;
        }
        let Some(facts) = self.facts.family.orders.get_mut(&status.payment) else { return false };
        if facts.told.get(who).is_none_or(|known| known.at <= status.at) {
            facts.told.insert(who.clone(), status.clone());
        }
        if !matches!(status.state, PaymentState::Prompting | PaymentState::Presenting) {
            facts.ends_told.insert(status.state);
        }
        true
    }

    /// What reaches a piggy bank.
    pub(super) fn note_down(&mut self, index: usize, kind: Kind, payload: &[u8]) {
        if !self.has_family() || kind != Kind::PaymentStatus {
            return;
        }
        if let Ok(envelope) = Down::decode(kind, payload)
            && let Down::PaymentStatus(status) = envelope.body
        {
            let who = self.plan.machines[index].principal.clone();
            self.note_family_status(&who, &status);
        }
    }

    /// A piggy bank takes a message in. The prompt that it carries, if it is one.
    pub(super) fn note_taken_in(&mut self, message: MessageId) -> Option<PaymentId> {
        let carries = |id: &PaymentId| MessageId::derived("prompt", &[&id.0]) == message;
        let is_code = |id: &PaymentId| MessageId::derived("code", &[&id.0]) == message;
        if let Some((_, facts)) = self.facts.family.orders.iter_mut().find(|(id, _)| is_code(id)) {
            facts.code_taken_in = true;
            return None;
        }
        let (id, facts) = self.facts.family.orders.iter_mut().find(|(id, _)| carries(id))?;
        facts.taken_in = true;
        Some(*id)
    }
}

pub(super) fn order_id(by: &Principal, key: IdempotencyKey, not_after: Timestamp) -> PaymentId {
    named("child-payment", by, key, not_after)
}

/// A payment is named after its flow, who asked for it, with which key, until when.
pub(super) fn named(flow: &str, by: &Principal, key: IdempotencyKey, not_after: Timestamp) -> PaymentId {
    let parts = [by.to_string().into_bytes(), key.0.to_vec(), not_after.0.to_be_bytes().to_vec()];
    PaymentId::derived(flow, &parts.each_ref().map(Vec::as_slice))
}

/// A payment of an allowance is named after whose it is, who pays it, and when it was due.
pub(super) fn allowance_id(child: &Principal, guardian: &PrincipalId, due_at: Timestamp) -> PaymentId {
    let child = child.to_string();
    PaymentId::derived(
        "allowance",
        &[child.as_bytes(), guardian.as_str().as_bytes(), &due_at.0.to_be_bytes()],
    )
}
