//! The core in its world: the real [`Driver`], whose steps (handle, append, sync, release) are happenings of their
//! own, so that it can die between any two of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cloud_core_flows::Cloud;
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, AdminReply};
use cloud_core_flows::driver::{Driver, run_snapshot};
use cloud_core_flows::port::{Input, Output};
use schemas::ids::CommandId;
use schemas::message::PaymentState;
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas_journal::{
    ChainId, DiskError, Journal, JournalLimits, MemoryDisk, OpenError, Report, SyncPoint, Synced,
};

use super::codes::core_key;
use super::disk::{End, Flipped, flip_a_bit};
use super::family_facts::What;
use super::fault::Fault;
use super::random::Random;
use super::{Happening, Violation, World, say};

const TINY_FRAME_BYTES: u32 = 8 << 10;
const CHAIN: ChainId = ChainId([1; 32]);

/// Where THE order stands.
enum Stage {
    Idle,
    Append,
    Sync {
        point: SyncPoint,
        /// What the sync covers; more may be appended until it ends.
        through: u64,
    },
    Release(Option<Result<Synced, DiskError>>),
}

/// What the core may not say yet, by the world's own count: an output may leave when everything that was decided
/// before it is on the disk (correctness.md 1).
#[derive(Debug, Default)]
struct Held {
    /// How many outputs were computed from the state at each position, in order.
    waiting: VecDeque<(u64, usize)>,
    /// Up to here the journal was written, and was synced.
    appended: u64,
    synced: u64,
}

impl Held {
    fn recovered(position: u64) -> Self {
        Self { waiting: VecDeque::new(), appended: position, synced: position }
    }

    fn computed(&mut self, position: u64, outputs: usize) {
        if outputs > 0 {
            self.waiting.push_back((position, outputs));
        }
    }

    /// The position of the next output.
    fn next(&mut self) -> Option<u64> {
        let (position, left) = self.waiting.front_mut()?;
        let position = *position;
        *left -= 1;
        if *left == 0 {
            self.waiting.pop_front();
        }
        Some(position)
    }
}

/// The core's process and its disk.
pub(super) struct Core {
    pub(super) driver: Option<Driver<MemoryDisk>>,
    /// Counts starts.
    pub(super) run: u64,
    pub(super) opened_at: u64,
    pub(super) open_at_start: BTreeSet<CommandId>,
    pub(super) disk: MemoryDisk,
    pub(super) full_until: Option<u64>,
    /// How far the wall clock of its machine is ahead.
    pub(super) wall_ahead_ms: i64,
    /// When each run began in the world's time, and in its own.
    times: Vec<(u64, u64)>,
    limits: JournalLimits,
    /// The longest sync of its disk, which is drawn with it: from a server's to that of a worn memory card.
    sync_at_most_ms: u64,
    /// The journal went on in the next segment since the last sync began; or the one before that.
    at_seam: bool,
    syncs_seam: bool,
    stage: Stage,
    dirty: bool,
    tick_at: Option<u64>,
    /// The greatest position of which somebody was told.
    pub(super) told: u64,
    held: Held,
    tickets: u64,
    pub(super) replies: BTreeMap<u64, AdminReply>,
}

impl Core {
    pub(super) fn new(random: &mut Random, always_small: bool) -> Self {
        let small = JournalLimits {
            record_max_bytes: 12 << 10,
            frame_max_bytes: 24 << 10,
            segment_bytes: 64 << 10,
            snapshot_every_segments: 1,
        };
        // A batch takes several frames here, and now and then two segments. See `purchases_at_most`.
        let tiny = JournalLimits {
            record_max_bytes: 4 << 10,
            frame_max_bytes: TINY_FRAME_BYTES,
            segment_bytes: 17 << 10,
            snapshot_every_segments: 2,
        };
        Self {
            driver: None,
            run: 0,
            opened_at: 0,
            open_at_start: BTreeSet::new(),
            disk: MemoryDisk::new(),
            full_until: None,
            wall_ahead_ms: 0,
            times: Vec::new(),
            limits: match random.index(4) {
                0 => tiny,
                1 => small,
                _ if always_small => small,
                _ => JournalLimits::agent(),
            },
            sync_at_most_ms: [8, 8, 80, 400][random.index(4)],
            at_seam: false,
            syncs_seam: false,
            stage: Stage::Idle,
            dirty: false,
            tick_at: None,
            told: 0,
            held: Held::default(),
            tickets: 0,
            replies: BTreeMap::new(),
        }
    }

    /// A revocation decides every open payment of a machine at once, and a decision must fit a frame: the smallest
    /// journal is for worlds with few purchases.
    pub(super) fn purchases_at_most(&self) -> u64 {
        if self.limits.frame_max_bytes == TINY_FRAME_BYTES { 6 } else { u64::MAX }
    }

    /// The states of the payments under way, as an operator would list them.
    pub(super) fn open_states(&self) -> Vec<PaymentState> {
        let clouds = || self.driver.iter().map(Driver::cloud);
        let chip = clouds().flat_map(Cloud::payments).map(|payment| payment.state());
        let child = clouds().flat_map(Cloud::child_payments).map(|payment| payment.state());
        chip.chain(child).filter(|state| super::Coverage::COLUMNS.contains(state)).collect()
    }

    /// Outputs that wait for their sync.
    pub(super) fn held_outputs(&self) -> usize {
        self.driver.as_ref().map_or(0, Driver::held)
    }

    /// What `cloud-core audit verify` would say.
    pub(super) fn verify(&self) -> Result<Report, OpenError> {
        schemas_journal::verify(&self.disk)
    }

    pub(super) fn has_reply(&self, ticket: u64) -> bool {
        self.replies.contains_key(&ticket)
    }

    pub(super) fn cloud(&self) -> Option<&Cloud> {
        self.driver.as_ref().map(Driver::cloud)
    }
}

fn payments_of(cloud: &Cloud) -> usize {
    cloud.payments().count() + cloud.child_payments().count()
}

impl World {
    /// The core's time now.
    pub(super) fn stamp(&self) -> Timestamp {
        Timestamp(self.core_time(self.now))
    }

    /// What the core took this moment of the world for. Its time runs on by itself within a run, whatever happens to
    /// the wall clock, and a run begins with the wall clock or the last journaled time (correctness.md 14).
    pub(super) fn core_time(&self, at_ms: u64) -> u64 {
        let run = self.core.times.iter().rev().find(|(opened_at, _)| *opened_at <= at_ms);
        run.map_or(self.plan.epoch_ms + at_ms, |(opened_at, time)| time + at_ms - opened_at)
    }

    /// A time of the core in the world's time; the past counts as now.
    pub(super) fn core_due(&self, due: Timestamp) -> u64 {
        self.now + due.0.saturating_sub(self.stamp().0)
    }

    /// What the wall clock of the core's machine shows.
    fn wall(&self) -> Timestamp {
        Timestamp((self.plan.epoch_ms + self.now).saturating_add_signed(self.core.wall_ahead_ms))
    }

    pub(super) fn core_open(&mut self) -> Result<(), Violation> {
        let opened = Driver::open(self.core.disk.clone(), self.core.limits, CHAIN, || self.wall());
        let driver =
            opened.map_err(|error| self.broken("recovery", format!("the journal does not open: {error}")))?;
        let found = driver.journal().position().value();
        if found < self.core.told {
            let text =
                format!("somebody was told of position {}, and only {found} was recovered", self.core.told);
            return Err(self.broken("MO-5 durable before visible", text));
        }
        let mut driver = driver;
        driver.set_signing_key(core_key());
        driver.cloud().check().map_err(|text| self.broken("invariant after recovery", text))?;
        self.core.held = Held::recovered(found);
        self.core.held.computed(driver.decided().value(), driver.held());
        self.forget_unheard(found);
        say!(self, "core", "starts with {found} records");
        let waiting = driver.cloud().payments().filter(|payment| payment.state() == PaymentState::Delivering);
        let waiting = waiting.filter_map(|payment| payment.command.as_ref());
        self.core.open_at_start = waiting.map(|command| command.id).collect();
        self.core.opened_at = self.now;
        self.core.times.push((self.now, self.wall().max(driver.cloud().at()).0));
        self.core.driver = Some(driver);
        self.note_family(What::Start);
        self.core.stage = Stage::Idle;
        self.core.tick_at = None;
        self.core_kick();
        Ok(())
    }

    pub(super) fn core_handle(&mut self, input: Input) -> Result<(), Violation> {
        let now = self.stamp();
        let is_request =
            matches!(&input, Input::Publish { kind: Kind::PaymentRequest | Kind::PaymentOrder, .. });
        let on_full_disk = is_request && !self.core_has_room();
        let Some(driver) = self.core.driver.as_mut() else { return Ok(()) };
        let before = if on_full_disk { payments_of(driver.cloud()) } else { 0 };
        let (decided, waiting) = (driver.decided(), driver.held());
        driver.handle(input, now);
        self.core.held.computed(driver.decided().value(), driver.held() - waiting);
        if on_full_disk && payments_of(driver.cloud()) > before {
            return Err(self.broken("correctness.md 4", "a payment begins on a full disk"));
        }
        // Only events change the state: without a new one there is nothing new to check.
        let checked = if driver.decided() == decided { Ok(()) } else { driver.cloud().check() };
        checked.map_err(|text| self.broken("invariant", text))?;
        if matches!(self.core.stage, Stage::Sync { .. } | Stage::Release(Some(_))) {
            self.core_write()?;
        }
        self.core_kick();
        Ok(())
    }

    /// There is something to append or to release.
    pub(super) fn core_kick(&mut self) {
        if matches!(self.core.stage, Stage::Idle) {
            self.core.stage = Stage::Append;
            let wait = self.random.core.below(3);
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
            Stage::Sync { point, through } => {
                if self.strikes(Fault::CoreCrash) {
                    self.core_crash("before the sync")?;
                    return Ok(());
                }
                self.core.stage = self.core_sync(&point, through);
                self.after(0, Happening::CoreStep(run));
            }
            Stage::Release(result) => self.core_release(result)?,
        }
        Ok(())
    }

    fn core_append(&mut self) -> Result<(), Violation> {
        if self.strikes(Fault::CoreCrash) {
            // In the middle of the writes.
            self.core.disk.stop_after(self.random.of(Fault::CoreCrash).below(4));
            if let Some(driver) = self.core.driver.as_mut() {
                let _ = driver.append();
            }
            self.core_crash("while appending")?;
            return Ok(());
        }
        self.core_write()?;
        let point = self.core.driver.as_mut().and_then(|driver| driver.sync_point());
        let wait = match &point {
            None => 0,
            Some(_) if self.strikes(Fault::SlowDisk) => self.random.of(Fault::SlowDisk).range(50, 2_000),
            Some(_) => self.random.core.range(1, self.core.sync_at_most_ms),
        };
        let through = self.core.held.appended;
        self.core.syncs_seam = std::mem::take(&mut self.core.at_seam);
        self.core.stage = match point {
            None => Stage::Release(None),
            Some(point) if self.random.core.chance(500) => self.core_sync(&point, through),
            Some(point) => Stage::Sync { point, through },
        };
        self.after(wait, Happening::CoreStep(self.core.run));
        Ok(())
    }

    /// What was written before a sync began is on the disk at its end. What is written meanwhile may be, or not: so the
    /// disk does it all at the beginning, or at the end.
    fn core_sync(&mut self, point: &SyncPoint, through: u64) -> Stage {
        if self.strikes(Fault::SyncFails) {
            self.core.disk.fail_sync(1);
        }
        let result = point.run(&self.core.disk);
        if result.is_ok() {
            self.core.held.synced = self.core.held.synced.max(through);
        }
        Stage::Release(Some(result))
    }

    /// What was decided goes to the disk, also while a sync of what was there before is running.
    fn core_write(&mut self) -> Result<(), Violation> {
        let disk = self.core.disk.clone();
        let Some(driver) = self.core.driver.as_mut() else { return Ok(()) };
        let mut done = driver.append();
        if let Some(job) = driver.spare_job()
            && done.is_ok()
        {
            self.core.at_seam = true;
            done = driver.handle_spare(job.run(&disk)).map(|_| ());
        }
        self.core.held.appended = driver.journal().position().value();
        done.map_err(|fault| self.broken("core", fault.to_string()))
    }

    fn core_release(&mut self, result: Option<Result<Synced, DiskError>>) -> Result<(), Violation> {
        if self.strikes(Fault::CoreCrash) {
            self.core_crash("after the sync, before anything is released")?;
            return Ok(());
        }
        // Busy until the end of this: what is handled meanwhile is the next batch.
        self.core.stage = Stage::Release(None);
        let Some(driver) = self.core.driver.as_mut() else { return Ok(()) };
        let has_failed = matches!(result, Some(Err(_)));
        let synced = result.map_or(Ok(()), |result| driver.handle_synced(result));
        if has_failed {
            return self.core_sync_failed(synced.is_err());
        }
        let outputs: Vec<Output> = std::iter::from_fn(|| driver.poll_output()).collect();
        synced.map_err(|fault| self.broken("core", fault.to_string()))?;
        let dies_after =
            self.strikes(Fault::CoreCrash).then(|| self.random.of(Fault::CoreCrash).index(outputs.len()));
        for (number, output) in outputs.into_iter().enumerate() {
            if dies_after == Some(number) {
                self.core_crash("while releasing")?;
                return Ok(());
            }
            self.let_go(output)?;
        }
        if std::mem::take(&mut self.core.syncs_seam) && self.strikes(Fault::SeamCrash) {
            return self.core_ends("early in a segment", End::PowerCut, Fault::SeamCrash);
        }
        self.core_snapshot()?;
        if self.random.core.chance(8) {
            self.check_replay()?;
        }
        self.core.stage = Stage::Idle;
        self.core_schedule();
        if std::mem::take(&mut self.core.dirty) {
            self.core_kick();
        }
        Ok(())
    }

    /// An output leaves: somebody is told of its position.
    fn let_go(&mut self, output: Output) -> Result<(), Violation> {
        let position = self.core.held.next().ok_or_else(|| Violation::harness("an output from nowhere"))?;
        if position > self.core.held.synced {
            let text =
                format!("what was computed at {position} leaves, and {} is synced", self.core.held.synced);
            return Err(self.broken("correctness.md 1", text));
        }
        self.core.told = self.core.told.max(position);
        self.release(output)
    }

    fn core_schedule(&mut self) {
        let due = self.core.driver.as_ref().and_then(Driver::next_due);
        let Some(due) = due.map(|due| self.core_due(due)) else { return };
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
        let has_room = self.core_has_room();
        self.core_handle(Input::Tick)?;
        self.note_family(What::Tick { has_room });
        Ok(())
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

    /// The process stops on any error of a sync (storage.md 1), with or without the power.
    fn core_sync_failed(&mut self, noticed: bool) -> Result<(), Violation> {
        if !noticed {
            return Err(self.broken("storage.md 1", "a failed sync went unnoticed"));
        }
        let restart = self.random.of(Fault::SyncFails).chance(500);
        let end = if restart { End::Restart } else { End::PowerCut };
        self.core_ends("of a failed sync", end, Fault::SyncFails)
    }

    fn core_crash(&mut self, when: &str) -> Result<(), Violation> {
        self.core_ends(when, End::PowerCut, Fault::CoreCrash)
    }

    /// The wall clock is set. A step fires no timer and counts from the next start on (correctness.md 14).
    pub(super) fn trouble_clock(&mut self) -> Result<(), Violation> {
        if !self.random.of(Fault::CoreClockSet).chance(15) || !self.strikes(Fault::CoreClockSet) {
            return Ok(());
        }
        let random = self.random.of(Fault::CoreClockSet);
        let ahead = if random.chance(400) { 0 } else { random.step_ms() };
        let restart = random.chance(500);
        say!(self, "core", "its wall clock is {ahead} ms ahead from now on");
        self.core.wall_ahead_ms = ahead;
        if restart && self.core.driver.is_some() {
            return self.core_ends("to be started anew", End::Restart, Fault::CoreClockSet);
        }
        Ok(())
    }

    /// A bit of what was synced is wrong. Recovery must say so; the operator then brings the file back.
    fn core_bit_flips(&mut self) -> Result<u64, Violation> {
        let (disk, limits) = (self.core.disk.clone(), self.core.limits);
        let random = self.random.of(Fault::BitFlips);
        let flipped = flip_a_bit::<Cloud>(&disk, limits, CHAIN, random, Cloud::eq);
        let flipped = flipped.map_err(|text| self.broken("correctness.md 2", text))?;
        say!(self, "core", "with a wrong bit on its disk: {flipped}");
        let refused = matches!(flipped, Flipped::Refused(_));
        Ok(if refused { self.random.of(Fault::BitFlips).range(60_000, 600_000) } else { 0 })
    }

    fn core_ends(&mut self, when: &str, end: End, of: Fault) -> Result<(), Violation> {
        // Asked while it is still known what was under way.
        let long = self.strikes(Fault::CoreLongOutage);
        let ends = self.core.disk.unsynced_sectors();
        say!(self, "core", "dies {when}, {ends} sectors unsynced");
        end.befalls(&self.core.disk, self.random.of(of));
        let restored_after = if self.strikes(Fault::BitFlips) { self.core_bit_flips()? } else { 0 };
        self.core.driver = None;
        self.core.run += 1;
        self.core.stage = Stage::Idle;
        self.core.dirty = false;
        self.lane_dies();
        let away = if long {
            self.random.of(Fault::CoreLongOutage).range(200_000, 900_000)
        } else {
            self.random.of(of).range(50, 15_000)
        };
        self.after(away + restored_after, Happening::CoreStart);
        Ok(())
    }
}

/// The operator's desk.
impl World {
    /// An operator's command whose answer nobody waits for; its ticket.
    pub(super) fn operate(&mut self, command: AdminCommand) -> Result<u64, Violation> {
        self.core.tickets += 1;
        let ticket = self.core.tickets;
        self.core_handle(Input::Admin { ticket, by: None, command })?;
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
            self.core.held.appended = driver.journal().position().value();
            if let Some(job) = driver.spare_job() {
                driver.handle_spare(job.run(&disk)).map_err(failed)?;
            }
            if let Some(point) = driver.sync_point() {
                driver.handle_synced(point.run(&disk)).map_err(failed)?;
                self.core.held.synced = self.core.held.appended;
            }
            let outputs: Vec<Output> = std::iter::from_fn(|| driver.poll_output()).collect();
            if outputs.is_empty() {
                self.core_schedule();
                return Ok(());
            }
            for output in outputs {
                self.let_go(output)?;
            }
        }
    }
}
