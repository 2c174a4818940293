//! The command line. Every failure names the fix; `--json` gives the same for programs.

mod certificate;
mod check;
mod code;
mod device;
mod failure;
mod prompt;
mod run;
mod scan;
mod wish;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use schemas::ids::{IdempotencyKey, ItemId, MessageId, PaymentId, Principal, PrincipalId, WishId};
use schemas::message::ChildAnswer;
use schemas::money::Money;
use schemas::topic::Kind;
use serde_json::Value;

use crate::config::Layer;
use crate::{log, message};
pub(crate) use failure::Failure;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the data directory is in use by another agent; 4 configuration or \
enrolment is missing or wrong; 5 the agent or the cloud was not reached; 6 refused by the agent or the cloud; \
7 the journal or the disk failed.";

/// The agent of one device: enrol it, run it, look after it.
#[derive(Debug, Parser)]
#[command(name = "edge-agent", version, after_help = EXIT_CODES)]
struct Arguments {
    /// Answers and failures as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// What goes to the log on stderr: error, warn, info, debug, trace.
    #[arg(long, global = true, env = "FARTHING_LOG", default_value = "info", value_name = "LEVEL")]
    log: tracing::Level,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Args)]
struct DataArguments {
    /// The device's data directory: identity, journal, agent.toml, local socket.
    #[arg(long, env = "FARTHING_DATA", default_value = "/var/lib/farthing-agent", value_name = "DIR")]
    data: PathBuf,
}

#[derive(Debug, Clone, Args)]
struct RunArguments {
    #[command(flatten)]
    data: DataArguments,
    /// payment-chip, vending-executor, piggy-bank, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// The cloud's MQTT address, HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
    /// Gets one JSON line for each physical act, synced.
    #[arg(long, value_name = "FILE")]
    physical_log: Option<String>,
    /// Outcomes of a simulated driver, in turn, or @FILE: done, failed:CODE, part:UNITS, unknown, hang, late:MS.
    #[arg(long, value_name = "LIST")]
    faults: Option<String>,
    /// What shows prompts, in place of the profile's display: screen (this terminal), none, or auto (this terminal
    /// if it is one).
    #[arg(long, value_name = "DISPLAY", value_parser = ["auto", "screen", "none"])]
    display: Option<String>,
    /// Without enrolment, on loopback only: who this is. The token is read from FARTHING_TOKEN or agent.toml.
    #[arg(long, value_name = "TENANT/NAME")]
    principal: Option<Principal>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Get a certificate with a claim code. May be repeated until it succeeds.
    Enroll {
        #[command(flatten)]
        data: DataArguments,
        /// As the operator sent it: FT1-...
        #[arg(long, value_name = "CODE")]
        claim: String,
        /// The platform's enrolment address.
        #[arg(long, value_name = "HOST:PORT")]
        server: String,
        /// Who the device will be.
        #[arg(long, value_name = "TENANT/NAME")]
        device: Principal,
    },
    /// Run until SIGTERM. Reads DIR/agent.toml, then FARTHING_* variables, then flags.
    Run(RunArguments),
    /// What the agent is doing and what waits.
    Status(DataArguments),
    /// Look at identity, clock, journal and connection; each failure names the fix.
    Check(RunArguments),
    /// Ask the running chip for a payment information, as text and QR code.
    PayInfo {
        #[command(flatten)]
        data: DataArguments,
        /// What is bought.
        #[arg(long)]
        item: ItemId,
        /// How many units.
        #[arg(long, default_value_t = 1)]
        quantity: u32,
        /// How long it may be paid, in seconds; the profile's default if left out.
        #[arg(long, value_name = "SECONDS")]
        valid_s: Option<u32>,
    },
    /// Tell the running agent the machine's conditions, whole.
    Conditions {
        #[command(flatten)]
        data: DataArguments,
        /// The housing is open or a seal is broken.
        #[arg(long)]
        tampered: bool,
        /// The executor cannot act.
        #[arg(long)]
        executor_fault: bool,
        /// Units left of an item; may be repeated. Items that are not named are taken as available.
        #[arg(long, value_name = "ITEM=UNITS", value_parser = parse_stock)]
        stock: Vec<(ItemId, u32)>,
    },
    /// What a piggy bank asks its child, and the child's answer.
    Prompt {
        #[command(subcommand)]
        command: PromptCommand,
    },
    /// What the child at a piggy bank wishes for.
    Wish {
        #[command(subcommand)]
        command: WishCommand,
    },
    /// With what a child pays at a terminal: a QR code, or a token.
    Code {
        #[command(subcommand)]
        command: CodeCommand,
    },
    /// Hand in a code that was scanned, as the terminal of a place; no agent runs for that. The wall clock has to be right.
    Scan(ScanArguments),
    /// Begin or end set-up mode: meanwhile no payment information, no act and no prompt.
    SetUp {
        #[command(flatten)]
        data: DataArguments,
        /// Whether it is on.
        mode: Switch,
    },
    /// The device's public key, made now if there is none.
    Key(DataArguments),
    /// The device's certificate.
    Certificate {
        #[command(subcommand)]
        command: CertificateCommand,
    },
    /// Configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Write and read messages by hand, for use with mosquitto_pub -s and mosquitto_sub.
    Message {
        #[command(subcommand)]
        command: MessageCommand,
    },
    /// Completions for a shell, on stdout.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum PromptCommand {
    /// What is asked now, and what became of the last ones.
    List(DataArguments),
    /// Pay. Only the first answer counts.
    Confirm(AnswerArguments),
    /// Do not pay. Only the first answer counts.
    Reject(AnswerArguments),
}

#[derive(Debug, Subcommand)]
enum WishCommand {
    /// Tell a guardian a wish. Also without a connection: it is kept, and sent when there is one.
    Send {
        #[command(flatten)]
        data: DataArguments,
        /// The guardian.
        #[arg(long, value_name = "NAME")]
        to: PrincipalId,
        /// In the child's words: a purchase word (`buy`, `I want a ...`, 买) puts it on the wish list.
        text: String,
    },
    /// All wishes, and what has become of them as the cloud last told it.
    List(DataArguments),
    /// Take a wish back.
    Withdraw {
        #[command(flatten)]
        data: DataArguments,
        /// From `wish list`.
        wish: WishId,
    },
}

#[derive(Debug, Args)]
struct AnswerArguments {
    #[command(flatten)]
    data: DataArguments,
    /// Which payment; may be left out if only one is asked about.
    payment: Option<PaymentId>,
}

#[derive(Debug, Subcommand)]
enum CodeCommand {
    /// With what can be paid, and why not now.
    List(DataArguments),
    /// The child asks for a code: as QR code, or why not.
    Show {
        #[command(flatten)]
        code: AnswerArguments,
        /// Writes a picture instead, for this user only.
        #[arg(long, value_name = "FILE")]
        png: Option<PathBuf>,
        /// The same as SVG.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// The child pays with a token: its text, for a terminal that does not scan.
    Present(AnswerArguments),
}

#[derive(Debug, Args)]
struct ScanArguments {
    #[command(flatten)]
    data: DataArguments,
    /// A PNG picture with the code.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    image: Option<PathBuf>,
    /// The code's text; without a picture and a text it is read from stdin.
    #[arg(long)]
    text: Option<String>,
    /// What the terminal asks for; whatever the code says if left out.
    #[arg(long)]
    amount: Option<Money>,
    /// To hand in a scan again that got no answer: its key.
    #[arg(long, value_name = "HEX", requires = "scanned_at")]
    key: Option<IdempotencyKey>,
    /// When that scan was made, in milliseconds since 1970.
    #[arg(long, value_name = "MS", requires = "key")]
    scanned_at: Option<u64>,
    /// How long to wait for the answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    wait_s: u32,
    /// The cloud's MQTT address, HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
    /// With a token, on loopback only: who this is. The token is read from FARTHING_TOKEN or agent.toml.
    #[arg(long, value_name = "TENANT/NAME")]
    principal: Option<Principal>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Each value with its origin.
    Show(RunArguments),
}

#[derive(Debug, Subcommand)]
enum CertificateCommand {
    /// Whose it is, from when until when it is valid, and when the running agent renews it.
    Show(DataArguments),
    /// Renew it now: get the next one, test a connection with it, then replace. The running agent does it by itself at
    /// two thirds of the certificate's life.
    Renew {
        #[command(flatten)]
        data: DataArguments,
        /// Where devices enrol, HOST:PORT; where this one did, if left out.
        #[arg(long, value_name = "HOST:PORT")]
        server: Option<String>,
        /// The cloud's MQTT listener, HOST:PORT, for the test.
        #[arg(long, value_name = "HOST:PORT")]
        broker: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DirectionArgument {
    Up,
    Down,
}

#[derive(Debug, Subcommand)]
enum MessageCommand {
    /// Make an Ed25519 key for a person's terminal (file mode 0600) and print its public half.
    Keygen {
        /// A file that does not exist yet.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// JSON (stdin or --body) to the CBOR of `up/KIND`, on stdout. `v`, `id`, and for requests `key` and
    /// `not_after`, are filled in when they are missing.
    Encode {
        /// Last level of the topic, for instance payment-request.
        kind: Kind,
        /// The body, or a whole message `{ v, id, key, not_after, body }`.
        #[arg(long, value_name = "JSON")]
        body: Option<String>,
        /// Message id.
        #[arg(long, value_name = "HEX")]
        id: Option<MessageId>,
        /// Idempotency key of a request: use the same one to try again.
        #[arg(long, value_name = "HEX")]
        key: Option<IdempotencyKey>,
    },
    /// CBOR on stdin to JSON.
    Decode {
        /// Last level of the topic.
        kind: Kind,
        /// Which way it goes.
        #[arg(long, default_value = "down")]
        direction: DirectionArgument,
    },
    /// Consent to a payment: the CBOR of `down/payment-verification` on stdin to that of `up/payment-verification`.
    Sign {
        /// From `message keygen`.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Who consents.
        #[arg(long, value_name = "TENANT/NAME")]
        payer: Principal,
    },
}

/// Runs one command. The first argument is the program's name.
pub fn main<I, T>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help goes to stdout and is no failure; clap knows.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let log_file = match &arguments.command {
        Command::Run(run) => run::log_file(&run.data.data, run.clone().into()),
        _ => None,
    };
    log::start(arguments.log, log_file.as_deref());
    let json = arguments.json;
    match execute(arguments.command, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

fn execute(command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Enroll { data, claim, server, device } => {
            device::enroll(&data.data, &claim, &server, &device, json)
        }
        Command::Run(arguments) => run::run(&arguments.data.data.clone(), arguments.into()),
        Command::Status(data) => device::status(&data.data, json),
        Command::Check(arguments) => check::check(&arguments.data.data.clone(), arguments.into(), json),
        Command::PayInfo { data, item, quantity, valid_s } => {
            device::pay_info(&data.data, item, quantity, valid_s, json)
        }
        Command::Conditions { data, tampered, executor_fault, stock } => {
            let stock = stock.into_iter().collect();
            let conditions = edge_agent_device::Conditions { tampered, executor_fault, stock };
            device::conditions(&data.data, conditions, json)
        }
        Command::Prompt { command } => match command {
            PromptCommand::List(data) => prompt::list(&data.data, json),
            PromptCommand::Confirm(one) => {
                prompt::answer(&one.data.data, one.payment, ChildAnswer::Confirm, json)
            }
            PromptCommand::Reject(one) => {
                prompt::answer(&one.data.data, one.payment, ChildAnswer::Reject, json)
            }
        },
        Command::Wish { command } => match command {
            WishCommand::Send { data, to, text } => wish::send(&data.data, to, text, json),
            WishCommand::List(data) => wish::list(&data.data, json),
            WishCommand::Withdraw { data, wish } => wish::withdraw(&data.data, wish, json),
        },
        Command::Code { command } => match command {
            CodeCommand::List(data) => code::list(&data.data, json),
            CodeCommand::Show { code: one, png, svg } => {
                code::show(&one.data.data, one.payment, png, svg, json)
            }
            CodeCommand::Present(one) => code::present(&one.data.data, one.payment, json),
        },
        Command::Scan(arguments) => execute_scan(arguments, json),
        Command::SetUp { data, mode } => device::set_up(&data.data, matches!(mode, Switch::On), json),
        Command::Key(data) => device::key(&data.data, json),
        Command::Certificate { command: CertificateCommand::Show(data) } => {
            certificate::show(&data.data, json)
        }
        Command::Certificate { command: CertificateCommand::Renew { data, server, broker } } => {
            certificate::renew(&data.data, Layer { server, broker, ..Layer::default() }, json)
        }
        Command::Config { command: ConfigCommand::Show(arguments) } => {
            device::show_config(&arguments.data.data.clone(), arguments.into(), json)
        }
        Command::Message { command } => execute_message(command, json),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "edge-agent", &mut io::stdout());
            Ok(())
        }
    }
}

fn execute_scan(arguments: ScanArguments, json: bool) -> Result<(), Failure> {
    let ScanArguments { data, image, text, amount, key, scanned_at, wait_s, broker, principal } = arguments;
    let flags = Layer { broker, principal, ..Layer::default() };
    let scan = scan::Scan { image, text, amount, again: key.zip(scanned_at), wait_s };
    scan::scan(&data.data, flags, &scan, json)
}

fn execute_message(command: MessageCommand, json: bool) -> Result<(), Failure> {
    match command {
        MessageCommand::Keygen { out } => {
            let public = message::keygen(&out)?;
            show(json, &serde_json::json!({ "public_key": public.to_string() }), || public.to_string())
        }
        MessageCommand::Encode { kind, body, id, key } => {
            let text = match body {
                Some(body) => body.into_bytes(),
                None => message::read_stdin()?,
            };
            write_bytes(&message::encode(kind, &text, id, key)?)
        }
        MessageCommand::Decode { kind, direction } => {
            let payload = message::read_stdin()?;
            let decoded = message::decode(kind, matches!(direction, DirectionArgument::Up), &payload)?;
            write_bytes(format!("{decoded}\n").as_bytes())
        }
        MessageCommand::Sign { key, payer } => {
            write_bytes(&message::sign(&key, payer, &message::read_stdin()?)?)
        }
    }
}

impl From<RunArguments> for Layer {
    fn from(arguments: RunArguments) -> Self {
        Layer {
            broker: arguments.broker,
            profile: arguments.profile,
            physical_log: arguments.physical_log,
            faults: arguments.faults,
            display: arguments.display,
            principal: arguments.principal,
            ..Layer::default()
        }
    }
}

fn parse_stock(text: &str) -> Result<(ItemId, u32), String> {
    let (item, units) = text.split_once('=').ok_or("write ITEM=UNITS, for instance water=12")?;
    let item = item.parse().map_err(|error: schemas::ids::IdError| error.to_string())?;
    Ok((item, units.parse().map_err(|_| "units are a whole number")?))
}

/// One answer on stdout: JSON for programs, text for people.
fn show(json: bool, value: &Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let line = if json { value.to_string() } else { text() };
    write_bytes(format!("{}\n", line.trim_end()).as_bytes())
}

fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::failed("stdout_closed", format!("stdout can't be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn nothing_forges() {
        let help = format!("{:?}", Arguments::command());
        assert!(!help.contains("forge"));
    }
}
