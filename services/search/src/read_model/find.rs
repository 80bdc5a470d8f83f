//! From a search to a page of results: one statement, so one snapshot.

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{Database, database::Kind, paging::cut, row};
use serde::Serialize;
use sqlx::{Any, Arguments, AssertSqlSafe, Encode, Type, any::AnyArguments};
use utoipa::ToSchema;

use crate::{
    bigram,
    cursor::Cursor,
    query::{StoreQuery, Text},
};

/// One store found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Item {
    /// The store's ID.
    pub id: EntityId,
    /// Its name.
    pub name: String,
    /// Its category; empty if its owner gave none.
    pub category: String,
    /// Its region; empty if its owner gave none.
    pub region: String,
    /// Whether it takes orders.
    pub open: bool,
    /// The owner's version of this state.
    pub version: Version,
}

/// A page of results, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The stores found.
    pub items: Vec<Item>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<Cursor>,
}

row! {
    struct Found {
        id: String,
        name: String,
        category: String,
        category_written: Option<String>,
        region: String,
        region_written: Option<String>,
        open: i64,
        version: i64,
        name_key: String,
        tier: i64,
    }
}

/// Finds one page, ordered by how closely names match the text (see [`Cursor::tier`]), then by name, then by
/// ID.
pub async fn find(db: &Database, query: &StoreQuery) -> Result<Page, sqlx::Error> {
    if query.text.as_ref().is_some_and(Text::is_empty) {
        return Ok(Page { items: Vec::new(), next: None });
    }
    let look = || {
        let (sql, values) = statement(db.kind(), query);
        sqlx::query_as_with::<_, Found, _>(AssertSqlSafe(sql), values).fetch_all(db.reader())
    };
    let mut found = db.run_afresh(look).await?;
    let next = cut(&mut found, query.limit, |last| {
        let id = stored(EntityId::new(&last.id))?;
        Ok::<_, sqlx::Error>(Cursor { tier: last.tier, name_key: last.name_key.clone(), id })
    });
    let next = next.transpose()?;
    let items = found.into_iter().map(item).collect::<Result<_, _>>()?;
    Ok(Page { items, next })
}

fn item(found: Found) -> Result<Item, sqlx::Error> {
    let Found { id, name, open, version, .. } = found;
    let category = written(found.category, found.category_written);
    let region = written(found.region, found.region_written);
    let (id, version) = (stored(EntityId::new(&id))?, stored(Version::try_from(version))?);
    Ok(Item { id, name, category, region, open: open != 0, version })
}

/// A text as its owner wrote it, unless an older release has applied the store since and did not store that.
fn written(composed: String, written: Option<String>) -> String {
    written.filter(|written| bigram::composed(written) == composed).unwrap_or(composed)
}

/// A value that was checked before it was stored.
fn stored<T, E>(value: Result<T, E>) -> Result<T, sqlx::Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    value.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The statement for a search, which asks for one row more than the page holds. It contains only the conditions
/// of this search, so that the database can choose the index that fits them.
fn statement(kind: Kind, query: &StoreQuery) -> (String, AnyArguments) {
    let mut values = AnyArguments::default();
    let (source, mut conditions) = match &query.text {
        None => ("SELECT store.*, CAST(0 AS BIGINT) AS tier FROM store".to_owned(), Vec::new()),
        Some(text) => matches(kind, text, &mut values),
    };
    for (column, wanted) in [("category", &query.category), ("region", &query.region)] {
        if let Some(wanted) = wanted {
            conditions.push(format!("store.{column} = {}", bind(&mut values, wanted.as_str())));
        }
    }
    if let Some(open) = query.open {
        conditions.push(format!("store.open = {}", bind(&mut values, i64::from(open))));
    }
    let filter = match conditions.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", conditions.join(" AND ")),
    };
    // Without a cursor, start before everything: no ID is empty.
    let (tier, name_key, id) = match &query.after {
        Some(cursor) => (cursor.tier, &*cursor.name_key, cursor.id.as_str()),
        None => (0, "", ""),
    };
    // Without a text all rows are in one tier; leaving it out lets an index provide the order.
    let (order, place) = match &query.text {
        Some(_) => ("tier, name_key, id", format!("{}, ", bind(&mut values, tier))),
        None => ("name_key, id", String::new()),
    };
    let place = format!("{place}{}, {}", bind(&mut values, name_key), bind(&mut values, id));
    let limit = bind(&mut values, query.limit as i64 + 1);
    let sql = format!(
        "SELECT id, name, category, category_written, region, region_written, open, version, \
         name_key, tier \
         FROM ({source}{filter}) AS found \
         WHERE ({order}) > ({place}) ORDER BY {order} LIMIT {limit}"
    );
    (sql, values)
}

/// Selects the stores that a text matches, by the text index, with the tier of each.
fn matches(kind: Kind, text: &Text, values: &mut AnyArguments) -> (String, Vec<String>) {
    let name = bind(values, text.name_key());
    let (index, condition) = match kind {
        // CROSS JOIN keeps SQLite from querying the index once for each store.
        Kind::Sqlite => {
            let expression = bind(values, text.expression(kind));
            let matches = format!("store_words MATCH {expression}");
            ("store_words CROSS JOIN ", format!("{matches} AND store.row = store_words.rowid"))
        }
        Kind::Postgres => ("", matches_on_postgres(text, values)),
    };
    // The values hold only letters and digits, so the patterns have no wildcards but these.
    let source = format!(
        "SELECT store.*, CAST(CASE WHEN store.name_key = {name} THEN 0 \
         WHEN store.name_key LIKE {name} || '%' THEN 1 \
         WHEN store.name_key LIKE '%' || {name} || '%' THEN 2 \
         ELSE 3 END AS BIGINT) AS tier FROM {index}store"
    );
    (source, vec![condition])
}

/// The index finds the rows that have all pairs of characters; the text shows whether the pairs follow one
/// another. Where the text is missing or belongs to another version, the positions in the index have to do,
/// although it does not record all of them.
fn matches_on_postgres(text: &Text, values: &mut AnyArguments) -> String {
    let parts = bind(values, text.parts());
    let parts = format!("store.words @@ CAST({parts} AS tsquery)");
    let long = text.long_words().map(|word| {
        let word = bind(values, word);
        format!("store.lines LIKE '%' || {word} || '%'")
    });
    let long: Vec<_> = long.collect();
    if long.is_empty() {
        return parts;
    }
    let phrases = bind(values, text.expression(Kind::Postgres));
    format!(
        "{parts} AND CASE WHEN store.lines_version = store.version THEN {} \
         ELSE store.words @@ CAST({phrases} AS tsquery) END",
        long.join(" AND ")
    )
}

/// Adds a value to a statement and returns its placeholder.
fn bind<'t>(values: &mut AnyArguments, value: impl Encode<'t, Any> + Type<Any>) -> String {
    values.add(value).expect("texts and numbers can always be bound");
    format!("${}", values.len())
}

#[cfg(test)]
mod tests {
    use nudge_runtime::database::Durability;

    use nudge_testbed::TestDatabase;
    use sqlx::Row;

    use super::*;

    /// The query plan in the database's own words.
    async fn plan(
        db: &Database,
        text: Option<&str>,
        region: Option<&str>,
        category: Option<&str>,
    ) -> Vec<String> {
        let some = |text: Option<&str>| text.map(str::to_owned);
        let text = text.map(Text::new);
        let (region, category) = (some(region), some(category));
        let query = StoreQuery { text, category, region, open: Some(true), limit: 20, after: None };
        let (sql, values) = statement(db.kind(), &query);
        let explain = db.pick("EXPLAIN QUERY PLAN", "EXPLAIN");
        let statement = sqlx::query_with(AssertSqlSafe(format!("{explain} {sql}")), values);
        let steps = statement.fetch_all(db.reader()).await.unwrap();
        steps.iter().map(|step| step.get(step.len() - 1)).collect()
    }

    #[tokio::test]
    async fn every_search_goes_by_an_index() {
        let db = Database::open("sqlite::memory:", Durability::Refillable).await.unwrap();
        crate::read_model::migrate(&db).await.unwrap();
        let by_text = "SCAN store_words VIRTUAL TABLE INDEX 0:M1";
        for (text, region, category, step) in [
            (Some("커피"), None, None, by_text),
            (Some("커"), None, None, by_text),
            (Some("커피 빈"), Some("강남구"), Some("cafe"), by_text),
            (None, None, None, "SEARCH store USING INDEX store_by_name "),
            (None, Some("강남구"), None, "SEARCH store USING INDEX store_by_region "),
            (None, None, Some("cafe"), "SEARCH store USING INDEX store_by_category "),
            (None, Some("강남구"), Some("cafe"), "SEARCH store USING INDEX store_by_"),
        ] {
            let steps = plan(&db, text, region, category).await;
            let has = |part: &str| steps.iter().any(|step| format!("{step} ").contains(part));
            assert!(has(step) && !has("SCAN store "), "{steps:?}");
            match text {
                Some(_) => assert!(has("SEARCH store USING INTEGER PRIMARY KEY"), "{steps:?}"),
                None => assert!(!has("ORDER BY"), "the index gives the order: {steps:?}"),
            }
        }
    }

    #[tokio::test]
    async fn on_postgresql_part_of_a_word_is_found_by_an_index() {
        let database = TestDatabase::of(Kind::Postgres).await;
        let db = database.open().await;
        crate::read_model::migrate(&db).await.unwrap();
        // Enough rows that reading all of them is not the quickest way.
        let fill = "INSERT INTO store (id, version, name, category, region, open, name_key, words) \
             SELECT n::text, 1, 'name', '', '', 1, 'name ' || n, \
             to_tsvector('simple', '가게 ' || n || CASE n % 100 WHEN 0 THEN ' 커피' ELSE '' END) \
             FROM generate_series(1, 20000) AS n";
        db.write(sqlx::query(fill)).await.unwrap();
        nudge_testbed::database::execute(database.url(), "VACUUM ANALYZE store").await;
        for text in ["커피", "커", "커피 1", "커피빈", "가게 커피빈"] {
            let steps = plan(&db, Some(text), None, None).await.join("\n");
            assert!(steps.contains("Index Scan on store_words"), "{text}: {steps}");
            assert!(!steps.contains("Seq Scan"), "{text}: {steps}");
        }
        let steps = plan(&db, None, None, None).await.join("\n");
        assert!(steps.contains("Index Scan using store_by_name"), "{steps}");
    }
}
