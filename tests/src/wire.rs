//! A client that speaks MQTT byte by byte, so that a test can say what no proper client would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::PATIENCE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3,
    V5,
}

pub const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

/// What came from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Return or reason code.
    ConnAck(u8),
    Publish {
        topic: String,
        payload: Vec<u8>,
        packet_id: Option<u16>,
        retain: bool,
    },
    /// Reason code; 0 in MQTT 3.1.1, which has none.
    PubAck {
        packet_id: u16,
        code: u8,
    },
    SubAck(Vec<u8>),
    Pong,
    /// Reason code.
    Disconnect(u8),
    /// The stream ended.
    End,
}

pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

pub struct Client {
    stream: Box<dyn Stream>,
    pub version: Version,
    packet_id: u16,
}

impl Client {
    pub fn tcp(address: SocketAddr, version: Version) -> Self {
        Self { stream: Box::new(dial(address)), version, packet_id: 0 }
    }

    /// Over TLS, with the client certificate of `config`, if it has one.
    pub fn tls(address: SocketAddr, config: ClientConfig, version: Version) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        Self { stream: Box::new(StreamOwned::new(session, dial(address))), version, packet_id: 0 }
    }

    /// CONNECT as a token's owner, or with nothing but the certificate. The answer to it.
    pub fn connect(&mut self, client_id: &str, credentials: Option<(&str, &str)>) -> Packet {
        let flags = 2 | if credentials.is_some() { 0xC0 } else { 0 };
        let mut body = text("MQTT");
        body.extend([if self.version == Version::V5 { 5 } else { 4 }, flags, 0, 0]);
        self.properties(&mut body);
        body.extend(text(client_id));
        if let Some((username, password)) = credentials {
            body.extend(text(username));
            body.extend(text(password));
        }
        self.send(0x10, &body);
        self.receive()
    }

    /// PUBLISH; the packet id, for QoS 1.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: u8) -> u16 {
        let mut body = text(topic);
        if qos > 0 {
            self.packet_id += 1;
            body.extend(self.packet_id.to_be_bytes());
        }
        self.properties(&mut body);
        body.extend(payload);
        self.send(0x30 | qos << 1, &body);
        self.packet_id
    }

    /// The PUBACK's code, and what was published to this client before it came.
    pub fn puback(&mut self) -> (u8, Vec<(String, Vec<u8>)>) {
        let mut published = Vec::new();
        loop {
            match self.receive() {
                Packet::PubAck { code, .. } => return (code, published),
                Packet::Publish { topic, payload, .. } => published.push((topic, payload)),
                other => panic!("{other:?} instead of a PUBACK"),
            }
        }
    }

    /// SUBSCRIBE; one code for each filter.
    pub fn subscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        self.packet_id += 1;
        let mut body = self.packet_id.to_be_bytes().to_vec();
        self.properties(&mut body);
        for filter in filters {
            body.extend(text(filter));
            body.push(1);
        }
        self.send(0x82, &body);
        loop {
            match self.receive() {
                Packet::SubAck(codes) => return codes,
                Packet::Publish { .. } => {}
                other => panic!("{other:?} instead of a SUBACK"),
            }
        }
    }

    /// The next message; everything else is passed over.
    pub fn message(&mut self) -> (String, Vec<u8>) {
        loop {
            match self.receive() {
                Packet::Publish { topic, payload, .. } => return (topic, payload),
                Packet::End => panic!("the connection ended"),
                _ => {}
            }
        }
    }

    pub fn send(&mut self, first: u8, body: &[u8]) {
        let mut packet = vec![first];
        let mut left = body.len();
        loop {
            let byte = u8::try_from(left % 128).unwrap();
            left /= 128;
            packet.push(if left > 0 { byte | 0x80 } else { byte });
            if left == 0 {
                break;
            }
        }
        packet.extend(body);
        self.send_raw(&packet);
    }

    /// Bytes as they are. A server that has hung up is no failure: the next `receive` tells.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
    }

    /// The next packet.
    ///
    /// # Panics
    /// After [`PATIENCE`] without one.
    pub fn receive(&mut self) -> Packet {
        let Some(first) = self.byte() else { return Packet::End };
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let Some(byte) = self.byte() else { return Packet::End };
            length |= usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        if self.stream.read_exact(&mut body).is_err() {
            return Packet::End;
        }
        self.parse(first, &body)
    }

    fn parse(&self, first: u8, body: &[u8]) -> Packet {
        let is_v5 = self.version == Version::V5;
        match first >> 4 {
            2 => Packet::ConnAck(body[1]),
            3 => {
                let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = String::from_utf8(body[2..topic_end].to_vec()).unwrap();
                let has_id = first & 0x06 != 0;
                let packet_id = has_id.then(|| u16::from_be_bytes([body[topic_end], body[topic_end + 1]]));
                let mut rest = &body[topic_end + if has_id { 2 } else { 0 }..];
                if is_v5 {
                    // Properties of our messages are shorter than 128 bytes.
                    rest = &rest[1 + usize::from(rest[0])..];
                }
                Packet::Publish { topic, payload: rest.to_vec(), packet_id, retain: first & 1 == 1 }
            }
            4 => Packet::PubAck {
                packet_id: u16::from_be_bytes([body[0], body[1]]),
                code: body.get(2).copied().unwrap_or(0),
            },
            9 if is_v5 => Packet::SubAck(body[3 + usize::from(body[2])..].to_vec()),
            9 => Packet::SubAck(body[2..].to_vec()),
            13 => Packet::Pong,
            14 => Packet::Disconnect(body.first().copied().unwrap_or(0)),
            other => panic!("a packet of type {other}"),
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.stream.read_exact(&mut byte) {
            Ok(()) => Some(byte[0]),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                panic!("nothing came for {PATIENCE:?}")
            }
            Err(_) => None,
        }
    }

    fn properties(&self, body: &mut Vec<u8>) {
        if self.version == Version::V5 {
            body.push(0);
        }
    }
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text.as_bytes()].concat()
}
