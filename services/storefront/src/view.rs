//! What is read of stores and reviews: one statement for each question.

use std::collections::HashMap;

use async_graphql::SimpleObject;
use nudge_protocol::{EntityId, Version};
use nudge_runtime::{
    Database,
    database::{Field, Kind},
    row,
    set_sql::strings,
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, FromRow, any::AnyRow};
use utoipa::ToSchema;

use crate::{question::Filter, stores::Menu};

/// Newest reviews on a store's page.
pub const NEWEST_REVIEWS: usize = 10;

/// What a list shows of a store.
const SUMMARY: &str = "s.id, s.name, s.category, s.region, s.neighbourhood, s.open, s.min_order_amount, \
    s.delivery_fee, s.version, coalesce(r.count, 0) AS count, coalesce(r.sum, 0) AS sum";
/// Both tables: the rating is joined at the moment of reading, whichever of the two came first.
const FROM: &str = "FROM store AS s LEFT JOIN rating AS r ON r.id = s.id";

/// The ratings of a store.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema, SimpleObject)]
pub struct Rating {
    /// The mean of all ratings, rounded to two decimals; null without any.
    #[schema(minimum = 1, maximum = 5, required = true)]
    pub average: Option<f64>,
    /// How many there are.
    pub count: u32,
}

impl Rating {
    fn of(count: i64, sum: i64) -> Self {
        let (count, sum) = (count.unsigned_abs(), sum.unsigned_abs());
        // In whole hundredths, half up, as review computes it.
        let hundredths = (sum * 200 + count).checked_div(2 * count);
        let average = hundredths.map(|hundredths| hundredths as f64 / 100.0);
        Self { average, count: count.try_into().unwrap_or(u32::MAX) }
    }
}

/// A store in a list.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = StoreSummary)]
pub struct Summary {
    /// Its ID.
    pub id: EntityId,
    /// The name on the sign.
    pub name: String,
    /// The kind of food.
    pub category: String,
    /// The district that it delivers in.
    pub region: String,
    /// The neighbourhood.
    pub neighbourhood: String,
    /// Whether it takes orders.
    pub open: bool,
    /// Minimum order, in whole won.
    pub min_order_amount: i64,
    /// Delivery fee, in whole won.
    pub delivery_fee: i64,
    /// What its reviews say.
    pub rating: Rating,
    /// The version of the store that this shows.
    pub version: Version,
}

/// One of a store's newest reviews.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = NewestReview)]
pub struct Review {
    /// Its ID.
    pub id: EntityId,
    /// From 1 to 5.
    #[schema(minimum = 1, maximum = 5)]
    pub rating: u8,
    /// What the author thinks.
    pub text: String,
    /// Who wrote it.
    pub author: String,
    /// When it was first written.
    #[schema(format = "date-time")]
    pub created_at: String,
}

/// What only the page of a store shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = StoreDetails)]
pub struct Details {
    /// The street address.
    pub address: String,
    /// The phone number.
    pub phone: String,
    /// A description.
    pub description: String,
    /// What can be ordered, in the order that the store chose.
    pub menus: Vec<Menu>,
    /// The newest reviews, newest first: at most 10 of `rating.count`. The others are at review.
    #[schema(max_items = 10)]
    pub newest_reviews: Vec<Review>,
}

/// The page of a store.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = StorePage)]
pub struct Page {
    /// What a list shows, too.
    #[serde(flatten)]
    pub summary: Summary,
    /// The rest.
    #[serde(flatten)]
    pub details: Details,
}

/// What is known of a store.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// This service has never heard of it.
    Unknown,
    /// It was deleted.
    Deleted,
    /// It exists.
    There(Box<Page>),
}

row! {
    struct SummaryRow {
        id: String, name: String, category: String, region: String, neighbourhood: String, open: bool,
        min_order_amount: i64, delivery_fee: i64, version: i64, count: i64, sum: i64,
    }
}

row! {
    struct DetailsRow {
        id: String, address: String, phone: String, description: String, menus: String, newest: String,
    }
}

/// A row of both, and whether the store is deleted.
struct PageRow(SummaryRow, DetailsRow, bool);

impl<'r> FromRow<'r, AnyRow> for PageRow {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        let deleted = Field::of(row, "deleted")?;
        Ok(Self(SummaryRow::from_row(row)?, DetailsRow::from_row(row)?, deleted))
    }
}

/// The view of stores and reviews. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct View {
    db: Database,
}

impl View {
    /// The view in this database.
    pub fn new(db: Database) -> Self {
        Self { db }
    }

    /// The page of a store.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn page(&self, id: &EntityId) -> Result<Standing, sqlx::Error> {
        let details = details(self.db.kind());
        let sql = format!("SELECT {SUMMARY}, {details}, s.deleted {FROM} WHERE s.id = $1");
        let look = || {
            let query = sqlx::query_as(AssertSqlSafe(sql.clone())).bind(id.as_str());
            query.fetch_optional(self.db.reader())
        };
        let row: Option<PageRow> = self.db.run_afresh(look).await?;
        Ok(match row {
            None => Standing::Unknown,
            Some(PageRow(_, _, true)) => Standing::Deleted,
            Some(PageRow(summary, details, false)) => Standing::There(Box::new(Page {
                summary: summary.try_into()?,
                details: details.try_into()?,
            })),
        })
    }

    /// What lists show of those of these stores that exist.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn summaries(
        &self,
        ids: &[EntityId],
    ) -> Result<HashMap<EntityId, Summary>, sqlx::Error> {
        let sql = format!("SELECT {SUMMARY} {FROM}");
        let rows: Vec<SummaryRow> = self.those(sql, ids).await?;
        let keyed = |row: SummaryRow| Summary::try_from(row).map(|found| (found.id.clone(), found));
        rows.into_iter().map(keyed).collect()
    }

    /// What the pages of those of these stores that exist show besides.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn details(
        &self,
        ids: &[EntityId],
    ) -> Result<HashMap<EntityId, Details>, sqlx::Error> {
        let sql = format!("SELECT s.id, {} {FROM}", details(self.db.kind()));
        let rows: Vec<DetailsRow> = self.those(sql, ids).await?;
        let keyed = |row: DetailsRow| Ok((id_of(&row.id)?, row.try_into()?));
        rows.into_iter().map(keyed).collect()
    }

    /// The IDs of up to `limit` stores that pass, by name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn find(&self, filter: &Filter, limit: usize) -> Result<Vec<EntityId>, sqlx::Error> {
        let contains = self.db.pick("instr(name_key, $4)", "strpos(name_key, $4)");
        let sql = format!(
            "SELECT id FROM store WHERE deleted = 0 AND ($1 = '' OR region = $1) \
             AND ($2 = '' OR category = $2) AND ($3 < 0 OR open = $3) \
             AND ($4 = '' OR {contains} > 0) ORDER BY name_key, id LIMIT $5"
        );
        let look = || {
            sqlx::query_as(AssertSqlSafe(sql.clone()))
                .bind(filter.region.as_str())
                .bind(filter.category.as_str())
                .bind(filter.open.map_or(-1, i64::from))
                .bind(filter.name_key.as_str())
                .bind(limit as i64)
                .fetch_all(self.db.reader())
        };
        let rows: Vec<(String,)> = self.db.run_afresh(look).await?;
        rows.iter().map(|(id,)| id_of(id)).collect()
    }

    /// The rows of those of these stores that exist.
    async fn those<R>(&self, select: String, ids: &[EntityId]) -> Result<Vec<R>, sqlx::Error>
    where
        R: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        let these = strings(self.db.kind(), "$1");
        let sql = format!("{select} WHERE s.id IN {these} AND s.deleted = 0");
        let ids = serde_json::to_string(ids).map_err(|e| sqlx::Error::Encode(e.into()))?;
        let look = || {
            let query = sqlx::query_as(AssertSqlSafe(sql.clone())).bind(ids.as_str());
            query.fetch_all(self.db.reader())
        };
        self.db.run_afresh(look).await
    }
}

/// What only a page shows: the newest reviews as a JSON array, read from the index of each store's reviews.
fn details(kind: Kind) -> String {
    let (object, array) = match kind {
        Kind::Sqlite => ("json_object", "json_group_array"),
        Kind::Postgres => ("json_build_object", "json_agg"),
    };
    format!(
        "s.address, s.phone, s.description, coalesce(s.menus, 'null') AS menus, (\
         SELECT CAST(coalesce({array}({object}(\
         'id', v.id, 'rating', v.rating, 'text', v.text, 'author', v.author, 'created_at', v.created_at\
         ) ORDER BY v.id DESC), '[]') AS TEXT) FROM (\
         SELECT id, rating, text, author, created_at FROM review WHERE store_id = s.id \
         ORDER BY id DESC LIMIT {NEWEST_REVIEWS}) AS v) AS newest"
    )
}

fn id_of(text: &str) -> Result<EntityId, sqlx::Error> {
    EntityId::new(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

impl TryFrom<SummaryRow> for Summary {
    type Error = sqlx::Error;

    fn try_from(row: SummaryRow) -> Result<Self, sqlx::Error> {
        let version = Version::try_from(row.version);
        Ok(Self {
            id: id_of(&row.id)?,
            name: row.name,
            category: row.category,
            region: row.region,
            neighbourhood: row.neighbourhood,
            open: row.open,
            min_order_amount: row.min_order_amount,
            delivery_fee: row.delivery_fee,
            rating: Rating::of(row.count, row.sum),
            version: version.map_err(|error| sqlx::Error::Decode(error.into()))?,
        })
    }
}

impl TryFrom<DetailsRow> for Details {
    type Error = sqlx::Error;

    fn try_from(row: DetailsRow) -> Result<Self, sqlx::Error> {
        let wrong = |error: serde_json::Error| sqlx::Error::Decode(error.into());
        Ok(Self {
            address: row.address,
            phone: row.phone,
            description: row.description,
            menus: serde_json::from_str::<Option<_>>(&row.menus)
                .map_err(wrong)?
                .unwrap_or_default(),
            newest_reviews: serde_json::from_str(&row.newest).map_err(wrong)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_rounded_half_up_and_there_is_none_without_ratings() {
        assert_eq!(Rating::of(0, 0), Rating { average: None, count: 0 });
        assert_eq!(Rating::of(8, 33).average, Some(4.13));
        assert_eq!(Rating::of(3, 13).average, Some(4.33));
    }
}
