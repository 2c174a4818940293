//! From the core to each connection, without the core ever waiting.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use broker_session::{
    ConnectRefusal, ConnectionId, DisconnectReason, Owed, Promise, PublishToken, Qos, Session,
};
use schemas::feed::PresenceEvent;
use schemas::ids::Principal;
use schemas::topic::{Kind, Role, Topic};
use tokio::sync::{Notify, oneshot};

use crate::api::FromCore;
use crate::sessions::{Facts, SessionDetails, SessionRow};
use crate::tap::Tap;

/// What waits for one connection.
#[derive(Debug)]
pub(crate) struct Inbox {
    max_messages: usize,
    waiting: Mutex<Waiting>,
    notify: Notify,
    /// What operators are told of the connection.
    pub(crate) facts: Facts,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    wake: bool,
    disconnect: Option<DisconnectReason>,
    feed: VecDeque<(Topic, Vec<u8>)>,
    feed_lost: u64,
    watching: u32,
}

/// Events of the feed that wait for one connection. Beyond it they are lost, and counted.
const MAX_FEED_EVENTS: usize = 256;

#[derive(Debug)]
enum Message {
    Standing(Result<Principal, ConnectRefusal>, Role),
    Promise(PublishToken, Promise),
    Owed(Vec<Owed>),
    Reply(Kind, Vec<u8>),
    Describe(oneshot::Sender<SessionDetails>),
    States { states: Vec<PresenceEvent>, more: bool },
}

impl Inbox {
    pub(crate) fn new(max_messages: usize, facts: Facts) -> Self {
        Self { max_messages, waiting: Mutex::default(), notify: Notify::new(), facts }
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
    pub(crate) fn drain_into(&self, session: &mut Session, now_ms: u64, tap: &Tap) {
        let Waiting { messages, wake, disconnect, feed, feed_lost, watching } =
            std::mem::take(&mut *self.locked());
        for message in messages {
            self.copy_to_tap(&message, session, now_ms, tap);
            match message {
                Message::Describe(asked) => drop(asked.send(described(session))),
                Message::Standing(standing, role) => session.handle_standing_as(now_ms, standing, role),
                Message::Promise(token, promise) => session.handle_promise(token, promise),
                Message::Owed(entries) => session.handle_owed(now_ms, entries),
                Message::Reply(kind, payload) => session.handle_reply(kind, payload),
                Message::States { states, more } => session.handle_states(states, more),
            }
        }
        // After the states: these changes came later, or say the same.
        feed.into_iter().for_each(|(topic, payload)| session.handle_feed(&topic, payload));
        if feed_lost > 0 {
            session.handle_feed_lost(feed_lost);
        }
        (0..watching).for_each(|_| session.handle_watching());
        if wake {
            session.handle_wake();
        }
        if let Some(reason) = disconnect {
            session.handle_disconnect(reason);
        }
    }

    /// What its client is about to be sent.
    fn copy_to_tap(&self, message: &Message, session: &Session, now_ms: u64, tap: &Tap) {
        let Some(principal) = self.facts.principal.get().filter(|_| tap.is_open()) else { return };
        let copy = |kind: Kind, payload: &[u8]| {
            if session.is_subscribed(kind) {
                tap.down(now_ms, session.id(), principal, kind, payload);
            }
        };
        match message {
            Message::Owed(entries) => entries.iter().for_each(|owed| copy(owed.kind, &owed.payload)),
            Message::Reply(kind, payload) => copy(*kind, payload),
            _ => {}
        }
    }

    /// Asks the session for what only it knows. No answer if it ends meanwhile.
    pub(crate) fn describe(&self) -> oneshot::Receiver<SessionDetails> {
        let (asked, answer) = oneshot::channel();
        self.push(Message::Describe(asked));
        answer
    }

    /// Ends the connection unless that is under way; whether it was not.
    fn begin_disconnect(&self, reason: &DisconnectReason) -> bool {
        let is_first = self.locked().disconnect.is_none();
        if is_first {
            self.disconnect(reason.clone());
        }
        is_first
    }

    /// An event of the feed, best effort.
    pub(crate) fn feed(&self, topic: Topic, payload: Vec<u8>) {
        let mut waiting = self.locked();
        if waiting.feed.len() < MAX_FEED_EVENTS {
            waiting.feed.push_back((topic, payload));
        } else {
            waiting.feed_lost += 1;
        }
        drop(waiting);
        self.notify.notify_one();
    }

    /// Events that did not come as far as this.
    pub(crate) fn feed_lost(&self, count: u64) {
        self.locked().feed_lost += count;
        self.notify.notify_one();
    }

    /// The filters of one more [`Event::Watch`](broker_session::Event::Watch) are heard.
    pub(crate) fn watching(&self) {
        self.locked().watching += 1;
        self.notify.notify_one();
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

fn described(session: &Session) -> SessionDetails {
    let shown = |(filter, qos): (String, Qos)| match qos {
        Qos::AtMostOnce => format!("{filter} (0)"),
        Qos::AtLeastOnce => format!("{filter} (1)"),
    };
    SessionDetails {
        subscriptions: session.subscriptions().into_iter().map(shown).collect(),
        buffered_bytes: session.buffered_bytes(),
    }
}

/// Connections that ended lately, whose address operators may still ask for.
const ENDED: usize = 4_096;

/// The inboxes of all connections.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inboxes: RwLock<HashMap<ConnectionId, Arc<Inbox>>>,
    ended: Mutex<VecDeque<(ConnectionId, SocketAddr)>>,
}

impl Registry {
    pub(crate) fn insert(&self, connection: ConnectionId, inbox: Arc<Inbox>) {
        self.inboxes.write().unwrap_or_else(PoisonError::into_inner).insert(connection, inbox);
    }

    pub(crate) fn remove(&self, connection: ConnectionId) {
        let removed = self.inboxes.write().unwrap_or_else(PoisonError::into_inner).remove(&connection);
        let Some(inbox) = removed else { return };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() == ENDED {
            ended.pop_front();
        }
        ended.push_back((connection, inbox.facts.peer));
    }

    /// Where a connection comes from, or came from if it ended lately.
    pub(crate) fn peer(&self, connection: ConnectionId) -> Option<SocketAddr> {
        if let Some(inbox) = self.inbox(connection) {
            return Some(inbox.facts.peer);
        }
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().rev().find(|(id, _)| *id == connection).map(|(_, peer)| *peer)
    }

    pub(crate) fn inbox(&self, connection: ConnectionId) -> Option<Arc<Inbox>> {
        self.inboxes.read().unwrap_or_else(PoisonError::into_inner).get(&connection).cloned()
    }

    /// The oldest connections that are wanted.
    pub(crate) fn rows(&self, principal: Option<&Principal>, max: usize) -> Vec<(ConnectionId, SessionRow)> {
        let inboxes = self.inboxes.read().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |inbox: &Inbox| {
            principal.is_none_or(|wanted| inbox.facts.principal.get().is_some_and(|who| **who == *wanted))
        };
        let mut wanted: Vec<_> = inboxes.iter().filter(|(_, inbox)| is_wanted(inbox)).collect();
        wanted.sort_by_key(|(id, _)| **id);
        wanted.truncate(max);
        wanted.into_iter().map(|(id, inbox)| (*id, inbox.facts.row(*id))).collect()
    }

    /// Ends up to `max` connections; how many were left to end.
    pub(crate) fn disconnect_some(&self, reason: &DisconnectReason, max: usize) -> usize {
        let inboxes = self.inboxes.read().unwrap_or_else(PoisonError::into_inner);
        inboxes.values().filter(|inbox| inbox.begin_disconnect(reason)).take(max).count()
    }

    /// Routes each message. Never blocks on a connection.
    pub(crate) fn deliver(&self, messages: impl IntoIterator<Item = FromCore>) {
        let inboxes = self.inboxes.read().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            let connection = match &message {
                FromCore::Standing { connection, .. }
                | FromCore::Promise { connection, .. }
                | FromCore::Owed { connection, .. }
                | FromCore::Reply { connection, .. }
                | FromCore::States { connection, .. }
                | FromCore::Wake { connection }
                | FromCore::Disconnect { connection, .. } => connection,
            };
            let Some(inbox) = inboxes.get(connection) else { continue };
            match message {
                FromCore::Standing { result, role, .. } => inbox.push(Message::Standing(result, role)),
                FromCore::Promise { token, promise, .. } => inbox.push(Message::Promise(token, promise)),
                FromCore::Owed { entries, .. } => inbox.push(Message::Owed(entries)),
                FromCore::Reply { kind, payload, .. } => inbox.push(Message::Reply(kind, payload)),
                FromCore::States { states, more, .. } => inbox.push(Message::States { states, more }),
                FromCore::Wake { .. } => inbox.wake(),
                FromCore::Disconnect { reason, .. } => inbox.disconnect(reason),
            }
        }
    }

    /// Ends every connection.
    pub(crate) fn disconnect_all(&self, reason: &DisconnectReason) {
        for inbox in self.inboxes.read().unwrap_or_else(PoisonError::into_inner).values() {
            inbox.disconnect(reason.clone());
        }
    }
}
