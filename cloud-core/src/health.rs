//! Whether the platform works, found out by using it: a real MQTT client on the lane asks for the cloud's time.
//!
//! The probe has no right that another principal lacks. It connects over loopback TCP with a token made at this start,
//! subscribes, publishes `cloud-time` with QoS 1, and wants the PUBACK and the answer. So a good answer means: the lane
//! accepts, the core decides, the journal syncs, and the lane delivers.

use std::net::SocketAddr;
use std::time::Duration;

use schemas::envelope::Envelope;
use schemas::ids::{Hash, MessageId, Principal};
use schemas::message::{CloudTimeRequest, Down};
use schemas::topic::{Kind, Topic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// From connecting to the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Nothing that the probe is sent is longer.
const PACKET_BYTES: usize = 16 << 10;
/// The identifier of its one publish.
const PACKET_ID: [u8; 2] = [0, 2];

/// Connects as the health principal.
pub(crate) struct Probe {
    address: SocketAddr,
    principal: Principal,
    token: String,
    /// One probe at a time, however many ask.
    turn: Mutex<()>,
}

impl Probe {
    /// For a lane at `address`, with credentials that the core was told of at its start.
    pub(crate) fn new(address: SocketAddr, principal: Principal, token: String) -> Self {
        Self { address, principal, token, turn: Mutex::new(()) }
    }

    /// One round trip, or what went wrong in it.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let mut step = "waiting for another check to end";
        match tokio::time::timeout(TIMEOUT, self.round_trip(&mut step)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(format!("{step}: {reason}")),
            Err(_) => Err(format!("{step}: nothing within {} s", TIMEOUT.as_secs())),
        }
    }

    async fn round_trip(&self, step: &mut &'static str) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let nonce = u64::from_be_bytes(crate::random::bytes().map_err(|error| error.to_string())?);
        let message = MessageId(crate::random::bytes().map_err(|error| error.to_string())?);
        *step = "connecting to the lane";
        let mut stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        *step = "sending CONNECT";
        write(&mut stream, &connect(&self.principal, &self.token)).await?;
        match read(&mut stream).await? {
            (0x20, body) if body.get(1) == Some(&0) => {}
            (0x20, body) => {
                return Err(format!("CONNACK {body:?}: the core does not know the health principal"));
            }
            (first, _) => return Err(format!("packet {first:#04x} instead of CONNACK")),
        }
        *step = "sending SUBSCRIBE";
        write(&mut stream, &subscribe(&self.principal)).await?;
        match read(&mut stream).await? {
            (0x90, body) if body.get(2).is_some_and(|code| *code < 0x80) => {}
            (first, body) => {
                return Err(format!("packet {first:#04x} {body:?} instead of a SUBACK that grants"));
            }
        }
        *step = "publishing cloud-time";
        write(&mut stream, &publish(&self.principal, message, nonce)).await?;
        let (mut is_promised, mut is_answered) = (false, false);
        while !(is_promised && is_answered) {
            *step = if is_promised { "waiting for the answer" } else { "waiting for PUBACK" };
            let (first, body) = read(&mut stream).await?;
            is_promised |= first == 0x40 && body.starts_with(&PACKET_ID);
            is_answered |= first & 0xF0 == 0x30 && answer_nonce(first, &body) == Some(nonce);
        }
        // DISCONNECT; the check is over, whether it arrives or not.
        let _ = stream.write_all(&[0xE0, 0]).await;
        Ok(())
    }
}

/// What the core compares the probe's token with.
pub(crate) fn token_hash(token: &str) -> Hash {
    Hash::of(token.as_bytes())
}

async fn write(stream: &mut TcpStream, packet: &[u8]) -> Result<(), String> {
    stream.write_all(packet).await.map_err(|error| error.to_string())
}

/// First byte and body of the next packet.
async fn read(stream: &mut TcpStream) -> Result<(u8, Vec<u8>), String> {
    let io = |error: std::io::Error| format!("the lane closed the connection ({error})");
    let first = stream.read_u8().await.map_err(io)?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let byte = stream.read_u8().await.map_err(io)?;
        length |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 21 {
            return Err("a packet without a length".into());
        }
    }
    if length > PACKET_BYTES {
        return Err(format!("a packet of {length} bytes"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(io)?;
    Ok((first, body))
}

/// MQTT 3.1.1, clean session, user name and password, no keep alive.
fn connect(principal: &Principal, token: &str) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0b1100_0010, 0, 0];
    for field in ["health", &principal.to_string(), token] {
        push_field(&mut body, field.as_bytes());
    }
    packet(0x10, &body)
}

fn subscribe(principal: &Principal) -> Vec<u8> {
    let mut body = vec![0, 1];
    let topic = Topic::Down { principal: principal.clone(), kind: Kind::CloudTime };
    push_field(&mut body, topic.to_string().as_bytes());
    body.push(0);
    packet(0x82, &body)
}

fn publish(principal: &Principal, message: MessageId, nonce: u64) -> Vec<u8> {
    let mut body = Vec::new();
    let topic = Topic::Up { principal: principal.clone(), kind: Kind::CloudTime };
    push_field(&mut body, topic.to_string().as_bytes());
    body.extend(PACKET_ID);
    body.extend(Envelope::message(message, CloudTimeRequest { nonce }).encode());
    packet(0x32, &body)
}

fn push_field(body: &mut Vec<u8>, field: &[u8]) {
    body.extend(u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend(field);
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7F).unwrap_or(0);
        length >>= 7;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn answer_nonce(first: u8, body: &[u8]) -> Option<u64> {
    let topic_bytes = usize::from(u16::from_be_bytes(body.get(..2)?.try_into().ok()?));
    let id_bytes = if first & 0b0110 == 0 { 0 } else { 2 };
    let payload = body.get(2 + topic_bytes + id_bytes..)?;
    match Down::decode(Kind::CloudTime, payload).ok()?.body {
        Down::CloudTime(answer) => Some(answer.nonce),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use schemas::message::CloudTimeAnswer;
    use schemas::time::Timestamp;

    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        assert_eq!(packet(0x10, &[7])[..2], [0x10, 1]);
        assert_eq!(packet(0x10, &[0; 200])[..3], [0x10, 0xC8, 1]);
    }

    #[test]
    fn the_nonce_of_an_answer_is_read_with_and_without_packet_id() {
        let payload =
            Envelope::message(MessageId([1; 16]), CloudTimeAnswer { nonce: 42, now: Timestamp(1) }).encode();
        for (first, id) in [(0x30, vec![]), (0x32, vec![0, 9])] {
            let mut body = Vec::new();
            push_field(&mut body, b"ft/a/b/down/cloud-time");
            body.extend(id);
            body.extend(&payload);
            assert_eq!(answer_nonce(first, &body), Some(42));
        }
        assert_eq!(answer_nonce(0x30, &[0]), None);
    }
}
