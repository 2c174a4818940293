//! Any inputs in any order: stale, repeated, contradictory, from anybody, with power cuts between. Nothing panics, the
//! invariants hold after each (the harness checks them), and replay gives the same cloud.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::{AdminCommand, BankKind, OnUnknown, Resolution};
use cloud_core_flows::port::{BankAnswer, BankCallKind, Input};
use common::{World, http, who};
use proptest::prelude::*;
use schemas::ids::{Nonce, PaymentId};
use schemas::message::{
    CommandProgress, CommandStatusAnswer, ExecutorOutcome, HealthCheckAnswer, HealthVerdict, Outcome,
    PaymentCancel, PaymentRefund, Refused, StatusRequest, Up, VerificationAnswer,
};
use schemas::time::Timestamp;

const PARTIES: [&str; 5] = ["chip", "vend", "ann", "bob", "till"];

#[derive(Debug, Clone)]
enum Action {
    Begin { payer: usize, nonce: u8, quantity: u32 },
    Health(usize, HealthVerdict),
    Verify(usize, bool),
    Bank(usize, BankCallKind, u8),
    Report(usize, Outcome, u32),
    Status(usize, CommandProgress, Outcome),
    Refuse(usize),
    Cancel(usize),
    Return(usize),
    Resolve(usize, u8),
    Pass(u64),
    Crash(u64),
    Fetch(usize),
    Ask(usize),
    Revoke,
    Enrol,
}

fn action() -> impl Strategy<Value = Action> {
    let outcome = || proptest::sample::select(Outcome::ALL);
    let call = proptest::sample::select(vec![
        BankCallKind::Transfer,
        BankCallKind::Status,
        BankCallKind::Cancel,
        BankCallKind::Refund,
    ]);
    let payment = 0..6_usize;
    prop_oneof![
        3 => (2..4_usize, 0..4_u8, 1..4_u32)
            .prop_map(|(payer, nonce, quantity)| Action::Begin { payer, nonce, quantity }),
        4 => (payment.clone(), proptest::sample::select(HealthVerdict::ALL))
            .prop_map(|(k, verdict)| Action::Health(k, verdict)),
        2 => payment.clone().prop_map(|k| Action::Health(k, HealthVerdict::Ready)),
        4 => (payment.clone(), proptest::bool::weighted(0.9)).prop_map(|(k, good)| Action::Verify(k, good)),
        6 => (payment.clone(), call, 0..6_u8).prop_map(|(k, call, answer)| Action::Bank(k, call, answer)),
        4 => (payment.clone(), outcome(), 0..5_u32).prop_map(|(k, outcome, n)| Action::Report(k, outcome, n)),
        2 => (payment.clone(), proptest::sample::select(CommandProgress::ALL), outcome())
            .prop_map(|(k, progress, outcome)| Action::Status(k, progress, outcome)),
        1 => payment.clone().prop_map(Action::Refuse),
        1 => payment.clone().prop_map(Action::Cancel),
        2 => payment.clone().prop_map(Action::Return),
        2 => (payment, 0..3_u8).prop_map(|(k, how)| Action::Resolve(k, how)),
        3 => proptest::sample::select(vec![1, 900, 10_000, 70_000, 3_600_000, 8 * 86_400_000])
            .prop_map(Action::Pass),
        1 => any::<u64>().prop_map(Action::Crash),
        2 => (0..PARTIES.len()).prop_map(Action::Fetch),
        1 => (2..PARTIES.len()).prop_map(Action::Ask),
        1 => Just(Action::Revoke),
        1 => Just(Action::Enrol),
    ]
}

/// A world, the payments that it has seen, and a counter for keys that are never used twice.
struct Run {
    w: World,
    payments: Vec<PaymentId>,
    key: u8,
    enrolments: u32,
}

impl Run {
    fn act(&mut self, action: Action) {
        let nth = |k: usize| self.payments.get(k % self.payments.len().max(1)).copied();
        match action {
            Action::Begin { payer, nonce, quantity } => self.begin(PARTIES[payer], nonce, quantity),
            Action::Pass(ms) => self.w.pass(ms),
            Action::Crash(seed) => {
                self.w.crash(seed);
                self.connect_all();
            }
            Action::Fetch(party) => {
                if self.connected(PARTIES[party]) {
                    self.w.fetch(PARTIES[party]);
                }
            }
            Action::Ask(party) => {
                self.say(PARTIES[party], Up::StatusRequest(StatusRequest { payment: None }))
            }
            Action::Revoke => {
                self.w.admin(AdminCommand::RevokeDevice { device: who("vend") }).unwrap();
                self.w.connections.remove(&who("vend"));
            }
            Action::Enrol => {
                self.enrolments += 1;
                self.w.enrol("vend", self.enrolments);
                self.w.connect("vend");
            }
            Action::Health(k, ..)
            | Action::Verify(k, ..)
            | Action::Bank(k, ..)
            | Action::Report(k, ..)
            | Action::Status(k, ..)
            | Action::Refuse(k)
            | Action::Cancel(k)
            | Action::Return(k)
            | Action::Resolve(k, ..) => {
                if let Some(payment) = nth(k) {
                    self.act_on(payment, action);
                }
            }
        }
    }

    fn act_on(&mut self, payment: PaymentId, action: Action) {
        let command = self.w.driver.cloud().payment(payment).and_then(|found| found.command.clone());
        match (action, command) {
            (Action::Health(_, verdict), _) => {
                self.say("chip", Up::HealthCheck(HealthCheckAnswer { payment, verdict, code: None }));
            }
            (Action::Verify(_, good), _) => self.verify(payment, good),
            (Action::Bank(_, call, answer), _) => {
                let answer = match answer {
                    0 | 1 => BankAnswer::Done,
                    2 => BankAnswer::Refused("no".into()),
                    3 => BankAnswer::Cancelled,
                    4 => BankAnswer::NotFound,
                    _ => BankAnswer::Unknown,
                };
                self.w.bank(payment, call, answer);
            }
            (Action::Report(_, outcome, delivered), Some(command)) => {
                let command = command.id;
                let body = ExecutorOutcome { command, outcome, delivered, code: None };
                self.say("vend", Up::ExecutorCommand(body));
            }
            (Action::Status(_, progress, outcome), Some(command)) => {
                let (command, outcome) = (command.id, Some(outcome));
                let body = CommandStatusAnswer { command, progress, outcome, delivered: 1, code: None };
                self.say("vend", Up::CommandStatus(body));
            }
            (Action::Refuse(_), Some(command)) => {
                let message = Some(cloud_core_flows::payment::Command::message(command.id));
                let (code, text) = ("disk_full".parse().unwrap(), schemas::wire::Text::new("full"));
                self.say("vend", Up::Refused(Refused { message, about: None, code, text }));
            }
            (Action::Cancel(_), _) => self.request("ann", Up::PaymentCancel(PaymentCancel { payment })),
            (Action::Return(_), _) => self.request("till", Up::PaymentRefund(PaymentRefund { payment })),
            (Action::Resolve(_, how), _) => {
                let how = [Resolution::Refund, Resolution::Accept, Resolution::WriteOff][usize::from(how)];
                self.w.resolve(payment, how).ok();
            }
            _ => {}
        }
    }

    fn begin(&mut self, payer: &str, nonce: u8, quantity: u32) {
        let mut information = self.w.information(nonce);
        information.quantity = quantity;
        // A machine makes a new one once the old one has ended.
        information.nonce = Nonce([nonce; 8]);
        let signed = self.w.signed(&information);
        self.request(payer, World::pay_request(signed));
        let known = &self.payments;
        let new: Vec<_> =
            self.w.driver.cloud().payments().map(|found| found.id).filter(|id| !known.contains(id)).collect();
        self.payments.extend(new);
    }

    fn verify(&mut self, payment: PaymentId, good: bool) {
        let Some(found) = self.w.driver.cloud().payment(payment) else { return };
        let payer = found.payer.id.to_string();
        let mut said = self.w.verification(&payer, payment);
        said.amount.minor += u64::from(!good);
        let verification = said.sign(&common::signing_key(&payer));
        self.say(&payer, Up::PaymentVerification(VerificationAnswer { verification }));
    }

    fn request(&mut self, from: &str, body: Up) {
        self.key = self.key.wrapping_add(1);
        let not_after = Timestamp(self.w.now + 60_000);
        let first = self.w.request_raw(from, self.key, not_after, body.clone());
        let state = self.w.driver.cloud().clone();
        let again = self.w.request_raw(from, self.key, not_after, body);
        assert_eq!(first.0, again.0);
        assert_eq!(state, *self.w.driver.cloud(), "a repeat changes nothing (MO-3)");
    }

    fn say(&mut self, from: &str, body: Up) {
        if self.connected(from) {
            self.w.say(from, body).ok();
        }
    }

    fn connected(&self, name: &str) -> bool {
        self.w.connections.contains_key(&who(name))
    }

    fn connect_all(&mut self) {
        for name in PARTIES {
            let device = self.w.driver.cloud().registry().device(&who(name));
            let revoked = cloud_core_flows::registry::Standing::Revoked;
            if device.is_none_or(|device| device.standing != revoked) {
                self.w.connect(name);
            }
        }
    }

    /// Everybody answers sensibly from now on: what is open comes to rest (MO-9).
    fn come_to_rest(&mut self) {
        for _ in 0..200 {
            let open: Vec<_> =
                self.w.driver.cloud().payments().filter(|p| !p.at_rest()).map(|p| p.id).collect();
            if open.is_empty() {
                break;
            }
            for payment in open {
                self.w.bank(payment, BankCallKind::Cancel, BankAnswer::Cancelled);
                self.w.bank(payment, BankCallKind::Refund, BankAnswer::Done);
            }
            self.w.pass(60_000);
        }
        self.w.input(Input::Tick);
        self.w.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// MO-1, MO-2, MO-3, MO-5, MO-9: whatever happens, the books hold, repeats change nothing, replay agrees, and all
    /// comes to rest.
    #[test]
    fn any_inputs_keep_the_invariants(
        is_http in any::<bool>(),
        holds in any::<bool>(),
        no_executor in proptest::bool::weighted(0.2),
        actions in proptest::collection::vec(action(), 1..60),
    ) {
        let bank = if is_http { http() } else { BankKind::Internal };
        let policy = if holds { OnUnknown::Hold } else { OnUnknown::Refund };
        let mut w = World::new(bank, policy);
        if no_executor {
            w.bind(None);
        }
        let mut run = Run { w, payments: Vec::new(), key: 0, enrolments: 1 };
        for action in actions {
            run.act(action);
        }
        run.w.check_replay();
        run.come_to_rest();
    }
}
