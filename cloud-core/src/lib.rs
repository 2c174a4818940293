//! The cloud core: owns the money, embeds the broker.

pub mod authority;
pub mod bank;
pub mod enrolment;
