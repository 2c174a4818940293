//! Wishes (PC-12): a child tells a guardian of its choice what it would like. What the words say is extracted once, when
//! the wish is taken in, and is in its event: replay never reads them again.
//!
//! ```text
//! piggy bank: wish ─ no purchase word ─> Delivered, as a message
//!                  └ a purchase word ──> Open ──payment-order that names it──> Ordered ──paid──> Granted
//!                                         ^ │ wish-decline ──> Declined           │
//!                                         │ │ wish-withdraw ─> Withdrawn          │
//!                                         │ └ bond ended ────> Ended              │
//!                                         └──── the payment ended unpaid ─────────┘
//! ```
//!
//! | facts | the wish | who is told |
//! |---|---|---|
//! | said at a piggy bank that another child uses by then, or that still showed another one | not taken in, `other_child` | nobody: it is shown to no other child |
//! | to somebody who is no guardian of this child | not taken in, `guardian_unknown` | the child |
//! | [`limits::WISHES_OF_DAY`] today, or [`limits::OPEN_WISHES`] on the list | not taken in, `too_many_wishes_today`, `too_many_wishes` | the child |
//! | without a purchase word | delivered | the guardian, as a message |
//! | ordered, and the child confirms | granted; it stays so if the money is given back later | as the order says |
//! | ordered, and the payment ends unpaid, whatever the reason | open again | as the order says |
//! | declined while open | declined, with the guardian's reason | the child |
//! | declined or withdrawn while ordered | unchanged, refused `wish_ordered` | who asked |
//! | taken back at a piggy bank that another child uses by then | unchanged, refused `wish_unknown` | the child sees it where it is now |
//! | whom it was told is no guardian any more | ended, if it waited; with its payment, if one was ordered | the child |
//!
//! The child reads all of it in its `child-view`; nothing of a wish moves money by itself.

use schemas::ids::{MessageId, Principal, WishId};
use schemas::message::{self, Down, ShownWish, WishDecline, WishKind, WishNotice, WishState};
use schemas::wire::Text;
use schemas_mutants::Mutant;

use super::ChildFlow;
use super::words::Words;
use crate::children::{Child, Wish};
use crate::event::Event;
use crate::limits;
use crate::rejection::Rejection;

impl<'a> ChildFlow<'a> {
    /// The ladder, in this order: whose piggy bank it is, whether the wish is known, what it says, to whom, how many
    /// there are.
    pub(crate) fn wish(
        &mut self,
        device: &Principal,
        said: &message::Wish,
        words: &Words,
    ) -> Result<(), Rejection> {
        let (child, found) = self.child_at(device)?;
        if said.child != child.id {
            let text = format!("this piggy bank is not used by `{}` any more", said.child);
            return Err(Rejection::new("other_child", text));
        }
        if found.wishes.find(said.wish).is_some() {
            return Ok(());
        }
        if said.text.as_str().trim().is_empty() {
            return Err(Rejection::new("text_empty", "a wish has words"));
        }
        if !found.bonds.guardians.contains(&said.to) && !Mutant::WishToAnybody.is_active() {
            let text = format!("`{}` is not registered as your guardian: choose another one", said.to);
            return Err(Rejection::new("guardian_unknown", text));
        }
        let day = found.local_time(self.now).day;
        if found.wishes.made_on(day) >= limits::WISHES_OF_DAY {
            return Err(Rejection::new(
                "too_many_wishes_today",
                "enough wishes for today: wait for tomorrow",
            ));
        }
        let currency = self.cloud.registry.tenant(&child.tenant).map(|tenant| tenant.currency);
        let meaning = words.read(said.text.as_str(), currency);
        let state = if meaning.is_purchase { WishState::Open } else { WishState::Delivered };
        if meaning.is_purchase && found.wishes.waiting() >= limits::OPEN_WISHES {
            let text = "your wish list is full: take a wish back, or wait for an answer";
            return Err(Rejection::new("too_many_wishes", text));
        }
        let wish = Wish {
            to: said.to.clone(),
            text: said.text.clone(),
            keywords: meaning.keywords,
            amount: meaning.amount,
            kind: if meaning.is_purchase { WishKind::Purchase } else { WishKind::Message },
            at: self.now,
            state,
            reason: None,
            payment: None,
        };
        self.tell_wish(&child, said.wish, &wish, state);
        self.out.shown.push(child.clone());
        self.out.event(Event::WishMade { child, id: said.wish, wish, day });
        Ok(())
    }

    /// The child does not wish for it any more.
    pub(crate) fn withdraw_wish(&mut self, device: &Principal, id: WishId) -> Result<(), Rejection> {
        let (child, found) = self.child_at(device)?;
        let wish = found.wishes.find(id);
        let wish = wish.ok_or_else(|| Rejection::new("wish_unknown", "there is no such wish"))?;
        match wish.state {
            WishState::Open => {
                self.withdraw_notice(&child, id, wish);
                self.tell_wish(&child, id, wish, WishState::Withdrawn);
                self.end_wish(child, id, WishState::Withdrawn, None);
                Ok(())
            }
            WishState::Withdrawn => Ok(()),
            WishState::Ordered => {
                Err(Rejection::new("wish_ordered", "your guardian has ordered it: answer the question"))
            }
            _ => Err(wish_ended()),
        }
    }

    /// A guardian says no. The same again changes nothing.
    pub(crate) fn decline_wish(
        &mut self,
        guardian: &Principal,
        decline: &WishDecline,
    ) -> Result<(), Rejection> {
        let (child, found) = self.guarded(guardian, &decline.child)?;
        let wish = wish_to(found, guardian, decline.wish)?;
        let reason = &decline.reason;
        match wish.state {
            WishState::Open if reason.as_str().trim().is_empty() => {
                Err(Rejection::new("text_empty", "say why: the child reads it"))
            }
            WishState::Open => {
                self.withdraw_notice(&child, decline.wish, wish);
                self.end_wish(child, decline.wish, WishState::Declined, Some(reason.clone()));
                Ok(())
            }
            WishState::Declined if wish.reason.as_ref() == Some(reason) => Ok(()),
            WishState::Ordered => {
                let text = "a payment for it is under way: cancel that first";
                Err(Rejection::new("wish_ordered", text))
            }
            _ => Err(wish_ended()),
        }
    }

    /// That this guardian may order this wish now.
    pub(super) fn check_wish(
        &self,
        guardian: &Principal,
        child: &Child,
        id: WishId,
    ) -> Result<(), Rejection> {
        match wish_to(child, guardian, id)?.state {
            WishState::Open => Ok(()),
            WishState::Ordered if Mutant::WishOrderedTwice.is_active() => Ok(()),
            WishState::Ordered => {
                Err(Rejection::new("wish_ordered", "a payment for it is under way: wait for its end"))
            }
            _ => Err(wish_ended()),
        }
    }

    /// Everything that waits for a guardian is told again, unless it is still owed.
    pub(crate) fn offer_wishes(&mut self, guardian: &Principal) {
        let cloud = self.cloud;
        let mut offered = 0;
        for (child, found) in cloud.registry.children_of(guardian) {
            for (id, wish) in found.wishes.iter() {
                // What is owed already is not given up for what is only told again.
                if !cloud.outbox.has_room(guardian, offered + 1) {
                    return;
                }
                let is_mine = wish.to == guardian.id && wish.state == WishState::Open;
                let owed = self.cloud.outbox.contains(guardian, notice_id(child, id, wish, wish.state));
                if is_mine && !owed {
                    offered += 1;
                    self.tell_wish(child, id, wish, wish.state);
                }
            }
        }
    }

    /// Who is no guardian any more reads nothing of the child any more.
    pub(super) fn withdraw_notices(
        &mut self,
        child: &Principal,
        former: &Child,
        is_guardian: impl Fn(&Wish) -> bool,
    ) {
        for (id, wish) in former.wishes.iter().filter(|(_, wish)| !is_guardian(wish)) {
            self.withdraw_notice(child, id, wish);
        }
    }

    /// Who has decided about a wish needs not be told of it any more.
    pub(super) fn withdraw_notice_of(&mut self, child: &Principal, id: WishId) {
        let cloud = self.cloud;
        let wish = cloud.registry.child(child).and_then(|found| found.wishes.find(id));
        wish.into_iter().for_each(|wish| self.withdraw_notice(child, id, wish));
    }

    fn child_at(&self, device: &Principal) -> Result<(Principal, &'a Child), Rejection> {
        let registry = &self.cloud.registry;
        let child = registry.child_using(device);
        let found = child.and_then(|child| Some((child.clone(), registry.child(child)?)));
        found.ok_or_else(|| {
            Rejection::new("not_a_piggy_bank", "no child uses this piggy bank: ask the operator to bind it")
        })
    }

    fn end_wish(&mut self, child: Principal, id: WishId, state: WishState, reason: Option<Text>) {
        self.out.shown.push(child.clone());
        self.out.event(Event::WishEnded { child, id, state, reason });
    }

    fn tell_wish(&mut self, child: &Principal, id: WishId, wish: &Wish, state: WishState) {
        let guardian = Principal { tenant: child.tenant.clone(), id: wish.to.clone() };
        let notice = WishNotice {
            wish: id,
            child: child.id.clone(),
            text: wish.text.clone(),
            keywords: wish.keywords.clone(),
            amount: wish.amount,
            kind: wish.kind,
            state,
            at: wish.at,
        };
        let until = self.now.plus_ms(limits::WISH_LIFE_MS);
        self.out.owe(self.cloud, &guardian, notice_id(child, id, wish, state), Down::Wish(notice), until);
    }

    /// It was not fetched, and is not so any more.
    fn withdraw_notice(&mut self, child: &Principal, id: WishId, wish: &Wish) {
        let guardian = Principal { tenant: child.tenant.clone(), id: wish.to.clone() };
        for state in [WishState::Open, WishState::Delivered, WishState::Withdrawn] {
            let message = notice_id(child, id, wish, state);
            if self.cloud.outbox.contains(&guardian, message) {
                self.out.withdraw(&guardian, message, "superseded");
            }
        }
    }
}

/// As the child sees it.
pub(super) fn shown(id: WishId, wish: &Wish) -> ShownWish {
    ShownWish {
        wish: id,
        to: wish.to.clone(),
        text: shortened(wish.text.as_str(), schemas::limits::SHOWN_WISH_BYTES),
        state: wish.state,
        reason: wish
            .reason
            .as_ref()
            .map(|text| shortened(text.as_str(), schemas::limits::SHOWN_REASON_BYTES)),
    }
}

/// At most so many bytes, with an ellipsis where something is left out.
pub(crate) fn shortened(text: &str, most_bytes: usize) -> Text {
    const ELLIPSIS: char = '\u{2026}';
    if text.len() <= most_bytes {
        return Text::new(text);
    }
    let mut short = String::new();
    for c in text.chars() {
        if short.len() + c.len_utf8() + ELLIPSIS.len_utf8() > most_bytes {
            break;
        }
        short.push(c);
    }
    short.push(ELLIPSIS);
    Text::new(short)
}

fn wish_to<'a>(child: &'a Child, guardian: &Principal, id: WishId) -> Result<&'a Wish, Rejection> {
    let wish = child.wishes.find(id).filter(|wish| wish.to == guardian.id);
    wish.ok_or_else(|| Rejection::new("wish_unknown", "this child has told you no such wish, or long ago"))
}

fn wish_ended() -> Rejection {
    Rejection::new("wish_ended", "this wish waits for nothing any more")
}

fn notice_id(child: &Principal, id: WishId, wish: &Wish, state: WishState) -> MessageId {
    let (child, to) = (child.to_string(), wish.to.as_str());
    MessageId::derived("wish", &[child.as_bytes(), to.as_bytes(), &id.0, state.as_str().as_bytes()])
}
