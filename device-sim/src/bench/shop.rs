//! Many machines, their payers and the real driver on a disk, in virtual time and without sockets: whole chip payments,
//! so many at a time, each signature made and checked. Everybody answers at once what they are told.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal;

use anyhow::{Context, anyhow, bail, ensure};
use cloud_core_flows::admin::{AdminCommand, BankKind, Deadlines, OnUnknown};
use cloud_core_flows::driver::{Driver, run_snapshot};
use cloud_core_flows::places::CodeRules;
use cloud_core_flows::port::{ConnectionId, Credentials, Input, Output, OwedMessage, Proof};
use ed25519_dalek::SigningKey;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use schemas::envelope::Envelope;
use schemas::ids::{Hash, IdempotencyKey, Instance, MessageId, Nonce, Principal};
use schemas::message::{
    CommandProgress, CommandStatusAnswer, Down, ExecutorCommand, ExecutorOutcome, HealthCheckAnswer,
    HealthVerdict, Outcome, PaymentRequest, Up, VerificationAnswer, VerificationRequest,
};
use schemas::signed::{PaymentInformation, PublicKey, Verification};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas_journal::{Disk, SnapshotJob};

const TENANT: &str = "bench";
const TITLE: &str = "The Shop";
const MACHINES: u64 = 64;
pub(super) const PAYERS: u64 = 512;
const PRICE_MINOR: u64 = 150;
/// More than anybody spends here.
const FUNDS_MINOR: u64 = 100_000_000_000;
/// Payments under way at a time.
const AT_ONCE: usize = 256;
/// Messages that a connection takes at a time.
const PULLED: usize = 64;

/// Who plays which part, by connection.
struct Party {
    principal: Principal,
    key: SigningKey,
    /// The last message seen.
    seen: u64,
}

/// The shop and everybody in it.
pub(super) struct Shop<D> {
    pub(super) driver: Driver<D>,
    disk: D,
    now_ms: u64,
    parties: BTreeMap<ConnectionId, Party>,
    inputs: VecDeque<Input>,
    begun: u64,
    /// Numbers the next message.
    messages: u64,
    /// A snapshot that is due and was not made: who measures makes it.
    pub(super) due: Option<SnapshotJob>,
}

impl<D: Disk> Shop<D> {
    fn around(driver: Driver<D>, disk: D, now_ms: u64) -> Self {
        let (parties, inputs) = (BTreeMap::new(), VecDeque::new());
        Self { driver, disk, now_ms, parties, inputs, begun: 0, messages: now_ms, due: None }
    }

    /// Registers everybody and connects them. Closed payments stay in memory for `retention_ms`.
    ///
    /// # Errors
    /// The core refuses something, which is a fault of this file, or the disk fails.
    pub(super) fn open(driver: Driver<D>, disk: D, now_ms: u64, retention_ms: u64) -> anyhow::Result<Self> {
        let mut shop = Self::around(driver, disk, now_ms);
        shop.register(retention_ms)?;
        for number in 0..MACHINES {
            shop.enrol(&format!("chip-{number}"))?;
            shop.enrol(&format!("machine-{number}"))?;
        }
        // The first start is long past: what that grants is of no interest here.
        shop.now_ms += 60_000;
        shop.connect_all()?;
        Ok(shop)
    }

    /// The same people after a restart of the core. What was on its way to it is lost.
    ///
    /// # Errors
    /// As [`Shop::open`].
    pub(super) fn reopen(begun: u64, driver: Driver<D>, disk: D, now_ms: u64) -> anyhow::Result<Self> {
        let mut shop = Self::around(driver, disk, now_ms);
        (shop.begun, shop.now_ms) = (begun, now_ms.max(shop.driver.cloud().at().0));
        shop.connect_all()?;
        Ok(shop)
    }

    /// Payments that were begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// One batch: as many new payments as there is room for, everything that the last one led to, one frame, one sync.
    /// Time passes by `batch_ms`.
    ///
    /// # Errors
    /// A message that nobody here expects, or the disk fails.
    pub(super) fn batch(&mut self, batch_ms: u64) -> anyhow::Result<()> {
        self.now_ms += batch_ms;
        for _ in self.driver.cloud().open_payments()..AT_ONCE {
            self.begin()?;
        }
        self.turn()
    }

    /// Everything that is there, one frame, one sync, and the answers of everybody.
    fn turn(&mut self) -> anyhow::Result<()> {
        let now = Timestamp(self.now_ms);
        if self.driver.next_due().is_some_and(|due| due <= now) {
            self.driver.handle(Input::Tick, now);
        }
        for input in std::mem::take(&mut self.inputs) {
            self.driver.handle(input, now);
        }
        for output in self.commit()? {
            self.answer(output)?;
        }
        Ok(())
    }

    fn commit(&mut self) -> anyhow::Result<Vec<Output>> {
        self.driver.append()?;
        if let Some(point) = self.driver.sync_point() {
            let result = point.run(&self.disk);
            self.driver.handle_synced(result)?;
        }
        if let Some(spare) = self.driver.spare_job() {
            let result = spare.run(&self.disk);
            self.driver.handle_spare(result)?;
        }
        if let Some(job) = self.driver.snapshot_job() {
            self.due = Some(job);
        }
        Ok(std::iter::from_fn(|| self.driver.poll_output()).collect())
    }

    /// Makes the snapshot that is due.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn take_snapshot(&mut self) -> anyhow::Result<()> {
        let Some(job) = self.due.take() else { return Ok(()) };
        let result = run_snapshot(&job, &self.disk);
        self.driver.handle_snapshot(&result)?;
        result?;
        Ok(())
    }

    fn answer(&mut self, output: Output) -> anyhow::Result<()> {
        match output {
            Output::Wake { connection } => self.pull(connection),
            Output::Owed { connection, messages } => {
                if messages.len() == PULLED {
                    self.pull(connection);
                }
                for owed in messages {
                    self.take(connection, &owed)?;
                }
            }
            Output::Reply { connection, kind, payload } => self.hear(connection, kind, &payload)?,
            Output::Promise { result: Err(why), .. } => bail!("a message was refused: {why:?}"),
            Output::Standing { result: Err(why), .. } => bail!("a connection was refused: {why:?}"),
            Output::Admin { reply: Err(why), .. } => bail!("a command was refused: {why:?}"),
            _ => {}
        }
        Ok(())
    }

    fn pull(&mut self, connection: ConnectionId) {
        let after = self.parties.get(&connection).map_or(0, |party| party.seen);
        self.inputs.push_back(Input::Pull { connection, after, max: PULLED });
    }

    fn take(&mut self, connection: ConnectionId, owed: &OwedMessage) -> anyhow::Result<()> {
        let party = self.parties.get_mut(&connection).context("a message to nobody")?;
        // Pulled twice before the first acknowledgement was heard.
        if owed.sequence <= party.seen {
            return Ok(());
        }
        party.seen = owed.sequence;
        self.inputs.push_back(Input::Acknowledged { connection, message: owed.message, code: 0 });
        self.hear(connection, owed.kind, &owed.payload)
    }

    fn hear(&mut self, connection: ConnectionId, kind: Kind, payload: &[u8]) -> anyhow::Result<()> {
        match Down::decode(kind, payload)?.body {
            Down::HealthCheck(asked) => {
                let (payment, verdict) = (asked.payment, HealthVerdict::Ready);
                self.say(connection, Up::HealthCheck(HealthCheckAnswer { payment, verdict, code: None }));
            }
            Down::PaymentVerification(asked) => self.verify(connection, &asked)?,
            Down::ExecutorCommand(command) => self.act(connection, &command),
            Down::RequestAnswer(answer) => ensure!(answer.refused.is_none(), "refused: {answer:?}"),
            Down::CommandStatus(asked) => {
                let (progress, outcome) = (CommandProgress::Ended, Some(Outcome::Done));
                let command = asked.command;
                let ended = CommandStatusAnswer { command, progress, outcome, delivered: 1, code: None };
                self.say(connection, Up::CommandStatus(ended));
            }
            Down::PaymentStatus(_) => {}
            other => bail!("nobody expects {other:?}"),
        }
        Ok(())
    }

    fn verify(&mut self, connection: ConnectionId, asked: &VerificationRequest) -> anyhow::Result<()> {
        let party = self.parties.get(&connection).context("a question to nobody")?;
        let said = Verification {
            payer: party.principal.clone(),
            payment: asked.payment,
            payee: asked.payee.clone(),
            amount: asked.amount,
            expires_at: Timestamp((self.now_ms / 1_000 + 60) * 1_000),
        };
        let verification = said.sign(&party.key);
        self.say(connection, Up::PaymentVerification(VerificationAnswer { verification }));
        Ok(())
    }

    fn act(&mut self, connection: ConnectionId, command: &ExecutorCommand) {
        let (command, delivered) = (command.command, command.quantity);
        let done = ExecutorOutcome { command, outcome: Outcome::Done, delivered, code: None };
        self.say(connection, Up::ExecutorCommand(done));
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        let number = self.begun;
        self.begun += 1;
        let chip = self.parties.get(&ConnectionId(2 * (number % MACHINES))).context("no such chip")?;
        let issued_ms = self.now_ms / 1_000 * 1_000;
        let information = PaymentInformation {
            chip: chip.principal.clone(),
            nonce: Nonce(number.to_be_bytes()),
            issued_at: Timestamp(issued_ms),
            expires_at: Timestamp(issued_ms + 120_000),
            payee: "shop".parse()?,
            amount: "EUR".parse::<schemas::money::Currency>()?.minor(PRICE_MINOR),
            item: "water".parse()?,
            quantity: 1,
        };
        let body = Up::PaymentRequest(PaymentRequest { information: information.sign(&chip.key) });
        let key = IdempotencyKey::derived("bench", &[&number.to_be_bytes()]);
        let not_after = Timestamp(self.now_ms + 60_000);
        let envelope = Envelope::request(self.message_id(), key, not_after, body);
        self.publish(ConnectionId(2 * MACHINES + number % PAYERS), &envelope);
        Ok(())
    }

    fn say(&mut self, connection: ConnectionId, body: Up) {
        let envelope = Envelope::message(self.message_id(), body);
        self.publish(connection, &envelope);
    }

    fn publish(&mut self, connection: ConnectionId, envelope: &Envelope<Up>) {
        let (kind, payload) = (envelope.body.kind(), envelope.encode());
        self.inputs.push_back(Input::Publish { connection, token: 0, kind, payload, proven: None });
    }

    fn message_id(&mut self) -> MessageId {
        self.messages += 1;
        MessageId::derived("bench", &[&self.messages.to_be_bytes()])
    }

    fn register(&mut self, retention_ms: u64) -> anyhow::Result<()> {
        self.admin(AdminCommand::CreateTenant {
            tenant: TENANT.parse()?,
            currency: "EUR".parse()?,
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: Deadlines { retention_ms, ..Deadlines::default() },
            code_rules: CodeRules::default(),
        })?;
        let mut commands = vec![AdminCommand::CreateMerchant {
            tenant: TENANT.parse()?,
            merchant: "shop".parse()?,
            title: TITLE.to_owned(),
            terminal: None,
        }];
        for number in 0..MACHINES {
            let (chip, machine) = (format!("chip-{number}"), format!("machine-{number}"));
            for (name, profile) in [(&chip, "payment-chip"), (&machine, "vending-executor")] {
                let (device, profile) = (who(name)?, profile.to_owned());
                commands.push(AdminCommand::CreateDevice { device, profile, longest_act_ms: 5_000 });
            }
            let (chip, executor) = (who(&chip)?, Some(machine.parse()?));
            let (merchant, items) = ("shop".parse()?, BTreeMap::new());
            commands.push(AdminCommand::BindChip { chip, merchant, executor, items });
        }
        for number in 0..PAYERS {
            let name = format!("payer-{number}");
            let (person, public_key) = (who(&name)?, Some(PublicKey::of(&key_of(&name))));
            commands.push(AdminCommand::CreatePerson {
                person: person.clone(),
                public_key,
                bank_account: None,
            });
            let (principal, token_hash) = (person.clone(), Hash::of(name.as_bytes()));
            let expires_at = Timestamp(u64::MAX / 4);
            commands.push(AdminCommand::CreateToken { principal, token_hash, expires_at });
        }
        self.admin(AdminCommand::Batch { commands, check_only: false })?;
        for number in 0..PAYERS {
            let amount = "EUR".parse::<schemas::money::Currency>()?.minor(FUNDS_MINOR);
            let person = who(&format!("payer-{number}"))?;
            self.admin(AdminCommand::Deposit { person, amount, reference: "first".to_owned() })?;
        }
        Ok(())
    }

    fn enrol(&mut self, name: &str) -> anyhow::Result<()> {
        let claim_hash = Hash::of(name.as_bytes());
        let expires_at = Timestamp(self.now_ms + 3_600_000);
        self.admin(AdminCommand::CreateClaim { device: who(name)?, claim_hash, expires_at })?;
        let public_key = PublicKey::of(&key_of(name));
        let proof = Proof::Claim(claim_hash);
        let outputs = self.input(Input::Enrol { ticket: 1, principal: who(name)?, proof, public_key })?;
        let order = outputs.into_iter().find_map(|output| match output {
            Output::Sign { order, .. } => Some(order),
            _ => None,
        });
        let order = order.context("an enrolment was refused")?;
        self.input(Input::Signed { ticket: 1, order, certificate: vec![0; 400] }).map(drop)
    }

    fn connect_all(&mut self) -> anyhow::Result<()> {
        for number in 0..MACHINES {
            for (place, name) in [(0, format!("chip-{number}")), (1, format!("machine-{number}"))] {
                let (principal, instance, serial) = (who(&name)?, Instance(1), Vec::new());
                let credentials = Credentials::Certificate { principal, instance, serial };
                self.connect(ConnectionId(2 * number + place), &name, credentials)?;
            }
        }
        for number in 0..PAYERS {
            let name = format!("payer-{number}");
            let credentials =
                Credentials::Token { principal: who(&name)?, token_hash: Hash::of(name.as_bytes()) };
            self.connect(ConnectionId(2 * MACHINES + number), &name, credentials)?;
        }
        Ok(())
    }

    fn connect(
        &mut self,
        connection: ConnectionId,
        name: &str,
        credentials: Credentials,
    ) -> anyhow::Result<()> {
        let party = Party { principal: who(name)?, key: key_of(name), seen: 0 };
        self.parties.insert(connection, party);
        self.inputs.push_back(Input::Connect { connection, client: name.to_owned(), credentials });
        self.inputs.push_back(Input::Subscribed { connection });
        self.turn()
    }

    fn admin(&mut self, command: AdminCommand) -> anyhow::Result<()> {
        let by = Some("uid 1000".to_owned());
        let outputs = self.input(Input::Admin { ticket: 1, by, command })?;
        let reply = outputs.into_iter().find_map(|output| match output {
            Output::Admin { reply, .. } => Some(reply),
            _ => None,
        });
        reply.context("a command was not answered")?.map(drop).map_err(|why| anyhow!("refused: {why:?}"))
    }

    fn input(&mut self, input: Input) -> anyhow::Result<Vec<Output>> {
        self.driver.handle(input, Timestamp(self.now_ms));
        self.commit()
    }
}

/// How far a long run is, for whoever watches.
pub(super) fn progress(what: &str, all: u64) -> ProgressBar {
    let draw = std::io::stderr().is_terminal();
    let target = if draw { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = format!("{{bar:30}} {{human_pos}} of {{human_len}} {what}, {{eta}} left");
    let bar = ProgressBar::with_draw_target(Some(all), target);
    ProgressStyle::with_template(&template).map_or(bar.clone(), |style| bar.with_style(style))
}

pub(super) fn payer(number: u64) -> anyhow::Result<Principal> {
    who(&format!("payer-{number}"))
}

fn who(name: &str) -> anyhow::Result<Principal> {
    Ok(format!("{TENANT}/{name}").parse()?)
}

fn key_of(name: &str) -> SigningKey {
    SigningKey::from_bytes(&Hash::of(name.as_bytes()).0)
}
