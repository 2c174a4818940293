//! The wishes of one child: what is remembered of them (PC-12). What is decided stands in `child/wish.rs`.

use std::collections::{BTreeMap, VecDeque};

use schemas::ids::{PaymentId, PrincipalId, WishId};
use schemas::message::{Keywords, ShownResult, WishKind, WishState};
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas::wire::Text;
use schemas_mutants::Mutant;
use serde::{Deserialize, Serialize};

use crate::limits;

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// To whom it was told.
    pub to: PrincipalId,
    /// In the child's words.
    pub text: Text,
    /// What it seems to be about: extracted when it was taken in.
    pub keywords: Keywords,
    /// What it costs, if the text says so.
    pub amount: Option<Money>,
    /// Whether it is something to buy.
    pub kind: WishKind,
    /// When it was taken in.
    pub at: Timestamp,
    /// Where it stands.
    pub state: WishState,
    /// What the guardian said.
    pub reason: Option<Text>,
    /// The payment that was ordered for it last.
    pub payment: Option<PaymentId>,
}

/// All that are remembered: those that wait, and the newest that have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    all: BTreeMap<WishId, Wish>,
    /// In order of their coming.
    waiting: VecDeque<WishId>,
    /// In order of their end.
    ended: VecDeque<WishId>,
    /// The last day that had a wish, and how many.
    day: i32,
    made: u32,
}

impl Wishes {
    /// One of them.
    pub fn find(&self, wish: WishId) -> Option<&Wish> {
        self.all.get(&wish)
    }

    /// Those that wait, the oldest first, and then those that have ended, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = (WishId, &Wish)> {
        let order = self.waiting.iter().chain(self.ended.iter().rev());
        order.filter_map(|id| self.all.get(id).map(|wish| (*id, wish)))
    }

    /// How many are on the wish list.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn made_on(&self, day: i32) -> u32 {
        if day == self.day { self.made } else { 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.made == 0
    }

    pub(crate) fn make(&mut self, id: WishId, wish: &Wish, day: i32) {
        if day != self.day {
            (self.day, self.made) = (day, 0);
        }
        self.made = self.made.saturating_add(1);
        self.all.insert(id, wish.clone());
        if is_waiting(wish.state) {
            self.waiting.push_back(id);
        } else {
            self.has_ended(id);
        }
    }

    pub(crate) fn end(&mut self, id: WishId, state: WishState, reason: Option<&Text>) {
        let Some(wish) = self.all.get_mut(&id).filter(|wish| is_waiting(wish.state)) else { return };
        wish.state = state;
        wish.reason = reason.cloned();
        if !is_waiting(state) {
            self.has_ended(id);
        }
    }

    /// A payment for it was ordered.
    pub(crate) fn ordered(&mut self, id: WishId, payment: PaymentId) {
        if let Some(wish) = self.all.get_mut(&id).filter(|wish| wish.state == WishState::Open) {
            wish.state = WishState::Ordered;
            wish.payment = Some(payment);
        }
    }

    /// That payment was made, or ended otherwise: then the wish waits again, if there is still whom to wait for.
    pub(crate) fn paid(&mut self, id: WishId, payment: PaymentId, was_made: bool, is_guarded: bool) {
        let is_this = |wish: &&mut Wish| wish.state == WishState::Ordered && wish.payment == Some(payment);
        let Some(wish) = self.all.get_mut(&id).filter(is_this) else { return };
        wish.state = match (was_made, is_guarded) {
            (true, _) => WishState::Granted,
            (false, true) if Mutant::WishNotReopened.is_active() => WishState::Ordered,
            (false, true) => WishState::Open,
            (false, false) => WishState::Ended,
        };
        if !is_waiting(wish.state) {
            self.has_ended(id);
        }
    }

    /// Wishes to somebody who is no guardian any more end; those that were ordered end with their payments.
    pub(crate) fn keep_those_to(&mut self, is_guardian: impl Fn(&PrincipalId) -> bool) {
        let lost = |wish: &Wish| wish.state == WishState::Open && !is_guardian(&wish.to);
        let ended: Vec<_> = self.iter().filter(|(_, wish)| lost(wish)).map(|(id, _)| id).collect();
        ended.into_iter().for_each(|id| self.end(id, WishState::Ended, None));
    }

    fn has_ended(&mut self, id: WishId) {
        self.waiting.retain(|waiting| *waiting != id);
        self.ended.push_back(id);
        while self.ended.len() > limits::ENDED_WISHES {
            if let Some(oldest) = self.ended.pop_front() {
                self.all.remove(&oldest);
            }
        }
    }
}

fn is_waiting(state: WishState) -> bool {
    matches!(state, WishState::Open | WishState::Ordered)
}

/// How a child's last payments ended, for its screen. The payments themselves leave memory when their retention ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results(VecDeque<(PaymentId, ShownResult)>);

impl Results {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest first.
    pub fn iter(&self) -> impl Iterator<Item = &ShownResult> {
        self.0.iter().rev().map(|(_, result)| result)
    }

    /// The newest word of a payment takes the place of an older one.
    pub(crate) fn add(&mut self, payment: PaymentId, result: ShownResult) {
        self.0.retain(|(known, _)| *known != payment);
        self.0.push_back((payment, result));
        while self.0.len() > schemas::limits::SHOWN_RESULTS {
            self.0.pop_front();
        }
    }
}
