//! One load test from beginning to end: a core of its own, the fleet, the load, the end of what is open, the audit.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::engine::Engine;
use super::fleet::Fleet;
use super::link::Link;
use super::measured::Measured;
use super::report::{AuditVerdict, Machine, Report};
use super::scenario::{Arrivals, Scenario};
use super::view::{Asked, Phase, Progress, View};
use crate::processes::{Core, own_directory, raise_limit_of_files, resident_kb};

/// Until all are connected, on a slow machine.
pub(super) const CONNECTING: Duration = Duration::from_secs(120);
/// Files that are no connections, as the core counts them.
const OTHER_FILES: usize = 1_024;
/// Between two looks at how it stands.
const LOOK: Duration = Duration::from_millis(250);

/// A load test.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What is done: a TOML file, see `device-sim/scenarios`.
    scenario: PathBuf,
    /// Seconds of arrivals, instead of the scenario's.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u32>,
    /// Payments per second of an open loop, instead of the scenario's.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<u32>,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
    /// Write `report.html`, which opens from disk, `report.json` and the percentiles of each step into this directory.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// A new directory in it holds the core's data and is removed at the end. It should be on the disk that matters.
    /// Default: beside this program.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// What came of a load test.
pub(crate) struct Outcome {
    pub(crate) measured: Measured,
    pub(crate) verdict: AuditVerdict,
    /// What went wrong, in words: the first ones, and how many more there were.
    pub(crate) problems: (Vec<String>, u64),
    pub(crate) stopped_early: bool,
}

/// Plays a scenario from the command line.
///
/// # Errors
/// The scenario is not valid, a program is missing, the books do not agree, or something went wrong that the scenario
/// does not explain.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    let mut scenario = Scenario::read(&arguments.scenario)?;
    arguments.change(&mut scenario)?;
    let parent = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => own_directory()?,
    };
    let directory = parent.join(format!("live-{}", std::process::id()));
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("make {}: choose another place with --directory", directory.display()))?;
    let played = played(arguments, &scenario, &directory);
    let removed = std::fs::remove_dir_all(&directory);
    let outcome = played?;
    removed.with_context(|| format!("remove {}", directory.display()))?;
    finish(arguments, &scenario, &outcome)
}

fn played(arguments: &Arguments, scenario: &Scenario, directory: &Path) -> anyhow::Result<Outcome> {
    let (files, connections) = (raise_limit_of_files(), scenario.fleet.connections());
    let free = files - OTHER_FILES.min(files / 2);
    ensure!(
        usize::try_from(connections)? <= free,
        "{connections} connections do not fit: this user may open {files} files, {} of them for other things; raise the limit (ulimit -Hn), or make the fleet smaller",
        files - free
    );
    let core = Core::start_whole(directory)?;
    let mut view = View::start(&scenario.title, arguments.json)?;
    play(&core, directory, scenario, &mut |measured, progress| Ok(view.show(measured, progress)?))
}

fn finish(arguments: &Arguments, scenario: &Scenario, played: &Outcome) -> anyhow::Result<()> {
    let Outcome { measured, verdict, problems: (problems, more), stopped_early } = played;
    let machine = Machine::look(None);
    let report = Report { scenario, measured, machine: &machine, verdict, stopped_early: *stopped_early };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", if arguments.json { report.json()? } else { report.table() })?;
    if let Some(directory) = &arguments.report {
        for path in report.write(directory)? {
            writeln!(std::io::stderr(), "written: {}", path.display())?;
        }
    }
    for problem in problems {
        writeln!(std::io::stderr(), "{problem}")?;
    }
    if *more > 0 {
        writeln!(std::io::stderr(), "and {more} more of these")?;
    }
    ensure!(
        report.is_good(),
        "the run was not good: what differs, or is not explained by the fault mix, is above"
    );
    Ok(())
}

impl Arguments {
    /// What the command line says instead.
    fn change(&self, scenario: &mut Scenario) -> anyhow::Result<()> {
        if let Some(duration_s) = self.duration {
            scenario.duration_s = duration_s;
            scenario.ramp_s = scenario.ramp_s.min(duration_s);
        }
        if let Some(rate_per_s) = self.rate {
            ensure!(
                matches!(scenario.load.arrivals, Arrivals::Open { .. }),
                "--rate: this scenario is a closed loop, whose rate is what the server gives"
            );
            scenario.load.arrivals = Arrivals::Open { rate_per_s };
        }
        Ok(scenario.check()?)
    }
}

/// Plays a scenario against a core that has seen no fleet yet. `watch` is shown how it stands four times a second.
///
/// # Errors
/// Somebody cannot be registered, enrolled or connected, or `watch` fails.
pub(crate) fn play(
    core: &Core,
    directory: &Path,
    scenario: &Scenario,
    watch: &mut dyn FnMut(&Measured, Progress) -> anyhow::Result<Asked>,
) -> anyhow::Result<Outcome> {
    let fleet = Fleet::register(core, directory, scenario)?;
    let links =
        (0..fleet.members.len()).map(|index| Ok(Link::new(index, fleet.address(index, core, scenario)?)));
    let links = links.collect::<anyhow::Result<Vec<_>>>()?;
    let engine = Engine::new(fleet, links, scenario.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut show = Show { engine: Rc::clone(&engine), core, watch, started: Instant::now(), second: 0 };
    let stopped_early = tokio::task::LocalSet::new().block_on(&runtime, show.run())?;
    let mut state = engine.state.borrow_mut();
    let verdict = state.book.audit(&engine.fleet, &mut core.operator()?)?;
    let (problems, more) = state.book.problems();
    Ok(Outcome {
        problems: (problems.to_vec(), more),
        verdict,
        measured: state.measured.clone(),
        stopped_early,
    })
}

/// The phases, one after the other, and who watches them.
struct Show<'a> {
    engine: Rc<Engine>,
    core: &'a Core,
    watch: &'a mut dyn FnMut(&Measured, Progress) -> anyhow::Result<Asked>,
    started: Instant,
    /// The one that is running.
    second: u32,
}

impl Show<'_> {
    /// Whether somebody asked to stop early.
    async fn run(&mut self) -> anyhow::Result<bool> {
        self.engine.connect();
        self.connect().await?;
        self.engine.start();
        self.started = Instant::now();
        let duration_s = self.engine.scenario.duration_s;
        let mut asked = Asked::Nothing;
        while self.second < duration_s && asked == Asked::Nothing {
            tokio::time::sleep(LOOK).await;
            self.tick()?;
            asked = self.look(Phase::Running, self.second, duration_s)?;
        }
        self.engine.close();
        self.drain().await?;
        self.look(Phase::Auditing, 0, 0)?;
        Ok(asked == Asked::Stop)
    }

    /// Everybody is there, or nothing begins.
    async fn connect(&mut self) -> anyhow::Result<()> {
        let (since, all) = (Instant::now(), self.engine.links.len());
        loop {
            let connected = self.engine.links.iter().filter(|link| link.is_connected()).count();
            if connected == all {
                return Ok(());
            }
            let asked = self.look(Phase::Connecting, u32::try_from(connected)?, u32::try_from(all)?)?;
            ensure!(asked == Asked::Nothing, "stopped before everybody was connected");
            if since.elapsed() > CONNECTING {
                let state = self.engine.state.borrow();
                let why = state.book.problems().0.join("; ");
                bail!("{connected} of {all} are connected after {} s: {why}", CONNECTING.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What is open may end; of what has no end after half of the time the persons ask.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let (since, patience_s) = (Instant::now(), self.engine.scenario.drain_s);
        let patience = Duration::from_secs(patience_s.into());
        let mut has_asked = false;
        while (self.engine.in_flight() > 0 || self.engine.unpromised() > 0) && since.elapsed() < patience {
            let _ = tokio::time::timeout(LOOK, self.engine.changed.notified()).await;
            self.tick()?;
            let waited_s = u32::try_from(since.elapsed().as_secs())?;
            self.look(Phase::Draining, waited_s, patience_s)?;
            if !has_asked && since.elapsed() > patience / 2 {
                has_asked = true;
                self.engine.ask_for_ends();
            }
        }
        self.engine.give_up();
        Ok(())
    }

    fn look(&mut self, phase: Phase, done: u32, of: u32) -> anyhow::Result<Asked> {
        let in_flight = self.engine.in_flight();
        let progress = Progress { phase, done: done.into(), of: of.into(), in_flight };
        (self.watch)(&self.engine.state.borrow().measured, progress)
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        let now = u32::try_from(self.started.elapsed().as_secs()).context("a run of more than 136 years")?;
        if now > self.second {
            let (in_flight, resident_kb) = (self.engine.in_flight(), resident_kb(&self.core.process).ok());
            self.engine.state.borrow_mut().measured.tick(self.second, in_flight, resident_kb);
            self.second = now;
        }
        Ok(())
    }
}
