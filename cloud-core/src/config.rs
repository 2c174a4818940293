//! What a person may set: one typed [`Config`], filled from file < environment < flags, each value with its origin.
//!
//! `keys::KEYS` is the one table: a row is a key of the file, an environment variable, a flag, a line of
//! `config show` and a line of `--help`.

mod keys;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use schemas_journal::JournalLimits;

use keys::{KEYS, Key};

/// The file in the data directory that is read when `--config` names no other.
pub const FILE_NAME: &str = "farthing.toml";
/// What the environment variables begin with.
pub const ENVIRONMENT_PREFIX: &str = "FARTHING_";
/// Variables with the prefix that are no configuration: the two of the kill tests, and those of other programs.
const OTHER_VARIABLES: &[&str] = &[
    "FARTHING_CONFIG",
    "FARTHING_KILL_AT",
    "FARTHING_HOLD_WRITES",
    "FARTHING_ADDED_TO_SYNC_US",
    "FARTHING_FEED_DIES_EVERY",
    // The edge agent's, which a technician may have set in the same shell.
    "FARTHING_ACKNOWLEDGE_MS",
    "FARTHING_BACKOFF_MAX_MS",
    "FARTHING_BACKOFF_MIN_MS",
    "FARTHING_BROKER",
    "FARTHING_CLOCK_WAIT_MS",
    "FARTHING_DATA",
    "FARTHING_DISPLAY",
    "FARTHING_DRIFT_PPM",
    "FARTHING_FAULTS",
    "FARTHING_INSTANCE",
    "FARTHING_KEEP_ALIVE_S",
    "FARTHING_LOG",
    "FARTHING_PHYSICAL_LOG",
    "FARTHING_PRINCIPAL",
    "FARTHING_PROFILE",
    "FARTHING_SERVER",
    "FARTHING_TOKEN",
];
/// Other programs of the platform that may run in the same environment.
const OTHER_PREFIXES: &[&str] = &["FARTHING_AGENT_", "FARTHING_SIM_", "FARTHING_BROKER_", "FARTHING_DEMO_"];
/// A configuration file is read whole.
const FILE_BYTES: u64 = 1 << 20;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Every setting, parsed and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Everything that must survive: journal, authority, admin socket.
    pub data_dir: PathBuf,
    /// MQTT without TLS; loopback only.
    pub listen_tcp: Option<SocketAddr>,
    /// MQTT over TLS.
    pub listen_tls: Option<SocketAddr>,
    /// MQTT over WebSocket without TLS; loopback only.
    pub listen_ws: Option<SocketAddr>,
    /// MQTT over WebSocket and TLS.
    pub listen_wss: Option<SocketAddr>,
    /// PEM file with the certificate chain of `listen_wss`; none: one of our own authority.
    pub wss_certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub wss_key: Option<PathBuf>,
    /// Enrolment of devices, HTTPS.
    pub listen_enrolment: Option<SocketAddr>,
    /// Administration from elsewhere, TLS with an operator's certificate.
    pub listen_admin: Option<SocketAddr>,
    /// `healthz` and `metrics`, HTTP; loopback only.
    pub listen_http: Option<SocketAddr>,
    /// Names in the server certificate.
    pub server_names: Vec<String>,
    /// How the log is written.
    pub log_format: LogFormat,
    /// What is logged, as `tracing` writes filters.
    pub log_filter: String,
    /// MQTT connections at one time.
    pub max_connections: usize,
    /// MQTT connections at one time from one address.
    pub max_connections_per_address: usize,
    /// Packets of one principal, on average.
    pub principal_packets_per_second: u32,
    /// Packets of one principal at once.
    pub principal_packets_burst: u32,
    /// Bytes of one principal, on average.
    pub principal_bytes_per_second: u32,
    /// Bytes of one principal at once.
    pub principal_bytes_burst: u32,
    /// Messages that may wait for the core.
    pub queue_messages: usize,
    /// Most messages that the core decides in one batch.
    pub batch_messages: usize,
    /// One call to a bank, connecting included.
    pub bank_timeout_ms: u64,
    /// PEM file with the authorities trusted for `https` banks.
    pub bank_authority: Option<PathBuf>,
    /// How long a new device certificate is valid.
    pub certificate_life_ms: u64,
    /// How long after its end a certificate may still be renewed.
    pub renewal_grace_ms: u64,
    /// Length of each new journal segment.
    pub journal_segment_bytes: u64,
    /// A snapshot is made when this many segments were closed since the last one.
    pub snapshot_every_segments: u32,
}

impl Config {
    /// Reads all sources. `environment` is everything that the process was given; `flags` what the command line said.
    ///
    /// # Errors
    /// An unknown key by name with the nearest known one; a value that can't be used, with its origin and what would
    /// be accepted.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let mut loaded = Loaded::defaults()?;
        let environment = from_environment(environment)?;
        let file = flags.config.clone().or_else(|| environment.config.clone());
        if let Some(path) = file {
            loaded.apply_file(&path, true)?;
        } else {
            let directory = flags.values.get("data_dir").or_else(|| environment.values.get("data_dir"));
            let directory = directory.map_or_else(|| loaded.config.data_dir.clone(), PathBuf::from);
            let path = directory.join(FILE_NAME);
            if path.exists() {
                loaded.apply_file(&path, false)?;
            }
        }
        for (name, value) in &environment.values {
            loaded.apply(name, value, Origin::Environment(variable(name)))?;
        }
        for (name, value) in &flags.values {
            loaded.apply(name, value, Origin::Flag(flag(name)))?;
        }
        loaded.config.check(&loaded)?;
        Ok(loaded)
    }

    /// The sizes of the journal.
    pub fn journal_limits(&self) -> JournalLimits {
        JournalLimits {
            segment_bytes: self.journal_segment_bytes,
            snapshot_every_segments: self.snapshot_every_segments,
            // Small segments (tests, small machines) get small frames, so that two always fit.
            frame_max_bytes: u32::try_from(self.journal_segment_bytes / 4)
                .unwrap_or(u32::MAX)
                .min(JournalLimits::cloud().frame_max_bytes),
            record_max_bytes: u32::try_from(self.journal_segment_bytes / 16)
                .unwrap_or(u32::MAX)
                .min(JournalLimits::cloud().record_max_bytes),
        }
    }

    /// Where operators reach the running core.
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    /// The directory of the journal, locked by the process that owns it.
    pub fn journal_dir(&self) -> PathBuf {
        self.data_dir.join("journal")
    }

    /// The directory of the index of payments. It can be removed at any time: it is built again.
    pub fn index_dir(&self) -> PathBuf {
        self.data_dir.join("index")
    }

    /// What holds between several values, or between a value and the machine.
    fn check(&self, loaded: &Loaded) -> Result<(), ConfigError> {
        let refuse = |name: &'static str, reason: String| {
            Err(ConfigError::Value {
                name,
                value: loaded.shown(name),
                origin: loaded.origin(name).clone(),
                reason,
            })
        };
        for (name, address, instead) in [
            ("listen_tcp", self.listen_tcp, "devices elsewhere connect to listen_tls"),
            ("listen_ws", self.listen_ws, "browsers elsewhere connect to listen_wss"),
            ("listen_http", self.listen_http, "put a proxy that asks for a password before it"),
        ] {
            if address.is_some_and(|address| !address.ip().is_loopback()) {
                return refuse(
                    name,
                    format!("it is not encrypted, so it stays on 127.0.0.1 or [::1]; {instead}"),
                );
            }
        }
        if self.wss_certificate.is_some() != self.wss_key.is_some() {
            let missing = if self.wss_key.is_some() { "wss_certificate" } else { "wss_key" };
            return refuse(missing, "a certificate and its key go together: name both files, or none".into());
        }
        if self.listen_http.is_some() && self.listen_tcp.is_none() {
            return refuse(
                "listen_tcp",
                "healthz publishes through it: set it, or turn listen_http off too".into(),
            );
        }
        if let Err(error) = self.journal_limits().validate() {
            return refuse("journal_segment_bytes", error.to_string());
        }
        Ok(())
    }
}

/// Where a value comes from; a later one wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such setting.
    #[error("{place}: there is no setting `{key}`{}; `cloud-core config show` lists all", did_you_mean(.nearest.as_deref()))]
    UnknownKey {
        /// Where it stands.
        place: String,
        /// What was written.
        key: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// A value that can't be used.
    #[error("{name} = `{value}` ({origin}): {reason}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What was written.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// What would be accepted.
        reason: String,
    },
    /// The file can't be read.
    #[error("configuration file {path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(", did you mean `{nearest}`?")).unwrap_or_default()
}

/// A configuration, and where each value comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    origins: BTreeMap<&'static str, Origin>,
}

/// One line of `config show`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// The setting.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where it comes from.
    pub origin: String,
    /// What it means.
    pub help: &'static str,
}

impl Loaded {
    /// Every setting in the order of the table.
    pub fn show(&self) -> Vec<Shown> {
        KEYS.iter()
            .map(|key| Shown {
                name: key.name,
                value: (key.show)(&self.config),
                origin: self.origin(key.name).to_string(),
                help: key.help,
            })
            .collect()
    }

    /// Where one value comes from.
    pub fn origin(&self, name: &str) -> &Origin {
        self.origins.get(name).unwrap_or(&Origin::Default)
    }

    fn shown(&self, name: &str) -> String {
        KEYS.iter().find(|key| key.name == name).map(|key| (key.show)(&self.config)).unwrap_or_default()
    }

    fn defaults() -> Result<Self, ConfigError> {
        let mut loaded = Self { config: keys::blank(), origins: BTreeMap::new() };
        for key in KEYS {
            loaded.apply(key.name, key.default, Origin::Default)?;
        }
        Ok(loaded)
    }

    fn apply(&mut self, name: &str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let key = key(name).ok_or_else(|| unknown_key(origin.to_string(), name, str::to_owned))?;
        (key.set)(&mut self.config, value).map_err(|reason| ConfigError::Value {
            name: key.name,
            value: value.to_owned(),
            origin: origin.clone(),
            reason,
        })?;
        self.origins.insert(key.name, origin);
        Ok(())
    }

    fn apply_file(&mut self, path: &Path, was_named: bool) -> Result<(), ConfigError> {
        let refuse = |reason: String| ConfigError::File { path: path.display().to_string(), reason };
        let length = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
        if length > FILE_BYTES {
            return Err(refuse(format!("{length} bytes are more than a configuration has ({FILE_BYTES})")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| refuse(error.to_string()))?;
        for (name, value) in &table {
            let origin = Origin::File(path.to_owned());
            let Some(key) = key(name) else {
                return Err(unknown_key(origin.to_string(), name, str::to_owned));
            };
            if key.name == "data_dir" && !was_named {
                return Err(refuse(
                    "data_dir can't stand in the file that was found through it: use --data-dir, FARTHING_DATA_DIR, or name the file with --config".into(),
                ));
            }
            let text = scalar(value).ok_or_else(|| ConfigError::Value {
                name: key.name,
                value: value.to_string(),
                origin: origin.clone(),
                reason: "write a string, a number, or a list of strings".into(),
            })?;
            self.apply(key.name, &text, origin)?;
        }
        Ok(())
    }
}

/// What the command line said: `--config`, and one flag for each setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// Name of the setting, and its text.
    pub values: BTreeMap<&'static str, String>,
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .global(true)
            .help_heading("Configuration")
            .help("Configuration file, TOML [default: DATA_DIR/farthing.toml, where present; env: FARTHING_CONFIG]");
        KEYS.iter().fold(command.arg(config), |command, key| {
            command.arg(
                Arg::new(key.name)
                    .long(flag(key.name).trim_start_matches('-').to_owned())
                    .value_name(key.value_name)
                    .global(true)
                    .hide_short_help(key.name != "data_dir")
                    .help_heading("Configuration")
                    .help(format!("{} [default: {}; env: {}]", key.help, key.default, variable(key.name))),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(path) = matches.get_one::<String>("config") {
            self.config = Some(PathBuf::from(path));
        }
        for key in KEYS {
            if let Some(value) = matches.get_one::<String>(key.name) {
                self.values.insert(key.name, value.clone());
            }
        }
        Ok(())
    }
}

fn from_environment(environment: impl IntoIterator<Item = (String, String)>) -> Result<Flags, ConfigError> {
    let mut found = Flags::default();
    for (variable_name, value) in environment {
        let is_other = OTHER_PREFIXES.iter().any(|prefix| variable_name.starts_with(prefix));
        let Some(name) = variable_name.strip_prefix(ENVIRONMENT_PREFIX).filter(|_| !is_other) else {
            continue;
        };
        if variable_name == "FARTHING_CONFIG" {
            found.config = Some(PathBuf::from(value));
        } else if !OTHER_VARIABLES.contains(&variable_name.as_str()) {
            let name = name.to_ascii_lowercase();
            let key = key(&name).filter(|key| variable(key.name) == variable_name);
            let key = key.ok_or_else(|| unknown_key("environment".into(), &variable_name, variable))?;
            found.values.insert(key.name, value);
        }
    }
    Ok(found)
}

fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn variable(name: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", name.to_ascii_uppercase())
}

fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn unknown_key(place: String, key: &str, spelt: impl Fn(&str) -> String) -> ConfigError {
    let nearest = KEYS
        .iter()
        .map(|known| spelt(known.name))
        .map(|known| (strsim::damerau_levenshtein(key, &known), known))
        .min()
        .filter(|(distance, known)| *distance <= 2 + known.len() / 4)
        .map(|(_, known)| known);
    let key = key.chars().filter(|c| !c.is_control()).take(80).collect();
    ConfigError::UnknownKey { place, key, nearest }
}

/// The text of a TOML value; a list becomes its items with commas between.
fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(on) => Some(on.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> =
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            items.map(|items| items.join(","))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(values: &[(&'static str, &str)]) -> Flags {
        Flags { config: None, values: values.iter().map(|(k, v)| (*k, (*v).to_owned())).collect() }
    }

    fn environment(values: &[(&str, &str)]) -> Vec<(String, String)> {
        values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// With a file of this text in an otherwise empty data directory.
    fn load(
        file: &str,
        variables: &[(&str, &str)],
        arguments: &[(&'static str, &str)],
    ) -> Result<Loaded, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE_NAME), file).unwrap();
        let mut flags = flags(arguments);
        flags.values.insert("data_dir", directory.path().display().to_string());
        Config::load(&flags, environment(variables))
    }

    #[test]
    fn flags_win_over_environment_and_environment_over_the_file() {
        let file = "listen_tcp = \"127.0.0.1:1\"\nlisten_http = \"127.0.0.1:1\"\nmax_connections = 1";
        let variables = [("FARTHING_LISTEN_TCP", "127.0.0.1:2"), ("FARTHING_LISTEN_HTTP", "127.0.0.1:2")];
        let loaded = load(file, &variables, &[("listen_tcp", "127.0.0.1:3")]).unwrap();
        assert_eq!(loaded.config.listen_tcp.unwrap().port(), 3);
        assert_eq!(loaded.origin("listen_tcp"), &Origin::Flag("--listen-tcp".into()));
        assert_eq!(loaded.config.listen_http.unwrap().port(), 2);
        assert_eq!(loaded.origin("listen_http"), &Origin::Environment("FARTHING_LISTEN_HTTP".into()));
        assert_eq!(loaded.config.max_connections, 1);
        assert!(matches!(loaded.origin("max_connections"), Origin::File(_)));
        assert_eq!(loaded.origin("log_format"), &Origin::Default);
    }

    #[test]
    fn unknown_keys_are_refused_by_name_with_the_nearest() {
        let nearest = |result: Result<Loaded, ConfigError>| match result.unwrap_err() {
            ConfigError::UnknownKey { key, nearest, .. } => (key, nearest),
            other => panic!("{other}"),
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(nearest(load("listen_tpc = 1", &[], &[])), ("listen_tpc".into(), some("listen_tcp")));
        assert_eq!(nearest(load("zzzzzzzzzzzz = 1", &[], &[])), ("zzzzzzzzzzzz".into(), None));
        assert_eq!(
            nearest(load("", &[("FARTHING_LISTN_TLS", "off")], &[])),
            ("FARTHING_LISTN_TLS".into(), some("FARTHING_LISTEN_TLS"))
        );
        assert_eq!(
            nearest(load("", &[("FARTHING_listen_tls", "off")], &[])).1,
            None,
            "a variable in another case is not the setting and not taken for it"
        );
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let variables = [("FARTHING_KILL_AT", "synced:1"), ("FARTHING_AGENT_X", "1"), ("HOME", "/")];
        assert!(load("", &variables, &[]).is_ok());
    }

    #[test]
    fn values_that_cannot_be_used_say_what_would_be_accepted() {
        let table: &[(&'static str, &str, &str)] = &[
            ("listen_tcp", "1883", "address:port"),
            ("listen_tcp", "0.0.0.0:1883", "listen_tls"),
            ("listen_tcp", "off", "healthz"),
            ("listen_http", "192.0.2.1:80", "127.0.0.1"),
            ("max_connections", "0", "1 to"),
            ("max_connections", "many", "number"),
            ("log_format", "xml", "json"),
            ("log_filter", "a=b=c", "filter"),
            ("server_names", "a b", "name"),
            ("journal_segment_bytes", "100", "1048576"),
        ];
        for (name, value, expected) in table {
            let text = load("", &[], &[(name, value)]).map(|_| ()).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains(expected), "{name}={value}: {text}");
        }
    }

    #[test]
    fn a_file_found_through_the_data_directory_cannot_move_it() {
        assert!(load("data_dir = \"/elsewhere\"", &[], &[]).unwrap_err().to_string().contains("--data-dir"));
    }

    #[test]
    fn a_named_file_must_exist_and_may_set_everything() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("named.toml");
        let named = Flags { config: Some(path.clone()), ..Flags::default() };
        assert!(matches!(Config::load(&named, Vec::new()), Err(ConfigError::File { .. })));
        std::fs::write(&path, "data_dir = \"/somewhere\"\nserver_names = [\"a.example\", \"b.example\"]")
            .unwrap();
        let loaded = Config::load(&named, Vec::new()).unwrap();
        assert_eq!(loaded.config.data_dir, PathBuf::from("/somewhere"));
        assert!(loaded.config.server_names.ends_with(&["a.example".into(), "b.example".into()]));
    }

    #[test]
    fn every_value_shows_as_text_that_sets_it_again() {
        let loaded = load("", &[], &[("bank_authority", "/x.pem"), ("listen_tls", "off")]).unwrap();
        let mut again = Loaded::defaults().unwrap();
        for shown in loaded.show() {
            again.apply(shown.name, &shown.value, Origin::Default).unwrap();
        }
        assert_eq!(again.config, loaded.config);
    }
}
