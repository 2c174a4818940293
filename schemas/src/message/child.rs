//! The messages of the parent-child payment on a piggy bank (PC-1 to PC-5, PC-8, PC-13 to PC-15).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use geographiclib_rs::{Geodesic, InverseGeodesic};
use rust_decimal::Decimal;
use rust_decimal::prelude::{FromPrimitive, ToPrimitive};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

use super::code::{CodeClaims, PaymentMode, ShowCode};
use super::wish::{ShownResults, ShownWishes};
use crate::ids::{CategoryId, MerchantId, PaymentId, PlaceId, PrincipalId, WishId};
use crate::limits;
use crate::money::Money;
use crate::time::Timestamp;
use crate::wire::{Text, WireType, wire, wire_enum};

wire! {
    /// A guardian orders a payment from a child's account (PC-1). Answered with the payment, or with why not.
    pub struct PaymentOrder {
        /// Whose account pays. The guardian's guardianship of the child is registered.
        pub child: PrincipalId,
        /// How much.
        pub amount: Money,
        /// "Or less": what the account has is enough, if it is at least this. Left out: all of the amount or nothing (PC-8).
        pub minimum: Option<Money>,
        /// What it is for: 1 to 8 different ones.
        pub categories: Categories,
        /// Who gets it. Left out: the child's registered receiving account, or else the guardian (PC-8).
        pub payee: Option<Payee>,
        /// For the child to read.
        pub note: Option<Text>,
        /// Who is told the result; both if left out (PC-5).
        pub tell: Option<ResultTo>,
        /// How the child pays once it has agreed; left out: its money moves at once, which is a deduction.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mode: Option<PaymentMode>,
        /// The only place where a code counts; left out: each where one of the categories can be paid for.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub place: Option<PlaceId>,
        /// When the piggy bank shows the code; left out: at once (PC-6).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub show: Option<ShowCode>,
        /// What a code says of who pays, beside the amount; left out: the device (PC-6, PC-7).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub contains: Option<CodeClaims>,
        /// Whether the piggy bank has to make sure that it is this child who agrees; left out: no (PC-16).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub identify: Option<bool>,
        /// Which of the child's wishes it fulfils; left out: none (PC-12).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub wish: Option<WishId>,
    }
}
wire_enum! {
    /// Who is told the result of a payment order (PC-5).
    pub enum ResultTo {
        /// The guardian's terminal.
        Guardian = "guardian",
        /// The piggy bank.
        PiggyBank = "piggy_bank",
        /// Both.
        Both = "both",
    }
}
wire! {
    /// Cloud to piggy bank: show this, and take the child's answer (PC-2, PC-3). Never shown later than `answer_by`.
    pub struct PaymentPrompt {
        /// Which payment.
        pub payment: PaymentId,
        /// Whose account pays.
        pub child: PrincipalId,
        /// Who ordered it.
        pub guardian: PrincipalId,
        /// Who gets the money, for the child to read.
        pub payee: Text,
        /// What will be taken: fixed when the prompt was made, and reserved since.
        pub amount: Money,
        /// What was ordered; more than `amount` where the account had less (PC-8).
        pub ordered: Money,
        /// What it is for.
        pub categories: Categories,
        /// From the guardian.
        pub note: Option<Text>,
        /// The child's answer counts until then.
        pub answer_by: Timestamp,
        /// What a yes leads to; left out: a deduction.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mode: Option<PaymentMode>,
        /// Whether the piggy bank has to make sure who says yes; left out: no (PC-16).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub identify: Option<bool>,
    }
}
wire_enum! {
    /// What a child says to a prompt.
    pub enum ChildAnswer {
        /// Pay.
        Confirm = "confirm",
        /// Do not pay.
        Reject = "reject",
    }
}
wire! {
    /// Piggy bank to cloud: the child's answer to a prompt (PC-3). Only the first one counts.
    pub struct PromptAnswer {
        /// Which payment.
        pub payment: PaymentId,
        /// What the child said.
        pub answer: ChildAnswer,
        /// Where the piggy bank was; left out if it did not know.
        pub position: Option<Position>,
        /// Whether the piggy bank has made sure who answered; left out: it was not asked to (PC-16).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub identified: Option<bool>,
    }
}
wire! {
    /// A guardian sets a child's limits, all of them at once (PC-13). They count from the next order on.
    pub struct ChildLimits {
        /// Of whom.
        pub child: PrincipalId,
        /// Most that one payment may take; left out: no limit.
        pub per_payment: Option<Money>,
        /// Most that the payments of one day, in the child's time zone, may take together; left out: no limit.
        pub per_day: Option<Money>,
        /// The same for single categories; a payment counts for each of its categories. At most 32.
        pub per_category_and_day: CategoryAmounts,
        /// When nothing is paid; left out: always possible.
        pub quiet_hours: Option<QuietHours>,
    }
}

wire! {
    /// A guardian sets, or ends, the allowance that it pays to a child (PC-14). Each guardian has one for each child.
    pub struct ChildAllowance {
        /// To whom.
        pub child: PrincipalId,
        /// From when on, how often and how much; left out: it ends.
        pub schedule: Option<AllowanceSchedule>,
    }
}
wire! {
    /// A guardian sets what a child saves for, all of it at once (PC-14).
    pub struct SavingsGoals {
        /// Whose.
        pub child: PrincipalId,
        /// What for, at most 8; none: nothing.
        pub goals: Goals,
    }
}
wire! {
    /// Cloud to piggy bank: what the child has and what it can look forward to, for its screen (PC-14). A newer one takes
    /// the place of an older one; of two of one millisecond the later one on the wire is newer.
    pub struct ChildView {
        /// Whose.
        pub child: PrincipalId,
        /// What the account has, without what is reserved.
        pub available: Money,
        /// When that was so.
        pub as_of: Timestamp,
        /// What the child saves for.
        pub goals: Goals,
        /// What comes in by itself, at most one from each guardian.
        pub allowances: ComingAllowances,
        /// What it wishes for, and what has become of it (PC-12).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub wishes: Option<ShownWishes>,
        /// What has become of its last payments (PC-5).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub results: Option<ShownResults>,
    }
}
wire_enum! {
    /// How often an allowance is paid.
    pub enum Every {
        /// Each day.
        Day = "day",
        /// Each week.
        Week = "week",
        /// Each month; on its last day where it is too short.
        Month = "month",
    }
}

impl PaymentOrder {
    /// All of the amount, at once, to the child's receiving account or the guardian; whoever orders otherwise says so.
    pub fn deduction(child: PrincipalId, amount: Money, categories: Categories) -> Self {
        Self {
            child,
            amount,
            minimum: None,
            categories,
            payee: None,
            note: None,
            tell: None,
            mode: None,
            place: None,
            show: None,
            contains: None,
            identify: None,
            wish: None,
        }
    }
}

/// When and how much: at `first_at`, and then at the same time of day by the child's clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowanceSchedule {
    /// Each time.
    pub amount: Money,
    /// How often.
    pub every: Every,
    /// The first time.
    pub first_at: Timestamp,
}

/// Something that a child saves for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// For the child to read.
    pub title: Text,
    /// How much it takes.
    pub amount: Money,
}

/// The next payment of an allowance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComingAllowance {
    /// From whom.
    pub guardian: PrincipalId,
    /// How much.
    pub amount: Money,
    /// How often.
    pub every: Every,
    /// When next.
    pub next_at: Timestamp,
}

macro_rules! short_list {
    ($(#[doc = $doc:literal] $name:ident of $item:ty, at most $most:expr;)*) => { $(
        #[doc = $doc]
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct $name(Vec<$item>);

        impl $name {
            /// Checks the number.
            ///
            /// # Errors
            /// Too many.
            pub fn new(items: Vec<$item>) -> Result<Self, ChildMessageError> {
                if items.len() > $most { Err(ChildMessageError::TooMany($most)) } else { Ok(Self(items)) }
            }

            /// Each of them.
            pub fn iter(&self) -> impl Iterator<Item = &$item> {
                self.0.iter()
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    )* };
}

short_list! {
    #[doc = "What a child saves for, at most [`limits::GOALS`]."]
    Goals of Goal, at most limits::GOALS;
    #[doc = "What comes in by itself, at most [`limits::GUARDIANS_OF_CHILD`]."]
    ComingAllowances of ComingAllowance, at most limits::GUARDIANS_OF_CHILD;
}

/// Categories of one payment: 1 to 8 different names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Categories(Vec<CategoryId>);

impl Categories {
    /// Checks number and difference.
    ///
    /// # Errors
    /// None, more than [`limits::CATEGORIES_OF_PAYMENT`], or one of them twice.
    pub fn new(categories: Vec<CategoryId>) -> Result<Self, ChildMessageError> {
        let repeated = categories.iter().enumerate().any(|(i, one)| categories[..i].contains(one));
        if categories.is_empty() || categories.len() > limits::CATEGORIES_OF_PAYMENT || repeated {
            return Err(ChildMessageError::Categories);
        }
        Ok(Self(categories))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &CategoryId> {
        self.0.iter()
    }
}
impl<'de> Deserialize<'de> for Categories {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Amounts by category, at most [`limits::CATEGORY_LIMITS`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CategoryAmounts(BTreeMap<CategoryId, Money>);

impl CategoryAmounts {
    /// Checks the number.
    ///
    /// # Errors
    /// More than [`limits::CATEGORY_LIMITS`].
    pub fn new(amounts: BTreeMap<CategoryId, Money>) -> Result<Self, ChildMessageError> {
        if amounts.len() > limits::CATEGORY_LIMITS {
            return Err(ChildMessageError::TooManyLimits);
        }
        Ok(Self(amounts))
    }

    /// Each category with its amount.
    pub fn iter(&self) -> impl Iterator<Item = (&CategoryId, &Money)> {
        self.0.iter()
    }

    /// The amount of one.
    pub fn of(&self, category: &CategoryId) -> Option<Money> {
        self.0.get(category).copied()
    }
}
impl<'de> Deserialize<'de> for CategoryAmounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(BTreeMap::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Why a value in one of these messages was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChildMessageError {
    /// None, too many, or one twice.
    #[error("a payment has 1 to 8 different categories")]
    Categories,
    /// None, or one twice.
    #[error("a code says one to three of device, child and category")]
    Claims,
    /// Too many.
    #[error("at most 32 categories have limits of their own")]
    TooManyLimits,
    /// More than the list takes.
    #[error("at most {0} are possible")]
    TooMany(usize),
    /// Not an account.
    #[error("`{0}` is not a payee: write `guardian`, `person/NAME` or `merchant/NAME`")]
    Payee(String),
    /// Not hours.
    #[error("`{0}` are not quiet hours: write HH:MM-HH:MM, for instance 21:00-07:00")]
    QuietHours(String),
}

/// Who gets a child's money (PC-8): text on the wire.
///
/// ```
/// use schemas::message::Payee;
/// let payee: Payee = "merchant/canteen".parse().unwrap();
/// assert_eq!(payee.to_string(), "merchant/canteen");
/// assert!("canteen".parse::<Payee>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Payee {
    /// The guardian who orders: `guardian`.
    Guardian,
    /// A person's account: `person/NAME`.
    Person(PrincipalId),
    /// A merchant's account: `merchant/NAME`.
    Merchant(MerchantId),
}

impl fmt::Display for Payee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payee::Guardian => f.write_str("guardian"),
            Payee::Person(person) => write!(f, "person/{person}"),
            Payee::Merchant(merchant) => write!(f, "merchant/{merchant}"),
        }
    }
}
impl FromStr for Payee {
    type Err = ChildMessageError;
    fn from_str(text: &str) -> Result<Self, ChildMessageError> {
        let refused =
            || ChildMessageError::Payee(text.chars().filter(|c| !c.is_control()).take(48).collect());
        match text.split_once('/') {
            None if text == "guardian" => Ok(Payee::Guardian),
            Some(("person", name)) => name.parse().map(Payee::Person).map_err(|_| refused()),
            Some(("merchant", name)) => name.parse().map(Payee::Merchant).map_err(|_| refused()),
            _ => Err(refused()),
        }
    }
}

/// Hours of the day without payments, in the child's time zone: `21:00-07:00`, the end not included. They may pass
/// midnight.
///
/// ```
/// use schemas::message::QuietHours;
/// let night: QuietHours = "21:00-07:00".parse().unwrap();
/// assert!(night.contains(22 * 60) && night.contains(0) && !night.contains(7 * 60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    from_minute: u16,
    to_minute: u16,
}

impl QuietHours {
    /// Whether a minute of the day (0 to 1439) is one of them.
    pub fn contains(self, minute: u16) -> bool {
        if self.from_minute <= self.to_minute {
            (self.from_minute..self.to_minute).contains(&minute)
        } else {
            minute >= self.from_minute || minute < self.to_minute
        }
    }
}
impl fmt::Display for QuietHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from_minute, self.to_minute);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}
impl FromStr for QuietHours {
    type Err = ChildMessageError;
    fn from_str(text: &str) -> Result<Self, ChildMessageError> {
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            let (hours, minutes) = (digits(hours).then_some(hours)?, digits(minutes).then_some(minutes)?);
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let parsed = text
            .split_once('-')
            .and_then(|(from, to)| Some(Self { from_minute: minute(from)?, to_minute: minute(to)? }));
        // As long as from = to nobody knows whether it means always or never.
        parsed.filter(|hours| hours.from_minute != hours.to_minute).ok_or_else(|| {
            ChildMessageError::QuietHours(text.chars().filter(|c| !c.is_control()).take(48).collect())
        })
    }
}

/// Where a device was, and how well it knows (WGS 84). Integers, as everything on this wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Degrees north times 10^7, -900,000,000 to 900,000,000.
    #[serde(deserialize_with = "degrees_e7::<_, 90>")]
    pub latitude_e7: i32,
    /// Degrees east times 10^7, -1,800,000,000 to 1,800,000,000.
    #[serde(deserialize_with = "degrees_e7::<_, 180>")]
    pub longitude_e7: i32,
    /// Radius of the error, in metres.
    pub accuracy_m: u32,
    /// When it was there.
    pub at: Timestamp,
}

impl Position {
    /// Metres along the ground to another point, to the nearest metre (WGS 84, Karney's geodesics).
    ///
    /// ```
    /// # use schemas::message::Position;
    /// # use schemas::time::Timestamp;
    /// let berlin = Position { latitude_e7: 525_200_080, longitude_e7: 134_049_540, accuracy_m: 5, at: Timestamp(0) };
    /// assert_eq!(berlin.distance_m(525_200_080, 134_049_540), 0);
    /// assert_eq!(berlin.distance_m(525_300_080, 134_049_540), 1_113); // 0.01 degrees north
    /// ```
    pub fn distance_m(&self, latitude_e7: i32, longitude_e7: i32) -> u64 {
        let degrees = |e7: i32| Decimal::new(i64::from(e7), 7).to_f64().unwrap_or_default();
        let metres: f64 = Geodesic::wgs84().inverse(
            degrees(self.latitude_e7),
            degrees(self.longitude_e7),
            degrees(latitude_e7),
            degrees(longitude_e7),
        );
        Decimal::from_f64(metres).and_then(|metres| metres.round().to_u64()).unwrap_or(u64::MAX)
    }
}

pub(super) fn degrees_e7<'de, D: Deserializer<'de>, const MOST: i32>(
    deserializer: D,
) -> Result<i32, D::Error> {
    let degrees = i32::deserialize(deserializer)?;
    let most = MOST * 10_000_000;
    if (-most..=most).contains(&degrees) {
        Ok(degrees)
    } else {
        Err(de::Error::custom(format!("a position lies within {MOST} degrees")))
    }
}

macro_rules! text_on_the_wire {
    ($($type:ty => $cddl:literal, $schema:tt;)*) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )* value_on_the_wire! { $($type => $cddl, $schema;)* } };
}
macro_rules! value_on_the_wire {
    ($($type:ty => $cddl:literal, $schema:tt;)*) => { $(
        impl WireType for $type {
            const CDDL: &'static str = $cddl;
            fn json_schema() -> Value {
                json!($schema)
            }
        }
        impl WireType for Option<$type> {
            const CDDL: &'static str = concat!($cddl, " / null");
            fn json_schema() -> Value {
                json!({ "oneOf": [json!($schema), { "type": "null" }] })
            }
        }
    )* };
}

pub(super) use {short_list, value_on_the_wire};

text_on_the_wire! {
    Payee => "payee", { "type": "string", "examples": ["guardian", "person/grandma", "merchant/canteen"] };
    QuietHours => "quiet-hours", { "type": "string", "examples": ["21:00-07:00"] };
}
value_on_the_wire! {
    Categories => "[1*8 name]", { "type": "array", "minItems": 1, "maxItems": 8, "uniqueItems": true, "items": { "type": "string" } };
    CategoryAmounts => "{* name => money}", { "type": "object", "maxProperties": 32, "additionalProperties": { "type": "string" } };
    AllowanceSchedule => "allowance-schedule", {
        "type": "object",
        "required": ["amount", "every", "first_at"],
        "properties": {
            "amount": { "type": "string" }, "every": { "enum": ["day", "week", "month"] }, "first_at": { "type": "integer" }
        }
    };
    Goals => "[*8 goal]", {
        "type": "array", "maxItems": 8,
        "items": { "type": "object", "properties": { "title": { "type": "string" }, "amount": { "type": "string" } } }
    };
    ComingAllowances => "[*8 coming-allowance]", {
        "type": "array", "maxItems": 8,
        "items": { "type": "object", "properties": {
            "guardian": { "type": "string" }, "amount": { "type": "string" },
            "every": { "enum": ["day", "week", "month"] }, "next_at": { "type": "integer" }
        } }
    };
    Position => "position", {
        "type": "object",
        "required": ["latitude_e7", "longitude_e7", "accuracy_m", "at"],
        "properties": {
            "latitude_e7": { "type": "integer" }, "longitude_e7": { "type": "integer" },
            "accuracy_m": { "type": "integer" }, "at": { "type": "integer" }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PC-13
    #[test]
    fn quiet_hours_may_pass_midnight_and_are_never_ambiguous() {
        for (text, minute, quiet) in [
            ("21:00-07:00", 1259, false),
            ("21:00-07:00", 1260, true),
            ("21:00-07:00", 419, true),
            ("21:00-07:00", 420, false),
            ("08:00-15:30", 480, true),
            ("08:00-15:30", 930, false),
        ] {
            let hours: QuietHours = text.parse().unwrap();
            assert_eq!(hours.contains(minute), quiet, "{text} at {minute}");
            assert_eq!(hours.to_string(), text);
        }
        for bad in ["", "21-07", "24:00-07:00", "21:60-07:00", "21:00-21:00", "1:00-2:00", "+1:00-02:00"] {
            assert!(bad.parse::<QuietHours>().is_err(), "{bad}");
        }
    }

    /// PC-3
    #[test]
    fn a_position_beyond_the_globe_is_refused() {
        let at =
            |latitude: i64| format!(r#"{{"latitude_e7":{latitude},"longitude_e7":0,"accuracy_m":5,"at":1}}"#);
        assert!(serde_json::from_str::<Position>(&at(900_000_000)).is_ok());
        assert!(serde_json::from_str::<Position>(&at(900_000_001)).is_err());
        assert!(serde_json::from_str::<Position>(&at(-900_000_001)).is_err());
    }

    /// PC-1, PC-8
    #[test]
    fn payees_and_categories_of_any_other_shape_are_refused() {
        for good in ["guardian", "person/grandma", "merchant/canteen"] {
            assert_eq!(good.parse::<Payee>().unwrap().to_string(), good);
        }
        for bad in ["", "person", "person/", "person/A", "bank/holding", "merchant/a/b", "Guardian"] {
            assert!(bad.parse::<Payee>().is_err(), "{bad}");
        }
        let names =
            |names: &[&str]| Categories::new(names.iter().map(|name| name.parse().unwrap()).collect());
        assert!(names(&["sweets", "toys"]).is_ok());
        assert_eq!(names(&[]), Err(ChildMessageError::Categories));
        assert_eq!(names(&["toys", "toys"]), Err(ChildMessageError::Categories));
        assert!(names(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]).is_err());
    }
}
