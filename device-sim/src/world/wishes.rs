//! Children who wish for something at their piggy banks and take it back, and guardians who order it, decline it, do both or
//! nothing (PC-12): what they do, and what an onlooker sees of it.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::children::Bonds;
use edge_agent_device::{Device, WishRefusal, WishRequest};
use schemas::ids::{Instance, PaymentId, Principal, PrincipalId, WishId};
use schemas::message::{
    self, PaymentOrder, PaymentState, PaymentStatus, WishDecline, WishKind, WishNotice, WishState,
};
use schemas::money::Money;
use schemas::wire::Text;

use super::facts::Wish;
use super::family::{CATEGORIES, categories};
use super::family_facts::What;
use super::fault::Fault;
use super::lane::Party;
use super::people::Deed;
use super::{Happening, Violation, World, say};

/// What children wish for: each once in a world, so that a wish is known by its words.
const THINGS: [&str; 4] = ["ball", "kite", "drum", "boat"];
/// Tries at a piggy bank that is away, or has no room.
const TRIES: u32 = 5;
/// Payments that a guardian orders for one wish.
const ORDERS: usize = 3;

/// A wish on a child's mind, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct ChildWish {
    pub(super) child: Principal,
    to: PrincipalId,
    thing: &'static str,
    text: Text,
    pub(super) kind: WishKind,
    /// What the text says that it costs.
    amount: Option<Money>,
    tries: u32,
    /// Where the child said it.
    pub(super) said: Option<Said>,
    /// What its piggy bank calls it.
    pub(super) id: Option<WishId>,
    /// The piggy bank has said that it has the wish.
    pub(super) kept: bool,
    /// Where the child took it back, and whether that piggy bank has said that it is so.
    pub(super) taken_back: Option<(Said, bool)>,
}

/// Something was said at a piggy bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) machine: usize,
    pub(super) instance: Instance,
    /// In which run, and up to where its journal has to be on the disk before anybody hears of it.
    run: u64,
    position: u64,
}

/// What a child does at its piggy bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Wishes,
    TakesBack,
}

/// What is wanted, and what was seen.
#[derive(Debug, Default)]
pub(super) struct ChildWishes {
    pub(super) all: Vec<ChildWish>,
    pub(super) declines: Vec<WishDecline>,
    /// What a piggy bank has not answered yet, by its number and its ticket: which wish.
    tickets: BTreeMap<(usize, u64), (usize, Doing)>,
    /// What reached the terminal of a guardian.
    pub(super) told: BTreeMap<(PrincipalId, WishId), BTreeSet<WishState>>,
    /// Who has read what.
    read: BTreeSet<(usize, WishId)>,
    /// Payments whose end a guardian has read.
    ended: BTreeSet<PaymentId>,
}

impl ChildWishes {
    pub(super) fn find(&self, id: WishId) -> Option<&ChildWish> {
        self.all.iter().find(|wish| wish.id == Some(id))
    }
}

/// What children do.
impl World {
    pub(super) fn draw_wishes(&mut self) {
        let Some(family) = &self.plan.family else { return };
        let guards = |bonds: &Bonds| bonds.guardians.iter().cloned().collect::<Vec<_>>();
        let children: Vec<(Principal, Vec<PrincipalId>)> =
            family.children.iter().map(|child| (child.principal.clone(), guards(&child.bonds))).collect();
        let stranger = self.plan.people[family.stranger].principal.id.clone();
        // In small journals no more than end at once.
        let most = (self.core.purchases_at_most() / 3).min(self.options.purchases.unwrap_or(u64::MAX));
        let count = self.random.wishes.range(0, THINGS.len() as u64).min(most);
        for thing in THINGS.into_iter().take(usize::try_from(count).unwrap_or_default()) {
            let is_strange = self.strikes(Fault::WishToStranger);
            let random = &mut self.random.wishes;
            let (child, guardians) = children[random.index(children.len())].clone();
            let to =
                if is_strange { stranger.clone() } else { guardians[random.index(guardians.len())].clone() };
            let euros = random.chance(600).then(|| random.range(1, 12));
            let is_purchase = random.chance(800);
            let text = match (is_purchase, euros) {
                (false, _) => format!("Thank you for the {thing}"),
                (true, None) => format!("I want a {thing}"),
                (true, Some(euros)) => format!("Can I have a {thing} for {euros} euros?"),
            };
            let at = random.range(3_000, self.plan.faults_end_ms * 2 / 3);
            self.facts.family.wish_list.all.push(ChildWish {
                child,
                to,
                thing,
                text: Text::new(text),
                kind: if is_purchase { WishKind::Purchase } else { WishKind::Message },
                amount: euros.filter(|_| is_purchase).map(|euros| self.plan.currency.minor(euros * 100)),
                tries: 0,
                said: None,
                id: None,
                kept: false,
                taken_back: None,
            });
            self.after(at, Happening::ChildWishes(self.facts.family.wish_list.all.len() - 1));
        }
    }

    pub(super) fn child_wishes(&mut self, index: usize) {
        let wish = self.facts.family.wish_list.all[index].clone();
        say!(self, wish.child, "wishes: {}", wish.text);
        let said = self.say_at_piggy_bank(&wish.child, (index, Doing::Wishes), |device, ticket, boot_ms| {
            let request = WishRequest { ticket, to: wish.to.clone(), text: wish.text.to_string() };
            device.handle_wish(&request, boot_ms);
        });
        self.facts.family.wish_list.all[index].said = said;
        if said.is_none() {
            self.wish_again(index);
        }
    }

    fn wish_again(&mut self, index: usize) {
        let wish = &mut self.facts.family.wish_list.all[index];
        wish.tries += 1;
        if wish.tries < TRIES && !self.healed {
            let wait = self.random.wishes.range(1_000, 20_000);
            self.after(wait, Happening::ChildWishes(index));
        }
    }

    pub(super) fn child_takes_back(&mut self, index: usize) {
        let ChildWish { child, id: Some(id), .. } = self.facts.family.wish_list.all[index].clone() else {
            return;
        };
        say!(self, child, "takes the wish {id} back");
        let said = self.say_at_piggy_bank(&child, (index, Doing::TakesBack), |device, ticket, boot_ms| {
            device.handle_wish_withdraw(ticket, id, boot_ms);
        });
        self.facts.family.wish_list.all[index].taken_back = said.map(|said| (said, false));
    }

    /// At the one that the child uses; none: that can't be used now, or shows what somebody else has.
    fn say_at_piggy_bank(
        &mut self,
        child: &Principal,
        what: (usize, Doing),
        say: impl FnOnce(&mut Device, u64, u64),
    ) -> Option<Said> {
        let piggy_bank = self.facts.family.bonds_now().get(child)?.piggy_bank.clone()?;
        let is_it = |machine: &super::plan::MachinePlan| {
            machine.principal.id == piggy_bank && machine.principal.tenant == child.tenant
        };
        let machine = self.plan.machines.iter().position(is_it)?;
        let found = &mut self.machines[machine];
        let shown = found.device().and_then(Device::child_view);
        if shown.is_some_and(|shown| shown.child != child.id) {
            return None;
        }
        found.front.next += 1;
        let (ticket, instance, run) = (found.front.next, found.settings.instance, found.run);
        let position = self.with_device(machine, |device, boot_ms| {
            say(device, ticket, boot_ms);
            device.position().value()
        })?;
        self.facts.family.wish_list.tickets.insert((machine, ticket), what);
        Some(Said { machine, instance, run, position })
    }

    /// The piggy bank says what it made of it.
    pub(super) fn wish_made(
        &mut self,
        machine: usize,
        ticket: u64,
        result: &Result<WishId, WishRefusal>,
    ) -> Result<(), Violation> {
        let wishes = &mut self.facts.family.wish_list;
        let Some((index, doing)) = wishes.tickets.remove(&(machine, ticket)) else { return Ok(()) };
        let wish = &mut wishes.all[index];
        match (doing, result) {
            (Doing::Wishes, Ok(id)) if *wish.id.get_or_insert(*id) == *id => {
                wish.kept = true;
                if self.strikes(Fault::WishTakenBack) {
                    let wait = self.random.of(Fault::WishTakenBack).range(0, 30_000);
                    self.after(wait, Happening::ChildTakesBack(index));
                }
                Ok(())
            }
            (Doing::Wishes, Err(WishRefusal::NoRoom | WishRefusal::NoChild)) => {
                wish.said = None;
                self.wish_again(index);
                Ok(())
            }
            (Doing::TakesBack, Ok(_)) => {
                wish.taken_back.iter_mut().for_each(|(_, kept)| *kept = true);
                Ok(())
            }
            // It has been decided by then, or this piggy bank has never heard of it.
            (Doing::TakesBack, Err(_)) => Ok(()),
            (Doing::Wishes, _) => {
                let text = format!("{} wishes {:?}, and is told {result:?}", wish.child, wish.text);
                Err(self.broken("PC-12", text))
            }
        }
    }
}

/// What guardians do.
impl World {
    /// A guardian reads of a wish.
    pub(super) fn reads_wish(&mut self, index: usize, notice: &WishNotice) {
        let is_new = self.facts.family.wish_list.read.insert((index, notice.wish));
        if notice.state != WishState::Open || !is_new || self.strikes(Fault::WishIgnored) {
            return;
        }
        let wait = self.random.wishes.range(500, 8_000);
        if self.strikes(Fault::WishDeclined) {
            self.decline_after(wait, index, notice.wish, "not this year");
        } else {
            self.order_wish_after(wait, index, notice.wish);
        }
        if self.strikes(Fault::WishAnsweredAgain) {
            let random = self.random.of(Fault::WishAnsweredAgain);
            let (wait, orders) = (wait + random.range(0, 10_000), random.chance(600));
            // Sometimes it is the other guardian, who was not told.
            let guardians = self.plan.family.as_ref().map_or(&[][..], |family| family.guardians.as_slice());
            let other = guardians.iter().copied().find(|other| *other != index);
            let by = other.filter(|_| self.random.wishes.chance(300)).unwrap_or(index);
            if orders {
                self.order_wish_after(wait, by, notice.wish);
            } else {
                self.decline_after(wait, by, notice.wish, "perhaps later");
            }
        }
    }

    fn decline_after(&mut self, wait: u64, by: usize, wish: WishId, reason: &str) {
        let wishes = &mut self.facts.family.wish_list;
        let Some(child) = wishes.find(wish).map(|wish| wish.child.id.clone()) else { return };
        wishes.declines.push(WishDecline { child, wish, reason: Text::new(reason) });
        let decline = wishes.declines.len() - 1;
        self.after(wait, Happening::Act(by, Deed::Ask(Wish::Decline { decline })));
    }

    fn order_wish_after(&mut self, wait: u64, by: usize, id: WishId) {
        let Some(wish) = self.facts.family.wish_list.find(id).cloned() else { return };
        let random = &mut self.random.wishes;
        let amount = wish.amount.unwrap_or_else(|| self.plan.currency.minor(random.range(50, 1_500)));
        let order = PaymentOrder {
            wish: Some(id),
            minimum: random.chance(300).then(|| self.plan.currency.minor(1)),
            ..PaymentOrder::deduction(
                wish.child.id,
                amount,
                categories(&[CATEGORIES[random.index(CATEGORIES.len())]]),
            )
        };
        self.facts.family.wishes.push(order);
        let order = self.facts.family.wishes.len() - 1;
        self.after(wait, Happening::Act(by, Deed::Ask(Wish::Order { order })));
    }

    /// A payment for a wish has ended unpaid: some guardians order it again.
    pub(super) fn heard_of_wish(&mut self, index: usize, status: &PaymentStatus) {
        use PaymentState::{Cancelled, Expired, Refused, Rejected};
        let Some(facts) = self.facts.family.orders.get(&status.payment) else { return };
        let is_own = facts.request.0 == self.plan.people[index].principal;
        let Some(wish) = facts.order.wish.filter(|_| is_own) else { return };
        let is_unpaid = matches!(status.state, Cancelled | Expired | Refused | Rejected);
        let ordered = self.facts.family.wishes.iter().filter(|order| order.wish == Some(wish)).count();
        let is_news = is_unpaid && self.facts.family.wish_list.ended.insert(status.payment);
        if is_news && ordered < ORDERS && !self.healed && self.random.wishes.chance(500) {
            let wait = self.random.wishes.range(500, 20_000);
            self.order_wish_after(wait, index, wish);
        }
    }
}

/// What an onlooker sees.
impl World {
    /// A piggy bank says what its child wishes: that must have been said there, and be on its disk.
    pub(super) fn witness_child_wish(&mut self, index: usize, said: &message::Wish) -> Result<(), Violation> {
        let wishes = &mut self.facts.family.wish_list.all;
        let is_it = |wish: &&mut ChildWish| {
            wish.text == said.text && wish.to == said.to && wish.child.id == said.child
        };
        let Some(wish) = wishes.iter_mut().find(is_it) else {
            return Err(self.broken("PC-12", format!("no child has wished {said:?}")));
        };
        let (at, same) = (wish.said, *wish.id.get_or_insert(said.wish) == said.wish);
        self.witness_said(index, at.filter(|_| same), &format!("{said:?}"))
    }

    /// And that it does not wish for it any more.
    pub(super) fn witness_taking_back(&self, index: usize, wish: WishId) -> Result<(), Violation> {
        let at = self.facts.family.wish_list.find(wish).and_then(|wish| wish.taken_back);
        self.witness_said(index, at.map(|(said, _)| said), &format!("{wish} taken back"))
    }

    fn witness_said(&self, index: usize, said: Option<Said>, what: &str) -> Result<(), Violation> {
        let machine = &self.machines[index];
        let who = &machine.settings.principal;
        let here = |said: &Said| said.machine == index && said.instance == machine.settings.instance;
        let Some(said) = said.filter(here) else {
            return Err(self.broken("PC-12", format!("{who} says {what}, and nobody has said so there")));
        };
        if said.run == machine.run && said.position > machine.synced() {
            let text = format!("{who} says {what} before that is on its disk");
            return Err(self.broken("correctness.md 1 at the device", text));
        }
        Ok(())
    }

    /// A notice leaves for a guardian: the one that the child chose, and as the child said it.
    pub(super) fn witness_notice(&self, to: Party, notice: &WishNotice) -> Result<(), Violation> {
        let who = self.principal(to);
        let wish = self.facts.family.wish_list.find(notice.wish);
        let is_it = |wish: &&ChildWish| {
            let states: &[WishState] = match wish.kind {
                WishKind::Purchase => &[WishState::Open, WishState::Withdrawn],
                WishKind::Message => &[WishState::Delivered],
            };
            wish.to == who.id
                && wish.child == Principal { tenant: who.tenant.clone(), id: notice.child.clone() }
                && wish.text == notice.text
                && (wish.kind, wish.amount) == (notice.kind, notice.amount)
                && notice.keywords.iter().any(|word| word.as_str() == wish.thing)
                && states.contains(&notice.state)
        };
        if wish.filter(is_it).is_none() {
            return Err(self.broken("PC-12", format!("{who} is told {notice:?} of {wish:?}")));
        }
        if self.is_former_guardian(to, notice) {
            return Err(
                self.broken("PC-12", format!("{who} is no guardian any more, and is told {notice:?}"))
            );
        }
        let synced = self.core.driver.as_ref().map_or(0, |driver| driver.journal().synced().value());
        let is_kept = self.facts.family.log.iter().any(|entry| {
            let says_so = match &entry.what {
                What::ChildWish { said, .. } => {
                    said.wish == notice.wish && notice.state != WishState::Withdrawn
                }
                What::TakeBackWish { wish, .. } => {
                    *wish == notice.wish && notice.state == WishState::Withdrawn
                }
                _ => false,
            };
            says_so && !entry.refused && entry.position <= synced
        });
        if !is_kept {
            let text = format!("{who} is told of what is not on disk: {notice:?}");
            return Err(self.broken("MO-5 durable before visible", text));
        }
        Ok(())
    }

    /// Whether the child's bonds had changed before this guardian connected: what was on its way by then may still come.
    fn is_former_guardian(&self, to: Party, notice: &WishNotice) -> bool {
        let who = self.principal(to);
        let Party::Person(index) = to else { return true };
        let connection = self.people[index].connection.and_then(|id| self.connections.get(&id));
        let since = connection.map_or(0, |connection| connection.began_at);
        let bonds = self.facts.family.log.iter().rev().find_map(|entry| match &entry.what {
            What::Bonds { child, bonds } if child.id == notice.child && child.tenant == who.tenant => {
                Some((entry.at, bonds.as_ref().is_some_and(|bonds| bonds.guardians.contains(&who.id))))
            }
            _ => None,
        });
        bonds.is_none_or(|(at, guards)| !guards && at < self.core_time(since))
    }

    /// A notice has reached a terminal.
    pub(super) fn note_notice(&mut self, index: usize, notice: &WishNotice) {
        let who = self.plan.people[index].principal.id.clone();
        self.facts.family.wish_list.told.entry((who, notice.wish)).or_default().insert(notice.state);
    }
}
