//! The yardstick of load tests: the same clients on the same one thread, through a broker that relays and keeps
//! nothing. Half of them say one message at a time to the other half; when it has arrived, the next one goes. A
//! message that is relayed counts once, though it comes in and goes out.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use broker_session::Version;
use schemas::topic::Kind;

use super::link::{Address, Handler, Link, Transport};

/// About what the messages of a payment have.
const PAYLOAD_BYTES: usize = 150;
/// Until all are connected and the rate is steady.
const RAMP: Duration = Duration::from_secs(2);

struct Relay {
    links: Vec<Link>,
    payload: Rc<[u8]>,
    relayed: Cell<u64>,
    problem: RefCell<Option<String>>,
}

impl Handler for Rc<Relay> {
    fn ended(&self, _: usize, why: &anyhow::Error, _: bool) {
        self.problem.borrow_mut().get_or_insert_with(|| format!("{why:#}"));
    }

    fn received(&self, member: usize, _: Kind, _: &[u8]) {
        self.relayed.set(self.relayed.get() + 1);
        self.links[member - 1].send(Kind::PaymentStatus, Rc::clone(&self.payload));
    }

    fn promised(&self, _: usize, _: Duration) {}

    fn refused(&self, _: usize, kind: Kind, code: u8) {
        self.problem.borrow_mut().get_or_insert_with(|| format!("{kind} was refused with 0x{code:02X}"));
    }
}

/// Messages per second between so many pairs, for so long.
///
/// # Errors
/// A client cannot connect, or is refused.
pub(crate) fn relay(server: SocketAddr, pairs: usize, duration: Duration) -> anyhow::Result<u64> {
    let links = (0..2 * pairs).map(|index| {
        let (principal, hears) = (format!("relay/{index}"), index + 1);
        let address = Address {
            server,
            source: None,
            transport: Transport::Tcp,
            version: Version::V5,
            says_to: format!("ft/relay/{hears}/down"),
            token: Some(principal.clone()),
            principal,
        };
        Link::new(index, address)
    });
    let relay = Rc::new(Relay {
        links: links.collect(),
        payload: vec![7; PAYLOAD_BYTES].into(),
        relayed: Cell::new(0),
        problem: RefCell::new(None),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        for index in 0..relay.links.len() {
            let relay = Rc::clone(&relay);
            tokio::task::spawn_local(async move { relay.links[index].run(&relay).await });
        }
        tokio::time::sleep(RAMP).await;
        ensure!(relay.links.iter().all(Link::is_connected), "not all clients are connected");
        for pair in 0..pairs {
            relay.links[2 * pair].send(Kind::PaymentStatus, Rc::clone(&relay.payload));
        }
        tokio::time::sleep(RAMP).await;
        let (before, started) = (relay.relayed.get(), Instant::now());
        tokio::time::sleep(duration).await;
        let elapsed_us = started.elapsed().as_micros().max(1);
        let problem = relay.problem.borrow_mut().take();
        ensure!(problem.is_none(), "{}", problem.unwrap_or_default());
        Ok(u64::try_from(u128::from(relay.relayed.get() - before) * 1_000_000 / elapsed_us)?)
    })
}
