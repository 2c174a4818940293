//! Renewal of a device's certificate: beside, test, replace.
//!
//! The order, so that a power cut or a failure at any step leaves a certificate that works: ask with the current one
//! (asked again, the platform gives the same answer); keep the new one beside it; connect with it; only then let it
//! take the place of the current one, by one rename. The key stays the same: it signs payment informations too, and
//! the platform knows it. A leftover of an interrupted renewal is never loaded, and is overwritten by the next.

use std::sync::Arc;
use std::time::Duration;

use rustls::time_provider::TimeProvider;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::agent::Input;
use crate::clock::random;
use crate::connection::{Access, Endpoint, probe};
use crate::enrolment::{
    CertificateClock, DeviceKey, EnrolError, Enrolled, IdentityDirectory, IdentityError, client_config,
    renew, validity_ms,
};

/// For one question to the platform, and for one test of a connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// The clock is looked at again after this: it may have been set.
const LOOK_MS: u64 = 3_600_000;
/// Shortest and longest pause after a failure.
const PAUSE_MS: (u64, u64) = (1_000, 6 * 3_600_000);

/// Why the certificate is still the former one. That one stays in use.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The platform was not reached, or did not sign.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The identity could not be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nothing to renew.
    #[error("there is no certificate to renew: enrol first with `edge-agent enroll`")]
    NotEnrolled,
    /// The new certificate was made, and does not work.
    #[error("the new certificate was tried and not taken ({0}): the former one stays in use; try again")]
    NotTaken(String),
}

/// When a certificate is to be renewed, in Unix milliseconds: at two thirds of its life, or up to a twelfth of it
/// later. How much later follows from the certificate itself, so that a fleet that enrolled together does not come
/// together, and a restart changes nothing. `None` where it can't be read.
pub fn due_ms(certificate: &[u8]) -> Option<u64> {
    let (begins_ms, ends_ms) = validity_ms(certificate)?;
    let life_ms = ends_ms.saturating_sub(begins_ms);
    let jitter =
        Sha256::digest(certificate).iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    Some(begins_ms + life_ms / 3 * 2 + jitter % (life_ms / 12).max(1))
}

/// Renews once, whatever the time. `ask` gets the next certificate with the current one, `test` connects with it.
///
/// # Errors
/// At whichever step: the current certificate is in its place and works as before.
pub async fn renew_once(
    directory: &IdentityDirectory,
    ask: impl AsyncFnOnce(&Enrolled, &DeviceKey) -> Result<Enrolled, EnrolError>,
    test: impl AsyncFnOnce(&Enrolled, &DeviceKey) -> Result<(), String>,
) -> Result<Enrolled, RenewalError> {
    let (Some(current), Some(key)) = (directory.load()?, directory.key()?) else {
        return Err(RenewalError::NotEnrolled);
    };
    let next = ask(&current, &key).await?;
    directory.save_next(&next)?;
    test(&next, &key).await.map_err(RenewalError::NotTaken)?;
    directory.replace_with_next()?;
    Ok(next)
}

/// What an agent renews with.
pub(crate) struct Renewal {
    pub(crate) directory: IdentityDirectory,
    /// `host:port` where devices enrol.
    pub(crate) server: String,
    /// Where the test connects.
    pub(crate) endpoint: Endpoint,
    pub(crate) clock: Arc<CertificateClock>,
}

impl Renewal {
    /// Renews now.
    pub(crate) async fn now(&self) -> Result<(Enrolled, Access), RenewalError> {
        let mut renewed = None;
        let ask = async |current: &Enrolled, key: &DeviceKey| {
            let clock = Arc::clone(&self.clock) as Arc<dyn TimeProvider>;
            renew(&self.server, current, key, clock, STEP_TIMEOUT).await
        };
        let test = async |next: &Enrolled, key: &DeviceKey| {
            let clock = Arc::clone(&self.clock) as Arc<dyn TimeProvider>;
            let tls = client_config(&next.ca_der, Some((key, &next.certificate_chain)), clock);
            let access = Access::Certificate(Arc::new(tls.map_err(|error| error.to_string())?));
            let endpoint = Endpoint { access: access.clone(), ..self.endpoint.clone() };
            let tested = tokio::time::timeout(STEP_TIMEOUT, probe(&endpoint)).await;
            tested.map_err(|_| "the cloud does not answer".to_owned())??;
            renewed = Some(access);
            Ok(())
        };
        let next = renew_once(&self.directory, ask, test).await?;
        renewed.map(|access| (next, access)).ok_or(RenewalError::NotEnrolled)
    }

    /// How long until the certificate on disk is due, which a command line may have renewed meanwhile.
    fn wait_ms(&self) -> Option<u64> {
        let current = self.directory.load().ok().flatten()?;
        let due_ms = due_ms(current.certificate_chain.first()?)?;
        let now = self.clock.current_time()?;
        Some(due_ms.saturating_sub(now.as_secs().saturating_mul(1000)))
    }

    fn life_ms(&self) -> u64 {
        let current = self.directory.load().ok().flatten();
        let valid = current.and_then(|current| validity_ms(current.certificate_chain.first()?));
        valid.map_or(LOOK_MS, |(begins_ms, ends_ms)| ends_ms.saturating_sub(begins_ms))
    }
}

/// Renews whenever it is due, until it is aborted. The agent hears of each new certificate.
pub(crate) async fn keep(renewal: Renewal, inputs: mpsc::Sender<Input>) {
    loop {
        let wait_ms = renewal.wait_ms().unwrap_or(LOOK_MS);
        if wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(wait_ms.min(LOOK_MS))).await;
            continue;
        }
        match renewal.now().await {
            Ok((_, access)) => {
                tracing::info!("the certificate was renewed");
                if inputs.send(Input::Renewed(access)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the certificate was not renewed; the former one stays in use");
                let random = random().map_or(u64::MAX, u64::from_le_bytes);
                tokio::time::sleep(Duration::from_millis(pause_ms(renewal.life_ms(), random))).await;
            }
        }
    }
}

/// After a failure: a fiftieth of the certificate's life, between one and two halves of it by chance.
fn pause_ms(life_ms: u64, random: u64) -> u64 {
    let most = (life_ms / 50).clamp(PAUSE_MS.0, PAUSE_MS.1);
    most / 2 + random % (most / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_life_and_have_limits() {
        const YEAR_MS: u64 = 365 * 24 * 3_600_000;
        for (life_ms, least, most) in
            [(10_000, 500, 1_000), (3_600_000, 36_000, 72_000), (2 * YEAR_MS, PAUSE_MS.1 / 2, PAUSE_MS.1)]
        {
            for random in [0, 1, u64::MAX / 3, u64::MAX] {
                let pause = pause_ms(life_ms, random);
                assert!((least..=most).contains(&pause), "{life_ms}: {pause}");
            }
        }
    }
}
