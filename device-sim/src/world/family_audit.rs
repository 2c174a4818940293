//! The auditor of families: every payment from a child's account against the outcome table, every account of the
//! tenant, everybody who had to be told (PC-1 to PC-5, PC-8, PC-13, PC-15).

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, ChildPaymentRow, ChildRow, Filter, Listing};
use schemas::ids::{CategoryId, IdempotencyKey, PaymentId, Principal, PrincipalId};
use schemas::limits::SHOWN_RESULTS;
use schemas::message::{ChildView, PaymentState, ResultTo};

use super::family_book::{Book, Broken, End, Standing};
use super::family_facts::{OrderFacts, What};
use super::fault::Fault;
use super::machine::Machine;
use super::{Violation, World, say};

/// When a payment ended, what it was for, how much it was, how it ended.
type ShownAs = (u64, String, u64, PaymentState);

/// What a family adds to the audit of the accounts.
#[derive(Debug, Default)]
pub(super) struct FamilyEnds {
    /// Payments by row of the table.
    pub(super) rows: BTreeMap<&'static str, u64>,
    /// What children's payments and deposits have left on each account, as `tenant/person/name`, in minor units.
    pub(super) accounts: BTreeMap<String, i128>,
}

impl World {
    pub(super) fn audit_family(&mut self) -> Result<FamilyEnds, Violation> {
        if !self.has_family() {
            return Ok(FamilyEnds::default());
        }
        let list = AdminCommand::Find { listing: Listing::ChildPayments, filter: Filter::default() };
        let AdminAnswer::ChildPayments(rows) = self.operate_now(list)? else {
            return Err(Violation::harness("no list of children's payments"));
        };
        let list = AdminCommand::Find { listing: Listing::Children, filter: Filter::default() };
        let AdminAnswer::Children(children) = self.operate_now(list)? else {
            return Err(Violation::harness("no list of children"));
        };
        let judged = self.judge_family(&rows, &children);
        let (ends, either) = judged.map_err(|(rule, text)| self.broken(rule, text))?;
        either.into_iter().for_each(|why| self.allow_either(why));
        for row in &rows {
            say!(self, "auditor", "{}: {} of {}, paid {}", row.payment, row.state, row.amount, row.paid);
        }
        Ok(ends)
    }

    fn judge_family(
        &self,
        rows: &[ChildPaymentRow],
        children: &[ChildRow],
    ) -> Result<(FamilyEnds, Vec<&'static str>), Broken> {
        let Some(mut book) = Book::new(self, rows) else { return Ok((FamilyEnds::default(), Vec::new())) };
        book.walk()?;
        self.audit_screens(&book)?;
        let mut ends = FamilyEnds { rows: BTreeMap::new(), accounts: std::mem::take(&mut book.accounts) };
        for row in rows {
            let facts = self.facts.family.orders.get(&row.payment);
            let (Some(facts), Some(standing)) = (facts, book.payments.get(&row.payment)) else {
                return Err(("PC-1", format!("nobody has ordered {row:?}")));
            };
            self.audit_order(row, facts, standing)?;
            *ends.rows.entry(row_of(standing, row)).or_default() += 1;
        }
        if book.refused > 0 {
            ends.rows.insert("child: order refused", book.refused);
        }
        book.audit_own(&mut ends)?;
        book.audit_wishes(children, &mut ends)?;
        for (id, (guardian, told)) in &self.facts.family.allowances {
            let paid = book.allowed.get(id).copied();
            let state = paid.map(|paid| if paid { PaymentState::Settled } else { PaymentState::Refused });
            if told.iter().any(|told| Some(*told) != state) {
                return Err(("PC-14", format!("{guardian} was told {told:?} of {id}, which is {state:?}")));
            }
            if told.is_empty() && state.is_some() && !self.mix.has(Fault::TerminalLoses) {
                return Err(("PC-14", format!("{guardian} was not told of {id}, which is {state:?}")));
            }
            if let Some(paid) = paid {
                *ends
                    .rows
                    .entry(if paid { "child: allowance" } else { "child: allowance missed" })
                    .or_default() += 1;
            }
        }
        self.audit_promises(rows)?;
        self.audit_presses()?;
        if self.mix.is_calm_for_families() {
            let settled = |row: &ChildPaymentRow| row.state == PaymentState::Settled;
            // One of two guardians may have ordered for a child that is not theirs.
            let decided = rows.len() as u64 + book.refused;
            if !rows.iter().all(settled) || decided != self.facts.family.orders.len() as u64 {
                return Err(("calm", "nothing went wrong, and a child's payment was not settled".to_owned()));
            }
            if ends.rows.contains_key("own: unanswered") {
                return Err(("calm", "nothing went wrong, and a suggestion was not answered".to_owned()));
            }
        }
        Ok((ends, book.either))
    }

    /// Where the child reads what it has; none: that is revoked.
    pub(super) fn screen(&self, child: &Principal, piggy_bank: &PrincipalId) -> Option<&Machine> {
        self.machines.iter().find(|machine| {
            let principal = &machine.settings.principal;
            !machine.revoked && principal.id == *piggy_bank && principal.tenant == child.tenant
        })
    }

    /// PC-14: at rest each piggy bank shows what its child has.
    fn audit_screens(&self, book: &Book<'_>) -> Result<(), Broken> {
        for (child, available, piggy_bank) in book.screens() {
            let Some(machine) = self.screen(child, piggy_bank) else { continue };
            let shown = machine.device().and_then(|device| device.child_view());
            if shown.is_none_or(|shown| shown.child != child.id || shown.available.minor != available) {
                return Err(("PC-14", format!("{child} has {available}, and {piggy_bank} shows {shown:?}")));
            }
            self.audit_results(book, child, shown)?;
        }
        Ok(())
    }

    /// PC-5: what became of the child's last payments, the newest first.
    fn audit_results(
        &self,
        book: &Book<'_>,
        child: &Principal,
        shown: Option<&ChildView>,
    ) -> Result<(), Broken> {
        let results = shown.and_then(|shown| shown.results.as_ref()).into_iter().flat_map(|all| all.iter());
        let shown: Vec<ShownAs> =
            results.map(|one| (one.at.0, one.what.to_string(), one.amount.minor, one.state)).collect();
        let of_child = book.results.iter().filter_map(|(id, at)| {
            let (payment, facts) = (book.payments.get(id)?, self.facts.family.orders.get(id)?);
            let categories =
                || facts.order.categories.iter().map(CategoryId::as_str).collect::<Vec<_>>().join(", ");
            let what = facts.order.note.as_ref().map_or_else(categories, ToString::to_string);
            (payment.child == *child).then(|| Some((*at, what, payment.amount, payment.end?.state())))?
        });
        let mut expected: Vec<ShownAs> = of_child.collect();
        // What ended at the same time stands in any order: also the last of those that are shown.
        expected.sort_by_key(|one| std::cmp::Reverse(one.0));
        let last = expected.get(SHOWN_RESULTS - 1).map_or(0, |one| one.0);
        let same = shown.iter().map(|one| one.0).eq(expected.iter().take(SHOWN_RESULTS).map(|one| one.0));
        let all = expected.iter().filter(|one| one.0 > last).all(|one| shown.contains(one));
        if !same || !all || !shown.iter().all(|one| expected.contains(one)) {
            return Err(("PC-5", format!("{child} reads {shown:?}, by what happened {expected:?}")));
        }
        Ok(())
    }

    fn audit_order(
        &self,
        row: &ChildPaymentRow,
        facts: &OrderFacts,
        standing: &Standing,
    ) -> Result<(), Broken> {
        let wrong = |rule, text: &str| {
            let told: Vec<String> =
                facts.told.iter().map(|(who, told)| format!("{who}: {}", told.state)).collect();
            Err((rule, format!("{text}: {row:?}, by what happened {standing:?}, told {told:?}")))
        };
        if !row.at_rest {
            return wrong("MO-9", "a child's payment is not at rest");
        }
        let Some(end) = standing.end else { return wrong("outcome table", "nothing has ended it") };
        if row.state != end.state() {
            return wrong("outcome table", "a child's payment ended otherwise");
        }
        let paid = if end == End::Settled { row.amount.minor } else { 0 };
        if row.paid.minor != paid {
            return wrong("who ends up with what", "the child has paid something else");
        }
        if let Some((machine, prompt)) = &facts.prompt {
            let answer_by = standing.opened_at + self.prompt_ms();
            let right = self.plan.machines[*machine].principal == standing.piggy_bank;
            if !right || prompt.amount != row.amount || prompt.answer_by.0 != answer_by {
                return wrong("PC-2", "the child was asked otherwise, or elsewhere");
            }
        }
        if let Some(code) = &facts.code
            && standing.code_until != Some(code.expires_at.0)
        {
            return wrong("PC-6", "the code expires at another time than it should");
        }
        let unpaid = |state: &PaymentState| {
            *state == end.state() || end == End::GivenBack && *state == PaymentState::Settled
        };
        if !facts.ends_told.iter().all(unpaid) {
            return wrong("PC-5", "somebody was told of another end");
        }
        self.audit_result(row, facts, standing, end).or_else(|text| wrong("PC-5", text))
    }

    /// PC-5: who has to know how it ended knows it.
    fn audit_result(
        &self,
        row: &ChildPaymentRow,
        facts: &OrderFacts,
        standing: &Standing,
        end: End,
    ) -> Result<(), &'static str> {
        let tell = facts.order.tell.unwrap_or(ResultTo::Both);
        let told = |who: &Principal| {
            facts.told.get(who).is_some_and(|told| told.state == row.state && told.paid == row.paid)
        };
        let taken_back =
            matches!(end, End::PiggyBankGone | End::GuardianshipEnded | End::Cancelled | End::NotIdentified)
                || end == End::Expired && standing.code_until.is_some();
        if (tell != ResultTo::PiggyBank || taken_back) && !told(&standing.guardian) {
            return Err("the guardian was not told how it ended");
        }
        // It had the question on its screen, or waiting for that.
        let asked = facts.taken_in && (taken_back || end == End::Expired)
            || facts.code_taken_in && end != End::GivenBack;
        // What comes back is told where the child was by then.
        let used_another = |what: &What| match what {
            What::Bonds { child, bonds } if *child == standing.child => {
                bonds.as_ref().and_then(|bonds| bonds.piggy_bank.as_ref()) != Some(&standing.piggy_bank.id)
            }
            _ => false,
        };
        let elsewhere =
            end == End::GivenBack && self.facts.family.log.iter().any(|entry| used_another(&entry.what));
        let gone = standing.orphaned || elsewhere;
        if (tell != ResultTo::Guardian || asked) && !gone && !told(&standing.piggy_bank) {
            return Err("the piggy bank was not told how it ended");
        }
        Ok(())
    }

    fn prompt_ms(&self) -> u64 {
        self.plan.family.as_ref().map_or(0, |family| self.plan.tenants[family.tenant].deadlines.prompt_ms)
    }

    /// MO-5: of which a guardian was told, that there is.
    fn audit_promises(&self, rows: &[ChildPaymentRow]) -> Result<(), Broken> {
        let known: BTreeSet<PaymentId> = rows.iter().map(|row| row.payment).collect();
        for facts in self.facts.family.orders.values() {
            let request = self.facts.requests.get(&facts.request);
            let accepted =
                request.and_then(|request| request.answer.as_ref()).and_then(|answer| answer.payment);
            if let Some(payment) = accepted.filter(|payment| !known.contains(payment)) {
                return Err((
                    "MO-5",
                    format!("{} was told of {payment}, and there is none", facts.request.0),
                ));
            }
        }
        Ok(())
    }

    /// PC-3: what a child was shown to have answered has reached the core.
    fn audit_presses(&self) -> Result<(), Broken> {
        for (payment, facts) in &self.facts.family.orders {
            for pressed in facts.pressed.iter().filter(|pressed| pressed.taken) {
                let machine = &self.machines[pressed.machine];
                if machine.revoked || machine.settings.instance != pressed.instance {
                    continue;
                }
                let who = &self.plan.machines[pressed.machine].principal;
                let is_it = |what: &What| {
                    matches!(what, What::Answer { device, payment: of, answer, .. }
                        if device == who && of == payment && *answer == pressed.answer)
                };
                if !self.facts.family.log.iter().any(|entry| is_it(&entry.what)) {
                    return Err(("PC-3", format!("the answer for {payment} at {who} has never arrived")));
                }
            }
        }
        Ok(())
    }

    /// Whether this payment is one that was ordered with this key.
    pub(super) fn is_order_of(&self, payment: PaymentId, by: &Principal, key: IdempotencyKey) -> bool {
        let facts = self.facts.family.orders.get(&payment);
        facts.is_some_and(|facts| facts.request == (by.clone(), key))
    }
}

fn row_of(standing: &Standing, row: &ChildPaymentRow) -> &'static str {
    match standing.end {
        Some(End::NotIdentified) => "child: not identified",
        Some(End::Settled) if standing.code_until.is_some() => "child: paid with a code",
        Some(End::Settled) if row.amount != row.ordered => "child: settled for less",
        Some(End::Settled) | None => "child: settled",
        Some(End::Rejected) => "child: rejected",
        Some(End::GivenBack) => "child: given back",
        Some(_) if standing.answered_late => "child: answered too late",
        Some(End::Expired) if standing.code_until.is_some() => "child: code not used",
        Some(End::Expired) => "child: expired",
        Some(End::Cancelled) => "child: cancelled",
        Some(End::PiggyBankGone) => "child: piggy bank gone",
        Some(End::GuardianshipEnded) => "child: guardianship ended",
    }
}
