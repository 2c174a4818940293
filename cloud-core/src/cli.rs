//! The command line of `cloud-core`.

mod admin;
mod audit;
mod backup;
mod moment;
mod output;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Config, Flags, Loaded};
use crate::serve::{ServeError, Server};
use crate::telemetry;
use output::Table;

/// Exit code: it did not start, or the command failed.
const FAILED: u8 = 1;
/// Exit code: the disk failed while running (`EX_IOERR`). Restart it: it recovers from the journal.
const FAULT: u8 = 74;

const AFTER_HELP: &str = "\
Exit codes:
  0   ended by SIGTERM or SIGINT with everything synced; the command succeeded
  1   it did not start, or the command failed; the reason is on stderr
  2   the command line was not understood
  74  the journal could not be written or synced; nothing that depended on it left
      the process. Repair the disk and start again

First steps:
  cloud-core                                        start here and now, in ./farthing-data
  cloud-core admin tenants create acme --currency EUR
  cloud-core admin devices create acme/chip-7 --profile payment-chip
  cloud-core admin claim create acme/chip-7         a code with which the device enrols
  cloud-core admin payments show ID                 the whole story of a payment
  cloud-core audit verify                           nothing in the journal was changed";

/// The cloud core of Farthing: owns the money, embeds the MQTT broker.
///
/// Without a command it starts and serves until SIGTERM or SIGINT. When everything listens it prints where, one
/// address on each line, then `ready`. The same is in DATA_DIR/addresses.json. SIGHUP replaces certificates: their
/// files are read again, connections stay; files that can't be used are named in the log and change nothing.
///
/// Every setting can stand in DATA_DIR/farthing.toml, in the environment, or on the command line; later ones win.
/// `cloud-core config show` prints each with its origin.
#[derive(Debug, Parser)]
#[command(name = "cloud-core", version, after_help = AFTER_HELP, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start and serve (what happens without a command too).
    Serve {
        /// The wall clock is right, although it is more than 30 days after the last record of the journal.
        #[arg(long)]
        accept_clock: bool,
    },
    /// Play every flow with its failures and refunds: core, broker, bank and a small fleet as real processes.
    /// Exits 0 only if the books agree in the end. Needs no configuration, and leaves nothing behind.
    #[cfg(feature = "demo")]
    Demo {
        /// Keep everything in this directory, which must be empty or new; a temporary one if left out.
        #[arg(long, value_name = "DIR")]
        keep: Option<std::path::PathBuf>,
    },
    /// Speak with the running core of this data directory.
    Admin(admin::AdminArguments),
    /// The configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Read the journal, which is the audit trail: beside the running core, or without one.
    #[command(alias = "journal")]
    Audit {
        #[command(subcommand)]
        command: audit::AuditCommand,
    },
    Backup(backup::Backup),
    Restore(backup::Restore),
    /// Print completions for a shell, for instance `cloud-core completions bash > /etc/bash_completion.d/cloud-core`.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting with its value, origin and meaning.
    Show {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    #[cfg(feature = "demo")]
    if let Some(code) = run_as_child() {
        return code;
    }
    let cli = Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(error) if broker::cli::is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "cloud-core: {error:#}");
            let is_fault = matches!(error.downcast_ref::<ServeError>(), Some(ServeError::Fault(_)));
            ExitCode::from(if is_fault { FAULT } else { FAILED })
        }
    }
}

/// The demo starts this program again as the bank and as devices; it has no other binary beside it.
#[cfg(feature = "demo")]
fn run_as_child() -> Option<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().collect();
    match arguments.get(1)?.to_str()? {
        "__edge-agent" => Some(edge_agent::cli::main(arguments.into_iter().skip(1))),
        "__device-sim" => Some(device_sim::cli::run(arguments.into_iter().skip(1))),
        _ => None,
    }
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(Command::Completions { shell }) = self.command {
            clap_complete::generate(shell, &mut Cli::command(), "cloud-core", &mut io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        #[cfg(feature = "demo")]
        if let Some(Command::Demo { keep }) = self.command {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            return runtime.block_on(crate::demo::run(keep));
        }
        let variables =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let loaded = Config::load(&self.flags, variables)?;
        match self.command {
            None => serve(&loaded, false),
            Some(Command::Serve { accept_clock }) => serve(&loaded, accept_clock),
            Some(Command::Admin(arguments)) => arguments.run(&loaded.config),
            Some(Command::Config { command: ConfigCommand::Show { json } }) => show_config(&loaded, json),
            Some(Command::Audit { command }) => command.run(&loaded.config),
            Some(Command::Backup(backup)) => backup.run(&loaded.config),
            Some(Command::Restore(restore)) => restore.run(&loaded.config),
            // Both ended above.
            #[cfg(feature = "demo")]
            Some(Command::Demo { .. }) => Ok(ExitCode::SUCCESS),
            Some(Command::Completions { .. }) => Ok(ExitCode::SUCCESS),
        }
    }
}

fn serve(loaded: &Loaded, accept_clock: bool) -> anyhow::Result<ExitCode> {
    telemetry::start_log(&loaded.config)
        .map_err(|error| anyhow::anyhow!("the log can't be written: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve_until_told(loaded, accept_clock));
    // After a fault nothing is waited for.
    runtime.shutdown_background();
    result?;
    Ok(ExitCode::SUCCESS)
}

async fn serve_until_told(loaded: &Loaded, accept_clock: bool) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Thread)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Thread)?;
    // From the start on, or a SIGHUP during a long replay would end the process.
    let mut hangup = signal(SignalKind::hangup()).map_err(ServeError::Thread)?;
    let mut server = tokio::select! {
        started = Server::start(loaded, accept_clock) => started?,
        // A replay that is cut short is like a crash: the next start does it again.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    announce(&server).map_err(ServeError::Thread)?;
    loop {
        tokio::select! {
            fault = server.fault() => return Err(fault.into()),
            _ = hangup.recv() => reload_certificates(&server),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping: no new work is taken, what has arrived is finished");
    server.shutdown().await?;
    tracing::info!("stopped, everything is synced");
    Ok(())
}

fn reload_certificates(server: &Server) {
    match server.reload_certificates() {
        Ok(()) => tracing::info!("certificates were read again: new connections get the new ones"),
        Err(error) => tracing::warn!(%error, "certificates were not replaced, those in use stay"),
    }
}

fn announce(server: &Server) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for line in server.addresses().lines() {
        writeln!(stdout, "{line}")?;
    }
    writeln!(stdout, "ready")?;
    stdout.flush()
}

fn show_config(loaded: &Loaded, json: bool) -> anyhow::Result<ExitCode> {
    let shown = loaded.show();
    if json {
        output::print_json(&shown)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["SETTING", "VALUE", "ORIGIN", "MEANING"]);
    for line in shown {
        table.row([line.name.to_owned(), line.value, line.origin, line.help.to_owned()]);
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_flags_before_and_after_the_command() {
        for arguments in [
            &["cloud-core", "--listen-tcp", "127.0.0.1:0", "serve"][..],
            &["cloud-core", "serve", "--listen-tcp", "127.0.0.1:0"],
        ] {
            let cli = Cli::try_parse_from(arguments).unwrap();
            assert_eq!(cli.flags.values.get("listen_tcp").map(String::as_str), Some("127.0.0.1:0"));
        }
    }
}
