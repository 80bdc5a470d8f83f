//! External accidents: somebody else publishes, the broker or an owner goes back to
//! an older state, an entity cannot be applied.

pub(crate) mod databases;

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use nudge_protocol::EntityName;
use tokio::time::sleep;

use crate::{
    broker::{Broker, Stored, named},
    fault::Fault,
    owner::Owned,
    read_model::ReadModel,
};

use super::theatre::Theatre;

/// Longest time that a poisoned entity cannot be applied.
const MAX_POISON: Duration = Duration::from_secs(60);
/// Longest time until everyone is connected again to a broker that lost something.
const RECONNECT: Duration = Duration::from_secs(2);
/// A backup is made once in this many accidents.
const BACKUPS: u64 = 6;
/// An entity that no owner has.
const STRAY: &str = "key-stray";
/// A header with a number above all versions.
const TOO_LARGE: &str = "99999999999999999999";
/// The highest possible version, ahead of every clock.
const TOO_FAR: &str = "9007199254740991";
/// How an owner may answer a call because of one of its IDs.
const STATUSES: [u16; 8] = [404, 408, 422, 429, 500, 502, 503, 504];

impl Theatre {
    /// Something may happen to one entity, its stream, its owner and those who follow it.
    pub(crate) async fn accident(self: &Arc<Self>) {
        let world = &self.world;
        let (owner, owned) = self.some_entity();
        let id = self.some_id();
        self.somebody_publishes(&owned, id);
        self.messages_vanish(&owned, id);
        for read_model in self.read_models_of(&owned.entity).filter(|one| one.can_be_read) {
            if world.strikes(Fault::RowEdited) {
                edit_row(read_model, id).await;
            }
        }
        for fault in [Fault::Poison, Fault::OwnerPoison] {
            if world.strikes(fault) {
                self.clone().poison(fault, &owned.entity, id);
            }
        }
        if world.below(BACKUPS) == 0 {
            self.with_broker(&owned.entity, Broker::back_up);
        }
        let restores = world.may(Fault::OwnerRestored) || world.may(Fault::ReadModelRestored);
        if restores && self.databases_lose {
            self.owner_is_restored(&owner).await;
            for follower in &self.followers {
                self.clone().read_model_is_put_back(follower).await;
            }
        } else {
            self.broker_loses(&owned.entity);
        }
    }

    fn with_broker<T>(&self, entity: &EntityName, work: impl FnOnce(&mut Broker) -> T) -> T {
        self.channels.of(entity).with_broker(work)
    }

    fn somebody_publishes(&self, Owned { entity, history, .. }: &Owned, id: &str) {
        let world = &self.world;
        let subject = self.subject(entity, id);
        let old = history.versions().of(id).first().map(|one| one.version);
        let body = |text: String| Bytes::from(text.into_bytes());
        if world.strikes(Fault::Garbage) && old.is_some() {
            let (large, far) = (Some(TOO_LARGE), Some(TOO_FAR));
            let headers = [None, Some(""), Some("soon"), Some("-5"), Some("1e3"), large, far];
            let header = headers[world.pick(Fault::Garbage, headers.len() as u64) as usize];
            let version = header.map(str::to_owned);
            self.publish(entity, Stored { subject, version, body: body("{]".to_owned()) });
        } else if world.strikes(Fault::StaleNotification) && old.is_some() {
            let version = old.map(|version| version.to_string());
            let body = body(format!("{{\"id\":\"{id}\",\"change\":\"updated\"}}"));
            self.publish(entity, Stored { subject, version, body });
        } else if world.strikes(Fault::UnknownSubject) {
            // Several, to take sequences that a broker has lost.
            for _ in 0..=world.pick(Fault::UnknownSubject, 4) {
                self.others_publish(entity);
            }
        }
    }

    /// Messages are lost for good, unnoticed.
    fn messages_vanish(&self, Owned { entity, history, .. }: &Owned, id: &str) {
        let (world, subject) = (&self.world, self.subject(entity, id));
        if world.strikes(Fault::MessageForgotten)
            && self.with_broker(entity, |broker| broker.forget(&subject))
        {
            world.tell(format!("the broker loses what it had of {}", history.named(id)));
        }
        if world.strikes(Fault::TwoOfOneSubject) {
            self.with_broker(entity, Broker::keep_old);
        }
        if world.strikes(Fault::TakenByOthers) {
            self.with_broker(entity, Broker::taken_by_others);
        }
    }

    /// A subject that names no entity.
    fn others_publish(&self, entity: &EntityName) {
        let subject = format!("changes.{entity}.%00");
        self.publish(entity, Stored { subject, version: None, body: Bytes::new() });
    }

    fn publish(&self, entity: &EntityName, stored: Stored) {
        self.world.tell(format!("somebody → broker: {}", named(&stored)));
        let channel = self.channels.of(entity);
        channel.with_broker(|broker| broker.publish(stored.clone()));
        channel.tell(&stored);
    }

    fn broker_loses(&self, entity: &EntityName) {
        let world = &self.world;
        let can_go_back = self.with_broker(entity, |broker| broker.has_backup());
        let before = self.with_broker(entity, |broker| broker.last());
        let lost = if can_go_back && world.strikes(Fault::Rollback) {
            world.tell(format!("the broker's stream of {entity} goes back"));
            self.with_broker(entity, Broker::roll_back);
            if world.strikes(Fault::OthersFirst) {
                let now = self.with_broker(entity, |broker| broker.last());
                (now..before).for_each(|_| self.others_publish(entity));
            }
            true
        } else if world.strikes(Fault::StreamLoss) {
            world.tell(format!("the broker loses its stream of {entity}"));
            self.with_broker(entity, Broker::delete_stream);
            true
        } else {
            false
        };
        if lost {
            let nodes = self.nodes.lock();
            nodes.values().for_each(|node| node.cut(world.up_to(RECONNECT)));
        }
    }

    /// One service cannot apply an ID for a while, or gets no answer for it; others are not affected.
    fn poison(self: Arc<Self>, fault: Fault, entity: &EntityName, id: &'static str) {
        let world = &self.world;
        let pause = world.length_of(fault, MAX_POISON);
        let read_models: Vec<_> = self.read_models_of(entity).cloned().collect();
        let which = world.pick(fault, read_models.len() as u64) as usize;
        let ReadModel { followed, whose, .. } = &*read_models[which];
        followed.spoil(id);
        let named = followed.history.named(id);
        if fault == Fault::Poison {
            world.tell(format!("{whose}{named} cannot be applied"));
            followed.poison.lock().insert(id.to_owned());
        } else {
            let status = STATUSES[world.pick(fault, STATUSES.len() as u64) as usize];
            world.tell(format!("{whose}{named} is answered with {status}"));
            followed.unanswered.lock().insert(id.to_owned(), status);
        }
        let followed = followed.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            if !self.poison_stays.load(SeqCst) {
                match fault {
                    Fault::Poison => drop(followed.poison.lock().remove(id)),
                    _ => drop(followed.unanswered.lock().remove(id)),
                }
            }
        });
    }
}

/// Somebody writes something else into the row of an entity, deletes it, or adds one.
async fn edit_row(read_model: &ReadModel, id: &str) {
    let ReadModel { world, name, service, db, edited, .. } = read_model;
    let deletes = world.pick(Fault::RowEdited, 3) == 0;
    let state = world.with_random(|random| service.state(random));
    // Or adds one that nobody else knows of.
    let id = if world.pick(Fault::RowEdited, 4) == 0 { STRAY } else { id };
    let version = read_model.version_of(id);
    if version.is_none() {
        // The owner gives a tombstone to what it does not know.
        read_model.history().may_be_renewed();
    }
    edited.lock().insert(id.to_owned());
    // Nobody can delete a row that is not there.
    if version.is_some() || !deletes {
        let work = service.edit(db, id, version.unwrap_or(1), (!deletes).then_some(state));
        db.run(work).await.expect("the read model works");
    }
    let named = read_model.history().named(id);
    world.tell(format!("somebody edits the row of {named} at {name}"));
    world.works();
}
