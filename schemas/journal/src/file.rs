//! A directory of the file system. The one exception to purity in this package: two shells need it, and a shell never
//! depends on a shell. Nothing else here touches the system.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod calls;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::disk::{Disk, DiskError};
pub use calls::Call;
use calls::Calls;

const LOCK_NAME: &str = "journal.lock";
const ZERO_CHUNK_BYTES: usize = 1 << 20;
/// Files kept open. The journal works on three at a time: the active segment, the one before, and a snapshot's.
const OPEN_FILES_MAX: usize = 16;

/// A data directory, owned by one process at a time.
#[derive(Debug, Clone)]
pub struct FileDisk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    calls: Calls,
    files: Mutex<BTreeMap<String, Arc<Held>>>,
    hold_until_sync: bool,
    read_only: bool,
    /// Locked for as long as this is open.
    _lock: Option<File>,
}

/// An open file, and the writes that wait for `sync` in the test mode.
#[derive(Debug)]
struct Held {
    file: File,
    /// Written since the last sync. Such a file stays open: a closed one could forget a write error.
    unsynced: AtomicBool,
    waiting: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// Why a data directory could not be opened.
#[derive(Debug, Error)]
pub enum FileDiskError {
    /// Another process owns it.
    #[error(
        "the data directory {directory} is in use by another process ({holder}): stop that process, or choose another directory"
    )]
    InUse {
        /// The directory.
        directory: String,
        /// Who, as far as the lock file says: "process 1234".
        holder: String,
    },
    /// The system refused.
    #[error(
        "cannot open the data directory {directory}: {source}; check that it exists and is writable by this user"
    )]
    Open {
        /// The directory.
        directory: String,
        /// What the system said.
        source: io::Error,
    },
}

impl FileDisk {
    /// Opens the directory for this process alone, making it (mode 0700) when it is missing.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, FileDiskError> {
        Self::open_as(directory.as_ref(), false, Calls::default())
    }

    /// As [`FileDisk::open`], and `observer` hears of every change that the system was asked for and has made, in
    /// order: from the recording the power-loss tests build what a power cut at any moment may leave.
    pub fn open_observed(
        directory: impl AsRef<Path>,
        observer: impl Fn(Call<'_>) + Send + Sync + 'static,
    ) -> Result<Self, FileDiskError> {
        Self::open_as(directory.as_ref(), false, Calls { observer: Some(Arc::new(observer)) })
    }

    /// The test mode of correctness.md 5: writes stay in this process until `sync`, so that SIGKILL is a power cut.
    pub fn hold_until_sync(directory: impl AsRef<Path>) -> Result<Self, FileDiskError> {
        Self::open_as(directory.as_ref(), true, Calls::default())
    }

    /// Opens the directory for reading only, beside a process that owns it: for `audit verify` and `show`.
    pub fn open_read_only(directory: impl AsRef<Path>) -> Result<Self, FileDiskError> {
        let directory = directory.as_ref();
        fs::read_dir(directory).map_err(|source| open_error(directory, source))?;
        Ok(Self::new(directory, false, None, Calls::default()))
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    fn open_as(directory: &Path, hold_until_sync: bool, calls: Calls) -> Result<Self, FileDiskError> {
        let in_directory = |source| open_error(directory, source);
        if !directory.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(in_directory)?;
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            // Another directory than the observed one.
            Calls::default().sync_directory(parent.unwrap_or(Path::new("."))).map_err(in_directory)?;
        }
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(directory.join(LOCK_NAME))
            .map_err(in_directory)?;
        match lock.try_lock() {
            Ok(()) => {
                lock.set_len(0).map_err(in_directory)?;
                // For the error text of the next one only, so it needs no sync.
                write!(lock, "process {}", std::process::id()).map_err(in_directory)?;
                Ok(Self::new(directory, hold_until_sync, Some(lock), calls))
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.take(100).read_to_string(&mut holder);
                Err(FileDiskError::InUse { directory: directory.display().to_string(), holder })
            }
            Err(TryLockError::Error(source)) => Err(open_error(directory, source)),
        }
    }

    fn new(directory: &Path, hold_until_sync: bool, lock: Option<File>, calls: Calls) -> Self {
        Self {
            inner: Arc::new(Inner {
                directory: directory.to_owned(),
                calls,
                files: Mutex::default(),
                hold_until_sync,
                read_only: lock.is_none(),
                _lock: lock,
            }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.directory.join(name)
    }

    /// The open file, kept open: a name is looked up in the file system once.
    fn held(&self, name: &str) -> io::Result<Arc<Held>> {
        let mut files = lock(&self.inner.files);
        if let Some(held) = files.get(name) {
            return Ok(Arc::clone(held));
        }
        let file = OpenOptions::new().read(true).write(!self.inner.read_only).open(self.path(name))?;
        if files.len() >= OPEN_FILES_MAX {
            files.retain(|_, held| held.unsynced.load(Ordering::SeqCst));
        }
        let held = Arc::new(Held { file, unsynced: AtomicBool::new(false), waiting: Mutex::default() });
        files.insert(name.to_owned(), Arc::clone(&held));
        Ok(held)
    }

    /// Marked under the lock of the table, so that it cannot be closed between look-up and mark.
    fn held_for_writing(&self, name: &str) -> io::Result<Arc<Held>> {
        loop {
            let held = self.held(name)?;
            let files = lock(&self.inner.files);
            if files.get(name).is_some_and(|current| Arc::ptr_eq(current, &held)) {
                held.unsynced.store(true, Ordering::SeqCst);
                return Ok(held);
            }
        }
    }

    fn forget(&self, name: &str) {
        lock(&self.inner.files).remove(name);
    }

    /// Writes beside, syncs, renames: the file is there completely or not at all.
    fn put_atomically<'a>(&self, name: &str, content: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        self.refuse_read_only()?;
        let Inner { directory, calls, .. } = &*self.inner;
        let temporary = format!("{name}.tmp");
        let written = calls.create(directory, &temporary).and_then(|file| {
            let mut offset = 0;
            for bytes in content {
                calls.write_next(&file, &temporary, offset, bytes)?;
                offset += bytes.len() as u64;
            }
            calls.sync_all(&file, &temporary)
        });
        if let Err(error) = written {
            // Gives the space back; if that fails too, the next recovery removes it.
            let _ = calls.remove(directory, &temporary);
            return Err(error);
        }
        calls.rename(directory, &temporary, name)?;
        self.forget(name);
        calls.sync_directory(directory)
    }

    fn refuse_read_only(&self) -> io::Result<()> {
        if self.inner.read_only {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the directory was opened for reading only",
            ));
        }
        Ok(())
    }
}

impl Disk for FileDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        let directory = self.inner.directory.display().to_string();
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.inner.directory)? {
                let entry = entry?;
                if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string())
                    && name != LOCK_NAME
                {
                    names.push(name);
                }
            }
            Ok(names)
        };
        read().map_err(|error| disk_error("list", &directory, &error))
    }

    fn create(&self, name: &str, len: u64) -> Result<(), DiskError> {
        // Real zeros, not a hole: the blocks are allocated and written now, so later writes change data only and
        // fdatasync has no metadata to write.
        let zeros = vec![0; ZERO_CHUNK_BYTES];
        let mut left = len;
        let chunks = std::iter::from_fn(|| {
            let length = usize::try_from(left).map_or(ZERO_CHUNK_BYTES, |left| left.min(ZERO_CHUNK_BYTES));
            left -= length as u64;
            (length > 0).then(|| &zeros[..length])
        });
        self.put_atomically(name, chunks).map_err(|error| disk_error("create", name, &error))
    }

    fn len(&self, name: &str) -> Result<u64, DiskError> {
        self.held(name)
            .and_then(|held| held.file.metadata())
            .map(|metadata| metadata.len())
            .map_err(|error| disk_error("measure", name, &error))
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        let mut read = || {
            let held = self.held(name)?;
            let waiting = lock(&held.waiting);
            held.file.read_exact_at(buffer, offset)?;
            for (at, bytes) in waiting.iter() {
                overlay(buffer, offset, *at, bytes);
            }
            Ok(())
        };
        read().map_err(|error| disk_error("read", name, &error))
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let write = || {
            self.refuse_read_only()?;
            let held = self.held_for_writing(name)?;
            if self.inner.hold_until_sync {
                lock(&held.waiting).push((offset, bytes.to_vec()));
                return Ok(());
            }
            self.inner.calls.write_at(&held.file, name, offset, bytes)
        };
        write().map_err(|error| disk_error("write", name, &error))
    }

    fn sync(&self, name: &str) -> Result<(), DiskError> {
        if cfg!(feature = "fault-no-sync") {
            return Ok(());
        }
        let sync = || {
            let held = self.held(name)?;
            held.unsynced.store(false, Ordering::SeqCst);
            {
                let mut waiting = lock(&held.waiting);
                for (offset, bytes) in waiting.drain(..) {
                    self.inner.calls.write_at(&held.file, name, offset, &bytes)?;
                }
            }
            self.inner.calls.sync_data(&held.file, name)
        };
        sync().map_err(|error| disk_error("sync", name, &error))
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.put_atomically(name, std::iter::once(bytes)).map_err(|error| disk_error("publish", name, &error))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let remove = || {
            self.refuse_read_only()?;
            self.inner.calls.remove(&self.inner.directory, name)?;
            self.forget(name);
            self.inner.calls.sync_directory(&self.inner.directory)
        };
        remove().map_err(|error| disk_error("remove", name, &error))
    }
}

fn overlay(buffer: &mut [u8], buffer_at: u64, at: u64, bytes: &[u8]) {
    let from = at.max(buffer_at);
    let to = (at + bytes.len() as u64).min(buffer_at + buffer.len() as u64);
    if from < to {
        let index = |position: u64, base: u64| usize::try_from(position - base).unwrap_or(usize::MAX);
        buffer[index(from, buffer_at)..index(to, buffer_at)]
            .copy_from_slice(&bytes[index(from, at)..index(to, at)]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_error(directory: &Path, source: io::Error) -> FileDiskError {
    FileDiskError::Open { directory: directory.display().to_string(), source }
}

fn disk_error(operation: &'static str, name: &str, error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            DiskError::OutOfSpace { name: name.to_owned() }
        }
        _ => DiskError::Failed { operation, name: name.to_owned(), reason: error.to_string() },
    }
}
