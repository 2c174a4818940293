//! The embedded MQTT broker: listeners, identity, the durable lane, the feed.
//!
//! This is the shell around [`broker_session`]: sockets, clocks and queues, and no rule of its own about who may do
//! what. It turns the events of every connection into [`ToCore`] messages on one bounded channel, and routes each
//! [`FromCore`] message to its connection. A busy core fills the channel, and then sockets are not read; a slow socket
//! fills its own inbox, and then its connection is closed. Neither waits for the other. Before a publish goes to the core, a
//! [`Checker`] may check its signature.

mod api;
pub mod cli;
pub mod client;
mod clock;
mod connection;
mod feed;
mod inbox;
mod listener;
mod quotas;
mod sessions;
mod surplus;
mod tap;
mod websocket;

pub use api::{Checker, Config, Credentials, FromCore, Listener, StartError, Stats, TlsConfig, ToCore};
pub use broker_session as session;
pub use clock::Clock;
pub use listener::{Broker, BrokerHandle, counted_as};
pub use sessions::{SessionDetails, SessionRow};
pub use tap::Tapped;
