//! One MQTT connection, seen from the server, as a pure state machine: MQTT 3.1.1 and 5 on one port.
//!
//! Bytes, promises and time come in through `handle_*`; bytes and [`Event`]s go out through `poll_*`. Nothing here
//! reads a clock or a socket, and every queue has a bound ([`Limits`]).
//!
//! Packets are parsed and printed by `mqtt-protocol-core`. Its `Connection` is not used: it closes the connection on
//! a late PUBACK (which correctness.md 8 wants ignored), answers faults without the reason code, does not check the
//! flags of fixed headers, and costs seven hash sets for each connection.
//!
//! What is absent:
//! - A PUBACK without a promise: [`Session::handle_promise`] is the only way to one, and they leave in the order of
//!   arrival.
//! - A server-side MQTT session: what a principal is owed lives in the core's outbox and is pulled by each connection
//!   that subscribes. So `session present` is always 0 and stays truthful over every crash.
//! - A second send of one message on one connection (MQTT-4.4.0-1).
//! - A right that follows from what a client asks for: topics and filters are compared with the authenticated
//!   principal only.

mod allowance;
mod decode;
mod delivery;
mod encode;
mod frame;
mod publishes;
mod rules;
mod session;
mod types;
mod watch;

pub use allowance::{Allowance, Rate, Rates};
pub use session::Session;
pub use types::{
    CloseReason, Connect, ConnectRefusal, ConnectionId, Counters, DisconnectReason, Event, Fault, Limits,
    Owed, Promise, PublishToken, Qos, Refusal, RefusedAction, Secret, StateCause, Version,
};

#[cfg(test)]
mod tests;
