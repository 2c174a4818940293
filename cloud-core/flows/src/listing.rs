//! What operators see: rows of what is registered, of payments and of accounts, filtered (CP-15).

use schemas::ids::{Principal, TenantId};
use schemas::message::PaymentState;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;

use crate::admin::{
    AccountRow, AdminAnswer, AdminCommand, BankKind, BooksReport, ChildPaymentRow, ChildRow, DeletedRow,
    DeviceRow, Filter, Listing, MerchantRow, ObserverRow, OperatorRow, OutboxRow, PaymentRow, PersonRow,
    PlaceRow, Presence, TenantRow, WishRow,
};
use crate::books::{self, Role};
use crate::children::Child;
use crate::cloud::Cloud;
use crate::limits;
use crate::payment::{ChildPayment, ChipPayment};
use crate::registry::Standing;

/// What operators see; nothing changes.
pub(crate) fn look(
    cloud: &Cloud,
    command: &AdminCommand,
    presence: &dyn Fn(&Principal) -> Presence,
) -> AdminAnswer {
    let all = Filter::default();
    match command {
        AdminCommand::Find { listing, filter } => find(cloud, *listing, filter, presence),
        AdminCommand::ListOutbox { principals } => AdminAnswer::Outbox(outbox(cloud, principals)),
        AdminCommand::ListTenants => find(cloud, Listing::Tenants, &all, presence),
        AdminCommand::ListDevices => find(cloud, Listing::Devices, &all, presence),
        AdminCommand::ListPersons => find(cloud, Listing::Persons, &all, presence),
        AdminCommand::ListMerchants => find(cloud, Listing::Merchants, &all, presence),
        AdminCommand::ListAccounts => find(cloud, Listing::Accounts, &all, presence),
        AdminCommand::ListPayments { open_only } => AdminAnswer::Payments(payments(cloud, *open_only, &all)),
        AdminCommand::ListExceptions => AdminAnswer::Exceptions(cloud.exceptions.rows(limits::ADMIN_ROWS)),
        AdminCommand::ReadHistory => AdminAnswer::Done,
        _ => AdminAnswer::Books(report(cloud)),
    }
}

fn find(
    cloud: &Cloud,
    listing: Listing,
    filter: &Filter,
    presence: &dyn Fn(&Principal) -> Presence,
) -> AdminAnswer {
    match listing {
        Listing::Tenants => AdminAnswer::Tenants(tenants(cloud, filter)),
        Listing::Merchants => AdminAnswer::Merchants(merchants(cloud, filter)),
        Listing::Devices => AdminAnswer::Devices(devices(cloud, presence, filter)),
        Listing::Persons => AdminAnswer::Persons(persons(cloud, presence, filter)),
        Listing::Observers => AdminAnswer::Observers(observers(cloud, presence, filter)),
        Listing::Accounts => AdminAnswer::Accounts(accounts(cloud, filter)),
        Listing::Payments => AdminAnswer::Payments(payments(cloud, false, filter)),
        Listing::Operators => AdminAnswer::Operators(operators(cloud, filter)),
        Listing::Children => AdminAnswer::Children(children(cloud, filter)),
        Listing::ChildPayments => AdminAnswer::ChildPayments(child_payments(cloud, filter)),
        Listing::Places => AdminAnswer::Places(places(cloud, filter)),
        Listing::Deleted => AdminAnswer::Deleted(deleted(cloud, filter)),
    }
}

impl Filter {
    fn takes(&self, tenant: Option<&TenantId>, name: &str) -> bool {
        self.tenant.as_ref().is_none_or(|wanted| Some(wanted) == tenant)
            && self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self.contains.as_ref().is_none_or(|part| name.contains(part))
            && self.after.as_ref().is_none_or(|after| name > after.as_str())
    }

    fn takes_state(&self, state: &str) -> bool {
        self.state.as_ref().is_none_or(|wanted| wanted == state)
    }

    fn takes_payment(&self, row: &PaymentRow) -> bool {
        let named = |part: &String| {
            [&row.payer, &row.chip].iter().any(|party| party.to_string().contains(part))
                || row.merchant.as_str().contains(part)
                || row.item.as_str().contains(part)
        };
        self.tenant.as_ref().is_none_or(|tenant| *tenant == row.payer.tenant)
            && self.name.as_ref().is_none_or(|name| *name == row.payment.to_string())
            && self.contains.as_ref().is_none_or(named)
            && self.state.as_ref().is_none_or(|wanted| payment_state(wanted) == Some(row.state))
    }
}

/// The state of this name, as it is written on the wire.
fn payment_state(name: &str) -> Option<PaymentState> {
    let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    PaymentState::deserialize(name).ok()
}

fn tenants(cloud: &Cloud, filter: &Filter) -> Vec<TenantRow> {
    let rows = cloud.registry.tenants.iter();
    let rows =
        rows.filter(|(tenant, _)| filter.takes(Some(tenant), tenant.as_str())).take(limits::ADMIN_ROWS);
    rows.map(|(tenant, found)| TenantRow {
        tenant: tenant.clone(),
        currency: found.currency,
        bank: found.bank.clone(),
        on_unknown: found.on_unknown,
        deadlines: found.deadlines,
        code_rules: found.code_rules,
        child_keep_minor: found.child_keep_minor,
    })
    .collect()
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Registered => "registered",
        Standing::Enrolled => "enrolled",
        Standing::Revoked => "revoked",
    }
}

fn devices(cloud: &Cloud, presence: &dyn Fn(&Principal) -> Presence, filter: &Filter) -> Vec<DeviceRow> {
    let rows = cloud.registry.devices.iter();
    // Operators have certificates as devices have, and a listing of their own.
    let rows = rows.filter(|(device, found)| {
        cloud.registry.operator(device).is_none()
            && filter.takes(Some(&device.tenant), &device.to_string())
            && filter.takes_state(standing_name(found.standing))
    });
    let rows = rows.take(limits::ADMIN_ROWS);
    rows.map(|(device, found)| DeviceRow {
        device: device.clone(),
        profile: found.profile.clone(),
        standing: standing_name(found.standing).to_owned(),
        instance: found.instance,
        presence: presence(device),
        owed: cloud.outbox.depth(device),
        merchant: found.binding.as_ref().map(|binding| binding.merchant.clone()),
        executor: found.binding.as_ref().and_then(|binding| binding.executor.clone()),
        last_report: found.last_report.clone(),
    })
    .collect()
}

fn operators(cloud: &Cloud, filter: &Filter) -> Vec<OperatorRow> {
    let rows = cloud.registry.operators.iter().filter_map(|(operator, granted)| {
        let found = cloud.registry.device(operator)?;
        Some(OperatorRow {
            operator: operator.id.clone(),
            role: granted.role,
            tenant: granted.tenant.clone(),
            standing: standing_name(found.standing).to_owned(),
            instance: found.instance,
        })
    });
    let rows = rows.filter(|row| {
        filter.takes(row.tenant.as_ref(), row.operator.as_str()) && filter.takes_state(&row.standing)
    });
    rows.take(limits::ADMIN_ROWS).collect()
}

fn persons(cloud: &Cloud, presence: &dyn Fn(&Principal) -> Presence, filter: &Filter) -> Vec<PersonRow> {
    let rows = cloud.registry.persons.iter();
    let rows = rows.filter(|(person, _)| filter.takes(Some(&person.tenant), &person.to_string()));
    let rows = rows.take(limits::ADMIN_ROWS);
    rows.map(|(person, found)| PersonRow {
        person: person.clone(),
        bank_account: found.bank_account.clone(),
        can_verify: found.public_key.is_some(),
        presence: presence(person),
        owed: cloud.outbox.depth(person),
    })
    .collect()
}

fn observers(cloud: &Cloud, presence: &dyn Fn(&Principal) -> Presence, filter: &Filter) -> Vec<ObserverRow> {
    let rows = cloud.registry.observers.iter();
    let rows = rows.filter(|observer| filter.takes(Some(&observer.tenant), &observer.to_string()));
    rows.take(limits::ADMIN_ROWS)
        .map(|observer| ObserverRow { observer: observer.clone(), presence: presence(observer) })
        .collect()
}

fn merchants(cloud: &Cloud, filter: &Filter) -> Vec<MerchantRow> {
    let rows = cloud.registry.merchants.iter();
    let rows = rows.filter(|((tenant, id), _)| filter.takes(Some(tenant), &format!("{tenant}/{id}")));
    let rows = rows.take(limits::ADMIN_ROWS);
    rows.map(|((tenant, merchant), found)| MerchantRow {
        tenant: tenant.clone(),
        merchant: merchant.clone(),
        title: found.title.clone(),
        terminal: found.terminal.clone(),
    })
    .collect()
}

fn accounts(cloud: &Cloud, filter: &Filter) -> Vec<AccountRow> {
    let wanted = |(tenant, account, _): &(TenantId, String, _)| {
        filter.takes(Some(tenant), &format!("{tenant}/{account}"))
    };
    let row = |(tenant, account, id)| {
        let found = cloud.ledger.account(id)?;
        let currency = cloud.registry.tenant(&tenant)?.currency;
        Some(AccountRow {
            tenant,
            account,
            debits_posted: currency.minor(found.debits_posted),
            credits_posted: currency.minor(found.credits_posted),
            debits_pending: currency.minor(found.debits_pending),
            credits_pending: currency.minor(found.credits_pending),
        })
    };
    let named = books::named_accounts(&cloud.registry).into_iter().filter(wanted);
    named.filter_map(row).take(limits::ADMIN_ROWS).collect()
}

fn outbox(cloud: &Cloud, principals: &[Principal]) -> Vec<OutboxRow> {
    let row = |principal: &Principal| {
        let oldest = cloud.outbox.messages(principal).next();
        OutboxRow {
            principal: principal.clone(),
            owed: cloud.outbox.depth(principal),
            oldest_kind: oldest.map(|owed| owed.kind),
            oldest_expires_at: oldest.map(|owed| owed.expires_at),
        }
    };
    let mut rows: Vec<_> = if principals.is_empty() {
        cloud.outbox.principals().map(row).collect()
    } else {
        principals.iter().map(row).collect()
    };
    if principals.is_empty() {
        rows.sort_by_key(|row| std::cmp::Reverse(row.owed));
    }
    rows.truncate(limits::ADMIN_ROWS);
    rows
}

fn deleted(cloud: &Cloud, filter: &Filter) -> Vec<DeletedRow> {
    let rows = cloud.registry.deleted.iter().filter(|(name, _)| {
        let tenant = name.split('/').nth(1);
        filter.takes(None, name)
            || filter.tenant.as_ref().is_some_and(|wanted| {
                Some(wanted.as_str()) == tenant && Filter { tenant: None, ..filter.clone() }.takes(None, name)
            })
    });
    rows.map(|(name, at)| DeletedRow { name: name.clone(), deleted_at: *at })
        .take(limits::ADMIN_ROWS)
        .collect()
}

fn payments(cloud: &Cloud, open_only: bool, filter: &Filter) -> Vec<PaymentRow> {
    let wanted = cloud.payments().filter(|payment| !open_only || !payment.at_rest());
    let mut rows: Vec<_> = wanted.map(payment_row).filter(|row| filter.takes_payment(row)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.opened_at));
    rows.truncate(limits::ADMIN_ROWS);
    rows
}

fn payment_row(payment: &ChipPayment) -> PaymentRow {
    PaymentRow {
        payment: payment.id,
        payer: payment.payer.clone(),
        chip: payment.chip.clone(),
        merchant: payment.merchant.clone(),
        amount: payment.amount,
        paid: payment.amount.currency.minor(payment.paid_minor),
        item: payment.item.clone(),
        quantity: payment.quantity,
        delivered: payment.delivered(),
        state: payment.state(),
        at_rest: payment.at_rest(),
        reason: payment.reason.as_ref().map(ToString::to_string),
        opened_at: payment.opened_at,
    }
}

fn children(cloud: &Cloud, filter: &Filter) -> Vec<ChildRow> {
    let rows = cloud.registry.children.iter();
    let rows = rows.filter(|(child, _)| filter.takes(Some(&child.tenant), &child.to_string()));
    let row = |(child, found): (&Principal, &Child)| {
        let currency = cloud.registry.tenant(&child.tenant)?.currency;
        let available = cloud.ledger.available(Role::Person(child).account(&child.tenant));
        Some(ChildRow {
            child: child.clone(),
            bonds: found.bonds.clone(),
            limits: found.limits.clone(),
            available: currency.minor(available.unwrap_or_default()),
            spent_today: currency.minor(found.spent_on_day_of(cloud.at())),
            wishes: found.wishes.iter().map(|(id, wish)| WishRow { id, wish: wish.clone() }).collect(),
        })
    };
    rows.filter_map(row).take(limits::ADMIN_ROWS).collect()
}

fn child_payments(cloud: &Cloud, filter: &Filter) -> Vec<ChildPaymentRow> {
    let takes = |payment: &&ChildPayment| {
        let named = |part: &String| payment.parties().iter().any(|party| party.to_string().contains(part));
        filter.tenant.as_ref().is_none_or(|tenant| *tenant == payment.child.tenant)
            && filter.name.as_ref().is_none_or(|name| *name == payment.id.to_string())
            && filter.contains.as_ref().is_none_or(named)
            && filter.state.as_ref().is_none_or(|wanted| payment_state(wanted) == Some(payment.state()))
    };
    let mut rows: Vec<_> = cloud.child_payments().filter(takes).map(child_payment_row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.opened_at));
    rows.truncate(limits::ADMIN_ROWS);
    rows
}

fn child_payment_row(payment: &ChildPayment) -> ChildPaymentRow {
    ChildPaymentRow {
        payment: payment.id,
        guardian: payment.guardian.clone(),
        child: payment.child.clone(),
        piggy_bank: payment.piggy_bank.clone(),
        payee: payment.payee.clone(),
        amount: payment.amount,
        ordered: payment.ordered,
        paid: payment.amount.currency.minor(payment.paid_minor()),
        categories: payment.categories.clone(),
        mode: payment.code.as_ref().map(|code| code.mode),
        place: payment.code.as_ref().and_then(|code| code.place.clone()),
        expires_at: payment.code_expires_at(),
        state: payment.state(),
        at_rest: payment.at_rest(),
        reason: payment.reason.as_ref().map(ToString::to_string),
        opened_at: payment.opened_at,
    }
}

fn places(cloud: &Cloud, filter: &Filter) -> Vec<PlaceRow> {
    let rows = cloud.registry.every_place();
    let rows =
        rows.filter(|(tenant, entry)| filter.takes(Some(tenant), &format!("{tenant}/{}", entry.place.place)));
    rows.take(limits::ADMIN_ROWS)
        .map(|(tenant, entry)| PlaceRow {
            tenant: tenant.clone(),
            entry: entry.clone(),
            version: cloud.registry.places_version(tenant),
        })
        .collect()
}

fn report(cloud: &Cloud) -> BooksReport {
    let problem = cloud.check().err();
    let holding = |(tenant, found): (&TenantId, &crate::registry::Tenant)| match found.bank {
        BankKind::Internal => None,
        BankKind::Http { .. } => {
            let minor = books::holding_minor(&cloud.ledger, tenant);
            Some((tenant.clone(), found.currency.minor(minor)))
        }
    };
    BooksReport {
        balanced: problem.is_none(),
        problem,
        open_payments: cloud.open_payments(),
        exceptions: cloud.exceptions.count(),
        holdings: cloud.registry.tenants.iter().filter_map(holding).collect(),
    }
}
