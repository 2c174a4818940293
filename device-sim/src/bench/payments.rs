//! Chip payments, complete and durable (CP-1 to CP-10): how many a second, how soon the device hears, what more than
//! that does. Beside mosquitto, which relays the messages of the same clients on the same thread and keeps nothing.
//!
//! A payment's messages are the PUBLISH packets that its clients send and receive; a relayed message is counted once,
//! when it arrives.

use std::time::{Duration, Instant};

use anyhow::ensure;
use ed25519_dalek::SigningKey;
use schemas::ids::PaymentId;
use schemas::money::Currency;
use schemas::signed::{PublicKey, Verification};
use schemas::time::Timestamp;
use schemas::wire::Text;

use super::Setting;
use super::report::{Report, Unit, median, ratio_permille};
use crate::live::{self, Arrivals, Asked, End, Fleet, Load, Measured, Outcome, Scenario, Step};
use crate::processes::{Core, mosquitto, pin, raise_limit_of_files};

const BENCH: &str = "payments";
/// Machines, each a chip and an executor; and payers, each with one payment under way where the loop is closed.
const MACHINES: u32 = 100;
const PAYERS: u32 = 200;
const DURATION_S: u32 = 12;
const RAMP_S: u32 = 2;
const DRAIN_S: u32 = 60;
/// What a slow disk's sync takes longer.
const SLOW_SYNC: Duration = Duration::from_millis(2);
const SIGNATURES: u32 = 2_000;
/// Of a chip payment that are made or checked while it is under way: the payer's is made, and two are checked.
const CHECKED: u64 = 2;

pub(super) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    raise_limit_of_files();
    let (mut rates, mut relays, mut messages) = (Vec::new(), Vec::new(), 0);
    let yardstick = mosquitto(&setting.directory, 1_000)?;
    for round in 0..setting.rounds {
        if let Some((_, address)) = &yardstick {
            relays.push(live::relay(*address, PAYERS as usize, Duration::from_secs(6))?);
        }
        let outcome = play(setting, &format!("saturated-{round}"), closed(), Duration::ZERO)?;
        messages = messages_per_payment(&outcome.measured);
        rates.push(full_rate(&outcome.measured));
    }
    let rate = median(rates);
    let note = format!(
        "{MACHINES} machines, {PAYERS} payers in a closed loop; {}.{} messages each; books agree",
        messages / 10,
        messages % 10
    );
    report.add(BENCH, "chip payments, complete and durable", rate, Unit::PerSecond, note);
    compare(rate * messages / 10, relays, report);
    cryptography(rate, report);
    promptness(setting, rate / 2, report)?;
    overload(setting, report)
}

fn compare(messages_per_s: u64, relays: Vec<u64>, report: &mut Report) {
    if relays.is_empty() {
        report.add(BENCH, "mosquitto", 0, Unit::Count, "not installed: apt install mosquitto");
        return;
    }
    let relay = median(relays);
    report.add(BENCH, "mosquitto: messages of the same clients", relay, Unit::PerSecond, "in memory only");
    let ratio = ratio_permille(messages_per_s, relay);
    let note = format!("{messages_per_s} messages/s of payments, every signature made and checked; goal 0.5");
    report.add(BENCH, "payments' messages : mosquitto", ratio, Unit::RatioPermille, note);
}

/// What signatures take of both cores' time.
fn cryptography(rate: u64, report: &mut Report) {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = PublicKey::of(&key);
    let (payer, payee) = ("bench/payer".parse(), Text::new("Snacks"));
    let (Ok(payer), Ok(currency)) = (payer, "EUR".parse::<Currency>()) else { return };
    let verification = Verification {
        payer,
        payment: PaymentId([9; 16]),
        payee,
        amount: currency.minor(150),
        expires_at: Timestamp(1_800_000_000_000),
    };
    let each_ns = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        (0..SIGNATURES).for_each(|_| work());
        started.elapsed().as_nanos() / u128::from(SIGNATURES)
    };
    let signed = verification.sign(&key);
    let sign_ns = each_ns(&mut || drop(std::hint::black_box(verification.sign(&key))));
    let check_ns = each_ns(&mut || drop(std::hint::black_box(Verification::verify(&signed, &public))));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u128;
    let busy = u128::from(rate) * (sign_ns + u128::from(CHECKED) * check_ns) / (cores * 1_000_000);
    let note = format!(
        "of all cores' time: one signature of {} us and {CHECKED} checks of {} us for each payment",
        sign_ns / 1_000,
        check_ns / 1_000
    );
    report.add(BENCH, "signatures", u64::try_from(busy).unwrap_or(0), Unit::RatioPermille, note);
}

/// Order accepted to message at the device, at half of what is possible, and with a slower disk.
fn promptness(setting: &Setting, rate: u64, report: &mut Report) -> anyhow::Result<()> {
    let rate = u32::try_from(rate)?.max(1);
    for (name, added) in [("half", Duration::ZERO), ("slow-disk", SLOW_SYNC)] {
        let outcome = play(setting, name, open(rate), added)?;
        let steps = [Step::AcceptedToDevice, Step::OrderToAccepted, Step::OrderToEnd];
        let [device, accepted, end] = steps.map(|step| outcome.measured.percentiles(step));
        let disk =
            if added.is_zero() { String::new() } else { format!(", syncs {} ms longer", added.as_millis()) };
        let note = format!(
            "p99 at {rate}/s{disk}; goal 10000. Order to accepted p50 {} p99 {} us, order to end p50 {} p99 {} us",
            accepted.p50_us, accepted.p99_us, end.p50_us, end.p99_us
        );
        report.add(BENCH, format!("accepted to device{disk}"), device.p99_us, Unit::Microseconds, note);
    }
    Ok(())
}

/// The core has one processor, the clients another; twice as many payments begin as can end.
fn overload(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores < 2 {
        report.add(BENCH, "overload", 0, Unit::Count, "not measured: needs two cores");
        return Ok(());
    }
    let core = |name| {
        let directory = setting.directory.join(name);
        std::fs::create_dir_all(&directory)?;
        anyhow::Ok((Core::start_hindered(&directory, Duration::ZERO, Some(0))?, directory))
    };
    let ((best_core, best_directory), (hard_core, hard_directory)) = (core("best")?, core("hard")?);
    // A thread of its own, so that all that comes later has every core again.
    let played = std::thread::scope(|scope| {
        let both = || {
            pin(1)?;
            let best = watchless(&best_core, &best_directory, &closed())?;
            let rate = full_rate(&best.measured);
            let hard = watchless(&hard_core, &hard_directory, &open(u32::try_from(2 * rate)?.max(1)))?;
            anyhow::Ok((rate, hard))
        };
        scope.spawn(both).join().map_err(|_| anyhow::anyhow!("the overload's thread panicked"))
    });
    let (best, hard) = played??;
    check(&hard)?;
    let kept = full_rate_of(&hard.measured, End::Delivered);
    let refused = hard.measured.end_count(End::Refused);
    report.add(BENCH, "best, core and clients on one core each", best, Unit::PerSecond, "closed loop");
    let note = format!(
        "{kept}/s delivered while {}/s arrive, {refused} refused at once; ended by itself; goal 0.6",
        2 * best
    );
    report.add(BENCH, "throughput kept at twice that", ratio_permille(kept, best), Unit::RatioPermille, note);
    Ok(())
}

fn closed() -> Scenario {
    scenario(Arrivals::Closed { users: PAYERS, think_ms: 0 })
}

fn open(rate_per_s: u32) -> Scenario {
    scenario(Arrivals::Open { rate_per_s })
}

fn scenario(arrivals: Arrivals) -> Scenario {
    Scenario {
        title: "bench payments".to_owned(),
        duration_s: DURATION_S,
        ramp_s: RAMP_S,
        drain_s: DRAIN_S,
        fleet: Fleet { vending: MACHINES, payers: PAYERS, merchant_terminals: 4, ..Fleet::default() },
        load: Load { arrivals, child_share_permille: 0 },
        ..Scenario::default()
    }
}

/// With a core of its own, on all cores.
fn play(setting: &Setting, name: &str, scenario: Scenario, added: Duration) -> anyhow::Result<Outcome> {
    let directory = setting.directory.join(name);
    std::fs::create_dir_all(&directory)?;
    let core = Core::start_hindered(&directory, added, None)?;
    let outcome = watchless(&core, &directory, &scenario)?;
    check(&outcome)?;
    Ok(outcome)
}

fn watchless(core: &Core, directory: &std::path::Path, scenario: &Scenario) -> anyhow::Result<Outcome> {
    live::play(core, directory, scenario, &mut |_, _| Ok(Asked::Nothing))
}

/// A figure of a run that lost money is none.
fn check(outcome: &Outcome) -> anyhow::Result<()> {
    ensure!(outcome.verdict.agrees(), "the books do not agree: {}", outcome.verdict.differences.join("; "));
    Ok(())
}

/// Payments that ended per second after the ramp.
fn full_rate(measured: &Measured) -> u64 {
    let seconds = measured.seconds().iter().filter(|second| is_full(second.second));
    median(seconds.map(|second| u64::from(second.ended())))
}

fn full_rate_of(measured: &Measured, end: End) -> u64 {
    let seconds = measured.seconds().iter().filter(|second| is_full(second.second));
    median(seconds.map(|second| u64::from(second.end_count(end))))
}

fn is_full(second: u32) -> bool {
    (RAMP_S + 1..DURATION_S).contains(&second)
}

/// Times ten.
fn messages_per_payment(measured: &Measured) -> u64 {
    let messages = measured.messages_sent_total() + measured.messages_received_total();
    10 * messages / measured.payments_ended_total().max(1)
}
