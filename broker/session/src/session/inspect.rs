//! What operators may see of a session.

use schemas::topic::Kind;

use super::{Phase, Session};
use crate::types::Qos;

impl Session {
    /// Deliveries that the client has not acknowledged.
    pub fn in_flight(&self) -> usize {
        match &self.phase {
            Phase::Open(open) => open.delivery.in_flight_count(),
            _ => 0,
        }
    }

    /// Topic filters with the quality of service that was granted.
    pub fn subscriptions(&self) -> Vec<(String, Qos)> {
        match &self.phase {
            Phase::Open(open) => match &open.watch {
                Some(watch) => watch.texts().map(|text| (text.to_owned(), Qos::AtMostOnce)).collect(),
                None => open.delivery.filters(),
            },
            _ => Vec::new(),
        }
    }

    /// Whether the client receives this kind.
    pub fn is_subscribed(&self, kind: Kind) -> bool {
        matches!(&self.phase, Phase::Open(open) if open.delivery.matching(kind).is_some())
    }
}
