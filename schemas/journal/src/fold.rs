//! What the owner of a state gives the journal so that it can rebuild that state.

use std::fmt::Display;

use crate::Position;

/// A state that can be rebuilt from a snapshot and the records after it.
pub trait Fold {
    /// Why bytes could not become state.
    type Error: Display;

    /// Replaces the whole state by a snapshot taken after `position` records. On an error the state must be as
    /// before the call (empty): an older snapshot, or all records, are tried next.
    fn restore(&mut self, position: Position, snapshot: &[u8]) -> Result<(), Self::Error>;

    /// Applies the record that makes the state one of `position` records. An error stops recovery.
    fn apply(&mut self, position: Position, record: &[u8]) -> Result<(), Self::Error>;
}

/// A [`Fold`] of nothing but records: it declines every snapshot, so all records are replayed.
#[derive(Debug, Clone)]
pub struct Records<F>(pub F);

impl<F: FnMut(Position, &[u8])> Fold for Records<F> {
    type Error = &'static str;

    fn restore(&mut self, _position: Position, _snapshot: &[u8]) -> Result<(), Self::Error> {
        Err("this reader replays all records")
    }

    fn apply(&mut self, position: Position, record: &[u8]) -> Result<(), Self::Error> {
        (self.0)(position, record);
        Ok(())
    }
}
