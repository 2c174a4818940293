//! A decision is on disk whole or not at all, however many frames a batch takes (architecture.md, THE order).

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use std::collections::BTreeSet;

use cloud_core_flows::admin::{AdminCommand, BankKind, Deadlines, OnUnknown};
use cloud_core_flows::driver::{Driver, Fault};
use cloud_core_flows::port::Input;
use common::{START, chain, limits};
use schemas::time::Timestamp;
use schemas_journal::{JournalLimits, MemoryDisk};

fn register(driver: &mut Driver<MemoryDisk>, number: u32) {
    let tenant = format!("tenant-{number}").parse().unwrap();
    let command = AdminCommand::CreateTenant {
        tenant,
        currency: "EUR".parse().unwrap(),
        bank: BankKind::Internal,
        on_unknown: OnUnknown::Refund,
        deadlines: Deadlines::default(),
        code_rules: Default::default(),
    };
    driver.handle(Input::Admin { ticket: u64::from(number), by: None, command }, Timestamp(START));
}

/// MO-5, MO-9: after a power cut between any two writes the state is one that was decided, never half of a decision.
#[test]
fn a_power_cut_between_the_frames_of_a_batch_keeps_whole_decisions() {
    let small = JournalLimits { record_max_bytes: 2 << 10, frame_max_bytes: 4 << 10, ..limits() };
    let (mut cuts, mut frames) = (BTreeSet::new(), 0);
    for operations in 0.. {
        let disk = MemoryDisk::new();
        let mut driver = Driver::open(disk.clone(), small, chain(), || Timestamp(START)).unwrap();
        let mut ends = BTreeSet::from([0, driver.decided().value()]);
        let mut longest = 0;
        for number in 0..40 {
            let before = driver.decided().value();
            register(&mut driver, number);
            longest = longest.max(driver.decided().value() - before);
            ends.insert(driver.decided().value());
        }
        assert!(longest > 1, "a decision of one record cannot be cut");
        disk.stop_after(operations);
        let done = driver.append().is_ok();
        if let Some(point) = driver.sync_point().filter(|_| done) {
            let _ = point.run(&disk);
        }
        drop(driver);
        // What reached the disk before it stopped is kept.
        disk.restart();
        let driver = Driver::open(disk, small, chain(), || Timestamp(START)).unwrap();
        let found = driver.journal().position().value();
        assert!(
            ends.contains(&found),
            "stopped after {operations} writes: {found} is inside a decision of {ends:?}"
        );
        cuts.insert(found);
        frames += 1;
        if done {
            break;
        }
    }
    assert!(frames > 2 && cuts.len() > 2, "the batch took several frames: {cuts:?}");
}

/// It names itself rather than being cut.
#[test]
fn a_decision_that_fits_no_frame_ends_the_process() {
    let disk = MemoryDisk::new();
    let tiny = JournalLimits { record_max_bytes: 390, frame_max_bytes: 496, ..limits() };
    let mut driver = Driver::open(disk, tiny, chain(), || Timestamp(START)).unwrap();
    register(&mut driver, 1);
    match driver.append() {
        Err(Fault::DecisionTooLong { bytes, frame_max_bytes: 496 }) => assert!(bytes > 400, "{bytes}"),
        other => panic!("{other:?}"),
    }
}
