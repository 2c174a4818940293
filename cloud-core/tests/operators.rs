//! Operators at the real binary: the admin socket, and the journal without the core.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use common::{Core, command, text};

fn register(core: &Core) {
    core.admin_ok(&["tenants", "create", "acme", "--currency", "EUR"]);
    core.admin_ok(&["devices", "create", "acme/chip-7", "--profile", "payment-chip"]);
    core.admin_ok(&[
        "devices",
        "create",
        "acme/arm-1",
        "--profile",
        "vending-executor",
        "--longest-act-ms",
        "5000",
    ]);
    core.admin_ok(&["merchants", "create", "acme/kiosk", "--title", "Kiosk at the gate"]);
    core.admin_ok(&["chips", "bind", "acme/chip-7", "--merchant", "kiosk", "--executor", "arm-1"]);
    core.admin_ok(&["people", "create", "acme/alice"]);
}

/// CP-15: what is registered is there after a restart; repeating a command changes nothing.
#[test]
fn what_operators_register_survives_a_restart_and_may_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    register(&core);
    register(&core);
    let before = core.admin_ok(&["accounts", "list", "--json"]);
    core.stop();

    let core = Core::start(directory.path());
    assert_eq!(core.admin_ok(&["accounts", "list", "--json"]), before);
    let devices = core.admin_ok(&["devices", "list"]);
    assert!(devices.contains("acme/chip-7") && devices.contains("registered"), "{devices}");
    let people: serde_json::Value =
        serde_json::from_str(&core.admin_ok(&["people", "list", "--json"])).unwrap();
    assert_eq!(people["rows"][0]["person"], "acme/alice");
    assert!(core.admin_ok(&["books"]).contains("balance"));
    core.stop();
}

#[test]
fn claims_and_tokens_survive_a_restart_and_are_in_no_file_and_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    register(&core);
    let claim = core.admin_ok(&["claim", "create", "acme/chip-7", "--json"]);
    let claim: serde_json::Value = serde_json::from_str(&claim).unwrap();
    let code: schemas::claim::ClaimCode = claim["rows"]["code"].as_str().unwrap().parse().unwrap();
    let token = core.admin_ok(&["token", "create", "acme/alice"]);
    let token = token.lines().next().unwrap();
    assert_eq!(token.len(), 43, "32 bytes as base64url");
    let log = core.stop();

    let core = Core::start(directory.path());
    assert!(core.is_ready(), "the journal replays");
    let log = log + &core.stop();
    for secret in [token, &code.secret_text(), &code.to_string()] {
        assert!(!log.contains(secret), "a secret is in the log");
        for entry in std::fs::read_dir(directory.path().join("journal")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
}

#[test]
fn refusals_say_why_and_a_missing_core_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let output = command(directory.path()).args(["admin", "tenants", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no cloud core answers"), "{}", text(&output.stderr));

    let core = Core::start(directory.path());
    let refused = core.admin(&["devices", "create", "nobody/chip", "--profile", "payment-chip"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("nobody"), "{}", text(&refused.stderr));
    let unknown = core.admin(&["payments", "show", &"07".repeat(16)]);
    assert!(text(&unknown.stderr).contains("payment_unknown"), "{}", text(&unknown.stderr));
    core.stop();
}

#[test]
fn lines_that_are_no_commands_are_answered_and_the_connection_lives_on() {
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    let mut stream = UnixStream::connect(directory.path().join("admin.sock")).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |line: &str| {
        writeln!(stream, "{line}").unwrap();
        replies.next().unwrap().unwrap()
    };
    for junk in ["", "x", "{}", "[]", r#"{"command":"list_tenats"}"#, r#"{"command":"show_payment"}"#] {
        let reply = ask(junk);
        assert!(reply.contains("command_invalid"), "{junk}: {reply}");
    }
    assert_eq!(ask(r#"{"command":"list_tenants"}"#), r#"{"Ok":{"answer":"tenants","rows":[]}}"#);
    drop((stream, replies));
    core.stop();
}
