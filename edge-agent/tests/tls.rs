//! The enrolled agent over mutual TLS.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::sync::Arc;

use broker::Listener;
use edge_agent::enrolment::{Enrolled, IdentityDirectory};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    SubjectPublicKeyInfo,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use schemas::message::{Down, Outcome};
use support::{Cloud, Machine, WHO, command};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn server(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_client_cert_verifier(verifier.build().unwrap());
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }

    /// As the platform does it: the device's key, and `farthing:tenant/name#instance`.
    fn device(&self, public_key: [u8; 32]) -> CertificateDer<'static> {
        let head = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
        let key = SubjectPublicKeyInfo::from_der(&[&head[..], &public_key].concat()).unwrap();
        let mut params = CertificateParams::default();
        let uri = Ia5String::try_from(format!("farthing:{WHO}#1")).unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&key, &self.0).unwrap().der().clone()
    }

    fn enrol(&self, machine: &Machine) {
        let identity = IdentityDirectory::open(&machine.data.join("identity")).unwrap();
        let key = identity.key_or_create([7; 32]).unwrap();
        let ca_der = self.0.der().clone();
        let certificate_chain = vec![self.device(key.public_key()), ca_der.clone()];
        let principal = WHO.parse().unwrap();
        identity.save(&Enrolled { principal, instance: 1, certificate_chain, ca_der }).unwrap();
    }
}

fn cloud(authority: &Authority) -> Cloud {
    Cloud::listen(Listener::Tls {
        address: "127.0.0.1:0".parse().unwrap(),
        config: tokio::sync::watch::channel(authority.server()).1,
    })
}

#[test]
fn an_enrolled_executor_works_over_mutual_tls() {
    let authority = Authority::new();
    let cloud = cloud(&authority);
    let machine = Machine::new(&cloud, "vending-executor");
    authority.enrol(&machine);
    let agent = machine.start(|command| {
        command.env_remove("FARTHING_TOKEN").env_remove("FARTHING_PRINCIPAL");
    });
    cloud.owe(Down::ExecutorCommand(command(1)));
    assert_eq!(cloud.outcome().outcome, Outcome::Done);
    let check = machine.command(&["check", "--json"]).env_remove("FARTHING_TOKEN").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    assert_eq!(agent.terminate(), Some(0));
}

#[test]
fn a_platform_of_another_authority_is_not_trusted() {
    let (own, other) = (Authority::new(), Authority::new());
    let cloud = cloud(&other);
    let machine = Machine::new(&cloud, "vending-executor");
    own.enrol(&machine);
    let check = machine.command(&["check", "--json"]).env_remove("FARTHING_TOKEN").output().unwrap();
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(!check.status.success() && text.contains("not the platform that enrolled this device"), "{text}");
}
