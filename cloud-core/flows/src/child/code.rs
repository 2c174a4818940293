//! With what a child pays at a place (PC-6, PC-7, PC-9, PC-10, PC-16): what an order may ask for, the code that is made
//! when the child has agreed, and what becomes of a scan. The outcomes stand in the table of `child.rs`.

use schemas::ids::{Code, MerchantId, MessageId, PaymentId, Principal, TenantId};
use schemas::message::{
    CodeClaim, CodeClaims, Down, Payee, PaymentCode, PaymentMode, PaymentOrder, PaymentScan, PaymentState,
    PlacesAnswer, PlacesRequest, Position, ShowCode,
};
use schemas::money::Money;
use schemas::signed::{CodeText, Payer, PaymentQr, PaymentToken, Presented, SignedError};
use schemas::time::Timestamp;
use schemas::wire::SignedBytes;
use schemas_mutants::Mutant;

use super::{ChildFlow, payee_text, prompt_id};
use crate::books::ChildLegs;
use crate::children::Child;
use crate::cloud::Cloud;
use crate::event::Event;
use crate::limits;
use crate::payment::{ChildPayment, ChildPhase, CodeTerms};
use crate::places::RegisteredPlace;
use crate::registry::Standing;
use crate::rejection::Rejection;
use crate::signer::Signer;

/// Why a payment ended whose code nobody has handed in.
pub(crate) const CODE_EXPIRED: &str = "code_expired";

pub(super) fn code_id(payment: PaymentId) -> MessageId {
    MessageId::derived("code", &[&payment.0])
}

// ---- the order ----

/// What the order asks of a code; none for a deduction.
pub(super) fn terms(order: &PaymentOrder, signer: Option<&Signer>) -> Result<Option<CodeTerms>, Rejection> {
    let mode = match order.mode {
        None | Some(PaymentMode::Deduction) => return Ok(None),
        Some(mode) => mode,
    };
    if mode == PaymentMode::Qr && signer.is_none() {
        return Err(codes_unavailable());
    }
    let contains = match order.contains.clone() {
        Some(contains) => contains,
        None => CodeClaims::new(vec![CodeClaim::Device])
            .map_err(|why| Rejection::new("contains_invalid", why.to_string()))?,
    };
    let names_bytes: usize = order.categories.iter().map(|name| name.as_str().len() + 2).sum();
    if contains.contains(CodeClaim::Category) && names_bytes > limits::CATEGORIES_OF_CODE_BYTES {
        let text = "the code has no room for so many categories: name fewer, or leave them out of `contains`";
        return Err(Rejection::new("code_too_long", text));
    }
    let show = order.show.unwrap_or(ShowCode::AtOnce);
    Ok(Some(CodeTerms { mode, place: order.place.clone(), show, contains }))
}

/// The place that the order names.
pub(super) fn place_of<'a>(
    cloud: &'a Cloud,
    tenant: &TenantId,
    order: &PaymentOrder,
) -> Result<Option<&'a RegisteredPlace>, Rejection> {
    let Some(name) = &order.place else { return Ok(None) };
    let found = cloud.registry.place(tenant, name).ok_or_else(|| {
        let text = format!("no place `{name}`: ask the operator which there are");
        Rejection::new("place_unknown", text)
    })?;
    if !found.place.takes(&order.categories) {
        let text = format!("`{name}` takes none of these categories: name another place, or leave it out");
        return Err(Rejection::new("wrong_category", text));
    }
    Ok(Some(found))
}

/// Only merchants scan codes.
pub(super) fn payee_of(
    cloud: &Cloud,
    tenant: &TenantId,
    order: &PaymentOrder,
    place: Option<&RegisteredPlace>,
    child: &Child,
) -> Result<Payee, Rejection> {
    let of_place = place.map(|found| &found.merchant);
    let counts_somewhere =
        |merchant: &MerchantId| cloud.registry.is_paid_somewhere(tenant, merchant, &order.categories);
    let named = order.payee.clone().or_else(|| of_place.cloned().map(Payee::Merchant));
    match named.or_else(|| child.bonds.receiving.clone()) {
        Some(Payee::Merchant(merchant)) => match of_place.filter(|paid| **paid != merchant) {
            None if !counts_somewhere(&merchant) => {
                let text = format!("`{merchant}` is paid for this at no place: ask the operator for one");
                Err(Rejection::new("place_unknown", text))
            }
            None => Ok(Payee::Merchant(merchant)),
            Some(paid) => {
                let text = format!("at this place `{paid}` is paid: leave the payee out, or the place");
                Err(Rejection::new("wrong_payee", text))
            }
        },
        _ => {
            let text = "with a code the child pays a merchant: name one, or a place";
            Err(Rejection::new("payee_not_merchant", text))
        }
    }
}

fn codes_unavailable() -> Rejection {
    Rejection::new("codes_unavailable", "the cloud signs no codes at the moment: order a deduction instead")
}

// ---- the code ----

impl ChildFlow<'_> {
    /// PC-6, PC-7: the child has agreed. Its money stays reserved, and its piggy bank gets a code.
    pub(super) fn present(
        &mut self,
        payment: &ChildPayment,
        terms: &CodeTerms,
        position: Option<Position>,
        signer: Option<&Signer>,
    ) {
        let Payee::Merchant(payee) = &payment.payee else { return };
        let expires_at = self.code_expiry(payment, payee, terms, position.as_ref());
        let code = match (terms.mode, signer) {
            (PaymentMode::Qr, Some(signer)) => Some(self.qr(payment, payee, terms, expires_at, signer)),
            (PaymentMode::Qr, None) => {
                let reason = Some(Code::known("codes_unavailable"));
                return self.release(payment, PaymentState::Refused, reason, position);
            }
            (PaymentMode::Token | PaymentMode::Deduction, _) => None,
        };
        let tenant = &payment.child.tenant;
        let rules = self.cloud.registry.tenant(tenant).map(|found| found.code_rules).unwrap_or_default();
        let message = PaymentCode {
            payment: payment.id,
            mode: terms.mode,
            amount: payment.amount,
            payee: payee_text(self.cloud, payment),
            code,
            contains: terms.contains.clone(),
            child: payment.child.id.clone(),
            categories: payment.categories.clone(),
            place: terms.place.clone(),
            show: terms.show,
            check_place: rules.check_at_once,
            places_version: self.cloud.registry.places_version(tenant),
            expires_at,
        };
        let grace_ms = match Mutant::CodeReservationReleasedAtExpiry.is_active() {
            false => self.cloud.deadlines(tenant).report_ms,
            true => 0,
        };
        let phase = ChildPhase::Presenting { expires_at, settle_at: expires_at.plus_ms(grace_ms) };
        self.withdraw_shown(payment);
        self.out.event(Event::ChildPaymentMoved { payment: payment.id, phase, reason: None, position });
        let id = code_id(payment.id);
        self.out.owe(self.cloud, &payment.piggy_bank, id, Down::PaymentCode(message), expires_at);
        self.tell(payment, PaymentState::Presenting, None, &[&payment.guardian]);
    }

    /// From where the child has agreed to the order's place, or the nearest one where the payment counts; rounded up to
    /// the second, as a code says it.
    fn code_expiry(
        &self,
        payment: &ChildPayment,
        payee: &MerchantId,
        terms: &CodeTerms,
        position: Option<&Position>,
    ) -> Timestamp {
        let (registry, tenant) = (&self.cloud.registry, &payment.child.tenant);
        // An answer may have waited for hours.
        let position = position.filter(|position| position.at.plus_ms(limits::POSITION_LIFE_MS) >= self.now);
        let distance_m = position.and_then(|position| match &terms.place {
            Some(place) => registry.place(tenant, place).map(|found| found.place.distance_m(position)),
            None => registry.nearest_place_m(tenant, payee, &payment.categories, position),
        });
        // It may be as much farther as the position may be wrong.
        let distance_m = distance_m
            .zip(position)
            .map(|(metres, position)| metres.saturating_add(u64::from(position.accuracy_m)));
        let rules = registry.tenant(tenant).map(|found| found.code_rules).unwrap_or_default();
        let end = self.now.plus_ms(rules.valid_ms(distance_m));
        Timestamp(end.0.div_ceil(1_000).saturating_mul(1_000))
    }

    fn qr(
        &self,
        payment: &ChildPayment,
        payee: &MerchantId,
        terms: &CodeTerms,
        expires_at: Timestamp,
        signer: &Signer,
    ) -> CodeText {
        let (registry, tenant) = (&self.cloud.registry, &payment.child.tenant);
        let qr = PaymentQr {
            tenant: payment.child.tenant.clone(),
            payment: payment.id,
            payee: payee.clone(),
            amount: payment.amount,
            payer: payer(payment, terms),
            issued_at: self.now,
            expires_at,
        };
        let is_emvco = registry.tenant(tenant).is_some_and(|found| found.code_rules.emvco);
        let title = registry.merchant(tenant, payee).map_or("", |found| found.title.as_str());
        let emvco = is_emvco.then(|| qr.sign_emv(title, signer.key())).flatten();
        emvco.unwrap_or_else(|| qr.sign(signer.key()))
    }

    /// What the piggy bank has not fetched yet and is not to show any more.
    pub(super) fn withdraw_shown(&mut self, payment: &ChildPayment) {
        for id in [prompt_id(payment.id), code_id(payment.id)] {
            if self.cloud.outbox.contains(&payment.piggy_bank, id) {
                self.out.withdraw(&payment.piggy_bank, id, "superseded");
            }
        }
    }
}

fn payer(payment: &ChildPayment, terms: &CodeTerms) -> Payer {
    Payer::claimed(&terms.contains, &payment.piggy_bank.id, &payment.child.id, &payment.categories)
}

/// PC-9: the places of a tenant, for a piggy bank to keep.
pub(crate) fn places(
    cloud: &Cloud,
    tenant: &TenantId,
    request: &PlacesRequest,
    signer: Option<&Signer>,
) -> Result<PlacesAnswer, Rejection> {
    let signer = signer.ok_or_else(codes_unavailable)?;
    let version = cloud.registry.places_version(tenant);
    let catalogue = match version == request.version {
        true => None,
        false => {
            let signed = cloud.registry.catalogue(tenant).sign(signer.key());
            Some(signed.map_err(|why| Rejection::new("places_full", why.to_string()))?)
        }
    };
    Ok(PlacesAnswer { version, catalogue, signer: signer.public() })
}

// ---- the scan ----

/// What a code says, once it is known who signed it.
struct Read {
    payment: PaymentId,
    mode: PaymentMode,
    /// The piggy bank that signed a token.
    device: Option<Principal>,
    /// Tenant and payee of a QR code.
    of: Option<(TenantId, MerchantId)>,
    amount: Money,
    payer: Payer,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

impl ChildFlow<'_> {
    /// PC-10: a terminal hands in a code. The ladder, in this order: what it is, who hands it in, who signed it, which
    /// payment, what became of that, when it was scanned, and whether it counts there.
    pub(crate) fn scan(
        &mut self,
        scanner: &Principal,
        scan: &PaymentScan,
        signer: Option<&Signer>,
    ) -> Result<PaymentId, Rejection> {
        let read = read(self.cloud, &scan.code, signer)?;
        let place = self.cloud.registry.place_of_terminal(scanner).ok_or_else(|| {
            Rejection::new("not_a_scanner", "this terminal is at no place: ask the operator to register it")
        })?;
        let read = read.ok_or_else(forged)?;
        let payment = self.cloud.child_payment(read.payment);
        let payment = payment.filter(|found| found.child.tenant == scanner.tenant).ok_or_else(|| {
            Rejection::new("payment_unknown", "this code is of no payment here, or of a very old one")
        })?;
        let terms = payment.code.as_ref().filter(|terms| read.agrees(payment, terms)).ok_or_else(forged)?;
        let (expires_at, settle_at) = presented(payment)?;
        if read.expires_at > expires_at {
            return Err(forged());
        }
        if !Mutant::ExpiredCodePays.is_active() {
            self.check_time(scan.scanned_at, &read, settle_at)?;
        }
        if !Mutant::CodeCountsAnywhere.is_active() {
            check_place(payment, terms, place)?;
        }
        if let Some(asked) = scan.amount.filter(|asked| *asked != payment.amount) {
            let text = format!("the code is for {}, not for {asked}", payment.amount);
            return Err(Rejection::new("wrong_amount", text));
        }
        self.settle(payment, None);
        Ok(payment.id)
    }

    fn check_time(&self, scanned_at: Timestamp, read: &Read, settle_at: Timestamp) -> Result<(), Rejection> {
        let is_ahead = scanned_at > self.now.plus_ms(limits::CLOCK_SKEW_MS);
        // Else a terminal whose clock stands still would take a code for ever.
        if is_ahead || scanned_at.plus_ms(limits::CLOCK_SKEW_MS) < read.issued_at {
            let text = "this terminal's clock is wrong: set it, then scan the code again";
            return Err(Rejection::new("terminal_clock", text));
        }
        if scanned_at > read.expires_at || self.now > settle_at { Err(expired()) } else { Ok(()) }
    }

    /// The child's money is the payee's now: its word, or a scan of its code, came in time.
    pub(super) fn settle(&mut self, payment: &ChildPayment, position: Option<Position>) {
        self.book_surely(payment, ChildLegs::of(payment).post());
        self.close(payment, PaymentState::Settled, None, position);
        self.tell_end(payment, PaymentState::Settled, None);
    }
}

/// `None`: it looks like one of ours, and nobody who may has signed it.
fn read(cloud: &Cloud, code: &CodeText, signer: Option<&Signer>) -> Result<Option<Read>, Rejection> {
    let unreadable = || Rejection::new("code_unreadable", "this is no payment code: scan it again");
    match code.presented().ok_or_else(unreadable)? {
        qr @ (Presented::Qr(_) | Presented::Emv(_)) => {
            let Some(key) = signer.map(Signer::public) else { return Ok(None) };
            let verified = match &qr {
                Presented::Emv(text) => PaymentQr::verify_emv(text.as_str(), &key),
                Presented::Qr(signed) | Presented::Token(signed) => PaymentQr::verify(signed, &key),
            };
            match verified {
                Ok(qr) => Ok(Some(Read::of_qr(qr))),
                Err(SignedError::Signature) => Ok(None),
                Err(_) => Err(unreadable()),
            }
        }
        Presented::Token(signed) => {
            let token = PaymentToken::read_unverified(&signed).map_err(|_| unreadable())?;
            Ok(is_signed_by_its_device(cloud, &token, &signed).then(|| Read::of_token(token)))
        }
    }
}

/// With the key of its current enrolment (correctness.md 20).
fn is_signed_by_its_device(cloud: &Cloud, token: &PaymentToken, signed: &SignedBytes) -> bool {
    let device = cloud.registry.device(&token.device);
    let device = device.filter(|device| device.standing == Standing::Enrolled);
    let key = device.and_then(|device| device.public_key);
    key.is_some_and(|key| PaymentToken::verify(signed, &key).is_ok()) || Mutant::ForgedCodePays.is_active()
}

impl Read {
    fn of_qr(qr: PaymentQr) -> Self {
        let PaymentQr { tenant, payment, payee, amount, payer, issued_at, expires_at } = qr;
        let of = Some((tenant, payee));
        Self { payment, mode: PaymentMode::Qr, device: None, of, amount, payer, issued_at, expires_at }
    }

    fn of_token(token: PaymentToken) -> Self {
        let PaymentToken { device, payment, amount, payer, issued_at, expires_at } = token;
        let device = Some(device);
        Self { payment, mode: PaymentMode::Token, device, of: None, amount, payer, issued_at, expires_at }
    }

    /// Whether all that it says is so.
    fn agrees(&self, payment: &ChildPayment, terms: &CodeTerms) -> bool {
        let signed_there = match (&self.device, &self.of) {
            (Some(device), None) => *device == payment.piggy_bank,
            (None, Some((tenant, payee))) => {
                *tenant == payment.child.tenant && payment.payee == Payee::Merchant(payee.clone())
            }
            _ => false,
        };
        signed_there
            && self.mode == terms.mode
            && self.amount == payment.amount
            && self.payer == payer(payment, terms)
    }
}

/// When the code that is presented expires, and until when a scan of it may arrive.
fn presented(payment: &ChildPayment) -> Result<(Timestamp, Timestamp), Rejection> {
    match payment.phase {
        ChildPhase::Presenting { expires_at, settle_at } => Ok((expires_at, settle_at)),
        // Nobody has been given one yet.
        ChildPhase::Prompting { .. } => Err(forged()),
        ChildPhase::Closed(PaymentState::Settled) if Mutant::ScanTwicePays.is_active() => {
            Ok((Timestamp::NEVER, Timestamp::NEVER))
        }
        ChildPhase::Closed(PaymentState::Settled | PaymentState::Refunded) => {
            let text =
                format!("this code has been paid with before, and counts once: payment {}", payment.id);
            Err(Rejection::new("code_used", text))
        }
        ChildPhase::Closed(PaymentState::Expired) => Err(expired()),
        ChildPhase::Closed(_) => {
            Err(Rejection::new("already_ended", "this payment was withdrawn or refused: ask for another one"))
        }
    }
}

fn check_place(payment: &ChildPayment, terms: &CodeTerms, at: &RegisteredPlace) -> Result<(), Rejection> {
    if payment.payee != Payee::Merchant(at.merchant.clone()) {
        return Err(Rejection::new("wrong_payee", "this code pays somebody else, not whoever is paid here"));
    }
    if let Some(place) = terms.place.as_ref().filter(|place| **place != at.place.place) {
        let text = format!("this code counts at `{place}` only");
        return Err(Rejection::new("wrong_place", text));
    }
    if !at.place.takes(&payment.categories) {
        return Err(Rejection::new("wrong_category", "this code is for something that is not paid for here"));
    }
    Ok(())
}

fn forged() -> Rejection {
    Rejection::new(
        "code_forged",
        "this code was not made by whom it names, or was changed: hand nothing out for it",
    )
}

fn expired() -> Rejection {
    Rejection::new(CODE_EXPIRED, "this code is not valid any more: ask for another one")
}
