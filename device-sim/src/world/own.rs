//! People who pay from their own accounts; and guardians who are asked, where those have too little, whether to pay through
//! a child (PC-11): what they do, what an onlooker sees of it, and the outcome table, applied to what reached the core.
//!
//! Operators have no listing of these payments; what stands for one is read from the core.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::payment::{self, OwnPhase};
use schemas::ids::{IdempotencyKey, PaymentId, Principal, PrincipalId};
use schemas::message::{
    OwnPayment, PaySuggestion, Payee, PaymentOrder, PaymentState, PaymentStatus, RequestAnswer,
    SuggestionAnswer,
};
use schemas::time::Timestamp;

use super::facts::Wish;
use super::family::{CATEGORIES, categories};
use super::family_audit::FamilyEnds;
use super::family_book::{Book, Broken};
use super::family_facts::{OrderFacts, named, order_id};
use super::fault::Fault;
use super::lane::Party;
use super::people::Deed;
use super::tap::RequestKey;
use super::{Happening, Violation, World};

/// One payment from an own account, as it was sent, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct OwnFacts {
    request: RequestKey,
    not_after: Timestamp,
    order: OwnPayment,
    /// As it left the core first.
    suggested: Option<PaySuggestion>,
    /// The person has read the question.
    read: bool,
    told: BTreeMap<Principal, BTreeSet<Told>>,
}

/// A state, and what was paid by then in minor units.
type Told = (PaymentState, u64);

/// What is wanted, and what was seen.
#[derive(Debug, Default)]
pub(super) struct OwnPayments {
    pub(super) wishes: Vec<OwnPayment>,
    pub(super) choices: Vec<SuggestionAnswer>,
    sent: BTreeMap<PaymentId, OwnFacts>,
}

/// What people do.
impl World {
    pub(super) fn draw_own_payments(&mut self) {
        let Some(family) = &self.plan.family else { return };
        let (guardians, stranger, currency) = (family.guardians.clone(), family.stranger, self.plan.currency);
        let people: Vec<Payee> = family
            .children
            .iter()
            .map(|child| &child.principal)
            .chain(guardians.iter().chain([&stranger]).map(|index| &self.plan.people[*index].principal))
            .map(|person| Payee::Person(person.id.clone()))
            .collect();
        // Never more at once than one person may be asked about; and in small journals no more than end at once.
        let room = (self.core.purchases_at_most() / 2).saturating_sub(self.facts.family.wishes.len() as u64);
        let count = self.random.own.range(1, 4).min(room).min(self.options.purchases.unwrap_or(u64::MAX));
        for _ in 0..count {
            let random = &mut self.random.own;
            let is_stranger = self.mix.has(Fault::StrangerOrders) && random.chance(200);
            let by = if is_stranger { stranger } else { guardians[random.index(guardians.len())] };
            let minor = if random.chance(400) { random.range(50, 1_500) } else { random.range(1_500, 5_000) };
            let payee = if random.chance(400) {
                people[random.index(people.len())].clone()
            } else {
                Payee::Merchant(self.plan.merchant.clone())
            };
            let category = CATEGORIES[random.index(CATEGORIES.len())];
            let at = random.range(3_000, self.plan.faults_end_ms * 2 / 3);
            let own = self.facts.family.own.wishes.len();
            let amount = currency.minor(minor);
            let wish = OwnPayment { amount, payee, categories: categories(&[category]), note: None };
            self.facts.family.own.wishes.push(wish);
            self.after(at, Happening::Act(by, Deed::Ask(Wish::Own { own })));
        }
    }

    /// A guardian reads: shall a child pay?
    pub(super) fn reads_suggestion(&mut self, index: usize, suggestion: &PaySuggestion) {
        let Some(facts) = self.facts.family.own.sent.get_mut(&suggestion.payment) else { return };
        if std::mem::replace(&mut facts.read, true) || self.strikes(Fault::SuggestionIgnored) {
            return;
        }
        let children: Vec<&PrincipalId> = suggestion.children.iter().collect();
        let child = if self.random.own.chance(200) {
            None
        } else if self.strikes(Fault::NotSuggested) {
            Some(self.plan.people[index].principal.id.clone())
        } else {
            Some(children[self.random.own.index(children.len())].clone())
        };
        let wait = if self.strikes(Fault::SuggestionLate) {
            // A late answer counts for as long as one may be on its way.
            let tenant = self.plan.family.as_ref().map_or(0, |family| family.tenant);
            let report_ms = self.plan.tenants[tenant].deadlines.report_ms;
            let left = (suggestion.answer_by.0 + report_ms).saturating_sub(self.stamp().0);
            (left + 3_000).saturating_sub(self.random.of(Fault::SuggestionLate).range(0, 6_000))
        } else {
            self.random.own.range(500, 5_000)
        };
        self.choose_after(
            wait,
            index,
            SuggestionAnswer { payment: suggestion.payment, child: child.clone() },
        );
        if self.strikes(Fault::SuggestionAnsweredAgain) {
            let random = self.random.of(Fault::SuggestionAnsweredAgain);
            let other = random.chance(500).then(|| children[random.index(children.len())].clone());
            let wait = wait + random.range(0, 10_000);
            // Sometimes it is the other guardian, whom nobody has asked.
            let guardians = self.plan.family.as_ref().map_or(&[][..], |family| family.guardians.as_slice());
            let by = guardians.iter().copied().find(|other| *other != index);
            let by = by.filter(|_| self.random.own.chance(300)).unwrap_or(index);
            self.choose_after(wait, by, SuggestionAnswer { payment: suggestion.payment, child: other });
        }
    }

    fn choose_after(&mut self, wait: u64, by: usize, choice: SuggestionAnswer) {
        self.facts.family.own.choices.push(choice);
        let choice = self.facts.family.own.choices.len() - 1;
        self.after(wait, Happening::Act(by, Deed::Ask(Wish::Choose { choice })));
    }
}

/// What an onlooker sees.
impl World {
    pub(super) fn expect_own(
        &mut self,
        by: &Principal,
        key: IdempotencyKey,
        not_after: Timestamp,
        order: &OwnPayment,
    ) {
        let facts = OwnFacts {
            request: (by.clone(), key),
            not_after,
            order: order.clone(),
            suggested: None,
            read: false,
            told: BTreeMap::new(),
        };
        self.facts.family.own.sent.insert(own_id(by, key, not_after), facts);
    }

    /// A guardian is about to choose. Where it is a child, that is an order, with an id like any other.
    pub(super) fn expect_choice(
        &mut self,
        by: &Principal,
        key: IdempotencyKey,
        not_after: Timestamp,
        choice: &SuggestionAnswer,
    ) {
        let order = self.facts.family.own.sent.get(&choice.payment).map(|facts| facts.order.clone());
        if let Some((order, child)) = order.zip(choice.child.as_ref()) {
            self.expect_order(by, key, not_after, &order_through(&order, child));
        }
    }

    /// PC-11: who is asked has ordered just that, and is asked the same each time.
    pub(super) fn witness_suggestion(&mut self, to: Party, asked: &PaySuggestion) -> Result<(), Violation> {
        let who = self.principal(to);
        let own = self.facts.family.own.sent.get_mut(&asked.payment);
        let Some(facts) = own.filter(|facts| facts.request.0 == who) else {
            return Err(
                self.broken("PC-11", format!("{who} is asked about what it never ordered: {asked:?}"))
            );
        };
        let first = facts.suggested.get_or_insert_with(|| asked.clone()).clone();
        let same = *asked == PaySuggestion { answer_by: asked.answer_by, ..first.clone() };
        let as_ordered = asked.amount == facts.order.amount && asked.payee == facts.order.payee;
        if !same || !as_ordered || asked.answer_by < first.answer_by {
            return Err(self.broken("PC-11", format!("{who} is asked {asked:?}, and before that {first:?}")));
        }
        Ok(())
    }

    /// Whether this is a payment from an own account; and if so, whether `who` takes part.
    pub(super) fn takes_part_in_own(&self, who: &Principal, payment: PaymentId) -> Option<bool> {
        let facts = self.facts.family.own.sent.get(&payment)?;
        Some(facts.request.0 == *who || payee_of(facts).as_ref() == Some(who))
    }

    /// A status has reached a terminal. True if it is of a payment from an own account.
    pub(super) fn note_own_status(&mut self, who: &Principal, status: &PaymentStatus) -> bool {
        let Some(facts) = self.facts.family.own.sent.get_mut(&status.payment) else { return false };
        facts.told.entry(who.clone()).or_default().insert((status.state, status.paid.minor));
        true
    }

    /// Whether this is a child's payment, or one from an own account.
    pub(super) fn is_of_family(&self, payment: PaymentId) -> bool {
        let family = &self.facts.family;
        family.orders.contains_key(&payment) || family.own.sent.contains_key(&payment)
    }

    /// Whether an answer names the payment that was asked for.
    pub(super) fn is_answer_to(&self, wish: Wish, who: &Principal, answer: &RequestAnswer) -> bool {
        let Some(payment) = answer.payment else { return true };
        let own = &self.facts.family.own;
        match wish {
            Wish::Own { .. } => {
                own.sent.get(&payment).is_some_and(|facts| facts.request == (who.clone(), answer.key))
            }
            Wish::Choose { choice } if own.choices[choice].child.is_none() => {
                own.choices[choice].payment == payment
            }
            Wish::Order { .. } | Wish::Choose { .. } => self.is_order_of(payment, who, answer.key),
            _ => true,
        }
    }
}

/// A payment is named after who ordered it, with which key, until when.
pub(super) fn own_id(by: &Principal, key: IdempotencyKey, not_after: Timestamp) -> PaymentId {
    named("own-payment", by, key, not_after)
}

/// Who speaks for the account that gets the money.
fn payee_of(facts: &OwnFacts) -> Option<Principal> {
    let speaks = |id: PrincipalId| Principal { tenant: facts.request.0.tenant.clone(), id };
    match &facts.order.payee {
        Payee::Guardian => None,
        Payee::Person(id) => Some(speaks(id.clone())),
        Payee::Merchant(_) => "till".parse().ok().map(speaks),
    }
}

/// What the child is asked for.
fn order_through(order: &OwnPayment, child: &PrincipalId) -> PaymentOrder {
    PaymentOrder {
        payee: Some(order.payee.clone()),
        note: order.note.clone(),
        ..PaymentOrder::deduction(child.clone(), order.amount, order.categories.clone())
    }
}

/// How one has ended, by the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnEnd {
    Paid,
    Through(PaymentId),
    Declined,
    Unanswered,
}

impl OwnEnd {
    fn state(self) -> PaymentState {
        match self {
            OwnEnd::Paid => PaymentState::Settled,
            OwnEnd::Through(_) | OwnEnd::Declined => PaymentState::Cancelled,
            OwnEnd::Unanswered => PaymentState::Expired,
        }
    }

    fn row(self) -> &'static str {
        match self {
            OwnEnd::Paid => "own: paid",
            OwnEnd::Through(_) => "own: through a child",
            OwnEnd::Declined => "own: declined",
            OwnEnd::Unanswered => "own: unanswered",
        }
    }
}

/// One that was accepted.
#[derive(Debug)]
struct Standing {
    children: Vec<PrincipalId>,
    settle_at: u64,
    end: Option<OwnEnd>,
}

/// The book's part of these payments.
#[derive(Debug)]
pub(super) struct OwnBook<'a> {
    rows: BTreeMap<PaymentId, &'a payment::OwnPayment>,
    payments: BTreeMap<PaymentId, Standing>,
    refused: u64,
}

impl<'a> OwnBook<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        let rows = world.core.cloud().into_iter().flat_map(|cloud| cloud.own_payments());
        Self { rows: rows.map(|row| (row.id, row)).collect(), payments: BTreeMap::new(), refused: 0 }
    }

    /// correctness.md 15: no answer is late because the core was away.
    pub(super) fn start(&mut self, back: u64) {
        let open = self.payments.values_mut().filter(|payment| payment.end.is_none());
        open.for_each(|payment| payment.settle_at = payment.settle_at.max(back));
    }

    pub(super) fn tick(&mut self, at: u64) {
        let open = self.payments.values_mut().filter(|payment| payment.end.is_none());
        open.filter(|payment| payment.settle_at <= at)
            .for_each(|payment| payment.end = Some(OwnEnd::Unanswered));
    }
}

impl Book<'_> {
    /// A person pays from its own account.
    pub(super) fn own(&mut self, at: u64, id: PaymentId) -> Result<(), Broken> {
        let world = self.world;
        let Some(facts) = world.facts.family.own.sent.get(&id) else {
            return Err(("PC-11", format!("a payment {id} that nobody sent")));
        };
        if self.own.payments.contains_key(&id) {
            return Ok(());
        }
        let row = self.own.rows.get(&id).copied();
        let opened_at = row.map(|row| row.opened_at);
        let Some(decided) = self.is_decided(at, &facts.request, facts.not_after, opened_at)? else {
            return Ok(());
        };
        let (payer, order) = (&facts.request.0, &facts.order);
        let is_covered = self.person_minor(payer) >= i128::from(order.amount.minor);
        let (surely, perhaps) = (self.who_could_pay(at, facts, true), self.who_could_pay(at, facts, false));
        let signs = world.plan.people.iter().any(|one| one.principal == *payer && one.signs());
        let reason = if signs {
            Some("verification_needed")
        } else if order.payee == Payee::Person(payer.id.clone()) {
            Some("payee_is_payer")
        } else {
            (!is_covered && surely.is_empty()).then_some("balance_insufficient")
        };
        let heard = self.answered(&facts.request).map(|answer| answer.refused.as_ref());
        let wrong = |what: &str| {
            let text = format!(
                "{payer} pays {order:?} at {at}, covered: {is_covered}, surely {surely:?}, perhaps {perhaps:?}, heard \
                 {heard:?}, {row:?}: {what}"
            );
            Err(("PC-11", text))
        };
        let Some(row) = row.filter(|_| decided.opened) else {
            self.own.refused += 1;
            return match heard {
                Some(Some(code)) if reason == Some(code.as_str()) => Ok(()),
                Some(None) | None if decided.may_be_remembered => Ok(()),
                None if reason.is_some() => Ok(()),
                _ => wrong("is refused"),
            };
        };
        let asked: Vec<PrincipalId> = row.children.iter().cloned().collect();
        let is_right = if is_covered {
            asked.is_empty()
        } else {
            !asked.is_empty()
                && surely.iter().all(|child| asked.contains(child))
                && asked.iter().all(|child| perhaps.contains(child))
        };
        let answer_by = at + self.deadlines.prompt_ms;
        let was_asked = facts.suggested.as_ref().is_none_or(|suggested| {
            suggested.children == row.children && suggested.answer_by.0 >= answer_by && !is_covered
        });
        let as_ordered = row.payer == *payer && row.amount == order.amount && row.payee == order.payee;
        let was_refused = matches!(heard, Some(Some(_))) && !decided.may_be_remembered;
        let is_refusable = reason.is_some_and(|reason| reason != "balance_insufficient");
        if !as_ordered || !is_right || !was_asked || was_refused || is_refusable {
            return wrong("is accepted");
        }
        let settle_at = at + self.deadlines.prompt_ms + self.deadlines.report_ms;
        let end = is_covered.then_some(OwnEnd::Paid);
        if is_covered {
            let amount = i128::from(order.amount.minor);
            self.post(&payer.tenant.to_string(), &format!("person/{}", payer.id), -amount);
            self.pay_to(payer, &order.payee, amount);
        }
        self.own.payments.insert(id, Standing { children: asked, settle_at, end });
        Ok(())
    }

    /// The children that this person may order just that from now. What was given back on the same day may count for their
    /// limits or not.
    fn who_could_pay(&self, at: u64, facts: &OwnFacts, with_given_back: bool) -> Vec<PrincipalId> {
        let children = self.children.keys().map(|child| &child.id);
        let fits = |id: &&PrincipalId| self.reasons_through(at, facts, id, with_given_back).is_empty();
        children.filter(fits).cloned().collect()
    }

    /// Every reason why it can't be paid through this child: those of an order, and what must stay on the account.
    fn reasons_through(
        &self,
        at: u64,
        facts: &OwnFacts,
        child: &PrincipalId,
        with_given_back: bool,
    ) -> Vec<&'static str> {
        let order = order_through(&facts.order, child);
        let order = OrderFacts::new(facts.request.clone(), facts.not_after, order);
        let child = Principal { tenant: facts.request.0.tenant.clone(), id: child.clone() };
        let mut reasons = self.reasons(at, &child, &order, with_given_back);
        let keep = self.world.plan.family.as_ref().map_or(0, |family| family.keep_minor);
        let needed = facts.order.amount.minor + keep;
        if self.children.get(&child).is_none_or(|book| book.available < needed) {
            reasons.push("balance_insufficient");
        }
        reasons
    }

    /// Through a child, or not at all.
    pub(super) fn choose(
        &mut self,
        at: u64,
        request: &RequestKey,
        not_after: Timestamp,
        choice: &SuggestionAnswer,
    ) -> Result<(), Broken> {
        let world = self.world;
        let through = order_id(&request.0, request.1, not_after);
        if self.payments.contains_key(&through) {
            return Ok(());
        }
        let row = self.rows.get(&through).copied();
        let Some(decided) = self.is_decided(at, request, not_after, row.map(|row| row.opened_at))? else {
            return Ok(());
        };
        let reasons = self.choice_reasons(at, &request.0, choice, !decided.opened);
        let heard = self.answered(request).map(|answer| answer.refused.as_ref());
        let wrong = || {
            let text =
                format!("{} chooses {choice:?} at {at}, should be {reasons:?}, heard {heard:?}", request.0);
            Err(("PC-11", text))
        };
        let is_taken = reasons.is_empty() && !matches!(heard, Some(Some(_)));
        let end = match (&choice.child, row.filter(|_| decided.opened)) {
            (Some(child), Some(row)) if is_taken => {
                let Some(facts) = world.facts.family.orders.get(&through) else { return wrong() };
                let child = Principal { tenant: request.0.tenant.clone(), id: child.clone() };
                self.accept(at, through, &child, facts, row)?;
                OwnEnd::Through(through)
            }
            (None, _) if is_taken => OwnEnd::Declined,
            (_, None) => {
                self.refused += u64::from(choice.child.is_some());
                return match heard {
                    Some(Some(code)) if reasons.contains(&code.as_str()) => Ok(()),
                    None if decided.may_be_remembered || !reasons.is_empty() => Ok(()),
                    _ => wrong(),
                };
            }
            _ => return wrong(),
        };
        if let Some(payment) = self.own.payments.get_mut(&choice.payment) {
            payment.end = Some(end);
        }
        Ok(())
    }

    fn choice_reasons(
        &self,
        at: u64,
        by: &Principal,
        choice: &SuggestionAnswer,
        with_given_back: bool,
    ) -> Vec<&'static str> {
        let facts = self.world.facts.family.own.sent.get(&choice.payment);
        let facts = facts.filter(|facts| facts.request.0 == *by);
        let Some((facts, payment)) = facts.zip(self.own.payments.get(&choice.payment)) else {
            return vec!["payment_unknown"];
        };
        if payment.end.is_some() || at > payment.settle_at {
            return vec!["already_ended"];
        }
        match &choice.child {
            None => Vec::new(),
            Some(child) if !payment.children.contains(child) => vec!["not_suggested"],
            Some(child) => self.reasons_through(at, facts, child, with_given_back),
        }
    }

    /// At rest: each has ended as the table says, and who has to know it knows it.
    pub(super) fn audit_own(&self, ends: &mut FamilyEnds) -> Result<(), Broken> {
        for (id, row) in &self.own.rows {
            let facts = self.world.facts.family.own.sent.get(id);
            let Some((facts, payment)) = facts.zip(self.own.payments.get(id)) else {
                return Err(("PC-11", format!("nobody has ordered {row:?}")));
            };
            let wrong =
                |text: &str| Err(("PC-11", format!("{text}: {row:?}, {payment:?}, told {:?}", facts.told)));
            let (Some(end), OwnPhase::Closed { state, through, .. }) = (payment.end, row.phase) else {
                return wrong("a payment from an own account is not at rest");
            };
            let expected = if let OwnEnd::Through(through) = end { Some(through) } else { None };
            if state != end.state() || through != expected {
                return wrong("a payment from an own account ended otherwise");
            }
            if facts.told != self.to_be_told(facts, end) {
                return wrong("somebody was not told how it ended, or otherwise");
            }
            *ends.rows.entry(end.row()).or_default() += 1;
        }
        for (id, facts) in &self.world.facts.family.own.sent {
            let accepted = self.answered(&facts.request).is_some_and(|answer| answer.payment == Some(*id));
            if !self.own.rows.contains_key(id) && (accepted || self.own.payments.contains_key(id)) {
                return Err(("MO-5", format!("{} was told of {id}, and there is none", facts.request.0)));
            }
        }
        if self.own.refused > 0 {
            ends.rows.insert("own: refused", self.own.refused);
        }
        Ok(())
    }

    /// Who hears of the end. Of one that goes through a child, its payment is told; and children have no terminal here.
    fn to_be_told(&self, facts: &OwnFacts, end: OwnEnd) -> BTreeMap<Principal, BTreeSet<Told>> {
        let told = match end {
            OwnEnd::Through(_) => return BTreeMap::new(),
            OwnEnd::Paid => (PaymentState::Settled, facts.order.amount.minor),
            OwnEnd::Declined | OwnEnd::Unanswered => (end.state(), 0),
        };
        let has_terminal = |who: &Principal| self.world.plan.people.iter().any(|one| one.principal == *who);
        let payee = payee_of(facts).filter(|payee| end == OwnEnd::Paid && has_terminal(payee));
        let hear = [facts.request.0.clone()].into_iter().chain(payee);
        hear.map(|who| (who, BTreeSet::from([told]))).collect()
    }
}
