//! The last part of a run: differences that no notification tells of. Until here nothing was compared, so that
//! notifications alone had to do; from here on, subscribers compare themselves with the owner and must find them all.

use nudge_runtime::{Database, database::Durability};
use nudge_testbed::program::STOP_PATIENCE;
use sqlx::AssertSqlSafe;

use super::{
    plan::{Place, Target, Who},
    world::{World, start},
};
use crate::client::Service;

/// The setting by which a subscriber compares.
pub(super) const SETTING: &str = "RESYNC_PERCENT";
/// What is done to one store each, in the service's table and in the kit's. `TABLE` stands for the former, `ID` for the store,
/// and `, VERSION - 1` for as much of the version that the table shows, if it shows one. No two entities have an ID in common.
const OF_STORES: &[&[&str]] = &[
    // A change that never arrived.
    &[
        "UPDATE nudge_applied SET version = version - 1 WHERE id = ID",
        "UPDATE TABLE SET name = 'planted', VERSION - 1 WHERE id = ID",
    ],
    // A store that never arrived.
    &["DELETE FROM nudge_applied WHERE id = ID", "DELETE FROM TABLE WHERE id = ID"],
    // A version that the owner has lost.
    &[
        "UPDATE nudge_applied SET version = version + 1 WHERE id = ID",
        "UPDATE TABLE SET name = 'planted', VERSION + 1 WHERE id = ID",
    ],
    // A deletion that never took place.
    &["UPDATE nudge_applied SET deleted = 1 WHERE id = ID", "DELETE FROM TABLE WHERE id = ID"],
    // Rows that somebody edits or deletes: their versions are right.
    &["UPDATE TABLE SET name = 'planted' WHERE id = ID"],
    &["UPDATE TABLE SET open = 1 - open WHERE id = ID"],
    &["DELETE FROM TABLE WHERE id = ID"],
];
/// The same for storefront's reviews, and for what it adds up from them.
const OF_REVIEWS: &[&[&str]] = &[
    &[
        "UPDATE nudge_applied SET version = version - 1 WHERE id = ID",
        "UPDATE TABLE SET text = 'planted' WHERE id = ID",
    ],
    &["DELETE FROM nudge_applied WHERE id = ID", "DELETE FROM TABLE WHERE id = ID"],
    &["UPDATE TABLE SET rating = 6 - rating, text = 'planted' WHERE id = ID"],
    &["DELETE FROM TABLE WHERE id = ID"],
    &["UPDATE rating SET count = count + 1 WHERE id = (SELECT store_id FROM TABLE WHERE id = ID)"],
];

/// The same for a subscriber of whose tables nothing is known: only the kit's are touched.
const OF_GUESTS: &[&[&str]] = &[
    &["UPDATE nudge_applied SET version = version - 1 WHERE id = ID"],
    &["DELETE FROM nudge_applied WHERE id = ID"],
    &["UPDATE nudge_applied SET version = version + 1 WHERE id = ID"],
];

/// What is done to one table.
struct Planting {
    entity: &'static str,
    /// The service's own; the kit's if that is not known.
    table: &'static str,
    /// Whether it shows versions.
    versions: bool,
    edits: &'static [&'static [&'static str]],
}

/// What is done to a service's read model.
fn plantings(who: Who) -> Vec<Planting> {
    let of = |entity, table, versions, edits| Planting { entity, table, versions, edits };
    let stores = |table, versions| of("store", table, versions, OF_STORES);
    match who {
        Who::Demo(Service::Search | Service::StoreInfo) => vec![stores("store", true)],
        Who::Demo(Service::Review) => vec![stores("known_store", true)],
        Who::Demo(Service::Favourites | Service::Ads) => vec![stores("known_store", false)],
        Who::Demo(Service::Storefront) => {
            vec![stores("store", true), of("review", "review", false, OF_REVIEWS)]
        }
        Who::Guest(_) => {
            ["store", "review"].map(|entity| of(entity, "nudge_applied", false, OF_GUESTS)).into()
        }
    }
}

impl World {
    /// Plants differences into every read model, and lets subscribers compare from now on. Returns how many.
    pub(super) async fn plant(&self) -> Result<u64, String> {
        let mut planted = 0;
        for who in self.cast.subscribers() {
            let at = |replica| Place { on: Target::Program(who), replica };
            for (replica, _) in self.replicas() {
                self.program(at(replica))?.lock().await.stop(STOP_PATIENCE).await;
            }
            let launch = self.program(at(1))?.lock().await.launch().clone();
            let url = launch.env.iter().find(|(name, _)| *name == "DATABASE_URL");
            let (_, url) = url.ok_or("a subscriber without a database")?;
            for planting in plantings(who) {
                let into = into(&planting, url).await;
                planted += into.map_err(|error| format!("{}: {error}", who.name()))?;
            }
            for (replica, _) in self.replicas() {
                let mut program = self.program(at(replica))?.lock().await;
                program.set_env(SETTING, "100");
                start(&mut program)?;
            }
        }
        Ok(planted)
    }
}

/// Plants differences into one table, as many as it has rows for. Returns how many.
async fn into(
    planting: &Planting,
    url: &str,
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let Planting { entity, table, versions, edits } = planting;
    let db = Database::open(url, Durability::Refillable).await?;
    let most = edits.len();
    let sql = format!(
        "SELECT applied.id FROM nudge_applied AS applied JOIN {table} AS own ON own.id = applied.id \
         WHERE applied.entity = '{entity}' AND applied.deleted = 0 ORDER BY applied.version DESC LIMIT {most}"
    );
    let query = sqlx::query_as(AssertSqlSafe(sql));
    let ids: Vec<(String,)> = db.run(query.fetch_all(db.reader())).await?;
    let mut planted = 0;
    for ((id,), edits) in ids.iter().zip(*edits) {
        for edit in *edits {
            let id = format!("'{}'", id.replace('\'', "''"));
            let version = |by: &str| {
                if *versions { format!(", version = version {by} 1") } else { String::new() }
            };
            let sql = edit.replace("TABLE", table).replace("ID", &id);
            let sql =
                sql.replace(", VERSION - 1", &version("-")).replace(", VERSION + 1", &version("+"));
            db.write(sqlx::query(AssertSqlSafe(sql))).await?;
        }
        planted += 1;
    }
    db.close().await;
    Ok(planted)
}
