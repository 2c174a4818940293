//! A journal of every release, replayed to a pinned state: `evolve` on old events is frozen (correctness.md 3).
//!
//! `golden/v0.1.0.seg` is the segment that the binary of that release wrote, without the zeros behind its last frame:
//! two tenants, one with a bank over HTTP and one with accounts of its own; payments delivered, refunded, voided, held
//! and open; refusals, enrolments and a revocation. `tests/tests/upgrade.rs` serves from it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use cloud_core_flows::Cloud;
use cloud_core_flows::event::Record;
use schemas::cbor;
use schemas::ids::Hash;
use schemas_journal::{
    Disk, Head, Journal, JournalLimits, MemoryDisk, Position, existing_chain_id, for_each_record,
    verify_against,
};

const V0_1_0: &[u8] = include_bytes!("golden/v0.1.0.seg");
/// As that release printed it.
const V0_1_0_HEAD: &str = "182:5bf251473c8428936bf13c6a7910638998d4cbb36f0918c2bba9951e6014d2ff";
/// SHA-256 of the state after it, in CBOR.
const V0_1_0_STATE: &str = "2f45972d708524bedf39b0babe8fba8e5aed2f1b2b5a71c2d889396e6ef73564";

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let name = "journal-00000001.seg";
    let file_bytes = u64::from_le_bytes(*V0_1_0[24..].first_chunk::<8>().unwrap());
    disk.create(name, file_bytes).unwrap();
    disk.write(name, 0, V0_1_0).unwrap();
    disk.sync(name).unwrap();
    disk
}

fn replayed() -> Cloud {
    let disk = disk();
    let chain = existing_chain_id(&disk).unwrap().unwrap();
    let mut cloud = Cloud::default();
    let journal = Journal::open(disk, JournalLimits::agent(), chain, &mut cloud).unwrap();
    assert!(journal.recovery().cut.is_none() && journal.position() > Position::ZERO);
    cloud
}

#[test]
fn the_journal_of_v0_1_0_is_the_one_that_its_release_wrote() {
    let head: Head = V0_1_0_HEAD.parse().unwrap();
    let report = verify_against(&disk(), Position::END, &[head]).unwrap();
    assert_eq!((report.problem, report.records), (None, head.position));
}

/// A state that has learned a new field keeps this hash: the field has a default, and is left out while it has that
/// value (`#[serde(default, skip_serializing_if = ...)]`). If the hash changes although no old event means anything
/// else now (a field was renamed, say), pin the new one and give the reason in the commit.
#[test]
fn the_journal_of_v0_1_0_replays_to_its_pinned_state() {
    let cloud = replayed();
    cloud.check().unwrap();
    let mut states: Vec<_> = cloud
        .payments()
        .map(|payment| format!("{} {:?} {}", payment.payer, payment.state(), payment.paid_minor))
        .collect();
    states.sort();
    assert_eq!(
        states,
        [
            "acme/payer-0 Delivered 150",
            "acme/payer-0 Refunded 0",
            "home/payer-0 Delivered 150",
            "home/payer-0 Held 0",
            "home/payer-0 PendingVerification 0",
            "home/payer-0 Voided 0",
        ]
    );
    assert_eq!((cloud.open_payments(), cloud.exceptions().count()), (1, 1));
    assert_eq!(Hash::of(&cbor::encode(&cloud)).to_string(), V0_1_0_STATE);
}

/// What this release writes for an old event is what the old one wrote: no record changes its meaning or its bytes.
#[test]
fn every_record_of_v0_1_0_is_encoded_as_it_was() {
    let mut kinds = std::collections::BTreeSet::new();
    for_each_record(&disk(), |position, _, bytes| {
        let record = Record::decode(bytes).unwrap();
        assert_eq!(record.encode(), bytes, "record {position}");
        kinds.insert(record.event.kind().as_str());
    })
    .unwrap();
    let all = ["administration", "command", "message", "money", "operation", "refusal"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
}
