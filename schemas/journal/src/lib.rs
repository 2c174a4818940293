//! Append-only log over a Disk: records, hash chain, batches, snapshots, recovery.
