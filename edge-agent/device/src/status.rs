//! What `edge-agent status` shows.

use schemas::ids::{Code, CommandId, ItemId, PaymentId, PlaceId, PrincipalId, WishId};
use schemas::message::{
    Categories, ChildAnswer, ChildView, PaymentMode, PaymentPrompt, PaymentState, PaymentStatus, ShowCode,
    WishState,
};
use schemas::money::Money;
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use schemas::wire::Text;
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

/// A code with which the child may pay, without the code itself (PC-6, PC-7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCode {
    /// Of which payment.
    pub payment: PaymentId,
    /// With a QR code or with a token.
    pub mode: PaymentMode,
    /// How much.
    pub amount: Money,
    /// Who gets it, for the child to read.
    pub payee: Text,
    /// What it is for.
    pub categories: Categories,
    /// The only place where it counts, if there is only one.
    pub place: Option<PlaceId>,
    /// When it is shown.
    pub show: ShowCode,
    /// When it ends.
    pub expires_at: Timestamp,
    /// It is the one to be seen now.
    pub shown: bool,
    /// How long it counts, in milliseconds; none if cloud time is unknown: then it is not shown.
    pub remaining_ms: Option<u64>,
    /// Why it would not be shown now if the child asked: a stable code, and a sentence (PC-9).
    pub not_now: Option<(Code, String)>,
}

/// What a piggy bank knows of places (PC-9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacesStatus {
    /// Of the list; 0: none.
    pub version: u64,
    /// How many.
    pub places: usize,
    /// Whose signature counts: the first signer that this enrolment heard of.
    pub signer: Option<PublicKey>,
    /// Why the last list that came was not taken over.
    pub refused: Option<Code>,
}

/// What a device's receiver last said (PC-3, PC-9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionStatus {
    /// Radius of the error, in metres.
    pub accuracy_m: u32,
    /// How long ago, in milliseconds.
    pub age_ms: u64,
    /// Not too old to count.
    pub counts: bool,
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

/// A wish, for the child to read (PC-12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedWish {
    /// Which.
    pub wish: WishId,
    /// To whom.
    pub to: PrincipalId,
    /// In the child's words; what the cloud shows of it is its beginning.
    pub text: Text,
    /// Where it stands.
    #[serde(flatten)]
    pub standing: WishStanding,
}

/// Where a wish stands, as far as the piggy bank knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum WishStanding {
    /// On this device only: there was no connection yet.
    Waiting,
    /// The cloud has it.
    Sent,
    /// The cloud has not taken it in.
    Refused {
        /// Why.
        code: Code,
    },
    /// As the cloud last told it.
    Told {
        /// Its state.
        state: WishState,
        /// What the guardian said.
        reason: Option<Text>,
    },
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
    /// Codes with which the child may pay, oldest first.
    #[serde(default)]
    pub open_codes: Vec<OpenCode>,
    /// The places where they count; none: this is no piggy bank.
    #[serde(default)]
    pub places: Option<PlacesStatus>,
    /// Where the device is, as far as it knows; none: nothing says so.
    #[serde(default)]
    pub whereabouts: Option<PositionStatus>,
    /// What the child has wished for.
    #[serde(default)]
    pub wishes: Vec<ListedWish>,
    /// The hardware has not come back from an act in its time.
    pub hardware_silent: bool,
    /// The journal has no room for new work.
    pub journal_full: bool,
    /// Records in the journal.
    pub position: u64,
    /// Records that are on disk.
    pub synced: u64,
}
