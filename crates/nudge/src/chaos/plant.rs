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
/// A change that never arrived. `TABLE` stands for the service's own table, `ID` for the store, and `, VERSION - 1` for as much of
/// the version that the table shows, if it shows one.
pub(super) const OLDER: &[&str] = &[
    "UPDATE nudge_applied SET version = version - 1 WHERE id = ID",
    "UPDATE TABLE SET name = 'planted', VERSION - 1 WHERE id = ID",
];
/// A store that never arrived.
pub(super) const MISSING: &[&str] =
    &["DELETE FROM nudge_applied WHERE id = ID", "DELETE FROM TABLE WHERE id = ID"];
/// A row that somebody edits: its version is right.
pub(super) const RENAMED: &[&str] = &["UPDATE TABLE SET name = 'planted' WHERE id = ID"];
/// How many there are of a store.
const COPIES: &str =
    "SELECT count(*) FROM nudge_applied WHERE entity = 'store' AND id = ID AND deleted = 0";
/// How many are as they should be again, after any of these.
const MENDED: &str = "SELECT count(*) FROM TABLE WHERE id = ID AND name <> 'planted'";
/// What is done to one store each, in the service's table and in the kit's. No two entities have an ID in common.
const OF_STORES: &[&[&str]] = &[
    OLDER,
    MISSING,
    // A version that the owner has lost.
    &[
        "UPDATE nudge_applied SET version = version + 1 WHERE id = ID",
        "UPDATE TABLE SET name = 'planted', VERSION + 1 WHERE id = ID",
    ],
    // A deletion that never took place.
    &["UPDATE nudge_applied SET deleted = 1 WHERE id = ID", "DELETE FROM TABLE WHERE id = ID"],
    // Rows that somebody edits or deletes: their versions are right.
    RENAMED,
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
    let Planting { entity, table, edits, .. } = planting;
    let db = Database::open(url, Durability::Refillable).await?;
    let most = edits.len();
    let sql = format!(
        "SELECT applied.id FROM nudge_applied AS applied JOIN {table} AS own ON own.id = applied.id \
         WHERE applied.entity = '{entity}' AND applied.deleted = 0 ORDER BY applied.version DESC LIMIT {most}"
    );
    let query = sqlx::query_as(AssertSqlSafe(sql));
    let ids: Vec<(String,)> = db.run(query.fetch_all(db.reader())).await?;
    let planted = ids.iter().zip(*edits);
    let count = planted.len() as u64;
    for ((id,), edits) in planted {
        for edit in *edits {
            let sql = statement(edit, planting, id);
            db.write(sqlx::query(AssertSqlSafe(sql))).await?;
        }
    }
    db.close().await;
    Ok(count)
}

/// Its text for this store.
fn statement(text: &str, Planting { table, versions, .. }: &Planting, id: &str) -> String {
    let version =
        |by: &str| if *versions { format!(", version = version {by} 1") } else { String::new() };
    text.replace(", VERSION - 1", &version("-"))
        .replace(", VERSION + 1", &version("+"))
        .replace("TABLE", table)
        .replace("ID", &format!("'{}'", id.replace('\'', "''")))
}

/// A copy of a store that was edited by hand.
#[derive(Clone, Debug)]
pub(super) struct Edited {
    db: Database,
    mended: String,
}

/// Edits a subscriber's copy of a store while it runs. `None` if it has no copy.
pub(super) async fn edit(
    service: Service,
    url: &str,
    edits: &[&str],
    id: &str,
) -> Result<Option<Edited>, Box<dyn std::error::Error + Send + Sync>> {
    let stores = &plantings(service.into())[0];
    let db = Database::open(url, Durability::Refillable).await?;
    let copies = sqlx::query_scalar(AssertSqlSafe(statement(COPIES, stores, id)));
    let copies: i64 = db.run(copies.fetch_one(db.reader())).await?;
    if copies == 0 {
        return Ok(None);
    }
    let edited = Edited { mended: statement(MENDED, stores, id), db };
    for edit in edits {
        edited.db.write(sqlx::query(AssertSqlSafe(statement(edit, stores, id)))).await?;
    }
    Ok(Some(edited))
}

impl Edited {
    /// Whether the copy is as it should be again. A subscriber that cannot be asked now is asked later.
    pub(super) async fn is_mended(&self) -> bool {
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(self.mended.clone()));
        self.db.run(query.fetch_one(self.db.reader())).await.is_ok_and(|count| count > 0)
    }
}
