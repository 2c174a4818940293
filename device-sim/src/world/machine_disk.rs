//! A device's process and its disk: what is appended and synced, and how a process ends.

use edge_agent_device::Recovered;
use schemas_journal::{ChainId, JournalLimits, Room};

use super::disk::{End, Flipped, flip_a_bit};
use super::fault::Fault;
use super::machine::Stage;
use super::{Happening, Violation, World, say};

pub(super) const CHAIN: ChainId = ChainId([2; 32]);
/// So small that a world fills several.
pub(super) const SMALL: JournalLimits = JournalLimits {
    record_max_bytes: 4 << 10,
    frame_max_bytes: 8 << 10,
    segment_bytes: 17 << 10,
    snapshot_every_segments: 1,
};
/// Events in one frame, as the agent has it at most.
const FRAME_EVENTS: usize = 4;

impl World {
    pub(super) fn machine_append(&mut self, index: usize) -> Result<(), Violation> {
        let slow = self.strikes(Fault::SlowDisk);
        let ordinary = self.random.machines.range(1, 6);
        let wait = if slow { self.random.of(Fault::SlowDisk).range(50, 2_000) } else { ordinary };
        // What need not wait for the disk leaves now; the device holds the rest back.
        if !self.machine_releases(index)? {
            return Ok(());
        }
        let now = self.now;
        let machine = &mut self.machines[index];
        machine.appended_from = std::mem::replace(&mut machine.decided_from, now);
        let Some(running) = machine.running.as_mut() else { return Ok(()) };
        running.device.handle_journal_room(running.journal.room() == Room::Ample);
        let records: Vec<Vec<u8>> =
            std::iter::from_fn(|| running.device.poll_event()).map(|event| event.encode()).collect();
        for records in records.chunks(FRAME_EVENTS) {
            match running.journal.append(records) {
                Ok(_) => {}
                Err(schemas_journal::AppendError::OutOfSpace) => {
                    // The agent ends, and is started again.
                    return self.machine_ends(index, End::Restart, Fault::DeviceDiskFull);
                }
                Err(error) => return Err(self.broken("device", error.to_string())),
            }
        }
        machine.stage = Stage::Sync;
        let run = machine.run;
        self.machine_maintain(index)?;
        self.after(if records.is_empty() { 0 } else { wait }, Happening::MachineStep(index, run));
        Ok(())
    }

    /// Makes the next segment, and snapshots.
    fn machine_maintain(&mut self, index: usize) -> Result<(), Violation> {
        let machine = &mut self.machines[index];
        let disk = machine.disk.clone();
        let Some(running) = machine.running.as_mut() else { return Ok(()) };
        let mut done = Ok(());
        if let Some(job) = running.journal.spare_job() {
            done = running.journal.handle_spare(job.run(&disk)).map(|_| ());
        }
        if let Some(job) = running.journal.snapshot_job() {
            let taken = job.run(&disk, &mut Recovered::default(), |folded| folded.state.snapshot());
            done = done.and(running.journal.handle_snapshot(&taken));
        }
        done.map_err(|error| self.broken("device", error.to_string()))
    }

    pub(super) fn machine_has_to_sync(&self, index: usize) -> bool {
        let running = self.machines[index].running.as_ref();
        running.is_some_and(|running| running.journal.sync_point().is_some())
    }

    pub(super) fn machine_retry_spare(&mut self, index: usize) {
        let Some(running) = self.machines[index].running.as_mut() else { return };
        if running.journal.room() == Room::LastSegment {
            running.journal.retry_spare();
        }
        // Also to tell the device that there is room again.
        if self.machines[index].limits == SMALL {
            self.machine_kick(index);
        }
    }

    /// The process stops on any error of a sync (storage.md 1).
    pub(super) fn machine_sync_failed(&mut self, index: usize, noticed: bool) -> Result<(), Violation> {
        if !noticed {
            return Err(self.broken("storage.md 1", "a failed sync of a device went unnoticed"));
        }
        let restart = self.random.of(Fault::SyncFails).chance(500);
        let end = if restart { End::Restart } else { End::PowerCut };
        self.machine_ends(index, end, Fault::SyncFails)
    }

    pub(super) fn machine_crash(&mut self, index: usize) -> Result<(), Violation> {
        self.machine_ends(index, End::PowerCut, Fault::DeviceCrash)
    }

    fn machine_ends(&mut self, index: usize, end: End, of: Fault) -> Result<(), Violation> {
        end.befalls(&self.machines[index].disk, self.random.of(of));
        let machine = &mut self.machines[index];
        machine.running = None;
        machine.front.goes_dark();
        machine.run += 1;
        machine.deliveries.clear();
        machine.packets.clear();
        machine.subscribed = false;
        let (connection, who) = (machine.connection.take(), machine.settings.principal.clone());
        say!(self, who, "dies ({}, {end:?})", of.as_str());
        if let Some(connection) = connection {
            self.break_connection(connection);
        }
        let long = self.strikes(Fault::DeviceLongOutage);
        let away = if long {
            self.random.of(Fault::DeviceLongOutage).range(100_000, 900_000)
        } else {
            self.random.of(of).range(100, 20_000)
        };
        let restored_after = if self.strikes(Fault::BitFlips) { self.machine_bit_flips(index)? } else { 0 };
        self.after(away + restored_after, Happening::MachineStart(index));
        Ok(())
    }

    /// A bit of what was synced is wrong. Recovery must say so; the technician then brings the file back.
    fn machine_bit_flips(&mut self, index: usize) -> Result<u64, Violation> {
        let machine = &self.machines[index];
        let (disk, limits, who) = (machine.disk.clone(), machine.limits, machine.settings.principal.clone());
        let random = self.random.of(Fault::BitFlips);
        let same = |sound: &Recovered, found: &Recovered| sound.state == found.state;
        let flipped = flip_a_bit::<Recovered>(&disk, limits, CHAIN, random, same);
        let flipped = flipped.map_err(|text| self.broken("correctness.md 2 at the device", text))?;
        say!(self, who, "with a wrong bit on its disk: {flipped}");
        let refused = matches!(flipped, Flipped::Refused(_));
        Ok(if refused { self.random.of(Fault::BitFlips).range(60_000, 600_000) } else { 0 })
    }
}
