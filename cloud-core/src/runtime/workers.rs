//! The journal's slow work, off the owner's thread: one thread syncs, another makes segments and snapshots.

use std::io;
use std::sync::mpsc as channel;
use std::thread;
use std::time::{Duration, Instant};

use cloud_core_flows::driver::run_snapshot;
use schemas_journal::{
    DiskError, FileDisk, SnapshotError, SnapshotJob, SnapshotTaken, SpareJob, SpareReady, SyncPoint, Synced,
};
use tokio::sync::mpsc;

/// The result of a job.
#[derive(Debug)]
pub(super) enum Done {
    Synced(Result<Synced, DiskError>, Duration),
    Spare(Result<SpareReady, DiskError>),
    Snapshot(Result<SnapshotTaken, SnapshotError>),
    /// A thread ended by a panic: without its word the owner would wait for ever.
    Lost,
}

enum Background {
    Spare(SpareJob),
    Snapshot(SnapshotJob),
}

/// The threads. They end when this is dropped.
pub(super) struct Workers {
    disk: FileDisk,
    sync: channel::Sender<SyncPoint>,
    background: channel::Sender<Background>,
}

impl Workers {
    pub(super) fn start(disk: &FileDisk, done: &mpsc::Sender<Done>) -> io::Result<Self> {
        let (sync, points) = channel::channel::<SyncPoint>();
        let (background, jobs) = channel::channel::<Background>();
        {
            let (disk, done) = (disk.clone(), done.clone());
            thread::Builder::new().name("journal-sync".into()).spawn(move || {
                let _last_word = LastWord(done.clone());
                for point in points {
                    let (result, took) = run_sync(point, &disk);
                    if done.blocking_send(Done::Synced(result, took)).is_err() {
                        return;
                    }
                }
            })?;
        }
        let own = disk.clone();
        let (disk, done) = (disk.clone(), done.clone());
        thread::Builder::new().name("journal-files".into()).spawn(move || {
            let _last_word = LastWord(done.clone());
            for job in jobs {
                let result = match job {
                    Background::Spare(job) => Done::Spare(job.run(&disk)),
                    Background::Snapshot(job) => Done::Snapshot(run_snapshot(&job, &disk)),
                };
                if done.blocking_send(result).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { disk: own, sync, background })
    }

    /// The owner sends the next one only when the last one is done.
    pub(super) fn sync(&self, point: SyncPoint) -> Result<(), channel::SendError<SyncPoint>> {
        self.sync.send(point)
    }

    /// The same on the owner's thread, which hears nothing meanwhile.
    pub(super) fn sync_here(&self, point: SyncPoint) -> (Result<Synced, DiskError>, Duration) {
        run_sync(point, &self.disk)
    }

    /// The journal gives out one at a time.
    pub(super) fn spare(&self, job: SpareJob) {
        let _ = self.background.send(Background::Spare(job));
    }

    /// The journal gives out one at a time.
    pub(super) fn snapshot(&self, job: SnapshotJob) {
        let _ = self.background.send(Background::Snapshot(job));
    }
}

fn run_sync(point: SyncPoint, disk: &FileDisk) -> (Result<Synced, DiskError>, Duration) {
    let started = Instant::now();
    let result = point.run(disk);
    let took = started.elapsed();
    metrics::histogram!("farthing_journal_sync_seconds").record(took.as_secs_f64());
    (result, took)
}

/// Speaks only when its thread panics.
struct LastWord(mpsc::Sender<Done>);

impl Drop for LastWord {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.try_send(Done::Lost);
        }
    }
}
