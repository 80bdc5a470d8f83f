//! What is kept of reviews, and the rating of each store that follows from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use nudge_protocol::EntityId;
use nudge_runtime::{
    BoxError, Database, Tx,
    database::{Kind, Migration},
    set_sql::{Set, strings},
};
use nudge_subscriber_kit::{Apply, EntityState, MAX_READ_ROWS, Mirror};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::AssertSqlSafe;

/// The fields of a review that this service keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReviewState {
    /// The reviewed store, which need not be known here.
    pub store_id: EntityId,
    /// From 1 to 5.
    pub rating: u8,
    /// What the author thinks.
    pub text: String,
    /// Who wrote it.
    pub author: String,
    /// When it was first written, as its owner writes it.
    pub created_at: String,
}

/// The component's name for `Database::migrate`.
const COMPONENT: &str = "storefront";

/// How many ratings each store has, and their sum: also for stores that are deleted or not known yet. It is prepared here,
/// because a page that counts 100,000 reviews itself takes ten milliseconds instead of a tenth of one.
const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "ratings",
    sqlite: "CREATE TABLE rating (id TEXT PRIMARY KEY NOT NULL, count BIGINT NOT NULL, sum BIGINT NOT NULL)",
    postgres: "CREATE TABLE rating (
            id TEXT COLLATE \"C\" PRIMARY KEY NOT NULL, count BIGINT NOT NULL, sum BIGINT NOT NULL
        )",
}];

/// Makes sure that each store has a row, and locks it until the transaction ends: everybody in this order.
const LOCK: &str = "INSERT INTO rating ({columns}) SELECT {columns} FROM {rows} WHERE true ORDER BY r.id \
    ON CONFLICT (id) DO UPDATE SET count = rating.count";
/// Counted from the reviews, never added to: so it is right whatever was applied before, in whichever order.
const COUNT: &str = "UPDATE rating SET (count, sum) = (\
    SELECT count(*), CAST(coalesce(sum(v.rating), 0) AS BIGINT) FROM review AS v WHERE v.store_id = rating.id\
    ) WHERE id IN (SELECT r.id FROM {rows})";

/// Keeps the reviews, and the rating of each store.
#[derive(Debug)]
pub struct Reviews {
    mirror: Mirror<ReviewState>,
}

impl Default for Reviews {
    fn default() -> Self {
        Self::new()
    }
}

/// A store's row of ratings, before they are counted.
#[derive(Serialize)]
struct Uncounted<'a> {
    id: &'a str,
    count: i64,
    sum: i64,
}

impl Reviews {
    /// The table of reviews and that of ratings. One index serves a store's newest reviews and the count of its ratings.
    pub fn new() -> Self {
        Self { mirror: Mirror::table("review").index(&["store_id", "id", "rating"]) }
    }

    /// The table of reviews. For tests.
    pub fn mirror(&self) -> &Mirror<ReviewState> {
        &self.mirror
    }
}

impl Apply for Reviews {
    type State = ReviewState;

    fn revision(&self) -> i64 {
        self.mirror.revision()
    }

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        self.mirror.prepare(db).await?;
        Ok(db.migrate(COMPONENT, MIGRATIONS).await?)
    }

    async fn apply(
        &self,
        tx: &mut Tx,
        reviews: &[EntityState<ReviewState>],
    ) -> Result<(), BoxError> {
        // A review that is deleted no longer says whose it was; and one may have moved.
        let mut stores = reviewed(tx, reviews).await?;
        self.mirror.apply(tx, reviews).await?;
        let now = reviews.iter().filter_map(|one| one.state.as_ref());
        stores.extend(now.map(|state| state.store_id.as_str().to_owned()));
        let rows: Vec<_> = stores.iter().map(|id| Uncounted { id, count: 0, sum: 0 }).collect();
        let rows = Set::new(tx, "rating", &rows)?;
        // In two statements: the second sees what others committed while the first waited for them.
        rows.execute(tx, LOCK).await?;
        rows.execute(tx, COUNT).await?;
        Ok(())
    }

    /// Each review's row, and beside it whether its store's rating is what its reviews add up to. (The rating itself may
    /// change at any moment through another review; that it is right does not.)
    async fn read(
        &self,
        tx: &mut Tx,
        ids: &RangeInclusive<&str>,
    ) -> Result<Option<BTreeMap<String, Value>>, BoxError> {
        let Some(mut rows) = self.mirror.read(tx, ids).await? else { return Ok(None) };
        for id in miscounted(tx, ids).await? {
            if let Some(row) = rows.get_mut(&id) {
                *row = Value::Array(vec![row.take(), "its store's rating is wrong".into()]);
            }
        }
        Ok(Some(rows))
    }
}

/// The stores of those of these reviews that are there, as they were until now.
async fn reviewed(
    tx: &mut Tx,
    reviews: &[EntityState<ReviewState>],
) -> Result<BTreeSet<String>, BoxError> {
    let ids: Vec<_> = reviews.iter().map(|one| &one.id).collect();
    let ids = serde_json::to_string(&ids)?;
    let these = strings(Kind::of(tx), "$1");
    let sql = AssertSqlSafe(format!("SELECT DISTINCT store_id FROM review WHERE id IN {these}"));
    let rows: Vec<(String,)> = sqlx::query_as(sql).bind(ids).fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|(store,)| store).collect())
}

/// Those of the reviews from one ID to another whose store has another rating than its reviews add up to.
async fn miscounted(
    tx: &mut Tx,
    ids: &RangeInclusive<&str>,
) -> Result<impl Iterator<Item = String>, sqlx::Error> {
    let sql = format!(
        "SELECT id FROM review WHERE id BETWEEN $1 AND $2 AND store_id IN (\
         SELECT c.store_id FROM (\
             SELECT store_id, count(*) AS count, sum(rating) AS sum FROM review \
             WHERE store_id IN (SELECT store_id FROM review WHERE id BETWEEN $1 AND $2) \
             GROUP BY store_id\
         ) AS c LEFT JOIN rating AS r ON r.id = c.store_id AND r.count = c.count AND r.sum = c.sum \
         WHERE r.id IS NULL) ORDER BY id LIMIT {MAX_READ_ROWS}"
    );
    let query = sqlx::query_as(AssertSqlSafe(sql));
    let query = query.bind(ids.start().to_string()).bind(ids.end().to_string());
    let rows: Vec<(String,)> = query.fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|(id,)| id))
}
