//! Piggy banks and the children before them: what is on the screen, who presses what and when, and what the piggy bank
//! makes of it (PC-2 to PC-4).

use std::collections::{BTreeMap, BTreeSet};

use edge_agent_device::{PromptAnswerRequest, PromptRefusal, ShownPrompt};
use schemas::envelope::Envelope;
use schemas::ids::{MessageId, PaymentId};
use schemas::message::{self, ChildAnswer, PromptAnswer};
use schemas::signed::CodeText;
use schemas::topic::Kind;

use super::client::Up;
use super::codes::{Spot, Visit};
use super::family_facts::Pressed;
use super::fault::Fault;
use super::plan::MachineKind;
use super::{Happening, Violation, World, say};

/// A press of a button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Press {
    payment: PaymentId,
    answer: ChildAnswer,
    /// Also when nothing is on the screen: by a program.
    blindly: bool,
}

/// How a child answers, drawn once for each payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Confirms,
    Rejects,
    Contradicts,
    Silent,
    Late,
}

/// The front of a piggy bank.
#[derive(Debug, Default)]
pub(super) struct Front {
    /// What can be seen, until when on the clock of the machine.
    screen: Option<(PaymentId, u64)>,
    moods: BTreeMap<PaymentId, Mood>,
    /// Presses on their way, by ticket: payment and place in its list.
    tickets: BTreeMap<u64, (PaymentId, usize)>,
    pub(super) next: u64,
    /// Where it is, if its receiver knows.
    pub(super) spot: Option<Spot>,
    /// Where it was before, and until when: what it shows was decided a moment ago.
    pub(super) spot_before: Option<(Spot, u64)>,
    /// The code that can be seen.
    pub(super) code: Option<CodeText>,
    /// Asked for, by ticket.
    pub(super) visits: BTreeMap<u64, Visit>,
    /// Texts that somebody scans.
    pub(super) scanned: BTreeSet<String>,
}

impl Front {
    /// The process has ended: the screen is dark.
    pub(super) fn goes_dark(&mut self) {
        self.screen = None;
        self.tickets.clear();
        self.visits.clear();
        self.code = None;
        self.spot = None;
        self.spot_before = None;
    }

    pub(super) fn is_dark(&self) -> bool {
        self.screen.is_none()
    }
}

impl World {
    /// The piggy bank puts a prompt on its screen, or takes it away.
    pub(super) fn shows(&mut self, index: usize, shown: Option<ShownPrompt>) -> Result<(), Violation> {
        let who = self.plan.machines[index].principal.clone();
        let now = self.now;
        let boot_ms = self.machines[index].boot_ms(now);
        let Some(shown) = shown else {
            self.machines[index].front.screen = None;
            return Ok(());
        };
        // Its disk was slow: by now it is too late.
        if boot_ms > shown.until_boot_ms {
            return Ok(());
        }
        let payment = shown.prompt.payment;
        say!(self, who, "asks for {} ({payment})", shown.prompt.amount);
        let asked = self.facts.family.orders.get(&payment).and_then(|facts| facts.prompt.clone());
        if asked != Some((index, shown.prompt.clone())) {
            return Err(self.broken("PC-2", format!("{who} shows what it was not asked: {:?}", shown.prompt)));
        }
        let until = self.machines[index].world_time(shown.until_boot_ms);
        let answer_by = shown.prompt.answer_by.0;
        if !self.mix.has(Fault::CoreClockSet) && self.core_time(until.max(now)) > answer_by {
            let text = format!("{who} shows a prompt until {until} ms, and its time is over before");
            return Err(self.broken("PC-3 never shown late", text));
        }
        self.machines[index].front.screen = Some((payment, shown.until_boot_ms));
        self.child_looks(index, payment, answer_by);
        Ok(())
    }

    fn child_looks(&mut self, index: usize, payment: PaymentId, answer_by: u64) {
        let known = self.machines[index].front.moods.get(&payment).copied();
        let mood = known.unwrap_or_else(|| {
            if self.strikes(Fault::ChildRejects) {
                Mood::Rejects
            } else if self.strikes(Fault::ChildContradicts) {
                Mood::Contradicts
            } else if self.strikes(Fault::ChildSilent) {
                Mood::Silent
            } else if self.strikes(Fault::ChildLate) {
                Mood::Late
            } else {
                Mood::Confirms
            }
        });
        self.machines[index].front.moods.insert(payment, mood);
        let most = [1_200, 9_000][self.random.family.index(2)];
        let wait = self.random.family.range(300, most);
        let yes = Press { payment, answer: ChildAnswer::Confirm, blindly: false };
        let no = Press { answer: ChildAnswer::Reject, ..yes };
        let mut press = |wait, press| self.after(wait, Happening::Press { machine: index, press });
        match mood {
            Mood::Silent => {}
            Mood::Confirms => press(wait, yes),
            Mood::Rejects => press(wait, no),
            Mood::Contradicts => {
                let random = &mut self.random.of(Fault::ChildContradicts);
                let soon = random.range(0, 30);
                let (first, second) = if random.chance(500) { (yes, no) } else { (no, yes) };
                self.after(wait, Happening::Press { machine: index, press: first });
                self.after(wait + soon, Happening::Press { machine: index, press: second });
            }
            Mood::Late => {
                let left = answer_by.saturating_sub(self.stamp().0);
                let late = (left + 2_000).saturating_sub(self.random.of(Fault::ChildLate).range(0, 4_000));
                let press = Press { blindly: true, ..yes };
                self.after(late, Happening::Press { machine: index, press });
            }
        }
    }

    pub(super) fn press(&mut self, index: usize, press: Press) {
        let now = self.now;
        let machine = &mut self.machines[index];
        let boot_ms = machine.boot_ms(now);
        let seen =
            machine.front.screen.is_some_and(|(payment, until)| payment == press.payment && boot_ms <= until);
        if machine.is_away() || !(seen || press.blindly) {
            return;
        }
        let instance = machine.settings.instance;
        machine.front.next += 1;
        let ticket = machine.front.next;
        let who = machine.settings.principal.clone();
        let (payment, answer) = (press.payment, press.answer);
        let Some(facts) = self.facts.family.orders.get_mut(&payment) else { return };
        let (run, position) = (self.machines[index].run, 0);
        facts.pressed.push(Pressed {
            machine: index,
            instance,
            answer,
            at_ms: now,
            run,
            position,
            taken: false,
        });
        let place = facts.pressed.len() - 1;
        self.machines[index].front.tickets.insert(ticket, (payment, place));
        say!(self, who, "the child presses {} for {payment}", answer.as_str());
        if self.random.family.chance(500) {
            let spot = [Spot::Market, Spot::Stall, Spot::Elsewhere][self.random.family.index(3)];
            self.stand(index, Some(spot));
        }
        let asked = self.facts.family.orders.get(&payment).and_then(|facts| facts.order.identify);
        let identified = asked == Some(true) && !self.strikes(Fault::NotIdentified);
        let request = PromptAnswerRequest { ticket, payment, answer, identified };
        let position = self.with_device(index, |device, boot_ms| {
            device.handle_prompt_answer(&request, boot_ms);
            device.position().value()
        });
        if let Some(facts) = self.facts.family.orders.get_mut(&payment) {
            facts.pressed[place].position = position.unwrap_or_default();
        }
    }

    /// The piggy bank says what it made of a press. Only the first one counts, and only one that is in time (PC-4).
    pub(super) fn press_answered(
        &mut self,
        index: usize,
        ticket: u64,
        result: &Result<(), PromptRefusal>,
    ) -> Result<(), Violation> {
        let Some((payment, place)) = self.machines[index].front.tickets.remove(&ticket) else {
            return Ok(());
        };
        let who = self.plan.machines[index].principal.clone();
        if let Err(why) = result {
            say!(self, who, "takes no answer: {why}");
            return Ok(());
        }
        let Some(facts) = self.facts.family.orders.get_mut(&payment) else { return Ok(()) };
        let answer_by = facts.prompt.as_ref().map_or(0, |(_, prompt)| prompt.answer_by.0);
        let mut known = facts.pressed.iter();
        let this = facts.pressed[place];
        let again = known.any(|one| one.taken && one.machine == index && one.instance == this.instance);
        facts.pressed[place].taken = true;
        if again {
            return Err(self.broken("PC-4", format!("{who} takes two answers for {payment}")));
        }
        if !self.mix.has(Fault::CoreClockSet) && self.core_time(this.at_ms) > answer_by {
            return Err(self.broken("PC-3", format!("{who} takes an answer for {payment} after its time")));
        }
        if this.answer == ChildAnswer::Confirm {
            self.will_ask_for_code(index, payment);
        }
        Ok(())
    }

    /// A piggy bank says what its child said: that must have been pressed there, and nothing else said before.
    pub(super) fn witness_child(&mut self, index: usize, said: &PromptAnswer) -> Result<(), Violation> {
        let who = self.plan.machines[index].principal.clone();
        let (instance, run) = (self.machines[index].settings.instance, self.machines[index].run);
        let synced = self.machines[index].synced();
        let Some(facts) = self.facts.family.orders.get_mut(&said.payment) else {
            return Err(self.broken("PC-3", format!("{who} answers what it was never asked")));
        };
        let here = |one: &&Pressed| one.machine == index && one.instance == instance;
        let same = |one: &&Pressed| here(one) && one.answer == said.answer;
        let pressed = facts.pressed.iter().any(|one| same(&one));
        let kept = facts.pressed.iter().filter(same).any(|one| one.run != run || one.position <= synced);
        let taken = facts.pressed.iter().filter(here).find(|one| one.taken).map(|one| one.answer);
        let before = *facts.said.entry((index, instance)).or_insert(said.answer);
        if !pressed || before != said.answer || taken.is_some_and(|taken| taken != said.answer) {
            let text = format!(
                "{who} says {} of {}, has said {} and has taken {taken:?}",
                said.answer, said.payment, before
            );
            return Err(self.broken("PC-3, PC-4", text));
        }
        if !kept {
            let text = format!("{who} says {} before that is on its disk", said.answer);
            return Err(self.broken("correctness.md 1 at the device", text));
        }
        Ok(())
    }

    /// A piggy bank that was meddled with answers what another one was asked.
    pub(super) fn trouble_piggy_bank(&mut self, index: usize) -> Result<(), Violation> {
        if self.plan.machines[index].kind != MachineKind::PiggyBank || !self.machines[index].subscribed {
            return Ok(());
        }
        let Some(connection) = self.machines[index].connection else { return Ok(()) };
        let asked = self.facts.family.orders.iter();
        let asked =
            asked.filter(|(_, facts)| facts.prompt.as_ref().is_some_and(|(asked, _)| *asked != index));
        let others: Vec<PaymentId> = asked.map(|(payment, _)| *payment).collect();
        // The newest is the likeliest to be open.
        let open = |payment: &PaymentId| {
            let found = self.core.cloud().and_then(|cloud| cloud.child_payment(*payment));
            found.is_some_and(|payment| !payment.at_rest())
        };
        let Some(payment) = others.into_iter().find(open) else { return Ok(()) };
        if !self.strikes(Fault::AnswersForOther) {
            return Ok(());
        }
        let answer = PromptAnswer { payment, answer: ChildAnswer::Confirm, position: None, identified: None };
        let id = MessageId(self.random.of(Fault::AnswersForOther).bytes());
        let payload = Envelope::message(id, message::Up::PaymentPrompt(answer)).encode();
        let tag = self.machines[index].next_tag();
        self.send_up(connection, Up::Publish { tag, kind: Kind::PaymentPrompt, payload })
    }
}
