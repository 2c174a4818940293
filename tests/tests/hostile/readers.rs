//! Clients that do not read what they are sent.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use farthing_tests::process::text as utf8;
use farthing_tests::wire::{Packet, VERSIONS, Version};
use farthing_tests::{PATIENCE, until};
use schemas::envelope::Envelope;
use schemas::ids::MessageId;
use schemas::message::{CloudTimeRequest, Up};
use serde_json::Value;

use super::{ATTACKER, Room, hello, text};

/// An attacker is held back by what it does not read, not by its rate.
const NO_RATES: &[&str] = &[
    "--principal-packets-per-second=100000000",
    "--principal-packets-burst=100000000",
    "--principal-bytes-per-second=1000000000",
    "--principal-bytes-burst=1000000000",
];
/// `max_transmit_bytes` of the lane: from here on nothing more is read.
const FULL_BYTES: u64 = 64 * 1024;
const READERS: usize = 6;

/// A connection whose client asks and asks, and never reads an answer.
struct Blocked {
    stream: TcpStream,
    client_id: String,
    questions: Vec<u8>,
    /// Of the questions, so many bytes are written.
    written: usize,
}

impl Blocked {
    fn enter(room: &Room, client_id: &str, version: Version) -> Self {
        let mut body = hello(version, client_id.as_bytes(), 0);
        // User name and password follow.
        body[7] |= 0xC0;
        body.extend([text(ATTACKER.as_bytes()), text(room.token.as_bytes())].concat());
        let filter = text(format!("ft/{ATTACKER}/down/#").as_bytes());
        let properties = if version == Version::V5 { &[0][..] } else { &[] };
        let subscribe = [&[0, 1], properties, &filter, &[0]].concat();
        let mut stream = TcpStream::connect(room.fleet.lane()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[packet(0x10, &body), packet(0x82, &subscribe)].concat()).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, client_id: client_id.to_owned(), questions: questions(version), written: 0 }
    }

    /// As much as the socket takes.
    fn ask(&mut self) {
        loop {
            match self.stream.write(&self.questions[self.written..]) {
                Ok(bytes) => self.written = (self.written + bytes) % self.questions.len(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{}: {error}", self.client_id),
            }
        }
    }
}

/// The core answers those of MQTT 3.1.1, which are taken in as many at a time as may wait for their promise; those of
/// MQTT 5 are pings, which the lane answers by itself.
fn questions(version: Version) -> Vec<u8> {
    let topic = text(format!("ft/{ATTACKER}/up/cloud-time").as_bytes());
    let payload =
        Envelope::message(MessageId([7; 16]), Up::CloudTime(CloudTimeRequest { nonce: 77 })).encode();
    let question = |id: u16| match version {
        Version::V3 => packet(0x32, &[&topic[..], &id.to_be_bytes(), &payload].concat()),
        Version::V5 => packet(0xC0, &[]),
    };
    (1..=10_000).flat_map(question).collect()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    // No body here is longer than two digits of MQTT's length say.
    let (low, high) = ((body.len() % 128) as u8, (body.len() / 128) as u8);
    let length = if high > 0 { vec![low | 0x80, high] } else { vec![low] };
    [&[first], &length[..], body].concat()
}

/// What operators see of the attacker's connections: client identifier and bytes that wait for it.
fn buffered(room: &Room) -> Vec<(String, u64)> {
    let output = room.fleet.cli(&["admin", "--json", "broker", "session", "show", ATTACKER]);
    if utf8(&output.stderr).contains("not_connected") {
        return Vec::new();
    }
    assert!(output.status.success(), "{}", utf8(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let row = |row: &Value| {
        (row["client_id"].as_str().unwrap_or_default().to_owned(), row["buffered_bytes"].as_u64().unwrap())
    };
    rows.iter().map(row).collect()
}

/// PL-4. The write timeout is longer than what this waits: it is not what ends the blocked ones.
#[test]
fn readers_that_never_read_are_not_read_either_and_a_takeover_does_not_wait_for_them() {
    let mut room = Room::new(NO_RATES);
    let mut blocked: Vec<Blocked> = (0..READERS)
        .map(|number| Blocked::enter(&room, &format!("deaf-{number}"), VERSIONS[number % VERSIONS.len()]))
        .collect();
    until("that the core reads none of them", || {
        blocked.iter_mut().for_each(Blocked::ask);
        room.others_are_served();
        let waiting = buffered(&room);
        let full = waiting.iter().filter(|(_, bytes)| *bytes >= FULL_BYTES).count();
        (full == READERS).then_some(())
    });
    for (client_id, bytes) in buffered(&room) {
        assert!(bytes < 4 * FULL_BYTES, "{client_id}: {bytes} bytes are kept for a socket that takes none");
    }
    room.others_are_served();
    for Blocked { mut stream, client_id, .. } in blocked {
        let mut heir = room.enter(&client_id, Version::V5);
        until("the end of the one before", || {
            let left = buffered(&room).into_iter().filter(|(other, _)| *other == client_id).count();
            (left == 1).then_some(())
        });
        room.others_are_served();
        heir.send(0xC0, &[]);
        assert_eq!(heir.receive(), Packet::Pong);
        // What the system had taken comes still, then the end.
        stream.set_nonblocking(false).unwrap();
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(
            !matches!(ended, Err(error) if error.kind() == ErrorKind::WouldBlock),
            "{client_id} is closed"
        );
    }
}
