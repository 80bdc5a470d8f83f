//! The format of requests and answers, and the problems that failures become.

use axum::http::{StatusCode, header};
use nudge_protocol::{EntityId, Version};
use nudge_publisher::conditional::etag;
use nudge_runtime::{Problem, paging::PageSize};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    domain::{Refusal, Review},
    reviews::{Failure, StoreReviews},
};

/// Reviews per page.
const PAGE: PageSize = PageSize { default: 20, max: 100 };

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

/// Selects a page of a store's reviews.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Start after this review: the `next` of the previous page.
    #[param(value_type = Option<String>, format = "uuid", nullable = false)]
    after: Option<String>,
    /// Maximum number of reviews.
    #[param(minimum = 1, maximum = 100, default = 20, nullable = false)]
    limit: Option<usize>,
}

impl PageQuery {
    /// The ID to start after, if any, and the number of reviews, within bounds.
    pub(crate) fn checked(self) -> Result<(Option<EntityId>, usize), Problem> {
        let limit = PAGE.limit(self.limit)?;
        // `next` is always the ID of a review; brought to one form because IDs are compared as text.
        let id = |text: String| EntityId::new(&Uuid::try_parse(&text).ok()?.to_string()).ok();
        let wrong = || Problem::parameter("after", "must be the `next` of another page");
        let after = self.after.map(|text| id(text).ok_or_else(wrong)).transpose()?;
        Ok((after, limit))
    }
}

/// A page of a store's reviews.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StorePage {
    store: PageStore,
    /// The mean of all ratings, rounded to two decimals; null without ratings.
    #[schema(minimum = 1, maximum = 5, required = true)]
    rating_average: Option<f64>,
    /// Total number of reviews.
    rating_count: u64,
    /// The reviews on this page, newest first.
    items: Vec<Review>,
    /// Pass as `after` for the next page; null on the last page.
    #[schema(required)]
    next: Option<EntityId>,
}

/// What this service knows of the store.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PageStore {
    id: EntityId,
    name: String,
    /// Whether it takes orders, and therefore new reviews.
    open: bool,
    /// The version of the store that this is based on.
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
