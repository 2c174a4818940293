//! Who and what is registered: tenants, merchants, devices, chips, persons, claims, tokens (CP-15).

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{Code, Hash, Instance, ItemId, MerchantId, Principal, PrincipalId, TenantId};
use schemas::message::DeviceReport;
use schemas::money::Currency;
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use schemas::topic::Role;
use serde::{Deserialize, Serialize};

use crate::admin::{AdminCommand, BankKind, Deadlines, OnUnknown};
use crate::children::Child;
use crate::limits;
use crate::places::{CodeRules, PlacesOfTenant};
use crate::rejection::Rejection;
use crate::right::{Operator, OperatorRole};

/// The tenant of the platform's own health probe; nobody may create it.
pub const RESERVED_TENANT: &str = "farthing";

/// A company with its own books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its only currency.
    pub currency: Currency,
    /// Where its money is.
    pub bank: BankKind,
    /// What to do when nobody knows whether it was delivered.
    pub on_unknown: OnUnknown,
    /// How long each party is given.
    pub deadlines: Deadlines,
    /// How long codes are valid.
    #[serde(default, skip_serializing_if = "CodeRules::is_default")]
    pub code_rules: CodeRules,
    /// What must stay on a child's account when a payment is suggested to go through it, in minor units (PC-11).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub child_keep_minor: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Who is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merchant {
    /// As payers see it.
    pub title: String,
    /// Is told of payments and may refund them.
    pub terminal: Option<PrincipalId>,
}

/// Whether a device may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Known, not yet enrolled.
    Registered,
    /// Its current enrolment may connect.
    Enrolled,
    /// No longer.
    Revoked,
}

/// A chip, an executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `payment-chip`, `vending-executor`.
    pub profile: String,
    /// For executors: the longest that one act takes, in milliseconds.
    pub longest_act_ms: u64,
    /// Whether it may connect.
    pub standing: Standing,
    /// Number of the current enrolment; 0 before the first.
    pub instance: Instance,
    /// Of the current enrolment.
    pub public_key: Option<PublicKey>,
    /// Of the current enrolment: claim and certificate (DER), to answer the same question again.
    pub enrolment: Option<(Hash, serde_bytes::ByteBuf)>,
    /// The last renewal within the current enrolment, to answer the same question again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
    /// For a chip: for whom it sells and who delivers.
    pub binding: Option<Binding>,
    /// How it last said it is.
    pub last_report: Option<LastReport>,
}

impl Device {
    fn new(profile: String, longest_act_ms: u64) -> Self {
        Self {
            profile,
            longest_act_ms,
            standing: Standing::Registered,
            instance: Instance(0),
            public_key: None,
            enrolment: None,
            renewal: None,
            binding: None,
            last_report: None,
        }
    }

    /// Why it is not ready, if it said so lately (CP-17). Older words count for nothing: then it is asked.
    pub(crate) fn not_ready(&self, now: Timestamp) -> Option<&Code> {
        let last = self.last_report.as_ref().filter(|last| now <= last.at.plus_ms(limits::REPORT_LIFE_MS))?;
        last.report.not_ready.as_ref()
    }
}

/// A certificate that took the place of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// Serial number of the certificate with which it was asked for.
    pub of_serial: serde_bytes::ByteBuf,
    /// When the new one ends.
    pub not_after: Timestamp,
    /// The new one (DER).
    pub certificate: serde_bytes::ByteBuf,
}

/// What a device said of itself, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReport {
    /// When the cloud heard it.
    pub at: Timestamp,
    /// What it said.
    pub report: DeviceReport,
}

/// What a chip is tied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// For whom it sells.
    pub merchant: MerchantId,
    /// Who delivers, unless `items` says otherwise.
    pub executor: Option<PrincipalId>,
    /// Who delivers particular items.
    pub items: BTreeMap<ItemId, PrincipalId>,
}

impl Binding {
    /// Who delivers `item` (CP-8).
    pub fn executor_of(&self, item: &ItemId) -> Option<&PrincipalId> {
        self.items.get(item).or(self.executor.as_ref())
    }
}

/// A payer, or somebody at a merchant's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Of their verifications.
    pub public_key: Option<PublicKey>,
    /// Account at the tenant's bank.
    pub bank_account: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) device: Principal,
    expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    hash: Hash,
    expires_at: Timestamp,
    /// The one before, and when it ends: while a rotation goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<(Hash, Timestamp)>,
}

impl Token {
    fn is_good(&self, hash: Hash, now: Timestamp) -> bool {
        let former = self.former.filter(|(former, until)| *former == hash && now < *until);
        former.is_some() || (self.hash == hash && now < self.expires_at)
    }
}

/// Everything registered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    pub(crate) tenants: BTreeMap<TenantId, Tenant>,
    pub(crate) merchants: BTreeMap<(TenantId, MerchantId), Merchant>,
    pub(crate) devices: BTreeMap<Principal, Device>,
    pub(crate) persons: BTreeMap<Principal, Person>,
    /// Persons whose accounts guardians may order payments from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) children: BTreeMap<Principal, Child>,
    /// Derived from the children: which of them uses which device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) piggy_banks: BTreeMap<Principal, Principal>,
    /// Derived from the children: whom each guardian guards.
    #[serde(skip)]
    pub(crate) wards: BTreeMap<Principal, BTreeSet<Principal>>,
    /// Derived from the children: when allowances are due.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) allowances_due: BTreeSet<(Timestamp, Principal, PrincipalId)>,
    /// Where children may pay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) places: BTreeMap<TenantId, PlacesOfTenant>,
    /// Their certificates are kept as devices' are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) operators: BTreeMap<Principal, Operator>,
    /// They have a name and perhaps a token, and nothing else.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) observers: BTreeSet<Principal>,
    pub(crate) claims: BTreeMap<Hash, Claim>,
    pub(crate) tokens: BTreeMap<Principal, Token>,
    /// Names of what was deleted, and when; not given again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) deleted: BTreeMap<String, Timestamp>,
}

impl Registry {
    /// A tenant.
    pub fn tenant(&self, tenant: &TenantId) -> Option<&Tenant> {
        self.tenants.get(tenant)
    }

    /// A device.
    pub fn device(&self, device: &Principal) -> Option<&Device> {
        self.devices.get(device)
    }

    /// A person.
    pub fn person(&self, person: &Principal) -> Option<&Person> {
        self.persons.get(person)
    }

    /// An operator who has a certificate, or a claim for one.
    pub fn operator(&self, operator: &Principal) -> Option<&Operator> {
        self.operators.get(operator)
    }

    /// What somebody may do on the lane.
    pub fn role(&self, principal: &Principal) -> Role {
        if self.observers.contains(principal) { Role::Observer } else { Role::Party }
    }

    /// A merchant.
    pub fn merchant(&self, tenant: &TenantId, merchant: &MerchantId) -> Option<&Merchant> {
        self.merchants.get(&(tenant.clone(), merchant.clone()))
    }

    /// The terminal of a merchant.
    pub fn merchant_terminal(&self, tenant: &TenantId, merchant: &MerchantId) -> Option<Principal> {
        let id = self.merchant(tenant, merchant)?.terminal.clone()?;
        Some(Principal { tenant: tenant.clone(), id })
    }

    pub(crate) fn token_is_good(&self, principal: &Principal, hash: Hash, now: Timestamp) -> bool {
        // Hashes of 256-bit random tokens: comparing them in variable time tells nothing about a token.
        self.tokens.get(principal).is_some_and(|token| token.is_good(hash, now))
    }

    pub(crate) fn claim_is_good(&self, claim: Hash, device: &Principal, now: Timestamp) -> bool {
        self.claims.get(&claim).is_some_and(|found| found.device == *device && now < found.expires_at)
    }

    /// Whether a registering command changes something: `Ok(false)` where it was carried out before.
    ///
    /// # Errors
    /// A rejection that names what is missing or what stands against it.
    pub(crate) fn check(&self, command: &AdminCommand, now: Timestamp) -> Result<bool, Rejection> {
        check_lengths(command)?;
        self.refuse_deleted(command)?;
        match command {
            AdminCommand::CreateTenant { tenant, currency, bank, on_unknown, deadlines, code_rules } => {
                if tenant.as_str() == RESERVED_TENANT {
                    return Err(Rejection::new(
                        "reserved",
                        "the tenant `farthing` is the platform's own: choose another name",
                    ));
                }
                check_deadlines(deadlines)?;
                code_rules.check()?;
                let (bank, on_unknown, code_rules) = (bank.clone(), *on_unknown, *code_rules);
                let new = Tenant {
                    currency: *currency,
                    bank,
                    on_unknown,
                    deadlines: *deadlines,
                    code_rules,
                    child_keep_minor: 0,
                };
                same_or_new(self.tenants.get(tenant), &new, "tenant", tenant)
            }
            AdminCommand::CreateMerchant { tenant, merchant, title, terminal } => {
                self.require_tenant(tenant)?;
                check_title(title)?;
                let new = Merchant { title: title.clone(), terminal: terminal.clone() };
                same_or_new(self.merchant(tenant, merchant), &new, "merchant", merchant)
            }
            AdminCommand::CreateDevice { device, profile, longest_act_ms } => {
                self.require_tenant(&device.tenant)?;
                self.refuse_other(device, "device")?;
                match self.devices.get(device) {
                    Some(d) if d.profile == *profile && d.longest_act_ms == *longest_act_ms => Ok(false),
                    Some(_) => Err(exists("device", device)),
                    None => Ok(true),
                }
            }
            AdminCommand::BindChip { chip, merchant, executor, items } => {
                let device = self.require_device(chip)?;
                self.require_merchant(&chip.tenant, merchant)?;
                for id in executor.iter().chain(items.values()) {
                    self.require_device(&Principal { tenant: chip.tenant.clone(), id: id.clone() })?;
                }
                let new =
                    Binding { merchant: merchant.clone(), executor: executor.clone(), items: items.clone() };
                Ok(device.binding.as_ref() != Some(&new))
            }
            AdminCommand::BindChild { child, bonds } => self.check_child(child, bonds),
            AdminCommand::SetPlace { tenant, entry } => self.check_place(tenant, entry),
            AdminCommand::CreatePerson { person, public_key, bank_account } => {
                self.require_tenant(&person.tenant)?;
                self.refuse_other(person, "person")?;
                let new = Person { public_key: *public_key, bank_account: bank_account.clone() };
                same_or_new(self.persons.get(person), &new, "person", person)
            }
            AdminCommand::CreateOperator { role, tenant, .. } => {
                match (role, tenant) {
                    (OperatorRole::TenantAdmin, Some(tenant)) => {
                        self.require_tenant(tenant)?;
                    }
                    (OperatorRole::Auditor | OperatorRole::Operator, None) => {}
                    _ => {
                        let text = "a tenant-admin needs a tenant, and the other roles have none";
                        return Err(Rejection::new("tenant_mismatch", text));
                    }
                }
                self.check_operator(command)
            }
            AdminCommand::CreateObserver { observer } => {
                self.require_tenant(&observer.tenant)?;
                self.refuse_other(observer, "observer")?;
                Ok(!self.observers.contains(observer))
            }
            AdminCommand::CreateClaim { device, claim_hash, expires_at } => {
                self.require_device(device)?;
                if *expires_at <= now {
                    return Err(Rejection::new(
                        "expired",
                        "the claim would have ended already: give it a later end",
                    ));
                }
                let new = Claim { device: device.clone(), expires_at: *expires_at };
                same_or_new(self.claims.get(claim_hash), &new, "claim", device)
            }
            AdminCommand::CreateToken { principal, expires_at, token_hash } => {
                self.require_principal(principal)?;
                if *expires_at <= now {
                    return Err(Rejection::new(
                        "expired",
                        "the token would have ended already: give it a later end",
                    ));
                }
                let new = Token { hash: *token_hash, expires_at: *expires_at, former: None };
                Ok(self.tokens.get(principal) != Some(&new))
            }
            AdminCommand::RotateToken { principal, expires_at, token_hash, .. } => {
                let Some(found) = self.tokens.get(principal).filter(|found| now < found.expires_at) else {
                    return Err(Rejection::new(
                        "token_unknown",
                        format!("`{principal}` has no token to rotate: make one with `admin token create`"),
                    ));
                };
                if *expires_at <= now {
                    return Err(Rejection::new(
                        "expired",
                        "the token would have ended already: give it a later end",
                    ));
                }
                // The same again must not make the new token its own former one.
                Ok(found.hash != *token_hash)
            }
            _ => Ok(false),
        }
    }

    /// Applies a registering command. Replay: total.
    pub(crate) fn register(&mut self, command: &AdminCommand, at: Timestamp) {
        match command.clone() {
            AdminCommand::CreateTenant { tenant, currency, bank, on_unknown, deadlines, code_rules } => {
                let new = Tenant { currency, bank, on_unknown, deadlines, code_rules, child_keep_minor: 0 };
                self.tenants.insert(tenant, new);
            }
            AdminCommand::CreateMerchant { tenant, merchant, title, terminal } => {
                self.merchants.insert((tenant, merchant), Merchant { title, terminal });
            }
            AdminCommand::CreateDevice { device, profile, longest_act_ms } => {
                self.devices.insert(device, Device::new(profile, longest_act_ms));
            }
            AdminCommand::BindChip { chip, merchant, executor, items } => {
                if let Some(device) = self.devices.get_mut(&chip) {
                    device.binding = Some(Binding { merchant, executor, items });
                }
            }
            command @ (AdminCommand::BindChild { .. } | AdminCommand::UnbindChild { .. }) => {
                self.bind_child(command);
            }
            AdminCommand::SetPlace { tenant, entry } => self.set_place(tenant, entry, at),
            AdminCommand::RemovePlace { tenant, place } => self.remove_place(&tenant, &place, at),
            AdminCommand::CreatePerson { person, public_key, bank_account } => {
                self.persons.insert(person, Person { public_key, bank_account });
            }
            AdminCommand::CreateOperator { operator, role, tenant } => {
                if let Some(name) = operator_name(&operator) {
                    let profile = tenant.as_ref().map_or_else(
                        || role.as_str().to_owned(),
                        |tenant| format!("{} of {tenant}", role.as_str()),
                    );
                    self.devices.insert(name.clone(), Device::new(profile, 0));
                    self.operators.insert(name, Operator { role, tenant });
                }
            }
            AdminCommand::CreateObserver { observer } => {
                self.observers.insert(observer);
            }
            AdminCommand::CreateClaim { device, claim_hash, expires_at } => {
                self.claims.insert(claim_hash, Claim { device, expires_at });
            }
            AdminCommand::CreateToken { principal, token_hash, expires_at } => {
                self.tokens.insert(principal, Token { hash: token_hash, expires_at, former: None });
            }
            AdminCommand::RotateToken { principal, token_hash, expires_at, former_until } => {
                let found = self.tokens.get(&principal);
                let former = found.map(|found| (found.hash, found.expires_at.min(former_until)));
                self.tokens.insert(principal, Token { hash: token_hash, expires_at, former });
            }
            _ => self.change(command, at),
        }
    }

    pub(crate) fn enrol(
        &mut self,
        principal: &Principal,
        instance: Instance,
        public_key: PublicKey,
        claim: Hash,
        certificate: &[u8],
    ) {
        self.claims.remove(&claim);
        if let Some(device) = self.devices.get_mut(principal) {
            device.standing = Standing::Enrolled;
            device.instance = instance;
            device.public_key = Some(public_key);
            device.last_report = None;
            device.enrolment = Some((claim, serde_bytes::ByteBuf::from(certificate)));
            device.renewal = None;
        }
    }

    pub(crate) fn renew(&mut self, principal: &Principal, renewal: Renewal) {
        if let Some(device) = self.devices.get_mut(principal) {
            device.renewal = Some(renewal);
        }
    }

    pub(crate) fn report(&mut self, device: &Principal, report: &DeviceReport, at: Timestamp) {
        if let Some(device) = self.devices.get_mut(device) {
            device.last_report = Some(LastReport { at, report: report.clone() });
        }
    }

    pub(crate) fn revoke(&mut self, device: &Principal) {
        self.forget_claims(device);
        self.forget_token(device);
        if let Some(device) = self.devices.get_mut(device) {
            device.standing = Standing::Revoked;
        }
    }

    pub(crate) fn forget_claims(&mut self, device: &Principal) {
        self.claims.retain(|_, claim| claim.device != *device);
    }

    pub(crate) fn has_token(&self, principal: &Principal) -> bool {
        self.tokens.contains_key(principal)
    }

    pub(crate) fn forget_token(&mut self, principal: &Principal) {
        self.tokens.remove(principal);
    }

    pub(crate) fn forget_operator(&mut self, operator: &Principal) {
        self.operators.remove(operator);
    }

    pub(crate) fn require_tenant(&self, tenant: &TenantId) -> Result<&Tenant, Rejection> {
        self.tenants.get(tenant).ok_or_else(|| {
            Rejection::new(
                "tenant_unknown",
                format!("no tenant `{tenant}`: create it with `admin tenants create`"),
            )
        })
    }

    pub(crate) fn require_device(&self, device: &Principal) -> Result<&Device, Rejection> {
        self.devices.get(device).ok_or_else(|| {
            Rejection::new(
                "device_unknown",
                format!("no device `{device}`: create it with `admin devices create`"),
            )
        })
    }

    fn check_operator(&self, command: &AdminCommand) -> Result<bool, Rejection> {
        let AdminCommand::CreateOperator { operator, role, tenant } = command else { return Ok(false) };
        let new = Operator { role: *role, tenant: tenant.clone() };
        let found = operator_name(operator).and_then(|name| self.operators.get(&name));
        same_or_new(found, &new, "operator", operator)
    }

    pub(crate) fn require_merchant(
        &self,
        tenant: &TenantId,
        merchant: &MerchantId,
    ) -> Result<&Merchant, Rejection> {
        self.merchant(tenant, merchant).ok_or_else(|| {
            let text =
                format!("no merchant `{merchant}` of `{tenant}`: create it with `admin merchants create`");
            Rejection::new("merchant_unknown", text)
        })
    }

    pub(crate) fn require_person(&self, person: &Principal) -> Result<&Person, Rejection> {
        self.persons.get(person).ok_or_else(|| {
            let text = format!("no person `{person}`: create it with `admin people create`");
            Rejection::new("person_unknown", text)
        })
    }

    pub(crate) fn require_observer(&self, observer: &Principal) -> Result<(), Rejection> {
        if self.observers.contains(observer) {
            return Ok(());
        }
        let text = format!("no observer `{observer}`: create it with `admin observers create`");
        Err(Rejection::new("observer_unknown", text))
    }

    pub(crate) fn require_principal(&self, principal: &Principal) -> Result<(), Rejection> {
        if self.kind_of(principal).is_some() {
            return Ok(());
        }
        let text = format!("no person, device or observer `{principal}`: create it first");
        Err(Rejection::new("principal_unknown", text))
    }

    fn kind_of(&self, principal: &Principal) -> Option<&'static str> {
        let kinds = [
            ("device", self.devices.contains_key(principal)),
            ("person", self.persons.contains_key(principal)),
            ("observer", self.observers.contains(principal)),
        ];
        kinds.into_iter().find_map(|(kind, is_one)| is_one.then_some(kind))
    }

    /// Devices, people and observers share their names, so that each name has one meaning.
    fn refuse_other(&self, name: &Principal, kind: &str) -> Result<(), Rejection> {
        match self.kind_of(name).filter(|taken| *taken != kind) {
            Some(taken) => {
                let text = format!("`{name}` is taken, by the {taken} of this name: choose another one");
                Err(Rejection::new("name_taken", text))
            }
            None => Ok(()),
        }
    }
}

/// `farthing/NAME`: of the tenant that nobody may create.
pub(crate) fn operator_name(operator: &PrincipalId) -> Option<Principal> {
    Some(Principal { tenant: RESERVED_TENANT.parse().ok()?, id: operator.clone() })
}

fn same_or_new<T: PartialEq>(
    found: Option<&T>,
    new: &T,
    what: &str,
    name: &dyn std::fmt::Display,
) -> Result<bool, Rejection> {
    match found {
        Some(found) if found == new => Ok(false),
        Some(_) => Err(exists(what, name)),
        None => Ok(true),
    }
}

fn exists(what: &str, name: &dyn std::fmt::Display) -> Rejection {
    Rejection::new(
        "exists_with_other_content",
        format!("{what} `{name}` exists with other content: nothing was changed"),
    )
}

/// A command becomes one record of the journal, which has a limit.
fn check_lengths(command: &AdminCommand) -> Result<(), Rejection> {
    let (texts, items): (Vec<&String>, usize) = match command {
        AdminCommand::CreateTenant { bank: BankKind::Http { url, holding }, .. } => (vec![url, holding], 0),
        AdminCommand::CreateDevice { profile, .. } => (vec![profile], 0),
        AdminCommand::CreatePerson { bank_account, .. } => (bank_account.iter().collect(), 0),
        AdminCommand::BindChip { items, .. } => (vec![], items.len()),
        AdminCommand::BindChild { bonds, .. } => (vec![&bonds.time_zone], 0),
        _ => (vec![], 0),
    };
    texts.into_iter().try_for_each(|text| check_text(text))?;
    if items > limits::ITEMS_OF_CHIP {
        return Err(Rejection::new(
            "too_many_items",
            "a chip ties at most 256 items to executors of their own",
        ));
    }
    Ok(())
}

pub(crate) fn check_text(text: &str) -> Result<(), Rejection> {
    if text.len() > limits::REGISTERED_TEXT_BYTES {
        return Err(Rejection::new("text_too_long", "profile, address and account have at most 200 bytes"));
    }
    Ok(())
}

pub(crate) fn check_title(title: &str) -> Result<(), Rejection> {
    if title.is_empty() || title.len() > 120 {
        return Err(Rejection::new("title_invalid", "a merchant's title has 1 to 120 bytes"));
    }
    Ok(())
}

/// Zero would end everything at once, and a week is longer than anybody waits at a machine.
pub(crate) fn check_deadlines(d: &Deadlines) -> Result<(), Rejection> {
    let all = [
        d.health_check_ms,
        d.verification_ms,
        d.bank_ms,
        d.presence_ms,
        d.start_ms,
        d.report_ms,
        d.command_status_ms,
        d.reconnect_ms,
        d.bank_retry_ms,
        d.prompt_ms,
    ];
    // Shorter, and an exception's payment would be looked at without end.
    if d.retention_ms < 60_000 {
        return Err(Rejection::new("deadline_invalid", "closed payments stay for at least a minute"));
    }
    if all.iter().any(|ms| !(1..=7 * 24 * 3_600_000).contains(ms)) {
        return Err(Rejection::new("deadline_invalid", "every deadline lies between 1 ms and 7 days"));
    }
    Ok(())
}
