//! Status, pause and resume.

use std::sync::atomic::Ordering::Relaxed;

use axum::{Extension, extract::State, http::StatusCode};
use nudge_protocol::{
    Object,
    admin::{Certificates, Certified, EntityStatus, Paused, ResyncRequest, ResyncStatus, Status},
};
use nudge_runtime::{Problem, auth::admission::Asked, body::Json};

use super::Api;
use crate::{
    resync::agreed::certify,
    subscriber::{Followed, Subscriber},
};

/// Show the status of each followed entity
#[utoipa::path(get, path = "/status", operation_id = "status", tag = "subscriber", responses(
    (status = 200, description = "Status", body = Status),
    (status = 503, description = "The database is busy or unavailable"),
))]
pub(super) async fn status(State(shared): Api) -> Result<axum::Json<Status>, Problem> {
    let paused = *shared.paused.borrow();
    let mut entities = Vec::with_capacity(shared.followed.len());
    for followed in &shared.followed {
        let progress = &followed.progress;
        let counts = followed.dead_letters.counts().await?;
        let resync = match &followed.ledger {
            Some(ledger) => Some(ledger.read().await?.status),
            None => None,
        };
        entities.push(EntityStatus {
            entity: followed.entity.clone(),
            applied: followed.waiters.count().await?,
            lag_seconds: Some(progress.last_lag_micros.load(Relaxed) as f64 / 1e6),
            queued: progress.queued.get(),
            processing: progress.processing.get(),
            retrying: progress.retrying.get(),
            parked: counts.parked,
            dead_letters: counts.dead_letters,
            breaker: Some(followed.owner.breaker().state()),
            paused,
            last_progress: progress.last_progress.get(),
            connected: Some(shared.is_connected(followed)),
            broker_connected: Some(shared.source.is_connected()),
            caught_up: progress.caught_up.load(Relaxed),
            catching_up: match progress.caught_up.load(Relaxed) {
                true => None,
                false => progress.catch_up.so_far(),
            },
            stream_pending: Some(progress.stream_pending.get()),
            position: progress.position.load(Relaxed),
            malformed: progress.malformed.get(),
            callbacks: progress.callbacks.get(),
            last_error: progress.last_error(),
            resync,
        });
    }
    let ready = Subscriber { shared: shared.clone() }.is_ready();
    let service = shared.service.clone();
    Ok(axum::Json(Status { service, ready, paused, entities }))
}

/// Pause intake and work of this replica
#[utoipa::path(post, path = "/pause", operation_id = "pause", tag = "subscriber", responses(
    (status = 200, description = "Paused", body = Paused),
))]
pub(super) async fn pause(State(shared): Api) -> axum::Json<Paused> {
    shared.paused.send_replace(true);
    axum::Json(Paused { paused: true })
}

/// Resume intake and work of this replica
#[utoipa::path(post, path = "/resume", operation_id = "resume", tag = "subscriber", responses(
    (status = 200, description = "Running", body = Paused),
))]
pub(super) async fn resume(State(shared): Api) -> axum::Json<Paused> {
    shared.paused.send_replace(false);
    axum::Json(Paused { paused: false })
}

/// Compare with the owner now
///
/// Compares every entity again, from the beginning. `status` shows how far it is.
#[utoipa::path(post, path = "/resync", operation_id = "resync", tag = "subscriber",
request_body = ResyncRequest, responses(
    (status = 202, description = "It begins", body = ResyncStatus),
    (status = 404, description = "This service does not follow the entity"),
    (status = 409, description = "This service is not compared with its owner: it is switched off"),
    (status = 503, description = "The database is busy or unavailable"),
))]
pub(super) async fn resync(
    State(shared): Api,
    Json(Object(request)): Json<Object<ResyncRequest>>,
) -> Result<(StatusCode, Extension<Asked>, axum::Json<ResyncStatus>), Problem> {
    let followed = &shared.followed[shared.place_of(request.entity.as_str())?];
    let Some(ledger) = &followed.ledger else {
        let detail = format!("{} is not compared with its owner", request.entity);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let ResyncRequest { entity, full, allow_removals } = request;
    ledger.ask(full, allow_removals).await?;
    let asked = Asked(format!("entity={entity} full={full} allow_removals={allow_removals}"));
    Ok((StatusCode::ACCEPTED, Extension(asked), axum::Json(ledger.read().await?.status)))
}

/// Certify that this service equals its owners
///
/// For each followed entity, a certificate of the last complete comparison, if it found both sides equal: what they have,
/// its digest, and what was in flight. `scripts/check-certificate` recomputes it from the two databases.
#[utoipa::path(get, path = "/certificates", operation_id = "certificates", tag = "subscriber", responses(
    (status = 200, description = "A certificate for each entity, or why there is none", body = Certificates),
    (status = 503, description = "The database is busy or unavailable"),
))]
pub(super) async fn certificates(State(shared): Api) -> Result<axum::Json<Certificates>, Problem> {
    let mut certificates = Vec::with_capacity(shared.followed.len());
    for Followed { entity, owner, ledger, tombstones, .. } in &shared.followed {
        let entity = entity.clone();
        certificates.push(match ledger {
            Some(ledger) => {
                let names = (shared.service.clone(), entity, owner.client.address());
                certify(ledger.read().await?.status, names, *tombstones)
            }
            None => {
                let why_not = Some("comparing is switched off".to_owned());
                Certified { entity, certificate: None, why_not }
            }
        });
    }
    Ok(axum::Json(Certificates { certificates }))
}
