//! Every topic there is, who may publish to it and who may subscribe.
//!
//! ```text
//! ft/{tenant}/{principal}/up/{kind}      what this principal says to the cloud
//! ft/{tenant}/{principal}/down/{kind}    what the cloud says to it
//! ft/{tenant}/{principal}/state          presence
//! ft/{tenant}/feed/{kind}                read-only events for observers, as CBOR
//! ft/{tenant}/feed/json/{kind}           the same as JSON
//! ```
//!
//! The right to use a topic follows from the authenticated identity and its role, never from what is asked for (PL-1).
//! A party to payments (a device, a person's terminal) uses its own topics; an observer only listens: to the feed and to
//! every `state` of its own tenant.
//!
//! ```
//! use schemas::topic::{Kind, Role, Topic};
//! let topic: Topic = "ft/acme/chip-7/up/health-check".parse().unwrap();
//! assert!(topic.may_be_published_by(&"acme/chip-7".parse().unwrap(), Role::Party));
//! assert!(!topic.may_be_published_by(&"acme/chip-8".parse().unwrap(), Role::Party));
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
    /// Not of one of the forms.
    #[error(
        "not a topic of this platform: ft/TENANT/PRINCIPAL/up/KIND, .../down/KIND, .../state, ft/TENANT/feed/KIND, ft/TENANT/feed/json/KIND"
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
    /// The answer to a request: one of the three above, a payment order, a scan, limits, an allowance, goals, a no to a wish, an own payment, an
    /// answer to a suggestion.
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
    /// A guardian orders a payment from a child's account (PC-1).
    PaymentOrder = "payment-order", up: true, down: false;
    /// For a child to see on its piggy bank; and the child's answer (PC-2, PC-3).
    PaymentPrompt = "payment-prompt", up: true, down: true;
    /// With this a child pays at a terminal (PC-6, PC-7).
    PaymentCode = "payment-code", up: false, down: true;
    /// A terminal hands in a code that it has scanned (PC-10).
    PaymentScan = "payment-scan", up: true, down: false;
    /// Where can be paid for what; and the answer (PC-9).
    Places = "places", up: true, down: true;
    /// A guardian sets a child's limits (PC-13).
    ChildLimits = "child-limits", up: true, down: false;
    /// A guardian sets or ends the allowance of a child (PC-14).
    ChildAllowance = "child-allowance", up: true, down: false;
    /// A guardian sets what a child saves for (PC-14).
    SavingsGoals = "savings-goals", up: true, down: false;
    /// A child's wish, from its piggy bank to a guardian (PC-12).
    Wish = "wish", up: true, down: true;
    /// A child takes a wish back.
    WishWithdraw = "wish-withdraw", up: true, down: false;
    /// A guardian says no to a wish.
    WishDecline = "wish-decline", up: true, down: false;
    /// A person pays from its own account (PC-11).
    OwnPayment = "own-payment", up: true, down: false;
    /// Shall a child pay what the person's own account can't? (PC-11)
    PaySuggestion = "pay-suggestion", up: false, down: true;
    /// Which child, or nobody (PC-11).
    SuggestionAnswer = "suggestion-answer", up: true, down: false;
    /// What a child has and saves for, for the screen of its piggy bank (PC-14).
    ChildView = "child-view", up: false, down: true;
    /// How a device is: periodically, and when it changes (CP-17).
    DeviceReport = "device-report", up: true, down: false;
    /// This message was not accepted, and why.
    Refused = "refused", up: true, down: true;
}

impl Kind {
    /// Whether it goes up as a request, which carries a key and gets a `request-answer` (MO-3).
    pub fn is_request(self) -> bool {
        matches!(
            self,
            Kind::PaymentRequest
                | Kind::PaymentCancel
                | Kind::PaymentRefund
                | Kind::PaymentOrder
                | Kind::PaymentScan
                | Kind::ChildLimits
                | Kind::ChildAllowance
                | Kind::SavingsGoals
                | Kind::WishDecline
                | Kind::OwnPayment
                | Kind::SuggestionAnswer
        )
    }
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

/// What a principal is for, as far as topics go. The core knows it; nobody says it of themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes part in payments: a device, a person's terminal.
    #[default]
    Party,
    /// Listens to the feed and to every `state` of its tenant, and says nothing.
    Observer,
}

/// Events for observers: see [`crate::feed`]. Texts are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FeedKind {
    /// A payment changed its state.
    Payment,
    /// An entry of the exceptions queue came or went.
    Exception,
    /// A device was registered, enrolled or revoked.
    Device,
    /// A principal came, went, or said something of itself.
    Presence,
    /// This observer has missed something.
    Lost,
}

impl FeedKind {
    /// All kinds.
    pub const ALL: &'static [FeedKind] =
        &[FeedKind::Payment, FeedKind::Exception, FeedKind::Device, FeedKind::Presence, FeedKind::Lost];

    /// The last level of its topics.
    pub fn as_str(self) -> &'static str {
        match self {
            FeedKind::Payment => "payment",
            FeedKind::Exception => "exception",
            FeedKind::Device => "device",
            FeedKind::Presence => "presence",
            FeedKind::Lost => "lost",
        }
    }
}

impl FromStr for FeedKind {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        FeedKind::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or(TopicError::Kind)
    }
}

/// How an event of the feed is written down: the subscriber chooses by topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FeedFormat {
    /// `feed/{kind}`
    Cbor,
    /// `feed/json/{kind}`
    Json,
}

impl FeedFormat {
    /// All formats.
    pub const ALL: &'static [FeedFormat] = &[FeedFormat::Cbor, FeedFormat::Json];

    /// What stands before the kind.
    fn level(self) -> &'static str {
        match self {
            FeedFormat::Cbor => "",
            FeedFormat::Json => "json/",
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
        /// How they are written down.
        format: FeedFormat,
    },
}

impl Topic {
    /// Only below one's own `up/`, and one's own `state`; an observer nothing at all.
    pub fn may_be_published_by(&self, by: &Principal, role: Role) -> bool {
        match self {
            Topic::Up { principal, .. } | Topic::State { principal } => {
                role == Role::Party && principal == by
            }
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
            Topic::Feed { tenant, kind, format } => {
                write!(f, "{ROOT}/{tenant}/feed/{}{}", format.level(), kind.as_str())
            }
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
        let feed = |tenant: &str, kind: &str, format: FeedFormat| -> Result<Topic, TopicError> {
            let tenant = tenant.parse().map_err(|_| TopicError::Form)?;
            Ok(Topic::Feed { tenant, kind: kind.parse()?, format })
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
            // Before the feed: a principal may be called so, and no kind is called `state`.
            [ROOT, tenant, id, "state"] => Ok(Topic::State { principal: principal(tenant, id)? }),
            [ROOT, tenant, "feed", kind] => feed(tenant, kind, FeedFormat::Cbor),
            [ROOT, tenant, "feed", "json", kind] => feed(tenant, kind, FeedFormat::Json),
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

/// What can be subscribed to: by a party to payments its own `down/`, by kind or whole; by an observer the feed and
/// `state`. Any other filter does not parse.
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
    /// `ft/{tenant}/feed/{kind}` or `ft/{tenant}/feed/json/{kind}`
    FeedKind {
        /// Whose events.
        tenant: TenantId,
        /// Which.
        kind: FeedKind,
        /// As what.
        format: FeedFormat,
    },
    /// `ft/{tenant}/feed/+`; `ft/{tenant}/feed/json/+` or `.../json/#`
    FeedFormat {
        /// Whose events.
        tenant: TenantId,
        /// As what.
        format: FeedFormat,
    },
    /// `ft/{tenant}/feed/#`: every event, in both formats.
    FeedAll {
        /// Whose events.
        tenant: TenantId,
    },
    /// `ft/{tenant}/{principal}/state`
    StateOf {
        /// Whose.
        principal: Principal,
    },
    /// `ft/{tenant}/+/state`
    StateAll {
        /// Of whose principals.
        tenant: TenantId,
    },
}

impl Filter {
    /// As a party only below one's own `down/`; as an observer only feed and `state` of one's own tenant.
    pub fn permitted_for(&self, subscriber: &Principal, role: Role) -> bool {
        match self {
            Filter::DownKind { principal, .. } | Filter::DownAll { principal } => {
                role == Role::Party && principal == subscriber
            }
            Filter::FeedKind { tenant, .. }
            | Filter::FeedFormat { tenant, .. }
            | Filter::FeedAll { tenant }
            | Filter::StateAll { tenant }
            | Filter::StateOf { principal: Principal { tenant, .. } } => {
                role == Role::Observer && *tenant == subscriber.tenant
            }
        }
    }

    /// Whether a message of `kind` to the filter's principal matches.
    pub fn matches(&self, kind: Kind) -> bool {
        match self {
            Filter::DownKind { kind: wanted, .. } => *wanted == kind,
            Filter::DownAll { .. } => true,
            _ => false,
        }
    }

    /// Whether a message on this topic matches.
    pub fn matches_topic(&self, topic: &Topic) -> bool {
        match (self, topic) {
            (Filter::DownKind { principal: of, .. } | Filter::DownAll { principal: of }, topic) => {
                matches!(topic, Topic::Down { principal, kind } if principal == of && self.matches(*kind))
            }
            (
                Filter::FeedKind { tenant: of, kind: wanted, format: form },
                Topic::Feed { tenant, kind, format },
            ) => (of, wanted, form) == (tenant, kind, format),
            (Filter::FeedFormat { tenant: of, format: form }, Topic::Feed { tenant, format, .. }) => {
                (of, form) == (tenant, format)
            }
            (Filter::FeedAll { tenant: of }, Topic::Feed { tenant, .. }) => of == tenant,
            (Filter::StateOf { principal: of }, Topic::State { principal }) => of == principal,
            (Filter::StateAll { tenant: of }, Topic::State { principal }) => *of == principal.tenant,
            _ => false,
        }
    }

    /// Whether it asks for `state`, which is retained.
    pub fn is_state(&self) -> bool {
        matches!(self, Filter::StateOf { .. } | Filter::StateAll { .. })
    }
}

impl FromStr for Filter {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<Self, TopicError> {
        let mut levels = [""; 5];
        let count = split_levels(text, &mut levels)?;
        let tenant = |text: &str| text.parse::<TenantId>().map_err(|_| TopicError::Form);
        match levels[..count] {
            [ROOT, of, id, "down", "+" | "#"] => {
                let id = id.parse().map_err(|_| TopicError::Form)?;
                Ok(Filter::DownAll { principal: Principal { tenant: tenant(of)?, id } })
            }
            [ROOT, of, "feed", "#"] => Ok(Filter::FeedAll { tenant: tenant(of)? }),
            [ROOT, of, "feed", "+"] => {
                Ok(Filter::FeedFormat { tenant: tenant(of)?, format: FeedFormat::Cbor })
            }
            [ROOT, of, "feed", "json", "+" | "#"] => {
                Ok(Filter::FeedFormat { tenant: tenant(of)?, format: FeedFormat::Json })
            }
            [ROOT, of, "+", "state"] => Ok(Filter::StateAll { tenant: tenant(of)? }),
            _ => match text.parse()? {
                Topic::Down { principal, kind } => Ok(Filter::DownKind { principal, kind }),
                Topic::Feed { tenant, kind, format } => Ok(Filter::FeedKind { tenant, kind, format }),
                Topic::State { principal } => Ok(Filter::StateOf { principal }),
                Topic::Up { .. } => Err(TopicError::Form),
            },
        }
    }
}
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Filter::DownKind { principal, kind } => write!(f, "{ROOT}/{principal}/down/{kind}"),
            Filter::DownAll { principal } => write!(f, "{ROOT}/{principal}/down/+"),
            Filter::FeedKind { tenant, kind, format } => {
                write!(f, "{ROOT}/{tenant}/feed/{}{}", format.level(), kind.as_str())
            }
            Filter::FeedFormat { tenant, format } => write!(f, "{ROOT}/{tenant}/feed/{}+", format.level()),
            Filter::FeedAll { tenant } => write!(f, "{ROOT}/{tenant}/feed/#"),
            Filter::StateOf { principal } => write!(f, "{ROOT}/{principal}/state"),
            Filter::StateAll { tenant } => write!(f, "{ROOT}/{tenant}/+/state"),
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
        for &format in FeedFormat::ALL {
            topics.extend(FeedKind::ALL.iter().map(|&kind| Topic::Feed {
                tenant: tenant.clone(),
                kind,
                format,
            }));
        }
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
            assert_eq!(topic.may_be_published_by(&owner, Role::Party), upward, "{topic}");
            assert!(!topic.may_be_published_by(&owner, Role::Observer), "{topic}");
            for other in ["acme/chip-8", "other/chip-7"] {
                assert!(!topic.may_be_published_by(&other.parse().unwrap(), Role::Party), "{topic}");
            }
        }
    }

    #[test]
    fn filters_have_few_forms() {
        for bad in [
            "#",
            "+/+/+/down/+",
            "ft/acme/#",
            "ft/acme/+/down/+",
            "ft/acme/a/up/+",
            "ft/acme/a/+/x",
            "$share/g/ft/acme/a/down/+",
            "$SYS/#",
            "ft/acme/a/up/refused",
            "ft/acme/+/+",
            "ft/+/a/state",
            "ft/+/feed/+",
            "ft/acme/feed",
            "ft/acme/feed/+/payment",
            "ft/acme/feed/nothing",
            "ft/acme/feed/json",
            "ft/acme/a/b/down/#",
            "/down/#",
        ] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
        let filter: Filter = "ft/acme/a/down/#".parse().unwrap();
        assert!(filter.matches(Kind::Refused));
    }

    /// PL-1: who takes part hears its own `down/`; an observer hears feed and states of its tenant; nobody hears both.
    #[test]
    fn a_filter_is_permitted_by_identity_and_role() {
        const TABLE: [(&str, bool, bool); 13] = [
            ("ft/acme/a/down/#", true, false),
            ("ft/acme/a/down/refused", true, false),
            ("ft/acme/b/down/#", false, false),
            ("ft/other/a/down/#", false, false),
            ("ft/acme/feed/#", false, true),
            ("ft/acme/feed/+", false, true),
            ("ft/acme/feed/json/#", false, true),
            ("ft/acme/feed/json/payment", false, true),
            ("ft/acme/feed/lost", false, true),
            ("ft/other/feed/#", false, false),
            ("ft/acme/+/state", false, true),
            ("ft/acme/a/state", false, true),
            ("ft/other/+/state", false, false),
        ];
        let subscriber = "acme/a".parse().unwrap();
        for (text, party, observer) in TABLE {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.permitted_for(&subscriber, Role::Party), party, "{text}");
            assert_eq!(filter.permitted_for(&subscriber, Role::Observer), observer, "{text}");
            assert_eq!(filter.to_string().parse::<Filter>(), Ok(filter), "{text}");
        }
    }

    /// As MQTT matches them: levels compared, `+` one level, `#` the rest.
    #[test]
    fn filters_match_topics_as_mqtt_says() {
        let matches = |filter: &str, topic: &str| {
            let (filter, topic): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
            let rest = filter.last() == Some(&"#");
            let compared = if rest { filter.len() - 1 } else { filter.len() };
            (topic.len() == compared || rest && topic.len() > compared)
                && filter
                    .iter()
                    .zip(&topic)
                    .take(compared)
                    .all(|(level, found)| level == found || *level == "+")
        };
        let filters = [
            "ft/acme/chip-7/down/+",
            "ft/acme/chip-7/down/refused",
            "ft/acme/feed/#",
            "ft/acme/feed/+",
            "ft/acme/feed/json/+",
            "ft/acme/feed/json/payment",
            "ft/acme/feed/payment",
            "ft/acme/+/state",
            "ft/acme/chip-7/state",
            "ft/acme/chip-8/state",
            "ft/other/feed/#",
        ];
        for filter in filters {
            let parsed: Filter = filter.parse().unwrap();
            for topic in every_topic() {
                assert_eq!(
                    parsed.matches_topic(&topic),
                    matches(filter, &topic.to_string()),
                    "{filter} {topic}"
                );
            }
        }
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
