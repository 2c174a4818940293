//! The simulated world: the real core and the real device state machines, over disks that lose what was not synced
//! and connections that break at any message, with people, hardware and a bank that do what people, hardware and
//! banks do. One seed is one world: same seed, same world, to the byte (correctness.md 21 and 22).
//!
//! A phase with faults is followed by one in which everything works; then the world must come to rest, and the
//! auditor, who knows the table in correctness.md and nothing of the core, must find every cent where it belongs.
//!
//! # What is absent
//! No clock, no threads, no randomness but seeded streams, no map whose order depends on the process.

mod audit;
mod bank;
mod client;
mod codes;
mod coverage;
mod disk;
mod facts;
mod family;
mod family_audit;
mod family_book;
mod family_facts;
mod fault;
mod hardware;
mod host;
mod judge;
mod lane;
mod machine;
mod machine_disk;
#[cfg(feature = "mutants")]
pub mod mutants;
mod office;
mod options;
mod own;
mod people;
mod piggy_bank;
mod plan;
mod purse;
pub(crate) mod random;
mod shop;
mod shrink;
mod tap;
mod trace;
mod verdict;
mod walk;
mod wire;
mod wish_book;
mod wishes;

use std::collections::BTreeMap;

pub use coverage::Coverage;
pub use fault::Fault;
pub use options::Options;
pub use shrink::{Failure, Shrunk, Size, attempt, shrink};
pub use trace::{Trace, TraceLine};
pub use walk::{Step, Walk};

use cloud_core_flows::admin::Resolution;
use facts::Facts;
use fault::Mix;
use lane::{Connection, Party};
use plan::Plan;
use random::Streams;
use schemas::ids::PaymentId;

/// The world's clock begins here, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_795_000_000_000;
/// After the faults end the world must be at rest within this much virtual time: 2 h.
const REST_WITHIN_MS: u64 = 2 * 3_600_000;
/// More happenings than any world needs: something goes round in circles.
const HAPPENINGS_MAX: u64 = 2_000_000;

/// A rule of correctness.md that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule} at {at_ms} ms: {text}")]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// What was seen.
    pub text: String,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
}

impl Violation {
    fn harness(text: impl Into<String>) -> Self {
        Self { rule: "harness", text: text.into(), at_ms: 0 }
    }
}

/// What one world showed.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Which faults it had, with their rates in a thousand.
    pub mix: String,
    /// The first rule that did not hold.
    pub violation: Option<Violation>,
    /// Payments and the row of the outcome table that each ended in.
    pub rows: BTreeMap<&'static str, u64>,
    /// Outcomes for which the auditor allowed more than one row.
    pub either: BTreeMap<&'static str, u64>,
    /// Payments in all.
    pub payments: u64,
    /// Which faults met which states.
    pub coverage: Coverage,
    /// Happenings.
    pub steps: u64,
    /// Virtual time in milliseconds.
    pub virtual_ms: u64,
    /// Line by line, if it was wanted.
    pub trace: Trace,
}

/// Runs the world of one seed to its rest.
pub fn run(seed: u64, with_trace: bool) -> Report {
    run_with(seed, &Options::default(), with_trace)
}

/// Runs the world of one seed with something taken away.
pub fn run_with(seed: u64, options: &Options, with_trace: bool) -> Report {
    match World::new(seed, options, with_trace) {
        Ok(mut world) => {
            let violation = world.live().err().map(|violation| Violation {
                at_ms: if violation.at_ms == 0 { world.now } else { violation.at_ms },
                ..violation
            });
            world.report(violation)
        }
        Err(violation) => Report {
            seed,
            mix: String::new(),
            violation: Some(violation),
            rows: BTreeMap::new(),
            either: BTreeMap::new(),
            payments: 0,
            coverage: Coverage::default(),
            steps: 0,
            virtual_ms: 0,
            trace: Trace::new(with_trace),
        },
    }
}

/// What will happen.
#[derive(Debug, Clone)]
enum Happening {
    /// Bytes reach the core.
    ArriveUp(u64),
    /// Bytes reach a person or a machine.
    ArriveDown(u64),
    /// The core's end of a connection looks at the time.
    SessionAlarm(u64),
    /// The other end does.
    ClientAlarm(u64),
    /// The core's end of a connection hears that it has to go.
    Disconnect(u64, broker_session::DisconnectReason),
    /// Somebody tries to connect.
    Connect(Party),
    /// The next step of THE order, in this run of the core.
    CoreStep(u64),
    /// A deadline of the core.
    CoreTick(u64),
    CoreStart,
    /// The next step of a machine, in this run of it.
    MachineStep(usize, u64),
    MachineWake(usize, u64),
    MachineStart(usize),
    /// A machine's condition is mended.
    MachineReady(usize),
    /// Items fall out.
    HardwareMoves {
        machine: usize,
        run: u64,
        command: schemas::ids::CommandId,
        units: u32,
        stops: bool,
    },
    /// The hardware speaks.
    HardwareSays(usize, u64, schemas::ids::CommandId, edge_agent_device::HardwareResult),
    /// A child presses a button of a piggy bank.
    Press {
        machine: usize,
        press: piggy_bank::Press,
    },
    /// A child asks its piggy bank for a code.
    Visit {
        machine: usize,
        visit: codes::Visit,
    },
    /// A child wishes for something, or tries to again.
    ChildWishes(usize),
    ChildTakesBack(usize),
    /// A purchase begins, or is tried again.
    Shop(usize),
    /// A person does something that was on their mind.
    Act(usize, people::Deed),
    BankHears(u64),
    BankSays(u64, cloud_core_flows::port::BankAnswer),
    BankGivesUp(u64),
    RetryRefund(PaymentId),
    /// Something breaks somewhere.
    Trouble,
    /// Full disks are looked at again.
    RoomCheck,
    Heal,
    RestCheck,
}

struct World {
    seed: u64,
    now: u64,
    steps: u64,
    next: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    random: Streams,
    mix: Mix,
    options: Options,
    /// A rule that is declared broken, see [`Options::fail_on`].
    pretended: Option<Violation>,
    plan: Plan,
    healed: bool,
    rest_by: u64,
    /// What the operator made of the exceptions, after the first rest.
    resolved: BTreeMap<PaymentId, Resolution>,
    is_resolved: bool,
    core: host::Core,
    connections: BTreeMap<u64, Connection>,
    people: Vec<people::Person>,
    machines: Vec<machine::Machine>,
    shop: Vec<shop::Purchase>,
    bank: bank::BankSide,
    facts: Facts,
    coverage: Coverage,
    rows: BTreeMap<&'static str, u64>,
    either: BTreeMap<&'static str, u64>,
    trace: Trace,
}

/// A line of the trace, formatted only if somebody reads it.
macro_rules! say {
    ($world:expr, $who:expr, $($what:tt)*) => {
        if $world.trace.is_wanted() {
            let (at, who, what) = ($world.now, $who.to_string(), format!($($what)*));
            $world.trace.add(at, who, what);
        }
    };
}
pub(crate) use say;

impl World {
    fn new(seed: u64, options: &Options, with_trace: bool) -> Result<Self, Violation> {
        let mut random = Streams::new(seed);
        let mut mix = Mix::draw(seed, &mut random.plan);
        mix.mute(&options.without);
        let mut plan = Plan::draw(&mut random, &mix)?;
        let core = host::Core::new(&mut random.core, mix.has(Fault::CoreDiskFull));
        plan.purchases = plan.purchases.min(core.purchases_at_most());
        let people = plan.people.iter().map(people::Person::new).collect();
        let mut machines = Vec::new();
        for machine in &plan.machines {
            machines.push(machine::Machine::new(machine)?);
        }
        let bank = bank::BankSide::new(&plan)?;
        let mut world = Self {
            seed,
            now: 0,
            steps: 0,
            next: 0,
            queue: BTreeMap::new(),
            random,
            mix,
            options: options.clone(),
            pretended: None,
            plan,
            healed: false,
            rest_by: 0,
            resolved: BTreeMap::new(),
            is_resolved: false,
            core,
            connections: BTreeMap::new(),
            people,
            machines,
            shop: Vec::new(),
            bank,
            facts: Facts::default(),
            coverage: Coverage::default(),
            rows: BTreeMap::new(),
            either: BTreeMap::new(),
            trace: Trace::new(with_trace),
        };
        world.found()?;
        Ok(world)
    }

    /// The operator sets everything up; nothing fails yet.
    fn found(&mut self) -> Result<(), Violation> {
        let mix = self.mix.describe();
        say!(self, "world", "seed {}{} {mix}", self.seed, self.options);
        self.core_open()?;
        for command in self.plan.commands()? {
            self.operate_now(command)?;
        }
        for machine in 0..self.machines.len() {
            self.enrol_now(machine)?;
            self.machine_open(machine)?;
            let at = self.random.network.range(0, 500);
            self.after(at, Happening::Connect(Party::Machine(machine)));
        }
        self.found_family()?;
        for person in 0..self.people.len() {
            let at = self.random.network.range(0, 1_000);
            self.after(at, Happening::Connect(Party::Person(person)));
        }
        for fault in [Fault::Poor, Fault::ClockDrift, Fault::TerminalClock] {
            (0..self.plan.drawn(fault)).for_each(|_| self.coverage.count(fault, &[]));
        }
        self.draw_purchases();
        self.draw_orders();
        self.draw_allowances();
        self.draw_own_payments();
        self.draw_wishes();
        let end = self.options.faults_end_ms.unwrap_or(u64::MAX).min(self.plan.faults_end_ms);
        self.after(end, Happening::Heal);
        self.after(1_000, Happening::Trouble);
        self.after(10_000, Happening::RoomCheck);
        Ok(())
    }

    fn live(&mut self) -> Result<(), Violation> {
        while !self.turn()? {}
        Ok(())
    }

    /// The next happening. True when the world is at rest for good.
    fn turn(&mut self) -> Result<bool, Violation> {
        let Some(((at, _), happening)) = self.queue.pop_first() else {
            let text = "nothing will ever happen again, and the world is not at rest";
            return Err(self.broken("liveness", text));
        };
        self.now = self.now.max(at);
        self.steps += 1;
        if self.steps > HAPPENINGS_MAX {
            return Err(self.broken("liveness", "the world goes round in circles"));
        }
        let at_rest = self.happen(happening)?;
        if let Some(violation) = self.pretended.take() {
            return Err(violation);
        }
        if at_rest {
            if self.judge()? {
                return Ok(true);
            }
            self.rest_by = self.now + REST_WITHIN_MS;
            self.after(5_000, Happening::RestCheck);
        }
        Ok(false)
    }

    /// True when the world is at rest.
    fn happen(&mut self, happening: Happening) -> Result<bool, Violation> {
        match happening {
            Happening::ArriveUp(connection) => self.arrive_up(connection)?,
            Happening::ArriveDown(connection) => self.arrive_down(connection)?,
            Happening::SessionAlarm(connection) => self.session_alarm(connection)?,
            Happening::ClientAlarm(connection) => self.client_alarm(connection)?,
            Happening::Disconnect(connection, reason) => self.disconnect(connection, reason)?,
            Happening::Connect(party) => self.connect(party)?,
            Happening::CoreStep(run) => self.core_step(run)?,
            Happening::CoreTick(run) => self.core_tick(run)?,
            Happening::CoreStart => self.core_open()?,
            Happening::MachineStep(machine, run) => self.machine_step(machine, run)?,
            Happening::MachineWake(machine, run) => self.machine_wake(machine, run),
            Happening::MachineStart(machine) if self.machines[machine].must_not_start() => {}
            Happening::MachineStart(machine) => {
                self.machine_open(machine)?;
                self.connect(Party::Machine(machine))?;
            }
            Happening::MachineReady(machine) => self.machine_ready(machine),
            Happening::HardwareMoves { machine, run, command, units, stops } => {
                self.hardware_moves(machine, run, command, units, stops);
            }
            Happening::HardwareSays(machine, run, command, result) => {
                self.hardware_says(machine, run, command, result);
            }
            Happening::Press { machine, press } => self.press(machine, press),
            Happening::Visit { machine, visit } => self.visit(machine, visit),
            Happening::ChildWishes(wish) => self.child_wishes(wish),
            Happening::ChildTakesBack(wish) => self.child_takes_back(wish),
            Happening::Shop(purchase) => self.begin_purchase(purchase),
            Happening::Act(person, deed) => self.act(person, deed)?,
            Happening::BankHears(call) => self.bank_hears(call)?,
            Happening::BankSays(call, answer) => self.bank_says(call, answer)?,
            Happening::BankGivesUp(call) => self.bank_gives_up(call)?,
            Happening::RetryRefund(payment) => self.retry_refund(payment)?,
            Happening::Trouble => self.trouble()?,
            Happening::RoomCheck => self.room_check(),
            Happening::Heal => self.heal(),
            Happening::RestCheck => return self.rest_check(),
        }
        Ok(false)
    }

    fn after(&mut self, ms: u64, happening: Happening) {
        self.next += 1;
        self.queue.insert((self.now + ms, self.next), happening);
    }

    fn broken(&self, rule: &'static str, text: impl Into<String>) -> Violation {
        Violation { rule, text: text.into(), at_ms: self.now }
    }

    /// Whether this fault strikes now. Counted against every payment that is under way.
    fn strikes(&mut self, fault: Fault) -> bool {
        if self.healed || !self.random.of(fault).chance(self.mix.permille(fault)) {
            return false;
        }
        let states = self.core.open_states();
        self.coverage.count(fault, &states);
        say!(self, "fault", "{}", fault.as_str());
        if self.options.fail_on == Some(fault) {
            self.pretended = Some(self.broken("pretended", fault.as_str()));
        }
        true
    }

    /// Once a second: what breaks by itself.
    fn trouble(&mut self) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        self.connections.retain(|_, connection| !connection.is_over());
        self.trouble_lane()?;
        for machine in 0..self.machines.len() {
            self.trouble_machine(machine)?;
        }
        self.trouble_family()?;
        self.trouble_bank();
        self.trouble_disks()?;
        self.trouble_clock()?;
        self.after(1_000, Happening::Trouble);
        Ok(())
    }

    /// From now on everything works.
    fn heal(&mut self) {
        self.healed = true;
        self.rest_by = self.now + REST_WITHIN_MS;
        say!(self, "world", "healed");
        self.bank.outage_until = 0;
        self.heal_machines();
        self.after(5_000, Happening::RestCheck);
    }

    fn rest_check(&mut self) -> Result<bool, Violation> {
        for machine in 0..self.machines.len() {
            self.run_errand(machine)?;
        }
        self.run_family_errand()?;
        let unrest = self.unrest();
        match unrest {
            None => Ok(true),
            Some(why) if self.now > self.rest_by => {
                Err(self
                    .broken("MO-9 liveness", format!("not at rest long after everything was mended: {why}")))
            }
            Some(_) => {
                self.after(5_000, Happening::RestCheck);
                Ok(false)
            }
        }
    }

    fn report(self, violation: Option<Violation>) -> Report {
        Report {
            seed: self.seed,
            mix: self.mix.describe(),
            violation,
            rows: self.rows,
            either: self.either,
            payments: (self.facts.payments.len() + self.facts.family.orders.len()) as u64,
            coverage: self.coverage,
            steps: self.steps,
            virtual_ms: self.now,
            trace: self.trace,
        }
    }
}

#[cfg(test)]
mod tests;
