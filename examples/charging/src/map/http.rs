//! The endpoint of the map: parameters in, JSON out.

use axum::{Json as Answer, extract::State, http::StatusCode};
use nudge_protocol::EntityId;
use nudge_runtime::{Database, Problem, body::Query, paging::PageSize, problem::FieldError};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    area::Area,
    find::{Chargers, Found, Place, Question, find},
};

/// Stations per page.
const PAGE: PageSize = PageSize { default: 50, max: 200 };
/// Longest name of a connector, in characters.
const MAX_CONNECTOR_CHARS: usize = 20;
/// Highest power that can be asked for, in kW.
const MAX_POWER_KW: f64 = 10_000.0;

/// The service's own routes. Their state is the database of the read model.
pub fn routes() -> OpenApiRouter<Database> {
    OpenApiRouter::default().routes(routes!(find_stations))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Parameters {
    /// The southern edge, in degrees.
    #[param(minimum = -90, maximum = 90, example = 37.54)]
    south: f64,
    /// The western edge, in degrees.
    #[param(minimum = -180, maximum = 180, example = 126.95)]
    west: f64,
    /// The northern edge, in degrees: at most 1 more than `south`.
    #[param(minimum = -90, maximum = 90, example = 37.59)]
    north: f64,
    /// The eastern edge, in degrees: at most 1 east of `west`. An area whose `east` is less than its `west`
    /// lies across the antimeridian.
    #[param(minimum = -180, maximum = 180, example = 127.02)]
    east: f64,
    /// Only chargers with this type of connector, such as `ccs2`.
    #[param(
        min_length = 1,
        max_length = 20,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        nullable = false
    )]
    connector: Option<String>,
    /// Only chargers with this power or more, in kW.
    #[param(minimum = 0, maximum = 10_000, nullable = false)]
    min_power_kw: Option<f64>,
    /// Whether only stations are found at which one of these chargers is free.
    #[serde(default)]
    #[param(default = false)]
    available: bool,
    /// Most stations of the page.
    #[param(minimum = 1, maximum = 200, default = 50, nullable = false)]
    limit: Option<usize>,
    /// The `next` of the previous page.
    #[param(
        nullable = false,
        pattern = "^[0-9]{1,8}:[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        max_length = 209
    )]
    after: Option<String>,
}

impl Parameters {
    /// The question, or everything that is wrong with it.
    fn checked(self) -> Result<Question, Problem> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, detail: String| {
            faults.push(FieldError { field: field.to_owned(), detail });
        };
        let area = Area::new(self.south, self.west, self.north, self.east);
        let area =
            area.map_err(|wrong| wrong.into_iter().for_each(|(name, detail)| fault(name, detail)));
        let fits = |name: &String| {
            (1..=MAX_CONNECTOR_CHARS).contains(&name.chars().count())
                && !name.contains(char::is_control)
        };
        if self.connector.as_ref().is_some_and(|name| !fits(name)) {
            let detail = format!(
                "must have 1 to {MAX_CONNECTOR_CHARS} characters, none of them a control character"
            );
            fault("connector", detail);
        }
        if self.min_power_kw.is_some_and(|power| !(0.0..=MAX_POWER_KW).contains(&power)) {
            fault("min_power_kw", format!("must be from 0 to {MAX_POWER_KW}"));
        }
        let limit = PAGE.rows(self.limit).map_err(|error| fault("limit", error.to_string()));
        let after: Option<Result<Place, _>> = self.after.map(|text| text.parse());
        let after = after.transpose().map_err(|_| {
            fault("after", "must be the `next` of another page".to_owned());
        });
        let chargers = Chargers {
            connector: self.connector,
            min_power_kw: self.min_power_kw,
            available: self.available,
        };
        match (area, limit, after) {
            (Ok(area), Ok(limit), Ok(after)) if faults.is_empty() => {
                Ok(Question { area, chargers, limit, after })
            }
            _ => Err(Problem::fields(faults).with_status(StatusCode::BAD_REQUEST)),
        }
    }
}

/// A page of stations.
#[derive(Debug, Serialize, ToSchema)]
struct Stations {
    /// The IDs of the stations found.
    ids: Vec<EntityId>,
    /// The same stations, as this service knows them.
    items: Vec<Found>,
    /// Pass as `after` for the next page; null on the last page.
    #[schema(required)]
    next: Option<String>,
}

/// Find stations in an area
///
/// From south to north and, within about 5 km, from west to east: near stations are near each other in the
/// list. With `connector`, `min_power_kw` or `available`, only stations are found with a charger that is
/// all of what was asked for.
#[utoipa::path(
    get, path = "/stations", operation_id = "findStations", tag = "map", params(Parameters),
    responses((status = 200, description = "A page of stations", body = Stations)),
)]
async fn find_stations(
    State(db): State<Database>,
    Query(parameters): Query<Parameters>,
) -> Result<Answer<Stations>, Problem> {
    let (items, next) = find(&db, &parameters.checked()?).await?;
    let ids = items.iter().map(|item| item.id.clone()).collect();
    Ok(Answer(Stations { ids, items, next: next.map(|place| place.to_string()) }))
}
