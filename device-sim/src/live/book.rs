//! What the fleet itself saw: which payments it began, what its machines did, what its people were told they paid. At
//! the end the core's books are compared with it; one cent of difference fails the run (PL-3).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use cloud_core_flows::admin::{AccountRow, AdminAnswer, AdminCommand, Filter, Listing};
use schemas::ids::{CommandId, Hash, IdempotencyKey, Nonce, PaymentId};
use schemas::message::{Outcome, PaymentState};

use super::fleet::{Fleet, TENANT};
use super::report::AuditVerdict;
use crate::processes::Operator;

/// Ended payments and acts that are remembered, so that what comes again is known to be the same.
const REMEMBERED: usize = 200_000;
/// Problems that are told with their text; of more only the number is known.
const PROBLEMS: usize = 20;

/// What a machine does about a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// So many units came out.
    Delivered(u32),
    /// It tried, and nothing came out.
    Jammed,
    /// Nothing came out, and nobody is told.
    Silent,
}

impl Act {
    /// What it reports: outcome and units.
    pub(super) fn outcome(self) -> Option<(Outcome, u32)> {
        match self {
            Self::Delivered(units) => Some((Outcome::Done, units)),
            Self::Jammed => Some((Outcome::Failed, 0)),
            Self::Silent => None,
        }
    }
}

/// Who pays whom. Indexes are members of the fleet, or a child's number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sort {
    Purchase { payer: usize, chip: usize, nonce: Nonce, minor: u64 },
    Order { child: usize, minor: u64 },
}

/// A payment from its beginning on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// When it was to begin: latencies count from here.
    pub(super) intended: Instant,
    pub(super) sort: Sort,
    /// Of a closed loop.
    pub(super) user: Option<u32>,
    accepted_at: Option<Instant>,
    /// When the device was asked, which may be before the person was answered.
    device_at: Option<Instant>,
}

impl Attempt {
    /// The device is asked. When the order was accepted, if the person knows already and this is the first time.
    fn device_heard(&mut self) -> Option<Instant> {
        if self.device_at.is_some() {
            return None;
        }
        self.device_at = Some(Instant::now());
        self.accepted_at
    }

    pub(super) fn new(intended: Instant, sort: Sort, user: Option<u32>) -> Self {
        Self { intended, sort, user, accepted_at: None, device_at: None }
    }
}

/// An offer that was handed in.
struct Issued {
    chip: usize,
    hash: Hash,
    key: Option<IdempotencyKey>,
}

/// So many of the newest, by id.
struct Memory<K, V> {
    known: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K: std::hash::Hash + Eq + Copy, V> Memory<K, V> {
    fn new() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }

    fn keep(&mut self, key: K, value: V) {
        if self.known.insert(key, value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

/// Everything that was seen and counts.
pub(super) struct Book {
    attempts: HashMap<IdempotencyKey, Attempt>,
    by_payment: HashMap<PaymentId, IdempotencyKey>,
    issued: HashMap<Nonce, Issued>,
    /// Prompts that came before the order's answer.
    asked_early: HashMap<PaymentId, Instant>,
    acts: Memory<CommandId, (PaymentId, Act)>,
    act_of: HashMap<PaymentId, Act>,
    ended: Memory<PaymentId, PaymentState>,
    /// What each account must have gained or lost, in minor units.
    moved: BTreeMap<String, i128>,
    units_out: u64,
    checked: u64,
    problems: Vec<String>,
    more_problems: u64,
    differences: Vec<String>,
    more_differences: u64,
}

impl Book {
    pub(super) fn new() -> Self {
        Self {
            attempts: HashMap::new(),
            by_payment: HashMap::new(),
            issued: HashMap::new(),
            asked_early: HashMap::new(),
            acts: Memory::new(),
            act_of: HashMap::new(),
            ended: Memory::new(),
            moved: BTreeMap::new(),
            units_out: 0,
            checked: 0,
            problems: Vec::new(),
            more_problems: 0,
            differences: Vec::new(),
            more_differences: 0,
        }
    }

    pub(super) fn open_count(&self) -> u64 {
        self.attempts.len() as u64
    }

    pub(super) fn note_problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS {
            self.problems.push(text);
        } else {
            self.more_problems += 1;
        }
    }

    // ---- devices

    pub(super) fn offered(&mut self, nonce: Nonce, chip: usize, hash: Hash) {
        self.issued.insert(nonce, Issued { chip, hash, key: None });
    }

    pub(super) fn has_issued(&self, nonce: Nonce, chip: usize, hash: Hash) -> bool {
        self.issued.get(&nonce).is_some_and(|issued| issued.chip == chip && issued.hash == hash)
    }

    /// The chip is asked. When the order was accepted, if the person knows already and this is the first time.
    pub(super) fn device_heard_of(&mut self, nonce: Nonce) -> Option<Instant> {
        let key = self.issued.get(&nonce)?.key?;
        self.attempts.get_mut(&key)?.device_heard()
    }

    /// The same of a child; whether this is the first time, too.
    pub(super) fn child_asked(&mut self, payment: PaymentId) -> (bool, Option<Instant>) {
        let Some(key) = self.by_payment.get(&payment) else {
            let is_first = !self.ended.known.contains_key(&payment)
                && self.asked_early.insert(payment, Instant::now()).is_none();
            return (is_first, None);
        };
        let Some(attempt) = self.attempts.get_mut(key) else { return (false, None) };
        (attempt.device_at.is_none(), attempt.device_heard())
    }

    pub(super) fn act(&self, command: CommandId) -> Option<Act> {
        self.acts.known.get(&command).map(|(_, act)| *act)
    }

    pub(super) fn acted(&mut self, command: CommandId, payment: PaymentId, act: Act) {
        if let Act::Delivered(units) = act {
            self.units_out += u64::from(units);
        }
        self.acts.keep(command, (payment, act));
        if let Some(other) = self.act_of.insert(payment, act) {
            self.differ(format!("payment {payment}: two commands, {other:?} and then {act:?}"));
        }
    }

    // ---- people

    pub(super) fn begin(&mut self, key: IdempotencyKey, attempt: Attempt) {
        if let Sort::Purchase { nonce, .. } = attempt.sort
            && let Some(issued) = self.issued.get_mut(&nonce)
        {
            issued.key = Some(key);
        }
        self.attempts.insert(key, attempt);
    }

    /// How long that took, and when the device had heard of it. None: it was accepted before.
    pub(super) fn accepted(
        &mut self,
        key: IdempotencyKey,
        payment: PaymentId,
    ) -> Option<(Duration, Option<Instant>)> {
        let attempt = self.attempts.get_mut(&key)?;
        if attempt.accepted_at.is_some() {
            return None;
        }
        attempt.accepted_at = Some(Instant::now());
        attempt.device_at = attempt.device_at.or(self.asked_early.remove(&payment));
        self.by_payment.insert(payment, key);
        Some((attempt.intended.elapsed(), attempt.device_at))
    }

    pub(super) fn refused(&mut self, key: IdempotencyKey) -> Option<Attempt> {
        let attempt = self.attempts.remove(&key)?;
        self.forget_offer(&attempt);
        Some(attempt)
    }

    /// The first word of an end, and what was paid in it. None: it is not the first, or not ours.
    pub(super) fn ended(
        &mut self,
        fleet: &Fleet,
        payment: PaymentId,
        state: PaymentState,
        paid_minor: u64,
    ) -> Option<Attempt> {
        let key = self.by_payment.remove(&payment)?;
        let attempt = self.attempts.remove(&key)?;
        self.forget_offer(&attempt);
        self.ended.keep(payment, state);
        let act = self.act_of.remove(&payment);
        self.compare(payment, &attempt, state, paid_minor, act);
        let (from, to) = fleet.accounts(attempt.sort);
        *self.moved.entry(from).or_default() -= i128::from(paid_minor);
        *self.moved.entry(to).or_default() += i128::from(paid_minor);
        Some(attempt)
    }

    /// Whether it had ended, and otherwise.
    pub(super) fn ended_otherwise(&self, payment: PaymentId, state: PaymentState) -> bool {
        self.ended.known.get(&payment).is_some_and(|former| *former != state)
    }

    /// A device's act and the money's move are one thing: what was paid is what came out.
    fn compare(
        &mut self,
        payment: PaymentId,
        attempt: &Attempt,
        state: PaymentState,
        paid_minor: u64,
        act: Option<Act>,
    ) {
        let (is_due, price) = match attempt.sort {
            Sort::Purchase { minor, .. } => (matches!(act, Some(Act::Delivered(_))), minor),
            Sort::Order { minor, .. } => (state == PaymentState::Settled, minor),
        };
        self.checked += 1;
        if paid_minor != if is_due { price } else { 0 } {
            self.differ(format!(
                "payment {payment} ended as {state}: its person was told that {paid_minor} of {price} cents are paid, and its machine did {act:?}"
            ));
        }
    }

    fn differ(&mut self, text: String) {
        if self.differences.len() < PROBLEMS {
            self.differences.push(text);
        } else {
            self.more_differences += 1;
        }
    }

    /// Payments that have no end yet, for their persons to ask about.
    pub(super) fn open(&self) -> impl Iterator<Item = (PaymentId, Sort)> {
        let open = self.by_payment.iter();
        open.filter_map(|(payment, key)| Some((*payment, self.attempts.get(key)?.sort)))
    }

    /// What went wrong, in words.
    pub(super) fn problems(&self) -> (&[String], u64) {
        (&self.problems, self.more_problems)
    }

    /// Compares the core's books with what the fleet saw.
    pub(super) fn audit(&mut self, fleet: &Fleet, operator: &mut Operator) -> anyhow::Result<AuditVerdict> {
        let rows = accounts(operator)?;
        let (mut compared, mut debits, mut credits) = (0, 0, 0);
        for row in &rows {
            debits += i128::from(row.debits_posted.minor);
            credits += i128::from(row.credits_posted.minor);
            if row.debits_pending.minor + row.credits_pending.minor > 0 {
                self.differ(format!("{}: something is still reserved", row.account));
            }
            if !row.account.starts_with("person/") && !row.account.starts_with("merchant/") {
                continue;
            }
            let balance = i128::from(row.credits_posted.minor) - i128::from(row.debits_posted.minor);
            let moved = self.moved.get(&row.account).copied().unwrap_or_default();
            let due = fleet.opening_minor(&row.account) + moved;
            compared += 1;
            if balance != due {
                self.differ(format!("{}: the core has {balance} cents, the fleet saw {due}", row.account));
            }
        }
        if debits != credits {
            self.differ(format!("debits of {debits} cents, credits of {credits}"));
        }
        let unanswered = self.attempts.len() as u64;
        if unanswered > 0 {
            self.differ(format!("{unanswered} payments have no end"));
        }
        let mut differences = self.differences.clone();
        if self.more_differences > 0 {
            differences.push(format!("and {} more", self.more_differences));
        }
        let checked = vec![
            ("payments: what was paid is what was delivered".to_owned(), self.checked),
            ("units that came out of machines".to_owned(), self.units_out),
            ("accounts: the balance is what the people saw".to_owned(), compared),
        ];
        Ok(AuditVerdict { checked, differences })
    }

    fn forget_offer(&mut self, attempt: &Attempt) {
        if let Sort::Purchase { nonce, .. } = attempt.sort {
            self.issued.remove(&nonce);
        }
    }
}

/// All accounts of the fleet's tenant, page by page.
fn accounts(operator: &mut Operator) -> anyhow::Result<Vec<AccountRow>> {
    let mut filter = Filter { tenant: Some(TENANT.parse()?), ..Filter::default() };
    let mut all: Vec<AccountRow> = Vec::new();
    loop {
        let command = AdminCommand::Find { listing: Listing::Accounts, filter: filter.clone() };
        let AdminAnswer::Accounts(rows) = operator.ask(&command)? else { anyhow::bail!("no accounts") };
        let Some(last) = rows.last() else { return Ok(all) };
        filter.after = Some(format!("{}/{}", last.tenant, last.account));
        all.extend(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYMENT: PaymentId = PaymentId([1; 16]);

    fn differences(sort: Sort, state: PaymentState, paid_minor: u64, act: Option<Act>) -> usize {
        let mut book = Book::new();
        book.compare(PAYMENT, &Attempt::new(Instant::now(), sort, None), state, paid_minor, act);
        book.differences.len()
    }

    /// PL-3: what is paid is what came out, to the cent.
    #[test]
    fn an_act_without_its_money_and_money_without_its_act_are_differences() {
        let purchase = Sort::Purchase { payer: 0, chip: 1, nonce: Nonce([1; 8]), minor: 150 };
        let order = Sort::Order { child: 0, minor: 20 };
        for (sort, state, paid, act, wrong) in [
            (purchase, PaymentState::Delivered, 150, Some(Act::Delivered(1)), 0),
            (purchase, PaymentState::Delivered, 149, Some(Act::Delivered(1)), 1),
            (purchase, PaymentState::Delivered, 150, Some(Act::Jammed), 1),
            (purchase, PaymentState::Delivered, 150, None, 1),
            (purchase, PaymentState::Refunded, 0, Some(Act::Jammed), 0),
            (purchase, PaymentState::Refunded, 0, Some(Act::Silent), 0),
            (purchase, PaymentState::Refunded, 0, Some(Act::Delivered(1)), 1),
            (purchase, PaymentState::Expired, 0, None, 0),
            (order, PaymentState::Settled, 20, None, 0),
            (order, PaymentState::Settled, 0, None, 1),
            (order, PaymentState::Rejected, 0, None, 0),
            (order, PaymentState::Rejected, 20, None, 1),
        ] {
            assert_eq!(differences(sort, state, paid, act), wrong, "{sort:?} {state} {paid} {act:?}");
        }
    }

    /// CP-9: a second command for one payment would be a second act.
    #[test]
    fn two_acts_for_one_payment_are_a_difference() {
        let mut book = Book::new();
        book.acted(CommandId([1; 16]), PAYMENT, Act::Delivered(1));
        assert_eq!(book.act(CommandId([1; 16])), Some(Act::Delivered(1)));
        assert!(book.differences.is_empty());
        book.acted(CommandId([2; 16]), PAYMENT, Act::Delivered(1));
        assert_eq!(book.differences.len(), 1);
    }

    #[test]
    fn a_request_is_accepted_once_and_its_device_may_have_been_faster() {
        let (mut book, key) = (Book::new(), IdempotencyKey([3; 16]));
        book.begin(key, Attempt::new(Instant::now(), Sort::Order { child: 0, minor: 20 }, None));
        assert_eq!(book.child_asked(PAYMENT), (true, None), "before the guardian was answered");
        assert!(matches!(book.accepted(key, PAYMENT), Some((_, Some(_)))));
        assert!(book.accepted(key, PAYMENT).is_none(), "the same answer again");
        assert_eq!(book.child_asked(PAYMENT), (false, None), "the same question again");
    }
}
