//! A store, and what is shown of it.

use async_graphql::{Context, ID, Object, SimpleObject};

use super::{DetailsOf, Loaders, failed, wrong};
use crate::{
    stores::Menu,
    view::{self, Details, NEWEST_REVIEWS, Rating, Summary},
};

/// How many menus of a store a request is charged for.
const MENUS_COST: usize = 10;
/// The fields of a store that only its page shows.
pub(super) const DETAILS: [&str; 5] = ["address", "phone", "description", "menus", "newestReviews"];

pub(super) struct Store(pub(super) Summary);

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

impl From<view::Review> for Review {
    fn from(review: view::Review) -> Self {
        let view::Review { id, rating, text, author, created_at } = review;
        Self { id: ID(id.to_string()), rating, text, author, created_at }
    }
}
