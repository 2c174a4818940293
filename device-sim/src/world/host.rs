//! The core in its world: the real [`Driver`], whose steps (handle, append, sync, release) are happenings of their
//! own, so that it can die between any two of them.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::Cloud;
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, AdminReply};
use cloud_core_flows::driver::{Driver, run_snapshot};
use cloud_core_flows::port::{ConnectionId, Credentials, Input, Output};
use schemas::ids::{CommandId, Hash, IdempotencyKey, Principal};
use schemas::message::{self, CommandProgress, Outcome, PaymentState};
use schemas::signed::Verification;
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas_journal::{ChainId, DiskError, Journal, JournalLimits, MemoryDisk, SyncPoint, Synced};

use super::facts::Word;
use super::fault::Fault;
use super::lane::{Connection, Down, Party, Up};
use super::random::Random;
use super::{EPOCH_MS, Happening, Violation, World, say};

/// Messages of the outbox under way on one connection.
const WINDOW: usize = 8;
const CHAIN: ChainId = ChainId([1; 32]);

/// Where THE order stands.
enum Stage {
    Idle,
    Append,
    Sync(SyncPoint),
    Release(Option<Result<Synced, DiskError>>),
}

/// Who asks, with which key.
type RequestKey = (Principal, IdempotencyKey);

/// What hangs on the promise of one PUBLISH.
struct Note {
    /// The journal position of the state right after it was handled.
    position: u64,
    request: Option<RequestKey>,
    word: Option<(CommandId, Word)>,
}

/// The core's process and its disk.
pub(super) struct Core {
    pub(super) driver: Option<Driver<MemoryDisk>>,
    /// Counts starts.
    pub(super) run: u64,
    opened_at: u64,
    open_at_start: BTreeSet<CommandId>,
    disk: MemoryDisk,
    limits: JournalLimits,
    stage: Stage,
    dirty: bool,
    tick_at: Option<u64>,
    /// The greatest position of which somebody was told.
    told: u64,
    notes: BTreeMap<(u64, u64), Note>,
    tickets: u64,
    replies: BTreeMap<u64, AdminReply>,
}

impl Core {
    pub(super) fn new(random: &mut Random) -> Self {
        let small = JournalLimits {
            record_max_bytes: 12 << 10,
            frame_max_bytes: 24 << 10,
            segment_bytes: 64 << 10,
            snapshot_every_segments: 1,
        };
        Self {
            driver: None,
            run: 0,
            opened_at: 0,
            open_at_start: BTreeSet::new(),
            disk: MemoryDisk::new(),
            limits: if random.chance(500) { small } else { JournalLimits::agent() },
            stage: Stage::Idle,
            dirty: false,
            tick_at: None,
            told: 0,
            notes: BTreeMap::new(),
            tickets: 0,
            replies: BTreeMap::new(),
        }
    }

    /// The states of the payments under way, as an operator would list them.
    pub(super) fn open_states(&self) -> Vec<PaymentState> {
        let payments = self.driver.iter().flat_map(|driver| driver.cloud().payments());
        payments
            .map(|payment| payment.state())
            .filter(|state| super::Coverage::COLUMNS.contains(state))
            .collect()
    }

    pub(super) fn has_reply(&self, ticket: u64) -> bool {
        self.replies.contains_key(&ticket)
    }

    pub(super) fn cloud(&self) -> Option<&Cloud> {
        self.driver.as_ref().map(Driver::cloud)
    }
}

impl World {
    pub(super) fn stamp(&self) -> Timestamp {
        Timestamp(EPOCH_MS + self.now)
    }

    pub(super) fn core_open(&mut self) -> Result<(), Violation> {
        let opened = Driver::open(self.core.disk.clone(), self.core.limits, CHAIN, || self.stamp());
        let driver =
            opened.map_err(|error| self.broken("recovery", format!("the journal does not open: {error}")))?;
        let found = driver.journal().position().value();
        if found < self.core.told {
            let text =
                format!("somebody was told of position {}, and only {found} was recovered", self.core.told);
            return Err(self.broken("MO-5 durable before visible", text));
        }
        driver.cloud().check().map_err(|text| self.broken("invariant after recovery", text))?;
        say!(self, "core", "starts with {found} records");
        let waiting = driver.cloud().payments().filter(|payment| payment.state() == PaymentState::Delivering);
        let waiting = waiting.filter_map(|payment| payment.command.as_ref());
        self.core.open_at_start = waiting.map(|command| command.id).collect();
        self.core.opened_at = self.now;
        self.core.driver = Some(driver);
        self.core.stage = Stage::Idle;
        self.core.tick_at = None;
        self.core_kick();
        Ok(())
    }

    pub(super) fn core_handle(&mut self, input: Input) -> Result<(), Violation> {
        let now = self.stamp();
        let Some(driver) = self.core.driver.as_mut() else { return Ok(()) };
        driver.handle(input, now);
        let checked = driver.cloud().check();
        checked.map_err(|text| self.broken("invariant", text))?;
        self.core_kick();
        Ok(())
    }

    /// There is something to append or to release.
    fn core_kick(&mut self) {
        if matches!(self.core.stage, Stage::Idle) {
            self.core.stage = Stage::Append;
            let wait = self.random.below(3);
            self.after(wait, Happening::CoreStep(self.core.run));
        } else {
            self.core.dirty = true;
        }
    }

    /// THE order, one step at a time.
    pub(super) fn core_step(&mut self, run: u64) -> Result<(), Violation> {
        if run != self.core.run || self.core.driver.is_none() {
            return Ok(());
        }
        match std::mem::replace(&mut self.core.stage, Stage::Idle) {
            Stage::Idle => {}
            Stage::Append => self.core_append()?,
            Stage::Sync(point) => {
                if self.strikes(Fault::CoreCrash) {
                    self.core_crash("before the sync");
                    return Ok(());
                }
                let result = point.run(&self.core.disk);
                self.core.stage = Stage::Release(Some(result));
                self.after(0, Happening::CoreStep(run));
            }
            Stage::Release(result) => self.core_release(result)?,
        }
        Ok(())
    }

    fn core_append(&mut self) -> Result<(), Violation> {
        if self.strikes(Fault::CoreCrash) {
            // In the middle of the writes.
            self.core.disk.stop_after(self.random.below(4));
            if let Some(driver) = self.core.driver.as_mut() {
                let _ = driver.append();
            }
            self.core_crash("while appending");
            return Ok(());
        }
        let disk = self.core.disk.clone();
        let Some(driver) = self.core.driver.as_mut() else { return Ok(()) };
        let mut done = driver.append();
        if let Some(job) = driver.spare_job()
            && done.is_ok()
        {
            done = driver.handle_spare(job.run(&disk)).map(|_| ());
        }
        let point = driver.sync_point();
        done.map_err(|fault| self.broken("core", fault.to_string()))?;
        let wait = match &point {
            None => 0,
            Some(_) if self.strikes(Fault::SlowDisk) => self.random.range(50, 2_000),
            Some(_) => self.random.range(1, 8),
        };
        self.core.stage = point.map_or(Stage::Release(None), Stage::Sync);
        self.after(wait, Happening::CoreStep(self.core.run));
        Ok(())
    }

    fn core_release(&mut self, result: Option<Result<Synced, DiskError>>) -> Result<(), Violation> {
        if self.strikes(Fault::CoreCrash) {
            self.core_crash("after the sync, before anything is released");
            return Ok(());
        }
        // Busy until the end of this: what is handled meanwhile is the next batch.
        self.core.stage = Stage::Release(None);
        let Some(driver) = self.core.driver.as_mut() else { return Ok(()) };
        let synced = result.map_or(Ok(()), |result| driver.handle_synced(result));
        let outputs: Vec<Output> = std::iter::from_fn(|| driver.poll_output()).collect();
        synced.map_err(|fault| self.broken("core", fault.to_string()))?;
        let dies_after =
            if self.strikes(Fault::CoreCrash) { Some(self.random.index(outputs.len())) } else { None };
        for (number, output) in outputs.into_iter().enumerate() {
            if dies_after == Some(number) {
                self.core_crash("while releasing");
                return Ok(());
            }
            self.release(output)?;
        }
        self.core_snapshot()?;
        if self.random.chance(8) {
            self.check_replay()?;
        }
        self.core.stage = Stage::Idle;
        self.core_schedule();
        if std::mem::take(&mut self.core.dirty) {
            self.core_kick();
        }
        Ok(())
    }

    fn core_schedule(&mut self) {
        let due = self.core.driver.as_ref().and_then(Driver::next_due);
        let Some(due) = due.map(|due| due.0.saturating_sub(EPOCH_MS).max(self.now)) else { return };
        if self.core.tick_at.is_none_or(|at| at > due || at < self.now) {
            self.core.tick_at = Some(due);
            self.after(due - self.now, Happening::CoreTick(self.core.run));
        }
    }

    pub(super) fn core_tick(&mut self, run: u64) -> Result<(), Violation> {
        if run != self.core.run || self.core.driver.is_none() {
            return Ok(());
        }
        self.core.tick_at = None;
        self.core_handle(Input::Tick)
    }

    fn core_snapshot(&mut self) -> Result<(), Violation> {
        let disk = self.core.disk.clone();
        let Some(driver) = self.core.driver.as_mut() else { return Ok(()) };
        let Some(job) = driver.snapshot_job() else { return Ok(()) };
        let taken = run_snapshot(&job, &disk);
        let done = driver.handle_snapshot(&taken);
        done.map_err(|fault| self.broken("core", fault.to_string()))
    }

    /// What recovery would make of the disk is what lives in memory.
    pub(super) fn check_replay(&mut self) -> Result<(), Violation> {
        let Some(driver) = self.core.driver.as_ref() else { return Ok(()) };
        if driver.decided() != driver.journal().synced() {
            return Ok(());
        }
        let mut replayed = Cloud::default();
        let opened = Journal::open(self.core.disk.fork(), self.core.limits, CHAIN, &mut replayed);
        let same = replayed == *driver.cloud();
        opened.map_err(|error| self.broken("replay", format!("the journal does not open: {error}")))?;
        if same { Ok(()) } else { Err(self.broken("replay", "the replayed state is not the live state")) }
    }

    fn core_crash(&mut self, when: &str) {
        let seed = self.random.next();
        let ends = self.core.disk.unsynced_sectors();
        say!(self, "core", "dies {when}, {ends} sectors unsynced");
        self.core.disk.crash(seed);
        self.core.driver = None;
        self.core.run += 1;
        self.core.stage = Stage::Idle;
        self.core.dirty = false;
        self.core.notes.clear();
        let connections: Vec<u64> = self.connections.keys().copied().collect();
        for connection in connections {
            self.break_connection(connection);
        }
        let long = self.strikes(Fault::CoreLongOutage);
        let away = if long { self.random.range(200_000, 900_000) } else { self.random.range(50, 15_000) };
        self.after(away, Happening::CoreStart);
    }
}

/// The lane's side of connections.
impl World {
    pub(super) fn connect(&mut self, party: Party) {
        let run = match party {
            Party::Person(person) if self.people[person].connection.is_some() => return,
            Party::Machine(machine) if !self.machines[machine].may_connect() => return,
            _ => self.core.run,
        };
        if self.core.driver.is_none() {
            let wait = self.random.range(500, 4_000);
            self.after(wait, Happening::Connect(party));
            return;
        }
        self.next += 1;
        let id = self.next;
        self.connections.insert(id, Connection::new(party, run));
        match party {
            Party::Person(person) => self.people[person].connection = Some(id),
            Party::Machine(machine) => self.machines[machine].connection = Some(id),
        }
        self.send_up(id, Up::Connect);
    }

    pub(super) fn send_up(&mut self, id: u64, packet: Up) {
        let at = self.now + self.random.range(1, 40);
        let sent = self.connections.get_mut(&id).and_then(|connection| connection.up.send(at, packet));
        if let Some(at) = sent {
            self.after(at - self.now, Happening::ArriveUp(id));
        }
    }

    pub(super) fn send_down(&mut self, id: u64, packet: Down) {
        let at = self.now + self.random.range(1, 40);
        let sent = self.connections.get_mut(&id).and_then(|connection| connection.down.send(at, packet));
        if let Some(at) = sent {
            self.after(at - self.now, Happening::ArriveDown(id));
        }
    }

    /// A suffix of each direction is lost; both sides notice, one perhaps much later.
    pub(super) fn break_connection(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id).filter(|found| !found.is_broken()) else { return };
        let (up, down) = (connection.up.len() as u64 + 1, connection.down.len() as u64 + 1);
        let up_kept = self.random.index(up as usize);
        let down_kept = self.random.index(down as usize);
        let (up_at, down_at) = (self.noticed_at(), self.noticed_at());
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let up = connection.up.cut(up_kept, Up::Closed, up_at);
        let down = connection.down.cut(down_kept, Down::Closed, down_at);
        if let Some(at) = up {
            self.after(at.saturating_sub(self.now), Happening::ArriveUp(id));
        }
        if let Some(at) = down {
            self.after(at.saturating_sub(self.now), Happening::ArriveDown(id));
        }
    }

    fn noticed_at(&mut self) -> u64 {
        let late = self.strikes(Fault::HalfOpen);
        self.now + if late { self.random.range(5_000, 60_000) } else { self.random.range(1, 300) }
    }

    pub(super) fn arrive_up(&mut self, id: u64) -> Result<(), Violation> {
        let (now, run, runs) = (self.now, self.core.run, self.core.driver.is_some());
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some(packet) = connection.up.receive(now) else { return Ok(()) };
        if connection.run != run || !runs || connection.core_closed {
            return Ok(());
        }
        let (party, admitted) = (connection.party, connection.admitted);
        say!(self, format!("lane {id}"), "{}: {}", self.principal(party), packet.name());
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        match packet {
            Up::Connect => {
                let input = self.connect_input(id, party);
                self.core_handle(input)
            }
            Up::Subscribe if admitted => {
                connection.subscribed = true;
                self.send_down(id, Down::Subscribed);
                self.core_handle(Input::Subscribed { connection: ConnectionId(id) })?;
                self.pull(id)
            }
            Up::Publish { packet, promised, kind, payload } if admitted => {
                connection.awaiting.push_back((packet, promised));
                self.publish(id, party, packet, kind, payload)
            }
            Up::Acknowledge { message, code } if admitted => {
                connection.in_flight.remove(&message);
                self.core_handle(Input::Acknowledged { connection: ConnectionId(id), message, code })?;
                self.pull(id)
            }
            Up::Closed => {
                connection.core_closed = true;
                self.core_handle(Input::Closed { connection: ConnectionId(id) })
            }
            _ => Ok(()),
        }
    }

    fn connect_input(&self, id: u64, party: Party) -> Input {
        let (client, credentials) = match party {
            Party::Person(person) => {
                let principal = self.plan.people[person].principal.clone();
                let token_hash = Hash::of(principal.to_string().as_bytes());
                ("phone", Credentials::Token { principal, token_hash })
            }
            Party::Machine(machine) => {
                let principal = self.plan.machines[machine].principal.clone();
                let instance = self.machines[machine].settings.instance;
                ("agent", Credentials::Certificate { principal, instance, serial: Vec::new() })
            }
        };
        Input::Connect { connection: ConnectionId(id), client: client.to_owned(), credentials }
    }

    fn publish(
        &mut self,
        id: u64,
        party: Party,
        token: u64,
        kind: Kind,
        payload: Vec<u8>,
    ) -> Result<(), Violation> {
        let (request, word) = self.read_publish(party, kind, &payload);
        self.core_handle(Input::Publish { connection: ConnectionId(id), token, kind, payload })?;
        let position = self.core.driver.as_ref().map_or(0, |driver| driver.decided().value());
        self.core.notes.insert((id, token), Note { position, request, word });
        Ok(())
    }

    fn read_publish(
        &mut self,
        party: Party,
        kind: Kind,
        payload: &[u8],
    ) -> (Option<RequestKey>, Option<(CommandId, Word)>) {
        let Ok(envelope) = message::Up::decode(kind, payload) else { return (None, None) };
        let request = match (party, envelope.key) {
            (Party::Person(person), Some(key)) => Some((self.plan.people[person].principal.clone(), key)),
            _ => None,
        };
        let said = match envelope.body {
            message::Up::PaymentVerification(said) => {
                // A consent that has ended on its way is not a good one any more.
                if let Ok(read) = Verification::read_unverified(&said.verification)
                    && read.expires_at < self.stamp()
                {
                    self.facts.payment(read.payment).verified_wrong = true;
                }
                None
            }
            message::Up::ExecutorCommand(said) => Some((said.command, said.outcome, said.delivered)),
            message::Up::CommandStatus(said) => match (said.progress, said.outcome) {
                (CommandProgress::NeverSeen, _) => Some((said.command, Outcome::Refused, 0)),
                (CommandProgress::Ended, Some(outcome)) => Some((said.command, outcome, said.delivered)),
                _ => None,
            },
            _ => None,
        };
        // Words of a device that was revoked or replaced are not those of the device that was commanded.
        let said =
            said.filter(|(id, ..)| self.facts.commands.get(id).is_none_or(|command| !command.orphaned));
        let word = said.map(|(command, outcome, delivered)| {
            let mut payments = self.core.cloud().into_iter().flat_map(cloud_core_flows::Cloud::payments);
            let view = payments
                .find(|payment| payment.command.as_ref().is_some_and(|known| known.id == command))
                .map(|found| (found.state(), found.delivered()));
            let tenant = &self.plan.tenants[self.tenant_of(party)];
            let in_time = self.now < self.core.opened_at + tenant.deadlines.reconnect_ms;
            let graced = in_time && self.core.open_at_start.contains(&command);
            (command, Word { outcome, delivered, arrived_at: self.now, view, graced })
        });
        (request, word)
    }

    fn tenant_of(&self, party: Party) -> usize {
        match party {
            Party::Person(person) => self.plan.people[person].tenant,
            Party::Machine(machine) => self.plan.machines[machine].tenant,
        }
    }

    fn pull(&mut self, id: u64) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if !connection.subscribed || connection.core_closed {
            return Ok(());
        }
        if connection.pulling {
            connection.pull_again = true;
            return Ok(());
        }
        let max = WINDOW.saturating_sub(connection.in_flight.len());
        if max == 0 {
            return Ok(());
        }
        connection.pulling = true;
        let after = connection.after;
        say!(self, format!("lane {id}"), "pulls after {after}, at most {max}");
        self.core_handle(Input::Pull { connection: ConnectionId(id), after, max })
    }

    /// One output of the core leaves.
    fn release(&mut self, output: Output) -> Result<(), Violation> {
        match output {
            Output::Standing { connection, result } => {
                let accepted = result.is_ok();
                if let Some(connection) = self.connections.get_mut(&connection.0) {
                    connection.admitted = accepted;
                }
                self.send_down(connection.0, Down::Accepted(accepted));
            }
            Output::Promise { connection, token, result } => {
                let code = result.map_or_else(|refusal| refusal.code(), |()| 0);
                self.release_promise(connection.0, token, code)?;
            }
            Output::Reply { connection, kind, payload } => {
                let subscribed = self.connections.get(&connection.0).filter(|found| found.subscribed);
                if let Some(party) = subscribed.map(|found| found.party) {
                    self.witness_down(party, kind, &payload)?;
                    self.send_down(connection.0, Down::Reply { kind, payload });
                }
            }
            Output::Wake { connection } => {
                say!(self, format!("lane {}", connection.0), "woken");
                self.pull(connection.0)?;
            }
            Output::Owed { connection, messages } => self.release_owed(connection.0, messages)?,
            Output::Disconnect { connection, .. } => {
                if let Some(found) = self.connections.get_mut(&connection.0) {
                    found.core_closed = true;
                    let kept = found.down.len();
                    let at = self.now + 20;
                    found.up.cut(0, Up::Closed, at);
                    if let Some(at) = found.down.cut(kept, Down::Closed, at) {
                        self.after(at.saturating_sub(self.now), Happening::ArriveDown(connection.0));
                    }
                }
            }
            Output::Bank(order) => self.bank_order(order)?,
            Output::Admin { ticket, reply } => {
                self.core.replies.insert(ticket, reply);
            }
            Output::Sign { ticket, order } => {
                self.core_handle(Input::Signed { ticket, order, certificate: vec![0x30] })?;
            }
            Output::Enrolled { ticket, result } => self.enrolled(ticket, &result)?,
        }
        Ok(())
    }

    fn release_promise(&mut self, id: u64, token: u64, code: u8) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some((packet, promised)) = connection.awaiting.pop_front() else {
            return Err(self.broken("correctness.md 8", "a PUBACK for nothing"));
        };
        if packet != token {
            let text = format!("PUBACK for {token} before the one for {packet}");
            return Err(self.broken("correctness.md 8", text));
        }
        if let Some(note) = self.core.notes.remove(&(id, token))
            && code < 0x80
        {
            self.core.told = self.core.told.max(note.position);
            if let Some(request) = note.request.and_then(|request| self.facts.requests.get_mut(&request)) {
                request.promised = true;
            }
            if let Some((command, word)) = note.word {
                self.facts.words.entry(command).or_default().push(word);
            }
        }
        if promised {
            self.send_down(id, Down::Promise { packet, code });
        }
        Ok(())
    }

    fn release_owed(
        &mut self,
        id: u64,
        messages: Vec<cloud_core_flows::port::OwedMessage>,
    ) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.pulling = false;
        let (party, again) = (connection.party, std::mem::take(&mut connection.pull_again));
        let more = again || !messages.is_empty();
        for owed in messages {
            self.witness_down(party, owed.kind, &owed.payload)?;
            if let Some(connection) = self.connections.get_mut(&id) {
                if owed.sequence <= connection.after {
                    return Err(self.broken("MQTT-4.4.0-1", "sent again on the same connection"));
                }
                connection.after = owed.sequence;
                connection.in_flight.insert(owed.message);
            }
            let (message, kind, payload) = (owed.message, owed.kind, owed.payload);
            self.send_down(id, Down::Publish { message, kind, payload });
        }
        if more { self.pull(id) } else { Ok(()) }
    }
}

/// The operator's desk.
impl World {
    /// An operator's command whose answer nobody waits for; its ticket.
    pub(super) fn operate(&mut self, command: AdminCommand) -> Result<u64, Violation> {
        self.core.tickets += 1;
        let ticket = self.core.tickets;
        self.core_handle(Input::Admin { ticket, command })?;
        Ok(ticket)
    }

    /// At founding and at rest, when nothing else happens: all steps at once.
    pub(super) fn operate_now(&mut self, command: AdminCommand) -> Result<AdminAnswer, Violation> {
        let what = format!("{command:?}");
        let ticket = self.operate(command)?;
        self.core_settle()?;
        let reply = self.core.replies.remove(&ticket);
        let reply = reply.ok_or_else(|| Violation::harness(format!("no reply to {what}")))?;
        reply.map_err(|why| self.broken("operator", format!("{what}: {why}")))
    }

    pub(super) fn core_settle(&mut self) -> Result<(), Violation> {
        let disk = self.core.disk.clone();
        loop {
            let Some(driver) = self.core.driver.as_mut() else { return Ok(()) };
            let failed = |fault: cloud_core_flows::driver::Fault| Violation::harness(fault.to_string());
            driver.append().map_err(failed)?;
            if let Some(job) = driver.spare_job() {
                driver.handle_spare(job.run(&disk)).map_err(failed)?;
            }
            if let Some(point) = driver.sync_point() {
                driver.handle_synced(point.run(&disk)).map_err(failed)?;
            }
            let outputs: Vec<Output> = std::iter::from_fn(|| driver.poll_output()).collect();
            if outputs.is_empty() {
                self.core_schedule();
                return Ok(());
            }
            for output in outputs {
                self.release(output)?;
            }
        }
    }
}
