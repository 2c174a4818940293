//! The auditor: a naive model written from the table in correctness.md. It sees the items that came out, the bank's
//! book, the wire, the operator's lists, and never asks the core why.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::admin::{AccountRow, AdminAnswer, AdminCommand, ExceptionRow, PaymentRow, Resolution};
use edge_agent_device::CommandRecord;
use rust_decimal::Decimal;
use schemas::ids::{CommandId, PaymentId};
use schemas::message::PaymentState;

use super::facts::{PaymentFacts, Wish};
use super::family_audit::FamilyEnds;
use super::fault::Fault;
use super::verdict::Verdict;
use super::{Violation, World, say};

/// What the table says of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    row: &'static str,
    state: PaymentState,
    /// What the payer is charged in the end, in minor units.
    charged: u64,
    /// What the merchant has.
    merchant: u64,
    /// Cases that the queue must name.
    named: BTreeSet<&'static str>,
    /// Cases that it may name.
    may_name: BTreeSet<&'static str>,
}

impl World {
    /// Every payment against the table; returns how many ended in which row.
    pub(super) fn audit(&mut self) -> Result<BTreeMap<&'static str, u64>, Violation> {
        let AdminAnswer::Payments(rows) =
            self.operate_now(AdminCommand::ListPayments { open_only: false })?
        else {
            return Err(Violation::harness("no list of payments"));
        };
        let AdminAnswer::Exceptions(exceptions) = self.operate_now(AdminCommand::ListExceptions)? else {
            return Err(Violation::harness("no list of exceptions"));
        };
        let AdminAnswer::Accounts(accounts) = self.operate_now(AdminCommand::ListAccounts)? else {
            return Err(Violation::harness("no list of accounts"));
        };
        self.either.clear();
        let named = |case| exceptions.iter().filter(move |entry| entry.case.as_str() == case);
        let heard_later: BTreeSet<_> = named("delivered_after_refund").map(|entry| entry.payment).collect();
        let unknown = named("unknown_outcome").filter(|entry| !heard_later.contains(&entry.payment));
        self.facts.unknown_named = unknown.filter_map(|entry| entry.payment).collect();
        let mut ends: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut merchants: BTreeMap<String, u64> = BTreeMap::new();
        let mut spent: BTreeMap<String, u64> = BTreeMap::new();
        let mut reserved: BTreeMap<String, u64> = BTreeMap::new();
        for row in &rows {
            let expected = self.audit_payment(row, &exceptions)?;
            *ends.entry(expected.row).or_default() += 1;
            *merchants.entry(row.payer.tenant.to_string()).or_default() += expected.merchant;
            if expected.state == PaymentState::Held {
                *reserved.entry(row.payer.to_string()).or_default() += row.amount.minor;
            } else {
                *spent.entry(row.payer.to_string()).or_default() += expected.charged;
            }
        }
        self.audit_requests(&rows)?;
        let family = self.audit_family()?;
        ends.extend(&family.rows);
        self.audit_accounts(&accounts, &merchants, &spent, &reserved, &family)?;
        self.audit_bank(&rows)?;
        self.audit_devices()?;
        Ok(ends)
    }

    pub(super) fn wrong(
        &self,
        row: &PaymentRow,
        rule: &'static str,
        text: impl std::fmt::Display,
    ) -> Violation {
        let told = self.facts.payments.get(&row.payment).and_then(|facts| facts.told.as_ref());
        let told = told.map_or("nothing".to_owned(), |told| told.state.to_string());
        self.broken(
            rule,
            format!(
                "payment {} of {} ({} of {} units, {}): {text}; the operator sees `{}` paid {}, the payer was told {told}",
                row.payment, row.payer, row.delivered, row.quantity, row.amount, row.state, row.paid
            ),
        )
    }

    fn audit_payment(
        &mut self,
        row: &PaymentRow,
        exceptions: &[ExceptionRow],
    ) -> Result<Expected, Violation> {
        if !row.at_rest {
            return Err(self.wrong(row, "MO-9", "not at rest"));
        }
        let offer = self.offer_of(row.payment).map(|offer| self.facts.offers[offer].clone());
        let same = offer.as_ref().is_some_and(|offer| {
            let said = &offer.information;
            said.chip == row.chip && said.amount == row.amount && said.quantity == row.quantity
        });
        if !same || self.payer(row.payment).as_ref() != Some(&row.payer) {
            return Err(self.wrong(row, "CP-2", "is not what its payer asked for"));
        }
        let named: BTreeSet<&str> = exceptions
            .iter()
            .filter(|entry| entry.payment == Some(row.payment))
            .map(|entry| entry.case.as_str())
            .collect();
        let expected = self.expect_resolved(row)?;
        say!(self, "auditor", "{}: {} charged {} {named:?}", row.payment, expected.row, expected.charged);
        if row.state != expected.state {
            let text = format!("should be `{}` by row {}", expected.state, expected.row);
            return Err(self.wrong(row, "outcome table", text));
        }
        let charged = self.charged(row);
        if charged != expected.charged {
            let text = format!("charged {charged} and not {} by row {}", expected.charged, expected.row);
            return Err(self.wrong(row, "who ends up with what", text));
        }
        let was_seen = self.facts.payments.get(&row.payment).is_some_and(|facts| facts.retried);
        for case in &expected.named {
            if !named.contains(case) && !was_seen {
                return Err(self.wrong(
                    row,
                    "exceptions queue",
                    format!("`{case}` is not named, row {}", expected.row),
                ));
            }
        }
        if let Some(case) =
            named.iter().find(|case| !expected.named.contains(*case) && !expected.may_name.contains(*case))
        {
            return Err(self.wrong(
                row,
                "exceptions queue",
                format!("`{case}` is named, row {}", expected.row),
            ));
        }
        if !was_seen && !self.resolved.contains_key(&row.payment) {
            self.audit_physics(row, charged, &named)?;
        }
        self.audit_told(row)?;
        self.audit_merchant_told(row)?;
        Ok(expected)
    }

    /// What the payer is out of pocket: by the bank's book, or where we are the bank by the operator's list, which
    /// the accounts are held against.
    pub(super) fn charged(&self, row: &PaymentRow) -> u64 {
        if self.is_http(row) {
            let key = self.facts.payments.get(&row.payment).and_then(|facts| facts.transfer_key);
            let moved = key.and_then(|key| self.bank.moved(key, &self.plan));
            moved.map_or(0, |(_, amount, refunded)| amount - refunded)
        } else if row.state == PaymentState::Held {
            row.amount.minor
        } else {
            row.paid.minor
        }
    }

    fn is_http(&self, row: &PaymentRow) -> bool {
        self.plan.is_http(self.tenant(row))
    }

    pub(super) fn tenant(&self, row: &PaymentRow) -> usize {
        self.plan.tenants.iter().position(|tenant| tenant.id == row.payer.tenant).unwrap_or(0)
    }

    /// Charged if and only if delivered, or else it is named.
    fn audit_physics(&self, row: &PaymentRow, charged: u64, named: &BTreeSet<&str>) -> Result<(), Violation> {
        let Some(command) = self.command_of(row.payment) else { return Ok(()) };
        let Some(facts) = self.facts.commands.get(&command) else { return Ok(()) };
        if facts.lied {
            return Ok(());
        }
        let merchant_refunded = self.refund_wanted(row);
        if charged > 0 && facts.items_out == 0 && named.is_empty() {
            return Err(self.wrong(row, "charged iff delivered", "charged, and nothing came out"));
        }
        if charged == 0 && facts.items_out > 0 && named.is_empty() && !merchant_refunded {
            let text = format!("{} units came out for nothing, and nobody is told", facts.items_out);
            return Err(self.wrong(row, "charged iff delivered", text));
        }
        Ok(())
    }

    /// The payer's terminal was online to the end: what it heard last is how it is.
    fn audit_told(&self, row: &PaymentRow) -> Result<(), Violation> {
        let told = self.facts.payments.get(&row.payment).and_then(|facts| facts.told.as_ref());
        match told {
            Some(told) if told.state == row.state && told.paid == row.paid => Ok(()),
            Some(told) => Err(self.wrong(
                row,
                "CP-10, CP-12",
                format!("the payer was last told {} paid {}", told.state, told.paid),
            )),
            None => Err(self.wrong(row, "CP-10, CP-12", "the payer was told nothing")),
        }
    }

    /// CP-10, CP-16: the merchant hears of everything that was delivered in its name.
    fn audit_merchant_told(&self, row: &PaymentRow) -> Result<(), Violation> {
        let is_delivered = matches!(row.state, PaymentState::Delivered | PaymentState::DeliveredInPart);
        let told = self.facts.payments.get(&row.payment).map(|facts| facts.merchant_told.as_slice());
        if is_delivered && !told.is_some_and(|told| told.contains(&row.state)) {
            return Err(self.wrong(row, "CP-10, CP-16", format!("the merchant was told {told:?}")));
        }
        Ok(())
    }

    /// Which command belongs to a payment: an identity, not a decision.
    fn command_of(&self, payment: PaymentId) -> Option<CommandId> {
        let found = self.core.cloud().and_then(|cloud| cloud.payment(payment));
        found.and_then(|payment| payment.command.as_ref()).map(|command| command.id)
    }

    /// The row of the table, and what the operator made of it afterwards.
    fn expect_resolved(&mut self, row: &PaymentRow) -> Result<Expected, Violation> {
        let Some(resolution) = self.resolved.get(&row.payment).copied() else { return self.expect(row) };
        let mut before = row.clone();
        if resolution == Resolution::WriteOff {
            before.state = PaymentState::RefundBlocked;
        }
        let mut expected = self.expect(&before)?;
        expected.named.clear();
        expected.may_name.clear();
        match (expected.state, resolution) {
            (PaymentState::Held, Resolution::Refund) => {
                let gone = if self.is_http(row) { PaymentState::Refunded } else { PaymentState::Voided };
                Ok(Expected { row: "held, then refunded", state: gone, charged: 0, merchant: 0, ..expected })
            }
            (PaymentState::Held, _) => {
                let (state, amount) = (PaymentState::Delivered, row.amount.minor);
                Ok(Expected {
                    row: "held, then accepted",
                    state,
                    charged: amount,
                    merchant: amount,
                    ..expected
                })
            }
            (PaymentState::RefundBlocked, _) => {
                Ok(Expected { row: "blocked, then written off", state: PaymentState::WrittenOff, ..expected })
            }
            _ => Ok(expected),
        }
    }

    fn expect(&mut self, row: &PaymentRow) -> Result<Expected, Violation> {
        let facts = self.facts.payments.get(&row.payment).cloned().unwrap_or_default();
        let http = self.is_http(row);
        let moved = facts.transfer_key.and_then(|key| self.bank.moved(key, &self.plan));
        let has_paid =
            if http { matches!(moved, Some((true, _, _))) } else { self.command_of(row.payment).is_some() };
        let has_executor = self.has_executor(row);
        if http && !has_paid {
            return self.expect_unpaid(row);
        }
        let Some(command) = self.command_of(row.payment) else {
            return if has_executor || !http {
                self.expect_no_command(row, http)
            } else {
                self.expect_sold(row)
            };
        };
        let (verdict, mut named, mut may_name) = self.verdict(row, command)?;
        let amount = row.amount.minor;
        let share = |units: u32| amount * u64::from(units) / u64::from(row.quantity.max(1));
        let blocked = self.refund_refused(&facts.refund_keys);
        let expected = |row, state, charged, merchant, named, may_name| {
            Ok(Expected { row, state, charged, merchant, named, may_name })
        };
        let gone = if http { PaymentState::Refunded } else { PaymentState::Voided };
        if matches!(verdict, Verdict::All | Verdict::Part(_)) && self.given_back(row) {
            if blocked && row.state == PaymentState::RefundBlocked {
                named.insert("refund_blocked");
                let kept = self.charged(row);
                return expected("refund_blocked", PaymentState::RefundBlocked, kept, 0, named, may_name);
            }
            return expected("merchant_refunded", PaymentState::Refunded, 0, 0, named, may_name);
        }
        let is_blocked = blocked && row.state == PaymentState::RefundBlocked;
        if is_blocked {
            named.insert("refund_blocked");
        }
        match verdict {
            Verdict::All => expected("delivered", PaymentState::Delivered, amount, amount, named, may_name),
            Verdict::Part(units) if is_blocked => {
                expected("refund_blocked", PaymentState::RefundBlocked, amount, share(units), named, may_name)
            }
            Verdict::Part(units) => {
                let charged = share(units);
                expected(
                    "delivered_in_part",
                    PaymentState::DeliveredInPart,
                    charged,
                    charged,
                    named,
                    may_name,
                )
            }
            Verdict::Nothing if is_blocked => {
                expected("refund_blocked", PaymentState::RefundBlocked, amount, 0, named, may_name)
            }
            Verdict::Nothing => expected("failed", gone, 0, 0, named, may_name),
            Verdict::UnknownRefunded if is_blocked => {
                expected("refund_blocked", PaymentState::RefundBlocked, amount, 0, named, may_name)
            }
            Verdict::UnknownRefunded => {
                let late = named.contains("delivered_after_refund");
                may_name.insert("unknown_outcome");
                let name = if late { "delivered_after_refund" } else { "unknown_refunded" };
                expected(name, gone, 0, 0, named, may_name)
            }
            Verdict::UnknownHeld => expected("unknown_held", PaymentState::Held, amount, 0, named, may_name),
            Verdict::Open => Err(self.wrong(row, "outcome table", "no verdict")),
        }
    }

    pub(super) fn refund_wanted(&self, row: &PaymentRow) -> bool {
        let wish = Wish::Refund { payment: row.payment };
        self.facts.requests.values().any(|request| request.wish == wish)
    }

    /// More than one row of the table is right here; which ones, `why` says (correctness.md 22).
    pub(super) fn allow_either(&mut self, why: &'static str) {
        *self.either.entry(why).or_default() += 1;
    }

    /// Whether the merchant gave it back: it was told so, or it asked and the answer was lost until nobody waited.
    fn given_back(&mut self, row: &PaymentRow) -> bool {
        let facts = self.facts.payments.get(&row.payment);
        if facts.is_some_and(|facts| facts.merchant_refunded) {
            return true;
        }
        let wish = Wish::Refund { payment: row.payment };
        let unheard =
            self.facts.requests.values().any(|request| request.wish == wish && request.answer.is_none());
        let back = [PaymentState::Refunded, PaymentState::RefundBlocked, PaymentState::WrittenOff];
        let is_back = unheard && back.contains(&row.state);
        if is_back {
            self.allow_either("merchant refund whose answer was lost");
        }
        is_back
    }

    fn has_executor(&self, row: &PaymentRow) -> bool {
        let chip = self.plan.machines.iter().find(|machine| machine.principal == row.chip);
        chip.is_some_and(|chip| chip.executor.is_some())
    }

    fn refund_refused(&self, keys: &BTreeSet<[u8; 16]>) -> bool {
        use crate::bank::{Decision, Key};
        let found = keys.iter().filter_map(|key| self.bank.book.refunds.get(&Key(*key)));
        found.into_iter().any(|refund| matches!(refund.decision, Decision::Refused { .. }))
    }

    /// A good consent, and nothing else, reached the core before its time was over: within its last millisecond the
    /// timer may have been first.
    fn answered_in_time(&self, facts: &PaymentFacts) -> bool {
        let in_time = facts
            .consent
            .zip(facts.answer_by)
            .is_some_and(|(consent, answer_by)| self.core_time(consent.at_ms) < answer_by);
        in_time && facts.verified_well && !facts.verified_wrong
    }

    /// In the bank's own book the transfer is refused or fenced off; with accounts of ours it is the ledger that refuses.
    fn bank_said_no(&self, row: &PaymentRow, facts: &PaymentFacts) -> bool {
        let moved = facts.transfer_key.and_then(|key| self.bank.moved(key, &self.plan));
        !self.is_http(row) || matches!(moved, Some((false, ..)))
    }

    /// No money moved and none will: the payer has nothing, nobody else either, and there is a reason.
    fn expect_unpaid(&self, row: &PaymentRow) -> Result<Expected, Violation> {
        let facts = self.facts.payments.get(&row.payment).cloned().unwrap_or_default();
        let asked = self.offer_of(row.payment).and_then(|offer| self.facts.offers[offer].asked_for);
        let asked = asked == Some(row.payment);
        let cancelled =
            self.facts.requests.values().any(|request| request.wish == Wish::Cancel { payment: row.payment });
        let name = match row.state {
            PaymentState::Refused => "refused",
            PaymentState::Cancelled if cancelled => "cancelled",
            PaymentState::Declined if facts.verified_wrong => "declined",
            PaymentState::Expired if !self.answered_in_time(&facts) => "expired",
            PaymentState::BankRefused if facts.verified_well && self.bank_said_no(row, &facts) => {
                "bank_refused"
            }
            _ => {
                return Err(self.wrong(row, "outcome table", "no money moved, and the state says otherwise"));
            }
        };
        if row.state == PaymentState::Refused && asked {
            let orphaned = self.coverage.of(Fault::Revoked) + self.coverage.of(Fault::Replaced) > 0;
            if !orphaned {
                return Err(self.wrong(row, "outcome table", "refused after the health check had passed"));
            }
        }
        let none = BTreeSet::new;
        Ok(Expected { row: name, state: row.state, charged: 0, merchant: 0, named: none(), may_name: none() })
    }

    /// CP-16: sold by the bank's success; perhaps given back by the merchant.
    fn expect_sold(&mut self, row: &PaymentRow) -> Result<Expected, Violation> {
        let facts = self.facts.payments.get(&row.payment).cloned().unwrap_or_default();
        let amount = row.amount.minor;
        let (mut named, may_name) = (BTreeSet::new(), BTreeSet::new());
        let blocked = self.refund_refused(&facts.refund_keys) && row.state == PaymentState::RefundBlocked;
        let gave_up = self.gave_up(row);
        let (name, state, charged, merchant) = if blocked {
            named.insert("refund_blocked");
            ("refund_blocked", PaymentState::RefundBlocked, amount, 0)
        } else if facts.merchant_refunded || self.refund_wanted(row) && row.state == PaymentState::Refunded {
            ("merchant_refunded", PaymentState::Refunded, 0, 0)
        } else if row.state == PaymentState::Refunded && gave_up {
            ("bank_late", PaymentState::Refunded, 0, 0)
        } else {
            ("sold", PaymentState::Delivered, amount, amount)
        };
        Ok(Expected { row: name, state, charged, merchant, named, may_name })
    }

    /// Whether the payment may have been given up before the bank's success was known.
    fn gave_up(&mut self, row: &PaymentRow) -> bool {
        let facts = self.facts.payments.get(&row.payment).cloned().unwrap_or_default();
        let bank_ms = self.plan.tenants[self.tenant(row)].deadlines.bank_ms;
        let late = match (facts.consent, facts.done) {
            (Some(consent), Some(done)) => {
                self.core_time(done.at_ms) >= self.core_time(consent.at_ms) + bank_ms
            }
            _ => false,
        };
        let executor = self.offer_of(row.payment).map(|offer| self.facts.offers[offer].chip);
        let executor = executor.and_then(|chip| self.plan.machines[chip].executor);
        let is_gone = executor.is_some_and(|executor| self.machines[executor].is_gone());
        if is_gone && !facts.fenced && !late && row.state == PaymentState::Refunded {
            self.allow_either("device revoked, before or after the bank's success");
        }
        facts.fenced || late || is_gone
    }

    /// There is an executor, and no command: the money must be back.
    fn expect_no_command(&mut self, row: &PaymentRow, http: bool) -> Result<Expected, Violation> {
        if !http {
            return if self.has_executor(row) { self.expect_unpaid(row) } else { self.expect_sold_here(row) };
        }
        if !self.gave_up(row) {
            return Err(self.wrong(
                row,
                "outcome table",
                "the bank was in time, and the machine was never told",
            ));
        }
        let facts = self.facts.payments.get(&row.payment).cloned().unwrap_or_default();
        let (mut named, may_name) = (BTreeSet::new(), BTreeSet::new());
        let blocked = self.refund_refused(&facts.refund_keys) && row.state == PaymentState::RefundBlocked;
        let (name, state, charged) = if blocked {
            named.insert("refund_blocked");
            ("refund_blocked", PaymentState::RefundBlocked, row.amount.minor)
        } else {
            ("bank_late", PaymentState::Refunded, 0)
        };
        Ok(Expected { row: name, state, charged, merchant: 0, named, may_name })
    }

    fn expect_sold_here(&self, row: &PaymentRow) -> Result<Expected, Violation> {
        let facts = self.facts.payments.get(&row.payment).cloned().unwrap_or_default();
        let amount = row.amount.minor;
        let (name, charged) = match row.state {
            PaymentState::Refunded if self.refund_wanted(row) => ("merchant_refunded", 0),
            PaymentState::Delivered if facts.verified_well && !facts.merchant_refunded => ("sold", amount),
            _ => return self.expect_unpaid(row),
        };
        let none = BTreeSet::new;
        Ok(Expected {
            row: name,
            state: row.state,
            charged,
            merchant: charged,
            named: none(),
            may_name: none(),
        })
    }

    /// MO-3: whoever was promised got what they asked for, once.
    fn audit_requests(&self, rows: &[PaymentRow]) -> Result<(), Violation> {
        let known: BTreeSet<PaymentId> = rows.iter().map(|row| row.payment).collect();
        for ((who, _), request) in &self.facts.requests {
            let accepted = request.answer.as_ref().and_then(|answer| answer.payment);
            if let Some(payment) = accepted
                && !self.is_of_family(payment)
                && !known.contains(&payment)
            {
                return Err(
                    self.broken("MO-5", format!("{who} was told of payment {payment}, and there is none"))
                );
            }
        }
        if !self.mix.is_calm() {
            return Ok(());
        }
        for row in rows {
            let honest = self.offer_of(row.payment).and_then(|offer| self.facts.honest.get(&offer));
            if honest == Some(&true) && row.state != PaymentState::Delivered {
                return Err(self.wrong(row, "calm", "nothing went wrong, and it was not delivered"));
            }
        }
        if rows.len() < self.shop.len() {
            return Err(self.broken("calm", "nothing went wrong, and somebody could not buy"));
        }
        Ok(())
    }

    fn audit_accounts(
        &self,
        accounts: &[AccountRow],
        merchants: &BTreeMap<String, u64>,
        spent: &BTreeMap<String, u64>,
        reserved: &BTreeMap<String, u64>,
        family: &FamilyEnds,
    ) -> Result<(), Violation> {
        for person in self.plan.people.iter().filter(|person| !self.plan.is_http(person.tenant)) {
            let name = format!("person/{}", person.principal.id);
            let listed = accounts
                .iter()
                .any(|account| account.tenant == person.principal.tenant && account.account == name);
            if !listed && !person.is_till && person.wealth.minor > 0 {
                return Err(self.broken("MO-6", format!("the books have no account of {}", person.principal)));
            }
        }
        for account in accounts {
            let tenant = account.tenant.to_string();
            let net = i128::from(account.credits_posted.minor) - i128::from(account.debits_posted.minor);
            let of_children = family.accounts.get(&format!("{tenant}/{}", account.account));
            let of_children = of_children.copied().unwrap_or_default();
            let expected = if account.account.starts_with("merchant/") {
                i128::from(merchants.get(&tenant).copied().unwrap_or(0))
            } else if let Some(name) = account.account.strip_prefix("person/") {
                let who = format!("{tenant}/{name}");
                let person = self.plan.people.iter().find(|person| person.principal.to_string() == who);
                let wealth = person.filter(|person| !person.is_till).map_or(0, |person| person.wealth.minor);
                if account.debits_pending.minor != reserved.get(&who).copied().unwrap_or(0) {
                    let text = format!("{who} has {} reserved", account.debits_pending);
                    return Err(self.broken("MO-2", text));
                }
                i128::from(wealth) - i128::from(spent.get(&who).copied().unwrap_or(0))
            } else {
                continue;
            };
            let expected = expected + of_children;
            if net != expected {
                let text =
                    format!("{tenant} {}: {net} in our books, {expected} by what happened", account.account);
                return Err(self.broken("MO-6", text));
            }
        }
        Ok(())
    }

    fn audit_bank(&mut self, rows: &[PaymentRow]) -> Result<(), Violation> {
        self.audit_payers(rows)?;
        let AdminAnswer::Books(books) = self.operate_now(AdminCommand::Books)? else {
            return Err(Violation::harness("no books"));
        };
        if !books.balanced || books.open_payments > 0 {
            return Err(self.broken("MO-1", format!("the books do not balance: {:?}", books.problem)));
        }
        let book = &self.bank.book;
        let (now, then) = book.accounts.values().fold((Decimal::ZERO, Decimal::ZERO), |sums, account| {
            (sums.0 + account.balance, sums.1 + account.opened_with)
        });
        if now != then {
            return Err(self.broken("money conserved", format!("the bank had {then} and has {now}")));
        }
        for (tenant, ours) in &books.holdings {
            let theirs = book.accounts.get(&format!("{tenant}/holding")).map(|account| account.balance);
            let of_rows = rows.iter().filter(|row| row.payer.tenant == *tenant);
            let by_payments: u64 = of_rows.map(|row| self.charged(row)).sum();
            if theirs != Some(ours.decimal()) || by_payments != ours.minor {
                let text = format!(
                    "holding of {tenant}: ours {ours}, the bank's {theirs:?}, by payments {}",
                    self.plan.currency.minor(by_payments)
                );
                return Err(self.broken("MO-6", text));
            }
        }
        Ok(())
    }

    /// The devices' journals agree: nothing is open, and what acted is written down.
    fn audit_devices(&self) -> Result<(), Violation> {
        for (id, facts) in &self.facts.commands {
            if facts.orphaned {
                continue;
            }
            let device = self.machines[facts.machine].device();
            let record = device.and_then(|device| device.state().command(id));
            match record {
                Some(CommandRecord::Accepted(_) | CommandRecord::Intent(_)) => {
                    return Err(self.broken("MO-6", format!("command {id} is open in its device's journal")));
                }
                None if facts.acts > 0 => {
                    return Err(
                        self.broken("MO-6", format!("command {id} acted, and its device knows nothing"))
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }
}
