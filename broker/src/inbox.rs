//! From the core to each connection, without the core ever waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use broker_session::{ConnectRefusal, ConnectionId, DisconnectReason, Owed, Promise, PublishToken, Session};
use schemas::ids::Principal;
use schemas::topic::Kind;
use tokio::sync::Notify;

use crate::api::FromCore;

/// What waits for one connection.
#[derive(Debug)]
pub(crate) struct Inbox {
    max_messages: usize,
    waiting: Mutex<Waiting>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    wake: bool,
    disconnect: Option<DisconnectReason>,
}

#[derive(Debug)]
enum Message {
    Standing(Result<Principal, ConnectRefusal>),
    Promise(PublishToken, Promise),
    Owed(Vec<Owed>),
    Reply(Kind, Vec<u8>),
}

impl Inbox {
    pub(crate) fn new(max_messages: usize) -> Self {
        Self { max_messages, waiting: Mutex::default(), notify: Notify::new() }
    }

    /// Until something is there.
    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Ends the connection. The first reason counts.
    pub(crate) fn disconnect(&self, reason: DisconnectReason) {
        self.locked().disconnect.get_or_insert(reason);
        self.notify.notify_one();
    }

    /// Hands over everything that waits.
    pub(crate) fn drain_into(&self, session: &mut Session, now_ms: u64) {
        let Waiting { messages, wake, disconnect } = std::mem::take(&mut *self.locked());
        for message in messages {
            match message {
                Message::Standing(standing) => session.handle_standing(now_ms, standing),
                Message::Promise(token, promise) => session.handle_promise(token, promise),
                Message::Owed(entries) => session.handle_owed(now_ms, entries),
                Message::Reply(kind, payload) => session.handle_reply(kind, payload),
            }
        }
        if wake {
            session.handle_wake();
        }
        if let Some(reason) = disconnect {
            session.handle_disconnect(reason);
        }
    }

    fn push(&self, message: Message) {
        let mut waiting = self.locked();
        if waiting.messages.len() < self.max_messages {
            waiting.messages.push_back(message);
        } else {
            waiting.disconnect.get_or_insert(DisconnectReason::ServerBusy);
        }
        drop(waiting);
        self.notify.notify_one();
    }

    fn wake(&self) {
        self.locked().wake = true;
        self.notify.notify_one();
    }

    /// A panic elsewhere leaves nothing half done here, so poison means nothing.
    fn locked(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The inboxes of all connections.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<HashMap<ConnectionId, Arc<Inbox>>>);

impl Registry {
    pub(crate) fn insert(&self, connection: ConnectionId, inbox: Arc<Inbox>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(connection, inbox);
    }

    pub(crate) fn remove(&self, connection: ConnectionId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    }

    /// Routes each message. Never blocks on a connection.
    pub(crate) fn deliver(&self, messages: impl IntoIterator<Item = FromCore>) {
        let inboxes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            let connection = match &message {
                FromCore::Standing { connection, .. }
                | FromCore::Promise { connection, .. }
                | FromCore::Owed { connection, .. }
                | FromCore::Reply { connection, .. }
                | FromCore::Wake { connection }
                | FromCore::Disconnect { connection, .. } => connection,
            };
            let Some(inbox) = inboxes.get(connection) else { continue };
            match message {
                FromCore::Standing { result, .. } => inbox.push(Message::Standing(result)),
                FromCore::Promise { token, promise, .. } => inbox.push(Message::Promise(token, promise)),
                FromCore::Owed { entries, .. } => inbox.push(Message::Owed(entries)),
                FromCore::Reply { kind, payload, .. } => inbox.push(Message::Reply(kind, payload)),
                FromCore::Wake { .. } => inbox.wake(),
                FromCore::Disconnect { reason, .. } => inbox.disconnect(reason),
            }
        }
    }

    /// Ends every connection.
    pub(crate) fn disconnect_all(&self, reason: &DisconnectReason) {
        for inbox in self.0.read().unwrap_or_else(PoisonError::into_inner).values() {
            inbox.disconnect(reason.clone());
        }
    }
}
