//! What goes into the core and what comes out. Everything the shells and the simulated world share with it.

use schemas::feed::{FeedEvent, PresenceEvent};
use schemas::ids::{Hash, Instance, MessageId, PaymentId, Principal, PrincipalId, TenantId};
use schemas::money::Money;
use schemas::signed::{Proven, PublicKey};
use schemas::time::Timestamp;
use schemas::topic::{Kind, Role};
use serde::{Deserialize, Serialize};

use crate::admin::{AdminCommand, AdminReply};

/// One connection of the lane: unique over restarts (boot epoch, counter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// How somebody says who they are. Whether that holds is decided from the core's state at each CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The TLS layer has verified a certificate of our authority with this subject, instance and serial number.
    Certificate {
        /// Its subject.
        principal: Principal,
        /// The enrolment that it belongs to.
        instance: Instance,
        /// Its serial number.
        serial: Vec<u8>,
    },
    /// User name and SHA-256 of the password, which is a token.
    Token {
        /// The user name.
        principal: Principal,
        /// SHA-256 of the password; the token itself goes no further than the lane.
        token_hash: Hash,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate { principal, instance, .. } => {
                write!(f, "Certificate({principal} #{instance})")
            }
            Self::Token { principal, .. } => write!(f, "Token({principal})"),
        }
    }
}

/// What comes in. Every input carries no time: the driver is told the time beside it.
#[derive(Debug, Clone)]
pub enum Input {
    /// A CONNECT. Answered by [`Output::Standing`].
    Connect {
        /// The connection.
        connection: ConnectionId,
        /// MQTT client id: tells apart several connections of a person.
        client: String,
        /// Who it says it is.
        credentials: Credentials,
    },
    /// A PUBLISH on `up/{kind}` of the connection's own principal. Answered by [`Output::Promise`].
    Publish {
        /// The connection.
        connection: ConnectionId,
        /// Returned with the promise.
        token: u64,
        /// Last level of the topic.
        kind: Kind,
        /// As it came.
        payload: Vec<u8>,
        /// Whoever has read it may have checked a signature in it.
        proven: Option<Proven>,
    },
    /// The connection subscribed (anew): open questions are offered again, and commands are asked about.
    Subscribed {
        /// The connection.
        connection: ConnectionId,
    },
    /// The connection can send more of what its principal is owed. Answered by [`Output::Owed`].
    Pull {
        /// The connection.
        connection: ConnectionId,
        /// Only entries with a greater sequence number.
        after: u64,
        /// At most so many.
        max: usize,
    },
    /// An observer's connection hears the feed from now on: [`Output::Feed`] is wanted for its tenant.
    Watch {
        /// The connection.
        connection: ConnectionId,
    },
    /// An observer asks who is there. Answered by [`Output::States`].
    States {
        /// The connection.
        connection: ConnectionId,
        /// Only this one.
        of: Option<PrincipalId>,
        /// Only those with a greater name.
        after: Option<PrincipalId>,
        /// At most so many.
        max: usize,
    },
    /// The receiver has acknowledged a message with this MQTT reason code.
    Acknowledged {
        /// The connection.
        connection: ConnectionId,
        /// Which message.
        message: MessageId,
        /// Below 0x80: it is the receiver's now. 0x97: later. Else: it refuses it for good.
        code: u8,
    },
    /// The lane refused something; to be audited.
    LaneRefused {
        /// The connection.
        connection: ConnectionId,
        /// Who, where known.
        principal: Option<Principal>,
        /// What was tried (topic, filter, CONNECT), shortened.
        what: String,
        /// Why it was refused.
        why: String,
        /// Whether the client learned it from the protocol. MQTT 3.1.1 has no codes: if not, the refusal is said on
        /// `down/refused` (correctness.md 9).
        told: bool,
    },
    /// What the connection's principal published as its own `state`, or left as its will. Volatile; may come after
    /// the end of the connection.
    State {
        /// The connection.
        connection: ConnectionId,
        /// Whose.
        principal: Principal,
        /// As it came.
        payload: Vec<u8>,
    },
    /// The connection has ended.
    Closed {
        /// The connection.
        connection: ConnectionId,
    },
    /// The bank's answer to [`Output::Bank`].
    Bank {
        /// For which payment.
        payment: PaymentId,
        /// To which call.
        call: BankCallKind,
        /// Under which key ([`BankOrder::key`]): a late answer to an earlier refund must not end a later one.
        key: [u8; 16],
        /// What it said.
        answer: BankAnswer,
    },
    /// An operator's command. Answered by [`Output::Admin`].
    Admin {
        /// Returned with the reply.
        ticket: u64,
        /// Which operator, as the shell knows them: stands beside everything that the command changes.
        by: Option<String>,
        /// The command.
        command: AdminCommand,
    },
    /// A command of an operator elsewhere, whose certificate TLS has verified. Answered by [`Output::Admin`].
    AdminBy {
        /// Returned with the reply.
        ticket: u64,
        /// Who.
        operator: Principal,
        /// The enrolment that the certificate belongs to.
        instance: Instance,
        /// The command.
        command: AdminCommand,
    },
    /// A device asks for a certificate. Answered by [`Output::Sign`] or [`Output::Enrolled`].
    Enrol {
        /// Returned with the answer.
        ticket: u64,
        /// Which device.
        principal: Principal,
        /// What allows it.
        proof: Proof,
        /// The key in its CSR, whose possession has been proved.
        public_key: PublicKey,
    },
    /// The authority has signed. Answered by [`Output::Enrolled`].
    Signed {
        /// The ticket of the enrolment.
        ticket: u64,
        /// What was signed.
        order: SignOrder,
        /// The certificate, DER.
        certificate: Vec<u8>,
    },
    /// Time has passed; [`crate::driver::Driver::next_due`] says when this is wanted.
    Tick,
}

/// What allows a device to be given a certificate (correctness.md 20).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A claim code: SHA-256 of its secret. Makes a new instance.
    Claim(Hash),
    /// Its current certificate, verified by TLS: a renewal. Instance and key stay.
    Certificate {
        /// The enrolment that it belongs to.
        instance: Instance,
        /// Its serial number. One certificate is renewed once: asked again, the answer is the same.
        serial: Vec<u8>,
    },
}

/// A certificate to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignOrder {
    /// Subject.
    pub principal: Principal,
    /// The enrolment's number, which goes into the certificate.
    pub instance: Instance,
    /// The device's key.
    pub public_key: PublicKey,
    /// What allows it.
    pub proof: Proof,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

/// Why a CONNECT was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandingRefusal {
    /// Unknown principal, wrong or expired token, wrong instance. Not told apart, so that nothing can be probed.
    BadCredentials,
    /// The device was revoked.
    Revoked,
}

/// What an outbound message is; the lane sends it as a QoS 1 PUBLISH on `down/{kind}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedMessage {
    /// Grows; a [`Input::Pull`] names the last one seen.
    pub sequence: u64,
    /// Its id, which the acknowledgement names.
    pub message: MessageId,
    /// Last level of the topic.
    pub kind: Kind,
    /// CBOR.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// Not to be delivered later than this.
    pub expires_at: Timestamp,
}

/// MQTT reason of a PUBACK that promises nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromiseRefusal {
    /// 0x87: not for this principal.
    NotAuthorized,
    /// 0x97: keep it and send it later.
    Quota,
    /// 0x99: not a message of this kind.
    PayloadInvalid,
    /// 0x83: understood, and impossible.
    Implementation,
}

impl PromiseRefusal {
    /// The MQTT 5 reason code.
    pub fn code(self) -> u8 {
        match self {
            Self::NotAuthorized => 0x87,
            Self::Quota => 0x97,
            Self::PayloadInvalid => 0x99,
            Self::Implementation => 0x83,
        }
    }
}

/// Why the core ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectReason {
    /// 0x8E: a newer connection of the same client.
    TakenOver,
    /// 0x87: the principal's standing has ended.
    Revoked,
    /// 0x98: an operator ends it.
    Administrative,
}

/// What goes out, each only after the journal position it was computed from is synced.
#[derive(Debug, Clone)]
pub enum Output {
    /// Whether this CONNECT is accepted, and as whom.
    Standing {
        /// The connection.
        connection: ConnectionId,
        /// The principal, or why not.
        result: Result<Principal, StandingRefusal>,
        /// What it is for.
        role: Role,
    },
    /// PUBACK: `Ok` is a promise.
    Promise {
        /// The connection.
        connection: ConnectionId,
        /// Of the PUBLISH.
        token: u64,
        /// Kept, or a reason of 0x80 and above.
        result: Result<(), PromiseRefusal>,
    },
    /// A volatile message on `down/{kind}` to one connection, sent only if it is subscribed.
    Reply {
        /// The connection.
        connection: ConnectionId,
        /// Last level of the topic.
        kind: Kind,
        /// CBOR.
        payload: Vec<u8>,
    },
    /// There is something new to pull.
    Wake {
        /// The connection.
        connection: ConnectionId,
    },
    /// The answer to a pull; empty if nothing is owed.
    Owed {
        /// The connection.
        connection: ConnectionId,
        /// In order of sequence.
        messages: Vec<OwedMessage>,
    },
    /// An event for the observers of a tenant. Best effort; made only while somebody watches.
    Feed {
        /// Of which tenant.
        tenant: TenantId,
        /// What happened.
        event: FeedEvent,
    },
    /// The answer to [`Input::States`].
    States {
        /// The connection.
        connection: ConnectionId,
        /// By name.
        states: Vec<PresenceEvent>,
        /// Whether there are more names after these.
        more: bool,
    },
    /// End this connection.
    Disconnect {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: DisconnectReason,
    },
    /// Ask the bank, once; the answer comes back as [`Input::Bank`].
    Bank(BankOrder),
    /// The reply to an operator.
    Admin {
        /// Of the command.
        ticket: u64,
        /// The reply.
        reply: AdminReply,
    },
    /// Sign this certificate and come back with [`Input::Signed`].
    Sign {
        /// Of the enrolment.
        ticket: u64,
        /// What to sign.
        order: SignOrder,
    },
    /// The end of an enrolment: the certificate (DER), or why not.
    Enrolled {
        /// Of the enrolment.
        ticket: u64,
        /// Certificate, or refusal.
        result: Result<Vec<u8>, crate::rejection::Rejection>,
    },
}

/// The four calls of a bank (correctness.md 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BankCallKind {
    /// Move the money, once per key.
    Transfer,
    /// What became of the transfer?
    Status,
    /// A fence: after it the transfer can never happen.
    Cancel,
    /// Give back, once per key.
    Refund,
}

/// One call to the bank of a tenant. Keys are the same in every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankOrder {
    /// Base address of the tenant's bank.
    pub bank: String,
    /// For which payment.
    pub payment: PaymentId,
    /// Which call.
    pub call: BankCallKind,
    /// Of the transfer.
    pub transfer_key: [u8; 16],
    /// Of the refund.
    pub refund_key: [u8; 16],
    /// The payer's account at the bank.
    pub from: String,
    /// The tenant's holding account at the bank.
    pub to: String,
    /// To move, or to give back.
    pub amount: Money,
    /// Later than this the bank refuses a transfer that it has not yet done.
    pub not_after: Timestamp,
}

impl BankOrder {
    /// The key of this call: a transfer's, which its status and cancel share, or a refund's own.
    pub fn key(&self) -> [u8; 16] {
        match self.call {
            BankCallKind::Transfer | BankCallKind::Status | BankCallKind::Cancel => self.transfer_key,
            BankCallKind::Refund => self.refund_key,
        }
    }
}

/// What the bank said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BankAnswer {
    /// It is done.
    Done,
    /// It refuses, for good, with its code.
    Refused(String),
    /// The transfer was fenced off.
    Cancelled,
    /// It has never heard of it.
    NotFound,
    /// No clear answer. Nobody guesses (MO-4).
    Unknown,
}
