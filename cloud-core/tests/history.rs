//! Payments that have left memory are found by id and by person, on the real binary; an index that is damaged, missing or
//! of another journal is built again by itself.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{Core, serve_command, text};
use serde_json::Value;

/// Written by the binary of v0.1.0, without the zeros at its end: payments of two tenants, most of them closed.
const V0_1_0: &[u8] = include_bytes!("../flows/tests/golden/v0.1.0.seg");

fn put_segment(data_dir: &Path) {
    let length = u64::from_le_bytes(*V0_1_0[24..].first_chunk::<8>().unwrap());
    let mut whole = V0_1_0.to_vec();
    whole.resize(usize::try_from(length).unwrap(), 0);
    std::fs::create_dir_all(data_dir.join("journal")).unwrap();
    std::fs::write(data_dir.join("journal/journal-00000001.seg"), whole).unwrap();
}

fn start(data_dir: &Path) -> Core {
    let mut command = serve_command(data_dir);
    // The data is older with each day.
    command.arg("serve").arg("--accept-clock");
    let core = Core::start_with(data_dir, command);
    assert!(core.is_ready());
    core
}

/// The answer as JSON, as soon as it is `wanted`.
fn until(core: &Core, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let output = core.admin(&[&["--json"], arguments].concat());
        let said = text(&output.stdout);
        match serde_json::from_str(&said) {
            Ok(answer) if wanted(&answer) => return answer,
            _ => assert!(Instant::now() < deadline, "{arguments:?}: {said}{}", text(&output.stderr)),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn rows(answer: &Value) -> Vec<Value> {
    answer["rows"]["rows"].as_array().cloned().unwrap_or_default()
}

fn states(answer: &Value) -> Vec<String> {
    rows(answer).iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

/// All closed payments leave memory, as their retention has long ended.
fn let_closed_ones_leave(core: &Core) {
    for tenant in ["acme", "home"] {
        core.admin_ok(&["tenants", "change", tenant, "--deadline", "retention_ms=60000"]);
    }
    let only_at_rest = |answer: &Value| {
        let left = answer["rows"].as_array().unwrap();
        left.iter()
            .all(|row| ["held", "pending_verification", "expired"].contains(&row["state"].as_str().unwrap()))
    };
    until(core, &["payments", "list"], only_at_rest);
}

#[test]
fn a_payment_that_has_left_memory_is_found_by_id_and_by_person() {
    let directory = tempfile::tempdir().unwrap();
    put_segment(directory.path());
    let core = start(directory.path());
    let_closed_ones_leave(&core);

    let of_payer = ["payments", "list", "--person", "acme/payer-0"];
    let answer = until(&core, &of_payer, |answer| rows(answer).len() == 2);
    let mut found = states(&answer);
    found.sort();
    assert_eq!(found, ["delivered", "refunded"]);
    assert!(answer["rows"]["next"].is_null(), "there are no more");

    // Page by page, newest first.
    let first = until(&core, &[&of_payer[..], &["--limit", "1"]].concat(), |answer| rows(answer).len() == 1);
    let next = first["rows"]["next"].as_str().unwrap();
    let second = until(&core, &[&of_payer[..], &["--before", next]].concat(), |_| true);
    assert_eq!([rows(&first), rows(&second)].concat(), rows(&answer));
    let merchants = until(&core, &["payments", "list", "--merchant", "acme/snacks"], |_| true);
    assert_eq!(rows(&merchants).len(), 2);
    let printed = core.admin_ok(&of_payer);
    assert!(printed.contains("delivered") && printed.contains("merchant/snacks"), "{printed}");
    let nobody = until(&core, &["payments", "list", "--person", "acme/nobody"], |_| true);
    assert_eq!(rows(&nobody), Vec::<Value>::new());
    let refused = core.admin(&[&of_payer[..], &["--before", "yesterday"]].concat());
    assert!(text(&refused.stderr).contains("`next`"), "{}", text(&refused.stderr));

    // The whole story, to the end of its time in memory.
    let delivered = rows(&answer).into_iter().find(|row| row["state"] == "delivered").unwrap();
    let id = delivered["payment"].as_str().unwrap();
    let story = core.admin_ok(&["payments", "show", id]);
    for part in
        ["acme/payer-0 asks to pay", "now closed delivered", "it left memory", "has acknowledged the message"]
    {
        assert!(story.contains(part), "{part}: {story}");
    }
    let unknown = core.admin(&["payments", "show", &"0".repeat(32)]);
    assert!(text(&unknown.stderr).contains("names no payment"), "{}", text(&unknown.stderr));
    core.stop();
}

#[test]
fn an_index_that_is_damaged_or_missing_is_built_again_and_payments_go_on() {
    let directory = tempfile::tempdir().unwrap();
    put_segment(directory.path());
    let of_payer = ["payments", "list", "--person", "home/payer-0"];
    let core = start(directory.path());
    let before = until(&core, &of_payer, |answer| rows(answer).len() == 4);
    // Killed, not stopped.
    drop(core);
    let index = directory.path().join("index");
    for name in
        std::fs::read_dir(&index).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    {
        std::fs::write(name, [0xA5; 100_000]).unwrap();
    }
    let core = start(directory.path());
    let again = until(&core, &of_payer, |answer| rows(answer).len() == 4);
    let ids = |answer: &Value| rows(answer).iter().map(|row| row["payment"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&before));
    core.wait_for_log("the index of payments failed; payments are not affected", 1);
    assert!(core.http("/healthz").contains(" 200 "), "payments go on");
    let shown = core.http("/metrics");
    assert!(!shown.contains("farthing_history_failures_total 0\n"), "{shown}");
    core.stop();

    std::fs::remove_dir_all(&index).unwrap();
    let core = start(directory.path());
    assert_eq!(ids(&until(&core, &of_payer, |answer| rows(answer).len() == 4)), ids(&before));
    core.stop();
}
