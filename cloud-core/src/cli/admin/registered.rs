//! Tenants, merchants, people and observers on the command line.

use clap::{Args, Subcommand};
use cloud_core_flows::admin::{AdminCommand, BankKind, Filter, Listing, OnUnknown};
use schemas::ids::{MerchantId, Principal, PrincipalId, TenantId};
use schemas::money::Currency;
use schemas::signed::PublicKey;
use serde::de::DeserializeOwned;

use super::values::{Pair, Scoped, setting};

/// Which rows are wanted; at most 1,000 are shown.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Only of this tenant.
    #[arg(long)]
    pub(super) tenant: Option<TenantId>,
    /// Only those with this text in their name.
    #[arg(long, value_name = "TEXT")]
    pub(super) contains: Option<String>,
    /// Only those after this name: the next page.
    #[arg(long, value_name = "NAME")]
    pub(super) after: Option<String>,
}

impl Wanted {
    pub(super) fn of(self, listing: Listing, state: Option<String>) -> AdminCommand {
        let Self { tenant, contains, after } = self;
        AdminCommand::Find { listing, filter: Filter { tenant, name: None, contains, state, after } }
    }
}

pub(super) fn one(listing: Listing, name: &dyn std::fmt::Display) -> AdminCommand {
    let filter = Filter { name: Some(name.to_string()), ..Filter::default() };
    AdminCommand::Find { listing, filter }
}

#[derive(Debug, Subcommand)]
pub(super) enum Tenants {
    /// All tenants.
    List(Wanted),
    /// One tenant.
    Show {
        /// Which.
        tenant: TenantId,
    },
    /// Other policies; what is not named stays as it is.
    Change {
        /// Which.
        tenant: TenantId,
        /// Its bank answers at another address.
        #[arg(long, value_name = "URL")]
        bank_url: Option<String>,
        /// When nobody knows whether the executor delivered.
        #[arg(long, value_parser = ["refund", "hold"])]
        on_unknown: Option<String>,
        /// A deadline in milliseconds; may be repeated. Names: see `create`.
        #[arg(long = "deadline", value_name = "NAME=MS")]
        deadlines: Vec<Pair<String, u64>>,
        /// How long the codes are valid that children pay with; may be repeated. Names: see `create`.
        #[arg(long = "code-rule", value_name = "NAME=VALUE")]
        code_rules: Vec<Pair<String, serde_json::Value>>,
        /// What must stay on a child's account when a payment is suggested to go through it, in minor units.
        #[arg(long, value_name = "MINOR")]
        child_keep: Option<u64>,
    },
    /// Close one that has no members, no open work and no balance.
    Delete {
        /// Which.
        tenant: TenantId,
    },
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
        /// report_ms 15000, command_status_ms 10000, reconnect_ms 30000, bank_retry_ms 1000, prompt_ms 120000,
        /// retention_ms 604800000.
        #[arg(long = "deadline", value_name = "NAME=MS")]
        deadlines: Vec<Pair<String, u64>>,
        /// How long the codes are valid that children pay with: the way to the place at a pace, and a margin, within
        /// bounds; and whether a code is shown at once only where it counts. May be repeated. Names and defaults:
        /// default_ms 600000 (no position, or no place), least_ms 120000, most_ms 3600000, pace_mm_per_s 1000,
        /// margin_ms 300000, check_at_once true; emvco false (whether QR codes are EMVCo merchant-presented payloads).
        #[arg(long = "code-rule", value_name = "NAME=VALUE")]
        code_rules: Vec<Pair<String, serde_json::Value>>,
    },
}

impl Tenants {
    pub(super) fn command(self) -> anyhow::Result<AdminCommand> {
        let policy = |text: &str| if text == "hold" { OnUnknown::Hold } else { OnUnknown::Refund };
        let (tenant, currency, bank_url, bank_holding, on_unknown, deadlines, code_rules) = match self {
            Self::Create { tenant, currency, bank_url, bank_holding, on_unknown, deadlines, code_rules } => {
                (tenant, currency, bank_url, bank_holding, on_unknown, deadlines, code_rules)
            }
            Self::List(wanted) => return Ok(wanted.of(Listing::Tenants, None)),
            Self::Show { tenant } => return Ok(one(Listing::Tenants, &tenant)),
            Self::Change { tenant, bank_url, on_unknown, deadlines, code_rules, child_keep } => {
                let on_unknown = on_unknown.as_deref().map(policy);
                let deadlines = deadlines.into_iter().map(|pair| (pair.left, pair.right)).collect();
                let code_rules = typed("--code-rule", code_rules)?;
                let child_keep_minor = child_keep;
                return Ok(AdminCommand::ChangeTenant {
                    tenant,
                    bank_url,
                    on_unknown,
                    deadlines,
                    code_rules,
                    child_keep_minor,
                });
            }
            Self::Delete { tenant } => return Ok(AdminCommand::DeleteTenant { tenant }),
        };
        let bank = match (bank_url, bank_holding) {
            (Some(url), Some(holding)) => BankKind::Http { url, holding },
            _ => BankKind::Internal,
        };
        let on_unknown = policy(&on_unknown);
        let deadlines = typed("--deadline", deadlines)?;
        let code_rules = typed("--code-rule", code_rules)?;
        Ok(AdminCommand::CreateTenant { tenant, currency, bank, on_unknown, deadlines, code_rules })
    }
}

/// Unknown names are refused by the type, which lists those there are.
fn typed<T: DeserializeOwned, V: Into<serde_json::Value>>(
    flag: &str,
    pairs: Vec<Pair<String, V>>,
) -> anyhow::Result<T> {
    let named: serde_json::Map<_, _> = pairs.into_iter().map(|pair| (pair.left, pair.right.into())).collect();
    serde_json::from_value(named.into()).map_err(|error| anyhow::anyhow!("{flag}: {error}"))
}

#[derive(Debug, Subcommand)]
pub(super) enum Merchants {
    /// All merchants.
    List(Wanted),
    /// One merchant.
    Show {
        /// TENANT/NAME
        merchant: Scoped<MerchantId>,
    },
    /// Another title or terminal; what is not named stays as it is.
    Change {
        /// TENANT/NAME
        merchant: Scoped<MerchantId>,
        /// The payee as payers see it.
        #[arg(long)]
        title: Option<String>,
        /// The principal of its terminal.
        #[arg(long, value_name = "NAME", conflicts_with = "no_terminal")]
        terminal: Option<PrincipalId>,
        /// It has no terminal from now on.
        #[arg(long)]
        no_terminal: bool,
    },
    /// Close one for which no chip sells, without open work and without a balance.
    Delete {
        /// TENANT/NAME
        merchant: Scoped<MerchantId>,
    },
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

impl Merchants {
    pub(super) fn command(self) -> AdminCommand {
        match self {
            Self::List(wanted) => wanted.of(Listing::Merchants, None),
            Self::Show { merchant } => {
                one(Listing::Merchants, &format_args!("{}/{}", merchant.tenant, merchant.name))
            }
            Self::Create { merchant: Scoped { tenant, name: merchant }, title, terminal } => {
                AdminCommand::CreateMerchant { tenant, merchant, title, terminal }
            }
            Self::Change { merchant: Scoped { tenant, name: merchant }, title, terminal, no_terminal } => {
                let terminal = setting(terminal, no_terminal);
                AdminCommand::ChangeMerchant { tenant, merchant, title, terminal }
            }
            Self::Delete { merchant: Scoped { tenant, name: merchant } } => {
                AdminCommand::DeleteMerchant { tenant, merchant }
            }
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum People {
    /// All people.
    List(Wanted),
    /// One person.
    Show {
        /// TENANT/NAME
        person: Principal,
    },
    /// Another key or bank account; what is not named stays as it is.
    Change {
        /// TENANT/NAME
        person: Principal,
        /// The key of their verifications, Ed25519, 64 hexadecimal digits.
        #[arg(long, value_name = "HEX", conflicts_with = "no_public_key")]
        public_key: Option<PublicKey>,
        /// They can't verify payments from now on.
        #[arg(long)]
        no_public_key: bool,
        /// Their account at the tenant's bank.
        #[arg(long, value_name = "ACCOUNT", conflicts_with = "no_bank_account")]
        bank_account: Option<String>,
        /// They have no account from now on.
        #[arg(long)]
        no_bank_account: bool,
    },
    /// Close one without open work and without a balance. Their connections end at once.
    Delete {
        /// TENANT/NAME
        person: Principal,
    },
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

impl People {
    pub(super) fn command(self) -> AdminCommand {
        match self {
            Self::List(wanted) => wanted.of(Listing::Persons, None),
            Self::Show { person } => one(Listing::Persons, &person),
            Self::Create { person, public_key, bank_account } => {
                AdminCommand::CreatePerson { person, public_key, bank_account }
            }
            Self::Change { person, public_key, no_public_key, bank_account, no_bank_account } => {
                AdminCommand::ChangePerson {
                    person,
                    public_key: setting(public_key, no_public_key),
                    bank_account: setting(bank_account, no_bank_account),
                }
            }
            Self::Delete { person } => AdminCommand::DeletePerson { person },
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Observers {
    /// All observers.
    List(Wanted),
    /// One observer.
    Show {
        /// TENANT/NAME
        observer: Principal,
    },
    /// A new observer; `token create` lets it in.
    Create {
        /// TENANT/NAME
        observer: Principal,
    },
    /// Close one. Its connections end at once.
    Delete {
        /// TENANT/NAME
        observer: Principal,
    },
}

impl Observers {
    pub(super) fn command(self) -> AdminCommand {
        match self {
            Self::List(wanted) => wanted.of(Listing::Observers, None),
            Self::Show { observer } => one(Listing::Observers, &observer),
            Self::Create { observer } => AdminCommand::CreateObserver { observer },
            Self::Delete { observer } => AdminCommand::DeleteObserver { observer },
        }
    }
}
