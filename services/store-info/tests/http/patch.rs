//! RFC 7396 on a store.

use serde_json::json;

use crate::support::{Answer, Api};

#[tokio::test]
async fn a_patch_changes_what_it_names_and_null_brings_back_the_default() {
    let api = Api::start().await;
    let menus = json!([{"name": "m", "price": 5}]);
    let store = json!({
        "name": "a", "category": "cafe", "phone": "02", "open": false, "delivery_fee": 3000, "menus": menus,
    });
    api.send("PUT", "/stores/1", store).await;

    let patched = api
        .send("PATCH", "/stores/1", json!({"id": "1", "delivery_fee": 0, "region": "마포구"}))
        .await;
    assert_eq!(patched.status, 200);
    let expected = json!({
        "id": "1", "name": "a", "category": "cafe", "region": "마포구", "address": "",
        "neighbourhood": "", "phone": "02", "description": "", "open": false,
        "min_order_amount": 0, "delivery_fee": 0, "menus": menus,
    });
    assert_eq!(patched.json, expected);

    let all = json!({"category": null, "phone": null, "open": null, "menus": null});
    let patched = api.send("PATCH", "/stores/1", all).await;
    assert_eq!((&patched.json["category"], &patched.json["phone"]), (&json!(""), &json!("")));
    assert_eq!((&patched.json["open"], &patched.json["menus"]), (&json!(true), &json!([])));
    assert_eq!(api.get("/stores/1").await.json, patched.json);
}

#[tokio::test]
async fn both_content_types_are_taken() {
    let api = Api::start().await;
    api.send("PUT", "/stores/1", json!({"name": "a"})).await;
    for media_type in [
        "application/merge-patch+json",
        "application/json",
        "application/merge-patch+json; charset=utf-8",
    ] {
        let request = api.request("PATCH", "/stores/1").header("Content-Type", media_type);
        assert_eq!(Answer::of(request.body("{}")).await.status, 200, "{media_type}");
    }
}

#[tokio::test]
async fn a_patch_may_not_make_something_that_is_no_store() {
    let api = Api::start().await;
    api.send("PUT", "/stores/1", json!({"name": "a", "menus": [{"name": "m", "price": 1}]})).await;
    let before = api.everything().await;
    for (patch, field) in [
        (json!({"name": null}), "name"),
        (json!({"id": null}), "id"),
        (json!({"id": "2"}), "id"),
        (json!({"colour": null}), "colour"),
        (json!({"colour": "red"}), "colour"),
        (json!({"open": "no"}), "open"),
        (json!({"menus": {"name": "m"}}), "menus"),
        (json!({"menus": [{"name": "m", "price": null}]}), "menus[0].price"),
        (json!(["name"]), "body"),
        (json!(null), "body"),
    ] {
        api.send("PATCH", "/stores/1", patch).await.assert_problem(422, field);
    }
    assert_eq!(api.everything().await, before);
}
