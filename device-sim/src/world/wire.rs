//! Between the network and the core: the broker's real session at the core's end of every connection, moved by bytes,
//! time and the core's outputs just as the broker moves it over sockets (mqtt.md; correctness.md 7 to 13).

use broker_session::{
    self as session, ConnectRefusal, Event, Owed, Promise, PublishToken, Qos, Secret, Session, Version,
};
use cloud_core_flows::port::{
    ConnectionId, Credentials, DisconnectReason, Input, Output, OwedMessage, StandingRefusal,
};
use schemas::ids::{CommandId, Hash, MessageId};
use schemas::message::{self, CommandProgress, Outcome};
use schemas::signed::{PaymentInformation, Proven, PublicKey, ReadyKey, Verification};
use schemas::topic::Kind;

use super::client::{Client, Down, Saying, Up};
use super::facts::Word;
use super::family_facts::What;
use super::fault::Fault;
use super::lane::{Connection, Party, Piece};
use super::tap::{Broken, Note, RequestKey, Sight};
use super::{Happening, Violation, World, say};

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Making and breaking connections, and what travels on them.
impl World {
    pub(super) fn connect(&mut self, party: Party) -> Result<(), Violation> {
        match party {
            Party::Person(person) if self.people[person].connection.is_some() => return Ok(()),
            Party::Machine(machine) if !self.machines[machine].may_connect() => return Ok(()),
            _ => {}
        }
        if self.core.driver.is_none() {
            let soon = self.random.network.range(500, 4_000);
            let late = self.strikes(Fault::TriesLate);
            let wait = if late { self.random.of(Fault::TriesLate).range(2_000, 28_000) } else { soon };
            self.after(wait, Happening::Connect(party));
            return Ok(());
        }
        self.next += 1;
        let id = self.next;
        let client = Client::new(&self.principal(party), self.habits(party), self.now);
        let hello = client.connect().map_err(|error| Violation::harness(error.to_string()))?;
        let limits = self.plan.lane.clone();
        let connection = Connection::new(id, party, client, limits, self.now);
        self.connections.insert(id, connection);
        match party {
            Party::Person(person) => self.people[person].connection = Some(id),
            Party::Machine(machine) => self.machines[machine].connection = Some(id),
        }
        self.send_sayings(id, vec![hello]);
        self.set_alarms(id);
        Ok(())
    }

    /// A client says something.
    pub(super) fn send_up(&mut self, id: u64, up: Up) -> Result<(), Violation> {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let sayings = connection.client.say(now, up);
        let sayings = sayings.map_err(|error| Violation::harness(error.to_string()))?;
        self.send_sayings(id, sayings);
        Ok(())
    }

    pub(super) fn send_sayings(&mut self, id: u64, sayings: Vec<Saying>) {
        for saying in sayings {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.sent += saying.bytes.len() as u64;
                if let Some(mark) = saying.mark {
                    connection.tap.sent(connection.sent, mark);
                }
            }
            self.send(id, Way::Up, saying.bytes);
        }
    }

    /// Bytes travel in one or two pieces.
    fn send(&mut self, id: u64, way: Way, mut bytes: Vec<u8>) {
        let splits = bytes.len() > 1 && self.random.network.chance(100);
        let rest = splits.then(|| bytes.split_off(1 + self.random.network.index(bytes.len() - 1)));
        for piece in [Some(bytes), rest].into_iter().flatten() {
            let fault = if way == Way::Down { Fault::SlowReader } else { Fault::SlowWriter };
            let slow = self.strikes(fault);
            let ordinary = self.random.network.range(1, 40);
            let wait = if slow { self.random.of(Fault::SlowReader).range(1_000, 60_000) } else { ordinary };
            let at = self.now + wait;
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let (stream, happening) = match way {
                Way::Up => (&mut connection.up, Happening::ArriveUp(id)),
                Way::Down => (&mut connection.down, Happening::ArriveDown(id)),
            };
            if let Some(at) = stream.send(at, Piece::Bytes(piece)) {
                self.after(at - self.now, happening);
            }
        }
    }

    /// A suffix of each direction is lost; both sides notice, one perhaps much later.
    pub(super) fn break_connection(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id).filter(|found| !found.is_broken()) else { return };
        let (up, down) = (connection.up.bytes() + 1, connection.down.bytes() + 1);
        let (up_kept, down_kept) = (self.random.network.index(up), self.random.network.index(down));
        let (up_at, down_at) = (self.noticed_at(), self.noticed_at());
        self.cut(id, Way::Up, up_kept, up_at);
        self.cut(id, Way::Down, down_kept, down_at);
    }

    fn cut(&mut self, id: u64, way: Way, kept: usize, noticed_at: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (stream, happening) = match way {
            Way::Up => (&mut connection.up, Happening::ArriveUp(id)),
            Way::Down => (&mut connection.down, Happening::ArriveDown(id)),
        };
        if let Some(at) = stream.cut(kept, noticed_at) {
            self.after(at.saturating_sub(self.now), happening);
        }
    }

    fn noticed_at(&mut self) -> u64 {
        let late = self.strikes(Fault::HalfOpen);
        let ordinary = self.random.network.range(1, 300);
        self.now + if late { self.random.of(Fault::HalfOpen).range(5_000, 120_000) } else { ordinary }
    }

    /// The core's process is dead, and with it its ends of all connections.
    pub(super) fn lane_dies(&mut self) {
        let connections: Vec<u64> = self.connections.keys().copied().collect();
        for id in connections {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.session = None;
            }
            self.break_connection(id);
        }
    }

    pub(super) fn arrive_up(&mut self, id: u64) -> Result<(), Violation> {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some(piece) = connection.up.receive(now) else { return Ok(()) };
        let Some(session) = connection.session.as_mut() else { return Ok(()) };
        match piece {
            Piece::Bytes(bytes) => {
                connection.arrived += bytes.len() as u64;
                connection.tap.arrived(connection.arrived);
                connection.unread.extend(bytes);
            }
            Piece::End => session.handle_connection_lost(),
        }
        self.pump(id)
    }

    pub(super) fn arrive_down(&mut self, id: u64) -> Result<(), Violation> {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some(piece) = connection.down.receive(now) else { return Ok(()) };
        let party = connection.party;
        let heard = match piece {
            Piece::End => vec![Down::Closed],
            Piece::Bytes(bytes) => {
                let heard = connection.client.hear(&bytes);
                let (heard, sayings) = heard.map_err(|error| self.broken("wire", error.to_string()))?;
                self.send_sayings(id, sayings);
                heard
            }
        };
        for down in heard {
            match party {
                Party::Machine(machine) => self.machine_hears(machine, id, down)?,
                Party::Person(person) => self.person_hears(person, id, down)?,
            }
        }
        // The socket has room again.
        self.pump(id)
    }

    /// The client looks at the time: it keeps its connection alive, or gives it up.
    pub(super) fn client_alarm(&mut self, id: u64) -> Result<(), Violation> {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.client_alarm = None;
        let party = connection.party;
        if connection.down.is_broken() && connection.down.is_empty() {
            return Ok(());
        }
        if connection.client.gives_up(now) {
            say!(self, self.principal(party), "gives connection {id} up");
            self.break_connection(id);
            return match party {
                Party::Machine(machine) => self.machine_hears(machine, id, Down::Closed),
                Party::Person(person) => self.person_hears(person, id, Down::Closed),
            };
        }
        if connection.client.due().is_some_and(|due| due <= now) {
            self.send_up(id, Up::Ping)?;
        }
        self.set_alarms(id);
        Ok(())
    }

    pub(super) fn session_alarm(&mut self, id: u64) -> Result<(), Violation> {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.session_alarm = None;
        if let Some(session) = connection.session.as_mut() {
            session.handle_timeout(now);
        }
        self.pump(id)
    }

    /// Once a second: clients that repeat themselves, that meddle with what is not theirs, that send what is no MQTT.
    pub(super) fn trouble_lane(&mut self) -> Result<(), Violation> {
        let live = self.connections.iter().filter(|(_, connection)| !connection.is_broken());
        let live: Vec<u64> = live.map(|(id, _)| *id).collect();
        for id in live {
            if self.strikes(Fault::Break) {
                self.break_connection(id);
            }
            let is_v3 =
                self.connections.get(&id).is_some_and(|found| found.client.version() == Version::V3_1_1);
            if is_v3 && self.strikes(Fault::SendsDup) {
                let again = self.connections.get(&id).map(|connection| connection.client.say_again());
                let again = again.transpose().map_err(|error| Violation::harness(error.to_string()))?;
                self.send_sayings(id, again.flatten().into_iter().collect());
            }
            if self.strikes(Fault::Trespass) {
                self.trespass(id)?;
            }
            if self.strikes(Fault::Garbage) {
                let bytes: [u8; 40] = self.random.of(Fault::Garbage).bytes();
                self.send_sayings(id, vec![Saying { bytes: bytes.to_vec(), mark: None }]);
                // It might be the beginning of a packet that never ends: the client is broken, and so it begins anew.
                self.break_connection(id);
            }
        }
        Ok(())
    }

    /// Somebody publishes, or listens, where only others may.
    fn trespass(&mut self, id: u64) -> Result<(), Violation> {
        let Some(party) = self.connections.get(&id).map(|connection| connection.party) else { return Ok(()) };
        let own = self.principal(party);
        let other = Party::Person(self.random.of(Fault::Trespass).index(self.people.len()));
        let other = self.principal(other);
        let (up, listens) = match self.random.of(Fault::Trespass).index(6) {
            0 => (format!("ft/{own}/down/payment-status"), false),
            1 => ("$SYS/broker".to_owned(), false),
            2 if own != other => (format!("ft/{other}/up/status-request"), false),
            3 if own != other => (format!("ft/{other}/down/#"), true),
            4 => ("ft/+/+/down/#".to_owned(), true),
            _ => ("#".to_owned(), true),
        };
        let nonsense: [u8; 16] = self.random.of(Fault::Trespass).bytes();
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let sayings = if listens {
            connection.client.listen(&up)
        } else {
            connection.client.trespass(&up, nonsense.to_vec())
        };
        self.send_sayings(id, sayings.map_err(|error| Violation::harness(error.to_string()))?);
        Ok(())
    }

    fn set_alarms(&mut self, id: u64) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let due = connection.session.as_ref().and_then(Session::poll_timeout).map(|due| due.max(now));
        let session = due.filter(|due| connection.session_alarm.is_none_or(|at| at > *due));
        connection.session_alarm = session.or(connection.session_alarm);
        let due = connection.client.due().map(|due| due.max(now));
        let client = due.filter(|due| connection.client_alarm.is_none_or(|at| at > *due));
        connection.client_alarm = client.or(connection.client_alarm);
        if let Some(at) = session {
            self.after(at - now, Happening::SessionAlarm(id));
        }
        if let Some(at) = client {
            self.after(at - now, Happening::ClientAlarm(id));
        }
    }
}

/// The core's end.
impl World {
    /// Moves everything that can move: bytes in, events to the core, bytes out.
    fn pump(&mut self, id: u64) -> Result<(), Violation> {
        let now = self.now;
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
            let Some(session) = connection.session.as_mut() else { return Ok(()) };
            if !connection.unread.is_empty() && session.wants_bytes() {
                let bytes = std::mem::take(&mut connection.unread);
                session.handle_bytes(now, &bytes);
            }
            let event = session.poll_event();
            let had_event = event.is_some();
            if let Some(event) = event {
                self.session_says(id, event)?;
            }
            let wrote = self.write(id)?;
            if !had_event && !wrote {
                break;
            }
        }
        self.set_alarms(id);
        Ok(())
    }

    /// What the session has for its client leaves, as far as the socket takes it.
    fn write(&mut self, id: u64) -> Result<bool, Violation> {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(false) };
        let polled = connection.session.as_mut().and_then(Session::poll_transmit);
        let mut wrote = polled.is_some();
        let sights = match &polled {
            Some(bytes) => connection.tap.left(bytes),
            None => Ok(Vec::new()),
        };
        connection.unwritten.extend(polled.into_iter().flatten());
        let bytes = connection.writable();
        if !bytes.is_empty() {
            if let Some(session) = connection.session.as_mut() {
                session.handle_transmitted(now, bytes.len());
            }
            wrote = true;
            self.send(id, Way::Down, bytes);
        }
        for sight in sights.map_err(|broken| self.rule(broken))? {
            self.witness(id, sight)?;
        }
        Ok(wrote)
    }

    fn witness(&mut self, id: u64, sight: Sight) -> Result<(), Violation> {
        match sight {
            Sight::Message { kind, payload } => {
                let Some(party) = self.connections.get(&id).map(|connection| connection.party) else {
                    return Ok(());
                };
                self.witness_down(party, kind, &payload)
            }
            Sight::Promise(note) => {
                self.core.told = self.core.told.max(note.position);
                if let Some(request) = note.request.and_then(|request| self.facts.requests.get_mut(&request))
                {
                    request.promised = true;
                }
                if let Some((command, word)) = note.word {
                    self.facts.words.entry(command).or_default().push(word);
                }
                Ok(())
            }
        }
    }

    fn rule(&self, (rule, text): Broken) -> Violation {
        self.broken(rule, text)
    }

    /// An event of the session, in the core's words.
    fn session_says(&mut self, id: u64, event: Event) -> Result<(), Violation> {
        let connection = ConnectionId(id);
        let Some(party) = self.connections.get(&id).map(|found| found.party) else { return Ok(()) };
        match event {
            Event::Connect(hello) => {
                say!(self, format!("lane {id}"), "{}: CONNECT {:?}", self.principal(party), hello.version);
                let Some(credentials) = self.credentials(party, &hello) else {
                    return Err(self.broken("wire", "the credentials have changed on their way"));
                };
                self.core_handle(Input::Connect { connection, client: hello.client_id, credentials })
            }
            Event::Publish { token, kind, payload, qos } => {
                say!(self, format!("lane {id}"), "{}: PUBLISH {kind}", self.principal(party));
                self.publish(id, party, token, qos, kind, payload)
            }
            Event::Subscribed { .. } => self.core_handle(Input::Subscribed { connection }),
            Event::Watch { .. } | Event::Watching | Event::PullStates { .. } => Ok(()),
            Event::Pull { after_sequence, max } => {
                self.core_handle(Input::Pull { connection, after: after_sequence, max })
            }
            Event::Acknowledged { message, code } => {
                say!(self, format!("lane {id}"), "{}: PUBACK {message} {code}", self.principal(party));
                self.check_acknowledged(id, message, code)?;
                self.core_handle(Input::Acknowledged { connection, message, code })
            }
            Event::Refused(refusal) => {
                say!(self, format!("lane {id}"), "refuses {}: {}", refusal.topic, refusal.reason);
                self.core_handle(Input::LaneRefused {
                    connection,
                    principal: Some(self.principal(party)),
                    told: refusal.client_was_told,
                    what: format!("{:?} {}", refusal.action, refusal.topic),
                    why: refusal.reason.to_owned(),
                })
            }
            Event::StateChanged { payload, .. } => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.tap.kept_by_lane(&payload);
                }
                let principal = self.principal(party);
                self.core_handle(Input::State { connection, principal, payload })
            }
            Event::Closed { reason } => {
                say!(self, format!("lane {id}"), "{}: {reason}", self.principal(party));
                self.session_closed(id)?;
                self.core_handle(Input::Closed { connection })
            }
        }
    }

    fn check_acknowledged(&mut self, id: u64, message: MessageId, code: u8) -> Result<(), Violation> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.tap.acknowledged(message, code).map_err(|broken| self.rule(broken))
    }

    /// The last bytes leave, then the end.
    fn session_closed(&mut self, id: u64) -> Result<(), Violation> {
        self.write(id)?;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.session = None;
        let last = std::mem::take(&mut connection.unwritten);
        if !last.is_empty() {
            self.send(id, Way::Down, last);
        }
        let Some(kept) = self.connections.get(&id).map(|connection| connection.down.bytes()) else {
            return Ok(());
        };
        self.cut(id, Way::Up, 0, self.now);
        self.cut(id, Way::Down, kept, self.now + 20);
        Ok(())
    }

    fn credentials(&self, party: Party, hello: &session::Connect) -> Option<Credentials> {
        match party {
            Party::Person(_) => {
                let principal = hello.username.as_ref()?.parse().ok()?;
                let Secret(token) = hello.password.as_ref()?;
                Some(Credentials::Token { principal, token_hash: Hash::of(token) })
            }
            Party::Machine(machine) => {
                let principal = self.plan.machines[machine].principal.clone();
                let instance = self.machines[machine].settings.instance;
                Some(Credentials::Certificate { principal, instance, serial: Vec::new() })
            }
        }
    }

    fn publish(
        &mut self,
        id: u64,
        party: Party,
        token: PublishToken,
        qos: Qos,
        kind: Kind,
        payload: Vec<u8>,
    ) -> Result<(), Violation> {
        let (request, word) = self.read_publish(party, kind, &payload);
        let consent = self.consent_in(party, kind, &payload);
        let family = self.read_family(party, kind, &payload);
        let waiting = self.core.held_outputs();
        let (had_room, before) = (self.core_has_room(), self.heard_now().position);
        let content = (qos == Qos::AtLeastOnce).then(|| payload.clone());
        let connection = ConnectionId(id);
        let proven = self.checked_beforehand(party, kind, &payload);
        self.core_handle(Input::Publish { connection, token: token.0, kind, payload, proven })?;
        if let Some((command, word)) = word {
            self.facts.heard.entry(command).or_default().push(word);
        }
        // Of a connection that has given way nothing is taken.
        let taken = self.core.held_outputs() > waiting;
        let heard = self.heard_now();
        // On a full disk a request that would change nothing is put off, also if nobody lives to hear so.
        let put_off = request.is_some() && !had_room && heard.position == before;
        let family = family.filter(|_| taken && !put_off).and_then(|what| self.note_family(what));
        if let Some(payment) = consent {
            self.facts.payment(payment).consent.get_or_insert(heard);
        }
        let position = heard.position;
        if let Some(found) = request.as_ref().and_then(|request| self.facts.requests.get_mut(request)) {
            found.heard.get_or_insert((self.core.run, position));
        }
        let note = Note { position, request, word, consent, family };
        let Some((connection, content)) = self.connections.get_mut(&id).zip(content) else { return Ok(()) };
        connection.tap.handed_over(token.0, kind, &content, note).map_err(|broken| self.rule(broken))
    }

    /// What the threads that read may know by then: nothing, or that a signature is good with some key, which need not be
    /// the one that counts. Nothing that is decided may depend on it.
    fn checked_beforehand(&mut self, party: Party, kind: Kind, payload: &[u8]) -> Option<Proven> {
        let signs = matches!(kind, Kind::PaymentRequest | Kind::PaymentVerification);
        if !signs || self.random.checks.chance(500) {
            return None;
        }
        let strange = self.facts.strange_keys.iter().copied();
        match message::Up::decode(kind, payload).ok()?.body {
            message::Up::PaymentRequest(request) => {
                let read = PaymentInformation::read(&request.information).ok()?;
                let chip = self.plan.machines.iter().find(|one| one.principal == read.claimed().chip)?;
                proven_with(strange.chain([PublicKey::of(&chip.key)]), |key| read.prove(key))
            }
            message::Up::PaymentVerification(answer) => {
                let Party::Person(person) = party else { return None };
                let read = Verification::read(&answer.verification).ok()?;
                let payer = PublicKey::of(&self.plan.people[person].key);
                proven_with(strange.chain([payer]), |key| read.prove(key))
            }
            _ => None,
        }
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
                    let stamp = self.stamp();
                    let facts = self.facts.payment(read.payment);
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

    /// One output of the core leaves.
    pub(super) fn release(&mut self, output: Output) -> Result<(), Violation> {
        let now = self.now;
        match output {
            Output::Standing { connection, result, .. } => {
                self.witness_standing(connection.0, result.is_ok())?;
                let result = result.map_err(|refusal| match refusal {
                    StandingRefusal::BadCredentials => ConnectRefusal::BadCredentials,
                    StandingRefusal::Revoked => ConnectRefusal::Banned,
                });
                self.tell_session(connection, |session| session.handle_standing(now, result))
            }
            Output::Promise { connection, token, result } => {
                if let (Err(_), Some(found)) = (result, self.connections.get_mut(&connection.0)) {
                    let (consent, family) = found.tap.refused(token);
                    if let Some(payment) = consent {
                        self.facts.payment(payment).consent = None;
                    }
                    family.into_iter().for_each(|entry| self.facts.family.forget(entry));
                }
                let promise =
                    result.map_or_else(|refusal| Promise::Refused(refusal.code()), |()| Promise::Kept);
                self.tell_session(connection, |session| session.handle_promise(PublishToken(token), promise))
            }
            Output::Reply { connection, kind, payload } => {
                self.tell_session(connection, |session| session.handle_reply(kind, payload))
            }
            Output::Wake { connection } => self.tell_session(connection, Session::handle_wake),
            Output::Owed { connection, messages } => {
                let ahead = self.stamp().0.saturating_sub(now);
                let owed = messages.into_iter().map(|message| owed(message, ahead)).collect();
                self.tell_session(connection, |session| session.handle_owed(now, owed))
            }
            Output::Disconnect { connection, reason } => {
                let reason = match reason {
                    DisconnectReason::TakenOver => session::DisconnectReason::TakenOver,
                    DisconnectReason::Revoked => session::DisconnectReason::NotAuthorized,
                    DisconnectReason::Administrative => session::DisconnectReason::Administrative,
                };
                // A session has a task of its own, which hears of it when it comes to that.
                let wait = self.random.network.range(0, 400);
                self.after(wait, Happening::Disconnect(connection.0, reason));
                Ok(())
            }
            // Nobody watches a world by its feed.
            Output::Feed { .. } | Output::States { .. } => Ok(()),
            Output::Bank(order) => self.bank_order(order),
            Output::Admin { ticket, reply } => {
                self.core.replies.insert(ticket, reply);
                Ok(())
            }
            Output::Sign { ticket, order } => {
                let device = order.principal.clone();
                self.core_handle(Input::Signed { ticket, order, certificate: vec![0x30] })?;
                self.note_family(What::Enrolled(device));
                Ok(())
            }
            Output::Enrolled { ticket, result } => self.enrolled(ticket, &result),
        }
    }

    pub(super) fn disconnect(&mut self, id: u64, reason: session::DisconnectReason) -> Result<(), Violation> {
        self.tell_session(ConnectionId(id), |session| session.handle_disconnect(reason))
    }

    fn tell_session(
        &mut self,
        connection: ConnectionId,
        tell: impl FnOnce(&mut Session),
    ) -> Result<(), Violation> {
        let found = self.connections.get_mut(&connection.0);
        if let Some(session) = found.and_then(|connection| connection.session.as_mut()) {
            tell(session);
        }
        self.pump(connection.0)
    }
}

/// The lane's clock is the world's.
fn owed(message: OwedMessage, ahead: u64) -> Owed {
    Owed {
        message: message.message,
        sequence: message.sequence,
        kind: message.kind,
        payload: message.payload,
        expires_at_ms: message.expires_at.0.saturating_sub(ahead),
    }
}

fn proven_with(
    mut keys: impl Iterator<Item = PublicKey>,
    prove: impl Fn(&ReadyKey) -> Option<Proven>,
) -> Option<Proven> {
    keys.find_map(|key| prove(&ReadyKey::new(&key)?))
}
