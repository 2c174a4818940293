//! Codes of a piggy bank: which one is shown, until when, or why not (PC-6, PC-7, PC-9); and the question for the places.

use std::collections::VecDeque;

use schemas::envelope::Envelope;
use schemas::ids::{Code, MessageId, PaymentId};
use schemas::message::{PaymentCode, PaymentMode, PlacesAnswer, PlacesRequest, Position, ShowCode};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas_journal::Position as Record;
use schemas_mutants::Mutant;

use super::Device;
use crate::decide::{CodeRefusal, CodeRequest, PlacesDecision, Whereabouts, is_checked};
use crate::event::Event;
use crate::limits;
use crate::output::{Output, ShownCode};
use crate::status::{OpenCode, PlacesStatus, PositionStatus};

/// An unanswered question for the places is asked again after this long, in milliseconds; then each time after twice as
/// long, up to the last.
const RETRY_MS: (u64, u64) = (5_000, 600_000);

/// Where the device is, as its receiver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fix {
    /// Degrees north times 10^7.
    pub latitude_e7: i32,
    /// Degrees east times 10^7.
    pub longitude_e7: i32,
    /// Radius of the error, in metres.
    pub accuracy_m: u32,
    /// When it was there, on the boot-time clock, in milliseconds.
    pub at_boot_ms: u64,
}

/// What this process shows and asks; nothing after a start.
#[derive(Debug, Default)]
pub(super) struct Presenting {
    /// Accepted, and perhaps not on disk yet: these are not shown.
    accepting: VecDeque<(Record, PaymentId)>,
    shown: Option<ShownCode>,
    /// What is shown was judged by where the device is, which counts until then.
    judged_until_boot_ms: Option<u64>,
    seed: [u8; 16],
    questions: u64,
    question_due_boot_ms: Option<u64>,
    pause_ms: u64,
    refused: Option<Code>,
}

impl Presenting {
    pub(super) fn new(seed: [u8; 16]) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn handle_event(&mut self, event: &Event, position: Record) {
        if let Event::CodeAccepted { code, .. } = event {
            self.accepting.push_back((position, code.payment));
        }
    }

    pub(super) fn handle_synced(&mut self, synced: Record) {
        while self.accepting.front().is_some_and(|(accepted, _)| *accepted <= synced) {
            self.accepting.pop_front();
        }
    }

    pub(super) fn ask_anew(&mut self) {
        self.question_due_boot_ms = Some(0);
        self.pause_ms = RETRY_MS.0;
    }

    fn shows(&self, payment: PaymentId) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.payment == payment)
    }

    fn is_accepting(&self, payment: PaymentId) -> bool {
        self.accepting.iter().any(|(_, accepting)| *accepting == payment)
    }
}

impl Device {
    /// The key that its certificate is about: it signs tokens (PC-7).
    pub fn handle_key(&mut self, key: ed25519_dalek::SigningKey) {
        self.key = Some(key);
    }

    /// Where the device is now; none: its receiver is gone. Volatile, and no older than it says.
    pub fn handle_position(&mut self, fix: Option<Fix>, now_boot_ms: u64) {
        self.fix = fix;
        self.advance(now_boot_ms);
    }

    /// The child asks for a code. The result is an [`Output::CodeAnswered`], after the [`Output::Code`] that shows it
    /// (PC-9).
    pub fn handle_code_request(&mut self, request: &CodeRequest, now_boot_ms: u64) {
        self.advance(now_boot_ms);
        // One that is shown is judged anew as well: the child may have gone on.
        let result = self.present(request.payment, now_boot_ms);
        match &result {
            Ok(shown) => self.put_up(Some(shown.clone())),
            Err(_) if self.presenting.shows(request.payment) => self.put_up(None),
            Err(_) => {}
        }
        self.output(Output::CodeAnswered { ticket: request.ticket, payment: request.payment, result });
    }

    /// The codes that the child may pay with, oldest first. The codes themselves are not among it: they are for the
    /// place where they count.
    pub fn open_codes(&self, now_boot_ms: u64) -> Vec<OpenCode> {
        let upper = self.clock.upper(now_boot_ms);
        let shown = self.presenting.shown.as_ref().map(|shown| shown.payment);
        let open = |code: &PaymentCode| OpenCode {
            payment: code.payment,
            mode: code.mode,
            amount: code.amount,
            payee: code.payee.clone(),
            categories: code.categories.clone(),
            place: code.place.clone(),
            show: code.show,
            expires_at: code.expires_at,
            shown: shown == Some(code.payment),
            remaining_ms: upper.map(|upper| code.expires_at.ms_since(upper)),
            not_now: self
                .why_not(code.payment, now_boot_ms)
                .map(|why| (Code::known(why.code()), why.to_string())),
        };
        self.state.codes.open().map(open).collect()
    }

    pub(super) fn places_status(&self) -> Option<PlacesStatus> {
        self.profile.prompt.as_ref()?;
        let instance = self.settings.instance;
        let known = self.state.places.of(instance);
        Some(PlacesStatus {
            version: known.map_or(0, |catalogue| catalogue.version),
            places: known.map_or(0, |catalogue| catalogue.places.iter().count()),
            signer: self.state.places.signer(instance),
            refused: self.presenting.refused.clone(),
        })
    }

    pub(super) fn position_status(&self, now_boot_ms: u64) -> Option<PositionStatus> {
        self.fix.map(|fix| PositionStatus {
            accuracy_m: fix.accuracy_m,
            age_ms: now_boot_ms.saturating_sub(fix.at_boot_ms),
            counts: now_boot_ms.saturating_sub(fix.at_boot_ms) <= limits::POSITION_AGE_MS,
        })
    }

    pub(super) fn whereabouts(&self, now_boot_ms: u64) -> Whereabouts {
        let (Some(fix), Some(lower)) = (self.fix, self.clock.lower(now_boot_ms)) else {
            return Whereabouts::Unknown;
        };
        let age_ms = now_boot_ms.saturating_sub(fix.at_boot_ms);
        if age_ms > limits::POSITION_AGE_MS {
            return Whereabouts::TooOld;
        }
        Whereabouts::Known(Position {
            latitude_e7: fix.latitude_e7,
            longitude_e7: fix.longitude_e7,
            accuracy_m: fix.accuracy_m,
            at: Timestamp(lower.0.saturating_sub(age_ms)),
        })
    }

    pub(super) fn end_late_codes(&mut self, now_boot_ms: u64) {
        let late = self.state.decide_late_codes(&self.context(now_boot_ms));
        self.record(late);
    }

    /// Takes down what is over, and puts up what is to be shown at once as soon as it can be.
    pub(super) fn show_code(&mut self, now_boot_ms: u64) {
        let kept = self.presenting.shown.clone().and_then(|shown| self.still_shown(shown, now_boot_ms));
        let next = kept.or_else(|| {
            let at_once = |code: &&PaymentCode| code.show == ShowCode::AtOnce;
            let waiting: Vec<_> = self.state.codes.open().filter(at_once).map(|code| code.payment).collect();
            waiting.into_iter().find_map(|payment| self.present(payment, now_boot_ms).ok())
        });
        self.put_up(next);
    }

    /// When the first open code's time is over, or that of what is shown.
    pub(super) fn next_code_end_boot_ms(&self) -> Option<u64> {
        let first = self.state.codes.open().map(|code| code.expires_at).min()?;
        let shown = self.presenting.shown.as_ref().map(|shown| shown.until_boot_ms);
        Some(self.clock.last_boot_ms(first)?.min(shown.unwrap_or(u64::MAX)).saturating_add(1))
    }

    /// When to ask for the places on a live connection.
    pub(super) fn next_places_question_boot_ms(&self) -> Option<u64> {
        self.presenting.question_due_boot_ms.filter(|_| self.profile.prompt.is_some())
    }

    pub(super) fn ask_for_places(&mut self, connection: u64, now_boot_ms: u64) {
        if self.next_places_question_boot_ms().is_none_or(|due| due > now_boot_ms) {
            return;
        }
        let version = self.state.places_version(self.settings.instance);
        let own = &mut self.presenting;
        own.questions += 1;
        own.question_due_boot_ms = Some(now_boot_ms.saturating_add(own.pause_ms));
        own.pause_ms = own.pause_ms.saturating_mul(2).min(RETRY_MS.1);
        let id = MessageId::derived("places", &[&own.seed, &own.questions.to_be_bytes()]);
        let payload = Envelope::message(id, PlacesRequest { version }).encode();
        self.output(Output::Ask { connection, kind: Kind::Places, payload });
    }

    /// A code may know of places that the device does not.
    pub(super) fn ask_for_newer_places(&mut self, code: &PaymentCode) {
        let known = self.state.places_version(self.settings.instance);
        if code.places_version > known && self.presenting.question_due_boot_ms.is_none() {
            self.presenting.ask_anew();
        }
    }

    pub(super) fn learn_places(&mut self, answer: &PlacesAnswer, now_boot_ms: u64) {
        let decided = self.state.decide_places(&self.context(now_boot_ms), answer);
        let own = &mut self.presenting;
        match decided {
            PlacesDecision::Record(events) => {
                (own.refused, own.question_due_boot_ms) = (None, None);
                self.record(events);
            }
            PlacesDecision::Refused(code) => {
                (own.refused, own.question_due_boot_ms) = (Some(code), None);
            }
            // What was due stays due: nothing else would ask again on this connection.
            PlacesDecision::Full => own.refused = Some(Code::known("journal_full")),
        }
    }

    fn put_up(&mut self, next: Option<ShownCode>) {
        if next != self.presenting.shown {
            self.presenting.shown = next.clone();
            self.output(Output::Code { shown: next });
        }
    }

    /// The same one, for as long as what is now known of the time allows.
    fn still_shown(&self, shown: ShownCode, now_boot_ms: u64) -> Option<ShownCode> {
        let judged_until_boot_ms = self.presenting.judged_until_boot_ms.unwrap_or(u64::MAX);
        let until_boot_ms = self.clock.last_boot_ms(shown.expires_at)?.min(judged_until_boot_ms);
        let open = self.state.codes.open().any(|code| code.payment == shown.payment);
        let may = open && !self.set_up_mode && now_boot_ms <= until_boot_ms;
        may.then_some(ShownCode { until_boot_ms, ..shown })
    }

    fn why_not(&self, payment: PaymentId, now_boot_ms: u64) -> Option<CodeRefusal> {
        self.state.decide_show(&self.context(now_boot_ms), payment).err()
    }

    fn present(&mut self, payment: PaymentId, now_boot_ms: u64) -> Result<ShownCode, CodeRefusal> {
        // Nobody can have seen a code that is not on disk yet.
        if self.presenting.is_accepting(payment) {
            return Err(CodeRefusal::NoSuchCode(payment));
        }
        let context = self.context(now_boot_ms);
        let code = self.state.decide_show(&context, payment)?;
        let (text, expires_at) = match (&code.code, code.mode, &self.key) {
            (Some(text), PaymentMode::Qr, _) => (text.clone(), code.expires_at),
            (_, PaymentMode::Token, Some(key)) => context.token(code, key)?,
            _ => return Err(CodeRefusal::NoKey),
        };
        let judged_until_boot_ms = is_checked(code).then_some(now_boot_ms.saturating_add(limits::TOKEN_MS));
        let last_boot_ms = match Mutant::CodeShownLate.is_active() {
            true => now_boot_ms.saturating_add(limits::TOKEN_MS),
            false => self.clock.last_boot_ms(expires_at).ok_or(CodeRefusal::ClockUnknown)?,
        };
        if now_boot_ms > last_boot_ms {
            return Err(CodeRefusal::Expired);
        }
        let until_boot_ms = last_boot_ms.min(judged_until_boot_ms.unwrap_or(u64::MAX));
        let shown = ShownCode {
            payment,
            mode: code.mode,
            amount: code.amount,
            payee: code.payee.clone(),
            text,
            expires_at,
            until_boot_ms,
        };
        self.presenting.judged_until_boot_ms = judged_until_boot_ms;
        Ok(shown)
    }
}
