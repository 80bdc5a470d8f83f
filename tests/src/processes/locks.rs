//! Freezing a program while it holds no locks.

use nudge_runtime::database::Kind;

use super::World;
use crate::{QUIET, TestDatabase, database::try_execute, eventually};

/// How often a program is frozen until it holds no lock.
const MAX_TRIES: usize = 50;

impl World {
    /// Freezes a program outside of its database transactions. Inside of one, it would keep its locks: SQLite's single
    /// write lock, or PostgreSQL's row locks.
    pub async fn freeze_outside_transactions(&self, name: &str) {
        let database = self.database(self.place(name).service);
        for _ in 0..MAX_TRIES {
            self.freeze(name);
            if is_free(database).await {
                return;
            }
            self.thaw(name);
            // It would be frozen in the same transaction again if it had no time to end it.
            eventually("the transaction ends", || async { is_free(database).await.then_some(()) })
                .await;
        }
        panic!("{name} holds a lock whenever it is frozen");
    }
}

/// Whether no transaction is stuck.
async fn is_free(database: &TestDatabase) -> bool {
    let sql = match database.kind() {
        // A running program finishes its transaction long before.
        Kind::Sqlite => "PRAGMA busy_timeout = 1000; BEGIN IMMEDIATE; ROLLBACK",
        Kind::Postgres => {
            tokio::time::sleep(QUIET).await;
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_stat_activity \
             WHERE datname = current_database() AND state LIKE 'idle in transaction%' \
             AND xact_start < clock_timestamp() - interval '250 ms') \
             THEN RAISE 'a transaction is frozen'; END IF; END $$"
        }
    };
    try_execute(database.url(), sql).await.is_ok()
}
