//! The book's part of the wishes: the table of `cloud-core/flows/src/child/wish.rs`, applied to what reached the core; and what
//! the core, the piggy banks and the guardians must say at rest (PC-12).

use std::collections::BTreeSet;

use cloud_core_flows::admin::ChildRow;
use cloud_core_flows::children::{self, Bonds};
use edge_agent_device::{Device, WishStanding};
use schemas::ids::{PaymentId, Principal, PrincipalId, WishId};
use schemas::message::{self, WishDecline, WishKind, WishState};
use schemas::wire::Text;

use super::family_audit::FamilyEnds;
use super::family_book::{Book, Broken};
use super::family_facts::What;
use super::machine::Machine;
use super::tap::RequestKey;
use super::wishes::{ChildWish, Said};

/// One wish that was taken in.
#[derive(Debug, Clone)]
struct Standing {
    id: WishId,
    child: Principal,
    to: PrincipalId,
    text: Text,
    state: WishState,
    reason: Option<Text>,
    payment: Option<PaymentId>,
    /// With which step it ended: what ends with the same stands in any order.
    ended: Option<u64>,
}

impl Standing {
    fn end(self, step: u64) -> Self {
        Self { ended: Some(step), ..self }
    }

    fn waits(&self) -> bool {
        matches!(self.state, WishState::Open | WishState::Ordered)
    }
}

/// The book's part of the wishes.
#[derive(Debug, Default)]
pub(super) struct WishBook {
    /// Those that wait in the order of their coming, and the others in the order of their end.
    waiting: Vec<Standing>,
    over: Vec<Standing>,
    refused: BTreeSet<WishId>,
    /// What reached the core so far.
    steps: u64,
}

impl WishBook {
    fn find(&self, id: WishId) -> Option<&Standing> {
        self.waiting.iter().chain(&self.over).find(|wish| wish.id == id)
    }

    pub(super) fn step(&mut self) {
        self.steps += 1;
    }

    fn add(&mut self, wish: Standing) {
        if wish.waits() { self.waiting.push(wish) } else { self.over.push(wish.end(self.steps)) }
    }

    /// A wish that waits becomes something else.
    fn becomes(&mut self, id: WishId, change: impl FnOnce(&mut Standing)) {
        let Some(at) = self.waiting.iter().position(|wish| wish.id == id) else { return };
        change(&mut self.waiting[at]);
        if !self.waiting[at].waits() {
            let over = self.waiting.remove(at);
            self.over.push(over.end(self.steps));
        }
    }

    /// The child is told: first what waits, and then the newest that is over.
    fn of<'a>(&'a self, child: &'a Principal) -> impl Iterator<Item = &'a Standing> {
        self.waiting.iter().chain(self.over.iter().rev()).filter(move |wish| wish.child == *child)
    }

    /// Why this guardian may not order this wish.
    pub(super) fn reason(
        &self,
        child: &Principal,
        by: &Principal,
        wish: Option<WishId>,
    ) -> Option<&'static str> {
        let found = self.find(wish?).filter(|wish| wish.child == *child && wish.to == by.id);
        match found.map(|wish| wish.state) {
            None => Some("wish_unknown"),
            Some(WishState::Open) => None,
            Some(WishState::Ordered) => Some("wish_ordered"),
            Some(_) => Some("wish_ended"),
        }
    }

    pub(super) fn ordered(&mut self, wish: Option<WishId>, payment: PaymentId) {
        let change = |wish: &mut Standing| {
            (wish.state, wish.payment) = (WishState::Ordered, Some(payment));
        };
        wish.into_iter().for_each(|wish| self.becomes(wish, change));
    }

    /// Granted if it was paid, and open again if not.
    pub(super) fn payment_ended(&mut self, payment: PaymentId, is_paid: bool) {
        let is_it = |wish: &&Standing| wish.state == WishState::Ordered && wish.payment == Some(payment);
        let wish = self.waiting.iter().find(is_it).map(|wish| wish.id);
        let state = if is_paid { WishState::Granted } else { WishState::Open };
        wish.into_iter().for_each(|wish| self.becomes(wish, |wish| wish.state = state));
    }

    /// Whoever is no guardian any more grants nothing; and a child that is none any more has no wishes.
    pub(super) fn bonds(&mut self, child: &Principal, bonds: Option<&Bonds>) {
        let Some(bonds) = bonds else {
            self.waiting.retain(|wish| wish.child != *child);
            self.over.retain(|wish| wish.child != *child);
            return;
        };
        let lost = |wish: &&Standing| wish.child == *child && !bonds.guardians.contains(&wish.to);
        let lost: Vec<WishId> = self.waiting.iter().filter(lost).map(|wish| wish.id).collect();
        lost.into_iter().for_each(|wish| self.becomes(wish, |wish| wish.state = WishState::Ended));
    }
}

impl Book<'_> {
    /// A wish reaches the core: it is taken in if it is to a guardian of the child that uses this piggy bank.
    pub(super) fn child_wish(
        &mut self,
        device: &Principal,
        said: &message::Wish,
        is_refused: bool,
    ) -> Result<(), Broken> {
        let Some(wish) = self.world.facts.family.wish_list.find(said.wish) else {
            return Err(("PC-12", format!("no child has wished {said:?}")));
        };
        let user = self.user(device);
        let is_known = self.wishes.find(said.wish).is_some_and(|known| Some(&known.child) == user.as_ref());
        let guards = user.as_ref().and_then(|child| self.bonds_of(child));
        let guards = guards.is_some_and(|bonds| bonds.guardians.contains(&said.to));
        let is_hers = user.as_ref() == Some(&wish.child) && said.child == wish.child.id;
        let is_taken = is_hers && (is_known || guards);
        if is_refused && is_taken {
            return Err(("PC-12", format!("{} wishes {said:?}, and is refused", wish.child)));
        }
        if is_taken && !is_known {
            // Its refusal was not heard, and by now there is no reason for one.
            self.wishes.refused.remove(&said.wish);
            let purchase = wish.kind == WishKind::Purchase;
            self.wishes.add(Standing {
                id: said.wish,
                child: wish.child.clone(),
                to: said.to.clone(),
                text: said.text.clone(),
                state: if purchase { WishState::Open } else { WishState::Delivered },
                reason: None,
                payment: None,
                ended: None,
            });
        } else if !is_taken && self.wishes.find(said.wish).is_none() {
            self.wishes.refused.insert(said.wish);
        }
        Ok(())
    }

    pub(super) fn take_back_wish(
        &mut self,
        device: &Principal,
        id: WishId,
        is_refused: bool,
    ) -> Result<(), Broken> {
        let user = self.user(device);
        let known = self.wishes.find(id).filter(|wish| Some(&wish.child) == user.as_ref());
        let state = known.map(|wish| wish.state);
        let may = matches!(state, Some(WishState::Open | WishState::Withdrawn));
        if is_refused && may {
            return Err(("PC-12", format!("{device} takes {id} back ({state:?}), and is refused")));
        }
        if may {
            self.wishes.becomes(id, |wish| wish.state = WishState::Withdrawn);
        }
        Ok(())
    }

    pub(super) fn decline_wish(&mut self, request: &RequestKey, decline: &WishDecline) -> Result<(), Broken> {
        let child = Principal { tenant: request.0.tenant.clone(), id: decline.child.clone() };
        let guards = self.bonds_of(&child).is_some_and(|bonds| bonds.guardians.contains(&request.0.id));
        let known = self.wishes.find(decline.wish);
        let known = known.filter(|wish| wish.child == child && wish.to == request.0.id && guards);
        let may = known.is_some_and(|wish| match wish.state {
            WishState::Open => true,
            WishState::Declined => wish.reason.as_ref() == Some(&decline.reason),
            _ => false,
        });
        let answer = self.answered(request);
        if answer.is_some_and(|answer| answer.refused.is_none() != may) {
            let text = format!("{} declines {known:?}, and is answered {answer:?}", request.0);
            return Err(("PC-12", text));
        }
        if may {
            self.wishes.becomes(decline.wish, |wish| {
                (wish.state, wish.reason) = (WishState::Declined, Some(decline.reason.clone()));
            });
        }
        Ok(())
    }

    fn bonds_of(&self, child: &Principal) -> Option<&Bonds> {
        self.children.get(child)?.bonds.as_ref()
    }

    /// The child that uses this piggy bank.
    fn user(&self, device: &Principal) -> Option<Principal> {
        let uses = |child: &&Principal| {
            let used = self.bonds_of(child).and_then(|bonds| bonds.piggy_bank.as_ref());
            child.tenant == device.tenant && used == Some(&device.id)
        };
        self.children.keys().find(uses).cloned()
    }

    /// At rest: the core's lists, what piggy banks show, and what guardians were told.
    pub(super) fn audit_wishes(&self, rows: &[ChildRow], ends: &mut FamilyEnds) -> Result<(), Broken> {
        self.audit_wish_lists(rows)?;
        for (child, _, piggy_bank) in self.screens() {
            let device = self.world.screen(child, piggy_bank).and_then(Machine::device);
            device.map_or(Ok(()), |device| self.audit_wishes_shown(child, device))?;
        }
        self.audit_notices()?;
        self.audit_kept_wishes()?;
        for wish in self.wishes.waiting.iter().chain(&self.wishes.over) {
            let Some(row) = row_of(wish.state) else {
                return Err(("PC-12", format!("a payment for it has ended, and it has not: {wish:?}")));
            };
            *ends.rows.entry(row).or_default() += 1;
            let is_done = matches!(wish.state, WishState::Granted | WishState::Delivered);
            if self.world.mix.is_calm_for_families() && !is_done {
                return Err(("calm", format!("nothing went wrong, and nobody has granted {wish:?}")));
            }
        }
        if !self.wishes.refused.is_empty() {
            ends.rows.insert("wish: refused", self.wishes.refused.len() as u64);
        }
        Ok(())
    }

    fn audit_wish_lists(&self, rows: &[ChildRow]) -> Result<(), Broken> {
        for child in self.children.keys().filter(|child| self.bonds_of(child).is_some()) {
            let row = rows.iter().find(|row| row.child == *child);
            let listed = row.into_iter().flat_map(|row| &row.wishes);
            let listed: Vec<_> = listed.map(|row| (row.id, of_core(&row.wish))).collect();
            let expected: Vec<_> =
                self.wishes.of(child).map(|wish| (wish.ended, (wish.id, wish.as_listed()))).collect();
            if row.is_none() || !is_in_order(&listed, &expected) {
                return Err(("PC-12", format!("{child}: {listed:?}, by what happened {expected:?}")));
            }
        }
        Ok(())
    }

    /// What the cloud tells, and besides only what it has not taken in from there, until that is taken back.
    fn audit_wishes_shown(&self, child: &Principal, device: &Device) -> Result<(), Broken> {
        let (mut told, mut refused) = (Vec::new(), BTreeSet::new());
        for wish in device.wishes() {
            match wish.standing {
                WishStanding::Told { state, reason } => told.push((wish.wish, (state, reason))),
                WishStanding::Refused { .. } => drop(refused.insert(wish.wish)),
                WishStanding::Waiting | WishStanding::Sent => {
                    return Err(("PC-12", format!("{child} still reads that it waits: {wish:?}")));
                }
            }
        }
        let expected: Vec<_> = self
            .wishes
            .of(child)
            .map(|wish| (wish.ended, (wish.id, (wish.state, wish.reason.clone()))))
            .collect();
        let (must, may) = self.refused_at(child, device);
        // With another child's view its own list was forgotten.
        let is_forgotten = self.was_anothers(child, device);
        let is_right = (is_forgotten || refused.is_superset(&must))
            && refused.difference(&must).all(|wish| may.contains(wish));
        if !is_in_order(&told, &expected) || !is_right {
            let text = format!(
                "{child} reads {told:?}, not taken {refused:?}; by what happened {expected:?}, {must:?}, perhaps {may:?}"
            );
            return Err(("PC-12, PC-14", text));
        }
        Ok(())
    }

    /// What was said to this piggy bank, and was not taken in: what the child has not taken back, and what it has perhaps.
    fn refused_at(&self, child: &Principal, device: &Device) -> (BTreeSet<WishId>, BTreeSet<WishId>) {
        let is_here = |said: &Said| {
            let machine = &self.world.machines[said.machine];
            let is_it = machine.device().is_some_and(|found| std::ptr::eq(found, device));
            is_it && machine.settings.instance == said.instance
        };
        let all = self.world.facts.family.wish_list.all.iter();
        let here = all.filter(|wish| wish.child == *child && wish.said.as_ref().is_some_and(is_here));
        let refused = here.filter(|wish| wish.id.is_some_and(|id| self.wishes.refused.contains(&id)));
        let perhaps = |wish: &&ChildWish| wish.taken_back.is_some();
        let (may, must): (Vec<_>, Vec<_>) = refused.partition(perhaps);
        let may = may.into_iter().filter(|wish| wish.taken_back.is_some_and(|(_, kept)| !kept));
        (must.into_iter().filter_map(|wish| wish.id).collect(), may.filter_map(|wish| wish.id).collect())
    }

    fn was_anothers(&self, child: &Principal, device: &Device) -> bool {
        let name = device.status(0).principal;
        let is_it = |id: &PrincipalId| format!("{}/{id}", child.tenant) == name;
        self.world.facts.family.log.iter().any(|entry| match &entry.what {
            What::Bonds { child: of, bonds: Some(bonds) } => {
                of != child && bonds.piggy_bank.as_ref().is_some_and(is_it)
            }
            _ => false,
        })
    }

    /// Guardians know of what waits for them, of what was said to them, and of what was taken back.
    fn audit_notices(&self) -> Result<(), Broken> {
        for wish in self.wishes.waiting.iter().chain(&self.wishes.over) {
            let guards = self.bonds_of(&wish.child).is_some_and(|bonds| bonds.guardians.contains(&wish.to));
            let told = self.world.facts.family.wish_list.told.get(&(wish.to.clone(), wish.id));
            let told = |state| told.is_some_and(|told| told.contains(&state));
            let knows = match wish.state {
                WishState::Open | WishState::Delivered | WishState::Withdrawn => told(wish.state),
                _ => true,
            };
            let is_so = wish.state == WishState::Withdrawn || !told(WishState::Withdrawn);
            if guards && !knows || !is_so {
                return Err(("PC-12", format!("{} was not told, or otherwise: {wish:?}", wish.to)));
            }
        }
        Ok(())
    }

    /// What a piggy bank has said that it has got, has reached the core.
    fn audit_kept_wishes(&self) -> Result<(), Broken> {
        let is_here = |said: &Said| {
            let machine = &self.world.machines[said.machine];
            !machine.revoked && machine.settings.instance == said.instance
        };
        let log = &self.world.facts.family.log;
        for wish in &self.world.facts.family.wish_list.all {
            let Some(id) = wish.id else { continue };
            let came = |what: &What| matches!(what, What::ChildWish { said, .. } if said.wish == id);
            let came_back = |what: &What| matches!(what, What::TakeBackWish { wish, .. } if *wish == id);
            let is_lost = wish.kept && wish.said.as_ref().is_some_and(is_here);
            if is_lost && !log.iter().any(|entry| came(&entry.what)) {
                return Err(("PC-12", format!("the wish has never arrived: {wish:?}")));
            }
            let taken = wish.taken_back.as_ref().is_some_and(|(said, kept)| *kept && is_here(said));
            // One that the cloud has refused is only forgotten.
            let was_refused = self.wishes.refused.contains(&id);
            if taken && !was_refused && !log.iter().any(|entry| came_back(&entry.what)) {
                return Err(("PC-12", format!("that it was taken back has never arrived: {wish:?}")));
            }
        }
        Ok(())
    }
}

/// To whom, in which words, how it stands, what was said against it, and for which payment it was ordered last.
type Listed<'a> = (&'a PrincipalId, &'a Text, WishState, &'a Option<Text>, Option<PaymentId>);

impl Standing {
    fn as_listed(&self) -> Listed<'_> {
        (&self.to, &self.text, self.state, &self.reason, self.payment)
    }
}

fn of_core(wish: &children::Wish) -> Listed<'_> {
    (&wish.to, &wish.text, wish.state, &wish.reason, wish.payment)
}

/// Whether it is what was expected, in that order; what ended with the same step stands in any.
fn is_in_order<T: PartialEq>(found: &[(WishId, T)], expected: &[(Option<u64>, (WishId, T))]) -> bool {
    let mut rest = found;
    let same_step = |a: &(Option<u64>, _), b: &(Option<u64>, _)| a.0.is_some() && a.0 == b.0;
    for group in expected.chunk_by(same_step) {
        let Some((now, later)) = rest.split_at_checked(group.len()) else { return false };
        if !group.iter().all(|(_, wish)| now.contains(wish)) {
            return false;
        }
        rest = later;
    }
    rest.is_empty()
}

/// None: it waits for the end of a payment.
fn row_of(state: WishState) -> Option<&'static str> {
    Some(match state {
        WishState::Open => "wish: open",
        WishState::Granted => "wish: granted",
        WishState::Declined => "wish: declined",
        WishState::Withdrawn => "wish: taken back",
        WishState::Ended => "wish: guardianship ended",
        WishState::Delivered => "wish: delivered",
        WishState::Ordered => return None,
    })
}
