//! What `edge-agent status` shows.

use schemas::ids::{CommandId, ItemId, PaymentId};
use schemas::message::{ChildAnswer, ChildView, PaymentPrompt, PaymentState, PaymentStatus};
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{DeadLetter, PromptEnd};

/// One command that has no outcome yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCommand {
    /// Its id.
    pub command: CommandId,
    /// What to deliver.
    pub item: ItemId,
    /// Units.
    pub quantity: u32,
    /// The intent is recorded: it acts now.
    pub begun: bool,
    /// It does not begin later than this.
    pub start_by: Timestamp,
}

/// One prompt that waits for the child's answer (PC-3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPrompt {
    /// What is asked.
    #[serde(flatten)]
    pub prompt: PaymentPrompt,
    /// It is the one to be seen now.
    pub shown: bool,
    /// How long it may be answered, in milliseconds; none if cloud time is unknown: then it waits unseen.
    pub remaining_ms: Option<u64>,
}

/// What became of a payment, for the child to read (PC-5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptResult {
    /// Which payment.
    pub payment: PaymentId,
    /// What was asked; none if nothing was, or if it is forgotten.
    pub prompt: Option<PaymentPrompt>,
    /// What the child said.
    pub answer: Option<ChildAnswer>,
    /// Why it ended without an answer.
    pub ended: Option<PromptEnd>,
    /// What the cloud told; none: nothing yet, so that an answered one is waiting, not paid (correctness.md 16).
    pub status: Option<PaymentStatus>,
}

/// A device at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `tenant/name`.
    pub principal: String,
    /// Counts enrolments.
    pub instance: u32,
    /// Name of its profile.
    pub profile: String,
    /// There is a connection to the cloud.
    pub connected: bool,
    /// Upper bound of cloud time; none if unknown.
    pub cloud_time: Option<Timestamp>,
    /// Messages that wait for the cloud's promise.
    pub spool_depth: usize,
    /// Of these, sent on this connection and not yet promised.
    pub in_flight: usize,
    /// Accepted commands without an outcome.
    pub open_commands: Vec<OpenCommand>,
    /// Ended commands and tombstones that are remembered.
    pub remembered_commands: usize,
    /// Payment informations that are remembered.
    pub issued_informations: usize,
    /// The newest messages that will not be handled.
    pub dead_letters: Vec<DeadLetter>,
    /// How many there have ever been.
    pub dead_letters_total: u64,
    /// The newest payment states that the cloud told, with the time of each.
    pub payments: Vec<(PaymentId, PaymentState, Timestamp)>,
    /// Prompts that wait for the child, oldest first.
    #[serde(default)]
    pub open_prompts: Vec<OpenPrompt>,
    /// What was answered, ended or settled last, newest first.
    #[serde(default)]
    pub prompt_results: Vec<PromptResult>,
    /// What the child has and can look forward to, as of a time (PC-14); none: the cloud has not told it yet.
    #[serde(default)]
    pub child_view: Option<ChildView>,
    /// The hardware has not come back from an act in its time.
    pub hardware_silent: bool,
    /// The journal has no room for new work.
    pub journal_full: bool,
    /// Records in the journal.
    pub position: u64,
    /// Records that are on disk.
    pub synced: u64,
}
