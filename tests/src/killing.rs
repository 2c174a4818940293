//! Payments go on while core, executors and chips are killed at named steps, each kill a power cut (correctness.md 5).
//!
//! Every process runs with a kill point of the plan. Whoever dies is started again with the next one; the others know
//! nothing. Several may be down at the same time.

#![allow(clippy::print_stderr, reason = "shown by `--nocapture`, and when a plan fails")]

mod audit;
mod payer;
mod plan;

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloud_core::admin::client::AdminClient;
use cloud_core_flows::admin::AdminCommand;
use schemas::message::PaymentState;

use crate::fleet::{Fleet, Machine, NotReady, Options, devices_of, principal};
use crate::random::Random;
use payer::Shared;
pub use plan::{Kill, Plan, Target, steps};

/// A chip shows so many codes in ten minutes and no more, so a long plan needs several.
const MACHINES: &[Machine] = &[
    ("chip-0", Some("vend-0")),
    ("chip-1", Some("vend-1")),
    ("chip-2", Some("vend-0")),
    ("chip-3", Some("vend-1")),
    ("chip-4", Some("vend-0")),
    ("chip-5", Some("vend-1")),
];
const PAYERS: u32 = 3;
/// A core whose next segment is wanted gets this many operators who write long lines.
const FILLERS: usize = 6;
const SIGKILL: i32 = 9;
const LONGEST_KILL: Duration = Duration::from_secs(8);

/// What came of a plan.
pub struct Report {
    pub kills: Vec<Kill>,
    pub payments: usize,
    pub ends: BTreeMap<PaymentState, usize>,
    /// Promises that were broken.
    pub violations: Vec<String>,
    pub took: Duration,
}

/// Plays the plan to its end, or to the first violation.
pub fn play(plan: Plan, core_binary: PathBuf) -> Report {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options =
        Options { core_binary, hold_writes: true, payers: PAYERS, machines: MACHINES, ..Options::default() };
    let fleet = Fleet::start(options);
    let shared = Arc::new(Shared::new(fleet.admin.clone(), chips(&fleet)));
    let mut random = Random::new(plan.seed);
    let kills = plan.kills.len() + 5;
    let terminals = (0..PAYERS).map(|number| {
        let _within = runtime.enter();
        fleet.terminal(&format!("payer-{number}"))
    });
    let terminals: Vec<_> = terminals.collect();
    let mut supervisor = Supervisor::new(fleet, plan, Arc::clone(&shared));
    supervisor.start_all();
    let payers: Vec<_> = terminals
        .into_iter()
        .map(|terminal| {
            runtime.spawn(payer::go_on(terminal, Arc::clone(&shared), Random::new(random.next_u64())))
        })
        .collect();
    let fillers = Fillers::start(&supervisor);
    // Generous: a kill takes about two seconds.
    let deadline = LONGEST_KILL * u32::try_from(kills).unwrap_or(u32::MAX);
    let payers_go_on = || !payers.iter().all(tokio::task::JoinHandle::is_finished);
    while !shared.has_violations() && (!supervisor.is_done() || payers_go_on()) {
        supervisor.look(&fillers);
        if supervisor.is_done() {
            shared.stop();
        }
        if began.elapsed() > deadline {
            shared.violation(format!(
                "the plan did not end within {deadline:?}: {}",
                supervisor.what_is_left()
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    fillers.stop();
    if !shared.has_violations() {
        supervisor.come_to_rest();
        shared.add_violations(audit::at_rest(&supervisor.fleet, &shared));
    }
    let ends = shared.ends();
    Report {
        kills: supervisor.hits,
        payments: ends.values().sum(),
        ends,
        violations: shared.violations(),
        took: crate::process::since(began),
    }
}

fn chips(fleet: &Fleet) -> Vec<PathBuf> {
    MACHINES.iter().map(|(chip, _)| fleet.directory_of(chip)).collect()
}

/// Starts what has died, with the next kill point.
struct Supervisor {
    fleet: Fleet,
    waiting: BTreeMap<Target, VecDeque<Kill>>,
    /// By process.
    armed: BTreeMap<&'static str, Kill>,
    hits: Vec<Kill>,
    shared: Arc<Shared>,
    random: Random,
    chip_profile: PathBuf,
    executor_profile: PathBuf,
}

impl Supervisor {
    fn new(fleet: Fleet, plan: Plan, shared: Arc<Shared>) -> Self {
        let chip_profile = fleet.directory().join("chip.toml");
        let executor_profile = fleet.directory().join("executor.toml");
        write_profiles(&chip_profile, &executor_profile);
        let random = Random::new(plan.seed ^ 1);
        let (armed, hits) = (BTreeMap::new(), Vec::new());
        let waiting = plan.by_target();
        Self { fleet, waiting, armed, hits, shared, random, chip_profile, executor_profile }
    }

    fn start_all(&mut self) {
        for device in devices_of(MACHINES) {
            self.start(device);
        }
        for device in devices_of(MACHINES) {
            self.fleet.wait_for_device(device);
        }
        // The core has run without a kill point so far; this first one hits it at no particular step.
        self.start("core");
    }

    fn is_done(&self) -> bool {
        self.armed.is_empty() && self.waiting.values().all(VecDeque::is_empty)
    }

    fn what_is_left(&self) -> String {
        let waiting: usize = self.waiting.values().map(VecDeque::len).sum();
        format!(
            "{} kills done, {waiting} wait, and the armed ones were not reached: {:?}",
            self.hits.len(),
            self.armed
        )
    }

    /// Looks once whether anybody has died.
    fn look(&mut self, fillers: &Fillers) {
        if let Some(status) = self.fleet.core_process().has_ended() {
            self.died("core", status);
            self.start("core");
        }
        for name in devices_of(MACHINES) {
            if let Some(status) = self.fleet.device(name).has_ended() {
                self.died(name, status);
                self.start(name);
            }
        }
        let needs_segments = |kill: &Kill| ["spare-made", "snapshot-taken"].contains(&kill.step);
        fillers.are_wanted.store(self.armed.get("core").is_some_and(needs_segments), Ordering::Relaxed);
    }

    fn died(&mut self, name: &'static str, status: ExitStatus) {
        let kill = self.armed.remove(name);
        match kill {
            Some(kill) if status.signal() == Some(SIGKILL) => self.hit(name, kill),
            kill => {
                let process =
                    if name == "core" { self.fleet.core_process() } else { self.fleet.device(name) };
                let tail = process.tail();
                self.shared
                    .violation(format!("{name} ended by itself ({status}), armed with {kill:?}: {tail}"));
            }
        }
    }

    fn hit(&mut self, name: &str, kill: Kill) {
        eprintln!("{:>4}  {name} killed at {kill}", self.hits.len() + 1);
        self.hits.push(kill);
    }

    fn start(&mut self, name: &'static str) {
        let target = Target::of(name);
        if target == Target::Core {
            return self.start_core();
        }
        let kill = self.arm(name, target);
        let faults = if target == Target::Executor { self.faults() } else { String::new() };
        let profile = if target == Target::Executor { &self.executor_profile } else { &self.chip_profile };
        self.fleet.start_device(name, profile, &faults, kill.as_deref());
    }

    fn start_core(&mut self) {
        loop {
            let kill = self.arm("core", Target::Core);
            match self.fleet.start_core(kill.as_deref()) {
                Ok(()) => break,
                Err(NotReady::Killed) => {
                    let kill = self.armed.remove("core");
                    kill.into_iter().for_each(|kill| self.hit("core", kill));
                }
                Err(NotReady::Refused(why)) => {
                    return self
                        .shared
                        .violation(format!("lost: after a power cut the core does not start: {why}"));
                }
            }
        }
        self.shared.add_violations(audit::after_restart(&self.fleet, &self.shared));
    }

    fn arm(&mut self, name: &'static str, target: Target) -> Option<String> {
        let kill = self.waiting.get_mut(&target)?.pop_front()?;
        self.armed.insert(name, kill);
        Some(kill.to_string())
    }

    /// What the executor's hardware will do, act by act.
    fn faults(&mut self) -> String {
        const OUTCOMES: [&str; 8] =
            ["done", "done", "done", "failed:jammed", "failed:jammed", "part:1", "part:1", "unknown"];
        let faults: Vec<&str> = (0..60).map(|_| self.random.pick(&OUTCOMES)).collect();
        faults.join(",")
    }

    /// Until nothing is under way anywhere.
    fn come_to_rest(&mut self) {
        for name in devices_of(MACHINES) {
            self.fleet.wait_for_device(name);
        }
        crate::until("that every payment is at rest", || {
            let books = audit::books(&self.fleet)?;
            (books.open_payments == 0).then_some(())
        });
    }
}

fn write_profiles(chip: &Path, executor: &Path) {
    const CHIP: &str = include_str!("../../edge-agent/profiles/payment-chip.toml");
    const EXECUTOR: &str = include_str!("../../edge-agent/profiles/vending-executor.toml");
    let replaced = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "the profile has no `{from}`");
        text.replace(from, to)
    };
    let text = replaced(CHIP, "valid_ms = 120000", "valid_ms = 30000");
    std::fs::write(chip, replaced(&text, "open_max = 64", "open_max = 256")).unwrap();
    let text = replaced(EXECUTOR, "act_ms = 500", "act_ms = 20");
    std::fs::write(executor, replaced(&text, "longest_act_ms = 30000", "longest_act_ms = 500")).unwrap();
}

/// Operators who fill the journal, so that segments end and snapshots are taken.
struct Fillers {
    are_wanted: Arc<AtomicBool>,
    are_over: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Fillers {
    fn start(supervisor: &Supervisor) -> Self {
        let (are_wanted, are_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let number = Arc::new(AtomicU64::new(0));
        let thread = || {
            let admin = supervisor.fleet.admin.clone();
            let (wanted, over, number) =
                (Arc::clone(&are_wanted), Arc::clone(&are_over), Arc::clone(&number));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let is_asleep = !wanted.load(Ordering::Relaxed) || !fill(&admin, &number);
                    if is_asleep {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            })
        };
        let threads = (0..FILLERS).map(|_| thread()).collect();
        Self { are_wanted, are_over, threads }
    }

    fn stop(self) {
        self.are_over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Names from the end of the alphabet, so that the list of persons, which is cut, shows the others.
fn fill(admin: &AdminClient, number: &AtomicU64) -> bool {
    let person = principal(&format!("z-{}", number.fetch_add(1, Ordering::Relaxed)));
    let command =
        AdminCommand::CreatePerson { person, public_key: None, bank_account: Some("x".repeat(200)) };
    admin.core(command).is_ok()
}
