//! Operators elsewhere (PL-4): each role, each command, within and outside its tenant.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use std::collections::BTreeMap;

use cloud_core_flows::admin::{
    AdminAnswer, AdminCommand, AdminReply, BankKind, Deadlines, Filter, Listing, OnUnknown, Resolution,
};
use cloud_core_flows::event::{Event, Record};
use cloud_core_flows::port::{ConnectionId, Credentials, Input, Output, Proof, StandingRefusal};
use cloud_core_flows::right::OperatorRole;
use common::family::entry;
use common::{World, chain, http, limits, who};
use schemas::ids::{Hash, Instance, PaymentId, Principal, TenantId};
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use schemas_journal::{Journal, Records};

const NAMES: [(&str, OperatorRole, Option<&str>); 4] = [
    ("ada", OperatorRole::Auditor, None),
    ("otto", OperatorRole::Operator, None),
    ("tina", OperatorRole::TenantAdmin, Some("acme")),
    ("else", OperatorRole::TenantAdmin, Some("other")),
];

fn operator(name: &str) -> Principal {
    format!("farthing/{name}").parse().unwrap()
}

/// Two tenants, a payment in the first, and an operator of each role with a certificate.
fn world() -> (World, PaymentId) {
    let mut w = World::new(http(), OnUnknown::Refund);
    w.admin(AdminCommand::CreateTenant {
        tenant: "other".parse().unwrap(),
        currency: "EUR".parse().unwrap(),
        bank: BankKind::Internal,
        on_unknown: OnUnknown::Refund,
        deadlines: Deadlines::default(),
        code_rules: Default::default(),
    })
    .unwrap();
    for (name, role, tenant) in NAMES {
        let tenant: Option<TenantId> = tenant.map(|tenant| tenant.parse().unwrap());
        let create = AdminCommand::CreateOperator { operator: name.parse().unwrap(), role, tenant };
        w.admin(create).unwrap();
        let claim = Hash::of(name.as_bytes());
        let expires_at = Timestamp(w.now + 1_000_000);
        w.admin(AdminCommand::CreateClaim { device: operator(name), claim_hash: claim, expires_at }).unwrap();
        let (principal, public_key) = (operator(name), PublicKey([9; 32]));
        let outputs = w.input(Input::Enrol { ticket: 1, principal, proof: Proof::Claim(claim), public_key });
        let order = outputs.into_iter().find_map(|output| match output {
            Output::Sign { order, .. } => Some(order),
            _ => None,
        });
        w.input(Input::Signed { ticket: 1, order: order.unwrap(), certificate: vec![1] });
    }
    let payment = w.commanded("ann", 1);
    (w, payment)
}

fn ask(w: &mut World, name: &str, command: &AdminCommand) -> AdminReply {
    let (operator, instance, command) = (operator(name), Instance(1), command.clone());
    let outputs = w.input(Input::AdminBy { ticket: 5, operator, instance, command });
    let reply = outputs.into_iter().find_map(|output| match output {
        Output::Admin { ticket: 5, reply } => Some(reply),
        _ => None,
    });
    reply.unwrap()
}

/// Every kind of command, with who may give it: an `x` at the place of the role in `NAMES`.
fn table(payment: PaymentId) -> Vec<(AdminCommand, &'static str)> {
    let at = Timestamp(u64::MAX / 2);
    let of = |text: &str| text.parse::<Principal>().unwrap();
    let claim = |device: &str| AdminCommand::CreateClaim {
        device: of(device),
        claim_hash: Hash::of(b"c"),
        expires_at: at,
    };
    let token = |principal: &str| AdminCommand::CreateToken {
        principal: of(principal),
        token_hash: Hash::of(b"t"),
        expires_at: at,
    };
    let change_device = |device: &str| AdminCommand::ChangeDevice {
        device: of(device),
        profile: None,
        longest_act_ms: Some(7),
    };
    let batch = |commands: Vec<AdminCommand>| AdminCommand::Batch { commands, check_only: false };
    vec![
        (AdminCommand::ListTenants, "xxxx"),
        (AdminCommand::ListDevices, "xxxx"),
        (AdminCommand::ListPersons, "xxxx"),
        (AdminCommand::ListMerchants, "xxxx"),
        (AdminCommand::ListAccounts, "xxxx"),
        (AdminCommand::ListPayments { open_only: false }, "xxxx"),
        (AdminCommand::ListExceptions, "xxxx"),
        (AdminCommand::Find { listing: Listing::Devices, filter: Filter::default() }, "xxxx"),
        (AdminCommand::Find { listing: Listing::Operators, filter: Filter::default() }, "xxxx"),
        (AdminCommand::ListOutbox { principals: vec![] }, "xxxx"),
        (AdminCommand::ListRefusals, "xx--"),
        (AdminCommand::Drain { per_second: 1, reference: None }, "----"),
        (AdminCommand::Disconnect { principal: None, connection: Some(ConnectionId(1)) }, "----"),
        (AdminCommand::Disconnect { principal: Some(of("acme/ann")), connection: None }, "-xx-"),
        (AdminCommand::RevokeToken { principal: of("acme/ann") }, "-xx-"),
        (AdminCommand::DeletePerson { person: of("acme/bob") }, "--x-"),
        (AdminCommand::CreateObserver { observer: of("acme/screen") }, "--x-"),
        (AdminCommand::Find { listing: Listing::Places, filter: Filter::default() }, "xxxx"),
        (
            AdminCommand::SetPlace {
                tenant: "acme".parse().unwrap(),
                entry: entry("school", "shop", &["till"]),
            },
            "--x-",
        ),
        (
            AdminCommand::RemovePlace { tenant: "acme".parse().unwrap(), place: "school".parse().unwrap() },
            "--x-",
        ),
        (AdminCommand::DeleteObserver { observer: of("acme/screen") }, "--x-"),
        (change_device("acme/spare"), "--x-"),
        (AdminCommand::DeleteDevice { device: of("farthing/ada") }, "----"),
        (AdminCommand::DeleteTenant { tenant: "other".parse().unwrap() }, "----"),
        (batch(vec![change_device("acme/spare")]), "--x-"),
        (batch(vec![change_device("acme/spare"), change_device("other/none")]), "----"),
        (batch(vec![batch(vec![])]), "----"),
        (AdminCommand::Books, "xx--"),
        (AdminCommand::ReadHistory, "xx--"),
        (claim("acme/vend"), "-xx-"),
        (token("acme/ann"), "-xx-"),
        (
            AdminCommand::RotateToken {
                principal: of("acme/ann"),
                token_hash: Hash::of(b"u"),
                expires_at: at,
                former_until: at,
            },
            "-xx-",
        ),
        (claim("farthing/otto"), "----"),
        (AdminCommand::RevokeDevice { device: of("farthing/ada") }, "----"),
        (AdminCommand::ResolvePayment { payment, resolution: Resolution::Accept }, "-xx-"),
        (
            AdminCommand::ResolvePayment { payment: PaymentId([0; 16]), resolution: Resolution::Accept },
            "----",
        ),
        (AdminCommand::RevokeDevice { device: of("acme/spare") }, "-xx-"),
        (
            AdminCommand::CreateDevice { device: of("acme/new"), profile: "p".into(), longest_act_ms: 0 },
            "--x-",
        ),
        (
            AdminCommand::CreateDevice { device: of("other/new"), profile: "p".into(), longest_act_ms: 0 },
            "---x",
        ),
        (
            AdminCommand::CreatePerson { person: of("acme/new-p"), public_key: None, bank_account: None },
            "--x-",
        ),
        (
            AdminCommand::CreateMerchant {
                tenant: "acme".parse().unwrap(),
                merchant: "new".parse().unwrap(),
                title: "New".into(),
                terminal: None,
            },
            "--x-",
        ),
        (
            AdminCommand::BindChip {
                chip: of("acme/chip"),
                merchant: "shop".parse().unwrap(),
                executor: None,
                items: BTreeMap::new(),
            },
            "--x-",
        ),
        (
            AdminCommand::Deposit {
                person: of("acme/ann"),
                amount: "EUR".parse::<schemas::money::Currency>().unwrap().minor(1),
                reference: "r".into(),
            },
            "--x-",
        ),
        (
            AdminCommand::CreateTenant {
                tenant: "third".parse().unwrap(),
                currency: "EUR".parse().unwrap(),
                bank: BankKind::Internal,
                on_unknown: OnUnknown::Refund,
                deadlines: Deadlines::default(),
                code_rules: Default::default(),
            },
            "----",
        ),
        (
            AdminCommand::CreateOperator {
                operator: "me".parse().unwrap(),
                role: OperatorRole::Operator,
                tenant: None,
            },
            "----",
        ),
    ]
}

/// PL-4: who may not is refused by name, it is on record, and nothing has changed.
#[test]
fn each_role_may_do_what_its_row_says_and_nothing_else() {
    let (mut w, payment) = world();
    for (command, row) in table(payment) {
        for ((name, _, _), may) in NAMES.iter().zip(row.chars()) {
            let before = w.driver.cloud().clone();
            let refused = ask(&mut w, name, &command).err().map(|why| why.code.to_string());
            if may == 'x' {
                assert_ne!(refused.as_deref(), Some("not_allowed"), "{name} may {command:?}");
            } else {
                assert_eq!(refused.as_deref(), Some("not_allowed"), "{name} may not {command:?}");
                assert_eq!(w.driver.cloud().registry(), before.registry());
                assert_eq!(w.driver.cloud().exceptions(), before.exceptions());
                let last = records(&w).pop().unwrap();
                w.now += 10_000;
                assert!(
                    matches!(&last.event, Event::RefusalAudited { principal: Some(p), .. } if *p == operator(name))
                );
            }
        }
    }
}

fn records(w: &World) -> Vec<Record> {
    let mut found = Vec::new();
    let mut read = Records(|_, bytes: &[u8]| found.push(Record::decode(bytes).unwrap()));
    Journal::open(w.disk.fork(), limits(), chain(), &mut read).unwrap();
    found
}

/// MO-8: what an operator did is on record as theirs.
#[test]
fn what_an_operator_did_is_recorded_as_theirs() {
    let (mut w, _) = world();
    let command = AdminCommand::RevokeDevice { device: who("spare") };
    ask(&mut w, "otto", &command).unwrap();
    let by_otto = |w: &World| {
        let otto = operator("otto").to_string();
        records(w).into_iter().filter(|record| record.by.as_ref() == Some(&otto)).collect::<Vec<_>>()
    };
    let acted = by_otto(&w);
    assert!(acted.iter().any(|record| matches!(record.event, Event::DeviceRevoked { .. })), "{acted:?}");
    ask(&mut w, "otto", &command).unwrap();
    ask(&mut w, "ada", &AdminCommand::ListDevices).unwrap();
    assert_eq!(by_otto(&w), acted, "what changes nothing leaves no record");
}

/// A tenant's admin sees the rows of that tenant; others see all.
#[test]
fn a_tenants_admin_sees_nothing_of_others() {
    let (mut w, _) = world();
    let tenants = |reply: AdminReply| match reply.unwrap() {
        AdminAnswer::Tenants(rows) => rows.len(),
        AdminAnswer::Devices(rows) => rows.len(),
        AdminAnswer::Payments(rows) => rows.len(),
        other => panic!("{other:?}"),
    };
    let payments = AdminCommand::ListPayments { open_only: false };
    for (name, expected) in [("ada", [2, 3, 1]), ("tina", [1, 3, 1]), ("else", [1, 0, 0])] {
        let seen = [AdminCommand::ListTenants, AdminCommand::ListDevices, payments.clone()]
            .map(|command| tenants(ask(&mut w, name, &command)));
        assert_eq!(seen, expected, "{name}");
    }
    let operators = AdminCommand::Find { listing: Listing::Operators, filter: Filter::default() };
    for (name, expected) in [("ada", &["ada", "else", "otto", "tina"][..]), ("tina", &["tina"])] {
        let AdminAnswer::Operators(rows) = ask(&mut w, name, &operators).unwrap() else {
            panic!("operators")
        };
        let named: Vec<_> = rows.iter().map(|row| row.operator.as_str()).collect();
        assert_eq!(named, expected, "{name}");
        assert!(rows.iter().all(|row| row.standing == "enrolled"), "{rows:?}");
    }
}

/// A revoked operator is out with the next command; a device is none; an operator is nobody on the lane.
#[test]
fn only_a_current_operator_administers_and_does_nothing_else() {
    let (mut w, _) = world();
    let code = |reply: AdminReply| reply.unwrap_err().code.to_string();
    for (principal, instance) in [(who("vend"), 1), (operator("nobody"), 1), (operator("ada"), 2)] {
        let input = Input::AdminBy {
            ticket: 5,
            operator: principal,
            instance: Instance(instance),
            command: AdminCommand::ListTenants,
        };
        let refused = w.input(input).into_iter().any(|output| {
            matches!(output, Output::Admin { reply: Err(why), .. } if why.code.as_str() == "not_an_operator")
        });
        assert!(refused);
    }
    ask(&mut w, "ada", &AdminCommand::ListTenants).unwrap();
    w.admin(AdminCommand::RevokeDevice { device: operator("ada") }).unwrap();
    assert_eq!(code(ask(&mut w, "ada", &AdminCommand::ListTenants)), "not_an_operator");
    let credentials =
        Credentials::Certificate { principal: operator("otto"), instance: Instance(1), serial: vec![] };
    let outputs = w.input(Input::Connect { connection: ConnectionId(99), client: "x".into(), credentials });
    let refused =
        |o: &Output| matches!(o, Output::Standing { result: Err(StandingRefusal::BadCredentials), .. });
    assert!(outputs.iter().any(refused));
}
