//! Enrolment end to end: the agent's client against the core's server, with a desk in memory.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_core::authority::{
    self, Authority, ClientCertificates, PeerIdentity, Validity, principal_of_peer_certificate, server_config,
};
use cloud_core::enrolment::{EnrolRefusal, EnrolRequest, EnrolmentDesk, Limits, Proof, serve};
use data_encoding::BASE64;
use edge_agent::enrolment::{
    CertificateClock, DeviceKey, EnrolError, Enrolled, IdentityDirectory, client_config, enrol, renew,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use schemas::claim::ClaimCode;
use schemas::ids::Principal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const VALIDITY: Validity = Validity { not_before_ms: 1_700_000_000_000, not_after_ms: 4_000_000_000_000 };
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Long enough that reaching it is a failure.
const PATIENT: Duration = Duration::from_secs(30);

fn principal() -> Principal {
    "acme/chip-7".parse().unwrap()
}

fn clock() -> Arc<CertificateClock> {
    Arc::new(CertificateClock::new(VALIDITY.not_before_ms))
}

/// One claim, and what it was used for.
#[derive(Default)]
struct Claim {
    used: Option<([u8; 32], Vec<u8>)>,
    signed: u8,
}

fn refusal(code: &str) -> EnrolRefusal {
    let message = "The claim code is not good.".to_owned();
    EnrolRefusal { code: code.to_owned(), message, retry: code == "busy" }
}

type Decision = Result<Vec<u8>, EnrolRefusal>;

/// What happens after the desk has decided.
#[derive(Clone, Copy)]
enum After {
    Answer,
    Silence,
    Tamper(fn(Decision) -> Decision),
}

struct Platform {
    authority: Arc<Authority>,
    claim: Arc<Mutex<Claim>>,
    code: ClaimCode,
    address: SocketAddr,
    server: JoinHandle<std::io::Result<()>>,
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Platform {
    async fn start() -> Self {
        Self::start_with(After::Answer).await
    }

    async fn start_with(after: After) -> Self {
        let authority = Arc::new(Authority::generate([9; 16], VALIDITY).unwrap());
        let code = ClaimCode::generate([5; 10], &authority.fingerprint());
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let claim = Arc::new(Mutex::new(Claim::default()));
        let server = tokio::spawn(std::future::pending());
        let mut platform = Self { authority, claim, code, address, server };
        platform.serve(listener, after);
        platform
    }

    /// Ends the server as the end of its process would; what the desk knows stays.
    async fn restart(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
        self.serve(TcpListener::bind(self.address).await.unwrap(), After::Answer);
    }

    fn serve(&mut self, listener: TcpListener, after: After) {
        let (authority, claim) = (Arc::clone(&self.authority), Arc::clone(&self.claim));
        let hash = self.code.secret_hash();
        let desk: Arc<dyn EnrolmentDesk> = Arc::new(move |request: EnrolRequest| {
            let decision = decide(&authority, &mut claim.lock().unwrap(), hash, &request);
            async move {
                match after {
                    After::Answer => decision,
                    After::Silence => std::future::pending().await,
                    After::Tamper(tamper) => tamper(decision),
                }
            }
        });
        let tls = server_tls(&self.authority, ClientCertificates::None);
        let tls = tokio::sync::watch::channel(Arc::new(tls)).1;
        let ca = self.authority.certificate_der().clone();
        self.server = tokio::spawn(async move { serve(listener, tls, &ca, desk, Limits::default()).await });
    }

    async fn enrol(&self, key: &DeviceKey) -> Result<Enrolled, EnrolError> {
        self.enrol_as(&principal(), &self.code, key).await
    }

    async fn enrol_as(
        &self,
        principal: &Principal,
        code: &ClaimCode,
        key: &DeviceKey,
    ) -> Result<Enrolled, EnrolError> {
        enrol(&self.address.to_string(), code, principal, key, clock(), PATIENT).await
    }

    async fn enrol_at(&self, address: &str) -> Result<Enrolled, EnrolError> {
        let key = DeviceKey::generate([7; 32]);
        enrol(address, &self.code, &principal(), &key, clock(), PATIENT).await
    }

    /// Sends bytes through TLS and reads to the end.
    async fn raw(&self, request: &str) -> String {
        let config = client_config(self.authority.certificate_der(), None, clock()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut stream = connector.connect(ServerName::from(LOOPBACK), stream).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A refused body may be cut off without a TLS farewell.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn post(&self, authorization: &str, body: &str) -> String {
        let length = body.len();
        self.raw(&format!(
            "POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             {authorization}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

/// What the core does in `flows`, in small.
fn decide(
    authority: &Authority,
    claim: &mut Claim,
    hash: [u8; 32],
    request: &EnrolRequest,
) -> Result<Vec<u8>, EnrolRefusal> {
    if request.proof != (Proof::Claim { secret_hash: hash }) || request.principal != principal() {
        return Err(refusal("claim_unknown"));
    }
    match &claim.used {
        Some((key, certificate)) if *key == request.public_key => Ok(certificate.clone()),
        Some(_) => Err(refusal("claim_other_key")),
        None => {
            claim.signed += 1;
            let serial = [claim.signed; 16];
            let certificate =
                authority.sign_device_csr(&request.csr_der, &request.principal, 1, VALIDITY, serial).unwrap();
            claim.used = Some((request.public_key, certificate.clone()));
            Ok(certificate)
        }
    }
}

fn server_tls(authority: &Authority, clients: ClientCertificates<'_>) -> ServerConfig {
    let identity = authority.issue_server(&["localhost"], &[LOOPBACK], VALIDITY, [3; 16]).unwrap();
    server_config(&identity, clients, Arc::new(authority::CertificateClock::default())).unwrap()
}

/// CP-14, correctness.md 20: enrol, keep, load, and connect with the identity.
#[tokio::test]
async fn claim_to_enrolled_to_connected() {
    let platform = Platform::start().await;
    let directory = tempfile::tempdir().unwrap();
    let identity = IdentityDirectory::open(directory.path()).unwrap();
    let key = identity.key_or_create([7; 32]).unwrap();
    let enrolled = platform.enrol(&key).await.unwrap();
    assert_eq!((&enrolled.principal, enrolled.instance), (&principal(), 1));
    assert_eq!(&enrolled.ca_der, platform.authority.certificate_der());
    identity.save(&enrolled).unwrap();
    let loaded = identity.load().unwrap().unwrap();
    assert_eq!(loaded, enrolled);

    let ca = platform.authority.certificate_der();
    for clients in [ClientCertificates::Required(ca), ClientCertificates::Optional(ca)] {
        let own = Some((&key, loaded.certificate_chain.as_slice()));
        let peer = handshake(server_tls(&platform.authority, clients), &loaded, own).await;
        let expected = PeerIdentity { principal: principal(), instance: 1, serial: [1; 16] };
        assert_eq!(peer, Ok(Some(expected)));
    }
    let optional = server_tls(&platform.authority, ClientCertificates::Optional(ca));
    assert_eq!(handshake(optional, &loaded, None).await, Ok(None));
    let required = server_tls(&platform.authority, ClientCertificates::Required(ca));
    assert!(handshake(required, &loaded, None).await.is_err());
    // A certificate of another platform is nobody's.
    let elsewhere = Platform::start().await;
    let foreign = elsewhere.enrol(&key).await.unwrap();
    let own = Some((&key, foreign.certificate_chain.as_slice()));
    assert!(
        handshake(server_tls(&platform.authority, ClientCertificates::Optional(ca)), &loaded, own)
            .await
            .is_err()
    );
}

/// What the server learns of the client, or that the handshake failed.
async fn handshake(
    server: ServerConfig,
    enrolled: &Enrolled,
    own: Option<(&DeviceKey, &[CertificateDer<'static>])>,
) -> Result<Option<PeerIdentity>, String> {
    let client: ClientConfig = client_config(&enrolled.ca_der, own, clock()).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let accepting = acceptor.accept(far);
    let connector = TlsConnector::from(Arc::new(client));
    let connecting = connector.connect(ServerName::try_from("localhost").unwrap(), near);
    let (accepted, connected) = tokio::join!(accepting, connecting);
    let accepted = accepted.map_err(|error| error.to_string())?;
    connected.map_err(|error| error.to_string())?;
    let peer = accepted.get_ref().1.peer_certificates().and_then(<[_]>::first);
    Ok(peer.map(|certificate| principal_of_peer_certificate(certificate).unwrap()))
}

/// correctness.md 20: a lost answer bricks nothing; same claim and same key = the same certificate.
#[tokio::test]
async fn lost_answer_then_retry_gets_the_same_certificate() {
    let mut platform = Platform::start_with(After::Silence).await;
    let key = DeviceKey::generate([7; 32]);
    let first = tokio::spawn({
        let (address, code, key) = (platform.address.to_string(), platform.code.clone(), key.clone());
        async move { enrol(&address, &code, &principal(), &key, clock(), PATIENT).await }
    });
    let signing = async {
        loop {
            if let Some((_, certificate)) = platform.claim.lock().unwrap().used.clone() {
                break certificate;
            }
            tokio::task::yield_now().await;
        }
    };
    let signed = tokio::time::timeout(PATIENT, signing).await.unwrap();
    platform.restart().await;
    let lost = first.await.unwrap();
    assert!(matches!(lost, Err(EnrolError::Broken { .. })), "{lost:?}");

    let enrolled = platform.enrol(&key).await.unwrap();
    assert_eq!(enrolled.certificate_chain[0].as_ref(), signed.as_slice());
    assert_eq!(platform.enrol(&key).await.unwrap(), enrolled);
    assert_eq!(platform.claim.lock().unwrap().signed, 1);
}

#[tokio::test]
async fn used_claim_with_another_key_is_refused_and_the_fix_is_named() {
    let platform = Platform::start().await;
    platform.enrol(&DeviceKey::generate([7; 32])).await.unwrap();
    let error = platform.enrol(&DeviceKey::generate([8; 32])).await.unwrap_err();
    assert!(matches!(&error, EnrolError::Refused { code, .. } if code == "claim_other_key"), "{error:?}");
    assert!(error.to_string().contains("cloud-core admin claim create acme/chip-7"), "{error}");
    assert_eq!(platform.claim.lock().unwrap().signed, 1);
}

#[tokio::test]
async fn claim_for_another_device_is_refused() {
    let platform = Platform::start().await;
    let other: Principal = "acme/chip-8".parse().unwrap();
    let error = platform.enrol_as(&other, &platform.code, &DeviceKey::generate([7; 32])).await.unwrap_err();
    assert!(matches!(&error, EnrolError::Refused { code, .. } if code == "claim_unknown"), "{error:?}");
}

/// correctness.md 20: the first contact can't be intercepted. The secret never leaves.
#[tokio::test]
async fn other_authority_is_refused_before_anything_is_sent() {
    let platform = Platform::start().await;
    let impostor = Authority::generate([1; 16], VALIDITY).unwrap();
    let code = ClaimCode::generate([5; 10], &impostor.fingerprint());
    let key = DeviceKey::generate([7; 32]);
    let error = platform.enrol_as(&principal(), &code, &key).await.unwrap_err();
    assert!(matches!(error, EnrolError::OtherAuthority { .. }), "{error:?}");
    assert!(platform.claim.lock().unwrap().used.is_none());
}

/// An interceptor may show the true authority's certificate; it can't show one signed by it.
#[tokio::test]
async fn true_authority_beside_a_false_server_is_refused() {
    let platform = Platform::start().await;
    let impostor = Authority::generate([1; 16], VALIDITY).unwrap();
    let mut identity = impostor.issue_server(&["localhost"], &[LOOPBACK], VALIDITY, [2; 16]).unwrap();
    identity.chain[1] = platform.authority.certificate_der().clone();
    let tls = server_config(&identity, ClientCertificates::None, Arc::default()).unwrap();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(tls)).accept(stream).await.is_ok()
    });
    let error = platform.enrol_at(&address).await.unwrap_err();
    assert!(matches!(error, EnrolError::OtherAuthority { .. }), "{error:?}");
    assert!(!server.await.unwrap());
}

#[tokio::test]
async fn server_certificate_outside_its_time_names_the_clock() {
    let platform = Platform::start().await;
    let late = Arc::new(CertificateClock::new(VALIDITY.not_after_ms + 1_000));
    let address = platform.address.to_string();
    let key = DeviceKey::generate([7; 32]);
    let error = enrol(&address, &platform.code, &principal(), &key, late, PATIENT).await.unwrap_err();
    assert!(matches!(error, EnrolError::ServerCertificate { .. }), "{error:?}");
    assert!(error.to_string().contains("clock"), "{error}");
}

#[tokio::test]
async fn server_under_another_name_is_refused() {
    let platform = Platform::start().await;
    let identity = platform.authority.issue_server(&["core.example"], &[], VALIDITY, [2; 16]).unwrap();
    let tls = server_config(&identity, ClientCertificates::None, Arc::default()).unwrap();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(tls)).accept(stream).await.is_ok()
    });
    let error = platform.enrol_at(&address).await;
    assert!(matches!(error, Err(EnrolError::ServerCertificate { .. })));
    assert!(!server.await.unwrap());
}

#[tokio::test]
async fn malformed_and_dead_addresses_are_named() {
    let platform = Platform::start().await;
    let dead = TcpListener::bind((LOOPBACK, 0)).await.unwrap().local_addr().unwrap().to_string();
    let error = platform.enrol_at(&dead).await;
    assert!(matches!(error, Err(EnrolError::Unreachable { .. })));
    for malformed in ["localhost", "no name:1", ""] {
        let error = platform.enrol_at(malformed).await;
        assert!(matches!(error, Err(EnrolError::Address(_))), "{malformed}");
    }
}

#[tokio::test]
async fn desk_that_is_busy_is_not_final() {
    let platform = Platform::start_with(After::Tamper(|_| Err(refusal("busy")))).await;
    let error = platform.enrol(&DeviceKey::generate([7; 32])).await.unwrap_err();
    assert!(matches!(&error, EnrolError::Unavailable { code, .. } if code == "busy"), "{error:?}");
}

#[tokio::test]
async fn answer_that_is_not_this_devices_certificate_is_refused() {
    let garbage = Platform::start_with(After::Tamper(|_| Ok(b"0\x03abc".to_vec()))).await;
    let flipped = Platform::start_with(After::Tamper(|decision| {
        decision.map(|mut certificate| {
            *certificate.last_mut().unwrap() ^= 1;
            certificate
        })
    }))
    .await;
    let none = Platform::start_with(After::Tamper(|_| Ok(Vec::new()))).await;
    for platform in [garbage, flipped, none] {
        let error = platform.enrol(&DeviceKey::generate([7; 32])).await.unwrap_err();
        assert!(matches!(error, EnrolError::Answer { .. }), "{error:?}");
    }
}

/// Months offline: a certificate that has ended is renewed within the grace, and not a day later; then the device is
/// told that it needs a new claim code.
#[tokio::test]
async fn ended_certificate_is_renewed_within_the_grace_only() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let platform = Platform::start().await;
    let key = DeviceKey::generate([7; 32]);
    let current = platform.enrol(&key).await.unwrap();
    for (grace_days, days_late, is_good) in [(0, 1, false), (30, 1, true), (30, 29, true), (30, 31, false)] {
        let late = VALIDITY.not_after_ms + days_late * DAY_MS;
        let authority = Arc::clone(&platform.authority);
        let grace = Duration::from_millis(grace_days * DAY_MS);
        let clients = ClientCertificates::OptionalLate(authority.certificate_der(), grace);
        let identity = authority.issue_server(&["localhost"], &[LOOPBACK], VALIDITY, [3; 16]).unwrap();
        let clock_of_server = Arc::new(authority::CertificateClock::new(late));
        let tls = Arc::new(server_config(&identity, clients, clock_of_server).unwrap());
        let tls = tokio::sync::watch::channel(tls).1;
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let signing = Arc::clone(&authority);
        let desk: Arc<dyn EnrolmentDesk> = Arc::new(move |request: EnrolRequest| {
            assert!(request.proof == Proof::Certificate { instance: 1, serial: [1; 16] });
            let signed = signing.sign_device_csr(&request.csr_der, &request.principal, 1, VALIDITY, [2; 16]);
            async move { Ok(signed.unwrap()) }
        });
        let ca = authority.certificate_der().clone();
        let server = tokio::spawn(async move { serve(listener, tls, &ca, desk, Limits::default()).await });
        let renewed = renew(&address, &current, &key, clock(), PATIENT).await;
        server.abort();
        match renewed {
            Ok(renewed) => assert!(is_good && renewed != current, "{grace_days} {days_late}"),
            Err(EnrolError::Ended { .. }) => assert!(!is_good, "{grace_days} {days_late}"),
            Err(other) => panic!("{grace_days} {days_late}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn malformed_requests_are_refused_by_name() {
    let platform = Platform::start().await;
    let basic = |text: &str| format!("Authorization: Basic {}\r\n", BASE64.encode(text.as_bytes()));
    let good = basic(&format!("acme/chip-7:{}", platform.code.secret_text()));
    let key = rcgen::KeyPair::generate().unwrap();
    let p256 = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let table = [
        (String::new(), "AAAA".to_owned(), "401 Unauthorized", "claim_missing: "),
        ("Authorization: Bearer x\r\n".to_owned(), String::new(), "401 Unauthorized", "claim_malformed: "),
        (basic("no colon"), String::new(), "401 Unauthorized", "claim_malformed: "),
        (basic("acme/chip-7:short"), String::new(), "401 Unauthorized", "claim_malformed: "),
        (basic("Acme:UWS2LJNFUWS2LJNF"), String::new(), "401 Unauthorized", "claim_malformed: "),
        (good.clone(), String::new(), "400 Bad Request", "csr_malformed: "),
        (good.clone(), "not base64!".to_owned(), "400 Bad Request", "csr_malformed: "),
        (good.clone(), BASE64.encode(b"not a request"), "400 Bad Request", "csr_malformed: "),
        (good.clone(), BASE64.encode(p256.der()), "400 Bad Request", "csr_key: "),
        (good, "A".repeat(100_000), "413 Payload Too Large", "body_refused: "),
    ];
    for (row, (authorization, body, status, code)) in table.iter().enumerate() {
        let answer = platform.post(authorization, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "row {row}: {answer}");
        assert!(answer.contains(code), "row {row}: {answer}");
    }
    let bare = "POST /.well-known/est/simplereenroll HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = platform.raw(bare).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("certificate_missing: "), "{answer}");
    let answer = platform.raw("GET /elsewhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("not_found: "), "{answer}");
    assert!(platform.raw("garbage\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(platform.claim.lock().unwrap().used.is_none());
}

#[tokio::test]
async fn cacerts_contains_the_authority() {
    let platform = Platform::start().await;
    let answer =
        platform.raw("GET /.well-known/est/cacerts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/pkcs7-mime; smime-type=certs-only"), "{head}");
    let base64: String = body.split_whitespace().collect();
    let der = BASE64.decode(base64.as_bytes()).unwrap();
    let ca = platform.authority.certificate_der().as_ref();
    assert!(der.windows(ca.len()).any(|window| window == ca));
}

/// Peers that never finish their handshake take up a place each and delay nobody.
#[tokio::test]
async fn silent_peers_do_not_delay_others() {
    let platform = Platform::start().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(platform.address).await.unwrap());
    }
    platform.enrol(&DeviceKey::generate([7; 32])).await.unwrap();
    drop(silent);
}
