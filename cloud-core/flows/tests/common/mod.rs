//! One shop with a chip, an executor, two payers and a till, driven through the real driver over a disk in memory,
//! in virtual time. The test plays every party by hand; after each input the invariants are checked.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

pub(crate) mod codes;
pub(crate) mod family;
pub(crate) mod money;

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::Cloud;
use cloud_core_flows::admin::{
    AccountRow, AdminAnswer, AdminCommand, AdminReply, BankKind, Deadlines, OnUnknown, Resolution,
};
use cloud_core_flows::driver::Driver;
use cloud_core_flows::places::CodeRules;
use cloud_core_flows::port::{
    BankAnswer, BankCallKind, BankOrder, ConnectionId, Credentials, Input, Output, OwedMessage,
    PromiseRefusal, Proof, SignOrder,
};
use ed25519_dalek::SigningKey;
use schemas::cbor;
use schemas::envelope::Envelope;
use schemas::feed::FeedEvent;
use schemas::ids::{Hash, IdempotencyKey, MessageId, Nonce, PaymentId, Principal, TenantId};
use schemas::message::{
    Down, ExecutorCommand, ExecutorOutcome, HealthCheckAnswer, HealthVerdict, Outcome, PaymentCancel,
    PaymentRefund, PaymentRequest, PaymentState, PaymentStatus, RequestAnswer, Up, VerificationAnswer,
};
use schemas::signed::{PaymentInformation, Proven, PublicKey, Verification};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::{SignedBytes, Text};
use schemas_journal::{ChainId, Fold, Journal, JournalLimits, MemoryDisk, Position};

pub(crate) const START: u64 = 1_800_000_000_000;
pub(crate) const PRICE: u64 = 1_000;
pub(crate) const FUNDS: u64 = 5_000;
pub(crate) const LONGEST_ACT_MS: u64 = 5_000;

pub(crate) fn who(name: &str) -> Principal {
    format!("acme/{name}").parse().unwrap()
}

pub(crate) fn signing_key(name: &str) -> SigningKey {
    SigningKey::from_bytes(&Hash::of(name.as_bytes()).0)
}

pub(crate) fn chain() -> ChainId {
    ChainId([7; 32])
}

pub(crate) fn http() -> BankKind {
    BankKind::Http { url: "http://127.0.0.1:1".into(), holding: "acme-holding".into() }
}

/// Small segments, so that several are used.
pub(crate) fn limits() -> JournalLimits {
    JournalLimits {
        record_max_bytes: 16 << 10,
        frame_max_bytes: 64 << 10,
        segment_bytes: 256 << 10,
        snapshot_every_segments: 1,
    }
}

pub(crate) struct World {
    pub(crate) disk: MemoryDisk,
    pub(crate) driver: Driver<MemoryDisk>,
    pub(crate) now: u64,
    pub(crate) bank: BankKind,
    pub(crate) deadlines: Deadlines,
    /// Every call to the bank that was released.
    pub(crate) orders: Vec<BankOrder>,
    /// Everything that was released to observers.
    pub(crate) feed: Vec<(TenantId, FeedEvent)>,
    /// Everything each party has fetched.
    pub(crate) inbox: BTreeMap<Principal, Vec<Down>>,
    pub(crate) connections: BTreeMap<Principal, ConnectionId>,
    /// Message ids of executor commands that were released, each with its command.
    pub(crate) commands: BTreeSet<(MessageId, String)>,
    pub(crate) instances: BTreeMap<Principal, u32>,
    /// What the reading thread says of a signature in the next publish.
    pub(crate) proven: Option<Proven>,
    /// Off where a test makes so many payments that this would take long.
    pub(crate) restores_after_each_input: bool,
    /// Off where speed is measured.
    pub(crate) checks_after_each_input: bool,
    counter: u64,
}

impl World {
    pub(crate) fn new(bank: BankKind, on_unknown: OnUnknown) -> Self {
        Self::with(bank, on_unknown, Deadlines::default())
    }

    pub(crate) fn with(bank: BankKind, on_unknown: OnUnknown, deadlines: Deadlines) -> Self {
        let disk = MemoryDisk::new();
        let mut driver = Driver::open(disk.clone(), limits(), chain(), || Timestamp(START)).unwrap();
        driver.set_signing_key(signing_key("cloud"));
        let mut world = Self {
            disk,
            driver,
            now: START,
            bank: bank.clone(),
            deadlines,
            orders: Vec::new(),
            feed: Vec::new(),
            inbox: BTreeMap::new(),
            connections: BTreeMap::new(),
            commands: BTreeSet::new(),
            instances: BTreeMap::new(),
            proven: None,
            restores_after_each_input: true,
            checks_after_each_input: true,
            counter: 0,
        };
        world.flush();
        world.register(bank, on_unknown, deadlines);
        // The first start is long past: what that grants is tested by itself.
        world.now += 60_000;
        world.connect_all();
        world
    }

    fn register(&mut self, bank: BankKind, on_unknown: OnUnknown, deadlines: Deadlines) {
        let tenant = "acme".parse().unwrap();
        let currency = "EUR".parse().unwrap();
        let code_rules = CodeRules::default();
        let create = AdminCommand::CreateTenant { tenant, currency, bank, on_unknown, deadlines, code_rules };
        self.admin(create).unwrap();
        let terminal = Some("till".parse().unwrap());
        let (tenant, merchant) = ("acme".parse().unwrap(), "shop".parse().unwrap());
        self.admin(AdminCommand::CreateMerchant { tenant, merchant, title: "The Shop".into(), terminal })
            .unwrap();
        for device in ["chip", "vend", "spare"] {
            let profile = if device == "chip" { "payment-chip" } else { "vending-executor" }.to_owned();
            let device = who(device);
            self.admin(AdminCommand::CreateDevice { device, profile, longest_act_ms: LONGEST_ACT_MS })
                .unwrap();
        }
        for person in ["ann", "bob", "till"] {
            let key = (person != "till").then(|| PublicKey::of(&signing_key(person)));
            let bank_account = Some(format!("account-{person}"));
            let person = who(person);
            self.admin(AdminCommand::CreatePerson { person, public_key: key, bank_account }).unwrap();
        }
        if self.bank == BankKind::Internal {
            for person in ["ann", "bob"] {
                let amount = "EUR".parse::<schemas::money::Currency>().unwrap().minor(FUNDS);
                self.admin(AdminCommand::Deposit { person: who(person), amount, reference: "first".into() })
                    .unwrap();
            }
        }
        for device in ["chip", "vend", "spare"] {
            self.enrol(device, 1);
        }
        self.bind(Some("vend"));
    }

    /// Ties the chip to an executor, or to none (CP-16).
    pub(crate) fn bind(&mut self, executor: Option<&str>) {
        let executor = executor.map(|id| id.parse().unwrap());
        let command = AdminCommand::BindChip {
            chip: who("chip"),
            merchant: "shop".parse().unwrap(),
            executor,
            items: BTreeMap::new(),
        };
        self.admin(command).unwrap();
    }

    pub(crate) fn enrol(&mut self, device: &str, number: u32) -> SignOrder {
        let claim_hash = Hash::of(format!("claim {device} {number}").as_bytes());
        let expires_at = Timestamp(self.now + 3_600_000);
        self.admin(AdminCommand::CreateClaim { device: who(device), claim_hash, expires_at }).unwrap();
        let public_key = PublicKey::of(&signing_key(device));
        let input =
            Input::Enrol { ticket: 1, principal: who(device), proof: Proof::Claim(claim_hash), public_key };
        let outputs = self.input(input);
        let order = outputs
            .into_iter()
            .find_map(|output| match output {
                Output::Sign { order, .. } => Some(order),
                _ => None,
            })
            .unwrap();
        let certificate = vec![1, 2, 3];
        let outputs = self.input(Input::Signed { ticket: 1, order: order.clone(), certificate });
        assert!(outputs.iter().any(|output| matches!(output, Output::Enrolled { result: Ok(_), .. })));
        self.instances.insert(who(device), order.instance.0);
        self.connections.remove(&who(device));
        order
    }

    pub(crate) fn connect_all(&mut self) {
        for name in ["chip", "vend", "spare", "ann", "bob", "till"] {
            self.connect(name);
        }
    }

    /// Connects and subscribes.
    pub(crate) fn connect(&mut self, name: &str) {
        let principal = who(name);
        self.counter += 1;
        let connection = ConnectionId(self.counter);
        let credentials = match self.instances.get(&principal) {
            Some(instance) => Credentials::Certificate {
                principal: principal.clone(),
                instance: schemas::ids::Instance(*instance),
                serial: vec![],
            },
            None => {
                let token_hash = Hash::of(name.as_bytes());
                let expires_at = Timestamp(START + 1_000_000_000_000);
                let command =
                    AdminCommand::CreateToken { principal: principal.clone(), token_hash, expires_at };
                self.admin(command).unwrap();
                Credentials::Token { principal: principal.clone(), token_hash }
            }
        };
        let outputs = self.input(Input::Connect { connection, client: name.to_owned(), credentials });
        assert!(outputs.iter().any(|output| matches!(output, Output::Standing { result: Ok(_), .. })));
        self.connections.insert(principal, connection);
        self.input(Input::Subscribed { connection });
    }

    // ---- THE order ----

    /// One input, made durable, its outputs released.
    pub(crate) fn input(&mut self, input: Input) -> Vec<Output> {
        self.driver.handle(input, Timestamp(self.now));
        self.check();
        self.flush()
    }

    /// One input, decided and not durable.
    pub(crate) fn decide_only(&mut self, input: Input) {
        self.driver.handle(input, Timestamp(self.now));
    }

    pub(crate) fn flush(&mut self) -> Vec<Output> {
        self.driver.append().unwrap();
        if let Some(spare) = self.driver.spare_job() {
            self.driver.handle_spare(spare.run(&self.disk)).unwrap();
        }
        if let Some(point) = self.driver.sync_point() {
            self.driver.handle_synced(point.run(&self.disk)).unwrap();
        }
        let mut released = Vec::new();
        while let Some(output) = self.driver.poll_output() {
            if let Output::Bank(order) = &output {
                self.orders.push(order.clone());
            }
            if let Output::Feed { tenant, event } = &output {
                self.feed.push((tenant.clone(), event.clone()));
            }
            released.push(output);
        }
        released
    }

    pub(crate) fn check(&self) {
        if !self.checks_after_each_input {
            return;
        }
        let cloud = self.driver.cloud();
        cloud.check().unwrap();
        if !self.restores_after_each_input {
            return;
        }
        let bytes = cbor::encode(cloud);
        let mut again = Cloud::default();
        again.restore(Position::ZERO, &bytes).unwrap();
        assert_eq!(again, *cloud, "a snapshot restores to the same cloud");
    }

    /// Replaying the journal gives the equal cloud.
    pub(crate) fn check_replay(&self) {
        let mut again = Cloud::default();
        Journal::open(self.disk.fork(), limits(), chain(), &mut again).unwrap();
        assert_eq!(again, *self.driver.cloud(), "replay gives the same cloud");
    }

    /// The power fails; `seed` chooses what survives of unsynced writes. Connections are gone.
    pub(crate) fn crash(&mut self, seed: u64) {
        self.disk.crash(seed);
        self.restart();
    }

    pub(crate) fn restart(&mut self) {
        self.driver = Driver::open(self.disk.clone(), limits(), chain(), || Timestamp(self.now)).unwrap();
        self.driver.set_signing_key(signing_key("cloud"));
        self.connections.clear();
        self.check();
        self.flush();
    }

    // ---- time ----

    /// Time passes; everything that becomes due on the way happens when it is due.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(due) = self.driver.next_due().filter(|due| due.0 <= end) {
            self.now = self.now.max(due.0);
            self.input(Input::Tick);
        }
        self.now = end;
    }

    // ---- principals ----

    pub(crate) fn publish(
        &mut self,
        name: &str,
        kind: Kind,
        payload: Vec<u8>,
    ) -> (Result<(), PromiseRefusal>, Vec<Down>) {
        let connection = *self.connections.get(&who(name)).expect("connected");
        let proven = self.proven.take();
        let outputs = self.input(Input::Publish { connection, token: 9, kind, payload, proven });
        self.answers(outputs)
    }

    pub(crate) fn answers(&mut self, outputs: Vec<Output>) -> (Result<(), PromiseRefusal>, Vec<Down>) {
        let mut promise = None;
        let mut replies = Vec::new();
        for output in outputs {
            match output {
                Output::Promise { result, token: 9, .. } => promise = Some(result),
                Output::Reply { kind, payload, .. } => {
                    replies.push(Down::decode(kind, &payload).unwrap().body);
                }
                _ => {}
            }
        }
        (promise.expect("every PUBLISH is answered"), replies)
    }

    pub(crate) fn say(&mut self, name: &str, body: Up) -> Result<(), PromiseRefusal> {
        self.counter += 1;
        let id = MessageId::derived("test", &[&self.counter.to_be_bytes()]);
        let kind = body.kind();
        self.publish(name, kind, Envelope::message(id, body).encode()).0
    }

    /// A request with a key; answered by what is owed or replied.
    pub(crate) fn request(&mut self, name: &str, key: u8, body: Up) -> RequestAnswer {
        let not_after = Timestamp(self.now + 60_000);
        self.request_until(name, key, not_after, body).expect("answered")
    }

    pub(crate) fn request_until(
        &mut self,
        name: &str,
        key: u8,
        not_after: Timestamp,
        body: Up,
    ) -> Option<RequestAnswer> {
        let (promise, replies) = self.request_raw(name, key, not_after, body);
        promise.unwrap();
        let owed = self.fetch(name);
        let all = replies.into_iter().chain(owed);
        all.filter_map(|down| match down {
            Down::RequestAnswer(answer) if answer.key == IdempotencyKey([key; 16]) => Some(answer),
            _ => None,
        })
        .next_back()
    }

    pub(crate) fn request_raw(
        &mut self,
        name: &str,
        key: u8,
        not_after: Timestamp,
        body: Up,
    ) -> (Result<(), PromiseRefusal>, Vec<Down>) {
        let id = MessageId::derived("request", &[name.as_bytes(), &[key]]);
        let kind = body.kind();
        let payload = Envelope::request(id, IdempotencyKey([key; 16]), not_after, body).encode();
        self.publish(name, kind, payload)
    }

    /// Pulls and acknowledges everything owed.
    pub(crate) fn fetch(&mut self, name: &str) -> Vec<Down> {
        let mut got = Vec::new();
        for owed in self.owed(name) {
            let down = Down::decode(owed.kind, &owed.payload).unwrap();
            assert_eq!(down.id, owed.message);
            if let Down::ExecutorCommand(command) = &down.body {
                self.commands.insert((owed.message, command.command.to_string()));
            }
            got.push(down.body);
            self.acknowledge(name, owed.message, 0);
        }
        self.inbox.entry(who(name)).or_default().extend(got.clone());
        got
    }

    pub(crate) fn owed(&mut self, name: &str) -> Vec<OwedMessage> {
        let connection = *self.connections.get(&who(name)).expect("connected");
        let outputs = self.input(Input::Pull { connection, after: 0, max: usize::MAX });
        let owed = outputs.into_iter().find_map(|output| match output {
            Output::Owed { messages, .. } => Some(messages),
            _ => None,
        });
        owed.expect("every pull is answered")
    }

    pub(crate) fn acknowledge(&mut self, name: &str, message: MessageId, code: u8) {
        let connection = *self.connections.get(&who(name)).expect("connected");
        self.input(Input::Acknowledged { connection, message, code });
    }

    // ---- operators ----

    pub(crate) fn admin(&mut self, command: AdminCommand) -> AdminReply {
        let outputs = self.input(Input::Admin { ticket: 5, by: Some("uid 1000".into()), command });
        let reply = outputs.into_iter().find_map(|output| match output {
            Output::Admin { ticket: 5, reply } => Some(reply),
            _ => None,
        });
        reply.expect("every command is answered")
    }

    pub(crate) fn resolve(&mut self, payment: PaymentId, resolution: Resolution) -> Result<(), String> {
        self.admin(AdminCommand::ResolvePayment { payment, resolution })
            .map(|_| ())
            .map_err(|why| why.code.to_string())
    }

    pub(crate) fn exceptions(&mut self) -> Vec<String> {
        match self.admin(AdminCommand::ListExceptions).unwrap() {
            AdminAnswer::Exceptions(rows) => rows.into_iter().map(|row| row.case).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Posted and pending balance of an account, from its own point of view.
    pub(crate) fn account(&mut self, name: &str) -> AccountRow {
        match self.admin(AdminCommand::ListAccounts).unwrap() {
            AdminAnswer::Accounts(rows) => {
                rows.into_iter().find(|row| row.account == name).unwrap_or_else(|| panic!("no {name}"))
            }
            other => panic!("{other:?}"),
        }
    }

    /// What the merchant has earned, posted.
    pub(crate) fn merchant_minor(&mut self) -> i128 {
        self.balance("merchant/shop")
    }

    pub(crate) fn balance(&mut self, name: &str) -> i128 {
        let row = self.account(name);
        i128::from(row.credits_posted.minor) - i128::from(row.debits_posted.minor)
    }

    /// Nothing is reserved any more.
    pub(crate) fn nothing_pending(&mut self) -> bool {
        self.account("merchant/shop").credits_pending.minor == 0
    }

    /// What is in the tenant's holding account by our books.
    pub(crate) fn holding_minor(&mut self) -> i128 {
        if self.bank == BankKind::Internal { 0 } else { self.balance("holding") }
    }

    // ---- the bank ----

    /// The bank answers the latest call of this payment.
    pub(crate) fn bank(&mut self, payment: PaymentId, call: BankCallKind, answer: BankAnswer) {
        let key =
            self.calls(call).iter().rfind(|order| order.payment == payment).map_or([0; 16], BankOrder::key);
        self.input(Input::Bank { payment, call, key, answer });
    }

    pub(crate) fn calls(&self, call: BankCallKind) -> Vec<BankOrder> {
        self.orders.iter().filter(|order| order.call == call).cloned().collect()
    }

    pub(crate) fn keys(&self, call: BankCallKind) -> BTreeSet<[u8; 16]> {
        self.calls(call).iter().map(BankOrder::key).collect()
    }

    // ---- the flow, step by step ----

    pub(crate) fn information(&self, nonce: u8) -> PaymentInformation {
        PaymentInformation {
            chip: who("chip"),
            nonce: Nonce([nonce; 8]),
            issued_at: Timestamp(self.now / 1000 * 1000),
            expires_at: Timestamp(self.now / 1000 * 1000 + 120_000),
            payee: "shop".parse().unwrap(),
            amount: "EUR".parse::<schemas::money::Currency>().unwrap().minor(PRICE),
            item: "cola".parse().unwrap(),
            quantity: 1,
        }
    }

    pub(crate) fn signed(&self, information: &PaymentInformation) -> SignedBytes {
        information.sign(&signing_key("chip"))
    }

    pub(crate) fn pay_request(information: SignedBytes) -> Up {
        Up::PaymentRequest(PaymentRequest { information })
    }

    /// CP-2: until the health check is asked.
    pub(crate) fn begin(&mut self, payer: &str, nonce: u8) -> PaymentId {
        let information = self.information(nonce);
        self.begin_with(payer, nonce, &information)
    }

    pub(crate) fn begin_with(&mut self, payer: &str, key: u8, information: &PaymentInformation) -> PaymentId {
        let signed = self.signed(information);
        let answer = self.request(payer, key, Self::pay_request(signed));
        answer.payment.unwrap_or_else(|| panic!("{answer:?}"))
    }

    pub(crate) fn ready(&mut self, payment: PaymentId) {
        self.health(payment, HealthVerdict::Ready, None);
    }

    pub(crate) fn health(&mut self, payment: PaymentId, verdict: HealthVerdict, code: Option<&str>) {
        let code = code.map(|code| code.parse().unwrap());
        self.say("chip", Up::HealthCheck(HealthCheckAnswer { payment, verdict, code })).unwrap();
    }

    pub(crate) fn verification(&self, payer: &str, payment: PaymentId) -> Verification {
        let amount = self.driver.cloud().payment(payment).unwrap().amount;
        Verification {
            payer: who(payer),
            payment,
            payee: Text::new("The Shop"),
            amount,
            expires_at: Timestamp((self.now / 1000 + 60) * 1000),
        }
    }

    pub(crate) fn verify(&mut self, payer: &str, payment: PaymentId) {
        let said = self.verification(payer, payment).sign(&signing_key(payer));
        self.say(payer, Up::PaymentVerification(VerificationAnswer { verification: said })).unwrap();
    }

    /// Until the payer has verified.
    pub(crate) fn verified(&mut self, payer: &str, nonce: u8) -> PaymentId {
        let payment = self.begin(payer, nonce);
        self.ready(payment);
        self.verify(payer, payment);
        payment
    }

    /// Until the command exists (not yet fetched by the executor).
    pub(crate) fn commanded(&mut self, payer: &str, nonce: u8) -> PaymentId {
        let information = self.information(nonce);
        self.commanded_with(payer, nonce, &information)
    }

    pub(crate) fn commanded_with(
        &mut self,
        payer: &str,
        key: u8,
        information: &PaymentInformation,
    ) -> PaymentId {
        let payment = self.begin_with(payer, key, information);
        self.ready(payment);
        self.verify(payer, payment);
        if self.bank != BankKind::Internal {
            self.bank(payment, BankCallKind::Transfer, BankAnswer::Done);
        }
        assert_eq!(self.state(payment), PaymentState::Delivering);
        payment
    }

    /// The executor fetches its command.
    pub(crate) fn take_command(&mut self) -> ExecutorCommand {
        let got = self.fetch("vend");
        got.into_iter()
            .find_map(|down| match down {
                Down::ExecutorCommand(command) => Some(command),
                _ => None,
            })
            .expect("a command is owed")
    }

    pub(crate) fn report(&mut self, payment: PaymentId, outcome: Outcome, delivered: u32) {
        let command = self.driver.cloud().payment(payment).unwrap().command.clone().unwrap().id;
        let code = None;
        self.say("vend", Up::ExecutorCommand(ExecutorOutcome { command, outcome, delivered, code })).unwrap();
    }

    pub(crate) fn cancel(&mut self, payer: &str, key: u8, payment: PaymentId) -> RequestAnswer {
        self.request(payer, key, Up::PaymentCancel(PaymentCancel { payment }))
    }

    pub(crate) fn merchant_refund(&mut self, key: u8, payment: PaymentId) -> RequestAnswer {
        self.request("till", key, Up::PaymentRefund(PaymentRefund { payment }))
    }

    pub(crate) fn state(&self, payment: PaymentId) -> PaymentState {
        self.driver.cloud().payment(payment).unwrap().state()
    }

    pub(crate) fn reason(&self, payment: PaymentId) -> String {
        let payment = self.driver.cloud().payment(payment).unwrap();
        payment.reason.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// What a party was last told of a payment.
    pub(crate) fn told(&mut self, name: &str, payment: PaymentId) -> Option<PaymentStatus> {
        self.fetch(name);
        let heard = self.inbox.get(&who(name)).into_iter().flatten();
        heard
            .filter_map(|down| match down {
                Down::PaymentStatus(status) if status.payment == payment => Some(status.clone()),
                _ => None,
            })
            .next_back()
    }

    pub(crate) fn told_state(&mut self, name: &str, payment: PaymentId) -> Option<PaymentState> {
        self.told(name, payment).map(|status| status.state)
    }

    /// The end of every test: at rest, replayable.
    pub(crate) fn finish(&mut self) {
        assert_eq!(self.driver.cloud().open_payments(), 0, "everything is at rest");
        self.check_replay();
    }
}

/// Done outcome etc. in one word, for tables.
pub(crate) fn is_final(state: PaymentState) -> bool {
    !matches!(state, PaymentState::Held | PaymentState::RefundBlocked | PaymentState::Refunding)
}
