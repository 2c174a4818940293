//! The lane between the core and everybody: connections come and break, publishes go up, what is owed is pulled and
//! goes down (mqtt.md; correctness.md 7 to 13).

use cloud_core_flows::port::{ConnectionId, Credentials, Input, Output};
use schemas::ids::{CommandId, Hash};
use schemas::message::{self, CommandProgress, Outcome};
use schemas::signed::Verification;
use schemas::topic::Kind;

use super::facts::Word;
use super::fault::Fault;
use super::host::{Note, RequestKey};
use super::lane::{Connection, Down, Party, Up};
use super::{Happening, Violation, World, say};

/// Messages of the outbox under way on one connection.
const WINDOW: usize = 8;

impl World {
    pub(super) fn connect(&mut self, party: Party) {
        let run = match party {
            Party::Person(person) if self.people[person].connection.is_some() => return,
            Party::Machine(machine) if !self.machines[machine].may_connect() => return,
            _ => self.core.run,
        };
        if self.core.driver.is_none() {
            let wait = self.random.range(500, 4_000);
            self.after(wait, Happening::Connect(party));
            return;
        }
        self.next += 1;
        let id = self.next;
        self.connections.insert(id, Connection::new(party, run));
        match party {
            Party::Person(person) => self.people[person].connection = Some(id),
            Party::Machine(machine) => self.machines[machine].connection = Some(id),
        }
        self.send_up(id, Up::Connect);
    }

    pub(super) fn send_up(&mut self, id: u64, packet: Up) {
        let at = self.now + self.random.range(1, 40);
        let sent = self.connections.get_mut(&id).and_then(|connection| connection.up.send(at, packet));
        if let Some(at) = sent {
            self.after(at - self.now, Happening::ArriveUp(id));
        }
    }

    pub(super) fn send_down(&mut self, id: u64, packet: Down) {
        let at = self.now + self.random.range(1, 40);
        let sent = self.connections.get_mut(&id).and_then(|connection| connection.down.send(at, packet));
        if let Some(at) = sent {
            self.after(at - self.now, Happening::ArriveDown(id));
        }
    }

    /// A suffix of each direction is lost; both sides notice, one perhaps much later.
    pub(super) fn break_connection(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id).filter(|found| !found.is_broken()) else { return };
        let (up, down) = (connection.up.len() as u64 + 1, connection.down.len() as u64 + 1);
        let up_kept = self.random.index(up as usize);
        let down_kept = self.random.index(down as usize);
        let (up_at, down_at) = (self.noticed_at(), self.noticed_at());
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let up = connection.up.cut(up_kept, Up::Closed, up_at);
        let down = connection.down.cut(down_kept, Down::Closed, down_at);
        if let Some(at) = up {
            self.after(at.saturating_sub(self.now), Happening::ArriveUp(id));
        }
        if let Some(at) = down {
            self.after(at.saturating_sub(self.now), Happening::ArriveDown(id));
        }
    }

    fn noticed_at(&mut self) -> u64 {
        let late = self.strikes(Fault::HalfOpen);
        self.now + if late { self.random.range(5_000, 60_000) } else { self.random.range(1, 300) }
    }

    pub(super) fn arrive_up(&mut self, id: u64) -> Result<(), Violation> {
        let (now, run, runs) = (self.now, self.core.run, self.core.driver.is_some());
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some(packet) = connection.up.receive(now) else { return Ok(()) };
        if connection.run != run || !runs || connection.core_closed {
            return Ok(());
        }
        let (party, admitted) = (connection.party, connection.admitted);
        say!(self, format!("lane {id}"), "{}: {}", self.principal(party), packet.name());
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        match packet {
            Up::Connect => {
                let input = self.connect_input(id, party);
                self.core_handle(input)
            }
            Up::Subscribe if admitted => {
                connection.subscribed = true;
                self.send_down(id, Down::Subscribed);
                self.core_handle(Input::Subscribed { connection: ConnectionId(id) })?;
                self.pull(id)
            }
            Up::Publish { packet, promised, kind, payload } if admitted => {
                connection.awaiting.push_back((packet, promised));
                self.publish(id, party, packet, kind, payload)
            }
            Up::Acknowledge { message, code } if admitted => {
                connection.in_flight.remove(&message);
                self.core_handle(Input::Acknowledged { connection: ConnectionId(id), message, code })?;
                self.pull(id)
            }
            Up::Closed => {
                connection.core_closed = true;
                self.core_handle(Input::Closed { connection: ConnectionId(id) })
            }
            _ => Ok(()),
        }
    }

    fn connect_input(&self, id: u64, party: Party) -> Input {
        let (client, credentials) = match party {
            Party::Person(person) => {
                let principal = self.plan.people[person].principal.clone();
                let token_hash = Hash::of(principal.to_string().as_bytes());
                ("phone", Credentials::Token { principal, token_hash })
            }
            Party::Machine(machine) => {
                let principal = self.plan.machines[machine].principal.clone();
                let instance = self.machines[machine].settings.instance;
                ("agent", Credentials::Certificate { principal, instance, serial: Vec::new() })
            }
        };
        Input::Connect { connection: ConnectionId(id), client: client.to_owned(), credentials }
    }

    fn publish(
        &mut self,
        id: u64,
        party: Party,
        token: u64,
        kind: Kind,
        payload: Vec<u8>,
    ) -> Result<(), Violation> {
        let (request, word) = self.read_publish(party, kind, &payload);
        self.core_handle(Input::Publish { connection: ConnectionId(id), token, kind, payload })?;
        if let Some((command, word)) = word {
            self.facts.heard.entry(command).or_default().push(word);
        }
        let position = self.core.driver.as_ref().map_or(0, |driver| driver.decided().value());
        self.core.notes.insert((id, token), Note { position, request, word });
        Ok(())
    }

    fn read_publish(
        &mut self,
        party: Party,
        kind: Kind,
        payload: &[u8],
    ) -> (Option<RequestKey>, Option<(CommandId, Word)>) {
        let Ok(envelope) = message::Up::decode(kind, payload) else { return (None, None) };
        let request = match (party, envelope.key) {
            (Party::Person(person), Some(key)) => Some((self.plan.people[person].principal.clone(), key)),
            _ => None,
        };
        let said = match envelope.body {
            message::Up::PaymentVerification(said) => {
                if let Ok(read) = Verification::read_unverified(&said.verification) {
                    let (now, stamp) = (self.now, self.stamp());
                    let facts = self.facts.payment(read.payment);
                    facts.consent_heard_at.get_or_insert(now);
                    // A consent that has ended on its way is not a good one any more.
                    facts.verified_wrong |= read.expires_at < stamp;
                }
                None
            }
            message::Up::ExecutorCommand(said) => Some((said.command, said.outcome, said.delivered)),
            message::Up::CommandStatus(said) => match (said.progress, said.outcome) {
                (CommandProgress::NeverSeen, _) => Some((said.command, Outcome::Refused, 0)),
                (CommandProgress::Ended, Some(outcome)) => Some((said.command, outcome, said.delivered)),
                _ => None,
            },
            _ => None,
        };
        // Another enrolment's words are not those of the device that was commanded.
        let instance = match party {
            Party::Machine(machine) => Some(self.machines[machine].settings.instance),
            Party::Person(_) => None,
        };
        let said = said.filter(|(id, ..)| {
            self.facts.commands.get(id).is_none_or(|command| Some(command.instance) == instance)
        });
        let word = said.map(|(command, outcome, delivered)| {
            let mut payments = self.core.cloud().into_iter().flat_map(cloud_core_flows::Cloud::payments);
            let view = payments
                .find(|payment| payment.command.as_ref().is_some_and(|known| known.id == command))
                .map(|found| (found.state(), found.delivered()));
            let tenant = &self.plan.tenants[self.tenant_of(party)];
            let in_time = self.now < self.core.opened_at + tenant.deadlines.reconnect_ms;
            let graced = in_time && self.core.open_at_start.contains(&command);
            (command, Word { outcome, delivered, arrived_at: self.now, view, graced })
        });
        (request, word)
    }

    fn tenant_of(&self, party: Party) -> usize {
        match party {
            Party::Person(person) => self.plan.people[person].tenant,
            Party::Machine(machine) => self.plan.machines[machine].tenant,
        }
    }

    fn pull(&mut self, id: u64) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if !connection.subscribed || connection.core_closed {
            return Ok(());
        }
        if connection.pulling {
            connection.pull_again = true;
            return Ok(());
        }
        let max = WINDOW.saturating_sub(connection.in_flight.len());
        if max == 0 {
            return Ok(());
        }
        connection.pulling = true;
        let after = connection.after;
        say!(self, format!("lane {id}"), "pulls after {after}, at most {max}");
        self.core_handle(Input::Pull { connection: ConnectionId(id), after, max })
    }

    /// One output of the core leaves.
    pub(super) fn release(&mut self, output: Output) -> Result<(), Violation> {
        match output {
            Output::Standing { connection, result } => {
                let accepted = result.is_ok();
                if let Some(connection) = self.connections.get_mut(&connection.0) {
                    connection.admitted = accepted;
                }
                self.send_down(connection.0, Down::Accepted(accepted));
            }
            Output::Promise { connection, token, result } => {
                let code = result.map_or_else(|refusal| refusal.code(), |()| 0);
                self.release_promise(connection.0, token, code)?;
            }
            Output::Reply { connection, kind, payload } => {
                let subscribed = self.connections.get(&connection.0).filter(|found| found.subscribed);
                if let Some(party) = subscribed.map(|found| found.party) {
                    self.witness_down(party, kind, &payload)?;
                    self.send_down(connection.0, Down::Reply { kind, payload });
                }
            }
            Output::Wake { connection } => {
                say!(self, format!("lane {}", connection.0), "woken");
                self.pull(connection.0)?;
            }
            Output::Owed { connection, messages } => self.release_owed(connection.0, messages)?,
            Output::Disconnect { connection, .. } => {
                if let Some(found) = self.connections.get_mut(&connection.0) {
                    found.core_closed = true;
                    let kept = found.down.len();
                    let at = self.now + 20;
                    found.up.cut(0, Up::Closed, at);
                    if let Some(at) = found.down.cut(kept, Down::Closed, at) {
                        self.after(at.saturating_sub(self.now), Happening::ArriveDown(connection.0));
                    }
                }
            }
            Output::Bank(order) => self.bank_order(order)?,
            Output::Admin { ticket, reply } => {
                self.core.replies.insert(ticket, reply);
            }
            Output::Sign { ticket, order } => {
                self.core_handle(Input::Signed { ticket, order, certificate: vec![0x30] })?;
            }
            Output::Enrolled { ticket, result } => self.enrolled(ticket, &result)?,
        }
        Ok(())
    }

    fn release_promise(&mut self, id: u64, token: u64, code: u8) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some((packet, promised)) = connection.awaiting.pop_front() else {
            return Err(self.broken("correctness.md 8", "a PUBACK for nothing"));
        };
        if packet != token {
            let text = format!("PUBACK for {token} before the one for {packet}");
            return Err(self.broken("correctness.md 8", text));
        }
        if let Some(note) = self.core.notes.remove(&(id, token))
            && code < 0x80
        {
            self.core.told = self.core.told.max(note.position);
            if let Some(request) = note.request.and_then(|request| self.facts.requests.get_mut(&request)) {
                request.promised = true;
            }
            if let Some((command, word)) = note.word {
                self.facts.words.entry(command).or_default().push(word);
            }
        }
        if promised {
            self.send_down(id, Down::Promise { packet, code });
        }
        Ok(())
    }

    fn release_owed(
        &mut self,
        id: u64,
        messages: Vec<cloud_core_flows::port::OwedMessage>,
    ) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.pulling = false;
        let (party, again) = (connection.party, std::mem::take(&mut connection.pull_again));
        let more = again || !messages.is_empty();
        for owed in messages {
            self.witness_down(party, owed.kind, &owed.payload)?;
            if let Some(connection) = self.connections.get_mut(&id) {
                if owed.sequence <= connection.after {
                    return Err(self.broken("MQTT-4.4.0-1", "sent again on the same connection"));
                }
                connection.after = owed.sequence;
                connection.in_flight.insert(owed.message);
            }
            let (message, kind, payload) = (owed.message, owed.kind, owed.payload);
            self.send_down(id, Down::Publish { message, kind, payload });
        }
        if more { self.pull(id) } else { Ok(()) }
    }
}
