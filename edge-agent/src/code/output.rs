//! The hardware that shows a code beside the screen: a program, or a picture in a file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use edge_agent_device::{CodeDisplay, ShownCode};
use schemas::signed::CodeText;
use tokio::io::AsyncWriteExt;
use tokio::task::AbortHandle;

use super::as_png;
use crate::program::Program;

/// What shows codes. Its end takes the code away.
#[derive(Debug)]
pub(crate) enum Presenter {
    /// The screen of prompts, or nothing.
    None,
    /// A program per code.
    Process { argv: Vec<String>, running: Option<(CodeText, AbortHandle)> },
    /// A picture.
    File { path: PathBuf, shown: Option<CodeText> },
}

impl Presenter {
    pub(crate) fn open(settings: &CodeDisplay) -> Self {
        match settings {
            CodeDisplay::None | CodeDisplay::Screen => Presenter::None,
            CodeDisplay::Process { argv } => Presenter::Process { argv: argv.clone(), running: None },
            CodeDisplay::File { path } => {
                // Of a life that had no time to take it away.
                let path = PathBuf::from(path);
                remove(&path);
                Presenter::File { path, shown: None }
            }
        }
    }

    /// Shows this in place of what it shows now.
    pub(crate) fn show(&mut self, next: Option<&ShownCode>) {
        match self {
            Presenter::None => {}
            Presenter::Process { argv, running } => {
                if next.map(|next| &next.text) == running.as_ref().map(|(text, _)| text) {
                    return;
                }
                if let Some((_, task)) = running.take() {
                    task.abort();
                }
                *running = next.map(|next| {
                    let task = tokio::spawn(present(argv.clone(), next.clone()));
                    (next.text.clone(), task.abort_handle())
                });
            }
            Presenter::File { path, shown } => {
                if next.map(|next| &next.text) == shown.as_ref() {
                    return;
                }
                *shown = next.map(|next| next.text.clone());
                match next {
                    None => remove(path),
                    Some(next) => {
                        let written = as_png(next.text.as_str()).map_err(io::Error::other);
                        if let Err(error) = written.and_then(|bytes| replace(path, &bytes)) {
                            tracing::error!(path = %path.display(), %error, "the picture of the code can't be written");
                        }
                    }
                }
            }
        }
    }
}

impl Drop for Presenter {
    fn drop(&mut self) {
        self.show(None);
    }
}

/// Whole or not at all, and for this user only: who has it may pay with it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(path = %path.display(), %error, "the picture of a code that is over can't be removed");
        }
        _ => {}
    }
}

/// Runs the program with the code on its stdin. Dropping this kills it.
async fn present(argv: Vec<String>, shown: ShownCode) {
    let started = Program::start(&argv, |name| value(name, &shown), Stdio::piped(), "shows codes");
    let Some(mut program) = started else { return };
    if let Some(mut stdin) = program.take_stdin() {
        // A program that does not read it has no use for it.
        let _ = stdin.write_all(format!("{}\n", shown.text).as_bytes()).await;
    }
    let status = program.wait().await;
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        tracing::warn!(program = program.name, ?status, "the program that shows codes failed");
    }
}

fn value(name: &str, shown: &ShownCode) -> Option<String> {
    Some(match name {
        "payment" => shown.payment.to_string(),
        "mode" => shown.mode.to_string(),
        "amount" => shown.amount.to_string(),
        "payee" => shown.payee.to_string(),
        "expires_at" => shown.expires_at.to_string(),
        _ => return None,
    })
}
