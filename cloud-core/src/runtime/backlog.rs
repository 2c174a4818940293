//! How far the owner may decide ahead of the disk.

/// Inputs decided beyond those that the running sync covers.
const MAX_INPUTS: u32 = 65_536;

/// Counts what was decided and waits for a sync that has not begun: because one is running, or because the disk is
/// full. Beyond a bound the lane is not heard, so that its channel fills, sockets are not read, and a disk that hangs
/// costs time and not memory. Operators and banks are heard on: they wait for their answers, and so bound themselves.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    inputs: u32,
}

impl Backlog {
    /// So many were decided.
    pub(super) fn grow(&mut self, inputs: u32) {
        self.inputs = self.inputs.saturating_add(inputs);
    }

    /// A sync begins that covers all of them, or nothing waits.
    pub(super) fn clear(&mut self) {
        self.inputs = 0;
    }

    /// Whether the lane has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.inputs >= MAX_INPUTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_closes_the_lane_and_the_next_sync_opens_it() {
        let mut backlog = Backlog::default();
        backlog.grow(MAX_INPUTS - 1);
        assert!(!backlog.is_full());
        backlog.grow(u32::MAX);
        assert!(backlog.is_full());
        backlog.clear();
        assert!(!backlog.is_full());
    }
}
