//! A cloud that knows no more than these tests, on the real lane; and the real binary in a data directory.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared by several test binaries; a failed unwrap is a failed test"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker::session::{ConnectRefusal, ConnectionId, Owed, Promise, Qos, Secret};
use broker::{Broker, BrokerHandle, Clock, Config, FromCore, Listener, ToCore};
use schemas::envelope::Envelope;
use schemas::ids::{CommandId, IdempotencyKey, Instance, MessageId, PaymentId, Principal};
use schemas::message::{CloudTimeAnswer, Down, ExecutorCommand, ExecutorOutcome, PlacesAnswer, Up};
use schemas::time::Timestamp;
use schemas::topic::{Kind, Role};
use serde_json::Value;

/// Nothing on loopback takes this long; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const WHO: &str = "acme/machine-1";
/// The cloud's time in these tests.
pub(crate) const NOW_MS: u64 = 1_795_000_000_000;

/// An outbox, a clock, and everything that was said upwards.
#[derive(Default)]
struct Core {
    connections: BTreeMap<ConnectionId, Principal>,
    outbox: BTreeMap<u64, Owed>,
    sequence: u64,
    /// What is answered to who asks for places.
    places: Option<PlacesAnswer>,
    /// Of the requests, in order.
    keys: Vec<IdempotencyKey>,
}

impl Core {
    fn handle(&mut self, message: ToCore, said: &Sender<Up>) -> Vec<FromCore> {
        match message {
            ToCore::Connect { connection, credentials, .. } => {
                let good = matches!(&credentials.password, Some(Secret(token)) if token == b"secret");
                let by_token = credentials.username.and_then(|name| name.parse().ok()).filter(|_| good);
                let by_certificate = credentials.client_certificate.map(|_| WHO.parse().unwrap());
                let who: Option<Principal> = by_token.or(by_certificate);
                if let Some(who) = &who {
                    self.connections.insert(connection, who.clone());
                }
                let result = who.ok_or(ConnectRefusal::BadCredentials);
                vec![FromCore::Standing { connection, result, role: Role::Party }]
            }
            ToCore::Publish { connection, token, kind, payload, qos, .. } => {
                let envelope = Up::decode(kind, &payload).unwrap();
                self.keys.extend(envelope.key);
                let up = envelope.body;
                let answer = match &up {
                    Up::CloudTime(question) => {
                        let now = Timestamp(NOW_MS);
                        let answer = CloudTimeAnswer { nonce: question.nonce, now };
                        let payload = Envelope::message(MessageId([1; 16]), answer).encode();
                        Some(FromCore::Reply { connection, kind: Kind::CloudTime, payload })
                    }
                    Up::Places(_) => self.places.clone().map(|answer| {
                        let payload = Envelope::message(MessageId([2; 16]), answer).encode();
                        FromCore::Reply { connection, kind: Kind::Places, payload }
                    }),
                    _ => None,
                };
                let _ = said.send(up);
                let promise = Promise::Kept;
                let kept =
                    (qos == Qos::AtLeastOnce).then_some(FromCore::Promise { connection, token, promise });
                kept.into_iter().chain(answer).collect()
            }
            ToCore::Pull { connection, after_sequence, max, .. } => {
                let entries = self.outbox.range(after_sequence + 1..).map(|(_, owed)| owed.clone()).take(max);
                vec![FromCore::Owed { connection, entries: entries.collect() }]
            }
            ToCore::Acknowledged { message, code, .. } if code < 0x80 => {
                self.outbox.retain(|_, owed| owed.message != message);
                vec![]
            }
            ToCore::Closed { connection, .. } => {
                self.connections.remove(&connection);
                vec![]
            }
            _ => vec![],
        }
    }
}

pub(crate) struct Cloud {
    pub(crate) broker: BrokerHandle,
    core: Arc<Mutex<Core>>,
    clock: Clock,
    pub(crate) said: Receiver<Up>,
    _runtime: tokio::runtime::Runtime,
}

impl Cloud {
    /// On loopback, for tokens.
    pub(crate) fn start() -> Self {
        Self::listen(Listener::Tcp { address: "127.0.0.1:0".parse().unwrap() })
    }

    pub(crate) fn listen(listener: Listener) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let clock = Clock::start();
        let config = Config { listeners: vec![listener], boot_epoch: 1, clock, ..Config::default() };
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1024);
        let broker = runtime.block_on(Broker::start(config, sender)).unwrap();
        let core = Arc::new(Mutex::new(Core::default()));
        let (say, said) = channel();
        std::thread::spawn({
            let (broker, core) = (broker.clone(), Arc::clone(&core));
            move || {
                while let Some(message) = receiver.blocking_recv() {
                    broker.deliver_all(core.lock().unwrap().handle(message, &say));
                }
            }
        });
        Self { broker, core, clock, said, _runtime: runtime }
    }

    pub(crate) fn address(&self) -> String {
        self.broker.addresses()[0].to_string()
    }

    /// From now on whoever asks for places hears this.
    pub(crate) fn know_places(&self, answer: PlacesAnswer) {
        self.core.lock().unwrap().places = Some(answer);
    }

    /// The key of the last request.
    pub(crate) fn last_key(&self) -> IdempotencyKey {
        *self.core.lock().unwrap().keys.last().unwrap()
    }

    pub(crate) fn owe(&self, body: Down) {
        let mut core = self.core.lock().unwrap();
        core.sequence += 1;
        let (sequence, kind) = (core.sequence, body.kind());
        let message = MessageId::derived("owed", &[&sequence.to_be_bytes()]);
        let payload = Envelope::message(message, body).encode();
        let expires_at_ms = self.clock.now_ms() + 600_000;
        core.outbox.insert(sequence, Owed { message, sequence, kind, payload, expires_at_ms });
        let wakes: Vec<_> =
            core.connections.keys().map(|connection| FromCore::Wake { connection: *connection }).collect();
        drop(core);
        self.broker.deliver_all(wakes);
    }

    /// Every delivery was acknowledged.
    pub(crate) fn until_nothing_is_owed(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.core.lock().unwrap().outbox.is_empty() {
            assert!(Instant::now() < deadline, "the device does not acknowledge");
            std::thread::yield_now();
        }
    }

    /// The first thing said that `wanted` accepts.
    pub(crate) fn until<T>(&self, mut wanted: impl FnMut(Up) -> Option<T>) -> T {
        loop {
            let up = self.said.recv_timeout(PATIENCE).expect("the device says nothing");
            if let Some(found) = wanted(up) {
                return found;
            }
        }
    }

    pub(crate) fn outcome(&self) -> ExecutorOutcome {
        self.until(|up| match up {
            Up::ExecutorCommand(outcome) => Some(outcome),
            _ => None,
        })
    }
}

/// A data directory and the binary.
pub(crate) struct Machine {
    _directory: tempfile::TempDir,
    pub(crate) data: PathBuf,
    profile: &'static str,
    pub(crate) broker: String,
}

impl Machine {
    pub(crate) fn new(cloud: &Cloud, profile: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        Self { data, profile, broker: cloud.address(), _directory: directory }
    }

    pub(crate) fn physical_log(&self) -> PathBuf {
        self.data.with_file_name("physical.log")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-agent"));
        command.args(arguments).arg("--data").arg(&self.data).stdin(Stdio::null());
        command.env_remove("FARTHING_KILL_AT").env_remove("FARTHING_HOLD_WRITES");
        command
            .env("FARTHING_TOKEN", "secret")
            .env("FARTHING_PRINCIPAL", WHO)
            .env("FARTHING_BROKER", &self.broker);
        command.env("FARTHING_PROFILE", self.profile).env("FARTHING_PHYSICAL_LOG", self.physical_log());
        command.env("FARTHING_BACKOFF_MAX_MS", "100");
        command
    }

    pub(crate) fn start(&self, change: impl FnOnce(&mut Command)) -> Agent {
        let mut command = self.command(&["run", "--log", "warn"]);
        change(&mut command);
        Agent(command.spawn().unwrap())
    }

    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.call(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn acts(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.physical_log()).unwrap_or_default();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Killed when dropped, by its own id.
pub(crate) struct Agent(pub(crate) Child);

impl Agent {
    /// Ends by SIGTERM, within its own limits.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let id = i32::try_from(self.0.id()).unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(id).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn command(number: u8) -> ExecutorCommand {
    ExecutorCommand {
        command: CommandId([number; 16]),
        payment: PaymentId([number; 16]),
        instance: Instance(1),
        item: "water".parse().unwrap(),
        quantity: 2,
        start_by: Timestamp(NOW_MS + 600_000),
    }
}
