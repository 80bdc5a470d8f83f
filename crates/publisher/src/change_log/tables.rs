//! The publisher's tables, in the owner's database.

use nudge_runtime::database::Migration;

/// The condition for what was published beyond a sequence. None is below 0: saying so makes both databases choose the
/// index of sequences. It must come last, since SQLite seeks by the first bound and filters by the second: the other way
/// round, it reads every row that was ever published.
pub(super) fn beyond(column: &str, seq: &str) -> String {
    format!("{column} > {seq} AND {column} > 0")
}

pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        title: "change log",
        sqlite: "
        CREATE TABLE nudge_change_log (
            entity TEXT NOT NULL,
            id TEXT NOT NULL,
            version BIGINT NOT NULL,
            change TEXT NOT NULL,
            deleted BIGINT NOT NULL,
            changed_at BIGINT NOT NULL,
            published_version BIGINT NOT NULL DEFAULT 0,
            published_seq BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (entity, id)
        ) WITHOUT ROWID;
        CREATE INDEX nudge_change_log_pending ON nudge_change_log (entity, version)
            WHERE version <> published_version;
        CREATE TABLE nudge_relay_stream (entity TEXT PRIMARY KEY, created TEXT NOT NULL);",
        postgres: "
        CREATE TABLE nudge_change_log (
            entity TEXT COLLATE \"C\" NOT NULL,
            id TEXT COLLATE \"C\" NOT NULL,
            version BIGINT NOT NULL,
            change TEXT NOT NULL,
            deleted BIGINT NOT NULL,
            changed_at BIGINT NOT NULL,
            published_version BIGINT NOT NULL DEFAULT 0,
            published_seq BIGINT NOT NULL DEFAULT 0,
            PRIMARY KEY (entity, id)
        );
        CREATE INDEX nudge_change_log_pending ON nudge_change_log (entity, version)
            WHERE version <> published_version;
        CREATE TABLE nudge_relay_stream (entity TEXT COLLATE \"C\" PRIMARY KEY, created TEXT NOT NULL);",
    },
    Migration {
        number: 2,
        title: "capture by trigger",
        // `nudge_replaced` holds rows only during a statement: see `capture/sqlite.rs`.
        sqlite: "
        CREATE TABLE nudge_capture (entity TEXT PRIMARY KEY, definition TEXT NOT NULL);
        CREATE TABLE nudge_replaced (scope TEXT NOT NULL, id TEXT NOT NULL);",
        postgres: "
        CREATE TABLE nudge_capture (entity TEXT COLLATE \"C\" PRIMARY KEY, definition TEXT NOT NULL);",
    },
    Migration {
        number: 3,
        title: "how far the stream is known",
        sqlite: "ALTER TABLE nudge_relay_stream ADD COLUMN known_seq BIGINT NOT NULL DEFAULT 0;",
        postgres: "ALTER TABLE nudge_relay_stream ADD COLUMN known_seq BIGINT NOT NULL DEFAULT 0;",
    },
    Migration {
        number: 4,
        title: "which run of the server was published to",
        // `server`: whose acknowledgements count. `checked`: after whose start the stream was looked through.
        sqlite: "
        ALTER TABLE nudge_relay_stream ADD COLUMN server TEXT;
        ALTER TABLE nudge_relay_stream ADD COLUMN checked TEXT;",
        postgres: "
        ALTER TABLE nudge_relay_stream ADD COLUMN server TEXT;
        ALTER TABLE nudge_relay_stream ADD COLUMN checked TEXT;",
    },
    Migration {
        number: 5,
        title: "tombstones of what never existed",
        // The version at which each was said, so that a later write undoes it, by whatever program.
        sqlite: "
        ALTER TABLE nudge_change_log ADD COLUMN stranger_version BIGINT NOT NULL DEFAULT 0;
        ALTER TABLE nudge_change_log ADD COLUMN never_existed_version BIGINT NOT NULL DEFAULT 0;
        CREATE INDEX nudge_change_log_strangers ON nudge_change_log (entity, id)
            WHERE stranger_version <> 0;",
        postgres: "
        ALTER TABLE nudge_change_log ADD COLUMN stranger_version BIGINT NOT NULL DEFAULT 0;
        ALTER TABLE nudge_change_log ADD COLUMN never_existed_version BIGINT NOT NULL DEFAULT 0;
        CREATE INDEX nudge_change_log_strangers ON nudge_change_log (entity, id)
            WHERE stranger_version <> 0;",
    },
    Migration {
        number: 6,
        title: "rows by their place in the stream",
        sqlite: "
        CREATE INDEX nudge_change_log_place ON nudge_change_log (entity, published_seq)
            WHERE published_seq > 0;",
        postgres: "
        CREATE INDEX nudge_change_log_place ON nudge_change_log (entity, published_seq)
            WHERE published_seq > 0;",
    },
    Migration {
        number: 7,
        title: "how far everything is recorded after triggers were installed",
        // `recording`: when they were installed; 0 once everything is recorded. `recorded_to`: up to which key it is.
        sqlite: "
        ALTER TABLE nudge_capture ADD COLUMN recording BIGINT NOT NULL DEFAULT 0;
        ALTER TABLE nudge_capture ADD COLUMN recorded_to BLOB;",
        postgres: "
        ALTER TABLE nudge_capture ADD COLUMN recording BIGINT NOT NULL DEFAULT 0;
        ALTER TABLE nudge_capture ADD COLUMN recorded_to BYTEA;",
    },
    Migration {
        number: 8,
        title: "the owner's replicas",
        // `beat`: rises while the replica lives.
        sqlite: "
        CREATE TABLE nudge_owner_replica (
            entity TEXT NOT NULL,
            replica TEXT NOT NULL,
            beat BIGINT NOT NULL,
            PRIMARY KEY (entity, replica)
        ) WITHOUT ROWID;",
        postgres: "
        CREATE TABLE nudge_owner_replica (
            entity TEXT COLLATE \"C\" NOT NULL,
            replica TEXT COLLATE \"C\" NOT NULL,
            beat BIGINT NOT NULL,
            PRIMARY KEY (entity, replica)
        );",
    },
];
