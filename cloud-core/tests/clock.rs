//! The wall clock at the start of the real binary (correctness.md 14).
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cloud_core_flows::driver::Driver;
use common::{Core, serve_command};
use schemas::time::Timestamp;
use schemas_journal::{ChainId, FileDisk, JournalLimits};

const ONE_DAY_MS: u64 = 24 * 3_600_000;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A journal whose last record is so old: the same as a wall clock that is so far ahead.
fn left_off(data: &Path, days_ago: u64) {
    let disk = FileDisk::open(data.join("journal")).unwrap();
    let (segment_bytes, frame_max_bytes, record_max_bytes) = (1 << 20, 1 << 18, 1 << 16);
    let limits = JournalLimits { segment_bytes, frame_max_bytes, record_max_bytes, ..JournalLimits::cloud() };
    let then = Timestamp(now_ms() - days_ago * ONE_DAY_MS);
    let mut driver = Driver::open(disk.clone(), limits, ChainId([7; 32]), || then).unwrap();
    driver.append().unwrap();
    let synced = driver.sync_point().unwrap().run(&disk);
    driver.handle_synced(synced).unwrap();
}

/// The time of the journal's last record, as an auditor reads it.
fn last_record(data: &Path) -> String {
    let shown = common::command(data).args(["audit", "show", "--json"]).output().unwrap();
    assert!(shown.status.success(), "{}", common::text(&shown.stderr));
    common::text(&shown.stdout).lines().last().unwrap().to_owned()
}

#[test]
fn a_wall_clock_far_ahead_is_refused_before_it_is_in_the_journal_unless_it_is_said_to_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("core");
    left_off(&data, 31);
    let before = last_record(&data);
    let core = Core::start(&data);
    assert!(!core.is_ready());
    let (status, log) = core.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("31 days after the last record") && log.contains("--accept-clock"), "{log}");
    assert_eq!(last_record(&data), before, "nothing was written");

    let mut serve = serve_command(&data);
    serve.args(["serve", "--accept-clock"]);
    let core = Core::start_with(&data, serve);
    assert!(core.is_ready(), "{:?}", core.lines());
    core.stop();
    let core = Core::start(&data);
    assert!(core.is_ready(), "once is enough: {:?}", core.lines());
    core.stop();
}

#[test]
fn a_core_that_stood_still_for_a_month_starts_as_ever() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("core");
    left_off(&data, 29);
    let core = Core::start(&data);
    assert!(core.is_ready(), "{:?}", core.lines());
    core.stop();
}
