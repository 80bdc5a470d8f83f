//! The endpoints. They translate HTTP and decide nothing.

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::EntityId;
use nudge_runtime::{
    Problem,
    body::{Query, parse, read_body, require_content_type},
    path::PathId,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    graphql::{Api, GraphqlRequest},
    lists::{Failure, Fallback, Listing},
    question::{PAGE, Parameters, Question, Source},
    view::{Page, Standing, Summary},
};

/// Largest body of a GraphQL request, in bytes.
pub const MAX_GRAPHQL_BYTES: usize = 64 * 1024;
/// The media type of an answer whose status says whether the request was one.
const GRAPHQL_RESPONSE: &str = "application/graphql-response+json";

/// The service's own routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::default().routes(routes!(page)).routes(routes!(list)).routes(routes!(graphql))
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(errors) => bad_request(errors),
            Failure::Database(error) => error.into(),
        }
    }
}

fn bad_request(errors: Vec<nudge_runtime::problem::FieldError>) -> Problem {
    Problem::fields(errors).with_status(StatusCode::BAD_REQUEST)
}

/// Show the page of a store
///
/// With its menus, its rating and its newest reviews, as this service knows them. Reviews that arrived before their store
/// are counted once it is there.
#[utoipa::path(
    get, path = "/stores/{id}", operation_id = "showStore", tag = "stores",
    params(("id" = EntityId, Path, description = "The store")),
    responses(
        (status = 200, description = "The page", body = Page),
        (status = 404, description = "No store with this ID is known"),
        (status = 410, description = "The store was deleted"),
    ),
)]
pub(crate) async fn page(
    State(api): State<Api>,
    PathId(id): PathId<EntityId>,
) -> Result<Json<Page>, Problem> {
    match api.lists.view.page(&id).await? {
        Standing::There(page) => Ok(Json(*page)),
        Standing::Deleted => Err(Problem::new(StatusCode::GONE, "the store was deleted")),
        Standing::Unknown => {
            Err(Problem::new(StatusCode::NOT_FOUND, "no store with this ID is known"))
        }
    }
}

/// Who chooses the stores of a list, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// The service that chooses.
    #[param(inline)]
    source: Source,
    /// search: words that must all be found.
    #[param(max_length = 200, nullable = false, example = "커피")]
    q: Option<String>,
    /// search, ads: the category.
    #[param(max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", nullable = false)]
    category: Option<String>,
    /// search, ads: the region.
    #[param(max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$", nullable = false)]
    region: Option<String>,
    /// search: only open stores, or only closed ones.
    #[param(nullable = false)]
    open: Option<bool>,
    /// favourites: the user, who must be given.
    #[param(nullable = false)]
    user: Option<String>,
    /// search: the `next` of the previous page.
    #[param(max_length = 2000, nullable = false)]
    cursor: Option<String>,
    /// favourites: the `next` of the previous page.
    #[param(max_length = 2000, nullable = false)]
    after: Option<String>,
    /// Maximum number of stores.
    #[param(minimum = 1, maximum = 100, default = 20, nullable = false)]
    limit: Option<usize>,
}

impl ListQuery {
    fn question(self) -> Result<Question, Problem> {
        let Self { source, q, category, region, open, user, cursor, after, limit } = self;
        let limit = PAGE.limit(limit)?;
        let parameters = Parameters { q, category, region, open, user, cursor, after };
        Question::new(source, parameters, limit).map_err(bad_request)
    }
}

/// A list of stores.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoreList {
    /// The IDs of the stores, in the order of their source.
    ids: Vec<EntityId>,
    /// The same stores, as this service knows them.
    items: Vec<Summary>,
    /// Stores that the source chose and this service does not know: not yet, or not any more.
    unknown: Vec<EntityId>,
    /// Pass as `cursor` to search, or as `after` to favourites, for the next page; null on the last page.
    #[schema(required)]
    next: Option<String>,
    /// Set if the source could not be asked; null if the list is its answer.
    #[schema(required)]
    fallback: Option<Fallback>,
}

/// List stores that another service chooses
///
/// The source is asked for IDs, once; what is shown of the stores comes from this service's own view. If the source
/// fails or does not answer within a second, the list comes from what is at hand, and says so in `fallback`: it is never an
/// error. Which parameters a source takes is said with each; another one's is an error.
#[utoipa::path(
    get, path = "/stores", operation_id = "listStores", tag = "stores", params(ListQuery),
    responses((status = 200, description = "The list", body = StoreList)),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
) -> Result<Json<StoreList>, Problem> {
    let Listing { ids, next, fallback } = api.lists.find(query.question()?).await?;
    let mut known = api.lists.view.summaries(&ids).await?;
    let (mut items, mut unknown) = (Vec::with_capacity(ids.len()), Vec::new());
    for id in ids {
        match known.remove(&id) {
            Some(summary) => items.push(summary),
            None => unknown.push(id),
        }
    }
    let ids = items.iter().map(|item| item.id.clone()).collect();
    Ok(Json(StoreList { ids, items, unknown, next, fallback }))
}

/// Ask for stores in GraphQL
///
/// The schema is `api/storefront.graphql`; introspection is allowed. As GraphQL over HTTP has it: with
/// `Accept: application/graphql-response+json`, a request that cannot be executed is answered with 400; without it, every
/// answer in GraphQL's form has status 200, and `errors` tells. The depth and the complexity of a query are bounded.
#[utoipa::path(
    post, path = "/graphql", operation_id = "graphql", tag = "graphql", request_body = GraphqlRequest,
    responses(
        (status = 200, description = "What was asked for, and errors if there are any", body = serde_json::Value),
        (status = 400, description = "The query cannot be executed; the body says why, in GraphQL's form"),
    ),
)]
pub(crate) async fn graphql(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    require_content_type(request.headers(), &["application/json"])?;
    let says_by_status = accepts_graphql(request.headers());
    let body = read_body(request.into_body(), MAX_GRAPHQL_BYTES).await?;
    let answer = api.execute(parse(&body)?).await;
    let status = match says_by_status && !answer.is_executed {
        true => StatusCode::BAD_REQUEST,
        false => StatusCode::OK,
    };
    let media_type = if says_by_status { GRAPHQL_RESPONSE } else { "application/json" };
    let body = match answer.is_executed {
        true => json!(answer.response),
        // Where nothing was executed, there is no data, not even null.
        false => json!({ "errors": answer.response.errors }),
    };
    Ok((status, [(header::CONTENT_TYPE, media_type)], body.to_string()).into_response())
}

fn accepts_graphql(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let types = accepted.flat_map(|value| value.split(','));
    types.filter_map(|one| one.split(';').next()).any(|one| one.trim() == GRAPHQL_RESPONSE)
}
