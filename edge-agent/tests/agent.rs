//! The real agent against the real lane.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use edge_agent::steps::Step;
use schemas::ids::{CommandId, Hash, PaymentId};
use schemas::message::{Down, HealthCheckRequest, HealthVerdict, Outcome, Up};
use schemas::signed::{PaymentInformation, PublicKey};
use schemas::time::Timestamp;
use schemas::wire::SignedBytes;
use serde_json::Value;
use support::{Cloud, Machine, NOW_MS, command};

/// CP-9, CP-10, CP-11, CP-18
#[test]
fn an_executor_acts_once_and_reports_each_outcome() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "vending-executor");
    let agent = machine.start(|command| {
        command.args(["--faults", "done,failed:jam,part:1,unknown"]);
    });
    let expected =
        [(Outcome::Done, 2), (Outcome::Failed, 0), (Outcome::DoneInPart, 1), (Outcome::Unknown, 0)];
    for (number, expected) in (1..).zip(expected) {
        cloud.owe(Down::ExecutorCommand(command(number)));
        let outcome = cloud.outcome();
        assert_eq!((outcome.outcome, outcome.delivered), expected);
        // While the PUBACK is on its way, the repeat would be answered by that same message.
        while machine.json(&["status"])["spool_depth"] != 0 {}
        cloud.owe(Down::ExecutorCommand(command(number)));
        let again = cloud.outcome();
        assert_eq!(again, outcome, "a repeat gets the same answer");
    }
    assert_eq!(machine.acts().len(), 4);
    cloud.until_nothing_is_owed();
    let status = machine.json(&["status"]);
    assert_eq!((&status["running"], &status["connected"]), (&Value::Bool(true), &Value::Bool(true)));

    let second = machine.call(&["run"]);
    assert_eq!(second.status.code(), Some(3), "{}", String::from_utf8_lossy(&second.stderr));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another process"));
    assert_eq!(agent.terminate(), Some(0));
    let stopped = machine.json(&["status"]);
    assert_eq!(
        (&stopped["running"], &stopped["remembered_commands"]),
        (&Value::Bool(false), &Value::from(4))
    );
}

/// CP-1, CP-3: what the chip shows verifies with its key, and it vouches for exactly that.
#[test]
fn a_chip_issues_payment_information_and_vouches_for_it() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "payment-chip");
    let public_key: PublicKey = machine.json(&["key"])["public_key"].as_str().unwrap().parse().unwrap();
    let agent = machine.start(|_| {});
    cloud.until(|up| matches!(up, Up::CloudTime(_)).then_some(()));
    // The answer to the question above may still be on its way.
    let issued = loop {
        let output = machine.call(&["pay-info", "--item", "water", "--quantity", "2", "--json"]);
        if output.status.success() {
            break serde_json::from_slice::<Value>(&output.stdout).unwrap();
        }
        assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("clock_unknown"));
    };
    let signed: SignedBytes = serde_json::from_value(issued["information"].clone()).unwrap();
    let information = PaymentInformation::verify(&signed, &public_key).unwrap();
    assert_eq!(information.amount.to_string(), "3.00 EUR");

    let verdict = |nonce, hash| {
        cloud.owe(Down::HealthCheck(HealthCheckRequest {
            payment: PaymentId([1; 16]),
            nonce,
            information_hash: hash,
            answer_by: Timestamp(NOW_MS + 60_000),
        }));
        cloud.until(|up| match up {
            Up::HealthCheck(answer) => Some(answer.verdict),
            _ => None,
        })
    };
    assert_eq!(verdict(information.nonce, Hash::of(&signed.0)), HealthVerdict::Ready);
    assert_eq!(verdict(information.nonce, Hash([0; 32])), HealthVerdict::NotIssued);

    let shown = machine.call(&["pay-info", "--item", "crisps"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("2.00 EUR for crisps x1 to snacks") && text.contains('\u{2588}'), "{text}");
    machine.json(&["conditions", "--tampered"]);
    let refused = machine.call(&["pay-info", "--item", "water"]);
    assert_eq!(refused.status.code(), Some(6));
    drop(agent);
    let absent = machine.call(&["pay-info", "--item", "water"]);
    assert_eq!(absent.status.code(), Some(5));
}

/// CP-9, MO-5, correctness.md 5: with unsynced writes lost, a kill at any step leads to at most one act, and to an
/// outcome that agrees with what moved.
#[cfg(debug_assertions)]
#[test]
fn a_power_cut_at_any_step_never_acts_twice_and_never_loses_a_command() {
    let cloud = Cloud::start();
    for (number, (name, step)) in (1..).zip(Step::ALL) {
        let machine = Machine::new(&cloud, "vending-executor");
        let mut killed = machine.start(|command| {
            command
                .env("FARTHING_HOLD_WRITES", "1")
                .env("FARTHING_KILL_AT", format!("{name}:{}", nth(*step)));
        });
        cloud.owe(Down::ExecutorCommand(command(number)));
        let signal = killed.0.wait().unwrap().signal();
        assert_eq!(signal, Some(9), "{name} was not passed");
        let acts_before = machine.acts().len();
        // What the first life said; after `reported` it had been promised, so it is here already.
        while cloud.said.try_recv().is_ok() {}
        let restarted = machine.start(|command| {
            command.env("FARTHING_HOLD_WRITES", "1");
        });
        let wanted = CommandId([number; 16]);
        let outcome = cloud.until(|up| match up {
            Up::ExecutorCommand(outcome) if outcome.command == wanted => Some(outcome.outcome),
            _ => None,
        });
        let acts = machine.acts().len();
        let expected = match step {
            Step::MessageReceived
            | Step::InboxAppended
            | Step::InboxSynced
            | Step::Acknowledged
            | Step::IntentAppended => (Outcome::Done, 0, 1),
            Step::IntentSynced => (Outcome::Unknown, 0, 0),
            Step::Acted | Step::OutcomeAppended => (Outcome::Unknown, 1, 1),
            Step::OutcomeSynced | Step::Reported => (Outcome::Done, 1, 1),
        };
        assert_eq!((outcome, acts_before, acts), expected, "{name}");
        assert_eq!(restarted.terminate(), Some(0), "{name}");
        cloud.until_nothing_is_owed();
    }
}

/// The first message of a connection is the answer about cloud time; the command is the second.
#[cfg(debug_assertions)]
fn nth(step: Step) -> u64 {
    match step {
        Step::MessageReceived => 2,
        _ => 1,
    }
}

#[test]
fn failures_name_the_fix_and_have_their_exit_codes() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "vending-executor");
    let run = |change: &dyn Fn(&mut Command)| {
        let mut command = machine.command(&["run"]);
        change(&mut command);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&|command| {
        command.env_remove("FARTHING_TOKEN");
    });
    assert!(code == Some(4) && text.contains("edge-agent enroll"), "{code:?} {text}");
    let (code, text) = run(&|command| {
        command.args(["--broker", "192.0.2.1:1883"]);
    });
    assert!(code == Some(4) && text.contains("loopback"), "{code:?} {text}");
    let (code, text) = run(&|command| {
        command.args(["--profile", "no-such"]);
    });
    assert!(code == Some(4) && text.contains("payment-chip"), "{code:?} {text}");
    let (code, text) = run(&|command| {
        command.args(["--faults", "explode"]);
    });
    assert!(code == Some(4) && text.contains("failed:CODE"), "{code:?} {text}");
    write_config(&machine.data, "brokr = \"x\"\n");
    let (code, text) = run(&|_| {});
    assert!(code == Some(4) && text.contains("did you mean `broker`?"), "{code:?} {text}");
}

#[test]
fn check_says_what_is_wrong_and_config_show_where_a_value_comes_from() {
    let cloud = Cloud::start();
    let machine = Machine::new(&cloud, "vending-executor");
    write_config(&machine.data, "drift_ppm = 50\n");
    let good = machine.json(&["check"]);
    assert!(good.as_array().unwrap().iter().all(|finding| finding["ok"] == true), "{good}");
    let mut wrong = machine.command(&["check", "--json"]);
    let output = wrong.env("FARTHING_TOKEN", "stale").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("does not accept this identity"), "{text}");
    let shown = machine.json(&["config", "show"]);
    let drift = shown.as_array().unwrap().iter().find(|value| value["name"] == "drift_ppm").unwrap().clone();
    assert_eq!(drift["value"], "50");
    assert!(drift["origin"].as_str().unwrap().ends_with("agent.toml"));
    assert!(!shown.to_string().contains("\"secret\""));
}

fn write_config(data: &Path, text: &str) {
    std::fs::create_dir_all(data).unwrap();
    std::fs::write(data.join("agent.toml"), text).unwrap();
}
