//! What was promised, against what the core, the bank and the machines say.

use std::collections::{BTreeMap, BTreeSet};

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, BooksReport, PaymentRow};
use rust_decimal::Decimal;
use schemas::message::PaymentState;

use super::payer::{Facts, Shared};
use crate::bank::Movements;
use crate::fleet::Fleet;

/// The core's rows are cut at this number.
const ROWS: usize = 1_000;

pub(super) fn books(fleet: &Fleet) -> Option<BooksReport> {
    match fleet.ask(AdminCommand::Books) {
        Ok(AdminAnswer::Books(books)) => Some(books),
        _ => None,
    }
}

fn payments(fleet: &Fleet) -> Option<Vec<PaymentRow>> {
    match fleet.ask(AdminCommand::ListPayments { open_only: false }) {
        Ok(AdminAnswer::Payments(rows)) => Some(rows),
        _ => None,
    }
}

fn persons(fleet: &Fleet) -> Option<BTreeSet<String>> {
    match fleet.ask(AdminCommand::ListPersons) {
        Ok(AdminAnswer::Persons(rows)) => Some(rows.iter().map(|row| row.person.to_string()).collect()),
        _ => None,
    }
}

/// Right after a power cut: is everything that was promised before still true? Nothing if the core is dead again.
pub(super) fn after_restart(fleet: &Fleet, shared: &Shared) -> Vec<String> {
    // In this order: what was promised up to now must be in answers that are given later.
    let facts = shared.facts();
    let moved = fleet.bank.book().movements();
    let (Some(rows), Some(persons)) = (payments(fleet), persons(fleet)) else { return Vec::new() };
    check_promises(&facts, &moved, &rows, &persons)
}

fn check_promises(
    facts: &Facts,
    moved: &BTreeMap<String, Movements>,
    rows: &[PaymentRow],
    persons: &BTreeSet<String>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let known: BTreeMap<_, _> = rows.iter().map(|row| (row.payment, row)).collect();
    let is_whole = rows.len() < ROWS;
    for payment in facts.answered.iter().filter(|payment| is_whole && !known.contains_key(*payment)) {
        wrong.push(format!("lost: payment {payment}, with which the payer's request was answered"));
    }
    let names: BTreeSet<String> = known.keys().map(ToString::to_string).collect();
    for payment in moved.keys().filter(|payment| is_whole && !names.contains(*payment)) {
        wrong.push(format!("lost: payment {payment}, for which the bank was asked to move money"));
    }
    for (payment, told) in &facts.ended {
        if let Some(row) = known.get(payment).filter(|row| row.state != *told) {
            wrong
                .push(format!("payment {payment} ended as {told}, the payer was told, and is {}", row.state));
        }
    }
    for payment in &facts.verified {
        if known.get(payment).is_some_and(|row| row.state == PaymentState::Expired) {
            wrong.push(format!("lost: the acknowledged verification of payment {payment}"));
        }
    }
    for person in facts.persons.iter().filter(|person| persons.len() < ROWS && !persons.contains(*person)) {
        wrong.push(format!("lost: {person}, whom the operator was told to be registered"));
    }
    wrong
}

/// Everything at rest: the three books, payment by payment.
pub(super) fn at_rest(fleet: &Fleet, shared: &Shared) -> Vec<String> {
    let (facts, book) = (shared.facts(), fleet.bank.book());
    let moved = book.movements();
    let rows = payments(fleet).expect("the core answers");
    let mut wrong = check_promises(&facts, &moved, &rows, &persons(fleet).expect("the core answers"));
    let books = books(fleet).expect("the core answers");
    if !books.balanced {
        wrong.push(format!("the ledger: {:?}", books.problem));
    }
    if !book.is_conserved() {
        wrong.push("the bank's book: money appeared or vanished".to_owned());
    }
    for (tenant, expected) in &books.holdings {
        let holds = book.balance("holding");
        if holds != expected.decimal() {
            wrong.push(format!("the bank holds {holds} for {tenant}, the ledger says {expected}"));
        }
    }
    wrong.extend(check_acts(fleet, &rows, &moved));
    wrong
}

fn check_acts(fleet: &Fleet, rows: &[PaymentRow], moved: &BTreeMap<String, Movements>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut payment_of = BTreeMap::new();
    for record in fleet.journal() {
        let issued = &record["event"]["command_issued"];
        if let (Some(payment), Some(command)) = (issued["payment"].as_str(), issued["command"]["id"].as_str())
        {
            payment_of.insert(command.to_owned(), payment.to_owned());
        }
    }
    let mut delivered: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (command, units) in fleet.acts() {
        if !seen.insert(command.clone()) {
            wrong.push(format!("command {command} was carried out twice"));
        }
        match payment_of.get(&command) {
            Some(payment) => *delivered.entry(payment.clone()).or_default() += units,
            None => {
                wrong.push(format!("command {command} was carried out, and the journal has no such command"))
            }
        }
    }
    let uncertain = uncertain(fleet);
    let none = Movements::default();
    for row in rows {
        let id = row.payment.to_string();
        let units = delivered.get(&id).copied();
        let why = judge(row, moved.get(&id).unwrap_or(&none), units, uncertain.contains(&id));
        wrong.extend(why.map(|why| format!("payment {id}, {}: {why}", row.state)));
    }
    wrong
}

/// Payments that an operator is told of since nobody knows, or knew in time, what was delivered.
fn uncertain(fleet: &Fleet) -> BTreeSet<String> {
    let Ok(AdminAnswer::Exceptions(rows)) = fleet.ask(AdminCommand::ListExceptions) else {
        panic!("the queue")
    };
    let named = |case: &str| ["unknown_outcome", "delivered_after_refund"].contains(&case);
    rows.iter().filter(|row| named(&row.case)).filter_map(|row| Some(row.payment?.to_string())).collect()
}

/// One row of the table in correctness.md: who has the money, and who has the goods.
fn judge(row: &PaymentRow, moved: &Movements, units: Option<u64>, is_uncertain: bool) -> Option<String> {
    let paid_in: Decimal = moved.transfers.iter().copied().sum();
    let given_back: Decimal = moved.refunds.iter().copied().sum();
    let amount = row.amount.decimal();
    if moved.transfers.len() > 1 || moved.refunds.len() > 1 {
        return Some(format!("the bank moved money more than once: {moved:?}"));
    }
    if paid_in - given_back != row.paid.decimal() {
        return Some(format!(
            "the payer has paid {} by the bank's book, {} by ours",
            paid_in - given_back,
            row.paid
        ));
    }
    let (money, goods) = match row.state {
        PaymentState::Delivered => {
            (paid_in == amount && moved.refunds.is_empty(), units == Some(u64::from(row.quantity)))
        }
        PaymentState::DeliveredInPart => {
            (paid_in == amount && moved.refunds.len() == 1, units == Some(u64::from(row.delivered)))
        }
        PaymentState::Refunded => {
            (paid_in == amount && given_back == amount, units.unwrap_or(0) == 0 || is_uncertain)
        }
        PaymentState::Refused
        | PaymentState::Declined
        | PaymentState::Expired
        | PaymentState::Cancelled
        | PaymentState::BankRefused => (moved.transfers.is_empty(), units.is_none()),
        _ => return Some("this is no end that the plan can lead to".to_owned()),
    };
    match (money, goods) {
        (true, true) => None,
        (false, _) => Some(format!("the bank's book says {moved:?}")),
        (_, false) => Some(format!("{units:?} units came out")),
    }
}
