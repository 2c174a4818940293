//! What the figures were measured on.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use super::report::percentile;

/// About as long as the events of one step of a payment.
const SYNC_BYTES: usize = 300;
const SYNCS: u64 = 300;

/// One machine, and the disk that was written to.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    processor: String,
    cores: usize,
    memory_kb: u64,
    kernel: String,
    file_system: String,
    /// Of 300 bytes into a file of zeros.
    fdatasync_p50_us: u64,
}

impl Machine {
    /// # Errors
    /// `/proc` is not that of Linux, or `directory` cannot be written.
    pub(super) fn of(directory: &Path) -> anyhow::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let memory = field(&read("/proc/meminfo")?, "MemTotal");
        let memory = memory.trim_end_matches("kB").trim().parse().context("MemTotal")?;
        let directory = directory.canonicalize()?;
        Ok(Self {
            processor: field(&read("/proc/cpuinfo")?, "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_kb: memory,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            file_system: file_system(&read("/proc/self/mountinfo")?, &directory),
            fdatasync_p50_us: fdatasync_p50_us(&directory.join("sync"))?,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, memory_kb, kernel, file_system, fdatasync_p50_us } = self;
        writeln!(f, "{processor}, {cores} cores, {} MiB, Linux {kernel}", memory_kb / 1024)?;
        write!(f, "{file_system}, fdatasync of {SYNC_BYTES} bytes: p50 {fdatasync_p50_us} us")
    }
}

/// The value of the first line `name : value`; a processor that does not say its model has none.
fn field(text: &str, name: &str) -> String {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut found = lines.filter(|(left, _)| left.trim() == name).map(|(_, right)| right.trim().to_owned());
    found.next().unwrap_or_else(|| "unknown".to_owned())
}

/// The type of the file system that is mounted closest above `path` (proc(5), mountinfo).
fn file_system(mountinfo: &str, path: &Path) -> String {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        Some((Path::new(left.split(' ').nth(4)?), right.split(' ').next()?))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point));
    // Of two mounts on one point the later hides the earlier.
    let closest = above.max_by_key(|(point, _)| point.components().count());
    closest.map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

fn fdatasync_p50_us(path: &Path) -> anyhow::Result<u64> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.write_all_at(&vec![0; SYNC_BYTES * usize::try_from(SYNCS)?], 0)?;
    file.sync_all()?;
    let mut waited = Vec::new();
    for number in 0..SYNCS {
        file.write_all_at(&[0xff; SYNC_BYTES], number * SYNC_BYTES as u64)?;
        let started = Instant::now();
        file.sync_data()?;
        waited.push(u64::try_from(started.elapsed().as_micros())?);
    }
    fs::remove_file(path)?;
    Ok(percentile(waited, 50))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_mount_counts_and_the_later_of_two() {
        let mountinfo = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw\n\
                         30 22 0:5 / /tmp rw - tmpfs tmpfs rw\n\
                         31 22 8:2 / /data rw - ext4 /dev/sdb rw\n\
                         32 31 8:3 / /data rw - xfs /dev/sdc rw\n";
        for (path, kind) in [("/home/a", "ext4"), ("/tmp/x", "tmpfs"), ("/tmpx", "ext4"), ("/data/j", "xfs")]
        {
            assert_eq!(file_system(mountinfo, Path::new(path)), kind, "{path}");
        }
        assert_eq!(file_system("", Path::new("/")), "unknown");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 7\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: other\n";
        assert_eq!(field(text, "model name"), "Some CPU @ 2 GHz");
        assert_eq!(field(text, "cpu MHz"), "unknown");
    }
}
