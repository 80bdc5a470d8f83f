//! RFC 7396, and its use on a store.

use serde_json::Value;

use super::{
    fault::Invalid,
    read::{GivenId, STORE_FIELDS},
    store::Store,
};

/// Applies a merge patch: objects are merged, `null` removes, everything else replaces. Lists are replaced
/// completely.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    for (name, change) in patch {
        if change.is_null() {
            target.remove(name);
        } else {
            merge_patch(target.entry(name.as_str()).or_insert(Value::Null), change);
        }
    }
}

impl Store {
    /// The patched store. `null` resets a field to its default; the name has
    /// none, so removing it is a fault, as is any change of the ID.
    pub fn patched(&self, patch: &Value) -> Result<Self, Invalid> {
        let Some(changes) = patch.as_object() else {
            return Err(Invalid::one("body", "must be an object"));
        };
        let mut json =
            serde_json::to_value(self).expect("text, numbers and lists always serialize");
        merge_patch(&mut json, patch);
        // The merged object no longer shows what was removed: a misspelt field, or the ID.
        for (name, _) in changes.iter().filter(|(_, change)| change.is_null()) {
            if name == "id" || !STORE_FIELDS.contains(&name.as_str()) {
                json[name.as_str()] = Value::Null;
            }
        }
        Self::read(&json, GivenId::InPath(&self.id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::domain::Menu;

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut merged = target.clone();
            merge_patch(&mut merged, &patch);
            assert_eq!(merged, result, "{target} + {patch}");
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let object = proptest::collection::btree_map("[a-c]", inner.clone(), 0..4);
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(Value::from),
                object.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn store() -> impl Strategy<Value = Store> {
        let menu = ("[가-힣]{1,4}", 0i64..50_000).prop_map(|(name, price)| Menu { name, price });
        let menus = proptest::collection::vec(menu, 0..3);
        let texts = ("[가-힣]{1,6}", "[a-z]{0,4}", "[가-힣]{0,3}", "[0-9-]{0,8}", "[a-z\n]{0,8}");
        (texts, any::<bool>(), 0i64..9_000, 0i64..9_000, menus).prop_map(
            |(texts, open, min, fee, menus)| Store {
                id: "s".parse().unwrap(),
                name: texts.0,
                category: texts.1,
                region: texts.2.clone(),
                address: texts.2,
                neighbourhood: String::new(),
                phone: texts.3,
                description: texts.4,
                open,
                min_order_amount: min,
                delivery_fee: fee,
                menus,
            },
        )
    }

    fn has_null_member(value: &Value) -> bool {
        value.as_object().is_some_and(|o| o.values().any(|v| v.is_null() || has_null_member(v)))
    }

    proptest! {
        #[test]
        fn a_patch_applied_twice_is_a_patch_applied_once(target in json_value(), patch in json_value()) {
            let mut once = target;
            merge_patch(&mut once, &patch);
            let mut twice = once.clone();
            merge_patch(&mut twice, &patch);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn a_patch_without_nulls_on_nothing_is_itself(patch in json_value()) {
            prop_assume!(!has_null_member(&patch));
            let mut target = Value::Null;
            merge_patch(&mut target, &patch);
            prop_assert_eq!(target, patch);
        }

        #[test]
        fn what_the_patch_does_not_name_stays(a in store(), fee in 0i64..9_000) {
            let patched = a.patched(&json!({"delivery_fee": fee})).unwrap();
            prop_assert_eq!(patched, Store { delivery_fee: fee, ..a.clone() });
            prop_assert_eq!(a.patched(&json!({})).unwrap(), a);
        }

        #[test]
        fn a_whole_store_as_patch_replaces_the_other(a in store(), b in store()) {
            prop_assert_eq!(a.patched(&serde_json::to_value(&b).unwrap()).unwrap(), b);
        }

        #[test]
        fn nulls_lead_to_the_defaults_a_put_would_give(a in store()) {
            let mut patch = json!({});
            for field in STORE_FIELDS.iter().filter(|f| !["id", "name"].contains(f)) {
                patch[*field] = Value::Null;
            }
            let fresh = json!({"name": a.name});
            prop_assert_eq!(a.patched(&patch).unwrap(), Store::read(&fresh, GivenId::InPath(&a.id)).unwrap());
        }
    }

    #[test]
    fn nothing_slips_through_as_null() {
        let store =
            Store::read(&json!({"name": "a"}), GivenId::InPath(&"s".parse().unwrap())).unwrap();
        for field in ["name", "id", "colour"] {
            let invalid = store.patched(&json!({field: null})).unwrap_err();
            assert_eq!(invalid.0[0].field, field);
        }
        // A list is replaced whole, so a null in it is not a removal.
        let invalid = store.patched(&json!({"menus": [{"name": "a", "price": null}]})).unwrap_err();
        assert_eq!(invalid.0[0].field, "menus[0].price");
    }
}
