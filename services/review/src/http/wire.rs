//! What requests and answers look like, and how failures become problems.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
};
use nudge_protocol::{EntityId, Version};
use nudge_publisher::conditional::etag;
use nudge_runtime::Problem;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{Refusal, Review},
    reviews::{Failure, StoreReviews},
};

/// Reviews on a page when no limit is given.
pub const DEFAULT_PAGE_ITEMS: u32 = 20;
/// Most reviews on a page.
pub const MAX_PAGE_ITEMS: u32 = 100;

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let detail = failure.to_string();
        match failure {
            Failure::Database(error) => error.into(),
            Failure::Stale(standing) => Problem::field("If-Match", detail)
                .with_status(StatusCode::PRECONDITION_FAILED)
                .with_header(header::ETAG, etag(standing)),
            Failure::Refused(refusal) => {
                let status = match refusal {
                    Refusal::UnknownStore | Refusal::UnknownReview => StatusCode::NOT_FOUND,
                    Refusal::DeletedStore | Refusal::DeletedReview => StatusCode::GONE,
                    Refusal::ClosedStore => StatusCode::CONFLICT,
                };
                Problem::new(status, detail)
            }
        }
    }
}

fn bad_request(field: &str, detail: impl Into<String>) -> Problem {
    Problem::field(field, detail).with_status(StatusCode::BAD_REQUEST)
}

/// The id in a path. What cannot be one is a 400 that names it.
pub(crate) struct PathId(pub(crate) EntityId);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        let text = path.map_err(|_| bad_request("id", "must be percent-encoded UTF-8"))?;
        EntityId::new(&text).map(PathId).map_err(|error| bad_request("id", error.to_string()))
    }
}

/// Which page of a store's reviews.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// The `next` of the page before.
    #[param(nullable = false)]
    after: Option<String>,
    /// Reviews wanted.
    #[param(minimum = 1, maximum = 100, default = 20, nullable = false)]
    limit: Option<u32>,
}

impl PageQuery {
    /// Where to begin and how many to answer, within bounds.
    pub(crate) fn checked(self) -> Result<(Option<EntityId>, u32), Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_PAGE_ITEMS);
        if !(1..=MAX_PAGE_ITEMS).contains(&limit) {
            return Err(bad_request("limit", format!("must be from 1 to {MAX_PAGE_ITEMS}")));
        }
        // Only ids of reviews stand in `next`; written in one way, since they are compared as text.
        let id = |text: String| EntityId::new(&Uuid::try_parse(&text).ok()?.to_string()).ok();
        let wrong = || bad_request("after", "must be the next of a page");
        let after = self.after.map(|text| id(text).ok_or_else(wrong)).transpose()?;
        Ok((after, limit))
    }
}

/// A page of a store's reviews.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StorePage {
    store: PageStore,
    /// The mean of all ratings, rounded to two digits; null when there are none.
    #[schema(minimum = 1, maximum = 5, required = true)]
    rating_average: Option<f64>,
    /// How many reviews there are in all.
    rating_count: u64,
    /// This page, the newest first.
    items: Vec<Review>,
    /// Pass as `after` for the next page; null on the last.
    #[schema(value_type = Option<String>, required = true)]
    next: Option<EntityId>,
}

/// What is known of the store.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageStore {
    #[schema(value_type = String)]
    id: EntityId,
    name: String,
    /// Whether it takes orders, and so new reviews.
    open: bool,
    /// The store-info version that is known here.
    #[schema(value_type = u64)]
    version: Version,
}

impl StorePage {
    pub(crate) fn new(id: EntityId, found: StoreReviews) -> Self {
        let StoreReviews { store, ratings, items, next } = found;
        Self {
            store: PageStore { id, name: store.name, open: store.open, version: store.version },
            rating_average: ratings.average(),
            rating_count: ratings.count,
            items,
            next,
        }
    }
}
