//! The endpoints. They translate HTTP and decide nothing.

use axum::{Json, extract::State, http::StatusCode};
use nudge_protocol::{EntityId, Timestamp};
use nudge_runtime::{
    Problem,
    body::Query,
    paging::PageSize,
    path::{PathId, PathIds},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::favourites::{Failure, Favourite, Favourites};

/// Stores per page.
const PAGE: PageSize = PageSize { default: 20, max: 100 };

/// The service's own routes.
pub fn routes() -> OpenApiRouter<Favourites> {
    OpenApiRouter::default().routes(routes!(add, remove)).routes(routes!(list))
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let detail = failure.to_string();
        match failure {
            Failure::UnknownStore => Problem::new(StatusCode::NOT_FOUND, detail),
            Failure::DeletedStore => Problem::new(StatusCode::GONE, detail),
            Failure::TooMany => Problem::new(StatusCode::CONFLICT, detail),
            Failure::Database(error) => error.into(),
        }
    }
}

/// Keep a store
///
/// Whether it exists is decided from this service's own copy of the stores. To wait until a write to the store has arrived
/// here, pass its `Nudge-Token`.
#[utoipa::path(
    put, path = "/users/{user}/favourites/{store}", operation_id = "addFavourite", tag = "favourites",
    params(
        ("user" = EntityId, Path, description = "The user"),
        ("store" = EntityId, Path, description = "The store"),
    ),
    responses(
        (status = 201, description = "It is kept from now on"),
        (status = 204, description = "It was kept already, and stays in its place"),
        (status = 404, description = "No store with this ID is known"),
        (status = 409, description = "The list is full"),
        (status = 410, description = "The store was deleted"),
    ),
)]
pub(crate) async fn add(
    State(favourites): State<Favourites>,
    PathIds(user, store): PathIds<EntityId, EntityId>,
) -> Result<StatusCode, Problem> {
    Ok(match favourites.add(&user, &store).await? {
        true => StatusCode::CREATED,
        false => StatusCode::NO_CONTENT,
    })
}

/// Keep a store no longer
#[utoipa::path(
    delete, path = "/users/{user}/favourites/{store}", operation_id = "removeFavourite", tag = "favourites",
    params(
        ("user" = EntityId, Path, description = "The user"),
        ("store" = EntityId, Path, description = "The store, whether it exists or not"),
    ),
    responses((status = 204, description = "It is not in the list")),
)]
pub(crate) async fn remove(
    State(favourites): State<Favourites>,
    PathIds(user, store): PathIds<EntityId, EntityId>,
) -> Result<StatusCode, Problem> {
    favourites.remove(&user, &store).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Selects a page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Start after this place: the `next` of the previous page.
    #[param(value_type = Option<String>, format = "uuid", nullable = false)]
    after: Option<String>,
    /// Maximum number of stores.
    #[param(minimum = 1, maximum = 100, default = 20, nullable = false)]
    limit: Option<usize>,
}

/// A page of a user's favourites.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FavouritesPage {
    /// The IDs of the stores, the one that was added last first.
    ids: Vec<EntityId>,
    /// The same stores, as this service knows them.
    items: Vec<Item>,
    /// Pass as `after` for the next page; null on the last page.
    #[schema(required)]
    next: Option<String>,
}

/// A favourite store.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FavouriteStore)]
struct Item {
    id: EntityId,
    name: String,
    /// Whether it takes orders.
    open: bool,
    /// When it was added to the list.
    added_at: Timestamp,
}

impl From<Favourite> for Item {
    fn from(Favourite { id, name, open, added_at }: Favourite) -> Self {
        Self { id, name, open, added_at }
    }
}

/// List a user's favourites
///
/// Stores that are deleted are left out, and are back if the store is. A user that nobody has heard of has none.
#[utoipa::path(
    get, path = "/users/{user}/favourites", operation_id = "listFavourites", tag = "favourites",
    params(("user" = EntityId, Path, description = "The user"), PageQuery),
    responses((status = 200, description = "A page", body = FavouritesPage)),
)]
pub(crate) async fn list(
    State(favourites): State<Favourites>,
    PathId(user): PathId<EntityId>,
    Query(PageQuery { after, limit }): Query<PageQuery>,
) -> Result<Json<FavouritesPage>, Problem> {
    let limit = PAGE.limit(limit)?;
    let place = |text: String| {
        let wrong = |_| Problem::parameter("after", "must be the `next` of another page");
        Uuid::try_parse(&text).map_err(wrong)
    };
    let after = after.map(place).transpose()?;
    let (found, next) = favourites.page(&user, after.as_ref(), limit).await?;
    let items: Vec<Item> = found.into_iter().map(Item::from).collect();
    let ids = items.iter().map(|item| item.id.clone()).collect();
    Ok(Json(FavouritesPage { ids, items, next }))
}
