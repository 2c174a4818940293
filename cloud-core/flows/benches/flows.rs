//! Whole chip payments through the driver on a disk in memory, every signature made and checked; and what a restart does
//! with their events. `cargo bench -p cloud-core-flows --bench flows`

#![allow(clippy::disallowed_types, reason = "the list of benchmarks that divan keeps")]
#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

#[path = "../tests/common/mod.rs"]
mod common;

use cloud_core_flows::Cloud;
use cloud_core_flows::admin::OnUnknown;
use cloud_core_flows::event::Record;
use common::{World, http};
use divan::Bencher;
use divan::counter::ItemsCount;
use schemas::cbor;
use schemas::message::Outcome;
use schemas_journal::{Fold, Position, for_each_record};

/// Nonces of the tests' shop are numbers of one byte.
const PAYMENTS: u8 = 100;

fn main() {
    divan::main();
}

fn shop() -> World {
    let mut world = World::new(http(), OnUnknown::Refund);
    world.checks_after_each_input = false;
    world
}

/// From the payer's request to the delivery; everybody fetches and acknowledges what they are told.
fn pay(world: &mut World, nonce: u8) {
    let payment = world.commanded("ann", nonce);
    world.take_command();
    world.report(payment, Outcome::Done, 1);
    for name in ["chip", "ann", "till"] {
        world.fetch(name);
    }
}

/// The journal of so many payments.
fn records() -> Vec<Vec<u8>> {
    let mut world = shop();
    (0..PAYMENTS).for_each(|nonce| pay(&mut world, nonce));
    let mut records = Vec::new();
    for_each_record(&world.disk, |_, _, record| records.push(record.to_vec())).unwrap();
    records
}

fn state(records: &[Record]) -> Cloud {
    let mut cloud = Cloud::default();
    records.iter().for_each(|record| cloud.evolve(record));
    cloud
}

fn decoded(records: &[Vec<u8>]) -> Vec<Record> {
    records.iter().map(|record| Record::decode(record).unwrap()).collect()
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn chip_payments(bencher: Bencher) {
    bencher
        .counter(ItemsCount::new(PAYMENTS))
        .with_inputs(shop)
        .bench_local_refs(|world| (0..PAYMENTS).for_each(|nonce| pay(world, nonce)));
}

#[divan::bench]
fn events_decoded(bencher: Bencher) {
    let records = records();
    bencher.counter(ItemsCount::new(records.len())).bench_local(|| decoded(&records));
}

#[divan::bench]
fn events_applied(bencher: Bencher) {
    let records = decoded(&records());
    bencher.counter(ItemsCount::new(records.len())).bench_local(|| state(&records));
}

/// Items are payments.
#[divan::bench]
fn snapshot_written(bencher: Bencher) {
    let cloud = state(&decoded(&records()));
    bencher.counter(ItemsCount::new(PAYMENTS)).bench_local(|| cbor::encode(&cloud));
}

/// Items are payments.
#[divan::bench]
fn snapshot_restored(bencher: Bencher) {
    let snapshot = cbor::encode(&state(&decoded(&records())));
    bencher.counter(ItemsCount::new(PAYMENTS)).bench_local(|| {
        let mut cloud = Cloud::default();
        cloud.restore(Position::ZERO, &snapshot).unwrap();
        cloud
    });
}
