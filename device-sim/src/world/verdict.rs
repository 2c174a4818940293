//! What an executor's words mean for a payment, by the table and nothing else.

use std::collections::BTreeSet;

use cloud_core_flows::admin::{OnUnknown, PaymentRow};
use schemas::ids::CommandId;
use schemas::message::{Outcome, PaymentState};

use super::facts::Word;
use super::{Violation, World};

/// What became of a command, by the executor's words alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Open,
    All,
    Part(u32),
    Nothing,
    UnknownRefunded,
    UnknownHeld,
}

impl World {
    /// Walks through the executor's words in the order in which they were promised.
    pub(super) fn verdict(
        &mut self,
        row: &PaymentRow,
        command: CommandId,
    ) -> Result<(Verdict, BTreeSet<&'static str>, BTreeSet<&'static str>), Violation> {
        let policy = self.plan.tenants[self.tenant(row)].on_unknown;
        let silent = match policy {
            OnUnknown::Refund => Verdict::UnknownRefunded,
            OnUnknown::Hold => Verdict::UnknownHeld,
        };
        let settle_at = self.facts.commands.get(&command).map_or(0, |facts| facts.settle_at);
        let orphaned = self.facts.commands.get(&command).is_some_and(|facts| facts.orphaned);
        let merchant_refunded = self.refund_wanted(row);
        let words = self.words(row, command);
        let (mut verdict, mut named, mut may_name) = (Verdict::Open, BTreeSet::new(), BTreeSet::new());
        for word in words {
            let meaning = meaning(row.quantity, word);
            if verdict == Verdict::Open {
                let before = decided_before(word, meaning, silent, merchant_refunded);
                if before != Verdict::Open {
                    if (self.core_time(word.arrived_at) <= settle_at || word.graced) && !orphaned {
                        let text =
                            format!("silence was a verdict too early (until {settle_at} ms): {word:?}");
                        return Err(self.wrong(row, "correctness.md 15", text));
                    }
                    self.allow_either("silent past settle_at, or its word just in time");
                    named.insert("unknown_outcome");
                }
                verdict = before;
            }
            verdict = match (verdict, meaning) {
                (Verdict::Open, None) => {
                    named.insert("unknown_outcome");
                    silent
                }
                (Verdict::Open, Some(definite)) => {
                    if definite == Verdict::Nothing {
                        // It may have come after the money had been given back for silence: the same to everybody.
                        may_name.insert("unknown_outcome");
                    }
                    definite
                }
                (Verdict::UnknownHeld, Some(definite)) => {
                    named.remove("unknown_outcome");
                    definite
                }
                (Verdict::UnknownRefunded, Some(Verdict::All | Verdict::Part(_))) => {
                    named.insert("delivered_after_refund");
                    verdict
                }
                (Verdict::All | Verdict::Part(_) | Verdict::Nothing, Some(other)) if other != verdict => {
                    named.insert("contradiction");
                    verdict
                }
                _ => verdict,
            };
        }
        if verdict == Verdict::Open {
            named.insert("unknown_outcome");
            verdict = silent;
        }
        Ok((verdict, named, may_name))
    }

    /// What counts is what was promised. Only where the device is gone before it could say again what a crash of the
    /// core had left unpromised, the word may have counted or not.
    fn words(&mut self, row: &PaymentRow, command: CommandId) -> Vec<Word> {
        let promised = self.facts.words.get(&command).cloned().unwrap_or_default();
        let heard = self.facts.heard.get(&command).cloned().unwrap_or_default();
        let orphaned = self.facts.commands.get(&command).is_some_and(|facts| facts.orphaned);
        // Whatever is taken for unknown is named for the operator.
        let is_silent = self.facts.unknown_named.contains(&row.payment);
        if !self.is_resolved && orphaned && heard.len() > promised.len() && !is_silent {
            self.facts.heard_counted.insert(row.payment);
        }
        if self.facts.heard_counted.contains(&row.payment) {
            self.allow_either("device revoked or replaced, or its last word just before");
            return heard;
        }
        promised
    }
}

/// None: it does not know.
fn meaning(quantity: u32, word: Word) -> Option<Verdict> {
    match word.outcome {
        Outcome::Done => Some(Verdict::All),
        Outcome::DoneInPart if word.delivered == 0 => Some(Verdict::Nothing),
        Outcome::DoneInPart if word.delivered >= quantity => Some(Verdict::All),
        Outcome::DoneInPart => Some(Verdict::Part(word.delivered)),
        Outcome::Failed | Outcome::Refused => Some(Verdict::Nothing),
        Outcome::Unknown => None,
    }
}

/// Whether silence had been made a verdict before this word came. A copy of the word may have been counted, and its
/// promise lost in a crash.
fn decided_before(word: Word, meaning: Option<Verdict>, silent: Verdict, merchant_refunded: bool) -> Verdict {
    let Some((view, delivered)) = word.view else { return Verdict::Open };
    let going_back =
        [PaymentState::Refunding, PaymentState::Refunded, PaymentState::RefundBlocked, PaymentState::Voided];
    match meaning {
        Some(Verdict::All | Verdict::Part(_)) if view == PaymentState::Held => silent,
        Some(Verdict::All) if going_back.contains(&view) && !merchant_refunded => silent,
        Some(Verdict::Part(_)) if going_back.contains(&view) && !merchant_refunded => {
            let counted = delivered > 0 && view != PaymentState::Refunded && view != PaymentState::Voided;
            if counted { Verdict::Open } else { silent }
        }
        Some(Verdict::Nothing) if view == PaymentState::Held => silent,
        _ => Verdict::Open,
    }
}
