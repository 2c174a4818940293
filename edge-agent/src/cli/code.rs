//! `edge-agent code`: with what the child pays (PC-6, PC-7, PC-9).

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use edge_agent_device::OpenCode;
use schemas::ids::PaymentId;
use schemas::message::PaymentMode;
use serde_json::Value;

use super::{Failure, show as print};
use crate::code::{as_lines, as_png, as_svg, replace};
use crate::config::{Config, Layer};
use crate::local::{self, CodeList, CodeShown, Request};
use crate::program::plain;

pub(super) fn list(data: &Path, json: bool) -> Result<(), Failure> {
    let value = ask(data, &Request::Codes)?;
    print(json, &value, || match serde_json::from_value::<CodeList>(value.clone()) {
        Ok(list) => table(&list),
        Err(_) => value.to_string(),
    })
}

/// The child asks. Pictures are written beside what is printed.
pub(super) fn show(
    data: &Path,
    payment: Option<PaymentId>,
    png: Option<PathBuf>,
    svg: Option<PathBuf>,
    json: bool,
) -> Result<(), Failure> {
    let (value, shown) = shown(data, payment)?;
    let text = shown.code.as_str();
    for (path, bytes) in [(&png, as_png(text)?), (&svg, as_svg(text)?.into_bytes())] {
        let Some(path) = path else { continue };
        replace(path, &bytes).map_err(|error| {
            let text =
                format!("{} can't be written ({error}): check the path and its permissions", path.display());
            Failure::failed("io_failed", text)
        })?;
    }
    let lines = as_lines(text)?;
    print(json, &value, || {
        let what = format!("{} to {}, until {}", shown.amount, plain(shown.payee.as_str()), shown.expires_at);
        match (&png, &svg) {
            (None, None) => format!("{}\n{what}\n{text}", shining(&lines)),
            _ => what,
        }
    })
}

/// White on black, whatever the terminal's own colours are.
fn shining(lines: &str) -> String {
    if io::stdout().is_terminal() {
        lines.lines().map(|line| format!("\u{1b}[97;40m{line}\u{1b}[0m\n")).collect()
    } else {
        lines.to_owned()
    }
}

/// The token as it is, for a terminal that is not a scanner.
pub(super) fn present(data: &Path, payment: Option<PaymentId>, json: bool) -> Result<(), Failure> {
    let payment = match payment {
        Some(payment) => payment,
        None => only_one(data)?,
    };
    let open = codes(data)?.codes.into_iter().find(|open| open.payment == payment);
    if open.is_some_and(|open| open.mode == PaymentMode::Qr) {
        let text = format!("{payment} is paid with a QR code: use `edge-agent code show {payment}`");
        return Err(Failure::refused("not_a_token", text));
    }
    let (value, shown) = shown(data, Some(payment))?;
    print(json, &value, || shown.code.to_string())
}

fn shown(data: &Path, payment: Option<PaymentId>) -> Result<(Value, CodeShown), Failure> {
    let payment = match payment {
        Some(payment) => payment,
        None => only_one(data)?,
    };
    let value = ask(data, &Request::ShowCode { payment })?;
    let shown = serde_json::from_value(value.clone()).map_err(other_release)?;
    Ok((value, shown))
}

fn codes(data: &Path) -> Result<CodeList, Failure> {
    serde_json::from_value(ask(data, &Request::Codes)?).map_err(other_release)
}

/// Nobody pays what was not meant: without an id there must be exactly one.
fn only_one(data: &Path) -> Result<PaymentId, Failure> {
    match &codes(data)?.codes[..] {
        [one] => Ok(one.payment),
        [] => {
            let text =
                "there is no code to pay with: a guardian orders a payment first, and the child agrees";
            Err(Failure::refused("no_such_code", text))
        }
        several => {
            let payments: Vec<_> = several.iter().map(|open| open.payment.to_string()).collect();
            let text =
                format!("{} codes are open: name the payment, one of {}", several.len(), payments.join(", "));
            Err(Failure::refused("code_ambiguous", text))
        }
    }
}

fn ask(data: &Path, request: &Request) -> Result<Value, Failure> {
    let config = Config::load(data, Layer::default())?;
    Ok(local::ask(&config.socket(), request)??)
}

fn other_release(error: serde_json::Error) -> Failure {
    Failure::failed("agent_unreachable", format!("the agent is of another release: {error}"))
}

fn table(list: &CodeList) -> String {
    let mut text = String::new();
    if list.codes.is_empty() {
        text.push_str("there is no code to pay with\n");
    } else {
        let _ = writeln!(
            text,
            "{:<34}{:<7}{:>12}  {:<20}{:<11}NOW",
            "PAYMENT", "MODE", "AMOUNT", "TO", "TIME LEFT"
        );
    }
    for open in &list.codes {
        let _ = writeln!(
            text,
            "{:<34}{:<7}{:>12}  {:<20}{:<11}{}",
            open.payment.to_string(),
            open.mode.to_string(),
            open.amount.to_string(),
            plain(open.payee.as_str()),
            open.remaining_ms.map_or("?".to_owned(), |ms| format!("{}:{:02}", ms / 60_000, ms / 1000 % 60)),
            now(open),
        );
    }
    if let Some(places) = &list.places {
        let refused = places.refused.as_ref();
        let refused = refused.map_or_else(String::new, |code| format!("; a newer list was refused: {code}"));
        let _ = writeln!(text, "\nplaces    {} (version {}){refused}", places.places, places.version);
    }
    let position = match &list.position {
        None => "unknown".to_owned(),
        Some(known) if known.counts => format!("known to {} m", known.accuracy_m),
        Some(known) => format!("too old: {} s", known.age_ms / 1000),
    };
    let _ = writeln!(text, "position  {position}");
    text
}

fn now(open: &OpenCode) -> String {
    match &open.not_now {
        _ if open.shown => "shown".to_owned(),
        None => "may be shown".to_owned(),
        Some((code, why)) => format!("{code}: {}", plain(why)),
    }
}
