//! One device against a cloud, hardware and a disk that fail at any step.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Bench, CHIP, EXECUTOR, command, key, nonce};
use edge_agent_device::{Delivery, Event, HardwareResult, IssueRequest, Output, State};
use proptest::prelude::*;
use schemas::envelope::Envelope;
use schemas::ids::{CommandId, MessageId};
use schemas::message::{CommandProgress, CommandStatusRequest, Outcome, Up};
use schemas::topic::Kind;

/// What may happen next.
#[derive(Debug, Clone)]
enum Step {
    Deliver(u8),
    AskStatus(u8),
    Poison(u8),
    Issue(u8),
    Append,
    Sync,
    Release,
    Report(u8),
    Connect,
    Disconnect,
    Promise { take: bool, reason: u8 },
    Pass(u16),
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u8..6).prop_map(Step::Deliver),
        1 => (1_u8..6).prop_map(Step::AskStatus),
        1 => (0_u8..4).prop_map(Step::Poison),
        1 => (0_u8..8).prop_map(Step::Issue),
        2 => Just(Step::Append),
        4 => Just(Step::Sync),
        4 => Just(Step::Release),
        3 => (0_u8..4).prop_map(Step::Report),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        3 => (any::<bool>(), prop_oneof![8 => Just(0_u8), 1 => Just(0x97)])
            .prop_map(|(take, reason)| Step::Promise { take, reason }),
        1 => (0_u16..40_000).prop_map(Step::Pass),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// Facts that the device cannot change: what the hardware did, what was on the wire.
struct World {
    bench: Bench,
    acts: BTreeMap<CommandId, u32>,
    moving: BTreeSet<CommandId>,
    carried: BTreeMap<Delivery, CommandId>,
    promised_to_cloud: BTreeSet<CommandId>,
    never_seen: BTreeSet<CommandId>,
    outcomes: BTreeMap<CommandId, BTreeSet<Outcome>>,
    on_wire: BTreeMap<MessageId, u64>,
}

impl World {
    fn new(profile: &'static str) -> Self {
        let bench = Bench::new(profile);
        let (acts, moving, carried) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let (promised_to_cloud, never_seen) = (BTreeSet::new(), BTreeSet::new());
        let (outcomes, on_wire) = (BTreeMap::new(), BTreeMap::new());
        Self { bench, acts, moving, carried, promised_to_cloud, never_seen, outcomes, on_wire }
    }

    fn run(&mut self, step: &Step) {
        let now = self.bench.now;
        match step {
            Step::Deliver(number) => {
                let delivery = self.bench.deliver_command(&command(*number, 0));
                self.carried.insert(delivery, CommandId([*number; 16]));
            }
            Step::AskStatus(number) => {
                let body = CommandStatusRequest { command: CommandId([*number; 16]) };
                let id = MessageId::derived("question", &[&[*number], &now.to_be_bytes()]);
                self.bench.deliver("command-status", &Envelope::message(id, body).encode());
            }
            Step::Poison(number) => {
                self.bench.deliver("executor-command", &[0xff, *number]);
            }
            Step::Issue(number) => {
                let item = "water".parse().unwrap();
                let request = IssueRequest { ticket: 0, item, quantity: 1, valid_ms: None };
                self.bench.device.handle_issue_request(&request, nonce(*number), &key(), now);
            }
            Step::Append => {
                self.bench.append();
            }
            Step::Sync => self.bench.sync(),
            Step::Release => self.release(),
            Step::Report(kind) => self.report(*kind),
            Step::Connect => {
                self.bench.connection += 1;
                self.on_wire.clear();
                self.bench.device.handle_connected(self.bench.connection, 4, now);
            }
            Step::Disconnect => self.bench.device.handle_disconnected(self.bench.connection),
            Step::Promise { take, reason } => {
                let message = if *take { self.on_wire.pop_first() } else { self.on_wire.pop_last() };
                if let Some((message, connection)) = message {
                    self.bench.device.handle_published(connection, message, *reason, now);
                }
            }
            Step::Pass(ms) => {
                self.bench.now += u64::from(*ms);
                self.bench.device.handle_tick(self.bench.now);
            }
            Step::Crash(seed) => {
                self.bench.crash(*seed);
                self.moving.clear();
                self.on_wire.clear();
            }
        }
    }

    fn release(&mut self) {
        let mut reconnect = false;
        for output in self.bench.released() {
            match &output {
                Output::Act { command, quantity, .. } => {
                    assert_eq!(*quantity, 3);
                    *self.acts.entry(*command).or_default() += 1;
                    self.moving.insert(*command);
                }
                Output::Acknowledge { delivery } => {
                    self.promised_to_cloud.extend(self.carried.get(delivery));
                }
                Output::Reconnect { connection } => reconnect = *connection == self.bench.connection,
                Output::Ask { .. } => self.bench.answer_time(std::slice::from_ref(&output)),
                Output::Publish { connection, message, kind, payload } => {
                    self.hear(*kind, payload);
                    let twice = self.on_wire.insert(*message, *connection);
                    assert_eq!(twice, None, "resent within a connection (MQTT-4.4.0-1)");
                }
                Output::Issued { result: Ok(issued), .. } => {
                    let restored = self.bench.device.state().snapshot();
                    assert!(State::restore(&restored).is_ok() && !issued.signed.0.is_empty());
                }
                _ => {}
            }
        }
        if reconnect {
            self.run(&Step::Connect);
        }
    }

    fn hear(&mut self, kind: Kind, payload: &[u8]) {
        match Up::decode(kind, payload).unwrap().body {
            Up::ExecutorCommand(outcome) => {
                self.outcomes.entry(outcome.command).or_default().insert(outcome.outcome);
            }
            Up::CommandStatus(answer) if answer.progress == CommandProgress::NeverSeen => {
                self.never_seen.insert(answer.command);
            }
            _ => {}
        }
    }

    fn report(&mut self, kind: u8) {
        let result = match kind {
            0 => HardwareResult::Done,
            1 => HardwareResult::DoneInPart { delivered: 1 },
            2 => HardwareResult::Failed { code: "jam".parse().unwrap() },
            _ => HardwareResult::Unknown { code: "lost".parse().unwrap() },
        };
        if let Some(command) = self.moving.pop_first() {
            self.bench.device.handle_hardware(command, result, self.bench.now);
        }
    }

    /// The disk, the network and the hardware work from now on.
    fn quiesce(&mut self) {
        self.run(&Step::Connect);
        for _ in 0..200 {
            self.run(&Step::Sync);
            self.run(&Step::Release);
            self.run(&Step::Report(0));
            while !self.on_wire.is_empty() {
                self.run(&Step::Promise { take: true, reason: 0 });
            }
            self.bench.now += 1_000;
            self.bench.device.handle_tick(self.bench.now);
        }
    }

    fn check_always(&self) {
        for (command, acts) in &self.acts {
            assert!(*acts <= 1, "{command:?} acted {acts} times");
            assert!(!self.never_seen.contains(command), "{command:?} acted after `never_seen`");
        }
        for command in &self.promised_to_cloud {
            assert!(
                self.bench.device.state().command(command).is_some(),
                "{command:?} was promised and is lost"
            );
        }
    }

    fn check_at_rest(&self) {
        assert_eq!(self.bench.device.status(self.bench.now).spool_depth, 0);
        for command in &self.promised_to_cloud {
            let outcomes = self.outcomes.get(command).cloned().unwrap_or_default();
            let acted = self.acts.contains_key(command);
            let mut firm: Vec<_> = outcomes.iter().filter(|outcome| **outcome != Outcome::Unknown).collect();
            assert!(!outcomes.is_empty(), "{command:?} was promised and never answered");
            assert!(firm.len() <= 1, "{command:?} has two answers: {outcomes:?}");
            match firm.pop() {
                Some(Outcome::Refused) => assert!(!acted, "{command:?} refused and acted"),
                Some(_) => assert!(acted, "{command:?} {outcomes:?} without an act"),
                None => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// CP-9, MO-5: at any restart point at most one act per command, and nothing that was acknowledged is lost.
    #[test]
    fn at_most_one_act_and_no_lost_promise(steps in proptest::collection::vec(step(), 0..120)) {
        let mut world = World::new(EXECUTOR);
        for step in &steps {
            world.run(step);
            world.check_always();
        }
        world.quiesce();
        world.check_always();
        world.check_at_rest();
    }

    /// Replay of the journal, and a snapshot of any moment plus the rest, give the live state.
    #[test]
    fn replay_equals_live(
        steps in proptest::collection::vec(step(), 0..80),
        chip in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new(if chip { CHIP } else { EXECUTOR });
        for step in &steps {
            if matches!(step, Step::Crash(_)) {
                // What a crash loses is the other test's business.
                world.bench.sync();
            }
            world.run(step);
        }
        world.bench.append();
        let events = world.bench.log.clone();
        let mut replayed = State::default();
        let cut = cut.index(events.len() + 1);
        for (number, event) in events.iter().enumerate() {
            if number == cut {
                replayed = State::restore(&replayed.snapshot()).unwrap();
            }
            replayed.evolve(&Event::decode(&event.encode()).unwrap());
        }
        prop_assert_eq!(&replayed, world.bench.device.state());
    }
}
