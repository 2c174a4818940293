//! `edge-agent scan`: the scanner at a place, which needs no running agent (PC-10).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemas::envelope::Envelope;
use schemas::ids::{IdempotencyKey, MessageId};
use schemas::message::{PaymentScan, Up};
use schemas::money::Money;
use schemas::signed::CodeText;
use schemas::time::Timestamp;
use serde_json::{Value, json};

use super::run::{Identity, runtime};
use super::{Failure, show};
use crate::clock::{random, wall};
use crate::code::read_png;
use crate::config::{Config, Layer};
use crate::connection::{Access, Endpoint, request};
use crate::local::{self, LocalError, Request};

/// Largest picture that is read, in bytes.
const IMAGE_BYTES: u64 = 16 << 20;
/// A scan may be handed in again for so long, in milliseconds. The cloud remembers each for that time, and at most 1,000
/// of one terminal.
const LIFE_MS: u64 = 10 * 60 * 1000;

/// What to hand in, and how.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) image: Option<PathBuf>,
    pub(super) text: Option<String>,
    pub(super) amount: Option<Money>,
    /// Of the scan that is handed in again.
    pub(super) again: Option<(IdempotencyKey, u64)>,
    pub(super) wait_s: u32,
}

pub(super) fn scan(data: &Path, flags: Layer, scan: &Scan, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, flags)?;
    let endpoint = endpoint(&config)?;
    no_agent_runs(&config)?;
    let code = code(scan)?;
    let (key, scanned_at) = match scan.again {
        Some((key, scanned_at)) => (key, Timestamp(scanned_at)),
        None => (IdempotencyKey(random()?), wall()),
    };
    // All of it follows from key, time and code, so that the same scan is the same request.
    let id = MessageId::derived("payment-scan", &[&key.0]);
    let body = Up::PaymentScan(PaymentScan { code, amount: scan.amount, scanned_at });
    let envelope = Envelope::request(id, key, scanned_at.plus_ms(LIFE_MS), body);
    let within = Duration::from_secs(u64::from(scan.wait_s));
    let answered = runtime()?.block_on(request(&endpoint, &envelope, within));
    let answer = answered.map_err(|why| {
        let text = format!(
            "{why}. Whether it was accepted is not known: hand in the same scan again, with the same code and amount and \
             --key {key} --scanned-at {}",
            scanned_at.0
        );
        Failure::unreached("no_answer", text)
    })?;
    if let Some(code) = answer.refused {
        return Err(Failure::refused(code.as_str(), answer.text.to_string()));
    }
    let value = json!({
        "accepted": true,
        "payment": answer.payment,
        "text": answer.text,
        "key": key,
        "scanned_at": scanned_at,
    });
    show(json, &value, || {
        let payment = answer.payment.map_or_else(String::new, |payment| payment.to_string());
        format!("ACCEPTED  {payment}\n{}", crate::program::plain(answer.text.as_str()))
    })
}

/// A person's terminal with its token (on loopback), or a device with its enrolled identity.
fn endpoint(config: &Config) -> Result<Endpoint, Failure> {
    let values = &config.values;
    match (&values.token, &values.principal) {
        (Some(token), Some(principal)) => {
            let access = Access::Token(token.clone());
            let keep_alive_s = values.keep_alive_s.unwrap_or(30);
            Ok(Endpoint::new(config.broker()?, principal.clone(), access, keep_alive_s)?)
        }
        _ => Identity::load(config)?.endpoint(config),
    }
}

/// The lane has one connection for a principal: a scan with the identity of a running agent would cut that one off.
fn no_agent_runs(config: &Config) -> Result<(), Failure> {
    match local::ask(&config.socket(), &Request::Status) {
        Err(LocalError::NotRunning(_)) => Ok(()),
        // A person's terminal beside a device.
        Ok(Ok(status)) if config.values.token.is_some() && !is_same(&status, config) => Ok(()),
        // Whatever it answers, it runs.
        _ => Err(Failure::refused(
            "agent_running",
            format!(
                "an agent runs with {}, and a scan with its identity would cut off its connection: scan with an identity \
                 of its own (another --data directory), or stop the agent first",
                config.data.display()
            ),
        )),
    }
}

fn is_same(status: &Value, config: &Config) -> bool {
    let principal = config.values.principal.as_ref().map(ToString::to_string);
    principal.is_none() || status["principal"].as_str() == principal.as_deref()
}

/// From the picture, the text, or one line of stdin.
fn code(scan: &Scan) -> Result<CodeText, Failure> {
    let unreadable = |why: String| Failure::failed("code_unreadable", why);
    let text = match (&scan.image, &scan.text) {
        (Some(path), _) => {
            let failed = |error: io::Error| {
                let text =
                    format!("{} can't be read ({error}): check the path and its permissions", path.display());
                Failure::failed("io_failed", text)
            };
            let mut bytes = Vec::new();
            let file = File::open(path).map_err(failed)?;
            file.take(IMAGE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
            if bytes.len() as u64 > IMAGE_BYTES {
                return Err(unreadable(format!("{} has more than 16 MiB: make it smaller", path.display())));
            }
            read_png(&bytes)?
        }
        (None, Some(text)) => text.clone(),
        (None, None) => {
            let mut line = String::new();
            let read = io::stdin().take(4 << 10).read_to_string(&mut line);
            read.map_err(|error| unreadable(format!("stdin can't be read: {error}")))?;
            line
        }
    };
    text.trim().parse().map_err(|_| {
        unreadable(
            "this is no code: 1 to 1024 printable ASCII characters are expected; scan it again".to_owned(),
        )
    })
}
