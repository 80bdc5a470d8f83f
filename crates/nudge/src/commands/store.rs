//! `nudge store`: reads and edits stores at their owner.

use clap::{Args, Subcommand};
use nudge_protocol::EntityId;
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    import,
    written::{WaitFlag, written},
};
use crate::{
    client::{Api, Service, store_path},
    failure::Failure,
    output,
};

mod fields;

use fields::Fields;

const OWNER: Service = Service::StoreInfo;
/// Most stores that their owner lists at a time.
const MAX_LISTED: i64 = 500;

/// Verbs of `nudge store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Change some fields of a store, or create one
    #[command(after_help = PUT_EXAMPLES)]
    Put(Box<PutArgs>),
    /// Show a store as stored by its owner
    Get {
        /// The store's ID
        id: EntityId,
    },
    /// List stores, by ID
    Ls(LsArgs),
    /// Delete a store
    Rm {
        /// The store's ID
        id: EntityId,
        #[command(flatten)]
        wait: WaitFlag,
    },
    /// Load stores from a file of JSON lines
    Import(import::ImportArgs),
}

const PUT_EXAMPLES: &str = "\
Examples:
  nudge store put 42 --name '달빛국수 망원점' --region 마포구 --menu '잔치국수=7000'
  nudge store put 42 --open false --wait
  nudge store get 42 --json | nudge store put 43 --file -";

/// Arguments of `nudge store put`.
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// The store's ID
    id: EntityId,
    #[command(flatten)]
    fields: Fields,
    /// Replace the whole store with the JSON in this file ('-' reads standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "Fields")]
    file: Option<String>,
    #[command(flatten)]
    wait: WaitFlag,
}

/// Arguments of `nudge store ls`.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// List those after this ID
    #[arg(long, value_name = "ID")]
    after: Option<EntityId>,
    /// Most stores to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=MAX_LISTED))]
    limit: u16,
}

/// A page of stores, as it is listed.
#[derive(Debug, Deserialize, Serialize)]
struct Page {
    items: Vec<Listed>,
    /// The last ID of the page, if there are more.
    next: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Listed {
    id: String,
    name: String,
}

/// Runs a verb of `nudge store`.
pub(crate) async fn run(api: Api, verb: StoreVerb, json: bool) -> Result<(), Failure> {
    match verb {
        StoreVerb::Put(args) => put(&api, *args, json).await,
        StoreVerb::Get { id } => get(&api, &id, json).await,
        StoreVerb::Ls(args) => list(&api, args, json).await,
        StoreVerb::Rm { id, wait } => remove(&api, &id, wait, json).await,
        StoreVerb::Import(args) => import::run(&api, args, json).await,
    }
}

async fn put(api: &Api, args: PutArgs, json: bool) -> Result<(), Failure> {
    let path = store_path(&args.id)?;
    let before = current_tag(api, &path).await?;
    let request = match &args.file {
        Some(file) => {
            let whole = whole_store(&read_file(file).await?, &args.id)?;
            api.request(Method::PUT, api.of(OWNER), &path).json(&whole)
        }
        None => {
            let fields = args.fields.to_json();
            if fields.is_empty() {
                let line = "nothing to change: give a field, such as --name, or --file";
                return Err(Failure::Usage(line.into()));
            }
            edit(api, &path, before.is_some(), &fields)
        }
    };
    let response = api.expect(api.of(OWNER), request).await?;
    let done = match (response.status(), response.headers().get(header::ETAG), before) {
        (StatusCode::CREATED, ..) => "created",
        (_, Some(after), Some(before)) if *after == before => "unchanged",
        _ => "updated",
    };
    written(api, done, &response, args.wait, json).await
}

/// Some fields: a merge patch of what exists, a whole store otherwise.
fn edit(api: &Api, path: &str, exists: bool, fields: &Map<String, Value>) -> RequestBuilder {
    match exists {
        true => api
            .request(Method::PATCH, api.of(OWNER), path)
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .body(Value::from(fields.clone()).to_string()),
        false => api.request(Method::PUT, api.of(OWNER), path).json(fields),
    }
}

/// The entity tag of the store, if it exists.
async fn current_tag(api: &Api, path: &str) -> Result<Option<header::HeaderValue>, Failure> {
    let response = api.send(api.of(OWNER), api.request(Method::GET, api.of(OWNER), path)).await?;
    let tag = response.headers().get(header::ETAG).cloned();
    Ok(tag.filter(|_| response.status() == StatusCode::OK))
}

async fn read_file(file: &str) -> Result<Vec<u8>, Failure> {
    let read = match file {
        "-" => {
            let mut bytes = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut tokio::io::stdin(), &mut bytes)
                .await
                .map(|_| bytes)
        }
        path => tokio::fs::read(path).await,
    };
    read.map_err(|error| Failure::failed(format!("cannot read {file}: {error}")))
}

/// A whole store under another ID: the output of one `get` can be used for any store.
fn whole_store(bytes: &[u8], id: &EntityId) -> Result<Value, Failure> {
    let mut store: Value = serde_json::from_slice(bytes)
        .map_err(|error| Failure::failed(format!("the file is not JSON: {error}")))?;
    if let Some(fields) = store.as_object_mut() {
        fields.insert("id".into(), json!(id));
    }
    Ok(store)
}

async fn remove(api: &Api, id: &EntityId, wait: WaitFlag, json: bool) -> Result<(), Failure> {
    let request = api.request(Method::DELETE, api.of(OWNER), &store_path(id)?);
    let response = api.expect(api.of(OWNER), request).await?;
    written(api, "deleted", &response, wait, json).await
}

async fn list(api: &Api, LsArgs { after, limit }: LsArgs, json: bool) -> Result<(), Failure> {
    let request = api.request(Method::GET, api.of(OWNER), "/stores");
    let after = after.map(|id| ("after", id.to_string()));
    let query: Vec<_> = after.into_iter().chain([("limit", limit.to_string())]).collect();
    let page: Page = api.json(api.of(OWNER), request.query(&query)).await?;
    if json {
        return output::json(&page);
    }
    let rows: Vec<_> = page.items.into_iter().map(|one| vec![one.id, one.name]).collect();
    output::table(&rows).into_iter().try_for_each(output::line)?;
    match page.next {
        Some(next) => output::line(format!("there are more: --after {next}")),
        None => Ok(()),
    }
}

async fn get(api: &Api, id: &EntityId, json: bool) -> Result<(), Failure> {
    let request = api.request(Method::GET, api.of(OWNER), &store_path(id)?);
    let response = api.expect(api.of(OWNER), request).await?;
    let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let version = tag.unwrap_or_default().trim_matches('"').to_owned();
    let store = api.body::<Map<String, Value>>(api.of(OWNER), response).await?;
    if json {
        return output::json(&store);
    }
    for line in fields::show(&store, &version) {
        output::line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
