//! The OpenAPI document. `api/store-info.openapi.json` is compared with it by a test.

mod sync_api;

use utoipa::{
    IntoResponses, OpenApi, ToSchema,
    openapi::{
        RefOr, Required,
        schema::{AdditionalProperties, Schema},
    },
};

use crate::http::{import, operations, stores};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "store-info",
        description = "The owner of stores. Errors are RFC 9457 problems. Every write answers with \
            the store's version in `ETag` and a `Nudge-Token` that readers may wait for.",
    ),
    paths(
        stores::list,
        stores::create,
        stores::get_one,
        stores::put,
        stores::patch,
        stores::delete,
        import::import,
        sync_api::get_one,
        sync_api::batch_get,
        sync_api::items,
        operations::livez,
        operations::readyz,
        operations::metrics,
        operations::openapi,
    ),
    tags(
        (name = "stores", description = "Stores, for their owners"),
        (name = "sync", description = "Callbacks, for subscribers"),
        (name = "operations", description = "For operators and their tools"),
    ),
)]
struct Document;

/// The document as JSON, ready to print.
pub fn document() -> String {
    let mut document = Document::openapi();
    if let Some(components) = &mut document.components
        && let Some(RefOr::T(Schema::Object(store))) = components.schemas.get("Store").cloned()
    {
        let mut add = |name: &str, required: &[&str], description: &str| {
            let mut schema = store.clone();
            schema.required = required.iter().map(|field| (*field).to_owned()).collect();
            schema.description = Some(description.to_owned());
            schema.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
            components.schemas.insert(name.to_owned(), RefOr::T(Schema::Object(schema)));
        };
        add("NewStore", &["name"], "A store as it is sent: what is left out gets its default.");
        add("StorePatch", &[], "The fields to change; `null` brings back the default.");
    }
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.post, &mut item.put, &mut item.patch];
        for body in operations.into_iter().flatten().filter_map(|o| o.request_body.as_mut()) {
            // The macro says so for types, but not for references.
            if let RefOr::T(body) = body {
                body.required = Some(Required::True);
            }
        }
    }
    let mut text = document.to_pretty_json().expect("the document is made of text and numbers");
    text.push('\n');
    text
}

/// An error (RFC 9457).
#[derive(ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "only its schema is used; the type is nudge_runtime::Problem")]
pub(crate) struct ProblemDocument {
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// The status in words.
    title: String,
    /// What is wrong, for a person.
    detail: Option<String>,
    /// The fields that are wrong, when that is the reason: all of them.
    errors: Option<Vec<ProblemField>>,
}

/// One field that is wrong.
#[derive(ToSchema)]
#[schema(as = FieldError)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct ProblemField {
    /// Its path in the body, such as `menus[2].price`, or the name of a parameter or header.
    field: String,
    /// What it should be.
    detail: String,
}

/// Declares groups of error answers for the annotations of the handlers.
macro_rules! problems {
    ($($(#[$doc:meta])* $group:ident { $($variant:ident = $status:literal: $description:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(IntoResponses)]
        #[expect(dead_code, reason = "only its documentation is used")]
        pub(crate) enum $group {$(
            #[response(status = $status, description = $description,
                       content_type = "application/problem+json")]
            $variant(ProblemDocument),
        )*}
    )*};
}
problems! {
    /// What is wrong with a body.
    BodyProblems {
        NotJson = 400: "The body is not JSON, or the id in the path is none",
        TooLarge = 413: "The body is too large",
        MediaType = 415: "The body is of another content type",
        Invalid = 422: "Fields are wrong; each is named",
    }
    /// What is wrong with an import as a whole.
    ImportProblems {
        BrokenOff = 400: "The body broke off; what was committed stays",
        TooLarge = 413: "The body is larger than 256 MiB; what was committed stays",
        MediaType = 415: "The body is of another content type",
        Unavailable = 503: "The database is not available; what was committed stays",
    }
    /// There is no such store.
    MissingProblems {
        Unknown = 404: "There never was such a store",
        Deleted = 410: "It was deleted",
    }
    /// It exists already.
    ConflictProblem { Exists = 409: "A store with this id exists already", }
    /// The store is in another version.
    ConditionProblem { Condition = 412: "The store is not in a version that the request wants", }
    /// What is wrong with a parameter.
    QueryProblem { Parameter = 400: "A parameter is wrong", }
    /// Not ready.
    UnavailableProblem { Unavailable = 503: "The database does not answer, or the service is stopping", }
}
