//! The SQL of reviews. Every statement runs in the caller's transaction.

use nudge_protocol::{EntityId, Timestamp};
use nudge_runtime::{
    Tx,
    database::{Kind, Migration},
    row,
    set_sql::strings,
};
use sqlx::{AssertSqlSafe, query, query_as};

use crate::domain::{Ratings, Review};

/// The component's name for `Database::migrate`.
pub const COMPONENT: &str = "review";

/// The table of reviews. One index serves both the pages of a store (by age) and its ratings, which are
/// counted and summed from the index alone. So the average is right under concurrent writes, without a
/// row per store for which all writers would have to wait.
pub const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "reviews",
    sqlite: "CREATE TABLE review (
            id TEXT PRIMARY KEY NOT NULL, store_id TEXT NOT NULL, rating BIGINT NOT NULL,
            text TEXT NOT NULL, author TEXT NOT NULL,
            created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL
        );
        CREATE INDEX review_of_store ON review (store_id, id, rating);",
    postgres: "CREATE TABLE review (
            id TEXT COLLATE \"C\" PRIMARY KEY NOT NULL, store_id TEXT COLLATE \"C\" NOT NULL,
            rating BIGINT NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL,
            created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL
        );
        CREATE INDEX review_of_store ON review (store_id, id, rating);",
}];

/// Sorts after every UUID, so a page that starts here begins with the newest review.
const BEFORE_NEWEST: &str = "~";

row! {
    struct Row {
        id: String,
        store_id: String,
        rating: i64,
        text: String,
        author: String,
        created_at: i64,
        updated_at: i64,
    }
}

fn review(row: Row) -> Result<Review, sqlx::Error> {
    let id_of = |text: &str| EntityId::new(text).map_err(|e| sqlx::Error::Decode(e.into()));
    Ok(Review {
        id: id_of(&row.id)?,
        store_id: id_of(&row.store_id)?,
        rating: row.rating.try_into().map_err(|_| sqlx::Error::Decode("rating".into()))?,
        text: row.text,
        author: row.author,
        created_at: Timestamp::from_unix_micros(row.created_at),
        updated_at: Timestamp::from_unix_micros(row.updated_at),
    })
}

/// Adds a review.
pub async fn insert(tx: &mut Tx, review: &Review) -> Result<(), sqlx::Error> {
    query(
        "INSERT INTO review (id, store_id, rating, text, author, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(review.id.as_str())
    .bind(review.store_id.as_str())
    .bind(i64::from(review.rating))
    .bind(review.text.as_str())
    .bind(review.author.as_str())
    .bind(review.created_at.unix_micros())
    .bind(review.updated_at.unix_micros())
    .execute(&mut **tx)
    .await
    .map(drop)
}

/// Updates the parts of a review that can change.
pub async fn update(tx: &mut Tx, review: &Review) -> Result<(), sqlx::Error> {
    query("UPDATE review SET rating = $2, text = $3, author = $4, updated_at = $5 WHERE id = $1")
        .bind(review.id.as_str())
        .bind(i64::from(review.rating))
        .bind(review.text.as_str())
        .bind(review.author.as_str())
        .bind(review.updated_at.unix_micros())
        .execute(&mut **tx)
        .await
        .map(drop)
}

/// Removes a review.
pub async fn remove(tx: &mut Tx, id: &EntityId) -> Result<(), sqlx::Error> {
    query("DELETE FROM review WHERE id = $1").bind(id.as_str()).execute(&mut **tx).await.map(drop)
}

/// Reads a review.
pub async fn get(tx: &mut Tx, id: &EntityId) -> Result<Option<Review>, sqlx::Error> {
    let sql = "SELECT id, store_id, rating, text, author, created_at, updated_at
               FROM review WHERE id = $1";
    query_as(sql).bind(id.as_str()).fetch_optional(&mut **tx).await?.map(review).transpose()
}

/// Reads a review that this transaction is about to change, and locks it. (On SQLite there is only one
/// writing transaction at a time anyway.)
pub async fn get_for_update(
    tx: &mut Tx,
    kind: Kind,
    id: &EntityId,
) -> Result<Option<Review>, sqlx::Error> {
    if kind == Kind::Postgres {
        let lock = "SELECT id FROM review WHERE id = $1 FOR UPDATE";
        query(lock).bind(id.as_str()).fetch_optional(&mut **tx).await?;
    }
    get(tx, id).await
}

/// Reads those of `ids` that exist, in any order.
pub async fn get_all(
    tx: &mut Tx,
    kind: Kind,
    ids: &[EntityId],
) -> Result<Vec<Review>, sqlx::Error> {
    let sql = format!(
        "SELECT id, store_id, rating, text, author, created_at, updated_at
         FROM review WHERE id IN {}",
        strings(kind, "$1")
    );
    let ids = serde_json::to_string(ids).map_err(|e| sqlx::Error::Encode(e.into()))?;
    let rows = query_as(AssertSqlSafe(sql)).bind(ids).fetch_all(&mut **tx).await?;
    rows.into_iter().map(review).collect()
}

/// A store's reviews that are older than `after`, newest first.
pub async fn page(
    tx: &mut Tx,
    store_id: &EntityId,
    after: Option<&EntityId>,
    limit: usize,
) -> Result<Vec<Review>, sqlx::Error> {
    let sql = "SELECT id, store_id, rating, text, author, created_at, updated_at
               FROM review WHERE store_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
    let rows = query_as(sql)
        .bind(store_id.as_str())
        .bind(after.map_or(BEFORE_NEWEST, EntityId::as_str))
        .bind(limit as i64)
        .fetch_all(&mut **tx)
        .await?;
    rows.into_iter().map(review).collect()
}

/// How many ratings a store has, and their sum.
pub async fn ratings(tx: &mut Tx, store_id: &EntityId) -> Result<Ratings, sqlx::Error> {
    // On PostgreSQL the sum of a BIGINT is a NUMERIC, which is not needed here.
    let sql = "SELECT count(*), CAST(coalesce(sum(rating), 0) AS BIGINT)
               FROM review WHERE store_id = $1";
    let (count, sum): (i64, i64) =
        query_as(sql).bind(store_id.as_str()).fetch_one(&mut **tx).await?;
    Ok(Ratings { count: count.unsigned_abs(), sum: sum.unsigned_abs() })
}
