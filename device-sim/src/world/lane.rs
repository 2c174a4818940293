//! The lane at message level: a connection is two ordered streams that can break at any message (a suffix is lost).
//! QoS 1 as in mqtt.md: one send per connection, PUBACKs in order of arrival, the rest on the next connection.

use std::collections::{BTreeSet, VecDeque};

use schemas::ids::MessageId;
use schemas::topic::Kind;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    Person(usize),
    Machine(usize),
}

/// What goes to the core.
#[derive(Debug, Clone)]
pub(super) enum Up {
    Connect,
    Subscribe,
    Publish { packet: u64, promised: bool, kind: Kind, payload: Vec<u8> },
    Acknowledge { message: MessageId, code: u8 },
    Closed,
}

impl Up {
    /// For the trace.
    pub(super) fn name(&self) -> String {
        match self {
            Up::Connect => "CONNECT".to_owned(),
            Up::Subscribe => "SUBSCRIBE".to_owned(),
            Up::Publish { packet, kind, .. } => format!("PUBLISH {kind} {packet}"),
            Up::Acknowledge { message, code } => format!("PUBACK {message} {code}"),
            Up::Closed => "gone".to_owned(),
        }
    }
}

/// What comes from the core.
#[derive(Debug, Clone)]
pub(super) enum Down {
    Accepted(bool),
    Subscribed,
    Publish { message: MessageId, kind: Kind, payload: Vec<u8> },
    Reply { kind: Kind, payload: Vec<u8> },
    Promise { packet: u64, code: u8 },
    Closed,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Stream<T> {
    under_way: VecDeque<(u64, T)>,
    last_at: u64,
    broken: bool,
}

impl<T> Default for Stream<T> {
    fn default() -> Self {
        Self { under_way: VecDeque::new(), last_at: 0, broken: false }
    }
}

impl<T> Stream<T> {
    /// When it arrives; none if the stream is broken, which the sender cannot know.
    pub(super) fn send(&mut self, arrives_at: u64, packet: T) -> Option<u64> {
        if self.broken {
            return None;
        }
        self.last_at = self.last_at.max(arrives_at);
        self.under_way.push_back((self.last_at, packet));
        Some(self.last_at)
    }

    /// The suffix after `kept` packets is lost; `end` is what the receiver notices at `noticed_at`.
    pub(super) fn cut(&mut self, kept: usize, end: T, noticed_at: u64) -> Option<u64> {
        if self.broken {
            return None;
        }
        self.under_way.truncate(kept);
        let at = self.send(noticed_at, end);
        self.broken = true;
        at
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn receive(&mut self, now: u64) -> Option<T> {
        let (at, _) = self.under_way.front()?;
        if *at > now {
            return None;
        }
        self.under_way.pop_front().map(|(_, packet)| packet)
    }
}

/// A connection, with the lane's side of it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) party: Party,
    /// The run of the core that it was made to.
    pub(super) run: u64,
    pub(super) up: Stream<Up>,
    pub(super) down: Stream<Down>,
    /// The lane's side.
    pub(super) admitted: bool,
    pub(super) subscribed: bool,
    pub(super) core_closed: bool,
    pub(super) after: u64,
    pub(super) pulling: bool,
    pub(super) pull_again: bool,
    pub(super) in_flight: BTreeSet<MessageId>,
    /// Publishes without a PUBACK, in order of arrival.
    pub(super) awaiting: VecDeque<(u64, bool)>,
}

impl Connection {
    pub(super) fn is_broken(&self) -> bool {
        self.up.is_broken() && self.down.is_broken()
    }

    /// Nothing will ever come of it.
    pub(super) fn is_over(&self) -> bool {
        self.is_broken() && self.up.len() == 0 && self.down.len() == 0
    }

    pub(super) fn new(party: Party, run: u64) -> Self {
        Self {
            party,
            run,
            up: Stream::default(),
            down: Stream::default(),
            admitted: false,
            subscribed: false,
            core_closed: false,
            after: 0,
            pulling: false,
            pull_again: false,
            in_flight: BTreeSet::new(),
            awaiting: VecDeque::new(),
        }
    }
}
