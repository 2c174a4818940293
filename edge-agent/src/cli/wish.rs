//! `edge-agent wish`: what the child wishes for, by command line (PC-12).

use std::fmt::Write;
use std::path::Path;

use edge_agent_device::ListedWish;
use schemas::ids::{PrincipalId, WishId};
use serde_json::{Value, json};

use super::{Failure, show};
use crate::config::{Config, Layer};
use crate::local::{self, PromptList, Request};
use crate::panel::{plain, wish_standing};

pub(super) fn send(data: &Path, to: PrincipalId, text: String, json: bool) -> Result<(), Failure> {
    let value = ask(data, &Request::Wish { to, text })?;
    show(json, &value, || {
        let wish = value["wish"].as_str().unwrap_or_default();
        format!(
            "kept as wish {wish}; it goes to the cloud when there is a connection: see `edge-agent wish list`"
        )
    })
}

pub(super) fn withdraw(data: &Path, wish: WishId, json: bool) -> Result<(), Failure> {
    let value = ask(data, &Request::WithdrawWish { wish })?;
    show(json, &value, || {
        format!("taken back: {wish}; `edge-agent wish list` shows what the cloud says of it")
    })
}

pub(super) fn list(data: &Path, json: bool) -> Result<(), Failure> {
    let value = ask(data, &Request::Prompts)?;
    let list: PromptList = serde_json::from_value(value).map_err(|error| {
        Failure::failed("agent_unreachable", format!("the agent is of another release: {error}"))
    })?;
    let as_of = list.child.as_ref().map(|child| child.as_of);
    show(json, &json!({ "wishes": list.wishes, "as_of": as_of }), || {
        let mut text = table(&list.wishes);
        if let Some(as_of) = as_of {
            let _ = writeln!(text, "as of {as_of}");
        }
        text
    })
}

fn ask(data: &Path, request: &Request) -> Result<Value, Failure> {
    let config = Config::load(data, Layer::default())?;
    Ok(local::ask(&config.socket(), request)??)
}

fn table(wishes: &[ListedWish]) -> String {
    if wishes.is_empty() {
        return "no wishes: `edge-agent wish send --to GUARDIAN \"...\"` makes one\n".to_owned();
    }
    let mut text = format!("{:<34}{:<12}{:<40}STATE\n", "WISH", "TO", "TEXT");
    for wish in wishes {
        let (id, to) = (wish.wish.to_string(), wish.to.to_string());
        let words: String = plain(wish.text.as_str()).chars().take(38).collect();
        let _ = writeln!(text, "{id:<34}{to:<12}{words:<40}{}", wish_standing(&wish.standing));
    }
    text
}
