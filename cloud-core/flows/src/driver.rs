//! THE order: receive -> decide -> evolve -> append -> sync -> release.
//!
//! One owner calls, in a loop: [`Driver::handle`] for everything that has arrived, [`Driver::append`] once, the
//! [`SyncPoint`] on any thread, [`Driver::handle_synced`], then [`Driver::poll_output`] until there is nothing. What
//! arrives while a sync runs is the next batch. Every output waits for the journal position of the state that it was
//! computed from, also one without events: a duplicate answered from an unsynced first would be a broken promise
//! (correctness.md 1).

mod operate;

use std::cell::OnceCell;
use std::collections::VecDeque;

use ed25519_dalek::SigningKey;
use schemas::cbor;
use schemas::ids::{Hash, PaymentId, Principal, PrincipalId};
use schemas::time::Timestamp;
use schemas::topic::Role;
use schemas_journal::{
    AppendError, ChainId, Disk, DiskError, Journal, JournalError, JournalLimits, OpenError, Position,
    RECORD_HEADER_BYTES, Room, SnapshotError, SnapshotJob, SnapshotTaken, SpareJob, SpareReady, SyncPoint,
    Synced, existing_chain_id,
};
use schemas_mutants::Mutant;

use crate::admin::RefusalRow;
use crate::child::words::Words;
use crate::child::{self, ChildFlow};
use crate::chip::ChipFlow;
use crate::cloud::Cloud;
use crate::decision::Decision;
use crate::desk;
use crate::event::{Event, Record};
use crate::feed;
use crate::incoming::{Incoming, Said, offer_open_questions, say_lane_refused};
use crate::limits;
use crate::lobby::Lobby;
use crate::opening;
use crate::payment::AnyPayment;
use crate::port::{
    ConnectionId, Credentials, DisconnectReason, Input, Output, PromiseRefusal, Proof, SignOrder,
    StandingRefusal,
};
use crate::registry::Standing;
use crate::signer::Signer;

/// Why the core cannot go on: the process must end, and recover from disk at its next start.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The journal could not be written.
    #[error("the journal could not be written: {0}")]
    Append(#[from] AppendError),
    /// The journal could not be made durable.
    #[error("the journal could not be made durable: {0}")]
    Sync(#[from] JournalError),
    /// One decision must be one frame, or a power cut could keep half of it.
    #[error(
        "a decision of {bytes} bytes does not fit a frame of {frame_max_bytes}: raise journal.segment_bytes and start again"
    )]
    DecisionTooLong {
        /// Of its records.
        bytes: usize,
        /// Of the journal.
        frame_max_bytes: u32,
    },
}

/// A record on its way to the journal.
struct PendingRecord {
    bytes: Vec<u8>,
    /// The last one of its decision.
    ends_decision: bool,
}

impl AsRef<[u8]> for PendingRecord {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Owns the state and its journal.
pub struct Driver<D> {
    cloud: Cloud,
    lobby: Lobby,
    journal: Journal<D>,
    /// Decided and not yet appended.
    pending: Vec<PendingRecord>,
    /// Position of `cloud`: all that was decided.
    decided: Position,
    /// Outputs in order, each with the position that must be synced first.
    held: VecDeque<(Position, Output)>,
    /// The disk is full and the last segment too: nothing is lost, nothing new is accepted.
    starved: bool,
    certificate_life_ms: u64,
    /// For codes and places (PC-6, PC-9). Never in the journal.
    signer: Option<Signer>,
    left_off_at: Timestamp,
    /// What words mean: constant, and read when it is first asked for.
    words: OnceCell<Words>,
}

impl<D: Disk> Driver<D> {
    /// Replays the journal on `disk` (or begins one, named `fresh`) and takes up what was open: nobody's deadline
    /// passes before they could reconnect, and every question to a bank is asked again.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open(
        disk: D,
        limits: JournalLimits,
        fresh: ChainId,
        now: impl FnOnce() -> Timestamp,
    ) -> Result<Self, OpenError> {
        let mut cloud = Cloud::default();
        let chain = existing_chain_id(&disk)?.unwrap_or(fresh);
        let journal = Journal::open(disk, limits, chain, &mut cloud)?;
        Ok(Self::resume(journal, cloud, now))
    }

    /// The same, for a shell that has rebuilt `cloud` from this journal by itself: a snapshot restored
    /// ([`Cloud::restore`](schemas_journal::Fold::restore)), then every record applied in order ([`Cloud::evolve`]).
    pub fn resume(journal: Journal<D>, cloud: Cloud, now: impl FnOnce() -> Timestamp) -> Self {
        let (decided, left_off_at) = (journal.position(), cloud.at());
        let mut driver = Self {
            cloud,
            lobby: Lobby::default(),
            journal,
            pending: Vec::new(),
            decided,
            held: VecDeque::new(),
            starved: false,
            certificate_life_ms: limits::CERTIFICATE_LIFE_MS,
            signer: None,
            left_off_at,
            words: OnceCell::new(),
        };
        // Asked only now: a long replay must not eat into the time that devices have to come back.
        let now = driver.clock(now());
        let mut opened = Decision::default();
        opened.event(Event::Opened);
        driver.take(opened, now);
        // What is closed waits for nothing, and there may be a million of it.
        let payments: Vec<PaymentId> =
            driver.cloud.every_open_payment().map(|payment| payment.id()).collect();
        for payment in payments {
            let mut decision = Decision::default();
            if let Some(payment) = driver.cloud.any_payment(payment) {
                opening::decide(&driver.cloud, payment, now, &mut decision);
            }
            driver.take(decision, now);
        }
        let suggested: Vec<_> =
            driver.cloud.own_payments().filter(|own| own.is_suggested()).cloned().collect();
        for own in suggested {
            let mut decision = Decision::default();
            ChildFlow { cloud: &driver.cloud, now, out: &mut decision }.reopen_own(&own);
            driver.take(decision, now);
        }
        driver
    }

    /// Receive, decide, evolve. `now` is cloud time; it never goes back.
    pub fn handle(&mut self, input: Input, now: Timestamp) {
        let now = self.clock(now);
        if let Some(number) = self.lobby.take_unrecorded(now) {
            self.take(unrecorded(number), now);
        }
        if let Input::Tick = input {
            self.tick(now);
            return;
        }
        let decision = self.decide(input, now);
        self.take(decision, now);
    }

    /// Appends everything decided since the last call. Nothing of it may leave before it is synced. A full disk
    /// keeps it for the next call: nothing is lost, and nothing is promised.
    ///
    /// # Errors
    /// A journal that cannot be written; the process must end.
    pub fn append(&mut self) -> Result<(), Fault> {
        while !self.pending.is_empty() {
            let count = self.frame_length()?;
            match self.journal.append(&self.pending[..count]) {
                Ok(_) => {
                    self.pending.drain(..count);
                    self.starved = false;
                }
                Err(AppendError::OutOfSpace) => {
                    self.starved = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What must be synced now, if anything.
    pub fn sync_point(&self) -> Option<SyncPoint> {
        self.journal.sync_point()
    }

    /// A sync has ended.
    ///
    /// # Errors
    /// A failed sync: the process must end.
    pub fn handle_synced(&mut self, result: Result<Synced, DiskError>) -> Result<(), Fault> {
        self.journal.handle_synced(result)?;
        Ok(())
    }

    /// The next output whose position is synced.
    pub fn poll_output(&mut self) -> Option<Output> {
        let (position, _) = self.held.front()?;
        if *position > self.journal.synced() && !Mutant::ReleaseBeforeSync.is_active() {
            return None;
        }
        self.held.pop_front().map(|(_, output)| output)
    }

    /// Outputs that wait for their sync.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// When an [`Input::Tick`] is wanted.
    pub fn next_due(&self) -> Option<Timestamp> {
        let allowance = self.cloud.registry.next_allowance();
        let view = self.lobby.has_unshown().then(|| self.cloud.at());
        let with_room = allowance.into_iter().chain(view).filter(|_| self.has_room());
        self.cloud.next_due().into_iter().chain(self.lobby.summary_due()).chain(with_room).min()
    }

    /// The state, for reading. What is read here may not be synced yet: ask by [`Input::Admin`] to be sure.
    pub fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// The journal, for reading.
    pub fn journal(&self) -> &Journal<D> {
        &self.journal
    }

    /// Connections that are admitted.
    pub fn connections(&self) -> usize {
        self.lobby.count()
    }

    /// The time of the last record before this start; 0 where there was none.
    pub fn left_off_at(&self) -> Timestamp {
        self.left_off_at
    }

    /// Position of everything decided so far.
    pub fn decided(&self) -> Position {
        self.decided
    }

    /// Admits the platform's own health probe, which may ask for the time and nothing else. Volatile.
    pub fn set_probe(&mut self, principal: Principal, token_hash: Hash) {
        self.lobby.probe = Some((principal, token_hash));
    }

    /// How long certificates that are signed from now on are valid. Volatile: each certificate says it itself.
    pub fn set_certificate_life(&mut self, life_ms: u64) {
        self.certificate_life_ms = life_ms;
    }

    /// Signs codes and places with this key from now on (PC-6, PC-9); without one, orders of QR codes are refused with
    /// `codes_unavailable`. Volatile: neither the journal nor a snapshot has it.
    pub fn set_signing_key(&mut self, key: SigningKey) {
        self.signer = Some(Signer::new(key));
    }

    /// The next segment, to be made on any thread.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        self.journal.spare_job()
    }

    /// The end of a [`SpareJob`].
    ///
    /// # Errors
    /// A disk that fails other than by being full: the process must end.
    pub fn handle_spare(&mut self, result: Result<SpareReady, DiskError>) -> Result<Room, Fault> {
        Ok(self.journal.handle_spare(result)?)
    }

    /// Tries for the next segment again after the disk was full; call it now and then.
    pub fn retry_spare(&mut self) {
        self.journal.retry_spare();
    }

    /// A snapshot of closed segments, to be made on any thread with [`run_snapshot`].
    pub fn snapshot_job(&mut self) -> Option<SnapshotJob> {
        self.journal.snapshot_job()
    }

    /// The end of a [`SnapshotJob`].
    ///
    /// # Errors
    /// A journal that has failed before.
    pub fn handle_snapshot(&mut self, result: &Result<SnapshotTaken, SnapshotError>) -> Result<(), Fault> {
        Ok(self.journal.handle_snapshot(result)?)
    }

    fn clock(&self, now: Timestamp) -> Timestamp {
        now.max(self.cloud.at())
    }

    /// Evolves by what was decided and holds the outputs back.
    fn take(&mut self, mut decision: Decision, now: Timestamp) {
        if Mutant::RepeatAnsweredUnsynced.is_active() && decision.events.is_empty() {
            let replies = decision.outputs.extract_if(.., |output| matches!(output, Output::Reply { .. }));
            replies.for_each(|output| self.held.push_front((Position::ZERO, output)));
        }
        self.evolve(&mut decision, now);
        let mut shown = std::mem::take(&mut decision.shown);
        shown.sort();
        shown.dedup();
        for child in shown {
            // What a child sees follows from the state after the decision. A decision of its own: a batch may show many.
            let mut view = Decision::default();
            child::view::show(&self.cloud, &child, now, &mut view);
            self.evolve(&mut view, now);
            decision.append(view);
        }
        decision.outputs.extend(feed::of_presences(&self.cloud, &mut self.lobby));
        let position = self.decided;
        self.held.extend(decision.outputs.into_iter().map(|output| (position, output)));
        let mut woken = decision.woken;
        woken.sort();
        woken.dedup();
        for principal in woken {
            for connection in self.lobby.listening(&principal) {
                self.held.push_back((position, Output::Wake { connection }));
            }
        }
    }

    /// Its events happen, and are one decision for the journal.
    fn evolve(&mut self, decision: &mut Decision, now: Timestamp) {
        let mut encoded = std::mem::take(&mut decision.encoded).into_iter();
        for event in std::mem::take(&mut decision.events) {
            let record = Record { at: now, event, by: decision.by.clone() };
            self.cloud.evolve(&record);
            decision.outputs.extend(feed::of_record(&self.cloud, &self.lobby, &record));
            let bytes = encoded.next().unwrap_or_else(|| record.encode());
            self.pending.push(PendingRecord { bytes, ends_decision: false });
            self.decided = Position::new(self.decided.value() + 1);
        }
        if let Some(last) = self.pending.last_mut() {
            last.ends_decision = true;
        }
    }

    /// How many of the pending records the next frame takes: whole decisions only, since a power cut keeps or loses
    /// whole frames.
    fn frame_length(&self) -> Result<usize, Fault> {
        let frame_max_bytes = self.journal.limits().frame_max_bytes;
        let limit = self.frame_bytes();
        let (mut bytes, mut count) = (0, 0);
        for (index, record) in self.pending.iter().enumerate() {
            bytes += record.bytes.len() + RECORD_HEADER_BYTES;
            if bytes > limit && count > 0 {
                break;
            }
            if record.ends_decision {
                if bytes > limit {
                    return Err(Fault::DecisionTooLong { bytes, frame_max_bytes });
                }
                count = index + 1;
            }
        }
        Ok(count)
    }

    /// What has become due. Bounded, so that a long list does not keep others waiting; the rest is due at once again.
    fn tick(&mut self, now: Timestamp) {
        const AT_ONCE: usize = 256;
        for _ in 0..AT_ONCE {
            let mut decision = Decision::default();
            if let Some((principal, message)) = self.cloud.outbox().expired(now) {
                decision.withdraw(&principal, message, "expired");
            } else if let Some(payment) = self.cloud.due_payment(now) {
                let (cloud, out) = (&self.cloud, &mut decision);
                match payment {
                    AnyPayment::Chip(payment) => ChipFlow { cloud, now, out }.timeout(payment),
                    AnyPayment::Child(payment) => ChildFlow { cloud, now, out }.timeout(payment),
                }
            } else if let Some(payment) = self.cloud.due_own_payment(now) {
                ChildFlow { cloud: &self.cloud, now, out: &mut decision }.own_timeout(payment);
            } else if let Some((child, guardian)) = self.due_allowance(now) {
                ChildFlow { cloud: &self.cloud, now, out: &mut decision }.pay_allowance(child, guardian);
            } else if self.has_room()
                && let Some(piggy_bank) = self.lobby.take_unshown()
            {
                decision.shown.extend(self.cloud.registry.child_using(&piggy_bank).cloned());
            } else {
                return;
            }
            self.take(decision, now);
        }
    }

    /// Whether new payments may begin: what is left of a full disk is for the end of open ones (correctness.md 4).
    fn has_room(&self) -> bool {
        self.journal.room() == Room::Ample
    }

    /// One that is due; on a full disk they wait.
    fn due_allowance(&self, now: Timestamp) -> Option<(&Principal, &PrincipalId)> {
        self.cloud.registry.due_allowance(now).filter(|_| self.has_room())
    }

    fn decide(&mut self, input: Input, now: Timestamp) -> Decision {
        let mut out = Decision::default();
        match input {
            Input::Connect { connection, client, credentials } => {
                self.connect(connection, &client, &credentials, now, &mut out);
            }
            Input::Publish { connection, token, kind, payload, proven } => {
                self.publish(connection, token, Said { kind, payload, proven }, now, &mut out);
            }
            Input::Subscribed { connection } => self.subscribed(connection, now, &mut out),
            Input::Pull { connection, after, max } => {
                if let Some(principal) = self.lobby.principal(connection) {
                    let messages = self.cloud.outbox().owed(principal, after, max);
                    out.outputs.push(Output::Owed { connection, messages });
                }
            }
            Input::Watch { connection } => {
                feed::watch(&self.cloud, &mut self.lobby, connection);
            }
            Input::States { connection, of, after, max } => {
                out.outputs.extend(feed::states(&self.cloud, &self.lobby, connection, (of, after), max));
            }
            Input::Acknowledged { connection, message, code } => {
                self.acknowledged(connection, message, code, now, &mut out);
            }
            Input::LaneRefused { connection, principal, what, why, told } => {
                if !told {
                    out.outputs.push(say_lane_refused(connection, &what, &why, now));
                }
                self.audit(Some(connection), principal.as_ref(), &what, &why, now, &mut out);
            }
            Input::State { connection, principal, payload } => {
                self.lobby.state(connection, &principal, &payload);
            }
            Input::Closed { connection } => self.lobby.leave(connection, now),
            Input::Bank { payment, call, key, answer } => {
                if let Some(payment) = self.cloud.payment(payment) {
                    ChipFlow { cloud: &self.cloud, now, out: &mut out }
                        .bank_answer(payment, call, key, &answer);
                }
            }
            Input::Admin { ticket, by, command } => {
                out.by = by.map(|by| shortened(&by));
                let reply = self.operate(&command, now, &mut out);
                out.outputs.push(Output::Admin { ticket, reply });
            }
            Input::AdminBy { ticket, operator, instance, command } => {
                let reply = self.operate_by(&operator, instance, &command, now, &mut out);
                out.outputs.push(Output::Admin { ticket, reply });
            }
            Input::Enrol { ticket, principal, proof, public_key } => {
                let life_ms = self.certificate_life_ms;
                let result = desk::enrol(&self.cloud, &principal, &proof, public_key, life_ms, now);
                let output = match result {
                    Ok(desk::Enrolment::Sign(order)) => Output::Sign { ticket, order },
                    Ok(desk::Enrolment::Known(certificate)) => {
                        Output::Enrolled { ticket, result: Ok(certificate) }
                    }
                    Err(why) => {
                        // Nobody has proved to be that device: only names that exist are counted by themselves.
                        let known = self.cloud.registry().device(&principal).map(|_| &principal);
                        self.audit(None, known, "enrolment", &why.text, now, &mut out);
                        Output::Enrolled { ticket, result: Err(why) }
                    }
                };
                out.outputs.push(output);
            }
            Input::Signed { ticket, order, certificate } => {
                self.signed(ticket, &order, certificate, now, &mut out);
            }
            Input::Tick => {}
        }
        out
    }

    fn connect(
        &mut self,
        connection: ConnectionId,
        client: &str,
        credentials: &Credentials,
        now: Timestamp,
        out: &mut Decision,
    ) {
        let result = self.standing(credentials, now);
        match &result {
            Ok(principal) => {
                let leaving = self.lobby.admit(connection, principal, client, now);
                out.disconnect(leaving, DisconnectReason::TakenOver);
            }
            Err(why) => {
                let what = format!("connect as {credentials:?}");
                self.audit(Some(connection), None, &what, &format!("{why:?}"), now, out);
            }
        }
        let role = result.as_ref().map_or_else(|_| Role::Party, |who| self.cloud.registry().role(who));
        out.outputs.push(Output::Standing { connection, result, role });
    }

    fn subscribed(&mut self, connection: ConnectionId, now: Timestamp, out: &mut Decision) {
        let Some(principal) = self.lobby.principal(connection).cloned() else { return };
        let is_device = self.cloud.registry().device(&principal).is_some();
        out.disconnect(self.lobby.subscribe(connection, is_device, now), DisconnectReason::TakenOver);
        offer_open_questions(&self.cloud, &principal, now, out);
        ChildFlow { cloud: &self.cloud, now, out: &mut *out }.offer_suggestions(&principal);
        if let Some(child) = self.cloud.registry.child_using(&principal) {
            // What is left of a full disk is not for views.
            match self.has_room() {
                true => out.shown.push(child.clone()),
                false => self.lobby.show_later(principal.clone()),
            }
        }
        out.woken.push(principal);
    }

    /// Checked at each CONNECT from the state, never from what a certificate says alone (correctness.md 20).
    fn standing(&self, credentials: &Credentials, now: Timestamp) -> Result<Principal, StandingRefusal> {
        match credentials {
            Credentials::Certificate { principal, instance, .. } => {
                let device =
                    self.cloud.registry().device(principal).ok_or(StandingRefusal::BadCredentials)?;
                match device.standing {
                    // Operators have certificates too, and nothing to say here.
                    _ if self.cloud.registry.operator(principal).is_some() => {
                        Err(StandingRefusal::BadCredentials)
                    }
                    Standing::Revoked if Mutant::RevokedMayConnect.is_active() => Ok(principal.clone()),
                    Standing::Revoked => Err(StandingRefusal::Revoked),
                    Standing::Enrolled if device.instance == *instance => Ok(principal.clone()),
                    Standing::Enrolled | Standing::Registered => Err(StandingRefusal::BadCredentials),
                }
            }
            Credentials::Token { principal, token_hash } => {
                let device = self.cloud.registry().device(principal);
                if device.is_some_and(|device| device.standing == Standing::Revoked) {
                    return Err(StandingRefusal::Revoked);
                }
                let probe = self.lobby.probe.as_ref();
                let is_probe = probe.is_some_and(|(name, hash)| name == principal && hash == token_hash);
                if is_probe || self.cloud.registry.token_is_good(principal, *token_hash, now) {
                    Ok(principal.clone())
                } else {
                    Err(StandingRefusal::BadCredentials)
                }
            }
        }
    }

    fn publish(
        &mut self,
        connection: ConnectionId,
        token: u64,
        said: Said,
        now: Timestamp,
        out: &mut Decision,
    ) {
        let Some(principal) = self.lobby.principal(connection).cloned() else { return };
        // Nothing leaves before the disk has room: what waits for that must not fill the memory.
        if self.starved && self.held.len() >= limits::HELD_WHILE_STARVED {
            let result = Err(PromiseRefusal::Quota);
            out.outputs.push(Output::Promise { connection, token, result });
            return;
        }
        let is_probe = self.lobby.probe.as_ref().is_some_and(|(name, _)| *name == principal);
        let has_room = self.has_room();
        let cloud = &self.cloud;
        let mut incoming = Incoming {
            cloud,
            now,
            connection,
            principal: &principal,
            is_probe,
            has_room,
            is_starved: self.starved,
            signer: self.signer.as_ref(),
            words: &self.words,
            out,
        };
        let result = incoming.decide(&said);
        // "Later" is no refusal, and audit records must not fill the room that open payments need.
        if let Err((promise, why)) = &result
            && *promise != PromiseRefusal::Quota
        {
            self.audit(Some(connection), Some(&principal), said.kind.as_str(), &why.to_string(), now, out);
        }
        let result = result.map_err(|(promise, _)| promise);
        out.outputs.push(Output::Promise { connection, token, result });
    }

    fn acknowledged(
        &mut self,
        connection: ConnectionId,
        message: schemas::ids::MessageId,
        code: u8,
        now: Timestamp,
        out: &mut Decision,
    ) {
        const QUOTA: u8 = 0x97;
        let Some(principal) = self.lobby.principal(connection).cloned() else { return };
        if !self.cloud.outbox().contains(&principal, message) || code == QUOTA {
            return;
        }
        if code < 0x80 {
            out.event(Event::Cleared { principal, message });
            return;
        }
        out.withdraw(&principal, message, "refused_by_receiver");
        let cloud = &self.cloud;
        ChipFlow { cloud, now, out: &mut *out }.command_not_accepted(&principal, message);
        ChildFlow { cloud, now, out }.not_accepted(&principal, message);
    }

    /// What one frame takes.
    fn frame_bytes(&self) -> usize {
        const PADDING_BYTES: usize = 7;
        self.journal.limits().frame_max_bytes as usize - schemas_journal::FRAME_HEADER_BYTES - PADDING_BYTES
    }

    fn signed(
        &mut self,
        ticket: u64,
        order: &SignOrder,
        certificate: Vec<u8>,
        now: Timestamp,
        out: &mut Decision,
    ) {
        let result = desk::enrolled(&self.cloud, order, certificate, now, out);
        if result.is_ok() && matches!(order.proof, Proof::Claim(_)) {
            // The former enrolment's session ends: its certificate counts no more.
            out.disconnect(self.lobby.dismiss(&order.principal, now), DisconnectReason::Revoked);
        }
        out.outputs.push(Output::Enrolled { ticket, result });
    }

    fn audit(
        &mut self,
        connection: Option<ConnectionId>,
        principal: Option<&Principal>,
        what: &str,
        why: &str,
        now: Timestamp,
        out: &mut Decision,
    ) {
        let (what, why) = (shortened(what), shortened(why));
        self.lobby.refused(RefusalRow {
            at: now,
            connection,
            principal: principal.cloned(),
            what: what.clone(),
            why: why.clone(),
        });
        if self.lobby.audits(principal, now) {
            out.event(Event::RefusalAudited { principal: principal.cloned(), what, why });
        }
    }
}

/// Runs a snapshot job: folds the former snapshot and the closed segments into a copy of the state of its own.
///
/// # Errors
/// As [`SnapshotJob::run`].
pub fn run_snapshot<D: Disk>(job: &SnapshotJob, disk: &D) -> Result<SnapshotTaken, SnapshotError> {
    job.run(disk, &mut Cloud::default(), |cloud: &Cloud| cbor::encode(cloud))
}

/// Of a minute that has ended: nobody's number is missing in the journal.
fn unrecorded(number: u64) -> Decision {
    let (each, all) = (limits::AUDITED_REFUSALS_PER_MINUTE, limits::AUDITED_REFUSALS_OF_ALL_PER_MINUTE);
    let why = format!(
        "{number} refusals were not written down: more than {each} to one principal, or {all} to all, in a minute"
    );
    let mut out = Decision::default();
    out.event(Event::RefusalAudited { principal: None, what: "audit of refusals".to_owned(), why });
    out
}

fn shortened(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if short.len() + c.len_utf8() > limits::AUDIT_TEXT_BYTES {
            break;
        }
        short.push(c);
    }
    short
}
