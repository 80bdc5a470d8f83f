//! The subscriber: the service `charging-map`, which finds stations by area.
//!
//! | module | what it contains |
//! |---|---|
//! | [`area`] | areas, and the cells of the grid that the index is over. Pure |
//! | [`find`] | the query |
//! | [`http`] | the endpoint |

pub mod area;
pub mod find;
pub mod http;

use nudge_subscriber_kit::{Mirror, Service};
use serde::{Deserialize, Serialize};
use utoipa::OpenApi;

use crate::STATION;

/// What this service reads of a station. Connectors and states are any text here, so that the owner may add
/// some.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StationState {
    /// What people call it.
    pub name: String,
    /// Who runs it.
    pub operator: String,
    /// In degrees, north positive.
    pub latitude: f64,
    /// In degrees, east positive, less than 180.
    pub longitude: f64,
    /// Its chargers.
    pub chargers: Vec<Charger>,
}

/// What this service reads of a charger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Charger {
    /// Its type of connector.
    pub connector: String,
    /// In kW.
    pub power_kw: f64,
    /// What it is doing; `available` if it is free.
    pub state: String,
}

/// The table of stations, with an index by cell of the grid.
pub fn mirror() -> Mirror<StationState> {
    Mirror::table("station")
        .version("version")
        .column("cell", |station: &StationState| area::cell(station.latitude, station.longitude))
        .index(&["cell", "id"])
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nudge: charging-map",
        description = "Finds charging stations by area. What this service knows of stations is its own copy, \
            which follows charging-stations. A request that carries the `Nudge-Token` of a write waits until \
            that write is applied here.",
    ),
    tags((name = "map", description = "Stations on a map")),
    servers((url = "http://127.0.0.1:7111", description = "By default")),
)]
struct About;

/// The service.
pub fn service() -> Service {
    Service::new("charging-map")
        .about("Finds charging stations by area", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:7111")
        .follow(STATION, "http://127.0.0.1:7110", mirror())
        .document_head(About::openapi())
        .routes(http::routes(), |at| at.database.clone())
}

#[cfg(test)]
mod tests {
    use nudge_runtime::openapi::{outdated, stray_paths};

    use super::*;

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        assert_eq!(outdated("charging-map", &service().document()), None);
    }

    #[test]
    fn every_route_is_in_the_document() {
        let stray = stray_paths(http::routes());
        assert!(stray.is_empty(), "{stray:?}");
    }
}
