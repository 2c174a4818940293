//! Allowances and savings goals, and what a child sees of them on its piggy bank (PC-14).

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::{AdminCommand, BankKind};
use cloud_core_flows::port::Input;
use common::family::{HAS, bind, bonds, eur, family};
use common::{World, who};
use schemas::message::{
    AllowanceSchedule, ChildAllowance, ChildView, Down, Every, Goal, Goals, PaymentState, SavingsGoals, Up,
};
use schemas::time::Timestamp;
use schemas::wire::Text;

const DAY_MS: u64 = 24 * 3_600_000;

fn schedule(minor: u64, every: Every, first_at: u64) -> AllowanceSchedule {
    AllowanceSchedule { amount: eur(minor), every, first_at: Timestamp(first_at) }
}

/// Sets or ends an allowance for Mia; the refusal's code.
fn set(w: &mut World, guardian: &str, key: u8, schedule: Option<AllowanceSchedule>) -> Option<String> {
    let body = Up::ChildAllowance(ChildAllowance { child: "mia".parse().unwrap(), schedule });
    w.request(guardian, key, body).refused.map(|code| code.to_string())
}

fn goals(w: &mut World, guardian: &str, key: u8, goals: &[(&str, u64)]) -> Option<String> {
    let goals = goals.iter().map(|(title, minor)| Goal { title: Text::new(*title), amount: eur(*minor) });
    let goals = Goals::new(goals.collect()).unwrap();
    let body = Up::SavingsGoals(SavingsGoals { child: "mia".parse().unwrap(), goals });
    w.request(guardian, key, body).refused.map(|code| code.to_string())
}

/// What the piggy bank was last told; nothing if nothing is new.
fn view(w: &mut World) -> Option<ChildView> {
    let fetched = w.fetch("piggy").into_iter();
    fetched
        .filter_map(|down| match down {
            Down::ChildView(view) => Some(view),
            _ => None,
        })
        .next_back()
}

fn pay_in(w: &mut World, person: &str, minor: u64) {
    let reference = format!("{person} {minor} {}", w.now);
    w.admin(AdminCommand::Deposit { person: who(person), amount: eur(minor), reference }).unwrap();
}

/// How the guardian was told of each allowance.
fn told(w: &mut World, guardian: &str) -> Vec<(PaymentState, u64)> {
    let fetched = w.fetch(guardian).into_iter();
    fetched
        .filter_map(|down| match down {
            Down::PaymentStatus(status) => Some((status.state, status.paid.minor)),
            _ => None,
        })
        .collect()
}

/// PC-14: paid when it is due, once each, from the guardian's account; a missed one is told and the next one stays.
#[test]
fn an_allowance_is_paid_each_time_or_missed_and_told() {
    let mut w = family();
    pay_in(&mut w, "dad", 500);
    let first_at = w.now + DAY_MS;
    assert_eq!(set(&mut w, "dad", 1, Some(schedule(200, Every::Day, first_at))), None);
    assert_eq!(set(&mut w, "dad", 2, Some(schedule(200, Every::Day, first_at))), None, "said again");
    w.pass(DAY_MS - 1);
    assert_eq!(w.balance("person/mia"), i128::from(HAS));
    w.pass(1);
    assert_eq!((w.balance("person/mia"), w.balance("person/dad")), (i128::from(HAS) + 200, 300));
    let (settled, refused) = ((PaymentState::Settled, 200), (PaymentState::Refused, 0));
    assert_eq!(told(&mut w, "dad"), [settled]);
    w.pass(DAY_MS);
    assert_eq!(told(&mut w, "dad"), [settled]);
    w.pass(DAY_MS);
    assert_eq!(told(&mut w, "dad"), [refused]);
    assert_eq!((w.balance("person/mia"), w.balance("person/dad")), (i128::from(HAS) + 400, 100));
    pay_in(&mut w, "dad", 100);
    w.pass(DAY_MS);
    assert_eq!((w.balance("person/mia"), told(&mut w, "dad")), (i128::from(HAS) + 600, vec![settled]));
    assert_eq!(set(&mut w, "dad", 3, None), None);
    w.pass(3 * DAY_MS);
    assert_eq!(told(&mut w, "dad"), []);
    let transfers = w.driver.cloud().ledger().transfers().count();
    assert_eq!(transfers, 6, "deposits; allowances that are over have left memory");
    w.finish();
}

/// After an outage what fell due meanwhile is paid, each once, over any power cut.
#[test]
fn what_fell_due_during_an_outage_is_paid_once() {
    let mut w = family();
    pay_in(&mut w, "dad", 10_000);
    let first_at = w.now + DAY_MS;
    assert_eq!(set(&mut w, "dad", 1, Some(schedule(100, Every::Week, first_at))), None);
    w.now += 16 * DAY_MS;
    for seed in 0..5 {
        w.crash(seed);
        w.pass(1);
    }
    assert_eq!(w.balance("person/mia"), i128::from(HAS) + 300, "day 1, 8 and 15");
    w.finish();
}

/// PC-14: what has changed is shown on the child's own piggy bank, whatever changed it; the newest only.
#[test]
fn the_piggy_bank_shows_what_the_child_has_and_can_look_forward_to() {
    let mut w = family();
    let at_first = view(&mut w).unwrap();
    assert_eq!((at_first.available, at_first.allowances.iter().count()), (eur(HAS), 0));
    assert_eq!(view(&mut w), None);
    pay_in(&mut w, "mia", 100);
    pay_in(&mut w, "mia", 23);
    assert_eq!(w.driver.cloud().outbox().depth(&who("piggy")), 1, "the newest only");
    assert_eq!(view(&mut w).unwrap().available, eur(HAS + 123));
    let first_at = w.now + DAY_MS;
    assert_eq!(set(&mut w, "mum", 1, Some(schedule(500, Every::Month, first_at))), None);
    assert_eq!(goals(&mut w, "dad", 1, &[("A scooter", 5_000)]), None);
    let now = view(&mut w).unwrap();
    let coming: Vec<_> = now.allowances.iter().collect();
    assert_eq!((coming.len(), coming[0].guardian.as_str(), coming[0].next_at.0), (1, "mum", first_at));
    assert_eq!(now.goals.iter().map(|goal| goal.title.as_str()).collect::<Vec<_>>(), ["A scooter"]);
    assert_eq!(now.as_of.0, w.now);
    // A piggy bank that comes back is told how it is, also if nothing has changed.
    w.restart();
    w.connect("piggy");
    assert_eq!(view(&mut w), Some(ChildView { as_of: Timestamp(w.now), ..now }));
    // And another one that takes its place.
    bind(&mut w, "mia", bonds(&["mum", "dad"], Some("piggy3"))).unwrap();
    w.connect("piggy3");
    assert!(w.fetch("piggy3").iter().any(|down| matches!(down, Down::ChildView(_))));
    w.finish();
}

/// Each refusal by its code.
#[test]
fn refusals_of_allowances_and_goals_are_reached() {
    let mut w = family();
    let soon = w.now + 1_000;
    let usd = AllowanceSchedule { amount: "1.00 USD".parse().unwrap(), ..schedule(1, Every::Day, soon) };
    for (key, (guardian, schedule, code)) in (1..).zip([
        ("ann", schedule(100, Every::Day, soon), "not_guardian"),
        ("dad", schedule(0, Every::Day, soon), "amount_zero"),
        ("dad", usd, "currency_mismatch"),
        ("dad", schedule(100, Every::Day, w.now), "first_at_past"),
        ("dad", schedule(100, Every::Day, w.now + 367 * DAY_MS), "first_at_too_far"),
    ]) {
        assert_eq!(set(&mut w, guardian, key, Some(schedule)).as_deref(), Some(code));
    }
    assert_eq!(goals(&mut w, "ann", 90, &[]).as_deref(), Some("not_guardian"));
    assert_eq!(goals(&mut w, "dad", 91, &[("", 1)]).as_deref(), Some("title_invalid"));
    assert_eq!(goals(&mut w, "dad", 92, &[(&"x".repeat(81), 1)]).as_deref(), Some("title_invalid"));
    assert_eq!(goals(&mut w, "dad", 93, &[("A scooter", 0)]).as_deref(), Some("amount_zero"));
    w.finish();
}

/// CP-15: a batch that fails changes nothing of a child either.
#[test]
fn a_batch_that_fails_leaves_children_as_they_were() {
    let mut w = family();
    let first_at = w.now + DAY_MS;
    assert_eq!(set(&mut w, "dad", 1, Some(schedule(100, Every::Day, first_at))), None);
    let before = w.driver.cloud().registry().clone();
    let commands = vec![
        AdminCommand::BindChild { child: who("mia"), bonds: bonds(&["mum"], Some("piggy3")) },
        AdminCommand::UnbindChild { child: who("leo") },
        AdminCommand::UnbindChild { child: who("mia") },
        AdminCommand::UnbindChild { child: who("nobody") },
    ];
    let refused = w.admin(AdminCommand::Batch { commands: commands.clone(), check_only: false }).unwrap_err();
    assert_eq!(refused.code.as_str(), "person_unknown");
    assert_eq!(*w.driver.cloud().registry(), before);
    let commands = commands[..3].to_vec();
    w.admin(AdminCommand::Batch { commands: commands.clone(), check_only: true }).unwrap();
    assert_eq!(*w.driver.cloud().registry(), before);
    w.admin(AdminCommand::Batch { commands, check_only: false }).unwrap();
    assert!(w.driver.cloud().registry().child(&who("mia")).is_none());
    w.finish();
}

/// Who is no guardian any more pays nothing any more.
#[test]
fn an_allowance_ends_with_the_guardianship() {
    let mut w = family();
    for guardian in ["mum", "dad"] {
        pay_in(&mut w, guardian, 1_000);
        let first_at = w.now + DAY_MS;
        assert_eq!(set(&mut w, guardian, 1, Some(schedule(100, Every::Day, first_at))), None);
    }
    bind(&mut w, "mia", bonds(&["dad"], Some("piggy"))).unwrap();
    w.pass(2 * DAY_MS);
    assert_eq!((w.balance("person/mum"), w.balance("person/dad")), (1_000, 800));
    w.admin(AdminCommand::UnbindChild { child: who("mia") }).unwrap();
    w.pass(2 * DAY_MS);
    assert_eq!(w.balance("person/dad"), 800);
    assert_eq!(w.bank, BankKind::Internal);
    w.finish();
}

/// Until nothing new is accepted.
fn fill_the_disk(w: &mut World) {
    w.disk.set_capacity_bytes(Some(0));
    let is_full = (2..=255).any(|key| {
        let not_after = Timestamp(w.now + 60_000);
        let body = Up::SavingsGoals(SavingsGoals {
            child: "mia".parse().unwrap(),
            goals: Goals::new(vec![
                Goal { title: Text::new("x".repeat(80)), amount: eur(u64::from(key)) };
                8
            ])
            .unwrap(),
        });
        let refused = w.request_raw("dad", key, not_after, body).0.is_err();
        w.fetch("dad");
        w.fetch("piggy");
        refused
    });
    assert!(is_full);
}

/// correctness.md 4: what is left of a full disk is for the end of open payments; allowances wait, and are paid later.
#[test]
fn an_allowance_waits_for_room_on_the_disk() {
    let mut w = family();
    w.restores_after_each_input = false;
    pay_in(&mut w, "dad", 1_000);
    let first_at = w.now + DAY_MS;
    assert_eq!(set(&mut w, "dad", 1, Some(schedule(100, Every::Day, first_at))), None);
    fill_the_disk(&mut w);
    w.pass(2 * DAY_MS);
    assert_eq!(w.balance("person/mia"), i128::from(HAS));
    w.disk.set_capacity_bytes(None);
    w.driver.retry_spare();
    w.flush();
    w.pass(1);
    assert_eq!(w.balance("person/mia"), i128::from(HAS) + 200, "both that fell due meanwhile");
    w.finish();
}

/// correctness.md 4, PC-14: a piggy bank that comes back while the disk is full, replaced perhaps and blank, shows what
/// its child has once there is room.
#[test]
fn a_view_waits_for_room_on_the_disk() {
    let mut w = family();
    w.restores_after_each_input = false;
    fill_the_disk(&mut w);
    w.connect("piggy");
    w.input(Input::Tick);
    assert_eq!(view(&mut w), None);
    w.disk.set_capacity_bytes(None);
    w.driver.retry_spare();
    w.flush();
    assert!(w.driver.next_due().is_some_and(|due| due.0 <= w.now), "nothing else may happen for hours");
    w.pass(1);
    assert_eq!(view(&mut w).map(|view| view.available), Some(eur(HAS)));
    assert_eq!(w.driver.next_due().filter(|due| due.0 <= w.now), None, "once");
    w.finish();
}

/// A guardian who corrects an allowance just after it was paid does not pay it twice; bonds that end leave nothing behind.
#[test]
fn one_due_time_is_paid_once_whatever_is_set_again() {
    let mut w = family();
    pay_in(&mut w, "dad", 1_000);
    let first_at = w.now + DAY_MS;
    assert_eq!(set(&mut w, "dad", 1, Some(schedule(100, Every::Day, first_at))), None);
    w.pass(DAY_MS);
    assert_eq!(w.balance("person/mia"), i128::from(HAS) + 100);
    let corrected = schedule(200, Every::Day, first_at);
    assert_eq!(set(&mut w, "dad", 2, Some(corrected)).as_deref(), Some("first_at_past"));
    assert_eq!(set(&mut w, "dad", 3, None), None);
    assert_eq!(set(&mut w, "dad", 4, Some(corrected)).as_deref(), Some("first_at_past"));
    w.pass(1_000);
    assert_eq!(w.balance("person/mia"), i128::from(HAS) + 100);
    let later = schedule(100, Every::Day, w.now + 1_000);
    assert_eq!(set(&mut w, "dad", 5, Some(later)), None);
    w.pass(1_000);
    bind(&mut w, "mia", bonds(&["mum"], Some("piggy"))).unwrap();
    assert_eq!(
        w.driver.cloud().ledger().transfers().count(),
        5,
        "four deposits; the first correction's payment"
    );
    w.finish();
}
