use super::*;

fn assert_sound(seed: u64) {
    let report = run(seed, false);
    if let Some(violation) = report.violation {
        panic!("seed {seed} ({}): {violation}\nrepeat: device-sim world run --seed {seed}", report.mix);
    }
}

/// MO-1 to MO-9, CP-1 to CP-18: no rule is broken in three hundred worlds.
#[test]
fn three_hundred_worlds_come_to_rest() {
    (0..300).for_each(assert_sound);
}

/// Same seed, same world, to the byte.
#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    for seed in 0..50 {
        let (first, second) = (run(seed, true).trace.to_string(), run(seed, true).trace.to_string());
        assert!(first == second && !first.is_empty(), "seed {seed}");
    }
}
