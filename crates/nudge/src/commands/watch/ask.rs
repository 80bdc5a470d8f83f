//! Requests to subscribers: what they follow, and what they applied while we were not listening.

use std::collections::HashSet;

use nudge_protocol::{
    EntityName, Timestamp, Version,
    admin::{AppliedVersion, Status},
};
use reqwest::Method;
use tokio::sync::mpsc;

use super::{
    number,
    row::{Description, Key},
};
use crate::{
    client::{Api, Service, segment},
    commands::status,
};

/// Results of requests in the background.
#[derive(Debug)]
pub(super) enum Note {
    Described(Description),
    Follows(usize, HashSet<EntityName>),
    Found { subscriber: usize, key: Key, version: Version, applied_at: Timestamp },
}

pub(super) async fn ask_follows(api: Api, service: Service, notes: mpsc::Sender<Note>) {
    let request = api.request(Method::GET, service, status::STATUS_PATH);
    if let Ok(status) = api.json::<Status>(service, request).await {
        let entities = status.entities.into_iter().map(|entity| entity.entity).collect();
        let _ = notes.send(Note::Follows(number(service), entities)).await;
    }
}

pub(super) async fn ask_applied(api: Api, subscriber: usize, key: Key, notes: mpsc::Sender<Note>) {
    let service = Service::SUBSCRIBERS[subscriber];
    let Ok(id) = segment(&key.1) else { return };
    let path = format!("/nudge/v1/applied/{}/{id}", key.0);
    let request = api.request(Method::GET, service, &path);
    if let Ok(AppliedVersion { version, applied_at, .. }) = api.json(service, request).await {
        let _ = notes.send(Note::Found { subscriber, key, version, applied_at }).await;
    }
}
