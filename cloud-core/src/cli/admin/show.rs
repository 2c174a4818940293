//! Answers as people read them.

use cloud_core_flows::admin::{
    AdminAnswer, BankKind, BooksReport, ChildPaymentRow, ChildRow, PlaceRow, Presence, WishRow,
};
use cloud_core_flows::registry::LastReport;
use cloud_core_history::Summary;
use schemas::money::Money;

use super::places::degrees;
use crate::admin::{ShellAnswer, Story};
use crate::cli::output::{Table, name_of, or_dash, print_json, print_line, yes_no};

pub(super) fn core(answer: &AdminAnswer, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(answer);
    }
    match answer {
        AdminAnswer::Done => print_line("done")?,
        AdminAnswer::Books(report) => print_books(report)?,
        AdminAnswer::Batch(report) => {
            let done = if report.applied { "done" } else { "it could be carried out" };
            print_line(&format!("{done}: {} changes, {} repeats", report.changes, report.repeats))?;
        }
        _ => table_of(answer).print()?,
    }
    if let AdminAnswer::Children(rows) = answer {
        // Of one child only: among many they would be lost.
        if let [child] = &rows[..]
            && !child.wishes.is_empty()
        {
            wishes(&child.wishes).print()?;
        }
    }
    Ok(())
}

/// Whether a listing has no rows.
pub(super) fn is_empty(answer: &AdminAnswer) -> bool {
    match answer {
        AdminAnswer::Tenants(rows) => rows.is_empty(),
        AdminAnswer::Devices(rows) => rows.is_empty(),
        AdminAnswer::Persons(rows) => rows.is_empty(),
        AdminAnswer::Observers(rows) => rows.is_empty(),
        AdminAnswer::Merchants(rows) => rows.is_empty(),
        AdminAnswer::Accounts(rows) => rows.is_empty(),
        AdminAnswer::Payments(rows) => rows.is_empty(),
        AdminAnswer::Operators(rows) => rows.is_empty(),
        AdminAnswer::Children(rows) => rows.is_empty(),
        AdminAnswer::ChildPayments(rows) => rows.is_empty(),
        AdminAnswer::Places(rows) => rows.is_empty(),
        _ => false,
    }
}

pub(super) fn shell(answer: &ShellAnswer, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(answer);
    }
    match answer {
        ShellAnswer::Story(story) => print_story(story)?,
        ShellAnswer::History { rows, next } => {
            history(rows).print()?;
            if let Some(next) = next {
                print_line(&format!("more with --before {next}"))?;
            }
        }
        ShellAnswer::Claim { code, device, expires_at } => {
            print_line(code)?;
            print_line(&format!("for {device}, once, until {expires_at}; it is shown only here"))?;
        }
        ShellAnswer::Token { token, principal, expires_at } => {
            print_line(token)?;
            print_line(&format!(
                "MQTT user name {principal}, password as above, until {expires_at}; it is shown only here"
            ))?;
        }
        ShellAnswer::Durable { records } => print_line(&records.to_string())?,
    }
    Ok(())
}

fn table_of(answer: &AdminAnswer) -> Table {
    match answer {
        AdminAnswer::Done | AdminAnswer::Books(_) | AdminAnswer::Batch(_) => Table::new(&[]),
        AdminAnswer::Outbox(rows) => {
            table(&["PRINCIPAL", "OWED"], rows, |row| vec![row.principal.to_string(), row.owed.to_string()])
        }
        AdminAnswer::Refusals(report) => {
            table(&["AT", "PRINCIPAL", "WHAT", "WHY"], &report.refusals, |row| {
                vec![
                    row.at.to_string(),
                    or_dash(row.principal.as_ref()),
                    printable(&row.what),
                    printable(&row.why),
                ]
            })
        }
        AdminAnswer::Operators(rows) => {
            table(&["OPERATOR", "ROLE", "TENANT", "STANDING", "INSTANCE"], rows, |row| {
                vec![
                    row.operator.to_string(),
                    row.role.as_str().to_owned(),
                    or_dash(row.tenant.as_ref()),
                    row.standing.clone(),
                    row.instance.to_string(),
                ]
            })
        }
        AdminAnswer::Deleted(rows) => {
            table(&["NAME", "DELETED"], rows, |row| vec![row.name.clone(), row.deleted_at.to_string()])
        }
        AdminAnswer::Tenants(rows) => {
            let header = ["TENANT", "CURRENCY", "BANK", "HOLDING", "ON UNKNOWN"];
            table(&header, rows, |row| {
                let (bank, holding) = match &row.bank {
                    BankKind::Internal => ("internal".to_owned(), "-".to_owned()),
                    BankKind::Http { url, holding } => (url.clone(), holding.clone()),
                };
                vec![
                    row.tenant.to_string(),
                    row.currency.to_string(),
                    bank,
                    holding,
                    name_of(&row.on_unknown),
                ]
            })
        }
        AdminAnswer::Devices(rows) => {
            let header = [
                "DEVICE", "PROFILE", "STANDING", "INSTANCE", "PRESENCE", "OWED", "MERCHANT", "EXECUTOR",
                "VERSION", "SPOOL", "DEAD", "READY", "REPORTED",
            ];
            table(&header, rows, |row| {
                let last = row.last_report.as_ref();
                let report = |cell: &dyn Fn(&LastReport) -> String| last.map_or("-".to_owned(), cell);
                vec![
                    row.device.to_string(),
                    row.profile.clone(),
                    row.standing.clone(),
                    row.instance.to_string(),
                    presence(&row.presence),
                    row.owed.to_string(),
                    or_dash(row.merchant.as_ref()),
                    or_dash(row.executor.as_ref()),
                    report(&|last| printable(last.report.version.as_str())),
                    report(&|last| last.report.spool.to_string()),
                    report(&|last| last.report.dead_letters.to_string()),
                    report(&|last| last.report.not_ready.as_ref().map_or("yes".into(), ToString::to_string)),
                    report(&|last| last.at.to_string()),
                ]
            })
        }
        AdminAnswer::Persons(rows) => {
            let header = ["PERSON", "BANK ACCOUNT", "CAN VERIFY", "PRESENCE", "OWED"];
            table(&header, rows, |row| {
                vec![
                    row.person.to_string(),
                    or_dash(row.bank_account.as_ref()),
                    yes_no(row.can_verify),
                    presence(&row.presence),
                    row.owed.to_string(),
                ]
            })
        }
        AdminAnswer::Observers(rows) => table(&["OBSERVER", "PRESENCE"], rows, |row| {
            vec![row.observer.to_string(), presence(&row.presence)]
        }),
        AdminAnswer::Merchants(rows) => table(&["MERCHANT", "TITLE", "TERMINAL"], rows, |row| {
            vec![
                format!("{}/{}", row.tenant, row.merchant),
                row.title.clone(),
                or_dash(row.terminal.as_ref()),
            ]
        }),
        AdminAnswer::Accounts(rows) => {
            let header = ["TENANT", "ACCOUNT", "DEBITS", "CREDITS", "RESERVED DEBITS", "RESERVED CREDITS"];
            table(&header, rows, |row| {
                let money = |money: Money| money.to_string();
                vec![
                    row.tenant.to_string(),
                    row.account.clone(),
                    money(row.debits_posted),
                    money(row.credits_posted),
                    money(row.debits_pending),
                    money(row.credits_pending),
                ]
            })
        }
        AdminAnswer::Payments(rows) => {
            let header = [
                "PAYMENT",
                "STATE",
                "AMOUNT",
                "PAID",
                "ITEM",
                "DELIVERED",
                "PAYER",
                "CHIP",
                "MERCHANT",
                "REASON",
                "OPENED",
            ];
            table(&header, rows, |row| {
                vec![
                    row.payment.to_string(),
                    name_of(&row.state),
                    row.amount.to_string(),
                    row.paid.to_string(),
                    row.item.to_string(),
                    format!("{}/{}", row.delivered, row.quantity),
                    row.payer.to_string(),
                    row.chip.to_string(),
                    row.merchant.to_string(),
                    or_dash(row.reason.as_ref()),
                    row.opened_at.to_string(),
                ]
            })
        }
        AdminAnswer::Children(rows) => children(rows),
        AdminAnswer::ChildPayments(rows) => child_payments(rows),
        AdminAnswer::Places(rows) => places(rows),
        AdminAnswer::Exceptions(rows) => table(&["SINCE", "CASE", "PAYMENT", "WHAT TO DO"], rows, |row| {
            vec![row.raised_at.to_string(), row.case.clone(), or_dash(row.payment.as_ref()), row.text.clone()]
        }),
    }
}

fn history(rows: &[Summary]) -> Table {
    let header =
        ["PAYMENT", "FLOW", "STATE", "AMOUNT", "PAID", "PAYER", "ORDERED BY", "PAYEE", "REASON", "OPENED"];
    table(&header, rows, |row| {
        vec![
            row.payment.to_string(),
            name_of(&row.flow),
            row.state.map_or_else(|| "suggested".to_owned(), |state| name_of(&state)),
            row.amount.to_string(),
            row.paid.to_string(),
            row.payer.to_string(),
            or_dash(row.ordered_by.as_ref()),
            row.payee.clone(),
            or_dash(row.reason.as_ref()),
            row.opened_at.to_string(),
        ]
    })
}

fn children(rows: &[ChildRow]) -> Table {
    let header = [
        "CHILD",
        "GUARDIANS",
        "PIGGY BANK",
        "RECEIVING",
        "TIME ZONE",
        "HAS",
        "TODAY",
        "EACH",
        "PER DAY",
        "QUIET",
    ];
    table(&header, rows, |row| {
        let (bonds, limits) = (&row.bonds, row.limits.as_ref());
        let guardians: Vec<_> = bonds.guardians.iter().map(ToString::to_string).collect();
        vec![
            row.child.to_string(),
            guardians.join(" "),
            or_dash(bonds.piggy_bank.as_ref()),
            or_dash(bonds.receiving.as_ref()),
            bonds.time_zone.clone(),
            row.available.to_string(),
            row.spent_today.to_string(),
            or_dash(limits.and_then(|limits| limits.per_payment).as_ref()),
            or_dash(limits.and_then(|limits| limits.per_day).as_ref()),
            or_dash(limits.and_then(|limits| limits.quiet_hours).as_ref()),
        ]
    })
}

fn wishes(rows: &[WishRow]) -> Table {
    table(&["WISH", "STATE", "TO", "KIND", "AMOUNT", "KEYWORDS", "TEXT", "REASON", "AT"], rows, |row| {
        let wish = &row.wish;
        let keywords: Vec<_> = wish.keywords.iter().map(|word| printable(word.as_str())).collect();
        vec![
            row.id.to_string(),
            name_of(&wish.state),
            wish.to.to_string(),
            name_of(&wish.kind),
            or_dash(wish.amount.as_ref()),
            keywords.join(" "),
            printable(wish.text.as_str()),
            wish.reason.as_ref().map_or_else(|| "-".to_owned(), |reason| printable(reason.as_str())),
            wish.at.to_string(),
        ]
    })
}

fn child_payments(rows: &[ChildPaymentRow]) -> Table {
    let header = [
        "PAYMENT",
        "STATE",
        "ORDERED",
        "TAKEN",
        "PAID",
        "FOR",
        "CHILD",
        "GUARDIAN",
        "PIGGY BANK",
        "PAYEE",
        "MODE",
        "PLACE",
        "EXPIRES",
        "REASON",
        "OPENED",
    ];
    table(&header, rows, |row| {
        let categories: Vec<_> = row.categories.iter().map(ToString::to_string).collect();
        vec![
            row.payment.to_string(),
            name_of(&row.state),
            row.ordered.to_string(),
            row.amount.to_string(),
            row.paid.to_string(),
            categories.join(" "),
            row.child.to_string(),
            row.guardian.to_string(),
            row.piggy_bank.to_string(),
            row.payee.to_string(),
            row.mode.map_or("deduction".to_owned(), |mode| mode.to_string()),
            or_dash(row.place.as_ref()),
            or_dash(row.expires_at.as_ref()),
            or_dash(row.reason.as_ref()),
            row.opened_at.to_string(),
        ]
    })
}

fn places(rows: &[PlaceRow]) -> Table {
    let header = ["PLACE", "TITLE", "AT", "RADIUS M", "CATEGORIES", "MERCHANT", "TERMINALS", "VERSION"];
    table(&header, rows, |row| {
        let place = &row.entry.place;
        let categories: Vec<_> = place.categories.iter().map(ToString::to_string).collect();
        let terminals: Vec<_> = row.entry.terminals.iter().map(ToString::to_string).collect();
        vec![
            format!("{}/{}", row.tenant, place.place),
            place.title.as_str().to_owned(),
            degrees(place.latitude_e7, place.longitude_e7),
            place.radius_m.to_string(),
            categories.join(" "),
            row.entry.merchant.to_string(),
            terminals.join(" "),
            row.version.to_string(),
        ]
    })
}

fn table<R>(header: &[&str], rows: &[R], cells: impl Fn(&R) -> Vec<String>) -> Table {
    let mut table = Table::new(header);
    for row in rows {
        table.row(cells(row));
    }
    table
}

fn print_books(report: &BooksReport) -> anyhow::Result<()> {
    print_line(match &report.problem {
        None if report.balanced => "the books balance",
        _ => "THE BOOKS DO NOT BALANCE",
    })?;
    if let Some(problem) = &report.problem {
        print_line(problem)?;
    }
    print_line(&format!(
        "payments not at rest: {}; exceptions: {}",
        report.open_payments, report.exceptions
    ))?;
    for (tenant, money) in &report.holdings {
        print_line(&format!(
            "the bank of {tenant} must show {money} in the holding account, if nothing is under way"
        ))?;
    }
    Ok(())
}

fn print_story(story: &Story) -> anyhow::Result<()> {
    print_line(&format!("payment {}", story.payment))?;
    for chapter in &story.chapters {
        print_line(&format!("{}  {:>8}  {}", chapter.at, chapter.position, chapter.text))?;
    }
    if story.is_cut {
        print_line(&format!(
            "... and more records than are shown; see `cloud-core audit show --payment {}`",
            story.payment
        ))?;
    }
    Ok(())
}

/// A device's words, as a terminal bears them.
/// Nothing is known of those whom the core has not seen since its start.
fn presence(presence: &Presence) -> String {
    let Some(since) = presence.since else { return "unknown".to_owned() };
    let what = if presence.connected { "connected" } else { "gone" };
    let state = presence.state.as_ref().map_or(String::new(), |state| format!(" ({})", printable(state)));
    format!("{what}{state} since {since}")
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(24).collect()
}
