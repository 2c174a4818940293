//! Wire limits, in one place. What exceeds one of them is refused by name before any of it is decoded.

/// Largest MQTT payload of any message, in bytes. Refusal: `payload_too_large`.
pub const PAYLOAD_BYTES: usize = 8 * 1024;
/// Longest tenant, principal, merchant or item name, in bytes.
pub const NAME_BYTES: usize = 32;
/// Longest stable code, in bytes.
pub const CODE_BYTES: usize = 64;
/// Longest sentence meant for a person, in bytes.
pub const TEXT_BYTES: usize = 512;
/// Longest signed structure (payment information, verification), in bytes. Fits QR version 20 at level M as text.
pub const SIGNED_BYTES: usize = 512;
/// Largest amount, in minor units: far below where sums of `u64` could overflow (10^18 / 10^12 payments).
pub const AMOUNT_MINOR: u64 = 1_000_000_000_000;
/// Most units (pieces, seconds, millilitres) that one payment may buy.
pub const QUANTITY: u32 = 100_000;
/// Longest time between the making of a request and its `not_after`, in milliseconds: 24 h (correctness.md 17).
pub const REQUEST_LIFE_MS: u64 = 24 * 60 * 60 * 1000;
/// Most categories of one payment order.
pub const CATEGORIES_OF_PAYMENT: usize = 8;
/// Most categories with a limit of their own.
pub const CATEGORY_LIMITS: usize = 32;
/// Most places of one tenant, so that all of them fit one message.
pub const PLACES: usize = 32;
/// Longest title of a place, in bytes.
pub const PLACE_TITLE_BYTES: usize = 64;
/// Largest radius of a place, in metres.
pub const PLACE_RADIUS_M: u32 = 100_000;
/// Longest text of a code that is scanned, in bytes.
pub const CODE_TEXT_BYTES: usize = 1_024;
/// Largest signed catalogue of places, in bytes.
pub const CATALOGUE_BYTES: usize = 7 * 1024;
/// Most children that one payment is suggested to go through.
pub const SUGGESTED_CHILDREN: usize = 8;
/// Most keywords of a wish.
pub const KEYWORDS: usize = 8;
/// Most wishes that a child sees at once.
pub const SHOWN_WISHES: usize = 22;
/// Most results of payments that a child sees at once.
pub const SHOWN_RESULTS: usize = 5;
/// Of a wish or a payment's purpose in a list, in bytes.
pub const SHOWN_WISH_BYTES: usize = 60;
/// Of a guardian's reason in a list, in bytes.
pub const SHOWN_REASON_BYTES: usize = 120;
/// Most goals that a child saves for.
pub const GOALS: usize = 8;
/// Most guardians of one child.
pub const GUARDIANS_OF_CHILD: usize = 8;
