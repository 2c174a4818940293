//! The demo's processes: this program started again as core, bank and devices. None outlives the demo.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Starting anything takes less, or something is wrong.
const START: Duration = Duration::from_secs(30);

/// A process that ends with this value.
pub(super) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts this program with `arguments`, its standard error in `log`.
    pub(super) fn spawn(name: &str, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let errors = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = program(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Starts, and waits until it prints a line that `is_ready` accepts. Returns all lines up to that one.
    pub(super) async fn start(
        name: &str,
        arguments: &[&str],
        log: &Path,
        is_ready: impl Fn(&str) -> bool,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let mut process = Self::spawn(name, arguments, log)?;
        let child = &mut process.child;
        let mut lines = BufReader::new(child.stdout.take().context("its standard output")?).lines();
        let mut seen = Vec::new();
        let wait = async {
            while let Some(line) = lines.next_line().await? {
                let ready = is_ready(&line);
                seen.push(line);
                if ready {
                    return Ok(());
                }
            }
            bail!("{name} ended: see {}", log.display())
        };
        tokio::time::timeout(START, wait)
            .await
            .with_context(|| format!("{name} was not ready in time: see {}", log.display()))??;
        // Somebody must go on reading, or the child would block on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((process, seen))
    }

    /// SIGKILL: no goodbye, no flush.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("kill {}", self.name))
    }

    /// SIGTERM, and SIGKILL for one that does not listen.
    pub(super) async fn stop(&mut self) {
        let id =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Runs this program to its end.
pub(super) async fn run(arguments: &[&str]) -> anyhow::Result<Output> {
    let output = program(arguments).stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        bail!("`{}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// Runs this program, which has to refuse. Its code, and what it says.
pub(super) async fn refused(arguments: &[&str]) -> anyhow::Result<(String, String)> {
    let output = program(arguments).stdin(Stdio::null()).output().await?;
    if output.status.success() {
        bail!("`{}` was not refused", arguments.join(" "));
    }
    let said: serde_json::Value = serde_json::from_slice(&output.stderr).context("a refusal as JSON")?;
    let field = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    Ok((field("error"), field("text")))
}

fn program(arguments: &[&str]) -> Command {
    // Not `current_exe()`: this finds the program also after a newer build has taken the place of its file.
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments);
    // What a person has set for a real core must not steer the demo's.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FARTHING_")) {
        command.env_remove(name);
    }
    // The demo's tenant waits 8 s after a start of the core: its devices must have tried again by then.
    if arguments.first() == Some(&"__edge-agent") {
        command.env("FARTHING_BACKOFF_MAX_MS", "2000");
        // The demo's output is the demo's own; a person answers by command line.
        command.env("FARTHING_DISPLAY", "none");
    }
    command
}
