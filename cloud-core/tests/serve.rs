//! The real binary: start, health, refusals to start, end.

mod common;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use common::{Core, command, serve_command, text};

#[test]
fn it_serves_on_ephemeral_ports_is_healthy_and_ends_with_0_on_sigterm_and_sigint() {
    for signal in ["TERM", "INT"] {
        let directory = tempfile::tempdir().unwrap();
        let core = Core::start(directory.path());
        let schemes: Vec<_> =
            core.lines().iter().map(|line| line.split("127.0.0.1").next().unwrap()).collect();
        let admin = format!("admin {}", directory.path().join("admin.sock").display());
        let expected = ["mqtt tcp://", "mqtt tls://", "enrolment https://", "http http://", &admin, "ready"];
        assert_eq!(schemes, expected);

        let addresses = std::fs::read_to_string(directory.path().join("addresses.json")).unwrap();
        let addresses: serde_json::Value = serde_json::from_str(&addresses).unwrap();
        assert_eq!(addresses["mqtt_tcp"], core.address("mqtt tcp://").to_string());

        let health = core.http("/healthz");
        assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
        let metrics = core.http("/metrics");
        for name in [
            "farthing_publishes_total{kind=\"cloud-time\"} 1",
            "farthing_promises_total 1",
            "farthing_connections ",
            "farthing_payments_open{state=\"paying\"} 0",
            "farthing_exceptions{case=\"refund_blocked\"} 0",
            "farthing_journal_room 1",
            "farthing_certificate_expires_timestamp_seconds{certificate=\"server\"} 1",
            "farthing_outbox_messages 0",
            "farthing_journal_records ",
            "farthing_journal_sync_seconds_bucket",
            "farthing_batch_inputs_bucket",
        ] {
            assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
        }

        core.signal(signal);
        let (status, log) = core.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("ERROR"), "{log}");
    }
}

/// A probe that the core does not admit is a sick platform: the health check has no way around the lane.
#[test]
fn health_is_refused_with_the_reason_while_the_lane_takes_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = serve_command(directory.path());
    command.env("FARTHING_MAX_CONNECTIONS", "1");
    let core = Core::start_with(directory.path(), command);
    let _the_only_place = std::net::TcpStream::connect(core.address("mqtt tcp://")).unwrap();
    let health = core.http("/healthz");
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("CONNECT"), "{health}");
    core.stop();
}

#[test]
fn a_second_process_on_the_same_data_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    let second = serve_command(directory.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = text(&second.stderr);
    assert!(error.contains("in use by another process"), "{error}");
    assert!(core.http("/healthz").starts_with("HTTP/1.1 200"), "the first one is unharmed");
    core.stop();
}

#[test]
fn a_taken_port_is_named_with_its_setting_and_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for setting in ["tcp", "tls", "enrolment", "http"] {
        let directory = tempfile::tempdir().unwrap();
        let flag = format!("--listen-{setting}");
        let output = serve_command(directory.path()).args([&flag, &address]).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        for part in [&address, &format!("(listen_{setting})"), &flag, "another program uses the port"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
    }
}

#[test]
fn what_is_private_is_readable_by_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let core = Core::start(&data_dir);
    for (name, mode) in [
        ("", 0o700),
        ("admin.sock", 0o600),
        ("authority.key.pem", 0o600),
        ("codes.key.pem", 0o600),
        ("journal", 0o700),
    ] {
        let permissions = std::fs::metadata(data_dir.join(name)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{name}");
    }
    core.stop();
}

#[test]
fn unknown_settings_are_refused_and_all_settings_are_shown_with_their_origin() {
    let directory = tempfile::tempdir().unwrap();
    let refused = command(directory.path()).env("FARTHING_LISTEN_TPC", "x").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("did you mean `FARTHING_LISTEN_TCP`"),
        "{}",
        text(&refused.stderr)
    );

    std::fs::write(directory.path().join("farthing.toml"), "max_connections = 7").unwrap();
    let arguments = ["config", "show", "--json", "--log-format", "json"];
    let shown = command(directory.path()).args(arguments).output().unwrap();
    let shown: Vec<serde_json::Value> = serde_json::from_slice(&shown.stdout).unwrap();
    let origin = |name: &str| shown.iter().find(|line| line["name"] == name).unwrap()["origin"].to_string();
    assert!(origin("max_connections").contains("farthing.toml"));
    assert!(origin("data_dir").contains("FARTHING_DATA_DIR"));
    assert!(origin("log_format").contains("--log-format"));
    assert!(origin("listen_tls").contains("default"));
    let table = command(directory.path()).args(["config", "show"]).output().unwrap();
    assert!(text(&table.stdout).contains("listen_enrolment"));
}

#[test]
fn completions_are_printed_for_a_shell() {
    let directory = tempfile::tempdir().unwrap();
    let output =
        command(directory.path()).args(["completions", "bash"]).stdout(Stdio::piped()).output().unwrap();
    assert!(text(&output.stdout).contains("--listen-enrolment"));
}
