//! Limits of the core, in one place.

/// Messages owed to one principal. When it is reached new work for a device is refused (`device_busy`), and a person
/// loses the oldest status, which a `status-request` brings back.
pub const OUTBOX_MESSAGES: usize = 256;
/// Open payments of one payer. Refusal: `too_many_open`.
pub const OPEN_PAYMENTS_OF_PAYER: usize = 16;
/// Open payments that one device takes part in: all that they may owe it fits its outbox. Refusal: `device_busy`.
pub const OPEN_PAYMENTS_OF_DEVICE: usize = 64;
/// Entries of the exceptions queue above which outcomes without a payment are put off (0x97), so that a device that
/// invents commands can't fill the memory. What has a payment is always named.
pub const EXCEPTIONS: usize = 100_000;
/// Longest free text of an operator (profile, bank address, account), in bytes.
pub const REGISTERED_TEXT_BYTES: usize = 200;
/// Open payments that one guardian has ordered, from all its children. Refusal: `too_many_open`.
pub const OPEN_ORDERS_OF_GUARDIAN: usize = 64;
/// Payments of one child in memory, open and closed: a guardian who orders and cancels without end fills no books.
/// Refusal: `too_many_payments`.
pub const KEPT_PAYMENTS_OF_CHILD: u32 = 1_000;
/// Guardians of one child.
pub const GUARDIANS_OF_CHILD: usize = schemas::limits::GUARDIANS_OF_CHILD;
/// Terminals of one place.
pub const TERMINALS_OF_PLACE: usize = 8;
/// Of the names of the categories that one code says, with 2 for each, in bytes: with all else that it may say the code
/// stays within [`schemas::limits::SIGNED_BYTES`]. Refusal: `code_too_long`.
pub const CATEGORIES_OF_CODE_BYTES: usize = 160;
/// Wishes on one child's list. Refusal: `too_many_wishes`.
pub const OPEN_WISHES: usize = 16;
/// Wishes of one child on one day, in its time zone. Refusal: `too_many_wishes_today`.
pub const WISHES_OF_DAY: u32 = 20;
/// Wishes of one child that have ended and are remembered: more than a piggy bank has in flight. One that is sent again after
/// so many others have ended is taken for a new one.
pub const ENDED_WISHES: usize = 32;
/// Outputs that wait for room on a full disk: with more of them what comes is put off without saying why.
pub const HELD_WHILE_STARVED: usize = 10_000;
/// Suggestions that one person is asked about at a time. Refusal: `too_many_open`.
pub const SUGGESTIONS: usize = 4;
/// Payments from one person's own account in memory. Refusal: `too_many_payments`.
pub const OWN_PAYMENTS: usize = 1_000;
/// How long a wish is owed to a guardian's terminal, in milliseconds: 30 days.
pub const WISH_LIFE_MS: u64 = 30 * 24 * 3_600_000;
/// How far ahead the first payment of an allowance lies at most, in milliseconds: a year.
pub const FIRST_ALLOWANCE_MS: u64 = 366 * 24 * 3_600_000;
/// Longest title of a goal, in bytes.
pub const GOAL_TITLE_BYTES: usize = 80;
/// Items that one chip may tie to executors of their own.
pub const ITEMS_OF_CHIP: usize = 256;
/// Remembered requests of one principal. Refusal: `too_many_requests`.
pub const REQUESTS_OF_PRINCIPAL: usize = 1_000;
/// Connections of one person's terminals. The oldest gives way.
pub const CONNECTIONS_OF_PRINCIPAL: usize = 8;
/// How long a status is owed to a person's terminal, in milliseconds: 24 h.
pub const STATUS_LIFE_MS: u64 = 24 * 3_600_000;
/// How long a device's word that it is not ready is taken, in milliseconds: longer than it is silent (10 min).
pub const REPORT_LIFE_MS: u64 = 15 * 60_000;
/// How far ahead of ours a chip's time of issue, or a terminal's time of a scan, may be, in milliseconds.
pub const CLOCK_SKEW_MS: u64 = 60_000;
/// Audit records of refusals for one principal in one minute; further ones are only counted.
pub const AUDITED_REFUSALS_PER_MINUTE: u32 = 10;
/// Audit records of refusals for all principals together in one minute, so that many can't fill the journal either: at
/// about 200 bytes each some 170 MB a day. How many were not written down is itself on record when the minute ends.
pub const AUDITED_REFUSALS_OF_ALL_PER_MINUTE: u32 = 600;
/// Principals whose refusals are counted at the same time.
pub const AUDITED_PRINCIPALS: usize = 10_000;
/// Attempts after which a silent bank is named in the exceptions queue. It is asked on all the same.
pub const BANK_ATTEMPTS_UNTIL_NAMED: u32 = 8;
/// Commands of one batch. Refusal: `batch_too_long`; so is one whose records do not fit one frame of the journal.
pub const BATCH_COMMANDS: usize = 5_000;
/// Rows in one answer to an operator.
pub const ADMIN_ROWS: usize = 1_000;
/// Connections that a drain ends in one second, at most.
pub const DRAINED_PER_SECOND: u32 = 100_000;
/// Refusals that operators are shown, and reasons that are counted.
pub const RECENT_REFUSALS: usize = 500;
/// Longest text of an audit record, in bytes.
pub const AUDIT_TEXT_BYTES: usize = 200;
/// Validity of a device certificate unless the shell says otherwise, in milliseconds: 2 years.
pub const CERTIFICATE_LIFE_MS: u64 = 2 * 365 * 24 * 3_600_000;
/// How much earlier than now a certificate begins, at most, in milliseconds: a device's clock may lag behind.
pub const CERTIFICATE_EARLIER_MS: u64 = 3_600_000;

/// Of a `state` that operators are shown, in characters.
pub(crate) const STATE_CHARS: usize = 64;
/// Longer ago, where a child agreed says nothing of where it is, in milliseconds: 5 min.
pub(crate) const POSITION_LIFE_MS: u64 = 300_000;
