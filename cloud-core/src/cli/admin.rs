//! `cloud-core admin ...`: what operators do, each command one line on the admin socket.

mod bulk;
mod children;
#[cfg(feature = "demo")]
mod enroll;
mod places;
mod registered;
mod show;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use broker::cli::Elsewhere;
use clap::{ArgGroup, Args, Subcommand};
use cloud_core_flows::admin::{AdminCommand, Filter, Listing, Resolution};
use cloud_core_flows::registry::RESERVED_TENANT;
use cloud_core_flows::right::OperatorRole;
use cloud_core_history::Party;
use schemas::ids::{ItemId, MerchantId, PaymentId, Principal, PrincipalId, TenantId};
use schemas::money::Money;

use crate::admin::client::AdminClient;
use crate::admin::{Request, ShellCommand};
use crate::cli::moment::Span;
use crate::config::Config;
use children::Children;
use places::Places;
use registered::{Merchants, Observers, People, Tenants, Wanted, one};
use values::{Pair, Scoped};

#[derive(Debug, Args)]
pub(super) struct AdminArguments {
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    elsewhere: Elsewhere,
    #[command(subcommand)]
    command: AdminSubcommand,
}

impl AdminArguments {
    pub(super) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        #[cfg(feature = "demo")]
        if let AdminSubcommand::Enroll { claim, operator } = &self.command {
            let Elsewhere { server, identity } = &self.elsewhere;
            return enroll::run(claim, operator, server.as_deref(), identity.as_deref(), self.json);
        }
        let line = self.elsewhere.client(&config.admin_socket())?;
        let client = AdminClient::from(line.clone());
        let command = match self.command {
            AdminSubcommand::Broker { watch, action } => {
                broker::cli::run(&line, &action, self.json, watch)?;
                return Ok(ExitCode::SUCCESS);
            }
            AdminSubcommand::Batch(batch) => return batch.run(&client, self.json),
            AdminSubcommand::Claim(Claim::Create { from: Some(from), out: Some(out), valid, .. }) => {
                return bulk::claims(&client, &from, &out, valid.0);
            }
            command => command,
        };
        match command.request()? {
            Request::Core(AdminCommand::Find { listing, filter: Filter { name: Some(name), .. } }) => {
                let filter = Filter { name: Some(name.clone()), ..Filter::default() };
                let answer = client.core(AdminCommand::Find { listing, filter })?;
                anyhow::ensure!(!show::is_empty(&answer), "there is no `{name}`: `list` shows what there is");
                show::core(&answer, self.json)?;
            }
            Request::Core(command) => show::core(&client.core(command)?, self.json)?,
            Request::Shell(command) => show::shell(&client.shell(command)?, self.json)?,
            Request::Broker(_) => bail!("the broker is asked by its own command line"),
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
    /// Observers: they listen to the feed and every `state` of their tenant, and say nothing.
    #[command(subcommand)]
    Observers(Observers),
    /// Children: who guards them, which piggy bank they use, what was paid from their accounts.
    #[command(subcommand)]
    Children(Children),
    /// Places where children may pay with a code, and who scans there.
    #[command(subcommand)]
    Places(Places),
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
    #[command(subcommand, alias = "claims")]
    Claim(Claim),
    /// Tokens, with which people's terminals and observers connect.
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
    /// Names of what was deleted. They are not given again; the journal keeps their history.
    #[command(subcommand)]
    Deleted(Deleted),
    /// The broker: sessions, refusals, traffic; the same as the binary `broker` offers.
    Broker {
        #[command(flatten)]
        watch: broker::cli::Watch,
        #[command(subcommand)]
        action: broker::cli::Action,
    },
    /// Carry out many commands from a file: all of them, or none.
    Batch(bulk::Batch),
}

#[derive(Debug, Subcommand)]
enum Deleted {
    /// All of them.
    List(Wanted),
}

#[derive(Debug, Subcommand)]
enum Devices {
    /// All devices.
    List {
        #[command(flatten)]
        wanted: Wanted,
        /// Only those of this standing: registered, enrolled, revoked.
        #[arg(long)]
        standing: Option<String>,
    },
    /// One device.
    Show {
        /// TENANT/NAME
        device: Principal,
    },
    /// Another profile or longest act; what is not named stays as it is.
    Change {
        /// TENANT/NAME
        device: Principal,
        /// Its profile.
        #[arg(long)]
        profile: Option<String>,
        /// For executors: the longest that one act takes, in milliseconds.
        #[arg(long, value_name = "MS")]
        longest_act_ms: Option<u64>,
    },
    /// Close one that no chip depends on, without open work. Its connection ends at once.
    Delete {
        /// TENANT/NAME
        device: Principal,
    },
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
    /// It sells for nobody until it is bound again; payments under way go on.
    Unbind {
        /// TENANT/NAME of the chip.
        chip: Principal,
    },
}

#[derive(Debug, Subcommand)]
enum Accounts {
    /// All accounts with their balances.
    List(Wanted),
    /// One account.
    Show {
        /// TENANT/person/NAME, TENANT/merchant/NAME, TENANT/holding, ...
        account: String,
    },
    /// Pay money out of a person's or merchant's account in our own ledger.
    Withdraw {
        /// TENANT/person/NAME or TENANT/merchant/NAME
        account: Scoped<String>,
        /// How much, for instance "12.50 EUR".
        amount: Money,
        /// The same reference is booked once, however often it is sent.
        #[arg(long)]
        reference: String,
    },
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
    /// All operators.
    List {
        #[command(flatten)]
        wanted: Wanted,
        /// Only those of this standing: registered, enrolled, revoked.
        #[arg(long)]
        standing: Option<String>,
    },
    /// One operator.
    Show {
        /// Its name.
        operator: PrincipalId,
    },
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
        #[arg(required_unless_present = "from", conflicts_with = "from")]
        device: Option<Principal>,
        /// Codes for many: a file with a line `DEVICE`, or `DEVICE,PROFILE,LONGEST_ACT_MS` to create it too.
        #[arg(long, value_name = "FILE", requires = "out")]
        from: Option<PathBuf>,
        /// Where the codes of many go: a new file that only you can read.
        #[arg(long, value_name = "FILE", requires = "from")]
        out: Option<PathBuf>,
        /// How long it is valid: a number with s, m, h or d.
        #[arg(long, value_name = "TIME", default_value = "24h")]
        valid: Span,
    },
}

#[derive(Debug, Subcommand)]
enum Token {
    /// End the token of a principal, and their connections.
    Revoke {
        /// TENANT/NAME
        principal: Principal,
    },
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
    /// Payments in memory, newest first; or those of one person or merchant, also the ones that have left memory.
    List {
        /// All payments of this person, as payer, payee, guardian or child.
        #[arg(long, value_name = "TENANT/NAME", conflicts_with_all = ["open", "tenant", "contains", "state", "merchant"])]
        person: Option<Principal>,
        /// All payments of this merchant.
        #[arg(long, value_name = "TENANT/NAME", conflicts_with_all = ["open", "tenant", "contains", "state"])]
        merchant: Option<Scoped<MerchantId>>,
        /// Of a person or merchant: those before the ones that were shown, which said where to go on.
        #[arg(long, value_name = "CURSOR")]
        before: Option<String>,
        /// Of a person or merchant: how many at most.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        /// Only those that are not at rest.
        #[arg(long, conflicts_with_all = ["tenant", "contains", "state"])]
        open: bool,
        /// Only of this tenant.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Only those with this text in the name of payer, chip, merchant or item.
        #[arg(long, value_name = "TEXT")]
        contains: Option<String>,
        /// Only those in this state, for instance `delivered`.
        #[arg(long)]
        state: Option<String>,
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
            Self::Merchants(merchants) => merchants.command(),
            Self::Devices(Devices::List { wanted, standing }) => wanted.of(Listing::Devices, standing),
            Self::Devices(Devices::Show { device }) => one(Listing::Devices, &device),
            Self::Devices(Devices::Change { device, profile, longest_act_ms }) => {
                AdminCommand::ChangeDevice { device, profile, longest_act_ms }
            }
            Self::Devices(Devices::Delete { device }) => AdminCommand::DeleteDevice { device },
            Self::Devices(Devices::Create { device, profile, longest_act_ms }) => {
                AdminCommand::CreateDevice { device, profile, longest_act_ms }
            }
            Self::Devices(Devices::Revoke { device }) => AdminCommand::RevokeDevice { device },
            Self::Chips(Chips::Bind { chip, merchant, executor, items }) => {
                let items: BTreeMap<_, _> = items.into_iter().map(|pair| (pair.left, pair.right)).collect();
                AdminCommand::BindChip { chip, merchant, executor, items }
            }
            Self::Chips(Chips::Unbind { chip }) => AdminCommand::UnbindChip { chip },
            Self::People(people) => people.command(),
            Self::Observers(observers) => observers.command(),
            Self::Children(children) => children.command(),
            Self::Places(places) => places.command()?,
            Self::Accounts(Accounts::List(wanted)) => wanted.of(Listing::Accounts, None),
            Self::Accounts(Accounts::Show { account }) => one(Listing::Accounts, &account),
            Self::Accounts(Accounts::Withdraw { account, amount, reference }) => {
                AdminCommand::Withdraw { tenant: account.tenant, account: account.name, amount, reference }
            }
            Self::Deleted(Deleted::List(wanted)) => wanted.of(Listing::Deleted, None),
            Self::Accounts(Accounts::Deposit { person, amount, reference }) => {
                AdminCommand::Deposit { person, amount, reference }
            }
            Self::Operators(Operators::List { wanted, standing }) => wanted.of(Listing::Operators, standing),
            Self::Operators(Operators::Show { operator }) => one(Listing::Operators, &operator),
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
            Self::Claim(Claim::Create { device, valid, .. }) => {
                let device = device.context("name a device, or a file with --from")?;
                return Ok(Request::Shell(ShellCommand::IssueClaim { device, valid_ms: valid.0 }));
            }
            Self::Batch(batch) => batch.command()?,
            Self::Broker { .. } => bail!("the broker is asked by its own command line"),
            Self::Token(Token::Revoke { principal }) => AdminCommand::RevokeToken { principal },
            Self::Token(Token::Create { principal, valid }) => {
                return Ok(Request::Shell(ShellCommand::IssueToken { principal, valid_ms: valid.0 }));
            }
            Self::Token(Token::Rotate { principal, valid, overlap }) => {
                let (valid_ms, overlap_ms) = (valid.0, overlap.0);
                return Ok(Request::Shell(ShellCommand::RenewToken { principal, valid_ms, overlap_ms }));
            }
            Self::Payments(Payments::List { person: Some(person), before, limit, .. }) => {
                let party = Party::Person(person);
                return Ok(Request::Shell(ShellCommand::ListHistory { party, before, limit }));
            }
            Self::Payments(Payments::List { merchant: Some(merchant), before, limit, .. }) => {
                let party = Party::Merchant(merchant.tenant, merchant.name);
                return Ok(Request::Shell(ShellCommand::ListHistory { party, before, limit }));
            }
            Self::Payments(Payments::List { before: Some(_), .. }) => {
                bail!("--before goes on with the payments of --person or --merchant: name one of them")
            }
            Self::Payments(Payments::List { open: true, .. }) => {
                AdminCommand::ListPayments { open_only: true }
            }
            Self::Payments(Payments::List { tenant, contains, state, .. }) => {
                Wanted { tenant, contains, after: None }.of(Listing::Payments, state)
            }
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use cloud_core_flows::admin::{BankKind, Deadlines, OnUnknown};
    use cloud_core_flows::places::{CodeRules, CodeRulesChange, RegisteredPlace};
    use schemas::message::{Categories, Place};
    use schemas::wire::Text;

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
                "tenants create acme --currency EUR --on-unknown hold --deadline start_ms=5 --code-rule margin_ms=0",
                AdminCommand::CreateTenant {
                    tenant: "acme".parse().unwrap(),
                    currency: "EUR".parse().unwrap(),
                    bank: BankKind::Internal,
                    on_unknown: OnUnknown::Hold,
                    deadlines,
                    code_rules: CodeRules { margin_ms: 0, ..CodeRules::default() },
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
                "observers create acme/screen",
                AdminCommand::CreateObserver { observer: principal("acme/screen") },
            ),
            (
                "places set home/school --at 52.52,-13.4 --radius-m 80 --category lunch --category fruit --merchant canteen --terminal till",
                AdminCommand::SetPlace {
                    tenant: "home".parse().unwrap(),
                    entry: RegisteredPlace {
                        place: Place {
                            place: "school".parse().unwrap(),
                            title: Text::new("school"),
                            latitude_e7: 525_200_000,
                            longitude_e7: -134_000_000,
                            radius_m: 80,
                            categories: Categories::new(vec![
                                "lunch".parse().unwrap(),
                                "fruit".parse().unwrap(),
                            ])
                            .unwrap(),
                        },
                        merchant: "canteen".parse().unwrap(),
                        terminals: ["till".parse().unwrap()].into(),
                    },
                },
            ),
            (
                "places remove home/school",
                AdminCommand::RemovePlace {
                    tenant: "home".parse().unwrap(),
                    place: "school".parse().unwrap(),
                },
            ),
            (
                "tenants change home --code-rule most_ms=900000 --code-rule check_at_once=false --child-keep 500",
                AdminCommand::ChangeTenant {
                    tenant: "home".parse().unwrap(),
                    bank_url: None,
                    on_unknown: None,
                    deadlines: BTreeMap::new(),
                    code_rules: CodeRulesChange {
                        most_ms: Some(900_000),
                        check_at_once: Some(false),
                        ..CodeRulesChange::default()
                    },
                    child_keep_minor: Some(500),
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
            ("tenants create acme --currency EUR --code-rule paec=5", "pace_mm_per_s"),
            ("places set a/b --at here --radius-m 1 --category c --merchant m --terminal t", "LAT,LON"),
            ("tenants create acme --currency EUR --bank-url http://127.0.0.1:1", "--bank-holding"),
            ("tenants create Acme --currency EUR", "a-z"),
            ("merchants create kiosk --title Kiosk", "TENANT/NAME"),
            ("devices revoke chip-7", "tenant/name"),
            ("payments show 07", "32 hexadecimal"),
            ("payments list --before 1.2.3", "--person"),
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
