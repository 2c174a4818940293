//! Certificates of a running core are replaced on SIGHUP: real binary, real handshakes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Core, serve_command};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing on loopback takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A public authority, as browsers would know it.
struct Public(CertifiedIssuer<'static, KeyPair>);

impl Public {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn write_certificate_for_localhost(&self, directory: &Path) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        fs::write(directory.join("web.pem"), certificate.pem()).unwrap();
        fs::write(directory.join("web.key.pem"), key.serialize_pem()).unwrap();
    }
}

async fn handshake(address: SocketAddr, trusted: &CertificateDer<'static>) -> Option<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.ok()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn sighup_replaces_certificates_for_new_connections_and_a_broken_file_replaces_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (Public::new(), Public::new());
    first.write_certificate_for_localhost(directory.path());
    let mut command = serve_command(directory.path());
    command.args(["--listen-wss", "127.0.0.1:0"]);
    for (flag, file) in [("--wss-certificate", "web.pem"), ("--wss-key", "web.key.pem")] {
        command.arg(flag).arg(directory.path().join(file));
    }
    let core = Core::start_with(directory.path(), command);
    assert!(core.is_ready());
    let (tls, wss) = (core.address("mqtt tls://"), core.address("mqtt wss://"));
    let own = CertificateDer::from_pem_file(directory.path().join("authority.pem")).unwrap();

    // A connection before: a CONNECT by nobody is refused in MQTT, so its TLS stands.
    let mut before = handshake(tls, &own).await.unwrap();
    assert!(handshake(wss, first.0.der()).await.is_some());
    assert!(handshake(wss, second.0.der()).await.is_none());
    assert!(handshake(wss, &own).await.is_none(), "browsers know another authority");

    // Broken files first: everything stays, the platform's own certificates too.
    let key = directory.path().join("authority.key.pem");
    let kept = fs::read(&key).unwrap();
    let certificate = directory.path().join("web.pem");
    let good = fs::read(&certificate).unwrap();
    for (number, (path, text)) in [
        (&certificate, "junk".to_owned()),
        (&certificate, second.0.pem()),
        (&key, "junk".to_owned()),
        (&key, second.0.pem() + &second.0.key().serialize_pem()),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(path, text).unwrap();
        core.signal("HUP");
        core.wait_for_log("certificates were not replaced", number + 1);
        assert!(handshake(wss, first.0.der()).await.is_some());
        assert_eq!(shown(&handshake(tls, &own).await.unwrap()), shown(&before));
        fs::write(&certificate, &good).unwrap();
        fs::write(&key, &kept).unwrap();
    }

    second.write_certificate_for_localhost(directory.path());
    core.signal("HUP");
    core.wait_for_log("certificates were read again", 1);
    assert!(handshake(wss, second.0.der()).await.is_some());
    assert!(handshake(wss, first.0.der()).await.is_none());
    assert_ne!(
        shown(&handshake(tls, &own).await.unwrap()),
        shown(&before),
        "a new one of the same authority"
    );

    before.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c").await.unwrap();
    let mut connack = [0; 4];
    tokio::time::timeout(PATIENCE, before.read_exact(&mut connack)).await.unwrap().unwrap();
    assert_eq!(connack, [0x20, 2, 0, 4], "the connection of before is still served");
    let log = core.stop();
    assert!(!log.contains("PRIVATE") && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn without_files_websockets_show_a_certificate_of_the_platform() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = serve_command(directory.path());
    command.args(["--listen-wss", "127.0.0.1:0", "--listen-ws", "127.0.0.1:0"]);
    let core = Core::start_with(directory.path(), command);
    let own = CertificateDer::from_pem_file(directory.path().join("authority.pem")).unwrap();
    assert!(handshake(core.address("mqtt wss://"), &own).await.is_some());

    let addresses = fs::read(directory.path().join("addresses.json")).unwrap();
    let addresses: serde_json::Value = serde_json::from_slice(&addresses).unwrap();
    assert_eq!(addresses["mqtt_wss"], core.address("mqtt wss://").to_string());
    let mut plain = TcpStream::connect(core.address("mqtt ws://")).await.unwrap();
    let upgrade = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    plain.write_all(upgrade.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    let read = tokio::time::timeout(PATIENCE, plain.read_exact(&mut status));
    read.await.unwrap().unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    core.stop();
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    for (certificate, key, wanted) in [
        (Some("web.pem"), None, "wss_key"),
        (None, Some("web.key.pem"), "wss_certificate"),
        (Some("missing.pem"), Some("web.key.pem"), "missing.pem"),
    ] {
        Public::new().write_certificate_for_localhost(directory.path());
        let mut command = serve_command(directory.path());
        for (flag, file) in [("--wss-certificate", certificate), ("--wss-key", key)] {
            file.map(|file| command.arg(flag).arg(directory.path().join(file)));
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = common::text(&output.stderr);
        assert!(error.contains(wanted), "{error}");
    }
}
