//! How much the databases work for each statement that is run again and again, whatever the size of the log.
//!
//! SQLite's `EXPLAIN QUERY PLAN` does not say it: of two bounds of one column, SQLite seeks by one and filters by the other,
//! and a plan that reads the whole index looks like one that reads three rows. So the steps of its virtual machine are
//! counted. PostgreSQL says what it would do for any parameters.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use nudge_protocol::EntityName;
use nudge_runtime::{
    Database,
    database::{Durability, Kind},
    set_sql::read_lines,
};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use super::{ChangeLog, MIGRATIONS, outbox, repair::Which};

/// Rows of the log, each published, by increasing sequence.
const ROWS: i64 = 5_000;
/// Steps that finding a few rows takes at most. A scan takes several for each row.
const FEW: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
enum Bind {
    Text(&'static str),
    Int(i64),
}
use Bind::{Int, Text};

impl Bind {
    fn sql(&self) -> String {
        match self {
            Text(text) => format!("'{text}'"),
            Int(int) => int.to_string(),
        }
    }
}

struct Log {
    statements: ChangeLog,
    connection: SqliteConnection,
    steps: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

impl Log {
    async fn new(analyzed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("log.db").display());
        let db = Database::open(&url, Durability::Refillable).await.unwrap();
        db.migrate("publisher", MIGRATIONS).await.unwrap();
        let fill = format!(
            "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at, published_version, \
             published_seq) WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS}) \
             SELECT 'store', 's' || (n * 7919 % 10007), n, 'updated', 0, 0, n, n FROM n"
        );
        db.write(sqlx::query(AssertSqlSafe(fill))).await.unwrap();
        if analyzed {
            db.write(sqlx::query("ANALYZE")).await.unwrap();
        }
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        // Reads the schema, which is not to be counted.
        sqlx::query("SELECT 1 FROM nudge_change_log").fetch_one(&mut connection).await.unwrap();
        let steps = Arc::new(AtomicU64::new(0));
        let counted = steps.clone();
        connection.lock_handle().await.unwrap().set_progress_handler(1, move || {
            counted.fetch_add(1, Relaxed);
            true
        });
        let statements = ChangeLog::new(db, EntityName::new("store").unwrap());
        Self { statements, connection, steps, _dir: dir }
    }

    /// How many rows it returns, also as one text, and the steps that takes.
    async fn run(&mut self, sql: &str, binds: &[Bind]) -> (usize, u64) {
        let before = self.steps.load(Relaxed);
        let mut query = sqlx::query(AssertSqlSafe(sql.to_owned())).bind("store");
        for bind in binds {
            query = match *bind {
                Text(text) => query.bind(text),
                Int(int) => query.bind(int),
            };
        }
        let fetched = query.fetch_all(&mut self.connection).await.unwrap();
        let rows = match sql.starts_with("SELECT COALESCE(group_concat(") {
            true => read_lines(&fetched[0].get::<String, _>(0)).count(),
            false => fetched.len(),
        };
        (rows, self.steps.load(Relaxed) - before)
    }
}

/// What is run twice a second, for each request of a subscriber, or for each batch that is published: the statement, its
/// parameters after the entity, and how many rows it returns on SQLite.
fn repeated(log: &ChangeLog) -> Vec<(String, Vec<Bind>, usize)> {
    let sql = &log.sql;
    let published =
        Text(r#"[{"id":"s7919","version":1,"seq":90000},{"id":"s5831","version":2,"seq":90001}]"#);
    let near_the_end = Int(ROWS - 3);
    let cases: [(&str, &[Bind], usize); 15] = [
        (&sql.recorded, &[Text(r#"["s7919"]"#)], 1),
        (&sql.page, &[Text(""), Int(10), Int(0)], 10),
        (&sql.outbox.newest, &[Int(100), Text("[]")], 0),
        (&sql.outbox.oldest, &[Int(100), Text("[]")], 0),
        (&sql.outbox.behind, &[published], 2),
        (&sql.outbox.kept, &[published], 1),
        (&sql.outbox.mark, &[published, Text("a server")], 0),
        (outbox::COUNT_PENDING, &[], 1),
        (outbox::HIGHEST_PLACE, &[], 1),
        (outbox::LAST, &[Int(3)], 3),
        (&sql.digest.beyond, &[Int(10_000), near_the_end], 5),
        (&sql.digest.pending, &[Int(10_000)], 0),
        (&sql.digest.recent, &[Int(10), near_the_end], 10),
        (&sql.never_existed.count, &[], 1),
        (&sql.never_existed.page, &[Text(""), Int(100)], 0),
    ];
    cases.map(|(sql, binds, rows)| (sql.to_owned(), binds.to_vec(), rows)).into()
}

#[tokio::test]
async fn what_is_run_again_and_again_does_not_read_the_whole_log() {
    // Statistics, which an operator may let SQLite collect, change its plans.
    for analyzed in [false, true] {
        let mut log = Log::new(analyzed).await;
        let mut cases = repeated(&log.statements);
        let beyond = Which::Beyond.unpublish(Kind::Sqlite);
        cases.push((beyond, vec![Int(ROWS - 3), Int(ROWS)], 0));
        for (sql, binds, expected) in cases {
            let (rows, steps) = log.run(&sql, &binds).await;
            assert_eq!(rows, expected, "{sql}");
            assert!(steps < FEW, "{steps} steps: {sql}");
        }
        // The counter does see a scan.
        let scan = "SELECT count(*) FROM nudge_change_log WHERE change = $1";
        let (_, steps) = log.run(scan, &[]).await;
        assert!(steps > FEW, "{steps} steps for a scan");
    }
}

mod once {
    use nudge_runtime::Tx;
    use nudge_testbed::TestDatabase;

    use super::*;

    /// Statistics come a minute after the rows at best, and a plan that is kept may be that of an empty log.
    #[tokio::test]
    async fn a_log_that_was_filled_a_moment_ago_is_read_by_key() {
        let database = TestDatabase::of(Kind::Postgres).await;
        let db = database.open().await;
        db.migrate("publisher", MIGRATIONS).await.unwrap();
        let log = ChangeLog::new(db.clone(), EntityName::new("store").unwrap());
        let outbox = &log.sql.outbox;
        let published = r#"'store', '[{"id":"s7","version":7,"seq":90000}]'"#;
        let marked = format!("{published}, 'a server'");
        let statements = [
            (&log.sql.recorded, r#"'store', '["s7"]'"#),
            (&outbox.kept, published),
            (&outbox.behind, published),
            (&outbox.mark, &*marked),
        ];
        let mut tx = db.begin().await.unwrap();
        for (number, (sql, values)) in statements.iter().enumerate() {
            let prepare = format!("PREPARE few{number} AS {sql}");
            sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *tx).await.unwrap();
            for _ in 0..10 {
                let execute = format!("EXECUTE few{number} ({values})");
                sqlx::raw_sql(AssertSqlSafe(execute)).execute(&mut *tx).await.unwrap();
            }
        }
        // In the same transaction, so that nobody analyzes it.
        let fill = format!(
            "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at) \
             SELECT 'store', 's' || n, n, 'updated', 0, 0 FROM generate_series(1, {}) AS n",
            ROWS * 10
        );
        sqlx::query(AssertSqlSafe(fill)).execute(&mut *tx).await.unwrap();
        for (number, (sql, values)) in statements.iter().enumerate() {
            let plan = plan(&mut tx, format!("few{number} ({values})")).await;
            let of_log = |lines: &&[String]| lines[0].contains("nudge_change_log_pkey");
            let found: Vec<_> = plan.windows(2).filter(of_log).collect();
            let by_key = found.iter().filter(|lines| lines[1].contains("(id = ")).count();
            let scans = plan.iter().filter(|line| line.contains("Seq Scan on nudge_change_log"));
            assert_eq!(scans.count(), 0, "{sql}\n{}", plan.join("\n"));
            assert_eq!(by_key, 1, "{}", plan.join("\n"));
            let by_place = plan.iter().any(|line| line.contains("Tid Scan on nudge_change_log"));
            assert_eq!(by_place, sql.contains("UPDATE"), "{}", plan.join("\n"));
            assert_eq!(by_key, found.len(), "{sql}\n{}", plan.join("\n"));
        }
    }

    /// A row that was pending stays in the index until PostgreSQL cleans up.
    #[tokio::test]
    async fn what_was_pending_a_moment_ago_is_passed_over_in_the_order_of_the_index() {
        let database = TestDatabase::of(Kind::Postgres).await;
        let db = database.open().await;
        db.migrate("publisher", MIGRATIONS).await.unwrap();
        let fill = format!(
            "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at) \
             SELECT 'store', 's' || n, n, 'updated', 0, 0 FROM generate_series(1, {}) AS n",
            ROWS * 10
        );
        db.write(sqlx::query(AssertSqlSafe(fill))).await.unwrap();
        let mark =
            "UPDATE nudge_change_log SET published_version = version, published_seq = version";
        db.write(sqlx::query(mark)).await.unwrap();
        let log = ChangeLog::new(db.clone(), EntityName::new("store").unwrap());
        let mut tx = db.begin_in_order().await.unwrap();
        for (number, (sql, values, index)) in [
            (&*log.sql.outbox.newest, "'store', 1001, '[]'", "nudge_change_log_pending"),
            (&*log.sql.outbox.oldest, "'store', 1000, '[]'", "nudge_change_log_pending"),
            (outbox::LAST, "'store', 1", "nudge_change_log_place"),
        ]
        .into_iter()
        .enumerate()
        {
            let prepare = format!("PREPARE in_order{number} AS {sql}");
            sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *tx).await.unwrap();
            let plan = plan(&mut tx, format!("in_order{number} ({values})")).await.join("\n");
            assert!(plan.contains("Index Scan") && plan.contains(index), "{plan}");
            assert!(!plan.contains("Bitmap") && !plan.contains("Sort"), "{plan}");
        }
    }

    #[tokio::test]
    async fn whatever_is_asked_postgres_does_not_read_the_whole_log() {
        let database = TestDatabase::of(Kind::Postgres).await;
        let db = database.open().await;
        db.migrate("publisher", MIGRATIONS).await.unwrap();
        let fill = format!(
            "INSERT INTO nudge_change_log (entity, id, version, change, deleted, changed_at, published_version, \
             published_seq) SELECT 'store', 's' || n, n, 'updated', 0, 0, n, n FROM generate_series(1, {}) AS n",
            ROWS * 10
        );
        db.write(sqlx::query(AssertSqlSafe(fill))).await.unwrap();
        db.write(sqlx::query("ANALYZE")).await.unwrap();
        let log = ChangeLog::new(db.clone(), EntityName::new("store").unwrap());
        let mut tx = db.begin().await.unwrap();
        let mut cases = repeated(&log);
        let scan = "SELECT count(*) FROM nudge_change_log WHERE change = $1";
        cases.push((scan.to_owned(), vec![], 1));
        let last = cases.len() - 1;
        // For these parameters, as our sessions plan, and for any.
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let set = format!("SET plan_cache_mode = {mode}");
            sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut *tx).await.unwrap();
            for (number, (sql, binds, _)) in cases.iter().enumerate() {
                let prepare = format!("PREPARE {mode}_{number} AS {sql}");
                sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *tx).await.unwrap();
                let values: Vec<_> = [Text("store")].iter().chain(binds).map(Bind::sql).collect();
                let plan = plan(&mut tx, format!("{mode}_{number} ({})", values.join(", "))).await;
                let scans = plan.iter().any(|line| line.contains("Seq Scan on nudge_change_log"));
                assert_eq!(scans, number == last, "{mode}: {sql}\n{}", plan.join("\n"));
            }
        }
    }

    /// How PostgreSQL would run this prepared statement.
    async fn plan(tx: &mut Tx, statement: String) -> Vec<String> {
        let explain = format!("EXPLAIN EXECUTE {statement}");
        let lines: Vec<(String,)> =
            sqlx::query_as(AssertSqlSafe(explain)).fetch_all(&mut **tx).await.unwrap();
        lines.into_iter().map(|(line,)| line).collect()
    }
}
