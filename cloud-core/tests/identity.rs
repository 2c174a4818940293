//! Enrolment, mutual TLS and revocation against the real binary (correctness.md 20).
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Core;
use edge_agent::enrolment::{CertificateClock, DeviceKey, EnrolError, Enrolled, client_config, enrol};
use rustls::pki_types::ServerName;
use schemas::claim::ClaimCode;
use schemas::ids::Principal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CHIP: &str = "acme/chip-7";
const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];
const NOT_AUTHORIZED: [u8; 4] = [0x20, 2, 0, 5];

fn start(directory: &Path) -> (Core, ClaimCode) {
    let core = Core::start(directory);
    core.admin_ok(&["tenants", "create", "acme", "--currency", "EUR"]);
    core.admin_ok(&["devices", "create", CHIP, "--profile", "payment-chip"]);
    let claim = claim(&core);
    (core, claim)
}

fn claim(core: &Core) -> ClaimCode {
    core.admin_ok(&["claim", "create", CHIP]).lines().next().unwrap().parse().unwrap()
}

async fn enrol_at(core: &Core, claim: &ClaimCode, key: &DeviceKey) -> Result<Enrolled, EnrolError> {
    let address = core.address("enrolment https://").to_string();
    let principal: Principal = CHIP.parse().unwrap();
    let clock = Arc::new(CertificateClock::new(0));
    enrol(&address, claim, &principal, key, clock, Duration::from_secs(30)).await
}

/// Connects with the certificate and sends CONNECT (MQTT 3.1.1, nothing but the client id).
async fn connect(core: &Core, key: &DeviceKey, enrolled: &Enrolled) -> (TlsStream<TcpStream>, [u8; 4]) {
    let clock = Arc::new(CertificateClock::new(0));
    let tls = client_config(&enrolled.ca_der, Some((key, &enrolled.certificate_chain)), clock).unwrap();
    let stream = TcpStream::connect(core.address("mqtt tls://")).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let connect = [0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 4, b'c', b'h', b'i', b'p'];
    stream.write_all(&connect).await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    (stream, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn claimed_to_enrolled_to_connected_to_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let (core, claim) = start(directory.path());
    let key = DeviceKey::generate([1; 32]);
    let enrolled = enrol_at(&core, &claim, &key).await.unwrap();

    let again = enrol_at(&core, &claim, &key).await.unwrap();
    assert_eq!(again, enrolled, "a lost answer bricks nothing: same claim and key, same certificate");
    let other = enrol_at(&core, &claim, &DeviceKey::generate([2; 32])).await;
    assert!(matches!(other, Err(EnrolError::Refused { .. })), "{other:?}");

    let (mut session, answer) = connect(&core, &key, &enrolled).await;
    assert_eq!(answer, ACCEPTED);
    let devices = core.admin_ok(&["devices", "list"]);
    assert!(devices.contains("enrolled") && devices.contains("connected since"), "{devices}");

    core.admin_ok(&["devices", "revoke", CHIP]);
    let mut rest = Vec::new();
    // An end without TLS's own farewell is an end too.
    let _ = session.read_to_end(&mut rest).await;
    let (_, answer) = connect(&core, &key, &enrolled).await;
    assert_eq!(answer, NOT_AUTHORIZED, "standing is checked at each CONNECT");
    core.stop();
}

/// What was promised to a device holds over a restart: its certificate is in the journal.
#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_device_connects_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (core, claim) = start(directory.path());
    let key = DeviceKey::generate([1; 32]);
    let enrolled = enrol_at(&core, &claim, &key).await.unwrap();
    core.stop();

    let core = Core::start(directory.path());
    let (_session, answer) = connect(&core, &key, &enrolled).await;
    assert_eq!(answer, ACCEPTED);
    assert_eq!(enrol_at(&core, &claim, &key).await.unwrap(), enrolled);
    core.stop();
}
