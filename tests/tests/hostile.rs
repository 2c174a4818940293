//! Clients that mean harm, over real sockets against the real core: each loses its own connection, and no more.
//! Everywhere somebody else is served meanwhile. Garbage before CONNECT, oversized packets and payloads that are no
//! message are in `bad_input.rs`, rights in `isolation.rs`, takeovers of blocked writers and overflowing inboxes in the
//! broker's `lane.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests; memory is a figure")]

#[path = "hostile/packets.rs"]
mod packets;
#[path = "hostile/sockets.rs"]
mod sockets;

use farthing_tests::fleet::{Fleet, Options};
use farthing_tests::wire::{Client, Packet, Version};
use schemas::envelope::Envelope;
use schemas::ids::MessageId;
use schemas::message::{CloudTimeRequest, Up};

const ATTACKER: &str = "acme/payer-0";
const BYSTANDER: &str = "acme/payer-1";

/// A core with somebody who is to be served, whatever the attacker does.
struct Room {
    fleet: Fleet,
    token: String,
    bystander: Client,
}

impl Room {
    fn new(core_settings: &'static [&'static str]) -> Self {
        let fleet = Fleet::start(Options { payers: 2, core_settings, ..Options::default() });
        let mut bystander = Client::tcp(fleet.lane(), Version::V5);
        let token = fleet.token(BYSTANDER);
        assert_eq!(bystander.connect("bystander", Some((BYSTANDER, &token))), Packet::ConnAck(0));
        assert_eq!(bystander.subscribe(&[&format!("ft/{BYSTANDER}/down/#")]), [1]);
        let token = fleet.token(ATTACKER);
        Self { fleet, token, bystander }
    }

    fn dial(&self, version: Version) -> Client {
        Client::tcp(self.fleet.lane(), version)
    }

    /// The attacker, who has a good token.
    fn enter(&self, client_id: &str, version: Version) -> Client {
        let mut client = self.dial(version);
        assert_eq!(client.connect(client_id, Some((ATTACKER, &self.token))), Packet::ConnAck(0));
        client
    }

    /// The bystander asks for the time, through the core and back.
    fn others_are_served(&mut self) {
        let question =
            Envelope::message(MessageId([7; 16]), Up::CloudTime(CloudTimeRequest { nonce: 77 })).encode();
        self.bystander.publish(&format!("ft/{BYSTANDER}/up/cloud-time"), &question, 1);
        assert!(self.bystander.message().0.ends_with("/down/cloud-time"));
    }
}

/// The core has said nothing that a person would have to look at.
impl Drop for Room {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = std::fs::read_to_string(self.fleet.directory().join("core.log")).unwrap();
            assert!(!log.contains("ERROR") && !log.contains("panic"), "{log}");
        }
    }
}

fn text(text: &[u8]) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

/// A whole CONNECT without credentials.
fn hello(version: Version, client_id: &[u8], keep_alive_s: u16) -> Vec<u8> {
    let mut body = [text(b"MQTT"), vec![if version == Version::V5 { 5 } else { 4 }, 2]].concat();
    body.extend(keep_alive_s.to_be_bytes());
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(text(client_id));
    body
}

/// Whether the server ended it, with or without a word.
fn has_ended(client: &mut Client) -> bool {
    loop {
        match client.receive() {
            Packet::End => return true,
            Packet::Disconnect(code) | Packet::ConnAck(code) if code >= 0x80 => {}
            Packet::Publish { .. } | Packet::PubAck { .. } => {}
            _ => return false,
        }
    }
}
