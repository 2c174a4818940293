//! `GET /healthz` and `GET /metrics`, for this machine.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use broker::BrokerHandle;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::health::Probe;
use crate::telemetry;

struct Pages {
    probe: Probe,
    metrics: PrometheusHandle,
    broker: BrokerHandle,
}

/// Serves until it is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    probe: Probe,
    metrics: PrometheusHandle,
    broker: BrokerHandle,
) -> io::Result<()> {
    let pages = Arc::new(Pages { probe, metrics, broker });
    let router = Router::new().route("/healthz", get(healthz)).route("/metrics", get(show_metrics));
    axum::serve(listener, router.with_state(pages)).await
}

async fn healthz(State(pages): State<Arc<Pages>>) -> (StatusCode, String) {
    match pages.probe.check().await {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(reason) => {
            tracing::warn!(%reason, "the health check failed");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
        }
    }
}

async fn show_metrics(State(pages): State<Arc<Pages>>) -> String {
    telemetry::set_lane_gauges(pages.broker.stats());
    pages.metrics.render()
}
