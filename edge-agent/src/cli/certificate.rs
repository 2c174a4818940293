//! `edge-agent certificate ...`.

use std::path::Path;

use schemas::time::Timestamp;
use serde_json::json;

use super::run::{Identity, runtime};
use super::{Failure, show as print};
use crate::config::{Config, Layer};
use crate::enrolment::{Enrolled, IdentityDirectory, validity_ms};
use crate::renewal::{RenewalError, due_ms};

pub(super) fn show(data: &Path, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, Layer::default())?;
    let directory = IdentityDirectory::open(&config.identity_directory())?;
    let enrolled = directory.load()?.ok_or(RenewalError::NotEnrolled)?;
    let server = config.values.server.clone().or(directory.server()?);
    print_certificate(&enrolled, server.as_deref(), json)
}

pub(super) fn renew(data: &Path, flags: Layer, json: bool) -> Result<(), Failure> {
    let config = Config::load(data, flags)?;
    let identity = Identity::load(&config)?;
    let renewal = identity.renewal(&config)?.ok_or_else(|| {
        let text = "it is not known where to renew: use --server HOST:PORT, where devices enrol";
        Failure::configuration("server_missing", text)
    })?;
    let (renewed, _) = runtime()?.block_on(renewal.now())?;
    print_certificate(&renewed, Some(&renewal.server), json)
}

fn print_certificate(enrolled: &Enrolled, server: Option<&str>, json: bool) -> Result<(), Failure> {
    let certificate = enrolled.certificate_chain.first().ok_or(RenewalError::NotEnrolled)?;
    let (Some((begins_ms, ends_ms)), Some(due_ms)) = (validity_ms(certificate), due_ms(certificate)) else {
        return Err(Failure::configuration("identity_invalid", "the certificate can't be read: enrol again"));
    };
    let (begins, ends, due) = (Timestamp(begins_ms), Timestamp(ends_ms), Timestamp(due_ms));
    let value = json!({
        "principal": enrolled.principal,
        "instance": enrolled.instance,
        "not_before": begins,
        "not_after": ends,
        "renewal_due": due,
        "server": server,
    });
    print(json, &value, || {
        format!(
            "device       {} (instance {})\nvalid from   {begins}\nvalid until  {ends}\nrenewed at   {due}, by the running agent, at {}",
            enrolled.principal,
            enrolled.instance,
            server.unwrap_or("(unknown: write server = \"HOST:PORT\" into agent.toml)"),
        )
    })
}
