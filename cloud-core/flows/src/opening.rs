//! What a start of the core decides: nobody's deadline passes before they could reconnect (correctness.md 15), and
//! every question to a bank is due at once, under its old key.

use schemas::time::Timestamp;
use schemas_mutants::Mutant;

use crate::child::ChildFlow;
use crate::chip::ChipFlow;
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::event::Event;
use crate::payment::{AnyPayment, Attempt, ChipPayment, Command, Phase};

/// For one payment: a start may find more of them than fit one decision.
pub(crate) fn decide(cloud: &Cloud, payment: AnyPayment<'_>, now: Timestamp, out: &mut Decision) {
    match payment {
        AnyPayment::Chip(payment) => chip(cloud, payment, now, out),
        AnyPayment::Child(payment) => ChildFlow { cloud, now, out }.reopen(payment),
    }
}

fn chip(cloud: &Cloud, payment: &ChipPayment, now: Timestamp, out: &mut Decision) {
    if Mutant::TimersFireAtStart.is_active() {
        return ChipFlow { cloud, now, out }.timeout(payment);
    }
    let deadlines = cloud.deadlines(&payment.payer.tenant);
    let reconnected = now.plus_ms(deadlines.reconnect_ms);
    let again = |attempt: Attempt| Attempt { again_at: now, ..attempt };
    let phase = match &payment.phase {
        Phase::Checking { answer_by } => Phase::Checking { answer_by: (*answer_by).max(reconnected) },
        Phase::Verifying { answer_by } => Phase::Verifying { answer_by: (*answer_by).max(reconnected) },
        Phase::Asked { answer_by } => Phase::Asked { answer_by: (*answer_by).max(reconnected) },
        Phase::Transferring(attempt) => Phase::Transferring(again(*attempt)),
        Phase::Inquiring(attempt) => Phase::Inquiring(again(*attempt)),
        Phase::Fencing(attempt, why) => Phase::Fencing(again(*attempt), *why),
        Phase::Refunding { amount_minor, attempt, then } => {
            Phase::Refunding { amount_minor: *amount_minor, attempt: again(*attempt), then: *then }
        }
        Phase::Commanded if Mutant::NoReconnectGrace.is_active() => return,
        Phase::Commanded => {
            if let Some(command) = &payment.command {
                let settle_at = command.settle_at.max(reconnected);
                let command = Command { settle_at, ..command.clone() };
                out.event(Event::CommandIssued { payment: payment.id, command });
            }
            return;
        }
        Phase::Held | Phase::RefundBlocked { .. } | Phase::Closed(_) => return,
    };
    if let (Some(alive_until), Some(verified_at)) = (payment.alive_until, payment.verified_at) {
        // The bank gets the time that we were away, but nobody waits at a machine for ever.
        let present_until = verified_at.plus_ms(deadlines.presence_ms);
        let alive_until = alive_until.max(reconnected.min(present_until));
        out.event(Event::PaymentVerified { payment: payment.id, alive_until });
    }
    if phase != payment.phase {
        out.event(Event::PaymentMoved {
            payment: payment.id,
            phase,
            paid_minor: payment.paid_minor,
            reason: None,
        });
    }
}
