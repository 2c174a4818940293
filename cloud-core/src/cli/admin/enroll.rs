//! `cloud-core admin enroll`: an operator gets a certificate as a device does.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use edge_agent::enrolment::{CertificateClock, IdentityDirectory, enrol};
use schemas::claim::ClaimCode;
use schemas::ids::PrincipalId;

use crate::cli::output::{print_json, print_line};

const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn run(
    claim: &str,
    operator: &PrincipalId,
    server: Option<&str>,
    identity: Option<&Path>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let server =
        server.context("name where to enrol: --server HOST:PORT of the core's `listen_enrolment`")?;
    let path = identity.context("name where the key and the certificate go: --identity DIR")?;
    let claim = ClaimCode::parse(claim)?;
    let principal = super::principal_of(operator.clone())?;
    let directory = IdentityDirectory::open(path)?;
    let key = directory.key_or_create(crate::random::bytes()?)?;
    directory.save_server(server)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clock = Arc::new(CertificateClock::new(0));
    let enrolled = runtime.block_on(enrol(server, &claim, &principal, &key, clock, TIMEOUT))?;
    directory.save(&enrolled)?;
    if json {
        print_json(&serde_json::json!({ "operator": operator, "identity": path }))?;
    } else {
        let next = format!("cloud-core admin --server HOST:PORT --identity {} devices list", path.display());
        print_line(&format!("enrolled as operator {operator}; next: {next}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
