//! `broker admin ...`: how operators look at the broker and act on it, over the admin socket of the process that it is
//! part of, or from elsewhere over TLS. One JSON line each way; the answers are shown as they come, so that this speaks
//! to any release.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use broker_session::ConnectionId;
use clap::{Args, Parser, Subcommand};
use schemas::ids::Principal;
use schemas::time::Timestamp;
use serde_json::{Value, json};

use crate::client::{Client, ClientError};

/// Administration of the broker that a cloud core embeds.
#[derive(Debug, Parser)]
#[command(name = "broker", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Top,
}

#[derive(Debug, Subcommand)]
enum Top {
    /// Speak with the running broker of a data directory.
    Admin(Arguments),
}

#[derive(Debug, Args)]
struct Arguments {
    /// Data directory of a cloud core on this machine; its `admin.sock` is used.
    #[arg(long, global = true, env = "FARTHING_DATA_DIR", default_value = "./farthing-data")]
    data_dir: PathBuf,
    #[command(flatten)]
    elsewhere: Elsewhere,
    /// The answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    watch: Watch,
    #[command(subcommand)]
    action: Action,
}

/// Whether the core is on another machine. There the role in the operator's certificate says what may be done.
#[derive(Debug, Clone, Args)]
pub struct Elsewhere {
    /// A core elsewhere: HOST:PORT of its `listen_admin` (to enroll: of its `listen_enrolment`).
    #[arg(long, global = true, value_name = "HOST:PORT", requires = "identity")]
    pub server: Option<String>,
    /// The directory with the operator's key and certificate, as `cloud-core admin enroll` writes it.
    #[arg(long, global = true, value_name = "DIR")]
    pub identity: Option<PathBuf>,
}

impl Elsewhere {
    /// For the core there, or for the one on this machine whose admin socket is `socket`.
    ///
    /// # Errors
    /// [`ClientError::Identity`].
    pub fn client(&self, socket: &Path) -> Result<Client, ClientError> {
        match (&self.server, &self.identity) {
            (Some(server), Some(identity)) => Client::remote(server, identity),
            _ => Ok(Client::local(socket)),
        }
    }
}

/// Whether to look again and again.
#[derive(Debug, Clone, Copy, Args)]
pub struct Watch {
    /// Look again every so many seconds until Ctrl-C; on a terminal in place.
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

/// What an operator may do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// All connections, at most 1,000.
    Sessions {
        /// Only of this principal.
        principal: Option<Principal>,
    },
    /// One connection, or all of a principal, with subscriptions.
    #[command(subcommand)]
    Session(SessionAction),
    /// End connections (0x98, administrative action). Clients may come back at once.
    Disconnect {
        /// TENANT/NAME, or a connection as `sessions` shows it.
        whom: String,
    },
    /// End the standing of a device, or a token, for good; connections end at once.
    Revoke {
        /// TENANT/NAME
        principal: Principal,
        /// Its token, and not its standing as a device.
        #[arg(long)]
        token: bool,
    },
    /// Take no new connections, and end those there are at a bounded rate, so that the process can be stopped.
    Drain {
        /// Connections ended in a second.
        #[arg(long, value_name = "N", default_value_t = 100)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rate: u32,
        /// Where clients shall go instead (0x9C, server reference); without it they are told 0x8B.
        #[arg(long, value_name = "HOST:PORT", conflicts_with = "undo")]
        to: Option<String>,
        /// Take connections again.
        #[arg(long)]
        undo: bool,
    },
    /// The last refusals, newest first, and how often each reason was given since the start.
    Refusals,
    /// A live copy of what passes, until Ctrl-C. Best effort: what a slow reader misses is counted.
    Tap {
        /// MQTT topic filter, for instance `ft/acme/+/up/#`.
        #[arg(default_value = "#")]
        filter: String,
    },
    /// Limits with their origins, and how often each was met since the start.
    Limits,
    /// Counters, and how fast they grow.
    Stats,
    /// Who is owed how many messages, most first.
    Outbox,
}

/// What is shown of one session.
#[derive(Debug, Clone, Subcommand)]
pub enum SessionAction {
    /// Everything that is known.
    Show {
        /// TENANT/NAME, or a connection as `sessions` shows it.
        whom: String,
    },
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Nobody listens, or the operator's wish was refused; says why and what to do.
    pub fn run(self) -> anyhow::Result<()> {
        let Top::Admin(Arguments { data_dir, elsewhere, json, watch, action }) = self.command;
        run(&elsewhere.client(&data_dir.join("admin.sock"))?, &action, json, watch)
    }
}

/// Whether a command failed only because whoever reads its output has had enough (`| head -n 1`): no failure. Errors of
/// sockets and files say what they were about, so they are never bare.
pub fn is_closed_output(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe) && error.chain().count() == 1
}

/// Carries out one action.
///
/// # Errors
/// As [`Cli::run`].
pub fn run(client: &Client, action: &Action, json: bool, watch: Watch) -> anyhow::Result<()> {
    if let Action::Tap { .. } = action {
        return tap(client, &request(action)?, json);
    }
    let in_place = std::io::stdout().is_terminal();
    let mut former = None;
    loop {
        let text = show(client, action, json, &mut former)?;
        let mut stdout = std::io::stdout().lock();
        if watch.watch.is_some() && in_place {
            write!(stdout, "\x1b[2J\x1b[H")?;
        }
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        let Some(seconds) = watch.watch else { return Ok(()) };
        drop(stdout);
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// One look; `former` is the sample that rates are counted from.
fn show(
    client: &Client,
    action: &Action,
    json: bool,
    former: &mut Option<(Instant, Value)>,
) -> anyhow::Result<String> {
    if matches!(action, Action::Stats) && former.is_none() {
        *former = Some((Instant::now(), ask(client, &request(action)?)?));
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut rows = ask(client, &request(action)?)?;
    if let (Action::Stats, Some((at, before))) = (action, &former) {
        let elapsed_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let now = (Instant::now(), rows.clone());
        rows = rates(&rows, before, elapsed_ms);
        *former = Some(now);
    }
    if json {
        return Ok(serde_json::to_string_pretty(&rows)? + "\n");
    }
    Ok(match action {
        Action::Refusals => {
            let counts = table(&rows["counts"], &[("REASON", "reason"), ("COUNT", "count")]);
            let unrecorded = match rows["unrecorded"].as_u64() {
                Some(number @ 1..) => format!("\nnot written to the journal one by one: {number}\n"),
                _ => String::new(),
            };
            format!("{}\n{counts}{unrecorded}", table(&rows["refusals"], columns(action)))
        }
        Action::Session(_) => details(&rows),
        _ if columns(action).is_empty() => "done\n".to_owned(),
        _ => table(&rows, columns(action)),
    })
}

fn request(action: &Action) -> anyhow::Result<Value> {
    Ok(match action {
        Action::Sessions { principal } => json!({ "command": "broker_sessions", "principal": principal }),
        Action::Session(SessionAction::Show { whom }) => with_whom(whom, "broker_session")?,
        Action::Disconnect { whom } => with_whom(whom, "disconnect")?,
        Action::Revoke { principal, token: true } => {
            json!({ "command": "revoke_token", "principal": principal })
        }
        Action::Revoke { principal, token: false } => {
            json!({ "command": "revoke_device", "device": principal })
        }
        Action::Drain { undo: true, .. } => json!({ "command": "drain", "per_second": 0 }),
        Action::Drain { rate, to, .. } => json!({ "command": "drain", "per_second": rate, "reference": to }),
        Action::Refusals => json!({ "command": "broker_refusals" }),
        Action::Tap { filter } => json!({ "command": "broker_tap", "filter": filter }),
        Action::Limits => json!({ "command": "broker_limits" }),
        Action::Stats => json!({ "command": "broker_stats" }),
        Action::Outbox => json!({ "command": "list_outbox" }),
    })
}

/// A principal or a connection.
fn with_whom(whom: &str, command: &str) -> anyhow::Result<Value> {
    if let Ok(principal) = whom.parse::<Principal>() {
        return Ok(json!({ "command": command, "principal": principal }));
    }
    let parts =
        whom.split_once('.').and_then(|(run, number)| Some((run.parse().ok()?, number.parse().ok()?)));
    let (run, number) = parts.with_context(|| {
        format!("`{whom}` is neither TENANT/NAME nor a connection such as 7.12, which `sessions` shows")
    })?;
    Ok(json!({ "command": command, "connection": ConnectionId::new(run, number).0 }))
}

fn columns(action: &Action) -> &'static [(&'static str, &'static str)] {
    match action {
        Action::Sessions { .. } | Action::Session(_) => &[
            ("CONNECTION", "connection"),
            ("PRINCIPAL", "principal"),
            ("CLIENT ID", "client_id"),
            ("MQTT", "mqtt"),
            ("OVER", "transport"),
            ("PEER", "peer"),
            ("SINCE", "since"),
            ("KEEP ALIVE", "keep_alive_s"),
            ("IN FLIGHT", "in_flight"),
            ("OWED", "owed"),
            ("IN", "messages_in"),
            ("OUT", "messages_out"),
            ("BYTES IN", "bytes_in"),
            ("BYTES OUT", "bytes_out"),
        ],
        Action::Refusals => {
            &[("AT", "at"), ("PRINCIPAL", "principal"), ("PEER", "peer"), ("WHAT", "what"), ("WHY", "why")]
        }
        Action::Limits => &[
            ("LIMIT", "name"),
            ("VALUE", "value"),
            ("ORIGIN", "origin"),
            ("NOW", "now"),
            ("MET", "met"),
            ("MEANING", "meaning"),
        ],
        Action::Stats => &[("COUNTER", "name"), ("VALUE", "value"), ("PER SECOND", "per_second")],
        Action::Outbox => &[
            ("PRINCIPAL", "principal"),
            ("OWED", "owed"),
            ("OLDEST", "oldest_kind"),
            ("OLDEST EXPIRES", "oldest_expires_at"),
        ],
        Action::Disconnect { .. } | Action::Revoke { .. } | Action::Drain { .. } | Action::Tap { .. } => &[],
    }
}

/// One row for each counter, with how fast it grew.
fn rates(now: &Value, before: &Value, elapsed_ms: u64) -> Value {
    let counters = now.as_object().into_iter().flatten();
    let row = |(name, value): (&String, &Value)| {
        let grown = value.as_u64().zip(before[name].as_u64()).map(|(now, then)| now.saturating_sub(then));
        let is_level = name.ends_with("_open") || name == "draining";
        let per_second = grown.filter(|_| !is_level).map(|grown| grown.saturating_mul(1_000) / elapsed_ms);
        json!({ "name": name, "value": value, "per_second": per_second })
    };
    Value::Array(counters.map(row).collect())
}

fn table(rows: &Value, columns: &[(&str, &str)]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(columns.iter().map(|(head, _)| *head));
    for row in rows.as_array().into_iter().flatten() {
        table.add_row(columns.iter().map(|(_, key)| named_cell(key, &row[*key])));
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// Each session as lines of names and values.
fn details(rows: &Value) -> String {
    let mut text = String::new();
    for row in rows.as_array().into_iter().flatten() {
        for (name, value) in row.as_object().into_iter().flatten() {
            text.push_str(&format!("{name:<16} {}\n", named_cell(name, value)));
        }
        text.push('\n');
    }
    text
}

/// Times are numbers for programs.
fn named_cell(name: &str, value: &Value) -> String {
    let is_time = name == "since" || name.ends_with("_at");
    let time = value.as_u64().filter(|_| is_time);
    time.map_or_else(|| cell(value), |at_ms| Timestamp(at_ms).to_string())
}

/// Clients choose some of these texts: what would steer a terminal is not shown.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Prints what passes, a line for each, until the core or Ctrl-C ends it.
fn tap(client: &Client, request: &Value, json: bool) -> anyhow::Result<()> {
    let mut replies = client.begin(request.to_string().as_bytes())?;
    loop {
        let seen = answer(&replies.next_line()?)?;
        let mut stdout = std::io::stdout().lock();
        if json {
            writeln!(stdout, "{seen}")?;
        } else if let Some(filter) = seen["tapping"].as_str() {
            writeln!(stdout, "what passes on {filter}; Ctrl-C ends")?;
        } else if let Some(missed) = seen["missed"].as_u64() {
            writeln!(stdout, "... {missed} more passed than could be shown")?;
        } else {
            let said = if seen["message"].is_null() { &seen["hex"] } else { &seen["message"] };
            let (at, connection, topic) =
                (cell(&seen["at"]), cell(&seen["connection"]), cell(&seen["topic"]));
            writeln!(stdout, "{at} {connection} {topic} {} bytes {}", seen["bytes"], cell(said))?;
        }
        stdout.flush()?;
    }
}

fn ask(client: &Client, request: &Value) -> anyhow::Result<Value> {
    let answer = answer(&client.ask(request.to_string().as_bytes())?)?;
    // The core's own answers say which they are.
    Ok(if answer["rows"].is_null() { answer } else { answer["rows"].clone() })
}

/// The content of a reply, or what was refused.
fn answer(line: &[u8]) -> anyhow::Result<Value> {
    let mut reply: Value = serde_json::from_slice(line).context("the cloud core gave no whole answer")?;
    if let Some(refused) = reply.get("Err") {
        bail!("{} ({})", cell(&refused["text"]), cell(&refused["code"]));
    }
    Ok(reply["Ok"].take())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn whom_is_a_principal_or_a_connection() {
        assert_eq!(with_whom("a/b", "x").unwrap(), json!({ "command": "x", "principal": "a/b" }));
        let connection = ConnectionId::new(7, 12).0;
        assert_eq!(with_whom("7.12", "x").unwrap(), json!({ "command": "x", "connection": connection }));
        assert!(with_whom("7", "x").unwrap_err().to_string().contains("sessions"));
    }

    #[test]
    fn counters_have_rates_and_levels_have_none() {
        let (before, now) =
            (json!({ "a": 5, "connections_open": 1 }), json!({ "a": 25, "connections_open": 3 }));
        let rows = rates(&now, &before, 2_000);
        assert_eq!(rows[0], json!({ "name": "a", "value": 25, "per_second": 10 }));
        assert_eq!(rows[1]["per_second"], Value::Null);
    }

    #[test]
    fn what_steers_a_terminal_is_not_shown() {
        let rows = json!([{ "client_id": "a\u{1b}[2Jb" }]);
        assert_eq!(table(&rows, &[("CLIENT", "client_id")]), " CLIENT\n a?[2Jb\n");
    }
}
