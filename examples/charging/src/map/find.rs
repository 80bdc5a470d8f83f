//! From a question to a page of stations.
//!
//! Each strip of the area is one range of the index by cell and ID, read until the page is full. So a page costs the
//! strips that it passes, however many stations lie in the rest of the area or on the same latitudes.

use std::{fmt, str::FromStr, sync::Arc};

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{Database, Tx, database::Kind, paging::cut, row};
use serde::Serialize;
use sqlx::AssertSqlSafe;
use utoipa::ToSchema;

use super::{
    Charger,
    area::{Area, Strip},
};

/// The state of a free charger.
const FREE: &str = "available";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where.
    pub area: Area,
    /// Which chargers count. A station is found if one does.
    pub chargers: Chargers,
    /// Most stations of the page.
    pub limit: usize,
    /// Where the page begins.
    pub after: Option<Place>,
}

/// Which chargers are asked for. By default all, and then also stations without any are found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chargers {
    /// Only with this type of connector.
    pub connector: Option<String>,
    /// Only with this power or more, in kW.
    pub min_power_kw: Option<f64>,
    /// Whether only stations are found at which one of them is free.
    pub available: bool,
}

/// A place in the order of all stations: by cell, and then by ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    cell: i64,
    id: EntityId,
}

/// Why a text is not a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPlace;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.cell, self.id)
    }
}

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let (cell, id) = text.split_once(':').ok_or(InvalidPlace)?;
        let cell = cell.parse().map_err(|_| InvalidPlace)?;
        Ok(Self { cell, id: EntityId::new(id).map_err(|_| InvalidPlace)? })
    }
}

/// A station that was found.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = MapStation)]
pub struct Found {
    /// Its ID.
    pub id: EntityId,
    /// What people call it.
    pub name: String,
    /// Who runs it.
    pub operator: String,
    /// In degrees, north positive.
    pub latitude: f64,
    /// In degrees, east positive.
    pub longitude: f64,
    /// How many of its chargers were asked for.
    pub chargers: usize,
    /// How many of those are free.
    pub free: usize,
    /// The owner's version of this state.
    pub version: Version,
}

row! {
    struct Row {
        id: String,
        name: String,
        operator: String,
        latitude: f64,
        longitude: f64,
        chargers: String,
        version: i64,
        cell: i64,
    }
}

/// Finds one page of stations and where the next begins, all from one snapshot.
///
/// # Errors
/// If the database fails.
pub async fn find(
    db: &Database,
    question: &Question,
) -> Result<(Vec<Found>, Option<Place>), sqlx::Error> {
    let sql: Arc<str> = statement(db.kind(), &question.chargers).into();
    let look = || async {
        let mut tx = db.snapshot().await?;
        let mut rows = Vec::new();
        for strip in question.area.strips() {
            // One more than the page holds shows that there is a next one.
            let missing = question.limit + 1 - rows.len();
            if missing == 0 {
                break;
            }
            rows.extend(find_in(&mut tx, &sql, &strip, question, missing).await?);
        }
        Ok::<_, sqlx::Error>(rows)
    };
    let mut rows: Vec<Row> = db.run_afresh(look).await?;
    let next = cut(&mut rows, question.limit, |last| {
        Ok::<_, sqlx::Error>(Place { cell: last.cell, id: id(&last.id)? })
    });
    let found = rows.into_iter().map(|row| found(row, &question.chargers));
    Ok((found.collect::<Result<_, _>>()?, next.transpose()?))
}

async fn find_in(
    tx: &mut Tx,
    sql: &Arc<str>,
    strip: &Strip,
    question: &Question,
    limit: usize,
) -> Result<Vec<Row>, sqlx::Error> {
    let (first, last) = strip.cells.clone().into_inner();
    let (cell, id) = match &question.after {
        Some(place) if place.cell > last => return Ok(Vec::new()),
        Some(place) if place.cell >= first => (place.cell, place.id.as_str()),
        // No ID is empty, so this is before all of the strip.
        _ => (first, ""),
    };
    let (latitudes, longitudes) = (question.area.latitudes(), &strip.longitudes);
    let mut query = sqlx::query_as(AssertSqlSafe(sql.clone()))
        .bind(cell)
        .bind(id.to_owned())
        .bind(last)
        .bind(*latitudes.start())
        .bind(*latitudes.end())
        .bind(*longitudes.start())
        .bind(*longitudes.end())
        .bind(limit as i64);
    let Chargers { connector, min_power_kw, .. } = &question.chargers;
    if question.chargers != Chargers::default() {
        query = query.bind(connector.clone().unwrap_or_default()).bind(min_power_kw.unwrap_or(0.0));
    }
    query.fetch_all(&mut **tx).await
}

/// The statement for one strip. Its chargers are looked at only if not all of them are asked for.
pub fn statement(kind: Kind, chargers: &Chargers) -> String {
    let elements = match kind {
        Kind::Sqlite => "json_each(chargers) AS charger",
        Kind::Postgres => "json_array_elements(chargers::json) AS charger(value)",
    };
    let free = match chargers.available {
        true => format!(" AND charger.value ->> 'state' = '{FREE}'"),
        false => String::new(),
    };
    let wanted = match *chargers == Chargers::default() {
        true => String::new(),
        false => format!(
            " AND EXISTS (SELECT 1 FROM {elements} WHERE ($9 = '' OR charger.value ->> 'connector' = $9) \
             AND CAST(charger.value ->> 'power_kw' AS DOUBLE PRECISION) >= $10{free})"
        ),
    };
    // It takes the pairs alone for a third of all rows, and would have other processes help to read them.
    let estimated = match kind {
        Kind::Sqlite => "",
        Kind::Postgres => " AND cell >= $1",
    };
    format!(
        "SELECT id, name, operator, latitude, longitude, chargers, version, cell FROM station \
         WHERE (cell, id) > ($1, $2) AND cell <= $3{estimated} AND latitude BETWEEN $4 AND $5 \
         AND longitude BETWEEN $6 AND $7{wanted} ORDER BY cell, id LIMIT $8"
    )
}

fn found(row: Row, wanted: &Chargers) -> Result<Found, sqlx::Error> {
    let decode = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
    let chargers: Vec<Charger> =
        serde_json::from_str(&row.chargers).map_err(|error| decode(error.into()))?;
    let meant = |charger: &&Charger| {
        let connector = wanted.connector.as_ref();
        connector.is_none_or(|connector| charger.connector == *connector)
            && wanted.min_power_kw.is_none_or(|power| charger.power_kw >= power)
    };
    let meant: Vec<_> = chargers.iter().filter(meant).collect();
    Ok(Found {
        id: id(&row.id)?,
        name: row.name,
        operator: row.operator,
        latitude: row.latitude,
        longitude: row.longitude,
        chargers: meant.len(),
        free: meant.iter().filter(|charger| charger.state == FREE).count(),
        version: Version::try_from(row.version).map_err(|error| decode(error.into()))?,
    })
}

fn id(text: &str) -> Result<EntityId, sqlx::Error> {
    EntityId::new(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_text_form_and_nothing_else_is_one() {
        for id in ["1", "a:b", "강남 1호점"] {
            let place = Place { cell: 18_000_000, id: EntityId::new(id).unwrap() };
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for text in ["", ":", "1", "1:", "x:1", "1.5:1", "1:a\u{0}"] {
            assert_eq!(text.parse::<Place>(), Err(InvalidPlace), "{text:?}");
        }
    }
}
