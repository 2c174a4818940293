//! The owner's thread: runs THE order with group commit.
//!
//! ```text
//! receive -> decide -> evolve -> append -> sync -> release
//! ```
//! One thread owns the state. It takes whatever has arrived, lets the driver decide all of it, appends one frame and
//! hands the sync to another thread (or does it, where that is quicker than waking one). While that sync runs the owner
//! goes on deciding and appending; the next sync covers everything that gathered. Outputs leave when the position they
//! were computed from is synced; the driver holds them until then. The core never waits for the lane, a bank, an
//! operator or a device.
//!
//! What is absent: a second sync in flight; a decision outside the owner's thread; a retry of a failed append or sync
//! (the process ends, [`CoreFault`], and recovers from disk).

mod backlog;
mod banks;
mod clock;
mod kill;
mod lane;
mod requests;
mod turns;
mod workers;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broker::session::Promise;
use broker::{BrokerHandle, FromCore, ToCore};
use cloud_core_flows::driver::Driver;
use cloud_core_flows::port::{Input, Output, SignOrder};
use schemas::topic::Kind;
use schemas_journal::{DiskError, FileDisk, Synced};
use tokio::sync::{mpsc, oneshot};

use crate::authority::{Authority, CertificateClock, Validity};
use crate::signatures::Signatures;
use crate::telemetry::OutboxWatch;
use backlog::Backlog;
use banks::Banks;
use clock::WallWatch;
use lane::{FromLane, ToLane, from_lane, to_lane};
use requests::Request;
use turns::Turns;
use workers::{Done, Workers};

pub(crate) use clock::CoreClock;
pub use kill::{KillPointError, Step};
pub(crate) use kill::{KillPoints, hold_writes};
pub(crate) use requests::{Asker, EnrolTicket, Requests, Stopped};

/// Taken at most while no sync is running: about as many as are decided during one. The disk then works while the
/// rest is decided, and the next sync has them all.
const FIRST_BATCH_MESSAGES: usize = 32;
/// A sync for at most so many inputs, on a disk whose last sync was this quick, is done by the owner itself: waking two
/// threads would take longer. With more to do, or on a slower disk, the owner goes on deciding meanwhile.
const SYNC_HERE_INPUTS: u32 = 4;
const SYNC_HERE: Duration = Duration::from_micros(250);
/// How often gauges that cost something are set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// Ticks are at least this far apart, however much is due: others are heard in between.
const TICK_INTERVAL: Duration = Duration::from_millis(1);
/// How often a full disk is asked again for the next segment.
const SPARE_INTERVAL: Duration = Duration::from_secs(10);

/// The disk failed. What it holds is unknown to this process: it must end, and recover at its next start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreFault {
    /// A batch could not be written.
    #[error(
        "the journal could not be written ({0}). Nothing that depends on it has left this process. Free or repair the disk and start again: the core recovers by itself"
    )]
    Append(String),
    /// A batch could not be made durable.
    #[error(
        "the journal could not be synced ({0}). Nothing that depends on it has left this process. Repair the disk and start again: the core recovers by itself"
    )]
    Sync(String),
    /// The owner's thread is gone without a word.
    #[error(
        "the thread that owns the state ended by itself, which is a fault of the program: report it with the log, and start again"
    )]
    Lost,
}

/// What the runtime is made of.
pub(crate) struct Parts {
    pub(crate) driver: Driver<FileDisk>,
    pub(crate) disk: FileDisk,
    pub(crate) clock: CoreClock,
    pub(crate) broker: BrokerHandle,
    pub(crate) lane: mpsc::Receiver<ToCore>,
    pub(crate) authority: Arc<Authority>,
    /// Told of the core's time, so that certificates are checked against it.
    pub(crate) certificate_clock: Arc<CertificateClock>,
    /// Told of keys that it lacks.
    pub(crate) signatures: Arc<Signatures>,
    pub(crate) kill: Arc<KillPoints>,
    pub(crate) batch_messages: usize,
    pub(crate) bank_timeout: Duration,
    pub(crate) bank_authority_pem: Option<Vec<u8>>,
}

/// The running core. Dropping it does not stop it: say [`Requests::stop`] and await `ended`.
pub(crate) struct Runtime {
    pub(crate) requests: Requests,
    /// Says how it ended.
    pub(crate) ended: oneshot::Receiver<Result<(), CoreFault>>,
    /// Number of records that are synced.
    pub(crate) synced: Arc<AtomicU64>,
}

impl Runtime {
    /// Starts the owner's thread and its helpers. Must be called within a tokio runtime.
    pub(crate) fn start(parts: Parts) -> std::io::Result<Self> {
        let (requests, inbox) = Requests::channel();
        let (done_sender, done) = mpsc::channel(8);
        let workers = Workers::start(&parts.disk, &done_sender)?;
        let banks = Banks::new(
            parts.bank_timeout,
            parts.bank_authority_pem,
            requests.clone(),
            Arc::clone(&parts.kill),
        );
        let synced = Arc::new(AtomicU64::new(parts.driver.journal().synced().value()));
        let owner = Owner {
            driver: parts.driver,
            clock: parts.clock,
            wall: WallWatch::start(),
            kill: parts.kill,
            broker: parts.broker,
            lane: parts.lane,
            inbox,
            done,
            workers,
            banks: Arc::new(banks),
            authority: parts.authority,
            certificate_clock: parts.certificate_clock,
            signatures: parts.signatures,
            requests: requests.clone(),
            admin_replies: HashMap::new(),
            enrolments: HashMap::new(),
            next_ticket: 0,
            batch_messages: parts.batch_messages,
            arrived: Arrived::default(),
            turns: Turns::default(),
            backlog: Backlog::default(),
            is_syncing: false,
            last_sync: None,
            inputs: 0,
            is_stopping: false,
            synced: Arc::clone(&synced),
            gauges_set_at: None,
            outbox_watch: OutboxWatch::default(),
            spare_retried_at: Instant::now(),
        };
        let (ended_sender, ended) = oneshot::channel();
        let tokio = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("core".into()).spawn(move || {
            let _entered = tokio.enter();
            // The receiver is gone only when the process ends anyway.
            let _ = ended_sender.send(owner.run(&tokio));
        })?;
        Ok(Self { requests, ended, synced })
    }
}

/// What the owner's thread owns.
struct Owner {
    driver: Driver<FileDisk>,
    clock: CoreClock,
    wall: WallWatch,
    kill: Arc<KillPoints>,
    broker: BrokerHandle,
    lane: mpsc::Receiver<ToCore>,
    inbox: mpsc::Receiver<Request>,
    done: mpsc::Receiver<Done>,
    workers: Workers,
    banks: Arc<Banks>,
    authority: Arc<Authority>,
    certificate_clock: Arc<CertificateClock>,
    signatures: Arc<Signatures>,
    requests: Requests,
    admin_replies: HashMap<u64, oneshot::Sender<cloud_core_flows::admin::AdminReply>>,
    enrolments: HashMap<u64, EnrolTicket>,
    next_ticket: u64,
    batch_messages: usize,
    arrived: Arrived,
    turns: Turns,
    backlog: Backlog,
    is_syncing: bool,
    last_sync: Option<Duration>,
    /// Since the last sync began.
    inputs: u32,
    is_stopping: bool,
    synced: Arc<AtomicU64>,
    gauges_set_at: Option<Instant>,
    outbox_watch: OutboxWatch,
    spare_retried_at: Instant,
}

/// What has arrived and was not yet looked at.
#[derive(Default)]
struct Arrived {
    done: Vec<Done>,
    requests: Vec<Request>,
    lane: Vec<ToCore>,
}

impl Owner {
    fn run(mut self, tokio: &tokio::runtime::Handle) -> Result<(), CoreFault> {
        // What the start itself decided.
        self.commit()?;
        self.release();
        loop {
            tokio.block_on(self.receive());
            self.take_done()?;
            self.decide();
            self.commit()?;
            self.release();
            self.maintain();
            if self.is_stopping && !self.is_syncing && self.arrived_nothing() {
                return Ok(());
            }
        }
    }

    /// Waits for anything, then takes everything that is there, up to a batch. Where more is there than a batch takes,
    /// tenants take turns.
    async fn receive(&mut self) {
        let idle = match self.driver.next_due() {
            _ if self.is_stopping && !self.is_syncing => Duration::ZERO,
            Some(due) => self.clock.until(due).clamp(TICK_INTERVAL, GAUGE_INTERVAL),
            None => GAUGE_INTERVAL,
        };
        // At the end the lane is closed, and what it holds is finite.
        let hears_lane = self.is_stopping || !self.backlog.is_full();
        let first_batch = self.batch_messages.min(FIRST_BATCH_MESSAGES);
        let at_most = if self.is_syncing { self.batch_messages } else { first_batch };
        let goes_on = hears_lane && !self.turns.is_empty();
        let mut first = None;
        let Arrived { done, requests, .. } = &mut self.arrived;
        tokio::select! {
            biased;
            Some(message) = self.done.recv() => done.push(message),
            Some(message) = self.inbox.recv() => requests.push(message),
            () = std::future::ready(()), if goes_on => {}
            Some(message) = self.lane.recv(), if hears_lane => first = Some(message),
            () = tokio::time::sleep(idle) => {}
        }
        take_all(&mut self.done, done, self.batch_messages);
        take_all(&mut self.inbox, requests, at_most);
        if hears_lane {
            self.hear_lane(first, at_most);
        }
    }

    fn hear_lane(&mut self, first: Option<ToCore>, at_most: usize) {
        let batch = &mut self.arrived.lane;
        if self.turns.is_empty() && self.lane.len() < at_most {
            // All of it is in this batch, in whichever order.
            batch.extend(first);
            return take_all(&mut self.lane, batch, at_most);
        }
        if let Some(first) = first {
            self.turns.push(first);
        }
        while self.turns.has_room()
            && let Ok(message) = self.lane.try_recv()
        {
            self.turns.push(message);
        }
        while batch.len() < at_most
            && let Some(message) = self.turns.pop()
        {
            batch.push(message);
        }
    }

    fn arrived_nothing(&self) -> bool {
        self.done.is_empty() && self.inbox.is_empty() && self.lane.is_empty() && self.turns.is_empty()
    }

    fn take_done(&mut self) -> Result<(), CoreFault> {
        for done in std::mem::take(&mut self.arrived.done) {
            match done {
                Done::Synced(result, took) => {
                    self.is_syncing = false;
                    self.synced(result, took)?;
                }
                Done::Lost => return Err(CoreFault::Lost),
                Done::Spare(result) => {
                    if let Err(error) = &result {
                        tracing::error!(%error, "the next journal segment was not made; new payments will be refused when this one is full");
                    }
                    self.driver.handle_spare(result).map_err(|fault| CoreFault::Append(fault.to_string()))?;
                    self.kill.pass(Step::SpareMade);
                }
                Done::Snapshot(result) => {
                    match &result {
                        Ok(taken) => tracing::info!(position = taken.position().value(), "snapshot taken"),
                        Err(error) => {
                            tracing::error!(%error, "no snapshot was taken; the next start takes longer")
                        }
                    }
                    self.driver
                        .handle_snapshot(&result)
                        .map_err(|fault| CoreFault::Append(fault.to_string()))?;
                    self.kill.pass(Step::SnapshotTaken);
                }
            }
        }
        Ok(())
    }

    fn synced(&mut self, result: Result<Synced, DiskError>, took: Duration) -> Result<(), CoreFault> {
        self.last_sync = Some(took);
        self.driver.handle_synced(result).map_err(|fault| CoreFault::Sync(fault.to_string()))?;
        self.synced.store(self.driver.journal().synced().value(), Ordering::Release);
        self.kill.pass(Step::Synced);
        Ok(())
    }

    fn decide(&mut self) {
        if let Some(step_ms) = self.wall.look() {
            metrics::counter!("farthing_wall_clock_steps_total").increment(1);
            tracing::warn!(
                step_ms,
                "the wall clock was set; the core keeps its own time until its next start. Check time synchronisation on this machine"
            );
        }
        let now = self.clock.now();
        let mut inputs = 0;
        if self.driver.next_due().is_some_and(|due| due <= now) {
            self.driver.handle(Input::Tick, now);
        }
        for request in std::mem::take(&mut self.arrived.requests) {
            if let Some(input) = self.input_of(request) {
                self.kill.pass(Step::Received);
                self.driver.handle(input, now);
                inputs += 1;
            }
        }
        let mut lane = std::mem::take(&mut self.arrived.lane);
        for message in lane.drain(..) {
            match from_lane(message) {
                FromLane::Input(input) => {
                    self.kill.pass(Step::Received);
                    count(&input);
                    self.driver.handle(input, now);
                    inputs += 1;
                }
                FromLane::Answer(answer) => self.broker.deliver(answer),
            }
        }
        self.arrived.lane = lane;
        self.backlog.grow(inputs);
        self.inputs = self.inputs.saturating_add(inputs);
        if inputs > 0 {
            self.kill.pass(Step::Decided);
            metrics::histogram!("farthing_batch_inputs").record(f64::from(inputs));
        }
    }

    fn input_of(&mut self, request: Request) -> Option<Input> {
        match request {
            Request::Admin { by, command, reply } => {
                let ticket = self.ticket();
                self.admin_replies.insert(ticket, reply);
                Some(match by {
                    Asker::Local { uid } => Input::Admin { ticket, by: Some(format!("uid {uid}")), command },
                    Asker::Operator { operator, instance } => {
                        Input::AdminBy { ticket, operator, instance, command }
                    }
                })
            }
            Request::Enrol(enrolment) => {
                let ticket = self.ticket();
                let input = Input::Enrol {
                    ticket,
                    principal: enrolment.principal.clone(),
                    proof: enrolment.proof.clone(),
                    public_key: enrolment.public_key,
                };
                self.enrolments.insert(ticket, enrolment);
                Some(input)
            }
            Request::Bank { order, answer } => {
                let key = order.key();
                Some(Input::Bank { payment: order.payment, call: order.call, key, answer })
            }
            Request::Signed { ticket, order, certificate } => {
                Some(Input::Signed { ticket, order, certificate })
            }
            Request::NotSigned { ticket } => {
                self.enrolments.remove(&ticket);
                None
            }
            Request::Stop => {
                self.is_stopping = true;
                None
            }
        }
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn commit(&mut self) -> Result<(), CoreFault> {
        self.driver.append().map_err(|fault| CoreFault::Append(fault.to_string()))?;
        if self.is_syncing {
            return Ok(());
        }
        if let Some(point) = self.driver.sync_point() {
            self.kill.pass(Step::Appended);
            self.backlog.clear();
            let is_little = std::mem::take(&mut self.inputs) <= SYNC_HERE_INPUTS;
            if is_little && self.last_sync.is_some_and(|took| took <= SYNC_HERE) {
                let (result, took) = self.workers.sync_here(point);
                return self.synced(result, took);
            }
            self.is_syncing = true;
            self.workers.sync(point).map_err(|_| CoreFault::Lost)?;
        }
        Ok(())
    }

    /// Lets out everything whose journal position is synced.
    fn release(&mut self) {
        let mut to_connections = Vec::new();
        let mut steps = Vec::new();
        while let Some(output) = self.driver.poll_output() {
            match to_lane(output, &self.clock) {
                ToLane::Message(message) => {
                    if let FromCore::Promise { promise: Promise::Refused(code), .. } = &message {
                        crate::telemetry::count_publish_refusal(*code);
                    }
                    steps.extend(step_of(&message));
                    to_connections.push(message);
                }
                ToLane::Other(output) => steps.extend(self.carry_out(output)),
                ToLane::Nobody => {}
            }
        }
        if self.driver.journal().synced() == self.driver.decided() {
            self.backlog.clear();
        }
        if !to_connections.is_empty() {
            self.broker.deliver_all(to_connections);
        }
        for step in steps {
            self.kill.pass(step);
        }
    }

    fn carry_out(&mut self, output: Output) -> Option<Step> {
        match output {
            Output::Bank(order) => {
                self.banks.start(order);
                Some(Step::ReleasedBank)
            }
            Output::Admin { ticket, reply } => {
                // Whoever asked may have gone; what was decided stands.
                self.admin_replies.remove(&ticket).map(|asked| asked.send(reply));
                Some(Step::ReleasedReply)
            }
            Output::Enrolled { ticket, result } => {
                self.enrolments.remove(&ticket).map(|asked| asked.reply.send(result));
                Some(Step::ReleasedReply)
            }
            Output::Feed { tenant, event } => {
                self.broker.feed(tenant, event);
                None
            }
            Output::Sign { ticket, order } => {
                self.sign(ticket, order);
                None
            }
            _ => None,
        }
    }

    /// Signs on a blocking thread; the certificate comes back as an input, so that it is in the journal before
    /// the device has it.
    fn sign(&self, ticket: u64, order: SignOrder) {
        let Some(csr_der) = self.enrolments.get(&ticket).map(|asked| asked.csr_der.clone()) else { return };
        let (authority, requests) = (Arc::clone(&self.authority), self.requests.clone());
        tokio::task::spawn_blocking(move || {
            let validity = Validity { not_before_ms: order.not_before.0, not_after_ms: order.not_after.0 };
            let signed = crate::random::bytes().map_err(|error| error.to_string()).and_then(|serial| {
                let instance = order.instance.0;
                let signed =
                    authority.sign_device_csr(&csr_der, &order.principal, instance, validity, serial);
                signed.map_err(|error| error.to_string())
            });
            let request = match signed {
                Ok(certificate) => Request::Signed { ticket, order, certificate },
                Err(error) => {
                    tracing::error!(principal = %order.principal, %error, "a certificate was not signed");
                    Request::NotSigned { ticket }
                }
            };
            requests.send_blocking(request);
        });
    }

    /// Segments and snapshots, made in the background; gauges; keys that were asked for.
    fn maintain(&mut self) {
        if let Some(job) = self.driver.spare_job() {
            self.workers.spare(job);
        }
        if let Some(job) = self.driver.snapshot_job() {
            self.workers.snapshot(job);
        }
        if self.gauges_set_at.is_none_or(|at| at.elapsed() >= GAUGE_INTERVAL) {
            self.gauges_set_at = Some(Instant::now());
            crate::telemetry::set_core_gauges(&self.driver, &mut self.outbox_watch, self.clock.now());
            self.certificate_clock.raise(self.clock.now().0);
            let cloud = self.driver.cloud();
            self.signatures.learn(cloud.registry(), |payer| cloud.is_full(payer));
        }
        if self.spare_retried_at.elapsed() >= SPARE_INTERVAL {
            self.spare_retried_at = Instant::now();
            self.driver.retry_spare();
        }
    }
}

fn take_all<T>(channel: &mut mpsc::Receiver<T>, into: &mut Vec<T>, at_most: usize) {
    while into.len() < at_most
        && let Ok(message) = channel.try_recv()
    {
        into.push(message);
    }
}

fn step_of(message: &FromCore) -> Option<Step> {
    match message {
        FromCore::Promise { .. } => Some(Step::ReleasedPromise),
        FromCore::Owed { entries, .. } if entries.iter().any(|owed| owed.kind == Kind::ExecutorCommand) => {
            Some(Step::ReleasedCommand)
        }
        _ => None,
    }
}

fn count(input: &Input) {
    match input {
        Input::Connect { .. } => metrics::counter!("farthing_connects_total").increment(1),
        Input::Publish { kind, proven, .. } => {
            metrics::counter!("farthing_publishes_total", "kind" => kind.as_str()).increment(1);
            if proven.is_some() {
                metrics::counter!("farthing_signatures_proven_total").increment(1);
            }
        }
        Input::Acknowledged { .. } => metrics::counter!("farthing_acknowledgements_total").increment(1),
        Input::LaneRefused { why, .. } => {
            // Without the number of those that were not reported.
            let reason = why.split(" (and ").next().unwrap_or_default().to_owned();
            metrics::counter!("farthing_refusals_total", "reason" => reason).increment(1);
        }
        _ => {}
    }
}
