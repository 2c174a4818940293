//! How long a promise takes at a steady 2,000 a second: from PUBLISH to PUBACK, which is after the sync. Beside it what
//! mosquitto takes to relay, which keeps nothing, and what one sync of the same disk takes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::Setting;
use super::lane::template;
use super::report::{Report, Unit, median, percentile};
use crate::generator::{Client, Identity, Template, whole};
use crate::processes::{Core, mosquitto};

const BENCH: &str = "latency";
/// Of each round: three seconds.
const MESSAGES: usize = 6_000;
const INTERVAL: Duration = Duration::from_micros(500);
const SYNCS: usize = 300;
/// As a frame of the journal with one such message.
const SYNC_BYTES: usize = 300;

pub(super) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let directory = setting.directory.join("latency");
    std::fs::create_dir_all(&directory)?;
    let core = Core::start(&directory)?;
    let who = Identity { name: "bench/device".to_owned(), token: "token".to_owned() };
    core.create_device(&who.name.parse()?, "payment-chip", &who.token)?;
    let yardstick = mosquitto(&directory, MESSAGES)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut promised, mut relayed, mut synced) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setting.rounds {
        synced.push(syncs(&directory)?);
        if let Some((_, address)) = &yardstick {
            let (publisher, subscriber) = runtime.block_on(async {
                let other = Identity { name: "subscriber".to_owned(), token: String::new() };
                let mut subscriber = Client::connect(*address, &other).await?;
                subscriber.subscribe("ft/#").await?;
                anyhow::Ok((Client::connect(*address, &who).await?, subscriber))
            })?;
            relayed.push(round(publisher.into_blocking()?, subscriber.into_blocking()?, &who)?);
        }
        let client = runtime.block_on(Client::connect(core.address, &who))?.into_blocking()?;
        promised.push(round(client.try_clone()?, client, &who)?);
    }
    let sync =
        add("fdatasync of the same disk", synced, "300 bytes appended, nothing else at the time", report);
    let goal = match relayed.is_empty() {
        true => String::new(),
        false => {
            let relay = add("mosquitto: PUBLISH to the subscriber", relayed, "in memory only", report);
            format!("goal {} us: relay + 3 syncs", relay + 3 * sync)
        }
    };
    add("cloud-core serve: PUBLISH to PUBACK", promised, &goal, report);
    Ok(())
}

/// p50, with p99 in the note; medians of the rounds.
fn add(name: &str, rounds: Vec<Vec<u64>>, note: &str, report: &mut Report) -> u64 {
    let middle = |hundredths| median(rounds.iter().map(|round| percentile(round.clone(), hundredths)));
    let (p50, p99) = (middle(50), middle(99));
    report.add(BENCH, name, p50, Unit::Microseconds, format!("p50; p99 {p99} us. {note}"));
    p50
}

/// Microseconds from each message's write to its answer, which come in the same order.
fn round(mut publisher: TcpStream, mut answers: TcpStream, who: &Identity) -> anyhow::Result<Vec<u64>> {
    let template = template(&who.name.parse()?)?;
    let started = Instant::now();
    let sender = std::thread::spawn(move || send(&mut publisher, &template, started));
    let mut answered = Vec::with_capacity(MESSAGES);
    let (mut received, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    while answered.len() < MESSAGES {
        let bytes = answers.read(&mut chunk)?;
        let now = started.elapsed();
        if bytes == 0 {
            bail!("the broker closed the connection");
        }
        received.extend_from_slice(&chunk[..bytes]);
        let mut at = 0;
        while let Some(length) = whole(&received[at..]) {
            let packet = &received[at..at + length];
            let is_promise = packet[0] != 0x40 || packet.get(4).is_none_or(|code| *code < 0x80);
            ensure!(is_promise, "refused: {packet:02x?}");
            answered.push(now);
            at += length;
        }
        received.drain(..at);
    }
    let sent = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let taken = |(sent, answered): (&Duration, &Duration)| answered.saturating_sub(*sent).as_micros();
    Ok(sent.iter().zip(&answered).map(taken).map(|taken| u64::try_from(taken).unwrap_or(u64::MAX)).collect())
}

/// Each at its time, however late the one before was.
fn send(stream: &mut TcpStream, template: &Template, started: Instant) -> std::io::Result<Vec<Duration>> {
    let mut sent = Vec::with_capacity(MESSAGES);
    let mut packet = Vec::new();
    for number in 0..MESSAGES {
        let due = INTERVAL * u32::try_from(number).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        packet.clear();
        template.write(number, &mut packet);
        sent.push(started.elapsed());
        stream.write_all(&packet)?;
    }
    Ok(sent)
}

fn syncs(directory: &Path) -> anyhow::Result<Vec<u64>> {
    let mut file = std::fs::File::create(directory.join("syncs"))?;
    // As a segment of the journal: its size does not change.
    file.set_len((SYNCS * SYNC_BYTES) as u64)?;
    file.sync_all()?;
    let mut taken = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[7; SYNC_BYTES])?;
        let began = Instant::now();
        file.sync_data()?;
        taken.push(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(taken)
}
