//! Health checks: did this chip issue exactly this, and can it be carried out? (CP-3)

use schemas::ids::{Code, MessageId};
use schemas::message::{HealthCheckRequest, HealthVerdict};

use super::{Context, Decision};
use crate::event::Event;
use crate::profile::Condition;
use crate::state::{CheckRecord, State};

impl State {
    /// `clock_wait_over`: cloud time has been asked for long enough.
    pub(crate) fn decide_check(
        &self,
        context: &Context<'_>,
        check: &HealthCheckRequest,
        clock_wait_over: bool,
    ) -> Decision {
        let answer = context.reporter.check_id(check);
        match self.checks.get(&answer) {
            Some(CheckRecord::Waiting(_)) => return Decision::Record(vec![]),
            Some(CheckRecord::Answered { payment, verdict, code }) => {
                return self
                    .repeat(context, context.reporter.health(answer, *payment, *verdict, code.clone()));
            }
            None => {}
        }
        if !context.journal_accepts || !self.spool_has_room() {
            return Decision::Full;
        }
        let waits = context.upper.is_none() && !clock_wait_over && self.issued_exactly(check);
        Decision::Record(vec![if waits {
            Event::CheckAccepted { answer, check: check.clone() }
        } else {
            self.verdict(context, answer, check)
        }])
    }

    /// The answer to a check that waited for cloud time.
    pub(crate) fn decide_waiting_check(&self, context: &Context<'_>, answer: MessageId) -> Option<Event> {
        match self.checks.get(&answer)? {
            CheckRecord::Waiting(check) => Some(self.verdict(context, answer, check)),
            CheckRecord::Answered { .. } => None,
        }
    }

    fn verdict(&self, context: &Context<'_>, answer: MessageId, check: &HealthCheckRequest) -> Event {
        let (verdict, code) = if !self.issued_exactly(check) {
            (HealthVerdict::NotIssued, None)
        } else {
            match self.not_ready(context, check) {
                Some(code) => (HealthVerdict::NotReady, Some(Code::known(code))),
                None => (HealthVerdict::Ready, None),
            }
        };
        let payment = check.payment;
        let report = context.reporter.health(answer, payment, verdict, code.clone());
        Event::CheckAnswered { answer, payment, verdict, code, report }
    }

    fn issued_exactly(&self, check: &HealthCheckRequest) -> bool {
        self.informations.get(&check.nonce).is_some_and(|issued| issued.hash == check.information_hash)
    }

    /// The ladder, in this order. `answer_by` is not in it: a late answer is still an answer, the cloud decides.
    fn not_ready(&self, context: &Context<'_>, check: &HealthCheckRequest) -> Option<&'static str> {
        let information = self.informations.get(&check.nonce)?;
        if context.set_up_mode {
            return Some("set_up_mode");
        }
        match context.upper {
            None => return Some("clock_unknown"),
            Some(upper) if upper > information.expires_at => return Some("expired"),
            Some(_) => {}
        }
        context.unmet_condition(&information.item, information.quantity)
    }
}

impl Context<'_> {
    /// The first of the profile's conditions that the machine does not meet.
    pub(super) fn unmet_condition(&self, item: &schemas::ids::ItemId, quantity: u32) -> Option<&'static str> {
        let rules = self.profile.information.as_ref()?;
        rules.conditions.iter().find_map(|condition| match condition {
            Condition::Tamper => self.conditions.tampered.then_some("tampered"),
            Condition::Executor => {
                (self.conditions.executor_fault || self.hardware_silent).then_some("executor_fault")
            }
            Condition::Stock => {
                let left = self.conditions.stock.get(item);
                left.is_some_and(|left| *left < quantity).then_some("sold_out")
            }
        })
    }
}
