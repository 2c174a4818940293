//! Calls to the tenants' banks: one attempt each, on tokio tasks; the flow has the timers (correctness.md 18).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloud_core_flows::port::{BankAnswer, BankCallKind, BankOrder};
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::{KillPoints, Requests, Step};
use crate::bank::{self, BankCall, HttpBank};

/// Calls under way at one time to one bank; more wait. A bank that stalls keeps its own tenants waiting, nobody else.
const CALLS: usize = 64;
/// Banks whose connections are kept. There is one for each tenant at most.
const BANKS: usize = 1024;

/// The adapters, by address.
#[derive(Debug)]
pub(super) struct Banks {
    timeout: Duration,
    authority_pem: Option<Vec<u8>>,
    known: Mutex<HashMap<String, Arc<Desk>>>,
    requests: Requests,
    kill: Arc<KillPoints>,
}

/// One bank.
#[derive(Debug)]
struct Desk {
    bank: HttpBank,
    calls: Semaphore,
}

impl Banks {
    pub(super) fn new(
        timeout: Duration,
        authority_pem: Option<Vec<u8>>,
        requests: Requests,
        kill: Arc<KillPoints>,
    ) -> Self {
        Self { timeout, authority_pem, known: Mutex::default(), requests, kill }
    }

    /// Makes the call on a task; its answer comes back as a request to the core, whatever it is.
    pub(super) fn start(self: &Arc<Self>, order: BankOrder) {
        let span = tracing::info_span!("bank", payment = %order.payment, call = ?order.call);
        let banks = Arc::clone(self);
        tokio::spawn(async move { banks.make(order).await }.instrument(span));
    }

    async fn make(&self, order: BankOrder) {
        let answer = match self.desk(&order.bank) {
            Ok(desk) => {
                let Ok(_place) = desk.calls.acquire().await else { return };
                desk.bank.call(&call(&order)).await
            }
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
        let _ = self.requests.bank(order, answer).await;
    }

    fn desk(&self, url: &str) -> Result<Arc<Desk>, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(desk) = known.get(url) {
            return Ok(Arc::clone(desk));
        }
        let bank = HttpBank::new(url, self.timeout, self.authority_pem.as_deref());
        let bank = bank.map_err(|error| error.to_string())?;
        let desk = Arc::new(Desk { bank, calls: Semaphore::new(CALLS) });
        if known.len() >= BANKS {
            known.clear();
        }
        known.insert(url.to_owned(), Arc::clone(&desk));
        Ok(desk)
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

#[cfg(test)]
mod tests {
    use schemas::ids::PaymentId;
    use schemas::time::Timestamp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::requests::Request;
    use super::*;

    async fn bank() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (listener, url)
    }

    fn status(bank: &str, payment: PaymentId) -> BankOrder {
        BankOrder {
            bank: bank.to_owned(),
            payment,
            call: BankCallKind::Status,
            transfer_key: [1; 16],
            refund_key: [2; 16],
            from: "payer".to_owned(),
            to: "holding".to_owned(),
            amount: "2.50 EUR".parse().unwrap(),
            not_after: Timestamp(1),
        }
    }

    #[tokio::test]
    async fn a_bank_that_stalls_keeps_nobody_from_another_bank() {
        let (requests, mut answers) = Requests::channel();
        let kill = Arc::new(KillPoints::default());
        let banks = Arc::new(Banks::new(Duration::from_secs(30), None, requests, kill));
        // Takes connections into its queue, and answers nothing.
        let (_stalled, url) = bank().await;
        for _ in 0..CALLS * 2 {
            banks.start(status(&url, PaymentId([7; 16])));
        }
        let (answering, url) = bank().await;
        banks.start(status(&url, PaymentId([8; 16])));
        let (mut connection, _) = answering.accept().await.unwrap();
        let mut head = [0; 4096];
        assert!(connection.read(&mut head).await.unwrap() > 0);
        let body = format!(r#"{{"key":"{}","state":"done"}}"#, "01".repeat(16));
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        connection.write_all(answer.as_bytes()).await.unwrap();
        match answers.recv().await {
            Some(Request::Bank { order: BankOrder { payment, .. }, answer }) => {
                assert_eq!((payment, answer), (PaymentId([8; 16]), BankAnswer::Done));
            }
            other => panic!("{other:?}"),
        }
    }
}
