//! The Linux edge agent: MQTT, hardware drivers, command line.

pub mod enrolment;
