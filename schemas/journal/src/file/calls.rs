//! The calls with which [`FileDisk`](super::FileDisk) changes a directory: each is made here and nowhere else, and
//! told to an observer once it has succeeded. So a recording cannot leave out what was really done.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// One change that the system has made. Names are those of files in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'a> {
    /// A file was opened for writing: made if it was missing, cut to no bytes if it was not.
    Create {
        /// The file.
        name: &'a str,
    },
    /// Bytes were written; what lies behind the end makes the file longer.
    Write {
        /// The file.
        name: &'a str,
        /// In bytes.
        offset: u64,
        /// What was written.
        bytes: &'a [u8],
    },
    /// fsync or fdatasync of a file has returned: its bytes and its length are durable. Its name is not, by this.
    SyncFile {
        /// The file.
        name: &'a str,
    },
    /// A file has another name, and what had that name is gone.
    Rename {
        /// Before.
        from: &'a str,
        /// Now.
        to: &'a str,
    },
    /// A name is gone.
    Remove {
        /// The file.
        name: &'a str,
    },
    /// fsync of the directory has returned: all names are durable.
    SyncDirectory,
}

/// Hears of each change, on the thread that made it.
pub(super) type Observer = Arc<dyn Fn(Call<'_>) + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct Calls {
    pub(super) observer: Option<Observer>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("observed", &self.observer.is_some()).finish()
    }
}

impl Calls {
    pub(super) fn create(&self, directory: &Path, name: &str) -> io::Result<File> {
        let path = directory.join(name);
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        self.tell(Call::Create { name });
        Ok(file)
    }

    /// At the file's own position, which is `offset`.
    pub(super) fn write_next(
        &self,
        mut file: &File,
        name: &str,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        file.write_all(bytes)?;
        self.tell(Call::Write { name, offset, bytes });
        Ok(())
    }

    pub(super) fn write_at(&self, file: &File, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)?;
        self.tell(Call::Write { name, offset, bytes });
        Ok(())
    }

    pub(super) fn sync_all(&self, file: &File, name: &str) -> io::Result<()> {
        file.sync_all()?;
        self.tell(Call::SyncFile { name });
        Ok(())
    }

    /// Enough for a file whose length does not change.
    pub(super) fn sync_data(&self, file: &File, name: &str) -> io::Result<()> {
        file.sync_data()?;
        self.tell(Call::SyncFile { name });
        Ok(())
    }

    pub(super) fn rename(&self, directory: &Path, from: &str, to: &str) -> io::Result<()> {
        fs::rename(directory.join(from), directory.join(to))?;
        self.tell(Call::Rename { from, to });
        Ok(())
    }

    pub(super) fn remove(&self, directory: &Path, name: &str) -> io::Result<()> {
        fs::remove_file(directory.join(name))?;
        self.tell(Call::Remove { name });
        Ok(())
    }

    pub(super) fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()?;
        self.tell(Call::SyncDirectory);
        Ok(())
    }

    fn tell(&self, call: Call<'_>) {
        if let Some(observer) = &self.observer {
            observer(call);
        }
    }
}
