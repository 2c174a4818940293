//! A failure as people and programs see it.

use std::process::ExitCode;

use crate::agent::{AgentError, StorageError};
use crate::code::PictureError;
use crate::config::ConfigError;
use crate::connection::EndpointError;
use crate::driver::DriverError;
use crate::enrolment::{EnrolError, IdentityError};
use crate::local::{LocalError, Refusal};
use crate::message::MessageError;
use crate::panel::PanelError;
use crate::position::PositionError;
use crate::renewal::RenewalError;

/// What failed, why and what to do; a stable code; an exit code from the list in the help.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: u8,
    code: String,
    text: String,
}

impl Failure {
    pub(crate) fn failed(code: &str, text: impl Into<String>) -> Self {
        Self::new(1, code, text)
    }

    pub(crate) fn configuration(code: &str, text: impl Into<String>) -> Self {
        Self::new(4, code, text)
    }

    /// As the agent itself would refuse.
    pub(super) fn refused(code: &str, text: impl Into<String>) -> Self {
        Self::new(6, code, text)
    }

    /// The cloud was not reached, or did not answer.
    pub(super) fn unreached(code: &str, text: impl Into<String>) -> Self {
        Self::new(5, code, text)
    }

    fn new(exit: u8, code: &str, text: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), text: text.into() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// On stderr: a failure is never taken for an answer.
    pub(super) fn report(&self, json: bool) -> ExitCode {
        if json {
            eprintln!("{}", serde_json::json!({ "error": self.code, "text": self.text, "exit": self.exit }));
        } else {
            eprintln!("edge-agent: {}", self.text);
        }
        ExitCode::from(self.exit)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::configuration("configuration_invalid", error.to_string())
    }
}
impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        Self::configuration("broker_invalid", error.to_string())
    }
}
impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Self::configuration("driver_invalid", error.to_string())
    }
}
impl From<PanelError> for Failure {
    fn from(error: PanelError) -> Self {
        Self::configuration("display_invalid", error.to_string())
    }
}
impl From<PositionError> for Failure {
    fn from(error: PositionError) -> Self {
        Self::configuration("position_invalid", error.to_string())
    }
}
impl From<PictureError> for Failure {
    fn from(error: PictureError) -> Self {
        let code = match error {
            PictureError::Make(_) => "qr_failed",
            PictureError::Read(_) | PictureError::Nothing => "code_unreadable",
        };
        Self::failed(code, error.to_string())
    }
}
impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::configuration("identity_invalid", error.to_string())
    }
}
impl From<rustls::Error> for Failure {
    fn from(error: rustls::Error) -> Self {
        let text = format!("the identity can't be used for TLS ({error}): enrol the device again");
        Self::configuration("identity_invalid", text)
    }
}
impl From<getrandom::Error> for Failure {
    fn from(error: getrandom::Error) -> Self {
        Self::failed("no_random", format!("the system has no random generator: {error}"))
    }
}
impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        Self::failed(error.code(), error.to_string())
    }
}
impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        let code = match error {
            LocalError::NotRunning(_) => "agent_not_running",
            LocalError::Io { .. } | LocalError::Answer(_) => "agent_unreachable",
        };
        Self::new(5, code, error.to_string())
    }
}
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(6, &refusal.code, refusal.text)
    }
}
impl From<EnrolError> for Failure {
    fn from(error: EnrolError) -> Self {
        let (exit, code) = match &error {
            EnrolError::Refused { code, .. } | EnrolError::Unavailable { code, .. } => (6, code.clone()),
            EnrolError::Address(_) => (2, "address_invalid".to_owned()),
            EnrolError::Ended { .. } => (4, "certificate_ended".to_owned()),
            EnrolError::Key(_) => (4, "identity_invalid".to_owned()),
            _ => (5, "platform_unreachable".to_owned()),
        };
        Self::new(exit, &code, error.to_string())
    }
}
impl From<RenewalError> for Failure {
    fn from(error: RenewalError) -> Self {
        match error {
            RenewalError::Enrol(error) => error.into(),
            RenewalError::Identity(error) => error.into(),
            error @ RenewalError::NotEnrolled => Self::configuration("not_enrolled", error.to_string()),
            error @ RenewalError::NotTaken(_) => Self::new(5, "certificate_not_taken", error.to_string()),
        }
    }
}
impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::Disk(schemas_journal::FileDiskError::InUse { .. }) => {
                Self::new(3, "data_in_use", error.to_string())
            }
            _ => Self::new(7, "journal_failed", error.to_string()),
        }
    }
}
impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Storage(error) => error.into(),
            AgentError::Panel(error) => error.into(),
            other => Self::failed("agent_failed", other.to_string()),
        }
    }
}
