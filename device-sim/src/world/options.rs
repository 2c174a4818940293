//! What a world is run with besides its seed: fewer faults, fewer purchases, an earlier end of trouble. So a failing
//! seed becomes small enough to read.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::fault::Fault;

/// Changes to the world of a seed. Each takes something away and leaves the rest nearly as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Faults that do not strike.
    #[serde(default)]
    pub without: BTreeSet<Fault>,
    /// Only the first so many purchases.
    #[serde(default)]
    pub purchases: Option<u64>,
    /// The faults end at this virtual millisecond, if not before.
    #[serde(default)]
    pub faults_end_ms: Option<u64>,
    /// Pretend that this fault breaks a rule when it strikes: to see how shrinking works.
    #[serde(default)]
    pub fail_on: Option<Fault>,
}

/// As arguments of the command line.
impl std::fmt::Display for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |faults: Vec<&Fault>| {
            let names: Vec<&str> = faults.into_iter().map(|fault| fault.as_str()).collect();
            names.join(",")
        };
        let only: Vec<&Fault> = Fault::ALL.iter().filter(|fault| !self.without.contains(fault)).collect();
        if only.len() < self.without.len() && !only.is_empty() {
            write!(f, " --only {}", names(only))?;
        } else if !self.without.is_empty() {
            write!(f, " --without {}", names(self.without.iter().collect()))?;
        }
        if let Some(purchases) = self.purchases {
            write!(f, " --purchases {purchases}")?;
        }
        if let Some(ms) = self.faults_end_ms {
            write!(f, " --faults-end {ms}")?;
        }
        if let Some(fault) = self.fail_on {
            write!(f, " --fail-on {}", fault.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_printed_as_they_are_typed_and_survive_json() {
        let options = Options {
            without: [Fault::Break, Fault::Poor].into(),
            purchases: Some(3),
            faults_end_ms: Some(9_000),
            fail_on: Some(Fault::CoreCrash),
        };
        assert_eq!(
            options.to_string(),
            " --without break,poor --purchases 3 --faults-end 9000 --fail-on core-crash"
        );
        let json = serde_json::to_string(&options).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Options>(&json).ok(), Some(options));
        assert_eq!(Options::default().to_string(), "");
        let mut all: BTreeSet<Fault> = Fault::ALL.iter().copied().collect();
        all.remove(&Fault::Break);
        let only = Options { without: all, ..Options::default() };
        assert_eq!(only.to_string(), " --only break");
    }
}
