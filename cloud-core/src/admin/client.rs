//! The operator's end of the admin socket, or of the same over TLS.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use cloud_core_flows::rejection::Rejection;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
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
    /// Nobody listens there, or nobody else may come.
    #[error(
        "{server} can't be reached ({reason}): check the address, and that the core there has `listen_admin`"
    )]
    Unreachable {
        /// `host:port`.
        server: String,
        /// Why not.
        reason: String,
    },
    /// The files of an operator's identity.
    #[error("the identity in {path} can't be used ({reason}): enrol with `cloud-core admin enroll`")]
    Identity {
        /// Its directory.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The core refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Speaks with one core. Blocking; one connection for each command.
#[derive(Debug, Clone)]
pub struct AdminClient {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Socket(PathBuf),
    Remote { server: String, tls: Arc<ClientConfig> },
}

trait Line: Read + Write {}
impl<T: Read + Write> Line for T {}

impl AdminClient {
    /// For the socket at `path` ([`Config::admin_socket`](crate::config::Config::admin_socket)).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Socket(path.into()) }
    }

    /// For a core elsewhere, `host:port` of its `listen_admin`, with the identity that `admin enroll` wrote.
    ///
    /// # Errors
    /// [`AdminError::Identity`].
    pub fn remote(server: &str, identity: &Path) -> Result<Self, AdminError> {
        let refuse = |reason: String| AdminError::Identity { path: identity.display().to_string(), reason };
        let pem = |error: rustls::pki_types::pem::Error| refuse(error.to_string());
        let tls = |error: rustls::Error| refuse(error.to_string());
        let authority = CertificateDer::from_pem_file(identity.join("authority.crt")).map_err(pem)?;
        let own = CertificateDer::from_pem_file(identity.join("device.crt")).map_err(pem)?;
        let key = PrivateKeyDer::from_pem_file(identity.join("device.key")).map_err(pem)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(tls)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own, authority], key)
            .map_err(tls)?;
        Ok(Self { place: Place::Remote { server: server.to_owned(), tls: Arc::new(config) } })
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
        let no_answer = |reason: String| AdminError::NoAnswer { path: self.shown(), reason };
        let mut stream = self.connect()?;
        let mut line = request.encode().map_err(|error| no_answer(error.to_string()))?;
        line.push(b'\n');
        let io = |error: std::io::Error| no_answer(error.to_string());
        stream.write_all(&line).and_then(|()| stream.flush()).map_err(io)?;
        let mut reply = Vec::new();
        BufReader::new(stream.take(REPLY_BYTES as u64)).read_until(b'\n', &mut reply).map_err(io)?;
        if reply.last() != Some(&b'\n') {
            return Err(no_answer("it closed the connection".into()));
        }
        let reply: Result<A, Rejection> =
            serde_json::from_slice(&reply).map_err(|error| no_answer(format!("not its reply: {error}")))?;
        Ok(reply?)
    }
}

impl AdminClient {
    fn connect(&self) -> Result<Box<dyn Line>, AdminError> {
        let no_answer =
            |error: std::io::Error| AdminError::NoAnswer { path: self.shown(), reason: error.to_string() };
        match &self.place {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).map_err(|error| unreachable(path, &error))?;
                stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(no_answer)?;
                Ok(Box::new(stream))
            }
            Place::Remote { server, tls } => {
                let refuse = |reason: String| AdminError::Unreachable { server: server.clone(), reason };
                let host = server.rsplit_once(':').map_or(server.as_str(), |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host).map_err(|error| refuse(error.to_string()))?;
                let stream = TcpStream::connect(server).map_err(|error| refuse(error.to_string()))?;
                stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(no_answer)?;
                let session = ClientConnection::new(Arc::clone(tls), name);
                let session = session.map_err(|error| refuse(error.to_string()))?;
                Ok(Box::new(StreamOwned::new(session, stream)))
            }
        }
    }

    fn shown(&self) -> String {
        match &self.place {
            Place::Socket(path) => path.display().to_string(),
            Place::Remote { server, .. } => server.clone(),
        }
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
