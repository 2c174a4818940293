//! The state of the cloud: registry, books, outbox, idempotency window, payments, exceptions, timers. It changes only
//! by [`Cloud::evolve`], which is total and is all that replay uses.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_ledger::{Ledger, Limits};
use schemas::cbor;
use schemas::ids::{CommandId, Instance, MessageId, Nonce, PaymentId, Principal, TenantId};
use schemas::time::Timestamp;
use schemas_journal::{Fold, Position};
use schemas_mutants::Mutant;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::admin::{AdminCommand, Deadlines};
use crate::books;
use crate::event::{Event, Record};
use crate::exceptions::{Case, Exceptions};
use crate::limits;
use crate::outbox::Outbox;
use crate::payment::{
    AnyPayment, ChildPayment, ChildPhase, ChipPayment, Command, OwnPayment, Phase, Reported,
};
use crate::registry::{Registry, Renewal};
use crate::window::Window;

type ChipPayments = BTreeMap<PaymentId, ChipPayment>;

/// Everything that the core knows and must not forget. `P`: see [`CloudBesidePayments`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cloud<P = ChipPayments> {
    pub(crate) registry: Registry,
    pub(crate) ledger: Ledger,
    pub(crate) outbox: Outbox,
    pub(crate) window: Window,
    pub(crate) payments: P,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    child_payments: BTreeMap<PaymentId, ChildPayment>,
    /// By who ordered them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    own_payments: BTreeMap<(Principal, PaymentId), OwnPayment>,
    /// Derived from them: when waiting ends, or memory.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    own_due: BTreeSet<(Timestamp, Principal, PaymentId)>,
    pub(crate) exceptions: Exceptions,
    /// Which payment claimed a payment information; forgotten when that has expired.
    nonces: BTreeMap<(Principal, Nonce), PaymentId>,
    /// When the claimed payment informations expire.
    nonce_ends: BTreeSet<(Timestamp, Principal, Nonce)>,
    commands: BTreeMap<CommandId, PaymentId>,
    /// By the id of the message that carried the command.
    command_messages: BTreeMap<MessageId, PaymentId>,
    /// Payments not at rest.
    open: BTreeSet<PaymentId>,
    /// The same by everybody who takes part.
    open_of: BTreeMap<Principal, BTreeSet<PaymentId>>,
    /// Derived from the payments: when waiting ends.
    timers: BTreeSet<(Timestamp, PaymentId)>,
    /// Time of the last event.
    at: Timestamp,
    /// When the core last started.
    opened_at: Timestamp,
    /// No enrolment gets a lower number: after a restore there may be certificates that this journal has forgotten.
    #[serde(default, skip_serializing_if = "is_zero")]
    instance_floor: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Default for Cloud {
    fn default() -> Self {
        Self {
            registry: Registry::default(),
            ledger: Ledger::new(Limits::default()),
            outbox: Outbox::default(),
            window: Window::default(),
            payments: BTreeMap::new(),
            child_payments: BTreeMap::new(),
            own_payments: BTreeMap::new(),
            own_due: BTreeSet::new(),
            exceptions: Exceptions::default(),
            nonces: BTreeMap::new(),
            nonce_ends: BTreeSet::new(),
            commands: BTreeMap::new(),
            command_messages: BTreeMap::new(),
            open: BTreeSet::new(),
            open_of: BTreeMap::new(),
            timers: BTreeSet::new(),
            at: Timestamp(0),
            opened_at: Timestamp(0),
            instance_floor: 0,
        }
    }
}

impl Cloud {
    /// Applies one decided event. Total: replay never fails and never decides.
    pub fn evolve(&mut self, record: &Record) {
        self.at = self.at.max(record.at);
        self.window.forget(record.at);
        match &record.event {
            Event::Registered(command) => self.register(command, record.at),
            Event::DeviceEnrolled { principal, instance, public_key, claim_hash, certificate } => {
                self.registry.enrol(principal, *instance, *public_key, *claim_hash, certificate);
            }
            Event::CertificateRenewed { principal, of_serial, not_after, certificate } => {
                let (of_serial, certificate) = (of_serial.clone().into(), certificate.clone().into());
                self.registry.renew(principal, Renewal { of_serial, not_after: *not_after, certificate });
            }
            Event::DeviceReported { device, report } => self.registry.report(device, report, record.at),
            Event::DeviceRevoked { device } => self.registry.revoke(device),
            Event::LimitsSet { child, limits, .. } => self.registry.limit_child(child, limits),
            Event::GoalsSet { child, goals, .. } => self.registry.set_goals(child, goals),
            Event::AllowanceSet { child, guardian, allowance, .. } => {
                self.registry.set_allowance(child, guardian, *allowance);
            }
            Event::WishMade { child, id, wish, day } => {
                self.registry.wishes_of(child, |wishes| wishes.make(*id, wish, *day))
            }
            Event::WishEnded { child, id, state, reason } => {
                self.registry.wishes_of(child, |wishes| wishes.end(*id, *state, reason.as_ref()));
            }
            Event::Ledger(event) => self.ledger.evolve(event),
            Event::RequestAnswered { principal, content, not_after, answer } => {
                self.window.remember(principal, *content, answer, *not_after);
            }
            Event::Queued { principal, message } => self.outbox.queue(principal, message),
            Event::Cleared { principal, message } | Event::Withdrawn { principal, message, .. } => {
                self.outbox.remove(principal, *message);
            }
            Event::ExceptionRaised { payment, about, case, text } => {
                self.exceptions.raise(*payment, *about, *case, text, record.at);
            }
            Event::ExceptionsResolved { payment, case, .. } => self.exceptions.resolve(*payment, *case),
            Event::Opened => {
                self.opened_at = record.at;
                if Mutant::OutboxForgotten.is_active() {
                    self.outbox = Outbox::default();
                }
                if Mutant::WindowForgotten.is_active() {
                    self.window = Window::default();
                }
            }
            Event::Restored { .. } => {
                let minutes = u32::try_from(record.at.0 / 60_000).unwrap_or(u32::MAX / 2);
                self.instance_floor = self.instance_floor.max(minutes);
            }
            Event::RefusalAudited { .. } => {}
            _ => self.evolve_payment(record),
        }
    }

    /// Where the tenant's retention changes, or goes with it, its closed payments leave memory at another time.
    fn register(&mut self, command: &AdminCommand, at: Timestamp) {
        let (AdminCommand::ChangeTenant { tenant, .. } | AdminCommand::DeleteTenant { tenant }) = command
        else {
            return self.registry.register(command, at);
        };
        let of_tenant = self.every_payment().filter(|payment| payment.tenant() == tenant);
        let before: Vec<_> = of_tenant.map(|payment| (payment.id(), self.due_at(payment.id()))).collect();
        self.registry.register(command, at);
        before.into_iter().for_each(|(id, due_at)| self.set_timer(id, due_at));
    }

    fn evolve_payment(&mut self, record: &Record) {
        match &record.event {
            Event::PaymentOpened(payment) => {
                self.payments.insert(payment.id, payment.clone());
                self.list_open(payment.id);
                self.set_timer(payment.id, None);
            }
            Event::NonceClaimed { payment } => self.claim_nonce(*payment, record.at),
            Event::PaymentVerified { payment, alive_until } => {
                if let Some(found) = self.payments.get_mut(payment) {
                    found.verified_at.get_or_insert(record.at);
                    found.alive_until = Some(*alive_until);
                }
            }
            Event::PaymentMoved { payment, phase, paid_minor, reason } => {
                self.move_payment(*payment, phase, *paid_minor, reason.as_ref(), record.at);
            }
            Event::CommandIssued { payment, command } => {
                let before = self.due_at(*payment);
                self.commands.insert(command.id, *payment);
                self.command_messages.insert(Command::message(command.id), *payment);
                if let Some(found) = self.payments.get_mut(payment) {
                    found.command = Some(command.clone());
                }
                self.set_timer(*payment, before);
            }
            Event::OutcomeReported { payment, outcome, delivered, .. } => {
                if let Some(found) = self.payments.get_mut(payment) {
                    found.outcome = Some(Reported { outcome: *outcome, delivered: *delivered });
                }
            }
            Event::PaymentRetired { payment } => self.retire(*payment),
            Event::ChildPaymentOpened(payment) => {
                if let Some(child) = self.registry.children.get_mut(&payment.child) {
                    child.spent.add(payment.day, payment.amount.minor, &payment.categories);
                    child.kept = child.kept.saturating_add(1);
                    if let Some(wish) = payment.wish {
                        child.wishes.ordered(wish, payment.id);
                    }
                }
                self.child_payments.insert(payment.id, payment.clone());
                self.list_open(payment.id);
                self.set_timer(payment.id, None);
            }
            Event::ChildPaymentMoved { payment, .. } => {
                let before = self.due_at(*payment);
                self.move_child_payment(&record.event, record.at);
                self.list_open(*payment);
                self.set_timer(*payment, before);
            }
            Event::OwnPaymentOpened(payment) => {
                self.put_own((payment.payer.clone(), payment.id), Some(payment.clone()))
            }
            Event::OwnPaymentMoved { payer, payment, phase } => {
                let name = (payer.clone(), *payment);
                let moved =
                    self.own_payments.get(&name).map(|found| OwnPayment { phase: *phase, ..found.clone() });
                self.put_own(name, moved);
            }
            Event::OwnPaymentForgotten { payer, payment } => self.put_own((payer.clone(), *payment), None),
            _ => {}
        }
    }

    fn move_child_payment(&mut self, event: &Event, at: Timestamp) {
        let Event::ChildPaymentMoved { payment, phase, reason, position } = event else { return };
        let Some(payment) = self.child_payments.get_mut(payment) else { return };
        let ends = !payment.at_rest() && matches!(phase, ChildPhase::Closed(_));
        let moves = payment.phase != *phase;
        payment.phase = *phase;
        payment.moved_at = at;
        payment.reason = reason.clone().or(payment.reason.take());
        payment.position = position.or(payment.position);
        // One that is only looked at again is no news.
        if let (ChildPhase::Closed(state), Some(child)) =
            (phase, self.registry.children.get_mut(&payment.child).filter(|_| moves))
        {
            child.payment_ended(payment, *state, ends);
        }
        // What was reserved and not taken is there to be spent again.
        if ends
            && payment.paid_minor() == 0
            && let Some(child) = self.registry.children.get_mut(&payment.child)
        {
            child.spent.take_back(payment.day, payment.amount.minor, &payment.categories);
        }
    }

    fn move_payment(
        &mut self,
        id: PaymentId,
        phase: &Phase,
        paid_minor: u64,
        reason: Option<&schemas::ids::Code>,
        at: Timestamp,
    ) {
        let before = self.due_at(id);
        let Some(payment) = self.payments.get_mut(&id) else { return };
        if matches!(payment.phase, Phase::Refunding { .. }) && !matches!(phase, Phase::Refunding { .. }) {
            payment.refunds_ended += 1;
        }
        payment.phase = phase.clone();
        payment.paid_minor = paid_minor;
        payment.moved_at = at;
        if let Some(reason) = reason {
            payment.reason = Some(reason.clone());
        }
        self.list_open(id);
        self.set_timer(id, before);
    }

    fn list_open(&mut self, id: PaymentId) {
        let Some(payment) = find_payment(&self.payments, &self.child_payments, id) else { return };
        let at_rest = payment.at_rest();
        let changed = if at_rest { self.open.remove(&id) } else { self.open.insert(id) };
        if !changed {
            return;
        }
        for party in payment.parties() {
            let open = self.open_of.entry(party.clone()).or_default();
            if at_rest {
                open.remove(&id);
            } else {
                open.insert(id);
            }
            if open.is_empty() {
                self.open_of.remove(party);
            }
        }
    }

    fn claim_nonce(&mut self, id: PaymentId, now: Timestamp) {
        let Some(payment) = self.payments.get(&id) else { return };
        let (chip, nonce) = (payment.chip.clone(), payment.nonce);
        self.nonce_ends.insert((payment.information_expires_at, chip.clone(), nonce));
        self.nonces.insert((chip, nonce), id);
        // Expired ones are refused as expired; so this map follows what is still valid.
        while self.nonce_ends.first().is_some_and(|(until, _, _)| *until < now) {
            if let Some((_, chip, nonce)) = self.nonce_ends.pop_first() {
                self.nonces.remove(&(chip, nonce));
            }
        }
    }

    fn retire(&mut self, id: PaymentId) {
        let before = self.due_at(id);
        if let Some(payment) = self.payments.remove(&id)
            && let Some(command) = payment.command
        {
            self.commands.remove(&command.id);
            self.command_messages.remove(&Command::message(command.id));
        }
        if let Some(payment) = self.child_payments.remove(&id)
            && let Some(child) = self.registry.children.get_mut(&payment.child)
        {
            child.kept = child.kept.saturating_sub(1);
        }
        if let Some(at) = before {
            self.timers.remove(&(at, id));
        }
    }

    fn put_own(&mut self, name: (Principal, PaymentId), payment: Option<OwnPayment>) {
        if let Some(former) = self.own_payments.remove(&name) {
            self.own_due.remove(&(former.due_at(), name.0.clone(), name.1));
        }
        if let Some(payment) = payment {
            self.own_due.insert((payment.due_at(), name.0.clone(), name.1));
            self.own_payments.insert(name, payment);
        }
    }

    fn due_at(&self, id: PaymentId) -> Option<Timestamp> {
        let payment = self.any_payment(id)?;
        payment.due_at(self.deadlines(payment.tenant()).retention_ms)
    }

    fn set_timer(&mut self, id: PaymentId, before: Option<Timestamp>) {
        if let Some(at) = before {
            self.timers.remove(&(at, id));
        }
        if let Some(at) = self.due_at(id) {
            self.timers.insert((at, id));
        }
    }
}

/// Reading the state.
impl Cloud {
    /// Who and what is registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The books.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What is owed to whom.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The exceptions queue.
    pub fn exceptions(&self) -> &Exceptions {
        &self.exceptions
    }

    /// All payments in memory.
    pub fn payments(&self) -> impl Iterator<Item = &ChipPayment> {
        self.payments.values()
    }

    /// One payment, if it is in memory.
    pub fn payment(&self, id: PaymentId) -> Option<&ChipPayment> {
        self.payments.get(&id)
    }

    /// All payments from children's accounts that are in memory.
    pub fn child_payments(&self) -> impl Iterator<Item = &ChildPayment> {
        self.child_payments.values()
    }

    /// One of them.
    pub fn child_payment(&self, id: PaymentId) -> Option<&ChildPayment> {
        self.child_payments.get(&id)
    }

    /// Payments from people's own accounts that are in memory.
    pub fn own_payments(&self) -> impl Iterator<Item = &OwnPayment> {
        self.own_payments.values()
    }

    /// Those of one person.
    pub(crate) fn own_payments_of(&self, payer: &Principal) -> impl Iterator<Item = &OwnPayment> {
        let from = (payer.clone(), PaymentId([0; 16]));
        let to = (payer.clone(), PaymentId([u8::MAX; 16]));
        self.own_payments.range(from..=to).map(|(_, payment)| payment)
    }

    pub(crate) fn own_payment(&self, payer: &Principal, id: PaymentId) -> Option<&OwnPayment> {
        self.own_payments.get(&(payer.clone(), id))
    }

    pub(crate) fn due_own_payment(&self, now: Timestamp) -> Option<&OwnPayment> {
        let (_, payer, id) = self.own_due.first().filter(|(at, _, _)| *at <= now)?;
        self.own_payment(payer, *id)
    }

    pub(crate) fn any_payment(&self, id: PaymentId) -> Option<AnyPayment<'_>> {
        find_payment(&self.payments, &self.child_payments, id)
    }

    pub(crate) fn every_payment(&self) -> impl Iterator<Item = AnyPayment<'_>> {
        let chip = self.payments.values().map(AnyPayment::Chip);
        chip.chain(self.child_payments.values().map(AnyPayment::Child))
    }

    /// Payments of any flow that are not at rest.
    pub fn open_payments(&self) -> usize {
        self.open.len()
    }

    /// The chip payments among them.
    pub fn open(&self) -> impl Iterator<Item = &ChipPayment> {
        self.open.iter().filter_map(|id| self.payments.get(id))
    }

    /// All of them.
    pub(crate) fn every_open_payment(&self) -> impl Iterator<Item = AnyPayment<'_>> {
        self.open.iter().filter_map(|id| self.any_payment(*id))
    }

    /// Time of the last event.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// When the core last started.
    pub(crate) fn opened_at(&self) -> Timestamp {
        self.opened_at
    }

    /// When the next thing is due that happens by time alone, allowances aside.
    pub fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let own = self.own_due.first().map(|(at, _, _)| *at);
        timer.into_iter().chain(own).chain(self.outbox.next_expiry()).min()
    }

    pub(crate) fn due_payment(&self, now: Timestamp) -> Option<AnyPayment<'_>> {
        self.timers.first().filter(|(at, _)| *at <= now).and_then(|(_, id)| self.any_payment(*id))
    }

    /// The number of the next enrolment after this one: never one that was given before, also in a future that a restore
    /// has taken back.
    pub(crate) fn instance_after(&self, current: Instance) -> Instance {
        Instance((current.0 + 1).max(self.instance_floor))
    }

    pub(crate) fn deadlines(&self, tenant: &TenantId) -> Deadlines {
        self.registry.tenant(tenant).map_or_else(Deadlines::default, |tenant| tenant.deadlines)
    }

    pub(crate) fn payment_of_command(&self, command: CommandId) -> Option<&ChipPayment> {
        self.commands.get(&command).and_then(|id| self.payments.get(id))
    }

    pub(crate) fn nonce_claimed_by(&self, chip: &Principal, nonce: Nonce) -> Option<PaymentId> {
        self.nonces.get(&(chip.clone(), nonce)).copied()
    }

    pub(crate) fn payment_of_command_message(&self, message: MessageId) -> Option<&ChipPayment> {
        self.command_messages.get(&message).and_then(|id| self.payments.get(id))
    }

    /// Open chip payments in which `party` is payer, chip or executor.
    pub(crate) fn open_payments_of(&self, party: &Principal) -> Vec<&ChipPayment> {
        self.open_of.get(party).into_iter().flatten().filter_map(|id| self.payments.get(id)).collect()
    }

    /// Whether `party` is payer, chip or executor in so many open chip payments, or more.
    pub(crate) fn has_open(&self, party: &Principal, count: usize) -> bool {
        let of = |open: &BTreeSet<PaymentId>| open.iter().filter(|id| self.payments.contains_key(id)).count();
        self.open_of.get(party).is_some_and(|open| open.len() >= count && of(open) >= count)
    }

    /// Whether this payer has as many open chip payments as anybody may: the next request would be refused.
    #[must_use]
    pub fn is_full(&self, payer: &Principal) -> bool {
        self.has_open(payer, limits::OPEN_PAYMENTS_OF_PAYER)
    }

    /// Open payments from a child's account in which `party` is guardian, child or piggy bank.
    pub(crate) fn open_child_payments_of(&self, party: &Principal) -> Vec<&ChildPayment> {
        let open = self.open_of.get(party).into_iter().flatten();
        open.filter_map(|id| self.child_payments.get(id)).collect()
    }

    /// The invariants that hold after every event: the books are sound; every payment that reserves has its
    /// reservation; every operator's case has its entry; derived indexes agree.
    ///
    /// # Errors
    /// A sentence that names the first violation.
    pub fn check(&self) -> Result<(), String> {
        self.ledger.check().map_err(|violation| violation.to_string())?;
        self.check_open_payments()?;
        self.window.check()?;
        books::check_claims(self)?;
        for payment in self.payments.values() {
            let named = match payment.phase {
                Phase::Held => self.exceptions.has(payment.id, Case::UnknownOutcome),
                Phase::RefundBlocked { .. } => self.exceptions.has(payment.id, Case::RefundBlocked),
                _ => true,
            };
            if !named {
                return Err(format!("payment {} waits for an operator and is not in the queue", payment.id));
            }
        }
        let due = self.own_payments.values().map(|own| (own.due_at(), own.payer.clone(), own.id));
        if due.collect::<BTreeSet<_>>() != self.own_due {
            return Err("a person's own payment waits without a timer".to_owned());
        }
        for payment in self.every_payment() {
            let due = self.due_at(payment.id());
            if due.is_some_and(|at| !self.timers.contains(&(at, payment.id()))) {
                return Err(format!("payment {} waits without a timer", payment.id()));
            }
        }
        Ok(())
    }

    fn check_open_payments(&self) -> Result<(), String> {
        let mut open = BTreeSet::new();
        let mut open_of = BTreeMap::<_, BTreeSet<_>>::new();
        for payment in self.every_payment().filter(|payment| !payment.at_rest()) {
            open.insert(payment.id());
            for party in payment.parties() {
                open_of.entry(party.clone()).or_default().insert(payment.id());
            }
        }
        if open != self.open || open_of != self.open_of {
            return Err(format!("{} payments are open and {} are listed", open.len(), self.open.len()));
        }
        Ok(())
    }
}

/// Ids of payments of all flows are different: each is derived with a label of its flow.
fn find_payment<'a>(
    chip: &'a BTreeMap<PaymentId, ChipPayment>,
    child: &'a BTreeMap<PaymentId, ChildPayment>,
    id: PaymentId,
) -> Option<AnyPayment<'a>> {
    let found = chip.get(&id).map(AnyPayment::Chip);
    found.or_else(|| child.get(&id).map(AnyPayment::Child))
}

/// The chip payments of a snapshot, which are much of it: one thread may read them while another reads the rest.
#[derive(Deserialize)]
pub struct PaymentsOfSnapshot {
    payments: ChipPayments,
}

/// The rest: see [`PaymentsOfSnapshot`].
pub type CloudBesidePayments = Cloud<IgnoredAny>;

impl PaymentsOfSnapshot {
    /// # Errors
    /// This is not the snapshot of a cloud.
    pub fn read(snapshot: &[u8]) -> Result<Self, cbor::CborError> {
        cbor::decode_within(snapshot, usize::MAX)
    }
}

impl CloudBesidePayments {
    /// # Errors
    /// This is not the snapshot of a cloud.
    pub fn read(snapshot: &[u8]) -> Result<Self, cbor::CborError> {
        cbor::decode_within(snapshot, usize::MAX)
    }

    /// What [`Fold::restore`] makes of the same snapshot.
    #[must_use]
    pub fn with(self, payments: PaymentsOfSnapshot) -> Cloud {
        let mut cloud = Cloud {
            registry: self.registry,
            ledger: self.ledger,
            outbox: self.outbox,
            window: self.window,
            payments: payments.payments,
            child_payments: self.child_payments,
            own_payments: self.own_payments,
            own_due: self.own_due,
            exceptions: self.exceptions,
            nonces: self.nonces,
            nonce_ends: self.nonce_ends,
            commands: self.commands,
            command_messages: self.command_messages,
            open: self.open,
            open_of: self.open_of,
            timers: self.timers,
            at: self.at,
            opened_at: self.opened_at,
            instance_floor: self.instance_floor,
        };
        cloud.restore_derived();
        cloud
    }
}

impl Cloud {
    /// What a snapshot leaves out.
    fn restore_derived(&mut self) {
        self.registry.restore_wards();
        self.window.restore_counts();
        if Mutant::SnapshotWithoutNonces.is_active() {
            self.nonces.clear();
        }
    }
}

/// Rebuilds the cloud from a snapshot and records.
impl Fold for Cloud {
    type Error = cbor::CborError;

    fn restore(&mut self, _: Position, snapshot: &[u8]) -> Result<(), Self::Error> {
        *self = cbor::decode_within(snapshot, usize::MAX)?;
        self.restore_derived();
        Ok(())
    }

    fn apply(&mut self, _: Position, record: &[u8]) -> Result<(), Self::Error> {
        self.evolve(&Record::decode(record)?);
        Ok(())
    }
}
