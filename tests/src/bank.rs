//! The test bank, and its book as an auditor reads it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use rust_decimal::Decimal;
use serde_json::Value;

use crate::process::{Process, binary, command};

pub struct Bank {
    _process: Process,
    pub address: SocketAddr,
}

impl Bank {
    /// `accounts` as `NAME=BALANCE:CURRENCY`.
    pub fn start(directory: &Path, accounts: &[String]) -> Self {
        let mut bank = command(binary("device-sim"));
        bank.args(["bank", "--listen", "127.0.0.1:0", "--book"]).arg(directory.join("bank.json"));
        accounts.iter().for_each(|account| {
            bank.arg("--account").arg(account);
        });
        let mut process = Process::spawn("the bank", bank, &directory.join("bank.log"));
        const HEAD: &str = "bank listening on http://";
        let line =
            process.line(|line| line.starts_with(HEAD)).unwrap_or_else(|_| panic!("{}", process.tail()));
        let address = line.strip_prefix(HEAD).unwrap().parse().unwrap();
        Self { _process: process, address }
    }

    pub fn send(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(crate::PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bank\r\nConnection: close\r\nContent-Length: {length}"
        );
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    pub fn book(&self) -> Book {
        Book(self.send("GET", "/book", ""))
    }
}

/// What the bank has written down.
pub struct Book(Value);

/// All movements of one payment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Movements {
    /// Amounts of transfers that were done.
    pub transfers: Vec<Decimal>,
    /// Amounts of refunds that were done.
    pub refunds: Vec<Decimal>,
}

impl Book {
    pub fn balance(&self, account: &str) -> Decimal {
        decimal(&self.0["accounts"][account]["balance"])
    }

    /// Nothing appeared, nothing vanished.
    pub fn is_conserved(&self) -> bool {
        let accounts = || self.0["accounts"].as_object().unwrap().values();
        let now: Decimal = accounts().map(|account| decimal(&account["balance"])).sum();
        let opened: Decimal = accounts().map(|account| decimal(&account["opened_with"])).sum();
        now == opened
    }

    /// By payment, as each transfer's reference names it.
    pub fn movements(&self) -> BTreeMap<String, Movements> {
        let mut of_key = BTreeMap::new();
        let mut movements: BTreeMap<String, Movements> = BTreeMap::new();
        for (key, transfer) in self.0["transfers"].as_object().unwrap() {
            // A transfer that was fenced before it was seen has no request.
            let Some(reference) = transfer["request"]["reference"].as_str() else { continue };
            let payment = reference.trim_start_matches("payment ").to_owned();
            if transfer["state"] == "done" {
                let amount = decimal(&transfer["request"]["amount"]);
                movements.entry(payment.clone()).or_default().transfers.push(amount);
            }
            of_key.insert(key.clone(), payment);
        }
        for refund in self.0["refunds"].as_object().unwrap().values() {
            let of =
                refund["request"]["of"].as_str().and_then(|key| of_key.get(key)).cloned().unwrap_or_default();
            if refund["state"] == "done" {
                movements.entry(of).or_default().refunds.push(decimal(&refund["request"]["amount"]));
            }
        }
        movements
    }
}

fn decimal(value: &Value) -> Decimal {
    value
        .as_str()
        .and_then(|text| Decimal::from_str_exact(text).ok())
        .unwrap_or_else(|| panic!("no amount: {value}"))
}
