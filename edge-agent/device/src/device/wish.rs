//! Wishes of the child at a piggy bank (PC-12).

use schemas::ids::WishId;

use super::Device;
use crate::decide::WishRequest;
use crate::output::Output;
use crate::state::OwnStanding;
use crate::status::{ListedWish, WishStanding};

impl Device {
    /// The child has a wish. The result is an [`Output::WishMade`], released when it is on disk; it goes to the cloud when
    /// there is a connection.
    pub fn handle_wish(&mut self, request: &WishRequest, now_boot_ms: u64) {
        let decided = self.state.decide_wish(&self.context(now_boot_ms), &request.to, &request.text);
        let result = decided.map(|(wish, event)| {
            self.record([event]);
            wish
        });
        self.output(Output::WishMade { ticket: request.ticket, result });
        self.advance(now_boot_ms);
    }

    /// The child takes a wish back. The result is an [`Output::WishMade`] as well.
    pub fn handle_wish_withdraw(&mut self, ticket: u64, wish: WishId, now_boot_ms: u64) {
        let decided = self.state.decide_wish_withdraw(&self.context(now_boot_ms), wish);
        let result = decided.map(|event| {
            self.record([event]);
            wish
        });
        self.output(Output::WishMade { ticket, result });
        self.advance(now_boot_ms);
    }

    /// What the child has wished for: first what the cloud does not show yet, the newest first; then what it shows.
    pub fn wishes(&self) -> Vec<ListedWish> {
        let view = self.state.child_view.iter().flat_map(|view| view.wishes.iter());
        let shown: Vec<_> = view.flat_map(|wishes| wishes.iter()).collect();
        let own = self.state.wishes.own.iter().rev();
        let own = own.filter(|own| shown.iter().all(|shown| shown.wish != own.wish));
        let own = own.map(|own| ListedWish {
            wish: own.wish,
            to: own.to.clone(),
            text: own.text.clone(),
            standing: match &own.standing {
                OwnStanding::Waiting => WishStanding::Waiting,
                OwnStanding::Sent => WishStanding::Sent,
                OwnStanding::Refused(code) => WishStanding::Refused { code: code.clone() },
            },
        });
        let told = shown.iter().map(|shown| ListedWish {
            wish: shown.wish,
            to: shown.to.clone(),
            text: shown.text.clone(),
            standing: WishStanding::Told { state: shown.state, reason: shown.reason.clone() },
        });
        own.chain(told).collect()
    }
}
