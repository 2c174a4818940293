//! The stories of codes: the child says yes at its piggy bank, and pays where its code is scanned (PC-6, PC-7, PC-9,
//! PC-10, PC-15). They go on where `wishes.rs` ends.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::places::{CodeRules, CodeRulesChange, RegisteredPlace};
use schemas::ids::{PaymentId, Principal};
use schemas::message::{Categories, PaymentMode, PaymentOrder, PaymentState, Place};
use schemas::wire::Text;
use serde_json::{Value, json};

use super::children::{refused, run};
use super::family::{PIGGY_BANK, answer, expect, has, order, place};
use super::fleet::{Fleet, PATIENCE};
use super::narrator::Narrator;
use super::stories::{Story, wait_until};
use crate::admin::client::AdminClient;

/// In the order in which they are told.
pub(super) const STORIES: &[Story] = &[
    Story {
        title: "Lunch with a code",
        about: "Grandma gave Mia 10.00. Dad allows lunch at the school, to be paid there: Mia says yes, and asks for the code too early.",
        moral: "no code where it does not count, and the child reads why; scanned at the school, it paid once",
        play: |fleet, narrator| Box::pin(scanned(fleet, narrator)),
    },
    Story {
        title: "The picture of a code",
        about: "Somebody has taken a picture of the code, and shows it at the same till.",
        moral: "a code counts once, whoever has a picture of it",
        play: |fleet, narrator| Box::pin(replayed(fleet, narrator)),
    },
    Story {
        title: "A token for an ice cream",
        about: "No QR code this time: the piggy bank signs a token by itself and hands it to the till.",
        moral: "signed by the piggy bank, checked by the cloud with the key of its enrolment",
        play: |fleet, narrator| Box::pin(token(fleet, narrator)),
    },
    Story {
        title: "A code that nobody scans",
        about: "Mia says yes, and then forgets about it.",
        moral: "what was reserved is there again when the code has expired, and both are told",
        play: |fleet, narrator| Box::pin(unused(fleet, narrator)),
    },
];

const SCHOOL: (f64, f64) = (52.52, 13.4);
const HOME: (f64, f64) = (52.53, 13.41);
/// As long as the way from home to school takes a child in a hurry.
pub(super) const RULES: CodeRules = CodeRules {
    default_ms: 25_000,
    least_ms: 25_000,
    most_ms: 60_000,
    pace_mm_per_s: 100_000,
    margin_ms: 0,
    check_at_once: true,
    emvco: false,
};

/// A canteen at the school, where lunch and ice cream are paid for.
pub(super) fn register(admin: &AdminClient) -> anyhow::Result<()> {
    let name = |text: &str| -> anyhow::Result<Principal> { Ok(format!("home/{text}").parse()?) };
    let place = Place {
        place: "school".parse()?,
        title: Text::new("The school"),
        latitude_e7: 525_200_000,
        longitude_e7: 134_000_000,
        radius_m: 150,
        categories: Categories::new(vec!["lunch".parse()?, "sweets".parse()?])?,
    };
    let terminals = BTreeSet::from(["canteen-till".parse()?]);
    let commands = [
        AdminCommand::CreatePerson { person: name("canteen-till")?, public_key: None, bank_account: None },
        AdminCommand::CreateMerchant {
            tenant: "home".parse()?,
            merchant: "canteen".parse()?,
            title: "The canteen".to_owned(),
            terminal: Some("canteen-till".parse()?),
        },
        AdminCommand::SetPlace {
            tenant: "home".parse()?,
            entry: RegisteredPlace { place, merchant: "canteen".parse()?, terminals },
        },
    ];
    for command in commands {
        admin.core(command)?;
    }
    Ok(())
}

/// The scanner at the till: no agent runs for it, and a token says who it is.
pub(super) fn till(directory: &Path, lane: SocketAddr, token: &str) -> anyhow::Result<()> {
    let data = directory.join("canteen-till");
    std::fs::create_dir_all(&data)?;
    let settings = format!("broker = \"{lane}\"\nprincipal = \"home/canteen-till\"\ntoken = \"{token}\"\n");
    Ok(std::fs::write(data.join("agent.toml"), settings)?)
}

/// The piggy bank's profile: the shipped one, with a receiver that reads a file.
pub(super) fn profile(directory: &Path) -> anyhow::Result<String> {
    stand(directory, HOME)?;
    let shipped = include_str!("../../../edge-agent/profiles/piggy-bank.toml");
    let file = format!("[position]\nkind = \"file\"\npath = {:?}\n", directory.join("position.json"));
    let profile = shipped.replace("[position]\nkind = \"none\"\n", &file);
    ensure!(profile != shipped, "the shipped profile has a position to replace");
    let path = directory.join("piggy-bank.toml");
    std::fs::write(&path, profile)?;
    Ok(path.to_string_lossy().into_owned())
}

fn stand(directory: &Path, (latitude, longitude): (f64, f64)) -> anyhow::Result<()> {
    let position = json!({ "latitude": latitude, "longitude": longitude, "accuracy_m": 10 });
    let (new, path) = (directory.join("position.new"), directory.join("position.json"));
    std::fs::write(&new, position.to_string())?;
    Ok(std::fs::rename(new, path)?)
}

async fn scanned(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    fleet.admin(AdminCommand::Deposit {
        person: "home/mia".parse()?,
        amount: "10.00 EUR".parse()?,
        reference: "grandma".to_owned(),
    })?;
    let payment = agreed(fleet, narrator, PaymentMode::Qr, "3.50", "lunch").await?;
    let data = fleet.device_directory(PIGGY_BANK);
    let (id, data) = (payment.to_string(), data.to_string_lossy().into_owned());
    let show = ["__edge-agent", "code", "show", &id, "--json", "--data", &data];
    let (code, why) = refused(&show).await?;
    narrator.tell(&format!("at home, piggy bank: {code}: {why}"));
    ensure!(code == "other_place", "the code is refused otherwise");
    stand(fleet.path(), SCHOOL)?;
    narrator.tell("mia goes to school");
    let picture = fleet.path().join("code.png").to_string_lossy().into_owned();
    let with_picture = [&show[..], &["--png", &picture]].concat();
    let shown = || async { Ok(run(&with_picture).await.is_ok()) };
    wait_until("the piggy bank knows where it is", shown).await?;
    narrator.tell("at the school: the piggy bank shows a QR code");
    let payments = scan(fleet, &["--image", &picture]).await?;
    ensure!(payments["payment"] == id, "the till was answered {payments}");
    narrator.tell("the canteen's till scans it: accepted");
    expect(fleet, narrator, payment, PaymentState::Settled, "3.50").await?;
    mia_has(fleet, narrator, "7.00")
}

async fn replayed(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let picture = fleet.path().join("code.png").to_string_lossy().into_owned();
    let arguments = scan_arguments(fleet, &["--image", &picture]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, why) = refused(&arguments).await?;
    narrator.tell(&format!("the till scans it again: {code}: {why}"));
    ensure!(code == "code_used", "the code is refused otherwise");
    mia_has(fleet, narrator, "7.00")
}

async fn token(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let payment = agreed(fleet, narrator, PaymentMode::Token, "1.50", "sweets").await?;
    let data = fleet.device_directory(PIGGY_BANK);
    let (id, data) = (payment.to_string(), data.to_string_lossy().into_owned());
    let said = run(&["__edge-agent", "code", "present", &id, "--json", "--data", &data]).await?;
    let said: Value = serde_json::from_slice(&said.stdout).context("what `code present` prints")?;
    let token = said["code"].as_str().context("the token")?.to_owned();
    narrator.tell(&format!("piggy bank -> till: {}… ({} characters)", &token[..12], token.len()));
    scan(fleet, &["--text", &token]).await?;
    expect(fleet, narrator, payment, PaymentState::Settled, "1.50").await?;
    mia_has(fleet, narrator, "5.50")
}

async fn unused(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let short = CodeRulesChange {
        default_ms: Some(2_000),
        least_ms: Some(2_000),
        most_ms: Some(2_000),
        ..CodeRulesChange::default()
    };
    fleet.admin(AdminCommand::ChangeTenant {
        tenant: "home".parse()?,
        bank_url: None,
        on_unknown: None,
        deadlines: Default::default(),
        code_rules: short,
        child_keep_minor: None,
    })?;
    let payment = agreed(fleet, narrator, PaymentMode::Qr, "2.00", "lunch").await?;
    expect(fleet, narrator, payment, PaymentState::Expired, "0.00").await?;
    mia_has(fleet, narrator, "5.50")
}

/// Dad orders it for the school, and Mia says yes.
async fn agreed(
    fleet: &mut Fleet,
    narrator: &Narrator,
    mode: PaymentMode,
    amount: &str,
    category: &str,
) -> anyhow::Result<PaymentId> {
    let school = Some("school".parse()?);
    let order = PaymentOrder { mode: Some(mode), place: school, ..order(amount, category)? };
    let payment = place(fleet, narrator, order).await?;
    answer(fleet, narrator, payment, "confirm").await?;
    let presenting = |status: &schemas::message::PaymentStatus| status.state == PaymentState::Presenting;
    let told = fleet.guardian.status(payment, PATIENCE, presenting).await?;
    narrator.tell(&format!("dad is told: {}: {}", told.state, told.text));
    let data = fleet.device_directory(PIGGY_BANK).to_string_lossy().into_owned();
    let id = payment.to_string();
    let there = || async {
        let said = run(&["__edge-agent", "code", "list", "--json", "--data", &data]).await?;
        let said: Value = serde_json::from_slice(&said.stdout).context("what `code list` prints")?;
        let codes = said["codes"].as_array().cloned().unwrap_or_default();
        Ok(codes.iter().any(|code| code["payment"] == id))
    };
    wait_until("the piggy bank has the code", there).await?;
    Ok(payment)
}

async fn scan(fleet: &Fleet, what: &[&str]) -> anyhow::Result<Value> {
    let arguments = scan_arguments(fleet, what);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = run(&arguments).await?;
    serde_json::from_slice(&said.stdout).context("what `scan` prints")
}

fn scan_arguments(fleet: &Fleet, what: &[&str]) -> Vec<String> {
    let data = fleet.device_directory("canteen-till").to_string_lossy().into_owned();
    let head = ["__edge-agent", "scan", "--json", "--data", &data];
    head.iter().chain(what).map(|word| (*word).to_owned()).collect()
}

fn mia_has(fleet: &Fleet, narrator: &Narrator, mia: &str) -> anyhow::Result<()> {
    has(fleet, narrator, mia, "29.50")
}
