//! Tells the demo on standard output: stories, what happens when, and who has what in the end.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Tells. Colours only on a terminal, and never where `NO_COLOR` is set.
pub(super) struct Narrator {
    coloured: bool,
    number: usize,
    began: Instant,
}

impl Narrator {
    pub(super) fn new() -> Self {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { coloured, number: 0, began: Instant::now() }
    }

    pub(super) fn title(&self, text: &str) {
        self.line(&format!("\n{}\n", self.paint("1", text)));
    }

    /// A new story; its clock starts now.
    pub(super) fn story(&mut self, title: &str, about: &str) {
        self.number += 1;
        self.began = Instant::now();
        let head = format!("{}. {title}", self.number);
        self.line(&format!("\n{}", self.paint("1;36", &head)));
        self.line(&format!("   {}", self.paint("2", about)));
    }

    /// Something happens.
    pub(super) fn tell(&self, text: &str) {
        let ms = self.began.elapsed().as_millis();
        let clock = format!("+{:>2}.{:02} s", ms / 1000, ms % 1000 / 10);
        self.line(&format!("   {}  {text}", self.paint("2", &clock)));
    }

    /// Who has what.
    pub(super) fn balances(&self, text: &str) {
        self.line(&format!("             {}", self.paint("33", text)));
    }

    /// Not part of a story.
    pub(super) fn note(&self, text: &str) {
        self.line(&format!("   {text}"));
    }

    pub(super) fn good(&self, moral: &str) {
        self.line(&format!("   {} {moral}", self.paint("1;32", "✔")));
    }

    pub(super) fn bad(&self, what: &str) {
        self.line(&format!("   {} {what}", self.paint("1;31", "✘")));
    }

    pub(super) fn end(&self, text: &str) {
        self.line(&format!("\n{}\n", self.paint("1", text)));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        // Whoever reads may have gone; the exit code still says how it ended.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
