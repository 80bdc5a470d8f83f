//! The endpoint: the form of answers, and what is refused.

use nudge_testbed::TestDatabase;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::read_model::support::{ReadModel, encoded, named, store};

#[tokio::test]
async fn an_answer_has_the_ids_first_and_then_the_stores() {
    let model = ReadModel::new().await;
    let fields =
        json!({"name": "커피빈", "region": "강남구", "category": "cafe", "address": "서울"});
    model.apply(vec![store("a", 17, fields), named("b", "커피집")]).await;
    let path = format!("/stores?q={}&limit=1", encoded("커피"));
    let (status, content_type, body) = model.get(&path).await;
    assert_eq!((status, &*content_type), (200, "application/json"));
    let item = json!({"id": "a", "name": "커피빈", "category": "cafe", "region": "강남구",
        "open": true, "version": 17});
    let next = body["next"].as_str().expect("there is another page");
    assert_eq!(body, json!({"ids": ["a"], "items": [item], "next": next}));

    let (_, _, second) = model.get(&format!("{path}&cursor={next}")).await;
    assert_eq!((&second["ids"], &second["next"]), (&json!(["b"]), &json!(null)));
}

#[tokio::test]
async fn without_parameters_every_store_is_listed_twenty_at_a_time() {
    let model = ReadModel::new().await;
    model.apply((0..25).map(|n| named(&format!("{n:02}"), "가")).collect()).await;
    let (_, _, body) = model.get("/stores").await;
    assert_eq!(body["ids"].as_array().unwrap().len(), 20);
    let (_, _, body) = model.get("/stores?q=&category=&region=&open=&limit=&cursor=").await;
    assert_eq!(body["ids"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn wrong_parameters_are_400_and_named() {
    let model = ReadModel::new().await;
    let long = |name: &str| format!("{name}={}", "x".repeat(201));
    for (query, field) in [
        (long("q"), "q"),
        (long("region"), "region"),
        (long("category"), "category"),
        ("region=%00".into(), "region"),
        ("category=a%0Ab".into(), "category"),
        ("limit=0".into(), "limit"),
        ("limit=101".into(), "limit"),
        ("limit=-1".into(), "limit"),
        ("limit=ten".into(), "limit"),
        ("limit=1e1".into(), "limit"),
        ("open=yes".into(), "open"),
        ("open=TRUE".into(), "open"),
        ("open=1".into(), "open"),
        ("cursor=zz".into(), "cursor"),
        ("cursor=3020".into(), "cursor"),
        (format!("cursor={}", "ab".repeat(5_000)), "cursor"),
        ("offset=20".into(), "offset"),
        ("q=a&q=b".into(), "q"),
    ] {
        let (status, content_type, body) = model.get(&format!("/stores?{query}")).await;
        let got = (status, &*content_type, &body["errors"][0]["field"]);
        assert_eq!(got, (400, "application/problem+json", &json!(field)), "{query}: {body}");
    }
    let (_, _, body) = model.get("/stores?open=maybe&limit=0&cursor=x").await;
    let fields: Vec<_> =
        body["errors"].as_array().unwrap().iter().map(|error| error["field"].clone()).collect();
    assert_eq!(fields, ["open", "limit", "cursor"]);
}

#[test]
fn the_openapi_document_names_what_is_served() {
    let body: serde_json::Value = serde_json::from_str(&search::service().document()).unwrap();
    assert!(body["openapi"].as_str().unwrap().starts_with("3.1"));
    let parameters = body["paths"]["/stores"]["get"]["parameters"].as_array().unwrap();
    for name in ["q", "category", "region", "open", "limit", "cursor"] {
        assert!(parameters.iter().any(|parameter| parameter["name"] == name), "{name}");
    }
}

/// A complete service without a broker or an owner.
#[tokio::test]
async fn the_document_that_is_served_is_the_one_that_is_printed_and_holds_every_route() {
    let database = TestDatabase::new().await;
    let words = [
        "search",
        "--bind=127.0.0.1:0",
        "--nats-url=nats://127.0.0.1:1",
        "--store-owner-url=http://127.0.0.1:1",
        &format!("--database-url={}", database.url()),
    ];
    let stop = CancellationToken::new();
    let service = search::service().start(words, stop.clone()).await.unwrap();
    let (client, base) = (reqwest::Client::new(), format!("http://{}", service.address));
    let document = client.get(format!("{base}/openapi.json")).send().await.unwrap();
    let document = document.text().await.unwrap();
    assert_eq!(document, search::service().document());
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "patch", "delete"] {
            let url = path.replace("{id}", "x").replace("{entity}", "store");
            let method_of = method.to_uppercase().parse().unwrap();
            let answer = client.request(method_of, format!("{base}{url}")).send().await.unwrap();
            let documented = item.get(method).is_some();
            assert_eq!(answer.status() != 405, documented, "{method} {path}");
            operations += usize::from(documented);
        }
    }
    assert_eq!(operations, 19);
    let stray = nudge_runtime::openapi::stray_paths(search::http::routes());
    assert!(stray.is_empty(), "{stray:?}");
    stop.cancel();
    service.stopped().await;
}

#[test]
fn the_published_document_is_that_of_this_code() {
    let outdated = nudge_runtime::openapi::outdated("search", &search::service().document());
    assert_eq!(outdated, None);
}
