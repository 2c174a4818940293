//! What the child is asked, what it said, and with what it pays.

use std::time::Duration;

use edge_agent_device::{
    CodeDisplay, CodeRefusal, CodeRequest, IdentitySettings, PromptAnswerRequest, PromptRefusal, ShownCode,
    ShownPrompt, WishRefusal,
};
use schemas::ids::{PaymentId, WishId};
use schemas::message::{ChildAnswer, PaymentPrompt};
use serde_json::json;

use super::{Agent, Input};
use crate::clock::boot_ms;
use crate::identity;
use crate::local::{CodeShown, Refusal};
use crate::panel::{Shown, View};

impl Agent {
    /// Takes an answer; false if the piggy bank first makes sure who gives it (PC-16). Then there is no result for the
    /// ticket.
    pub(super) fn child_answers(
        &mut self,
        ticket: u64,
        payment: PaymentId,
        answer: ChildAnswer,
        now: u64,
    ) -> bool {
        if answer == ChildAnswer::Confirm && self.identify(payment, now) {
            return false;
        }
        let request = PromptAnswerRequest { ticket, payment, answer, identified: false };
        self.device.handle_prompt_answer(&request, now);
        true
    }

    /// Begins to make sure who says yes, where that is asked for and something can.
    fn identify(&mut self, payment: PaymentId, now: u64) -> bool {
        let IdentitySettings::Process { argv, timeout_ms } = self.device.profile().identity.clone() else {
            return false;
        };
        let wants = |prompt: &PaymentPrompt| prompt.payment == payment && prompt.identify == Some(true);
        let asked = self.device.open_prompts(now).into_iter().map(|open| open.prompt).find(wants);
        let Some(prompt) = asked else { return false };
        // One at a time: the reader is one.
        if self.identifying.is_some() {
            return true;
        }
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
            let timeout = Duration::from_millis(timeout_ms);
            let is_child = identity::is_child(&argv, timeout, payment, &prompt.child).await;
            let _ = inputs.send(Input::Identified { payment, is_child }).await;
        });
        self.identifying = Some((payment, task.abort_handle()));
        self.notice = Some("Is it you? Waiting to make sure.".to_owned());
        true
    }

    pub(super) fn identified(&mut self, payment: PaymentId, is_child: bool, now: u64) {
        self.identifying = None;
        tracing::info!(%payment, is_child, "identified");
        if is_child {
            self.notice = None;
            let answer = ChildAnswer::Confirm;
            let request = PromptAnswerRequest { ticket: 0, payment, answer, identified: true };
            self.device.handle_prompt_answer(&request, now);
        } else {
            self.notice =
                Some("It could not be made sure that it is you: answer again, or say no.".to_owned());
        }
    }

    pub(super) fn show_prompt(&mut self, shown: Option<ShownPrompt>) {
        let before = self.shown.take();
        let Some(prompt) = shown else { return };
        let payment = prompt.prompt.payment;
        // The same one for another time has been there before.
        let same = before.filter(|before| before.prompt.prompt.payment == payment);
        let since_boot_ms = same.map_or_else(boot_ms, |before| before.since_boot_ms);
        self.shown = Some(Shown { prompt, since_boot_ms });
        self.notice = None;
    }

    pub(super) fn tell_answered(
        &mut self,
        ticket: u64,
        payment: PaymentId,
        answer: ChildAnswer,
        result: Result<(), PromptRefusal>,
    ) {
        tracing::info!(%payment, %answer, refused = result.as_ref().err().map(PromptRefusal::code), "answered");
        let result =
            result.map_err(|refusal| Refusal { code: refusal.code().to_owned(), text: refusal.to_string() });
        match self.tickets.remove(&ticket) {
            // The caller may have gone away; the answer counts all the same.
            Some(reply) => _ = reply.send(result.map(|()| json!({ "payment": payment, "answer": answer }))),
            None => self.notice = result.err().map(|refusal| refusal.text),
        }
    }

    /// Of several codes the oldest that is not shown already.
    pub(super) fn ask_for_code(&mut self, now: u64) {
        let open = self.device.open_codes(now);
        match open.iter().find(|code| !code.shown).or(open.first()) {
            Some(code) => {
                let request = CodeRequest { ticket: 0, payment: code.payment };
                self.device.handle_code_request(&request, now);
            }
            None => self.notice = Some("There is no code to pay with.".to_owned()),
        }
    }

    pub(super) fn show_code(&mut self, shown: Option<ShownCode>) {
        self.presenter.show(shown.as_ref());
        self.code = shown;
    }

    pub(super) fn tell_code(
        &mut self,
        ticket: u64,
        payment: PaymentId,
        result: Result<ShownCode, CodeRefusal>,
    ) {
        tracing::info!(%payment, refused = result.as_ref().err().map(CodeRefusal::code), "asked for a code");
        let result =
            result.map_err(|refusal| Refusal { code: refusal.code().to_owned(), text: refusal.to_string() });
        let Some(reply) = self.tickets.remove(&ticket) else {
            self.notice = result.err().map(|refusal| refusal.text);
            return;
        };
        let shown = |shown: ShownCode| {
            json!(CodeShown {
                payment: shown.payment,
                mode: shown.mode,
                amount: shown.amount,
                payee: shown.payee,
                code: shown.text,
                expires_at: shown.expires_at,
            })
        };
        // The caller may have gone away; the code is shown all the same.
        let _ = reply.send(result.map(shown));
    }

    pub(super) fn answer_wish(&mut self, ticket: u64, result: Result<WishId, WishRefusal>) {
        let Some(reply) = self.tickets.remove(&ticket) else { return };
        let refusal =
            |refusal: WishRefusal| Refusal { code: refusal.code().to_owned(), text: refusal.to_string() };
        // The caller may have gone away; the wish is kept all the same.
        let _ = reply.send(result.map(|wish| json!({ "wish": wish })).map_err(refusal));
    }

    pub(super) fn refresh_panel(&mut self) {
        let Some(panel) = &mut self.panel else { return };
        let now = boot_ms();
        let cloud_time = self.device.cloud_time(now);
        let open = self.device.state().open_prompts();
        let on_screen = self.device.profile().code.display == CodeDisplay::Screen;
        panel.show(View {
            principal: self.endpoint.principal.to_string(),
            connected: self.device.is_connected(),
            knows_time: cloud_time.is_some(),
            more: open.saturating_sub(usize::from(self.shown.is_some())),
            shown: self.shown.clone(),
            results: self.device.prompt_results(),
            code: self.code.clone().filter(|_| on_screen),
            codes: self.device.open_codes(now),
            as_of_boot_ms: now,
            child: self.device.child_view().cloned(),
            wishes: self.device.wishes(),
            notice: self.notice.clone(),
        });
    }
}
