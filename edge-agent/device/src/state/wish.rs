//! What a piggy bank remembers of its child's wishes until the cloud shows them (PC-12).

use std::collections::VecDeque;

use schemas::ids::{Code, MessageId, PrincipalId, WishId};
use schemas::message::ChildView;
use schemas::wire::Text;
use serde::{Deserialize, Serialize};

use crate::limits;

/// A wish that was made here and is not in the cloud's view yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnWish {
    pub(crate) wish: WishId,
    /// That carries it.
    pub(crate) message: MessageId,
    pub(crate) to: PrincipalId,
    pub(crate) text: Text,
    pub(crate) standing: OwnStanding,
    /// The child has taken it back, and the cloud may not know that yet.
    #[serde(default)]
    pub(crate) taken_back: bool,
}

/// Where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OwnStanding {
    /// It waits for the cloud's promise.
    Waiting,
    /// The cloud has it.
    Sent,
    /// The cloud has not taken it in.
    Refused(Code),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnWishes {
    /// Wishes that were ever made here: part of the next one's id.
    pub(crate) made: u64,
    /// In order of their making.
    pub(crate) own: VecDeque<OwnWish>,
}

impl OwnWishes {
    pub(crate) fn is_empty(&self) -> bool {
        self.made == 0
    }

    pub(crate) fn find(&self, wish: WishId) -> Option<&OwnWish> {
        self.own.iter().find(|own| own.wish == wish)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.own.iter().filter(|own| own.standing == OwnStanding::Waiting).count()
    }

    /// What the cloud has, or will not have, is forgotten when there is more of it than is shown.
    pub(super) fn make(&mut self, wish: OwnWish) {
        self.made += 1;
        self.own.push_back(wish);
        let over = |own: &OwnWish| own.standing != OwnStanding::Waiting;
        while self.own.len() > limits::WISHES_SHOWN
            && let Some(oldest) = self.own.iter().position(over)
        {
            self.own.remove(oldest);
        }
    }

    pub(super) fn promised(&mut self, message: MessageId) {
        if let Some(own) = self.own.iter_mut().find(|own| own.message == message) {
            own.standing = OwnStanding::Sent;
        }
    }

    /// The cloud says why in a message of its own, before or after the PUBACK: its word counts more.
    pub(super) fn refused(&mut self, message: MessageId, code: &Code) {
        let Some(own) = self.own.iter_mut().find(|own| own.message == message) else { return };
        let is_known =
            matches!(&own.standing, OwnStanding::Refused(code) if !code.as_str().starts_with("puback_"));
        if !is_known {
            own.standing = OwnStanding::Refused(code.clone());
        }
        // Nobody wants to know any more.
        self.own.retain(|own| own.message != message || !own.taken_back);
    }

    pub(super) fn take_back(&mut self, wish: WishId) {
        self.own.iter_mut().filter(|own| own.wish == wish).for_each(|own| own.taken_back = true);
    }

    pub(super) fn forget(&mut self, wish: WishId) {
        self.own.retain(|own| own.wish != wish);
    }

    /// What the cloud shows is the cloud's to tell. And what another child has wished for is not for this one to read.
    pub(super) fn shown(&mut self, view: &ChildView, is_other: bool) {
        if is_other {
            return self.own.clear();
        }
        let in_view = |own: &OwnWish| {
            view.wishes.iter().flat_map(|shown| shown.iter()).any(|shown| shown.wish == own.wish)
        };
        self.own.retain(|own| own.standing == OwnStanding::Waiting || !in_view(own));
    }
}
