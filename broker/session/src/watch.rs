//! What an observer has subscribed, and which states are still to be shown to it.

use std::collections::VecDeque;

use schemas::ids::PrincipalId;
use schemas::topic::{Filter, Topic};

use crate::decode::FilterRequest;

/// Subscriptions of one observer.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    subscriptions: Vec<Subscription>,
    /// Subscriptions whose states have not been shown, or not all.
    showing: VecDeque<Showing>,
    /// Whether the first of them waits for an answer.
    is_asked: bool,
    /// Orders to hear other filters that were not answered. Until then a change might fall between states and feed.
    unheard: u32,
    /// Events that it was too slow for, since it was last told.
    pub(crate) lost: u64,
}

#[derive(Debug)]
struct Subscription {
    /// As it was asked for: the client ends it by the same text.
    text: String,
    filter: Filter,
    identifier: Option<u32>,
    retain_as_published: bool,
}

/// States are shown by name, page by page.
#[derive(Debug)]
struct Showing {
    /// Of the subscription. It may have ended meanwhile.
    text: String,
    after: Option<PrincipalId>,
}

/// How a message matches the subscriptions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) identifiers: Vec<u32>,
    pub(crate) retain_as_published: bool,
}

impl Watch {
    /// Adds or replaces; false if there are `max` others.
    pub(crate) fn subscribe(
        &mut self,
        filter: Filter,
        request: &FilterRequest,
        identifier: Option<u32>,
        max: usize,
    ) -> bool {
        let is_new = !self.unsubscribe(&request.filter);
        if self.subscriptions.len() >= max {
            return false;
        }
        let text = request.filter.clone();
        if filter.is_state() && (request.retain_handling == 0 || request.retain_handling == 1 && is_new) {
            self.show(text.clone());
        }
        let retain_as_published = request.retain_as_published;
        self.subscriptions.push(Subscription { text, filter, identifier, retain_as_published });
        true
    }

    /// Whether there was such a subscription.
    pub(crate) fn unsubscribe(&mut self, text: &str) -> bool {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|subscription| subscription.text != text);
        self.subscriptions.len() < before
    }

    /// All that is subscribed.
    pub(crate) fn filters(&self) -> Vec<Filter> {
        self.subscriptions.iter().map(|subscription| subscription.filter.clone()).collect()
    }

    /// The same as the client wrote it.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().map(|subscription| subscription.text.as_str())
    }

    /// How the subscriptions match, if any does.
    pub(crate) fn matching(&self, topic: &Topic) -> Option<Match> {
        let mut found: Option<Match> = None;
        for subscription in self.subscriptions.iter().filter(|one| one.filter.matches_topic(topic)) {
            let found = found.get_or_insert(Match { identifiers: Vec::new(), retain_as_published: false });
            found.identifiers.extend(subscription.identifier);
            found.retain_as_published |= subscription.retain_as_published;
        }
        found
    }

    /// The subscriptions are others now, and the feed was told.
    pub(crate) fn expect_heard(&mut self) {
        self.unheard += 1;
    }

    /// The feed hears what it was told; whether that is all of it.
    pub(crate) fn heard(&mut self) -> bool {
        self.unheard = self.unheard.saturating_sub(1);
        self.unheard == 0
    }

    /// The next question: of whom, after whom.
    pub(crate) fn next_pull(&mut self) -> Option<(Option<PrincipalId>, Option<PrincipalId>)> {
        if self.is_asked || self.unheard > 0 {
            return None;
        }
        loop {
            let next = self.showing.front()?;
            let Some(subscription) = self.subscriptions.iter().find(|one| one.text == next.text) else {
                self.showing.pop_front();
                continue;
            };
            self.is_asked = true;
            let of = match &subscription.filter {
                Filter::StateOf { principal } => Some(principal.id.clone()),
                _ => None,
            };
            return Some((of, next.after.clone()));
        }
    }

    /// The answer is here: for which subscription, unless it has ended meanwhile; up to `last`, unless that was all.
    pub(crate) fn answered(&mut self, last: Option<PrincipalId>) -> Option<Vec<u32>> {
        if !std::mem::take(&mut self.is_asked) {
            return None;
        }
        let mut showing = self.showing.pop_front()?;
        let subscription = self.subscriptions.iter().find(|one| one.text == showing.text)?;
        let identifiers = subscription.identifier.into_iter().collect();
        if last.is_some() {
            showing.after = last;
            self.showing.push_front(showing);
        }
        Some(identifiers)
    }

    /// Once more from the beginning, if it was under way. What has ended is forgotten, so that no more wait than there
    /// are subscriptions.
    fn show(&mut self, text: String) {
        let first = self.is_asked.then(|| self.showing.pop_front()).flatten();
        self.showing.retain(|next| {
            next.text != text && self.subscriptions.iter().any(|subscription| subscription.text == next.text)
        });
        self.showing.extend([Showing { text, after: None }]);
        if let Some(first) = first {
            self.showing.push_front(first);
        }
    }
}
