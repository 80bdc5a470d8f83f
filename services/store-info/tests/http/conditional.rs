//! `If-Match` and `If-None-Match`.

use serde_json::json;

use crate::support::{Answer, Api};

#[tokio::test]
async fn an_unchanged_store_is_304() {
    let api = Api::start().await;
    let version = api.send("PUT", "/stores/1", json!({"name": "a"})).await.version();
    let get = async |tags: &str| {
        Answer::of(api.request("GET", "/stores/1").header("If-None-Match", tags)).await
    };
    for tags in [
        format!("\"{version}\""),
        format!("W/\"{version}\""),
        format!("\"1\", \"{version}\""),
        "*".into(),
    ] {
        let answer = get(&tags).await;
        assert_eq!((answer.status, answer.text.as_str()), (304, ""), "{tags}");
        assert_eq!(answer.version(), version);
    }
    for tags in ["\"1\"".to_owned(), format!("{version}"), "nonsense".into()] {
        assert_eq!(get(&tags).await.status, 200, "{tags}");
    }
    api.send("PATCH", "/stores/1", json!({"phone": "1"})).await;
    assert_eq!(get(&format!("\"{version}\"")).await.status, 200);
}

#[tokio::test]
async fn a_stale_if_match_writes_nothing() {
    let api = Api::start().await;
    let stale = api.send("PUT", "/stores/1", json!({"name": "a"})).await.version();
    let current = api.send("PUT", "/stores/1", json!({"name": "b"})).await.version();
    let before = api.everything().await;
    let send = async |method: &str, tags: &str| {
        let request = api.request(method, "/stores/1").header("If-Match", tags);
        let body = json!({"name": "c"});
        Answer::of(if method == "DELETE" { request } else { request.json(&body) }).await
    };
    let refused = [
        format!("\"{stale}\""),
        format!("W/\"{current}\""),
        format!("{current}"),
        "\"0\", \"x\"".into(),
        "nonsense".into(),
    ];
    for tags in &refused {
        for method in ["PUT", "PATCH", "DELETE"] {
            send(method, tags).await.assert_problem(412, "If-Match");
        }
    }
    assert_eq!(api.everything().await, before);

    let put = send("PUT", &format!("\"{stale}\", \"{current}\"")).await;
    assert_eq!(put.status, 200);
    assert_eq!(send("PATCH", "*").await.status, 200);
    assert_eq!(send("DELETE", &format!("\"{}\"", put.version())).await.status, 204);
}

#[tokio::test]
async fn what_does_not_exist_matches_no_condition() {
    let api = Api::start().await;
    let put = async |name: &str, value: &str| {
        let request = api.request("PUT", "/stores/1").header(name, value);
        Answer::of(request.json(&json!({"name": "a"}))).await
    };
    put("If-Match", "*").await.assert_problem(412, "If-Match");
    put("If-Match", "\"1\"").await.assert_problem(412, "If-Match");
    assert_eq!(api.get("/stores/1").await.status, 404);
    // `If-None-Match: *` is "only create".
    assert_eq!(put("If-None-Match", "*").await.status, 201);
    put("If-None-Match", "*").await.assert_problem(412, "If-None-Match");
    let deleted = api.delete("/stores/1").await.version();
    put("If-Match", &format!("\"{deleted}\"")).await.assert_problem(412, "If-Match");
    assert_eq!(api.get("/stores/1").await.status, 410);
    // Gone is said before any condition: there is nothing that a condition could be about.
    let request = api.request("DELETE", "/stores/1").header("If-Match", "\"1\"");
    Answer::of(request).await.assert_problem(410, "");
    let request = api.request("POST", "/stores").header("If-Match", "\"1\"");
    let answer = Answer::of(request.json(&json!({"id": "2", "name": "a"}))).await;
    answer.assert_problem(412, "If-Match");
}
