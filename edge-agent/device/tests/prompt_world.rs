//! A piggy bank against a cloud, a child, a network and a disk that fail at any step.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Bench, EPOCH_MS, PIGGY_BANK, prompt};
use edge_agent_device::{Delivery, Event, Output, State};
use proptest::prelude::*;
use schemas::ids::{MessageId, PaymentId};
use schemas::message::{ChildAnswer, PaymentState, Up};

const PAYMENTS: u8 = 6;

/// What may happen next. Payments with higher numbers may be answered for longer.
#[derive(Debug, Clone)]
enum Step {
    Deliver(u8),
    Result(u8, PaymentState),
    Answer(u8, ChildAnswer),
    AnswerShown(ChildAnswer),
    Append,
    Sync,
    Release,
    Connect,
    Disconnect,
    Promise { take: bool, reason: u8 },
    Pass(u16),
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let answer = || prop_oneof![Just(ChildAnswer::Confirm), Just(ChildAnswer::Reject)];
    let state = prop_oneof![
        Just(PaymentState::Settled),
        Just(PaymentState::Cancelled),
        Just(PaymentState::Expired),
        Just(PaymentState::Prompting),
    ];
    prop_oneof![
        6 => (1..=PAYMENTS).prop_map(Step::Deliver),
        1 => (1..=PAYMENTS, state).prop_map(|(number, state)| Step::Result(number, state)),
        2 => (1..=PAYMENTS, answer()).prop_map(|(number, answer)| Step::Answer(number, answer)),
        4 => answer().prop_map(Step::AnswerShown),
        2 => Just(Step::Append),
        5 => Just(Step::Sync),
        6 => Just(Step::Release),
        3 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        3 => (any::<bool>(), prop_oneof![8 => Just(0_u8), 1 => Just(0x97)])
            .prop_map(|(take, reason)| Step::Promise { take, reason }),
        2 => (0_u16..20_000).prop_map(Step::Pass),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// Facts that the device cannot change: what was seen, said and heard.
struct World {
    bench: Bench,
    on_screen: Option<PaymentId>,
    /// The child was told that its answer counts.
    answered: BTreeMap<PaymentId, ChildAnswer>,
    carried: BTreeMap<Delivery, (PaymentId, bool)>,
    promised: BTreeSet<PaymentId>,
    /// The device promised that it knows the result.
    decided: BTreeSet<PaymentId>,
    heard: BTreeMap<PaymentId, BTreeSet<(MessageId, ChildAnswer)>>,
    on_wire: BTreeMap<MessageId, u64>,
}

impl World {
    fn new() -> Self {
        let (bench, on_screen) = (Bench::new(PIGGY_BANK), None);
        let (answered, carried, heard) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (promised, decided, on_wire) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { bench, on_screen, answered, carried, promised, decided, heard, on_wire }
    }

    fn run(&mut self, step: &Step) {
        let now = self.bench.now;
        match step {
            Step::Deliver(number) => {
                let delivery = self.bench.deliver_prompt(&prompt(*number, answer_by(*number)));
                self.carried.insert(delivery, (PaymentId([*number; 16]), false));
            }
            Step::Result(number, state) => {
                let delivery = self.bench.deliver_result(*number, *state);
                let decided = *state != PaymentState::Prompting;
                self.carried.extend(decided.then_some((delivery, (PaymentId([*number; 16]), true))));
            }
            Step::Answer(number, answer) => self.bench.answer(*number, *answer),
            Step::AnswerShown(answer) => {
                if let Some(shown) = self.on_screen {
                    self.bench.answer(shown.0[0], *answer);
                }
            }
            Step::Append => {
                self.bench.append();
            }
            Step::Sync => self.bench.sync(),
            Step::Release => self.release(),
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
                self.on_screen = None;
                self.on_wire.clear();
            }
        }
    }

    fn release(&mut self) {
        let mut reconnect = false;
        for output in self.bench.released() {
            match &output {
                Output::Prompt { shown } => {
                    let in_time = shown.as_ref().filter(|shown| self.bench.now <= shown.until_boot_ms);
                    self.on_screen = in_time.map(|shown| shown.prompt.payment);
                    self.check_screen();
                }
                Output::PromptAnswered { payment, answer, result: Ok(()), .. } => {
                    let before = self.answered.insert(*payment, *answer);
                    assert_eq!(before, None, "{payment} was asked twice");
                }
                Output::Acknowledge { delivery } => match self.carried.get(delivery) {
                    Some((payment, true)) => _ = self.decided.insert(*payment),
                    Some((payment, false)) => _ = self.promised.insert(*payment),
                    None => {}
                },
                Output::Reconnect { connection } => reconnect = *connection == self.bench.connection,
                Output::Ask { .. } => self.bench.answer_time(std::slice::from_ref(&output)),
                Output::Publish { connection, message, kind, payload } => {
                    if let Up::PaymentPrompt(answer) = Up::decode(*kind, payload).unwrap().body {
                        self.heard.entry(answer.payment).or_default().insert((*message, answer.answer));
                    }
                    let twice = self.on_wire.insert(*message, *connection);
                    assert_eq!(twice, None, "resent within a connection (MQTT-4.4.0-1)");
                }
                _ => {}
            }
        }
        if reconnect {
            self.run(&Step::Connect);
        }
    }

    /// What comes on the screen is in time by the cloud's own clock, and not decided.
    fn check_screen(&self) {
        let Some(payment) = self.on_screen else { return };
        let prompt = prompt(payment.0[0], answer_by(payment.0[0]));
        assert!(EPOCH_MS + self.bench.now <= prompt.answer_by.0, "{payment} is shown too late");
        assert!(!self.answered.contains_key(&payment), "{payment} is asked again");
        assert!(!self.decided.contains(&payment), "{payment} is decided");
    }

    fn check_always(&self) {
        for payment in &self.promised {
            // One that was overtaken by its result needs no record of its own.
            let decided = self.bench.device.prompt_results().iter().any(|result| result.payment == *payment);
            let known = self.bench.device.state().prompt(payment).is_some();
            assert!(known || decided, "{payment} was promised and is lost");
        }
        for (payment, heard) in &self.heard {
            assert_eq!(heard.len(), 1, "{payment} has one answer, and one message for it");
        }
    }

    /// The disk and the network work from now on.
    fn quiesce(&mut self) {
        self.run(&Step::Connect);
        for _ in 0..200 {
            self.run(&Step::Sync);
            self.run(&Step::Release);
            while !self.on_wire.is_empty() {
                self.run(&Step::Promise { take: true, reason: 0 });
            }
            self.bench.now += 1_000;
            self.bench.device.handle_tick(self.bench.now);
        }
    }

    fn check_at_rest(&self) {
        let status = self.bench.device.status(self.bench.now);
        assert_eq!((status.spool_depth, status.open_prompts.len(), self.on_screen), (0, 0, None));
        for (payment, answer) in &self.answered {
            let heard = self.heard.get(payment).and_then(|heard| heard.first());
            assert_eq!(heard.map(|(_, heard)| heard), Some(answer), "{payment}: what the child said");
        }
    }
}

fn answer_by(number: u8) -> u64 {
    u64::from(number) * 15_000
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// PC-2, PC-3, PC-4: with a crash between any two steps a child is never asked twice, no answer is lost or changed,
    /// and nothing is shown too late.
    #[test]
    fn never_asked_twice_never_an_answer_lost(steps in proptest::collection::vec(step(), 0..120)) {
        let mut world = World::new();
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
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        for step in &steps {
            if matches!(step, Step::Crash(_)) {
                // What a crash loses is the other test's business.
                world.bench.sync();
            }
            world.run(step);
        }
        world.bench.append();
        let mut replayed = State::default();
        let cut = cut.index(world.bench.log.len() + 1);
        for (number, event) in world.bench.log.iter().enumerate() {
            if number == cut {
                replayed = State::restore(&replayed.snapshot()).unwrap();
            }
            replayed.evolve(&Event::decode(&event.encode()).unwrap());
        }
        prop_assert_eq!(&replayed, world.bench.device.state());
    }
}
