//! Reading the journal as an auditor does (MO-8): beside a running core or without one, one segment in memory at a time.

use std::collections::{BTreeSet, HashSet};

use broker::client::ClientError;
use cloud_core_flows::event::{Event, Record, RecordKind};
use schemas::ids::{MessageId, PaymentId, Principal};
use schemas::time::Timestamp;
use schemas_journal::{Disk, DiskError, FileDisk, FileDiskError, Position};
use serde_json::Value;

use crate::admin::client::{AdminClient, AdminError};
use crate::admin::{ShellAnswer, ShellCommand, story};
use crate::config::Config;

/// The journal of a data directory, and the directories into which an operator moved its older segments. Only read.
#[derive(Debug, Clone)]
pub(crate) struct Shelves(Vec<FileDisk>);

impl Shelves {
    /// # Errors
    /// A directory can't be read.
    pub(crate) fn open(config: &Config, archives: &[std::path::PathBuf]) -> Result<Self, FileDiskError> {
        let directories = std::iter::once(config.journal_dir()).chain(archives.iter().cloned());
        directories.map(FileDisk::open_read_only).collect::<Result<_, _>>().map(Self)
    }

    fn holding(&self, name: &str) -> &FileDisk {
        let found = self.0.iter().find(|disk| disk.directory().join(name).exists());
        found.unwrap_or(&self.0[0])
    }
}

/// How much of the journal is durable: what the running core says, or all of it where none runs.
///
/// # Errors
/// A core is there and does not answer.
pub(crate) fn durable(config: &Config) -> Result<Position, AdminError> {
    match AdminClient::new(config.admin_socket()).shell(ShellCommand::Durable) {
        Ok(ShellAnswer::Durable { records }) => Ok(Position::new(records)),
        Ok(other) => Err(AdminError::Client(ClientError::NoAnswer {
            path: config.admin_socket().display().to_string(),
            reason: format!("not its reply: {other:?}"),
        })),
        Err(AdminError::Client(ClientError::NotRunning { .. })) => Ok(Position::END),
        Err(error) => Err(error),
    }
}

/// Which records somebody wants. All that is left out matches everything.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) since: Timestamp,
    /// Not included.
    pub(crate) until: Timestamp,
    pub(crate) after: Position,
    /// Whose name is in the record.
    pub(crate) principal: Option<Principal>,
    pub(crate) payment: Option<PaymentId>,
    /// Empty for all.
    pub(crate) kinds: BTreeSet<RecordKind>,
    /// Messages of the payment, found on the way: what becomes of them belongs to its story.
    pub(crate) messages: HashSet<MessageId>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            since: Timestamp(0),
            until: Timestamp::NEVER,
            after: Position::ZERO,
            principal: None,
            payment: None,
            kinds: BTreeSet::new(),
            messages: HashSet::new(),
        }
    }
}

impl Filter {
    /// The record, if it is wanted. To be asked of every record, in order. `Err`: it can't be read, which no release
    /// writes; it is always wanted.
    pub(crate) fn select(&mut self, position: Position, bytes: &[u8]) -> Option<Result<Record, String>> {
        // Names stand in records as they are, so most that are not wanted need not be decoded.
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        let names_payment = self.payment.is_none_or(|payment| has(&payment.0));
        if !names_payment && self.messages.is_empty() {
            return None;
        }
        let principal = self.principal.as_ref().map(ToString::to_string);
        if principal.as_ref().is_some_and(|principal| !has(principal.as_bytes())) {
            return None;
        }
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(error) => return Some(Err(error.to_string())),
        };
        match &record.event {
            Event::Queued { message, .. } if names_payment && self.payment.is_some() => {
                self.messages.insert(message.message);
            }
            Event::Cleared { message, .. } | Event::Withdrawn { message, .. }
                if self.messages.contains(message) => {}
            _ if names_payment => {}
            _ => return None,
        }
        let is_wanted = position > self.after
            && (self.since..self.until).contains(&record.at)
            && (self.kinds.is_empty() || self.kinds.contains(&record.event.kind()))
            && principal.is_none_or(|principal| names(&story::content(&record.event), &principal));
        is_wanted.then_some(Ok(record))
    }
}

/// Whether `name` stands in a text of the value, and not as a part of a longer name.
fn names(value: &Value, name: &str) -> bool {
    let belongs = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let in_text = |text: &str| {
        text.match_indices(name)
            .any(|(at, _)| !text[..at].ends_with(belongs) && !text[at + name.len()..].starts_with(belongs))
    };
    match value {
        Value::String(text) => in_text(text),
        Value::Array(values) => values.iter().any(|value| names(value, name)),
        Value::Object(fields) => fields.iter().any(|(key, value)| in_text(key) || names(value, name)),
        _ => false,
    }
}

impl Disk for Shelves {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = BTreeSet::new();
        for disk in &self.0 {
            names.extend(disk.list()?);
        }
        Ok(names.into_iter().collect())
    }

    fn len(&self, name: &str) -> Result<u64, DiskError> {
        self.holding(name).len(name)
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.holding(name).read(name, offset, buffer)
    }

    // Each is opened for reading only, and says so.
    fn create(&self, name: &str, len: u64) -> Result<(), DiskError> {
        self.0[0].create(name, len)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0[0].write(name, offset, bytes)
    }

    fn sync(&self, name: &str) -> Result<(), DiskError> {
        self.0[0].sync(name)
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.0[0].publish(name, bytes)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.0[0].remove(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(principal: Option<&str>, what: &str) -> Record {
        let principal = principal.map(|name| name.parse().unwrap());
        let event = Event::RefusalAudited { principal, what: what.into(), why: "no".into() };
        Record { at: Timestamp(100), event, by: None }
    }

    /// MO-8: an auditor finds every record that names somebody, and nobody else's.
    #[test]
    fn a_principal_is_found_where_it_is_named_and_not_within_a_longer_name() {
        let long = format!("acme/{}", "b".repeat(30));
        for (name, record, expected) in [
            ("acme/ann", refusal(Some("acme/ann"), "x"), true),
            ("acme/ann", refusal(None, "connect as Token(acme/ann)"), true),
            ("acme/ann", refusal(Some("acme/anna"), "x"), false),
            ("acme/ann", refusal(Some("big-acme/ann"), "x"), false),
            (&long, refusal(Some(&long), "x"), true),
            ("acme/ann", Record { at: Timestamp(1), event: Event::Opened, by: None }, false),
        ] {
            let mut filter = Filter { principal: Some(name.parse().unwrap()), ..Filter::default() };
            let found = filter.select(Position::new(1), &record.encode());
            assert_eq!(found.is_some(), expected, "{name} in {record:?}");
        }
    }

    #[test]
    fn time_kind_and_position_each_narrow_what_is_shown() {
        let record = refusal(None, "x").encode();
        let matches = |filter: Filter| filter.clone().select(Position::new(5), &record).is_some();
        let all = Filter::default();
        assert!(matches(all.clone()));
        assert!(matches(Filter { since: Timestamp(100), until: Timestamp(101), ..all.clone() }));
        assert!(!matches(Filter { until: Timestamp(100), ..all.clone() }));
        assert!(!matches(Filter { since: Timestamp(101), ..all.clone() }));
        assert!(!matches(Filter { after: Position::new(5), ..all.clone() }));
        assert!(matches(Filter { kinds: [RecordKind::Refusal].into(), ..all.clone() }));
        assert!(!matches(Filter { kinds: [RecordKind::Money].into(), ..all.clone() }));
        assert!(matches!(all.clone().select(Position::new(1), b"junk"), Some(Err(_))));
    }
}
