//! What operators hear.

use schemas::ids::{
    Instance, ItemId, MerchantId, PaymentId, PlaceId, Principal, PrincipalId, TenantId, WishId,
};
use schemas::message::{Categories, ChildLimits, Payee, PaymentMode, PaymentState};
use schemas::money::{Currency, Money};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use serde::{Deserialize, Serialize};

use super::{BankKind, Deadlines, OnUnknown};
use crate::children::{Bonds, Wish};
use crate::places::{CodeRules, RegisteredPlace};
use crate::port::ConnectionId;
use crate::registry::LastReport;
use crate::rejection::Rejection;
use crate::right::OperatorRole;

/// The reply: an answer, or a rejection with code and sentence.
pub type AdminReply = Result<AdminAnswer, Rejection>;

/// What an operator hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "rows", rename_all = "snake_case")]
pub enum AdminAnswer {
    /// Done, or done before.
    Done,
    /// Tenants.
    Tenants(Vec<TenantRow>),
    /// Devices.
    Devices(Vec<DeviceRow>),
    /// Persons.
    Persons(Vec<PersonRow>),
    /// Observers.
    Observers(Vec<ObserverRow>),
    /// Merchants.
    Merchants(Vec<MerchantRow>),
    /// Accounts.
    Accounts(Vec<AccountRow>),
    /// Payments.
    Payments(Vec<PaymentRow>),
    /// Children.
    Children(Vec<ChildRow>),
    /// Payments from children's accounts.
    ChildPayments(Vec<ChildPaymentRow>),
    /// Places.
    Places(Vec<PlaceRow>),
    /// Exceptions.
    Exceptions(Vec<ExceptionRow>),
    /// Operators.
    Operators(Vec<OperatorRow>),
    /// What was deleted.
    Deleted(Vec<DeletedRow>),
    /// Who is owed what.
    Outbox(Vec<OutboxRow>),
    /// What was refused lately.
    Refusals(RefusalReport),
    /// What a batch did, or would do.
    Batch(BatchReport),
    /// Books.
    Books(BooksReport),
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    /// Name.
    pub tenant: TenantId,
    /// Currency.
    pub currency: Currency,
    /// Where its money is.
    pub bank: BankKind,
    /// Policy for unknown outcomes.
    pub on_unknown: OnUnknown,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// How long codes are valid.
    #[serde(default)]
    pub code_rules: CodeRules,
    /// What must stay on a child's account when a payment is suggested to go through it, in minor units (PC-11).
    #[serde(default)]
    pub child_keep_minor: u64,
}

/// What is known of somebody's connection. Volatile: of those not seen since the core's start nothing is
/// (correctness.md 13).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Whether a connection stands.
    pub connected: bool,
    /// Since when that is so; none: not seen since the core's start.
    pub since: Option<Timestamp>,
    /// What `state` or the will said last, as text of at most 64 characters.
    pub state: Option<String>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Who.
    pub device: Principal,
    /// Profile.
    pub profile: String,
    /// `registered`, `enrolled`, `revoked`.
    pub standing: String,
    /// Enrolment number; 0 before the first.
    pub instance: Instance,
    /// Whether it is connected.
    #[serde(flatten)]
    pub presence: Presence,
    /// Messages that it is owed.
    pub owed: usize,
    /// For a chip: for whom it sells.
    pub merchant: Option<MerchantId>,
    /// For a chip: who delivers.
    pub executor: Option<PrincipalId>,
    /// How it last said it is (CP-17).
    pub last_report: Option<LastReport>,
}

/// An operator who administers from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRow {
    /// Who.
    pub operator: PrincipalId,
    /// What they may do.
    pub role: OperatorRole,
    /// Where, for a tenant's admin.
    pub tenant: Option<TenantId>,
    /// `registered`, `enrolled`, `revoked`.
    pub standing: String,
    /// Enrolment number; 0 before the first.
    pub instance: Instance,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonRow {
    /// Who.
    pub person: Principal,
    /// Account at the bank.
    pub bank_account: Option<String>,
    /// Whether they can verify payments.
    pub can_verify: bool,
    /// Whether a terminal is connected.
    #[serde(flatten)]
    pub presence: Presence,
    /// Messages that they are owed.
    pub owed: usize,
}

/// Somebody who only listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserverRow {
    /// Who.
    pub observer: Principal,
    /// Whether they are connected.
    #[serde(flatten)]
    pub presence: Presence,
}

/// A merchant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerchantRow {
    /// Of which tenant.
    pub tenant: TenantId,
    /// Name.
    pub merchant: MerchantId,
    /// As payers see it.
    pub title: String,
    /// Its terminal.
    pub terminal: Option<PrincipalId>,
}

/// An account of our ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRow {
    /// Of which tenant.
    pub tenant: TenantId,
    /// `bank`, `holding`, `cash`, `suspense`, `merchant/NAME`, `person/NAME`.
    pub account: String,
    /// Booked to its debit.
    pub debits_posted: Money,
    /// Booked to its credit.
    pub credits_posted: Money,
    /// Reserved to its debit.
    pub debits_pending: Money,
    /// Reserved to its credit.
    pub credits_pending: Money,
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRow {
    /// Which.
    pub payment: PaymentId,
    /// Who pays.
    pub payer: Principal,
    /// Through which chip.
    pub chip: Principal,
    /// Who is paid.
    pub merchant: MerchantId,
    /// The order's amount.
    pub amount: Money,
    /// What the payer has paid in the end.
    pub paid: Money,
    /// What is bought.
    pub item: ItemId,
    /// Units ordered.
    pub quantity: u32,
    /// Units delivered.
    pub delivered: u32,
    /// Its state.
    pub state: PaymentState,
    /// Whether it is at rest: final, or in the exceptions queue.
    pub at_rest: bool,
    /// Why, where there is something to explain.
    pub reason: Option<String>,
    /// When it began.
    pub opened_at: Timestamp,
}

/// A child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRow {
    /// Who.
    pub child: Principal,
    /// Who and what belongs to it.
    pub bonds: Bonds,
    /// What a guardian has set.
    pub limits: Option<ChildLimits>,
    /// What its account has and has not reserved.
    pub available: Money,
    /// What its payments of today have taken or reserved.
    pub spent_today: Money,
    /// Its wishes: those that wait, and then the newest that have ended.
    #[serde(default)]
    pub wishes: Vec<WishRow>,
}

/// A wish of a child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WishRow {
    /// Which.
    pub id: WishId,
    /// As the core keeps it.
    #[serde(flatten)]
    pub wish: Wish,
}

/// A payment from a child's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildPaymentRow {
    /// Which.
    pub payment: PaymentId,
    /// Who ordered it.
    pub guardian: Principal,
    /// Whose account pays.
    pub child: Principal,
    /// Where the child was asked.
    pub piggy_bank: Principal,
    /// Who gets the money.
    pub payee: Payee,
    /// What is taken.
    pub amount: Money,
    /// What was ordered.
    pub ordered: Money,
    /// What the child has paid in the end.
    pub paid: Money,
    /// What it is for.
    pub categories: Categories,
    /// How the child pays; none: a deduction.
    #[serde(default)]
    pub mode: Option<PaymentMode>,
    /// The only place where its code counts, if there is only one.
    #[serde(default)]
    pub place: Option<PlaceId>,
    /// While a code is presented: when it expires.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// Its state.
    pub state: PaymentState,
    /// Whether it is final.
    pub at_rest: bool,
    /// Why, where there is something to explain.
    pub reason: Option<String>,
    /// When it was ordered.
    pub opened_at: Timestamp,
}

/// A place where children may pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceRow {
    /// Of which tenant.
    pub tenant: TenantId,
    /// The place, who is paid there, and who scans.
    #[serde(flatten)]
    pub entry: RegisteredPlace,
    /// Of all places of the tenant: higher with each change.
    pub version: u64,
}

/// An entry of the exceptions queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionRow {
    /// Which payment, where there is one.
    pub payment: Option<PaymentId>,
    /// Which case: `unknown_outcome`, `delivered_after_refund`, `contradiction`, `refund_blocked`, `bank_unreachable`,
    /// `outcome_without_payment`.
    pub case: String,
    /// What happened, and what the operator can do.
    pub text: String,
    /// Since when.
    pub raised_at: Timestamp,
}

/// What a principal is owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// Who.
    pub principal: Principal,
    /// How many messages.
    pub owed: usize,
    /// What the oldest is.
    pub oldest_kind: Option<Kind>,
    /// Until when the oldest is owed.
    pub oldest_expires_at: Option<Timestamp>,
}

/// What was refused lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalReport {
    /// Newest first, at most [`crate::limits::RECENT_REFUSALS`].
    pub refusals: Vec<RefusalRow>,
    /// How often each reason was given since the start of the core, most often first.
    pub counts: Vec<RefusalCount>,
    /// How many were not written down since the start, as there were too many in a minute. The journal has the number
    /// for each minute.
    #[serde(default)]
    pub unrecorded: u64,
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalRow {
    /// When.
    pub at: Timestamp,
    /// On which connection; none for enrolments.
    pub connection: Option<ConnectionId>,
    /// To whom, where known.
    pub principal: Option<Principal>,
    /// What was tried.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// How often a reason was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalCount {
    /// The reason.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// Something that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedRow {
    /// `tenant/NAME`, `merchant/TENANT/NAME`, `principal/TENANT/NAME`.
    pub name: String,
    /// When.
    pub deleted_at: Timestamp,
}

/// What a batch did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReport {
    /// Commands that change something.
    pub changes: usize,
    /// Commands that had been carried out before.
    pub repeats: usize,
    /// Whether it was carried out, and not only checked.
    pub applied: bool,
}

/// Whether the books agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BooksReport {
    /// Debits equal credits, reserved equals the open reservations.
    pub balanced: bool,
    /// What is wrong, where something is.
    pub problem: Option<String>,
    /// Payments not at rest.
    pub open_payments: usize,
    /// Entries in the exceptions queue.
    pub exceptions: usize,
    /// Per tenant with an HTTP bank: what its holding account there must show now, if nothing is under way.
    pub holdings: Vec<(TenantId, Money)>,
}
