//! Rebuilding the state at a start, on two threads: one reads, checks and decodes records, the other applies them. What
//! comes out is what [`Driver::open`] makes on one; a start of a long journal is nearly twice as fast.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use cloud_core_flows::driver::Driver;
use cloud_core_flows::event::Record;
use cloud_core_flows::{Cloud, CloudBesidePayments, PaymentsOfSnapshot};
use schemas::cbor::CborError;
use schemas::time::Timestamp;
use schemas_journal::{ChainId, Disk, Fold, Journal, JournalLimits, OpenError, Position, existing_chain_id};

/// Records that are handed over at once: waking the other thread costs more than applying one.
const BATCH_RECORDS: usize = 1_024;
/// Batches that may wait, so that memory does not follow the length of the journal.
const WAITING_BATCHES: usize = 16;

/// Replays the journal on `disk`, or begins one, named `fresh`; then as [`Driver::open`].
///
/// # Errors
/// As [`Driver::open`].
pub(super) fn open<D: Disk>(
    disk: D,
    limits: JournalLimits,
    fresh: ChainId,
    now: impl FnOnce() -> Timestamp,
) -> Result<Driver<D>, ReplayError> {
    let chain = existing_chain_id(&disk)?.unwrap_or(fresh);
    let (journal, cloud) = thread::scope(|scope| {
        let (to_state, steps) = sync_channel(WAITING_BATCHES);
        // Room for all that can be on its way, so that nobody waits for the other's memory.
        let (used, empty) = sync_channel(WAITING_BATCHES + 2);
        let applying = thread::Builder::new()
            .name("replay".to_owned())
            .spawn_scoped(scope, move || applied(&steps, &used))
            .map_err(ReplayError::Thread)?;
        let mut decoder = Decoder { to_state, empty, batch: Vec::new() };
        let journal = Journal::open(disk, limits, chain, &mut decoder);
        let handed_over = decoder.hand_over();
        drop(decoder);
        let cloud = applying.join().map_err(|_| ReplayError::Lost)?;
        let journal = journal?;
        handed_over?;
        Ok::<_, ReplayError>((journal, cloud))
    })?;
    Ok(Driver::resume(journal, cloud, now))
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A record or a snapshot cannot be read.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// The second thread was not started.
    #[error("a thread for the replay was not started: {0}")]
    Thread(std::io::Error),
    /// The second thread is gone without a word.
    #[error(
        "the thread that applies the journal ended by itself, which is a fault of the program: report it"
    )]
    Lost,
}

/// On its way to the thread that applies.
enum Step {
    Restored(Box<Cloud>),
    Records(Vec<Record>),
}

/// The state after all steps. Records go back to be dropped by the thread that has made them: memory that two threads
/// share costs both of them a lock.
fn applied(steps: &Receiver<Step>, used: &SyncSender<Vec<Record>>) -> Cloud {
    let mut cloud = Cloud::default();
    for step in steps {
        match step {
            Step::Restored(restored) => cloud = *restored,
            Step::Records(records) => {
                records.iter().for_each(|record| cloud.evolve(record));
                let _ = used.try_send(records);
            }
        }
    }
    cloud
}

/// A snapshot is read by two threads too, each of which passes over what is the other's.
fn restored(snapshot: &[u8]) -> Result<Cloud, ReplayError> {
    thread::scope(|scope| {
        let payments = thread::Builder::new()
            .name("snapshot".to_owned())
            .spawn_scoped(scope, || PaymentsOfSnapshot::read(snapshot))
            .map_err(ReplayError::Thread)?;
        let rest = CloudBesidePayments::read(snapshot);
        let payments = payments.join().map_err(|_| ReplayError::Lost)?;
        Ok(rest?.with(payments?))
    })
}

/// What the journal thinks is the state.
struct Decoder {
    to_state: SyncSender<Step>,
    empty: Receiver<Vec<Record>>,
    batch: Vec<Record>,
}

impl Decoder {
    fn hand_over(&mut self) -> Result<(), ReplayError> {
        let mut next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH_RECORDS));
        next.clear();
        let batch = std::mem::replace(&mut self.batch, next);
        self.to_state.send(Step::Records(batch)).map_err(|_| ReplayError::Lost)
    }
}

impl Fold for Decoder {
    type Error = ReplayError;

    fn restore(&mut self, _: Position, snapshot: &[u8]) -> Result<(), ReplayError> {
        let cloud = restored(snapshot)?;
        self.to_state.send(Step::Restored(Box::new(cloud))).map_err(|_| ReplayError::Lost)
    }

    fn apply(&mut self, _: Position, record: &[u8]) -> Result<(), ReplayError> {
        self.batch.push(Record::decode(record)?);
        if self.batch.len() < BATCH_RECORDS { Ok(()) } else { self.hand_over() }
    }
}

#[cfg(test)]
mod tests {
    use cloud_core_flows::admin::{AdminCommand, BankKind, Deadlines, OnUnknown};
    use cloud_core_flows::driver::run_snapshot;
    use cloud_core_flows::places::CodeRules;
    use cloud_core_flows::port::Input;
    use schemas_journal::MemoryDisk;

    use super::*;

    const LIMITS: JournalLimits = JournalLimits {
        record_max_bytes: 16 << 10,
        frame_max_bytes: 64 << 10,
        segment_bytes: 256 << 10,
        snapshot_every_segments: 1,
    };
    const CHAIN: ChainId = ChainId([7; 32]);

    fn now() -> Timestamp {
        Timestamp(1_800_000_000_000)
    }

    /// So many tenants; then the sync, and a snapshot where one is due.
    fn grow(disk: &MemoryDisk, driver: &mut Driver<MemoryDisk>, numbers: std::ops::Range<usize>) -> bool {
        let mut snapshots = 0;
        for number in numbers {
            let command = AdminCommand::CreateTenant {
                tenant: format!("tenant-{number}").parse().unwrap(),
                currency: "EUR".parse().unwrap(),
                bank: BankKind::Internal,
                on_unknown: OnUnknown::Refund,
                deadlines: Deadlines::default(),
                code_rules: CodeRules::default(),
            };
            driver.handle(Input::Admin { ticket: 1, by: None, command }, now());
            driver.append().unwrap();
            if let Some(spare) = driver.spare_job() {
                driver.handle_spare(spare.run(disk)).unwrap();
            }
            let point = driver.sync_point().unwrap();
            driver.handle_synced(point.run(disk)).unwrap();
            if let Some(job) = driver.snapshot_job() {
                driver.handle_snapshot(&run_snapshot(&job, disk)).unwrap();
                snapshots += 1;
            }
        }
        snapshots > 0
    }

    /// Without a snapshot, from one, and from a damaged one; more records than one batch, and not a multiple of it.
    #[test]
    fn two_threads_make_the_state_that_one_makes() {
        let disk = MemoryDisk::new();
        let mut driver = Driver::open(disk.clone(), LIMITS, CHAIN, now).unwrap();
        let long = 4 * BATCH_RECORDS + 17;
        assert!(grow(&disk, &mut driver, 0..long), "a snapshot was taken");
        drop(driver);
        let with_snapshot = disk.fork();
        let damaged = disk.fork();
        let without = disk.fork();
        for name in disk.list().unwrap().iter().filter(|name| name.ends_with(".snap")) {
            assert!(damaged.flip_bit(name, 8 * 200));
            without.remove(name).unwrap();
        }
        for (disk, from_snapshot) in
            [(with_snapshot, true), (damaged, false), (without, false), (MemoryDisk::new(), false)]
        {
            let one = Driver::open(disk.fork(), LIMITS, CHAIN, now).unwrap();
            let two = open(disk, LIMITS, CHAIN, now).unwrap();
            assert_eq!(one.journal().recovery(), two.journal().recovery());
            assert_eq!(two.journal().recovery().snapshot.is_some(), from_snapshot);
            assert!(one.cloud() == two.cloud(), "the same state");
            assert_eq!(one.decided(), two.decided());
        }
    }

    /// A record that this build cannot read stops a start, with its position.
    #[test]
    fn an_unreadable_record_is_named() {
        let disk = MemoryDisk::new();
        let mut journal =
            Journal::open(disk.clone(), LIMITS, CHAIN, &mut schemas_journal::Records(|_, _: &[u8]| {}))
                .unwrap();
        journal.append(&[b"not CBOR"]).unwrap();
        journal.sync().unwrap();
        drop(journal);
        let error = open(disk, LIMITS, CHAIN, now).err().unwrap();
        assert!(
            matches!(&error, ReplayError::Open(OpenError::Fold { position, .. }) if position.value() == 1),
            "{error}"
        );
    }
}
