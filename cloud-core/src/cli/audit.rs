//! `audit verify`, `audit head`, `audit show`: the journal is the audit trail (MO-8). Reads only; beside a running core it
//! reads no further than what that has synced.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use cloud_core_flows::event::{Record, RecordKind};
use data_encoding::HEXLOWER;
use schemas::ids::{PaymentId, Principal};
use schemas::time::Timestamp;
use schemas_journal::{Disk, FrameInfo, Head, Position, Report, for_each_record_through, verify_against};
use serde_json::{Value, json};

use super::moment::Moment;
use super::output::{Table, or_dash, print_json, print_line};
use crate::admin::story;
use crate::audit::{Filter, Shelves, durable};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check every segment and snapshot: checksums, hash chain, order. Names the first bad record; exit code 1.
    ///
    /// A chain that somebody has cut short or written anew is sound in itself: keep what `audit head` prints somewhere
    /// else, and give it to --expect. As long as it is found again, no record before it was changed.
    Verify {
        /// A head that was noted before; may be repeated.
        #[arg(long, value_name = "POSITION:HASH")]
        expect: Vec<Head>,
        #[command(flatten)]
        archive: Archive,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the end of the chain as POSITION:HASH, to be kept where nobody can change it together with the journal.
    Head {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print records, oldest first: number, time, kind, event. What is left out selects everything.
    #[command(alias = "dump")]
    Show {
        /// From this time on: 2026-11-21T22:30:00Z, or 2026-11-21, or how long ago (90m, 24h, 7d).
        #[arg(long, value_name = "TIME")]
        since: Option<Moment>,
        /// Before this time.
        #[arg(long, value_name = "TIME")]
        until: Option<Moment>,
        /// Only records that name this principal, TENANT/NAME.
        #[arg(long, value_name = "PRINCIPAL")]
        principal: Option<Principal>,
        /// Only the story of this payment.
        #[arg(long, value_name = "ID")]
        payment: Option<PaymentId>,
        /// Only this kind: money, command, administration, refusal, message, operation; may be repeated.
        #[arg(long = "kind", value_name = "KIND", value_parser = parse_kind)]
        kinds: Vec<RecordKind>,
        /// Begin after this record.
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
        #[command(flatten)]
        archive: Archive,
        /// One JSON object a line, with everything that is in each record.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Archive {
    /// A directory into which older segments were moved; may be repeated.
    #[arg(long = "archive", value_name = "DIR")]
    directories: Vec<PathBuf>,
}

impl AuditCommand {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        let through = durable(config)?;
        match self {
            Self::Verify { expect, archive, json } => {
                let shelves = Shelves::open(config, &archive.directories)?;
                run_verify(&shelves, through, &expect, json)
            }
            Self::Head { json } => run_head(&Shelves::open(config, &[])?, through, json),
            Self::Show { since, until, principal, payment, kinds, after, archive, json } => {
                let filter = Filter {
                    since: since.map_or(Timestamp(0), |moment| moment.0),
                    until: until.map_or(Timestamp::NEVER, |moment| moment.0),
                    after: Position::new(after),
                    principal,
                    payment,
                    kinds: kinds.into_iter().collect::<BTreeSet<_>>(),
                    ..Filter::default()
                };
                run_show(&Shelves::open(config, &archive.directories)?, through, filter, json)
            }
        }
    }
}

fn parse_kind(text: &str) -> Result<RecordKind, String> {
    RecordKind::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| {
        let names: Vec<&str> = RecordKind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("choose one of {}", names.join(", "))
    })
}

fn run_verify(disk: &Shelves, through: Position, expect: &[Head], as_json: bool) -> anyhow::Result<ExitCode> {
    let report = verify_against(disk, through, expect)?;
    let is_sound =
        report.problem.is_none() && report.snapshots.iter().all(|snapshot| snapshot.problem.is_none());
    let last_at = report.problem.as_ref().and_then(|problem| time_of(disk, problem.after));
    if as_json {
        print_json(&json_of(&report, last_at))?;
    } else {
        print_report(&report, expect, last_at)?;
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// When the record at this position was decided.
fn time_of(disk: &Shelves, position: Position) -> Option<Timestamp> {
    let mut at = None;
    let read = for_each_record_through(disk, position, |_, _, bytes| {
        at = Record::decode(bytes).ok().map(|record| record.at).or(at);
    });
    read.ok().and(at)
}

fn json_of(report: &Report, last_at: Option<Timestamp>) -> Value {
    let snapshots: Vec<_> = report
        .snapshots
        .iter()
        .map(|snapshot| json!({ "file": snapshot.file, "records": snapshot.position.value(), "problem": snapshot.problem }))
        .collect();
    let problem = report.problem.as_ref().map(|problem| {
        json!({
            "file": problem.file,
            "offset": problem.offset,
            "reason": problem.reason,
            "first_bad_record": problem.after.value() + 1,
            "last_sound_record_at": last_at.map(|at| at.to_string()),
        })
    });
    json!({
        "chain": report.chain_id.map(|chain| chain.to_string()),
        "segments": report.segments,
        "starts_after": report.starts_after.value(),
        "frames": report.frames,
        "records": report.records.value(),
        "last_hash": report.last_hash.map(|hash| hash.to_string()),
        "snapshots": snapshots,
        "torn_tail": report.torn_tail.as_ref().map(|tail| json!({ "file": tail.file, "offset": tail.offset })),
        "problem": problem,
    })
}

fn print_report(report: &Report, expect: &[Head], last_at: Option<Timestamp>) -> anyhow::Result<()> {
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
    if let Some(tail) = &report.torn_tail {
        let place = format!("{} from byte {}", tail.file, tail.offset);
        line("torn end", format!("{place}: nothing of it was promised, the next start removes it"));
    }
    table.print()?;
    let Some(problem) = &report.problem else {
        if report.snapshots.iter().any(|snapshot| snapshot.problem.is_some()) {
            print_line(
                "PROBLEM: a snapshot can't be used, see above; the journal is sound, and starts take longer",
            )?;
        } else {
            print_line("the journal is sound")?;
        }
        for head in expect {
            print_line(&format!("it leads through record {} as noted", head.position))?;
        }
        return Ok(());
    };
    let of = last_at.map_or(String::new(), |at| format!(" of {at}"));
    let sound = problem.after.value();
    if problem.file.is_empty() {
        print_line(&format!("PROBLEM: {}", problem.reason))?;
        print_line(&format!("what was noted is found again up to record {sound}{of}, and nothing after it"))?;
        return Ok(());
    }
    print_line(&format!("PROBLEM in {} at byte {}: {}", problem.file, problem.offset, problem.reason))?;
    print_line(&format!(
        "the first bad record is {}; everything up to record {sound}{of} is sound",
        sound + 1
    ))?;
    Ok(())
}

fn run_head(disk: &Shelves, through: Position, as_json: bool) -> anyhow::Result<ExitCode> {
    let report = verify_against(disk, through, &[])?;
    if let Some(problem) = report.problem {
        anyhow::bail!("{}; run `cloud-core audit verify`", problem.reason);
    }
    let (Some(hash), position) = (report.last_hash, report.records) else {
        anyhow::bail!("the journal is empty: there is nothing to note");
    };
    let head = Head { position, hash };
    if as_json {
        let at = time_of(disk, position).map(|at| at.to_string());
        print_json(
            &json!({ "head": head.to_string(), "records": position.value(), "hash": hash.to_string(), "at": at }),
        )?;
    } else {
        print_line(&head.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_show<D: Disk>(
    disk: &D,
    through: Position,
    mut filter: Filter,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    for_each_record_through(disk, through, |position, frame, bytes| {
        if written.is_err() {
            return;
        }
        if let Some(selected) = filter.select(position, bytes) {
            let line = match selected {
                Ok(record) => line_of(position, frame, &record, as_json),
                Err(error) => {
                    let bytes = HEXLOWER.encode(bytes);
                    json!({ "position": position.value(), "unreadable": error, "bytes": bytes }).to_string()
                }
            };
            written = writeln!(out, "{line}");
        }
    })?;
    match written.and_then(|()| out.flush()) {
        // `audit show | head` closes the pipe; that is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn line_of(position: Position, frame: &FrameInfo, record: &Record, as_json: bool) -> String {
    let chapter = story::chapter(position, record);
    if as_json {
        return json!({
            "position": chapter.position,
            "at": chapter.at,
            "kind": chapter.kind,
            "by": chapter.by,
            "frame": frame.sequence,
            "event": chapter.content,
        })
        .to_string();
    }
    let kind = chapter.kind.as_str();
    let by = chapter.by.map(|by| format!("  (by {by})")).unwrap_or_default();
    format!(
        "{:>8}  {}  {kind:<14}  {:<20}  {}{by}",
        chapter.position, chapter.at, chapter.event, chapter.text
    )
}
