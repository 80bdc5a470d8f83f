//! Requests to subscribers: what they follow, and what they applied while we were not listening.

use std::collections::HashSet;

use nudge_protocol::{EntityName, Timestamp, Version, admin::AppliedVersion};
use reqwest::Method;
use tokio::sync::mpsc;

use super::row::{Description, Key};
use crate::{
    client::{Api, segment},
    peers::Peer,
    roles,
};

/// Results of requests in the background.
#[derive(Debug)]
pub(super) enum Note {
    Described(Description),
    Follows(usize, HashSet<EntityName>),
    Found { subscriber: usize, key: Key, version: Version, applied_at: Timestamp },
}

pub(super) async fn ask_follows(
    api: Api,
    peer: Peer,
    subscriber: usize,
    notes: mpsc::Sender<Note>,
) {
    if let Ok(status) = roles::status(&api, peer).await {
        let entities = status.entities.into_iter().map(|entity| entity.entity).collect();
        let _ = notes.send(Note::Follows(subscriber, entities)).await;
    }
}

pub(super) async fn ask_applied(
    api: Api,
    peer: Peer,
    subscriber: usize,
    key: Key,
    notes: mpsc::Sender<Note>,
) {
    let Ok(id) = segment(&key.1) else { return };
    let path = format!("/nudge/v1/applied/{}/{id}", key.0);
    let request = api.request(Method::GET, peer, &path);
    if let Ok(AppliedVersion { version, applied_at, .. }) = api.json(peer, request).await {
        let _ = notes.send(Note::Found { subscriber, key, version, applied_at }).await;
    }
}
