//! What a record is found by: the payment that it names, and who takes part in a payment that it opens.

use std::collections::BTreeMap;

use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::event::Event;
use cloud_core_flows::payment::{OwnPayment, OwnPhase};
use cloud_core_ledger as ledger;
use schemas::ids::{Hash, MerchantId, MessageId, PaymentId, Principal, TenantId};
use schemas::message::{Down, Payee};
use serde::{Deserialize, Serialize};

/// Whose payments are looked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// A payer, payee, guardian or child.
    Person(Principal),
    /// A merchant that is paid.
    Merchant(TenantId, MerchantId),
}

impl Party {
    /// What stands in each record that opens a payment of it.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Person(person) => person.id.as_str(),
            Self::Merchant(_, merchant) => merchant.as_str(),
        }
    }
}

/// What the index is keyed by. Two may share one: whatever is found is compared with what was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Term(pub(crate) u64);

impl Term {
    /// Ids are hashes, so their beginning will do.
    pub(crate) fn of_payment(payment: PaymentId) -> Self {
        Self::beginning(&payment.0)
    }

    pub(crate) fn of_party(party: &Party) -> Self {
        let name = match party {
            Party::Person(person) => format!("person/{person}"),
            Party::Merchant(tenant, merchant) => format!("merchant/{tenant}/{merchant}"),
        };
        Self::beginning(&Hash::of(name.as_bytes()).0)
    }

    fn beginning(bytes: &[u8]) -> Self {
        Self(bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }
}

/// Messages that name a payment and are owed: what becomes of them belongs to its story.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Owed(pub(crate) BTreeMap<MessageId, u64>);

impl Owed {
    /// The terms by which this record is found. To be asked of every record, in order.
    pub(crate) fn terms(&mut self, event: &Event) -> Vec<Term> {
        let mut terms: Vec<Term> = match event {
            Event::Cleared { message, .. } | Event::Withdrawn { message, .. } => {
                self.0.remove(message).into_iter().map(Term).collect()
            }
            event => payments_named(event).into_iter().flatten().map(Term::of_payment).collect(),
        };
        if let Event::Queued { message, .. } = event
            && let Some(term) = terms.first()
        {
            self.0.insert(message.message, term.0);
        }
        if let Some((_, parties)) = opened(event) {
            terms.extend(parties.iter().map(Term::of_party));
        }
        terms
    }
}

/// The payment that this record opens, and who takes part in it.
pub(crate) fn opened(event: &Event) -> Option<(PaymentId, Vec<Party>)> {
    let payee = |tenant: &TenantId, payee: &Payee| match payee {
        Payee::Guardian => None,
        Payee::Person(id) => Some(Party::Person(Principal { tenant: tenant.clone(), id: id.clone() })),
        Payee::Merchant(merchant) => Some(Party::Merchant(tenant.clone(), merchant.clone())),
    };
    let (payment, mut parties) = match event {
        Event::PaymentOpened(opened) => {
            let merchant = Party::Merchant(opened.payer.tenant.clone(), opened.merchant.clone());
            (opened.id, vec![Party::Person(opened.payer.clone()), merchant])
        }
        Event::ChildPaymentOpened(opened) => {
            let people = [&opened.guardian, &opened.child].map(|person| Party::Person(person.clone()));
            let payee = payee(&opened.child.tenant, &opened.payee);
            (opened.id, people.into_iter().chain(payee).collect())
        }
        Event::OwnPaymentOpened(opened) => {
            let payer = Party::Person(opened.payer.clone());
            (opened.id, [payer].into_iter().chain(payee(&opened.payer.tenant, &opened.payee)).collect())
        }
        _ => return None,
    };
    parties.sort();
    parties.dedup();
    Some((payment, parties))
}

/// Of every event that there is: a new one has to say which payment it belongs to.
fn payments_named(event: &Event) -> [Option<PaymentId>; 2] {
    let one = match event {
        Event::Registered(AdminCommand::ResolvePayment { payment, .. }) => Some(*payment),
        Event::Ledger(
            ledger::Event::TransferRecorded { transfer, .. } | ledger::Event::TransferFailed { transfer, .. },
        ) => Some(PaymentId(transfer.user_data.to_be_bytes())).filter(|id| *id != PaymentId([0; 16])),
        Event::RequestAnswered { answer, .. } => answer.payment,
        Event::Queued { message, .. } => {
            let said = Down::decode(message.kind, &message.payload);
            said.ok().and_then(|envelope| payment_told(&envelope.body))
        }
        Event::PaymentOpened(payment) => Some(payment.id),
        Event::ChildPaymentOpened(payment) => Some(payment.id),
        Event::OwnPaymentOpened(OwnPayment { id, phase, .. }) => return [Some(*id), through(*phase)],
        Event::OwnPaymentMoved { payment, phase, .. } => return [Some(*payment), through(*phase)],
        Event::NonceClaimed { payment }
        | Event::PaymentVerified { payment, .. }
        | Event::PaymentMoved { payment, .. }
        | Event::ChildPaymentMoved { payment, .. }
        | Event::OwnPaymentForgotten { payment, .. }
        | Event::CommandIssued { payment, .. }
        | Event::OutcomeReported { payment, .. }
        | Event::ExceptionsResolved { payment, .. }
        | Event::PaymentRetired { payment } => Some(*payment),
        Event::ExceptionRaised { payment, .. } => *payment,
        Event::WishMade { wish, .. } => wish.payment,
        Event::Registered(_)
        | Event::DeviceEnrolled { .. }
        | Event::CertificateRenewed { .. }
        | Event::Ledger(_)
        | Event::Cleared { .. }
        | Event::Withdrawn { .. }
        | Event::LimitsSet { .. }
        | Event::AllowanceSet { .. }
        | Event::GoalsSet { .. }
        | Event::WishEnded { .. }
        | Event::RefusalAudited { .. }
        | Event::Restored { .. }
        | Event::Opened
        | Event::DeviceReported { .. }
        | Event::DeviceRevoked { .. } => None,
    };
    [one, None]
}

fn through(phase: OwnPhase) -> Option<PaymentId> {
    match phase {
        OwnPhase::Closed { through, .. } => through,
        OwnPhase::Suggested { .. } => None,
    }
}

fn payment_told(said: &Down) -> Option<PaymentId> {
    match said {
        Down::RequestAnswer(answer) => answer.payment,
        Down::HealthCheck(question) => Some(question.payment),
        Down::PaymentVerification(question) => Some(question.payment),
        Down::PaymentStatus(status) => Some(status.payment),
        Down::ExecutorCommand(command) => Some(command.payment),
        Down::PaymentPrompt(prompt) => Some(prompt.payment),
        Down::PaymentCode(code) => Some(code.payment),
        Down::PaySuggestion(suggestion) => Some(suggestion.payment),
        Down::CommandStatus(_)
        | Down::Places(_)
        | Down::ChildView(_)
        | Down::Wish(_)
        | Down::CloudTime(_)
        | Down::Refused(_) => None,
    }
}
