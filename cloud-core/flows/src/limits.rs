//! Limits of the core, in one place.

/// Messages owed to one principal. When it is reached new work for a device is refused (`device_busy`), and a person
/// loses the oldest status, which a `status-request` brings back.
pub const OUTBOX_MESSAGES: usize = 256;
/// Open payments of one payer. Refusal: `too_many_open`.
pub const OPEN_PAYMENTS_OF_PAYER: usize = 16;
/// Remembered requests of one principal. Refusal: `too_many_requests`.
pub const REQUESTS_OF_PRINCIPAL: usize = 1_000;
/// Connections of one person's terminals. The oldest gives way.
pub const CONNECTIONS_OF_PRINCIPAL: usize = 8;
/// How long a status is owed to a person's terminal, in milliseconds: 24 h.
pub const STATUS_LIFE_MS: u64 = 24 * 3_600_000;
/// How far ahead of ours a chip's time of issue may be, in milliseconds.
pub const CLOCK_SKEW_MS: u64 = 60_000;
/// Audit records of refusals for one principal in one minute; further ones are only counted.
pub const AUDITED_REFUSALS_PER_MINUTE: u32 = 10;
/// Principals whose refusals are counted at the same time.
pub const AUDITED_PRINCIPALS: usize = 10_000;
/// Attempts after which a silent bank is named in the exceptions queue. It is asked on all the same.
pub const BANK_ATTEMPTS_UNTIL_NAMED: u32 = 8;
/// Rows in one answer to an operator.
pub const ADMIN_ROWS: usize = 1_000;
/// Longest text of an audit record, in bytes.
pub const AUDIT_TEXT_BYTES: usize = 200;
/// Validity of a device certificate, in milliseconds: 2 years.
pub const CERTIFICATE_LIFE_MS: u64 = 2 * 365 * 24 * 3_600_000;
