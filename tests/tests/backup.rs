//! A backup while the core serves, a restore into a past that the world has left behind, and payments afterwards: on
//! real binaries, with the bank's book and the machine's log as witnesses.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, PaymentRow};
use device_sim::live::terminal::Terminal;
use farthing_tests::fleet::{Fleet, Machine, NotReady, Options, pay_info, principal};
use farthing_tests::process::{binary, command, run, text};
use farthing_tests::{PATIENCE, until};
use rust_decimal::Decimal;
use schemas::ids::PaymentId;
use schemas::message::{PaymentState, PaymentStatus, VerificationRequest};
use serde_json::Value;

const MACHINES: &[Machine] = &[("chip", Some("vend"))];

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// The chip has confirmed it, and the payer is asked.
async fn begin(fleet: &Fleet, payer: &mut Terminal) -> VerificationRequest {
    let chip = fleet.directory_of("chip");
    let shown = until("a code of the chip", || pay_info(&chip, "water", 1));
    let payment = payer.pay(shown, PATIENCE).await.unwrap();
    payer.asked(payment, PATIENCE).await.unwrap()
}

async fn finish(payer: &mut Terminal, asked: &VerificationRequest) {
    payer.verify(asked).await.unwrap();
    let is_delivered = |status: &PaymentStatus| status.state == PaymentState::Delivered;
    payer.status(asked.payment, PATIENCE, is_delivered).await.unwrap();
}

fn payments(fleet: &Fleet) -> Vec<PaymentRow> {
    let AdminAnswer::Payments(rows) = fleet.core(AdminCommand::ListPayments { open_only: false }) else {
        panic!("payments")
    };
    rows
}

fn state_of(fleet: &Fleet, payment: PaymentId) -> Option<PaymentState> {
    payments(fleet).iter().find(|row| row.payment == payment).map(|row| row.state)
}

fn cli(data: &Path, arguments: &[&str]) -> Output {
    let mut cli = command(binary("cloud-core"));
    cli.arg("--data-dir").arg(data).args(arguments);
    run(cli)
}

fn records(data: &Path) -> Vec<Value> {
    let said = ok(&cli(data, &["audit", "show", "--json"]));
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

struct Directories {
    core: PathBuf,
    lost: PathBuf,
    backup: PathBuf,
}

/// Payment `b` is open in the backup and was delivered in the future that is lost; `c` belongs to that future alone.
#[test]
fn a_restored_core_goes_on_with_the_same_bank_and_devices_and_nothing_happens_twice() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut fleet = Fleet::start(Options { machines: MACHINES, ..Options::default() });
    fleet.start_device("chip", Path::new("payment-chip"), "", None);
    fleet.start_device("vend", Path::new("vending-executor"), "done", None);
    fleet.wait_for_device("chip");
    fleet.wait_for_device("vend");
    let directories = Directories {
        core: fleet.directory().join("core"),
        lost: fleet.directory().join("lost"),
        backup: fleet.directory().join("backup"),
    };
    let mut payer = runtime.block_on(async { fleet.terminal("payer-0") });

    let buy = |fleet: &Fleet, payer: &mut Terminal| {
        runtime.block_on(async {
            let asked = begin(fleet, payer).await;
            finish(payer, &asked).await;
            asked.payment
        })
    };
    let a = buy(&fleet, &mut payer);
    let asked = runtime.block_on(begin(&fleet, &mut payer));
    let b = asked.payment;
    let head = back_up(&fleet, &directories);
    runtime.block_on(finish(&mut payer, &asked));
    let c = buy(&fleet, &mut payer);
    let lost_head = ok(&fleet.cli(&["audit", "head"])).trim().to_owned();
    assert_eq!(fleet.bank.book().balance("holding"), Decimal::new(450, 2));

    fleet.kill_core();
    restore(&fleet, &directories);
    // On the same ports and in the same place: chip, machine and payer come back by themselves.
    fleet.start_core(None).unwrap();
    assert_eq!(state_of(&fleet, a), Some(PaymentState::Delivered));
    assert_eq!(state_of(&fleet, c), None, "of another future");
    // What was open is asked again, and ends as it did.
    let asked = runtime.block_on(payer.asked(b, PATIENCE)).unwrap();
    runtime.block_on(finish(&mut payer, &asked));
    until("b to be delivered here too", || {
        (state_of(&fleet, b) == Some(PaymentState::Delivered)).then_some(())
    });

    let acts = |fleet: &Fleet| fleet.acts().len();
    assert_eq!(acts(&fleet), 3, "a, b and c, none twice");
    let book = fleet.bank.book();
    assert_eq!(book.movements()[&b.to_string()].transfers, [Decimal::new(150, 2)], "charged once");
    assert!(book.is_conserved());
    let AdminAnswer::Books(books) = fleet.core(AdminCommand::Books) else { panic!("books") };
    assert!(books.balanced, "{:?}", books.problem);
    let ours: Vec<_> = books.holdings.iter().map(|(_, money)| money.decimal()).collect();
    assert_eq!(ours, [Decimal::new(300, 2)], "the bank's book has more: the payment that is unknown here");
    let unknown: Vec<_> = book
        .movements()
        .into_keys()
        .filter(|id| !payments(&fleet).iter().any(|row| row.payment.to_string() == *id))
        .collect();
    assert_eq!(unknown, [c.to_string()], "and names it");

    buy(&fleet, &mut payer);
    assert_eq!(acts(&fleet), 4);
    check_history(&fleet, &directories, &head, &lost_head);
}

/// Backs up, also without keys. Gives the head of the copy.
fn back_up(fleet: &Fleet, directories: &Directories) -> String {
    let said = ok(&fleet.cli(&["backup", "--to", path(&directories.backup)]));
    assert!(said.contains("verified") && said.contains("PRIVATE KEY"), "{said}");
    let again = refused(&fleet.cli(&["backup", "--to", path(&directories.backup)]));
    assert!(again.contains("is not empty"), "{again}");
    let mode =
        |name: &str| std::fs::metadata(directories.backup.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("authority.key.pem")), (0o700, 0o600));
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(directories.backup.join("backup.json")).unwrap()).unwrap();
    manifest["head"].as_str().unwrap().to_owned()
}

fn restore(fleet: &Fleet, directories: &Directories) {
    let (from, core) = (path(&directories.backup), path(&directories.core));
    let occupied = refused(&fleet.cli(&["restore", "--from", from, "--to", core]));
    assert!(occupied.contains("is not empty"), "{occupied}");
    std::fs::rename(&directories.core, &directories.lost).unwrap();
    let said = ok(&fleet.cli(&["restore", "--from", from, "--to", core]));
    for part in ["restored up to record", "1 payments were open then", "Revocations", "must not run any more"]
    {
        assert!(said.contains(part), "{part} is missing in: {said}");
    }
}

/// The audit trail says what was done, and heads tell the two futures apart.
fn check_history(fleet: &Fleet, directories: &Directories, head: &str, lost_head: &str) {
    let restored: Vec<_> = records(&directories.core)
        .into_iter()
        .filter(|record| record["event"]["restored"].is_object())
        .collect();
    assert_eq!(restored.len(), 1);
    assert_eq!(restored[0]["kind"], "administration");
    let position: u64 = head.split_once(':').unwrap().0.parse().unwrap();
    assert_eq!(restored[0]["position"], position + 1);
    ok(&fleet.cli(&["audit", "verify", "--expect", head]));
    assert_eq!(fleet.cli(&["audit", "verify", "--expect", lost_head]).status.code(), Some(1));
    ok(&cli(&directories.lost, &["audit", "verify", "--expect", lost_head]));

    let epoch = |data: &Path| -> u32 {
        std::fs::read_to_string(data.join("boot-epoch")).unwrap().trim().parse().unwrap()
    };
    assert!(epoch(&directories.core) > epoch(&directories.lost), "connections are newer than all before");
    // A certificate of the lost future must never be taken for one of this.
    let device = principal("new-chip");
    let profile = "payment-chip".to_owned();
    fleet.core(AdminCommand::CreateDevice { device: device.clone(), profile, longest_act_ms: 0 });
    fleet.enrol("new-chip");
    let AdminAnswer::Devices(rows) = fleet.core(AdminCommand::ListDevices) else { panic!("devices") };
    let row = rows.iter().find(|row| row.device == device).unwrap();
    assert!(row.instance.0 > 1_000_000, "{row:?}");
}

#[test]
fn a_backup_is_restored_to_a_point_and_never_without_its_key_by_accident() {
    let mut fleet = Fleet::start(Options::default());
    let directory = fleet.directory().to_owned();
    let (backup, keyless) = (directory.join("backup"), directory.join("keyless"));
    ok(&fleet.cli(&["backup", "--to", path(&keyless), "--without-keys"]));
    for (key, public) in [("authority.key.pem", "authority.pem"), ("codes.key.pem", "codes.pub.pem")] {
        assert!(!keyless.join(key).exists() && keyless.join(public).exists());
    }
    assert_eq!(fleet.core_process().terminate().code(), Some(0));
    ok(&fleet.cli(&["backup", "--to", path(&backup)]));

    let all = records(&directory.join("core"));
    let (end, third) = (all.len(), all[2]["at"].as_u64().unwrap());
    let kept = all.iter().filter(|record| record["at"].as_u64().unwrap() <= third).count();
    let restore = |to: &str, until: &str| {
        fleet.cli(&["restore", "--from", path(&backup), "--to", path(&directory.join(to)), "--until", until])
    };
    let beyond = refused(&restore("beyond", &(end + 1).to_string()));
    assert!(beyond.contains(&format!("ends at record {end}")), "{beyond}");
    assert!(refused(&restore("before", "2020-01-01")).contains("no record"));
    // A point within a batch is before that batch: what was decided together stays together.
    let last_of_batch = |pair: &&[Value]| pair[0]["frame"] != pair[1]["frame"] && pair[0]["position"] != 1;
    let whole = all.windows(2).find(last_of_batch).unwrap()[0]["position"].as_u64().unwrap();
    ok(&restore("point", &whole.to_string()));
    let kept_whole = u64::try_from(records(&directory.join("point")).len()).unwrap();
    assert_eq!(kept_whole, whole + 1, "so many, and the restore itself");
    ok(&restore("within", &(whole - 1).to_string()));
    assert!(records(&directory.join("within")).len() < all.len().min(usize::try_from(whole).unwrap() + 1));
    let time = schemas::time::Timestamp(third).to_string();
    ok(&restore("time", &time));
    let at_time = records(&directory.join("time")).len();
    assert!((2..=kept + 1).contains(&at_time), "whole batches up to that time: {at_time} of {kept}");

    // Damage of the backup is found before anything is made of it.
    let segment = backup.join("journal/journal-00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert!(refused(&restore("damaged", "3")).contains("the backup is damaged"));
    assert!(!directory.join("damaged").exists());

    // Without its key a start would make strangers of all devices.
    let core = directory.join("core");
    let keys = ["authority.key.pem", "codes.key.pem"];
    let saved = keys.map(|name| (name, std::fs::read(core.join(name)).unwrap()));
    std::fs::rename(&core, directory.join("former")).unwrap();
    let said = ok(&fleet.cli(&["restore", "--from", path(&keyless), "--to", path(&core)]));
    assert!(said.contains("KEY IS MISSING"), "{said}");
    for (name, key) in saved {
        match fleet.start_core(None) {
            Err(NotReady::Refused(why)) => assert!(why.contains(&format!("{name} is missing")), "{why}"),
            other => panic!("{other:?}"),
        }
        std::fs::write(core.join(name), key).unwrap();
    }
    fleet.start_core(None).unwrap();
}
