//! THE order under SIGKILL, with writes held in memory until they are synced: a kill is a power cut (correctness.md 5).
//! A build with the feature `fault-no-sync` must fail here.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::unix::process::ExitStatusExt;

use common::{Core, serve_command};

const SIGKILL: i32 = 9;

/// Kills a core at the step while a tenant is created; says whether the operator was told that it is done, and whether
/// the tenant is there after the restart.
fn kill_at(step: &str) -> (bool, bool) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = serve_command(directory.path());
    command.env("FARTHING_HOLD_WRITES", "1").env("FARTHING_KILL_AT", step);
    let core = Core::start_with(directory.path(), command);
    let told = core.admin(&["tenants", "create", "acme", "--currency", "EUR"]).status.success();
    let (status, log) = core.ended();
    assert_eq!(status.signal(), Some(SIGKILL), "{step} was not passed: {log}");

    let core = Core::start(directory.path());
    let there = core.admin_ok(&["tenants", "list"]).contains("acme");
    core.stop();
    (told, there)
}

/// Rows: step (the start itself passes `appended` and `synced` once), whether the tenant must be there afterwards.
#[test]
fn nothing_is_said_before_it_is_synced_and_what_is_synced_is_there_after_a_power_cut() {
    let table = [
        ("received:1", false),
        ("decided:1", false),
        ("appended:2", false),
        ("synced:2", true),
        ("released-reply:1", true),
    ];
    for (step, must_be_there) in table {
        let (told, there) = kill_at(step);
        assert_eq!(there, must_be_there, "{step}");
        assert!(!told || there, "{step}: the operator was told of something that is gone");
        assert!(!told || step.starts_with("released"), "{step}: told before the release");
    }
}

#[test]
fn a_kill_point_that_is_none_is_refused_with_the_names_of_all() {
    let directory = tempfile::tempdir().unwrap();
    let output = serve_command(directory.path()).env("FARTHING_KILL_AT", "nowhere:1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(common::text(&output.stderr).contains("released-promise"));
}
