//! Device state machine: spool, inbox, at-most-once execution.
