//! The running agent: one task owns the device and its journal. The order is
//! inputs -> events -> append -> sync -> outputs; whatever arrives during a sync is the next batch.

mod child;
mod storage;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use edge_agent_device::{
    CodeRequest, Delivery, Device, Event, Fix, HardwareResult, IssueRequest, Output, Settings, ShownCode,
    WishRequest,
};
use schemas::ids::{CommandId, Nonce, PaymentId};
use schemas::message::ChildAnswer;
use schemas_journal::{SnapshotError, SnapshotTaken};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::clock::{boot_ms, random};
use crate::code::Presenter;
use crate::connection::{Access, Connection, Endpoint, FromCloud};
use crate::driver::{Act, Driver};
use crate::local::{self, CodeList, PromptList, Refusal, Reply, Request};
use crate::panel::{Panel, PanelError, PanelSettings, Shown};
use crate::position;
use crate::renewal::{self, Renewal};
use crate::steps::{Step, pass};
pub(crate) use storage::{Storage, StorageError};

/// Inputs that wait for the owner.
const INPUTS: usize = 256;
/// Inputs of one batch.
const BATCH_INPUTS: usize = 64;
/// A connection that is not subscribed after this is given up.
const CONNECT_MS: u64 = 15_000;
/// An act that is going on at the end may take this long.
const STOP_MS: u64 = 20_000;

/// Everything that reaches the owner.
#[derive(Debug)]
pub(crate) enum Input {
    Cloud(FromCloud),
    Hardware {
        command: CommandId,
        result: HardwareResult,
    },
    Local(Request, oneshot::Sender<Reply>),
    /// At a display or a button.
    Child {
        payment: PaymentId,
        answer: ChildAnswer,
    },
    /// The child at the screen wants to pay with a code.
    AskForCode,
    /// Whether it is the child who said yes (PC-16).
    Identified {
        payment: PaymentId,
        is_child: bool,
    },
    /// Where the device is; none: nothing says so any more.
    Position(Option<Fix>),
    /// Somebody at the screen wants the agent to end.
    Quit,
    Snapshot(Result<SnapshotTaken, SnapshotError>),
    /// The certificate was renewed: the next connection is made with it.
    Renewed(Access),
}

/// What the agent runs with.
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    pub(crate) profile: edge_agent_device::Profile,
    pub(crate) driver: Driver,
    /// None: the profile asks nobody.
    pub(crate) panel: Option<PanelSettings>,
    pub(crate) endpoint: Endpoint,
    pub(crate) key: SigningKey,
    pub(crate) journal_directory: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) backoff_ms: (u64, u64),
    /// None: without a certificate, or without knowing where to renew it.
    pub(crate) renewal: Option<Renewal>,
    /// Told the cloud's time, so that certificates are judged by it.
    pub(crate) learn_time: Box<dyn Fn(schemas::time::Timestamp)>,
}

/// Why the agent ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Panel(#[from] PanelError),
    #[error(
        "the local socket {path} can't be made ({source}): check the data directory, and keep its path short"
    )]
    Socket { path: PathBuf, source: io::Error },
    #[error("the system has no random generator: {0}")]
    Random(#[from] getrandom::Error),
    #[error("signals can't be handled: {0}")]
    Signals(io::Error),
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(setup: Setup) -> Result<(), AgentError> {
    let (sender, receiver) = mpsc::channel(INPUTS);
    let mut agent = Agent::start(setup, sender)?;
    let ended = agent.serve(receiver).await;
    agent.finish().await;
    ended
}

struct Agent {
    device: Device,
    storage: Storage,
    driver: Driver,
    acting: Option<AbortHandle>,
    panel: Option<Panel>,
    shown: Option<Shown>,
    notice: Option<String>,
    /// The code to be seen or taken now.
    code: Option<ShownCode>,
    presenter: Presenter,
    identifying: Option<(PaymentId, AbortHandle)>,
    following: AbortHandle,
    endpoint: Endpoint,
    key: SigningKey,
    inputs: mpsc::Sender<Input>,
    connection: Option<Connection>,
    connections: u64,
    attempt_at_ms: u64,
    give_up_at_ms: Option<u64>,
    failures: u32,
    backoff_ms: (u64, u64),
    tickets: BTreeMap<u64, oneshot::Sender<Reply>>,
    next_ticket: u64,
    stopping: bool,
    socket: PathBuf,
    local: AbortHandle,
    renewing: Option<AbortHandle>,
    learn_time: Box<dyn Fn(schemas::time::Timestamp)>,
}

impl Agent {
    fn start(setup: Setup, inputs: mpsc::Sender<Input>) -> Result<Self, AgentError> {
        let (storage, recovered) = Storage::open(&setup.journal_directory)?;
        let listener = local::listen(&setup.socket)
            .map_err(|source| AgentError::Socket { path: setup.socket.clone(), source })?;
        let local = tokio::spawn(local::serve(listener, inputs.clone())).abort_handle();
        let renewing =
            setup.renewal.map(|renewal| tokio::spawn(renewal::keep(renewal, inputs.clone())).abort_handle());
        let now = boot_ms();
        let conditions = Driver::conditions(&setup.profile.driver);
        let mut device = Device::open(setup.settings, setup.profile, recovered, random()?, now);
        device.handle_conditions(conditions, now);
        device.handle_key(setup.key.clone());
        let following = position::follow(device.profile().position.clone(), inputs.clone());
        let following = tokio::spawn(following).abort_handle();
        let presenter = Presenter::open(&device.profile().code.display);
        // Last, since what goes wrong before it is said on the terminal.
        let panel = setup.panel.map(|panel| panel.start(&inputs)).transpose()?;
        Ok(Self {
            device,
            storage,
            driver: setup.driver,
            acting: None,
            panel,
            shown: None,
            notice: None,
            code: None,
            presenter,
            identifying: None,
            following,
            endpoint: setup.endpoint,
            key: setup.key,
            inputs,
            connection: None,
            connections: 0,
            attempt_at_ms: 0,
            give_up_at_ms: None,
            failures: 0,
            backoff_ms: setup.backoff_ms,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            stopping: false,
            socket: setup.socket,
            local,
            renewing,
            learn_time: setup.learn_time,
        })
    }

    async fn serve(&mut self, mut receiver: mpsc::Receiver<Input>) -> Result<(), AgentError> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
        let mut stop_at_ms = u64::MAX;
        tracing::info!(principal = %self.endpoint.principal, "ready");
        loop {
            self.commit()?;
            self.refresh_panel();
            if self.stopping && (!self.device.is_acting() || boot_ms() >= stop_at_ms) {
                return Ok(());
            }
            self.connect_when_due();
            // On a device without a clock of its own this is what its certificate is judged by.
            if let Some((lower, _)) = self.device.cloud_time(boot_ms()) {
                (self.learn_time)(lower);
            }
            let wake_at_ms = self.next_wake_ms().min(stop_at_ms);
            let wait = Duration::from_millis(wake_at_ms.saturating_sub(boot_ms()).min(60_000));
            tokio::select! {
                input = receiver.recv() => {
                    let mut next = input;
                    for _ in 0..BATCH_INPUTS {
                        let Some(input) = next else { break };
                        if matches!(input, Input::Quit) {
                            self.stop(&mut stop_at_ms);
                        }
                        self.handle(input)?;
                        next = receiver.try_recv().ok();
                    }
                }
                () = tokio::time::sleep(wait) => self.device.handle_tick(boot_ms()),
                _ = terminate.recv() => self.stop(&mut stop_at_ms),
                _ = interrupt.recv() => self.stop(&mut stop_at_ms),
            }
        }
    }

    fn stop(&mut self, stop_at_ms: &mut u64) {
        tracing::info!("stopping");
        self.stopping = true;
        self.device.handle_stopping();
        *stop_at_ms = boot_ms().saturating_add(STOP_MS);
    }

    async fn finish(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
        if let Some(acting) = self.acting.take() {
            acting.abort();
        }
        self.panel = None;
        self.presenter = Presenter::None;
        self.following.abort();
        if let Some((_, identifying)) = self.identifying.take() {
            identifying.abort();
        }
        self.local.abort();
        if let Some(renewing) = self.renewing.take() {
            renewing.abort();
        }
        // A leftover socket is harmless: the next start replaces it.
        let _ = std::fs::remove_file(&self.socket);
    }

    fn handle(&mut self, input: Input) -> Result<(), AgentError> {
        let now = boot_ms();
        match input {
            Input::Cloud(news) => self.handle_cloud(news, now),
            Input::Hardware { command, result } => {
                tracing::info!(%command, ?result, "the hardware came back");
                self.acting = None;
                self.device.handle_hardware(command, result, now);
            }
            Input::Local(request, reply) => self.handle_local(request, reply, now)?,
            // Ticket 0 is nobody's: a refusal is told on the screen.
            Input::Child { payment, answer } => _ = self.child_answers(0, payment, answer, now),
            Input::Identified { payment, is_child } => self.identified(payment, is_child, now),
            Input::AskForCode => self.ask_for_code(now),
            Input::Position(fix) => self.device.handle_position(fix, now),
            Input::Quit => {}
            Input::Snapshot(result) => self.storage.handle_snapshot(&result)?,
            Input::Renewed(access) => self.endpoint.access = access,
        }
        Ok(())
    }

    fn handle_cloud(&mut self, news: FromCloud, now: u64) {
        match news {
            // What arrives after the decision to stop gets no PUBACK and comes again.
            FromCloud::Message { .. } if self.stopping => {}
            FromCloud::Message { connection, token, kind, payload } => {
                pass(Step::MessageReceived);
                let delivery = token.map(|token| Delivery { connection, token });
                self.device.handle_message(delivery, &kind, &payload, now);
            }
            FromCloud::Connected { connection, window } if self.is_current(connection) => {
                tracing::info!(connection, "connected");
                self.failures = 0;
                self.give_up_at_ms = None;
                self.device.handle_connected(connection, window, now);
            }
            FromCloud::Published { connection, message, reason } => {
                self.device.handle_published(connection, message, reason, now);
            }
            FromCloud::Ended { connection, why } if self.is_current(connection) => {
                tracing::warn!(connection, why, "connection ended");
                self.disconnect(now);
            }
            FromCloud::Connected { .. } | FromCloud::Ended { .. } => {}
        }
    }

    fn is_current(&self, connection: u64) -> bool {
        self.connection.as_ref().is_some_and(|current| current.id == connection)
    }

    /// Drops the connection, if there is one, and plans the next attempt: exponential, with full jitter.
    fn disconnect(&mut self, now: u64) {
        if let Some(connection) = self.connection.take() {
            self.device.handle_disconnected(connection.id);
        }
        self.give_up_at_ms = None;
        let (least, most) = self.backoff_ms;
        let ceiling = least.saturating_mul(1 << self.failures.min(16)).clamp(1, most.max(1));
        let jitter = random::<8>().map_or(ceiling, |bytes| u64::from_le_bytes(bytes) % ceiling);
        self.attempt_at_ms = now.saturating_add(jitter.max(least.min(50)));
        self.failures = self.failures.saturating_add(1);
    }

    fn connect_when_due(&mut self) {
        let now = boot_ms();
        if self.give_up_at_ms.is_some_and(|at| now >= at) {
            tracing::warn!("the cloud does not answer");
            self.disconnect(now);
        }
        if self.connection.is_none() && !self.stopping && now >= self.attempt_at_ms {
            self.connections += 1;
            self.connection = Some(Connection::open(&self.endpoint, self.connections, &self.inputs));
            self.give_up_at_ms = Some(now.saturating_add(CONNECT_MS));
        }
    }

    fn next_wake_ms(&self) -> u64 {
        let attempt = self.connection.is_none().then_some(self.attempt_at_ms);
        [self.device.poll_timeout(), attempt, self.give_up_at_ms]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX)
    }

    fn handle_local(
        &mut self,
        request: Request,
        reply: oneshot::Sender<Reply>,
        now: u64,
    ) -> Result<(), AgentError> {
        let answer = match request {
            Request::Status => {
                let mut status = json!(self.device.status(now));
                status["running"] = json!(true);
                status["broker"] = json!(format!("{}:{}", self.endpoint.host, self.endpoint.port));
                status["process"] = json!(std::process::id());
                status["public_key"] = json!(schemas::signed::PublicKey::of(&self.key).to_string());
                Ok(status)
            }
            Request::Conditions { conditions } => {
                self.device.handle_conditions(conditions, now);
                Ok(json!({}))
            }
            Request::SetUp { on } => {
                self.device.handle_set_up_mode(on, now);
                Ok(json!({}))
            }
            Request::Prompts => {
                let (prompts, results) = (self.device.open_prompts(now), self.device.prompt_results());
                let (child, wishes) = (self.device.child_view().cloned(), self.device.wishes());
                Ok(json!(PromptList { prompts, results, child, wishes }))
            }
            Request::Wish { to, text } => {
                self.next_ticket += 1;
                self.tickets.insert(self.next_ticket, reply);
                self.device.handle_wish(&WishRequest { ticket: self.next_ticket, to, text }, now);
                return Ok(());
            }
            Request::WithdrawWish { wish } => {
                self.next_ticket += 1;
                self.tickets.insert(self.next_ticket, reply);
                self.device.handle_wish_withdraw(self.next_ticket, wish, now);
                return Ok(());
            }
            Request::AnswerPrompt { payment, answer } => {
                self.next_ticket += 1;
                if self.child_answers(self.next_ticket, payment, answer, now) {
                    self.tickets.insert(self.next_ticket, reply);
                    return Ok(());
                }
                // The caller does not wait for a finger.
                Ok(json!({ "payment": payment, "answer": answer, "identifying": true }))
            }
            Request::Codes => Ok(json!(CodeList {
                codes: self.device.open_codes(now),
                places: self.device.status(now).places,
                position: self.device.status(now).whereabouts,
            })),
            Request::ShowCode { payment } => {
                self.next_ticket += 1;
                self.tickets.insert(self.next_ticket, reply);
                let request = CodeRequest { ticket: self.next_ticket, payment };
                self.device.handle_code_request(&request, now);
                return Ok(());
            }
            Request::PayInfo { item, quantity, valid_ms } => {
                self.next_ticket += 1;
                self.tickets.insert(self.next_ticket, reply);
                let request = IssueRequest { ticket: self.next_ticket, item, quantity, valid_ms };
                self.device.handle_issue_request(&request, Nonce(random()?), &self.key, now);
                return Ok(());
            }
        };
        // The caller may have gone away.
        let _ = reply.send(answer);
        Ok(())
    }

    /// Appends, syncs and releases, until nothing is left to record.
    fn commit(&mut self) -> Result<(), AgentError> {
        if !self.storage.has_room() {
            self.storage.maintain(&self.inputs)?;
        }
        loop {
            self.device.handle_journal_room(self.storage.has_room());
            let events: Vec<Event> = std::iter::from_fn(|| self.device.poll_event()).collect();
            if !events.is_empty() {
                self.storage.append(&events)?;
                pass_all(&events, Step::InboxAppended, Step::IntentAppended, Step::OutcomeAppended);
                let position = self.storage.sync()?;
                pass_all(&events, Step::InboxSynced, Step::IntentSynced, Step::OutcomeSynced);
                self.device.handle_synced(position, boot_ms());
                self.storage.maintain(&self.inputs)?;
            }
            while let Some(output) = self.device.poll_output() {
                self.perform(output);
            }
            if events.is_empty() {
                return Ok(());
            }
        }
    }

    fn perform(&mut self, output: Output) {
        let current = self.connection.as_ref();
        let of = |id: u64| current.filter(|connection| connection.id == id);
        let sent = match output {
            Output::Acknowledge { delivery } => {
                of(delivery.connection).map(|connection| connection.acknowledge(delivery.token, 0))
            }
            Output::RefuseDelivery { delivery, reason } => {
                of(delivery.connection).map(|connection| connection.acknowledge(delivery.token, reason))
            }
            Output::Publish { connection, message, kind, payload } => {
                of(connection).map(|connection| connection.publish(message, kind, payload))
            }
            Output::Ask { connection, kind, payload } => {
                of(connection).map(|connection| connection.ask(kind, payload))
            }
            Output::Reconnect { connection } => of(connection).map(|_| Err(crate::connection::Unusable)),
            Output::Act { command, item, quantity } => {
                self.act(Act { command, item, quantity });
                None
            }
            Output::Issued { ticket, result } => {
                self.answer_ticket(ticket, result);
                None
            }
            Output::Prompt { shown } => {
                self.show_prompt(shown);
                None
            }
            Output::PromptAnswered { ticket, payment, answer, result } => {
                self.tell_answered(ticket, payment, answer, result);
                None
            }
            Output::WishMade { ticket, result } => {
                self.answer_wish(ticket, result);
                None
            }
            Output::Code { shown } => {
                self.show_code(shown);
                None
            }
            Output::CodeAnswered { ticket, payment, result } => {
                self.tell_code(ticket, payment, result);
                None
            }
            Output::Show { status } => {
                tracing::info!(payment = %status.payment, state = %status.state, text = %status.text, "payment");
                None
            }
        };
        if let Some(Err(_)) = sent {
            tracing::warn!("the connection is of no more use: connecting anew");
            self.disconnect(boot_ms());
        }
    }

    fn act(&mut self, act: Act) {
        tracing::info!(command = %act.command, item = %act.item, quantity = act.quantity, "acting");
        let (driver, inputs, command) = (self.driver.clone(), self.inputs.clone(), act.command);
        let task = tokio::spawn(async move {
            let result = driver.act(act).await;
            let _ = inputs.send(Input::Hardware { command, result }).await;
        });
        self.acting = Some(task.abort_handle());
    }

    fn answer_ticket(
        &mut self,
        ticket: u64,
        result: Result<edge_agent_device::Issued, edge_agent_device::IssueRefusal>,
    ) {
        let Some(reply) = self.tickets.remove(&ticket) else { return };
        let answer = match result {
            Ok(issued) => Ok(json!({
                "information": issued.signed,
                "payee": issued.information.payee,
                "amount": issued.information.amount,
                "item": issued.information.item,
                "quantity": issued.information.quantity,
                "expires_at": issued.information.expires_at,
            })),
            Err(refusal) => Err(Refusal { code: refusal.code().to_owned(), text: refusal.to_string() }),
        };
        // The caller may have gone away; the information then expires unused.
        let _ = reply.send(answer);
    }
}

fn pass_all(events: &[Event], inbox: Step, intent: Step, outcome: Step) {
    for event in events {
        match event {
            Event::CommandAccepted { .. }
            | Event::CheckAccepted { .. }
            | Event::CheckAnswered { .. }
            | Event::PromptAccepted { .. }
            | Event::CodeAccepted { .. } => pass(inbox),
            Event::IntentRecorded { .. } => pass(intent),
            Event::OutcomeRecorded { .. } | Event::PromptAnswered { .. } | Event::WishMade { .. } => {
                pass(outcome)
            }
            _ => {}
        }
    }
}
