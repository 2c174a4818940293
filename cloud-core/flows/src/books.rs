//! Which accounts there are, and which transfers each step of a payment makes.
//!
//! With an HTTP bank: `bank` mirrors the tenant's holding account there, `holding` owes that money until delivery.
//! Paid: bank -> holding. Claim reserved: holding -> merchant. Delivered: the claim is posted. Given back:
//! holding -> bank, once the bank has confirmed. With an internal bank: person -> merchant is reserved, then posted
//! or voided (correctness.md 19).

use cloud_core_ledger::{
    AccountId, BalanceLimit, Ledger, LedgerCode, Movement, OpenAccount, Transfer, TransferId, TransferStatus,
};
use schemas::ids::{MerchantId, MessageId, PaymentId, Principal, PrincipalId, TenantId};
use schemas::message::Payee;
use schemas::money::{Currency, Money};
use schemas_mutants::Mutant;

use crate::admin::{AdminCommand, BankKind};
use crate::cloud::Cloud;
use crate::payment::{ChildPayment, ChipPayment, OwnPayment, Phase, RefundEnd};
use crate::registry::Registry;

/// An account by its role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role<'a> {
    /// Mirror of the tenant's holding account at its bank.
    Bank,
    /// Paid and not yet delivered.
    Holding,
    /// Where deposits into internal accounts come from.
    Cash,
    /// What could not be given back.
    Suspense,
    /// What a merchant has earned.
    Merchant(&'a MerchantId),
    /// A person's internal account.
    Person(&'a Principal),
}

impl Role<'_> {
    /// The account's id in the ledger.
    pub(crate) fn account(&self, tenant: &TenantId) -> AccountId {
        AccountId(hash_id("account", &[tenant.as_str().as_bytes(), self.to_string().as_bytes()]))
    }

    fn limit(&self) -> BalanceLimit {
        match self {
            Role::Bank | Role::Cash | Role::Suspense => BalanceLimit::Unlimited,
            Role::Holding | Role::Merchant(_) | Role::Person(_) => BalanceLimit::DebitsMustNotExceedCredits,
        }
    }

    fn code(&self) -> u16 {
        match self {
            Role::Bank => 1,
            Role::Holding => 2,
            Role::Cash => 3,
            Role::Suspense => 4,
            Role::Merchant(_) => 5,
            Role::Person(_) => 6,
        }
    }

    fn opening(&self, tenant: &TenantId, currency: Currency) -> OpenAccount {
        OpenAccount {
            id: self.account(tenant),
            currency: LedgerCode(currency.numeric()),
            code: self.code(),
            limit: self.limit(),
        }
    }
}

impl std::fmt::Display for Role<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Role::Bank => f.write_str("bank"),
            Role::Holding => f.write_str("holding"),
            Role::Cash => f.write_str("cash"),
            Role::Suspense => f.write_str("suspense"),
            Role::Merchant(merchant) => write!(f, "merchant/{merchant}"),
            Role::Person(person) => write!(f, "person/{}", person.id),
        }
    }
}

/// The accounts that a registering command opens.
pub(crate) fn accounts_of(command: &AdminCommand, registry: &Registry) -> Vec<OpenAccount> {
    match command {
        AdminCommand::CreateTenant { tenant, currency, bank, .. } => {
            let roles: &[Role<'_>] = match bank {
                BankKind::Internal => &[Role::Cash, Role::Suspense],
                BankKind::Http { .. } => &[Role::Bank, Role::Holding, Role::Suspense],
            };
            roles.iter().map(|role| role.opening(tenant, *currency)).collect()
        }
        AdminCommand::CreateMerchant { tenant, merchant, .. } => {
            let currency = registry.tenant(tenant).map(|found| found.currency);
            currency.map(|currency| Role::Merchant(merchant).opening(tenant, currency)).into_iter().collect()
        }
        AdminCommand::CreatePerson { person, .. } => registry
            .tenant(&person.tenant)
            .filter(|tenant| tenant.bank == BankKind::Internal)
            .map(|tenant| Role::Person(person).opening(&person.tenant, tenant.currency))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

/// All accounts with their names, for operators.
pub(crate) fn named_accounts(registry: &Registry) -> Vec<(TenantId, String, AccountId)> {
    let mut named = Vec::new();
    let mut add = |tenant: &TenantId, role: Role<'_>| {
        named.push((tenant.clone(), role.to_string(), role.account(tenant)));
    };
    for tenant in registry.tenants.keys() {
        [Role::Bank, Role::Holding, Role::Cash, Role::Suspense]
            .into_iter()
            .for_each(|role| add(tenant, role));
    }
    for (tenant, merchant) in registry.merchants.keys() {
        add(tenant, Role::Merchant(merchant));
    }
    for person in registry.persons.keys() {
        add(&person.tenant, Role::Person(person));
    }
    named
}

/// A deposit into an internal account, once per reference.
pub(crate) fn deposit(person: &Principal, minor: u64, currency: Currency, reference: &str) -> Transfer {
    let tenant = &person.tenant;
    let id = hash_id("deposit", &[person.to_string().as_bytes(), reference.as_bytes()]);
    let movement = Movement::new(
        Role::Cash.account(tenant),
        Role::Person(person).account(tenant),
        minor,
        LedgerCode(currency.numeric()),
    );
    Transfer::post(TransferId(id), movement)
}

/// A payment from a person's own account.
pub(crate) fn own_payment(payment: &OwnPayment) -> Transfer {
    let tenant = &payment.payer.tenant;
    let payee = |id: &PrincipalId| Principal { tenant: tenant.clone(), id: id.clone() };
    let credit = match &payment.payee {
        Payee::Guardian => Role::Person(&payment.payer).account(tenant),
        Payee::Person(id) => Role::Person(&payee(id)).account(tenant),
        Payee::Merchant(merchant) => Role::Merchant(merchant).account(tenant),
    };
    let amount = payment.amount;
    let debit = Role::Person(&payment.payer).account(tenant);
    let movement = Movement::new(debit, credit, amount.minor, LedgerCode(amount.currency.numeric()));
    named(payment.id, Transfer::post(allowance_id(payment.id), movement))
}

/// One payment of an allowance.
pub(crate) fn allowance(payment: PaymentId, from: &Principal, to: &Principal, amount: Money) -> Transfer {
    let (debit, credit) = (Role::Person(from).account(&from.tenant), Role::Person(to).account(&to.tenant));
    let movement = Movement::new(debit, credit, amount.minor, LedgerCode(amount.currency.numeric()));
    named(payment, Transfer::post(allowance_id(payment), movement))
}

pub(crate) fn allowance_id(payment: PaymentId) -> TransferId {
    leg_id(payment, "paid")
}

/// A withdrawal from an internal account, once per reference.
pub(crate) fn withdrawal(
    tenant: &TenantId,
    (account, name): (AccountId, &str),
    minor: u64,
    currency: Currency,
    reference: &str,
) -> Transfer {
    let parts = [tenant.as_str().as_bytes(), name.as_bytes(), reference.as_bytes()];
    let currency = LedgerCode(currency.numeric());
    let movement = Movement::new(account, Role::Cash.account(tenant), minor, currency);
    Transfer::post(TransferId(hash_id("withdrawal", &parts)), movement)
}

/// The transfers of one payment. Their ids follow from the payment, so that a step can never be booked twice.
pub(crate) struct Legs<'a> {
    payment: &'a ChipPayment,
    internal: bool,
}

impl<'a> Legs<'a> {
    pub(crate) fn of(payment: &'a ChipPayment, bank: &BankKind) -> Self {
        Self { payment, internal: *bank == BankKind::Internal }
    }

    /// The bank has moved the money into holding.
    pub(crate) fn paid(&self) -> Transfer {
        let amount = self.payment.amount.minor;
        self.named(Transfer::post(self.id("paid"), self.movement(Role::Bank, Role::Holding, amount)))
    }

    /// The merchant's claim, or with an internal bank the payer's money, is reserved. It has no timeout of its own:
    /// only the flow ends it (correctness.md 15).
    pub(crate) fn reserve(&self) -> Transfer {
        let from = if self.internal { Role::Person(&self.payment.payer) } else { Role::Holding };
        let movement = self.movement(from, Role::Merchant(&self.payment.merchant), self.payment.amount.minor);
        let timeout_ms = Mutant::ReservationEndsEarly.is_active().then_some(10_000);
        self.named(Transfer::reserve(self.id("reserve"), movement, timeout_ms))
    }

    /// Delivered: all of the reservation, or a part with the rest released.
    pub(crate) fn post(&self, amount_minor: u64) -> Transfer {
        self.named(Transfer::post_pending(self.id("post"), self.id("reserve"), Some(amount_minor)))
    }

    /// Not delivered: the reservation is released.
    pub(crate) fn void(&self) -> Transfer {
        self.named(Transfer::void_pending(self.id("void"), self.id("reserve")))
    }

    /// The bank has confirmed that the money went back: what was not delivered, or later what the merchant returned.
    pub(crate) fn given_back(&self, amount_minor: u64, end: RefundEnd) -> Transfer {
        let leg = if end == RefundEnd::Returned { "returned-given-back" } else { "given-back" };
        self.named(Transfer::post(self.id(leg), self.movement(Role::Holding, Role::Bank, amount_minor)))
    }

    /// A merchant gives back what it had earned: into holding, from where the bank refunds; or to the person.
    pub(crate) fn returned_by_merchant(&self, amount_minor: u64) -> Transfer {
        let to = if self.internal { Role::Person(&self.payment.payer) } else { Role::Holding };
        let movement = self.movement(Role::Merchant(&self.payment.merchant), to, amount_minor);
        self.named(Transfer::post(self.id("returned"), movement))
    }

    /// Whether the merchant's account covers a return. Asked before booking: a transfer that the ledger has refused
    /// stays refused, and the merchant may pay in and try again.
    pub(crate) fn merchant_covers(&self, ledger: &Ledger, amount_minor: u64) -> bool {
        let account = Role::Merchant(&self.payment.merchant).account(&self.payment.payer.tenant);
        ledger.available(account).is_some_and(|available| available >= amount_minor)
    }

    /// An operator gives up giving it back.
    pub(crate) fn written_off(&self, amount_minor: u64) -> Transfer {
        self.named(Transfer::post(
            self.id("written-off"),
            self.movement(Role::Holding, Role::Suspense, amount_minor),
        ))
    }

    /// Every id that the payment may have used, to be forgotten with it.
    pub(crate) fn all_ids(payment: PaymentId) -> Vec<TransferId> {
        let legs = [
            "paid",
            "reserve",
            "post",
            "void",
            "given-back",
            "returned",
            "returned-given-back",
            "written-off",
        ];
        legs.iter().map(|leg| leg_id(payment, leg)).collect()
    }

    fn named(&self, transfer: Transfer) -> Transfer {
        named(self.payment.id, transfer)
    }

    fn id(&self, leg: &str) -> TransferId {
        leg_id(self.payment.id, leg)
    }

    fn movement(&self, debit: Role<'_>, credit: Role<'_>, amount_minor: u64) -> Movement {
        let tenant = &self.payment.payer.tenant;
        let currency = LedgerCode(self.payment.amount.currency.numeric());
        Movement::new(debit.account(tenant), credit.account(tenant), amount_minor, currency)
    }
}

/// The transfers of a payment from a child's account: reserved by the order, posted by the child's word or voided.
pub(crate) struct ChildLegs<'a> {
    payment: &'a ChildPayment,
}

impl<'a> ChildLegs<'a> {
    pub(crate) fn of(payment: &'a ChildPayment) -> Self {
        Self { payment }
    }

    /// No timeout of its own: only the flow ends it (correctness.md 15).
    pub(crate) fn reserve(&self) -> Transfer {
        let movement = self.movement(self.child_account(), self.payee_account());
        self.named(Transfer::reserve(self.id("reserve"), movement, None))
    }

    /// The child has confirmed.
    pub(crate) fn post(&self) -> Transfer {
        self.named(Transfer::post_pending(self.id("post"), self.id("reserve"), None))
    }

    /// It has not.
    pub(crate) fn void(&self) -> Transfer {
        self.named(Transfer::void_pending(self.id("void"), self.id("reserve")))
    }

    /// The payee gives it back.
    pub(crate) fn given_back(&self) -> Transfer {
        let movement = self.movement(self.payee_account(), self.child_account());
        self.named(Transfer::post(self.id("returned"), movement))
    }

    /// Where the money goes.
    pub(crate) fn payee_account(&self) -> AccountId {
        let tenant = &self.payment.child.tenant;
        match &self.payment.payee {
            Payee::Guardian => Role::Person(&self.payment.guardian).account(tenant),
            Payee::Person(id) => {
                Role::Person(&Principal { tenant: tenant.clone(), id: id.clone() }).account(tenant)
            }
            Payee::Merchant(merchant) => Role::Merchant(merchant).account(tenant),
        }
    }

    fn child_account(&self) -> AccountId {
        Role::Person(&self.payment.child).account(&self.payment.child.tenant)
    }

    fn movement(&self, debit: AccountId, credit: AccountId) -> Movement {
        let amount = self.payment.amount;
        Movement::new(debit, credit, amount.minor, LedgerCode(amount.currency.numeric()))
    }

    /// Every id that the payment may have used, to be forgotten with it.
    pub(crate) fn all_ids(payment: PaymentId) -> Vec<TransferId> {
        ["reserve", "post", "void", "returned"].iter().map(|leg| leg_id(payment, leg)).collect()
    }

    fn named(&self, transfer: Transfer) -> Transfer {
        named(self.payment.id, transfer)
    }

    fn id(&self, leg: &str) -> TransferId {
        leg_id(self.payment.id, leg)
    }
}

/// Every transfer names its payment, so that the payment's story finds it in the journal.
fn named(payment: PaymentId, transfer: Transfer) -> Transfer {
    transfer.with_user_data(u128::from_be_bytes(payment.0))
}

/// The holding account owes exactly what the payments say: what is not yet delivered, and what is not yet given back.
pub(crate) fn check_claims(cloud: &Cloud) -> Result<(), String> {
    for (tenant, found) in &cloud.registry().tenants {
        if found.bank == BankKind::Internal {
            continue;
        }
        let payments = cloud.payments().filter(|payment| payment.payer.tenant == *tenant);
        let owed: u64 = payments.map(owed_minor).sum();
        let holding = cloud.ledger().account(Role::Holding.account(tenant));
        let held = holding.map_or(0, |account| account.credits_posted.saturating_sub(account.debits_posted));
        if held != owed {
            return Err(format!("tenant {tenant} holds {held} minor units and owes {owed}"));
        }
    }
    // A child is asked only while its money is reserved, and never longer.
    for payment in cloud.child_payments() {
        let reserved = cloud.ledger().transfer(ChildLegs::of(payment).id("reserve"));
        let is_open = reserved.is_some_and(|record| matches!(record.status, TransferStatus::Reserved { .. }));
        if is_open == payment.at_rest() {
            return Err(format!("payment {} is {} and its reservation is not", payment.id, payment.state()));
        }
    }
    Ok(())
}

fn owed_minor(payment: &ChipPayment) -> u64 {
    match payment.phase {
        Phase::Commanded | Phase::Asked { .. } | Phase::Held => payment.amount.minor,
        _ => payment.owed_back_minor(),
    }
}

/// What the tenant's holding account at its bank must show when nothing is under way, in minor units.
pub(crate) fn holding_minor(ledger: &Ledger, tenant: &TenantId) -> u64 {
    let mirror = ledger.account(Role::Bank.account(tenant));
    mirror.map_or(0, |account| account.debits_posted.saturating_sub(account.credits_posted))
}

fn leg_id(payment: PaymentId, leg: &str) -> TransferId {
    TransferId(hash_id("transfer", &[&payment.0, leg.as_bytes()]))
}

fn hash_id(label: &str, parts: &[&[u8]]) -> u128 {
    u128::from_be_bytes(MessageId::derived(label, parts).0)
}
