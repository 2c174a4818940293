//! Everything has a limit; these are the device's.

/// Messages that wait for the cloud's PUBACK, and reservations for answers that are still to come.
pub const SPOOL_ENTRIES: usize = 1_000;
/// Slots beyond [`SPOOL_ENTRIES`] in which a full device still says that it refuses.
pub const SPOOL_RESERVE: usize = 32;
/// Commands and tombstones that are remembered. More within [`COMMAND_MEMORY_MS`] are not accepted (PUBACK 0x97).
pub const COMMANDS: usize = 10_000;
/// No command is forgotten earlier than this much cloud time after its end: 48 h, in milliseconds.
pub const COMMAND_MEMORY_MS: u64 = 48 * 60 * 60 * 1000;
/// Answers to health checks that are remembered.
pub const CHECKS: usize = 1_000;
/// A payment information is remembered this long after its expiry, in milliseconds.
pub const INFORMATION_MARGIN_MS: u64 = 10 * 60 * 1000;
/// Most payment informations that any profile may have open at a time.
pub const INFORMATIONS: u32 = 256;
/// Payment informations that are remembered, expired ones included.
pub const INFORMATIONS_REMEMBERED: usize = 4_096;
/// Most prompts that any profile lets wait for an answer.
pub const PROMPTS_OPEN: u32 = 16;
/// Prompts that are remembered; if all of them are still in time, no more are accepted (PUBACK 0x97).
pub const PROMPTS: usize = 256;
/// Codes that wait to be paid with; more are put off (PUBACK 0x97).
pub const CODES_OPEN: usize = 16;
/// Codes that are remembered; if all of them are still in time, no more are accepted (PUBACK 0x97).
pub const CODES: usize = 256;
/// A position that is older counts as none, in milliseconds (devices.md).
pub const POSITION_AGE_MS: u64 = 30_000;
/// Longest life of a token, in milliseconds; a new one is made when it is over.
pub const TOKEN_MS: u64 = 120_000;
/// How many times as long as at first a message waits at most that the cloud has no quota for. Deadlines go on meanwhile.
pub const QUOTA_RETRY_TIMES: u64 = 4;
/// Wishes that wait for the cloud's promise.
pub const WISHES_WAITING: usize = 16;
/// Wishes of this piggy bank that are remembered until the cloud shows them.
pub const WISHES_SHOWN: usize = 32;
/// Longest quiet time that a profile asks for before a key counts, in milliseconds.
pub const QUIET_MS: u64 = 5_000;
/// Most keys of one meaning.
pub const KEYS: usize = 8;
/// Dead letters kept for `status`.
pub const DEAD_LETTERS: usize = 100;
/// Payment states kept for `status`.
pub const PAYMENT_STATES: usize = 32;
/// Most records forgotten by one event.
pub const FORGOTTEN_AT_ONCE: usize = 64;
/// Publishes in flight on one connection, whatever Receive Maximum allows.
pub const IN_FLIGHT: usize = 16;
/// The device says how it is at least this often on a connection, in milliseconds.
pub const REPORT_INTERVAL_MS: u64 = 10 * 60 * 1000;
/// However often its conditions change, reports are at least this far apart, in milliseconds.
pub const REPORT_PAUSE_MS: u64 = 1_000;
/// Largest state snapshot in bytes.
pub const SNAPSHOT_BYTES: usize = 16 << 20;
/// Largest journal record in bytes.
pub const RECORD_BYTES: usize = 64 << 10;
