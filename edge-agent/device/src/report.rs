//! The messages to the cloud. Ids are derived from what a message says, so that a repeat is the same message.

use schemas::envelope::Envelope;
use schemas::ids::{Code, CommandId, Hash, Instance, MessageId, PaymentId, Principal, PrincipalId, WishId};
use schemas::message::{
    ChildAnswer, CommandProgress, CommandStatusAnswer, ExecutorOutcome, HealthCheckAnswer,
    HealthCheckRequest, HealthVerdict, Outcome, Position, PromptAnswer, Refused, Up, Wish, WishWithdraw,
};
use schemas::wire::Text;

use crate::event::SpoolEntry;

/// Who reports. Another instance of the same device makes other ids.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) principal: Principal,
    pub(crate) instance: Instance,
}

impl Reporter {
    pub(crate) fn outcome(
        &self,
        command: CommandId,
        outcome: Outcome,
        delivered: u32,
        code: Option<Code>,
    ) -> SpoolEntry {
        let id = self.id("outcome", &[&command.0, outcome.as_str().as_bytes()]);
        entry(id, Up::ExecutorCommand(ExecutorOutcome { command, outcome, delivered, code }))
    }

    /// `question` is the id of the request, so that a later question gets an answer of its own.
    pub(crate) fn progress(&self, question: MessageId, answer: CommandStatusAnswer) -> SpoolEntry {
        let progress: CommandProgress = answer.progress;
        let id = self.id("command-status", &[&question.0, progress.as_str().as_bytes()]);
        entry(id, Up::CommandStatus(answer))
    }

    /// Names a check: the same question about the same payment information has the same answer.
    pub(crate) fn check_id(&self, check: &HealthCheckRequest) -> MessageId {
        self.id("health-check", &[&check.payment.0, &check.nonce.0, &check.information_hash.0])
    }

    pub(crate) fn health(
        &self,
        answer: MessageId,
        payment: PaymentId,
        verdict: HealthVerdict,
        code: Option<Code>,
    ) -> SpoolEntry {
        entry(answer, Up::HealthCheck(HealthCheckAnswer { payment, verdict, code }))
    }

    /// One payment has one answer.
    pub(crate) fn prompt_answer(
        &self,
        payment: PaymentId,
        answer: ChildAnswer,
        position: Option<Position>,
        identified: Option<bool>,
    ) -> SpoolEntry {
        let id = self.id("payment-prompt", &[&payment.0, answer.as_str().as_bytes()]);
        entry(id, Up::PaymentPrompt(PromptAnswer { payment, answer, position, identified }))
    }

    /// `number` counts the wishes of this enrolment: the same words again are another wish.
    pub(crate) fn wish(
        &self,
        number: u64,
        child: &PrincipalId,
        to: &PrincipalId,
        text: &Text,
    ) -> (WishId, SpoolEntry) {
        let parts: [&[u8]; 3] = [&number.to_be_bytes(), to.as_str().as_bytes(), text.as_str().as_bytes()];
        let wish = WishId(self.id("wish", &parts).0);
        let message = self.id("wish-message", &[&wish.0]);
        (
            wish,
            entry(message, Up::Wish(Wish { wish, child: child.clone(), to: to.clone(), text: text.clone() })),
        )
    }

    pub(crate) fn wish_withdraw(&self, wish: WishId) -> SpoolEntry {
        entry(self.id("wish-withdraw", &[&wish.0]), Up::WishWithdraw(WishWithdraw { wish }))
    }

    /// The same poisonous payload is refused under the same id.
    pub(crate) fn refused(
        &self,
        payload: &[u8],
        message: Option<MessageId>,
        about: Option<Code>,
        code: Code,
        text: Text,
    ) -> SpoolEntry {
        let id = self.id("refused", &[&Hash::of(payload).0, code.as_str().as_bytes()]);
        entry(id, Up::Refused(Refused { message, about, code, text }))
    }

    fn id(&self, label: &str, parts: &[&[u8]]) -> MessageId {
        let principal = self.principal.to_string();
        let instance = self.instance.0.to_be_bytes();
        let mut all: Vec<&[u8]> = vec![principal.as_bytes(), &instance];
        all.extend_from_slice(parts);
        MessageId::derived(label, &all)
    }
}

fn entry(message: MessageId, body: Up) -> SpoolEntry {
    let kind = body.kind();
    SpoolEntry { message, kind, payload: Envelope::message(message, body).encode() }
}
