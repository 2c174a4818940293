//! A payment in one row, folded from its own records by the same `evolve` that the core uses.

use cloud_core_flows::Cloud;
use cloud_core_flows::event::{Event, Record};
use cloud_core_flows::payment::{ChildPayment, ChipPayment, OwnPayment, OwnPhase};
use schemas::ids::{PaymentId, Principal};
use schemas::message::{Payee, PaymentState};
use schemas::money::Money;
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Which flow a payment is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// Through a payment chip.
    Chip,
    /// From a child's account.
    Child,
    /// From a person's own account.
    Own,
}

/// A payment, open or closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Which.
    pub payment: PaymentId,
    /// Of which flow.
    pub flow: Flow,
    /// Whose account pays.
    pub payer: Principal,
    /// Who ordered it, where that is somebody else: a child's guardian.
    pub ordered_by: Option<Principal>,
    /// Who gets the money: `person/NAME` or `merchant/NAME`.
    pub payee: String,
    /// The order's amount.
    pub amount: Money,
    /// What has been paid in the end.
    pub paid: Money,
    /// Its state; none: a suggestion that waits for its answer.
    pub state: Option<PaymentState>,
    /// Why, where there is something to explain.
    pub reason: Option<String>,
    /// When it began.
    pub opened_at: Timestamp,
}

/// One payment, while its records are read.
pub(crate) struct Folded {
    payment: PaymentId,
    cloud: Cloud,
}

impl Folded {
    pub(crate) fn of(payment: PaymentId) -> Self {
        Self { payment, cloud: Cloud::default() }
    }

    /// Records of other payments, of books and of messages say nothing about it; that it left memory neither.
    pub(crate) fn apply(&mut self, record: &Record) {
        let payment = match &record.event {
            Event::PaymentOpened(payment) => payment.id,
            Event::ChildPaymentOpened(payment) => payment.id,
            Event::OwnPaymentOpened(payment) => payment.id,
            Event::PaymentMoved { payment, .. }
            | Event::OutcomeReported { payment, .. }
            | Event::ChildPaymentMoved { payment, .. }
            | Event::OwnPaymentMoved { payment, .. } => *payment,
            _ => return,
        };
        if payment == self.payment {
            self.cloud.evolve(record);
        }
    }

    pub(crate) fn summary(&self) -> Option<Summary> {
        let chip = self.cloud.payment(self.payment).map(of_chip);
        let child = || self.cloud.child_payment(self.payment).map(of_child);
        let own = || self.cloud.own_payments().find(|own| own.id == self.payment).map(of_own);
        chip.or_else(child).or_else(own)
    }
}

fn of_chip(payment: &ChipPayment) -> Summary {
    Summary {
        payment: payment.id,
        flow: Flow::Chip,
        payer: payment.payer.clone(),
        ordered_by: None,
        payee: Payee::Merchant(payment.merchant.clone()).to_string(),
        amount: payment.amount,
        paid: payment.amount.currency.minor(payment.paid_minor),
        state: Some(payment.state()),
        reason: payment.reason.as_ref().map(ToString::to_string),
        opened_at: payment.opened_at,
    }
}

fn of_child(payment: &ChildPayment) -> Summary {
    Summary {
        payment: payment.id,
        flow: Flow::Child,
        payer: payment.child.clone(),
        ordered_by: Some(payment.guardian.clone()),
        payee: payment.payee.to_string(),
        amount: payment.amount,
        paid: payment.amount.currency.minor(payment.paid_minor()),
        state: Some(payment.state()),
        reason: payment.reason.as_ref().map(ToString::to_string),
        opened_at: payment.opened_at,
    }
}

fn of_own(payment: &OwnPayment) -> Summary {
    let state = match payment.phase {
        OwnPhase::Suggested { .. } => None,
        OwnPhase::Closed { state, .. } => Some(state),
    };
    // What went through a child is that child's payment, with an id of its own.
    let paid = if state == Some(PaymentState::Settled) { payment.amount.minor } else { 0 };
    Summary {
        payment: payment.id,
        flow: Flow::Own,
        payer: payment.payer.clone(),
        ordered_by: None,
        payee: payment.payee.to_string(),
        amount: payment.amount,
        paid: payment.amount.currency.minor(paid),
        state,
        reason: None,
        opened_at: payment.opened_at,
    }
}
