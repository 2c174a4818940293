//! How many promises the lane makes with a core that syncs nothing: the lane's own cost.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::time::Instant;

use broker::Config;
use broker::session::{Rate, Rates};
use support::{World, publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PUBLISHERS: usize = 50;
const EACH: usize = 20_000;
/// Publishes without PUBACK, of each publisher.
const WINDOW: usize = 100;

/// A publisher here says what ten thousand devices say.
fn unlimited(config: &mut Config) {
    let rate = Rate { per_second: u32::MAX, burst: u32::MAX };
    config.rates = Rates { packets: rate, bytes: rate };
}

/// Prints a figure and asserts only that nothing is lost: timed tests fail on busy machines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn promises_per_second_with_50_publishers() {
    for version in [4, 5] {
        let world = World::start_with(unlimited).await;
        let mut publishers = Vec::new();
        for number in 0..PUBLISHERS {
            let who = format!("acme/p{number}");
            let mut client = world.connect(version, &who, "c").await;
            let message = publish(version, 1, &format!("ft/{who}/up/status-request"), &[7; 128]);
            publishers.push(async move {
                // Three bytes of fixed header, two of the length of the topic.
                let packet_id_at = 5 + usize::from(message[4]);
                let (mut sent, mut promised, mut partial) = (0, 0, 0);
                let mut chunk = vec![0; 16 * 1024];
                while promised < EACH {
                    let mut batch = Vec::new();
                    while sent < EACH && sent - promised < WINDOW {
                        let start = batch.len();
                        batch.extend_from_slice(&message);
                        let packet_id = (sent % 60_000 + 1) as u16;
                        batch[start + packet_id_at..][..2].copy_from_slice(&packet_id.to_be_bytes());
                        sent += 1;
                    }
                    client.stream.write_all(&batch).await.unwrap();
                    let read = client.stream.read(&mut chunk).await.unwrap();
                    assert!(read > 0, "closed");
                    partial += read;
                    promised += partial / 4;
                    partial %= 4;
                }
            });
        }
        let start = Instant::now();
        let running: Vec<_> = publishers.into_iter().map(tokio::spawn).collect();
        for publisher in running {
            publisher.await.unwrap();
        }
        let elapsed = start.elapsed();
        assert_eq!(world.broker.stats().pubacks_out, (PUBLISHERS * EACH) as u64);
        println!(
            "version {version}: {} promises/s",
            (PUBLISHERS * EACH) as u128 * 1000 / elapsed.as_millis()
        );
    }
}

/// Client ends and their tasks are in the same process, so that the figure is too high rather than too low.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn memory_of_idle_connections() {
    const CONNECTIONS: usize = 5_000;
    let resident_kb = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
    };
    let world = World::start_with(unlimited).await;
    let warm = world.connect(5, "acme/warm", "c").await;
    let before = resident_kb();
    let start = Instant::now();
    let mut clients = vec![warm];
    for number in 0..CONNECTIONS {
        let who = format!("acme/p{number}");
        let mut client = world.connect(5, &who, "c").await;
        client.subscribe(5, &format!("ft/{who}/down/#"), 1).await;
        client.buffer = Vec::new();
        clients.push(client);
    }
    let rate = CONNECTIONS as u128 * 1000 / start.elapsed().as_millis();
    println!(
        "{rate} connects/s one after the other, {} bytes each",
        (resident_kb() - before) * 1024 / CONNECTIONS
    );
}
