//! The operator's end of the admin socket, or of the same over TLS, in the words of the core.

use std::path::PathBuf;

use broker::client::{Client, ClientError};
use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use cloud_core_flows::rejection::Rejection;
use serde::de::DeserializeOwned;

use super::{Request, ShellAnswer, ShellCommand};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens, or it said nothing.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The core refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Speaks with one core. Blocking; one connection for each command.
#[derive(Debug, Clone)]
pub struct AdminClient(Client);

impl From<Client> for AdminClient {
    fn from(client: Client) -> Self {
        Self(client)
    }
}

impl AdminClient {
    /// For the socket at `path` ([`Config::admin_socket`](crate::config::Config::admin_socket)).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Client::local(path).into()
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
        let no_answer = |reason: String| self.0.no_answer(reason);
        let line = request.encode().map_err(|error| no_answer(error.to_string()))?;
        let reply = self.0.ask(&line)?;
        let reply: Result<A, Rejection> =
            serde_json::from_slice(&reply).map_err(|error| no_answer(format!("not its reply: {error}")))?;
        Ok(reply?)
    }
}
