//! The stories of a family: a guardian orders, a child answers at its piggy bank, and only then its money moves.

use anyhow::{Context, bail, ensure};
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, BankKind, OnUnknown};
use cloud_core_flows::children::Bonds;
use schemas::ids::{PaymentId, Principal};
use schemas::message::{
    AllowanceSchedule, Categories, CategoryAmounts, ChildAllowance, ChildLimits, Down, Every, Goal, Goals,
    PaymentOrder, PaymentRefund, PaymentState, PaymentStatus, SavingsGoals, Up,
};
use schemas::wire::Text;
use serde_json::Value;

use super::children::run;
use super::fleet::{DEADLINES, Fleet, PATIENCE};
use super::narrator::Narrator;
use super::stories::{Story, wait_until};
use crate::admin::client::AdminClient;

/// The device that Mia uses.
pub(super) const PIGGY_BANK: &str = "home/piggy";

/// In the order in which they are told: Mia begins with 20.00 EUR.
pub(super) const STORIES: &[Story] = &[
    Story {
        title: "A book from the piggy bank",
        about: "Dad orders a book for Mia from her own money; her piggy bank asks her, and she says yes.",
        moral: "reserved when it was ordered, taken when she said yes",
        play: |fleet, narrator| Box::pin(confirmed(fleet, narrator)),
    },
    Story {
        title: "The book comes back",
        about: "It was the wrong one. The bookshop returns the money, and tries to do so twice.",
        moral: "given back once",
        play: |fleet, narrator| Box::pin(returned(fleet, narrator)),
    },
    Story {
        title: "No, thanks",
        about: "Dad would like to be paid for the ice cream. Mia would not.",
        moral: "nothing moved, nothing stays reserved",
        play: |fleet, narrator| Box::pin(rejected(fleet, narrator)),
    },
    Story {
        title: "Nobody answers",
        about: "The piggy bank shows the prompt until its time is over.",
        moral: "silence is no answer: told apart from a no, and nothing moved",
        play: |fleet, narrator| Box::pin(silent(fleet, narrator)),
    },
    Story {
        title: "Enough sweets for today",
        about: "Dad sets limits: 2.00 EUR a day for sweets. Then he forgets about it.",
        moral: "refused by the cloud, in words that a child understands, before anybody was asked",
        play: |fleet, narrator| Box::pin(limited(fleet, narrator)),
    },
    Story {
        title: "Or less",
        about: "A scooter would cost 50.00 EUR; Dad takes what there is, if it is at least 10.00.",
        moral: "fixed when Mia was asked, shown to her, and exactly that was taken",
        play: |fleet, narrator| Box::pin(or_less(fleet, narrator)),
    },
    Story {
        title: "Pocket money",
        about: "Mia saves for another scooter, and Dad sets an allowance of 2.00 EUR a week. The first one is due.",
        moral: "paid by itself, once, and Mia sees it on her piggy bank",
        play: |fleet, narrator| Box::pin(allowance(fleet, narrator)),
    },
];

/// A tenant whose accounts are in our own ledger; Mia, her dad, a bookshop.
pub(super) fn register(admin: &AdminClient) -> anyhow::Result<()> {
    let name = |text: &str| -> anyhow::Result<Principal> { Ok(format!("home/{text}").parse()?) };
    let person = |text: &str| -> anyhow::Result<AdminCommand> {
        Ok(AdminCommand::CreatePerson { person: name(text)?, public_key: None, bank_account: None })
    };
    let bonds = Bonds {
        guardians: ["dad".parse()?].into(),
        piggy_bank: Some("piggy".parse()?),
        receiving: None,
        time_zone: "Europe/Berlin".to_owned(),
    };
    let commands = [
        AdminCommand::CreateTenant {
            tenant: "home".parse()?,
            currency: "EUR".parse()?,
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: DEADLINES,
            code_rules: super::codes::RULES,
        },
        person("mia")?,
        person("dad")?,
        person("bookshop-till")?,
        AdminCommand::CreateMerchant {
            tenant: "home".parse()?,
            merchant: "bookshop".parse()?,
            title: "Books & Co".to_owned(),
            terminal: Some("bookshop-till".parse()?),
        },
        AdminCommand::CreateDevice {
            device: name("piggy")?,
            profile: "piggy-bank".to_owned(),
            longest_act_ms: 0,
        },
        AdminCommand::BindChild { child: name("mia")?, bonds },
        AdminCommand::Deposit {
            person: name("mia")?,
            amount: "20.00 EUR".parse()?,
            reference: "birthday".to_owned(),
        },
        AdminCommand::Deposit {
            person: name("dad")?,
            amount: "10.00 EUR".parse()?,
            reference: "pocket money".to_owned(),
        },
    ];
    for command in commands {
        admin.core(command)?;
    }
    Ok(())
}

async fn confirmed(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let payee = Some("merchant/bookshop".parse()?);
    let book =
        PaymentOrder { payee, note: Some(Text::new("The one about whales")), ..order("7.50", "books")? };
    let payment = place(fleet, narrator, book).await?;
    answer(fleet, narrator, payment, "confirm").await?;
    expect(fleet, narrator, payment, PaymentState::Settled, "7.50").await?;
    has(fleet, narrator, "12.50", "7.50")
}

async fn returned(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let settled = child_payments(fleet)?.into_iter().find(|row| row.state == PaymentState::Settled);
    let payment = settled.context("the book's payment")?.payment;
    narrator.tell("bookshop -> payment-refund");
    fleet.bookshop.refund(payment, PATIENCE).await?;
    expect(fleet, narrator, payment, PaymentState::Refunded, "0.00").await?;
    let again = fleet.bookshop.ask(Up::PaymentRefund(PaymentRefund { payment }), PATIENCE).await?;
    let code = again.refused.context("a second refund is refused")?;
    ensure!(code.as_str() == "already_refunded", "refused for {code}");
    narrator.tell(&format!("bookshop -> payment-refund again: {}", again.text));
    has(fleet, narrator, "20.00", "0.00")
}

async fn rejected(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let payment = place(fleet, narrator, order("2.50", "sweets")?).await?;
    answer(fleet, narrator, payment, "reject").await?;
    expect(fleet, narrator, payment, PaymentState::Rejected, "0.00").await?;
    has(fleet, narrator, "20.00", "0.00")
}

async fn silent(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let payment = place(fleet, narrator, order("5.00", "toys")?).await?;
    shown(fleet, narrator, payment).await?;
    expect(fleet, narrator, payment, PaymentState::Expired, "0.00").await?;
    ensure!(prompts(fleet).await?.is_empty(), "the prompt is still on the screen");
    has(fleet, narrator, "20.00", "0.00")
}

async fn limited(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let limits = ChildLimits {
        child: "mia".parse()?,
        per_payment: None,
        per_day: None,
        per_category_and_day: CategoryAmounts::new([("sweets".parse()?, "2.00 EUR".parse()?)].into())?,
        quiet_hours: None,
    };
    let set = fleet.guardian.ask(Up::ChildLimits(limits), PATIENCE).await?;
    ensure!(set.refused.is_none(), "the limits were refused: {}", set.text);
    narrator.tell("dad -> child-limits: 2.00 EUR a day for sweets");
    let refused = fleet.guardian.ask(Up::PaymentOrder(order("2.50", "sweets")?), PATIENCE).await?;
    let code = refused.refused.context("the order is refused")?;
    ensure!(code.as_str() == "over_category_limit", "refused for {code}");
    narrator.tell(&format!("dad -> payment-order 2.50 EUR: refused, {code}: {}", refused.text));
    ensure!(prompts(fleet).await?.is_empty(), "somebody was asked");
    has(fleet, narrator, "20.00", "0.00")
}

async fn or_less(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let scooter = PaymentOrder { minimum: Some("10.00 EUR".parse()?), ..order("50.00", "toys")? };
    let payment = place(fleet, narrator, scooter).await?;
    answer(fleet, narrator, payment, "confirm").await?;
    expect(fleet, narrator, payment, PaymentState::Settled, "20.00").await?;
    has(fleet, narrator, "0.00", "0.00")
}

async fn allowance(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let goal = Goal { title: Text::new("A scooter"), amount: "50.00 EUR".parse()? };
    let goals = SavingsGoals { child: "mia".parse()?, goals: Goals::new(vec![goal])? };
    let schedule = AllowanceSchedule {
        amount: "2.00 EUR".parse()?,
        every: Every::Week,
        first_at: device_sim::live::terminal::now().plus_ms(1_000),
    };
    let set = ChildAllowance { child: "mia".parse()?, schedule: Some(schedule) };
    for body in [Up::SavingsGoals(goals), Up::ChildAllowance(set)] {
        let kind = body.kind();
        let answer = fleet.guardian.ask(body, PATIENCE).await?;
        ensure!(answer.refused.is_none(), "{kind} was refused: {}", answer.text);
        narrator.tell(&format!("dad -> {kind}: {}", answer.text));
    }
    let told = fleet.guardian.wait("the allowance", PATIENCE, |body| match body {
        Down::PaymentStatus(status) if status.text.as_str().contains("allowance") => Some(status.clone()),
        _ => None,
    });
    let told = told.await?;
    narrator.tell(&format!("dad is told: {}: {}", told.state, told.text));
    ensure!(told.state == PaymentState::Settled, "the allowance is {}", told.state);
    let seen = || async { Ok(screen(fleet).await?["child"]["available"] == "2.00 EUR") };
    wait_until("the piggy bank shows it", seen).await?;
    let child = &screen(fleet).await?["child"];
    let goal = &child["goals"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    narrator.tell(&format!(
        "piggy bank: mia has {}, saves for {} ({})",
        text(&child["available"]),
        text(&goal["title"]),
        text(&goal["amount"])
    ));
    has(fleet, narrator, "2.00", "0.00")
}

pub(super) fn order(amount: &str, category: &str) -> anyhow::Result<PaymentOrder> {
    let categories = Categories::new(vec![category.parse()?])?;
    Ok(PaymentOrder::deduction("mia".parse()?, format!("{amount} EUR").parse()?, categories))
}

pub(super) async fn place(
    fleet: &mut Fleet,
    narrator: &Narrator,
    order: PaymentOrder,
) -> anyhow::Result<PaymentId> {
    let (amount, or_less) = (order.amount, if order.minimum.is_some() { " or less" } else { "" });
    let categories: Vec<_> = order.categories.iter().map(ToString::to_string).collect();
    narrator.tell(&format!("dad -> payment-order {amount}{or_less} for {}", categories.join(", ")));
    let payment = fleet.guardian.order(order, PATIENCE).await?;
    narrator.tell(&format!("accepted as payment {}…", &payment.to_string()[..8]));
    Ok(payment)
}

/// What is on the piggy bank's screen: asked for at its own socket.
pub(super) async fn screen(fleet: &Fleet) -> anyhow::Result<Value> {
    let data = fleet.device_directory(PIGGY_BANK);
    let said = run(&["__edge-agent", "prompt", "list", "--json", "--data", &data.to_string_lossy()]).await?;
    serde_json::from_slice(&said.stdout).context("what `prompt list` prints")
}

async fn prompts(fleet: &Fleet) -> anyhow::Result<Vec<Value>> {
    Ok(screen(fleet).await?["prompts"].as_array().cloned().unwrap_or_default())
}

async fn shown(fleet: &Fleet, narrator: &Narrator, payment: PaymentId) -> anyhow::Result<()> {
    let is_this = |prompt: &Value| prompt["payment"] == payment.to_string();
    wait_until("the piggy bank shows it", || async { Ok(prompts(fleet).await?.iter().any(is_this)) }).await?;
    let prompt = prompts(fleet).await?.into_iter().find(is_this).context("the prompt")?;
    let text = |field: &str| prompt[field].as_str().unwrap_or_default().to_owned();
    let (payee, note) = (text("payee"), text("note"));
    let note = if note.is_empty() { note } else { format!(" \"{note}\"") };
    narrator.tell(&format!("piggy bank: pay {} to {payee}?{note}", text("amount")));
    Ok(())
}

/// Mia presses a button.
pub(super) async fn answer(
    fleet: &Fleet,
    narrator: &Narrator,
    payment: PaymentId,
    word: &str,
) -> anyhow::Result<()> {
    shown(fleet, narrator, payment).await?;
    let data = fleet.device_directory(PIGGY_BANK);
    let (payment, data) = (payment.to_string(), data.to_string_lossy());
    run(&["__edge-agent", "prompt", word, &payment, "--json", "--data", &data]).await?;
    narrator.tell(&format!("mia presses {word}"));
    Ok(())
}

/// What dad is told in the end, and what the operator sees.
pub(super) async fn expect(
    fleet: &mut Fleet,
    narrator: &Narrator,
    payment: PaymentId,
    state: PaymentState,
    paid: &str,
) -> anyhow::Result<()> {
    let ends = |status: &PaymentStatus| {
        // What came before, and was told before.
        status.state == state
            || !matches!(
                status.state,
                PaymentState::Prompting | PaymentState::Presenting | PaymentState::Settled
            )
    };
    let end = fleet.guardian.status(payment, PATIENCE, ends).await?;
    narrator.tell(&format!("dad is told: {}: {}", end.state, end.text));
    ensure!(end.state == state, "it ended as {}, not {state}", end.state);
    let row = child_payments(fleet)?.into_iter().find(|row| row.payment == payment);
    let row = row.context("the payment in the operator's list")?;
    let paid = format!("{paid} EUR").parse()?;
    ensure!(end.paid == paid && row.paid == paid, "{} are paid, not {paid}", row.paid);
    Ok(())
}

fn child_payments(fleet: &Fleet) -> anyhow::Result<Vec<cloud_core_flows::admin::ChildPaymentRow>> {
    let find = AdminCommand::Find {
        listing: cloud_core_flows::admin::Listing::ChildPayments,
        filter: cloud_core_flows::admin::Filter::default(),
    };
    let AdminAnswer::ChildPayments(rows) = fleet.admin(find)? else { bail!("child payments") };
    Ok(rows)
}

/// What Mia and the bookshop have; nothing is reserved between stories.
pub(super) fn has(fleet: &Fleet, narrator: &Narrator, mia: &str, bookshop: &str) -> anyhow::Result<()> {
    let AdminAnswer::Accounts(rows) = fleet.admin(AdminCommand::ListAccounts)? else { bail!("accounts") };
    let balance = |account: &str| {
        let row = rows.iter().find(|row| row.tenant.as_str() == "home" && row.account == account);
        let row = row.with_context(|| format!("the account {account}"))?;
        ensure!(row.debits_pending.minor == 0, "{} of {account} are still reserved", row.debits_pending);
        Ok(row.credits_posted.currency.minor(row.credits_posted.minor - row.debits_posted.minor))
    };
    let (now_mia, now_bookshop) = (balance("person/mia")?, balance("merchant/bookshop")?);
    narrator.balances(&format!("mia has {now_mia}, Books & Co {now_bookshop}"));
    ensure!(now_mia == format!("{mia} EUR").parse()?, "mia has {now_mia}, not {mia}");
    ensure!(now_bookshop == format!("{bookshop} EUR").parse()?, "the bookshop has {now_bookshop}");
    Ok(())
}
