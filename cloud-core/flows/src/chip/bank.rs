//! The steps with the bank (CP-6, CP-7, CP-12; correctness.md 18). Transfer, status, cancel and refund are repeated
//! under the same keys until there is a clear answer; nothing but a clear answer moves a payment on.

use schemas::ids::{Code, MessageId};
use schemas::message::PaymentState;
use schemas_mutants::Mutant;

use super::ChipFlow;
use crate::admin::BankKind;
use crate::books::Legs;
use crate::event::Event;
use crate::exceptions::Case;
use crate::limits;
use crate::payment::{Attempt, ChipPayment, FenceFor, Phase, RefundEnd};
use crate::port::{BankAnswer, BankCallKind, BankOrder, Output};
use crate::tell::{Audience, News};

impl ChipFlow<'_> {
    /// The payer has verified: transfer, or with an internal bank reserve.
    pub(super) fn pay(&mut self, payment: &ChipPayment) {
        let deadlines = self.deadlines(payment);
        let alive_until = self.now.plus_ms(deadlines.bank_ms);
        self.out.event(Event::PaymentVerified { payment: payment.id, alive_until });
        match self.tenant(payment).map(|tenant| tenant.bank.clone()) {
            Some(BankKind::Http { .. }) => {
                let attempt = self.call_bank(payment, BankCallKind::Transfer, 0, payment.amount.minor);
                self.move_to(payment, Phase::Transferring(attempt), 0, None);
            }
            _ => self.reserve(payment),
        }
    }

    fn reserve(&mut self, payment: &ChipPayment) {
        if self.executor_is_gone(payment) {
            self.close(payment, PaymentState::Refused, "executor_revoked", Audience::Payer);
            return;
        }
        let legs = Legs::of(payment, &BankKind::Internal);
        let mut chain = vec![legs.reserve()];
        if payment.executor.is_none() {
            chain.push(legs.post(payment.amount.minor));
        }
        match self.book(&chain) {
            Ok(()) => self.paid(payment, 0),
            Err(reason) => {
                let known = reason == cloud_core_ledger::Reason::ExceedsCredits;
                let code = if known { "insufficient_funds" } else { "account_refused" };
                self.close(payment, PaymentState::BankRefused, code, Audience::Payer);
            }
        }
    }

    /// The bank's answer to a call of this payment, however late.
    pub(crate) fn bank_answer(
        &mut self,
        payment: &ChipPayment,
        call: BankCallKind,
        key: [u8; 16],
        answer: &BankAnswer,
    ) {
        match (&payment.phase, call) {
            // An answer to an earlier refund of this payment says nothing of this one.
            (Phase::Refunding { amount_minor, then, .. }, BankCallKind::Refund)
                if key == refund_key(payment) || Mutant::AnyRefundAnswerCounts.is_active() =>
            {
                self.refund_answer(payment, *amount_minor, *then, answer);
            }
            (_, BankCallKind::Refund) => {}
            (Phase::Transferring(_) | Phase::Inquiring(_) | Phase::Fencing(..), _) => {
                self.transfer_answer(payment, answer);
            }
            _ => {}
        }
    }

    fn transfer_answer(&mut self, payment: &ChipPayment, answer: &BankAnswer) {
        match (answer, &payment.phase) {
            (BankAnswer::NotFound, _) if Mutant::NotFoundIsRefused.is_active() => {
                self.end_without_transfer(payment, Code::known("bank_refused"));
            }
            (BankAnswer::Unknown, _) if Mutant::UnknownIsDone.is_active() => self.transferred(payment),
            (BankAnswer::Done, phase) => {
                let fenced = matches!(phase, Phase::Fencing(..));
                let alive = payment.alive_until.is_some_and(|until| self.now <= until);
                let too_late = fenced || !alive || self.executor_is_gone(payment);
                if too_late { self.transferred_too_late(payment) } else { self.transferred(payment) }
            }
            (BankAnswer::Refused(code), _) => {
                let code = code.parse().unwrap_or_else(|_| Code::known("bank_refused"));
                self.end_without_transfer(payment, code);
            }
            (BankAnswer::Cancelled, _) => self.end_without_transfer(payment, Code::known("bank_silent")),
            // Not found is not a refusal: the request may still be under way. The same key again is safe.
            (BankAnswer::NotFound, Phase::Inquiring(attempt)) => {
                if payment.alive_until.is_some_and(|until| self.now <= until) {
                    let next = self.call_bank(
                        payment,
                        BankCallKind::Transfer,
                        attempt.number + 1,
                        payment.amount.minor,
                    );
                    self.move_to(payment, Phase::Transferring(next), 0, None);
                } else {
                    self.fence(payment, FenceFor::BankSilent);
                }
            }
            (BankAnswer::NotFound | BankAnswer::Unknown, _) => {}
        }
    }

    fn end_without_transfer(&mut self, payment: &ChipPayment, reason: Code) {
        match payment.phase {
            Phase::Fencing(_, FenceFor::Cancelled) => {
                self.close(payment, PaymentState::Cancelled, "cancelled", Audience::PayerAndChip);
            }
            _ => self.close_because(payment, PaymentState::BankRefused, 0, 0, Some(reason), Audience::Payer),
        }
    }

    /// The bank has moved the money and the payment goes on.
    fn transferred(&mut self, payment: &ChipPayment) {
        let bank = self.bank_of(payment);
        let legs = Legs::of(payment, &bank);
        let mut chain = vec![legs.paid(), legs.reserve()];
        if payment.executor.is_none() {
            chain.push(legs.post(payment.amount.minor));
        }
        self.book_surely(payment, &chain);
        self.paid(payment, payment.amount.minor);
    }

    /// The bank has moved the money of a payment that has been given up: it goes back.
    fn transferred_too_late(&mut self, payment: &ChipPayment) {
        let bank = self.bank_of(payment);
        self.book_surely(payment, &[Legs::of(payment, &bank).paid()]);
        let reason = match payment.phase {
            Phase::Fencing(_, FenceFor::Cancelled) => "cancelled",
            _ if self.executor_is_gone(payment) => "executor_revoked",
            _ => "bank_late",
        };
        self.refund(payment, payment.amount.minor, RefundEnd::Refunded, Code::known(reason), 0);
    }

    /// Revoked between the order and the bank's success: nobody is there to be told to act.
    fn executor_is_gone(&self, payment: &ChipPayment) -> bool {
        payment.executor.is_some() && self.usable_executor(payment).is_none()
    }

    fn paid(&mut self, payment: &ChipPayment, paid_minor: u64) {
        if payment.executor.is_some() {
            self.command(payment, paid_minor);
        } else {
            let all = payment.quantity;
            self.close_because(
                payment,
                PaymentState::Delivered,
                payment.amount.minor,
                all,
                None,
                Audience::Everyone,
            );
        }
    }

    /// Asks the bank to give back, until it confirms (CP-12).
    pub(super) fn refund(
        &mut self,
        payment: &ChipPayment,
        amount_minor: u64,
        then: RefundEnd,
        reason: Code,
        delivered: u32,
    ) {
        self.withdraw_questions(payment);
        let attempt = self.call_bank(payment, BankCallKind::Refund, 0, amount_minor);
        let returned = then == RefundEnd::Returned;
        let paid_minor = if returned { payment.paid_minor } else { payment.amount.minor };
        self.move_to(
            payment,
            Phase::Refunding { amount_minor, attempt, then },
            paid_minor,
            Some(reason.clone()),
        );
        let news = News { state: PaymentState::Refunding, paid_minor, delivered, reason: Some(reason) };
        self.out.tell(self.cloud, payment, &news, refund_audience(payment, then), self.now);
    }

    fn refund_answer(
        &mut self,
        payment: &ChipPayment,
        amount_minor: u64,
        then: RefundEnd,
        answer: &BankAnswer,
    ) {
        let to = refund_audience(payment, then);
        match answer {
            BankAnswer::Done => {
                let bank = self.bank_of(payment);
                self.book_surely(payment, &[Legs::of(payment, &bank).given_back(amount_minor, then)]);
                let paid_minor = payment.paid_minor.saturating_sub(amount_minor);
                let state = refund_state(then);
                let delivered = if then == RefundEnd::DeliveredInPart { payment.delivered() } else { 0 };
                self.close_because(payment, state, paid_minor, delivered, None, to);
            }
            BankAnswer::Refused(code) => {
                let code: Code = code.parse().unwrap_or_else(|_| Code::known("refund_refused"));
                let amount = payment.amount.currency.minor(amount_minor);
                let text = format!(
                    "the bank refuses to give back {amount} of payment {} ({code}); settle it with the bank, then \
                     `payments resolve {} --refund` (try again) or `--write-off`",
                    payment.id, payment.id
                );
                self.raise(payment, Case::RefundBlocked, text);
                if self.cloud.exceptions.has(payment.id, Case::BankUnreachable) {
                    self.resolved(payment.id, Some(Case::BankUnreachable), None);
                }
                let phase = Phase::RefundBlocked { amount_minor, then };
                self.move_to(payment, phase, payment.paid_minor, Some(code.clone()));
                let news = News {
                    state: PaymentState::RefundBlocked,
                    paid_minor: payment.paid_minor,
                    delivered: payment.delivered(),
                    reason: Some(code),
                };
                self.out.tell(self.cloud, payment, &news, to, self.now);
            }
            BankAnswer::Unknown | BankAnswer::NotFound | BankAnswer::Cancelled => {}
        }
    }

    /// No clear answer has come in time.
    pub(super) fn bank_timeout(&mut self, payment: &ChipPayment) {
        let alive = payment.alive_until.is_some_and(|until| self.now <= until);
        match payment.phase {
            Phase::Transferring(_) | Phase::Inquiring(_)
                if !alive && Mutant::GivesUpWithoutFence.is_active() =>
            {
                self.end_without_transfer(payment, Code::known("bank_silent"));
            }
            Phase::Transferring(_) | Phase::Inquiring(_) if !alive => {
                self.fence(payment, FenceFor::BankSilent)
            }
            Phase::Transferring(attempt) | Phase::Inquiring(attempt) => {
                let first = matches!(payment.phase, Phase::Transferring(Attempt { number: 0, .. }));
                let next = self.call_bank(payment, BankCallKind::Status, attempt.number + 1, 0);
                self.move_to(payment, Phase::Inquiring(next), 0, None);
                if first {
                    let news =
                        News { state: PaymentState::BankUnknown, paid_minor: 0, delivered: 0, reason: None };
                    self.out.tell(self.cloud, payment, &news, Audience::Payer, self.now);
                }
            }
            Phase::Fencing(attempt, why) => {
                self.name_silent_bank(payment, attempt);
                let next = self.call_bank(payment, BankCallKind::Cancel, attempt.number + 1, 0);
                self.move_to(payment, Phase::Fencing(next, why), 0, None);
            }
            Phase::Refunding { amount_minor, attempt, then } => {
                self.name_silent_bank(payment, attempt);
                let next = self.call_bank(payment, BankCallKind::Refund, attempt.number + 1, amount_minor);
                let phase = Phase::Refunding { amount_minor, attempt: next, then };
                self.move_to(payment, phase, payment.paid_minor, None);
            }
            _ => {}
        }
    }

    /// After the fence the transfer can never happen; until the bank says so, nothing is final.
    pub(super) fn fence(&mut self, payment: &ChipPayment, why: FenceFor) {
        let attempt = self.call_bank(payment, BankCallKind::Cancel, 0, 0);
        self.move_to(payment, Phase::Fencing(attempt, why), 0, None);
    }

    fn name_silent_bank(&mut self, payment: &ChipPayment, attempt: Attempt) {
        if attempt.number == limits::BANK_ATTEMPTS_UNTIL_NAMED {
            let text = format!("the bank gives no clear answer for payment {}; it is asked on", payment.id);
            self.raise(payment, Case::BankUnreachable, text);
        }
    }

    /// One call. The next one is due after a pause that doubles up to 64 times the first.
    pub(super) fn call_bank(
        &mut self,
        payment: &ChipPayment,
        call: BankCallKind,
        number: u32,
        amount_minor: u64,
    ) -> Attempt {
        let deadlines = self.deadlines(payment);
        let attempt =
            Attempt { number, again_at: self.now.plus_ms(deadlines.bank_retry_ms << number.min(6)) };
        let BankKind::Http { url, holding } = self.bank_of(payment) else { return attempt };
        let person = self.cloud.registry.person(&payment.payer);
        // Part of the transfer's content, so it is the same in every attempt: the latest that an outage of ours can
        // extend `alive_until` to. Ending earlier is the fence's work.
        let verified_at = payment.verified_at.unwrap_or(self.now);
        let not_after = verified_at.plus_ms(deadlines.bank_ms.max(deadlines.presence_ms));
        self.out.outputs.push(Output::Bank(BankOrder {
            bank: url,
            payment: payment.id,
            call,
            transfer_key: transfer_key(payment, number),
            refund_key: refund_key(payment),
            from: person.and_then(|person| person.bank_account.clone()).unwrap_or_default(),
            to: holding,
            amount: payment.amount.currency.minor(amount_minor),
            not_after,
        }));
        attempt
    }

    pub(super) fn bank_of(&self, payment: &ChipPayment) -> BankKind {
        self.tenant(payment).map_or(BankKind::Internal, |tenant| tenant.bank.clone())
    }
}

/// A payment has one transfer, however often it is ordered or asked for.
fn transfer_key(payment: &ChipPayment, attempt: u32) -> [u8; 16] {
    let attempt = if Mutant::KeyPerAttempt.is_active() { attempt } else { 0 };
    match attempt {
        0 => MessageId::derived("bank-transfer", &[&payment.id.0]).0,
        _ => MessageId::derived("bank-transfer", &[&payment.id.0, &attempt.to_be_bytes()]).0,
    }
}

/// Every refund of a payment has a key of its own; all attempts of one refund share it.
fn refund_key(payment: &ChipPayment) -> [u8; 16] {
    MessageId::derived("bank-refund", &[&payment.id.0, &payment.refunds_ended.to_be_bytes()]).0
}

fn refund_state(then: RefundEnd) -> PaymentState {
    match then {
        RefundEnd::Refunded | RefundEnd::Returned => PaymentState::Refunded,
        RefundEnd::DeliveredInPart => PaymentState::DeliveredInPart,
    }
}

/// A merchant hears of payments that reached its machine; one that was given up before is the payer's alone.
fn refund_audience(payment: &ChipPayment, then: RefundEnd) -> Audience {
    if payment.command.is_none() && then != RefundEnd::Returned {
        Audience::Payer
    } else {
        Audience::PayerAndMerchant
    }
}
