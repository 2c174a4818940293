//! What a child wishes for, and what becomes of it (PC-12); what has become of its payments.

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json};

use super::PaymentState;
use super::child::{ChildMessageError, short_list, value_on_the_wire};
use crate::ids::{PrincipalId, WishId};
use crate::limits;
use crate::money::Money;
use crate::time::Timestamp;
use crate::wire::{Text, WireType, wire, wire_enum};

wire! {
    /// Piggy bank to cloud: the child has a wish (PC-12). What is not accepted is answered with `refused`.
    pub struct Wish {
        /// Made by the piggy bank; the same wish is taken in once.
        pub wish: WishId,
        /// Whose: the child that the piggy bank was showing. It may be used by another one when this arrives.
        pub child: PrincipalId,
        /// The guardian of the child's choice.
        pub to: PrincipalId,
        /// In the child's words.
        pub text: Text,
    }
}
wire! {
    /// Piggy bank to cloud: the child does not wish for it any more.
    pub struct WishWithdraw {
        /// Which wish.
        pub wish: WishId,
    }
}
wire! {
    /// A guardian will not fulfil a wish. The child reads why.
    pub struct WishDecline {
        /// Whose wish.
        pub child: PrincipalId,
        /// Which one.
        pub wish: WishId,
        /// For the child to read.
        pub reason: Text,
    }
}
wire_enum! {
    /// What a wish is, by its words (PC-12).
    pub enum WishKind {
        /// Something to buy: it is on the child's wish list, and the guardian can order it.
        Purchase = "purchase",
        /// Something to say.
        Message = "message",
    }
}
wire_enum! {
    /// Where a wish stands. All but the first two are final.
    pub enum WishState {
        /// It waits for the guardian.
        Open = "open",
        /// A payment for it was ordered, and the child is asked.
        Ordered = "ordered",
        /// The payment was made.
        Granted = "granted",
        /// The guardian said no.
        Declined = "declined",
        /// The child does not wish for it any more.
        Withdrawn = "withdrawn",
        /// Whom it was told is no guardian any more.
        Ended = "ended",
        /// It was a message.
        Delivered = "delivered",
    }
}
wire! {
    /// Cloud to guardian: a child's wish. Order it with a `payment-order` that names it, or decline it.
    pub struct WishNotice {
        /// Which wish.
        pub wish: WishId,
        /// Whose.
        pub child: PrincipalId,
        /// In the child's words.
        pub text: Text,
        /// What it seems to be about, in the order of the text.
        pub keywords: Keywords,
        /// What it costs, if the text says so and can mean nothing else.
        pub amount: Option<Money>,
        /// Whether it is something to buy.
        pub kind: WishKind,
        /// Where it stands.
        pub state: WishState,
        /// When the cloud heard of it.
        pub at: Timestamp,
    }
}

/// A wish as the child sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownWish {
    /// Which.
    pub wish: WishId,
    /// To whom.
    pub to: PrincipalId,
    /// Its beginning, at most [`limits::SHOWN_WISH_BYTES`].
    pub text: Text,
    /// Where it stands.
    pub state: WishState,
    /// What the guardian said, at most [`limits::SHOWN_REASON_BYTES`].
    pub reason: Option<Text>,
}

/// What became of a payment, as the child sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownResult {
    /// What it was for: the guardian's note, or its categories, at most [`limits::SHOWN_WISH_BYTES`].
    pub what: Text,
    /// What was to be paid.
    pub amount: Money,
    /// How it ended.
    pub state: PaymentState,
    /// When.
    pub at: Timestamp,
}

short_list! {
    #[doc = "Words that say what a text is about, at most [`limits::KEYWORDS`]."]
    Keywords of Text, at most limits::KEYWORDS;
    #[doc = "Wishes that a child sees, at most [`limits::SHOWN_WISHES`]: those that wait first, then the newest."]
    ShownWishes of ShownWish, at most limits::SHOWN_WISHES;
    #[doc = "Results that a child sees, at most [`limits::SHOWN_RESULTS`], the newest first."]
    ShownResults of ShownResult, at most limits::SHOWN_RESULTS;
}

value_on_the_wire! {
    Keywords => "[*8 text-512]", { "type": "array", "maxItems": 8, "items": { "type": "string" } };
    ShownWishes => "[*22 shown-wish]", {
        "type": "array", "maxItems": 22,
        "items": { "type": "object", "required": ["wish", "to", "text", "state"], "properties": {
            "wish": { "type": "string" }, "to": { "type": "string" }, "text": { "type": "string" },
            "state": WishState::json_schema(), "reason": { "type": "string" }
        } }
    };
    ShownResults => "[*5 shown-result]", {
        "type": "array", "maxItems": 5,
        "items": { "type": "object", "required": ["what", "amount", "state", "at"], "properties": {
            "what": { "type": "string" }, "amount": { "type": "string" },
            "state": { "type": "string" }, "at": { "type": "integer" }
        } }
    };
}
