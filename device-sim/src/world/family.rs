//! Families: children with piggy banks, guardians who order, limit and withdraw, a stranger who tries, and an operator
//! who binds another piggy bank or ends a guardianship while a prompt is open (PC-1, PC-2, PC-13).

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::admin::{AdminCommand, BankKind};
use cloud_core_flows::children::Bonds;
use cloud_core_flows::places::{CodeRulesChange, RegisteredPlace};
use schemas::ids::{CategoryId, Principal, PrincipalId};
use schemas::message::{
    AllowanceSchedule, Categories, CategoryAmounts, ChildAllowance, ChildLimits, Every, Payee, PaymentOrder,
    PaymentState, PaymentStatus, ResultTo,
};
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas::wire::Text;

use super::codes;
use super::facts::Wish;
use super::family_facts::What;
use super::fault::{Fault, Mix};
use super::people::Deed;
use super::plan::{MachineKind, PersonKind, Plan, name};
use super::random::{Random, Streams};
use super::{EPOCH_MS, Happening, Violation, World, say};

/// Zones whose clocks do not change in the days in which the worlds live, and how far ahead of UTC they are.
pub(super) const ZONES: [(&str, i64); 5] = [
    ("UTC", 0),
    ("Asia/Shanghai", 480),
    ("Asia/Kolkata", 330),
    ("America/Phoenix", -420),
    ("Europe/Berlin", 60),
];
pub(super) const DAY_MS: u64 = 86_400_000;
pub(super) const CATEGORIES: [&str; 3] = ["toys", "sweets", "school"];

/// A child and who and what belongs to it at first.
pub(super) struct ChildPlan {
    pub(super) principal: Principal,
    pub(super) wealth: Money,
    pub(super) bonds: Bonds,
}

/// The family of a world.
pub(super) struct FamilyPlan {
    pub(super) tenant: usize,
    pub(super) children: Vec<ChildPlan>,
    /// Guardians, as indexes of people.
    pub(super) guardians: Vec<usize>,
    /// Somebody with an account who guards nobody.
    pub(super) stranger: usize,
    /// Terminals of the two places, as indexes of people.
    pub(super) till: usize,
    pub(super) stall: usize,
    pub(super) places: Vec<RegisteredPlace>,
    /// Piggy banks, as indexes of machines; one more than there are children.
    piggy_banks: Vec<usize>,
    orders: u64,
    /// What must stay on a child's account when a payment is suggested to go through it.
    pub(super) keep_minor: u64,
}

/// What the operator does to a child's bonds, and says again to a core that has started since.
#[derive(Debug, Clone)]
pub(super) struct FamilyErrand {
    child: Principal,
    /// None: it is a child no more.
    bonds: Option<Bonds>,
    /// In which run of the core it was last said, under which ticket.
    said: Option<(u64, u64)>,
}

impl Plan {
    /// About half of the worlds with accounts of ours have a family. It has a stream of its own: the others stay as
    /// they were.
    pub(super) fn draw_family(&mut self, random: &mut Streams, mix: &Mix) -> Result<(), Violation> {
        let internal = |tenant: &super::plan::TenantPlan| tenant.bank == BankKind::Internal;
        let Some(tenant) = self.tenants.iter().position(internal) else { return Ok(()) };
        if !random.family.chance(500) {
            return Ok(());
        }
        let calm = mix.is_calm();
        let id = self.tenants[tenant].id.clone();
        if !calm {
            self.tenants[tenant].deadlines.prompt_ms = random.family.range(8_000, 60_000);
        }
        let mut guardians = Vec::new();
        let names: &[&str] = if random.family.chance(700) { &["mum", "dad"] } else { &["mum"] };
        for name in names {
            guardians.push(self.people.len());
            // Some have too little for what they want to pay.
            let is_rich = calm || random.own.chance(300);
            let wealth = self.currency.minor(if is_rich { 10_000 } else { random.own.range(0, 1_500) });
            self.add_person(
                &mut random.family,
                &format!("{id}/{name}"),
                tenant,
                PersonKind::Guardian,
                wealth,
            )?;
        }
        let zone = ZONES[random.family.index(ZONES.len())];
        self.epoch_ms = draw_epoch(&mut random.family, zone.1, self.faults_end_ms);
        let children: &[&str] = if random.family.chance(600) { &["mia", "leo"] } else { &["mia"] };
        let mut piggy_banks = Vec::new();
        for number in 0..=children.len() {
            piggy_banks.push(self.machines.len());
            self.add_machine(random, mix, &format!("{id}/piggy-{number}"), tenant, MachineKind::PiggyBank)?;
        }
        let mut plans = Vec::new();
        for (number, child) in children.iter().enumerate() {
            // A second child may have only one of two guardians.
            let all = number == 0 || random.family.chance(500);
            let guarding = names.iter().take(if all { names.len() } else { 1 });
            let guards: Result<BTreeSet<PrincipalId>, Violation> = guarding.map(|text| name(text)).collect();
            let poor = random.of(Fault::Poor).chance(mix.permille(Fault::Poor));
            let wealth = if calm {
                100_000
            } else if poor {
                random.family.range(0, 300)
            } else {
                random.family.range(500, 9_000)
            };
            plans.push(ChildPlan {
                principal: name(&format!("{id}/{child}"))?,
                wealth: self.currency.minor(wealth),
                bonds: Bonds {
                    guardians: guards?,
                    piggy_bank: Some(self.machines[piggy_banks[number]].principal.id.clone()),
                    receiving: if random.family.chance(300) {
                        Some(Payee::Merchant(self.merchant.clone()))
                    } else {
                        None
                    },
                    time_zone: zone.0.to_owned(),
                },
            });
        }
        let stranger = self.people.iter().position(|person| person.tenant == tenant).unwrap_or(0);
        let orders = if calm { random.family.range(1, 3) } else { random.family.range(3, 9) };
        let is_till = |person: &super::plan::PersonPlan| person.tenant == tenant && person.is_till;
        let till = self.people.iter().position(is_till).unwrap_or(0);
        let stall = self.people.len();
        let nothing = self.currency.minor(0);
        self.add_person(&mut random.family, &format!("{id}/stall"), tenant, PersonKind::Scanner, nothing)?;
        let places = codes::places(&self.merchant)?;
        if !calm {
            self.tenants[tenant].code_rules = codes::draw_rules(&mut random.family);
        }
        self.family = Some(FamilyPlan {
            tenant,
            children: plans,
            guardians,
            stranger,
            till,
            stall,
            places,
            piggy_banks,
            orders,
            keep_minor: [0, 0, 300][random.own.index(3)],
        });
        Ok(())
    }

    /// What the operator says of the family before the world begins.
    pub(super) fn family_commands(&self) -> Vec<AdminCommand> {
        let mut commands = Vec::new();
        for child in self.family.iter().flat_map(|family| &family.children) {
            commands.push(AdminCommand::CreatePerson {
                person: child.principal.clone(),
                public_key: None,
                bank_account: None,
            });
            if child.wealth.minor > 0 {
                commands.push(AdminCommand::Deposit {
                    person: child.principal.clone(),
                    amount: child.wealth,
                    reference: "pocket money".to_owned(),
                });
            }
        }
        if let Some(family) = &self.family {
            let tenant = &self.tenants[family.tenant].id;
            commands.extend(codes::place_commands(tenant, &family.places));
            commands.push(AdminCommand::ChangeTenant {
                tenant: tenant.clone(),
                bank_url: None,
                on_unknown: None,
                deadlines: BTreeMap::new(),
                code_rules: CodeRulesChange::default(),
                child_keep_minor: Some(family.keep_minor),
            });
        }
        commands
    }
}

/// In half of the worlds the family's midnight falls into its troubles.
fn draw_epoch(random: &mut Random, ahead_min: i64, faults_end_ms: u64) -> u64 {
    if random.chance(500) {
        return EPOCH_MS;
    }
    let local = EPOCH_MS.saturating_add_signed(ahead_min * 60_000) % DAY_MS;
    EPOCH_MS + (DAY_MS - local) - random.range(3_000, faults_end_ms * 2 / 3)
}

/// The family begins.
impl World {
    pub(super) fn found_family(&mut self) -> Result<(), Violation> {
        let Some(family) = &self.plan.family else { return Ok(()) };
        let children: Vec<(Principal, Bonds)> =
            family.children.iter().map(|child| (child.principal.clone(), child.bonds.clone())).collect();
        for (child, bonds) in children {
            self.operate_now(AdminCommand::BindChild { child: child.clone(), bonds: bonds.clone() })?;
            self.note_family(What::Bonds { child, bonds: Some(bonds) });
        }
        Ok(())
    }

    /// Orders and limits, all of them in the first two thirds.
    pub(super) fn draw_orders(&mut self) {
        let Some(family) = &self.plan.family else { return };
        let (guardians, stranger) = (family.guardians.clone(), family.stranger);
        let orders = self.options.purchases.unwrap_or(u64::MAX).min(family.orders);
        let orders = orders.min(self.core.purchases_at_most() / 2);
        let calm = self.mix.is_calm();
        let mut at = 0;
        for _ in 0..orders {
            let by = guardians[self.random.family.index(guardians.len())];
            let order = self.draw_order();
            self.facts.family.wishes.push(order);
            // Two guardians at once; and one who orders soon again.
            at = match self.random.family.index(4) {
                0 if at > 0 => at + self.random.family.range(0, 40),
                1 if at > 0 => at + self.random.family.range(500, 20_000),
                _ => self.random.family.range(3_000, self.plan.faults_end_ms * 2 / 3),
            };
            let order = self.facts.family.wishes.len() - 1;
            self.after(at, Happening::Act(by, Deed::Ask(Wish::Order { order })));
            if self.strikes(Fault::StrangerOrders) {
                let order = self.draw_order();
                self.facts.family.wishes.push(order);
                let order = self.facts.family.wishes.len() - 1;
                let wait = at + self.random.of(Fault::StrangerOrders).range(0, 10_000);
                self.after(wait, Happening::Act(stranger, Deed::Ask(Wish::Order { order })));
            }
        }
        let limits = if calm { 0 } else { self.random.family.index(3) };
        for _ in 0..limits {
            let by = if self.strikes(Fault::StrangerOrders) {
                stranger
            } else {
                guardians[self.random.family.index(guardians.len())]
            };
            let limits = self.draw_limits();
            self.facts.family.limit_wishes.push(limits);
            let limits = self.facts.family.limit_wishes.len() - 1;
            let at = self.random.family.range(1_000, self.plan.faults_end_ms / 2);
            self.after(at, Happening::Act(by, Deed::Ask(Wish::Limit { limits })));
        }
    }

    /// Allowances that fall due while things go wrong: set, set otherwise, ended.
    pub(super) fn draw_allowances(&mut self) {
        let Some(family) = &self.plan.family else { return };
        let (guardians, stranger) = (family.guardians.clone(), family.stranger);
        let count = self.random.family.index(if self.mix.is_calm() { 2 } else { 5 });
        for _ in 0..count {
            let by = if self.strikes(Fault::StrangerOrders) {
                stranger
            } else {
                guardians[self.random.family.index(guardians.len())]
            };
            let at = self.random.family.range(1_000, self.plan.faults_end_ms / 2);
            let child = self.a_child();
            let first_at = Timestamp(EPOCH_MS.max(self.plan.epoch_ms) + at);
            let random = &mut self.random.family;
            let schedule = random.chance(850).then(|| AllowanceSchedule {
                amount: self.plan.currency.minor(random.range(1, 7_000)),
                every: if random.chance(500) { Every::Week } else { Every::Month },
                first_at: first_at.plus_ms(random.range(500, 60_000)),
            });
            let allowance = self.facts.family.allowance_wishes.len();
            self.facts.family.allowance_wishes.push(ChildAllowance { child, schedule });
            self.after(at, Happening::Act(by, Deed::Ask(Wish::Allow { allowance })));
        }
    }

    fn a_child(&mut self) -> PrincipalId {
        let children: Vec<PrincipalId> = self
            .plan
            .family
            .iter()
            .flat_map(|family| &family.children)
            .map(|c| c.principal.id.clone())
            .collect();
        children[self.random.family.index(children.len())].clone()
    }

    fn draw_order(&mut self) -> PaymentOrder {
        let child = self.a_child();
        let merchant = self.plan.merchant.clone();
        let currency = self.plan.currency;
        let random = &mut self.random.family;
        // Now and then more than a child has.
        let minor = if random.chance(150) { random.range(1_500, 9_000) } else { random.range(50, 1_500) };
        let payee = match random.index(8) {
            0 => Some(Payee::Guardian),
            1 => "person/ann".parse().ok(),
            2 | 3 => Some(Payee::Merchant(merchant)),
            _ => None,
        };
        let first = random.index(CATEGORIES.len());
        let count = 1 + random.index(2);
        let names: Vec<&str> =
            (first..first + count).map(|index| CATEGORIES[index % CATEGORIES.len()]).collect();
        let categories = categories(&names);
        let order = PaymentOrder {
            minimum: random.chance(400).then(|| currency.minor(random.range(0, minor))),
            payee,
            note: random.chance(300).then(|| Text::new("as we said")),
            tell: [None, Some(ResultTo::Both), Some(ResultTo::Guardian), Some(ResultTo::PiggyBank)]
                [random.index(4)],
            identify: random.chance(350).then_some(true),
            ..PaymentOrder::deduction(child, currency.minor(minor), categories)
        };
        codes::draw_mode(random, order, &self.plan.merchant)
    }

    fn draw_limits(&mut self) -> ChildLimits {
        let child = self.a_child();
        let currency = self.plan.currency;
        let zone =
            self.plan.family.as_ref().map_or(0, |family| zone_min(&family.children[0].bonds.time_zone));
        let begins = EPOCH_MS.max(self.plan.epoch_ms);
        let random = &mut self.random.family;
        let amount =
            |random: &mut Random, most| random.chance(500).then(|| currency.minor(random.range(100, most)));
        let per_payment = amount(random, 1_500);
        let per_day = amount(random, 3_000);
        let by_category: BTreeMap<CategoryId, Money> =
            CATEGORIES.iter().filter_map(|name| Some((name.parse().ok()?, amount(random, 2_000)?))).collect();
        let local = begins.saturating_add_signed(zone * 60_000) % DAY_MS / 60_000;
        let from = (local + random.range(0, 6)) % 1_440;
        let to = (from + random.range(1, 5)) % 1_440;
        let hours = format!("{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60);
        let quiet_hours = if random.chance(300) { hours.parse().ok() } else { None };
        ChildLimits {
            child,
            per_payment,
            per_day,
            per_category_and_day: CategoryAmounts::new(by_category).unwrap_or_default(),
            quiet_hours,
        }
    }
}

pub(super) fn categories(names: &[&str]) -> Categories {
    let names: Vec<CategoryId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    Categories::new(names).unwrap_or_else(|error| unreachable!("{error}"))
}

/// Minutes ahead of UTC.
pub(super) fn zone_min(zone: &str) -> i64 {
    ZONES.iter().find(|(name, _)| *name == zone).map_or(0, |(_, ahead)| *ahead)
}

/// What people do about an order once they hear of it.
impl World {
    pub(super) fn order_answered(&mut self, index: usize, payment: schemas::ids::PaymentId) {
        // That nobody shall pay is answered with the payment from the own account.
        if self.facts.family.orders.contains_key(&payment) && self.strikes(Fault::Cancel) {
            let most = [3_000, 10_000, 90_000][self.random.family.index(3)];
            let wait = self.random.of(Fault::Cancel).range(0, most);
            // Sometimes it is the other guardian who tries: it is not theirs to withdraw.
            let others = self.plan.family.as_ref().map_or(&[][..], |family| family.guardians.as_slice());
            let other = others.iter().copied().find(|other| *other != index);
            let by = other.filter(|_| self.random.family.chance(200)).unwrap_or(index);
            self.after(wait, Happening::Act(by, Deed::Ask(Wish::Cancel { payment })));
        }
    }

    /// A status of a child's payment has reached a terminal. Whoever got the money may give it back.
    pub(super) fn heard_family_status(&mut self, index: usize, status: &PaymentStatus) {
        let who = self.plan.people[index].principal.clone();
        let is_payee = self.payee_of(status.payment).as_ref() == Some(&who);
        if is_payee && status.state == PaymentState::Settled && self.strikes(Fault::MerchantRefund) {
            let wait = self.random.of(Fault::MerchantRefund).range(0, 30_000);
            let payment = status.payment;
            self.after(wait, Happening::Act(index, Deed::Ask(Wish::Refund { payment })));
        }
    }
}

/// The operator.
impl World {
    /// Once a second: another piggy bank, or a guardian fewer, now and then; more likely while a prompt is open.
    pub(super) fn trouble_family(&mut self) -> Result<(), Violation> {
        let Some(family) = &self.plan.family else { return Ok(()) };
        let children: Vec<Principal> = family.children.iter().map(|child| child.principal.clone()).collect();
        if self.facts.family.errand.is_none() {
            let child = children[self.random.family.index(children.len())].clone();
            let likely = if self.has_open_order(&child) { 40 } else { 3 };
            if self.random.family.chance(likely) && self.strikes(Fault::PiggyBankSwapped) {
                self.swap_piggy_bank(child);
            } else if self.random.family.chance(likely / 2) && self.strikes(Fault::GuardianshipEnded) {
                self.end_guardianship(child);
            }
        }
        self.run_family_errand()
    }

    fn has_open_order(&self, child: &Principal) -> bool {
        let mut payments = self.core.cloud().into_iter().flat_map(|cloud| cloud.child_payments());
        payments.any(|payment| payment.child == *child && !payment.at_rest())
    }

    fn swap_piggy_bank(&mut self, child: Principal) {
        let now = self.facts.family.bonds_now();
        let used: BTreeSet<&PrincipalId> =
            now.values().filter_map(|bonds| bonds.piggy_bank.as_ref()).collect();
        let family = self.plan.family.as_ref().map_or(&[][..], |family| family.piggy_banks.as_slice());
        let free = family.iter().filter(|index| !self.machines[**index].is_gone());
        let free: Vec<PrincipalId> = free
            .map(|index| self.plan.machines[*index].principal.id.clone())
            .filter(|id| !used.contains(id))
            .collect();
        let Some(bonds) = now.get(&child).cloned() else { return };
        if free.is_empty() {
            return;
        }
        let piggy_bank = Some(free[self.random.family.index(free.len())].clone());
        let bonds = Some(Bonds { piggy_bank, ..bonds });
        self.facts.family.errand = Some(FamilyErrand { child, bonds, said: None });
    }

    /// Of one of two; or, where there is only one, the child is a child no more.
    fn end_guardianship(&mut self, child: Principal) {
        let Some(mut bonds) = self.facts.family.bonds_now().get(&child).cloned() else { return };
        let guardians: Vec<PrincipalId> = bonds.guardians.iter().cloned().collect();
        bonds.guardians.remove(&guardians[self.random.family.index(guardians.len())]);
        let bonds = if bonds.guardians.is_empty() { None } else { Some(bonds) };
        self.facts.family.errand = Some(FamilyErrand { child, bonds, said: None });
    }

    /// Says it, or says it again to a core that has started since.
    pub(super) fn run_family_errand(&mut self) -> Result<(), Violation> {
        let Some(errand) = self.facts.family.errand.clone().filter(|_| self.core.driver.is_some()) else {
            return Ok(());
        };
        let run = self.core.run;
        match errand.said {
            Some((said, ticket)) if said == run => {
                if self.core.has_reply(ticket) {
                    self.facts.family.errand = None;
                    if let Some(Err(why)) = self.core.replies.remove(&ticket) {
                        return Err(self.broken("operator", format!("bonds of {}: {why}", errand.child)));
                    }
                }
                Ok(())
            }
            _ => {
                let device = errand.bonds.as_ref().and_then(|bonds| bonds.piggy_bank.clone());
                let device = device.map(|id| Principal { tenant: errand.child.tenant.clone(), id });
                if device.is_some_and(|device| self.facts.family.is_revoked(&device)) {
                    // Gone before anybody could bind it.
                    self.facts.family.errand = None;
                    return Ok(());
                }
                let child = errand.child.clone();
                say!(self, "operator", "binds {child}: {:?}", errand.bonds);
                let command = match errand.bonds.clone() {
                    Some(bonds) => AdminCommand::BindChild { child: child.clone(), bonds },
                    None => AdminCommand::UnbindChild { child: child.clone() },
                };
                let ticket = self.operate(command)?;
                self.note_family(What::Bonds { child, bonds: errand.bonds.clone() });
                self.facts.family.errand = Some(FamilyErrand { said: Some((run, ticket)), ..errand });
                Ok(())
            }
        }
    }
}
