//! The lists of users, on a real database, without a broker and without an owner.

use axum::{
    body::Body,
    http::{Method, Request},
};
use favourites::{
    StoreState,
    favourites::{COMPONENT, Favourites, MAX_FAVOURITES, MIGRATIONS},
    http, stores,
};
use nudge_subscriber_kit::{
    Mirror,
    testing::{Answer, ReadModel, ask},
};
use nudge_testbed::TestDatabase;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

struct World {
    stores: ReadModel<Mirror<StoreState>>,
    _database: TestDatabase,
}

impl World {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let stores = ReadModel::on(database.open().await, stores()).await;
        stores.database.migrate(COMPONENT, MIGRATIONS).await.unwrap();
        Self { stores, _database: database }
    }

    /// A world with open stores, of which each has its ID as its name.
    async fn with(ids: &[&str]) -> Self {
        let world = Self::new().await;
        for id in ids {
            world.stores.put(id, json!({"name": id, "open": true})).await;
        }
        world
    }

    async fn ask(&self, method: Method, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let favourites = Favourites::new(self.stores.database.clone());
        ask(http::routes().with_state(favourites), request).await
    }

    async fn add(&self, user: &str, store: &str) -> u16 {
        let path = format!("/users/{user}/favourites/{store}");
        self.ask(Method::PUT, &path).await.status.as_u16()
    }

    async fn remove(&self, user: &str, store: &str) -> u16 {
        let path = format!("/users/{user}/favourites/{store}");
        self.ask(Method::DELETE, &path).await.status.as_u16()
    }

    async fn list(&self, user: &str, query: &str) -> Value {
        let answer = self.ask(Method::GET, &format!("/users/{user}/favourites{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    async fn ids(&self, user: &str) -> Vec<String> {
        let page = self.list(user, "?limit=100").await;
        assert_eq!(page["next"], Value::Null);
        serde_json::from_value(page["ids"].clone()).unwrap()
    }

    async fn rows(&self) -> i64 {
        let sql = "SELECT count(*) FROM favourite";
        let (rows,) = sqlx::query_as(sql).fetch_one(self.stores.database.reader()).await.unwrap();
        rows
    }
}

#[tokio::test]
async fn a_list_shows_the_last_store_first_as_it_is_now() {
    let world = World::with(&["noodles", "coffee"]).await;
    assert_eq!(world.add("kim", "noodles").await, 201);
    assert_eq!(world.add("kim", "coffee").await, 201);
    world.stores.put("noodles", json!({"name": "달빛국수 망원점", "open": false})).await;
    let page = world.list("kim", "").await;
    let (first, second) = (&page["items"][0], &page["items"][1]);
    let times = (first["added_at"].as_str().unwrap(), second["added_at"].as_str().unwrap());
    assert!(times.0 > times.1, "{times:?}");
    assert_eq!(
        page,
        json!({
            "ids": ["coffee", "noodles"],
            "items": [
                {"id": "coffee", "name": "coffee", "open": true, "added_at": times.0},
                {"id": "noodles", "name": "달빛국수 망원점", "open": false, "added_at": times.1},
            ],
            "next": null,
        })
    );
    assert_eq!(world.ids("lee").await, [""; 0], "lists are their users'");
}

#[tokio::test]
async fn only_a_store_that_is_known_and_exists_can_be_added() {
    let world = World::with(&["gone"]).await;
    world.stores.delete("gone").await;
    for (store, status) in [("nobody", 404), ("gone", 410)] {
        let path = format!("/users/kim/favourites/{store}");
        let answer = world.ask(Method::PUT, &path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["status"].as_u64()),
            (status, Some(status.into()))
        );
    }
    assert_eq!(world.rows().await, 0);
}

#[tokio::test]
async fn a_deleted_store_is_gone_from_each_list_and_comes_back_in_its_place() {
    let world = World::with(&["a", "b", "c"]).await;
    for store in ["a", "b", "c"] {
        world.add("kim", store).await;
    }
    world.stores.delete("b").await;
    assert_eq!(world.ids("kim").await, ["c", "a"]);
    assert_eq!(world.add("kim", "b").await, 204, "it is kept all the same");
    world.stores.put("b", json!({"name": "again", "open": true})).await;
    assert_eq!(world.ids("kim").await, ["c", "b", "a"]);
    assert_eq!(world.list("kim", "").await["items"][1]["name"], "again");
}

#[tokio::test]
async fn a_list_outlives_the_copy_of_the_stores() {
    let world = World::with(&["a", "b"]).await;
    world.add("kim", "a").await;
    world.add("kim", "b").await;
    for table in ["known_store", "nudge_applied"] {
        let sql = AssertSqlSafe(format!("DELETE FROM {table}"));
        world.stores.database.write(sqlx::query(sql)).await.unwrap();
    }
    assert_eq!(world.ids("kim").await, [""; 0]);
    world.stores.put("b", json!({"name": "b", "open": true})).await;
    assert_eq!(world.ids("kim").await, ["b"]);
}

#[tokio::test]
async fn adding_and_removing_twice_is_the_same_as_once() {
    let world = World::with(&["a", "b"]).await;
    assert_eq!([world.add("kim", "a").await, world.add("kim", "b").await], [201, 201]);
    assert_eq!(world.add("kim", "a").await, 204);
    assert_eq!(world.ids("kim").await, ["b", "a"], "it keeps its place");
    for _ in 0..2 {
        assert_eq!(world.remove("kim", "b").await, 204);
        assert_eq!(world.ids("kim").await, ["a"]);
    }
    assert_eq!(world.remove("kim", "nobody").await, 204);
}

#[tokio::test]
async fn pages_miss_nothing_and_repeat_nothing_while_the_list_changes() {
    let ids: Vec<_> = (0..25).map(|n| format!("s{n:02}")).collect();
    let world = World::with(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for id in &ids {
        assert_eq!(world.add("kim", id).await, 201);
    }
    let first = world.list("kim", "?limit=10").await;
    assert_eq!(first["ids"][9], "s15");
    // The last of the page, one of the next page, and a new one.
    world.remove("kim", "s15").await;
    world.stores.delete("s12").await;
    world.stores.put("new", json!({"name": "new", "open": true})).await;
    world.add("kim", "new").await;
    let next = first["next"].as_str().unwrap();
    let second = world.list("kim", &format!("?limit=10&after={next}")).await;
    let expected: Vec<_> = (4..15).rev().filter(|n| *n != 12).map(|n| format!("s{n:02}")).collect();
    assert_eq!(second["ids"], json!(expected));
    let next = second["next"].as_str().unwrap();
    let third = world.list("kim", &format!("?limit=10&after={next}")).await;
    assert_eq!(
        (&third["ids"], &third["next"]),
        (&json!(["s03", "s02", "s01", "s00"]), &Value::Null)
    );
}

#[tokio::test]
async fn a_list_holds_a_thousand_stores() {
    let world = World::with(&["a", "b"]).await;
    let db = &world.stores.database;
    let rows: Vec<_> = (1..MAX_FAVOURITES).map(|n| format!("('kim', 'x{n}', 'x{n}', 0)")).collect();
    let kept = format!("INSERT INTO favourite VALUES {}", rows.join(", "));
    db.write(sqlx::query(AssertSqlSafe(kept))).await.unwrap();
    let copied = "INSERT INTO known_store (id, name, open, deleted) \
                  SELECT store_id, store_id, 1, 0 FROM favourite";
    db.write(sqlx::query(copied)).await.unwrap();
    assert_eq!([world.add("kim", "a").await, world.add("kim", "b").await], [201, 409]);
    assert_eq!(world.add("kim", "a").await, 204, "it is there");
    assert_eq!(world.add("lee", "b").await, 201);
    assert_eq!(world.rows().await, MAX_FAVOURITES + 1);
    // What is not shown takes no room.
    world.stores.delete("a").await;
    assert_eq!(world.add("kim", "b").await, 201);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_written() {
    let world = World::with(&["a"]).await;
    let list = "/users/kim/favourites";
    let long = "x".repeat(300);
    for (method, path, field) in [
        (Method::PUT, format!("/users/{long}/favourites/a"), "user"),
        (Method::PUT, "/users/%00/favourites/a".to_owned(), "user"),
        (Method::PUT, "/users/%FF/favourites/a".to_owned(), "user"),
        (Method::PUT, format!("{list}/{long}"), "store"),
        (Method::PUT, format!("{list}/%0A"), "store"),
        (Method::DELETE, format!("{list}/{long}"), "store"),
        (Method::GET, format!("/users/{long}/favourites"), "user"),
        (Method::GET, format!("{list}?limit=0"), "limit"),
        (Method::GET, format!("{list}?limit=101"), "limit"),
        (Method::GET, format!("{list}?limit=ten"), "limit"),
        (Method::GET, format!("{list}?after=zz"), "after"),
        (Method::GET, format!("{list}?offset=1"), "offset"),
    ] {
        let answer = world.ask(method.clone(), &path).await;
        let problem = answer.json();
        assert_eq!(answer.status, 400, "{method} {path} {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{method} {path} {problem}");
    }
    assert_eq!(world.rows().await, 0);
}

/// Also an ID that means something in a path, or in SQL.
#[tokio::test]
async fn any_id_can_be_kept() {
    for id in ["a/b", "it's", "가게", "import", "%2F", "x?y=z#"] {
        let world = World::with(&[id]).await;
        let store =
            nudge_protocol::subject::encode_token(&nudge_protocol::EntityId::new(id).unwrap());
        assert_eq!(world.add(&store, &store).await, 201, "{id}");
        let kept = world.list(&store, "").await;
        assert_eq!(kept["ids"], json!([id]));
        assert_eq!(world.remove(&store, &store).await, 204);
        assert_eq!(world.rows().await, 0, "{id}");
    }
}
