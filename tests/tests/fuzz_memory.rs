//! No input makes a reader take memory out of proportion: the most that a target ever holds at one time, counted by the
//! allocator, over the committed inputs and mutations of them. Alone in its binary, as the count is of the process.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that reports what it found")]

use allocation_counter::measure;
use farthing_tests::fuzz::{Mutator, corpus, target};

const SEED: u64 = 0xFA2A;

/// Besides so many bytes for each byte of the input: what a target's own surroundings take.
struct Bound {
    target: &'static str,
    fixed_bytes: u64,
    per_byte: u64,
}

const KIB: u64 = 1024;
const BOUNDS: &[Bound] = &[
    Bound { target: "messages", fixed_bytes: 4 * KIB, per_byte: 8 },
    // COSE is read by another library, which makes room for 1024 elements at a time.
    Bound { target: "signed", fixed_bytes: 64 * KIB, per_byte: 16 },
    Bound { target: "topics", fixed_bytes: KIB, per_byte: 8 },
    // A step may say "64 KiB of this byte" in four bytes.
    Bound { target: "session", fixed_bytes: 512 * KIB, per_byte: 64 },
    // The real journals that are damaged have a dozen files.
    Bound { target: "recovery", fixed_bytes: 2048 * KIB, per_byte: 64 },
    // A table for each level of `a.a.a = 1`, and the text of the error.
    Bound { target: "cloud_config", fixed_bytes: 128 * KIB, per_byte: 256 },
    Bound { target: "agent_config", fixed_bytes: 128 * KIB, per_byte: 256 },
];

#[test]
fn no_input_takes_memory_out_of_proportion() {
    for bound in BOUNDS {
        let target = target(bound.target);
        let committed = corpus(bound.target);
        let inputs: Vec<Vec<u8>> = committed.iter().map(|(_, bytes)| bytes.clone()).collect();
        // What is made once is made before.
        (target.run)(&inputs[0]);
        let mut mutator = Mutator::new(SEED);
        let mutated =
            (0..2_000).map(|number| (format!("input {number} of seed {SEED}"), mutator.next(&inputs)));
        let mut most = (0, 0, String::new());
        for (name, bytes) in committed.iter().cloned().chain(mutated) {
            let held = measure(|| (target.run)(&bytes)).bytes_max;
            let allowed = bound.fixed_bytes + bound.per_byte * bytes.len() as u64;
            assert!(
                held <= allowed,
                "{}/{name}: {held} bytes held for {} of input",
                bound.target,
                bytes.len()
            );
            if held > most.0 {
                most = (held, bytes.len(), name);
            }
        }
        eprintln!("{}: at most {} bytes, for {} bytes of input ({})", bound.target, most.0, most.1, most.2);
    }
}
