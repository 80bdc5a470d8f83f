//! What can be asked for.

use std::sync::Arc;

use async_graphql::{Context, ID, Lookahead, Object, SimpleObject};
use nudge_protocol::EntityId;

use super::{
    DetailsOf, LIST_COST, Loaders, failed, refused,
    store::{DETAILS, Store},
    wrong,
};
use crate::{
    lists::{Basis, Failure, Listing, Lists},
    question::{PAGE, Parameters, Question, Source},
    source::Reason,
};

/// Most stores that are asked for by their IDs in one field.
pub(super) const MAX_IDS: usize = 100;

/// Everything that can be asked for.
pub(super) struct Query;

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
