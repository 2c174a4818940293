//! Commands about one device.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edge_agent_device::{Conditions, Device, Recovered, Settings, Status};
use qrcode::render::unicode;
use qrcode::{EcLevel, QrCode};
use schemas::claim::ClaimCode;
use schemas::ids::{ItemId, Principal};
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use schemas_journal::{FileDisk, Fold, for_each_record};
use serde_json::{Value, json};

use super::run::{Identity, runtime};
use super::{Failure, show};
use crate::clock::{boot_ms, random};
use crate::config::{Config, Layer};
use crate::enrolment::{CertificateClock, IdentityDirectory, enrol};
use crate::local::{self, LocalError, Request};

const ENROL_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn enroll(
    data: &Path,
    claim: &str,
    server: &str,
    device: &Principal,
    json: bool,
) -> Result<(), Failure> {
    let claim =
        ClaimCode::parse(claim).map_err(|error| Failure::failed("claim_invalid", error.to_string()))?;
    let config = Config::load(data, Layer::default())?;
    let directory = IdentityDirectory::open(&config.identity_directory())?;
    let key = directory.key_or_create(random()?)?;
    let clock = Arc::new(CertificateClock::new(0));
    directory.save_server(server)?;
    let enrolled = runtime()?.block_on(enrol(server, &claim, device, &key, clock, ENROL_TIMEOUT))?;
    directory.save(&enrolled)?;
    let public_key = PublicKey(key.public_key()).to_string();
    let value = json!({
        "principal": enrolled.principal,
        "instance": enrolled.instance,
        "public_key": public_key,
    });
    show(json, &value, || {
        format!(
            "enrolled as {} (instance {})\npublic key {public_key}\nnext: edge-agent run --data {} --broker \
             HOST:PORT --profile payment-chip|vending-executor|piggy-bank",
            enrolled.principal,
            enrolled.instance,
            data.display()
        )
    })
}

pub(super) fn status(data: &Path, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, Layer::default())?;
    let value = match local::ask(&config.socket(), &Request::Status) {
        Ok(reply) => reply?,
        Err(error @ LocalError::NotRunning(_)) => stopped_status(&config).ok_or(error)?,
        Err(error) => return Err(error.into()),
    };
    show(json, &value, || status_text(&value))
}

/// From the journal, without touching it; `None` where there is none or it can't be read.
fn stopped_status(config: &Config) -> Option<Value> {
    let disk = FileDisk::open_read_only(config.journal_directory()).ok()?;
    let mut recovered = Recovered::default();
    let mut readable = true;
    for_each_record(&disk, |position, _, record| readable &= recovered.apply(position, record).is_ok())
        .ok()?;
    let identity = Identity::load(config).ok().filter(|_| readable)?;
    let settings = Settings::of(identity.principal, identity.instance);
    let device = Device::open(settings, config.profile().ok()?, recovered, [0; 16], boot_ms());
    let mut value = json!(device.status(boot_ms()));
    value["running"] = json!(false);
    value["public_key"] = json!(PublicKey::of(&identity.key).to_string());
    Some(value)
}

fn status_text(value: &Value) -> String {
    let Ok(status) = serde_json::from_value::<Status>(strip(value)) else { return value.to_string() };
    let running = value["running"].as_bool().unwrap_or(false);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<22}{value}");
    };
    line("device", format!("{} (instance {}, {})", status.principal, status.instance, status.profile));
    line("public key", value["public_key"].as_str().unwrap_or_default().to_owned());
    line(
        "agent",
        match (running, status.connected) {
            (false, _) => "not running: this is what its journal says".to_owned(),
            (true, true) => format!("running, connected to {}", value["broker"].as_str().unwrap_or_default()),
            (true, false) => format!(
                "running, NOT connected to {}: see `edge-agent check`",
                value["broker"].as_str().unwrap_or_default()
            ),
        },
    );
    line(
        "cloud time",
        status.cloud_time.map_or(
            "unknown: nothing is executed, issued or asked until it is known".to_owned(),
            |time: Timestamp| format!("at most {time}"),
        ),
    );
    line("spool", format!("{} waiting, {} in flight", status.spool_depth, status.in_flight));
    line("open commands", status.open_commands.len().to_string());
    for open in &status.open_commands {
        let begun = if open.begun { "acting" } else { "waiting" };
        line("", format!("{} {} x{} {begun}", open.command, open.item, open.quantity));
    }
    if !status.open_prompts.is_empty() || !status.prompt_results.is_empty() {
        let results = status.prompt_results.len();
        let open = status.open_prompts.len();
        line("open prompts", format!("{open}, {results} results: see `edge-agent prompt list`"));
    }
    if let Some(places) = &status.places {
        let refused = places.refused.as_ref();
        let refused = refused.map_or_else(String::new, |code| format!("; REFUSED a list: {code}"));
        let open = status.open_codes.len();
        line("codes", format!("{open} to pay with: see `edge-agent code list`"));
        line("places", format!("{} (version {}){refused}", places.places, places.version));
    }
    line("remembered commands", status.remembered_commands.to_string());
    line("payment informations", status.issued_informations.to_string());
    line("dead letters", status.dead_letters_total.to_string());
    for letter in status.dead_letters.iter().rev().take(5) {
        let about = letter.about.as_ref().map_or("?", |about| about.as_str());
        line("", format!("{:?} {about}: {}", letter.direction, letter.code));
    }
    if status.hardware_silent {
        line("hardware", "SILENT after an act: look at the machine".to_owned());
    }
    if status.journal_full {
        line("journal", "FULL: free disk space in the data directory".to_owned());
    }
    line("journal records", format!("{} ({} synced)", status.position, status.synced));
    text
}

/// Without what the agent adds to the device's own status.
fn strip(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        for added in ["running", "broker", "process", "public_key"] {
            map.remove(added);
        }
    }
    value
}

pub(super) fn pay_info(
    data: &Path,
    item: ItemId,
    quantity: u32,
    valid_s: Option<u32>,
    json: bool,
) -> Result<(), Failure> {
    let config = Config::load(data, Layer::default())?;
    let valid_ms = valid_s.map(|seconds| u64::from(seconds) * 1000);
    let value = local::ask(&config.socket(), &Request::PayInfo { item, quantity, valid_ms })??;
    let information = value["information"].as_str().unwrap_or_default();
    let code = QrCode::with_error_correction_level(information, EcLevel::L)
        .map_err(|error| Failure::failed("qr_failed", format!("no QR code can be made: {error}")))?;
    show(json, &value, || {
        let expires_at =
            value["expires_at"].as_u64().map_or_else(String::new, |ms| Timestamp(ms).to_string());
        format!(
            "{}\n{} for {} x{} to {}, until {expires_at}\n{information}",
            code.render::<unicode::Dense1x2>().build(),
            value["amount"].as_str().unwrap_or_default(),
            value["item"].as_str().unwrap_or_default(),
            value["quantity"],
            value["payee"].as_str().unwrap_or_default(),
        )
    })
}

pub(super) fn conditions(data: &Path, conditions: Conditions, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, Layer::default())?;
    let value = local::ask(&config.socket(), &Request::Conditions { conditions })??;
    show(json, &value, || "told".to_owned())
}

pub(super) fn set_up(data: &Path, on: bool, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, Layer::default())?;
    let value = local::ask(&config.socket(), &Request::SetUp { on })??;
    show(json, &value, || format!("set-up mode is {}", if on { "on" } else { "off" }))
}

pub(super) fn key(data: &Path, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, Layer::default())?;
    let directory = IdentityDirectory::open(&config.identity_directory())?;
    let public_key = PublicKey(directory.key_or_create(random()?)?.public_key()).to_string();
    show(json, &json!({ "public_key": public_key }), || public_key.clone())
}

pub(super) fn show_config(data: &Path, flags: Layer, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, flags)?;
    let values: Vec<Value> = config
        .values
        .values()
        .into_iter()
        .map(|(name, value)| json!({ "name": name, "value": value, "origin": config.origins.get(name) }))
        .collect();
    show(json, &json!(values), || {
        let mut text = String::new();
        for (name, value) in config.values.values() {
            let origin = config.origins.get(name).map_or("", String::as_str);
            let _ = writeln!(text, "{name:<18}{value:<40}{origin}");
        }
        text
    })
}
