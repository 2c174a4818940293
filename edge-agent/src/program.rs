//! Programs that a profile names: their arguments, their start, and their end.

use std::io;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{ChildStdin, Command};

/// Other people's words, for a terminal or an argument: nothing that moves a cursor or turns the line around.
pub(crate) fn plain(text: &str) -> String {
    text.chars().filter(|c| !turns(*c)).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether a terminal shows what follows in another direction (Unicode's bidirectional formatting characters).
pub(crate) fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces `{name}` where `value` knows it: in one pass, so that nothing in a guardian's note is taken for a
/// placeholder.
pub(crate) fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let named = after.split_once('}').and_then(|(name, after)| Some((value(name)?, after)));
        match named {
            Some((value, after)) => {
                filled.push_str(&plain(&value));
                rest = after;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled + rest
}

/// A running program in a process group of its own, so that its helpers end with it. Killed when dropped.
pub(crate) struct Program {
    /// As the profile names it.
    pub(crate) name: String,
    child: tokio::process::Child,
    /// None once it has ended by itself: its id may be somebody else's by then.
    group: Option<Pid>,
}

impl Program {
    /// Starts the program that `purpose` ("asks", "identifies"). `None`: it is not named, or does not start, which is
    /// logged.
    pub(crate) fn start(
        argv: &[String],
        value: impl Fn(&str) -> Option<String>,
        stdin: Stdio,
        purpose: &str,
    ) -> Option<Self> {
        let mut argv = argv.iter().map(|argument| fill(argument, &value));
        let name = argv.next()?;
        let spawned = Command::new(&name)
            .args(argv)
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn();
        match spawned {
            Ok(child) => {
                let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                Some(Self { name, child, group })
            }
            Err(error) => {
                tracing::error!(program = name, %error, "the program that {purpose} does not start: check argv in the profile");
                None
            }
        }
    }

    /// Its stdin, if it was started with a pipe; once.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Until it has ended by itself.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.group = None;
        status
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_words_move_no_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}d\u{9b}"), "a [2Jb cd ");
        assert_eq!(plain("\u{65e9}\u{996d} \u{e9}"), "\u{65e9}\u{996d} \u{e9}");
    }

    #[test]
    fn placeholders_are_filled_once_and_from_nobody_elses_words() {
        let value = |name: &str| (name == "note").then(|| "Enjoy\u{1b}[2J {payee}!".to_owned());
        assert_eq!(fill("--note={note}", value), "--note=Enjoy [2J {payee}!");
        assert_eq!(fill("{unknown} {note{ }", value), "{unknown} {note{ }");
    }
}
