//! How soon an agent is connected after its start, and how much memory it takes then.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::Setting;
use super::report::{Report, Unit, median};
use crate::processes::{Core, Process, program, resident_kb, wait_until};

const BENCH: &str = "agent";
const DEVICE: &str = "bench/agent";
const TOKEN: &str = "token-of-the-agent";

pub(super) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let directory = setting.directory.join("agents");
    std::fs::create_dir_all(&directory)?;
    let core = Core::start(&directory)?;
    core.create_device(&DEVICE.parse()?, "vending-executor", TOKEN)?;
    let (mut first_ms, mut again_ms, mut resident) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..setting.rounds {
        let data = directory.join(format!("agent-{round}"));
        std::fs::create_dir_all(&data)?;
        first_ms.push(start(&core, &data)?.0);
        let (ready_ms, process) = start(&core, &data)?;
        again_ms.push(ready_ms);
        // What the first exchange needed is settled by then.
        std::thread::sleep(Duration::from_secs(1));
        resident.push(resident_kb(&process)?);
    }
    report.add(BENCH, "first start to connected", median(first_ms), Unit::Milliseconds, "makes its journal");
    report.add(BENCH, "later start to connected", median(again_ms), Unit::Milliseconds, "goal 300 ms");
    report.add(BENCH, "resident memory", median(resident), Unit::Kilobytes, "goal 12000 kB");
    Ok(())
}

/// Milliseconds until its local socket says that it is connected.
fn start(core: &Core, data: &Path) -> anyhow::Result<(u64, Process)> {
    let mut command = program("edge-agent")?;
    command.args([
        "--log",
        "warn",
        "run",
        "--profile",
        "vending-executor",
        "--principal",
        DEVICE,
        "--broker",
    ]);
    command.arg(core.address.to_string()).arg("--data").arg(data).env("FARTHING_TOKEN", TOKEN);
    command.stdout(Stdio::null()).stderr(std::fs::File::create(data.join("log"))?);
    let process = Process(command.spawn()?);
    let socket = data.join("agent.sock");
    let waited = wait_until("the agent", || is_connected(&socket).unwrap_or(false))?;
    Ok((u64::try_from(waited.as_millis())?, process))
}

fn is_connected(socket: &Path) -> anyhow::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"{\"request\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: serde_json::Value = serde_json::from_str(&line)?;
    Ok(answer["Ok"]["connected"] == true)
}
