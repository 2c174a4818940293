//! The proof that the worlds find bugs: one deliberate fault at a time is switched on in the product code, and worlds
//! are run until one breaks a rule.

use std::panic::{AssertUnwindSafe, catch_unwind};

use schemas_mutants::{Mutant, switch_on};

use super::{Report, run};

/// How a fault fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunt {
    /// The fault.
    pub mutant: Mutant,
    /// Worlds that were run with it, the last one included.
    pub worlds: u64,
    /// The world that caught it; none if all of them came to rest.
    pub caught: Option<Catch>,
}

/// A world that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catch {
    /// Which world.
    pub seed: u64,
    /// Which rule; `panic` if the program stopped by itself.
    pub rule: String,
    /// What was seen.
    pub text: String,
}

/// One world with a fault. Panics are caught where the build unwinds.
///
/// # Errors
/// The text of a panic.
pub fn run_with(mutant: Mutant, seed: u64, with_trace: bool) -> Result<Report, String> {
    let _active = switch_on(mutant);
    catch_unwind(AssertUnwindSafe(|| run(seed, with_trace))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text").to_owned()
    })
}

/// Runs worlds with one fault, in the order of their seeds, until one breaks a rule. `on_world` is told of each.
pub fn hunt(mutant: Mutant, seeds: std::ops::Range<u64>, mut on_world: impl FnMut()) -> Hunt {
    let mut worlds = 0;
    for seed in seeds {
        let result = run_with(mutant, seed, false);
        worlds += 1;
        on_world();
        let broken = match result {
            Ok(report) => report.violation.map(|violation| (violation.rule.to_owned(), violation.text)),
            Err(panic) => Some(("panic".to_owned(), panic)),
        };
        if let Some((rule, text)) = broken {
            return Hunt { mutant, worlds, caught: Some(Catch { seed, rule, text }) };
        }
    }
    Hunt { mutant, worlds, caught: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quick ones, each caught by another kind of check; and the world that caught it is sound without the fault.
    #[test]
    fn quick_faults_are_caught_and_their_worlds_are_sound_without_them() {
        for mutant in [Mutant::ReleaseBeforeSync, Mutant::PartChargedWhole, Mutant::ActBeforeIntentSynced] {
            let hunt = hunt(mutant, 0..300, || {});
            let caught =
                hunt.caught.unwrap_or_else(|| panic!("{mutant} was not caught in {} worlds", hunt.worlds));
            assert_eq!(run(caught.seed, false).violation, None, "seed {} without {mutant}", caught.seed);
        }
    }
}
