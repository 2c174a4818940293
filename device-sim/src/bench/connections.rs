//! What an idle connection takes, and how fast connections come: plain, and with full mutual TLS (no resumption). Both
//! beside mosquitto with the same generator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Setting;
use super::report::{Report, Unit, median};
use crate::generator::{Client, Identity};
use crate::processes::{Core, Process, mosquitto, mosquitto_with, raise_limit_of_files, resident_kb};

const BENCH: &str = "connect";
/// Idle connections at the most; each takes a file of this process and one of the broker.
const IDLE: usize = 18_000;
/// Files that are no such connections.
const OTHER_FILES: usize = 1_200;
const PLAIN_CONNECTS: usize = 10_000;
const TLS_CONNECTS: usize = 2_000;
/// Handshakes under way.
const AT_ONCE: usize = 64;
const STEPS: usize = 5;
const DEVICE: &str = "bench/tls";

pub(super) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let files = raise_limit_of_files();
    let idle = IDLE.min(files.saturating_sub(OTHER_FILES));
    let directory = setting.directory.join("connections");
    std::fs::create_dir_all(&directory)?;
    let core = Core::start_with_tls(&directory)?;
    // Each connection is a device of its own, registered before anything is measured.
    let identity =
        |number| Identity { name: format!("bench/device-{number}"), token: format!("token-{number}") };
    let devices: Vec<Identity> = (0..idle).map(identity).collect();
    core.create_devices(&devices, "payment-chip")?;
    let device = enrol(&core, &directory)?;
    let yardstick = mosquitto(&directory, 100)?;
    let tls_yardstick = device.mosquitto(&directory.join("tls"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let ours_tls = (core.tls_address()?, device.config(&device.authority)?);
    let (mut ours, mut theirs) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..setting.rounds {
        if let (Some((_, address)), Some((_, tls_address, config))) = (&yardstick, &tls_yardstick) {
            theirs.0.push(runtime.block_on(plain_connects(*address, &devices)).context("mosquitto")?);
            let connects = runtime.block_on(tls_connects(*tls_address, config));
            theirs.1.push(connects.context("mosquitto with TLS")?);
        }
        ours.0.push(runtime.block_on(plain_connects(core.address, &devices)).context("cloud-core")?);
        ours.1.push(runtime.block_on(tls_connects(ours_tls.0, &ours_tls.1)).context("cloud-core with TLS")?);
    }
    let note = "CONNECT to CONNACK, token checked; goal 10000";
    report.add(BENCH, "cloud-core serve: plain connects", median(ours.0), Unit::PerSecond, note);
    let note = "full handshakes, certificate and standing checked; goal 1000";
    report.add(BENCH, "cloud-core serve: mutual TLS connects", median(ours.1), Unit::PerSecond, note);
    if !theirs.0.is_empty() {
        report.add(BENCH, "mosquitto: plain connects", median(theirs.0), Unit::PerSecond, "nobody checked");
        let note = "full handshakes, certificate checked";
        report.add(BENCH, "mosquitto: mutual TLS connects", median(theirs.1), Unit::PerSecond, note);
    }

    if let Some((process, address)) = &yardstick {
        let memory = runtime.block_on(idle_memory(*address, process, &devices));
        add_idle("mosquitto", &memory.context("mosquitto")?, "", report);
    }
    let memory = runtime.block_on(idle_memory(core.address, &core.process, &devices));
    add_idle("cloud-core serve", &memory.context("cloud-core")?, "goal 6144; ", report);
    Ok(())
}

/// Resident memory with so many idle connections.
type Memory = Vec<(usize, u64)>;

/// The slope over all steps, and each step's own in the note.
fn add_idle(name: &str, memory: &Memory, goal: &str, report: &mut Report) {
    let (Some(first), Some(last)) = (memory.first(), memory.last()) else { return };
    let slope = |from: (usize, u64), to: (usize, u64)| {
        (to.1 - from.1.min(to.1)) * 1024 / (to.0 - from.0).max(1) as u64
    };
    let steps = memory.windows(2).map(|pair| format!("to {}: {} B", pair[1].0, slope(pair[0], pair[1])));
    let steps = steps.collect::<Vec<_>>().join(", ");
    let note =
        format!("{goal}each of {} to {}, subscribed; {steps}; all of it {} kB", first.0, last.0, last.1);
    report.add(BENCH, format!("{name}: idle connection"), slope(*first, *last), Unit::Bytes, note);
}

async fn idle_memory(address: SocketAddr, process: &Process, devices: &[Identity]) -> anyhow::Result<Memory> {
    let mut clients: Vec<Client> = Vec::with_capacity(devices.len());
    let mut memory = vec![(0, resident_kb(process)?)];
    for step in 1..=STEPS {
        for some in devices[clients.len()..devices.len() * step / STEPS].chunks(AT_ONCE) {
            let batch = some.iter().map(|who| async move {
                let mut client = Client::connect(address, who).await?;
                client.subscribe(&format!("ft/{}/down/#", who.name)).await?;
                anyhow::Ok(client)
            });
            clients.extend(futures_util::future::try_join_all(batch).await?);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        memory.push((clients.len(), resident_kb(process)?));
    }
    Ok(memory)
}

async fn plain_connects(address: SocketAddr, principals: &[Identity]) -> anyhow::Result<u64> {
    rate(PLAIN_CONNECTS, async |number| {
        let who = &principals[number % principals.len()];
        Client::connect_as(address, who, &format!("plain-{number}")).await?.abort()
    })
    .await
}

async fn tls_connects(address: SocketAddr, config: &Arc<ClientConfig>) -> anyhow::Result<u64> {
    let connector = TlsConnector::from(Arc::clone(config));
    rate(TLS_CONNECTS, async |number| {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.set_zero_linger()?;
        let stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
        Client::over(stream, None, &format!("tls-{number}")).await.map(drop)
    })
    .await
}

/// Connects per second, so many at once.
async fn rate(total: usize, connect: impl AsyncFn(usize) -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let workers = (0..AT_ONCE).map(|_| async {
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= total {
                return anyhow::Ok(());
            }
            connect(number).await?;
        }
    });
    futures_util::future::try_join_all(workers).await?;
    let elapsed_us = started.elapsed().as_micros().max(1);
    Ok(u64::try_from(total as u128 * 1_000_000 / elapsed_us)?)
}

/// A device that was enrolled.
struct Device {
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    identity: PathBuf,
}

/// Enrols one device as a technician does.
fn enrol(core: &Core, directory: &Path) -> anyhow::Result<Device> {
    core.create_device(&DEVICE.parse()?, "payment-chip", "unused")?;
    let claim = core.claim_code(DEVICE)?;
    let data = directory.join("device");
    let status = core.enrol(&DEVICE.parse()?, &claim, &data)?.0.wait()?;
    ensure!(status.success(), "edge-agent enroll has failed: {status}");
    let identity = data.join("identity");
    let read = |name| CertificateDer::from_pem_file(identity.join(name)).context(name);
    Ok(Device { authority: read("authority.crt")?, certificate: read("device.crt")?, identity })
}

impl Device {
    /// With what it connects to a server that `trusted` vouches for.
    fn config(&self, trusted: &CertificateDer<'static>) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let key = PrivateKeyDer::from_pem_file(self.identity.join("device.key")).context("the key")?;
        let chain = vec![self.certificate.clone(), self.authority.clone()];
        let mut config = config.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// mosquitto with a certificate of the same kind as our server's, which asks for this device's.
    fn mosquitto(
        &self,
        directory: &Path,
    ) -> anyhow::Result<Option<(Process, SocketAddr, Arc<ClientConfig>)>> {
        std::fs::create_dir_all(directory)?;
        let server = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (directory.join("server.crt"), directory.join("server.key"));
        std::fs::write(&certificate, server.cert.pem())?;
        std::fs::write(&key, server.signing_key.serialize_pem())?;
        // Started by root it would become somebody who may not read these files.
        let settings = format!(
            "user root\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            self.identity.join("authority.crt").display(),
            certificate.display(),
            key.display(),
        );
        let Some((process, address)) = mosquitto_with(directory, 100, &settings)? else { return Ok(None) };
        Ok(Some((process, address, self.config(server.cert.der())?)))
    }
}
