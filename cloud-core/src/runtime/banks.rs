//! Calls to the tenants' banks: one attempt each, on tokio tasks; the flow has the timers (correctness.md 18).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloud_core_flows::port::{BankAnswer, BankCallKind, BankOrder};
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::{KillPoints, Requests, Step};
use crate::bank::{self, BankCall, HttpBank};

/// Calls under way at one time, all banks together; more wait.
const CALLS: usize = 256;
/// Banks whose connections are kept. There is one for each tenant at most.
const BANKS: usize = 1024;

/// The adapters, by address.
#[derive(Debug)]
pub(super) struct Banks {
    timeout: Duration,
    authority_pem: Option<Vec<u8>>,
    known: Mutex<HashMap<String, Arc<HttpBank>>>,
    calls: Arc<Semaphore>,
    requests: Requests,
    kill: Arc<KillPoints>,
}

impl Banks {
    pub(super) fn new(
        timeout: Duration,
        authority_pem: Option<Vec<u8>>,
        requests: Requests,
        kill: Arc<KillPoints>,
    ) -> Self {
        let calls = Arc::new(Semaphore::new(CALLS));
        Self { timeout, authority_pem, known: Mutex::default(), calls, requests, kill }
    }

    /// Makes the call on a task; its answer comes back as a request to the core, whatever it is.
    pub(super) fn start(self: &Arc<Self>, order: BankOrder) {
        let span = tracing::info_span!("bank", payment = %order.payment, call = ?order.call);
        let banks = Arc::clone(self);
        tokio::spawn(async move { banks.make(order).await }.instrument(span));
    }

    async fn make(&self, order: BankOrder) {
        let Ok(_place) = self.calls.acquire().await else { return };
        let answer = match self.bank(&order.bank) {
            Ok(bank) => bank.call(&call(&order)).await,
            Err(reason) => bank::BankAnswer::Unknown { reason },
        };
        let (kind, answer) = match answer {
            bank::BankAnswer::Done => ("done", BankAnswer::Done),
            bank::BankAnswer::Refused { code } => ("refused", BankAnswer::Refused(code)),
            bank::BankAnswer::Cancelled => ("cancelled", BankAnswer::Cancelled),
            bank::BankAnswer::NotFound => ("not_found", BankAnswer::NotFound),
            bank::BankAnswer::Unknown { reason } => {
                tracing::warn!(%reason, "no clear answer from the bank; the flow will ask again");
                ("unknown", BankAnswer::Unknown)
            }
        };
        tracing::debug!(answer = kind, "the bank answered");
        metrics::counter!("farthing_bank_answers_total", "answer" => kind).increment(1);
        self.kill.pass(Step::BankAnswered);
        // Fails only when the core has ended; after a restart the flow asks again.
        let _ = self.requests.bank(order.payment, order.call, answer).await;
    }

    fn bank(&self, url: &str) -> Result<Arc<HttpBank>, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bank) = known.get(url) {
            return Ok(Arc::clone(bank));
        }
        let bank = HttpBank::new(url, self.timeout, self.authority_pem.as_deref());
        let bank = Arc::new(bank.map_err(|error| error.to_string())?);
        if known.len() >= BANKS {
            known.clear();
        }
        known.insert(url.to_owned(), Arc::clone(&bank));
        Ok(bank)
    }
}

fn call(order: &BankOrder) -> BankCall {
    let key = order.transfer_key;
    let currency = order.amount.currency.code().to_owned();
    match order.call {
        BankCallKind::Transfer => BankCall::Transfer {
            key,
            from: order.from.clone(),
            to: order.to.clone(),
            amount: order.amount.decimal(),
            currency,
            not_after_ms: order.not_after.0,
            reference: format!("payment {}", order.payment),
        },
        BankCallKind::Status => BankCall::Status { key },
        BankCallKind::Cancel => BankCall::Cancel { key },
        BankCallKind::Refund => {
            BankCall::Refund { key: order.refund_key, of: key, amount: order.amount.decimal(), currency }
        }
    }
}
