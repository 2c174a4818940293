//! What observers are shown: of their tenant, synced, without personal data.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::{AdminCommand, OnUnknown};
use cloud_core_flows::port::BankAnswer::{Done, Refused};
use cloud_core_flows::port::BankCallKind::{Refund, Transfer};
use cloud_core_flows::port::{Input, Output};
use common::{World, http, who};
use schemas::feed::{DeviceChange, ExceptionChange, FeedEvent, PresenceState};
use schemas::message::{Outcome, PaymentState};
use schemas::topic::FeedFormat;

/// A world with an observer, who watches.
fn watched() -> World {
    let mut w = World::new(http(), OnUnknown::Refund);
    assert!(w.feed.is_empty(), "nothing is made for nobody");
    w.admin(AdminCommand::CreateObserver { observer: who("screen") }).unwrap();
    w.connect("screen");
    let connection = w.connections[&who("screen")];
    w.input(Input::Watch { connection });
    w
}

fn payment_states(w: &World) -> Vec<PaymentState> {
    let state = |(_, event): &_| match event {
        FeedEvent::Payment(payment) => Some(payment.state),
        _ => None,
    };
    w.feed.iter().filter_map(state).collect()
}

#[test]
fn a_payment_shows_each_of_its_states_and_never_its_payer() {
    let mut w = watched();
    let payment = w.commanded("ann", 1);
    w.report(payment, Outcome::Done, 2);
    let mut states = payment_states(&w);
    states.dedup();
    use PaymentState::{Checking, Delivered, Delivering, Paying, PendingVerification};
    assert_eq!(states, [Checking, PendingVerification, Paying, Delivering, Delivered]);
    for (tenant, event) in &w.feed {
        assert_eq!(tenant.as_str(), "acme");
        let json = String::from_utf8(event.encode(FeedFormat::Json)).unwrap();
        assert!(!json.contains("ann"), "{json}");
    }
}

/// correctness.md 1: what a power cut could take back is shown to nobody.
#[test]
fn nothing_is_shown_before_it_is_synced() {
    let mut w = watched();
    let payment = w.verified("ann", 1);
    let before = w.feed.len();
    let order = w.calls(Transfer).pop().unwrap();
    let (call, key) = (Transfer, order.key());
    w.decide_only(Input::Bank { payment, call, key, answer: Done });
    assert!(w.driver.poll_output().is_none(), "decided, not synced");
    w.flush();
    assert!(w.feed.len() > before, "synced, and shown");
}

#[test]
fn an_exception_comes_and_goes() {
    let mut w = watched();
    let payment = w.commanded("ann", 1);
    w.report(payment, Outcome::Failed, 0);
    w.bank(payment, Refund, Refused("closed".into()));
    w.resolve(payment, cloud_core_flows::admin::Resolution::WriteOff).unwrap();
    let changes: Vec<_> = w
        .feed
        .iter()
        .filter_map(|(_, event)| match event {
            FeedEvent::Exception(event) => Some((event.payment, event.change)),
            _ => None,
        })
        .collect();
    assert_eq!(changes, [(payment, ExceptionChange::Raised), (payment, ExceptionChange::Resolved)]);
}

#[test]
fn devices_and_presence_are_shown_as_they_change() {
    let mut w = watched();
    w.enrol("vend", 2);
    w.admin(AdminCommand::RevokeDevice { device: who("spare") }).unwrap();
    w.admin(AdminCommand::DeleteDevice { device: who("spare") }).unwrap();
    let connection = w.connections[&who("chip")];
    w.input(Input::Closed { connection });
    let mut devices = Vec::new();
    let mut presences = Vec::new();
    for (_, event) in &w.feed {
        match event {
            FeedEvent::Device(event) => devices.push((event.device.clone(), event.change)),
            FeedEvent::Presence(event) => presences.push((event.principal.clone(), event.presence)),
            _ => {}
        }
    }
    assert_eq!(
        devices,
        [
            (who("vend"), DeviceChange::Enrolled),
            (who("spare"), DeviceChange::Revoked),
            (who("spare"), DeviceChange::Deleted)
        ]
    );
    let gone = PresenceState::Disconnected;
    assert_eq!(presences, [(who("vend"), gone), (who("spare"), gone), (who("chip"), gone)]);
}

/// Pages of states: everybody who takes part, by name; nothing for whoever is no observer.
#[test]
fn states_come_in_pages_and_to_observers_only() {
    let mut w = watched();
    let connection = w.connections[&who("screen")];
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let outputs = w.input(Input::States { connection, of: None, after: after.clone(), max: 4 });
        let [Output::States { states, more, .. }] = &outputs[..] else { panic!("{outputs:?}") };
        names.extend(states.iter().map(|state| state.principal.id.to_string()));
        after = states.last().map(|state| state.principal.id.clone());
        if !more {
            break;
        }
    }
    assert_eq!(names, ["ann", "bob", "chip", "spare", "till", "vend"]);
    let of = Some("chip".parse().unwrap());
    let outputs = w.input(Input::States { connection, of, after: None, max: 4 });
    assert!(matches!(&outputs[..], [Output::States { states, more: false, .. }] if states.len() == 1));
    let connection = w.connections[&who("ann")];
    assert!(w.input(Input::States { connection, of: None, after: None, max: 4 }).is_empty());
    w.input(Input::Closed { connection: w.connections[&who("screen")] });
    let shown = w.feed.len();
    w.input(Input::Watch { connection });
    w.begin("ann", 3);
    assert_eq!(w.feed.len(), shown, "a person watches nothing");
}

/// An observer is made, and closed, by an operator only. Its name has one meaning for ever, its connection ends at once,
/// and nothing is made for a tenant that nobody watches any more.
#[test]
fn an_observer_is_closed_at_once_and_its_name_is_not_given_again() {
    let mut w = watched();
    let create = |name: &str| AdminCommand::CreateObserver { observer: who(name) };
    w.admin(create("screen")).unwrap();
    let code = |reply: cloud_core_flows::admin::AdminReply| reply.unwrap_err().code.to_string();
    for taken in ["ann", "chip"] {
        assert_eq!(code(w.admin(create(taken))), "name_taken");
    }
    let person =
        |name: &str| AdminCommand::CreatePerson { person: who(name), public_key: None, bank_account: None };
    assert_eq!(code(w.admin(person("screen"))), "name_taken");
    let device = AdminCommand::CreateDevice { device: who("screen"), profile: "p".into(), longest_act_ms: 1 };
    assert_eq!(code(w.admin(device)), "name_taken");
    let connection = w.connections[&who("screen")];
    let delete = AdminCommand::DeleteObserver { observer: who("screen") };
    let outputs = w.input(Input::Admin { ticket: 7, command: delete.clone(), by: None });
    let ended = |output: &Output| matches!(output, Output::Disconnect { connection: ended, .. } if *ended == connection);
    assert!(outputs.iter().any(ended), "{outputs:?}");
    let shown = w.feed.len();
    w.begin("ann", 3);
    assert_eq!(w.feed.len(), shown, "nobody watches");
    w.admin(delete).unwrap();
    assert_eq!(code(w.admin(AdminCommand::DeleteObserver { observer: who("ghost") })), "observer_unknown");
    for again in [create("screen"), person("screen")] {
        assert_eq!(code(w.admin(again)), "name_deleted");
    }
}
