//! `backup` and `restore`: a copy of the data directory while the core serves, and a data directory from it, also as of
//! an earlier point.
//!
//! A backup is a directory: `backup.json` (what it is), `journal/` (whole batches up to what was durable), and the small
//! files of the data directory with their permissions. Both commands work beside their target and rename at the end, so
//! a directory of that name is whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::Args;
use cloud_core_flows::Cloud;
use cloud_core_flows::event::{Event, Record};
use schemas::time::Timestamp;
use schemas_journal::{
    Copied, FileDisk, Head, Journal, Position, copy, existing_chain_id, for_each_record_through,
    verify_against,
};
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::output::{print_json, print_line};
use crate::audit::durable;
use crate::config::Config;

/// Of the layout of a backup.
const FORMAT: u32 = 1;
const MANIFEST: &str = "backup.json";
const JOURNAL: &str = "journal";
/// Made anew by every start.
const NOT_COPIED: &[&str] = &["addresses.json", MANIFEST];
/// The small files are small.
const FILE_BYTES: u64 = 4 << 20;

/// Copy the data directory while the core serves (or does not), and verify the copy.
///
/// The copy contains the private keys of the authority and of codes: whoever has them can make devices, and codes. Keep it as secret as the data
/// directory, or leave keys out and keep them elsewhere.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// A directory that does not exist yet.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Leave private keys out. Without them no enrolled device is known any more: keep them elsewhere.
    #[arg(long)]
    without_keys: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Make a data directory from a backup, as it was then or at an earlier point.
///
/// What happened after that point did happen, and is forgotten here: read what this command prints in the end.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The new data directory: it does not exist yet, or is empty.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Only up to this record, or this time (2026-11-21T22:30:00Z, or how long ago); all of it if left out.
    #[arg(long, value_name = "RECORD|TIME")]
    until: Option<Until>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
enum Until {
    Record(Position),
    Time(Timestamp),
}

impl FromStr for Until {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(record) => Ok(Self::Record(Position::new(record))),
            Err(_) => text.parse().map(|moment: Moment| Self::Time(moment.0)),
        }
    }
}

/// What a backup says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// The release that made it.
    release: String,
    made_at: Timestamp,
    /// The end of its journal, `POSITION:HASH`.
    head: String,
    /// When its last record was decided.
    head_at: Timestamp,
    /// More than zero when older segments are in an archive.
    starts_after: u64,
    has_keys: bool,
}

impl Backup {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        let through = durable(config)?;
        let target = Target::begin(&self.to)?;
        let from = FileDisk::open_read_only(config.journal_dir())?;
        let copied = copy_journal(&from, &target.partial.join(JOURNAL), through)?;
        let has_keys = copy_files(&config.data_dir, &target.partial, !self.without_keys)?;
        let journal = FileDisk::open_read_only(target.partial.join(JOURNAL))?;
        let report = verify_against(&journal, Position::END, &[copied.head])?;
        if let Some(problem) = report.problem {
            bail!(
                "the copy is not what was read ({}): check the disk of {}",
                problem.reason,
                self.to.display()
            );
        }
        let manifest = Manifest {
            format: FORMAT,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: now(),
            head: copied.head.to_string(),
            head_at: last_at(&journal, Position::END)?.map_or(Timestamp(0), |(_, at)| at),
            starts_after: copied.starts_after.value(),
            has_keys,
        };
        put(&target.partial.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
        target.finish()?;
        if self.json {
            print_json(&manifest)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (to, bytes) = (self.to.display(), copied.bytes);
        print_line(&format!("{to}: records up to {}, {bytes} bytes, verified", copied.head.position))?;
        print_line(&format!("head {}", copied.head))?;
        if copied.starts_after > Position::ZERO {
            print_line(&format!("records up to {} are in your archive: keep it too", copied.starts_after))?;
        }
        print_line(if has_keys {
            "IT CONTAINS PRIVATE KEYS, THE AUTHORITY'S AND THAT OF CODES: whoever has them can make devices, and codes that children pay with. Keep it as secret as the data directory"
        } else {
            "it contains no private keys: keep authority.key.pem and codes.key.pem elsewhere, without the first all devices must be enrolled anew, without the second all piggy banks"
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Restore {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        let manifest = read_manifest(&self.from)?;
        let journal = self.from.join(JOURNAL);
        let source = FileDisk::open_read_only(&journal)?;
        let head: Head = manifest.head.parse().context("backup.json is damaged: restore another backup")?;
        let report = verify_against(&source, Position::END, &[head])?;
        if let Some(problem) = report.problem {
            bail!("the backup is damaged ({}): restore another one", problem.reason);
        }
        let through = self.through(&source, head.position)?;
        let target = Target::begin(&self.to)?;
        let copied = copy_journal(&source, &target.partial.join(JOURNAL), through)?;
        copy_files(&self.from, &target.partial, true)?;
        let kept = last_at(&source, copied.head.position)?.map_or(Timestamp(0), |(_, at)| at);
        let cloud = mark(&target.partial.join(JOURNAL), config, copied.head, manifest.made_at)?;
        let has = |name: &str| target.partial.join(name).exists();
        // Backups of earlier releases know no codes.
        let has_key = has("authority.key.pem") && (has("codes.key.pem") || !has("codes.pub.pem"));
        target.finish()?;
        let open: Vec<String> = cloud.open().map(|payment| payment.id.to_string()).collect();
        if self.json {
            print_json(&serde_json::json!({
                "records": copied.head.position.value(),
                "at": kept,
                "head": copied.head.to_string(),
                "open_payments": open,
                "has_keys": has_key,
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        print_line(&format!(
            "{}: restored up to record {} of {kept}; the journal says so in record {}",
            self.to.display(),
            copied.head.position,
            copied.head.position.value() + 1
        ))?;
        print_duties(kept, open.len(), has_key)?;
        Ok(ExitCode::SUCCESS)
    }

    fn through(&self, source: &FileDisk, end: Position) -> anyhow::Result<Position> {
        match self.until {
            None => Ok(end),
            Some(Until::Record(record)) => {
                ensure!(record <= end, "the backup ends at record {end}: choose an earlier one");
                Ok(record)
            }
            Some(Until::Time(time)) => {
                let mut last = None;
                for_each_record_through(source, end, |position, _, bytes| {
                    if Record::decode(bytes).is_ok_and(|record| record.at <= time) {
                        last = Some(position);
                    }
                })?;
                last.with_context(|| format!("the backup has no record of {time} or before"))
            }
        }
    }
}

/// What an operator must know. The numbers follow correctness.md: keys and ids are derived, so banks and devices answer
/// what they did, and do it once.
fn print_duties(kept: Timestamp, open: usize, has_key: bool) -> io::Result<()> {
    print_line(&format!("\nWhat happened after {kept} did happen, and is forgotten here:"))?;
    if !has_key {
        print_line(
            "- A PRIVATE KEY IS MISSING: put authority.key.pem and codes.key.pem into the data directory before the first start.",
        )?;
    }
    for line in [
        "- The former core must not run any more: two cores with the same payments would both act.".to_owned(),
        format!("- {open} payments were open then. They go on under their old keys: banks and devices answer what they did, and nothing is charged or delivered twice."),
        format!("- Payments begun after {kept} are unknown. Compare each bank's book since then with `cloud-core admin books` and give back what nobody received. Outcomes that devices report of them come into `cloud-core admin exceptions list`."),
        "- Revocations and replaced tokens since then are forgotten: revoke and replace them again BEFORE the first start is open to the network.".to_owned(),
        "- Whoever was registered or enrolled since then is unknown: register again, enrol with a new claim code.".to_owned(),
        "- Deposits since then into accounts of our own ledger are missing: repeat them with their references.".to_owned(),
        "- Heads noted since then are found no more: note the new one with `cloud-core audit head`.".to_owned(),
    ] {
        print_line(&line)?;
    }
    Ok(())
}

/// Opens the restored journal as a start does, and says in it where it comes from.
fn mark(directory: &Path, config: &Config, head: Head, backup_made_at: Timestamp) -> anyhow::Result<Cloud> {
    let disk = FileDisk::open(directory)?;
    let chain = existing_chain_id(&disk)?.context("the backup has no journal")?;
    let mut cloud = Cloud::default();
    let mut journal = Journal::open(disk, config.journal_limits(), chain, &mut cloud)?;
    cloud.check().map_err(|violation| anyhow::anyhow!("the restored state is unsound: {violation}"))?;
    let event = Event::Restored { position: head.position.value(), backup_made_at };
    let record = Record { at: cloud.at().max(now()), event, by: None };
    journal.append(&[record.encode()])?;
    journal.sync()?;
    Ok(cloud)
}

fn copy_journal(from: &FileDisk, to: &Path, through: Position) -> anyhow::Result<Copied> {
    let disk = FileDisk::open(to)?;
    let copied = copy(from, &disk, through)?.context("there is nothing in the journal yet")?;
    drop(disk);
    fs::remove_file(to.join("journal.lock"))?;
    Ok(copied)
}

/// Copies the small files with their permissions. Says whether a private key was among them.
fn copy_files(from: &Path, to: &Path, with_keys: bool) -> anyhow::Result<bool> {
    let mut has_keys = false;
    for entry in fs::read_dir(from).with_context(|| format!("{} can't be read", from.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let shown = name.to_string_lossy();
        let metadata = fs::metadata(&path)?;
        if !metadata.is_file() || NOT_COPIED.contains(&&*shown) || shown.ends_with(".new") {
            continue;
        }
        ensure!(
            metadata.len() <= FILE_BYTES,
            "{} does not belong into a data directory: move it away",
            path.display()
        );
        let bytes = fs::read(&path)?;
        let is_key = bytes.windows(16).any(|window| window == b"PRIVATE KEY-----");
        if is_key && !with_keys {
            continue;
        }
        has_keys |= is_key;
        put(&to.join(&name), &bytes)?;
        let mode = if is_key { 0o600 } else { metadata.permissions().mode() & 0o777 };
        fs::set_permissions(to.join(&name), fs::Permissions::from_mode(mode))?;
    }
    Ok(has_keys)
}

fn read_manifest(from: &Path) -> anyhow::Result<Manifest> {
    let path = from.join(MANIFEST);
    let bytes = fs::read(&path).with_context(|| format!("{} is no backup of cloud-core", from.display()))?;
    #[derive(Deserialize)]
    struct Version {
        format: u32,
        release: String,
    }
    let version: Version =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    ensure!(
        version.format <= FORMAT,
        "the backup has format {}, this build reads {FORMAT}: restore it with release {} or a newer one",
        version.format,
        version.release
    );
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))
}

/// The last record up to a position, and when it was decided.
fn last_at(disk: &FileDisk, through: Position) -> anyhow::Result<Option<(Position, Timestamp)>> {
    let mut last = None;
    for_each_record_through(disk, through, |position, _, bytes| {
        last = Record::decode(bytes).ok().map(|record| (position, record.at)).or(last);
    })?;
    Ok(last)
}

/// A directory that is made beside its final name, so that what has that name is whole.
struct Target {
    path: PathBuf,
    partial: PathBuf,
}

impl Target {
    fn begin(path: &Path) -> anyhow::Result<Self> {
        let is_empty = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                return Err(error).with_context(|| format!("{} can't be looked at", path.display()));
            }
        };
        ensure!(is_empty, "{} is not empty: name a directory that does not exist yet", path.display());
        let mut name = path.file_name().context("name a directory to make")?.to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        DirBuilder::new().mode(0o700).create(&partial).with_context(|| {
            format!(
                "{} can't be made: its parent must exist, and no interrupted run have left it",
                partial.display()
            )
        })?;
        Ok(Self { path: path.to_owned(), partial })
    }

    fn finish(&self) -> anyhow::Result<()> {
        sync_directory(&self.partial)?;
        fs::rename(&self.partial, &self.path)
            .with_context(|| format!("{} can't get its name", self.path.display()))?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(sync_directory(parent.unwrap_or(Path::new(".")))?)
    }
}

impl Drop for Target {
    /// Nothing half made is left; after [`Target::finish`] there is none.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.partial);
    }
}

fn put(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("{} can't be written", path.display()))?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
