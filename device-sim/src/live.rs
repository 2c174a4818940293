//! The half of `device-sim` that speaks MQTT to a real broker, as one more client, by the published topics and
//! schemas. It registers its fleet, and asks for the books at the end, as an operator.

mod book;
mod engine;
mod fleet;
mod link;
mod measured;
mod relay;
mod report;
mod roles;
mod run;
mod scenario;
mod shown;
pub mod terminal;
mod view;
mod websocket;

pub(crate) use measured::{End, Measured, Step};
pub(crate) use relay::relay;
pub(crate) use run::{Arguments, Outcome, execute, play};
pub(crate) use scenario::{Arrivals, Fleet, Load, Scenario};
pub(crate) use view::Asked;
