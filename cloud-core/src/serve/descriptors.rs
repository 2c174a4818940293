//! File descriptors. Each connection takes one, and so does each file of the journal: if strangers could use them up,
//! the next segment could not be made, and a journal that cannot be written ends the process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for what is no MQTT connection: journal, banks, enrolment, operators, metrics.
const RESERVED: u64 = 1024;

/// Raises the limit of this process as far as the system lets it, and says how many of the wanted MQTT connections fit.
pub(super) fn connections_that_fit(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    // If it may not be raised, the old one counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let fitting = fitting(wanted, getrlimit(Resource::Nofile).current);
    if fitting < wanted {
        tracing::warn!(
            max_connections = wanted,
            fitting,
            "this user may not open files for so many connections, so fewer are taken; raise the limit of open files (ulimit -Hn, LimitNOFILE=)"
        );
    }
    fitting
}

/// `limit`: none is unlimited.
fn fitting(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let free = limit - RESERVED.min(limit / 2);
    wanted.min(usize::try_from(free).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_journal() {
        assert_eq!(fitting(20_000, None), 20_000);
        assert_eq!(fitting(20_000, Some(524_288)), 20_000);
        assert_eq!(fitting(20_000, Some(20_000)), 18_976);
        assert_eq!(fitting(20_000, Some(1024)), 512);
        assert_eq!(fitting(100, Some(1024)), 100);
        assert_eq!(fitting(100, Some(0)), 1);
    }
}
