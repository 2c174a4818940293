//! Codes with which a child pays: take in, show only where and while they count (PC-6, PC-7, PC-9); and the places that
//! this is judged by.

use schemas::ids::{Code, Instance, PaymentId};
use schemas::message::{PaymentCode, PaymentMode, Place, PlacesAnswer, Position, ShowCode};
use schemas::signed::{Catalogue, CodeText, Payer, PaymentToken};
use schemas::time::Timestamp;
use schemas::wire::Text;
use schemas_mutants::Mutant;

use super::{Context, Decision, Poison};
use crate::event::Event;
use crate::limits;
use crate::state::{CodeEnd, CodeRecord, State, is_final};

/// The child asks for a code: it wants to pay now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeRequest {
    /// Comes back with the result.
    pub ticket: u64,
    /// Which payment.
    pub payment: PaymentId,
}

/// Where the device is, as far as it can be relied on now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// Nothing says where.
    Unknown,
    /// Known once, and too long ago.
    TooOld,
    Known(Position),
}

impl Whereabouts {
    pub(crate) fn known(self) -> Option<Position> {
        match self {
            Whereabouts::Known(position) => Some(position),
            Whereabouts::Unknown | Whereabouts::TooOld => None,
        }
    }
}

/// Why a code is not shown, and what the child can do (PC-9).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeRefusal {
    /// Never got one, or so long ago that it is forgotten.
    #[error("there is no code for payment {0}: `edge-agent code list` shows which there are")]
    NoSuchCode(PaymentId),
    /// Its time is over, as far as the piggy bank can be sure.
    #[error("too late: the time to pay with this code is over, and nothing is paid by it")]
    Expired,
    /// The cloud has told what became of the payment.
    #[error("this payment is over already: `edge-agent prompt list` shows what became of it")]
    AlreadyEnded,
    /// Set-up is going on.
    #[error("the piggy bank is in set-up mode: finish set-up first")]
    SetUpMode,
    /// The cloud has not told the time since the agent started.
    #[error("cloud time is not known yet: check the connection with `edge-agent check`, then try again")]
    ClockUnknown,
    /// A token is signed with the piggy bank's key.
    #[error("the piggy bank has no key to sign with: enrol it")]
    NoKey,
    /// Nothing says where the piggy bank is.
    #[error("the piggy bank does not know where it is: go where the sky is seen, or look at its receiver")]
    PositionUnknown,
    /// Nothing has said so for longer than [`limits::POSITION_AGE_MS`].
    #[error(
        "the piggy bank last knew long ago where it is: wait a moment where the sky is seen, then try again"
    )]
    PositionTooOld,
    /// Perhaps inside, perhaps not.
    #[error("the piggy bank knows only roughly where it is: go further in, or wait a moment, then try again")]
    PositionInaccurate,
    /// No list of places, or one that is older than the code.
    #[error("the list of places is not here yet: connect the piggy bank, then try again")]
    PlacesUnknown,
    /// Outside of all of them.
    #[error("there is nothing to pay for here: go to where this is for, then ask again")]
    NotAtAPlace,
    /// At a place, which takes none of the categories.
    #[error("{0} does not take this: it is for something else")]
    CategoryNotHere(Text),
    /// Not at the one place that the order names.
    #[error("this counts only at {0}: go there, then ask again")]
    OtherPlace(Text),
}

impl CodeRefusal {
    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            CodeRefusal::NoSuchCode(_) => "no_such_code",
            CodeRefusal::Expired => "code_expired",
            CodeRefusal::AlreadyEnded => "already_ended",
            CodeRefusal::SetUpMode => "set_up_mode",
            CodeRefusal::ClockUnknown => "clock_unknown",
            CodeRefusal::NoKey => "key_unknown",
            CodeRefusal::PositionUnknown => "position_unknown",
            CodeRefusal::PositionTooOld => "position_too_old",
            CodeRefusal::PositionInaccurate => "position_inaccurate",
            CodeRefusal::PlacesUnknown => "places_unknown",
            CodeRefusal::NotAtAPlace => "not_at_a_place",
            CodeRefusal::CategoryNotHere(_) => "category_not_here",
            CodeRefusal::OtherPlace(_) => "other_place",
        }
    }
}

/// What a question for the places brought.
pub(crate) enum PlacesDecision {
    /// Record these; none: it is known already.
    Record(Vec<Event>),
    /// Not taken over, and why: for `status`.
    Refused(Code),
    /// No room now: to be asked for again.
    Full,
}

/// Only where it counts (PC-9). Where a tenant shows codes unchecked, asking again hides nothing.
pub(crate) fn is_checked(code: &PaymentCode) -> bool {
    code.show == ShowCode::OnRequest || code.check_place
}

impl State {
    /// One that is late already is taken in as well: it ends before it is shown.
    pub(crate) fn decide_code(&self, context: &Context<'_>, code: &PaymentCode) -> Result<Decision, Poison> {
        let complete = match code.mode {
            PaymentMode::Qr => code.code.is_some(),
            PaymentMode::Token => true,
            PaymentMode::Deduction => false,
        };
        if !complete {
            return Err(Poison::Incomplete);
        }
        // The result may have overtaken the code, which had found no room before.
        let told = self.prompts.results.iter().any(|(told, status)| {
            *told == code.payment && status.as_ref().is_some_and(|status| is_final(status.state))
        });
        if told || self.codes.records.contains_key(&code.payment) {
            return Ok(Decision::Record(vec![]));
        }
        let full = self.codes.open.len() >= limits::CODES_OPEN
            || self.codes.records.len() >= limits::CODES
            || !context.journal_accepts;
        if full {
            return Ok(Decision::Full);
        }
        let instance = Some(context.reporter.instance);
        Ok(Decision::Record(vec![Event::CodeAccepted { code: code.clone(), instance }]))
    }

    /// Codes whose time may be over: by the upper bound, so that none is shown too late (correctness.md 14). Those of a
    /// former enrolment have ended with it.
    pub(crate) fn decide_late_codes(&self, context: &Context<'_>) -> Vec<Event> {
        let late = self.codes.open().filter(|code| {
            context.upper.is_some_and(|upper| upper > code.expires_at)
                || self.codes.is_of_another(&code.payment, context.reporter.instance)
        });
        late.map(|code| Event::CodeExpired { payment: code.payment }).collect()
    }

    /// The ladder, in this order.
    pub(crate) fn decide_show(
        &self,
        context: &Context<'_>,
        payment: PaymentId,
    ) -> Result<&PaymentCode, CodeRefusal> {
        let code = match self.codes.records.get(&payment) {
            None => return Err(CodeRefusal::NoSuchCode(payment)),
            Some(CodeRecord::Ended { why: CodeEnd::Expired, .. }) => return Err(CodeRefusal::Expired),
            Some(CodeRecord::Ended { why: CodeEnd::Decided, .. }) => return Err(CodeRefusal::AlreadyEnded),
            Some(CodeRecord::Open(code)) => code,
        };
        if context.set_up_mode {
            return Err(CodeRefusal::SetUpMode);
        }
        match context.upper {
            None => return Err(CodeRefusal::ClockUnknown),
            Some(upper) if upper > code.expires_at => return Err(CodeRefusal::Expired),
            Some(_) => {}
        }
        if is_checked(code) && !Mutant::CodeShownAnywhere.is_active() {
            self.check_place(context, code)?;
        }
        Ok(code)
    }

    /// Surely inside a place that takes it (PC-9); "unknown" counts as outside (devices.md).
    fn check_place(&self, context: &Context<'_>, code: &PaymentCode) -> Result<(), CodeRefusal> {
        let position = match context.whereabouts {
            Whereabouts::Unknown => return Err(CodeRefusal::PositionUnknown),
            Whereabouts::TooOld => return Err(CodeRefusal::PositionTooOld),
            Whereabouts::Known(position) => position,
        };
        let catalogue = self
            .places
            .of(context.reporter.instance)
            .filter(|catalogue| catalogue.version >= code.places_version)
            .ok_or(CodeRefusal::PlacesUnknown)?;
        let here: Vec<&Place> = catalogue.places.iter().filter(|place| place.contains(&position)).collect();
        let perhaps = |place: &Place| place.distance_m(&position) == 0;
        if let Some(named) = &code.place {
            let named = catalogue.place(named).ok_or(CodeRefusal::PlacesUnknown)?;
            return match (named.contains(&position), perhaps(named)) {
                (true, _) if named.takes(&code.categories) => Ok(()),
                (true, _) => Err(CodeRefusal::CategoryNotHere(named.title.clone())),
                (false, true) => Err(CodeRefusal::PositionInaccurate),
                (false, false) => Err(CodeRefusal::OtherPlace(named.title.clone())),
            };
        }
        if here.iter().any(|place| place.takes(&code.categories)) {
            return Ok(());
        }
        // A place that may be here and takes it says more than one that is here and does not.
        if catalogue.places.iter().any(|place| perhaps(place) && place.takes(&code.categories)) {
            return Err(CodeRefusal::PositionInaccurate);
        }
        Err(match here.first() {
            Some(place) => CodeRefusal::CategoryNotHere(place.title.clone()),
            None if catalogue.places.iter().any(perhaps) => CodeRefusal::PositionInaccurate,
            None => CodeRefusal::NotAtAPlace,
        })
    }

    /// What the cloud knows of places. The first signer of an enrolment is the only one; a version only grows.
    pub(crate) fn decide_places(&self, context: &Context<'_>, answer: &PlacesAnswer) -> PlacesDecision {
        let instance = context.reporter.instance;
        let refused = |code| PlacesDecision::Refused(Code::known(code));
        if !context.journal_accepts {
            return PlacesDecision::Full;
        }
        let pinned = self.places.signer(instance);
        if pinned.is_some_and(|pinned| pinned != answer.signer) {
            return refused("signer_changed");
        }
        let known = self.places.of(instance).map_or(0, |catalogue| catalogue.version);
        let pin = pinned.is_none().then_some(Event::SignerPinned { instance, signer: answer.signer });
        let Some(signed) = &answer.catalogue else {
            // "You have it" is believed only of what is here.
            return match answer.version == known {
                true => PlacesDecision::Record(pin.into_iter().collect()),
                false => refused("places_missing"),
            };
        };
        let Ok(catalogue) = Catalogue::verify(signed, &answer.signer) else {
            return refused("places_forged");
        };
        if catalogue.tenant != context.reporter.principal.tenant {
            return refused("places_of_another_tenant");
        }
        if catalogue.version < known {
            return refused("places_older");
        }
        let newer = (catalogue.version > known).then_some(Event::PlacesReceived { instance, catalogue });
        PlacesDecision::Record(pin.into_iter().chain(newer).collect())
    }

    /// Which version of the places is here; 0 for none.
    pub(crate) fn places_version(&self, instance: Instance) -> u64 {
        self.places.of(instance).map_or(0, |catalogue| catalogue.version)
    }

    /// Only above the count bound, and only those that would not be shown if they came again.
    pub(super) fn codes_to_forget(&self, lower: Timestamp) -> Vec<PaymentId> {
        let surplus = (self.codes.records.len() + 1).saturating_sub(limits::CODES);
        let is_late = |payment: &&PaymentId| {
            let record = self.codes.records.get(payment);
            record.is_some_and(|record| lower > record.expires_at())
        };
        let most = surplus.min(limits::FORGOTTEN_AT_ONCE);
        self.codes.ended.iter().filter(is_late).take(most).copied().collect()
    }
}

impl Context<'_> {
    /// A token for a payment (PC-7): never from the cloud's future, at most [`limits::TOKEN_MS`] long, and no longer than
    /// the code.
    pub(crate) fn token(
        &self,
        code: &PaymentCode,
        key: &ed25519_dalek::SigningKey,
    ) -> Result<(CodeText, Timestamp), CodeRefusal> {
        let (issued_at, upper) = self.lower.zip(self.upper).ok_or(CodeRefusal::ClockUnknown)?;
        // Signed to the second.
        let whole_second = |time: Timestamp| Timestamp(time.0 - time.0 % 1000);
        if upper > whole_second(code.expires_at) {
            return Err(CodeRefusal::Expired);
        }
        let expires_at = whole_second(code.expires_at.min(issued_at.plus_ms(limits::TOKEN_MS)));
        // The code lives on, and the time is known too roughly for a token of it.
        if upper > expires_at {
            return Err(CodeRefusal::ClockUnknown);
        }
        let device = self.reporter.principal.clone();
        let payer = Payer::claimed(&code.contains, &device.id, &code.child, &code.categories);
        let token =
            PaymentToken { device, payment: code.payment, amount: code.amount, payer, issued_at, expires_at };
        Ok((token.sign(key), expires_at))
    }
}
