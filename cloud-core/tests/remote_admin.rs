//! Operators elsewhere against the real binary: enrol, look, act, be refused, be revoked (PL-4, MO-8).
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Output;

use common::{Core, command, serve_command, text};

fn start(directory: &Path) -> Core {
    let data = directory.join("core");
    let mut serve = serve_command(&data);
    serve.env("FARTHING_LISTEN_ADMIN", "127.0.0.1:0");
    let core = Core::start_with(&data, serve);
    for tenant in ["acme", "other"] {
        core.admin_ok(&["tenants", "create", tenant, "--currency", "EUR"]);
    }
    core.admin_ok(&["devices", "create", "acme/chip-7", "--profile", "payment-chip"]);
    core
}

/// On the operator's own machine: nothing of the core's data directory is there.
fn elsewhere(directory: &Path, name: &str, server: &str, arguments: &[&str]) -> Output {
    let mut admin = command(&directory.join("nothing"));
    admin.args(["admin", "--server", server, "--identity"]).arg(directory.join(name)).args(arguments);
    admin.output().unwrap()
}

fn enroll(core: &Core, directory: &Path, name: &str, role: &[&str]) {
    core.admin_ok(&[&["operators", "create", name, "--role"], role].concat());
    let claim = core.admin_ok(&["operators", "claim", name]);
    let claim = claim.lines().next().unwrap();
    let server = core.address("enrolment https://").to_string();
    let enrolled = elsewhere(directory, name, &server, &["enroll", "--claim", claim, "--operator", name]);
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
}

#[test]
fn an_operator_elsewhere_does_what_the_role_allows() {
    let directory = tempfile::tempdir().unwrap();
    let core = start(directory.path());
    enroll(&core, directory.path(), "ada", &["auditor"]);
    enroll(&core, directory.path(), "tina", &["tenant-admin", "--tenant", "acme"]);
    let server = core.address("admin tls://").to_string();
    let ask = |name: &str, arguments: &[&str]| {
        let output = elsewhere(directory.path(), name, &server, arguments);
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (done, said) = ask("ada", &["tenants", "list"]);
    assert!(done && said.contains("acme") && said.contains("other"), "{said}");
    let (done, said) = ask("tina", &["tenants", "list"]);
    assert!(done && said.contains("acme") && !said.contains("other"), "{said}");
    let (done, said) = ask("tina", &["claim", "create", "acme/chip-7"]);
    assert!(done && said.contains("FT1-"), "{said}");
    for (name, arguments) in [
        ("ada", &["claim", "create", "acme/chip-7"][..]),
        ("ada", &["operators", "create", "eve", "--role", "operator"]),
        ("tina", &["devices", "create", "other/chip", "--profile", "payment-chip"]),
        ("tina", &["operators", "claim", "ada"]),
        ("tina", &["payments", "show", "07070707070707070707070707070707"]),
    ] {
        let (done, said) = ask(name, arguments);
        assert!(!done && said.contains("not_allowed") || said.contains("may not do this"), "{name}: {said}");
    }
    let (done, said) = ask("tina", &["operators", "list"]);
    assert!(done && said.contains("tina") && !said.contains("ada"), "{said}");
    let shown = core.admin_ok(&["operators", "list", "--standing", "enrolled"]);
    assert!(shown.contains("auditor") && shown.contains("tenant-admin"), "{shown}");
    assert!(core.admin_ok(&["operators", "show", "ada"]).contains("auditor"));
    assert!(!core.admin(&["operators", "show", "nobody"]).status.success());
    let devices = core.admin_ok(&["devices", "list"]);
    assert!(devices.contains("acme/chip-7") && !devices.contains("farthing/"), "{devices}");
    core.admin_ok(&["operators", "revoke", "tina"]);
    assert!(core.admin_ok(&["operators", "list"]).contains("revoked"));
    let (done, said) = ask("tina", &["tenants", "list"]);
    assert!(!done && said.contains("no operator's"), "{said}");
    core.stop();
}

/// Without a certificate of this platform's authority there is no conversation.
#[test]
fn a_stranger_is_not_heard() {
    let directory = tempfile::tempdir().unwrap();
    let core = start(directory.path());
    let other = tempfile::tempdir().unwrap();
    let foreign = start(other.path());
    enroll(&foreign, directory.path(), "eve", &["operator"]);
    let server = core.address("admin tls://").to_string();
    let output = elsewhere(directory.path(), "eve", &server, &["tenants", "list"]);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    let nobody = elsewhere(directory.path(), "nobody", &server, &["tenants", "list"]);
    assert!(!nobody.status.success() && text(&nobody.stderr).contains("admin enroll"));
    foreign.stop();
    core.stop();
}
