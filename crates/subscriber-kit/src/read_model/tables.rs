//! The kit's own tables, in the read model's database.

use nudge_runtime::database::Migration;

pub(crate) const MIGRATIONS: &[Migration] =
    &[FIRST, PLACE, UNKNOWN, REVISION, REPLICA, RESYNC, CONTENTS, EPOCH];

const FIRST: Migration = Migration {
    number: 1,
    title: "applied versions, intake positions, dead letters",
    sqlite: "
        CREATE TABLE nudge_applied (
            entity TEXT NOT NULL,
            id TEXT NOT NULL,
            version BIGINT NOT NULL,
            deleted BIGINT NOT NULL,
            applied_at BIGINT NOT NULL,
            PRIMARY KEY (entity, id)
        ) WITHOUT ROWID;
        CREATE TABLE nudge_intake (
            entity TEXT PRIMARY KEY,
            consumer TEXT NOT NULL,
            stream_created TEXT NOT NULL,
            position BIGINT NOT NULL,
            caught_up_at BIGINT
        );
        CREATE TABLE nudge_dead_letter (
            entity TEXT NOT NULL,
            id TEXT NOT NULL,
            floor BIGINT NOT NULL,
            error TEXT NOT NULL,
            attempts BIGINT NOT NULL,
            first_failed_at BIGINT NOT NULL,
            last_failed_at BIGINT NOT NULL,
            next_at BIGINT,
            PRIMARY KEY (entity, id)
        ) WITHOUT ROWID;
        CREATE INDEX nudge_dead_letter_due ON nudge_dead_letter (entity, next_at);",
    postgres: "
        CREATE TABLE nudge_applied (
            entity TEXT COLLATE \"C\" NOT NULL,
            id TEXT COLLATE \"C\" NOT NULL,
            version BIGINT NOT NULL,
            deleted BIGINT NOT NULL,
            applied_at BIGINT NOT NULL,
            PRIMARY KEY (entity, id)
        );
        CREATE TABLE nudge_intake (
            entity TEXT COLLATE \"C\" PRIMARY KEY,
            consumer TEXT NOT NULL,
            stream_created TEXT NOT NULL,
            position BIGINT NOT NULL,
            caught_up_at BIGINT
        );
        CREATE TABLE nudge_dead_letter (
            entity TEXT COLLATE \"C\" NOT NULL,
            id TEXT COLLATE \"C\" NOT NULL,
            floor BIGINT NOT NULL,
            error TEXT NOT NULL,
            attempts BIGINT NOT NULL,
            first_failed_at BIGINT NOT NULL,
            last_failed_at BIGINT NOT NULL,
            next_at BIGINT,
            PRIMARY KEY (entity, id)
        );
        CREATE INDEX nudge_dead_letter_due ON nudge_dead_letter (entity, next_at);",
};

const PLACE: Migration = Migration {
    number: 2,
    title: "which database the intake positions were made in",
    sqlite: "ALTER TABLE nudge_intake ADD COLUMN place TEXT",
    postgres: "ALTER TABLE nudge_intake ADD COLUMN place TEXT",
};

const UNKNOWN: Migration = Migration {
    number: 3,
    title: "which rows wait for an owner to know their id",
    sqlite: "ALTER TABLE nudge_dead_letter ADD COLUMN unknown BIGINT NOT NULL DEFAULT 0",
    postgres: "ALTER TABLE nudge_dead_letter ADD COLUMN unknown BIGINT NOT NULL DEFAULT 0",
};

/// A release without revisions leaves both columns unchanged, so the `revised_version` of a row that it has written
/// since differs from its version.
const REVISION: Migration = Migration {
    number: 4,
    title: "by which revision of a read model a row was applied",
    sqlite: "
        ALTER TABLE nudge_applied ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
        ALTER TABLE nudge_applied ADD COLUMN revised_version BIGINT NOT NULL DEFAULT 0;
        CREATE TABLE nudge_revision (
            entity TEXT PRIMARY KEY,
            revision BIGINT NOT NULL,
            seen_at BIGINT NOT NULL
        );",
    postgres: "
        ALTER TABLE nudge_applied ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
        ALTER TABLE nudge_applied ADD COLUMN revised_version BIGINT NOT NULL DEFAULT 0;
        CREATE TABLE nudge_revision (
            entity TEXT COLLATE \"C\" PRIMARY KEY,
            revision BIGINT NOT NULL,
            seen_at BIGINT NOT NULL
        );",
};

const REPLICA: Migration = Migration {
    number: 5,
    title: "how far each replica has got",
    sqlite: "
        CREATE TABLE nudge_intake_replica (
            entity TEXT NOT NULL,
            replica TEXT NOT NULL,
            consumer TEXT NOT NULL,
            stream_created TEXT NOT NULL,
            position BIGINT NOT NULL,
            seen_at BIGINT NOT NULL,
            PRIMARY KEY (entity, replica)
        ) WITHOUT ROWID;",
    postgres: "
        CREATE TABLE nudge_intake_replica (
            entity TEXT COLLATE \"C\" NOT NULL,
            replica TEXT COLLATE \"C\" NOT NULL,
            consumer TEXT NOT NULL,
            stream_created TEXT NOT NULL,
            position BIGINT NOT NULL,
            seen_at BIGINT NOT NULL,
            PRIMARY KEY (entity, replica)
        );",
};

/// `sweep` and `last_sweep` are comparisons as JSON: see `nudge_protocol::admin::Sweep`.
const RESYNC: Migration = Migration {
    number: 6,
    title: "how far the read model is compared with its owner",
    sqlite: "
        CREATE TABLE nudge_resync (
            entity TEXT PRIMARY KEY,
            holder TEXT NOT NULL,
            seen_at BIGINT NOT NULL,
            sweep TEXT,
            last_sweep TEXT,
            removals BIGINT NOT NULL DEFAULT 0,
            waits_for TEXT,
            wanted BIGINT NOT NULL DEFAULT 0,
            allow_removals BIGINT NOT NULL DEFAULT 0
        );",
    postgres: "
        CREATE TABLE nudge_resync (
            entity TEXT COLLATE \"C\" PRIMARY KEY,
            holder TEXT NOT NULL,
            seen_at BIGINT NOT NULL,
            sweep TEXT,
            last_sweep TEXT,
            removals BIGINT NOT NULL DEFAULT 0,
            waits_for TEXT,
            wanted BIGINT NOT NULL DEFAULT 0,
            allow_removals BIGINT NOT NULL DEFAULT 0
        );",
};

/// A [`ContentsStatus`](nudge_protocol::admin::ContentsStatus) and an
/// [`AuditStatus`](nudge_protocol::admin::AuditStatus) as JSON.
const CONTENTS: Migration = Migration {
    number: 7,
    title: "how far the contents of the read model are compared, and how consistent it has been",
    sqlite: "
        ALTER TABLE nudge_resync ADD COLUMN contents TEXT;
        ALTER TABLE nudge_resync ADD COLUMN audit TEXT;",
    postgres: "
        ALTER TABLE nudge_resync ADD COLUMN contents TEXT;
        ALTER TABLE nudge_resync ADD COLUMN audit TEXT;",
};

/// PostgreSQL empties an unlogged table whenever commits may be lost: after a crash, on a standby that takes over, and in
/// a copy of the server's files. Where SQLite loses commits, the program has ended, too.
const EPOCH: Migration = Migration {
    number: 8,
    title: "whether the database may have lost commits",
    sqlite: "CREATE TABLE nudge_epoch (entity TEXT PRIMARY KEY, epoch TEXT NOT NULL)",
    postgres: "CREATE UNLOGGED TABLE nudge_epoch (entity TEXT COLLATE \"C\" PRIMARY KEY, epoch TEXT NOT NULL)",
};
