//! TLS of all listeners, made at the start and again on SIGHUP, while they listen.
//!
//! | Listener | Shows | Takes client certificates |
//! |---|---|---|
//! | `listen_tls` | a certificate of our own authority, made here | of our authority, optional |
//! | `listen_wss` | `wss_certificate` if set, for browsers; otherwise the same as `listen_tls` | none: browsers give up where a WebSocket asks for one |
//! | `listen_admin` | the same as `listen_tls` | of our authority, required |
//! | `listen_enrolment` | the same as `listen_tls` | of our authority, for renewal, also some time after its end |
//!
//! A reload makes everything first and replaces all of it or nothing. Established connections keep what they have.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker::TlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use schemas::time::Timestamp;
use tokio::sync::watch;

use super::{CLOCK_TOLERANCE_MS, ServeError, files};
use crate::authority::{
    Authority, CertificateClock, ClientCertificates, ServerIdentity, Validity, server_config,
};
use crate::config::Config;
use crate::telemetry;

/// A server certificate is made at each start and reload, and outlives any run.
const SERVER_CERTIFICATE_MS: u64 = 2 * 366 * 24 * 3_600_000;
/// Before the end of a certificate that others made, the log says so at each start and reload.
const WARN_BEFORE_END_MS: u64 = 14 * 24 * 3_600_000;

/// What the listeners use now.
#[derive(Debug)]
pub(super) struct Tls {
    config: Config,
    fingerprint: [u8; 32],
    lane: watch::Sender<Arc<ServerConfig>>,
    websocket: watch::Sender<Arc<ServerConfig>>,
    enrolment: watch::Sender<Arc<ServerConfig>>,
    admin: watch::Sender<Arc<ServerConfig>>,
    clock: Arc<CertificateClock>,
}

impl Tls {
    pub(super) fn make(config: &Config, authority: &Authority, now: Timestamp) -> Result<Self, ServeError> {
        let clock = Arc::new(CertificateClock::new(now.0));
        let made = Made::make(config, authority, &clock, now)?;
        Ok(Self {
            config: config.clone(),
            fingerprint: authority.fingerprint(),
            lane: watch::Sender::new(made.lane),
            websocket: watch::Sender::new(made.websocket),
            enrolment: watch::Sender::new(made.enrolment),
            admin: watch::Sender::new(made.admin),
            clock,
        })
    }

    /// Reads every file again and makes new certificates.
    ///
    /// # Errors
    /// A file can't be used, or holds another authority. Then nothing is replaced.
    pub(super) fn reload(&self, now: Timestamp) -> Result<(), ServeError> {
        let authority = files::load_authority(&self.config)?;
        if authority.fingerprint() != self.fingerprint {
            return Err(ServeError::OtherAuthority { path: files::authority_key(&self.config) });
        }
        let made = Made::make(&self.config, &authority, &self.clock, now)?;
        self.lane.send_replace(made.lane);
        self.websocket.send_replace(made.websocket);
        self.enrolment.send_replace(made.enrolment);
        self.admin.send_replace(made.admin);
        Ok(())
    }

    pub(super) fn lane(&self) -> TlsConfig {
        self.lane.subscribe()
    }

    pub(super) fn websocket(&self) -> TlsConfig {
        self.websocket.subscribe()
    }

    pub(super) fn enrolment(&self) -> TlsConfig {
        self.enrolment.subscribe()
    }

    pub(super) fn admin(&self) -> TlsConfig {
        self.admin.subscribe()
    }

    /// The time against which certificates are checked.
    pub(super) fn clock(&self) -> &Arc<CertificateClock> {
        &self.clock
    }
}

struct Made {
    lane: Arc<ServerConfig>,
    websocket: Arc<ServerConfig>,
    enrolment: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
}

impl Made {
    fn make(
        config: &Config,
        authority: &Authority,
        clock: &Arc<CertificateClock>,
        now: Timestamp,
    ) -> Result<Self, ServeError> {
        let own = own_identity(config, authority, now)?;
        let make = |identity: &ServerIdentity, clients| {
            server_config(identity, clients, Arc::clone(clock)).map(Arc::new)
        };
        let devices = ClientCertificates::Optional(authority.certificate_der());
        let lane = make(&own, devices).map_err(ServeError::Authority)?;
        let websocket = match (&config.wss_certificate, &config.wss_key) {
            (Some(certificate), Some(key)) => {
                let identity = identity_of_files(certificate, key, now)?;
                make(&identity, ClientCertificates::None)
                    .map_err(|error| unusable(certificate, error.to_string()))?
            }
            _ => make(&own, ClientCertificates::None).map_err(ServeError::Authority)?,
        };
        // A device that renews shows the certificate that it has.
        let grace = Duration::from_millis(config.renewal_grace_ms);
        let renewing = ClientCertificates::OptionalLate(authority.certificate_der(), grace);
        let enrolment = make(&own, renewing).map_err(ServeError::Authority)?;
        let operators = ClientCertificates::Required(authority.certificate_der());
        let admin = make(&own, operators).map_err(ServeError::Authority)?;
        Ok(Self { lane, websocket, enrolment, admin })
    }
}

fn own_identity(
    config: &Config,
    authority: &Authority,
    now: Timestamp,
) -> Result<ServerIdentity, ServeError> {
    let addresses: Vec<IpAddr> = config.server_names.iter().filter_map(|name| name.parse().ok()).collect();
    let names: Vec<&str> = config
        .server_names
        .iter()
        .filter(|name| name.parse::<IpAddr>().is_err())
        .map(String::as_str)
        .collect();
    let validity = Validity {
        not_before_ms: now.0.saturating_sub(CLOCK_TOLERANCE_MS),
        not_after_ms: now.0.saturating_add(SERVER_CERTIFICATE_MS),
    };
    let serial = crate::random::bytes().map_err(ServeError::Random)?;
    telemetry::set_certificate_end("server", validity.not_after_ms);
    telemetry::set_certificate_end("authority", authority.not_after_ms());
    authority.issue_server(&names, &addresses, validity, serial).map_err(ServeError::Authority)
}

/// A chain and its key as other authorities give them, in PEM.
fn identity_of_files(certificate: &Path, key: &Path, now: Timestamp) -> Result<ServerIdentity, ServeError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(certificate, error.to_string()))?;
    let first = chain.first().ok_or_else(|| unusable(certificate, "there is no certificate in it".into()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(first)
        .map_err(|error| unusable(certificate, error.to_string()))?;
    let ends_at_ms = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0).saturating_mul(1000);
    if ends_at_ms < now.0 {
        return Err(unusable(certificate, "its time is over".into()));
    }
    if ends_at_ms < now.0.saturating_add(WARN_BEFORE_END_MS) {
        let days = (ends_at_ms - now.0) / (24 * 3_600_000);
        tracing::warn!(path = %certificate.display(), days, "this certificate ends soon: put a new one there and send SIGHUP");
    }
    telemetry::set_certificate_end("websocket", ends_at_ms);
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error.to_string()))?;
    Ok(ServerIdentity { chain, key })
}

fn unusable(path: &Path, reason: String) -> ServeError {
    ServeError::CertificateFile { path: path.to_owned(), reason }
}
