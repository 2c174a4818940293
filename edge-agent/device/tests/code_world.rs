//! A piggy bank with codes against a power that fails at any step, and a child that walks about (PC-6, PC-9).
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::codes::{Piggy, answer, cloud, code, id, piggy, token};
use common::{Bench, EPOCH_MS, key};
use edge_agent_device::{CodeRequest, Output};
use proptest::prelude::*;
use schemas::envelope::Envelope;
use schemas::ids::MessageId;
use schemas::message::{PaymentCode, PaymentState, ShowCode};
use schemas::time::Timestamp;

#[derive(Debug, Clone)]
enum Step {
    Deliver(u8),
    Result(u8),
    Ask(u8),
    Walk(bool),
    Places,
    Append,
    Sync,
    Release,
    Connect,
    Pass(u16),
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1_u8..=6).prop_map(Step::Deliver),
        1 => (1_u8..=6).prop_map(Step::Result),
        3 => (1_u8..=6).prop_map(Step::Ask),
        3 => any::<bool>().prop_map(Step::Walk),
        2 => Just(Step::Places),
        2 => Just(Step::Append),
        5 => Just(Step::Sync),
        6 => Just(Step::Release),
        2 => Just(Step::Connect),
        2 => (0_u16..20_000).prop_map(Step::Pass),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// By number: shown at once or on request, a QR code or a token, with ends of their own.
fn numbered(number: u8) -> PaymentCode {
    let made = if number.is_multiple_of(3) { token(number, 0) } else { code(number, 0) };
    let show = if number.is_multiple_of(2) { ShowCode::AtOnce } else { ShowCode::OnRequest };
    PaymentCode { show, expires_at: Timestamp(EPOCH_MS + u64::from(number) * 30_000), ..made }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// PC-6, PC-9: with a power cut between any two steps no code appears late, away from its place, or after the cloud
    /// has told its end; what was acknowledged is not lost.
    #[test]
    fn nothing_is_shown_that_does_not_count(steps in proptest::collection::vec(step(), 0..100)) {
        let mut bench = piggy();
        let mut inside = true;
        let (mut carried, mut promised, mut decided) = (vec![], vec![], vec![]);
        for step in steps {
            match step {
                Step::Deliver(number) => {
                    let id = MessageId::derived("code", &[&[number]]);
                    let payload = Envelope::message(id, numbered(number)).encode();
                    carried.push((bench.deliver("payment-code", &payload), number, false));
                }
                Step::Result(number) => {
                    carried.push((bench.deliver_result(number, PaymentState::Cancelled), number, true));
                }
                Step::Ask(number) => {
                    let request = CodeRequest { ticket: 0, payment: id(number) };
                    bench.device.handle_code_request(&request, bench.now);
                }
                Step::Walk(home) => {
                    // Nobody moves between a decision and its sync here: what is put up was computed where we were.
                    bench.sync();
                    for output in bench.released() {
                        check(&output, &bench, inside, &decided)?;
                        promise(&output, &carried, &mut promised, &mut decided);
                    }
                    inside = home;
                    bench.stand(if home { 0 } else { 50_000 }, 10);
                }
                Step::Places => bench.places(&answer(1, &cloud())),
                Step::Append => _ = bench.append(),
                Step::Sync => bench.sync(),
                Step::Release => {
                    for output in bench.released() {
                        check(&output, &bench, inside, &decided)?;
                        promise(&output, &carried, &mut promised, &mut decided);
                    }
                }
                Step::Connect => _ = bench.connect_with_time(),
                Step::Pass(ms) => {
                    bench.now += u64::from(ms);
                    bench.stand(if inside { 0 } else { 50_000 }, 10);
                }
                Step::Crash(seed) => {
                    bench.crash(seed);
                    bench.device.handle_key(key());
                    carried.clear();
                }
            }
            for number in &promised {
                let over = bench.device.prompt_results().iter().any(|result| result.payment == id(*number));
                prop_assert!(over || bench.device.state().code(&id(*number)).is_some(), "{number} is lost");
            }
        }
    }
}

fn promise(
    output: &Output,
    carried: &[(edge_agent_device::Delivery, u8, bool)],
    promised: &mut Vec<u8>,
    decided: &mut Vec<u8>,
) {
    let Output::Acknowledge { delivery } = output else { return };
    for (of, number, result) in carried {
        if of == delivery {
            if *result { decided.push(*number) } else { promised.push(*number) }
        }
    }
}

fn check(output: &Output, bench: &Bench, inside: bool, decided: &[u8]) -> Result<(), TestCaseError> {
    let Output::Code { shown: Some(shown) } = output else { return Ok(()) };
    let number = shown.payment.0[0];
    if bench.now <= shown.until_boot_ms {
        prop_assert!(EPOCH_MS + bench.now <= numbered(number).expires_at.0, "{number} is shown too late");
    }
    prop_assert!(inside, "{number} is shown where nobody takes it");
    prop_assert!(!decided.contains(&number), "{number} is shown after its end");
    Ok(())
}
