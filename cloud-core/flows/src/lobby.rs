//! Who is connected. Volatile: after a start nobody is, and nothing is remembered (correctness.md 13).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use schemas::ids::{Hash, Principal, TenantId};
use schemas::time::Timestamp;
use schemas_mutants::Mutant;

use crate::admin::{Presence, RefusalCount, RefusalReport, RefusalRow};
use crate::limits;
use crate::port::ConnectionId;

#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) principal: Principal,
    pub(crate) client: String,
    pub(crate) subscribed: bool,
    watches: bool,
}

/// Audit records of refusals in one minute.
#[derive(Debug, Default)]
struct Audited {
    minute: u64,
    records: u32,
    /// Refusals that were not written down, and are not yet on record as a number.
    unrecorded: u64,
    /// The same since the start.
    unrecorded_ever: u64,
}

/// Connections, the health probe, and how often each principal was refused lately.
#[derive(Debug, Default)]
pub(crate) struct Lobby {
    guests: BTreeMap<ConnectionId, Guest>,
    by_principal: BTreeMap<Principal, Vec<ConnectionId>>,
    /// The platform's own probe: it may ask for the time, nothing else.
    pub(crate) probe: Option<(Principal, Hash)>,
    refusals: BTreeMap<Option<Principal>, (u64, u32)>,
    audited: Audited,
    /// What was refused lately, oldest first, and how often each reason was given.
    recent: VecDeque<RefusalRow>,
    reasons: BTreeMap<String, u64>,
    /// Of everybody who was admitted since the start, with the newest connection that they had.
    presences: BTreeMap<Principal, (ConnectionId, Presence)>,
    /// Tenants that observers watch, with the number of watching connections.
    watched: BTreeMap<TenantId, usize>,
    /// Of watched tenants: whose presence has changed since this was last asked.
    changed: Vec<Principal>,
    /// Piggy banks that came back while the disk was full: what their children see is to be said when there is room.
    unshown: BTreeSet<Principal>,
}

impl Lobby {
    /// Admits a connection and returns those that have to go: those with the same client id, and the oldest beyond
    /// the limit.
    pub(crate) fn admit(
        &mut self,
        connection: ConnectionId,
        principal: &Principal,
        client: &str,
        now: Timestamp,
    ) -> Vec<ConnectionId> {
        let present = self.connections(principal).to_vec();
        let mut leaving: Vec<_> = present
            .iter()
            .copied()
            .filter(|id| self.guests.get(id).is_some_and(|guest| guest.client == client))
            .collect();
        if present.len() - leaving.len() >= limits::CONNECTIONS_OF_PRINCIPAL {
            leaving.extend(present.iter().copied().find(|id| !leaving.contains(id)));
        }
        leaving.iter().for_each(|id| self.leave(*id, now));
        let since = self.presences.get(principal).filter(|(_, known)| known.connected && !present.is_empty());
        let since = since.and_then(|(_, known)| known.since).unwrap_or(now);
        let presence = Presence { connected: true, since: Some(since), state: None };
        let former = self.presences.insert(principal.clone(), (connection, presence.clone()));
        let guest = Guest {
            principal: principal.clone(),
            client: client.to_owned(),
            subscribed: false,
            watches: false,
        };
        self.guests.insert(connection, guest);
        self.by_principal.entry(principal.clone()).or_default().push(connection);
        if former.is_none_or(|(_, former)| former != presence) {
            self.note(principal);
        }
        leaving
    }

    /// Everyone of `principal` has to go.
    pub(crate) fn dismiss(&mut self, principal: &Principal, now: Timestamp) -> Vec<ConnectionId> {
        let leaving = self.connections(principal).to_vec();
        leaving.iter().for_each(|id| self.leave(*id, now));
        leaving
    }

    pub(crate) fn leave(&mut self, connection: ConnectionId, now: Timestamp) {
        let Some(guest) = self.guests.remove(&connection) else { return };
        let tenant = &guest.principal.tenant;
        if guest.watches
            && let Some(count) = self.watched.get_mut(tenant)
        {
            *count -= 1;
            if *count == 0 {
                self.watched.remove(tenant);
            }
        }
        if let Some(present) = self.by_principal.get_mut(&guest.principal) {
            present.retain(|id| *id != connection);
            if present.is_empty() {
                self.by_principal.remove(&guest.principal);
                if let Some((_, presence)) = self.presences.get_mut(&guest.principal) {
                    (presence.connected, presence.since) = (false, Some(now));
                }
                self.note(&guest.principal);
            }
        }
    }

    pub(crate) fn principal(&self, connection: ConnectionId) -> Option<&Principal> {
        self.guests.get(&connection).map(|guest| &guest.principal)
    }

    /// The connection takes what its principal is owed. Of a device only one does: those that did before have to go
    /// (correctness.md 11). One that never subscribes, such as a check of the connection, disturbs nobody.
    pub(crate) fn subscribe(
        &mut self,
        connection: ConnectionId,
        is_device: bool,
        now: Timestamp,
    ) -> Vec<ConnectionId> {
        let Some(guest) = self.guests.get_mut(&connection) else { return Vec::new() };
        guest.subscribed = true;
        let principal = guest.principal.clone();
        let others = self.listening(&principal).filter(|other| is_device && *other != connection);
        let leaving: Vec<_> = others.collect();
        leaving.iter().for_each(|id| self.leave(*id, now));
        leaving
    }

    pub(crate) fn connections(&self, principal: &Principal) -> &[ConnectionId] {
        self.by_principal.get(principal).map_or(&[], Vec::as_slice)
    }

    /// Connections of `principal` that can be woken.
    pub(crate) fn listening(&self, principal: &Principal) -> impl Iterator<Item = ConnectionId> {
        let subscribed = |id: &&ConnectionId| self.guests.get(id).is_some_and(|guest| guest.subscribed);
        self.connections(principal).iter().filter(subscribed).copied()
    }

    /// `state` as it was published, or left as a will. The word of an older connection is ignored: a will that
    /// comes late must not bury a device that is back (correctness.md 13).
    pub(crate) fn state(&mut self, connection: ConnectionId, principal: &Principal, payload: &[u8]) {
        let Some((newest, presence)) = self.presences.get_mut(principal) else { return };
        if connection >= *newest || Mutant::StaleWill.is_active() {
            let text = String::from_utf8_lossy(payload);
            presence.state = Some(text.chars().take(limits::STATE_CHARS).collect());
            self.note(principal);
        }
    }

    /// The connection wants to hear of changes in its tenant.
    pub(crate) fn watch(&mut self, connection: ConnectionId) {
        if let Some(guest) = self.guests.get_mut(&connection)
            && !guest.watches
        {
            guest.watches = true;
            *self.watched.entry(guest.principal.tenant.clone()).or_default() += 1;
        }
    }

    /// Whether anybody watches this tenant.
    pub(crate) fn is_watched(&self, tenant: &TenantId) -> bool {
        self.watched.contains_key(tenant)
    }

    /// Whether anybody watches anything.
    pub(crate) fn is_any_watched(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Of watched tenants: whose presence has changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<Principal> {
        std::mem::take(&mut self.changed)
    }

    fn note(&mut self, principal: &Principal) {
        if self.watched.contains_key(&principal.tenant) {
            self.changed.push(principal.clone());
        }
    }

    pub(crate) fn presence(&self, principal: &Principal) -> Presence {
        self.presences.get(principal).map_or_else(Presence::default, |(_, presence)| presence.clone())
    }

    /// Remembers a refusal for operators. Of reasons beyond the limit only the number is known.
    pub(crate) fn refused(&mut self, row: RefusalRow) {
        let is_full = self.reasons.len() >= limits::RECENT_REFUSALS && !self.reasons.contains_key(&row.why);
        let reason = if is_full { "other reasons".to_owned() } else { row.why.clone() };
        *self.reasons.entry(reason).or_default() += 1;
        if self.recent.len() == limits::RECENT_REFUSALS {
            self.recent.pop_front();
        }
        self.recent.push_back(row);
    }

    pub(crate) fn refusals(&self) -> RefusalReport {
        let counted = self.reasons.iter().map(|(reason, count)| (reason.clone(), *count));
        let mut counts: Vec<_> = counted.map(|(reason, count)| RefusalCount { reason, count }).collect();
        counts.sort_by_key(|row| std::cmp::Reverse(row.count));
        let unrecorded = self.audited.unrecorded_ever;
        RefusalReport { refusals: self.recent.iter().rev().cloned().collect(), counts, unrecorded }
    }

    /// One has to go; whose it was.
    pub(crate) fn dismiss_one(&mut self, connection: ConnectionId, now: Timestamp) -> Option<Principal> {
        let principal = self.principal(connection).cloned()?;
        self.leave(connection, now);
        Some(principal)
    }

    pub(crate) fn count(&self) -> usize {
        self.guests.len()
    }

    /// Whether another refusal of this principal is written down: so many a minute, and so many of all.
    pub(crate) fn audits(&mut self, principal: Option<&Principal>, now: Timestamp) -> bool {
        let minute = now.0 / 60_000;
        if self.refusals.len() >= limits::AUDITED_PRINCIPALS {
            self.refusals.retain(|_, (when, _)| *when == minute);
        }
        let is_full = self.refusals.len() >= limits::AUDITED_PRINCIPALS;
        let principal = principal.filter(|p| !is_full || self.refusals.contains_key(&Some((*p).clone())));
        let count = self.refusals.entry(principal.cloned()).or_insert((minute, 0));
        if count.0 != minute {
            *count = (minute, 0);
        }
        count.1 += 1;
        if self.audited.minute != minute {
            (self.audited.minute, self.audited.records) = (minute, 0);
        }
        let is_written = count.1 <= limits::AUDITED_REFUSALS_PER_MINUTE
            && self.audited.records < limits::AUDITED_REFUSALS_OF_ALL_PER_MINUTE;
        if is_written {
            self.audited.records += 1;
        } else {
            self.audited.unrecorded += 1;
            self.audited.unrecorded_ever += 1;
        }
        is_written
    }

    pub(crate) fn show_later(&mut self, piggy_bank: Principal) {
        self.unshown.insert(piggy_bank);
    }

    pub(crate) fn has_unshown(&self) -> bool {
        !self.unshown.is_empty()
    }

    pub(crate) fn take_unshown(&mut self) -> Option<Principal> {
        self.unshown.pop_first()
    }

    /// When the number of those that were not written down goes on record.
    pub(crate) fn summary_due(&self) -> Option<Timestamp> {
        let ends_at = (self.audited.minute + 1).saturating_mul(60_000);
        (self.audited.unrecorded > 0).then_some(Timestamp(ends_at))
    }

    /// That number, once when it is due.
    pub(crate) fn take_unrecorded(&mut self, now: Timestamp) -> Option<u64> {
        self.summary_due().filter(|due| *due <= now)?;
        Some(std::mem::take(&mut self.audited.unrecorded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "acme/vend-7";

    fn seen(lobby: &Lobby) -> (bool, Option<u64>, Option<String>) {
        let presence = lobby.presence(&DEVICE.parse().unwrap());
        (presence.connected, presence.since.map(|since| since.0), presence.state)
    }

    /// correctness.md 13: nobody is known after a start; a will that comes after the device is back is an older word.
    #[test]
    fn a_will_of_an_older_connection_does_not_bury_the_newer_one() {
        let (mut lobby, device) = (Lobby::default(), DEVICE.parse::<Principal>().unwrap());
        let (first, second) = (ConnectionId(1), ConnectionId(2));
        lobby.state(first, &device, b"before anybody was admitted");
        assert_eq!(seen(&lobby), (false, None, None));
        lobby.admit(first, &device, "agent", Timestamp(10));
        lobby.state(first, &device, b"ready");
        assert_eq!(seen(&lobby), (true, Some(10), Some("ready".to_owned())));
        assert_eq!(lobby.admit(second, &device, "agent", Timestamp(20)), [first], "taken over");
        lobby.state(second, &device, b"back");
        lobby.state(first, &device, b"gone");
        lobby.leave(first, Timestamp(30));
        assert_eq!(seen(&lobby), (true, Some(20), Some("back".to_owned())));
        lobby.state(second, &device, b"gone");
        lobby.leave(second, Timestamp(40));
        assert_eq!(seen(&lobby), (false, Some(40), Some("gone".to_owned())));
    }

    #[test]
    fn a_state_is_kept_short_and_may_be_no_text() {
        let (mut lobby, device) = (Lobby::default(), DEVICE.parse::<Principal>().unwrap());
        lobby.admit(ConnectionId(1), &device, "agent", Timestamp(1));
        lobby.state(ConnectionId(1), &device, &[0xFF; 5_000]);
        let state = seen(&lobby).2.unwrap();
        assert_eq!(state.chars().count(), limits::STATE_CHARS);
    }
}
