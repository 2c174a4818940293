//! Decisions: from a message and the facts of the moment to events, or a refusal. Nothing is changed here.

mod check;
mod code;
mod command;
mod issue;
mod prompt;
mod wish;

use std::collections::BTreeMap;

use schemas::cbor;
use schemas::envelope::EnvelopeError;
use schemas::ids::{Code, ItemId, MessageId};
use schemas::message::{PaymentStatus, Refused};
use schemas::time::Timestamp;
use schemas::wire::Text;
use serde::{Deserialize, Serialize};

pub use code::{CodeRefusal, CodeRequest};
pub(crate) use code::{PlacesDecision, Whereabouts, is_checked};
pub use command::HardwareResult;
pub(crate) use command::Start;
pub use issue::{IssueRefusal, IssueRequest, Issued};
pub use prompt::{PromptAnswerRequest, PromptRefusal};
pub use wish::{WishRefusal, WishRequest};

use crate::event::{DeadLetter, Direction, Event, SpoolEntry};
use crate::limits;
use crate::profile::Profile;
use crate::report::Reporter;
use crate::state::{CheckRecord, CommandRecord, State};

/// What the hardware driver knows of the machine. Volatile: told again after every start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// The housing is open or a seal is broken.
    pub tampered: bool,
    /// The executor cannot act.
    pub executor_fault: bool,
    /// Units left of the items that are counted; others are taken as available.
    pub stock: BTreeMap<ItemId, u32>,
}

/// The facts of the moment.
pub(crate) struct Context<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) reporter: &'a Reporter,
    pub(crate) conditions: &'a Conditions,
    /// Cloud time is not later than this; none if unknown.
    pub(crate) upper: Option<Timestamp>,
    /// Cloud time is not earlier than this; none if unknown.
    pub(crate) lower: Option<Timestamp>,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) set_up_mode: bool,
    /// The journal takes new work, not only the end of what is open.
    pub(crate) journal_accepts: bool,
    /// The hardware has not come back from an act in its time.
    pub(crate) hardware_silent: bool,
}

/// What to do about a delivered message.
pub(crate) enum Decision {
    /// Record these, then PUBACK. No events: it is known already.
    Record(Vec<Event>),
    /// PUBACK 0x97 and remember nothing.
    Full,
}

impl State {
    /// Messages in the spool and answers that open work will put there.
    fn spool_used(&self) -> usize {
        let waiting_checks = self.checks.len() - self.checks_answered.len();
        self.spool.len() + self.queue.len() + waiting_checks + self.prompts.open.len()
    }

    pub(crate) fn spool_has_room(&self) -> bool {
        self.spool_used() < limits::SPOOL_ENTRIES
    }

    pub(crate) fn spool_has_reserve(&self) -> bool {
        self.spool_used() < limits::SPOOL_ENTRIES + limits::SPOOL_RESERVE
    }

    /// A message that nobody here understands: recorded, refused, acknowledged; it blocks nobody.
    pub(crate) fn decide_poison(
        &self,
        context: &Context<'_>,
        kind: &str,
        payload: &[u8],
        why: &Poison,
    ) -> Decision {
        if !context.journal_accepts {
            return Decision::Full;
        }
        let (about, code) = (code_of_kind(kind), why.code());
        let message = message_id(payload);
        let report = context.reporter.refused(payload, message, about.clone(), code.clone(), why.text());
        // Its repeat says nothing new.
        if self.spooled().any(|entry| entry.message == report.message)
            || message.is_some_and(|message| self.has_refused(message))
        {
            return Decision::Record(vec![]);
        }
        let letter = DeadLetter { direction: Direction::Down, message, about, code };
        let report = self.spool_has_reserve().then_some(report);
        Decision::Record(vec![Event::DeadLettered { letter, report }])
    }

    /// The cloud was told that this message is not understood, and may have drawn its conclusions: it stays refused,
    /// even if a newer agent understands its repeat.
    pub(crate) fn has_refused(&self, message: MessageId) -> bool {
        let refused =
            |letter: &DeadLetter| letter.direction == Direction::Down && letter.message == Some(message);
        self.dead_letters.iter().any(refused)
    }

    /// The cloud says that it did not accept a message of ours, which waits for no PUBACK any more.
    pub(crate) fn decide_refused(&self, context: &Context<'_>, refused: &Refused) -> Decision {
        if !context.journal_accepts {
            return Decision::Full;
        }
        Decision::Record(vec![dead_letter_up(refused.message, refused.about.clone(), refused.code.clone())])
    }

    /// A payment's state, for people (CP-16). Its repeat says nothing new.
    pub(crate) fn decide_payment_state(&self, context: &Context<'_>, status: &PaymentStatus) -> Decision {
        if self.payment_states.contains(&(status.payment, status.state, status.at)) {
            return Decision::Record(vec![]);
        }
        if !context.journal_accepts {
            return Decision::Full;
        }
        let (payment, state, at) = (status.payment, status.state, status.at);
        Decision::Record(vec![Event::PaymentStateReceived { payment, state, at }])
    }

    /// The same answer again, unless it is still on its way.
    fn repeat(&self, context: &Context<'_>, entry: SpoolEntry) -> Decision {
        if self.spooled().any(|spooled| spooled.message == entry.message) {
            Decision::Record(vec![])
        } else if context.journal_accepts && self.spool_has_reserve() {
            Decision::Record(vec![Event::SpoolQueued { entry }])
        } else {
            Decision::Full
        }
    }

    /// What has been remembered long enough.
    pub(crate) fn decide_forget(&self, context: &Context<'_>) -> Option<Event> {
        let lower = context.lower?;
        let commands = self.commands_to_forget(lower);
        let surplus = self.checks_answered.len().saturating_sub(limits::CHECKS);
        let checks: Vec<_> =
            self.checks_answered.iter().take(surplus.min(limits::FORGOTTEN_AT_ONCE)).copied().collect();
        let informations: Vec<_> = self
            .informations
            .iter()
            .filter(|(_, information)| lower > information.expires_at.plus_ms(limits::INFORMATION_MARGIN_MS))
            .map(|(nonce, _)| *nonce)
            .take(limits::FORGOTTEN_AT_ONCE)
            .collect();
        let prompts = self.prompts_to_forget(lower);
        let codes = self.codes_to_forget(lower);
        let nothing = commands.is_empty()
            && checks.is_empty()
            && informations.is_empty()
            && prompts.is_empty()
            && codes.is_empty();
        (!nothing).then_some(Event::Forgotten { commands, checks, informations, prompts, codes })
    }

    /// Only above the count bound, and only what ended at least 48 h of cloud time ago. One that ended at an unknown
    /// time ended before the next one with a known time.
    fn commands_to_forget(&self, lower: Timestamp) -> Vec<schemas::ids::CommandId> {
        let surplus = (self.commands.len() + 1).saturating_sub(limits::COMMANDS);
        let mut sure = 0;
        let candidates: Vec<_> =
            self.ended.iter().take(surplus.min(limits::FORGOTTEN_AT_ONCE)).copied().collect();
        for (index, command) in candidates.iter().enumerate() {
            let at = match self.commands.get(command) {
                Some(CommandRecord::Ended { at, .. } | CommandRecord::Tombstone { at }) => *at,
                _ => None,
            };
            let Some(at) = at else { continue };
            if lower.ms_since(at) < limits::COMMAND_MEMORY_MS {
                break;
            }
            sure = index + 1;
        }
        candidates[..sure].to_vec()
    }

    /// Health checks that wait for cloud time.
    pub(crate) fn waiting_checks(&self) -> impl Iterator<Item = MessageId> {
        self.checks
            .iter()
            .filter(|(_, record)| matches!(record, CheckRecord::Waiting(_)))
            .map(|(answer, _)| *answer)
    }
}

/// Why a message is not understood.
pub(crate) enum Poison {
    Kind,
    Content(EnvelopeError),
    /// A kind that this platform has, and not this profile.
    Unexpected,
    /// Readable, and without something that it needs.
    Incomplete,
}

impl Poison {
    fn code(&self) -> Code {
        Code::known(match self {
            Poison::Kind => "kind_unknown",
            Poison::Content(error) => error.code(),
            Poison::Unexpected => "kind_unexpected",
            Poison::Incomplete => "payload_invalid",
        })
    }

    fn text(&self) -> Text {
        Text::new(match self {
            Poison::Kind => {
                "this release of the agent knows no message of this kind: update the agent".to_owned()
            }
            Poison::Content(error) => format!("the device cannot read this message: {error}"),
            Poison::Unexpected => {
                "a device with this profile has no use for this message: check the profile".to_owned()
            }
            Poison::Incomplete => "a code is for a QR code or a token, and a QR code comes along".to_owned(),
        })
    }
}

/// The id of a message whose rest is not understood, where it can be read.
fn message_id(payload: &[u8]) -> Option<MessageId> {
    #[derive(Deserialize)]
    struct IdOnly {
        id: MessageId,
    }
    cbor::decode::<IdOnly>(payload).ok().map(|only| only.id)
}

pub(crate) fn dead_letter_up(message: Option<MessageId>, about: Option<Code>, code: Code) -> Event {
    let letter = DeadLetter { direction: Direction::Up, message, about, code };
    Event::DeadLettered { letter, report: None }
}

/// A kind as a code: `-` is not in the alphabet of codes.
pub(crate) fn code_of_kind(kind: &str) -> Option<Code> {
    kind.replace('-', "_").parse().ok()
}
