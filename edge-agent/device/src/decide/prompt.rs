//! Payment prompts: take in, answer once, end when their time is over (PC-2, PC-3, PC-4).

use schemas::ids::PaymentId;
use schemas::message::{ChildAnswer, ChildView, PaymentPrompt, PaymentStatus};
use schemas::time::Timestamp;
use schemas_mutants::Mutant;

use super::{Context, Decision};
use crate::event::{Event, PromptEnd};
use crate::limits;
use crate::state::{PromptRecord, State, is_decided, is_final};

/// The child at the piggy bank has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptAnswerRequest {
    /// Comes back with the result.
    pub ticket: u64,
    /// Which payment.
    pub payment: PaymentId,
    /// What the child said.
    pub answer: ChildAnswer,
    /// The piggy bank has made sure that it is this child (PC-16).
    pub identified: bool,
}

/// Why an answer changes nothing, and what that means for the child.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptRefusal {
    /// Never asked, or asked so long ago that it is forgotten.
    #[error("nothing is asked about payment {0}: `edge-agent prompt list` shows what is")]
    NoSuchPrompt(PaymentId),
    /// Only the first answer counts.
    #[error("this was answered before, with `{0}`: only the first answer counts")]
    AlreadyAnswered(ChildAnswer),
    /// Later than the prompt's `answer_by`, as far as the piggy bank can be sure.
    #[error("too late: the time to answer is over, and nothing is paid by this")]
    TooLate,
    /// The cloud asks no longer.
    #[error("the question was taken back: nothing is paid by this")]
    Withdrawn,
    /// The cloud has not told the time since the agent started.
    #[error("cloud time is not known yet: check the connection with `edge-agent check`, then try again")]
    ClockUnknown,
    /// Set-up is going on.
    #[error("the piggy bank is in set-up mode: finish set-up first")]
    SetUpMode,
}

impl PromptRefusal {
    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            PromptRefusal::NoSuchPrompt(_) => "no_such_prompt",
            PromptRefusal::AlreadyAnswered(_) => "already_answered",
            PromptRefusal::TooLate => "prompt_too_late",
            PromptRefusal::Withdrawn => "prompt_withdrawn",
            PromptRefusal::ClockUnknown => "clock_unknown",
            PromptRefusal::SetUpMode => "set_up_mode",
        }
    }
}

impl State {
    /// A prompt that is late already is taken in as well: it ends before it is shown.
    pub(crate) fn decide_prompt(
        &self,
        context: &Context<'_>,
        queue_max: u32,
        prompt: &PaymentPrompt,
    ) -> Decision {
        let payment = prompt.payment;
        match self.prompts.records.get(&payment) {
            Some(PromptRecord::Open(_) | PromptRecord::Ended { .. }) => return Decision::Record(vec![]),
            Some(PromptRecord::Answered { .. }) if Mutant::PromptAskedAgain.is_active() => {}
            Some(PromptRecord::Answered { answer, position, identified, .. }) => {
                let answer = context.reporter.prompt_answer(payment, *answer, *position, *identified);
                return self.repeat(context, answer);
            }
            None => {}
        }
        // The result overtook the question, which had found no room before: there is nothing to ask any more.
        let told = self.prompts.results.iter().any(|(told, _)| *told == payment);
        if told && !Mutant::PromptAskedAgain.is_active() {
            return Decision::Record(vec![]);
        }
        let full = self.prompts.open.len() >= queue_max as usize
            || self.prompts.records.len() >= limits::PROMPTS
            || !context.journal_accepts
            || !self.spool_has_room();
        if full {
            return Decision::Full;
        }
        Decision::Record(vec![Event::PromptAccepted { prompt: prompt.clone() }])
    }

    /// The ladder, in this order. A full journal is not in it: this ends open work.
    pub(crate) fn decide_prompt_answer(
        &self,
        context: &Context<'_>,
        request: &PromptAnswerRequest,
    ) -> Result<Event, PromptRefusal> {
        let (payment, answer) = (request.payment, request.answer);
        let prompt = match self.prompts.records.get(&payment) {
            None => return Err(PromptRefusal::NoSuchPrompt(payment)),
            Some(PromptRecord::Answered { answer, .. }) => {
                return Err(PromptRefusal::AlreadyAnswered(*answer));
            }
            Some(PromptRecord::Ended { why: PromptEnd::TooLate, .. }) => return Err(PromptRefusal::TooLate),
            Some(PromptRecord::Ended { why: PromptEnd::Withdrawn, .. }) => {
                return Err(PromptRefusal::Withdrawn);
            }
            Some(PromptRecord::Open(prompt)) => prompt,
        };
        if context.set_up_mode {
            return Err(PromptRefusal::SetUpMode);
        }
        match context.upper {
            None => return Err(PromptRefusal::ClockUnknown),
            Some(upper) if upper > prompt.answer_by => return Err(PromptRefusal::TooLate),
            Some(_) => {}
        }
        let position = context.whereabouts.known();
        let identified = prompt.identify.filter(|asked| *asked).map(|_| request.identified);
        let report = context.reporter.prompt_answer(payment, answer, position, identified);
        Ok(Event::PromptAnswered { payment, answer, position, identified, report })
    }

    /// Prompts whose time may be over: by the upper bound, so that none is shown too late (correctness.md 14).
    pub(crate) fn decide_late_prompts(&self, context: &Context<'_>) -> Vec<Event> {
        let Some(upper) = context.upper else { return vec![] };
        let late = self.prompts.open().filter(|prompt| upper > prompt.answer_by);
        late.map(|prompt| Event::PromptEnded { payment: prompt.payment, why: PromptEnd::TooLate }).collect()
    }

    /// What became of a payment, for the child (PC-5). Its repeat says nothing new.
    pub(crate) fn decide_payment_result(&self, context: &Context<'_>, status: &PaymentStatus) -> Decision {
        if self.payment_states.contains(&(status.payment, status.state, status.at)) {
            return Decision::Record(vec![]);
        }
        let is_open = self.prompts.open.contains(&status.payment) && is_decided(status.state)
            || self.codes.open.contains(&status.payment) && is_final(status.state);
        if !context.journal_accepts && !is_open {
            return Decision::Full;
        }
        Decision::Record(vec![Event::PaymentResultReceived { status: status.clone() }])
    }

    /// What the child has (PC-14). An older one than what is known, or the same, changes nothing. Two of one millisecond
    /// come in the order in which the cloud said them.
    pub(crate) fn decide_child_view(&self, context: &Context<'_>, view: &ChildView) -> Decision {
        if self.child_view.as_ref().is_some_and(|known| view.as_of < known.as_of || view == known) {
            return Decision::Record(vec![]);
        }
        if !context.journal_accepts {
            return Decision::Full;
        }
        Decision::Record(vec![Event::ChildViewReceived { view: view.clone() }])
    }

    /// Only above the count bound, and only those that would not be shown if they came again.
    pub(super) fn prompts_to_forget(&self, lower: Timestamp) -> Vec<PaymentId> {
        let surplus = (self.prompts.records.len() + 1).saturating_sub(limits::PROMPTS);
        let is_late = |payment: &&PaymentId| {
            let record = self.prompts.records.get(payment);
            record.is_some_and(|record| lower > record.prompt().answer_by)
        };
        let most = surplus.min(limits::FORGOTTEN_AT_ONCE);
        self.prompts.ended.iter().filter(is_late).take(most).copied().collect()
    }
}
