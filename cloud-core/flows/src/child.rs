//! The parent-child payment on a piggy bank (PC-1 to PC-10, PC-13, PC-15, PC-16): a guardian orders, the child answers
//! at its piggy bank, and only then its money moves: at once (a deduction), or when a terminal at a place hands in the
//! code that the piggy bank was given.
//!
//! ```text
//! guardian: payment-order ──reserve──> Prompting ──piggy bank: confirm──> Settled ──payee gives back──> Refunded
//!               │ refused                  │ reject ───────────────────> Rejected     (the reservation is voided)
//!               v                          │ silence ──────────────────> Expired              "
//!        nothing moves                     │ cancelled by the guardian ─> Cancelled           "
//!                                          ├ device or bond gone ───────> Refused             "
//!                                          │
//!                                          └ confirm, to pay with a code ─> Presenting ──terminal: payment-scan──> Settled
//!                                                                              └ as above, but for the child's no
//! ```
//!
//! Who ends up with what:
//!
//! | facts | child | payee | final state, who is told |
//! |---|---|---|---|
//! | order refused (guardianship, limits, balance, piggy bank) | nothing | nothing | no payment: guardian |
//! | confirmed by `settle_at` | pays `amount` | has `amount` | settled: as the order says |
//! | rejected by `settle_at` | nothing | nothing | rejected: as the order says |
//! | no answer by `settle_at` | nothing | nothing | expired: as the order says, and the piggy bank |
//! | confirmed by `settle_at`, to pay with a code | `amount` stays reserved | nothing yet | presenting: guardian; the piggy bank gets the code |
//! | its code is handed in (below) by `settle_at` | pays `amount` | has `amount` | settled: as the order says, the piggy bank, whoever scanned |
//! | nobody hands it in, or every scan is refused | nothing | nothing | expired `code_expired`: guardian, piggy bank |
//! | confirmed, and nobody made sure by whom (PC-16) | nothing | nothing | refused `child_not_identified`: guardian, piggy bank |
//! | an answer that arrives later, or a second one | as the first end says | as the first end says | unchanged: piggy bank |
//! | cancelled by the guardian before an answer, or before a scan | nothing | nothing | cancelled: guardian, piggy bank |
//! | cancelled after an answer, or after a scan | as answered | as answered | refused `already_ended`: guardian |
//! | another piggy bank bound; guardianship ended | nothing | nothing | refused: guardian, piggy bank |
//! | piggy bank revoked or enrolled anew | nothing | nothing | refused: guardian |
//! | the piggy bank does not take the prompt, or the code | nothing | nothing | refused: guardian |
//! | the payee gives a settled payment back | has it back | nothing | refunded, once: everyone concerned; it was spent on its day all the same |
//!
//! A scan counts if it was made by `expires_at` and arrives by `settle_at`; the first of two wins, and the second one is
//! told `code_used`. `settle_at` lies behind `expires_at` by the time of a report (PC-15), and never before a terminal
//! could have come back after an outage of ours. What else a scan is told: `code_unreadable`, `not_a_scanner`,
//! `code_forged`, `payment_unknown`, `already_ended`, `code_expired`, `wrong_payee`, `wrong_place`, `wrong_category`,
//! `wrong_amount`, in this order; none of these changes the payment (`child/code.rs`).

pub(crate) mod allowance;
pub(crate) mod code;
pub(crate) mod suggestion;
pub(crate) mod view;
pub(crate) mod wish;
pub(crate) mod words;

use schemas::ids::{Code, IdempotencyKey, MessageId, PaymentId, Principal};
use schemas::message::{
    ChildAnswer, ChildLimits, Down, Payee, PaymentOrder, PaymentPrompt, PaymentState, PromptAnswer, ResultTo,
};
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;
use schemas_mutants::Mutant;

use crate::admin::BankKind;
use crate::books::{ChildLegs, Role};
use crate::children::{Bonds, Child, Wish, check_currency, no_internal_account};
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::event::Event;
use crate::exceptions::Case;
use crate::limits;
use crate::payment::{ChildPayment, ChildPhase, CodeTerms};
use crate::registry::{Standing, Tenant};
use crate::rejection::Rejection;
use crate::signer::Signer;
use crate::tell::{child_status, status_id};
use code::{CODE_EXPIRED, code_id};

/// Why a payment ended whose piggy bank was revoked or enrolled anew.
const DEVICE_GONE: &str = "piggy_bank_revoked";

/// One decision of the flow in the making: reads the cloud, writes events and outputs.
pub(crate) struct ChildFlow<'a> {
    pub(crate) cloud: &'a Cloud,
    pub(crate) now: Timestamp,
    pub(crate) out: &'a mut Decision,
}

/// An order that has passed every check.
struct Checked {
    child: Principal,
    piggy_bank: Principal,
    payee: Payee,
    amount: Money,
    code: Option<CodeTerms>,
    day: i32,
    prompt_ms: u64,
    report_ms: u64,
}

impl<'a> ChildFlow<'a> {
    /// PC-1, PC-2: a guardian orders. What will be taken is fixed and reserved here, where the prompt is made.
    pub(crate) fn order(
        &mut self,
        guardian: &Principal,
        key: IdempotencyKey,
        not_after: Timestamp,
        order: &PaymentOrder,
        signer: Option<&Signer>,
    ) -> Result<PaymentId, Rejection> {
        let checked = self.check_order(guardian, order, signer)?;
        let parts = [guardian.to_string().into_bytes(), key.0.to_vec(), not_after.0.to_be_bytes().to_vec()];
        let id = PaymentId::derived("child-payment", &parts.each_ref().map(Vec::as_slice));
        let answer_by = self.now.plus_ms(checked.prompt_ms);
        let settle_at = answer_by.plus_ms(checked.report_ms);
        let payment = ChildPayment {
            id,
            guardian: guardian.clone(),
            child: checked.child,
            piggy_bank: checked.piggy_bank,
            payee: checked.payee,
            amount: checked.amount,
            ordered: order.amount,
            categories: order.categories.clone(),
            note: order.note.clone(),
            wish: order.wish,
            tell: order.tell.unwrap_or(ResultTo::Both),
            code: checked.code,
            identify: order.identify.unwrap_or(false),
            day: checked.day,
            opened_at: self.now,
            answer_by,
            phase: ChildPhase::Prompting { settle_at },
            moved_at: self.now,
            reason: None,
            position: None,
        };
        self.out.book(self.cloud, &[ChildLegs::of(&payment).reserve()], self.now).map_err(|reason| {
            Rejection::new("books_refused", format!("the books refuse the reservation: {reason}"))
        })?;
        self.out.shown.push(payment.child.clone());
        if let Some(wish) = order.wish {
            self.withdraw_notice_of(&payment.child, wish);
        }
        let prompt = Down::PaymentPrompt(self.prompt(&payment));
        self.out.event(Event::ChildPaymentOpened(payment.clone()));
        self.out.owe(self.cloud, &payment.piggy_bank, prompt_id(id), prompt, answer_by);
        self.tell(&payment, PaymentState::Prompting, None, &[&payment.guardian]);
        Ok(id)
    }

    fn prompt(&self, payment: &ChildPayment) -> PaymentPrompt {
        PaymentPrompt {
            payment: payment.id,
            child: payment.child.id.clone(),
            guardian: payment.guardian.id.clone(),
            payee: payee_text(self.cloud, payment),
            amount: payment.amount,
            ordered: payment.ordered,
            categories: payment.categories.clone(),
            note: payment.note.clone(),
            answer_by: payment.answer_by,
            mode: payment.code.as_ref().map(|code| code.mode),
            identify: payment.identify.then_some(true),
        }
    }

    /// The ladder, in this order: whose child it is, what the order says of itself, where the child is asked, how much
    /// the account has, what the limits leave, whether there is room.
    fn check_order(
        &self,
        guardian: &Principal,
        order: &PaymentOrder,
        signer: Option<&Signer>,
    ) -> Result<Checked, Rejection> {
        let (name, child) = self.guarded(guardian, &order.child)?;
        let tenant = self.internal_tenant(&name)?;
        check_amount(order, tenant)?;
        if let Some(wish) = order.wish {
            self.check_wish(guardian, child, wish)?;
        }
        let code = code::terms(order, signer)?;
        let place = code::place_of(self.cloud, &name.tenant, order)?;
        let payee = match order.payee.as_ref().or(child.bonds.receiving.as_ref()) {
            _ if code.is_some() => code::payee_of(self.cloud, &name.tenant, order, place, child)?,
            None | Some(Payee::Guardian) => Payee::Person(guardian.id.clone()),
            Some(payee) => payee.clone(),
        };
        self.cloud.registry.require_payee(&name, &payee).map_err(|why| match why.code.as_str() {
            "payee_is_child" => why,
            _ => Rejection::new("payee_unknown", format!("`{payee}` has no account here")),
        })?;
        let piggy_bank = self.check_piggy_bank(&name, child)?;
        let account = Role::Person(&name).account(&name.tenant);
        let available = self.cloud.ledger.available(account).unwrap_or_default();
        let amount = amount_taken(order, available)?;
        let at = child.local_time(self.now);
        if !Mutant::LimitsNotAsked.is_active() {
            child.check_limits(amount, &order.categories, at)?;
        }
        if child.kept >= limits::KEPT_PAYMENTS_OF_CHILD {
            let text =
                "too many payments of this child are remembered: wait until the first of them are forgotten";
            return Err(Rejection::new("too_many_payments", text));
        }
        let open = |who: &Principal| self.cloud.open_child_payments_of(who).len();
        if open(&name) >= limits::OPEN_PAYMENTS_OF_PAYER || open(guardian) >= limits::OPEN_ORDERS_OF_GUARDIAN
        {
            let text = "too many payments wait for this child: let it answer first, or cancel one";
            return Err(Rejection::new("too_many_open", text));
        }
        // The prompt, the code, and what is to be told when it ends.
        let messages = if code.is_some() { 3 } else { 2 };
        if !self.cloud.outbox.has_room(&piggy_bank, messages) {
            let text = "the piggy bank has too much to fetch: connect it, then try again";
            return Err(Rejection::new("device_busy", text));
        }
        let (prompt_ms, report_ms) = (tenant.deadlines.prompt_ms, tenant.deadlines.report_ms);
        Ok(Checked { child: name, piggy_bank, payee, amount, code, day: at.day, prompt_ms, report_ms })
    }

    /// Nobody learns who is a child of somebody else.
    fn guarded(
        &self,
        guardian: &Principal,
        child: &schemas::ids::PrincipalId,
    ) -> Result<(Principal, &'a Child), Rejection> {
        let name = Principal { tenant: guardian.tenant.clone(), id: child.clone() };
        let found = self.cloud.registry.child(&name);
        let guards = |child: &&Child| {
            child.bonds.guardians.contains(&guardian.id) || Mutant::GuardianNotAsked.is_active()
        };
        let found = found.filter(guards).ok_or_else(|| {
            let text = format!("you are not registered as a guardian of `{child}`: ask the operator");
            Rejection::new("not_guardian", text)
        })?;
        Ok((name, found))
    }

    fn internal_tenant(&self, child: &Principal) -> Result<&'a Tenant, Rejection> {
        let tenant = self.cloud.registry.tenant(&child.tenant);
        tenant.filter(|tenant| tenant.bank == BankKind::Internal).ok_or_else(no_internal_account)
    }

    fn check_piggy_bank(&self, name: &Principal, child: &Child) -> Result<Principal, Rejection> {
        let Some(id) = child.bonds.piggy_bank.clone() else {
            let text = format!("`{name}` uses no piggy bank: ask the operator to bind one");
            return Err(Rejection::new("no_piggy_bank", text));
        };
        let device = Principal { tenant: name.tenant.clone(), id };
        let standing = self.cloud.registry.device(&device).map(|device| device.standing);
        if standing.is_none_or(|standing| standing == Standing::Revoked) {
            let text = "the child's piggy bank no longer works here: ask the operator for another one";
            return Err(Rejection::new("piggy_bank_revoked", text));
        }
        Ok(device)
    }

    /// PC-13: limits of a child, set whole by one of its guardians.
    pub(crate) fn limits(&mut self, guardian: &Principal, limits: &ChildLimits) -> Result<(), Rejection> {
        let (child, found) = self.guarded(guardian, &limits.child)?;
        let tenant = self.internal_tenant(&child)?;
        check_currency(limits, tenant.currency)?;
        if found.limits.as_ref() != Some(limits) {
            let (by, limits) = (guardian.clone(), limits.clone());
            self.out.event(Event::LimitsSet { child, guardian: by, limits });
        }
        Ok(())
    }

    /// PC-3, PC-4: the child's answer, from the piggy bank that was asked. Only the first one that comes in time counts.
    pub(crate) fn answer(
        &mut self,
        device: &Principal,
        answer: &PromptAnswer,
        signer: Option<&Signer>,
    ) -> Result<(), Rejection> {
        let asked = |payment: &&ChildPayment| {
            payment.piggy_bank == *device || Mutant::AnyPiggyBankAnswers.is_active()
        };
        let payment = self.cloud.child_payment(answer.payment).filter(asked);
        let payment =
            payment.ok_or_else(|| Rejection::new("payment_unknown", "this device was not asked for it"))?;
        let settle_at = match payment.phase {
            ChildPhase::Prompting { settle_at } => settle_at,
            // Its first word counts, and it has the code, or is owed it.
            ChildPhase::Presenting { .. } => return Ok(()),
            ChildPhase::Closed(_) => {
                if Mutant::LateConfirmPays.is_active() && answer.answer == ChildAnswer::Confirm {
                    self.settle(payment, answer.position);
                }
                // It may not have heard how it ended.
                self.tell(payment, payment.state(), payment.reason.clone(), &[&payment.piggy_bank]);
                return Ok(());
            }
        };
        if self.now > settle_at {
            return Ok(());
        }
        match answer.answer {
            ChildAnswer::Confirm => self.confirmed(payment, answer, signer),
            ChildAnswer::Reject if Mutant::RejectPays.is_active() => {
                self.confirmed(payment, answer, signer);
            }
            ChildAnswer::Reject => {
                self.release(payment, PaymentState::Rejected, None, answer.position);
            }
        }
        Ok(())
    }

    fn confirmed(&mut self, payment: &ChildPayment, answer: &PromptAnswer, signer: Option<&Signer>) {
        let is_identified = answer.identified == Some(true) || Mutant::IdentityNotAsked.is_active();
        if payment.identify && !is_identified {
            let reason = Some(Code::known("child_not_identified"));
            return self.release(payment, PaymentState::Refused, reason, answer.position);
        }
        match &payment.code {
            None => self.settle(payment, answer.position),
            Some(terms) => self.present(payment, terms, answer.position, signer),
        }
    }

    /// Nothing moves: the reservation is released, exactly once, with the end (PC-15).
    fn release(
        &mut self,
        payment: &ChildPayment,
        state: PaymentState,
        reason: Option<Code>,
        position: Option<schemas::message::Position>,
    ) {
        if !Mutant::ChildReservationKept.is_active() {
            self.book_surely(payment, ChildLegs::of(payment).void());
        }
        self.close(payment, state, reason.clone(), position);
        self.tell_end(payment, state, reason);
    }

    fn close(
        &mut self,
        payment: &ChildPayment,
        state: PaymentState,
        reason: Option<Code>,
        position: Option<schemas::message::Position>,
    ) {
        self.out.shown.push(payment.child.clone());
        if let Payee::Person(id) = &payment.payee {
            self.out.shown.push(Principal { tenant: payment.child.tenant.clone(), id: id.clone() });
        }
        let phase = ChildPhase::Closed(state);
        self.out.event(Event::ChildPaymentMoved { payment: payment.id, phase, reason, position });
    }

    /// The guardian withdraws: nothing moves if the child has not answered.
    pub(crate) fn cancel(
        &mut self,
        guardian: &Principal,
        payment: &ChildPayment,
    ) -> Result<PaymentId, Rejection> {
        if payment.guardian != *guardian {
            return Err(Rejection::new("payment_unknown", "you have no such payment"));
        }
        match payment.phase {
            ChildPhase::Prompting { .. } | ChildPhase::Presenting { .. } => {
                self.release(payment, PaymentState::Cancelled, Some(Code::known("cancelled")), None);
                Ok(payment.id)
            }
            ChildPhase::Closed(PaymentState::Cancelled) => Ok(payment.id),
            ChildPhase::Closed(_) => Err(Rejection::new("already_ended", "this payment has already ended")),
        }
    }

    /// PC-15: whoever got the money gives it back, whole, once.
    pub(crate) fn give_back(
        &mut self,
        from: &Principal,
        payment: &ChildPayment,
    ) -> Result<PaymentId, Rejection> {
        if self.payee_principal(payment).as_ref() != Some(from) {
            return Err(Rejection::new("payment_unknown", "you have no such payment, or it is too old"));
        }
        match payment.phase {
            ChildPhase::Closed(PaymentState::Settled) => {}
            ChildPhase::Closed(PaymentState::Refunded) => {
                return Err(Rejection::new("already_refunded", "this payment has already been given back"));
            }
            _ => return Err(Rejection::new("not_settled", "only a settled payment can be given back")),
        }
        if self.cloud.registry.person(&payment.child).is_none() {
            return Err(Rejection::new("payer_deleted", "the child's entry and account were deleted"));
        }
        let legs = ChildLegs::of(payment);
        let available = self.cloud.ledger.available(legs.payee_account()).unwrap_or_default();
        if available < payment.amount.minor {
            let text = "your account does not cover it: pay in first, or wait for further income";
            return Err(Rejection::new("payee_account", text));
        }
        self.out.book(self.cloud, &[legs.given_back()], self.now).map_err(|reason| {
            Rejection::new("books_refused", format!("the books refuse to give it back: {reason}"))
        })?;
        let reason = Some(Code::known("given_back"));
        self.close(payment, PaymentState::Refunded, reason.clone(), payment.position);
        self.tell_end(payment, PaymentState::Refunded, reason);
        Ok(payment.id)
    }

    /// Waiting has ended.
    pub(crate) fn timeout(&mut self, payment: &ChildPayment) {
        match payment.phase {
            ChildPhase::Prompting { .. } => {
                self.release(payment, PaymentState::Expired, Some(Code::known("child_silent")), None);
            }
            ChildPhase::Presenting { .. } => {
                self.release(payment, PaymentState::Expired, Some(Code::known(CODE_EXPIRED)), None);
            }
            // Looked at again after another retention: an operator still has to.
            ChildPhase::Closed(_) if self.cloud.exceptions.of(payment.id).next().is_some() => {
                let (phase, payment) = (payment.phase, payment.id);
                self.out.event(Event::ChildPaymentMoved { payment, phase, reason: None, position: None });
            }
            ChildPhase::Closed(_) => {
                self.out.retire(self.cloud, payment.id, &ChildLegs::all_ids(payment.id));
            }
        }
    }

    /// A start of the core: no piggy bank's answer, and no terminal's scan, is too late because we were away
    /// (correctness.md 15).
    pub(crate) fn reopen(&mut self, payment: &ChildPayment) {
        let reconnected = self.now.plus_ms(self.cloud.deadlines(&payment.child.tenant).reconnect_ms);
        let phase = match payment.phase {
            ChildPhase::Prompting { settle_at } if reconnected > settle_at => {
                ChildPhase::Prompting { settle_at: reconnected }
            }
            ChildPhase::Presenting { expires_at, settle_at } if reconnected > settle_at => {
                ChildPhase::Presenting { expires_at, settle_at: reconnected }
            }
            _ => return,
        };
        let payment = payment.id;
        self.out.event(Event::ChildPaymentMoved { payment, phase, reason: None, position: None });
    }

    /// What a device that is gone or replaced was asking: nobody will hear the answer.
    pub(crate) fn device_gone(&mut self, device: &Principal) {
        for payment in self.cloud.open_child_payments_of(device) {
            if payment.piggy_bank == *device {
                self.end_once(payment, DEVICE_GONE);
            }
        }
    }

    /// Other bonds, or none: what was ordered under the former ones ends where it no longer holds.
    pub(crate) fn bonds_changed(&mut self, child: &Principal, former: &Child, bonds: Option<&Bonds>) {
        self.leave_piggy_bank(child, former, bonds);
        let is_guardian = |wish: &Wish| bonds.is_some_and(|bonds| bonds.guardians.contains(&wish.to));
        if !Mutant::WishToldToFormerGuardian.is_active() {
            self.withdraw_notices(child, former, is_guardian);
        }
        for (guardian, allowance) in &former.allowances {
            if bonds.is_none_or(|bonds| !bonds.guardians.contains(guardian)) {
                self.forget_last(child, guardian, allowance);
            }
        }
        for payment in
            self.cloud.open_child_payments_of(child).into_iter().filter(|open| open.child == *child)
        {
            let guarded = bonds.is_some_and(|bonds| bonds.guardians.contains(&payment.guardian.id));
            let used = bonds.and_then(|bonds| bonds.piggy_bank.as_ref()) == Some(&payment.piggy_bank.id);
            if !guarded {
                self.end_once(payment, "guardianship_ended");
            } else if !used {
                self.end_once(payment, "piggy_bank_changed");
            }
        }
    }

    /// What the child has is no longer the business of a device that it does not use any more.
    fn leave_piggy_bank(&mut self, child: &Principal, former: &Child, bonds: Option<&Bonds>) {
        let Some(id) = &former.bonds.piggy_bank else { return };
        if bonds.and_then(|bonds| bonds.piggy_bank.as_ref()) == Some(id) {
            return;
        }
        let device = Principal { tenant: child.tenant.clone(), id: id.clone() };
        for owed in self.cloud.outbox.messages(&device).filter(|owed| owed.kind == Kind::ChildView) {
            self.out.withdraw(&device, owed.message, "superseded");
        }
    }

    /// Commands of one batch may each find a reason to end the same payment.
    fn end_once(&mut self, payment: &ChildPayment, reason: &'static str) {
        let ended = |event: &Event| matches!(event, Event::ChildPaymentMoved { payment: id, .. } if *id == payment.id);
        if !self.out.events.iter().any(ended) {
            self.release(payment, PaymentState::Refused, Some(Code::known(reason)), None);
        }
    }

    /// A person asks how it stands, or comes back.
    pub(crate) fn tell_as_it_stands(&mut self, payment: &ChildPayment, to: &Principal) {
        self.tell(payment, payment.state(), payment.reason.clone(), &[to]);
    }

    /// The piggy bank did not take the prompt, or the code: it will never be shown.
    pub(crate) fn not_accepted(&mut self, device: &Principal, message: MessageId) {
        for payment in self.cloud.open_child_payments_of(device) {
            let (id, reason) = match payment.phase {
                ChildPhase::Presenting { .. } => (code_id(payment.id), "code_not_accepted"),
                _ => (prompt_id(payment.id), "prompt_not_accepted"),
            };
            if payment.piggy_bank == *device && id == message {
                self.release(payment, PaymentState::Refused, Some(Code::known(reason)), None);
            }
        }
    }

    /// PC-5: as the order says; the guardian hears in any case of what was taken back, and of a code that nobody has
    /// handed in (PC-15); and a piggy bank that may still show the prompt or the code hears that it has ended.
    fn tell_end(&mut self, payment: &ChildPayment, state: PaymentState, reason: Option<Code>) {
        self.withdraw_shown(payment);
        // Also where its PUBACK has not come: it may have the prompt or the code all the same.
        let presents = matches!(payment.phase, ChildPhase::Presenting { .. });
        let answered = !presents && matches!(state, PaymentState::Settled | PaymentState::Rejected);
        let shows = !answered && !payment.at_rest();
        let unused = presents && state == PaymentState::Expired;
        let taken_back = unused || matches!(state, PaymentState::Refused | PaymentState::Cancelled);
        // It is being revoked or has just been enrolled anew: nobody there will fetch it (correctness.md 20).
        let gone = reason.as_ref().is_some_and(|code| code.as_str() == DEVICE_GONE);
        let mut parties = Vec::new();
        if taken_back || matches!(payment.tell, ResultTo::Guardian | ResultTo::Both) {
            parties.push(payment.guardian.clone());
        }
        if !gone && (shows || matches!(payment.tell, ResultTo::PiggyBank | ResultTo::Both)) {
            parties.extend(self.piggy_bank_to_tell(payment, state));
        }
        // Whoever gets the money hears of it, and of its way back; a child reads what it has.
        if matches!(state, PaymentState::Settled | PaymentState::Refunded) {
            let hears =
                |payee: &Principal| *payee != payment.guardian && !self.reads_it_on_a_piggy_bank(payee);
            parties.extend(self.payee_principal(payment).filter(hears));
        }
        let parties: Vec<&Principal> = parties.iter().collect();
        self.tell(payment, state, reason, &parties);
    }

    /// A child that gets something sees it there (PC-14), and may have no terminal that could fetch a status.
    fn reads_it_on_a_piggy_bank(&self, payee: &Principal) -> bool {
        view::screen_of(self.cloud, payee).is_some()
    }

    /// The one that was asked; of what comes back long after that, the one that the child uses then.
    fn piggy_bank_to_tell(&self, payment: &ChildPayment, state: PaymentState) -> Option<Principal> {
        if state != PaymentState::Refunded {
            return Some(payment.piggy_bank.clone());
        }
        let id = self.cloud.registry.child(&payment.child)?.bonds.piggy_bank.clone()?;
        Some(Principal { tenant: payment.child.tenant.clone(), id })
    }

    fn tell(&mut self, payment: &ChildPayment, state: PaymentState, reason: Option<Code>, to: &[&Principal]) {
        for party in to {
            let device = self.cloud.registry.device(party);
            // A revoked device will never fetch it (correctness.md 20).
            if device.is_some_and(|device| device.standing == Standing::Revoked) {
                continue;
            }
            self.out.supersede(self.cloud, party, payment.id);
            // That the account had less is for the family to know.
            let is_family = **party == payment.piggy_bank || **party == payment.guardian;
            let ordered = if is_family { payment.ordered } else { payment.amount };
            let seen = ChildPayment { ordered, ..payment.clone() };
            let status = child_status(&seen, state, reason.clone(), self.now);
            let id = status_id(payment.id, party, state);
            let until = self.now.plus_ms(limits::STATUS_LIFE_MS);
            self.out.owe(self.cloud, party, id, Down::PaymentStatus(status), until);
        }
    }

    /// Who speaks for the account that got the money.
    fn payee_principal(&self, payment: &ChildPayment) -> Option<Principal> {
        let tenant = &payment.child.tenant;
        match &payment.payee {
            Payee::Guardian => Some(payment.guardian.clone()),
            Payee::Person(id) => Some(Principal { tenant: tenant.clone(), id: id.clone() }),
            Payee::Merchant(merchant) => self.cloud.registry.merchant_terminal(tenant, merchant),
        }
    }

    /// Books what the flow has made possible before; see `ChipFlow::book_surely`.
    fn book_surely(&mut self, payment: &ChildPayment, transfer: cloud_core_ledger::Transfer) {
        if let Err(reason) = self.out.book(self.cloud, &[transfer], self.now) {
            let id = payment.id;
            let text = format!("the books refused a step of payment {id} ({reason}); compare `admin books`");
            self.out.raise(self.cloud, id, Case::Contradiction, text);
        }
    }
}

fn check_amount(order: &PaymentOrder, tenant: &Tenant) -> Result<(), Rejection> {
    if order.amount.minor == 0 {
        return Err(Rejection::new("amount_zero", "there is nothing to pay"));
    }
    let currencies = order.minimum.iter().chain([&order.amount]).map(|amount| amount.currency);
    if currencies.into_iter().any(|currency| currency != tenant.currency) {
        return Err(Rejection::new("currency_mismatch", format!("children here pay in {}", tenant.currency)));
    }
    if order.minimum.is_some_and(|minimum| minimum.minor > order.amount.minor) {
        return Err(Rejection::new("minimum_over_amount", "the minimum is more than the amount"));
    }
    Ok(())
}

/// PC-8: all of it; or, if the order says "or less", what there is.
fn amount_taken(order: &PaymentOrder, available_minor: u64) -> Result<Money, Rejection> {
    let least = order.minimum.map_or(order.amount.minor, |minimum| minimum.minor.max(1));
    if available_minor < least {
        let currency = order.amount.currency;
        let (has, missing) = (currency.minor(available_minor), currency.minor(least - available_minor));
        let text = format!("the child's account has {has}: pay in {missing} more, or order less");
        return Err(Rejection::new("balance_insufficient", text));
    }
    Ok(order.amount.currency.minor(order.amount.minor.min(available_minor)))
}

pub(crate) fn prompt_id(payment: PaymentId) -> MessageId {
    MessageId::derived("prompt", &[&payment.0])
}

/// The payee as the child reads it.
fn payee_text(cloud: &Cloud, payment: &ChildPayment) -> Text {
    let tenant = &payment.child.tenant;
    Text::new(match &payment.payee {
        Payee::Guardian => payment.guardian.id.to_string(),
        Payee::Person(person) => person.to_string(),
        Payee::Merchant(merchant) => cloud
            .registry
            .merchant(tenant, merchant)
            .map_or_else(|| merchant.to_string(), |merchant| merchant.title.clone()),
    })
}
