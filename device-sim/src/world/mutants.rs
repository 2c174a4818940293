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
    /// Worlds that break a rule without any fault: they prove nothing, and are passed over.
    pub unsound: Vec<u64>,
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

/// Runs worlds with one fault, in the order of their seeds, until one breaks a rule that it keeps without the fault.
/// `on_world` is told of each.
pub fn hunt(mutant: Mutant, seeds: std::ops::Range<u64>, mut on_world: impl FnMut()) -> Hunt {
    let mut hunt = Hunt { mutant, worlds: 0, caught: None, unsound: Vec::new() };
    for seed in seeds {
        let result = run_with(mutant, seed, false);
        hunt.worlds += 1;
        on_world();
        let broken = match result {
            Ok(report) => report.violation.map(|violation| (violation.rule.to_owned(), violation.text)),
            Err(panic) => Some(("panic".to_owned(), panic)),
        };
        let Some((rule, text)) = broken else { continue };
        if run(seed, false).violation.is_none() {
            hunt.caught = Some(Catch { seed, rule, text });
            break;
        }
        hunt.unsound.push(seed);
    }
    hunt
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quick ones, each caught by another kind of check.
    #[test]
    fn quick_faults_are_caught() {
        for mutant in [Mutant::ReleaseBeforeSync, Mutant::PartChargedWhole, Mutant::ActBeforeIntentSynced] {
            let hunt = hunt(mutant, 0..300, || {});
            assert!(hunt.caught.is_some(), "{mutant} was not caught in {} worlds", hunt.worlds);
        }
    }
}
