//! Databases that are restored to an older copy: an owner's, or a service's.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use nudge_protocol::EntityName;
use nudge_runtime::Database;
use tokio::time::sleep;

use super::BACKUPS;
use crate::{fault::Fault, follower::Follower, owner::Owner, run::theatre::Theatre};

/// How often a backup of a read model is made: once in so many accidents. What happened since an older one
/// would be easy to notice.
const READ_MODEL_BACKUPS: u64 = 3;
/// How far the server that takes over is behind at most.
const MAX_STANDBY_LAG: Duration = Duration::from_secs(2);
/// The owner's tables.
const OWNER_TABLES: [&str; 3] = ["owned", "nudge_change_log", "nudge_relay_stream"];

impl Theatre {
    /// A backup of an owner is made or restored. What was committed and is in no message yet would
    /// be unknown to everyone but those who have called back for it, so only if there is no such change.
    pub(super) async fn owner_is_restored(&self, owner: &Owner) {
        let world = &self.world;
        if world.below(BACKUPS) == 0 && knows_of_each_entity(owner).await {
            copy_tables(&owner.db, &OWNER_TABLES, "", "backup_").await;
            owner.backed_up.store(true, SeqCst);
        }
        if !owner.backed_up.load(SeqCst) || owner_has_pending(owner).await {
            return;
        }
        if world.strikes(Fault::OwnerRestored) {
            world.tell(format!("{} is restored to an older copy", owner.name));
            owner.entities.iter().for_each(|owned| owned.history.learn());
            // Or they keep running, as when a database server is restored under everyone.
            if world.pick(Fault::OwnerRestored, 2) == 0 {
                self.crash_each(&owner.relay, "as its owner is restored");
            }
            copy_tables(&owner.db, &OWNER_TABLES, "backup_", "").await;
            for owned in &owner.entities {
                let versions = owner_versions(owner, &owned.entity).await;
                owned.history.owner_is_restored(&versions);
            }
        }
    }

    /// A backup of a read model is made or restored, if possible. The subscriber keeps running, or restarts.
    /// Or another server takes over, which lacks the last commits.
    pub(super) async fn read_model_is_put_back(self: Arc<Self>, follower: &Arc<Follower>) {
        let (world, db) = (&self.world, &follower.db);
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
                        self.crash_each(&follower.name, "as its read model is put back");
                    }
                }
            }
        }
    }

    async fn server_takes_over(self: Arc<Self>, follower: Arc<Follower>, lag: Duration) {
        copy_tables(&follower.db, &follower.tables, "", "standby_").await;
        sleep(lag).await;
        if !self.world.is_healed() {
            self.world.tell(format!(
                "a server without the last commits takes over from {}'s",
                &follower.name
            ));
            self.put_back(&follower, "standby_").await;
        }
    }

    async fn put_back(&self, follower: &Follower, kept: &str) {
        follower.contents.read_models.iter().for_each(|one| one.is_put_back());
        copy_tables(&follower.db, &follower.tables, kept, "").await;
        self.world.works();
    }

    fn crash_each(&self, of: &str, why: &str) {
        let nodes = self.nodes.lock().values().cloned().collect::<Vec<_>>();
        nodes.iter().filter(|node| node.of == of).for_each(|node| node.crash(why));
    }
}

/// Whether something of each entity was ever recorded. A backup from before that would be a new owner's, who
/// has nothing to say about the stream.
async fn knows_of_each_entity(owner: &Owner) -> bool {
    for owned in &owner.entities {
        if owner_versions(owner, &owned.entity).await.is_empty() {
            return false;
        }
    }
    true
}

pub(crate) async fn owner_has_pending(owner: &Owner) -> bool {
    let sql = "SELECT count(*) FROM nudge_change_log WHERE version <> published_version";
    let looking = sqlx::query_as(sql).fetch_one(owner.db.reader());
    let (pending,): (i64,) = owner.db.run(looking).await.expect("the owner's database works");
    pending > 0
}

async fn owner_versions(owner: &Owner, entity: &EntityName) -> BTreeMap<String, u64> {
    let sql = "SELECT id, version FROM nudge_change_log WHERE entity = $1";
    let looking = sqlx::query_as(sql).bind(entity.as_str()).fetch_all(owner.db.reader());
    let rows: Vec<(String, i64)> = owner.db.run(looking).await.expect("the owner's database works");
    rows.into_iter().map(|(id, version)| (id, version.cast_unsigned())).collect()
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
