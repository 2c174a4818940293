//! The device state machine: what a payment chip, an executor or a piggy bank remembers, decides and asks for.
//!
//! Begin with [`Device`]: inputs are `handle_*`, results are `poll_*`. Every decision becomes an [`Event`] that the
//! shell journals; every [`Output`] waits until the journal position that it was computed from is synced. The order
//! for a command is inbox record, sync, PUBACK; intent, sync, act; outcome, sync, report (CP-9).
//!
//! # What is absent
//! No clock, no randomness, no files, no sockets. No second act for one command id: an intent without an outcome
//! is reported as `unknown` after a restart, never tried again. No output that leaves before its record is durable. No
//! prompt that is shown, and no answer that is taken, when it may be later than the cloud waits (PC-3). No code that is
//! shown after its end, or where nobody takes it (PC-9).

mod clock;
mod decide;
mod device;
mod event;
pub mod limits;
mod output;
mod profile;
mod report;
mod state;
mod status;
mod suggest;

pub use decide::{
    CodeRefusal, CodeRequest, Conditions, HardwareResult, IssueRefusal, IssueRequest, Issued,
    PromptAnswerRequest, PromptRefusal, WishRefusal, WishRequest,
};
pub use device::{Device, Fix, Recovered, Settings};
pub use event::{DeadLetter, Direction, Event, PromptEnd, SpoolEntry};
pub use output::{Delivery, Output, ShownCode, ShownPrompt};
pub use profile::{
    ButtonSettings, Capability, CodeDisplay, CodeRules, Condition, DisplaySettings, DriverSettings,
    ExecutorRules, IdentitySettings, InformationRules, Item, PositionSettings, Profile, ProfileError,
    PromptRules, Sale,
};
pub use state::{CodeEnd, CodeRecord, CommandRecord, PromptRecord, State};
pub use status::{
    ListedWish, OpenCode, OpenCommand, OpenPrompt, PlacesStatus, PositionStatus, PromptResult, Status,
    WishStanding,
};
pub use suggest::explain_unknown_key;
