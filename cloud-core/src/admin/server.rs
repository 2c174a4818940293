//! The core's end of the admin socket, and of the same over TLS for operators elsewhere.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker::client::REPLY_BYTES;
use broker::{BrokerHandle, TlsConfig};
use cloud_core_flows::admin::{AdminAnswer, AdminCommand, BankKind};
use cloud_core_flows::registry::RESERVED_TENANT;
use cloud_core_flows::rejection::Rejection;
use cloud_core_history::{Cursor, CursorError, Party};
use data_encoding::BASE64URL_NOPAD;
use schemas::claim::ClaimCode;
use schemas::ids::{Hash, Instance, PaymentId, Principal};
use schemas::time::Timestamp;
use schemas_journal::{FileDisk, Position};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{BrokerCommand, REQUEST_BYTES, Request, ShellAnswer, ShellCommand, ShellReply, Story, story};
use crate::authority::principal_of_peer_certificate;
use crate::bank::HttpBank;
use crate::config::Shown;
use crate::history::Historian;
use crate::runtime::{Asker, CoreClock, Requests, Stopped};

/// Operators at one time; more wait.
const CONNECTIONS: usize = 32;
/// Between two commands on one connection.
const IDLE: Duration = Duration::from_secs(60);
/// TLS handshakes at one time: whoever begins one and goes silent takes no operator's place.
const HANDSHAKES: usize = 256;
/// From accept to the end of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Rows of one page of somebody's payments.
const HISTORY_ROWS: u32 = 100;
/// A claim or token is valid for at most ten years.
const VALID_MS: u64 = 10 * 366 * 24 * 3_600_000;

/// What commands need.
pub(crate) struct Counter {
    pub(crate) broker: BrokerHandle,
    /// Every setting with its origin.
    pub(crate) settings: Vec<Shown>,
    pub(crate) requests: Requests,
    pub(crate) disk: FileDisk,
    pub(crate) synced: Arc<AtomicU64>,
    pub(crate) historian: Historian,
    pub(crate) clock: CoreClock,
    pub(crate) authority_fingerprint: [u8; 32],
    pub(crate) bank_authority_pem: Option<Vec<u8>>,
}

/// Listens at `path`, for the user of this process only. An older socket there is replaced: the caller holds the
/// lock of the data directory.
///
/// # Errors
/// The directory is not writable, or the path is too long for a socket (about 100 bytes).
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: UnixListener, counter: Arc<Counter>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if !is_same_user(&stream) {
            tracing::warn!("a connection of another user to the admin socket was closed");
            continue;
        }
        let Ok(peer) = stream.peer_cred() else { continue };
        let asker = Asker::Local { uid: peer.uid() };
        let counter = Arc::clone(&counter);
        connections.spawn(async move {
            if let Err(error) = counter.attend(stream, &asker).await {
                tracing::debug!(%error, "an admin connection ended");
            }
            drop(place);
        });
    }
}

/// The same for operators elsewhere, until it is dropped. `tls` asks for a client certificate; what its owner may do is
/// asked of the core for each command.
pub(crate) async fn serve_remote(listener: TcpListener, tls: TlsConfig, counter: Arc<Counter>) {
    let operators = Arc::new(Semaphore::new(CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&handshakes).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (acceptor, counter, operators) =
            (TlsAcceptor::from(Arc::clone(&tls.borrow())), Arc::clone(&counter), Arc::clone(&operators));
        connections.spawn(async move {
            let ended = match admit(stream, &acceptor).await {
                Ok((stream, asker)) => {
                    drop(place);
                    let Ok(_place) = operators.acquire().await else { return };
                    counter.attend(stream, &asker).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a remote admin connection ended");
            }
        });
    }
}

/// An operator's certificate, or nothing is said. Devices have certificates of the same authority.
async fn admit(stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<(TlsStream<TcpStream>, Asker)> {
    stream.set_nodelay(true)?;
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let stream = handshake.await.map_err(|_| io::ErrorKind::TimedOut)??;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = shown.and_then(|shown| principal_of_peer_certificate(shown).ok());
    let peer = peer.filter(|peer| peer.principal.tenant.as_str() == RESERVED_TENANT);
    let peer = peer.ok_or(io::ErrorKind::PermissionDenied)?;
    Ok((stream, Asker::Operator { operator: peer.principal, instance: Instance(peer.instance) }))
}

/// Between bind and chmod the socket may have had other permissions.
fn is_same_user(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

impl Counter {
    async fn attend(&self, stream: impl AsyncRead + AsyncWrite, asker: &Asker) -> io::Result<()> {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut reader).take(REQUEST_BYTES as u64);
            let read = tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line));
            if read.await.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
                return Ok(());
            }
            let is_whole = line.last() == Some(&b'\n');
            let request = Request::parse(&line);
            if let Ok(Request::Broker(BrokerCommand::BrokerTap { filter })) = &request {
                return self.tap(filter, asker, reader.get_mut(), &mut writer).await;
            }
            let mut reply = if is_whole {
                self.answer(request, asker).await
            } else {
                encode(&refused(
                    "request_too_long",
                    format!("a command has at most {REQUEST_BYTES} bytes and a line end"),
                ))
            };
            reply.push(b'\n');
            writer.write_all(&reply).await?;
            writer.flush().await?;
            if !is_whole {
                return Ok(());
            }
        }
    }

    async fn answer(&self, request: serde_json::Result<Request>, asker: &Asker) -> Vec<u8> {
        match request {
            Ok(Request::Core(command)) => encode(&self.core(command, asker).await),
            Ok(Request::Broker(command)) => encode(&self.look(command, asker).await),
            Ok(Request::Shell(command)) => encode(&self.shell(command, asker).await),
            Err(error) => encode(&refused("command_invalid", format!("not a command: {error}"))),
        }
    }

    pub(super) async fn core(&self, command: AdminCommand, asker: &Asker) -> Result<AdminAnswer, Rejection> {
        check_bank(&command, self.bank_authority_pem.as_deref())?;
        let drain = match &command {
            AdminCommand::Drain { per_second, reference } => Some((*per_second, reference.clone())),
            _ => None,
        };
        let stopping = |stopped: Stopped| Rejection::new("core_stopping", stopped.to_string());
        let answer = self.requests.admin(asker.clone(), command).await.map_err(stopping)??;
        match drain {
            Some((0, _)) => self.broker.undrain(),
            Some((per_second, reference)) => self.broker.drain(per_second, reference),
            None => {}
        }
        Ok(answer)
    }

    /// Each asks the core for the right to it: the command that it leads to, or [`AdminCommand::ReadHistory`].
    async fn shell(&self, command: ShellCommand, asker: &Asker) -> ShellReply {
        match command {
            ShellCommand::ShowPayment { payment } => {
                self.core(AdminCommand::ReadHistory, asker).await?;
                self.show_payment(payment).await
            }
            ShellCommand::ListHistory { party, before, limit } => {
                self.core(AdminCommand::ReadHistory, asker).await?;
                self.list_history(party, before.as_deref(), limit).await
            }
            ShellCommand::IssueClaim { device, valid_ms } => self.issue_claim(device, valid_ms, asker).await,
            ShellCommand::IssueToken { principal, valid_ms } => {
                self.issue_token(principal, valid_ms, None, asker).await
            }
            ShellCommand::RenewToken { principal, valid_ms, overlap_ms } => {
                self.issue_token(principal, valid_ms, Some(overlap_ms), asker).await
            }
            ShellCommand::Durable => {
                self.core(AdminCommand::ReadHistory, asker).await?;
                Ok(ShellAnswer::Durable { records: self.synced.load(Ordering::Acquire) })
            }
        }
    }

    async fn show_payment(&self, payment: PaymentId) -> ShellReply {
        let found = self.historian.ask(move |history| story::tell_by(history, payment)).await;
        let story = match found {
            Ok(story) => story,
            Err(why) => {
                tracing::info!(%why, "the whole journal is read for one payment");
                self.read_story(payment).await?
            }
        };
        if story.chapters.is_empty() {
            let text =
                format!("the journal names no payment {payment}: `payments list` shows those in memory");
            return Err(Rejection::new("payment_unknown", text));
        }
        Ok(ShellAnswer::Story(story))
    }

    /// Without the index: slow for a long journal.
    async fn read_story(&self, payment: PaymentId) -> Result<Story, Rejection> {
        let unreadable = |error: String| Rejection::new("journal_unreadable", error);
        let (disk, synced) = (self.disk.clone(), Position::new(self.synced.load(Ordering::Acquire)));
        let told = tokio::task::spawn_blocking(move || story::tell(&disk, synced, payment)).await;
        told.map_err(|error| unreadable(error.to_string()))?.map_err(|error| unreadable(error.to_string()))
    }

    async fn list_history(&self, party: Party, before: Option<&str>, limit: u32) -> ShellReply {
        let before: Option<Cursor> = before
            .map(str::parse)
            .transpose()
            .map_err(|error: CursorError| Rejection::new("cursor_invalid", error.to_string()))?;
        let limit = limit.clamp(1, HISTORY_ROWS) as usize;
        let found = self.historian.ask(move |history| history.payments_of(&party, before, limit)).await;
        let found = found.map_err(|why| Rejection::new("history_not_ready", why.to_string()))?;
        let next = found.last().filter(|_| found.len() == limit).map(|(cursor, _)| cursor.to_string());
        Ok(ShellAnswer::History { rows: found.into_iter().map(|(_, row)| row).collect(), next })
    }

    async fn issue_claim(&self, device: Principal, valid_ms: u64, asker: &Asker) -> ShellReply {
        let expires_at = self.expiry(valid_ms)?;
        let code = ClaimCode::generate(random()?, &self.authority_fingerprint);
        let claim_hash = Hash(code.secret_hash());
        let command = AdminCommand::CreateClaim { device: device.clone(), claim_hash, expires_at };
        self.core(command, asker).await?;
        Ok(ShellAnswer::Claim { code: code.to_string(), device, expires_at })
    }

    /// In place of an earlier one, or (with an overlap) beside it for a while.
    async fn issue_token(
        &self,
        principal: Principal,
        valid_ms: u64,
        overlap_ms: Option<u64>,
        asker: &Asker,
    ) -> ShellReply {
        let expires_at = self.expiry(valid_ms)?;
        let token = BASE64URL_NOPAD.encode(&random::<32>()?);
        let token_hash = Hash::of(token.as_bytes());
        let for_whom = principal.clone();
        let command = match overlap_ms {
            None => AdminCommand::CreateToken { principal: for_whom, token_hash, expires_at },
            Some(overlap_ms) => AdminCommand::RotateToken {
                principal: for_whom,
                token_hash,
                expires_at,
                former_until: self.expiry(overlap_ms)?,
            },
        };
        self.core(command, asker).await?;
        Ok(ShellAnswer::Token { token, principal, expires_at })
    }

    fn expiry(&self, valid_ms: u64) -> Result<Timestamp, Rejection> {
        if valid_ms == 0 || valid_ms > VALID_MS {
            return Err(Rejection::new("validity_invalid", "choose a time from 1 ms to ten years"));
        }
        Ok(self.clock.now().plus_ms(valid_ms))
    }
}

/// Said to the operator now, not as a silent bank when somebody pays.
fn check_bank(command: &AdminCommand, authority_pem: Option<&[u8]>) -> Result<(), Rejection> {
    let url = match command {
        AdminCommand::CreateTenant { bank: BankKind::Http { url, .. }, .. } => url,
        AdminCommand::ChangeTenant { bank_url: Some(url), .. } => url,
        AdminCommand::Batch { commands, .. } => {
            return commands.iter().try_for_each(|command| check_bank(command, authority_pem));
        }
        _ => return Ok(()),
    };
    // Only its form is looked at: the bank is not called.
    HttpBank::new(url, IDLE, authority_pem)
        .map(|_| ())
        .map_err(|error| Rejection::new("bank_unusable", error.to_string()))
}

fn random<const N: usize>() -> Result<[u8; N], Rejection> {
    crate::random::bytes().map_err(|error| {
        Rejection::new("no_randomness", format!("the system gave no random bytes ({error}): try again"))
    })
}

fn refused(code: &'static str, text: String) -> ShellReply {
    Err(Rejection::new(code, text))
}

fn encode<T: Serialize>(reply: &Result<T, Rejection>) -> Vec<u8> {
    match serde_json::to_vec(reply) {
        Ok(line) if line.len() < REPLY_BYTES => line,
        Ok(line) => {
            let text = format!(
                "the reply has {} bytes, more than the limit of {REPLY_BYTES}: ask for less",
                line.len()
            );
            encode(&refused("reply_too_long", text))
        }
        // Our types encode; should one not, the connection is closed without a reply.
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use cloud_core_flows::admin::{Deadlines, OnUnknown};
    use cloud_core_flows::places::CodeRules;

    use super::*;

    #[test]
    fn a_bank_that_could_never_be_called_is_refused_when_its_tenant_is_made() {
        let create = |url: &str| AdminCommand::CreateTenant {
            tenant: "acme".parse().unwrap(),
            currency: "EUR".parse().unwrap(),
            bank: BankKind::Http { url: url.to_owned(), holding: "holding".to_owned() },
            on_unknown: OnUnknown::Refund,
            deadlines: Deadlines::default(),
            code_rules: CodeRules::default(),
        };
        assert_eq!(check_bank(&create("http://127.0.0.1:1"), None), Ok(()));
        assert_eq!(check_bank(&AdminCommand::ListTenants, None), Ok(()));
        for bad in ["bank.example", "http://bank.example", "https://bank.example"] {
            assert_eq!(check_bank(&create(bad), None).unwrap_err().code.as_str(), "bank_unusable", "{bad}");
        }
    }
}
