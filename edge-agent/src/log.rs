//! The agent's log: on stderr, or in a file where the terminal is needed for something else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A file that is larger begins anew, and the one before it is kept.
const FILE_BYTES: u64 = 1 << 20;

/// Begins to log, to `file` if there is one and it can be written.
pub(crate) fn start(level: tracing::Level, file: Option<&Path>) {
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    // The demo enters here after it has set up a log of its own: then that one stays.
    let _ = match file.and_then(|path| LimitedFile::open(path).ok()) {
        Some(file) => builder.with_ansi(false).with_writer(Mutex::new(file)).try_init(),
        None => builder.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).try_init(),
    };
}

struct LimitedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LimitedFile {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }
}

impl Write for LimitedFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > FILE_BYTES {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(&self.path)?;
        }
        let written = self.file.write(line)?;
        self.bytes = self.bytes.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_is_bounded_and_its_forerunner_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data").join("agent.log");
        let line = [b'x'; 1 << 16];
        for _ in 0..40 {
            LimitedFile::open(&path).unwrap().write_all(&line).unwrap();
        }
        let bytes = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(bytes(&path) <= FILE_BYTES + (1 << 16));
        assert!(bytes(&path.with_extension("log.1")) > FILE_BYTES);
    }
}
