//! A read model without SQL, on both databases: `Mirror`.

use nudge_protocol::{EntityId, Version};
use nudge_runtime::{BoxError, Database, clock, row};
use nudge_subscriber_kit::{Apply, EntityState, Mirror};
use nudge_tests::{Random, TestDatabase};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    /// The entity's own ID, which gets no column.
    id: String,
    name: String,
    open: bool,
    /// An SQL keyword.
    order: i64,
    menu_names: Vec<String>,
    rating: Option<f64>,
}

/// The same store as an older release knew it.
#[derive(Serialize, Deserialize)]
struct Older {
    name: String,
}

row! {
    struct Found {
        name: String,
        open: bool,
        version: i64,
    }
}

fn stores() -> Mirror<Store> {
    Mirror::table("store")
        .column("nameLength", |store: &Store| store.name.chars().count() as u64)
        .version("version")
        .index(&["order", "id"])
}

fn entity<S: for<'de> Deserialize<'de>>(id: &str, version: u64, state: Value) -> EntityState<S> {
    EntityState {
        id: EntityId::new(id).unwrap(),
        version: Version::new(version).unwrap(),
        changed_at: clock::now(),
        state: serde_json::from_value(state).unwrap(),
    }
}

fn moon(open: bool) -> Value {
    json!({"id": "a", "name": "달빛국수", "open": open, "order": -3, "menuNames": ["국수", "it's"], "rating": 4.5})
}

fn star() -> Value {
    json!({"id": "b", "name": "", "open": true, "order": 7, "menuNames": [], "rating": null})
}

async fn apply<S>(
    db: &Database,
    mirror: &Mirror<S>,
    batch: &[EntityState<S>],
) -> Result<(), BoxError>
where
    Mirror<S>: Apply<State = S>,
{
    let mut tx = db.begin().await?;
    mirror.apply(&mut tx, batch).await?;
    Ok(tx.commit().await?)
}

async fn rows<S>(db: &Database, mirror: &Mirror<S>) -> Value
where
    S: Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let mut tx = db.begin().await.unwrap();
    json!(mirror.read_all(&mut tx).await.unwrap())
}

#[tokio::test]
async fn each_field_is_a_column_and_deleted_entities_have_no_row() {
    let database = TestDatabase::new().await;
    let (db, mirror) = (database.open().await, stores());
    mirror.prepare(&db).await.unwrap();
    let batch = [entity("a", 1, moon(false)), entity("b", 1, star())];
    apply(&db, &mirror, &batch).await.unwrap();
    let shown = json!({
        "a": {"name": "달빛국수", "open": false, "order": -3, "menuNames": ["국수", "it's"], "rating": 4.5, "nameLength": 4},
        "b": {"name": "", "open": true, "order": 7, "menuNames": [], "rating": null, "nameLength": 0},
    });
    assert_eq!(rows(&db, &mirror).await, shown);
    assert_eq!(mirror.expected(&moon(false)).unwrap(), shown["a"]);

    let batch =
        [entity("a", 2, moon(true)), entity("b", 2, Value::Null), entity("c", 9, Value::Null)];
    apply(&db, &mirror, &batch).await.unwrap();
    assert_eq!(rows(&db, &mirror).await, json!({"a": mirror.expected(&moon(true)).unwrap()}));
    let found: Found = sqlx::query_as(
        "SELECT name, open, version FROM store WHERE open = 1 AND \"nameLength\" = 4",
    )
    .fetch_one(db.reader())
    .await
    .unwrap();
    assert_eq!((found.name.as_str(), found.open, found.version), ("달빛국수", true, 2));
}

/// From the owner's JSON to the column, and back. (SQLite itself reads numbers such as 1e-300 less exactly.)
#[tokio::test]
async fn a_coordinate_is_kept_to_its_last_bit() {
    #[derive(Serialize, Deserialize)]
    struct Place {
        longitude: f64,
        latitude: Option<f64>,
    }

    let database = TestDatabase::new().await;
    let (db, mirror) = (database.open().await, Mirror::<Place>::table("place"));
    mirror.prepare(&db).await.unwrap();
    let mut random = Random::new(7);
    let degrees = |random: &mut Random| random.any() as f64 / u64::MAX as f64 * 360.0 - 180.0;
    let mut numbers: Vec<_> = (0..1_000).map(|_| degrees(&mut random)).collect();
    numbers.extend([0.1 + 0.2, 1.0 / 3.0, 5e15, -0.0]);
    let state = |number: f64| json!({"longitude": number, "latitude": number});
    let as_sent = |number| serde_json::from_str(&state(number).to_string()).unwrap();
    let id = |place: usize| format!("{place:04}");
    let sent = numbers.iter().enumerate();
    let batch: Vec<_> = sent.map(|(place, n)| entity(&id(place), 1, as_sent(*n))).collect();
    apply(&db, &mirror, &batch).await.unwrap();
    let select = "SELECT longitude FROM place ORDER BY id";
    let kept: Vec<(f64,)> = sqlx::query_as(select).fetch_all(db.reader()).await.unwrap();
    let shown = rows(&db, &mirror).await;
    for (place, number) in numbers.into_iter().enumerate() {
        assert_eq!(kept[place].0, number, "{number:e}");
        assert_eq!(shown[id(place)], mirror.expected(&state(number)).unwrap(), "{number:e}");
    }
}

#[tokio::test]
async fn a_field_that_is_added_becomes_a_column_of_the_table_that_is_there() {
    let database = TestDatabase::new().await;
    let db = database.open().await;
    let older = Mirror::<Older>::table("store");
    older.prepare(&db).await.unwrap();
    apply(&db, &older, &[entity("a", 1, json!({"name": "달빛국수"}))]).await.unwrap();

    let newer = stores();
    newer.prepare(&db).await.unwrap();
    newer.prepare(&db).await.unwrap();
    let empty = json!({"a": {"name": "달빛국수", "open": false, "order": 0, "menuNames": null, "rating": null, "nameLength": 0}});
    assert_eq!(rows(&db, &newer).await, empty);
    apply(&db, &newer, &[entity("a", 2, moon(true))]).await.unwrap();
    assert_eq!(rows(&db, &newer).await["a"], newer.expected(&moon(true)).unwrap());

    // The older release keeps running beside it.
    older.prepare(&db).await.unwrap();
    apply(&db, &older, &[entity("b", 1, json!({"name": "별빛김밥"}))]).await.unwrap();
    assert_eq!(rows(&db, &older).await["b"], json!({"name": "별빛김밥"}));
    assert_eq!(rows(&db, &newer).await["b"]["open"], json!(false));
}

#[tokio::test]
async fn a_column_of_another_type_refuses_the_start_by_name() {
    let database = TestDatabase::new().await;
    let db = database.open().await;
    db.write(sqlx::query("CREATE TABLE store (id TEXT PRIMARY KEY, name TEXT, open TEXT)"))
        .await
        .unwrap();
    let refused = stores().prepare(&db).await.unwrap_err().to_string();
    assert!(refused.starts_with("store.open is text, and the state needs bigint"), "{refused}");
}

#[tokio::test]
async fn replicas_that_start_together_make_one_table() {
    let database = TestDatabase::new().await;
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let db = database.open().await;
        starts.spawn(async move { stores().prepare(&db).await });
    }
    while let Some(started) = starts.join_next().await {
        started.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_deleted_entity_can_be_marked_and_holds_nothing() {
    let database = TestDatabase::new().await;
    let db = database.open().await;
    let mirror = Mirror::<Older>::table("store").mark_deleted("deleted");
    mirror.prepare(&db).await.unwrap();
    let batch = [entity("a", 1, json!({"name": "달빛국수"})), entity("b", 1, Value::Null)];
    apply(&db, &mirror, &batch).await.unwrap();
    apply(&db, &mirror, &[entity("a", 2, Value::Null)]).await.unwrap();
    let select = "SELECT id, name, deleted FROM store ORDER BY id";
    let found: Vec<(String, String, i64)> =
        sqlx::query_as(select).fetch_all(db.reader()).await.unwrap();
    assert_eq!(found, [("a".into(), String::new(), 1), ("b".into(), String::new(), 1)]);
    assert_eq!(rows(&db, &mirror).await, json!({}));
    apply(&db, &mirror, &[entity("a", 3, json!({"name": "별빛김밥"}))]).await.unwrap();
    assert_eq!(rows(&db, &mirror).await, json!({"a": {"name": "별빛김밥"}}));
}

#[tokio::test]
async fn sql_of_ones_own_is_in_the_same_transaction() {
    let database = TestDatabase::new().await;
    let db = database.open().await;
    db.write(sqlx::query("CREATE TABLE seen (id TEXT NOT NULL)")).await.unwrap();
    let mirror = Mirror::<Older>::table("store").with(|tx, entities| {
        Box::pin(async move {
            for entity in entities {
                let insert = sqlx::query("INSERT INTO seen VALUES ($1)").bind(entity.id.as_str());
                insert.execute(&mut **tx).await?;
            }
            match entities.iter().any(|entity| entity.id.as_str() == "bad") {
                true => Err("not this one".into()),
                false => Ok(()),
            }
        })
    });
    mirror.prepare(&db).await.unwrap();
    let good = || entity("a", 1, json!({"name": "달빛국수"}));
    apply(&db, &mirror, &[good(), entity("bad", 1, Value::Null)]).await.unwrap_err();
    assert_eq!(rows(&db, &mirror).await, json!({}));
    apply(&db, &mirror, &[good()]).await.unwrap();
    let (seen,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM seen").fetch_one(db.reader()).await.unwrap();
    assert_eq!((seen, rows(&db, &mirror).await), (1, json!({"a": {"name": "달빛국수"}})));
}
