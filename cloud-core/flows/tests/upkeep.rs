//! Changing, deleting and batches: every refusal by its name, and a batch that is all or nothing (CP-15).

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use std::collections::BTreeMap;

use cloud_core_flows::admin::{
    AdminAnswer, AdminCommand, BankKind, BatchReport, Deadlines, Filter, Listing, OnUnknown, Setting,
};
use cloud_core_flows::event::Record;
use cloud_core_flows::port::{Credentials, DisconnectReason, Input, Output, StandingRefusal};
use cloud_core_flows::right::OperatorRole;
use common::{World, http, who};
use proptest::prelude::*;
use schemas::ids::{Hash, Instance, MerchantId, TenantId};
use schemas::message::Outcome;
use schemas::money::Money;
use schemas::time::Timestamp;
use schemas_journal::for_each_record;

fn world() -> World {
    World::new(http(), OnUnknown::Refund)
}

fn acme() -> TenantId {
    "acme".parse().unwrap()
}

fn shop() -> MerchantId {
    "shop".parse().unwrap()
}

fn eur(minor: u64) -> Money {
    "EUR".parse::<schemas::money::Currency>().unwrap().minor(minor)
}

fn delete_device(name: &str) -> AdminCommand {
    AdminCommand::DeleteDevice { device: who(name) }
}

fn delete_person(name: &str) -> AdminCommand {
    AdminCommand::DeletePerson { person: who(name) }
}

fn delete_merchant() -> AdminCommand {
    AdminCommand::DeleteMerchant { tenant: acme(), merchant: shop() }
}

fn create_person(name: &str) -> AdminCommand {
    AdminCommand::CreatePerson { person: who(name), public_key: None, bank_account: None }
}

fn change_merchant(title: &str) -> AdminCommand {
    let title = Some(title.to_owned());
    AdminCommand::ChangeMerchant { tenant: acme(), merchant: shop(), title, terminal: Setting::Keep }
}

fn change_device(name: &str, longest_act_ms: u64) -> AdminCommand {
    let longest_act_ms = Some(longest_act_ms);
    AdminCommand::ChangeDevice { device: who(name), profile: None, longest_act_ms }
}

fn change_account(name: &str, account: Setting<String>) -> AdminCommand {
    AdminCommand::ChangePerson { person: who(name), public_key: Setting::Keep, bank_account: account }
}

fn change_tenant(deadlines: &[(&str, u64)], bank_url: Option<&str>) -> AdminCommand {
    AdminCommand::ChangeTenant {
        tenant: acme(),
        bank_url: bank_url.map(str::to_owned),
        on_unknown: None,
        deadlines: deadlines.iter().map(|(name, ms)| ((*name).to_owned(), *ms)).collect(),
        code_rules: Default::default(),
        child_keep_minor: None,
    }
}

fn withdraw(account: &str, minor: u64, reference: &str) -> AdminCommand {
    let (account, reference) = (account.to_owned(), reference.to_owned());
    AdminCommand::Withdraw { tenant: acme(), account, amount: eur(minor), reference }
}

fn batch(commands: Vec<AdminCommand>) -> AdminCommand {
    AdminCommand::Batch { commands, check_only: false }
}

fn refusal(w: &mut World, command: AdminCommand) -> String {
    let before = w.driver.cloud().clone();
    let why = w.admin(command).unwrap_err();
    assert_eq!(*w.driver.cloud(), before, "a refusal changes nothing: {why}");
    why.code.to_string()
}

/// CP-15: what stands against a change or a deletion, each by its name, while a payment is under way.
#[test]
fn with_an_open_payment_each_is_refused_by_name() {
    let mut w = world();
    w.commanded("ann", 1);
    let unknown: TenantId = "nobody".parse().unwrap();
    let long = "x".repeat(201);
    let table = [
        (delete_device("chip"), "open_work"),
        (delete_device("vend"), "open_work"),
        (delete_person("ann"), "open_work"),
        (delete_merchant(), "open_work"),
        (change_merchant("Another"), "open_work"),
        (change_device("vend", 1), "open_work"),
        (change_account("ann", Setting::To("other".into())), "open_work"),
        (AdminCommand::DeleteTenant { tenant: acme() }, "not_empty"),
        (delete_person("till"), "is_terminal"),
        (AdminCommand::DeleteTenant { tenant: unknown.clone() }, "tenant_unknown"),
        (AdminCommand::DeleteMerchant { tenant: unknown, merchant: shop() }, "merchant_unknown"),
        (delete_device("nobody"), "device_unknown"),
        (delete_person("nobody"), "person_unknown"),
        (AdminCommand::UnbindChip { chip: who("nobody") }, "device_unknown"),
        (AdminCommand::RevokeToken { principal: who("nobody") }, "principal_unknown"),
        (change_merchant(""), "title_invalid"),
        (change_tenant(&[("strat_ms", 1)], None), "deadline_unknown"),
        (change_tenant(&[("start_ms", 0)], None), "deadline_invalid"),
        (change_tenant(&[], Some(&long)), "text_too_long"),
        (change_account("bob", Setting::To(long.clone())), "text_too_long"),
        (withdraw("person/ann", 1, "r"), "no_internal_account"),
        (batch(vec![AdminCommand::Books]), "not_in_batch"),
        (batch(vec![batch(vec![])]), "not_in_batch"),
    ];
    for (command, code) in table {
        assert_eq!(refusal(&mut w, command.clone()), code, "{command:?}");
    }
}

/// CP-15: what has a balance stays; what is bound stays; the refusals of accounts of our own.
#[test]
fn with_a_balance_or_a_binding_each_is_refused_by_name() {
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    let table = [
        (delete_person("ann"), "has_balance"),
        (delete_device("vend"), "still_bound"),
        (delete_merchant(), "still_bound"),
        (withdraw("person/ann", common::FUNDS + 1, "r"), "balance_too_small"),
        (withdraw("person/nobody", 1, "r"), "account_unknown"),
        (withdraw("cash", 1, "r"), "account_unknown"),
        (withdraw("person/ann", 1, ""), "reference_invalid"),
        (change_tenant(&[], Some("http://127.0.0.1:1")), "bank_internal"),
    ];
    for (command, code) in table {
        assert_eq!(refusal(&mut w, command.clone()), code, "{command:?}");
    }
    let pounds = "GBP".parse::<schemas::money::Currency>().unwrap().minor(1);
    let account = "person/ann".to_owned();
    let command = AdminCommand::Withdraw { tenant: acme(), account, amount: pounds, reference: "r".into() };
    assert_eq!(refusal(&mut w, command), "currency_mismatch");
}

/// CP-15: a payment that waits for an operator holds on to who takes part, until it is resolved.
#[test]
fn what_waits_in_the_exceptions_queue_is_open_work() {
    let mut w = World::new(http(), OnUnknown::Hold);
    let payment = w.commanded("ann", 1);
    w.admin(AdminCommand::RevokeDevice { device: who("vend") }).unwrap();
    assert_eq!(w.exceptions(), ["unknown_outcome"]);
    assert_eq!(refusal(&mut w, delete_person("ann")), "open_work");
    w.resolve(payment, cloud_core_flows::admin::Resolution::Accept).unwrap();
    w.admin(delete_person("ann")).unwrap();
}

/// CP-15: deleting in the order that the refusals name takes everything; names stay with their history.
#[test]
fn deleting_closes_and_names_are_not_given_again() {
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    for name in ["person/ann", "person/bob"] {
        w.admin(withdraw(name, common::FUNDS, "all")).unwrap();
        w.admin(withdraw(name, common::FUNDS, "all")).unwrap();
    }
    let steps = [
        AdminCommand::UnbindChip { chip: who("chip") },
        delete_device("vend"),
        delete_device("spare"),
        delete_device("chip"),
        delete_merchant(),
        delete_person("till"),
        delete_person("ann"),
        delete_person("bob"),
        AdminCommand::DeleteTenant { tenant: acme() },
    ];
    for step in &steps {
        w.admin(step.clone()).unwrap_or_else(|why| panic!("{step:?}: {why}"));
    }
    assert!(w.driver.cloud().ledger().accounts().all(|account| account.is_closed()));
    let deleted = AdminCommand::Find { listing: Listing::Deleted, filter: Filter::default() };
    let AdminAnswer::Deleted(rows) = w.admin(deleted).unwrap() else { panic!("rows") };
    assert_eq!(rows.len(), 8);
    for step in &steps[1..] {
        w.admin(step.clone()).unwrap_or_else(|why| panic!("again {step:?}: {why}"));
    }
    let again = AdminCommand::CreateTenant {
        tenant: acme(),
        currency: "EUR".parse().unwrap(),
        bank: BankKind::Internal,
        on_unknown: OnUnknown::Refund,
        deadlines: Deadlines::default(),
        code_rules: Default::default(),
    };
    assert_eq!(refusal(&mut w, again), "name_deleted");
}

/// CP-15: a deleted device is gone at once, and its certificate is good for nobody later.
#[test]
fn a_deleted_device_is_disconnected_and_stays_out() {
    let mut w = world();
    let connection = w.connections[&who("spare")];
    let outputs = w.input(Input::Admin { ticket: 1, by: None, command: delete_device("spare") });
    let ended = |output: &Output| matches!(output, Output::Disconnect { connection: id, reason: DisconnectReason::Revoked } if *id == connection);
    assert!(outputs.iter().any(ended), "{outputs:?}");
    let credentials =
        Credentials::Certificate { principal: who("spare"), instance: Instance(1), serial: vec![] };
    let connection = cloud_core_flows::port::ConnectionId(900);
    let outputs = w.input(Input::Connect { connection, client: "c".into(), credentials });
    let refused = Err(StandingRefusal::BadCredentials);
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Standing { result, .. } if *result == refused))
    );
    let profile = "vending-executor".to_owned();
    let again = AdminCommand::CreateDevice { device: who("spare"), profile, longest_act_ms: 1 };
    assert_eq!(refusal(&mut w, again), "name_deleted");
}

/// CP-15: changes change what they name and nothing else; a repeat changes nothing.
#[test]
fn changes_keep_what_they_do_not_name() {
    let mut w = world();
    let steps = [
        change_merchant("The Other Shop"),
        change_device("vend", 9_000),
        change_account("bob", Setting::To("account-2".into())),
        change_tenant(&[("start_ms", 7), ("retention_ms", 60_000)], Some("http://127.0.0.1:2")),
    ];
    for step in &steps {
        w.admin(step.clone()).unwrap();
        let before = w.driver.decided();
        w.admin(step.clone()).unwrap();
        assert_eq!(w.driver.decided(), before, "a repeat is no event: {step:?}");
    }
    let registry = w.driver.cloud().registry();
    let merchant = registry.merchant(&acme(), &shop()).unwrap();
    assert_eq!((merchant.title.as_str(), merchant.terminal.is_some()), ("The Other Shop", true));
    let device = registry.device(&who("vend")).unwrap();
    assert_eq!((device.profile.as_str(), device.longest_act_ms), ("vending-executor", 9_000));
    let person = registry.person(&who("bob")).unwrap();
    assert_eq!((person.bank_account.as_deref(), person.public_key.is_some()), (Some("account-2"), true));
    let tenant = registry.tenant(&acme()).unwrap();
    let expected = Deadlines { start_ms: 7, retention_ms: 60_000, ..Deadlines::default() };
    assert_eq!((tenant.deadlines, tenant.on_unknown), (expected, OnUnknown::Refund));
    w.admin(change_account("bob", Setting::Clear)).unwrap();
    assert_eq!(w.driver.cloud().registry().person(&who("bob")).unwrap().bank_account, None);
}

/// Another retention moves the time at which closed payments leave memory; the invariants see to the rest.
#[test]
fn closed_payments_leave_memory_by_the_new_retention() {
    let mut w = world();
    let payment = w.commanded("ann", 1);
    w.report(payment, Outcome::Done, 1);
    assert_eq!(w.driver.cloud().payments().count(), 1);
    w.admin(change_tenant(&[("retention_ms", 60_000)], None)).unwrap();
    w.driver.cloud().check().unwrap();
    w.pass(61_000);
    assert_eq!(w.driver.cloud().payments().count(), 0);
}

/// What a deleted tenant's closed payments wait for comes to an end too, and holds up nobody behind it.
#[test]
fn closed_payments_of_a_deleted_tenant_leave_memory() {
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    w.admin(change_tenant(&[("retention_ms", 30 * 24 * 3_600_000)], None)).unwrap();
    let payment = w.begin("ann", 1);
    w.cancel("ann", 2, payment);
    for name in ["person/ann", "person/bob"] {
        w.admin(withdraw(name, common::FUNDS, "all")).unwrap();
    }
    let steps = [
        AdminCommand::UnbindChip { chip: who("chip") },
        delete_device("vend"),
        delete_device("spare"),
        delete_device("chip"),
        delete_merchant(),
        delete_person("till"),
        delete_person("ann"),
        delete_person("bob"),
        AdminCommand::DeleteTenant { tenant: acme() },
    ];
    for step in steps {
        w.admin(step).unwrap();
    }
    w.driver.cloud().check().unwrap();
    w.pass(8 * 24 * 3_600_000);
    assert_eq!(w.driver.cloud().payments().count(), 0);
    assert_eq!(w.driver.next_due(), None);
    w.check_replay();
}

/// CP-15, MO-8: every record of an operator's decision names the operator.
#[test]
fn the_journal_names_the_operator() {
    let mut w = world();
    let before = w.driver.decided();
    w.admin(create_person("carl")).unwrap();
    w.admin(delete_person("carl")).unwrap();
    let mut named = 0;
    for_each_record(&w.disk, |position, _, bytes| {
        let record = Record::decode(bytes).unwrap();
        if position > before {
            assert_eq!(record.by.as_deref(), Some("uid 1000"), "{record:?}");
            named += 1;
        }
    })
    .unwrap();
    assert_eq!(named, 2);
}

#[test]
fn listings_are_filtered_and_paged() {
    let mut w = world();
    let names = |w: &mut World, filter: Filter| {
        let AdminAnswer::Devices(rows) =
            w.admin(AdminCommand::Find { listing: Listing::Devices, filter }).unwrap()
        else {
            panic!("rows")
        };
        rows.into_iter().map(|row| row.device.to_string()).collect::<Vec<_>>()
    };
    w.admin(AdminCommand::RevokeDevice { device: who("spare") }).unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(names(&mut w, Filter { name: text("acme/vend"), ..Filter::default() }), ["acme/vend"]);
    assert_eq!(names(&mut w, Filter { name: text("acme/ven"), ..Filter::default() }), [""; 0]);
    assert_eq!(names(&mut w, Filter { contains: text("e/s"), ..Filter::default() }), ["acme/spare"]);
    assert_eq!(names(&mut w, Filter { state: text("revoked"), ..Filter::default() }), ["acme/spare"]);
    let page = Filter { after: text("acme/chip"), ..Filter::default() };
    assert_eq!(names(&mut w, page), ["acme/spare", "acme/vend"]);
    let other = Filter { tenant: Some("other".parse().unwrap()), ..Filter::default() };
    assert_eq!(names(&mut w, other), [""; 0]);
}

/// CP-15: a batch sees what it did itself, may be only checked, and names the command that stands against it.
#[test]
fn a_batch_is_carried_out_whole_checked_or_refused() {
    let mut w = world();
    let commands =
        vec![create_person("carl"), change_account("carl", Setting::To("c".into())), create_person("ann2")];
    let before = w.driver.cloud().clone();
    let check = AdminCommand::Batch { commands: commands.clone(), check_only: true };
    let report = |applied| AdminAnswer::Batch(BatchReport { changes: 3, repeats: 0, applied });
    assert_eq!(w.admin(check), Ok(report(false)));
    assert_eq!(*w.driver.cloud(), before);
    assert_eq!(w.admin(batch(commands.clone())), Ok(report(true)));
    let repeated = vec![create_person("ann2"), delete_person("carl")];
    let done = BatchReport { changes: 1, repeats: 1, applied: true };
    assert_eq!(w.admin(batch(repeated)), Ok(AdminAnswer::Batch(done)));
    let why = w.admin(batch(vec![create_person("dora"), delete_device("vend")])).unwrap_err();
    assert!(why.code.as_str() == "still_bound" && why.text.starts_with("command 2 of 2:"), "{why}");
    assert!(w.driver.cloud().registry().person(&who("dora")).is_none());
}

/// A batch is one decision: what does not fit one frame of the journal is refused, and the core lives on.
#[test]
fn a_batch_that_fits_no_frame_is_refused() {
    let mut w = world();
    let many = |count: usize| batch((0..count).map(|n| create_person(&format!("p-{n}"))).collect());
    assert_eq!(refusal(&mut w, many(2_000)), "batch_too_long");
    assert_eq!(refusal(&mut w, many(5_001)), "batch_too_long");
    w.admin(many(100)).unwrap();
}

fn any_command() -> impl Strategy<Value = AdminCommand> {
    let name = || prop::sample::select(vec!["chip", "vend", "spare", "ann", "bob", "till", "new", "new2"]);
    prop_oneof![
        name().prop_map(create_person),
        name().prop_map(|name| AdminCommand::CreateDevice {
            device: who(name),
            profile: "vending-executor".into(),
            longest_act_ms: 5
        }),
        name().prop_map(|name| AdminCommand::CreateObserver { observer: who(name) }),
        name().prop_map(|name| AdminCommand::DeleteObserver { observer: who(name) }),
        name().prop_map(delete_device),
        name().prop_map(delete_person),
        Just(delete_merchant()),
        Just(AdminCommand::UnbindChip { chip: who("chip") }),
        (name(), any::<u8>()).prop_map(|(name, n)| change_device(name, u64::from(n))),
        name().prop_map(|name| change_account(name, Setting::Clear)),
        name().prop_map(|name| AdminCommand::BindChip {
            chip: who("chip"),
            merchant: shop(),
            executor: Some(name.parse().unwrap()),
            items: BTreeMap::new(),
        }),
        Just(change_merchant("T")),
        Just(AdminCommand::DeleteTenant { tenant: acme() }),
        any_other_entry(),
    ]
}

/// Of every other kind of entry that the registry has.
fn any_other_entry() -> impl Strategy<Value = AdminCommand> {
    let name = || prop::sample::select(vec!["chip", "spare", "ann", "new"]).prop_map(who);
    let ends = Timestamp(u64::MAX / 2);
    let second = || "second".parse::<TenantId>().unwrap();
    prop_oneof![
        (name(), any::<u8>()).prop_map(move |(device, n)| AdminCommand::CreateClaim {
            device,
            claim_hash: Hash::of(&[n % 3]),
            expires_at: ends
        }),
        (name(), any::<u8>()).prop_map(move |(principal, n)| AdminCommand::CreateToken {
            principal,
            token_hash: Hash::of(&[n % 3]),
            expires_at: ends
        }),
        name().prop_map(move |principal| AdminCommand::RotateToken {
            principal,
            token_hash: Hash::of(b"rotated"),
            expires_at: ends,
            former_until: ends
        }),
        name().prop_map(|principal| AdminCommand::RevokeToken { principal }),
        Just(AdminCommand::CreateOperator {
            operator: "otto".parse().unwrap(),
            role: OperatorRole::Operator,
            tenant: None
        }),
        Just(AdminCommand::CreateTenant {
            tenant: second(),
            currency: "EUR".parse().unwrap(),
            bank: BankKind::Internal,
            on_unknown: OnUnknown::Refund,
            deadlines: Deadlines::default(),
            code_rules: Default::default(),
        }),
        Just(AdminCommand::DeleteTenant { tenant: second() }),
        Just(change_tenant(&[("start_ms", 7)], None)),
        Just(AdminCommand::CreateMerchant {
            tenant: acme(),
            merchant: "second".parse().unwrap(),
            title: "Second".to_owned(),
            terminal: None
        }),
        (name(), any::<bool>()).prop_map(|(terminal, school)| AdminCommand::SetPlace {
            tenant: acme(),
            entry: common::family::entry(
                if school { "school" } else { "zoo" },
                "shop",
                &[terminal.id.as_str()]
            ),
        }),
        Just(AdminCommand::RemovePlace { tenant: acme(), place: "school".parse().unwrap() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// CP-15: a batch does what its commands do one after the other; if one of them is refused, nothing.
    #[test]
    fn a_batch_is_all_or_nothing(commands in prop::collection::vec(any_command(), 0..8), has_open in any::<bool>()) {
        let start = || {
            let mut w = world();
            w.restores_after_each_input = false;
            if has_open {
                w.commanded("ann", 1);
            }
            w
        };
        let (mut together, mut singly) = (start(), start());
        let before = together.driver.cloud().clone();
        let check = AdminCommand::Batch { commands: commands.clone(), check_only: true };
        let checked = together.admin(check).map_err(|why| why.code);
        prop_assert_eq!(together.driver.cloud(), &before, "a check changes nothing");
        let results: Vec<_> = commands.iter().map(|command| singly.admin(command.clone())).collect();
        let first_refused = results.iter().find_map(|result| result.as_ref().err());
        prop_assert_eq!(checked.err(), first_refused.map(|why| why.code.clone()));
        match (together.admin(batch(commands)), first_refused) {
            (Ok(_), None) => prop_assert_eq!(together.driver.cloud(), singly.driver.cloud()),
            (Err(why), Some(first)) => {
                prop_assert_eq!(&why.code, &first.code);
                prop_assert_eq!(together.driver.cloud(), &before);
            }
            (reply, first) => prop_assert!(false, "{:?} but singly {:?}", reply, first),
        }
    }
}
