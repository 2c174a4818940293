//! Paying with a code between real processes (PC-6, PC-7, PC-9, PC-10): a guardian orders over MQTT, a child agrees and
//! asks for its code at its piggy bank's agent, and the canteen scans it; or nobody does, or the core is killed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use cloud_core_flows::admin::{AdminCommand, BankKind, OnUnknown};
use cloud_core_flows::children::Bonds;
use cloud_core_flows::places::{CodeRules, RegisteredPlace};
use device_sim::live::terminal::Terminal;
use farthing_tests::fleet::{DEADLINES, Fleet, Options};
use farthing_tests::process::{binary, command, run, run_ok, text};
use farthing_tests::until;
use schemas::ids::PaymentId;
use schemas::message::{Categories, Payee, PaymentMode, PaymentOrder, PaymentState, Place, ShowCode};
use schemas::wire::Text;
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(30);
const PIGGY: &str = "home/piggy";
/// Latitudes times 10^7 on the meridian of 13.4 degrees east.
const SCHOOL: i32 = 525_200_000;
const STALL: i32 = 525_300_000;
const ELSEWHERE: i32 = 525_900_000;

fn lunch() -> Categories {
    Categories::new(vec!["lunch".parse().unwrap()]).unwrap()
}

fn place(name: &str, latitude_e7: i32, categories: &str, terminal: &str) -> AdminCommand {
    let place = Place {
        place: name.parse().unwrap(),
        title: Text::new(format!("The {name}")),
        latitude_e7,
        longitude_e7: 134_000_000,
        radius_m: 100,
        categories: Categories::new(vec![categories.parse().unwrap()]).unwrap(),
    };
    let (merchant, terminals) = ("canteen".parse().unwrap(), [terminal.parse().unwrap()].into());
    let entry = RegisteredPlace { place, merchant, terminals };
    AdminCommand::SetPlace { tenant: "home".parse().unwrap(), entry }
}

/// Mia with 20.00 EUR, her dad, and a canteen at her school. Writes are held until they are synced, so that SIGKILL is
/// a power cut.
fn family(code_rules: CodeRules) -> Fleet {
    let mut fleet = Fleet::start(Options { hold_writes: true, ..Options::default() });
    let person = |name: &str| AdminCommand::CreatePerson {
        person: format!("home/{name}").parse().unwrap(),
        public_key: None,
        bank_account: None,
    };
    let commands = [
        AdminCommand::CreateTenant {
            tenant: "home".parse().unwrap(),
            currency: "EUR".parse().unwrap(),
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: DEADLINES,
            code_rules,
        },
        person("mia"),
        person("dad"),
        person("canteen-till"),
        person("stall-till"),
        AdminCommand::CreateMerchant {
            tenant: "home".parse().unwrap(),
            merchant: "canteen".parse().unwrap(),
            title: "Canteen".to_owned(),
            terminal: Some("canteen-till".parse().unwrap()),
        },
        place("school", SCHOOL, "lunch", "canteen-till"),
        place("stall", STALL, "toys", "stall-till"),
        AdminCommand::CreateDevice {
            device: PIGGY.parse().unwrap(),
            profile: "piggy-bank".to_owned(),
            longest_act_ms: 0,
        },
        AdminCommand::BindChild {
            child: "home/mia".parse().unwrap(),
            bonds: Bonds {
                guardians: ["dad".parse().unwrap()].into(),
                piggy_bank: Some("piggy".parse().unwrap()),
                receiving: None,
                time_zone: "Europe/Berlin".to_owned(),
            },
        },
        AdminCommand::Deposit {
            person: "home/mia".parse().unwrap(),
            amount: "20.00 EUR".parse().unwrap(),
            reference: "birthday".to_owned(),
        },
    ];
    for command in commands {
        fleet.core(command);
    }
    let profile = fleet.directory().join("piggy.toml");
    let shipped = include_str!("../../edge-agent/profiles/piggy-bank.toml");
    let file = format!("[position]\nkind = \"file\"\npath = \"{}\"", position(&fleet).display());
    let with_file = shipped.replacen("[position]\nkind = \"none\"", &file, 1);
    assert_ne!(with_file, shipped);
    std::fs::write(&profile, with_file).unwrap();
    stand(&fleet, SCHOOL);
    fleet.enrol(PIGGY);
    fleet.start_device(PIGGY, &profile, "", None);
    fleet.wait_for_device(PIGGY);
    fleet
}

fn position(fleet: &Fleet) -> PathBuf {
    fleet.directory().join("position.json")
}

fn stand(fleet: &Fleet, latitude_e7: i32) {
    let new = position(fleet).with_extension("new");
    let text = format!("{{\"latitude\": {latitude_e7}e-7, \"longitude\": 13.4, \"accuracy_m\": 10}}");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, position(fleet)).unwrap();
}

fn terminal(fleet: &Fleet, name: &str) -> Terminal {
    Terminal::connect(fleet.lane(), name.parse().unwrap(), &fleet.token(name), None)
}

fn at_piggy(fleet: &Fleet, arguments: &[&str]) -> Output {
    let mut agent = command(binary("edge-agent"));
    agent.args(arguments).args(["--json", "--data"]).arg(fleet.directory_of(PIGGY));
    run(agent)
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

/// The code list's entry of a payment would be shown now, or not, and why.
fn until_code(fleet: &Fleet, payment: PaymentId, not_now: Option<&str>) {
    until(&format!("the code, not shown because {not_now:?}"), || {
        let list = json(&at_piggy(fleet, &["code", "list"]).stdout);
        let codes = list["codes"].as_array()?;
        let code = codes.iter().find(|code| code["payment"] == payment.to_string())?;
        (code["not_now"][0].as_str() == not_now).then_some(())
    });
}

fn is_final(state: PaymentState) -> bool {
    !matches!(state, PaymentState::Prompting | PaymentState::Presenting)
}

/// Dad orders lunch of 2.50 EUR, and Mia says yes.
async fn agreed(fleet: &Fleet, dad: &mut Terminal, mode: PaymentMode) -> PaymentId {
    let order = PaymentOrder {
        payee: Some(Payee::Merchant("canteen".parse().unwrap())),
        mode: Some(mode),
        show: Some(ShowCode::OnRequest),
        ..PaymentOrder::deduction("mia".parse().unwrap(), "2.50 EUR".parse().unwrap(), lunch())
    };
    let payment = dad.order(order, WAIT).await.unwrap();
    let id = payment.to_string();
    until("the child's yes", || at_piggy(fleet, &["prompt", "confirm", &id]).status.success().then_some(()));
    dad.status(payment, WAIT, |status| status.state == PaymentState::Presenting).await.unwrap();
    until_code(fleet, payment, None);
    payment
}

fn picture(fleet: &Fleet, payment: PaymentId) -> PathBuf {
    let png = fleet.directory().join(format!("{payment}.png"));
    let shown = at_piggy(fleet, &["code", "show", &payment.to_string(), "--png", png.to_str().unwrap()]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    png
}

/// `edge-agent scan` of a person's terminal: what it says, or the code of its refusal.
fn scan(fleet: &Fleet, who: &str, arguments: &[&str]) -> Result<Value, String> {
    let mut scan = command(binary("edge-agent"));
    scan.arg("scan").args(arguments).args(["--json", "--data"]).arg(fleet.directory_of(who));
    scan.args(["--broker", &fleet.lane().to_string()]);
    // A token belongs on no command line.
    scan.env("FARTHING_PRINCIPAL", who).env("FARTHING_TOKEN", fleet.token(who));
    let output = run(scan);
    if output.status.success() {
        return Ok(json(&output.stdout));
    }
    Err(json(&output.stderr)["error"].as_str().unwrap_or_default().to_owned())
}

/// PC-6, PC-9, PC-10: shown only at the school, read from its picture, paid once.
#[tokio::test(flavor = "multi_thread")]
async fn a_picture_pays_once_and_is_shown_only_at_the_place() {
    let fleet = family(CodeRules::default());
    let mut dad = terminal(&fleet, "home/dad");
    let payment = agreed(&fleet, &mut dad, PaymentMode::Qr).await;
    for (latitude_e7, why) in [(ELSEWHERE, "not_at_a_place"), (STALL, "category_not_here")] {
        stand(&fleet, latitude_e7);
        until_code(&fleet, payment, Some(why));
        let refused = at_piggy(&fleet, &["code", "show", &payment.to_string()]);
        assert_eq!((refused.status.code(), json(&refused.stderr)["error"].as_str()), (Some(6), Some(why)));
    }
    stand(&fleet, SCHOOL);
    until_code(&fleet, payment, None);
    let png = picture(&fleet, payment);
    let image = ["--image", png.to_str().unwrap()];
    let elsewhere = scan(&fleet, "home/stall-till", &image).unwrap_err();
    assert_eq!(elsewhere, "wrong_category");
    assert_eq!(scan(&fleet, "home/dad", &image).unwrap_err(), "not_a_scanner");
    let accepted = scan(&fleet, "home/canteen-till", &image).unwrap();
    assert_eq!(accepted["payment"], payment.to_string());
    let told = dad.status(payment, WAIT, |status| is_final(status.state)).await.unwrap();
    assert_eq!(told.state, PaymentState::Settled);
    assert_eq!(scan(&fleet, "home/canteen-till", &image).unwrap_err(), "code_used");
    fleet.person_has("mia", "17.50 EUR");
}

/// PC-7: the same with a token as text.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_pays_once() {
    let fleet = family(CodeRules::default());
    let mut dad = terminal(&fleet, "home/dad");
    let payment = agreed(&fleet, &mut dad, PaymentMode::Token).await;
    let mut present = command(binary("edge-agent"));
    present.args(["code", "present", "--data"]).arg(fleet.directory_of(PIGGY));
    let token = run_ok(present);
    let arguments = ["--text", token.trim(), "--amount", "2.50 EUR"];
    assert_eq!(scan(&fleet, "home/canteen-till", &arguments).unwrap()["payment"], payment.to_string());
    dad.status(payment, WAIT, |status| status.state == PaymentState::Settled).await.unwrap();
    assert_eq!(scan(&fleet, "home/canteen-till", &arguments).unwrap_err(), "code_used");
    fleet.person_has("mia", "17.50 EUR");
}

/// PC-6, PC-15: a code that nobody scans is over in time, for the child as for the books.
#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_nobody_scans_gives_the_money_back() {
    let rules = CodeRules { least_ms: 5_000, default_ms: 5_000, margin_ms: 0, ..CodeRules::default() };
    let fleet = family(rules);
    let mut dad = terminal(&fleet, "home/dad");
    let payment = agreed(&fleet, &mut dad, PaymentMode::Qr).await;
    let png = picture(&fleet, payment);
    let told = dad.status(payment, WAIT, |status| is_final(status.state)).await.unwrap();
    assert_eq!(told.state, PaymentState::Expired);
    let late = scan(&fleet, "home/canteen-till", &["--image", png.to_str().unwrap()]).unwrap_err();
    assert_eq!(late, "code_expired");
    let shown = at_piggy(&fleet, &["code", "show", &payment.to_string()]);
    assert_eq!(shown.status.code(), Some(6), "{}", text(&shown.stdout));
    fleet.person_has("mia", "20.00 EUR");
}

/// correctness.md 15, 16: the core dies while the code is shown. The scan counts, once, when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn the_core_dies_while_a_code_is_shown() {
    let mut fleet = family(CodeRules::default());
    let mut dad = terminal(&fleet, "home/dad");
    let payment = agreed(&fleet, &mut dad, PaymentMode::Qr).await;
    let png = picture(&fleet, payment);
    fleet.kill_core();
    let again = picture(&fleet, payment);
    assert_eq!(Path::new(&png), again, "the piggy bank needs no core to show it");
    fleet.start_core(None).unwrap();
    let image = ["--image", png.to_str().unwrap()];
    assert_eq!(scan(&fleet, "home/canteen-till", &image).unwrap()["payment"], payment.to_string());
    dad.status(payment, WAIT, |status| status.state == PaymentState::Settled).await.unwrap();
    assert_eq!(scan(&fleet, "home/canteen-till", &image).unwrap_err(), "code_used");
    fleet.person_has("mia", "17.50 EUR");
}
