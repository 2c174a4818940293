//! `cloud-core demo`: broker, core, bank and a small fleet as real processes, every flow that exists with its failures
//! and refunds, told as stories; ends well only if our ledger, the bank's book and the machines' own logs agree.

mod audit;
mod children;
mod codes;
mod family;
mod fleet;
mod narrator;
mod stories;
mod wishes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;

use fleet::Fleet;
use narrator::Narrator;

/// Plays everything in `directory`, or in a temporary one that is removed afterwards.
///
/// # Errors
/// What could not be started. A story that ends otherwise than it must, or books that do not agree, are told and give
/// exit code 1.
pub async fn run(directory: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let place = Place::new(directory)?;
    let began = Instant::now();
    let mut narrator = Narrator::new();
    narrator.title("Farthing: payments for far things");
    let mut fleet = Fleet::start(place.path(), &mut narrator).await?;
    let mut failed = Vec::new();
    let stories = || stories::ALL.iter().chain(family::STORIES).chain(wishes::STORIES).chain(codes::STORIES);
    for story in stories() {
        narrator.story(story.title, story.about);
        match (story.play)(&mut fleet, &mut narrator).await {
            Ok(()) => narrator.good(story.moral),
            Err(error) => {
                narrator.bad(&format!("{error:#}"));
                failed.push(story.title);
            }
        }
    }
    narrator.story("The books", "Our ledger, the bank's book and the machines' own logs are compared.");
    if let Err(error) = audit::compare(&fleet, &mut narrator).await {
        narrator.bad(&format!("{error:#}"));
        failed.push("The books");
    }
    fleet.stop().await;
    let seconds = began.elapsed().as_secs();
    if failed.is_empty() {
        narrator.end(&format!("{} stories in {seconds} s. The books agree.", stories().count()));
        return Ok(ExitCode::SUCCESS);
    }
    narrator.end(&format!(
        "Not as it must be: {}. Everything is kept in {}.",
        failed.join(", "),
        place.keep().display()
    ));
    Ok(ExitCode::FAILURE)
}

/// Where the demo's processes keep their files.
struct Place {
    path: PathBuf,
    is_temporary: std::cell::Cell<bool>,
}

impl Place {
    fn new(directory: Option<PathBuf>) -> anyhow::Result<Self> {
        let is_temporary = directory.is_none();
        let path = match directory {
            Some(path) => path,
            None => {
                let unique = u64::from_be_bytes(crate::random::bytes()?);
                std::env::temp_dir().join(format!("farthing-demo-{unique:016x}"))
            }
        };
        if path.exists() && path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            anyhow::bail!("{} is not empty: name an empty directory for the demo", path.display());
        }
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        let path = path.canonicalize()?;
        Ok(Self { path, is_temporary: std::cell::Cell::new(is_temporary) })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// What went wrong can be looked at.
    fn keep(&self) -> &Path {
        self.is_temporary.set(false);
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_temporary.get() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
