//! `cloud-core admin ...`: what operators do, each command one line on the admin socket.

#[cfg(feature = "demo")]
mod enroll;
mod show;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{ArgGroup, Args, Subcommand};
use cloud_core_flows::admin::{AdminCommand, BankKind, Deadlines, OnUnknown, Resolution};
use cloud_core_flows::registry::RESERVED_TENANT;
use cloud_core_flows::right::OperatorRole;
use schemas::ids::{ItemId, MerchantId, PaymentId, Principal, PrincipalId, TenantId};
use schemas::money::{Currency, Money};
use schemas::signed::PublicKey;

use crate::admin::client::AdminClient;
use crate::admin::{Request, ShellCommand};
use crate::cli::moment::Span;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct AdminArguments {
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// A core elsewhere: HOST:PORT of its `listen_admin` (for `enroll`: of its `listen_enrolment`).
    #[arg(long, global = true, value_name = "HOST:PORT", requires = "identity")]
    server: Option<String>,
    /// The directory with the operator's key and certificate, as `enroll` writes it.
    #[arg(long, global = true, value_name = "DIR")]
    identity: Option<PathBuf>,
    #[command(subcommand)]
    command: AdminSubcommand,
}

impl AdminArguments {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        #[cfg(feature = "demo")]
        if let AdminSubcommand::Enroll { claim, operator } = &self.command {
            return enroll::run(claim, operator, self.server.as_deref(), self.identity.as_deref(), self.json);
        }
        let client = match (&self.server, &self.identity) {
            (Some(server), Some(identity)) => AdminClient::remote(server, identity)?,
            _ => AdminClient::new(config.admin_socket()),
        };
        match self.command.request()? {
            Request::Core(command) => show::core(&client.core(command)?, self.json)?,
            Request::Shell(command) => show::shell(&client.shell(command)?, self.json)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Creating what exists with the same content is a success, so each of these may be repeated.
#[derive(Debug, Subcommand)]
enum AdminSubcommand {
    /// Tenants: companies with books, a currency and policies of their own.
    #[command(subcommand)]
    Tenants(Tenants),
    /// Merchants of a tenant.
    #[command(subcommand)]
    Merchants(Merchants),
    /// Devices: payment chips, executors, displays.
    #[command(subcommand)]
    Devices(Devices),
    /// What a payment chip sells, and who delivers it.
    #[command(subcommand)]
    Chips(Chips),
    /// People: payers, and those at merchants' terminals.
    #[command(subcommand)]
    People(People),
    /// Accounts of our own ledger.
    #[command(subcommand)]
    Accounts(Accounts),
    /// Operators who administer from elsewhere, each with a certificate and a role.
    #[command(subcommand)]
    Operators(Operators),
    /// On an operator's own machine: get the certificate with a claim code, into --identity DIR, from --server.
    #[cfg(feature = "demo")]
    Enroll {
        /// The claim code, FT1-...
        #[arg(long, value_name = "CODE")]
        claim: String,
        /// The operator's name.
        #[arg(long, value_name = "NAME")]
        operator: PrincipalId,
    },
    /// One-time claim codes, with which devices enrol.
    #[command(subcommand)]
    Claim(Claim),
    /// Tokens, with which people's terminals connect.
    #[command(subcommand)]
    Token(Token),
    /// Payments.
    #[command(subcommand)]
    Payments(Payments),
    /// The queue of what needs an operator.
    #[command(subcommand)]
    Exceptions(Exceptions),
    /// Whether the books agree with themselves, and what each bank must show.
    Books,
}

#[derive(Debug, Subcommand)]
enum Tenants {
    /// All tenants.
    List,
    /// A new tenant.
    Create {
        /// Its name: 1 to 32 of a-z, 0-9 and -.
        tenant: TenantId,
        /// Its only currency, ISO 4217.
        #[arg(long)]
        currency: Currency,
        /// Base address of its bank; without it accounts are in our own ledger.
        #[arg(long, value_name = "URL", requires = "bank_holding")]
        bank_url: Option<String>,
        /// The tenant's holding account there, where paid money waits for delivery.
        #[arg(long, value_name = "ACCOUNT", requires = "bank_url")]
        bank_holding: Option<String>,
        /// When nobody knows whether the executor delivered: give the money back, or hold it for the operator.
        #[arg(long, value_parser = ["refund", "hold"], default_value = "refund")]
        on_unknown: String,
        /// A deadline in milliseconds, for instance `start_ms=30000`; may be repeated. Names and defaults:
        /// health_check_ms 10000, verification_ms 120000, bank_ms 60000, presence_ms 300000, start_ms 20000,
        /// report_ms 15000, command_status_ms 10000, reconnect_ms 30000, bank_retry_ms 1000,
        /// retention_ms 604800000.
        #[arg(long = "deadline", value_name = "NAME=MS")]
        deadlines: Vec<Pair<String, u64>>,
    },
}

#[derive(Debug, Subcommand)]
enum Merchants {
    /// All merchants.
    List,
    /// A new merchant.
    Create {
        /// TENANT/NAME
        merchant: Scoped<MerchantId>,
        /// The payee as payers see it.
        #[arg(long)]
        title: String,
        /// The principal of its terminal, which is told of its payments and may refund them.
        #[arg(long, value_name = "NAME")]
        terminal: Option<PrincipalId>,
    },
}

#[derive(Debug, Subcommand)]
enum Devices {
    /// All devices.
    List,
    /// A new device, not yet enrolled.
    Create {
        /// TENANT/NAME
        device: Principal,
        /// Its profile, for instance `payment-chip` or `vending-executor`.
        #[arg(long)]
        profile: String,
        /// For executors: the longest that one act takes, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 0)]
        longest_act_ms: u64,
    },
    /// End its standing at once: its session is closed, its open payments are settled as unknown.
    Revoke {
        /// TENANT/NAME
        device: Principal,
    },
}

#[derive(Debug, Subcommand)]
enum Chips {
    /// Tie a chip to the merchant it sells for and the executors that deliver.
    Bind {
        /// TENANT/NAME of the chip.
        chip: Principal,
        /// For whom it sells.
        #[arg(long, value_name = "NAME")]
        merchant: MerchantId,
        /// Who delivers; without it a payment is complete when the bank has paid.
        #[arg(long, value_name = "NAME")]
        executor: Option<PrincipalId>,
        /// Who delivers one particular item; may be repeated.
        #[arg(long = "item", value_name = "ITEM=NAME")]
        items: Vec<Pair<ItemId, PrincipalId>>,
    },
}

#[derive(Debug, Subcommand)]
enum People {
    /// All people.
    List,
    /// A new person.
    Create {
        /// TENANT/NAME
        person: Principal,
        /// The key of their verifications, Ed25519, 64 hexadecimal digits; none for terminals that never pay.
        #[arg(long, value_name = "HEX")]
        public_key: Option<PublicKey>,
        /// Their account at the tenant's bank.
        #[arg(long, value_name = "ACCOUNT")]
        bank_account: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Accounts {
    /// All accounts with their balances.
    List,
    /// Pay money into a person's account.
    Deposit {
        /// TENANT/NAME of the person.
        person: Principal,
        /// How much, for instance "12.50 EUR".
        amount: Money,
        /// The same reference is booked once, however often it is sent.
        #[arg(long)]
        reference: String,
    },
}

#[derive(Debug, Subcommand)]
enum Operators {
    /// A new operator.
    Create {
        /// Its name.
        operator: PrincipalId,
        /// auditor: looks at everything; operator: also claims, tokens, revocations and the exceptions queue;
        /// tenant-admin: everything within one tenant, and nothing of others.
        #[arg(long, value_parser = role)]
        role: OperatorRole,
        /// The tenant of a tenant-admin.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantId>,
    },
    /// A code with which the operator enrols once (`admin enroll`). It is printed here and nowhere else.
    Claim {
        /// Its name.
        operator: PrincipalId,
        /// How long it is valid: a number with s, m, h or d.
        #[arg(long, value_name = "TIME", default_value = "24h")]
        valid: Span,
    },
    /// End its rights at once.
    Revoke {
        /// Its name.
        operator: PrincipalId,
    },
}

fn role(text: &str) -> Result<OperatorRole, String> {
    serde_json::from_value(text.into()).map_err(|_| "write auditor, operator or tenant-admin".to_owned())
}

/// Operators are principals of the platform's own tenant.
fn principal_of(operator: PrincipalId) -> anyhow::Result<Principal> {
    Ok(Principal { tenant: RESERVED_TENANT.parse()?, id: operator })
}

#[derive(Debug, Subcommand)]
enum Claim {
    /// A code with which one device can enrol once. It is printed here and nowhere else.
    Create {
        /// TENANT/NAME of the device.
        device: Principal,
        /// How long it is valid: a number with s, m, h or d.
        #[arg(long, value_name = "TIME", default_value = "24h")]
        valid: Span,
    },
}

#[derive(Debug, Subcommand)]
enum Token {
    /// A token for one principal, which replaces an earlier one. It is printed here and nowhere else.
    ///
    /// MQTT: user name = principal, password = token.
    Create {
        /// TENANT/NAME
        principal: Principal,
        /// How long it is valid: a number with s, m, h or d.
        #[arg(long, value_name = "TIME", default_value = "12h")]
        valid: Span,
    },
    /// A new token beside the one there is, which stays good for the overlap. The new one is printed here and nowhere
    /// else.
    Rotate {
        /// TENANT/NAME
        principal: Principal,
        /// How long the new one is valid: a number with s, m, h or d.
        #[arg(long, value_name = "TIME", default_value = "12h")]
        valid: Span,
        /// How long the former one stays good.
        #[arg(long, value_name = "TIME", default_value = "1h")]
        overlap: Span,
    },
}

#[derive(Debug, Subcommand)]
enum Payments {
    /// Payments in memory, newest first.
    List {
        /// Only those that are not at rest.
        #[arg(long)]
        open: bool,
    },
    /// The whole story of one payment, from the journal.
    Show {
        /// Its 32 hexadecimal digits.
        payment: PaymentId,
    },
    /// Resolve what is in the exceptions queue for one payment.
    #[command(group = ArgGroup::new("resolution").required(true))]
    Resolve {
        /// Its 32 hexadecimal digits.
        payment: PaymentId,
        /// Give (or try again to give) the money back.
        #[arg(long, group = "resolution")]
        refund: bool,
        /// Take it as delivered: the merchant is paid, or what already happened stands.
        #[arg(long, group = "resolution")]
        accept: bool,
        /// The money can't be given back: it goes to the tenant's suspense account.
        #[arg(long, group = "resolution")]
        write_off: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Exceptions {
    /// What is in the queue, and what can be done about each.
    List,
}

impl AdminSubcommand {
    fn request(self) -> anyhow::Result<Request> {
        Ok(Request::Core(match self {
            Self::Tenants(tenants) => tenants.command()?,
            Self::Merchants(Merchants::List) => AdminCommand::ListMerchants,
            Self::Merchants(Merchants::Create { merchant, title, terminal }) => {
                AdminCommand::CreateMerchant {
                    tenant: merchant.tenant,
                    merchant: merchant.name,
                    title,
                    terminal,
                }
            }
            Self::Devices(Devices::List) => AdminCommand::ListDevices,
            Self::Devices(Devices::Create { device, profile, longest_act_ms }) => {
                AdminCommand::CreateDevice { device, profile, longest_act_ms }
            }
            Self::Devices(Devices::Revoke { device }) => AdminCommand::RevokeDevice { device },
            Self::Chips(Chips::Bind { chip, merchant, executor, items }) => {
                let items: BTreeMap<_, _> = items.into_iter().map(|pair| (pair.left, pair.right)).collect();
                AdminCommand::BindChip { chip, merchant, executor, items }
            }
            Self::People(People::List) => AdminCommand::ListPersons,
            Self::People(People::Create { person, public_key, bank_account }) => {
                AdminCommand::CreatePerson { person, public_key, bank_account }
            }
            Self::Accounts(Accounts::List) => AdminCommand::ListAccounts,
            Self::Accounts(Accounts::Deposit { person, amount, reference }) => {
                AdminCommand::Deposit { person, amount, reference }
            }
            Self::Operators(Operators::Create { operator, role, tenant }) => {
                AdminCommand::CreateOperator { operator, role, tenant }
            }
            Self::Operators(Operators::Claim { operator, valid }) => {
                let device = principal_of(operator)?;
                return Ok(Request::Shell(ShellCommand::IssueClaim { device, valid_ms: valid.0 }));
            }
            Self::Operators(Operators::Revoke { operator }) => {
                AdminCommand::RevokeDevice { device: principal_of(operator)? }
            }
            #[cfg(feature = "demo")]
            Self::Enroll { .. } => anyhow::bail!("enrolling is not a command to a running core"),
            Self::Claim(Claim::Create { device, valid }) => {
                return Ok(Request::Shell(ShellCommand::IssueClaim { device, valid_ms: valid.0 }));
            }
            Self::Token(Token::Create { principal, valid }) => {
                return Ok(Request::Shell(ShellCommand::IssueToken { principal, valid_ms: valid.0 }));
            }
            Self::Token(Token::Rotate { principal, valid, overlap }) => {
                let (valid_ms, overlap_ms) = (valid.0, overlap.0);
                return Ok(Request::Shell(ShellCommand::RenewToken { principal, valid_ms, overlap_ms }));
            }
            Self::Payments(Payments::List { open }) => AdminCommand::ListPayments { open_only: open },
            Self::Payments(Payments::Show { payment }) => {
                return Ok(Request::Shell(ShellCommand::ShowPayment { payment }));
            }
            Self::Payments(Payments::Resolve { payment, refund, accept, .. }) => {
                let resolution = match (refund, accept) {
                    (true, _) => Resolution::Refund,
                    (_, true) => Resolution::Accept,
                    _ => Resolution::WriteOff,
                };
                AdminCommand::ResolvePayment { payment, resolution }
            }
            Self::Exceptions(Exceptions::List) => AdminCommand::ListExceptions,
            Self::Books => AdminCommand::Books,
        }))
    }
}

impl Tenants {
    fn command(self) -> anyhow::Result<AdminCommand> {
        let Self::Create { tenant, currency, bank_url, bank_holding, on_unknown, deadlines } = self else {
            return Ok(AdminCommand::ListTenants);
        };
        let bank = match (bank_url, bank_holding) {
            (Some(url), Some(holding)) => BankKind::Http { url, holding },
            _ => BankKind::Internal,
        };
        let on_unknown = if on_unknown == "hold" { OnUnknown::Hold } else { OnUnknown::Refund };
        // Unknown names are refused by the type, which lists those there are.
        let named: serde_json::Map<_, _> =
            deadlines.into_iter().map(|pair| (pair.left, pair.right.into())).collect();
        let deadlines: Deadlines =
            serde_json::from_value(named.into()).map_err(|error| anyhow::anyhow!("--deadline: {error}"))?;
        Ok(AdminCommand::CreateTenant { tenant, currency, bank, on_unknown, deadlines })
    }
}

/// `TENANT/NAME`
#[derive(Debug, Clone)]
struct Scoped<T> {
    tenant: TenantId,
    name: T,
}

impl<T: FromStr> FromStr for Scoped<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (tenant, name) = text.split_once('/').ok_or("write TENANT/NAME, for instance acme/kiosk")?;
        Ok(Self {
            tenant: tenant.parse().map_err(|error: schemas::ids::IdError| error.to_string())?,
            name: name.parse().map_err(|error: T::Err| error.to_string())?,
        })
    }
}

/// `LEFT=RIGHT`
#[derive(Debug, Clone)]
struct Pair<L, R> {
    left: L,
    right: R,
}

impl<L: FromStr, R: FromStr> FromStr for Pair<L, R>
where
    L::Err: std::fmt::Display,
    R::Err: std::fmt::Display,
{
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (left, right) = text.split_once('=').ok_or("write NAME=VALUE")?;
        Ok(Self {
            left: left.parse().map_err(|error: L::Err| error.to_string())?,
            right: right.parse().map_err(|error: R::Err| error.to_string())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        admin: AdminArguments,
    }

    fn request(line: &str) -> Result<Request, String> {
        let parsed = Line::try_parse_from(std::iter::once("admin").chain(line.split(' ')));
        parsed.map_err(|error| error.to_string())?.admin.command.request().map_err(|error| error.to_string())
    }

    #[test]
    fn lines_become_commands() {
        let principal = |text: &str| text.parse::<Principal>().unwrap();
        let deadlines = Deadlines { start_ms: 5, ..Deadlines::default() };
        let table = [
            (
                "tenants create acme --currency EUR --on-unknown hold --deadline start_ms=5",
                AdminCommand::CreateTenant {
                    tenant: "acme".parse().unwrap(),
                    currency: "EUR".parse().unwrap(),
                    bank: BankKind::Internal,
                    on_unknown: OnUnknown::Hold,
                    deadlines,
                },
            ),
            (
                "merchants create acme/kiosk --title Kiosk",
                AdminCommand::CreateMerchant {
                    tenant: "acme".parse().unwrap(),
                    merchant: "kiosk".parse().unwrap(),
                    title: "Kiosk".into(),
                    terminal: None,
                },
            ),
            (
                "chips bind acme/chip-7 --merchant kiosk --executor arm --item cola=arm-2",
                AdminCommand::BindChip {
                    chip: principal("acme/chip-7"),
                    merchant: "kiosk".parse().unwrap(),
                    executor: Some("arm".parse().unwrap()),
                    items: [("cola".parse().unwrap(), "arm-2".parse().unwrap())].into(),
                },
            ),
            (
                "operators create tina --role tenant-admin --tenant acme",
                AdminCommand::CreateOperator {
                    operator: "tina".parse().unwrap(),
                    role: OperatorRole::TenantAdmin,
                    tenant: Some("acme".parse().unwrap()),
                },
            ),
            (
                "payments resolve 07070707070707070707070707070707 --write-off",
                AdminCommand::ResolvePayment {
                    payment: PaymentId([7; 16]),
                    resolution: Resolution::WriteOff,
                },
            ),
        ];
        for (line, command) in table {
            assert_eq!(request(line), Ok(Request::Core(command)), "{line}");
        }
        let day = ShellCommand::IssueClaim { device: principal("a/b"), valid_ms: 86_400_000 };
        assert_eq!(request("claim create a/b"), Ok(Request::Shell(day)));
    }

    #[test]
    fn lines_that_cannot_be_meant_say_what_would_be_accepted() {
        let table = [
            ("tenants create acme --currency EURO", "ISO 4217"),
            ("tenants create acme --currency EUR --deadline strat_ms=5", "start_ms"),
            ("tenants create acme --currency EUR --bank-url http://127.0.0.1:1", "--bank-holding"),
            ("tenants create Acme --currency EUR", "a-z"),
            ("merchants create kiosk --title Kiosk", "TENANT/NAME"),
            ("devices revoke chip-7", "tenant/name"),
            ("payments show 07", "32 hexadecimal"),
            ("payments resolve 07070707070707070707070707070707", "--refund"),
            ("claim create a/b --valid soon", "24h"),
            ("operators create tina --role king", "tenant-admin"),
            ("--server core:1 books", "--identity"),
            ("accounts deposit a/b 1.505_EUR --reference r", "not an amount"),
        ];
        for (line, expected) in table {
            let error = request(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
