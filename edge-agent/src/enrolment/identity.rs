//! What makes a device this device: its key, its certificate, the authority it trusts; in memory and on disk.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use rcgen::{KeyPair, PKCS_ED25519};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use schemas::ids::Principal;
use x509_parser::extensions::GeneralName;

use super::Enrolled;

const KEY_FILE: &str = "device.key";
const CERTIFICATE_FILE: &str = "device.crt";
const AUTHORITY_FILE: &str = "authority.crt";
/// A renewed certificate that has not been tried yet.
const NEXT_FILE: &str = "device.crt.next";
/// Where the device enrolled, and renews.
const SERVER_FILE: &str = "server";
/// RFC 8410: PKCS#8 of an Ed25519 key is this head and the 32 secret bytes.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// An identity directory that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file that can't be read or written.
    #[error("{path}: {source}: check the directory and its permissions")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file with something else in it.
    #[error(
        "{path} is damaged ({reason}): restore it, or delete the directory and enrol again with a new claim code"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A device's one key, Ed25519: its TLS identity and the signer of its payment informations. What is signed
/// for the one can't pass for the other: TLS 1.3 signs from byte 0x20, TLS 1.2 from 0x01, COSE from 0x84, a
/// certificate request from 0x30.
#[derive(Clone)]
pub struct DeviceKey(SigningKey);

impl DeviceKey {
    /// A new key from 32 bytes of the system's random generator.
    pub fn generate(random: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&random))
    }

    /// The public half, as the cloud registers it.
    pub fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// For COSE signatures.
    pub fn signing_key(&self) -> &SigningKey {
        &self.0
    }

    pub(super) fn key_pair(&self) -> Result<KeyPair, rcgen::Error> {
        KeyPair::from_pkcs8_der_and_sign_algo(&self.pkcs8(), &PKCS_ED25519)
    }

    fn pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from([PKCS8_HEAD.as_slice(), self.0.as_bytes()].concat())
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let secret = der.strip_prefix(PKCS8_HEAD.as_slice())?.try_into().ok()?;
        Some(Self::generate(secret))
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKey").finish_non_exhaustive()
    }
}

/// Where a device keeps its key and certificates, readable by its own user only. A file is written beside,
/// synced, renamed, and its directory synced: after a power cut there is the old one or the new one.
#[derive(Debug, Clone)]
pub struct IdentityDirectory(PathBuf);

impl IdentityDirectory {
    /// Uses a directory, and makes it when it is not there.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
        Ok(Self(path.to_owned()))
    }

    /// The key, if there is one.
    pub fn key(&self) -> Result<Option<DeviceKey>, IdentityError> {
        let Some(pem) = self.read(KEY_FILE)? else { return Ok(None) };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .map_err(|error| self.damaged(KEY_FILE, error.to_string()))?;
        let key = DeviceKey::from_pkcs8(key.secret_pkcs8_der());
        key.map(Some).ok_or_else(|| self.damaged(KEY_FILE, "not an Ed25519 key".to_owned()))
    }

    /// The key, or a new one from `random`, on disk before this returns: whatever a platform signs, this
    /// device can still use.
    pub fn key_or_create(&self, random: [u8; 32]) -> Result<DeviceKey, IdentityError> {
        if let Some(key) = self.key()? {
            return Ok(key);
        }
        let key = DeviceKey::generate(random);
        self.write(KEY_FILE, &pem("PRIVATE KEY", key.pkcs8().secret_pkcs8_der()))?;
        Ok(key)
    }

    /// Keeps what [`super::enrol`] returned. The certificate comes last: where it is, the device is enrolled.
    pub fn save(&self, enrolled: &Enrolled) -> Result<(), IdentityError> {
        let Some(certificate) = enrolled.certificate_chain.first() else {
            return Err(self.damaged(CERTIFICATE_FILE, "no certificate to keep".to_owned()));
        };
        self.write(AUTHORITY_FILE, &pem("CERTIFICATE", &enrolled.ca_der))?;
        self.write(CERTIFICATE_FILE, &pem("CERTIFICATE", certificate))
    }

    /// Keeps a renewed certificate beside the one that is used, to be tried.
    pub fn save_next(&self, renewed: &Enrolled) -> Result<(), IdentityError> {
        let Some(certificate) = renewed.certificate_chain.first() else {
            return Err(self.damaged(NEXT_FILE, "no certificate to keep".to_owned()));
        };
        self.write(NEXT_FILE, &pem("CERTIFICATE", certificate))
    }

    /// The renewed certificate takes the place of the one that was used: all at once, or not.
    pub fn replace_with_next(&self) -> Result<(), IdentityError> {
        let path = self.0.join(CERTIFICATE_FILE);
        let replaced = fs::rename(self.0.join(NEXT_FILE), &path);
        let synced = replaced.and_then(|()| File::open(&self.0)?.sync_all());
        synced.map_err(|source| IdentityError::Io { path, source })
    }

    /// Keeps where this device enrols, `host:port`: it renews there.
    pub fn save_server(&self, server: &str) -> Result<(), IdentityError> {
        self.write(SERVER_FILE, &format!("{server}\n"))
    }

    /// Where this device enrolled, `host:port`.
    pub fn server(&self) -> Result<Option<String>, IdentityError> {
        let text = self.read(SERVER_FILE)?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// What was kept; `None` before enrolment.
    pub fn load(&self) -> Result<Option<Enrolled>, IdentityError> {
        let (Some(certificate), Some(ca_der)) =
            (self.certificate(CERTIFICATE_FILE)?, self.certificate(AUTHORITY_FILE)?)
        else {
            return Ok(None);
        };
        let own = read_own(&certificate).map_err(|reason| self.damaged(CERTIFICATE_FILE, reason))?;
        if self.key()?.is_none_or(|key| key.public_key() != own.public_key) {
            return Err(self.damaged(CERTIFICATE_FILE, format!("it is not for the key in {KEY_FILE}")));
        }
        let certificate_chain = vec![certificate, ca_der.clone()];
        Ok(Some(Enrolled { principal: own.principal, instance: own.instance, certificate_chain, ca_der }))
    }

    fn certificate(&self, file: &str) -> Result<Option<CertificateDer<'static>>, IdentityError> {
        let Some(pem) = self.read(file)? else { return Ok(None) };
        let certificate = CertificateDer::from_pem_slice(&pem);
        certificate.map(Some).map_err(|error| self.damaged(file, error.to_string()))
    }

    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, IdentityError> {
        let path = self.0.join(file);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<(), IdentityError> {
        let path = self.0.join(file);
        let beside = self.0.join(format!("{file}.new"));
        let writing = || {
            // A leftover of an interrupted write may have been made with other permissions.
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.0)?.sync_all()
        };
        writing().map_err(|source| IdentityError::Io { path: path.clone(), source })
    }

    fn damaged(&self, file: &str, reason: String) -> IdentityError {
        IdentityError::Damaged { path: self.0.join(file), reason }
    }
}

/// TLS of an enrolled device (or, without `identity`, of a token client): trusts the platform's authority and
/// nobody else, and resumes no session.
pub fn client_config(
    ca_der: &CertificateDer<'static>,
    identity: Option<(&DeviceKey, &[CertificateDer<'static>])>,
    clock: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca_der.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, clock)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((key, chain)) => {
            builder.with_client_auth_cert(chain.to_vec(), PrivateKeyDer::Pkcs8(key.pkcs8()))?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The time against which certificates are checked: the wall clock, but never earlier than the latest time
/// that is known to have passed (the start of the own certificate; correctness.md 14). Many devices start in 1970.
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

/// From when until when a certificate is valid, in Unix milliseconds; `None` where it can't be read.
pub fn validity_ms(certificate: &[u8]) -> Option<(u64, u64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let ms =
        |time: x509_parser::time::ASN1Time| Some(u64::try_from(time.timestamp()).ok()?.saturating_mul(1000));
    Some((ms(parsed.validity().not_before)?, ms(parsed.validity().not_after)?))
}

/// What a device's certificate says of it.
pub(super) struct Own {
    pub(super) principal: Principal,
    pub(super) instance: u32,
    pub(super) public_key: [u8; 32],
}

/// Reads `farthing:tenant/device#instance` and the key.
pub(super) fn read_own(certificate: &CertificateDer<'_>) -> Result<Own, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let uri = names.and_then(|names| match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => uri.strip_prefix("farthing:"),
        _ => None,
    });
    let (principal, instance) =
        uri.and_then(|uri| uri.split_once('#')).ok_or("the certificate does not name a device")?;
    let public_key = parsed.public_key().subject_public_key.data.as_ref();
    Ok(Own {
        principal: principal.parse().map_err(|error: schemas::ids::IdError| error.to_string())?,
        instance: instance.parse().map_err(|_| "the certificate has no instance".to_owned())?,
        public_key: public_key
            .try_into()
            .map_err(|_| "the certificate is not for an Ed25519 key".to_owned())?,
    })
}

/// Did the authority make this certificate, for a client, and is it good now?
pub(super) fn verify_own(
    certificate: &CertificateDer<'static>,
    authority: &CertificateDer<'static>,
    clock: &dyn TimeProvider,
) -> Result<(), String> {
    let now = clock.current_time().ok_or("there is no clock")?;
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    verifier.verify_client_cert(certificate, &[], now).map(|_| ()).map_err(|error| error.to_string())
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in BASE64.encode(der).as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn key_is_created_once_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let identity = IdentityDirectory::open(&path).unwrap();
        assert!(identity.key().unwrap().is_none());
        let key = identity.key_or_create([7; 32]).unwrap();
        let again = IdentityDirectory::open(&path).unwrap().key_or_create([8; 32]).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(KEY_FILE))), (0o700, 0o600));
        assert!(identity.load().unwrap().is_none());
    }

    #[test]
    fn interrupted_write_is_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let identity = IdentityDirectory::open(directory.path()).unwrap();
        fs::write(directory.path().join("device.key.new"), "half a k").unwrap();
        let key = identity.key_or_create([7; 32]).unwrap();
        assert_eq!(identity.key().unwrap().unwrap().public_key(), key.public_key());
    }

    #[test]
    fn damaged_key_is_named_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let identity = IdentityDirectory::open(directory.path()).unwrap();
        for damaged in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            fs::write(directory.path().join(KEY_FILE), damaged).unwrap();
            let error = identity.key_or_create([7; 32]).unwrap_err();
            assert!(error.to_string().contains(KEY_FILE), "{error}");
        }
    }

    #[test]
    fn debug_hides_the_key() {
        assert_eq!(format!("{:?}", DeviceKey::generate([7; 32])), "DeviceKey { .. }");
    }
}
