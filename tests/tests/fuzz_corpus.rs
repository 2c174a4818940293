//! The fuzz targets without a fuzzer: every committed input, then mutations of them, the same in every run. What
//! `cargo fuzz` does beyond this is in `tests/fuzz/README.md`.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that reports what it did")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use farthing_tests::fuzz::{Mutator, TARGETS, corpus, corpus_directory, seeds, target};

const SEED: u64 = 0xFA29;

#[test]
fn messages_of_any_bytes_are_read_or_refused() {
    play("messages", 20_000);
}

#[test]
fn signed_structures_of_any_bytes_are_read_or_refused() {
    play("signed", 20_000);
}

/// PL-1
#[test]
fn topics_of_any_text_give_nobody_a_right_to_another() {
    play("topics", 20_000);
}

#[test]
fn a_session_survives_any_bytes_in_any_state() {
    play("session", 20_000);
}

#[test]
fn recovery_of_any_files_opens_or_refuses() {
    play("recovery", 10_000);
}

#[test]
fn configurations_of_any_bytes_are_read_or_refused() {
    play("cloud_config", 10_000);
    play("agent_config", 10_000);
}

/// A corpus without what the code knows, or with what nobody named, drifts: `UPDATE=1` writes the seeds anew.
#[test]
fn every_seed_is_committed() {
    for target in TARGETS {
        let directory = corpus_directory(target.name);
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(&directory).unwrap();
            for (name, bytes) in seeds(target.name) {
                fs::write(directory.join(name), bytes).unwrap();
            }
        }
        let committed = corpus(target.name);
        for (name, bytes) in seeds(target.name) {
            let found = committed.iter().find(|(known, _)| *known == name);
            assert!(
                found.is_some_and(|(_, committed)| *committed == bytes),
                "{}/{name} is not what the code says: UPDATE=1 cargo test -p farthing-tests --test fuzz_corpus",
                target.name
            );
        }
    }
}

/// Mutations of the corpus; `FARTHING_SEED` and `FARTHING_INPUTS` choose others and more.
fn play(name: &str, inputs: u64) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("FARTHING_SEED").unwrap_or(SEED);
    let inputs = number("FARTHING_INPUTS").unwrap_or(inputs);
    let target = target(name);
    let began = Instant::now();
    let committed = corpus(name);
    for (file, bytes) in &committed {
        run(target.run, bytes, &format!("{name}/{file}"));
    }
    let corpus: Vec<Vec<u8>> = committed.into_iter().map(|(_, bytes)| bytes).collect();
    let mut mutator = Mutator::new(seed);
    for number in 0..inputs {
        run(target.run, &mutator.next(&corpus), &format!("{name}, input {number} of seed {seed}"));
    }
    eprintln!("{name}: {} committed, {inputs} mutated with seed {seed}, {:?}", corpus.len(), began.elapsed());
}

fn run(target: fn(&[u8]), bytes: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{what} failed; as hex: {hex}");
        resume_unwind(panic);
    }
}
