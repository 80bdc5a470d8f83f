//! The OpenAPI document: what the routes do not describe themselves. A test compares
//! `api/store-info.openapi.json` with it.

use axum::Router;
use nudge_protocol::sync_api::State;
use nudge_publisher::sync_api;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Components, OpenApi, Ref, RefOr,
        schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type},
    },
};
use utoipa_axum::router::OpenApiRouter;

use crate::{domain::Store, entity, http};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "store-info",
        description = "The owner of stores. Errors are RFC 9457 problems. Every write answers with \
            the store's version in `ETag` and a `Nudge-Token` that readers may wait for.",
    ),
    tags((name = "stores", description = "Stores, for their owners")),
)]
struct About;

/// The document as JSON, ready to print.
pub fn document() -> String {
    let routes = [http::routes().into_openapi(), sync_api::openapi(&entity())];
    nudge_runtime::openapi::document(about(), routes, &[])
}

/// Serves these routes, and the document that describes them.
pub(crate) fn served(router: OpenApiRouter) -> Router {
    nudge_runtime::openapi::served(about(), router, &[])
}

fn about() -> OpenApi {
    let mut about = <About as utoipa::OpenApi>::openapi();
    let schemas = &mut about.components.get_or_insert_with(Components::new).schemas;
    // The sync API's state is a store here.
    schemas.insert(State::name().into(), Ref::from_schema_name(Store::name()).into());
    let mut add = |name: &str, required: &[&str], description: &str| {
        let RefOr::T(Schema::Object(mut schema)) = Store::schema() else {
            unreachable!("a struct with named fields is an object");
        };
        schema.required = required.iter().map(|field| (*field).to_owned()).collect();
        schema.description = Some(description.to_owned());
        schema.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        schemas.insert(name.to_owned(), RefOr::T(Schema::Object(schema)));
    };
    add("NewStore", &["name"], "A store in a request: omitted fields get their defaults.");
    add("StorePatch", &[], "The fields to change; `null` resets a field to its default.");
    let Some(RefOr::T(Schema::Object(patch))) = schemas.get_mut("StorePatch") else {
        unreachable!("it was added just now");
    };
    // A store has no name by default.
    for (_, field) in patch.properties.iter_mut().filter(|(name, _)| *name != "name") {
        let or_null = OneOfBuilder::new()
            .item(field.clone())
            .item(ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null)));
        *field = RefOr::T(Schema::OneOf(or_null.build()));
    }
    about
}
