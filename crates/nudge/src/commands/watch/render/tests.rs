use console::strip_ansi_codes;
use nudge_protocol::{EntityId, EntityName, Timestamp, Version};

use super::*;

const NAMES: [&str; 2] = ["search", "review"];

fn row(steps: [Step; 2]) -> Row {
    Row {
        key: (EntityName::new("store").unwrap(), EntityId::new("store-001").unwrap()),
        version: Some(Version::new(1_767_225_600_123_456).unwrap()),
        name: Some("달빛국수 망원점".into()),
        deleted: false,
        committed_at: Some(Timestamp::from_unix_micros(1_767_225_600_123_456)),
        first_seen: Timestamp::default(),
        steps: steps.to_vec(),
        described: true,
        told: false,
    }
}

fn applied(ms: f64) -> Step {
    Step::Applied { lag_ms: Some(ms) }
}

fn shown(row: &Row, width: Option<usize>) -> Vec<String> {
    let lines = lines(row, &NAMES, &Layout::new(width, &NAMES));
    lines.iter().map(|line| strip_ansi_codes(line).into_owned()).collect()
}

#[test]
fn a_change_reads_from_the_commit_to_each_subscriber() {
    let lines = shown(&row([applied(2.1), applied(1_234.0)]), None);
    assert_eq!(
        lines,
        [
            "00:00:00.123  store store-001           달빛국수 망원점               @1767225600123456  →  \
          search    2.1 ms  review     1.2 s"
        ]
    );
}

#[test]
fn a_narrow_terminal_gets_fewer_columns_and_no_wrapped_line() {
    let row = row([applied(2.1), Step::Retrying { times: 3, detail: "x".repeat(300) }]);
    for width in 20..160 {
        for line in lines(&row, &NAMES, &Layout::new(Some(width), &NAMES)) {
            assert!(measure_text_width(&line) < width, "{width}: {line}");
        }
    }
    let line = &shown(&row, Some(80))[0];
    assert!(line.starts_with("store-001") && line.contains("@…123456"), "{line}");
}

#[test]
fn from_eighty_columns_on_both_results_are_there() {
    let mut late = row([applied(2.1), Step::Received]);
    late.told = true;
    for width in 80..200 {
        let line = &shown(&late, Some(width))[0];
        assert!(line.contains("review  received"), "{width}: {line}");
    }
    assert!(shown(&late, None)[0].ends_with("review  received  (late)"));
}

#[test]
fn failures_say_why_on_a_line_of_their_own() {
    let dead = Step::DeadLetter { detail: "no such\ncolumn".into() };
    let lines = shown(&row([applied(1.0), dead]), None);
    assert!(lines[0].ends_with("review    ✗ dead"), "{lines:?}");
    assert_eq!(lines[1], "  └ review: no such column");
}

#[test]
fn a_deletion_is_told_apart() {
    let mut row = row([applied(1.0), applied(1.0)]);
    row.deleted = true;
    assert!(shown(&row, None)[0].contains("✕ deleted 달빛국수 망원점"), "{:?}", shown(&row, None));
    assert!(shown(&row, Some(80))[0].contains("✕ 달빛국수 망…"), "{:?}", shown(&row, Some(80)));
    assert_eq!(row_json(&row, &NAMES)["deleted"], true);
}

#[test]
fn json_carries_each_subscribers_state() {
    let json = row_json(&row([applied(2.1), Step::Waiting]), &NAMES);
    assert_eq!(json["subscribers"]["search"], json!({"state": "applied", "lag_ms": 2.1}));
    assert_eq!(json["subscribers"]["review"], json!({"state": "waiting"}));
    assert_eq!((&json["settled"], &json["id"]), (&json!(false), &json!("store-001")));
}

#[test]
fn the_summary_has_a_line_per_subscriber() {
    let mut board = Board::new(2);
    board.changes = 2;
    board.tallies[0].applied(Some(0.002));
    let lines = summary(&board, &NAMES, 65.0);
    assert_eq!(lines[0], "2 changes in 65.0 s");
    assert_eq!(
        lines[1],
        "          applied  p50     p99     max     had it  retried  dead letters"
    );
    assert_eq!(lines[2], "  search  1        2.0 ms  2.0 ms  2.0 ms  0       0        0");
    assert_eq!(lines[3], "  review  0        —       —       —       0       0        0");
    let json = summary_json(&board, &NAMES, 65.0);
    assert_eq!(json["subscribers"]["review"]["lag_seconds"], Value::Null);
}

#[test]
fn where_there_is_no_room_for_each_subscriber_they_are_counted() {
    const MANY: [&str; 5] = ["search", "review", "storefront", "favourites", "ads"];
    let shown = |steps: [Step; 5], width| {
        let mut row = row([Step::Waiting, Step::Waiting]);
        row.steps = steps.to_vec();
        let line = &lines(&row, &MANY, &Layout::new(width, &MANY))[0];
        strip_ansi_codes(line).into_owned()
    };
    let all = || [applied(1.0), applied(12.0), Step::NotFollowed, Step::Ignored, applied(3.0)];
    let wide = shown(all(), None);
    assert!(wide.ends_with("favourites    had it  ads    3.0 ms"), "{wide}");
    for width in 80..120 {
        let line = shown(all(), Some(width));
        assert!(line.ends_with("→  4/4  review 12.0 ms"), "{width}: {line}");
        let mut one = all();
        one[4] = Step::Fetched;
        assert!(shown(one.clone(), Some(width)).ends_with("3/4  ads waiting"), "{width}");
        one[3] = Step::Retrying { times: 2, detail: String::new() };
        assert!(shown(one.clone(), Some(width)).ends_with("2/4  favourites ↻ retry"), "{width}");
        one[0] = Step::DeadLetter { detail: String::new() };
        assert!(shown(one, Some(width)).ends_with("1/4  search ✗ dead"), "{width}");
    }
}
