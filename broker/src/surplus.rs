//! Connections beyond a limit. Some of them are told so, which helps a client to wait instead of trying at once again;
//! the others are closed without a word. Under a flood what counts is that telling costs little and a known amount, also
//! where each begins with a handshake of TLS: never more at a time than there are places, and never more in a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use broker_session::{CloseReason, ConnectRefusal, ConnectionId, Event, Limits, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::api::Config;
use crate::sessions::Transport;

/// How many are told in one second.
const PLACES: usize = 64;
/// A place is not given again earlier, however quickly its client was told.
const REST: Duration = Duration::from_secs(1);
/// From being accepted to having read the CONNACK.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of one read: most CONNECTs.
const READ_BYTES: usize = 512;

/// The places, and how many were told.
#[derive(Debug)]
pub(crate) struct Surplus {
    places: Arc<Semaphore>,
    told: AtomicU64,
}

/// The right of one connection to be told why it is not served.
#[derive(Debug)]
pub(crate) struct Place {
    refusal: ConnectRefusal,
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Default for Surplus {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES)), told: AtomicU64::new(0) }
    }
}

impl Surplus {
    /// A place, if there is one.
    pub(crate) fn place(&self, refusal: ConnectRefusal) -> Option<Place> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(Place { refusal, since: Instant::now(), _permit: permit })
    }

    /// How many were told since the start.
    pub(crate) fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// Waits for CONNECT and answers it. The core does not hear of it.
    pub(crate) async fn turn_away<S: Transport>(
        &self,
        place: &Place,
        mut stream: S,
        id: ConnectionId,
        config: &Config,
    ) {
        let answered = timeout_at(place.deadline(), async {
            let answer = answer(&mut stream, id, &config.limits, config, &place.refusal).await?;
            stream.write_all(&answer).await.ok()?;
            self.told.fetch_add(1, Relaxed);
            stream.shutdown().await.ok()
        });
        let _ = answered.await;
    }
}

impl Place {
    /// Until when its client must have gone.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + PATIENCE
    }

    /// Keeps it from others for the rest of its time.
    pub(crate) async fn rest(self) {
        sleep_until(self.since + REST).await;
    }
}

/// The CONNACK; none if no CONNECT came.
async fn answer<S: Transport>(
    stream: &mut S,
    id: ConnectionId,
    limits: &Limits,
    config: &Config,
    refusal: &ConnectRefusal,
) -> Option<Vec<u8>> {
    let mut session = Session::new(id, limits.clone(), config.clock.now_ms());
    let mut buffer = [0; READ_BYTES];
    loop {
        let bytes = stream.read(&mut buffer).await.ok()?;
        session.handle_bytes(config.clock.now_ms(), buffer.get(..bytes).filter(|read| !read.is_empty())?);
        match session.poll_event() {
            None => {}
            Some(Event::Connect(_)) => {
                session.handle_standing(config.clock.now_ms(), Err(refusal.clone()));
                return session.poll_transmit();
            }
            // What is no CONNECT, or one that is refused in any case.
            Some(Event::Closed { reason: CloseReason::Refused(_) }) => return session.poll_transmit(),
            Some(_) => return None,
        }
    }
}
