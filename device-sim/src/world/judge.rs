//! What is checked while the world runs: nothing reaches a principal that is not its own, no command without the
//! bank's success, the same answer to the same request. And when it has come to rest: that it has.

use cloud_core_flows::admin::{AdminAnswer, AdminCommand};
use schemas::ids::{PaymentId, Principal};
use schemas::message::{Down, ExecutorCommand, PaymentState, PaymentStatus, RequestAnswer};
use schemas::topic::Kind;

use super::facts::{CommandFacts, Wish};
use super::lane::Party;
use super::machine::state_on;
use super::plan::LONGEST_ACT_MS;
use super::{Violation, World, say};

impl World {
    /// A message leaves the core for this principal.
    pub(super) fn witness_down(&mut self, to: Party, kind: Kind, payload: &[u8]) -> Result<(), Violation> {
        let envelope = Down::decode(kind, payload);
        let envelope = envelope.map_err(|error| self.broken("wire", format!("the core sends: {error}")))?;
        let who = self.principal(to);
        say!(self, format!("core>{}", who.id), "{}", shortened(&envelope.body));
        let own = match &envelope.body {
            Down::RequestAnswer(answer) => return self.witness_answer(&who, answer),
            Down::PaymentVerification(request) => {
                let own = self.payer(request.payment).as_ref() == Some(&who);
                if own {
                    let answer_by = Some(request.answer_by.0);
                    let facts = self.facts.payment(request.payment);
                    facts.answer_by = facts.answer_by.max(answer_by);
                    self.witness_claim(request.payment)?;
                }
                own
            }
            Down::PaymentStatus(status) => {
                self.witness_status(&who, status)?;
                self.may_hear(&who, status.payment) || self.may_hear_of_order(&who, status)
            }
            Down::HealthCheck(check) => {
                let offer = self.facts.offer_by_hash.get(&check.information_hash);
                let chip = offer.map(|offer| Party::Machine(self.facts.offers[*offer].chip));
                chip == Some(to)
            }
            Down::ExecutorCommand(command) => {
                self.witness_command(to, command)?;
                true
            }
            Down::CommandStatus(question) => {
                let machine = self.facts.commands.get(&question.command).map(|facts| facts.machine);
                machine.is_none_or(|machine| to == Party::Machine(machine))
            }
            Down::PaymentPrompt(prompt) => {
                self.witness_prompt(to, prompt)?;
                true
            }
            Down::ChildView(view) => {
                let child = Principal { tenant: who.tenant.clone(), id: view.child.clone() };
                self.has_used(&child, &who)
            }
            Down::PaymentCode(code) => {
                self.witness_code(to, code)?;
                true
            }
            Down::Places(_) => matches!(to, Party::Machine(_)),
            Down::PaySuggestion(asked) => {
                self.witness_suggestion(to, asked)?;
                true
            }
            Down::Wish(notice) => {
                self.witness_notice(to, notice)?;
                true
            }
            Down::CloudTime(_) | Down::Refused(_) => true,
        };
        if own {
            Ok(())
        } else {
            Err(self.broken("delivery", format!("{who} gets what is not its own: {:?}", envelope.body)))
        }
    }

    pub(super) fn principal(&self, party: Party) -> Principal {
        match party {
            Party::Person(index) => self.plan.people[index].principal.clone(),
            Party::Machine(index) => self.plan.machines[index].principal.clone(),
        }
    }

    pub(super) fn payer(&self, payment: PaymentId) -> Option<Principal> {
        self.facts.payments.get(&payment)?.request.as_ref().map(|(payer, _)| payer.clone())
    }

    /// The offer that a payment was asked for with.
    pub(super) fn offer_of(&self, payment: PaymentId) -> Option<usize> {
        let request = self.facts.payments.get(&payment)?.request.as_ref()?;
        match self.facts.requests.get(request)?.wish {
            Wish::Pay { offer } => Some(offer),
            Wish::Cancel { .. }
            | Wish::Refund { .. }
            | Wish::Order { .. }
            | Wish::Limit { .. }
            | Wish::Scan { .. }
            | Wish::Allow { .. }
            | Wish::Own { .. }
            | Wish::Choose { .. }
            | Wish::Decline { .. } => None,
        }
    }

    fn may_hear(&self, who: &Principal, payment: PaymentId) -> bool {
        let Some(payer) = self.payer(payment) else { return false };
        let chip = self.offer_of(payment).map(|offer| self.facts.offers[offer].information.chip.clone());
        let is_till = who.tenant == payer.tenant && who.id.as_str() == "till";
        *who == payer || chip.as_ref() == Some(who) || is_till
    }

    /// MO-3: the same request has the same answer, whatever was restarted in between.
    fn witness_answer(&mut self, who: &Principal, answer: &RequestAnswer) -> Result<(), Violation> {
        let passing = ["key_reused", "request_expired", "not_after_too_far", "too_many_requests", "no_room"];
        if answer.refused.as_ref().is_some_and(|code| passing.contains(&code.as_str())) {
            return Ok(());
        }
        let Some(request) = self.facts.requests.get_mut(&(who.clone(), answer.key)) else {
            return Err(self.broken("delivery", format!("{who} gets an answer to what it never asked")));
        };
        let synced = self.core.driver.as_ref().map_or(0, |driver| driver.journal().synced().value());
        if request.heard.is_some_and(|(run, position)| run == self.core.run && position > synced) {
            let text = format!("{who} is answered from what is not on disk");
            return Err(self.broken("MO-5 durable before visible", text));
        }
        let same = request.answer.as_ref().is_none_or(|known| known == answer);
        request.answer = Some(answer.clone());
        let wish = request.wish;
        if !same {
            return Err(self.broken("MO-3", format!("{who} gets two answers to {wish:?}")));
        }
        match (wish, answer.payment) {
            (Wish::Refund { payment }, Some(_)) if !self.facts.family.orders.contains_key(&payment) => {
                self.facts.payment(payment).merchant_refunded = true
            }
            (Wish::Pay { .. }, Some(id)) if self.payer(id).as_ref() != Some(who) => {
                return Err(self.broken("delivery", format!("{who} is told of the payment {id} of another")));
            }
            _ if !self.is_answer_to(wish, who, answer) => {
                return Err(self.broken("delivery", format!("{who} is told of another's: {answer:?}")));
            }
            _ => {}
        }
        Ok(())
    }

    /// CP-12: nobody is told of an end at which the payer has paid less than the bank has taken by then.
    fn witness_status(&self, who: &Principal, status: &PaymentStatus) -> Result<(), Violation> {
        let is_end = matches!(
            status.state,
            PaymentState::Refused
                | PaymentState::Declined
                | PaymentState::Expired
                | PaymentState::BankRefused
                | PaymentState::Cancelled
                | PaymentState::Refunded
                | PaymentState::DeliveredInPart
        );
        let key = self.facts.payments.get(&status.payment).and_then(|facts| facts.transfer_key);
        let moved = key.filter(|_| is_end).and_then(|key| self.bank.moved(key, &self.plan));
        match moved {
            Some((_, amount, refunded)) if amount.saturating_sub(refunded) > status.paid.minor => {
                let text = format!(
                    "{who} is told that payment {} is {} with {} paid, and the bank has {} minor units",
                    status.payment,
                    status.state,
                    status.paid,
                    amount - refunded
                );
                Err(self.broken("CP-12", text))
            }
            _ => Ok(()),
        }
    }

    /// correctness.md 20: whom the operator has revoked gets in no more, whatever it shows.
    pub(super) fn witness_standing(&self, connection: u64, accepted: bool) -> Result<(), Violation> {
        let party = self.connections.get(&connection).map(|connection| connection.party);
        match party {
            Some(Party::Machine(machine)) if accepted && self.machines[machine].revoked => {
                let who = &self.machines[machine].settings.principal;
                Err(self.broken("correctness.md 20", format!("{who} is revoked, and may connect")))
            }
            _ => Ok(()),
        }
    }

    /// Only one payment of an offer passes the health check, and only of one that the chip has issued.
    fn witness_claim(&mut self, payment: PaymentId) -> Result<(), Violation> {
        let Some(offer) = self.offer_of(payment) else { return Ok(()) };
        let offer = &mut self.facts.offers[offer];
        let first = *offer.asked_for.get_or_insert(payment);
        if !offer.issued {
            return Err(self.broken("CP-3", "a payer is asked to pay for what the chip never issued"));
        }
        if first != payment {
            return Err(self.broken("nonce_used", "two payments claim one payment information"));
        }
        Ok(())
    }

    /// CP-8: after, and only after, the bank's success, to the executor of that chip, at most one per payment.
    fn witness_command(&mut self, to: Party, command: &ExecutorCommand) -> Result<(), Violation> {
        let payment = command.payment;
        let offer = self.offer_of(payment);
        let executor = offer.and_then(|offer| self.plan.machines[self.facts.offers[offer].chip].executor);
        let Some(machine) = executor.filter(|machine| to == Party::Machine(*machine)) else {
            return Err(self.broken("CP-8", format!("command of payment {payment} goes to a stranger")));
        };
        self.witness_consent(payment)?;
        let tenant = self.plan.machines[machine].tenant;
        if self.plan.is_http(tenant) {
            let key = self.facts.payment(payment).transfer_key.unwrap_or_default();
            let moved = self.bank.moved(key, &self.plan);
            if !matches!(moved, Some((true, amount, 0)) if amount > 0) {
                return Err(
                    self.broken("CP-8", format!("command of payment {payment} without money: {moved:?}"))
                );
            }
        }
        let known = *self.facts.payment(payment).command.get_or_insert(command.command);
        if known != command.command {
            return Err(self.broken("CP-9", format!("payment {payment} has two commands")));
        }
        let report_ms = self.plan.tenants[tenant].deadlines.report_ms;
        let start_by = command.start_by.0;
        let settle_at = start_by + LONGEST_ACT_MS + report_ms;
        self.facts.commands.entry(command.command).or_insert_with(|| CommandFacts {
            machine,
            instance: command.instance,
            quantity: command.quantity,
            start_by,
            settle_at,
            acts: 0,
            items_out: 0,
            lied: false,
            on_wire: std::collections::BTreeSet::new(),
            orphaned: false,
        });
        Ok(())
    }

    /// Why the world is not at rest yet.
    pub(super) fn unrest(&self) -> Option<String> {
        let Some(cloud) = self.core.cloud() else { return Some("the core is away".to_owned()) };
        if cloud.open_payments() > 0 {
            let open: Vec<String> = cloud
                .payments()
                .filter(|payment| !payment.at_rest())
                .map(|payment| format!("{} {:?}", payment.id, payment.phase))
                .collect();
            let of_children = cloud.child_payments().filter(|payment| !payment.at_rest());
            let of_children = of_children.map(|payment| format!("{} {:?}", payment.id, payment.phase));
            let open: Vec<String> = open.into_iter().chain(of_children).collect();
            return Some(format!("open payments: {}", open.join("; ")));
        }
        // Without a piggy bank a child may be told of what it gets, and has no terminal here that would fetch it.
        let children = self.plan.family.iter().flat_map(|family| &family.children);
        let children = children.filter(|_| self.facts.family.lost_a_screen());
        let unfetched: usize = children.map(|child| cloud.outbox().depth(&child.principal)).sum();
        if cloud.outbox().total() > unfetched {
            let owed = self.plan.people.iter().map(|person| &person.principal);
            let owed =
                owed.chain(self.plan.machines.iter().map(|machine| &machine.principal)).flat_map(|who| {
                    let messages = cloud.outbox().owed(who, 0, 4);
                    messages.into_iter().map(move |message| format!("{who} {}", message.kind))
                });
            return Some(format!("messages are owed: {}", owed.collect::<Vec<_>>().join(", ")));
        }
        for machine in self.machines.iter().filter(|machine| !machine.revoked) {
            let who = &machine.settings.principal;
            if machine.errand.is_some() {
                return Some(format!("{who} is being revoked or replaced"));
            }
            let Some(device) = machine.device() else { return Some(format!("{who} is away")) };
            if !machine.front.is_dark() || device.state().open_prompts() > 0 {
                return Some(format!("{who} asks a child"));
            }
            if machine.connection.is_none() || machine.state_told != machine.connection {
                return Some(format!("{who} is not connected"));
            }
            let spooled = device.state().spooled().count();
            if spooled > 0 {
                return Some(format!("{who} has {spooled} messages to tell"));
            }
            if !device.status(0).open_commands.is_empty() {
                return Some(format!("{who} has open commands"));
            }
        }
        if cloud.own_payments().any(|payment| payment.is_suggested()) {
            return Some("somebody is asked whether to pay through a child".to_owned());
        }
        if self.facts.family.errand.is_some() {
            return Some("a child's bonds are being changed".to_owned());
        }
        let waiting = self.people.iter().map(super::people::Person::waits).sum::<usize>();
        if waiting > 0 {
            return Some(format!("{waiting} messages of people wait for a promise"));
        }
        (self.now < self.plan.faults_end_ms + 200_000).then(|| "late words may still come".to_owned())
    }

    /// The world is at rest. True: it is also done. Else the operator has settled what was in the queue, and it must
    /// come to rest once more.
    pub(super) fn judge(&mut self) -> Result<bool, Violation> {
        self.core_settle()?;
        self.check_replay()?;
        self.check_presence()?;
        self.check_chains()?;
        let ends = self.audit()?;
        if self.is_resolved {
            for (row, count) in ends.into_iter().filter(|(row, _)| row.contains("then")) {
                *self.rows.entry(row).or_default() += count;
            }
            return Ok(true);
        }
        self.rows = ends;
        self.is_resolved = true;
        let some = self.resolve_exceptions()?;
        Ok(!some)
    }
}

impl World {
    /// correctness.md 13: at rest everybody is back, and the operator sees what each device said on the connection
    /// that it has now, not the will of one that is gone.
    fn check_presence(&mut self) -> Result<(), Violation> {
        let AdminAnswer::Devices(rows) = self.operate_now(AdminCommand::ListDevices)? else {
            return Err(Violation::harness("no list of devices"));
        };
        for machine in self.machines.iter().filter(|machine| !machine.revoked) {
            let (who, Some(connection)) = (&machine.settings.principal, machine.state_told) else {
                return Err(Violation::harness("a device at rest has not told its state"));
            };
            let row = rows.iter().find(|row| row.device == *who);
            let said = String::from_utf8_lossy(&state_on(connection)).into_owned();
            let seen = row.filter(|row| row.presence.connected).and_then(|row| row.presence.state.clone());
            if seen.as_deref() != Some(said.as_str()) {
                let text = format!("{who} is {said}, and the operator sees {seen:?}");
                return Err(self.broken("correctness.md 13", text));
            }
        }
        Ok(())
    }
}

impl World {
    /// MO-8: the hash chain of every journal holds, from the first frame that is kept to the last.
    fn check_chains(&self) -> Result<(), Violation> {
        let core = ("the core", self.core.verify());
        let machines =
            self.machines.iter().map(|machine| (machine.settings.principal.id.as_str(), machine.verify()));
        for (whose, verified) in std::iter::once(core).chain(machines) {
            let report = verified.map_err(|error| self.broken("MO-8", format!("{whose}: {error}")))?;
            if let Some(problem) = report.problem {
                return Err(self.broken("MO-8", format!("the journal of {whose}: {problem:?}")));
            }
        }
        Ok(())
    }
}

fn shortened(body: &Down) -> String {
    match body {
        Down::PaymentStatus(status) => {
            format!("{} of {}: {} paid {}", status.state, status.payment, status.text, status.paid)
        }
        Down::RequestAnswer(answer) => match (&answer.refused, answer.payment) {
            (Some(code), _) => format!("refused: {code}"),
            (None, Some(payment)) => format!("accepted: {payment}"),
            (None, None) => "accepted".to_owned(),
        },
        Down::HealthCheck(check) => format!("health check of {}", check.payment),
        Down::PaymentVerification(request) => format!("verify {} for {}", request.amount, request.payment),
        Down::ExecutorCommand(command) => {
            format!("deliver {} {} for {}", command.quantity, command.item, command.payment)
        }
        Down::CommandStatus(question) => format!("what became of command {}", question.command),
        Down::ChildView(view) => format!("{} has {}", view.child, view.available),
        Down::PaymentPrompt(prompt) => format!("ask {} for {}", prompt.child, prompt.amount),
        Down::PaymentCode(code) => format!("pay {} with a code: {}", code.amount, code.payment),
        Down::PaySuggestion(asked) => format!("pay {} through a child?", asked.amount),
        Down::Wish(wish) => format!("{} wishes: {}", wish.child, wish.text),
        Down::Places(answer) => format!("places, version {}", answer.version),
        Down::CloudTime(answer) => format!("it is {}", answer.now),
        Down::Refused(refused) => format!("refused: {}", refused.code),
    }
}
