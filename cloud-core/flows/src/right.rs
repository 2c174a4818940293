//! Who may give which command. Here, and nowhere else, each command has its least role (PL-4).
//!
//! Whoever reaches the local socket is the platform itself and may do everything. Everybody else is an operator with a
//! certificate of our authority and a role, whose standing is looked up for each command: a revocation counts at once.

use schemas::ids::{Instance, Principal, TenantId};
use serde::{Deserialize, Serialize};

use crate::admin::{AdminAnswer, AdminCommand, RefusalReport};
use crate::cloud::Cloud;
use crate::registry::{RESERVED_TENANT, Standing};
use crate::rejection::Rejection;

/// What an operator who is not at the local socket may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorRole {
    /// Looks at everything, changes nothing.
    Auditor,
    /// Looks at everything, and does the day's work: claims, tokens, revocations, the exceptions queue.
    Operator,
    /// Does everything within one tenant, and sees nothing of others.
    TenantAdmin,
}

impl OperatorRole {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auditor => "auditor",
            Self::Operator => "operator",
            Self::TenantAdmin => "tenant-admin",
        }
    }
}

/// What an operator was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// What they may do.
    pub role: OperatorRole,
    /// Where, for [`OperatorRole::TenantAdmin`].
    pub tenant: Option<TenantId>,
}

/// What a command needs.
#[derive(Debug, PartialEq, Eq)]
enum Need<'a> {
    /// To look; a tenant's admin is shown the rows of that tenant.
    Look,
    /// To look at what can't be told apart by tenant.
    LookAtAll,
    /// The day's work for a tenant.
    Work(&'a TenantId),
    /// To change what is registered in a tenant, or its money.
    Manage(&'a TenantId),
    /// To be at the local socket.
    Platform,
}

/// A new command is added here first: the compiler asks for it.
fn need<'a>(cloud: &'a Cloud, command: &'a AdminCommand) -> Need<'a> {
    let need = match command {
        AdminCommand::CreateTenant { .. }
        | AdminCommand::ChangeTenant { .. }
        | AdminCommand::DeleteTenant { .. }
        | AdminCommand::CreateOperator { .. } => Need::Platform,
        // They end what belongs to several tenants, or to nobody knows whom.
        AdminCommand::Drain { .. } | AdminCommand::Disconnect { connection: Some(_), .. } => Need::Platform,
        AdminCommand::Disconnect { principal, .. } => {
            principal.as_ref().map_or(Need::Platform, |principal| Need::Work(&principal.tenant))
        }
        // Its commands are looked at one by one; what is left here is a batch within a batch.
        AdminCommand::Batch { .. } => Need::Platform,
        AdminCommand::CreateMerchant { tenant, .. }
        | AdminCommand::ChangeMerchant { tenant, .. }
        | AdminCommand::DeleteMerchant { tenant, .. }
        | AdminCommand::SetPlace { tenant, .. }
        | AdminCommand::RemovePlace { tenant, .. }
        | AdminCommand::Withdraw { tenant, .. } => Need::Manage(tenant),
        AdminCommand::CreateDevice { device, .. }
        | AdminCommand::ChangeDevice { device, .. }
        | AdminCommand::DeleteDevice { device } => Need::Manage(&device.tenant),
        AdminCommand::BindChip { chip, .. } | AdminCommand::UnbindChip { chip } => Need::Manage(&chip.tenant),
        AdminCommand::BindChild { child, .. } | AdminCommand::UnbindChild { child } => {
            Need::Manage(&child.tenant)
        }
        AdminCommand::CreatePerson { person, .. }
        | AdminCommand::ChangePerson { person, .. }
        | AdminCommand::DeletePerson { person }
        | AdminCommand::Deposit { person, .. } => Need::Manage(&person.tenant),
        AdminCommand::CreateObserver { observer } | AdminCommand::DeleteObserver { observer } => {
            Need::Manage(&observer.tenant)
        }
        AdminCommand::CreateClaim { device, .. } | AdminCommand::RevokeDevice { device } => {
            Need::Work(&device.tenant)
        }
        AdminCommand::CreateToken { principal, .. }
        | AdminCommand::RotateToken { principal, .. }
        | AdminCommand::RevokeToken { principal } => Need::Work(&principal.tenant),
        // Of a payment that is not in memory nothing can be resolved by anybody.
        AdminCommand::ResolvePayment { payment, .. } => {
            cloud.any_payment(*payment).map_or(Need::Platform, |found| Need::Work(found.tenant()))
        }
        AdminCommand::ListTenants
        | AdminCommand::ListDevices
        | AdminCommand::ListPersons
        | AdminCommand::ListMerchants
        | AdminCommand::ListAccounts
        | AdminCommand::ListPayments { .. }
        | AdminCommand::ListExceptions
        | AdminCommand::ListOutbox { .. }
        | AdminCommand::Find { .. } => Need::Look,
        AdminCommand::Books | AdminCommand::ReadHistory | AdminCommand::ListRefusals => Need::LookAtAll,
    };
    match need {
        // Operators themselves: otherwise one could make a claim for a better one.
        Need::Work(tenant) | Need::Manage(tenant) if tenant.as_str() == RESERVED_TENANT => Need::Platform,
        need => need,
    }
}

/// Whether the operator may give this command now, and if only for one tenant, which.
///
/// # Errors
/// `not_an_operator`: no current certificate; `not_allowed`: not with this role.
pub(crate) fn check(
    cloud: &Cloud,
    operator: &Principal,
    instance: Instance,
    command: &AdminCommand,
) -> Result<Option<TenantId>, Rejection> {
    let identity = cloud
        .registry
        .device(operator)
        .filter(|found| found.standing == Standing::Enrolled && found.instance == instance);
    let granted = identity.and_then(|_| cloud.registry.operator(operator)).ok_or_else(|| {
        let text = "this certificate is no operator's, or no longer: ask for a new claim code";
        Rejection::new("not_an_operator", text)
    })?;
    let own = granted.tenant.as_ref();
    let may = |command| match (granted.role, need(cloud, command)) {
        (_, Need::Look) => true,
        (OperatorRole::Auditor | OperatorRole::Operator, Need::LookAtAll) => true,
        (OperatorRole::Operator, Need::Work(_)) => true,
        (OperatorRole::TenantAdmin, Need::Work(tenant) | Need::Manage(tenant)) => own == Some(tenant),
        _ => false,
    };
    // Who may not give each command of a batch may not give the batch.
    let commands = match command {
        AdminCommand::Batch { commands, .. } => commands.as_slice(),
        one => std::slice::from_ref(one),
    };
    if commands.iter().all(may) {
        return Ok(own.cloned());
    }
    let text = format!("the role `{}` may not do this: ask whoever runs the platform", granted.role.as_str());
    Err(Rejection::new("not_allowed", text))
}

/// Leaves only the rows of one tenant.
pub(crate) fn narrow(cloud: &Cloud, answer: &mut AdminAnswer, tenant: &TenantId) {
    match answer {
        AdminAnswer::Done | AdminAnswer::Books(_) | AdminAnswer::Batch(_) => {}
        AdminAnswer::Outbox(rows) => rows.retain(|row| row.principal.tenant == *tenant),
        // Nobody who is bound to a tenant may ask for these.
        AdminAnswer::Refusals(report) => *report = RefusalReport::default(),
        AdminAnswer::Deleted(rows) => {
            rows.retain(|row| row.name.split('/').nth(1) == Some(tenant.as_str()));
        }
        AdminAnswer::Tenants(rows) => rows.retain(|row| row.tenant == *tenant),
        AdminAnswer::Operators(rows) => rows.retain(|row| row.tenant.as_ref() == Some(tenant)),
        AdminAnswer::Devices(rows) => rows.retain(|row| row.device.tenant == *tenant),
        AdminAnswer::Persons(rows) => rows.retain(|row| row.person.tenant == *tenant),
        AdminAnswer::Observers(rows) => rows.retain(|row| row.observer.tenant == *tenant),
        AdminAnswer::Merchants(rows) => rows.retain(|row| row.tenant == *tenant),
        AdminAnswer::Accounts(rows) => rows.retain(|row| row.tenant == *tenant),
        AdminAnswer::Payments(rows) => rows.retain(|row| row.payer.tenant == *tenant),
        AdminAnswer::Exceptions(rows) => rows.retain(|row| {
            let payment = row.payment.and_then(|id| cloud.any_payment(id));
            payment.is_some_and(|payment| payment.tenant() == tenant)
        }),
        AdminAnswer::Children(rows) => rows.retain(|row| row.child.tenant == *tenant),
        AdminAnswer::ChildPayments(rows) => rows.retain(|row| row.child.tenant == *tenant),
        AdminAnswer::Places(rows) => rows.retain(|row| row.tenant == *tenant),
    }
}
