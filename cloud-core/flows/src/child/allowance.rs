//! Allowances: what a guardian pays to a child by itself, and what the child saves for (PC-14).
//!
//! ```text
//! guardian: child-allowance ──> due at first_at ──paid──> due a day, week or month later ──> ...
//!                                   └ the guardian's account has too little: missed, the guardian is told, the next one stays
//! ```
//! Each payment is a post from the guardian's account to the child's, with an id of its own: it happens once. After an
//! outage of ours what fell due meanwhile is paid, one after the other.

use cloud_core_ledger::Reason;
use jiff::Span;
use schemas::ids::{Code, MessageId, PaymentId, Principal, PrincipalId};
use schemas::message::{
    AllowanceSchedule, ChildAllowance, Down, Every, PaymentState, PaymentStatus, SavingsGoals,
};
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas::wire::Text;
use serde::{Deserialize, Serialize};

use super::ChildFlow;
use crate::books::{self, Role};
use crate::children::time_zone;
use crate::event::Event;
use crate::limits;
use crate::rejection::Rejection;

/// The allowance that one guardian pays to one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowance {
    /// As the guardian set it.
    pub schedule: AllowanceSchedule,
    /// How many have been due.
    pub number: u32,
    /// When the last one was.
    pub last_at: Option<Timestamp>,
    /// When the next one is.
    pub next_at: Timestamp,
}

impl Allowance {
    fn first(schedule: AllowanceSchedule) -> Self {
        Self { schedule, number: 0, last_at: None, next_at: schedule.first_at }
    }

    /// After the one that is due now.
    fn following(&self, zone: &str) -> Self {
        Self {
            schedule: self.schedule,
            number: self.number.saturating_add(1),
            last_at: Some(self.next_at),
            next_at: next_after(zone, self),
        }
    }
}

impl ChildFlow<'_> {
    /// A guardian sets its allowance for a child, or ends it.
    pub(crate) fn set_allowance(
        &mut self,
        guardian: &Principal,
        set: &ChildAllowance,
    ) -> Result<(), Rejection> {
        let (child, found) = self.guarded(guardian, &set.child)?;
        let currency = self.internal_tenant(&child)?.currency;
        let former = found.allowances.get(&guardian.id);
        if former.map(|former| former.schedule) == set.schedule {
            return Ok(());
        }
        if let Some(schedule) = &set.schedule {
            if schedule.amount.minor == 0 {
                return Err(Rejection::new("amount_zero", "leave the schedule out to end an allowance"));
            }
            if schedule.amount.currency != currency {
                return Err(Rejection::new("currency_mismatch", format!("children here have {currency}")));
            }
            // Never at a time at which a former one may have been paid.
            if schedule.first_at <= self.now {
                return Err(Rejection::new("first_at_past", "the first time has passed: name a later one"));
            }
            if schedule.first_at > self.now.plus_ms(limits::FIRST_ALLOWANCE_MS) {
                return Err(Rejection::new("first_at_too_far", "the first time lies at most a year ahead"));
            }
        }
        if let Some(former) = former {
            self.forget_last(&child, &guardian.id, former);
        }
        let (guardian, allowance) = (guardian.id.clone(), set.schedule.map(Allowance::first));
        self.out.shown.push(child.clone());
        self.out.event(Event::AllowanceSet { child, guardian, allowance, missed: None });
        Ok(())
    }

    /// A guardian sets what a child saves for.
    pub(crate) fn set_goals(&mut self, guardian: &Principal, set: &SavingsGoals) -> Result<(), Rejection> {
        let (child, found) = self.guarded(guardian, &set.child)?;
        let currency = self.internal_tenant(&child)?.currency;
        for goal in set.goals.iter() {
            if goal.title.as_str().is_empty() || goal.title.as_str().len() > limits::GOAL_TITLE_BYTES {
                return Err(Rejection::new("title_invalid", "a goal's title has 1 to 80 bytes"));
            }
            if goal.amount.minor == 0 {
                return Err(Rejection::new("amount_zero", "a goal takes an amount to save"));
            }
            if goal.amount.currency != currency {
                return Err(Rejection::new("currency_mismatch", format!("children here have {currency}")));
            }
        }
        if found.goals != set.goals {
            let (guardian, goals) = (guardian.id.clone(), set.goals.clone());
            self.out.shown.push(child.clone());
            self.out.event(Event::GoalsSet { child, guardian, goals });
        }
        Ok(())
    }

    /// One payment of an allowance is due.
    pub(crate) fn pay_allowance(&mut self, child: &Principal, guardian: &PrincipalId) {
        let Some(found) = self.cloud.registry.child(child) else { return };
        let Some(allowance) = found.allowances.get(guardian) else { return };
        let payer = Principal { tenant: child.tenant.clone(), id: guardian.clone() };
        let amount = allowance.schedule.amount;
        let payment = allowance_id(child, guardian, allowance.next_at);
        let missed = self.book_allowance(payment, &payer, child, amount).err().map(|_| {
            let text =
                format!("The allowance of {amount} for {} was not paid: your account has less.", child.id);
            (Code::known("balance_insufficient"), text)
        });
        self.forget_last(child, guardian, allowance);
        self.out.event(Event::AllowanceSet {
            child: child.clone(),
            guardian: guardian.clone(),
            allowance: Some(allowance.following(&found.bonds.time_zone)),
            missed: missed.as_ref().map(|(code, _)| code.clone()),
        });
        self.out.shown.push(child.clone());
        let paid = if missed.is_none() { amount } else { amount.currency.minor(0) };
        let (reason, text) = match missed {
            Some((code, text)) => (Some(code), text),
            None => (None, format!("{} has the allowance of {amount} from you.", child.id)),
        };
        let state = if reason.is_none() { PaymentState::Settled } else { PaymentState::Refused };
        let delivered = u32::from(reason.is_none());
        let text = Text::new(text);
        let at = self.now;
        let status = PaymentStatus { payment, state, amount, paid, delivered, quantity: 1, reason, text, at };
        let until = self.now.plus_ms(limits::STATUS_LIFE_MS);
        let id = MessageId::derived("allowance", &[&payment.0]);
        self.out.owe(self.cloud, &payer, id, Down::PaymentStatus(status), until);
    }

    /// What the ledger has once refused it remembers: it is not asked for what the account does not have.
    fn book_allowance(
        &mut self,
        payment: PaymentId,
        payer: &Principal,
        child: &Principal,
        amount: Money,
    ) -> Result<(), Reason> {
        let account = Role::Person(payer).account(&payer.tenant);
        if self.cloud.ledger.available(account).is_none_or(|has| has < amount.minor) {
            return Err(Reason::ExceedsCredits);
        }
        self.out.book(self.cloud, &[books::allowance(payment, payer, child, amount)], self.now)
    }

    /// The last one is long over, and its id never comes again: the ledger need not know it any more.
    pub(super) fn forget_last(&mut self, child: &Principal, guardian: &PrincipalId, allowance: &Allowance) {
        let last = allowance.last_at.map(|at| books::allowance_id(allowance_id(child, guardian, at)));
        if let Some(last) = last.filter(|last| self.cloud.ledger.transfer(*last).is_some())
            && let Ok(events) = self.cloud.ledger.decide_retire(&[last])
        {
            self.out.events.extend(events.into_iter().map(Event::Ledger));
        }
    }
}

fn allowance_id(child: &Principal, guardian: &PrincipalId, due_at: Timestamp) -> PaymentId {
    let child = child.to_string();
    let parts = [child.as_bytes(), guardian.as_str().as_bytes(), &due_at.0.to_be_bytes()];
    PaymentId::derived("allowance", &parts)
}

/// The same time of day by the clock on the wall, so many days, weeks or months after the first. Counted from the
/// first, so that a short month does not shift those after it; a time that a clock change leaves out is an hour later.
fn next_after(zone: &str, allowance: &Allowance) -> Timestamp {
    let AllowanceSchedule { every, first_at, .. } = allowance.schedule;
    let count = i64::from(allowance.number.saturating_add(1));
    let next = || {
        let zone = time_zone(zone)?;
        let first = jiff::Timestamp::from_millisecond(i64::try_from(first_at.0).ok()?).ok()?;
        let span = match every {
            Every::Day => Span::new().try_days(count),
            Every::Week => Span::new().try_weeks(count),
            Every::Month => Span::new().try_months(count),
        };
        let local = zone.to_datetime(first).checked_add(span.ok()?).ok()?;
        u64::try_from(zone.to_timestamp(local).ok()?.as_millisecond()).ok().map(Timestamp)
    };
    // Beyond the calendar's end nothing is due any more.
    next().filter(|next| *next > allowance.next_at).unwrap_or(Timestamp::NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().unwrap();
        Timestamp(u64::try_from(time.as_millisecond()).unwrap())
    }

    /// PC-14: months of 28 to 31 days, and days of 23 and 25 hours.
    #[test]
    fn it_is_paid_at_the_same_time_by_the_clock_on_the_wall() {
        for (zone, every, times) in [
            // 08:00 in Berlin, and the last day of shorter months.
            (
                "Europe/Berlin",
                Every::Month,
                &[
                    "2026-01-31T07:00:00Z",
                    "2026-02-28T07:00:00Z",
                    "2026-03-31T06:00:00Z",
                    "2026-04-30T06:00:00Z",
                ][..],
            ),
            (
                "UTC",
                Every::Month,
                &["2027-12-30T00:00:00Z", "2028-01-30T00:00:00Z", "2028-02-29T00:00:00Z"][..],
            ),
            // 02:30 does not exist on 2026-03-29 in Berlin, and exists twice on 2026-10-25.
            (
                "Europe/Berlin",
                Every::Day,
                &["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"][..],
            ),
            (
                "Europe/Berlin",
                Every::Day,
                &["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"][..],
            ),
            ("Asia/Shanghai", Every::Week, &["2026-11-20T00:00:00Z", "2026-11-27T00:00:00Z"][..]),
        ] {
            let amount = "1.00 EUR".parse().unwrap();
            let schedule = AllowanceSchedule { amount, every, first_at: at(times[0]) };
            let mut allowance = Allowance::first(schedule);
            for time in times {
                assert_eq!(allowance.next_at, at(time), "{zone} {every}");
                allowance = allowance.following(zone);
            }
        }
    }

    #[test]
    fn beyond_the_calendar_nothing_is_due() {
        let amount = "1.00 EUR".parse().unwrap();
        let schedule =
            AllowanceSchedule { amount, every: Every::Month, first_at: at("2026-11-20T00:00:00Z") };
        let late = Allowance { number: u32::MAX, ..Allowance::first(schedule) };
        assert_eq!(late.following("UTC").next_at, Timestamp::NEVER);
    }
}
