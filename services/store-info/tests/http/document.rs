//! The OpenAPI document says what the service does.

use serde_json::Value;

use crate::support::{Answer, Api};

#[test]
fn the_document_in_the_repository_is_the_code() {
    let document = store_info::openapi::document();
    assert_eq!(nudge_runtime::openapi::outdated("store-info", &document), None);
}

/// Each documented operation is routed: it does not answer as an unknown path or method does. And the
/// other way round: no other method is.
#[tokio::test]
async fn every_documented_operation_exists() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await;
    assert_eq!(document.text, store_info::openapi::document(), "what is served is what is printed");
    assert_eq!(document.json["openapi"], "3.1.0");
    let mut operations = 0;
    for (path, item) in document.json["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "patch", "delete"] {
            let url = path.replace("{id}", "x");
            let answer = Answer::of(api.request(&method.to_uppercase(), &url)).await;
            let unrouted = answer.status == 405 || answer.text.contains("no such path");
            // The words that end these paths are ids, too.
            let of_an_id = match path.as_str() {
                "/stores/import" => method != "post",
                path => {
                    let words = ["batch-get", "change-log", "digest", "items", "recent", "renew"];
                    let words = words.map(|word| format!("/sync/v1/store/{word}"));
                    method == "get" && words.iter().any(|word| word == path)
                }
            };
            let documented = item.get(method).is_some();
            assert_eq!(documented || of_an_id, !unrouted, "{method} {path}: {answer:?}");
            operations += usize::from(documented);
        }
    }
    assert_eq!(operations, 20);
}

/// What is routed is documented: no path stands in the router alone.
#[test]
fn every_route_is_in_the_document() {
    let stray = nudge_runtime::openapi::stray_paths(store_info::http::routes());
    assert!(stray.is_empty(), "{stray:?}");
}

/// A store's schema names the fields that a store has.
#[tokio::test]
async fn the_schemas_are_those_of_the_answers() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.json;
    let names = |value: &Value| {
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let store = api.send("PUT", "/stores/1", serde_json::json!({"name": "a"})).await.json;
    for name in ["Store", "NewStore", "StorePatch"] {
        assert_eq!(names(&schema(name)["properties"]), names(&store), "{name}");
    }
    assert_eq!(schema("NewStore")["required"], serde_json::json!(["name"]));
    let live = api.get("/sync/v1/store/1").await.json;
    assert_eq!(names(&schema("LiveEntity")["properties"]), names(&live));
    let items = api.send("POST", "/sync/v1/store/items", serde_json::json!({})).await.json;
    assert_eq!(names(&schema("ItemVersion")["properties"]), names(&items["items"][0]));
    let ids = serde_json::json!({"ids": ["1"]});
    let batch = api.send("POST", "/sync/v1/store/batch-get", ids).await.json;
    assert_eq!(names(&schema("BatchItem")["properties"]), names(&batch["items"][0]));
    let report = api.import("").await.json;
    assert_eq!(names(&schema("Report")["properties"]), names(&report));
}

#[test]
fn operation_ids_are_distinct_and_references_lead_somewhere() {
    let document: Value = serde_json::from_str(&store_info::openapi::document()).unwrap();
    let (mut ids, mut references) = (Vec::new(), Vec::new());
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        for (name, inner) in value.as_object().into_iter().flatten() {
            match (name.as_str(), inner.as_str()) {
                ("operationId", Some(id)) => ids.push(id),
                ("$ref", Some(reference)) => references.push(reference),
                _ => {}
            }
            open.push(inner);
        }
        open.extend(value.as_array().into_iter().flatten());
    }
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (20, 20), "{ids:?}");
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}
