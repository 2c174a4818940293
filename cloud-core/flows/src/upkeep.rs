//! Changing and deleting what is registered, singly or as a batch (CP-15).
//!
//! What a payment under way stands on is not changed below it, and what has open work or a balance is not deleted: the
//! refusal says what to do first. Deleting closes: the name is not given again, so that the journal's history of it
//! stays that of one thing, and no certificate of a former device is ever good for a later one.

use cloud_core_ledger::AccountRejection;
use schemas::ids::{MerchantId, PaymentId, Principal, TenantId};
use schemas::message::Payee;
use schemas::money::Money;
use schemas::time::Timestamp;

use crate::admin::{AdminAnswer, AdminCommand, AdminReply, BankKind, BatchReport, Setting};
use crate::books::{self, Role};
use crate::child::ChildFlow;
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::desk;
use crate::event::Event;
use crate::limits;
use crate::payment::{AnyPayment, ChipPayment};
use crate::places::RegisteredPlace;
use crate::registry::{Binding, Merchant, Registry, check_deadlines, check_text, check_title, operator_name};
use crate::rejection::Rejection;

/// Carries out one command, or finds that it was carried out before.
pub(crate) fn decide(
    cloud: &Cloud,
    command: &AdminCommand,
    now: Timestamp,
    out: &mut Decision,
) -> AdminReply {
    let mut scratch = Decision::default();
    decide_one(cloud, &cloud.registry, command, now, &mut scratch)?;
    out.append(scratch);
    Ok(AdminAnswer::Done)
}

/// All or nothing: each command is decided upon a registry in which those before it have happened, and in the end is as
/// before. It is the core's own, lent by `cloud`, whose own is not looked at meanwhile: a copy of 100,000 devices would
/// hold up everybody for 0.2 s.
pub(crate) fn batch(
    cloud: &Cloud,
    registry: &mut Registry,
    commands: &[AdminCommand],
    check_only: bool,
    now: Timestamp,
    out: &mut Decision,
) -> AdminReply {
    if commands.len() > limits::BATCH_COMMANDS {
        let text = format!(
            "{} commands are more than a batch takes ({}): split it",
            commands.len(),
            limits::BATCH_COMMANDS
        );
        return Err(Rejection::new("batch_too_long", text));
    }
    let (mut decided, mut before) = (Decision::default(), Vec::new());
    let result = commands.iter().enumerate().try_for_each(|(index, command)| {
        let from = decided.events.len();
        decide_one(cloud, registry, command, now, &mut decided).map_err(|why| Rejection {
            text: format!("command {} of {}: {}; nothing was changed", index + 1, commands.len(), why.text),
            ..why
        })?;
        for event in &decided.events[from..] {
            if let Event::Registered(command) = event {
                before.push(registry.before(command));
                registry.register(command, now);
            }
        }
        Ok(())
    });
    let changes = before.len();
    before.into_iter().rev().for_each(|before| registry.take_back(before));
    result?;
    if !check_only {
        out.append(decided);
    }
    Ok(AdminAnswer::Batch(BatchReport { changes, repeats: commands.len() - changes, applied: !check_only }))
}

fn decide_one(
    cloud: &Cloud,
    registry: &Registry,
    command: &AdminCommand,
    now: Timestamp,
    out: &mut Decision,
) -> Result<(), Rejection> {
    use AdminCommand as C;
    match command {
        C::CreateTenant { .. }
        | C::CreateMerchant { .. }
        | C::CreateDevice { .. }
        | C::BindChip { .. }
        | C::CreatePerson { .. }
        | C::CreateOperator { .. }
        | C::CreateObserver { .. }
        | C::CreateClaim { .. }
        | C::RotateToken { .. }
        | C::CreateToken { .. } => desk::register(cloud, registry, command, now, out),
        C::ChangeTenant { .. }
        | C::ChangeMerchant { .. }
        | C::ChangeDevice { .. }
        | C::ChangePerson { .. } => {
            if changes(cloud, registry, command)? {
                out.event(Event::Registered(command.clone()));
            }
            Ok(())
        }
        C::UnbindChip { chip } => {
            if registry.require_device(chip)?.binding.is_some() {
                out.event(Event::Registered(command.clone()));
            }
            Ok(())
        }
        C::BindChild { child, bonds } => {
            desk::register(cloud, registry, command, now, out)?;
            out.shown.push(child.clone());
            if let Some(former) = registry.child(child) {
                ChildFlow { cloud, now, out }.bonds_changed(child, former, Some(bonds));
            }
            Ok(())
        }
        C::UnbindChild { child } => {
            if let Some(former) = registry.child(child) {
                ChildFlow { cloud, now, out: &mut *out }.bonds_changed(child, former, None);
                out.event(Event::Registered(command.clone()));
            } else {
                registry.require_person(child)?;
            }
            Ok(())
        }
        C::SetPlace { .. } => set_place(cloud, registry, command, now, out),
        C::RemovePlace { .. } => remove_place(cloud, registry, command, out),
        C::RevokeToken { principal } => {
            if registry.has_token(principal) {
                out.event(Event::Registered(command.clone()));
            } else {
                registry.require_principal(principal)?;
            }
            Ok(())
        }
        C::DeleteTenant { .. }
        | C::DeleteMerchant { .. }
        | C::DeleteDevice { .. }
        | C::DeletePerson { .. }
        | C::DeleteObserver { .. } => delete(cloud, registry, command, now, out),
        _ => Err(Rejection::new(
            "not_in_batch",
            "a batch creates, changes, binds and deletes; give other commands singly",
        )),
    }
}

/// What is paid at a place, and to whom, does not change under an open payment that names it.
fn set_place(
    cloud: &Cloud,
    registry: &Registry,
    command: &AdminCommand,
    now: Timestamp,
    out: &mut Decision,
) -> Result<(), Rejection> {
    let AdminCommand::SetPlace { tenant, entry } = command else { return Ok(()) };
    let place = &entry.place.place;
    let counts_otherwise = |known: &RegisteredPlace| {
        known.merchant != entry.merchant || known.place.categories != entry.place.categories
    };
    if registry.place(tenant, place).is_some_and(counts_otherwise) {
        refuse_any_open_work(cloud, place, |payment| payment.is_for_place(tenant, place))?;
    }
    desk::register(cloud, registry, command, now, out)
}

/// One that is not there, or not any more, is a success.
fn remove_place(
    cloud: &Cloud,
    registry: &Registry,
    command: &AdminCommand,
    out: &mut Decision,
) -> Result<(), Rejection> {
    let AdminCommand::RemovePlace { tenant, place } = command else { return Ok(()) };
    registry.require_tenant(tenant)?;
    refuse_any_open_work(cloud, place, |payment| payment.is_for_place(tenant, place))?;
    if registry.place(tenant, place).is_some() {
        out.event(Event::Registered(command.clone()));
    }
    Ok(())
}

/// Whether a change changes something.
fn changes(cloud: &Cloud, registry: &Registry, command: &AdminCommand) -> Result<bool, Rejection> {
    match command {
        AdminCommand::ChangeTenant { tenant, bank_url, deadlines, .. } => {
            let found = registry.require_tenant(tenant)?;
            if let Some(url) = bank_url {
                check_text(url)?;
                if found.bank == BankKind::Internal {
                    let text =
                        format!("the accounts of `{tenant}` are in our own ledger: it has no bank address");
                    return Err(Rejection::new("bank_internal", text));
                }
            }
            let mut names = found.deadlines;
            if let Some(unknown) =
                deadlines.keys().find(|name| !names.named().iter().any(|(known, _)| known == name))
            {
                let known: Vec<_> = names.named().into_iter().map(|(name, _)| name).collect();
                let text = format!("no deadline `{unknown}`: there are {}", known.join(", "));
                return Err(Rejection::new("deadline_unknown", text));
            }
            let changed = found.changed(command);
            check_deadlines(&changed.deadlines)?;
            changed.code_rules.check()?;
            Ok(changed != *found)
        }
        AdminCommand::ChangeMerchant { tenant, merchant, title, .. } => {
            let found = registry.require_merchant(tenant, merchant)?;
            if let Some(title) = title {
                check_title(title)?;
                let takes_part = |payment: &ChipPayment| is_paid(payment, tenant, merchant);
                if *title != found.title {
                    refuse_open_work(cloud, merchant, "title", takes_part)?;
                }
            }
            Ok(found.changed(command) != *found)
        }
        AdminCommand::ChangeDevice { device, profile, longest_act_ms } => {
            let found = registry.require_device(device)?;
            if let Some(profile) = profile {
                check_text(profile)?;
            }
            let changes = profile.as_ref().is_some_and(|profile| *profile != found.profile)
                || longest_act_ms.is_some_and(|ms| ms != found.longest_act_ms);
            if changes {
                refuse_open_work(cloud, device, "profile", |payment| takes_part(payment, device))?;
            }
            Ok(changes)
        }
        AdminCommand::ChangePerson { person, bank_account, .. } => {
            let found = registry.require_person(person)?;
            if let Setting::To(account) = bank_account {
                check_text(account)?;
            }
            let changed = found.changed(command);
            if changed.bank_account != found.bank_account {
                refuse_open_work(cloud, person, "bank account", |payment| takes_part(payment, person))?;
            }
            Ok(changed != *found)
        }
        _ => Ok(false),
    }
}

fn delete(
    cloud: &Cloud,
    registry: &Registry,
    command: &AdminCommand,
    now: Timestamp,
    out: &mut Decision,
) -> Result<(), Rejection> {
    if deleted_name(command).is_some_and(|name| registry.is_deleted(&name)) {
        return Ok(());
    }
    match command {
        AdminCommand::DeleteTenant { tenant } => {
            registry.require_tenant(tenant)?;
            refuse_members(registry, tenant)?;
            refuse_any_open_work(cloud, tenant, |payment| payment.tenant() == tenant)?;
            for role in [Role::Bank, Role::Holding, Role::Cash, Role::Suspense] {
                close_account(cloud, tenant, &role, now, out)?;
            }
        }
        AdminCommand::DeleteMerchant { tenant, merchant } => {
            registry.require_merchant(tenant, merchant)?;
            let payee = Payee::Merchant(merchant.clone());
            refuse_any_open_work(cloud, merchant, |payment| match payment {
                AnyPayment::Chip(payment) => is_paid(payment, tenant, merchant),
                AnyPayment::Child(payment) => payment.child.tenant == *tenant && payment.payee == payee,
            })?;
            if let Some(child) = registry.child_receiving_at(tenant, &payee) {
                return Err(of_child(child, "pays to it"));
            }
            if let Some(chip) = registry.chip_selling_for(tenant, merchant) {
                return Err(still_bound(&chip, "sells for it"));
            }
            if let Some(found) = registry.place_paying(tenant, merchant) {
                return Err(of_place(found, "pays to it"));
            }
            close_account(cloud, tenant, &Role::Merchant(merchant), now, out)?;
        }
        AdminCommand::DeleteDevice { device } => {
            registry.require_device(device)?;
            refuse_any_open_work(cloud, device, |payment| payment.parties().contains(&device))?;
            if let Some(child) = registry.child_using(device) {
                return Err(of_child(child, "uses it"));
            }
            if let Some(chip) = registry.chip_delivering_through(device) {
                return Err(still_bound(&chip, "delivers through it"));
            }
            refuse_terminal(registry, device)?;
            withdraw_all(cloud, device, out);
        }
        AdminCommand::DeletePerson { person } => {
            registry.require_person(person)?;
            refuse_any_open_work(cloud, person, |payment| payment.parties().contains(&person))?;
            if let Some(own) = cloud.own_payments_of(person).find(|own| own.is_suggested()) {
                return Err(open_work(person, "entry", own.id));
            }
            if let Some(child) = registry.child_of(person) {
                return Err(of_child(child, "is this person, or has it as guardian or payee"));
            }
            if let Some(merchant) = registry.merchant_with_terminal(person) {
                let text = format!(
                    "`{person}` is the terminal of the merchant `{merchant}`: give that another one first, with `admin merchants change`"
                );
                return Err(Rejection::new("is_terminal", text));
            }
            refuse_terminal(registry, person)?;
            close_account(cloud, &person.tenant, &Role::Person(person), now, out)?;
            withdraw_all(cloud, person, out);
        }
        AdminCommand::DeleteObserver { observer } => registry.require_observer(observer)?,
        _ => {}
    }
    out.event(Event::Registered(command.clone()));
    Ok(())
}

/// Under which name something stays deleted.
pub(crate) fn deleted_name(command: &AdminCommand) -> Option<String> {
    match command {
        AdminCommand::DeleteTenant { tenant } | AdminCommand::CreateTenant { tenant, .. } => {
            Some(format!("tenant/{tenant}"))
        }
        AdminCommand::DeleteMerchant { tenant, merchant }
        | AdminCommand::CreateMerchant { tenant, merchant, .. } => {
            Some(format!("merchant/{tenant}/{merchant}"))
        }
        AdminCommand::DeleteDevice { device: principal }
        | AdminCommand::CreateDevice { device: principal, .. }
        | AdminCommand::DeletePerson { person: principal }
        | AdminCommand::CreatePerson { person: principal, .. }
        | AdminCommand::DeleteObserver { observer: principal }
        | AdminCommand::CreateObserver { observer: principal } => Some(format!("principal/{principal}")),
        AdminCommand::CreateOperator { operator, .. } => {
            operator_name(operator).map(|name| format!("principal/{name}"))
        }
        _ => None,
    }
}

/// Whose connections end when these commands are carried out.
pub(crate) fn dismissed(command: &AdminCommand) -> Vec<&Principal> {
    match command {
        AdminCommand::RevokeDevice { device } | AdminCommand::DeleteDevice { device } => vec![device],
        AdminCommand::DeletePerson { person } => vec![person],
        AdminCommand::DeleteObserver { observer } => vec![observer],
        AdminCommand::RevokeToken { principal } => vec![principal],
        AdminCommand::Batch { commands, check_only: false } => commands.iter().flat_map(dismissed).collect(),
        _ => Vec::new(),
    }
}

/// Pays out of an internal account, once per reference.
pub(crate) fn withdraw(
    cloud: &Cloud,
    (tenant, account): (&TenantId, &str),
    amount: Money,
    reference: &str,
    now: Timestamp,
    out: &mut Decision,
) -> AdminReply {
    let found = cloud.registry.require_tenant(tenant)?;
    if found.bank != BankKind::Internal {
        let text = "money of a tenant with a bank of its own leaves through that bank";
        return Err(Rejection::new("no_internal_account", text));
    }
    let named = books::named_accounts(&cloud.registry).into_iter();
    let mut named = named.filter(|(of, name, _)| of == tenant && name == account && name.contains('/'));
    let Some((_, _, id)) = named.next() else {
        let text = format!("`{tenant}` has no account `{account}`: `admin accounts list` shows them");
        return Err(Rejection::new("account_unknown", text));
    };
    desk::check_booking(found, amount, reference)?;
    let transfer = books::withdrawal(tenant, (id, account), amount.minor, amount.currency, reference);
    // What the ledger has once refused stays refused; too little may be enough tomorrow.
    let is_new = cloud.ledger.transfer(transfer.id).is_none();
    if is_new && cloud.ledger.available(id).is_none_or(|available| available < amount.minor) {
        return Err(Rejection::new(
            "balance_too_small",
            "the account has less than that: `admin accounts list`",
        ));
    }
    let decided = cloud.ledger.decide_transfers(&[transfer], now.0);
    out.events.extend(decided.events.into_iter().map(Event::Ledger));
    let person = account.strip_prefix("person/").and_then(|id| id.parse().ok());
    out.shown.extend(person.map(|id| Principal { tenant: tenant.clone(), id }));
    match decided.result {
        Ok(_) => Ok(AdminAnswer::Done),
        Err(why) => {
            let text = format!("the books refuse the withdrawal: {}", why.reason);
            Err(Rejection::new("withdrawal_refused", text))
        }
    }
}

fn takes_part(payment: &ChipPayment, party: &Principal) -> bool {
    payment.parties().any(|known| known == party)
}

fn is_paid(payment: &ChipPayment, tenant: &TenantId, merchant: &MerchantId) -> bool {
    payment.payer.tenant == *tenant && payment.merchant == *merchant
}

/// Open payments, and those that wait for an operator.
fn refuse_open_work(
    cloud: &Cloud,
    name: &dyn std::fmt::Display,
    what: &str,
    takes_part: impl Fn(&ChipPayment) -> bool,
) -> Result<(), Rejection> {
    let queued = cloud.exceptions.payments().filter_map(|id| cloud.payment(id));
    let payment = cloud.open().chain(queued).find(|payment| takes_part(payment));
    payment.map_or(Ok(()), |payment| Err(open_work(name, what, payment.id)))
}

/// The same for payments of every flow.
fn refuse_any_open_work(
    cloud: &Cloud,
    name: &dyn std::fmt::Display,
    takes_part: impl Fn(AnyPayment<'_>) -> bool,
) -> Result<(), Rejection> {
    let queued = cloud.exceptions.payments().filter_map(|id| cloud.any_payment(id));
    let payment = cloud.every_open_payment().chain(queued).find(|payment| takes_part(*payment));
    payment.map_or(Ok(()), |payment| Err(open_work(name, "entry", payment.id())))
}

fn of_child(child: &Principal, how: &str) -> Rejection {
    let text = format!(
        "the child `{child}` {how}: `admin children bind` it otherwise, or `admin children unbind` it, first"
    );
    Rejection::new("still_bound", text)
}

fn refuse_terminal(registry: &Registry, principal: &Principal) -> Result<(), Rejection> {
    let place = registry.place_of_terminal(principal);
    place.map_or(Ok(()), |place| Err(of_place(place, "has it as a terminal")))
}

fn of_place(found: &RegisteredPlace, how: &str) -> Rejection {
    let place = &found.place.place;
    let text = format!(
        "the place `{place}` {how}: `admin places set` it otherwise, or `admin places remove` it, first"
    );
    Rejection::new("still_bound", text)
}

fn open_work(name: &dyn std::fmt::Display, what: &str, payment: PaymentId) -> Rejection {
    let text = format!(
        "the {what} of `{name}` is needed by payment {payment}, which is open or in the exceptions queue: wait until it has ended, or resolve it (`admin exceptions list`)"
    );
    Rejection::new("open_work", text)
}

fn refuse_members(registry: &Registry, tenant: &TenantId) -> Result<(), Rejection> {
    let (merchants, devices, people, observers) = registry.members(tenant);
    if merchants + devices + people + observers == 0 {
        return Ok(());
    }
    let text = format!(
        "`{tenant}` still has {merchants} merchants, {devices} devices, {people} people and {observers} observers: delete them first"
    );
    Err(Rejection::new("not_empty", text))
}

fn still_bound(chip: &Principal, how: &str) -> Rejection {
    let text = format!(
        "the chip `{chip}` {how}: `admin chips bind` it otherwise, or `admin chips unbind` it, first"
    );
    Rejection::new("still_bound", text)
}

fn close_account(
    cloud: &Cloud,
    tenant: &TenantId,
    role: &Role<'_>,
    now: Timestamp,
    out: &mut Decision,
) -> Result<(), Rejection> {
    match cloud.ledger.decide_close_account(role.account(tenant), now.0) {
        Ok(events) => out.events.extend(events.into_iter().map(Event::Ledger)),
        Err(AccountRejection::NotFound) => {}
        Err(why) => {
            let text = format!(
                "the account `{role}` of `{tenant}` can't be closed ({why}): what it has must be paid out first, with `admin accounts withdraw` where the accounts are in our own ledger"
            );
            return Err(Rejection::new("has_balance", text));
        }
    }
    Ok(())
}

fn withdraw_all(cloud: &Cloud, principal: &Principal, out: &mut Decision) {
    for owed in cloud.outbox.messages(principal) {
        out.withdraw(principal, owed.message, "deleted");
    }
}

impl Merchant {
    fn changed(&self, command: &AdminCommand) -> Self {
        let mut merchant = self.clone();
        if let AdminCommand::ChangeMerchant { title, terminal, .. } = command {
            merchant.title = title.clone().unwrap_or(merchant.title);
            terminal.apply(&mut merchant.terminal);
        }
        merchant
    }
}

impl crate::registry::Person {
    fn changed(&self, command: &AdminCommand) -> Self {
        let mut person = self.clone();
        if let AdminCommand::ChangePerson { public_key, bank_account, .. } = command {
            public_key.apply(&mut person.public_key);
            bank_account.apply(&mut person.bank_account);
        }
        person
    }
}

impl crate::registry::Tenant {
    fn changed(&self, command: &AdminCommand) -> Self {
        let mut tenant = self.clone();
        let AdminCommand::ChangeTenant {
            bank_url, on_unknown, deadlines, code_rules, child_keep_minor, ..
        } = command
        else {
            return tenant;
        };
        tenant.code_rules = tenant.code_rules.changed(code_rules);
        tenant.child_keep_minor = child_keep_minor.unwrap_or(tenant.child_keep_minor);
        if let (BankKind::Http { url, .. }, Some(new)) = (&mut tenant.bank, bank_url) {
            url.clone_from(new);
        }
        tenant.on_unknown = on_unknown.unwrap_or(tenant.on_unknown);
        for (name, value) in tenant.deadlines.named() {
            *value = deadlines.get(name).copied().unwrap_or(*value);
        }
        tenant
    }
}

impl Registry {
    /// Applies what [`decide`] decided. Replay: total.
    pub(crate) fn change(&mut self, command: &AdminCommand, at: Timestamp) {
        match command {
            AdminCommand::ChangeTenant { tenant, .. } => {
                if let Some(found) = self.tenants.get_mut(tenant) {
                    *found = found.changed(command);
                }
            }
            AdminCommand::ChangeMerchant { tenant, merchant, .. } => {
                if let Some(found) = self.merchants.get_mut(&(tenant.clone(), merchant.clone())) {
                    *found = found.changed(command);
                }
            }
            AdminCommand::ChangeDevice { device, profile, longest_act_ms } => {
                if let Some(found) = self.devices.get_mut(device) {
                    found.longest_act_ms = longest_act_ms.unwrap_or(found.longest_act_ms);
                    if let Some(profile) = profile {
                        found.profile.clone_from(profile);
                    }
                }
            }
            AdminCommand::ChangePerson { person, .. } => {
                if let Some(found) = self.persons.get_mut(person) {
                    *found = found.changed(command);
                }
            }
            AdminCommand::UnbindChip { chip } => {
                if let Some(found) = self.devices.get_mut(chip) {
                    found.binding = None;
                }
            }
            AdminCommand::RevokeToken { principal } => self.forget_token(principal),
            AdminCommand::DeleteTenant { tenant } => {
                self.tenants.remove(tenant);
                self.remember_deleted(command, at);
            }
            AdminCommand::DeleteMerchant { tenant, merchant } => {
                self.merchants.remove(&(tenant.clone(), merchant.clone()));
                self.remember_deleted(command, at);
            }
            AdminCommand::DeleteDevice { device } => {
                self.devices.remove(device);
                self.forget_operator(device);
                self.forget_claims(device);
                self.forget_token(device);
                self.remember_deleted(command, at);
            }
            AdminCommand::DeletePerson { person } => {
                self.persons.remove(person);
                self.forget_token(person);
                self.remember_deleted(command, at);
            }
            AdminCommand::DeleteObserver { observer } => {
                self.observers.remove(observer);
                self.forget_token(observer);
                self.remember_deleted(command, at);
            }
            _ => {}
        }
    }

    fn remember_deleted(&mut self, command: &AdminCommand, at: Timestamp) {
        if let Some(name) = deleted_name(command) {
            self.deleted.insert(name, at);
        }
    }

    fn is_deleted(&self, name: &str) -> bool {
        self.deleted.contains_key(name)
    }

    /// Nothing is created under the name of something that was deleted.
    pub(crate) fn refuse_deleted(&self, command: &AdminCommand) -> Result<(), Rejection> {
        let Some(name) = deleted_name(command).filter(|name| self.is_deleted(name)) else { return Ok(()) };
        let text = format!("`{name}` was deleted, and its name stays with its history: choose another one");
        Err(Rejection::new("name_deleted", text))
    }

    /// Merchants, devices, people and observers of a tenant.
    fn members(&self, tenant: &TenantId) -> (usize, usize, usize, usize) {
        (
            self.merchants.keys().filter(|(of, _)| of == tenant).count(),
            self.devices.keys().filter(|device| device.tenant == *tenant).count(),
            self.persons.keys().filter(|person| person.tenant == *tenant).count(),
            self.observers.iter().filter(|observer| observer.tenant == *tenant).count(),
        )
    }

    fn chip_selling_for(&self, tenant: &TenantId, merchant: &MerchantId) -> Option<Principal> {
        let mut chips = self.bindings(tenant);
        chips.find(|(_, binding)| binding.merchant == *merchant).map(|(chip, _)| chip.clone())
    }

    fn chip_delivering_through(&self, executor: &Principal) -> Option<Principal> {
        let delivers = |binding: &Binding| {
            binding.executor.iter().chain(binding.items.values()).any(|id| *id == executor.id)
        };
        let mut chips = self.bindings(&executor.tenant);
        chips.find(|(_, binding)| delivers(binding)).map(|(chip, _)| chip.clone())
    }

    fn bindings(&self, tenant: &TenantId) -> impl Iterator<Item = (&Principal, &Binding)> {
        let devices = self.devices.iter().filter(move |(chip, _)| chip.tenant == *tenant);
        devices.filter_map(|(chip, device)| Some((chip, device.binding.as_ref()?)))
    }

    fn merchant_with_terminal(&self, person: &Principal) -> Option<MerchantId> {
        let mut merchants = self.merchants.iter();
        let found = merchants.find(|((tenant, _), merchant)| {
            *tenant == person.tenant && merchant.terminal.as_ref() == Some(&person.id)
        });
        found.map(|((_, merchant), _)| merchant.clone())
    }
}
