//! The last part of a run: differences that no notification tells of. Until here nothing was compared, so that
//! notifications alone had to do; from here on, subscribers compare themselves with the owner and must find them all.

use nudge_runtime::{Database, database::Durability};
use nudge_testbed::program::STOP_PATIENCE;
use sqlx::AssertSqlSafe;

use super::{
    plan::{Place, Target},
    world::{World, start},
};
use crate::client::Service;

/// The setting by which a subscriber compares.
pub(super) const SETTING: &str = "RESYNC_PERCENT";
/// How many different things are planted into each read model, if it has so many stores.
const PLANTED: usize = 7;

/// What is done to one store, in the service's table and in the kit's. `TABLE` stands for the former, `ID` for the store.
const EDITS: [&[&str]; PLANTED] = [
    // A change that never arrived.
    &[
        "UPDATE nudge_applied SET version = version - 1 WHERE id = ID",
        "UPDATE TABLE SET name = 'planted', version = version - 1 WHERE id = ID",
    ],
    // A store that never arrived.
    &["DELETE FROM nudge_applied WHERE id = ID", "DELETE FROM TABLE WHERE id = ID"],
    // A version that the owner has lost.
    &[
        "UPDATE nudge_applied SET version = version + 1 WHERE id = ID",
        "UPDATE TABLE SET name = 'planted', version = version + 1 WHERE id = ID",
    ],
    // A deletion that never took place.
    &["UPDATE nudge_applied SET deleted = 1 WHERE id = ID", "DELETE FROM TABLE WHERE id = ID"],
    // Rows that somebody edits or deletes: their versions are right.
    &["UPDATE TABLE SET name = 'planted' WHERE id = ID"],
    &["UPDATE TABLE SET open = 1 - open WHERE id = ID"],
    &["DELETE FROM TABLE WHERE id = ID"],
];

impl World {
    /// Plants differences into every read model, and lets subscribers compare from now on. Returns how many.
    pub(super) async fn plant(&self) -> Result<u64, String> {
        let mut planted = 0;
        for service in Service::SUBSCRIBERS {
            let at = |replica| Place { on: Target::of(service).0, replica };
            for (replica, _) in self.replicas() {
                self.program(at(replica))?.lock().await.stop(STOP_PATIENCE).await;
            }
            let launch = self.program(at(1))?.lock().await.launch().clone();
            let url = launch.env.iter().find(|(name, _)| *name == "DATABASE_URL");
            let (_, url) = url.ok_or("a subscriber without a database")?;
            let into = into(service, url).await;
            planted += into.map_err(|error| format!("{}: {error}", service.name()))?;
            for (replica, _) in self.replicas() {
                let mut program = self.program(at(replica))?.lock().await;
                program.set_env(SETTING, "100");
                start(&mut program)?;
            }
        }
        Ok(planted)
    }
}

/// Plants differences into one read model.
async fn into(
    service: Service,
    url: &str,
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let table = match service {
        Service::Review => "known_store",
        _ => "store",
    };
    let db = Database::open(url, Durability::Refillable).await?;
    let sql = format!(
        "SELECT applied.id FROM nudge_applied AS applied JOIN {table} ON {table}.id = applied.id \
         WHERE applied.entity = 'store' AND applied.deleted = 0 ORDER BY applied.version DESC LIMIT {PLANTED}"
    );
    let query = sqlx::query_as(AssertSqlSafe(sql));
    let ids: Vec<(String,)> = db.run(query.fetch_all(db.reader())).await?;
    let mut planted = 0;
    for ((id,), edits) in ids.iter().zip(EDITS) {
        for edit in edits {
            let id = format!("'{}'", id.replace('\'', "''"));
            let sql = edit.replace("TABLE", table).replace("ID", &id);
            db.write(sqlx::query(AssertSqlSafe(sql))).await?;
        }
        planted += 1;
    }
    db.close().await;
    Ok(planted)
}
