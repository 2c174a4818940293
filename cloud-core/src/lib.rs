//! The cloud core: owns the money, embeds the broker.

pub mod bank;
