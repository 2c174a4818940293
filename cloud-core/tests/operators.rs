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

/// CP-15: looking, changing and deleting at the real binary; refusals say what to do; the journal names the operator.
#[test]
fn operators_look_change_and_delete() {
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    register(&core);
    core.admin_ok(&["merchants", "change", "acme/kiosk", "--title", "Kiosk two"]);
    assert!(core.admin_ok(&["merchants", "show", "acme/kiosk"]).contains("Kiosk two"));
    core.admin_ok(&["tenants", "change", "acme", "--deadline", "start_ms=9000", "--on-unknown", "hold"]);
    let tenant = core.admin_ok(&["tenants", "show", "acme", "--json"]);
    assert!(tenant.contains("9000") && tenant.contains("hold"), "{tenant}");
    let listed = core.admin_ok(&["devices", "list", "--contains", "arm"]);
    assert!(listed.contains("acme/arm-1") && !listed.contains("chip-7"), "{listed}");
    assert!(!core.admin(&["devices", "show", "acme/arm-9"]).status.success());

    let refused = core.admin(&["devices", "delete", "acme/arm-1"]);
    let why = text(&refused.stderr);
    assert!(!refused.status.success() && why.contains("still_bound") && why.contains("unbind"), "{why}");
    core.admin_ok(&["accounts", "deposit", "acme/alice", "5.00 EUR", "--reference", "r"]);
    assert!(text(&core.admin(&["people", "delete", "acme/alice"]).stderr).contains("has_balance"));
    core.admin_ok(&["accounts", "withdraw", "acme/person/alice", "5.00 EUR", "--reference", "r"]);
    core.admin_ok(&["people", "delete", "acme/alice"]);
    core.admin_ok(&["chips", "unbind", "acme/chip-7"]);
    core.admin_ok(&["devices", "delete", "acme/arm-1"]);
    assert!(core.admin_ok(&["deleted", "list"]).contains("principal/acme/arm-1"));
    core.stop();

    let core = Core::start(directory.path());
    assert!(!core.admin_ok(&["devices", "list"]).contains("arm-1"));
    core.stop();
    let dump = command(directory.path()).args(["journal", "dump"]).output().unwrap();
    let by = format!("uid {}", std::os::unix::fs::MetadataExt::uid(&directory.path().metadata().unwrap()));
    assert!(text(&dump.stdout).contains(&by), "the journal names the operator");
}

/// CP-15, PC-6, PC-9: places and rules for codes at the real binary, and the key that signs them.
#[test]
fn operators_register_places_and_rules_for_codes() {
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    core.admin_ok(&["tenants", "create", "home", "--currency", "EUR", "--code-rule", "most_ms=900000"]);
    core.admin_ok(&["merchants", "create", "home/canteen", "--title", "Canteen"]);
    core.admin_ok(&["people", "create", "home/till"]);
    let set = [
        "places",
        "set",
        "home/school",
        "--title",
        "School canteen",
        "--at",
        "52.52,-13.4",
        "--radius-m",
        "80",
        "--category",
        "lunch",
        "--merchant",
        "canteen",
        "--terminal",
        "till",
    ];
    core.admin_ok(&set);
    let version = |core: &Core| {
        let rows: serde_json::Value =
            serde_json::from_str(&core.admin_ok(&["places", "show", "home/school", "--json"])).unwrap();
        rows["rows"][0]["version"].as_u64().unwrap()
    };
    let first = version(&core);
    core.admin_ok(&set);
    assert_eq!(version(&core), first, "a repeat changes nothing");
    let listed = core.admin_ok(&["places", "list"]);
    for cell in ["home/school", "School canteen", "52.52,-13.4", "80", "lunch", "canteen", "till"] {
        assert!(listed.contains(cell), "{cell}: {listed}");
    }
    core.admin_ok(&["tenants", "change", "home", "--code-rule", "emvco=true"]);
    let why = text(&core.admin(&["tenants", "change", "home", "--code-rule", "most_ms=1"]).stderr);
    assert!(why.contains("code_rules_invalid"), "{why}");
    let why = text(&core.admin(&["merchants", "delete", "home/canteen"]).stderr);
    assert!(why.contains("still_bound") && why.contains("places remove"), "{why}");
    core.stop();

    let key = std::fs::read(directory.path().join("codes.key.pem")).unwrap();
    let core = Core::start(directory.path());
    assert_eq!(std::fs::read(directory.path().join("codes.key.pem")).unwrap(), key, "made once");
    let shown: serde_json::Value =
        serde_json::from_str(&core.admin_ok(&["places", "show", "home/school", "--json"])).unwrap();
    let row = &shown["rows"][0];
    assert_eq!(
        (row["version"].as_u64(), row["place"]["longitude_e7"].as_i64()),
        (Some(first), Some(-134_000_000))
    );
    let rules: serde_json::Value =
        serde_json::from_str(&core.admin_ok(&["tenants", "show", "home", "--json"])).unwrap();
    let rules = &rules["rows"][0]["code_rules"];
    assert_eq!((rules["most_ms"].as_u64(), rules["emvco"].as_bool()), (Some(900_000), Some(true)));
    core.admin_ok(&["places", "remove", "home/school"]);
    core.admin_ok(&["places", "remove", "home/school"]);
    assert!(!core.admin(&["places", "show", "home/school"]).status.success());
    core.stop();
}

/// CP-15: a batch from a file is carried out whole or not at all; many devices get their codes in a private file.
#[test]
fn batches_and_many_claims_come_from_files() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let core = Core::start(directory.path());
    register(&core);
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let lines = [
        r##"# two people"##,
        r#"{"command":"create_person","person":"acme/bob"}"#,
        r#"{"command":"change_person","person":"acme/bob","bank_account":{"to":"b-1"}}"#,
    ];
    let good = file("good.jsonl", &lines.join("\n"));
    assert!(core.admin_ok(&["batch", &good, "--check"]).contains("could be carried out: 2 changes"));
    assert!(!core.admin_ok(&["people", "list"]).contains("acme/bob"));
    assert!(core.admin_ok(&["batch", &good]).contains("done: 2 changes"));
    let last = r#"{"command":"delete_device","device":"acme/arm-1"}"#;
    let bad = file("bad.jsonl", &format!("{}\n{last}", lines[1].replace("bob", "carl")));
    let why = text(&core.admin(&["batch", &bad]).stderr);
    assert!(why.contains("command 2 of 2") && why.contains("still_bound"), "{why}");
    assert!(!core.admin_ok(&["people", "list"]).contains("acme/carl"));
    let typo = file("typo.jsonl", r#"{"command":"create_person","person":"acme/dora","bank_acount":"x"}"#);
    assert!(text(&core.admin(&["batch", &typo]).stderr).contains("bank_acount"), "an unknown field is named");

    let devices =
        file("devices.csv", "acme/new-1,vending-executor,5000\nacme/new-2,payment-chip\nacme/chip-7\n");
    let out = directory.path().join("codes.csv");
    let out_name = out.to_str().unwrap();
    core.admin_ok(&["claims", "create", "--from", &devices, "--out", out_name]);
    let codes = std::fs::read_to_string(&out).unwrap();
    assert_eq!(codes.lines().filter(|line| line.contains(",FT1-")).count(), 3, "{codes}");
    assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(core.admin_ok(&["devices", "list"]).contains("acme/new-2"));
    let again = core.admin(&["claims", "create", "--from", &devices, "--out", out_name]);
    assert!(text(&again.stderr).contains("must be a new file"));
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
