//! The owner of stations: the service `charging-stations`.
//!
//! A station and its chargers are one JSON document in one row, since this service only ever reads and
//! writes them as a whole. A write and its row in the change log are committed together; then the relay is
//! woken.

mod http;

use nudge_protocol::{Change, EntityId, EntityName, Version, WriteToken, sync_api::State};
use nudge_publisher::{Owner, Publisher, sync_api};
use nudge_runtime::{
    BoxError, Database, Tx,
    database::{Kind, Migration, WorkError},
    set_sql::strings,
};
use nudge_subscriber_kit::{Service, Started, openapi::waits};
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, query, query_as};
use utoipa::{OpenApi, ToSchema, openapi};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    STATION,
    station::{Edit, Refusal, Station},
};

const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "stations",
    sqlite: "CREATE TABLE station (id TEXT PRIMARY KEY NOT NULL, state TEXT NOT NULL);",
    postgres: "CREATE TABLE station (id TEXT COLLATE \"C\" PRIMARY KEY NOT NULL, state TEXT NOT NULL);",
}];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nudge: charging-stations",
        description = "The owner of charging stations. Every write answers with the station's version in \
            `ETag`, and with a `Nudge-Token` that readers may wait for.",
    ),
    tags((name = "stations", description = "Stations and their chargers")),
    servers((url = "http://127.0.0.1:7110", description = "By default")),
)]
struct About;

/// The service.
pub fn service() -> Service {
    let mut own = http::routes().into_openapi();
    waits(&mut own);
    Service::new("charging-stations")
        .about("The owner of charging stations", env!("CARGO_PKG_VERSION"))
        .listen("127.0.0.1:7110")
        .keeps("charging-stations", MIGRATIONS)
        .owns(STATION)
        .document_head(head())
        .part([own, sync_api::openapi(&entity())], owner)
}

/// The head of `api/charging-stations.openapi.json`.
fn head() -> openapi::OpenApi {
    let mut head = About::openapi();
    let schemas = &mut head.components.get_or_insert_default().schemas;
    // The sync API's `State` is a station here.
    let station = openapi::Ref::from_schema_name(Station::name());
    schemas.insert(State::name().into(), station.into());
    head
}

fn entity() -> EntityName {
    EntityName::new(STATION).expect("a constant that follows the rules")
}

/// Publishes and serves stations: the service's own routes and those of an owner.
async fn owner(at: Started) -> Result<OpenApiRouter, BoxError> {
    let publisher = Publisher::open(&at.database, entity()).await?;
    let publisher = publisher.traces(&at.traces).budget(at.callback_budget);
    at.subscriber.with_registry(|registry| publisher.register_metrics(registry));
    let relay = publisher.spawn_relay(&at.broker, at.stop.clone());
    at.spawn(async { drop(relay.await) });
    let stations = Stations { db: at.database.clone(), publisher: publisher.clone() };
    let own = at.subscriber.wait_layer(http::routes().with_state(stations.clone()));
    Ok(own.merge(publisher.openapi_router(stations)))
}

/// Why there is no station of an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Absence {
    #[error("there is no such station")]
    Unknown,
    #[error("the station was deleted")]
    Deleted,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Absent(Absence),
    #[error("the station has no such charger")]
    NoCharger,
    /// The station's version, if it exists, is not one that the caller requires.
    #[error("the station does not have this version")]
    Stale(Option<Version>),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl WorkError for Failure {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

/// What a write did.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// Whether the station did not exist before.
    pub(crate) created: bool,
    /// Identifies the write. If nothing changed, its version is the one from before.
    pub(crate) token: WriteToken,
    /// The station now.
    pub(crate) station: Option<Station>,
}

/// The stations of this service. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Stations {
    db: Database,
    publisher: Publisher,
}

impl Stations {
    /// Carries out an edit, provided that `allowed` accepts the version of the existing station, if any. An
    /// edit that changes nothing keeps the version.
    pub(crate) async fn edit(
        &self,
        id: &EntityId,
        edit: &Edit,
        allowed: impl Fn(Option<Version>) -> bool + Send + Sync,
    ) -> Result<Written, Failure> {
        self.db.run_afresh(|| self.edit_once(id, edit, &allowed)).await
    }

    async fn edit_once(
        &self,
        id: &EntityId,
        edit: &Edit,
        allowed: &(impl Fn(Option<Version>) -> bool + Send + Sync),
    ) -> Result<Written, Failure> {
        let mut tx = self.publisher.begin_read_committed().await?;
        // Others who edit this station wait until this transaction ends. On SQLite, all writers do.
        let lock = self.db.pick("", " FOR UPDATE");
        let found = self.find(&mut tx, id, lock).await?;
        let (before, current) = match &found {
            Ok((station, version)) => (Some(station), Some(*version)),
            Err(_) => (None, None),
        };
        if !allowed(current) {
            return Err(Failure::Stale(current));
        }
        let after = match (edit.of(before), &found) {
            (Ok(after), _) => after,
            (Err(Refusal::NoStation), Err(absence)) => return Err(Failure::Absent(*absence)),
            (Err(_), _) => return Err(Failure::NoCharger),
        };
        if let (Some(version), true) = (current, before == after.as_ref()) {
            tx.rollback().await?;
            return Ok(self.written(id, version, false, after));
        }
        let change = match (&after, before) {
            (None, _) => Change::Deleted,
            (Some(_), None) => Change::Created,
            (Some(_), Some(_)) => Change::Updated,
        };
        write(&mut tx, id, after.as_ref()).await?;
        let version = self.publisher.record(&mut tx, id, change).await?;
        self.publisher.commit(tx).await?;
        Ok(self.written(id, version, change == Change::Created, after))
    }

    fn written(
        &self,
        id: &EntityId,
        version: Version,
        created: bool,
        station: Option<Station>,
    ) -> Written {
        Written { created, token: self.publisher.token(id, version), station }
    }

    /// Reads a station and its version.
    pub(crate) async fn get(&self, id: &EntityId) -> Result<(Station, Version), Failure> {
        let look = || async {
            let mut tx = self.db.snapshot().await?;
            self.find(&mut tx, id, "").await?.map_err(Failure::Absent)
        };
        self.db.run_afresh(look).await
    }

    async fn find(
        &self,
        tx: &mut Tx,
        id: &EntityId,
        lock: &str,
    ) -> Result<Result<(Station, Version), Absence>, sqlx::Error> {
        let sql = format!("SELECT state FROM station WHERE id = $1{lock}");
        let row: Option<(String,)> =
            query_as(AssertSqlSafe(sql)).bind(id.as_str()).fetch_optional(&mut **tx).await?;
        let recorded = self.publisher.recorded(tx, std::slice::from_ref(id)).await?.remove(id);
        let version = recorded.map_or(Version::NONE, |recorded| recorded.version);
        Ok(match (row, recorded) {
            (Some((state,)), _) => {
                let station = serde_json::from_str(&state);
                Ok((station.map_err(|error| sqlx::Error::Decode(error.into()))?, version))
            }
            (None, Some(recorded)) if !recorded.never_existed => Err(Absence::Deleted),
            (None, _) => Err(Absence::Unknown),
        })
    }
}

async fn write(tx: &mut Tx, id: &EntityId, station: Option<&Station>) -> Result<(), sqlx::Error> {
    let sql = match station {
        None => "DELETE FROM station WHERE id = $1",
        Some(_) => {
            "INSERT INTO station (id, state) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state"
        }
    };
    let mut query = query(sql).bind(id.as_str());
    if let Some(station) = station {
        let state = serde_json::to_string(station);
        query = query.bind(state.map_err(|error| sqlx::Error::Encode(error.into()))?);
    }
    query.execute(&mut **tx).await.map(drop)
}

impl Owner for Stations {
    type State = Box<RawValue>;

    async fn states(
        &self,
        tx: &mut Tx,
        ids: &[EntityId],
    ) -> Result<Vec<(EntityId, Box<RawValue>)>, BoxError> {
        let sql =
            format!("SELECT id, state FROM station WHERE id IN {}", strings(Kind::of(tx), "$1"));
        let query = query_as(AssertSqlSafe(sql)).bind(serde_json::to_string(ids)?);
        let rows: Vec<(String, String)> = query.fetch_all(&mut **tx).await?;
        let state = |(id, state): (String, String)| {
            Ok((EntityId::new(&id)?, RawValue::from_string(state)?))
        };
        rows.into_iter().map(state).collect()
    }
}

#[cfg(test)]
mod tests {
    use nudge_runtime::openapi::{outdated, stray_paths};

    use super::*;

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        assert_eq!(outdated("charging-stations", &service().document()), None);
    }

    #[test]
    fn every_route_is_in_the_document() {
        let stray = stray_paths(http::routes());
        assert!(stray.is_empty(), "{stray:?}");
    }
}
