//! The small files of the data directory. The journal has its own.
//!
//! - `authority.key.pem` (0600): the authority's certificate and private key. Back it up: without it no enrolled device
//!   is known any more.
//! - `authority.pem`: its certificate, for clients to trust.
//! - `codes.key.pem` (0600): the key that signs codes and places. Back it up: piggy banks believe no other.
//! - `codes.pub.pem`: its public half. There, the key is not silently made anew.
//! - `boot-epoch`: grows with every start.
//! - `addresses.json`: where the running core is reached.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use schemas::signed::PublicKey;
use schemas::time::Timestamp;

use super::{Addresses, CLOCK_TOLERANCE_MS, ServeError};
use crate::authority::{Authority, Validity};
use crate::config::Config;
use crate::signing;

/// The authority's certificate outlives the devices that trust it.
const AUTHORITY_MS: u64 = 30 * 366 * 24 * 3_600_000;

pub(super) fn make_private_directory(path: &Path) -> Result<(), ServeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

/// Where clients find what they are to trust.
pub(super) fn authority_certificate(config: &Config) -> PathBuf {
    config.data_dir.join("authority.pem")
}

/// The authority with its private key.
pub(super) fn authority_key(config: &Config) -> PathBuf {
    config.data_dir.join("authority.key.pem")
}

/// Loads the authority.
pub(super) fn load_authority(config: &Config) -> Result<Authority, ServeError> {
    let path = authority_key(config);
    let pem = fs::read_to_string(&path).map_err(failed("read", &path))?;
    Authority::from_pem(&pem).map_err(|error| ServeError::AuthorityFile { path, reason: error.to_string() })
}

/// Loads the authority, or makes it at the first start.
pub(super) fn load_or_make_authority(config: &Config, now: Timestamp) -> Result<Authority, ServeError> {
    match load_authority(config) {
        Ok(authority) => {
            // The first start may have ended between the two files, and backups are of the key's file.
            if !authority_certificate(config).exists() {
                put_certificate(config, &authority)?;
            }
            Ok(authority)
        }
        Err(ServeError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let (path, certificate) = (authority_key(config), authority_certificate(config));
            // The key is written before the certificate, so a certificate alone means that the key was taken away.
            if certificate.exists() {
                return Err(ServeError::AuthorityKeyMissing { path, certificate });
            }
            make_authority(config, now)
        }
        Err(error) => Err(error),
    }
}

fn make_authority(config: &Config, now: Timestamp) -> Result<Authority, ServeError> {
    let path = authority_key(config);
    let validity = Validity {
        not_before_ms: now.0.saturating_sub(CLOCK_TOLERANCE_MS),
        not_after_ms: now.0.saturating_add(AUTHORITY_MS),
    };
    let serial = crate::random::bytes().map_err(ServeError::Random)?;
    let authority = Authority::generate(serial, validity).map_err(ServeError::Authority)?;
    put(&path, authority.to_pem().as_bytes(), 0o600)?;
    put_certificate(config, &authority)?;
    tracing::info!(path = %path.display(), "a new certificate authority was made; back this file up");
    Ok(authority)
}

/// Loads the key that signs codes and places, or makes it at the first start (also of a directory of an earlier release).
pub(super) fn load_or_make_signing_key(config: &Config) -> Result<SigningKey, ServeError> {
    let (path, public) = (config.data_dir.join("codes.key.pem"), config.data_dir.join("codes.pub.pem"));
    let damaged = |path: &Path, reason| ServeError::SigningKeyFile { path: path.to_owned(), reason };
    let key = match fs::read_to_string(&path) {
        Ok(pem) => signing::from_pem(&pem).map_err(|reason| damaged(&path, reason))?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("read", &path)(error)),
        // The key is written before its public half, so that alone means that the key was taken away.
        Err(_) if public.exists() => return Err(ServeError::SigningKeyMissing { path, public }),
        Err(_) => {
            let key = SigningKey::from_bytes(&crate::random::bytes().map_err(ServeError::Random)?);
            put(&path, signing::to_pem(&key).as_bytes(), 0o600)?;
            tracing::info!(path = %path.display(), "a new key for codes was made; back this file up");
            key
        }
    };
    match fs::read_to_string(&public) {
        Ok(pem) => {
            let known = signing::public_from_pem(&pem).map_err(|reason| damaged(&public, reason))?;
            if known != PublicKey::of(&key) {
                return Err(damaged(&path, "it is not the key of codes.pub.pem".to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            put(&public, signing::public_to_pem(&key).as_bytes(), 0o644)?;
        }
        Err(error) => return Err(failed("read", &public)(error)),
    }
    Ok(key)
}

fn put_certificate(config: &Config, authority: &Authority) -> Result<(), ServeError> {
    put(&authority_certificate(config), certificate_only(&authority.to_pem()).as_bytes(), 0o644)
}

fn certificate_only(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    pem.find(END).map_or("", |at| &pem[..at + END.len()])
}

/// Greater than at every earlier start, even if the file was lost or the wall clock set back (not both).
pub(super) fn next_boot_epoch(config: &Config, now: Timestamp) -> Result<u32, ServeError> {
    let path = config.data_dir.join("boot-epoch");
    let last: u32 = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let seconds = u32::try_from(now.0 / 1000).unwrap_or(0);
    let epoch = last.saturating_add(1).max(seconds);
    put(&path, format!("{epoch}\n").as_bytes(), 0o600)?;
    Ok(epoch)
}

pub(super) fn bank_authority(config: &Config) -> Result<Option<Vec<u8>>, ServeError> {
    config.bank_authority.as_ref().map(|path| fs::read(path).map_err(failed("read", path))).transpose()
}

pub(super) fn write_addresses(config: &Config, addresses: &Addresses) -> Result<(), ServeError> {
    let path = config.data_dir.join("addresses.json");
    let json = serde_json::to_vec_pretty(addresses)
        .map_err(|error| failed("write", &path)(io::Error::other(error)))?;
    put(&path, &json, 0o600)
}

/// Writes beside, syncs, renames, syncs the directory.
fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), ServeError> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        // A leftover of an interrupted write may have been made with other permissions.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    write().map_err(failed("write", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServeError {
    let path = path.to_owned();
    move |source| ServeError::File { operation, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Flags;

    #[test]
    fn the_authority_is_made_once_with_its_key_for_the_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut flags = Flags::default();
        flags.values.insert("data_dir", directory.path().display().to_string());
        let config = Config::load(&flags, Vec::new()).unwrap().config;
        let now = Timestamp(1_795_300_200_250);
        let leftover = directory.path().join("authority.key.new");
        fs::write(&leftover, "half").unwrap();
        fs::set_permissions(&leftover, fs::Permissions::from_mode(0o644)).unwrap();
        let made = load_or_make_authority(&config, now).unwrap();
        assert_eq!(load_or_make_authority(&config, now).unwrap().fingerprint(), made.fingerprint());
        let key = directory.path().join("authority.key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let certificate = fs::read_to_string(authority_certificate(&config)).unwrap();
        assert!(certificate.ends_with("-----END CERTIFICATE-----\n") && !certificate.contains("PRIVATE"));
        fs::remove_file(authority_certificate(&config)).unwrap();
        assert_eq!(load_or_make_authority(&config, now).unwrap().fingerprint(), made.fingerprint());
        assert_eq!(fs::read_to_string(authority_certificate(&config)).unwrap(), certificate, "made again");
        fs::rename(&key, &leftover).unwrap();
        let alone = load_or_make_authority(&config, now);
        assert!(
            matches!(alone, Err(ServeError::AuthorityKeyMissing { .. })),
            "no second authority beside it"
        );
        fs::write(&key, "junk").unwrap();
        assert!(matches!(load_or_make_authority(&config, now), Err(ServeError::AuthorityFile { .. })));
    }

    #[test]
    fn the_key_for_codes_is_made_once_for_the_owner_only_and_not_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut flags = Flags::default();
        flags.values.insert("data_dir", directory.path().display().to_string());
        let config = Config::load(&flags, Vec::new()).unwrap().config;
        let made = load_or_make_signing_key(&config).unwrap();
        assert_eq!(load_or_make_signing_key(&config).unwrap().as_bytes(), made.as_bytes());
        let (key, public) = (directory.path().join("codes.key.pem"), directory.path().join("codes.pub.pem"));
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(&public).unwrap().contains("PRIVATE"));
        fs::remove_file(&public).unwrap();
        assert_eq!(
            load_or_make_signing_key(&config).unwrap().as_bytes(),
            made.as_bytes(),
            "and its half again"
        );
        fs::write(&key, signing::to_pem(&SigningKey::from_bytes(&[7; 32]))).unwrap();
        assert!(matches!(load_or_make_signing_key(&config), Err(ServeError::SigningKeyFile { .. })));
        fs::write(&key, "junk").unwrap();
        assert!(matches!(load_or_make_signing_key(&config), Err(ServeError::SigningKeyFile { .. })));
        fs::remove_file(&key).unwrap();
        assert!(matches!(load_or_make_signing_key(&config), Err(ServeError::SigningKeyMissing { .. })));
    }

    #[test]
    fn boot_epochs_grow_even_when_the_wall_clock_goes_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut flags = Flags::default();
        flags.values.insert("data_dir", directory.path().display().to_string());
        let config = Config::load(&flags, Vec::new()).unwrap().config;
        let epochs =
            [5_000_000, 4_000_000, 9_000_000].map(|now| next_boot_epoch(&config, Timestamp(now)).unwrap());
        assert_eq!(epochs, [5_000, 5_001, 9_000]);
    }
}
