//! People and their terminals: ordinary MQTT clients, which acknowledge by themselves, lose what they got, send
//! twice, answer late, sign wrong (correctness.md 11).

use std::collections::BTreeMap;

use schemas::envelope::Envelope;
use schemas::ids::{IdempotencyKey, MessageId, PaymentId};
use schemas::message::{
    self, PaymentCancel, PaymentRefund, PaymentRequest, PaymentScan, PaymentState, PaymentStatus,
    StatusRequest, VerificationAnswer, VerificationRequest,
};
use schemas::signed::{PublicKey, Verification};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;

use super::client::{Down, Habits, Up};
use super::facts::{Request, Wish};
use super::family_facts::named;
use super::fault::Fault;
use super::lane::Party;
use super::plan::PersonPlan;
use super::{Happening, Violation, World, say};

/// Something on a person's mind.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// Ask for something, with a new key.
    Ask(Wish),
    /// The same bytes again.
    Repeat(Kind, Vec<u8>),
    /// Answer what was asked.
    Verify(VerificationRequest, bool),
    /// Look at what is open.
    Look,
    /// What the cloud had no room for.
    SendAgain,
    /// On this connection, this packet.
    AcknowledgeAgain(u64, u16),
}

/// A message that waits for its PUBACK.
struct Waiting {
    kind: Kind,
    payload: Vec<u8>,
    /// The connection that it was sent on, and its tag there.
    sent: Option<(u64, u64)>,
}

/// One person.
pub(super) struct Person {
    pub(super) connection: Option<u64>,
    online: bool,
    /// Something was lost, and this person will ask for it.
    will_look: bool,
    waiting: Vec<Waiting>,
    next: u64,
    /// How this person answers for each payment, once they were asked.
    answers: BTreeMap<PaymentId, Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Never,
    Wrong,
    Late,
    Good,
}

impl Person {
    pub(super) fn new(_: &PersonPlan) -> Self {
        Self {
            connection: None,
            online: false,
            will_look: false,
            waiting: Vec::new(),
            next: 0,
            answers: BTreeMap::new(),
        }
    }

    pub(super) fn waits(&self) -> usize {
        self.waiting.len()
    }
}

impl World {
    /// How the client at this end behaves.
    pub(super) fn habits(&self, party: Party) -> Habits {
        match party {
            Party::Person(person) => self.plan.people[person].habits.clone(),
            Party::Machine(machine) => self.plan.machines[machine].habits.clone(),
        }
    }

    pub(super) fn person_hears(
        &mut self,
        index: usize,
        connection: u64,
        heard: Down,
    ) -> Result<(), Violation> {
        if self.people[index].connection != Some(connection) {
            return Ok(());
        }
        match heard {
            Down::Accepted(true) => self.send_up(connection, Up::Subscribe)?,
            Down::Accepted(false) | Down::Closed => {
                let person = &mut self.people[index];
                person.connection = None;
                person.online = false;
                let wait = self.random.network.range(100, 5_000);
                self.after(wait, Happening::Connect(Party::Person(index)));
            }
            Down::Subscribed => {
                self.people[index].online = true;
                self.send_waiting(index)?;
            }
            Down::Publish { packet, kind, payload } => {
                if let Some(packet) = packet {
                    self.send_up(connection, Up::Acknowledge { packet, code: 0 })?;
                    if self.strikes(Fault::AcknowledgesAgain) {
                        let wait = self.random.of(Fault::AcknowledgesAgain).range(0, 2_000);
                        self.after(wait, Happening::Act(index, Deed::AcknowledgeAgain(connection, packet)));
                    }
                }
                self.read(index, kind, &payload);
            }
            Down::Promise { tag, code } => {
                let waiting = &mut self.people[index].waiting;
                if code == 0x97 {
                    // Kept, and sent later as a new PUBLISH (correctness.md 9).
                    let refused = waiting.iter_mut().filter(|found| found.sent == Some((connection, tag)));
                    refused.for_each(|found| found.sent = None);
                    self.after(3_000, Happening::Act(index, Deed::SendAgain));
                } else {
                    waiting.retain(|found| found.sent != Some((connection, tag)));
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, index: usize, kind: Kind, payload: &[u8]) {
        let Ok(envelope) = message::Down::decode(kind, payload) else { return };
        if let message::Down::PaymentStatus(status) = &envelope.body {
            let who = self.plan.people[index].principal.clone();
            if !self.note_family_status(&who, status) {
                self.note_status(index, status);
            }
        }
        if let message::Down::Wish(notice) = &envelope.body {
            self.note_notice(index, notice);
        }
        if self.strikes(Fault::TerminalLoses) {
            if !std::mem::replace(&mut self.people[index].will_look, true) {
                let wait = self.random.of(Fault::TerminalLoses).range(1_000, 8_000);
                self.after(wait, Happening::Act(index, Deed::Look));
            }
            return;
        }
        match envelope.body {
            message::Down::PaymentVerification(request) => self.asked(index, request),
            message::Down::PaySuggestion(suggestion) => self.reads_suggestion(index, &suggestion),
            message::Down::Wish(notice) => self.reads_wish(index, &notice),
            message::Down::PaymentStatus(status) => {
                self.heard_status(index, &status);
                self.heard_family_status(index, &status);
                self.heard_of_wish(index, &status);
            }
            message::Down::RequestAnswer(answer) => {
                if let Some(payment) = answer.payment
                    && matches!(
                        self.wish_of(index, answer.key),
                        Some(Wish::Order { .. } | Wish::Choose { .. })
                    )
                {
                    self.order_answered(index, payment);
                }
                if let Some(payment) = answer.payment
                    && matches!(self.wish_of(index, answer.key), Some(Wish::Pay { .. }))
                    && self.strikes(Fault::Cancel)
                {
                    let wait = self.random.of(Fault::Cancel).range(0, 20_000);
                    self.after(wait, Happening::Act(index, Deed::Ask(Wish::Cancel { payment })));
                }
            }
            _ => {}
        }
    }

    fn wish_of(&self, index: usize, key: IdempotencyKey) -> Option<Wish> {
        let who = self.plan.people[index].principal.clone();
        self.facts.requests.get(&(who, key)).map(|request| request.wish)
    }

    fn note_status(&mut self, index: usize, status: &PaymentStatus) {
        if self.plan.people[index].is_till {
            self.facts.payment(status.payment).merchant_told.push(status.state);
            return;
        }
        let told = &mut self.facts.payment(status.payment).told;
        if told.as_ref().is_none_or(|known| known.at <= status.at) {
            *told = Some(status.clone());
        }
    }

    fn heard_status(&mut self, index: usize, status: &PaymentStatus) {
        let delivered = matches!(status.state, PaymentState::Delivered | PaymentState::DeliveredInPart);
        if self.plan.people[index].is_till && delivered && self.strikes(Fault::MerchantRefund) {
            let random = self.random.of(Fault::MerchantRefund);
            // Some see their mistake at once.
            let wait = if random.chance(300) { 0 } else { random.range(500, 30_000) };
            let payment = status.payment;
            self.after(wait, Happening::Act(index, Deed::Ask(Wish::Refund { payment })));
        }
    }

    fn asked(&mut self, index: usize, request: VerificationRequest) {
        let known = self.people[index].answers.get(&request.payment).copied();
        let answer = known.unwrap_or_else(|| {
            if self.strikes(Fault::NeverVerifies) {
                Answer::Never
            } else if self.strikes(Fault::VerifiesWrong) {
                Answer::Wrong
            } else if self.strikes(Fault::VerifiesLate) {
                Answer::Late
            } else {
                Answer::Good
            }
        });
        self.people[index].answers.insert(request.payment, answer);
        // A person reads how much time is left, whatever the clocks say.
        let left = request.answer_by.0.saturating_sub(self.stamp().0);
        let wait = match answer {
            Answer::Never => return,
            Answer::Late => {
                (left + 3_000).saturating_sub(self.random.of(Fault::VerifiesLate).range(0, 6_000))
            }
            Answer::Wrong | Answer::Good => self.random.people.range(500, 4_000),
        };
        self.after(wait, Happening::Act(index, Deed::Verify(request, answer != Answer::Wrong)));
    }

    pub(super) fn act(&mut self, index: usize, deed: Deed) -> Result<(), Violation> {
        match deed {
            Deed::Ask(wish) => self.ask(index, wish),
            Deed::Repeat(kind, payload) => self.say(index, kind, payload),
            Deed::Verify(request, good) => self.verify(index, &request, good),
            Deed::SendAgain => {
                if self.people[index].online {
                    self.send_waiting(index)
                } else {
                    Ok(())
                }
            }
            Deed::AcknowledgeAgain(connection, packet) => {
                self.send_up(connection, Up::Acknowledge { packet, code: 0 })
            }
            Deed::Look => {
                self.people[index].will_look = false;
                let body = message::Up::StatusRequest(StatusRequest { payment: None });
                let payload = Envelope::message(MessageId(self.random.ids.bytes()), body).encode();
                self.say(index, Kind::StatusRequest, payload)
            }
        }
    }

    fn ask(&mut self, index: usize, wish: Wish) -> Result<(), Violation> {
        let who = self.plan.people[index].principal.clone();
        let key = IdempotencyKey(self.random.ids.bytes());
        say!(self, who, "wants {wish:?}");
        let body = match wish {
            Wish::Pay { offer } => {
                let information = self.facts.offers[offer].signed.clone();
                message::Up::PaymentRequest(PaymentRequest { information })
            }
            Wish::Cancel { payment } => message::Up::PaymentCancel(PaymentCancel { payment }),
            Wish::Refund { payment } => message::Up::PaymentRefund(PaymentRefund { payment }),
            Wish::Order { order } => message::Up::PaymentOrder(self.facts.family.wishes[order].clone()),
            Wish::Limit { limits } => {
                message::Up::ChildLimits(self.facts.family.limit_wishes[limits].clone())
            }
            Wish::Scan { scan } => {
                let wish = &self.facts.family.scan_wishes[scan];
                let (code, amount) = (wish.code.clone(), wish.amount);
                message::Up::PaymentScan(PaymentScan { code, amount, scanned_at: self.terminal_time(index) })
            }
            Wish::Allow { allowance } => {
                message::Up::ChildAllowance(self.facts.family.allowance_wishes[allowance].clone())
            }
            Wish::Own { own } => message::Up::OwnPayment(self.facts.family.own.wishes[own].clone()),
            Wish::Choose { choice } => {
                message::Up::SuggestionAnswer(self.facts.family.own.choices[choice].clone())
            }
            Wish::Decline { decline } => {
                message::Up::WishDecline(self.facts.family.wish_list.declines[decline].clone())
            }
        };
        self.facts.requests.insert((who, key), Request { wish, promised: false, heard: None, answer: None });
        let kind = body.kind();
        let not_after = self.terminal_time(index).plus_ms(self.random.people.range(60_000, 600_000));
        self.expect_work(index, key, not_after, &body);
        let payload =
            Envelope::request(MessageId(self.random.ids.bytes()), key, not_after, body.clone()).encode();
        if self.strikes(Fault::SendsTwice) {
            let wait = self.random.of(Fault::SendsTwice).range(0, 30_000);
            self.after(wait, Happening::Act(index, Deed::Repeat(kind, payload.clone())));
        }
        // A no leaves nothing behind that tells which of two was the first.
        if !matches!(wish, Wish::Choose { .. } | Wish::Decline { .. }) && self.strikes(Fault::KeyReused) {
            let other = not_after.plus_ms(1_000);
            self.expect_work(index, key, other, &body);
            let payload = Envelope::request(MessageId(self.random.ids.bytes()), key, other, body).encode();
            let wait = self.random.of(Fault::KeyReused).range(0, 5_000);
            self.after(wait, Happening::Act(index, Deed::Repeat(kind, payload)));
        }
        let is_once =
            matches!(wish, Wish::Order { .. } | Wish::Limit { .. } | Wish::Allow { .. } | Wish::Own { .. });
        if !is_once && self.strikes(Fault::NewKey) {
            let wait = self.random.of(Fault::NewKey).range(100, 20_000);
            self.after(wait, Happening::Act(index, Deed::Ask(wish)));
        }
        self.say(index, kind, payload)
    }

    /// What the clock of this person's terminal shows.
    fn terminal_time(&self, index: usize) -> Timestamp {
        Timestamp((self.plan.epoch_ms + self.now).saturating_add_signed(self.plan.people[index].ahead_ms))
    }

    fn expect_work(&mut self, index: usize, key: IdempotencyKey, not_after: Timestamp, body: &message::Up) {
        let who = self.plan.people[index].principal.clone();
        match body {
            message::Up::PaymentOrder(order) => self.expect_order(&who, key, not_after, order),
            message::Up::ChildLimits(_) | message::Up::PaymentScan(_) | message::Up::WishDecline(_) => {}
            message::Up::ChildAllowance(set) => self.expect_allowance(&who, set),
            message::Up::OwnPayment(order) => self.expect_own(&who, key, not_after, order),
            message::Up::SuggestionAnswer(choice) => self.expect_choice(&who, key, not_after, choice),
            _ => self.expect_payment(index, key, not_after),
        }
    }

    fn expect_payment(&mut self, index: usize, key: IdempotencyKey, not_after: Timestamp) {
        let who = self.plan.people[index].principal.clone();
        let id = named("payment", &who, key, not_after);
        self.facts.payment(id).request = Some((who, key));
    }

    fn verify(&mut self, index: usize, request: &VerificationRequest, good: bool) -> Result<(), Violation> {
        let person = &self.plan.people[index];
        let mut said = Verification {
            payer: person.principal.clone(),
            payment: request.payment,
            payee: request.payee.clone(),
            amount: request.amount,
            expires_at: Timestamp(self.terminal_time(index).0 / 1000 * 1000 + 120_000),
        };
        let mut key = person.key.clone();
        if !good {
            match self.random.of(Fault::VerifiesWrong).index(3) {
                0 => {
                    key =
                        ed25519_dalek::SigningKey::from_bytes(&self.random.of(Fault::VerifiesWrong).bytes());
                    self.facts.strange_keys.push(PublicKey::of(&key));
                }
                1 => said.amount = self.plan.currency.minor(request.amount.minor + 1),
                _ => said.payee = Text::new("somebody else"),
            }
        }
        let facts = self.facts.payment(request.payment);
        facts.verified_well |= good;
        facts.verified_wrong |= !good;
        let body = message::Up::PaymentVerification(VerificationAnswer { verification: said.sign(&key) });
        let payload = Envelope::message(MessageId(self.random.ids.bytes()), body).encode();
        self.say(index, Kind::PaymentVerification, payload)
    }

    /// Kept until it is promised, sent once per connection.
    fn say(&mut self, index: usize, kind: Kind, payload: Vec<u8>) -> Result<(), Violation> {
        self.people[index].waiting.push(Waiting { kind, payload, sent: None });
        if self.people[index].online { self.send_waiting(index) } else { Ok(()) }
    }

    fn send_waiting(&mut self, index: usize) -> Result<(), Violation> {
        let person = &mut self.people[index];
        let Some(connection) = person.connection else { return Ok(()) };
        let mut packets = Vec::new();
        for waiting in &mut person.waiting {
            if waiting.sent.is_none_or(|(on, _)| on != connection) {
                person.next += 1;
                waiting.sent = Some((connection, person.next));
                let (kind, payload) = (waiting.kind, waiting.payload.clone());
                packets.push(Up::Publish { tag: person.next, kind, payload });
            }
        }
        packets.into_iter().try_for_each(|packet| self.send_up(connection, packet))
    }
}
