//! Messages per second of 50 publishers: through `cloud-core serve`, where each is decided, journaled, synced and only
//! then acknowledged; and through mosquitto and rumqttd to one subscriber, which keep nothing on disk.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context;
use schemas::envelope::Envelope;
use schemas::ids::{MessageId, Principal};
use schemas::message::DeviceReport;
use schemas::wire::Text;

use super::Setting;
use super::report::{Report, Unit, median, ratio_permille};
use crate::generator::{Client, Identity, Template};
use crate::processes::{Core, mosquitto, resident_kb, rumqttd};

const BENCH: &str = "lane";
const PUBLISHERS: usize = 50;
/// Of each publisher, per round.
const MESSAGES: usize = 4_000;
/// Publishes without PUBACK, of each publisher.
const WINDOW: usize = 100;
const PAYLOAD_BYTES: usize = 128;

pub(super) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let core = Core::start(&setting.directory)?;
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        let identity = Identity { name: format!("bench/device-{number}"), token: format!("token-{number}") };
        core.create_device(&identity.name.parse()?, "payment-chip", &identity.token)?;
        publishers.push(identity);
    }
    let yardstick = mosquitto(&setting.directory, 10 * PUBLISHERS * WINDOW)?;
    let other = rumqttd(&setting.directory, u16::try_from(10 * PUBLISHERS * WINDOW)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut promised, mut relayed, mut routed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setting.rounds {
        if let Some((_, address)) = &yardstick {
            relayed.push(runtime.block_on(round(*address, &publishers, true))?);
        }
        if let Some((_, address)) = &other {
            routed.push(runtime.block_on(round(*address, &publishers, true)).context("rumqttd")?);
        }
        promised.push(runtime.block_on(round(core.address, &publishers, false))?);
    }
    core.check_journal(promised.len() * PUBLISHERS * MESSAGES)?;
    let core_rate = median(promised);
    let note = "decided, journaled, synced, acknowledged";
    report.add(BENCH, "payload", PAYLOAD_BYTES as u64, Unit::Bytes, "device-report");
    report.add(BENCH, "cloud-core serve: promises", core_rate, Unit::PerSecond, note);
    report.add(BENCH, "cloud-core serve: memory after", resident_kb(&core.process)?, Unit::Kilobytes, "");
    compare(core_rate, ("mosquitto", "apt install mosquitto"), relayed, report);
    compare(core_rate, ("rumqttd", "cargo install rumqttd"), routed, report);
    Ok(())
}

fn compare(core_rate: u64, (peer, installation): (&str, &str), relayed: Vec<u64>, report: &mut Report) {
    if relayed.is_empty() {
        report.add(BENCH, peer, 0, Unit::Count, format!("not installed: {installation}"));
        return;
    }
    let rate = median(relayed);
    report.add(BENCH, format!("{peer}: relayed to one subscriber"), rate, Unit::PerSecond, "in memory only");
    let ratio = ratio_permille(core_rate, rate);
    let note =
        format!("{PUBLISHERS} publishers, QoS 1, window {WINDOW}, same generator; goal beside mosquitto 1.0");
    report.add(BENCH, format!("cloud-core serve : {peer}"), ratio, Unit::RatioPermille, note);
}

/// Messages per second until the last one is acknowledged and, with a subscriber, received.
async fn round(address: SocketAddr, publishers: &[Identity], subscribed: bool) -> anyhow::Result<u64> {
    let total = publishers.len() * MESSAGES;
    let mut tasks = tokio::task::JoinSet::new();
    let mut subscriber = None;
    if subscribed {
        let who = Identity { name: "subscriber".to_owned(), token: String::new() };
        let mut client = Client::connect(address, &who).await?;
        client.subscribe("ft/#").await?;
        subscriber = Some(client);
    }
    let mut ready = Vec::new();
    for who in publishers {
        ready.push((Client::connect(address, who).await?, template(&who.name.parse()?)?));
    }
    let started = Instant::now();
    if let Some(mut client) = subscriber {
        tasks.spawn(async move { client.receive(total).await });
    }
    for (mut client, template) in ready {
        tasks.spawn(async move { client.publish(&template, MESSAGES, WINDOW).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let elapsed_us = started.elapsed().as_micros().max(1);
    Ok(u64::try_from(total as u128 * 1_000_000 / elapsed_us)?)
}

/// A report as devices send it, with a version long enough to make up the payload's length.
pub(super) fn template(device: &Principal) -> anyhow::Result<Template> {
    let id = MessageId([0xfa; 16]);
    let payload = |version: String| {
        let (uptime_ms, spool, dead_letters, not_ready) = (600_000, 2, 0, None);
        let version = Text::new(version);
        Envelope::message(id, DeviceReport { version, uptime_ms, spool, dead_letters, not_ready }).encode()
    };
    let rest = PAYLOAD_BYTES.saturating_sub(payload(String::new()).len());
    Template::new(&format!("ft/{device}/up/device-report"), &payload("1".repeat(rest)), &id.0)
}
