//! Who has what: assertions that many outcomes share.

use cloud_core_flows::admin::{BankKind, OnUnknown};
use cloud_core_flows::port::BankAnswer::Done;
use cloud_core_flows::port::BankCallKind::Refund;
use schemas::ids::PaymentId;
use schemas::message::PaymentState;

use super::{FUNDS, PRICE, World, http};

pub(crate) fn both() -> [World; 2] {
    [World::new(http(), OnUnknown::Refund), World::new(BankKind::Internal, OnUnknown::Refund)]
}

pub(crate) fn internal(w: &World) -> bool {
    w.bank == BankKind::Internal
}

/// Money was given back: settled money is refunded, a reservation is voided.
pub(crate) fn given_back(w: &mut World, payment: PaymentId) {
    if internal(w) {
        assert_eq!(w.state(payment), PaymentState::Voided);
        assert_eq!(w.balance("person/ann"), i128::from(FUNDS));
    } else {
        assert_eq!(w.state(payment), PaymentState::Refunding);
        assert_eq!(w.told_state("ann", payment), Some(PaymentState::Refunding));
        assert_eq!(w.holding_minor(), i128::from(PRICE), "owed until the bank confirms");
        w.bank(payment, Refund, Done);
        assert_eq!(w.state(payment), PaymentState::Refunded);
        assert_eq!(w.keys(Refund).len(), 1, "exactly one refund");
        assert!(w.calls(Refund).iter().all(|order| order.amount.minor == PRICE));
    }
    assert_eq!(w.merchant_minor(), 0);
    at_rest(w);
}

pub(crate) fn at_rest(w: &mut World) {
    assert!(w.nothing_pending());
    assert_eq!(w.holding_minor(), 0);
    w.finish();
}

pub(crate) fn nothing_moved(w: &mut World) {
    assert_eq!(w.merchant_minor(), 0);
    if internal(w) {
        assert_eq!(w.balance("person/ann"), i128::from(FUNDS));
    }
    assert!(w.calls(Refund).is_empty());
    at_rest(w);
}

pub(crate) fn paid(w: &mut World, minor: u64) {
    assert_eq!(w.merchant_minor(), i128::from(minor));
    if internal(w) {
        assert_eq!(w.balance("person/ann"), i128::from(FUNDS - minor));
    } else {
        assert_eq!(
            w.balance("bank"),
            -i128::from(minor),
            "the holding account there keeps what is delivered"
        );
    }
    assert!(w.nothing_pending());
}
