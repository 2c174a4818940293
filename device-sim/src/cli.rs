//! The command line of `device-sim`.

#[cfg(feature = "mutants")]
mod mutants;
mod world;

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use rust_decimal::Decimal;
use tokio::net::TcpListener;

use crate::bank::{self, Store};
use crate::{bench, live};

/// Simulated worlds, fleets and the test bank.
#[derive(Debug, Parser)]
#[command(name = "device-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the test bank over HTTP until killed.
    Bank(BankArguments),
    /// Deterministic worlds: the real core and devices with faults, audited to the cent.
    #[command(subcommand)]
    World(world::Command),
    /// A load test: a fleet of real MQTT clients against a real core, audited to the cent.
    Live(live::Arguments),
    /// Measure the real parts, each beside something plain where there is any.
    Bench(bench::Arguments),
}

#[derive(Debug, clap::Args)]
struct BankArguments {
    /// Address to listen on; port 0 takes a free one and prints it.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// An account to open: NAME=BALANCE:CURRENCY, for instance ann=100.00:EUR. May be repeated.
    #[arg(long = "account", value_name = "NAME=BALANCE:CURRENCY", value_parser = parse_account)]
    accounts: Vec<OpenAccount>,
    /// Keep the book in this file, synced before each answer, so that the bank survives its own restart.
    #[arg(long)]
    book: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq)]
struct OpenAccount {
    name: String,
    balance: Decimal,
    currency: String,
}

/// Runs the command line; the first argument is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match execute(Arguments::parse_from(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "device-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Bank(bank) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(serve_bank(bank))
        }
        Command::World(command) => world::execute(command),
        Command::Live(arguments) => live::execute(&arguments),
        Command::Bench(arguments) => bench::execute(&arguments),
    }
}

async fn serve_bank(arguments: BankArguments) -> anyhow::Result<()> {
    if !arguments.listen.ip().is_loopback() {
        anyhow::bail!("the test bank has no access control: listen on 127.0.0.1 or [::1]");
    }
    let mut store = match &arguments.book {
        Some(path) => Store::open(path)?,
        None => Store::in_memory(),
    };
    for OpenAccount { name, balance, currency } in &arguments.accounts {
        store
            .change(|book| book.open_account(name, *balance, currency))?
            .with_context(|| format!("account {name}"))?;
    }
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("listen on {}: choose another address with --listen", arguments.listen))?;
    // One line that whoever started this process waits for; a pipe is not flushed by itself.
    let mut out = std::io::stdout();
    writeln!(out, "bank listening on http://{}", listener.local_addr()?)?;
    out.flush()?;
    bank::serve(listener, store).await.context("serve the bank")
}

fn parse_account(text: &str) -> Result<OpenAccount, String> {
    let parts = text.rsplit_once('=').and_then(|(name, money)| Some((name, money.split_once(':')?)));
    let parsed = parts.and_then(|(name, (balance, currency))| {
        let balance = Decimal::from_str_exact(balance).ok()?;
        Some(OpenAccount { name: name.to_owned(), balance, currency: currency.to_owned() })
    });
    parsed.ok_or_else(|| "write NAME=BALANCE:CURRENCY, for instance ann=100.00:EUR".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_argument_is_parsed_or_explained() {
        let account = parse_account("acme/holding=0.50:EUR").unwrap();
        assert_eq!((account.name.as_str(), account.currency.as_str()), ("acme/holding", "EUR"));
        assert_eq!(account.balance, Decimal::new(50, 2));
        for wrong in ["ann", "ann=5", "ann=x:EUR", ""] {
            assert!(parse_account(wrong).unwrap_err().contains("NAME=BALANCE:CURRENCY"), "{wrong}");
        }
    }
}
