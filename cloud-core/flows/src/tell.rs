//! Sentences and status messages: who is told what of a payment.

use schemas::ids::{Code, MessageId, PaymentId, Principal};
use schemas::message::{Down, PaymentState, PaymentStatus};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;

use crate::child::code::CODE_EXPIRED;
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::limits;
use crate::payment::{ChildPayment, ChipPayment};
use crate::registry::Standing;

/// Which parties hear of a change, beside the payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Only the payer.
    Payer,
    /// The payer and the merchant's terminal.
    PayerAndMerchant,
    /// The payer and the chip.
    PayerAndChip,
    /// All three.
    Everyone,
}

/// What is new, where the state as it stands does not say it yet.
#[derive(Debug, Clone)]
pub(crate) struct News {
    pub(crate) state: PaymentState,
    pub(crate) paid_minor: u64,
    pub(crate) delivered: u32,
    pub(crate) reason: Option<Code>,
}

impl Decision {
    /// Tells the audience. A newer status of the same payment takes the place of one that nobody has fetched.
    pub(crate) fn tell(
        &mut self,
        cloud: &Cloud,
        payment: &ChipPayment,
        news: &News,
        to: Audience,
        now: Timestamp,
    ) {
        let merchant = cloud.registry.merchant_terminal(&payment.payer.tenant, &payment.merchant);
        let mut parties = vec![payment.payer.clone()];
        if matches!(to, Audience::PayerAndMerchant | Audience::Everyone) {
            parties.extend(merchant);
        }
        // A revoked chip will never fetch it (correctness.md 20).
        let revoked =
            cloud.registry.device(&payment.chip).is_none_or(|chip| chip.standing == Standing::Revoked);
        if matches!(to, Audience::PayerAndChip | Audience::Everyone) && !revoked {
            parties.push(payment.chip.clone());
        }
        // A payer may be at the merchant's terminal.
        parties.dedup();
        for party in parties {
            self.supersede(cloud, &party, payment.id);
            let id = status_id(payment.id, &party, news.state);
            let body = Down::PaymentStatus(status(payment, news, now));
            self.owe(cloud, &party, id, body, now.plus_ms(limits::STATUS_LIFE_MS));
        }
    }

    /// At most one status per payment is owed to a party; its id has one of the states in it.
    pub(crate) fn supersede(&mut self, cloud: &Cloud, party: &Principal, payment: PaymentId) {
        // Ids are hashes, one for each state: not computed where no status is owed.
        if !cloud.outbox.messages(party).any(|owed| owed.kind == Kind::PaymentStatus) {
            return;
        }
        let older = PaymentState::ALL.iter().map(|state| status_id(payment, party, *state));
        for id in older.filter(|id| cloud.outbox.contains(party, *id)) {
            self.withdraw(party, id, "superseded");
        }
    }
}

/// One message for each state of a payment that a party is told.
pub(crate) fn status_id(payment: PaymentId, party: &Principal, state: PaymentState) -> MessageId {
    let party = party.to_string();
    MessageId::derived("status", &[&payment.0, party.as_bytes(), state.as_str().as_bytes()])
}

/// The status of a payment as news.
pub(crate) fn status(payment: &ChipPayment, news: &News, now: Timestamp) -> PaymentStatus {
    PaymentStatus {
        payment: payment.id,
        state: news.state,
        amount: payment.amount,
        paid: payment.amount.currency.minor(news.paid_minor),
        delivered: news.delivered,
        quantity: payment.quantity,
        reason: news.reason.clone(),
        text: Text::new(sentence(payment, news)),
        at: now,
    }
}

/// The news that a payment's own state is.
pub(crate) fn as_it_stands(payment: &ChipPayment) -> News {
    News {
        state: payment.state(),
        paid_minor: payment.paid_minor,
        delivered: payment.delivered(),
        reason: payment.reason.clone(),
    }
}

fn sentence(payment: &ChipPayment, news: &News) -> String {
    let amount = payment.amount;
    let paid = amount.currency.minor(news.paid_minor);
    let back = amount.currency.minor(amount.minor.saturating_sub(news.paid_minor));
    let owed = amount.currency.minor(payment.owed_back_minor());
    let item = &payment.item;
    let because = news.reason.as_ref().map_or(String::new(), |code| format!(" ({code})"));
    match news.state {
        PaymentState::Checking => format!("Asking the machine whether it can deliver {item}."),
        PaymentState::PendingVerification => format!("Waiting for your verification of {amount}."),
        PaymentState::Paying => format!("Asking the bank for {amount}."),
        PaymentState::BankUnknown => {
            "The bank has not answered yet. Nothing is delivered until it does.".to_owned()
        }
        PaymentState::Delivering => format!("{amount} are paid; waiting for {item}."),
        PaymentState::Delivered => format!("{item} was delivered; {paid} are paid."),
        PaymentState::DeliveredInPart => format!(
            "{} of {} {item} were delivered; {paid} are paid, {back} were given back.",
            news.delivered, payment.quantity
        ),
        PaymentState::Refunding if news.delivered > 0 => {
            "A part was delivered; the money for the rest is on its way back.".to_owned()
        }
        PaymentState::Refunding => format!("The purchase failed{because}; your money is on its way back."),
        PaymentState::Refunded => format!("{amount} were given back{because}."),
        PaymentState::Voided => format!("The purchase failed{because}; no money was taken."),
        PaymentState::Refused => format!("Refused{because}; no money was taken."),
        PaymentState::Declined => "The verification was wrong; no money was taken.".to_owned(),
        PaymentState::Expired => "No verification came in time; no money was taken.".to_owned(),
        PaymentState::BankRefused => format!("The bank refused{because}; no money was taken."),
        PaymentState::Cancelled => "Cancelled; no money was taken.".to_owned(),
        PaymentState::Held => {
            "Nobody knows yet whether it was delivered; an operator looks into it.".to_owned()
        }
        PaymentState::RefundBlocked => {
            format!("The bank refuses to give {owed} back{because}; an operator looks into it.")
        }
        PaymentState::WrittenOff => format!("Closed by the operator{because}."),
        // Of another flow.
        PaymentState::Prompting
        | PaymentState::Presenting
        | PaymentState::Settled
        | PaymentState::Rejected => state_alone(news.state),
    }
}

fn state_alone(state: PaymentState) -> String {
    format!("The payment is {state}.")
}

/// The status of a payment from a child's account. It is one unit, which is delivered when the money is.
pub(crate) fn child_status(
    payment: &ChildPayment,
    state: PaymentState,
    reason: Option<Code>,
    now: Timestamp,
) -> PaymentStatus {
    let settled = state == PaymentState::Settled;
    let paid_minor = if settled { payment.amount.minor } else { 0 };
    PaymentStatus {
        payment: payment.id,
        state,
        amount: payment.ordered,
        paid: payment.amount.currency.minor(paid_minor),
        delivered: u32::from(settled),
        quantity: 1,
        text: Text::new(child_sentence(payment, state, reason.as_ref())),
        reason,
        at: now,
    }
}

/// One that a child understands too.
fn child_sentence(payment: &ChildPayment, state: PaymentState, reason: Option<&Code>) -> String {
    let (amount, child) = (payment.amount, &payment.child.id);
    let because = match reason.map(Code::as_str) {
        Some("piggy_bank_revoked" | "piggy_bank_changed") => " (another piggy bank is used now)",
        Some("guardianship_ended") => " (whoever ordered it is no guardian any more)",
        Some("prompt_not_accepted" | "code_not_accepted") => " (the piggy bank could not show it)",
        Some("child_not_identified") => " (the piggy bank could not make sure who said yes)",
        Some("codes_unavailable") => " (there are no codes at the moment)",
        _ => "",
    };
    match state {
        PaymentState::Prompting if amount != payment.ordered => {
            format!("Asking {child} for {amount}: the account has less than {}.", payment.ordered)
        }
        PaymentState::Prompting => format!("Asking {child} for {amount}."),
        PaymentState::Presenting => format!("{child} said yes, and can pay {amount} with a code now."),
        PaymentState::Settled if amount != payment.ordered => {
            format!("{child} paid {amount} of {}: the account had no more.", payment.ordered)
        }
        PaymentState::Settled => format!("{child} paid {amount}."),
        PaymentState::Rejected => format!("{child} said no. Nothing was paid."),
        PaymentState::Expired if reason.is_some_and(|code| code.as_str() == CODE_EXPIRED) => {
            format!("The code for {amount} was not used in time. Nothing was paid.")
        }
        PaymentState::Expired => format!("{child} did not answer in time. Nothing was paid."),
        PaymentState::Cancelled => "Cancelled. Nothing was paid.".to_owned(),
        PaymentState::Refused => format!("This payment has ended{because}. Nothing was paid."),
        PaymentState::Refunded => format!("{child} has {amount} back."),
        other => state_alone(other),
    }
}
