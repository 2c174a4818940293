//! People who buy for as long as they are let, and remember everything that was promised to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_core::admin::client::AdminClient;
use cloud_core_flows::admin::AdminCommand;
use device_sim::live::terminal::{Terminal, TerminalError, now};
use schemas::envelope::Envelope;
use schemas::ids::{IdempotencyKey, MessageId, PaymentId};
use schemas::message::{Down, PaymentRequest, PaymentState, RequestAnswer, Up, VerificationRequest};
use schemas::wire::SignedBytes;

use crate::fleet::{pay_info, principal};
use crate::random::Random;

/// Longer than every deadline of a payment and a restart of everybody together.
const PATIENCE: Duration = Duration::from_secs(40);
/// The answer to a repeated request is not kept by the core: it is asked for again.
const REPEAT: Duration = Duration::from_secs(2);

/// What was promised, and what is wrong with it.
pub(super) struct Shared {
    pub(super) admin: AdminClient,
    chips: Vec<PathBuf>,
    facts: Mutex<Facts>,
    is_over: AtomicBool,
    number: AtomicU64,
}

/// What somebody outside the core was told, each an acknowledged step.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// The payer's request was answered with this payment.
    pub(super) answered: BTreeSet<PaymentId>,
    /// The verification was acknowledged in time.
    pub(super) verified: BTreeSet<PaymentId>,
    /// The payer was told that it ended so.
    pub(super) ended: BTreeMap<PaymentId, PaymentState>,
    /// The operator was told that the person is registered.
    pub(super) persons: BTreeSet<String>,
    violations: Vec<String>,
}

impl Shared {
    pub(super) fn new(admin: AdminClient, chips: Vec<PathBuf>) -> Self {
        let (facts, is_over, number) = (Mutex::default(), AtomicBool::new(false), AtomicU64::new(0));
        Self { admin, chips, facts, is_over, number }
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().unwrap().clone()
    }

    fn learn(&self, fact: impl FnOnce(&mut Facts)) {
        fact(&mut self.facts.lock().unwrap());
    }

    pub(super) fn violation(&self, text: String) {
        self.learn(|facts| facts.violations.push(text));
    }

    pub(super) fn add_violations(&self, more: Vec<String>) {
        self.learn(|facts| facts.violations.extend(more));
    }

    pub(super) fn has_violations(&self) -> bool {
        !self.facts.lock().unwrap().violations.is_empty()
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.facts().violations
    }

    pub(super) fn ends(&self) -> BTreeMap<PaymentState, usize> {
        let mut ends = BTreeMap::new();
        self.facts().ended.values().for_each(|state| *ends.entry(*state).or_insert(0) += 1);
        ends
    }

    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Buys until told to stop; a purchase that has begun is brought to its end.
pub(super) async fn go_on(mut terminal: Terminal, shared: Arc<Shared>, mut random: Random) {
    while !shared.is_over() && !shared.has_violations() {
        if let Err(why) = buy(&mut terminal, &shared, &mut random).await {
            shared.violation(format!("{}: {why}", terminal.principal()));
        }
        register(&shared).await;
    }
}

async fn buy(terminal: &mut Terminal, shared: &Arc<Shared>, random: &mut Random) -> Result<(), String> {
    let Some(information) = read_chip(shared, random).await else { return Ok(()) };
    let key = IdempotencyKey(bytes(random));
    let not_after = now().plus_ms(600_000);
    let body = Up::PaymentRequest(PaymentRequest { information });
    let request = Envelope::request(MessageId(bytes(random)), key, not_after, body.clone());
    promised(terminal, &request).await?;
    let answer =
        wait_answer(terminal, key, PATIENCE).await.map_err(|why| format!("a promised request: {why}"))?;
    if let Some(payment) = answer.payment {
        shared.learn(|facts| {
            facts.answered.insert(payment);
        });
        see_through(terminal, shared, payment).await.map_err(|why| format!("payment {payment}: {why}"))?;
    }
    // MO-3: the same request has the same answer, also after everything.
    let again = Envelope::request(MessageId(bytes(random)), key, not_after, body);
    loop {
        promised(terminal, &again).await?;
        match wait_answer(terminal, key, REPEAT).await {
            Ok(second) if second == answer => return Ok(()),
            Ok(second) => return Err(format!("{answer:?} became {second:?}")),
            Err(TerminalError::Silence(..)) => {}
            Err(why) => return Err(why.to_string()),
        }
    }
}

/// From the question for verification to the end.
async fn see_through(terminal: &mut Terminal, shared: &Shared, payment: PaymentId) -> Result<(), String> {
    let next = terminal.wait("a question or an end", PATIENCE, |body| match body {
        Down::PaymentVerification(asked) if asked.payment == payment => Some(Ok(asked.clone())),
        Down::PaymentStatus(status) if status.payment == payment && is_end(status.state) => {
            Some(Err(status.state))
        }
        _ => None,
    });
    let ended = match next.await.map_err(|why| why.to_string())? {
        Err(state) => state,
        Ok(asked) => {
            verify(terminal, shared, &asked).await?;
            let ended = terminal.status(payment, PATIENCE, |status| is_end(status.state)).await;
            ended.map_err(|why| format!("after a promised verification: {why}"))?.state
        }
    };
    shared.learn(|facts| {
        facts.ended.insert(payment, ended);
    });
    Ok(())
}

async fn verify(terminal: &mut Terminal, shared: &Shared, asked: &VerificationRequest) -> Result<(), String> {
    /// The clocks of the test and of the core are read at different moments.
    const MARGIN_MS: u64 = 500;
    let sent = tokio::time::timeout(PATIENCE, terminal.verify(asked)).await;
    sent.map_err(|_| "no promise for a verification")?.map_err(|why| why.to_string())?;
    if now().plus_ms(MARGIN_MS) < asked.answer_by {
        shared.learn(|facts| {
            facts.verified.insert(asked.payment);
        });
    }
    Ok(())
}

async fn promised(terminal: &mut Terminal, envelope: &Envelope<Up>) -> Result<(), String> {
    let sent = tokio::time::timeout(PATIENCE, terminal.send(envelope)).await;
    sent.map_err(|_| "no promise for a request")?.map_err(|why| why.to_string())
}

async fn wait_answer(
    terminal: &mut Terminal,
    key: IdempotencyKey,
    within: Duration,
) -> Result<RequestAnswer, TerminalError> {
    let pick = |body: &Down| match body {
        Down::RequestAnswer(answer) if answer.key == key => Some(answer.clone()),
        _ => None,
    };
    terminal.wait("the answer", within, pick).await
}

/// What a chip shows; the chip may be dead at the moment.
async fn read_chip(shared: &Arc<Shared>, random: &mut Random) -> Option<SignedBytes> {
    let chip = usize::try_from(random.below(shared.chips.len() as u64)).ok()?;
    let item = random.pick(&["water", "crisps"]);
    let quantity = 2 + u32::try_from(random.below(2)).ok()?;
    while !shared.is_over() {
        let data = shared.chips[chip].clone();
        let shown = tokio::task::spawn_blocking(move || pay_info(&data, item, quantity)).await.ok()?;
        if shown.is_some() {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// An operator's command between two purchases; what is told as done must be there for good.
async fn register(shared: &Arc<Shared>) {
    let (admin, name) =
        (shared.admin.clone(), format!("a-{:05}", shared.number.fetch_add(1, Ordering::Relaxed)));
    let command =
        AdminCommand::CreatePerson { person: principal(&name), public_key: None, bank_account: None };
    let done = tokio::task::spawn_blocking(move || admin.core(command).is_ok()).await;
    if done.unwrap_or(false) {
        shared.learn(|facts| {
            facts.persons.insert(principal(&name).to_string());
        });
    }
}

fn is_end(state: PaymentState) -> bool {
    use PaymentState::*;
    !matches!(state, Checking | PendingVerification | Paying | BankUnknown | Delivering | Refunding)
}

fn bytes<const N: usize>(random: &mut Random) -> [u8; N] {
    std::array::from_fn(|_| random.next_u64().to_be_bytes()[0])
}
