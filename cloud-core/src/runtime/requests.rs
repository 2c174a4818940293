//! What the shells around the core ask of it, and how they wait for the answer.

use cloud_core_flows::admin::{AdminCommand, AdminReply};
use cloud_core_flows::port::{BankAnswer, BankOrder, Proof, SignOrder};
use cloud_core_flows::rejection::Rejection;
use schemas::ids::{Instance, Principal};
use schemas::signed::PublicKey;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait; then those who ask have to.
const CAPACITY: usize = 1024;

/// The core has ended, or could not do it; nothing was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the core is stopping: ask again when it has started")]
pub(crate) struct Stopped;

/// Asks the core. Clones ask the same one.
#[derive(Debug, Clone)]
pub(crate) struct Requests(mpsc::Sender<Request>);

#[derive(Debug)]
pub(super) enum Request {
    Admin { by: Asker, command: AdminCommand, reply: oneshot::Sender<AdminReply> },
    Enrol(EnrolTicket),
    Bank { order: BankOrder, answer: BankAnswer },
    Signed { ticket: u64, order: SignOrder, certificate: Vec<u8> },
    NotSigned { ticket: u64 },
    Stop,
}

/// Who gives a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Whoever may open the local socket: a user of this machine.
    Local { uid: u32 },
    /// An operator elsewhere, by certificate.
    Operator { operator: Principal, instance: Instance },
}

/// A device that waits for its certificate.
#[derive(Debug)]
pub(crate) struct EnrolTicket {
    pub(crate) principal: Principal,
    pub(crate) proof: Proof,
    pub(crate) public_key: PublicKey,
    pub(crate) csr_der: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Result<Vec<u8>, Rejection>>,
}

impl Requests {
    pub(super) fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        (Self(sender), receiver)
    }

    /// An operator's command; returns when its effects are on disk.
    pub(crate) async fn admin(&self, by: Asker, command: AdminCommand) -> Result<AdminReply, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Admin { by, command, reply }).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// A device's request for a certificate; the reply travels through its ticket.
    pub(crate) async fn enrol(&self, ticket: EnrolTicket) -> Result<(), Stopped> {
        self.send(Request::Enrol(ticket)).await
    }

    /// What the bank said.
    pub(super) async fn bank(&self, order: BankOrder, answer: BankAnswer) -> Result<(), Stopped> {
        self.send(Request::Bank { order, answer }).await
    }

    /// Finish what has arrived, sync, release, end.
    pub(crate) async fn stop(&self) -> Result<(), Stopped> {
        self.send(Request::Stop).await
    }

    /// From a blocking thread. If the core has ended, nobody waits for it.
    pub(super) fn send_blocking(&self, request: Request) {
        let _ = self.0.blocking_send(request);
    }

    async fn send(&self, request: Request) -> Result<(), Stopped> {
        self.0.send(request).await.map_err(|_| Stopped)
    }
}
