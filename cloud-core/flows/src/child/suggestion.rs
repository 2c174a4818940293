//! A person pays from its own account; and where that has too little, is asked whether to pay through one of the children
//! that it guards (PC-11).
//!
//! ```text
//! person: own-payment ─ the account covers it ──> Settled, at once
//!                     ├ a child could pay ──────> Suggested ──suggestion-answer: a child──> PC-1: that child is asked
//!                     └ nobody could: refused         │ nobody ──> Cancelled
//!                                                     └ silence ─> Expired
//! ```
//!
//! | facts | person | child | payee | end, who is told |
//! |---|---|---|---|---|
//! | the account covers it | pays the amount | nothing | has it | settled: person, payee (a child reads it on its piggy bank) |
//! | it does not, and no child fits | nothing | nothing | nothing | refused `balance_insufficient`: person |
//! | a child is chosen in time | nothing | as `child.rs` says, from the order on | as `child.rs` says | the child's payment |
//! | a child is chosen that can't pay any more | nothing | nothing | nothing | refused as its order is; still suggested |
//! | nobody is chosen | nothing | nothing | nothing | cancelled: person |
//! | no answer by `settle_at` | nothing | nothing | nothing | expired: person |
//! | an answer later, or a second one | as the first end says | as the first end says | as the first end says | refused `already_ended` |
//!
//! A child fits if this person may order just that from it now: guardianship, piggy bank, limits, room; and if its account
//! still has the tenant's `child_keep_minor` afterwards. While it is suggested nothing is reserved: the child's money is
//! when the order comes.

use schemas::ids::{Code, IdempotencyKey, MessageId, PaymentId, Principal, PrincipalId};
use schemas::message::{
    self, Down, Names, PaySuggestion, Payee, PaymentOrder, PaymentState, PaymentStatus, SuggestionAnswer,
};
use schemas::time::Timestamp;
use schemas::wire::Text;
use schemas_mutants::Mutant;

use super::ChildFlow;
use crate::books::{self, Role};
use crate::event::Event;
use crate::limits;
use crate::payment::{OwnPayment, OwnPhase};
use crate::registry::Tenant;
use crate::rejection::Rejection;
use crate::tell::status_id;

impl<'a> ChildFlow<'a> {
    /// The ladder, in this order: who pays, what the order says of itself, whether there is room, how much the account has,
    /// who else could pay.
    pub(crate) fn own_payment(
        &mut self,
        payer: &Principal,
        key: IdempotencyKey,
        not_after: Timestamp,
        order: &message::OwnPayment,
    ) -> Result<PaymentId, Rejection> {
        let tenant = self.check_own(payer, order)?;
        let retention = self.now.plus_ms(tenant.deadlines.retention_ms);
        let mine = || self.cloud.own_payments_of(payer);
        if mine().count() >= limits::OWN_PAYMENTS {
            let text = "too many of your payments are remembered: wait until the first are forgotten";
            return Err(Rejection::new("too_many_payments", text));
        }
        let parts = [payer.to_string().into_bytes(), key.0.to_vec(), not_after.0.to_be_bytes().to_vec()];
        let id = PaymentId::derived("own-payment", &parts.each_ref().map(Vec::as_slice));
        let mut payment = OwnPayment {
            id,
            payer: payer.clone(),
            amount: order.amount,
            payee: order.payee.clone(),
            categories: order.categories.clone(),
            note: order.note.clone(),
            children: Names::default(),
            opened_at: self.now,
            phase: closed(PaymentState::Settled, None, retention),
        };
        let account = Role::Person(payer).account(&payer.tenant);
        let available = self.cloud.ledger.available(account).unwrap_or_default();
        if available >= order.amount.minor {
            let transfer = books::own_payment(&payment);
            self.out.book(self.cloud, &[transfer], self.now).map_err(|reason| {
                Rejection::new("books_refused", format!("the books refuse the payment: {reason}"))
            })?;
            self.out.event(Event::OwnPaymentOpened(payment.clone()));
            self.show_own(&payment);
            self.tell_own(&payment, PaymentState::Settled, None);
            return Ok(id);
        }
        if mine().filter(|payment| payment.is_suggested()).count() >= limits::SUGGESTIONS {
            let text = "you are asked about other payments: answer first";
            return Err(Rejection::new("too_many_open", text));
        }
        payment.children = self.who_could_pay(&payment)?;
        let answer_by = self.now.plus_ms(tenant.deadlines.prompt_ms);
        let settle_at = answer_by.plus_ms(tenant.deadlines.report_ms);
        payment.phase = OwnPhase::Suggested { answer_by, settle_at };
        self.out.event(Event::OwnPaymentOpened(payment.clone()));
        self.suggest(&payment, answer_by);
        Ok(id)
    }

    /// Through a child, which makes it that guardian's order; or not at all.
    pub(crate) fn suggestion_answer(
        &mut self,
        payer: &Principal,
        key: IdempotencyKey,
        not_after: Timestamp,
        answer: &SuggestionAnswer,
    ) -> Result<PaymentId, Rejection> {
        let payment = self.cloud.own_payment(payer, answer.payment);
        let payment = payment.ok_or_else(|| Rejection::new("payment_unknown", "you have no such payment"))?;
        let settle_at = match payment.phase {
            OwnPhase::Suggested { settle_at, .. } => settle_at,
            OwnPhase::Closed { .. } => self.now,
        };
        let is_over = !payment.is_suggested() || self.now > settle_at;
        if is_over && !Mutant::SuggestionAnsweredTwice.is_active() {
            return Err(Rejection::new("already_ended", "this payment has already ended"));
        }
        let Some(child) = &answer.child else {
            self.close_own(payment, PaymentState::Cancelled, None);
            self.tell_own(payment, PaymentState::Cancelled, Some(Code::known("declined")));
            return Ok(payment.id);
        };
        if !payment.children.iter().any(|suggested| suggested == child) {
            return Err(Rejection::new("not_suggested", "this child was not among those that could pay"));
        }
        self.check_kept(payment, child)?;
        let through = self.order(payer, key, not_after, &order_through(payment, child), None)?;
        self.close_own(payment, PaymentState::Cancelled, Some(through));
        Ok(through)
    }

    /// Waiting has ended, or memory of it.
    pub(crate) fn own_timeout(&mut self, payment: &OwnPayment) {
        match payment.phase {
            OwnPhase::Suggested { .. } => {
                self.close_own(payment, PaymentState::Expired, None);
                self.tell_own(payment, PaymentState::Expired, Some(Code::known("unanswered")));
            }
            OwnPhase::Closed { .. } => {
                let paid = [books::allowance_id(payment.id)];
                if self.cloud.ledger.transfer(paid[0]).is_some()
                    && let Ok(events) = self.cloud.ledger.decide_retire(&paid)
                {
                    self.out.events.extend(events.into_iter().map(Event::Ledger));
                }
                let (payer, id) = (payment.payer.clone(), payment.id);
                self.out.event(Event::OwnPaymentForgotten { payer, payment: id });
            }
        }
    }

    /// A start of the core: nobody's answer is too late because we were away (correctness.md 15).
    pub(crate) fn reopen_own(&mut self, payment: &OwnPayment) {
        let OwnPhase::Suggested { answer_by, settle_at } = payment.phase else { return };
        let reconnected = self.now.plus_ms(self.cloud.deadlines(&payment.payer.tenant).reconnect_ms);
        if reconnected > settle_at && !Mutant::SuggestionNotReopened.is_active() {
            // Who has not seen it yet has as long.
            let phase = OwnPhase::Suggested { answer_by: answer_by.max(reconnected), settle_at: reconnected };
            let (payer, payment) = (payment.payer.clone(), payment.id);
            self.out.event(Event::OwnPaymentMoved { payer, payment, phase });
        }
    }

    /// A person asks how one stands.
    pub(crate) fn tell_own_as_it_stands(&mut self, payer: &Principal, id: PaymentId) {
        match self.cloud.own_payment(payer, id) {
            Some(payment) if payment.is_suggested() => self.offer_suggestions(payer),
            Some(payment) => {
                if let OwnPhase::Closed { state, .. } = payment.phase {
                    self.tell_party(payment, state, None, payer);
                }
            }
            None => {}
        }
    }

    /// What waits for this person is asked again, unless it is still owed.
    pub(crate) fn offer_suggestions(&mut self, payer: &Principal) {
        let cloud = self.cloud;
        for payment in cloud.own_payments_of(payer) {
            if let OwnPhase::Suggested { answer_by, .. } = payment.phase
                && answer_by > self.now
                && !cloud.outbox.contains(payer, suggestion_id(payment.id))
            {
                self.suggest(payment, answer_by);
            }
        }
    }

    fn check_own(&self, payer: &Principal, order: &message::OwnPayment) -> Result<&'a Tenant, Rejection> {
        let tenant = self.internal_tenant(payer)?;
        if self.cloud.registry.child(payer).is_some() {
            let text = "a child's account pays what its guardians order: wish for it, or ask them";
            return Err(Rejection::new("payer_is_child", text));
        }
        // Who signs for each payment elsewhere is not paid for by a token alone here (CP-5).
        if self.cloud.registry.person(payer).is_some_and(|person| person.public_key.is_some()) {
            let text = "you sign your payments, and this one can't be signed: pay at a chip or another way";
            return Err(Rejection::new("verification_needed", text));
        }
        let plain = order_of(order, &payer.id);
        super::check_amount(&plain, tenant)?;
        if matches!(&order.payee, Payee::Guardian) || order.payee == Payee::Person(payer.id.clone()) {
            return Err(Rejection::new("payee_is_payer", "name another person, or a merchant"));
        }
        self.cloud
            .registry
            .require_payee(payer, &order.payee)
            .map_err(|_| Rejection::new("payee_unknown", format!("`{}` has no account here", order.payee)))?;
        Ok(tenant)
    }

    fn who_could_pay(&self, payment: &OwnPayment) -> Result<Names, Rejection> {
        let wards = self.cloud.registry.children_of(&payment.payer);
        let fits = |child: &PrincipalId| {
            self.check_kept(payment, child).is_ok()
                && self.check_order(&payment.payer, &order_through(payment, child), None).is_ok()
        };
        let fitting = wards.map(|(child, _)| &child.id).filter(|child| fits(child));
        let names: Vec<_> = fitting.take(schemas::limits::SUGGESTED_CHILDREN).cloned().collect();
        if names.is_empty() {
            let text = format!("your account has less than {}: pay in first", payment.amount);
            return Err(Rejection::new("balance_insufficient", text));
        }
        Ok(Names::new(names).unwrap_or_default())
    }

    /// What must stay on a child's account.
    fn check_kept(&self, payment: &OwnPayment, child: &PrincipalId) -> Result<(), Rejection> {
        let child = Principal { tenant: payment.payer.tenant.clone(), id: child.clone() };
        let keep = self.cloud.registry.tenant(&child.tenant).map_or(0, |tenant| tenant.child_keep_minor);
        let account = Role::Person(&child).account(&child.tenant);
        let available = self.cloud.ledger.available(account).unwrap_or_default();
        let keep = if Mutant::KeepNotAsked.is_active() { 0 } else { keep };
        if available < payment.amount.minor.saturating_add(keep) {
            let keep = payment.amount.currency.minor(keep);
            let text = format!("the child's account has too little: {keep} must stay there");
            return Err(Rejection::new("balance_insufficient", text));
        }
        Ok(())
    }

    fn suggest(&mut self, payment: &OwnPayment, answer_by: Timestamp) {
        let suggestion = PaySuggestion {
            payment: payment.id,
            amount: payment.amount,
            payee: payment.payee.clone(),
            children: payment.children.clone(),
            answer_by,
        };
        let body = Down::PaySuggestion(suggestion);
        self.out.owe(self.cloud, &payment.payer, suggestion_id(payment.id), body, answer_by);
    }

    fn close_own(&mut self, payment: &OwnPayment, state: PaymentState, through: Option<PaymentId>) {
        let asked = suggestion_id(payment.id);
        if self.cloud.outbox.contains(&payment.payer, asked) {
            self.out.withdraw(&payment.payer, asked, "superseded");
        }
        let forget_at = self.now.plus_ms(self.cloud.deadlines(&payment.payer.tenant).retention_ms);
        let (payer, phase) = (payment.payer.clone(), closed(state, through, forget_at));
        self.out.event(Event::OwnPaymentMoved { payer, payment: payment.id, phase });
    }

    /// Somebody who gets it may be a child.
    fn show_own(&mut self, payment: &OwnPayment) {
        if let Payee::Person(id) = &payment.payee {
            self.out.shown.push(Principal { tenant: payment.payer.tenant.clone(), id: id.clone() });
        }
    }

    fn tell_own(&mut self, payment: &OwnPayment, state: PaymentState, reason: Option<Code>) {
        let payer = &payment.payer;
        let payee = match &payment.payee {
            Payee::Guardian => None,
            Payee::Person(id) => Some(Principal { tenant: payer.tenant.clone(), id: id.clone() }),
            Payee::Merchant(merchant) => self.cloud.registry.merchant_terminal(&payer.tenant, merchant),
        };
        let hears = |payee: &Principal| payee != payer && !self.reads_it_on_a_piggy_bank(payee);
        let payee = payee.filter(|payee| state == PaymentState::Settled && hears(payee));
        for party in [payer.clone()].into_iter().chain(payee) {
            self.tell_party(payment, state, reason.clone(), &party);
        }
    }

    fn tell_party(
        &mut self,
        payment: &OwnPayment,
        state: PaymentState,
        reason: Option<Code>,
        party: &Principal,
    ) {
        let settled = state == PaymentState::Settled;
        let (amount, payer) = (payment.amount, &payment.payer);
        let text = match state {
            PaymentState::Settled => format!("{} paid {amount}.", payer.id),
            PaymentState::Expired => "Nobody answered in time. Nothing was paid.".to_owned(),
            _ => "Cancelled. Nothing was paid.".to_owned(),
        };
        let status = PaymentStatus {
            payment: payment.id,
            state,
            amount,
            paid: amount.currency.minor(if settled { amount.minor } else { 0 }),
            delivered: u32::from(settled),
            quantity: 1,
            reason,
            text: Text::new(text),
            at: self.now,
        };
        let until = self.now.plus_ms(limits::STATUS_LIFE_MS);
        let id = status_id(payment.id, party, state);
        self.out.owe(self.cloud, party, id, Down::PaymentStatus(status), until);
    }
}

fn order_of(order: &message::OwnPayment, child: &PrincipalId) -> PaymentOrder {
    let (payee, note) = (Some(order.payee.clone()), order.note.clone());
    PaymentOrder {
        payee,
        note,
        ..PaymentOrder::deduction(child.clone(), order.amount, order.categories.clone())
    }
}

/// The order that it becomes.
fn order_through(payment: &OwnPayment, child: &PrincipalId) -> PaymentOrder {
    let (payee, note) = (Some(payment.payee.clone()), payment.note.clone());
    let plain = PaymentOrder::deduction(child.clone(), payment.amount, payment.categories.clone());
    PaymentOrder { payee, note, ..plain }
}

fn closed(state: PaymentState, through: Option<PaymentId>, forget_at: Timestamp) -> OwnPhase {
    OwnPhase::Closed { state, through, forget_at }
}

fn suggestion_id(payment: PaymentId) -> MessageId {
    MessageId::derived("suggestion", &[&payment.0])
}
