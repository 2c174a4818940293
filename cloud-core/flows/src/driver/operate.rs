//! What operators tell the core to do, here and from elsewhere.

use schemas::ids::{Instance, Principal};
use schemas::time::Timestamp;
use schemas_journal::{Disk, RECORD_HEADER_BYTES};

use super::Driver;
use crate::admin::{AdminAnswer, AdminCommand, AdminReply};
use crate::decision::Decision;
use crate::event::{Event, Record};
use crate::port::{ConnectionId, DisconnectReason};
use crate::rejection::Rejection;
use crate::{desk, right, upkeep};

impl<D: Disk> Driver<D> {
    /// Within the operator's rights, and on record as theirs.
    pub(super) fn operate_by(
        &mut self,
        operator: &Principal,
        instance: Instance,
        command: &AdminCommand,
        now: Timestamp,
        out: &mut Decision,
    ) -> AdminReply {
        let within = match right::check(&self.cloud, operator, instance, command) {
            Ok(within) => within,
            Err(why) => {
                let known = self.cloud.registry.operator(operator).map(|_| operator);
                let shown = format!("{command:?}");
                let name = shown.split([' ', '{']).next().unwrap_or_default();
                self.audit(None, known, &format!("admin {name} by {operator}"), &why.text, now, out);
                return Err(why);
            }
        };
        out.by = Some(operator.to_string());
        let mut reply = self.operate(command, now, out);
        if let (Ok(answer), Some(tenant)) = (&mut reply, within) {
            right::narrow(&self.cloud, answer, &tenant);
        }
        reply
    }

    /// What a refused command would have done is done in no part.
    pub(super) fn operate(
        &mut self,
        command: &AdminCommand,
        now: Timestamp,
        out: &mut Decision,
    ) -> AdminReply {
        match command {
            AdminCommand::ListRefusals => return Ok(AdminAnswer::Refusals(self.lobby.refusals())),
            AdminCommand::Disconnect { principal, connection } => {
                return self.end_connections(command, principal.as_ref(), *connection, now, out);
            }
            _ => {}
        }
        let answer = match command {
            AdminCommand::Batch { commands, check_only } => {
                let mut registry = std::mem::take(&mut self.cloud.registry);
                let reply = upkeep::batch(&self.cloud, &mut registry, commands, *check_only, now, out);
                self.cloud.registry = registry;
                reply?
            }
            _ => {
                let presence = |principal: &Principal| self.lobby.presence(principal);
                desk::decide(&self.cloud, command, &presence, now, out)?
            }
        };
        self.refuse_what_fits_no_frame(command, now, out)?;
        for principal in upkeep::dismissed(command) {
            out.disconnect(self.lobby.dismiss(principal, now), DisconnectReason::Revoked);
        }
        Ok(answer)
    }

    fn end_connections(
        &mut self,
        command: &AdminCommand,
        principal: Option<&Principal>,
        connection: Option<ConnectionId>,
        now: Timestamp,
        out: &mut Decision,
    ) -> AdminReply {
        let mut leaving = principal.map_or_else(Vec::new, |principal| self.lobby.dismiss(principal, now));
        leaving.extend(connection.filter(|id| self.lobby.dismiss_one(*id, now).is_some()));
        if leaving.is_empty() {
            let text = "no such connection: `broker admin sessions` shows those there are";
            return Err(Rejection::new("not_connected", text));
        }
        out.event(Event::Registered(command.clone()));
        out.disconnect(leaving, DisconnectReason::Administrative);
        Ok(AdminAnswer::Done)
    }

    /// A batch is one decision, and that must be one frame of the journal.
    fn refuse_what_fits_no_frame(
        &self,
        command: &AdminCommand,
        now: Timestamp,
        out: &mut Decision,
    ) -> Result<(), Rejection> {
        if !matches!(command, AdminCommand::Batch { .. }) {
            return Ok(());
        }
        for event in std::mem::take(&mut out.events) {
            let record = Record { at: now, event, by: out.by.clone() };
            out.encoded.push(record.encode());
            out.events.push(record.event);
        }
        let bytes: usize = out.encoded.iter().map(|bytes| bytes.len() + RECORD_HEADER_BYTES).sum();
        let most = self.frame_bytes();
        if bytes <= most {
            return Ok(());
        }
        *out = Decision::default();
        let text =
            format!("the batch needs {bytes} bytes of one journal frame, which takes {most}: split it");
        Err(Rejection::new("batch_too_long", text))
    }
}
