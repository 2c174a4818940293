//! The HTTP bank: one call, one attempt, one answer (CP-6, CP-7, CP-12, MO-4).
//!
//! The adapter decides nothing. Retries, backoff and deadlines are timers in the flow (correctness.md 18);
//! whatever is not a clear, documented answer to exactly this call is [`BankAnswer::Unknown`], never an
//! error and never a guess. All calls are idempotent by key, so the flow may make any of them again.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rust_decimal::Decimal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes of an answer's body that are read; a longer one is no answer.
const ANSWER_BYTES: usize = 16 << 10;
/// Bytes of an answer's head.
const HEAD_BYTES: usize = 16 << 10;
/// Characters of a refusal's code.
const CODE_BYTES: usize = 64;
/// Connections kept open between calls.
const IDLE_CONNECTIONS: usize = 16;

/// One call to the bank. Keys are made by the caller before the first attempt and never reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BankCall {
    /// Move money, if it reaches the bank by `not_after_ms`.
    Transfer {
        /// Idempotency key.
        key: [u8; 16],
        /// Account that pays.
        from: String,
        /// Account that receives.
        to: String,
        /// Amount in the currency's major unit.
        amount: Decimal,
        /// ISO 4217 code.
        currency: String,
        /// Unix time in milliseconds after which the bank refuses a first request for good.
        not_after_ms: u64,
        /// Text for the statement.
        reference: String,
    },
    /// What became of a transfer?
    Status {
        /// The transfer's key.
        key: [u8; 16],
    },
    /// Fence a transfer: after `Cancelled` it can never happen.
    Cancel {
        /// The transfer's key.
        key: [u8; 16],
    },
    /// Give back from a transfer that is done.
    Refund {
        /// Idempotency key of this refund.
        key: [u8; 16],
        /// The transfer's key.
        of: [u8; 16],
        /// Amount in the currency's major unit.
        amount: Decimal,
        /// ISO 4217 code.
        currency: String,
    },
}

/// What the bank said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BankAnswer {
    /// The money moved.
    Done,
    /// It did not and never will under this key.
    Refused {
        /// The bank's stable code.
        code: String,
    },
    /// The transfer is fenced.
    Cancelled,
    /// Never seen. Final only after `not_after_ms` and a margin: the request may still be on its way.
    NotFound,
    /// No clear answer. A bank's 400 or 409 is unknown too: neither says what became of the key.
    Unknown {
        /// For logs and the operator.
        reason: String,
    },
}

/// A bank address that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BankConfigError {
    /// Not a URL with a host.
    #[error("bank URL `{0}` is not a URL: write https://host[:port][/path]")]
    Url(String),
    /// Plain HTTP would show and let change every transfer on the way.
    #[error("bank URL `{0}` is plain http: use https, http is for 127.0.0.1, [::1] and localhost only")]
    Plain(String),
    /// https without trusted authorities.
    #[error("bank URL `{0}` is https: give the file with the bank's certificate authority (PEM)")]
    AuthorityMissing(String),
    /// The authorities are not PEM certificates.
    #[error("the bank's certificate authority can't be read ({0}): give a PEM file with CERTIFICATE blocks")]
    Authority(String),
}

type Connection = SendRequest<Full<Bytes>>;

/// A bank reached over HTTP/1.1.
#[derive(Debug)]
pub struct HttpBank {
    scheme_tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    host: String,
    port: u16,
    authority: String,
    base_path: String,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl HttpBank {
    /// A bank at `base_url`. `authority_pem` holds the certificates trusted for `https`; `timeout` covers a
    /// whole call, connecting included.
    pub fn new(
        base_url: &str,
        timeout: Duration,
        authority_pem: Option<&[u8]>,
    ) -> Result<Self, BankConfigError> {
        let malformed = || BankConfigError::Url(base_url.to_owned());
        let uri: Uri = base_url.parse().map_err(|_| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(malformed());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (scheme_tls, default_port) = match uri.scheme_str() {
            Some("http") if is_loopback(&host) => (None, 80),
            Some("http") => return Err(BankConfigError::Plain(base_url.to_owned())),
            Some("https") => {
                let pem =
                    authority_pem.ok_or_else(|| BankConfigError::AuthorityMissing(base_url.to_owned()))?;
                let name = ServerName::try_from(host.clone()).map_err(|_| malformed())?;
                (Some((Arc::new(tls_config(pem)?), name)), 443)
            }
            _ => return Err(malformed()),
        };
        Ok(Self {
            scheme_tls,
            // "localhost" could be pointed elsewhere by a resolver; plain HTTP must stay on this machine.
            host: if host == "localhost" { "127.0.0.1".to_owned() } else { host },
            port: authority.port_u16().unwrap_or(default_port),
            authority: authority.as_str().to_owned(),
            base_path: uri.path().trim_end_matches('/').to_owned(),
            timeout,
            idle: Mutex::default(),
        })
    }

    /// Makes one attempt. Never fails: what went wrong on the way is `Unknown`.
    pub async fn call(&self, call: &BankCall) -> BankAnswer {
        match tokio::time::timeout(self.timeout, self.attempt(call)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => BankAnswer::Unknown { reason },
            Err(_) => BankAnswer::Unknown {
                reason: format!("no answer from the bank within {} ms", self.timeout.as_millis()),
            },
        }
    }

    async fn attempt(&self, call: &BankCall) -> Result<BankAnswer, String> {
        let mut request = self.request(call)?;
        // A kept connection that closed meanwhile hands the request back unsent, so that another
        // connection is not a second attempt.
        while let Some(mut connection) = self.take_idle() {
            match connection.try_send_request(request).await {
                Ok(response) => return self.read(call, response, connection).await,
                Err(mut failure) => match failure.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(format!("bank connection: {}", failure.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response =
            connection.send_request(request).await.map_err(|error| format!("bank connection: {error}"))?;
        self.read(call, response, connection).await
    }

    fn request(&self, call: &BankCall) -> Result<Request<Full<Bytes>>, String> {
        let (method, path, body) = match call {
            BankCall::Transfer { key, from, to, amount, currency, not_after_ms, reference } => (
                Method::PUT,
                format!("/transfers/{}", HEXLOWER.encode(key)),
                serde_json::json!({
                    "from": from, "to": to, "amount": amount.to_string(), "currency": currency,
                    "not_after_ms": not_after_ms, "reference": reference,
                })
                .to_string(),
            ),
            BankCall::Status { key } => {
                (Method::GET, format!("/transfers/{}", HEXLOWER.encode(key)), String::new())
            }
            BankCall::Cancel { key } => {
                (Method::PUT, format!("/transfers/{}/cancel", HEXLOWER.encode(key)), String::new())
            }
            BankCall::Refund { key, of, amount, currency } => (
                Method::PUT,
                format!("/refunds/{}", HEXLOWER.encode(key)),
                serde_json::json!({
                    "of": HEXLOWER.encode(of), "amount": amount.to_string(), "currency": currency,
                })
                .to_string(),
            ),
        };
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base_path))
            .header(HOST, &self.authority)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| format!("bank request: {error}"))
    }

    async fn connect(&self) -> Result<Connection, String> {
        let unreachable =
            |error: std::io::Error| format!("bank at {}:{} not reachable: {error}", self.host, self.port);
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        match &self.scheme_tls {
            None => start_http(stream).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                start_http(connector.connect(name.clone(), stream).await.map_err(unreachable)?).await
            }
        }
    }

    async fn read(
        &self,
        call: &BankCall,
        response: hyper::Response<hyper::body::Incoming>,
        connection: Connection,
    ) -> Result<BankAnswer, String> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| format!("bank answer broke off: {error}"))?
            .to_bytes();
        self.keep_idle(connection);
        interpret(call, status, &body)
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep_idle(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS && !connection.is_closed() {
            idle.push(connection);
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls_config(authority_pem: &[u8]) -> Result<ClientConfig, BankConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority_pem) {
        let certificate = certificate.map_err(|error| BankConfigError::Authority(error.to_string()))?;
        roots.add(certificate).map_err(|error| BankConfigError::Authority(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(BankConfigError::Authority("no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BankConfigError::Authority(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

async fn start_http<S>(stream: S) -> Result<Connection, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("bank connection: {error}"))?;
    // Ends by itself when the sender is dropped or the bank closes; the caller sees every error.
    tokio::spawn(connection);
    Ok(sender)
}

#[derive(Debug, Deserialize)]
struct AnswerBody {
    key: String,
    state: State,
    code: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Done,
    Refused,
    Cancelled,
    NotFound,
}

/// Takes only what the contract lists for this call; the key is echoed, so that an answer that belongs to
/// another call can't be taken for this one's.
fn interpret(call: &BankCall, status: StatusCode, body: &[u8]) -> Result<BankAnswer, String> {
    if status != StatusCode::OK {
        return Err(format!("bank answered {}: {}", status.as_u16(), excerpt(body)));
    }
    let answer: AnswerBody = serde_json::from_slice(body)
        .map_err(|error| format!("bank answer is not the documented one ({error}): {}", excerpt(body)))?;
    let (BankCall::Transfer { key, .. }
    | BankCall::Status { key }
    | BankCall::Cancel { key }
    | BankCall::Refund { key, .. }) = call;
    if answer.key != HEXLOWER.encode(key) {
        return Err("bank answer is for another key".to_owned());
    }
    match (call, answer.state, answer.code) {
        (_, State::Done, None) => Ok(BankAnswer::Done),
        (_, State::Refused, Some(code)) if is_code(&code) => Ok(BankAnswer::Refused { code }),
        (BankCall::Refund { .. }, State::Cancelled, _) => {
            Err("bank says that a refund is cancelled".to_owned())
        }
        (_, State::Cancelled, None) => Ok(BankAnswer::Cancelled),
        (BankCall::Status { .. }, State::NotFound, None) => Ok(BankAnswer::NotFound),
        (_, state, _) => Err(format!("bank answer {state:?} does not fit the call")),
    }
}

fn is_code(code: &str) -> bool {
    !code.is_empty()
        && code.len() <= CODE_BYTES
        && code.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// Shown in reasons instead of a body of any length and content.
fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer() -> BankCall {
        BankCall::Transfer {
            key: [1; 16],
            from: "payer".to_owned(),
            to: "holding".to_owned(),
            amount: Decimal::new(250, 2),
            currency: "EUR".to_owned(),
            not_after_ms: 1,
            reference: String::new(),
        }
    }

    fn refund() -> BankCall {
        BankCall::Refund { key: [1; 16], of: [2; 16], amount: Decimal::ONE, currency: "EUR".to_owned() }
    }

    fn body(rest: &str) -> String {
        format!("{{\"key\":\"{}\",{rest}}}", HEXLOWER.encode(&[1; 16]))
    }

    /// MO-4: only a documented answer to exactly this call is an answer.
    #[test]
    fn interpret_takes_documented_answers_only() {
        let status = BankCall::Status { key: [1; 16] };
        let cancel = BankCall::Cancel { key: [1; 16] };
        let refused = || Some(BankAnswer::Refused { code: "too_late".to_owned() });
        let done = body(r#""state":"done""#);
        let not_found = body(r#""state":"not_found""#);
        let cancelled = body(r#""state":"cancelled""#);
        let too_late = body(r#""state":"refused","code":"too_late""#);
        let other_key = done.replace("01", "02");
        let table = [
            (transfer(), 200, done.as_str(), Some(BankAnswer::Done)),
            (refund(), 200, &done, Some(BankAnswer::Done)),
            (cancel.clone(), 200, &done, Some(BankAnswer::Done)),
            (status.clone(), 200, &not_found, Some(BankAnswer::NotFound)),
            (status.clone(), 200, &cancelled, Some(BankAnswer::Cancelled)),
            (transfer(), 200, &cancelled, Some(BankAnswer::Cancelled)),
            (refund(), 200, &too_late, refused()),
            (transfer(), 200, &too_late, refused()),
            // From here on: unknown.
            (refund(), 200, &cancelled, None),
            (transfer(), 200, &not_found, None),
            (cancel, 200, &not_found, None),
            (transfer(), 200, &other_key, None),
            (transfer(), 201, &done, None),
            (transfer(), 400, &done, None),
            (transfer(), 409, "{\"error\":\"conflict\"}", None),
            (status, 404, &not_found, None),
            (transfer(), 500, &done, None),
            (transfer(), 200, "", None),
            (transfer(), 200, "<html>done</html>", None),
            (transfer(), 200, &body(r#""state":"pending""#), None),
            (transfer(), 200, &body(r#""state":"refused""#), None),
            (transfer(), 200, &body(r#""state":"refused","code":"Not A Code""#), None),
            (transfer(), 200, &body(r#""state":"done","code":"too_late""#), None),
        ];
        for (row, (call, status, text, expected)) in table.into_iter().enumerate() {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(interpret(&call, status, text.as_bytes()).ok(), expected, "row {row}");
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        let new = |url: &str| HttpBank::new(url, Duration::from_secs(1), None).map(|bank| bank.host);
        assert_eq!(new("http://127.0.0.1:8080/bank/"), Ok("127.0.0.1".to_owned()));
        assert_eq!(new("http://localhost"), Ok("127.0.0.1".to_owned()));
        assert_eq!(new("http://[::1]:80"), Ok("::1".to_owned()));
        assert!(matches!(new("http://bank.example"), Err(BankConfigError::Plain(_))));
        assert!(matches!(new("http://127.0.0.1.evil.example"), Err(BankConfigError::Plain(_))));
        assert!(matches!(new("https://bank.example"), Err(BankConfigError::AuthorityMissing(_))));
        for malformed in
            ["", "bank.example", "ftp://127.0.0.1", "http://user@127.0.0.1", "http://127.0.0.1/?x"]
        {
            assert!(matches!(new(malformed), Err(BankConfigError::Url(_))), "{malformed}");
        }
        let garbage = HttpBank::new("https://bank.example", Duration::from_secs(1), Some(b"no pem"));
        assert!(matches!(garbage, Err(BankConfigError::Authority(_))));
    }
}
