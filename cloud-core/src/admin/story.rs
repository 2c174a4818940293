//! The story of a payment, read from the journal: every record that names it, in order, with its time.
//!
//! The core forgets closed payments (correctness.md 17); the journal does not. Nothing is asked of the core: files are
//! read beside it, up to the position that is synced; with the index only those frames that it names.

use cloud_core_flows::event::{Event, Record};
use cloud_core_history::{History, HistoryError};
use schemas::ids::PaymentId;
use schemas::message::{Down, PaymentCode};
use schemas_journal::{Disk, OpenError, Position, for_each_record_through};
use serde_json::{Value, json};

use super::{Chapter, Story};
use crate::audit::Filter;

/// More records than any payment has.
const CHAPTERS: usize = 10_000;

/// Reads the whole journal up to `synced`. Blocking, and slow for a long one.
///
/// # Errors
/// The journal is damaged.
pub(crate) fn tell<D: Disk>(disk: &D, synced: Position, payment: PaymentId) -> Result<Story, OpenError> {
    let mut teller = Teller::of(payment);
    for_each_record_through(disk, synced, |position, _, bytes| {
        teller.hear(position, bytes);
    })?;
    Ok(teller.story)
}

/// The same by the index, from a few frames.
///
/// # Errors
/// The index or the journal can't be read.
pub(crate) fn tell_by<D: Disk>(history: &History<D>, payment: PaymentId) -> Result<Story, HistoryError> {
    let mut teller = Teller::of(payment);
    history.for_each_record_near(payment, |position, bytes| teller.hear(position, bytes))?;
    Ok(teller.story)
}

/// Hears records in order, and keeps those of one payment.
struct Teller {
    filter: Filter,
    story: Story,
}

impl Teller {
    fn of(payment: PaymentId) -> Self {
        let filter = Filter { payment: Some(payment), ..Filter::default() };
        Self { filter, story: Story { payment, chapters: Vec::new(), is_cut: false } }
    }

    /// Whether there is room for more.
    fn hear(&mut self, position: Position, bytes: &[u8]) -> bool {
        let Some(Ok(record)) = self.filter.select(position, bytes) else { return true };
        if self.story.chapters.len() == CHAPTERS {
            self.story.is_cut = true;
            return false;
        }
        self.story.chapters.push(chapter(position, &record));
        true
    }
}

/// One record as a person reads it.
pub(crate) fn chapter(position: Position, record: &Record) -> Chapter {
    let content = content(&record.event);
    let event = match &content {
        Value::Object(fields) => fields.keys().next().cloned().unwrap_or_default(),
        Value::String(name) => name.clone(),
        _ => String::new(),
    };
    let by = record.by.clone();
    let (kind, text) = (record.event.kind(), sentence(&record.event));
    Chapter { position: position.value(), at: record.at, kind, event, text, by, content }
}

/// The event as JSON; messages that are owed are shown as what they say.
pub(crate) fn content(event: &Event) -> Value {
    if let Event::Queued { principal, message } = event
        && let Ok(envelope) = Down::decode(message.kind, &message.payload)
    {
        let body = match envelope.body {
            // Whoever reads this may not pay with it.
            Down::PaymentCode(code) => Down::PaymentCode(PaymentCode { code: None, ..code }),
            body => body,
        };
        return json!({ "queued": {
            "principal": principal,
            "message": message.message,
            "kind": message.kind,
            "expires_at": message.expires_at,
            "body": serde_json::to_value(&body).unwrap_or_default(),
        }});
    }
    serde_json::to_value(event).unwrap_or_else(|_| Value::String(format!("{event:?}")))
}

fn sentence(event: &Event) -> String {
    let because =
        |code: &Option<schemas::ids::Code>| code.as_ref().map(|c| format!(" ({c})")).unwrap_or_default();
    match event {
        Event::PaymentOpened(payment) => format!(
            "{} asks to pay {} to {} for {} x {} at {}",
            payment.payer, payment.amount, payment.merchant, payment.quantity, payment.item, payment.chip
        ),
        Event::ChildPaymentOpened(payment) => format!(
            "{} orders {} from the account of {} to {}; {} are reserved, and {} asks until {}",
            payment.guardian,
            payment.ordered,
            payment.child,
            payment.payee,
            payment.amount,
            payment.piggy_bank,
            payment.answer_by
        ),
        Event::ChildPaymentMoved { phase, reason, .. } => {
            let phase = serde_json::to_value(phase).unwrap_or_default();
            format!("now {}{}", short(&phase), because(reason))
        }
        Event::LimitsSet { child, guardian, .. } => format!("{guardian} sets limits for {child}"),
        Event::NonceClaimed { .. } => "the chip confirmed the payment information; it is used up".into(),
        Event::PaymentVerified { alive_until, .. } => {
            format!("the payer verified payee and amount; the bank has until {alive_until}")
        }
        Event::PaymentMoved { phase, paid_minor, reason, .. } => {
            let phase = serde_json::to_value(phase).unwrap_or_default();
            format!("now {}; paid {paid_minor} minor units{}", short(&phase), because(reason))
        }
        Event::CommandIssued { command, .. } => format!(
            "command {} to the executor (instance {}), to begin by {}",
            command.id, command.instance, command.start_by
        ),
        Event::OutcomeReported { outcome, delivered, code, .. } => {
            let outcome = serde_json::to_value(outcome).unwrap_or_default();
            format!("outcome {}, {delivered} delivered{}", short(&outcome), because(code))
        }
        Event::ExceptionRaised { case, text, .. } => format!("for the operator, {}: {text}", case.as_str()),
        Event::ExceptionsResolved { resolution, .. } => match resolution {
            Some(resolution) => {
                format!(
                    "the operator resolved it: {}",
                    short(&serde_json::to_value(resolution).unwrap_or_default())
                )
            }
            None => "resolved by what happened later".into(),
        },
        Event::PaymentRetired { .. } => "closed long enough; it left memory".into(),
        Event::RequestAnswered { principal, answer, .. } => match &answer.refused {
            Some(code) => format!("{principal} is told: refused, {code}"),
            None => format!("{principal} is told: accepted"),
        },
        Event::Queued { principal, message } => {
            format!("{} is owed to {principal} until {}", message.kind, message.expires_at)
        }
        Event::Cleared { principal, .. } => format!("{principal} has acknowledged the message"),
        Event::Withdrawn { principal, why, .. } => format!("the message to {principal} is withdrawn: {why}"),
        Event::Restored { position, backup_made_at } => {
            format!("restored up to record {position}, from the backup of {backup_made_at}")
        }
        Event::Ledger(event) => format!("books: {}", short(&serde_json::to_value(event).unwrap_or_default())),
        other => short(&serde_json::to_value(other).unwrap_or_default()),
    }
}

/// A value's name: the variant of an enum, without its content where that is long.
fn short(value: &Value) -> String {
    match value {
        Value::String(name) => name.replace('_', " "),
        Value::Object(fields) => match fields.iter().next() {
            Some((name, Value::String(inner))) => format!("{} {inner}", name.replace('_', " ")),
            Some((name, _)) => name.replace('_', " "),
            None => String::new(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use cloud_core_flows::payment::Phase;
    use schemas::message::PaymentState;
    use schemas::time::Timestamp;
    use schemas_journal::{ChainId, Journal, JournalLimits, MemoryDisk, Records};

    use super::*;

    #[test]
    fn a_story_has_what_names_the_payment_and_nothing_that_is_not_synced() {
        let payment = PaymentId([7; 16]);
        let moved = |id: PaymentId, state: PaymentState| {
            let phase = Phase::Closed(state);
            let event = Event::PaymentMoved { payment: id, phase, paid_minor: 0, reason: None };
            Record { at: Timestamp(5), event, by: None }.encode()
        };
        let disk = MemoryDisk::default();
        let mut nothing = Records(|_, _: &[u8]| {});
        let mut journal =
            Journal::open(disk.clone(), JournalLimits::agent(), ChainId([1; 32]), &mut nothing).unwrap();
        journal
            .append(&[
                moved(payment, PaymentState::Delivered),
                moved(PaymentId([8; 16]), PaymentState::Refused),
                Record { at: Timestamp(6), event: Event::Opened, by: None }.encode(),
            ])
            .unwrap();
        journal.append(&[moved(payment, PaymentState::Refunded)]).unwrap();
        let story = tell(&disk, Position::new(3), payment).unwrap();
        let told: Vec<_> =
            story.chapters.iter().map(|c| (c.position, c.event.as_str(), c.text.as_str())).collect();
        assert_eq!(told, [(1, "payment_moved", "now closed delivered; paid 0 minor units")]);
        assert_eq!(tell(&disk, Position::new(4), payment).unwrap().chapters.len(), 2);
    }
}
