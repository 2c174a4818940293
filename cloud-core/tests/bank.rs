//! The HTTP bank adapter against the test bank: every fault, and what both sides say afterwards.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloud_core::authority::{Authority, ClientCertificates, Validity, server_config};
use cloud_core::bank::{BankAnswer, BankCall, HttpBank};
use device_sim::bank::{Book, Store, serve};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rust_decimal::Decimal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Long enough that reaching it is a failure.
const PATIENT: Duration = Duration::from_secs(30);
/// For calls that are meant to time out.
const HASTY: Duration = Duration::from_millis(50);
const FAR_FUTURE_MS: u64 = 9_999_999_999_999;

struct TestBank {
    address: SocketAddr,
    server: JoinHandle<std::io::Result<()>>,
}

impl Drop for TestBank {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl TestBank {
    async fn start(store: Store) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, server: tokio::spawn(serve(listener, store)) }
    }

    async fn with_accounts() -> Self {
        let bank = Self::start(Store::in_memory()).await;
        bank.put("/accounts/payer", r#"{"balance":"100.00","currency":"EUR"}"#).await;
        bank.put("/accounts/holding", r#"{"balance":"0","currency":"EUR"}"#).await;
        bank
    }

    fn adapter(&self, timeout: Duration) -> HttpBank {
        HttpBank::new(&format!("http://{}", self.address), timeout, None).unwrap()
    }

    async fn put(&self, path: &str, body: &str) {
        let (status, text) = self.send(Method::PUT, path, body).await;
        assert_eq!(status, 200, "{path}: {text}");
    }

    async fn fault(&self, on: &str, fault: &str, times: u32) {
        let rules = format!(r#"{{"rules":[{{"on":"{on}","fault":{fault},"times":{times}}}]}}"#);
        self.put("/faults", &rules).await;
    }

    async fn book(&self) -> Book {
        serde_json::from_str(&self.send(Method::GET, "/book", "").await.1).unwrap()
    }

    async fn balances(&self) -> (Decimal, Decimal) {
        let book = self.book().await;
        (book.accounts["payer"].balance, book.accounts["holding"].balance)
    }

    /// Lets go of exactly one held message, once it has arrived.
    async fn release_one(&self) {
        let releasing = async {
            while self.send(Method::POST, "/release", "").await.1 != r#"{"released":1}"# {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENT, releasing).await.unwrap();
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> (u16, String) {
        let stream = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let request = Request::builder().method(method).uri(path).header("host", "bank").body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(text.to_vec()).unwrap())
    }
}

fn transfer(key: u8, cents: i64) -> BankCall {
    BankCall::Transfer {
        key: [key; 16],
        from: "payer".to_owned(),
        to: "holding".to_owned(),
        amount: Decimal::new(cents, 2),
        currency: "EUR".to_owned(),
        not_after_ms: FAR_FUTURE_MS,
        reference: "chip payment".to_owned(),
    }
}

fn status(key: u8) -> BankCall {
    BankCall::Status { key: [key; 16] }
}

fn cancel(key: u8) -> BankCall {
    BankCall::Cancel { key: [key; 16] }
}

fn refund(key: u8, of: u8, cents: i64) -> BankCall {
    BankCall::Refund {
        key: [key; 16],
        of: [of; 16],
        amount: Decimal::new(cents, 2),
        currency: "EUR".to_owned(),
    }
}

async fn wait_until_seen(adapter: &HttpBank, key: u8) {
    let waiting = async {
        while adapter.call(&status(key)).await == BankAnswer::NotFound {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENT, waiting).await.unwrap();
}

fn refused(code: &str) -> BankAnswer {
    BankAnswer::Refused { code: code.to_owned() }
}

fn euros(payer: i64, holding: i64) -> (Decimal, Decimal) {
    (Decimal::new(payer, 2), Decimal::new(holding, 2))
}

#[track_caller]
fn assert_unknown(answer: &BankAnswer, hint: &str) {
    let BankAnswer::Unknown { reason } = answer else { panic!("{answer:?} is a guess") };
    assert!(reason.contains(hint), "{reason}");
}

/// CP-6, CP-7, CP-12: the calls without faults, each made twice.
#[tokio::test]
async fn transfer_status_cancel_refund() {
    let bank = TestBank::with_accounts().await;
    let adapter = bank.adapter(PATIENT);
    let mut late = transfer(9, 100);
    if let BankCall::Transfer { not_after_ms, .. } = &mut late {
        *not_after_ms = 1;
    }
    let table = [
        (status(1), BankAnswer::NotFound),
        (transfer(1, 250), BankAnswer::Done),
        (status(1), BankAnswer::Done),
        (cancel(1), BankAnswer::Done),
        (transfer(2, 10_000), refused("insufficient_funds")),
        (cancel(2), refused("insufficient_funds")),
        (cancel(3), BankAnswer::Cancelled),
        (status(3), BankAnswer::Cancelled),
        (transfer(3, 100), BankAnswer::Cancelled),
        (late, refused("too_late")),
        (refund(20, 1, 300), refused("exceeds_transfer")),
        (refund(21, 1, 200), BankAnswer::Done),
        (refund(22, 1, 100), refused("exceeds_transfer")),
        (refund(23, 1, 50), BankAnswer::Done),
        (refund(24, 7, 50), refused("unknown_transfer")),
    ];
    for (row, (call, expected)) in table.iter().enumerate() {
        assert_eq!(&adapter.call(call).await, expected, "row {row}");
        assert_eq!(&adapter.call(call).await, expected, "row {row}, again");
    }
    assert_eq!(bank.balances().await, euros(10_000, 0));
    // MO-3: same key, other content is no answer about the key.
    assert_unknown(&adapter.call(&transfer(1, 251)).await, "409");
}

/// MO-4: the answer is lost, the money moved; asking again says so and moves nothing.
#[tokio::test]
async fn lost_answer_is_unknown_then_done_once() {
    let bank = TestBank::with_accounts().await;
    let adapter = bank.adapter(PATIENT);
    bank.fault("transfer", r#""lose_answer""#, 2).await;
    assert_unknown(&adapter.call(&transfer(1, 250)).await, "bank connection");
    assert_unknown(&adapter.call(&transfer(1, 250)).await, "bank connection");
    assert_eq!(adapter.call(&status(1)).await, BankAnswer::Done);
    assert_eq!(adapter.call(&transfer(1, 250)).await, BankAnswer::Done);
    assert_eq!(bank.balances().await, euros(9_750, 250));

    bank.fault("refund", r#""lose_answer""#, 1).await;
    assert_unknown(&adapter.call(&refund(2, 1, 250)).await, "bank connection");
    assert_eq!(adapter.call(&refund(2, 1, 250)).await, BankAnswer::Done);
    assert_eq!(bank.balances().await, euros(10_000, 0));
}

#[tokio::test]
async fn lost_request_and_500_are_unknown_and_move_nothing() {
    let bank = TestBank::with_accounts().await;
    let adapter = bank.adapter(PATIENT);
    for fault in [r#""lose_request""#, r#""fail_500""#] {
        bank.fault("transfer", fault, 1).await;
        assert_unknown(&adapter.call(&transfer(1, 250)).await, "bank");
        assert_eq!(adapter.call(&status(1)).await, BankAnswer::NotFound);
    }
    assert_eq!(bank.balances().await, euros(10_000, 0));
}

/// correctness.md 18: a request that is still on its way meets the fence.
#[tokio::test]
async fn cancel_fences_a_request_that_arrives_later() {
    let bank = TestBank::with_accounts().await;
    bank.fault("transfer", r#""hold_request""#, 1).await;
    assert_unknown(&bank.adapter(HASTY).call(&transfer(1, 250)).await, "within 50 ms");
    let adapter = bank.adapter(PATIENT);
    assert_eq!(adapter.call(&status(1)).await, BankAnswer::NotFound);
    assert_eq!(adapter.call(&cancel(1)).await, BankAnswer::Cancelled);
    bank.release_one().await;
    assert_eq!(adapter.call(&transfer(1, 250)).await, BankAnswer::Cancelled);
    assert_eq!(bank.balances().await, euros(10_000, 0));
}

/// correctness.md 18: without a fence, "not found" is not final: the request arrives after its caller gave up.
#[tokio::test]
async fn held_request_arrives_after_its_caller_gave_up() {
    let bank = TestBank::with_accounts().await;
    bank.fault("transfer", r#""hold_request""#, 1).await;
    assert_unknown(&bank.adapter(HASTY).call(&transfer(1, 250)).await, "within 50 ms");
    let adapter = bank.adapter(PATIENT);
    assert_eq!(adapter.call(&status(1)).await, BankAnswer::NotFound);
    bank.release_one().await;
    wait_until_seen(&adapter, 1).await;
    assert_eq!(adapter.call(&cancel(1)).await, BankAnswer::Done);
    assert_eq!(bank.balances().await, euros(9_750, 250));
}

#[tokio::test]
async fn held_answer_is_unknown_although_the_money_moved() {
    let bank = TestBank::with_accounts().await;
    bank.fault("transfer", r#""hold_answer""#, 1).await;
    assert_unknown(&bank.adapter(HASTY).call(&transfer(1, 250)).await, "within 50 ms");
    let adapter = bank.adapter(PATIENT);
    wait_until_seen(&adapter, 1).await;
    assert_eq!(adapter.call(&status(1)).await, BankAnswer::Done);
}

#[tokio::test]
async fn repeated_request_is_booked_once() {
    let bank = TestBank::with_accounts().await;
    let adapter = bank.adapter(PATIENT);
    bank.fault("transfer", r#""repeat""#, 1).await;
    assert_eq!(adapter.call(&transfer(1, 250)).await, BankAnswer::Done);
    bank.fault("refund", r#""repeat""#, 1).await;
    assert_eq!(adapter.call(&refund(2, 1, 100)).await, BankAnswer::Done);
    assert_eq!(bank.balances().await, euros(9_850, 150));
}

#[tokio::test]
async fn stalls_shorter_than_the_timeout_change_nothing() {
    let bank = TestBank::with_accounts().await;
    let adapter = bank.adapter(PATIENT);
    bank.fault("transfer", r#"{"stall_request_ms":5}"#, 1).await;
    assert_eq!(adapter.call(&transfer(1, 250)).await, BankAnswer::Done);
    bank.fault("status", r#"{"stall_answer_ms":5}"#, 1).await;
    assert_eq!(adapter.call(&status(1)).await, BankAnswer::Done);
}

#[tokio::test]
async fn refusal_on_demand_is_for_good() {
    let bank = TestBank::with_accounts().await;
    let adapter = bank.adapter(PATIENT);
    bank.fault("transfer", r#"{"refuse":{"code":"fraud_suspected"}}"#, 1).await;
    assert_eq!(adapter.call(&transfer(1, 250)).await, refused("fraud_suspected"));
    assert_eq!(adapter.call(&transfer(1, 250)).await, refused("fraud_suspected"));
    assert_eq!(adapter.call(&cancel(1)).await, refused("fraud_suspected"));
}

/// The bank's own restart loses nothing that it answered.
#[tokio::test]
async fn book_file_survives_the_bank() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("book.json");
    let first = TestBank::start(Store::open(&path).unwrap()).await;
    first.put("/accounts/payer", r#"{"balance":"100.00","currency":"EUR"}"#).await;
    first.put("/accounts/holding", r#"{"balance":"0","currency":"EUR"}"#).await;
    assert_eq!(first.adapter(PATIENT).call(&transfer(1, 250)).await, BankAnswer::Done);
    assert_eq!(first.adapter(PATIENT).call(&cancel(2)).await, BankAnswer::Cancelled);
    let book = first.book().await;
    drop(first);

    let second = TestBank::start(Store::open(&path).unwrap()).await;
    assert_eq!(second.book().await, book);
    assert_eq!(second.adapter(PATIENT).call(&transfer(1, 250)).await, BankAnswer::Done);
    assert_eq!(second.adapter(PATIENT).call(&transfer(2, 250)).await, BankAnswer::Cancelled);
    assert_eq!(second.balances().await, euros(9_750, 250));
}

/// A kept connection that the bank closed meanwhile costs nothing; a dead bank is unknown.
#[tokio::test]
async fn calls_go_on_after_a_bank_restart_on_the_same_address() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("book.json");
    let mut bank = TestBank::start(Store::open(&path).unwrap()).await;
    let adapter = bank.adapter(PATIENT);
    assert_eq!(adapter.call(&cancel(1)).await, BankAnswer::Cancelled);
    bank.server.abort();
    let _ = (&mut bank.server).await;
    assert_unknown(&adapter.call(&status(1)).await, "bank");
    let listener = TcpListener::bind(bank.address).await.unwrap();
    bank.server = tokio::spawn(serve(listener, Store::open(&path).unwrap()));
    assert_eq!(adapter.call(&status(1)).await, BankAnswer::Cancelled);
}

/// MO-4: what is not HTTP, breaks off, or never ends is unknown.
#[tokio::test]
async fn garbage_is_unknown() {
    let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{}", "x".repeat(100_000));
    let answers = [
        String::new(),
        "SMTP ready\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"state\":\"done\"".to_owned(),
        endless,
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000)),
    ];
    for (row, answer) in answers.into_iter().enumerate() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            // The adapter may hang up before everything is written: that is the point.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let adapter = HttpBank::new(&url, PATIENT, None).unwrap();
        let got = adapter.call(&transfer(1, 250)).await;
        assert!(matches!(got, BankAnswer::Unknown { .. }), "row {row}: {got:?}");
        server.await.unwrap();
    }
}

/// https: the configured authority is trusted and no other.
#[tokio::test]
async fn https_trusts_the_configured_authority_only() {
    let validity = Validity { not_before_ms: 1_700_000_000_000, not_after_ms: 4_000_000_000_000 };
    let authority = Authority::generate([1; 16], validity).unwrap();
    let loopback = [std::net::Ipv4Addr::LOCALHOST.into()];
    let identity = authority.issue_server(&[], &loopback, validity, [2; 16]).unwrap();
    let tls = server_config(&identity, ClientCertificates::None, Arc::default()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let body = format!(r#"{{"key":"{}","state":"done"}}"#, "01".repeat(16));
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let other = Authority::generate([1; 16], validity).unwrap();
    let adapter = |pem: String| HttpBank::new(&url, PATIENT, Some(pem.as_bytes())).unwrap();
    assert_unknown(&adapter(other.to_pem()).call(&transfer(1, 250)).await, "not reachable");
    assert_eq!(adapter(authority.to_pem()).call(&transfer(1, 250)).await, BankAnswer::Done);
    server.abort();
}
