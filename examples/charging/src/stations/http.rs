//! The endpoints of the owner. They translate HTTP and decide nothing.

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::{EntityId, Object, Version};
use nudge_publisher::conditional::{
    IfMatch, IfNoneMatch, etag, if_match, read_answer, write_headers,
};
use nudge_runtime::{
    Problem,
    body::Json,
    path::{PathId, PathIds},
};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Absence, Failure, Stations, Written};
use crate::station::{ChargerState, Edit, Station};

/// The service's own routes.
pub(super) fn routes() -> OpenApiRouter<Stations> {
    OpenApiRouter::default().routes(routes!(read, put, remove)).routes(routes!(put_charger))
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let detail = failure.to_string();
        match failure {
            Failure::Database(error) => error.into(),
            Failure::Absent(Absence::Deleted) => Self::new(StatusCode::GONE, detail),
            Failure::Absent(Absence::Unknown) | Failure::NoCharger => {
                Self::new(StatusCode::NOT_FOUND, detail)
            }
            Failure::Stale(current) => {
                let problem = Self::field("If-Match", detail);
                let problem = problem.with_status(StatusCode::PRECONDITION_FAILED);
                match current {
                    None => problem,
                    Some(version) => problem.with_header(header::ETAG, etag(version)),
                }
            }
        }
    }
}

/// Read a station
#[utoipa::path(
    get, path = "/stations/{id}", operation_id = "readStation", tag = "stations",
    params(("id" = EntityId, Path, description = "The station"), IfNoneMatch),
    responses(
        (status = 200, description = "The station", body = Station, headers(
            ("ETag" = String, description = "Its version"),
        )),
        (status = 304, description = "It still has the version that the request named"),
        (status = 404, description = "No such station"),
        (status = 410, description = "It was deleted"),
    ),
)]
async fn read(
    State(stations): State<Stations>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (station, version) = stations.get(&id).await?;
    Ok(read_answer(&headers, version, station))
}

/// Write a station
///
/// Replaces all of it, the states of its chargers included. Sending the same station again changes nothing
/// and keeps the version.
#[utoipa::path(
    put, path = "/stations/{id}", operation_id = "writeStation", tag = "stations",
    params(("id" = EntityId, Path, description = "The station"), IfMatch), request_body = Station,
    responses(
        (status = 200, description = "The station as it is now", body = Station, headers(
            ("ETag" = String, description = "Its version"),
            ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
        )),
        (status = 201, description = "It did not exist before", body = Station, headers(
            ("ETag" = String, description = "Its version"),
            ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
        )),
        (status = 412, description = "The station does not have a version that the request requires"),
    ),
)]
async fn put(
    State(stations): State<Stations>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
    Json(Object(station)): Json<Object<Station>>,
) -> Result<Response, Problem> {
    let faults = station.faults();
    if !faults.is_empty() {
        return Err(Problem::fields(faults));
    }
    edit(&stations, &id, &Edit::Put(station), &headers).await
}

/// Delete a station
#[utoipa::path(
    delete, path = "/stations/{id}", operation_id = "deleteStation", tag = "stations",
    params(("id" = EntityId, Path, description = "The station"), IfMatch),
    responses(
        (status = 204, description = "Deleted", headers(
            ("ETag" = String, description = "The tombstone's version"),
            ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
        )),
        (status = 404, description = "No such station"),
        (status = 410, description = "It was deleted already"),
        (status = 412, description = "The station does not have a version that the request requires"),
    ),
)]
async fn remove(
    State(stations): State<Stations>,
    PathId(id): PathId<EntityId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    edit(&stations, &id, &Edit::Delete, &headers).await
}

/// What a charger says of itself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChargerReport {
    state: ChargerState,
}

/// Report what a charger is doing
///
/// Nothing else of the station changes. The same state again changes nothing and keeps the version.
#[utoipa::path(
    put, path = "/stations/{id}/chargers/{charger}", operation_id = "reportCharger", tag = "stations",
    params(
        ("id" = EntityId, Path, description = "The station"),
        ("charger" = EntityId, Path, description = "One of its chargers"),
        IfMatch,
    ),
    request_body = ChargerReport,
    responses(
        (status = 200, description = "The station as it is now", body = Station, headers(
            ("ETag" = String, description = "Its version"),
            ("Nudge-Token" = String, description = "Identifies this write, for later reads"),
        )),
        (status = 404, description = "No such station, or it has no such charger"),
        (status = 410, description = "The station was deleted"),
        (status = 412, description = "The station does not have a version that the request requires"),
    ),
)]
async fn put_charger(
    State(stations): State<Stations>,
    PathIds(id, charger): PathIds<EntityId, EntityId>,
    headers: HeaderMap,
    Json(Object(report)): Json<Object<ChargerReport>>,
) -> Result<Response, Problem> {
    edit(&stations, &id, &Edit::Charger(charger, report.state), &headers).await
}

async fn edit(
    stations: &Stations,
    id: &EntityId,
    edit: &Edit,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let wanted = if_match(headers);
    let allowed = |current: Option<Version>| wanted.as_ref().is_none_or(|w| w.matches(current));
    let Written { created, token, station } = stations.edit(id, edit, allowed).await?;
    let headers = write_headers(&token);
    Ok(match station {
        None => (StatusCode::NO_CONTENT, headers).into_response(),
        Some(station) => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            (status, headers, Answer(station)).into_response()
        }
    })
}
