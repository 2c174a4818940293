//! What disks do besides losing what was not synced: they fill up, fail a sync, and forget a bit of what they had
//! (storage.md 1, correctness.md 2, 4 and 10).

use schemas_journal::{
    ChainId, Fold, Journal, JournalLimits, MemoryDisk, OpenError, Room, for_each_record, verify,
};

use super::fault::Fault;
use super::random::Random;
use super::{Happening, Violation, World, say};

/// A full disk is looked at again this often, in milliseconds: the shells have a timer for it too.
const ROOM_CHECK_MS: u64 = 10_000;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With the power: of unsynced sectors any subset is left.
    PowerCut,
    /// Alone: what it wrote can be read, synced or not.
    Restart,
}

impl End {
    pub(super) fn befalls(self, disk: &MemoryDisk, random: &mut Random) {
        match self {
            End::PowerCut => disk.crash(random.next()),
            End::Restart => disk.restart(),
        }
    }
}

/// A frame on a sound disk.
struct Place {
    segment: u64,
    offset: u64,
    /// The position after its last record, and what it says to be durable.
    end: u64,
    vouched: u64,
}

/// What recovery made of a disk with one wrong bit.
#[derive(Debug)]
pub(super) enum Flipped {
    /// There was nothing to flip.
    Nothing,
    /// It refused, as an operator reads it.
    Refused(String),
    /// The bit did not matter, or the last frame looks torn: so many records are cut.
    Opened { cut: u64 },
}

/// For the trace.
impl std::fmt::Display for Flipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing to flip"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Opened { cut: 0 } => write!(f, "without effect"),
            Self::Opened { cut } => write!(f, "{cut} records of the last sync look torn and are cut"),
        }
    }
}

/// Flips one bit on a copy of `disk` and recovers it. The error is the rule that did not hold: nothing may be taken
/// for other content, and what a later frame vouches for may not be missing without a refusal that names the place.
pub(super) fn flip_a_bit<F: Fold + Default>(
    disk: &MemoryDisk,
    limits: JournalLimits,
    chain: ChainId,
    random: &mut Random,
    same: impl Fn(&F, &F) -> bool,
) -> Result<Flipped, String> {
    let sound = disk.fork();
    sound.set_capacity_bytes(None);
    let mut state = F::default();
    Journal::open(sound.clone(), limits, chain, &mut state).map_err(|error| error.to_string())?;
    let (records, places) = read(&sound).map_err(|error| error.to_string())?;
    let Some((file, byte, in_frame)) = choose(&sound, &places, random) else { return Ok(Flipped::Nothing) };
    let flipped = sound.fork();
    if !flipped.flip_bit(&file, byte * 8 + random.below(8)) {
        return Ok(Flipped::Nothing);
    }
    let report = verify(&flipped).map_err(|error| error.to_string())?;
    let bad_snapshot = report.snapshots.iter().any(|snapshot| snapshot.problem.is_some());
    if in_frame && report.problem.is_none() && report.torn_tail.is_none() && !bad_snapshot {
        return Err(format!("byte {byte} of {file} is wrong, and `verify` finds nothing"));
    }
    let mut found = F::default();
    match Journal::open(flipped.clone(), limits, chain, &mut found) {
        Err(error) => {
            named(&error, &file, byte)?;
            Ok(Flipped::Refused(error.to_string()))
        }
        Ok(journal) => {
            let position = journal.position().value();
            let total = records.len() as u64;
            let vouched = places.last().map_or(0, |place| place.vouched);
            if position < vouched {
                return Err(format!(
                    "byte {byte} of {file} is wrong: {position} of {total} records are left, {vouched} are vouched for"
                ));
            }
            if position == total && !same(&state, &found) {
                return Err(format!("byte {byte} of {file} is wrong, and the state is another one"));
            }
            // Where a snapshot covers the wrong bit nothing is read of it; the archive's reader would refuse.
            if let Ok((left, _)) = read(&flipped)
                && !records.starts_with(&left)
            {
                return Err(format!("byte {byte} of {file} is wrong, and a record has other content"));
            }
            Ok(Flipped::Opened { cut: total.saturating_sub(position) })
        }
    }
}

/// A refusal names the file, and a place not behind the damage.
fn named(error: &OpenError, file: &str, byte: u64) -> Result<(), String> {
    let named = match error {
        OpenError::Corrupt { file, offset, .. } => Some((file, *offset)),
        OpenError::Version { file, .. } | OpenError::OtherChain { file, .. } => Some((file, 0)),
        _ => None,
    };
    match named {
        Some((name, offset)) if name == file && offset <= byte => Ok(()),
        _ => Err(format!("byte {byte} of {file} is wrong, and the refusal does not name it: {error}")),
    }
}

fn read(disk: &MemoryDisk) -> Result<(Vec<Vec<u8>>, Vec<Place>), OpenError> {
    let (mut records, mut places) = (Vec::new(), Vec::<Place>::new());
    for_each_record(disk, |position, frame, record| {
        records.push(record.to_vec());
        if places.last().is_none_or(|last| (last.segment, last.offset) != (frame.segment, frame.offset)) {
            let (segment, offset) = (frame.segment, frame.offset);
            places.push(Place { segment, offset, end: 0, vouched: frame.synced_through.value() });
        }
        if let Some(last) = places.last_mut() {
            last.end = position.value();
        }
    })?;
    Ok((records, places))
}

/// Mostly in a frame; else anywhere in any file.
fn choose(disk: &MemoryDisk, places: &[Place], random: &mut Random) -> Option<(String, u64, bool)> {
    use schemas_journal::Disk;
    if random.chance(700) && !places.is_empty() {
        let place = &places[random.index(places.len())];
        // The header of a frame has 72 bytes, and no record of ours is empty.
        let byte = place.offset + random.below(76);
        return Some((format!("journal-{:08}.seg", place.segment), byte, true));
    }
    let mut files = disk.list().ok()?;
    files.sort();
    let file = files.get(random.index(files.len()))?.clone();
    let length = disk.len(&file).ok()?;
    (length > 0).then(|| (file, random.below(length), false))
}

impl World {
    /// Disks fill up, and the core's wall clock is set.
    pub(super) fn trouble_disks(&mut self) -> Result<(), Violation> {
        if self.core.full_until.is_none()
            && self.random.of(Fault::CoreDiskFull).chance(15)
            && self.strikes(Fault::CoreDiskFull)
        {
            let until = self.now + self.random.of(Fault::CoreDiskFull).range(5_000, 240_000);
            say!(self, "core", "its disk is full until {until} ms");
            self.core.disk.set_capacity_bytes(Some(self.core.disk.used_bytes()));
            self.core.full_until = Some(until);
        }
        for index in 0..self.machines.len() {
            if self.machines[index].full_until.is_none()
                && self.random.of(Fault::DeviceDiskFull).chance(15)
                && self.strikes(Fault::DeviceDiskFull)
            {
                let until = self.now + self.random.of(Fault::DeviceDiskFull).range(5_000, 240_000);
                let machine = &mut self.machines[index];
                machine.disk.set_capacity_bytes(Some(machine.disk.used_bytes()));
                machine.full_until = Some(until);
                let who = machine.settings.principal.clone();
                say!(self, who, "its disk is full until {until} ms");
            }
        }
        Ok(())
    }

    /// Now and then a full disk is looked at again.
    pub(super) fn room_check(&mut self) {
        let (now, healed) = (self.now, self.healed);
        let is_over = |until: &mut u64| healed || *until <= now;
        if self.core.full_until.take_if(|until| is_over(until)).is_some() {
            self.core.disk.set_capacity_bytes(None);
            say!(self, "core", "its disk has room again");
        }
        self.core_retry_spare();
        for index in 0..self.machines.len() {
            let machine = &mut self.machines[index];
            if machine.full_until.take_if(|until| is_over(until)).is_some() {
                machine.disk.set_capacity_bytes(None);
                let who = machine.settings.principal.clone();
                say!(self, who, "its disk has room again");
            }
            self.machine_retry_spare(index);
        }
        self.after(ROOM_CHECK_MS, Happening::RoomCheck);
    }

    fn core_retry_spare(&mut self) {
        let Some(driver) = self.core.driver.as_mut() else { return };
        if driver.journal().room() == Room::LastSegment {
            driver.retry_spare();
            self.core_kick();
        }
    }

    /// While the disk is full nothing new begins (correctness.md 4).
    pub(super) fn core_has_room(&self) -> bool {
        self.core.driver.as_ref().is_none_or(|driver| driver.journal().room() == Room::Ample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: JournalLimits = JournalLimits {
        record_max_bytes: 1 << 10,
        frame_max_bytes: 4 << 10,
        segment_bytes: 16 << 10,
        snapshot_every_segments: 1,
    };

    #[derive(Debug, Default, PartialEq)]
    struct Log(Vec<Vec<u8>>);

    impl Fold for Log {
        type Error = &'static str;
        fn restore(&mut self, _: schemas_journal::Position, _: &[u8]) -> Result<(), Self::Error> {
            Err("replays all")
        }
        fn apply(&mut self, _: schemas_journal::Position, record: &[u8]) -> Result<(), Self::Error> {
            self.0.push(record.to_vec());
            Ok(())
        }
    }

    /// Flips are refused, or in the last frame cut, or in zeros without effect; each of these is met.
    #[test]
    fn every_flip_is_refused_or_cut_or_without_effect() {
        let disk = MemoryDisk::new();
        let chain = ChainId([7; 32]);
        let mut journal = Journal::open(disk.clone(), LIMITS, chain, &mut Log::default()).ok();
        for number in 0..20_u8 {
            let journal = journal.as_mut().map(|journal| {
                journal
                    .append(&[vec![number; 100]])
                    .and_then(|_| journal.sync().map_err(|_| schemas_journal::AppendError::Empty))
            });
            assert!(matches!(journal, Some(Ok(_))));
        }
        let (mut refused, mut cut, mut without) = (0, 0, 0);
        for seed in 0..400 {
            let mut random = Random::named(seed, "flips");
            match flip_a_bit::<Log>(&disk, LIMITS, chain, &mut random, Log::eq) {
                Ok(Flipped::Refused(_)) => refused += 1,
                Ok(Flipped::Opened { cut: 0 }) => without += 1,
                Ok(Flipped::Opened { .. }) => cut += 1,
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert!(refused > 100 && cut > 0 && without > 0, "{refused} {cut} {without}");
    }

    /// The check itself can fail: here a state that is not compared by its content.
    #[test]
    fn a_state_that_differs_is_seen() {
        let disk = MemoryDisk::new();
        let chain = ChainId([7; 32]);
        let opened = Journal::open(disk.clone(), LIMITS, chain, &mut Log::default());
        assert!(opened.is_ok_and(|mut journal| journal.append(&["a"]).is_ok() && journal.sync().is_ok()));
        let seen = (0..100).any(|seed| {
            let mut random = Random::named(seed, "flips");
            flip_a_bit::<Log>(&disk, LIMITS, chain, &mut random, |_, _| false).is_err()
        });
        assert!(seen);
    }
}
