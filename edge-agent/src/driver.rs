//! Hardware drivers: one act, one result.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edge_agent_device::{Conditions, DriverSettings, HardwareResult};
use rustix::process::{Pid, Signal, kill_process_group};
use schemas::ids::{Code, CommandId, ItemId};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::clock;
use crate::steps::{Step, pass};

/// Bytes of a program's output that are read.
const OUTPUT_BYTES: u64 = 64 << 10;

/// What to do.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    pub(crate) command: CommandId,
    pub(crate) item: ItemId,
    pub(crate) quantity: u32,
}

/// The configured driver.
#[derive(Debug, Clone)]
pub(crate) enum Driver {
    None,
    Process { argv: Vec<String>, timeout: Duration, log: PhysicalLog },
    Simulated { act: Duration, faults: Arc<Mutex<VecDeque<Fault>>>, log: PhysicalLog },
}

/// Why a driver could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error("`{0}` is no simulated outcome: write done, failed:CODE, part:UNITS, unknown, hang or late:MS")]
    Fault(String),
    #[error("the list of simulated outcomes {path} can't be read ({source}): check the path")]
    Faults { path: PathBuf, source: io::Error },
    #[error("the physical log {path} can't be opened ({source}): check the path and its permissions")]
    Log { path: PathBuf, source: io::Error },
}

impl Driver {
    /// From the profile; `faults` (separated by commas, or `@FILE` with one a line) replace the profile's.
    pub(crate) fn open(
        settings: &DriverSettings,
        faults: Option<&str>,
        physical_log: Option<&str>,
    ) -> Result<Self, DriverError> {
        let log = PhysicalLog::open(physical_log)?;
        match settings {
            DriverSettings::None => Ok(Driver::None),
            DriverSettings::Process { argv, timeout_ms } => {
                Ok(Driver::Process { argv: argv.clone(), timeout: Duration::from_millis(*timeout_ms), log })
            }
            DriverSettings::Simulated { act_ms, faults: own, .. } => {
                let list = match faults.map(|list| (list, list.strip_prefix('@'))) {
                    None => own.join(","),
                    Some((list, None)) => list.to_owned(),
                    Some((_, Some(path))) => std::fs::read_to_string(path)
                        .map_err(|source| DriverError::Faults { path: path.into(), source })?,
                };
                let texts = list.split([',', '\n']).map(str::trim).filter(|text| !text.is_empty());
                let faults = texts.map(Fault::parse).collect::<Result<VecDeque<_>, _>>()?;
                let faults = Arc::new(Mutex::new(faults));
                Ok(Driver::Simulated { act: Duration::from_millis(*act_ms), faults, log })
            }
        }
    }

    /// What the machine says of itself at the start.
    pub(crate) fn conditions(settings: &DriverSettings) -> Conditions {
        match settings {
            DriverSettings::Simulated { stock, .. } => {
                Conditions { stock: stock.clone(), ..Conditions::default() }
            }
            _ => Conditions::default(),
        }
    }

    /// Acts, once. Whatever goes wrong after the first movement is `unknown`.
    pub(crate) async fn act(self, act: Act) -> HardwareResult {
        match self {
            Driver::None => failed("no_driver"),
            Driver::Process { argv, timeout, log } => run_process(&argv, timeout, &log, &act).await,
            Driver::Simulated { act: duration, faults, log } => {
                let fault = faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                simulate(fault.unwrap_or(Fault::Done), duration, &log, &act).await
            }
        }
    }
}

/// One simulated outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Done,
    Failed(Code),
    Part(u32),
    Unknown,
    Hang,
    Late(Duration),
}

impl Fault {
    fn parse(text: &str) -> Result<Self, DriverError> {
        let refuse = || DriverError::Fault(text.to_owned());
        let (name, argument) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        match (name, argument) {
            ("done", None) => Ok(Fault::Done),
            ("failed", None) => Ok(Fault::Failed(Code::known("failed"))),
            ("failed", Some(code)) => code.parse().map(Fault::Failed).map_err(|_| refuse()),
            ("part", Some(units)) => units.parse().map(Fault::Part).map_err(|_| refuse()),
            ("unknown", None) => Ok(Fault::Unknown),
            ("hang", None) => Ok(Fault::Hang),
            ("late", Some(ms)) => {
                ms.parse().map(|ms| Fault::Late(Duration::from_millis(ms))).map_err(|_| refuse())
            }
            _ => Err(refuse()),
        }
    }
}

async fn simulate(fault: Fault, duration: Duration, log: &PhysicalLog, act: &Act) -> HardwareResult {
    tokio::time::sleep(duration).await;
    let delivered = match &fault {
        Fault::Done | Fault::Unknown | Fault::Late(_) => act.quantity,
        Fault::Part(units) => (*units).min(act.quantity),
        Fault::Failed(_) | Fault::Hang => 0,
    };
    if log.write(act, delivered).is_err() {
        return unknown("physical_log_failed");
    }
    pass(Step::Acted);
    match fault {
        Fault::Done => HardwareResult::Done,
        Fault::Failed(code) => HardwareResult::Failed { code },
        Fault::Part(delivered) => HardwareResult::DoneInPart { delivered },
        Fault::Unknown => unknown("simulated"),
        Fault::Hang => std::future::pending().await,
        Fault::Late(late) => {
            tokio::time::sleep(late).await;
            HardwareResult::Done
        }
    }
}

async fn run_process(argv: &[String], timeout: Duration, log: &PhysicalLog, act: &Act) -> HardwareResult {
    let fill = |text: &String| {
        text.replace("{item}", act.item.as_str())
            .replace("{quantity}", &act.quantity.to_string())
            .replace("{command}", &act.command.to_string())
    };
    let Some((program, arguments)) = argv.split_first() else { return failed("no_program") };
    let spawned = Command::new(fill(program))
        .args(arguments.iter().map(fill))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        // A group of its own, so that a timeout ends helpers of the program as well.
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            tracing::error!(program, %error, "the driver program does not start: check argv in the profile");
            return failed("program_not_started");
        }
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let stdout = child.stdout.take();
    let running = async {
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            // A program that says more is cut off, which it takes for a closed pipe.
            let _ = stdout.take(OUTPUT_BYTES).read_to_end(&mut output).await;
        }
        child.wait().await.map(|status| (status.code(), output))
    };
    let result = match tokio::time::timeout(timeout, running).await {
        Ok(Ok((code, output))) => process_result(code, &output),
        Ok(Err(_)) => unknown("program_lost"),
        Err(_) => {
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            unknown("program_timed_out")
        }
    };
    let delivered = match &result {
        HardwareResult::Done => act.quantity,
        HardwareResult::DoneInPart { delivered } => *delivered,
        _ => 0,
    };
    if log.write(act, delivered).is_err() {
        tracing::error!("the physical log can't be written: check the disk");
    }
    pass(Step::Acted);
    result
}

/// The exit codes that a driver program uses.
fn process_result(code: Option<i32>, output: &[u8]) -> HardwareResult {
    match code {
        Some(0) => HardwareResult::Done,
        Some(10) => failed("program_failed"),
        Some(11) => {
            let text = String::from_utf8_lossy(output);
            let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
            match last.and_then(|line| line.parse().ok()) {
                Some(delivered) => HardwareResult::DoneInPart { delivered },
                None => unknown("program_said_no_units"),
            }
        }
        Some(12) => unknown("program_unknown"),
        Some(_) => unknown("program_exit_code"),
        None => unknown("program_signalled"),
    }
}

fn failed(code: &'static str) -> HardwareResult {
    HardwareResult::Failed { code: Code::known(code) }
}

fn unknown(code: &'static str) -> HardwareResult {
    HardwareResult::Unknown { code: Code::known(code) }
}

/// One JSON line for each physical act, on disk before the act is reported: what auditors read.
#[derive(Debug, Clone)]
pub(crate) struct PhysicalLog(Option<Arc<File>>);

impl PhysicalLog {
    fn open(path: Option<&str>) -> Result<Self, DriverError> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(|source| DriverError::Log { path: path.into(), source })?;
        Ok(Self(Some(Arc::new(file))))
    }

    fn write(&self, act: &Act, delivered: u32) -> io::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        let line = serde_json::json!({
            "at_ms": clock::wall().0,
            "command": act.command.to_string(),
            "item": act.item.as_str(),
            "quantity": act.quantity,
            "delivered": delivered,
        });
        file.as_ref().write_all(format!("{line}\n").as_bytes())?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act() -> Act {
        Act { command: CommandId([1; 16]), item: "water".parse().unwrap(), quantity: 3 }
    }

    fn process(script: &str, timeout_ms: u64) -> Driver {
        let argv = ["/bin/sh", "-c", script, "driver", "{item}", "{quantity}"].map(str::to_owned).to_vec();
        Driver::open(&DriverSettings::Process { argv, timeout_ms }, None, None).unwrap()
    }

    /// CP-9, CP-10, CP-11, CP-18: exit codes are outcomes, anything else is unknown.
    #[tokio::test]
    async fn exit_codes_are_outcomes() {
        let cases = [
            ("test $1 = water && test $2 = 3", HardwareResult::Done),
            ("exit 10", failed("program_failed")),
            ("echo moving; echo 2; exit 11", HardwareResult::DoneInPart { delivered: 2 }),
            ("echo two; exit 11", unknown("program_said_no_units")),
            ("exit 12", unknown("program_unknown")),
            ("exit 1", unknown("program_exit_code")),
            ("kill -9 $$", unknown("program_signalled")),
        ];
        for (script, expected) in cases {
            assert_eq!(process(script, 30_000).act(act()).await, expected, "{script}");
        }
        assert_eq!(process("sleep 1000", 1).act(act()).await, unknown("program_timed_out"));
        let missing = DriverSettings::Process { argv: vec!["/no/such".to_owned()], timeout_ms: 1 };
        let missing = Driver::open(&missing, None, None).unwrap();
        assert_eq!(missing.act(act()).await, failed("program_not_started"));
    }

    #[tokio::test]
    async fn simulated_acts_follow_the_list_and_are_logged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("physical.log");
        let settings =
            DriverSettings::Simulated { act_ms: 0, faults: vec!["hang".to_owned()], stock: [].into() };
        let list = "failed:jam, part:2,unknown,late:1";
        let driver = Driver::open(&settings, Some(list), path.to_str()).unwrap();
        let expected = [
            HardwareResult::Failed { code: "jam".parse().unwrap() },
            HardwareResult::DoneInPart { delivered: 2 },
            unknown("simulated"),
            HardwareResult::Done,
            HardwareResult::Done,
        ];
        for result in expected {
            assert_eq!(driver.clone().act(act()).await, result);
        }
        let log = std::fs::read_to_string(path).unwrap();
        let delivered: Vec<u64> = log
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["delivered"].as_u64().unwrap()
            })
            .collect();
        assert_eq!(delivered, [0, 2, 3, 3, 3]);
        assert!(Driver::open(&settings, Some("explode"), None).is_err());
        let file = directory.path().join("faults");
        std::fs::write(&file, "part:1\ndone\n").unwrap();
        let driver = Driver::open(&settings, Some(&format!("@{}", file.display())), None).unwrap();
        assert_eq!(driver.act(act()).await, HardwareResult::DoneInPart { delivered: 1 });
    }
}
