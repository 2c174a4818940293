//! The programs under measurement, as children that end with us.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, AdminReply, BankKind, Deadlines, OnUnknown};
use cloud_core_flows::places::CodeRules;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use schemas::ids::{Hash, Principal};
use schemas::time::Timestamp;
use schemas_journal::{FileDisk, for_each_record};

use crate::generator::Identity;

/// Nothing on one machine takes this long to start.
const PATIENCE: Duration = Duration::from_secs(30);
const ANY_PORT: &str = "127.0.0.1:0";
const NO_OTHER_LISTENERS: [&str; 4] = ["--listen-tls", "off", "--listen-enrolment", "off"];
const DAY_MS: u64 = 24 * 3_600_000;

/// A child; killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program of this project, which is built beside this one.
pub(crate) fn program(name: &str) -> anyhow::Result<Command> {
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

/// A core that serves on loopback.
pub(crate) struct Core {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    tls: Option<SocketAddr>,
    websocket: Option<SocketAddr>,
    secure_websocket: Option<SocketAddr>,
    enrolment: Option<SocketAddr>,
    pub(crate) data: PathBuf,
}

impl Core {
    /// With a tenant `bench`, plain TCP only.
    pub(crate) fn start(directory: &Path) -> anyhow::Result<Self> {
        let core = Self::listen(directory, &NO_OTHER_LISTENERS)?;
        core.with_tenant()
    }

    /// The same, with TLS and enrolment.
    pub(crate) fn start_with_tls(directory: &Path) -> anyhow::Result<Self> {
        let core = Self::listen(directory, &["--listen-tls", ANY_PORT, "--listen-enrolment", ANY_PORT])?;
        core.with_tenant()
    }

    /// On every transport, and without a tenant.
    pub(crate) fn start_whole(directory: &Path) -> anyhow::Result<Self> {
        let listeners = ["--listen-tls", "--listen-enrolment", "--listen-ws", "--listen-wss"];
        Self::listen(directory, &listeners.map(|listener| [listener, ANY_PORT]).concat())
    }

    pub(crate) fn tls_address(&self) -> anyhow::Result<SocketAddr> {
        self.tls.context("cloud-core did not say where it listens for TLS")
    }

    pub(crate) fn websocket_address(&self) -> anyhow::Result<SocketAddr> {
        self.websocket.context("cloud-core did not say where it listens for WebSocket")
    }

    pub(crate) fn secure_websocket_address(&self) -> anyhow::Result<SocketAddr> {
        self.secure_websocket.context("cloud-core did not say where it listens for secure WebSocket")
    }

    pub(crate) fn enrolment_address(&self) -> anyhow::Result<SocketAddr> {
        self.enrolment.context("cloud-core did not say where it enrols")
    }

    /// Over plain TCP, for a fleet that enrols; without a tenant. `added` is what each sync takes longer than it
    /// takes, and `processor` the only one that it may use.
    pub(crate) fn start_hindered(
        directory: &Path,
        added: Duration,
        processor: Option<usize>,
    ) -> anyhow::Result<Self> {
        let enrolment = ["--listen-tls", "off", "--listen-enrolment", ANY_PORT];
        let own = sched_getaffinity(None)?;
        if let Some(processor) = processor {
            // A child begins with what its parent has.
            pin(processor)?;
        }
        let mut command = program("cloud-core")?;
        if !added.is_zero() {
            command.env("FARTHING_ADDED_TO_SYNC_US", added.as_micros().to_string());
        }
        let core = Self::listen_as(command, directory, &enrolment);
        sched_setaffinity(None, &own)?;
        core
    }

    /// Milliseconds until it is ready, on the data of a former start, and its resident memory in kB; then it is killed.
    pub(crate) fn time_to_ready(data: &Path) -> anyhow::Result<(u64, u64)> {
        let started = Instant::now();
        let (process, lines) = Self::serve(program("cloud-core")?, data, data, &NO_OTHER_LISTENERS)?;
        let ready_ms = started.elapsed().as_millis();
        ensure!(
            lines.iter().any(|line| line == "ready"),
            "cloud-core did not become ready: see {}",
            data.join("core.log").display()
        );
        Ok((u64::try_from(ready_ms)?, resident_kb(&process)?))
    }

    /// The process, and what it printed until it was ready or ended.
    fn serve(
        mut command: Command,
        data: &Path,
        log: &Path,
        listeners: &[&str],
    ) -> anyhow::Result<(Process, Vec<String>)> {
        command.args(["serve", "--listen-tcp", ANY_PORT, "--log-filter", "warn", "--listen-http", "off"]);
        command.args(listeners);
        // As many as the limit of open files allows; the core asks for it.
        command.args(["--max-connections", "1000000"]);
        // A publisher here says what ten thousand devices say.
        for bound in ["packets-per-second", "packets-burst", "bytes-per-second", "bytes-burst"] {
            command.args([&format!("--principal-{bound}"), "100000000"]);
        }
        command
            .arg("--data-dir")
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(File::create(log.join("core.log"))?);
        let mut process = Process(command.spawn().context("start cloud-core")?);
        let mut lines = Vec::new();
        for line in BufReader::new(process.0.stdout.take().context("its output")?).lines() {
            lines.push(line?);
            if lines.last().is_some_and(|line| line == "ready") {
                break;
            }
        }
        Ok((process, lines))
    }

    fn listen(directory: &Path, listeners: &[&str]) -> anyhow::Result<Self> {
        Self::listen_as(program("cloud-core")?, directory, listeners)
    }

    fn listen_as(command: Command, directory: &Path, listeners: &[&str]) -> anyhow::Result<Self> {
        let data = directory.join("core");
        let (process, lines) = Self::serve(command, &data, directory, listeners)?;
        let found = |what: &str| {
            let address = lines.iter().find_map(|line| line.strip_prefix(what)?.strip_prefix("://"));
            address.and_then(|address| address.trim_end_matches('/').parse::<SocketAddr>().ok())
        };
        let address = found("mqtt tcp").with_context(|| {
            let log = std::fs::read_to_string(directory.join("core.log")).unwrap_or_default();
            format!("cloud-core did not say where it listens: {}", log.trim())
        })?;
        Ok(Self {
            process,
            address,
            tls: found("mqtt tls"),
            websocket: found("mqtt ws"),
            secure_websocket: found("mqtt wss"),
            enrolment: found("enrolment https"),
            data,
        })
    }

    fn with_tenant(self) -> anyhow::Result<Self> {
        self.admin(&AdminCommand::CreateTenant {
            tenant: "bench".parse()?,
            currency: "EUR".parse()?,
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: Deadlines::default(),
            code_rules: CodeRules::default(),
        })?;
        Ok(self)
    }

    /// A device that may connect with `token` on loopback.
    pub(crate) fn create_device(&self, device: &Principal, profile: &str, token: &str) -> anyhow::Result<()> {
        creation(device, profile, token)?.iter().try_for_each(|command| self.admin(command))
    }

    /// Many of them.
    pub(crate) fn create_devices(&self, devices: &[Identity], profile: &str) -> anyhow::Result<()> {
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
    pub(crate) fn claim_code(&self, device: &str) -> anyhow::Result<String> {
        let mut command = program("cloud-core")?;
        command.args(["admin", "claim", "create", device, "--data-dir"]).arg(&self.data);
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = text.split_whitespace().find(|word| word.starts_with("FT1-"));
        code.map(str::to_owned).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// An agent that enrols `device` with its claim code, and ends.
    pub(crate) fn enrol(&self, device: &Principal, claim: &str, data: &Path) -> anyhow::Result<Process> {
        let mut agent = program("edge-agent")?;
        agent.args(["enroll", "--claim", claim, "--device", &device.to_string(), "--server"]);
        agent.arg(self.enrolment_address()?.to_string()).arg("--data").arg(data).stdout(Stdio::null());
        Ok(Process(agent.spawn().context("start edge-agent")?))
    }

    /// That what was promised is in the journal.
    pub(crate) fn check_journal(&self, promised: usize) -> anyhow::Result<()> {
        let disk = FileDisk::open_read_only(self.data.join("journal"))?;
        let mut records = 0;
        for_each_record(&disk, |_, _, _| records += 1)?;
        ensure!(records >= promised, "{promised} messages were promised and {records} are in the journal");
        Ok(())
    }

    fn admin(&self, command: &AdminCommand) -> anyhow::Result<()> {
        self.operator()?.ask(command).map(drop)
    }

    /// At the core's admin socket.
    pub(crate) fn operator(&self) -> anyhow::Result<Operator> {
        let stream = UnixStream::connect(self.data.join("admin.sock")).context("the core's admin socket")?;
        Ok(Operator { reader: BufReader::new(stream) })
    }
}

/// Somebody who administers: one JSON line each way.
pub(crate) struct Operator {
    reader: BufReader<UnixStream>,
}

impl Operator {
    pub(crate) fn ask(&mut self, command: &AdminCommand) -> anyhow::Result<AdminAnswer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.reader.get_mut().write_all(&line)?;
        let mut reply = String::new();
        self.reader.read_line(&mut reply)?;
        let reply: AdminReply = serde_json::from_str(&reply).context("the core's reply")?;
        reply.map_err(Into::into)
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
pub(crate) fn mosquitto(directory: &Path, window: usize) -> anyhow::Result<Option<(Process, SocketAddr)>> {
    mosquitto_with(directory, window, "")
}

/// The same, with more settings of its listener.
pub(crate) fn mosquitto_with(
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
    peer(&["mosquitto", "/usr/sbin/mosquitto"], &[Path::new("-c"), &configuration], address)
}

/// rumqttd with as much room; none if it is not installed.
pub(crate) fn rumqttd(directory: &Path, window: u16) -> anyhow::Result<Option<(Process, SocketAddr)>> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let configuration = directory.join("rumqttd.toml");
    let text = format!(
        r#"
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "{address}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 20480
max_inflight_count = {window}
"#
    );
    std::fs::write(&configuration, text)?;
    peer(&["rumqttd"], &[Path::new("--quiet"), Path::new("-c"), &configuration], address)
}

/// The first of `names` that is installed, as soon as it listens.
fn peer(
    names: &[&str],
    arguments: &[&Path],
    address: SocketAddr,
) -> anyhow::Result<Option<(Process, SocketAddr)>> {
    for name in names {
        let mut command = Command::new(name);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else { continue };
        let process = Process(child);
        wait_until(name, || TcpStream::connect(address).is_ok())?;
        return Ok(Some((process, address)));
    }
    Ok(None)
}

/// This thread, and what it starts, runs on this processor only.
pub(crate) fn pin(processor: usize) -> anyhow::Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).context("choose a processor")
}

/// How long it took until `done`.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<Duration> {
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
pub(crate) fn resident_kb(process: &Process) -> anyhow::Result<u64> {
    resident_kb_of(&process.0.id().to_string())
}

/// The same of this process.
pub(crate) fn own_resident_kb() -> anyhow::Result<u64> {
    resident_kb_of("self")
}

fn resident_kb_of(process: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

/// As far as the system lets it; children inherit it.
pub(crate) fn raise_limit_of_files() -> usize {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// Where this program is: on the disk where the project is built.
pub(crate) fn own_directory() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("where this program is")?;
    Ok(program.parent().map_or_else(PathBuf::new, Path::to_path_buf))
}
