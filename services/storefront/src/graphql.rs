//! The same view, as GraphQL. Look-ups are batched: a list of any number of stores is read in one statement, and what only
//! pages show in a second one, if it is asked for.

mod query;
mod store;

use std::{collections::HashMap, sync::Arc};

use async_graphql::{
    EmptyMutation, EmptySubscription, ErrorExtensions, Request, Response, Schema, Variables,
    dataloader::{DataLoader, HashMapCache, Loader},
};
use nudge_protocol::EntityId;
use nudge_runtime::problem::{FieldError, chain};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    lists::Lists,
    view::{Details, Summary},
};
use query::Query;

/// Deepest nesting of fields. The schema's own is four; what is deeper is introspection.
pub const MAX_DEPTH: usize = 16;
/// Highest sum of what the fields of a request cost: 1 each, times the number of stores in a list, and for a list
/// [`LIST_COST`] besides. The fullest page of one list, or several shorter lists.
pub const MAX_COMPLEXITY: usize = 10_000;
/// What a list costs by itself, since it leads to a request to another service: so at most nine of these.
pub const LIST_COST: usize = 1_000;

/// What a request reads with.
type Loaders = DataLoader<Stores, HashMapCache>;

/// What the endpoints share. Cloning is cheap.
#[derive(Clone)]
pub struct Api {
    pub(crate) lists: Arc<Lists>,
    schema: Schema<Query, EmptyMutation, EmptySubscription>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("lists", &self.lists).finish_non_exhaustive()
    }
}

/// A request in GraphQL.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GraphqlRequest {
    /// The document.
    query: String,
    /// Which of its operations to execute, if there are several.
    #[serde(default)]
    operation_name: Option<String>,
    /// The values of its variables.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    variables: Option<Variables>,
}

/// What became of a request.
pub(crate) struct Executed {
    pub(crate) response: Response,
    /// Whether anything was executed: otherwise it was no valid request.
    pub(crate) is_executed: bool,
}

impl Api {
    /// Answers from these lists and their view.
    pub fn new(lists: Lists) -> Self {
        Self { lists: Arc::new(lists), schema: schema() }
    }

    pub(crate) async fn execute(&self, request: GraphqlRequest) -> Executed {
        let GraphqlRequest { query, operation_name, variables } = request;
        let mut request = Request::new(query).variables(variables.unwrap_or_default());
        request.operation_name = operation_name;
        // For one request alone, since the view changes.
        let stores = Stores(self.lists.clone());
        let loaders = DataLoader::with_cache(stores, tokio::spawn, HashMapCache::default());
        let request = request.data(self.lists.clone()).data(loaders);
        let response = self.schema.execute(request).await;
        // A field that fails has a path.
        let is_executed = response.errors.iter().all(|error| !error.path.is_empty());
        Executed { response, is_executed }
    }
}

fn schema() -> Schema<Query, EmptyMutation, EmptySubscription> {
    Schema::build(Query, EmptyMutation, EmptySubscription)
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .finish()
}

/// The schema as text: `api/storefront.graphql`.
pub fn sdl() -> String {
    schema().sdl()
}

/// Reads stores for a whole request at once.
struct Stores(Arc<Lists>);

/// A store, to load what only its page shows.
#[derive(Clone, PartialEq, Eq, Hash)]
struct DetailsOf(EntityId);

impl Loader<EntityId> for Stores {
    type Value = Summary;
    type Error = Arc<sqlx::Error>;

    async fn load(&self, ids: &[EntityId]) -> Result<HashMap<EntityId, Summary>, Self::Error> {
        self.0.view.summaries(ids).await.map_err(Arc::new)
    }
}

impl Loader<DetailsOf> for Stores {
    type Value = Details;
    type Error = Arc<sqlx::Error>;

    async fn load(&self, of: &[DetailsOf]) -> Result<HashMap<DetailsOf, Details>, Self::Error> {
        let ids: Vec<_> = of.iter().map(|DetailsOf(id)| id.clone()).collect();
        let found = self.0.view.details(&ids).await.map_err(Arc::new)?;
        Ok(found.into_iter().map(|(id, details)| (DetailsOf(id), details)).collect())
    }
}

/// The caller's fault, about one argument.
fn wrong(argument: &str, detail: String) -> async_graphql::Error {
    refused(vec![FieldError { field: argument.to_owned(), detail }])
}

/// The caller's fault. `extensions` lists what is wrong, as a problem would.
fn refused(errors: Vec<FieldError>) -> async_graphql::Error {
    let message = errors.first().map(|one| format!("{}: {}", one.field, one.detail));
    let errors: Vec<_> = errors
        .into_iter()
        .map(|one| json!({"field": one.field, "detail": one.detail}))
        .filter_map(|one| async_graphql::Value::from_json(one).ok())
        .collect();
    async_graphql::Error::new(message.unwrap_or_default()).extend_with(|_, extensions| {
        extensions.set("code", "BAD_REQUEST");
        extensions.set("errors", errors.clone());
    })
}

/// This service's fault: logged in full, reported only in general.
fn failed(error: Arc<sqlx::Error>) -> async_graphql::Error {
    tracing::error!(error = %chain(&*error), "a query failed");
    let is_retryable = nudge_runtime::database::is_retryable(&error);
    let (message, code) = match is_retryable {
        true => ("the database is not available", "UNAVAILABLE"),
        false => ("internal error; see the service's log", "INTERNAL"),
    };
    async_graphql::Error::new(message).extend_with(|_, extensions| extensions.set("code", code))
}
