//! An authority of a test, and clients that trust it.

use std::net::SocketAddr;
use std::sync::Arc;

use broker::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Client;

pub(crate) struct Authority(pub(crate) CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose issuer has its own name for one that signs itself.
        params.distinguished_name.push(DnType::CommonName, "Authority of a test");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn issue(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
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

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider.clone());
        let (certificate, key) = self.issue("localhost");
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap());
        Arc::new(config.with_single_cert(vec![certificate], key).unwrap())
    }

    /// The same, never replaced.
    pub(crate) fn tls(&self) -> TlsConfig {
        watch::channel(self.server()).1
    }

    /// Asks for no client certificates, as browsers would ask a person for one.
    pub(crate) fn tls_for_browsers(&self) -> TlsConfig {
        let (certificate, key) = self.issue("localhost");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        watch::channel(Arc::new(config.with_single_cert(vec![certificate], key).unwrap())).1
    }

    pub(crate) async fn handshake(
        &self,
        address: SocketAddr,
        certified: bool,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config =
            config.with_safe_default_protocol_versions().unwrap().with_root_certificates(self.roots());
        let (certificate, key) = self.issue("chip");
        let config = match certified {
            true => config.with_client_auth_cert(vec![certificate], key).unwrap(),
            false => config.with_no_client_auth(),
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    pub(crate) async fn dial(&self, address: SocketAddr, certified: bool) -> Client<TlsStream<TcpStream>> {
        Client { stream: self.handshake(address, certified).await.unwrap(), buffer: Vec::new() }
    }
}
