//! The service without a broker: its endpoints, and what it answers subscribers.

use my_service::{entity, http, service, storage};

use nudge_publisher::Publisher;
use nudge_subscriber_kit::{
    axum::{Router, http::Method},
    runtime::{Database, database::Durability},
    serde_json::{Value, json},
    testing::send,
    tokio,
};

/// The service's routes on a database in memory.
async fn routes() -> Router {
    let db = Database::open("sqlite::memory:", Durability::Full).await.unwrap();
    db.migrate("my-service", storage::MIGRATIONS).await.unwrap();
    let publisher = Publisher::open(&db, entity()).await.unwrap();
    let items = storage::Items::new(db, publisher.clone());
    let own = http::routes().with_state(items.clone());
    own.merge(publisher.openapi_router(items)).into()
}

/// What a subscriber is answered when it asks for the state of one entity.
async fn callback(routes: &Router, id: &str) -> Value {
    let path = "/sync/v1/my-entity/batch-get";
    let answer = send(routes.clone(), Method::POST, path, json!({"ids": [id]})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["items"][0].clone()
}

#[tokio::test]
async fn each_write_has_a_newer_version_and_callbacks_answer_the_last() {
    let routes = routes().await;
    let path = "/my-entity/42";
    let mut last = 0;
    for (method, body, status, state) in [
        (Method::PUT, json!({"name": "first"}), 201, json!({"name": "first"})),
        (Method::PUT, json!({"name": "second"}), 200, json!({"name": "second"})),
        (Method::DELETE, Value::Null, 204, Value::Null),
        (Method::PUT, json!({"name": "again"}), 201, json!({"name": "again"})),
    ] {
        let answer = send(routes.clone(), method, path, body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        let answer = callback(&routes, "42").await;
        assert_eq!(answer["state"], state);
        let version = answer["version"].as_u64().unwrap();
        assert!(version > last, "{version} is not newer than {last}");
        last = version;
    }
    let answer = send(routes.clone(), Method::GET, path, None).await;
    assert_eq!(answer.json(), json!({"name": "again"}));
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_written() {
    let routes = routes().await;
    for (body, field) in [
        (json!({"name": ""}), "name"),
        (json!({"name": "a\u{7}b"}), "name"),
        (json!({"name": 1}), "name"),
        (json!({}), "name"),
        (json!({"name": "a", "colour": "red"}), "colour"),
    ] {
        let answer = send(routes.clone(), Method::PUT, "/my-entity/42", body).await;
        let problem = answer.json();
        assert_eq!((answer.status.as_u16(), &problem["errors"][0]["field"]), (422, &json!(field)));
    }
    assert_eq!(send(routes.clone(), Method::GET, "/my-entity/42", None).await.status, 404);
    assert_eq!(send(routes.clone(), Method::DELETE, "/my-entity/42", None).await.status, 404);
    assert_eq!(callback(&routes, "42").await["status"], "unknown");
}

#[test]
fn both_apis_are_in_the_openapi_document() {
    let document = service().document();
    for path in ["/my-entity/{id}", "/sync/v1/my-entity/batch-get"] {
        assert!(document.contains(&format!("\"{path}\"")), "{path}");
    }
}
