//! A load generator for any MQTT 5 broker: publishers with a window of QoS 1 messages, and one subscriber. Packets are
//! made by hand, so that the generator costs little and the same for every broker.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const CHUNK_BYTES: usize = 64 * 1024;
const PUBACK: u8 = 0x40;
const PUBLISH_QOS_1: u8 = 0x32;

/// Who connects.
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) token: String,
}

/// A connection after CONNACK.
pub(crate) struct Client<S = TcpStream> {
    stream: S,
    received: Vec<u8>,
}

/// What a publisher sends, again and again, each time with a new message id.
pub(crate) struct Template {
    packet: Vec<u8>,
    packet_id_at: usize,
    message_id_at: usize,
}

impl Template {
    /// `message_id` must stand in the payload; its last eight bytes become a counter.
    pub(crate) fn new(topic: &str, payload: &[u8], message_id: &[u8; 16]) -> anyhow::Result<Self> {
        let mut body = string(topic)?;
        body.extend_from_slice(&[0, 0, 0]);
        body.extend_from_slice(payload);
        let packet = packet(PUBLISH_QOS_1, &body);
        let packet_id_at = packet.len() - payload.len() - 3;
        let at = packet.windows(16).position(|window| window == message_id);
        Ok(Self { packet, packet_id_at, message_id_at: at.context("the message id in the payload")? + 8 })
    }

    pub(crate) fn write(&self, number: usize, batch: &mut Vec<u8>) {
        let start = batch.len();
        batch.extend_from_slice(&self.packet);
        let packet_id = (number % 60_000 + 1) as u16;
        batch[start + self.packet_id_at..][..2].copy_from_slice(&packet_id.to_be_bytes());
        batch[start + self.message_id_at..][..8].copy_from_slice(&(number as u64).to_be_bytes());
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, who: &Identity) -> anyhow::Result<Self> {
        Self::connect_as(address, who, &who.name.replace('/', "-")).await
    }

    /// One principal may have many connections, each with a client identifier of its own.
    pub(crate) async fn connect_as(
        address: SocketAddr,
        who: &Identity,
        client_id: &str,
    ) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream, Some(who), client_id).await
    }

    /// For threads that block, and read and write at their own time.
    pub(crate) fn into_blocking(self) -> anyhow::Result<std::net::TcpStream> {
        let stream = self.stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    /// Ends it at once, so that the system keeps nothing of it.
    pub(crate) fn abort(self) -> anyhow::Result<()> {
        Ok(self.stream.set_zero_linger()?)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Without `who`, the stream says it by a certificate.
    pub(crate) async fn over(stream: S, who: Option<&Identity>, client_id: &str) -> anyhow::Result<Self> {
        let mut client = Self { stream, received: Vec::new() };
        let mut body = string("MQTT")?;
        // Version 5, clean start, user name and password; Receive Maximum 65535 by default. The longest keep alive, as
        // nothing here pings: rumqttd closes the connection at none.
        let flags = if who.is_some() { 0b1100_0010 } else { 0b0000_0010 };
        body.extend_from_slice(&[5, flags, 0xff, 0xff, 0]);
        let credentials = who.into_iter().flat_map(|who| [who.name.as_str(), &who.token]);
        for text in [client_id].into_iter().chain(credentials) {
            body.extend(string(text)?);
        }
        client.stream.write_all(&packet(0x10, &body)).await?;
        client.stream.flush().await?;
        let answer = client.next_packet().await?;
        ensure!(answer[0] == 0x20 && answer.get(3) == Some(&0), "CONNECT was refused: {answer:02x?}");
        Ok(client)
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) -> anyhow::Result<()> {
        let mut body = vec![0, 1, 0];
        body.extend(string(filter)?);
        body.push(1);
        self.stream.write_all(&packet(0x82, &body)).await?;
        self.stream.flush().await?;
        let answer = self.next_packet().await?;
        ensure!(answer[0] == 0x90 && answer.last() == Some(&1), "SUBSCRIBE was refused: {answer:02x?}");
        Ok(())
    }

    /// Publishes so many messages with at most `window` under way, and returns when all are acknowledged.
    pub(crate) async fn publish(
        &mut self,
        template: &Template,
        count: usize,
        window: usize,
    ) -> anyhow::Result<()> {
        let (mut sent, mut acknowledged) = (0, 0);
        let mut batch = Vec::new();
        while acknowledged < count {
            batch.clear();
            while sent < count && sent - acknowledged < window {
                template.write(sent, &mut batch);
                sent += 1;
            }
            self.stream.write_all(&batch).await?;
            self.read().await?;
            acknowledged += self.take_packets(|packet| {
                ensure!(packet[0] == PUBACK, "not a PUBACK: {packet:02x?}");
                let reason = packet.get(4).copied().unwrap_or(0);
                ensure!(reason < 0x80, "a message was refused with 0x{reason:02x}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Receives so many QoS 1 messages and acknowledges each.
    pub(crate) async fn receive(&mut self, count: usize) -> anyhow::Result<()> {
        let mut received = 0;
        let mut answer = Vec::new();
        while received < count {
            self.read().await?;
            answer.clear();
            received += self.take_packets(|packet| {
                ensure!(packet[0] & 0xf6 == PUBLISH_QOS_1, "not a QoS 1 PUBLISH: {:02x?}", &packet[..8]);
                let body = packet.len() - remaining(packet).unwrap_or(0);
                let topic = usize::from(u16::from_be_bytes([packet[body], packet[body + 1]]));
                answer.extend_from_slice(&[PUBACK, 2, packet[body + 2 + topic], packet[body + 3 + topic]]);
                Ok(())
            })?;
            self.stream.write_all(&answer).await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.received.reserve(CHUNK_BYTES);
        if self.stream.read_buf(&mut self.received).await? == 0 {
            bail!("the broker closed the connection");
        }
        Ok(())
    }

    async fn next_packet(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(length) = whole(&self.received) {
                return Ok(self.received.drain(..length).collect());
            }
            self.read().await?;
        }
    }

    /// Hands over every whole packet that has come, and counts them.
    fn take_packets(&mut self, mut each: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<usize> {
        let (mut at, mut count) = (0, 0);
        while let Some(length) = whole(&self.received[at..]) {
            each(&self.received[at..at + length])?;
            at += length;
            count += 1;
        }
        self.received.drain(..at);
        Ok(count)
    }
}

/// Length of the first packet, if all of it is there.
pub(crate) fn whole(bytes: &[u8]) -> Option<usize> {
    let remaining = remaining(bytes)?;
    let header = 1 + bytes[1..].iter().position(|byte| byte & 0x80 == 0)? + 1;
    (bytes.len() >= header + remaining).then_some(header + remaining)
}

/// The Remaining Length field.
fn remaining(bytes: &[u8]) -> Option<usize> {
    let mut value = 0;
    for (index, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn string(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = u16::try_from(text.len())?.to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    Ok(bytes)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let byte = (left & 0x7f) as u8;
        left >>= 7;
        bytes.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_whole_only() {
        for length in [0, 1, 127, 128, 300, 20_000] {
            let bytes = packet(PUBACK, &vec![9; length]);
            assert_eq!(whole(&bytes), Some(bytes.len()));
            assert_eq!(remaining(&bytes), Some(length));
            assert!((0..bytes.len()).all(|cut| whole(&bytes[..cut]).is_none()), "{length}");
        }
    }

    #[test]
    fn each_message_has_ids_of_its_own() {
        let id = [5; 16];
        let template =
            Template::new("ft/a/b/up/device-report", &[&[1, 2], &id[..], &[3]].concat(), &id).unwrap();
        let mut batch = Vec::new();
        template.write(0, &mut batch);
        template.write(1, &mut batch);
        let length = whole(&batch).unwrap();
        assert_eq!(batch.len(), 2 * length);
        let different = batch[..length].iter().zip(&batch[length..]).filter(|(a, b)| a != b).count();
        assert_eq!(different, 2, "packet id and message id");
        assert_eq!(batch[template.packet_id_at..][..2], [0, 1]);
    }
}
