//! The core in its world: the real [`Driver`], whose steps (handle, append, sync, release) are happenings of their
//! own, so that it can die between any two of them.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::Cloud;
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, AdminReply};
use cloud_core_flows::driver::{Driver, run_snapshot};
use cloud_core_flows::port::{Input, Output};
use schemas::ids::CommandId;
use schemas::message::PaymentState;
use schemas::time::Timestamp;
use schemas_journal::{
    ChainId, DiskError, Journal, JournalLimits, MemoryDisk, OpenError, Report, SyncPoint, Synced,
};

use super::fault::Fault;
use super::random::Random;
use super::{EPOCH_MS, Happening, Violation, World, say};

const CHAIN: ChainId = ChainId([1; 32]);

/// Where THE order stands.
enum Stage {
    Idle,
    Append,
    Sync(SyncPoint),
    Release(Option<Result<Synced, DiskError>>),
}

/// The core's process and its disk.
pub(super) struct Core {
    pub(super) driver: Option<Driver<MemoryDisk>>,
    /// Counts starts.
    pub(super) run: u64,
    pub(super) opened_at: u64,
    pub(super) open_at_start: BTreeSet<CommandId>,
    disk: MemoryDisk,
    limits: JournalLimits,
    stage: Stage,
    dirty: bool,
    tick_at: Option<u64>,
    /// The greatest position of which somebody was told.
    pub(super) told: u64,
    tickets: u64,
    pub(super) replies: BTreeMap<u64, AdminReply>,
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

    /// What `cloud-core journal verify` would say.
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
            self.core.disk.stop_after(self.random.of(Fault::CoreCrash).below(4));
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
            Some(_) if self.strikes(Fault::SlowDisk) => self.random.of(Fault::SlowDisk).range(50, 2_000),
            Some(_) => self.random.core.range(1, 8),
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
            self.strikes(Fault::CoreCrash).then(|| self.random.of(Fault::CoreCrash).index(outputs.len()));
        for (number, output) in outputs.into_iter().enumerate() {
            if dies_after == Some(number) {
                self.core_crash("while releasing");
                return Ok(());
            }
            self.release(output)?;
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
        // Asked while it is still known what was under way.
        let long = self.strikes(Fault::CoreLongOutage);
        let seed = self.random.of(Fault::CoreCrash).next();
        let ends = self.core.disk.unsynced_sectors();
        say!(self, "core", "dies {when}, {ends} sectors unsynced");
        self.core.disk.crash(seed);
        self.core.driver = None;
        self.core.run += 1;
        self.core.stage = Stage::Idle;
        self.core.dirty = false;
        self.lane_dies();
        let away = if long {
            self.random.of(Fault::CoreLongOutage).range(200_000, 900_000)
        } else {
            self.random.of(Fault::CoreCrash).range(50, 15_000)
        };
        self.after(away, Happening::CoreStart);
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
