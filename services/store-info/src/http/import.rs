//! `/stores/import`.

use axum::{
    body::{Body, BodyDataStream},
    extract::State,
    http::{HeaderMap, StatusCode},
};
use futures_util::StreamExt;
use nudge_runtime::{Problem, body::require_content_type};

use super::App;
use crate::import::{Import, Report};

/// Import stores, one per line
///
/// NDJSON: a store with its `id` on each line, at most 1 MiB long; each is written as by `PUT`. There may
/// be any number of lines, since the body is processed as it arrives. Invalid lines are listed in the answer and do not stop the rest. What was committed
/// stays if the import is interrupted.
#[utoipa::path(post, path = "/stores/import", operation_id = "importStores", tag = "stores",
request_body(content = String, content_type = "application/x-ndjson"), responses(
    (status = 200, description = "The whole body was processed", body = Report),
    (status = 400, description = "The body was incomplete; what was committed stays"),
    (status = 503, description = "The database is not available; what was committed stays"),
))]
pub async fn import(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<axum::Json<Report>, Problem> {
    require_content_type(&headers, &["application/x-ndjson"])?;
    run(Import::new(app.stores), body.into_data_stream()).await.map(axum::Json)
}

async fn run(mut import: Import, mut body: BodyDataStream) -> Result<Report, Problem> {
    while let Some(chunk) = body.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            // The sender went away: the unfinished batch is not written.
            Err(error) => {
                tracing::info!(%error, "an import was interrupted");
                let problem = Problem::field("body", "could not be read completely");
                return Err(broken_off(
                    problem.with_status(StatusCode::BAD_REQUEST),
                    import.report(),
                ));
            }
        };
        if let Err(error) = import.feed(&chunk).await {
            return Err(broken_off(error.into(), import.report()));
        }
    }
    import.finish().await.map_err(|(report, error)| broken_off(error.into(), &report))
}

/// Reports how far an unfinished import got.
fn broken_off(problem: Problem, report: &Report) -> Problem {
    problem
        .with("created", report.created)
        .with("updated", report.updated)
        .with("unchanged", report.unchanged)
        .with("rejected_total", report.rejected_total)
}
