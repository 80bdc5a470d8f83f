//! Asks owners for what events lack: the entity's name, and whether it was deleted.
//!
//! Best effort: a watch must not slow down what it watches. All keys that came up since the last
//! answer go into one batch, and there is one request at a time.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use nudge_protocol::{
    EntityId, EntityName,
    sync_api::{BatchGetAnswer, BatchGetRequest, Item, ItemStatus, MAX_BATCH_IDS},
};
use reqwest::Method;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    ask::Note,
    row::{Description, Key},
};
use crate::{client::Api, peers::Peer, roles};

/// Most keys that wait to be asked for; rows of further ones have no name.
pub(super) const MAX_WAITING_KEYS: usize = 4_096;
/// Pause before an owner that was not found is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Most names that are remembered, for entities deleted later.
const MAX_NAMES: usize = 20_000;

/// Answers keys with descriptions until nobody wants them any more.
pub(super) async fn describe(api: Api, mut keys: mpsc::Receiver<Key>, notes: mpsc::Sender<Note>) {
    let mut names: HashMap<Key, String> = HashMap::new();
    let mut owners = Owners::default();
    let mut waiting = Vec::new();
    while keys.recv_many(&mut waiting, MAX_BATCH_IDS).await > 0 {
        let mut by_entity: HashMap<EntityName, Vec<EntityId>> = HashMap::new();
        for (entity, id) in waiting.drain(..) {
            by_entity.entry(entity).or_default().push(id);
        }
        for (entity, mut ids) in by_entity {
            ids.sort_unstable();
            ids.dedup();
            let mut items = owners.ask(&api, &entity, &ids).await;
            if names.len() > MAX_NAMES {
                names.clear();
            }
            for id in ids {
                let key = (entity.clone(), id);
                let item = items.remove(&key.1);
                let name = item.as_ref().and_then(name_of);
                let name = match name {
                    Some(name) => names.entry(key.clone()).insert_entry(name).get().clone().into(),
                    None => names.get(&key).cloned(),
                };
                let description = Description {
                    name,
                    deleted: item.as_ref().is_some_and(|i| i.status == ItemStatus::Deleted),
                    version: item.as_ref().and_then(|item| item.version),
                    changed_at: item.as_ref().and_then(|item| item.changed_at),
                    key,
                };
                if notes.send(Note::Described(description)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Who owns what, as far as it was found.
#[derive(Default)]
struct Owners(HashMap<EntityName, (Option<Peer>, Instant)>);

impl Owners {
    async fn of(&mut self, api: &Api, entity: &EntityName) -> Option<Peer> {
        match self.0.get(entity) {
            Some((Some(owner), _)) => Some(*owner),
            Some((None, looked)) if looked.elapsed() < LOOK_AGAIN => None,
            _ => {
                let owner = roles::owner_of(api, entity).await.ok();
                self.0.insert(entity.clone(), (owner, Instant::now()));
                owner
            }
        }
    }

    async fn ask(
        &mut self,
        api: &Api,
        entity: &EntityName,
        ids: &[EntityId],
    ) -> HashMap<EntityId, Item> {
        let Some(owner) = self.of(api, entity).await else { return HashMap::new() };
        let path = format!("/sync/v1/{entity}/batch-get");
        let wanted = BatchGetRequest { ids: ids.to_vec(), fields: Some(vec!["name".to_owned()]) };
        let request = api.request(Method::POST, owner, &path).json(&wanted);
        let answer = api.json::<BatchGetAnswer>(owner, request).await;
        let items = answer.map(|answer| answer.items).unwrap_or_default();
        items.into_iter().map(|item| (item.id.clone(), item)).collect()
    }
}

fn name_of(item: &Item) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: Option<String>,
    }
    serde_json::from_str::<Named>(item.state.as_ref()?.get()).ok()?.name
}

#[cfg(test)]
mod tests {
    use axum::{
        Json, Router,
        routing::{get, post},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::{client::Service, stub};

    #[tokio::test]
    async fn keys_that_wait_are_asked_for_in_one_batch() {
        let metrics = "nudge_relay_pending{entity=\"store\"} 0\n";
        let router = Router::new().route("/metrics", get(async move || metrics)).route(
            "/sync/v1/store/batch-get",
            post(async |Json(request): Json<Value>| {
                assert_eq!(request, json!({"ids": ["a", "b"], "fields": ["name"]}));
                Json(json!({"items": [
                    {"id": "a", "status": "live", "version": 7, "state": {"name": "달빛"}},
                    {"id": "b", "status": "deleted", "version": 8},
                ]}))
            }),
        );
        let stub = stub::start([(Service::StoreInfo, router)]).await;
        let (keys, waiting) = mpsc::channel(8);
        let (notes, mut told) = mpsc::channel(8);
        for id in ["b", "a", "b"] {
            let key = (EntityName::new("store").unwrap(), EntityId::new(id).unwrap());
            keys.try_send(key).unwrap();
        }
        drop(keys);
        describe(stub.api.clone(), waiting, notes).await;
        let mut descriptions = Vec::new();
        while let Some(Note::Described(description)) = told.recv().await {
            descriptions.push((
                description.key.1.to_string(),
                description.name,
                description.deleted,
            ));
        }
        let expected =
            [("a".to_owned(), Some("달빛".to_owned()), false), ("b".to_owned(), None, true)];
        assert_eq!(descriptions, expected);
    }

    #[tokio::test]
    async fn an_owner_that_is_away_still_gives_an_answer() {
        let (keys, waiting) = mpsc::channel(8);
        let (notes, mut told) = mpsc::channel(8);
        keys.try_send((EntityName::new("store").unwrap(), EntityId::new("a").unwrap())).unwrap();
        drop(keys);
        describe(stub::nobody().await, waiting, notes).await;
        let Some(Note::Described(description)) = told.recv().await else { panic!("no answer") };
        assert_eq!(description.name, None);
    }
}
