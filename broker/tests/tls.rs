//! TLS: who is there without a password, and who does not get on with it.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use broker::session::Limits;
use broker::{Listener, ToCore};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use support::{Client, World, connect, packet, publish};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider.clone());
        let (certificate, key) = self.issue("localhost");
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap());
        Arc::new(config.with_single_cert(vec![certificate], key).unwrap())
    }

    async fn dial(&self, address: SocketAddr, certified: bool) -> Client<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config =
            config.with_safe_default_protocol_versions().unwrap().with_root_certificates(self.roots());
        let (certificate, key) = self.issue("chip");
        let config = match certified {
            true => config.with_client_auth_cert(vec![certificate], key).unwrap(),
            false => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        Client { stream, buffer: Vec::new() }
    }
}

async fn world(authority: &Authority) -> World {
    let listener = Listener::Tls { address: "0.0.0.0:0".parse().unwrap(), config: authority.server() };
    World::start_with(|config| {
        config.limits = Limits::default();
        config.listeners = vec![listener];
        config.handshake_timeout_ms = 300;
    })
    .await
}

fn local(world: &World) -> SocketAddr {
    SocketAddr::new("127.0.0.1".parse().unwrap(), world.address().port())
}

#[tokio::test]
async fn a_client_certificate_or_a_token_says_who_it_is() {
    let authority = Authority::new();
    let mut world = world(&authority).await;
    let mut by_token = authority.dial(local(&world), false).await;
    by_token.send(&connect(5, "c", "acme/till", 0)).await;
    assert_eq!(by_token.receive().await[3], 0);
    let credentials = |message| match message {
        ToCore::Connect { credentials, .. } => Some(credentials),
        _ => None,
    };
    assert_eq!(world.until(credentials).await.client_certificate, None);

    let mut by_certificate = authority.dial(local(&world), true).await;
    by_certificate.send(&packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01c")).await;
    assert_eq!(by_certificate.receive().await, packet(0x20, &[0, 0]));
    let credentials = world.until(credentials).await;
    assert!(
        credentials.username.is_none() && credentials.client_certificate.is_some_and(|der| der[0] == 0x30)
    );
    for id in 1..=100 {
        by_certificate.send(&publish(4, id, "ft/acme/by-certificate/up/cloud-time", &[0; 4000])).await;
        assert_eq!(by_certificate.receive().await, packet(0x40, &id.to_be_bytes()));
    }
}

/// rumqttd serves TLS handshakes one by one: there, one idle socket blocks every new client.
#[tokio::test]
async fn idle_and_false_handshakes_hold_up_nobody_and_end() {
    let authority = Authority::new();
    let world = world(&authority).await;
    let mut idle = TcpStream::connect(local(&world)).await.unwrap();
    let mut plain = TcpStream::connect(local(&world)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, &connect(5, "c", "acme/till", 0)).await.unwrap();
    let mut client = authority.dial(local(&world), false).await;
    client.send(&connect(5, "c", "acme/till", 0)).await;
    assert_eq!(client.receive().await[3], 0);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(support::PATIENCE, idle.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.is_empty());
    let _ = tokio::time::timeout(support::PATIENCE, plain.read_to_end(&mut rest)).await.unwrap();
    while world.broker.stats().handshakes_failed < 2 {
        tokio::task::yield_now().await;
    }
}
