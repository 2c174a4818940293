//! What a reader of the README types, typed: `tests/walkthrough.sh` with the built binaries in PATH.
#![allow(clippy::unwrap_used, reason = "tests")]

use farthing_tests::process::{binary, command, text};

#[test]
#[ignore = "needs mosquitto-clients"]
fn a_reader_buys_one_bottle_and_gets_the_money_for_another_one_back() {
    let directory = tempfile::tempdir().unwrap();
    let binaries = binary("cloud-core").parent().unwrap().display().to_string();
    for name in ["edge-agent", "device-sim"] {
        binary(name);
    }
    let mut shell = command("bash");
    shell.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/walkthrough.sh")).current_dir(directory.path());
    shell.env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap()));
    let output = shell.output().unwrap();
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", text(&output.stderr));
    assert!(told.contains("\"state\":\"delivered\"") && told.contains("\"state\":\"refunded\""), "{told}");
    assert!(told.trim_end().ends_with("== the books agree"), "{told}");
}
