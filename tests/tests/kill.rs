//! Kills that are power cuts, while payments go on (correctness.md 5): no acknowledged step is lost, nothing is done
//! twice, every failure is refunded once, no money appears or vanishes.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that reports what it did")]

use std::path::{Path, PathBuf};
use std::process::Command;

use farthing_tests::killing::{Plan, Report, Target, play, steps};
use farthing_tests::process::binary;
use schemas::message::PaymentState;

const SEED: u64 = 0xFA27;

/// CP-7, CP-9, CP-12, MO-3, MO-5
#[test]
fn payments_survive_30_power_cuts() {
    check(&play(Plan::every_step(SEED, 30), binary("cloud-core")));
}

/// CP-7, CP-9, CP-12, MO-3, MO-5
#[test]
#[ignore = "long: 200 kills"]
fn payments_survive_200_power_cuts() {
    check(&play(Plan::every_step(SEED + 1, 200), binary("cloud-core")));
}

/// A suite that passes with a core that never syncs proves nothing.
#[test]
#[ignore = "builds a second variant of the core"]
fn the_suite_fails_when_sync_is_removed() {
    let with_sync = play(Plan::after_promises(SEED), binary("cloud-core"));
    assert_eq!(with_sync.violations, [] as [&str; 0], "the same plan with the core as it is");
    let without_sync = play(Plan::after_promises(SEED), build_without_sync());
    eprintln!("without sync: {:#?}", without_sync.violations);
    assert!(without_sync.violations.iter().any(|why| why.starts_with("lost: ")), "nobody noticed");
}

fn check(report: &Report) {
    show(report);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    for end in [PaymentState::Delivered, PaymentState::DeliveredInPart, PaymentState::Refunded] {
        assert!(report.ends.contains_key(&end), "no payment ended as {end}: the run proves too little");
    }
    for target in Target::ALL {
        for step in steps(target) {
            assert!(hits(report, target, step) > 0, "{target:?} was never killed at {step}");
        }
    }
}

fn show(report: &Report) {
    eprintln!(
        "seed {SEED:#x}, {} kills, {} payments, {:?}",
        report.kills.len(),
        report.payments,
        report.took
    );
    eprintln!("ends: {:?}", report.ends);
    for target in Target::ALL {
        for step in steps(target) {
            let at = report.kills.iter().filter(|kill| kill.target == target && kill.step == step);
            let at: Vec<String> = at.map(|kill| kill.nth.to_string()).collect();
            eprintln!("{target:>9?}  {step:<18} {:>3}  at passage {}", at.len(), at.join(", "));
        }
    }
}

fn hits(report: &Report, target: Target, step: &str) -> usize {
    report.kills.iter().filter(|kill| kill.target == target && kill.step == step).count()
}

fn build_without_sync() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = root.join("target").join("no-sync");
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "-p",
            "cloud-core",
            "--no-default-features",
            "--features",
            "fault-no-sync",
            "--target-dir",
        ])
        .arg(&target)
        .current_dir(root)
        .status();
    assert!(built.unwrap().success(), "the second variant does not build");
    target.join("debug").join("cloud-core")
}
