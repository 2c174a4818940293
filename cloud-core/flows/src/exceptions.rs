//! What needs an operator. At rest a payment is final, or it is named here (MO-9).

use std::collections::BTreeMap;

use schemas::ids::{Hash, PaymentId};
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::admin::ExceptionRow;

/// The cases of correctness.md's table that name the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// Nobody knows whether it was delivered; refunded or held by policy.
    UnknownOutcome,
    /// It was delivered, and the refund had been decided: the payer keeps the refund.
    DeliveredAfterRefund,
    /// A second outcome that contradicts the first, which stands.
    Contradiction,
    /// The bank refuses the refund for good.
    RefundBlocked,
    /// The bank has not given a clear answer for long; it is asked on.
    BankUnreachable,
    /// An outcome for a payment that is not in memory.
    OutcomeWithoutPayment,
}

impl Case {
    const ALL: [Case; 6] = [
        Case::UnknownOutcome,
        Case::DeliveredAfterRefund,
        Case::Contradiction,
        Case::RefundBlocked,
        Case::BankUnreachable,
        Case::OutcomeWithoutPayment,
    ];

    /// As operators see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Case::UnknownOutcome => "unknown_outcome",
            Case::DeliveredAfterRefund => "delivered_after_refund",
            Case::Contradiction => "contradiction",
            Case::RefundBlocked => "refund_blocked",
            Case::BankUnreachable => "bank_unreachable",
            Case::OutcomeWithoutPayment => "outcome_without_payment",
        }
    }
}

/// The queue. Each case is raised once for what it is about: the hash of a payment's or a command's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceptions {
    open: BTreeMap<(Hash, Case), Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    payment: Option<PaymentId>,
    text: String,
    raised_at: Timestamp,
}

impl Exceptions {
    pub(crate) fn contains(&self, about: Hash, case: Case) -> bool {
        self.open.contains_key(&(about, case))
    }

    pub(crate) fn has(&self, payment: PaymentId, case: Case) -> bool {
        self.contains(Hash::of(&payment.0), case)
    }

    /// The open cases of one payment.
    pub fn of(&self, payment: PaymentId) -> impl Iterator<Item = Case> {
        self.about(Hash::of(&payment.0)).into_iter()
    }

    fn about(&self, about: Hash) -> Vec<Case> {
        Case::ALL.iter().copied().filter(|case| self.contains(about, *case)).collect()
    }

    pub(crate) fn raise(
        &mut self,
        payment: Option<PaymentId>,
        about: Hash,
        case: Case,
        text: &str,
        at: Timestamp,
    ) {
        let entry = Entry { payment, text: text.to_owned(), raised_at: at };
        self.open.entry((about, case)).or_insert(entry);
    }

    pub(crate) fn resolve(&mut self, payment: PaymentId, case: Option<Case>) {
        let about = Hash::of(&payment.0);
        for found in self.about(about).into_iter().filter(|found| case.is_none_or(|case| case == *found)) {
            self.open.remove(&(about, found));
        }
    }

    /// The payments that wait in it.
    pub(crate) fn payments(&self) -> impl Iterator<Item = PaymentId> {
        self.open.values().filter_map(|entry| entry.payment)
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// How many are open of each case, and since when the oldest of all.
    pub fn summary(&self) -> (BTreeMap<Case, usize>, Option<Timestamp>) {
        let mut counts: BTreeMap<Case, usize> = Case::ALL.iter().map(|case| (*case, 0)).collect();
        self.open.keys().for_each(|(_, case)| *counts.entry(*case).or_default() += 1);
        (counts, self.open.values().map(|entry| entry.raised_at).min())
    }

    /// The oldest, at most `max`, oldest first.
    pub fn rows(&self, max: usize) -> Vec<ExceptionRow> {
        let mut rows: Vec<_> = self
            .open
            .iter()
            .map(|((_, case), entry)| ExceptionRow {
                payment: entry.payment,
                case: case.as_str().to_owned(),
                text: entry.text.clone(),
                raised_at: entry.raised_at,
            })
            .collect();
        rows.sort_by_key(|row| row.raised_at);
        rows.truncate(max);
        rows
    }
}
