//! What operators watch: every name in the dashboard and in the alert rules is one that the real binary shows, and
//! promtool accepts both.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use device_sim::live::terminal::Terminal;
use farthing_tests::fleet::{Fleet, Machine, Options, pay_info};
use farthing_tests::process::text;
use farthing_tests::wire::{Client, Version};
use farthing_tests::{PATIENCE, until};
use schemas::message::PaymentState;
use tokio::runtime::Runtime;

const MACHINES: &[Machine] = &[("chip", Some("vend"))];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("cloud-core/operations").join(name)
}

/// A machine that sells, and where its payers run.
fn shop() -> (Runtime, Fleet) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut fleet = Fleet::start(Options { machines: MACHINES, ..Options::default() });
    fleet.start_device("chip", Path::new("payment-chip"), "", None);
    fleet.start_device("vend", Path::new("vending-executor"), "done", None);
    fleet.wait_for_device("chip");
    fleet.wait_for_device("vend");
    (runtime, fleet)
}

async fn buy(fleet: &Fleet, payer: &mut Terminal) {
    let chip = fleet.directory_of("chip");
    let shown = until("a code of the chip", || pay_info(&chip, "water", 1));
    let payment = payer.pay(shown, PATIENCE).await.unwrap();
    let asked = payer.asked(payment, PATIENCE).await.unwrap();
    payer.verify(&asked).await.unwrap();
    payer.status(payment, PATIENCE, |status| status.state == PaymentState::Delivered).await.unwrap();
}

/// `/metrics` of a core that has seen a payment and a refusal.
fn metrics() -> String {
    let (runtime, fleet) = shop();
    runtime.block_on(async { buy(&fleet, &mut fleet.terminal("payer-0")).await });
    let token = fleet.token("acme/till");
    let mut till = Client::tcp(fleet.lane(), Version::V5);
    till.connect("till", Some(("acme/till", &token)));
    till.subscribe(&["ft/acme/payer-0/down/#"]);
    until("the refusal in the metrics", || {
        let shown = get(&fleet);
        shown.contains("farthing_refusals_total{").then_some(shown)
    })
}

/// CP-2, CP-5: the threads that read check signatures as soon as they know the keys, so that the core need not.
#[test]
fn signatures_are_checked_before_the_core_has_them() {
    let (runtime, fleet) = shop();
    runtime.block_on(async {
        let mut payer = fleet.terminal("payer-0");
        let begun = Instant::now();
        while !get(&fleet).lines().any(|line| line.starts_with("farthing_signatures_proven_total ")) {
            buy(&fleet, &mut payer).await;
            assert!(begun.elapsed() < PATIENCE, "no signature was checked by whoever has read it");
        }
    });
}

fn get(fleet: &Fleet) -> String {
    let mut stream = TcpStream::connect(fleet.addresses.http.unwrap()).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c)).filter(|word| word.starts_with("farthing_")).collect()
}

#[test]
fn every_metric_that_is_watched_is_shown_by_the_real_binary() {
    let shown = metrics();
    let samples: BTreeSet<&str> =
        shown.lines().filter(|line| !line.starts_with('#')).flat_map(names).collect();
    for name in ["grafana-dashboard.json", "prometheus-alerts.yml"] {
        let watched = std::fs::read_to_string(file(name)).unwrap();
        let watched = names(&watched);
        assert!(watched.len() > 10, "{name}");
        let missing: Vec<_> = watched.difference(&samples).collect();
        assert!(missing.is_empty(), "{name} watches what nobody shows: {missing:?} in\n{shown}");
    }
    for name in &samples {
        let family = ["_bucket", "_sum", "_count"].iter().fold(*name, |name, end| name.trim_end_matches(end));
        assert!(shown.contains(&format!("# HELP {family} ")), "{name} has no explanation");
    }
}

#[test]
fn every_alert_says_what_to_do_and_is_tried_by_a_test() {
    let rules = std::fs::read_to_string(file("prometheus-alerts.yml")).unwrap();
    let tests = std::fs::read_to_string(file("prometheus-alerts-test.yml")).unwrap();
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15);
    assert_eq!(rules.matches("runbook: ").count(), alerts.len());
    for alert in alerts {
        assert_eq!(tests.matches(&format!("alertname: {alert}\n")).count(), 2, "{alert}: silent, and firing");
    }
    let dashboard = std::fs::read_to_string(file("grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}

#[test]
#[ignore = "needs promtool"]
fn promtool_accepts_rules_and_metrics_and_every_alert_fires_when_it_must() {
    let promtool = |arguments: &[&str]| {
        let output = Command::new("promtool").args(arguments).current_dir(file("")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    };
    promtool(&["check", "rules", "prometheus-alerts.yml"]);
    promtool(&["test", "rules", "prometheus-alerts-test.yml"]);
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(metrics().as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
