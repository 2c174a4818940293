//! How the device is: told on connect, when it changes, and now and then (CP-17). The report is made when it is sent
//! and is neither journaled nor spooled: there is at most one under way, and a lost one is followed by a newer one.

use schemas::envelope::Envelope;
use schemas::ids::{Code, MessageId};
use schemas::message::DeviceReport;
use schemas::topic::Kind;
use schemas::wire::Text;

use super::Device;
use super::link::Link;
use crate::limits;
use crate::output::Output;
use crate::profile::Condition;

/// What was reported, and when to report again.
#[derive(Debug)]
pub(super) struct SelfReport {
    seed: [u8; 16],
    started_boot_ms: u64,
    count: u64,
    last: Option<Option<Code>>,
    in_flight: Option<MessageId>,
    /// Not before this, whatever changes.
    earliest_boot_ms: u64,
    /// At the latest then.
    due_boot_ms: u64,
}

impl SelfReport {
    pub(super) fn new(seed: [u8; 16], started_boot_ms: u64) -> Self {
        Self {
            seed,
            started_boot_ms,
            count: 0,
            last: None,
            in_flight: None,
            earliest_boot_ms: 0,
            due_boot_ms: 0,
        }
    }

    /// A new connection: the cloud may have forgotten, and what was under way is lost.
    pub(super) fn tell_anew(&mut self) {
        self.in_flight = None;
        self.last = None;
        self.earliest_boot_ms = 0;
    }

    /// True if the message was the report under way. `retry_boot_ms`: the cloud had no room for it.
    pub(super) fn settle(&mut self, message: MessageId, retry_boot_ms: Option<u64>) -> bool {
        let is_mine = self.in_flight.take_if(|sent| *sent == message).is_some();
        if let Some(at) = retry_boot_ms.filter(|_| is_mine) {
            self.last = None;
            self.earliest_boot_ms = at;
        }
        is_mine
    }

    fn next_boot_ms(&self, not_ready: &Option<Code>) -> Option<u64> {
        match &self.last {
            _ if self.in_flight.is_some() => None,
            Some(last) if last == not_ready => Some(self.due_boot_ms),
            _ => Some(self.earliest_boot_ms),
        }
    }
}

impl Device {
    /// When the next report is due on a live connection.
    pub(super) fn next_report_boot_ms(&self) -> Option<u64> {
        self.self_report.next_boot_ms(&self.not_ready())
    }

    pub(super) fn send_report(&mut self, link: &mut Link, now_boot_ms: u64) {
        let not_ready = self.not_ready();
        let due = self.self_report.next_boot_ms(&not_ready).is_some_and(|at| at <= now_boot_ms);
        if !due || !link.has_room() {
            return;
        }
        let own = &mut self.self_report;
        own.count += 1;
        let message = MessageId::derived("device-report", &[&own.seed, &own.count.to_be_bytes()]);
        own.last = Some(not_ready.clone());
        own.in_flight = Some(message);
        own.earliest_boot_ms = now_boot_ms.saturating_add(limits::REPORT_PAUSE_MS);
        own.due_boot_ms = now_boot_ms.saturating_add(limits::REPORT_INTERVAL_MS);
        let report = DeviceReport {
            version: Text::new(env!("CARGO_PKG_VERSION")),
            uptime_ms: now_boot_ms.saturating_sub(own.started_boot_ms),
            spool: u32::try_from(self.state.spool.len()).unwrap_or(u32::MAX),
            dead_letters: u32::try_from(self.state.dead_letters_total).unwrap_or(u32::MAX),
            not_ready,
        };
        link.sent(message, now_boot_ms);
        self.output(Output::Publish {
            connection: link.connection,
            message,
            kind: Kind::DeviceReport,
            payload: Envelope::message(message, report).encode(),
        });
    }

    /// The first thing that stands against any work, whatever the item. A chip that does not ask for a condition is
    /// ready without it. Cloud time is not among them: the cloud answers it on this very connection.
    fn not_ready(&self) -> Option<Code> {
        let asks = |condition| {
            let rules = self.profile.information.as_ref();
            self.profile.executor.is_some()
                || rules.is_some_and(|rules| rules.conditions.contains(&condition))
        };
        let fault = self.conditions.executor_fault || self.hardware_silent();
        let code = if self.set_up_mode {
            "set_up_mode"
        } else if !self.journal_accepts {
            "journal_full"
        } else if self.conditions.tampered && asks(Condition::Tamper) {
            "tampered"
        } else if fault && asks(Condition::Executor) {
            "executor_fault"
        } else {
            return None;
        };
        Some(Code::known(code))
    }
}
