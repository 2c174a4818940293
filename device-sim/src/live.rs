//! The half of `device-sim` that speaks MQTT to a real broker, as one more client: it knows the published topics and
//! schemas and nothing else.

pub mod terminal;
