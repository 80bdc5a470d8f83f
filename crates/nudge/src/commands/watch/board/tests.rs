use nudge_protocol::{EntityId, EntityName};

use super::*;

const SEARCH: usize = 0;
const REVIEW: usize = 1;

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_unix_micros(1_767_225_600_000_000 + (seconds * 1e6) as i64)
}

fn key(id: &str) -> Key {
    (EntityName::new("store").unwrap(), EntityId::new(id).unwrap())
}

fn event(kind: EventKind, id: &str, version: Option<u64>, lag: Option<f64>) -> Event {
    let (entity, id) = key(id);
    let version = version.map(|number| Version::new(number).unwrap());
    let at = Some(at(0.0));
    Event { kind, entity, id, version, lag_seconds: lag, deleted: None, at, detail: None }
}

/// A board of two subscribers that knows every name at once.
fn board() -> Board {
    Board::new(2)
}

fn take(board: &mut Board, who: usize, kind: EventKind, version: u64) {
    let lag = (kind == EventKind::Applied).then_some(0.002);
    if let Some(key) = board.take(who, &event(kind, "42", Some(version), lag), at(0.0)) {
        board.describe(&Description {
            key,
            name: Some("달빛".into()),
            deleted: false,
            version: None,
            changed_at: None,
        });
    }
}

#[test]
fn a_change_is_one_row_told_when_both_have_applied_it() {
    let mut board = board();
    for who in [SEARCH, REVIEW] {
        for kind in [EventKind::Received, EventKind::Fetched] {
            take(&mut board, who, kind, 7);
            assert!(board.due(at(0.1)).is_empty());
        }
    }
    take(&mut board, SEARCH, EventKind::Applied, 7);
    assert_eq!(board.live().count(), 1);
    take(&mut board, REVIEW, EventKind::Applied, 7);
    let rows = board.due(at(0.1));
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].name.as_deref(), Some("달빛"));
    assert_eq!(rows[0].steps, [2.0, 2.0].map(|ms| Step::Applied { lag_ms: Some(ms) }));
    assert_eq!(rows[0].committed_at, Some(at(-0.002)));
    assert_eq!((board.changes, board.live().count()), (1, 0));
}

#[test]
fn an_older_change_is_overtaken_by_a_newer_one() {
    let mut board = board();
    take(&mut board, SEARCH, EventKind::Received, 7);
    take(&mut board, SEARCH, EventKind::Received, 8);
    // The callback answered with the newer state, so version 7 is never applied.
    take(&mut board, SEARCH, EventKind::Applied, 8);
    take(&mut board, REVIEW, EventKind::Applied, 7);
    take(&mut board, REVIEW, EventKind::Applied, 8);
    let rows = board.due(at(0.1));
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].steps[SEARCH], Step::Overtaken { by: Version::new(8).unwrap() });
    assert!(matches!(rows[0].steps[REVIEW], Step::Applied { .. }));
}

#[test]
fn what_comes_late_or_twice_does_not_undo_what_was_reached() {
    let mut board = board();
    take(&mut board, SEARCH, EventKind::Applied, 7);
    for kind in [EventKind::Received, EventKind::Fetched, EventKind::Ignored] {
        take(&mut board, SEARCH, kind, 7);
    }
    assert!(matches!(board.live().next().unwrap().steps[SEARCH], Step::Applied { .. }));
}

#[test]
fn retries_are_counted_and_stay_visible_until_the_end() {
    let mut board = board();
    let mut failed = event(EventKind::Retried, "42", Some(7), None);
    failed.detail = Some("timeout".into());
    board.take(SEARCH, &failed, at(0.0));
    take(&mut board, SEARCH, EventKind::Fetched, 7);
    board.take(SEARCH, &failed, at(0.0));
    let retrying = Step::Retrying { times: 2, detail: "timeout".into() };
    assert_eq!(board.live().next().unwrap().steps[SEARCH], retrying);
    take(&mut board, SEARCH, EventKind::Applied, 7);
    assert!(matches!(board.live().next().unwrap().steps[SEARCH], Step::Applied { .. }));
    assert_eq!((board.tallies[SEARCH].retried, board.tallies[SEARCH].applied), (2, 1));
}

#[test]
fn an_event_without_a_version_belongs_to_the_row_that_is_open() {
    let mut board = board();
    board.take(SEARCH, &event(EventKind::Received, "42", None, None), at(0.0));
    take(&mut board, SEARCH, EventKind::Applied, 7);
    board.take(REVIEW, &event(EventKind::Retried, "42", None, None), at(0.0));
    assert_eq!(board.live().count(), 1);
    let row = board.live().next().unwrap();
    assert_eq!(row.version.map(Version::get), Some(7));
    assert!(matches!(row.steps[REVIEW], Step::Retrying { times: 1, .. }));
}

#[test]
fn a_subscriber_that_does_not_follow_the_entity_is_not_waited_for() {
    let mut board = board();
    take(&mut board, SEARCH, EventKind::Applied, 7);
    board.set_follows(REVIEW, HashSet::new());
    assert_eq!(board.due(at(0.1))[0].steps[REVIEW], Step::NotFollowed);
}

#[test]
fn a_slow_change_is_told_twice_and_counted_once() {
    let mut board = board();
    take(&mut board, SEARCH, EventKind::Applied, 7);
    assert!(board.due(at(4.0)).is_empty());
    let rows = board.due(at(6.0));
    assert_eq!((rows.len(), rows[0].told), (1, false));
    assert!(board.due(at(7.0)).is_empty());
    assert_eq!((board.live().count(), board.under_way()), (0, 1));
    take(&mut board, REVIEW, EventKind::Applied, 7);
    let rows = board.due(at(8.0));
    assert_eq!((rows.len(), rows[0].told), (1, true));
    assert_eq!(board.changes, 1);
}

#[test]
fn a_forgotten_change_is_asked_for_where_someone_can_answer() {
    let mut board = board();
    take(&mut board, SEARCH, EventKind::Applied, 7);
    assert!(board.overdue(&[true, true], 9).is_empty());
    board.due(at(6.0));
    assert!(board.overdue(&[true, false], 9).is_empty());
    assert_eq!(board.overdue(&[true, true], 9), [(REVIEW, key("42"))]);
    board.found(REVIEW, &key("42"), Version::new(7).unwrap(), at(0.5));
    let row = &board.due(at(6.1))[0];
    assert_eq!(row.steps[REVIEW], Step::Applied { lag_ms: Some(502.0) });
}

#[test]
fn overdue_changes_take_turns() {
    let mut board = board();
    for id in ["a", "b", "c"] {
        board.take(SEARCH, &event(EventKind::Applied, id, Some(1), None), at(0.0));
    }
    board.due(at(6.0));
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.extend(board.overdue(&[true, true], 1).into_iter().map(|(_, key)| key.1.to_string()));
    }
    assert_eq!(asked, ["a", "b", "c", "a"]);
}

#[test]
fn the_board_is_bounded() {
    let mut board = board();
    for number in 0..MAX_ROWS + 5 {
        board.take(
            SEARCH,
            &event(EventKind::Received, &format!("{number}"), Some(1), None),
            at(0.0),
        );
    }
    assert_eq!(board.due(at(0.1)).len(), 5);
    assert_eq!((board.rows.len(), board.by_key.len()), (MAX_ROWS, MAX_ROWS));
    assert_eq!(board.finish().len(), MAX_ROWS);
    assert_eq!(board.changes, (MAX_ROWS + 5) as u64);
}

#[test]
fn a_name_that_never_comes_holds_nothing_up_for_long() {
    let mut board = board();
    for who in [SEARCH, REVIEW] {
        board.take(who, &event(EventKind::Applied, "42", Some(7), Some(0.001)), at(0.0));
    }
    assert!(board.due(at(0.1)).is_empty());
    assert_eq!(board.due(at(0.5)).len(), 1);
}

#[test]
fn a_deletion_is_marked_only_on_the_version_that_is_deleted() {
    let mut board = board();
    take(&mut board, SEARCH, EventKind::Received, 7);
    take(&mut board, SEARCH, EventKind::Received, 8);
    board.describe(&Description {
        key: key("42"),
        name: None,
        deleted: true,
        version: Some(Version::new(8).unwrap()),
        changed_at: Some(at(-1.0)),
    });
    let deleted: Vec<_> = board.live().map(|row| row.deleted).collect();
    assert_eq!(deleted, [false, true]);
    // The name that was known is kept for the row of the deletion.
    assert!(board.live().all(|row| row.name.is_some() || row.deleted));
}

#[test]
fn what_comes_after_a_change_was_told_is_nothing_new() {
    let mut board = board();
    for who in [SEARCH, REVIEW] {
        take(&mut board, who, EventKind::Applied, 7);
    }
    assert_eq!(board.due(at(0.1)).len(), 1);
    // Its own notification comes after its state, and an older one after both.
    for (kind, version) in
        [(EventKind::Received, 7), (EventKind::Ignored, 7), (EventKind::Received, 6)]
    {
        take(&mut board, SEARCH, kind, version);
    }
    assert_eq!(board.rows.len(), 0);
    assert_eq!(board.tallies[SEARCH].ignored, 1);
    take(&mut board, SEARCH, EventKind::Received, 8);
    assert_eq!(board.live().count(), 1);
}

#[test]
fn a_repetition_alone_is_no_change_and_does_not_stay() {
    let mut board = board();
    take(&mut board, SEARCH, EventKind::Received, 7);
    take(&mut board, SEARCH, EventKind::Ignored, 7);
    assert_eq!((board.live().count(), board.under_way()), (0, 0));
    assert!(board.due(at(2.0)).is_empty());
    assert_eq!((board.rows.len(), board.changes), (0, 0));
}

#[test]
fn a_repetition_that_turns_out_to_be_a_change_for_another_is_told() {
    let mut board = board();
    take(&mut board, SEARCH, EventKind::Ignored, 7);
    take(&mut board, REVIEW, EventKind::Applied, 7);
    let rows = board.due(at(0.1));
    assert_eq!(rows[0].steps[SEARCH], Step::Ignored);
    assert!(matches!(rows[0].steps[REVIEW], Step::Applied { .. }));
}
