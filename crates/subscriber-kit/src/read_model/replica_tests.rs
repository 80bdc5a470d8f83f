use nudge_protocol::{EntityId, Version};
use nudge_runtime::database::Kind;
use nudge_testbed::TestDatabase;

use super::*;
use crate::read_model::{position::Positions, tables::MIGRATIONS};

const STREAM: &str = "a stream";

/// A replica with what it remembers, on a database that others use, too.
struct Trial {
    db: Database,
    positions: Positions,
    replica: Replica,
    recent: Recent,
}

impl Trial {
    async fn on(database: &TestDatabase) -> Self {
        let (db, entity) = (database.open().await, EntityName::new("store").unwrap());
        db.migrate("subscriber-kit", MIGRATIONS).await.unwrap();
        let positions = Positions::new(db.clone(), entity.clone());
        let replica = Replica::new(db.clone(), entity.clone());
        let recent = Recent::new(db.clone(), entity);
        Self { db, positions, replica, recent }
    }

    async fn joins(&self) -> Mark {
        let found = self.positions.load().await.unwrap();
        let handled = found.position;
        self.joins_again(found, handled, handled).await.expect("as it was found")
    }

    async fn joins_again(&self, found: Position, handled: u64, again: u64) -> Option<Mark> {
        self.replica.join(found, STREAM, handled, again).await.unwrap()
    }

    async fn looks(&self, mark: &mut Mark, floor: impl Into<Option<u64>>) -> Looked {
        self.looks_at(Instant::now(), mark, floor).await
    }

    async fn looks_at(
        &self,
        at: Instant,
        mark: &mut Mark,
        floor: impl Into<Option<u64>>,
    ) -> Looked {
        let applied = self.recent.so_far();
        self.replica.look(mark, floor.into(), &self.recent, &applied, at).await.unwrap()
    }

    async fn position(&self) -> u64 {
        self.positions.load().await.unwrap().position
    }

    async fn write(&self, sql: &'static str) {
        self.db.write(sqlx::query(sql)).await.unwrap();
    }
}

async fn each_kind(test: impl AsyncFn(&TestDatabase)) {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        test(&TestDatabase::of(kind).await).await;
    }
}

#[tokio::test]
async fn the_position_is_the_least_that_every_replica_has_recorded() {
    each_kind(async |database| {
        let (one, other) = (Trial::on(database).await, Trial::on(database).await);
        let (mut ones, mut others) = (one.joins().await, other.joins().await);
        assert_eq!(one.looks(&mut ones, 102).await, Looked::Moved);
        assert_eq!(one.position().await, 0, "the other may hold some of it");
        assert_eq!(other.looks(&mut others, 50).await, Looked::Moved);
        assert_eq!(one.position().await, 50);
        assert_eq!(other.looks(&mut others, None).await, Looked::Same, "while it reads again");
        assert_eq!(one.looks(&mut ones, 103).await, Looked::Moved);
        assert_eq!(one.position().await, 50);
        other.looks(&mut others, 103).await;
        assert_eq!(one.position().await, 103);
        assert_eq!(one.looks(&mut ones, 103).await, Looked::Same);
    })
    .await;
}

/// The other has not looked in between, and would find nothing amiss.
#[tokio::test]
async fn a_replica_cannot_hide_from_another_that_what_it_had_recorded_was_put_back() {
    each_kind(async |database| {
        let (one, other) = (Trial::on(database).await, Trial::on(database).await);
        let (mut ones, mut others) = (one.joins().await, other.joins().await);
        one.looks(&mut ones, 50).await;
        other.looks(&mut others, 50).await;
        one.write("CREATE TABLE kept AS SELECT * FROM nudge_intake_replica").await;
        one.looks(&mut ones, 102).await;
        one.write("DELETE FROM nudge_intake_replica").await;
        one.write("INSERT INTO nudge_intake_replica SELECT * FROM kept").await;
        assert_eq!(other.looks(&mut others, 103).await, Looked::Moved);
        assert_eq!(one.looks(&mut ones, 103).await, Looked::Lost);
        assert_eq!(one.joins().await.own, 50, "from where it reads again");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_any_more_is_not_recorded() {
    each_kind(async |database| {
        let one = Trial::on(database).await;
        let mut mark = one.joins().await;
        one.looks(&mut mark, 50).await;
        let id = EntityId::new("a").unwrap();
        one.recent.note([(id, Version::new(1).unwrap())].into_iter());
        for floor in [Some(51), Some(50), None] {
            assert_eq!(one.looks(&mut mark, floor).await, Looked::Lost, "{floor:?}");
            assert_eq!(one.position().await, 50);
        }
        // It goes on from where it was.
        one.recent.forget(&one.recent.so_far());
        let mut mark = one.joins().await;
        assert_eq!(one.looks(&mut mark, 51).await, Looked::Moved);
        for sql in [
            "UPDATE nudge_intake SET position = 50",
            "UPDATE nudge_intake SET stream_created = 'another'",
            "UPDATE nudge_intake SET consumer = 'another'",
            "DELETE FROM nudge_intake_replica",
            "DELETE FROM nudge_intake",
            // As PostgreSQL does after a crash; and another replica was the first to notice.
            "DELETE FROM nudge_epoch",
            "UPDATE nudge_epoch SET epoch = 'another'",
        ] {
            one.write(sql).await;
            assert_eq!(one.looks(&mut mark, 51).await, Looked::Lost, "{sql}");
            assert_eq!(one.looks(&mut mark, 52).await, Looked::Lost, "{sql}");
            mark = one.joins().await;
            one.looks(&mut mark, 51).await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_finds_another_row_than_it_had_read_does_not_join() {
    each_kind(async |database| {
        let one = Trial::on(database).await;
        let mut mark = one.joins().await;
        one.looks(&mut mark, 50).await;
        let found = one.positions.load().await.unwrap();
        one.write("UPDATE nudge_intake SET position = 20").await;
        assert!(one.joins_again(found, 50, 50).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn what_a_replica_held_back_is_held_by_the_one_that_takes_over() {
    let database = TestDatabase::of(Kind::Sqlite).await;
    let (gone, slow, one) =
        (Trial::on(&database).await, Trial::on(&database).await, Trial::on(&database).await);
    let (_, mut slows, mut ones) = (gone.joins().await, slow.joins().await, one.joins().await);
    let (start, mut looked) = (Instant::now(), Vec::new());
    for second in 0..=11 {
        // It reads much again, and says so.
        assert_eq!(slow.looks(&mut slows, None).await, Looked::Same);
        looked.push(one.looks_at(start + Duration::from_secs(second), &mut ones, 60).await);
    }
    assert_eq!(looked[0], Looked::Moved);
    assert!(looked[1..10].iter().all(|looked| *looked == Looked::Same), "{looked:?}");
    assert_eq!(looked[10], Looked::Gone, "{looked:?}");
    slow.looks(&mut slows, 60).await;
    assert_eq!(one.position().await, 0, "it is read again first");
    let mut ones = one.joins().await;
    one.looks(&mut ones, 60).await;
    assert_eq!(one.position().await, 60);
}

#[tokio::test]
async fn a_replica_that_leaves_holds_nothing_back_unless_it_owes_something() {
    each_kind(async |database| {
        let (one, other) = (Trial::on(database).await, Trial::on(database).await);
        let (mut ones, mut others) = (one.joins().await, other.joins().await);
        one.looks(&mut ones, 60).await;
        other.looks(&mut others, None).await;
        other.replica.leave().await.unwrap();
        one.looks(&mut ones, 61).await;
        assert_eq!(one.position().await, 0, "what it had to read again is not read");
        other.looks(&mut others, 60).await;
        other.replica.leave().await.unwrap();
        one.looks(&mut ones, 62).await;
        assert_eq!(one.position().await, 62);
    })
    .await;
}

/// The broker lost what it had acknowledged, and uses those sequences again.
#[tokio::test]
async fn a_position_that_went_back_with_the_broker_is_the_one_that_the_next_session_finds() {
    each_kind(async |database| {
        let one = Trial::on(database).await;
        let mut mark = one.joins().await;
        one.looks(&mut mark, 10).await;
        let found = one.positions.load().await.unwrap();
        one.positions.go_back(&found, 4).await.unwrap();
        let mut mark = one.joins().await;
        // From there on it is recorded as ever, and never moved on by going back.
        assert_eq!(one.looks(&mut mark, 5).await, Looked::Moved);
        let found = one.positions.load().await.unwrap();
        one.positions.go_back(&found, 9).await.unwrap();
        assert_eq!(one.position().await, 5);
    })
    .await;
}

/// As of those that ran when a backup was made that is restored, or before a crash.
#[tokio::test]
async fn what_one_replica_has_read_again_no_other_holds_back() {
    each_kind(async |database| {
        let (gone, one) = (Trial::on(database).await, Trial::on(database).await);
        let mut gones = gone.joins().await;
        gone.looks(&mut gones, 50).await;
        let found = one.positions.load().await.unwrap();
        let mut ones = one.joins_again(found, 50, 900).await.expect("as it was found");
        one.looks(&mut ones, None).await;
        assert_eq!(one.position().await, 50, "it is still reading");
        assert_eq!(one.looks(&mut ones, 1_000).await, Looked::Moved);
        assert_eq!(one.position().await, 900);
        one.looks(&mut ones, 1_100).await;
        assert_eq!(one.position().await, 900, "the other may have been given more since");
        // It was only slow.
        assert_eq!(gone.looks(&mut gones, 1_100).await, Looked::Moved);
        assert_eq!(one.position().await, 1_100);
    })
    .await;
}
