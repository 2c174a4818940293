//! The Linux edge agent: MQTT, hardware drivers, command line.
//!
//! Decisions are made in `edge-agent-device`; here are the journal's file, the connection, the hardware, and
//! [`cli`], which `edge-agent` and the demo enter.

mod agent;
pub mod cli;
mod clock;
mod code;
pub mod config;
mod connection;
mod driver;
pub mod enrolment;
mod identity;
mod local;
mod log;
mod message;
mod panel;
mod position;
mod program;
pub mod renewal;
pub mod steps;
