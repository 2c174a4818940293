//! Payments of long ago, found without reading the whole journal: one thread keeps the index, and asks it.
//!
//! It reads behind the owner of the state, what is synced and nothing else, and gets at most a quarter of one processor
//! for that, so that payments come first. Whatever goes wrong with the index, a panic of its database included, stays on
//! this thread: it is logged and counted, and the index is built again from the journal. No payment waits for it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cloud_core_history::{History, HistoryError, Sizes};
use schemas_journal::{FileDisk, Position};
use tokio::sync::oneshot;

/// Of its own thread: a panic there does not end the process. See `main`.
pub const THREAD: &str = "history";

/// Questions that wait; more are told to come again.
const QUESTIONS: usize = 64;
/// Records that are read between two looks at the questions: some milliseconds.
const RECORDS_AT_ONCE: u64 = 10_000;
/// Records that a question may wait for, so that it hears of what has just happened.
const NEAR_RECORDS: u64 = 100_000;
/// How often it looks for new records.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// So many times as long as reading took, nothing is read.
const PAUSES: u32 = 3;
/// After a failure; doubles up to 64 times this.
const RETRY: Duration = Duration::from_secs(1);

type Question = Box<dyn FnOnce(Result<&History<FileDisk>, Unready>) -> Result<(), HistoryError> + Send>;

/// Why a question is not answered now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unready {
    /// It has not read everything yet.
    #[error(
        "the index of payments is being built: it has read {records} of {durable} records; try again in a while, or read the journal with `cloud-core audit show`"
    )]
    Behind { records: u64, durable: u64 },
    /// It does not work; another try follows.
    #[error("the index of payments does not work ({0}); it is being built again, the log says more")]
    Broken(String),
    /// Too many ask at once.
    #[error("too many ask the index of payments at once: try again")]
    Busy,
}

/// Asks the thread. It ends when the last of these is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Historian(SyncSender<Question>);

impl Historian {
    /// Starts the thread, which opens the index in `directory`, or begins one.
    ///
    /// # Errors
    /// The system makes no thread.
    pub(crate) fn start(
        directory: PathBuf,
        disk: FileDisk,
        synced: Arc<AtomicU64>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, questions) = sync_channel(QUESTIONS);
        let keeper = Keeper { directory, disk, synced, questions, failures: 0 };
        let thread = std::thread::Builder::new().name(THREAD.into()).spawn(move || keeper.run())?;
        Ok((Self(sender), thread))
    }

    /// What the index says now, of all that is durable.
    ///
    /// # Errors
    /// It is being built, or broken, or too many ask.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&History<FileDisk>) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, Unready> {
        let (reply, answer) = oneshot::channel();
        let ask: Question = Box::new(move |history| {
            let (answer, failure) = match history.map(question) {
                Ok(Ok(answer)) => (Ok(answer), None),
                Ok(Err(error)) => (Err(Unready::Broken(error.to_string())), Some(error)),
                Err(why) => (Err(why), None),
            };
            // Whoever asked may have gone.
            let _ = reply.send(answer);
            failure.map_or(Ok(()), Err)
        });
        self.0.try_send(ask).map_err(|_| Unready::Busy)?;
        answer.await.unwrap_or_else(|_| Err(Unready::Broken("it ended while it looked".to_owned())))
    }
}

/// What the thread owns.
struct Keeper {
    directory: PathBuf,
    disk: FileDisk,
    synced: Arc<AtomicU64>,
    questions: Receiver<Question>,
    /// Since it last knew everything.
    failures: u32,
}

/// Nobody will ask any more.
struct Ended;

impl Keeper {
    fn run(mut self) {
        loop {
            // Nothing that a panic left half done is used again: the index is opened anew.
            let (why, is_of_index) = match catch_unwind(AssertUnwindSafe(|| self.keep())) {
                Ok(Ok(Ended)) => return,
                Ok(Err(error)) => (error.to_string(), error.is_of_index()),
                Err(_) => ("its database ended in a panic".to_owned(), true),
            };
            metrics::counter!("farthing_history_failures_total").increment(1);
            tracing::error!(%why, rebuilt = is_of_index, "the index of payments failed; payments are not affected");
            if is_of_index
                && let Err(error) = std::fs::remove_dir_all(&self.directory)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::error!(%error, directory = %self.directory.display(), "the index was not removed: remove it by hand");
            }
            let pause = RETRY * (1 << self.failures.min(6));
            self.failures += 1;
            if self.wait(pause, &why).is_err() {
                return;
            }
        }
    }

    fn keep(&mut self) -> Result<Ended, HistoryError> {
        let mut history = History::open(&self.directory, self.disk.clone(), Sizes::default())?;
        tracing::info!(records = history.position().value(), "the index of payments is open");
        loop {
            let started = Instant::now();
            history.advance(self.durable(), RECORDS_AT_ONCE)?;
            let behind = self.behind(&history);
            set_gauge(history.position());
            if behind == 0 {
                self.failures = 0;
            }
            let pause = if behind == 0 { LOOK_INTERVAL } else { started.elapsed() * PAUSES };
            match self.questions.recv_timeout(pause) {
                Ok(question) if self.behind(&history) <= NEAR_RECORDS => {
                    history.advance(self.durable(), u64::MAX)?;
                    question(Ok(&history))?;
                }
                Ok(question) => {
                    let (records, durable) = (history.position().value(), self.durable().value());
                    question(Err(Unready::Behind { records, durable }))?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Ended),
            }
        }
    }

    /// Says why to whoever asks meanwhile.
    fn wait(&self, pause: Duration, why: &str) -> Result<(), Ended> {
        let started = Instant::now();
        while let Some(left) = pause.checked_sub(started.elapsed()) {
            match self.questions.recv_timeout(left) {
                // It has no index to fail with.
                Ok(question) => drop(question(Err(Unready::Broken(why.to_owned())))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Ended),
            }
        }
        Ok(())
    }

    fn durable(&self) -> Position {
        Position::new(self.synced.load(Ordering::Acquire))
    }

    fn behind(&self, history: &History<FileDisk>) -> u64 {
        self.durable().value().saturating_sub(history.position().value())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is approximate beyond 2^53")]
fn set_gauge(position: Position) {
    metrics::gauge!("farthing_history_records").set(position.value() as f64);
}
