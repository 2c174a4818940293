//! The operator and the technician: devices are revoked and replaced while they work (correctness.md 20). Both say
//! again what a restart of the core has swallowed.

use std::collections::BTreeSet;

use cloud_core_flows::Cloud;
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, Resolution};
use cloud_core_flows::payment::ChipPayment;
use cloud_core_flows::port::{Input, Proof};
use cloud_core_flows::rejection::Rejection;
use schemas::ids::{Hash, PaymentId};
use schemas::message::PaymentState;
use schemas::signed::PublicKey;

use super::family_facts::What;
use super::fault::Fault;
use super::{Happening, Violation, World, say};

/// What is being done to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// In which run of the core it was last said, under which ticket.
    Revoke(u64, u64),
    Replace(u64),
}

impl World {
    pub(super) fn trouble_office(&mut self, index: usize) -> Result<(), Violation> {
        if self.machines[index].revoked {
            return Ok(());
        }
        // What is away for long is the first to be replaced.
        let likely = match self.machines[index].is_away() {
            true if self.has_open_command(index) || self.has_open_prompt(index) => 250,
            true => 80,
            false if self.has_open_prompt(index) => 15,
            false => 2,
        };
        if self.machines[index].errand.is_none() && self.random.office.chance(likely) {
            if self.strikes(Fault::Revoked) {
                self.machines[index].errand = Some(Errand::Revoke(u64::MAX, 0));
            } else if self.strikes(Fault::Replaced) {
                self.machine_removed(index);
                self.machines[index].errand = Some(Errand::Replace(u64::MAX));
            }
        }
        self.run_errand(index)
    }

    fn has_open_command(&self, index: usize) -> bool {
        let open = |payment: &ChipPayment| payment.state() == PaymentState::Delivering;
        let executor = &self.machines[index].settings.principal;
        let mut payments = self.core.cloud().into_iter().flat_map(Cloud::payments);
        payments.any(|payment| payment.executor.as_ref() == Some(executor) && open(payment))
    }

    fn has_open_prompt(&self, index: usize) -> bool {
        let piggy_bank = &self.machines[index].settings.principal;
        let mut payments = self.core.cloud().into_iter().flat_map(Cloud::child_payments);
        payments.any(|payment| payment.piggy_bank == *piggy_bank && !payment.at_rest())
    }

    fn is_blocked(&self, payment: PaymentId) -> bool {
        let payment = self.core.cloud().and_then(|cloud| cloud.payment(payment));
        payment.is_some_and(|payment| payment.state() == PaymentState::RefundBlocked)
    }

    /// The bank has spoken. The operator does not wait for quiet where it refuses a refund.
    pub(super) fn watch_refund(&mut self, payment: PaymentId) {
        if self.is_blocked(payment) && self.strikes(Fault::RefundRetried) {
            let wait = self.random.of(Fault::RefundRetried).range(20, 2_000);
            self.after(wait, Happening::RetryRefund(payment));
        }
    }

    pub(super) fn retry_refund(&mut self, payment: PaymentId) -> Result<(), Violation> {
        if self.healed || !self.is_blocked(payment) {
            return Ok(());
        }
        say!(self, "operator", "tries the refund of {payment} again");
        self.facts.payment(payment).retried = true;
        let resolution = Resolution::Refund;
        self.operate(AdminCommand::ResolvePayment { payment, resolution }).map(|_| ())
    }

    /// Says it, or says it again to a core that has started since.
    pub(super) fn run_errand(&mut self, index: usize) -> Result<(), Violation> {
        let run = self.core.run;
        if self.core.driver.is_none() {
            return Ok(());
        }
        match self.machines[index].errand {
            Some(Errand::Revoke(said, ticket)) if said == run => {
                if self.core.has_reply(ticket) {
                    self.machines[index].errand = None;
                    self.machines[index].revoked = true;
                    // It may have been given more to do while the operator's word was on its way.
                    self.orphan(index);
                }
                Ok(())
            }
            Some(Errand::Revoke(..)) => {
                self.orphan(index);
                let device = self.plan.machines[index].principal.clone();
                say!(self, "operator", "revokes {device}");
                let ticket = self.operate(AdminCommand::RevokeDevice { device: device.clone() })?;
                self.note_family(What::Revoked(device));
                self.machines[index].errand = Some(Errand::Revoke(run, ticket));
                Ok(())
            }
            Some(Errand::Replace(said)) if said != run => {
                self.orphan(index);
                say!(self, "technician", "replaces {}", self.plan.machines[index].principal);
                self.machines[index].errand = Some(Errand::Replace(run));
                self.enrol(index)
            }
            Some(Errand::Replace(_)) | None => Ok(()),
        }
    }

    /// What the device was doing is nobody's word any more.
    fn orphan(&mut self, index: usize) {
        for facts in self.facts.commands.values_mut().filter(|facts| facts.machine == index) {
            facts.orphaned = true;
        }
    }

    pub(super) fn enrol_now(&mut self, index: usize) -> Result<(), Violation> {
        self.enrol(index)?;
        self.core_settle()
    }

    /// The operator makes a claim; the device uses it with its key.
    fn enrol(&mut self, index: usize) -> Result<(), Violation> {
        let principal = self.plan.machines[index].principal.clone();
        let public_key = PublicKey::of(&self.plan.machines[index].key);
        let claim_hash = Hash(self.random.ids.bytes());
        let expires_at = self.stamp().plus_ms(3_600_000);
        self.operate(AdminCommand::CreateClaim { device: principal.clone(), claim_hash, expires_at })?;
        let ticket = index as u64;
        self.core_handle(Input::Enrol { ticket, principal, proof: Proof::Claim(claim_hash), public_key })
    }

    pub(super) fn enrolled(
        &mut self,
        ticket: u64,
        result: &Result<Vec<u8>, Rejection>,
    ) -> Result<(), Violation> {
        let index = usize::try_from(ticket).unwrap_or(0);
        if let Err(why) = result {
            return Err(self.broken("enrolment", why.to_string()));
        }
        let principal = &self.plan.machines[index].principal;
        let device = self.core.cloud().and_then(|cloud| cloud.registry().device(principal));
        if let Some(instance) = device.map(|device| device.instance) {
            self.machines[index].settings.instance = instance;
        }
        if self.machines[index].errand.take().is_some() {
            let wait = self.random.office.range(100, 1_000);
            self.after(wait, Happening::MachineStart(index));
        }
        Ok(())
    }

    /// Settles what is in the exceptions queue, each twice: saying it again changes nothing.
    pub(super) fn resolve_exceptions(&mut self) -> Result<bool, Violation> {
        let AdminAnswer::Exceptions(entries) = self.operate_now(AdminCommand::ListExceptions)? else {
            return Err(Violation::harness("no list of exceptions"));
        };
        let payments: BTreeSet<PaymentId> = entries.iter().filter_map(|entry| entry.payment).collect();
        for payment in &payments {
            let state =
                self.core.cloud().and_then(|cloud| cloud.payment(*payment)).map(|found| found.state());
            let choice = match state {
                Some(PaymentState::Held) => [Resolution::Refund, Resolution::Accept],
                Some(PaymentState::RefundBlocked) => [Resolution::Refund, Resolution::WriteOff],
                _ => [Resolution::Accept, Resolution::Accept],
            };
            let resolution = choice[self.random.office.index(2)];
            say!(self, "operator", "resolves {payment} {resolution:?}");
            self.resolved.insert(*payment, resolution);
            for _ in 0..2 {
                self.operate_now(AdminCommand::ResolvePayment { payment: *payment, resolution })?;
            }
        }
        Ok(!payments.is_empty())
    }
}
