//! Do the three books agree? Our ledger, the bank's book, and what physically came out of the machines.

use anyhow::{bail, ensure};
use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use schemas::ids::CommandId;
use schemas::message::PaymentState;

use super::fleet::Fleet;
use super::narrator::Narrator;

/// # Errors
/// The first disagreement.
pub(super) async fn compare(fleet: &Fleet, narrator: &mut Narrator) -> anyhow::Result<()> {
    let AdminAnswer::Books(books) = fleet.admin(AdminCommand::Books)? else { bail!("books") };
    ensure!(books.balanced, "our ledger: {}", books.problem.unwrap_or_default());
    ensure!(books.open_payments == 0, "{} payments are not at rest", books.open_payments);
    narrator.good(
        "our ledger: debits equal credits, nothing is reserved without a reason, every payment is at rest",
    );

    for (tenant, expected) in &books.holdings {
        let actual = fleet.bank_balance("holding").await?;
        ensure!(
            actual == expected.decimal(),
            "the bank holds {actual} for {tenant}, our ledger says {expected}"
        );
        narrator
            .good(&format!("the bank's book: {expected} in {tenant}'s holding account, as our ledger says"));
    }

    let acts = fleet.physical()?;
    let mut units = 0;
    for (command, (times, delivered)) in &acts {
        let command: CommandId = command.parse()?;
        ensure!(*times == 1, "command {command} was carried out {times} times");
        units += delivered;
    }
    let AdminAnswer::Exceptions(exceptions) = fleet.admin(AdminCommand::ListExceptions)? else {
        bail!("exceptions")
    };
    let mut owed = 0;
    for row in fleet.payments()? {
        let by_machine = row.chip.id.as_str().starts_with("chip-");
        let after_refund = exceptions
            .iter()
            .any(|entry| entry.payment == Some(row.payment) && entry.case == "delivered_after_refund");
        let delivered =
            matches!(row.state, PaymentState::Delivered | PaymentState::DeliveredInPart) || after_refund;
        if by_machine && delivered {
            owed += u64::from(row.delivered.max(u32::from(after_refund)));
        }
    }
    ensure!(units == owed, "{units} units came out of the machines, and {owed} are accounted for");
    narrator.good(&format!(
        "the machines' logs: {} acts, none twice; {units} units came out, all accounted for",
        acts.len()
    ));
    Ok(())
}
