//! Triggers for PostgreSQL: statement triggers over transition tables.
//!
//! - All rows of a statement are recorded at once, in ID order: two statements that touch the
//!   same entities wait for each other instead of deadlocking.
//! - Updated rows are compared in their binary form, which every type has, so that a
//!   statement that changes nothing records nothing. Rows have no identity in it: whole rows that
//!   swap places are not a change either.
//! - The worker of a logical replication fires only row triggers, in a session that writes everything as a
//!   replica. So there is a second set of triggers, for rows, that fires only there.
//! - `TRUNCATE` also removes rows that its snapshot does not show. Above READ COMMITTED it is refused: nobody could
//!   tell whose rows they were.
//! - A second statement checks whether the root row exists, after the change log's rows are
//!   locked: only that one sees what other transactions committed while this one waited.

use nudge_protocol::{EntityName, entity::MAX_ENTITY_ID_BYTES, version::VERSION_LIMIT};
use nudge_runtime::{Tx, row};
use sqlx::AssertSqlSafe;

use super::{Fault, Plan, Table, Tables, is_noted, literal, prefix, quoted};

/// The name part of a table's trigger for replicated rows.
const REPLICATED: &str = "REPLICATED";
/// When a trigger fires.
const BEFORE: &str = "BEFORE";
const AFTER: &str = "AFTER";
/// Where the functions look up names, whoever fires them.
const SEARCH_PATH: &str = "pg_catalog, pg_temp";
/// Types that give each value exactly one text, whatever the session's settings.
const KEY_TYPES: &[&str] = &["text", "character varying", "smallint", "integer", "bigint", "uuid"];
/// Lets one program at a time check and install, however long the others take.
/// The number is used for nothing else.
const LOCK: &str = "SET LOCAL lock_timeout = 0; SELECT count(pg_advisory_xact_lock(5210372))";
/// Whoever writes, sets of entities are recorded by statements that are planned for the log as it is now.
const PLANS: &str = "plan_cache_mode = force_custom_plan";
/// What looks at nothing but what a statement has changed is planned once for each session.
const ONE_PLAN: &str = "plan_cache_mode = force_generic_plan";
/// So is what records one entity: to plan that takes many times as long as to do it. It looks rows up by key, also where a
/// table was so small that reading all of it looked cheaper.
const BY_KEY: &str = "enable_seqscan = off";
/// Longest wait for a captured table, in milliseconds. Creating triggers takes a lock that waits for every transaction
/// that uses the table, and all later ones queue behind it.
pub(super) const TABLE_LOCK_TIMEOUT_MILLIS: u32 = 1_000;

/// The plan, if the database does not match it yet.
pub(super) async fn is_installed(
    tx: &mut Tx,
    entity: &EntityName,
    tables: &Tables,
) -> Result<Option<Plan>, Fault> {
    let schema: (String,) =
        sqlx::query_as("SELECT current_schema()::text").fetch_one(&mut **tx).await?;
    let mut found = Vec::new();
    for table in &tables.tables {
        found.push(describe(tx, table).await?);
    }
    let writer = Writer { entity, schema: quoted(&schema.0), root: &found[0] };
    let mut create = vec![writer.touch(), writer.touch_one()];
    let mut wanted = Vec::new();
    for (number, table) in found.iter().enumerate() {
        for (event, timing, transition, ids) in writer.events(number, table) {
            create.push(writer.function(number, event, &ids));
            create.extend(writer.trigger(number, event, timing, transition, table));
            let (name, form) =
                (writer.trigger_name(number, event), form(event, timing, transition));
            wanted.push((table.name.clone(), name, "A".to_owned(), form));
        }
        create.extend(writer.replicated(number, table));
        let (name, form) = (writer.trigger_name(number, REPLICATED), form(REPLICATED, AFTER, ""));
        wanted.push((table.name.clone(), name, "R".to_owned(), form));
    }
    wanted.sort();
    let plan = Plan { create, triggers: wanted.len() };
    let there = triggers(tx, entity).await? == wanted && has_functions(tx, entity, &plan).await?;
    Ok((!there || !is_noted(tx, entity, &plan).await?).then_some(plan))
}

/// Lets only one program install at a time, until the transaction ends.
pub(super) async fn lock(tx: &mut Tx) -> Result<(), Fault> {
    sqlx::raw_sql(LOCK).execute(&mut **tx).await?;
    Ok(())
}

/// From here on in this transaction, no wait for a lock is longer.
pub(super) async fn wait_at_most(tx: &mut Tx, millis: u32) -> Result<(), Fault> {
    let sql = format!("SET LOCAL lock_timeout = {millis}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **tx).await?;
    Ok(())
}

/// The type of a table's key.
pub(super) async fn key_type(tx: &mut Tx, table: &Table) -> Result<String, Fault> {
    Ok(describe(tx, table).await?.key_type)
}

/// The name of the function that records a set of entities.
pub(super) fn touch(entity: &EntityName) -> String {
    quoted(&format!("{}touch", prefix(entity)))
}

/// A trigger: its table, its name, its firing mode, and its [form](form).
type Trigger = (String, String, String, String);

/// When a trigger fires and what it sees, as [`triggers`] reads it from the catalog: `pg_trigger.tgtype`, its transition
/// tables, and that it has no condition, no column list and no arguments.
fn form(event: &str, timing: &str, transition: &str) -> String {
    let event = match event {
        "INSERT" => 4,
        "DELETE" => 8,
        "UPDATE" => 16,
        "TRUNCATE" => 32,
        // For each row, on any change.
        _ => 1 + 4 + 8 + 16,
    };
    let before = if timing == BEFORE { 2 } else { 0 };
    let table = |kind: &str, name: &'static str| if transition.contains(kind) { name } else { "" };
    let (old, new) = (table("OLD TABLE", "old_rows"), table("NEW TABLE", "new_rows"));
    format!("{} {old} {new}", event + before)
}

/// The existing triggers.
async fn triggers(tx: &mut Tx, entity: &EntityName) -> Result<Vec<Trigger>, Fault> {
    // Quoted as in the plan: `quote_ident` would leave plain names bare.
    let sql = "SELECT '\"' || replace(n.nspname, '\"', '\"\"') || '\".\"' || replace(c.relname, '\"', '\"\"') || '\"', \
               t.tgname::text, t.tgenabled::text, concat(t.tgtype, ' ', t.tgoldtable, ' ', t.tgnewtable, \
               CASE WHEN t.tgqual IS NOT NULL OR t.tgnargs > 0 OR cardinality(t.tgattr::int2[]) > 0 THEN ' altered' END) \
               FROM pg_trigger t \
               JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_proc p ON p.oid = t.tgfoid AND p.proname = t.tgname \
               AND p.pronamespace = current_schema()::regnamespace \
               WHERE left(t.tgname, length($1)) = $1";
    let mut found: Vec<Trigger> =
        sqlx::query_as(sql).bind(prefix(entity)).fetch_all(&mut **tx).await?;
    found.sort();
    Ok(found)
}

/// Whether the functions are exactly those of the plan: their text, whose permissions they run with, and their search
/// path.
async fn has_functions(tx: &mut Tx, entity: &EntityName, plan: &Plan) -> Result<bool, Fault> {
    let sql = "SELECT concat(prosecdef, ' ', l.lanname, ' ', array_to_string(proconfig, '; '), ' ', prosrc) \
               FROM pg_proc JOIN pg_language AS l ON l.oid = prolang WHERE left(proname, length($1)) = $1 \
               AND pronamespace = current_schema()::regnamespace";
    let mut found: Vec<(String,)> =
        sqlx::query_as(sql).bind(prefix(entity)).fetch_all(&mut **tx).await?;
    let function = |sql: &String| {
        let (head, rest) = sql.split_once("$nudge$")?;
        let definer = if head.contains("SECURITY DEFINER") { "t" } else { "f" };
        let settings = head.trim_end().trim_end_matches("AS").split("SET ").skip(1);
        let settings: Vec<_> = settings.map(|one| one.trim().replacen(" = ", "=", 1)).collect();
        let body = rest.split("$nudge$").next()?;
        Some((format!("{definer} plpgsql {} {body}", settings.join("; ")),))
    };
    let mut wanted: Vec<_> = plan.create.iter().filter_map(function).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    Ok(found == wanted)
}

/// Statements that remove every trigger of an entity.
pub(super) async fn removal(tx: &mut Tx, entity: &EntityName) -> Result<Vec<String>, Fault> {
    let sql = "SELECT oid::regprocedure::text FROM pg_proc WHERE left(proname, length($1)) = $1 \
               AND pronamespace = current_schema()::regnamespace";
    let functions: Vec<(String,)> =
        sqlx::query_as(sql).bind(prefix(entity)).fetch_all(&mut **tx).await?;
    let drop = |(function,): &(String,)| format!("DROP FUNCTION IF EXISTS {function} CASCADE");
    Ok(functions.iter().map(drop).collect())
}

/// A table as the database knows it.
struct Found {
    /// Its qualified name, quoted.
    name: String,
    /// The key column, quoted.
    key: String,
    /// The key column's type.
    key_type: String,
}

row! {
    struct TableRow {
        schema: String,
        name: String,
        kind: String,
        relatives: i64,
        key_type: Option<String>,
    }
}

async fn describe(tx: &mut Tx, table: &Table) -> Result<Found, Fault> {
    let sql = "SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind, \
               (SELECT count(*) FROM pg_inherits WHERE inhrelid = c.oid OR inhparent = c.oid) AS relatives, \
               (SELECT format_type(a.atttypid, NULL) FROM pg_attribute a \
                WHERE a.attrelid = c.oid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped) \
               AS key_type FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.oid = to_regclass($1)";
    let row: Option<TableRow> = sqlx::query_as(sql)
        .bind(quoted(&table.name))
        .bind(table.key.clone())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(TableRow { schema, name, kind, relatives, key_type }) = row else {
        return Err(Fault::table(table, "does not exist"));
    };
    if kind != "r" || relatives > 0 {
        // Rows written directly to a partition would not be seen.
        return Err(Fault::table(
            table,
            "is not an ordinary table: views, partitions and tables that \
                                        inherit cannot be captured",
        ));
    }
    let Some(key_type) = key_type else {
        return Err(Fault::table(table, format!("has no column {}", table.key)));
    };
    if !KEY_TYPES.contains(&key_type.as_str()) {
        let problem = format!(
            "has the key {} of type {key_type}: a key must be one of {}",
            table.key,
            KEY_TYPES.join(", ")
        );
        return Err(Fault::table(table, problem));
    }
    let name = format!("{}.{}", quoted(&schema), quoted(&name));
    let plain = "SELECT count(*) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                 WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND t.typsend = 0";
    let (without_binary_form,): (i64,) =
        sqlx::query_as(plain).bind(name.clone()).fetch_one(&mut **tx).await?;
    if without_binary_form > 0 {
        return Err(Fault::table(table, "has a column of a type that has no binary form"));
    }
    Ok(Found { name, key: quoted(&table.key), key_type })
}

/// An event, when its trigger fires, the transition tables, and the affected IDs.
type Event = (&'static str, &'static str, &'static str, String);

/// How an entity has changed that was there and is not, or the other way round.
const CHANGE: &str = "CASE seen.gone WHEN 1 THEN 'deleted' ELSE 'created' END";

/// Parts of the functions that record entities.
struct Parts {
    /// The condition for an invalid ID, and the error that names it.
    bad: String,
    refuse: String,
    /// What a change does to an entity's row.
    raise: &'static str,
    /// 1 if it is not there.
    gone: String,
    max: u64,
}

struct Writer<'a> {
    entity: &'a EntityName,
    schema: String,
    root: &'a Found,
}

impl Writer<'_> {
    fn name(&self, part: &str) -> String {
        format!("{}.{}", self.schema, quoted(&format!("{}{part}", prefix(self.entity))))
    }

    fn log(&self) -> String {
        format!("{}.nudge_change_log", self.schema)
    }

    fn events(&self, number: usize, table: &Found) -> Vec<Event> {
        let key = &table.key;
        let rows =
            |name: &str| format!("SELECT it.{key}::text AS id, record_send(it) FROM {name} AS it");
        let (old, new) = (rows("old_rows"), rows("new_rows"));
        let every = |name: &str| format!("SELECT DISTINCT it.{key}::text AS id FROM {name} AS it");
        let changed = format!(
            "SELECT DISTINCT c.id FROM ((({old}) EXCEPT ALL ({new})) \
             UNION ALL (({new}) EXCEPT ALL ({old}))) AS c"
        );
        // The owners of a child's rows can be seen only before the rows are gone; missing roots only after.
        let truncate = match number {
            0 => {
                let entity = literal(self.entity.as_str());
                let log = self.log();
                (AFTER, format!("SELECT id FROM {log} WHERE entity = {entity} AND deleted = 0"))
            }
            _ => (BEFORE, every(&table.name)),
        };
        let (old, new) = ("OLD TABLE AS old_rows", "NEW TABLE AS new_rows");
        vec![
            ("INSERT", AFTER, new, every("new_rows")),
            ("UPDATE", AFTER, "OLD TABLE AS old_rows NEW TABLE AS new_rows", changed),
            ("DELETE", AFTER, old, every("old_rows")),
            ("TRUNCATE", truncate.0, "", truncate.1),
        ]
    }

    fn part(number: usize, event: &str) -> String {
        format!("{number}:{}", event.to_lowercase())
    }

    /// The function of one trigger. It runs with the permissions of its owner, and ignores the
    /// caller's search path.
    fn function(&self, number: usize, event: &str, ids: &str) -> String {
        let (name, touch) = (self.name(&Self::part(number, event)), self.name("touch"));
        let refuse = match event {
            "TRUNCATE" => {
                "IF current_setting('transaction_isolation') NOT LIKE 'read%' THEN \
                 RAISE EXCEPTION 'nudge: TRUNCATE of a captured table must run at READ COMMITTED: above that, \
                 rows that it removes may be invisible to it'; END IF; "
            }
            _ => "",
        };
        format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = {SEARCH_PATH} SET {ONE_PLAN} AS $nudge$ BEGIN {refuse}\
             PERFORM {touch}(ARRAY(SELECT s.id FROM ({ids}) AS s WHERE s.id IS NOT NULL)); \
             RETURN NULL; END $nudge$"
        )
    }

    fn trigger(
        &self,
        number: usize,
        event: &str,
        timing: &str,
        transition: &str,
        table: &Found,
    ) -> [String; 2] {
        let name = quoted(&self.trigger_name(number, event));
        let (function, table) = (self.name(&Self::part(number, event)), &table.name);
        let referencing = if transition.is_empty() {
            String::new()
        } else {
            format!("REFERENCING {transition} ")
        };
        [
            format!(
                "CREATE TRIGGER {name} {timing} {event} ON {table} {referencing}\
                 FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
            ),
            // Also in sessions that replay a replication stream: their writes are changes, too.
            format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}"),
        ]
    }

    fn trigger_name(&self, number: usize, event: &str) -> String {
        format!("{}{}", prefix(self.entity), Self::part(number, event))
    }

    /// The function and the trigger for rows that a logical replication writes.
    fn replicated(&self, number: usize, table: &Found) -> [String; 3] {
        let (name, touch) = (self.name(&Self::part(number, REPLICATED)), self.name("touch"));
        let (trigger, key) = (quoted(&self.trigger_name(number, REPLICATED)), &table.key);
        let table = &table.name;
        [
            format!(
                "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
                 SET search_path = {SEARCH_PATH} AS $nudge$ DECLARE ids text[]; BEGIN \
                 IF TG_OP <> 'INSERT' THEN ids := ARRAY[OLD.{key}::text]; END IF; \
                 IF TG_OP <> 'DELETE' THEN ids := ids || NEW.{key}::text; END IF; \
                 IF TG_OP = 'UPDATE' AND record_send(OLD) = record_send(NEW) THEN RETURN NULL; END IF; \
                 PERFORM {touch}(ARRAY(SELECT DISTINCT s FROM unnest(ids) AS s WHERE s IS NOT NULL)); \
                 RETURN NULL; END $nudge$"
            ),
            format!(
                "CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table} \
                 FOR EACH ROW EXECUTE FUNCTION {name}()"
            ),
            format!("ALTER TABLE {table} ENABLE REPLICA TRIGGER {trigger}"),
        ]
    }

    /// What both functions say of an ID, `it`.
    fn parts(&self) -> Parts {
        let entity = literal(self.entity.as_str());
        let Found { name: root, key, key_type } = self.root;
        Parts {
            bad: format!(
                r"octet_length(it) NOT BETWEEN 1 AND {MAX_ENTITY_ID_BYTES} OR it ~ '[\u0001-\u001F\u007F-\u009F]'"
            ),
            refuse: format!(
                "RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = format(
            'nudge: the id of a %s must be 1 to {MAX_ENTITY_ID_BYTES} bytes of UTF-8 without control characters, not %L',
            {entity}, left(bad, 60));"
            ),
            raise: "
            version = CASE WHEN log.version >= proposed THEN log.version + 1 ELSE proposed END,
            change = CASE WHEN log.deleted = 1 THEN log.change
                WHEN log.change = 'created' AND log.version <> log.published_version THEN 'created'
                ELSE 'updated' END,
            changed_at = proposed",
            gone: format!(
                r#"CASE WHEN EXISTS (
                SELECT 1 FROM {root} AS root
                WHERE root.{key} = it::{key_type} AND root.{key}::text = it COLLATE pg_catalog."C"
            ) THEN 0 ELSE 1 END"#
            ),
            max: VERSION_LIMIT - 1,
        }
    }

    /// The function that records a set of entities. It names the keys a second time, so that they are looked up in a log of
    /// which nothing is known yet: see `set_sql::by_key`.
    fn touch(&self) -> String {
        let (name, log, entity) = (self.name("touch"), self.log(), literal(self.entity.as_str()));
        let one = self.name("touch_one");
        let Parts { bad, refuse, raise, gone, max } = self.parts();
        format!(
            r#"CREATE FUNCTION {name}(ids text[]) RETURNS void LANGUAGE plpgsql
SET search_path = {SEARCH_PATH}
SET {PLANS} AS $nudge$
DECLARE
    proposed bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    highest bigint;
    bad text;
BEGIN
    IF cardinality(ids) = 0 THEN
        RETURN;
    END IF;
    IF cardinality(ids) = 1 THEN
        PERFORM {one}(ids[1]);
        RETURN;
    END IF;
    SELECT it INTO bad FROM unnest(ids) AS it WHERE {bad} LIMIT 1;
    IF FOUND THEN
        {refuse}
    END IF;
    WITH raised AS (
        INSERT INTO {log} AS log (entity, id, version, change, deleted, changed_at)
        SELECT {entity}, it, proposed, 'created', 0, proposed
        FROM unnest(ids) AS it ORDER BY it COLLATE pg_catalog."C"
        ON CONFLICT (entity, id) DO UPDATE SET {raise}
        RETURNING version
    ) SELECT max(version) INTO highest FROM raised;
    IF highest > {max} THEN
        RAISE EXCEPTION 'nudge: the version of a % would be beyond {max}', {entity};
    END IF;
    UPDATE {log} AS log
        SET deleted = seen.gone, change = {CHANGE}
        FROM (SELECT it AS id, {gone} AS gone FROM unnest(ids) AS it) AS seen
        WHERE log.entity = {entity} AND log.id = ANY (ARRAY(SELECT unnest(ids)))
        AND log.id = seen.id AND log.deleted <> seen.gone;
END $nudge$"#
        )
    }

    /// The function that records one entity, as most statements do.
    fn touch_one(&self) -> String {
        let (name, log, entity) =
            (self.name("touch_one"), self.log(), literal(self.entity.as_str()));
        let Parts { bad, refuse, raise, gone, max } = self.parts();
        format!(
            r#"CREATE FUNCTION {name}(it text) RETURNS void LANGUAGE plpgsql
SET search_path = {SEARCH_PATH}
SET {ONE_PLAN}
SET {BY_KEY} AS $nudge$
DECLARE
    proposed bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    highest bigint;
    was bigint;
    bad text := it;
    seen record;
BEGIN
    IF {bad} THEN
        {refuse}
    END IF;
    INSERT INTO {log} AS log (entity, id, version, change, deleted, changed_at)
        VALUES ({entity}, it, proposed, 'created', 0, proposed)
        ON CONFLICT (entity, id) DO UPDATE SET {raise}
        RETURNING version, deleted INTO highest, was;
    IF highest > {max} THEN
        RAISE EXCEPTION 'nudge: the version of a % would be beyond {max}', {entity};
    END IF;
    SELECT {gone} AS gone INTO seen;
    IF was <> seen.gone THEN
        UPDATE {log} AS log SET deleted = seen.gone, change = {CHANGE}
            WHERE log.entity = {entity} AND log.id = it;
    END IF;
END $nudge$"#
        )
    }
}
