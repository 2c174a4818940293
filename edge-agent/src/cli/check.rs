//! `edge-agent check`: each failure names the fix.

use std::path::Path;
use std::time::Duration;

use schemas_journal::FileDisk;
use serde_json::json;

use super::run::{Identity, runtime};
use super::{Failure, show};
use crate::clock::wall;
use crate::config::{Config, Layer};
use crate::connection::probe;
use crate::driver::Driver;
use crate::enrolment::IdentityDirectory;
use crate::local::{self, Request};

const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A certificate that ends sooner is worth a word: 14 days.
const SOON_S: i64 = 14 * 24 * 60 * 60;

struct Finding {
    name: &'static str,
    result: Result<String, String>,
}

pub(super) fn check(data: &Path, flags: Layer, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, flags)?;
    let findings = [
        Finding { name: "profile", result: check_profile(&config) },
        Finding { name: "identity", result: check_identity(&config) },
        Finding { name: "journal", result: check_journal(&config) },
        Finding { name: "connection", result: check_connection(&config) },
        Finding { name: "clock", result: check_clock(&config) },
    ];
    let value: Vec<_> = findings
        .iter()
        .map(|finding| {
            let (ok, text) = match &finding.result {
                Ok(text) => (true, text),
                Err(text) => (false, text),
            };
            json!({ "check": finding.name, "ok": ok, "text": text })
        })
        .collect();
    show(json, &json!(value), || {
        let line = |finding: &Finding| match &finding.result {
            Ok(text) => format!("ok      {:<12}{text}\n", finding.name),
            Err(text) => format!("FAILED  {:<12}{text}\n", finding.name),
        };
        findings.iter().map(line).collect()
    })?;
    let failed = findings.iter().filter(|finding| finding.result.is_err()).count();
    if failed == 0 { Ok(()) } else { Err(Failure::failed("check_failed", format!("{failed} checks failed"))) }
}

fn check_profile(config: &Config) -> Result<String, String> {
    let profile = config.profile().map_err(|error| error.to_string())?;
    let values = &config.values;
    Driver::open(&profile.driver, values.faults.as_deref(), values.physical_log.as_deref())
        .map_err(|error| error.to_string())?;
    if let Some(buttons) = profile.prompt.as_ref().and_then(|rules| rules.buttons.as_ref()) {
        rustix::fs::access(&buttons.device, rustix::fs::Access::READ_OK).map_err(|error| {
            format!("the buttons at {} can't be read ({error}): check path and permissions", buttons.device)
        })?;
    }
    crate::position::check(&profile.position).map_err(|error| error.to_string())?;
    Ok(format!("{}: {}", profile.name, profile.summary))
}

fn check_identity(config: &Config) -> Result<String, String> {
    let identity = Identity::load(config).map_err(|failure| failure.text().to_owned())?;
    let principal = identity.principal;
    let directory =
        IdentityDirectory::open(&config.identity_directory()).map_err(|error| error.to_string())?;
    let Some(enrolled) = directory.load().map_err(|error| error.to_string())? else {
        return Ok(format!("{principal}, by token on loopback"));
    };
    let Some(certificate) = enrolled.certificate_chain.first() else {
        return Err("there is no certificate: enrol again".to_owned());
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let now_s = i64::try_from(wall().0 / 1000).unwrap_or(i64::MAX);
    let (begins_s, ends_s) =
        (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    if now_s < begins_s {
        return Err(format!(
            "the wall clock says {}, before the certificate of {principal} begins: set the clock",
            wall()
        ));
    }
    if now_s > ends_s {
        return Err(format!(
            "the certificate of {principal} has ended: ask the operator for a new claim code and enrol"
        ));
    }
    let days = (ends_s - now_s) / 86_400;
    let soon =
        if ends_s - now_s < SOON_S { ": see `edge-agent certificate show` for its renewal" } else { "" };
    Ok(format!("{principal}, certificate valid for {days} days{soon}"))
}

fn check_journal(config: &Config) -> Result<String, String> {
    let directory = config.journal_directory();
    if !directory.exists() {
        return Ok("none yet".to_owned());
    }
    let disk = FileDisk::open_read_only(&directory).map_err(|error| error.to_string())?;
    let report = schemas_journal::verify(&disk).map_err(|error| error.to_string())?;
    match report.problem {
        None => Ok(format!("{} records in {} segments, chain intact", report.records, report.segments)),
        Some(problem) => Err(format!(
            "{problem:?}: keep a copy of {}, then restore it from a backup or replace the device",
            directory.display()
        )),
    }
}

fn check_connection(config: &Config) -> Result<String, String> {
    let endpoint = Identity::load(config)
        .and_then(|identity| identity.endpoint(config))
        .map_err(|failure| failure.text().to_owned())?;
    let address = format!("{}:{}", endpoint.host, endpoint.port);
    let runtime = runtime().map_err(|failure| failure.text().to_owned())?;
    match runtime.block_on(async { tokio::time::timeout(PROBE_TIMEOUT, probe(&endpoint)).await }) {
        Ok(Ok(())) => Ok(format!("{address} accepts this device")),
        Ok(Err(why)) => Err(format!("{address}: {why}")),
        Err(_) => {
            Err(format!("{address} does not answer: check the address, the network and that the cloud runs"))
        }
    }
}

/// The boot-time clock is the one that counts; the wall clock only judges certificates.
fn check_clock(config: &Config) -> Result<String, String> {
    let Ok(Ok(status)) = local::ask(&config.socket(), &Request::Status) else {
        return Ok(format!("wall clock {}; the agent does not run, so cloud time is unknown", wall()));
    };
    match status["cloud_time"].as_u64() {
        Some(cloud) => {
            let off_s = cloud.abs_diff(wall().0) / 1000;
            Ok(format!(
                "cloud time is known; the wall clock is {off_s} s off, which does not matter to commands"
            ))
        }
        None => Err("the running agent does not know the cloud's time: check the connection".to_owned()),
    }
}
