//! The stories of wishes and suggestions: what a child says becomes a payment, and a payment that somebody can't make becomes
//! one of a child. They go on where `family.rs` ends: Mia has 2.00 EUR, her dad 28.00.

use anyhow::{Context, ensure};
use schemas::ids::PaymentId;
use schemas::message::{
    Categories, Down, OwnPayment, PaymentOrder, PaymentState, SuggestionAnswer, Up, WishDecline, WishNotice,
};
use schemas::wire::Text;
use serde_json::Value;

use super::children::run;
use super::family::{PIGGY_BANK, answer, expect, has, order, place, screen};
use super::fleet::{Fleet, PATIENCE};
use super::narrator::Narrator;
use super::stories::{Story, wait_until};

/// In the order in which they are told.
pub(super) const STORIES: &[Story] = &[
    Story {
        title: "A wish",
        about: "Mia tells her dad at the piggy bank, in Chinese, that she would like to buy a book. He orders it with one action.",
        moral: "the words made it an entry of the wish list; it was granted when she had paid",
        play: |fleet, narrator| Box::pin(granted(fleet, narrator)),
    },
    Story {
        title: "Another wish",
        about: "And a scooter. Not now, says Dad. And good night.",
        moral: "declined with a reason that she reads; a message is only a message",
        play: |fleet, narrator| Box::pin(declined(fleet, narrator)),
    },
    Story {
        title: "Dad is out of money",
        about: "Dad spends all that he has, and then wants stickers for 0.50. The cloud suggests to pay through Mia.",
        moral: "what he had moved at once; what he had not, only when Mia said yes",
        play: |fleet, narrator| Box::pin(suggested(fleet, narrator)),
    },
];

async fn granted(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let notice = wish(fleet, narrator, "爸爸我想买一本关于鲸鱼的书，只要1欧元").await?;
    let amount = notice.amount.context("the amount that the text says")?;
    let payee = Some("merchant/bookshop".parse()?);
    let plain = order("1.00", "books")?;
    let book = PaymentOrder { amount, payee, wish: Some(notice.wish), ..plain };
    let payment = place(fleet, narrator, book).await?;
    answer(fleet, narrator, payment, "confirm").await?;
    expect(fleet, narrator, payment, PaymentState::Settled, "1.00").await?;
    stands(fleet, narrator, &notice, "granted").await?;
    has(fleet, narrator, "1.00", "1.00")
}

async fn declined(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let notice = wish(fleet, narrator, "Could I have a scooter for 50 euros?").await?;
    let reason = Text::new("For your birthday");
    let body = WishDecline { child: "mia".parse()?, wish: notice.wish, reason: reason.clone() };
    let told = fleet.guardian.ask(Up::WishDecline(body), PATIENCE).await?;
    ensure!(told.refused.is_none(), "it was refused: {}", told.text);
    narrator.tell(&format!("dad -> wish-decline: {reason}"));
    stands(fleet, narrator, &notice, "declined").await?;
    let notice = wish(fleet, narrator, "Good night, I want to sleep now").await?;
    stands(fleet, narrator, &notice, "delivered").await?;
    has(fleet, narrator, "1.00", "1.00")
}

async fn suggested(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let own = |amount: &str| -> anyhow::Result<Up> {
        let categories = Categories::new(vec!["books".parse()?])?;
        let (amount, payee) = (format!("{amount} EUR").parse()?, "merchant/bookshop".parse()?);
        Ok(Up::OwnPayment(OwnPayment { amount, payee, categories, note: Some(Text::new("Stickers")) }))
    };
    fleet.guardian.request(own("28.00")?, PATIENCE).await?;
    narrator.tell("dad -> own-payment 28.00 EUR to Books & Co: settled at once");
    has(fleet, narrator, "1.00", "29.00")?;
    let payment: PaymentId = fleet.guardian.request(own("0.50")?, PATIENCE).await?;
    narrator.tell("dad -> own-payment 0.50 EUR to Books & Co: his account has nothing");
    let asked = fleet.guardian.wait("the suggestion", PATIENCE, |body| match body {
        Down::PaySuggestion(suggestion) if suggestion.payment == payment => Some(suggestion.clone()),
        _ => None,
    });
    let children: Vec<_> = asked.await?.children.iter().map(ToString::to_string).collect();
    narrator.tell(&format!("dad is asked: pay through {}?", children.join(", ")));
    let chosen = SuggestionAnswer { payment, child: Some("mia".parse()?) };
    let through = fleet.guardian.request(Up::SuggestionAnswer(chosen), PATIENCE).await?;
    narrator.tell(&format!("dad -> suggestion-answer mia: payment {}…", &through.to_string()[..8]));
    answer(fleet, narrator, through, "confirm").await?;
    expect(fleet, narrator, through, PaymentState::Settled, "0.50").await?;
    has(fleet, narrator, "0.50", "29.50")
}

/// Mia says it at her piggy bank, and dad reads it.
async fn wish(fleet: &mut Fleet, narrator: &Narrator, text: &str) -> anyhow::Result<WishNotice> {
    let data = fleet.device_directory(PIGGY_BANK);
    let arguments = ["__edge-agent", "wish", "send", "--to", "dad", text, "--json", "--data"];
    let said = run(&[&arguments[..], &[&*data.to_string_lossy()]].concat()).await?;
    let said: Value = serde_json::from_slice(&said.stdout).context("what `wish send` prints")?;
    narrator.tell(&format!("mia wishes: {text}"));
    let told = fleet.guardian.wait("the wish", PATIENCE, |body| match body {
        Down::Wish(notice) if said["wish"] == notice.wish.to_string() => Some(notice.clone()),
        _ => None,
    });
    let notice = told.await?;
    let keywords: Vec<_> = notice.keywords.iter().map(ToString::to_string).collect();
    let amount = notice.amount.map_or_else(String::new, |amount| format!(", {amount}"));
    narrator.tell(&format!("dad reads a {}: {}{amount}", notice.kind, keywords.join(", ")));
    Ok(notice)
}

/// What Mia's piggy bank shows of it.
async fn stands(fleet: &Fleet, narrator: &Narrator, notice: &WishNotice, state: &str) -> anyhow::Result<()> {
    let found = || async {
        let wishes = screen(fleet).await?["wishes"].clone();
        let wishes = wishes.as_array().cloned().unwrap_or_default();
        anyhow::Ok(wishes.into_iter().find(|wish| wish["wish"] == notice.wish.to_string()))
    };
    let is_so = || async { Ok(found().await?.is_some_and(|wish| wish["state"] == state)) };
    wait_until("the piggy bank shows how the wish stands", is_so).await?;
    let reason = found().await?.and_then(|wish| wish["reason"].as_str().map(|reason| format!(": {reason}")));
    narrator.tell(&format!("piggy bank: {state}{}", reason.unwrap_or_default()));
    Ok(())
}
