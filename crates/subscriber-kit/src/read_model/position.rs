//! The position of intake, stored in the read model's own database.
//!
//! The broker remembers what was acknowledged, and the database what was applied. The two can differ: a read model may
//! be emptied, restored from a backup, or lose its last commits in a power failure. So the identity
//! of the read model is stored here, which its durable consumer also carries, beside the sequence up to which everything is handled. Without a row, there
//! is a new ID, and so a new consumer, which reads everything from the start. If the position is behind the consumer's,
//! the messages in between are read again.
//!
//! The row also says where it was written. A copy of the database notices that it is elsewhere, and takes a new ID;
//! otherwise the two would share a consumer, and each would get half of the changes.

use nudge_protocol::EntityName;
use nudge_runtime::{Database, clock, row};
use uuid::Uuid;

/// The row of one followed entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The identity of the read model, which its durable consumer carries.
    pub(crate) consumer: String,
    /// Identifies the stream that `position` belongs to: a recreated one has another value.
    pub(crate) stream_created: String,
    /// Every message up to this sequence is handled by every replica: see [`super::replica`].
    pub(crate) position: u64,
    /// Whether the first catch-up is complete.
    pub(crate) caught_up: bool,
}

row! {
    struct Row {
        consumer: String,
        stream_created: String,
        position: i64,
        caught_up_at: Option<i64>,
        place: Option<String>,
    }
}

impl From<Row> for Position {
    fn from(row: Row) -> Self {
        Self {
            consumer: row.consumer,
            stream_created: row.stream_created,
            position: u64::try_from(row.position).unwrap_or(0),
            caught_up: row.caught_up_at.is_some(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Positions {
    db: Database,
    entity: EntityName,
}

impl Positions {
    pub(crate) fn new(db: Database, entity: EntityName) -> Self {
        Self { db, entity }
    }

    /// The row. It is created if there is none, and gets a new ID if this is a copy of the database in which it was
    /// created.
    pub(crate) async fn load(&self) -> Result<Position, sqlx::Error> {
        let place = self.db.place_of("nudge_intake").await?;
        if let Some(row) = self.row().await?
            && row.place.as_ref() == Some(&place)
        {
            return Ok(row.into());
        }
        // If another replica was first, its ID stays and this one is dropped.
        let id = || Uuid::new_v4().simple().to_string();
        let insert = "INSERT INTO nudge_intake (entity, consumer, stream_created, position, place) \
                      VALUES ($1, $2, '', 0, $3) ON CONFLICT (entity) DO NOTHING";
        let insert = sqlx::query(insert).bind(self.entity.as_str()).bind(id()).bind(place.clone());
        self.db.write(insert).await?;
        // The row was written by a release that did not store the place.
        let adopt = "UPDATE nudge_intake SET place = $2 WHERE entity = $1 AND place IS NULL";
        let adopt = sqlx::query(adopt).bind(self.entity.as_str()).bind(place.clone());
        self.db.write(adopt).await?;
        let begin_anew = "UPDATE nudge_intake SET consumer = $3, stream_created = '', position = 0, place = $2 \
                          WHERE entity = $1 AND place <> $2";
        let begin_anew = sqlx::query(begin_anew).bind(self.entity.as_str()).bind(place).bind(id());
        if self.db.write(begin_anew).await? > 0 {
            tracing::warn!(entity = %self.entity, "this read model is a copy of another: refilling it");
        }
        self.read().await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// The row, if there is one.
    pub(crate) async fn read(&self) -> Result<Option<Position>, sqlx::Error> {
        Ok(self.row().await?.map(Position::from))
    }

    async fn row(&self) -> Result<Option<Row>, sqlx::Error> {
        let sql = "SELECT consumer, stream_created, position, caught_up_at, place FROM nudge_intake \
                   WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        self.db.run(query.fetch_optional(self.db.reader())).await
    }

    /// Moves the position back to that of the durable consumer: the broker lost what it had acknowledged, and will use
    /// those sequences again.
    pub(crate) async fn go_back(&self, found: &Position, to: u64) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_intake SET position = $4 \
                   WHERE entity = $1 AND consumer = $2 AND stream_created = $3 AND position > $4";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(found.consumer.clone());
        let query = query.bind(found.stream_created.clone()).bind(to as i64);
        // If a crash undid it, sequences that are used again would count as handled.
        self.db.write_to_disk(query).await.map(drop)
    }

    /// Stores that the first catch-up is complete. Returns whether the row is still there.
    pub(crate) async fn caught_up(&self, consumer: &str) -> Result<bool, sqlx::Error> {
        let sql = "UPDATE nudge_intake SET caught_up_at = $3 WHERE entity = $1 AND consumer = $2";
        let now = clock::now().unix_micros();
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(consumer).bind(now);
        Ok(self.db.write(query).await? > 0)
    }
}
