//! Devices in the world: the real device state machine over a disk that loses what was not synced.

use std::collections::BTreeMap;

use edge_agent_device::{Conditions, Delivery, Device, Output, Profile, Recovered, Settings};
use schemas::ids::{CommandId, Instance, MessageId, PaymentId};
use schemas::message;
use schemas::topic::Kind;
use schemas_journal::{Journal, JournalLimits, MemoryDisk, OpenError, Report};

use super::client::{Down, Up};
use super::fault::Fault;
use super::lane::Party;
use super::machine_disk::{CHAIN, SMALL};
use super::office::Errand;
use super::piggy_bank::Front;
use super::plan::{MachineKind, MachinePlan};
use super::{Happening, Violation, World, say};

const CHIP: &str = include_str!("../../../edge-agent/profiles/payment-chip.toml");
const EXECUTOR: &str = include_str!("../../../edge-agent/profiles/vending-executor.toml");
const PIGGY_BANK: &str = include_str!("../../../edge-agent/profiles/piggy-bank.toml");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Idle,
    Append,
    Sync,
}

/// A process that is running.
pub(super) struct Running {
    pub(super) device: Device,
    pub(super) journal: Journal<MemoryDisk>,
}

/// One device: its disk outlives its process.
pub(super) struct Machine {
    pub(super) settings: Settings,
    pub(super) connection: Option<u64>,
    /// Counts starts.
    pub(super) run: u64,
    pub(super) subscribed: bool,
    /// The connection on which the cloud has promised its state.
    pub(super) state_told: Option<u64>,
    pub(super) revoked: bool,
    pub(super) errand: Option<Errand>,
    profile: Profile,
    pub(super) disk: MemoryDisk,
    pub(super) limits: JournalLimits,
    pub(super) full_until: Option<u64>,
    pub(super) running: Option<Running>,
    pub(super) stage: Stage,
    dirty: bool,
    wake_at: Option<u64>,
    booted_at: u64,
    drift_ppm: i64,
    conditions: Conditions,
    /// Deliveries of the lane and the messages that they carried.
    pub(super) deliveries: BTreeMap<u64, MessageId>,
    pub(super) packets: BTreeMap<u64, MessageId>,
    next: u64,
    /// Commands and prompts that the cloud was promised.
    promised: Vec<CommandId>,
    prompts_promised: Vec<PaymentId>,
    pub(super) front: Front,
    /// What the next append writes was decided then or later; and what the last one wrote.
    pub(super) decided_from: u64,
    pub(super) appended_from: u64,
}

impl Machine {
    pub(super) fn new(plan: &MachinePlan) -> Result<Self, Violation> {
        let text = match plan.kind {
            MachineKind::Chip(_) => CHIP,
            MachineKind::Executor => EXECUTOR,
            MachineKind::PiggyBank => PIGGY_BANK,
        };
        let profile = Profile::parse(text).map_err(|error| Violation::harness(error.to_string()))?;
        Ok(Self {
            settings: Settings::of(plan.principal.clone(), Instance(0)),
            connection: None,
            run: 0,
            subscribed: false,
            state_told: None,
            revoked: false,
            errand: None,
            profile,
            disk: MemoryDisk::new(),
            limits: if plan.small_disk { SMALL } else { JournalLimits::agent() },
            full_until: None,
            running: None,
            stage: Stage::Idle,
            dirty: false,
            wake_at: None,
            booted_at: 0,
            drift_ppm: plan.drift_ppm,
            conditions: Conditions::default(),
            deliveries: BTreeMap::new(),
            packets: BTreeMap::new(),
            next: 0,
            promised: Vec::new(),
            prompts_promised: Vec::new(),
            front: Front::default(),
            decided_from: 0,
            appended_from: 0,
        })
    }

    /// What `cloud-core audit verify` would say.
    pub(super) fn verify(&self) -> Result<Report, OpenError> {
        schemas_journal::verify(&self.disk)
    }

    /// The operator has revoked it, or is about to.
    pub(super) fn is_gone(&self) -> bool {
        self.revoked || matches!(self.errand, Some(Errand::Revoke(..)))
    }

    /// Also one that was revoked: nobody tells it.
    pub(super) fn may_connect(&self) -> bool {
        self.running.is_some() && self.connection.is_none()
    }

    /// Up to where its journal is on the disk.
    pub(super) fn synced(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.journal.synced().value())
    }

    pub(super) fn is_away(&self) -> bool {
        self.running.is_none()
    }

    pub(super) fn must_not_start(&self) -> bool {
        self.running.is_some() || matches!(self.errand, Some(Errand::Replace(_)))
    }

    pub(super) fn device(&self) -> Option<&Device> {
        self.running.as_ref().map(|running| &running.device)
    }

    /// A clock that runs a little wrong; it began at the machine's own start.
    pub(super) fn boot_ms(&self, now: u64) -> u64 {
        let elapsed = i128::from(now.saturating_sub(self.booted_at));
        let drifted = elapsed + elapsed * i128::from(self.drift_ppm) / 1_000_000;
        u64::try_from(drifted).unwrap_or(0) + 1_000
    }

    /// The last moment of the world's time at which its clock shows this, about.
    pub(super) fn world_time(&self, boot_ms: u64) -> u64 {
        let shown = i128::from(boot_ms.saturating_sub(1_000));
        let elapsed = shown * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        self.booted_at + u64::try_from(elapsed).unwrap_or(0)
    }

    pub(super) fn next_tag(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl World {
    pub(super) fn machine_open(&mut self, index: usize) -> Result<(), Violation> {
        let now = self.now;
        let seed = self.random.ids.bytes();
        let key = self.plan.machines[index].key.clone();
        let machine = &mut self.machines[index];
        let mut recovered = Recovered::default();
        let opened = Journal::open(machine.disk.clone(), machine.limits, CHAIN, &mut recovered);
        if let Err(OpenError::Disk(error)) = &opened
            && error.is_out_of_space()
            && machine.full_until.is_some()
        {
            // Not even its first segment fits: somebody starts it again.
            let wait = self.random.of(Fault::DeviceDiskFull).range(5_000, 60_000);
            self.after(wait, Happening::MachineStart(index));
            return Ok(());
        }
        machine.booted_at = now;
        let boot_ms = machine.boot_ms(now);
        let opened = opened.map(|journal| {
            let (settings, profile) = (machine.settings.clone(), machine.profile.clone());
            let mut device = Device::open(settings, profile, recovered, seed, boot_ms);
            device.handle_key(key.clone());
            device.handle_conditions(machine.conditions.clone(), boot_ms);
            let lost = machine.promised.iter().find(|id| device.state().command(id).is_none());
            let lost = lost.map(|id| format!("command {id}"));
            let prompt = machine.prompts_promised.iter().find(|id| device.state().prompt(id).is_none());
            let lost = lost.or(prompt.map(|id| format!("the prompt of {id}")));
            machine.running = Some(Running { device, journal });
            lost
        });
        machine.stage = Stage::Idle;
        machine.dirty = false;
        machine.wake_at = None;
        let who = machine.settings.principal.clone();
        let lost = opened.map_err(|error| self.broken("recovery", format!("{who}: {error}")))?;
        if let Some(what) = lost {
            return Err(self.broken("MO-5 at the device", format!("{who} promised {what} and lost it")));
        }
        say!(self, who, "starts");
        self.machine_kick(index);
        Ok(())
    }

    /// Hands something to the device, if it runs.
    pub(super) fn with_device<T>(
        &mut self,
        index: usize,
        handle: impl FnOnce(&mut Device, u64) -> T,
    ) -> Option<T> {
        let now = self.now;
        let machine = &mut self.machines[index];
        let boot_ms = machine.boot_ms(now);
        let result = machine.running.as_mut().map(|running| handle(&mut running.device, boot_ms));
        if result.is_some() {
            self.machine_kick(index);
        }
        result
    }

    pub(super) fn machine_kick(&mut self, index: usize) {
        let wait = self.random.machines.below(4);
        let machine = &mut self.machines[index];
        if machine.stage == Stage::Idle {
            machine.stage = Stage::Append;
            machine.decided_from = self.now;
            let run = machine.run;
            self.after(wait, Happening::MachineStep(index, run));
        } else {
            machine.dirty = true;
        }
    }

    pub(super) fn machine_step(&mut self, index: usize, run: u64) -> Result<(), Violation> {
        if self.machines[index].run != run || self.machines[index].running.is_none() {
            return Ok(());
        }
        if self.strikes(Fault::DeviceCrash) {
            self.machine_crash(index)?;
            return Ok(());
        }
        match self.machines[index].stage {
            Stage::Idle => Ok(()),
            Stage::Append => self.machine_append(index),
            Stage::Sync => self.machine_sync(index),
        }
    }

    fn machine_sync(&mut self, index: usize) -> Result<(), Violation> {
        let now = self.now;
        let fails = self.machine_has_to_sync(index) && self.strikes(Fault::SyncFails);
        let machine = &mut self.machines[index];
        let boot_ms = machine.boot_ms(now);
        let Some(running) = machine.running.as_mut() else { return Ok(()) };
        if fails {
            machine.disk.fail_sync(1);
        }
        let synced = running.journal.sync();
        if let Ok(position) = &synced {
            running.device.handle_synced(*position, boot_ms);
        }
        machine.stage = Stage::Idle;
        let run = machine.run;
        if fails {
            return self.machine_sync_failed(index, synced.is_err());
        }
        synced.map_err(|error| self.broken("device", error.to_string()))?;
        if !self.machine_releases(index)? {
            return Ok(());
        }
        let machine = &mut self.machines[index];
        let more = machine
            .running
            .as_ref()
            .is_some_and(|running| running.device.position() != running.journal.position());
        let again = std::mem::take(&mut machine.dirty) || more;
        if again && self.machines[index].run == run {
            self.machine_kick(index);
        }
        self.machine_schedule(index);
        Ok(())
    }

    /// What the device lets go; false if it dies meanwhile.
    pub(super) fn machine_releases(&mut self, index: usize) -> Result<bool, Violation> {
        let Some(running) = self.machines[index].running.as_mut() else { return Ok(false) };
        let outputs: Vec<Output> = std::iter::from_fn(|| running.device.poll_output()).collect();
        let dies = !outputs.is_empty() && self.strikes(Fault::DeviceCrash);
        let dies_after = dies.then(|| self.random.of(Fault::DeviceCrash).index(outputs.len()));
        for (number, output) in outputs.into_iter().enumerate() {
            if dies_after == Some(number) {
                self.machine_crash(index)?;
                return Ok(false);
            }
            self.machine_output(index, output)?;
        }
        Ok(true)
    }

    fn machine_schedule(&mut self, index: usize) {
        let now = self.now;
        let machine = &mut self.machines[index];
        let Some(due) = machine.device().and_then(Device::poll_timeout) else { return };
        let boot_ms = machine.boot_ms(now);
        // A little more than the clock's error, so that it is due when the wake comes.
        let left = due.saturating_sub(boot_ms);
        let at = now + left + left / 4_000 + 1;
        if machine.wake_at.is_none_or(|wake| wake > at || wake <= now) {
            machine.wake_at = Some(at);
            let run = machine.run;
            self.after(at - now, Happening::MachineWake(index, run));
        }
    }

    pub(super) fn machine_wake(&mut self, index: usize, run: u64) {
        if self.machines[index].run == run {
            self.machines[index].wake_at = None;
            self.with_device(index, |device, boot_ms| device.handle_tick(boot_ms));
        }
    }

    /// Its successor begins with an empty disk.
    pub(super) fn machine_removed(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        machine.disk = MemoryDisk::new();
        machine.promised.clear();
        machine.prompts_promised.clear();
        machine.front.goes_dark();
        machine.running = None;
        machine.run += 1;
        machine.subscribed = false;
        machine.deliveries.clear();
        machine.packets.clear();
        if let Some(connection) = machine.connection.take() {
            self.break_connection(connection);
        }
    }

    fn machine_output(&mut self, index: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Acknowledge { delivery } => self.machine_acknowledges(index, delivery, 0)?,
            Output::RefuseDelivery { delivery, reason } => {
                self.machine_acknowledges(index, delivery, reason)?;
            }
            Output::Publish { connection, message, kind, payload } => {
                self.witness_word(index, kind, &payload)?;
                let machine = &mut self.machines[index];
                let tag = machine.next_tag();
                machine.packets.insert(tag, message);
                self.send_up(connection, Up::Publish { tag, kind, payload })?;
            }
            Output::Ask { kind: Kind::CloudTime, .. } if self.strikes(Fault::TimeLost) => {}
            Output::Ask { connection, kind, payload } => {
                self.send_up(connection, Up::Ask { kind, payload })?;
            }
            Output::Reconnect { connection } => {
                if self.machines[index].connection == Some(connection) {
                    self.break_connection(connection);
                    self.machine_offline(index, connection);
                }
            }
            Output::Act { command, item, quantity } => self.hardware_acts(index, command, &item, quantity)?,
            Output::Issued { ticket, result } => self.information_issued(index, ticket, result),
            Output::Prompt { shown } => self.shows(index, shown)?,
            Output::PromptAnswered { ticket, result, .. } => self.press_answered(index, ticket, &result)?,
            Output::Code { shown } => self.shows_code(index, shown)?,
            Output::CodeAnswered { ticket, result, .. } => self.visit_answered(index, ticket, &result),
            Output::WishMade { ticket, result } => self.wish_made(index, ticket, &result)?,
            Output::Show { .. } => {}
        }
        Ok(())
    }

    fn machine_acknowledges(&mut self, index: usize, delivery: Delivery, code: u8) -> Result<(), Violation> {
        let machine = &mut self.machines[index];
        if machine.connection == Some(delivery.connection)
            && let Some(message) = machine.deliveries.remove(&delivery.token)
        {
            let mut carries_prompt = false;
            if code == 0 {
                let commands = self.facts.commands.iter().filter(|(_, facts)| facts.machine == index);
                let promised = commands.map(|(id, _)| *id).find(|id| carries(*id) == message);
                self.machines[index].promised.extend(promised);
                let prompt = self.note_taken_in(message);
                carries_prompt = prompt.is_some();
                self.machines[index].prompts_promised.extend(prompt);
            }
            if carries_prompt && self.strikes(Fault::PromptPubackLost) {
                self.break_connection(delivery.connection);
                return Ok(());
            }
            let packet = u16::try_from(delivery.token).unwrap_or_default();
            return self.send_up(delivery.connection, Up::Acknowledge { packet, code });
        }
        Ok(())
    }

    /// Something reaches a machine.
    pub(super) fn machine_hears(
        &mut self,
        index: usize,
        connection: u64,
        heard: Down,
    ) -> Result<(), Violation> {
        if self.machines[index].connection != Some(connection) {
            return Ok(());
        }
        match heard {
            Down::Accepted(true) => self.send_up(connection, Up::Subscribe)?,
            Down::Accepted(false) | Down::Closed => self.machine_offline(index, connection),
            Down::Subscribed => {
                self.machines[index].subscribed = true;
                self.send_up(connection, Up::State { payload: state_on(connection) })?;
                self.with_device(index, |device, boot_ms| device.handle_connected(connection, 10, boot_ms));
            }
            Down::Publish { packet, kind, payload } => {
                let delivery = packet.map(|packet| Delivery { connection, token: u64::from(packet) });
                if let Some(delivery) = delivery {
                    // What a device cannot read it still has to answer for.
                    let message = message::Down::decode(kind, &payload).map(|envelope| envelope.id);
                    let message = message.unwrap_or(MessageId([0; 16]));
                    self.machines[index].deliveries.insert(delivery.token, message);
                }
                self.note_down(index, kind, &payload);
                self.with_device(index, |device, boot_ms| {
                    device.handle_message(delivery, kind.as_str(), &payload, boot_ms);
                });
            }
            Down::Promise { tag: 0, code: 0 } => self.machines[index].state_told = Some(connection),
            Down::Promise { tag, code } => {
                if let Some(message) = self.machines[index].packets.remove(&tag) {
                    self.with_device(index, |device, boot_ms| {
                        device.handle_published(connection, message, code, boot_ms);
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn machine_offline(&mut self, index: usize, connection: u64) {
        let machine = &mut self.machines[index];
        machine.connection = None;
        machine.subscribed = false;
        machine.deliveries.clear();
        machine.packets.clear();
        self.with_device(index, |device, _| device.handle_disconnected(connection));
        let revoked = self.machines[index].revoked;
        let (from, to) = if revoked { (10_000, 60_000) } else { (100, 3_000) };
        let wait = self.random.network.range(from, to);
        self.after(wait, Happening::Connect(Party::Machine(index)));
    }

    pub(super) fn trouble_machine(&mut self, index: usize) -> Result<(), Violation> {
        if self.random.of(Fault::NotReady).chance(20)
            && !self.machines[index].conditions.tampered
            && self.strikes(Fault::NotReady)
        {
            self.machines[index].conditions.tampered = true;
            self.tell_conditions(index);
            let wait = self.random.of(Fault::NotReady).range(1_000, 60_000);
            self.after(wait, Happening::MachineReady(index));
        }
        self.trouble_piggy_bank(index)?;
        self.trouble_office(index)
    }

    pub(super) fn machine_ready(&mut self, index: usize) {
        self.machines[index].conditions.tampered = false;
        self.tell_conditions(index);
    }

    fn tell_conditions(&mut self, index: usize) {
        let conditions = self.machines[index].conditions.clone();
        self.with_device(index, |device, boot_ms| device.handle_conditions(conditions, boot_ms));
    }

    pub(super) fn heal_machines(&mut self) {
        for index in 0..self.machines.len() {
            self.machine_ready(index);
        }
    }
}

/// What a device says of itself, once on each connection.
pub(super) fn state_on(connection: u64) -> Vec<u8> {
    format!("here on {connection}").into_bytes()
}

/// The message that carries a command (architecture.md: every message has an id that its content gives).
fn carries(command: CommandId) -> MessageId {
    MessageId::derived("command", &[&command.0])
}
