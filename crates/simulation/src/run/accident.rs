//! External accidents: somebody else publishes, the broker or the owner goes back to
//! an older state, an entity cannot be applied.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use nudge_runtime::Database;
use tokio::time::sleep;

use crate::{
    broker::{Broker, Stored, named},
    fault::Fault,
    follower::Follower,
    plan::RELAY,
};

use super::theatre::Theatre;

/// Longest time that a poisoned entity cannot be applied.
const MAX_POISON: Duration = Duration::from_secs(60);
/// Longest time until everyone is connected again to a broker that lost something.
const RECONNECT: Duration = Duration::from_secs(2);
/// A backup is made once in this many edits.
const BACKUPS: u64 = 6;
/// The same for a read model. What happened since an older one would be easy to notice.
const READ_MODEL_BACKUPS: u64 = 3;
/// How far the server that takes over is behind at most.
const MAX_STANDBY_LAG: Duration = Duration::from_secs(2);
/// A header with a number above all versions.
const TOO_LARGE: &str = "99999999999999999999";
/// The highest possible version, ahead of every clock.
const TOO_FAR: &str = "9007199254740991";
/// How an owner may answer a call because of one of its IDs.
const STATUSES: [u16; 8] = [404, 408, 422, 429, 500, 502, 503, 504];
/// The owner's tables.
const OWNER_TABLES: [&str; 3] = ["entity", "nudge_change_log", "nudge_relay_stream"];

impl Theatre {
    /// Something may happen.
    pub(crate) async fn accident(self: &Arc<Self>) {
        let world = &self.world;
        let id = self.some_id();
        self.somebody_publishes(&id);
        self.messages_vanish(&id);
        for follower in self.followers.iter().filter(|follower| follower.can_be_read) {
            if world.strikes(Fault::RowEdited) {
                follower.edit(&id).await;
            }
        }
        for fault in [Fault::Poison, Fault::OwnerPoison] {
            if world.strikes(fault) {
                self.clone().poison(fault, id.clone());
            }
        }
        if world.below(BACKUPS) == 0 {
            world.with_broker(Broker::back_up);
        }
        let restores = world.may(Fault::OwnerRestored) || world.may(Fault::ReadModelRestored);
        if restores && self.losses.by_databases {
            self.owner_is_restored().await;
            for follower in &self.followers {
                self.clone().read_model_is_put_back(follower).await;
            }
        } else {
            self.broker_loses();
        }
    }

    fn somebody_publishes(&self, id: &str) {
        let world = &self.world;
        let subject = self.subject(id);
        let old = self.history.versions().of(id).first().map(|one| one.version);
        let body = |text: String| Bytes::from(text.into_bytes());
        if world.strikes(Fault::Garbage) && old.is_some() {
            let (large, far) = (Some(TOO_LARGE), Some(TOO_FAR));
            let headers = [None, Some(""), Some("soon"), Some("-5"), Some("1e3"), large, far];
            let header = headers[world.pick(Fault::Garbage, headers.len() as u64) as usize];
            let version = header.map(str::to_owned);
            self.publish(Stored { subject, version, body: body("{]".to_owned()) });
        } else if world.strikes(Fault::StaleNotification) && old.is_some() {
            let version = old.map(|version| version.to_string());
            let body = body(format!("{{\"id\":\"{id}\",\"change\":\"updated\"}}"));
            self.publish(Stored { subject, version, body });
        } else if world.strikes(Fault::UnknownSubject) {
            // Several, to take sequences that a broker has lost.
            for _ in 0..=world.pick(Fault::UnknownSubject, 4) {
                self.others_publish();
            }
        }
    }

    /// Messages are lost for good, unnoticed.
    fn messages_vanish(&self, id: &str) {
        let (world, subject) = (&self.world, self.subject(id));
        if world.strikes(Fault::MessageForgotten)
            && world.with_broker(|broker| broker.forget(&subject))
        {
            world.tell(format!("the broker loses what it had of {id}"));
        }
        if world.strikes(Fault::TwoOfOneSubject) {
            world.with_broker(Broker::keep_old);
        }
        if world.strikes(Fault::TakenByOthers) {
            world.with_broker(Broker::taken_by_others);
        }
    }

    /// A subject that names no entity.
    fn others_publish(&self) {
        let subject = format!("changes.{}.%00", self.entity);
        self.publish(Stored { subject, version: None, body: Bytes::new() });
    }

    fn publish(&self, stored: Stored) {
        self.world.tell(format!("somebody → broker: {}", named(&stored)));
        self.world.with_broker(|broker| broker.publish(stored.clone()));
        self.published.tell(&stored);
    }

    fn broker_loses(&self) {
        let world = &self.world;
        let can_go_back = world.with_broker(|broker| broker.has_backup());
        let before = world.with_broker(|broker| broker.last());
        let lost = if can_go_back && world.strikes(Fault::Rollback) {
            world.with_broker(Broker::roll_back);
            if world.strikes(Fault::OthersFirst) {
                let now = world.with_broker(|broker| broker.last());
                (now..before).for_each(|_| self.others_publish());
            }
            true
        } else if world.strikes(Fault::StreamLoss) {
            world.with_broker(Broker::delete_stream);
            true
        } else {
            false
        };
        if lost {
            let nodes = self.nodes.lock();
            nodes.values().for_each(|node| node.cut(world.up_to(RECONNECT)));
        }
    }

    /// A backup of the owner is made or restored. What was committed and is in no message yet would
    /// be unknown to everyone but those who have called back for it, so only if there is no such change.
    async fn owner_is_restored(&self) {
        let world = &self.world;
        // An empty one would be a new owner's, who has nothing to say about the stream.
        if world.below(BACKUPS) == 0 && !self.owner_versions().await.is_empty() {
            copy_tables(&self.owner_db, &OWNER_TABLES, "", "backup_").await;
            self.losses.owner_backed_up.store(true, SeqCst);
        }
        if !self.losses.owner_backed_up.load(SeqCst) || self.owner_has_pending().await {
            return;
        }
        if world.strikes(Fault::OwnerRestored) {
            self.history.learn();
            // Or they keep running, as when a database server is restored under everyone.
            if world.pick(Fault::OwnerRestored, 2) == 0 {
                self.crash_each(RELAY, "as its owner is restored");
            }
            copy_tables(&self.owner_db, &OWNER_TABLES, "backup_", "").await;
            let versions = self.owner_versions().await;
            self.history.owner_is_restored(&versions);
        }
    }

    /// A backup of a read model is made or restored, if possible. The subscriber keeps running, or restarts. Or
    /// another server takes over, which lacks the last commits.
    async fn read_model_is_put_back(self: Arc<Self>, follower: &Arc<Follower>) {
        let (world, db) = (&self.world, &follower.read_model.db);
        if follower.tables.is_empty() {
            return;
        }
        if world.below(READ_MODEL_BACKUPS) == 0 {
            copy_tables(db, &follower.tables, "", "backup_").await;
            follower.backed_up.store(true, SeqCst);
        } else if follower.backed_up.load(SeqCst) && world.strikes(Fault::ReadModelRestored) {
            match world.pick(Fault::ReadModelRestored, 4) {
                0 | 1 => {
                    let lag = world.length_of(Fault::ReadModelRestored, MAX_STANDBY_LAG);
                    tokio::spawn(self.clone().server_takes_over(follower.clone(), lag));
                }
                crashes => {
                    self.put_back(follower, "backup_").await;
                    if crashes == 3 {
                        self.crash_each(follower.name(), "as its read model is put back");
                    }
                }
            }
        }
    }

    async fn server_takes_over(self: Arc<Self>, follower: Arc<Follower>, lag: Duration) {
        copy_tables(&follower.read_model.db, &follower.tables, "", "standby_").await;
        sleep(lag).await;
        if !self.world.is_healed() {
            self.world.tell(format!(
                "a server without the last commits takes over from {}'s",
                follower.name()
            ));
            self.put_back(&follower, "standby_").await;
        }
    }

    async fn put_back(&self, follower: &Follower, kept: &str) {
        follower.read_model.is_put_back();
        copy_tables(&follower.read_model.db, &follower.tables, kept, "").await;
        self.world.works();
    }

    fn crash_each(&self, of: &str, why: &str) {
        let nodes = self.nodes.lock().values().cloned().collect::<Vec<_>>();
        nodes.iter().filter(|node| node.of == of).for_each(|node| node.crash(why));
    }

    pub(crate) async fn owner_has_pending(&self) -> bool {
        let sql = "SELECT count(*) FROM nudge_change_log WHERE version <> published_version";
        let looking = sqlx::query_as(sql).fetch_one(self.owner_db.reader());
        let (pending,): (i64,) =
            self.owner_db.run(looking).await.expect("the owner's database works");
        pending > 0
    }

    async fn owner_versions(&self) -> BTreeMap<String, u64> {
        let sql = "SELECT id, version FROM nudge_change_log";
        let looking = sqlx::query_as(sql).fetch_all(self.owner_db.reader());
        let rows: Vec<(String, i64)> =
            self.owner_db.run(looking).await.expect("the owner's database works");
        rows.into_iter().map(|(id, version)| (id, version.cast_unsigned())).collect()
    }

    /// One service cannot apply an ID for a while, or gets no answer for it; others are not affected.
    fn poison(self: Arc<Self>, fault: Fault, id: String) {
        let world = &self.world;
        let pause = world.length_of(fault, MAX_POISON);
        let which = world.pick(fault, self.followers.len() as u64) as usize;
        let follower = self.followers[which].clone();
        world.spoil(follower.name(), &id);
        let whose = &follower.read_model.whose;
        if fault == Fault::Poison {
            world.tell(format!("{whose}{id} cannot be applied"));
            follower.poison.lock().insert(id.clone());
        } else {
            let status = STATUSES[world.pick(fault, STATUSES.len() as u64) as usize];
            world.tell(format!("{whose}{id} is answered with {status}"));
            follower.unanswered.lock().insert(id.clone(), status);
        }
        tokio::spawn(async move {
            sleep(pause).await;
            if !self.poison_stays.load(SeqCst) {
                match fault {
                    Fault::Poison => drop(follower.poison.lock().remove(&id)),
                    _ => drop(follower.unanswered.lock().remove(&id)),
                }
            }
        });
    }
}

/// Copies these tables, or restores the copy, under everyone who uses them.
async fn copy_tables(db: &Database, tables: &[impl AsRef<str> + Sync], from: &str, to: &str) {
    let work = async {
        let mut tx = db.begin().await?;
        for table in tables.iter().map(AsRef::as_ref) {
            let make =
                format!("CREATE TABLE IF NOT EXISTS {from}{to}{table} AS SELECT * FROM {table}");
            let empty = format!("DELETE FROM {to}{table}");
            let fill = format!("INSERT INTO {to}{table} SELECT * FROM {from}{table}");
            for sql in [make, empty, fill] {
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await?;
            }
        }
        tx.commit().await
    };
    db.run(work).await.expect("the database works");
}
