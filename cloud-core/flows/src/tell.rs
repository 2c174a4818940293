//! Sentences and status messages: who is told what of a payment.

use schemas::ids::{Code, MessageId, Principal};
use schemas::message::{Down, PaymentState, PaymentStatus};
use schemas::time::Timestamp;
use schemas::wire::Text;

use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::limits;
use crate::payment::ChipPayment;
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
            self.supersede(cloud, &party, payment);
            let id = status_id(payment, &party, news.state);
            let body = Down::PaymentStatus(status(payment, news, now));
            self.owe(cloud, &party, id, body, now.plus_ms(limits::STATUS_LIFE_MS));
        }
    }

    /// At most one status per payment is owed to a party; its id has one of the states in it.
    fn supersede(&mut self, cloud: &Cloud, party: &Principal, payment: &ChipPayment) {
        if cloud.outbox.depth(party) == 0 {
            return;
        }
        let older = PaymentState::ALL.iter().map(|state| status_id(payment, party, *state));
        for id in older.filter(|id| cloud.outbox.contains(party, *id)) {
            self.withdraw(party, id, "superseded");
        }
    }
}

fn status_id(payment: &ChipPayment, party: &Principal, state: PaymentState) -> MessageId {
    let party = party.to_string();
    MessageId::derived("status", &[&payment.id.0, party.as_bytes(), state.as_str().as_bytes()])
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
    }
}
