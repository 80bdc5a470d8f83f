//! What somebody writes into a service's own tables is found by comparing contents, and repaired.

use nudge_runtime::database::Kind;

use super::*;

/// Compares contents all the time, beside versions.
fn watchful() -> Settings {
    let mut settings = eager();
    settings.resync.contents_interval = Duration::from_millis(50);
    settings
}

/// The last pass over the contents that began from now on.
async fn passed(copy: &Copy) -> Value {
    let before = nudge_runtime::clock::now().to_string();
    eventually("all contents are compared", || async {
        let last = copy.status().await["resync"]["contents"]["last"].take();
        (last["began_at"].as_str()? > before.as_str()).then_some(last)
    })
    .await
}

/// Somebody edits the service's own tables, and nothing else: the versions remain equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_that_somebody_altered_deleted_or_added_are_found_and_repaired() {
    let world = World::start(THINGS, watchful()).await;
    let World { owner, copy, .. } = &world;
    owner.delete("t299").await;
    equal(copy, owner).await;
    for sql in [
        "UPDATE copy SET body = '{\"name\":\"somebody\"}' WHERE id IN ('t000', 't150')",
        "UPDATE copy SET version = 7 WHERE id = 't298'",
        "DELETE FROM copy WHERE id IN ('t001', 't255', 't256')",
        "INSERT INTO copy (id, version, body) VALUES ('t299', 7, '{}'), ('a stray', 7, '{}'), ('z', 7, '{}')",
    ] {
        alter(&copy.db, sql).await;
    }
    copy.converged(owner).await;
    let versions = versions(&copy.db, "SELECT id, version, 0 FROM copy").await;
    assert_ne!(versions["t298"].0, 7);
    // Altered ones may be found once more while they are being repaired.
    assert!(found(copy, "altered").await >= 7);
    assert!(found(copy, "stray").await >= 2);
    for kind in ["missing", "lagging", "ahead", "stale", "ghost"] {
        assert_eq!(found(copy, kind).await, 0, "{kind}");
    }
    // And that is all.
    passed(copy).await;
    let applied = copy.metric("nudge_applied_total").await;
    let pass = passed(copy).await;
    assert_eq!((&pass["altered"], &pass["strays"]), (&json!(0), &json!(0)), "{pass}");
    assert_eq!(copy.metric("nudge_applied_total").await, applied);
}

/// The pass over everything does not get there, so only the newest are looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_of_the_newest_are_compared_beside_everything() {
    let mut settings = eager();
    settings.resync.recent_interval = Duration::from_millis(100);
    settings.resync.newest_contents_interval = Duration::from_millis(100);
    let world = World::start(THINGS, settings).await;
    let World { owner, copy, .. } = &world;
    alter(&copy.db, "UPDATE copy SET body = '{}' WHERE id = 't150'").await;
    copy.converged(owner).await;
    assert!(found(copy, "altered").await >= 1);
    assert!(copy.status().await["resync"]["contents"]["last"].is_null());
}

/// What is read together with it is compared all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_that_cannot_be_read_count_as_altered() {
    let world = World::start(THINGS, watchful()).await;
    let World { owner, copy, .. } = &world;
    copy.unreadable("t150");
    alter(&copy.db, "UPDATE copy SET body = '{}' WHERE id IN ('t149', 't150')").await;
    copy.converged(owner).await;
    assert!(found(copy, "altered").await >= 2);
    let pass = passed(copy).await;
    assert!(pass["altered"] == 1 || pass["altered"] == 2, "{pass}");
}

#[derive(Serialize, Deserialize)]
struct Shown {
    name: String,
    #[serde(default)]
    tags: Vec<String>,
    rating: Option<f64>,
}

/// A mirror is read as it is, whatever somebody has written: JSON that is none, and text that is not even text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_edit_of_a_mirrors_table_is_found_and_repaired() {
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    let owner = Owner::start(&broker).await;
    filled(&owner, THINGS).await;
    owner.delete("t299").await;
    let database = TestDatabase::new().await;
    let db = database.open().await;
    let stop = CancellationToken::new();
    let mirror = || Mirror::<Shown>::table("mirrored").version("version").mark_deleted("deleted");
    let subscriber = Subscriber::builder("mirrors", &db, &broker)
        .follow(ENTITY, &owner.url(), mirror())
        .settings(watchful())
        .start(stop.clone())
        .await
        .unwrap();
    let rows = async || -> Vec<(String, String, Option<String>, i64, i64)> {
        let sql = "SELECT id, name, CAST(tags AS TEXT), version, deleted FROM mirrored ORDER BY id";
        sqlx::query_as(sql).fetch_all(db.reader()).await.unwrap_or_default()
    };
    let right = eventually("all are there", || async {
        let rows = rows().await;
        let gone = rows.last().is_some_and(|(.., deleted)| *deleted == 1);
        (rows.len() == THINGS && gone).then_some(rows)
    })
    .await;
    let mut edits = vec![
        "UPDATE mirrored SET name = name || '!' WHERE id = 't000'",
        "UPDATE mirrored SET tags = '[broken' WHERE id = 't001'",
        "UPDATE mirrored SET rating = 4.5 WHERE id = 't002'",
        "UPDATE mirrored SET version = version + 1 WHERE id = 't003'",
        "UPDATE mirrored SET deleted = 1 WHERE id = 't004'",
        "UPDATE mirrored SET deleted = 0 WHERE id = 't299'",
        "DELETE FROM mirrored WHERE id = 't005'",
        "INSERT INTO mirrored (id, name, tags, version, deleted) VALUES ('stray', 'x', '[]', 1, 0)",
    ];
    if db.kind() == Kind::Sqlite {
        edits.push("UPDATE mirrored SET name = x'ff00' WHERE id = 't006'");
        edits.push("UPDATE mirrored SET name = 7, tags = x'00' WHERE id = 't007'");
    }
    for sql in edits {
        alter(&db, sql).await;
    }
    let rating = "SELECT count(*) FROM mirrored WHERE rating IS NOT NULL";
    eventually("all are as they were", || async {
        eprintln!(
            "{:?}",
            rows().await.iter().zip(&right).filter(|(a, b)| a != b).collect::<Vec<_>>()
        );
        let (rated,): (i64,) = sqlx::query_as(rating).fetch_one(db.reader()).await.ok()?;
        let (stray, rest): (Vec<_>, Vec<_>) =
            rows().await.into_iter().partition(|(id, ..)| id == "stray");
        // Its owner gave it a tombstone, and the table keeps those.
        let (.., deleted) = stray.first()?;
        (rated == 0 && *deleted == 1 && rest == right).then_some(())
    })
    .await;
    stop.cancel();
    subscriber.stopped().await;
}

/// What the service refuses is a dead letter once, and waits for an operator like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_altered_and_refused_is_a_dead_letter_and_is_left_out_from_then_on() {
    let mut settings = watchful();
    settings.max_attempts_in_memory = 2;
    let world = World::start(THINGS, settings).await;
    let World { owner, copy, .. } = &world;
    copy.refuse(|id| (id == "t100").then(|| "it is refused".into()));
    alter(&copy.db, "UPDATE copy SET body = '{}' WHERE id = 't100'").await;
    let before = copy.dead_letters(1).await;
    for _ in 0..2 {
        let pass = passed(copy).await;
        let counts = ["compared", "left_out", "altered"].map(|count| pass[count].as_u64());
        assert_eq!(counts, [Some(THINGS as u64 - 1), Some(1), Some(0)], "{pass}");
    }
    assert_eq!(copy.dead_letters(1).await, before);
    copy.accept();
    owner.put("t100", json!({"name": "accepted"})).await;
    copy.converged(owner).await;
}

/// A replica marks what it has found, and is killed before that is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_marked_and_never_applied_again_is_applied_all_the_same() {
    let world = World::start(THINGS, watchful()).await;
    let World { owner, copy, .. } = &world;
    alter(&copy.db, "UPDATE nudge_applied SET revised_version = -1 WHERE id = 't100'").await;
    alter(&copy.db, "UPDATE copy SET body = '{}' WHERE id = 't100'").await;
    copy.converged(owner).await;
    let sql = "SELECT id, revised_version, 0 FROM nudge_applied WHERE revised_version < 0";
    eventually("nothing is marked", || async {
        versions(&copy.db, sql).await.is_empty().then_some(())
    })
    .await;
}

/// One entity for which the owner fails does not hide the others of its page, and is not taken for compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_for_which_the_owner_fails_is_left_out_alone() {
    let world = World::start(THINGS, watchful()).await;
    let World { owner, copy, .. } = &world;
    owner.misbehave(|ids| ids.iter().any(|id| id == "t100").then_some(Fault::Status(500, None)));
    alter(&copy.db, "UPDATE copy SET body = '{}' WHERE id = 't299'").await;
    copy.converged(owner).await;
    let pass = passed(copy).await;
    // Those that are asked for together with it cannot be told apart from it.
    let left_out = pass["left_out"].as_u64().unwrap();
    assert!((1..=32).contains(&left_out), "{pass}");
    assert_eq!(pass["compared"], THINGS as u64 - left_out);
    owner.behave();
    eventually("none is left out", || async {
        (passed(copy).await["left_out"] == 0).then_some(())
    })
    .await;
}

/// A table whose IDs have another order would hide edits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_another_order_than_bytewise_is_told_of() {
    let world = World::start(THINGS, watchful()).await;
    let World { owner, copy, .. } = &world;
    // Before all others bytewise, and behind them where case does not matter.
    owner.put("Z", json!({"name": "Z"})).await;
    copy.converged(owner).await;
    let collate = async |sqlite: &str, postgres: &str| {
        let statements = match copy.db.kind() {
            Kind::Postgres => {
                vec![format!("ALTER TABLE copy ALTER COLUMN id TYPE text COLLATE \"{postgres}\"")]
            }
            Kind::Sqlite => vec![
                format!(
                    "CREATE TABLE other (id TEXT COLLATE {sqlite} PRIMARY KEY, version BIGINT NOT NULL, \
                     body TEXT NOT NULL)"
                ),
                "INSERT INTO other SELECT * FROM copy".to_owned(),
                "DROP TABLE copy".to_owned(),
                "ALTER TABLE other RENAME TO copy".to_owned(),
            ],
        };
        // All at once: that there is no such table would be told of, too.
        let mut tx = copy.db.begin().await.unwrap();
        for sql in statements {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
    };
    let why_not = async || copy.status().await["resync"]["contents"]["waits_for"].take();
    collate("NOCASE", "und-x-icu").await;
    let why = eventually("it says why it cannot compare", || async {
        why_not().await.as_str().map(str::to_owned)
    })
    .await;
    assert!(why.contains("\"Z\"") && why.contains("COLLATE \"C\""), "{why}");
    collate("BINARY", "C").await;
    eventually("it compares", || async { why_not().await.is_null().then_some(()) }).await;
    assert_eq!(passed(copy).await["left_out"], 0);
}

/// An owner without tombstones gives none to a row that it never had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stray_row_is_removed_also_if_the_owner_keeps_no_tombstones() {
    let nats = Nats::start().await;
    let broker = nats.broker("things").await;
    let owner = Owner::start(&broker).await;
    filled(&owner, 20).await;
    let database = TestDatabase::new().await;
    let db = database.open().await;
    let stop = CancellationToken::new();
    let mut settings = watchful();
    settings.resync.confirm_after = Duration::from_millis(20);
    let client =
        OnlyItems(HttpOwner::new(&owner.url(), &settings, &Credentials::default()).unwrap());
    let subscriber = Subscriber::builder("mirrors", &db, &broker)
        .follow_with(ENTITY, std::sync::Arc::new(client), Mirror::<Thing>::table("mirrored"))
        .owner_keeps_no_tombstones(ENTITY)
        .settings(settings)
        .start(stop.clone())
        .await
        .unwrap();
    let count = || async {
        let row: Option<(i64,)> =
            sqlx::query_as("SELECT count(*) FROM mirrored").fetch_one(db.reader()).await.ok();
        row.map(|(count,)| count)
    };
    let all = || eventually("all are there", || async { (count().await? == 20).then_some(()) });
    all().await;
    alter(&db, "INSERT INTO mirrored (id, name) VALUES ('a stray', 'x'), ('z', 'x')").await;
    all().await;
    stop.cancel();
    subscriber.stopped().await;
}
