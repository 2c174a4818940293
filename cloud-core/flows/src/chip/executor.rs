//! The steps with the executor (CP-8 to CP-13, CP-18): one command, at most one act, one verdict.

use schemas::ids::{Code, CommandId, Hash, MessageId, Principal};
use schemas::message::{
    CommandProgress, CommandStatusAnswer, CommandStatusRequest, Down, ExecutorCommand, ExecutorOutcome,
    Outcome, PaymentState,
};
use schemas::topic::Kind;
use schemas_mutants::Mutant;

use super::ChipFlow;
use crate::admin::{BankKind, OnUnknown};
use crate::books::Legs;
use crate::event::Event;
use crate::exceptions::Case;
use crate::limits;
use crate::payment::{ChipPayment, Command, Phase, RefundEnd};
use crate::registry::{Device, Standing};
use crate::rejection::Rejection;
use crate::tell::{Audience, News};

impl ChipFlow<'_> {
    /// CP-8: after, and only after, the bank's success.
    pub(super) fn command(&mut self, payment: &ChipPayment, paid_minor: u64) {
        let Some((executor, device)) = self.usable_executor(payment) else { return };
        let command = self.new_command(payment, device);
        let body = Down::ExecutorCommand(ExecutorCommand {
            command: command.id,
            payment: payment.id,
            instance: command.instance,
            item: payment.item.clone(),
            quantity: payment.quantity,
            start_by: command.start_by,
        });
        let settle_at = command.settle_at;
        self.out.event(Event::CommandIssued { payment: payment.id, command: command.clone() });
        self.move_to(payment, Phase::Commanded, paid_minor, None);
        self.out.owe(self.cloud, &executor, Command::message(command.id), body, settle_at);
        let news = News { state: PaymentState::Delivering, paid_minor, delivered: 0, reason: None };
        self.out.tell(self.cloud, payment, &news, Audience::Payer, self.now);
    }

    /// The executor of the payment, if it may still be told anything.
    pub(super) fn usable_executor(&self, payment: &ChipPayment) -> Option<(Principal, &Device)> {
        let executor = payment.executor.clone()?;
        let device = self.cloud.registry.device(&executor)?;
        (device.standing != Standing::Revoked).then_some((executor, device))
    }

    fn new_command(&self, payment: &ChipPayment, device: &Device) -> Command {
        let deadlines = self.deadlines(payment);
        // After a start of ours the executor needs time to come back before it can begin (correctness.md 15).
        let reconnected = self.cloud.opened_at().plus_ms(deadlines.reconnect_ms);
        let start_by = self.now.plus_ms(deadlines.start_ms).max(reconnected);
        let settle_at = start_by.plus_ms(device.longest_act_ms).plus_ms(deadlines.report_ms);
        Command {
            id: CommandId::derived("command", &[&payment.id.0, &device.instance.0.to_be_bytes()]),
            instance: device.instance,
            start_by,
            settle_at,
        }
    }

    /// CP-10, CP-11: an executor's outcome, however late or often it comes.
    pub(crate) fn outcome(&mut self, from: &Principal, said: &ExecutorOutcome) -> Result<(), Rejection> {
        let Some(payment) = self.cloud.payment_of_command(said.command) else {
            return self.raise_without_payment(from, said.command);
        };
        if payment.executor.as_ref() != Some(from) {
            return Err(not_your_command());
        }
        if self.is_evidence(payment, said.outcome) {
            self.outcome_known(payment, said.outcome, said.delivered, said.code.clone());
        }
        Ok(())
    }

    /// A command binds to an instance (correctness.md 20): that a device which was enrolled anew has not acted says
    /// nothing of what its predecessor did.
    fn is_evidence(&self, payment: &ChipPayment, outcome: Outcome) -> bool {
        let device = payment.executor.as_ref().and_then(|executor| self.cloud.registry.device(executor));
        let commanded = payment.command.as_ref().map(|command| command.instance);
        let anybody = Mutant::OtherInstanceCounts.is_active();
        anybody || outcome != Outcome::Refused || device.map(|device| device.instance) == commanded
    }

    fn raise_without_payment(&mut self, from: &Principal, command: CommandId) -> Result<(), Rejection> {
        let about = Hash::of(&command.0);
        if !self.cloud.exceptions.contains(about, Case::OutcomeWithoutPayment) {
            if self.cloud.exceptions.count() >= limits::EXCEPTIONS {
                return Err(Rejection::new(
                    "queue_full",
                    "the operators' queue is full: send it again later",
                ));
            }
            let text = format!(
                "{from} reports an outcome of command {command}, whose payment is not in memory; resolve it by the command's id"
            );
            let case = Case::OutcomeWithoutPayment;
            self.out.event(Event::ExceptionRaised { payment: None, about, case, text });
        }
        Ok(())
    }

    /// The answer to `command-status`.
    pub(crate) fn command_status(
        &mut self,
        from: &Principal,
        said: &CommandStatusAnswer,
    ) -> Result<(), Rejection> {
        let Some(payment) = self.cloud.payment_of_command(said.command) else { return Ok(()) };
        if payment.executor.as_ref() != Some(from) {
            return Err(not_your_command());
        }
        match (said.progress, said.outcome) {
            (CommandProgress::NeverSeen, _) | (CommandProgress::Ended, Some(Outcome::Refused))
                if !self.is_evidence(payment, Outcome::Refused) => {}
            (CommandProgress::Ended, Some(outcome)) => {
                self.outcome_known(payment, outcome, said.delivered, said.code.clone());
            }
            // From now on it refuses the command: nothing was done and nothing will be.
            (CommandProgress::NeverSeen, _) => {
                self.outcome_known(payment, Outcome::Refused, 0, Some(Code::known("never_seen")));
            }
            // Still at it; the deadline decides.
            (CommandProgress::IntentOpen | CommandProgress::Ended, _) => {}
        }
        Ok(())
    }

    /// A device could not accept the message that carried a command: it did not act (correctness.md 10).
    pub(crate) fn command_not_accepted(&mut self, from: &Principal, message: MessageId) {
        let payment = self.cloud.payment_of_command_message(message);
        if let Some(payment) = payment.filter(|payment| payment.executor.as_ref() == Some(from)) {
            self.outcome_known(payment, Outcome::Refused, 0, Some(Code::known("not_accepted")));
        }
    }

    /// Before silence becomes a verdict the executor is asked once more (correctness.md 15).
    pub(super) fn ask_executor(&mut self, payment: &ChipPayment) {
        let (Some(command), Some(executor)) = (&payment.command, &payment.executor) else { return };
        if self.usable_executor(payment).is_none() {
            self.outcome_known(payment, Outcome::Unknown, 0, Some(Code::known("executor_revoked")));
            return;
        }
        let answer_by = self.now.plus_ms(self.deadlines(payment).command_status_ms);
        self.move_to(payment, Phase::Asked { answer_by }, payment.paid_minor, None);
        self.ask_status(executor, command.id, answer_by);
    }

    /// Owes the executor the question what became of the command.
    pub(crate) fn ask_status(
        &mut self,
        executor: &Principal,
        command: CommandId,
        until: schemas::time::Timestamp,
    ) {
        let id = MessageId::derived("command-status", &[&command.0, &self.now.0.to_be_bytes()]);
        for older in self.open_status_questions(executor, command) {
            self.out.withdraw(executor, older, "superseded");
        }
        if self.cloud.outbox.has_room(executor, 1) {
            self.out.owe(
                self.cloud,
                executor,
                id,
                Down::CommandStatus(CommandStatusRequest { command }),
                until,
            );
        }
    }

    fn open_status_questions(&self, executor: &Principal, command: CommandId) -> Vec<MessageId> {
        let owed = self.cloud.outbox.messages(executor).filter(|owed| owed.kind == Kind::CommandStatus);
        owed.filter(|owed| match Down::decode(owed.kind, &owed.payload).map(|envelope| envelope.body) {
            Ok(Down::CommandStatus(question)) => question.command == command,
            _ => false,
        })
        .map(|owed| owed.message)
        .collect()
    }

    /// The verdict. The first definite outcome stands; a later one that contradicts it is named, never acted on.
    pub(crate) fn outcome_known(
        &mut self,
        payment: &ChipPayment,
        outcome: Outcome,
        delivered: u32,
        code: Option<Code>,
    ) {
        let (outcome, delivered) = normalised(payment, outcome, delivered);
        let first = payment.outcome.as_ref().filter(|first| first.outcome != Outcome::Unknown);
        if let Some(first) = first {
            if outcome != Outcome::Unknown && !same(first.outcome, first.delivered, outcome, delivered) {
                let text = format!(
                    "payment {}: first reported {} ({} units), now {outcome} ({delivered} units); the first stands",
                    payment.id, first.outcome, first.delivered
                );
                self.raise(payment, Case::Contradiction, text);
            }
            return;
        }
        if payment.outcome.is_some() && outcome == Outcome::Unknown {
            return;
        }
        if let Some(command) = &payment.command {
            let (payment, command) = (payment.id, command.id);
            let code = code.clone();
            self.out.event(Event::OutcomeReported { payment, command, outcome, delivered, code });
        }
        match payment.phase {
            Phase::Commanded | Phase::Asked { .. } | Phase::Held => {
                self.settle(payment, outcome, delivered, code)
            }
            _ => self.outcome_after_verdict(payment, outcome, delivered),
        }
    }

    fn settle(&mut self, payment: &ChipPayment, outcome: Outcome, delivered: u32, code: Option<Code>) {
        self.withdraw_command(payment);
        if payment.phase == Phase::Held && outcome != Outcome::Unknown {
            self.resolved(payment.id, Some(Case::UnknownOutcome), None);
        }
        match outcome {
            Outcome::Done => self.deliver(payment, payment.quantity),
            Outcome::DoneInPart => self.deliver(payment, delivered),
            Outcome::Failed | Outcome::Refused => {
                self.give_back(payment, code.unwrap_or_else(|| Code::known("failed")));
            }
            Outcome::Unknown => self.unknown(payment, code),
        }
    }

    fn unknown(&mut self, payment: &ChipPayment, code: Option<Code>) {
        let policy = self.tenant(payment).map_or(OnUnknown::Refund, |tenant| tenant.on_unknown);
        let what = match policy {
            OnUnknown::Refund => "the money goes back by policy; look at the machine",
            OnUnknown::Hold => {
                "the money is held; look at the machine, then `payments resolve ID --refund` or `--accept`"
            }
        };
        let text = format!("nobody knows whether payment {} was delivered: {what}", payment.id);
        self.raise(payment, Case::UnknownOutcome, text);
        let reason = code.unwrap_or_else(|| Code::known("outcome_unknown"));
        match policy {
            OnUnknown::Refund => self.give_back(payment, reason),
            OnUnknown::Hold => {
                self.move_to(payment, Phase::Held, payment.paid_minor, Some(reason.clone()));
                let news = News {
                    state: PaymentState::Held,
                    paid_minor: payment.paid_minor,
                    delivered: 0,
                    reason: Some(reason),
                };
                self.out.tell(self.cloud, payment, &news, Audience::Payer, self.now);
            }
        }
    }

    /// Posts what was delivered, and gives back the rest, once (CP-18).
    pub(super) fn deliver(&mut self, payment: &ChipPayment, delivered: u32) {
        let bank = self.bank_of(payment);
        let whole = Mutant::PartChargedWhole.is_active();
        let share = payment.share_minor(if whole { payment.quantity } else { delivered });
        if share == 0 {
            self.give_back(payment, Code::known("nothing_to_charge"));
            return;
        }
        self.book_surely(payment, &[Legs::of(payment, &bank).post(share)]);
        let rest = payment.amount.minor - share;
        if delivered >= payment.quantity || rest == 0 {
            let state = if delivered >= payment.quantity {
                PaymentState::Delivered
            } else {
                PaymentState::DeliveredInPart
            };
            self.close_because(payment, state, share, delivered, None, Audience::PayerAndMerchant);
        } else if bank == BankKind::Internal {
            let state = PaymentState::DeliveredInPart;
            self.close_because(payment, state, share, delivered, None, Audience::PayerAndMerchant);
        } else {
            let reason = Code::known("delivered_in_part");
            self.refund(payment, rest, RefundEnd::DeliveredInPart, reason, delivered);
        }
    }

    /// Nothing was delivered: the reservation is voided, and what the bank had moved goes back.
    pub(super) fn give_back(&mut self, payment: &ChipPayment, reason: Code) {
        let bank = self.bank_of(payment);
        self.book_surely(payment, &[Legs::of(payment, &bank).void()]);
        if bank == BankKind::Internal {
            let to = Audience::PayerAndMerchant;
            self.close_because(payment, PaymentState::Voided, 0, 0, Some(reason), to);
        } else {
            self.refund(payment, payment.amount.minor, RefundEnd::Refunded, reason, 0);
        }
    }

    fn outcome_after_verdict(&mut self, payment: &ChipPayment, outcome: Outcome, delivered: u32) {
        let accepted = matches!(payment.phase, Phase::Closed(PaymentState::Delivered));
        if Mutant::RefundsAgain.is_active() && outcome == Outcome::Failed {
            self.give_back(payment, Code::known("failed"));
        }
        if accepted && outcome != Outcome::Done {
            let text = format!(
                "payment {} was accepted as delivered, and now {outcome} ({delivered} units) is reported; it stays \
                 accepted unless `payments resolve {} --refund`",
                payment.id, payment.id
            );
            self.raise(payment, Case::Contradiction, text);
        } else if !accepted && matches!(outcome, Outcome::Done | Outcome::DoneInPart) {
            let text = format!(
                "payment {} was delivered ({delivered} of {} units) after the refund had been decided; the payer keeps \
                 the refund; `payments resolve {} --accept` closes this",
                payment.id, payment.quantity, payment.id
            );
            self.raise(payment, Case::DeliveredAfterRefund, text);
        }
    }

    fn withdraw_command(&mut self, payment: &ChipPayment) {
        let (Some(command), Some(executor)) = (&payment.command, &payment.executor) else { return };
        let message = Command::message(command.id);
        if self.cloud.outbox.contains(executor, message) {
            self.out.withdraw(executor, message, "superseded");
        }
    }
}

fn not_your_command() -> Rejection {
    Rejection::new("not_your_command", "this command was given to another device")
}

/// Nothing of something is a failure, all of it is done, and more than was ordered is all of it.
fn normalised(payment: &ChipPayment, outcome: Outcome, delivered: u32) -> (Outcome, u32) {
    match outcome {
        Outcome::Done => (Outcome::Done, payment.quantity),
        Outcome::DoneInPart if delivered == 0 => (Outcome::Failed, 0),
        Outcome::DoneInPart if delivered >= payment.quantity => (Outcome::Done, payment.quantity),
        Outcome::DoneInPart => (Outcome::DoneInPart, delivered),
        Outcome::Failed | Outcome::Refused | Outcome::Unknown => (outcome, 0),
    }
}

/// Failed and refused are the same to the money: nothing was delivered.
fn same(first: Outcome, first_delivered: u32, outcome: Outcome, delivered: u32) -> bool {
    let nothing = |outcome| matches!(outcome, Outcome::Failed | Outcome::Refused);
    (first == outcome && first_delivered == delivered) || (nothing(first) && nothing(outcome))
}
