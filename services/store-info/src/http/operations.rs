//! Routes for operators and their tools.

use std::time::Duration;

use axum::{extract::State, http::StatusCode, response::Response};
use nudge_runtime::Problem;

use super::App;

/// How long the database may take to answer before the service counts as not ready.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Check that the process runs
#[utoipa::path(get, path = "/livez", tag = "operations", responses(
    (status = 200, description = "It runs", body = String),
))]
pub async fn livez() -> &'static str {
    "live\n"
}

/// Check that it can serve requests
///
/// An outage of NATS leaves it ready: writes are stored, and published when NATS is back.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, description = "The database answers", body = String),
    (status = 503, description = "The database does not answer, or the service is stopping"),
))]
pub async fn readyz(State(app): State<App>) -> Result<&'static str, Problem> {
    let unready = |why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    if app.stop.is_cancelled() {
        return Err(unready("the service is stopping"));
    }
    match tokio::time::timeout(PING_TIMEOUT, app.stores.ping()).await {
        Ok(Ok(())) => Ok("ready\n"),
        _ => Err(unready("the database does not answer")),
    }
}

/// Metrics, for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, description = "OpenMetrics text", body = String,
     content_type = "application/openmetrics-text"),
))]
pub async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    nudge_runtime::metrics::answer(&app.registry)
}
