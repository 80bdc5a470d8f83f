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

    impl Visit for Ear {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            let text = format!("{value:?}");
            // What prepares a new connection is no part of an answer.
            let prepares = ["PRAGMA", "SET"].iter().any(|word| text.contains(word));
            if field.name() == "summary" && !prepares {
                STATEMENTS.lock().unwrap().push(text);
            }
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Ear {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            if event.metadata().target() == "sqlx::query" {
                event.record(&mut Ear);
            }
        }
    }

    /// How many statements run until this is done.
    pub(crate) async fn statements<T>(work: impl Future<Output = T>) -> (usize, T) {
        static STARTED: OnceLock<()> = OnceLock::new();
        STARTED.get_or_init(|| tracing_subscriber::registry().with(Ear).init());
        STATEMENTS.lock().unwrap().clear();
        let done = work.await;
        let statements = std::mem::take(&mut *STATEMENTS.lock().unwrap());
        println!("{statements:#?}");
        (statements.len(), done)
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
