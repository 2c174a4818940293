//! Whose money moves, and where to: every order to the bank and the bank's own book, held against what the payer has
//! consented to and asked for (CP-5, CP-6, MO-6).

use cloud_core_flows::admin::PaymentRow;
use cloud_core_flows::port::{BankCallKind, BankOrder};
use rust_decimal::Decimal;
use schemas::ids::PaymentId;
use schemas::message;
use schemas::signed::Verification;
use schemas::topic::Kind;

use super::facts::{Heard, Wish};
use super::lane::Party;
use super::{Violation, World};

impl World {
    /// An order leaves for the bank: with the payer's consent, from the payer's account to the holding account of the
    /// tenant, the price of what the chip has offered.
    pub(super) fn witness_order(&self, order: &BankOrder) -> Result<(), Violation> {
        let (payment, Some(payer)) = (order.payment, self.payer(order.payment)) else {
            return Err(
                self.broken("CP-6", format!("the bank hears of payment {}, and nobody asked", order.payment))
            );
        };
        let price = self.offer_of(payment).map(|offer| self.facts.offers[offer].information.amount);
        let holding = format!("{}/holding", payer.tenant);
        if order.from != payer.to_string() || order.to != holding {
            let text = format!("{payer} pays {payment} from {} to {}", order.from, order.to);
            return Err(self.broken("CP-6", text));
        }
        if order.call == BankCallKind::Cancel {
            self.witness_fence(payment)?;
        }
        if order.call == BankCallKind::Transfer {
            self.witness_consent(payment)?;
            if price != Some(order.amount) {
                return Err(
                    self.broken("CP-6", format!("{} are asked for, offered were {price:?}", order.amount))
                );
            }
        }
        Ok(())
    }

    /// CP-5: nothing is paid or delivered before its payer has signed for it.
    pub(super) fn witness_consent(&self, payment: PaymentId) -> Result<(), Violation> {
        if self.facts.payments.get(&payment).is_some_and(|facts| facts.verified_well) {
            return Ok(());
        }
        Err(self.broken("CP-5", format!("payment {payment} goes on, and its payer has not consented")))
    }

    /// correctness.md 18: the transfer is fenced off when the payer has asked for that or the bank's time is over.
    fn witness_fence(&self, payment: PaymentId) -> Result<(), Violation> {
        let mut requests = self.facts.requests.values();
        let asked = requests.any(|request| request.wish == Wish::Cancel { payment });
        let payer = self.payer(payment);
        let tenant =
            self.plan.tenants.iter().find(|tenant| Some(&tenant.id) == payer.as_ref().map(|p| &p.tenant));
        let consent = self.facts.payments.get(&payment).and_then(|facts| facts.consent);
        let over = tenant.zip(consent).is_some_and(|(tenant, consent)| {
            self.core_time(self.now) >= self.core_time(consent.at_ms) + tenant.deadlines.bank_ms
        });
        if asked || over {
            return Ok(());
        }
        Err(self.broken("correctness.md 18", format!("payment {payment} is fenced off before its time")))
    }

    /// The payment that its own payer consents to in this message.
    pub(super) fn consent_in(&self, party: Party, kind: Kind, payload: &[u8]) -> Option<PaymentId> {
        let message::Up::PaymentVerification(said) = message::Up::decode(kind, payload).ok()?.body else {
            return None;
        };
        let read = Verification::read_unverified(&said.verification).ok()?;
        (self.payer(read.payment) == Some(self.principal(party))).then_some(read.payment)
    }

    /// What has just been handled.
    pub(super) fn heard_now(&self) -> Heard {
        let position = self.core.driver.as_ref().map_or(0, |driver| driver.decided().value());
        Heard { at_ms: self.now, position }
    }

    /// What the core had heard and not yet written when it died is as if it had never been said.
    pub(super) fn forget_unheard(&mut self, found: u64) {
        for facts in self.facts.payments.values_mut() {
            facts.consent = facts.consent.filter(|heard| heard.position <= found);
            facts.done = facts.done.filter(|heard| heard.position <= found);
        }
        self.facts.family.forget_unheard(found);
    }

    /// MO-6: each payer's account at the bank lacks exactly what that payer's payments have cost.
    pub(super) fn audit_payers(&self, rows: &[PaymentRow]) -> Result<(), Violation> {
        for person in
            self.plan.people.iter().filter(|person| !person.is_till && self.plan.is_http(person.tenant))
        {
            let account = self.bank.book.accounts.get(&person.principal.to_string());
            let lacks = account.map(|account| account.opened_with - account.balance);
            let cost =
                rows.iter().filter(|row| row.payer == person.principal).map(|row| self.charged(row)).sum();
            let cost = self.plan.currency.minor(cost).decimal();
            if lacks.unwrap_or(Decimal::ZERO) != cost {
                let text = format!("{} lacks {lacks:?}, by payments {cost}", person.principal);
                return Err(self.broken("MO-6", text));
            }
        }
        Ok(())
    }
}
