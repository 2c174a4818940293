//! Every topic there is, who may publish to it and who may subscribe.
//!
//! ```text
//! ft/{tenant}/{principal}/up/{kind}      what this principal says to the cloud
//! ft/{tenant}/{principal}/down/{kind}    what the cloud says to it
//! ft/{tenant}/{principal}/state          presence
//! ft/{tenant}/feed/{kind}                read-only events for observers
//! ```
//!
//! The right to use a topic follows from the authenticated identity, never from what is asked for (PL-1).
//!
//! ```
//! use schemas::topic::{Kind, Topic};
//! let topic: Topic = "ft/acme/chip-7/up/health-check".parse().unwrap();
//! assert!(topic.may_be_published_by(&"acme/chip-7".parse().unwrap()));
//! assert!(!topic.may_be_published_by(&"acme/chip-8".parse().unwrap()));
//! assert_eq!(topic.to_string(), "ft/acme/chip-7/up/health-check");
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ids::{Principal, TenantId};

/// First level of every topic.
pub const ROOT: &str = "ft";

/// Why a topic or filter was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not of one of the four forms.
    #[error(
        "not a topic of this platform: ft/TENANT/PRINCIPAL/up/KIND, .../down/KIND, .../state, ft/TENANT/feed/KIND"
    )]
    Form,
    /// A kind that does not exist.
    #[error("no message of this kind exists")]
    Kind,
    /// A kind that exists, in the other direction.
    #[error("messages of this kind do not go in this direction")]
    Direction,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal, up: $up:literal, down: $down:literal;)*) => {
        /// Every kind of message between a principal and the cloud. Texts are never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The last level of its topics.
            pub fn as_str(self) -> &'static str {
                match self { $(Kind::$name => $text,)* }
            }

            /// Whether a principal may send it to the cloud.
            pub fn may_go_up(self) -> bool {
                match self { $(Kind::$name => $up,)* }
            }

            /// Whether the cloud may send it to a principal.
            pub fn may_go_down(self) -> bool {
                match self { $(Kind::$name => $down,)* }
            }
        }
    };
}

kinds! {
    /// A payer's terminal hands in a payment information that it has read (CP-2).
    PaymentRequest = "payment-request", up: true, down: false;
    /// A payer withdraws a payment.
    PaymentCancel = "payment-cancel", up: true, down: false;
    /// A merchant gives a completed payment back (CP-16).
    PaymentRefund = "payment-refund", up: true, down: false;
    /// The answer to one of the three requests above.
    RequestAnswer = "request-answer", up: false, down: true;
    /// Did this chip issue exactly this, and is it ready? (CP-3)
    HealthCheck = "health-check", up: true, down: true;
    /// Payee and amount for the payer to verify; the signed verification (CP-4, CP-5).
    PaymentVerification = "payment-verification", up: true, down: true;
    /// What has become of a payment (CP-10, CP-12, CP-16).
    PaymentStatus = "payment-status", up: false, down: true;
    /// Act; and what came of it (CP-8 to CP-11).
    ExecutorCommand = "executor-command", up: true, down: true;
    /// What became of that command? (correctness.md 15)
    CommandStatus = "command-status", up: true, down: true;
    /// What time is it? (correctness.md 14)
    CloudTime = "cloud-time", up: true, down: true;
    /// A person's terminal asks for everything that waits for its answer.
    StatusRequest = "status-request", up: true, down: false;
    /// How a device is: periodically, and when it changes (CP-17).
    DeviceReport = "device-report", up: true, down: false;
    /// This message was not accepted, and why.
    Refused = "refused", up: true, down: true;
}

impl FromStr for Kind {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        Kind::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or(TopicError::Kind)
    }
}
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Events for observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FeedKind {
    /// A payment changed its state.
    Payment,
}

impl FeedKind {
    /// All kinds.
    pub const ALL: &'static [FeedKind] = &[FeedKind::Payment];

    /// The last level of its topics.
    pub fn as_str(self) -> &'static str {
        match self {
            FeedKind::Payment => "payment",
        }
    }
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What `principal` says to the cloud.
    Up {
        /// Who speaks.
        principal: Principal,
        /// About what.
        kind: Kind,
    },
    /// What the cloud says to `principal`.
    Down {
        /// Who is spoken to.
        principal: Principal,
        /// About what.
        kind: Kind,
    },
    /// The presence of `principal`.
    State {
        /// Whose.
        principal: Principal,
    },
    /// Read-only events of `tenant`.
    Feed {
        /// Whose events.
        tenant: TenantId,
        /// Which events.
        kind: FeedKind,
    },
}

impl Topic {
    /// Only below one's own `up/`, and one's own `state`.
    pub fn may_be_published_by(&self, by: &Principal) -> bool {
        match self {
            Topic::Up { principal, .. } | Topic::State { principal } => principal == by,
            Topic::Down { .. } | Topic::Feed { .. } => false,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Up { principal, kind } => write!(f, "{ROOT}/{principal}/up/{kind}"),
            Topic::Down { principal, kind } => write!(f, "{ROOT}/{principal}/down/{kind}"),
            Topic::State { principal } => write!(f, "{ROOT}/{principal}/state"),
            Topic::Feed { tenant, kind } => write!(f, "{ROOT}/{tenant}/feed/{}", kind.as_str()),
        }
    }
}

impl FromStr for Topic {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        let mut levels = [""; 5];
        let count = split_levels(text, &mut levels)?;
        let principal = |tenant: &str, id: &str| -> Result<Principal, TopicError> {
            Ok(Principal {
                tenant: tenant.parse().map_err(|_| TopicError::Form)?,
                id: id.parse().map_err(|_| TopicError::Form)?,
            })
        };
        match levels[..count] {
            [ROOT, tenant, id, "up", kind] => {
                let (principal, kind) = (principal(tenant, id)?, kind.parse::<Kind>()?);
                if kind.may_go_up() { Ok(Topic::Up { principal, kind }) } else { Err(TopicError::Direction) }
            }
            [ROOT, tenant, id, "down", kind] => {
                let (principal, kind) = (principal(tenant, id)?, kind.parse::<Kind>()?);
                if kind.may_go_down() {
                    Ok(Topic::Down { principal, kind })
                } else {
                    Err(TopicError::Direction)
                }
            }
            [ROOT, tenant, "feed", kind] => Ok(Topic::Feed {
                tenant: tenant.parse().map_err(|_| TopicError::Form)?,
                kind: *FeedKind::ALL.iter().find(|k| k.as_str() == kind).ok_or(TopicError::Kind)?,
            }),
            [ROOT, tenant, id, "state"] => Ok(Topic::State { principal: principal(tenant, id)? }),
            _ => Err(TopicError::Form),
        }
    }
}

fn split_levels<'a>(text: &'a str, levels: &mut [&'a str; 5]) -> Result<usize, TopicError> {
    let mut count = 0;
    for level in text.split('/') {
        *levels.get_mut(count).ok_or(TopicError::Form)? = level;
        count += 1;
    }
    Ok(count)
}

/// What a principal may subscribe to: its own `down/`, by kind or whole. Any other filter does not parse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// `ft/{tenant}/{principal}/down/{kind}`
    DownKind {
        /// Whose.
        principal: Principal,
        /// Which.
        kind: Kind,
    },
    /// `ft/{tenant}/{principal}/down/+` or `.../down/#`
    DownAll {
        /// Whose.
        principal: Principal,
    },
}

impl Filter {
    /// Only below one's own `down/`.
    pub fn permitted_for(&self, subscriber: &Principal) -> bool {
        match self {
            Filter::DownKind { principal, .. } | Filter::DownAll { principal } => principal == subscriber,
        }
    }

    /// Whether a message of `kind` to the filter's principal matches.
    pub fn matches(&self, kind: Kind) -> bool {
        match self {
            Filter::DownKind { kind: wanted, .. } => *wanted == kind,
            Filter::DownAll { .. } => true,
        }
    }
}

impl FromStr for Filter {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        if let Some(prefix) = text.strip_suffix("/down/#").or_else(|| text.strip_suffix("/down/+")) {
            let principal = prefix.strip_prefix("ft/").ok_or(TopicError::Form)?;
            return Ok(Filter::DownAll { principal: principal.parse().map_err(|_| TopicError::Form)? });
        }
        match text.parse()? {
            Topic::Down { principal, kind } => Ok(Filter::DownKind { principal, kind }),
            _ => Err(TopicError::Form),
        }
    }
}
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Filter::DownKind { principal, kind } => write!(f, "{ROOT}/{principal}/down/{kind}"),
            Filter::DownAll { principal } => write!(f, "{ROOT}/{principal}/down/+"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn every_topic() -> Vec<Topic> {
        let principal: Principal = "acme/chip-7".parse().unwrap();
        let mut topics = vec![Topic::State { principal: principal.clone() }];
        for &kind in Kind::ALL {
            if kind.may_go_up() {
                topics.push(Topic::Up { principal: principal.clone(), kind });
            }
            if kind.may_go_down() {
                topics.push(Topic::Down { principal: principal.clone(), kind });
            }
        }
        let tenant = principal.tenant;
        topics.extend(FeedKind::ALL.iter().map(|&kind| Topic::Feed { tenant: tenant.clone(), kind }));
        topics
    }

    #[test]
    fn every_topic_prints_and_parses_to_itself() {
        for topic in every_topic() {
            assert_eq!(topic.to_string().parse::<Topic>(), Ok(topic));
        }
    }

    /// PL-1: over every topic kind, only the owner may publish, and only upwards.
    #[test]
    fn only_the_owner_may_publish_and_only_up_and_state() {
        let owner = "acme/chip-7".parse().unwrap();
        for topic in every_topic() {
            let upward = matches!(topic, Topic::Up { .. } | Topic::State { .. });
            assert_eq!(topic.may_be_published_by(&owner), upward, "{topic}");
            for other in ["acme/chip-8", "other/chip-7"] {
                assert!(!topic.may_be_published_by(&other.parse().unwrap()), "{topic}");
            }
        }
    }

    #[test]
    fn filters_reach_nothing_but_a_principals_own_down() {
        for bad in [
            "#",
            "+/+/+/down/+",
            "ft/acme/#",
            "ft/acme/+/down/+",
            "ft/acme/a/up/+",
            "ft/acme/a/+/x",
            "$share/g/ft/acme/a/down/+",
            "$SYS/#",
            "ft/acme/a/state",
            "ft/acme/feed/+",
            "ft/acme/a/b/down/#",
            "/down/#",
        ] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
        let filter: Filter = "ft/acme/a/down/#".parse().unwrap();
        assert!(filter.permitted_for(&"acme/a".parse().unwrap()));
        assert!(!filter.permitted_for(&"acme/b".parse().unwrap()));
        assert!(filter.matches(Kind::Refused));
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_back_to_the_same_text(text in "(ft|x)(/[a-z+#-]{0,8}){0,5}|\\PC{0,60}") {
            if let Ok(topic) = text.parse::<Topic>() {
                prop_assert_eq!(topic.to_string(), text);
            }
        }
    }
}
