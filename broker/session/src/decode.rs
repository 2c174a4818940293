//! From bytes to what a client said, one type for both versions. Wire types end here.

use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait, Property, SubEntry, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode, MqttError};

use crate::frame::{self, Frame};
use crate::rules;
use crate::types::{Fault, Version};

const MALFORMED: Fault = Fault { code: 0x81, what: "the packet is malformed" };
const PADDED: Fault = Fault { code: 0x81, what: "a length has more bytes than it needs" };

const USER_NAME_FLAG: u8 = 0b1000_0000;
const PASSWORD_FLAG: u8 = 0b0100_0000;

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
    pub(crate) retain: bool,
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
    /// MQTT 5: the retain flag of live messages is as they were published.
    pub(crate) retain_as_published: bool,
    /// MQTT 5: 0 retained messages at each subscribe, 1 at a new one only, 2 never.
    pub(crate) retain_handling: u8,
}

/// What a client says after CONNECT.
#[derive(Debug)]
pub(crate) enum Packet {
    Publish(PublishPacket),
    Puback {
        packet_id: u16,
        code: u8,
    },
    Subscribe {
        packet_id: u16,
        filters: Vec<FilterRequest>,
        identifier: Option<u32>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    Pingreq,
    /// The session expiry is 0 if none was sent.
    Disconnect {
        code: u8,
        session_expiry_s: u32,
    },
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
    check_connect_flags(flags, version).and_then(|()| check_padding(version, frame)).map_err(fault)?;
    let connect = match version {
        Version::V3_1_1 => exact(frame.body, v3_1_1::Connect::parse).map(|packet| connect_v3(&packet)),
        Version::V5 if flags & (USER_NAME_FLAG | PASSWORD_FLAG) == PASSWORD_FLAG => {
            connect_with_password_alone(frame.body)
        }
        Version::V5 => exact(frame.body, v5_0::Connect::parse).and_then(|packet| connect_v5(&packet)),
    };
    let connect = connect.map_err(fault)?;
    rules::text(&connect.client_id)
        .and_then(|()| rules::text(connect.username.as_deref().unwrap_or_default()))
        .and_then(|()| connect.will.as_ref().map_or(Ok(()), |will| rules::topic_name(&will.topic)))
        .map_err(fault)?;
    Ok(connect)
}

/// `mqtt-protocol-core` reads these flags without checking them (MQTT-3.1.2-3, -11, -13 to -15).
fn check_connect_flags(flags: u8, version: Version) -> Result<(), Fault> {
    let will = flags & 0b0000_0100 != 0;
    let will_qos = (flags >> 3) & 0b11;
    let malformed = flags & 1 != 0
        || will_qos == 3
        || (!will && flags & 0b0011_1000 != 0)
        || (version == Version::V3_1_1 && flags & (USER_NAME_FLAG | PASSWORD_FLAG) == PASSWORD_FLAG);
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
            retain: packet.will_retain(),
        }),
        receive_maximum: u16::MAX,
        max_packet_bytes: usize::MAX,
        session_expiry_s: 0,
        enhanced_authentication: false,
    }
}

/// MQTT 5 allows a password without a user name (3.1.2.9), the library does not: it is shown the rest, and the
/// password is what follows.
fn connect_with_password_alone(body: &[u8]) -> Result<ConnectPacket, Fault> {
    let mut rest = body.to_vec();
    if let Some(flags) = rest.get_mut(7) {
        *flags &= !PASSWORD_FLAG;
    }
    let (packet, consumed) = parsed(&rest, v5_0::Connect::parse)?;
    match body.get(consumed..) {
        Some([high, low, password @ ..])
            if password.len() == usize::from(u16::from_be_bytes([*high, *low])) =>
        {
            Ok(ConnectPacket { password: Some(password.to_vec()), ..connect_v5(&packet)? })
        }
        _ => Err(MALFORMED),
    }
}

fn connect_v5(packet: &v5_0::Connect) -> Result<ConnectPacket, Fault> {
    rules::properties(packet.props())?;
    rules::properties(packet.will_props())?;
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
            retain: packet.will_retain(),
        }),
        receive_maximum: u16::MAX,
        max_packet_bytes: usize::MAX,
        session_expiry_s: 0,
        enhanced_authentication: false,
    };
    let mut authentication_data = false;
    for property in packet.props() {
        match property {
            Property::ReceiveMaximum(p) => connect.receive_maximum = p.val(),
            Property::MaximumPacketSize(p) => {
                connect.max_packet_bytes = usize::try_from(p.val()).unwrap_or(usize::MAX)
            }
            Property::SessionExpiryInterval(p) => connect.session_expiry_s = p.val(),
            Property::AuthenticationMethod(_) => connect.enhanced_authentication = true,
            Property::AuthenticationData(_) => authentication_data = true,
            _ => {}
        }
    }
    if authentication_data && !connect.enhanced_authentication {
        return Err(Fault { code: 0x82, what: "authentication data without a method" });
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
    check_padding(version, frame)?;
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

/// MQTT 3.1.1 does not forbid a remaining length that is longer than it needs to be.
fn check_padding(version: Version, frame: &Frame<'_>) -> Result<(), Fault> {
    let padded = version == Version::V5 && frame.length_bytes != frame::length_bytes(frame.body.len());
    if padded { Err(PADDED) } else { Ok(()) }
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
            rules::properties(packet.props())?;
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
            // Padded lengths; and the library accepts a PUBLISH without a property length.
            if packet.size() != frame::length_bytes(body.len()) {
                return Err(MALFORMED);
            }
            (packet.topic_name().to_owned(), packet.packet_id(), packet.payload().as_slice().to_vec())
        }
    };
    let (qos, dup) = ((flags >> 1) & 0b11, flags & 0b1000 != 0);
    if packet_id == Some(0) || (qos == 0 && dup) {
        return Err(MALFORMED);
    }
    rules::topic_name(&topic)?;
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
            rules::properties(packet.props().as_deref().unwrap_or_default())?;
            Ok(Packet::Puback {
                packet_id: packet.packet_id(),
                code: packet.reason_code().map_or(0, |code| code as u8),
            })
        }
    }
}

fn subscribe(version: Version, body: &[u8]) -> Result<Packet, Fault> {
    let mut identifiers = Vec::new();
    let (packet_id, entries) = match version {
        Version::V3_1_1 => {
            let packet = exact(body, v3_1_1::Subscribe::parse)?;
            // The library reads the options of MQTT 5 here, too (MQTT 3.1.1: MQTT-3.8.3-4).
            if packet.entries().iter().any(|entry| entry.sub_opts().to_buffer()[0] & 0b1111_1100 != 0) {
                return Err(MALFORMED);
            }
            (packet.packet_id(), packet.entries().to_vec())
        }
        Version::V5 => {
            let packet = exact(body, v5_0::Subscribe::parse)?;
            rules::properties(packet.props())?;
            identifiers.extend(packet.props().iter().filter_map(|property| match property {
                Property::SubscriptionIdentifier(p) => Some(p.val()),
                _ => None,
            }));
            packet.entries().iter().try_for_each(check_shared)?;
            (packet.packet_id(), packet.entries().to_vec())
        }
    };
    if packet_id == 0 {
        return Err(MALFORMED);
    }
    if identifiers.len() > 1 {
        return Err(Fault { code: 0x82, what: "more than one subscription identifier" });
    }
    let mut filters = Vec::with_capacity(entries.len());
    for entry in &entries {
        rules::topic_filter(entry.topic_filter())?;
        filters.push(FilterRequest {
            filter: entry.topic_filter().to_owned(),
            qos: entry.sub_opts().qos() as u8,
            retain_as_published: entry.sub_opts().rap(),
            retain_handling: entry.sub_opts().rh() as u8,
        });
    }
    Ok(Packet::Subscribe { packet_id, filters, identifier: identifiers.first().copied() })
}

/// CONNACK has said that there are no shared subscriptions, so to ask for one is an error (3.2.2.3.13, MQTT-3.8.3-4).
fn check_shared(entry: &SubEntry) -> Result<(), Fault> {
    match entry.topic_filter().starts_with("$share/") {
        true if entry.sub_opts().nl() => Err(Fault { code: 0x82, what: "No Local on a shared subscription" }),
        true => Err(Fault { code: 0x9E, what: "shared subscriptions are not offered" }),
        false => Ok(()),
    }
}

fn unsubscribe(version: Version, body: &[u8]) -> Result<Packet, Fault> {
    let (packet_id, filters): (u16, Vec<String>) = match version {
        Version::V3_1_1 => {
            let packet = exact(body, v3_1_1::Unsubscribe::parse)?;
            (packet.packet_id(), packet.entries().iter().map(|f| f.as_str().to_owned()).collect())
        }
        Version::V5 => {
            let packet = exact(body, v5_0::Unsubscribe::parse)?;
            rules::properties(packet.props())?;
            (packet.packet_id(), packet.entries().iter().map(|f| f.as_str().to_owned()).collect())
        }
    };
    if packet_id == 0 {
        return Err(MALFORMED);
    }
    filters.iter().try_for_each(|filter| rules::topic_filter(filter))?;
    Ok(Packet::Unsubscribe { packet_id, filters })
}

fn disconnect(version: Version, body: &[u8]) -> Result<Packet, Fault> {
    match version {
        Version::V3_1_1 if !body.is_empty() => Err(MALFORMED),
        Version::V3_1_1 => Ok(Packet::Disconnect { code: 0, session_expiry_s: 0 }),
        Version::V5 => {
            let packet = exact(body, v5_0::Disconnect::parse)?;
            let properties = packet.props().as_deref().unwrap_or_default();
            rules::properties(properties)?;
            let session_expiry = properties.iter().find_map(|property| match property {
                Property::SessionExpiryInterval(p) => Some(p.val()),
                _ => None,
            });
            let code = packet.reason_code().map_or(0, |code| code as u8);
            Ok(Packet::Disconnect { code, session_expiry_s: session_expiry.unwrap_or(0) })
        }
    }
}

/// Trailing bytes are as malformed as missing ones.
fn exact<T: GenericPacketTrait>(body: &[u8], parse: Parse<T>) -> Result<T, Fault> {
    let (packet, consumed) = parsed(body, parse)?;
    if consumed == body.len() { Ok(packet) } else { Err(MALFORMED) }
}

type Parse<T> = fn(&[u8]) -> Result<(T, usize), MqttError>;

/// A packet that printed again is shorter has a length in it that has more bytes than it needs.
fn parsed<T: GenericPacketTrait>(body: &[u8], parse: Parse<T>) -> Result<(T, usize), Fault> {
    let (packet, consumed) = parse(body).map_err(fault)?;
    let printed_bytes = packet.to_continuous_buffer().len();
    if printed_bytes == frame::length_bytes(consumed) { Ok((packet, consumed)) } else { Err(PADDED) }
}

fn fault(error: MqttError) -> Fault {
    match u8::try_from(error as u16) {
        Ok(code) if code > 0x80 && DisconnectReasonCode::try_from(code).is_ok() => {
            Fault { code, what: "the packet breaks a rule of the protocol" }
        }
        _ => MALFORMED,
    }
}
