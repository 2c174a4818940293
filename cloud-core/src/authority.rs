//! The platform's certificate authority (architecture.md, Identity; correctness.md 20).
//!
//! - Authority and servers use ECDSA P-256: browsers, which carry people's terminals over secure WebSocket,
//!   accept no Ed25519 certificates.
//! - A device has ONE Ed25519 key: it is its TLS identity and it signs payment informations (COSE). One key
//!   serves both, because what is signed can never be taken for the other: TLS 1.3 signs 64 spaces and a
//!   context string (first byte 0x20), TLS 1.2 the handshake beginning with a ClientHello (0x01), COSE a CBOR
//!   array beginning with 0x84, a certificate request a DER sequence (0x30). One key per device means one thing
//!   to protect, to revoke and to lose.
//!
//! Nothing here reads a clock except [`CertificateClock`], which TLS asks during handshakes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName as AuthorityName, RootCertStore};
use rustls::{ServerConfig, SignatureScheme};
use schemas::ids::Principal;
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::FromDer;

/// Bytes of a certificate request that are looked at.
pub const CSR_BYTES: usize = 4 << 10;
/// The scheme of the URI that names a device in its certificate: `farthing:tenant/device#instance`.
pub const URI_SCHEME: &str = "farthing";
/// X.509 allows 64 characters in a common name; a longer principal is in the URI only.
const COMMON_NAME_CHARACTERS: usize = 64;

/// Why nothing was issued, loaded or recognised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Stored bytes are not a certificate and its key.
    #[error("the stored authority can't be used ({0}): restore it from a backup; devices trust no other")]
    Stored(String),
    /// The certificate and the key do not belong together.
    #[error("the stored authority's key is not the key of its certificate: restore both from one backup")]
    OtherKey,
    /// A time that X.509 can't say.
    #[error("{0} ms is no time that a certificate can carry, or the end is before the beginning")]
    Time(u64),
    /// A server's name that is no DNS name.
    #[error("`{0}` is not a DNS name: give the names under which devices reach this server")]
    Name(String),
    /// Not a PKCS#10 certificate request in DER.
    #[error("the certificate request can't be read: send PKCS#10 in DER, at most {CSR_BYTES} bytes")]
    Request,
    /// The sender doesn't have the private key.
    #[error("the certificate request's signature is wrong: sign it with the device's key")]
    RequestSignature,
    /// Another kind of key than Ed25519.
    #[error("the certificate request is for another kind of key: devices use Ed25519")]
    RequestKey,
    /// Not a certificate that this authority gave to a device.
    #[error("the certificate does not name a device: enrol the device with this platform")]
    NotADevice,
    /// The library below refused.
    #[error("certificate not made: {0}")]
    Library(String),
}

/// From when until when, in Unix milliseconds. Certificates carry whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before_ms: u64,
    /// Last moment.
    pub not_after_ms: u64,
}

/// The authority's certificate and key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A server's certificate chain (its own first) and key.
#[derive(Debug)]
pub struct ServerIdentity {
    /// Ours ends with the authority's certificate: a device's first contact knows only its fingerprint.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

/// Who showed a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Tenant and device.
    pub principal: Principal,
    /// Counts this device's enrolments; commands bind to one.
    pub instance: u32,
    /// The certificate's serial number, 16 bytes.
    pub serial: [u8; 16],
}

impl Authority {
    /// Makes a new authority with a key of its own. `serial` comes from the system's random generator.
    pub fn generate(serial: [u8; 16], validity: Validity) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(library)?;
        let mut parameters = certificate_parameters("Farthing platform authority", serial, validity)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).map_err(library)?.der().clone();
        Self::with_key(certificate, key)
    }

    /// Loads what [`Self::to_pem`] gave.
    pub fn from_pem(certificate_and_key: &str) -> Result<Self, AuthorityError> {
        let stored = |error: rustls::pki_types::pem::Error| AuthorityError::Stored(error.to_string());
        let bytes = certificate_and_key.as_bytes();
        let certificate = CertificateDer::from_pem_slice(bytes).map_err(stored)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(bytes).map_err(stored)?;
        Self::from_der(certificate.as_ref(), key.secret_pkcs8_der())
    }

    /// Loads a certificate and its PKCS#8 key.
    pub fn from_der(certificate: &[u8], key_pkcs8: &[u8]) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key_pkcs8.into(), &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| AuthorityError::Stored(error.to_string()))?;
        Self::with_key(CertificateDer::from(certificate.to_vec()), key)
    }

    /// Certificate and key as PEM. Contains the private key: keep it where only the core can read it.
    pub fn to_pem(&self) -> String {
        format!("{}{}", certificate_pem(&self.certificate), self.issuer.key().serialize_pem())
    }

    /// The certificate in DER.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key in PKCS#8 DER, for [`Self::from_der`].
    pub fn key_der(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// The last moment of its certificate, in Unix milliseconds.
    pub fn not_after_ms(&self) -> u64 {
        let parsed = x509_parser::parse_x509_certificate(&self.certificate);
        let seconds = parsed.map_or(0, |(_, certificate)| certificate.validity().not_after.timestamp());
        u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
    }

    /// SHA-256 of the certificate: what claim codes carry the beginning of.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// Makes a key and a certificate for a listener that is reached under these names and addresses.
    pub fn issue_server(
        &self,
        names: &[&str],
        addresses: &[IpAddr],
        validity: Validity,
        serial: [u8; 16],
    ) -> Result<ServerIdentity, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(library)?;
        let mut parameters = certificate_parameters("Farthing server", serial, validity)?;
        for name in names {
            let name = (*name).try_into().map_err(|_| AuthorityError::Name((*name).to_owned()))?;
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        parameters.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(library)?;
        Ok(ServerIdentity {
            chain: vec![certificate.der().clone(), self.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialized_der().to_vec()).into(),
        })
    }

    /// Signs a device's request. Takes from it the key, whose possession its signature proves, and nothing
    /// else: names and uses are what the platform says. Returns the certificate in DER.
    pub fn sign_device_csr(
        &self,
        csr_der: &[u8],
        principal: &Principal,
        instance: u32,
        validity: Validity,
        serial: [u8; 16],
    ) -> Result<Vec<u8>, AuthorityError> {
        let public_key = public_key_of_csr(csr_der)?;
        let name = principal.to_string();
        let common_name =
            if name.len() <= COMMON_NAME_CHARACTERS { name.as_str() } else { principal.id.as_str() };
        let mut parameters = certificate_parameters(common_name, serial, validity)?;
        let uri = format!("{URI_SCHEME}:{name}#{instance}");
        let uri = uri.as_str().try_into().map_err(|_| AuthorityError::Name(uri.clone()))?;
        parameters.subject_alt_names = vec![SanType::URI(uri)];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let subject_key =
            SubjectPublicKeyInfo::from_der(&ed25519_public_key_info(&public_key)).map_err(library)?;
        let certificate = parameters.signed_by(&subject_key, &self.issuer).map_err(library)?;
        Ok(certificate.der().to_vec())
    }

    fn with_key(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, AuthorityError> {
        let stored = |error: String| AuthorityError::Stored(error);
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|error| stored(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AuthorityError::OtherKey);
        }
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|error| stored(error.to_string()))?;
        Ok(Self { issuer, certificate })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fingerprint = data_encoding::HEXLOWER.encode(&self.fingerprint());
        f.debug_struct("Authority").field("fingerprint", &fingerprint).finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate in DER.
pub fn fingerprint(certificate_der: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate_der).into()
}

/// The Ed25519 key that a certificate request is for, once its signature has proved possession.
pub fn public_key_of_csr(csr_der: &[u8]) -> Result<[u8; 32], AuthorityError> {
    if csr_der.len() > CSR_BYTES {
        return Err(AuthorityError::Request);
    }
    let (rest, request) = X509CertificationRequest::from_der(csr_der).map_err(|_| AuthorityError::Request)?;
    if !rest.is_empty() {
        return Err(AuthorityError::Request);
    }
    let key = &request.certification_request_info.subject_pki;
    if key.algorithm.algorithm != OID_SIG_ED25519 || request.signature_algorithm.algorithm != OID_SIG_ED25519
    {
        return Err(AuthorityError::RequestKey);
    }
    request.verify_signature().map_err(|_| AuthorityError::RequestSignature)?;
    key.subject_public_key.data.as_ref().try_into().map_err(|_| AuthorityError::RequestKey)
}

/// Who a client certificate names. Call it only with a certificate that TLS has verified.
pub fn principal_of_peer_certificate(certificate_der: &[u8]) -> Result<PeerIdentity, AuthorityError> {
    let not_a_device = AuthorityError::NotADevice;
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate_der) else {
        return Err(not_a_device);
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Err(not_a_device) };
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return Err(not_a_device) };
    let parsed = uri.strip_prefix(URI_SCHEME).and_then(|rest| rest.strip_prefix(':')).and_then(|rest| {
        let (principal, instance) = rest.split_once('#')?;
        Some((principal.parse().ok()?, instance.parse().ok()?))
    });
    let (principal, instance) = parsed.ok_or(not_a_device.clone())?;
    let digits: Vec<u8> = certificate.raw_serial().iter().copied().skip_while(|byte| *byte == 0).collect();
    let mut serial = [0; 16];
    let start = serial.len().checked_sub(digits.len()).ok_or(not_a_device)?;
    serial[start..].copy_from_slice(&digits);
    Ok(PeerIdentity { principal, instance, serial })
}

/// Whether a listener takes client certificates, and from which authority.
#[derive(Debug, Clone, Copy)]
pub enum ClientCertificates<'a> {
    /// Asks for none (enrolment, consoles).
    None,
    /// Takes one if shown; others authenticate by token.
    Optional(&'a CertificateDer<'static>),
    /// The same, and one that has ended no longer ago than this (renewal).
    OptionalLate(&'a CertificateDer<'static>, Duration),
    /// Nobody connects without one.
    Required(&'a CertificateDer<'static>),
}

/// A listener's TLS: versions 1.2 and 1.3, no tickets and no resumption, because a device's standing is
/// checked at each connection (correctness.md 20).
pub fn server_config(
    identity: &ServerIdentity,
    clients: ClientCertificates<'_>,
    clock: Arc<CertificateClock>,
) -> Result<ServerConfig, AuthorityError> {
    let provider = provider();
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), clock)
        .with_safe_default_protocol_versions()
        .map_err(library)?;
    let verifier = |authority: &CertificateDer<'static>| {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(library)?;
        Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider))
    };
    let builder = match clients {
        ClientCertificates::None => builder.with_no_client_auth(),
        ClientCertificates::Optional(authority) => builder.with_client_cert_verifier(
            verifier(authority)?.allow_unauthenticated().build().map_err(library)?,
        ),
        ClientCertificates::OptionalLate(authority, grace) => {
            let inner = verifier(authority)?.allow_unauthenticated().build().map_err(library)?;
            builder.with_client_cert_verifier(Arc::new(LateVerifier { inner, grace }))
        }
        ClientCertificates::Required(authority) => {
            builder.with_client_cert_verifier(verifier(authority)?.build().map_err(library)?)
        }
    };
    let mut config =
        builder.with_single_cert(identity.chain.clone(), identity.key.clone_key()).map_err(library)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Takes a certificate that has ended, within a grace: whether its device still has its standing is asked anyway.
#[derive(Debug)]
struct LateVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    grace: Duration,
}

impl ClientCertVerifier for LateVerifier {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now);
        match &verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {
                let earlier = Duration::from_secs(now.as_secs()).saturating_sub(self.grace);
                let earlier = UnixTime::since_unix_epoch(earlier);
                // Says again that it has ended where it ended before the grace.
                self.inner.verify_client_cert(end_entity, intermediates, earlier)
            }
            _ => verified,
        }
    }

    fn root_hint_subjects(&self) -> &[AuthorityName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The time against which certificates are checked: the wall clock, but never earlier than the latest
/// time that is known to have passed (the core's journaled time; correctness.md 14).
#[derive(Debug, Default)]
pub struct CertificateClock {
    floor_ms: AtomicU64,
}

impl CertificateClock {
    /// A clock that never says less than `floor_ms` (Unix milliseconds).
    pub fn new(floor_ms: u64) -> Self {
        Self { floor_ms: AtomicU64::new(floor_ms) }
    }

    /// A later time is known to have passed.
    pub fn raise(&self, floor_ms: u64) {
        self.floor_ms.fetch_max(floor_ms, Ordering::Relaxed);
    }
}

impl TimeProvider for CertificateClock {
    fn current_time(&self) -> Option<UnixTime> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let floor = Duration::from_millis(self.floor_ms.load(Ordering::Relaxed));
        Some(UnixTime::since_unix_epoch(wall.max(floor)))
    }
}

/// The one crypto provider. Passed explicitly, so that nothing depends on a process-wide default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificate_parameters(
    common_name: &str,
    serial: [u8; 16],
    validity: Validity,
) -> Result<CertificateParams, AuthorityError> {
    let moment = |ms: u64| {
        let seconds = i64::try_from(ms / 1_000).map_err(|_| AuthorityError::Time(ms))?;
        time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Time(ms))
    };
    if validity.not_after_ms < validity.not_before_ms {
        return Err(AuthorityError::Time(validity.not_after_ms));
    }
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.not_before = moment(validity.not_before_ms)?;
    parameters.not_after = moment(validity.not_after_ms)?;
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

/// RFC 8410: a fixed head and the 32 bytes.
fn ed25519_public_key_info(public_key: &[u8; 32]) -> Vec<u8> {
    const HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    [HEAD.as_slice(), public_key].concat()
}

fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    let base64 = data_encoding::BASE64.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn library(error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Library(error.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::PKCS_ED25519;

    use super::*;

    const VALIDITY: Validity = Validity { not_before_ms: 1_700_000_000_000, not_after_ms: 4_000_000_000_000 };

    fn authority() -> Authority {
        Authority::generate([7; 16], VALIDITY).unwrap()
    }

    fn csr(key: &KeyPair) -> Vec<u8> {
        let mut parameters = CertificateParams::new(vec!["admin.example".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "acme/somebody-else");
        parameters.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn stored_authority_is_the_same_authority() {
        let authority = authority();
        let loaded = Authority::from_pem(&authority.to_pem()).unwrap();
        assert_eq!(loaded.fingerprint(), authority.fingerprint());
        let loaded = Authority::from_der(authority.certificate_der(), authority.key_der()).unwrap();
        assert_eq!(loaded.fingerprint(), authority.fingerprint());
        let other = Authority::from_der(authority.certificate_der(), super::tests::authority().key_der());
        assert_eq!(other.err(), Some(AuthorityError::OtherKey));
        assert!(matches!(Authority::from_pem("nothing"), Err(AuthorityError::Stored(_))));
    }

    #[test]
    fn debug_hides_the_key() {
        let authority = authority();
        assert!(format!("{authority:?}").len() < 130);
    }

    /// correctness.md 20: the names that a request asks for are ignored.
    #[test]
    fn device_certificate_names_what_the_platform_says() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let principal: Principal = "acme/chip-7".parse().unwrap();
        let mut serial = [0xFF; 16];
        for first in [0xFF, 0x7F, 0x00] {
            serial[0] = first;
            let der = authority().sign_device_csr(&csr(&key), &principal, 3, VALIDITY, serial).unwrap();
            let peer = principal_of_peer_certificate(&der).unwrap();
            assert_eq!(peer, PeerIdentity { principal: principal.clone(), instance: 3, serial });
            let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
            assert_eq!(certificate.subject().to_string(), "CN=acme/chip-7");
            assert_eq!(certificate.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
            assert!(!certificate.is_ca());
        }
    }

    #[test]
    fn longest_principal_is_in_the_uri() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let principal: Principal = format!("{}/{}", "t".repeat(32), "d".repeat(32)).parse().unwrap();
        let der = authority().sign_device_csr(&csr(&key), &principal, 1, VALIDITY, [1; 16]).unwrap();
        assert_eq!(principal_of_peer_certificate(&der).unwrap().principal, principal);
    }

    #[test]
    fn request_needs_possession_of_an_ed25519_key() {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let good = csr(&key);
        assert_eq!(public_key_of_csr(&good).unwrap().as_slice(), key.public_key_raw());
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(public_key_of_csr(&forged), Err(AuthorityError::RequestSignature));
        let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        assert_eq!(public_key_of_csr(&csr(&p256)), Err(AuthorityError::RequestKey));
        let trailing = [good.as_slice(), &[0]].concat();
        for garbage in [&[][..], b"garbage", &good[..good.len() - 1], &trailing, &[0x30; CSR_BYTES + 1]] {
            assert_eq!(public_key_of_csr(garbage), Err(AuthorityError::Request));
        }
    }

    #[test]
    fn servers_and_authorities_are_not_devices() {
        let authority = authority();
        let server = authority.issue_server(&["core.example"], &[], VALIDITY, [1; 16]).unwrap();
        for certificate in &server.chain {
            assert_eq!(principal_of_peer_certificate(certificate), Err(AuthorityError::NotADevice));
        }
        assert_eq!(principal_of_peer_certificate(b"garbage"), Err(AuthorityError::NotADevice));
        let name = authority.issue_server(&["gr\u{fc}n"], &[], VALIDITY, [1; 16]);
        assert!(matches!(name, Err(AuthorityError::Name(_))));
    }

    /// correctness.md 20: standing is checked at each connection, so no session is resumed.
    #[test]
    fn no_session_is_kept_or_resumed() {
        let authority = authority();
        let server = authority.issue_server(&["core.example"], &[], VALIDITY, [1; 16]).unwrap();
        let ca = authority.certificate_der();
        for clients in
            [ClientCertificates::None, ClientCertificates::Optional(ca), ClientCertificates::Required(ca)]
        {
            let config = server_config(&server, clients, Arc::default()).unwrap();
            assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
            assert!(!config.session_storage.can_cache() && !config.ticketer.enabled());
        }
    }

    #[test]
    fn clock_is_never_earlier_than_what_is_known() {
        let clock = CertificateClock::new(4_000_000_000_000);
        clock.raise(1);
        assert_eq!(clock.current_time().unwrap().as_secs(), 4_000_000_000);
        clock.raise(5_000_000_000_000);
        assert_eq!(clock.current_time().unwrap().as_secs(), 5_000_000_000);
    }
}
