//! Issuing payment information (CP-1).

use ed25519_dalek::SigningKey;
use schemas::ids::{Hash, ItemId, Nonce};
use schemas::limits as wire_limits;
use schemas::signed::PaymentInformation;
use schemas::time::Timestamp;
use schemas::wire::SignedBytes;

use super::Context;
use crate::event::Event;
use crate::limits;
use crate::state::State;

/// Somebody at the chip wants to buy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssueRequest {
    /// Comes back with the answer.
    pub ticket: u64,
    /// What.
    pub item: ItemId,
    /// How many units.
    pub quantity: u32,
    /// How long it may be paid, in milliseconds; the profile's default if none.
    pub valid_ms: Option<u64>,
}

/// A payment information that is in the journal and may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// COSE_Sign1 by the chip.
    pub signed: SignedBytes,
    /// What it says.
    pub information: PaymentInformation,
}

/// Why no payment information is issued, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueRefusal {
    /// The profile does not issue.
    #[error("this device issues no payment information: give it a profile with `issues-payment-information`")]
    NotAChip,
    /// Set-up is going on.
    #[error("the device is in set-up mode: finish set-up first")]
    SetUpMode,
    /// The cloud has not told the time since the agent started.
    #[error("cloud time is not known yet: check the connection with `edge-agent check`, then try again")]
    ClockUnknown,
    /// Not in the profile.
    #[error("`{0}` is not for sale here: the profile lists the items")]
    UnknownItem(ItemId),
    /// None, or more than the profile allows.
    #[error("{quantity} units are outside 1 to {quantity_max}, the profile's limit for this item")]
    Quantity {
        /// As asked.
        quantity: u32,
        /// As allowed.
        quantity_max: u32,
    },
    /// Longer than the profile allows.
    #[error("valid for {valid_ms} ms is outside 1000 to {valid_ms_max} ms, the profile's limit")]
    Validity {
        /// As asked.
        valid_ms: u64,
        /// As allowed.
        valid_ms_max: u64,
    },
    /// Price times quantity is above what the wire carries.
    #[error("the price is above the platform's limit: ask for fewer units")]
    Amount,
    /// Too many are open.
    #[error("{0} payment informations are open, the profile's limit: wait until some expire")]
    TooManyOpen(u32),
    /// The machine could not carry it out.
    #[error("the device is not ready ({0}): mend that first")]
    NotReady(&'static str),
    /// No room in the journal.
    #[error("the journal is full: free disk space in the data directory")]
    JournalFull,
    /// The random bytes were used before.
    #[error("the random nonce was used before: try again")]
    NonceRepeated,
}

impl IssueRefusal {
    /// Stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            IssueRefusal::NotAChip => "not_a_chip",
            IssueRefusal::SetUpMode => "set_up_mode",
            IssueRefusal::ClockUnknown => "clock_unknown",
            IssueRefusal::UnknownItem(_) => "unknown_item",
            IssueRefusal::Quantity { .. } => "quantity_over_limit",
            IssueRefusal::Validity { .. } => "validity_over_limit",
            IssueRefusal::Amount => "amount_over_limit",
            IssueRefusal::TooManyOpen(_) => "too_many_open",
            IssueRefusal::NotReady(code) => code,
            IssueRefusal::JournalFull => "journal_full",
            IssueRefusal::NonceRepeated => "nonce_repeated",
        }
    }
}

impl State {
    pub(crate) fn decide_issue(
        &self,
        context: &Context<'_>,
        request: &IssueRequest,
        nonce: Nonce,
        key: &SigningKey,
    ) -> Result<(Event, Issued), IssueRefusal> {
        let rules = context.profile.information.as_ref().ok_or(IssueRefusal::NotAChip)?;
        if context.set_up_mode {
            return Err(IssueRefusal::SetUpMode);
        }
        let (Some(lower), Some(upper)) = (context.lower, context.upper) else {
            return Err(IssueRefusal::ClockUnknown);
        };
        let item = context
            .profile
            .items
            .get(&request.item)
            .ok_or(IssueRefusal::UnknownItem(request.item.clone()))?;
        let (quantity, quantity_max) = (request.quantity, item.quantity_max);
        if quantity == 0 || quantity > quantity_max {
            return Err(IssueRefusal::Quantity { quantity, quantity_max });
        }
        let valid_ms = request.valid_ms.unwrap_or(rules.valid_ms);
        if !(1000..=rules.valid_ms_max).contains(&valid_ms) {
            return Err(IssueRefusal::Validity { valid_ms, valid_ms_max: rules.valid_ms_max });
        }
        let sale = item.sale.as_ref().ok_or(IssueRefusal::UnknownItem(request.item.clone()))?;
        let minor = sale.price.minor.checked_mul(u64::from(quantity)).ok_or(IssueRefusal::Amount)?;
        if minor > wire_limits::AMOUNT_MINOR {
            return Err(IssueRefusal::Amount);
        }
        // What has expired is only remembered: it can't be sold any more.
        let open = self.informations.values().filter(|information| information.expires_at >= lower).count();
        if open >= rules.open_max as usize || self.informations.len() >= limits::INFORMATIONS_REMEMBERED {
            return Err(IssueRefusal::TooManyOpen(rules.open_max));
        }
        if let Some(code) = context.unmet_condition(&request.item, quantity) {
            return Err(IssueRefusal::NotReady(code));
        }
        if !context.journal_accepts {
            return Err(IssueRefusal::JournalFull);
        }
        if self.informations.contains_key(&nonce) {
            return Err(IssueRefusal::NonceRepeated);
        }
        let information = PaymentInformation {
            chip: context.reporter.principal.clone(),
            nonce,
            // Never in the cloud's future; and the buyer has at least the whole time. Signed to the second.
            issued_at: whole_second(lower),
            expires_at: whole_second(upper.plus_ms(valid_ms).plus_ms(999)),
            payee: sale.payee.clone(),
            amount: sale.price.currency.minor(minor),
            item: request.item.clone(),
            quantity,
        };
        let signed = information.sign(key);
        let event = Event::InformationIssued {
            nonce,
            information_hash: Hash::of(&signed.0),
            item: information.item.clone(),
            quantity,
            expires_at: information.expires_at,
        };
        Ok((event, Issued { signed, information }))
    }
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp(at.0 - at.0 % 1000)
}
