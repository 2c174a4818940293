//! Many at once: batches of commands from a file, and claim codes for many devices.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use cloud_core_flows::admin::AdminCommand;
use cloud_core_flows::limits;
use schemas::ids::Principal;

use super::show;
use crate::admin::client::AdminClient;
use crate::admin::{ShellAnswer, ShellCommand};
use crate::cli::output::print_line;

/// Longest line of a file, in bytes.
const LINE_BYTES: usize = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct Batch {
    /// One command a line, as JSON, for instance
    /// `{"command": "delete_device", "device": "acme/chip-7"}`; empty lines and lines with # are passed over.
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
    /// Only say whether all of it could be carried out.
    #[arg(long)]
    check: bool,
}

impl Batch {
    pub(super) fn run(self, client: &AdminClient, json: bool) -> anyhow::Result<ExitCode> {
        show::core(&client.core(self.command()?)?, json)?;
        Ok(ExitCode::SUCCESS)
    }

    pub(super) fn command(self) -> anyhow::Result<AdminCommand> {
        let mut commands = Vec::new();
        for (number, line) in lines(&self.file)? {
            let place = || format!("{}:{number}: not a command; nothing was changed", self.file.display());
            commands.push(serde_json::from_str(&line).with_context(place)?);
        }
        Ok(AdminCommand::Batch { commands, check_only: self.check })
    }
}

/// Creates the devices that the file describes, all or none, and writes a claim code for each to `out`.
pub(super) fn claims(
    client: &AdminClient,
    from: &Path,
    out: &Path,
    valid_ms: u64,
) -> anyhow::Result<ExitCode> {
    let (mut devices, mut commands) = (Vec::new(), Vec::new());
    for (number, line) in lines(from)? {
        let place = || format!("{}:{number}: write DEVICE, or DEVICE,PROFILE,LONGEST_ACT_MS", from.display());
        let mut fields = line.split(',').map(str::trim);
        let device: Principal = fields.next().unwrap_or_default().parse().with_context(place)?;
        if let Some(profile) = fields.next() {
            let longest_act_ms = fields.next().unwrap_or("0").parse().with_context(place)?;
            let (device, profile) = (device.clone(), profile.to_owned());
            commands.push(AdminCommand::CreateDevice { device, profile, longest_act_ms });
        }
        if fields.next().is_some() {
            bail!(place());
        }
        devices.push(device);
    }
    // Before anything is done: codes that could not be written would be lost.
    let mut codes = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .with_context(|| format!("{} must be a new file", out.display()))?;
    if !commands.is_empty() {
        client.core(AdminCommand::Batch { commands, check_only: false })?;
    }
    writeln!(codes, "device,code,expires_at")?;
    for device in &devices {
        let asked = ShellCommand::IssueClaim { device: device.clone(), valid_ms };
        let place = || format!("{device}: the devices before it have their codes in {}", out.display());
        let ShellAnswer::Claim { code, expires_at, .. } = client.shell(asked).with_context(place)? else {
            bail!("the core answered something else than a claim code");
        };
        writeln!(codes, "{device},{code},{expires_at}")?;
    }
    codes.sync_all()?;
    print_line(&format!("{} claim codes are in {}", devices.len(), out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Lines that say something, with their numbers.
fn lines(path: &Path) -> anyhow::Result<Vec<(usize, String)>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut lines = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| path.display().to_string())?;
        if line.len() > LINE_BYTES || lines.len() == limits::BATCH_COMMANDS {
            bail!(
                "{}:{}: at most {} lines of {LINE_BYTES} bytes: split it",
                path.display(),
                index + 1,
                limits::BATCH_COMMANDS
            );
        }
        let text = line.trim();
        if !text.is_empty() && !text.starts_with('#') {
            lines.push((index + 1, text.to_owned()));
        }
    }
    Ok(lines)
}
