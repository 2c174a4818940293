//! The network between the core and everybody: a connection is two ordered streams of bytes, which arrive in pieces and
//! break at any byte (correctness.md 21). At one end stands the broker's own session, at the other a client.

use std::collections::VecDeque;

use broker_session::{ConnectionId, Limits, Session};

use super::client::Client;
use super::tap::Tap;

/// What a socket takes for a peer that does not read, in bytes.
const SOCKET_BYTES: usize = 8 << 10;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    Person(usize),
    Machine(usize),
}

/// What comes out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    /// The connection is over, as far as this side can see.
    End,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Stream {
    under_way: VecDeque<(u64, Piece)>,
    last_at: u64,
    broken: bool,
}

impl Stream {
    /// When it arrives; none if the stream is broken, which the sender cannot know.
    pub(super) fn send(&mut self, arrives_at: u64, piece: Piece) -> Option<u64> {
        if self.broken {
            return None;
        }
        self.last_at = self.last_at.max(arrives_at);
        self.under_way.push_back((self.last_at, piece));
        Some(self.last_at)
    }

    /// Everything after the first `kept` bytes under way is lost; the receiver notices the end at `noticed_at`.
    pub(super) fn cut(&mut self, kept: usize, noticed_at: u64) -> Option<u64> {
        if self.broken {
            return None;
        }
        let mut left = kept;
        for (_, piece) in &mut self.under_way {
            if let Piece::Bytes(bytes) = piece {
                bytes.truncate(left);
                left -= bytes.len();
            }
        }
        let at = self.send(noticed_at, Piece::End);
        self.broken = true;
        at
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Bytes under way.
    pub(super) fn bytes(&self) -> usize {
        let length =
            |(_, piece): &(u64, Piece)| if let Piece::Bytes(bytes) = piece { bytes.len() } else { 0 };
        self.under_way.iter().map(length).sum()
    }

    pub(super) fn receive(&mut self, now: u64) -> Option<Piece> {
        let (at, _) = self.under_way.front()?;
        if *at > now {
            return None;
        }
        self.under_way.pop_front().map(|(_, piece)| piece)
    }
}

/// A connection with both its ends.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) party: Party,
    pub(super) up: Stream,
    pub(super) down: Stream,
    pub(super) client: Client,
    /// The broker's end; none once it has ended or its process is dead.
    pub(super) session: Option<Session>,
    /// In the server's socket, not yet read by the session.
    pub(super) unread: Vec<u8>,
    /// Given by the session, and the socket has no room.
    pub(super) unwritten: Vec<u8>,
    /// Bytes that the client has sent, and that have arrived.
    pub(super) sent: u64,
    pub(super) arrived: u64,
    pub(super) tap: Tap,
    /// When it was begun, in the world's time.
    pub(super) began_at: u64,
    /// When each end wants to look at the time.
    pub(super) session_alarm: Option<u64>,
    pub(super) client_alarm: Option<u64>,
}

impl Connection {
    pub(super) fn new(id: u64, party: Party, client: Client, limits: Limits, now: u64) -> Self {
        let tap = Tap::new(client.version(), client.base(), client.receive_maximum());
        Self {
            party,
            up: Stream::default(),
            down: Stream::default(),
            client,
            session: Some(Session::new(ConnectionId(id), limits, now)),
            unread: Vec::new(),
            unwritten: Vec::new(),
            sent: 0,
            arrived: 0,
            tap,
            began_at: now,
            session_alarm: None,
            client_alarm: None,
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.up.is_broken() && self.down.is_broken()
    }

    /// Nothing will ever come of it.
    pub(super) fn is_over(&self) -> bool {
        self.is_broken() && self.up.is_empty() && self.down.is_empty() && self.session.is_none()
    }

    /// As much of what waits as the socket takes now.
    pub(super) fn writable(&mut self) -> Vec<u8> {
        let room = SOCKET_BYTES.saturating_sub(self.down.bytes());
        let rest = self.unwritten.split_off(room.min(self.unwritten.len()));
        std::mem::replace(&mut self.unwritten, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_keeps_so_many_bytes_and_tells_the_end_after_them() {
        let mut stream = Stream::default();
        assert_eq!(stream.send(5, Piece::Bytes(vec![1, 2, 3])), Some(5));
        assert_eq!(stream.send(2, Piece::Bytes(vec![4, 5])), Some(5), "nothing overtakes");
        assert_eq!(stream.cut(4, 3), Some(5));
        assert_eq!(stream.bytes(), 4);
        assert_eq!(stream.send(9, Piece::Bytes(vec![6])), None);
        let pieces: Vec<_> = std::iter::from_fn(|| stream.receive(9)).collect();
        assert_eq!(pieces, [Piece::Bytes(vec![1, 2, 3]), Piece::Bytes(vec![4]), Piece::End]);
    }
}
