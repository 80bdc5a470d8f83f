use serde_json::json;

use super::*;

const FIELDS: &[&str] = &["name", "category", "region", "open"];

fn id(text: &str) -> EntityId {
    EntityId::new(text).unwrap()
}

fn fields(name: &str) -> Map<String, Value> {
    let value = json!({"id": "x", "name": name, "category": null, "region": "중구", "open": true});
    value.as_object().unwrap().clone()
}

/// An owner with two live stores and a deleted one, and a read model that says the same.
fn same(shows_deleted: bool) -> (Stores, Model) {
    let owner = Stores::from([
        (id("a"), Owned { version: 1, state: Some(fields("a")) }),
        (id("b"), Owned { version: 2, state: Some(fields("b")) }),
        (id("gone"), Owned { version: 3, state: None }),
    ]);
    let live = |version, name| Shown::Live { version, fields: fields(name) };
    let mut shown = BTreeMap::from([(id("a"), live(1, "a")), (id("b"), live(2, "b"))]);
    if shows_deleted {
        shown.insert(id("gone"), Shown::Deleted);
    }
    let applied = [("a", 1, false), ("b", 2, false), ("gone", 3, true)];
    let applied = applied.map(|(name, version, deleted)| (id(name), (version, deleted))).into();
    let (applied_count, dead_letters) = (3, Vec::new());
    let model =
        Model { fields: FIELDS, shows_deleted, shown, applied, applied_count, dead_letters };
    (owner, model)
}

/// What differs once the read model is changed.
fn after<T>(shows_deleted: bool, change: impl FnOnce(&mut Model) -> T) -> Vec<String> {
    let (owner, mut model) = same(shows_deleted);
    change(&mut model);
    differences("search", &owner, &model).iter().map(ToString::to_string).collect()
}

fn shown<'a>(model: &'a mut Model, name: &str) -> (&'a mut u64, &'a mut Map<String, Value>) {
    match model.shown.get_mut(&id(name)) {
        Some(Shown::Live { version, fields }) => (version, fields),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_the_same_does_not_differ() {
    assert_eq!(after(false, |_| {}), [""; 0]);
    assert_eq!(after(true, |_| {}), [""; 0]);
}

#[test]
fn each_field_and_each_version_is_compared() {
    for (field, value) in [
        ("name", json!("b")),
        ("category", json!("")),
        ("region", json!("강남구")),
        ("open", json!(false)),
        ("open", Value::Null),
    ] {
        let found = after(false, |model| shown(model, "a").1.insert(field.into(), value.clone()));
        let begin = format!("search: store \"a\": {field} is {value}, and should be ");
        assert!(found.len() == 1 && found[0].starts_with(&begin), "{field}: {found:?}");
    }
    let found = after(false, |model| shown(model, "a").1.remove("name"));
    assert_eq!(found, [r#"search: store "a": name is null, and should be "a""#]);
    let found = after(false, |model| *shown(model, "b").0 = 7);
    assert_eq!(found, [r#"search: store "b": version is 7, and should be 2"#]);
    let found = after(false, |model| model.applied.insert(id("b"), (1, false)));
    assert_eq!(found, [r#"search: store "b": applied version is 1, and should be 2"#]);
    let found = after(false, |model| model.applied.insert(id("gone"), (3, false)));
    assert_eq!(found, [r#"search: store "gone": applied as deleted is false, and should be true"#]);
}

#[test]
fn what_is_missing_too_much_or_deleted_differs() {
    let missing = after(false, |model| model.shown.remove(&id("a")));
    assert_eq!(missing, [r#"search: store "a": it is "not there", and should be "live""#]);
    let deleted = after(true, |model| model.shown.insert(id("a"), Shown::Deleted));
    assert_eq!(deleted, [r#"search: store "a": it is "deleted", and should be "live""#]);
    let live = || Shown::Live { version: 3, fields: fields("x") };
    let extra = after(false, |model| model.shown.insert(id("new"), live()));
    assert_eq!(extra, [r#"search: store "new": it is "live", and should be "not there""#]);
    let back = after(false, |model| model.shown.insert(id("gone"), live()));
    assert_eq!(back, [r#"search: store "gone": it is "live", and should be "not there""#]);
    let back = after(true, |model| model.shown.insert(id("gone"), live()));
    assert_eq!(back, [r#"search: store "gone": it is "live", and should be "deleted""#]);
    let unknown = after(true, |model| model.shown.remove(&id("gone")));
    assert_eq!(unknown, [r#"search: store "gone": it is "not there", and should be "deleted""#]);
}

#[test]
fn what_is_applied_is_compared_by_itself() {
    let never = after(false, |model| model.applied.remove(&id("gone")));
    assert_eq!(never.len(), 2, "{never:?}");
    assert!(never[0].ends_with("applied version is null, and should be 3"));
    let strange = after(false, |model| model.applied.insert(id("new"), (1, true)));
    assert_eq!(strange.len(), 2, "{strange:?}");
    let count = after(false, |model| model.applied_count = 4);
    assert_eq!(count, ["search: number of stores applied is 4, and should be 3"]);
    let dead = after(false, |model| model.dead_letters.push(id("a")));
    assert_eq!(
        dead,
        [r#"search: store "a": its dead letter is "there", and should be "not there""#]
    );
}

#[test]
fn replicas_of_the_owner_say_the_same() {
    let (owner, _) = same(false);
    assert_eq!(of_owners("store-info-2", &owner, &owner), []);
    let mut other = owner.clone();
    other.get_mut(&id("gone")).unwrap().version = 4;
    other.remove(&id("a"));
    let found = of_owners("store-info-2", &owner, &other);
    let ids: Vec<_> = found.iter().map(|difference| difference.id.clone().unwrap()).collect();
    assert_eq!(ids, [id("a"), id("gone")]);
    let line = "store-info-2: store \"gone\": its answer is [4,null], and should be [3,null]";
    assert_eq!(found[1].to_string(), line);
}

#[test]
fn a_write_that_was_answered_may_not_be_lost() {
    let (owner, _) = same(false);
    let newest = BTreeMap::from([(id("a"), 1), (id("b"), 1), (id("gone"), 3)]);
    assert_eq!(lost(&owner, &newest), []);
    for (name, version) in [("a", 2), ("never", 1)] {
        let found = lost(&owner, &BTreeMap::from([(id(name), version)]));
        assert!(found.len() == 1 && found[0].id == Some(id(name)), "{found:?}");
    }
}
