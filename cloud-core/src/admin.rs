//! How operators speak with the running core: one JSON line each way over a Unix socket in the data directory.
//!
//! Most commands are the core's own ([`AdminCommand`]). A few are the shell's ([`ShellCommand`]): those that need
//! randomness, or that read history from the journal, which the core forgets (correctness.md 17).

pub(crate) mod broker;
pub mod client;
pub(crate) mod server;
pub(crate) mod story;

pub use broker::BrokerCommand;
use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::event::RecordKind;
use cloud_core_flows::rejection::Rejection;
use cloud_core_history::{Party, Summary};
use schemas::ids::{PaymentId, Principal};
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Longest request line in bytes.
pub(crate) const REQUEST_BYTES: usize = 2 << 20;

/// What an operator may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To the core.
    Core(AdminCommand),
    /// To the shell around it.
    Shell(ShellCommand),
    /// About the broker.
    Broker(BrokerCommand),
}

impl Request {
    /// One line, without its end.
    ///
    /// # Errors
    /// No such command, or not its fields; says which.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Name {
            command: String,
        }
        let name: Name = serde_json::from_slice(line)?;
        if ShellCommand::NAMES.contains(&name.command.as_str()) {
            serde_json::from_slice(line).map(Self::Shell)
        } else if BrokerCommand::NAMES.contains(&name.command.as_str()) {
            serde_json::from_slice(line).map(Self::Broker)
        } else {
            serde_json::from_slice(line).map(Self::Core)
        }
    }

    /// As it is sent, without the end of the line.
    ///
    /// # Errors
    /// None for the commands there are.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        match self {
            Self::Core(command) => serde_json::to_vec(command),
            Self::Shell(command) => serde_json::to_vec(command),
            Self::Broker(command) => serde_json::to_vec(command),
        }
    }
}

/// What the shell does beside the core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum ShellCommand {
    /// The whole story of a payment, from the journal.
    ShowPayment {
        /// Which.
        payment: PaymentId,
    },
    /// The payments of somebody, newest first, also those that have left memory.
    ListHistory {
        /// Whose.
        party: Party,
        /// Those before this cursor, which an answer gave as `next`.
        #[serde(default)]
        before: Option<String>,
        /// At most so many, 1 to 100.
        limit: u32,
    },
    /// Makes a one-time claim code.
    IssueClaim {
        /// For which device.
        device: Principal,
        /// How long it is valid, in milliseconds.
        valid_ms: u64,
    },
    /// Makes a token.
    IssueToken {
        /// For whom.
        principal: Principal,
        /// How long it is valid, in milliseconds.
        valid_ms: u64,
    },
    /// Makes a token beside the one there is, by [`AdminCommand::RotateToken`].
    RenewToken {
        /// For whom.
        principal: Principal,
        /// How long the new one is valid, in milliseconds.
        valid_ms: u64,
        /// How long the former one stays good, in milliseconds.
        overlap_ms: u64,
    },
    /// How many records of the journal are durable.
    Durable,
}

impl ShellCommand {
    const NAMES: &'static [&'static str] =
        &["show_payment", "list_history", "issue_claim", "issue_token", "renew_token", "durable"];
}

/// The reply to a [`ShellCommand`].
pub type ShellReply = Result<ShellAnswer, Rejection>;

/// What the shell answers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "rows", rename_all = "snake_case")]
pub enum ShellAnswer {
    /// A payment's story.
    Story(Story),
    /// Somebody's payments.
    History {
        /// Newest first.
        rows: Vec<Summary>,
        /// Where the listing goes on; none: it ends here.
        next: Option<String>,
    },
    /// A claim code; it is nowhere else.
    Claim {
        /// What a technician types.
        code: String,
        /// For which device.
        device: Principal,
        /// When it ends.
        expires_at: Timestamp,
    },
    /// A token; it is nowhere else.
    Token {
        /// The password.
        token: String,
        /// The user name.
        principal: Principal,
        /// When it ends.
        expires_at: Timestamp,
    },
    /// How many records of the journal are durable.
    Durable {
        /// So many.
        records: u64,
    },
}

impl std::fmt::Debug for ShellAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Story(story) => story.fmt(f),
            Self::History { rows, next } => write!(f, "History({} rows, next {next:?})", rows.len()),
            Self::Claim { device, .. } => write!(f, "Claim({device})"),
            Self::Token { principal, .. } => write!(f, "Token({principal})"),
            Self::Durable { records } => write!(f, "Durable({records})"),
        }
    }
}

/// Every record that names a payment, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// Which payment.
    pub payment: PaymentId,
    /// What happened.
    pub chapters: Vec<Chapter>,
    /// Whether records were left out because there were too many.
    pub is_cut: bool,
}

/// One record of a story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chapter {
    /// The record's number in the journal, from 1.
    pub position: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What it is about.
    pub kind: RecordKind,
    /// Name of the event.
    pub event: String,
    /// A sentence.
    pub text: String,
    /// Which operator did it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// All of it.
    pub content: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_encode_and_parse_to_themselves_and_unknown_ones_are_named() {
        let requests = [
            Request::Core(AdminCommand::ListTenants),
            Request::Core(AdminCommand::ListPayments { open_only: true }),
            Request::Shell(ShellCommand::ShowPayment { payment: PaymentId([7; 16]) }),
            Request::Shell(ShellCommand::IssueClaim { device: "a/b".parse().unwrap(), valid_ms: 1 }),
            Request::Shell(ShellCommand::IssueToken { principal: "a/b".parse().unwrap(), valid_ms: 1 }),
            Request::Shell(ShellCommand::Durable),
            Request::Shell(ShellCommand::ListHistory {
                party: Party::Person("a/b".parse().unwrap()),
                before: Some("1.2.3".into()),
                limit: 20,
            }),
        ];
        for request in requests {
            assert_eq!(Request::parse(&request.encode().unwrap()).unwrap(), request);
        }
        let error = Request::parse(br#"{"command":"list_tenats"}"#).unwrap_err().to_string();
        assert!(error.contains("list_tenats") && error.contains("list_tenants"), "{error}");
    }

    #[test]
    fn debug_output_hides_secrets() {
        let principal: Principal = "a/b".parse().unwrap();
        let answer = ShellAnswer::Token { token: "s3cret".into(), principal, expires_at: Timestamp(1) };
        assert!(!format!("{answer:?}").contains("s3cret"));
    }
}
