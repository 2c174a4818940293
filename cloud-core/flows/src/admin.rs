//! What operators say to the core and what they hear (CP-15). Travels as JSON lines over a local socket.
//!
//! Creating what already exists with the same content is a success that changes nothing; with other content it is
//! refused, so every command may be repeated.

mod answer;

use std::collections::BTreeMap;

use schemas::ids::{Hash, ItemId, MerchantId, PaymentId, PlaceId, Principal, PrincipalId, TenantId};
use schemas::money::{Currency, Money};
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

pub use answer::*;

use crate::children::Bonds;
use crate::places::{CodeRules, CodeRulesChange, RegisteredPlace};
use crate::port::ConnectionId;
use crate::right::OperatorRole;

/// Where the money of a tenant is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BankKind {
    /// Accounts in our own ledger: reserve, then post or void.
    Internal,
    /// A bank that answers over HTTP (correctness.md 18 and 19).
    Http {
        /// Base address, `http://` on loopback or `https://`.
        url: String,
        /// The tenant's holding account there, where paid money waits for delivery.
        holding: String,
    },
}

/// What to do when nobody knows whether the executor delivered (CP-13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Give the money back (default).
    Refund,
    /// Keep it until an operator decides.
    Hold,
}

/// How long each party is given, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// Chip: from the health check to its answer.
    pub health_check_ms: u64,
    /// Payer: from being asked to the verification.
    pub verification_ms: u64,
    /// Bank: from the verification until the payment is given up (fenced, or refunded if it was done).
    pub bank_ms: u64,
    /// After an outage of ours the bank's time is extended, but never beyond this long after the verification: by
    /// then the payer has left the machine.
    pub presence_ms: u64,
    /// Executor: from the command until it must have begun.
    pub start_ms: u64,
    /// Executor: from the end of its longest act until its report.
    pub report_ms: u64,
    /// Executor: from the question what became of a command to the answer.
    pub command_status_ms: u64,
    /// After the core has started: until devices have had time to reconnect and report.
    pub reconnect_ms: u64,
    /// Bank: first pause before a call is repeated; doubles up to 64 times this.
    pub bank_retry_ms: u64,
    /// A closed payment stays in memory, and refundable by its merchant, for this long.
    pub retention_ms: u64,
    /// Child: from being asked at the piggy bank to the answer (PC-4).
    #[serde(skip_serializing_if = "is_default_prompt")]
    pub prompt_ms: u64,
}

const DEFAULT_PROMPT_MS: u64 = 120_000;

/// Journals of releases that knew no prompts keep their bytes.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_default_prompt(ms: &u64) -> bool {
    *ms == DEFAULT_PROMPT_MS
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            health_check_ms: 10_000,
            verification_ms: 120_000,
            bank_ms: 60_000,
            presence_ms: 300_000,
            start_ms: 20_000,
            report_ms: 15_000,
            command_status_ms: 10_000,
            reconnect_ms: 30_000,
            bank_retry_ms: 1_000,
            retention_ms: 7 * 24 * 3_600_000,
            prompt_ms: DEFAULT_PROMPT_MS,
        }
    }
}

impl Deadlines {
    /// Each by its name.
    pub(crate) fn named(&mut self) -> [(&'static str, &mut u64); 11] {
        [
            ("health_check_ms", &mut self.health_check_ms),
            ("verification_ms", &mut self.verification_ms),
            ("bank_ms", &mut self.bank_ms),
            ("presence_ms", &mut self.presence_ms),
            ("start_ms", &mut self.start_ms),
            ("report_ms", &mut self.report_ms),
            ("command_status_ms", &mut self.command_status_ms),
            ("reconnect_ms", &mut self.reconnect_ms),
            ("bank_retry_ms", &mut self.bank_retry_ms),
            ("retention_ms", &mut self.retention_ms),
            ("prompt_ms", &mut self.prompt_ms),
        ]
    }
}

/// What a change does to something that may also be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// There is none from now on.
    Clear,
    /// It is this from now on.
    To(T),
}

impl<T: Clone> Setting<T> {
    pub(crate) fn apply(&self, to: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Clear => *to = None,
            Self::To(value) => *to = Some(value.clone()),
        }
    }
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listing {
    /// Tenants.
    Tenants,
    /// Merchants.
    Merchants,
    /// Devices.
    Devices,
    /// People.
    Persons,
    /// Observers.
    Observers,
    /// Accounts of our ledger.
    Accounts,
    /// Payments in memory, newest first.
    Payments,
    /// Operators who administer from elsewhere.
    Operators,
    /// Children.
    Children,
    /// Payments from children's accounts in memory, newest first.
    ChildPayments,
    /// Places where children may pay.
    Places,
    /// What was deleted: names that are not given again.
    Deleted,
}

/// Which rows are wanted: all that every given part agrees with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Only of this tenant.
    pub tenant: Option<TenantId>,
    /// Only this one, by its whole name (`acme`, `acme/chip-7`, `acme/person/alice`, a payment's id).
    pub name: Option<String>,
    /// Only those with this text in their name; for payments: in the name of somebody who takes part, or the item.
    pub contains: Option<String>,
    /// Only devices of this standing, payments in this state.
    pub state: Option<String>,
    /// Only those after this name: the next page. Not for payments.
    pub after: Option<String>,
}

/// An operator's line is JSON with the name in `command`; a journal's record is CBOR, where serde can't read binary ids
/// behind such a tag. So the one list of variants has both forms.
macro_rules! admin_commands {
    ($($variants:tt)*) => {
        /// Everything an operator may say.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
        pub enum AdminCommand { $($variants)* }

        /// As the journal keeps it.
        #[derive(Serialize, Deserialize)]
        #[serde(remote = "AdminCommand", rename_all = "snake_case")]
        #[allow(dead_code, reason = "only its serde implementation is used")]
        pub(crate) enum JournaledCommand { $($variants)* }
    };
}

admin_commands! {
    /// A new tenant.
    CreateTenant {
        /// Its name.
        tenant: TenantId,
        /// Its only currency.
        currency: Currency,
        /// Where its money is.
        bank: BankKind,
        /// Policy for unknown outcomes.
        on_unknown: OnUnknown,
        /// Its deadlines.
        deadlines: Deadlines,
        /// How long codes are valid (PC-6).
        #[serde(default, skip_serializing_if = "CodeRules::is_default")]
        code_rules: CodeRules,
    },
    /// A new merchant.
    CreateMerchant {
        /// Of which tenant.
        tenant: TenantId,
        /// Its name.
        merchant: MerchantId,
        /// The payee as payers see it.
        title: String,
        /// Its terminal, which is told of its payments and may refund them.
        terminal: Option<PrincipalId>,
    },
    /// A new device, not yet enrolled.
    CreateDevice {
        /// Who it will be.
        device: Principal,
        /// Its profile (`payment-chip`, `vending-executor`).
        profile: String,
        /// For executors: the longest that one act takes, in milliseconds.
        longest_act_ms: u64,
    },
    /// Ties a chip to the merchant it sells for and the executors that deliver.
    BindChip {
        /// The chip.
        chip: Principal,
        /// For whom it sells.
        merchant: MerchantId,
        /// Who delivers, unless `items` says otherwise. None: the payment completes with the bank's success (CP-16).
        executor: Option<PrincipalId>,
        /// Who delivers particular items (CP-8).
        items: BTreeMap<ItemId, PrincipalId>,
    },
    /// Makes a person a child of guardians, and ties it to the piggy bank that it uses (PC-1, PC-2). Said again, it
    /// changes these bonds; what was ordered under others, and does not hold under the new ones, ends.
    BindChild {
        /// The child.
        child: Principal,
        /// Who and what belongs to it.
        bonds: Bonds,
    },
    /// Nobody may order from this account any more; what was ordered ends.
    UnbindChild {
        /// The child.
        child: Principal,
    },
    /// A place where children may pay: a new one, or another content of the one of this name (PC-9).
    SetPlace {
        /// Of which tenant.
        tenant: TenantId,
        /// The place, who is paid there, and who scans.
        entry: RegisteredPlace,
    },
    /// Nobody pays there any more.
    RemovePlace {
        /// Of which tenant.
        tenant: TenantId,
        /// Which.
        place: PlaceId,
    },
    /// A new person (a payer, or somebody at a merchant's terminal).
    CreatePerson {
        /// Who.
        person: Principal,
        /// The key of their verifications; none for terminals that never pay.
        public_key: Option<PublicKey>,
        /// Their account at the tenant's bank; with an internal bank one is opened in our ledger.
        bank_account: Option<String>,
    },
    /// A new operator who administers from elsewhere, with a certificate. Its name is `farthing/NAME`: a claim for it
    /// is made, and it is revoked, as a device's.
    CreateOperator {
        /// Its name.
        operator: PrincipalId,
        /// What it may do.
        role: OperatorRole,
        /// Where, for a tenant's admin.
        tenant: Option<TenantId>,
    },
    /// Somebody who listens to the feed and every `state` of a tenant, takes part in no payment and says nothing. A
    /// token lets them in, as a person.
    CreateObserver {
        /// Who.
        observer: Principal,
    },
    /// A one-time claim, with which a device enrols. The secret was made by the caller; only its hash comes here.
    CreateClaim {
        /// For which device.
        device: Principal,
        /// SHA-256 of the secret.
        claim_hash: Hash,
        /// When it ends.
        expires_at: Timestamp,
    },
    /// A token for a person's terminal, an observer, or a device on loopback. Replaces an earlier one.
    CreateToken {
        /// For whom.
        principal: Principal,
        /// SHA-256 of the token.
        token_hash: Hash,
        /// When it ends.
        expires_at: Timestamp,
    },
    /// A new token beside the one there is, which stays good for a while, so that nobody is locked out meanwhile. A
    /// still older one ends at once.
    RotateToken {
        /// For whom.
        principal: Principal,
        /// SHA-256 of the new token.
        token_hash: Hash,
        /// When the new one ends.
        expires_at: Timestamp,
        /// When the former one ends, unless it ends before by itself.
        former_until: Timestamp,
    },
    /// Other policies of a tenant. What is left out stays as it is.
    ChangeTenant {
        /// Which.
        tenant: TenantId,
        /// Its bank answers at another address; the books stay.
        #[serde(default)]
        bank_url: Option<String>,
        /// Policy for unknown outcomes, from the next one on.
        #[serde(default)]
        on_unknown: Option<OnUnknown>,
        /// Deadlines by name, in milliseconds; what is already waited for keeps its own.
        #[serde(default)]
        deadlines: BTreeMap<String, u64>,
        /// How long codes are valid; codes that were made keep their expiry.
        #[serde(default, skip_serializing_if = "CodeRulesChange::is_nothing")]
        code_rules: CodeRulesChange,
        /// What must stay on a child's account when a payment is suggested to go through it, in minor units (PC-11).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child_keep_minor: Option<u64>,
    },
    /// Another title or terminal of a merchant.
    ChangeMerchant {
        /// Of which tenant.
        tenant: TenantId,
        /// Which.
        merchant: MerchantId,
        /// The payee as payers see it.
        #[serde(default)]
        title: Option<String>,
        /// Its terminal.
        #[serde(default)]
        terminal: Setting<PrincipalId>,
    },
    /// Another profile or longest act of a device.
    ChangeDevice {
        /// Which.
        device: Principal,
        /// Its profile.
        #[serde(default)]
        profile: Option<String>,
        /// The longest that one act takes, in milliseconds.
        #[serde(default)]
        longest_act_ms: Option<u64>,
    },
    /// Another key or bank account of a person.
    ChangePerson {
        /// Who.
        person: Principal,
        /// The key of their verifications.
        #[serde(default)]
        public_key: Setting<PublicKey>,
        /// Their account at the tenant's bank.
        #[serde(default)]
        bank_account: Setting<String>,
    },
    /// The chip sells for nobody until it is bound again; payments under way go on.
    UnbindChip {
        /// Which.
        chip: Principal,
    },
    /// Closes a tenant that has nothing left. Its name is not given again; the journal keeps its history.
    DeleteTenant {
        /// Which.
        tenant: TenantId,
    },
    /// Closes a merchant without open work and without a balance.
    DeleteMerchant {
        /// Of which tenant.
        tenant: TenantId,
        /// Which.
        merchant: MerchantId,
    },
    /// Closes a device without open work that no chip depends on; its connection ends at once.
    DeleteDevice {
        /// Which.
        device: Principal,
    },
    /// Closes a person without open work and without a balance; their connections end at once.
    DeletePerson {
        /// Who.
        person: Principal,
    },
    /// Closes an observer; its connections end at once.
    DeleteObserver {
        /// Who.
        observer: Principal,
    },
    /// Ends the token of a person, device or observer; their connections end at once.
    RevokeToken {
        /// Whose.
        principal: Principal,
    },
    /// Commands that register, change or delete, one after the other: all of them are carried out, or none.
    Batch {
        /// At most [`crate::limits::BATCH_COMMANDS`].
        commands: Vec<AdminCommand>,
        /// Only say what would happen.
        #[serde(default)]
        check_only: bool,
    },
    /// Ends connections: all of a principal, or one.
    Disconnect {
        /// Whose.
        #[serde(default)]
        principal: Option<Principal>,
        /// Which one.
        #[serde(default)]
        connection: Option<ConnectionId>,
    },
    /// The lane takes no new connections and ends those there are; the shell does it once this is in the journal.
    Drain {
        /// Connections ended in a second; 0: take connections again.
        per_second: u32,
        /// Where clients shall go instead, `host:port`.
        #[serde(default)]
        reference: Option<String>,
    },
    /// Pays money out of an internal account, once per reference.
    Withdraw {
        /// Of which tenant.
        tenant: TenantId,
        /// `person/NAME` or `merchant/NAME`.
        account: String,
        /// How much.
        amount: Money,
        /// The same reference is booked once.
        reference: String,
    },
    /// Ends a device's standing at once; its open payments are settled as unknown (correctness.md 20).
    RevokeDevice {
        /// Which.
        device: Principal,
    },
    /// Pays money into an internal account, once per reference.
    Deposit {
        /// Whose account.
        person: Principal,
        /// How much.
        amount: Money,
        /// The same reference is booked once.
        reference: String,
    },
    /// Resolves an entry of the exceptions queue; repeating it changes nothing.
    ResolvePayment {
        /// Which payment.
        payment: PaymentId,
        /// How.
        resolution: Resolution,
    },
    /// Who is owed messages, most first; or each of these, in their order.
    ListOutbox {
        /// Whose; all if empty.
        #[serde(default)]
        principals: Vec<Principal>,
    },
    /// What was refused lately, newest first. Volatile; the journal has more of it.
    ListRefusals,
    /// Rows of one listing that match.
    Find {
        /// What.
        listing: Listing,
        /// Which.
        #[serde(default)]
        filter: Filter,
    },
    /// All tenants.
    ListTenants,
    /// All devices.
    ListDevices,
    /// All persons.
    ListPersons,
    /// All merchants.
    ListMerchants,
    /// All accounts of our ledger.
    ListAccounts,
    /// Payments, newest first.
    ListPayments {
        /// Only those not yet at rest.
        open_only: bool,
    },
    /// The exceptions queue.
    ListExceptions,
    /// Whether the books agree with themselves, and totals to compare with a bank.
    Books,
    /// Whether the asker may read the journal's history, which is beside the core. Answered with done.
    ReadHistory,
}

/// How an operator resolves an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// Give (or try again to give) the money back.
    Refund,
    /// Take it as delivered: the merchant is paid, or what already happened stands.
    Accept,
    /// The money can't be given back: it goes to the tenant's suspense account.
    WriteOff,
}
