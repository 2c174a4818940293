//! A naive book of children's money: the outcome table of the parent-child payment, applied to what reached the core in
//! the order in which it did. It is written from the table and knows nothing of the flow.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::admin::{ChildPaymentRow, Deadlines};
use cloud_core_flows::children::Bonds;
use schemas::ids::{PaymentId, Principal, PrincipalId};
use schemas::message::{
    AllowanceSchedule, ChildAllowance, ChildAnswer, ChildLimits, Payee, PaymentState, Position, RequestAnswer,
};
use schemas::time::Timestamp;

use super::World;
use super::codes::is_paid_with_code;
use super::family::{DAY_MS, zone_min};
use super::family_facts::{Entry, OrderFacts, What, allowance_id};
use super::own::OwnBook;
use super::plan::PersonKind;
use super::tap::RequestKey;
use super::wish_book::WishBook;

const REQUEST_LIFE_MS: u64 = 24 * 3_600_000;

/// How a child's payment has ended, by the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Settled,
    Rejected,
    Expired,
    Cancelled,
    PiggyBankGone,
    GuardianshipEnded,
    NotIdentified,
    GivenBack,
}

impl End {
    pub(super) fn state(self) -> PaymentState {
        match self {
            End::Settled => PaymentState::Settled,
            End::Rejected => PaymentState::Rejected,
            End::Expired => PaymentState::Expired,
            End::Cancelled => PaymentState::Cancelled,
            End::PiggyBankGone | End::GuardianshipEnded | End::NotIdentified => PaymentState::Refused,
            End::GivenBack => PaymentState::Refunded,
        }
    }
}

/// One payment that was ordered and accepted.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) child: Principal,
    pub(super) guardian: Principal,
    pub(super) piggy_bank: Principal,
    pub(super) amount: u64,
    pub(super) opened_at: u64,
    day: u64,
    pub(super) settle_at: u64,
    /// When its code expires, once there is one.
    pub(super) code_until: Option<u64>,
    pub(super) end: Option<End>,
    /// An answer came that did not count any more.
    pub(super) answered_late: bool,
    /// Its piggy bank was revoked or enrolled anew since.
    pub(super) orphaned: bool,
    payee: Payee,
}

#[derive(Debug, Default)]
pub(super) struct ChildBook {
    pub(super) available: u64,
    pub(super) bonds: Option<Bonds>,
    limits: Option<ChildLimits>,
}

/// The children's money and payments.
pub(super) struct Book<'a> {
    pub(super) world: &'a World,
    pub(super) rows: BTreeMap<PaymentId, &'a ChildPaymentRow>,
    pub(super) deadlines: Deadlines,
    pub(super) children: BTreeMap<Principal, ChildBook>,
    revoked: BTreeSet<Principal>,
    /// Requests that were decided, and until when they are remembered.
    pub(super) used: BTreeMap<RequestKey, Timestamp>,
    pub(super) payments: BTreeMap<PaymentId, Standing>,
    /// Of payments from people's own accounts.
    pub(super) own: OwnBook<'a>,
    pub(super) wishes: WishBook,
    /// Payments that have ended, and when; the last word of each counts.
    pub(super) results: BTreeMap<PaymentId, u64>,
    now: u64,
    /// What each account of the family's tenant has by children's payments and their deposits, in minor units.
    pub(super) accounts: BTreeMap<String, i128>,
    /// Allowances as they were set, and whether the first one is still to come.
    allowances: BTreeMap<(Principal, PrincipalId), (AllowanceSchedule, bool)>,
    /// Payments of allowances that fell due: whether they were made.
    pub(super) allowed: BTreeMap<PaymentId, bool>,
    pub(super) refused: u64,
    /// More than one row was right.
    pub(super) either: Vec<&'static str>,
}

/// A request was decided just then.
pub(super) struct Decided {
    /// The payment that it asks for began.
    pub(super) opened: bool,
    /// The core may have taken it for an earlier one under the same key.
    pub(super) may_be_remembered: bool,
}

/// A rule that does not hold.
pub(super) type Broken = (&'static str, String);

impl<'a> Book<'a> {
    pub(super) fn new(world: &'a World, rows: &'a [ChildPaymentRow]) -> Option<Self> {
        let family = world.plan.family.as_ref()?;
        let mut book = Self {
            world,
            rows: rows.iter().map(|row| (row.payment, row)).collect(),
            deadlines: world.plan.tenants[family.tenant].deadlines,
            children: BTreeMap::new(),
            revoked: BTreeSet::new(),
            used: BTreeMap::new(),
            payments: BTreeMap::new(),
            own: OwnBook::new(world),
            wishes: WishBook::default(),
            results: BTreeMap::new(),
            now: 0,
            accounts: BTreeMap::new(),
            allowances: BTreeMap::new(),
            allowed: BTreeMap::new(),
            refused: 0,
            either: Vec::new(),
        };
        for child in &family.children {
            let available = child.wealth.minor;
            book.children.insert(child.principal.clone(), ChildBook { available, ..ChildBook::default() });
            book.post(
                &child.principal.tenant.to_string(),
                &format!("person/{}", child.principal.id),
                available.into(),
            );
        }
        Some(book)
    }

    /// What each child has, and the piggy bank where it reads that.
    pub(super) fn screens(&self) -> impl Iterator<Item = (&Principal, u64, &PrincipalId)> {
        self.children.iter().filter_map(|(child, book)| {
            let piggy_bank = book.bonds.as_ref()?.piggy_bank.as_ref()?;
            Some((child, book.available, piggy_bank))
        })
    }

    /// Everything that reached the core, in its order.
    pub(super) fn walk(&mut self) -> Result<(), Broken> {
        let world = self.world;
        world.facts.family.log.iter().try_for_each(|entry| self.apply(entry))
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), Broken> {
        let at = entry.at;
        self.now = at;
        self.wishes.step();
        match &entry.what {
            What::Start => {
                // correctness.md 15: no answer is late because the core was away.
                let back = at + self.deadlines.reconnect_ms;
                self.open().for_each(|payment| payment.settle_at = payment.settle_at.max(back));
                self.own.start(back);
            }
            What::Tick { has_room } => {
                self.end_where(|payment| (payment.settle_at <= at).then_some(End::Expired));
                self.own.tick(at);
                // On a full disk they wait.
                if *has_room {
                    self.pay_allowances(at);
                }
            }
            What::Bonds { child, bonds } => {
                let gone = |payment: &Standing| {
                    let guards =
                        bonds.as_ref().is_some_and(|now| now.guardians.contains(&payment.guardian.id));
                    let used = bonds.as_ref().and_then(|now| now.piggy_bank.as_ref());
                    let used = used == Some(&payment.piggy_bank.id);
                    match (payment.child == *child, guards, used) {
                        (false, ..) | (_, true, true) => None,
                        (_, false, _) => Some(End::GuardianshipEnded),
                        (_, true, false) => Some(End::PiggyBankGone),
                    }
                };
                self.end_where(gone);
                self.allowances.retain(|(of, guardian), _| {
                    of != child || bonds.as_ref().is_some_and(|now| now.guardians.contains(guardian))
                });
                self.wishes.bonds(child, bonds.as_ref());
                if let Some(found) = self.children.get_mut(child) {
                    found.bonds = bonds.clone();
                }
            }
            What::Revoked(device) => {
                if self.revoked.insert(device.clone()) {
                    self.device_gone(device);
                }
            }
            What::Enrolled(device) => {
                self.revoked.remove(device);
                self.device_gone(device);
            }
            What::Order(id) => return self.order(at, *id),
            What::Own(id) => return self.own(at, *id),
            What::Choose { request, not_after, choice } => {
                return self.choose(at, request, *not_after, choice);
            }
            What::Limits { request, not_after, limits } => {
                if self.is_new(at, request, *not_after) {
                    return self.limits(request, limits);
                }
            }
            What::Allowance { request, not_after, set } => {
                if self.is_new(at, request, *not_after) {
                    return self.allow(at, request, set);
                }
            }
            What::Cancel { request, not_after, payment } => {
                if self.is_new(at, request, *not_after) {
                    return self.cancel(request, *payment);
                }
            }
            What::GiveBack { request, not_after, payment } => {
                if self.is_new(at, request, *not_after) {
                    return self.give_back(request, *payment);
                }
            }
            What::Answer { device, payment, answer, position, identified } => {
                self.answer(at, device, *payment, *answer, position.as_ref(), *identified);
            }
            What::ChildWish { device, said } => return self.child_wish(device, said, entry.refused),
            What::TakeBackWish { device, wish } => return self.take_back_wish(device, *wish, entry.refused),
            What::DeclineWish { request, not_after, decline } => {
                if self.is_new(at, request, *not_after) {
                    return self.decline_wish(request, decline);
                }
            }
            What::Scan { request, not_after, scan, scanned_at } => {
                if self.is_new(at, request, *not_after) {
                    return self.scan(at, request, *scan, scanned_at.0);
                }
            }
        }
        Ok(())
    }

    fn open(&mut self) -> impl Iterator<Item = &mut Standing> {
        self.payments.values_mut().filter(|payment| payment.end.is_none())
    }

    fn end_where(&mut self, ends: impl Fn(&Standing) -> Option<End>) {
        let ending: Vec<(PaymentId, End)> = self
            .payments
            .iter()
            .filter(|(_, payment)| payment.end.is_none())
            .filter_map(|(id, payment)| Some((*id, ends(payment)?)))
            .collect();
        ending.into_iter().for_each(|(id, end)| self.end(id, end));
    }

    /// The reservation ends with the payment: it is posted, or there again.
    pub(super) fn end(&mut self, id: PaymentId, end: End) {
        let Some(payment) = self.payments.get_mut(&id) else { return };
        payment.end = Some(end);
        let payment = payment.clone();
        self.wishes.payment_ended(id, end == End::Settled);
        self.results.insert(id, self.now);
        let amount = i128::from(payment.amount);
        let sign = match end {
            End::Settled => 1,
            End::GivenBack => -1,
            _ => 0,
        };
        let tenant = payment.child.tenant.to_string();
        self.post(&tenant, &format!("person/{}", payment.child.id), -sign * amount);
        self.pay_to(&payment.child, &payment.payee, sign * amount);
        if end != End::Settled
            && let Some(child) = self.children.get_mut(&payment.child)
        {
            child.available += payment.amount;
        }
    }

    pub(super) fn post(&mut self, tenant: &str, account: &str, minor: i128) {
        *self.accounts.entry(format!("{tenant}/{account}")).or_default() += minor;
    }

    /// To the account of somebody of the same tenant as `payer`, who may be a child.
    pub(super) fn pay_to(&mut self, payer: &Principal, payee: &Payee, minor: i128) {
        self.post(&payer.tenant.to_string(), &payee.to_string(), minor);
        if let Payee::Person(id) = payee {
            let child = Principal { tenant: payer.tenant.clone(), id: id.clone() };
            let book = self.children.get_mut(&child);
            book.into_iter().for_each(|book| book.available = moved(book.available, minor));
        }
    }

    /// What a guardian's account has: nothing of it is ever reserved.
    pub(super) fn person_minor(&self, person: &Principal) -> i128 {
        let planned = self.world.plan.people.iter().find(|one| one.principal == *person);
        let wealth = planned.map_or(0, |planned| i128::from(planned.wealth.minor));
        let moved = self.accounts.get(&format!("{}/person/{}", person.tenant, person.id));
        wealth + moved.copied().unwrap_or_default()
    }

    fn device_gone(&mut self, device: &Principal) {
        for payment in self.payments.values_mut().filter(|payment| payment.piggy_bank == *device) {
            payment.orphaned = true;
        }
        self.end_where(|payment| (payment.piggy_bank == *device).then_some(End::PiggyBankGone));
    }

    /// MO-3: a request counts once, and within its life.
    pub(super) fn is_new(&mut self, at: u64, request: &RequestKey, not_after: Timestamp) -> bool {
        let is_remembered = self.used.get(request).is_some_and(|until| until.0 >= at);
        let in_time = not_after.0 >= at && not_after.0 <= at + REQUEST_LIFE_MS;
        if is_remembered || !in_time {
            return false;
        }
        self.used.insert(request.clone(), not_after);
        true
    }

    /// Whether a request was decided when it reached the core. `opened_at`: when the payment that it asks for began, if
    /// there is one.
    pub(super) fn is_decided(
        &mut self,
        at: u64,
        request: &RequestKey,
        not_after: Timestamp,
        opened_at: Option<Timestamp>,
    ) -> Result<Option<Decided>, Broken> {
        // The core forgets a key with its first event after that key's end: until then it may still be refused.
        let may_be_remembered = self.used.contains_key(request);
        if opened_at.is_some_and(|opened_at| opened_at.0 == at) {
            if not_after.0 < at {
                return Err(("MO-3", format!("{request:?} is taken after the end of its life")));
            }
            self.used.insert(request.clone(), not_after);
            return Ok(Some(Decided { opened: true, may_be_remembered }));
        }
        let is_new = opened_at.is_none() && self.is_new(at, request, not_after);
        Ok(is_new.then_some(Decided { opened: false, may_be_remembered }))
    }

    pub(super) fn answered(&self, request: &RequestKey) -> Option<&'a RequestAnswer> {
        self.world.facts.requests.get(request).and_then(|request| request.answer.as_ref())
    }
}

/// Orders and limits.
impl Book<'_> {
    fn order(&mut self, at: u64, id: PaymentId) -> Result<(), Broken> {
        let world = self.world;
        let Some(facts) = world.facts.family.orders.get(&id) else {
            return Err(("PC-1", format!("an order for {id} that nobody sent")));
        };
        if self.payments.contains_key(&id) {
            return Ok(());
        }
        let by = &facts.request.0;
        let child = Principal { tenant: by.tenant.clone(), id: facts.order.child.clone() };
        let row = self.rows.get(&id).copied();
        let opened_at = row.map(|row| row.opened_at);
        let Some(decided) = self.is_decided(at, &facts.request, facts.not_after, opened_at)? else {
            return Ok(());
        };
        if let Some(row) = row.filter(|_| decided.opened) {
            if let Some(reason) = self.reasons(at, &child, facts, false).first() {
                return Err(("PC-1", format!("{by} orders from {child}, and should be refused: {reason}")));
            }
            return self.accept(at, id, &child, facts, row);
        }
        // Decided here, and refused.
        let reasons = self.reasons(at, &child, facts, true);
        let heard = self.answered(&facts.request).map(|answer| answer.refused.as_ref());
        self.refused += 1;
        match heard {
            Some(Some(code)) if reasons.contains(&code.as_str()) => Ok(()),
            Some(None) | None if decided.may_be_remembered => Ok(()),
            None if !reasons.is_empty() => Ok(()),
            _ => Err((
                "PC-1",
                format!("{by} orders {:?}, has heard {heard:?}, and should be {reasons:?}", facts.order),
            )),
        }
    }

    pub(super) fn accept(
        &mut self,
        at: u64,
        id: PaymentId,
        child: &Principal,
        facts: &OrderFacts,
        row: &ChildPaymentRow,
    ) -> Result<(), Broken> {
        let Some(book) = self.children.get_mut(child) else { return Ok(()) };
        let bound = book.bonds.as_ref().and_then(|bonds| bonds.piggy_bank.clone());
        let Some(bound) = bound else { return Ok(()) };
        let amount = facts.order.amount.minor.min(book.available);
        book.available -= amount;
        let piggy_bank = Principal { tenant: child.tenant.clone(), id: bound };
        let payee = self.world.payee(facts);
        let as_ordered = row.guardian == facts.request.0
            && row.child == *child
            && row.piggy_bank == piggy_bank
            && row.payee == payee
            && row.amount.minor == amount
            && row.ordered == facts.order.amount
            && row.categories == facts.order.categories;
        if !as_ordered {
            return Err(("PC-8", format!("{row:?} should take {amount} for {payee} at {piggy_bank}")));
        }
        let standing = Standing {
            child: child.clone(),
            guardian: facts.request.0.clone(),
            piggy_bank,
            amount,
            opened_at: at,
            day: local(child_zone(self.world, child), at) / DAY_MS,
            settle_at: at + self.deadlines.prompt_ms + self.deadlines.report_ms,
            code_until: None,
            end: None,
            answered_late: false,
            orphaned: false,
            payee,
        };
        self.payments.insert(id, standing);
        self.wishes.ordered(facts.order.wish, id);
        Ok(())
    }

    /// Every reason to refuse an order. What was given back on the same day may count for its limits or not.
    pub(super) fn reasons(
        &self,
        at: u64,
        child: &Principal,
        facts: &OrderFacts,
        with_given_back: bool,
    ) -> Vec<&'static str> {
        let order = &facts.order;
        let Some(book) = self.children.get(child) else { return vec!["not_guardian"] };
        let guards = |bonds: &Bonds| bonds.guardians.contains(&facts.request.0.id);
        let Some(bonds) = book.bonds.as_ref().filter(|bonds| guards(bonds)) else {
            return vec!["not_guardian"];
        };
        let mut reasons: Vec<_> =
            self.wishes.reason(child, &facts.request.0, order.wish).into_iter().collect();
        let piggy_bank = bonds.piggy_bank.clone().map(|id| Principal { tenant: child.tenant.clone(), id });
        if piggy_bank.is_none_or(|device| self.revoked.contains(&device)) {
            reasons.push("piggy_bank_revoked");
        }
        let is_code = is_paid_with_code(order);
        let places = self.world.plan.family.iter().flat_map(|family| &family.places);
        let named =
            order.place.as_ref().and_then(|place| places.into_iter().find(|one| one.place.place == *place));
        if named.is_some_and(|entry| !entry.place.takes(&order.categories)) {
            reasons.push("wrong_category");
        }
        if is_code && !matches!(self.world.payee(facts), Payee::Merchant(_)) {
            reasons.push("payee_not_merchant");
        }
        let least = order.minimum.map_or(order.amount.minor, |minimum| minimum.minor.max(1));
        if book.available < least {
            reasons.push("balance_insufficient");
        }
        if self.world.payee(facts) == Payee::Person(child.id.clone()) {
            reasons.push("payee_is_child");
        }
        let amount = order.amount.minor.min(book.available);
        let Some(limits) = &book.limits else { return reasons };
        let local = local(child_zone(self.world, child), at);
        let minute = u16::try_from(local % DAY_MS / 60_000).unwrap_or_default();
        if limits.quiet_hours.is_some_and(|hours| hours.contains(minute)) {
            reasons.push("quiet_hours");
        }
        if limits.per_payment.is_some_and(|limit| amount > limit.minor) {
            reasons.push("over_payment_limit");
        }
        let counts = |payment: &&(&PaymentId, &Standing)| {
            let (_, payment) = payment;
            let taken = match payment.end {
                None | Some(End::Settled) => true,
                Some(End::GivenBack) => with_given_back,
                Some(_) => false,
            };
            payment.child == *child && payment.day == local / DAY_MS && taken
        };
        let today: Vec<(&PaymentId, &Standing)> = self.payments.iter().filter(|one| counts(&one)).collect();
        let spent: u64 = today.iter().map(|(_, payment)| payment.amount).sum();
        if limits.per_day.is_some_and(|limit| spent + amount > limit.minor) {
            reasons.push("over_day_limit");
        }
        for category in order.categories.iter() {
            let of = |id: &PaymentId| self.world.facts.family.orders.get(id);
            let counted = |id: &PaymentId| {
                of(id).is_some_and(|facts| facts.order.categories.iter().any(|one| one == category))
            };
            let spent: u64 =
                today.iter().filter(|(id, _)| counted(id)).map(|(_, payment)| payment.amount).sum();
            if limits.per_category_and_day.of(category).is_some_and(|limit| spent + amount > limit.minor) {
                reasons.push("over_category_limit");
            }
        }
        reasons
    }

    /// PC-13: guardians set limits, and nobody else.
    fn limits(&mut self, request: &RequestKey, limits: &ChildLimits) -> Result<(), Broken> {
        let child = Principal { tenant: request.0.tenant.clone(), id: limits.child.clone() };
        let answer = self.answered(request);
        let guards = self.children.get(&child).and_then(|book| book.bonds.as_ref());
        let guards = guards.is_some_and(|bonds| bonds.guardians.contains(&request.0.id));
        if answer.is_some_and(|answer| answer.refused.is_none() != guards) {
            let text = format!("{} limits {child}, guards it: {guards}, is answered {answer:?}", request.0);
            return Err(("PC-13", text));
        }
        if guards && let Some(book) = self.children.get_mut(&child) {
            book.limits = Some(limits.clone());
        }
        Ok(())
    }
}

/// Allowances (PC-14). The second payment of one lies beyond the end of every world.
impl Book<'_> {
    fn allow(&mut self, at: u64, request: &RequestKey, set: &ChildAllowance) -> Result<(), Broken> {
        let child = Principal { tenant: request.0.tenant.clone(), id: set.child.clone() };
        let answer = self.answered(request);
        let bonds = self.children.get(&child).and_then(|book| book.bonds.as_ref());
        let guards = bonds.is_some_and(|bonds| bonds.guardians.contains(&request.0.id));
        let key = (child, request.0.id.clone());
        let is_known = self.allowances.get(&key).map(|(schedule, _)| *schedule) == set.schedule;
        let may = guards && (is_known || set.schedule.is_none_or(|schedule| schedule.first_at.0 > at));
        if answer.is_some_and(|answer| answer.refused.is_none() != may) {
            let text =
                format!("{} sets {set:?} at {at}, should succeed: {may}, is answered {answer:?}", request.0);
            return Err(("PC-14", text));
        }
        match set.schedule {
            _ if !may || is_known => {}
            Some(schedule) => drop(self.allowances.insert(key, (schedule, true))),
            None => drop(self.allowances.remove(&key)),
        }
        Ok(())
    }

    /// In the order in which they fell due: who has too little for the second one may have paid the first.
    fn pay_allowances(&mut self, at: u64) {
        let due =
            self.allowances.iter().filter(|(_, (schedule, is_due))| *is_due && schedule.first_at.0 <= at);
        let mut due: Vec<(AllowanceSchedule, Principal, PrincipalId)> = due
            .map(|((child, guardian), (schedule, _))| (*schedule, child.clone(), guardian.clone()))
            .collect();
        due.sort_by_key(|(schedule, child, guardian)| (schedule.first_at, child.clone(), guardian.clone()));
        for (schedule, child, guardian) in due {
            let amount = schedule.amount.minor;
            let payer = format!("person/{guardian}");
            let person = Principal { tenant: child.tenant.clone(), id: guardian.clone() };
            let is_paid = self.person_minor(&person) >= i128::from(amount);
            if is_paid {
                let tenant = child.tenant.to_string();
                self.post(&tenant, &payer, -i128::from(amount));
                self.post(&tenant, &format!("person/{}", child.id), i128::from(amount));
                if let Some(book) = self.children.get_mut(&child) {
                    book.available += amount;
                }
            }
            self.allowed.insert(allowance_id(&child, &guardian, schedule.first_at), is_paid);
            self.allowances.insert((child, guardian), (schedule, false));
        }
    }
}

/// What ends a payment.
impl Book<'_> {
    /// PC-4: the first answer of the piggy bank that was asked, by `settle_at`.
    fn answer(
        &mut self,
        at: u64,
        device: &Principal,
        id: PaymentId,
        answer: ChildAnswer,
        position: Option<&Position>,
        identified: bool,
    ) {
        let Some(payment) = self.payments.get_mut(&id).filter(|payment| payment.piggy_bank == *device) else {
            return;
        };
        if payment.end.is_some() || at > payment.settle_at {
            payment.answered_late |=
                !matches!(payment.end, Some(End::Settled | End::Rejected | End::GivenBack));
            return;
        }
        let order = self.world.facts.family.orders.get(&id).map(|facts| &facts.order);
        let is_code = order.is_some_and(is_paid_with_code);
        let identify = order.and_then(|order| order.identify) == Some(true);
        match answer {
            // Its first word counted.
            _ if payment.code_until.is_some() => {}
            ChildAnswer::Reject => self.end(id, End::Rejected),
            ChildAnswer::Confirm if identify && !identified => self.end(id, End::NotIdentified),
            ChildAnswer::Confirm if is_code => {
                // To the second, as a code says it.
                let until = (at
                    + self.validity_ms(id, position.filter(|position| position.at.0 + 300_000 >= at)))
                .div_ceil(1_000)
                    * 1_000;
                let report_ms = self.deadlines.report_ms;
                if let Some(payment) = self.payments.get_mut(&id) {
                    (payment.code_until, payment.settle_at) = (Some(until), until + report_ms);
                }
            }
            ChildAnswer::Confirm => self.end(id, End::Settled),
        }
    }

    fn cancel(&mut self, request: &RequestKey, id: PaymentId) -> Result<(), Broken> {
        let answer = self.answered(request);
        let own = self.payments.get(&id).filter(|payment| payment.guardian == request.0);
        let end = own.map(|payment| payment.end);
        if end == Some(None) {
            self.end(id, End::Cancelled);
        }
        let may = matches!(end, Some(None | Some(End::Cancelled)));
        if answer.is_some_and(|answer| answer.refused.is_none() != may) {
            let text = format!("{} withdraws {id} ({end:?}), and is answered {answer:?}", request.0);
            return Err(("outcome table: cancelled", text));
        }
        Ok(())
    }

    /// Whether a guardian's account covers what would be given back. Of others more is going on than this book has.
    fn covers(&self, payee: &Principal, payment: &Standing) -> Option<bool> {
        let found = self.world.plan.people.iter().find(|one| one.principal == *payee)?;
        let is_guardian = found.kind == PersonKind::Guardian;
        is_guardian.then(|| self.person_minor(payee) >= i128::from(payment.amount))
    }

    /// PC-15: whoever got a settled payment may give it back, once, if their account covers it.
    fn give_back(&mut self, request: &RequestKey, id: PaymentId) -> Result<(), Broken> {
        let answer = self.answered(request);
        let speaks = self.world.payee_of(id).as_ref() == Some(&request.0);
        let settled = self.payments.get(&id).is_some_and(|payment| payment.end == Some(End::Settled));
        let may = speaks && settled;
        let covered = self.payments.get(&id).and_then(|payment| self.covers(&request.0, payment));
        let accepted = match answer {
            Some(answer) => answer.refused.is_none(),
            // Nobody heard the answer: by what the operator sees.
            None => {
                let back = may && self.rows.get(&id).is_some_and(|row| row.state == PaymentState::Refunded);
                let back = back && covered != Some(false);
                if back {
                    self.either.push("given back by an order whose answer was lost");
                }
                back
            }
        };
        let poor = answer.and_then(|answer| answer.refused.as_ref());
        let poor = poor.is_some_and(|code| code.as_str() == "payee_account") && covered != Some(true);
        if accepted && !may || answer.is_some() && may && !accepted && !poor {
            let text =
                format!("{} gives {id} back (settled: {settled}), and is answered {answer:?}", request.0);
            return Err(("PC-15", text));
        }
        if accepted {
            self.end(id, End::GivenBack);
        }
        Ok(())
    }
}

fn moved(available: u64, minor: i128) -> u64 {
    u64::try_from(i128::from(available) + minor).unwrap_or(0)
}

fn child_zone(world: &World, child: &Principal) -> i64 {
    let children = world.plan.family.iter().flat_map(|family| &family.children);
    let found = children.into_iter().find(|found| found.principal == *child);
    found.map_or(0, |found| zone_min(&found.bonds.time_zone))
}

/// Milliseconds since 1970 as a clock in that zone shows them.
fn local(ahead_min: i64, at: u64) -> u64 {
    at.saturating_add_signed(ahead_min * 60_000)
}
