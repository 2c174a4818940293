//! What the server says. Every function appends one whole packet.

use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, MaximumPacketSize, MaximumQos, MessageExpiryInterval, Property, Qos as WireQos,
    ReceiveMaximum, RetainAvailable, ServerReference, SessionExpiryInterval, SharedSubscriptionAvailable,
    SubscriptionIdentifier, UserProperty, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, PubackReasonCode,
    SubackReasonCode, SubackReturnCode, UnsubackReasonCode,
};

use crate::types::{ConnectRefusal, DisconnectReason, Qos, Version};

/// What an accepted MQTT 5 client is told about the server.
pub(crate) struct Welcome<'a> {
    pub(crate) receive_maximum: u16,
    pub(crate) max_packet_bytes: usize,
    pub(crate) assigned_client_id: Option<&'a str>,
    /// The client asked for a session that outlives the connection; there is none.
    pub(crate) session_expiry_asked: bool,
    /// Only observers have anything retained: the states of others.
    pub(crate) retain_available: bool,
    /// The user property is left out where the client could not take the packet.
    pub(crate) client_max_packet_bytes: usize,
}

/// CONNACK, accepted; false, and nothing is appended, if the client does not accept a packet of that size.
pub(crate) fn accept(out: &mut Vec<u8>, version: Version, welcome: &Welcome<'_>) -> Result<bool, MqttError> {
    if version == Version::V3_1_1 {
        out.extend_from_slice(&[0x20, 2, 0, 0]);
        return Ok(true);
    }
    let mut properties: Vec<Property> = vec![
        ReceiveMaximum::new(welcome.receive_maximum)?.into(),
        MaximumQos::new(1)?.into(),
        RetainAvailable::new(u8::from(welcome.retain_available))?.into(),
        MaximumPacketSize::new(u32::try_from(welcome.max_packet_bytes).unwrap_or(u32::MAX))?.into(),
        SharedSubscriptionAvailable::new(0)?.into(),
    ];
    if welcome.session_expiry_asked {
        properties.push(SessionExpiryInterval::new(0)?.into());
    }
    if let Some(client_id) = welcome.assigned_client_id {
        properties.push(AssignedClientIdentifier::new(client_id)?.into());
    }
    let bare = properties.clone();
    // The PUBACKs of this server are promises: an agent needs no second acknowledgement (mqtt.md).
    properties.push(UserProperty::new("ft-ack", "durable")?.into());
    let packet = connack_v5(ConnectReasonCode::Success, properties)?;
    let packet = if packet.size() <= welcome.client_max_packet_bytes {
        packet
    } else {
        connack_v5(ConnectReasonCode::Success, bare)?
    };
    Ok(append(out, &packet.to_continuous_buffer(), welcome.client_max_packet_bytes))
}

/// Nothing larger than the client accepts is ever sent (MQTT-3.1.2-24).
fn append(out: &mut Vec<u8>, packet: &[u8], max_bytes: usize) -> bool {
    let fits = packet.len() <= max_bytes;
    if fits {
        out.extend_from_slice(packet);
    }
    fits
}

fn connack_v5(code: ConnectReasonCode, properties: Vec<Property>) -> Result<v5_0::Connack, MqttError> {
    v5_0::Connack::builder().session_present(false).reason_code(code).props(properties).build()
}

/// CONNACK, refused: without its property, or not at all, where the client could not take it.
pub(crate) fn refuse(
    out: &mut Vec<u8>,
    version: Version,
    refusal: &ConnectRefusal,
    max_bytes: usize,
) -> Result<(), MqttError> {
    use ConnectRefusal as R;
    match version {
        Version::V3_1_1 => {
            let code = match refusal {
                R::BadCredentials => ConnectReturnCode::BadUserNameOrPassword,
                R::NotAuthorized
                | R::Banned
                | R::BadAuthenticationMethod
                | R::QosNotSupported
                | R::RetainNotSupported => ConnectReturnCode::NotAuthorized,
                R::ServerUnavailable | R::ServerBusy | R::QuotaExceeded | R::UseAnotherServer { .. } => {
                    ConnectReturnCode::ServerUnavailable
                }
                R::ClientIdentifierNotValid => ConnectReturnCode::IdentifierRejected,
                R::UnsupportedVersion => ConnectReturnCode::UnacceptableProtocolVersion,
            };
            out.extend_from_slice(&[0x20, 2, 0, code as u8]);
            Ok(())
        }
        Version::V5 => {
            let mut properties = Vec::new();
            let code = match refusal {
                R::BadCredentials => ConnectReasonCode::BadUserNameOrPassword,
                R::NotAuthorized => ConnectReasonCode::NotAuthorized,
                R::Banned => ConnectReasonCode::Banned,
                R::ServerUnavailable => ConnectReasonCode::ServerUnavailable,
                R::ServerBusy => ConnectReasonCode::ServerBusy,
                R::QuotaExceeded => ConnectReasonCode::QuotaExceeded,
                R::ClientIdentifierNotValid => ConnectReasonCode::ClientIdentifierNotValid,
                R::BadAuthenticationMethod => ConnectReasonCode::BadAuthenticationMethod,
                R::UnsupportedVersion => ConnectReasonCode::UnsupportedProtocolVersion,
                R::QosNotSupported => ConnectReasonCode::QosNotSupported,
                R::RetainNotSupported => ConnectReasonCode::RetainNotSupported,
                R::UseAnotherServer { reference } => {
                    properties.push(ServerReference::new(reference.as_str())?.into());
                    ConnectReasonCode::UseAnotherServer
                }
            };
            if !append(out, &connack_v5(code, properties)?.to_continuous_buffer(), max_bytes) {
                append(out, &connack_v5(code, Vec::new())?.to_continuous_buffer(), max_bytes);
            }
            Ok(())
        }
    }
}

/// Of the packet that [`refuse_fault`] makes.
pub(crate) const FAULT_BYTES: usize = 5;

/// CONNACK to a malformed MQTT 5 CONNECT.
pub(crate) fn refuse_fault(out: &mut Vec<u8>, code: u8) {
    let code = ConnectReasonCode::try_from(code).map_or(0x80, |code| code as u8);
    out.extend_from_slice(&[0x20, 3, 0, code, 0]);
}

/// PUBACK. By hand: it is the hot path, and four bytes.
pub(crate) fn puback(out: &mut Vec<u8>, version: Version, packet_id: u16, code: u8) {
    let [high, low] = packet_id.to_be_bytes();
    if code == 0 || version == Version::V3_1_1 {
        out.extend_from_slice(&[0x40, 2, high, low]);
    } else {
        let code = if code >= 0x80 && PubackReasonCode::try_from(code).is_ok() { code } else { 0x80 };
        out.extend_from_slice(&[0x40, 3, high, low, code]);
    }
}

/// SUBACK with MQTT 5 reason codes; 3.1.1 knows only one failure. False if it is larger than the client accepts.
pub(crate) fn suback(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    codes: &[SubackReasonCode],
    max_bytes: usize,
) -> Result<bool, MqttError> {
    let bytes = match version {
        Version::V3_1_1 => {
            let codes = codes.iter().map(|code| match code {
                SubackReasonCode::GrantedQos0 => SubackReturnCode::SuccessMaximumQos0,
                SubackReasonCode::GrantedQos1 => SubackReturnCode::SuccessMaximumQos1,
                _ => SubackReturnCode::Failure,
            });
            let packet =
                v3_1_1::Suback::builder().packet_id(packet_id).return_codes(codes.collect()).build()?;
            packet.to_continuous_buffer()
        }
        Version::V5 => {
            let packet = v5_0::Suback::builder().packet_id(packet_id).reason_codes(codes.to_vec()).build()?;
            packet.to_continuous_buffer()
        }
    };
    Ok(append(out, &bytes, max_bytes))
}

/// UNSUBACK: for each filter, whether there was such a subscription. False if it is larger than the client accepts.
pub(crate) fn unsuback(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    existed: &[bool],
    max_bytes: usize,
) -> Result<bool, MqttError> {
    let bytes = match version {
        Version::V3_1_1 => v3_1_1::Unsuback::builder().packet_id(packet_id).build()?.to_continuous_buffer(),
        Version::V5 => {
            let codes = existed.iter().map(|existed| match existed {
                true => UnsubackReasonCode::Success,
                false => UnsubackReasonCode::NoSubscriptionExisted,
            });
            let packet =
                v5_0::Unsuback::builder().packet_id(packet_id).reason_codes(codes.collect()).build()?;
            packet.to_continuous_buffer()
        }
    };
    Ok(append(out, &bytes, max_bytes))
}

/// PINGRESP
pub(crate) fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// A PUBLISH to a client.
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: Vec<u8>,
    /// With QoS 1.
    pub(crate) packet_id: Option<u16>,
    /// MQTT 5
    pub(crate) expiry_s: Option<u32>,
    /// MQTT 5: of all subscriptions that match.
    pub(crate) identifiers: Vec<u32>,
    /// A `state` as it stands, not a change.
    pub(crate) retain: bool,
}

/// PUBLISH, unless it would exceed `max_bytes`: then false, and nothing is appended.
pub(crate) fn publish(
    out: &mut Vec<u8>,
    version: Version,
    outgoing: Outgoing<'_>,
    max_bytes: usize,
) -> Result<bool, MqttError> {
    let qos = if outgoing.packet_id.is_some() { WireQos::AtLeastOnce } else { WireQos::AtMostOnce };
    let bytes = match version {
        Version::V3_1_1 => {
            let mut packet = v3_1_1::Publish::builder()
                .topic_name(outgoing.topic)?
                .qos(qos)
                .retain(outgoing.retain)
                .payload(outgoing.payload);
            if let Some(packet_id) = outgoing.packet_id {
                packet = packet.packet_id(packet_id);
            }
            packet.build()?.to_continuous_buffer()
        }
        Version::V5 => {
            let mut properties: Vec<Property> = Vec::new();
            if let Some(expiry_s) = outgoing.expiry_s {
                properties.push(MessageExpiryInterval::new(expiry_s)?.into());
            }
            for identifier in outgoing.identifiers {
                properties.push(SubscriptionIdentifier::new(identifier)?.into());
            }
            let mut packet = v5_0::Publish::builder()
                .topic_name(outgoing.topic)?
                .qos(qos)
                .retain(outgoing.retain)
                .payload(outgoing.payload)
                .props(properties);
            if let Some(packet_id) = outgoing.packet_id {
                packet = packet.packet_id(packet_id);
            }
            packet.build()?.to_continuous_buffer()
        }
    };
    Ok(append(out, &bytes, max_bytes))
}

/// DISCONNECT, without the reference where the client could not take it; MQTT 3.1.1 servers do not send one.
pub(crate) fn disconnect(
    out: &mut Vec<u8>,
    version: Version,
    code: u8,
    reference: Option<&str>,
    max_bytes: usize,
) {
    if version == Version::V3_1_1 {
        return;
    }
    let code = DisconnectReasonCode::try_from(code).unwrap_or(DisconnectReasonCode::UnspecifiedError);
    let property = reference.and_then(|reference| ServerReference::new(reference).ok());
    let with_reference = property.and_then(|property| {
        let packet = v5_0::Disconnect::builder().reason_code(code).props(vec![property.into()]).build();
        packet.ok().map(|packet| packet.to_continuous_buffer())
    });
    if with_reference.is_some_and(|packet| append(out, &packet, max_bytes)) {
        return;
    }
    append(out, &[0xE0, 1, code as u8], max_bytes);
}

/// The reason code of a DISCONNECT.
pub(crate) fn disconnect_code(reason: &DisconnectReason) -> u8 {
    match reason {
        DisconnectReason::TakenOver => 0x8E,
        DisconnectReason::ServerShuttingDown => 0x8B,
        DisconnectReason::NotAuthorized => 0x87,
        DisconnectReason::Administrative => 0x98,
        DisconnectReason::ServerBusy => 0x89,
        DisconnectReason::UseAnotherServer { .. } => 0x9C,
    }
}

/// The reason code of a granted filter.
pub(crate) fn granted(qos: Qos) -> SubackReasonCode {
    match qos {
        Qos::AtMostOnce => SubackReasonCode::GrantedQos0,
        Qos::AtLeastOnce => SubackReasonCode::GrantedQos1,
    }
}
