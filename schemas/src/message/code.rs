//! With what a child pays at a terminal, and where it may (PC-6, PC-7, PC-9, PC-10).

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json};

use super::child::{Categories, ChildMessageError, Position, degrees_e7, short_list, value_on_the_wire};
use crate::ids::{PaymentId, PlaceId, PrincipalId};
use crate::limits;
use crate::money::Money;
use crate::signed::{CodeText, PublicKey, SignedCatalogue};
use crate::time::Timestamp;
use crate::wire::{Text, WireType, wire, wire_enum};

wire_enum! {
    /// How a child pays once it has agreed.
    pub enum PaymentMode {
        /// Its money moves at once (PC-8).
        Deduction = "deduction",
        /// With a QR code that the cloud has signed (PC-6).
        Qr = "qr",
        /// With a token that the piggy bank signs: the mode of control information (PC-7).
        Token = "token",
    }
}
wire_enum! {
    /// When a piggy bank shows the code that it was sent (PC-6).
    pub enum ShowCode {
        /// As soon as it can.
        AtOnce = "at_once",
        /// When the child asks for it.
        OnRequest = "on_request",
    }
}
wire_enum! {
    /// Something that a code may say beside its amount (PC-6, PC-7).
    pub enum CodeClaim {
        /// The piggy bank.
        Device = "device",
        /// The child.
        Child = "child",
        /// What it is for.
        Category = "category",
    }
}
wire! {
    /// Cloud to piggy bank: the child has agreed, pay with this (PC-6, PC-7). It counts once.
    pub struct PaymentCode {
        /// Which payment.
        pub payment: PaymentId,
        /// With a QR code or with a token.
        pub mode: PaymentMode,
        /// How much.
        pub amount: Money,
        /// Who gets the money, for the child to read.
        pub payee: Text,
        /// The text of the QR code. Left out for a token, which the piggy bank makes and signs by itself.
        pub code: Option<CodeText>,
        /// What the token says of who pays.
        pub contains: CodeClaims,
        /// Whose account pays.
        pub child: PrincipalId,
        /// What it is for: shown only where one of them can be paid for (PC-9).
        pub categories: Categories,
        /// The only place where it counts, if there is only one.
        pub place: Option<PlaceId>,
        /// When it is shown.
        pub show: ShowCode,
        /// Whether it is also checked where it is, before it is shown at once (PC-9).
        pub check_place: bool,
        /// The version of the places that the cloud knows; with an older one the piggy bank asks for them first.
        pub places_version: u64,
        /// Not shown, and not accepted, later than this.
        pub expires_at: Timestamp,
    }
}
wire! {
    /// A terminal at a place hands in what it has scanned, or was presented (PC-10). Answered with the payment, which is
    /// then settled, or with why not.
    pub struct PaymentScan {
        /// As it was read.
        pub code: CodeText,
        /// What the terminal asks for; left out: whatever the code says.
        pub amount: Option<Money>,
        /// When it was scanned. A link may be slower than a code's life.
        pub scanned_at: Timestamp,
    }
}
wire! {
    /// Piggy bank to cloud: where can be paid for what? (PC-9)
    pub struct PlacesRequest {
        /// The version that it has; 0 for none.
        pub version: u64,
    }
}
wire! {
    /// Cloud to piggy bank: the places of its tenant.
    pub struct PlacesAnswer {
        /// The version that the cloud knows.
        pub version: u64,
        /// All of them; left out if the piggy bank has this version: see `signed::Catalogue`.
        pub catalogue: Option<SignedCatalogue>,
        /// With whose key it is signed. A piggy bank keeps the first one that it hears of.
        pub signer: PublicKey,
    }
}
/// Somewhere to pay: a circle on the ground, and what can be paid for there (PC-9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its name.
    pub place: PlaceId,
    /// For the child to read, at most [`limits::PLACE_TITLE_BYTES`].
    pub title: Text,
    /// Of its middle: degrees north times 10^7.
    #[serde(deserialize_with = "degrees_e7::<_, 90>")]
    pub latitude_e7: i32,
    /// Of its middle: degrees east times 10^7.
    #[serde(deserialize_with = "degrees_e7::<_, 180>")]
    pub longitude_e7: i32,
    /// From its middle to its border, in metres, 1 to [`limits::PLACE_RADIUS_M`].
    pub radius_m: u32,
    /// What can be paid for there.
    pub categories: Categories,
}

impl Place {
    /// Whether something at `position` is surely inside: farther from the border than the position may be wrong.
    pub fn contains(&self, position: &Position) -> bool {
        let from_middle = position.distance_m(self.latitude_e7, self.longitude_e7);
        from_middle.saturating_add(u64::from(position.accuracy_m)) < u64::from(self.radius_m)
    }

    /// Metres from `position` to the border; 0 inside.
    pub fn distance_m(&self, position: &Position) -> u64 {
        position.distance_m(self.latitude_e7, self.longitude_e7).saturating_sub(u64::from(self.radius_m))
    }

    /// Whether one of the categories can be paid for here.
    pub fn takes(&self, categories: &Categories) -> bool {
        categories.iter().any(|category| self.categories.iter().any(|own| own == category))
    }
}

/// What a code says beside its amount: 1 to 3 different things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CodeClaims(Vec<CodeClaim>);

impl CodeClaims {
    /// Checks number and difference.
    ///
    /// # Errors
    /// None, or one of them twice.
    pub fn new(claims: Vec<CodeClaim>) -> Result<Self, ChildMessageError> {
        let repeated = claims.iter().enumerate().any(|(i, one)| claims[..i].contains(one));
        if claims.is_empty() || repeated { Err(ChildMessageError::Claims) } else { Ok(Self(claims)) }
    }

    /// Whether this is one of them.
    pub fn contains(&self, claim: CodeClaim) -> bool {
        self.0.contains(&claim)
    }
}
impl<'de> Deserialize<'de> for CodeClaims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

short_list! {
    #[doc = "The places of a tenant, at most [`limits::PLACES`]."]
    Places of Place, at most limits::PLACES;
}

value_on_the_wire! {
    CodeClaims => "[1*3 (\"device\" / \"child\" / \"category\")]", {
        "type": "array", "minItems": 1, "maxItems": 3, "uniqueItems": true,
        "items": { "enum": ["device", "child", "category"] }
    };
}
