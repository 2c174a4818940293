//! What principals say: from bytes on `up/{kind}` to a decision. Each kind has senders whose business it is; from
//! anybody else it is refused and audited.

use std::cell::OnceCell;

use schemas::cbor;
use schemas::envelope::Envelope;
use schemas::ids::{Code, Hash, MessageId, PaymentId, Principal};
use schemas::limits::REQUEST_LIFE_MS;
use schemas::message::{CloudTimeAnswer, Down, PlacesAnswer, Refused, RequestAnswer, Up};
use schemas::signed::Proven;
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;
use schemas_mutants::Mutant;

use crate::child::words::Words;
use crate::child::{ChildFlow, code};
use crate::chip::ChipFlow;
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::event::Event;
use crate::limits;
use crate::payment::Phase;
use crate::port::{ConnectionId, Output, PromiseRefusal};
use crate::rejection::Rejection;
use crate::signer::Signer;
use crate::tell::{Audience, as_it_stands};

/// A PUBLISH from an authenticated principal.
pub(crate) struct Incoming<'a> {
    pub(crate) cloud: &'a Cloud,
    pub(crate) now: Timestamp,
    pub(crate) connection: ConnectionId,
    pub(crate) principal: &'a Principal,
    /// The platform's probe may only ask for the time.
    pub(crate) is_probe: bool,
    /// Whether new payments may begin: not when the disk is nearly full.
    pub(crate) has_room: bool,
    /// Nor for anything else.
    pub(crate) is_starved: bool,
    /// For codes and places; none: there are none.
    pub(crate) signer: Option<&'a Signer>,
    /// Read at the first wish.
    pub(crate) words: &'a OnceCell<Words>,
    pub(crate) out: &'a mut Decision,
}

/// What it says.
pub(crate) struct Said {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
    /// A signature in it that needs no second check.
    pub(crate) proven: Option<Proven>,
}

/// Why a message promised nothing.
struct NotAccepted {
    promise: PromiseRefusal,
    message: Option<MessageId>,
    why: Rejection,
}

impl Incoming<'_> {
    /// Decides one message. The promise itself says only "on disk and acted on": a request that is refused for
    /// business reasons is promised and answered.
    pub(crate) fn decide(&mut self, said: &Said) -> Result<(), (PromiseRefusal, Rejection)> {
        let result = self.accept(said);
        result.map_err(|not_accepted| {
            let NotAccepted { promise, message, why } = not_accepted;
            self.say_refused(said.kind, message, &why);
            (promise, why)
        })
    }

    fn accept(&mut self, said: &Said) -> Result<(), NotAccepted> {
        let kind = said.kind;
        let envelope = Up::decode(kind, &said.payload);
        if self.is_starved {
            let message = envelope.ok().map(|envelope| envelope.id);
            let why = Rejection::new("no_room", "the cloud's disk is full: send it again later");
            return Err(NotAccepted { promise: PromiseRefusal::Quota, message, why });
        }
        let envelope = envelope.map_err(|error| NotAccepted {
            promise: PromiseRefusal::PayloadInvalid,
            message: None,
            why: Rejection { code: Code::known(error.code()), text: error.to_string() },
        })?;
        if !self.may_say(&envelope.body) {
            return Err(NotAccepted {
                promise: PromiseRefusal::NotAuthorized,
                message: Some(envelope.id),
                why: Rejection::new(
                    "not_your_message",
                    format!("`{kind}` is not for `{}` to say", self.principal),
                ),
            });
        }
        if envelope.body.is_request() {
            return self.request(&envelope, said.proven.as_ref());
        }
        let id = envelope.id;
        self.say(envelope, said.proven.as_ref()).map_err(|why| {
            let promise = match why.code.as_str() {
                "queue_full" | "no_room" => PromiseRefusal::Quota,
                "not_your_command" => PromiseRefusal::NotAuthorized,
                _ => PromiseRefusal::Implementation,
            };
            NotAccepted { promise, message: Some(id), why }
        })
    }

    fn may_say(&self, body: &Up) -> bool {
        if self.is_probe {
            return matches!(body, Up::CloudTime(_));
        }
        let person = self.cloud.registry.person(self.principal).is_some();
        match body {
            Up::PaymentRequest(_)
            | Up::PaymentCancel(_)
            | Up::PaymentRefund(_)
            | Up::PaymentVerification(_)
            | Up::PaymentOrder(_)
            | Up::ChildLimits(_)
            | Up::ChildAllowance(_)
            | Up::SavingsGoals(_)
            | Up::WishDecline(_)
            | Up::OwnPayment(_)
            | Up::SuggestionAnswer(_)
            | Up::StatusRequest(_) => person,
            Up::HealthCheck(_)
            | Up::ExecutorCommand(_)
            | Up::CommandStatus(_)
            | Up::PaymentPrompt(_)
            | Up::Refused(_) => !person,
            Up::DeviceReport(_) | Up::Places(_) | Up::Wish(_) | Up::WishWithdraw(_) => {
                self.cloud.registry.device(self.principal).is_some()
            }
            Up::CloudTime(_) | Up::PaymentScan(_) => true,
        }
    }

    fn say(&mut self, envelope: Envelope<Up>, proven: Option<&Proven>) -> Result<(), Rejection> {
        let (principal, signer) = (self.principal, self.signer);
        match envelope.body {
            Up::CloudTime(question) => {
                let answer = CloudTimeAnswer { nonce: question.nonce, now: self.now };
                let id = MessageId::derived("cloud-time", &[&question.nonce.to_be_bytes()]);
                self.reply(Envelope::message(id, Down::CloudTime(answer)));
            }
            Up::HealthCheck(answer) => {
                let payment = self.cloud.payment(answer.payment).filter(|payment| payment.chip == *principal);
                let payment = payment
                    .ok_or_else(|| Rejection::new("payment_unknown", "no such payment asked this chip"))?;
                self.flow().health_answer(payment, &answer);
            }
            Up::PaymentVerification(answer) => {
                self.flow().verification(principal, &answer.verification, proven)?
            }
            Up::ExecutorCommand(outcome) => self.flow().outcome(principal, &outcome)?,
            Up::CommandStatus(answer) => self.flow().command_status(principal, &answer)?,
            Up::PaymentPrompt(answer) => self.child_flow().answer(principal, &answer, signer)?,
            Up::Refused(refused) => {
                if let Some(message) = refused.message {
                    self.flow().command_not_accepted(principal, message);
                    self.child_flow().not_accepted(principal, message);
                }
            }
            Up::StatusRequest(wanted) => self.status(wanted.payment),
            Up::Wish(_) | Up::WishWithdraw(_) if !self.has_room => {
                return Err(Rejection::new(
                    "no_room",
                    "the cloud's disk is nearly full: it will be tried again",
                ));
            }
            Up::Wish(said) => {
                let words = self.words.get_or_init(Words::new);
                self.child_flow().wish(principal, &said, words)?;
            }
            Up::WishWithdraw(withdraw) => self.child_flow().withdraw_wish(principal, withdraw.wish)?,
            // Reports must not fill the room that open payments need; a device has a newer one later.
            Up::DeviceReport(_) if !self.has_room => {
                return Err(Rejection::new("no_room", "the cloud's disk is nearly full: report again later"));
            }
            Up::DeviceReport(report) => {
                self.out.event(Event::DeviceReported { device: principal.clone(), report });
            }
            Up::Places(request) => {
                let answer = code::places(self.cloud, &principal.tenant, &request, signer)?;
                self.reply(Envelope::message(places_id(&answer), Down::Places(answer)));
            }
            // Requests: answered in `request`.
            Up::PaymentRequest(_)
            | Up::PaymentScan(_)
            | Up::PaymentCancel(_)
            | Up::PaymentRefund(_)
            | Up::PaymentOrder(_)
            | Up::ChildLimits(_)
            | Up::ChildAllowance(_)
            | Up::WishDecline(_)
            | Up::OwnPayment(_)
            | Up::SuggestionAnswer(_)
            | Up::SavingsGoals(_) => {}
        }
        Ok(())
    }

    fn child_flow(&mut self) -> ChildFlow<'_> {
        ChildFlow { cloud: self.cloud, now: self.now, out: self.out }
    }

    fn flow(&mut self) -> ChipFlow<'_> {
        ChipFlow { cloud: self.cloud, now: self.now, out: self.out }
    }

    /// A request: the end of its life, the window, then the flow; the answer is remembered (MO-3).
    fn request(&mut self, envelope: &Envelope<Up>, proven: Option<&Proven>) -> Result<(), NotAccepted> {
        let (Some(key), Some(not_after)) = (envelope.key, envelope.not_after) else { return Ok(()) };
        let content = Hash::of(&cbor::encode(&(envelope.body.kind(), not_after, &envelope.body)));
        let answer = |result: &Result<Option<PaymentId>, Rejection>| RequestAnswer {
            key,
            payment: result.as_ref().ok().copied().flatten(),
            refused: result.as_ref().err().map(|why| why.code.clone()),
            text: Text::new(result.as_ref().err().map_or("accepted", |why| why.text.as_str())),
        };
        if let Err(why) = self.check_life(not_after) {
            self.answer_once(&answer(&Err(why)));
            return Ok(());
        }
        if let Some(known) = self.cloud.window.find(self.principal, key)
            && !(Mutant::OtherContentAccepted.is_active() && known.content != content)
        {
            let again = if known.content == content {
                known.answer.clone()
            } else {
                let text = "this key was used with other content: make a new key for every new request";
                answer(&Err(Rejection::new("key_reused", text)))
            };
            self.answer_once(&again);
            return Ok(());
        }
        if self.cloud.window.count(self.principal) >= limits::REQUESTS_OF_PRINCIPAL {
            let text = "too many requests are remembered for you: wait until their not_after has passed";
            self.answer_once(&answer(&Err(Rejection::new("too_many_requests", text))));
            return Ok(());
        }
        let is_new_work = match &envelope.body {
            Up::PaymentCancel(_) | Up::PaymentScan(_) => false,
            Up::SuggestionAnswer(answer) => answer.child.is_some(),
            _ => true,
        };
        if is_new_work && !self.has_room {
            let text = "the cloud's disk is nearly full: no new payments for now; try again later";
            let why = Rejection::new("no_room", text);
            return Err(NotAccepted { promise: PromiseRefusal::Quota, message: Some(envelope.id), why });
        }
        let (principal, signer) = (self.principal, self.signer);
        let result = match &envelope.body {
            Up::PaymentRequest(request) => {
                self.flow().request(principal, (key, not_after), &request.information, proven).map(Some)
            }
            Up::PaymentOrder(order) => {
                self.child_flow().order(principal, key, not_after, order, signer).map(Some)
            }
            Up::PaymentScan(scan) => self.child_flow().scan(principal, scan, signer).map(Some),
            Up::ChildLimits(limits) => self.child_flow().limits(principal, limits).map(|()| None),
            Up::ChildAllowance(set) => self.child_flow().set_allowance(principal, set).map(|()| None),
            Up::SavingsGoals(set) => self.child_flow().set_goals(principal, set).map(|()| None),
            Up::OwnPayment(order) => {
                self.child_flow().own_payment(principal, key, not_after, order).map(Some)
            }
            Up::SuggestionAnswer(answer) => {
                self.child_flow().suggestion_answer(principal, key, not_after, answer).map(Some)
            }
            Up::WishDecline(decline) => self.child_flow().decline_wish(principal, decline).map(|()| None),
            Up::PaymentCancel(cancel) => match self.cloud.child_payment(cancel.payment) {
                Some(payment) => self.child_flow().cancel(principal, payment).map(Some),
                None => self.flow().cancel(principal, cancel.payment).map(Some),
            },
            Up::PaymentRefund(refund) => match self.cloud.child_payment(refund.payment) {
                Some(payment) => self.child_flow().give_back(principal, payment).map(Some),
                None => self.flow().merchant_refund(principal, refund.payment).map(Some),
            },
            _ => return Ok(()),
        };
        // The room that is left is for what ends open payments: not to remember that something has changed nothing.
        if !self.has_room && result.is_err() {
            let text = "the cloud's disk is nearly full, and this would change nothing now: try again later";
            let why = Rejection::new("no_room", text);
            return Err(NotAccepted { promise: PromiseRefusal::Quota, message: Some(envelope.id), why });
        }
        self.answer_for_good(content, not_after, answer(&result));
        Ok(())
    }

    fn check_life(&self, not_after: Timestamp) -> Result<(), Rejection> {
        if not_after < self.now {
            return Err(Rejection::new(
                "request_expired",
                "the request's not_after has passed: make a new request",
            ));
        }
        if not_after > self.now.plus_ms(REQUEST_LIFE_MS) {
            return Err(Rejection::new("not_after_too_far", "a request's not_after lies at most 24 h ahead"));
        }
        Ok(())
    }

    /// Remembered and owed: the answer survives a restart of either side.
    fn answer_for_good(&mut self, content: Hash, not_after: Timestamp, answer: RequestAnswer) {
        let principal = self.principal.clone();
        let id = MessageId::derived("answer", &[principal.to_string().as_bytes(), &answer.key.0]);
        self.out.event(Event::RequestAnswered {
            principal: principal.clone(),
            content,
            not_after,
            answer: answer.clone(),
        });
        self.out.owe(self.cloud, &principal, id, Down::RequestAnswer(answer), not_after);
    }

    /// A repeat is answered on the spot; what was owed is still owed.
    fn answer_once(&mut self, answer: &RequestAnswer) {
        let id = MessageId::derived("answer", &[self.principal.to_string().as_bytes(), &answer.key.0]);
        self.reply(Envelope::message(id, Down::RequestAnswer(answer.clone())));
    }

    /// Everything that waits for this person, or one payment, as it stands.
    fn status(&mut self, wanted: Option<PaymentId>) {
        let principal = self.principal;
        let payments: Vec<_> = match wanted {
            Some(id) => {
                self.cloud.payment(id).filter(|payment| payment.payer == *principal).into_iter().collect()
            }
            None => self.cloud.open_payments_of(principal),
        };
        for payment in payments {
            self.out.tell(self.cloud, payment, &as_it_stands(payment), Audience::Payer, self.now);
        }
        let mine =
            |id: &PaymentId| self.cloud.child_payment(*id).filter(|found| found.guardian == *principal);
        let ordered = match wanted {
            Some(id) => mine(&id).into_iter().collect(),
            None => self.cloud.open_child_payments_of(principal),
        };
        for payment in ordered {
            self.child_flow().tell_as_it_stands(payment, principal);
        }
        match wanted {
            Some(id) => self.child_flow().tell_own_as_it_stands(principal, id),
            None => self.child_flow().offer_suggestions(principal),
        }
        // What is left of a full disk is for what has to end.
        if wanted.is_none() && self.has_room {
            self.child_flow().offer_wishes(principal);
        }
        offer_open_questions(self.cloud, principal, self.now, self.out);
    }

    fn say_refused(&mut self, kind: Kind, message: Option<MessageId>, why: &Rejection) {
        let refused = Refused {
            message,
            about: kind.as_str().replace('-', "_").parse().ok(),
            code: why.code.clone(),
            text: Text::new(why.text.clone()),
        };
        let id =
            MessageId::derived("refused", &[&self.connection.0.to_be_bytes(), &self.now.0.to_be_bytes()]);
        self.reply(Envelope::message(id, Down::Refused(refused)));
    }

    fn reply(&mut self, envelope: Envelope<Down>) {
        let (connection, kind) = (self.connection, envelope.body.kind());
        self.out.outputs.push(Output::Reply { connection, kind, payload: envelope.encode() });
    }
}

fn places_id(answer: &PlacesAnswer) -> MessageId {
    MessageId::derived("places", &[&answer.signer.0, &answer.version.to_be_bytes()])
}

/// What the lane refused and its protocol had no word for (correctness.md 9). `what` ends with the topic.
pub(crate) fn say_lane_refused(connection: ConnectionId, what: &str, why: &str, now: Timestamp) -> Output {
    let kind = what.rsplit('/').next().unwrap_or_default();
    let refused = Refused {
        message: None,
        about: kind.replace('-', "_").parse().ok(),
        code: Code::known("topic_refused"),
        text: Text::new(format!("{why}: publish below your own up/, with a kind that is yours to say")),
    };
    let id = MessageId::derived("lane-refused", &[&connection.0.to_be_bytes(), &now.0.to_be_bytes()]);
    let payload = Envelope::message(id, Down::Refused(refused)).encode();
    Output::Reply { connection, kind: Kind::Refused, payload }
}

/// correctness.md 11: what a person must answer is offered again; and an executor that comes back is asked about
/// commands that it has fetched and not reported on (correctness.md 15).
pub(crate) fn offer_open_questions(cloud: &Cloud, principal: &Principal, now: Timestamp, out: &mut Decision) {
    for payment in cloud.open_payments_of(principal) {
        let mut flow = ChipFlow { cloud, now, out };
        match (&payment.phase, &payment.command) {
            (Phase::Verifying { answer_by }, _)
                if payment.payer == *principal
                    && *answer_by > now
                    && flow.open_verifications(payment).is_empty() =>
            {
                flow.offer_verification(payment, *answer_by);
            }
            (Phase::Commanded | Phase::Asked { .. }, Some(command))
                if payment.executor.as_ref() == Some(principal) =>
            {
                let fetched = !cloud.outbox.contains(principal, crate::payment::Command::message(command.id));
                if fetched {
                    flow.ask_status(principal, command.id, command.settle_at.max(now.plus_ms(1)));
                }
            }
            _ => {}
        }
    }
}
