//! The running agent's local socket: one JSON line asked, one JSON line answered. Mode 0600: only the agent's user.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_agent_device::{
    Conditions, ListedWish, OpenCode, OpenPrompt, PlacesStatus, PositionStatus, PromptResult,
};
use schemas::ids::{ItemId, PaymentId, PrincipalId, WishId};
use schemas::message::{ChildAnswer, ChildView, PaymentMode};
use schemas::money::Money;
use schemas::signed::CodeText;
use schemas::time::Timestamp;
use schemas::wire::Text;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::agent::Input;

const LINE_BYTES: u64 = 64 << 10;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a command line asks of the running agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    PayInfo { item: ItemId, quantity: u32, valid_ms: Option<u64> },
    Conditions { conditions: Conditions },
    SetUp { on: bool },
    Prompts,
    AnswerPrompt { payment: PaymentId, answer: ChildAnswer },
    Wish { to: PrincipalId, text: String },
    WithdrawWish { wish: WishId },
    Codes,
    ShowCode { payment: PaymentId },
}

/// The answer to [`Request::Prompts`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PromptList {
    /// Those that wait for an answer, oldest first.
    pub(crate) prompts: Vec<OpenPrompt>,
    /// Newest first.
    pub(crate) results: Vec<PromptResult>,
    /// What the child has and can look forward to.
    #[serde(default)]
    pub(crate) child: Option<ChildView>,
    /// First those that the cloud does not show yet.
    #[serde(default)]
    pub(crate) wishes: Vec<ListedWish>,
}

/// The answer to [`Request::Codes`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CodeList {
    /// Oldest first.
    pub(crate) codes: Vec<OpenCode>,
    pub(crate) places: Option<PlacesStatus>,
    pub(crate) position: Option<PositionStatus>,
}

/// The answer to [`Request::ShowCode`].
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct CodeShown {
    pub(crate) payment: PaymentId,
    pub(crate) mode: PaymentMode,
    pub(crate) amount: Money,
    pub(crate) payee: Text,
    /// Who has it may pay with it.
    pub(crate) code: CodeText,
    pub(crate) expires_at: Timestamp,
}

/// The answer: a value, or a refusal with a stable code.
pub(crate) type Reply = Result<Value, Refusal>;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) text: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    #[error("no agent runs with {0}: start it with `edge-agent run`")]
    NotRunning(PathBuf),
    #[error("the agent does not answer on {path} ({source}): is it another user's, or stuck? see its log")]
    Io { path: PathBuf, source: io::Error },
    #[error("the agent answered something else ({0}): it may be of another release, restart it")]
    Answer(String),
}

/// Asks the running agent.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Reply, LocalError> {
    let broken = |source| LocalError::Io { path: socket.to_owned(), source };
    let mut stream = BlockingStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            LocalError::NotRunning(socket.parent().unwrap_or(socket).to_owned())
        }
        _ => broken(source),
    })?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(broken)?;
    let line = serde_json::to_string(request).map_err(|error| LocalError::Answer(error.to_string()))?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream.take(1 << 20)).read_line(&mut answer).map_err(broken)?;
    serde_json::from_str(&answer).map_err(|error| LocalError::Answer(error.to_string()))
}

/// Listens. The caller owns the data directory's lock, so an old socket is a dead one.
pub(crate) fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves one caller at a time: callers are people and their scripts.
pub(crate) async fn serve(listener: UnixListener, inputs: mpsc::Sender<Input>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = tokio::time::timeout(TIMEOUT, answer(stream, &inputs)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the local socket does not accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, inputs: &mpsc::Sender<Input>) -> io::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(reading.take(LINE_BYTES)).read_line(&mut line).await?;
    let reply: Reply = match serde_json::from_str::<Request>(&line) {
        Err(error) => Err(Refusal { code: "request_invalid".to_owned(), text: error.to_string() }),
        Ok(request) => {
            let (sender, receiver) = oneshot::channel();
            if inputs.send(Input::Local(request, sender)).await.is_err() {
                return Ok(());
            }
            let ended = Refusal { code: "stopping".to_owned(), text: "the agent is stopping".to_owned() };
            receiver.await.unwrap_or(Err(ended))
        }
    };
    let text = serde_json::to_string(&reply).unwrap_or_else(|_| json!(null).to_string());
    writing.write_all(format!("{text}\n").as_bytes()).await
}
