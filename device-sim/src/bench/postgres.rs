//! The same transfers in PostgreSQL: one function call and one durable transaction each, from 64 connections. A fresh
//! cluster with its own settings (`fsync` and `synchronous_commit` are on), removed afterwards.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::Setting;
use super::report::{Report, Unit, median};
use crate::processes::{Process, wait_until};

const BENCH: &str = "ledger";
const NAME: &str = "PostgreSQL, a transaction for each transfer";
/// `nobody`: the server refuses to run as root.
const NOBODY: u32 = 65_534;
const SECONDS: &str = "5";

/// Accounts are locked in order of id, so that no two transfers wait for each other.
const SCHEMA: &str = "
CREATE TABLE accounts (id bigint PRIMARY KEY, debits bigint NOT NULL, credits bigint NOT NULL);
INSERT INTO accounts SELECT number, 0, 0 FROM generate_series(1, 100000) AS number;
CREATE TABLE transfers (id uuid PRIMARY KEY, debit bigint NOT NULL, credit bigint NOT NULL, amount bigint NOT NULL);
CREATE FUNCTION transfer(from_id bigint, to_id bigint, minor bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM accounts WHERE id IN (from_id, to_id) ORDER BY id FOR UPDATE;
    UPDATE accounts SET debits = debits + minor WHERE id = from_id;
    UPDATE accounts SET credits = credits + minor WHERE id = to_id;
    INSERT INTO transfers VALUES (gen_random_uuid(), from_id, to_id, minor);
END $$;
VACUUM ANALYZE accounts;
";
const TRANSFER: &str = "\\set debit random(1, 100000)
\\set credit random(1, 100000)
SELECT transfer(:debit, :credit, 150);
";

/// Transfers per second, or a note why there is none.
pub(super) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let programs = (program("initdb"), program("postgres"), program("psql"), program("pgbench"));
    let (Some(initdb), Some(postgres), Some(psql), Some(pgbench)) = programs else {
        report.add(BENCH, NAME, 0, Unit::Count, "not installed: apt install postgresql");
        return Ok(());
    };
    let Some(server) = Server::start(setting, &initdb, &postgres)? else {
        let note = "no comparison: it refuses to run as root, and nobody else may enter this directory (--directory)";
        report.add(BENCH, NAME, 0, Unit::Count, note);
        return Ok(());
    };
    let schema = server.directory.join("schema.sql");
    fs::write(&schema, SCHEMA)?;
    let made = server.client(&psql).args(["-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&schema).output()?;
    ensure!(made.status.success(), "psql: {}", String::from_utf8_lossy(&made.stderr));
    let script = server.directory.join("transfer.sql");
    fs::write(&script, TRANSFER)?;
    let mut rates = Vec::new();
    for _ in 0..setting.rounds {
        let mut bench = server.client(&pgbench);
        bench.args(["-n", "-M", "prepared", "-c", "64", "-j", "2", "-T", SECONDS, "-f"]).arg(&script);
        let output = bench.output().context("pgbench")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
        rates.push(transactions_per_second(&text).with_context(|| format!("no rate in: {text}"))?);
    }
    let note = "64 connections, one function call each, fsync on";
    report.add(BENCH, NAME, median(rates), Unit::PerSecond, note);
    Ok(())
}

/// A cluster of its own; ends with this value.
struct Server {
    process: Process,
    directory: PathBuf,
    port: u16,
}

impl Server {
    /// None where nobody but root may enter the directory.
    fn start(setting: &Setting, initdb: &Path, postgres: &Path) -> anyhow::Result<Option<Self>> {
        let directory = setting.directory.join("postgres");
        fs::create_dir_all(&directory)?;
        let as_nobody = geteuid().is_root();
        if as_nobody {
            chown(&directory, Some(NOBODY), Some(NOBODY))?;
        }
        let of = |program: &Path| {
            let mut command = Command::new(program);
            if as_nobody {
                command.uid(NOBODY).gid(NOBODY);
            }
            command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let data = directory.join("data");
        let mut make = of(initdb);
        make.args(["-A", "trust", "-U", "bench", "-D"]).arg(&data);
        let made = make.stderr(Stdio::null()).status();
        if !made.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut serve = of(postgres);
        serve.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k", "", "-D"]).arg(&data);
        let process = Process(serve.stderr(File::create(directory.join("log"))?).spawn()?);
        let server = Self { process, directory, port };
        wait_until("PostgreSQL", || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(Some(server))
    }

    fn client(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "bench", "-d", "postgres"]);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Server {
    /// It ends its own processes first; all of them live in the directory that is about to be removed.
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.process.0.id().cast_signed()) {
            let _ = kill_process(pid, Signal::QUIT);
            let _ = self.process.0.wait();
        }
    }
}

/// In the path, or where Debian keeps those of each version; the newest.
fn program(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let newest_first = folders.into_iter().rev().map(|(_, folder)| folder);
    newest_first
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// From `tps = 6905.123 (without initial connection time)`, without the fraction.
fn transactions_per_second(text: &str) -> Option<u64> {
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    rate.split(['.', ' ']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read() {
        let text = "latency average = 9 ms\ntps = 6905.123 (without initial connection time)\n";
        assert_eq!(transactions_per_second(text), Some(6905));
        assert_eq!(transactions_per_second("tps = 12 (x)"), Some(12));
        assert_eq!(transactions_per_second("nothing"), None);
    }
}
