//! The harness of the workspace's tests: the real binaries on ephemeral ports, in temporary directories, ended with
//! the test. The tests themselves are in `tests/`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a harness: what fails here fails a test, with its place"
)]

pub mod bank;
pub mod fleet;
pub mod fuzz;
pub mod killing;
pub mod process;
pub mod random;
pub mod wire;

use std::time::{Duration, Instant};

/// Nothing here takes longer; a test that waits for it has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer.
///
/// # Panics
/// After [`PATIENCE`].
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(PAUSE);
    }
}
