//! The operator's end of the admin socket.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use cloud_core_flows::rejection::Rejection;
use serde::de::DeserializeOwned;

use super::{REPLY_BYTES, Request, ShellAnswer, ShellCommand};

/// Nobody waits longer for a reply; reading a long journal takes a while.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens.
    #[error(
        "no cloud core answers at {path}: start one there with `cloud-core --data-dir {directory}`, or name the data directory of the one that runs with --data-dir"
    )]
    NotRunning {
        /// The socket.
        path: String,
        /// Its directory.
        directory: String,
    },
    /// The socket belongs to somebody else.
    #[error("{path} may not be opened by this user: run as the user who runs the cloud core")]
    NotPermitted {
        /// The socket.
        path: String,
    },
    /// The core ended, or does not speak this.
    #[error(
        "the cloud core at {path} gave no answer ({reason}): look at its log; the command may have been carried out, and may be repeated"
    )]
    NoAnswer {
        /// The socket.
        path: String,
        /// What happened.
        reason: String,
    },
    /// The core refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Speaks with the core of one data directory. Blocking; one connection for each command.
#[derive(Debug, Clone)]
pub struct AdminClient {
    path: PathBuf,
}

impl AdminClient {
    /// For the socket at `path` ([`Config::admin_socket`](crate::config::Config::admin_socket)).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Sends a command to the core.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub fn core(&self, command: AdminCommand) -> Result<AdminAnswer, AdminError> {
        self.ask::<AdminAnswer>(&Request::Core(command))
    }

    /// Sends a command to the shell.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub fn shell(&self, command: ShellCommand) -> Result<ShellAnswer, AdminError> {
        self.ask::<ShellAnswer>(&Request::Shell(command))
    }

    fn ask<A: DeserializeOwned>(&self, request: &Request) -> Result<A, AdminError> {
        let no_answer =
            |reason: String| AdminError::NoAnswer { path: self.path.display().to_string(), reason };
        let mut stream = UnixStream::connect(&self.path).map_err(|error| unreachable(&self.path, &error))?;
        let mut line = request.encode().map_err(|error| no_answer(error.to_string()))?;
        line.push(b'\n');
        let io = |error: std::io::Error| no_answer(error.to_string());
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(io)?;
        stream.write_all(&line).map_err(io)?;
        let mut reply = Vec::new();
        BufReader::new((&stream).take(REPLY_BYTES as u64)).read_until(b'\n', &mut reply).map_err(io)?;
        if reply.last() != Some(&b'\n') {
            return Err(no_answer("it closed the connection".into()));
        }
        let reply: Result<A, Rejection> =
            serde_json::from_slice(&reply).map_err(|error| no_answer(format!("not its reply: {error}")))?;
        Ok(reply?)
    }
}

fn unreachable(path: &Path, error: &std::io::Error) -> AdminError {
    let shown = path.display().to_string();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => AdminError::NotRunning {
            directory: path.parent().unwrap_or(Path::new(".")).display().to_string(),
            path: shown,
        },
        ErrorKind::PermissionDenied => AdminError::NotPermitted { path: shown },
        _ => AdminError::NoAnswer { path: shown, reason: error.to_string() },
    }
}
