//! From bytes to what a client said, one type for both versions. Wire types end here.

use mqtt_protocol_core::mqtt::packet::{Property, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode, MqttError};

use crate::frame::Frame;
use crate::types::{Fault, Version};

const MALFORMED: Fault = Fault { code: 0x81, what: "the packet is malformed" };

/// A CONNECT.
#[derive(Debug)]
pub(crate) struct ConnectPacket {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) will: Option<Will>,
    /// MQTT 5; without meaning in 3.1.1.
    pub(crate) receive_maximum: u16,
    pub(crate) max_packet_bytes: usize,
    pub(crate) session_expiry_s: u32,
    pub(crate) enhanced_authentication: bool,
}

/// The last words of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
}

/// Why a CONNECT cannot even be judged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConnectFault {
    /// Not 3.1.1 and not 5.
    Version {
        /// Whether the peer would understand an MQTT 5 answer.
        newer: bool,
    },
    /// Malformed; the version is known if an MQTT 5 answer makes sense.
    Fault(Option<Version>, Fault),
}

/// A PUBLISH.
#[derive(Debug)]
pub(crate) struct PublishPacket {
    pub(crate) topic: String,
    pub(crate) packet_id: Option<u16>,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    /// Claims to be UTF-8.
    pub(crate) text: bool,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug)]
pub(crate) struct FilterRequest {
    pub(crate) filter: String,
    pub(crate) qos: u8,
}

/// What a client says after CONNECT.
#[derive(Debug)]
pub(crate) enum Packet {
    Publish(PublishPacket),
    Puback { packet_id: u16, code: u8 },
    Subscribe { packet_id: u16, filters: Vec<FilterRequest>, identifier: Option<u32> },
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    Pingreq,
    Disconnect { code: u8 },
}

/// Decodes the first packet of a connection.
pub(crate) fn connect(frame: &Frame<'_>) -> Result<ConnectPacket, ConnectFault> {
    let unknown = |fault| ConnectFault::Fault(None, fault);
    if frame.first != 0x10 {
        return Err(unknown(Fault { code: 0x82, what: "the first packet is not CONNECT" }));
    }
    if frame.body.starts_with(b"\0\x06MQIsdp") {
        return Err(ConnectFault::Version { newer: false });
    }
    if !frame.body.starts_with(b"\0\x04MQTT") {
        return Err(unknown(Fault { code: 0x82, what: "this is not MQTT" }));
    }
    let (Some(&level), Some(&flags)) = (frame.body.get(6), frame.body.get(7)) else {
        return Err(unknown(MALFORMED));
    };
    let version = match level {
        4 => Version::V3_1_1,
        5 => Version::V5,
        _ => return Err(ConnectFault::Version { newer: level > 5 }),
    };
    let fault = |fault| ConnectFault::Fault(Some(version), fault);
    check_connect_flags(flags, version).map_err(fault)?;
    match version {
        Version::V3_1_1 => {
            exact(frame.body, v3_1_1::Connect::parse).map(|packet| connect_v3(&packet)).map_err(fault)
        }
        Version::V5 => {
            exact(frame.body, v5_0::Connect::parse).and_then(|packet| connect_v5(&packet)).map_err(fault)
        }
    }
}

/// `mqtt-protocol-core` reads these flags without checking them (MQTT-3.1.2-3, -11, -13 to -15).
fn check_connect_flags(flags: u8, version: Version) -> Result<(), Fault> {
    let will = flags & 0b0000_0100 != 0;
    let will_qos = (flags >> 3) & 0b11;
    let malformed = flags & 1 != 0
        || will_qos == 3
        || (!will && flags & 0b0011_1000 != 0)
        || (version == Version::V3_1_1 && flags & 0b1100_0000 == 0b0100_0000);
    if malformed {
        Err(Fault { code: 0x81, what: "the flags of CONNECT contradict each other" })
    } else {
        Ok(())
    }
}

fn connect_v3(packet: &v3_1_1::Connect) -> ConnectPacket {
    ConnectPacket {
        version: Version::V3_1_1,
        client_id: packet.client_id().to_owned(),
        username: packet.user_name().map(str::to_owned),
        password: packet.password().map(<[u8]>::to_vec),
        clean_start: packet.clean_session(),
        keep_alive_s: packet.keep_alive(),
        will: packet.will_topic().map(|topic| Will {
            topic: topic.to_owned(),
            payload: packet.will_payload().unwrap_or_default().to_vec(),
            qos: packet.will_qos() as u8,
        }),
        receive_maximum: u16::MAX,
        max_packet_bytes: usize::MAX,
        session_expiry_s: 0,
        enhanced_authentication: false,
    }
}

fn connect_v5(packet: &v5_0::Connect) -> Result<ConnectPacket, Fault> {
    let mut connect = ConnectPacket {
        version: Version::V5,
        client_id: packet.client_id().to_owned(),
        username: packet.user_name().map(str::to_owned),
        password: packet.password().map(<[u8]>::to_vec),
        clean_start: packet.clean_start(),
        keep_alive_s: packet.keep_alive(),
        will: packet.will_topic().map(|topic| Will {
            topic: topic.to_owned(),
            payload: packet.will_payload().unwrap_or_default().to_vec(),
            qos: packet.will_qos() as u8,
        }),
        receive_maximum: u16::MAX,
        max_packet_bytes: usize::MAX,
        session_expiry_s: 0,
        enhanced_authentication: false,
    };
    for property in packet.props() {
        match property {
            Property::ReceiveMaximum(p) => connect.receive_maximum = p.val(),
            Property::MaximumPacketSize(p) => {
                connect.max_packet_bytes = usize::try_from(p.val()).unwrap_or(usize::MAX)
            }
            Property::SessionExpiryInterval(p) => connect.session_expiry_s = p.val(),
            Property::AuthenticationMethod(_) | Property::AuthenticationData(_) => {
                connect.enhanced_authentication = true;
            }
            _ => {}
        }
    }
    if connect.receive_maximum == 0 || connect.max_packet_bytes == 0 {
        return Err(Fault { code: 0x82, what: "a maximum of zero" });
    }
    Ok(connect)
}

/// Decodes every later packet.
pub(crate) fn packet(version: Version, frame: &Frame<'_>) -> Result<Packet, Fault> {
    let (kind, flags) = (frame.first >> 4, frame.first & 0x0F);
    let wanted = if matches!(kind, 6 | 8 | 10) { 0b0010 } else { 0 };
    if kind != 3 && flags != wanted {
        return Err(Fault { code: 0x81, what: "reserved flags are set" });
    }
    match kind {
        1 => Err(Fault { code: 0x82, what: "a second CONNECT" }),
        3 => publish(version, flags, frame.body),
        4 => puback(version, frame.body),
        5..=7 => Err(Fault { code: 0x82, what: "a packet of QoS 2, which is not offered" }),
        8 => subscribe(version, frame.body),
        10 => unsubscribe(version, frame.body),
        12 if frame.body.is_empty() => Ok(Packet::Pingreq),
        14 => disconnect(version, frame.body),
        15 if version == Version::V5 => {
            Err(Fault { code: 0x82, what: "AUTH without enhanced authentication" })
        }
        12 => Err(MALFORMED),
        _ => Err(Fault { code: 0x82, what: "a packet that only servers send" }),
    }
}

fn publish(version: Version, flags: u8, body: &[u8]) -> Result<Packet, Fault> {
    let mut text = false;
    let (topic, packet_id, payload) = match version {
        Version::V3_1_1 => {
            let (packet, _) = v3_1_1::Publish::parse(flags, body.into()).map_err(fault)?;
            (packet.topic_name().to_owned(), packet.packet_id(), packet.payload().as_slice().to_vec())
        }
        Version::V5 => {
            let (packet, _) = v5_0::Publish::parse(flags, body.into()).map_err(fault)?;
            for property in packet.props() {
                match property {
                    Property::TopicAlias(_) => {
                        return Err(Fault { code: 0x94, what: "topic aliases are not offered" });
                    }
                    Property::SubscriptionIdentifier(_) => {
                        return Err(Fault { code: 0x82, what: "a subscription identifier from a client" });
                    }
                    Property::PayloadFormatIndicator(p) => text = p.val() == 1,
                    _ => {}
                }
            }
            let header = 2 + packet.topic_name().len() + packet.packet_id().map_or(0, |_| 2);
            if body.len() == header {
                return Err(Fault { code: 0x81, what: "PUBLISH without properties" });
            }
            (packet.topic_name().to_owned(), packet.packet_id(), packet.payload().as_slice().to_vec())
        }
    };
    let (qos, dup) = ((flags >> 1) & 0b11, flags & 0b1000 != 0);
    if topic.is_empty() || topic.contains('\0') || packet_id == Some(0) || (qos == 0 && dup) {
        return Err(MALFORMED);
    }
    Ok(Packet::Publish(PublishPacket { topic, packet_id, payload, qos, dup, retain: flags & 1 != 0, text }))
}

fn puback(version: Version, body: &[u8]) -> Result<Packet, Fault> {
    match version {
        // Its parser accepts a reason code in 3.1.1, too.
        Version::V3_1_1 if body.len() != 2 => Err(MALFORMED),
        Version::V3_1_1 => {
            let packet = exact(body, v3_1_1::Puback::parse)?;
            Ok(Packet::Puback { packet_id: packet.packet_id(), code: 0 })
        }
        Version::V5 => {
            let packet = exact(body, v5_0::Puback::parse)?;
            Ok(Packet::Puback {
                packet_id: packet.packet_id(),
                code: packet.reason_code().map_or(0, |code| code as u8),
            })
        }
    }
}

fn subscribe(version: Version, body: &[u8]) -> Result<Packet, Fault> {
    let mut identifier = None;
    let (packet_id, filters) = match version {
        Version::V3_1_1 => {
            let packet = exact(body, v3_1_1::Subscribe::parse)?;
            (packet.packet_id(), filter_requests(packet.entries()))
        }
        Version::V5 => {
            let packet = exact(body, v5_0::Subscribe::parse)?;
            for property in packet.props() {
                if let Property::SubscriptionIdentifier(p) = property {
                    identifier = Some(p.val());
                }
            }
            (packet.packet_id(), filter_requests(packet.entries()))
        }
    };
    if packet_id == 0 || filters.iter().any(|f| f.filter.is_empty() || f.filter.contains('\0')) {
        return Err(MALFORMED);
    }
    Ok(Packet::Subscribe { packet_id, filters, identifier })
}

fn filter_requests(entries: &[mqtt_protocol_core::mqtt::packet::SubEntry]) -> Vec<FilterRequest> {
    let request = |entry: &mqtt_protocol_core::mqtt::packet::SubEntry| FilterRequest {
        filter: entry.topic_filter().to_owned(),
        qos: entry.sub_opts().qos() as u8,
    };
    entries.iter().map(request).collect()
}

fn unsubscribe(version: Version, body: &[u8]) -> Result<Packet, Fault> {
    let (packet_id, filters): (u16, Vec<String>) = match version {
        Version::V3_1_1 => {
            let packet = exact(body, v3_1_1::Unsubscribe::parse)?;
            (packet.packet_id(), packet.entries().iter().map(|f| f.as_str().to_owned()).collect())
        }
        Version::V5 => {
            let packet = exact(body, v5_0::Unsubscribe::parse)?;
            (packet.packet_id(), packet.entries().iter().map(|f| f.as_str().to_owned()).collect())
        }
    };
    if packet_id == 0 || filters.is_empty() {
        Err(MALFORMED)
    } else {
        Ok(Packet::Unsubscribe { packet_id, filters })
    }
}

fn disconnect(version: Version, body: &[u8]) -> Result<Packet, Fault> {
    match version {
        Version::V3_1_1 if !body.is_empty() => Err(MALFORMED),
        Version::V3_1_1 => Ok(Packet::Disconnect { code: 0 }),
        Version::V5 => {
            let packet = exact(body, v5_0::Disconnect::parse)?;
            Ok(Packet::Disconnect { code: packet.reason_code().map_or(0, |code| code as u8) })
        }
    }
}

/// Trailing bytes are as malformed as missing ones.
fn exact<T>(body: &[u8], parse: impl FnOnce(&[u8]) -> Result<(T, usize), MqttError>) -> Result<T, Fault> {
    let (packet, consumed) = parse(body).map_err(fault)?;
    if consumed == body.len() { Ok(packet) } else { Err(MALFORMED) }
}

fn fault(error: MqttError) -> Fault {
    match u8::try_from(error as u16) {
        Ok(code) if code > 0x80 && DisconnectReasonCode::try_from(code).is_ok() => {
            Fault { code, what: "the packet breaks a rule of the protocol" }
        }
        _ => MALFORMED,
    }
}
