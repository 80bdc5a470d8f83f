//! The endpoints. They translate HTTP and decide nothing.

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use nudge_protocol::EntityId;
use nudge_runtime::{
    Problem,
    body::{Json, Query},
    paging::PageSize,
    path::PathId,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    campaign::{Campaign, Draft, MAX_NAME_CHARS},
    campaigns::{Ad, Campaigns, Failure},
};

/// Ads per answer.
const ADS: PageSize = PageSize { default: 10, max: 100 };
/// Most campaigns whose impressions are counted at once.
const MAX_SHOWN: usize = 100;

/// The service's own routes.
pub fn routes() -> OpenApiRouter<Campaigns> {
    OpenApiRouter::default()
        .routes(routes!(create))
        .routes(routes!(read, replace, remove))
        .routes(routes!(ads))
        .routes(routes!(count))
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let detail = failure.to_string();
        match failure {
            // The store is named in the body, not in the path.
            Failure::UnknownStore | Failure::DeletedStore => Problem::field("store_id", detail),
            Failure::UnknownCampaign => Problem::new(StatusCode::NOT_FOUND, detail),
            Failure::Database(error) => error.into(),
        }
    }
}

fn checked(draft: Draft) -> Result<Draft, Problem> {
    let faults = draft.faults();
    if faults.is_empty() { Ok(draft) } else { Err(Problem::fields(faults)) }
}

/// Begin a campaign
///
/// Its store must exist, as far as this service knows. To wait until a write to the store has arrived here, pass its
/// `Nudge-Token`.
#[utoipa::path(
    post, path = "/campaigns", operation_id = "createCampaign", tag = "campaigns", request_body = Draft,
    responses((status = 201, description = "It runs from `from` on", body = Campaign, headers(
        ("Location" = String, description = "Where the campaign is"),
    ))),
)]
pub(crate) async fn create(
    State(campaigns): State<Campaigns>,
    Json(draft): Json<Draft>,
) -> Result<Response, Problem> {
    let campaign = campaigns.create(checked(draft)?).await?;
    let location = HeaderValue::try_from(format!("/campaigns/{}", campaign.id))
        .expect("the service's own IDs are header values");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Answer(campaign)).into_response())
}

/// Read a campaign
#[utoipa::path(
    get, path = "/campaigns/{id}", operation_id = "readCampaign", tag = "campaigns",
    params(("id" = EntityId, Path, description = "The campaign")),
    responses(
        (status = 200, description = "The campaign", body = Campaign),
        (status = 404, description = "No such campaign"),
    ),
)]
pub(crate) async fn read(
    State(campaigns): State<Campaigns>,
    PathId(id): PathId<EntityId>,
) -> Result<Answer<Campaign>, Problem> {
    Ok(Answer(campaigns.get(&id).await?))
}

/// Replace a campaign
///
/// How often it was shown stays counted.
#[utoipa::path(
    put, path = "/campaigns/{id}", operation_id = "replaceCampaign", tag = "campaigns",
    params(("id" = EntityId, Path, description = "The campaign")), request_body = Draft,
    responses(
        (status = 200, description = "The campaign as it is now", body = Campaign),
        (status = 404, description = "No such campaign"),
    ),
)]
pub(crate) async fn replace(
    State(campaigns): State<Campaigns>,
    PathId(id): PathId<EntityId>,
    Json(draft): Json<Draft>,
) -> Result<Answer<Campaign>, Problem> {
    Ok(Answer(campaigns.replace(&id, checked(draft)?).await?))
}

/// End a campaign
#[utoipa::path(
    delete, path = "/campaigns/{id}", operation_id = "deleteCampaign", tag = "campaigns",
    params(("id" = EntityId, Path, description = "The campaign")),
    responses(
        (status = 204, description = "It is forgotten"),
        (status = 404, description = "No such campaign"),
    ),
)]
pub(crate) async fn remove(
    State(campaigns): State<Campaigns>,
    PathId(id): PathId<EntityId>,
) -> Result<StatusCode, Problem> {
    campaigns.delete(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where ads are shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Place {
    /// Only campaigns for this region, or for all.
    #[serde(default)]
    #[param(max_length = 100, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    region: String,
    /// Only campaigns for this category, or for all.
    #[serde(default)]
    #[param(max_length = 100, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    category: String,
    /// Maximum number of ads.
    #[param(minimum = 1, maximum = 100, default = 10, nullable = false)]
    limit: Option<usize>,
}

/// What to advertise.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ads {
    /// The IDs of the stores, the one whose turn it is first.
    ids: Vec<EntityId>,
    /// The same stores, as this service knows them.
    items: Vec<Item>,
}

/// A store to advertise.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AdvertisedStore)]
struct Item {
    id: EntityId,
    name: String,
    /// To be counted when it was shown.
    campaign: EntityId,
}

/// Choose stores to advertise
///
/// Open stores with a running campaign, each once; what got the smallest share of its budget comes first. Asking counts
/// nothing: report what was shown.
#[utoipa::path(
    get, path = "/ads", operation_id = "chooseAds", tag = "ads", params(Place),
    responses((status = 200, description = "What to advertise", body = Ads)),
)]
pub(crate) async fn ads(
    State(campaigns): State<Campaigns>,
    Query(Place { region, category, limit }): Query<Place>,
) -> Result<Answer<Ads>, Problem> {
    for (parameter, name) in [("region", &region), ("category", &category)] {
        if name.chars().count() > MAX_NAME_CHARS || name.contains(char::is_control) {
            let detail = format!(
                "must have at most {MAX_NAME_CHARS} characters, none of them a control character"
            );
            return Err(Problem::parameter(parameter, detail));
        }
    }
    let limit = ADS.limit(limit)?;
    let found = campaigns.ads(&region, &category, limit).await?;
    let item = |Ad { campaign, store, name }: Ad| Item { id: store, name, campaign };
    let items: Vec<Item> = found.into_iter().map(item).collect();
    Ok(Answer(Ads { ids: items.iter().map(|item| item.id.clone()).collect(), items }))
}

/// Campaigns that were shown.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shown {
    /// 1 to 100 campaigns, each of which was shown once.
    #[schema(min_items = 1, max_items = 100)]
    campaigns: Vec<EntityId>,
}

/// How many impressions were counted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counted {
    counted: u64,
}

/// Report what was shown
///
/// Counts one impression for each campaign that exists and has budget left. A campaign whose budget is used up is not chosen
/// any more.
#[utoipa::path(
    post, path = "/ads/shown", operation_id = "reportAds", tag = "ads", request_body = Shown,
    responses((status = 200, description = "How many were counted", body = Counted)),
)]
pub(crate) async fn count(
    State(campaigns): State<Campaigns>,
    Json(Shown { campaigns: shown }): Json<Shown>,
) -> Result<Answer<Counted>, Problem> {
    if !(1..=MAX_SHOWN).contains(&shown.len()) {
        return Err(Problem::field("campaigns", format!("must contain 1 to {MAX_SHOWN} IDs")));
    }
    Ok(Answer(Counted { counted: campaigns.count(&shown).await? }))
}
