//! Clients that mean harm, over real sockets against the real core: each loses its own connection, and no more.
//! Everywhere somebody else is served meanwhile, and the core's memory is measured: what it had at the most may not be
//! much more than before the attack. Garbage before CONNECT, oversized packets and payloads that are no message are in
//! `bad_input.rs`, rights in `isolation.rs`, overflowing inboxes in the broker's `lane.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests; memory is a figure")]

#[path = "hostile/packets.rs"]
mod packets;
#[path = "hostile/readers.rs"]
mod readers;
#[path = "hostile/sockets.rs"]
mod sockets;

use farthing_tests::fleet::{Fleet, Options};
use farthing_tests::wire::{Client, Packet, Version};
use schemas::envelope::Envelope;
use schemas::ids::MessageId;
use schemas::message::{CloudTimeRequest, Up};

const ATTACKER: &str = "acme/payer-0";
const BYSTANDER: &str = "acme/payer-1";
/// What an attack may cost. Generous: allocators keep what they once had, and a busy core's queue is part of it.
const MEMORY_BYTES: u64 = 64 << 20;

/// A core with somebody who is to be served, whatever the attacker does.
struct Room {
    fleet: Fleet,
    token: String,
    bystander: Client,
    resident_bytes: u64,
}

impl Room {
    fn new(core_settings: &'static [&'static str]) -> Self {
        let mut fleet = Fleet::start(Options { payers: 2, core_settings, ..Options::default() });
        let mut bystander = Client::tcp(fleet.lane(), Version::V5);
        let token = fleet.token(BYSTANDER);
        assert_eq!(bystander.connect("bystander", Some((BYSTANDER, &token))), Packet::ConnAck(0));
        assert_eq!(bystander.subscribe(&[&format!("ft/{BYSTANDER}/down/#")]), [1]);
        let token = fleet.token(ATTACKER);
        let resident_bytes = fleet.core_process().resident_bytes();
        Self { fleet, token, bystander, resident_bytes }
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

/// The core has said nothing that a person would have to look at, and has not taken memory without bound.
impl Drop for Room {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let log = std::fs::read_to_string(self.fleet.directory().join("core.log")).unwrap();
        assert!(!log.contains("ERROR") && !log.contains("panic"), "{log}");
        let core = self.fleet.core_process();
        let (before, peak, after) = (self.resident_bytes, core.peak_resident_bytes(), core.resident_bytes());
        let attack = std::thread::current().name().unwrap_or_default().to_owned();
        let [before_kb, peak_kb, after_kb] = [before, peak, after].map(|bytes| bytes / 1024);
        eprintln!(
            "{attack}: core resident {before_kb} kB before, {peak_kb} kB at the most, {after_kb} kB after"
        );
        assert!(peak < before + MEMORY_BYTES, "from {before_kb} to {peak_kb} kB");
    }
}

fn text(text: &[u8]) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

/// The body of a CONNECT without credentials.
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
