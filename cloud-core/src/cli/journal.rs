//! `journal verify` and `journal dump`: the journal without the core. Reads only, also beside a running core.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Subcommand;
use cloud_core_flows::event::Record;
use data_encoding::HEXLOWER;
use schemas_journal::{FileDisk, Report, for_each_record, verify};
use serde_json::json;

use super::output::{Table, or_dash, print_json, print_line};
use crate::admin::story;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Check every segment and snapshot: checksums, hash chain, order. Names file and offset of the first problem.
    ///
    /// Note the last hash somewhere else: as long as it is found again, no record before it was changed (MO-8). A torn
    /// end, which a power cut leaves, is no problem: nothing of it was promised, and the next start removes it.
    Verify {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print every record: number, time, event.
    Dump {
        /// One JSON object a line, with everything that is in each record.
        #[arg(long)]
        json: bool,
        /// Begin after this record.
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
    },
}

impl JournalCommand {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        let disk = FileDisk::open_read_only(config.journal_dir())?;
        match self {
            Self::Verify { json } => run_verify(&disk, json),
            Self::Dump { json, after } => run_dump(&disk, json, after),
        }
    }
}

fn run_verify(disk: &FileDisk, as_json: bool) -> anyhow::Result<ExitCode> {
    let report = verify(disk)?;
    let is_sound =
        report.problem.is_none() && report.snapshots.iter().all(|snapshot| snapshot.problem.is_none());
    if as_json {
        print_json(&json_of(&report))?;
    } else {
        print_report(&report)?;
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn json_of(report: &Report) -> serde_json::Value {
    let snapshots: Vec<_> = report
        .snapshots
        .iter()
        .map(|snapshot| json!({ "file": snapshot.file, "records": snapshot.position.value(), "problem": snapshot.problem }))
        .collect();
    let problem = report
        .problem
        .as_ref()
        .map(|problem| json!({ "file": problem.file, "offset": problem.offset, "reason": problem.reason }));
    json!({
        "chain": report.chain_id.map(|chain| chain.to_string()),
        "segments": report.segments,
        "starts_after": report.starts_after.value(),
        "frames": report.frames,
        "records": report.records.value(),
        "last_hash": report.last_hash.map(|hash| hash.to_string()),
        "snapshots": snapshots,
        "problem": problem,
    })
}

fn print_report(report: &Report) -> anyhow::Result<()> {
    let mut table = Table::new(&["JOURNAL", ""]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("chain", or_dash(report.chain_id.as_ref()));
    line("segments", report.segments.to_string());
    line("starts after record", report.starts_after.to_string());
    line("frames", report.frames.to_string());
    line("records", report.records.to_string());
    line("last hash", or_dash(report.last_hash.as_ref()));
    for snapshot in &report.snapshots {
        let verdict = snapshot.problem.clone().unwrap_or_else(|| "sound".into());
        line("snapshot", format!("{} at record {}: {verdict}", snapshot.file, snapshot.position));
    }
    table.print()?;
    match &report.problem {
        None => print_line("the journal is sound")?,
        Some(problem) => {
            print_line(&format!(
                "PROBLEM in {} at byte {}: {}",
                problem.file, problem.offset, problem.reason
            ))?;
        }
    }
    Ok(())
}

fn run_dump(disk: &FileDisk, as_json: bool, after: u64) -> anyhow::Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    for_each_record(disk, |position, frame, bytes| {
        if position.value() <= after || written.is_err() {
            return;
        }
        let line = match Record::decode(bytes) {
            Ok(record) => {
                let chapter = story::chapter(position, &record);
                if as_json {
                    json!({ "position": chapter.position, "at": chapter.at, "frame": frame.sequence, "event": chapter.content })
                        .to_string()
                } else {
                    format!(
                        "{:>8}  {}  {:<20}  {}",
                        chapter.position, chapter.at, chapter.event, chapter.text
                    )
                }
            }
            Err(error) => {
                let bytes = HEXLOWER.encode(bytes);
                json!({ "position": position.value(), "unreadable": error.to_string(), "bytes": bytes })
                    .to_string()
            }
        };
        written = writeln!(out, "{line}");
    })?;
    match written.and_then(|()| out.flush()) {
        // `journal dump | head` closes the pipe; that is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
