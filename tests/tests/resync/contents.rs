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

/// Asks for everything to be compared, and applied again.
async fn ask_in_full(copy: &Copy) {
    let body = json!({"entity": ENTITY, "full": true});
    let request = reqwest::Client::new().post(copy.admin("resync")).json(&body);
    assert_eq!(request.send().await.unwrap().status(), 202);
}

/// The last comparison, if everything was applied again with it.
async fn ended_in_full(copy: &Copy) -> Value {
    eventually("everything is applied again", || async {
        let last = copy.status().await["resync"]["last"].take();
        (last["full"] == true).then_some(last)
    })
    .await
}

/// Even what a service does not say how to read is right afterwards; and it goes on after a restart in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_applied_again_if_an_operator_wants_it_even_across_a_restart() {
    let World { nats: _nats, broker, owner, copy, .. } = World::start(THINGS, eager()).await;
    owner.delete("t299").await;
    equal(&copy, &owner).await;
    let applied = copy.applied().len();
    alter(&copy.db, "UPDATE copy SET body = '{}' WHERE id IN ('t000', 't150')").await;
    alter(&copy.db, "DELETE FROM copy WHERE id = 't298'").await;
    alter(&copy.db, "INSERT INTO copy (id, version, body) VALUES ('t299', 7, '{}')").await;
    swept(&copy).await;
    // By versions alone, nothing differs.
    assert_eq!(copy.applied().len(), applied);

    let hold = copy.hold();
    ask_in_full(&copy).await;
    eventually("it has begun", || async { hold.begun().then_some(()) }).await;
    copy.begin_to_stop();
    hold.end();
    let copy = copy.restart(&broker, &owner).await;
    let last = ended_in_full(&copy).await;
    assert_eq!(last["compared"], THINGS);
    copy.converged(&owner).await;
    let applied = copy.applied().split_off(applied);
    let ids: std::collections::BTreeSet<_> = applied.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), THINGS);
    // The next comparison is an ordinary one.
    let ordinary = swept(&copy).await;
    assert_eq!(
        (&ordinary["full"], ordinary["differences"]["lagging"].as_u64()),
        (&json!(false), Some(0))
    );
    copy.stop().await;
}

/// What the owner cannot answer for is parked and does not hold up the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_that_cannot_be_applied_again_does_not_hold_up_the_rest() {
    let mut settings = eager();
    settings.max_attempts_in_memory = 2;
    let world = World::start(THINGS, settings).await;
    let World { owner, copy, .. } = &world;
    copy.refuse(|id| (id == "t100").then(|| "it is refused".into()));
    ask_in_full(copy).await;
    ended_in_full(copy).await;
    assert_eq!(copy.dead_letters(1).await[0]["id"], "t100");
    copy.accept();
    copy.converged(owner).await;
}
