//! Paying with a code: places where a child may pay, what a piggy bank shows and where, and who scans what when (PC-6,
//! PC-7, PC-9, PC-10).

use std::collections::BTreeSet;

use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::places::{CodeRules, RegisteredPlace};
use ed25519_dalek::SigningKey;
use edge_agent_device::{CodeRefusal, CodeRequest, Fix, ShownCode};
use schemas::ids::{MerchantId, PaymentId, PlaceId, Principal};
use schemas::message::{
    CodeClaim, CodeClaims, Payee, PaymentCode, PaymentMode, PaymentOrder, Place, Position, ShowCode,
};
use schemas::money::Money;
use schemas::signed::{CodeText, PaymentQr, PaymentToken, Presented, PublicKey};
use schemas::time::Timestamp;
use schemas::wire::Text;

use super::facts::Wish;
use super::family::categories;
use super::family_book::{Book, Broken, End};
use super::fault::Fault;
use super::lane::Party;
use super::people::Deed;
use super::plan::name;
use super::random::Random;
use super::tap::RequestKey;
use super::{Happening, Violation, World, say};

/// Of the core, as no journal has it.
pub(super) fn core_key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

/// How well every receiver knows where it is, in metres.
const ACCURACY_M: u32 = 10;
/// How often a child asks for its code before it gives up.
const TRIES: u32 = 5;

/// Where a child stands: in the middle of one of the places, or far from all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    Market,
    Stall,
    Elsewhere,
}

impl Spot {
    fn latitude_e7(self) -> i32 {
        match self {
            Spot::Market => 525_200_000,
            Spot::Stall => 525_300_000,
            Spot::Elsewhere => 525_900_000,
        }
    }
}

const LONGITUDE_E7: i32 = 134_000_000;

/// What is handed in at a terminal.
#[derive(Debug, Clone)]
pub(super) struct ScanWish {
    pub(super) payment: PaymentId,
    pub(super) code: CodeText,
    /// Of the text, in milliseconds.
    pub(super) issued_at: u64,
    /// Of the text: a token may end before its code does.
    pub(super) expires_at: Timestamp,
    pub(super) amount: Option<Money>,
    /// Not as it was shown: signed with another key, or no code at all.
    pub(super) changed: Option<Change>,
}

/// What somebody made of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Forged,
    Garbage,
}

/// A child walks somewhere and asks for its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visit {
    payment: PaymentId,
    tries: u32,
}

/// Two places of the only merchant. The market takes everything, the stall what is for school.
pub(super) fn places(merchant: &MerchantId) -> Result<Vec<RegisteredPlace>, Violation> {
    let place =
        |spot: Spot, id: &str, takes: &[&str], terminal: &str| -> Result<RegisteredPlace, Violation> {
            Ok(RegisteredPlace {
                place: Place {
                    place: name(id)?,
                    title: Text::new(format!("The {id}")),
                    latitude_e7: spot.latitude_e7(),
                    longitude_e7: LONGITUDE_E7,
                    radius_m: 100,
                    categories: categories(takes),
                },
                merchant: merchant.clone(),
                terminals: BTreeSet::from([name(terminal)?]),
            })
        };
    Ok(vec![
        place(Spot::Market, "market", &["toys", "sweets", "school"], "till")?,
        place(Spot::Stall, "stall", &["school"], "stall")?,
    ])
}

pub(super) fn place_commands(
    tenant: &schemas::ids::TenantId,
    places: &[RegisteredPlace],
) -> Vec<AdminCommand> {
    let set =
        |entry: &RegisteredPlace| AdminCommand::SetPlace { tenant: tenant.clone(), entry: entry.clone() };
    places.iter().map(set).collect()
}

/// Short enough to end within a world, and tight ones.
pub(super) fn draw_rules(random: &mut Random) -> CodeRules {
    let least_ms = random.range(2_000, 10_000);
    let most_ms = random.range(40_000, 120_000);
    CodeRules {
        default_ms: random.range(least_ms, most_ms),
        least_ms,
        most_ms,
        pace_mm_per_s: random.range(1_000, 100_000),
        margin_ms: random.range(0, 20_000),
        check_at_once: random.chance(600),
        emvco: random.chance(300),
    }
}

/// Whether the child pays this with a code, or at once.
pub(super) fn is_paid_with_code(order: &PaymentOrder) -> bool {
    order.mode.is_some_and(|mode| mode != PaymentMode::Deduction)
}

/// Some orders are to be paid with a code.
pub(super) fn draw_mode(random: &mut Random, order: PaymentOrder, merchant: &MerchantId) -> PaymentOrder {
    if !random.chance(500) {
        return order;
    }
    let mode = if random.chance(600) { PaymentMode::Qr } else { PaymentMode::Token };
    let place: Option<PlaceId> = match random.index(6) {
        0 | 1 => "market".parse().ok(),
        2 => "stall".parse().ok(),
        _ => None,
    };
    let payee = random.chance(if place.is_some() { 300 } else { 900 });
    let payee = payee.then(|| Payee::Merchant(merchant.clone()));
    let claims = [CodeClaim::Device, CodeClaim::Child, CodeClaim::Category];
    let claims: Vec<CodeClaim> = claims.into_iter().filter(|_| random.chance(500)).collect();
    PaymentOrder {
        payee,
        mode: Some(mode),
        place,
        show: [None, Some(ShowCode::AtOnce), Some(ShowCode::OnRequest)][random.index(3)],
        contains: CodeClaims::new(claims).ok(),
        ..order
    }
}

/// On the way to the piggy bank.
impl World {
    /// PC-6, PC-7: a code leaves the core.
    pub(super) fn witness_code(&mut self, to: Party, code: &PaymentCode) -> Result<(), Violation> {
        let who = self.principal(to);
        let Some(facts) = self.facts.family.orders.get_mut(&code.payment) else {
            return Err(self.broken("PC-6", format!("{who} gets a code for what nobody ordered")));
        };
        let asked = facts.prompt.as_ref().map(|(machine, prompt)| (Party::Machine(*machine), prompt.amount));
        let (known, order) = (facts.code.get_or_insert_with(|| code.clone()), &facts.order);
        let as_ordered = asked == Some((to, code.amount))
            && known == code
            && Some(code.mode) == order.mode
            && code.code.is_some() == (code.mode == PaymentMode::Qr)
            && code.child == order.child
            && code.categories == order.categories
            && code.place == order.place
            && code.show == order.show.unwrap_or(ShowCode::AtOnce)
            && order.contains.as_ref().is_none_or(|contains| *contains == code.contains);
        if !as_ordered {
            return Err(self.broken("PC-6", format!("{who} gets another code than ordered: {code:?}")));
        }
        let says = |text: &CodeText| {
            read_qr(text).is_some_and(|qr| {
                qr.payment == code.payment && qr.amount == code.amount && qr.expires_at == code.expires_at
            })
        };
        if !code.code.as_ref().is_none_or(says) {
            return Err(self.broken("PC-6", format!("the QR code of {} says something else", code.payment)));
        }
        Ok(())
    }
}

/// Before the piggy bank.
impl World {
    /// The child has said yes to what is paid with a code. If it is not shown by itself, the child asks for it.
    pub(super) fn will_ask_for_code(&mut self, index: usize, payment: PaymentId) {
        let is_code =
            self.facts.family.orders.get(&payment).is_some_and(|facts| is_paid_with_code(&facts.order));
        if is_code {
            let wait = self.random.family.range(500, 8_000);
            self.after(wait, Happening::Visit { machine: index, visit: Visit { payment, tries: 0 } });
        }
    }

    /// Goes somewhere, most of the time where it should, and asks.
    pub(super) fn visit(&mut self, index: usize, visit: Visit) {
        let order = self.facts.family.orders.get(&visit.payment).map(|facts| facts.order.clone());
        let Some(order) = order else { return };
        let right = match order.place.as_ref().map(PlaceId::as_str) {
            Some("stall") => Spot::Stall,
            _ => Spot::Market,
        };
        let calm = self.mix.is_calm_for_families();
        let spot = match self.random.family.index(6) {
            _ if calm => right,
            0 => Spot::Stall,
            1 => Spot::Elsewhere,
            _ => right,
        };
        if self.machines[index].is_away() {
            let wait = self.random.family.range(1_000, 10_000);
            let visit = Visit { tries: visit.tries + 1, ..visit };
            if visit.tries < TRIES {
                self.after(wait, Happening::Visit { machine: index, visit });
            }
            return;
        }
        self.stand(index, Some(spot));
        let front = &mut self.machines[index].front;
        front.next += 1;
        let ticket = front.next;
        front.visits.insert(ticket, visit);
        let request = CodeRequest { ticket, payment: visit.payment };
        self.with_device(index, |device, boot_ms| device.handle_code_request(&request, boot_ms));
    }

    /// The receiver says where it is, or is silent from now on.
    pub(super) fn stand(&mut self, index: usize, spot: Option<Spot>) {
        let now = self.now;
        let front = &mut self.machines[index].front;
        front.spot_before = front.spot.map(|spot| (spot, now));
        front.spot = spot;
        self.with_device(index, |device, boot_ms| {
            let fix = spot.map(|spot| Fix {
                latitude_e7: spot.latitude_e7(),
                longitude_e7: LONGITUDE_E7,
                accuracy_m: ACCURACY_M,
                at_boot_ms: boot_ms,
            });
            device.handle_position(fix, boot_ms);
        });
    }

    pub(super) fn visit_answered(
        &mut self,
        index: usize,
        ticket: u64,
        result: &Result<ShownCode, CodeRefusal>,
    ) {
        let Some(visit) = self.machines[index].front.visits.remove(&ticket) else { return };
        let who = self.plan.machines[index].principal.clone();
        if let Err(why) = result {
            say!(self, who, "shows no code: {why}");
            let is_over = matches!(why, CodeRefusal::Expired | CodeRefusal::AlreadyEnded);
            if visit.tries < TRIES && !is_over {
                let wait = self.random.family.range(500, 8_000);
                let visit = Visit { tries: visit.tries + 1, ..visit };
                self.after(wait, Happening::Visit { machine: index, visit });
            }
        }
    }

    /// A piggy bank shows a code: the one that it was sent, in time, and only where it counts (PC-9).
    pub(super) fn shows_code(&mut self, index: usize, shown: Option<ShownCode>) -> Result<(), Violation> {
        let who = self.plan.machines[index].principal.clone();
        let now = self.now;
        let before = std::mem::take(&mut self.machines[index].front.code);
        let Some(shown) = shown else { return Ok(()) };
        self.machines[index].front.code = Some(shown.text.clone());
        // Its disk was slow: by now it is too late.
        if self.machines[index].boot_ms(now) > shown.until_boot_ms {
            return Ok(());
        }
        let payment = shown.payment;
        say!(self, who, "shows the code of {payment}");
        let facts = self.facts.family.orders.get(&payment);
        let sent = facts.and_then(|facts| Some((facts.prompt.as_ref()?.0, facts.code.clone()?)));
        let Some((_, code)) = sent.filter(|(machine, _)| *machine == index) else {
            return Err(self.broken("PC-6", format!("{who} shows a code of {payment} that it was not sent")));
        };
        let key = PublicKey::of(&self.plan.machines[index].key);
        let is_it = match shown.text.presented() {
            Some(Presented::Qr(_) | Presented::Emv(_)) => code.code.as_ref() == Some(&shown.text),
            Some(Presented::Token(signed)) => PaymentToken::verify(&signed, &key).is_ok_and(|token| {
                code.mode == PaymentMode::Token
                    && token.payment == payment
                    && token.amount == code.amount
                    && token.expires_at == shown.expires_at
            }),
            None => false,
        };
        if !is_it || shown.expires_at > code.expires_at {
            return Err(
                self.broken("PC-6, PC-7", format!("{who} shows something else as the code of {payment}"))
            );
        }
        let until = self.machines[index].world_time(shown.until_boot_ms);
        if !self.mix.has(Fault::CoreClockSet) && self.core_time(until.max(now)) > code.expires_at.0 {
            return Err(self.broken("PC-6", format!("{who} shows the code of {payment} when it has expired")));
        }
        // What stands there may stay while the child walks on.
        if before.as_ref() != Some(&shown.text) {
            self.check_spot(index, &code)?;
        }
        if self.machines[index].front.scanned.insert(shown.text.as_str().to_owned()) {
            self.will_scan(&code, &shown);
        }
        Ok(())
    }

    /// PC-9: with a check it stands where one of the categories can be paid for, and at the place that the order names.
    fn check_spot(&mut self, index: usize, code: &PaymentCode) -> Result<(), Violation> {
        if code.show == ShowCode::AtOnce && !code.check_place {
            return Ok(());
        }
        const MOMENT_MS: u64 = 1_000;
        let front = &self.machines[index].front;
        let just_now = front.spot_before.filter(|(_, until)| self.now <= until + MOMENT_MS);
        let spots = front.spot.into_iter().chain(just_now.map(|(spot, _)| spot));
        if spots.into_iter().any(|spot| counts_at(spot, code)) {
            return Ok(());
        }
        let here = front.spot;
        let who = self.plan.machines[index].principal.clone();
        Err(self.broken("PC-9", format!("{who} shows the code of {} at {here:?}", code.payment)))
    }

    /// Somebody scans what is shown, once or otherwise.
    fn will_scan(&mut self, code: &PaymentCode, shown: &ShownCode) {
        let Some(family) = &self.plan.family else { return };
        let (till, stall, stranger) = (family.till, family.stall, family.stranger);
        let right =
            if code.place.as_ref().is_some_and(|place| place.as_str() == "stall") { stall } else { till };
        let wish = ScanWish {
            payment: code.payment,
            code: shown.text.clone(),
            issued_at: issued_at(&shown.text),
            expires_at: shown.expires_at,
            amount: self.random.family.chance(300).then_some(code.amount),
            changed: None,
        };
        let soon = self.random.family.range(200, 6_000);
        if self.strikes(Fault::CodeChanged) {
            let random = self.random.of(Fault::CodeChanged);
            let changed = if random.chance(700) { Change::Forged } else { Change::Garbage };
            let wait = random.range(0, 8_000);
            let code = change(changed, &wish, "Snacks", random);
            self.scan_after(wait, right, ScanWish { code, changed: Some(changed), ..wish.clone() });
        }
        if self.strikes(Fault::ScannedElsewhere) {
            let random = self.random.of(Fault::ScannedElsewhere);
            let wait = random.range(0, 8_000);
            let by = [till, stall, stranger][random.index(3)];
            self.scan_after(wait, by, wish.clone());
        }
        if self.strikes(Fault::WrongAmount) {
            let wait = self.random.of(Fault::WrongAmount).range(0, 8_000);
            let amount = Some(self.plan.currency.minor(code.amount.minor + 1));
            self.scan_after(wait, right, ScanWish { amount, ..wish.clone() });
        }
        if self.strikes(Fault::ScannedAgain) {
            let wait = self.random.of(Fault::ScannedAgain).range(0, 20_000);
            self.scan_after(wait, right, wish.clone());
        }
        if self.strikes(Fault::CodeUnused) {
            return;
        }
        if self.strikes(Fault::ScannedLate) {
            let left = shown.expires_at.0.saturating_sub(self.stamp().0);
            let late = (left + 3_000).saturating_sub(self.random.of(Fault::ScannedLate).range(0, 6_000));
            return self.scan_after(late, right, wish);
        }
        self.scan_after(soon, right, wish);
    }

    fn scan_after(&mut self, wait: u64, by: usize, wish: ScanWish) {
        let scan = self.facts.family.scan_wishes.len();
        self.facts.family.scan_wishes.push(wish);
        self.after(wait, Happening::Act(by, Deed::Ask(Wish::Scan { scan })));
    }
}

/// What the book makes of codes.
impl Book<'_> {
    /// PC-6: the time of the way to where it counts, at the pace, and the margin, within the bounds.
    pub(super) fn validity_ms(&self, id: PaymentId, position: Option<&Position>) -> u64 {
        let Some(family) = &self.world.plan.family else { return 0 };
        let rules = self.world.plan.tenants[family.tenant].code_rules;
        let (Some(position), Some(facts)) = (position, self.world.facts.family.orders.get(&id)) else {
            return rules.default_ms;
        };
        let order = &facts.order;
        let counts = |entry: &&RegisteredPlace| match &order.place {
            Some(place) => entry.place.place == *place,
            None => entry.place.takes(&order.categories),
        };
        let nearest = family.places.iter().filter(counts).map(|entry| entry.place.distance_m(position)).min();
        let Some(metres) = nearest else { return rules.default_ms };
        let metres = metres + u64::from(position.accuracy_m);
        let way_ms = metres * 1_000 * 1_000 / rules.pace_mm_per_s;
        (way_ms + rules.margin_ms).clamp(rules.least_ms, rules.most_ms)
    }

    /// PC-10: the ladder of a scan.
    pub(super) fn scan(
        &mut self,
        at: u64,
        request: &RequestKey,
        scan: usize,
        scanned_at: u64,
    ) -> Result<(), Broken> {
        let Some(wish) = self.world.facts.family.scan_wishes.get(scan) else { return Ok(()) };
        let expected = self.scan_refusal(at, &request.0, wish, scanned_at);
        let answer = self.answered(request);
        // The token of a device that is gone may be looked at before its payment is.
        let gone = self.payments.get(&wish.payment).is_some_and(|payment| payment.orphaned);
        let alike = |code: &str| gone && code == "code_forged" && expected.is_some();
        let right = match answer.map(|answer| answer.refused.as_ref()) {
            None => true,
            Some(None) => expected.is_none(),
            Some(Some(code)) => expected == Some(code.as_str()) || alike(code.as_str()),
        };
        if !right {
            let text =
                format!("{} scans {wish:?} at {at}: {expected:?}, and is answered {answer:?}", request.0);
            return Err(("PC-10", text));
        }
        if expected.is_none() {
            self.end(wish.payment, End::Settled);
        }
        Ok(())
    }

    fn scan_refusal(
        &self,
        at: u64,
        by: &Principal,
        wish: &ScanWish,
        scanned_at: u64,
    ) -> Option<&'static str> {
        const CLOCK_SKEW_MS: u64 = 60_000;
        if wish.changed == Some(Change::Garbage) {
            return Some("code_unreadable");
        }
        let places = self.world.plan.family.iter().flat_map(|family| &family.places);
        let Some(here) = places.into_iter().find(|entry| entry.terminals.contains(&by.id)) else {
            return Some("not_a_scanner");
        };
        if wish.changed == Some(Change::Forged) {
            return Some("code_forged");
        }
        let payment = self.payments.get(&wish.payment);
        let facts = self.world.facts.family.orders.get(&wish.payment);
        let (Some(payment), Some(facts)) = (payment, facts) else { return Some("payment_unknown") };
        match payment.end {
            None => {}
            Some(End::Settled | End::GivenBack) => return Some("code_used"),
            Some(End::Expired) => return Some("code_expired"),
            Some(_) => return Some("already_ended"),
        }
        if scanned_at > at + CLOCK_SKEW_MS || scanned_at + CLOCK_SKEW_MS < wish.issued_at {
            return Some("terminal_clock");
        }
        if scanned_at > wish.expires_at.0 || at > payment.settle_at {
            return Some("code_expired");
        }
        if facts.order.place.as_ref().is_some_and(|place| *place != here.place.place) {
            return Some("wrong_place");
        }
        if !here.place.takes(&facts.order.categories) {
            return Some("wrong_category");
        }
        wish.amount.is_some_and(|asked| asked.minor != payment.amount).then_some("wrong_amount")
    }
}

fn counts_at(spot: Spot, code: &PaymentCode) -> bool {
    let (here, takes) = match spot {
        Spot::Market => ("market", true),
        Spot::Stall => ("stall", code.categories.iter().any(|category| category.as_str() == "school")),
        Spot::Elsewhere => return false,
    };
    takes && code.place.as_ref().is_none_or(|place| place.as_str() == here)
}

fn read_qr(text: &CodeText) -> Option<PaymentQr> {
    let key = PublicKey::of(&core_key());
    match text.presented()? {
        Presented::Qr(signed) => PaymentQr::verify(&signed, &key).ok(),
        Presented::Emv(text) => PaymentQr::verify_emv(text.as_str(), &key).ok(),
        Presented::Token(_) => None,
    }
}

fn read_token(text: &CodeText) -> Option<PaymentToken> {
    match text.presented()? {
        Presented::Token(signed) => PaymentToken::read_unverified(&signed).ok(),
        Presented::Qr(_) | Presented::Emv(_) => None,
    }
}

fn issued_at(text: &CodeText) -> u64 {
    let qr = read_qr(text).map(|qr| qr.issued_at);
    qr.or_else(|| read_token(text).map(|token| token.issued_at)).map_or(0, |at| at.0)
}

/// The same with another key, or with nothing of it left.
fn change(how: Change, wish: &ScanWish, title: &str, random: &mut Random) -> CodeText {
    let key = SigningKey::from_bytes(&random.bytes());
    let garbage = "FQ1:%%%".parse().unwrap_or_else(|_| wish.code.clone());
    if how == Change::Garbage {
        return garbage;
    }
    let is_emv = matches!(wish.code.presented(), Some(Presented::Emv(_)));
    let qr = read_qr(&wish.code).map(|qr| {
        if is_emv { qr.sign_emv(title, &key).unwrap_or_else(|| qr.sign(&key)) } else { qr.sign(&key) }
    });
    qr.or_else(|| read_token(&wish.code).map(|token| token.sign(&key))).unwrap_or(garbage)
}
