//! A disk in memory that can do to a journal what real disks do, reproducibly.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskError};

const SECTOR_BYTES: usize = 512;
type Sector = [u8; SECTOR_BYTES];

/// A directory in memory. Clones share it; [`MemoryDisk::fork`] copies it. Sectors of zeros cost nothing, so a
/// simulation may hold thousands of journals with segments of real size.
///
/// Unsynced writes are held per sector of 512 bytes with all their versions: [`MemoryDisk::crash`] keeps for each
/// sector either what was durable or any version written since, as a disk may write a sector back at any time.
///
/// A failed sync does what Linux does: the pages stay readable, count as clean, and no later sync writes them, until
/// somebody writes them again.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    files: BTreeMap<String, File>,
    capacity_bytes: Option<u64>,
    sync_count: u64,
    fail_sync_at: Option<u64>,
    operations_left: Option<u64>,
}

/// Sectors by number. One that is absent is all zeros.
#[derive(Debug, Clone, Default)]
struct File {
    len: usize,
    durable: BTreeMap<usize, Sector>,
    pending: BTreeMap<usize, Vec<Sector>>,
    /// Versions that a failed sync left in the page cache as clean.
    abandoned: BTreeMap<usize, Vec<Sector>>,
}

impl MemoryDisk {
    /// An empty disk without limits or faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy with a life of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.lock().clone())) }
    }

    /// The power fails and comes back. Of each unsynced sector the seed chooses what survived. Faults set before
    /// (failing syncs, a stopped machine) end; the capacity stays. Journals opened before must not be used again.
    pub fn crash(&self, seed: u64) {
        let mut state = self.lock();
        let mut random = SplitMix64(seed);
        for file in state.files.values_mut() {
            for (sector, versions) in file.take_unsynced() {
                let choice = usize::try_from(random.below(versions.len() as u64 + 1)).unwrap_or(0);
                if let Some(version) = choice.checked_sub(1).and_then(|index| versions.get(index)) {
                    file.durable.insert(sector, *version);
                }
            }
        }
        state.fail_sync_at = None;
        state.operations_left = None;
    }

    /// The process ends and another one starts, without a power cut: what was written can be read. Faults set before
    /// end; the capacity stays. Journals opened before must not be used again.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.fail_sync_at = None;
        state.operations_left = None;
    }

    /// From now on all files together may have this many bytes; `None` for no limit.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.lock().capacity_bytes = capacity_bytes;
    }

    /// Length of all files together, in bytes.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock().files.values().map(|file| file.len as u64).sum()
    }

    /// Fails the n-th sync from now (1 = the next), and with it nothing becomes durable, also not by a later sync.
    pub fn fail_sync(&self, nth: u64) {
        let mut state = self.lock();
        state.fail_sync_at = Some(state.sync_count + nth);
    }

    /// The machine stops after this many further changes (write, sync, create, publish, remove): then everything
    /// fails until [`MemoryDisk::crash`]. So a power cut can be put into the middle of anything.
    pub fn stop_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// Flips one bit of a file; false when there is no such file or bit.
    pub fn flip_bit(&self, name: &str, bit: u64) -> bool {
        let mut state = self.lock();
        let Some(file) = state.files.get_mut(name) else {
            return false;
        };
        let (Ok(byte), mask) = (usize::try_from(bit / 8), 1_u8 << (bit % 8)) else {
            return false;
        };
        if byte >= file.len {
            return false;
        }
        file.durable.entry(byte / SECTOR_BYTES).or_insert([0; SECTOR_BYTES])[byte % SECTOR_BYTES] ^= mask;
        for unsynced in [&mut file.pending, &mut file.abandoned] {
            let versions = unsynced.get_mut(&(byte / SECTOR_BYTES)).into_iter().flatten();
            versions.for_each(|version| version[byte % SECTOR_BYTES] ^= mask);
        }
        true
    }

    /// Number of syncs asked for so far.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        self.lock().sync_count
    }

    /// Number of sectors that a power cut could lose now.
    #[must_use]
    pub fn unsynced_sectors(&self) -> usize {
        let count = |file: &File| {
            let abandoned = file.abandoned.keys().filter(|sector| !file.pending.contains_key(sector));
            file.pending.len() + abandoned.count()
        };
        self.lock().files.values().map(count).sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        let state = self.lock();
        state.running("list", "")?;
        Ok(state.files.keys().cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.change("create", name)?;
        state.make_room(name, len)?;
        let len = usize::try_from(len).map_err(|error| failed("create", name, error))?;
        state.files.insert(name.to_owned(), File { len, ..File::default() });
        Ok(())
    }

    fn len(&self, name: &str) -> Result<u64, DiskError> {
        Ok(self.lock().file("measure", name)?.len as u64)
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.running("read", name)?;
        let file = state.file("read", name)?;
        let start = file.range("read", name, offset, buffer.len())?;
        let end = start + buffer.len();
        buffer.fill(0);
        let sectors = start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        let newest = |(at, versions): (_, &'_ Vec<Sector>)| Some((at, *versions.last()?));
        let abandoned = file.abandoned.range(sectors.clone()).filter_map(newest);
        let pending = file.pending.range(sectors.clone()).filter_map(newest);
        let durable = file.durable.range(sectors).map(|(at, bytes)| (at, *bytes));
        for (sector, bytes) in durable.chain(abandoned).chain(pending) {
            let sector_start = sector * SECTOR_BYTES;
            let from = start.max(sector_start);
            let to = end.min(sector_start + SECTOR_BYTES);
            buffer[from - start..to - start].copy_from_slice(&bytes[from - sector_start..to - sector_start]);
        }
        Ok(())
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.change("write", name)?;
        let file = state.file("write", name)?;
        let start = file.range("write", name, offset, bytes.len())?;
        let mut at = start;
        while at < start + bytes.len() {
            let sector = at / SECTOR_BYTES;
            let in_sector = at % SECTOR_BYTES;
            let length = (SECTOR_BYTES - in_sector).min(start + bytes.len() - at);
            let mut version = file.latest(sector);
            version[in_sector..in_sector + length].copy_from_slice(&bytes[at - start..at - start + length]);
            file.pending.entry(sector).or_default().push(version);
            at += length;
        }
        Ok(())
    }

    fn sync(&self, name: &str) -> Result<(), DiskError> {
        if cfg!(feature = "fault-no-sync") {
            return Ok(());
        }
        let mut state = self.lock();
        state.change("sync", name)?;
        state.sync_count += 1;
        if state.fail_sync_at == Some(state.sync_count) {
            let file = state.file("sync", name)?;
            for (sector, versions) in std::mem::take(&mut file.pending) {
                file.abandoned.entry(sector).or_default().extend(versions);
            }
            return Err(failed("sync", name, "input/output error (injected)"));
        }
        let file = state.file("sync", name)?;
        for (sector, versions) in std::mem::take(&mut file.pending) {
            if let Some(latest) = versions.last() {
                file.durable.insert(sector, *latest);
                file.abandoned.remove(&sector);
            }
        }
        Ok(())
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.change("publish", name)?;
        state.make_room(name, bytes.len() as u64)?;
        state.files.insert(name.to_owned(), File::with(bytes));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.change("remove", name)?;
        state.file("remove", name)?;
        state.files.remove(name);
        Ok(())
    }
}

impl State {
    fn running(&self, operation: &'static str, name: &str) -> Result<(), DiskError> {
        match self.operations_left {
            Some(0) => Err(failed(operation, name, "the machine has stopped (injected)")),
            _ => Ok(()),
        }
    }

    fn change(&mut self, operation: &'static str, name: &str) -> Result<(), DiskError> {
        self.running(operation, name)?;
        self.operations_left = self.operations_left.map(|left| left - 1);
        Ok(())
    }

    fn make_room(&self, name: &str, len: u64) -> Result<(), DiskError> {
        let others: u64 =
            self.files.iter().filter(|(other, _)| *other != name).map(|(_, file)| file.len as u64).sum();
        match self.capacity_bytes {
            Some(capacity_bytes) if others + len > capacity_bytes => {
                Err(DiskError::OutOfSpace { name: name.to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, operation: &'static str, name: &str) -> Result<&mut File, DiskError> {
        self.files.get_mut(name).ok_or_else(|| failed(operation, name, "no such file"))
    }
}

impl File {
    fn range(
        &self,
        operation: &'static str,
        name: &str,
        offset: u64,
        length: usize,
    ) -> Result<usize, DiskError> {
        usize::try_from(offset)
            .ok()
            .filter(|start| start.checked_add(length).is_some_and(|end| end <= self.len))
            .ok_or_else(|| failed(operation, name, format!("byte {offset} + {length} is past the end")))
    }

    fn with(bytes: &[u8]) -> Self {
        let sectors = bytes.chunks(SECTOR_BYTES).map(|chunk| {
            let mut sector = [0; SECTOR_BYTES];
            sector[..chunk.len()].copy_from_slice(chunk);
            sector
        });
        Self { len: bytes.len(), durable: sectors.enumerate().collect(), ..Self::default() }
    }

    fn take_unsynced(&mut self) -> BTreeMap<usize, Vec<Sector>> {
        let mut unsynced = std::mem::take(&mut self.abandoned);
        for (sector, versions) in std::mem::take(&mut self.pending) {
            unsynced.entry(sector).or_default().extend(versions);
        }
        unsynced
    }

    fn latest(&self, sector: usize) -> Sector {
        let newest = |unsynced: &'_ BTreeMap<usize, Vec<Sector>>| {
            unsynced.get(&sector).and_then(|versions| versions.last()).copied()
        };
        newest(&self.pending)
            .or_else(|| newest(&self.abandoned))
            .or_else(|| self.durable.get(&sector).copied())
            .unwrap_or([0; SECTOR_BYTES])
    }
}

fn failed(operation: &'static str, name: &str, reason: impl ToString) -> DiskError {
    DiskError::Failed { operation, name: name.to_owned(), reason: reason.to_string() }
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (2014). Small, and good enough for choices.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_the_reference_sequence() {
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn crash_keeps_some_sectors_and_loses_others() {
        let disk = MemoryDisk::new();
        disk.create("a", 64 * 512).unwrap();
        disk.write("a", 0, &[7; 64 * 512]).unwrap();
        let survivors = |seed| {
            let fork = disk.fork();
            fork.crash(seed);
            let mut bytes = vec![0; 64 * 512];
            fork.read("a", 0, &mut bytes).unwrap();
            bytes.chunks(512).filter(|sector| sector[0] == 7).count()
        };
        assert!((1..64).contains(&survivors(1)));
        assert_eq!(survivors(1), survivors(1));
        assert!((2..20).any(|seed| survivors(seed) != survivors(1)));
    }

    #[test]
    fn crash_loses_nothing_synced() {
        let disk = MemoryDisk::new();
        disk.create("a", 1000).unwrap();
        disk.write("a", 500, &[7; 500]).unwrap();
        disk.sync("a").unwrap();
        disk.crash(3);
        let mut bytes = [0; 500];
        disk.read("a", 500, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 500]);
    }
}
