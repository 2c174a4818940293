//! What a piggy bank remembers of prompts and of what became of the payments.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use schemas::ids::PaymentId;
use schemas::message::{ChildAnswer, PaymentPrompt, PaymentState, PaymentStatus, Position};
use schemas_mutants::Mutant;
use serde::{Deserialize, Serialize};

use crate::event::PromptEnd;
use crate::limits;

/// Where one prompt stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptRecord {
    /// The child may answer it.
    Open(PaymentPrompt),
    /// The child did; this stays the answer to repeats.
    Answered {
        /// What was asked.
        prompt: PaymentPrompt,
        /// What the child said.
        answer: ChildAnswer,
        /// Where that was.
        position: Option<Position>,
        /// Whether the piggy bank had made sure who it was, if it was asked to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identified: Option<bool>,
    },
    /// Over without an answer.
    Ended {
        /// What was asked.
        prompt: PaymentPrompt,
        /// By whom.
        why: PromptEnd,
    },
}

impl PromptRecord {
    pub(crate) fn prompt(&self) -> &PaymentPrompt {
        match self {
            PromptRecord::Open(prompt)
            | PromptRecord::Answered { prompt, .. }
            | PromptRecord::Ended { prompt, .. } => prompt,
        }
    }
}

/// Prompts, and the newest results for the child to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prompts {
    pub(crate) records: BTreeMap<PaymentId, PromptRecord>,
    /// Unanswered ones, in order of arrival.
    pub(crate) open: VecDeque<PaymentId>,
    /// Answered and ended ones, in order of their end.
    pub(crate) ended: VecDeque<PaymentId>,
    /// The newest last; without a status as long as the cloud has not told one.
    pub(crate) results: VecDeque<(PaymentId, Option<PaymentStatus>)>,
}

impl Prompts {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.results.is_empty()
    }

    /// The unanswered ones, in order of arrival.
    pub(crate) fn open(&self) -> impl Iterator<Item = &PaymentPrompt> {
        self.open.iter().filter_map(|payment| self.records.get(payment)).map(PromptRecord::prompt)
    }

    pub(super) fn accept(&mut self, prompt: &PaymentPrompt) {
        if Mutant::PromptAskedAgain.is_active() {
            self.records.remove(&prompt.payment);
        }
        if let Entry::Vacant(vacant) = self.records.entry(prompt.payment) {
            vacant.insert(PromptRecord::Open(prompt.clone()));
            self.open.push_back(prompt.payment);
        }
    }

    pub(super) fn answer(
        &mut self,
        payment: PaymentId,
        answer: ChildAnswer,
        position: Option<Position>,
        identified: Option<bool>,
    ) {
        if self.end(payment, |prompt| PromptRecord::Answered { prompt, answer, position, identified }) {
            self.tell(payment, None);
        }
    }

    pub(super) fn end_unanswered(&mut self, payment: PaymentId, why: PromptEnd) {
        if self.end(payment, |prompt| PromptRecord::Ended { prompt, why }) {
            self.tell(payment, None);
        }
    }

    pub(super) fn result(&mut self, status: &PaymentStatus) {
        if is_decided(status.state) {
            let why = PromptEnd::Withdrawn;
            self.end(status.payment, |prompt| PromptRecord::Ended { prompt, why });
            self.tell(status.payment, Some(status.clone()));
        }
    }

    pub(super) fn forget(&mut self, payments: &[PaymentId]) {
        for payment in payments {
            self.records.remove(payment);
        }
        self.ended.retain(|ended| !payments.contains(ended));
    }

    /// True if it was open.
    fn end(&mut self, payment: PaymentId, over: impl FnOnce(PaymentPrompt) -> PromptRecord) -> bool {
        let Some(record) = self.records.get_mut(&payment) else { return false };
        let PromptRecord::Open(prompt) = record else { return false };
        *record = over(prompt.clone());
        self.open.retain(|open| *open != payment);
        self.ended.push_back(payment);
        true
    }

    fn tell(&mut self, payment: PaymentId, status: Option<PaymentStatus>) {
        self.results.retain(|(told, _)| *told != payment);
        self.results.push_back((payment, status));
        while self.results.len() > limits::PAYMENT_STATES {
            self.results.pop_front();
        }
    }
}

/// The cloud waits for no answer about this payment, or no longer.
pub(crate) fn is_decided(state: PaymentState) -> bool {
    !matches!(state, PaymentState::Checking | PaymentState::PendingVerification | PaymentState::Prompting)
}
