//! The operations on campaigns, one transaction each.

use nudge_protocol::{EntityId, Timestamp};
use nudge_runtime::{
    Database, Tx, clock,
    database::{Kind, Migration, WorkError},
    row,
    set_sql::strings,
};
use sqlx::{AssertSqlSafe, query, query_as};
use uuid::Uuid;

use crate::campaign::{Campaign, Draft};

/// The component's name for `Database::migrate`.
pub const COMPONENT: &str = "ads";

/// An empty region or category stands for all. Nothing refers to the table of stores: their rows come and go in any order.
pub const MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    title: "campaigns",
    sqlite: "CREATE TABLE campaign (
            id TEXT PRIMARY KEY NOT NULL, store_id TEXT NOT NULL, region TEXT NOT NULL, category TEXT NOT NULL,
            budget BIGINT NOT NULL, from_at BIGINT NOT NULL, until_at BIGINT NOT NULL,
            shown BIGINT NOT NULL DEFAULT 0
        );
        CREATE INDEX campaign_by_end ON campaign (until_at);",
    postgres: "CREATE TABLE campaign (
            id TEXT COLLATE \"C\" PRIMARY KEY NOT NULL, store_id TEXT COLLATE \"C\" NOT NULL,
            region TEXT COLLATE \"C\" NOT NULL, category TEXT COLLATE \"C\" NOT NULL,
            budget BIGINT NOT NULL, from_at BIGINT NOT NULL, until_at BIGINT NOT NULL,
            shown BIGINT NOT NULL DEFAULT 0
        );
        CREATE INDEX campaign_by_end ON campaign (until_at);",
}];

/// What runs now and has budget left, at the store's best campaign: one ad for each store. What got the smallest share of its
/// budget comes first, so that all use theirs up at the same pace.
const RUNNING: &str = "SELECT id, store_id, name FROM (\
    SELECT c.id, c.store_id, s.name, CAST(c.shown AS DOUBLE PRECISION) / c.budget AS share, \
    row_number() OVER (PARTITION BY c.store_id \
        ORDER BY CAST(c.shown AS DOUBLE PRECISION) / c.budget, c.id) AS place \
    FROM campaign AS c JOIN known_store AS s ON s.id = c.store_id AND s.deleted = 0 AND s.open = 1 \
    WHERE c.until_at > $1 AND c.from_at <= $1 AND c.shown < c.budget \
    AND ($2 = '' OR c.region = '' OR c.region = $2) \
    AND ($3 = '' OR c.category = '' OR c.category = $3)) AS running \
    WHERE place = 1 ORDER BY share, id LIMIT $4";

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This service has never heard of the store.
    #[error("no store with this ID is known")]
    UnknownStore,
    /// The store was deleted.
    #[error("the store was deleted")]
    DeletedStore,
    /// There is no such campaign.
    #[error("no such campaign")]
    UnknownCampaign,
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl WorkError for Failure {
    fn database_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::UnknownStore | Self::DeletedStore | Self::UnknownCampaign => None,
        }
    }
}

/// A store to advertise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ad {
    /// The campaign.
    pub campaign: EntityId,
    /// The store.
    pub store: EntityId,
    /// The store's name.
    pub name: String,
}

row! {
    struct Row {
        id: String, store_id: String, region: String, category: String, budget: i64, from_at: i64,
        until_at: i64, shown: i64,
    }
}

/// The campaigns of this service. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Campaigns {
    db: Database,
}

impl Campaigns {
    /// The campaigns in this database.
    pub fn new(db: Database) -> Self {
        Self { db }
    }

    /// Begins a campaign for a store that exists.
    pub async fn create(&self, draft: Draft) -> Result<Campaign, Failure> {
        let id = EntityId::new(&Uuid::now_v7().to_string()).expect("a UUID is an ID");
        let create = || async {
            let mut tx = self.db.begin_read_committed().await?;
            exists(&mut tx, &draft.store_id).await?;
            let sql = "INSERT INTO campaign (id, store_id, region, category, budget, from_at, until_at) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7)";
            write(&mut tx, sql, &id, &draft).await?;
            tx.commit().await?;
            Ok::<_, Failure>(())
        };
        self.db.run_afresh(create).await?;
        Ok(Campaign::of(id, draft, 0))
    }

    /// Replaces what was asked for. What was shown stays counted.
    pub async fn replace(&self, id: &EntityId, draft: Draft) -> Result<Campaign, Failure> {
        let replace = || async {
            let mut tx = self.db.begin_read_committed().await?;
            exists(&mut tx, &draft.store_id).await?;
            let sql = "UPDATE campaign SET store_id = $2, region = $3, category = $4, budget = $5, \
                       from_at = $6, until_at = $7 WHERE id = $1";
            if write(&mut tx, sql, id, &draft).await? == 0 {
                return Err(Failure::UnknownCampaign);
            }
            let sql = "SELECT shown FROM campaign WHERE id = $1";
            let (shown,): (i64,) = query_as(sql).bind(id.as_str()).fetch_one(&mut *tx).await?;
            tx.commit().await?;
            Ok(shown.unsigned_abs())
        };
        let shown = self.db.run_afresh(replace).await?;
        Ok(Campaign::of(id.clone(), draft, shown))
    }

    /// Reads a campaign.
    pub async fn get(&self, id: &EntityId) -> Result<Campaign, Failure> {
        let sql = "SELECT id, store_id, region, category, budget, from_at, until_at, shown \
                   FROM campaign WHERE id = $1";
        let look = || query_as(sql).bind(id.as_str()).fetch_optional(self.db.reader());
        let row: Option<Row> = self.db.run_afresh(look).await?;
        Ok(campaign(row.ok_or(Failure::UnknownCampaign)?)?)
    }

    /// Ends a campaign and forgets it.
    pub async fn delete(&self, id: &EntityId) -> Result<(), Failure> {
        let delete =
            || self.db.write(query("DELETE FROM campaign WHERE id = $1").bind(id.as_str()));
        match self.db.run_afresh(delete).await? {
            0 => Err(Failure::UnknownCampaign),
            _ => Ok(()),
        }
    }

    /// Up to `limit` open stores with a running campaign for this region and category, where these are given; each store once.
    pub async fn ads(
        &self,
        region: &str,
        category: &str,
        limit: usize,
    ) -> Result<Vec<Ad>, sqlx::Error> {
        let now = clock::now().unix_micros();
        let look = || {
            let query = query_as(RUNNING).bind(now).bind(region).bind(category);
            query.bind(limit as i64).fetch_all(self.db.reader())
        };
        let rows: Vec<(String, String, String)> = self.db.run_afresh(look).await?;
        let ad = |(campaign, store, name): (String, String, String)| {
            Ok(Ad { campaign: id(&campaign)?, store: id(&store)?, name })
        };
        rows.into_iter().map(ad).collect()
    }

    /// Counts one impression for each of these campaigns that has budget left. Returns how many those were.
    pub async fn count(&self, shown: &[EntityId]) -> Result<u64, sqlx::Error> {
        let kind = self.db.kind();
        let of = strings(kind, "$1");
        let of = match kind {
            Kind::Sqlite => of,
            // Everybody locks them in this order, or two requests could wait for one another.
            Kind::Postgres => {
                format!("(SELECT id FROM campaign WHERE id IN {of} ORDER BY id FOR UPDATE)")
            }
        };
        let sql =
            format!("UPDATE campaign SET shown = shown + 1 WHERE shown < budget AND id IN {of}");
        let ids =
            serde_json::to_string(shown).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let count = || async {
            let mut tx = self.db.begin_read_committed().await?;
            let query = query(AssertSqlSafe(sql.clone())).bind(ids.as_str());
            let counted = query.execute(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(counted.rows_affected())
        };
        self.db.run_afresh(count).await
    }
}

fn id(text: &str) -> Result<EntityId, sqlx::Error> {
    EntityId::new(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn campaign(row: Row) -> Result<Campaign, sqlx::Error> {
    let name = |name: String| (!name.is_empty()).then_some(name);
    let draft = Draft {
        store_id: id(&row.store_id)?,
        region: name(row.region),
        category: name(row.category),
        budget: row.budget.try_into().map_err(|_| sqlx::Error::Decode("budget".into()))?,
        from: Timestamp::from_unix_micros(row.from_at),
        until: Timestamp::from_unix_micros(row.until_at),
    };
    Ok(Campaign::of(id(&row.id)?, draft, row.shown.unsigned_abs()))
}

/// A failure unless the store exists, as far as is known here.
async fn exists(tx: &mut Tx, store: &EntityId) -> Result<(), Failure> {
    let sql = "SELECT deleted FROM known_store WHERE id = $1";
    let known: Option<(i64,)> =
        query_as(sql).bind(store.as_str()).fetch_optional(&mut **tx).await?;
    match known {
        None => Err(Failure::UnknownStore),
        Some((0,)) => Ok(()),
        Some(_) => Err(Failure::DeletedStore),
    }
}

async fn write(
    tx: &mut Tx,
    sql: &'static str,
    id: &EntityId,
    draft: &Draft,
) -> Result<u64, sqlx::Error> {
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    let written = query(sql)
        .bind(id.as_str())
        .bind(draft.store_id.as_str())
        .bind(text(&draft.region))
        .bind(text(&draft.category))
        .bind(i64::from(draft.budget))
        .bind(draft.from.unix_micros())
        .bind(draft.until.unix_micros())
        .execute(&mut **tx)
        .await?;
    Ok(written.rows_affected())
}
