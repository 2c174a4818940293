//! Why a cloud core does not start, or ended.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use broker::StartError;
use schemas::ids::IdError;
use schemas::time::Timestamp;
use schemas_journal::FileDiskError;

use crate::authority::AuthorityError;
use crate::config::Config;
use crate::runtime::{CoreFault, KillPointError};

/// What failed, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory is locked, or can't be opened.
    #[error(transparent)]
    DataDir(#[from] FileDiskError),
    /// A file of the data directory.
    #[error(
        "cannot {operation} {path}: {source}; check that the data directory is on a working disk with room, and belongs to this user"
    )]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the data directory is not what it should be.
    #[error(
        "{path} is damaged ({reason}): restore it from a backup; without it devices that were enrolled are strangers"
    )]
    AuthorityFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate or key that the configuration names.
    #[error(
        "{path} can't be used ({reason}): give a PEM file with the chain (its own certificate first), and one with its key"
    )]
    CertificateFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The running authority can't be exchanged.
    #[error(
        "{path} holds another authority than the running one: put the right file back, or restart; enrolled devices trust one authority only"
    )]
    OtherAuthority {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate whose key is gone: a new authority would make strangers of all devices.
    #[error(
        "{path} is missing, but {certificate} is there: restore the key from a backup. Only to begin with a new authority, and to enrol every device anew, remove the certificate too"
    )]
    AuthorityKeyMissing {
        /// The missing file.
        path: PathBuf,
        /// The file that is there.
        certificate: PathBuf,
    },
    /// The key that signs codes and places is not what it should be.
    #[error("{path} can't be used ({reason}): restore it from a backup; piggy banks believe no other key")]
    SigningKeyFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key that signs codes and places is gone: piggy banks that know it would believe no other.
    #[error(
        "{path} is missing, but {public} is there: restore the key from a backup. Only to begin with a new one, and to enrol every piggy bank anew, remove the public half too"
    )]
    SigningKeyMissing {
        /// The missing file.
        path: PathBuf,
        /// The file that is there.
        public: PathBuf,
    },
    /// The journal was refused.
    #[error(
        "the journal can't be replayed: {0}\nRun `cloud-core audit verify` on this data directory, and restore what it names from a backup"
    )]
    Journal(String),
    /// The wall clock is far after the journal's last record.
    #[error(
        "the wall clock says {now}, {days} days after the last record of the journal ({left_off_at}). If it is wrong, set it and start again: the core's time never goes back, so a wrong one would stay in the journal, certificates and tokens would have ended, and devices would refuse commands. If the core did stand still for so long, start it once with `cloud-core serve --accept-clock`"
    )]
    ClockAhead {
        /// What the wall clock says.
        now: Timestamp,
        /// When the last record was decided.
        left_off_at: Timestamp,
        /// Whole days in between.
        days: u64,
    },
    /// A port is taken.
    #[error(
        "cannot listen on {address} ({setting}): another program uses the port. Stop it, or choose another address with {flag} (port 0 takes any free one)"
    )]
    PortTaken {
        /// Which setting.
        setting: &'static str,
        /// Its flag.
        flag: String,
        /// Where.
        address: SocketAddr,
    },
    /// An address can't be listened on.
    #[error(
        "cannot listen on {address} ({setting}): {source}. Choose an address of this machine with {flag}"
    )]
    Listen {
        /// Which setting.
        setting: &'static str,
        /// Its flag.
        flag: String,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The lane did not start for another reason.
    #[error("the lane did not start: {0}")]
    Lane(StartError),
    /// The admin socket.
    #[error(
        "cannot make the admin socket {path}: {source}. A socket's path has at most about 100 bytes: choose a shorter --data-dir if it is that"
    )]
    AdminSocket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("{0}")]
    Authority(AuthorityError),
    /// The platform's own principal has a name that is none.
    #[error("the health principal can't be named: {0}")]
    Name(#[from] IdError),
    /// No random bytes.
    #[error("the system gave no random bytes ({0}): try again")]
    Random(io::Error),
    /// No thread, no signal handler.
    #[error("the system refused a thread or a socket ({0}): raise the limits of this user")]
    Thread(io::Error),
    /// Metrics could not be recorded.
    #[error("metrics can't be recorded: {0}")]
    Metrics(String),
    /// A kill point that is none.
    #[error(transparent)]
    KillPoint(#[from] KillPointError),
    /// It ran, and had to end.
    #[error(transparent)]
    Fault(#[from] CoreFault),
}

impl ServeError {
    pub(super) fn listen(setting: &'static str, address: SocketAddr, source: io::Error) -> Self {
        let flag = format!("--{}", setting.replace('_', "-"));
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::PortTaken { setting, flag, address },
            _ => Self::Listen { setting, flag, address, source },
        }
    }

    pub(super) fn of_lane(error: StartError, config: &Config) -> Self {
        let setting = |address: SocketAddr| {
            let settings = [
                ("listen_tcp", config.listen_tcp),
                ("listen_tls", config.listen_tls),
                ("listen_ws", config.listen_ws),
            ];
            settings.iter().find(|(_, set)| *set == Some(address)).map_or("listen_wss", |(name, _)| name)
        };
        match error {
            StartError::AddressInUse { address } => {
                Self::listen(setting(address), address, io::ErrorKind::AddrInUse.into())
            }
            StartError::Listen { address, source } => Self::listen(setting(address), address, source),
            other => Self::Lane(other),
        }
    }
}
