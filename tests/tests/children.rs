//! The parent-child payment between real processes (PC-1 to PC-5, PC-8, PC-13, PC-15): a guardian orders over MQTT, a
//! child answers at its piggy bank's agent, and either side is killed in the middle.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::time::Duration;

use cloud_core_flows::admin::{
    AdminAnswer, AdminCommand, BankKind, ChildPaymentRow, Filter, Listing, OnUnknown,
};
use cloud_core_flows::children::Bonds;
use device_sim::live::terminal::Terminal;
use farthing_tests::fleet::{DEADLINES, Fleet, Options};
use farthing_tests::process::{binary, command, run, text};
use farthing_tests::until;
use schemas::ids::PaymentId;
use schemas::message::{Categories, PaymentOrder, PaymentState};
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(30);
const PIGGY: &str = "home/piggy";

/// Mia with 20.00 EUR, guarded by her dad; two piggy banks, of which she uses the first. Writes are held until they
/// are synced, so that SIGKILL is a power cut.
fn family() -> Fleet {
    let mut fleet = Fleet::start(Options { hold_writes: true, ..Options::default() });
    let person = |name: &str| AdminCommand::CreatePerson {
        person: format!("home/{name}").parse().unwrap(),
        public_key: None,
        bank_account: None,
    };
    let device = |name: &str| AdminCommand::CreateDevice {
        device: name.parse().unwrap(),
        profile: "piggy-bank".to_owned(),
        longest_act_ms: 0,
    };
    let commands = [
        AdminCommand::CreateTenant {
            tenant: "home".parse().unwrap(),
            currency: "EUR".parse().unwrap(),
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: DEADLINES,
            code_rules: Default::default(),
        },
        person("mia"),
        person("dad"),
        person("stranger"),
        device(PIGGY),
        device("home/other"),
        AdminCommand::BindChild { child: "home/mia".parse().unwrap(), bonds: bonds("piggy") },
        AdminCommand::Deposit {
            person: "home/mia".parse().unwrap(),
            amount: "20.00 EUR".parse().unwrap(),
            reference: "birthday".to_owned(),
        },
    ];
    for command in commands {
        fleet.core(command);
    }
    for device in [PIGGY, "home/other"] {
        fleet.enrol(device);
        start(&mut fleet, device, None);
        fleet.wait_for_device(device);
    }
    fleet
}

fn bonds(piggy_bank: &str) -> Bonds {
    Bonds {
        guardians: ["dad".parse().unwrap()].into(),
        piggy_bank: Some(piggy_bank.parse().unwrap()),
        receiving: None,
        time_zone: "Europe/Berlin".to_owned(),
    }
}

fn start(fleet: &mut Fleet, device: &str, kill_at: Option<&str>) {
    fleet.start_device(device, Path::new("piggy-bank"), "", kill_at);
}

fn terminal(fleet: &Fleet, name: &str) -> Terminal {
    let token = fleet.token(name);
    Terminal::connect(fleet.lane(), name.parse().unwrap(), &token, None)
}

fn order() -> PaymentOrder {
    let categories = Categories::new(vec!["toys".parse().unwrap()]).unwrap();
    PaymentOrder::deduction("mia".parse().unwrap(), "5.00 EUR".parse().unwrap(), categories)
}

/// What is on a piggy bank's screen.
fn prompts(fleet: &Fleet, device: &str) -> Vec<Value> {
    prompts_if_running(fleet, device).expect("the agent answers")
}

/// The same; none while the agent does not run.
fn prompts_if_running(fleet: &Fleet, device: &str) -> Option<Vec<Value>> {
    let mut list = command(binary("edge-agent"));
    list.args(["prompt", "list", "--json", "--data"]).arg(fleet.directory_of(device));
    let said: Value = serde_json::from_slice(&run(list).stdout).ok()?;
    said["prompts"].as_array().cloned()
}

fn shown(fleet: &Fleet, device: &str, payment: PaymentId) {
    until(&format!("{device}, asking"), || {
        let prompts = prompts_if_running(fleet, device)?;
        prompts.iter().any(|prompt| prompt["payment"] == payment.to_string()).then_some(())
    });
}

fn press(fleet: &Fleet, device: &str, word: &str, payment: PaymentId) -> Result<(), String> {
    let mut press = command(binary("edge-agent"));
    press.args(["prompt", word, &payment.to_string(), "--json", "--data"]).arg(fleet.directory_of(device));
    let output = run(press);
    if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
}

fn row(fleet: &Fleet, payment: PaymentId) -> ChildPaymentRow {
    let find = AdminCommand::Find { listing: Listing::ChildPayments, filter: Filter::default() };
    let AdminAnswer::ChildPayments(rows) = fleet.core(find) else { panic!("rows") };
    rows.into_iter().find(|row| row.payment == payment).unwrap()
}

/// PC-1 to PC-4: asked on this piggy bank and no other, taken with the child's yes, untouched by its no.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_confirms_one_payment_and_rejects_another() {
    let fleet = family();
    let mut dad = terminal(&fleet, "home/dad");
    for (word, state, has) in
        [("confirm", PaymentState::Settled, "15.00 EUR"), ("reject", PaymentState::Rejected, "15.00 EUR")]
    {
        let payment = dad.order(order(), WAIT).await.unwrap();
        shown(&fleet, PIGGY, payment);
        assert!(prompts(&fleet, "home/other").is_empty(), "PC-2: no other device is asked");
        press(&fleet, PIGGY, word, payment).unwrap();
        let told = dad.status(payment, WAIT, |status| status.state == state).await.unwrap();
        assert_eq!(told.paid.minor > 0, word == "confirm");
        assert!(prompts(&fleet, PIGGY).is_empty());
        let again = press(&fleet, PIGGY, "confirm", payment).unwrap_err();
        assert!(again.contains("already_answered"), "{again}");
        fleet.person_has("mia", has);
    }
    let mut stranger = terminal(&fleet, "home/stranger");
    let refused = stranger.order(order(), WAIT).await.unwrap_err().to_string();
    assert!(refused.contains("not_guardian"), "{refused}");
}

/// PC-3, correctness.md 5: the child has answered, and the power of the piggy bank goes at each step. One answer,
/// booked once; or, where nothing of the answer was on disk, the child is asked again.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_survives_a_power_cut_of_the_piggy_bank() {
    let mut fleet = family();
    let mut dad = terminal(&fleet, "home/dad");
    let mut has = 20;
    for step in ["inbox-appended", "inbox-synced", "outcome-appended", "outcome-synced"] {
        fleet.device(PIGGY).kill();
        start(&mut fleet, PIGGY, Some(&format!("{step}:1")));
        let payment = dad.order(order(), WAIT).await.unwrap();
        if step.starts_with("outcome") {
            shown(&fleet, PIGGY, payment);
            // The agent dies while it answers: whether it says so is not the question.
            let _ = press(&fleet, PIGGY, "confirm", payment);
        }
        until("the power cut", || fleet.device(PIGGY).has_ended());
        start(&mut fleet, PIGGY, None);
        fleet_until_asked_or_settled(&fleet, payment);
        let told = dad.status(payment, WAIT, |status| status.state != PaymentState::Prompting).await.unwrap();
        assert_eq!(told.state, PaymentState::Settled, "killed at {step}");
        has -= 5;
        fleet.person_has("mia", &format!("{has}.00 EUR"));
        fleet.wait_for_device(PIGGY);
    }
}

/// Answers where the child is asked, until the payment has ended.
fn fleet_until_asked_or_settled(fleet: &Fleet, payment: PaymentId) {
    until("the child's answer at the cloud", || {
        let prompts = prompts_if_running(fleet, PIGGY).unwrap_or_default();
        if prompts.iter().any(|prompt| prompt["payment"] == payment.to_string()) {
            let _ = press(fleet, PIGGY, "confirm", payment);
        }
        row(fleet, payment).at_rest.then_some(())
    });
}

/// correctness.md 15, 16: the core dies while the child thinks. The answer counts, once, when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn the_core_dies_while_the_child_thinks() {
    let mut fleet = family();
    let mut dad = terminal(&fleet, "home/dad");
    let payment = dad.order(order(), WAIT).await.unwrap();
    shown(&fleet, PIGGY, payment);
    fleet.kill_core();
    press(&fleet, PIGGY, "confirm", payment).unwrap();
    fleet.start_core(None).unwrap();
    let told = dad.status(payment, WAIT, |status| status.state != PaymentState::Prompting).await.unwrap();
    assert_eq!(told.state, PaymentState::Settled);
    fleet.person_has("mia", "15.00 EUR");
}

/// PC-4, PC-15: silence, a withdrawal, another piggy bank and a lost one: the prompt leaves the screen, nothing moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_ends_without_an_answer() {
    let fleet = family();
    let mut dad = terminal(&fleet, "home/dad");
    for (why, state) in [
        ("silence", PaymentState::Expired),
        ("cancel", PaymentState::Cancelled),
        ("swap", PaymentState::Refused),
        ("lost", PaymentState::Refused),
    ] {
        let device = if why == "lost" { "home/other" } else { PIGGY };
        let payment = dad.order(order(), WAIT).await.unwrap();
        shown(&fleet, device, payment);
        match why {
            "cancel" => drop(dad.cancel(payment, WAIT).await.unwrap()),
            "swap" => {
                drop(fleet.core(AdminCommand::BindChild {
                    child: "home/mia".parse().unwrap(),
                    bonds: bonds("other"),
                }))
            }
            "lost" => drop(fleet.core(AdminCommand::RevokeDevice { device: device.parse().unwrap() })),
            _ => {}
        }
        let told = dad.status(payment, WAIT, |status| status.state != PaymentState::Prompting).await.unwrap();
        assert_eq!(told.state, state, "{why}");
        if why != "lost" {
            until("an empty screen", || prompts(&fleet, device).is_empty().then_some(()));
            assert!(press(&fleet, device, "confirm", payment).is_err(), "{why}");
        }
        fleet.person_has("mia", "20.00 EUR");
    }
    let story = fleet.cli(&["admin", "children", "payments"]);
    let story = text(&story.stdout);
    for state in ["expired", "cancelled", "refused"] {
        assert!(story.contains(state), "{story}");
    }
}
