//! Enrolment: with a claim code, a device gets its certificate from a platform it has never met
//! (correctness.md 20; EST, RFC 7030).
//!
//! A certificate that is there is renewed with itself ([`renew`]): the key, the name and the instance stay.
//!
//! Order for a caller: open the [`IdentityDirectory`], take `key_or_create` (synced before anything is
//! sent, so that a retry after a lost answer uses the same key), [`enrol`], `save`. Any step may be repeated:
//! the platform gives the same certificate for the same claim and key.

mod certs_only;
mod first_contact;
mod identity;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, BASE64_MIME};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, DnType};
use rustls::AlertDescription;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::time_provider::TimeProvider;
use schemas::claim::ClaimCode;
use schemas::ids::Principal;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use identity::{
    CertificateClock, DeviceKey, IdentityDirectory, IdentityError, client_config, validity_ms,
};

/// Bytes of an answer that are read.
const ANSWER_BYTES: usize = 64 << 10;
/// Characters of a refusal that are shown.
const MESSAGE_CHARACTERS: usize = 300;

/// What a device has after enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Who the device is now.
    pub principal: Principal,
    /// Counts the device's enrolments; commands bind to one.
    pub instance: u32,
    /// The device's certificate, then the authority's, in DER.
    pub certificate_chain: Vec<CertificateDer<'static>>,
    /// The platform's authority, in DER: the only one this device trusts.
    pub ca_der: CertificateDer<'static>,
}

/// Why there is no certificate yet, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No connection.
    #[error("{address} can't be reached ({source}): check the address and the network, then try again")]
    Unreachable {
        /// Where to.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Not `host:port`.
    #[error("`{0}` is not an address: write host:port, for instance core.example:8443")]
    Address(String),
    /// Nothing or too little in time.
    #[error("{address} did not answer within {seconds} s: try again; the claim code stays good for this key")]
    TimedOut {
        /// Where to.
        address: String,
        /// How long.
        seconds: u64,
    },
    /// Somebody else answered.
    #[error(
        "{address} is not the platform that made this claim code, and nothing was sent to it: check the \
         address; if it is right, somebody intercepts the connection or the code is for another platform"
    )]
    OtherAuthority {
        /// Where to.
        address: String,
    },
    /// The right authority, but not for this name or time.
    #[error(
        "{address} showed a certificate that is not good for it now ({reason}): check this device's clock, \
         and that the address is one of the names the platform was set up with"
    )]
    ServerCertificate {
        /// Where to.
        address: String,
        /// What TLS says.
        reason: String,
    },
    /// The platform refused for good.
    #[error(
        "{message} ({code}); ask the operator for a new claim code: cloud-core admin claim create {principal}"
    )]
    Refused {
        /// Stable code.
        code: String,
        /// The platform's sentence.
        message: String,
        /// Who asked.
        principal: Principal,
    },
    /// The platform can't decide now.
    #[error(
        "the platform can't sign now: {message} ({code}); try again, with the same claim code if it was one"
    )]
    Unavailable {
        /// Stable code.
        code: String,
        /// The platform's sentence.
        message: String,
    },
    /// The connection broke, perhaps after the platform signed.
    #[error(
        "the connection to {address} broke ({reason}): try again; the same key gets the same certificate"
    )]
    Broken {
        /// Where to.
        address: String,
        /// How.
        reason: String,
    },
    /// Too late for a renewal.
    #[error(
        "the certificate of {principal} has ended, and the platform renews it no more: ask the operator for a new \
         claim code (cloud-core admin claim create {principal}), then `edge-agent enroll`"
    )]
    Ended {
        /// Whose.
        principal: Principal,
    },
    /// An answer, but not a certificate for this device and key.
    #[error(
        "{address} answered with something else than this device's certificate ({reason}): report it to the operator"
    )]
    Answer {
        /// Where to.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// The library refused the key.
    #[error("the device's key can't be used ({0}): delete it, and ask the operator for a new claim code")]
    Key(String),
}

/// Enrols. `address` is `host:port`; `clock` says the time for certificates; `timeout` covers everything.
/// Sends the claim's secret only to a server whose chain ends in the authority that the claim code names.
pub async fn enrol(
    address: &str,
    claim: &ClaimCode,
    principal: &Principal,
    key: &DeviceKey,
    clock: Arc<dyn TimeProvider>,
    timeout: Duration,
) -> Result<Enrolled, EnrolError> {
    Enrolment { address, proof: Proof::Claim(claim), principal, key, clock }.within(timeout).await
}

/// Gets the next certificate with the current one, for the same key. Repeated after a lost answer, it gets the same
/// one. Nothing on disk is touched: that the new one works is for the caller to see before it counts.
pub async fn renew(
    address: &str,
    current: &Enrolled,
    key: &DeviceKey,
    clock: Arc<dyn TimeProvider>,
    timeout: Duration,
) -> Result<Enrolled, EnrolError> {
    let principal = &current.principal;
    Enrolment { address, proof: Proof::Current(current), principal, key, clock }.within(timeout).await
}

/// What allows it.
enum Proof<'a> {
    Claim(&'a ClaimCode),
    Current(&'a Enrolled),
}

struct Enrolment<'a> {
    address: &'a str,
    proof: Proof<'a>,
    principal: &'a Principal,
    key: &'a DeviceKey,
    clock: Arc<dyn TimeProvider>,
}

impl Enrolment<'_> {
    async fn within(&self, timeout: Duration) -> Result<Enrolled, EnrolError> {
        let (address, seconds) = (self.address.to_owned(), timeout.as_secs());
        let late = |_| EnrolError::TimedOut { address, seconds };
        tokio::time::timeout(timeout, self.run()).await.map_err(late)?
    }

    async fn run(&self) -> Result<Enrolled, EnrolError> {
        let csr = self.certificate_request()?;
        let stream = self.connect().await?;
        let authority = match self.proof {
            Proof::Current(current) => current.ca_der.clone(),
            Proof::Claim(claim) => {
                let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
                first_contact::find_authority(presented, claim.ca_fingerprint())
                    .ok_or_else(|| EnrolError::OtherAuthority { address: self.address.to_owned() })?
                    .clone()
                    .into_owned()
            }
        };
        let (status, body) = self.exchange(stream, &csr).await?;
        if status != StatusCode::OK {
            return Err(self.refusal(status, &body));
        }
        self.accept(&body, authority).map_err(|reason| self.answer(reason))
    }

    fn certificate_request(&self) -> Result<Vec<u8>, EnrolError> {
        let key = self.key.key_pair().map_err(|error| EnrolError::Key(error.to_string()))?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        // The platform decides the names; this one is for people who read requests.
        parameters.distinguished_name.push(DnType::CommonName, self.principal.to_string());
        let csr = parameters.serialize_request(&key).map_err(|error| EnrolError::Key(error.to_string()))?;
        Ok(csr.der().to_vec())
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, EnrolError> {
        let unreachable = |source| EnrolError::Unreachable { address: self.address.to_owned(), source };
        let malformed = || EnrolError::Address(self.address.to_owned());
        let (host, _) = self.address.rsplit_once(':').ok_or_else(malformed)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|_| malformed())?;
        let clock = Arc::clone(&self.clock);
        let config = match self.proof {
            Proof::Claim(claim) => first_contact::config(claim.ca_fingerprint(), clock),
            Proof::Current(current) => {
                client_config(&current.ca_der, Some((self.key, &current.certificate_chain)), clock)
            }
        }
        .map_err(|error| EnrolError::Key(error.to_string()))?;
        let stream = TcpStream::connect(self.address).await.map_err(unreachable)?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| self.handshake_error(error))
    }

    fn handshake_error(&self, error: io::Error) -> EnrolError {
        let address = self.address.to_owned();
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            // A bad signature: the true authority's certificate beside a server that it did not sign.
            Some(rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
            )) => EnrolError::OtherAuthority { address },
            Some(rustls::Error::InvalidCertificate(reason)) => {
                EnrolError::ServerCertificate { address, reason: reason.to_string() }
            }
            Some(other) => EnrolError::Broken { address, reason: other.to_string() },
            None => EnrolError::Broken { address, reason: error.to_string() },
        }
    }

    async fn exchange(
        &self,
        stream: TlsStream<TcpStream>,
        csr: &[u8],
    ) -> Result<(StatusCode, Bytes), EnrolError> {
        let broken = |error: &(dyn Error + 'static)| self.broken(error);
        let mut request = Request::builder()
            .method(Method::POST)
            .header(HOST, self.address)
            .header(CONTENT_TYPE, "application/pkcs10");
        request = match self.proof {
            Proof::Current(_) => request.uri("/.well-known/est/simplereenroll"),
            Proof::Claim(claim) => {
                let credentials =
                    BASE64.encode(format!("{}:{}", self.principal, claim.secret_text()).as_bytes());
                let mut authorization =
                    HeaderValue::try_from(format!("Basic {credentials}")).map_err(|error| broken(&error))?;
                authorization.set_sensitive(true);
                request.uri("/.well-known/est/simpleenroll").header(AUTHORIZATION, authorization)
            }
        };
        let body = Full::new(Bytes::from(BASE64_MIME.encode(csr)));
        let request = request.body(body).map_err(|error| broken(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let exchanging = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| broken(error.as_ref()))?.to_bytes()))
        };
        // The connection moves bytes only while it is polled; it ends with this call.
        let mut connection = std::pin::pin!(connection);
        tokio::pin!(exchanging);
        tokio::select! {
            answer = &mut exchanging => answer,
            _ = &mut connection => exchanging.await,
        }
    }

    /// In TLS 1.3 a client learns only when it reads that its certificate was not taken.
    fn broken(&self, error: &(dyn Error + 'static)) -> EnrolError {
        let mut cause = Some(error);
        while let Some(found) = cause {
            let inner = found.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
            if let Some(rustls::Error::AlertReceived(AlertDescription::CertificateExpired)) = tls {
                return EnrolError::Ended { principal: self.principal.clone() };
            }
            cause = found.source();
        }
        EnrolError::Broken { address: self.address.to_owned(), reason: error.to_string() }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> EnrolError {
        let text: String = String::from_utf8_lossy(body)
            .chars()
            .filter(|c| !c.is_control())
            .take(MESSAGE_CHARACTERS)
            .collect();
        let is_code = |code: &str| {
            !code.is_empty() && code.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        };
        let Some((code, message)) = text.split_once(": ").filter(|(code, _)| is_code(code)) else {
            return self.answer(format!("status {}", status.as_u16()));
        };
        let (code, message) = (code.to_owned(), message.to_owned());
        if status.is_server_error() {
            EnrolError::Unavailable { code, message }
        } else {
            EnrolError::Refused { code, message, principal: self.principal.clone() }
        }
    }

    /// Believes nothing: the certificate must be the authority's, for this key and this principal.
    fn accept(&self, body: &[u8], authority: CertificateDer<'static>) -> Result<Enrolled, String> {
        let certificates = certs_only::decode(body).ok_or("not a PKCS#7 with certificates")?;
        let [certificate] = certificates.as_slice() else {
            return Err(format!("{} certificates in place of one", certificates.len()));
        };
        let certificate = CertificateDer::from(certificate.clone());
        identity::verify_own(&certificate, &authority, self.clock.as_ref())?;
        let own = identity::read_own(&certificate)?;
        if own.public_key != self.key.public_key() {
            return Err("the certificate is for another key".to_owned());
        }
        if own.principal != *self.principal {
            return Err(format!("the certificate is for {}", own.principal));
        }
        if let Proof::Current(current) = self.proof
            && own.instance != current.instance
        {
            return Err(format!("the certificate is for instance {}", own.instance));
        }
        Ok(Enrolled {
            principal: own.principal,
            instance: own.instance,
            certificate_chain: vec![certificate, authority.clone()],
            ca_der: authority,
        })
    }

    fn answer(&self, reason: String) -> EnrolError {
        EnrolError::Answer { address: self.address.to_owned(), reason }
    }
}
