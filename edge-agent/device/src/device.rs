//! The device: inputs in, events and outputs out. Every output carries the position that it was computed from.

mod code;
mod link;
mod prompt;
mod self_report;
mod wish;

use std::collections::VecDeque;

use ed25519_dalek::SigningKey;
use schemas::cbor::CborError;
use schemas::ids::{CommandId, Instance, MessageId, Nonce, Principal};
use schemas::message::Down;
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas_journal::{Fold, Position};
use schemas_mutants::Mutant;

use crate::clock::Clock;
use crate::decide::{Conditions, Context, Decision, HardwareResult, IssueRequest, Poison, Start};
use crate::event::Event;
use crate::output::{Delivery, Output};
use crate::profile::Profile;
use crate::report::Reporter;
use crate::state::{CommandRecord, State};
use crate::status::{OpenCommand, Status};
pub use code::Fix;
use code::Presenting;
use link::Link;
use prompt::Showing;
use self_report::SelfReport;

/// PUBACK reason code "quota exceeded": send it again later.
const QUOTA_EXCEEDED: u8 = 0x97;
/// A driver that keeps to the profile's longest act answers within this much more, in milliseconds.
const HARDWARE_GRACE_MS: u64 = 2_000;

/// What a device is told once, at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who it is.
    pub principal: Principal,
    /// Which enrolment of it.
    pub instance: Instance,
    /// Bound of the boot-time clock's error, in parts per million.
    pub drift_ppm: u32,
    /// How long a command or health check waits for cloud time on a new connection, in milliseconds. 0: not at all.
    pub clock_wait_ms: u64,
    /// Cloud time is asked for again after this, in milliseconds.
    pub clock_refresh_ms: u64,
    /// No PUBACK in this time means close and reconnect, in milliseconds.
    pub acknowledge_ms: u64,
    /// A message that the cloud had no quota for is sent again after this, in milliseconds; then after twice that, up to
    /// [`crate::limits::QUOTA_RETRY_TIMES`] times that.
    pub quota_retry_ms: u64,
}

impl Settings {
    /// The defaults for a device.
    pub fn of(principal: Principal, instance: Instance) -> Self {
        Self {
            principal,
            instance,
            drift_ppm: 200,
            clock_wait_ms: 10_000,
            clock_refresh_ms: 600_000,
            acknowledge_ms: 30_000,
            quota_retry_ms: 5_000,
        }
    }
}

/// A state that recovery rebuilds from the journal.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The state.
    pub state: State,
    /// After how many records.
    pub position: Position,
}

impl Fold for Recovered {
    type Error = CborError;

    fn restore(&mut self, position: Position, snapshot: &[u8]) -> Result<(), CborError> {
        *self = Self { state: State::restore(snapshot)?, position };
        Ok(())
    }

    fn apply(&mut self, position: Position, record: &[u8]) -> Result<(), CborError> {
        self.state.evolve(&Event::decode(record)?);
        self.position = position;
        Ok(())
    }
}

/// The hardware is acting, or should be.
#[derive(Debug)]
struct Acting {
    command: CommandId,
    quantity: u32,
    give_up_boot_ms: u64,
    given_up: bool,
}

/// One device. Times are milliseconds of a clock that runs on through suspend and never steps (CLOCK_BOOTTIME).
#[derive(Debug)]
pub struct Device {
    settings: Settings,
    profile: Profile,
    reporter: Reporter,
    state: State,
    position: Position,
    synced: Position,
    unrecorded: VecDeque<Event>,
    outputs: VecDeque<(Position, Output)>,
    clock: Clock,
    link: Option<Link>,
    self_report: SelfReport,
    conditions: Conditions,
    acting: Option<Acting>,
    /// Accepted, and perhaps not on disk yet: these do not begin.
    accepting: VecDeque<(Position, CommandId)>,
    showing: Showing,
    presenting: Presenting,
    key: Option<SigningKey>,
    fix: Option<Fix>,
    set_up_mode: bool,
    stopping: bool,
    journal_accepts: bool,
}

impl Device {
    /// Starts from what recovery found, all of which is on disk. `seed` is random, new for every start.
    pub fn open(
        settings: Settings,
        profile: Profile,
        recovered: Recovered,
        seed: [u8; 16],
        now_boot_ms: u64,
    ) -> Self {
        let reporter = Reporter { principal: settings.principal.clone(), instance: settings.instance };
        let clock = Clock::new(settings.drift_ppm, settings.clock_refresh_ms, seed);
        let mut device = Self {
            settings,
            profile,
            reporter,
            state: recovered.state,
            position: recovered.position,
            synced: recovered.position,
            unrecorded: VecDeque::new(),
            outputs: VecDeque::new(),
            clock,
            link: None,
            self_report: SelfReport::new(seed, now_boot_ms),
            conditions: Conditions::default(),
            acting: None,
            accepting: VecDeque::new(),
            showing: Showing::default(),
            presenting: Presenting::new(seed),
            key: None,
            fix: None,
            set_up_mode: false,
            stopping: false,
            journal_accepts: true,
        };
        let interrupted = device.state.decide_recovered(&device.context(now_boot_ms));
        device.record(interrupted);
        device.end_late_codes(now_boot_ms);
        device
    }

    // ---- inputs

    /// A message came on `down/{kind}`. QoS 0 has no `delivery` and gets no PUBACK.
    pub fn handle_message(
        &mut self,
        delivery: Option<Delivery>,
        kind: &str,
        payload: &[u8],
        now_boot_ms: u64,
    ) {
        let decision = self.decide_message(kind, payload, now_boot_ms);
        let answer = match decision {
            Decision::Record(events) => {
                self.record(events);
                delivery.map(|delivery| Output::Acknowledge { delivery })
            }
            Decision::Full => {
                delivery.map(|delivery| Output::RefuseDelivery { delivery, reason: QUOTA_EXCEEDED })
            }
        };
        if let Some(answer) = answer {
            self.output(answer);
            if Mutant::AcknowledgedUnsynced.is_active() {
                self.hurry();
            }
        }
        self.advance(now_boot_ms);
    }

    /// A connection is up and `down/` is subscribed. `window`: the cloud's Receive Maximum.
    pub fn handle_connected(&mut self, connection: u64, window: u16, now_boot_ms: u64) {
        // The cloud may deliver before it confirms the subscription: answers on this connection stay.
        self.clear_link_outputs(Some(connection));
        self.link = Some(Link::new(connection, window, now_boot_ms));
        self.clock.ask_anew();
        self.self_report.tell_anew();
        self.presenting.ask_anew();
        self.advance(now_boot_ms);
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self, connection: u64) {
        if self.link.as_ref().is_some_and(|link| link.connection == connection) {
            self.link = None;
            self.clear_link_outputs(None);
        }
    }

    /// PUBACK for a message of the spool. A late one of an old connection changes nothing.
    pub fn handle_published(&mut self, connection: u64, message: MessageId, reason: u8, now_boot_ms: u64) {
        let retry_boot_ms = now_boot_ms.saturating_add(self.settings.quota_retry_ms);
        let Some(link) = self.link.as_mut().filter(|link| link.connection == connection) else { return };
        if let Some(sent) = link.settle(&message) {
            let quota = (reason == QUOTA_EXCEEDED).then_some(retry_boot_ms);
            match reason {
                // A cloud that wants no reports gets the next one all the same: it costs little and blocks nothing.
                _ if self.self_report.settle(message, quota) => {}
                0..0x80 => self.record([Event::SpoolCleared { message }]),
                QUOTA_EXCEEDED => link.postpone(message, &sent, self.settings.quota_retry_ms, now_boot_ms),
                _ => self.bury(message, reason, sent.refused),
            }
        }
        self.advance(now_boot_ms);
    }

    /// The hardware came back from an act.
    pub fn handle_hardware(&mut self, command: CommandId, result: HardwareResult, now_boot_ms: u64) {
        let Some(acting) = self.acting.take_if(|acting| acting.command == command) else { return };
        let context = self.context(now_boot_ms);
        let event = if acting.given_up {
            self.state.decide_late(&context, command, acting.quantity, result)
        } else {
            self.state.decide_hardware(&context, command, result)
        };
        self.record(event);
        self.advance(now_boot_ms);
    }

    /// The machine's conditions, whole.
    pub fn handle_conditions(&mut self, conditions: Conditions, now_boot_ms: u64) {
        self.conditions = conditions;
        self.advance(now_boot_ms);
    }

    /// Time has passed.
    pub fn handle_tick(&mut self, now_boot_ms: u64) {
        self.advance(now_boot_ms);
    }

    /// Set-up begins or ends (CP-14): no payment information and no act meanwhile.
    pub fn handle_set_up_mode(&mut self, on: bool, now_boot_ms: u64) {
        self.set_up_mode = on;
        self.advance(now_boot_ms);
    }

    /// The process is about to end: nothing new begins.
    pub fn handle_stopping(&mut self) {
        self.stopping = true;
    }

    /// Whether the journal takes new work, or only the end of what is open.
    pub fn handle_journal_room(&mut self, accepts: bool) {
        self.journal_accepts = accepts;
    }

    /// Issue a payment information (CP-1). `nonce` is random; the answer is an [`Output::Issued`].
    pub fn handle_issue_request(
        &mut self,
        request: &IssueRequest,
        nonce: Nonce,
        key: &SigningKey,
        now_boot_ms: u64,
    ) {
        self.advance(now_boot_ms);
        let decided = self.state.decide_issue(&self.context(now_boot_ms), request, nonce, key);
        let result = decided.map(|(event, issued)| {
            self.record([event]);
            issued
        });
        self.output(Output::Issued { ticket: request.ticket, result });
    }

    /// Everything up to `position` is on disk. Release the outputs before appending the next events.
    pub fn handle_synced(&mut self, position: Position, now_boot_ms: u64) {
        self.synced = self.synced.max(position);
        while self.accepting.front().is_some_and(|(accepted, _)| *accepted <= self.synced) {
            self.accepting.pop_front();
        }
        self.showing.handle_synced(self.synced);
        self.presenting.handle_synced(self.synced);
        self.advance(now_boot_ms);
    }

    // ---- results

    /// The next event to journal, one record each, in order. [`Device::position`] counts them.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.unrecorded.pop_front()
    }

    /// The next effect whose position is synced.
    pub fn poll_output(&mut self) -> Option<Output> {
        let (position, _) = self.outputs.front()?;
        if *position > self.synced {
            return None;
        }
        self.outputs.pop_front().map(|(_, output)| output)
    }

    /// When [`Device::handle_tick`] has something to do, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<u64> {
        let link = self.link.as_ref();
        let waits_for_clock = !self.stopping
            && self.clock.upper(0).is_none()
            && (!self.state.queue.is_empty() || self.state.waiting_checks().next().is_some());
        [
            link.map(|_| self.clock.next_question_boot_ms()),
            link.and_then(|link| link.next_deadline_boot_ms(self.settings.acknowledge_ms)),
            link.filter(|link| link.has_room()).and_then(|_| self.next_report_boot_ms()),
            link.filter(|_| waits_for_clock)
                .map(|link| link.connected_boot_ms.saturating_add(self.settings.clock_wait_ms)),
            self.acting.as_ref().filter(|acting| !acting.given_up).map(|acting| acting.give_up_boot_ms),
            self.next_prompt_end_boot_ms(),
            self.next_code_end_boot_ms(),
            link.and_then(|_| self.next_places_question_boot_ms()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Records of this device so far, unsynced and unrecorded ones included.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What is remembered. For a snapshot use [`State::snapshot`] at a position where nothing is unrecorded.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The profile it works by.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The cloud's time is between these two; unknown until the cloud told it.
    pub fn cloud_time(&self, now_boot_ms: u64) -> Option<(Timestamp, Timestamp)> {
        Some((self.clock.lower(now_boot_ms)?, self.clock.upper(now_boot_ms)?))
    }

    /// There is a connection to the cloud.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// An act is going on.
    pub fn is_acting(&self) -> bool {
        self.acting.as_ref().is_some_and(|acting| !acting.given_up)
    }

    /// For people.
    pub fn status(&self, now_boot_ms: u64) -> Status {
        let state = &self.state;
        Status {
            principal: self.settings.principal.to_string(),
            instance: self.settings.instance.0,
            profile: self.profile.name.clone(),
            connected: self.link.is_some(),
            cloud_time: self.clock.upper(now_boot_ms),
            spool_depth: state.spool.len(),
            in_flight: self.link.as_ref().map_or(0, Link::in_flight),
            open_commands: state.queue.iter().filter_map(|id| open_command(state, *id)).collect(),
            remembered_commands: state.ended.len(),
            issued_informations: state.informations.len(),
            dead_letters: state.dead_letters.iter().cloned().collect(),
            dead_letters_total: state.dead_letters_total,
            payments: state.payment_states.iter().copied().collect(),
            open_prompts: self.open_prompts(now_boot_ms),
            prompt_results: self.prompt_results(),
            child_view: state.child_view.clone(),
            open_codes: self.open_codes(now_boot_ms),
            places: self.places_status(),
            whereabouts: self.position_status(now_boot_ms),
            wishes: self.wishes(),
            hardware_silent: self.hardware_silent(),
            journal_full: !self.journal_accepts,
            position: self.position.value(),
            synced: self.synced.value(),
        }
    }

    // ---- inside

    fn context(&self, now_boot_ms: u64) -> Context<'_> {
        Context {
            profile: &self.profile,
            reporter: &self.reporter,
            conditions: &self.conditions,
            upper: self.clock.upper(now_boot_ms),
            lower: self.clock.lower(now_boot_ms),
            whereabouts: self.whereabouts(now_boot_ms),
            set_up_mode: self.set_up_mode,
            journal_accepts: self.journal_accepts,
            hardware_silent: self.hardware_silent(),
        }
    }

    fn hardware_silent(&self) -> bool {
        self.acting.as_ref().is_some_and(|acting| acting.given_up)
    }

    fn record(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.state.evolve(&event);
            self.position = Position::new(self.position.value() + 1);
            if let Event::CommandAccepted { command } = &event {
                self.accepting.push_back((self.position, command.command));
            }
            self.showing.handle_event(&event, self.position);
            self.presenting.handle_event(&event, self.position);
            self.unrecorded.push_back(event);
        }
    }

    /// Held back until the state that it was computed from is on disk. Positions only grow, so the order stays.
    fn output(&mut self, output: Output) {
        self.outputs.push_back((self.position, output));
    }

    /// A deliberate fault: the last output waits for nothing.
    fn hurry(&mut self) {
        if let Some((_, output)) = self.outputs.pop_back() {
            self.outputs.push_front((Position::ZERO, output));
        }
    }

    fn decide_message(&mut self, kind: &str, payload: &[u8], now_boot_ms: u64) -> Decision {
        let clock_wait_over = self.clock_wait_over(now_boot_ms);
        let decoded = kind
            .parse::<Kind>()
            .map_err(|_| Poison::Kind)
            .and_then(|kind| Down::decode(kind, payload).map_err(Poison::Content));
        let envelope = match decoded {
            Ok(envelope) => envelope,
            Err(why) => return self.state.decide_poison(&self.context(now_boot_ms), kind, payload, &why),
        };
        if self.state.has_refused(envelope.id) {
            return Decision::Record(vec![]);
        }
        // What becomes of it says its PUBACK (correctness.md 9).
        if let (Down::Refused(refused), Some(link)) = (&envelope.body, self.link.as_mut())
            && link.refused(refused)
        {
            return Decision::Record(vec![]);
        }
        let context = self.context(now_boot_ms);
        match envelope.body {
            Down::ExecutorCommand(command) => self.state.decide_command(&context, &command),
            Down::CommandStatus(request) => self.state.decide_status(&context, envelope.id, &request),
            Down::HealthCheck(check) => self.state.decide_check(&context, &check, clock_wait_over),
            Down::Refused(refused) => self.state.decide_refused(&context, &refused),
            Down::CloudTime(answer) => {
                self.clock.handle_answer(&answer, now_boot_ms);
                Decision::Record(vec![])
            }
            Down::PaymentStatus(status) => {
                let decision = match &self.profile.prompt {
                    Some(_) => self.state.decide_payment_result(&context, &status),
                    None => self.state.decide_payment_state(&context, &status),
                };
                if matches!(&decision, Decision::Record(events) if !events.is_empty()) {
                    // A display promises nothing, so it need not wait for the record.
                    self.output(Output::Show { status });
                }
                decision
            }
            Down::PaymentPrompt(prompt) => match &self.profile.prompt {
                Some(rules) => self.state.decide_prompt(&context, rules.queue_max, &prompt),
                None => self.state.decide_poison(&context, kind, payload, &Poison::Unexpected),
            },
            Down::ChildView(view) => match &self.profile.prompt {
                Some(_) => self.state.decide_child_view(&context, &view),
                None => self.state.decide_poison(&context, kind, payload, &Poison::Unexpected),
            },
            Down::PaymentCode(code) => {
                let decided = match &self.profile.prompt {
                    Some(_) => self.state.decide_code(&context, &code),
                    None => Err(Poison::Unexpected),
                };
                let decision =
                    decided.unwrap_or_else(|why| self.state.decide_poison(&context, kind, payload, &why));
                self.ask_for_newer_places(&code);
                decision
            }
            Down::Places(answer) if self.profile.prompt.is_some() => {
                self.learn_places(&answer, now_boot_ms);
                Decision::Record(vec![])
            }
            // Somebody scanned with this device's identity, and is gone before the answer came.
            Down::RequestAnswer(_) => Decision::Record(vec![]),
            Down::Places(_) | Down::PaymentVerification(_) | Down::Wish(_) | Down::PaySuggestion(_) => {
                self.state.decide_poison(&context, kind, payload, &Poison::Unexpected)
            }
        }
    }

    fn clock_wait_over(&self, now_boot_ms: u64) -> bool {
        self.settings.clock_wait_ms == 0
            || self.link.as_ref().is_some_and(|link| {
                now_boot_ms >= link.connected_boot_ms.saturating_add(self.settings.clock_wait_ms)
            })
    }

    /// Whatever may go on now that something has changed.
    fn advance(&mut self, now_boot_ms: u64) {
        self.give_up_silent_hardware(now_boot_ms);
        self.answer_waiting_checks(now_boot_ms);
        self.begin_commands(now_boot_ms);
        self.end_late_prompts(now_boot_ms);
        self.show_prompt(now_boot_ms);
        self.end_late_codes(now_boot_ms);
        self.show_code(now_boot_ms);
        let forgotten = self.state.decide_forget(&self.context(now_boot_ms));
        self.record(forgotten);
        self.send(now_boot_ms);
    }

    fn give_up_silent_hardware(&mut self, now_boot_ms: u64) {
        let Some(acting) =
            self.acting.as_mut().filter(|acting| !acting.given_up && now_boot_ms >= acting.give_up_boot_ms)
        else {
            return;
        };
        acting.given_up = true;
        let command = acting.command;
        let silent = HardwareResult::Unknown { code: schemas::ids::Code::known("hardware_silent") };
        let event = self.state.decide_hardware(&self.context(now_boot_ms), command, silent);
        self.record(event);
    }

    fn answer_waiting_checks(&mut self, now_boot_ms: u64) {
        if self.clock.upper(now_boot_ms).is_none() && !self.clock_wait_over(now_boot_ms) {
            return;
        }
        let waiting: Vec<_> = self.state.waiting_checks().collect();
        for answer in waiting {
            let event = self.state.decide_waiting_check(&self.context(now_boot_ms), answer);
            self.record(event);
        }
    }

    fn begin_commands(&mut self, now_boot_ms: u64) {
        let clock_wait_over = self.clock_wait_over(now_boot_ms);
        while !self.stopping && !self.is_acting() {
            match self.state.decide_start(&self.context(now_boot_ms), clock_wait_over) {
                Start::Nothing | Start::WaitForClock => return,
                Start::Act(command) if self.accepting.iter().any(|(_, id)| *id == command.command) => return,
                Start::Refuse(event) => self.record([event]),
                Start::Act(command) => {
                    let longest_act_ms =
                        self.profile.executor.as_ref().map_or(0, |executor| executor.longest_act_ms);
                    self.record([Event::IntentRecorded { command: command.command }]);
                    self.acting = Some(Acting {
                        command: command.command,
                        quantity: command.quantity,
                        give_up_boot_ms: now_boot_ms
                            .saturating_add(longest_act_ms)
                            .saturating_add(HARDWARE_GRACE_MS),
                        given_up: false,
                    });
                    self.output(Output::Act {
                        command: command.command,
                        item: command.item,
                        quantity: command.quantity,
                    });
                    if Mutant::ActBeforeIntentSynced.is_active() {
                        self.hurry();
                    }
                }
            }
        }
    }
}

fn open_command(state: &State, id: CommandId) -> Option<OpenCommand> {
    let (command, begun) = match state.commands.get(&id)? {
        CommandRecord::Accepted(command) => (command, false),
        CommandRecord::Intent(command) => (command, true),
        _ => return None,
    };
    Some(OpenCommand {
        command: id,
        item: command.item.clone(),
        quantity: command.quantity,
        begun,
        start_by: command.start_by,
    })
}
