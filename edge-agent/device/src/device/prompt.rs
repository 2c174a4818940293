//! Prompts of a piggy bank: which one is shown, until when, and what the child said (PC-3).

use std::collections::VecDeque;

use schemas::ids::PaymentId;
use schemas::message::ChildView;
use schemas_journal::Position;

use super::Device;
use crate::decide::{PromptAnswerRequest, PromptRefusal};
use crate::event::Event;
use crate::output::{Output, ShownPrompt};
use crate::state::PromptRecord;
use crate::status::{OpenPrompt, PromptResult};

/// What this process shows; nothing after a start.
#[derive(Debug, Default)]
pub(super) struct Showing {
    /// Accepted, and perhaps not on disk yet: these are not shown.
    accepting: VecDeque<(Position, PaymentId)>,
    shown: Option<(PaymentId, u64)>,
}

impl Showing {
    pub(super) fn handle_event(&mut self, event: &Event, position: Position) {
        if let Event::PromptAccepted { prompt } = event {
            self.accepting.push_back((position, prompt.payment));
        }
    }

    pub(super) fn handle_synced(&mut self, synced: Position) {
        while self.accepting.front().is_some_and(|(accepted, _)| *accepted <= synced) {
            self.accepting.pop_front();
        }
    }

    fn is_accepting(&self, payment: PaymentId) -> bool {
        self.accepting.iter().any(|(_, accepting)| *accepting == payment)
    }
}

impl Device {
    /// The child answers. The result is an [`Output::PromptAnswered`], released when the answer is on disk; a second
    /// answer changes nothing (PC-4).
    pub fn handle_prompt_answer(&mut self, request: &PromptAnswerRequest, now_boot_ms: u64) {
        self.advance(now_boot_ms);
        // Nobody can have seen a prompt that is not on disk yet.
        let decided = if self.showing.is_accepting(request.payment) {
            Err(PromptRefusal::NoSuchPrompt(request.payment))
        } else {
            self.state.decide_prompt_answer(&self.context(now_boot_ms), request)
        };
        let result = decided.map(|event| self.record([event]));
        self.output(Output::PromptAnswered {
            ticket: request.ticket,
            payment: request.payment,
            answer: request.answer,
            result,
        });
        self.advance(now_boot_ms);
    }

    /// The prompts that wait for the child, oldest first.
    pub fn open_prompts(&self, now_boot_ms: u64) -> Vec<OpenPrompt> {
        let upper = self.clock.upper(now_boot_ms);
        let shown = self.showing.shown.map(|(payment, _)| payment);
        let open = |prompt: &schemas::message::PaymentPrompt| OpenPrompt {
            shown: shown == Some(prompt.payment),
            remaining_ms: upper.map(|upper| prompt.answer_by.ms_since(upper)),
            prompt: prompt.clone(),
        };
        self.state.prompts.open().map(open).collect()
    }

    /// What the child has, as the cloud last told it.
    pub fn child_view(&self) -> Option<&ChildView> {
        self.state.child_view.as_ref()
    }

    /// What was answered, ended or settled last, newest first.
    pub fn prompt_results(&self) -> Vec<PromptResult> {
        let prompts = &self.state.prompts;
        let result = |(payment, status): &(PaymentId, Option<schemas::message::PaymentStatus>)| {
            let record = prompts.records.get(payment);
            let (answer, ended) = match record {
                Some(PromptRecord::Answered { answer, .. }) => (Some(*answer), None),
                Some(PromptRecord::Ended { why, .. }) => (None, Some(*why)),
                Some(PromptRecord::Open(_)) | None => (None, None),
            };
            PromptResult {
                payment: *payment,
                prompt: record.map(|record| record.prompt().clone()),
                answer,
                ended,
                status: status.clone(),
            }
        };
        prompts.results.iter().rev().map(result).collect()
    }

    pub(super) fn end_late_prompts(&mut self, now_boot_ms: u64) {
        let late = self.state.decide_late_prompts(&self.context(now_boot_ms));
        self.record(late);
    }

    /// Tells the shell when another prompt is to be shown, none any more, or the same one for another time.
    pub(super) fn show_prompt(&mut self, now_boot_ms: u64) {
        let next = self.prompt_to_show(now_boot_ms);
        let shown = next.as_ref().map(|next| (next.prompt.payment, next.until_boot_ms));
        if shown != self.showing.shown {
            self.showing.shown = shown;
            self.output(Output::Prompt { shown: next });
        }
    }

    /// When the first open prompt's time is over.
    pub(super) fn next_prompt_end_boot_ms(&self) -> Option<u64> {
        let answer_by = self.state.prompts.open().map(|prompt| prompt.answer_by).min()?;
        Some(self.clock.last_boot_ms(answer_by)?.saturating_add(1))
    }

    fn prompt_to_show(&self, now_boot_ms: u64) -> Option<ShownPrompt> {
        let prompt = self.state.prompts.open().next().filter(|_| !self.set_up_mode)?;
        let until_boot_ms = self.clock.last_boot_ms(prompt.answer_by)?;
        let may = now_boot_ms <= until_boot_ms && !self.showing.is_accepting(prompt.payment);
        may.then(|| ShownPrompt { prompt: prompt.clone(), until_boot_ms })
    }
}
