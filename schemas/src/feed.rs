//! The read-only feed: what observers of a tenant hear. Best effort by contract: whoever must not miss anything reads
//! the journal. No payment names its payer. Presence and `state` name every principal of the tenant, people's terminals
//! too, with what they said themselves: an observer is somebody whom the tenant shows this.
//!
//! An event goes out twice, as CBOR on `ft/{tenant}/feed/{kind}` and as JSON on `ft/{tenant}/feed/json/{kind}`; a
//! [`PresenceEvent`] also as CBOR on the `state` of its principal.

use serde::{Deserialize, Serialize};

use crate::cbor;
use crate::ids::{Code, Instance, ItemId, MerchantId, PaymentId, Principal};
use crate::message::PaymentState;
use crate::money::Money;
use crate::time::Timestamp;
use crate::topic::{FeedFormat, FeedKind};
use crate::wire::{Described, Field, Text, wire, wire_enum};

/// The version of every event in this release.
pub const FEED_VERSION: u32 = 1;

wire! {
    /// A payment began, or came to another state.
    pub struct PaymentEvent {
        /// Which payment.
        pub payment: PaymentId,
        /// Its state.
        pub state: PaymentState,
        /// Who is paid.
        pub merchant: MerchantId,
        /// Through which chip.
        pub chip: Principal,
        /// What is bought.
        pub item: ItemId,
        /// Units ordered.
        pub quantity: u32,
        /// Units delivered.
        pub delivered: u32,
        /// The amount of the order.
        pub amount: Money,
        /// What is paid now, after everything that went back.
        pub paid: Money,
        /// Why, where there is something to explain.
        pub reason: Option<Code>,
        /// When it began.
        pub opened_at: Timestamp,
        /// When it came to this state.
        pub at: Timestamp,
    }
}
wire_enum! {
    /// What became of an entry of the exceptions queue.
    pub enum ExceptionChange {
        /// It waits for an operator.
        Raised = "raised",
        /// Nothing is to be done any more.
        Resolved = "resolved",
    }
}
wire! {
    /// An entry of the exceptions queue came or went (MO-9).
    pub struct ExceptionEvent {
        /// Of which payment.
        pub payment: PaymentId,
        /// Which case; all of this payment if left out.
        pub case: Option<Code>,
        /// What became of it.
        pub change: ExceptionChange,
        /// When.
        pub at: Timestamp,
    }
}
wire_enum! {
    /// What became of a device.
    pub enum DeviceChange {
        /// It may enrol.
        Registered = "registered",
        /// It has a (new) certificate.
        Enrolled = "enrolled",
        /// It may no longer connect.
        Revoked = "revoked",
        /// It is not registered any more, and its name is not given again.
        Deleted = "deleted",
    }
}
wire! {
    /// A device's standing changed.
    pub struct DeviceEvent {
        /// Which device.
        pub device: Principal,
        /// What became of it.
        pub change: DeviceChange,
        /// Number of its current enrolment, 0 before the first; left out once it is deleted.
        pub instance: Option<Instance>,
        /// When.
        pub at: Timestamp,
    }
}
wire_enum! {
    /// Whether somebody is there.
    pub enum PresenceState {
        /// A connection stands.
        Connected = "connected",
        /// It has ended.
        Disconnected = "disconnected",
        /// Not seen since the core's start: nobody knows (correctness.md 13).
        Unknown = "unknown",
    }
}
wire! {
    /// The presence of a principal, as it is now. Volatile: a later one takes the place of an earlier one.
    pub struct PresenceEvent {
        /// Who.
        pub principal: Principal,
        /// Whether it is there.
        pub presence: PresenceState,
        /// Since when; left out where that is unknown.
        pub since: Option<Timestamp>,
        /// What it last said of itself on `state`, or left as its will.
        pub said: Option<Text>,
    }
}
wire! {
    /// This observer did not get everything: it was too slow, or the feed was rebuilt.
    pub struct LostEvent {
        /// At least so many events were lost since the last one that arrived.
        pub count: u64,
    }
}

macro_rules! events {
    ($($variant:ident($type:ty),)*) => {
        /// One event. Its kind stands in the topic.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum FeedEvent { $(#[doc = concat!("On `", stringify!($variant), "` topics.")] $variant($type),)* }

        impl FeedEvent {
            /// The last level of its topics.
            pub fn kind(&self) -> FeedKind {
                match self { $(FeedEvent::$variant(_) => FeedKind::$variant,)* }
            }

            /// As it is published.
            pub fn encode(&self, format: FeedFormat) -> Vec<u8> {
                match self { $(FeedEvent::$variant(body) => encode(body, format),)* }
            }

            /// Reads an event of this kind, as an observer does.
            ///
            /// # Errors
            /// Not CBOR of this kind and version.
            pub fn decode(kind: FeedKind, payload: &[u8]) -> Result<Self, cbor::CborError> {
                match kind { $(FeedKind::$variant => decode::<$type>(payload).map(FeedEvent::$variant),)* }
            }

            /// The documents list every event from here.
            pub(crate) fn describe() -> Vec<(FeedKind, &'static str, &'static str, Vec<Field>)> {
                vec![$((FeedKind::$variant, <$type>::NAME, <$type>::DOC, <$type>::fields()),)*]
            }
        }
    };
}

events! {
    Payment(PaymentEvent),
    Exception(ExceptionEvent),
    Device(DeviceEvent),
    Presence(PresenceEvent),
    Lost(LostEvent),
}

/// What is around every event.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Versioned<B> {
    v: u32,
    body: B,
}

fn encode<B: Serialize>(body: &B, format: FeedFormat) -> Vec<u8> {
    let event = Versioned { v: FEED_VERSION, body };
    match format {
        FeedFormat::Cbor => cbor::encode(&event),
        // Cannot fail for our types: every one has a golden sample in both formats.
        FeedFormat::Json => serde_json::to_vec(&event).unwrap_or_default(),
    }
}

fn decode<B: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<B, cbor::CborError> {
    let event: Versioned<B> = cbor::decode(payload)?;
    if event.v == FEED_VERSION {
        Ok(event.body)
    } else {
        Err(cbor::CborError::Content(format!("version {} of the feed is not read here", event.v)))
    }
}
