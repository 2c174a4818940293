//! A bank, a core and enrolled devices as separate processes, registered as an operator does it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cloud_core::admin::client::{AdminClient, AdminError};
use cloud_core::admin::{ShellAnswer, ShellCommand};
use cloud_core::serve::Addresses;
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, BankKind, Deadlines, OnUnknown};
use device_sim::live::terminal::Terminal;
use ed25519_dalek::SigningKey;
use schemas::ids::Principal;
use schemas::signed::PublicKey;
use schemas::wire::SignedBytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::bank::Bank;
use crate::process::{Process, binary, command, run, run_ok, text};
use crate::until;

pub const TENANT: &str = "acme";
const ONE_DAY_MS: u64 = 24 * 3_600_000;
const SIGKILL: i32 = 9;

/// Deadlines that a test can wait for.
pub const DEADLINES: Deadlines = Deadlines {
    health_check_ms: 3_000,
    verification_ms: 10_000,
    bank_ms: 5_000,
    presence_ms: 60_000,
    start_ms: 3_000,
    report_ms: 1_000,
    command_status_ms: 1_000,
    reconnect_ms: 4_000,
    bank_retry_ms: 100,
    retention_ms: 7 * 24 * 3_600_000,
    prompt_ms: 20_000,
};

/// `(chip, its executor)`. Several chips may have the same executor.
pub type Machine = (&'static str, Option<&'static str>);

/// The chips, then the executors, each once.
pub fn devices_of(machines: &[Machine]) -> Vec<&'static str> {
    let executors: BTreeSet<&str> = machines.iter().filter_map(|(_, executor)| *executor).collect();
    machines.iter().map(|(chip, _)| *chip).chain(executors).collect()
}

/// How the processes are started.
#[derive(Debug, Clone)]
pub struct Options {
    pub core_binary: PathBuf,
    /// Writes are held in memory until they are synced, so that SIGKILL is a power cut.
    pub hold_writes: bool,
    pub payers: u32,
    pub machines: &'static [Machine],
    pub deadlines: Deadlines,
    /// More settings of the core, as arguments.
    pub core_settings: &'static [&'static str],
    /// Variables of the core that are no settings.
    pub core_environment: &'static [(&'static str, &'static str)],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            core_binary: binary("cloud-core"),
            hold_writes: false,
            payers: 1,
            machines: &[],
            deadlines: DEADLINES,
            core_settings: &[],
            core_environment: &[],
        }
    }
}

/// Why a core was not ready.
#[derive(Debug)]
pub enum NotReady {
    /// It was killed by its own kill point before.
    Killed,
    /// It refused to start, with these words.
    Refused(String),
}

pub struct Fleet {
    options: Options,
    core: Option<Process>,
    core_arguments: Vec<String>,
    devices: BTreeMap<String, (Command, Process)>,
    pub bank: Bank,
    pub addresses: Addresses,
    pub admin: AdminClient,
    directory: TempDir,
}

impl Fleet {
    /// Bank and core run; tenant, merchant `snacks` with terminal `till`, and payers `payer-0` ... are registered with
    /// 100000 EUR at the bank each. The devices are enrolled, and not yet started.
    pub fn start(options: Options) -> Self {
        let fleet = Self::upon(options, |_| {});
        fleet.register();
        fleet
    }

    /// The same on a core directory that `prepare` makes; nobody is registered or enrolled.
    pub fn upon(options: Options, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(&directory.path().join("core"));
        let payers = (0..options.payers).map(|number| format!("payer-{number}=100000.00:EUR"));
        let accounts: Vec<String> = payers.chain(["holding=0.00:EUR".to_owned()]).collect();
        let bank = Bank::start(directory.path(), &accounts);
        let data = directory.path().join("core");
        let mut core_arguments =
            vec!["serve".to_owned(), "--data-dir".to_owned(), data.display().to_string()];
        core_arguments.extend(["--journal-segment-bytes".to_owned(), "1048576".to_owned()]);
        core_arguments.extend(options.core_settings.iter().map(|setting| (*setting).to_owned()));
        let listen = ["--listen-tcp", "--listen-tls", "--listen-enrolment", "--listen-http"];
        let mut first = core_arguments.clone();
        first.extend(listen.iter().flat_map(|flag| [(*flag).to_owned(), "127.0.0.1:0".to_owned()]));
        let (core, addresses) = start_core(&options, directory.path(), &first, None).unwrap();
        // A restarted core is found where it was.
        let bound = [addresses.mqtt_tcp, addresses.mqtt_tls, addresses.enrolment, addresses.http];
        for (flag, address) in listen.iter().zip(bound) {
            core_arguments.extend([(*flag).to_owned(), address.unwrap().to_string()]);
        }
        let admin = AdminClient::new(&addresses.admin);
        let devices = BTreeMap::new();
        Self { options, core: Some(core), core_arguments, devices, bank, addresses, admin, directory }
    }

    fn register(&self) {
        let mut commands = vec![
            AdminCommand::CreateTenant {
                tenant: TENANT.parse().unwrap(),
                currency: "EUR".parse().unwrap(),
                bank: BankKind::Http {
                    url: format!("http://{}", self.bank.address),
                    holding: "holding".to_owned(),
                },
                on_unknown: OnUnknown::Refund,
                deadlines: self.options.deadlines,
                code_rules: Default::default(),
            },
            AdminCommand::CreatePerson { person: principal("till"), public_key: None, bank_account: None },
            AdminCommand::CreateMerchant {
                tenant: TENANT.parse().unwrap(),
                merchant: "snacks".parse().unwrap(),
                title: "Snacks & Co".to_owned(),
                terminal: Some("till".parse().unwrap()),
            },
        ];
        for number in 0..self.options.payers {
            let name = format!("payer-{number}");
            commands.push(AdminCommand::CreatePerson {
                person: principal(&name),
                public_key: Some(PublicKey::of(&key_of(&name))),
                bank_account: Some(name),
            });
        }
        for (chip, executor) in self.options.machines {
            let device = |name: &str, profile: &str, longest_act_ms| AdminCommand::CreateDevice {
                device: principal(name),
                profile: profile.to_owned(),
                longest_act_ms,
            };
            commands.push(device(chip, "payment-chip", 0));
            commands.extend(executor.map(|executor| device(executor, "vending-executor", 500)));
            commands.push(AdminCommand::BindChip {
                chip: principal(chip),
                merchant: "snacks".parse().unwrap(),
                executor: executor.map(|executor| executor.parse().unwrap()),
                items: BTreeMap::new(),
            });
        }
        for command in commands {
            self.core(command);
        }
        devices_of(self.options.machines).into_iter().for_each(|device| self.enrol(device));
    }

    /// What a person of our own ledger has, and that nothing of it is reserved; and that our books agree with themselves.
    pub fn person_has(&self, name: &str, amount: &str) {
        let AdminAnswer::Accounts(rows) = self.core(AdminCommand::ListAccounts) else { panic!("accounts") };
        let row = rows.iter().find(|row| row.account == format!("person/{name}")).unwrap();
        assert_eq!(row.debits_pending.minor, 0, "nothing stays reserved");
        let has = row.credits_posted.currency.minor(row.credits_posted.minor - row.debits_posted.minor);
        assert_eq!(has, amount.parse().unwrap());
        let AdminAnswer::Books(books) = self.core(AdminCommand::Books) else { panic!("books") };
        assert!(books.balanced, "{:?}", books.problem);
    }

    /// As a technician does it.
    pub fn enrol(&self, device: &str) {
        let issue = ShellCommand::IssueClaim { device: principal(device), valid_ms: ONE_DAY_MS };
        let Ok(ShellAnswer::Claim { code, .. }) = self.admin.shell(issue) else {
            panic!("a claim for {device}")
        };
        let mut enroll = command(binary("edge-agent"));
        enroll.args(["enroll", "--claim", &code, "--device", &principal(device).to_string()]);
        enroll.args(["--server", &self.addresses.enrolment.unwrap().to_string()]);
        run_ok({
            enroll.arg("--data").arg(self.directory_of(device));
            enroll
        });
    }

    /// Starts the core again on its data and its ports.
    ///
    /// # Errors
    /// It was killed by its kill point before it was ready, or refused.
    pub fn start_core(&mut self, kill_at: Option<&str>) -> Result<(), NotReady> {
        self.core = None;
        let (core, _) = start_core(&self.options, self.directory.path(), &self.core_arguments, kill_at)?;
        self.core = Some(core);
        Ok(())
    }

    /// The running core.
    pub fn core_process(&mut self) -> &mut Process {
        self.core.as_mut().expect("the core runs")
    }

    /// SIGKILL.
    pub fn kill_core(&mut self) {
        self.core = None;
    }

    /// Starts (again) a device of `profile`. Does not wait.
    pub fn start_device(&mut self, name: &str, profile: &Path, faults: &str, kill_at: Option<&str>) {
        let data = self.directory_of(name);
        let mut agent = command(binary("edge-agent"));
        agent.args(["run", "--log", "warn", "--data"]).arg(&data).arg("--profile").arg(profile);
        agent.args(["--broker", &self.addresses.mqtt_tls.unwrap().to_string()]);
        // No test has a terminal.
        agent.env("FARTHING_DISPLAY", "none");
        agent.env("FARTHING_BACKOFF_MIN_MS", "50").env("FARTHING_BACKOFF_MAX_MS", "200");
        if !faults.is_empty() {
            agent.args(["--faults", faults]).arg("--physical-log").arg(data.join("physical.log"));
        }
        if self.options.hold_writes {
            agent.env("FARTHING_HOLD_WRITES", "1");
        }
        if let Some(kill_at) = kill_at {
            agent.env("FARTHING_KILL_AT", kill_at);
        }
        let log = self.directory.path().join(format!("{}.log", name.replace('/', "-")));
        let mut status = command(binary("edge-agent"));
        status.args(["status", "--json", "--data"]).arg(&data);
        self.devices.remove(name);
        self.devices.insert(name.to_owned(), (status, Process::spawn(name, agent, &log)));
    }

    pub fn device(&mut self, name: &str) -> &mut Process {
        &mut self.devices.get_mut(name).expect("the device was started").1
    }

    /// Waits until the device is connected, knows the time, and nothing of it waits for the cloud.
    pub fn wait_for_device(&mut self, name: &str) {
        let (status, _) = self.devices.get_mut(name).expect("the device was started");
        until(&format!("{name}, connected and with nothing to say"), || {
            let said = status.output().unwrap();
            let said: Value = serde_json::from_slice(&said.stdout).ok()?;
            let ready = said["connected"] == true
                && !said["cloud_time"].is_null()
                && said["spool_depth"] == 0
                && said["open_commands"].as_array().is_some_and(Vec::is_empty);
            ready.then_some(())
        });
    }

    /// One line of the physical logs for each act: command and units.
    pub fn acts(&self) -> Vec<(String, u64)> {
        let mut acts = Vec::new();
        for device in devices_of(self.options.machines) {
            let log =
                std::fs::read_to_string(self.directory_of(device).join("physical.log")).unwrap_or_default();
            for line in log.lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                acts.push((
                    line["command"].as_str().unwrap().to_owned(),
                    line["delivered"].as_u64().unwrap(),
                ));
            }
        }
        acts
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn directory_of(&self, device: &str) -> PathBuf {
        self.directory.path().join(device.replace('/', "-"))
    }

    pub fn lane(&self) -> SocketAddr {
        self.addresses.mqtt_tcp.unwrap()
    }

    /// An operator's command, which must be accepted.
    pub fn core(&self, command: AdminCommand) -> AdminAnswer {
        self.ask(command).unwrap()
    }

    /// An operator's command.
    ///
    /// # Errors
    /// Refused, or the core is gone.
    pub fn ask(&self, command: AdminCommand) -> Result<AdminAnswer, AdminError> {
        self.admin.core(command)
    }

    /// `cloud-core ARGUMENTS` on this core's data directory.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut cli = command(&self.options.core_binary);
        cli.arg("--data-dir").arg(self.directory.path().join("core")).args(arguments);
        run(cli)
    }

    /// `cloud-core audit show`: one record a line, those that are synced.
    pub fn journal(&self) -> Vec<Value> {
        let output = self.cli(&["audit", "show", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A token for anybody.
    pub fn token(&self, name: &str) -> String {
        let issue = ShellCommand::IssueToken { principal: name.parse().unwrap(), valid_ms: ONE_DAY_MS };
        let Ok(ShellAnswer::Token { token, .. }) = self.admin.shell(issue) else {
            panic!("a token for {name}")
        };
        token
    }

    /// A person's terminal. Call it within a tokio runtime.
    pub fn terminal(&self, name: &str) -> Terminal {
        let principal = principal(name);
        let token = self.token(&principal.to_string());
        Terminal::connect(self.lane(), principal, &token, Some(key_of(name)))
    }
}

/// What a running chip shows, as read from its own socket; none while it can't.
pub fn pay_info(chip_data: &Path, item: &str, quantity: u32) -> Option<SignedBytes> {
    let mut show = command(binary("edge-agent"));
    show.args(["pay-info", "--json", "--item", item, "--quantity", &quantity.to_string(), "--data"])
        .arg(chip_data);
    let said: Value = serde_json::from_slice(&run(show).stdout).ok()?;
    serde_json::from_value(said.get("information")?.clone()).ok()
}

/// `TENANT/NAME`, or `NAME` of the fleet's own tenant.
pub fn principal(name: &str) -> Principal {
    let whole = if name.contains('/') { name.to_owned() } else { format!("{TENANT}/{name}") };
    whole.parse().unwrap()
}

/// A person's key, which follows from the name.
pub fn key_of(name: &str) -> SigningKey {
    SigningKey::from_bytes(&schemas::ids::Hash::of(name.as_bytes()).0)
}

fn start_core(
    options: &Options,
    directory: &Path,
    arguments: &[String],
    kill_at: Option<&str>,
) -> Result<(Process, Addresses), NotReady> {
    let mut core = command(&options.core_binary);
    core.args(arguments).args(["--log-filter", "warn"]);
    core.envs(options.core_environment.iter().copied());
    if options.hold_writes {
        core.env("FARTHING_HOLD_WRITES", "1");
    }
    if let Some(kill_at) = kill_at {
        core.env("FARTHING_KILL_AT", kill_at);
    }
    let mut process = Process::spawn("the core", core, &directory.join("core.log"));
    match process.line(|line| line == "ready") {
        Ok(_) => {}
        Err(status) if kill_at.is_some() && status.signal() == Some(SIGKILL) => return Err(NotReady::Killed),
        Err(status) => return Err(NotReady::Refused(format!("{status}: {}", process.tail()))),
    }
    let addresses = std::fs::read(directory.join("core").join("addresses.json")).unwrap();
    Ok((process, serde_json::from_slice(&addresses).unwrap()))
}
