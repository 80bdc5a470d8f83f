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
fn same(shows_deleted: bool) -> (Entities, Model) {
    let owner = Entities::from([
        (id("a"), Owned { version: 1, state: Some(fields("a")) }),
        (id("b"), Owned { version: 2, state: Some(fields("b")) }),
        (id("gone"), Owned { version: 3, state: None }),
    ]);
    let mut stores = BTreeMap::from([(id("a"), live(1, "a")), (id("b"), live(2, "b"))]);
    if shows_deleted {
        stores.insert(id("gone"), Shown::Deleted);
    }
    let versions = [("a", 1, false), ("b", 2, false), ("gone", 3, true)];
    let versions = versions.map(|(name, version, deleted)| (id(name), (version, deleted))).into();
    let applied = Applied { versions, count: 3, dead_letters: Vec::new() };
    (owner, Model { applied, shows: Shows { deleted: shows_deleted, stores } })
}

fn live(version: u64, name: &str) -> Shown {
    Shown::Live { version: Some(version), fields: fields(name), of: FIELDS }
}

struct Model {
    applied: Applied,
    shows: Shows,
}

/// What differs once the read model is changed.
fn after<T>(shows_deleted: bool, change: impl FnOnce(&mut Model) -> T) -> Vec<String> {
    let (owner, mut model) = same(shows_deleted);
    change(&mut model);
    let shown = of_shown("search", &owner, &model.shows);
    let applied = of_applied("search", "store", &owner, &model.applied);
    shown.iter().chain(&applied).map(ToString::to_string).collect()
}

fn shown<'a>(
    model: &'a mut Model,
    name: &str,
) -> (&'a mut Option<u64>, &'a mut Map<String, Value>) {
    match model.shows.stores.get_mut(&id(name)) {
        Some(Shown::Live { version, fields, .. }) => (version, fields),
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
    let found = after(false, |model| *shown(model, "b").0 = Some(7));
    assert_eq!(found, [r#"search: store "b": version is 7, and should be 2"#]);
    let found = after(false, |model| model.applied.versions.insert(id("b"), (1, false)));
    assert_eq!(found, [r#"search: store "b": applied version is 1, and should be 2"#]);
    let found = after(false, |model| model.applied.versions.insert(id("gone"), (3, false)));
    assert_eq!(found, [r#"search: store "gone": applied as deleted is false, and should be true"#]);
}

#[test]
fn what_is_not_shown_is_not_compared() {
    assert_eq!(after(false, |model| *shown(model, "b").0 = None), [""; 0]);
    let closed = |model: &mut Model| match model.shows.stores.get_mut(&id("a")) {
        Some(Shown::Live { fields, of, .. }) => {
            *of = &["open"];
            fields.remove("name")
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(after(false, closed), [""; 0]);
}

#[test]
fn what_is_missing_too_much_or_deleted_differs() {
    let missing = after(false, |model| model.shows.stores.remove(&id("a")));
    assert_eq!(missing, [r#"search: store "a": it is "not there", and should be "live""#]);
    let deleted = after(true, |model| model.shows.stores.insert(id("a"), Shown::Deleted));
    assert_eq!(deleted, [r#"search: store "a": it is "deleted", and should be "live""#]);
    let extra = after(false, |model| model.shows.stores.insert(id("new"), live(3, "x")));
    assert_eq!(extra, [r#"search: store "new": it is "live", and should be "not there""#]);
    let back = after(false, |model| model.shows.stores.insert(id("gone"), live(3, "x")));
    assert_eq!(back, [r#"search: store "gone": it is "live", and should be "not there""#]);
    let back = after(true, |model| model.shows.stores.insert(id("gone"), live(3, "x")));
    assert_eq!(back, [r#"search: store "gone": it is "live", and should be "deleted""#]);
    let unknown = after(true, |model| model.shows.stores.remove(&id("gone")));
    assert_eq!(unknown, [r#"search: store "gone": it is "not there", and should be "deleted""#]);
}

#[test]
fn what_is_applied_is_compared_by_itself() {
    let never = after(false, |model| model.applied.versions.remove(&id("gone")));
    assert_eq!(never.len(), 2, "{never:?}");
    assert!(never[0].ends_with("applied version is null, and should be 3"));
    let strange = after(false, |model| model.applied.versions.insert(id("new"), (1, true)));
    assert_eq!(strange.len(), 2, "{strange:?}");
    let count = after(false, |model| model.applied.count = 4);
    assert_eq!(count, ["search: number of stores applied is 4, and should be 3"]);
    let dead = after(false, |model| model.applied.dead_letters.push(id("a")));
    assert_eq!(
        dead,
        [r#"search: store "a": its dead letter is "there", and should be "not there""#]
    );
}

#[test]
fn replicas_of_the_owner_say_the_same() {
    let (owner, _) = same(false);
    assert_eq!(of_owners("store-info-2", "store", &owner, &owner), []);
    let mut other = owner.clone();
    other.get_mut(&id("gone")).unwrap().version = 4;
    other.remove(&id("a"));
    let found = of_owners("store-info-2", "store", &owner, &other);
    let ids: Vec<_> = found.iter().map(|difference| difference.id.clone().unwrap()).collect();
    assert_eq!(ids, [id("a"), id("gone")]);
    let line = "store-info-2: store \"gone\": its answer is [4,null], and should be [3,null]";
    assert_eq!(found[1].to_string(), line);
}

#[test]
fn a_write_that_was_answered_may_not_be_lost() {
    let (owner, _) = same(false);
    let of = |entity: &str, name: &str| (EntityName::new(entity).unwrap(), id(name));
    let lost = |newest: Newest| lost("store-info", "store", &owner, &newest);
    let newest = [("a", 1), ("b", 1), ("gone", 3)];
    assert_eq!(lost(newest.map(|(name, version)| (of("store", name), version)).into()), []);
    assert_eq!(lost(Newest::from([(of("review", "a"), 2)])), [], "another owner's");
    for (name, version) in [("a", 2), ("never", 1)] {
        let found = lost(Newest::from([(of("store", name), version)]));
        assert!(found.len() == 1 && found[0].id == Some(id(name)), "{found:?}");
    }
}
