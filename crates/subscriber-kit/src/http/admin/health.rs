//! Health and metrics.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nudge_protocol::admin::{BreakerState, Liveness, Readiness};
use nudge_runtime::{Problem, metrics::answer};

use super::Api;
use crate::{subscriber::Subscriber, telemetry::progress::Progress};

/// Check that the process runs
///
/// Checks nothing else: a restart would fix neither the database nor the broker.
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "operations", responses(
    (status = 200, description = "It runs", body = Liveness),
))]
pub(super) async fn livez() -> axum::Json<Liveness> {
    axum::Json(Liveness { live: true })
}

/// Check that the read model can be read
///
/// Ready once the database answers and every followed entity has caught up for the first time; if the service was
/// started with `READY_WHEN_EQUAL`, once every followed entity was also found equal to its owner. An outage of NATS or
/// of an owner leaves it ready. An optional entity is not waited for while nobody owns it yet. It is no longer ready once
/// one of its tasks has panicked: only a restart brings that back.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "operations", responses(
    (status = 200, description = "Ready", body = Readiness),
    (status = 503, description = "Not ready", body = Readiness),
))]
pub(super) async fn readyz(State(shared): Api) -> Response {
    let subscriber = Subscriber { shared };
    let shared = &subscriber.shared;
    // One read shows whether the database answers.
    let database = sqlx::query("SELECT 1").execute(shared.db.reader());
    let database = shared.db.run(database).await.is_ok();
    let names = |which: fn(&Progress) -> bool| {
        let those = shared.followed.iter().filter(|one| which(&one.progress));
        those.map(|followed| followed.entity.clone()).collect()
    };
    let catching_up = names(Progress::is_awaited);
    let comparing = match shared.ready_when_equal {
        true => names(Progress::is_unequal),
        false => Vec::new(),
    };
    let dead_tasks =
        shared.followed.iter().flat_map(|one| one.progress.dead_tasks.named(&one.entity)).collect();
    let ready = database && subscriber.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(Readiness { ready, database, catching_up, comparing, dead_tasks }))
        .into_response()
}

/// Metrics, for Prometheus
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "operations", responses(
    (status = 200, description = "OpenMetrics text", body = String,
     content_type = "application/openmetrics-text"),
))]
pub(super) async fn metrics(State(shared): Api) -> Result<Response, Problem> {
    for followed in &shared.followed {
        let open = followed.owner.breaker().state() != BreakerState::Closed;
        followed.progress.breaker_open.set(i64::from(open));
        shared.is_connected(followed);
    }
    answer(&shared.registry.lock())
}
