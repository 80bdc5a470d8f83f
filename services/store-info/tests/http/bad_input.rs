//! Bad input: the right 4xx, the field named, nothing written.

use serde_json::{Value, json};

use crate::support::{Answer, Api};

#[tokio::test]
async fn wrong_fields_are_422_on_every_write_and_nothing_is_written() {
    let api = Api::start().await;
    api.send("PUT", "/stores/1", json!({"name": "a"})).await;
    let before = api.everything().await;
    let menu = |name: &str, price: Value| json!([{"name": "ok", "price": 1}, {"name": name, "price": price}]);
    let long = |chars: usize| json!("가".repeat(chars));
    for (field, value, named) in [
        ("colour", json!("red"), "colour"),
        ("name", json!(7), "name"),
        ("name", json!(""), "name"),
        ("name", long(201), "name"),
        ("name", json!("a\nb"), "name"),
        ("name", json!("a\u{0}b"), "name"),
        ("category", long(101), "category"),
        ("region", json!(["마포구"]), "region"),
        ("neighbourhood", long(101), "neighbourhood"),
        ("address", long(301), "address"),
        ("phone", json!(212_345_678), "phone"),
        ("phone", long(51), "phone"),
        ("description", long(2_001), "description"),
        ("description", json!("\t"), "description"),
        ("open", json!(1), "open"),
        ("open", json!("true"), "open"),
        ("min_order_amount", json!(-1), "min_order_amount"),
        ("min_order_amount", json!(1_000_000_001), "min_order_amount"),
        ("delivery_fee", json!(0.5), "delivery_fee"),
        ("delivery_fee", json!(1000.0), "delivery_fee"),
        ("delivery_fee", json!("3000"), "delivery_fee"),
        ("delivery_fee", json!(u64::MAX), "delivery_fee"),
        ("menus", json!("noodles"), "menus"),
        ("menus", Value::from(vec![json!({"name": "a", "price": 1}); 201]), "menus"),
        ("menus", menu("", json!(1)), "menus[1].name"),
        ("menus", menu(&"가".repeat(101), json!(1)), "menus[1].name"),
        ("menus", menu("a", json!(-5)), "menus[1].price"),
        ("menus", menu("a", json!(1.5)), "menus[1].price"),
        ("menus", json!([{"name": "a", "price": 1, "size": "L"}]), "menus[0].size"),
        ("menus", json!([{"name": "a"}]), "menus[0].price"),
        ("menus", json!([7]), "menus[0]"),
    ] {
        let mut store = json!({"name": "b"});
        store[field] = value;
        api.send("POST", "/stores", store.clone()).await.assert_problem(422, named);
        api.send("PUT", "/stores/1", store.clone()).await.assert_problem(422, named);
        api.send("PUT", "/stores/2", store.clone()).await.assert_problem(422, named);
        api.send("PATCH", "/stores/1", store).await.assert_problem(422, named);
    }
    for method in [("POST", "/stores"), ("PUT", "/stores/1")] {
        let send = async |body| api.send(method.0, method.1, body).await;
        send(json!({"open": true})).await.assert_problem(422, "name");
        send(json!({"name": "a", "phone": null})).await.assert_problem(422, "phone");
        for body in [json!(null), json!([]), json!("x"), json!(1)] {
            send(body).await.assert_problem(422, "body");
        }
    }
    assert_eq!(api.everything().await, before);
}

#[tokio::test]
async fn all_faults_are_told_at_once() {
    let api = Api::start().await;
    let body =
        json!({"colour": 1, "open": 2, "delivery_fee": -1, "menus": [{"name": 1, "price": -1}]});
    let answer = api.send("POST", "/stores", body).await;
    answer.assert_problem(422, "");
    let expected = ["colour", "name", "open", "delivery_fee", "menus[0].name", "menus[0].price"];
    assert_eq!(answer.fields(), expected);
}

#[tokio::test]
async fn invalid_ids_are_refused_wherever_they_stand() {
    let api = Api::start().await;
    let before = api.everything().await;
    for id in
        [json!(""), json!("a\u{0}"), json!("a\nb"), json!("a".repeat(201)), json!(7), json!(null)]
    {
        api.send("POST", "/stores", json!({"id": id, "name": "a"})).await.assert_problem(422, "id");
    }
    for path in ["%00", "a%0Ab", "%FF", &"a".repeat(201), &"%EA%B0%80".repeat(67)] {
        let path = format!("/stores/{path}");
        api.send("PUT", &path, json!({"name": "a"})).await.assert_problem(400, "id");
        api.send("PATCH", &path, json!({"name": "a"})).await.assert_problem(400, "id");
        api.get(&path).await.assert_problem(400, "id");
        api.delete(&path).await.assert_problem(400, "id");
    }
    api.send("PUT", "/stores/1", json!({"id": "2", "name": "a"})).await.assert_problem(422, "id");
    assert_eq!(api.everything().await, before);
}

#[tokio::test]
async fn bodies_that_are_not_json_or_too_large_or_of_another_type_are_refused() {
    let api = Api::start().await;
    api.send("PUT", "/stores/1", json!({"name": "a"})).await;
    let before = api.everything().await;
    let large = format!("{{\"name\":\"b\",\"description\":\"{}\"}}", "x".repeat(1024 * 1024));
    let deep = format!("{{\"name\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    for (method, path) in [("POST", "/stores"), ("PUT", "/stores/1"), ("PATCH", "/stores/1")] {
        let send = async |media_type: &str, body: &str| {
            let request = api.request(method, path).header("Content-Type", media_type);
            Answer::of(request.body(body.to_owned())).await
        };
        let json = "application/json";
        for body in [
            "",
            "{",
            "{\"name\":\"b\"} x",
            "{'name':'b'}",
            "{\"name\":\"\\ud800\"}",
            "name=b",
            &deep,
        ] {
            send(json, body).await.assert_problem(400, "body");
        }
        for (body, field) in [
            (r#"{"name":"b","name":"c"}"#, "name"),
            (r#"{"name":"b","menus":[{"name":"m","price":1,"price":2}]}"#, "menus[0].price"),
        ] {
            send(json, body).await.assert_problem(422, field);
        }
        send(json, &large).await.assert_problem(413, "body");
        for media_type in
            ["text/plain", "application/x-www-form-urlencoded", "application/x-ndjson", "json"]
        {
            send(media_type, "{\"name\":\"b\"}").await.assert_problem(415, "Content-Type");
        }
        let no_type = Answer::of(api.request(method, path).body("{\"name\":\"b\"}")).await;
        no_type.assert_problem(415, "Content-Type");
    }
    // A patch's type says nothing about a whole store.
    let request =
        api.request("PUT", "/stores/1").header("Content-Type", "application/merge-patch+json");
    Answer::of(request.body("{\"name\":\"b\"}")).await.assert_problem(415, "Content-Type");
    let not_utf8 = api.request("POST", "/stores").header("Content-Type", "application/json");
    Answer::of(not_utf8.body(b"{\"name\":\"\xff\"}".to_vec())).await.assert_problem(400, "body");
    assert_eq!(api.everything().await, before);
}

#[tokio::test]
async fn wrong_methods_are_405_and_unknown_paths_404() {
    let api = Api::start().await;
    for (method, path) in [
        ("DELETE", "/stores"),
        ("PATCH", "/stores"),
        ("POST", "/stores/1"),
        ("POST", "/livez"),
        ("PUT", "/sync/v1/store/batch-get"),
    ] {
        let answer = api.send(method, path, json!({"name": "a"})).await;
        answer.assert_problem(405, "");
        assert!(!answer.header("Allow").is_empty(), "{method} {path}");
    }
    for path in ["/", "/stores/", "/stores/1/menus", "/store", "/sync/v1/review/1"] {
        api.get(path).await.assert_problem(404, "");
    }
}
