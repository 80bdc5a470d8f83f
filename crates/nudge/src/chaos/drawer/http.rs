//! The routes of the drawer, which the console has only if there is one. Like all of the console's, they are refused to
//! other sites' pages.

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    routing::{get, post},
};
use nudge_runtime::{
    Problem,
    body::{MAX_BODY_BYTES, read_body, require_content_type},
};
use serde::{Deserialize, Serialize};

use super::{Drawer, Fault, Shown};

/// Where everything that is broken is listed, and healed by `DELETE`.
pub(crate) const PATH: &str = "/api/chaos";

/// What healing everything is answered.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Healed {
    /// How many things were broken.
    pub(crate) healed: usize,
}

/// All routes.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(drawer: Drawer) -> Router<S> {
    Router::new()
        .route(PATH, get(shown).delete(heal))
        .route("/api/chaos/{kind}", post(begin))
        .with_state(drawer)
}

async fn shown(State(drawer): State<Drawer>) -> Json<Shown> {
    Json(drawer.shown())
}

async fn heal(State(drawer): State<Drawer>) -> Json<Healed> {
    Json(Healed { healed: drawer.heal() })
}

async fn begin(
    State(drawer): State<Drawer>,
    Path(kind): Path<String>,
    request: Request,
) -> Result<Json<Shown>, Problem> {
    require_content_type(request.headers(), &["application/json"])?;
    let bytes = read_body(request.into_body(), MAX_BODY_BYTES).await?;
    drawer.begin(&Fault::read(&kind, &bytes)?).await?;
    Ok(Json(drawer.shown()))
}
