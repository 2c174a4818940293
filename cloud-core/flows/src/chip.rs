//! The chip payment (CP-1 to CP-18): a payer buys from a machine through its payment chip, and the device's act and
//! the money's move are one thing.
//!
//! ```text
//! payer: payment-request ──> Checking ──chip: ready──> Verifying ──payer: verified──> Transferring ──bank: done──┐
//!                               │ refused, silent          │ wrong, late                  │ silent                │
//!                               v                          v                              v                       │
//!                            Refused              Declined, Expired         Inquiring ──> Fencing ──> BankRefused │
//!                                                                                                                 v
//! Delivered <──all── Commanded <──────────── executor-command, only after the bank's success ─────────────────────┤
//! DeliveredInPart <──part + Refunding                                                                             │
//! Refunded / Voided <──failed, refused, never seen, unknown (policy)                        no executor: Delivered┘
//! ```
//!
//! With an internal bank the money is reserved instead of transferred, then posted or voided. Who ends up with what
//! in every case is tested row by row in `tests/outcomes.rs`. The steps with the bank are in `chip/bank.rs`, those
//! with the executor in `chip/executor.rs`, an operator's in `chip/operator.rs`.

pub(crate) mod bank;
pub(crate) mod executor;
pub(crate) mod operator;

use cloud_core_ledger::{Reason, Transfer};
use schemas::ids::{Code, Hash, IdempotencyKey, MessageId, PaymentId, Principal};
use schemas::message::{
    Down, HealthCheckAnswer, HealthCheckRequest, HealthVerdict, Outcome, PaymentState, VerificationRequest,
};
use schemas::signed::{PaymentInformation, Proven, Verification};
use schemas::time::Timestamp;
use schemas::wire::{SignedBytes, Text};
use schemas_mutants::Mutant;

use crate::admin::{BankKind, Deadlines};
use crate::books::Legs;
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::event::Event;
use crate::exceptions::Case;
use crate::limits;
use crate::payment::{ChipPayment, FenceFor, Phase};
use crate::registry::{Merchant, Standing, Tenant};
use crate::rejection::Rejection;
use crate::tell::{Audience, News};

/// One decision of the flow in the making: reads the cloud, writes events and outputs.
pub(crate) struct ChipFlow<'a> {
    pub(crate) cloud: &'a Cloud,
    pub(crate) now: Timestamp,
    pub(crate) out: &'a mut Decision,
}

/// A request that has passed every check.
struct Order<'a> {
    information: PaymentInformation,
    tenant: &'a Tenant,
    executor: Option<Principal>,
}

impl<'a> ChipFlow<'a> {
    /// CP-2: a payer hands in a payment information. The ladder of refusals stands in [`ChipFlow::check_request`].
    pub(crate) fn request(
        &mut self,
        payer: &Principal,
        (key, not_after): (IdempotencyKey, Timestamp),
        signed: &SignedBytes,
        proven: Option<&Proven>,
    ) -> Result<PaymentId, Rejection> {
        let order = self.check_request(payer, signed, proven)?;
        // A key is remembered until not_after; with both in it, an id is new even if the key comes again later.
        let parts = [payer.to_string().into_bytes(), key.0.to_vec(), not_after.0.to_be_bytes().to_vec()];
        let id = PaymentId::derived("payment", &parts.each_ref().map(Vec::as_slice));
        let answer_by = self.now.plus_ms(order.tenant.deadlines.health_check_ms);
        let information = order.information;
        let payment = ChipPayment {
            id,
            payer: payer.clone(),
            chip: information.chip.clone(),
            merchant: information.payee,
            executor: order.executor,
            amount: information.amount,
            item: information.item,
            quantity: information.quantity,
            nonce: information.nonce,
            information_hash: Hash::of(&signed.0),
            information_expires_at: information.expires_at,
            opened_at: self.now,
            alive_until: None,
            verified_at: None,
            phase: Phase::Checking { answer_by },
            moved_at: self.now,
            paid_minor: 0,
            reason: None,
            command: None,
            outcome: None,
            refunds_ended: 0,
        };
        let question = Down::HealthCheck(HealthCheckRequest {
            payment: id,
            nonce: payment.nonce,
            information_hash: payment.information_hash,
            answer_by,
        });
        let chip = payment.chip.clone();
        self.out.event(Event::PaymentOpened(payment));
        self.out.owe(self.cloud, &chip, MessageId::derived("health-check", &[&id.0]), question, answer_by);
        Ok(id)
    }

    /// The ladder, in this order: whether the payer has too many open, what the information says of itself, who may use
    /// it, whether it is still good, whether the payer may pay, whether the devices said that they are not ready (CP-17),
    /// whether they have room. What an overload refuses most comes first, before any signature is checked.
    fn check_request(
        &self,
        payer: &Principal,
        signed: &SignedBytes,
        proven: Option<&Proven>,
    ) -> Result<Order<'_>, Rejection> {
        let Some(person) = self.cloud.registry.person(payer) else {
            return Err(Rejection::new("payer_unknown", "only a registered person can pay"));
        };
        // Or it would spend beside its limits.
        if self.cloud.registry.child(payer).is_some() {
            let text = "a child's money is spent by a guardian's order, at the piggy bank";
            return Err(Rejection::new("payer_is_child", text));
        }
        if self.cloud.is_full(payer) {
            return Err(Rejection::new(
                "too_many_open",
                "too many of your payments are open: finish or cancel one first",
            ));
        }
        let read = PaymentInformation::read(signed).map_err(|_| information_invalid())?;
        let (tenant, merchant, device) = self.check_chip(payer, read.claimed())?;
        let Some(key) = device.public_key else {
            return Err(Rejection::new("chip_unknown", "this chip is not enrolled: tell the merchant"));
        };
        let information = read.verify(&key, proven).map_err(|_| {
            Rejection::new("signature_invalid", "this was not signed by the chip that it names")
        })?;
        if merchant != Some(&information.payee) {
            return Err(Rejection::new(
                "payee_mismatch",
                "this chip does not sell for the payee that it names",
            ));
        }
        check_amount(&information, tenant)?;
        self.check_time(&information)?;
        if self.cloud.nonce_claimed_by(&information.chip, information.nonce).is_some() {
            return Err(nonce_used());
        }
        if person.public_key.is_none() {
            return Err(Rejection::new(
                "payer_without_key",
                "no verification key is registered for you: ask the operator",
            ));
        }
        if tenant.bank != BankKind::Internal && person.bank_account.is_none() {
            let text = "no bank account is registered for you: ask the operator";
            return Err(Rejection::new("payer_without_account", text));
        }
        let executor = self.check_executor(&information)?;
        if let Some(code) = device.not_ready(self.now) {
            return Err(says_not_ready("chip_not_ready", code));
        }
        if self.is_busy(&information.chip) {
            return Err(Rejection::new("device_busy", "the chip has too much to do: try again in a minute"));
        }
        Ok(Order { information, tenant, executor })
    }

    fn check_chip<'c>(
        &'c self,
        payer: &Principal,
        claimed: &PaymentInformation,
    ) -> Result<(&'c Tenant, Option<&'c schemas::ids::MerchantId>, &'c crate::registry::Device), Rejection>
    {
        let unknown = || Rejection::new("chip_unknown", "no such chip works here");
        if claimed.chip.tenant != payer.tenant {
            return Err(unknown());
        }
        let tenant = self.cloud.registry.tenant(&payer.tenant).ok_or_else(unknown)?;
        let device = self.cloud.registry.device(&claimed.chip).ok_or_else(unknown)?;
        if device.standing == Standing::Revoked {
            return Err(Rejection::new("chip_revoked", "this chip no longer works here"));
        }
        Ok((tenant, device.binding.as_ref().map(|binding| &binding.merchant), device))
    }

    fn check_time(&self, information: &PaymentInformation) -> Result<(), Rejection> {
        if information.expires_at <= self.now {
            return Err(Rejection::new(
                "information_expired",
                "this offer has ended: ask the machine for a new one",
            ));
        }
        if information.issued_at > self.now.plus_ms(limits::CLOCK_SKEW_MS) {
            return Err(Rejection::new("clock_ahead", "the machine's clock is ahead: tell the merchant"));
        }
        Ok(())
    }

    fn check_executor(&self, information: &PaymentInformation) -> Result<Option<Principal>, Rejection> {
        let chip = &information.chip;
        let binding = self.cloud.registry.device(chip).and_then(|device| device.binding.as_ref());
        let Some(id) = binding.and_then(|binding| binding.executor_of(&information.item)) else {
            return Ok(None);
        };
        let executor = Principal { tenant: chip.tenant.clone(), id: id.clone() };
        let device = self.cloud.registry.device(&executor);
        let Some(device) = device.filter(|device| device.standing != Standing::Revoked) else {
            return Err(Rejection::new("executor_revoked", "the machine no longer works here"));
        };
        if let Some(code) = device.not_ready(self.now) {
            return Err(says_not_ready("executor_not_ready", code));
        }
        if self.is_busy(&executor) {
            return Err(Rejection::new(
                "device_busy",
                "the machine has too much to do: try again in a minute",
            ));
        }
        Ok(Some(executor))
    }

    /// Every open payment may still need a command, questions and news: room is counted for what is to come.
    fn is_busy(&self, device: &Principal) -> bool {
        self.cloud.has_open(device, limits::OPEN_PAYMENTS_OF_DEVICE) || !self.cloud.outbox.has_room(device, 2)
    }

    /// CP-3, CP-4: the chip's answer. Only the first one that comes in time counts.
    pub(crate) fn health_answer(&mut self, payment: &ChipPayment, answer: &HealthCheckAnswer) {
        let Phase::Checking { answer_by } = payment.phase else { return };
        if self.now > answer_by {
            return;
        }
        match answer.verdict {
            HealthVerdict::NotIssued => self.refuse(payment, Code::known("not_issued")),
            HealthVerdict::NotReady => {
                self.refuse(payment, answer.code.clone().unwrap_or_else(|| Code::known("not_ready")));
            }
            // A claim is remembered while the information is good: later nobody may build on it.
            HealthVerdict::Ready if self.now > payment.information_expires_at => {
                self.refuse(payment, Code::known("information_expired"));
            }
            HealthVerdict::Ready => match self.cloud.nonce_claimed_by(&payment.chip, payment.nonce) {
                Some(_) if !Mutant::ClaimNotCheckedAgain.is_active() => {
                    self.refuse(payment, Code::known("nonce_used"));
                }
                _ => self.ask_payer(payment),
            },
        }
    }

    fn ask_payer(&mut self, payment: &ChipPayment) {
        let deadlines = self.deadlines(payment);
        let answer_by = self.now.plus_ms(deadlines.verification_ms);
        self.out.event(Event::NonceClaimed { payment: payment.id });
        self.move_to(payment, Phase::Verifying { answer_by }, 0, None);
        self.offer_verification(payment, answer_by);
    }

    /// Owes the payer the question. Offered again at each subscribe, since an ordinary client acknowledges before
    /// its person has seen anything (correctness.md 11).
    pub(crate) fn offer_verification(&mut self, payment: &ChipPayment, answer_by: Timestamp) {
        let stamp = self.now.0.to_be_bytes();
        let id = MessageId::derived("verification", &[&payment.id.0, &stamp]);
        let body = Down::PaymentVerification(VerificationRequest {
            payment: payment.id,
            payee: payee(self.cloud, payment),
            amount: payment.amount,
            item: payment.item.clone(),
            quantity: payment.quantity,
            answer_by,
        });
        self.out.owe(self.cloud, &payment.payer, id, body, answer_by);
    }

    /// CP-5, CP-6: the payer's verification, bound to payment, payee and amount.
    pub(crate) fn verification(
        &mut self,
        payer: &Principal,
        signed: &SignedBytes,
        proven: Option<&Proven>,
    ) -> Result<(), Rejection> {
        let wrong =
            || Rejection::new("verification_invalid", "this is not a verification signed with your key");
        let key = self.cloud.registry.person(payer).and_then(|person| person.public_key).ok_or_else(wrong)?;
        let said = match Verification::read(signed).and_then(|read| read.verify(&key, proven)) {
            Ok(said) => said,
            // A wrong signature ends the payment that it names, if that is the sender's own and waits for it.
            Err(_) => return self.decline_claimed(payer, signed).then_some(()).ok_or_else(wrong),
        };
        let payment = self.own_payment(payer, said.payment)?;
        let Phase::Verifying { answer_by } = payment.phase else { return Ok(()) };
        if self.now > answer_by {
            return Ok(());
        }
        let good = said.payer == *payer
            && said.payee == payee(self.cloud, payment)
            && (said.amount == payment.amount || Mutant::AmountNotVerified.is_active())
            && said.expires_at >= self.now;
        if good {
            self.pay(payment)
        } else {
            self.close(payment, PaymentState::Declined, "verification_wrong", Audience::PayerAndChip)
        }
        Ok(())
    }

    /// A payment that this payer made.
    fn own_payment(&self, payer: &Principal, id: PaymentId) -> Result<&'a ChipPayment, Rejection> {
        let payment = self.cloud.payment(id).filter(|payment| payment.payer == *payer);
        payment.ok_or_else(|| Rejection::new("payment_unknown", "you have no such payment"))
    }

    fn decline_claimed(&mut self, payer: &Principal, signed: &SignedBytes) -> bool {
        let named = Verification::read_unverified(signed).ok();
        match named.and_then(|said| self.own_payment(payer, said.payment).ok()) {
            Some(payment) if matches!(payment.phase, Phase::Verifying { .. }) => {
                self.close(payment, PaymentState::Declined, "verification_wrong", Audience::PayerAndChip);
                true
            }
            _ => false,
        }
    }

    /// The payer withdraws: nothing moves if no command exists yet.
    pub(crate) fn cancel(&mut self, payer: &Principal, id: PaymentId) -> Result<PaymentId, Rejection> {
        let payment = self.own_payment(payer, id)?;
        match payment.phase {
            Phase::Checking { .. } | Phase::Verifying { .. } => {
                self.close(payment, PaymentState::Cancelled, "cancelled", Audience::PayerAndChip);
                Ok(id)
            }
            Phase::Transferring(_) | Phase::Inquiring(_) => {
                self.fence(payment, FenceFor::Cancelled);
                Ok(id)
            }
            Phase::Fencing(attempt, FenceFor::BankSilent) => {
                // The fence is under way; now it is the payer's.
                self.move_to(payment, Phase::Fencing(attempt, FenceFor::Cancelled), 0, None);
                Ok(id)
            }
            Phase::Fencing(_, FenceFor::Cancelled) | Phase::Closed(PaymentState::Cancelled) => Ok(id),
            Phase::Commanded if Mutant::CancelAfterCommand.is_active() => {
                self.give_back(payment, Code::known("cancelled"));
                Ok(id)
            }
            Phase::Closed(_) => Err(Rejection::new("already_ended", "this payment has already ended")),
            _ if payment.command.is_none() => {
                let text = "this payment has already failed, and your money is on its way back";
                Err(Rejection::new("already_ended", text))
            }
            _ => Err(Rejection::new("already_commanded", "the machine has already been told to deliver")),
        }
    }

    /// A deadline has passed.
    pub(crate) fn timeout(&mut self, payment: &ChipPayment) {
        match &payment.phase {
            Phase::Checking { .. } => self.refuse(payment, Code::known("chip_silent")),
            Phase::Verifying { .. } => {
                self.close(payment, PaymentState::Expired, "verification_late", Audience::PayerAndChip);
            }
            Phase::Transferring(_) | Phase::Inquiring(_) | Phase::Fencing(..) | Phase::Refunding { .. } => {
                self.bank_timeout(payment);
            }
            Phase::Commanded => self.ask_executor(payment),
            Phase::Asked { .. } => {
                let failed = Mutant::SilenceIsFailure.is_active();
                let silent = if failed { Outcome::Failed } else { Outcome::Unknown };
                self.outcome_known(payment, silent, 0, Some(Code::known("executor_silent")));
            }
            Phase::Held | Phase::RefundBlocked { .. } => {}
            Phase::Closed(_) => self.retire(payment),
        }
    }

    /// A closed payment leaves memory, with its transfers; unless an operator still has to look at it.
    fn retire(&mut self, payment: &ChipPayment) {
        if self.cloud.exceptions.of(payment.id).next().is_some() {
            // Looked at again after another retention.
            self.move_to(payment, payment.phase.clone(), payment.paid_minor, None);
            return;
        }
        self.out.retire(self.cloud, payment.id, &Legs::all_ids(payment.id));
    }

    pub(crate) fn refuse(&mut self, payment: &ChipPayment, reason: Code) {
        self.close_because(payment, PaymentState::Refused, 0, 0, Some(reason), Audience::Payer);
    }

    pub(crate) fn close(
        &mut self,
        payment: &ChipPayment,
        state: PaymentState,
        reason: &'static str,
        to: Audience,
    ) {
        self.close_because(payment, state, 0, 0, Some(Code::known(reason)), to);
    }

    /// The end of a payment: what waits for it is withdrawn, and everyone concerned is told.
    pub(crate) fn close_because(
        &mut self,
        payment: &ChipPayment,
        state: PaymentState,
        paid_minor: u64,
        delivered: u32,
        reason: Option<Code>,
        to: Audience,
    ) {
        self.withdraw_questions(payment);
        self.move_to(payment, Phase::Closed(state), paid_minor, reason.clone());
        if self.cloud.exceptions.has(payment.id, Case::BankUnreachable) {
            self.resolved(payment.id, Some(Case::BankUnreachable), None);
        }
        let reason = reason.or_else(|| payment.reason.clone());
        self.out.tell(self.cloud, payment, &News { state, paid_minor, delivered, reason }, to, self.now);
    }

    fn withdraw_questions(&mut self, payment: &ChipPayment) {
        let health = MessageId::derived("health-check", &[&payment.id.0]);
        if self.cloud.outbox.contains(&payment.chip, health) {
            self.out.withdraw(&payment.chip, health, "superseded");
        }
        for message in self.open_verifications(payment) {
            self.out.withdraw(&payment.payer, message, "superseded");
        }
    }

    /// Verification requests for this payment that its payer has not fetched.
    pub(crate) fn open_verifications(&self, payment: &ChipPayment) -> Vec<MessageId> {
        use schemas::topic::Kind;
        let owed = self.cloud.outbox.messages(&payment.payer);
        owed.filter(|owed| owed.kind == Kind::PaymentVerification)
            .filter(|owed| match Down::decode(owed.kind, &owed.payload).map(|envelope| envelope.body) {
                Ok(Down::PaymentVerification(request)) => request.payment == payment.id,
                _ => false,
            })
            .map(|owed| owed.message)
            .collect()
    }

    pub(crate) fn move_to(
        &mut self,
        payment: &ChipPayment,
        phase: Phase,
        paid_minor: u64,
        reason: Option<Code>,
    ) {
        self.out.event(Event::PaymentMoved { payment: payment.id, phase, paid_minor, reason });
    }

    /// Books a chain of transfers: all or none.
    pub(crate) fn book(&mut self, chain: &[Transfer]) -> Result<(), Reason> {
        self.out.book(self.cloud, chain, self.now)
    }

    /// Books what the flow has made possible before. If the books refuse all the same, an operator is told: money is
    /// never moved by a guess, and the core does not stop for one payment.
    pub(crate) fn book_surely(&mut self, payment: &ChipPayment, chain: &[Transfer]) {
        if let Err(reason) = self.book(chain) {
            let text = format!(
                "the books refused a step of payment {} ({reason}); compare `admin books`",
                payment.id
            );
            self.raise(payment, Case::Contradiction, text);
        }
    }

    pub(crate) fn raise(&mut self, payment: &ChipPayment, case: Case, text: String) {
        self.out.raise(self.cloud, payment.id, case, text);
    }

    pub(crate) fn resolved(
        &mut self,
        payment: PaymentId,
        case: Option<Case>,
        resolution: Option<crate::admin::Resolution>,
    ) {
        self.out.event(Event::ExceptionsResolved { payment, case, resolution });
    }

    pub(crate) fn deadlines(&self, payment: &ChipPayment) -> Deadlines {
        self.cloud.deadlines(&payment.payer.tenant)
    }

    pub(crate) fn tenant(&self, payment: &ChipPayment) -> Option<&Tenant> {
        self.cloud.registry.tenant(&payment.payer.tenant)
    }
}

/// The payee as the payer sees it.
pub(crate) fn payee(cloud: &Cloud, payment: &ChipPayment) -> Text {
    let merchant: Option<&Merchant> = cloud.registry.merchant(&payment.payer.tenant, &payment.merchant);
    Text::new(merchant.map_or(payment.merchant.as_str(), |merchant| merchant.title.as_str()))
}

fn check_amount(information: &PaymentInformation, tenant: &Tenant) -> Result<(), Rejection> {
    if information.amount.minor == 0 {
        return Err(Rejection::new("amount_zero", "there is nothing to pay"));
    }
    if information.amount.currency != tenant.currency {
        let text = format!("this machine's operator takes {} only", tenant.currency);
        return Err(Rejection::new("currency_mismatch", text));
    }
    Ok(())
}

/// CP-17: refused early, by the device's own last word.
fn says_not_ready(code: &'static str, condition: &Code) -> Rejection {
    let text = format!("the machine says that it is not ready ({condition}): try again when that is mended");
    Rejection::new(code, text)
}

fn information_invalid() -> Rejection {
    Rejection::new("information_invalid", "this is not a payment information: read the machine's code again")
}

fn nonce_used() -> Rejection {
    Rejection::new(
        "nonce_used",
        "this offer has been taken by another payment: ask the machine for a new one",
    )
}
