//! Commands to the executor: accept or refuse, begin, end, answer questions about them (CP-9).

use schemas::ids::{Code, CommandId, Instance, MessageId};
use schemas::message::{
    CommandProgress, CommandStatusAnswer, CommandStatusRequest, ExecutorCommand, Outcome,
};
use schemas::time::Timestamp;
use schemas_mutants::Mutant;

use super::{Context, Decision};
use crate::event::Event;
use crate::limits;
use crate::state::{CommandRecord, State};

/// What the hardware says of one act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HardwareResult {
    /// Everything was delivered.
    Done,
    /// So many units were delivered.
    DoneInPart {
        /// Units.
        delivered: u32,
    },
    /// It acted and delivered nothing.
    Failed {
        /// Why.
        code: Code,
    },
    /// It does not know.
    Unknown {
        /// Why.
        code: Code,
    },
}

impl HardwareResult {
    /// Outcome, delivered units and code, for an order of `quantity` units. "In part" is strictly between nothing
    /// and everything.
    fn parts(self, quantity: u32) -> (Outcome, u32, Option<Code>) {
        match self {
            HardwareResult::Done => (Outcome::Done, quantity, None),
            HardwareResult::DoneInPart { delivered: 0 } => {
                (Outcome::Failed, 0, Some(Code::known("nothing_delivered")))
            }
            HardwareResult::DoneInPart { delivered } if delivered >= quantity => {
                (Outcome::Done, quantity, None)
            }
            HardwareResult::DoneInPart { delivered } => (Outcome::DoneInPart, delivered, None),
            HardwareResult::Failed { code } => (Outcome::Failed, 0, Some(code)),
            HardwareResult::Unknown { code } => (Outcome::Unknown, 0, Some(code)),
        }
    }
}

/// What to do about the command at the head of the queue.
pub(crate) enum Start {
    Nothing,
    /// Cloud time is not known yet.
    WaitForClock,
    Refuse(Event),
    Act(ExecutorCommand),
}

impl State {
    pub(crate) fn decide_command(&self, context: &Context<'_>, command: &ExecutorCommand) -> Decision {
        if let Some(record) = self.commands.get(&command.command) {
            return self.decide_known_command(context, command, record);
        }
        if !context.journal_accepts || self.commands.len() >= limits::COMMANDS || !self.spool_has_reserve() {
            return Decision::Full;
        }
        let event = match self.refuse_new(context, command) {
            Some(code) => self.refusal(context, command.command, code),
            None => Event::CommandAccepted { command: command.clone() },
        };
        Decision::Record(vec![event])
    }

    /// Same id, same answer, never a second act.
    fn decide_known_command(
        &self,
        context: &Context<'_>,
        command: &ExecutorCommand,
        record: &CommandRecord,
    ) -> Decision {
        match record {
            CommandRecord::Accepted(_) | CommandRecord::Intent(_) => Decision::Record(vec![]),
            CommandRecord::Ended { outcome, delivered, code, .. } => {
                let report = context.reporter.outcome(command.command, *outcome, *delivered, code.clone());
                self.repeat(context, report)
            }
            CommandRecord::Tombstone { .. } if context.journal_accepts && self.spool_has_reserve() => {
                Decision::Record(vec![self.refusal(context, command.command, "tombstoned")])
            }
            CommandRecord::Tombstone { .. } => Decision::Full,
        }
    }

    /// The ladder of refusals, in this order.
    fn refuse_new(&self, context: &Context<'_>, command: &ExecutorCommand) -> Option<&'static str> {
        let Some(executor) = &context.profile.executor else { return Some("not_an_executor") };
        if command.instance != context.instance() {
            return Some("other_instance");
        }
        if context.set_up_mode {
            return Some("set_up_mode");
        }
        let Some(item) = context.profile.items.get(&command.item) else { return Some("unknown_item") };
        if command.quantity == 0 || command.quantity > item.quantity_max {
            return Some("quantity_over_limit");
        }
        if context.upper.is_some_and(|upper| upper > command.start_by) {
            return Some("too_late");
        }
        if context.conditions.executor_fault || context.hardware_silent {
            return Some("executor_fault");
        }
        if self.queue.len() >= executor.queue_max as usize {
            return Some("busy");
        }
        if !self.spool_has_room() {
            return Some("spool_full");
        }
        None
    }

    fn refusal(&self, context: &Context<'_>, command: CommandId, code: &'static str) -> Event {
        context.outcome(command, Outcome::Refused, 0, Some(Code::known(code)))
    }

    /// The last look before the intent: time may have passed in the queue.
    pub(crate) fn decide_start(&self, context: &Context<'_>, clock_wait_over: bool) -> Start {
        let Some(CommandRecord::Accepted(command)) = self.queue.front().and_then(|id| self.commands.get(id))
        else {
            return Start::Nothing;
        };
        let refuse = |code| Start::Refuse(self.refusal(context, command.command, code));
        if context.set_up_mode {
            return refuse("set_up_mode");
        }
        if command.instance != context.instance() {
            return refuse("other_instance");
        }
        let now = if Mutant::LowerBoundOfTime.is_active() { context.lower } else { context.upper };
        match now {
            None if clock_wait_over => refuse("clock_unknown"),
            None => Start::WaitForClock,
            Some(upper) if upper > command.start_by && !Mutant::StartByCheckedOnce.is_active() => {
                refuse("too_late")
            }
            Some(_) if context.conditions.executor_fault || context.hardware_silent => {
                refuse("executor_fault")
            }
            Some(_) => Start::Act(command.clone()),
        }
    }

    /// The outcome of an act. A second report for the same command is news only if the first was `unknown`.
    pub(crate) fn decide_hardware(
        &self,
        context: &Context<'_>,
        command: CommandId,
        result: HardwareResult,
    ) -> Option<Event> {
        match self.commands.get(&command)? {
            CommandRecord::Intent(accepted) => {
                let (outcome, delivered, code) = result.parts(accepted.quantity);
                Some(context.outcome(command, outcome, delivered, code))
            }
            _ => None,
        }
    }

    /// The hardware spoke after its command was given up as unknown. The truth goes to the cloud, which names it.
    pub(crate) fn decide_late(
        &self,
        context: &Context<'_>,
        command: CommandId,
        quantity: u32,
        result: HardwareResult,
    ) -> Option<Event> {
        let (outcome, delivered, code) = result.parts(quantity);
        let first = self.commands.get(&command)?;
        let news = matches!(first, CommandRecord::Ended { outcome: Outcome::Unknown, .. });
        if !news || outcome == Outcome::Unknown || !self.spool_has_reserve() {
            return None;
        }
        let report = context.reporter.outcome(command, outcome, delivered, code);
        Some(Event::LateOutcomeReported { command, outcome, report })
    }

    /// Intents that an earlier process left without an outcome: `unknown`, and never tried again.
    pub(crate) fn decide_recovered(&self, context: &Context<'_>) -> Vec<Event> {
        let failed = Mutant::InterruptedIsFailed.is_active();
        let interrupted = if failed { Outcome::Failed } else { Outcome::Unknown };
        self.queue
            .iter()
            .filter(|id| matches!(self.commands.get(id), Some(CommandRecord::Intent(_))))
            .map(|id| context.outcome(*id, interrupted, 0, Some(Code::known("interrupted"))))
            .collect()
    }

    pub(crate) fn decide_status(
        &self,
        context: &Context<'_>,
        question: MessageId,
        request: &CommandStatusRequest,
    ) -> Decision {
        let command = request.command;
        let answer =
            |progress| CommandStatusAnswer { command, progress, outcome: None, delivered: 0, code: None };
        let answer = match self.commands.get(&command) {
            None => {
                if !context.journal_accepts
                    || self.commands.len() >= limits::COMMANDS
                    || !self.spool_has_reserve()
                {
                    return Decision::Full;
                }
                let report = context.reporter.progress(question, answer(CommandProgress::NeverSeen));
                return Decision::Record(vec![Event::Tombstoned { command, at: context.upper, report }]);
            }
            Some(CommandRecord::Tombstone { .. }) => answer(CommandProgress::NeverSeen),
            Some(CommandRecord::Accepted(_) | CommandRecord::Intent(_)) => {
                answer(CommandProgress::IntentOpen)
            }
            Some(CommandRecord::Ended { outcome, delivered, code, .. }) => CommandStatusAnswer {
                command,
                progress: CommandProgress::Ended,
                outcome: Some(*outcome),
                delivered: *delivered,
                code: code.clone(),
            },
        };
        self.repeat(context, context.reporter.progress(question, answer))
    }
}

impl Context<'_> {
    fn instance(&self) -> Instance {
        self.reporter.instance
    }

    fn outcome(&self, command: CommandId, outcome: Outcome, delivered: u32, code: Option<Code>) -> Event {
        let report = self.reporter.outcome(command, outcome, delivered, code.clone());
        let at: Option<Timestamp> = self.upper;
        Event::OutcomeRecorded { command, outcome, delivered, code, at, report }
    }
}
