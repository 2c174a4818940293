//! The real binary: it says where it listens, honours its flags, and its book survives a SIGKILL.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Bank {
    process: Child,
    address: String,
}

impl Bank {
    fn start(book: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_device-sim"))
            .args(["bank", "--account", "ann=100.00:EUR", "--account", "acme/holding=0:EUR", "--book"])
            .arg(book)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("bank listening on http://").unwrap().to_owned();
        Self { process, address }
    }

    fn send(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}");
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        // SIGKILL: no chance to save anything.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// CP-7: what the bank answered, it still knows after it was killed.
#[test]
fn killed_bank_knows_what_it_answered() {
    let directory = tempfile::tempdir().unwrap();
    let book = directory.path().join("book.json");
    let path = "/transfers/000102030405060708090a0b0c0d0e0f";
    let transfer = r#"{"from":"ann","to":"acme/holding","amount":"2.50","currency":"EUR","not_after_ms":9999999999999,"reference":"coffee"}"#;
    let bank = Bank::start(&book);
    let answer = bank.send("PUT", path, transfer);
    assert_eq!(answer, r#"{"key":"000102030405060708090a0b0c0d0e0f","state":"done"}"#);
    drop(bank);

    let bank = Bank::start(&book);
    assert_eq!(bank.send("PUT", path, transfer), answer);
    assert!(bank.send("GET", "/book", "").contains(r#""ann":{"balance":"97.50","opened_with":"100.00""#));
}

#[test]
fn bank_refuses_to_listen_beyond_this_machine() {
    let output = Command::new(env!("CARGO_BIN_EXE_device-sim"))
        .args(["bank", "--listen", "0.0.0.0:0"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no access control"));
}
