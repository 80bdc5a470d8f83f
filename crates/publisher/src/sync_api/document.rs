//! The OpenAPI document of the sync API of any owner, in any language: `api/owner.openapi.json`.

use nudge_protocol::EntityName;
use utoipa::{IntoParams, OpenApi};

/// The path parameter instead of an entity's name.
const ANY: &str = "/sync/v1/{entity}/";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nudge: the API of every owner",
        version = "1.0.0",
        description = "What subscribers call back. `docs/protocol.md` says what each call is used for and which of \
            them an owner must offer: `batch-get`, `items` and `GET`. The others are optional.",
    ),
    tags((name = "sync", description = "Callbacks, for subscribers")),
)]
struct About;

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "described here; an owner's router has a name in its place")]
struct OfEntity {
    /// The kind of entity.
    entity: EntityName,
}

/// The document as text, with `{entity}` in the place of an entity's name.
pub fn of_any_entity() -> String {
    let name = EntityName::new("entity").expect("a word is a name");
    let mut document = About::openapi();
    document.merge(super::routes(&name).into_openapi());
    let named = format!("/sync/v1/{name}/");
    for (path, mut item) in std::mem::take(&mut document.paths.paths) {
        item.parameters =
            Some(OfEntity::into_params(|| None).into_iter().map(Into::into).collect());
        document.paths.paths.insert(path.replacen(&named, ANY, 1), item);
    }
    nudge_runtime::openapi::text(document, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_in_the_repository_is_the_code() {
        let written = concat!(env!("CARGO_MANIFEST_DIR"), "/../../api/owner.openapi.json");
        assert!(
            std::fs::read_to_string(written).unwrap_or_default() == of_any_entity(),
            "api/owner.openapi.json is out of date: regenerate it with\n\
             cargo run -q -p nudge-publisher --example openapi > api/owner.openapi.json"
        );
    }

    #[test]
    fn every_path_leaves_the_entity_open() {
        let document: serde_json::Value = serde_json::from_str(&of_any_entity()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), 7);
        for (path, item) in paths {
            assert!(path.starts_with(ANY), "{path}");
            assert_eq!(item["parameters"][0]["name"], "entity");
        }
    }
}
