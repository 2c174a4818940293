//! A scenario of `device-sim live`: who connects, how much they pay, over which transport, and what goes wrong on
//! purpose. A TOML file; every field has a default and bounds. Examples: `device-sim/scenarios/`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use serde::{Deserialize, Deserializer, Serialize};
use toml::de::{DeTable, DeValue};

use super::shown::grouped;

/// Connections at a time; how many a machine can have is a matter of its limit of open files.
pub(crate) const CONNECTIONS_MOST: u32 = 200_000;
/// Bytes of a scenario file.
const FILE_BYTES_MOST: u64 = 64 * 1024;
/// Characters of a title.
const TITLE_MOST: usize = 100;

/// One load test, from its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scenario {
    /// What it is for, on one line.
    #[serde(deserialize_with = "title")]
    pub(crate) title: String,
    /// Two runs with one seed draw the same arrivals; amounts and faults come from it too, in the order of what happens.
    pub(crate) seed: u64,
    /// From the first arrival to the last one.
    #[serde(deserialize_with = "within::<1, 86_400, _>")]
    pub(crate) duration_s: u32,
    /// Arrivals grow linearly from none to the full rate for so long; part of the duration.
    #[serde(deserialize_with = "within::<0, 86_400, _>")]
    pub(crate) ramp_s: u32,
    /// What is still open after the last arrival may end for so long; then it counts as unanswered.
    #[serde(deserialize_with = "within::<0, 3_600, _>")]
    pub(crate) drain_s: u32,
    pub(crate) fleet: Fleet,
    pub(crate) load: Load,
    pub(crate) transport: Transport,
    pub(crate) faults: Faults,
}

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fleet {
    /// Vending machines: each is two devices, a payment chip and an executor.
    #[serde(deserialize_with = "within::<0, 9_000, _>")]
    pub(crate) vending: u32,
    /// Persons with an account and a terminal, who buy at vending machines.
    #[serde(deserialize_with = "within::<0, 18_000, _>")]
    pub(crate) payers: u32,
    /// Terminals of the merchants; one connects in any case.
    #[serde(deserialize_with = "within::<0, 18_000, _>")]
    pub(crate) merchant_terminals: u32,
    /// Piggy banks, each with one child, who answers at it.
    #[serde(deserialize_with = "within::<0, 18_000, _>")]
    pub(crate) piggy_banks: u32,
    /// Guardians with a terminal, who order payments; the children are shared out among them.
    #[serde(deserialize_with = "within::<0, 18_000, _>")]
    pub(crate) guardians: u32,
    /// Clients that connect, subscribe, and say nothing.
    #[serde(deserialize_with = "within::<0, 200_000, _>")]
    pub(crate) idle: u32,
}

/// How much is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LoadText", into = "LoadText")]
pub(crate) struct Load {
    pub(crate) arrivals: Arrivals,
    /// Thousandths of the payments that are a guardian's order from a child's account.
    pub(crate) child_share_permille: u32,
}

/// When a payment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// Open loop: a Poisson process of this rate, whatever the server does. Latencies count from the intended beginning,
    /// so that a server that stalls cannot hide it (no coordinated omission). 0: nobody pays.
    Open { rate_per_s: u32 },
    /// Closed loop: so many persons, each of whom begins its next payment this long after the end of the one before.
    Closed { users: u32, think_ms: u32 },
}

/// What the clients' connections are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Transport {
    pub(crate) kind: TransportKind,
    /// Addresses 127.0.0.1 and up that the clients connect from: one address has about 28,000 ports.
    #[serde(deserialize_with = "within::<1, 254, _>")]
    pub(crate) source_addresses: u32,
    pub(crate) version: MqttVersion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TransportKind {
    /// No encryption; loopback only.
    Tcp,
    /// TLS 1.3; devices show their certificates (mTLS).
    Tls,
    Websocket,
    SecureWebsocket,
}

/// 5 or 3 in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MqttVersion {
    V5,
    V3_1_1,
}

/// What goes wrong on purpose, drawn with the scenario's seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Faults {
    /// Connections cut in the middle of whatever they do, over the whole fleet; each comes back by itself.
    #[serde(deserialize_with = "within::<0, 60_000, _>")]
    pub(crate) disconnects_per_minute: u32,
    /// Clients that read their socket slowly.
    #[serde(deserialize_with = "within::<0, 18_000, _>")]
    pub(crate) slow_readers: u32,
    /// Thousandths of the messages that are sent a second time.
    #[serde(deserialize_with = "within::<0, 1_000, _>")]
    pub(crate) duplicate_sends_permille: u32,
    /// Thousandths of the deliveries that jam: the machine says so, and the money goes back.
    #[serde(deserialize_with = "within::<0, 1_000, _>")]
    pub(crate) jams_permille: u32,
    /// Thousandths of the commands that no executor answers: the rule for unknown outcomes applies.
    #[serde(deserialize_with = "within::<0, 1_000, _>")]
    pub(crate) silent_permille: u32,
    /// Thousandths of the prompts to which the child says no.
    #[serde(deserialize_with = "within::<0, 1_000, _>")]
    pub(crate) rejects_permille: u32,
}

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    /// The file cannot be read.
    #[error("the scenario {path} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// No TOML, an unknown field, or a value out of its bounds; the message shows the line.
    #[error("the scenario {name} is not valid: {message}")]
    Form { name: String, message: String },
    /// Two fields that cannot both be meant.
    #[error("the scenario {name} is not valid: {}{contradiction}", at_line(.line))]
    Contradiction { name: String, line: Option<usize>, contradiction: Contradiction },
}

/// Two fields of a scenario that cannot both be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub(crate) struct Contradiction {
    /// The field to look at first, with its table.
    pub(crate) field: &'static str,
    /// What is wrong, and what is allowed.
    pub(crate) why: String,
}

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ScenarioError`] with the line, the field and what is allowed.
    pub(crate) fn read(path: &Path) -> Result<Self, ScenarioError> {
        let refuse = |source| ScenarioError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(refuse)?.len() > FILE_BYTES_MOST {
            let why = format!("a scenario has at most {FILE_BYTES_MOST} bytes");
            return Err(refuse(io::Error::new(io::ErrorKind::FileTooLarge, why)));
        }
        let text = fs::read_to_string(path).map_err(refuse)?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// `name` is what errors call it.
    ///
    /// # Errors
    /// As of [`Scenario::read`].
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let name = name.to_owned();
        let scenario: Self = match toml::from_str(text) {
            Ok(scenario) => scenario,
            Err(error) => return Err(ScenarioError::Form { name, message: error.to_string() }),
        };
        match scenario.check() {
            Ok(()) => Ok(scenario),
            Err(contradiction) => {
                let line = line_of(text, contradiction.field);
                Err(ScenarioError::Contradiction { name, line, contradiction })
            }
        }
    }

    /// What no single field can say; again after an option of the command line has changed a field.
    ///
    /// # Errors
    /// The first [`Contradiction`].
    pub(crate) fn check(&self) -> Result<(), Contradiction> {
        let Self { fleet, load, faults, .. } = self;
        let connections = fleet.connections();
        let buys = load.child_share_permille < 1_000 && load.is_any();
        let orders = load.child_share_permille > 0 && load.is_any();
        let no = |field, why: String| Err(Contradiction { field, why });
        if connections == 0 {
            return no("fleet", "nobody connects: set at least one of its fields".to_owned());
        }
        if connections > CONNECTIONS_MOST {
            return no("fleet", format!("{connections} connections; at most {CONNECTIONS_MOST} are allowed"));
        }
        if self.ramp_s > self.duration_s {
            let Self { ramp_s, duration_s, .. } = self;
            return no("ramp_s", format!("{ramp_s} s is longer than duration_s, {duration_s} s"));
        }
        if fleet.guardians > fleet.piggy_banks {
            return no(
                "fleet.guardians",
                format!("at most one for each of {} piggy banks", fleet.piggy_banks),
            );
        }
        if fleet.piggy_banks > 0 && fleet.guardians == 0 {
            return no("fleet.piggy_banks", "a child needs a guardian: set fleet.guardians".to_owned());
        }
        if buys && (fleet.vending == 0 || fleet.payers == 0) {
            let why = "someone is to buy: set fleet.vending and fleet.payers, load.child_share_permille = 1000, or load.rate_per_s = 0";
            return no("fleet.vending", why.to_owned());
        }
        if orders && fleet.guardians == 0 {
            return no("load.child_share_permille", "needs fleet.guardians and fleet.piggy_banks".to_owned());
        }
        if let Arrivals::Closed { users, .. } = load.arrivals
            && users > fleet.persons()
        {
            let why = format!("{users} users, but only {} payers and guardians", fleet.persons());
            return no("load.closed", why);
        }
        faults.check(fleet, buys, orders)
    }

    /// What it does, for the head of a report: a name and its value each.
    pub(crate) fn describe(&self) -> Vec<(&'static str, String)> {
        let Self { fleet, load, transport, faults, .. } = self;
        let mut rows = vec![
            ("Duration", format!("{} s, ramp {} s, drain {} s", self.duration_s, self.ramp_s, self.drain_s)),
            ("Arrivals", load.arrivals.to_string()),
        ];
        if load.child_share_permille > 0 {
            rows.push(("Guardians' orders", percent(load.child_share_permille)));
        }
        let roles = [
            (fleet.vending, "vending machines (chip and executor)"),
            (fleet.payers, "payers"),
            (fleet.merchant_terminals, "merchants' terminals"),
            (fleet.piggy_banks, "piggy banks"),
            (fleet.guardians, "guardians"),
            (fleet.idle, "idle clients"),
        ];
        rows.push((
            "Fleet",
            listed(
                roles.map(|(count, role)| (count > 0).then(|| format!("{} {role}", grouped(count.into())))),
            ),
        ));
        rows.push(("Connections", grouped(fleet.connections().into())));
        rows.push(("Transport", transport.to_string()));
        rows.push(("Faults", faults.to_string()));
        rows.push(("Seed", self.seed.to_string()));
        rows
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            title: "without a title".to_owned(),
            seed: 1,
            duration_s: 60,
            ramp_s: 5,
            drain_s: 30,
            fleet: Fleet::default(),
            load: Load { arrivals: Arrivals::Open { rate_per_s: 10 }, child_share_permille: 0 },
            transport: Transport::default(),
            faults: Faults::default(),
        }
    }
}

impl Fleet {
    /// MQTT connections of all of them.
    pub(crate) fn connections(&self) -> u32 {
        let Self { vending, payers, merchant_terminals, piggy_banks, guardians, idle } = *self;
        2 * vending + payers + merchant_terminals + piggy_banks + guardians + idle
    }

    /// Those who begin payments.
    pub(crate) fn persons(&self) -> u32 {
        self.payers + self.guardians
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self { vending: 10, payers: 20, merchant_terminals: 1, piggy_banks: 0, guardians: 0, idle: 0 }
    }
}

impl Load {
    /// Whether anybody pays.
    fn is_any(&self) -> bool {
        self.arrivals != Arrivals::Open { rate_per_s: 0 }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { rate_per_s: 0 } => f.write_str("none: connections only"),
            Self::Open { rate_per_s } => write!(f, "open loop (Poisson), {rate_per_s}/s"),
            Self::Closed { users, think_ms } => {
                write!(f, "closed loop, {users} users, {think_ms} ms between payments")
            }
        }
    }
}

impl Default for Transport {
    fn default() -> Self {
        Self { kind: TransportKind::Tcp, source_addresses: 1, version: MqttVersion::V5 }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            TransportKind::Tcp => "TCP",
            TransportKind::Tls => "TLS, devices with certificates",
            TransportKind::Websocket => "WebSocket",
            TransportKind::SecureWebsocket => "WebSocket over TLS",
        })?;
        f.write_str(match self.version {
            MqttVersion::V5 => ", MQTT 5",
            MqttVersion::V3_1_1 => ", MQTT 3.1.1",
        })?;
        match self.source_addresses {
            1 => f.write_str(", from 1 address"),
            count => write!(f, ", from {count} addresses"),
        }
    }
}

impl Faults {
    fn check(&self, fleet: &Fleet, buys: bool, orders: bool) -> Result<(), Contradiction> {
        let no = |field, why: String| Err(Contradiction { field, why });
        if self.jams_permille + self.silent_permille > 1_000 {
            return no("faults.jams_permille", "more than 1000 together with silent_permille".to_owned());
        }
        if !buys && self.jams_permille + self.silent_permille > 0 {
            return no("faults.jams_permille", "nobody buys: jams and silence cannot happen".to_owned());
        }
        if !orders && self.rejects_permille > 0 {
            let why = "no child is asked: set load.child_share_permille".to_owned();
            return no("faults.rejects_permille", why);
        }
        if self.slow_readers > fleet.connections() {
            let why = format!("more than the fleet's {} connections", fleet.connections());
            return no("faults.slow_readers", why);
        }
        Ok(())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: u32, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let share =
            |permille: u32, what: &str| (permille > 0).then(|| format!("{} {what}", percent(permille)));
        f.write_str(&listed([
            counted(self.disconnects_per_minute, "disconnects a minute"),
            counted(self.slow_readers, "slow readers"),
            share(self.duplicate_sends_permille, "duplicate sends"),
            share(self.jams_permille, "jams"),
            share(self.silent_permille, "silent executors"),
            share(self.rejects_permille, "children's refusals"),
        ]))
    }
}

/// `[load]` as it is written: one of two kinds of arrivals, and neither means the default.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LoadText {
    #[serde(deserialize_with = "optional_rate", skip_serializing_if = "Option::is_none")]
    rate_per_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<ClosedText>,
    #[serde(deserialize_with = "within::<0, 1_000, _>")]
    child_share_permille: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClosedText {
    #[serde(deserialize_with = "within::<1, 18_000, _>")]
    users: u32,
    #[serde(default, deserialize_with = "within::<0, 3_600_000, _>")]
    think_ms: u32,
}

impl TryFrom<LoadText> for Load {
    type Error = &'static str;

    fn try_from(text: LoadText) -> Result<Self, Self::Error> {
        let child_share_permille = text.child_share_permille;
        let arrivals = match (text.rate_per_s, text.closed) {
            (Some(_), Some(_)) => return Err("rate_per_s (open loop) or closed, not both"),
            (Some(rate_per_s), None) => Arrivals::Open { rate_per_s },
            (None, Some(ClosedText { users, think_ms })) => Arrivals::Closed { users, think_ms },
            (None, None) => Scenario::default().load.arrivals,
        };
        Ok(Self { arrivals, child_share_permille })
    }
}

impl From<Load> for LoadText {
    fn from(load: Load) -> Self {
        let child_share_permille = load.child_share_permille;
        match load.arrivals {
            Arrivals::Open { rate_per_s } => {
                Self { rate_per_s: Some(rate_per_s), closed: None, child_share_permille }
            }
            Arrivals::Closed { users, think_ms } => {
                let closed = Some(ClosedText { users, think_ms });
                Self { rate_per_s: None, closed, child_share_permille }
            }
        }
    }
}

impl Serialize for MqttVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::V5 => 5,
            Self::V3_1_1 => 3,
        })
    }
}

impl<'de> Deserialize<'de> for MqttVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            5 => Ok(Self::V5),
            3 => Ok(Self::V3_1_1),
            other => Err(serde::de::Error::custom(format!("{other} is no version: 5, or 3 for MQTT 3.1.1"))),
        }
    }
}

/// A whole number from `LEAST` to `MOST`; the error says both.
fn within<'de, const LEAST: u32, const MOST: u32, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<u32, D::Error> {
    let value = i64::deserialize(deserializer)?;
    u32::try_from(value).ok().filter(|value| (LEAST..=MOST).contains(value)).ok_or_else(|| {
        serde::de::Error::custom(format!("{value} is out of bounds: allowed is {LEAST} to {MOST}"))
    })
}

fn optional_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within::<0, 100_000, D>(deserializer).map(Some)
}

fn title<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let title = String::deserialize(deserializer)?;
    if title.chars().count() > TITLE_MOST || title.chars().any(char::is_control) {
        return Err(serde::de::Error::custom(format!(
            "a title is one line of at most {TITLE_MOST} characters"
        )));
    }
    Ok(title)
}

/// The line, from 1, on which a field such as `fleet.idle` stands, or the nearest table around it that is written.
fn line_of(text: &str, field: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut found: Option<Range<usize>> = None;
    for name in field.split('.') {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == name) else { break };
        found = Some(key.span());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    Some(text.get(..found?.start)?.matches('\n').count() + 1)
}

fn at_line(line: &Option<usize>) -> String {
    line.map(|line| format!("line {line}, ")).unwrap_or_default()
}

fn percent(permille: u32) -> String {
    match permille % 10 {
        0 => format!("{}%", permille / 10),
        tenths => format!("{}.{tenths}%", permille / 10),
    }
}

fn listed<const N: usize>(parts: [Option<String>; N]) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_valid_and_every_field_stands_in_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut all = String::new();
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::read(&path).unwrap_or_else(|error| panic!("{error}"));
            assert_ne!(scenario.title, Scenario::default().title, "{}", path.display());
            all.push_str(&fs::read_to_string(&path).unwrap());
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        names.sort();
        assert_eq!(names, ["idle-18000.toml", "mixed.toml", "saturation.toml", "smoke.toml"]);
        let written = toml::Table::try_from(Scenario::default()).unwrap();
        let fields = written.iter().flat_map(|(key, value)| match value {
            toml::Value::Table(table) => table.keys().cloned().collect::<Vec<_>>(),
            _ => vec![key.clone()],
        });
        fields.for_each(|field| assert!(all.contains(&format!("{field} = ")), "no example of {field}"));
    }

    #[test]
    fn an_empty_file_is_the_default_and_what_is_written_is_read_again() {
        assert_eq!(Scenario::parse("empty", "").unwrap(), Scenario::default());
        let closed = Scenario {
            load: Load { arrivals: Arrivals::Closed { users: 3, think_ms: 250 }, child_share_permille: 0 },
            transport: Transport {
                kind: TransportKind::SecureWebsocket,
                version: MqttVersion::V3_1_1,
                ..Transport::default()
            },
            ..Scenario::default()
        };
        for scenario in [Scenario::default(), closed] {
            let text = toml::to_string(&scenario).unwrap();
            assert_eq!(Scenario::parse("again", &text).unwrap(), scenario, "{text}");
        }
    }

    #[test]
    fn an_error_names_the_line_the_field_and_what_is_allowed() {
        let cases: &[(&str, &[&str])] = &[
            ("seed = 1\nduration = 5", &["line 2", "unknown field `duration`", "`duration_s`"]),
            ("[fleet]\nidle = 200001", &["line 2", "idle = 200001", "allowed is 0 to 200000"]),
            ("duration_s = 0", &["line 1", "allowed is 1 to 86400"]),
            ("[faults]\njams_permille = -1", &["line 2", "jams_permille", "0 to 1000"]),
            ("[fleet]\npayers = \"two\"", &["line 2", "payers", "invalid type: string"]),
            ("[transport]\n\nkind = \"udp\"", &["line 3", "`udp`", "`secure-websocket`"]),
            ("[transport]\nversion = 4", &["line 2", "4 is no version: 5, or 3"]),
            ("[load]\nrate_per_s = 1\nclosed = { users = 1 }", &["line 1", "rate_per_s", "not both"]),
            ("[load]\nclosed = { users = 0 }", &["line 2", "users", "1 to 18000"]),
            ("title = \"a\\nb\"", &["line 1", "title", "one line"]),
            ("seed", &["line 1", "expected"]),
            // Across fields.
            ("[fleet]\nidle = 199960", &["line 1, fleet:", "200001 connections", "at most 200000"]),
            (
                "[fleet]\nvending = 0\npayers = 0\nmerchant_terminals = 0",
                &["line 1, fleet:", "nobody connects"],
            ),
            ("duration_s = 5\nramp_s = 6", &["line 2, ramp_s:", "longer than duration_s, 5 s"]),
            ("[fleet]\n\nguardians = 2\npiggy_banks = 1", &["line 3, fleet.guardians:", "at most one"]),
            ("[fleet]\npiggy_banks = 1", &["line 2, fleet.piggy_banks:", "set fleet.guardians"]),
            ("[fleet]\nvending = 0", &["line 2, fleet.vending:", "load.rate_per_s = 0"]),
            ("[load]\nchild_share_permille = 1", &["line 2, load.child_share_permille:", "fleet.guardians"]),
            ("[load]\nclosed = { users = 21 }", &["line 2, load.closed:", "only 20 payers and guardians"]),
            ("[load.closed]\nusers = 21", &["line 1, load.closed:", "only 20"]),
            (
                "[faults]\nsilent_permille = 500\njams_permille = 501",
                &["line 3, faults.jams_permille:", "1000"],
            ),
            ("[faults]\nrejects_permille = 1", &["line 2, faults.rejects_permille:", "child_share_permille"]),
            ("[faults]\nslow_readers = 42", &["line 2, faults.slow_readers:", "41 connections"]),
            (
                "[load]\nrate_per_s = 0\n[faults]\nsilent_permille = 1",
                &["line 3, faults.jams_permille:", "nobody buys"],
            ),
        ];
        for (text, expected) in cases {
            let error = Scenario::parse("try.toml", text).unwrap_err().to_string();
            for part in ["try.toml"].iter().chain(*expected) {
                assert!(error.contains(part), "{text:?}: {part:?} is missing in: {error}");
            }
        }
    }

    #[test]
    fn a_file_that_is_absent_or_endless_is_refused_by_name() {
        let missing = Scenario::read(Path::new("no/such.toml")).unwrap_err().to_string();
        assert!(missing.contains("no/such.toml"), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endless.toml");
        fs::write(&path, "#".repeat(100_000)).unwrap();
        let endless = Scenario::read(&path).unwrap_err().to_string();
        assert!(endless.contains("at most 65536 bytes"), "{endless}");
    }

    #[test]
    fn what_it_does_is_said_for_the_head_of_a_table() {
        let text = "[fleet]\nidle = 7\n[faults]\njams_permille = 25\ndisconnects_per_minute = 6";
        let rows = Scenario::parse("head", text).unwrap().describe();
        let value = |name: &str| rows.iter().find(|(key, _)| *key == name).unwrap().1.clone();
        assert_eq!(value("Arrivals"), "open loop (Poisson), 10/s");
        assert_eq!(value("Connections"), "48");
        assert_eq!(value("Transport"), "TCP, MQTT 5, from 1 address");
        assert_eq!(value("Faults"), "6 disconnects a minute, 2.5% jams");
        assert!(value("Fleet").ends_with("1 merchants' terminals, 7 idle clients"), "{}", value("Fleet"));
        assert!(Scenario::default().describe().contains(&("Faults", "none".to_owned())));
    }
}
