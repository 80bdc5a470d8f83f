//! How many statements of the database an answer takes.

/// Counts what this whole process does, so it has one of its own, as nextest gives it to each test.
mod counted {
    use std::{
        fmt::Debug,
        sync::{Mutex, OnceLock},
    };

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

    /// The statements that run until this is done.
    pub(crate) async fn heard<T>(work: impl Future<Output = T>) -> (Vec<String>, T) {
        static STARTED: OnceLock<()> = OnceLock::new();
        STARTED.get_or_init(|| tracing_subscriber::registry().with(Ear).init());
        STATEMENTS.lock().unwrap().clear();
        let done = work.await;
        (std::mem::take(&mut *STATEMENTS.lock().unwrap()), done)
    }

    /// How many statements run until this is done.
    pub(crate) async fn statements<T>(work: impl Future<Output = T>) -> (usize, T) {
        let (texts, done) = heard(work).await;
        println!("{texts:#?}");
        (texts.len(), done)
    }
}

use serde_json::{Value, json};

use crate::support::World;
use counted::statements;

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

#[tokio::test]
async fn pages_and_lists_take_one_statement_and_graphql_no_more() {
    let (world, ids) = fifty().await;
    let (count, page) = statements(world.page("s00")).await;
    assert_eq!((count, &page["rating"]["count"]), (1, &json!(1)));
    let (count, list) = statements(world.list("source=search&limit=50")).await;
    assert_eq!((count, &list["ids"]), (1, &json!(ids)));

    let query = "{ search(limit: 50) { items { id name rating { average count } } } }";
    let (count, answer) = statements(world.query(query)).await;
    let items = answer["data"]["search"]["items"].as_array().unwrap();
    assert_eq!((count, items.len()), (1, 50), "{answer}");
    assert_eq!(
        items[4],
        json!({"id": "s04", "name": "s04", "rating": {"average": 5.0, "count": 1}})
    );

    // One more for what only pages show, however many stores there are.
    let query = "{ search(limit: 50) { items { id phone menus { name } newestReviews(first: 1) { id } } } }";
    let (count, answer) = statements(world.query(query)).await;
    let items = answer["data"]["search"]["items"].as_array().unwrap();
    assert_eq!((count, items.len()), (2, 50), "{answer}");
    let expected = json!([{"id": "r-s49"}]);
    assert_eq!(items[49]["newestReviews"], expected);

    // Also for stores that are asked for one by one.
    let fields: Vec<_> =
        ids.iter().map(|id| format!("{id}: store(id: \"{id}\") {{ name }}")).collect();
    let query = format!("{{ {} }}", fields.join(" "));
    let (count, answer) = statements(world.query(&query)).await;
    assert_eq!((count, answer["errors"].clone()), (1, Value::Null));
    assert_eq!(answer["data"]["s49"]["name"], "s49");
}

mod once {
    use sqlx::AssertSqlSafe;

    use super::{counted::heard, fifty};
    use crate::support::review;

    /// However many reviews there are, of however many stores.
    #[tokio::test]
    async fn nothing_that_is_read_or_applied_reads_a_whole_table() {
        let (world, _) = fifty().await;
        let all = async {
            world.page("s00").await;
            world.list("source=search&limit=50").await;
            world.query("{ stores(ids: [\"s00\"]) { phone newestReviews { id } } }").await;
            world.review("r-s00", "s01", 3).await;
            assert!(world.reviews.holds("r-s00", review("s01", 3)).await);
            world.reviews.delete("r-s00").await;
        };
        let (texts, ()) = heard(all).await;
        let own = |text: &&String| {
            ["review", "rating", "FROM store"].iter().any(|table| text.contains(table))
                && !["nudge_", "BEGIN", "COMMIT"].iter().any(|kit| text.contains(kit))
        };
        let mut looked_at = 0;
        for text in texts.iter().filter(own) {
            let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(sql).fetch_all(world.stores.database.reader()).await.unwrap();
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
