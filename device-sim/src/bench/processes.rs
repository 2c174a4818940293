//! The programs under measurement, as children that end with us.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use cloud_core_flows::admin::{AdminCommand, AdminReply, BankKind, Deadlines, OnUnknown};
use cloud_core_flows::places::CodeRules;
use schemas::ids::{Hash, Principal};
use schemas::time::Timestamp;
use schemas_journal::{FileDisk, for_each_record};

use super::generator::Identity;

/// Nothing on one machine takes this long to start.
const PATIENCE: Duration = Duration::from_secs(30);
const DAY_MS: u64 = 24 * 3_600_000;

/// A child; killed when dropped.
pub(super) struct Process(pub(super) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program of this project, which is built beside this one.
pub(super) fn program(name: &str) -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("where this program is")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!(
            "{} is missing: build it with `cargo build --release -p cloud-core -p edge-agent`",
            path.display()
        );
    }
    let mut command = Command::new(path);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("FARTHING_") {
            command.env_remove(variable);
        }
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// A core that serves on loopback, with a tenant `bench`.
pub(super) struct Core {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
    tls: Option<SocketAddr>,
    enrolment: Option<SocketAddr>,
    data: PathBuf,
}

impl Core {
    pub(super) fn start(directory: &Path) -> anyhow::Result<Self> {
        Self::listen(directory, "off")
    }

    /// The same, with TLS and enrolment.
    pub(super) fn start_with_tls(directory: &Path) -> anyhow::Result<Self> {
        Self::listen(directory, "127.0.0.1:0")
    }

    pub(super) fn tls_address(&self) -> anyhow::Result<SocketAddr> {
        self.tls.context("cloud-core did not say where it listens for TLS")
    }

    pub(super) fn enrolment_address(&self) -> anyhow::Result<SocketAddr> {
        self.enrolment.context("cloud-core did not say where it enrols")
    }

    fn listen(directory: &Path, with_tls: &str) -> anyhow::Result<Self> {
        let data = directory.join("core");
        let mut command = program("cloud-core")?;
        command.args(["serve", "--listen-tcp", "127.0.0.1:0", "--log-filter", "warn"]);
        command.args(["--listen-tls", with_tls, "--listen-enrolment", with_tls, "--listen-http", "off"]);
        // A publisher here says what ten thousand devices say.
        for bound in ["packets-per-second", "packets-burst", "bytes-per-second", "bytes-burst"] {
            command.args([&format!("--principal-{bound}"), "100000000"]);
        }
        command
            .arg("--data-dir")
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(File::create(directory.join("core.log"))?);
        let mut process = Process(command.spawn().context("start cloud-core")?);
        let lines = BufReader::new(process.0.stdout.take().context("its output")?).lines();
        let (mut address, mut tls, mut enrolment) = (None, None, None);
        for line in lines {
            let line = line?;
            for (prefix, found) in [
                ("mqtt tcp://", &mut address),
                ("mqtt tls://", &mut tls),
                ("enrolment https://", &mut enrolment),
            ] {
                if let Some(text) = line.strip_prefix(prefix) {
                    *found = Some(text.parse()?);
                }
            }
            if line == "ready" {
                break;
            }
        }
        let address =
            address.context("cloud-core did not say where it listens: run `cloud-core serve` by hand")?;
        let core = Self { process, address, tls, enrolment, data };
        core.admin(&AdminCommand::CreateTenant {
            tenant: "bench".parse()?,
            currency: "EUR".parse()?,
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: Deadlines::default(),
            code_rules: CodeRules::default(),
        })?;
        Ok(core)
    }

    /// A device that may connect with `token` on loopback.
    pub(super) fn create_device(&self, device: &Principal, profile: &str, token: &str) -> anyhow::Result<()> {
        creation(device, profile, token)?.iter().try_for_each(|command| self.admin(command))
    }

    /// Many of them.
    pub(super) fn create_devices(&self, devices: &[Identity], profile: &str) -> anyhow::Result<()> {
        for some in devices.chunks(1_000) {
            let mut commands = Vec::new();
            for device in some {
                commands.extend(creation(&device.name.parse()?, profile, &device.token)?);
            }
            self.admin(&AdminCommand::Batch { commands, check_only: false })?;
        }
        Ok(())
    }

    /// A one-time code, as an operator makes it.
    pub(super) fn claim_code(&self, device: &str) -> anyhow::Result<String> {
        let mut command = program("cloud-core")?;
        command.args(["admin", "claim", "create", device, "--data-dir"]).arg(&self.data);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = text.split_whitespace().find(|word| word.starts_with("FT1-"));
        code.map(str::to_owned).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// That what was promised is in the journal.
    pub(super) fn check_journal(&self, promised: usize) -> anyhow::Result<()> {
        let disk = FileDisk::open_read_only(self.data.join("journal"))?;
        let mut records = 0;
        for_each_record(&disk, |_, _, _| records += 1)?;
        ensure!(records >= promised, "{promised} messages were promised and {records} are in the journal");
        Ok(())
    }

    /// One JSON line each way.
    fn admin(&self, command: &AdminCommand) -> anyhow::Result<()> {
        let mut stream =
            UnixStream::connect(self.data.join("admin.sock")).context("the core's admin socket")?;
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply)?;
        let reply: AdminReply = serde_json::from_str(&reply).context("the core's reply")?;
        reply.map(drop).map_err(Into::into)
    }
}

fn creation(device: &Principal, profile: &str, token: &str) -> anyhow::Result<[AdminCommand; 2]> {
    let (principal, profile) = (device.clone(), profile.to_owned());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let expires_at = Timestamp(u64::try_from(now.as_millis())? + DAY_MS);
    let token_hash = Hash::of(token.as_bytes());
    Ok([
        AdminCommand::CreateDevice { device: device.clone(), profile, longest_act_ms: 1_000 },
        AdminCommand::CreateToken { principal, token_hash, expires_at },
    ])
}

/// mosquitto with room for everything that is measured; none if it is not installed.
pub(super) fn mosquitto(directory: &Path, window: usize) -> anyhow::Result<Option<(Process, SocketAddr)>> {
    mosquitto_with(directory, window, "")
}

/// The same, with more settings of its listener.
pub(super) fn mosquitto_with(
    directory: &Path,
    window: usize,
    more: &str,
) -> anyhow::Result<Option<(Process, SocketAddr)>> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let configuration = directory.join("mosquitto.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages {window}\nmax_queued_messages 0\nset_tcp_nodelay true\nlog_type error\n{more}",
        address.port(),
    );
    std::fs::write(&configuration, text)?;
    for name in ["mosquitto", "/usr/sbin/mosquitto"] {
        let mut command = Command::new(name);
        command
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let Ok(child) = command.spawn() else { continue };
        let process = Process(child);
        wait_until("mosquitto", || TcpStream::connect(address).is_ok())?;
        return Ok(Some((process, address)));
    }
    Ok(None)
}

/// How long it took until `done`.
pub(super) fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<Duration> {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > PATIENCE {
            bail!("{what} is not ready after {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(started.elapsed())
}

/// Resident memory in kB, from /proc.
pub(super) fn resident_kb(process: &Process) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}
