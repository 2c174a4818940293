//! What operators see of the broker (PL-4). What changes something is a command of the core, so that it is in the
//! journal before it is done.

use std::time::Duration;

use broker::session::{ConnectionId, Limits};
use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use cloud_core_flows::limits::ADMIN_ROWS;
use cloud_core_flows::rejection::Rejection;
use schemas::ids::Principal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::server::Counter;
use crate::runtime::Asker;

/// While a tap runs its operator's right is looked up so often, so that a revocation ends it too; the empty line that is
/// sent then shows each end that the other is there.
const TAP_PULSE: Duration = Duration::from_secs(5);

/// What may be asked of the broker. Answers are JSON, an array of rows or an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum BrokerCommand {
    /// Connections, the oldest first.
    BrokerSessions {
        /// Only of this principal.
        #[serde(default)]
        principal: Option<Principal>,
    },
    /// All connections of a principal, or one, with subscriptions.
    BrokerSession {
        /// Whose.
        #[serde(default)]
        principal: Option<Principal>,
        /// Which one.
        #[serde(default)]
        connection: Option<u64>,
    },
    /// What was refused lately, with the addresses it came from.
    BrokerRefusals,
    /// Limits with their origins.
    BrokerLimits,
    /// Counters since the start.
    BrokerStats,
    /// A line for each message that passes on a topic that matches, until the connection is closed.
    BrokerTap {
        /// MQTT topic filter.
        filter: String,
    },
}

impl BrokerCommand {
    pub(super) const NAMES: &'static [&'static str] = &[
        "broker_sessions",
        "broker_session",
        "broker_refusals",
        "broker_limits",
        "broker_stats",
        "broker_tap",
    ];
}

impl Counter {
    pub(super) async fn look(&self, command: BrokerCommand, asker: &Asker) -> Result<Value, Rejection> {
        self.may_look(asker).await?;
        match command {
            BrokerCommand::BrokerSessions { principal } => {
                let rows = self.broker.sessions(principal.as_ref(), ADMIN_ROWS);
                let rows = rows.into_iter().map(|(_, row)| encoded(&row));
                self.with_owed(asker, rows.collect()).await
            }
            BrokerCommand::BrokerSession { principal, connection } => {
                self.session(asker, principal, connection).await
            }
            BrokerCommand::BrokerRefusals => self.refusals(asker).await,
            BrokerCommand::BrokerLimits => Ok(self.limits()),
            BrokerCommand::BrokerStats => Ok(encoded(&self.broker.stats())),
            BrokerCommand::BrokerTap { .. } => {
                Err(Rejection::new("tap_ends_a_connection", "after a tap nothing else can be asked"))
            }
        }
    }

    /// What is seen here belongs to all tenants and may be of payments: it takes the right to the journal's history.
    async fn may_look(&self, asker: &Asker) -> Result<(), Rejection> {
        self.core(AdminCommand::ReadHistory, asker).await.map(|_| ())
    }

    async fn session(
        &self,
        asker: &Asker,
        principal: Option<Principal>,
        connection: Option<u64>,
    ) -> Result<Value, Rejection> {
        let of_principal = principal.map_or_else(Vec::new, |principal| {
            self.broker.sessions(Some(&principal), ADMIN_ROWS).into_iter().map(|(id, _)| id).collect()
        });
        let mut rows = Vec::new();
        for id in of_principal.into_iter().chain(connection.map(ConnectionId)) {
            let Some((row, details)) = self.broker.session(id).await else { continue };
            let (mut row, Value::Object(details)) = (encoded(&row), encoded(&details)) else { continue };
            if let Some(row) = row.as_object_mut() {
                row.extend(details);
            }
            rows.push(row);
        }
        if rows.is_empty() {
            let text = "no such connection: `broker admin sessions` shows those there are";
            return Err(Rejection::new("not_connected", text));
        }
        self.with_owed(asker, rows).await
    }

    /// How much each principal is owed is known to the core.
    async fn with_owed(&self, asker: &Asker, mut rows: Vec<Value>) -> Result<Value, Rejection> {
        let parsed = |row: &Value| row["principal"].as_str().and_then(|text| text.parse::<Principal>().ok());
        let principals: Vec<_> = rows.iter().filter_map(parsed).collect();
        if principals.is_empty() {
            return Ok(Value::Array(rows));
        }
        if let AdminAnswer::Outbox(owed) = self.core(AdminCommand::ListOutbox { principals }, asker).await? {
            let known = rows.iter_mut().filter(|row| !row["principal"].is_null());
            for (row, owed) in known.zip(owed) {
                row["owed"] = owed.owed.into();
            }
        }
        Ok(Value::Array(rows))
    }

    async fn refusals(&self, asker: &Asker) -> Result<Value, Rejection> {
        let AdminAnswer::Refusals(report) = self.core(AdminCommand::ListRefusals, asker).await? else {
            return Ok(Value::Null);
        };
        let row = |refusal: &cloud_core_flows::admin::RefusalRow| {
            let id = refusal.connection.map(|id| ConnectionId(id.0));
            json!({
                "at": refusal.at.to_string(),
                "connection": id.map(|id| id.to_string()),
                "peer": id.and_then(|id| self.broker.peer(id)),
                "principal": refusal.principal,
                "what": refusal.what,
                "why": refusal.why,
            })
        };
        let refusals: Vec<_> = report.refusals.iter().map(row).collect();
        Ok(json!({ "refusals": refusals, "counts": report.counts, "unrecorded": report.unrecorded }))
    }

    /// Settings with where they come from, and what is built in.
    fn limits(&self) -> Value {
        let stats = self.broker.stats();
        let is_rate = |name: &str| name.starts_with("principal_");
        let is_limit = |name: &str| name.starts_with("max_") || name.ends_with("_messages") || is_rate(name);
        let settings = self.settings.iter().filter(|shown| is_limit(shown.name)).map(|shown| {
            let is_connections = shown.name == "max_connections";
            let (met, how) = match shown.name {
                "max_connections" => (
                    Some(stats.connections_refused),
                    "; met: refused by any limit of connections, or while draining",
                ),
                name if is_rate(name) => {
                    (Some(stats.publishes_put_off), "; met: MQTT 5 publishes put off by any of the rates")
                }
                _ => (None, ""),
            };
            json!({
                "name": shown.name,
                "value": shown.value,
                "origin": shown.origin,
                "now": is_connections.then_some(stats.connections_open),
                "met": met,
                "meaning": format!("{}{how}", shown.help),
            })
        });
        let lane = Limits::default();
        let built_in = [
            ("max_packet_bytes", lane.max_packet_bytes as u64, "largest packet from a client"),
            ("max_connect_bytes", lane.max_connect_bytes as u64, "largest CONNECT"),
            ("receive_maximum", lane.receive_maximum.into(), "publishes that may wait for their promise"),
            ("max_in_flight", lane.max_in_flight.into(), "deliveries without PUBACK"),
            ("max_filters", lane.max_filters as u64, "subscriptions of one connection"),
            ("max_client_id_bytes", lane.max_client_id_bytes as u64, "longest client identifier"),
            ("connect_timeout_ms", lane.connect_timeout_ms, "until CONNECT"),
            ("standing_timeout_ms", lane.standing_timeout_ms, "from CONNECT until \"server busy\""),
            ("ack_timeout_ms", lane.ack_timeout_ms, "from a delivery to its PUBACK"),
            ("write_timeout_ms", lane.write_timeout_ms, "without progress while bytes wait"),
        ];
        let built_in = built_in.into_iter().map(|(name, value, meaning)| {
            json!({ "name": name, "value": value, "origin": "built in", "meaning": meaning })
        });
        Value::Array(settings.chain(built_in).collect())
    }

    /// Until the operator closes the connection.
    pub(super) async fn tap(
        &self,
        filter: &str,
        asker: &Asker,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let shown = |row: &Value| format!("{}\n", json!({ "Ok": row }));
        if let Err(refused) = self.may_look(asker).await {
            return say(writer, &format!("{}\n", json!({ "Err": refused }))).await;
        }
        let mut passing = self.broker.tap();
        let mut pulse = tokio::time::interval_at(Instant::now() + TAP_PULSE, TAP_PULSE);
        let mut unread = [0_u8; 64];
        say(writer, &shown(&json!({ "tapping": filter }))).await?;
        loop {
            let line = tokio::select! {
                received = passing.recv() => match received {
                    Ok(tapped) if tapped.matches(filter) => shown(&tapped.shown()),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(missed)) => shown(&json!({ "missed": missed })),
                    Err(RecvError::Closed) => return Ok(()),
                },
                read = reader.read(&mut unread) => match read? {
                    0 => return Ok(()),
                    _ => continue,
                },
                _ = pulse.tick() => match self.may_look(asker).await {
                    Ok(()) => "\n".to_owned(),
                    Err(refused) => return say(writer, &format!("{}\n", json!({ "Err": refused }))).await,
                },
            };
            say(writer, &line).await?;
        }
    }
}

async fn say(writer: &mut (impl AsyncWrite + Unpin), line: &str) -> std::io::Result<()> {
    writer.write_all(line.as_bytes()).await?;
    writer.flush().await
}

/// Our own rows encode.
fn encoded<T: Serialize>(row: &T) -> Value {
    serde_json::to_value(row).unwrap_or_default()
}
