//! What observers see: events and presence, without personal data. Derived from what was decided, so that it leaves
//! like every output, once it is synced (correctness.md 1).

use std::collections::BTreeMap;
use std::ops::Bound;

use schemas::feed::{
    DeviceChange, DeviceEvent, ExceptionChange, ExceptionEvent, FeedEvent, PaymentEvent, PresenceEvent,
    PresenceState,
};
use schemas::ids::{Code, PaymentId, Principal, PrincipalId, TenantId};
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas::topic::Role;
use schemas::wire::Text;

use crate::admin::{AdminCommand, Presence};
use crate::cloud::Cloud;
use crate::event::{Event, Record};
use crate::lobby::Lobby;
use crate::port::{ConnectionId, Output};

/// What observers see of a record that `cloud` has just evolved by.
pub(crate) fn of_record(cloud: &Cloud, lobby: &Lobby, record: &Record) -> Option<Output> {
    // Nothing is made for nobody.
    if !lobby.is_any_watched() {
        return None;
    }
    let (tenant, event) = event_of(cloud, record)?;
    lobby.is_watched(&tenant).then_some(Output::Feed { tenant, event })
}

/// Whose presence has changed since this was last asked.
pub(crate) fn of_presences(cloud: &Cloud, lobby: &mut Lobby) -> Vec<Output> {
    let changed = lobby.take_changed().into_iter();
    let events = changed.filter_map(|principal| {
        let event = FeedEvent::Presence(presence_of(cloud, &principal, lobby.presence(&principal))?);
        Some(Output::Feed { tenant: principal.tenant, event })
    });
    events.collect()
}

/// The connection is to be shown what changes, if it is an observer's: the session has checked that before.
pub(crate) fn watch(cloud: &Cloud, lobby: &mut Lobby, connection: ConnectionId) {
    if observer(cloud, lobby, connection).is_some() {
        lobby.watch(connection);
    }
}

/// The states that an observer asks for: of one, or of those after a name.
pub(crate) fn states(
    cloud: &Cloud,
    lobby: &Lobby,
    connection: ConnectionId,
    (of, after): (Option<PrincipalId>, Option<PrincipalId>),
    max: usize,
) -> Option<Output> {
    let tenant = observer(cloud, lobby, connection)?.tenant.clone();
    let (found, more) = match of {
        Some(id) => (vec![Principal { tenant, id }], false),
        None => parties(cloud, &tenant, after.as_ref(), max),
    };
    let state = |who: &Principal| presence_of(cloud, who, lobby.presence(who));
    Some(Output::States { connection, states: found.iter().filter_map(state).collect(), more })
}

fn observer<'a>(cloud: &Cloud, lobby: &'a Lobby, connection: ConnectionId) -> Option<&'a Principal> {
    lobby.principal(connection).filter(|who| cloud.registry().role(who) == Role::Observer)
}

fn event_of(cloud: &Cloud, record: &Record) -> Option<(TenantId, FeedEvent)> {
    let at = record.at;
    match &record.event {
        Event::PaymentOpened(payment) => payment_event(cloud, payment.id, at),
        Event::PaymentMoved { payment, .. } => payment_event(cloud, *payment, at),
        // An outcome for a payment that has left memory has no tenant here: operators find it in their queue.
        Event::ExceptionRaised { payment: Some(payment), case, .. } => {
            exception_event(cloud, *payment, Some(case.as_str()), ExceptionChange::Raised, at)
        }
        Event::ExceptionsResolved { payment, case, .. } => {
            let case = case.map(|case| case.as_str());
            exception_event(cloud, *payment, case, ExceptionChange::Resolved, at)
        }
        Event::Registered(AdminCommand::CreateDevice { device, .. }) => {
            device_event(cloud, device, DeviceChange::Registered, at)
        }
        Event::DeviceEnrolled { principal, .. } => device_event(cloud, principal, DeviceChange::Enrolled, at),
        Event::Registered(AdminCommand::DeleteDevice { device }) => {
            device_event(cloud, device, DeviceChange::Deleted, at)
        }
        Event::DeviceRevoked { device } => device_event(cloud, device, DeviceChange::Revoked, at),
        _ => None,
    }
}

/// The presence of somebody who takes part in payments; none of anybody else.
fn presence_of(cloud: &Cloud, principal: &Principal, presence: Presence) -> Option<PresenceEvent> {
    let registry = cloud.registry();
    let takes_part = registry.device(principal).is_some() || registry.person(principal).is_some();
    takes_part.then(|| PresenceEvent {
        principal: principal.clone(),
        presence: match (presence.connected, presence.since) {
            (true, _) => PresenceState::Connected,
            (false, Some(_)) => PresenceState::Disconnected,
            (false, None) => PresenceState::Unknown,
        },
        since: presence.since,
        said: presence.state.map(Text::new),
    })
}

/// Who takes part in a tenant's payments, by name, after `after`: at most `max`, and whether there are more.
fn parties(
    cloud: &Cloud,
    tenant: &TenantId,
    after: Option<&PrincipalId>,
    max: usize,
) -> (Vec<Principal>, bool) {
    let registry = cloud.registry();
    let mut found = names(&registry.devices, tenant, after, max + 1);
    found.extend(names(&registry.persons, tenant, after, max + 1));
    found.sort_unstable();
    let more = found.len() > max;
    found.truncate(max);
    (found, more)
}

fn names<T>(
    of: &BTreeMap<Principal, T>,
    tenant: &TenantId,
    after: Option<&PrincipalId>,
    max: usize,
) -> Vec<Principal> {
    let start = match after {
        Some(id) => Bound::Excluded(Principal { tenant: tenant.clone(), id: id.clone() }),
        None => match "0".parse() {
            Ok(least) => Bound::Included(Principal { tenant: tenant.clone(), id: least }),
            Err(_) => Bound::Unbounded,
        },
    };
    let names = of.range((start, Bound::Unbounded)).map(|(name, _)| name);
    names.take_while(|name| name.tenant == *tenant).take(max).cloned().collect()
}

fn payment_event(cloud: &Cloud, id: PaymentId, at: Timestamp) -> Option<(TenantId, FeedEvent)> {
    let payment = cloud.payment(id)?;
    let event = PaymentEvent {
        payment: id,
        state: payment.state(),
        merchant: payment.merchant.clone(),
        chip: payment.chip.clone(),
        item: payment.item.clone(),
        quantity: payment.quantity,
        delivered: payment.delivered(),
        amount: payment.amount,
        paid: Money { minor: payment.paid_minor, currency: payment.amount.currency },
        reason: payment.reason.clone(),
        opened_at: payment.opened_at,
        at,
    };
    Some((payment.payer.tenant.clone(), FeedEvent::Payment(event)))
}

fn exception_event(
    cloud: &Cloud,
    id: PaymentId,
    case: Option<&'static str>,
    change: ExceptionChange,
    at: Timestamp,
) -> Option<(TenantId, FeedEvent)> {
    let tenant = cloud.payment(id)?.payer.tenant.clone();
    let case = case.map(Code::known);
    Some((tenant, FeedEvent::Exception(ExceptionEvent { payment: id, case, change, at })))
}

fn device_event(
    cloud: &Cloud,
    device: &Principal,
    change: DeviceChange,
    at: Timestamp,
) -> Option<(TenantId, FeedEvent)> {
    let instance = cloud.registry().device(device).map(|found| found.instance);
    let event = DeviceEvent { device: device.clone(), change, instance, at };
    Some((device.tenant.clone(), FeedEvent::Device(event)))
}
