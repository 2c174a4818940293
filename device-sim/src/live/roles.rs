//! What a chip, an executor, a piggy bank and a person do about what they hear.

use std::rc::Rc;

use schemas::message::{
    ChildAnswer, CommandProgress, CommandStatusAnswer, Down, ExecutorCommand, ExecutorOutcome,
    HealthCheckAnswer, HealthCheckRequest, HealthVerdict, Outcome, PaymentPrompt, PaymentStatus,
    PromptAnswer, RequestAnswer, Up, VerificationAnswer, VerificationRequest,
};
use schemas::signed::Verification;
use schemas::topic::Kind;

use super::book::Act;
use super::engine::{Engine, micros};
use super::measured::{End, ErrorKind, Fault, Step};

pub(super) fn hear(engine: &Rc<Engine>, member: usize, kind: Kind, payload: &[u8]) {
    let Ok(envelope) = Down::decode(kind, payload) else {
        engine.state.borrow_mut().measured.error(ErrorKind::Unreadable);
        return;
    };
    match envelope.body {
        Down::HealthCheck(check) => checked(engine, member, &check),
        Down::ExecutorCommand(command) => commanded(engine, member, &command),
        Down::CommandStatus(question) => {
            let act = engine.state.borrow().book.act(question.command);
            let answer = progress(question.command, act);
            engine.say(&mut engine.state.borrow_mut(), member, Up::CommandStatus(answer));
        }
        Down::PaymentPrompt(prompt) => prompted(engine, member, &prompt),
        Down::RequestAnswer(answer) => answered(engine, member, &answer),
        Down::PaymentVerification(asked) => verify(engine, member, &asked),
        Down::PaymentStatus(status) => told(engine, member, &status),
        // What is only shown, and what nobody here asks for.
        Down::ChildView(_)
        | Down::PaymentCode(_)
        | Down::Places(_)
        | Down::Wish(_)
        | Down::PaySuggestion(_) => {}
        Down::CloudTime(_) => {}
        Down::Refused(refused) => {
            let mut state = engine.state.borrow_mut();
            state.measured.error(ErrorKind::PublishRefused);
            state.book.note_problem(format!("refused: {} ({})", refused.text, refused.code));
        }
    }
}

/// CP-3: the chip knows what it issued.
fn checked(engine: &Rc<Engine>, chip: usize, check: &HealthCheckRequest) {
    let mut state = engine.state.borrow_mut();
    let is_mine = state.book.has_issued(check.nonce, chip, check.information_hash);
    if let Some(accepted_at) = state.book.device_heard_of(check.nonce) {
        state.measured.record(Step::AcceptedToDevice, micros(accepted_at.elapsed()));
    }
    let verdict = if is_mine { HealthVerdict::Ready } else { HealthVerdict::NotIssued };
    let answer = HealthCheckAnswer { payment: check.payment, verdict, code: None };
    engine.say(&mut state, chip, Up::HealthCheck(answer));
}

/// CP-8 to CP-11: at most once, whatever comes again.
fn commanded(engine: &Rc<Engine>, executor: usize, command: &ExecutorCommand) {
    let mut state = engine.state.borrow_mut();
    let act = match state.book.act(command.command) {
        Some(act) => act,
        None => {
            let faults = engine.scenario.faults;
            let act = if state.random.chance(faults.silent_permille.into()) {
                state.measured.fault(Fault::Silence);
                Act::Silent
            } else if state.random.chance(faults.jams_permille.into()) {
                state.measured.fault(Fault::Jam);
                Act::Jammed
            } else {
                Act::Delivered(command.quantity)
            };
            state.book.acted(command.command, command.payment, act);
            act
        }
    };
    if let Some((outcome, delivered)) = act.outcome() {
        let code = (outcome == Outcome::Failed).then(|| "jammed".parse().ok()).flatten();
        let said = ExecutorOutcome { command: command.command, outcome, delivered, code };
        engine.say(&mut state, executor, Up::ExecutorCommand(said));
    }
}

/// A silent machine does not know either.
fn progress(command: schemas::ids::CommandId, act: Option<Act>) -> CommandStatusAnswer {
    let outcome = act.and_then(Act::outcome);
    CommandStatusAnswer {
        command,
        progress: match (act, outcome) {
            (None, _) => CommandProgress::NeverSeen,
            (Some(_), None) => CommandProgress::IntentOpen,
            (Some(_), Some(_)) => CommandProgress::Ended,
        },
        outcome: outcome.map(|(outcome, _)| outcome),
        delivered: outcome.map_or(0, |(_, delivered)| delivered),
        code: None,
    }
}

/// PC-2, PC-3: the child presses a button.
fn prompted(engine: &Rc<Engine>, piggy_bank: usize, prompt: &PaymentPrompt) {
    let mut state = engine.state.borrow_mut();
    let (is_first, accepted_at) = state.book.child_asked(prompt.payment);
    if let Some(accepted_at) = accepted_at {
        state.measured.record(Step::AcceptedToDevice, micros(accepted_at.elapsed()));
    }
    // The same question again gets the same answer, so it follows from the question.
    let id = prompt.payment.0;
    let draw = u32::from_be_bytes([id[0], id[1], id[2], id[3]]) % 1_000;
    let says_no = draw < engine.scenario.faults.rejects_permille;
    if says_no && is_first {
        state.measured.fault(Fault::Rejection);
    }
    let answer = if says_no { ChildAnswer::Reject } else { ChildAnswer::Confirm };
    let answer = PromptAnswer { payment: prompt.payment, answer, position: None, identified: None };
    engine.say(&mut state, piggy_bank, Up::PaymentPrompt(answer));
}

fn answered(engine: &Rc<Engine>, member: usize, answer: &RequestAnswer) {
    let mut state = engine.state.borrow_mut();
    let state = &mut *state;
    match (&answer.refused, answer.payment) {
        (None, Some(payment)) => {
            // The same answer again says nothing new.
            if let Some((taken, device_at)) = state.book.accepted(answer.key, payment) {
                state.measured.record(Step::OrderToAccepted, micros(taken));
                // The device was faster than the answer: nobody waited.
                if device_at.is_some() {
                    state.measured.record(Step::AcceptedToDevice, 0);
                }
            }
        }
        (Some(code), _) => {
            if let Some(attempt) = state.book.refused(answer.key) {
                let who = &engine.fleet.members[member].principal;
                state.book.note_problem(format!("{who} was refused: {code}"));
                state.measured.ended(End::Refused);
                engine.is_over(&attempt);
            }
        }
        (None, None) => state.measured.error(ErrorKind::Unexpected),
    }
}

/// CP-5. Payee and amount are shown, and signed as they were shown.
fn verify(engine: &Rc<Engine>, payer: usize, asked: &VerificationRequest) {
    let member = &engine.fleet.members[payer];
    let verification = Verification {
        payer: member.principal.clone(),
        payment: asked.payment,
        payee: asked.payee.clone(),
        amount: asked.amount,
        expires_at: asked.answer_by.plus_ms(1_000),
    };
    let body = Up::PaymentVerification(VerificationAnswer { verification: verification.sign(&member.key) });
    engine.say(&mut engine.state.borrow_mut(), payer, body);
}

/// Only who began a payment judges its end.
fn told(engine: &Rc<Engine>, member: usize, status: &PaymentStatus) {
    let fleet = &engine.fleet;
    if !fleet.payers.contains(&member) && !fleet.guardians.contains(&member) {
        return;
    }
    let Some(end) = End::of(status.state) else { return };
    let mut state = engine.state.borrow_mut();
    let state = &mut *state;
    let Some(attempt) = state.book.ended(fleet, status.payment, status.state, status.paid.minor) else {
        if state.book.ended_otherwise(status.payment, status.state) {
            state.measured.error(ErrorKind::SecondEnd);
        }
        return;
    };
    state.measured.ended(end);
    state.measured.record(Step::OrderToEnd, micros(attempt.intended.elapsed()));
    engine.is_over(&attempt);
}
