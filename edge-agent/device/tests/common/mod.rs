//! One device on a journal in memory, driven by hand.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared by two test binaries; a failed unwrap is a failed test"
)]

pub(crate) mod codes;

use ed25519_dalek::SigningKey;
use edge_agent_device::{Delivery, Device, Event, Output, Profile, PromptAnswerRequest, Recovered, Settings};
use schemas::envelope::Envelope;
use schemas::ids::{CommandId, Instance, MessageId, Nonce, PaymentId};
use schemas::message::{
    Categories, ChildAnswer, CloudTimeAnswer, DeviceReport, ExecutorCommand, PaymentPrompt, PaymentState,
    PaymentStatus, Up,
};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;
use schemas_journal::{ChainId, Journal, JournalLimits, MemoryDisk};

pub(crate) const CHIP: &str = include_str!("../../../profiles/payment-chip.toml");
pub(crate) const EXECUTOR: &str = include_str!("../../../profiles/vending-executor.toml");
pub(crate) const PIGGY_BANK: &str = include_str!("../../../profiles/piggy-bank.toml");
/// Cloud time when the boot clock says zero.
pub(crate) const EPOCH_MS: u64 = 1_795_000_000_000;

pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A device, its disk and the clock.
pub(crate) struct Bench {
    pub(crate) device: Device,
    pub(crate) journal: Journal<MemoryDisk>,
    pub(crate) disk: MemoryDisk,
    profile: &'static str,
    pub(crate) settings: Settings,
    pub(crate) now: u64,
    pub(crate) connection: u64,
    starts: u8,
    token: u64,
    /// Every event appended since the first start.
    pub(crate) log: Vec<Event>,
    /// Every report so far (CP-17).
    pub(crate) reports: Vec<DeviceReport>,
    /// Reason code of their PUBACKs.
    pub(crate) report_answer: u8,
}

impl Bench {
    pub(crate) fn new(profile: &'static str) -> Self {
        let settings = Settings::of("acme/machine-1".parse().unwrap(), Instance(1));
        Self::with(profile, settings)
    }

    pub(crate) fn with(profile: &'static str, settings: Settings) -> Self {
        let disk = MemoryDisk::new();
        let (journal, device) = start(&disk, profile, &settings, 0, 0);
        Self {
            device,
            journal,
            disk,
            profile,
            settings,
            now: 0,
            connection: 0,
            starts: 0,
            token: 0,
            log: vec![],
            reports: vec![],
            report_answer: 0,
        }
    }

    /// Power cut and restart. The boot clock begins anew in reality; here it goes on, which the device cannot tell.
    pub(crate) fn crash(&mut self, seed: u64) {
        self.disk.crash(seed);
        self.starts += 1;
        (self.journal, self.device) = start(&self.disk, self.profile, &self.settings, self.starts, self.now);
    }

    /// Appends what was decided, without syncing.
    pub(crate) fn append(&mut self) -> Vec<Event> {
        let events: Vec<Event> = std::iter::from_fn(|| self.device.poll_event()).collect();
        let records: Vec<Vec<u8>> = events.iter().map(Event::encode).collect();
        if !records.is_empty() {
            let position = self.journal.append(&records).unwrap();
            assert_eq!(position, self.device.position(), "one record per event");
            if let Some(job) = self.journal.spare_job() {
                self.journal.handle_spare(job.run(&self.disk)).unwrap();
            }
        }
        self.log.extend(events.iter().cloned());
        events
    }

    pub(crate) fn sync(&mut self) {
        self.append();
        let synced = self.journal.sync().unwrap();
        self.device.handle_synced(synced, self.now);
    }

    /// Only what may leave by now. Reports are promised at once and kept apart.
    pub(crate) fn released(&mut self) -> Vec<Output> {
        let mut outputs = vec![];
        while let Some(output) = self.device.poll_output() {
            match &output {
                Output::Publish { kind: Kind::DeviceReport, payload, message, connection } => {
                    let Up::DeviceReport(report) = Up::decode(Kind::DeviceReport, payload).unwrap().body
                    else {
                        panic!()
                    };
                    self.reports.push(report);
                    self.device.handle_published(*connection, *message, self.report_answer, self.now);
                }
                _ => outputs.push(output),
            }
        }
        outputs
    }

    /// Syncs until nothing is left to sync, and everything that may leave then.
    pub(crate) fn settle(&mut self) -> Vec<Output> {
        let mut outputs = vec![];
        loop {
            self.sync();
            outputs.extend(self.released());
            if self.device.position() == self.journal.position() {
                return outputs;
            }
        }
    }

    pub(crate) fn connect(&mut self) -> Vec<Output> {
        self.connection += 1;
        self.device.handle_connected(self.connection, 100, self.now);
        self.settle()
    }

    /// Connected, and cloud time known exactly.
    pub(crate) fn connect_with_time(&mut self) -> Vec<Output> {
        let outputs = self.connect();
        self.answer_time(&outputs);
        let mut all = outputs;
        all.extend(self.settle());
        all
    }

    pub(crate) fn answer_time(&mut self, outputs: &[Output]) {
        self.answer_time_of(outputs, self.now);
    }

    /// The answer that the cloud gave at another time than it arrives.
    pub(crate) fn answer_time_of(&mut self, outputs: &[Output], stamp: u64) {
        for output in outputs {
            let Output::Ask { kind: Kind::CloudTime, payload, .. } = output else { continue };
            let Up::CloudTime(question) = Up::decode(Kind::CloudTime, payload).unwrap().body else {
                panic!()
            };
            let now = Timestamp(EPOCH_MS + stamp);
            let answer =
                Envelope::message(MessageId([9; 16]), CloudTimeAnswer { nonce: question.nonce, now });
            self.device.handle_message(None, "cloud-time", &answer.encode(), self.now);
        }
    }

    pub(crate) fn deliver(&mut self, kind: &str, payload: &[u8]) -> Delivery {
        self.token += 1;
        let delivery = Delivery { connection: self.connection, token: self.token };
        self.device.handle_message(Some(delivery), kind, payload, self.now);
        delivery
    }

    pub(crate) fn deliver_command(&mut self, command: &ExecutorCommand) -> Delivery {
        let id = MessageId::derived("command", &[&command.command.0]);
        self.deliver("executor-command", &Envelope::message(id, command.clone()).encode())
    }

    pub(crate) fn deliver_prompt(&mut self, prompt: &PaymentPrompt) -> Delivery {
        let id = MessageId::derived("prompt", &[&prompt.payment.0]);
        self.deliver("payment-prompt", &Envelope::message(id, prompt.clone()).encode())
    }

    pub(crate) fn deliver_result(&mut self, number: u8, state: PaymentState) -> Delivery {
        let id = MessageId::derived("status", &[&[number], state.as_str().as_bytes()]);
        self.deliver("payment-status", &Envelope::message(id, result(number, state)).encode())
    }

    pub(crate) fn answer(&mut self, number: u8, answer: ChildAnswer) {
        let payment = PaymentId([number; 16]);
        let request = PromptAnswerRequest { ticket: u64::from(number), payment, answer, identified: false };
        self.device.handle_prompt_answer(&request, self.now);
    }
}

fn start(
    disk: &MemoryDisk,
    profile: &str,
    settings: &Settings,
    starts: u8,
    now: u64,
) -> (Journal<MemoryDisk>, Device) {
    let mut recovered = Recovered::default();
    let journal =
        Journal::open(disk.clone(), JournalLimits::agent(), ChainId([3; 32]), &mut recovered).unwrap();
    assert_eq!(journal.position(), recovered.position);
    let profile = Profile::parse(profile).unwrap();
    (journal, Device::open(settings.clone(), profile, recovered, [starts; 16], now))
}

pub(crate) fn command(number: u8, now: u64) -> ExecutorCommand {
    ExecutorCommand {
        command: CommandId([number; 16]),
        payment: PaymentId([number; 16]),
        instance: Instance(1),
        item: "water".parse().unwrap(),
        quantity: 3,
        start_by: Timestamp(EPOCH_MS + now + 60_000),
    }
}

/// May be answered for a minute from `now` on.
pub(crate) fn prompt(number: u8, now: u64) -> PaymentPrompt {
    PaymentPrompt {
        payment: PaymentId([number; 16]),
        child: "mia".parse().unwrap(),
        guardian: "dad".parse().unwrap(),
        payee: Text::new("Canteen"),
        amount: "2.50 EUR".parse().unwrap(),
        ordered: "3.00 EUR".parse().unwrap(),
        categories: Categories::new(vec!["lunch".parse().unwrap()]).unwrap(),
        note: Some(Text::new("Enjoy!")),
        answer_by: Timestamp(EPOCH_MS + now + 60_000),
        mode: None,
        identify: None,
    }
}

pub(crate) fn result(number: u8, state: PaymentState) -> PaymentStatus {
    PaymentStatus {
        payment: PaymentId([number; 16]),
        state,
        amount: "3.00 EUR".parse().unwrap(),
        paid: "2.50 EUR".parse().unwrap(),
        delivered: 0,
        quantity: 0,
        reason: None,
        text: Text::new("done"),
        at: Timestamp(EPOCH_MS),
    }
}

pub(crate) fn nonce(number: u8) -> Nonce {
    Nonce([number; 8])
}

/// What the published messages say.
pub(crate) fn published(outputs: &[Output]) -> Vec<Up> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Publish { kind, payload, .. } => Some(Up::decode(*kind, payload).unwrap().body),
            _ => None,
        })
        .collect()
}

/// How many deliveries were acknowledged.
pub(crate) fn acknowledged(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Acknowledge { .. })).count()
}
