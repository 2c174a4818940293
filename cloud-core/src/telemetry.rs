//! Logs and metrics. Tokens, claim secrets and keys reach neither.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::time::Duration;

use cloud_core_flows::Cloud;
use cloud_core_flows::driver::Driver;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use schemas::message::PaymentState;
use schemas::time::Timestamp;
use schemas_journal::{FileDisk, Room};
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
            begin_counters();
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
    describe_counter!(
        "farthing_signatures_proven_total",
        "publishes whose signature was found good before the core had them"
    );
    describe_counter!("farthing_acknowledgements_total", "deliveries acknowledged by their receivers");
    describe_counter!("farthing_refusals_total", "topics and connections that the lane refused, by reason");
    describe_counter!(
        "farthing_publishes_refused_total",
        "PUBACKs that promise nothing, by MQTT reason code"
    );
    describe_counter!("farthing_promises_total", "PUBACKs sent");
    describe_counter!(
        "farthing_publishes_put_off_total",
        "publishes answered 0x97 as their principal had used up its rate"
    );
    describe_counter!("farthing_deliveries_total", "messages sent to their receivers");
    describe_counter!("farthing_feed_events_total", "events of the feed sent to observers");
    describe_counter!("farthing_feed_lost_total", "events of the feed that an observer did not get");
    describe_counter!("farthing_feed_restarts_total", "routers of the feed that died and were built anew");
    describe_counter!("farthing_connections_accepted_total", "MQTT connections accepted");
    describe_counter!("farthing_connections_refused_total", "MQTT connections refused for lack of room");
    describe_counter!(
        "farthing_connections_refused_told_total",
        "of the refused ones, those that were told so by a CONNACK"
    );
    describe_counter!("farthing_handshakes_failed_total", "TLS handshakes that failed");
    describe_counter!("farthing_bank_answers_total", "answers of banks by kind");
    describe_gauge!("farthing_history_records", "records that the index of payments has read");
    describe_counter!(
        "farthing_history_failures_total",
        "times that the index of payments failed; it is built again by itself"
    );
    describe_counter!("farthing_wall_clock_steps_total", "times that the wall clock was set while running");
    describe_gauge!("farthing_connections", "MQTT connections now");
    describe_gauge!("farthing_connections_admitted", "MQTT connections whose credentials were accepted");
    describe_gauge!("farthing_payments_open", "payments not at rest, by state");
    describe_gauge!("farthing_payments_open_oldest_age_seconds", Unit::Seconds, "age of the oldest of them");
    describe_gauge!(
        "farthing_refund_lag_seconds",
        Unit::Seconds,
        "age of the oldest payment whose refund the bank has not confirmed"
    );
    describe_gauge!("farthing_exceptions", "entries in the exceptions queue, by case");
    describe_gauge!("farthing_exceptions_oldest_age_seconds", Unit::Seconds, "age of the oldest of them");
    describe_gauge!("farthing_outbox_messages", "messages owed to principals");
    describe_gauge!(
        "farthing_outbox_oldest_age_seconds",
        Unit::Seconds,
        "for how long the oldest of them is owed, as far as this run has seen"
    );
    describe_gauge!("farthing_journal_records", "records in the journal");
    describe_gauge!("farthing_journal_synced_records", "records in the journal that are durable");
    describe_gauge!(
        "farthing_journal_records_since_snapshot",
        "records that a start replays after the newest snapshot"
    );
    describe_gauge!("farthing_journal_room", "1, or 0 when the disk has no room for the next segment");
    describe_gauge!(
        "farthing_certificate_expires_timestamp_seconds",
        Unit::Seconds,
        "when a certificate of this core ends, as Unix time"
    );
    describe_histogram!("farthing_journal_sync_seconds", Unit::Seconds, "time to make a batch durable");
    describe_histogram!("farthing_batch_inputs", "inputs decided together");
}

/// Counters that an alarm watches are there from the start, at zero.
fn begin_counters() {
    for code in PUBLISH_REFUSALS {
        metrics::counter!("farthing_publishes_refused_total", "reason" => publish_refusal(*code)).absolute(0);
    }
    metrics::counter!("farthing_wall_clock_steps_total").absolute(0);
    metrics::counter!("farthing_history_failures_total").absolute(0);
}

const PUBLISH_REFUSALS: &[u8] = &[0x83, 0x87, 0x97, 0x99];

/// A PUBACK that promises nothing.
pub(crate) fn count_publish_refusal(code: u8) {
    metrics::counter!("farthing_publishes_refused_total", "reason" => publish_refusal(code)).increment(1);
}

fn publish_refusal(code: u8) -> &'static str {
    match code {
        0x83 => "implementation",
        0x87 => "not_authorized",
        0x97 => "quota",
        0x99 => "payload_invalid",
        _ => "other",
    }
}

/// Which certificate, and its last moment in Unix milliseconds.
#[allow(clippy::cast_precision_loss, reason = "seconds fit")]
pub(crate) fn set_certificate_end(certificate: &'static str, not_after_ms: u64) {
    let seconds = (not_after_ms / 1000) as f64;
    metrics::gauge!("farthing_certificate_expires_timestamp_seconds", "certificate" => certificate)
        .set(seconds);
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

/// What a gauge of a queue needs beside the state: messages do not say since when they are owed.
#[derive(Debug, Default)]
pub(crate) struct OutboxWatch {
    /// The last sequence that was given out, and when it was first seen.
    seen: VecDeque<(u64, Timestamp)>,
}

impl OutboxWatch {
    /// More looks than this are thinned out.
    const LOOKS: usize = 4096;

    /// For how long the oldest message is owed, in milliseconds.
    fn look(&mut self, last: u64, oldest: Option<u64>, now: Timestamp) -> u64 {
        if self.seen.back().is_none_or(|(sequence, _)| *sequence < last) {
            self.seen.push_back((last, now));
        }
        // Of the looks before the oldest message none is needed; the first after it says when it was seen.
        while self.seen.len() > 1
            && self.seen.front().is_some_and(|(seen, _)| oldest.is_none_or(|o| *seen < o))
        {
            self.seen.pop_front();
        }
        if self.seen.len() > Self::LOOKS {
            let mut keep = false;
            self.seen.retain(|_| {
                keep = !keep;
                keep
            });
        }
        match (oldest, self.seen.front()) {
            (Some(_), Some((_, at))) => now.ms_since(*at),
            _ => 0,
        }
    }
}

/// What the core is doing now.
#[allow(clippy::cast_precision_loss, reason = "a gauge is approximate beyond 2^53")]
pub(crate) fn set_core_gauges(driver: &Driver<FileDisk>, outbox: &mut OutboxWatch, now: Timestamp) {
    let (cloud, journal) = (driver.cloud(), driver.journal());
    metrics::gauge!("farthing_connections_admitted").set(driver.connections() as f64);
    set_payment_gauges(cloud, now);
    let (counts, oldest) = cloud.exceptions().summary();
    for (case, count) in counts {
        metrics::gauge!("farthing_exceptions", "case" => case.as_str()).set(count as f64);
    }
    set_age("farthing_exceptions_oldest_age_seconds", oldest, now);
    metrics::gauge!("farthing_outbox_messages").set(cloud.outbox().total() as f64);
    let (last, oldest) = cloud.outbox().sequences();
    let owed_for = Duration::from_millis(outbox.look(last, oldest, now));
    metrics::gauge!("farthing_outbox_oldest_age_seconds").set(owed_for.as_secs_f64());
    let records = journal.position().value();
    metrics::gauge!("farthing_journal_records").set(records as f64);
    metrics::gauge!("farthing_journal_synced_records").set(journal.synced().value() as f64);
    let since_snapshot = records.saturating_sub(journal.snapshot().value());
    metrics::gauge!("farthing_journal_records_since_snapshot").set(since_snapshot as f64);
    metrics::gauge!("farthing_journal_room").set(f64::from(u8::from(journal.room() == Room::Ample)));
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is approximate beyond 2^53")]
fn set_payment_gauges(cloud: &Cloud, now: Timestamp) {
    use PaymentState::*;
    let states = [Checking, PendingVerification, Paying, BankUnknown, Delivering, Refunding];
    let mut counts: BTreeMap<PaymentState, usize> = states.into_iter().map(|state| (state, 0)).collect();
    let (mut oldest, mut refunding) = (None::<Timestamp>, None::<Timestamp>);
    for payment in cloud.open() {
        *counts.entry(payment.state()).or_default() += 1;
        let opened = payment.opened_at;
        oldest = Some(oldest.map_or(opened, |at| at.min(opened)));
        if payment.state() == Refunding {
            refunding = Some(refunding.map_or(opened, |at| at.min(opened)));
        }
    }
    for (state, count) in counts {
        metrics::gauge!("farthing_payments_open", "state" => state.to_string()).set(count as f64);
    }
    set_age("farthing_payments_open_oldest_age_seconds", oldest, now);
    set_age("farthing_refund_lag_seconds", refunding, now);
}

fn set_age(name: &'static str, since: Option<Timestamp>, now: Timestamp) {
    let age = Duration::from_millis(since.map_or(0, |since| now.ms_since(since)));
    metrics::gauge!(name).set(age.as_secs_f64());
}

/// What the lane is doing now.
#[allow(clippy::cast_precision_loss, reason = "a gauge is approximate beyond 2^53")]
pub(crate) fn set_lane_gauges(stats: broker::Stats) {
    metrics::gauge!("farthing_connections").set(stats.connections_open as f64);
    metrics::counter!("farthing_connections_accepted_total").absolute(stats.connections_accepted);
    metrics::counter!("farthing_connections_refused_total").absolute(stats.connections_refused);
    metrics::counter!("farthing_connections_refused_told_total").absolute(stats.connections_told);
    metrics::counter!("farthing_handshakes_failed_total").absolute(stats.handshakes_failed);
    metrics::counter!("farthing_publishes_put_off_total").absolute(stats.publishes_put_off);
    metrics::counter!("farthing_promises_total").absolute(stats.pubacks_out);
    metrics::counter!("farthing_deliveries_total").absolute(stats.deliveries_out);
    metrics::counter!("farthing_feed_events_total").absolute(stats.feed_out);
    metrics::counter!("farthing_feed_lost_total").absolute(stats.feed_lost);
    metrics::counter!("farthing_feed_restarts_total").absolute(stats.feed_restarts);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_message_ages_until_it_is_taken_and_the_next_one_has_its_own_age() {
        let mut watch = OutboxWatch::default();
        let mut look = |last, oldest, at| watch.look(last, oldest, Timestamp(at));
        assert_eq!(look(0, None, 0), 0);
        assert_eq!(look(1, Some(1), 1_000), 0);
        assert_eq!(look(1, Some(1), 5_000), 4_000);
        assert_eq!(look(3, Some(1), 6_000), 5_000);
        assert_eq!(look(3, Some(2), 7_000), 1_000, "the second and third were first seen at 6 s");
        assert_eq!(look(3, None, 8_000), 0);
        assert_eq!(look(4, Some(4), 9_000), 0);
        for number in 0..20_000 {
            look(5 + number, Some(4), 10_000 + number);
        }
        assert_eq!(look(20_005, Some(4), 40_000), 31_000, "however many follow");
        assert!(watch.seen.len() <= OutboxWatch::LOOKS);
    }
}
