//! MQTT as a client speaks it, packet by packet and without any state, in both versions: what simulated clients send,
//! and what they read of a server. The server's own code has no part in it, so each checks the other.

use broker_session::{Qos, Version};
use mqtt_protocol_core::mqtt::packet::{
    Property, Qos as WireQos, ReceiveMaximum, SubEntry, SubOpts, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{MqttError, PubackReasonCode};

/// PINGREQ, the same in both versions.
pub(crate) const PINGREQ: [u8; 2] = [0xC0, 0];

/// A packet that cannot be made, or one of the server that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PacketError {
    /// The library's reason.
    #[error("MQTT: {0:?}")]
    Library(MqttError),
    /// What only a client may say, what nobody asked for, or no packet at all.
    #[error("MQTT: the first byte 0x{0:02X} is none that a server may send here")]
    Unexpected(u8),
}

impl From<MqttError> for PacketError {
    fn from(error: MqttError) -> Self {
        Self::Library(error)
    }
}

/// What a CONNECT says. Sessions end with their connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hello<'a> {
    pub(crate) version: Version,
    pub(crate) client_id: &'a str,
    /// User name and password.
    pub(crate) login: Option<(&'a str, &'a [u8])>,
    /// 0: never.
    pub(crate) keep_alive_s: u16,
    /// How many deliveries may be open at a time (MQTT 5).
    pub(crate) receive_maximum: u16,
    /// Topic and payload of the will, with QoS 1.
    pub(crate) will: Option<(&'a str, &'a [u8])>,
}

/// CONNECT
pub(crate) fn connect(hello: &Hello<'_>) -> Result<Vec<u8>, PacketError> {
    let bytes = match hello.version {
        Version::V3_1_1 => {
            let mut packet = v3_1_1::Connect::builder()
                .client_id(hello.client_id)?
                .clean_session(true)
                .keep_alive(hello.keep_alive_s);
            if let Some((user, password)) = hello.login {
                packet = packet.user_name(user)?.password(password.to_vec())?;
            }
            if let Some((topic, payload)) = hello.will {
                packet = packet.will_message(topic, payload.to_vec(), WireQos::AtLeastOnce, false)?;
            }
            packet.build()?.to_continuous_buffer()
        }
        Version::V5 => {
            let properties: Vec<Property> = vec![ReceiveMaximum::new(hello.receive_maximum)?.into()];
            let mut packet = v5_0::Connect::builder()
                .client_id(hello.client_id)?
                .clean_start(true)
                .keep_alive(hello.keep_alive_s)
                .props(properties);
            if let Some((user, password)) = hello.login {
                packet = packet.user_name(user)?.password(password.to_vec())?;
            }
            if let Some((topic, payload)) = hello.will {
                packet = packet.will_message(topic, payload.to_vec(), WireQos::AtLeastOnce, false)?;
            }
            packet.build()?.to_continuous_buffer()
        }
    };
    Ok(bytes)
}

/// SUBSCRIBE to one filter.
pub(crate) fn subscribe(
    version: Version,
    packet_id: u16,
    filter: &str,
    qos: Qos,
) -> Result<Vec<u8>, PacketError> {
    let entries = vec![SubEntry::new(filter, SubOpts::new().set_qos(wire(qos)))?];
    Ok(match version {
        Version::V3_1_1 => {
            let packet = v3_1_1::Subscribe::builder().packet_id(packet_id).entries(entries).build()?;
            packet.to_continuous_buffer()
        }
        Version::V5 => {
            let packet = v5_0::Subscribe::builder().packet_id(packet_id).entries(entries).build()?;
            packet.to_continuous_buffer()
        }
    })
}

/// PUBLISH: with a packet identifier QoS 1, without one QoS 0.
pub(crate) fn publish(
    version: Version,
    topic: &str,
    payload: &[u8],
    packet_id: Option<u16>,
    dup: bool,
) -> Result<Vec<u8>, PacketError> {
    let qos = if packet_id.is_some() { WireQos::AtLeastOnce } else { WireQos::AtMostOnce };
    Ok(match version {
        Version::V3_1_1 => {
            let packet = v3_1_1::Publish::builder().topic_name(topic)?.qos(qos).dup(dup);
            let packet = packet.payload(payload.to_vec());
            let packet = if let Some(packet_id) = packet_id { packet.packet_id(packet_id) } else { packet };
            packet.build()?.to_continuous_buffer()
        }
        Version::V5 => {
            let packet = v5_0::Publish::builder().topic_name(topic)?.qos(qos).dup(dup);
            let packet = packet.payload(payload.to_vec());
            let packet = if let Some(packet_id) = packet_id { packet.packet_id(packet_id) } else { packet };
            packet.build()?.to_continuous_buffer()
        }
    })
}

/// PUBACK; MQTT 3.1.1 has no reason codes.
pub(crate) fn puback(version: Version, packet_id: u16, code: u8) -> Result<Vec<u8>, PacketError> {
    Ok(match version {
        Version::V3_1_1 => v3_1_1::Puback::builder().packet_id(packet_id).build()?.to_continuous_buffer(),
        Version::V5 => {
            let packet = v5_0::Puback::builder().packet_id(packet_id);
            let packet = match code {
                0 => packet,
                code => packet.reason_code(
                    PubackReasonCode::try_from(code).unwrap_or(PubackReasonCode::UnspecifiedError),
                ),
            };
            packet.build()?.to_continuous_buffer()
        }
    })
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromServer {
    /// 0 is success; `receive_maximum` is how many publishes may be open (65,535 if it was not said).
    Connack {
        code: u8,
        session_present: bool,
        receive_maximum: u16,
    },
    Suback {
        packet_id: u16,
        codes: Vec<u8>,
    },
    Publish {
        topic: String,
        payload: Vec<u8>,
        packet_id: Option<u16>,
        dup: bool,
        retain: bool,
    },
    Puback {
        packet_id: u16,
        code: u8,
    },
    Pingresp,
    Disconnect {
        code: u8,
    },
}

/// Takes the first packet out of `bytes`; none while it is not whole.
pub(crate) fn take(version: Version, bytes: &mut Vec<u8>) -> Result<Option<FromServer>, PacketError> {
    let Some((length, packet)) = first(version, bytes)? else { return Ok(None) };
    bytes.drain(..length);
    Ok(Some(packet))
}

/// The first packet of `bytes`, and how many of them it takes; none while it is not whole.
pub(crate) fn first(version: Version, bytes: &[u8]) -> Result<Option<(usize, FromServer)>, PacketError> {
    let Some((header, length)) = extent(bytes) else { return Ok(None) };
    Ok(Some((length, read(version, bytes[0], &bytes[header..length])?)))
}

/// Bytes of the fixed header, and of the whole packet, if it is there.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut remaining = 0;
    for (index, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let header = index + 2;
            return (bytes.len() >= header + remaining).then_some((header, header + remaining));
        }
    }
    None
}

fn read(version: Version, first: u8, body: &[u8]) -> Result<FromServer, PacketError> {
    let v5 = version == Version::V5;
    Ok(match first >> 4 {
        2 if v5 => {
            let packet = v5_0::Connack::parse(body)?.0;
            let mut receive_maximum = u16::MAX;
            for property in packet.props() {
                if let Property::ReceiveMaximum(said) = property {
                    receive_maximum = said.val();
                }
            }
            let (code, session_present) = (packet.reason_code() as u8, packet.session_present());
            FromServer::Connack { code, session_present, receive_maximum }
        }
        2 => {
            let packet = v3_1_1::Connack::parse(body)?.0;
            let (code, session_present) = (packet.return_code() as u8, packet.session_present());
            FromServer::Connack { code, session_present, receive_maximum: u16::MAX }
        }
        3 => read_publish(v5, first & 0x0F, body)?,
        4 if v5 => {
            let packet = v5_0::Puback::parse(body)?.0;
            let code = packet.reason_code().map_or(0, |code| code as u8);
            FromServer::Puback { packet_id: packet.packet_id(), code }
        }
        4 => FromServer::Puback { packet_id: v3_1_1::Puback::parse(body)?.0.packet_id(), code: 0 },
        9 if v5 => {
            let packet = v5_0::Suback::parse(body)?.0;
            let codes = packet.reason_codes().into_iter().map(|code| code as u8).collect();
            FromServer::Suback { packet_id: packet.packet_id(), codes }
        }
        9 => {
            let packet = v3_1_1::Suback::parse(body)?.0;
            let codes = packet.return_codes().into_iter().map(|code| code as u8).collect();
            FromServer::Suback { packet_id: packet.packet_id(), codes }
        }
        13 => FromServer::Pingresp,
        14 if v5 => {
            let packet = v5_0::Disconnect::parse(body)?.0;
            FromServer::Disconnect { code: packet.reason_code().map_or(0, |code| code as u8) }
        }
        _ => return Err(PacketError::Unexpected(first)),
    })
}

fn read_publish(v5: bool, flags: u8, body: &[u8]) -> Result<FromServer, PacketError> {
    let (topic, packet_id, payload) = if v5 {
        let packet = v5_0::Publish::parse(flags, body.into())?.0;
        (packet.topic_name().to_owned(), packet.packet_id(), packet.payload().as_slice().to_vec())
    } else {
        let packet = v3_1_1::Publish::parse(flags, body.into())?.0;
        (packet.topic_name().to_owned(), packet.packet_id(), packet.payload().as_slice().to_vec())
    };
    let (dup, retain) = (flags & 0b1000 != 0, flags & 1 != 0);
    Ok(FromServer::Publish { topic, payload, packet_id, dup, retain })
}

fn wire(qos: Qos) -> WireQos {
    match qos {
        Qos::AtMostOnce => WireQos::AtMostOnce,
        Qos::AtLeastOnce => WireQos::AtLeastOnce,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that echoes what a client may also say is read back as it was meant.
    #[test]
    fn packets_are_taken_whole_and_mean_what_was_said() {
        for version in [Version::V3_1_1, Version::V5] {
            for payload in [0, 1, 200, 20_000] {
                let payload = vec![7; payload];
                let packet = publish(version, "ft/a/b/down/x", &payload, Some(9), false).unwrap();
                for cut in [0, 1, 2, 3, packet.len() - 1] {
                    let mut part = packet[..cut].to_vec();
                    assert_eq!(take(version, &mut part).unwrap(), None, "{cut}");
                    assert_eq!(part.len(), cut);
                }
                let mut bytes = [packet, puback(version, 4, 0).unwrap()].concat();
                let topic = "ft/a/b/down/x".to_owned();
                let said =
                    FromServer::Publish { topic, payload, packet_id: Some(9), dup: false, retain: false };
                assert_eq!(take(version, &mut bytes).unwrap(), Some(said));
                let acknowledged = FromServer::Puback { packet_id: 4, code: 0 };
                assert_eq!(take(version, &mut bytes).unwrap(), Some(acknowledged));
                assert!(bytes.is_empty());
            }
        }
        let mut refused = puback(Version::V5, 4, 0x97).unwrap();
        let quota = FromServer::Puback { packet_id: 4, code: 0x97 };
        assert_eq!(take(Version::V5, &mut refused).unwrap(), Some(quota));
    }

    #[test]
    fn what_only_a_client_says_is_no_packet_of_a_server() {
        for version in [Version::V3_1_1, Version::V5] {
            let hello = Hello {
                version,
                client_id: "c",
                login: Some(("a/b", b"t")),
                keep_alive_s: 9,
                receive_maximum: 5,
                will: Some(("ft/a/b/state", b"gone")),
            };
            let subscription = subscribe(version, 1, "ft/a/b/down/#", Qos::AtLeastOnce).unwrap();
            for mut bytes in [connect(&hello).unwrap(), subscription, PINGREQ.to_vec()] {
                let first = bytes[0];
                assert_eq!(take(version, &mut bytes), Err(PacketError::Unexpected(first)));
            }
        }
    }
}
