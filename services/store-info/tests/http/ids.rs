//! Ids that mean something to NATS, to paths, to SQL or to this API.

use nudge_protocol::{EntityId, subject};
use serde_json::json;

use crate::support::Api;

fn odd_ids() -> Vec<String> {
    let odd = [
        "a.b",
        "a b",
        " ",
        "*",
        ">",
        "/",
        "a/b",
        "%",
        "%2F",
        "100%",
        "?",
        "#",
        "&=+",
        "\\",
        "\"",
        "'",
        "';--",
        "강남 1호점/별관",
        "🍜",
        "import",
        "batch-get",
        "items",
        "~",
        "@",
        "store/1@2",
        "+",
    ];
    let long = ["a".repeat(200), format!("{}ab", "가".repeat(66))];
    odd.into_iter().map(str::to_owned).chain(long).collect()
}

#[tokio::test]
async fn odd_ids_go_through_path_body_and_token() {
    let api = Api::start().await;
    for id in odd_ids() {
        let token = subject::encode_token(&EntityId::new(&id).unwrap());
        let path = format!("/stores/{token}");
        let put = api
            .send("PUT", &path, json!({"name": "a", "menus": [{"name": "m", "price": 1}]}))
            .await;
        assert_eq!((put.status, put.json["id"].as_str()), (201, Some(id.as_str())), "{put:?}");
        assert_eq!(put.header("Nudge-Token"), format!("store/{token}@{}", put.version()));
        let patched = api.send("PATCH", &path, json!({"id": id, "phone": "1"})).await;
        assert_eq!(patched.status, 200, "{id}");
        assert_eq!(api.get(&path).await.json, patched.json, "{id}");
        let batch = api.send("POST", "/sync/v1/store/batch-get", json!({"ids": [id]})).await;
        assert_eq!(batch.json["items"][0]["state"], patched.json, "{id}");
        assert_eq!(api.delete(&path).await.status, 204, "{id}");
        assert_eq!(api.get(&path).await.status, 410, "{id}");
        let created = api.send("POST", "/stores", json!({"id": id, "name": "a"})).await;
        assert_eq!((created.status, created.header("Location")), (201, path.as_str()), "{id}");
    }
    let listed = api.get("/stores?limit=500").await.json["items"].as_array().unwrap().len();
    assert_eq!(listed, odd_ids().len());
}

/// URL parsers fold `.` and `..`, encoded or not, before anything is sent. Who sends the path as it
/// is reaches these ids too; others reach them through bodies.
#[tokio::test]
async fn dots_are_ids_for_whoever_can_send_them() {
    let api = Api::start().await;
    for (id, path) in [(".", "/stores/%2E"), ("..", "/stores/%2E%2E")] {
        let created = api.send("POST", "/stores", json!({"id": id, "name": "a"})).await;
        assert_eq!((created.status, created.header("Location")), (201, path));
        let put = api.raw_request("PUT", path, "{\"name\":\"b\"}").await;
        assert!(put.starts_with("HTTP/1.1 200"), "{put}");
        let got = api.raw_request("GET", path, "").await;
        assert!(got.contains(&format!("{{\"id\":\"{id}\",\"name\":\"b\"")), "{got}");
        let batch = api.send("POST", "/sync/v1/store/batch-get", json!({"ids": [id]})).await;
        assert_eq!(batch.json["items"][0]["state"]["name"], "b");
        let deleted = api.raw_request("DELETE", path, "").await;
        assert!(deleted.starts_with("HTTP/1.1 204"), "{deleted}");
    }
}
