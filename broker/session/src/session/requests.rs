//! What a client asks for, and whether it may: publish, subscribe, unsubscribe.

use mqtt_protocol_core::mqtt::result_code::SubackReasonCode;
use schemas::ids::Principal;
use schemas::topic::{Filter, Kind, Role, Topic};

use super::{Open, Phase, Session, internal};
use crate::decode::{FilterRequest, PublishPacket};
use crate::encode;
use crate::types::{Event, Fault, Promise, Qos, Refusal, RefusedAction, StateCause, Version};

/// Of topics in refusals, in characters.
const EXCERPT_CHARS: usize = 120;

impl Session {
    pub(super) fn handle_publish(&mut self, publish: PublishPacket) -> Result<(), Fault> {
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        if publish.qos > 1 {
            return Err(Fault { code: 0x9B, what: "QoS 2, which is not offered" });
        }
        if publish.retain && open.role == Role::Party && open.version == Version::V5 {
            return Err(Fault { code: 0x9A, what: "retained, which is not offered" });
        }
        if let Some(packet_id) = publish.packet_id {
            if open.publishes.contains(packet_id) {
                // MQTT 3.1.1 clients may repeat within a connection; the first one is on its way and will be answered.
                return match open.version {
                    Version::V3_1_1 if publish.dup => Ok(()),
                    _ => Err(Fault { code: 0x82, what: "a packet identifier that is in use" }),
                };
            }
            if open.publishes.len() >= usize::from(self.limits.receive_maximum.max(1)) {
                return Err(Fault { code: 0x93, what: "more publishes than the receive maximum" });
            }
        }
        match judge_publish(open, &publish) {
            Ok(None) => {
                self.events.push_back(Event::StateChanged {
                    payload: publish.payload,
                    cause: StateCause::Published,
                });
                // Presence is volatile (correctness.md 13): there is nothing to sync that the promise could mean.
                if let Some(packet_id) = publish.packet_id {
                    open.publishes.push(packet_id, Some(Promise::Kept));
                }
            }
            Ok(Some(kind)) => {
                let (token, qos) = match publish.packet_id {
                    Some(packet_id) => (open.publishes.push(packet_id, None), Qos::AtLeastOnce),
                    None => (open.publishes.token(), Qos::AtMostOnce),
                };
                self.events.push_back(Event::Publish { token, kind, payload: publish.payload, qos });
            }
            Err((code, reason)) => {
                if let Some(packet_id) = publish.packet_id {
                    open.publishes.push(packet_id, Some(Promise::Refused(code)));
                }
                let told = open.version == Version::V5 && publish.packet_id.is_some();
                self.report_refusal(RefusedAction::Publish, &publish.topic, reason, code, told);
            }
        }
        self.acknowledge_settled();
        Ok(())
    }

    pub(super) fn acknowledge_settled(&mut self) {
        let Phase::Open(open) = &mut self.phase else { return };
        while let Some((packet_id, promise)) = open.publishes.pop_settled() {
            let code = match promise {
                Promise::Kept => 0,
                Promise::Refused(code) => code.max(0x80),
            };
            encode::puback(&mut self.outgoing, open.version, packet_id, code);
            self.counters.pubacks += 1;
        }
    }

    pub(super) fn handle_subscribe(
        &mut self,
        packet_id: u16,
        filters: &[FilterRequest],
        identifier: Option<u32>,
    ) -> Result<(), Fault> {
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        let mut codes = Vec::with_capacity(filters.len());
        let mut kinds: Vec<Kind> = Vec::new();
        let mut refused = Vec::new();
        let mut watches = false;
        for request in filters {
            let qos = if request.qos == 0 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
            let judged = judge_filter(&request.filter, &open.principal, open.role);
            if let (Ok(filter), Some(watch)) = (&judged, &mut open.watch) {
                let added = watch.subscribe(filter.clone(), request, identifier, self.limits.max_filters);
                codes.push(if added {
                    watches = true;
                    encode::granted(Qos::AtMostOnce)
                } else {
                    refused.push((request.filter.as_str(), "too many filters", 0x97));
                    SubackReasonCode::QuotaExceeded
                });
                continue;
            }
            let granted = judged.and_then(|filter| {
                let matching = Kind::ALL.iter().filter(|kind| kind.may_go_down() && filter.matches(**kind));
                let matching: Vec<Kind> = matching.copied().collect();
                let added = open.delivery.subscribe(
                    &request.filter,
                    filter,
                    qos,
                    identifier,
                    self.limits.max_filters,
                );
                if added { Ok(matching) } else { Err((SubackReasonCode::QuotaExceeded, "too many filters")) }
            });
            match granted {
                Ok(matching) => {
                    codes.push(encode::granted(qos));
                    kinds.extend(matching);
                }
                Err((code, reason)) => {
                    codes.push(code);
                    refused.push((request.filter.as_str(), reason, code as u8));
                }
            }
        }
        let out = &mut self.outgoing;
        encode::suback(out, open.version, packet_id, &codes, open.max_packet_bytes)
            .map_err(internal)
            .and_then(sent)?;
        for (filter, reason, code) in refused {
            self.report_refusal(RefusedAction::Subscribe, filter, reason, code, true);
        }
        if !kinds.is_empty() {
            kinds.sort_unstable();
            kinds.dedup();
            self.events.push_back(Event::Subscribed { kinds });
        }
        if watches {
            self.watch_changed();
        }
        Ok(())
    }

    pub(super) fn handle_unsubscribe(&mut self, packet_id: u16, filters: &[String]) -> Result<(), Fault> {
        let Phase::Open(open) = &mut self.phase else { return Ok(()) };
        let unsubscribed = |filter: &String| match &mut open.watch {
            Some(watch) => watch.unsubscribe(filter),
            None => open.delivery.unsubscribe(filter),
        };
        let existed: Vec<bool> = filters.iter().map(unsubscribed).collect();
        encode::unsuback(&mut self.outgoing, open.version, packet_id, &existed, open.max_packet_bytes)
            .map_err(internal)
            .and_then(sent)?;
        self.watch_changed();
        Ok(())
    }

    pub(super) fn report_refusal(
        &mut self,
        action: RefusedAction,
        topic: &str,
        reason: &'static str,
        code: u8,
        client_was_told: bool,
    ) {
        let rate = &mut self.refusals;
        if self.now_ms.saturating_sub(rate.minute_began_ms) >= 60_000 {
            (rate.minute_began_ms, rate.reported) = (self.now_ms, 0);
        }
        if rate.reported >= self.limits.max_refusals_per_minute {
            rate.suppressed = rate.suppressed.saturating_add(1);
            return;
        }
        rate.reported += 1;
        let suppressed = std::mem::take(&mut rate.suppressed);
        let topic = topic.chars().filter(|c| !c.is_control()).take(EXCERPT_CHARS).collect();
        self.events.push_back(Event::Refused(Refusal {
            action,
            topic,
            reason,
            code,
            client_was_told,
            suppressed,
        }));
    }
}

/// An acknowledgement that the client does not accept is not sent (MQTT-3.1.2-24), so it would wait for ever.
fn sent(fits: bool) -> Result<(), Fault> {
    if fits {
        return Ok(());
    }
    Err(Fault { code: 0x95, what: "the acknowledgement is larger than the client accepts" })
}

/// The kind of an authorised publish, or none for the own state; else a PUBACK code and why.
fn judge_publish(open: &Open, publish: &PublishPacket) -> Result<Option<Kind>, (u8, &'static str)> {
    if open.role == Role::Observer {
        return Err((0x87, "an observer only listens"));
    }
    let kind = match publish.topic.strip_prefix(&open.base) {
        Some("state") => None,
        Some(own) => match own.strip_prefix("up/").and_then(|kind| kind.parse::<Kind>().ok()) {
            Some(kind) if kind.may_go_up() => Some(kind),
            Some(_) => return Err((0x90, "messages of this kind do not go up")),
            None if own.starts_with("down/") => return Err((0x87, "only the cloud publishes below down/")),
            None => return Err((0x90, "there is no such topic")),
        },
        None => match publish.topic.parse::<Topic>() {
            Ok(_) => return Err((0x87, "the topic belongs to another principal")),
            Err(_) if publish.topic.starts_with("ft/") => {
                return Err((0x87, "not below the principal's own topics"));
            }
            Err(_) => return Err((0x90, "there is no such topic")),
        },
    };
    if publish.retain && kind.is_some() {
        return Err((0x83, "retained, which is not offered"));
    }
    if publish.payload.len() > schemas::limits::PAYLOAD_BYTES {
        return Err((0x97, "the payload is larger than any message"));
    }
    if publish.text && std::str::from_utf8(&publish.payload).is_err() {
        return Err((0x99, "the payload is not the UTF-8 that it says it is"));
    }
    Ok(kind)
}

fn judge_filter(
    filter: &str,
    principal: &Principal,
    role: Role,
) -> Result<Filter, (SubackReasonCode, &'static str)> {
    match filter.parse::<Filter>() {
        Ok(filter) if filter.permitted_for(principal, role) => Ok(filter),
        _ if role == Role::Observer => Err((
            SubackReasonCode::NotAuthorized,
            "an observer may subscribe the feed and the states of its own tenant",
        )),
        _ => Err((SubackReasonCode::NotAuthorized, "only the principal's own down/ may be subscribed")),
    }
}
