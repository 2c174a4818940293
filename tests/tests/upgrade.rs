//! The data of an earlier release under this one, on real binaries: it is taken as it is, and the chip flow goes on.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use device_sim::live::terminal::Terminal;
use farthing_tests::PATIENCE;
use farthing_tests::fleet::{Fleet, Options, key_of, pay_info, principal};
use farthing_tests::process::text;
use schemas::message::PaymentState;

/// Written by the binary of v0.1.0, without the zeros at its end; see `cloud-core/flows/tests/golden.rs`.
const V0_1_0: &[u8] = include_bytes!("../../cloud-core/flows/tests/golden/v0.1.0.seg");
const V0_1_0_HEAD: &str = "182:5bf251473c8428936bf13c6a7910638998d4cbb36f0918c2bba9951e6014d2ff";

fn put_segment(core: &Path, bytes: &[u8]) {
    let length = u64::from_le_bytes(*bytes[24..].first_chunk::<8>().unwrap());
    let mut whole = bytes.to_vec();
    whole.resize(usize::try_from(length).unwrap(), 0);
    std::fs::create_dir_all(core.join("journal")).unwrap();
    std::fs::write(core.join("journal/journal-00000001.seg"), whole).unwrap();
}

#[test]
fn data_of_v0_1_0_is_served_and_paid_with() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // The data is older with each day.
    let options = Options { core_settings: &["--accept-clock"], ..Options::default() };
    let mut fleet = Fleet::upon(options, |core| put_segment(core, V0_1_0));
    let verified = fleet.cli(&["audit", "verify", "--expect", V0_1_0_HEAD]);
    assert!(verified.status.success(), "{}", text(&verified.stdout));
    let AdminAnswer::Payments(before) = fleet.core(AdminCommand::ListPayments { open_only: false }) else {
        panic!("payments")
    };
    assert_eq!(before.len(), 6);
    assert_eq!(before.iter().filter(|row| row.state == PaymentState::Delivered).count(), 2);

    // The devices enrol anew, so that this test does not end with their certificates.
    for (device, profile) in [("home/chip-1", "payment-chip"), ("home/machine-1", "vending-executor")] {
        fleet.enrol(device);
        fleet.start_device(
            device,
            Path::new(profile),
            if profile == "payment-chip" { "" } else { "done" },
            None,
        );
    }
    fleet.wait_for_device("home/chip-1");
    fleet.wait_for_device("home/machine-1");
    let token = fleet.token("home/payer-0");
    let shown = pay_info(&fleet.directory_of("home/chip-1"), "water", 1).unwrap();
    runtime.block_on(async {
        let payer = principal("home/payer-0");
        let mut payer = Terminal::connect(fleet.lane(), payer, &token, Some(key_of("payer-0")));
        let payment = payer.pay(shown, PATIENCE).await.unwrap();
        let asked = payer.asked(payment, PATIENCE).await.unwrap();
        payer.verify(&asked).await.unwrap();
        payer.status(payment, PATIENCE, |status| status.state == PaymentState::Delivered).await.unwrap();
    });
    let AdminAnswer::Books(books) = fleet.core(AdminCommand::Books) else { panic!("books") };
    assert!(books.balanced, "{:?}", books.problem);
    let verified = fleet.cli(&["audit", "verify", "--expect", V0_1_0_HEAD]);
    assert!(verified.status.success(), "{}", text(&verified.stdout));
}

/// A release never reads what a later one wrote: it says so, and what to do, and changes nothing.
#[test]
fn data_of_a_later_format_is_refused_with_what_to_do() {
    let mut later = V0_1_0.to_vec();
    later[8..12].copy_from_slice(&2_u32.to_le_bytes());
    later[12..16].fill(0);
    let checksum = crc32c::crc32c(&later[..64]);
    later[12..16].copy_from_slice(&checksum.to_le_bytes());
    let directory = tempfile::tempdir().unwrap();
    put_segment(directory.path(), &later);
    let segment = directory.path().join("journal/journal-00000001.seg");
    let before = std::fs::read(&segment).unwrap();
    let mut core = farthing_tests::process::command(farthing_tests::process::binary("cloud-core"));
    core.arg("serve").arg("--data-dir").arg(directory.path());
    let output = farthing_tests::process::run(core);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("format version 2") && said.contains("or a newer one"), "{said}");
    assert_eq!(std::fs::read(&segment).unwrap(), before);
}
