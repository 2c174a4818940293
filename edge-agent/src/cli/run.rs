//! `edge-agent run`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use edge_agent_device::Settings;
use schemas::ids::{Instance, Principal};

use super::Failure;
use crate::agent::{self, Setup};
use crate::clock::random;
use crate::config::{Config, Layer};
use crate::connection::{Access, Endpoint};
use crate::driver::Driver;
use crate::enrolment::{CertificateClock, IdentityDirectory, client_config, validity_ms};
use crate::panel::{self, PanelSettings};
use crate::position;
use crate::renewal::Renewal;

pub(super) fn run(data: &Path, flags: Layer) -> Result<(), Failure> {
    let config = Config::load(data, flags)?;
    let profile = config.profile()?;
    let values = &config.values;
    let identity = Identity::load(&config)?;
    let driver = Driver::open(&profile.driver, values.faults.as_deref(), values.physical_log.as_deref())?;
    let panel = match &profile.prompt {
        Some(rules) => Some(PanelSettings::open(rules, values.display.as_deref())?),
        None => None,
    };
    position::check(&profile.position)?;
    let defaults = Settings::of(identity.principal.clone(), identity.instance);
    let settings = Settings {
        drift_ppm: values.drift_ppm.unwrap_or(defaults.drift_ppm),
        clock_wait_ms: values.clock_wait_ms.unwrap_or(defaults.clock_wait_ms),
        acknowledge_ms: values.acknowledge_ms.unwrap_or(defaults.acknowledge_ms),
        ..defaults
    };
    let clock = Arc::clone(&identity.clock);
    let renewal = identity.renewal(&config)?;
    let setup = Setup {
        settings,
        profile,
        driver,
        panel,
        endpoint: identity.endpoint(&config)?,
        key: identity.key,
        journal_directory: config.journal_directory(),
        socket: config.socket(),
        backoff_ms: (values.backoff_min_ms.unwrap_or(250), values.backoff_max_ms.unwrap_or(30_000)),
        renewal,
        learn_time: Box::new(move |time| clock.raise(time.0)),
    };
    runtime()?.block_on(agent::run(setup))?;
    Ok(())
}

/// Where the log goes if not to stderr: the agent draws on the terminal that stderr is.
pub(super) fn log_file(data: &Path, flags: Layer) -> Option<PathBuf> {
    // What is wrong with the configuration is said later, where it is used.
    let config = Config::load(data, flags).ok()?;
    let rules = config.profile().ok()?.prompt?;
    let draws = panel::draws(&rules, config.values.display.as_deref()) && io::stderr().is_terminal();
    draws.then(|| config.log_file())
}

/// Who this is, and how it proves it.
pub(super) struct Identity {
    pub(super) principal: Principal,
    pub(super) instance: Instance,
    pub(super) key: SigningKey,
    pub(super) access: Access,
    clock: Arc<CertificateClock>,
}

impl Identity {
    /// Enrolled; or, where a token is configured, a token's owner on loopback.
    pub(super) fn load(config: &Config) -> Result<Self, Failure> {
        let directory = IdentityDirectory::open(&config.identity_directory())?;
        let values = &config.values;
        if let Some(token) = &values.token {
            let principal = values.principal.clone().ok_or_else(|| {
                Failure::configuration(
                    "principal_missing",
                    "a token needs its principal: use --principal TENANT/NAME",
                )
            })?;
            return Ok(Self {
                principal,
                instance: Instance(values.instance.unwrap_or(1)),
                key: directory.key_or_create(random()?)?.signing_key().clone(),
                access: Access::Token(token.clone()),
                clock: Arc::default(),
            });
        }
        let (Some(enrolled), Some(key)) = (directory.load()?, directory.key()?) else {
            return Err(Failure::configuration(
                "not_enrolled",
                format!(
                    "{} holds no certificate: enrol first, `edge-agent enroll --claim CODE --server HOST:PORT \
                     --device TENANT/NAME --data {}`",
                    config.identity_directory().display(),
                    config.data.display()
                ),
            ));
        };
        // The authority signed this certificate, so its beginning has passed, whatever the wall clock says.
        let valid = enrolled.certificate_chain.first().and_then(|own| validity_ms(own));
        let clock = Arc::new(CertificateClock::new(valid.map_or(0, |(begins_ms, _)| begins_ms)));
        let provider = Arc::clone(&clock) as Arc<dyn rustls::time_provider::TimeProvider>;
        let tls = client_config(&enrolled.ca_der, Some((&key, &enrolled.certificate_chain)), provider)?;
        Ok(Self {
            principal: enrolled.principal,
            instance: Instance(enrolled.instance),
            key: key.signing_key().clone(),
            access: Access::Certificate(Arc::new(tls)),
            clock,
        })
    }

    /// How its certificate is renewed: where it enrolled, unless the configuration names another place.
    pub(super) fn renewal(&self, config: &Config) -> Result<Option<Renewal>, Failure> {
        if matches!(self.access, Access::Token(_)) {
            return Ok(None);
        }
        let directory = IdentityDirectory::open(&config.identity_directory())?;
        let Some(server) = config.values.server.clone().or(directory.server()?) else {
            tracing::warn!(
                "the certificate is not renewed by itself: write server = \"HOST:PORT\" (where devices enrol) into \
                 agent.toml"
            );
            return Ok(None);
        };
        let (endpoint, clock) = (self.endpoint(config)?, Arc::clone(&self.clock));
        Ok(Some(Renewal { directory, server, endpoint, clock }))
    }

    pub(super) fn endpoint(&self, config: &Config) -> Result<Endpoint, Failure> {
        let keep_alive_s = config.values.keep_alive_s.unwrap_or(30);
        Ok(Endpoint::new(config.broker()?, self.principal.clone(), self.access.clone(), keep_alive_s)?)
    }
}

/// One thread: small, and enough for one device.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build().map_err(
        |error| Failure::failed("no_runtime", format!("the system refuses threads or polls: {error}")),
    )
}
