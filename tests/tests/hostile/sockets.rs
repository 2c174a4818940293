//! Sockets that hang, crawl, come in crowds, or carry too much.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use farthing_tests::wire::{Packet, Version};
use farthing_tests::{PATIENCE, until};

use super::{ATTACKER, Room, has_ended, hello};

/// Opens a socket, says the beginning of something, and then nothing.
fn hang(address: std::net::SocketAddr, beginning: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(beginning).unwrap();
    stream
}

#[test]
fn half_open_handshakes_block_nobody_and_are_ended() {
    let mut room = Room::new(&[]);
    let (tcp, tls) = (room.fleet.lane(), room.fleet.addresses.mqtt_tls.unwrap());
    // A TLS record that announces a ClientHello and does not bring it.
    let client_hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    let mut hanging = Vec::new();
    for _ in 0..50 {
        hanging.push(hang(tcp, &[]));
        hanging.push(hang(tcp, &[0x10, 40, 0, 4, b'M']));
        hanging.push(hang(tls, &[]));
        hanging.push(hang(tls, &client_hello));
    }
    room.others_are_served();
    room.enter("newcomer", Version::V5);
    for mut stream in hanging {
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "ended in time"),
        }
    }
    room.others_are_served();
}

/// Bytes are no sign of life: only whole packets are.
#[test]
fn one_byte_at_a_time_ends_in_a_time_out_before_and_after_connect() {
    let mut room = Room::new(&[]);
    let mut packet = hello(Version::V5, b"slow", 1);
    // With credentials, and a keep alive of one second.
    packet[7] |= 0xC0;
    for part in [ATTACKER, &room.token] {
        packet.extend(super::text(part.as_bytes()));
    }
    let mut client = room.dial(Version::V5);
    client.send(0x10, &packet);
    assert_eq!(client.receive(), Packet::ConnAck(0));
    let crawl = |mut stream: TcpStream| {
        std::thread::spawn(move || {
            // 60 bytes of a longer packet; whoever is ended gets an error sooner or later.
            for byte in [0x10, 100, 0, 4].into_iter().chain(std::iter::repeat_n(b'M', 60)) {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        })
    };
    let mut stream = TcpStream::connect(room.fleet.lane()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let crawling = crawl(stream.try_clone().unwrap());
    for byte in [0x32, 100, 0, 30] {
        client.send_raw(&[byte]);
        room.others_are_served();
    }
    assert_eq!(client.receive(), Packet::Disconnect(0x8D), "keep alive");
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(!matches!(ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "ended in time");
    room.others_are_served();
    drop(stream);
    crawling.join().unwrap();
}

#[test]
fn a_reconnect_storm_at_the_connection_limit_leaves_those_inside_alone() {
    let mut room = Room::new(&["--max-connections", "40"]);
    // One is the bystander's.
    let inside: Vec<TcpStream> = (0..39).map(|_| hang(room.fleet.lane(), &[])).collect();
    // More than are told why: see the broker's `surplus.rs`.
    for round in 0..5 {
        let storm: Vec<_> = (0..100).map(|_| hang_or_refused(room.fleet.lane())).collect();
        room.others_are_served();
        let refused = storm.into_iter().flatten().filter(has_been_closed).count();
        assert!(refused > 0, "round {round}: somebody is turned away");
    }
    drop(inside);
    until("room for a newcomer", || {
        let mut client = room.dial(Version::V5);
        let answer = client.connect("newcomer", Some((ATTACKER, &room.token)));
        (answer == Packet::ConnAck(0)).then_some(())
    });
}

fn hang_or_refused(address: std::net::SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

fn has_been_closed(mut stream: &TcpStream) -> bool {
    !matches!(stream.read(&mut [0]), Ok(1..))
}

/// PL-4
#[test]
fn a_principal_beyond_its_rate_is_put_off_and_others_are_not() {
    let mut room = Room::new(&["--principal-bytes-burst", "16384", "--principal-bytes-per-second", "1024"]);
    let mut client = room.enter("greedy", Version::V5);
    let topic = format!("ft/{ATTACKER}/up/status-request");
    let mut codes = Vec::new();
    for _ in 0..4 {
        client.publish(&topic, &[0xF6; 8_000], 1);
        codes.push(client.puback().0);
    }
    assert_eq!(codes[0], 0x99, "decided: it is no message");
    assert_eq!(codes.last(), Some(&0x97), "{codes:02X?}");
    room.others_are_served();
}

#[test]
fn floods_of_connections_and_bombs_leave_memory_bounded() {
    const ROUNDS: usize = 10;
    const EACH: usize = 60;
    let mut room = Room::new(&[]);
    let bombs = [
        vec![0x81; 8_000],
        b"\x9B\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF".to_vec(),
        b"\xBA\xFF\xFF\xFF\xFF".to_vec(),
        b"\x5A\xFF\xFF\xFF\xFFx".to_vec(),
    ];
    for round in 0..ROUNDS {
        let mut crowd = Vec::new();
        for number in 0..EACH {
            let mut client = room.dial(Version::V5);
            match number % 3 {
                // Announces as much as a CONNECT may have, and brings half of it.
                0 => client.send_raw(&[&[0x10, 0x80, 0x40][..], b"\0\x04MQTT\x05", &[2; 4_000]].concat()),
                1 => {
                    let wrong = client.connect("wrong", Some((ATTACKER, "wrong")));
                    assert_eq!(wrong, Packet::ConnAck(0x86));
                }
                _ => client.send(0x10, &hello(Version::V5, b"nobody", 0)),
            }
            crowd.push(client);
        }
        let mut bomber = room.enter("bomber", Version::V5);
        for bomb in bombs.iter().cycle().take(100) {
            bomber.publish(&format!("ft/{ATTACKER}/up/status-request"), bomb, 1);
            assert!(bomber.puback().0 >= 0x80);
        }
        room.others_are_served();
        for mut client in crowd.into_iter().skip(2).step_by(3) {
            assert!(has_ended(&mut client), "round {round}");
        }
    }
}
