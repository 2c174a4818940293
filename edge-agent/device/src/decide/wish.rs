//! Wishes: make one, take one back (PC-12). Both are kept until the cloud promises them, so that they may be made offline.

use schemas::ids::{PrincipalId, WishId};
use schemas::message::WishState;
use schemas::wire::Text;

use super::Context;
use crate::event::Event;
use crate::limits;
use crate::state::{OwnStanding, State};

/// The child has a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WishRequest {
    /// Comes back with the result.
    pub ticket: u64,
    /// The guardian of its choice.
    pub to: PrincipalId,
    /// In its words, 1 to [`schemas::limits::TEXT_BYTES`].
    pub text: String,
}

/// Why a wish, or taking one back, changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishRefusal {
    /// The cloud has not told it yet.
    #[error("this piggy bank does not know yet which child uses it: connect it, then try again")]
    NoChild,
    /// Nothing to read.
    #[error("a wish has words: write what you wish for")]
    TextEmpty,
    /// More than a message takes.
    #[error("a wish has at most 512 bytes: say it in fewer words")]
    TextTooLong,
    /// The profile asks no child.
    #[error("only a piggy bank has wishes: check the profile")]
    NotAPiggyBank,
    /// They wait to be sent.
    #[error("too many wishes wait to be sent: check the connection with `edge-agent check`")]
    TooManyWaiting,
    /// No room for new work.
    #[error("there is no room for a wish now: free disk space, or check the connection")]
    NoRoom,
    /// Never made here, and not in what the cloud shows.
    #[error("there is no wish {0}: `edge-agent wish list` shows them")]
    NoSuchWish(WishId),
    /// It waits for nothing.
    #[error("this wish is {0}: it can't be taken back")]
    Over(WishState),
}

impl WishRefusal {
    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            WishRefusal::NoChild => "no_child",
            WishRefusal::TextEmpty => "text_empty",
            WishRefusal::TextTooLong => "text_too_long",
            WishRefusal::NotAPiggyBank => "not_a_piggy_bank",
            WishRefusal::TooManyWaiting => "too_many_wishes",
            WishRefusal::NoRoom => "no_room",
            WishRefusal::NoSuchWish(_) => "no_such_wish",
            WishRefusal::Over(_) => "wish_ended",
        }
    }
}

impl State {
    /// Whether the guardian is one is for the cloud to say: bonds change.
    pub(crate) fn decide_wish(
        &self,
        context: &Context<'_>,
        to: &PrincipalId,
        text: &str,
    ) -> Result<(WishId, Event), WishRefusal> {
        self.check_piggy_bank(context)?;
        let child = self.child_view.as_ref().map(|view| &view.child).ok_or(WishRefusal::NoChild)?;
        if text.trim().is_empty() {
            return Err(WishRefusal::TextEmpty);
        }
        if text.len() > schemas::limits::TEXT_BYTES {
            return Err(WishRefusal::TextTooLong);
        }
        if self.wishes.waiting() >= limits::WISHES_WAITING {
            return Err(WishRefusal::TooManyWaiting);
        }
        self.check_room(context)?;
        let (to, text) = (to.clone(), Text::new(text));
        let (wish, report) = context.reporter.wish(self.wishes.made, child, &to, &text);
        Ok((wish, Event::WishMade { wish, to, text, report }))
    }

    /// One that the cloud has not taken in is only forgotten.
    pub(crate) fn decide_wish_withdraw(
        &self,
        context: &Context<'_>,
        wish: WishId,
    ) -> Result<Event, WishRefusal> {
        self.check_piggy_bank(context)?;
        let own = self.wishes.find(wish).map(|own| &own.standing);
        if let Some(OwnStanding::Refused(_)) = own {
            return Ok(Event::WishWithdrawn { wish, report: None });
        }
        let shown = self.child_view.iter().flat_map(|view| view.wishes.iter());
        let shown = shown.flat_map(|wishes| wishes.iter()).find(|shown| shown.wish == wish);
        match shown.map(|shown| shown.state) {
            None if own.is_none() => return Err(WishRefusal::NoSuchWish(wish)),
            // Whether it was ordered meanwhile, the cloud knows better.
            None | Some(WishState::Open | WishState::Ordered) => {}
            Some(state) => return Err(WishRefusal::Over(state)),
        }
        self.check_room(context)?;
        Ok(Event::WishWithdrawn { wish, report: Some(context.reporter.wish_withdraw(wish)) })
    }

    fn check_piggy_bank(&self, context: &Context<'_>) -> Result<(), WishRefusal> {
        context.profile.prompt.as_ref().map(|_| ()).ok_or(WishRefusal::NotAPiggyBank)
    }

    fn check_room(&self, context: &Context<'_>) -> Result<(), WishRefusal> {
        let has_room = context.journal_accepts && self.spool_has_room();
        if has_room { Ok(()) } else { Err(WishRefusal::NoRoom) }
    }
}
