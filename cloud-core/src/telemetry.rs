//! Logs and metrics. Tokens, claim secrets and keys reach neither.

use std::sync::OnceLock;
use std::time::Duration;

use cloud_core_flows::driver::Driver;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use schemas_journal::FileDisk;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::util::TryInitError;

use crate::config::{Config, LogFormat};

/// How often histograms are folded.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the log to stderr, as configured. Standard output stays for answers.
///
/// # Errors
/// A log was set up before in this process.
pub fn start_log(config: &Config) -> Result<(), TryInitError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = EnvFilter::try_new(&config.log_filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = SubscriberBuilder::default().with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            let ansi = std::io::stderr().is_terminal();
            builder.with_env_filter(filter).with_ansi(ansi).finish().try_init()
        }
        LogFormat::Json => builder.json().with_env_filter(filter).finish().try_init(),
    }
}

/// The recorder of this process, made at the first call.
///
/// # Errors
/// Another recorder was installed in this process.
pub(crate) fn metrics_handle() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let seconds = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
    let inputs = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("farthing_journal_sync_seconds".into()), &seconds)?
        .set_buckets_for_metric(Matcher::Full("farthing_batch_inputs".into()), &inputs)?
        .install_recorder();
    match handle {
        Ok(handle) => {
            describe();
            Ok(HANDLE.get_or_init(|| handle).clone())
        }
        // Two servers started at once in one process (tests): the other was first.
        Err(error) => HANDLE.get().cloned().ok_or(error),
    }
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!("farthing_connects_total", "CONNECT packets put before the core");
    describe_counter!("farthing_publishes_total", "authorised publishes by kind");
    describe_counter!("farthing_acknowledgements_total", "deliveries acknowledged by their receivers");
    describe_counter!("farthing_refusals_total", "topics and connections that the lane refused");
    describe_counter!("farthing_promises_total", "PUBACKs sent");
    describe_counter!(
        "farthing_publishes_put_off_total",
        "publishes answered 0x97 as their principal had used up its rate"
    );
    describe_counter!("farthing_bank_answers_total", "answers of banks by kind");
    describe_counter!("farthing_wall_clock_steps_total", "times that the wall clock was set while running");
    describe_gauge!("farthing_connections", "MQTT connections now");
    describe_gauge!("farthing_connections_admitted", "MQTT connections whose credentials were accepted");
    describe_gauge!("farthing_payments_open", "payments not at rest");
    describe_gauge!("farthing_exceptions", "entries in the exceptions queue");
    describe_gauge!("farthing_outbox_messages", "messages owed to principals");
    describe_gauge!("farthing_journal_records", "records in the journal");
    describe_gauge!("farthing_journal_synced_records", "records in the journal that are durable");
    describe_histogram!("farthing_journal_sync_seconds", Unit::Seconds, "time to make a batch durable");
    describe_histogram!("farthing_batch_inputs", "inputs decided together");
}

/// Folds what was recorded into its histograms, for ever: samples that nobody folds gather in memory, whether or not
/// somebody reads `metrics`.
pub(crate) async fn keep_up(metrics: PrometheusHandle) {
    let mut turn = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        turn.tick().await;
        metrics.run_upkeep();
    }
}

/// What the core is doing now.
#[allow(clippy::cast_precision_loss, reason = "a gauge is approximate beyond 2^53")]
pub(crate) fn set_core_gauges(driver: &Driver<FileDisk>) {
    let cloud = driver.cloud();
    metrics::gauge!("farthing_connections_admitted").set(driver.connections() as f64);
    metrics::gauge!("farthing_payments_open").set(cloud.open_payments() as f64);
    metrics::gauge!("farthing_exceptions").set(cloud.exceptions().count() as f64);
    metrics::gauge!("farthing_outbox_messages").set(cloud.outbox().total() as f64);
    metrics::gauge!("farthing_journal_records").set(driver.journal().position().value() as f64);
    metrics::gauge!("farthing_journal_synced_records").set(driver.journal().synced().value() as f64);
}

/// What the lane is doing now.
#[allow(clippy::cast_precision_loss, reason = "a gauge is approximate beyond 2^53")]
pub(crate) fn set_lane_gauges(stats: broker::Stats) {
    metrics::gauge!("farthing_connections").set(stats.connections_open as f64);
    metrics::counter!("farthing_connections_accepted_total").absolute(stats.connections_accepted);
    metrics::counter!("farthing_connections_refused_total").absolute(stats.connections_refused);
    metrics::counter!("farthing_handshakes_failed_total").absolute(stats.handshakes_failed);
    metrics::counter!("farthing_publishes_put_off_total").absolute(stats.publishes_put_off);
    metrics::counter!("farthing_promises_total").absolute(stats.pubacks_out);
    metrics::counter!("farthing_deliveries_total").absolute(stats.deliveries_out);
}
