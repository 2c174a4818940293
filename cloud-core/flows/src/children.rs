//! Children: who guards them, which piggy bank they use, and how much they may spend when (PC-1, PC-2, PC-13).

mod wish;

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::{TimeZone, TimeZoneDatabase};
use schemas::ids::{CategoryId, Principal, PrincipalId, TenantId};
use schemas::message::{Categories, ChildLimits, Goals, Payee, PaymentState, ShownResult};
use schemas::money::{Currency, Money};
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::admin::{AdminCommand, BankKind};
pub use crate::child::allowance::Allowance;
use crate::child::wish::shortened;
use crate::limits;
use crate::payment::ChildPayment;
use crate::registry::{Registry, Standing};
use crate::rejection::Rejection;
pub use wish::{Results, Wish, Wishes};

/// A person whose account guardians may order payments from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// What an operator has registered.
    pub bonds: Bonds,
    /// What a guardian has set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ChildLimits>,
    /// What it saves for (PC-14).
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub goals: Goals,
    /// What its guardians pay to it by themselves (PC-14).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub allowances: BTreeMap<PrincipalId, Allowance>,
    /// What it wishes for (PC-12).
    #[serde(default, skip_serializing_if = "Wishes::is_empty")]
    pub wishes: Wishes,
    /// How its last payments ended, for its piggy bank to show.
    #[serde(default, skip_serializing_if = "Results::is_empty")]
    pub results: Results,
    /// Its payments in memory: open ones, and closed ones until their retention ends.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) kept: u32,
    /// What its payments have taken, or reserved, on the last day that had one.
    pub(crate) spent: Spent,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_nothing(goals: &Goals) -> bool {
    *goals == Goals::default()
}

/// Who and what belongs to a child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bonds {
    /// Who may order payments and set limits, 1 to [`limits::GUARDIANS_OF_CHILD`].
    pub guardians: BTreeSet<PrincipalId>,
    /// The device that the child uses.
    pub piggy_bank: Option<PrincipalId>,
    /// Who gets the money where an order names nobody; if left out, the guardian who orders.
    #[serde(default)]
    pub receiving: Option<Payee>,
    /// Where the child's days begin and end: a name of the IANA time zone database (`Europe/Berlin`).
    pub time_zone: String,
}

/// What was spent on one day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spent {
    day: i32,
    minor: u64,
    by_category: BTreeMap<CategoryId, u64>,
}

impl Spent {
    pub(crate) fn add(&mut self, day: i32, minor: u64, categories: &Categories) {
        if day > self.day {
            *self = Self { day, ..Self::default() };
        }
        self.minor = self.minor.saturating_add(minor);
        for category in categories.iter() {
            let spent = self.by_category.entry(category.clone()).or_default();
            *spent = spent.saturating_add(minor);
        }
    }

    /// It was not spent after all. What an earlier day has back changes nothing today.
    pub(crate) fn take_back(&mut self, day: i32, minor: u64, categories: &Categories) {
        if day != self.day {
            return;
        }
        self.minor = self.minor.saturating_sub(minor);
        for category in categories.iter() {
            if let Some(spent) = self.by_category.get_mut(category) {
                *spent = spent.saturating_sub(minor);
            }
        }
        // Names that came and went leave nothing.
        self.by_category.retain(|_, spent| *spent > 0);
    }
}

/// A moment in a child's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalTime {
    /// Days since 1970.
    pub(crate) day: i32,
    /// 0 to 1439.
    pub(crate) minute: u16,
}

impl Child {
    fn new(bonds: Bonds) -> Self {
        Self {
            bonds,
            limits: None,
            goals: Goals::default(),
            allowances: BTreeMap::new(),
            wishes: Wishes::default(),
            results: Results::default(),
            kept: 0,
            spent: Spent::default(),
        }
    }

    /// A day never comes back, also where the time zone was changed.
    pub(crate) fn local_time(&self, now: Timestamp) -> LocalTime {
        let local = local_time(&self.bonds.time_zone, now);
        LocalTime { day: local.day.max(self.spent.day), ..local }
    }

    /// What the payments of that day have taken or reserved, in minor units.
    pub(crate) fn spent_on_day_of(&self, now: Timestamp) -> u64 {
        if self.local_time(now).day == self.spent.day { self.spent.minor } else { 0 }
    }

    /// What one of its payments has come to: `ends` where it was open until now.
    pub(crate) fn payment_ended(&mut self, payment: &ChildPayment, state: PaymentState, ends: bool) {
        let of_categories =
            || payment.categories.iter().map(CategoryId::as_str).collect::<Vec<_>>().join(", ");
        let what = payment.note.as_ref().map_or_else(of_categories, ToString::to_string);
        let what = shortened(&what, schemas::limits::SHOWN_WISH_BYTES);
        self.results
            .add(payment.id, ShownResult { what, amount: payment.amount, state, at: payment.moved_at });
        if let Some(wish) = payment.wish.filter(|_| ends) {
            let is_guarded = self.bonds.guardians.contains(&payment.guardian.id);
            self.wishes.paid(wish, payment.id, state == PaymentState::Settled, is_guarded);
        }
    }

    /// PC-13: the ladder of limits, in this order.
    pub(crate) fn check_limits(
        &self,
        amount: Money,
        categories: &Categories,
        at: LocalTime,
    ) -> Result<(), Rejection> {
        let Some(limits) = &self.limits else { return Ok(()) };
        if let Some(hours) = limits.quiet_hours.filter(|hours| hours.contains(at.minute)) {
            let text = format!("it is quiet time ({hours}): nothing is paid until it is over");
            return Err(Rejection::new("quiet_hours", text));
        }
        if let Some(limit) = limits.per_payment.filter(|limit| amount.minor > limit.minor) {
            let text = format!("{amount} is more than one payment may take ({limit})");
            return Err(Rejection::new("over_payment_limit", text));
        }
        let (spent, by_category) = if at.day == self.spent.day {
            (self.spent.minor, Some(&self.spent.by_category))
        } else {
            (0, None)
        };
        let left = |limit: Money, spent: u64| limit.currency.minor(limit.minor.saturating_sub(spent));
        if let Some(limit) = limits.per_day.filter(|limit| spent.saturating_add(amount.minor) > limit.minor) {
            let left = left(limit, spent);
            let text = format!("{amount} is more than is left for today ({left} of {limit})");
            return Err(Rejection::new("over_day_limit", text));
        }
        for category in categories.iter() {
            let Some(limit) = limits.per_category_and_day.of(category) else { continue };
            let spent = by_category.and_then(|all| all.get(category)).copied().unwrap_or_default();
            if spent.saturating_add(amount.minor) > limit.minor {
                let left = left(limit, spent);
                let text = format!("{amount} is more than is left for {category} today ({left} of {limit})");
                return Err(Rejection::new("over_category_limit", text));
            }
        }
        Ok(())
    }
}

/// The zone's rules are those that this release was built with.
pub(crate) fn time_zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

fn local_time(zone: &str, now: Timestamp) -> LocalTime {
    const DAY_S: i64 = 86_400;
    let zone = time_zone(zone).unwrap_or(TimeZone::UTC);
    let seconds = i64::try_from(now.0 / 1_000).unwrap_or_default();
    let utc = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let local = utc.as_second() + i64::from(zone.to_offset(utc).seconds());
    LocalTime {
        day: i32::try_from(local.div_euclid(DAY_S)).unwrap_or(i32::MAX),
        minute: u16::try_from(local.rem_euclid(DAY_S) / 60).unwrap_or_default(),
    }
}

impl Registry {
    /// A child, if this person is one.
    pub fn child(&self, child: &Principal) -> Option<&Child> {
        self.children.get(child)
    }

    /// The child whose piggy bank this is.
    pub(crate) fn child_using(&self, device: &Principal) -> Option<&Principal> {
        self.piggy_banks.get(device)
    }

    /// Everybody whom this person guards.
    pub(crate) fn children_of(&self, guardian: &Principal) -> impl Iterator<Item = (&Principal, &Child)> {
        let wards = self.wards.get(guardian).into_iter().flatten();
        wards.filter_map(|child| self.children.get_key_value(child))
    }

    /// A child that this person guards, or is.
    pub(crate) fn child_of(&self, person: &Principal) -> Option<&Principal> {
        let concerns = |(name, child): &(&Principal, &Child)| {
            *name == person || child.bonds.guardians.contains(&person.id) || {
                child.bonds.receiving.as_ref() == Some(&Payee::Person(person.id.clone()))
            }
        };
        self.of_tenant(&person.tenant).find(concerns).map(|(child, _)| child)
    }

    /// A child whose money this payee gets where an order names nobody.
    pub(crate) fn child_receiving_at(&self, tenant: &TenantId, payee: &Payee) -> Option<&Principal> {
        let names = |child: &Child| child.bonds.receiving.as_ref() == Some(payee);
        self.of_tenant(tenant).find(|(_, child)| names(child)).map(|(child, _)| child)
    }

    fn of_tenant(&self, tenant: &TenantId) -> impl Iterator<Item = (&Principal, &Child)> {
        self.children.iter().filter(move |(child, _)| child.tenant == *tenant)
    }

    /// Whether binding changes something.
    pub(crate) fn check_child(&self, child: &Principal, bonds: &Bonds) -> Result<bool, Rejection> {
        let tenant = self.require_tenant(&child.tenant)?;
        self.require_person(child)?;
        if tenant.bank != BankKind::Internal {
            return Err(no_internal_account());
        }
        if bonds.guardians.is_empty() || bonds.guardians.len() > limits::GUARDIANS_OF_CHILD {
            return Err(Rejection::new("guardians_invalid", "a child has 1 to 8 guardians"));
        }
        let of_tenant = |id: &PrincipalId| Principal { tenant: child.tenant.clone(), id: id.clone() };
        for guardian in &bonds.guardians {
            self.require_person(&of_tenant(guardian))?;
        }
        if bonds.guardians.contains(&child.id) {
            return Err(Rejection::new("own_guardian", "nobody is their own guardian: name somebody else"));
        }
        if let Some(id) = &bonds.piggy_bank {
            let device = of_tenant(id);
            if self.require_device(&device)?.standing == Standing::Revoked {
                let text = format!("`{device}` was revoked: enrol it anew, or bind another one");
                return Err(Rejection::new("piggy_bank_revoked", text));
            }
            if let Some(other) = self.child_using(&device).filter(|other| *other != child) {
                let text = format!("`{device}` is the piggy bank of `{other}`: unbind that first");
                return Err(Rejection::new("piggy_bank_taken", text));
            }
        }
        if let Some(payee) = &bonds.receiving {
            self.require_payee(child, payee)?;
        }
        if time_zone(&bonds.time_zone).is_none() {
            let name: String = bonds.time_zone.chars().filter(|c| !c.is_control()).take(48).collect();
            let text = format!("no time zone `{name}`: write a name like Europe/Berlin or Asia/Shanghai");
            return Err(Rejection::new("time_zone_unknown", text));
        }
        Ok(self.child(child).map(|found| &found.bonds) != Some(bonds))
    }

    /// That this payee has an account, and another one than the child's.
    pub(crate) fn require_payee(&self, child: &Principal, payee: &Payee) -> Result<(), Rejection> {
        match payee {
            Payee::Guardian => Ok(()),
            Payee::Person(id) if *id == child.id => {
                Err(Rejection::new("payee_is_child", "a child's money can't go to the same account"))
            }
            Payee::Person(id) => {
                self.require_person(&Principal { tenant: child.tenant.clone(), id: id.clone() }).map(|_| ())
            }
            Payee::Merchant(id) => self.require_merchant(&child.tenant, id).map(|_| ()),
        }
    }

    /// Applies what was checked. Replay: total.
    pub(crate) fn bind_child(&mut self, command: AdminCommand) {
        match command {
            AdminCommand::BindChild { child, bonds } => {
                let entry = self.children.get(&child).cloned();
                let mut entry = entry.unwrap_or_else(|| Child::new(bonds.clone()));
                // Who is no guardian any more pays no allowance any more.
                entry.allowances.retain(|guardian, _| bonds.guardians.contains(guardian));
                entry.wishes.keep_those_to(|guardian| bonds.guardians.contains(guardian));
                entry.bonds = bonds;
                self.put_child(&child, Some(entry));
            }
            AdminCommand::UnbindChild { child } => self.put_child(&child, None),
            _ => {}
        }
    }

    /// This entry in place of the one that there is, with what is derived from it.
    pub(crate) fn put_child(&mut self, child: &Principal, entry: Option<Child>) {
        let due = |entry: &Child| -> Vec<_> {
            let due = entry.allowances.iter();
            due.map(|(guardian, allowance)| (allowance.next_at, child.clone(), guardian.clone())).collect()
        };
        let device = |entry: &Child| {
            let id = entry.bonds.piggy_bank.clone();
            id.map(|id| Principal { tenant: child.tenant.clone(), id })
        };
        if let Some(former) = self.children.remove(child) {
            if let Some(device) = device(&former) {
                self.piggy_banks.remove(&device);
            }
            for due in due(&former) {
                self.allowances_due.remove(&due);
            }
            self.list_wards(child, &former, false);
        }
        if let Some(entry) = entry {
            self.allowances_due.extend(due(&entry));
            self.piggy_banks.extend(device(&entry).map(|device| (device, child.clone())));
            self.list_wards(child, &entry, true);
            self.children.insert(child.clone(), entry);
        }
    }

    /// What a snapshot leaves out because it follows from the rest.
    pub(crate) fn restore_wards(&mut self) {
        for (child, entry) in self.children.clone() {
            self.list_wards(&child, &entry, true);
        }
    }

    fn list_wards(&mut self, child: &Principal, entry: &Child, is_guarded: bool) {
        for id in &entry.bonds.guardians {
            let guardian = Principal { tenant: child.tenant.clone(), id: id.clone() };
            let wards = self.wards.entry(guardian.clone()).or_default();
            if is_guarded {
                wards.insert(child.clone());
            } else {
                wards.remove(child);
            }
            if wards.is_empty() {
                self.wards.remove(&guardian);
            }
        }
    }

    pub(crate) fn set_goals(&mut self, child: &Principal, goals: &Goals) {
        if let Some(found) = self.children.get_mut(child) {
            found.goals = goals.clone();
        }
    }

    pub(crate) fn set_allowance(
        &mut self,
        child: &Principal,
        guardian: &PrincipalId,
        allowance: Option<Allowance>,
    ) {
        let Some(found) = self.children.get_mut(child) else { return };
        if let Some(former) = found.allowances.remove(guardian) {
            self.allowances_due.remove(&(former.next_at, child.clone(), guardian.clone()));
        }
        if let Some(allowance) = allowance {
            found.allowances.insert(guardian.clone(), allowance);
            self.allowances_due.insert((allowance.next_at, child.clone(), guardian.clone()));
        }
    }

    /// When the next allowance is due.
    pub(crate) fn next_allowance(&self) -> Option<Timestamp> {
        self.allowances_due.first().map(|(at, _, _)| *at).filter(|at| *at < Timestamp::NEVER)
    }

    /// One that is due.
    pub(crate) fn due_allowance(&self, now: Timestamp) -> Option<(&Principal, &PrincipalId)> {
        let first = self.allowances_due.first().filter(|(at, _, _)| *at <= now);
        first.map(|(_, child, guardian)| (child, guardian))
    }

    pub(crate) fn wishes_of(&mut self, child: &Principal, change: impl FnOnce(&mut Wishes)) {
        if let Some(found) = self.children.get_mut(child) {
            change(&mut found.wishes);
        }
    }

    pub(crate) fn limit_child(&mut self, child: &Principal, limits: &ChildLimits) {
        if let Some(found) = self.children.get_mut(child) {
            found.limits = Some(limits.clone());
        }
    }
}

/// That every limit is in the tenant's currency.
pub(crate) fn check_currency(limits: &ChildLimits, currency: Currency) -> Result<(), Rejection> {
    let by_category = limits.per_category_and_day.iter().map(|(_, amount)| amount);
    let mut all = limits.per_payment.iter().chain(&limits.per_day).chain(by_category);
    if all.any(|amount| amount.currency != currency) {
        let text = format!("limits here are in {currency}");
        return Err(Rejection::new("currency_mismatch", text));
    }
    Ok(())
}

pub(crate) fn no_internal_account() -> Rejection {
    let text = "children's accounts are in our own ledger: this tenant has a bank of its own";
    Rejection::new("no_internal_account", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PC-13: days as people live them, clock changes included. 2026-03-29 has 23 hours in Berlin.
    #[test]
    fn a_day_begins_at_midnight_of_its_zone() {
        let at = |text: &str| {
            let time: jiff::Timestamp = text.parse().unwrap();
            Timestamp(u64::try_from(time.as_millisecond()).unwrap())
        };
        for (zone, time, day, minute) in [
            ("UTC", "1970-01-02T00:00:00Z", 1, 0),
            ("Asia/Shanghai", "2026-11-22T15:59:59Z", 20_779, 1_439),
            ("Asia/Shanghai", "2026-11-22T16:00:00Z", 20_780, 0),
            ("Europe/Berlin", "2026-03-29T00:59:00Z", 20_541, 119),
            ("Europe/Berlin", "2026-03-29T01:00:00Z", 20_541, 180),
            ("Europe/Berlin", "2026-03-29T21:59:00Z", 20_541, 1_439),
            ("Europe/Berlin", "2026-03-29T22:00:00Z", 20_542, 0),
            ("America/New_York", "2026-11-01T05:30:00Z", 20_758, 90),
            ("America/New_York", "2026-11-01T06:30:00Z", 20_758, 90),
        ] {
            assert_eq!(local_time(zone, at(time)), LocalTime { day, minute }, "{zone} {time}");
        }
        assert!(time_zone("Europe/Atlantis").is_none() && time_zone("").is_none());
    }
}
