//! Who is killed where: drawn from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::random::Random;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Core,
    Executor,
    Chip,
}

impl Target {
    pub const ALL: [Target; 3] = [Target::Core, Target::Executor, Target::Chip];

    pub(super) fn of(process: &str) -> Self {
        match process {
            "core" => Target::Core,
            name if name.starts_with("chip") => Target::Chip,
            _ => Target::Executor,
        }
    }
}

/// One kill: at the `nth` passage of `step` in the life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    pub target: Target,
    pub step: &'static str,
    pub nth: u64,
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.step, self.nth)
    }
}

/// Every step that the target passes. A chip has no hardware, so no intents and no outcomes.
pub fn steps(target: Target) -> Vec<&'static str> {
    let agent = || edge_agent::steps::Step::ALL.iter().map(|(name, _)| *name);
    match target {
        Target::Core => cloud_core::runtime::Step::ALL.iter().map(|(name, _)| *name).collect(),
        Target::Executor => agent().collect(),
        Target::Chip => {
            let of_acts = [
                "intent-appended",
                "intent-synced",
                "acted",
                "outcome-appended",
                "outcome-synced",
                "reported",
            ];
            let own = |name: &&str| !of_acts.contains(name);
            agent().filter(own).collect()
        }
    }
}

/// How often a life of a few payments passes the step; the core's start passes some of them too.
fn passages(target: Target, step: &str) -> u64 {
    match (target, step) {
        (Target::Core, "received") => 80,
        (Target::Core, "decided" | "appended" | "synced") => 50,
        (Target::Core, "released-promise") => 20,
        (Target::Core, "released-command" | "released-bank" | "bank-answered" | "released-reply") => 4,
        (Target::Core, _) => 1,
        (_, "message-received") => 4,
        _ => 3,
    }
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub kills: Vec<Kill>,
}

impl Plan {
    /// Every step of every target once; the rest drawn, most for the core.
    pub fn every_step(seed: u64, count: usize) -> Self {
        let mut random = Random::new(seed);
        let mut kills = Vec::new();
        for target in Target::ALL {
            for step in steps(target) {
                kills.push(draw(&mut random, target, step));
            }
        }
        assert!(kills.len() <= count, "{} steps do not fit {count} kills", kills.len());
        while kills.len() < count {
            const WEIGHTS: [Target; 6] =
                [Target::Core, Target::Core, Target::Core, Target::Executor, Target::Executor, Target::Chip];
            let target = random.pick(&WEIGHTS);
            let step = random.pick(&steps(target));
            kills.push(draw(&mut random, target, step));
        }
        random.shuffle(&mut kills);
        Self { seed, kills }
    }

    /// The core only, at steps after which something was promised.
    pub fn after_promises(seed: u64) -> Self {
        let kill = |step, nth| Kill { target: Target::Core, step, nth };
        Self {
            seed,
            kills: vec![kill("released-reply", 2), kill("released-promise", 12), kill("released-bank", 3)],
        }
    }

    pub(super) fn by_target(&self) -> BTreeMap<Target, VecDeque<Kill>> {
        let of = |target: &Target| self.kills.iter().copied().filter(|kill| kill.target == *target).collect();
        Target::ALL.iter().map(|target| (*target, of(target))).collect()
    }
}

fn draw(random: &mut Random, target: Target, step: &'static str) -> Kill {
    Kill { target, step, nth: 1 + random.below(passages(target, step)) }
}
