//! The hot messages of a chip payment: written, read, signed and checked. `cargo bench -p schemas --bench codec`

#![allow(clippy::disallowed_types, reason = "the list of benchmarks that divan keeps")]
#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use divan::{Bencher, black_box};
use ed25519_dalek::SigningKey;
use schemas::envelope::Envelope;
use schemas::ids::{CommandId, IdempotencyKey, Instance, MessageId, Nonce, PaymentId, Principal};
use schemas::message::{Down, ExecutorCommand, PaymentRequest, Up};
use schemas::money::Currency;
use schemas::signed::{PaymentInformation, PublicKey, Verification};
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn main() {
    divan::main();
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn information() -> PaymentInformation {
    PaymentInformation {
        chip: "acme/chip-7".parse().unwrap(),
        nonce: Nonce([1; 8]),
        issued_at: NOW,
        expires_at: NOW.plus_ms(120_000),
        payee: "snacks".parse().unwrap(),
        amount: "EUR".parse::<Currency>().unwrap().minor(150),
        item: "water".parse().unwrap(),
        quantity: 1,
    }
}

fn verification() -> Verification {
    Verification {
        payer: "acme/alice".parse().unwrap(),
        payment: PaymentId([2; 16]),
        payee: Text::new("Snacks & Co"),
        amount: "EUR".parse::<Currency>().unwrap().minor(150),
        expires_at: NOW.plus_ms(60_000),
    }
}

fn payment_request() -> Envelope<Up> {
    let body = Up::PaymentRequest(PaymentRequest { information: information().sign(&key()) });
    Envelope::request(MessageId([3; 16]), IdempotencyKey([4; 16]), NOW, body)
}

fn executor_command() -> Envelope<Down> {
    let command = ExecutorCommand {
        command: CommandId([5; 16]),
        payment: PaymentId([2; 16]),
        instance: Instance(1),
        item: "water".parse().unwrap(),
        quantity: 1,
        start_by: NOW,
    };
    Envelope::message(MessageId([6; 16]), Down::ExecutorCommand(command))
}

#[divan::bench]
fn payment_request_written(bencher: Bencher) {
    let message = payment_request();
    bencher.bench_local(|| black_box(&message).encode());
}

#[divan::bench]
fn payment_request_read(bencher: Bencher) {
    let bytes = payment_request().encode();
    bencher.bench_local(|| Up::decode(Kind::PaymentRequest, black_box(&bytes)).unwrap());
}

#[divan::bench]
fn executor_command_written(bencher: Bencher) {
    let message = executor_command();
    bencher.bench_local(|| black_box(&message).encode());
}

#[divan::bench]
fn executor_command_read(bencher: Bencher) {
    let bytes = executor_command().encode();
    bencher.bench_local(|| Down::decode(Kind::ExecutorCommand, black_box(&bytes)).unwrap());
}

#[divan::bench]
fn payment_information_signed(bencher: Bencher) {
    let (information, key) = (information(), key());
    bencher.bench_local(|| black_box(&information).sign(&key));
}

#[divan::bench]
fn payment_information_verified(bencher: Bencher) {
    let (signed, key) = (information().sign(&key()), PublicKey::of(&key()));
    bencher.bench_local(|| PaymentInformation::verify(black_box(&signed), &key).unwrap());
}

#[divan::bench]
fn verification_verified(bencher: Bencher) {
    let (signed, key) = (verification().sign(&key()), PublicKey::of(&key()));
    bencher.bench_local(|| Verification::verify(black_box(&signed), &key).unwrap());
}

#[divan::bench]
fn principal_read(bencher: Bencher) {
    bencher.bench_local(|| black_box("acme/chip-7").parse::<Principal>().unwrap());
}
