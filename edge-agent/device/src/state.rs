//! What a device remembers. Only [`State::evolve`] changes it, in a live process and in replay alike.

mod code;
mod prompt;
mod wish;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use schemas::cbor::{self, CborError};
use schemas::ids::{Code, CommandId, Hash, ItemId, MessageId, Nonce, PaymentId};
use schemas::message::{
    ChildView, ExecutorCommand, HealthCheckRequest, HealthVerdict, Outcome, PaymentState,
};
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{DeadLetter, Direction, Event, SpoolEntry};
use crate::limits;
pub use code::{CodeEnd, CodeRecord};
pub(crate) use code::{Codes, KnownPlaces, is_final};
pub use prompt::PromptRecord;
pub(crate) use prompt::{Prompts, is_decided};
pub(crate) use wish::{OwnStanding, OwnWish, OwnWishes};

/// Where one command stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandRecord {
    /// Accepted, not begun.
    Accepted(ExecutorCommand),
    /// The intent is recorded: it may have acted.
    Intent(ExecutorCommand),
    /// Over.
    Ended {
        /// What came of it.
        outcome: Outcome,
        /// Units delivered.
        delivered: u32,
        /// Why, where it is not done.
        code: Option<Code>,
        /// Upper bound of cloud time; none if it was not known.
        at: Option<Timestamp>,
    },
    /// Asked about and never seen: refused from now on.
    Tombstone {
        /// Upper bound of cloud time; none if it was not known.
        at: Option<Timestamp>,
    },
}

/// A payment information of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Information {
    pub(crate) hash: Hash,
    pub(crate) item: ItemId,
    pub(crate) quantity: u32,
    pub(crate) expires_at: Timestamp,
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CheckRecord {
    Waiting(HealthCheckRequest),
    Answered { payment: PaymentId, verdict: HealthVerdict, code: Option<Code> },
}

/// The durable state. Serialises as its own snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(crate) commands: BTreeMap<CommandId, CommandRecord>,
    /// Accepted and begun ones, in order of arrival.
    pub(crate) queue: VecDeque<CommandId>,
    /// Ended ones and tombstones, in order of their end.
    pub(crate) ended: VecDeque<CommandId>,
    pub(crate) spool: BTreeMap<u64, SpoolEntry>,
    pub(crate) spool_next: u64,
    pub(crate) informations: BTreeMap<Nonce, Information>,
    pub(crate) checks: BTreeMap<MessageId, CheckRecord>,
    pub(crate) checks_answered: VecDeque<MessageId>,
    pub(crate) dead_letters: VecDeque<DeadLetter>,
    pub(crate) dead_letters_total: u64,
    pub(crate) payment_states: VecDeque<(PaymentId, PaymentState, Timestamp)>,
    #[serde(default, skip_serializing_if = "Prompts::is_empty")]
    pub(crate) prompts: Prompts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) child_view: Option<ChildView>,
    #[serde(default, skip_serializing_if = "Codes::is_empty")]
    pub(crate) codes: Codes,
    #[serde(default, skip_serializing_if = "KnownPlaces::is_empty")]
    pub(crate) places: KnownPlaces,
    #[serde(default, skip_serializing_if = "OwnWishes::is_empty")]
    pub(crate) wishes: OwnWishes,
}

impl State {
    /// From a snapshot.
    ///
    /// # Errors
    /// Too large, or not a snapshot of this release.
    pub fn restore(snapshot: &[u8]) -> Result<Self, CborError> {
        cbor::decode_within(snapshot, limits::SNAPSHOT_BYTES)
    }

    /// As a snapshot.
    pub fn snapshot(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Where a command stands, if it is known.
    pub fn command(&self, command: &CommandId) -> Option<&CommandRecord> {
        self.commands.get(command)
    }

    /// Where a prompt stands, if it is known.
    pub fn prompt(&self, payment: &PaymentId) -> Option<&PromptRecord> {
        self.prompts.records.get(payment)
    }

    /// How many prompts wait for an answer.
    pub fn open_prompts(&self) -> usize {
        self.prompts.open.len()
    }

    /// Where a code stands, if it is known.
    pub fn code(&self, payment: &PaymentId) -> Option<&CodeRecord> {
        self.codes.records.get(payment)
    }

    /// The messages that wait for a promise, oldest first.
    pub fn spooled(&self) -> impl Iterator<Item = &SpoolEntry> {
        self.spool.values()
    }

    /// Applies a decision. Total: an event that fits nothing changes nothing.
    pub fn evolve(&mut self, event: &Event) {
        match event {
            Event::CommandAccepted { command } => {
                if let Entry::Vacant(vacant) = self.commands.entry(command.command) {
                    vacant.insert(CommandRecord::Accepted(command.clone()));
                    self.queue.push_back(command.command);
                }
            }
            Event::IntentRecorded { command } => {
                if let Some(record) = self.commands.get_mut(command)
                    && let CommandRecord::Accepted(accepted) = record
                {
                    *record = CommandRecord::Intent(accepted.clone());
                }
            }
            Event::OutcomeRecorded { command, outcome, delivered, code, at, report } => {
                let record = CommandRecord::Ended {
                    outcome: *outcome,
                    delivered: *delivered,
                    code: code.clone(),
                    at: *at,
                };
                self.end(*command, record);
                self.spool(report);
            }
            Event::LateOutcomeReported { report, .. } => self.spool(report),
            Event::Tombstoned { command, at, report } => {
                self.end(*command, CommandRecord::Tombstone { at: *at });
                self.spool(report);
            }
            Event::SpoolQueued { entry } => self.spool(entry),
            Event::SpoolCleared { message } => {
                self.unspool(message);
                self.wishes.promised(*message);
            }
            Event::DeadLettered { letter, report } => self.bury(letter, report.as_ref()),
            Event::InformationIssued { nonce, information_hash, item, quantity, expires_at } => {
                let information = Information {
                    hash: *information_hash,
                    item: item.clone(),
                    quantity: *quantity,
                    expires_at: *expires_at,
                };
                self.informations.insert(*nonce, information);
            }
            Event::CheckAccepted { answer, check } => {
                self.checks.entry(*answer).or_insert_with(|| CheckRecord::Waiting(check.clone()));
            }
            Event::CheckAnswered { answer, payment, verdict, code, report } => {
                let record =
                    CheckRecord::Answered { payment: *payment, verdict: *verdict, code: code.clone() };
                if !matches!(self.checks.insert(*answer, record), Some(CheckRecord::Answered { .. })) {
                    self.checks_answered.push_back(*answer);
                }
                self.spool(report);
            }
            Event::PaymentStateReceived { payment, state, at } => self.payment_state(*payment, *state, *at),
            Event::Forgotten { commands, checks, informations, prompts, codes } => {
                self.forget(commands, checks, informations);
                self.prompts.forget(prompts);
                self.codes.forget(codes);
            }
            Event::PromptAccepted { prompt } => self.prompts.accept(prompt),
            Event::PromptAnswered { payment, answer, position, identified, report } => {
                self.prompts.answer(*payment, *answer, *position, *identified);
                self.spool(report);
            }
            Event::ChildViewReceived { view } => {
                let is_other = self.child_view.as_ref().is_some_and(|known| known.child != view.child);
                self.wishes.shown(view, is_other);
                self.child_view = Some(view.clone());
            }
            Event::WishMade { wish, to, text, report } => {
                let (message, to, text) = (report.message, to.clone(), text.clone());
                let (wish, standing) = (*wish, OwnStanding::Waiting);
                self.wishes.make(OwnWish { wish, message, to, text, standing, taken_back: false });
                self.spool(report);
            }
            Event::WishWithdrawn { wish, report } => match report {
                Some(report) => {
                    self.wishes.take_back(*wish);
                    self.spool(report);
                }
                None => self.wishes.forget(*wish),
            },
            Event::PromptEnded { payment, why } => self.prompts.end_unanswered(*payment, *why),
            Event::PaymentResultReceived { status } => {
                self.payment_state(status.payment, status.state, status.at);
                self.prompts.result(status);
                if is_final(status.state) {
                    self.codes.end(status.payment, CodeEnd::Decided);
                }
            }
            Event::CodeAccepted { code, instance } => self.codes.accept(code, *instance),
            Event::CodeExpired { payment } => self.codes.end(*payment, CodeEnd::Expired),
            Event::SignerPinned { instance, signer } => self.places.pin(*instance, *signer),
            Event::PlacesReceived { instance, catalogue } => self.places.receive(*instance, catalogue),
        }
    }

    fn end(&mut self, command: CommandId, record: CommandRecord) {
        self.queue.retain(|queued| *queued != command);
        let before = self.commands.insert(command, record);
        if !matches!(before, Some(CommandRecord::Ended { .. } | CommandRecord::Tombstone { .. })) {
            self.ended.push_back(command);
        }
    }

    fn payment_state(&mut self, payment: PaymentId, state: PaymentState, at: Timestamp) {
        self.payment_states.push_back((payment, state, at));
        while self.payment_states.len() > limits::PAYMENT_STATES {
            self.payment_states.pop_front();
        }
    }

    /// A message is in the spool at most once.
    fn spool(&mut self, entry: &SpoolEntry) {
        if !self.spool.values().any(|spooled| spooled.message == entry.message) {
            self.spool.insert(self.spool_next, entry.clone());
            self.spool_next += 1;
        }
    }

    fn unspool(&mut self, message: &MessageId) {
        self.spool.retain(|_, entry| entry.message != *message);
    }

    fn bury(&mut self, letter: &DeadLetter, report: Option<&SpoolEntry>) {
        if let (Direction::Up, Some(message)) = (letter.direction, &letter.message) {
            self.unspool(message);
            self.wishes.refused(*message, &letter.code);
        }
        self.dead_letters.push_back(letter.clone());
        self.dead_letters_total += 1;
        while self.dead_letters.len() > limits::DEAD_LETTERS {
            self.dead_letters.pop_front();
        }
        if let Some(report) = report {
            self.spool(report);
        }
    }

    fn forget(&mut self, commands: &[CommandId], checks: &[MessageId], informations: &[Nonce]) {
        for command in commands {
            self.commands.remove(command);
        }
        self.ended.retain(|ended| !commands.contains(ended));
        for check in checks {
            self.checks.remove(check);
        }
        self.checks_answered.retain(|answered| !checks.contains(answered));
        for nonce in informations {
            self.informations.remove(nonce);
        }
    }
}
