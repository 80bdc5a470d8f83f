//! The operations on lists of favourites, one transaction each.

use nudge_protocol::{EntityId, Timestamp};
use nudge_runtime::{
    Database, clock,
    database::{Migration, WorkError},
    paging::cut,
    row,
};
use sqlx::{query, query_as};
use uuid::Uuid;

/// The component's name for `Database::migrate`.
pub const COMPONENT: &str = "favourites";
/// Most stores that one user's list shows. Requests that meet may exceed it by as many as there are of them, and so may
/// stores that come back.
pub const MAX_FAVOURITES: i64 = 1_000;
/// Sorts after every UUID, so a page that starts here begins with the newest.
const BEFORE_NEWEST: &str = "~";

/// `place` is a UUID that contains the time, so it is also the order in which stores were added. Nothing refers to the table
/// of stores: their rows come and go in any order.
pub const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "favourites",
    sqlite: "CREATE TABLE favourite (
            user_id TEXT NOT NULL, store_id TEXT NOT NULL, place TEXT NOT NULL,
            added_at BIGINT NOT NULL, PRIMARY KEY (user_id, store_id)
        );
        CREATE INDEX favourite_by_place ON favourite (user_id, place);",
    postgres: "CREATE TABLE favourite (
            user_id TEXT COLLATE \"C\" NOT NULL, store_id TEXT COLLATE \"C\" NOT NULL,
            place TEXT COLLATE \"C\" NOT NULL,
            added_at BIGINT NOT NULL, PRIMARY KEY (user_id, store_id)
        );
        CREATE INDEX favourite_by_place ON favourite (user_id, place);",
}];

/// Why a store was not added.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This service has never heard of it.
    #[error("no store with this ID is known")]
    UnknownStore,
    /// It was deleted.
    #[error("the store was deleted")]
    DeletedStore,
    /// The list is full.
    #[error("a list holds at most {MAX_FAVOURITES} stores")]
    TooMany,
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl WorkError for Failure {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::UnknownStore | Self::DeletedStore | Self::TooMany => None,
        }
    }
}

/// A store in a list, as this service knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Favourite {
    /// The store.
    pub id: EntityId,
    /// Its name.
    pub name: String,
    /// Whether it takes orders.
    pub open: bool,
    /// When it was added.
    pub added_at: Timestamp,
}

row! {
    struct Row { id: String, place: String, added_at: i64, name: String, open: bool }
}

/// The lists of all users. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Favourites {
    db: Database,
}

impl Favourites {
    /// The lists in this database.
    pub fn new(db: Database) -> Self {
        Self { db }
    }

    /// Adds a store to a user's list. Returns whether it is new there: otherwise it keeps its place.
    pub async fn add(&self, user: &EntityId, store: &EntityId) -> Result<bool, Failure> {
        self.db.run_afresh(|| self.add_once(user, store)).await
    }

    async fn add_once(&self, user: &EntityId, store: &EntityId) -> Result<bool, Failure> {
        let mut tx = self.db.begin_read_committed().await?;
        // What is kept stays, whatever became of the store.
        let kept = "SELECT 1 FROM favourite WHERE user_id = $1 AND store_id = $2";
        let kept = query(kept).bind(user.as_str()).bind(store.as_str());
        if kept.fetch_optional(&mut *tx).await?.is_some() {
            return Ok(false);
        }
        let known = "SELECT deleted FROM known_store WHERE id = $1";
        let known: Option<(i64,)> =
            query_as(known).bind(store.as_str()).fetch_optional(&mut *tx).await?;
        match known {
            None => return Err(Failure::UnknownStore),
            Some((1..,)) => return Err(Failure::DeletedStore),
            Some(_) => {}
        }
        let add = "INSERT INTO favourite (user_id, store_id, place, added_at) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (user_id, store_id) DO NOTHING";
        let added = query(add)
            .bind(user.as_str())
            .bind(store.as_str())
            .bind(Uuid::now_v7().to_string())
            .bind(clock::now().unix_micros())
            .execute(&mut *tx)
            .await?;
        let is_new = added.rows_affected() > 0;
        // Those that the user sees and can remove.
        let count = "SELECT count(*) FROM favourite AS f \
                     JOIN known_store AS s ON s.id = f.store_id AND s.deleted = 0 WHERE f.user_id = $1";
        let (count,): (i64,) = query_as(count).bind(user.as_str()).fetch_one(&mut *tx).await?;
        if is_new && count > MAX_FAVOURITES {
            return Err(Failure::TooMany);
        }
        tx.commit().await?;
        Ok(is_new)
    }

    /// Removes a store from a user's list, if it is there.
    pub async fn remove(&self, user: &EntityId, store: &EntityId) -> Result<(), sqlx::Error> {
        let remove = || {
            let sql = "DELETE FROM favourite WHERE user_id = $1 AND store_id = $2";
            self.db.write(query(sql).bind(user.as_str()).bind(store.as_str()))
        };
        self.db.run_afresh(remove).await.map(drop)
    }

    /// A page of a user's list, newest first, without stores that do not exist now; and the place to continue after.
    pub async fn page(
        &self,
        user: &EntityId,
        after: Option<&Uuid>,
        limit: usize,
    ) -> Result<(Vec<Favourite>, Option<String>), sqlx::Error> {
        // Joined, instead of copied into the list: there it would have to be followed as well.
        let sql = "SELECT f.store_id AS id, f.place, f.added_at, s.name, s.open FROM favourite AS f \
                   JOIN known_store AS s ON s.id = f.store_id AND s.deleted = 0 \
                   WHERE f.user_id = $1 AND f.place < $2 ORDER BY f.place DESC LIMIT $3";
        let after = after.map_or(BEFORE_NEWEST.to_owned(), Uuid::to_string);
        let look = || {
            let query = query_as(sql).bind(user.as_str()).bind(after.as_str());
            query.bind(limit as i64 + 1).fetch_all(self.db.reader())
        };
        let mut rows: Vec<Row> = self.db.run_afresh(look).await?;
        let next = cut(&mut rows, limit, |last| last.place.clone());
        let favourite = |Row { id, added_at, name, open, .. }| {
            let id = EntityId::new(&id).map_err(|error| sqlx::Error::Decode(error.into()))?;
            Ok(Favourite { id, name, open, added_at: Timestamp::from_unix_micros(added_at) })
        };
        Ok((rows.into_iter().map(favourite).collect::<Result<_, sqlx::Error>>()?, next))
    }
}
