//! What devices say of themselves (CP-17): kept, shown to operators, and a reason to refuse early.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod common;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand, BankKind, OnUnknown};
use cloud_core_flows::limits;
use cloud_core_flows::port::PromiseRefusal;
use cloud_core_flows::registry::LastReport;
use common::{World, who};
use schemas::ids::Code;
use schemas::message::{DeviceReport, Up};
use schemas::time::Timestamp;
use schemas::wire::Text;

fn report(not_ready: Option<&'static str>) -> Up {
    Up::DeviceReport(DeviceReport {
        version: Text::new("1.2.3"),
        uptime_ms: 5,
        spool: 2,
        dead_letters: 1,
        not_ready: not_ready.map(Code::known),
    })
}

fn last_report(w: &mut World, device: &str) -> Option<LastReport> {
    let Ok(AdminAnswer::Devices(rows)) = w.admin(AdminCommand::ListDevices) else { panic!() };
    rows.into_iter().find(|row| row.device == who(device)).unwrap().last_report
}

/// Whether a new request would be accepted; `key` and nonce are new each time.
fn asks(w: &mut World, key: u8) -> Result<(), String> {
    let information = w.information(key);
    let body = World::pay_request(w.signed(&information));
    w.request("ann", key, body).refused.map_or(Ok(()), |code| Err(code.to_string()))
}

/// CP-17, CP-15
#[test]
fn a_report_is_kept_with_its_time_and_shown_until_the_next_one() {
    let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
    assert_eq!(last_report(&mut w, "chip"), None);
    for not_ready in [Some("tampered"), None] {
        w.pass(1_000);
        let body = report(not_ready);
        w.say("chip", body.clone()).unwrap();
        let Up::DeviceReport(report) = body else { panic!() };
        let expected = LastReport { at: Timestamp(w.now), report };
        assert_eq!(last_report(&mut w, "chip"), Some(expected));
    }
    assert_eq!(last_report(&mut w, "vend"), None);
    assert_eq!(w.say("ann", report(None)), Err(PromiseRefusal::NotAuthorized), "only devices report");
    w.finish();
}

/// CP-17: nobody is asked to verify what the machine has already said it can't do.
#[test]
fn a_device_that_is_not_ready_is_refused_at_once_until_it_says_otherwise_or_long_ago() {
    for (device, code) in [("chip", "chip_not_ready"), ("vend", "executor_not_ready")] {
        let mut w = World::new(BankKind::Internal, OnUnknown::Refund);
        assert_eq!(asks(&mut w, 1), Ok(()));
        w.say(device, report(Some("tampered"))).unwrap();
        assert_eq!(asks(&mut w, 2), Err(code.into()));
        w.say(device, report(None)).unwrap();
        assert_eq!(asks(&mut w, 3), Ok(()), "a newer report counts");
        w.say(device, report(Some("executor_fault"))).unwrap();
        w.pass(limits::REPORT_LIFE_MS);
        assert_eq!(asks(&mut w, 4), Err(code.into()));
        w.pass(1);
        assert_eq!(asks(&mut w, 5), Ok(()), "an old report counts for nothing: the chip is asked");
    }
}
