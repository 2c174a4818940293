//! The stories of the chip payment: each plays one case and fails if it ends otherwise than the table of outcomes says.
//! Those of the family are in `family.rs`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use ed25519_dalek::SigningKey;
use edge_agent::enrolment::IdentityDirectory;
use rust_decimal::Decimal;
use schemas::ids::{Nonce, PaymentId};
use schemas::message::{PaymentState, PaymentStatus};
use schemas::signed::PaymentInformation;
use schemas::wire::SignedBytes;

use super::fleet::{DEADLINES, Fleet, PATIENCE};
use super::narrator::Narrator;

pub(super) type Play =
    for<'a> fn(&'a mut Fleet, &'a mut Narrator) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// One story.
pub(super) struct Story {
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) moral: &'static str,
    pub(super) play: Play,
}

/// In the order in which they are told.
pub(super) const ALL: &[Story] = &[
    Story {
        title: "A bottle of water",
        about: "Alice reads the machine's code; chip, payer, bank and machine each do their part.",
        moral: "delivered, and only then the merchant's",
        play: |fleet, narrator| Box::pin(success(fleet, narrator)),
    },
    Story {
        title: "The machine jams",
        about: "The money has moved, the spiral turns, nothing falls.",
        moral: "one refund, confirmed by the bank",
        play: |fleet, narrator| Box::pin(jam(fleet, narrator)),
    },
    Story {
        title: "Two of three",
        about: "Alice buys three bags of crisps; the last one is missing.",
        moral: "two are paid, one went back",
        play: |fleet, narrator| Box::pin(partial(fleet, narrator)),
    },
    Story {
        title: "A machine falls silent",
        about: "It takes the command and never says what became of it.",
        moral: "asked once more, then refunded by policy, and named for the operator",
        play: |fleet, narrator| Box::pin(silence(fleet, narrator)),
    },
    Story {
        title: "Success, too late",
        about: "Another machine is so slow that the refund is decided before it reports that it delivered.",
        moral: "the refund stands, no second charge, and the operator knows",
        play: |fleet, narrator| Box::pin(late(fleet, narrator)),
    },
    Story {
        title: "A forged code",
        about: "Somebody copied the chip's key and signs a cheap coffee that the chip never offered.",
        moral: "the signature is good, and the chip itself exposes it",
        play: |fleet, narrator| Box::pin(forged(fleet, narrator)),
    },
    Story {
        title: "The bank's answer is lost",
        about: "The bank moves the money, and its answer never arrives.",
        moral: "nobody guessed: the status was asked, and the payment went on, charged once",
        play: |fleet, narrator| Box::pin(lost_answer(fleet, narrator)),
    },
    Story {
        title: "A parking meter",
        about: "A chip without an executor: the payment completes with the bank. Later the merchant gives it back.",
        moral: "completed by the bank, given back once",
        play: |fleet, narrator| Box::pin(meter(fleet, narrator)),
    },
    Story {
        title: "The core dies",
        about: "SIGKILL after the bank has moved the money and before the machine was told; everything is overdue when it comes back.",
        moral: "same keys, one charge, one delivery, no false refund",
        play: |fleet, narrator| Box::pin(killed(fleet, narrator)),
    },
];

async fn success(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    let payment = buy(fleet, narrator, "chip-1", "water", 1).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Delivered, "1.50")?;
    before.changed_by(fleet, narrator, "-1.50", "1.50").await
}

async fn jam(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    let payment = buy(fleet, narrator, "chip-1", "water", 1).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Refunded, "0.00")?;
    before.changed_by(fleet, narrator, "0.00", "0.00").await
}

async fn partial(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    let payment = buy(fleet, narrator, "chip-1", "crisps", 3).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::DeliveredInPart, "4.00")?;
    ensure!(end.delivered == 2, "{} units were reported", end.delivered);
    before.changed_by(fleet, narrator, "-4.00", "4.00").await
}

async fn silence(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    let payment = buy(fleet, narrator, "chip-2", "coffee", 1).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Refunded, "0.00")?;
    expect_exception(fleet, narrator, payment, "unknown_outcome").await?;
    before.changed_by(fleet, narrator, "0.00", "0.00").await
}

async fn late(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    let payment = buy(fleet, narrator, "chip-3", "water", 1).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Refunded, "0.00")?;
    expect_exception(fleet, narrator, payment, "delivered_after_refund").await?;
    before.changed_by(fleet, narrator, "0.00", "0.00").await
}

async fn forged(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    let genuine = PaymentInformation::read_unverified(&fleet.show("chip-1", "coffee", 1).await?)?;
    let cheap =
        PaymentInformation { nonce: Nonce(crate::random::bytes()?), amount: "0.01 EUR".parse()?, ..genuine };
    let forged = cheap.sign(&stolen_key(fleet, "chip-1")?);
    narrator.tell("a forged code: coffee for 0.01 EUR, signed with a copy of chip-1's key");
    let payment = hand_in(fleet, narrator, forged).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Refused, "0.00")?;
    let reason = end.reason.map(|code| code.to_string()).unwrap_or_default();
    ensure!(reason == "not_issued", "refused for `{reason}`");
    before.changed_by(fleet, narrator, "0.00", "0.00").await
}

async fn lost_answer(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    fleet.bank_fault("transfer", "lose_answer").await?;
    let payment = buy(fleet, narrator, "chip-1", "water", 1).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Delivered, "1.50")?;
    before.changed_by(fleet, narrator, "-1.50", "1.50").await
}

async fn meter(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    let payment = buy(fleet, narrator, "meter-4", "coffee", 1).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Delivered, "2.80")?;
    before.changed_by(fleet, narrator, "-2.80", "2.80").await?;
    let told =
        fleet.merchant.status(payment, PATIENCE, |status| status.state == PaymentState::Delivered).await?;
    narrator.tell(&format!("the till: {}", told.text));
    fleet.merchant.refund(payment, PATIENCE).await?;
    narrator.tell("the till gives it back");
    let again = fleet.merchant.refund(payment, PATIENCE).await;
    ensure!(again.is_err(), "a second refund was accepted");
    narrator.tell("the till tries again: refused, already_refunded");
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Refunded, "0.00")?;
    before.changed_by(fleet, narrator, "0.00", "0.00").await
}

async fn killed(fleet: &mut Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let before = Purse::of(fleet).await?;
    fleet.bank_fault("transfer", "hold_answer").await?;
    let payment = buy(fleet, narrator, "chip-1", "water", 1).await?;
    let paid = before.bank - Decimal::new(150, 2);
    wait_until("the bank moves the money", || async { Ok(fleet.bank_balance("alice").await? == paid) })
        .await?;
    narrator.tell("the bank has moved 1.50 EUR; its answer is still on the way");
    fleet.kill_core().await?;
    narrator.tell("SIGKILL: the core is dead");
    fleet.bank_release().await?;
    // Longer than the time that bank, start and report have together: a plain wait, since nothing happens.
    let longest = DEADLINES.bank_ms + DEADLINES.start_ms + DEADLINES.report_ms;
    tokio::time::sleep(Duration::from_millis(longest)).await;
    narrator.tell("every deadline of the payment has passed");
    fleet.restart_core().await?;
    narrator.tell("the core is back: it replays its journal and asks the bank under the old key");
    fleet.payer.ask_status(Some(payment)).await?;
    let end = watch(fleet, narrator, payment).await?;
    expect(&end, PaymentState::Delivered, "1.50")?;
    before.changed_by(fleet, narrator, "-1.50", "1.50").await
}

/// The chip shows a code, Alice hands it in.
async fn buy(
    fleet: &mut Fleet,
    narrator: &Narrator,
    chip: &str,
    item: &str,
    quantity: u32,
) -> anyhow::Result<PaymentId> {
    let information = fleet.show(chip, item, quantity).await?;
    let shown = PaymentInformation::read_unverified(&information)?;
    narrator.tell(&format!("{chip} shows a signed code: {quantity} {item}, {}", shown.amount));
    let payment = hand_in(fleet, narrator, information).await?;
    let asked = fleet.payer.asked(payment, PATIENCE).await?;
    narrator.tell(&format!("the chip confirms it; alice is asked: {} to {}?", asked.amount, asked.payee));
    fleet.payer.verify(&asked).await?;
    narrator.tell("alice verifies, signed for exactly this payee and amount");
    Ok(payment)
}

async fn hand_in(
    fleet: &mut Fleet,
    narrator: &Narrator,
    information: SignedBytes,
) -> anyhow::Result<PaymentId> {
    let payment = fleet.payer.pay(information, PATIENCE).await?;
    narrator.tell(&format!("alice hands it in: payment {payment}"));
    Ok(payment)
}

/// Tells what alice is told until the payment has ended.
async fn watch(fleet: &mut Fleet, narrator: &Narrator, payment: PaymentId) -> anyhow::Result<PaymentStatus> {
    let mut last = None;
    loop {
        let seen = last;
        let status = fleet.payer.status(payment, PATIENCE, |status| Some(status.state) != seen).await?;
        narrator.tell(&format!("alice reads: {}", status.text));
        last = Some(status.state);
        let goes_on = matches!(
            status.state,
            PaymentState::Checking
                | PaymentState::PendingVerification
                | PaymentState::Paying
                | PaymentState::BankUnknown
                | PaymentState::Delivering
                | PaymentState::Refunding
        );
        // A completed payment that the till is giving back ends as refunded.
        let returned = status.state == PaymentState::Delivered
            && fleet.payment(payment)?.state == PaymentState::Refunding;
        if !goes_on && !returned {
            return Ok(status);
        }
    }
}

fn expect(end: &PaymentStatus, state: PaymentState, paid: &str) -> anyhow::Result<()> {
    ensure!(end.state == state, "it ended as {}, not {state}", end.state);
    let paid: Decimal = Decimal::from_str_exact(paid)?;
    ensure!(end.paid.decimal() == paid, "{} are paid, not {paid}", end.paid);
    Ok(())
}

async fn expect_exception(
    fleet: &Fleet,
    narrator: &Narrator,
    payment: PaymentId,
    case: &str,
) -> anyhow::Result<()> {
    wait_until("the exceptions queue names it", || async {
        let AdminAnswer::Exceptions(rows) = fleet.admin(AdminCommand::ListExceptions)? else {
            bail!("exceptions")
        };
        Ok(rows.iter().any(|row| row.payment == Some(payment) && row.case == case))
    })
    .await?;
    narrator.tell(&format!("the operator's exceptions queue: {case}"));
    Ok(())
}

/// Asks again and again; gives up after a while.
pub(super) async fn wait_until<F: Future<Output = anyhow::Result<bool>>>(
    what: &str,
    ask: impl Fn() -> F,
) -> anyhow::Result<()> {
    let asked = tokio::time::timeout(PATIENCE, async {
        while !ask().await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    });
    asked.await.with_context(|| format!("waited for: {what}"))?
}

/// Reads a device's key file, as somebody could who has the chip open on a bench.
fn stolen_key(fleet: &Fleet, chip: &str) -> anyhow::Result<SigningKey> {
    let identity = IdentityDirectory::open(&fleet.device_directory(chip).join("identity"))?;
    let key = identity.key()?.with_context(|| format!("{chip} has a key"))?;
    Ok(key.signing_key().clone())
}

/// What alice has at the bank and the merchant in our ledger.
struct Purse {
    bank: Decimal,
    merchant: Decimal,
}

impl Purse {
    async fn of(fleet: &Fleet) -> anyhow::Result<Self> {
        Ok(Self { bank: fleet.bank_balance("alice").await?, merchant: fleet.merchant_balance()?.decimal() })
    }

    async fn changed_by(
        &self,
        fleet: &Fleet,
        narrator: &Narrator,
        payer: &str,
        merchant: &str,
    ) -> anyhow::Result<()> {
        let now = Self::of(fleet).await?;
        narrator.balances(&format!(
            "alice at the bank {:.2} -> {:.2} EUR, Snacks & Co {:.2} -> {:.2} EUR",
            self.bank, now.bank, self.merchant, now.merchant
        ));
        let payer = Decimal::from_str_exact(payer)?;
        let merchant = Decimal::from_str_exact(merchant)?;
        ensure!(now.bank - self.bank == payer, "alice's account changed by {}", now.bank - self.bank);
        let change = now.merchant - self.merchant;
        ensure!(change == merchant, "the merchant's account changed by {change}");
        Ok(())
    }
}
