//! The load itself: when payments begin, what devices and people do about what they hear, and what goes wrong on
//! purpose. One thread; the only shared state is behind one `RefCell`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use schemas::envelope::Envelope;
use schemas::ids::{Hash, IdempotencyKey, ItemId, MessageId, Nonce};
use schemas::message::{Categories, PaymentOrder, PaymentRequest, StatusRequest, Up};
use schemas::signed::PaymentInformation;
use schemas::topic::Kind;
use schemas::wire::SignedBytes;
use tokio::sync::Notify;

use super::book::{Attempt, Book, Sort};
use super::fleet::Fleet;
use super::link::{Handler, Link};
use super::measured::{End, ErrorKind, Fault, Measured, Step};
use super::run::CONNECTING;
use super::scenario::{Arrivals, Scenario};
use super::terminal::now;
use super::{fleet, roles};
use crate::world::random::Random;

/// Payment informations that chips have ready before the first arrival, as a chip prepares its next offer while nobody
/// waits: at the most.
const PREPARED_MOST: u64 = 100_000;
/// How long a payment information is good; one that is ready before the first arrival, so long after the last.
const INFORMATION_LIFE: Duration = Duration::from_secs(120);
/// How long a request may be sent again.
const REQUEST_LIFE_MS: u64 = 30_000;
/// A Poisson process in steps so fine that two arrivals rarely share one, in microseconds.
const SLOT_US: u64 = 10;
const LATE: Duration = Duration::from_millis(100);
/// How long a slow reader reads nothing, and how long it then reads.
const DEAF: Duration = Duration::from_secs(2);
const HEARING: Duration = Duration::from_secs(1);

/// A fleet at work.
pub(super) struct Engine {
    pub(super) fleet: Fleet,
    pub(super) scenario: Scenario,
    pub(super) links: Vec<Link>,
    pub(super) state: RefCell<State>,
    /// Whoever waits for payments to end.
    pub(super) changed: Notify,
    /// No payment begins any more.
    is_closing: std::cell::Cell<bool>,
}

/// What changes.
pub(super) struct State {
    pub(super) measured: Measured,
    pub(super) book: Book,
    pub(super) random: Random,
    ids: Ids,
    offers: Vec<Vec<Offer>>,
    item: ItemId,
    categories: Categories,
}

/// What a chip has ready for sale.
struct Offer {
    nonce: Nonce,
    minor: u64,
    signed: SignedBytes,
}

/// Ids that no other run has: a random beginning, and a counter.
struct Ids {
    prefix: [u8; 8],
    counter: u64,
}

impl Ids {
    fn next(&mut self) -> [u8; 16] {
        self.counter += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.prefix);
        id[8..].copy_from_slice(&self.counter.to_be_bytes());
        id
    }
}

impl Engine {
    pub(super) fn new(fleet: Fleet, links: Vec<Link>, scenario: Scenario) -> anyhow::Result<Rc<Self>> {
        let state = State {
            measured: Measured::new(SystemTime::now()),
            book: Book::new(),
            random: Random::named(scenario.seed, "live"),
            ids: Ids { prefix: fleet::random()?, counter: 0 },
            offers: fleet.chips.clone().map(|_| Vec::new()).collect(),
            item: "cola".parse()?,
            categories: Categories::new(vec!["books".parse()?])?,
        };
        let engine = Self {
            fleet,
            scenario,
            links,
            state: RefCell::new(state),
            changed: Notify::new(),
            is_closing: std::cell::Cell::new(false),
        };
        engine.prepare();
        Ok(Rc::new(engine))
    }

    /// Everybody lives from now on.
    pub(super) fn connect(self: &Rc<Self>) {
        for index in 0..self.links.len() {
            let engine = Rc::clone(self);
            tokio::task::spawn_local(async move { engine.links[index].run(&engine).await });
        }
    }

    /// Payments that have begun and not ended.
    pub(super) fn in_flight(&self) -> u64 {
        self.state.borrow().book.open_count()
    }

    /// Messages that the core has not promised yet.
    pub(super) fn unpromised(&self) -> usize {
        self.links.iter().map(Link::unpromised).sum()
    }

    /// Payments begin, and things go wrong, from now on.
    pub(super) fn start(self: &Rc<Self>) {
        let started = Instant::now();
        self.state.borrow_mut().measured = Measured::new(SystemTime::now());
        tokio::task::spawn_local(Rc::clone(self).cut_connections());
        for index in self.slow_readers() {
            tokio::task::spawn_local(Rc::clone(self).read_slowly(index));
        }
        match self.scenario.load.arrivals {
            Arrivals::Open { rate_per_s } => {
                tokio::task::spawn_local(Rc::clone(self).arrive(started, rate_per_s));
            }
            Arrivals::Closed { users, .. } => {
                let ramp = Duration::from_secs(self.scenario.ramp_s.into());
                for user in 0..users {
                    let at = started + ramp * user / users.max(1);
                    tokio::task::spawn_local(Rc::clone(self).begin_at(at, Some(user)));
                }
            }
        }
    }

    /// Of payments without an end their persons ask (correctness.md 11).
    pub(super) fn ask_for_ends(&self) {
        let mut state = self.state.borrow_mut();
        let open: Vec<_> = state.book.open().collect();
        for (payment, sort) in open {
            let who = match sort {
                Sort::Purchase { payer, .. } => payer,
                Sort::Order { child, .. } => self.fleet.guardian_of(child),
            };
            self.say(&mut state, who, Up::StatusRequest(StatusRequest { payment: Some(payment) }));
        }
    }

    /// What has no end now has none.
    pub(super) fn give_up(&self) {
        let mut state = self.state.borrow_mut();
        for _ in 0..state.book.open_count() {
            state.measured.ended(End::Unanswered);
        }
    }

    /// No payment begins, and nothing goes wrong any more.
    pub(super) fn close(&self) {
        self.is_closing.set(true);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.get()
    }

    // ---- arrivals

    /// An open loop: arrivals keep their times, whatever the cloud does.
    async fn arrive(self: Rc<Self>, started: Instant, rate_per_s: u32) {
        let (ramp, end) = (u64::from(self.scenario.ramp_s), u64::from(self.scenario.duration_s));
        let mut arrivals = Random::named(self.scenario.seed, "arrivals");
        let (mut slot, slots_per_s) = (0_u64, 1_000_000 / SLOT_US);
        while !self.is_closing() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let due = micros(started.elapsed()) / SLOT_US;
            while slot < due {
                if slot >= end * slots_per_s {
                    return;
                }
                // In the ramp the rate grows with each slot.
                let ramped = slot.min(ramp * slots_per_s);
                let full = (ramp * slots_per_s).max(1);
                let share = if ramp == 0 { 1_000_000 } else { ramped * 1_000_000 / full };
                // Millionths of an arrival per slot.
                let odds = u64::from(rate_per_s) * share / slots_per_s;
                if arrivals.below(1_000_000) < odds {
                    let intended = started + Duration::from_micros(slot * SLOT_US);
                    if intended.elapsed() > LATE {
                        self.state.borrow_mut().measured.error(ErrorKind::GeneratorLate);
                    }
                    self.begin(intended, None);
                }
                slot += 1;
            }
        }
    }

    pub(super) async fn begin_at(self: Rc<Self>, at: Instant, user: Option<u32>) {
        tokio::time::sleep_until(at.into()).await;
        if !self.is_closing() {
            self.begin(Instant::now(), user);
        }
    }

    /// Somebody begins to pay.
    fn begin(&self, intended: Instant, user: Option<u32>) {
        let share = u64::from(self.scenario.load.child_share_permille);
        let is_order = self.state.borrow_mut().random.chance(share);
        if is_order {
            self.order(intended, user);
        } else {
            self.purchase(intended, user);
        }
        self.state.borrow_mut().measured.payment_started();
    }

    /// A payer reads a chip's offer and hands it in (CP-1, CP-2).
    fn purchase(&self, intended: Instant, user: Option<u32>) {
        let mut state = self.state.borrow_mut();
        let payer = match user {
            Some(user) => self.fleet.payers.start + user as usize % self.fleet.payers.len(),
            None => state.one_of(&self.fleet.payers),
        };
        let chip = state.one_of(&self.fleet.chips);
        let number = chip - self.fleet.chips.start;
        let offer = match state.offers[number].pop() {
            Some(offer) => offer,
            None => self.offer(&mut state, chip, INFORMATION_LIFE),
        };
        state.book.offered(offer.nonce, chip, Hash::of(&offer.signed.0));
        let sort = Sort::Purchase { payer, chip, nonce: offer.nonce, minor: offer.minor };
        let body = Up::PaymentRequest(PaymentRequest { information: offer.signed });
        self.request(&mut state, payer, body, Attempt::new(intended, sort, user));
    }

    /// A guardian orders from a child's account (PC-1).
    fn order(&self, intended: Instant, user: Option<u32>) {
        let mut state = self.state.borrow_mut();
        let child = state.one_of(&self.fleet.piggy_banks) - self.fleet.piggy_banks.start;
        let minor = state.random.range(1, 100);
        let (child_id, categories) = (self.fleet.children[child].id.clone(), state.categories.clone());
        let order = PaymentOrder::deduction(child_id, self.fleet.money(minor), categories);
        let sort = Sort::Order { child, minor };
        let guardian = self.fleet.guardian_of(child);
        self.request(&mut state, guardian, Up::PaymentOrder(order), Attempt::new(intended, sort, user));
    }

    fn request(&self, state: &mut State, by: usize, body: Up, attempt: Attempt) {
        let (id, key) = (MessageId(state.ids.next()), IdempotencyKey(state.ids.next()));
        let kind = body.kind();
        let request = Envelope::request(id, key, now().plus_ms(REQUEST_LIFE_MS), body).encode();
        state.book.begin(key, attempt);
        self.send(state, by, kind, request);
    }

    /// Says something to the cloud that is no request.
    pub(super) fn say(&self, state: &mut State, by: usize, body: Up) {
        let kind = body.kind();
        let message = Envelope::message(MessageId(state.ids.next()), body).encode();
        self.send(state, by, kind, message);
    }

    fn send(&self, state: &mut State, by: usize, kind: Kind, payload: Vec<u8>) {
        let payload: Rc<[u8]> = payload.into();
        if state.random.chance(self.scenario.faults.duplicate_sends_permille.into()) {
            state.measured.fault(Fault::DuplicateSend);
            self.links[by].send(kind, Rc::clone(&payload));
            state.measured.messages(1, 0);
        }
        self.links[by].send(kind, payload);
        state.measured.messages(1, 0);
    }

    /// Whoever was in it is free for another one.
    pub(super) fn is_over(self: &Rc<Self>, attempt: &Attempt) {
        if let (Some(user), Arrivals::Closed { think_ms, .. }) = (attempt.user, self.scenario.load.arrivals)
            && !self.is_closing()
        {
            let at = Instant::now() + Duration::from_millis(think_ms.into());
            tokio::task::spawn_local(Rc::clone(self).begin_at(at, Some(user)));
        }
        self.changed.notify_one();
    }

    // ---- offers

    /// Signs what will probably be sold.
    fn prepare(&self) {
        let chips = self.fleet.chips.len() as u64;
        let expected = match self.scenario.load.arrivals {
            Arrivals::Open { rate_per_s } => u64::from(rate_per_s) * u64::from(self.scenario.duration_s),
            Arrivals::Closed { .. } => PREPARED_MOST,
        };
        if chips == 0 || self.scenario.load.child_share_permille == 1_000 {
            return;
        }
        // It may be the last one that is sold.
        let life = CONNECTING + Duration::from_secs(self.scenario.duration_s.into()) + INFORMATION_LIFE;
        let mut state = self.state.borrow_mut();
        for number in 0..expected.min(PREPARED_MOST) {
            let index = usize::try_from(number % chips).unwrap_or(0);
            let offer = self.offer(&mut state, self.fleet.chips.start + index, life);
            state.offers[index].push(offer);
        }
    }

    fn offer(&self, state: &mut State, chip: usize, life: Duration) -> Offer {
        let member = &self.fleet.members[chip];
        let (minor, now) = (state.random.range(50, 300), now());
        let mut nonce = Nonce([0; 8]);
        let id = state.ids.next();
        nonce.0.copy_from_slice(&id[8..]);
        let second = |at: schemas::time::Timestamp| schemas::time::Timestamp(at.0 - at.0 % 1_000);
        let information = PaymentInformation {
            chip: member.principal.clone(),
            nonce,
            issued_at: second(now),
            expires_at: second(now.plus_ms(u64::try_from(life.as_millis()).unwrap_or(u64::MAX))),
            payee: self.fleet.merchant_of(chip),
            amount: self.fleet.money(minor),
            item: state.item.clone(),
            quantity: 1,
        };
        Offer { nonce, minor, signed: information.sign(&member.key) }
    }

    // ---- faults of the network

    async fn cut_connections(self: Rc<Self>) {
        let per_minute = self.scenario.faults.disconnects_per_minute;
        if per_minute == 0 {
            return;
        }
        let pause = Duration::from_secs(60) / per_minute;
        while !self.is_closing() {
            tokio::time::sleep(pause).await;
            let index = self.state.borrow_mut().random.index(self.links.len());
            if self.links[index].is_connected() {
                self.state.borrow_mut().measured.fault(Fault::Disconnect);
                self.links[index].cut();
            }
        }
    }

    /// Idle clients first, then terminals of merchants: who is told much and says little.
    fn slow_readers(&self) -> impl Iterator<Item = usize> {
        let candidates = self.fleet.idle.clone().chain(self.fleet.terminals.clone());
        candidates.take(self.scenario.faults.slow_readers as usize)
    }

    async fn read_slowly(self: Rc<Self>, index: usize) {
        while !self.is_closing() {
            self.links[index].be_deaf(DEAF);
            tokio::time::sleep(DEAF + HEARING).await;
        }
    }
}

impl State {
    /// By chance.
    fn one_of(&mut self, among: &std::ops::Range<usize>) -> usize {
        among.start + self.random.index(among.len())
    }
}

impl Handler for Rc<Engine> {
    fn ended(&self, _: usize, why: &anyhow::Error, on_purpose: bool) {
        if on_purpose {
            return;
        }
        let mut state = self.state.borrow_mut();
        let kind = super::link::error_kind(why);
        state.measured.error(kind);
        state.book.note_problem(format!("{}: {why:#}", kind.text()));
    }

    fn received(&self, member: usize, kind: Kind, payload: &[u8]) {
        self.state.borrow_mut().measured.messages(0, 1);
        roles::hear(self, member, kind, payload);
    }

    fn promised(&self, _: usize, after: Duration) {
        self.state.borrow_mut().measured.record(Step::Puback, micros(after));
    }

    fn refused(&self, member: usize, kind: Kind, code: u8) {
        let mut state = self.state.borrow_mut();
        state.measured.error(ErrorKind::PublishRefused);
        let who = &self.fleet.members[member].principal;
        state.book.note_problem(format!("{who}: {kind} was refused with 0x{code:02X}"));
    }
}

/// Whole microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
