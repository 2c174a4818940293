//! The operator's end of the core's admin socket, or of the same over TLS: one line of JSON each way. Whoever asks
//! knows what the lines mean.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longest reply line in bytes.
pub const REPLY_BYTES: usize = 64 << 20;
/// Nobody waits longer for a reply; reading a long journal takes a while.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
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
        /// The socket, or `host:port`.
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
}

/// Speaks with one core. Blocking; one connection for each command.
#[derive(Debug, Clone)]
pub struct Client {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Socket(PathBuf),
    Remote { server: String, tls: Arc<ClientConfig> },
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Client {
    /// For the core whose admin socket is at `path`.
    pub fn local(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Socket(path.into()) }
    }

    /// For a core elsewhere, `host:port` of its `listen_admin`, with the identity that `cloud-core admin enroll` wrote.
    ///
    /// # Errors
    /// [`ClientError::Identity`].
    pub fn remote(server: &str, identity: &Path) -> Result<Self, ClientError> {
        let refuse = |reason: String| ClientError::Identity { path: identity.display().to_string(), reason };
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

    /// Sends one line (without its end) and waits for the reply to it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask(&self, request: &[u8]) -> Result<Vec<u8>, ClientError> {
        self.begin(request)?.next_line()
    }

    /// Sends one line (without its end); more than one line may come back.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn begin(&self, request: &[u8]) -> Result<Replies, ClientError> {
        let mut stream = self.connect()?;
        let sent = stream.write_all(request).and_then(|()| stream.write_all(b"\n"));
        sent.and_then(|()| stream.flush()).map_err(|error| self.no_answer(error.to_string()))?;
        Ok(Replies { reader: BufReader::new(stream), client: self.clone() })
    }

    /// The error for a reply that is none, and why it is none.
    pub fn no_answer(&self, reason: String) -> ClientError {
        let path = match &self.place {
            Place::Socket(path) => path.display().to_string(),
            Place::Remote { server, .. } => server.clone(),
        };
        ClientError::NoAnswer { path, reason }
    }

    fn connect(&self) -> Result<Box<dyn Stream>, ClientError> {
        let no_answer = |error: std::io::Error| self.no_answer(error.to_string());
        match &self.place {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).map_err(|error| unreachable(path, &error))?;
                stream.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(no_answer)?;
                Ok(Box::new(stream))
            }
            Place::Remote { server, tls } => {
                let refuse = |reason: String| ClientError::Unreachable { server: server.clone(), reason };
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
}

/// What comes back, line by line.
pub struct Replies {
    reader: BufReader<Box<dyn Stream>>,
    client: Client,
}

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replies").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Replies {
    /// The next line that says something. Where many come the core sends an empty one now and then, so that silence
    /// means that it is gone.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`]: there is no whole line.
    pub fn next_line(&mut self) -> Result<Vec<u8>, ClientError> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader).take(REPLY_BYTES as u64).read_until(b'\n', &mut line);
            read.map_err(|error| self.client.no_answer(error.to_string()))?;
            match line.pop() {
                Some(b'\n') if line.is_empty() => {}
                Some(b'\n') => return Ok(line),
                _ => return Err(self.client.no_answer("it closed the connection".to_owned())),
            }
        }
    }
}

fn unreachable(path: &Path, error: &std::io::Error) -> ClientError {
    let shown = path.display().to_string();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning {
            directory: path.parent().unwrap_or(Path::new(".")).display().to_string(),
            path: shown,
        },
        ErrorKind::PermissionDenied => ClientError::NotPermitted { path: shown },
        _ => ClientError::NoAnswer { path: shown, reason: error.to_string() },
    }
}
