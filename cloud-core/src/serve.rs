//! A running cloud core: data directory, authority, journal, lane, enrolment, HTTP, admin socket.
//!
//! The order of a start: lock the data directory, replay the journal, then listen. Of an end: stop taking new work, tell
//! clients (0x8B), finish and sync the last batch, end.

mod descriptors;
mod error;
mod files;
mod replay;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::session::{Rate, Rates};
use broker::{Broker, BrokerHandle, Listener, TlsConfig};
use cloud_core_flows::driver::Driver;
use cloud_core_flows::port;
use cloud_core_flows::registry::RESERVED_TENANT;
use data_encoding::BASE64URL_NOPAD;
use schemas::ids::{Hash, Instance, Principal};
use schemas::signed::PublicKey;
use schemas::time::Timestamp;
use schemas_journal::{Call, ChainId, FileDisk};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::admin::server::{self as admin_server, Counter};
use crate::authority::Authority;
use crate::config::{Config, Loaded};
use crate::enrolment::{self, EnrolRefusal, EnrolRequest, Proof};
use crate::health::{self, Probe};
use crate::history::Historian;
use crate::runtime::{CoreClock, CoreFault, EnrolTicket, KillPoints, Parts, Requests, Runtime, hold_writes};
use crate::signatures::Signatures;
use crate::{http, telemetry};

pub use error::ServeError;
use tls::Tls;

const ONE_DAY_MS: u64 = 24 * 3_600_000;
/// Clients' clocks may be behind by this much.
const CLOCK_TOLERANCE_MS: u64 = ONE_DAY_MS;
/// The wall clock may be after the last record by this much, unless an operator says that it is right.
const CLOCK_AHEAD_MS: u64 = 30 * ONE_DAY_MS;

/// Where a running core is reached. Also written to `addresses.json` in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// MQTT without TLS.
    pub mqtt_tcp: Option<SocketAddr>,
    /// MQTT over TLS.
    pub mqtt_tls: Option<SocketAddr>,
    /// MQTT over WebSocket without TLS.
    pub mqtt_ws: Option<SocketAddr>,
    /// MQTT over WebSocket and TLS.
    pub mqtt_wss: Option<SocketAddr>,
    /// Enrolment over HTTPS.
    pub enrolment: Option<SocketAddr>,
    /// `healthz` and `metrics`.
    pub http: Option<SocketAddr>,
    /// Administration over TLS.
    #[serde(default)]
    pub admin_tls: Option<SocketAddr>,
    /// Operators' socket.
    pub admin: PathBuf,
    /// The authority's certificate (PEM), which clients trust.
    pub authority: PathBuf,
}

impl Addresses {
    /// One line for each, in a form that does not change.
    pub fn lines(&self) -> Vec<String> {
        let line = |name: &str, scheme: &str, address: Option<SocketAddr>| {
            address.map(|address| format!("{name} {scheme}://{address}"))
        };
        [
            line("mqtt", "tcp", self.mqtt_tcp),
            line("mqtt", "tls", self.mqtt_tls),
            line("mqtt", "ws", self.mqtt_ws),
            line("mqtt", "wss", self.mqtt_wss),
            line("enrolment", "https", self.enrolment),
            line("http", "http", self.http),
            line("admin", "tls", self.admin_tls),
            Some(format!("admin {}", self.admin.display())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A running cloud core. Call [`Server::shutdown`]: dropping it leaves the end to the process.
#[derive(Debug)]
pub struct Server {
    addresses: Addresses,
    broker: BrokerHandle,
    requests: Requests,
    ended: oneshot::Receiver<Result<(), CoreFault>>,
    tls: Tls,
    clock: CoreClock,
    /// Enrolment, HTTP, admin: they end when this is dropped.
    doors: JoinSet<()>,
    /// Ends with the last door that asks it.
    history: std::thread::JoinHandle<()>,
}

impl Server {
    /// Starts everything and returns when all of it is listening. Must be called within a tokio runtime.
    ///
    /// `accept_clock`: the wall clock is right, however long after the last record it is.
    ///
    /// # Errors
    /// See [`ServeError`]; nothing is left running.
    pub async fn start(loaded: &Loaded, accept_clock: bool) -> Result<Self, ServeError> {
        let config = &loaded.config;
        let kill = Arc::new(KillPoints::from_environment()?);
        let disk = open_data_dir(config)?;
        let lane_clock = broker::Clock::start();
        let authority = Arc::new(files::load_or_make_authority(config, Timestamp(lane_clock.now_ms()))?);
        let signing_key = files::load_or_make_signing_key(config)?;
        let metrics = telemetry::metrics_handle().map_err(|error| ServeError::Metrics(error.to_string()))?;
        let mut driver = replay(disk.clone(), config, lane_clock).await?;
        if !accept_clock {
            check_clock(driver.left_off_at(), Timestamp(lane_clock.now_ms()))?;
        }
        let clock = CoreClock::new(lane_clock, driver.cloud().at());
        if clock.ahead() > Duration::from_secs(5) {
            tracing::warn!(
                ahead_s = clock.ahead().as_secs(),
                "the wall clock is behind the last journaled time; the core goes on from that. Check time synchronisation on this machine"
            );
        }
        let (principal, token) = health_credentials()?;
        let bank_authority_pem = files::bank_authority(config)?;
        driver.set_probe(principal.clone(), health::token_hash(&token));
        driver.set_certificate_life(config.certificate_life_ms);
        driver.set_signing_key(signing_key);

        let listening = Listening::bind(config).await?;
        let tls = Tls::make(config, &authority, clock.now())?;
        let (to_core, lane) = mpsc::channel(config.queue_messages);
        let signatures = Arc::<Signatures>::default();
        let broker = start_lane(config, &tls, lane_clock, signatures.clone(), to_core).await?;
        let addresses = listening.addresses(config, &broker)?;
        let runtime = Runtime::start(Parts {
            driver,
            disk: disk.clone(),
            clock,
            broker: broker.clone(),
            lane,
            authority: Arc::clone(&authority),
            certificate_clock: Arc::clone(tls.clock()),
            signatures,
            kill,
            batch_messages: config.batch_messages,
            bank_timeout: Duration::from_millis(config.bank_timeout_ms),
            bank_authority_pem: bank_authority_pem.clone(),
        })
        .map_err(ServeError::Thread)?;

        let (historian, history) =
            Historian::start(config.index_dir(), disk.clone(), Arc::clone(&runtime.synced))
                .map_err(ServeError::Thread)?;

        let mut doors = JoinSet::new();
        doors.spawn(telemetry::keep_up(metrics.clone()));
        let counter = Counter {
            broker: broker.clone(),
            settings: loaded.show(),
            requests: runtime.requests.clone(),
            disk,
            synced: runtime.synced,
            historian,
            clock,
            authority_fingerprint: authority.fingerprint(),
            bank_authority_pem,
        };
        let counter = Arc::new(counter);
        doors.spawn(admin_server::serve(listening.admin, Arc::clone(&counter)));
        if let Some(listener) = listening.admin_tls {
            doors.spawn(admin_server::serve_remote(listener, tls.admin(), counter));
        }
        if let Some(listener) = listening.enrolment {
            let requests = runtime.requests.clone();
            doors.spawn(serve_enrolment(listener, tls.enrolment(), authority, requests));
        }
        if let (Some(listener), Some(lane_address)) = (listening.http, addresses.mqtt_tcp) {
            let probe = Probe::new(lane_address, principal, token);
            let broker = broker.clone();
            doors.spawn(async move {
                if let Err(error) = http::serve(listener, probe, metrics, broker).await {
                    tracing::error!(%error, "healthz and metrics ended");
                }
            });
        }
        files::write_addresses(config, &addresses)?;
        let (requests, ended) = (runtime.requests, runtime.ended);
        Ok(Self { addresses, broker, requests, ended, tls, clock, doors, history })
    }

    /// Where it is reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Reads the files of certificates again, for new connections; established ones stay.
    ///
    /// # Errors
    /// A file can't be used: everything stays as it is.
    pub fn reload_certificates(&self) -> Result<(), ServeError> {
        self.tls.reload(self.clock.now())
    }

    /// Waits for the core to end by itself, which it does only by a fault: the process must end then.
    pub async fn fault(&mut self) -> CoreFault {
        match (&mut self.ended).await {
            Ok(Err(fault)) => fault,
            Ok(Ok(())) | Err(_) => CoreFault::Lost,
        }
    }

    /// Takes no new work, tells clients, finishes what has arrived, syncs it, and ends.
    ///
    /// # Errors
    /// The last batch could not be made durable.
    pub async fn shutdown(mut self) -> Result<(), CoreFault> {
        self.doors.shutdown().await;
        self.broker.shutdown().await;
        // If it has ended already, `ended` says how.
        let _ = self.requests.stop().await;
        let ended = self.ended.await.unwrap_or(Err(CoreFault::Lost));
        // Its files are closed before another core opens them. It has no word in how this one ended.
        let history = self.history;
        let _ = tokio::task::spawn_blocking(|| history.join()).await;
        ended
    }
}

/// What load tests add to each sync, to see what a slower disk costs.
fn added_to_sync() -> Option<Duration> {
    let added_us = std::env::var("FARTHING_ADDED_TO_SYNC_US").ok()?;
    added_us.parse().ok().map(Duration::from_micros)
}

/// Makes the directory for this user alone, and locks its journal.
fn open_data_dir(config: &Config) -> Result<FileDisk, ServeError> {
    files::make_private_directory(&config.data_dir)?;
    let journal = config.journal_dir();
    if hold_writes() {
        return Ok(FileDisk::hold_until_sync(journal)?);
    }
    let Some(delay) = added_to_sync() else { return Ok(FileDisk::open(journal)?) };
    tracing::warn!(?delay, "each sync takes longer by order of FARTHING_ADDED_TO_SYNC_US: a measurement");
    Ok(FileDisk::open_observed(journal, move |call| {
        if let Call::SyncFile { .. } = call {
            std::thread::sleep(delay);
        }
    })?)
}

async fn replay(
    disk: FileDisk,
    config: &Config,
    clock: broker::Clock,
) -> Result<Driver<FileDisk>, ServeError> {
    let limits = config.journal_limits();
    let fresh = ChainId(crate::random::bytes().map_err(ServeError::Random)?);
    let opened =
        tokio::task::spawn_blocking(move || replay::open(disk, limits, fresh, || Timestamp(clock.now_ms())))
            .await;
    let driver = opened
        .map_err(|error| ServeError::Journal(error.to_string()))?
        .map_err(|error| ServeError::Journal(error.to_string()))?;
    let recovery = driver.journal().recovery();
    tracing::info!(
        records = driver.journal().position().value(),
        snapshot = recovery.snapshot.map(|position| position.value()),
        replayed = recovery.replayed_records,
        "journal replayed"
    );
    for refused in &recovery.refused_snapshots {
        tracing::warn!(%refused, "a snapshot could not be used; run `cloud-core audit verify`");
    }
    if let Some(cut) = &recovery.cut {
        let (file, offset) = (&cut.file, cut.offset);
        tracing::warn!(%file, offset, bytes = cut.bytes, "a torn end was removed: writes that were never synced, so nothing of them was promised");
    }
    Ok(driver)
}

/// Before anything is written: the core's time never goes back, so a wrong one would stay.
fn check_clock(left_off_at: Timestamp, now: Timestamp) -> Result<(), ServeError> {
    let ahead_ms = now.ms_since(left_off_at);
    if left_off_at == Timestamp(0) || ahead_ms <= CLOCK_AHEAD_MS {
        return Ok(());
    }
    Err(ServeError::ClockAhead { now, left_off_at, days: ahead_ms / ONE_DAY_MS })
}

/// The health principal is of no tenant that an operator can make, and its token lives as long as this process.
fn health_credentials() -> Result<(Principal, String), ServeError> {
    let random: [u8; 32] = crate::random::bytes().map_err(ServeError::Random)?;
    let principal = format!("{RESERVED_TENANT}/health").parse()?;
    Ok((principal, BASE64URL_NOPAD.encode(&random)))
}

async fn start_lane(
    config: &Config,
    tls: &Tls,
    clock: broker::Clock,
    checker: Arc<Signatures>,
    to_core: mpsc::Sender<broker::ToCore>,
) -> Result<BrokerHandle, ServeError> {
    let tcp = config.listen_tcp.map(|address| Listener::Tcp { address });
    let with_tls = config.listen_tls.map(|address| Listener::Tls { address, config: tls.lane() });
    let ws = config.listen_ws.map(|address| Listener::WebSocket { address });
    let wss = config.listen_wss.map(|address| Listener::WebSocketTls { address, config: tls.websocket() });
    let lane = broker::Config {
        listeners: [tcp, with_tls, ws, wss].into_iter().flatten().collect(),
        max_connections: descriptors::connections_that_fit(config.max_connections),
        max_connections_per_address: config.max_connections_per_address,
        rates: Rates {
            packets: Rate {
                per_second: config.principal_packets_per_second,
                burst: config.principal_packets_burst,
            },
            bytes: Rate {
                per_second: config.principal_bytes_per_second,
                burst: config.principal_bytes_burst,
            },
        },
        boot_epoch: files::next_boot_epoch(config, Timestamp(clock.now_ms()))?,
        clock,
        checker: Some(checker),
        ..broker::Config::default()
    };
    Broker::start(lane, to_core).await.map_err(|error| ServeError::of_lane(error, config))
}

/// The doors beside the lane.
struct Listening {
    enrolment: Option<TcpListener>,
    http: Option<TcpListener>,
    admin_tls: Option<TcpListener>,
    admin: tokio::net::UnixListener,
}

impl Listening {
    async fn bind(config: &Config) -> Result<Self, ServeError> {
        let path = config.admin_socket();
        Ok(Self {
            enrolment: bind("listen_enrolment", config.listen_enrolment).await?,
            http: bind("listen_http", config.listen_http).await?,
            admin_tls: bind("listen_admin", config.listen_admin).await?,
            admin: admin_server::bind(&path).map_err(|source| ServeError::AdminSocket { path, source })?,
        })
    }

    fn addresses(&self, config: &Config, broker: &BrokerHandle) -> Result<Addresses, ServeError> {
        let local = |listener: &Option<TcpListener>| {
            listener.as_ref().map(TcpListener::local_addr).transpose().map_err(ServeError::Thread)
        };
        let mut lane = broker.addresses().iter().copied();
        Ok(Addresses {
            mqtt_tcp: config.listen_tcp.and_then(|_| lane.next()),
            mqtt_tls: config.listen_tls.and_then(|_| lane.next()),
            mqtt_ws: config.listen_ws.and_then(|_| lane.next()),
            mqtt_wss: config.listen_wss.and_then(|_| lane.next()),
            enrolment: local(&self.enrolment)?,
            http: local(&self.http)?,
            admin_tls: local(&self.admin_tls)?,
            admin: config.admin_socket(),
            authority: files::authority_certificate(config),
        })
    }
}

async fn bind(setting: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, ServeError> {
    let Some(address) = address else { return Ok(None) };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) => Err(ServeError::listen(setting, address, source)),
    }
}

async fn serve_enrolment(
    listener: TcpListener,
    tls: TlsConfig,
    authority: Arc<Authority>,
    requests: Requests,
) {
    let desk = move |request: EnrolRequest| enrol(requests.clone(), request);
    let certificate = authority.certificate_der();
    let limits = enrolment::Limits::default();
    if let Err(error) = enrolment::serve(listener, tls, certificate, Arc::new(desk), limits).await {
        tracing::error!(%error, "enrolment ended");
    }
}

async fn enrol(requests: Requests, request: EnrolRequest) -> Result<Vec<u8>, EnrolRefusal> {
    let later = || EnrolRefusal {
        code: "core_unavailable".into(),
        message: "the core could not decide now: try again with the same claim code or certificate".into(),
        retry: true,
    };
    let principal = request.principal.clone();
    let (reply, answer) = oneshot::channel();
    let ticket = EnrolTicket {
        principal: request.principal,
        proof: match request.proof {
            Proof::Claim { secret_hash } => port::Proof::Claim(Hash(secret_hash)),
            Proof::Certificate { instance, serial } => {
                port::Proof::Certificate { instance: Instance(instance), serial: serial.to_vec() }
            }
        },
        public_key: PublicKey(request.public_key),
        csr_der: request.csr_der,
        reply,
    };
    requests.enrol(ticket).await.map_err(|_| later())?;
    match answer.await {
        Ok(Ok(certificate)) => {
            tracing::info!(%principal, "a certificate was given");
            Ok(certificate)
        }
        Ok(Err(rejection)) => {
            tracing::warn!(%principal, code = %rejection.code, "an enrolment was refused");
            Err(EnrolRefusal { code: rejection.code.to_string(), message: rejection.text, retry: false })
        }
        Err(_) => Err(later()),
    }
}
