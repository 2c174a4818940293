//! Memory follows open work, not history: the real driver with its journal on disk, in virtual time, plays whole chip
//! payments; the index of payments reads behind it. At a third of them and at the end the same work is open and the same
//! window is kept: what is resident then, and how soon a payment of long ago is found.
//!
//! Accounts of our own ledger, every signature made and checked. The journal takes about 6 kB for each payment.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Instant;

use anyhow::{Context, ensure};
use cloud_core_flows::admin::{AdminCommand, BankKind, Deadlines, OnUnknown};
use cloud_core_flows::driver::{Driver, run_snapshot};
use cloud_core_flows::places::CodeRules;
use cloud_core_flows::port::{ConnectionId, Credentials, Input, Output, OwedMessage, Proof};
use cloud_core_history::{History, Party, Sizes};
use ed25519_dalek::SigningKey;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use schemas::cbor;
use schemas::envelope::Envelope;
use schemas::ids::{Hash, IdempotencyKey, MessageId, Nonce, PaymentId, Principal};
use schemas::message::{
    Down, ExecutorOutcome, HealthCheckAnswer, HealthVerdict, Outcome, PaymentRequest, Up, VerificationAnswer,
};
use schemas::money::Currency;
use schemas::signed::{PaymentInformation, PublicKey, Verification};
use schemas::time::Timestamp;
use schemas::wire::Text;
use schemas_journal::{ChainId, FileDisk, JournalLimits};

use super::Setting;
use super::report::{Report, Unit, percentile, ratio_permille};
use crate::processes::own_resident_kb;

const BENCH: &str = "history";
/// Of virtual time.
const START_MS: u64 = 1_795_000_000_000;
/// Payments that are under way together.
const ROUND: usize = 256;
/// From one round to the next, virtual: about 100 payments a second.
const ROUND_MS: u64 = 2_560;
/// Closed payments stay in memory for this long, virtual: about 100,000 of them.
const RETENTION_MS: u64 = 1_000_000;
const PAYERS: usize = 5_000;
const MACHINES: usize = 32;
const PRICE_MINOR: u64 = 150;
const ID_LOOKUPS: usize = 1_000;
const PERSON_LOOKUPS: usize = 200;
/// Rows of one look-up by person.
const ROWS: usize = 20;

pub(super) fn measure(setting: &Setting, payments: u64, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::open(setting)?;
    world.register()?;
    let bar = progress(payments);
    let (started, mut ids) = (Instant::now(), Vec::new());
    let third = play(&mut world, payments / 3, &bar, &mut ids)?;
    let whole = play(&mut world, payments, &bar, &mut ids)?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs().max(1);
    world.driver.cloud().check().map_err(|problem| anyhow::anyhow!("the books do not agree: {problem}"))?;
    for (moment, finished) in [(&third, payments / 3), (&whole, payments)] {
        let note = format!("{} open, {} closed in memory", moment.open, moment.in_memory - moment.open);
        report.add(BENCH, format!("resident after {finished}"), moment.resident_kb, Unit::Kilobytes, note);
        let name = format!("state as a snapshot after {finished}");
        report.add(BENCH, name, moment.state_kb, Unit::Kilobytes, "");
    }
    let ratio = ratio_permille(whole.resident_kb, third.resident_kb);
    report.add(BENCH, "resident: all : a third", ratio, Unit::RatioPermille, "goal: at most 1.1");
    let state = ratio_permille(whole.state_kb, third.state_kb);
    report.add(BENCH, "state: all : a third", state, Unit::RatioPermille, "");
    report.add(BENCH, "journal of one payment", world.journal_bytes()? / payments, Unit::Bytes, "");
    report.add(BENCH, "index of one payment", world.history.disk_bytes()? / payments, Unit::Bytes, "in sled");
    let rate = payments / seconds;
    report.add(BENCH, "payments played, with the index", rate, Unit::PerSecond, "one thread, all signatures");
    look_up(&world, &ids, report)
}

/// What is there at one moment in the middle of a round.
struct Moment {
    open: usize,
    in_memory: usize,
    resident_kb: u64,
    state_kb: u64,
}

/// Until so many have finished; the moment is in the round after that, so that the same work is open.
fn play(
    world: &mut World,
    until: u64,
    bar: &ProgressBar,
    ids: &mut Vec<PaymentId>,
) -> anyhow::Result<Moment> {
    while world.finished < until {
        let round = world.begin_round()?;
        ids.extend(&round);
        world.end_round(&round)?;
        bar.set_position(world.finished);
    }
    let round = world.begin_round()?;
    let resident_kb = own_resident_kb()?;
    let cloud = world.driver.cloud();
    let (open, in_memory) = (cloud.open_payments(), cloud.payments().count());
    let state_kb = cbor::encode(cloud).len() as u64 / 1000;
    ids.extend(&round);
    world.end_round(&round)?;
    Ok(Moment { open, in_memory, resident_kb, state_kb })
}

/// Payments and people from all times; the system's cache is as the run left it.
fn look_up(world: &World, ids: &[PaymentId], report: &mut Report) -> anyhow::Result<()> {
    let mut by_id_us = Vec::new();
    for number in 0..ID_LOOKUPS {
        let id = ids.get(number * ids.len() / ID_LOOKUPS).context("a payment was played")?;
        let started = Instant::now();
        let found = world.history.payment(*id)?;
        by_id_us.push(micros(started));
        ensure!(found.is_some_and(|found| found.payment == *id), "payment {id} is not found");
    }
    let mut by_person_us = Vec::new();
    for number in 0..PERSON_LOOKUPS {
        let party = Party::Person(payer(number * PAYERS / PERSON_LOOKUPS));
        let started = Instant::now();
        let found = world.history.payments_of(&party, None, ROWS)?;
        by_person_us.push(micros(started));
        ensure!(!found.is_empty(), "nothing is found of {party:?}");
    }
    for (name, values) in [("by id", by_id_us), ("by person, the last 20", by_person_us)] {
        for hundredths in [50, 99] {
            let value = percentile(values.clone(), hundredths);
            report.add(BENCH, format!("look-up {name}: p{hundredths}"), value, Unit::Microseconds, "");
        }
    }
    Ok(())
}

fn micros(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn progress(payments: u64) -> ProgressBar {
    let is_watched = std::io::stderr().is_terminal();
    let target = if is_watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(payments), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} payments  {per_sec}  {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// The core without its sockets, and everybody it serves.
struct World {
    disk: FileDisk,
    driver: Driver<FileDisk>,
    history: History<FileDisk>,
    now_ms: u64,
    finished: u64,
    begun: u64,
    connections: BTreeMap<Principal, ConnectionId>,
    chip_keys: Vec<SigningKey>,
    payer_keys: Vec<SigningKey>,
}

impl World {
    fn open(setting: &Setting) -> anyhow::Result<Self> {
        let disk = FileDisk::open(setting.directory.join("journal"))?;
        let (limits, chain) = (JournalLimits::cloud(), ChainId([7; 32]));
        let driver = Driver::open(disk.clone(), limits, chain, || Timestamp(START_MS))?;
        let history = History::open(&setting.directory.join("index"), disk.clone(), Sizes::default())?;
        Ok(Self {
            disk,
            driver,
            history,
            // Long after the first start, which gives everybody time to reconnect.
            now_ms: START_MS + 60_000,
            finished: 0,
            begun: 0,
            connections: BTreeMap::new(),
            chip_keys: (0..MACHINES).map(|number| key_of(&chip(number))).collect(),
            payer_keys: (0..PAYERS).map(|number| key_of(&payer(number))).collect(),
        })
    }

    fn register(&mut self) -> anyhow::Result<()> {
        let tenant = || "acme".parse();
        self.admin(AdminCommand::CreateTenant {
            tenant: tenant()?,
            currency: "EUR".parse()?,
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: Deadlines { retention_ms: RETENTION_MS, ..Deadlines::default() },
            code_rules: CodeRules::default(),
        })?;
        let (merchant, title) = ("kiosk".parse()?, "Kiosk".to_owned());
        self.admin(AdminCommand::CreateMerchant { tenant: tenant()?, merchant, title, terminal: None })?;
        for number in 0..PAYERS {
            let (person, key) = (payer(number), PublicKey::of(&self.payer_keys[number]));
            let create =
                |person| AdminCommand::CreatePerson { person, public_key: Some(key), bank_account: None };
            self.admin(create(person.clone()))?;
            let amount = "EUR".parse::<Currency>()?.minor(u64::MAX >> 20);
            let reference = "first".to_owned();
            self.admin(AdminCommand::Deposit { person: person.clone(), amount, reference })?;
            let token_hash = Hash::of(person.to_string().as_bytes());
            let (principal, expires_at) = (person.clone(), Timestamp(START_MS << 1));
            self.admin(AdminCommand::CreateToken { principal, token_hash, expires_at })?;
            self.connect(person.clone(), Credentials::Token { principal: person, token_hash })?;
        }
        for number in 0..MACHINES {
            self.enrol(chip(number), "payment-chip")?;
            self.enrol(executor(number), "vending-executor")?;
            self.admin(AdminCommand::BindChip {
                chip: chip(number),
                merchant: "kiosk".parse()?,
                executor: Some(executor(number).id),
                items: BTreeMap::new(),
            })?;
        }
        Ok(())
    }

    fn enrol(&mut self, device: Principal, profile: &str) -> anyhow::Result<()> {
        let create =
            |device| AdminCommand::CreateDevice { device, profile: profile.into(), longest_act_ms: 1_000 };
        self.admin(create(device.clone()))?;
        let claim_hash = Hash::of(device.to_string().as_bytes());
        let expires_at = Timestamp(self.now_ms + 60_000);
        self.admin(AdminCommand::CreateClaim { device: device.clone(), claim_hash, expires_at })?;
        let (public_key, proof) = (PublicKey::of(&key_of(&device)), Proof::Claim(claim_hash));
        let outputs = self.one(Input::Enrol { ticket: 1, principal: device.clone(), proof, public_key })?;
        let order = outputs.into_iter().find_map(|output| match output {
            Output::Sign { order, .. } => Some(order),
            _ => None,
        });
        let order = order.context("a claim is good for an enrolment")?;
        let instance = order.instance;
        self.one(Input::Signed { ticket: 1, order, certificate: vec![1] })?;
        self.connect(device.clone(), Credentials::Certificate { principal: device, instance, serial: vec![] })
    }

    fn connect(&mut self, principal: Principal, credentials: Credentials) -> anyhow::Result<()> {
        let connection = ConnectionId(self.connections.len() as u64 + 1);
        self.hand_in(Input::Connect { connection, client: String::new(), credentials });
        self.one(Input::Subscribed { connection })?;
        self.connections.insert(principal, connection);
        Ok(())
    }

    fn admin(&mut self, command: AdminCommand) -> anyhow::Result<()> {
        for output in self.one(Input::Admin { ticket: 1, by: None, command })? {
            if let Output::Admin { reply, .. } = output {
                reply.map_err(|why| anyhow::anyhow!("{}", why.text))?;
            }
        }
        Ok(())
    }

    /// From the payers' requests to the commands, which their executors hold.
    fn begin_round(&mut self) -> anyhow::Result<Vec<PaymentId>> {
        self.now_ms += ROUND_MS;
        self.hand_in(Input::Tick);
        let of_round: Vec<u64> = (self.begun..).take(ROUND).collect();
        self.begun += ROUND as u64;
        for number in &of_round {
            self.request(*number)?;
        }
        self.settle()?;
        let mut payments = Vec::new();
        for answers in self.fetch(of_round.iter().map(|number| payer_of(*number)))? {
            let payment = answers.iter().find_map(|down| match down {
                Down::RequestAnswer(answer) => answer.payment,
                _ => None,
            });
            payments.push(payment.with_context(|| format!("a request was refused: {answers:?}"))?);
        }
        for (number, payment) in of_round.iter().zip(&payments) {
            let verdict = HealthVerdict::Ready;
            let ready = Up::HealthCheck(HealthCheckAnswer { payment: *payment, verdict, code: None });
            self.say(&chip(machine_of(*number)), ready)?;
        }
        self.settle()?;
        for (number, payment) in of_round.iter().zip(&payments) {
            let payer = payer_of(*number);
            let verification = Verification {
                payer: payer.clone(),
                payment: *payment,
                payee: Text::new("Kiosk"),
                amount: "EUR".parse::<Currency>()?.minor(PRICE_MINOR),
                expires_at: Timestamp((self.now_ms / 1000 + 60) * 1000),
            };
            let key = &self.payer_keys[payer_number(*number)];
            let verification = verification.sign(key);
            self.say(&payer, Up::PaymentVerification(VerificationAnswer { verification }))?;
        }
        self.settle()?;
        Ok(payments)
    }

    /// The executors have delivered, and everybody has heard everything.
    fn end_round(&mut self, payments: &[PaymentId]) -> anyhow::Result<()> {
        let first = self.begun - payments.len() as u64;
        for (number, payment) in (first..).zip(payments) {
            let found = self.driver.cloud().payment(*payment).and_then(|found| found.command.clone());
            let command = found.with_context(|| format!("payment {payment} has no command"))?.id;
            let (outcome, delivered, code) = (Outcome::Done, 1, None);
            let done = Up::ExecutorCommand(ExecutorOutcome { command, outcome, delivered, code });
            self.say(&executor(machine_of(number)), done)?;
        }
        self.settle()?;
        let devices = (0..MACHINES).flat_map(|number| [chip(number), executor(number)]);
        self.fetch((first..self.begun).map(payer_of).chain(devices))?;
        self.settle()?;
        self.finished += payments.len() as u64;
        let synced = self.driver.journal().synced();
        Ok(self.history.advance(synced, u64::MAX)?)
    }

    fn request(&mut self, number: u64) -> anyhow::Result<()> {
        let machine = machine_of(number);
        let seconds = self.now_ms / 1000 * 1000;
        let information = PaymentInformation {
            chip: chip(machine),
            nonce: Nonce(number.to_be_bytes()),
            issued_at: Timestamp(seconds),
            expires_at: Timestamp(seconds + 120_000),
            payee: "kiosk".parse()?,
            amount: "EUR".parse::<Currency>()?.minor(PRICE_MINOR),
            item: "cola".parse()?,
            quantity: 1,
        };
        let information = information.sign(&self.chip_keys[machine]);
        let body = Up::PaymentRequest(PaymentRequest { information });
        let (kind, id) = (body.kind(), MessageId::derived("request", &[&number.to_be_bytes()]));
        let (key, not_after) = (IdempotencyKey(id.0), Timestamp(self.now_ms + 60_000));
        let payload = Envelope::request(id, key, not_after, body).encode();
        let connection = self.connection(&payer_of(number))?;
        self.hand_in(Input::Publish { connection, token: 1, kind, payload });
        Ok(())
    }

    fn say(&mut self, who: &Principal, body: Up) -> anyhow::Result<()> {
        let kind = body.kind();
        let position = self.driver.decided().value();
        let id = MessageId::derived("said", &[who.to_string().as_bytes(), &position.to_be_bytes()]);
        let payload = Envelope::message(id, body).encode();
        let connection = self.connection(who)?;
        self.hand_in(Input::Publish { connection, token: 1, kind, payload });
        Ok(())
    }

    /// Takes and acknowledges all that each of them is owed.
    fn fetch(&mut self, everybody: impl IntoIterator<Item = Principal>) -> anyhow::Result<Vec<Vec<Down>>> {
        for who in everybody {
            let connection = self.connection(&who)?;
            self.hand_in(Input::Pull { connection, after: 0, max: usize::MAX });
        }
        let mut heard = Vec::new();
        for output in self.settle()? {
            let Output::Owed { connection, messages } = output else { continue };
            let mut of_one = Vec::new();
            for OwedMessage { message, kind, payload, .. } in messages {
                self.hand_in(Input::Acknowledged { connection, message, code: 0 });
                of_one.push(Down::decode(kind, &payload)?.body);
            }
            heard.push(of_one);
        }
        Ok(heard)
    }

    fn connection(&self, who: &Principal) -> anyhow::Result<ConnectionId> {
        self.connections.get(who).copied().with_context(|| format!("{who} is connected"))
    }

    /// Decided, and not yet durable: a batch gathers.
    fn hand_in(&mut self, input: Input) {
        self.driver.handle(input, Timestamp(self.now_ms));
    }

    /// Decided; what it lets out waits for no sync if nothing has happened.
    fn one(&mut self, input: Input) -> anyhow::Result<Vec<Output>> {
        self.hand_in(input);
        self.settle()
    }

    /// Append, sync, release; what other threads do in the product is done here in between.
    fn settle(&mut self) -> anyhow::Result<Vec<Output>> {
        self.driver.append()?;
        if let Some(job) = self.driver.spare_job() {
            self.driver.handle_spare(job.run(&self.disk))?;
        }
        if let Some(point) = self.driver.sync_point() {
            self.driver.handle_synced(point.run(&self.disk))?;
        }
        if let Some(job) = self.driver.snapshot_job() {
            self.driver.handle_snapshot(&run_snapshot(&job, &self.disk))?;
        }
        Ok(std::iter::from_fn(|| self.driver.poll_output()).collect())
    }

    fn journal_bytes(&self) -> anyhow::Result<u64> {
        let files = std::fs::read_dir(self.disk.directory())?;
        files.map(|file| Ok(file?.metadata()?.len())).sum()
    }
}

fn key_of(who: &Principal) -> SigningKey {
    SigningKey::from_bytes(&Hash::of(who.to_string().as_bytes()).0)
}

fn payer(number: usize) -> Principal {
    named("payer", number)
}

fn chip(number: usize) -> Principal {
    named("chip", number)
}

fn executor(number: usize) -> Principal {
    named("arm", number)
}

#[allow(clippy::expect_used, reason = "a word and digits are a name")]
fn named(word: &str, number: usize) -> Principal {
    format!("acme/{word}-{number}").parse().expect("a principal")
}

fn payer_number(payment: u64) -> usize {
    usize::try_from(payment % PAYERS as u64).unwrap_or_default()
}

fn payer_of(payment: u64) -> Principal {
    payer(payer_number(payment))
}

fn machine_of(payment: u64) -> usize {
    usize::try_from(payment % MACHINES as u64).unwrap_or_default()
}
