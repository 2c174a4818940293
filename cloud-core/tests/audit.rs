//! The audit trail on the real binary (MO-8): shown, verified, and refused when somebody changed it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;

use common::{Core, command, text};
use schemas_journal::{FileDisk, Position, copy, for_each_record};
use serde_json::Value;

fn register(core: &Core) {
    core.admin_ok(&["tenants", "create", "acme", "--currency", "EUR"]);
    core.admin_ok(&["merchants", "create", "acme/kiosk", "--title", "Kiosk"]);
    core.admin_ok(&["people", "create", "acme/alice"]);
    core.admin_ok(&["people", "create", "acme/ali"]);
    let deposit = ["accounts", "deposit", "acme/alice", "5.00 EUR", "--reference", "cash-1"];
    core.admin_ok(&deposit);
}

/// Exit code, standard output, standard error.
fn audit(data_dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command(data_dir).arg("audit").args(arguments).output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn audit_ok(data_dir: &Path, arguments: &[&str]) -> String {
    let (code, said, errors) = audit(data_dir, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {said}{errors}");
    said
}

/// MO-8: whoever changes what was synced is found: `audit verify` and the core name the same place.
#[test]
fn a_changed_byte_is_named_by_verify_and_by_the_core_that_refuses_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    register(&core);
    core.stop();
    audit_ok(directory.path(), &["verify"]);

    let mut places = Vec::new();
    let journal = FileDisk::open_read_only(directory.path().join("journal")).unwrap();
    for_each_record(&journal, |position, frame, record| {
        places.push((position.value(), frame.segment, frame.offset, record.to_vec()));
    })
    .unwrap();
    let named = places.iter().find(|place| holds(&place.3, b"alice"));
    let (_, _, offset, record) = named.unwrap().clone();
    // A batch is one thing: the first record of the damaged one is the first bad one.
    let position = places.iter().find(|place| place.2 == offset).unwrap().0;
    let file = directory.path().join("journal/journal-00000001.seg");
    let sound = std::fs::read(&file).unwrap();
    let within = usize::try_from(offset).unwrap();
    let at = within + sound[within..].windows(record.len()).position(|bytes| bytes == record).unwrap();
    let mut changed = sound.clone();
    changed[at + record.windows(5).position(|bytes| bytes == b"alice").unwrap()] = b'm';
    std::fs::write(&file, &changed).unwrap();

    let (code, said, _) = audit(directory.path(), &["verify"]);
    assert_eq!(code, Some(1), "{said}");
    let place = format!("journal-00000001.seg at byte {offset}");
    assert!(said.contains(&format!("PROBLEM in {place}")), "{said}");
    let sound_at =
        format!("the first bad record is {position}; everything up to record {} of 20", position - 1);
    assert!(said.contains(&sound_at), "{said}");
    let (_, said, _) = audit(directory.path(), &["verify", "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["problem"]["offset"], offset);
    assert_eq!(report["problem"]["first_bad_record"], position);
    assert!(report["problem"]["last_sound_record_at"].is_string());
    assert_eq!(audit(directory.path(), &["show"]).0, Some(1), "nothing is shown as if it were whole");

    let refused = Core::start(directory.path());
    assert!(!refused.is_ready());
    let (status, log) = refused.ended();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("cloud-core audit verify"), "{log}");
    assert!(log.contains(&format!("journal-00000001.seg is damaged at byte {offset}")), "{log}");

    std::fs::write(&file, &sound).unwrap();
    Core::start(directory.path()).stop();
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// MO-8: a chain that was cut is sound in itself. Who has noted its head finds it, also when the core has gone on.
#[test]
fn a_cut_end_is_found_by_the_head_that_the_operator_noted() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let core = Core::start(&data);
    register(&core);
    let noted = audit_ok(&data, &["head"]).trim().to_owned();
    core.admin_ok(&["people", "create", "acme/bob"]);
    let later = audit_ok(&data, &["head"]).trim().to_owned();
    assert_ne!(noted, later);
    let said = audit_ok(&data, &["verify", "--expect", &noted, "--expect", &later]);
    assert!(said.contains("as noted"), "beside the running core: {said}");
    core.stop();
    let said = audit_ok(&data, &["head", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["head"], later.as_str());

    let cut = directory.path().join("cut");
    let (position, _) = noted.split_once(':').unwrap();
    let position: u64 = position.parse().unwrap();
    std::fs::create_dir(&cut).unwrap();
    let from = FileDisk::open_read_only(data.join("journal")).unwrap();
    copy(&from, &FileDisk::open(cut.join("journal")).unwrap(), Position::new(position)).unwrap().unwrap();
    audit_ok(&cut, &["verify", "--expect", &noted]);
    let (code, said, _) = audit(&cut, &["verify", "--expect", &noted, "--expect", &later]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("PROBLEM: the journal ends at record {position}")), "{said}");

    let core = Core::start(&cut);
    core.admin_ok(&["people", "create", "acme/carol"]);
    core.admin_ok(&["people", "create", "acme/dave"]);
    core.stop();
    audit_ok(&cut, &["verify", "--expect", &noted]);
    assert_eq!(audit(&cut, &["verify", "--expect", &later]).0, Some(1));
    assert_eq!(audit(&cut, &["verify", "--expect", "12"]).0, Some(2));
}

/// MO-8: money, administration and refusals are told apart, by time and by who is named.
#[test]
fn records_are_shown_by_kind_time_and_principal_beside_a_running_core_and_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    register(&core);
    let show = |arguments: &[&str]| -> Vec<Value> {
        let said = audit_ok(directory.path(), &[&["show", "--json"], arguments].concat());
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = show(&[]);
    assert!(all.len() > 6 && all[0]["position"] == 1);
    assert!(all.iter().all(|record| record["event"].is_object() || record["event"].is_string()));
    let money = show(&["--kind", "money"]);
    assert!(!money.is_empty() && money.len() < all.len(), "{money:?}");
    let alice = show(&["--principal", "acme/alice"]);
    assert!(!alice.is_empty());
    let ali = show(&["--principal", "acme/ali", "--kind", "administration"]);
    assert_eq!(ali.len(), 1, "{ali:?}");
    assert!(show(&["--until", "2020-01-01"]).is_empty());
    assert_eq!(show(&["--since", "1h"]).len(), all.len());
    assert!(show(&["--since", "1h", "--kind", "refusal"]).is_empty());
    assert_eq!(show(&["--after", "3"])[0]["position"], 4);
    let lines = audit_ok(directory.path(), &["show", "--kind", "administration"]);
    assert!(lines.lines().all(|line| line.contains("administration")), "{lines}");
    assert_eq!(audit(directory.path(), &["show", "--kind", "gossip"]).0, Some(2));
    core.stop();
    assert_eq!(show(&[]).len(), all.len());
}

/// Segments that an operator has moved away are part of the chain again when their directory is named.
#[test]
fn archived_segments_are_verified_and_shown_with_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let core = Core::start(&data);
    register(&core);
    core.stop();
    let archive = directory.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    for name in ["journal-00000001.seg", "journal-00000002.seg"] {
        std::fs::rename(data.join("journal").join(name), archive.join(name)).unwrap();
    }
    let archive = archive.display().to_string();
    let said = audit_ok(&data, &["verify", "--archive", &archive]);
    assert!(said.contains("starts after record  0"), "{said}");
    assert!(audit_ok(&data, &["show", "--archive", &archive]).lines().count() > 6);
}
