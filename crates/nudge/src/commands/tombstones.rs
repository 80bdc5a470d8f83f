//! `nudge tombstones`: tombstones of entities that their owner has no record of.

use clap::{Args, Subcommand};
use nudge_protocol::{
    EntityId, EntityName, Timestamp,
    admin::{Flagged, MAX_NEVER_EXISTED_IDS, NeverExisted, StrangerTombstones},
};
use reqwest::Method;
use serde_json::json;

use crate::{
    client::Api,
    failure::Failure,
    output::{self, duration},
    peers::Peer,
    roles::owner_of,
};

/// Where an owner lists them.
const PATH: &str = "/nudge/v1/tombstones";
/// Rows asked for at a time.
const PAGE_ROWS: usize = MAX_NEVER_EXISTED_IDS;

/// Verbs of `nudge tombstones`.
#[derive(Debug, Subcommand)]
pub(crate) enum TombstonesVerb {
    /// List tombstones that exist only because the stream holds their IDs
    Ls(Of),
    /// Declare that entities with these IDs never existed; subscribers are not affected
    NeverExisted(Chosen),
}

/// Of which kind of entity.
#[derive(Args, Clone, Debug)]
pub(crate) struct Of {
    /// The kind of entity
    entity: EntityName,
}

/// Which tombstones.
#[derive(Args, Clone, Debug)]
pub(crate) struct Chosen {
    /// The kind of entity
    entity: EntityName,
    /// Their ids
    #[arg(required_unless_present = "all")]
    ids: Vec<EntityId>,
    /// All that ls shows
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

/// Runs a verb of `nudge tombstones`.
pub(crate) async fn run(api: Api, verb: TombstonesVerb, json: bool) -> Result<(), Failure> {
    match verb {
        TombstonesVerb::Ls(Of { entity }) => ls(&api, &entity, json).await,
        TombstonesVerb::NeverExisted(chosen) => never_existed(&api, chosen, json).await,
    }
}

async fn page(
    api: &Api,
    peer: Peer,
    entity: &EntityName,
    after: Option<&EntityId>,
) -> Result<StrangerTombstones, Failure> {
    let mut query = vec![("limit", PAGE_ROWS.to_string())];
    query.extend(after.map(|after| ("after", after.to_string())));
    let request = api.request(Method::GET, peer, &format!("{PATH}/{entity}")).query(&query);
    api.json(peer, request).await
}

async fn ls(api: &Api, entity: &EntityName, json: bool) -> Result<(), Failure> {
    let (peer, now) = (owner_of(api, entity).await?, nudge_runtime::clock::now());
    let (mut after, mut any) = (None, false);
    loop {
        let page = page(api, peer, entity, after.as_ref()).await?;
        for row in &page.items {
            any = true;
            match json {
                true => output::json(row)?,
                false => output::line(format!("{}  {}", row.id, ago(now, row.made_at)))?,
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    match any || json {
        true => Ok(()),
        false => output::line(format!(
            "{} has a record of every {entity} that it has a tombstone for",
            peer.name()
        )),
    }
}

fn ago(now: Timestamp, at: Timestamp) -> String {
    format!("made {} ago", duration(now.seconds_since(at)))
}

async fn never_existed(api: &Api, chosen: Chosen, json: bool) -> Result<(), Failure> {
    let Chosen { entity, ids, all } = chosen;
    let peer = owner_of(api, &entity).await?;
    let (mut flagged, mut refused) = (0, Vec::new());
    let mut flag = async |ids: &[EntityId]| {
        for ids in ids.chunks(MAX_NEVER_EXISTED_IDS) {
            let request =
                api.request(Method::POST, peer, &format!("{PATH}/{entity}/never-existed"));
            let request = request.json(&NeverExisted { ids: ids.to_vec() });
            let answer: Flagged = api.json(peer, request).await?;
            flagged += answer.flagged.len();
            refused.extend(answer.no_tombstone);
        }
        Ok::<_, Failure>(())
    };
    flag(&ids).await?;
    // What is flagged is listed no more, but a page goes on after its last id: that ends whatever happens.
    let mut next = all.then_some(None);
    while let Some(after) = next {
        let page = page(api, peer, &entity, after.as_ref()).await?;
        let ids: Vec<_> = page.items.into_iter().map(|row| row.id).collect();
        flag(&ids).await?;
        next = page.next.map(Some);
    }
    match json {
        true => {
            output::json(&json!({"entity": entity, "flagged": flagged, "no_tombstone": refused}))?
        }
        false => output::line(format!("{flagged} flagged as never existed"))?,
    }
    match refused.first() {
        None => Ok(()),
        Some(first) => {
            let more = refused.len();
            Err(Failure::failed(format!(
                "{more} left unchanged, since they have no tombstone: {first}, …"
            )))
        }
    }
}

#[cfg(test)]
mod tests;
