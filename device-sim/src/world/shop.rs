//! Purchases: who buys what where, and who tries what they should not.

use schemas::ids::{ItemId, Nonce, Principal};
use schemas::signed::PaymentInformation;

use super::facts::{Offer, Wish};
use super::fault::Fault;
use super::people::Deed;
use super::plan::PersonKind;
use super::{Happening, World};

/// Tries at the chip's counter until somebody gives up.
const TRIES: u32 = 6;

/// Somebody wants something.
pub(super) struct Purchase {
    pub(super) payer: usize,
    pub(super) chip: usize,
    item: ItemId,
    quantity: u32,
    tries: u32,
}

impl World {
    pub(super) fn draw_purchases(&mut self) {
        let chips: Vec<usize> =
            (0..self.plan.machines.len()).filter(|index| self.plan.machines[*index].is_chip).collect();
        for _ in 0..self.options.purchases.unwrap_or(u64::MAX).min(self.plan.purchases) {
            let chip = chips[self.random.shop.index(chips.len())];
            let tenant = self.plan.machines[chip].tenant;
            let payers: Vec<usize> = (0..self.plan.people.len())
                .filter(|index| {
                    let person = &self.plan.people[*index];
                    person.tenant == tenant && person.kind == PersonKind::Payer
                })
                .collect();
            let payer = payers[self.random.shop.index(payers.len())];
            let name = ["water", "crisps", "coffee"][self.random.shop.index(3)];
            let Ok(item) = name.parse() else { continue };
            let quantity = if self.random.shop.chance(400) { self.random.shop.units(2, 4) } else { 1 };
            self.shop.push(Purchase { payer, chip, item, quantity, tries: 0 });
            // All of it in the first two thirds, so that something happens to all of it.
            let at = self.random.shop.range(3_000, self.plan.faults_end_ms * 2 / 3);
            self.after(at, Happening::Shop(self.shop.len() - 1));
        }
    }

    pub(super) fn begin_purchase(&mut self, index: usize) {
        let (payer, chip) = (self.shop[index].payer, self.shop[index].chip);
        if self.shop[index].tries == 0 {
            if self.strikes(Fault::Forged) {
                let offer = self.forge(index);
                self.present(payer, offer);
                return;
            }
            let known: Vec<usize> =
                (0..self.facts.offers.len()).filter(|offer| self.facts.offers[*offer].chip == chip).collect();
            if !known.is_empty() && self.strikes(Fault::Replayed) {
                let offer = known[self.random.of(Fault::Replayed).index(known.len())];
                self.facts.honest.insert(offer, false);
                self.present(payer, offer);
                return;
            }
        }
        self.shop[index].tries += 1;
        let (item, quantity) = (self.shop[index].item.clone(), self.shop[index].quantity);
        if !self.ask_for_information(chip, index as u64, &item, quantity) {
            self.try_purchase_again(index);
        }
    }

    pub(super) fn try_purchase_again(&mut self, index: usize) {
        if self.shop[index].tries < TRIES && !self.healed {
            let wait = self.random.people.range(1_000, 8_000);
            self.after(wait, Happening::Shop(index));
        }
    }

    /// The chip shows it; somebody reads it, perhaps two.
    pub(super) fn offered(&mut self, purchase: usize, offer: usize) {
        let payer = self.shop[purchase].payer;
        self.facts.honest.insert(offer, true);
        self.present(payer, offer);
        if self.strikes(Fault::SharedInformation) {
            self.facts.honest.insert(offer, false);
            let tenant = self.plan.people[payer].tenant;
            let other = (0..self.plan.people.len()).find(|index| {
                *index != payer
                    && self.plan.people[*index].tenant == tenant
                    && self.plan.people[*index].kind == PersonKind::Payer
            });
            if let Some(other) = other {
                self.present(other, offer);
            }
        }
    }

    fn present(&mut self, payer: usize, offer: usize) {
        let wait = self.random.people.range(200, 3_000);
        self.after(wait, Happening::Act(payer, Deed::Ask(Wish::Pay { offer })));
    }

    /// With the chip's stolen key.
    fn forge(&mut self, index: usize) -> usize {
        let purchase = &self.shop[index];
        let chip = purchase.chip;
        let machine = &self.plan.machines[chip];
        let who: Principal = machine.principal.clone();
        let seconds = self.stamp().0 / 1000 * 1000;
        let information = PaymentInformation {
            chip: who,
            nonce: Nonce(self.random.ids.bytes()),
            issued_at: schemas::time::Timestamp(seconds),
            expires_at: schemas::time::Timestamp(seconds + 120_000),
            payee: self.plan.merchant.clone(),
            amount: self.plan.currency.minor(1),
            item: purchase.item.clone(),
            quantity: purchase.quantity,
        };
        let signed = information.sign(&machine.key);
        self.facts.add_offer(Offer { signed, information, chip, issued: false, asked_for: None })
    }
}
