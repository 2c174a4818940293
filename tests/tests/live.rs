//! PL-3: a load test with the real programs, in small: a fleet on every transport, things that go wrong, books that agree.

use std::path::Path;
use std::process::Output;

use farthing_tests::process::{binary, command, run};
use serde_json::Value;

fn live(directory: &Path, scenario: &str) -> Output {
    // device-sim starts them: they must be there.
    binary("cloud-core");
    binary("edge-agent");
    let file = directory.join("scenario.toml");
    std::fs::write(&file, scenario).expect("write the scenario");
    let mut live = command(binary("device-sim"));
    live.arg("live").arg(&file).arg("--json").arg("--directory").arg(directory);
    live.arg("--report").arg(directory.join("report"));
    run(live)
}

/// Purchases and orders with cut connections, repeated messages, jams and a child that says no: every end is explained, and
/// what each account has is what its owner saw.
#[test]
fn a_fleet_with_faults_ends_with_books_that_agree() {
    for transport in ["tcp", "tls", "websocket", "secure-websocket"] {
        let directory = tempfile::tempdir().unwrap();
        let scenario = format!(
            r#"
            title = "a test"
            duration_s = 3
            ramp_s = 1
            drain_s = 60
            [fleet]
            vending = 2
            payers = 4
            merchant_terminals = 1
            piggy_banks = 2
            guardians = 1
            idle = 2
            [load]
            rate_per_s = 20
            child_share_permille = 300
            [transport]
            kind = "{transport}"
            source_addresses = 2
            [faults]
            disconnects_per_minute = 60
            slow_readers = 1
            duplicate_sends_permille = 100
            jams_permille = 200
            rejects_permille = 200
            "#
        );
        let output = live(directory.path(), &scenario);
        let errors = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout).expect(&errors);
        assert_eq!(report["books_agree"], true, "{transport}: {}\n{errors}", report["audit"]);
        assert!(report["measured"]["ends"]["delivered"].as_u64().unwrap() > 0, "{transport}: {errors}");
        // How promptly a machine under test begins is not what is tested here.
        let unexplained = report["unexplained"].as_array().unwrap();
        let late = |what: &&Value| what[0] == "the generator itself was late";
        assert!(unexplained.iter().all(|what| late(&what)), "{transport}: {unexplained:?}\n{errors}");
        assert!(directory.path().join("report/report.html").is_file());
    }
}

#[test]
fn a_scenario_with_a_mistake_is_refused_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let output = live(directory.path(), "duration_s = 3\n[fleet]\nvendings = 2\n");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("line 3") && errors.contains("vendings"), "{errors}");
}
