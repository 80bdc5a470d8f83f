//! A database of shops with their menus and tags, edited without a publisher.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use nudge_protocol::EntityName;
use nudge_publisher::{
    Capturing, Publisher, Recording,
    capture::{CaptureError, Tables},
};
use nudge_runtime::{Database, database::Kind};
use nudge_tests::{TestDatabase, database};

/// The key of a menu includes its shop, and menus are deleted with it. A tag has its own key and may belong to no shop.
const SHOPS: &str = "
    CREATE TABLE shop (id TEXT NOT NULL PRIMARY KEY, name TEXT, code TEXT UNIQUE);
    CREATE TABLE menu (
        shop_id TEXT NOT NULL REFERENCES shop (id) ON DELETE CASCADE ON UPDATE CASCADE,
        position BIGINT NOT NULL,
        name TEXT,
        PRIMARY KEY (shop_id, position)
    );
    CREATE TABLE tag (number INTEGER PRIMARY KEY, shop_id TEXT, word TEXT);";

pub(crate) const INSERT_ABC: &str =
    "INSERT INTO shop VALUES ('a', 'A', 'code-a'), ('b', 'B', 'code-b'), ('c', 'C', 'code-c')";

/// What a relay would say: until then, what was created stays "created" when it changes.
pub(crate) const PUBLISHED: &str = "UPDATE nudge_change_log SET published_version = version";

pub(crate) fn tables() -> Tables {
    Tables::root("shop", "id").child("menu", "shop_id").child("tag", "shop_id")
}

/// A row of the change log: version, change, deleted.
pub(crate) type Row = (i64, String, bool);

/// A database of shops; `M` says whether [`publisher`](Self::publisher) captures them.
pub(crate) struct Shops<M = Capturing> {
    pub(crate) database: Arc<TestDatabase>,
    pub(crate) db: Database,
    pub(crate) publisher: Publisher<M>,
}

impl Shops {
    /// Empty tables, captured.
    pub(crate) async fn new() -> Self {
        Self::of(database::kind()).await
    }

    pub(crate) async fn of(kind: Kind) -> Self {
        Shops::unseen_on(TestDatabase::of(kind).await).await.captured().await
    }
}

impl Shops<Recording> {
    /// The same shops, captured.
    pub(crate) async fn captured(self) -> Shops {
        let publisher = self.capture(&tables()).await.unwrap();
        Shops { publisher, database: self.database, db: self.db }
    }

    /// Tables that are not captured yet.
    pub(crate) async fn uncaptured(database: TestDatabase, tables: &str) -> Self {
        database::execute(database.url(), tables).await;
        Self::open(Arc::new(database)).await
    }

    async fn open(database: Arc<TestDatabase>) -> Self {
        let db = database.open_as_owner().await;
        let entity = EntityName::new("shop").unwrap();
        let publisher = Publisher::open(&db, entity).await.unwrap();
        Self { database, db, publisher }
    }

    /// A database like that of [`new`](Self::new), not yet captured.
    pub(crate) async fn unseen() -> Self {
        Self::unseen_on(TestDatabase::new().await).await
    }

    /// Like [`unseen`](Self::unseen), in this database.
    pub(crate) async fn unseen_on(database: TestDatabase) -> Self {
        Self::uncaptured(database, SHOPS).await
    }
}

impl<M> Shops<M> {
    /// The same shops for another replica, with its own connections. This does not install triggers.
    pub(crate) async fn opened_again(&self) -> Shops<Recording> {
        Shops::open(self.database.clone()).await
    }

    /// Installs the triggers, as each start does.
    pub(crate) async fn capture(
        &self,
        tables: &Tables,
    ) -> Result<Publisher<Capturing>, CaptureError> {
        let publisher = Publisher::open(&self.db, self.publisher.entity().clone()).await.unwrap();
        publisher.capture(tables).await
    }

    /// Runs statements as a program that knows nothing of publishers would.
    pub(crate) async fn run(&self, sql: &str) {
        database::execute(self.database.url(), sql).await;
    }

    /// Like [`run`](Self::run), for statements that the database refuses. Returns its error.
    pub(crate) async fn refused(&self, sql: &str) -> String {
        let done = database::try_execute(self.database.url(), sql).await;
        done.expect_err("it must be refused").to_string()
    }

    pub(crate) async fn log(&self) -> BTreeMap<String, Row> {
        let sql = "SELECT id, version, change, deleted FROM nudge_change_log WHERE entity = 'shop'";
        let rows: Vec<(String, i64, String, i64)> =
            sqlx::query_as(sql).fetch_all(self.db.reader()).await.unwrap();
        let row = |(id, version, change, deleted)| (id, (version, change, deleted == 1));
        rows.into_iter().map(row).collect()
    }

    /// Runs these statements and returns what they recorded: each entity whose version rose, and its change.
    pub(crate) async fn recorded(&self, sql: &str) -> Vec<(String, String)> {
        let before = self.log().await;
        self.run(sql).await;
        self.risen(&before).await
    }

    /// The change log and the IDs of the shops, from one snapshot, since a replication may be writing.
    async fn log_and_ids(&self) -> (BTreeMap<String, Row>, HashSet<String>) {
        loop {
            let before = self.ids().await;
            let log = self.log().await;
            if self.ids().await == before {
                return (log, before);
            }
        }
    }

    /// What was recorded since. Also asserts that no version fell, that nothing left the change log, and that exactly
    /// those entities are deleted that have no root row.
    pub(crate) async fn risen(&self, before: &BTreeMap<String, Row>) -> Vec<(String, String)> {
        let (after, there) = self.log_and_ids().await;
        for (id, (version, ..)) in before {
            assert!(after.get(id).is_some_and(|(now, ..)| now >= version), "{id} went back");
        }
        for (id, (_, change, deleted)) in &after {
            assert_eq!(*deleted, !there.contains(id), "{id}");
            assert_eq!(*deleted, change == "deleted", "{id}: {change}");
        }
        assert!(there.iter().all(|id| after.contains_key(id)), "{there:?} {after:?}");
        let rose = |id: &String, row: &Row| before.get(id).is_none_or(|old| old.0 < row.0);
        let rows = after.into_iter().filter(|(id, row)| rose(id, row));
        rows.map(|(id, (_, change, _))| (id, change)).collect()
    }

    async fn ids(&self) -> HashSet<String> {
        let sql = "SELECT CAST(id AS TEXT) FROM shop";
        let rows: Vec<(String,)> = sqlx::query_as(sql).fetch_all(self.db.reader()).await.unwrap();
        rows.into_iter().map(|(id,)| id).collect()
    }

    /// The state of each shop that a subscriber would get: its row and everything that belongs to it.
    pub(crate) async fn states(&self) -> BTreeMap<String, String> {
        let mut states = BTreeMap::new();
        for sql in [
            "SELECT id, COALESCE(name, 'null') || '/' || COALESCE(code, 'null') FROM shop ORDER BY id",
            "SELECT shop_id, position || '/' || COALESCE(name, 'null') FROM menu ORDER BY shop_id, position",
            "SELECT shop_id, number || '/' || COALESCE(word, 'null') FROM tag WHERE shop_id IS NOT NULL ORDER BY number",
        ] {
            let rows: Vec<(String, String)> =
                sqlx::query_as(sql).fetch_all(self.db.reader()).await.unwrap();
            for (id, text) in rows {
                let state: &mut String = states.entry(id).or_default();
                state.push_str(&text);
                state.push(';');
            }
        }
        let there = self.ids().await;
        states.retain(|id, _| there.contains(id));
        states
    }
}

/// The expected result of [`Shops::recorded`].
pub(crate) fn changes(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(id, change)| ((*id).to_owned(), (*change).to_owned())).collect()
}
