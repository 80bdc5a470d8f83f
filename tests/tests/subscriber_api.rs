//! `api/subscriber.openapi.json` describes the API of every subscriber, and nothing else. (A test of the kit shows that
//! it is up to date with the code.)

use nudge_tests::{Copy, Nats, Owner, copy::quick, eventually};
use serde_json::{Value, json};

fn document() -> Value {
    let text = include_str!("../../api/subscriber.openapi.json");
    serde_json::from_str(text).expect("the document is JSON")
}

/// An answer has the fields of the schema: all required ones, and no others.
fn conforms(answer: &Value, schema: &str) {
    let document = document();
    let schema = &document["components"]["schemas"][schema];
    let documented = schema["properties"].as_object().expect("an object schema");
    let answer = answer.as_object().expect("an object");
    for field in answer.keys() {
        assert!(documented.contains_key(field), "not documented: {field}");
    }
    for field in schema["required"].as_array().expect("required fields") {
        assert!(answer.contains_key(field.as_str().expect("a name")), "missing: {field}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_documented_path_is_there_and_answers_as_documented() {
    let nats = Nats::start().await;
    let owner = Owner::start(&nats.broker("things").await).await;
    let mut settings = quick();
    settings.resync.enabled = true;
    let copy = Copy::start_with(&nats.broker("copies").await, &owner, settings).await;
    copy.refuse(|id| (id == "bad").then(|| "refused".into()));
    owner.put("bad", json!({})).await;
    copy.wait(&owner.put("42", json!({})).await).await;
    let dead = eventually("a dead letter", || async {
        copy.get("dead-letters").await["items"].get(0).cloned()
    })
    .await;
    conforms(&dead, "DeadLetter");
    conforms(&copy.get("dead-letters").await, "DeadLetters");
    conforms(&copy.get("status").await, "Status");
    conforms(&copy.status().await, "EntityStatus");
    conforms(&copy.status().await["resync"], "ResyncStatus");
    conforms(&copy.get("applied/thing/42").await, "Applied");
    conforms(&copy.get("applied/thing/none").await, "Problem");
    let request = reqwest::Client::new().post(copy.admin("keys/thing"));
    let keys: Value =
        request.json(&json!({"ids": ["42"]})).send().await.unwrap().json().await.unwrap();
    conforms(&keys, "Keys");
    conforms(&keys["items"][0], "Key");
    conforms(&keys["items"][0]["runs"][0], "KeyRun");
    let readiness = || async { copy.get("../../readyz").await };
    let ready = || async { Some(readiness().await).filter(|answer| answer["ready"] == true) };
    conforms(&eventually("the first catch-up", ready).await, "Readiness");

    let http = reqwest::Client::new();
    let base = copy.admin("").replace("/nudge/v1/", "");
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        methods.iter().map(move |(method, operation)| (method.to_uppercase(), path, operation))
    });
    let mut operations: Vec<_> = operations.collect();
    // Requests that remove the dead letter come after those that need it.
    operations.sort_by_key(|(method, ..)| method == "DELETE");
    for (method, path, operation) in operations {
        let path = path.replace("{entity}", "thing").replace("{id}", "bad");
        let query = match &*path {
            "/nudge/v1/wait" => "?token=thing/42@1",
            "/nudge/v1/dead-letters/replay" => "?entity=thing&id=bad",
            // The other request that removes it comes last.
            "/nudge/v1/dead-letters/discard" => "?entity=thing&id=none",
            _ => "",
        };
        let mut request =
            http.request(method.parse().expect("a method"), format!("{base}{path}{query}"));
        if path.ends_with("/resync") {
            request = request.json(&json!({"entity": "thing"}));
        }
        if path.contains("/keys/") {
            request = request.json(&json!({"ids": ["bad"]}));
        }
        let status = request.send().await.expect("an answer").status();
        let documented = operation["responses"].as_object().expect("responses");
        assert!(documented.contains_key(status.as_str()), "{path}: {status}");
        let may_be_none = path.contains("/applied/") || query.contains("id=none");
        assert!(status.is_success() || may_be_none, "{path}: {status}");
    }
    for (path, methods) in paths {
        let path = path.replace("{entity}", "thing").replace("{id}", "bad");
        for method in ["get", "put", "post", "patch", "delete"] {
            if methods.get(method).is_none() {
                let method = method.to_uppercase().parse().expect("a method");
                let answer = http.request(method, format!("{base}{path}")).send().await;
                assert_eq!(answer.expect("an answer").status(), 405, "not documented: {path}");
            }
        }
    }
}
