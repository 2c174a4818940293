//! Renewal of a device's certificate against the real binary: what is asked, and what is left after a failure at each
//! step (correctness.md 20).
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Core;
use edge_agent::enrolment::{
    CertificateClock, DeviceKey, EnrolError, Enrolled, IdentityDirectory, client_config, enrol, renew,
};
use edge_agent::renewal::{RenewalError, renew_once};
use rustls::pki_types::ServerName;
use schemas::claim::ClaimCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CHIP: &str = "acme/chip-7";
const PATIENT: Duration = Duration::from_secs(30);

/// A core, and an identity directory with the first certificate.
async fn start(directory: &Path) -> (Core, IdentityDirectory) {
    let core = Core::start(&directory.join("core"));
    core.admin_ok(&["tenants", "create", "acme", "--currency", "EUR"]);
    core.admin_ok(&["devices", "create", CHIP, "--profile", "payment-chip"]);
    let claim: ClaimCode = core.admin_ok(&["claim", "create", CHIP]).lines().next().unwrap().parse().unwrap();
    let identity = IdentityDirectory::open(&directory.join("identity")).unwrap();
    let key = identity.key_or_create([7; 32]).unwrap();
    let address = core.address("enrolment https://").to_string();
    let enrolled = enrol(&address, &claim, &CHIP.parse().unwrap(), &key, clock(), PATIENT).await.unwrap();
    identity.save(&enrolled).unwrap();
    (core, identity)
}

fn clock() -> Arc<CertificateClock> {
    Arc::new(CertificateClock::new(0))
}

async fn ask(core: &Core, current: &Enrolled, key: &DeviceKey) -> Result<Enrolled, EnrolError> {
    renew(&core.address("enrolment https://").to_string(), current, key, clock(), PATIENT).await
}

/// Whether the lane takes this certificate.
async fn connects(core: &Core, enrolled: &Enrolled, key: &DeviceKey) -> Result<(), String> {
    let tls = client_config(&enrolled.ca_der, Some((key, &enrolled.certificate_chain)), clock()).unwrap();
    let stream = TcpStream::connect(core.address("mqtt tls://")).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let connect = [0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 4, b't', b'e', b's', b't'];
    stream.write_all(&connect).await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.map_err(|error| error.to_string())?;
    if answer == [0x20, 2, 0, 0] { Ok(()) } else { Err(format!("{answer:?}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_to_the_same_again_to_the_next_to_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (core, identity) = start(directory.path()).await;
    let (first, key) = (identity.load().unwrap().unwrap(), identity.key().unwrap().unwrap());
    let second = ask(&core, &first, &key).await.unwrap();
    assert_eq!((&second.principal, second.instance), (&first.principal, 1));
    assert_ne!(second.certificate_chain, first.certificate_chain);
    assert_eq!(ask(&core, &first, &key).await.unwrap(), second, "a lost answer is given again");
    connects(&core, &first, &key).await.expect("the former one works until it ends");
    connects(&core, &second, &key).await.unwrap();
    core.signal("KILL");
    core.ended();

    let core = Core::start(&directory.path().join("core"));
    assert_eq!(ask(&core, &first, &key).await.unwrap(), second, "it was journaled before it was sent");
    let third = ask(&core, &second, &key).await.unwrap();
    assert_ne!(third, second);
    core.admin_ok(&["devices", "revoke", CHIP]);
    for shown in [&first, &second, &third] {
        let refused = ask(&core, shown, &key).await.unwrap_err();
        let is_named =
            matches!(&refused, EnrolError::Refused { code, .. } if code == "certificate_not_current");
        assert!(is_named && refused.to_string().contains("claim create acme/chip-7"), "{refused}");
        connects(&core, shown, &key).await.unwrap_err();
    }
    core.stop();
}

/// Where a renewal ends before its end: by a power cut (nothing more of it runs) or a failure.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The request has left.
    CutWhileAsking,
    /// The platform has signed, and its answer is lost.
    CutAfterSigning,
    /// The new certificate is half written.
    CutWhileWriting,
    /// It is beside the current one, and being tried.
    CutWhileTesting,
    /// It was tried and is good.
    CutBeforeReplacing,
    /// It was not taken.
    NotTaken,
    /// The platform was not reached.
    NotReached,
}

/// After each end the identity that is loaded works, and the next attempt succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_renewal_leaves_a_working_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let (core, identity) = start(directory.path()).await;
    let key = identity.key().unwrap().unwrap();
    for end in [
        End::CutWhileAsking,
        End::CutAfterSigning,
        End::CutWhileWriting,
        End::CutWhileTesting,
        End::CutBeforeReplacing,
        End::NotTaken,
        End::NotReached,
    ] {
        let before = identity.load().unwrap().unwrap();
        interrupt(&core, &identity, end).await;
        if let End::CutWhileWriting = end {
            for leftover in ["device.crt.next", "device.crt.next.new"] {
                std::fs::write(directory.path().join("identity").join(leftover), "-----BEGIN CERT").unwrap();
            }
        }
        let identity = IdentityDirectory::open(&directory.path().join("identity")).unwrap();
        let after = identity.load().unwrap().unwrap();
        assert_eq!(after, before, "{end:?}: the current one stays until the new one has proved itself");
        connects(&core, &after, &key).await.unwrap();

        let renewed = renew_once(
            &identity,
            async |current: &Enrolled, key: &DeviceKey| ask(&core, current, key).await,
            async |next: &Enrolled, key: &DeviceKey| connects(&core, next, key).await,
        );
        let renewed = renewed.await.unwrap();
        assert_ne!(renewed, before, "{end:?}");
        assert_eq!(identity.load().unwrap().unwrap(), renewed, "{end:?}");
        assert!(!directory.path().join("identity").join("device.crt.next").exists(), "{end:?}");
    }
    core.stop();
}

/// Runs a renewal until `end`. A cut is a future that is dropped where it waits for ever.
async fn interrupt(core: &Core, identity: &IdentityDirectory, end: End) {
    let (cut, is_cut) = tokio::sync::oneshot::channel::<()>();
    let cut = std::sync::Mutex::new(Some(cut));
    let stop_here = async || {
        cut.lock().unwrap().take();
        std::future::pending::<()>().await;
    };
    let asking = async |current: &Enrolled, key: &DeviceKey| {
        match end {
            End::CutWhileAsking => stop_here().await,
            End::NotReached => return Err(EnrolError::Address(String::new())),
            _ => {}
        }
        let answer = ask(core, current, key).await;
        if let End::CutAfterSigning | End::CutWhileWriting = end {
            stop_here().await;
        }
        answer
    };
    let testing = async |next: &Enrolled, key: &DeviceKey| {
        if let End::CutWhileTesting = end {
            stop_here().await;
        }
        if let End::NotTaken = end {
            return Err("refused".to_owned());
        }
        let tested = connects(core, next, key).await;
        stop_here().await;
        tested
    };
    let renewing = renew_once(identity, asking, testing);
    tokio::select! {
        ended = renewing => match (end, ended) {
            (End::NotTaken, Err(RenewalError::NotTaken(_))) | (End::NotReached, Err(RenewalError::Enrol(_))) => {}
            (end, other) => panic!("{end:?}: {other:?}"),
        },
        _ = is_cut => {}
    }
}
