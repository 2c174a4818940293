//! In which order the core decides what the lane says: tenants take turns (correctness.md 6).

use std::collections::{HashMap, VecDeque};

use broker::ToCore;
use schemas::ids::TenantId;

/// Messages that may wait here. Beyond it the lane's channel fills, and then sockets are not read: one more tenant then
/// waits until the channel (`queue_messages`) has moved up, and has its turn in the batch after that.
const MAX_MESSAGES: usize = 65_536;
/// Payloads that may wait here, in bytes.
const MAX_BYTES: usize = 64 << 20;
/// A queue that has become longer than this gives its memory back when it is empty.
const KEPT_MESSAGES: usize = 1_024;
/// Those who have not yet said who they are: all of them together are one more tenant.
const STRANGERS: usize = 0;

/// What waits for the core, one queue for each tenant. A batch takes one message of each in turn, so that who says much
/// has what the others leave, and who says little waits for nobody's queue but its own. What one connection says stays
/// in order: before it is known it is a stranger's, and then it is that of one tenant.
#[derive(Debug)]
pub(super) struct Turns {
    /// Which queue is whose. Only registered tenants are ever admitted, so there are no more than those.
    of_tenant: HashMap<TenantId, usize>,
    queues: Vec<VecDeque<ToCore>>,
    /// The queues that are not empty, the next one first.
    next: VecDeque<usize>,
    messages: usize,
    bytes: usize,
}

impl Default for Turns {
    fn default() -> Self {
        let queues = vec![VecDeque::new()];
        Self { of_tenant: HashMap::new(), queues, next: VecDeque::new(), messages: 0, bytes: 0 }
    }
}

impl Turns {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Whether more may wait.
    pub(super) fn has_room(&self) -> bool {
        self.messages < MAX_MESSAGES && self.bytes < MAX_BYTES
    }

    /// Lets a message wait for its tenant's turn.
    pub(super) fn push(&mut self, message: ToCore) {
        let index = self.index_of(&message);
        self.messages += 1;
        self.bytes += payload_bytes(&message);
        let Some(queue) = self.queues.get_mut(index) else { return };
        if queue.is_empty() {
            self.next.push_back(index);
        }
        queue.push_back(message);
    }

    /// The next message, of the tenant whose turn it is.
    pub(super) fn pop(&mut self) -> Option<ToCore> {
        let index = self.next.pop_front()?;
        let queue = self.queues.get_mut(index)?;
        let message = queue.pop_front()?;
        if !queue.is_empty() {
            self.next.push_back(index);
        } else if queue.capacity() > KEPT_MESSAGES {
            *queue = VecDeque::new();
        }
        self.messages -= 1;
        self.bytes -= payload_bytes(&message);
        Some(message)
    }

    fn index_of(&mut self, message: &ToCore) -> usize {
        let principal = match message {
            ToCore::Connect { .. } => None,
            ToCore::Publish { principal, .. }
            | ToCore::Subscribed { principal, .. }
            | ToCore::Pull { principal, .. }
            | ToCore::Watching { principal, .. }
            | ToCore::PullStates { principal, .. }
            | ToCore::Acknowledged { principal, .. }
            | ToCore::StateChanged { principal, .. } => Some(principal),
            ToCore::Refused { principal, .. } | ToCore::Closed { principal, .. } => principal.as_ref(),
        };
        let Some(principal) = principal else { return STRANGERS };
        if let Some(index) = self.of_tenant.get(&principal.tenant) {
            return *index;
        }
        let index = self.queues.len();
        self.queues.push(VecDeque::new());
        self.of_tenant.insert(principal.tenant.clone(), index);
        index
    }
}

fn payload_bytes(message: &ToCore) -> usize {
    match message {
        ToCore::Publish { payload, .. } | ToCore::StateChanged { payload, .. } => payload.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use broker::session::{CloseReason, ConnectionId, PublishToken, Qos};
    use schemas::ids::Principal;
    use schemas::topic::Kind;

    use super::*;

    /// What a batch takes while a sync runs.
    const BATCH: usize = 1_024;

    fn publish(connection: u32, who: &str, number: u64) -> ToCore {
        ToCore::Publish {
            connection: ConnectionId::new(1, connection),
            token: PublishToken(number),
            principal: Arc::new(who.parse::<Principal>().unwrap()),
            kind: Kind::DeviceReport,
            payload: vec![0; 100],
            qos: Qos::AtLeastOnce,
            proven: None,
        }
    }

    fn closed(connection: u32, who: Option<&str>) -> ToCore {
        ToCore::Closed {
            connection: ConnectionId::new(1, connection),
            principal: who.map(|who| Arc::new(who.parse().unwrap())),
            peer: "127.0.0.1:1".parse().unwrap(),
            reason: CloseReason::ConnectionLost,
        }
    }

    fn batch(turns: &mut Turns, at_most: usize) -> Vec<ToCore> {
        std::iter::from_fn(|| turns.pop()).take(at_most).collect()
    }

    fn connection(message: &ToCore) -> Option<ConnectionId> {
        match message {
            ToCore::Publish { connection, .. } | ToCore::Closed { connection, .. } => Some(*connection),
            _ => None,
        }
    }

    /// correctness.md 6: within a batch tenants are served fairly, so that one cannot fill it.
    #[test]
    fn a_flood_of_one_tenant_leaves_the_single_message_of_another_its_place_in_the_next_batch() {
        for at_most in [BATCH, 32, 3] {
            let mut turns = Turns::default();
            for number in 0..10_000 {
                turns.push(publish(1 + u32::try_from(number % 3).unwrap(), "flood/device", number));
            }
            turns.push(publish(9, "acme/chip", 0));
            turns.push(closed(10, None));
            let next = batch(&mut turns, at_most);
            assert_eq!(next.len(), at_most);
            for small in [9, 10] {
                let small = Some(ConnectionId::new(1, small));
                assert!(next.iter().any(|message| connection(message) == small), "{at_most}");
            }
        }
    }

    #[test]
    fn what_one_connection_says_stays_in_order_and_nothing_is_lost() {
        let mut turns = Turns::default();
        for number in 0..3_000 {
            for (connection, who) in [(1, "a/x"), (2, "a/y"), (3, "b/x")] {
                turns.push(publish(connection, who, number));
            }
        }
        turns.push(closed(3, Some("b/x")));
        let mut said: HashMap<ConnectionId, Vec<u64>> = HashMap::new();
        let mut ended = Vec::new();
        while let Some(message) = turns.pop() {
            match message {
                ToCore::Publish { connection, token, .. } => {
                    said.entry(connection).or_default().push(token.0);
                }
                other => ended.push((other, said.get(&ConnectionId::new(1, 3)).map(Vec::len))),
            }
        }
        assert_eq!(ended, [(closed(3, Some("b/x")), Some(3_000))], "closed is the last word");
        assert_eq!(said.len(), 3);
        assert!(said.values().all(|numbers| *numbers == (0..3_000).collect::<Vec<_>>()));
        assert!(turns.is_empty() && turns.bytes == 0);
        assert!(turns.queues.iter().all(|queue| queue.capacity() <= KEPT_MESSAGES), "memory is given back");
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let mut turns = Turns::default();
        for number in 0..MAX_MESSAGES as u64 {
            assert!(turns.has_room());
            turns.push(closed(1, None));
            assert_eq!(turns.messages as u64, number + 1);
        }
        assert!(!turns.has_room());
        turns.pop();
        assert!(turns.has_room());
        turns.bytes = MAX_BYTES;
        assert!(!turns.has_room());
    }
}
