//! A closed loop of clients before an owner's thread with group commit: the shape of the core's own runtime. What the
//! owner does with a request and what it syncs is the [`Engine`]'s, so that two engines differ in nothing else.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;
use std::time::Instant;

use anyhow::Context;

/// A sync, to be run on another thread.
pub(super) type SyncJob<S> = Box<dyn FnOnce() -> anyhow::Result<S> + Send>;

/// What stands behind the owner's thread. Positions count what was decided.
pub(super) trait Engine: Send {
    type Synced: Send + 'static;

    /// How many requests are decided at most before a sync begins, when none is running. The core's runtime has such
    /// a number, so that the disk works while the rest is decided; the bare loops, which decide nothing, are faster
    /// without.
    fn first_batch(&self) -> usize {
        usize::MAX
    }
    /// Carries out one request of a client and returns the position that must be durable before it is answered.
    fn decide(&mut self, client: usize) -> u64;
    /// Writes everything decided since the last time.
    fn append(&mut self) -> anyhow::Result<()>;
    /// Makes everything appended durable; none if it is.
    fn sync_job(&mut self) -> Option<SyncJob<Self::Synced>>;
    /// The position that is durable now.
    fn handle_synced(&mut self, synced: Self::Synced) -> anyhow::Result<u64>;
}

/// One round.
pub(super) struct Round {
    pub(super) per_second: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

enum ToOwner<S> {
    Requests(Vec<usize>),
    Synced(anyhow::Result<S>),
}

/// Runs `clients` in a closed loop (each asks again when it is answered) until `requests` are answered.
pub(super) fn run<E: Engine>(engine: &mut E, clients: usize, requests: usize) -> anyhow::Result<Round> {
    let (to_owner, inbox) = channel();
    let (to_clients, answers) = channel();
    let (to_sync, jobs) = channel::<SyncJob<E::Synced>>();
    std::thread::scope(|scope| {
        let synced = to_owner.clone();
        named("bench-sync").spawn_scoped(scope, move || {
            for job in jobs {
                if synced.send(ToOwner::Synced(job())).is_err() {
                    return;
                }
            }
        })?;
        let owner = named("bench-owner")
            .spawn_scoped(scope, move || own(engine, &inbox, &to_clients, &to_sync, requests))?;
        let round = ask(clients, requests, &to_owner, &answers);
        owner.join().map_err(|_| anyhow::anyhow!("the owner's thread panicked"))??;
        round
    })
}

/// So that a profiler tells them apart.
fn named(name: &str) -> Builder {
    Builder::new().name(name.to_owned())
}

fn own<E: Engine>(
    engine: &mut E,
    inbox: &Receiver<ToOwner<E::Synced>>,
    to_clients: &Sender<Vec<usize>>,
    to_sync: &Sender<SyncJob<E::Synced>>,
    requests: usize,
) -> anyhow::Result<()> {
    let mut held = std::collections::VecDeque::new();
    let mut arrived = std::collections::VecDeque::new();
    let (mut answered, mut durable, mut is_syncing) = (0, 0, false);
    while answered < requests {
        let at_most = if is_syncing { usize::MAX } else { engine.first_batch() };
        let first =
            if arrived.is_empty() { Some(inbox.recv().context("the clients have gone")?) } else { None };
        for message in first.into_iter().chain(inbox.try_iter()) {
            match message {
                ToOwner::Requests(clients) => arrived.extend(clients),
                ToOwner::Synced(result) => {
                    durable = engine.handle_synced(result?)?;
                    is_syncing = false;
                }
            }
        }
        let batch = arrived.drain(..arrived.len().min(at_most));
        held.extend(batch.map(|client| (engine.decide(client), client)));
        engine.append()?;
        if !is_syncing && let Some(job) = engine.sync_job() {
            to_sync.send(job).map_err(|_| anyhow::anyhow!("the sync thread has ended"))?;
            is_syncing = true;
        }
        let ready = held.iter().take_while(|(position, _)| *position <= durable).count();
        if ready > 0 {
            answered += ready;
            let clients = held.drain(..ready).map(|(_, client)| client).collect();
            to_clients.send(clients).context("the clients have gone")?;
        }
    }
    Ok(())
}

fn ask<S>(
    clients: usize,
    requests: usize,
    to_owner: &Sender<ToOwner<S>>,
    answers: &Receiver<Vec<usize>>,
) -> anyhow::Result<Round> {
    let started = Instant::now();
    let mut asked_at = vec![started; clients];
    let mut latencies_us = Vec::with_capacity(requests);
    let mut asked = clients;
    let owner_ended = |_| anyhow::anyhow!("the owner has ended");
    to_owner.send(ToOwner::Requests((0..clients).collect())).map_err(owner_ended)?;
    while latencies_us.len() < requests {
        let mut batch = answers.recv().context("the owner has ended")?;
        let now = Instant::now();
        for client in &batch {
            let waited = now.duration_since(asked_at[*client]);
            latencies_us.push(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
            asked_at[*client] = now;
        }
        batch.truncate(requests.saturating_sub(asked));
        asked += batch.len();
        if !batch.is_empty() {
            to_owner.send(ToOwner::Requests(batch)).map_err(owner_ended)?;
        }
    }
    let elapsed_us = started.elapsed().as_micros().max(1);
    let per_second = u64::try_from(requests as u128 * 1_000_000 / elapsed_us).unwrap_or(u64::MAX);
    let p50_us = super::report::percentile(latencies_us.clone(), 50);
    Ok(Round { per_second, p50_us, p99_us: super::report::percentile(latencies_us, 99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts, and is durable at once.
    struct Counter {
        first_batch: usize,
        decided: u64,
        synced: u64,
    }

    impl Engine for Counter {
        type Synced = u64;
        fn first_batch(&self) -> usize {
            self.first_batch
        }
        fn decide(&mut self, _: usize) -> u64 {
            self.decided += 1;
            self.decided
        }
        fn append(&mut self) -> anyhow::Result<()> {
            Ok(())
        }
        fn sync_job(&mut self) -> Option<SyncJob<u64>> {
            let decided = self.decided;
            (self.synced < decided).then(|| Box::new(move || Ok(decided)) as SyncJob<u64>)
        }
        fn handle_synced(&mut self, synced: u64) -> anyhow::Result<u64> {
            self.synced = synced;
            Ok(synced)
        }
    }

    #[test]
    fn every_request_is_answered_once() {
        for (clients, requests, first_batch) in [(1, 10, 1), (7, 1000, 3), (64, 65, 32), (64, 65, usize::MAX)]
        {
            let mut counter = Counter { first_batch, decided: 0, synced: 0 };
            run(&mut counter, clients, requests).unwrap();
            assert_eq!(counter.decided, requests as u64);
        }
    }
}
