//! What a piggy bank has around its prompts: a receiver for its position, something that shows codes, something that
//! tells the child from others.

use serde::Deserialize;

/// Where the position comes from (PC-3, PC-9).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PositionSettings {
    /// Nowhere: then no code is shown that is checked for its place.
    #[default]
    None,
    /// gpsd, which knows most receivers.
    Gpsd {
        /// `host:port`.
        #[serde(default = "default_gpsd")]
        address: String,
        /// Whether it may be on another machine: what comes from there is neither secret nor signed.
        #[serde(default)]
        remote: bool,
    },
    /// A file with `{"latitude": 52.52, "longitude": 13.405, "accuracy_m": 10}`, in degrees: for what never moves, and
    /// for tests.
    File {
        /// Its path; as long as there is none the position is unknown.
        path: String,
    },
}

fn default_gpsd() -> String {
    "127.0.0.1:2947".to_owned()
}

/// How codes are presented.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeRules {
    /// What shows them.
    #[serde(default)]
    pub display: CodeDisplay,
}

/// What shows a code, or hands it to a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CodeDisplay {
    /// Nothing: `edge-agent code show` does, when the child asks.
    None,
    /// Where prompts are shown, if that is a screen.
    #[default]
    Screen,
    /// A program per code, killed when the code ends; the code's text is on its stdin. For a projector, a display of its
    /// own, or a radio that hands a token to the terminal.
    Process {
        /// Program and arguments; `{payment}`, `{mode}`, `{amount}`, `{payee}` and `{expires_at}` are replaced within an
        /// argument.
        argv: Vec<String>,
    },
    /// A PNG picture that is there as long as the code is shown.
    File {
        /// Its path.
        path: String,
    },
}

/// How a piggy bank makes sure that it is the child who says yes (PC-16).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum IdentitySettings {
    /// It can't: the cloud is told so, and refuses the payment.
    #[default]
    None,
    /// A program, for instance of a fingerprint reader. Exit code 20: it is the child; anything else (0 too): it is not.
    Process {
        /// Program and arguments; `{payment}` and `{child}` are replaced within an argument.
        argv: Vec<String>,
        /// The program is killed after this, and it is not the child.
        #[serde(default = "default_timeout_ms")]
        timeout_ms: u64,
    },
}

fn default_timeout_ms() -> u64 {
    30_000
}

impl CodeRules {
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.display {
            CodeDisplay::Process { argv } if argv.is_empty() => {
                Err("argv of [code.display] names the program to run".into())
            }
            CodeDisplay::File { path } if path.is_empty() => {
                Err("path of [code.display] names the picture to write".into())
            }
            _ => Ok(()),
        }
    }
}

impl PositionSettings {
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            PositionSettings::File { path } if path.is_empty() => {
                Err("path of [position] names the file to read".into())
            }
            _ => Ok(()),
        }
    }
}

impl IdentitySettings {
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            IdentitySettings::Process { argv, .. } if argv.is_empty() => {
                Err("argv of [identity] names the program to run".into())
            }
            IdentitySettings::Process { timeout_ms, .. } if !(1_000..=300_000).contains(timeout_ms) => {
                Err("timeout_ms of [identity] is 1000 to 300000".into())
            }
            _ => Ok(()),
        }
    }
}
