//! What an operator or a merchant does to a payment afterwards (CP-13, CP-16).

use schemas::ids::{Code, Hash, PaymentId, Principal};
use schemas::message::PaymentState;
use schemas_mutants::Mutant;

use super::ChipFlow;
use crate::admin::{BankKind, Resolution};
use crate::books::Legs;
use crate::event::Event;
use crate::exceptions::Case;
use crate::payment::{ChipPayment, Phase, RefundEnd};
use crate::rejection::Rejection;
use crate::tell::Audience;

impl ChipFlow<'_> {
    /// CP-16: a merchant gives a delivered payment back, whole, once.
    pub(crate) fn merchant_refund(
        &mut self,
        from: &Principal,
        id: PaymentId,
    ) -> Result<PaymentId, Rejection> {
        let payment = self.cloud.payment(id).filter(|payment| {
            self.cloud.registry.merchant_terminal(&payment.payer.tenant, &payment.merchant).as_ref()
                == Some(from)
        });
        let Some(payment) = payment else {
            return Err(Rejection::new("payment_unknown", "you have no such payment, or it is too old"));
        };
        match payment.phase {
            Phase::Closed(PaymentState::Delivered | PaymentState::DeliveredInPart) => {}
            Phase::Closed(PaymentState::Refunded) if Mutant::GivenBackTwice.is_active() => {}
            Phase::Refunding { .. } | Phase::Closed(PaymentState::Refunded) => {
                return Err(Rejection::new("already_refunded", "this payment has already been given back"));
            }
            _ => return Err(Rejection::new("not_delivered", "only a completed payment can be given back")),
        }
        self.return_by_merchant(payment, Code::known("merchant_refund"))?;
        Ok(id)
    }

    fn return_by_merchant(&mut self, payment: &ChipPayment, reason: Code) -> Result<(), Rejection> {
        if self.cloud.registry.person(&payment.payer).is_none() {
            return Err(Rejection::new("payer_deleted", "the payer's entry and account were deleted"));
        }
        let bank = self.bank_of(payment);
        let amount_minor = payment.paid_minor;
        let legs = Legs::of(payment, &bank);
        if !legs.merchant_covers(&self.cloud.ledger, amount_minor) {
            return Err(Rejection::new(
                "merchant_account",
                "the merchant's account does not cover it: pay in first, or wait for further sales",
            ));
        }
        self.book_surely(payment, &[legs.returned_by_merchant(amount_minor)]);
        if bank == BankKind::Internal {
            let to = Audience::Everyone;
            self.close_because(payment, PaymentState::Refunded, 0, 0, Some(reason), to);
        } else {
            self.refund(payment, amount_minor, RefundEnd::Returned, reason, 0);
        }
        Ok(())
    }

    /// Resolves what is open of a payment; doing so again changes nothing.
    pub(crate) fn resolve(&mut self, id: PaymentId, resolution: Resolution) -> Result<(), Rejection> {
        let Some(payment) = self.cloud.payment(id) else {
            if self.cloud.child_payment(id).is_some() {
                self.take_note(id, resolution);
                return Ok(());
            }
            return self.resolve_without_payment(id, resolution);
        };
        match (&payment.phase, resolution) {
            (Phase::Held, Resolution::Refund) => {
                self.resolved(id, None, Some(resolution));
                self.give_back(payment, Code::known("operator"));
            }
            (Phase::Held, Resolution::Accept) => {
                self.resolved(id, None, Some(resolution));
                self.deliver(payment, payment.quantity);
            }
            (Phase::Held, Resolution::WriteOff) => {
                return Err(Rejection::new(
                    "nothing_to_write_off",
                    "the money is held, not lost: use --refund or --accept",
                ));
            }
            (Phase::RefundBlocked { amount_minor, then }, Resolution::Refund) => {
                self.resolved(id, None, Some(resolution));
                self.refund(payment, *amount_minor, *then, Code::known("operator"), payment.delivered());
            }
            (Phase::RefundBlocked { amount_minor, .. }, Resolution::WriteOff) => {
                self.write_off(payment, *amount_minor);
            }
            (Phase::RefundBlocked { .. }, Resolution::Accept) => {
                return Err(Rejection::new(
                    "money_owed",
                    "the payer is owed money: use --refund or --write-off",
                ));
            }
            (_, Resolution::Refund) => {
                return self.refund_resolved(payment);
            }
            (phase, Resolution::WriteOff) if !matches!(phase, Phase::Closed(_)) => {
                return Err(Rejection::new(
                    "still_under_way",
                    "this payment is still pursued: only money that the bank refuses to give back is written off",
                ));
            }
            (_, Resolution::Accept | Resolution::WriteOff) => self.take_note(id, resolution),
        }
        Ok(())
    }

    /// What already happened stands; its entries leave the queue.
    fn take_note(&mut self, id: PaymentId, resolution: Resolution) {
        if self.cloud.exceptions.of(id).next().is_some() {
            self.resolved(id, None, Some(resolution));
        }
    }

    /// A contradiction about a delivered payment may be resolved in the payer's favour.
    fn refund_resolved(&mut self, payment: &ChipPayment) -> Result<(), Rejection> {
        match payment.phase {
            Phase::Closed(PaymentState::Delivered | PaymentState::DeliveredInPart)
                if self.cloud.exceptions.has(payment.id, Case::Contradiction) =>
            {
                self.return_by_merchant(payment, Code::known("operator"))?;
                self.resolved(payment.id, None, Some(Resolution::Refund));
                Ok(())
            }
            Phase::Refunding { .. } => Ok(()),
            Phase::Closed(PaymentState::Refunded | PaymentState::Voided) => {
                self.take_note(payment.id, Resolution::Refund);
                Ok(())
            }
            _ => Err(Rejection::new("nothing_to_refund", "no money of this payment waits for an operator")),
        }
    }

    fn write_off(&mut self, payment: &ChipPayment, amount_minor: u64) {
        let bank = self.bank_of(payment);
        self.book_surely(payment, &[Legs::of(payment, &bank).written_off(amount_minor)]);
        self.resolved(payment.id, None, Some(Resolution::WriteOff));
        let reason = Some(Code::known("operator"));
        let (paid, delivered) = (payment.paid_minor, payment.delivered());
        self.close_because(
            payment,
            PaymentState::WrittenOff,
            paid,
            delivered,
            reason,
            Audience::PayerAndMerchant,
        );
    }

    fn resolve_without_payment(&mut self, id: PaymentId, resolution: Resolution) -> Result<(), Rejection> {
        let about = Hash::of(&id.0);
        if !self.cloud.exceptions.contains(about, Case::OutcomeWithoutPayment) {
            return Err(Rejection::new(
                "payment_unknown",
                "no such payment is in memory: `payments show ID` reads the journal",
            ));
        }
        let (payment, case) = (id, Some(Case::OutcomeWithoutPayment));
        self.out.event(Event::ExceptionsResolved { payment, case, resolution: Some(resolution) });
        Ok(())
    }
}
