//! A program per prompt.

use std::process::Stdio;

use schemas::ids::PaymentId;
use schemas::message::{ChildAnswer, PaymentPrompt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Shown;
use crate::agent::Input;
use crate::program::Program;

/// Exit codes. Anything else is no answer.
const CONFIRM: i32 = 20;
const REJECT: i32 = 21;

/// Starts a program when a prompt appears and kills it when the prompt ends.
#[derive(Debug)]
pub(super) struct Programs {
    argv: Vec<String>,
    inputs: mpsc::Sender<Input>,
    running: Option<(PaymentId, AbortHandle)>,
}

impl Programs {
    pub(super) fn new(argv: Vec<String>, inputs: mpsc::Sender<Input>) -> Self {
        Self { argv, inputs, running: None }
    }

    pub(super) fn show(&mut self, shown: Option<&Shown>) {
        let payment = shown.map(|shown| shown.prompt.prompt.payment);
        if payment == self.running.as_ref().map(|(running, _)| *running) {
            return;
        }
        self.end();
        let Some(shown) = shown else { return };
        let (prompt, argv, inputs) = (shown.prompt.prompt.clone(), self.argv.clone(), self.inputs.clone());
        let payment = prompt.payment;
        let task = tokio::spawn(async move {
            if let Some(answer) = ask(&argv, &prompt).await {
                let _ = inputs.send(Input::Child { payment, answer }).await;
            }
        });
        self.running = Some((payment, task.abort_handle()));
    }

    fn end(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        self.end();
    }
}

/// The program's answer, if it gives one. Dropping this kills it.
async fn ask(argv: &[String], prompt: &PaymentPrompt) -> Option<ChildAnswer> {
    let mut program = Program::start(argv, |name| value(name, prompt), Stdio::null(), "asks")?;
    match program.wait().await.ok()?.code() {
        // Not 0: that is how a window ends that somebody has closed, or a program that was asked for its version.
        Some(CONFIRM) => Some(ChildAnswer::Confirm),
        Some(REJECT) => Some(ChildAnswer::Reject),
        code => {
            tracing::warn!(program = program.name, ?code, "the program that asks ended without an answer");
            None
        }
    }
}

fn value(name: &str, prompt: &PaymentPrompt) -> Option<String> {
    Some(match name {
        "payment" => prompt.payment.to_string(),
        "amount" => prompt.amount.to_string(),
        "payee" => prompt.payee.to_string(),
        "note" => prompt.note.as_ref().map(ToString::to_string).unwrap_or_default(),
        "categories" => prompt.categories.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(","),
        "child" => prompt.child.to_string(),
        "guardian" => prompt.guardian.to_string(),
        "answer_by" => prompt.answer_by.to_string(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::tests::shown;
    use super::*;
    use crate::program::fill;

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script, "ask", "{payment}", "{amount} {categories}"].map(str::to_owned).to_vec()
    }

    /// PC-3
    #[tokio::test]
    async fn exit_codes_are_answers() {
        let prompt = shown(1, 0).prompt.prompt;
        for (script, expected) in [
            ("test \"$2\" = '2.50 EUR lunch,sweets' && exit 20", Some(ChildAnswer::Confirm)),
            ("exit 21", Some(ChildAnswer::Reject)),
            ("exit 0", None),
            ("exit 1", None),
            ("kill -9 $$", None),
        ] {
            assert_eq!(ask(&sh(script), &prompt).await, expected, "{script}");
        }
        assert_eq!(ask(&["/no/such".to_owned()], &prompt).await, None);
    }

    #[test]
    fn placeholders_are_filled_once_and_from_nobody_elses_words() {
        let prompt = shown(1, 0).prompt.prompt;
        let fill = |template| fill(template, |name| value(name, &prompt));
        assert_eq!(fill("--note={note}"), "--note=Enjoy [2J {payee}!");
        assert_eq!(fill("{child}<{guardian} {payee}{"), "mia<dad Canteen{");
        assert_eq!(fill("{unknown} {amount} }"), "{unknown} 2.50 EUR }");
    }

    /// The program of a prompt that ends is killed, with its helpers.
    #[tokio::test]
    async fn the_program_ends_with_its_prompt() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("alive");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let script = format!("exec 3>'{}'; echo up >&3; sleep 1000", fifo.display());
        let (inputs, _receiver) = mpsc::channel(1);
        let mut programs = Programs::new(sh(&script), inputs);
        programs.show(Some(&shown(1, 0)));
        let mut helper = tokio::task::spawn_blocking(move || {
            let mut helper = std::fs::File::open(fifo).unwrap();
            let mut said = [0; 3];
            helper.read_exact(&mut said).unwrap();
            assert_eq!(&said, b"up\n");
            helper
        })
        .await
        .unwrap();
        programs.show(Some(&shown(1, 0)));
        programs.show(None);
        // Ends when nobody holds the other end any more: the shell is gone, and its `sleep`.
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = vec![];
            helper.read_to_end(&mut rest).map(|_| rest)
        });
        assert_eq!(rest.await.unwrap().unwrap(), b"", "one program for one prompt");
    }
}
