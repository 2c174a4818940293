//! Taking back what a batch tried.

use std::collections::BTreeMap;

use schemas::ids::{Hash, MerchantId, Principal, TenantId};
use schemas::time::Timestamp;

use crate::admin::AdminCommand;
use crate::children::Child;
use crate::places::PlacesOfTenant;
use crate::registry::{Claim, Device, Merchant, Person, Registry, Tenant, Token, operator_name};
use crate::right::Operator;
use crate::upkeep::deleted_name;

/// What one command can change in the registry, as it was: nothing where there was nothing.
#[derive(Debug, Default)]
pub(crate) struct Before {
    tenant: Option<(TenantId, Option<Tenant>)>,
    merchant: Option<((TenantId, MerchantId), Option<Merchant>)>,
    principal: Option<(Principal, OfPrincipal)>,
    child: Option<(Principal, Option<Child>)>,
    places: Option<(TenantId, Option<PlacesOfTenant>)>,
    claims: Vec<(Hash, Option<Claim>)>,
    deleted: Option<(String, Option<Timestamp>)>,
}

#[derive(Debug)]
struct OfPrincipal {
    device: Option<Device>,
    person: Option<Person>,
    operator: Option<Operator>,
    is_observer: bool,
    token: Option<Token>,
}

impl Registry {
    /// What [`Registry::register`] can change for this command.
    pub(crate) fn before(&self, command: &AdminCommand) -> Before {
        let mut before = Before::default();
        match command {
            AdminCommand::CreateTenant { tenant, .. }
            | AdminCommand::ChangeTenant { tenant, .. }
            | AdminCommand::DeleteTenant { tenant } => {
                before.tenant = Some((tenant.clone(), self.tenants.get(tenant).cloned()));
            }
            AdminCommand::CreateMerchant { tenant, merchant, .. }
            | AdminCommand::ChangeMerchant { tenant, merchant, .. }
            | AdminCommand::DeleteMerchant { tenant, merchant } => {
                let name = (tenant.clone(), merchant.clone());
                before.merchant = Some((name.clone(), self.merchants.get(&name).cloned()));
            }
            AdminCommand::CreateDevice { device: principal, .. }
            | AdminCommand::ChangeDevice { device: principal, .. }
            | AdminCommand::DeleteDevice { device: principal }
            | AdminCommand::BindChip { chip: principal, .. }
            | AdminCommand::UnbindChip { chip: principal }
            | AdminCommand::CreatePerson { person: principal, .. }
            | AdminCommand::ChangePerson { person: principal, .. }
            | AdminCommand::DeletePerson { person: principal }
            | AdminCommand::CreateObserver { observer: principal }
            | AdminCommand::DeleteObserver { observer: principal }
            | AdminCommand::CreateToken { principal, .. }
            | AdminCommand::RotateToken { principal, .. }
            | AdminCommand::RevokeToken { principal } => {
                before.principal = Some(self.of_principal(principal))
            }
            AdminCommand::BindChild { child, .. } | AdminCommand::UnbindChild { child } => {
                before.child = Some((child.clone(), self.child(child).cloned()));
            }
            AdminCommand::SetPlace { tenant, .. } | AdminCommand::RemovePlace { tenant, .. } => {
                before.places = Some((tenant.clone(), self.places.get(tenant).cloned()));
            }
            AdminCommand::CreateOperator { operator, .. } => {
                before.principal = operator_name(operator).map(|name| self.of_principal(&name));
            }
            AdminCommand::CreateClaim { claim_hash, .. } => {
                before.claims.push((*claim_hash, self.claims.get(claim_hash).cloned()));
            }
            // Nothing else is part of a batch.
            _ => {}
        }
        if let AdminCommand::DeleteDevice { device } = command {
            let own = self.claims.iter().filter(|(_, claim)| claim.device == *device);
            before.claims.extend(own.map(|(hash, claim)| (*hash, Some(claim.clone()))));
        }
        before.deleted = deleted_name(command).map(|name| {
            let at = self.deleted.get(&name).copied();
            (name, at)
        });
        before
    }

    fn of_principal(&self, principal: &Principal) -> (Principal, OfPrincipal) {
        let found = OfPrincipal {
            device: self.devices.get(principal).cloned(),
            person: self.persons.get(principal).cloned(),
            operator: self.operators.get(principal).cloned(),
            is_observer: self.observers.contains(principal),
            token: self.tokens.get(principal).cloned(),
        };
        (principal.clone(), found)
    }

    /// As it was. The last command is taken back first.
    pub(crate) fn take_back(&mut self, before: Before) {
        let Before { tenant, merchant, principal, child, places, claims, deleted } = before;
        tenant.into_iter().for_each(|(name, was)| put(&mut self.tenants, name, was));
        merchant.into_iter().for_each(|(name, was)| put(&mut self.merchants, name, was));
        if let Some((name, was)) = principal {
            put(&mut self.devices, name.clone(), was.device);
            put(&mut self.persons, name.clone(), was.person);
            put(&mut self.operators, name.clone(), was.operator);
            if was.is_observer {
                self.observers.insert(name.clone());
            } else {
                self.observers.remove(&name);
            }
            put(&mut self.tokens, name, was.token);
        }
        child.into_iter().for_each(|(name, was)| self.put_child(&name, was));
        places.into_iter().for_each(|(name, was)| put(&mut self.places, name, was));
        claims.into_iter().for_each(|(hash, was)| put(&mut self.claims, hash, was));
        deleted.into_iter().for_each(|(name, was)| put(&mut self.deleted, name, was));
    }
}

fn put<K: Ord, V>(entries: &mut BTreeMap<K, V>, key: K, was: Option<V>) {
    match was {
        Some(was) => entries.insert(key, was),
        None => entries.remove(&key),
    };
}
