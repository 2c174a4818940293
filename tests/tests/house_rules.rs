//! The rules of the house, checked: which package may reach which, what is pure, what stands at the top, how long a
//! file may be. A rule that nobody checks is a wish.

#![allow(clippy::unwrap_used, reason = "a test that reads files of this checkout")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PURE: &[&str] = &[
    "schemas",
    "schemas-journal",
    "schemas-mutants",
    "broker-session",
    "cloud-core-ledger",
    "cloud-core-flows",
    "edge-agent-device",
];
/// `cloud-core-history` is neither: a library with files of its own (sled), for the two shells that read a journal back.
const SHELLS: &[&str] = &["broker", "cloud-core", "edge-agent", "device-sim"];

/// The one file of a pure package that does what only shells do: both shells need it and may not depend on each other.
const IMPURE_FILE: &str = "schemas/journal/src/file.rs";

/// The one file of a pure package that keeps state of a thread, and only when faults can be switched on.
const FAULTS_FILE: &str = "schemas/mutants/src/lib.rs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn tracked() -> Vec<String> {
    let output =
        Command::new("git").arg("-C").arg(root()).args(["ls-files", "-co", "--exclude-standard"]).output();
    let listed = output.ok().filter(|output| output.status.success());
    let text = String::from_utf8(listed.expect("git lists the files of this checkout").stdout).unwrap();
    text.lines().map(str::to_owned).filter(|name| root().join(name).exists()).collect()
}

/// Names of all packages that `package` reaches by normal dependencies, with default features; or only the direct ones.
fn reached(package: &str, depth: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", package, "-e", "normal", "--prefix", "none", "-f", "{p}", "--depth", depth])
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[test]
fn pure_packages_reach_no_runtime_no_randomness_and_no_shell() {
    for pure in PURE {
        let reached = reached(pure, "99");
        for forbidden in ["tokio", "rand", "getrandom", "mio", "hyper"].iter().chain(SHELLS) {
            assert!(!reached.contains(*forbidden), "the pure package {pure} reaches {forbidden}");
        }
    }
}

/// A shell never depends on a shell, but for cloud-core: on broker always, on the others for the demo.
#[test]
fn shells_depend_on_no_shells() {
    for shell in SHELLS {
        let direct = reached(shell, "1");
        let allowed: &[&str] = match *shell {
            "cloud-core" => &["broker", "edge-agent", "device-sim"],
            _ => &[],
        };
        for other in SHELLS.iter().filter(|other| direct.contains(**other)) {
            assert!(allowed.contains(other), "the shell {shell} depends on the shell {other}");
        }
    }
    let manifest = fs::read_to_string(root().join("cloud-core/Cargo.toml")).unwrap();
    let manifest: toml::Value = toml::from_str(&manifest).unwrap();
    for child in ["edge-agent", "device-sim"] {
        let optional = manifest["dependencies"].get(child).and_then(|found| found.get("optional"));
        let absent = manifest["dependencies"].get(child).is_none();
        let optional = optional.and_then(toml::Value::as_bool) == Some(true);
        assert!(absent || optional, "cloud-core may link {child} only for the feature `demo`");
    }
}

#[test]
fn arrows_point_one_way() {
    let not = [
        (
            "schemas-mutants",
            &[
                "schemas",
                "schemas-journal",
                "broker-session",
                "cloud-core-ledger",
                "cloud-core-flows",
                "edge-agent-device",
            ][..],
        ),
        (
            "schemas",
            &[
                "schemas-journal",
                "broker-session",
                "cloud-core-ledger",
                "cloud-core-flows",
                "edge-agent-device",
            ][..],
        ),
        (
            "schemas-journal",
            &["broker-session", "cloud-core-ledger", "cloud-core-flows", "edge-agent-device"],
        ),
        ("cloud-core-ledger", &["broker-session", "cloud-core-flows", "edge-agent-device"]),
        ("cloud-core-flows", &["broker-session", "edge-agent-device"]),
        (
            "broker-session",
            &["schemas-journal", "cloud-core-ledger", "cloud-core-flows", "edge-agent-device"],
        ),
        ("edge-agent-device", &["broker-session", "cloud-core-ledger", "cloud-core-flows"]),
        ("cloud-core-history", &["broker-session", "edge-agent-device", "tokio"]),
        ("edge-agent", &["broker-session", "cloud-core-ledger", "cloud-core-flows", "sled"]),
        ("broker", &["cloud-core-ledger", "cloud-core-flows", "edge-agent-device", "sled"]),
    ];
    for (package, forbidden) in not {
        let reached = reached(package, "99");
        for name in forbidden {
            assert!(!reached.contains(*name), "{package} reaches {name}");
        }
    }
}

/// A nested clippy file replaces the root one, so all pure packages must have the same one.
#[test]
fn pure_packages_share_one_strict_clippy_file() {
    let read =
        |folder: &str| fs::read_to_string(root().join(folder).join(".clippy.toml")).unwrap_or_default();
    let first = read("schemas");
    assert!(first.contains("std::time::SystemTime") && first.contains("std::thread::spawn"));
    for folder in [
        "schemas/journal",
        "schemas/mutants",
        "broker/session",
        "cloud-core/ledger",
        "cloud-core/flows",
        "edge-agent/device",
    ] {
        assert_eq!(read(folder), first, "{folder}/.clippy.toml differs from schemas/.clippy.toml");
    }
    for line in read(".").lines().filter(|line| line.starts_with("allow-")) {
        assert!(first.contains(line), "`{line}` of the root file is missing in the pure ones");
    }
}

/// Nobody lifts the purity rule quietly: only one file says `disallowed_`, besides tests.
#[test]
fn purity_is_lifted_in_one_file_only() {
    for name in tracked() {
        let pure =
            ["schemas/", "broker/session/", "cloud-core/ledger/", "cloud-core/flows/", "edge-agent/device/"];
        let is_pure = pure.iter().any(|folder| name.starts_with(folder));
        if is_pure && name.ends_with(".rs") && name.contains("/src/") && name != IMPURE_FILE {
            let text = fs::read_to_string(root().join(&name)).unwrap();
            let lifted = text.lines().find(|line| line.contains("clippy::disallowed_"));
            assert!(
                lifted.is_none_or(|_| name == "schemas/journal/src/lib.rs"),
                "{name} lifts the purity rule"
            );
            assert!(!text.contains("thread_local!") || name == FAULTS_FILE, "{name} keeps state of a thread");
        }
    }
}

/// Deliberate faults exist for `device-sim --features mutants` and for nobody else: no product can switch one on. That
/// nothing is active without the feature is a test of `schemas-mutants`.
#[test]
fn no_product_can_switch_a_fault_on() {
    for shell in SHELLS {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "-p", shell, "-e", "normal", "--prefix", "none", "-f", "{p}: {f}"])
            .arg("--manifest-path")
            .arg(root().join("Cargo.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let built = text.lines().filter(|line| line.starts_with("schemas-mutants"));
        built.for_each(|line| assert!(!line.contains("switchable"), "{shell} is built with faults: {line}"));
    }
    let may_ask = ["schemas/mutants/Cargo.toml", "device-sim/Cargo.toml"];
    for name in tracked().iter().filter(|name| name.ends_with("Cargo.toml")) {
        let asks = fs::read_to_string(root().join(name)).unwrap().contains("switchable");
        assert!(!asks || may_ask.contains(&name.as_str()), "{name} can switch faults on");
    }
}

#[test]
fn the_core_starts_in_a_shell_that_has_the_variables_of_an_agent() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let known = read("cloud-core/src/config.rs");
    for name in ["edge-agent/src/config.rs", "edge-agent/src/cli.rs"] {
        let text = read(name);
        let variables: Vec<&str> = text.split('"').filter(|word| word.starts_with("FARTHING_")).collect();
        assert!(!variables.is_empty(), "{name} has none any more");
        for variable in variables {
            assert!(
                known.contains(&format!("\"{variable}\"")),
                "cloud-core would refuse to start with {variable}"
            );
        }
    }
}

#[test]
fn the_top_level_is_fixed() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "broker",
        "cloud-core",
        "edge-agent",
        "device-sim",
        "schemas",
        "tests",
    ];
    let top: BTreeSet<String> =
        tracked().iter().map(|name| name.split('/').next().unwrap_or_default().to_owned()).collect();
    for name in top.iter().filter(|name| !name.starts_with('.')) {
        assert!(allowed.contains(&name.as_str()), "{name} does not belong at the top level");
    }
}

/// Long files are split where a reader would pause.
#[test]
fn no_source_file_is_longer_than_a_reader_s_patience() {
    const LINES: usize = 700;
    for name in tracked().iter().filter(|name| name.ends_with(".rs")) {
        let lines = fs::read_to_string(root().join(name)).unwrap().lines().count();
        assert!(lines <= LINES, "{name} has {lines} lines: split it (at most {LINES})");
    }
}

#[test]
fn no_unfinished_marks_are_left() {
    let marks =
        [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat(), ["todo", "!("].concat()];
    for name in tracked().iter().filter(|name| name.ends_with(".rs") || name.ends_with(".md")) {
        let text = fs::read_to_string(root().join(name)).unwrap();
        for mark in &marks {
            let found = text.lines().position(|line| line.contains(mark.as_str()));
            assert!(found.is_none(), "{name}:{} says {mark}", found.unwrap_or_default() + 1);
        }
    }
}

/// Each row of the issue that this release carries is proved by a test that names it.
#[test]
fn every_row_of_the_chip_payment_is_named_by_a_test() {
    let rows = (1..=13).chain([16, 18]).map(|n| format!("CP-{n}"));
    let rows = rows.chain([1, 2, 3, 4, 5, 7, 9].iter().map(|n| format!("MO-{n}"))).chain(["PL-1".to_owned()]);
    let mut proofs = String::new();
    for name in tracked().iter().filter(|name| name.ends_with(".rs") && !name.ends_with("house_rules.rs")) {
        let text = fs::read_to_string(root().join(name)).unwrap();
        // Tests stand in `tests` folders, or behind the test module's head.
        let from = if name.contains("tests/") { 0 } else { text.find("#[cfg(test)]").unwrap_or(text.len()) };
        proofs.push_str(&text[from..]);
    }
    for row in rows {
        let named = proofs
            .match_indices(&row)
            .any(|(at, _)| !proofs[at + row.len()..].starts_with(|next: char| next.is_ascii_digit()));
        assert!(named, "no test names {row}");
    }
}
