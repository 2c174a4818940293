//! `mqtt5-statements.md` stays true: it names every conformance statement of MQTT 5, and only tests that exist.

/// Where the tests are that it names.
const SOURCES: &[&str] = &[
    include_str!("../src/tests.rs"),
    include_str!("../src/tests/conformance_connect.rs"),
    include_str!("../src/tests/conformance_delivery.rs"),
    include_str!("../src/tests/conformance_packets.rs"),
    include_str!("../src/tests/delivery.rs"),
    include_str!("../src/tests/observers.rs"),
    include_str!("../../tests/lane.rs"),
    include_str!("../../tests/websocket.rs"),
    include_str!("../../../cloud-core/flows/src/lobby.rs"),
];

/// The sections with numbered statements (Appendix B), and their last number. MQTT-2.2.1-1 does not exist.
const SECTIONS: &[(&str, u32)] = &[
    ("1.5.4", 3),
    ("1.5.5", 1),
    ("1.5.7", 1),
    ("2.1.3", 1),
    ("2.2.1", 6),
    ("2.2.2", 1),
    ("3.1.0", 2),
    ("3.1.2", 30),
    ("3.1.3", 12),
    ("3.1.4", 6),
    ("3.2.0", 2),
    ("3.2.2", 22),
    ("3.3.1", 13),
    ("3.3.2", 20),
    ("3.3.4", 10),
    ("3.4.2", 3),
    ("3.5.2", 3),
    ("3.6.1", 1),
    ("3.6.2", 3),
    ("3.7.2", 3),
    ("3.8.1", 1),
    ("3.8.3", 5),
    ("3.8.4", 8),
    ("3.9.2", 2),
    ("3.9.3", 2),
    ("3.10.1", 1),
    ("3.10.3", 2),
    ("3.10.4", 6),
    ("3.11.2", 2),
    ("3.11.3", 2),
    ("3.12.4", 1),
    ("3.14.0", 1),
    ("3.14.1", 1),
    ("3.14.2", 4),
    ("3.14.4", 3),
    ("3.15.1", 1),
    ("3.15.2", 3),
    ("4.1.0", 2),
    ("4.2", 1),
    ("4.3.1", 1),
    ("4.3.2", 5),
    ("4.3.3", 13),
    ("4.4.0", 2),
    ("4.5.0", 2),
    ("4.6.0", 6),
    ("4.7.0", 1),
    ("4.7.1", 2),
    ("4.7.2", 1),
    ("4.7.3", 4),
    ("4.8.2", 6),
    ("4.9.0", 3),
    ("4.12.0", 7),
    ("4.12.1", 2),
    ("4.13.1", 1),
    ("4.13.2", 1),
    ("6.0.0", 4),
];

struct Row {
    statement: &'static str,
    binds: &'static str,
    tests: Vec<&'static str>,
    note: &'static str,
}

fn rows() -> Vec<Row> {
    let list = include_str!("mqtt5-statements.md");
    let is_row = |line: &&str| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit());
    list.lines()
        .filter(is_row)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [statement, binds, tests, note] = cells[..] else { panic!("not four cells: {line}") };
            let tests = tests.split_whitespace().map(|test| test.trim_matches('`')).collect();
            Row { statement, binds, tests, note }
        })
        .collect()
}

#[test]
fn every_statement_is_listed_once_and_in_order() {
    let all = SECTIONS
        .iter()
        .flat_map(|(section, last)| (1..=*last).map(move |number| format!("{section}-{number}")));
    let all: Vec<String> = all.filter(|statement| statement != "2.2.1-1").collect();
    let listed: Vec<&str> = rows().iter().map(|row| row.statement).collect();
    assert_eq!(listed, all);
}

#[test]
fn what_binds_this_server_is_proven_and_what_does_not_has_a_reason() {
    for Row { statement, binds, tests, note } in rows() {
        match binds {
            "server" => assert!(!tests.is_empty(), "{statement} names no test"),
            "absent" => assert!(!note.is_empty(), "{statement} does not say what is absent"),
            "client" => {}
            other => panic!("{statement} binds {other}"),
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    for Row { statement, tests, .. } in rows() {
        for test in tests {
            let definition = format!("fn {test}() {{");
            let exists = SOURCES.iter().filter_map(|source| source.find(&definition).map(|at| &source[..at]));
            let exists = exists.map(|before| before.lines().rev().take(3)).any(|mut attributes| {
                attributes.any(|line| ["#[test]", "#[tokio::test]"].contains(&line.trim()))
            });
            assert!(exists, "{statement} names {test}, which is no test");
        }
    }
}
