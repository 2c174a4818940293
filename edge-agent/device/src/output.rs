//! What the device asks of its shell.

use schemas::ids::{CommandId, ItemId, MessageId, PaymentId, WishId};
use schemas::message::{ChildAnswer, PaymentMode, PaymentPrompt, PaymentStatus};
use schemas::money::Money;
use schemas::signed::CodeText;
use schemas::time::Timestamp;
use schemas::topic::Kind;
use schemas::wire::Text;

use crate::decide::{CodeRefusal, IssueRefusal, Issued, PromptRefusal, WishRefusal};

/// One QoS 1 delivery on one connection. The shell chooses `token`; it comes back in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    /// Which connection, counted by the shell.
    pub connection: u64,
    /// Which delivery on it.
    pub token: u64,
}

/// A prompt to be shown to the child, and no longer than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPrompt {
    /// What is asked.
    pub prompt: PaymentPrompt,
    /// The last moment at which it may be shown and answered, on the boot-time clock, in milliseconds.
    pub until_boot_ms: u64,
}

/// A code to be shown, or handed to a terminal, and no longer than that.
#[derive(Clone, PartialEq, Eq)]
pub struct ShownCode {
    /// Of which payment.
    pub payment: PaymentId,
    /// A QR code of the cloud, or a token of the device.
    pub mode: PaymentMode,
    /// How much.
    pub amount: Money,
    /// Who gets it, for the child to read.
    pub payee: Text,
    /// What is shown. Who has it may pay with it: it belongs into no log.
    pub text: CodeText,
    /// When `text` ends, in cloud time.
    pub expires_at: Timestamp,
    /// The last moment at which it may be shown, on the boot-time clock, in milliseconds.
    pub until_boot_ms: u64,
}

impl std::fmt::Debug for ShownCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ShownCode");
        shown.field("payment", &self.payment).field("mode", &self.mode).field("amount", &self.amount);
        shown.field("expires_at", &self.expires_at).field("until_boot_ms", &self.until_boot_ms);
        shown.finish_non_exhaustive()
    }
}

/// An effect, in the order in which it must happen. PUBACKs leave in the order of arrival (correctness.md 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// PUBACK: it is on disk and will be acted on.
    Acknowledge {
        /// Which delivery.
        delivery: Delivery,
    },
    /// PUBACK with a reason code >= 0x80: not accepted, and nothing remembered of it.
    RefuseDelivery {
        /// Which delivery.
        delivery: Delivery,
        /// 0x97 (quota): send it again later.
        reason: u8,
    },
    /// A QoS 1 publish from the spool; tell the PUBACK to `handle_published`.
    Publish {
        /// On this connection only.
        connection: u64,
        /// Its id.
        message: MessageId,
        /// Last level of the topic.
        kind: Kind,
        /// The encoded envelope.
        payload: Vec<u8>,
    },
    /// A QoS 0 publish without promise: the question for cloud time.
    Ask {
        /// On this connection only.
        connection: u64,
        /// Last level of the topic.
        kind: Kind,
        /// The encoded envelope.
        payload: Vec<u8>,
    },
    /// Close this connection and make a new one: a PUBACK did not come in time.
    Reconnect {
        /// Which connection.
        connection: u64,
    },
    /// Act, once. Tell the result to `handle_hardware`.
    Act {
        /// Which command.
        command: CommandId,
        /// What to deliver.
        item: ItemId,
        /// How many units.
        quantity: u32,
    },
    /// The answer to `handle_issue_request`.
    Issued {
        /// Of the request.
        ticket: u64,
        /// The payment information, or why there is none.
        result: Result<Issued, IssueRefusal>,
    },
    /// Show this prompt in place of what is shown now; none: show no prompt (PC-3).
    Prompt {
        /// The oldest one that may be answered.
        shown: Option<ShownPrompt>,
    },
    /// The answer to `handle_prompt_answer`.
    PromptAnswered {
        /// Of the request.
        ticket: u64,
        /// Which payment.
        payment: PaymentId,
        /// What the child said.
        answer: ChildAnswer,
        /// It is on disk and will be told to the cloud; or it changes nothing.
        result: Result<(), PromptRefusal>,
    },
    /// Show this code in place of what is shown now; none: show no code (PC-6, PC-7, PC-9).
    Code {
        /// The one that the child asked for, or the oldest one that is shown at once.
        shown: Option<ShownCode>,
    },
    /// The answer to `handle_code_request`.
    CodeAnswered {
        /// Of the request.
        ticket: u64,
        /// Which payment.
        payment: PaymentId,
        /// It is shown; or why not.
        result: Result<ShownCode, CodeRefusal>,
    },
    /// The answer to `handle_wish` and `handle_wish_withdraw`.
    WishMade {
        /// Of the request.
        ticket: u64,
        /// It is on disk and will be told to the cloud; or it changes nothing.
        result: Result<WishId, WishRefusal>,
    },
    /// A payment changed its state: for a display.
    Show {
        /// As the cloud told it.
        status: PaymentStatus,
    },
}

impl Output {
    /// On which connection it has its effect, if on one.
    pub(crate) fn connection(&self) -> Option<u64> {
        match self {
            Output::Acknowledge { delivery } | Output::RefuseDelivery { delivery, .. } => {
                Some(delivery.connection)
            }
            Output::Publish { connection, .. }
            | Output::Ask { connection, .. }
            | Output::Reconnect { connection } => Some(*connection),
            Output::Act { .. }
            | Output::Issued { .. }
            | Output::Prompt { .. }
            | Output::PromptAnswered { .. }
            | Output::Code { .. }
            | Output::CodeAnswered { .. }
            | Output::WishMade { .. }
            | Output::Show { .. } => None,
        }
    }
}
