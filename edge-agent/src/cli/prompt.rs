//! `edge-agent prompt`: what the child is asked, and its answer by command line.

use std::fmt::Write;
use std::path::Path;

use edge_agent_device::{OpenPrompt, PromptResult};
use schemas::ids::PaymentId;
use schemas::message::ChildAnswer;
use serde_json::Value;

use super::{Failure, show};
use crate::config::{Config, Layer};
use crate::local::{self, PromptList, Request};
use crate::panel::{outcome, plain, purse};

/// Results that are listed for people; `--json` has all that are kept.
const RESULTS: usize = 10;

pub(super) fn list(data: &Path, json: bool) -> Result<(), Failure> {
    let value = ask(data)?;
    show(json, &value, || match serde_json::from_value::<PromptList>(value.clone()) {
        Ok(list) => table(&list),
        Err(_) => value.to_string(),
    })
}

pub(super) fn answer(
    data: &Path,
    payment: Option<PaymentId>,
    answer: ChildAnswer,
    json: bool,
) -> Result<(), Failure> {
    let payment = match payment {
        Some(payment) => payment,
        None => only_one(data)?,
    };
    let config = Config::load(data, Layer::default())?;
    let value = local::ask(&config.socket(), &Request::AnswerPrompt { payment, answer })??;
    show(json, &value, || {
        if value["identifying"] == true {
            return format!("{payment}: the piggy bank first makes sure who says {answer}");
        }
        format!("answered: {answer} {payment}; the result will be in `edge-agent prompt list`")
    })
}

fn ask(data: &Path) -> Result<Value, Failure> {
    let config = Config::load(data, Layer::default())?;
    Ok(local::ask(&config.socket(), &Request::Prompts)??)
}

/// Nobody answers a question that was not meant: without an id there must be exactly one.
fn only_one(data: &Path) -> Result<PaymentId, Failure> {
    let list: PromptList = serde_json::from_value(ask(data)?).map_err(|error| {
        Failure::failed("agent_unreachable", format!("the agent is of another release: {error}"))
    })?;
    match &list.prompts[..] {
        [one] => Ok(one.prompt.payment),
        [] => Err(Failure::refused(
            "no_such_prompt",
            "nothing is asked: `edge-agent prompt list` shows what is",
        )),
        several => {
            let payments: Vec<_> = several.iter().map(|open| open.prompt.payment.to_string()).collect();
            let text = format!(
                "{} questions are open: name the payment, one of {}",
                several.len(),
                payments.join(", ")
            );
            Err(Failure::refused("prompt_ambiguous", text))
        }
    }
}

fn table(list: &PromptList) -> String {
    let mut text = String::new();
    for line in list.child.iter().flat_map(purse) {
        let _ = writeln!(text, "{line}");
    }
    if list.prompts.is_empty() {
        text.push_str("nothing is asked\n");
    } else {
        let _ = writeln!(
            text,
            "{:<34}{:>12}  {:<20}{:<12}{:<18}NOTE",
            "PAYMENT", "AMOUNT", "TO", "FROM", "TIME LEFT"
        );
    }
    for open in &list.prompts {
        let prompt = &open.prompt;
        let note = prompt.note.as_ref().map_or_else(String::new, |note| plain(note.as_str()));
        let _ = writeln!(
            text,
            "{:<34}{:>12}  {:<20}{:<12}{:<18}{note}",
            prompt.payment.to_string(),
            prompt.amount.to_string(),
            plain(prompt.payee.as_str()),
            prompt.guardian.to_string(),
            time_left(open),
        );
    }
    if !list.results.is_empty() {
        let _ = writeln!(text, "\n{:<34}{:>12}  {:<20}RESULT", "PAYMENT", "AMOUNT", "TO");
    }
    for result in list.results.iter().take(RESULTS) {
        let (amount, payee) = amount_and_payee(result);
        let _ =
            writeln!(text, "{:<34}{amount:>12}  {payee:<20}{}", result.payment.to_string(), outcome(result));
    }
    text
}

fn amount_and_payee(result: &PromptResult) -> (String, String) {
    match (&result.prompt, &result.status) {
        (Some(prompt), _) => (prompt.amount.to_string(), plain(prompt.payee.as_str())),
        (None, Some(status)) => (status.amount.to_string(), String::new()),
        (None, None) => (String::new(), String::new()),
    }
}

fn time_left(open: &OpenPrompt) -> String {
    match open.remaining_ms {
        None => "waits for the time".to_owned(),
        Some(ms) => {
            let shown = if open.shown { ", shown" } else { "" };
            format!("{}:{:02}{shown}", ms / 60_000, ms / 1000 % 60)
        }
    }
}
