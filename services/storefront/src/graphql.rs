//! The same view, as GraphQL. Look-ups are batched: a list of any number of stores is read in one statement, and what only
//! pages show in a second one, if it is asked for.

use std::{collections::HashMap, sync::Arc};

use async_graphql::{
    Context, EmptyMutation, EmptySubscription, ErrorExtensions, ID, Lookahead, Object, Request,
    Response, Schema, SimpleObject, Variables,
    dataloader::{DataLoader, HashMapCache, Loader},
};
use nudge_protocol::EntityId;
use nudge_runtime::problem::{FieldError, chain};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    lists::{Basis, Failure, Listing, Lists},
    question::{PAGE, Parameters, Question, Source},
    source::Reason,
    stores::Menu,
    view::{Details, NEWEST_REVIEWS, Rating, Summary},
};

/// Deepest nesting of fields. The schema's own is four; what is deeper is introspection.
pub const MAX_DEPTH: usize = 16;
/// Highest sum of what the fields of a request cost: 1 each, times the number of stores in a list, and for a list
/// [`LIST_COST`] besides. The fullest page of one list, or several shorter lists.
pub const MAX_COMPLEXITY: usize = 10_000;
/// What a list costs by itself, since it leads to a request to another service: so at most nine of these.
pub const LIST_COST: usize = 1_000;
/// How many menus of a store a request is charged for.
const MENUS_COST: usize = 10;
/// Most stores that are asked for by their IDs in one field.
pub const MAX_IDS: usize = 100;

/// The fields of a store that only its page shows.
const DETAILS: [&str; 5] = ["address", "phone", "description", "menus", "newestReviews"];

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

/// Everything that can be asked for.
struct Query;

/// What a list costs whose stores cost that much each.
fn cost(limit: i32, each: usize) -> usize {
    LIST_COST + usize::try_from(limit).unwrap_or_default().min(PAGE.max) * each
}

#[Object]
impl Query {
    /// A store. Null if it is unknown or deleted.
    async fn store(&self, ctx: &Context<'_>, id: ID) -> async_graphql::Result<Option<Store>> {
        let id = entity_id("id", &id)?;
        let found = ctx.data::<Loaders>()?.load_one(id).await.map_err(failed)?;
        Ok(found.map(Store))
    }

    /// Those of up to 100 stores that exist, in the order of their IDs here.
    #[graphql(complexity = "ids.len() * child_complexity + 1")]
    async fn stores(&self, ctx: &Context<'_>, ids: Vec<ID>) -> async_graphql::Result<Vec<Store>> {
        if ids.len() > MAX_IDS {
            return Err(wrong("ids", format!("must contain at most {MAX_IDS} IDs")));
        }
        let ids: Vec<_> = ids.iter().map(|id| entity_id("ids", id)).collect::<Result<_, _>>()?;
        Ok(known(ctx, &ids, &ctx.look_ahead()).await?.0)
    }

    /// Stores that search finds. Null if it refuses what is asked for.
    #[graphql(complexity = "cost(limit, child_complexity)")]
    #[expect(clippy::too_many_arguments, reason = "they are the parameters of search")]
    async fn search(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Words that must all be found.")] q: Option<String>,
        #[graphql(desc = "Exactly this category.")] category: Option<String>,
        #[graphql(desc = "Exactly this region.")] region: Option<String>,
        #[graphql(desc = "Only open stores, or only closed ones.")] open: Option<bool>,
        #[graphql(desc = "The `next` of the previous page.")] cursor: Option<String>,
        #[graphql(desc = "Maximum number of stores: 1 to 100.", default = 20)] limit: i32,
    ) -> async_graphql::Result<Option<StoreList>> {
        let parameters = Parameters { q, category, region, open, cursor, ..Parameters::default() };
        list(ctx, Source::Search, parameters, limit).await
    }

    /// Stores to advertise. Null if ads refuses what is asked for.
    #[graphql(complexity = "cost(limit, child_complexity)")]
    async fn ads(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Only campaigns for this region, or for all.")] region: Option<String>,
        #[graphql(desc = "Only campaigns for this category, or for all.")] category: Option<String>,
        #[graphql(desc = "Maximum number of stores: 1 to 100.", default = 20)] limit: i32,
    ) -> async_graphql::Result<Option<StoreList>> {
        let parameters = Parameters { region, category, ..Parameters::default() };
        list(ctx, Source::Ads, parameters, limit).await
    }

    /// Stores that a user keeps. Null if favourites refuses what is asked for.
    #[graphql(complexity = "cost(limit, child_complexity)")]
    async fn favourites(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The user.")] user: ID,
        #[graphql(desc = "The `next` of the previous page.")] after: Option<String>,
        #[graphql(desc = "Maximum number of stores: 1 to 100.", default = 20)] limit: i32,
    ) -> async_graphql::Result<Option<StoreList>> {
        let parameters = Parameters { user: Some(user.0), after, ..Parameters::default() };
        list(ctx, Source::Favourites, parameters, limit).await
    }
}

/// A list of stores that another service chose.
#[derive(SimpleObject)]
struct StoreList {
    /// The stores, in the order of their source.
    items: Vec<Store>,
    /// Stores that the source chose and this service does not know: not yet, or not any more.
    unknown: Vec<ID>,
    /// Where the next page begins; null on the last page.
    next: Option<String>,
    /// Set if the source could not be asked; null if the list is its answer.
    fallback: Option<Fallback>,
}

/// Says that a list does not come from its source now.
#[derive(SimpleObject)]
struct Fallback {
    /// Why.
    reason: Reason,
    /// What happened, for people.
    detail: String,
    /// Where the stores come from instead.
    basis: Basis,
    /// How old that is, in milliseconds: since the source gave it, or since this service's view was last known to hold
    /// everything that its owners had announced. Null if there is nothing, or it is not known.
    age_ms: Option<f64>,
    /// Whether more stores match than are listed, which cannot be continued now.
    cut_off: bool,
}

struct Store(Summary);

/// A store.
#[Object]
impl Store {
    async fn id(&self) -> ID {
        ID(self.0.id.to_string())
    }

    /// The name on the sign.
    async fn name(&self) -> &str {
        &self.0.name
    }

    /// The kind of food.
    async fn category(&self) -> &str {
        &self.0.category
    }

    /// The district that it delivers in.
    async fn region(&self) -> &str {
        &self.0.region
    }

    /// The neighbourhood.
    async fn neighbourhood(&self) -> &str {
        &self.0.neighbourhood
    }

    /// Whether it takes orders.
    async fn open(&self) -> bool {
        self.0.open
    }

    /// Minimum order, in whole won.
    async fn min_order_amount(&self) -> i64 {
        self.0.min_order_amount
    }

    /// Delivery fee, in whole won.
    async fn delivery_fee(&self) -> i64 {
        self.0.delivery_fee
    }

    /// What its reviews say.
    async fn rating(&self) -> Rating {
        self.0.rating
    }

    /// The version of the store that this shows: too large for `Int`.
    async fn version(&self) -> String {
        self.0.version.to_string()
    }

    /// The street address.
    async fn address(&self, ctx: &Context<'_>) -> async_graphql::Result<String> {
        self.details(ctx, |details| details.address).await
    }

    /// The phone number.
    async fn phone(&self, ctx: &Context<'_>) -> async_graphql::Result<String> {
        self.details(ctx, |details| details.phone).await
    }

    /// A description.
    async fn description(&self, ctx: &Context<'_>) -> async_graphql::Result<String> {
        self.details(ctx, |details| details.description).await
    }

    /// What can be ordered, in the order that the store chose.
    #[graphql(complexity = "MENUS_COST * child_complexity")]
    async fn menus(&self, ctx: &Context<'_>) -> async_graphql::Result<Vec<Menu>> {
        self.details(ctx, |details| details.menus).await
    }

    /// The newest reviews, newest first: at most 10.
    #[graphql(
        complexity = "usize::try_from(first).unwrap_or_default().min(NEWEST_REVIEWS) * child_complexity"
    )]
    async fn newest_reviews(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many: 0 to 10.", default = 10)] first: i32,
    ) -> async_graphql::Result<Vec<Review>> {
        let first = usize::try_from(first).ok().filter(|first| *first <= NEWEST_REVIEWS);
        let range = || wrong("first", format!("must be from 0 to {NEWEST_REVIEWS}"));
        let first = first.ok_or_else(range)?;
        let reviews = self.details(ctx, |details| details.newest_reviews).await?;
        Ok(reviews.into_iter().take(first).map(Review::from).collect())
    }
}

impl Store {
    /// What only the page shows; nothing if the store was deleted a moment ago.
    async fn details<T: Default>(
        &self,
        ctx: &Context<'_>,
        of: impl FnOnce(Details) -> T,
    ) -> async_graphql::Result<T> {
        let details = ctx.data::<Loaders>()?.load_one(DetailsOf(self.0.id.clone()));
        Ok(details.await.map_err(failed)?.map(of).unwrap_or_default())
    }
}

/// A review of a store.
#[derive(SimpleObject)]
struct Review {
    /// Its ID.
    id: ID,
    /// From 1 to 5.
    rating: u8,
    /// What the author thinks.
    text: String,
    /// Who wrote it.
    author: String,
    /// When it was first written, as RFC 3339 has it.
    created_at: String,
}

impl From<crate::view::Review> for Review {
    fn from(review: crate::view::Review) -> Self {
        let crate::view::Review { id, rating, text, author, created_at } = review;
        Self { id: ID(id.to_string()), rating, text, author, created_at }
    }
}

async fn list(
    ctx: &Context<'_>,
    source: Source,
    parameters: Parameters,
    limit: i32,
) -> async_graphql::Result<Option<StoreList>> {
    let limit = PAGE.rows(Some(usize::try_from(limit).unwrap_or_default()));
    let limit = limit.map_err(|error| wrong("limit", error.to_string()))?;
    let question = Question::new(source, parameters, limit).map_err(refused)?;
    let found = ctx.data::<Arc<Lists>>()?.find(question).await;
    let Listing { ids, next, fallback } = found.map_err(|failure| match failure {
        Failure::Refused(errors) => refused(errors),
        Failure::Database(error) => failed(Arc::new(error)),
    })?;
    let (items, unknown) = known(ctx, &ids, &ctx.look_ahead().field("items")).await?;
    let fallback = fallback.map(|fallback| Fallback {
        reason: fallback.reason,
        detail: fallback.detail,
        basis: fallback.basis,
        age_ms: fallback.age_ms.map(|age| age as f64),
        cut_off: fallback.cut_off,
    });
    Ok(Some(StoreList { items, unknown, next, fallback }))
}

/// Those of these stores that exist, in this order, and the IDs of the others. `asked` is what is asked of each.
async fn known(
    ctx: &Context<'_>,
    ids: &[EntityId],
    asked: &Lookahead<'_>,
) -> async_graphql::Result<(Vec<Store>, Vec<ID>)> {
    let loaders = ctx.data::<Loaders>()?;
    let found = loaders.load_many(ids.iter().cloned()).await.map_err(failed)?;
    // All at once: the fields of single stores, which are resolved one by one, then find it there.
    if DETAILS.iter().any(|field| asked.field(field).exists()) {
        loaders.load_many(ids.iter().cloned().map(DetailsOf)).await.map_err(failed)?;
    }
    let (mut stores, mut unknown) = (Vec::with_capacity(ids.len()), Vec::new());
    for id in ids {
        match found.get(id) {
            Some(summary) => stores.push(Store(summary.clone())),
            None => unknown.push(ID(id.to_string())),
        }
    }
    Ok((stores, unknown))
}

fn entity_id(argument: &str, id: &ID) -> async_graphql::Result<EntityId> {
    EntityId::new(id).map_err(|error| wrong(argument, error.to_string()))
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
