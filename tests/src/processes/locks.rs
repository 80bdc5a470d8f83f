//! Freezing a program where it holds nobody up.

use nudge_runtime::database::Kind;

use super::World;
use crate::{QUIET, TestDatabase, database::try_execute};

/// How often a program is frozen until it holds no lock.
const MAX_TRIES: usize = 50;

impl World {
    /// Makes a program stand still at a point outside of its database transactions. One that stands
    /// still inside of one keeps its locks: SQLite's one write lock, or PostgreSQL's row locks.
    pub async fn freeze_outside_transactions(&self, name: &str) {
        let database = self.database(self.place(name).service);
        for _ in 0..MAX_TRIES {
            self.freeze(name);
            if is_free(database).await {
                return;
            }
            self.thaw(name);
        }
        panic!("{name} holds a lock whenever it is frozen");
    }
}

/// Whether no transaction stands still.
async fn is_free(database: &TestDatabase) -> bool {
    let sql = match database.kind() {
        // What runs on is done with its transaction long before.
        Kind::Sqlite => "PRAGMA busy_timeout = 1000; BEGIN IMMEDIATE; ROLLBACK",
        Kind::Postgres => {
            tokio::time::sleep(QUIET).await;
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_stat_activity \
             WHERE datname = current_database() AND state LIKE 'idle in transaction%' \
             AND xact_start < clock_timestamp() - interval '250 ms') \
             THEN RAISE 'a transaction stands still'; END IF; END $$"
        }
    };
    try_execute(database.url(), sql).await.is_ok()
}
