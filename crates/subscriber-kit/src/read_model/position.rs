//! How far intake has got, kept in the read model's own database.
//!
//! The broker remembers what was acknowledged, and the database what was applied. They can part: a
//! read model may be emptied, restored from a backup, or lose its last commits with the power. So
//! the durable consumer's name carries an id that is kept here, and so does the stream sequence up
//! to which everything was handled. No row here: a new id, a new consumer, everything from the
//! start. A position behind the consumer's: what lies between is read again.
//!
//! The row also says in which place it was written. In a copy of the database it is another: the copy takes an id
//! of its own, or the two would share one consumer, and each would be told of half of the changes.

use nudge_protocol::EntityName;
use nudge_runtime::{Database, clock, row};
use uuid::Uuid;

/// The row of one followed entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Part of the durable consumer's name.
    pub(crate) consumer: String,
    /// Which incarnation of the stream `position` belongs to.
    pub(crate) stream_created: String,
    /// Everything up to this stream sequence is handled, as every replica says: see [`super::replica`].
    pub(crate) position: u64,
    /// Whether the first catch-up is done.
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

    /// The row, made new when there is none, and given a new id when this is a copy of the database that it was
    /// made in.
    pub(crate) async fn load(&self) -> Result<Position, sqlx::Error> {
        let place = self.db.place_of("nudge_intake").await?;
        if let Some(row) = self.row().await?
            && row.place.as_ref() == Some(&place)
        {
            return Ok(row.into());
        }
        // The unused id of a replica that comes second is thrown away.
        let id = || Uuid::new_v4().simple().to_string();
        let insert = "INSERT INTO nudge_intake (entity, consumer, stream_created, position, place) \
                      VALUES ($1, $2, '', 0, $3) ON CONFLICT (entity) DO NOTHING";
        let insert = sqlx::query(insert).bind(self.entity.as_str()).bind(id()).bind(place.clone());
        self.db.write(insert).await?;
        // It was made by a release that did not look.
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

    /// The row as it is, if there is one.
    pub(crate) async fn read(&self) -> Result<Option<Position>, sqlx::Error> {
        Ok(self.row().await?.map(Position::from))
    }

    async fn row(&self) -> Result<Option<Row>, sqlx::Error> {
        let sql = "SELECT consumer, stream_created, position, caught_up_at, place FROM nudge_intake \
                   WHERE entity = $1";
        let query = sqlx::query_as(sql).bind(self.entity.as_str());
        self.db.run(query.fetch_optional(self.db.reader())).await
    }

    /// Puts the position back to where the durable consumer is: the broker lost what it had
    /// acknowledged, and will use those sequences again.
    pub(crate) async fn go_back(&self, found: &Position, to: u64) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_intake SET position = $4 \
                   WHERE entity = $1 AND consumer = $2 AND stream_created = $3 AND position > $4";
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(found.consumer.clone());
        let query = query.bind(found.stream_created.clone()).bind(to as i64);
        self.db.write(query).await.map(drop)
    }

    /// Records that the first catch-up is done.
    pub(crate) async fn caught_up(&self, consumer: &str) -> Result<(), sqlx::Error> {
        let sql = "UPDATE nudge_intake SET caught_up_at = $3 WHERE entity = $1 AND consumer = $2";
        let now = clock::now().unix_micros();
        let query = sqlx::query(sql).bind(self.entity.as_str()).bind(consumer).bind(now);
        self.db.write(query).await.map(drop)
    }
}
