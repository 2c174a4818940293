//! What comes after the delivery, or instead of it: merchants give back, devices are revoked or enrolled anew.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::{BankKind, OnUnknown};
use cloud_core_flows::port::BankAnswer::Done;
use cloud_core_flows::port::BankCallKind::{Refund, Transfer};
use common::money::*;
use common::{PRICE, World, http, who};
use schemas::message::{Outcome, PaymentState, Up};

/// CP-16: without an executor the bank's success completes it; payer, chip and merchant are told; the merchant
/// refunds once.
#[test]
fn without_executor_to_delivered_to_refunded_by_the_merchant() {
    for mut w in both() {
        w.bind(None);
        let payment = w.verified("ann", 1);
        if !internal(&w) {
            w.bank(payment, Transfer, Done);
        }
        for party in ["ann", "chip", "till"] {
            assert_eq!(w.told_state(party, payment), Some(PaymentState::Delivered), "{party}");
        }
        paid(&mut w, PRICE);
        assert_eq!(w.merchant_refund(31, payment).refused, None);
        assert_eq!(w.merchant_refund(32, payment).refused.unwrap().to_string(), "already_refunded");
        if !internal(&w) {
            assert_eq!(w.state(payment), PaymentState::Refunding);
            w.bank(payment, Refund, Done);
        }
        assert_eq!(w.merchant_refund(33, payment).refused.unwrap().to_string(), "already_refunded");
        assert_eq!(w.told("ann", payment).unwrap().paid.minor, 0);
        assert_eq!(w.keys(Refund).len(), usize::from(!internal(&w)));
        assert_eq!(w.merchant_minor(), 0);
        at_rest(&mut w);
    }
}

/// CP-16: only the merchant's terminal may.
#[test]
fn refund_by_anybody_else_is_refused() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.commanded("ann", 1);
    assert_eq!(w.merchant_refund(30, payment).refused.unwrap().to_string(), "not_delivered");
    w.report(payment, Outcome::Done, 1);
    let body = Up::PaymentRefund(schemas::message::PaymentRefund { payment });
    assert_eq!(w.request("ann", 31, body).refused.unwrap().to_string(), "payment_unknown");
    paid(&mut w, PRICE);
    at_rest(&mut w);
}

/// CP-16, CP-18: the merchant gives back what was left of a part: a second refund, under a key of its own.
#[test]
fn delivered_in_part_to_refunded_by_the_merchant() {
    for mut w in both() {
        let mut information = w.information(1);
        information.quantity = 4;
        let payment = w.commanded_with("ann", 1, &information);
        w.report(payment, Outcome::DoneInPart, 1);
        if !internal(&w) {
            w.bank(payment, Refund, Done);
        }
        paid(&mut w, 250);
        assert_eq!(w.merchant_refund(31, payment).refused, None);
        if !internal(&w) {
            assert_eq!(w.told("ann", payment).unwrap().paid.minor, 250);
            let amounts: Vec<_> = w.calls(Refund).iter().map(|order| order.amount.minor).collect();
            assert_eq!(amounts, [750, 250]);
            assert_eq!(w.keys(Refund).len(), 2, "another amount under the same key would be refused");
            w.bank(payment, Refund, Done);
        }
        let told = w.told("ann", payment).unwrap();
        assert_eq!((told.state, told.paid.minor), (PaymentState::Refunded, 0));
        assert!(w.exceptions().is_empty());
        paid(&mut w, 0);
        at_rest(&mut w);
    }
}

/// CP-16: each sale is given back once, from what it brought.
#[test]
fn late_answer_to_the_first_refund_does_not_end_the_second() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let mut information = w.information(1);
    information.quantity = 4;
    let payment = w.commanded_with("ann", 1, &information);
    w.report(payment, Outcome::DoneInPart, 2);
    w.bank(payment, Refund, Done);
    assert_eq!(w.state(payment), PaymentState::DeliveredInPart);
    let first = w.calls(Refund).last().unwrap().key();
    w.merchant_refund(2, payment);
    assert_eq!(w.state(payment), PaymentState::Refunding);
    for answer in [Done, cloud_core_flows::port::BankAnswer::Refused("too_old".into())] {
        w.input(cloud_core_flows::port::Input::Bank { payment, call: Refund, key: first, answer });
        assert_eq!(w.state(payment), PaymentState::Refunding, "the second has not been answered");
    }
    w.bank(payment, Refund, Done);
    assert_eq!(w.state(payment), PaymentState::Refunded);
    at_rest(&mut w);
}

/// Each sale has keys of its own.
#[test]
fn two_sales_are_refunded_each_once() {
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    w.bind(None);
    let first = w.verified("ann", 1);
    let second = w.verified("ann", 2);
    paid(&mut w, 2 * PRICE);
    assert_eq!(w.merchant_refund(31, first).refused, None);
    assert_eq!(w.merchant_refund(32, first).refused.unwrap().to_string(), "already_refunded");
    paid(&mut w, PRICE);
    assert_eq!(w.merchant_refund(33, second).refused, None);
    paid(&mut w, 0);
    at_rest(&mut w);
}

/// correctness.md 20: the executor is revoked while it acts: as unknown.
#[test]
fn revoked_executor_is_an_unknown_outcome() {
    for policy in [OnUnknown::Refund, OnUnknown::Hold] {
        for bank in [http(), BankKind::Internal] {
            let mut w = World::new(bank, policy);
            let payment = w.commanded("ann", 1);
            w.admin(cloud_core_flows::admin::AdminCommand::RevokeDevice { device: who("vend") }).unwrap();
            assert_eq!(w.exceptions(), ["unknown_outcome"]);
            assert_eq!(w.reason(payment), "device_revoked");
            if policy == OnUnknown::Hold {
                assert_eq!(w.state(payment), PaymentState::Held);
            } else {
                given_back(&mut w, payment);
            }
        }
    }
}

/// correctness.md 20: revoked before the bank's success: nobody is left to be told to act; the money goes back.
#[test]
fn revoked_executor_before_the_command() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.verified("ann", 1);
    w.admin(cloud_core_flows::admin::AdminCommand::RevokeDevice { device: who("vend") }).unwrap();
    w.bank(payment, Transfer, Done);
    given_back(&mut w, payment);
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    let payment = w.begin("ann", 1);
    w.ready(payment);
    w.admin(cloud_core_flows::admin::AdminCommand::RevokeDevice { device: who("vend") }).unwrap();
    w.verify("ann", payment);
    assert_eq!(w.state(payment), PaymentState::Refused);
    nothing_moved(&mut w);
}

/// correctness.md 20: a re-enrolled executor is a new instance: what the old one was told is unknown.
#[test]
fn re_enrolled_executor_is_a_new_instance() {
    let mut w = World::new(http(), OnUnknown::Refund);
    let payment = w.commanded("ann", 1);
    assert_eq!(w.enrol("vend", 2).instance.0, 2);
    assert_eq!(w.exceptions(), ["unknown_outcome"]);
    w.connect("vend");
    assert!(w.fetch("vend").is_empty(), "the old command is withdrawn");
    given_back(&mut w, payment);
    w.commanded("ann", 2);
    assert_eq!(w.take_command().instance.0, 2);
}
