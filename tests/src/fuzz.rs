//! What `cargo fuzz` calls (`tests/fuzz`), and what the ordinary tests call with the committed corpora and with
//! mutations of them. Each target takes any bytes; what must hold is asserted in it.

mod config;
mod input;
mod messages;
mod mutate;
mod recovery;
mod seeds;
mod session;

pub use config::{agent_config, cloud_config};
pub use messages::{messages, signed, topics};
pub use mutate::Mutator;
pub use recovery::recovery;
pub use seeds::{Seed, seeds};
pub use session::session;

use std::path::{Path, PathBuf};

/// One way in for bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "messages", run: messages },
    Target { name: "signed", run: signed },
    Target { name: "topics", run: topics },
    Target { name: "session", run: session },
    Target { name: "recovery", run: recovery },
    Target { name: "cloud_config", run: cloud_config },
    Target { name: "agent_config", run: agent_config },
];

/// The target of this name.
pub fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).unwrap()
}

/// Where a target's committed inputs are.
pub fn corpus_directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// A target's committed inputs with their names, in the order of the names.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = corpus_directory(target);
    let entries =
        std::fs::read_dir(&directory).unwrap_or_else(|why| panic!("{}: {why}", directory.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}
