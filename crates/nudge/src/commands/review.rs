//! `nudge review`: reads and edits reviews at their owner.

use clap::{Args, Subcommand};
use nudge_protocol::EntityId;
use reqwest::{Method, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::written::{WaitFlag, written};
use crate::{
    client::{Api, Service, segment, store_path},
    failure::Failure,
    output,
};

const OWNER: Service = Service::Review;
/// Most reviews that their owner lists at a time.
const MAX_LISTED: i64 = 100;

/// Verbs of `nudge review`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReviewVerb {
    /// Write a review of a store
    Add {
        /// The store's ID
        store: EntityId,
        #[command(flatten)]
        draft: Draft,
        #[command(flatten)]
        wait: WaitFlag,
    },
    /// Change some fields of a review
    Put {
        /// The review's ID
        id: EntityId,
        #[command(flatten)]
        changes: Changes,
        #[command(flatten)]
        wait: WaitFlag,
    },
    /// Show a review as stored by its owner
    Get {
        /// The review's ID
        id: EntityId,
    },
    /// List a store's reviews, newest first
    Ls(LsArgs),
    /// Delete a review
    Rm {
        /// The review's ID
        id: EntityId,
        #[command(flatten)]
        wait: WaitFlag,
    },
}

/// What an author writes.
#[derive(Args, Debug, Serialize)]
pub(crate) struct Draft {
    /// From 1 to 5
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    rating: u8,
    /// What the author thinks
    #[arg(long)]
    text: String,
    /// Who writes it
    #[arg(long, value_name = "NAME")]
    author: String,
}

/// What changes in it. The rest stays as it is.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Changes {
    /// From 1 to 5
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    rating: Option<u8>,
    /// What the author thinks
    #[arg(long)]
    text: Option<String>,
    /// Who writes it
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
}

/// Arguments of `nudge review ls`.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// The store's ID
    store: EntityId,
    /// List those after this review
    #[arg(long, value_name = "ID")]
    after: Option<EntityId>,
    /// Most reviews to list
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=MAX_LISTED))]
    limit: u16,
}

/// Runs a verb of `nudge review`.
pub(crate) async fn run(api: Api, verb: ReviewVerb, json: bool) -> Result<(), Failure> {
    let owner = api.of(OWNER);
    match verb {
        ReviewVerb::Add { store, draft, wait } => {
            let path = format!("{}/reviews", store_path(&store)?);
            let request = api.request(Method::POST, owner, &path).json(&draft);
            written(&api, "created", &api.expect(owner, request).await?, wait, json).await
        }
        ReviewVerb::Put { id, changes, wait } => put(&api, &id, changes, wait, json).await,
        ReviewVerb::Get { id } => get(&api, &id, json).await,
        ReviewVerb::Ls(args) => list(&api, args, json).await,
        ReviewVerb::Rm { id, wait } => {
            let request = api.request(Method::DELETE, owner, &path(&id)?);
            written(&api, "deleted", &api.expect(owner, request).await?, wait, json).await
        }
    }
}

fn path(id: &EntityId) -> Result<String, Failure> {
    segment(id).map(|id| format!("/reviews/{id}"))
}

/// The owner takes whole drafts only. `If-Match` makes sure that nobody else changed it since it was read.
async fn put(
    api: &Api,
    id: &EntityId,
    Changes { rating, text, author }: Changes,
    wait: WaitFlag,
    json: bool,
) -> Result<(), Failure> {
    let (owner, path) = (api.of(OWNER), path(id)?);
    let response = api.expect(owner, api.request(Method::GET, owner, &path)).await?;
    let before = response.headers().get(header::ETAG).cloned();
    let mut draft: Map<String, Value> = api.body(owner, response).await?;
    draft.retain(|name, _| matches!(&**name, "rating" | "text" | "author"));
    let changes = [
        ("rating", rating.map(|rating| json!(rating))),
        ("text", text.map(Value::from)),
        ("author", author.map(Value::from)),
    ];
    draft.extend(changes.into_iter().filter_map(|(name, value)| Some((name.into(), value?))));
    let mut request = api.request(Method::PUT, owner, &path).json(&draft);
    if let Some(before) = &before {
        request = request.header(header::IF_MATCH, before);
    }
    let response = api.expect(owner, request).await?;
    let done = match response.headers().get(header::ETAG) == before.as_ref() {
        true => "unchanged",
        false => "updated",
    };
    written(api, done, &response, wait, json).await
}

async fn get(api: &Api, id: &EntityId, json: bool) -> Result<(), Failure> {
    let owner = api.of(OWNER);
    let review = api.json::<Value>(owner, api.request(Method::GET, owner, &path(id)?)).await?;
    match json {
        true => output::json(&review),
        false => show(&review).into_iter().try_for_each(output::line),
    }
}

/// A page of reviews, as it is listed.
#[derive(Debug, Deserialize, Serialize)]
struct Page {
    items: Vec<Value>,
    /// The last ID of the page, if there are more.
    next: Option<String>,
}

async fn list(
    api: &Api,
    LsArgs { store, after, limit }: LsArgs,
    json: bool,
) -> Result<(), Failure> {
    let owner = api.of(OWNER);
    let request = api.request(Method::GET, owner, &format!("{}/reviews", store_path(&store)?));
    let after = after.map(|id| ("after", id.to_string()));
    let query: Vec<_> = after.into_iter().chain([("limit", limit.to_string())]).collect();
    let page: Page = api.json(owner, request.query(&query)).await?;
    if json {
        return output::json(&page);
    }
    page.items.iter().flat_map(show).try_for_each(output::line)?;
    match page.next {
        Some(next) => output::line(format!("there are more: --after {next}")),
        None => Ok(()),
    }
}

/// A review as text for people.
fn show(review: &Value) -> Vec<String> {
    let text = |name: &str| review[name].as_str().unwrap_or_default();
    let rating = review["rating"].as_u64().unwrap_or_default().min(5) as usize;
    let stars = format!("{}{}", "★".repeat(rating), "☆".repeat(5 - rating));
    let head = format!("{stars} {} of {}, {}", text("author"), text("store_id"), text("id"));
    let lines = text("text").lines().map(|line| format!("  {line}"));
    [head].into_iter().chain(lines).collect()
}

#[cfg(test)]
mod tests;
