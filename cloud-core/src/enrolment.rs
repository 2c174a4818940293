//! Enrolment over HTTPS in the shape of EST (RFC 7030): a device with a claim code gets its certificate.
//!
//! | Call | Body | Answer |
//! |---|---|---|
//! | `GET /.well-known/est/cacerts` | | base64 PKCS#7 with the authority's certificate |
//! | `POST /.well-known/est/simpleenroll` | base64 PKCS#10, Basic `tenant/device:claim-secret` | base64 PKCS#7 with the device's certificate |
//! | `POST /.well-known/est/simplereenroll` | base64 PKCS#10 for the same key, over TLS with the current certificate | base64 PKCS#7 with the next certificate |
//!
//! A refusal is plain text, `code: sentence`. This file checks form and possession of the key; whether the
//! proof is good, and that the same proof and key give the same certificate, is decided by the core behind
//! [`EnrolmentDesk`] (correctness.md 20).

mod certs_only;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::BASE64;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use schemas::claim;
use schemas::ids::Principal;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::authority::{self, AuthorityError, PeerIdentity};

/// Bytes of a request's body: a certificate request in base64 with line breaks.
const BODY_BYTES: usize = 8 << 10;
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// A well-formed request by someone who has the private key.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolRequest {
    /// Who wants to enrol; to be compared with the claim.
    pub principal: Principal,
    /// What is to allow it.
    pub proof: Proof,
    /// The certificate request, signature checked.
    pub csr_der: Vec<u8>,
    /// The key it is for.
    pub public_key: [u8; 32],
}

/// What somebody shows who asks for a certificate.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// A claim code.
    Claim {
        /// SHA-256 of its secret.
        secret_hash: [u8; 32],
    },
    /// The current certificate, verified by TLS.
    Certificate {
        /// Which enrolment of the device it belongs to.
        instance: u32,
        /// Its serial number.
        serial: [u8; 16],
    },
}

/// A refusal as the device shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolRefusal {
    /// Stable code, `[a-z0-9_]`, for instance `claim_other_key`.
    pub code: String,
    /// One plain sentence: what failed, why, what to do.
    pub message: String,
    /// The same request may succeed later (503); otherwise it is final (403).
    pub retry: bool,
}

/// A decision on its way: the certificate in DER, once it is durable, or a refusal.
pub type EnrolDecision = Pin<Box<dyn Future<Output = Result<Vec<u8>, EnrolRefusal>> + Send>>;

/// Where enrolments are decided: the core. Closures that return a future are desks too.
pub trait EnrolmentDesk: Send + Sync + 'static {
    /// Same claim and same key = same certificate; same claim and another key = refused.
    fn enrol(&self, request: EnrolRequest) -> EnrolDecision;
}

impl<F, D> EnrolmentDesk for F
where
    F: Fn(EnrolRequest) -> D + Send + Sync + 'static,
    D: Future<Output = Result<Vec<u8>, EnrolRefusal>> + Send + 'static,
{
    fn enrol(&self, request: EnrolRequest) -> EnrolDecision {
        Box::pin(self(request))
    }
}

/// What the listener allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, handshakes included; more wait in the listener's queue.
    pub connections: usize,
    /// Of these from one address (IPv6: from one /64); further ones are closed. Loopback is exempt.
    pub connections_per_address: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the handshake to the end of the connection, the decision included.
    pub connection_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_address: 32,
            handshake_timeout: Duration::from_secs(10),
            connection_timeout: Duration::from_secs(60),
        }
    }
}

/// Serves until dropped, which also ends its connections. `tls` comes from
/// [`authority::server_config`] with [`authority::ClientCertificates::None`], and may be replaced; `authority_der` is
/// the certificate that devices are to trust.
pub async fn serve(
    listener: TcpListener,
    tls: broker::TlsConfig,
    authority_der: &[u8],
    desk: Arc<dyn EnrolmentDesk>,
    limits: Limits,
) -> io::Result<()> {
    let office = Arc::new(Office { authorities: certs_only::encode(&[authority_der]), desk });
    let router = router(office);
    let places = Arc::new(Semaphore::new(limits.connections));
    let present = Present::default();
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = listener.accept().await else {
            // A connection that died in the queue, or no file descriptor left: neither ends the listener.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(pass) = Pass::of(&present, peer.ip(), limits.connections_per_address) else { continue };
        let (acceptor, router) = (TlsAcceptor::from(tls.borrow().clone()), router.clone());
        // The handshake runs in the connection's own task: a slow one delays nobody.
        connections.spawn(async move {
            serve_connection(stream, acceptor, router, limits).await;
            drop((place, pass));
        });
    }
}

async fn serve_connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router, limits: Limits) {
    // Errors in here are peers that hung up or don't speak TLS or HTTP: theirs to notice.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(limits.handshake_timeout, acceptor.accept(stream)).await else {
        return;
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = Peer(certificate.and_then(|shown| authority::principal_of_peer_certificate(shown).ok()));
    let calls = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let answering = calls.call(request);
        async move { answering.await.map_err(|never: Infallible| never) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.handshake_timeout).max_buf_size(HEAD_BYTES);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(limits.connection_timeout, serving).await;
}

/// Who TLS says is there.
#[derive(Clone)]
struct Peer(Option<PeerIdentity>);

/// Connections now, by address.
type Present = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The right of one connection to take one of its address's places.
struct Pass {
    present: Present,
    address: IpAddr,
}

impl Pass {
    fn of(present: &Present, peer: IpAddr, at_most: usize) -> Option<Self> {
        let address = broker::counted_as(peer);
        let mut counts = present.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&address).copied().unwrap_or(0);
        if count >= at_most && !address.is_loopback() {
            return None;
        }
        counts.insert(address, count + 1);
        Some(Self { present: Arc::clone(present), address })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut counts = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

struct Office {
    authorities: String,
    desk: Arc<dyn EnrolmentDesk>,
}

fn router(office: Arc<Office>) -> Router {
    Router::new()
        .route("/.well-known/est/cacerts", get(cacerts))
        .route("/.well-known/est/simpleenroll", post(simpleenroll))
        .route("/.well-known/est/simplereenroll", post(simplereenroll))
        .fallback(async || {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "There is nothing at this address: enrolment is below /.well-known/est/.",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(office)
}

async fn cacerts(State(office): State<Arc<Office>>) -> Response {
    pkcs7(office.authorities.clone())
}

async fn simpleenroll(
    State(office): State<Arc<Office>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let (principal, secret_hash) = credentials(&headers)?;
    sign(&office, principal, Proof::Claim { secret_hash }, body).await
}

async fn simplereenroll(
    State(office): State<Arc<Office>>,
    Extension(Peer(peer)): Extension<Peer>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let peer = peer.ok_or_else(|| {
        let message = "Renew over TLS with the device's current certificate.";
        Problem::new(StatusCode::FORBIDDEN, "certificate_missing", message)
    })?;
    let proof = Proof::Certificate { instance: peer.instance, serial: peer.serial };
    sign(&office, peer.principal, proof, body).await
}

async fn sign(
    office: &Office,
    principal: Principal,
    proof: Proof,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| {
        let message = "Send the certificate request alone, at most 8 KiB.";
        Problem::new(rejection.status(), "body_refused", message)
    })?;
    let csr_der = decode_base64(&body).ok_or_else(|| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "csr_malformed",
            "The body is not base64: send PKCS#10 in base64.",
        )
    })?;
    let public_key = authority::public_key_of_csr(&csr_der)?;
    let request = EnrolRequest { principal, proof, csr_der, public_key };
    let certificate = office.desk.enrol(request).await?;
    Ok(pkcs7(certs_only::encode(&[&certificate])))
}

/// User = principal, password = the claim's secret. Nothing of either appears in the refusal.
fn credentials(headers: &HeaderMap) -> Result<(Principal, [u8; 32]), Problem> {
    let unauthorized =
        |code: &'static str, message: &str| Problem::new(StatusCode::UNAUTHORIZED, code, message);
    let header = headers.get(AUTHORIZATION).ok_or_else(|| {
        unauthorized(
            "claim_missing",
            "Authenticate by Basic: user tenant/device, password the claim's secret.",
        )
    })?;
    let text = header.to_str().ok().and_then(|header| header.strip_prefix("Basic "));
    let decoded = text.and_then(|text| BASE64.decode(text.trim().as_bytes()).ok());
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let parsed = decoded
        .as_deref()
        .and_then(|text| text.split_once(':'))
        .and_then(|(user, password)| Some((user.parse().ok()?, claim::secret_hash_of_text(password)?)));
    parsed.ok_or_else(|| {
        unauthorized(
            "claim_malformed",
            "The credentials are not a device's name and the secret of a claim code.",
        )
    })
}

fn decode_base64(body: &[u8]) -> Option<Vec<u8>> {
    let characters: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if characters.is_empty() { None } else { BASE64.decode(&characters).ok() }
}

fn pkcs7(base64: String) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/pkcs7-mime; smime-type=certs-only"),
        (HeaderName::from_static("content-transfer-encoding"), "base64"),
    ];
    (headers, base64).into_response()
}

/// A refusal on its way out.
struct Problem {
    status: StatusCode,
    code: String,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, code: &str, message: &str) -> Self {
        Self { status, code: code.to_owned(), message: message.to_owned() }
    }
}

impl From<AuthorityError> for Problem {
    fn from(error: AuthorityError) -> Self {
        let code = match error {
            AuthorityError::RequestSignature => "csr_signature",
            AuthorityError::RequestKey => "csr_key",
            _ => "csr_malformed",
        };
        Self::new(StatusCode::BAD_REQUEST, code, &error.to_string())
    }
}

impl From<EnrolRefusal> for Problem {
    fn from(refusal: EnrolRefusal) -> Self {
        let status = if refusal.retry { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN };
        Self::new(status, &refusal.code, &refusal.message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, format!("{}: {}\n", self.code, self.message)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"claim code\""));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest").field("principal", &self.principal).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place() {
        let present = Present::default();
        let pass = |address: &str| Pass::of(&present, address.parse().unwrap(), 2);
        let taken = [pass("2001:db8::1"), pass("2001:db8::2")];
        assert!(taken.iter().all(Option::is_some));
        assert!(pass("2001:db8::3").is_none(), "the same /64");
        assert!(pass("192.0.2.7").is_some());
        let loopback: Vec<_> = (0..3).map(|_| pass("127.0.0.1")).collect();
        assert!(loopback.iter().all(Option::is_some));
        drop((taken, loopback));
        assert!(present.lock().unwrap().is_empty(), "places are given back");
    }
}
