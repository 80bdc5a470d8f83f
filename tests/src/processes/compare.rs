//! Whether everyone says the same of every store, by what they say to anyone who asks.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nudge_protocol::subject::encode_token;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use sqlx::AnyPool;

use super::{World, roster::Service, writer::Written};
use crate::{PATIENCE, TestDatabase, eventually};

/// Pause between two comparisons.
const PACE: Duration = Duration::from_millis(50);
/// Time in which somebody who has not come to rest makes another call: a second look comes after 1 s.
const SILENCE: Duration = Duration::from_millis(1_500);

/// What the owner says of one store.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    version: u64,
    /// None when it is deleted.
    state: Option<Value>,
}

type Stores = BTreeMap<String, Known>;

/// Waits until every program that is up agrees with the owner about every store, nobody has
/// anything left to do, and nothing is a dead letter. Returns how long that took.
pub async fn converged(world: &World, written: &Written) -> Duration {
    let began = Instant::now();
    loop {
        let Err(difference) = difference(world, written).await else {
            return began.elapsed();
        };
        assert!(began.elapsed() < PATIENCE, "never the same: {difference}");
        tokio::time::sleep(PACE).await;
    }
}

/// Waits until a read model holds these versions, or newer ones. It is asked itself: hundreds of
/// requests would take longer than what is to be seen.
pub async fn applied(database: &TestDatabase, newest: &BTreeMap<String, u64>) {
    sqlx::any::install_default_drivers();
    let pool = AnyPool::connect(database.url()).await.expect("a connection");
    eventually("what was written is applied", || async {
        let query = sqlx::query_as("SELECT id, version FROM nudge_applied WHERE entity = 'store'");
        let rows: Vec<(String, i64)> = query.fetch_all(&pool).await.ok()?;
        let rows: BTreeMap<_, _> = rows.into_iter().collect();
        let there = |(id, version): (&String, &u64)| rows.get(id) >= Some(&(*version as i64));
        newest.iter().all(there).then_some(())
    })
    .await;
    pool.close().await;
}

/// Waits until nobody calls the owner any more.
pub async fn silent(world: &World) {
    let began = Instant::now();
    loop {
        let before = world.asked().await;
        tokio::time::sleep(SILENCE).await;
        if world.asked().await == before {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "the calls never end");
    }
}

/// What is not as it should be, if anything.
pub async fn difference(world: &World, written: &Written) -> Result<(), String> {
    let http = Client::new();
    let owners = world.roster.up(Service::StoreInfo);
    let (_, owner) = owners.first().ok_or("no owner is up")?;
    let stores = owned(&http, &owner.url).await?;
    for (_, other) in &owners[1..] {
        same("the other owner", &owned(&http, &other.url).await?, &stores)?;
    }
    for (id, version) in &written.newest {
        let known = stores.get(id).map_or(0, |known| known.version);
        assert!(known >= *version, "the owner has lost a write: {id} {version}, now {known}");
    }
    for (name, search) in world.roster.up(Service::Search) {
        let live = |(_, known): &(&String, &Known)| known.state.is_some();
        let live = stores.iter().filter(live).map(|(id, k)| (id.clone(), k.clone())).collect();
        same(name, &found(&http, &search.url).await?, &live)?;
        followed(world, &http, name, &stores).await?;
    }
    for (name, review) in world.roster.up(Service::Review) {
        for (id, known) in &stores {
            reviewed(&http, &review.url, id, known).await?;
        }
        followed(world, &http, name, &stores).await?;
    }
    Ok(())
}

/// The first difference of two lists of stores.
fn same(name: &str, found: &Stores, expected: &Stores) -> Result<(), String> {
    let ids = found.keys().chain(expected.keys());
    match ids.into_iter().find(|id| found.get(*id) != expected.get(*id)) {
        None => Ok(()),
        Some(id) => Err(format!("{name}: {id}: {:?}, not {:?}", found.get(id), expected.get(id))),
    }
}

/// Every store of the owner, tombstones included.
async fn owned(http: &Client, url: &str) -> Result<Stores, String> {
    let (mut stores, mut after) = (Stores::new(), None);
    loop {
        let body = json!({"after": after, "limit": 100});
        let page = ok(http.post(format!("{url}/sync/v1/store/items")).json(&body)).await?;
        for item in page["items"].as_array().into_iter().flatten() {
            let version = item["version"].as_u64().ok_or("no version")?;
            stores.insert(text(&item["id"]), Known { version, state: None });
        }
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    let mut after = String::new();
    loop {
        let list = http.get(format!("{url}/stores")).query(&[("limit", "100"), ("after", &after)]);
        let page = ok(list).await?;
        for store in page["items"].as_array().into_iter().flatten() {
            let known = stores.get_mut(store["id"].as_str().ok_or("no id")?);
            known.ok_or(format!("no version of {store}"))?.state = Some(searchable(store));
        }
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => return Ok(stores),
        }
    }
}

/// Every store that search finds.
async fn found(http: &Client, url: &str) -> Result<Stores, String> {
    let (mut stores, mut cursor) = (Stores::new(), String::new());
    loop {
        let list = http.get(format!("{url}/stores"));
        let page = ok(list.query(&[("limit", "25"), ("cursor", &cursor)])).await?;
        for item in page["items"].as_array().into_iter().flatten() {
            let version = item["version"].as_u64().ok_or("no version")?;
            let known = Known { version, state: Some(searchable(item)) };
            if stores.insert(text(&item["id"]), known).is_some() {
                return Err(format!("{item} stands on two pages"));
            }
        }
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok(stores),
        }
    }
}

/// What search shows of a store.
fn searchable(store: &Value) -> Value {
    let field = |name: &str| store[name].clone();
    json!([field("id"), field("name"), field("category"), field("region"), field("open")])
}

/// What review says of a store.
async fn reviewed(http: &Client, url: &str, id: &str, known: &Known) -> Result<(), String> {
    let url = format!("{url}/stores/{}/reviews", encode_token(&crate::id(id)));
    let (status, body) = answer(http.get(url)).await?;
    let said = (status, &body["store"]);
    let expected = match &known.state {
        None => (410, Value::Null),
        Some(state) => {
            let (name, open, version) = (&state[1], &state[4], known.version);
            (200, json!({"id": id, "name": name, "open": open, "version": version}))
        }
    };
    match said == (expected.0, &expected.1) {
        true => Ok(()),
        false => Err(format!("review: {id}: {said:?}, not {expected:?}")),
    }
}

/// What a subscriber has applied, and whether it has anything left to do.
async fn followed(world: &World, http: &Client, name: &str, stores: &Stores) -> Result<(), String> {
    let url = world.place(name).url;
    let status = world.status(name).await.ok_or(format!("{name}: no status"))?;
    let nothing = ["queued", "processing", "retrying", "parked", "dead_letters", "stream_pending"];
    let idle = nothing.iter().all(|figure| status[*figure] == 0);
    let well = status["breaker"] == "closed" && status["connected"] == true;
    if !idle || !well || status["applied"] != stores.len() {
        return Err(format!("{name}: {} stores are owned, and {status}", stores.len()));
    }
    let dead = ok(http.get(format!("{url}/nudge/v1/dead-letters"))).await?;
    if dead["items"] != json!([]) {
        return Err(format!("{name}: {dead}"));
    }
    for (id, known) in stores {
        let token = encode_token(&crate::id(id));
        let applied = ok(http.get(format!("{url}/nudge/v1/applied/store/{token}"))).await?;
        let said = (applied["version"].as_u64(), applied["deleted"].as_bool());
        let expected = (Some(known.version), Some(known.state.is_none()));
        if said != expected {
            return Err(format!("{name}: {id}: applied {said:?}, not {expected:?}"));
        }
    }
    Ok(())
}

async fn ok(request: RequestBuilder) -> Result<Value, String> {
    match answer(request).await? {
        (200, body) => Ok(body),
        (status, body) => Err(format!("{status}: {body}")),
    }
}

async fn answer(request: RequestBuilder) -> Result<(u16, Value), String> {
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.map_err(|error| format!("{status}: {error:?}"))?))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
