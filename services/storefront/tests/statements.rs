//! How many statements of the database an answer takes.

/// Counts what this whole process does, so it has one of its own, as nextest gives it to each test.
mod counted {
    use std::{
        fmt::Debug,
        sync::{Mutex, OnceLock},
    };

    use nudge_runtime::Database;
    use tracing::field::{Field, Visit};
    use tracing_subscriber::{
        Layer,
        layer::{Context, SubscriberExt},
        util::SubscriberInitExt,
    };

    static STATEMENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

    /// Hears each statement from the database driver.
    struct Ear;

    /// One of them. Its text is in one field if it is short, and in the other if it is not.
    #[derive(Default)]
    struct Statement {
        summary: String,
        whole: String,
    }

    impl Visit for Statement {
        fn record_str(&mut self, field: &Field, value: &str) {
            match field.name() {
                "summary" => value.clone_into(&mut self.summary),
                "db.statement" => value.trim().clone_into(&mut self.whole),
                _ => {}
            }
        }

        fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
    }

    impl<S: tracing::Subscriber> Layer<S> for Ear {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            if event.metadata().target() == "sqlx::query" {
                let mut heard = Statement::default();
                event.record(&mut heard);
                let text = if heard.whole.is_empty() { heard.summary } else { heard.whole };
                // What prepares a new connection is no part of an answer.
                if !["PRAGMA", "SET"].iter().any(|word| text.trim_start().starts_with(word)) {
                    STATEMENTS.lock().unwrap().push(text);
                }
            }
        }
    }

    /// The statements that run from the first call of this on.
    pub(crate) fn listen() {
        static STARTED: OnceLock<()> = OnceLock::new();
        STARTED.get_or_init(|| tracing_subscriber::registry().with(Ear).init());
        STATEMENTS.lock().unwrap().clear();
    }

    /// What has run since. It closes the database, since a driver's thread may tell of a statement after it has answered.
    pub(crate) async fn heard(database: &Database) -> Vec<String> {
        database.close().await;
        std::mem::take(&mut *STATEMENTS.lock().unwrap())
    }
}

use serde_json::{Value, json};

use crate::support::World;
use counted::{heard, listen};

async fn fifty() -> (World, Vec<String>) {
    let ids: Vec<_> = (0..50).map(|n| format!("s{n:02}")).collect();
    let all: Vec<_> = ids.iter().map(String::as_str).collect();
    let world = World::with_stores(&all).await;
    for (n, id) in (1..=5).cycle().zip(&ids) {
        world.review(&format!("r-{id}"), id, n).await;
    }
    world.source.chooses(&all, None);
    (world, ids)
}

/// How many statements read the view, and how many of these read what only pages show.
async fn reads(world: &World) -> (usize, usize) {
    let all = heard(&world.stores.database).await;
    let view: Vec<_> = all.iter().filter(|text| text.contains("FROM store AS s")).collect();
    (view.len(), view.iter().filter(|text| text.contains("s.menus")).count())
}

#[tokio::test]
async fn a_page_takes_one_statement() {
    let (world, _) = fifty().await;
    listen();
    assert_eq!(world.page("s00").await["rating"]["count"], 1);
    assert_eq!(reads(&world).await, (1, 1));
}

#[tokio::test]
async fn a_list_of_fifty_stores_takes_one_statement() {
    let (world, ids) = fifty().await;
    listen();
    assert_eq!(world.list("source=search&limit=50").await["ids"], json!(ids));
    assert_eq!(reads(&world).await, (1, 0));
}

#[tokio::test]
async fn a_graphql_list_of_fifty_stores_with_ratings_takes_one_statement() {
    let (world, _) = fifty().await;
    listen();
    let query = "{ search(limit: 50) { items { id name rating { average count } } } }";
    let answer = world.query(query).await;
    let items = answer["data"]["search"]["items"].as_array().unwrap();
    let expected = json!({"id": "s04", "name": "s04", "rating": {"average": 5.0, "count": 1}});
    assert_eq!((items.len(), &items[4]), (50, &expected), "{answer}");
    assert_eq!(reads(&world).await, (1, 0));
}

#[tokio::test]
async fn what_only_pages_show_takes_one_more_for_the_whole_list() {
    let (world, _) = fifty().await;
    listen();
    let query = "{ search(limit: 50) { items { id phone menus { name } newestReviews(first: 1) { id } } } }";
    let answer = world.query(query).await;
    let items = answer["data"]["search"]["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[49]["newestReviews"]), (50, &json!([{"id": "r-s49"}])));
    assert_eq!(reads(&world).await, (2, 1));
}

#[tokio::test]
async fn stores_that_are_asked_for_one_by_one_are_read_together() {
    let (world, ids) = fifty().await;
    listen();
    let field = |id: &String| format!("{id}: store(id: \"{id}\") {{ name }}");
    let fields: Vec<_> = ids.iter().map(field).collect();
    let answer = world.query(&format!("{{ {} }}", fields.join(" "))).await;
    assert_eq!((&answer["data"]["s49"]["name"], &answer["errors"]), (&json!("s49"), &Value::Null));
    // The loader waits for a millisecond for more of them, which under load is not always enough for all.
    let (count, _) = reads(&world).await;
    assert!(count <= 5, "{count} statements");
}

mod once {
    use sqlx::AssertSqlSafe;

    use super::{fifty, heard, listen};
    use crate::support::review;

    /// However many reviews there are, of however many stores.
    #[tokio::test]
    async fn nothing_that_is_read_or_applied_reads_a_whole_table() {
        let (world, _) = fifty().await;
        listen();
        world.page("s00").await;
        world.list("source=search&limit=50").await;
        world.query("{ stores(ids: [\"s00\"]) { phone newestReviews { id } } }").await;
        world.review("r-s00", "s01", 3).await;
        assert!(world.reviews.holds("r-s00", review("s01", 3)).await);
        world.reviews.delete("r-s00").await;
        let texts = heard(&world.stores.database).await;
        let database = world.database.open().await;
        let own = |text: &&String| {
            ["review", "rating", "FROM store"].iter().any(|table| text.contains(table))
                && !["nudge_", "BEGIN", "COMMIT"].iter().any(|kit| text.contains(kit))
        };
        let mut looked_at = 0;
        for text in texts.iter().filter(own) {
            let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(sql).fetch_all(database.reader()).await.unwrap();
            for (_, _, _, step) in &plan {
                let table = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
                let whole =
                    table.is_some_and(|table| ["store", "s", "review", "rating"].contains(&table));
                assert!(!whole, "{step}, in {plan:#?} of {text}");
            }
            looked_at += 1;
        }
        assert!(looked_at >= 15, "{looked_at} of {texts:#?}");
    }
}
