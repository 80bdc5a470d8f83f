//! Two entities of two owners in one read model: the traps, and that each way around them holds.

use std::collections::BTreeSet;

use nudge_runtime::{BoxError, Database, Tx, database::Migration};
use nudge_subscriber_kit::{Apply, EntityState, Mirror, Subscriber, testing::ReadModel};
use nudge_tests::{Nats, Owner, TestDatabase, copy::quick, eventually};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Store {
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Review {
    store_id: String,
}

const TABLES: &[Migration] = &[Migration {
    number: 1,
    title: "reviews that refer to stores",
    sqlite: "CREATE TABLE store (id TEXT PRIMARY KEY);
        CREATE TABLE strict (id TEXT PRIMARY KEY, store_id TEXT NOT NULL REFERENCES store (id));
        CREATE TABLE total (store_id TEXT PRIMARY KEY, count BIGINT NOT NULL);",
    postgres: "CREATE TABLE store (id TEXT PRIMARY KEY);
        CREATE TABLE strict (id TEXT PRIMARY KEY, store_id TEXT NOT NULL REFERENCES store (id));
        CREATE TABLE total (store_id TEXT PRIMARY KEY, count BIGINT NOT NULL);",
}];

/// One row of each entity, in the simplest way.
async fn write(tx: &mut Tx, sql: &'static str, of: &[&str]) -> Result<(), BoxError> {
    let query = of.iter().fold(sqlx::query(sql), |query, value| query.bind(value.to_string()));
    query.execute(&mut **tx).await?;
    Ok(())
}

/// Stores that others refer to.
struct Stores;

impl Apply for Stores {
    type State = Store;

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        Ok(db.migrate("two-owners", TABLES).await?)
    }

    async fn apply(&self, tx: &mut Tx, stores: &[EntityState<Store>]) -> Result<(), BoxError> {
        for store in stores {
            write(tx, "INSERT INTO store VALUES ($1)", &[store.id.as_str()]).await?;
        }
        Ok(())
    }
}

/// The trap: reviews whose table refers to that of stores.
struct Strict;

impl Apply for Strict {
    type State = Review;

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        Stores.prepare(db).await
    }

    async fn apply(&self, tx: &mut Tx, reviews: &[EntityState<Review>]) -> Result<(), BoxError> {
        for EntityState { id, state, .. } in reviews {
            let store = state.as_ref().map_or("", |state| &state.store_id);
            write(tx, "INSERT INTO strict VALUES ($1, $2)", &[id.as_str(), store]).await?;
        }
        Ok(())
    }
}

/// The trap: a sum that each change is added to, and that a deletion is taken from if it is known whose it was.
struct AddingUp;

impl Apply for AddingUp {
    type State = Review;

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        Stores.prepare(db).await
    }

    async fn apply(&self, tx: &mut Tx, reviews: &[EntityState<Review>]) -> Result<(), BoxError> {
        let sql = "INSERT INTO total VALUES ($1, 1) ON CONFLICT (store_id) DO UPDATE SET count = total.count + 1";
        for state in reviews.iter().filter_map(|review| review.state.as_ref()) {
            write(tx, sql, &[&state.store_id]).await?;
        }
        Ok(())
    }
}

/// The way around it: counted from the rows that are here, for the stores named by the new rows and by the old.
struct Counting(Mirror<Review>);

impl Apply for Counting {
    type State = Review;

    fn revision(&self) -> i64 {
        self.0.revision()
    }

    async fn prepare(&self, db: &Database) -> Result<(), BoxError> {
        self.0.prepare(db).await?;
        Stores.prepare(db).await
    }

    async fn apply(&self, tx: &mut Tx, reviews: &[EntityState<Review>]) -> Result<(), BoxError> {
        let mut stores = BTreeSet::new();
        for review in reviews {
            let sql = "SELECT store_id FROM review WHERE id = $1";
            let before = sqlx::query_scalar::<_, String>(sql).bind(review.id.as_str());
            stores.extend(before.fetch_optional(&mut **tx).await?);
            stores.extend(review.state.iter().map(|state| state.store_id.clone()));
        }
        self.0.apply(tx, reviews).await?;
        for store in &stores {
            let sql = "INSERT INTO total SELECT $1, count(*) FROM review WHERE store_id = $1 \
                       ON CONFLICT (store_id) DO UPDATE SET count = excluded.count";
            write(tx, sql, &[store]).await?;
        }
        Ok(())
    }
}

async fn total(db: &Database, store: &str) -> i64 {
    let sql = "SELECT count FROM total WHERE store_id = $1";
    let count = sqlx::query_scalar::<_, i64>(sql).bind(store.to_owned());
    count.fetch_optional(db.reader()).await.unwrap().unwrap_or(0)
}

/// What happens to the reviews of a store in a day.
async fn a_day<A: Apply>(handler: A) -> (i64, i64) {
    let database = TestDatabase::new().await;
    let reviews = ReadModel::of(database.open().await, "review", handler).await;
    reviews.put("1", json!({"store_id": "a"})).await;
    reviews.put("1", json!({"store_id": "a"})).await;
    reviews.put("2", json!({"store_id": "a"})).await;
    reviews.delete("2").await;
    reviews.put("3", json!({"store_id": "a"})).await;
    reviews.put("3", json!({"store_id": "b"})).await;
    let totals = (total(&reviews.database, "a").await, total(&reviews.database, "b").await);
    reviews.database.close().await;
    totals
}

#[tokio::test]
async fn what_is_added_up_goes_wrong_with_changes_and_deletions_and_what_is_counted_does_not() {
    assert_eq!(a_day(AddingUp).await, (4, 1), "one review of a, and one of b");
    assert_eq!(a_day(Counting(Mirror::table("review"))).await, (1, 1));
}

/// A subscriber of stores and reviews, whose owners are these.
async fn follow<A: Apply>(
    db: &Database,
    nats: &Nats,
    owners: [&Owner; 2],
    reviews: A,
    optional: &str,
) -> (Subscriber, CancellationToken) {
    let (broker, stop) = (nats.broker("both").await, CancellationToken::new());
    let builder = Subscriber::builder("both", db, &broker)
        .follow("store", &owners[0].url(), Stores)
        .follow("review", &owners[1].url(), reviews)
        .optional(optional)
        .settings(quick());
    (builder.start(stop.clone()).await.expect("it starts"), stop)
}

async fn store_is_there(db: &Database) {
    eventually("the store is there", || async {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM store");
        (count.fetch_one(db.reader()).await.ok()? == 1).then_some(())
    })
    .await;
}

/// How many reviews are applied, and how many are dead letters.
async fn reviews(db: &Database) -> (i64, i64) {
    let count = async |sql| sqlx::query_scalar::<_, i64>(sql).fetch_one(db.reader()).await.unwrap();
    (
        count("SELECT count(*) FROM nudge_applied WHERE entity = 'review'").await,
        count("SELECT count(*) FROM nudge_dead_letter WHERE entity = 'review' AND next_at IS NULL")
            .await,
    )
}

#[tokio::test]
async fn a_foreign_key_makes_a_dead_letter_of_what_is_early_and_a_join_shows_it() {
    let (nats, database) = (Nats::start().await, TestDatabase::new().await);
    let broker = nats.broker("owners").await;
    let stores = Owner::start_silent_of("store").await;
    let written = Owner::start_silent_of("review").await;
    let relays = [stores.second_relay(&broker), written.second_relay(&broker)];
    written.put("7", json!({"store_id": "a"})).await;
    let db = database.open().await;
    let (subscriber, stop) = follow(&db, &nats, [&stores, &written], Strict, "").await;
    eventually("it is a dead letter", || async { (reviews(&db).await == (0, 1)).then_some(()) })
        .await;
    // The store comes, and the review does not.
    stores.put("a", json!({"name": "달빛"})).await;
    store_is_there(&db).await;
    assert_eq!(reviews(&db).await, (0, 1));
    stop.cancel();
    subscriber.stopped().await;

    // Without the constraint, it is there before its store is, and shown with it.
    let other = TestDatabase::new().await;
    let db = other.open().await;
    let mirror = Mirror::<Review>::table("review");
    let (subscriber, stop) = follow(&db, &nats, [&stores, &written], mirror, "").await;
    eventually("both are shown", || async {
        let sql = "SELECT count(*) FROM store AS s JOIN review AS r ON r.store_id = s.id";
        let shown = sqlx::query_scalar::<_, i64>(sql).fetch_one(db.reader()).await.ok()?;
        (shown == 1 && reviews(&db).await == (1, 0)).then_some(())
    })
    .await;
    stop.cancel();
    subscriber.stopped().await;
    relays.iter().for_each(|relay| relay.abort());
}

#[tokio::test]
async fn an_entity_that_nobody_owns_yet_holds_up_the_service_unless_it_is_optional() {
    let nats = Nats::start().await;
    let broker = nats.broker("owners").await;
    let stores = Owner::start_silent_of("store").await;
    let written = Owner::start_silent_of("review").await;
    stores.second_relay(&broker);
    stores.put("a", json!({"name": "달빛"})).await;
    let databases = [TestDatabase::new().await, TestDatabase::new().await];
    let (waiting, going_on) = (databases[0].open().await, databases[1].open().await);
    let mirror = || Mirror::<Review>::table("review");
    let owners = [&stores, &written];
    let (waits, stop_waiting) = follow(&waiting, &nats, owners, mirror(), "").await;
    let (goes_on, stop) = follow(&going_on, &nats, owners, mirror(), "review").await;
    eventually("it is ready", || async { goes_on.is_ready().then_some(()) }).await;
    store_is_there(&waiting).await;
    assert!(!waits.is_ready());
    // Somebody owns reviews from now on.
    written.second_relay(&broker);
    written.put("7", json!({"store_id": "a"})).await;
    eventually("both have it", || async {
        assert!(goes_on.is_ready(), "once ready, it stays so");
        let both = (reviews(&waiting).await, reviews(&going_on).await) == ((1, 0), (1, 0));
        (both && waits.is_ready()).then_some(())
    })
    .await;
    stop.cancel();
    stop_waiting.cancel();
    waits.stopped().await;
    goes_on.stopped().await;
}
