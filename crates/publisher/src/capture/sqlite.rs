//! Triggers for SQLite: row triggers.
//!
//! Three traps of SQLite:
//! - `REPLACE` deletes conflicting rows without firing their delete triggers. They
//!   are looked up *before* the statement, by every unique key that could conflict.
//! - The conflict clause of a statement overrides those inside the triggers that it fires. So these
//!   triggers have none: a row is updated, and inserted if it did not exist.
//! - `IS NOT` compares with the column's collation, and integers equal to reals. Here
//!   every byte counts.

use nudge_protocol::{EntityName, entity::MAX_ENTITY_ID_BYTES, version::VERSION_LIMIT};
use nudge_runtime::Tx;
use sqlx::AssertSqlSafe;

use super::{Fault, Plan, Table, Tables, is_noted, literal, prefix, quoted};

/// Microseconds since 1970. SQLite knows the time to the millisecond.
const NOW: &str = "CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000";

/// The plan, if the database does not match it yet.
pub(super) async fn is_installed(
    tx: &mut Tx,
    entity: &EntityName,
    tables: &Tables,
) -> Result<Option<Plan>, Fault> {
    let mut create = Vec::new();
    for (number, table) in tables.tables.iter().enumerate() {
        let columns = columns(tx, table).await?;
        let clashes = clashes(tx, table, &columns).await?;
        let writer = Writer { entity, tables, table, number };
        create.extend(writer.triggers(&columns, &clashes));
    }
    let plan = Plan { triggers: create.len(), create };
    // Their text names their table: a trigger that moved along with a renamed table has another text.
    let mut there = column(tx, entity, "sql").await?;
    let mut wanted = plan.create.clone();
    there.sort_unstable();
    wanted.sort_unstable();
    Ok((there != wanted || !is_noted(tx, entity, &plan).await?).then_some(plan))
}

/// Statements that remove every trigger of an entity.
pub(super) async fn removal(tx: &mut Tx, entity: &EntityName) -> Result<Vec<String>, Fault> {
    let names = column(tx, entity, "name").await?;
    Ok(names.iter().map(|name| format!("DROP TRIGGER {}", quoted(name))).collect())
}

/// A column of the schema table, for each of the entity's triggers.
async fn column(tx: &mut Tx, entity: &EntityName, column: &str) -> Result<Vec<String>, Fault> {
    let sql = format!(
        "SELECT {column} FROM sqlite_master WHERE type = 'trigger' AND substr(name, 1, length($1)) = $1"
    );
    let rows: Vec<(String,)> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(prefix(entity)).fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|(value,)| value).collect())
}

/// The columns that are stored.
async fn columns(tx: &mut Tx, table: &Table) -> Result<Vec<String>, Fault> {
    let sql = "SELECT name, type FROM pragma_table_xinfo($1) WHERE hidden = 0 ORDER BY cid";
    let rows: Vec<(String, String)> =
        sqlx::query_as(sql).bind(table.name.clone()).fetch_all(&mut **tx).await?;
    let kind = "SELECT type FROM sqlite_master WHERE lower(name) = lower($1) AND type IN ('table', 'view')";
    let kind: Option<(String,)> =
        sqlx::query_as(kind).bind(table.name.clone()).fetch_optional(&mut **tx).await?;
    match kind {
        None => return Err(Fault::table(table, "does not exist")),
        Some((kind,)) if kind != "table" => {
            return Err(Fault::table(table, "is a view: capture its tables instead"));
        }
        Some(_) => {}
    }
    let key = rows.iter().find(|(name, _)| name.eq_ignore_ascii_case(&table.key));
    let Some((key, kind)) = key else {
        return Err(Fault::table(table, format!("has no column {}", table.key)));
    };
    // Text and whole numbers have exactly one text each. Without a type, a number and its text are different keys;
    // any other type turns what looks like a number into one, such as `1e3`.
    let kind = kind.to_uppercase();
    if !["INT", "CHAR", "CLOB", "TEXT"].iter().any(|known| kind.contains(known)) {
        let problem = format!(
            "has the key {key} of type {kind:?}: the type's name must contain INT, CHAR, CLOB or TEXT"
        );
        return Err(Fault::table(table, problem));
    }
    Ok(rows.into_iter().map(|(name, _)| name).collect())
}

/// The unique keys by which `REPLACE` could remove a row of another entity: all except
/// those that contain the entity's key and compare it bytewise.
async fn clashes(
    tx: &mut Tx,
    table: &Table,
    columns: &[String],
) -> Result<Vec<Vec<String>>, Fault> {
    let sql = "SELECT i.name, COALESCE(c.name, ''), COALESCE(c.coll, '') \
               FROM pragma_index_list($1) AS i, pragma_index_xinfo(i.name) AS c \
               WHERE i.\"unique\" = 1 AND c.key = 1 ORDER BY i.name, c.seqno";
    let rows: Vec<(String, String, String)> =
        sqlx::query_as(sql).bind(table.name.clone()).fetch_all(&mut **tx).await?;
    let mut keys: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for (index, column, collation) in rows {
        if column.is_empty() {
            let problem = format!(
                "has a unique index over an expression, {index}: REPLACE could \
                                   remove rows by it unseen"
            );
            return Err(Fault::table(table, problem));
        }
        match keys.last_mut() {
            Some((last, key)) if *last == index => key.push((column, collation)),
            _ => keys.push((index, vec![(column, collation)])),
        }
    }
    let bytewise = |(column, collation): &(String, String)| {
        column.eq_ignore_ascii_case(&table.key) && collation.eq_ignore_ascii_case("BINARY")
    };
    let mut clashes: Vec<Vec<String>> = keys
        .into_iter()
        .filter(|(_, key)| !key.iter().any(bytewise))
        .map(|(_, key)| key.into_iter().map(|(column, _)| column).collect())
        .collect();
    // A primary key of one integer column is the rowid itself and has no index.
    let sql = "SELECT name FROM pragma_table_xinfo($1) WHERE pk = 1 AND upper(type) = 'INTEGER' \
               AND (SELECT count(*) FROM pragma_table_xinfo($1) WHERE pk > 0) = 1";
    let row: Option<(String,)> =
        sqlx::query_as(sql).bind(table.name.clone()).fetch_optional(&mut **tx).await?;
    match row.map(|(name,)| name) {
        // The key itself: a conflicting row is the entity's own.
        Some(name) if name.eq_ignore_ascii_case(&table.key) => {}
        Some(name) => clashes.extend(columns.contains(&name).then(|| vec![name])),
        None => clashes.extend(row_number(tx, table, columns).await?.map(|name| vec![name])),
    }
    Ok(clashes)
}

/// The name of the rowid if it is not a column; none in a table WITHOUT ROWID, or if columns
/// use all of its names, so that no statement can set it either.
async fn row_number(
    tx: &mut Tx,
    table: &Table,
    columns: &[String],
) -> Result<Option<String>, Fault> {
    let sql = "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND lower(name) = lower($1)";
    let without: Option<(i64,)> =
        sqlx::query_as(sql).bind(table.name.clone()).fetch_optional(&mut **tx).await?;
    if without.is_some_and(|(without,)| without == 1) {
        return Ok(None);
    }
    let free = |name: &&str| !columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    Ok(["rowid", "_rowid_", "oid"].into_iter().find(free).map(str::to_owned))
}

/// Whether a text of at most [`MAX_ENTITY_ID_BYTES`] bytes is UTF-8: SQLite stores any bytes. A character that is read and
/// written again yields the same bytes only if it was UTF-8, except for two that SQLite replaces as well. ASCII text
/// costs one comparison.
fn is_utf8(text: &str) -> String {
    const { assert!(MAX_ENTITY_ID_BYTES <= 16 * 16, "each character is looked at") };
    let digits: Vec<_> = (0..16).map(|digit| format!("({digit})")).collect();
    let digits = digits.join(", ");
    // The first comparison spares most of the rounds.
    let character = format!("substr({text}, 16 * a.column1 + b.column1 + 1, 1)");
    format!(
        "{text} NOT GLOB '*[^' || char(1) || '-' || char(127) || ']*' OR NOT EXISTS (SELECT 1 \
         FROM (VALUES {digits}) AS a, (VALUES {digits}) AS b WHERE 16 * a.column1 < length({text}) \
         AND 16 * a.column1 + b.column1 < length({text}) \
         AND char(unicode({character})) <> {character} COLLATE BINARY \
         AND hex({character}) NOT IN ('EFBFBE', 'EFBFBF'))"
    )
}

/// Writes the triggers of one table.
struct Writer<'a> {
    entity: &'a EntityName,
    tables: &'a Tables,
    table: &'a Table,
    number: usize,
}

impl Writer<'_> {
    fn is_root(&self) -> bool {
        self.number == 0
    }

    fn triggers(&self, columns: &[String], clashes: &[Vec<String>]) -> Vec<String> {
        let key = quoted(&self.table.key);
        let (new, old) = (format!("NEW.{key}"), format!("OLD.{key}"));
        let differs = |column: &String| {
            let c = quoted(column);
            format!("OLD.{c} IS NOT NEW.{c} COLLATE BINARY OR typeof(OLD.{c}) <> typeof(NEW.{c})")
        };
        // A row that only gets another rowid replaces itself, too.
        let numbers = clashes.iter().flatten().filter(|name| !columns.contains(name));
        let changed: Vec<_> = columns.iter().chain(numbers).map(differs).collect();
        let changed = changed.join(" OR ");
        let moved = format!("OLD.{key} IS NOT NEW.{key} COLLATE BINARY");
        let replaced = self.touch_replaced(!clashes.is_empty());
        let insert = format!("{}{}{replaced}", self.check_id(&new), self.touch(&new));
        let update = format!("{}{}{replaced}", self.check_id(&new), self.touch(&new));
        let mut triggers = vec![
            self.trigger("insert", "AFTER INSERT", "true", &insert),
            self.trigger("update", "AFTER UPDATE", &changed, &update),
            self.trigger("move", "AFTER UPDATE", &moved, &self.touch(&old)),
            self.trigger("delete", "AFTER DELETE", "true", &self.touch(&old)),
        ];
        if !clashes.is_empty() {
            let look = self.look_for_replaced(clashes);
            triggers.push(self.trigger("before_insert", "BEFORE INSERT", "true", &look));
            triggers.push(self.trigger("before_update", "BEFORE UPDATE", "true", &look));
        }
        triggers
    }

    fn trigger(&self, name: &str, when: &str, condition: &str, body: &str) -> String {
        let name = quoted(&format!("{}{}:{name}", prefix(self.entity), self.number));
        let table = quoted(&self.table.name);
        format!(
            "CREATE TRIGGER {name} {when} ON {table} FOR EACH ROW WHEN {condition} BEGIN {body}END"
        )
    }

    /// Whether the root row of this ID exists, with a bytewise equal key. `id` is text.
    fn exists(&self, id: &str) -> String {
        let root = self.tables.of_root();
        let (table, key) = (quoted(&root.name), quoted(&root.key));
        format!(
            "EXISTS (SELECT 1 FROM {table} AS root WHERE root.{key} = {id} \
             AND CAST(root.{key} AS TEXT) = {id} COLLATE BINARY)"
        )
    }

    /// Refuses a root row whose key is not a valid ID: without one, nobody can be notified. Bytes are not text, even in a
    /// text column.
    fn check_id(&self, key: &str) -> String {
        if !self.is_root() {
            return String::new();
        }
        let id = format!("CAST({key} AS TEXT)");
        let is_utf8 = is_utf8(&id);
        let message = literal(&format!(
            "nudge: the id of a {} must be 1 to {MAX_ENTITY_ID_BYTES} bytes of UTF-8 without control characters",
            self.entity
        ));
        format!(
            "SELECT RAISE(ABORT, {message}) WHERE {key} IS NULL OR typeof({key}) = 'blob' \
             OR length(CAST({id} AS BLOB)) NOT BETWEEN 1 AND {MAX_ENTITY_ID_BYTES} \
             OR instr({id}, char(0)) > 0 \
             OR {id} GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*' \
             OR NOT ({is_utf8}); "
        )
    }

    /// Records the entity that this key names.
    fn touch(&self, key: &str) -> String {
        let id = format!("CAST({key} AS TEXT)");
        let (entity, there) = (literal(self.entity.as_str()), self.exists(&id));
        let update = self.update(&format!("id = {id}"), &there);
        // Rows of a child may be inserted before their root, or stay when it is deleted: as long as nobody has
        // heard of the entity there is nothing to record. The root's own row is always recorded.
        let known = if self.is_root() { "true" } else { there.as_str() };
        format!(
            "{update}INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at) \
             SELECT {entity}, {id}, {NOW}, CASE WHEN {there} THEN 'created' ELSE 'deleted' END, \
             NOT {there}, {NOW} WHERE {key} IS NOT NULL AND {known} AND NOT EXISTS \
             (SELECT 1 FROM nudge_change_log WHERE entity = {entity} AND id = {id}); "
        )
    }

    /// Raises versions in the change log. `there` says whether the root rows exist.
    fn update(&self, which: &str, there: &str) -> String {
        let (entity, max) = (literal(self.entity.as_str()), VERSION_LIMIT - 1);
        let beyond =
            literal(&format!("nudge: the version of a {} would be beyond {max}", self.entity));
        format!(
            "UPDATE nudge_change_log SET version = CASE WHEN version >= {max} \
             THEN RAISE(ABORT, {beyond}) WHEN version >= {NOW} THEN version + 1 ELSE {NOW} END, \
             change = CASE WHEN NOT {there} THEN 'deleted' WHEN deleted = 1 THEN 'created' \
             WHEN change = 'created' AND version <> published_version THEN 'created' \
             ELSE 'updated' END, deleted = NOT {there}, changed_at = {NOW} \
             WHERE entity = {entity} AND {which}; "
        )
    }

    fn scope(&self) -> String {
        literal(&format!("{}{}", prefix(self.entity), self.number))
    }

    /// Notes the entities of rows that this statement may replace.
    fn look_for_replaced(&self, clashes: &[Vec<String>]) -> String {
        let (table, key, scope) = (quoted(&self.table.name), quoted(&self.table.key), self.scope());
        let mut body = format!("DELETE FROM nudge_replaced WHERE scope = {scope}; ");
        for columns in clashes {
            let same = |column: &String| format!("it.{0} = NEW.{0}", quoted(column));
            let same: Vec<_> = columns.iter().map(same).collect();
            body.push_str(&format!(
                "INSERT INTO nudge_replaced (scope, id) SELECT {scope}, CAST(it.{key} AS TEXT) \
                 FROM {table} AS it WHERE {} AND it.{key} IS NOT NEW.{key} COLLATE BINARY \
                 AND it.{key} IS NOT NULL; ",
                same.join(" AND ")
            ));
        }
        body
    }

    /// Records the noted entities and clears the notes. A root row that was not removed after all is skipped.
    fn touch_replaced(&self, any: bool) -> String {
        if !any {
            return String::new();
        }
        let (scope, there) = (self.scope(), self.exists("nudge_change_log.id"));
        let noted = format!("id IN (SELECT id FROM nudge_replaced WHERE scope = {scope})");
        let which = if self.is_root() { format!("{noted} AND NOT {there}") } else { noted };
        let update = self.update(&which, &there);
        format!("{update}DELETE FROM nudge_replaced WHERE scope = {scope}; ")
    }
}
