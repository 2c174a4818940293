//! The hardware of the machines and the counter of the chips: what acts, what falls out, what is offered, and a device's
//! word held against what its hardware did (CP-8 to CP-11).

use edge_agent_device::{HardwareResult, IssueRequest};
use schemas::ids::{Code, CommandId, ItemId, Nonce};
use schemas::message;
use schemas::topic::Kind;

use super::facts::Offer;
use super::fault::Fault;
use super::plan::LONGEST_ACT_MS;
use super::{Happening, Violation, World, say};

/// Hardware.
impl World {
    pub(super) fn hardware_acts(
        &mut self,
        index: usize,
        command: CommandId,
        item: &ItemId,
        quantity: u32,
    ) -> Result<(), Violation> {
        let who = self.machines[index].settings.principal.clone();
        say!(self, who, "acts: {quantity} {item} for command {command}");
        let Some(facts) = self.facts.commands.get_mut(&command) else {
            return Err(self.broken("CP-8", format!("{who} acts on a command that nobody sent")));
        };
        facts.acts += 1;
        let (start_by, refused) = (facts.start_by, facts.on_wire.contains(&(message::Outcome::Refused, 0)));
        if facts.acts > 1 || facts.machine != index || facts.quantity != quantity {
            return Err(self.broken("CP-9", format!("{who} acts again, or otherwise, on {command}")));
        }
        if refused {
            return Err(self.broken("CP-9", format!("{who} acts on {command}, which it has refused")));
        }
        // Its disk may have been slow since it decided to act; before that it had to know that it was in time.
        let decided_from = self.machines[index].appended_from;
        let sets_clock = self.mix.has(Fault::CoreClockSet);
        if !sets_clock && self.core_time(decided_from) > start_by {
            let text =
                format!("{who} began {command} at {decided_from} ms or later, and had to by {start_by}");
            return Err(self.broken("correctness.md 14", text));
        }
        let took_ms = self.random.hardware.range(200, 8_000);
        let (result, out, says_after) = self.draw_act(quantity, took_ms);
        let run = self.machines[index].run;
        let stops = self.random.hardware.chance(500);
        self.after(
            took_ms.saturating_sub(100),
            Happening::HardwareMoves { machine: index, run, command, units: out, stops },
        );
        if let Some(result) = result {
            if let Some(facts) = self.facts.commands.get_mut(&command) {
                facts.lied = says_other(&result, out, quantity);
            }
            self.after(says_after, Happening::HardwareSays(index, run, command, result));
        }
        Ok(())
    }

    /// What it says (or nothing), what falls out, and when it speaks.
    fn draw_act(&mut self, quantity: u32, took_ms: u64) -> (Option<HardwareResult>, u32, u64) {
        let code = || Code::known("jam");
        let some = self.random.hardware.units(0, quantity);
        if self.strikes(Fault::ActHangs) {
            return (None, some, 0);
        }
        if self.strikes(Fault::ActUnknown) {
            return (Some(HardwareResult::Unknown { code: code() }), some, took_ms);
        }
        let late = self.strikes(Fault::ActLate);
        let after =
            if late { LONGEST_ACT_MS + self.random.of(Fault::ActLate).range(3_000, 90_000) } else { took_ms };
        let (result, out) = if self.strikes(Fault::ActFails) {
            (HardwareResult::Failed { code: code() }, 0)
        } else if quantity > 1 && self.strikes(Fault::ActInPart) {
            let delivered = self.random.of(Fault::ActInPart).units(1, quantity - 1);
            (HardwareResult::DoneInPart { delivered }, delivered)
        } else {
            (HardwareResult::Done, quantity)
        };
        let out = if self.strikes(Fault::ActLies) { quantity - out } else { out };
        (Some(result), out, after)
    }

    pub(super) fn hardware_moves(
        &mut self,
        index: usize,
        run: u64,
        command: CommandId,
        units: u32,
        stops: bool,
    ) {
        // Some machines stop with their computer, some go on.
        if stops && self.machines[index].run != run {
            return;
        }
        if let Some(facts) = self.facts.commands.get_mut(&command) {
            facts.items_out += units;
        }
    }

    pub(super) fn hardware_says(
        &mut self,
        index: usize,
        run: u64,
        command: CommandId,
        result: HardwareResult,
    ) {
        if self.machines[index].run == run {
            self.with_device(index, |device, boot_ms| device.handle_hardware(command, result, boot_ms));
        }
    }
}

fn says_other(result: &HardwareResult, out: u32, quantity: u32) -> bool {
    match result {
        HardwareResult::Done => out != quantity,
        HardwareResult::DoneInPart { delivered } => out != *delivered,
        HardwareResult::Failed { .. } => out != 0,
        HardwareResult::Unknown { .. } => false,
    }
}

/// The chip's counter: somebody wants to buy.
impl World {
    pub(super) fn ask_for_information(
        &mut self,
        chip: usize,
        ticket: u64,
        item: &ItemId,
        quantity: u32,
    ) -> bool {
        let nonce = Nonce(self.random.ids.bytes());
        let key = self.plan.machines[chip].key.clone();
        let request = IssueRequest { ticket, item: item.clone(), quantity, valid_ms: None };
        self.with_device(chip, |device, boot_ms| device.handle_issue_request(&request, nonce, &key, boot_ms))
            .is_some()
    }

    pub(super) fn information_issued(
        &mut self,
        chip: usize,
        ticket: u64,
        result: Result<edge_agent_device::Issued, edge_agent_device::IssueRefusal>,
    ) {
        let purchase = usize::try_from(ticket).unwrap_or(0);
        match result {
            Ok(issued) => {
                let offer = self.facts.add_offer(Offer {
                    signed: issued.signed,
                    information: issued.information,
                    chip,
                    issued: true,
                    asked_for: None,
                });
                self.offered(purchase, offer);
            }
            Err(why) => {
                say!(self, "chip", "issues nothing: {why}");
                self.try_purchase_again(purchase);
            }
        }
    }

    /// What a device says of a command, held against what its hardware did.
    pub(super) fn witness_word(&mut self, index: usize, kind: Kind, payload: &[u8]) -> Result<(), Violation> {
        let Ok(envelope) = message::Up::decode(kind, payload) else {
            return Err(self.broken("wire", "a device sends what cannot be read"));
        };
        use message::{CommandProgress, ExecutorOutcome, Outcome};
        let said = match envelope.body {
            message::Up::ExecutorCommand(said) => said,
            message::Up::PaymentPrompt(said) => return self.witness_child(index, &said),
            message::Up::Wish(said) => return self.witness_child_wish(index, &said),
            message::Up::WishWithdraw(said) => return self.witness_taking_back(index, said.wish),
            message::Up::CommandStatus(said) if said.progress == CommandProgress::NeverSeen => {
                ExecutorOutcome { command: said.command, outcome: Outcome::Refused, delivered: 0, code: None }
            }
            _ => return Ok(()),
        };
        let instance = self.machines[index].settings.instance;
        let Some(facts) = self.facts.commands.get_mut(&said.command) else { return Ok(()) };
        if facts.instance != instance {
            return Ok(());
        }
        let honest = match said.outcome {
            Outcome::Done => facts.items_out == facts.quantity,
            Outcome::DoneInPart => facts.items_out == said.delivered,
            Outcome::Failed => facts.items_out == 0,
            Outcome::Refused => facts.acts == 0,
            Outcome::Unknown => true,
        };
        facts.on_wire.insert((said.outcome, said.delivered));
        let lied = facts.lied;
        if honest || lied {
            return Ok(());
        }
        let who = self.machines[index].settings.principal.clone();
        Err(self.broken("CP-10, CP-11", format!("{who} reports {said:?}, which its hardware did not do")))
    }
}
