//! The banks of the tenants that have one: one book, and the wire to it, on which requests and answers are late,
//! lost or repeated. The adapter makes one attempt per order and gives up after a while (correctness.md 18).

use std::collections::BTreeMap;

use cloud_core_flows::port::{BankAnswer, BankCallKind, BankOrder, Input};
use schemas::ids::PaymentId;

use super::fault::Fault;
use super::plan::Plan;
use super::{Happening, Violation, World, say};
use crate::bank::{Book, Decision, Key, RefundRequest, TransferRequest};

/// An adapter waits for an answer no longer than its setting, which is from this to five times as much, in
/// milliseconds.
const PATIENCE_MS: u64 = 4_000;

/// The banks and the calls under way.
pub(super) struct BankSide {
    pub(super) book: Book,
    pub(super) outage_until: u64,
    calls: BTreeMap<u64, Call>,
    next: u64,
    /// For which payment a key was used, as the reference on the statement says.
    pub(super) payments: BTreeMap<[u8; 16], PaymentId>,
}

struct Call {
    order: BankOrder,
    /// The run of the core that waits for the answer.
    run: u64,
    answered: bool,
}

impl BankSide {
    pub(super) fn new(plan: &Plan) -> Result<Self, Violation> {
        let mut book = Book::default();
        let code = plan.currency.code();
        let mut open = |name: &str, balance| {
            book.open_account(name, balance, code).map_err(|why| Violation::harness(format!("{name}: {why}")))
        };
        for (index, tenant) in plan.tenants.iter().enumerate() {
            if plan.is_http(index) {
                open(&format!("{}/holding", tenant.id), plan.currency.minor(0).decimal())?;
            }
        }
        for person in plan.people.iter().filter(|person| plan.is_http(person.tenant)) {
            open(&person.principal.to_string(), person.wealth.decimal())?;
        }
        Ok(Self { book, outage_until: 0, calls: BTreeMap::new(), next: 0, payments: BTreeMap::new() })
    }

    /// What a payment moved and what of it went back, in minor units, if the transfer was decided.
    pub(super) fn moved(&self, key: [u8; 16], plan: &Plan) -> Option<(bool, u64, u64)> {
        let transfer = self.book.transfers.get(&Key(key))?;
        let done = transfer.decision == Decision::Done;
        let minor = |decimal| {
            schemas::money::Money::from_decimal(decimal, plan.currency).map_or(u64::MAX, |money| money.minor)
        };
        let amount = transfer.request.as_ref().map_or(0, |request| minor(request.amount));
        Some((done, if done { amount } else { 0 }, minor(transfer.refunded)))
    }
}

impl World {
    /// Order placed: the adapter's one attempt.
    pub(super) fn bank_order(&mut self, order: BankOrder) -> Result<(), Violation> {
        self.witness_order(&order)?;
        let payment = order.payment;
        let facts = self.facts.payments.entry(payment).or_default();
        if facts.transfer_key.is_some_and(|known| known != order.transfer_key) {
            return Err(self.broken("MO-3", format!("payment {payment} has two transfer keys")));
        }
        facts.transfer_key = Some(order.transfer_key);
        match order.call {
            BankCallKind::Refund => {
                facts.refund_keys.insert(order.refund_key);
            }
            BankCallKind::Cancel => facts.fenced = true,
            BankCallKind::Transfer | BankCallKind::Status => {}
        }
        for key in [order.transfer_key, order.refund_key] {
            if *self.bank.payments.entry(key).or_insert(payment) != payment {
                return Err(self.broken("MO-3", "two payments share a key at the bank"));
            }
        }
        say!(self, "core>bank", "{:?} {} for {payment}", order.call, order.amount);
        self.bank.next += 1;
        let id = self.bank.next;
        self.bank.calls.insert(id, Call { order, run: self.core.run, answered: false });
        let patience_ms = self.random.bank.range(PATIENCE_MS, 5 * PATIENCE_MS);
        self.after(patience_ms, Happening::BankGivesUp(id));
        if self.strikes(Fault::BankRequestLost) {
            return Ok(());
        }
        let late = self.strikes(Fault::BankRequestLate);
        let way = self.bank_way(late.then_some((Fault::BankRequestLate, 1_000, 90_000)));
        self.after(way, Happening::BankHears(id));
        if self.strikes(Fault::BankRepeats) {
            let again = self.random.of(Fault::BankRepeats).range(5, 30_000);
            self.after(way + again, Happening::BankHears(id));
        }
        Ok(())
    }

    /// How long a message takes. The ordinary way is always drawn, so that a fault does not disturb the rest.
    fn bank_way(&mut self, late: Option<(Fault, u64, u64)>) -> u64 {
        let ordinary = self.random.bank.range(5, 200);
        late.map_or(ordinary, |(fault, low, high)| self.random.of(fault).range(low, high))
    }

    pub(super) fn bank_hears(&mut self, id: u64) -> Result<(), Violation> {
        if self.now < self.bank.outage_until {
            return Ok(());
        }
        let Some(order) = self.bank.calls.get(&id).map(|call| call.order.clone()) else { return Ok(()) };
        let answer = self.bank_decides(&order)?;
        say!(self, "bank", "{:?} for {}: {answer:?}", order.call, order.payment);
        if self.strikes(Fault::BankAnswerLost) {
            return Ok(());
        }
        let late = self.strikes(Fault::BankAnswerLate);
        let way = self.bank_way(late.then_some((Fault::BankAnswerLate, 300, 6_000)));
        self.after(way, Happening::BankSays(id, answer));
        Ok(())
    }

    fn bank_decides(&mut self, order: &BankOrder) -> Result<BankAnswer, Violation> {
        let key = Key(order.transfer_key);
        let currency = order.amount.currency.code().to_owned();
        let decided = match order.call {
            BankCallKind::Transfer => {
                let fresh = !self.bank.book.transfers.contains_key(&key);
                let refuse = (fresh && self.strikes(Fault::BankRefuses)).then_some("account_frozen");
                let request = TransferRequest {
                    from: order.from.clone(),
                    to: order.to.clone(),
                    amount: order.amount.decimal(),
                    currency,
                    not_after_ms: order.not_after.0,
                    reference: order.payment.to_string(),
                };
                self.bank.book.transfer(key, &request, self.plan.epoch_ms + self.now, refuse)
            }
            BankCallKind::Status => match self.bank.book.status(key) {
                Some(decision) => Ok(decision),
                None => return Ok(BankAnswer::NotFound),
            },
            BankCallKind::Cancel => self.bank.book.cancel(key),
            BankCallKind::Refund => {
                let refund = Key(order.refund_key);
                let fresh = !self.bank.book.refunds.contains_key(&refund);
                let refuse = (fresh && self.strikes(Fault::BankRefusesRefund)).then_some("account_closed");
                let request = RefundRequest { of: key, amount: order.amount.decimal(), currency };
                let decided = self.bank.book.refund(refund, &request, refuse);
                if let Err(why) = &decided {
                    let text = format!("refund of payment {}: {why}", order.payment);
                    return Err(self.broken("MO-3 at the bank", text));
                }
                decided
            }
        };
        Ok(match decided {
            Ok(Decision::Done) => BankAnswer::Done,
            Ok(Decision::Refused { code }) => BankAnswer::Refused(code),
            Ok(Decision::Cancelled) => BankAnswer::Cancelled,
            // What an adapter makes of 400 and 409.
            Err(_) => BankAnswer::Unknown,
        })
    }

    pub(super) fn bank_says(&mut self, id: u64, answer: BankAnswer) -> Result<(), Violation> {
        let run = self.core.run;
        let Some(call) = self.bank.calls.get_mut(&id).filter(|call| call.run == run && !call.answered) else {
            return Ok(());
        };
        call.answered = true;
        let (payment, call, key) = (call.order.payment, call.order.call, call.order.key());
        let is_done = answer == BankAnswer::Done && call != BankCallKind::Refund;
        self.core_handle(Input::Bank { payment, call, key, answer })?;
        self.watch_refund(payment);
        if is_done {
            let heard = self.heard_now();
            self.facts.payment(payment).done.get_or_insert(heard);
        }
        Ok(())
    }

    pub(super) fn bank_gives_up(&mut self, id: u64) -> Result<(), Violation> {
        self.bank_says(id, BankAnswer::Unknown)
    }

    pub(super) fn trouble_bank(&mut self) {
        if self.now >= self.bank.outage_until
            && self.random.of(Fault::BankOutage).chance(10)
            && self.strikes(Fault::BankOutage)
        {
            self.bank.outage_until = self.now + self.random.of(Fault::BankOutage).range(5_000, 300_000);
            say!(self, "bank", "is away until {} ms", self.bank.outage_until);
        }
    }
}
