use serde_json::json;

use super::*;

fn read(json: Value) -> Result<Store, Invalid> {
    Store::read(&json, GivenId::InBody)
}

fn wrong_fields(json: Value) -> Vec<String> {
    read(json).unwrap_err().0.into_iter().map(|fault| fault.field).collect()
}

#[test]
fn only_the_name_is_required_and_the_rest_has_defaults() {
    let store = read(json!({"id": "1", "name": "a"})).unwrap();
    assert!(store.open && store.menus.is_empty() && store.category.is_empty());
    assert_eq!((store.min_order_amount, store.delivery_fee), (0, 0));
    assert_eq!(wrong_fields(json!({"id": "1"})), ["name"]);
}

#[test]
fn every_fault_is_reported_at_once() {
    let fields = wrong_fields(json!({
        "id": "", "name": 7, "colour": "red", "open": "yes", "delivery_fee": -1, "phone": null,
        "min_order_amount": 1.0, "region": "a\tb", "description": "x".repeat(2_001),
        "menus": [{"name": "ok", "price": 1}, {"name": "", "price": -5, "size": 1}, 3],
    }));
    let expected = [
        "colour",
        "id",
        "name",
        "region",
        "phone",
        "description",
        "open",
        "min_order_amount",
        "delivery_fee",
        "menus[1].size",
        "menus[1].name",
        "menus[1].price",
        "menus[2]",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn each_limit_is_exact() {
    let texts = [
        ("name", MAX_NAME_CHARS),
        ("category", MAX_LABEL_CHARS),
        ("region", MAX_LABEL_CHARS),
        ("neighbourhood", MAX_LABEL_CHARS),
        ("address", MAX_ADDRESS_CHARS),
        ("phone", MAX_PHONE_CHARS),
        ("description", MAX_DESCRIPTION_CHARS),
    ];
    let with = |field: &str, value: Value| {
        let mut store = json!({"id": "1", "name": "a"});
        store[field] = value;
        store
    };
    for (field, max) in texts {
        // Korean: limits count characters, not bytes.
        assert!(read(with(field, "가".repeat(max).into())).is_ok(), "{field}");
        assert_eq!(wrong_fields(with(field, "가".repeat(max + 1).into())), [field]);
    }
    for field in ["min_order_amount", "delivery_fee"] {
        assert!(read(with(field, MAX_WON.into())).is_ok());
        for wrong in [json!(MAX_WON + 1), json!(-1), json!(0.5), json!("1"), json!(u64::MAX)] {
            assert_eq!(wrong_fields(with(field, wrong)), [field]);
        }
    }
    let menus = |count: usize| with("menus", vec![json!({"name": "a", "price": 0}); count].into());
    assert!(read(menus(MAX_MENUS)).is_ok());
    assert_eq!(wrong_fields(menus(MAX_MENUS + 1)), ["menus"]);
    let menu = |name: String| with("menus", json!([{"name": name, "price": 0}]));
    assert!(read(menu("가".repeat(MAX_MENU_NAME_CHARS))).is_ok());
    assert_eq!(wrong_fields(menu("가".repeat(MAX_MENU_NAME_CHARS + 1))), ["menus[0].name"]);
}

#[test]
fn line_breaks_belong_in_descriptions_only() {
    assert!(read(json!({"id": "1", "name": "a", "description": "one\ntwo"})).is_ok());
    assert_eq!(wrong_fields(json!({"id": "1", "name": "a", "description": "\0"})), ["description"]);
    assert_eq!(wrong_fields(json!({"id": "1", "name": "a\nb"})), ["name"]);
}

#[test]
fn the_id_comes_from_where_it_was_given() {
    let (path, other) = (EntityId::new("p").unwrap(), json!({"id": "q", "name": "a"}));
    let bare = json!({"name": "a"});
    assert_eq!(Store::read(&bare, GivenId::InPath(&path)).unwrap().id, path);
    assert_eq!(Store::read(&other, GivenId::InPath(&path)).unwrap_err().0[0].field, "id");
    assert_eq!(Store::read(&bare, GivenId::InBodyOr(&path)).unwrap().id, path);
    assert_eq!(Store::read(&other, GivenId::InBodyOr(&path)).unwrap().id.as_str(), "q");
    assert_eq!(wrong_fields(bare), ["id"]);
}

#[test]
fn what_is_not_an_object_is_one_fault() {
    for json in [json!(null), json!([]), json!("x"), json!(1)] {
        assert_eq!(wrong_fields(json), ["body"]);
    }
}
