//! The verbs of `device-sim world`, each on its command line.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn world(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_device-sim"))
        .arg("world")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A verb that does not read may be gone before it is written to.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

#[test]
fn run_writes_a_trace_that_replay_finds_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace.jsonl");
    let path = file.to_str().unwrap();
    let options = ["--seed", "11", "--without", "break,half-open", "--purchases", "3"];
    let (ok, text) = world(&[&["run", "--quiet", "--json", path], &options[..]].concat(), "");
    assert!(ok && text.contains("seed 11:"), "{text}");
    let (ok, text) = world(&["replay", path], "");
    assert!(ok && text.contains("--without break,half-open --purchases 3: the same"), "{text}");

    let written = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<String> = written.lines().map(str::to_owned).collect();
    lines[4] = lines[4].replace("\"who\":\"", "\"who\":\"somebody ");
    std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    let (ok, text) = world(&["replay", path], "");
    assert!(!ok && text.contains("line 5 differs") && text.contains("somebody"), "{text}");
}

#[test]
fn replay_of_a_file_without_a_header_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace.jsonl");
    std::fs::write(&file, "{}\n").unwrap();
    let (ok, text) = world(&["replay", file.to_str().unwrap()], "");
    assert!(!ok && text.contains("must hold seed and options"), "{text}");
}

/// A fault is declared to break a rule; the command that is printed repeats it.
#[test]
fn swarm_makes_the_first_failure_small_and_prints_how_to_repeat_it() {
    let arguments = ["swarm", "--seeds", "0..60", "--fail-on", "bank-answer-lost"];
    let (ok, text) = world(&arguments, "");
    assert!(!ok && text.contains("making seed") && text.contains("broke a rule"), "{text}");
    let repeat = text.lines().rev().find_map(|line| line.trim().strip_prefix("repeat: device-sim world "));
    let arguments: Vec<&str> = repeat.unwrap().split(' ').collect();
    assert!(arguments.contains(&"--only") && arguments.contains(&"--purchases"), "{arguments:?}");
    let (ok, text) = world(&arguments, "");
    assert!(!ok && text.contains("pretended"), "{text}");
}

#[test]
fn swarm_prints_coverage_and_the_cells_that_stayed_empty() {
    let (ok, text) = world(&["swarm", "--seeds", "0..3"], "");
    assert!(ok && text.contains("cells are empty: ") && text.contains(" more"), "{text}");
    assert!(text.contains("fault \\ state") && text.contains("either: "), "{text}");
}

#[test]
fn step_walks_goes_on_to_the_next_fault_shows_and_quits() {
    let (ok, text) = world(&["step", "--seed", "11"], "\n\n3\nc\np\nnonsense\nq\n");
    assert!(ok, "{text}");
    assert!(
        text.matches("go on until the next fault").count() == 2,
        "help at first and for nonsense: {text}"
    );
    assert!(text.contains("fault") && text.contains("to come") && text.contains("payments"), "{text}");
}

#[test]
fn step_ends_with_the_world() {
    let (ok, text) = world(&["step", "--seed", "11"], "999999999\n");
    assert!(ok && text.contains("at rest, and every rule holds"), "{text}");
    let (ok, text) = world(&["step", "--seed", "11", "--fail-on", "break"], "99999999\n");
    assert!(!ok && text.contains("pretended"), "{text}");
}

#[test]
fn meta_finds_each_world_the_same_twice() {
    let (ok, text) = world(&["meta", "--seeds", "0..6"], "");
    assert!(ok && text.contains("6 worlds twice") && text.contains("the same to the byte"), "{text}");
}

#[test]
fn an_unknown_fault_is_refused_with_the_names() {
    let (ok, text) = world(&["run", "--seed", "1", "--without", "rain"], "");
    assert!(!ok && text.contains("no such fault") && text.contains("core-crash"), "{text}");
}
