//! Configuration: defaults < `agent.toml` in the data directory < environment `FARTHING_*` < flags.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use edge_agent_device::{Profile, ProfileError, explain_unknown_key};
use schemas::ids::Principal;
use serde::{Deserialize, Serialize};

/// Profiles that are part of the program.
const PROFILES: &[(&str, &str)] = &[
    ("payment-chip", include_str!("../profiles/payment-chip.toml")),
    ("vending-executor", include_str!("../profiles/vending-executor.toml")),
    ("piggy-bank", include_str!("../profiles/piggy-bank.toml")),
];
const CONFIG_FILE: &str = "agent.toml";

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that can't be read.
    #[error("{path} can't be read ({source}): check the path and its permissions")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or variable with something else in it.
    #[error("{origin}: {reason}")]
    Form {
        /// File or variable.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing was said where something is needed.
    #[error("no {name} is configured: {fix}")]
    Missing {
        /// What.
        name: &'static str,
        /// How.
        fix: &'static str,
    },
    /// Not a known name, and no file.
    #[error(
        "`{0}` is neither a profile of this program (payment-chip, vending-executor, piggy-bank) nor a readable file"
    )]
    NoProfile(String),
    /// A profile that was read and refused.
    #[error("{origin}: {source}")]
    Profile {
        /// Where it came from.
        origin: String,
        /// Why.
        source: ProfileError,
    },
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $variable:literal;)*) => {
        /// What one source says. Keys of `agent.toml`; unknown ones are refused.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Layer { $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)* }

        impl Layer {
            /// `other` wins where it says something; `origins` remembers who did.
            fn overlay(&mut self, other: Layer, origin: &str, origins: &mut BTreeMap<&'static str, String>) {
                $(if other.$name.is_some() {
                    self.$name = other.$name;
                    origins.insert(stringify!($name), origin.to_owned());
                })*
            }

            fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
                let mut layer = Self::default();
                $(if let Some(text) = variable($variable) {
                    let parsed = text.parse::<$type>();
                    layer.$name = Some(parsed.map_err(|error| ConfigError::Form {
                        origin: concat!("environment ", $variable).to_owned(),
                        reason: error.to_string(),
                    })?);
                })*
                Ok(layer)
            }

            /// Each value that is set, as text. The token is not shown.
            pub fn values(&self) -> Vec<(&'static str, String)> {
                let mut values = vec![];
                $(if let Some(value) = &self.$name {
                    let shown = if stringify!($name) == "token" { "(secret)".to_owned() } else { value.to_string() };
                    values.push((stringify!($name), shown));
                })*
                values
            }
        }
    };
}

settings! {
    /// `host:port` of the cloud's MQTT listener.
    broker: String, "FARTHING_BROKER";
    /// Name of a profile in the program, or a file.
    profile: String, "FARTHING_PROFILE";
    /// Without enrolment, on loopback only: who this is.
    principal: Principal, "FARTHING_PRINCIPAL";
    /// Without enrolment, on loopback only: the token that proves it.
    token: String, "FARTHING_TOKEN";
    /// Without enrolment: which instance.
    instance: u32, "FARTHING_INSTANCE";
    /// A file that gets one line for each physical act, synced.
    physical_log: String, "FARTHING_PHYSICAL_LOG";
    /// Outcomes of a simulated driver, separated by commas, in place of the profile's.
    faults: String, "FARTHING_FAULTS";
    /// What shows prompts, in place of the profile's display: `auto`, `screen` or `none`.
    display: String, "FARTHING_DISPLAY";
    /// `host:port` where the certificate is renewed; where it enrolled, if left out.
    server: String, "FARTHING_SERVER";
    /// MQTT keep alive, in seconds; 0: none.
    keep_alive_s: u16, "FARTHING_KEEP_ALIVE_S";
    /// Bound of the boot-time clock's error, in parts per million.
    drift_ppm: u32, "FARTHING_DRIFT_PPM";
    /// How long a command waits for cloud time on a new connection, in milliseconds.
    clock_wait_ms: u64, "FARTHING_CLOCK_WAIT_MS";
    /// No PUBACK in this time means close and reconnect, in milliseconds.
    acknowledge_ms: u64, "FARTHING_ACKNOWLEDGE_MS";
    /// First pause between two connection attempts, in milliseconds.
    backoff_min_ms: u64, "FARTHING_BACKOFF_MIN_MS";
    /// Longest pause between two connection attempts, in milliseconds.
    backoff_max_ms: u64, "FARTHING_BACKOFF_MAX_MS";
}

/// The whole configuration, with the origin of each value.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// The values.
    pub values: Layer,
    /// Who said each: `default`, the file, `environment`, `flag`.
    pub origins: BTreeMap<&'static str, String>,
}

impl Config {
    /// Reads all sources. Other variables `FARTHING_*` belong to other programs and are left alone.
    ///
    /// # Errors
    /// An unreadable file, an unknown key, a value of another form.
    pub fn load(data: &Path, flags: Layer) -> Result<Self, ConfigError> {
        let mut origins = BTreeMap::new();
        let mut values = Layer::default();
        values.overlay(defaults(), "default", &mut origins);
        let path = data.join(CONFIG_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => values.overlay(parse(&path, &text)?, &path.display().to_string(), &mut origins),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigError::Io { path, source }),
        }
        let environment = Layer::from_environment(|name| std::env::var(name).ok())?;
        values.overlay(environment, "environment", &mut origins);
        values.overlay(flags, "flag", &mut origins);
        Ok(Self { data: data.to_owned(), values, origins })
    }

    /// `host:port` of the cloud.
    ///
    /// # Errors
    /// Nothing was configured.
    pub fn broker(&self) -> Result<&str, ConfigError> {
        let fix = "use --broker HOST:PORT, or write broker = \"HOST:PORT\" into agent.toml";
        self.values.broker.as_deref().ok_or(ConfigError::Missing { name: "broker", fix })
    }

    /// The profile, from the program or a file.
    ///
    /// # Errors
    /// None configured, not found, refused.
    pub fn profile(&self) -> Result<Profile, ConfigError> {
        let fix =
            "use --profile payment-chip, vending-executor, piggy-bank or a file, or write it into agent.toml";
        let name = self.values.profile.as_deref().ok_or(ConfigError::Missing { name: "profile", fix })?;
        let text = match PROFILES.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None => fs::read_to_string(name).map_err(|_| ConfigError::NoProfile(name.to_owned()))?,
        };
        Profile::parse(&text).map_err(|source| ConfigError::Profile { origin: name.to_owned(), source })
    }

    /// Where the key and the certificates are.
    pub fn identity_directory(&self) -> PathBuf {
        self.data.join("identity")
    }

    /// Where the journal is.
    pub fn journal_directory(&self) -> PathBuf {
        self.data.join("journal")
    }

    /// Where the log goes while the agent draws on its terminal.
    pub fn log_file(&self) -> PathBuf {
        self.data.join("agent.log")
    }

    /// The running agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.data.join("agent.sock")
    }
}

fn defaults() -> Layer {
    Layer {
        instance: Some(1),
        keep_alive_s: Some(30),
        drift_ppm: Some(200),
        clock_wait_ms: Some(10_000),
        acknowledge_ms: Some(30_000),
        backoff_min_ms: Some(250),
        // Half of what a tenant's `reconnect_ms` is by default: who waits longer misses it.
        backoff_max_ms: Some(15_000),
        ..Layer::default()
    }
}

fn parse(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Form {
        origin: path.display().to_string(),
        reason: explain_unknown_key(&error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(CONFIG_FILE), "broker = \"a:1\"\nprofile = \"payment-chip\"\n")
            .unwrap();
        let flags = Layer { broker: Some("b:2".to_owned()), ..Layer::default() };
        let config = Config::load(directory.path(), flags).unwrap();
        assert_eq!(config.broker().unwrap(), "b:2");
        assert_eq!(config.profile().unwrap().name, "payment-chip");
        assert_eq!(config.origins["broker"], "flag");
        assert!(config.origins["profile"].ends_with(CONFIG_FILE));
        assert_eq!(config.origins["drift_ppm"], "default");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(CONFIG_FILE), "brokr = \"a:1\"\n").unwrap();
        let error = Config::load(directory.path(), Layer::default()).unwrap_err().to_string();
        assert!(error.contains("did you mean `broker`?"), "{error}");
    }

    #[test]
    fn variables_are_parsed_and_named_when_wrong() {
        let variable = |name: &str| (name == "FARTHING_INSTANCE").then(|| "7".to_owned());
        assert_eq!(Layer::from_environment(variable).unwrap().instance, Some(7));
        let variable = |name: &str| (name == "FARTHING_INSTANCE").then(|| "x".to_owned());
        let error = Layer::from_environment(variable).unwrap_err().to_string();
        assert!(error.contains("FARTHING_INSTANCE"), "{error}");
    }

    #[test]
    fn the_token_is_never_shown() {
        let layer = Layer { token: Some("hunter2".to_owned()), ..Layer::default() };
        assert!(!format!("{:?}", layer.values()).contains("hunter2"));
    }
}
