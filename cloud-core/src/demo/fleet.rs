//! The demo's small fleet: a bank, a core, three machines with chip and executor, a parking meter (a chip without an
//! executor), one payer, one merchant's terminal. Everything is registered and enrolled as an operator and a
//! technician would do it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, BankKind, Deadlines, OnUnknown, PaymentRow};
use cloud_core_flows::places::CodeRules;
use device_sim::live::terminal::Terminal;
use ed25519_dalek::SigningKey;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rust_decimal::Decimal;
use schemas::ids::{ItemId, PaymentId, Principal};
use schemas::money::Money;
use schemas::signed::PublicKey;
use schemas::wire::SignedBytes;

use super::children::{Process, run};
use super::codes;
use super::family;
use super::narrator::Narrator;
use crate::admin::client::AdminClient;
use crate::admin::{ShellAnswer, ShellCommand};
use crate::serve::Addresses;

/// Deadlines that a person can watch.
pub(super) const DEADLINES: Deadlines = Deadlines {
    health_check_ms: 5_000,
    verification_ms: 20_000,
    bank_ms: 4_000,
    presence_ms: 120_000,
    start_ms: 3_000,
    report_ms: 1_000,
    command_status_ms: 1_000,
    reconnect_ms: 8_000,
    bank_retry_ms: 400,
    retention_ms: 7 * 24 * 3_600_000,
    prompt_ms: 8_000,
};
/// Nothing in the demo takes longer, or something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

const ONE_DAY_MS: u64 = 24 * 3_600_000;
/// Chip, its executor, and what the executor's hardware does, act by act.
const MACHINES: &[(&str, Option<(&str, &str)>)] = &[
    ("chip-1", Some(("machine-1", "done,failed:jammed,part:2"))),
    ("chip-2", Some(("machine-2", "hang"))),
    ("chip-3", Some(("machine-3", "late:6500"))),
    ("meter-4", None),
];

/// Everything that runs.
pub(super) struct Fleet {
    directory: PathBuf,
    core: Process,
    bank: Process,
    devices: Vec<Process>,
    admin: AdminClient,
    bank_address: SocketAddr,
    addresses: Addresses,
    /// Kept over restarts of the core: the ports that it got at first.
    core_arguments: Vec<String>,
    pub(super) payer: Terminal,
    pub(super) merchant: Terminal,
    pub(super) guardian: Terminal,
    pub(super) bookshop: Terminal,
}

impl Fleet {
    pub(super) async fn start(directory: &Path, narrator: &mut Narrator) -> anyhow::Result<Self> {
        let (bank, bank_address) = start_bank(directory).await?;
        let free = ["--listen-tcp", "--listen-tls", "--listen-enrolment", "--listen-http"];
        let arguments: Vec<String> =
            free.iter().flat_map(|flag| [(*flag).to_owned(), "127.0.0.1:0".to_owned()]).collect();
        let (core, addresses) = start_core(directory, &arguments).await?;
        let core_arguments = pinned(&addresses);
        let admin = AdminClient::new(&addresses.admin);
        narrator.note(&format!("bank    http://{bank_address}, a process with a book of its own"));
        narrator.note(&format!(
            "core    mqtt tls://{}, ledger and broker in one process",
            show(addresses.mqtt_tls)
        ));

        let key = SigningKey::from_bytes(&crate::random::bytes()?);
        register(&admin, bank_address, &key)?;
        family::register(&admin)?;
        codes::register(&admin)?;
        let lane = addresses.mqtt_tcp.context("the core listens on TCP")?;
        let payer = person(&admin, lane, "acme/alice", Some(key))?;
        let merchant = person(&admin, lane, "acme/till", None)?;
        let guardian = person(&admin, lane, "home/dad", None)?;
        let bookshop = person(&admin, lane, "home/bookshop-till", None)?;

        let mut devices = Vec::new();
        for (chip, executor) in MACHINES {
            let chip = format!("acme/{chip}");
            devices.push(start_device(directory, &admin, &addresses, &chip, "payment-chip", None).await?);
            if let Some((name, faults)) = executor {
                let (name, faults) = (format!("acme/{name}"), Some(*faults));
                let device = start_device(directory, &admin, &addresses, &name, "vending-executor", faults);
                devices.push(device.await?);
            }
        }
        codes::till(directory, lane, &token(&admin, "home/canteen-till")?)?;
        let profile = codes::profile(directory)?;
        let piggy_bank = start_device(directory, &admin, &addresses, family::PIGGY_BANK, &profile, None);
        devices.push(piggy_bank.await?);
        narrator
            .note(&format!("fleet   {} devices, each enrolled with a claim code, on mTLS", devices.len()));
        narrator.note("people  alice with 100.00 EUR at the bank; the till of Snacks & Co");
        narrator.note("family  mia with a piggy bank and 20.00 EUR in our own ledger; her dad; a bookshop");
        let directory = directory.to_path_buf();
        Ok(Self {
            directory,
            core,
            bank,
            devices,
            admin,
            bank_address,
            addresses,
            core_arguments,
            payer,
            merchant,
            guardian,
            bookshop,
        })
    }

    /// What the chip shows: asked for at its own socket, as a technician or the machine's screen does.
    pub(super) async fn show(&self, chip: &str, item: &str, quantity: u32) -> anyhow::Result<SignedBytes> {
        let data = self.device_directory(chip);
        let quantity = quantity.to_string();
        let data = data.to_string_lossy();
        let arguments =
            ["__edge-agent", "pay-info", "--data", &data, "--item", item, "--quantity", &quantity, "--json"];
        let output = run(&arguments).await?;
        let said: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("what pay-info prints")?;
        let information = said.get("information").cloned().context("pay-info prints `information`")?;
        Ok(serde_json::from_value(information)?)
    }

    /// Where everything of the demo is.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    pub(super) fn device_directory(&self, device: &str) -> PathBuf {
        self.directory.join(device.rsplit('/').next().unwrap_or(device))
    }

    /// Lines of the executors' physical logs: command -> units that came out, added up.
    pub(super) fn physical(&self) -> anyhow::Result<BTreeMap<String, (usize, u64)>> {
        let mut acts: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for (_, executor) in MACHINES {
            let Some((name, _)) = executor else { continue };
            let log =
                std::fs::read_to_string(self.device_directory(name).join("physical.log")).unwrap_or_default();
            for line in log.lines() {
                let line: serde_json::Value =
                    serde_json::from_str(line).context("a line of a physical log")?;
                let command = line["command"].as_str().context("its command")?.to_owned();
                let act = acts.entry(command).or_default();
                act.0 += 1;
                act.1 += line["delivered"].as_u64().context("its units")?;
            }
        }
        Ok(acts)
    }

    /// Tells the bank how to misbehave next.
    pub(super) async fn bank_fault(&self, on: &str, fault: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({ "rules": [{ "on": on, "fault": fault, "times": 1 }] });
        http(self.bank_address, "PUT", "/faults", &body.to_string()).await.map(|_| ())
    }

    /// Lets go of the answers that the bank holds.
    pub(super) async fn bank_release(&self) -> anyhow::Result<()> {
        http(self.bank_address, "POST", "/release", "").await.map(|_| ())
    }

    /// The bank's own book.
    pub(super) async fn bank_book(&self) -> anyhow::Result<serde_json::Value> {
        http(self.bank_address, "GET", "/book", "").await
    }

    /// What an account has at the bank.
    pub(super) async fn bank_balance(&self, account: &str) -> anyhow::Result<Decimal> {
        let book = self.bank_book().await?;
        let balance = &book["accounts"][account]["balance"];
        let text =
            balance.as_str().with_context(|| format!("the bank's book has no account {account}: {book}"))?;
        Ok(Decimal::from_str_exact(text)?)
    }

    /// What the merchant has earned, in our ledger.
    pub(super) fn merchant_balance(&self) -> anyhow::Result<Money> {
        let AdminAnswer::Accounts(rows) = self.admin(AdminCommand::ListAccounts)? else { bail!("accounts") };
        let row = rows
            .into_iter()
            .find(|row| row.account == "merchant/snacks")
            .context("the merchant's account")?;
        Ok(row.credits_posted.currency.minor(row.credits_posted.minor - row.debits_posted.minor))
    }

    /// One payment as the operator sees it.
    pub(super) fn payment(&self, id: PaymentId) -> anyhow::Result<PaymentRow> {
        self.payments()?
            .into_iter()
            .find(|row| row.payment == id)
            .context("the payment in the operator's list")
    }

    pub(super) fn payments(&self) -> anyhow::Result<Vec<PaymentRow>> {
        let AdminAnswer::Payments(rows) = self.admin(AdminCommand::ListPayments { open_only: false })? else {
            bail!("payments")
        };
        Ok(rows)
    }

    pub(super) fn admin(&self, command: AdminCommand) -> anyhow::Result<AdminAnswer> {
        Ok(self.admin.core(command)?)
    }

    /// SIGKILL, in the middle of whatever it is doing.
    pub(super) async fn kill_core(&mut self) -> anyhow::Result<()> {
        self.core.kill().await
    }

    /// Starts the core again on its data and its old ports.
    pub(super) async fn restart_core(&mut self) -> anyhow::Result<()> {
        let (core, addresses) = start_core(&self.directory, &self.core_arguments).await?;
        self.core = core;
        self.addresses = addresses;
        Ok(())
    }

    pub(super) async fn stop(&mut self) {
        for device in &mut self.devices {
            device.stop().await;
        }
        self.core.stop().await;
        let _ = self.bank.kill().await;
    }
}

async fn start_bank(directory: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let book = directory.join("bank.json");
    let book = book.to_string_lossy();
    let arguments = [
        "__device-sim",
        "bank",
        "--listen",
        "127.0.0.1:0",
        "--book",
        &book,
        "--account",
        "alice=100.00:EUR",
        "--account",
        "holding=0.00:EUR",
    ];
    const HEAD: &str = "bank listening on http://";
    let log = directory.join("bank.log");
    let (bank, lines) = Process::start("the bank", &arguments, &log, |line| line.starts_with(HEAD)).await?;
    let address = lines.iter().find_map(|line| line.strip_prefix(HEAD)).context("the bank's address")?;
    Ok((bank, address.parse()?))
}

async fn start_core(directory: &Path, arguments: &[String]) -> anyhow::Result<(Process, Addresses)> {
    let data = directory.join("core");
    let mut all = vec!["serve", "--data-dir", data.to_str().context("a path in UTF-8")?];
    all.extend(arguments.iter().map(String::as_str));
    let log = directory.join("core.log");
    let (core, _) = Process::start("the core", &all, &log, |line| line == "ready").await?;
    let addresses = std::fs::read(data.join("addresses.json"))?;
    Ok((core, serde_json::from_slice(&addresses)?))
}

/// The flags with which a restarted core is found where it was.
fn pinned(addresses: &Addresses) -> Vec<String> {
    let flags = [
        ("--listen-tcp", addresses.mqtt_tcp),
        ("--listen-tls", addresses.mqtt_tls),
        ("--listen-enrolment", addresses.enrolment),
        ("--listen-http", addresses.http),
    ];
    let set = flags.into_iter().filter_map(|(flag, address)| Some([flag.to_owned(), address?.to_string()]));
    set.flatten().collect()
}

fn register(admin: &AdminClient, bank: SocketAddr, key: &SigningKey) -> anyhow::Result<()> {
    let name = |text: &str| -> anyhow::Result<Principal> { Ok(format!("acme/{text}").parse()?) };
    let mut commands = vec![
        AdminCommand::CreateTenant {
            tenant: "acme".parse()?,
            currency: "EUR".parse()?,
            bank: BankKind::Http { url: format!("http://{bank}"), holding: "holding".to_owned() },
            on_unknown: OnUnknown::Refund,
            deadlines: DEADLINES,
            code_rules: CodeRules::default(),
        },
        AdminCommand::CreatePerson { person: name("till")?, public_key: None, bank_account: None },
        AdminCommand::CreatePerson {
            person: name("alice")?,
            public_key: Some(PublicKey::of(key)),
            bank_account: Some("alice".to_owned()),
        },
        AdminCommand::CreateMerchant {
            tenant: "acme".parse()?,
            merchant: "snacks".parse()?,
            title: "Snacks & Co".to_owned(),
            terminal: Some("till".parse()?),
        },
    ];
    for (chip, executor) in MACHINES {
        let (profile, longest_act_ms) = ("payment-chip".to_owned(), 0);
        commands.push(AdminCommand::CreateDevice { device: name(chip)?, profile, longest_act_ms });
        if let Some((executor, _)) = executor {
            let (profile, longest_act_ms) = ("vending-executor".to_owned(), 1_000);
            commands.push(AdminCommand::CreateDevice { device: name(executor)?, profile, longest_act_ms });
        }
        let executor = executor.map(|(executor, _)| executor.parse()).transpose()?;
        let items: BTreeMap<ItemId, _> = BTreeMap::new();
        commands.push(AdminCommand::BindChip {
            chip: name(chip)?,
            merchant: "snacks".parse()?,
            executor,
            items,
        });
    }
    for command in commands {
        admin.core(command)?;
    }
    Ok(())
}

fn person(
    admin: &AdminClient,
    lane: SocketAddr,
    name: &str,
    key: Option<SigningKey>,
) -> anyhow::Result<Terminal> {
    Ok(Terminal::connect(lane, name.parse()?, &token(admin, name)?, key))
}

fn token(admin: &AdminClient, name: &str) -> anyhow::Result<String> {
    let issue = ShellCommand::IssueToken { principal: name.parse()?, valid_ms: ONE_DAY_MS };
    let ShellAnswer::Token { token, .. } = admin.shell(issue)? else { bail!("a token for {name}") };
    Ok(token)
}

async fn start_device(
    directory: &Path,
    admin: &AdminClient,
    addresses: &Addresses,
    principal: &str,
    profile: &str,
    faults: Option<&str>,
) -> anyhow::Result<Process> {
    let (_, name) = principal.split_once('/').context("a device's whole name")?;
    let issue = ShellCommand::IssueClaim { device: principal.parse()?, valid_ms: ONE_DAY_MS };
    let ShellAnswer::Claim { code, .. } = admin.shell(issue)? else { bail!("a claim for {name}") };
    let data = directory.join(name);
    let log = directory.join(format!("{name}.log"));
    let physical = data.join("physical.log");
    let (data, physical) = (data.to_string_lossy(), physical.to_string_lossy());
    let (enrolment, broker) = (show(addresses.enrolment), show(addresses.mqtt_tls));
    let enroll = [
        "__edge-agent",
        "enroll",
        "--claim",
        &code,
        "--server",
        &enrolment,
        "--device",
        principal,
        "--data",
        &data,
    ];
    run(&enroll).await.with_context(|| format!("enrol {name}"))?;
    let mut arguments =
        vec!["__edge-agent", "run", "--data", &data, "--profile", profile, "--broker", &broker];
    if profile == "vending-executor" {
        arguments.extend(["--physical-log", &physical]);
    }
    if let Some(faults) = faults {
        arguments.extend(["--faults", faults]);
    }
    let process = Process::spawn(name, &arguments, &log)?;
    wait_for_device(name, &data, &log).await?;
    Ok(process)
}

/// Ready is a device that is connected and has learned the time: before, a chip issues nothing.
async fn wait_for_device(name: &str, data: &str, log: &Path) -> anyhow::Result<()> {
    let ready = async {
        loop {
            let status = run(&["__edge-agent", "status", "--data", data, "--json"]).await;
            let status =
                status.ok().and_then(|said| serde_json::from_slice::<serde_json::Value>(&said.stdout).ok());
            if status.is_some_and(|status| status["connected"] == true && !status["cloud_time"].is_null()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready)
        .await
        .with_context(|| format!("{name} was not ready: see {}", log.display()))
}

/// One request to the test bank.
async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<serde_json::Value> {
    let stream = tokio::net::TcpStream::connect(address).await.context("reach the bank")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_owned())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("the bank answers {status} to {method} {path}: {}", String::from_utf8_lossy(&body));
    }
    if body.is_empty() { Ok(serde_json::Value::Null) } else { Ok(serde_json::from_slice(&body)?) }
}

fn show(address: Option<SocketAddr>) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}
