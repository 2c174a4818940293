//! Values as people write them on the command line.

use std::str::FromStr;

use cloud_core_flows::admin::Setting;
use schemas::ids::TenantId;

pub(super) fn setting<T>(to: Option<T>, none: bool) -> Setting<T> {
    match to {
        Some(to) => Setting::To(to),
        None if none => Setting::Clear,
        None => Setting::Keep,
    }
}

/// `TENANT/NAME`
#[derive(Debug, Clone)]
pub(super) struct Scoped<T> {
    pub(super) tenant: TenantId,
    pub(super) name: T,
}

impl<T: FromStr> FromStr for Scoped<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (tenant, name) = text.split_once('/').ok_or("write TENANT/NAME, for instance acme/kiosk")?;
        Ok(Self {
            tenant: tenant.parse().map_err(|error: schemas::ids::IdError| error.to_string())?,
            name: name.parse().map_err(|error: T::Err| error.to_string())?,
        })
    }
}

/// `LEFT=RIGHT`
#[derive(Debug, Clone)]
pub(super) struct Pair<L, R> {
    pub(super) left: L,
    pub(super) right: R,
}

impl<L: FromStr, R: FromStr> FromStr for Pair<L, R>
where
    L::Err: std::fmt::Display,
    R::Err: std::fmt::Display,
{
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (left, right) = text.split_once('=').ok_or("write NAME=VALUE")?;
        Ok(Self {
            left: left.parse().map_err(|error: L::Err| error.to_string())?,
            right: right.parse().map_err(|error: R::Err| error.to_string())?,
        })
    }
}
