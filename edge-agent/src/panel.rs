//! What asks the child (PC-3): a display, which may take answers itself, and buttons beside it. Both know only the
//! [`View`] that the agent gives them, and answer only the prompt in it.

mod buttons;
mod process;
mod screen;
mod wish;

use std::io::{self, IsTerminal};

use edge_agent_device::{
    DisplaySettings, ListedWish, OpenCode, PromptResult, PromptRules, ShownCode, ShownPrompt,
};
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;
use schemas::ids::PaymentId;
use schemas::message::{ChildAnswer, ChildView};
use tokio::sync::{mpsc, watch};

use crate::agent::Input;
pub(crate) use crate::program::plain;
use process::Programs;
use screen::Screen;
pub(crate) use screen::{outcome, purse};
pub(crate) use wish::wish_standing;

/// Why prompts can't be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PanelError {
    #[error(
        "prompts are shown in the terminal, and this is none: start the agent in a terminal, or with --display none \
         and answer with `edge-agent prompt`"
    )]
    NoTerminal,
    #[error("`{0}` is no display: write `auto`, `screen` or `none`, or leave it to the profile")]
    Unknown(String),
    #[error("the terminal can't be used ({0}): try another one, or --display none")]
    Terminal(io::Error),
    #[error("the system refuses a thread: {0}")]
    Thread(io::Error),
}

/// Everything that there is to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// `tenant/name` of the piggy bank.
    pub(crate) principal: String,
    pub(crate) connected: bool,
    pub(crate) knows_time: bool,
    pub(crate) shown: Option<Shown>,
    /// Prompts behind the shown one.
    pub(crate) more: usize,
    pub(crate) results: Vec<PromptResult>,
    /// The code to be shown here.
    pub(crate) code: Option<ShownCode>,
    /// Codes with which the child may pay.
    pub(crate) codes: Vec<OpenCode>,
    /// When all this was so.
    pub(crate) as_of_boot_ms: u64,
    /// What the child has and can look forward to.
    pub(crate) child: Option<ChildView>,
    /// What it has wished for.
    pub(crate) wishes: Vec<ListedWish>,
    /// Why the last answer changed nothing.
    pub(crate) notice: Option<String>,
}

/// A prompt, and since when it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) prompt: ShownPrompt,
    pub(crate) since_boot_ms: u64,
}

/// The configured hardware, checked, not begun.
#[derive(Debug)]
pub(crate) struct PanelSettings(PromptRules);

impl PanelSettings {
    /// `display` replaces the profile's.
    pub(crate) fn open(rules: &PromptRules, display: Option<&str>) -> Result<Self, PanelError> {
        let display = chosen(rules, display)?;
        Ok(Self(PromptRules { display, ..rules.clone() }))
    }

    /// Begins to show. Answers come as [`Input::Child`].
    pub(crate) fn start(self, inputs: &mpsc::Sender<Input>) -> Result<Panel, PanelError> {
        let (view, seen) = watch::channel(View::default());
        let rules = self.0;
        let keys = |seen: watch::Receiver<View>| Keys {
            seen,
            quiet_ms: rules.quiet_ms,
            last_boot_ms: 0,
            drawn: None,
            inputs: inputs.clone(),
        };
        if let Some(settings) = rules.buttons.clone() {
            buttons::start(settings, keys(seen.clone())).map_err(PanelError::Thread)?;
        }
        let display = match rules.display.clone() {
            DisplaySettings::None | DisplaySettings::Auto => Display::None,
            DisplaySettings::Screen => Display::Screen(Screen::start(keys(seen))?),
            DisplaySettings::Process { argv } => Display::Process(Programs::new(argv, inputs.clone())),
        };
        Ok(Panel { view, display })
    }
}

/// Whether the agent will draw on its terminal.
pub(crate) fn draws(rules: &PromptRules, display: Option<&str>) -> bool {
    matches!(chosen(rules, display), Ok(DisplaySettings::Screen))
}

fn chosen(rules: &PromptRules, display: Option<&str>) -> Result<DisplaySettings, PanelError> {
    let wanted = match display {
        None => rules.display.clone(),
        Some("none") => DisplaySettings::None,
        Some("auto") => DisplaySettings::Auto,
        Some("screen") => DisplaySettings::Screen,
        Some(other) => return Err(PanelError::Unknown(other.to_owned())),
    };
    let is_terminal = has_terminal();
    match wanted {
        DisplaySettings::Auto if is_terminal => Ok(DisplaySettings::Screen),
        DisplaySettings::Auto => Ok(DisplaySettings::None),
        DisplaySettings::Screen if !is_terminal => Err(PanelError::NoTerminal),
        other => Ok(other),
    }
}

/// Started in the foreground of one: what runs behind somebody's back may not read keys.
fn has_terminal() -> bool {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let foreground = || tcgetpgrp(&stdin).is_ok_and(|group| group == getpgrp());
    stdin.is_terminal() && stdout.is_terminal() && foreground()
}

/// The hardware at work. Dropping it gives the terminal back and ends the program of a prompt.
#[derive(Debug)]
pub(crate) struct Panel {
    view: watch::Sender<View>,
    display: Display,
}

#[derive(Debug)]
enum Display {
    None,
    Screen(#[allow(dead_code, reason = "its end gives the terminal back")] Screen),
    Process(Programs),
}

impl Panel {
    pub(crate) fn show(&mut self, view: View) {
        if let Display::Process(programs) = &mut self.display {
            programs.show(view.shown.as_ref());
        }
        self.view.send_if_modified(|seen| {
            let changed = *seen != view;
            *seen = view;
            changed
        });
    }
}

/// Presses of keys and buttons, made into answers to the prompt that is shown.
#[derive(Debug)]
struct Keys {
    seen: watch::Receiver<View>,
    quiet_ms: u64,
    last_boot_ms: u64,
    /// Of a screen: what it has drawn, and since when. A press means what somebody could see.
    drawn: Option<(Option<PaymentId>, u64)>,
    inputs: mpsc::Sender<Input>,
}

impl Keys {
    fn view(&self) -> View {
        self.seen.borrow().clone()
    }

    /// False when the agent has ended.
    fn press(&mut self, answer: ChildAnswer, now_boot_ms: u64) -> bool {
        match self.counts(now_boot_ms) {
            Some(payment) => self.inputs.blocking_send(Input::Child { payment, answer }).is_ok(),
            None => !self.inputs.is_closed(),
        }
    }

    /// A screen has drawn this.
    fn drawn(&mut self, view: &View, now_boot_ms: u64) {
        let payment = view.shown.as_ref().map(|shown| shown.prompt.prompt.payment);
        if self.drawn.map(|(drawn, _)| drawn) != Some(payment) {
            self.drawn = Some((payment, now_boot_ms));
        }
    }

    /// The child wants to pay with a code.
    fn ask_for_code(&self) {
        let _ = self.inputs.blocking_send(Input::AskForCode);
    }

    fn quit(&self) {
        // An agent that is gone needs no telling.
        let _ = self.inputs.blocking_send(Input::Quit);
    }

    /// Which payment a press is about: the shown one, if it was to be seen long enough and no press came just before.
    /// A finger that rests on a key, or presses it twice, answers no second prompt.
    fn counts(&mut self, now_boot_ms: u64) -> Option<PaymentId> {
        let before_boot_ms = std::mem::replace(&mut self.last_boot_ms, now_boot_ms);
        let view = self.seen.borrow();
        let shown = view.shown.as_ref()?;
        let since_boot_ms = match self.drawn {
            None => shown.since_boot_ms,
            Some((drawn, _)) if drawn != Some(shown.prompt.prompt.payment) => return None,
            Some((_, since_boot_ms)) => since_boot_ms,
        };
        let quiet_since_boot_ms = before_boot_ms.max(since_boot_ms);
        let counts = now_boot_ms.saturating_sub(quiet_since_boot_ms) >= self.quiet_ms
            && now_boot_ms <= shown.prompt.until_boot_ms;
        counts.then_some(shown.prompt.prompt.payment)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use schemas::message::{Categories, PaymentPrompt};
    use schemas::time::Timestamp;
    use schemas::wire::Text;

    use super::*;

    pub(crate) fn shown(number: u8, since_boot_ms: u64) -> Shown {
        let prompt = PaymentPrompt {
            payment: PaymentId([number; 16]),
            child: "mia".parse().unwrap(),
            guardian: "dad".parse().unwrap(),
            payee: Text::new("Canteen"),
            amount: "2.50 EUR".parse().unwrap(),
            ordered: "3.00 EUR".parse().unwrap(),
            categories: Categories::new(vec!["lunch".parse().unwrap(), "sweets".parse().unwrap()]).unwrap(),
            note: Some(Text::new("Enjoy\u{1b}[2J {payee}!\u{202e}")),
            answer_by: Timestamp(1_795_000_060_000),
            mode: None,
            identify: None,
        };
        Shown { prompt: ShownPrompt { prompt, until_boot_ms: 60_000 }, since_boot_ms }
    }

    /// PC-3: held or double presses answer one prompt; so does nothing that comes too late.
    #[test]
    fn a_press_counts_after_a_quiet_time_and_until_the_end() {
        let (view, seen) = watch::channel(View::default());
        let (inputs, _receiver) = mpsc::channel(1);
        let mut keys = Keys { seen, quiet_ms: 500, last_boot_ms: 0, drawn: None, inputs };
        assert_eq!(keys.counts(900), None, "nothing is asked");
        view.send_modify(|view| view.shown = Some(shown(1, 1_000)));
        for (at, counts) in [(1_499, false), (1_998, false), (2_498, true), (2_500, false), (3_000, true)] {
            assert_eq!(keys.counts(at).is_some(), counts, "at {at}");
        }
        view.send_modify(|view| view.shown = Some(shown(2, 3_100)));
        assert_eq!(keys.counts(3_550), None, "it has just come");
        assert_eq!(keys.counts(60_000), Some(PaymentId([2; 16])));
        assert_eq!(keys.counts(60_501), None, "its time is over");
    }
}
